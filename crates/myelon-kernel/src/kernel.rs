//! The kernels of one GPU: loaded all at once, found by name, launched with what they need to be resident.

use crate::cache::Cache;
use crate::device::Device;
use crate::driver::call;
use crate::error::KernelError;
use crate::image::{AOT, DTYPES, FLOAT_DTYPES, Image, ImageChoice, OPS, SOURCES};
use crate::module::Module;
use crate::node::DeviceInfo;
use crate::nvrtc::nvrtc;
use crate::stream::DeviceStream;
use cudarc::driver::sys;
use myelon_lanes::Algorithm;
use myelon_ring::words::{AllReduceArgs, DirectStage};
use std::ffi::c_void;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The source whose kernels are an algorithm's; they take [`AllReduceArgs`] and are named `source_dtype_op`.
fn source_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::OneShot => "all_reduce_one_shot",
        Algorithm::TwoShot => "all_reduce_two_shot",
        Algorithm::OneShotLamport => "all_reduce_one_shot_lamport",
        Algorithm::TwoShotLamport => "all_reduce_two_shot_lamport",
        Algorithm::Direct => "all_reduce_direct",
        Algorithm::Ring => "all_reduce_ring",
        Algorithm::Neighbour => "all_reduce_neighbour",
    }
}

/// All kernels of one GPU, on the GPU and ready to launch.
///
/// Dropping it unloads them: no launch may be queued or running, and no captured graph may hold one.
#[derive(Debug)]
pub struct Kernels {
    /// By algorithm, type and operation, in the order of their lists; none where an algorithm is not for a type.
    kernels: Vec<Option<Kernel>>,
    image: Image,
    // After the kernels: their handles are the modules'.
    _modules: Vec<Module>,
}

impl Kernels {
    /// Loads every kernel, so that no launch has to wait for code, not even beside a kernel that spins.
    ///
    /// `Auto` takes the embedded image, and NVRTC where there is none or the driver refuses it (a driver
    /// that is older than the nvcc was). The other choices are honoured or refused.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoImage`] for a choice that this build cannot honour; [`KernelError::ImageRefused`]
    /// with the driver's log; [`KernelError::NoNvrtc`] and [`KernelError::Nvrtc`] with the compiler's log;
    /// [`KernelError::UnknownKernel`] where an image lacks a kernel; [`KernelError::Driver`].
    pub fn load(device: &Device, choice: ImageChoice) -> Result<Self, KernelError> {
        let no_image =
            |reason: &str| KernelError::NoImage { choice: choice.name(), reason: reason.to_owned() };
        if SOURCES.is_empty() {
            return Err(no_image("this build embeds no kernels"));
        }
        match choice {
            ImageChoice::Aot if !AOT => Err(no_image("this build found no nvcc and embeds no images")),
            ImageChoice::Aot => Self::load_embedded(device),
            ImageChoice::Nvrtc => Self::load_compiled(device),
            ImageChoice::Auto if !AOT => Self::load_compiled(device),
            ImageChoice::Auto => Self::load_embedded(device).or_else(|error| match error {
                KernelError::ImageRefused { .. } => {
                    tracing::warn!(%error, "compiling the kernels instead");
                    Self::load_compiled(device)
                }
                other => Err(other),
            }),
        }
    }

    fn load_embedded(device: &Device) -> Result<Self, KernelError> {
        let mut modules = Vec::new();
        for source in SOURCES {
            let fatbin = source.fatbin.expect("a build with nvcc embeds an image of every source");
            modules.push((None, Module::load(device, fatbin, &Image::Aot.to_string(), source.name)?));
        }
        Self::collect(device, modules, Image::Aot)
    }

    fn load_compiled(device: &Device) -> Result<Self, KernelError> {
        let (compiled, image) = nvrtc()?.compile(SOURCES, device.info().arch(), &Cache::of_this_user())?;
        let described = image.to_string();
        let mut modules = Vec::new();
        for part in compiled {
            modules.push((part.dtype, Module::load(device, &part.cubin, &described, part.source_name)?));
        }
        Self::collect(device, modules, image)
    }

