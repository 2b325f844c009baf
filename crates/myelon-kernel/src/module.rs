//! An image on a GPU.

use crate::device::Device;
use crate::driver::{call, driver};
use crate::error::KernelError;
use cudarc::driver::sys;
use std::ffi::{CString, c_void};
use std::fmt;

/// Bytes of the loader's log that are kept.
const LOG_BYTES: usize = 8192;

/// A loaded image. Dropping it unloads the code, so no kernel of it may be queued or running.
pub(crate) struct Module {
    device: Device,
    source_name: &'static str,
    raw: sys::CUmodule,
}

// SAFETY: a module handle may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for Module {}

impl Module {
    /// Loads `image`, a cubin or fatbin; `described` and `source_name` say in an error what it was.
    pub(crate) fn load(
        device: &Device,
        image: &[u8],
        described: &str,
        source_name: &'static str,
    ) -> Result<Self, KernelError> {
        let _current = device.bind()?;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The size travels in the place of a pointer; the driver's interface is so.
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), LOG_BYTES as *mut c_void];
        let mut raw = std::ptr::null_mut();
        // SAFETY: the image is whole (made by nvcc or NVRTC, its length checked by the cache) and says its
        // own length; options and values are two each; the log outlives the call.
        let loaded = unsafe {
            call!(cuModuleLoadDataEx(
                &mut raw,
                image.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr()
            ))
        };
        match loaded {
            Ok(()) => Ok(Self { device: device.clone(), source_name, raw }),
            Err(KernelError::Driver { code, name, .. }) => {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
                let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
                Err(KernelError::ImageRefused { image: described.to_owned(), source_name, code, name, log })
            }
            Err(other) => Err(other),
        }
    }

    /// The kernel source it was made of.
    pub(crate) fn source_name(&self) -> &'static str {
        self.source_name
    }

    /// The function `name`, with its code on the GPU, so that no later launch has to load it.
    pub(crate) fn function(&self, name: &str) -> Result<sys::CUfunction, KernelError> {
        let _current = self.device.bind()?;
        let unknown = || KernelError::UnknownKernel { name: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded; `function` and the name outlive the call.
        let found = unsafe { call!(cuModuleGetFunction(&mut function, self.raw, c_name.as_ptr())) };
        found.map_err(|error| match error {
            KernelError::Driver { code, .. } if code == sys::CUresult::CUDA_ERROR_NOT_FOUND as u32 => {
                unknown()
            }
            other => other,
        })?;

        type Load = unsafe extern "C" fn(sys::CUfunction) -> sys::CUresult;
        const LOAD: &str = "cuFuncLoad";
        // SAFETY: that is the function's type; drivers before 12.4 lack it.
        if let Some(load) = unsafe { driver()?.optional::<Load>(LOAD) } {
            // SAFETY: the function belongs to a loaded module.
            crate::driver::check(LOAD, unsafe { load(function) })?;
        }
        Ok(function)
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({} on GPU {})", self.source_name, self.device.ordinal())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by us, unloaded once.
        let unloaded = self.device.bind().and_then(|_current| unsafe { call!(cuModuleUnload(self.raw)) });
        if let Err(error) = unloaded {
            tracing::debug!(%error, "unloading kernels");
        }
    }
}
