//! Memory of the CUDA backend.

use std::any::Any;
use std::sync::Arc;

use myelon_kernel::{DeviceSpan, ForeignMemory, Operand, SharedMemory};

use super::errors::error_of;
use super::queue::CudaQueue;
use super::registrations::Registration;
use crate::backend::{Backend, Memory, Place, Queue};
use crate::error::Error;
use crate::memory::Region;

/// Device memory that this library allocated, or somebody else.
pub(crate) struct CudaMemory {
    operand: Operand,
    registration: Option<Registration>,
}

impl CudaMemory {
    pub fn shared(memory: SharedMemory) -> Self {
        Self { operand: Operand::shared(memory), registration: None }
    }

    pub fn foreign(span: DeviceSpan) -> Self {
        Self { operand: Operand::Foreign(span), registration: None }
    }

    pub fn owned(memory: ForeignMemory) -> Self {
        Self::shared(SharedMemory::foreign(memory))
    }

    /// `operand`, which was registered.
    pub fn registered(operand: Operand, registration: Registration) -> Self {
        Self { operand, registration: Some(registration) }
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.operand.bytes()
    }

    /// A region as a kernel takes it.
    pub fn operand(region: &Region) -> Result<Operand, Error> {
        Self::of(region).operand.part(region.start(), region.bytes()).map_err(error_of)
    }

    /// How the memory of a region was registered, if it was.
    pub fn registration(region: &Region) -> Option<&Registration> {
        Self::of(region).registration.as_ref()
    }

    fn of(region: &Region) -> &Self {
        let memory: &dyn Any = &**region.memory();
        memory.downcast_ref().expect("the call has checked the backend")
    }
}

fn queue_of(queue: &dyn Queue) -> &CudaQueue {
    let queue: &dyn Any = queue;
    queue.downcast_ref().expect("`Region` has checked the backend")
}

impl Memory for CudaMemory {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.operand.ordinal()) }
    }

    fn address(&self) -> u64 {
        self.operand.address()
    }

    fn write(&self, queue: &dyn Queue, start: usize, bytes: &[u8]) -> Result<(), Error> {
        let queue = queue_of(queue);
        queue.synchronize()?;
        let part = self.operand.part(start, bytes.len());
        part.and_then(|part| part.write(queue.stream(), bytes)).map_err(error_of)
    }

    fn read(&self, queue: &dyn Queue, start: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let queue = queue_of(queue);
        queue.synchronize()?;
        let part = self.operand.part(start, bytes.len());
        part.and_then(|part| part.read(queue.stream(), bytes)).map_err(error_of)
    }

    fn fill(self: Arc<Self>, queue: &dyn Queue, start: usize, bytes: usize, byte: u8) -> Result<(), Error> {
        let queue = queue_of(queue);
        self.operand.part(start, bytes).and_then(|part| part.fill(queue.stream(), byte)).map_err(error_of)
    }
}
