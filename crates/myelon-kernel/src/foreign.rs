//! Memory that somebody else allocated: what keeps it, and how other GPUs and other processes get at it.
//!
//! | what it is | ranks of this process | ranks in other processes |
//! | --- | --- | --- |
//! | mapped pages (`cuMemCreate`) | the pages mapped once more, for all their GPUs | descriptors, if it was made with them |
//! | an allocation (`cuMemAlloc`, `cudaMalloc`) | only where all are on its GPU | the handle of the allocation, and the offset |
//! | memory of a pool (`cuMemAllocAsync`) | only where all are on its GPU | not at all |
//!
//! GPUs of one process reach plain allocations of each other only by an access between whole contexts, which would
//! change what every other library of the process sees; so it is not switched on.

use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use cudarc::driver::sys;

use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use crate::memory::{DeviceSpan, Pages};
use crate::owners::drop_aside;
use crate::peer::Mapped;

/// Descriptors of one memory, at most: systems count those that are under way between processes, and each peer gets them.
const DESCRIPTORS_MAX: usize = 16;

/// Memory of one GPU that somebody else allocated, with the value that keeps it allocated. That is dropped some time after this, on
/// a thread that does nothing else, for it may wait: `cudaFree` waits for all that runs on the GPU, and may hold up other calls of
/// the driver for that GPU meanwhile. Such values are dropped one after the other, so none may wait for another one to be
/// dropped; those that are left when the process ends are not dropped.
///
/// # Example
///
/// ```
/// use myelon_kernel::{Device, DeviceMemory, ForeignMemory};
///
/// # fn main() -> Result<(), myelon_kernel::KernelError> {
/// let Ok(device) = Device::open(0) else { return Ok(()) }; // no GPU here
/// let tensor = DeviceMemory::allocate(&device, 4096, &[])?; // stands for one of somebody else
/// let address = tensor.address();
/// // SAFETY: the tensor's memory is freed when the tensor is dropped, and not before.
/// let memory = unsafe { ForeignMemory::new(&device, address, 4096, tensor) }?;
/// println!("{memory:?}");
/// # Ok(())
/// # }
/// ```
pub struct ForeignMemory {
    device: Device,
    span: DeviceSpan,
    /// `None` only while it is dropped.
    owner: Option<Box<dyn Send + Sync>>,
}

impl ForeignMemory {
    /// The `bytes` bytes of `device` from `address` on, which `owner` keeps.
    ///
    /// # Errors
    ///
    /// Those of [`Device::check`].
    ///
    /// # Safety
    ///
    /// The memory stays allocated, where it is, for as long as `owner` is not dropped, and any thread may drop it.
    pub unsafe fn new(
        device: &Device,
        address: u64,
        bytes: usize,
        owner: impl Send + Sync + 'static,
    ) -> Result<Self, KernelError> {
        device.check("the buffer", address, bytes)?;
        Ok(Self::kept(device, DeviceSpan::new(device.ordinal(), address, bytes), owner))
    }

    /// `span`, which is on `device`, and which `owner` keeps.
    pub(crate) fn kept(device: &Device, span: DeviceSpan, owner: impl Send + Sync + 'static) -> Self {
        Self { device: device.clone(), span, owner: Some(Box::new(owner)) }
    }

    /// The GPU whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn span(&self) -> DeviceSpan {
        self.span
    }

    /// Maps the pages once more, for `users`; returns the mapping, and how far in it this memory begins.
    pub(crate) fn map_again(&self, users: &[&Device]) -> Result<(Mapped, u64), KernelError> {
        let _current = self.device.bind()?;
        match self.source()? {
            Source::Pages { first, chunks } => {
                let pages = chunks.into_iter().map(|chunk| (chunk.pages, chunk.bytes)).collect();
                Ok((Mapped::new(pages, users)?, self.span.address() - first))
            }
            Source::Allocation { .. } => Err(cannot(
                "it is a plain allocation (cuMemAlloc, cudaMalloc), which GPUs of one process reach only by access \
                 between whole contexts",
            )),
        }
    }

    /// What another process needs to map it.
    pub(crate) fn export(&self) -> Result<Exported, KernelError> {
        let _current = self.device.bind()?;
        let (first, handles) = match self.source()? {
            Source::Pages { first, chunks } => (first, Handles::Pages(descriptors(&chunks)?)),
            Source::Allocation { base, bytes } => {
                (base, Handles::Allocation { handle: handle(base)?, bytes })
            }
        };
        Ok(Exported { handles, offset: self.span.address() - first })
    }

    /// What the memory is made of. The context is current.
    fn source(&self) -> Result<Source, KernelError> {
        let (first, end) = (self.span.address(), self.span.address() + self.span.bytes() as u64);
        let (mut next, mut chunks, mut start) = (first, Vec::new(), first);
        if first == end {
            return Err(cannot("it is empty"));
        }
        while next < end {
            let (base, bytes) = range(next)?;
            if is_of_pool(base)? {
                return Err(cannot("it is memory of a pool (cuMemAllocAsync), which nobody else can map"));
            }
            let reached = base.saturating_add(bytes as u64);
            match Pages::retained(base) {
                _ if reached <= next || (next > first && base != next) => {
                    return Err(cannot("the driver does not say what it is made of"));
                }
                Some(pages) => chunks.push(Chunk { pages, bytes }),
                None if next == first && reached >= end => return Ok(Source::Allocation { base, bytes }),
                None => return Err(cannot("it lies in several allocations")),
            }
            if next == first {
                start = base;
            }
            next = reached;
        }
        Ok(Source::Pages { first: start, chunks })
    }
}

