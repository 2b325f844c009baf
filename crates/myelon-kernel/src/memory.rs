//! Device memory that peers can see, and spans of it.
//!
//! Memory is physical pages mapped at a reserved address, with access granted GPU by GPU. Peers then
//! reach it at the same address as its owner, and no context-wide peer access is switched on.

use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use crate::stream::DeviceStream;
use cudarc::driver::sys;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Allocations are multiples of this: one page of the GPU's large kind, so that translation covers the
/// windows of all peers.
pub const PAGE_BYTES: usize = 2 << 20;
/// The driver's code for want of memory.
const OUT_OF_MEMORY: u32 = sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32;

/// A range of device memory, by address. It owns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpan {
    ordinal: usize,
    address: u64,
    bytes: usize,
}

impl DeviceSpan {
    pub(crate) fn new(ordinal: usize, address: u64, bytes: usize) -> Self {
        Self { ordinal, address, bytes }
    }

    /// The GPU whose memory it is.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The first address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part of `bytes` bytes that starts at `offset`.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfBounds`].
    pub fn part(&self, offset: usize, bytes: usize) -> Result<Self, KernelError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => {
                Ok(Self::new(self.ordinal, self.address + offset as u64, bytes))
            }
            _ => Err(KernelError::OutOfBounds { offset, bytes, size: self.bytes }),
        }
    }
}

/// Memory of one GPU that it and the named peers may read and write.
///
/// Its content is unspecified until written. Dropping it unmaps it at once: **every stream of every GPU
/// that uses it must have finished before**, else those streams fault.
pub struct DeviceMemory {
    // Dropped in this order: the mapping, the pages, the addresses.
    _mapping: Mapping,
    pages: Pages,
    addresses: Addresses,
    device: Device,
    bytes: usize,
    exportable: bool,
    /// The GPUs that may read and write it.
    users: Vec<usize>,
}

pub(crate) struct Pages(pub sys::CUmemGenericAllocationHandle);

pub(crate) struct Addresses {
    pub start: u64,
    pub bytes: usize,
}

pub(crate) struct Mapping {
    start: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// Allocates at least `bytes` bytes on `device` and lets `device` and `peers` read and write them.
    /// `device` may be among the peers.
    ///
    /// The memory is made exportable as a file descriptor where the GPU offers that.
    ///
    /// # Errors
    ///
    /// [`KernelError::ZeroBytes`], [`KernelError::NoVirtualMemory`] and [`KernelError::NoPeerAccess`] are
    /// found before anything is allocated; [`KernelError::OutOfMemory`] or [`KernelError::Driver`] else, and then
    /// nothing stays allocated.
    pub fn allocate(device: &Device, bytes: usize, peers: &[Device]) -> Result<Self, KernelError> {
        if bytes == 0 {
            return Err(KernelError::ZeroBytes);
        }
        if !device.info().virtual_memory {
            return Err(KernelError::NoVirtualMemory { ordinal: device.ordinal() });
        }
        let mut users = vec![device];
        for peer in peers {
            if users.iter().any(|user| user.ordinal() == peer.ordinal()) {
                continue;
            }
            if !peer.can_access(device)? {
                return Err(KernelError::NoPeerAccess { from: peer.ordinal(), to: device.ordinal() });
            }
            users.push(peer);
        }

        let _current = device.bind()?;
        let (pages, exportable, mapped) = Pages::create(device, bytes)?;
        let addresses = Addresses::reserve(mapped)?;
        let mapping = Mapping::new(addresses.start, addresses.bytes, &pages)?;
        mapping.allow(&users)?;
        let users = users.iter().map(|user| user.ordinal()).collect();
        Ok(Self { _mapping: mapping, pages, addresses, device: device.clone(), bytes, exportable, users })
    }

    /// The GPU whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The first address, the same on its GPU and on the peers; a multiple of [`PAGE_BYTES`].
    pub fn address(&self) -> u64 {
        self.addresses.start
    }

    /// The bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that it takes on the GPU, a multiple of [`PAGE_BYTES`].
    pub fn mapped_bytes(&self) -> usize {
        self.addresses.bytes
    }

