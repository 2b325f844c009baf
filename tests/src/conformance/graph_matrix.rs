//! Graphs of every algorithm, on memory of every kind, in and out of place, launched once and several times.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use myelon_collectives::{
    Backend, Communicator, DataType, Graph, ReduceOp, Region, Registered, Sharing, reference,
};
use myelon_lanes::Algorithm;

use super::Make;
use super::joined::open;
use super::tunings::tuned;
use crate::data::{Fill, Random, elements};
use crate::tensors::{Freed, How, Tensor};

/// Where the memory of a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Ours,
    Registered(How),
    /// Memory of somebody else that no peer has heard of.
    Foreign(How),
}

/// Where input and output lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    InPlace,
    Apart,
    /// One behind the other in one memory.
    Together,
}

/// How often a graph is launched in a row.
const LAUNCHES: [usize; 3] = [1, 2, 5];
/// Bytes in front of what is summed: no boundary of 16.
const OFFSET: usize = 8;

/// What a graph of a rank works on.
struct Operands {
    input: Region,
    output: Region,
    /// What both are parts of, where it was registered.
    registered: Vec<Registered>,
}

impl Operands {
    fn new(
        rank: &mut Communicator,
        source: Source,
        placement: Placement,
        bytes: usize,
        freed: &Freed,
    ) -> Self {
        let mut registered = Vec::new();
        let mut memory = |bytes: usize| {
            let theirs = |how| Tensor::new(rank.device().unwrap(), how, bytes, freed).into_region();
            match source {
                Source::Ours => rank.region(bytes).unwrap(),
                Source::Foreign(how) => theirs(how),
                Source::Registered(how) => {
                    let region = theirs(how);
                    registered.push(rank.register(&region).unwrap());
                    registered.last().unwrap().region().clone()
                }
            }
        };
        let part = |region: &Region, at: usize| region.slice(at + OFFSET..at + OFFSET + bytes).unwrap();
        let one = OFFSET + bytes;
        let (input, output) = match placement {
            Placement::InPlace => {
                let all = memory(one);
                (part(&all, 0), part(&all, 0))
            }
            Placement::Apart => (part(&memory(one), 0), part(&memory(one), 0)),
            Placement::Together => {
                let all = memory(2 * one);
                (part(&all, 0), part(&all, one))
            }
        };
        Self { input, output, registered }
    }

    /// Whether every rank reaches them, so that any algorithm can run on them.
    fn are_reached(&self, source: Source) -> bool {
        match source {
            Source::Ours => true,
            Source::Foreign(_) => false,
            Source::Registered(_) => self.registered.iter().all(|it| it.settle() == Ok(Sharing::Shared)),
        }
    }
}

/// The calls of one graph, the same on all ranks.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: DataType,
    op: ReduceOp,
    count: usize,
    source: Source,
    placement: Placement,
}

impl Case {
    fn make(&self, rank: &mut Communicator, operands: &Operands) -> Result<(), myelon_collectives::Error> {
        let stream = rank.stream().clone();
        rank.all_reduce_region(&operands.input, &operands.output, self.dtype, self.op, &stream)
    }

    /// Gives every rank fresh input; returns what so many calls one behind the other make of it.
    fn write(&self, group: &[Communicator], all: &[Operands], random: &mut Random, calls: usize) -> Vec<u8> {
        let inputs: Vec<Vec<u8>> =
            group.iter().map(|_| elements(random, self.dtype, Fill::Ordinary, self.count)).collect();
        for ((rank, operands), input) in group.iter().zip(all).zip(&inputs) {
            operands.output.fill(rank.stream(), 0xff).unwrap();
            operands.input.write_bytes(rank.stream(), input).unwrap();
        }
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let first = reference::all_reduce(self.dtype, self.op, &inputs);
        let again = if self.placement == Placement::InPlace { calls - 1 } else { 0 };
        (0..again)
            .fold(first, |sums, _| reference::all_reduce(self.dtype, self.op, &vec![&sums[..]; group.len()]))
    }
}

fn check(group: &[Communicator], outputs: &[&Region], expected: &[u8], case: &Case, calls: usize) {
    for (rank, output) in group.iter().zip(outputs) {
        let seen = output.read_bytes(rank.stream()).unwrap();
        assert!(seen == expected, "rank {} after {calls} calls: wrong sums of {case:?}", rank.rank());
    }
}

/// See the head of this file. Also beside calls, and with a graph and what it works on dropped while it waits to run.
pub fn graph_matrix(make: &impl Make, _budget: usize) {
    every_graph(make, true);
}

