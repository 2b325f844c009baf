//! Strategies of proptest for everything that a case is made of, and cases that follow from a seed.

use std::ops::RangeInclusive;

use myelon_lanes::Algorithm;
use myelon_ring::Inbox;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::case::{Call, Case, Mishap, OPERATIONS, TYPES, bytes_max, lanes_of};
use crate::launch::Shape;
use crate::model::{Random, Schedule};

/// What cases may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What calls are made of. Those that carry floats only are left out of calls of integers; one of them must
    /// carry one of `types`.
    pub algorithms: Vec<Algorithm>,
    /// Ranks, within 2 to 8.
    pub ranks: RangeInclusive<usize>,
    /// Lanes of the window, and lanes of its inbox.
    pub lanes: RangeInclusive<usize>,
    /// Slots of a ring, powers of two.
    pub capacities: Vec<usize>,
    /// Payload bytes of a slot, multiples of 16.
    pub piece_bytes: Vec<usize>,
    /// Packets of payload that an inbox has room for, even numbers; it has room for as much in cells.
    pub inbox_packets: Vec<usize>,
    /// Slots after which credit is returned; no more than the capacity is used.
    pub credit_batches: RangeInclusive<usize>,
    /// Threads of a block that move.
    pub movers: RangeInclusive<u32>,
    /// Calls that follow one another.
    pub calls: RangeInclusive<usize>,
    /// Chunks of a call at most: what the slots of one lane carry in one round, for all ranks. Where an inbox has no
    /// room for so much, less.
    pub chunks: RangeInclusive<usize>,
    /// Element types, names of [`TYPES`].
    pub types: Vec<&'static str>,
    /// Whether ranks may be missing, stop, be slow, disagree or be told to stop.
    pub mishaps: bool,
    /// Whether rings may begin near the wrap of their sequences, and elsewhere than at 0.
    pub any_first: bool,
}

impl Default for Limits {
    /// Small systems in which everything happens: 2 to 4 ranks, all types.
    fn default() -> Self {
        Self {
            algorithms: Algorithm::ALL.to_vec(),
            ranks: 2..=4,
            lanes: 1..=2,
            capacities: vec![1, 2, 4],
            piece_bytes: vec![16, 32, 48],
            inbox_packets: vec![2, 8, 24],
            credit_batches: 1..=4,
            movers: 1..=2,
            calls: 1..=3,
            chunks: 0..=8,
            types: TYPES.iter().map(|known| known.0).collect(),
            mishaps: true,
            any_first: true,
        }
    }
}

/// Sequences to begin at: 0, around the wraps of 32, 63 and 64 bits, or anything.
pub fn first_sequences() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(0u64),
        2 => (0u64..12).prop_map(|before| 0u64.wrapping_sub(before)),
        1 => (0u64..12).prop_map(|before| (1u64 << 63).wrapping_sub(before)),
        1 => (0u64..12).prop_map(|before| (1u64 << 32).wrapping_sub(before)),
        1 => any::<u64>(),
    ]
}

/// Windows within the limits.
pub fn shapes(limits: &Limits) -> impl Strategy<Value = Shape> + use<> {
    let first = if limits.any_first { first_sequences().boxed() } else { Just(0).boxed() };
    let sizes = (
        select(limits.capacities.clone()),
        select(limits.piece_bytes.clone()),
        limits.credit_batches.clone(),
    );
    let inbox = (limits.lanes.clone(), select(limits.inbox_packets.clone()));
    (limits.ranks.clone(), limits.lanes.clone(), sizes, inbox, first).prop_map(
        |(ranks, lanes, (capacity, piece_bytes, batch), (inbox_lanes, packets), first)| Shape {
            ranks,
            lanes,
            capacity,
            piece_bytes,
            credit_batch: batch.min(capacity),
            first,
            inbox: Inbox { lanes: inbox_lanes, packets, cells: cells_of(packets) },
        },
    )
}

/// Cells beside so many packets: room for as much payload, or a little more.
pub(super) fn cells_of(packets: usize) -> usize {
    packets.div_ceil(2).next_multiple_of(2)
}

/// Whether an algorithm carries elements of a type.
fn carries(algorithm: Algorithm, dtype: &str) -> bool {
    !algorithm.needs_floats() || TYPES.iter().any(|known| known.0 == dtype && !known.2)
}