impl Drop for ForeignMemory {
    fn drop(&mut self) {
        self.owner.take().into_iter().for_each(drop_aside);
    }
}

impl fmt::Debug for ForeignMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, address) = (self.span.bytes(), self.span.address());
        write!(f, "ForeignMemory({bytes} bytes at {address:#x} of GPU {})", self.span.ordinal())
    }
}

/// What ranks in other processes need to map memory.
#[derive(Debug)]
pub struct Exported {
    /// What they map it by.
    pub handles: Handles,
    /// How far from the start of what they map the memory begins, in bytes.
    pub offset: u64,
}

/// What memory is mapped by.
#[derive(Debug)]
pub enum Handles {
    /// Pages that are mapped one behind the other: a descriptor of each, and its bytes.
    Pages(Vec<(OwnedFd, usize)>),
    /// A plain allocation. It must be kept until all who opened it have closed it.
    Allocation {
        /// What the driver knows it by.
        handle: [u8; 64],
        /// Its bytes.
        bytes: usize,
    },
}

/// What a range of memory is made of.
enum Source {
    /// Pages, one behind the other, mapped from `first` on.
    Pages { first: u64, chunks: Vec<Chunk> },
    /// One plain allocation.
    Allocation { base: u64, bytes: usize },
}

/// Pages that were mapped together.
struct Chunk {
    pages: Pages,
    bytes: usize,
}

fn cannot(reason: &str) -> KernelError {
    KernelError::NotShareable { reason: reason.into() }
}

/// The allocation, or the pages mapped together, that `address` lies in: start and bytes.
fn range(address: u64) -> Result<(u64, usize), KernelError> {
    let (mut base, mut bytes) = (0, 0);
    // SAFETY: both places outlive the call, and any address may be asked for.
    unsafe { call!(cuMemGetAddressRange_v2(&mut base, &mut bytes, address)) }?;
    Ok((base, bytes))
}

fn is_of_pool(address: u64) -> Result<bool, KernelError> {
    const POOL: sys::CUpointer_attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
    let mut pool: *mut c_void = std::ptr::null_mut();
    // SAFETY: the attribute is a handle, as wide as a pointer, and its place outlives the call.
    unsafe { call!(cuPointerGetAttribute((&raw mut pool).cast(), POOL, address)) }?;
    Ok(!pool.is_null())
}

/// What the driver knows the allocation at `base` by, in other processes.
fn handle(base: u64) -> Result<[u8; 64], KernelError> {
    let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
    // SAFETY: the handle outlives the call; what can't have one is refused.
    let had = unsafe { call!(cuIpcGetMemHandle(&mut handle, base)) };
    had.map_err(|error| cannot(&format!("the driver gives no handle of the allocation: {error}")))?;
    Ok(handle.reserved.map(|byte| byte as u8))
}

/// A descriptor of each of `chunks`, with its bytes.
fn descriptors(chunks: &[Chunk]) -> Result<Vec<(OwnedFd, usize)>, KernelError> {
    if chunks.len() > DESCRIPTORS_MAX {
        let seen = chunks.len();
        let reason =
            format!("it is mapped in {seen} parts, and descriptors of at most {DESCRIPTORS_MAX} go along");
        return Err(KernelError::NotShareable { reason });
    }
    let each = chunks.iter().map(|chunk| {
        if !chunk.pages.have_descriptors()? {
            return Err(cannot(
                "its pages were made without descriptors (cuMemCreate: requestedHandleTypes)",
            ));
        }
        Ok((chunk.pages.export()?, chunk.bytes))
    });
    each.collect()
}

impl Pages {
    /// The pages that are mapped at `address`, held once more; none where that is no mapping of pages.
    fn retained(address: u64) -> Option<Self> {
        let mut pages = 0;
        let place = std::ptr::without_provenance_mut(address as usize);
        // SAFETY: `pages` outlives the call; the address is looked up, not followed.
        let retained = unsafe { call!(cuMemRetainAllocationHandle(&mut pages, place)) };
        retained.ok().map(|()| Self(pages))
    }

    /// Whether they were made with descriptors for other processes.
    fn have_descriptors(&self) -> Result<bool, KernelError> {
        const POSIX: u32 = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.0;
        let mut made = MaybeUninit::<sys::CUmemAllocationProp>::zeroed();
        // SAFETY: the place is as large as the driver's structure, and outlives the call.
        unsafe { call!(cuMemGetAllocationPropertiesFromHandle(made.as_mut_ptr(), self.0)) }?;
        // SAFETY: in bounds, and any number is such types. The rest is not read: it may be of a kind that the binding
        // does not know.
        let types = unsafe { (&raw const (*made.as_ptr()).requestedHandleTypes).read() }.0;
        Ok(types & POSIX != 0)
    }
}