    /// Whether GPU `ordinal` may read and write it.
    pub fn is_reached_by(&self, ordinal: usize) -> bool {
        self.users.contains(&ordinal)
    }

    /// Whether it was made so that another process may map it.
    pub fn exportable(&self) -> bool {
        self.exportable
    }

    /// A file descriptor that stands for it, with which another process of this machine maps it:
    /// [`crate::PeerMemory::import`].
    ///
    /// # Errors
    ///
    /// [`KernelError::NotExportable`]; [`KernelError::Driver`].
    pub fn export(&self) -> Result<OwnedFd, KernelError> {
        if !self.exportable {
            return Err(KernelError::NotExportable { ordinal: self.device.ordinal() });
        }
        self.pages.export()
    }

    /// All of it as a span.
    ///
    /// # Safety
    ///
    /// The memory lives for as long as the span, or a part of it, is used by any stream.
    pub unsafe fn span(&self) -> DeviceSpan {
        self.whole()
    }

    /// The same for this crate, which keeps the memory while it uses the span.
    pub(crate) fn whole(&self) -> DeviceSpan {
        DeviceSpan::new(self.device.ordinal(), self.address(), self.bytes)
    }

    /// Sets every byte that was asked for, and returns when that is done and seen by every stream.
    ///
    /// # Errors
    ///
    /// [`KernelError::WrongDevice`] for a stream of another GPU; [`KernelError::Driver`].
    pub fn fill(&self, stream: &DeviceStream, byte: u8) -> Result<(), KernelError> {
        // SAFETY: `self` is borrowed until the stream has finished.
        unsafe { stream.fill(self.whole(), byte) }?;
        stream.synchronize()
    }

    /// Copies `from` to `offset`, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfBounds`] and [`KernelError::WrongDevice`] before anything is written;
    /// [`KernelError::Driver`].
    pub fn write(&self, stream: &DeviceStream, offset: usize, from: &[u8]) -> Result<(), KernelError> {
        let to = self.whole().part(offset, from.len())?;
        // SAFETY: both sides are borrowed until the stream has finished.
        unsafe { stream.copy_to_device(to, from) }?;
        stream.synchronize()
    }

    /// Copies from `offset` to `to`, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// As for [`DeviceMemory::write`].
    pub fn read(&self, stream: &DeviceStream, offset: usize, to: &mut [u8]) -> Result<(), KernelError> {
        let from = self.whole().part(offset, to.len())?;
        // SAFETY: both sides are borrowed until the stream has finished.
        unsafe { stream.copy_to_host(to, from) }?;
        stream.synchronize()
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DeviceMemory({} bytes at {:#x} of GPU {})",
            self.bytes,
            self.address(),
            self.device.ordinal()
        )
    }
}

fn place(device: &Device) -> sys::CUmemLocation {
    sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device.raw() }
}

impl Pages {
    /// Takes pages for `bytes` bytes; returns them, whether they can be exported, and their size.
    fn create(device: &Device, bytes: usize) -> Result<(Self, bool, usize), KernelError> {
        use sys::CUmemAllocationHandleType as Handle;
        let with = |handle| sys::CUmemAllocationProp {
            type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: handle,
            location: place(device),
            win32HandleMetaData: std::ptr::null_mut(),
            allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
                compressionType: 0,
                gpuDirectRDMACapable: 0,
                usage: 0,
                reserved: [0; 4],
            },
        };
        let take = |handle| -> Result<(sys::CUmemGenericAllocationHandle, usize), KernelError> {
            let wanted = with(handle);
            let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
            let mut granularity = 0;
            // SAFETY: both pointers outlive the call.
            unsafe { call!(cuMemGetAllocationGranularity(&mut granularity, &wanted, minimum)) }?;
            let size = bytes
                .checked_next_multiple_of(granularity.max(PAGE_BYTES))
                .ok_or(KernelError::OutOfBounds { offset: 0, bytes, size: device.info().memory_bytes })?;
            let mut pages = 0;
            // SAFETY: both pointers outlive the call; no flag is defined.
            match unsafe { call!(cuMemCreate(&mut pages, size, &wanted, 0)) } {
                Ok(()) => Ok((pages, size)),
                Err(KernelError::Driver { code: OUT_OF_MEMORY, .. }) => {
                    let (ordinal, free) = (device.ordinal(), device.memory_free()?);
                    Err(KernelError::OutOfMemory { ordinal, needed: size, free })
                }
                Err(error) => Err(error),
            }
        };
        if device.info().posix_handles {
            match take(Handle::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
                Ok((pages, size)) => return Ok((Self(pages), true, size)),
                Err(short @ KernelError::OutOfMemory { .. }) => return Err(short),
                // A sandbox may offer handles and refuse them; this process needs none.
                Err(error) => tracing::debug!(%error, "no exportable memory, trying without"),
            }
        }
        let (pages, size) = take(Handle::CU_MEM_HANDLE_TYPE_NONE)?;
        Ok((Self(pages), false, size))
    }
}