/// The same; where no `kernels_run`, as with a driver that is none, nothing is compared and nothing waits.
pub fn every_graph(make: &impl Make, kernels_run: bool) {
    let mut random = Random::new(43);
    for (ranks, windows) in [(2, true), (2, false), (3, true)] {
        let builder = make(ranks).windows(windows).deadline(Duration::from_secs(20));
        let mut group = open(builder).unwrap();
        let plain = group[0].tuning().clone();
        let on_gpus = group[0].backend() == Backend::Cuda;
        let freed = Freed::default();
        let (mut launched, mut made) = (BTreeSet::new(), 0);
        for algorithm in Algorithm::ALL {
            for lanes in [1, 7] {
                let Some((most, tuning)) = tuned(&plain, algorithm, ranks as u32, lanes) else { continue };
                group.iter_mut().for_each(|rank| rank.retune(tuning.clone()).unwrap());
                for &source in sources(on_gpus, windows) {
                    for placement in [Placement::InPlace, Placement::Apart, Placement::Together] {
                        let types = [
                            (DataType::F32, ReduceOp::Sum),
                            (DataType::Bf16, ReduceOp::Avg),
                            (DataType::F16, ReduceOp::Max),
                        ];
                        let (dtype, op) = random.pick(&types);
                        let counts = [1, 1001, 20_000].map(|count| count.min(most as usize / dtype.bytes()));
                        let case = Case { dtype, op, count: random.pick(&counts), source, placement };
                        let plan = run(&mut group, &case, &mut random, &freed, kernels_run);
                        if let Some(seen) = plan {
                            assert_eq!(seen, algorithm, "{case:?}");
                        }
                        launched.insert(algorithm.name());
                        let memories = if placement == Placement::Apart { 2 } else { 1 };
                        made += if source == Source::Ours { 0 } else { ranks * memories };
                        // Before anything waits for this thread again: `cudaFree` waits for the whole GPU, and the driver
                        // holds up whatever else is asked of that GPU meanwhile.
                        assert_eq!(freed_of(&group, &freed, made), made, "tensors freed after {case:?}");
                    }
                }
            }
        }
        // No table has rows of the one that sums in an order of its own.
        let of_tables = Algorithm::ALL.len() - 1;
        let all = if windows { of_tables } else { of_tables - 1 };
        assert_eq!(launched.len(), if on_gpus { all } else { 1 }, "{launched:?}");
    }
}

fn sources(on_gpus: bool, windows: bool) -> &'static [Source] {
    use Source::{Foreign, Ours, Registered};
    match (on_gpus, windows) {
        (false, _) => &[Ours],
        (true, true) => &[
            Ours,
            Registered(How::Pages),
            Registered(How::PrivatePages),
            Registered(How::Plain),
            Registered(How::Pool),
        ],
        (true, false) => {
            &[Ours, Registered(How::Pages), Registered(How::Plain), Foreign(How::Plain), Foreign(How::Pool)]
        }
    }
}

/// Captures `case` on all ranks and launches it; returns the algorithm where the memory lets any run.
fn run(
    group: &mut [Communicator],
    case: &Case,
    random: &mut Random,
    freed: &Freed,
    kernels_run: bool,
) -> Option<Algorithm> {
    let bytes = case.count * case.dtype.bytes();
    let operands = |rank: &mut Communicator| Operands::new(rank, case.source, case.placement, bytes, freed);
    let all: Vec<Operands> = group.iter_mut().map(operands).collect();
    let graphs: Vec<Graph> = group
        .iter_mut()
        .zip(&all)
        .map(|(rank, operands)| {
            let stream = rank.stream().clone();
            stream.capture(|| case.make(rank, operands)).unwrap()
        })
        .collect();
    let is_reached = all.iter().all(|operands| operands.are_reached(case.source));
    let plan = is_reached.then(|| group[0].last_launch().unwrap().plan.algorithm);

    let outputs: Vec<Region> = all.iter().map(|operands| operands.output.clone()).collect();
    let outputs: Vec<&Region> = outputs.iter().collect();
    for launches in LAUNCHES {
        let calls = launches + launches / 2;
        let expected = case.write(group, &all, random, calls);
        for ((rank, graph), operands) in group.iter_mut().zip(&graphs).zip(&all) {
            (0..launches).for_each(|_| graph.launch(rank.stream()).unwrap());
            (0..launches / 2).for_each(|_| case.make(rank, operands).unwrap());
        }
        if kernels_run {
            check(group, &outputs, &expected, case, calls);
        }
    }

    // All that it needs but the outputs is dropped before it runs.
    let expected = case.write(group, &all, random, 1);
    let (open, gate) = mpsc::channel::<()>();
    if kernels_run {
        group[0].stream().host_task(move || gate.recv().unwrap()).unwrap();
    }
    group.iter().zip(&graphs).for_each(|(rank, graph)| graph.launch(rank.stream()).unwrap());
    drop((graphs, all));
    if kernels_run {
        open.send(()).unwrap();
        check(group, &outputs, &expected, case, 1);
    }
    plan
}

/// How many tensors are freed once nothing uses them, after a while.
fn freed_of(group: &[Communicator], freed: &Freed, needed: usize) -> usize {
    let start = Instant::now();
    loop {
        // What streams used is freed by a later allocation.
        for rank in group {
            rank.stream().synchronize().unwrap();
            drop(rank.region(4).unwrap());
        }
        // ORDER: Relaxed is enough. It is a count.
        let seen = freed.load(Ordering::Relaxed);
        if seen >= needed || start.elapsed() > Duration::from_secs(20) {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
