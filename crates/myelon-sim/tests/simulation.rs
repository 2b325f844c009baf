//! Property: no seed finds anything wrong with the kernels as they are: not in small systems of any shape with
//! every mishap, not with 2 to 8 ranks, not with the priorities of a bad day.
//!
//! Catches: races, laps, credit, ownership, silence, progress, wrong results and records, of the text that the
//! GPU runs. Cannot catch: what the model leaves out (docs/protocols/memory-model.md), and a GPU's arithmetic of
//! floats.

use myelon_lanes::Algorithm;
use myelon_sim::model::Schedule;
use myelon_sim::simulation::strategies;
use myelon_sim::simulation::{Call, Hunt, Limits, Mishap, Simulation, Step};
use proptest::prelude::*;

fn nothing_is_found(hunt: &Hunt, seeds: u64) {
    if let Err(found) = hunt.search(0..seeds, &|| true) {
        panic!(
            "{}\n{:?}\nsmallest:\n{}\n{:?}",
            found.failure, found.failure.case, found.smallest, found.smallest.case
        );
    }
}

#[test]
fn small_systems() {
    nothing_is_found(&Hunt { threads: 2, trace: 60, ..Hunt::default() }, 3000);
}

#[test]
fn two_to_eight_ranks() {
    let limits = Limits { ranks: 5..=8, chunks: 0..=3, calls: 1..=2, ..Limits::default() };
    nothing_is_found(&Hunt { limits, threads: 2, trace: 60, ..Hunt::default() }, 400);
}

/// What the issue of speed is measured with: 4 ranks, 2 lanes, 2 slots, 16 chunks.
fn ordinary() -> Simulation {
    Simulation::new(4).lanes(2).capacity(2).sum("i32", 16 * 4 * 48 / 4)
}

#[test]
fn by_lot_and_by_priorities() {
    for seed in 0..50 {
        ordinary().run(seed).unwrap();
        ordinary().schedule(Schedule::Priority { changes: 3, steps: 30_000 }).run(seed).unwrap();
    }
}

#[test]
fn every_mishap_in_the_middle_of_many_chunks() {
    let mishaps = every_mishap(Algorithm::Ring);
    for mishap in mishaps {
        for seed in 0..10 {
            let run = ordinary().sum("u8", 100).mishap(mishap).trace(40).run(seed);
            run.unwrap_or_else(|failure| panic!("{mishap:?}: {failure}"));
        }
    }
}

/// Each mishap with each algorithm, which may meet any other where counts differ.
#[test]
fn every_mishap_with_every_algorithm() {
    for (algorithm, other) in Algorithm::ALL.into_iter().flat_map(|one| Algorithm::ALL.map(|two| (one, two)))
    {
        let floats = algorithm.needs_floats() || other.needs_floats();
        let (small, large) = if floats { ("f16", "f32") } else { ("u8", "i32") };
        for mishap in every_mishap(other) {
            for seed in 0..4 {
                let calls = Simulation::new(4).lanes(2).inbox(2, 24).sum_by(algorithm, small, 90);
                let run = calls.sum_by(algorithm, large, 30).mishap(mishap).trace(40).run(seed);
                run.unwrap_or_else(|failure| panic!("{algorithm}, {mishap:?}: {failure}"));
            }
        }
    }
}

fn every_mishap(algorithm: Algorithm) -> [Mishap; 9] {
    [
        Mishap::NeverComes { rank: 2 },
        Mishap::Stops { rank: 1, after_steps: 3000 },
        Mishap::Pauses { rank: 1, after_steps: 3000 },
        Mishap::Slow { rank: 3 },
        Mishap::OtherCount { rank: 0, algorithm },
        Mishap::Aborted { rank: 2, after: 200, alone: false },
        Mishap::Aborted { rank: 2, after: 20, alone: true },
        Mishap::Overwritten { rank: 1, gating: true },
        Mishap::Overwritten { rank: 1, gating: false },
    ]
}

