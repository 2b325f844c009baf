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

/// Warns that `rank` has waited long for its calls up to `number`, which `peer` has not even made. What the GPUs wait
/// for is not known until they give up.
pub(crate) fn warn_uncalled(
    rank: usize,
    number: u64,
    peer: usize,
    peer_made: u64,
    waited: Duration,
    deadline: Duration,
) {
    tracing::warn!(
        rank,
        peer,
        number,
        peer_made,
        waited_us = waited.as_micros() as u64,
        deadline_us = deadline.as_micros() as u64,
        "a call is late: rank {rank} waits since {:.1} s for calls up to {number}, of which rank {peer} has made \
         {peer_made}",
        waited.as_secs_f64()
    );
}
