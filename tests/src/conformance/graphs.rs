//! Calls that are recorded once and made again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use myelon_collectives::{
    Communicator, DataType, Error, ErrorKind, Graph, ReduceOp, Region, Stream, reference,
};

use super::Make;
use super::joined::{open, word_travels};
use crate::data::{Fill, Random, elements};

/// One call with memory of its own on every rank, so that it can be made again on other values.
struct Call {
    dtype: DataType,
    op: ReduceOp,
    count: usize,
    /// `[ranks]`, the input and the output; the same where it is in place.
    regions: Vec<(Region, Region)>,
}

impl Call {
    fn new(group: &[Communicator], dtype: DataType, op: ReduceOp, count: usize, in_place: bool) -> Self {
        let bytes = count * dtype.bytes();
        // Not at the start, so not on a boundary of 16 bytes either.
        let region = |rank: &Communicator| rank.region(bytes + 8).unwrap().slice(8..8 + bytes).unwrap();
        let regions = group.iter().map(|rank| {
            let input = region(rank);
            let output = if in_place { input.clone() } else { region(rank) };
            (input, output)
        });
        Self { dtype, op, count, regions: regions.collect() }
    }

    /// Calls in and out of place, of several types, small and large, and one of nothing.
    fn several(group: &[Communicator], large: usize) -> Vec<Self> {
        [
            (DataType::F32, ReduceOp::Sum, 5001, false),
            (DataType::I32, ReduceOp::Prod, large, true),
            (DataType::Bf16, ReduceOp::Avg, 0, true),
            (DataType::U8, ReduceOp::Max, 77, false),
            (DataType::F64, ReduceOp::Sum, 1, true),
        ]
        .map(|(dtype, op, count, in_place)| Self::new(group, dtype, op, count, in_place))
        .into()
    }

    /// Makes the call of `rank`, or records it.
    fn make(&self, rank: &mut Communicator, stream: &Stream) -> Result<(), Error> {
        let (input, output) = &self.regions[rank.rank()];
        rank.all_reduce_region(input, output, self.dtype, self.op, stream)
    }

    /// Gives every rank fresh input, and returns what must come out.
    fn write(&self, group: &[Communicator], random: &mut Random) -> Vec<u8> {
        let inputs: Vec<Vec<u8>> =
            group.iter().map(|_| elements(random, self.dtype, Fill::Ordinary, self.count)).collect();
        for ((rank, (region, _)), input) in group.iter().zip(&self.regions).zip(&inputs) {
            region.write_bytes(rank.stream(), input).unwrap();
        }
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        reference::all_reduce(self.dtype, self.op, &inputs)
    }

    fn check(&self, group: &[Communicator], expected: &[u8]) {
        for (rank, (_, output)) in group.iter().zip(&self.regions) {
            let seen = output.read_bytes(rank.stream()).unwrap();
            let (place, name) = (rank.rank(), (self.dtype, self.op, self.count));
            assert!(seen == expected, "rank {place} has a wrong result of {name:?}");
        }
    }
}

/// The graph of `calls` on every rank.
fn capture(group: &mut [Communicator], calls: &[Call]) -> Vec<Graph> {
    let graph = |rank: &mut Communicator| {
        let stream = rank.stream().clone();
        stream.capture(|| calls.iter().try_for_each(|call| call.make(rank, &stream))).unwrap()
    };
    group.iter_mut().map(graph).collect()
}

fn launch_all(group: &[Communicator], graphs: &[Graph]) {
    group.iter().zip(graphs).for_each(|(rank, graph)| graph.launch(rank.stream()).unwrap());
}

fn write_all(group: &[Communicator], calls: &[Call], random: &mut Random) -> Vec<Vec<u8>> {
    calls.iter().map(|call| call.write(group, random)).collect()
}

fn check_all(group: &[Communicator], calls: &[Call], expected: &[Vec<u8>]) {
    calls.iter().zip(expected).for_each(|(call, expected)| call.check(group, expected));
}

