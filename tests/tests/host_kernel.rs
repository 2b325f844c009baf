//! Property: the all-reduce kernel's own source, on host threads, gives the bytes of the reference, for
//! every type and operation, 2 to 8 ranks, any bits, any element alignment, in place and not.
//!
//! Catches: arithmetic that rounds twice or in another order of the ranks, NaN and zeros that are not
//! canonical, partial vectors, writes beside the output. Cannot catch: missing ordering, and what a GPU's
//! conversions do; the conformance suite is for that. Further: a flag that recurs after 2^32 epochs meets no packet that
//! still shows it. Every GPU thread is an OS thread here, so counts are
//! small and slots smaller still.

use bytemuck::{cast_slice, cast_slice_mut};
use myelon_collectives::{DataType, ReduceOp, reference};
use myelon_lanes::Lanes;
use myelon_ring::Inbox;
use myelon_ring::words::{Fault, FaultCode};
use myelon_sim::{HostRanks, KernelCall, Operands, Shape};
use myelon_tests::data::{Fill, Random, elements};

/// Bytes at either side of an output that must stay as they are.
const GUARD: usize = 32;

struct Ranks {
    shape: Shape,
    ranks: HostRanks,
    random: Random,
    calls: u64,
}

/// One rank's buffer, with guards: 16-byte aligned memory, and where in it the elements are.
struct Place {
    memory: Vec<u128>,
    start: usize,
    bytes: usize,
}

impl Place {
    fn new(random: &mut Random, element: usize, bytes: usize) -> Self {
        let start = GUARD + element * random.below(16 / element);
        let memory = cast_slice(&random.bytes((start + bytes + GUARD).next_multiple_of(16)))
            .iter()
            .map(|pair: &[u8; 16]| u128::from_ne_bytes(*pair))
            .collect();
        Self { memory, start, bytes }
    }

    fn all(&self) -> &[u8] {
        cast_slice(&self.memory)
    }

    fn elements(&mut self) -> &mut [u8] {
        &mut cast_slice_mut(&mut self.memory)[self.start..self.start + self.bytes]
    }

    /// What lies around the elements.
    fn guards(&self) -> Vec<u8> {
        [&self.all()[..self.start], &self.all()[self.start + self.bytes..]].concat()
    }
}

impl Ranks {
    fn new(ranks: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let capacity = random.pick(&[1, 2, 4]);
        let credit_batch = 1 + random.below(capacity);
        let first = random.pick(&[0, u64::MAX - 5]);
        let shape = Shape {
            ranks,
            lanes: 2,
            capacity,
            piece_bytes: 48,
            credit_batch,
            first,
            inbox: Inbox { lanes: 3, packets: 64, cells: 32 },
        };
        Self { shape, ranks: HostRanks::new(shape).unwrap(), random, calls: 0 }
    }

    fn check(&mut self, dtype: DataType, op: ReduceOp, fill: Fill) {
        self.check_by(None, dtype, op, fill);
    }

