//! Property: calls of every algorithm may follow one another in one communicator, a packet whose flag matches is of this
//! call, also where a flag recurs, and a cell that is not the mark is.
//!
//! Catches: packets that nobody scrubs, epochs that algorithms do not share, calls of different algorithms that wait for
//! each other until the deadline, a mark or a scrub that could end behind the next payload. Cannot catch: the end of a
//! launch that is no fence (docs/protocols/packet.md assumes that it is one).

use myelon_lanes::Algorithm::{self, Direct, OneShot, OneShotLamport, Ring, TwoShot, TwoShotLamport};
use myelon_sim::simulation::{Hunt, Limits, Mishap, Mutant, Simulation};

/// Packets of one peer in one parity: headers of one lane, and payload.
const PACKETS: usize = 4 + 8;

/// Calls that use but few packets until scrubbing has come round, and then one that uses all of them. The simulator
/// has left packets behind that show the epoch of that last call from the start.
fn comes_round(small: Algorithm, first: u64) -> Simulation {
    let calls = Simulation::new(3).inbox(1, 8).first(first);
    let dtype = if small.needs_floats() { "f16" } else { "u8" };
    let calls = (0..2 * PACKETS).fold(calls, |calls, _| calls.sum_by(small, dtype, 0));
    calls.sum_by(OneShot, "u8", 64)
}

#[test]
fn no_flag_recurs_behind_scrubbing() {
    let small_calls = [
        (OneShot, 0),
        (TwoShot, 7),
        (Direct, u64::MAX - 9),
        (TwoShot, (1 << 32) - 5),
        (OneShotLamport, 3),
        (TwoShotLamport, (1 << 32) - 6),
    ];
    for (small, first) in small_calls {
        for seed in 0..4 {
            comes_round(small, first).run(seed).unwrap_or_else(|failure| panic!("{small}: {failure}"));
            let unscrubbed = comes_round(small, first).mutant(Mutant::find("packet/scrub.none").unwrap());
            let violation = unscrubbed.run(seed).expect_err("stale packets pass as new").violation;
            assert_eq!(violation.rule, "payload", "{violation}");
        }
    }
}

#[test]
fn calls_of_every_algorithm_follow_one_another() {
    let all = [
        OneShot,
        OneShotLamport,
        Ring,
        TwoShotLamport,
        Direct,
        TwoShot,
        OneShotLamport,
        Direct,
        TwoShotLamport,
        OneShot,
        Ring,
        TwoShot,
    ];
    for first in [0, u64::MAX - 2, (1 << 32) - 3] {
        for seed in 0..10 {
            let calls = Simulation::new(3).lanes(2).inbox(3, 16).first(first).movers(2);
            let calls = all.into_iter().enumerate().fold(calls, |calls, (number, algorithm)| {
                let types =
                    if algorithm.needs_floats() { ["f16", "f32", "bf16"] } else { ["u8", "i32", "f16"] };
                calls.sum_by(algorithm, types[number % 3], 3 + 2 * number)
            });
            calls.run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

/// Ranks whose counts make them take different algorithms find out, whichever two these are.
#[test]
fn ranks_that_take_different_algorithms_disagree_at_once() {
    for own in Algorithm::ALL {
        for algorithm in Algorithm::ALL {
            for seed in 0..6 {
                let dtype = if own.needs_floats() || algorithm.needs_floats() { "f32" } else { "i32" };
                let calls = Simulation::new(3).inbox(2, 16).sum_by(OneShot, "u8", 9).sum_by(own, dtype, 20);
                let run = calls.mishap(Mishap::OtherCount { rank: 1, algorithm }).trace(40).run(seed);
                run.unwrap_or_else(|failure| panic!("{own} and {algorithm}: {failure}"));
            }
        }
    }
}

/// Each algorithm alone: nothing of one hides behind another.
#[test]
fn small_systems_of_one_algorithm() {
    for algorithm in [OneShot, TwoShot, OneShotLamport, TwoShotLamport, Direct] {
        let limits = Limits { algorithms: vec![algorithm], calls: 1..=5, ..Limits::default() };
        let hunt = Hunt { limits, threads: 2, trace: 60, ..Hunt::default() };
        if let Err(found) = hunt.search(0..1000, &|| true) {
            panic!("{algorithm}: {}\n{:?}", found.smallest, found.smallest.case);
        }
    }
}

/// A call behind one that gave up writes nothing, also by threads that have nothing to move.
#[test]
fn idle_threads_keep_silence_too() {
    for algorithm in [OneShot, TwoShot, OneShotLamport, TwoShotLamport, Direct] {
        let dtype = if algorithm.needs_floats() { "f16" } else { "u8" };
        for seed in 0..6 {
            let calls = Simulation::new(2).inbox(40, 8);
            let calls = calls.sum_by(algorithm, dtype, 0).sum_by(algorithm, dtype, 9);
            let mut case = calls.mishap(Mishap::NeverComes { rank: 1 }).movers(24).case().clone();
            case.calls.iter_mut().for_each(|call| (call.lanes, call.workers) = (1, 1));
            Simulation::of(case).run(seed).unwrap_or_else(|failure| panic!("{algorithm}: {failure}"));
        }
    }
}

/// The same of what is called: a peer that still waits in an earlier call would take the number of a later one for its own
/// call's, and say that ranks disagree.
#[test]
fn calls_behind_one_that_gave_up_are_not_named() {
    for algorithm in Algorithm::ALL {
        for seed in 0..10 {
            let calls = Simulation::new(2).sum_by(OneShot, "f16", 5);
            let calls =
                calls.sum_by(TwoShot, "f16", 6).sum_by(algorithm, "f32", 0).sum_by(algorithm, "f32", 1);
            let told = Mishap::Aborted { rank: 0, after: 20 * seed as u32, alone: false };
            calls.mishap(told).run(seed).unwrap_or_else(|failure| panic!("{algorithm}: {failure}"));
        }
    }
}
