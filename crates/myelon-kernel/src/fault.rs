//! The page through which a kernel tells the host why it gave up.

use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use cudarc::driver::sys;
use myelon_ring::words::{Fault, LINE};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Host memory with one [`Fault`] in it, which the kernels of one rank write and the host reads.
///
/// Pinned, mapped for every GPU, and cached on the host, so that looking at it costs a host load and no
/// driver call. Dropping it may wait for kernels that still run.
pub struct FaultPage {
    device: Device,
    fault: NonNull<Fault>,
    address: u64,
}

// SAFETY: all accesses to the page are atomic or volatile, and kernels write it by the same rules.
unsafe impl Send for FaultPage {}
// SAFETY: as above.
unsafe impl Sync for FaultPage {}

/// One page of the host.
const BYTES: usize = 4096;
/// Where the abort word lies: a line of its own behind the fault.
const ABORT_OFFSET: usize = LINE;
const _: () = assert!(size_of::<Fault>() <= ABORT_OFFSET && ABORT_OFFSET + 8 <= BYTES);

impl FaultPage {
    /// A cleared page for the kernels of `device`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`] where host memory cannot be pinned or mapped.
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        let _current = device.bind()?;
        let mut start = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: `start` outlives the call; the page is freed in `drop`.
        unsafe { call!(cuMemHostAlloc(&mut start, BYTES, flags)) }?;
        let fault = NonNull::new(start.cast()).expect("the driver returned success");
        let mut page = Self { device: device.clone(), fault, address: 0 };
        // SAFETY: the page was allocated with a mapping just now, and zero is the only flag.
        unsafe { call!(cuMemHostGetDevicePointer_v2(&mut page.address, start, 0)) }?;
        page.clear();
        Ok(page)
    }

    /// The GPU that it was made for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The address of the [`Fault`] for kernels of the GPU, as in `AllReduceArgs::fault`.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The address of the word that [`FaultPage::raise_abort`] raises, as in `AllReduceArgs::host_abort`.
    pub fn abort_address(&self) -> u64 {
        self.address + ABORT_OFFSET as u64
    }

    /// Makes the kernels that know the page give up, those that run and those that are queued. It is a
    /// store to host memory, which no driver call and no full GPU can delay.
    pub fn raise_abort(&self) {
        // ORDER: Relaxed is enough. The word says all there is to say.
        self.abort_word().store(1, Ordering::Relaxed);
    }

    /// The fault that a kernel has left, if any.
    pub fn read(&self) -> Option<Fault> {
        // ORDER fault/record: Acquire pairs with the kernel's store of `code`, which it makes last and after a
        // release fence at system scope. Without it the fields read below could be older than the code.
        if self.code().load(Ordering::Acquire) == 0 {
            return None;
        }
        // SAFETY: the page lives and is aligned; volatile because the writer is not Rust.
        Some(unsafe { self.fault.read_volatile() })
    }

    /// Forgets the fault and the abort. Only while no kernel that knows the page runs or is queued.
    pub fn clear(&self) {
        let empty: Fault = bytemuck::Zeroable::zeroed();
        // SAFETY: the page lives and is aligned; volatile because the reader is not only Rust.
        unsafe { self.fault.write_volatile(empty) };
        // ORDER: Release is enough, and a launch orders it once more: kernels queued later see the zeros.
        self.code().store(0, Ordering::Release);
        self.abort_word().store(0, Ordering::Release);
    }

    fn abort_word(&self) -> &AtomicU64 {
        // SAFETY: the word lies in the page, which outlives `self`, and is aligned; all accesses are atomic.
        unsafe { AtomicU64::from_ptr(self.fault.cast::<u8>().add(ABORT_OFFSET).cast().as_ptr()) }
    }

    fn code(&self) -> &AtomicU32 {
        // SAFETY: `code` is the first field, a u32 in memory that outlives `self`; Rust writes it only
        // here and in `clear`.
        unsafe { AtomicU32::from_ptr(self.fault.cast::<u32>().as_ptr()) }
    }
}

impl fmt::Debug for FaultPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultPage(GPU {}, {:?})", self.device.ordinal(), self.read())
    }
}

impl Drop for FaultPage {
    fn drop(&mut self) {
        // SAFETY: allocated by us, freed once.
        let freed = self
            .device
            .bind()
            .and_then(|_current| unsafe { call!(cuMemFreeHost(self.fault.as_ptr().cast())) });
        if let Err(error) = freed {
            tracing::debug!(%error, "freeing a fault page");
        }
    }
}
