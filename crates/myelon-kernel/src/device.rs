//! One GPU, held by its primary context, and what the driver knows about addresses.

use crate::driver::{call, driver};
use crate::error::KernelError;
use crate::memory::DeviceSpan;
use crate::node::{DeviceInfo, can_access, describe, handles};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// One GPU. Clones share it; the last one gives its primary context back.
///
/// The primary context is the one that the CUDA runtime, PyTorch and others use too, so their pointers and
/// streams work here. Each call makes it current for the time of the call and restores what was current
/// before: **the caller's current device never changes**.
#[derive(Clone)]
pub struct Device(Arc<Primary>);

struct Primary {
    info: DeviceInfo,
    raw: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context handle may be used from any thread; the driver locks what it must.
unsafe impl Send for Primary {}
// SAFETY: as above; nothing here changes after `open`.
unsafe impl Sync for Primary {}

/// The primary context is current on this thread until this is dropped, on the same thread.
pub(crate) struct Current<'a>(PhantomData<(&'a Device, *const ())>);

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The GPU whose memory it is.
    pub ordinal: usize,
    /// The first address of its allocation or mapping.
    pub base: u64,
    /// Bytes of the allocation or mapping; zero where the driver does not say.
    pub bytes: usize,
}

impl Device {
    /// Opens the GPU `ordinal`, as [`crate::probe`] counts them.
    ///
    /// # Errors
    ///
    /// Those of [`crate::probe`]; [`KernelError::NoSuchDevice`]; [`KernelError::Driver`] where the
    /// context cannot be made.
    pub fn open(ordinal: usize) -> Result<Self, KernelError> {
        driver()?;
        let all = handles()?;
        let raw = *all.get(ordinal).ok_or(KernelError::NoSuchDevice { ordinal, devices: all.len() })?;
        let info = describe(ordinal, raw)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: `raw` came from the driver; what is retained here is released in `drop`.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, raw)) }?;
        Ok(Self(Arc::new(Primary { info, raw, context })))
    }

    /// What the driver says about it.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Its number in this process.
    pub fn ordinal(&self) -> usize {
        self.0.info.ordinal
    }

    /// Bytes of its memory that nobody uses.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn memory_free(&self) -> Result<usize, KernelError> {
        let _current = self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places outlive the call.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total)) }?;
        Ok(free)
    }

    /// Whether this GPU can load and store in the memory of `owner`; it always can in its own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn can_access(&self, owner: &Self) -> Result<bool, KernelError> {
        Ok(self.ordinal() == owner.ordinal() || can_access(self.0.raw, owner.0.raw)?)
    }

    /// Finds the GPU and the allocation that `address` lies in. `None` for anything that is not plain GPU
    /// memory: host memory, pinned or not, managed memory, and addresses that are nobody's.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`], which here means a broken context: an unknown address is `None`.
    pub fn locate(&self, address: u64) -> Result<Option<Location>, KernelError> {
        use sys::CUpointer_attribute as Attribute;
        const DEVICE_MEMORY: u32 = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32;
        if address == 0 {
            return Ok(None);
        }
        let _current = self.bind()?;
        let (mut memory_type, mut managed, mut ordinal, mut base, mut bytes) =
            (0u32, 0u32, -1i32, 0u64, 0usize);
        let mut attributes = [
            Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            Attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        ];
        let mut values: [*mut c_void; 5] = [
            (&raw mut memory_type).cast(),
            (&raw mut managed).cast(),
            (&raw mut ordinal).cast(),
            (&raw mut base).cast(),
            (&raw mut bytes).cast(),
        ];
        // SAFETY: five attributes and five places, each as wide as its attribute; this call takes any
        // address and leaves zeros for one that it does not know.
        unsafe { call!(cuPointerGetAttributes(5, attributes.as_mut_ptr(), values.as_mut_ptr(), address)) }?;
        if memory_type != DEVICE_MEMORY || managed != 0 {
            return Ok(None);
        }
        Ok(usize::try_from(ordinal).ok().map(|ordinal| Location { ordinal, base, bytes }))
    }

    /// Checks that all of `bytes` bytes from `address` on are memory of this GPU, across as many
    /// allocations as they touch (allocators that grow by mapping put one tensor over several).
    ///
    /// # Errors
    ///
    /// [`KernelError::NotDeviceMemory`] and [`KernelError::WrongDevice`]; nothing is read or written.
    pub fn check(&self, what: &'static str, address: u64, bytes: usize) -> Result<(), KernelError> {
        let mut next = address;
        let end = address.checked_add(bytes as u64).ok_or(KernelError::NotDeviceMemory { address })?;
        while next < end {
            let found = self.locate(next)?.ok_or(KernelError::NotDeviceMemory { address: next })?;
            if found.ordinal != self.ordinal() {
                return Err(KernelError::WrongDevice { what, needed: self.ordinal(), seen: found.ordinal });
            }
            // Where the size is not known, the last byte stands for the rest.
            let reached = found.base.saturating_add(found.bytes as u64);
            next = if reached > next { reached } else { (end - 1).max(next + 1) };
        }
        Ok(())
    }

    /// A span of memory that somebody else allocated on this GPU.
    ///
    /// # Errors
    ///
    /// Those of [`Device::check`].
    ///
    /// # Safety
    ///
    /// The memory stays allocated for as long as the span, or a part of it, is used by any stream.
    pub unsafe fn span(&self, address: u64, bytes: usize) -> Result<DeviceSpan, KernelError> {
        self.check("the buffer", address, bytes)?;
        Ok(DeviceSpan::new(self.ordinal(), address, bytes))
    }

    /// Makes the primary context current until the result is dropped.
    pub(crate) fn bind(&self) -> Result<Current<'_>, KernelError> {
        // SAFETY: the context is retained as long as `self` lives; the push is undone in `drop`.
        unsafe { call!(cuCtxPushCurrent_v2(self.0.context)) }?;
        Ok(Current(PhantomData))
    }

    pub(crate) fn context(&self) -> sys::CUcontext {
        self.0.context
    }

    pub(crate) fn raw(&self) -> sys::CUdevice {
        self.0.raw
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} {:?})", self.ordinal(), self.0.info.name)
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: pops what `bind` pushed on this thread (the marker makes `Current` stay on it); guards
        // nest, so nothing else is on top.
        let popped = unsafe { call!(cuCtxPopCurrent_v2(&mut context)) };
        if let Err(error) = popped {
            tracing::warn!(%error, "the previous context could not be restored");
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`; everything made in the context holds a `Device`, so it is gone.
        let released = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.raw)) };
        if let Err(error) = released {
            tracing::debug!(%error, "releasing the primary context");
        }
    }
}