impl Pages {
    /// A descriptor that stands for the pages, which were made to have one.
    pub fn export(&self) -> Result<OwnedFd, KernelError> {
        const POSIX: sys::CUmemAllocationHandleType =
            sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        let mut fd = -1;
        // SAFETY: the driver writes an int for handles of this type, and `fd` outlives the call; no flag is defined.
        unsafe { call!(cuMemExportToShareableHandle((&raw mut fd).cast(), self.0, POSIX, 0)) }?;
        // SAFETY: the driver has opened it for this call, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The pages that another process's `handle` stands for.
    pub fn import(handle: BorrowedFd<'_>) -> Result<Self, KernelError> {
        const POSIX: sys::CUmemAllocationHandleType =
            sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        let mut pages = 0;
        let fd = std::ptr::without_provenance_mut(handle.as_raw_fd() as usize);
        // SAFETY: `pages` outlives the call; handles of this type are passed as the number itself.
        unsafe { call!(cuMemImportFromShareableHandle(&mut pages, fd, POSIX)) }?;
        Ok(Self(pages))
    }
}

impl Addresses {
    pub fn reserve(bytes: usize) -> Result<Self, KernelError> {
        let mut start = 0;
        // SAFETY: `start` outlives the call; zero as the wish and as the flags lets the driver choose.
        unsafe { call!(cuMemAddressReserve(&mut start, bytes, PAGE_BYTES, 0, 0)) }?;
        Ok(Self { start, bytes })
    }
}

impl Mapping {
    /// Lets `users` read and write it.
    pub fn allow(&self, users: &[&Device]) -> Result<(), KernelError> {
        let flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        let access: Vec<sys::CUmemAccessDesc> =
            users.iter().map(|user| sys::CUmemAccessDesc { location: place(user), flags }).collect();
        // SAFETY: the whole range is mapped; `access` outlives the call.
        unsafe { call!(cuMemSetAccess(self.start, self.bytes, access.as_ptr(), access.len())) }
    }

    /// Maps `pages`, of `bytes` bytes, at `start`, in addresses that are reserved and free there.
    pub fn new(start: u64, bytes: usize, pages: &Pages) -> Result<Self, KernelError> {
        // SAFETY: the range is reserved and not mapped yet; pages of another length are refused by the driver.
        unsafe { call!(cuMemMap(start, bytes, 0, pages.0, 0)) }?;
        Ok(Self { start, bytes })
    }
}

fn note(what: &str, result: Result<(), KernelError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; by the contract of `DeviceMemory` nobody uses it.
        note("unmapping device memory", unsafe { call!(cuMemUnmap(self.start, self.bytes)) });
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: created by us and released once; a mapping would keep the pages alive.
        note("releasing device memory", unsafe { call!(cuMemRelease(self.0)) });
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `reserve` took; the mapping was declared later in `allocate` and
        // stands before it in `DeviceMemory`, so it is gone in both cases.
        note("freeing device addresses", unsafe { call!(cuMemAddressFree(self.start, self.bytes)) });
    }
}
