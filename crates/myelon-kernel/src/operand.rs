//! The buffers of calls.

use std::sync::Arc;

use myelon_ring::words::RANKS_MAX;

use crate::error::KernelError;
use crate::memory::DeviceSpan;
use crate::shared::{Prepared, SharedMemory, StreamUse, Users};
use crate::stream::DeviceStream;

/// A buffer of a call.
#[derive(Clone)]
pub enum Operand {
    /// Part of memory that is kept until the call is done.
    Shared {
        /// The memory.
        memory: Arc<SharedMemory>,
        /// Where the part starts in it.
        start: usize,
        /// How long it is.
        bytes: usize,
    },
    /// Memory of somebody else, who promised to keep it when the span was made.
    Foreign(DeviceSpan),
}

impl Operand {
    /// All of `memory`.
    pub fn shared(memory: SharedMemory) -> Self {
        let bytes = memory.bytes();
        Self::Shared { memory: Arc::new(memory), start: 0, bytes }
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        match self {
            Self::Shared { memory, start, .. } => memory.address() + *start as u64,
            Self::Foreign(span) => span.address(),
        }
    }

    /// How long it is, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Shared { bytes, .. } => *bytes,
            Self::Foreign(span) => span.bytes(),
        }
    }

    /// Its GPU.
    pub fn ordinal(&self) -> usize {
        match self {
            Self::Shared { memory, .. } => memory.device().ordinal(),
            Self::Foreign(span) => span.ordinal(),
        }
    }

    /// `bytes` bytes of it from `offset` on.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfBounds`].
    pub fn part(&self, offset: usize, bytes: usize) -> Result<Self, KernelError> {
        match self {
            Self::Shared { memory, start, bytes: size } => match offset.checked_add(bytes) {
                Some(end) if end <= *size => {
                    Ok(Self::Shared { memory: memory.clone(), start: start + offset, bytes })
                }
                _ => Err(KernelError::OutOfBounds { offset, bytes, size: *size }),
            },
            Self::Foreign(span) => Ok(Self::Foreign(span.part(offset, bytes)?)),
        }
    }

    /// Copies `from` to the start, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// As for [`crate::DeviceMemory::write`].
    pub fn write(&self, stream: &DeviceStream, from: &[u8]) -> Result<(), KernelError> {
        let to = self.span()?;
        // SAFETY: `from` and `self` are borrowed until the stream has finished.
        unsafe { stream.copy_to_device(to.part(0, from.len())?, from) }?;
        stream.synchronize()
    }

    /// Copies from the start to `to`, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// As for [`crate::DeviceMemory::read`].
    pub fn read(&self, stream: &DeviceStream, to: &mut [u8]) -> Result<(), KernelError> {
        let from = self.span()?.part(0, to.len())?;
        // SAFETY: `to` and `self` are borrowed until the stream has finished.
        unsafe { stream.copy_to_host(to, from) }?;
        stream.synchronize()
    }

    /// Queues the setting of every byte, or records it where `stream` is captured; what is done is the use
    /// of the stream.
    ///
    /// # Errors
    ///
    /// As for [`crate::DeviceMemory::fill`].
    pub fn fill(&self, stream: &Arc<DeviceStream>, byte: u8) -> Result<(), KernelError> {
        let (span, prepared) = (self.span()?, Prepared::new(stream)?);
        let mut kept = stream.kept();
        if kept.is_none() {
            stream.not_captured_by_others("this fill")?;
        }
        // SAFETY: the graph or the stream's use keeps shared memory by the lines below; foreign memory is
        // kept by the promise that made it.
        unsafe { stream.fill_or_record(span, byte) }?;
        if let Some(kept) = kept.as_mut() {
            kept.keep(self.clone());
            return Ok(());
        }
        let work = prepared.queued(stream).inspect_err(|_| std::mem::forget(self.clone()))?;
        drop(kept);
        self.used_by(&work);
        Ok(())
    }

    pub(crate) fn span(&self) -> Result<DeviceSpan, KernelError> {
        match self {
            Self::Shared { memory, start, bytes } => memory.whole().part(*start, *bytes),
            Self::Foreign(span) => Ok(*span),
        }
    }

    pub(crate) fn used_by(&self, work: &StreamUse) {
        if let Self::Shared { memory, .. } = self {
            memory.used_by(work);
        }
    }

    pub(crate) fn reached_by(&self, users: &Arc<Users>) {
        if let Self::Shared { memory, .. } = self {
            memory.reached_by(users);
        }
    }

    /// The addresses at which `memory_at` says the ranks reach the memory, moved to this part of it.
    pub(crate) fn reached_at(
        &self,
        memory_at: impl FnOnce(&SharedMemory) -> Option<[u64; RANKS_MAX]>,
    ) -> Option<[u64; RANKS_MAX]> {
        match self {
            Self::Shared { memory, start, .. } => {
                memory_at(memory).map(|at| at.map(|address| address.wrapping_add(*start as u64)))
            }
            Self::Foreign(_) => None,
        }
    }
}
