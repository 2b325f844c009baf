//! Property: the all-reduce kernel's own source, on host threads, gives every rank the sum in rank order
//! for any count, placement, alignment and history of calls, and ends with a record when it cannot.
//!
//! Catches: geometry, indices, tails, credit and sequence arithmetic, counters that do not carry over,
//! roles that wait for each other. Cannot catch: missing ordering; the CPU is stronger than the GPU.

use bytemuck::{cast_slice, cast_slice_mut};
use myelon_ring::Inbox;
use myelon_ring::words::{Fault, FaultCode, Movement, TRAILER_BYTES, WaitCounts};
use myelon_sim::{HostRanks, KernelCall, Operands, Shape};

const SUM_I32: KernelCall<'_> = KernelCall {
    kernel: "all_reduce_ring_i32_sum",
    call: 7,
    lanes: 2,
    workers: 2,
    piece_bytes: 32,
    average: false,
    deadline_ns: 20_000_000_000,
};

fn shape(ranks: usize, first: u64) -> Shape {
    Shape {
        ranks,
        lanes: 2,
        capacity: 2,
        piece_bytes: 48,
        credit_batch: 1,
        first,
        inbox: Inbox { lanes: 3, packets: 16, cells: 0 },
    }
}

fn value(call: usize, rank: usize, index: usize) -> i32 {
    let mixed = (call as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((rank as u64) << 40 | index as u64);
    (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 29) as i32
}

/// One call of `elements` on every rank; poisons the outputs first and compares every element.
fn check(
    ranks: &mut HostRanks,
    shape: Shape,
    number: usize,
    elements: usize,
    in_place: bool,
    skew: usize,
    call: KernelCall<'_>,
) {
    let call = KernelCall { call: (elements as u64) << 8 | 7, ..call };
    // Each rank's buffers begin `skew` elements past a vector, differently on each rank and for the output.
    let at = |rank: usize| (skew * (rank + 1)) % 4;
    let mut inputs: Vec<Vec<i32>> = (0..shape.ranks)
        .map(|rank| (0..elements + 4).map(|i| value(number, rank, i.wrapping_sub(at(rank)))).collect())
        .collect();
    let mut outputs = vec![vec![-7i32; elements + 5]; shape.ranks];
    let mut operands: Vec<Operands<'_>> = inputs
        .iter_mut()
        .zip(&mut outputs)
        .enumerate()
        .map(|(rank, (input, output))| {
            let input = &mut input[at(rank)..at(rank) + elements];
            match in_place {
                true => Operands::InPlace(cast_slice_mut(input)),
                false => Operands::Apart(cast_slice(input), cast_slice_mut(&mut output[1..1 + elements])),
            }
        })
        .collect();
    let faults = ranks.run(&vec![Some(call); shape.ranks], &mut operands);
    assert!(faults.iter().all(|fault| fault.code == 0), "{faults:?}");
    for rank in 0..shape.ranks {
        let result = match in_place {
            true => &inputs[rank][at(rank)..at(rank) + elements],
            false => &outputs[rank][1..1 + elements],
        };
        for (i, &got) in result.iter().enumerate() {
            let sum = (0..shape.ranks).fold(0i32, |sum, peer| sum.wrapping_add(value(number, peer, i)));
            assert_eq!(got, sum, "call {number}, rank {rank}, element {i} of {elements}, {shape:?}");
        }
        if !in_place {
            assert_eq!((outputs[rank][0], outputs[rank][1 + elements]), (-7, -7), "wrote beside the output");
        }
    }
}

#[test]
fn sums_for_every_number_of_ranks() {
    for count in 2..=8 {
        let shape = shape(count, 0);
        let mut ranks = HostRanks::new(shape).unwrap();
        let elements =
            if count < 5 { vec![0, 1, 5, 64 * count - 1, 64 * count + 1] } else { vec![0, 16 * count + 3] };
        for (number, elements) in elements.into_iter().enumerate() {
            check(&mut ranks, shape, number, elements, number % 2 == 0, 0, SUM_I32);
        }
    }
}

#[test]
fn counters_carry_over_across_the_wrap_and_across_geometries() {
    let shape = shape(3, u64::MAX - 3);
    let mut ranks = HostRanks::new(shape).unwrap();
    for number in 0..14 {
        let elements = [0, 3, 130, 61, 12][number % 5];
        let lanes = 1 + number % 2;
        let call = KernelCall { lanes, workers: lanes, piece_bytes: 16 * (1 + number % 3), ..SUM_I32 };
        check(&mut ranks, shape, number, elements, number % 3 == 0, number % 4, call);
    }
}

#[test]
fn one_worker_serves_two_lanes() {
    let shape = shape(2, 0);
    let mut ranks = HostRanks::new(shape).unwrap();
    check(&mut ranks, shape, 0, 200, false, 1, KernelCall { workers: 1, ..SUM_I32 });
}

fn run_once(ranks: &mut HostRanks, calls: &[Option<KernelCall<'_>>]) -> Vec<Fault> {
    let mut buffers = vec![[1u8; 64]; calls.len()];
    let mut operands: Vec<_> = buffers.iter_mut().map(|buffer| Operands::InPlace(buffer)).collect();
    ranks.run(calls, &mut operands)
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let mut ranks = HostRanks::new(shape(3, 0)).unwrap();
    let call = KernelCall { deadline_ns: 500_000_000, ..SUM_I32 };
    let faults = run_once(&mut ranks, &[Some(call), None, Some(call)]);
    assert_eq!(faults[1].code, 0, "a rank that does not run records nothing");
    let stalled: Vec<_> = faults.iter().filter(|fault| fault.code == FaultCode::Stalled as u32).collect();
    assert!(!stalled.is_empty(), "{faults:?}");
    for fault in stalled {
        assert_eq!((fault.peer, fault.needed, fault.seen), (1, 0, u64::MAX), "{fault:?}");
        assert!(fault.waited_ns >= 500_000_000);
    }
}

/// Polls after which a rank tells of them. A busy machine takes long for so many: then the wait is longer, too.
const TOLD: u64 = 32 * 1024;
const DEADLINES_NS: [u64; 4] = [500_000_000, 2_000_000_000, 8_000_000_000, 32_000_000_000];

/// What rank 0 has told when it waited in vain for rank 1, so long that it told `enough`.
fn waits_in_vain(call: KernelCall<'_>, bytes: usize, enough: impl Fn(&WaitCounts) -> bool) -> WaitCounts {
    for deadline_ns in DEADLINES_NS {
        let mut ranks = HostRanks::new(shape(2, 0)).unwrap();
        assert_eq!(ranks.waits(0), WaitCounts::default(), "nobody has waited");
        let mut buffers = [vec![1u8; bytes], vec![1u8; bytes]];
        let mut operands: Vec<_> = buffers.iter_mut().map(|buffer| Operands::InPlace(buffer)).collect();
        let faults = ranks.run(&[Some(KernelCall { deadline_ns, ..call }), None], &mut operands);
        assert_eq!(faults[0].code, FaultCode::Stalled as u32, "{faults:?}");
        assert_eq!(ranks.waits(1), WaitCounts::default(), "a rank that does not run waits for nobody");
        let waits = ranks.waits(0);
        assert!(waits.longest_ns >= deadline_ns, "{waits:?}");
        if enough(&waits) {
            return waits;
        }
    }
    panic!("{}: not told in {DEADLINES_NS:?} ns", call.kernel);
}

/// What a rank that waits in vain has told of it, by the ring and by packets, for data and for credit.
#[test]
fn a_wait_that_lasts_is_counted_as_what_it_is() {
    for kernel in ["all_reduce_ring_i32_sum", "all_reduce_one_shot_i32_sum"] {
        let waits = waits_in_vain(KernelCall { kernel, ..SUM_I32 }, 64, |waits| waits.polls_data >= TOLD);
        assert_eq!(waits.polls_credit, 0, "{kernel}: {waits:?}");
    }
    // A lane of more rounds than slots: the scatter role waits for credit, the others for data.
    let call = KernelCall { lanes: 1, workers: 1, ..SUM_I32 };
    waits_in_vain(call, 2 * 32 * 8, |waits| waits.polls_data >= TOLD && waits.polls_credit >= TOLD);
}

#[test]
fn ranks_that_disagree_find_out_at_once() {
    let mut ranks = HostRanks::new(shape(2, 0)).unwrap();
    let other = KernelCall { call: 8, ..SUM_I32 };
    let faults = run_once(&mut ranks, &[Some(SUM_I32), Some(other)]);
    let seen: Vec<_> = faults.iter().filter(|fault| fault.code == FaultCode::Disagreement as u32).collect();
    assert!(!seen.is_empty(), "{faults:?}");
    for fault in seen {
        assert_eq!((fault.call, fault.call_seen), if fault.rank == 0 { (7, 8) } else { (8, 7) });
    }
}

#[test]
fn a_call_behind_one_that_gave_up_publishes_nothing() {
    let mut ranks = HostRanks::new(shape(2, 0)).unwrap();
    let impatient = KernelCall { deadline_ns: 20_000_000, ..SUM_I32 };
    let faults = run_once(&mut ranks, &[None, Some(impatient)]);
    assert_eq!(faults[1].code, FaultCode::Stalled as u32, "{faults:?}");
    let before = ranks.sequence_words();
    run_once(&mut ranks, &[None, Some(KernelCall { call: 8, ..impatient })]);
    assert_eq!(ranks.sequence_words(), before, "the second call has published");
    // The word in a slot is still that of the first call: its peer sees a stall, not a disagreement.
    let late = run_once(&mut ranks, &[Some(impatient), None]);
    assert!(late[0].code != FaultCode::Disagreement as u32, "{late:?}");
}

#[test]
fn words_beyond_what_anybody_can_have_written_are_a_fault() {
    let zeros = [0; 2];
    for (what, is_gating) in [("sequence", false), ("gating", true)] {
        let mut ranks = HostRanks::new(shape(2, 0)).unwrap();
        // From rank 1 to rank 0 in lane 0: the sequence lies in the window of 0, the gating in that of 1.
        let ring = ranks.layout().ring(&zeros, Movement::Scatter, 0, 1, 0);
        match is_gating {
            false => ranks.overwrite(0, ring.sequence as usize, 2),
            true => ranks.overwrite(1, ring.gating as usize, 3),
        }
        // Only the rank that looks at the word: its peer would write over it.
        let calls = if is_gating { [None, Some(SUM_I32)] } else { [Some(SUM_I32), None] };
        let faults = run_once(&mut ranks, &calls);
        let found = faults.iter().find(|fault| fault.code == FaultCode::Protocol as u32);
        let fault = found.unwrap_or_else(|| panic!("{what}: {faults:?}"));
        assert_eq!((fault.rank == 1, fault.seen), (is_gating, if is_gating { 3 } else { 2 }), "{fault:?}");
    }
}

#[test]
fn the_trailer_stands_behind_the_payload() {
    let args = HostRanks::new(shape(2, 0)).unwrap().args(0, &SUM_I32, 0);
    assert!(args.piece_bytes as usize + TRAILER_BYTES <= args.slot_bytes as usize);
}
