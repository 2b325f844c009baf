//! Property: no seed finds anything wrong with calls by neighbours, alone or between others; and every weakness that the
//! text they share with the ring can be given is found in them too.
//!
//! Catches: an ordering, a credit rule or a wait that only the ring's own calls would miss, a ring of ranks that stands
//! still, sums in another order than docs/protocols/neighbour.md says, a rank of another algorithm that is waited for until
//! the deadline. Cannot catch: what the model leaves out (docs/protocols/memory-model.md).

use myelon_lanes::Algorithm::{self, Neighbour, OneShot, Ring};
use myelon_sim::simulation::{Hunt, Limits, Mishap, Mutant, Simulation};

fn limits() -> Limits {
    Limits { algorithms: vec![Neighbour], ..Limits::default() }
}

fn nothing_is_found(limits: Limits, seeds: u64) {
    let hunt = Hunt { limits, threads: 2, trace: 60, ..Hunt::default() };
    if let Err(found) = hunt.search(0..seeds, &|| true) {
        panic!("{}\n{:?}", found.smallest, found.smallest.case);
    }
}

#[test]
fn small_systems() {
    nothing_is_found(limits(), 1500);
}

#[test]
fn five_to_eight_ranks() {
    nothing_is_found(Limits { ranks: 5..=8, chunks: 0..=3, calls: 1..=2, ..limits() }, 150);
}

/// More rounds than slots, so that groups of rounds follow one another, also across the wrap.
#[test]
fn many_rounds_of_many_slots() {
    for (capacity, elements) in [(2, 700), (4, 700), (8, 1500)] {
        for first in [0, u64::MAX - 20] {
            for seed in 0..4 {
                let calls = Simulation::new(3).lanes(2).capacity(capacity).piece_bytes(32).first(first);
                let calls = calls.sum_by(Neighbour, "i32", elements).sum_by(Ring, "f16", 9);
                let calls = calls.sum_by(Neighbour, "bf16", elements + 1).movers(2);
                calls.run(seed).unwrap_or_else(|failure| panic!("{capacity} slots: {failure}"));
            }
        }
    }
}

/// Ranks that take different algorithms find out at once, where both go through slots, too.
#[test]
fn ranks_that_call_another_algorithm_are_found_out() {
    for (own, algorithm) in
        [(Neighbour, Ring), (Ring, Neighbour), (Neighbour, OneShot), (Neighbour, Neighbour)]
    {
        for rank in 0..3 {
            for seed in 0..6 {
                let calls = Simulation::new(3).inbox(2, 16).sum_by(OneShot, "u8", 9).sum_by(own, "i32", 20);
                let run = calls.mishap(Mishap::OtherCount { rank, algorithm }).trace(40).run(seed);
                run.unwrap_or_else(|failure| panic!("{own} and {algorithm}: {failure}"));
            }
        }
    }
}

fn is_found(name: &str, algorithms: Vec<Algorithm>) {
    let mutant = Mutant::find(name).unwrap_or_else(|| panic!("no mutant {name}"));
    let limits = Limits { algorithms, ..limits() };
    let hunt = Hunt { limits, mutant, threads: 2, ..Hunt::default() };
    let Err(found) = hunt.search(0..3000, &|| true) else { panic!("nobody noticed {name}") };
    println!("{name:<22} {:>5}  {}", found.failure.seed, found.failure.violation);
}

#[test]
fn mutants_of_the_rings_are_caught_here_too() {
    let mutants = [
        "ring/publish.fence",
        "ring/publish.acquire",
        "ring/publish.early",
        "ring/credit.fence",
        "ring/credit.acquire",
        "ring/credit.early",
        "ring/credit.gate",
        "ring/credit.off-by-one",
        "ring/compare.equal",
        "ring/compare.unsigned",
        "ring/compare.beyond",
        "ring/cursor.restart",
        "ring/trailer.ignored",
        "ring/giveup.told",
        "neighbour/depth.all",
    ];
    mutants.into_iter().for_each(|name| is_found(name, vec![Neighbour]));
}

#[test]
fn mutants_of_blocks_and_records_are_caught_here_too() {
    let mutants = [
        "block/ready.skipped",
        "block/moved.skipped",
        "block/turns.one",
        "block/vote.alone",
        "fault/abort.ignored",
        "fault/abort.unseen",
        "fault/deadline.none",
        "fault/patience.same",
        "fault/waits.alike",
    ];
    mutants.into_iter().for_each(|name| is_found(name, vec![Neighbour]));
    is_found("fault/calling.unseen", vec![Neighbour, Ring]);
}