/// A graph gives the right bits at every launch, on whatever lies in its memory then, also beside ranks that
/// make the same calls one by one, and with other calls in between. From just before the sequence wraps.
pub fn graphs_mix_with_calls(make: &impl Make, budget: usize) {
    for ranks in [2, 3, 5] {
        let mut random = Random::new(40 + ranks as u64);
        let mut group = open(make(ranks).first_sequence(u64::MAX - 5)).unwrap();
        let calls = Call::several(&group, budget * 8 + 3);
        let graphs = capture(&mut group, &calls);
        assert!(graphs.iter().all(|graph| graph.calls() == calls.len() as u64));
        let other = [Call::new(&group, DataType::F16, ReduceOp::Sum, 999, false)];
        for round in 0..8 {
            let expected = write_all(&group, &calls, &mut random);
            let expected_other = write_all(&group, &other, &mut random);
            for (rank, graph) in group.iter_mut().zip(&graphs) {
                let stream = rank.stream().clone();
                if round % 4 == 3 && rank.rank() % 2 == 1 {
                    calls.iter().for_each(|call| call.make(rank, &stream).unwrap());
                } else {
                    graph.launch(&stream).unwrap();
                }
                if round % 2 == 1 {
                    other[0].make(rank, &stream).unwrap();
                }
            }
            check_all(&group, &calls, &expected);
            if round % 2 == 1 {
                check_all(&group, &other, &expected_other);
            }
        }
    }
}

/// Several launches of two graphs, queued at once on two streams, feed each other in the order of the
/// launches.
pub fn two_graphs_alternate(make: &impl Make, budget: usize) {
    let launches = (budget / 20).clamp(2, 40);
    let mut group = open(make(3)).unwrap();
    let mut captured = Vec::new();
    for rank in &mut group {
        let streams = [rank.stream().clone(), rank.new_stream().unwrap()];
        let (mut a, mut b) = (rank.buffer::<u64>(3000).unwrap(), rank.buffer::<u64>(3000).unwrap());
        a.write(&streams[0], &(0..3000).map(|i| i + rank.rank() as u64).collect::<Vec<_>>()).unwrap();
        // The first goes out of place and back, the second in place.
        let there_and_back = streams[0].capture(|| {
            rank.all_reduce(&a, &mut b, ReduceOp::Sum, &streams[0])?;
            rank.all_reduce(&b, &mut a, ReduceOp::Sum, &streams[0])
        });
        let in_place = streams[1].capture(|| rank.all_reduce_in_place(&mut a, ReduceOp::Sum, &streams[1]));
        captured.push((streams, a, [there_and_back.unwrap(), in_place.unwrap()]));
    }
    for (rank, (streams, _, graphs)) in captured.iter().enumerate() {
        for launch in 0..launches {
            graphs[launch % 2].launch(&streams[(launch + rank) % 2]).unwrap();
        }
    }
    // The first sum is 3 i + 0 + 1 + 2, and each further one three times as much.
    let sums = launches + launches.div_ceil(2);
    let expected: Vec<u64> =
        (0..3000u64).map(|i| (1..sums).fold(3 * i + 3, |sum, _| sum.wrapping_mul(3))).collect();
    for (streams, a, _) in &captured {
        streams[0].synchronize().unwrap();
        streams[1].synchronize().unwrap();
        assert_eq!(a.read(&streams[0]).unwrap(), expected);
    }
}

/// A graph and the memory that only it knows may go while a launch of it waits; fills are recorded too.
pub fn graphs_are_dropped_while_they_run(make: &impl Make, _budget: usize) {
    let mut group = open(make(2)).unwrap();
    let mut captured = Vec::new();
    for rank in &mut group {
        let side = rank.new_stream().unwrap();
        let (input, output) = (rank.region(100_000).unwrap(), rank.region(100_000).unwrap());
        input.write_bytes(&side, &[99; 100_000]).unwrap();
        let graph = side.capture(|| {
            input.slice(0..50_000)?.fill(&side, 20 + rank.rank() as u8)?;
            rank.all_reduce_region(&input, &output, DataType::U8, ReduceOp::Sum, &side)
        });
        captured.push((graph.unwrap(), input, output));
    }
    let (open, gate) = mpsc::channel::<()>();
    group[0].stream().host_task(move || gate.recv().unwrap()).unwrap();
    let mut outputs = Vec::new();
    for (rank, (graph, input, output)) in group.iter().zip(captured) {
        graph.launch(rank.stream()).unwrap();
        let start = Instant::now();
        drop((graph, input));
        assert!(start.elapsed() < Duration::from_secs(5), "dropping waited for {:?}", start.elapsed());
        // This would give back what nobody needs.
        let side = rank.new_stream().unwrap();
        rank.region(100_000).unwrap().write_bytes(&side, &[1; 100_000]).unwrap();
        outputs.push(output);
    }
    open.send(()).unwrap();
    for (rank, output) in group.iter().zip(&outputs) {
        let seen = output.read_bytes(rank.stream()).unwrap();
        assert!(
            seen[..50_000].iter().all(|&byte| byte == 41) && seen[50_000..].iter().all(|&byte| byte == 198)
        );
    }
}

