//! Memory of a GPU that is mapped where its owner does not have it: that of another process, or of another library.

use std::fmt;
use std::os::fd::BorrowedFd;

use cudarc::driver::sys;

use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use crate::memory::{Addresses, Mapping, Pages};

/// Memory that another process lets this one reach, mapped here for one GPU.
///
/// Pages ([`crate::DeviceMemory::export`]) stay as long as any process maps them: who maps them need not fear that the
/// other one ends. A plain allocation stays as long as its owner keeps it. Dropping this unmaps it at once: **every
/// stream that uses it must have finished before**, else that stream faults.
pub struct PeerMemory(Reached);

enum Reached {
    Pages(Mapped),
    Allocation(Opened),
}

/// Pages, mapped one behind the other.
pub(crate) struct Mapped {
    // Dropped in this order: the mappings, the pages, the addresses.
    _mappings: Vec<Mapping>,
    _pages: Vec<Pages>,
    addresses: Addresses,
}

/// A plain allocation of another process.
struct Opened {
    address: u64,
    bytes: usize,
    device: Device,
}

impl Mapped {
    /// Maps `pages`, each with its bytes, for `users`. A context is current.
    pub fn new(pages: Vec<(Pages, usize)>, users: &[&Device]) -> Result<Self, KernelError> {
        let sum = pages.iter().try_fold(0usize, |sum, (_, bytes)| sum.checked_add(*bytes));
        let addresses = Addresses::reserve(sum.unwrap_or(0))?;
        let (mut mappings, mut next) = (Vec::with_capacity(pages.len()), addresses.start);
        for (pages, bytes) in &pages {
            let mapping = Mapping::new(next, *bytes, pages)?;
            mapping.allow(users)?;
            mappings.push(mapping);
            next += *bytes as u64;
        }
        let pages = pages.into_iter().map(|(pages, _)| pages).collect();
        Ok(Self { _mappings: mappings, _pages: pages, addresses })
    }

    /// The first address.
    pub fn address(&self) -> u64 {
        self.addresses.start
    }
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
        Self::import_all(device, &[(handle, bytes)])
    }

    /// The same with pages of several handles, one behind the other.
    ///
    /// # Errors
    ///
    /// Those of [`PeerMemory::import`].
    pub fn import_all(device: &Device, handles: &[(BorrowedFd<'_>, usize)]) -> Result<Self, KernelError> {
        if handles.is_empty() || handles.iter().any(|(_, bytes)| *bytes == 0) {
            return Err(KernelError::ZeroBytes);
        }
        if !device.info().virtual_memory {
            return Err(KernelError::NoVirtualMemory { ordinal: device.ordinal() });
        }
        let _current = device.bind()?;
        let pages = handles.iter().map(|(handle, bytes)| Ok((Pages::import(*handle)?, *bytes)));
        let pages = pages.collect::<Result<Vec<_>, KernelError>>()?;
        Ok(Self(Reached::Pages(Mapped::new(pages, &[device])?)))
    }

    /// Opens the plain allocation of `bytes` bytes that the driver knows by `handle`, so that `device` may read and
    /// write it. The driver counts how often a process has opened an allocation.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`] where there is no such allocation, or `device` cannot reach it.
    pub fn open(device: &Device, handle: [u8; 64], bytes: usize) -> Result<Self, KernelError> {
        const LAZY: u32 = sys::CUipcMem_flags_enum::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let _current = device.bind()?;
        let handle = sys::CUipcMemHandle { reserved: handle.map(|byte| byte as _) };
        let mut address = 0;
        // SAFETY: `address` outlives the call, and the handle is only looked up. The flag is the only one there is,
        // and needed: without it memory of another GPU is refused.
        unsafe { call!(cuIpcOpenMemHandle_v2(&mut address, handle, LAZY)) }?;
        Ok(Self(Reached::Allocation(Opened { address, bytes, device: device.clone() })))
    }

    /// The first address, for the GPU that it was mapped for.
    pub fn address(&self) -> u64 {
        match &self.0 {
            Reached::Pages(mapped) => mapped.address(),
            Reached::Allocation(opened) => opened.address,
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Reached::Pages(mapped) => mapped.addresses.bytes,
            Reached::Allocation(opened) => opened.bytes,
        }
    }

    /// Whether its owner must keep it until this is dropped.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.0, Reached::Allocation(_))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let closed = self.device.bind().and_then(|_current| {
            // SAFETY: opened once by us, and closed once; by the contract of `PeerMemory` nobody uses it.
            unsafe { call!(cuIpcCloseMemHandle(self.address)) }
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "closing an allocation of another process");
        }
    }
}

impl fmt::Debug for PeerMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerMemory({} bytes at {:#x})", self.bytes(), self.address())
    }
}
