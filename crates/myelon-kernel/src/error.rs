//! What can go wrong between Rust and the driver.

/// Why a call of this crate did not do what was asked.
///
/// Every variant prints without touching the driver, so an error can be shown on a machine that has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No CUDA driver library could be loaded.
    #[error("no CUDA driver: could not load any of {tried}")]
    NoDriver {
        /// The library names and paths that were tried, separated by commas.
        tried: String,
    },
    /// The driver is older than this crate needs.
    #[error("the CUDA driver is too old: it lacks {missing}")]
    OldDriver {
        /// The first function that was not found.
        missing: &'static str,
    },
    /// The driver is there and shows no GPU.
    #[error("the CUDA driver shows no GPU")]
    NoDevice,
    /// A driver call failed. Device memory that the call was to write is unspecified.
    #[error("{call} failed with {name} ({code})")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The driver's error code.
        code: u32,
        /// The driver's name for the code.
        name: String,
    },
    /// The ordinal names no GPU of this process.
    #[error("there is no GPU {ordinal}: the driver shows {devices}")]
    NoSuchDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many GPUs the driver shows.
        devices: usize,
    },
    /// The GPU cannot map physical memory at reserved addresses, which windows need.
    #[error("GPU {ordinal} has no virtual memory management")]
    NoVirtualMemory {
        /// The GPU.
        ordinal: usize,
    },
    /// The GPU has not so much memory left. Nothing was allocated.
    #[error("GPU {ordinal} has {free} bytes left, and {needed} are needed")]
    OutOfMemory {
        /// The GPU.
        ordinal: usize,
        /// Bytes that were to be taken.
        needed: usize,
        /// Bytes that the driver says are free.
        free: usize,
    },
    /// The driver gave memory that other processes cannot map.
    #[error(
        "the memory of GPU {ordinal} cannot be shared with other processes: the driver offers no file descriptors for it"
    )]
    NotExportable {
        /// The GPU.
        ordinal: usize,
    },
    /// Memory of somebody else that ranks on other GPUs, or in other processes, cannot map.
    #[error("{reason}")]
    NotShareable {
        /// Why not.
        reason: String,
    },
    /// One GPU cannot reach the memory of another.
    #[error("GPU {from} cannot access the memory of GPU {to}")]
    NoPeerAccess {
        /// The GPU that would read and write.
        from: usize,
        /// The GPU that owns the memory.
        to: usize,
    },
    /// Something belongs to another GPU than the call needs.
    #[error("{what} must belong to GPU {needed}, not to GPU {seen}")]
    WrongDevice {
        /// Which argument.
        what: &'static str,
        /// The GPU it must belong to.
        needed: usize,
        /// The GPU it belongs to.
        seen: usize,
    },
    /// A stream was not made in the primary context of its GPU.
    #[error("the stream does not belong to the primary context of GPU {ordinal}")]
    ForeignStream {
        /// The GPU whose context was needed.
        ordinal: usize,
    },
    /// A capture of the stream, or of this thread, is under way, and this can't be part of it. Nothing was
    /// queued.
    #[error("a stream is being captured, and {what} can't be part of that")]
    Captured {
        /// What was asked for.
        what: &'static str,
    },
    /// The address is not in plain GPU memory: it is host memory, managed memory or nothing.
    #[error("address {address:#x} is not in the memory of a GPU")]
    NotDeviceMemory {
        /// The first address that is not.
        address: u64,
    },
    /// A range does not lie inside its memory.
    #[error("{bytes} bytes at offset {offset} do not fit in {size} bytes")]
    OutOfBounds {
        /// Where the range begins.
        offset: usize,
        /// How long it is.
        bytes: usize,
        /// How much there is.
        size: usize,
    },
    /// An allocation of nothing.
    #[error("an allocation needs at least one byte")]
    ZeroBytes,
    /// A launch has no blocks, no threads, or more threads a block than the kernel can have.
    #[error(
        "{kernel} cannot run as {blocks} blocks of {threads} threads: 1 to {threads_max} threads a block"
    )]
    LaunchShape {
        /// The kernel.
        kernel: String,
        /// Blocks asked for.
        blocks: u32,
        /// Threads a block asked for.
        threads: u32,
        /// The most threads a block of this kernel can have.
        threads_max: u32,
    },
    /// The blocks of a launch cannot all be on the GPU at the same time. Nothing was launched.
    #[error("{kernel} needs {needed} blocks resident together, GPU {ordinal} holds {available}")]
    NotResident {
        /// The kernel.
        kernel: String,
        /// The GPU.
        ordinal: usize,
        /// Blocks asked for.
        needed: u32,
        /// Blocks that fit.
        available: u32,
    },
    /// Input and output of a call do not fit each other or the type. Nothing was launched.
    #[error("{reason}")]
    Operands {
        /// In which way.
        reason: &'static str,
    },
    /// A plan reaches beyond the windows that the rings were opened with. Nothing was launched.
    #[error("the plan has {seen} {what}, the windows allow 1 to {most}")]
    PlanBeyondWindow {
        /// Which number.
        what: &'static str,
        /// What the plan says.
        seen: usize,
        /// The most that the windows allow.
        most: usize,
    },
    /// No kernel of that name was loaded.
    #[error("there is no kernel {name}")]
    UnknownKernel {
        /// The name that was asked for.
        name: String,
    },
    /// The kernels cannot come from where they were asked to come from.
    #[error("MYELON_KERNELS={choice} cannot be honoured: {reason}")]
    NoImage {
        /// The choice.
        choice: &'static str,
        /// Why not.
        reason: String,
    },
    /// The driver refused an image of the kernels.
    #[error("the driver refused the {image} image of {source_name}: {name} ({code}) {log}")]
    ImageRefused {
        /// Which image.
        image: String,
        /// The kernel source it was made of.
        source_name: &'static str,
        /// The driver's error code.
        code: u32,
        /// The driver's name for the code.
        name: String,
        /// What the driver's loader printed.
        log: String,
    },
    /// No NVRTC library could be loaded.
    #[error("no NVRTC: could not load any of {tried}")]
    NoNvrtc {
        /// The library names and folders that were tried, separated by commas.
        tried: String,
    },
    /// NVRTC compiles for no architecture that the GPU can run.
    #[error("NVRTC {major}.{minor} cannot compile for sm_{arch}: it knows {known:?}")]
    NvrtcArchitecture {
        /// NVRTC's major version.
        major: u32,
        /// NVRTC's minor version.
        minor: u32,
        /// The architecture of the GPU, such as 90.
        arch: u32,
        /// The architectures that NVRTC knows.
        known: Vec<u32>,
    },
    /// An NVRTC call failed; where it was the compilation, `log` holds the compiler's messages.
    #[error("{call} failed with {name} ({code}) {log}")]
    Nvrtc {
        /// The function.
        call: &'static str,
        /// NVRTC's error code.
        code: u32,
        /// NVRTC's name for the code.
        name: String,
        /// The compiler's messages, empty for other calls.
        log: String,
    },
    /// A setting has a value that is not known.
    #[error("{setting}={value} is not known: use one of {known}")]
    Setting {
        /// The name of the environment variable.
        setting: &'static str,
        /// What it held.
        value: String,
        /// What it may hold.
        known: &'static str,
    },
}
