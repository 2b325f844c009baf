//! Compiling the embedded sources at run time, for the GPU at hand.

use crate::cache::{Cache, Hash};
use crate::driver::{list, open_for_good};
use crate::error::KernelError;
use crate::image::{DTYPES, FLOAT_DTYPES, HEADERS, Image, Source};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// Every NVRTC function that this module calls.
const REQUIRED: &[&str] = &[
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcGetSupportedArchs",
    "nvrtcVersion",
];

/// Folders of a toolkit that may hold NVRTC, below `CUDA_HOME` or `CUDA_PATH`.
const FOLDERS: [&str; 3] = ["lib64", "lib", "targets/x86_64-linux/lib"];
/// Where a toolkit is installed by default.
const TOOLKIT: &str = "/usr/local/cuda";
/// Major versions whose libraries cudarc finds by name.
const MAJORS: &[u32] = if cfg!(feature = "cuda-13") { &[13, 12] } else { &[12] };

/// An NVRTC that was found and has everything that we call.
pub(crate) struct Nvrtc {
    version: (u32, u32),
    /// The architectures it compiles for, such as 90.
    known: Vec<u32>,
}

/// A source, or its part for one element type, that was compiled.
#[derive(Clone)]
pub(crate) struct Compiled {
    key: u64,
    pub(crate) source_name: &'static str,
    /// The only type whose kernels it holds; `None` for all.
    pub(crate) dtype: Option<&'static str>,
    pub(crate) cubin: Arc<[u8]>,
    log: String,
}

/// One compilation to be done.
struct Job {
    source: &'static Source,
    dtype: Option<&'static str>,
    options: Vec<String>,
    key: u64,
}

/// Macros of `kernels/include/myelon/all_reduce.cuh` by which a source asks for kernels of all types, or of the floats.
/// Then it is compiled once for each type, in parallel, with [`DTYPE_MACRO`] defined as the type's name. All types at
/// once take 20 to 30 s of one core.
const ALL_MACRO: &str = "MYELON_ALL_REDUCE(";
const FLOATS_MACRO: &str = "MYELON_ALL_REDUCE_FLOATS(";
const DTYPE_MACRO: &str = "MYELON_DTYPE";

/// Finds NVRTC, once for the process.
pub(crate) fn nvrtc() -> Result<&'static Nvrtc, KernelError> {
    static NVRTC: OnceLock<Nvrtc> = OnceLock::new();
    if let Some(nvrtc) = NVRTC.get() {
        return Ok(nvrtc);
    }
    let started = start()?;
    Ok(NVRTC.get_or_init(|| started))
}

fn start() -> Result<Nvrtc, KernelError> {
    let folders = toolkit_folders();
    if !present() && !folders.iter().any(|folder| preload(folder) && present()) {
        let names = cudarc::get_lib_name_candidates("nvrtc");
        let folders: Vec<_> = folders.iter().map(|folder| folder.to_string_lossy()).collect();
        let folders: Vec<&str> = folders.iter().map(|folder| folder.as_ref()).collect();
        return Err(KernelError::NoNvrtc { tried: list(names.iter().map(String::as_str), &folders) });
    }
    for name in REQUIRED {
        // SAFETY: the library can be loaded; the pointer is not called, only looked up.
        if unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(KernelError::NoNvrtc { tried: format!("a library that has {name}") });
        }
    }
    let (mut major, mut minor, mut count) = (0, 0, 0);
    // SAFETY: both places outlive the call.
    check("nvrtcVersion", unsafe { sys::nvrtcVersion(&mut major, &mut minor) })?;
    // SAFETY: `count` outlives the call.
    check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) })?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: NVRTC writes as many numbers as it said.
    check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) })?;
    let known = known.into_iter().map(i32::unsigned_abs).collect();
    Ok(Nvrtc { version: (major.unsigned_abs(), minor.unsigned_abs()), known })
}

/// Whether cudarc would find libnvrtc by name.
fn present() -> bool {
    // SAFETY: loads and unloads libraries named libnvrtc; their constructors have no preconditions.
    unsafe { sys::is_culib_present() }
}

fn toolkit_folders() -> Vec<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let homes = homes.filter(|home| !home.as_os_str().is_empty()).chain([PathBuf::from(TOOLKIT)]);
    homes.flat_map(|home| FOLDERS.map(|folder| home.join(folder))).collect()
}

