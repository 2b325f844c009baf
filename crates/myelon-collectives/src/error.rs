//! What can go wrong, with the fields that say why.

use std::ops::Range;
use std::sync::Arc;

use myelon_lanes::PlanError;
use myelon_meet::MeetError;
use myelon_ring::RingError;
use myelon_ring::words::WaitingFor;

use crate::backend::Backend;
use crate::call::CallWord;

/// An error of this crate: fields to read, and a [`ErrorKind`] to branch on.
///
/// Errors that a method returns were found before anything was written, unless they came from
/// [`crate::Stream::synchronize`], [`crate::Buffer::read`] or another wait: those report a call that was
/// enqueued before and failed on its way.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The GPU's driver can't be used.
    #[error("no usable CUDA driver: {probe}: {reason}")]
    NoDriver {
        /// What was tried.
        probe: String,
        /// What came of it.
        reason: String,
    },
    /// There are fewer devices than ranks, or a device that was named does not exist.
    #[error("needed {needed}, saw {seen}")]
    NoDevice {
        /// The devices that were asked for.
        needed: String,
        /// The devices that are there.
        seen: String,
    },
    /// A device can't reach the memory of another.
    #[error("device {device} has no access to the memory of device {peer}: {reason}")]
    NoPeerAccess {
        /// The device that would write.
        device: usize,
        /// The device whose memory it is.
        peer: usize,
        /// What the driver said.
        reason: String,
    },
    /// The blocks of a plan can't all run at the same time, so they could wait for each other for ever.
    #[error(
        "the plan needs {blocks_needed} blocks at once on device {device}, which holds {blocks_resident}"
    )]
    NotResident {
        /// The device.
        device: usize,
        /// Blocks of the plan.
        blocks_needed: u32,
        /// Blocks that fit together.
        blocks_resident: u32,
    },
    /// An argument is out of range. Nothing has been enqueued.
    #[error("{what}: needed {needed}, saw {seen}")]
    InvalidArgument {
        /// Which argument.
        what: String,
        /// What is allowed.
        needed: String,
        /// What was given.
        seen: String,
    },
    /// The backend or the operation does not do this. Nothing has been enqueued.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not, or what would do.
        reason: String,
    },
    /// Input and output overlap in part. Nothing has been enqueued.
    #[error(
        "input {:#x}..{:#x} and output {:#x}..{:#x} overlap in part; they must be equal or apart",
        input.start, input.end, output.start, output.end
    )]
    Overlap {
        /// Addresses of the input.
        input: Range<u64>,
        /// Addresses of the output.
        output: Range<u64>,
    },
    /// Memory or a stream of another rank's device. On the host backend a rank is a device.
    /// Nothing has been enqueued.
    #[error("the {what} is of device {seen}, needed one of device {needed}")]
    WrongDevice {
        /// `input`, `output`, `stream` or `mark`.
        what: &'static str,
        /// The device that was called.
        needed: usize,
        /// The device that the thing is of.
        seen: usize,
    },
    /// Memory, a stream or a mark of the other backend. Nothing has been enqueued.
    #[error("the {what} is of the {seen} backend, needed one of the {needed} backend")]
    WrongBackend {
        /// `input`, `output`, `stream` or `mark`.
        what: &'static str,
        /// The backend that was called.
        needed: Backend,
        /// The backend that the thing is of.
        seen: Backend,
    },
    /// More elements than a call can name. Nothing has been enqueued.
    #[error("a call moves at most {count_max} elements, not {count}")]
    CountTooLarge {
        /// What was asked for.
        count: u64,
        /// [`crate::COUNT_MAX`].
        count_max: u64,
    },
    /// An environment name starts with `MYELON_` and means nothing.
    #[error("unknown setting {name}; known: {known}")]
    UnknownSetting {
        /// The name.
        name: String,
        /// Every name that is known, with commas.
        known: String,
    },
    /// A setting whose text means nothing.
    #[error("setting {name}: needed {needed}, saw \"{seen}\"")]
    Setting {
        /// The name.
        name: String,
        /// What is allowed.
        needed: String,
        /// What was seen.
        seen: String,
    },
    /// A tuning file that was named, and that cannot be followed. Nothing has been allocated.
    #[error(
        "the tuning file {path} cannot be taken: {reason}; measure again with 'myelon tune', \
         or do without by MYELON_TUNING=none"
    )]
    TuningFile {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Two ranks made different calls. Buffers are unspecified; the communicator is poisoned.
    #[error("rank {rank} calls {call}{}, but rank {peer} calls {peer_call}{}",
        plan_note(*call, *peer_call), plan_note(*peer_call, *call))]
    Disagreement {
        /// The rank that found out.
        rank: usize,
        /// The rank that calls something else.
        peer: usize,
        /// The lane in which it was found.
        lane: usize,
        /// What `rank` calls.
        call: CallWord,
        /// What `peer` calls.
        peer_call: CallWord,
    },
    /// Two ranks made different registrations: in another order, or of other memory. Nothing has been enqueued.
    #[error(
        "rank {rank} registers {bytes} bytes as its number {number}, but rank {peer} registers {peer_bytes} bytes"
    )]
    RegistrationsDiffer {
        /// The number of the registration, from 0.
        number: u64,
        /// A rank.
        rank: usize,
        /// What it registers.
        bytes: u64,
        /// A rank that registers something else.
        peer: usize,
        /// What that one registers.
        peer_bytes: u64,
    },
    /// `rank` has made a registration that `peer` has not made. Nothing has been enqueued, and the communicator is as it
    /// was: the registration may still be made.
    #[error(
        "rank {rank} waited {waited_us} us for registration {number} of rank {peer}{}",
        if *is_dropped { ", which was dropped" } else { ", which has not made it" }
    )]
    Unregistered {
        /// The rank that waited.
        rank: usize,
        /// The rank it waited for.
        peer: usize,
        /// The number of the registration, from 0.
        number: u64,
        /// How long it waited, in microseconds.
        waited_us: u64,
        /// Whether `peer` was dropped, so that it never will.
        is_dropped: bool,
    },
    /// `rank` gave up waiting for `peer`. Buffers are unspecified; the communicator is poisoned.
    #[error(
        "rank {rank} waited {waited_us} us for rank {peer} in {call}: lane {lane}, {}: needed {needed}, saw {seen}",
        waiting_name(*waiting_for)
    )]
    Stalled {
        /// The rank that gave up.
        rank: usize,
        /// The rank it waited for.
        peer: usize,
        /// The lane in which it waited.
        lane: usize,
        /// What it waited for.
        waiting_for: WaitingFor,
        /// The sequence, or gating, that it needed to see.
        needed: u64,
        /// The sequence, or gating, that it saw last.
        seen: u64,
        /// How long it waited, in microseconds.
        waited_us: u64,
        /// What `rank` calls.
        call: CallWord,
    },
    /// `rank` has made a call that needs `peer`, but `peer` was dropped before it completed that call.
    /// Buffers are unspecified; the communicator is poisoned.
    #[error("rank {rank} has made {calls} calls, but rank {peer} was dropped after it completed {completed}")]
    PeerGone {
        /// A rank that made the call; `peer` itself if no other did.
        rank: usize,
        /// The rank that was dropped.
        peer: usize,
        /// Calls that `rank` has made.
        calls: u64,
        /// Calls that `peer` had completed.
        completed: u64,
    },
    /// The process of `peer` ended without dropping its communicator: it was killed, it crashed, or it just left.
    /// Buffers are unspecified; the communicator is poisoned.
    #[error("rank {rank} lost rank {peer}: its process is dead ({reason})")]
    PeerDead {
        /// The rank that saw it.
        rank: usize,
        /// The rank that is dead.
        peer: usize,
        /// How it was seen.
        reason: String,
    },
    /// A rank in another process failed in a way that only it can tell apart. Buffers are unspecified; the
    /// communicator is poisoned.
    #[error("rank {peer} failed: {message}")]
    PeerFailed {
        /// The rank that failed.
        peer: usize,
        /// Its error.
        message: String,
    },
    /// A word of a ring is beyond what the protocol allows: memory was overwritten. Buffers are
    /// unspecified; the communicator is poisoned.
    #[error("rank {rank}, peer {peer}, lane {lane}, {}: needed {needed}, saw {seen}, which nobody writes",
        waiting_name(*waiting_for))]
    Protocol {
        /// The rank that saw it.
        rank: usize,
        /// The rank that writes the word.
        peer: usize,
        /// The lane.
        lane: usize,
        /// Which word.
        waiting_for: WaitingFor,
        /// The sequence, or gating, that could be expected.
        needed: u64,
        /// What was seen.
        seen: u64,
    },
    /// An earlier call failed, so that the ranks no longer stand at the same place. Make a new
    /// communicator. Nothing has been enqueued.
    #[error("the communicator is poisoned by its first error: {first}")]
    Poisoned {
        /// The first error.
        #[source]
        first: Arc<Error>,
    },
    /// A capture of this thread or of the stream is under way, and this can't be part of it. Nothing has been
    /// enqueued or recorded.
    #[error("a capture is under way: {what} can't be part of it")]
    Capturing {
        /// What was asked for.
        what: &'static str,
    },
    /// Memory or a thread that the system did not give.
    #[error("the system did not give {what}: {reason}")]
    OutOfMemory {
        /// What was asked for.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// A task that was given to a stream panicked.
    #[error("a task on the stream panicked: {message}")]
    Task {
        /// What the panic said.
        message: String,
    },
    /// A call of the driver failed.
    #[error("{call}: {reason}")]
    Driver {
        /// The call.
        call: String,
        /// What the driver said.
        reason: String,
    },
    /// The ranks that are processes did not come together. Nothing of what was begun is left.
    #[error(transparent)]
    Meeting(#[from] MeetError),
    /// The rings can't be made so.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is no such plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What kind an [`Error`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::NoDriver`].
    NoDriver,
    /// [`Error::NoDevice`].
    NoDevice,
    /// [`Error::NoPeerAccess`].
    NoPeerAccess,
    /// [`Error::NotResident`].
    NotResident,
    /// [`Error::InvalidArgument`], [`Error::Ring`] and [`Error::Plan`].
    InvalidArgument,
    /// [`Error::Unsupported`].
    Unsupported,
    /// [`Error::Overlap`].
    Overlap,
    /// [`Error::WrongDevice`].
    WrongDevice,
    /// [`Error::WrongBackend`].
    WrongBackend,
    /// [`Error::CountTooLarge`].
    CountTooLarge,
    /// [`Error::UnknownSetting`], [`Error::Setting`], [`Error::TuningFile`], and [`Error::Meeting`] where the
    /// environment says no rank, or one that can't be.
    Settings,
    /// [`Error::Disagreement`] and [`Error::RegistrationsDiffer`].
    Disagreement,
    /// [`Error::Stalled`], and [`Error::Unregistered`] of a rank that may still register.
    Stalled,
    /// [`Error::PeerGone`], and [`Error::Unregistered`] of a rank that was dropped.
    PeerGone,
    /// [`Error::PeerDead`], and [`Error::Meeting`] where a peer died in it.
    PeerDead,
    /// [`Error::PeerFailed`].
    PeerFailed,
    /// [`Error::Meeting`] in all other cases but those of [`ErrorKind::Settings`].
    Meeting,
    /// [`Error::Protocol`].
    Protocol,
    /// [`Error::Poisoned`].
    Poisoned,
    /// [`Error::Capturing`].
    Capturing,
    /// [`Error::OutOfMemory`].
    OutOfMemory,
    /// [`Error::Task`].
    Task,
    /// [`Error::Driver`].
    Driver,
}

impl Error {
    /// What kind of error this is.
    ///
    /// ```
    /// use myelon_collectives::{Communicator, ErrorKind};
    ///
    /// let error = Communicator::builder().ranks(9).build().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDriver { .. } => ErrorKind::NoDriver,
            Self::NoDevice { .. } => ErrorKind::NoDevice,
            Self::NoPeerAccess { .. } => ErrorKind::NoPeerAccess,
            Self::NotResident { .. } => ErrorKind::NotResident,
            Self::InvalidArgument { .. } | Self::Ring(_) | Self::Plan(_) => ErrorKind::InvalidArgument,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Overlap { .. } => ErrorKind::Overlap,
            Self::WrongDevice { .. } => ErrorKind::WrongDevice,
            Self::WrongBackend { .. } => ErrorKind::WrongBackend,
            Self::CountTooLarge { .. } => ErrorKind::CountTooLarge,
            Self::UnknownSetting { .. } | Self::Setting { .. } | Self::TuningFile { .. } => {
                ErrorKind::Settings
            }
            Self::Disagreement { .. } | Self::RegistrationsDiffer { .. } => ErrorKind::Disagreement,
            Self::Stalled { .. } | Self::Unregistered { is_dropped: false, .. } => ErrorKind::Stalled,
            Self::PeerGone { .. } | Self::Unregistered { .. } => ErrorKind::PeerGone,
            Self::PeerDead { .. } => ErrorKind::PeerDead,
            Self::PeerFailed { .. } => ErrorKind::PeerFailed,
            Self::Meeting(error) => match error {
                MeetError::Setting { .. } | MeetError::NoRank { .. } | MeetError::ManyNodes { .. } => {
                    ErrorKind::Settings
                }
                MeetError::Dead { .. } => ErrorKind::PeerDead,
                _ => ErrorKind::Meeting,
            },
            Self::Protocol { .. } => ErrorKind::Protocol,
            Self::Poisoned { .. } => ErrorKind::Poisoned,
            Self::Capturing { .. } => ErrorKind::Capturing,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Task { .. } => ErrorKind::Task,
            Self::Driver { .. } => ErrorKind::Driver,
        }
    }

    /// The first error of a poisoned communicator; any other error itself.
    pub fn first(&self) -> &Error {
        match self {
            Self::Poisoned { first } => first,
            other => other,
        }
    }

    pub(crate) fn invalid(
        what: impl Into<String>,
        needed: impl Into<String>,
        seen: impl std::fmt::Display,
    ) -> Self {
        Self::InvalidArgument { what: what.into(), needed: needed.into(), seen: seen.to_string() }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it did not say why".into())
}

