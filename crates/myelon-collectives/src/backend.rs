//! Which backends there are, and what one must do to be one.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use myelon_kernel::{Device, DeviceStream};
use myelon_lanes::Choice;

use crate::call::CallWord;
use crate::communicator::Launch;
use crate::dtype::{DataType, by_name};
use crate::error::Error;
use crate::memory::Region;
use crate::op::ReduceOp;
use crate::record::RankRecord;
use crate::stream::Stream;
use crate::tuning_file::Tuned;

/// Where the ranks are: a program picks by this value and is otherwise the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// CUDA where it can be used, else the host; [`crate::Communicator::backend_reason`] says why.
    #[default]
    Auto,
    /// Threads of this process, with host memory.
    Host,
    /// GPUs that reach each other's memory.
    Cuda,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Host, Self::Cuda];

    /// The name in commands, settings and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        by_name("backend", text, &Self::ALL, Self::name)
    }
}

/// Where memory, a stream or a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub backend: Backend,
    /// The CUDA device, or the rank on the host; none for host memory that somebody else owns.
    pub device: Option<usize>,
}

impl Place {
    /// Refuses a `what` that is at `seen` where it is needed here.
    pub fn check(self, what: &'static str, seen: Place) -> Result<(), Error> {
        if self.backend != seen.backend {
            return Err(Error::WrongBackend { what, needed: self.backend, seen: seen.backend });
        }
        match (self.device, seen.device) {
            (Some(needed), Some(seen)) if needed != seen => Err(Error::WrongDevice { what, needed, seen }),
            _ => Ok(()),
        }
    }
}

/// The ranks of a communicator, as a backend made them.
pub(crate) struct Opened {
    /// In rank order.
    pub ranks: Vec<Box<dyn RankBackend>>,
    /// What plans their calls.
    pub tuned: Tuned,
}

/// A call whose arguments have been checked.
pub(crate) struct Call {
    pub word: CallWord,
    pub dtype: DataType,
    pub op: ReduceOp,
    pub choice: Choice,
}

/// One rank of a backend. Dropping it ends what its peers can't finish without it, and never blocks.
pub(crate) trait RankBackend: Send {
    fn place(&self) -> Place;
    fn device_name(&self) -> String;
    /// Bytes of this rank's window.
    fn ring_bytes(&self) -> u64;
    /// The error that poisoned the communicator.
    fn first_error(&self) -> Option<Error>;
    /// Zeroed memory of this rank, which starts on at least 16 bytes.
    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Memory>, Error>;
    fn new_stream(&self) -> Result<Arc<dyn Queue>, Error>;
    /// Enqueues `call`, behind this communicator's calls on other streams too, or records it where the stream
    /// is captured. Input and output are whole
    /// elements of the same number, of this place, and equal or apart; so is the stream.
    fn all_reduce(
        &mut self,
        call: &Call,
        input: &Region,
        output: &Region,
        stream: &Stream,
    ) -> Result<Launch, Error>;
    /// What it records.
    fn record(&self) -> &RankRecord;
    /// Makes the rank's next registration: of `region`, which is of this place. Returns the region that is registered,
    /// and what comes of it. Waits for no peer's registration.
    fn register(&self, region: &Region) -> Result<(Region, Arc<dyn Agreement>), Error>;
    /// Whether one of `regions` was registered with this communicator and has to be staged. Waits for the agreement.
    fn is_staged(&self, regions: [&Region; 2]) -> Result<bool, Error>;
    /// The GPU; none on the host.
    fn device(&self) -> Option<&Device>;
    /// A CUDA stream of somebody else, which is of this rank's GPU.
    fn adopt_stream(&self, stream: DeviceStream) -> Arc<dyn Queue>;
}

/// What ranks agree on when they register memory.
pub(crate) trait Agreement: Send + Sync {
    /// Waits for it: nothing where all ranks reach it, or why they do not.
    fn settle(&self) -> Result<Option<String>, Error>;
}

/// Memory of a backend.
pub(crate) trait Memory: Any + Send + Sync {
    fn place(&self) -> Place;
    /// Where it starts, so that overlaps can be told.
    fn address(&self) -> u64;
    /// Writes at `start` after earlier work on `queue`, and waits for it.
    fn write(&self, queue: &dyn Queue, start: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Reads from `start` on after earlier work on `queue`, and waits for it.
    fn read(&self, queue: &dyn Queue, start: usize, bytes: &mut [u8]) -> Result<(), Error>;
    /// Enqueues the setting of `bytes` bytes at `start`, or records it where `queue` is captured. The memory
    /// lives until that is done, or as long as the graph.
    fn fill(self: Arc<Self>, queue: &dyn Queue, start: usize, bytes: usize, byte: u8) -> Result<(), Error>;
}

/// A stream of a backend. While it is captured, all but [`Queue::place`] is refused.
pub(crate) trait Queue: Any + Send + Sync {
    fn place(&self) -> Place;
    /// From now on calls are recorded, until what this returns is ended or dropped, on the same thread.
    fn begin_capture(&self) -> Result<Box<dyn Recording + '_>, Error>;
    fn synchronize(&self) -> Result<(), Error>;
    fn mark(&self) -> Result<Arc<dyn Moment>, Error>;
    fn host_task(&self, task: Box<dyn FnOnce() + Send>) -> Result<(), Error>;
}

/// A capture under way; dropping it forgets what was recorded.
pub(crate) trait Recording {
    fn end(self: Box<Self>) -> Result<Box<dyn Replay>, Error>;
}

/// What was recorded. Dropping it never blocks, and takes nothing from launches that are not done.
pub(crate) trait Replay: Send + Sync {
    fn place(&self) -> Place;
    /// Calls that a launch makes.
    fn calls(&self) -> u64;
    /// The error that poisoned the communicator.
    fn first_error(&self) -> Option<Error>;
    /// Enqueues it on `queue`, which is of this place, behind the communicator's calls on other streams too.
    fn launch(&self, queue: &dyn Queue) -> Result<(), Error>;
}

/// A point in a stream of a backend.
pub(crate) trait Moment: Any + Send + Sync {
    fn place(&self) -> Place;
    /// From `earlier`, which is of the same backend, to here. Waits for both points.
    fn elapsed_us(&self, earlier: &dyn Moment) -> Result<f64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_and_memory_of_no_rank_suits_every_rank() {
        let place = |backend, device| Place { backend, device };
        let here = place(Backend::Host, Some(1));
        assert_eq!(here.check("input", here), Ok(()));
        assert_eq!(here.check("input", place(Backend::Host, None)), Ok(()));
        let error = here.check("input", place(Backend::Host, Some(2)));
        assert_eq!(error, Err(Error::WrongDevice { what: "input", needed: 1, seen: 2 }));
        let error = here.check("stream", place(Backend::Cuda, Some(1)));
        let (needed, seen) = (Backend::Host, Backend::Cuda);
        assert_eq!(error, Err(Error::WrongBackend { what: "stream", needed, seen }));
    }

    #[test]
    fn names_round_trip() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>(), Ok(backend));
        }
        assert!("gpu".parse::<Backend>().unwrap_err().to_string().contains("auto, host, cuda"));
    }
}
