//! Property: two parities are enough for cells. Whatever stands between two calls by cells, with however few lanes, on
//! whatever schedule, the mark that ends one comes before the payload of the next in the same place, in the order of
//! memory too.
//!
//! Catches: an epoch in which a sender goes by without hearing of an owner, a lane that nobody waits for, a mark that
//! nothing orders before the next payload. Cannot catch: the end of a launch that is no fence (docs/protocols/packet.md
//! assumes that it is one).

use myelon_lanes::Algorithm::{self, Direct, OneShot, OneShotLamport, Ring, TwoShot, TwoShotLamport};
use myelon_sim::model::Schedule;
use myelon_sim::simulation::{Case, Hunt, Limits, Mishap, Mutant, Simulation};

/// Calls one after the other, each on so many lanes of three, by three ranks of two movers. Calls of no elements go by
/// headers alone.
fn on_lanes(calls: &[(Algorithm, usize, usize)], first: u64) -> Case {
    let all = Simulation::new(3).lanes(3).inbox(3, 24).first(first).movers(2);
    let all = calls.iter().fold(all, |all, &(algorithm, _, elements)| all.sum_by(algorithm, "f32", elements));
    let mut case = all.case().clone();
    for (call, &(_, lanes, _)) in case.calls.iter_mut().zip(calls) {
        (call.lanes, call.workers) = (lanes, lanes);
    }
    case
}

/// What stands between two calls by cells: nothing, less lanes, no payload, headers of another kind, no epoch.
const BETWEEN: [&[(Algorithm, usize, usize)]; 9] = [
    &[],
    &[(OneShotLamport, 1, 5)],
    &[(TwoShotLamport, 1, 0)],
    &[(Direct, 1, 24)],
    &[(Direct, 3, 0), (Direct, 1, 7)],
    &[(OneShot, 2, 12), (Ring, 1, 30), (TwoShot, 1, 0)],
    &[(Ring, 3, 9)],
    &[(Ring, 1, 0), (Direct, 2, 3), (Ring, 2, 40)],
    &[(OneShotLamport, 1, 0), (OneShotLamport, 2, 0), (TwoShotLamport, 3, 1)],
];

#[test]
fn whatever_stands_between() {
    let hurry = Schedule::Priority { changes: 4, steps: 20_000 };
    for between in BETWEEN {
        for (one, other) in [(OneShotLamport, TwoShotLamport), (TwoShotLamport, OneShotLamport)] {
            let mut calls = vec![(one, 3, 36), (other, 2, 40)];
            calls.extend(between);
            calls.extend([(one, 1, 36), (other, 3, 40)]);
            calls.extend(between);
            calls.extend([(one, 2, 33)]);
            for seed in 0..6 {
                let mut case = on_lanes(&calls, [0, u64::MAX - 2, (1 << 32) - 3][seed as usize % 3]);
                case.schedule = if seed % 2 == 0 { Schedule::Random } else { hurry };
                case.mishap = (seed > 2).then_some(Mishap::Slow { rank: seed as usize % 3 });
                let run = Simulation::of(case).run(seed);
                run.unwrap_or_else(|failure| panic!("{calls:?}: {failure}"));
            }
        }
    }
}

/// A weakness of the protocol that cells share with flagged packets, or that is theirs, is seen where all calls go by
/// cells, of however few lanes.
#[test]
fn cells_alone_show_what_weakens_them() {
    let names = [
        "packet/cell.half",
        "packet/cell.kept",
        "packet/cell.mark-sent",
        "packet/parity.one",
        "packet/turn.early",
        "packet/header.none",
        "packet/epoch.same",
        "packet/call.ignored",
        "packet/scrub.used",
        "packet/scrub.none",
        "fault/abort.ignored",
        "fault/abort.unseen",
        "fault/deadline.none",
        "fault/patience.same",
        "fault/record.twice",
    ];
    for name in names {
        for algorithm in [OneShotLamport, TwoShotLamport] {
            // The patience of waits for others' waits is the two-shot's.
            if name == "fault/patience.same" && algorithm == OneShotLamport {
                continue;
            }
            let limits = Limits { algorithms: vec![algorithm], calls: 1..=4, ..Limits::default() };
            let mutant = Mutant::find(name).expect("it is a mutant");
            let hunt = Hunt { limits, mutant, threads: 2, ..Hunt::default() };
            let found = (0..2000).find_map(|seed| hunt.run(seed).err());
            let found = found.unwrap_or_else(|| panic!("{algorithm}: nobody noticed {name}"));
            println!("{name:<24} {algorithm:<18} seed {:>4}: {}", found.seed, found.violation);
        }
    }
}

/// The rule of the cells itself, and not only its consequences, sees what is wrong with them; and where no header is
/// waited for, that a sender is early.
#[test]
fn the_rules_of_cells_are_broken_by_what_weakens_them() {
    for (name, rule, words) in [
        ("packet/cell.half", "cells", "without having seen what is in it"),
        ("packet/cell.half", "cells", "though it is empty"),
        ("packet/cell.kept", "cells", "ended with payload in the"),
        ("packet/cell.mark-sent", "cells", "sends the mark as payload"),
        ("packet/parity.one", "turn", "half of cell"),
        ("packet/header.none", "turn", "half of cell"),
        ("packet/turn.early", "turn", "half of cell"),
    ] {
        let limits = Limits { algorithms: vec![OneShotLamport, TwoShotLamport], ..Limits::default() };
        let hunt = Hunt { limits, mutant: Mutant::find(name).unwrap(), ..Hunt::default() };
        let mut failures = (0..2000).filter_map(|seed| hunt.run(seed).err());
        let found = failures
            .find(|failure| failure.violation.rule == rule && failure.violation.message.contains(words));
        assert!(found.is_some(), "{name}: no seed breaks the rule {rule}");
    }
}

/// A trace tells cells by their names, and the mark by its.
#[test]
fn a_trace_names_cells_and_the_mark() {
    let (steps, _) = Simulation::new(2).sum_by(OneShotLamport, "f32", 4).trace(100_000).watch(1).unwrap();
    let said = |who: &str, words: &[&str]| {
        steps.iter().any(|step| step.who.contains(who) && words.iter().all(|word| step.what.contains(word)))
    };
    assert!(said(
        "rank 0 one-shot-lamport 0 mover 0",
        &["sends 0x", "second half of cell 0 0->1, even epochs"]
    ));
    assert!(said("rank 1 one-shot-lamport 0 mover 0", &["sees 0x", "first half of cell 0 0->1"]));
    assert!(said("rank 1 one-shot-lamport 0 mover 0", &["leaves the mark in the first half of cell 0 0->1"]));
}