/// Loads NVRTC from `folder` by path. Its helper library comes first: NVRTC asks for that by name.
fn preload(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let files: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let open = |file: &str| folder.join(file).to_str().is_some_and(open_for_good);
    MAJORS.iter().any(|major| {
        let helper = format!("libnvrtc-builtins.so.{major}.");
        let library = format!("libnvrtc.so.{major}");
        files.contains(&library)
            && files.iter().filter(|file| file.starts_with(&helper)).any(|file| open(file))
            && open(&library)
    })
}

fn check(call: &'static str, code: sys::nvrtcResult) -> Result<(), KernelError> {
    match code {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        code => {
            let (name, log) = (format!("{code:?}"), String::new());
            Err(KernelError::Nvrtc { call, code: code as u32, name, log })
        }
    }
}

/// The best of `known` for a GPU of architecture `arch`: its own, else the newest before it in the same
/// major family, whose code it can run.
fn best_arch(known: &[u32], arch: u32) -> Option<u32> {
    known.iter().copied().filter(|&other| other / 10 == arch / 10 && other <= arch).max()
}

impl Nvrtc {
    /// Compiles `sources` for a GPU of architecture `arch`, or finds them compiled: in this process, then
    /// in `cache`.
    pub(crate) fn compile(
        &self,
        sources: &'static [Source],
        arch: u32,
        cache: &Cache,
    ) -> Result<(Vec<Compiled>, Image), KernelError> {
        static DONE: Mutex<Vec<Compiled>> = Mutex::new(Vec::new());
        let version = self.version;
        let arch = best_arch(&self.known, arch).ok_or_else(|| KernelError::NvrtcArchitecture {
            major: version.0,
            minor: version.1,
            arch,
            known: self.known.clone(),
        })?;
        // Held while compiling, so that several GPUs of one process compile once.
        let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let jobs = self.jobs(sources, arch);
        let mut open = Vec::new();
        for job in &jobs {
            if done.iter().any(|compiled| compiled.key == job.key) {
                continue;
            }
            match cache.get(job.key) {
                Some(cubin) => done.push(job.done(cubin, String::new())),
                None => open.push(job),
            }
        }
        for compiled in in_parallel(&open)? {
            cache.put(compiled.key, &compiled.cubin);
            done.push(compiled);
        }
        let compile_ms = if open.is_empty() { 0 } else { start.elapsed().as_millis() as u64 };
        tracing::info!(arch, compiled = open.len(), cached = jobs.len() - open.len(), compile_ms, "kernels");

        let of = |job: &Job| done.iter().find(|compiled| compiled.key == job.key).cloned();
        let compiled: Vec<Compiled> = jobs.iter().filter_map(of).collect();
        let log: Vec<&str> =
            compiled.iter().map(|part| part.log.as_str()).filter(|log| !log.is_empty()).collect();
        let log = log.join("\n");
        let image = Image::Nvrtc { version, arch, cached: open.is_empty(), compile_ms, log };
        Ok((compiled, image))
    }

    fn jobs(&self, sources: &'static [Source], arch: u32) -> Vec<Job> {
        let mut jobs = Vec::new();
        for source in sources {
            for dtype in dtypes_of(source.text) {
                let options = options(arch, dtype);
                let key = self.key(source, HEADERS, &options);
                jobs.push(Job { source, dtype, options, key });
            }
        }
        jobs
    }

    fn key(&self, source: &Source, headers: &[(&str, &str)], options: &[String]) -> u64 {
        let (major, minor) = self.version;
        let mut hash = Hash::new().part(&major.to_le_bytes()).part(&minor.to_le_bytes());
        for option in options {
            hash = hash.part(option.as_bytes());
        }
        hash = hash.part(source.name.as_bytes()).part(source.text.as_bytes());
        for (name, text) in headers {
            hash = hash.part(name.as_bytes()).part(text.as_bytes());
        }
        hash.value()
    }
}

/// The types for which a source is compiled, each by itself; one without a type where it knows none.
fn dtypes_of(text: &str) -> Vec<Option<&'static str>> {
    let types = if text.contains(FLOATS_MACRO) {
        FLOAT_DTYPES
    } else if text.contains(ALL_MACRO) || text.contains(DTYPE_MACRO) {
        &DTYPES
    } else {
        return vec![None];
    };
    types.iter().copied().map(Some).collect()
}

