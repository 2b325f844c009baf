//! Memory of a GPU that another process has allocated.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::device::Device;
use crate::error::KernelError;
use crate::memory::{Addresses, Mapping, Pages};

/// Memory that another process exported ([`crate::DeviceMemory::export`]), mapped here for one GPU.
///
/// The pages stay as long as any process maps them: who maps them need not fear that the other one ends. Dropping it
/// unmaps them at once: **every stream that uses it must have finished before**, else that stream faults.
pub struct PeerMemory {
    // Dropped in this order: the mapping, the pages, the addresses.
    _mapping: Mapping,
    _pages: Pages,
    addresses: Addresses,
}

impl PeerMemory {
    /// Maps what `handle` stands for, so that `device` may read and write it. `bytes` is the number that
    /// [`crate::DeviceMemory::mapped_bytes`] gives in the process that exported it.
    ///
    /// # Errors
    ///
    /// [`KernelError::ZeroBytes`]; [`KernelError::NoVirtualMemory`]; [`KernelError::Driver`] where the handle stands
    /// for something else, for memory of another size, or for memory that `device` cannot reach. Nothing stays mapped.
    pub fn import(device: &Device, handle: BorrowedFd<'_>, bytes: usize) -> Result<Self, KernelError> {
        if bytes == 0 {
            return Err(KernelError::ZeroBytes);
        }
        if !device.info().virtual_memory {
            return Err(KernelError::NoVirtualMemory { ordinal: device.ordinal() });
        }
        let _current = device.bind()?;
        let pages = Pages::import(handle)?;
        let addresses = Addresses::reserve(bytes)?;
        let mapping = Mapping::new(&addresses, &pages)?;
        mapping.allow(&[device])?;
        Ok(Self { _mapping: mapping, _pages: pages, addresses })
    }

    /// The first address, for the GPU that it was mapped for.
    pub fn address(&self) -> u64 {
        self.addresses.start
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.addresses.bytes
    }
}

impl fmt::Debug for PeerMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerMemory({} bytes at {:#x})", self.bytes(), self.address())
    }
}
