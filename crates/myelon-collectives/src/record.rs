//! What each rank records of its calls, for `myelon top` and `myelon doctor`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use myelon_lanes::Algorithm;
use myelon_recorder::{About, ErrorCode, Folder, Late, RecordError, Recorder, Row, Waits};

use crate::backend::{Backend, Call};
use crate::error::{Error, ErrorKind};
use crate::memory::Region;

/// Where ranks record their last calls, for `myelon top` and `myelon doctor` to read.
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator, RecordPlace};
///
/// let builder = Communicator::builder().backend(Backend::Host).ranks(2);
/// let ranks = builder.clone().build()?;
/// if let Some(file) = ranks[0].record_file() {
///     println!("rank 0 records in {}", file.display());
/// }
/// let ranks = builder.record(RecordPlace::None).build()?;
/// assert_eq!(ranks[0].record_file(), None);
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordPlace {
    /// A private folder of the user's: `myelon` in `$XDG_RUNTIME_DIR`, else `myelon-<user number>` in the folder for
    /// temporary files. Where it can't be had, a warning says why, and calls are recorded in plain memory.
    #[default]
    Usual,
    /// Nothing is recorded.
    None,
    /// This folder, made if the folder around it is there; else as above.
    Folder(PathBuf),
}

impl<P: Into<PathBuf>> From<P> for RecordPlace {
    fn from(path: P) -> Self {
        Self::Folder(path.into())
    }
}

impl RecordPlace {
    /// The folder; none where nothing is recorded.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Usual => Some(Folder::usual_path()),
            Self::None => None,
            Self::Folder(path) => Some(path.clone()),
        }
    }
}

/// How long a wait takes before it is late: a tenth of its deadline, but at least a second.
pub(crate) fn late_after(deadline: Duration) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    (deadline / 10).max(LEAST)
}

/// A number for a new communicator, which no other one has.
pub(crate) fn new_communicator() -> u64 {
    // Seeded by the system, as the standard library's hash tables are.
    RandomState::new().build_hasher().finish()
}

/// A number for a new stream, which no other one of this process has.
pub(crate) fn new_stream() -> u64 {
    static STREAMS: AtomicU64 = AtomicU64::new(1);
    // ORDER: Relaxed is enough. The numbers only have to differ.
    STREAMS.fetch_add(1, Ordering::Relaxed)
}

/// What those of a communicator's ranks have in common that this process opens.
pub(crate) struct Opening<'a> {
    pub place: &'a RecordPlace,
    /// The same number in all processes that have a rank of it.
    pub communicator: u64,
    /// Of the whole communicator.
    pub ranks: usize,
    pub backend: Backend,
    pub deadline: Duration,
}

/// The records of `own`, ranks of this process, in that order. Never fails: what can't be had is done without.
pub(crate) fn open(opening: &Opening<'_>, own: impl IntoIterator<Item = usize>) -> Vec<Arc<RankRecord>> {
    static COMMUNICATORS: AtomicU64 = AtomicU64::new(1);
    let &Opening { place, communicator, ranks, backend, deadline } = opening;
    let late_after = late_after(deadline);
    let Some(path) = place.path() else {
        return own.into_iter().map(|_| Arc::new(RankRecord { recorder: None, late_after })).collect();
    };
    let folder = Folder::create(&path).and_then(|folder| {
        let cleared = folder.clear()?;
        if cleared > 0 {
            tracing::debug!(cleared, folder = %path.display(), "old records are cleared");
        }
        Ok(folder)
    });
    // ORDER: Relaxed is enough. The numbers only have to differ.
    let number = COMMUNICATORS.fetch_add(1, Ordering::Relaxed);
    let backend = match backend {
        Backend::Cuda => myelon_recorder::Backend::Cuda,
        Backend::Host | Backend::Auto => myelon_recorder::Backend::Host,
    };
    let warn = |error: &RecordError| {
        tracing::warn!(%error, "calls are recorded in plain memory: 'myelon top' and 'myelon doctor' do not see them");
    };
    if let Err(error) = &folder {
        warn(error);
    }
    let open = |rank| {
        let about = About { communicator, number, rank, ranks, backend, deadline, late_after };
        let filed = folder.as_ref().ok().map(|folder| Recorder::in_folder(folder, &about));
        let recorder = match filed {
            Some(Ok(recorder)) => recorder,
            Some(Err(error)) => {
                warn(&error);
                Recorder::in_memory(&about)
            }
            None => Recorder::in_memory(&about),
        };
        Arc::new(RankRecord { recorder: Some(recorder), late_after })
    };
    own.into_iter().map(open).collect()
}

/// What one rank records; nothing where that was not wanted.
pub(crate) struct RankRecord {
    recorder: Option<Recorder>,
    late_after: Duration,
}

