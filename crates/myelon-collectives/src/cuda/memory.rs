//! Memory of the CUDA backend.

use std::any::Any;
use std::sync::Arc;

use myelon_kernel::{DeviceSpan, Operand, SharedMemory};

use super::errors::error_of;
use super::queue::CudaQueue;
use crate::backend::{Backend, Memory, Place, Queue};
use crate::error::Error;
use crate::memory::Region;

/// Device memory that this library allocated, or somebody else.
pub(crate) struct CudaMemory(Operand);

impl CudaMemory {
    pub fn shared(memory: SharedMemory) -> Self {
        Self(Operand::shared(memory))
    }

    pub fn foreign(span: DeviceSpan) -> Self {
        Self(Operand::Foreign(span))
    }

    /// A region as a kernel takes it.
    pub fn operand(region: &Region) -> Result<Operand, Error> {
        let memory: &dyn Any = &**region.memory();
        let memory: &Self = memory.downcast_ref().expect("the call has checked the backend");
        memory.0.part(region.start(), region.bytes()).map_err(error_of)
    }
}

fn queue_of(queue: &dyn Queue) -> &CudaQueue {
    let queue: &dyn Any = queue;
    queue.downcast_ref().expect("`Region` has checked the backend")
}

impl Memory for CudaMemory {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.0.ordinal()) }
    }

    fn address(&self) -> u64 {
        self.0.address()
    }

    fn write(&self, queue: &dyn Queue, start: usize, bytes: &[u8]) -> Result<(), Error> {
        let queue = queue_of(queue);
        queue.synchronize()?;
        self.0.part(start, bytes.len()).and_then(|part| part.write(queue.stream(), bytes)).map_err(error_of)
    }

    fn read(&self, queue: &dyn Queue, start: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let queue = queue_of(queue);
        queue.synchronize()?;
        self.0.part(start, bytes.len()).and_then(|part| part.read(queue.stream(), bytes)).map_err(error_of)
    }

    fn fill(self: Arc<Self>, queue: &dyn Queue, start: usize, bytes: usize, byte: u8) -> Result<(), Error> {
        let queue = queue_of(queue);
        self.0.part(start, bytes).and_then(|part| part.fill(queue.stream(), byte)).map_err(error_of)
    }
}