/// The compiler's options. The architecture is a real one, so that the result is a cubin, which the driver
/// loads without compiling.
fn options(arch: u32, dtype: Option<&str>) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture=sm_{arch}"),
        "-std=c++17".to_owned(),
        // NVRTC has no offsetof of its own; this is how its front end spells it.
        "-D__builtin_offsetof(type, field)=__INTADDR__(&(((type*)0)->field))".to_owned(),
    ];
    options.extend(dtype.map(|dtype| format!("-D{DTYPE_MACRO}={dtype}")));
    options
}

impl Job {
    fn done(&self, cubin: Vec<u8>, log: String) -> Compiled {
        let (key, source_name, dtype) = (self.key, self.source.name, self.dtype);
        Compiled { key, source_name, dtype, cubin: cubin.into(), log }
    }
}

/// Compiles the jobs on as many threads as there are cores, and returns them in any order.
fn in_parallel(jobs: &[&Job]) -> Result<Vec<Compiled>, KernelError> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let workers = cores.min(jobs.len());
    std::thread::scope(|scope| {
        let work = |worker: usize| {
            let mine = jobs.iter().skip(worker).step_by(workers);
            mine.map(|job| {
                compile(job.source, HEADERS, &job.options).map(|(cubin, log)| job.done(cubin, log))
            })
            .collect::<Result<Vec<Compiled>, KernelError>>()
        };
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().expect("compiling does not panic")?);
        }
        Ok(all)
    })
}

/// An NVRTC program that is destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Compiles; returns the cubin and what the compiler printed.
fn compile(
    source: &Source,
    headers: &[(&str, &str)],
    options: &[String],
) -> Result<(Vec<u8>, String), KernelError> {
    let c_string = |text: &str| CString::new(text).expect("sources and options hold no zero byte");
    let c_strings = |texts: &mut dyn Iterator<Item = &str>| texts.map(c_string).collect::<Vec<CString>>();
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();

    let text = c_string(source.text);
    let name = c_string(&format!("{}.cu", source.name));
    let header_texts = c_strings(&mut headers.iter().map(|header| header.1));
    let header_names = c_strings(&mut headers.iter().map(|header| header.0));
    let (header_texts, header_names) = (&header_texts[..], &header_names[..]);
    let (text_pointers, name_pointers) = (pointers(header_texts), pointers(header_names));

    let mut raw = std::ptr::null_mut();
    // SAFETY: every string outlives the program, which is dropped first; the counts are the lengths.
    check("nvrtcCreateProgram", unsafe {
        sys::nvrtcCreateProgram(
            &mut raw,
            text.as_ptr(),
            name.as_ptr(),
            headers.len() as i32,
            text_pointers.as_ptr(),
            name_pointers.as_ptr(),
        )
    })?;
    let program = Program(raw);

    let options = c_strings(&mut options.iter().map(String::as_str));
    let option_pointers = pointers(&options);
    // SAFETY: the program lives; the options outlive the call.
    let code = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, option_pointers.as_ptr()) };
    let log = log(&program);
    check("nvrtcCompileProgram", code).map_err(|error| match error {
        KernelError::Nvrtc { call, code, name, .. } => {
            KernelError::Nvrtc { call, code, name, log: log.clone() }
        }
        other => other,
    })?;

    let mut bytes = 0;
    // SAFETY: the program was compiled; `bytes` outlives the call.
    check("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(program.0, &mut bytes) })?;
    let mut cubin = vec![0u8; bytes];
    // SAFETY: NVRTC writes as many bytes as it said.
    check("nvrtcGetCUBIN", unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) })?;
    Ok((cubin, log))
}

/// What the compiler printed; empty where it cannot be had.
fn log(program: &Program) -> String {
    let mut bytes = 0;
    // SAFETY: the program lives; `bytes` outlives the call.
    if check("nvrtcGetProgramLogSize", unsafe { sys::nvrtcGetProgramLogSize(program.0, &mut bytes) }).is_err()
    {
        return String::new();
    }
    let mut log = vec![0u8; bytes];
    // SAFETY: NVRTC writes as many bytes as it said, the last of them zero.
    if check("nvrtcGetProgramLog", unsafe { sys::nvrtcGetProgramLog(program.0, log.as_mut_ptr().cast()) })
        .is_err()
    {
        return String::new();
    }
    String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned()
}

#[cfg(test)]
#[path = "nvrtc_tests.rs"]
mod tests;