impl RankRecord {
    /// How long a wait takes before it is late.
    pub fn late_after(&self) -> Duration {
        self.late_after
    }

    /// Where other programs see it.
    pub fn file(&self) -> Option<&Path> {
        self.recorder.as_ref().and_then(Recorder::file)
    }

    /// Calls are made: those of `row`. Returns when, or nothing.
    pub fn made(&self, row: Row) -> u64 {
        self.recorder.as_ref().map_or(0, |recorder| recorder.made(row))
    }

    /// A call is begun, which may follow the last one with nothing in between.
    pub fn start(&self, row: Row, follows: bool) {
        if let Some(recorder) = &self.recorder {
            recorder.start(row, follows);
        }
    }

    /// It has waited so much more.
    pub fn waited(&self, waits: &Waits) {
        if let Some(recorder) = &self.recorder {
            recorder.waited(waits);
        }
    }

    /// It waits for so long that it is late.
    pub fn late(&self, late: Late) {
        if let Some(recorder) = &self.recorder {
            recorder.late(late);
        }
    }

    /// It is complete, and has waited so much more.
    pub fn done(&self, waits: &Waits) {
        if let Some(recorder) = &self.recorder {
            recorder.done(waits);
        }
    }

    /// The first `number` calls are complete.
    pub fn done_to(&self, number: u64) {
        if let Some(recorder) = &self.recorder {
            recorder.done_to(number);
        }
    }

    /// Calls that are recorded as complete; all there may be, where nothing is recorded.
    pub fn calls_done(&self) -> u64 {
        self.recorder.as_ref().map_or(u64::MAX, Recorder::calls_done)
    }

    /// All calls up to now have waited so much.
    pub fn waited_in_all(&self, waits: &Waits) {
        if let Some(recorder) = &self.recorder {
            recorder.waited_in_all(waits);
        }
    }

    /// The communicator has failed, and with it the call that `was_begun`, if one was.
    pub fn failed(&self, error: &Error, was_begun: bool) {
        if let Some(recorder) = &self.recorder {
            let code = match error.first().kind() {
                ErrorKind::Stalled => ErrorCode::Stalled,
                ErrorKind::Disagreement => ErrorCode::Disagreement,
                ErrorKind::PeerGone | ErrorKind::PeerDead => ErrorCode::PeerGone,
                ErrorKind::Protocol => ErrorCode::Protocol,
                _ => ErrorCode::Other,
            };
            if was_begun {
                recorder.failed(code, &error.to_string());
            } else {
                recorder.refused(code, &error.to_string());
            }
        }
    }

    /// The rank is dropped; its file stays where the communicator has failed.
    pub fn close(&self, has_failed: bool) {
        if let Some(recorder) = &self.recorder {
            recorder.close(has_failed);
        }
    }
}

/// What is recorded of `call` on stream `stream`, but for its number.
pub(crate) fn row(call: &Call, input: &Region, output: &Region, stream: u64) -> Row {
    let plan = &call.choice.plan;
    let algorithm = Algorithm::ALL.iter().position(|&known| known == plan.algorithm);
    Row {
        calls: 1,
        call: call.word.bits(),
        flags: if input.addresses() == output.addresses() { Row::IN_PLACE } else { 0 },
        algorithm: algorithm.expect("every algorithm is in the list") as u32,
        lanes: plan.lanes,
        slots: plan.slots,
        piece_bytes: plan.piece_bytes,
        blocks: plan.blocks,
        stream,
        bytes: input.bytes() as u64,
        ..Row::default()
    }
}

/// Adds a call to those of a graph.
pub(crate) fn join(graph: &mut Row, call: &Row) {
    if graph.calls == 0 {
        *graph = Row { flags: call.flags | Row::GRAPH, ..*call };
    } else {
        graph.calls += 1;
        graph.bytes += call.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_a_tenth_of_the_deadline_but_at_least_a_second() {
        let seconds = |deadline| late_after(Duration::from_secs(deadline)).as_secs();
        assert_eq!([1, 10, 30, 600].map(seconds), [1, 1, 3, 60]);
    }

    #[test]
    fn communicators_and_streams_are_told_apart() {
        assert_ne!(new_communicator(), new_communicator());
        assert_ne!(new_stream(), new_stream());
    }

    #[test]
    fn a_graph_is_its_calls_together() {
        let mut graph = Row::default();
        for (call, bytes) in [(5, 10), (6, 30)] {
            join(&mut graph, &Row { calls: 1, call, bytes, ..Row::default() });
        }
        assert_eq!((graph.calls, graph.call, graph.bytes, graph.flags), (2, 5, 40, Row::GRAPH));
    }
}