/// A capture makes no call, whether it ends well, with an error or with a panic: all ranks still agree.
pub fn captures_advance_nothing(make: &impl Make, _budget: usize) {
    let mut random = Random::new(41);
    let mut group = open(make(3).deadline(Duration::from_secs(20))).unwrap();
    let calls = Call::several(&group, 10_000);
    let made_and_checked = |group: &mut Vec<Communicator>, random: &mut Random| {
        let expected = write_all(group, &calls, random);
        for rank in group.iter_mut() {
            let stream = rank.stream().clone();
            calls.iter().for_each(|call| call.make(rank, &stream).unwrap());
        }
        check_all(group, &calls, &expected);
    };
    made_and_checked(&mut group, &mut random);
    let stream = group[1].stream().clone();

    let graph = stream.capture(|| calls[0].make(&mut group[1], &stream)).unwrap();
    made_and_checked(&mut group, &mut random);

    let given_up = stream.capture(|| {
        calls[0].make(&mut group[1], &stream)?;
        Err(Error::Task { message: "given up".into() })
    });
    assert_eq!(given_up.unwrap_err().kind(), ErrorKind::Task);
    made_and_checked(&mut group, &mut random);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        stream.capture(|| {
            calls[1].make(&mut group[1], &stream)?;
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    made_and_checked(&mut group, &mut random);

    // A call that is refused is not recorded, and does not end the capture.
    let recorded = stream.capture(|| {
        let region = &calls[0].regions[1].0;
        let half = region.slice(0..region.bytes() / 3)?;
        let refused = group[1].all_reduce_region(&half, region, DataType::F32, ReduceOp::Sum, &stream);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
        calls[0].make(&mut group[1], &stream)
    });
    assert_eq!(recorded.unwrap().calls(), 1);
    made_and_checked(&mut group, &mut random);

    let nothing = stream.capture(|| Ok(())).unwrap();
    assert_eq!(nothing.calls(), 0);
    nothing.launch(&stream).unwrap();
    made_and_checked(&mut group, &mut random);
    drop(graph);
}

/// What a capture can't hold is refused with its own error, before anything is done, and the capture goes on.
pub fn captures_refuse_what_they_cannot_hold(make: &impl Make, _budget: usize) {
    let mut random = Random::new(42);
    let mut group = open(make(2)).unwrap();
    let calls = [Call::new(&group, DataType::F32, ReduceOp::Sum, 1000, false)];
    let earlier = capture(&mut group, &calls);
    let graphs: Vec<Graph> = group
        .iter_mut()
        .map(|rank| {
            let (stream, other) = (rank.stream().clone(), rank.new_stream().unwrap());
            let (region, mark) = (rank.region(16).unwrap(), stream.mark().unwrap());
            let dropped = rank.region(16).unwrap();
            dropped.fill(&stream, 1).unwrap();
            let graph = stream.capture(|| {
                let kinds = [
                    stream.synchronize().map_err(|error| error.kind()),
                    stream.mark().map(drop).map_err(|error| error.kind()),
                    stream.host_task(|| panic!("it ran")).map_err(|error| error.kind()),
                    region.read_bytes(&stream).map(drop).map_err(|error| error.kind()),
                    region.write_bytes(&stream, &[0; 16]).map_err(|error| error.kind()),
                    region.fill(&other, 1).map_err(|error| error.kind()),
                    stream.capture(|| Ok(())).map(drop).map_err(|error| error.kind()),
                    other.capture(|| Ok(())).map(drop).map_err(|error| error.kind()),
                    other.synchronize().map_err(|error| error.kind()),
                    mark.elapsed_us(&mark).map(drop).map_err(|error| error.kind()),
                    earlier[rank.rank()].launch(&stream).map_err(|error| error.kind()),
                    earlier[rank.rank()].launch(&other).map_err(|error| error.kind()),
                    rank.region(16).map(drop).map_err(|error| error.kind()),
                    rank.new_stream().map(drop).map_err(|error| error.kind()),
                    open(make(2)).map(drop).map_err(|error| error.kind()),
                    calls[0].make(rank, &other).map_err(|error| error.kind()),
                ];
                for (index, kind) in kinds.into_iter().enumerate() {
                    assert_eq!(kind, Err(ErrorKind::Capturing), "refusal {index}");
                }
                drop(dropped);
                calls[0].make(rank, &stream)
            });
            graph.unwrap()
        })
        .collect();
    for graphs in [&graphs, &earlier, &graphs] {
        let expected = write_all(&group, &calls, &mut random);
        launch_all(&group, graphs);
        check_all(&group, &calls, &expected);
    }
    // Another thread is refused on a stream that is captured, and not on others.
    let (stream, side) = (group[0].stream().clone(), group[0].new_stream().unwrap());
    let captured = stream.capture(|| {
        std::thread::scope(|scope| {
            let elsewhere = || {
                assert_eq!(stream.synchronize().unwrap_err().kind(), ErrorKind::Capturing);
                assert_eq!(stream.mark().unwrap_err().kind(), ErrorKind::Capturing);
                assert_eq!(earlier[0].launch(&stream).unwrap_err().kind(), ErrorKind::Capturing);
                side.synchronize().unwrap();
            };
            scope.spawn(elsewhere).join().unwrap();
        });
        Ok(())
    });
    captured.unwrap();
    // A graph stays with its rank.
    let there = group[1].stream().clone();
    let kind = earlier[0].launch(&there).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::WrongDevice | ErrorKind::InvalidArgument), "{kind:?}");
}

