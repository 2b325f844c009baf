//! The page through which kernels tell the host why they gave up, and for how long they have waited.

use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use cudarc::driver::sys;
use myelon_ring::words::{Fault, HostPage, WaitCounts};
use std::fmt;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Host memory with one [`HostPage`] in it, which the kernels of one rank write and the host reads.
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
const _: () = assert!(size_of::<HostPage>() <= BYTES);

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

    /// The address of the [`HostPage`] for kernels of the GPU, as in `AllReduceArgs::fault`.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The address of the word that [`FaultPage::raise_abort`] raises, as in `AllReduceArgs::host_abort`.
    pub fn abort_address(&self) -> u64 {
        self.address + offset_of!(HostPage, abort) as u64
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

    /// What the waits of the rank's kernels have polled, as far as they have told it, since the page was made or
    /// cleared: also while they run, and without a driver call. Where several threads tell it at once, a counter may
    /// stand where one of the others left it, until the next one tells it.
    pub fn waits(&self) -> WaitCounts {
        let count = |offset| self.word(offset_of!(HostPage, waits) + offset).load(Ordering::Relaxed);
        // ORDER: Relaxed is enough. Each counter is read for itself.
        WaitCounts {
            polls_data: count(offset_of!(WaitCounts, polls_data)),
            polls_credit: count(offset_of!(WaitCounts, polls_credit)),
            longest_ns: count(offset_of!(WaitCounts, longest_ns)),
        }
    }

    /// Forgets the fault, the abort and the counters. Only while no kernel that knows the page runs or is queued.
    pub fn clear(&self) {
        let empty: Fault = bytemuck::Zeroable::zeroed();
        // SAFETY: the page lives and is aligned; volatile because the reader is not only Rust.
        unsafe { self.fault.write_volatile(empty) };
        // ORDER: Release is enough, and a launch orders it once more: kernels queued later see the zeros.
        self.code().store(0, Ordering::Release);
        self.abort_word().store(0, Ordering::Release);
        for offset in (0..size_of::<WaitCounts>()).step_by(8) {
            self.word(offset_of!(HostPage, waits) + offset).store(0, Ordering::Release);
        }
    }

    fn abort_word(&self) -> &AtomicU64 {
        self.word(offset_of!(HostPage, abort))
    }

    /// The word `offset` bytes from the start of the page.
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < size_of::<HostPage>());
        // SAFETY: the word lies in the page, which outlives `self`, and is aligned; all accesses to words behind the
        // fault are atomic.
        unsafe { AtomicU64::from_ptr(self.fault.cast::<u8>().add(offset).cast().as_ptr()) }
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