    /// Finds every kernel; a module with a type holds that type's kernels, one without holds all.
    fn collect(
        device: &Device,
        modules: Vec<(Option<&'static str>, Module)>,
        image: Image,
    ) -> Result<Self, KernelError> {
        let mut kernels = Vec::new();
        for algorithm in Algorithm::ALL {
            let source = source_of(algorithm);
            for (dtype, op) in DTYPES.into_iter().flat_map(|dtype| OPS.map(|op| (dtype, op))) {
                if algorithm.needs_floats() && !FLOAT_DTYPES.contains(&dtype) {
                    kernels.push(None);
                    continue;
                }
                let name = format!("{source}_{dtype}_{op}");
                let holds = |(only, module): &&(Option<&str>, Module)| {
                    module.source_name() == source && only.is_none_or(|only| only == dtype)
                };
                let Some((_, module)) = modules.iter().find(holds) else {
                    return Err(KernelError::UnknownKernel { name });
                };
                kernels.push(Some(Kernel::new(device, module.function(&name)?, name)?));
            }
        }
        let count = kernels.iter().flatten().count();
        tracing::debug!(device = device.ordinal(), %image, kernels = count, "kernels loaded");
        let modules = modules.into_iter().map(|(_, module)| module).collect();
        Ok(Self { kernels, image, _modules: modules })
    }

    /// The all-reduce by `algorithm` for `dtype` and `op`, words of [`DTYPES`] and [`OPS`].
    ///
    /// # Errors
    ///
    /// [`KernelError::UnknownKernel`] for other words, and where the algorithm has no kernel for the type.
    pub fn all_reduce(&self, algorithm: Algorithm, dtype: &str, op: &str) -> Result<&Kernel, KernelError> {
        let first = Algorithm::ALL.iter().position(|&other| other == algorithm);
        let (of_type, of_op) =
            (DTYPES.iter().position(|it| *it == dtype), OPS.iter().position(|it| *it == op));
        let kernel = match (first, of_type, of_op) {
            (Some(first), Some(of_type), Some(of_op)) => {
                self.kernels[(first * DTYPES.len() + of_type) * OPS.len() + of_op].as_ref()
            }
            _ => None,
        };
        let unknown =
            || KernelError::UnknownKernel { name: format!("{}_{dtype}_{op}", source_of(algorithm)) };
        kernel.ok_or_else(unknown)
    }

    /// All of them, each with its algorithm.
    pub fn iter(&self) -> impl Iterator<Item = (Algorithm, &Kernel)> {
        let algorithms = Algorithm::ALL.into_iter().flat_map(|it| [it; DTYPES.len() * OPS.len()]);
        algorithms.zip(&self.kernels).filter_map(|(algorithm, kernel)| Some((algorithm, kernel.as_ref()?)))
    }

    /// Which image they came from.
    pub fn image(&self) -> &Image {
        &self.image
    }
}

/// Bytes of dynamic shared memory that a block of `threads` threads has in a call by `algorithm`.
pub(crate) fn shared_bytes(algorithm: Algorithm, threads: u32) -> u32 {
    if algorithm == Algorithm::Direct { threads * size_of::<DirectStage>() as u32 } else { 0 }
}

/// Threads of a block whose shared memory GPU `info` can give to a call by `algorithm`: whole warps, at most `threads`.
pub(crate) fn threads_fitting(info: &DeviceInfo, algorithm: Algorithm, threads: u32) -> u32 {
    // A kernel has some that is not dynamic, too.
    let room = info.shared_bytes_max.saturating_sub(SHARED_STATIC_MAX);
    room.checked_div(shared_bytes(algorithm, 1)).map_or(threads, |fitting| threads.min(fitting / 32 * 32))
}

/// More than any kernel has of shared memory that is not dynamic, in bytes.
const SHARED_STATIC_MAX: u32 = 1 << 10;

/// What a launch asks of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// How a launch stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launching {
    /// All blocks of the grid start together or none.
    Together,
    /// Blocks need not start together. The grid may be prepared while the launch before it still runs, where the
    /// GPU offers that; the kernel itself waits for all earlier work of the stream. Its blocks may take their places
    /// before the other launch has ended: no launch that this one does not follow may need those.
    Following,
    /// Blocks need not start together, and start behind all earlier work of the stream.
    Alone,
}

/// One kernel on one GPU.
pub struct Kernel {
    device: Device,
    raw: sys::CUfunction,
    name: String,
    registers: u32,
    static_shared_bytes: u32,
    local_bytes: u32,
    threads_max: u32,
    residency: Mutex<Residency>,
}

/// What was asked of the driver about residency, so that a launch need not ask again.
#[derive(Default)]
struct Residency {
    /// The dynamic shared memory that the function is set to allow; zero is the driver's default.
    shared_allowed: u32,
    /// `(threads, shared_bytes, blocks)`.
    known: Vec<(u32, u32, u32)>,
}

/// Shared memory of a block that needs no permission.
const SHARED_DEFAULT: u32 = 48 << 10;

// SAFETY: a function handle may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Kernel {}

impl Kernel {
    fn new(device: &Device, raw: sys::CUfunction, name: String) -> Result<Self, KernelError> {
        use sys::CUfunction_attribute as Attribute;
        let _current = device.bind()?;
        let attribute = |attribute: Attribute| -> Result<u32, KernelError> {
            let mut value = 0;
            // SAFETY: the function's module is loaded; `value` outlives the call.
            unsafe { call!(cuFuncGetAttribute(&mut value, attribute, raw)) }?;
            Ok(value.max(0).unsigned_abs())
        };
        Ok(Self {
            device: device.clone(),
            raw,
            name,
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            static_shared_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            threads_max: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            residency: Mutex::default(),
        })
    }

