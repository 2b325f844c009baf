//! Property: whatever the ranks (2 to 4), the capacity (1, 2 or 4; 3 is no power of two, so no ring has it), the
//! batches of credit, the calls and the first sequence, and whoever takes the next step, the counters of the ring
//! all-reduce keep R2, R3, R6 and R7, no slot is written or read too early, and all ranks come to the end.
//! Exploration is complete, with no bound.
//!
//! Catches: gates that are off by one, credit kept back for ever, tests that are wrong near the wrap or take
//! "more" for "not yet", counters that restart. Each such mutant must be seen to fail, with the complaint that
//! it deserves. Cannot catch: orderings, which loom and the models of memory explore; what the roles do with
//! the bytes; more rounds than are played here, with four ranks above all; and whether the model's steps are
//! the kernel's, which a reader must compare.

use std::time::Instant;

use myelon_sim::credit::{Explored, Kind, Mutant, System, Tell, Violation, explore};

/// Two sequences before the wrap: every system below passes it.
const NEAR_WRAP: u64 = u64::MAX - 1;

fn system(ranks: usize, capacity: u32, credit_batch: u32, calls: &[u32], tell: Tell) -> System {
    System { ranks, lanes: 1, capacity, credit_batch, calls: calls.to_vec(), first: NEAR_WRAP, tell }
}

fn shown(system: &System, mutant: Option<Mutant>) -> Result<Explored, Violation> {
    let start = Instant::now();
    let result = explore(system, mutant);
    let System { ranks, lanes, capacity, credit_batch, calls, tell, .. } = system;
    let name = mutant.map_or("", Mutant::name);
    let (states, end) = match &result {
        Ok(explored) => (explored.states, format!("complete, {} steps deep", explored.depth)),
        Err(violation) => {
            (violation.states, format!("{:?} after {} steps", violation.kind, violation.path.len()))
        }
    };
    println!(
        "{name:30} {ranks} ranks, {lanes} lanes, {capacity} slots, credit by {credit_batch}, calls {calls:?}, \
         {tell:?}: {states} states, {end}, {} ms",
        start.elapsed().as_millis()
    );
    result
}

/// Explores a system in which nothing may be wrong.
fn holds(system: &System) -> Explored {
    let explored = shown(system, None).unwrap_or_else(|violation| panic!("{system:?}: {violation}"));
    if system.tell == Tell::AtOnce {
        let rounds = system.calls.iter().sum::<u32>() as usize * system.lanes;
        assert_eq!(
            explored.depth,
            system.ranks * 3 * 3 * rounds,
            "each role begins, moves and tells each round"
        );
    }
    explored
}

#[test]
fn two_ranks() {
    for capacity in [1, 2] {
        for credit_batch in 1..=capacity {
            holds(&system(2, capacity, credit_batch, &[3, 1, 2], Tell::EachEdge));
            holds(&system(2, capacity, credit_batch, &[1, 7], Tell::EachEdge));
        }
    }
    for credit_batch in 1..=4 {
        holds(&system(2, 4, credit_batch, &[5, 1], Tell::AtOnce));
    }
    holds(&system(2, 4, 3, &[5, 1], Tell::EachEdge));
}

#[test]
fn two_lanes_of_one_worker() {
    for (capacity, credit_batch, calls) in [(1, 1, [3, 2]), (2, 1, [2, 1]), (2, 2, [3, 1])] {
        let tell = Tell::EachEdge;
        holds(&System { lanes: 2, ..system(2, capacity, credit_batch, &calls, tell) });
    }
    holds(&System { lanes: 2, ..system(3, 1, 1, &[3, 2], Tell::AtOnce) });
    holds(&System { lanes: 2, ..system(3, 2, 2, &[3, 1], Tell::AtOnce) });
}

#[test]
fn three_ranks() {
    holds(&system(3, 1, 1, &[2, 1], Tell::EachEdge));
    for (capacity, credit_batch) in [(1, 1), (2, 1), (2, 2)] {
        holds(&system(3, capacity, credit_batch, &[4, 1, 3], Tell::AtOnce));
    }
    holds(&system(3, 4, 4, &[5], Tell::AtOnce));
}

#[test]
fn four_ranks() {
    for (capacity, credit_batch, calls) in [(1, 1, [4, 3]), (2, 1, [3, 1]), (2, 2, [3, 2])] {
        holds(&system(4, capacity, credit_batch, &calls, Tell::AtOnce));
    }
    // More rounds than slots, in short calls: one of five has more states than can be looked at in a minute. So
    // nobody runs out of four credits here; three ranks do, above.
    for credit_batch in [1, 2, 4] {
        holds(&system(4, 4, credit_batch, &[1, 1, 1, 1, 1], Tell::AtOnce));
        holds(&system(4, 4, credit_batch, &[2, 2, 1], Tell::AtOnce));
    }
}

#[test]
fn any_first_sequence_is_as_good() {
    let from = |first| holds(&System { first, ..system(2, 2, 2, &[3, 2], Tell::EachEdge) });
    let zero = from(0);
    for first in [1, 2, 3, i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX - 4, u64::MAX - 1, u64::MAX] {
        assert_eq!(from(first), zero, "{first}");
    }
}

#[test]
fn every_mutant_is_found() {
    let singles = system(2, 2, 1, &[3, 2], Tell::EachEdge);
    let pairs = system(2, 2, 2, &[3, 2], Tell::EachEdge);
    let three_ranks = system(3, 2, 2, &[3, 2], Tell::AtOnce);
    for mutant in Mutant::ALL {
        let wanted = match mutant {
            Mutant::NoGate | Mutant::OneEarly | Mutant::CreditOnBegin => Kind::Overwritten,
            Mutant::OneLate | Mutant::BatchBeyondCapacity | Mutant::Equality | Mutant::NotFlushed => {
                Kind::Stuck
            }
            Mutant::PublishOnBegin | Mutant::Unsigned | Mutant::OneEdge => Kind::Unwritten,
            Mutant::OneMore => Kind::Credit,
            Mutant::CreditOfTheCall => Kind::Backwards,
            Mutant::Restarted => Kind::Beyond,
        };
        for system in [&pairs, &three_ranks] {
            let violation = shown(system, Some(mutant)).expect_err(mutant.name());
            assert_eq!(violation.kind, wanted, "{}: {violation}", mutant.name());
        }
        // One credit too many is there when credit comes back one by one, and then nothing is left to flush.
        let is_none = [Mutant::OneLate, Mutant::NotFlushed].contains(&mutant);
        assert_eq!(shown(&singles, Some(mutant)).is_ok(), is_none, "{}", mutant.name());
    }
    let once = system(2, 2, 2, &[1], Tell::EachEdge);
    assert_eq!(shown(&once, Some(Mutant::NotFlushed)).unwrap_err().kind, Kind::KeptBack);
}

/// The way to a violation is a shortest one, and reads as what the ranks do.
#[test]
fn a_violation_says_how_it_came() {
    let system = system(2, 2, 1, &[3], Tell::EachEdge);
    let violation = explore(&system, Some(Mutant::NoGate)).unwrap_err();
    let steps = [
        "rank 0 scatter begins 0",
        "rank 0 scatter begins 1",
        "rank 0 scatter moves 0",
        "rank 0 scatter tells rank 1 of 0",
        "rank 0 scatter begins 2",
    ];
    assert_eq!(violation.path, steps);
    assert_eq!(violation.detail, "scatter ring from rank 0 to rank 1, lane 0: use 3 begun, 0 read");
}