/// The rank goes on when its peers have given up: its own wait then ends, and it is in the record.
#[test]
fn a_rank_that_pauses_goes_on_behind_its_peers_deadline() {
    for seed in 0..10 {
        let late = ordinary().mishap(Mishap::Pauses { rank: 1, after_steps: 3000 }).trace(200_000);
        let (steps, _) = late.watch(seed).unwrap();
        let of_late = |step: &&Step| step.who.starts_with("rank 1 ");
        let gives_up = |step: &&Step| step.what.starts_with("gives up");
        let by_peer = steps.iter().find(|step| gives_up(step) && !of_late(step)).expect("peers give up");
        let behind = steps.iter().filter(|step| step.number > by_peer.number);
        assert!(behind.clone().any(|step| of_late(&step) && gives_up(&step)), "seed {seed}");
        assert!(
            behind.clone().any(|step| step.who == "host of rank 1" && step.what == "ends"),
            "seed {seed}"
        );
    }
}

#[test]
fn what_is_no_case_is_refused_and_not_run() {
    let one = || Simulation::new(3).lanes(2).sum("i32", 9);
    let call = |change: fn(&mut Call)| {
        let mut case = one().case().clone();
        change(&mut case.calls[0]);
        Simulation::of(case)
    };
    let bad = [
        (Simulation::new(1), "a window joins 2 to 8 ranks, not 1"),
        (one().lanes(0), "a window needs at least one lane"),
        (one().lanes(257), "lanes must be 1 to 256, not 257"),
        (one().capacity(3), "the capacity of a ring is a power of two, not 3"),
        (one().piece_bytes(24), "a slot holds a multiple of 16 bytes, at least 16, not 24"),
        (one().piece_bytes(1 << 25), "bytes of a window must be 1 to 67108864, not "),
        (one().credit_batch(0), "credit is returned in batches of 1 to 2 slots, not 0"),
        (one().credit_batch(3), "credit is returned in batches of 1 to 2 slots, not 3"),
        (one().movers(0), "movers must be 1 to 1024, not 0"),
        (one().skew(u32::MAX), "skew must be 0 to 1048576, not 4294967295"),
        (one().mishap(Mishap::Slow { rank: 3 }), "rank of the mishap must be 0 to 2, not 3"),
        (
            one().sum("i31", 1),
            "call 1: type must be f16, bf16, f32, f64, i8, u8, i32, u32, i64, u64, not i31",
        ),
        (
            one().sum_by(Algorithm::OneShotLamport, "i32", 1),
            "call 1: type must be f16, bf16, f32, f64 by one-shot-lamport, not i32",
        ),
        (
            one().mishap(Mishap::OtherCount { rank: 1, algorithm: Algorithm::TwoShotLamport }),
            "call 0: type must be f16, bf16, f32, f64 by two-shot-lamport, not i32",
        ),
        (call(|call| call.op = "avg"), "call 0: operation must be sum, prod, min, max, not avg"),
        (call(|call| call.elements = 1 << 40), "call 0: elements must be 0 to 16777216, not 1099511627776"),
        (call(|call| call.skewed = 16), "call 0: skew of buffers must be 0 to 15, not 16"),
        (call(|call| call.lanes = 3), "call 0: lanes must be 1 to 2, not 3"),
        (call(|call| call.workers = 0), "call 0: blocks of a role must be 1 to 2, not 0"),
        (call(|call| call.piece_bytes = 64), "call 0: bytes of a slot must be 16 to 48, not 64"),
        (call(|call| call.piece_bytes = 24), "call 0: bytes of a slot must be a multiple of 16, not 24"),
    ];
    for (simulation, needed) in bad {
        let failure = simulation.run(0).unwrap_err();
        assert_eq!((failure.violation.rule, failure.step), ("case", 0), "{failure}");
        assert!(failure.violation.message.starts_with(needed), "{failure}, not {needed}");
    }
    one().run(0).unwrap();
}

#[test]
fn sums_use_the_window_that_there_is_in_the_end() {
    let first = Simulation::new(2).sum("i32", 9).lanes(3).piece_bytes(32);
    let last = Simulation::new(2).lanes(3).piece_bytes(32).sum("i32", 9);
    assert_eq!(first.case(), last.case());
    assert_eq!((first.case().calls[0].lanes, first.case().calls[0].workers), (3, 3));
}

#[test]
fn the_same_seed_takes_the_same_steps() {
    let steps = |seed| ordinary().run(seed).unwrap();
    assert_eq!(steps(7), steps(7));
    assert_ne!(steps(7), steps(8));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// The strategies are for others too: any case of theirs runs, or says what is wrong.
    #[test]
    fn any_case_of_the_strategies(case in strategies::cases(Limits::default()), seed: u64) {
        let run = Simulation::of(case).run(seed);
        prop_assert!(run.is_ok(), "{}", run.unwrap_err());
    }
}
