//! What is there: the driver, the GPUs, and who can reach whom.

use crate::driver::{call, driver};
use crate::error::KernelError;
use cudarc::driver::sys;
use std::ffi::{CStr, c_char};

/// One GPU, as the driver describes it. Asking makes no context and takes no memory on the GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's number for the GPU in this process, from 0; `CUDA_VISIBLE_DEVICES` changes it.
    pub ordinal: usize,
    /// The product's name.
    pub name: String,
    /// Compute capability, major and minor: `(9, 0)` is sm_90.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: usize,
    /// PCI address such as `0000:1b:00.0`; the same GPU has the same address in every process.
    pub pci_bus_id: String,
    /// Whether physical memory can be mapped at reserved addresses.
    pub virtual_memory: bool,
    /// Whether such memory can be handed to another process as a file descriptor.
    pub posix_handles: bool,
    /// Whether a launch can ask that all its blocks be resident together.
    pub cooperative_launch: bool,
    /// The most shared memory that a block can have, in bytes.
    pub shared_bytes_max: u32,
    /// Whether the driver ends kernels that run long, as it does on a GPU with a display.
    pub run_time_limit: bool,
}

impl DeviceInfo {
    /// The architecture as one number: 90 for sm_90.
    pub fn arch(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }
}

/// How one GPU reaches the memory of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLink {
    /// Whether loads and stores reach it at all.
    pub access: bool,
    /// The driver's relative rank of the link; 0 is the fastest kind on the node.
    pub performance_rank: u32,
    /// Whether atomics work natively across the link; they do over NVLink, and over PCIe they mostly do not.
    pub native_atomics: bool,
}

/// The driver and the GPUs of this machine that the process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// 1000 times the major version plus 10 times the minor: 13000 is CUDA 13.0.
    pub driver_version: u32,
    /// The GPUs; an index is an ordinal.
    pub devices: Vec<DeviceInfo>,
    /// `[from][to]`: how `from` reaches the memory of `to`. The diagonal has access.
    pub links: Vec<Vec<PeerLink>>,
}

/// Asks the driver what is there.
///
/// # Errors
///
/// [`KernelError::NoDriver`] names the libraries that were tried; [`KernelError::OldDriver`] the function
/// that the driver lacks; [`KernelError::NoDevice`] where it shows no GPU; else [`KernelError::Driver`].
///
/// # Example
///
/// ```
/// match myelon_kernel::probe() {
///     Ok(node) => println!("{} GPUs, driver {}", node.devices.len(), node.driver_version),
///     Err(error) => println!("no GPU to use: {error}"),
/// }
/// ```
pub fn probe() -> Result<Node, KernelError> {
    let driver = driver()?;
    let raw = handles()?;
    if raw.is_empty() {
        return Err(KernelError::NoDevice);
    }
    let devices =
        raw.iter().enumerate().map(|(ordinal, &raw)| describe(ordinal, raw)).collect::<Result<_, _>>()?;
    let mut links = Vec::new();
    for (from, &from_raw) in raw.iter().enumerate() {
        let mut row = Vec::new();
        for (to, &to_raw) in raw.iter().enumerate() {
            row.push(if from == to {
                PeerLink { access: true, performance_rank: 0, native_atomics: true }
            } else {
                link(from_raw, to_raw)?
            });
        }
        links.push(row);
    }
    Ok(Node { driver_version: driver.version, devices, links })
}

/// The driver's handles of all GPUs, by ordinal.
pub(crate) fn handles() -> Result<Vec<sys::CUdevice>, KernelError> {
    let mut count = 0;
    // SAFETY: the driver is initialised, and `count` outlives the call.
    unsafe { call!(cuDeviceGetCount(&mut count)) }?;
    (0..count)
        .map(|ordinal| {
            let mut device = 0;
            // SAFETY: `device` outlives the call, the ordinal is below the count.
            unsafe { call!(cuDeviceGet(&mut device, ordinal)) }.map(|()| device)
        })
        .collect()
}

/// What the driver says about one GPU.
pub(crate) fn describe(ordinal: usize, device: sys::CUdevice) -> Result<DeviceInfo, KernelError> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute: Attribute| -> Result<u32, KernelError> {
        let mut value = 0;
        // SAFETY: `value` outlives the call, `device` came from the driver.
        unsafe { call!(cuDeviceGetAttribute(&mut value, attribute, device)) }?;
        Ok(value.max(0).unsigned_abs())
    };
    let mut name: [c_char; 256] = [0; 256];
    // SAFETY: the driver writes at most 255 bytes and a zero.
    unsafe { call!(cuDeviceGetName(name.as_mut_ptr(), 256, device)) }?;
    let mut pci: [c_char; 32] = [0; 32];
    // SAFETY: the driver writes at most 31 bytes and a zero; an address has 12.
    unsafe { call!(cuDeviceGetPCIBusId(pci.as_mut_ptr(), 32, device)) }?;
    let mut memory_bytes = 0;
    // SAFETY: `memory_bytes` outlives the call.
    unsafe { call!(cuDeviceTotalMem_v2(&mut memory_bytes, device)) }?;
    Ok(DeviceInfo {
        ordinal,
        name: text(&name),
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes,
        pci_bus_id: text(&pci),
        virtual_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)? != 0,
        posix_handles: attribute(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)?
            != 0,
        cooperative_launch: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
        shared_bytes_max: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        run_time_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0,
    })
}

/// How `from` reaches the memory of `to`; the two differ.
fn link(from: sys::CUdevice, to: sys::CUdevice) -> Result<PeerLink, KernelError> {
    use sys::CUdevice_P2PAttribute as Attribute;
    let attribute = |attribute: Attribute| -> Result<u32, KernelError> {
        let mut value = 0;
        // SAFETY: `value` outlives the call, both devices came from the driver and differ.
        unsafe { call!(cuDeviceGetP2PAttribute(&mut value, attribute, from, to)) }?;
        Ok(value.max(0).unsigned_abs())
    };
    Ok(PeerLink {
        access: can_access(from, to)? && attribute(Attribute::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED)? != 0,
        performance_rank: attribute(Attribute::CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK)?,
        native_atomics: attribute(Attribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)? != 0,
    })
}

/// Whether `from` can load and store in the memory of `to`.
pub(crate) fn can_access(from: sys::CUdevice, to: sys::CUdevice) -> Result<bool, KernelError> {
    let mut can = 0;
    // SAFETY: `can` outlives the call, both devices came from the driver.
    unsafe { call!(cuDeviceCanAccessPeer(&mut can, from, to)) }?;
    Ok(can != 0)
}

fn text(bytes: &[c_char]) -> String {
    // SAFETY: c_char and u8 have the same size and every value is valid for both.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), bytes.len()) };
    CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
