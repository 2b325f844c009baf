//! The door to libcuda: finding it, checking that it has what we call, and turning its codes into errors.
//!
//! cudarc loads libcuda at the first call and panics where there is none or where a function is missing.
//! [`driver`] therefore looks first: for the library, then for every name in [`REQUIRED`]. A [`crate::Device`]
//! exists only after that, so no later call can panic.

use crate::error::KernelError;
use cudarc::driver::sys;
use std::sync::OnceLock;

/// Every driver function that this crate calls through [`call!`]; a test holds the list equal to the text.
const REQUIRED: &[&str] = &[
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDeviceCanAccessPeer",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetP2PAttribute",
    "cuDeviceGetPCIBusId",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuIpcCloseMemHandle",
    "cuIpcGetMemHandle",
    "cuIpcOpenMemHandle_v2",
    "cuLaunchHostFunc",
    "cuLaunchKernelEx",
    "cuMemAddressFree",
    "cuMemAddressReserve",
    "cuMemCreate",
    "cuMemExportToShareableHandle",
    "cuMemFreeHost",
    "cuMemGetAddressRange_v2",
    "cuMemGetAllocationGranularity",
    "cuMemGetAllocationPropertiesFromHandle",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemImportFromShareableHandle",
    "cuMemMap",
    "cuMemRelease",
    "cuMemRetainAllocationHandle",
    "cuMemSetAccess",
    "cuMemUnmap",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuPointerGetAttribute",
    "cuPointerGetAttributes",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuThreadExchangeStreamCaptureMode",
];

/// Where containers mount the driver without telling the loader.
const DRIVER_PATHS: &[&str] = &["/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"];

/// Calls a driver function by name and turns its code into a `Result<(), KernelError>`. The caller
/// writes the `unsafe` and the reason for it.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        $crate::driver::check(stringify!($name), cudarc::driver::sys::$name($($argument),*))
    };
}
pub(crate) use call;

/// `Ok` for success, else the error with the call's name.
pub(crate) fn check(call: &'static str, code: sys::CUresult) -> Result<(), KernelError> {
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        // The derived Debug prints the variant's name. cudarc's `DriverError` would ask the driver for it.
        code => Err(KernelError::Driver { call, code: code as u32, name: format!("{code:?}") }),
    }
}

/// `true` for success, `false` for "not ready yet".
pub(crate) fn check_ready(call: &'static str, code: sys::CUresult) -> Result<bool, KernelError> {
    match code {
        sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        code => check(call, code).map(|()| true),
    }
}

/// The driver, once it has been found and initialised.
pub(crate) struct Driver {
    /// 1000 times the major version plus 10 times the minor: 13000 is CUDA 13.0.
    pub(crate) version: u32,
}

impl Driver {
    /// A function that only some drivers have, or `None`.
    ///
    /// # Safety
    ///
    /// `F` is the `extern "C"` function pointer type of `name`.
    pub(crate) unsafe fn optional<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: the library is loaded, since `self` exists; the type is the caller's promise.
        unsafe { sys::culib().get::<F>(name.as_bytes()).ok().map(|symbol| *symbol) }
    }
}

/// Finds and initialises the driver, once for the process.
pub(crate) fn driver() -> Result<&'static Driver, KernelError> {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let started = start()?;
    Ok(DRIVER.get_or_init(|| started))
}

