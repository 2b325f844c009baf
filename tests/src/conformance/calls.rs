//! Calls that must give the reference's bits.

use myelon_collectives::{Backend, DataType, ReduceOp};
use myelon_lanes::Forced;

use super::Make;
use super::harness::{Case, check_all, enqueue, enqueue_all, seats};
use crate::data::{Fill, Random};

/// Every operation of every type for 2 to 8 ranks: in place and not, misaligned, odd counts, 0 and 1.
pub fn every_type_and_operation(make: &impl Make, _budget: usize) {
    let mut random = Random::new(1);
    for ranks in 2..=8 {
        let mut group = seats(make(ranks));
        for dtype in DataType::ALL {
            for op in ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)) {
                let count = random.pick(&[0, 1, 2, 15, 17, 255, 1023, 1025]);
                let (in_place, seed) = (random.bits() & 1 == 0, random.bits());
                let case = Case { dtype, op, count, in_place, fill: Fill::Ordinary, seed };
                check_all(enqueue_all(&mut group, &case));
                let launch = group[0].rank.last_launch().unwrap();
                assert_eq!((launch.bytes, launch.ranks), ((count * dtype.bytes()) as u64, ranks));
                // The kernel of an average is that of a sum, told to divide.
                let cuda_average = op == ReduceOp::Avg && group[0].rank.backend() == Backend::Cuda;
                let kernel_op = if cuda_average { ReduceOp::Sum } else { op };
                assert!(launch.kernel.contains(dtype.name()) && launch.kernel.contains(kernel_op.name()));
                assert_eq!(launch.plan, group[0].rank.explain(dtype, count as u64).unwrap().plan);
            }
        }
    }
}

/// Zeros of either sign, subnormals, infinities, NaN and any other bits, for every operation on floats.
pub fn edge_bits(make: &impl Make, _budget: usize) {
    let mut random = Random::new(2);
    for ranks in [2, 3, 8] {
        let mut group = seats(make(ranks));
        for dtype in DataType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for op in ReduceOp::ALL {
                let (in_place, seed) = (random.bits() & 1 == 0, random.bits());
                let case = Case { dtype, op, count: 2000, in_place, fill: Fill::Edges, seed };
                check_all(enqueue_all(&mut group, &case));
            }
        }
    }
}

/// Counts at, just below and just above each boundary of the geometry: vector, piece, chunk, lane, and
/// the wrap of the slots. Small slots are forced, and then the plan that is chosen without force.
pub fn plan_boundaries(make: &impl Make, _budget: usize) {
    let mut random = Random::new(3);
    for (ranks, lanes, slots, piece_bytes) in [(2, 1, 1, 16), (2, 3, 2, 64), (3, 2, 4, 48), (8, 2, 2, 128)] {
        let (forced_lanes, forced_piece, forced_slots) = (Some(lanes), Some(piece_bytes), Some(slots));
        let forced = Forced {
            lanes: forced_lanes,
            piece_bytes: forced_piece,
            slots: forced_slots,
            ..Forced::default()
        };
        let mut group = seats(make(ranks).forced(forced));
        let piece = piece_bytes as usize;
        let chunk = ranks * piece;
        let lap = chunk * lanes as usize * slots as usize;
        for dtype in [DataType::U8, DataType::Bf16, DataType::F32, DataType::F64] {
            for boundary in
                [16, piece, chunk, chunk * lanes as usize, 16 * lanes as usize, lap, 2 * lap + chunk]
            {
                let at = boundary / dtype.bytes();
                for count in [at - 1, at, at + 1] {
                    let (in_place, seed) = (random.bits() & 1 == 0, random.bits());
                    let case = Case { dtype, op: ReduceOp::Sum, count, in_place, fill: Fill::Ordinary, seed };
                    check_all(enqueue_all(&mut group, &case));
                    let plan = group[0].rank.last_launch().unwrap().plan;
                    assert_eq!((plan.lanes, plan.slots, plan.piece_bytes), (lanes, slots, piece_bytes));
                }
            }
        }
    }
    for ranks in [2, 3] {
        let mut group = seats(make(ranks));
        let piece = group[0].rank.explain(DataType::F32, 1).unwrap().plan.piece_bytes as usize;
        for bytes in [piece, ranks * piece, 4 * ranks * piece] {
            for count in [bytes / 4 - 1, bytes / 4, bytes / 4 + 1] {
                let (in_place, seed) = (random.bits() & 1 == 0, random.bits());
                let (dtype, op) = (DataType::F32, ReduceOp::Sum);
                let case = Case { dtype, op, count, in_place, fill: Fill::Ordinary, seed };
                check_all(enqueue_all(&mut group, &case));
            }
        }
    }
}

/// Counts that use every lane and go round every ring several times, odd ones and misaligned ones.
pub fn large_counts(make: &impl Make, budget: usize) {
    let mut random = Random::new(6);
    for ranks in [2, 3, 4, 8] {
        let mut group = seats(make(ranks));
        for dtype in [DataType::Bf16, DataType::F32, DataType::I8, DataType::F64] {
            for bytes in [budget * 96, budget * 300 + 64] {
                let count = bytes / dtype.bytes() + random.below(3);
                let (in_place, seed) = (random.bits() & 1 == 0, random.bits());
                let case = Case { dtype, op: ReduceOp::Sum, count, in_place, fill: Fill::Ordinary, seed };
                check_all(enqueue_all(&mut group, &case));
            }
        }
    }
}

/// A count that is often small and sometimes large, up to about twice the budget.
fn random_count(random: &mut Random, budget: usize) -> usize {
    let scale = random.below(budget.ilog2() as usize + 1);
    random.below(2 << scale)
}

/// Thousands of calls of mixed size, type and operation in one communicator, several queued at a time,
/// from just before the sequence wraps.
pub fn many_calls_across_the_wrap(make: &impl Make, budget: usize) {
    for ranks in [2, 3, 5] {
        let mut random = Random::new(4 + ranks as u64);
        let mut group = seats(make(ranks).first_sequence(u64::MAX - 5));
        for _ in 0..budget / 8 {
            let queued: Vec<_> = (0..8)
                .map(|_| {
                    let count = random_count(&mut random, budget);
                    enqueue_all(&mut group, &Case::random(&mut random, count, Fill::Ordinary))
                })
                .collect();
            queued.into_iter().for_each(check_all);
        }
    }
}

/// The same from one thread a rank, which call without waiting for each other.
pub fn thread_a_rank(make: &impl Make, budget: usize) {
    for ranks in [2, 4, 8] {
        let group = seats(make(ranks).first_sequence(u64::MAX - 5));
        std::thread::scope(|scope| {
            for mut seat in group {
                scope.spawn(move || {
                    let mut random = Random::new(5);
                    for _ in 0..budget / 16 {
                        let queued: Vec<_> = (0..4)
                            .map(|_| {
                                let count = random_count(&mut random, budget);
                                let case = Case::random(&mut random, count, Fill::Ordinary);
                                enqueue(&mut seat, &case)
                            })
                            .collect();
                        queued.into_iter().for_each(|pending| pending.check());
                    }
                });
            }
        });
    }
}
