//! What streams promise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use myelon_collectives::ReduceOp;

use super::Make;
use super::joined::open;

/// A call does nothing before the work in front of it is done, returns meanwhile, and holds back its peers
/// and the work behind it.
pub fn calls_wait_for_their_stream(make: &impl Make, _budget: usize) {
    let mut group = open(make(2)).unwrap();
    let (open, gate) = mpsc::channel::<()>();
    group[0].stream().host_task(move || gate.recv().unwrap()).unwrap();
    let mut buffers = Vec::new();
    for rank in &mut group {
        // The gate holds rank 0's own stream, so its memory is written on another.
        let (stream, other) = (rank.stream().clone(), rank.new_stream().unwrap());
        let mut buffer = rank.buffer::<i32>(100).unwrap();
        buffer.write(&other, &[rank.rank() as i32 + 1; 100]).unwrap();
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
        buffers.push(buffer);
    }
    let done: Vec<_> = group
        .iter()
        .map(|rank| {
            let done = Arc::new(AtomicBool::new(false));
            let flag = done.clone();
            // ORDER: SeqCst is the plain choice of a test; nothing depends on the cost.
            rank.stream().host_task(move || flag.store(true, Ordering::SeqCst)).unwrap();
            done
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    // ORDER: SeqCst, as above.
    assert!(done.iter().all(|done| !done.load(Ordering::SeqCst)), "a call overtook the work in front of it");
    for (rank, buffer) in group.iter().zip(&buffers) {
        let other = rank.new_stream().unwrap();
        assert_eq!(buffer.read(&other).unwrap(), [rank.rank() as i32 + 1; 100], "an output came too early");
    }
    open.send(()).unwrap();
    for (rank, buffer) in group.iter().zip(&buffers) {
        assert_eq!(buffer.read(rank.stream()).unwrap(), [3; 100]);
    }
    for (rank, done) in group.iter().zip(&done) {
        rank.stream().synchronize().unwrap();
        // ORDER: SeqCst, as above.
        assert!(done.load(Ordering::SeqCst));
    }
}

/// Each call sees the result of the one before, without a wait between them.
pub fn queued_calls_feed_each_other(make: &impl Make, budget: usize) {
    let calls = budget.clamp(1, 100);
    let mut group = open(make(3)).unwrap();
    let mut last = Vec::new();
    for rank in &mut group {
        let stream = rank.stream().clone();
        let (mut a, mut b) = (rank.buffer::<u64>(1000).unwrap(), rank.buffer::<u64>(1000).unwrap());
        a.write(&stream, &(0..1000).map(|i| i + rank.rank() as u64).collect::<Vec<_>>()).unwrap();
        for _ in 0..calls {
            rank.all_reduce(&a, &mut b, ReduceOp::Sum, &stream).unwrap();
            std::mem::swap(&mut a, &mut b);
        }
        last.push(a);
    }
    // The first sum is 3 i + 0 + 1 + 2, and each further one three times as much.
    let expected: Vec<u64> =
        (0..1000u64).map(|i| (1..calls).fold(3 * i + 3, |sum, _| sum.wrapping_mul(3))).collect();
    for (rank, buffer) in group.iter().zip(&last) {
        assert_eq!(buffer.read(rank.stream()).unwrap(), expected);
    }
}

/// Calls on different streams are done in the order they were made, which another order of streams on
/// another rank does not change.
pub fn two_streams_alternate(make: &impl Make, budget: usize) {
    let calls = budget.clamp(1, 60);
    let mut group = open(make(3)).unwrap();
    let mut ends = Vec::new();
    for rank in &mut group {
        let streams = [rank.stream().clone(), rank.new_stream().unwrap()];
        let mut buffer = rank.buffer::<u32>(5000).unwrap();
        buffer.write(&streams[0], &[rank.rank() as u32 + 1; 5000]).unwrap();
        for call in 0..calls {
            let op = if call % 2 == 0 { ReduceOp::Sum } else { ReduceOp::Prod };
            rank.all_reduce_in_place(&mut buffer, op, &streams[(call + rank.rank()) % 2]).unwrap();
        }
        ends.push((streams, buffer));
    }
    let expected = (0..calls).fold([1u32, 2, 3], |[a, b, c], call| {
        [if call % 2 == 0 { a.wrapping_add(b).wrapping_add(c) } else { a.wrapping_mul(b).wrapping_mul(c) }; 3]
    });
    for (streams, buffer) in &ends {
        streams[0].synchronize().unwrap();
        assert_eq!(buffer.read(&streams[1]).unwrap(), [expected[0]; 5000]);
    }
}
