//! Registration on GPUs: memory of somebody else, its results, and the way they came.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use myelon_collectives::{
    Backend, Builder, Communicator, DataType, Error, Process, ReduceOp, Region, Registered, Sharing, Stream,
};

use crate::conformance;
use crate::tensors::{Freed, How, Tensor};

/// Bytes of a call that goes from buffer to buffer where that can be.
pub const BYTES: usize = 4 << 20;

/// Two ranks with all memory promised to be windows or registered, as threads or as processes are, on GPUs `devices`.
pub fn pair(devices: [usize; 2], joined: bool, deadline: Duration) -> Vec<Communicator> {
    let builder = Communicator::builder().backend(Backend::Cuda).windows(true).deadline(deadline);
    if joined {
        conformance::join(devices.map(|device| builder.clone().devices(vec![device])).into()).unwrap()
    } else {
        Builder::build(builder.devices(devices.into())).unwrap()
    }
}

/// A tensor of each rank, as a region.
pub fn tensors(ranks: &[Communicator], how: How, bytes: usize, freed: &Freed) -> Vec<Region> {
    let tensor = |rank: &Communicator| Tensor::new(rank.device().unwrap(), how, bytes, freed).into_region();
    ranks.iter().map(tensor).collect()
}

/// `regions` registered, one with each rank.
pub fn registered(ranks: &mut [Communicator], regions: &[Region]) -> Vec<Registered> {
    ranks.iter_mut().zip(regions).map(|(rank, region)| rank.register(region).unwrap()).collect()
}

/// Sums `input` into `output`.
pub fn call(
    rank: &mut Communicator,
    input: &Region,
    output: &Region,
    stream: &Stream,
) -> Result<String, Error> {
    rank.all_reduce_region(input, output, DataType::F32, ReduceOp::Sum, stream)?;
    Ok(rank.last_launch().unwrap().kernel.clone())
}

/// Waits until so many tensors are freed, or for long.
pub fn wait_for(freed: &Freed, tensors: usize) -> usize {
    let start = Instant::now();
    // ORDER: Relaxed is enough. It is a count.
    while freed.load(Ordering::Relaxed) < tensors && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(2));
    }
    // ORDER: Relaxed is enough, as above.
    freed.load(Ordering::Relaxed)
}

/// The same means for one of two ranks that are processes, each on a GPU of its own: `rank` sums what it registered.
pub fn process_sums_are_exact(rank: usize, meeting: &str) {
    for how in [How::Pages, How::PrivatePages, How::Plain, How::Pool] {
        let process = Process::new(rank, 2, format!("{meeting}-{how:?}"));
        let builder = Communicator::builder().backend(Backend::Cuda).windows(true).devices(vec![rank]);
        let mut communicator = builder.deadline(Duration::from_secs(20)).join(&process).unwrap();
        let freed = Freed::default();
        let region = Tensor::new(communicator.device().unwrap(), how, BYTES + 8192, &freed).into_region();
        let part = communicator.register(&region.slice(4096..4096 + BYTES).unwrap()).unwrap();
        let sharing = part.settle().unwrap();
        println!("rank {rank}, {how:?}: {sharing:?}");
        assert_eq!(
            sharing == Sharing::Shared,
            matches!(how, How::Pages | How::Plain),
            "{how:?}: {sharing:?}"
        );
        let stream = communicator.stream().clone();
        region.fill(&stream, 0xff).unwrap();
        let value = |rank: usize, i: usize| (i % 1000) as f32 * (rank + 1) as f32;
        let values: Vec<f32> = (0..BYTES / 4).map(|i| value(rank, i)).collect();
        part.region().write_bytes(&stream, bytemuck::cast_slice(&values)).unwrap();
        let kernel = call(&mut communicator, part.region(), part.region(), &stream).unwrap();
        assert_eq!(kernel.contains("direct"), sharing == Sharing::Shared, "{how:?}: {kernel}");
        let bytes = region.read_bytes(&stream).unwrap();
        for (i, word) in bytes[4096..4096 + BYTES].chunks_exact(4).enumerate() {
            let sum = f32::from_ne_bytes(word.try_into().unwrap());
            assert_eq!(sum, value(0, i) + value(1, i), "{how:?}, element {i}");
        }
        let mut around = bytes[..4096].iter().chain(&bytes[4096 + BYTES..]);
        assert!(around.all(|&byte| byte == 0xff), "{how:?}: written beside");
        drop((part, region));
        assert_eq!(wait_for(&freed, 1), 1, "{how:?}");
        // The other one may still wait for what this one closes when it hears of it.
        let mut last = communicator.buffer::<f32>(1).unwrap();
        communicator.all_reduce_in_place(&mut last, ReduceOp::Sum, &stream).unwrap();
        stream.synchronize().unwrap();
    }
}