    /// One call by an algorithm, or by any.
    fn check_by(&mut self, by: Option<&'static str>, dtype: DataType, op: ReduceOp, fill: Fill) {
        let Self { shape, ranks, random, calls } = self;
        let element = dtype.bytes();
        let (count, in_place) = (random.below(400 / element), random.bits() & 1 == 0);
        let inputs: Vec<_> = (0..shape.ranks).map(|_| elements(random, dtype, fill, count)).collect();

        let mut place = || Place::new(random, element, count * element);
        let mut from: Vec<Place> = inputs.iter().map(|_| place()).collect();
        let mut to: Vec<Place> = inputs.iter().map(|_| place()).collect();
        for (place, input) in from.iter_mut().zip(&inputs) {
            place.elements().copy_from_slice(input);
        }
        let guards = |places: &[Place]| places.iter().map(Place::guards).collect::<Vec<_>>();
        let guards_before = (guards(&from), guards(&to));

        let average = op == ReduceOp::Avg;
        let all =
            ["ring", "neighbour", "one_shot", "two_shot", "direct", "one_shot_lamport", "two_shot_lamport"];
        let algorithm = by.unwrap_or_else(|| random.pick(if dtype.is_float() { &all } else { &all[..5] }));
        let kernel = format!("all_reduce_{algorithm}_{dtype}_{}", if average { ReduceOp::Sum } else { op });
        *calls += 1;
        let has_slots = ["ring", "neighbour"].contains(&algorithm);
        let lanes = 1 + random.below(if has_slots { shape.lanes } else { shape.inbox.lanes });
        let call = KernelCall {
            kernel: &kernel,
            call: *calls,
            lanes,
            workers: 1 + random.below(lanes),
            piece_bytes: random.pick(&[16, 32, 48]),
            average,
            deadline_ns: 60_000_000_000,
        };
        let given: Vec<&[u8]> = inputs.iter().map(|x| &x[..]).collect();
        let expected = match algorithm {
            "neighbour" => {
                let (bytes, ranks) = ((count * element) as u64, shape.ranks as u32);
                let pieces = Lanes::new(bytes, ranks, call.lanes as u32, call.piece_bytes as u32).unwrap();
                reference::by_neighbours(dtype, op, &given, &pieces, 0)
            }
            _ => reference::all_reduce(dtype, op, &given),
        };
        let mut operands: Vec<Operands<'_>> = from
            .iter_mut()
            .zip(&mut to)
            .map(|(from, to)| match in_place {
                true => Operands::InPlace(from.elements()),
                false => Operands::Apart(from.elements(), to.elements()),
            })
            .collect();
        let faults = ranks.run(&vec![Some(call); shape.ranks], &mut operands);
        assert!(faults.iter().all(|fault| fault.code == 0), "{call:?}, {shape:?}: {faults:?}");

        for rank in 0..shape.ranks {
            let output = if in_place { from[rank].elements() } else { to[rank].elements() };
            let differs = output.iter().zip(&expected).position(|(seen, needed)| seen != needed);
            if let Some(at) = differs.map(|byte| byte / element) {
                let bytes = at * element..(at + 1) * element;
                let (needed, seen) = (&expected[bytes.clone()], &output[bytes]);
                panic!(
                    "rank {rank}, element {at} of {count}: needed {needed:02x?}, saw {seen:02x?}; {call:?}, {shape:?}"
                );
            }
            assert!(in_place || *from[rank].elements() == inputs[rank], "the input was written: {call:?}");
        }
        assert!((guards(&from), guards(&to)) == guards_before, "written beside a buffer: {call:?}");
    }
}

fn operations(dtype: DataType) -> impl Iterator<Item = ReduceOp> {
    ReduceOp::ALL.into_iter().filter(move |op| op.supports(dtype))
}

#[test]
fn every_type_and_operation() {
    for ranks in [2, 3] {
        let mut group = Ranks::new(ranks, ranks as u64);
        for dtype in DataType::ALL {
            for op in operations(dtype).chain(operations(dtype)) {
                group.check(dtype, op, Fill::Ordinary);
            }
        }
    }
}

#[test]
fn any_bits_of_every_float() {
    for ranks in [2, 3, 5] {
        let mut group = Ranks::new(ranks, 30 + ranks as u64);
        for dtype in DataType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for op in operations(dtype) {
                group.check(dtype, op, Fill::Edges);
                group.check(dtype, op, Fill::Edges);
            }
        }
    }
}

#[test]
fn every_number_of_ranks() {
    for ranks in 4..=8 {
        let mut group = Ranks::new(ranks, 100 + ranks as u64);
        for (dtype, op, fill) in [
            (DataType::F32, ReduceOp::Sum, Fill::Ordinary),
            (DataType::F16, ReduceOp::Avg, Fill::Ordinary),
            (DataType::Bf16, ReduceOp::Sum, Fill::Edges),
            (DataType::F64, ReduceOp::Min, Fill::Edges),
            (DataType::I8, ReduceOp::Prod, Fill::Ordinary),
        ] {
            group.check(dtype, op, fill);
        }
    }
}

/// Calls by neighbours, whose sums are in the order of their plan, between calls by the others.
#[test]
fn neighbours_sum_in_the_order_of_their_plan() {
    for ranks in 2..=8 {
        let mut group = Ranks::new(ranks, 200 + ranks as u64);
        for dtype in DataType::ALL {
            for op in operations(dtype).filter(|_| ranks <= 4 || dtype.is_float()) {
                group.check_by(Some("neighbour"), dtype, op, Fill::Ordinary);
            }
            group.check(dtype, ReduceOp::Max, Fill::Ordinary);
            if dtype.is_float() {
                group.check_by(Some("neighbour"), dtype, ReduceOp::Sum, Fill::Edges);
                group.check_by(Some("neighbour"), dtype, ReduceOp::Avg, Fill::Edges);
            }
        }
    }
}

