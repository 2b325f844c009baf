//! Property: on a real GPU, memory reaches its peers, events tell time, kernels load both ways and say how
//! many of their blocks are resident together.
//!
//! Catches: what only a real driver knows: structures, flags, images that it refuses. Cannot catch: whether
//! the kernels are right. Without a GPU all count as ignored.

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use myelon_kernel::*;

#[macro_use]
mod trials;

fn main() {
    let mut trials = trials![
        what_one_gpu_writes_its_peers_and_the_host_see,
        events_order_streams_and_tell_time,
        graphs_do_what_was_captured,
        a_fault_page_has_an_address_on_the_gpu,
        kernels_load_in_some_way,
    ];
    for choice in [ImageChoice::Aot, ImageChoice::Nvrtc] {
        let test = move || kernels_load_and_know_what_is_resident(choice);
        trials.push(Trial::ignorable_test(format!("kernels_load_and_know_what_is_resident::{choice}"), test));
    }
    // Any other error of the driver is for the tests to fail with.
    if let Err(error @ (KernelError::NoDriver { .. } | KernelError::NoDevice)) = probe() {
        trials = trials::ignored(trials, &error.to_string());
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// All GPUs, at least one.
fn gpus() -> Vec<Device> {
    let node = probe().unwrap_or_else(|error| panic!("{error}"));
    (0..node.devices.len()).map(|ordinal| Device::open(ordinal).unwrap()).collect()
}

fn what_one_gpu_writes_its_peers_and_the_host_see() {
    let gpus = gpus();
    for owner in &gpus {
        let memory = DeviceMemory::allocate(owner, 3 << 20, &gpus).unwrap();
        assert_eq!(memory.mapped_bytes(), 4 << 20);
        eprintln!("{memory:?} exportable {}", memory.exportable());
        let stream = DeviceStream::new(owner).unwrap();
        let pattern: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
        memory.fill(&stream, 9).unwrap();
        memory.write(&stream, 5, &pattern[5..]).unwrap();
        let mut seen = vec![0; pattern.len()];
        memory.read(&stream, 0, &mut seen).unwrap();
        assert_eq!((&seen[..5], &seen[5..]), (&[9; 5][..], &pattern[5..]));

        for peer in gpus.iter().filter(|peer| peer.ordinal() != owner.ordinal()) {
            let place = peer.locate(memory.address() + 100).unwrap().expect("memory of a GPU");
            assert_eq!(place.ordinal, owner.ordinal());
            let copy = DeviceMemory::allocate(peer, 3 << 20, &[]).unwrap();
            let there = DeviceStream::new(peer).unwrap();
            let wrong = memory.fill(&there, 1).unwrap_err();
            assert!(matches!(wrong, KernelError::WrongDevice { .. }), "{wrong}");
            copy.fill(&there, 0).unwrap();
        }
        owner.check("the memory", memory.address(), memory.bytes()).unwrap();
        let here = [0u8; 16];
        let host = here.as_ptr() as u64;
        assert_eq!(owner.locate(host).unwrap(), None);
        let refused = owner.check("the host's", host, 16).unwrap_err();
        assert_eq!(refused, KernelError::NotDeviceMemory { address: host });
    }
}

fn events_order_streams_and_tell_time() {
    for gpu in gpus() {
        let memory = DeviceMemory::allocate(&gpu, 256 << 20, &[]).unwrap();
        let stream = DeviceStream::new(&gpu).unwrap();
        let (start, end) = (DeviceEvent::with_timing(&gpu).unwrap(), DeviceEvent::with_timing(&gpu).unwrap());
        memory.fill(&stream, 0).unwrap();
        stream.record(&start).unwrap();
        // SAFETY: the memory lives until the stream has finished below.
        unsafe { stream.fill(memory.span(), 1) }.unwrap();
        stream.record(&end).unwrap();
        let other = DeviceStream::new(&gpu).unwrap();
        other.wait(&end).unwrap();
        other.synchronize().unwrap();
        assert_eq!((end.query(), stream.query()), (Ok(true), Ok(true)));
        let us = start.elapsed_us(&end).unwrap();
        eprintln!("256 MiB set in {us} us");
        assert!(us > 1.0 && us < 1e6, "{us}");
        assert!(start.elapsed_us(&DeviceEvent::with_timing(&gpu).unwrap()).is_err());
        // SAFETY: the stream lives longer than the borrow.
        let borrowed = unsafe { DeviceStream::borrow(&gpu, other.handle()) }.unwrap();
        assert_eq!(borrowed.query(), Ok(true));
    }
}

fn graphs_do_what_was_captured() {
    for gpu in gpus() {
        let stream = std::sync::Arc::new(DeviceStream::new(&gpu).unwrap());
        let memory = Operand::shared(SharedMemory::allocate(&gpu, 64 << 20, &[]).unwrap());
        let kept = Operand::shared(SharedMemory::allocate(&gpu, 1, &[]).unwrap());
        memory.fill(&stream, 1).unwrap();
        let capture = Capture::begin(&stream).unwrap();
        assert_eq!(stream.is_captured(), Ok(true));
        memory.part(0, 1).unwrap().fill(&stream, 2).unwrap();
        kept.fill(&stream, 3).unwrap();
        assert!(matches!(stream.synchronize(), Err(KernelError::Captured { .. })));
        drop(kept);
        let graph = capture.end().unwrap();
        let seen = || {
            let mut seen = [0; 2];
            memory.read(&stream, &mut seen).unwrap();
            seen
        };
        assert_eq!(seen(), [1, 1]);
        for byte in [4, 5] {
            memory.fill(&stream, byte).unwrap();
            graph.launch(&stream).unwrap();
            assert_eq!(seen(), [2, byte]);
        }
        memory.fill(&stream, 6).unwrap();
        graph.launch(&stream).unwrap();
        drop(graph);
        assert_eq!(seen(), [2, 6]);
        drop(Capture::begin(&stream).unwrap());
        assert_eq!(stream.is_captured(), Ok(false));
    }
}

fn a_fault_page_has_an_address_on_the_gpu() {
    for gpu in gpus() {
        let page = FaultPage::new(&gpu).unwrap();
        assert_ne!(page.address(), 0);
        assert_eq!(page.read(), None);
        assert_eq!(gpu.locate(page.address()).unwrap(), None, "pinned host memory is no device memory");
    }
}

fn kernels_load_in_some_way() {
    let kernels = Kernels::load(&gpus()[0], ImageChoice::Auto).unwrap();
    eprintln!(
        "{}: {:?}",
        kernels.image(),
        kernels.all_reduce(myelon_lanes::Algorithm::Ring, "bf16", "sum").unwrap()
    );
}

/// Ignored where this build has no image for the GPU, or this machine has no NVRTC.
fn kernels_load_and_know_what_is_resident(choice: ImageChoice) -> Result<Completion, Failed> {
    let gpu = &gpus()[0];
    let start = std::time::Instant::now();
    let kernels = match Kernels::load(gpu, choice) {
        Ok(kernels) => kernels,
        Err(error @ (KernelError::NoImage { .. } | KernelError::NoNvrtc { .. })) => {
            eprintln!("SKIPPED: kernels_load_and_know_what_is_resident::{choice}, because {error}");
            return Ok(Completion::ignored_with(error));
        }
        Err(other) => return Err(other.into()),
    };
    eprintln!("{}, loaded in {:?}", kernels.image(), start.elapsed());
    // Four algorithms have all types, two have floats alone.
    assert_eq!(kernels.iter().count(), (4 * DTYPES.len() + 2 * 4) * OPS.len());
    for (_, kernel) in kernels.iter() {
        let threads = kernel.threads_max();
        let blocks = kernel.resident_blocks(threads, 0).unwrap();
        assert!(blocks >= gpu.info().multiprocessors, "{kernel:?}: {blocks} blocks of {threads} threads");
        assert_eq!(kernel.local_bytes(), 0, "{kernel:?} spills");
    }
    Ok(Completion::Completed)
}
