//! Property: with a driver present, calls come in a legal order, failures leave nothing allocated, and the
//! current context is as before after every call.
//!
//! Catches: a call without a context, leaks on error paths, wrong sizes, flags and structures, a launch
//! that is not refused. Cannot catch: what only a real driver knows; `tests/device.rs` is for that.
//!
//! The driver is `fake_cuda.c`, compiled here by the system's C compiler; each scenario runs in a process of
//! its own that finds it by name. Without a C compiler, or where libraries are not found in the way of Linux,
//! all count as ignored.

use libtest_mimic::{Arguments, Trial};
use myelon_kernel::*;
use myelon_lanes::Algorithm;
use myelon_ring::words::{AllReduceArgs, WaitCounts};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

const SCENARIO: &str = "MYELON_FAKE_SCENARIO";
const CLEAN: &str = "ALIVE: depth 0 contexts 0 streams 0 events 0 pages 0 reserved 0 mapped 0 allocated 0 opened 0 pinned 0 modules 0 graphs 0 execs 0 launches ";

#[macro_use]
mod trials;

fn main() {
    let mut trials: Vec<Trial> = trials![
        the_node_is_described,
        no_gpu_and_a_stub_are_told_apart,
        memory_is_mapped_filled_copied_and_found,
        a_failed_allocation_leaves_nothing,
        memory_does_without_handles_and_not_without_access,
        memory_is_shared_by_its_descriptor,
        what_cannot_be_imported_leaves_nothing,
        streams_and_events_keep_to_their_gpu,
        kernels_load_launch_and_report,
        a_refused_image_comes_back_with_the_log,
        an_image_that_lacks_a_kernel_is_refused,
        a_failed_compilation_comes_back_with_the_log,
        a_page_that_cannot_be_mapped_is_freed,
        a_capture_records_and_a_launch_does_it_again,
        a_capture_forbids_what_would_break_it,
        a_graph_outlives_the_streams_that_run_it,
        a_capture_that_fails_leaves_nothing,
    ];
    // A scenario's own process has the libraries.
    if std::env::var_os(SCENARIO).is_none()
        && let Err(because) = libraries()
    {
        trials = trials::ignored(trials, because);
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The folder with the fake libraries, made once, or why there can be none.
fn libraries() -> Result<&'static PathBuf, &'static String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        if !cfg!(target_os = "linux") {
            return Err("LD_LIBRARY_PATH, which leads to the fake, is Linux's".into());
        }
        // Cargo's folder for such files, if this is the machine that built the test.
        let below = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from).filter(|folder| folder.is_dir());
        let below = below.unwrap_or_else(std::env::temp_dir);
        let folder = below.join(format!("myelon-fake-cuda-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let source = folder.join("fake_cuda.c");
        std::fs::write(&source, include_str!("fake_cuda.c")).expect("the temporary folder can be written");
        let library = folder.join("libcuda.so.1");
        let mut cc = Command::new("cc");
        let output = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let output = output.map_err(|error| format!("the C compiler cc does not run: {error}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::copy(&library, folder.join("libnvrtc.so")).expect("the temporary folder can be written");
        Ok(folder)
    };
    FOLDER.get_or_init(make).as_ref()
}

/// Runs the scenario that has this test's name in a process with the fake driver, and returns what the
/// fake printed at the end. In that process itself, runs `body`.
fn scenario(name: &str, settings: &[(&str, &str)], body: fn()) {
    if std::env::var(SCENARIO).is_ok_and(|wanted| wanted == name) {
        return body();
    }
    let folder = libraries().expect("the fake driver can be made");
    let mut child = Command::new(std::env::current_exe().expect("a test knows its own path"));
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    child.env(SCENARIO, name).env("LD_LIBRARY_PATH", folder).env("MYELON_CACHE_DIR", folder.join(name));
    child.envs(settings.iter().copied());
    let output = child.output().expect("a test can run itself");
    let printed = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{settings:?}\n{printed}");
    // Looking for a library by name loads and unloads it, so there are several lines; all must be clean.
    let mut alive = printed.lines().filter(|line| line.contains("ALIVE")).peekable();
    assert!(alive.peek().is_some(), "the fake was not found\n{printed}");
    assert!(alive.all(|line| line.contains(CLEAN)), "{settings:?} left something behind\n{printed}");
}

fn the_node_is_described() {
    scenario("the_node_is_described", &[], || {
        let node = probe().unwrap();
        assert_eq!((node.driver_version, node.devices.len()), (13000, 2));
        let info = &node.devices[1];
        assert_eq!((info.name.as_str(), info.arch(), info.multiprocessors), ("Fake 1", 90, 132));
        assert_eq!((info.pci_bus_id.as_str(), info.memory_bytes), ("0000:01:00.0", 1 << 34));
        assert!(info.virtual_memory && info.posix_handles && info.cooperative_launch && !info.run_time_limit);
        let link = PeerLink { access: true, performance_rank: 0, native_atomics: true };
        assert_eq!(node.links, [[link; 2]; 2]);
        assert_eq!(Device::open(2).unwrap_err(), KernelError::NoSuchDevice { ordinal: 2, devices: 2 });
    });
}

fn no_gpu_and_a_stub_are_told_apart() {
    let name = "no_gpu_and_a_stub_are_told_apart";
    scenario(name, &[("FAKE_FAIL", "cuInit:100")], || match std::env::var("FAKE_FAIL").as_deref() {
        Ok("cuInit:100") => assert_eq!(probe(), Err(KernelError::NoDevice)),
        _ => assert_eq!(
            Device::open(0).unwrap_err().to_string(),
            "cuInit failed with CUDA_ERROR_STUB_LIBRARY (34)"
        ),
    });
    if std::env::var_os(SCENARIO).is_none() {
        scenario(name, &[("FAKE_FAIL", "cuInit:34")], || ());
    }
}

fn memory_is_mapped_filled_copied_and_found() {
    scenario("memory_is_mapped_filled_copied_and_found", &[], || {
        let gpus = [Device::open(0).unwrap(), Device::open(1).unwrap()];
        let streams = gpus.each_ref().map(|gpu| DeviceStream::new(gpu).unwrap());
        let memory = DeviceMemory::allocate(&gpus[0], PAGE_BYTES + 1, &gpus).unwrap();
        assert_eq!((memory.bytes(), memory.mapped_bytes()), (PAGE_BYTES + 1, 2 * PAGE_BYTES));
        assert!(memory.exportable() && memory.address().is_multiple_of(PAGE_BYTES as u64));

        memory.fill(&streams[0], 7).unwrap();
        memory.write(&streams[0], 3, b"abc").unwrap();
        let mut seen = [0; 8];
        memory.read(&streams[0], 0, &mut seen).unwrap();
        assert_eq!(seen, [7, 7, 7, b'a', b'b', b'c', 7, 7]);
        memory.read(&streams[0], PAGE_BYTES - 7, &mut seen).unwrap();
        let beyond = memory.write(&streams[0], PAGE_BYTES, b"ab").unwrap_err();
        assert_eq!(beyond, KernelError::OutOfBounds { offset: PAGE_BYTES, bytes: 2, size: PAGE_BYTES + 1 });
        let foreign = memory.fill(&streams[1], 0).unwrap_err();
        assert_eq!(foreign, KernelError::WrongDevice { what: "the span", needed: 1, seen: 0 });

        let (base, bytes) = (memory.address(), memory.mapped_bytes());
        let place = gpus[1].locate(base + 100).unwrap();
        assert_eq!(place, Some(Location { ordinal: 0, base, bytes }));
        let here = 0u8;
        let host = std::ptr::from_ref(&here) as u64;
        assert_eq!(gpus[0].locate(host).unwrap(), None);
        assert_eq!(gpus[0].locate(0).unwrap(), None);
        // SAFETY: the spans are only looked at, and the memory lives.
        unsafe {
            let span = gpus[0].span(base + 16, 100).unwrap();
            assert_eq!((span.ordinal(), span.address(), span.bytes()), (0, base + 16, 100));
            let wrong = gpus[1].span(base, 1).unwrap_err();
            assert_eq!(wrong, KernelError::WrongDevice { what: "the buffer", needed: 1, seen: 0 });
            assert_eq!(gpus[0].span(host, 1), Err(KernelError::NotDeviceMemory { address: host }));
            let end = base + bytes as u64;
            assert_eq!(gpus[0].span(end - 1, 2), Err(KernelError::NotDeviceMemory { address: end }));
            assert!(gpus[0].span(u64::MAX, 2).is_err() && gpus[0].span(0, 0).is_ok());
        }
        assert_eq!(DeviceMemory::allocate(&gpus[0], 0, &[]).unwrap_err(), KernelError::ZeroBytes);
    });
}

fn a_failed_allocation_leaves_nothing() {
    for call in ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"] {
        scenario("a_failed_allocation_leaves_nothing", &[("FAKE_FAIL", call)], || {
            let gpu = Device::open(0).unwrap();
            let error = DeviceMemory::allocate(&gpu, 1, &[]).unwrap_err();
            let KernelError::Driver { call, code: 999, .. } = error else { panic!("{error}") };
            assert_eq!(call, std::env::var("FAKE_FAIL").unwrap());
        });
        if std::env::var_os(SCENARIO).is_some() {
            return;
        }
    }
}

fn memory_does_without_handles_and_not_without_access() {
    let settings = [("FAKE_NO_HANDLES", "1"), ("FAKE_NO_PEERS", "1")];
    scenario("memory_does_without_handles_and_not_without_access", &settings, || {
        let gpus = [Device::open(0).unwrap(), Device::open(1).unwrap()];
        let memory = DeviceMemory::allocate(&gpus[0], 1, &gpus[..1]).unwrap();
        assert!(!memory.exportable());
        assert_eq!(memory.export().unwrap_err(), KernelError::NotExportable { ordinal: 0 });
        let error = DeviceMemory::allocate(&gpus[0], 1, &gpus).unwrap_err();
        assert_eq!(error, KernelError::NoPeerAccess { from: 1, to: 0 });
    });
}

fn memory_is_shared_by_its_descriptor() {
    scenario("memory_is_shared_by_its_descriptor", &[], || {
        let gpus = [Device::open(0).unwrap(), Device::open(1).unwrap()];
        let memory = DeviceMemory::allocate(&gpus[0], PAGE_BYTES + 1, &[]).unwrap();
        let handle = memory.export().unwrap();
        let bytes = memory.mapped_bytes();
        let peer = PeerMemory::import(&gpus[1], handle.as_fd(), bytes).unwrap();
        assert_eq!(peer.bytes(), 2 * PAGE_BYTES);
        let place = gpus[1].locate(peer.address() + 5).unwrap();
        assert_eq!(place, Some(Location { ordinal: 0, base: peer.address(), bytes }));
        // It holds the pages by itself.
        drop((memory, handle));
        assert_eq!(gpus[1].locate(peer.address()).unwrap().map(|place| place.ordinal), Some(0));
    });
}

fn what_cannot_be_imported_leaves_nothing() {
    let name = "what_cannot_be_imported_leaves_nothing";
    for call in ["cuMemImportFromShareableHandle", "none", "cuMemExportToShareableHandle"] {
        scenario(name, &[("FAKE_FAIL", call)], || {
            let gpu = Device::open(0).unwrap();
            let memory = DeviceMemory::allocate(&gpu, 1, &[]).unwrap();
            let failed = |result: Result<PeerMemory, KernelError>| match result {
                Err(KernelError::Driver { call, code, .. }) => (call, code),
                other => panic!("{other:?}"),
            };
            match std::env::var("FAKE_FAIL").unwrap().as_str() {
                "cuMemExportToShareableHandle" => {
                    assert!(matches!(memory.export(), Err(KernelError::Driver { code: 999, .. })));
                }
                "none" => {
                    let handle = memory.export().unwrap();
                    let import = |handle, bytes| PeerMemory::import(&gpu, handle, bytes);
                    let file = std::fs::File::open("/dev/null").unwrap();
                    assert_eq!(
                        failed(import(file.as_fd(), PAGE_BYTES)),
                        ("cuMemImportFromShareableHandle", 1)
                    );
                    assert_eq!(failed(import(handle.as_fd(), 2 * PAGE_BYTES)), ("cuMemMap", 1));
                    assert_eq!(import(handle.as_fd(), 0).unwrap_err(), KernelError::ZeroBytes);
                }
                call => {
                    let handle = memory.export().unwrap();
                    let error = failed(PeerMemory::import(&gpu, handle.as_fd(), PAGE_BYTES));
                    assert_eq!((error.0, error.1), (call, 999));
                }
            }
        });
        if std::env::var_os(SCENARIO).is_some() {
            return;
        }
    }
}

fn streams_and_events_keep_to_their_gpu() {
    scenario("streams_and_events_keep_to_their_gpu", &[("FAKE_FAIL", "cuEventQuery:600")], || {
        let gpus = [Device::open(0).unwrap(), Device::open(1).unwrap()];
        let stream = DeviceStream::new(&gpus[0]).unwrap();
        let (start, end) =
            (DeviceEvent::with_timing(&gpus[0]).unwrap(), DeviceEvent::with_timing(&gpus[0]).unwrap());
        let other = DeviceEvent::new(&gpus[1]).unwrap();
        stream.record(&start).unwrap();
        stream.wait(&other).unwrap();
        stream.record(&end).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(start.elapsed_us(&end), Ok(1500.0));
        assert!(start.elapsed_us(&other).is_err());
        assert_eq!((stream.query(), end.query()), (Ok(true), Ok(false)));
        assert!(matches!(stream.record(&other), Err(KernelError::WrongDevice { needed: 0, seen: 1, .. })));
        // SAFETY: the fake's handles are numbers.
        let borrowed = unsafe { DeviceStream::borrow(&gpus[0], stream.handle()) }.unwrap();
        assert_eq!(borrowed.handle(), stream.handle());
        // SAFETY: as above.
        let foreign = unsafe { DeviceStream::borrow(&gpus[1], stream.handle()) }.unwrap_err();
        assert_eq!(foreign, KernelError::ForeignStream { ordinal: 1 });
    });
}

fn kernels_load_launch_and_report() {
    scenario("kernels_load_launch_and_report", &[], || {
        let gpus = [Device::open(0).unwrap(), Device::open(1).unwrap()];
        for (gpu, cached) in gpus.iter().zip([false, true]) {
            let kernels = Kernels::load(gpu, ImageChoice::Nvrtc).unwrap();
            let Image::Nvrtc { version: (13, 0), arch: 90, cached: seen, .. } = kernels.image() else {
                panic!("{}", kernels.image())
            };
            assert_eq!(*seen, cached, "the second GPU takes what the first had compiled");
            // Two algorithms are for the four types of floats alone.
            assert_eq!(kernels.iter().count(), (5 * DTYPES.len() + 2 * 4) * OPS.len());
        }
        let kernels = Kernels::load(&gpus[0], ImageChoice::Nvrtc).unwrap();
        let kernel = kernels.all_reduce(Algorithm::Ring, "bf16", "sum").unwrap();
        assert_eq!(kernel.name(), "all_reduce_ring_bf16_sum");
        assert_eq!((kernel.registers(), kernel.static_shared_bytes(), kernel.threads_max()), (100, 128, 512));
        assert!(matches!(
            kernels.all_reduce(Algorithm::Ring, "bf16", "avg"),
            Err(KernelError::UnknownKernel { .. })
        ));
        assert_eq!(kernel.resident_blocks(512, 0), Ok(132));
        assert_eq!(kernel.resident_blocks(128, 0), Ok(528));
        assert_eq!(kernel.resident_blocks(512, 100 << 10), Ok(132));
        assert_eq!(kernel.resident_blocks(512, 64 << 10), Ok(132));
        assert!(matches!(kernel.resident_blocks(512, 1 << 20), Err(KernelError::Driver { .. })));

        let stream = DeviceStream::new(&gpus[0]).unwrap();
        let page = FaultPage::new(&gpus[0]).unwrap();
        assert_eq!((page.read(), page.waits()), (None, WaitCounts::default()));
        leave_captures_alone().unwrap();
        let mut args: AllReduceArgs = bytemuck::Zeroable::zeroed();
        (args.fault, args.rank) = (page.address(), 5);
        let shape = |blocks, threads| LaunchShape { blocks, threads, shared_bytes: 0 };
        let launch = |stream: &DeviceStream, blocks, threads| {
            // SAFETY: the fake touches only the fault page, which lives.
            unsafe { kernel.launch(stream, shape(blocks, threads), Launching::Together, &args) }
        };
        let refused = launch(&stream, 133, 512).unwrap_err();
        assert!(matches!(refused, KernelError::NotResident { needed: 133, available: 132, .. }), "{refused}");
        for (blocks, threads) in [(0, 512), (1, 0), (1, 513)] {
            assert!(matches!(launch(&stream, blocks, threads), Err(KernelError::LaunchShape { .. })));
        }
        let other = DeviceStream::new(&gpus[1]).unwrap();
        assert!(matches!(launch(&other, 1, 512), Err(KernelError::WrongDevice { needed: 0, seen: 1, .. })));
        assert_eq!(page.read(), None, "nothing was launched so far");
        launch(&stream, 132, 512).unwrap();
        let fault = page.read().unwrap();
        assert_eq!((fault.code, fault.rank, fault.peer, fault.lane), (1, 5, 132, 512));
        let waits = WaitCounts { polls_data: 1024, polls_credit: 2048, longest_ns: 5000 };
        assert_eq!(page.waits(), waits);
        page.clear();
        assert_eq!((page.read(), page.waits()), (None, WaitCounts::default()));
    });
}

fn a_refused_image_comes_back_with_the_log() {
    scenario("a_refused_image_comes_back_with_the_log", &[("FAKE_FAIL", "cuModuleLoadDataEx:222")], || {
        let gpu = Device::open(0).unwrap();
        for choice in [ImageChoice::Auto, ImageChoice::Nvrtc] {
            let error = Kernels::load(&gpu, choice).unwrap_err();
            let KernelError::ImageRefused { code: 222, name, log, .. } = error else { panic!("{error}") };
            assert_eq!(
                (name.as_str(), log.as_str()),
                ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the fake loader says no")
            );
        }
    });
}

fn an_image_that_lacks_a_kernel_is_refused() {
    scenario("an_image_that_lacks_a_kernel_is_refused", &[("FAKE_FAIL", "cuModuleGetFunction:500")], || {
        let gpu = Device::open(0).unwrap();
        let error = Kernels::load(&gpu, ImageChoice::Nvrtc).unwrap_err();
        assert!(matches!(error, KernelError::UnknownKernel { .. }), "{error}");
    });
}

fn a_failed_compilation_comes_back_with_the_log() {
    scenario(
        "a_failed_compilation_comes_back_with_the_log",
        &[("FAKE_FAIL", "nvrtcCompileProgram:6")],
        || {
            let gpu = Device::open(0).unwrap();
            let error = Kernels::load(&gpu, ImageChoice::Nvrtc).unwrap_err();
            assert_eq!(
                error.to_string(),
                "nvrtcCompileProgram failed with NVRTC_ERROR_COMPILATION (6) the fake log"
            );
        },
    );
}

fn a_page_that_cannot_be_mapped_is_freed() {
    let settings = [("FAKE_FAIL", "cuMemHostGetDevicePointer_v2")];
    scenario("a_page_that_cannot_be_mapped_is_freed", &settings, || {
        let gpu = Device::open(0).unwrap();
        assert!(matches!(FaultPage::new(&gpu), Err(KernelError::Driver { code: 999, .. })));
    });
}

/// Memory of `gpu`, the stream to fill it on, and what lies in it.
fn operand(gpu: &Device, bytes: usize) -> (Operand, std::sync::Arc<DeviceStream>) {
    (
        Operand::shared(SharedMemory::allocate(gpu, bytes, &[]).unwrap()),
        DeviceStream::new(gpu).unwrap().into(),
    )
}

fn content(operand: &Operand, stream: &DeviceStream) -> Vec<u8> {
    let mut seen = vec![0; 4];
    operand.read(stream, &mut seen).unwrap();
    seen
}

fn a_capture_records_and_a_launch_does_it_again() {
    scenario("a_capture_records_and_a_launch_does_it_again", &[], || {
        let gpu = Device::open(0).unwrap();
        let kernels = Kernels::load(&gpu, ImageChoice::Nvrtc).unwrap();
        let kernel = kernels.all_reduce(Algorithm::Ring, "bf16", "sum").unwrap();
        let (memory, stream) = operand(&gpu, 4);
        let page = FaultPage::new(&gpu).unwrap();
        memory.fill(&stream, 1).unwrap();
        let mut args: AllReduceArgs = bytemuck::Zeroable::zeroed();
        (args.fault, args.rank) = (page.address(), 5);
        let capture = Capture::begin(&stream).unwrap();
        // SAFETY: the fake touches only the fault page, which outlives the graph.
        unsafe {
            kernel.launch(
                &stream,
                LaunchShape { blocks: 7, threads: 32, shared_bytes: 0 },
                Launching::Together,
                &args,
            )
        }
        .unwrap();
        memory.part(1, 2).unwrap().fill(&stream, 9).unwrap();
        let graph = capture.end().unwrap();
        assert_eq!((page.read(), content(&memory, &stream)), (None, vec![1; 4]), "it was done at once");
        for byte in [2, 3] {
            memory.fill(&stream, byte).unwrap();
            graph.launch(&stream).unwrap();
            assert_eq!(content(&memory, &stream), [byte, 9, 9, byte]);
            let fault = page.read().unwrap();
            assert_eq!((fault.rank, fault.peer, fault.lane), (5, 7, 32));
            page.clear();
        }
        let other = Device::open(1).unwrap();
        let there = DeviceStream::new(&other).unwrap().into();
        assert!(matches!(graph.launch(&there), Err(KernelError::WrongDevice { needed: 0, seen: 1, .. })));
        assert_eq!(page.read(), None);
        drop(graph);
    });
}

/// The fake ends the process where one of these reaches the driver.
fn a_capture_forbids_what_would_break_it() {
    scenario("a_capture_forbids_what_would_break_it", &[], || {
        let gpu = Device::open(0).unwrap();
        let (memory, stream) = operand(&gpu, 4);
        let (unused, used) = (SharedMemory::allocate(&gpu, 4, &[]).unwrap(), operand(&gpu, 4));
        used.0.fill(&used.1, 1).unwrap();
        let graph = Capture::begin(&stream).unwrap().end().unwrap();
        let capture = Capture::begin(&stream).unwrap();
        let captured = |result: Result<(), KernelError>| {
            assert!(matches!(result, Err(KernelError::Captured { .. })), "{result:?}");
        };
        captured(Capture::begin(&stream).map(drop));
        captured(Capture::begin(&used.1).map(drop));
        captured(stream.synchronize());
        captured(stream.query().map(drop));
        captured(memory.read(&stream, &mut [0; 4]));
        captured(memory.write(&stream, &[0; 4]));
        captured(stream.host_task(Box::new(|| panic!("it ran"))));
        captured(graph.launch(&stream).map(drop));
        captured(SharedMemory::allocate(&gpu, 4, &[]).map(drop));
        captured(StreamUse::Ours(stream.clone()).ended().map(drop));
        assert!(!StreamUse::Ours(used.1.clone()).is_done(), "that could not be asked");
        // What is dropped meanwhile is freed later.
        drop((unused, used, graph));
        drop(capture);
        stream.synchronize().unwrap();
        assert_eq!(content(&memory, &stream), [0; 4]);
        // Another allocation frees it.
        SharedMemory::allocate(&gpu, 4, &[]).unwrap();

        // A capture that was begun by other means is seen where memory would have to be kept.
        let begun_by_others = {
            // SAFETY: the stream lives longer.
            unsafe { DeviceStream::borrow(&gpu, stream.handle()) }.unwrap().into()
        };
        let capture = Capture::begin(&stream).unwrap();
        captured(memory.fill(&begun_by_others, 3));
        drop(capture);
    });
}

fn a_graph_outlives_the_streams_that_run_it() {
    let settings = [("FAKE_FAIL", "cuStreamQuery:600")];
    scenario("a_graph_outlives_the_streams_that_run_it", &settings, || {
        let gpu = Device::open(0).unwrap();
        let (memory, stream) = operand(&gpu, 4);
        let (kept, _) = operand(&gpu, 4);
        let capture = Capture::begin(&stream).unwrap();
        kept.fill(&stream, 8).unwrap();
        let graph = capture.end().unwrap();
        let address = kept.address();
        drop(kept);
        graph.launch(&stream).unwrap();
        // The stream is not done, and then its event is not, so neither the graph nor its memory may go.
        drop(graph);
        // SAFETY: this process has one thread that reads the environment.
        unsafe { std::env::set_var("FAKE_FAIL", "cuEventQuery:600") };
        SharedMemory::allocate(&gpu, 4, &[]).unwrap();
        assert!(gpu.locate(address).unwrap().is_some(), "the memory went while the graph ran");
        // SAFETY: as above.
        unsafe { std::env::set_var("FAKE_FAIL", "") };
        SharedMemory::allocate(&gpu, 4, &[]).unwrap();
        assert!(gpu.locate(address).unwrap().is_none(), "the memory stayed");
        drop(memory);
    });
}

fn a_capture_that_fails_leaves_nothing() {
    for call in
        ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphUpload"]
    {
        scenario("a_capture_that_fails_leaves_nothing", &[("FAKE_FAIL", call)], || {
            let gpu = Device::open(0).unwrap();
            let (memory, stream) = operand(&gpu, 4);
            let (last, _) = operand(&gpu, 4);
            last.fill(&stream, 1).unwrap();
            // Where dropping what was recorded asks the stream with its lock held, this does not end.
            std::thread::spawn(|| {
                std::thread::sleep(std::time::Duration::from_secs(20));
                eprintln!("it hangs");
                std::process::exit(1);
            });
            let error = Capture::begin(&stream).and_then(|capture| {
                memory.fill(&stream, 1)?;
                last.fill(&stream, 2)?;
                drop(last);
                capture.end()
            });
            let KernelError::Driver { call, code: 999, .. } = error.unwrap_err() else { panic!("no error") };
            assert_eq!(call, std::env::var("FAKE_FAIL").unwrap());
            memory.fill(&stream, 2).unwrap();
            assert_eq!(content(&memory, &stream), [2; 4]);
        });
        if std::env::var_os(SCENARIO).is_some() {
            return;
        }
    }
}
