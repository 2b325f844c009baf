//! The warning that a call waits long, well before it becomes an error.
//!
//! A module of its own, so that a program can ask for these events alone: their target is
//! `myelon_collectives::late`.

use std::time::Duration;

use myelon_ring::words::WaitingFor;

use crate::call::CallWord;
use crate::error::waiting_name;

/// For whom a rank waits, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    pub peer: usize,
    pub lane: usize,
    pub waiting_for: WaitingFor,
    pub needed: u64,
    pub seen: u64,
}

/// What is said behind the name of an event where others can see what ranks recorded.
pub(crate) const DOCTOR: &str = "'myelon doctor' shows what every rank did last";

/// Warns that `rank`, in its call number `number`, has waited long for a peer.
pub(crate) fn warn(
    rank: usize,
    number: u64,
    call: CallWord,
    awaited: &Awaited,
    waited: Duration,
    deadline: Duration,
) {
    let Awaited { peer, lane, waiting_for, needed, seen } = *awaited;
    tracing::warn!(
        rank,
        peer,
        number,
        %call,
        lane,
        waiting_for = waiting_name(waiting_for),
        needed,
        seen,
        waited_us = waited.as_micros() as u64,
        deadline_us = deadline.as_micros() as u64,
        "a call is late: rank {rank} waits for rank {peer} since {:.1} s and gives up after {:.1} s",
        waited.as_secs_f64(),
        deadline.as_secs_f64()
    );
}
