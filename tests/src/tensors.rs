//! Device memory as other libraries allocate it, by the driver alone.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::sys;
use myelon_collectives::{Device, DeviceStream, ForeignMemory, Region};

/// What memory is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Pages, mapped in parts of 2 MiB, with descriptors: PyTorch's expandable segments.
    Pages,
    /// The same without descriptors.
    PrivatePages,
    /// `cuMemAlloc`, as `cudaMalloc` does: PyTorch's caching segments.
    Plain,
    /// `cuMemAllocAsync`: a pool's.
    Pool,
}

/// How many tensors have been freed.
pub type Freed = Arc<AtomicUsize>;

/// Memory that is freed when this is dropped.
pub struct Tensor {
    device: Device,
    how: How,
    address: u64,
    bytes: usize,
    parts: Vec<sys::CUmemGenericAllocationHandle>,
    /// What a pool's memory is allocated and freed on.
    stream: DeviceStream,
    freed: Freed,
}

const PART: usize = 2 << 20;

fn done(code: sys::CUresult) {
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

impl Tensor {
    /// `bytes` bytes of `device`; `freed` counts when they are freed.
    pub fn new(device: &Device, how: How, bytes: usize, freed: &Freed) -> Self {
        let stream = DeviceStream::new(device).unwrap();
        let (mut address, mut parts, raw) = (0, Vec::new(), stream.handle() as usize as sys::CUstream);
        // SAFETY: plain calls of the driver, in the context of the device, with places that outlive them.
        in_context(device, || unsafe {
            match how {
                How::Pages | How::PrivatePages => (address, parts) = pages(device, how, bytes),
                How::Plain => done(sys::cuMemAlloc_v2(&mut address, bytes)),
                How::Pool => done(sys::cuMemAllocAsync(&mut address, bytes, raw)),
            }
        });
        stream.synchronize().unwrap();
        Self { device: device.clone(), how, address, bytes, parts, stream, freed: freed.clone() }
    }

    /// All of it, which the region owns from now on.
    pub fn into_region(self) -> Region {
        let (device, address, bytes) = (self.device.clone(), self.address, self.bytes);
        // SAFETY: what is freed when `self` is dropped, and not before.
        Region::device_owned(unsafe { ForeignMemory::new(&device, address, bytes, self) }.unwrap())
    }

    /// The same, with `other` to be dropped before the memory is freed.
    pub fn into_region_with(self, other: impl Send + Sync + 'static) -> Region {
        let (device, address, bytes) = (self.device.clone(), self.address, self.bytes);
        // SAFETY: what is freed when `self` is dropped, and not before.
        Region::device_owned(unsafe { ForeignMemory::new(&device, address, bytes, (other, self)) }.unwrap())
    }

    /// The same by a promise of the caller's, who keeps the tensor longer than the region and all calls on it.
    pub fn promised_region(&self) -> Region {
        // SAFETY: the callers, which are tests, keep it so long.
        Region::device_foreign(unsafe { self.device.span(self.address, self.bytes) }.unwrap())
    }
}

/// A capture as other libraries begin it by default: it forbids all threads what may be unsafe, but for those that have
/// asked to be left alone.
pub struct GlobalCapture {
    device: Device,
    stream: DeviceStream,
}

impl GlobalCapture {
    /// Of a stream of its own, by this thread, which ends it.
    pub fn begin(device: &Device) -> Self {
        let stream = DeviceStream::new(device).unwrap();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: the stream lives, and the capture is ended by `drop`.
        in_context(device, || unsafe {
            done(sys::cuStreamBeginCapture_v2(stream.handle() as usize as sys::CUstream, mode));
        });
        Self { device: device.clone(), stream }
    }
}

impl Drop for GlobalCapture {
    fn drop(&mut self) {
        // SAFETY: the stream lives, and is captured by this thread; what was captured, which is nothing, is destroyed once.
        in_context(&self.device, || unsafe {
            let mut graph = std::ptr::null_mut();
            done(sys::cuStreamEndCapture(self.stream.handle() as usize as sys::CUstream, &mut graph));
            done(sys::cuGraphDestroy(graph));
        });
    }
}

/// Reserved addresses with pages of 2 MiB each.
unsafe fn pages(device: &Device, how: How, bytes: usize) -> (u64, Vec<sys::CUmemGenericAllocationHandle>) {
    use sys::CUmemAllocationHandleType as Handle;
    let posix = Handle::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    let id = device.ordinal() as i32;
    let place = sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id };
    // SAFETY: numbers, null pointers and the first variants of enumerations; what matters is set below.
    let mut wanted: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    wanted.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.requestedHandleTypes = if how == How::Pages { posix } else { Handle::CU_MEM_HANDLE_TYPE_NONE };
    wanted.location = place;
    let flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    let access = sys::CUmemAccessDesc { location: place, flags };
    let (mut address, mut parts) = (0, Vec::new());
    // SAFETY: all places outlive the calls; what is mapped was reserved, and each part is mapped once.
    unsafe {
        done(sys::cuMemAddressReserve(&mut address, bytes.next_multiple_of(PART), PART, 0, 0));
        for start in (0..bytes).step_by(PART) {
            let mut part = 0;
            done(sys::cuMemCreate(&mut part, PART, &wanted, 0));
            done(sys::cuMemMap(address + start as u64, PART, 0, part, 0));
            done(sys::cuMemSetAccess(address + start as u64, PART, &access, 1));
            parts.push(part);
        }
    }
    (address, parts)
}

/// Runs `work` with the primary context of `device` current, which `device` holds.
fn in_context(device: &Device, work: impl FnOnce()) {
    let ordinal = device.ordinal() as i32;
    let mut context = std::ptr::null_mut();
    // SAFETY: what is retained and pushed is released and popped, on the same thread.
    unsafe {
        let mut raw = 0;
        done(sys::cuDeviceGet(&mut raw, ordinal));
        done(sys::cuDevicePrimaryCtxRetain(&mut context, raw));
        done(sys::cuCtxPushCurrent_v2(context));
        work();
        done(sys::cuCtxPopCurrent_v2(&mut context));
        done(sys::cuDevicePrimaryCtxRelease_v2(raw));
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        let (address, raw) = (self.address, self.stream.handle() as usize as sys::CUstream);
        // SAFETY: exactly what `new` took, and nobody uses it any more.
        in_context(&self.device, || unsafe {
            match self.how {
                How::Plain => done(sys::cuMemFree_v2(address)),
                How::Pool => done(sys::cuMemFreeAsync(address, raw)),
                How::Pages | How::PrivatePages => {
                    for (number, part) in self.parts.iter().enumerate() {
                        done(sys::cuMemUnmap(address + (number * PART) as u64, PART));
                        done(sys::cuMemRelease(*part));
                    }
                    done(sys::cuMemAddressFree(address, self.bytes.next_multiple_of(PART)));
                }
            }
        });
        // ORDER: Relaxed is enough. It is a count that tests wait for.
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}
