//! Property: no seed finds anything wrong with the kernels as they are: not in small systems of any shape with
//! every mishap, not with 2 to 8 ranks, not with the priorities of a bad day.
//!
//! Catches: races, laps, credit, ownership, silence, progress, wrong results and records, of the text that the
//! GPU runs. Cannot catch: what the model leaves out (docs/protocols/memory-model.md), and arithmetic of
//! floats; tests/tests/host_kernel.rs is for those.

use myelon_sim::model::Schedule;
use myelon_sim::simulation::strategies;
use myelon_sim::simulation::{Hunt, Limits, Mishap, Simulation};
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
    let mishaps = [
        Mishap::NeverComes { rank: 2 },
        Mishap::Stops { rank: 1, after_steps: 3000 },
        Mishap::Slow { rank: 3 },
        Mishap::OtherCount { rank: 0 },
        Mishap::Aborted { rank: 2, after: 200, alone: false },
        Mishap::Aborted { rank: 2, after: 20, alone: true },
        Mishap::Overwritten { rank: 1, gating: true },
        Mishap::Overwritten { rank: 1, gating: false },
    ];
    for mishap in mishaps {
        for seed in 0..10 {
            let run = ordinary().sum("u8", 100).mishap(mishap).trace(40).run(seed);
            run.unwrap_or_else(|failure| panic!("{mishap:?}: {failure}"));
        }
    }
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
