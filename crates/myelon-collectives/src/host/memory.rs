//! Memory of the host backend.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use myelon_ring::{AlignedBytes, ForeignBytes};

use super::graph::Step;
use super::queue::{HostQueue, lock};
use crate::backend::{Backend, Memory, Place, Queue};
use crate::error::Error;
use crate::memory::Region;

/// Bytes that a rank owns, or somebody else.
///
/// The lock is held for one copy at a time, so calls whose regions share memory do not wait for each other.
pub(crate) struct HostMemory {
    place: Place,
    address: u64,
    bytes: Mutex<Bytes>,
}

enum Bytes {
    Ours(AlignedBytes),
    Theirs(ForeignBytes),
}

impl HostMemory {
    /// `bytes` zero bytes of `rank`.
    pub fn zeroed(rank: usize, bytes: usize) -> Result<Self, Error> {
        let ours = AlignedBytes::zeroed(bytes).map_err(|error| Error::OutOfMemory {
            what: format!("{bytes} bytes for rank {rank}"),
            reason: error.to_string(),
        })?;
        let address = ours.as_ptr().addr() as u64;
        Ok(Self::new(Some(rank), address, Bytes::Ours(ours)))
    }

    /// Memory that belongs to no rank.
    pub fn foreign(theirs: ForeignBytes) -> Self {
        let address = theirs.as_ptr().addr() as u64;
        Self::new(None, address, Bytes::Theirs(theirs))
    }

    fn new(device: Option<usize>, address: u64, bytes: Bytes) -> Self {
        Self { place: Place { backend: Backend::Host, device }, address, bytes: Mutex::new(bytes) }
    }

    fn with<R>(&self, range: Range<usize>, work: impl FnOnce(&mut [u8]) -> R) -> R {
        match &mut *lock(&self.bytes) {
            Bytes::Ours(bytes) => work(&mut bytes[range]),
            Bytes::Theirs(bytes) => work(&mut bytes[range]),
        }
    }
}

impl Memory for HostMemory {
    fn place(&self) -> Place {
        self.place
    }

    fn address(&self) -> u64 {
        self.address
    }

    fn write(&self, queue: &dyn Queue, start: usize, bytes: &[u8]) -> Result<(), Error> {
        queue.synchronize()?;
        self.with(start..start + bytes.len(), |ours| ours.copy_from_slice(bytes));
        Ok(())
    }

    fn read(&self, queue: &dyn Queue, start: usize, bytes: &mut [u8]) -> Result<(), Error> {
        queue.synchronize()?;
        self.with(start..start + bytes.len(), |ours| bytes.copy_from_slice(ours));
        Ok(())
    }

    fn fill(self: Arc<Self>, queue: &dyn Queue, start: usize, bytes: usize, byte: u8) -> Result<(), Error> {
        let queue: &dyn Any = queue;
        let queue: &HostQueue = queue.downcast_ref().expect("`Region` has checked the backend");
        let fill = Fill { span: HostSpan { memory: self, start }, bytes, byte };
        match &mut *queue.recorded() {
            Some(recorded) => recorded.push(Step::Fill(fill)),
            None => queue.enqueue(Box::new(move || {
                fill.run();
                Ok(())
            })),
        }
        Ok(())
    }
}

/// The setting of every byte of a region.
pub(super) struct Fill {
    span: HostSpan,
    bytes: usize,
    byte: u8,
}

impl Fill {
    pub fn run(&self) {
        self.span.with(0, self.bytes, |bytes| bytes.fill(self.byte));
    }
}

/// A region for a worker: the same memory, without the doubt of what kind it is.
pub(super) struct HostSpan {
    memory: Arc<HostMemory>,
    start: usize,
}

impl HostSpan {
    /// The region, which the call has checked to be of this backend.
    pub fn new(region: &Region) -> Self {
        let memory: Arc<dyn Any + Send + Sync> = region.memory().clone();
        let memory = memory.downcast().expect("the call has checked the backend");
        Self { memory, start: region.start() }
    }

    /// Gives the bytes from `at` on to `work`, under the memory's lock.
    pub fn with<R>(&self, at: usize, bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.start + at;
        self.memory.with(start..start + bytes, work)
    }
}