    /// Its symbol, such as `all_reduce_ring_bf16_sum`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Registers of a thread.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Shared memory of a block that the kernel always takes, in bytes.
    pub fn static_shared_bytes(&self) -> u32 {
        self.static_shared_bytes
    }

    /// Local memory of a thread in bytes: spilled registers and arrays that are indexed at run time.
    pub fn local_bytes(&self) -> u32 {
        self.local_bytes
    }

    /// The most threads that a block can have.
    pub fn threads_max(&self) -> u32 {
        self.threads_max
    }

    /// How many blocks of `threads` threads and `shared_bytes` bytes of dynamic shared memory an otherwise
    /// idle GPU holds at the same time. The driver is asked once for each pair.
    ///
    /// # Errors
    ///
    /// [`KernelError::LaunchShape`] for no threads or too many; [`KernelError::Driver`] where the shared
    /// memory is more than a block can have.
    pub fn resident_blocks(&self, threads: u32, shared_bytes: u32) -> Result<u32, KernelError> {
        self.check_threads(1, threads)?;
        let mut residency = self.residency.lock().unwrap_or_else(PoisonError::into_inner);
        let known = residency.known.iter().find(|known| (known.0, known.1) == (threads, shared_bytes));
        if let Some(&(_, _, blocks)) = known {
            return Ok(blocks);
        }
        let _current = self.device.bind()?;
        let beyond = shared_bytes.saturating_add(self.static_shared_bytes) > SHARED_DEFAULT;
        if beyond && shared_bytes > residency.shared_allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let wanted = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function's module is loaded. The permission only grows, so no launch loses it.
            unsafe { call!(cuFuncSetAttribute(self.raw, attribute, wanted)) }?;
            residency.shared_allowed = shared_bytes;
        }
        let (mut per_multiprocessor, threads_int) = (0, threads as i32);
        // SAFETY: the function's module is loaded; the place outlives the call; `threads` is at most 1024.
        unsafe {
            call!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut per_multiprocessor,
                self.raw,
                threads_int,
                shared_bytes as usize
            ))
        }?;
        let blocks = per_multiprocessor.max(0).unsigned_abs() * self.device.info().multiprocessors;
        residency.known.push((threads, shared_bytes, blocks));
        Ok(blocks)
    }

    /// Queues a launch on `stream`.
    ///
    /// # Errors
    ///
    /// [`KernelError::WrongDevice`], [`KernelError::LaunchShape`] and [`KernelError::NotResident`] are
    /// found before anything is queued; [`KernelError::Driver`] else.
    ///
    /// # Safety
    ///
    /// Every address in `args` is what its field says, with the sizes that follow from the other fields, as
    /// seen by this kernel's GPU, and stays so until the stream has passed the launch, on all ranks.
    pub unsafe fn launch(
        &self,
        stream: &DeviceStream,
        shape: LaunchShape,
        launching: Launching,
        args: &AllReduceArgs,
    ) -> Result<(), KernelError> {
        let (needed, seen) = (self.device.ordinal(), stream.device().ordinal());
        if needed != seen {
            return Err(KernelError::WrongDevice { what: "the stream", needed, seen });
        }
        self.check_threads(shape.blocks, shape.threads)?;
        let available = self.resident_blocks(shape.threads, shape.shared_bytes)?;
        if shape.blocks > available {
            let kernel = self.name.clone();
            return Err(KernelError::NotResident {
                kernel,
                ordinal: needed,
                needed: shape.blocks,
                available,
            });
        }

        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        let id = match launching {
            Launching::Together => {
                value.cooperative = 1;
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            }
            Launching::Following | Launching::Alone => {
                value.programmaticStreamSerializationAllowed = 1;
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            }
        };
        // GPUs before sm_90 prepare no launch ahead.
        let plain = launching == Launching::Alone
            || launching == Launching::Following && self.device.info().compute_capability.0 < 9;
        let mut attributes = [sys::CUlaunchAttribute { id, pad: [0; 4], value }];
        let config = sys::CUlaunchConfig {
            gridDimX: shape.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: stream.raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(!plain),
        };
        let mut parameters: [*mut c_void; 1] = [std::ptr::from_ref(args).cast_mut().cast()];
        tracing::trace!(kernel = self.name, ?shape, device = needed, "launch");
        let _current = self.device.bind()?;
        // SAFETY: the function's module is loaded and its one parameter is an `AllReduceArgs` by value,
        // which the driver copies before it returns; the rest is the caller's promise.
        unsafe { call!(cuLaunchKernelEx(&config, self.raw, parameters.as_mut_ptr(), std::ptr::null_mut())) }
    }

    fn check_threads(&self, blocks: u32, threads: u32) -> Result<(), KernelError> {
        let threads_max = self.threads_max;
        if blocks > 0 && (1..=threads_max).contains(&threads) {
            return Ok(());
        }
        Err(KernelError::LaunchShape { kernel: self.name.clone(), blocks, threads, threads_max })
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({} on GPU {}, {} registers)", self.name, self.device.ordinal(), self.registers)
    }
}