fn start() -> Result<Driver, KernelError> {
    if !present() && !DRIVER_PATHS.iter().any(|path| open_for_good(path) && present()) {
        let names = cudarc::get_lib_name_candidates("cuda");
        return Err(KernelError::NoDriver { tried: list(names.iter().map(String::as_str), DRIVER_PATHS) });
    }
    let mut driver = Driver { version: 0 };
    for name in REQUIRED {
        // SAFETY: the pointer is not called, only looked up.
        if unsafe { driver.optional::<unsafe extern "C" fn()>(name) }.is_none() {
            return Err(KernelError::OldDriver { missing: name });
        }
    }
    // SAFETY: the function was found just now; zero is the only flag there is.
    match unsafe { call!(cuInit(0)) } {
        Err(KernelError::Driver { code, .. }) if code == sys::CUresult::CUDA_ERROR_NO_DEVICE as u32 => {
            return Err(KernelError::NoDevice);
        }
        other => other?,
    }
    let mut version = 0;
    // SAFETY: `version` outlives the call.
    unsafe { call!(cuDriverGetVersion(&mut version)) }?;
    driver.version = version.unsigned_abs();
    Ok(driver)
}

/// Whether cudarc would find libcuda by name.
fn present() -> bool {
    // SAFETY: loads and unloads libraries named libcuda; the driver's constructors have no preconditions.
    unsafe { sys::is_culib_present() }
}

/// The names and paths as one line, each once, in order.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>, paths: &[&'a str]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for name in names.chain(paths.iter().copied()) {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}

/// Loads the library at `path` and keeps it, so that a later look-up by its name succeeds.
#[cfg(unix)]
pub(crate) fn open_for_good(path: &str) -> bool {
    use std::ffi::{CString, c_char, c_int, c_void};
    unsafe extern "C" {
        fn dlopen(filename: *const c_char, flags: c_int) -> *mut c_void;
    }
    /// Of Linux's `dlfcn.h`: resolve everything now, and let later libraries see the symbols.
    const NOW_AND_GLOBAL: c_int = 0x2 | 0x100;
    let Ok(path) = CString::new(path) else { return false };
    // SAFETY: `path` is a C string; the handle is never closed, so nothing loaded can vanish.
    !unsafe { dlopen(path.as_ptr(), NOW_AND_GLOBAL) }.is_null()
}

/// Loading by path is known for Unix only; elsewhere the loader's own search must do.
#[cfg(not(unix))]
pub(crate) fn open_for_good(_path: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    //! Property: every function called through `call!` is looked for before anything is called.
    //!
    //! Catches: a call added without its name in `REQUIRED`, which would panic with an old driver.

    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_driver_call_is_looked_for_first() {
        let text = [
            include_str!("device.rs"),
            include_str!("driver.rs"),
            include_str!("fault.rs"),
            include_str!("foreign.rs"),
            include_str!("graph.rs"),
            include_str!("kernel.rs"),
            include_str!("memory.rs"),
            include_str!("module.rs"),
            include_str!("node.rs"),
            include_str!("peer.rs"),
            include_str!("stream.rs"),
        ]
        .concat();
        let mut called = BTreeSet::new();
        for marker in ["call!(", "sys::"] {
            for part in text.split(marker).skip(1) {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let lower = name.strip_prefix("cu").and_then(|rest| rest.chars().next());
                if lower.is_some_and(|c| c.is_ascii_uppercase()) {
                    called.insert(name);
                }
            }
        }
        let listed: BTreeSet<String> = REQUIRED.iter().map(|name| name.to_string()).collect();
        assert_eq!(called, listed);
    }

    #[test]
    fn a_code_becomes_an_error_without_asking_the_driver() {
        assert_eq!(check("cuInit", sys::CUresult::CUDA_SUCCESS), Ok(()));
        let error = check("cuInit", sys::CUresult::CUDA_ERROR_STUB_LIBRARY).unwrap_err();
        assert_eq!(error.to_string(), "cuInit failed with CUDA_ERROR_STUB_LIBRARY (34)");
        assert_eq!(check_ready("cuEventQuery", sys::CUresult::CUDA_ERROR_NOT_READY), Ok(false));
        assert!(check_ready("cuEventQuery", sys::CUresult::CUDA_ERROR_LAUNCH_FAILED).is_err());
    }

    #[test]
    fn a_list_names_each_once() {
        assert_eq!(list(["a", "b", "a"].into_iter(), &["c", "b"]), "a, b, c");
    }
}