/// A launch counts as the calls in it: it fails as they do, and is refused where they are.
pub fn graphs_fail_as_calls_do(make: &impl Make, _budget: usize) {
    // A peer that never comes.
    let mut group = open(make(2).deadline(Duration::from_secs(1))).unwrap();
    let calls = Call::several(&group, 1000);
    let graphs = capture(&mut group, &calls);
    graphs[0].launch(group[0].stream()).unwrap();
    let error = group[0].stream().synchronize().unwrap_err();
    assert!(matches!(error, Error::Stalled { peer: 1, .. }), "{error}");
    word_travels();
    for (rank, graph) in group.iter_mut().zip(&graphs) {
        let error = graph.launch(rank.stream()).unwrap_err();
        assert_eq!(
            (error.kind(), error.first().kind()),
            (ErrorKind::Poisoned, ErrorKind::Stalled),
            "{error}"
        );
        let stream = rank.stream().clone();
        let error = stream.capture(|| calls[0].make(rank, &stream)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert_eq!(rank.stream().synchronize(), Ok(()), "nothing was enqueued, and errors are told once");
    }

    // Ranks whose graphs differ.
    let mut group = open(make(2).deadline(Duration::from_secs(20))).unwrap();
    let calls = Call::several(&group, 1000);
    let graphs = capture(&mut group, &calls);
    let backwards: Vec<Call> = Call::several(&group, 1000).into_iter().rev().collect();
    let others = capture(&mut group, &backwards);
    graphs[0].launch(group[0].stream()).unwrap();
    others[1].launch(group[1].stream()).unwrap();
    for rank in &group {
        let error = rank.stream().synchronize().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disagreement, "{error}");
    }

    // A rank that is gone after it completed what others need: only the next launch is refused.
    let mut group = open(make(2)).unwrap();
    let calls = Call::several(&group, 1000);
    let mut graphs = capture(&mut group, &calls);
    launch_all(&group, &graphs);
    group.iter().for_each(|rank| rank.stream().synchronize().unwrap());
    let (gone, graph_of_gone) = (group.pop().unwrap(), graphs.pop().unwrap());
    let stream = gone.stream().clone();
    drop(gone);
    word_travels();
    group[0].stream().synchronize().unwrap();
    let error = graphs[0].launch(group[0].stream()).unwrap_err();
    let made = calls.len() as u64;
    assert!(matches!(error, Error::PeerGone { peer: 1, completed, .. } if completed == made), "{error}");
    let error = graph_of_gone.launch(&stream).unwrap_err();
    assert_eq!(error.first().kind(), ErrorKind::PeerGone);
}
