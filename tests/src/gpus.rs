//! What only the CUDA backend has: memory and streams of somebody else, and devices to mix up.

use std::time::{Duration, Instant};

use myelon_collectives::{Backend, Communicator, DataType, ErrorKind, ReduceOp, Region};
use myelon_kernel::{DeviceMemory, DeviceStream};

fn ranks_on(gpus: usize, ranks: usize) -> Vec<Communicator> {
    let devices = (0..ranks).map(|rank| rank % gpus).collect();
    Communicator::builder().backend(Backend::Cuda).devices(devices).build().unwrap()
}

/// Raw pointers, at an odd element of an allocation that is not ours, on streams that are not ours.
pub fn foreign_memory_and_streams(gpus: usize) {
    const COUNT: usize = 5001;
    let mut ranks = ranks_on(gpus, 2);
    let mut theirs = Vec::new();
    for rank in &ranks {
        let device = rank.device().unwrap();
        let stream = DeviceStream::new(device).unwrap();
        let memory = DeviceMemory::allocate(device, (COUNT + 1) * 4, &[]).unwrap();
        let values: Vec<i32> = (0..=COUNT as i32).map(|i| i * (rank.rank() as i32 + 1)).collect();
        memory.write(&stream, 0, bytemuck::cast_slice(&values)).unwrap();
        let adopted = rank.adopt_stream(foreign::stream(device, &stream)).unwrap();
        theirs.push((memory, stream, adopted));
    }
    for (rank, (memory, _, adopted)) in ranks.iter_mut().zip(&theirs) {
        let region = foreign::region(rank.device().unwrap(), memory.address() + 4, COUNT * 4);
        rank.all_reduce_region(&region, &region, DataType::I32, ReduceOp::Sum, adopted).unwrap();
    }
    for (memory, stream, adopted) in &theirs {
        adopted.synchronize().unwrap();
        let mut values = vec![0i32; COUNT + 1];
        memory.read(stream, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
        assert_eq!(values[0], 0);
        assert!(values.iter().enumerate().skip(1).all(|(i, &value)| value == 3 * i as i32));
    }
    // Their streams and memory go before the communicator, which must not touch them any more.
    for (memory, stream, adopted) in theirs {
        drop((adopted, stream, memory));
    }
    drop(ranks);
}

/// A rank may allocate, write, make streams and drop another communicator while a peer on another GPU
/// already waits for it.
pub fn allocation_beside_a_waiting_peer(gpus: usize) {
    if gpus < 2 {
        eprintln!("note: with one GPU there is no peer on another one");
        return;
    }
    let mut ranks = ranks_on(gpus, 2);
    let other = ranks_on(gpus, 2);
    let mut other = Some((other[0].buffer::<f32>(1000).unwrap(), other));
    let start = Instant::now();
    let mut buffers = Vec::new();
    for rank in &mut ranks {
        let stream = rank.new_stream().unwrap();
        let mut buffer = rank.buffer::<f32>(1 << 20).unwrap();
        buffer.write(&stream, &vec![1.0; 1 << 20]).unwrap();
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
        buffers.push((buffer, stream));
        // Another communicator on the same GPUs goes while the first rank already waits.
        drop(other.take());
    }
    for (buffer, stream) in &buffers {
        assert!(buffer.read(stream).unwrap().iter().all(|&x| x == 2.0));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

/// A rank may capture a graph while a peer on another GPU already waits for it.
pub fn capture_beside_a_waiting_peer(gpus: usize) {
    if gpus < 2 {
        eprintln!("note: with one GPU there is no peer on another one");
        return;
    }
    let mut ranks = ranks_on(gpus, 2);
    let start = Instant::now();
    let mut ends = Vec::new();
    for rank in &mut ranks {
        let stream = rank.stream().clone();
        let mut buffer = rank.buffer::<f32>(1 << 20).unwrap();
        buffer.write(&stream, &vec![1.0; 1 << 20]).unwrap();
        let graph = stream.capture(|| rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)).unwrap();
        graph.launch(&stream).unwrap();
        graph.launch(&stream).unwrap();
        ends.push((buffer, stream));
    }
    for (buffer, stream) in &ends {
        assert!(buffer.read(stream).unwrap().iter().all(|&x| x == 4.0));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

/// Memory and streams of another GPU, and of the host backend, are refused before anything is launched.
pub fn wrong_device_is_refused(gpus: usize) {
    let mut ranks = ranks_on(gpus, 2);
    let mut host = Communicator::builder().backend(Backend::Host).ranks(2).build().unwrap();
    let (mine, hosts) = (ranks[0].region(64).unwrap(), host[0].region(64).unwrap());
    let stream = ranks[0].stream().clone();
    let mut call = |input: &Region, output: &Region| {
        ranks[0].all_reduce_region(input, output, DataType::F32, ReduceOp::Sum, &stream).unwrap_err().kind()
    };
    assert_eq!(call(&hosts, &mine), ErrorKind::WrongBackend);
    assert_eq!(call(&mine, &hosts), ErrorKind::WrongBackend);
    let host_stream = host[0].stream().clone();
    let kind = |error: myelon_collectives::Error| error.kind();
    let refused = ranks[0].all_reduce_region(&mine, &mine, DataType::F32, ReduceOp::Sum, &host_stream);
    assert_eq!(refused.map_err(kind), Err(ErrorKind::WrongBackend));
    let refused = host[0].all_reduce_region(&mine, &mine, DataType::F32, ReduceOp::Sum, &host_stream);
    assert_eq!(refused.map_err(kind), Err(ErrorKind::WrongBackend));
    if gpus >= 2 {
        let (theirs, their_stream) = (ranks[1].region(64).unwrap(), ranks[1].stream().clone());
        let refused = ranks[0].all_reduce_region(&theirs, &mine, DataType::F32, ReduceOp::Sum, &stream);
        assert_eq!(refused.map_err(kind), Err(ErrorKind::WrongDevice));
        let refused = ranks[0].all_reduce_region(&mine, &mine, DataType::F32, ReduceOp::Sum, &their_stream);
        assert_eq!(refused.map_err(kind), Err(ErrorKind::WrongDevice));
    } else {
        eprintln!("note: with one GPU the mix-up of two is not tried");
    }
    // Nothing of this has harmed the communicator.
    let regions: Vec<Region> = ranks.iter().map(|rank| rank.region(64).unwrap()).collect();
    for (rank, region) in ranks.iter_mut().zip(&regions) {
        let stream = rank.stream().clone();
        rank.all_reduce_region(region, region, DataType::F32, ReduceOp::Sum, &stream).unwrap();
    }
    for rank in &ranks {
        rank.stream().synchronize().unwrap();
    }
}

/// A GPU has 8 queues for all streams unless told, and with more streams the work of a rank can come to stand behind a
/// kernel that waits for it: four ranks on a GPU, with two streams each and those of the driver, are that many. To be
/// called first in `main`, when there is no other thread.
#[allow(unsafe_code)]
pub fn take_all_queues() {
    // SAFETY: no other thread reads the environment meanwhile, as its one caller sees to.
    unsafe { std::env::set_var("CUDA_DEVICE_MAX_CONNECTIONS", "32") };
}

/// The unsafe steps that a caller with raw handles takes.
#[allow(unsafe_code)]
mod foreign {
    use myelon_collectives::{Device, DeviceStream, Region};

    pub fn region(device: &Device, address: u64, bytes: usize) -> Region {
        // SAFETY: the caller keeps the allocation until the call on the region is done, and touches it only
        // behind that.
        Region::device_foreign(unsafe { device.span(address, bytes) }.unwrap())
    }

    pub fn stream(device: &Device, stream: &DeviceStream) -> DeviceStream {
        // SAFETY: the caller keeps `stream` longer than what is borrowed here.
        unsafe { DeviceStream::borrow(device, stream.handle()) }.unwrap()
    }
}
