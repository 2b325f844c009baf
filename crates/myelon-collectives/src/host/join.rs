//! A rank that is a process: it meets its peers, and shares windows with them.

use std::sync::{Arc, Mutex};

use myelon_meet::{Process, share_windows};

use super::all_reduce::Engine;
use super::{HostCalls, HostRank, Shape, shape};
use crate::backend::{Backend, RankBackend};
use crate::builder::Config;
use crate::error::Error;
use crate::group::Group;
use crate::record::{self, Opening};
use crate::told::Peers;
use crate::tuning_file::Tuned;

/// One rank of `config` as this process, once all its peers are there.
pub(crate) fn join(config: &Config, process: &Process) -> Result<(Box<dyn RankBackend>, Tuned), Error> {
    let (rank, ranks) = (process.rank(), process.ranks());
    // Those of the node: what this process may use may differ from rank to rank, and plans must not.
    let cores = cores_online();
    let Shape { tuned, layout, credit_batch } = shape(config, ranks, cores)?;
    let mut session = process.join(&[
        ("backend", Backend::Host.to_string()),
        ("lanes of the rings", layout.lanes().to_string()),
        ("slots of a ring", layout.capacity().to_string()),
        ("bytes of a slot", layout.slot_bytes().to_string()),
        ("slots after which credit is returned", credit_batch.to_string()),
        ("deadline", format!("{} ms", config.deadline().as_secs_f64() * 1e3)),
        ("first sequence", config.first_sequence().to_string()),
    ])?;
    let windows = share_windows(&mut session, layout, config.first_sequence(), process.limit())?;
    // Rank 0's number is that of all.
    let told = session.exchange(&record::new_communicator().to_le_bytes(), &[], process.limit())?;
    let number = told[0].bytes.as_slice().try_into().map_or(0, u64::from_le_bytes);
    let opening = Opening {
        place: &config.record,
        communicator: number,
        ranks,
        backend: Backend::Host,
        deadline: config.deadline(),
    };
    let record = record::open(&opening, [rank]).remove(0);
    let voice = session.voice();
    let group = Group::of_process(ranks, Peers { rank, voice: voice.clone() });
    let group = Arc::new(group.recorded(record.file().is_some()));
    let engine = Engine::new(rank, &windows, credit_batch, config.deadline(), group.clone(), record.clone())?;
    let hearing = group.clone();
    let watch = session.watch(voice, move |peer, event| {
        let _unknown = hearing.hear(peer, event);
    })?;
    let calls = HostCalls { rank, group, record, engine: Mutex::new(engine), last_call: Mutex::default() };
    let ring_bytes = layout.bytes() as u64;
    Ok((Box::new(HostRank { ring_bytes, cores, calls: Arc::new(calls), watch: Some(watch) }), tuned))
}

/// Processors of this node, whatever this process may use of them.
fn cores_online() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let here = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    cores_in(&online).unwrap_or_else(here)
}

/// The number of processors in a list such as `0-3,8`.
fn cores_in(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + (last + 1).checked_sub(first)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_the_list_of_the_system() {
        assert_eq!([cores_in("0-3,8\n"), cores_in("0"), cores_in("0-1")], [Some(5), Some(1), Some(2)]);
        assert_eq!([cores_in(""), cores_in("3-1"), cores_in("a")], [None; 3]);
        assert!(cores_online() > 0);
    }
}