/// Names the plan of a call, where nothing else tells it from the other one.
fn plan_note(call: CallWord, other: CallWord) -> String {
    if call.to_string() == other.to_string() {
        format!(" with plan {:#x}", call.plan())
    } else {
        String::new()
    }
}

pub(crate) fn waiting_name(waiting_for: WaitingFor) -> &'static str {
    match waiting_for {
        WaitingFor::ScatterSlot => "slot of the scatter",
        WaitingFor::ScatterCredit => "credit of the scatter",
        WaitingFor::GatherSlot => "slot of the gather",
        WaitingFor::GatherCredit => "credit of the gather",
        WaitingFor::Packet => "a packet of the payload",
        WaitingFor::SumPacket => "a packet of the sum",
        WaitingFor::Start => "the start",
        WaitingFor::End => "the end",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DataType;
    use crate::op::ReduceOp;

    fn word(count: u64, plan: u64) -> CallWord {
        CallWord::all_reduce(DataType::F32, ReduceOp::Sum, count, plan).unwrap()
    }

    #[test]
    fn a_stall_names_who_waited_for_whom_and_for_what() {
        let stalled = Error::Stalled {
            rank: 2,
            peer: 5,
            lane: 1,
            waiting_for: WaitingFor::ScatterSlot,
            needed: 9,
            seen: 8,
            waited_us: 50_000,
            call: word(7, 0),
        };
        assert_eq!(
            stalled.to_string(),
            "rank 2 waited 50000 us for rank 5 in all_reduce f32 sum count=7: \
             lane 1, slot of the scatter: needed 9, saw 8"
        );
        let poisoned = Error::Poisoned { first: Arc::new(stalled.clone()) };
        assert_eq!((poisoned.kind(), poisoned.first()), (ErrorKind::Poisoned, &stalled));
        assert!(poisoned.to_string().contains("rank 2 waited 50000 us for rank 5"));
    }

    #[test]
    fn a_disagreement_names_both_calls_and_the_plan_only_where_it_is_all_that_differs() {
        let error =
            |call, peer_call| Error::Disagreement { rank: 0, peer: 1, lane: 0, call, peer_call }.to_string();
        assert_eq!(
            error(word(7, 1), word(8, 2)),
            "rank 0 calls all_reduce f32 sum count=7, but rank 1 calls all_reduce f32 sum count=8"
        );
        assert_eq!(
            error(word(7, 1), word(7, 2)),
            "rank 0 calls all_reduce f32 sum count=7 with plan 0x1, \
             but rank 1 calls all_reduce f32 sum count=7 with plan 0x2"
        );
    }
}
