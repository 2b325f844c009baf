//! Property: every weakness that the kernels or the protocols of myelon_sim::heritage can be given is found, by a
//! seed that finds it again.
//!
//! Catches: an ordering, a credit rule, a comparison or a wait that no checker would miss if it were gone, and
//! so a checker that has gone blind. Cannot catch: weaknesses that nobody has listed in
//! kernels/include/myelon/mutants.cuh.

use std::time::Instant;

use myelon_sim::simulation::{Hunt, Mutant, Simulation};

const SEEDS: u64 = 2000;

#[test]
fn every_mutant_is_caught() {
    let mut survivors = Vec::new();
    println!("{:<24} {:>5} {:>8}  {:<10} what was seen", "mutant", "seed", "ms", "rule");
    for mutant in Mutant::all() {
        let start = Instant::now();
        let hunt = Hunt { mutant, threads: 2, trace: 400, ..Hunt::default() };
        let Err(found) = hunt.search(0..SEEDS, &|| true) else {
            survivors.push(mutant.name());
            continue;
        };
        let (failure, smallest) = (&found.failure, &found.smallest);
        let message: String = smallest.violation.message.chars().take(100).collect();
        assert!(!smallest.steps.is_empty(), "{mutant} is found without a step to show");
        let milliseconds = start.elapsed().as_millis();
        println!(
            "{mutant:<24} {:>5} {milliseconds:>8}  {:<10} {message}",
            failure.seed, failure.violation.rule
        );

        // The seed alone brings it back, step for step; the smallest case likewise.
        let again = hunt.run(failure.seed).expect_err("the seed fails again");
        assert_eq!((again.step, &again.violation), (failure.step, &failure.violation), "{mutant}");
        let again = match smallest.case.clone() {
            Some(case) => Simulation::of(case).mutant(mutant).run(smallest.seed),
            None => hunt.run(smallest.seed),
        };
        assert_eq!(smallest.case.is_none(), mutant.protocol().is_some(), "{mutant}");
        assert_eq!(again.expect_err("the case fails again").violation, smallest.violation, "{mutant}");
    }
    assert!(survivors.is_empty(), "nobody noticed {survivors:?}");
}

/// F4 has a checker of its own: another may be first to see a call that does not stop behind one that gave up, but
/// not always.
#[test]
fn a_call_behind_one_that_gave_up_is_seen_to_write() {
    let mutant = Mutant::find("fault/abort.ignored").unwrap();
    let hunt = Hunt { mutant, ..Hunt::default() };
    let failures = (0..SEEDS).filter_map(|seed| hunt.run(seed).err());
    let mut silence = failures.filter(|failure| failure.violation.rule == "silence");
    let message = silence.next().expect("the rule of silence is broken").violation.message;
    assert!(message.contains("its next call wrote"), "{message}");
}

#[test]
fn names_are_found_and_are_each_one() {
    let all = Mutant::all();
    for mutant in &all {
        assert_eq!(Mutant::find(mutant.name()), Some(*mutant));
        assert!(!mutant.about().is_empty());
    }
    assert!(all.len() > 25 && Mutant::find("ring/none-of-these").is_none());
}