/// Calls that a window of that shape can carry.
///
/// # Panics
///
/// Where no algorithm of the limits carries a type of theirs.
pub fn calls(limits: &Limits, shape: Shape) -> impl Strategy<Value = Call> + use<> {
    let types: Vec<_> = TYPES.iter().filter(|known| limits.types.contains(&known.0)).copied().collect();
    let types_of = move |algorithm| {
        types.iter().filter(|known| carries(algorithm, known.0)).copied().collect::<Vec<_>>()
    };
    let algorithms: Vec<Algorithm> =
        limits.algorithms.iter().copied().filter(|&algorithm| !types_of(algorithm).is_empty()).collect();
    let placement = (any::<bool>(), 0usize..4);
    let lanes = shape.lanes.max(shape.inbox.lanes);
    let plan = (1..=lanes, 1..=lanes, 1..=shape.piece_bytes / 16);
    // Whole chunks, and a few bytes more or less.
    let size = (limits.chunks.clone(), 0usize..40);
    let what = (select(algorithms), any::<Index>(), 0..OPERATIONS.len());
    (what, placement, plan, size).prop_map(
        move |((algorithm, dtype, op), placement, (lanes, workers, vectors), (chunks, odd))| {
            let (dtype, bytes, integer) = *dtype.get(&types_of(algorithm));
            let op = OPERATIONS[if integer { op.min(3) } else { op }];
            let (in_place, skewed) = placement;
            let wanted = (chunks * shape.ranks * shape.piece_bytes + odd).saturating_sub(20) / bytes;
            let lanes = lanes.min(lanes_of(&shape, algorithm));
            Call {
                algorithm,
                dtype,
                op,
                // A rank whose count is another still has room for it.
                elements: wanted % (bytes_max(&shape, algorithm) / bytes),
                in_place,
                skewed,
                lanes,
                workers: workers.min(lanes),
                piece_bytes: 16 * vectors,
            }
        },
    )
}

/// What may go wrong among `ranks` ranks; mostly nothing.
pub fn mishaps(limits: &Limits, ranks: usize) -> impl Strategy<Value = Option<Mishap>> + use<> {
    let (rank, algorithms) = (0..ranks, limits.algorithms.clone());
    prop_oneof![
        8 => Just(None),
        1 => rank.clone().prop_map(|rank| Some(Mishap::NeverComes { rank })),
        1 => (rank.clone(), 1u64..20_000).prop_map(|(rank, after_steps)| Some(Mishap::Stops { rank, after_steps })),
        1 => (rank.clone(), 1u64..20_000).prop_map(|(rank, after_steps)| Some(Mishap::Pauses { rank, after_steps })),
        1 => rank.clone().prop_map(|rank| Some(Mishap::Slow { rank })),
        1 => (rank.clone(), select(algorithms))
            .prop_map(|(rank, algorithm)| Some(Mishap::OtherCount { rank, algorithm })),
        1 => (rank.clone(), 0u32..400, any::<bool>())
            .prop_map(|(rank, after, alone)| Some(Mishap::Aborted { rank, after, alone })),
        1 => (rank, any::<bool>()).prop_map(|(rank, gating)| Some(Mishap::Overwritten { rank, gating })),
    ]
}

/// The mishap, or where another algorithm cannot carry that type or count, the same with the algorithm of the others.
fn possible(mishap: Mishap, shape: &Shape, calls: &[Call]) -> Mishap {
    match (mishap, calls.last()) {
        (Mishap::OtherCount { rank, algorithm }, Some(call))
            if !carries(algorithm, call.dtype)
                || call.bytes() + call.element_bytes() > bytes_max(shape, algorithm) =>
        {
            Mishap::OtherCount { rank, algorithm: call.algorithm }
        }
        _ => mishap,
    }
}

/// Schedules by lot, and by priorities that change a few times.
pub fn schedules() -> impl Strategy<Value = Schedule> {
    let priority =
        (0u32..6, 1_000u64..100_000).prop_map(|(changes, steps)| Schedule::Priority { changes, steps });
    prop_oneof![3 => Just(Schedule::Random), 1 => priority]
}

/// Whole cases within the limits.
pub fn cases(limits: Limits) -> impl Strategy<Value = Case> {
    shapes(&limits).prop_flat_map(move |shape| {
        let mishap = if limits.mishaps { mishaps(&limits, shape.ranks).boxed() } else { Just(None).boxed() };
        let calls = prop::collection::vec(calls(&limits, shape), limits.calls.clone());
        (Just(shape), limits.movers.clone(), calls, 0u32..30, mishap, schedules()).prop_map(
            |(shape, movers, calls, skew, mishap, schedule)| {
                let mishap = mishap.map(|mishap| possible(mishap, &shape, &calls));
                Case { shape, movers, calls, skew, mishap, schedule }
            },
        )
    })
}

/// The tree of cases that grows from `seed`: its current value, and smaller ones.
pub(super) fn tree(limits: &Limits, seed: u64) -> impl ValueTree<Value = Case> + use<> {
    let mut random = Random::new(seed);
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.bits().to_le_bytes());
    }
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    cases(limits.clone()).new_tree(&mut runner).expect("no case is rejected")
}
