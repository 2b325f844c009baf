//! An example: a protocol of one's own, checked in the model with a rule of one's own.
//!
//! The protocol is a barrier between ranks without read-modify-write. Property: from any first epoch, with any
//! number of ranks, nobody passes before all have come, what a rank wrote before it came is seen by all who
//! passed, and nobody waits for ever.
//!
//! Catches: a wait that is too weak in order or in number, and one that breaks at the wrap. Cannot catch: what
//! the model leaves out (docs/protocols/memory-model.md). Two weakened forms are seen to fail.

use myelon_sim::model::{
    Action, Address, Check, Device, Ended, Event, Failure, Place, Schedule, Thread, World,
};
use myelon_sim::simulation::strategies::{first_sequences, schedules};
use proptest::prelude::*;

/// The protocol as it is, or one weakness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Right,
    /// The wait loads relaxed, and nothing acquires.
    RelaxedWait,
    /// The wait compares as unsigned numbers.
    Unsigned,
}

/// STATE  board[dst][src], one u64 for each ordered pair of ranks, in dst's memory; only rank src stores it. It
///        shows the epoch that src has come to, grows by 1, and is never reset. Hence "at least", as a signed
///        difference: a fast peer may be one epoch ahead.
#[derive(Clone, Copy)]
struct Barrier {
    board: Address,
    ranks: usize,
    form: Form,
}

impl Barrier {
    fn word(&self, dst: usize, src: usize) -> Address {
        self.board.plus(8 * (dst * self.ranks + src))
    }

    fn has_come(&self, seen: u64, epoch: u64) -> bool {
        match self.form {
            Form::Unsigned => seen >= epoch,
            _ => seen.wrapping_sub(epoch).cast_signed() >= 0,
        }
    }

    /// Release: who passes sees what this rank wrote before. Acquire: this rank sees what the others wrote.
    fn meet(&self, t: &Thread, rank: usize, epoch: u64) {
        t.note(CAME, epoch);
        let peers = || (0..self.ranks).filter(|&peer| peer != rank);
        for peer in peers() {
            t.store_release(self.word(peer, rank), epoch);
        }
        for peer in peers() {
            let look = || match self.form {
                Form::RelaxedWait => t.load_relaxed(self.word(rank, peer)),
                _ => t.load_acquire(self.word(rank, peer)),
            };
            while !self.has_come(look(), epoch) {
                t.pause();
            }
        }
        t.note(PASSED, epoch);
    }
}

const CAME: u32 = 1;
const PASSED: u32 = 2;

/// The rule of the protocol that races cannot show: nobody passes an epoch before all have come to it.
struct NobodyEarly {
    /// The epoch that each rank has come to.
    came: Vec<u64>,
}

impl Check for NobodyEarly {
    fn name(&self) -> &'static str {
        "early"
    }

    fn observe(&mut self, event: &Event, place: &Place) -> Result<(), String> {
        match event.action {
            Action::Note { what: CAME, value } => self.came[place.party as usize] = value,
            Action::Note { what: PASSED, value } => {
                let late = |came: &u64| came.wrapping_sub(value).cast_signed() < 0;
                if let Some(rank) = self.came.iter().position(late) {
                    return Err(format!("rank {} passed {value:#x} before rank {rank} came", place.party));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Each rank again and again writes its cell, meets the others, reads their cells, and meets them once more.
/// What is left of that, and where the board lies.
fn run(
    (ranks, rounds, first): (usize, u64, u64),
    form: Form,
    (seed, schedule): (u64, Schedule),
) -> Result<(Ended, Address), Failure> {
    let mut world = World::new(seed, schedule);
    world.check(Box::new(NobodyEarly { came: vec![first; ranks] }));
    world.keep_trace(20);
    let board = world.memory("board", 8 * ranks * ranks, 8);
    let cells = world.memory("cells", 8 * ranks, 8);
    for word in 0..ranks * ranks {
        world.set(board.plus(8 * word), &first.to_le_bytes());
    }
    let barrier = Barrier { board, ranks, form };
    for rank in 0..ranks {
        world.thread(Device::Gpu(rank as u32), rank as u32, move |t| {
            for round in 0..rounds {
                let epoch = first.wrapping_add(2 * round);
                t.write(cells.plus(8 * rank), &(round + rank as u64).to_le_bytes());
                barrier.meet(t, rank, epoch.wrapping_add(1));
                for peer in 0..ranks {
                    let mut seen = [0; 8];
                    t.read(cells.plus(8 * peer), &mut seen);
                    if u64::from_le_bytes(seen) != round + peer as u64 {
                        t.fail("cell", format!("rank {rank} saw {seen:?} of rank {peer} in round {round}"));
                    }
                }
                barrier.meet(t, rank, epoch.wrapping_add(2));
            }
        });
    }
    world.run().map(|ended| (ended, board))
}

/// The simulator's schedules, and some whose priorities change within the few hundred steps of a run here.
fn short_schedules() -> impl Strategy<Value = Schedule> {
    let early = (1u32..5).prop_map(|changes| Schedule::Priority { changes, steps: 300 });
    prop_oneof![2 => schedules(), 1 => early]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_early_and_everybody_sees(
        ranks in 2usize..6, rounds in 1u64..5, first in first_sequences(),
        seed: u64, schedule in short_schedules(),
    ) {
        let run = run((ranks, rounds, first), Form::Right, (seed, schedule));
        let (ended, board) = run.map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        // Every word of the board shows the last epoch, but a rank's own.
        let last = first.wrapping_add(2 * rounds);
        for (dst, src) in (0..ranks).flat_map(|dst| (0..ranks).map(move |src| (dst, src))) {
            let bytes = ended.bytes(board.plus(8 * (dst * ranks + src)), 8);
            let word = u64::from_le_bytes(bytes.try_into().unwrap());
            prop_assert_eq!(word, if dst == src { first } else { last });
        }
    }
}

/// The first failure of a weakened form by a rule, from epochs that meet the wrap.
fn found(form: Form, rule: &str) -> Failure {
    let schedules = [Schedule::Random, Schedule::Priority { changes: 3, steps: 100 }];
    let chance = |seed: u64| (seed, schedules[seed as usize % 2]);
    let runs = (0..1000).map(|seed| run((3, 3, 0u64.wrapping_sub(3)), form, chance(seed)));
    let mut failures = runs.filter_map(Result::err);
    failures.find(|failure| failure.violation.rule == rule).expect("some seed finds it")
}

#[test]
fn a_relaxed_wait_is_found_as_a_race() {
    let failure = found(Form::RelaxedWait, "race");
    // The last steps are there to be read.
    assert_eq!(failure.trace.len(), 20);
}

#[test]
fn an_unsigned_comparison_is_found_by_the_rule() {
    // Epoch 0 is waited for, and the epoch before the wrap passes for more.
    let failure = found(Form::Unsigned, "early");
    assert!(failure.violation.message.contains("passed 0x0"), "{failure}");
}