/// Ranks of `stale_packets`, and what an inbox of theirs has room for.
const STALE: Shape = Shape {
    ranks: 2,
    lanes: 1,
    capacity: 1,
    piece_bytes: 48,
    credit_batch: 1,
    first: (1 << 32) - 7,
    inbox: Inbox { lanes: 1, packets: 8, cells: 0 },
};
/// The largest payload of the one-shot kernel there.
const STALE_BYTES: usize = 8 * 8;
const WORD_OF_CALL: u64 = 77;

fn one_shot_call(deadline_ns: u64) -> KernelCall<'static> {
    let kernel = "all_reduce_one_shot_u8_sum";
    KernelCall {
        kernel,
        call: WORD_OF_CALL,
        lanes: 1,
        workers: 1,
        piece_bytes: 48,
        average: false,
        deadline_ns,
    }
}

/// Leaves packets as they could be from 2^32 epochs ago: all that a call in `epoch` may use shows its flag, the headers
/// its call, the payload `0x55`. `spared` packets at the start stay as they are.
fn leave_stale_packets(ranks: &mut HostRanks, epoch: u64, spared: usize) {
    let layout = ranks.layout();
    for (rank, number) in
        (0..STALE.ranks).flat_map(|rank| (spared..layout.place_packets()).map(move |n| (rank, n)))
    {
        let value = if number < 4 { WORD_OF_CALL } else { 0x5555_5555_5555_5555 };
        for half in 0..2 {
            let word = epoch << 32 | value >> (32 * half) & 0xffff_ffff;
            ranks.overwrite(rank, layout.packet(epoch, 0, number) + 8 * half as usize, word);
        }
    }
}

fn call_of(ranks: &mut HostRanks, calls: &[Option<KernelCall<'_>>], bytes: usize) -> (Vec<u8>, Vec<Fault>) {
    let mut buffers: Vec<Vec<u8>> = (0..STALE.ranks).map(|rank| vec![1 + rank as u8; bytes]).collect();
    let mut operands: Vec<_> = buffers.iter_mut().map(|buffer| Operands::InPlace(buffer)).collect();
    let faults = ranks.run(calls, &mut operands);
    (buffers.swap_remove(0), faults)
}

/// What scrubbing is for: a rank whose peer never comes takes stale packets for its data, and says nothing.
#[test]
fn stale_packets_pass_where_nobody_has_scrubbed_them() {
    let mut ranks = HostRanks::new(STALE).unwrap();
    leave_stale_packets(&mut ranks, STALE.first, 0);
    let calls = [Some(one_shot_call(20_000_000_000)), None];
    let (sum, faults) = call_of(&mut ranks, &calls, STALE_BYTES);
    assert_eq!((sum, faults[0].code), (vec![0x56; STALE_BYTES], 0));
}

/// Once scrubbing has come round, the same packets are gone: data is right, and a rank that never comes is missed.
#[test]
fn calls_that_use_little_scrub_what_they_do_not_use() {
    for comes in [true, false] {
        let mut ranks = HostRanks::new(STALE).unwrap();
        let round = 2 * ranks.layout().place_packets() as u64;
        // The first header is what the small calls use.
        leave_stale_packets(&mut ranks, STALE.first.wrapping_add(round), 1);
        for _ in 0..round {
            let (_, faults) = call_of(&mut ranks, &[Some(one_shot_call(20_000_000_000)); 2], 0);
            assert!(faults.iter().all(|fault| fault.code == 0), "{faults:?}");
        }
        let deadline_ns = if comes { 20_000_000_000 } else { 300_000_000 };
        let call = one_shot_call(deadline_ns);
        let (sum, faults) = call_of(&mut ranks, &[Some(call), comes.then_some(call)], STALE_BYTES);
        match comes {
            true => assert_eq!((sum, faults[0].code), (vec![3; STALE_BYTES], 0)),
            false => assert_eq!(faults[0].code, FaultCode::Stalled as u32, "{faults:?}"),
        }
    }
}
