//! Calls that must fail, in time and with the right names.

use std::time::{Duration, Instant};

use myelon_collectives::{Communicator, DataType, Error, ErrorKind, ReduceOp};

use super::Make;
use super::joined::{open, word_travels};

/// Makes `call` on each rank of `group` that has one; the error of its call or of its stream.
fn errors(group: &mut [Communicator], calls: &[Option<(DataType, ReduceOp, usize)>]) -> Vec<Option<Error>> {
    let made: Vec<_> = group
        .iter_mut()
        .zip(calls)
        .map(|(rank, call)| {
            let (dtype, op, count) = (*call)?;
            let stream = rank.stream().clone();
            let region = rank.region(count * dtype.bytes()).unwrap();
            Some(rank.all_reduce_region(&region, &region, dtype, op, &stream))
        })
        .collect();
    let result = |(rank, made): (&Communicator, Option<Result<(), Error>>)| {
        made.map(|made| made.and_then(|()| rank.stream().synchronize()).expect_err("the call must fail"))
    };
    group.iter().zip(made).map(result).collect()
}

/// Every rank refuses the next call at once, and names the first error.
fn assert_poisoned(group: &mut [Communicator], kind: ErrorKind) {
    word_travels();
    for rank in group {
        let mut buffer = rank.buffer::<f32>(1).unwrap();
        let stream = rank.stream().clone();
        let error = rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap_err();
        assert_eq!((error.kind(), error.first().kind()), (ErrorKind::Poisoned, kind), "{error}");
        assert_eq!(rank.stream().synchronize(), Ok(()), "nothing was enqueued, and errors are told once");
    }
}

/// One rank that calls with another count, type or operation: every rank hears of both calls, soon.
pub fn disagreement_is_an_error(make: &impl Make, _budget: usize) {
    let common = (DataType::F32, ReduceOp::Sum, 5000);
    let others = [
        ((DataType::F32, ReduceOp::Sum, 5001), "all_reduce f32 sum count=5001"),
        ((DataType::F32, ReduceOp::Sum, 0), "all_reduce f32 sum count=0"),
        ((DataType::F32, ReduceOp::Sum, 500_000), "all_reduce f32 sum count=500000"),
        ((DataType::I32, ReduceOp::Sum, 5000), "all_reduce i32 sum count=5000"),
        ((DataType::F32, ReduceOp::Max, 5000), "all_reduce f32 max count=5000"),
    ];
    for ranks in [2, 4] {
        for (odd, (other, name)) in others.into_iter().enumerate() {
            let mut group = open(make(ranks).deadline(Duration::from_secs(20))).unwrap();
            let mut calls = vec![Some(common); ranks];
            calls[odd % ranks] = Some(other);
            let start = Instant::now();
            for error in errors(&mut group, &calls) {
                // A rank that called after the others had found out is told so.
                let error = error.unwrap();
                assert_eq!(error.first().kind(), ErrorKind::Disagreement, "{error}");
                let text = error.to_string();
                assert!(text.contains(name) && text.contains("all_reduce f32 sum count=5000"), "{text}");
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it took the deadline: {:?}", start.elapsed());
            assert_poisoned(&mut group, ErrorKind::Disagreement);
        }
    }
}

/// A rank that never calls: the others give up after the deadline, not much later, and name it.
pub fn missing_rank_is_named(make: &impl Make, _budget: usize) {
    let deadline = Duration::from_secs(1);
    for (ranks, missing, count) in [(2, 1, 10), (3, 0, 100_000), (4, 2, 0)] {
        let mut group = open(make(ranks).deadline(deadline)).unwrap();
        let mut calls = vec![Some((DataType::F32, ReduceOp::Sum, count)); ranks];
        calls[missing] = None;
        let start = Instant::now();
        for error in errors(&mut group, &calls).into_iter().flatten() {
            let Error::Stalled { peer, waited_us, .. } = *error.first() else {
                panic!("needed a stall, saw {error}");
            };
            assert_eq!(peer, missing, "{error}");
            assert!(waited_us >= deadline.as_micros() as u64, "{error}");
        }
        assert!(start.elapsed() >= deadline && start.elapsed() < Duration::from_secs(10));
        assert_poisoned(&mut group, ErrorKind::Stalled);
    }
}

/// Dropping a rank neither blocks nor leaves its peers waiting, whether it had called or not; calls that it
/// had completed are not harmed.
pub fn dropping_a_rank_ends_its_peers(make: &impl Make, _budget: usize) {
    let patience = Duration::from_secs(60);
    for had_called in [false, true] {
        let mut group = open(make(3).deadline(patience)).unwrap();
        let mut buffers: Vec<_> = group.iter().map(|rank| rank.buffer::<f32>(100_000).unwrap()).collect();
        let mut call = |group: &mut [Communicator], rank: usize| {
            let stream = group[rank].stream().clone();
            group[rank].all_reduce_in_place(&mut buffers[rank], ReduceOp::Sum, &stream).unwrap();
        };
        (0..3).for_each(|rank| call(&mut group, rank));
        group.iter().for_each(|rank| rank.stream().synchronize().unwrap());
        call(&mut group, 0);
        if had_called {
            call(&mut group, 2);
        }
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        drop(group.pop());
        assert!(start.elapsed() < Duration::from_secs(5), "dropping blocked for {:?}", start.elapsed());
        let error = group[0].stream().synchronize().unwrap_err();
        assert!(start.elapsed() < patience / 2, "the peer waited for {:?}", start.elapsed());
        assert!(matches!(error, Error::PeerGone { peer: 2, completed: 1, .. }), "{error}");
        assert_poisoned(&mut group[..1], ErrorKind::PeerGone);
    }

    let mut group = open(make(2).deadline(patience)).unwrap();
    let mut buffers: Vec<_> = group.iter().map(|rank| rank.buffer::<f32>(100_000).unwrap()).collect();
    for (rank, buffer) in group.iter_mut().zip(&mut buffers) {
        let stream = rank.stream().clone();
        buffer.write(&stream, &vec![1.0; 100_000]).unwrap();
        rank.all_reduce_in_place(buffer, ReduceOp::Sum, &stream).unwrap();
    }
    let last = group.pop().unwrap();
    last.stream().synchronize().unwrap();
    drop(last);
    assert!(buffers[0].read(group[0].stream()).unwrap().iter().all(|&x| x == 2.0));
}