/// Memory that was made by each of several means is registered and summed, in place and not, at an offset, one by one and
/// from a graph; results are exact, the kernel is the direct one where the memory is shared and another one where it is
/// staged, and the tensors are freed when all is done.
pub fn sums_are_exact(gpus: usize, joined: bool) {
    if gpus < 2 {
        eprintln!("note: with one GPU nothing has to be mapped, so registration is not tried");
        return;
    }
    for how in [How::Pages, How::PrivatePages, How::Plain, How::Pool] {
        let mut ranks = pair([0, 1], joined, Duration::from_secs(20));
        let freed = Freed::default();
        // 4 KiB in front and behind, which must stay.
        let whole = BYTES + 8192;
        let regions = [0; 2].map(|_| tensors(&ranks, how, whole, &freed));
        let [input, output] = regions.each_ref().map(|regions| registered(&mut ranks, regions));
        // In its own process nobody opens an allocation by its handle.
        let shared = how == How::Pages || how == How::PrivatePages && !joined;
        for it in input.iter().chain(&output) {
            let sharing = it.settle().unwrap();
            println!("{how:?}, joined {joined}: {sharing:?}");
            assert_eq!(sharing == Sharing::Shared, shared, "{how:?}, joined {joined}: {sharing:?}");
        }
        drop(regions);
        let count = BYTES / 4;
        let value = |rank: usize, i: usize| (i % 1000) as f32 * (rank + 1) as f32;
        let part = |it: &Registered| it.region().slice(4096..4096 + BYTES).unwrap();
        let mut graphs = Vec::new();
        for (rank, (input, output)) in ranks.iter_mut().zip(input.iter().zip(&output)) {
            let stream = rank.stream().clone();
            let values: Vec<f32> = (0..count).map(|i| value(rank.rank(), i)).collect();
            input.region().fill(&stream, 0xff).unwrap();
            output.region().fill(&stream, 0xff).unwrap();
            part(input).write_bytes(&stream, bytemuck::cast_slice(&values)).unwrap();
            let graph = stream.capture(|| call(rank, &part(input), &part(output), &stream).map(drop));
            graphs.push((graph.unwrap(), stream));
        }
        // The graph writes the sums to the outputs, and the calls add these up in place: twice the sum, on two ranks.
        for (rank, (output, (graph, stream))) in ranks.iter_mut().zip(output.iter().zip(&graphs)) {
            graph.launch(stream).unwrap();
            let kernel = call(rank, &part(output), &part(output), stream).unwrap();
            assert_eq!(kernel.contains("direct"), shared, "{how:?}, joined {joined}: {kernel}");
        }
        for (input, (output, (_, stream))) in input.iter().zip(output.iter().zip(&graphs)) {
            let bytes = output.region().read_bytes(stream).unwrap();
            let words = bytes[4096..4096 + BYTES].chunks_exact(4);
            let sums: Vec<f32> = words.map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect();
            let wrong = (0..count).find(|&i| sums[i] != 2.0 * (value(0, i) + value(1, i)));
            assert_eq!(wrong, None, "{how:?}, joined {joined}");
            for bytes in [bytes, input.region().read_bytes(stream).unwrap()] {
                let around = bytes[..4096].iter().chain(&bytes[4096 + BYTES..]);
                assert!(around.copied().all(|byte| byte == 0xff), "{how:?}, joined {joined}: written beside");
            }
        }
        // The graphs keep all of it.
        drop((input, output));
        assert_eq!(wait_for(&freed, 0), 0, "{how:?}, joined {joined}");
        drop(graphs);
        // What was still used is freed by a later allocation.
        for rank in &ranks {
            rank.stream().synchronize().unwrap();
            drop(rank.region(4).unwrap());
        }
        assert_eq!(wait_for(&freed, 4), 4, "{how:?}, joined {joined}");
    }
}
