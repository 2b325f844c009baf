//! Property: the model shows every outcome of these small programs that it means to allow, and no other.
//!
//! Each program runs from many seeds under both schedules; the set of what its loads returned, or of the rules
//! that it broke, must be the one that stands here, no more and no less. The table of them is in
//! docs/protocols/memory-model.md.
//!
//! Catches: an ordering that the model forgets (a forbidden outcome), and one that it invents (a weak outcome
//! that never shows, behind which a protocol's fault would hide). Cannot catch: what GPUs do. The expected sets
//! follow from reading the PTX ISA, not from runs on hardware.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use Op::*;
use myelon_sim::model::{
    Action, Address, Check, CopyKind, Device, Event, Grid, Order, Place, Schedule, Scope, Thread, World,
};

const SEEDS: u64 = 1200;
const LOCATIONS: usize = 6;
const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// One step of a program. Locations are u64, all 0 at first.
#[derive(Clone, Copy)]
enum Op {
    /// Strong stores: relaxed, release, and relaxed at a narrower scope.
    W(usize, u64),
    Rel(usize, u64),
    WAt(Scope, usize, u64),
    /// Strong loads, whose values are the outcome.
    R(usize),
    Acq(usize),
    RAt(Scope, usize),
    /// A relaxed exchange, whose old value is part of the outcome.
    Xchg(usize, u64),
    /// Polls until the location is not 0: with acquire loads, with relaxed ones.
    Await(usize),
    AwaitRelaxed(usize),
    /// fence.acq_rel.
    Fence,
    /// Plain accesses.
    Write(usize, u64),
    Read(usize),
    /// A barrier of the block, entered and waited at, or only entered.
    Bar,
    Arrive,
    /// A vote of the warp.
    Vote,
    /// Asynchronous copies of a location.
    Copy {
        to: usize,
        from: usize,
    },
    Bulk {
        to: usize,
        from: usize,
    },
    Commit,
    Wait(usize),
    WaitRead(usize),
    Proxy,
}

/// A block of a program: its GPU, and what each of its threads does.
type BlockOf<'a> = (u32, &'a [&'a [Op]]);

const BOTH: [CopyKind; 2] = [CopyKind::Thread, CopyKind::Bulk];

fn act(t: &Thread, memory: Address, op: Op, seen: &mut Vec<u64>) {
    let at = |location: usize| memory.plus(8 * location);
    match op {
        W(x, value) => t.store_relaxed(at(x), value),
        Rel(x, value) => t.store_release(at(x), value),
        WAt(scope, x, value) => t.store(at(x), value, Order::Relaxed, scope),
        R(x) => seen.push(t.load_relaxed(at(x))),
        Acq(x) => seen.push(t.load_acquire(at(x))),
        RAt(scope, x) => seen.push(t.load(at(x), Order::Relaxed, scope)),
        Xchg(x, value) => seen.push(t.exchange_relaxed(at(x), value)),
        Await(x) => {
            while t.load_acquire(at(x)) == 0 {
                t.pause();
            }
        }
        AwaitRelaxed(x) => {
            while t.load_relaxed(at(x)) == 0 {
                t.pause();
            }
        }
        Fence => t.fence(),
        Write(x, value) => t.write(at(x), &value.to_le_bytes()),
        Read(x) => {
            let mut bytes = [0; 8];
            t.read(at(x), &mut bytes);
            seen.push(u64::from_le_bytes(bytes));
        }
        Bar => t.barrier_sync(1),
        Arrive => t.barrier_arrive(1),
        Vote => assert!(t.warp_all(true)),
        Copy { to, from } => t.copy(CopyKind::Thread, at(to), at(from), 8),
        Bulk { to, from } => t.copy(CopyKind::Bulk, at(to), at(from), 8),
        // A program here has copies of one kind, so both may be meant.
        Commit => BOTH.into_iter().for_each(|kind| t.copy_commit(kind)),
        Wait(pending) => BOTH.into_iter().for_each(|kind| t.copy_wait(kind, pending)),
        WaitRead(pending) => t.copy_wait_read(pending),
        Proxy => t.proxy_fence(),
    }
}

/// Runs a program from one seed: what its loads returned, thread by thread, or the rule that it broke.
fn outcome(blocks: &[BlockOf<'_>], seed: u64, schedule: Schedule) -> String {
    let mut world = World::new(seed, schedule);
    let memory = world.memory("x", 8 * LOCATIONS, 8);
    let mut all_seen = Vec::new();
    for (party, (gpu, threads)) in blocks.iter().enumerate() {
        let programs: Vec<Vec<Op>> = threads.iter().map(|ops| ops.to_vec()).collect();
        let (count, party) = (programs.len() as u32, party as u32);
        let seen: Vec<Rc<RefCell<Vec<u64>>>> = programs.iter().map(|_| Rc::default()).collect();
        all_seen.extend(seen.iter().cloned());
        let (programs, seen, device) = (Rc::new(programs), Rc::new(seen), Device::Gpu(*gpu));
        world.thread(Device::Host, party, move |host| {
            let (programs, seen) = (programs.clone(), seen.clone());
            let grid = Grid {
                device,
                party,
                blocks: 1,
                threads: count,
                warp_threads: count,
                last_is_part: false,
                shared_words: 0,
            };
            let launch = host.launch(grid, move |t| {
                let number = t.place().thread as usize;
                for op in &programs[number] {
                    act(t, memory, *op, &mut seen[number].borrow_mut());
                }
            });
            host.join(launch);
        });
    }
    match world.run() {
        Ok(_) => all_seen.iter().flat_map(|seen| seen.borrow().clone()).map(|v| v.to_string()).collect(),
        Err(failure) => failure.violation.rule.into(),
    }
}

/// Every outcome that some seed shows.
fn outcomes(blocks: &[BlockOf<'_>]) -> BTreeSet<String> {
    let schedules = [Schedule::Random, Schedule::Priority { changes: 2, steps: 40 }];
    let runs = schedules.iter().flat_map(|schedule| (0..SEEDS).map(move |seed| (*schedule, seed)));
    runs.map(|(schedule, seed)| outcome(blocks, seed, schedule)).collect()
}

/// Every outcome of threads that run on a GPU each.
fn apart(threads: &[&[Op]]) -> BTreeSet<String> {
    let threads: Vec<[&[Op]; 1]> = threads.iter().map(|&ops| [ops]).collect();
    let blocks: Vec<BlockOf<'_>> = threads.iter().enumerate().map(|(i, one)| (i as u32, &one[..])).collect();
    outcomes(&blocks)
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&text| text.to_owned()).collect()
}

/// All strings of `loads` zeros and ones, but those.
fn all_but(loads: u32, forbidden: &[&str]) -> BTreeSet<String> {
    let all = (0..1u32 << loads).map(|bits| format!("{bits:0width$b}", width = loads as usize));
    all.filter(|outcome| !forbidden.contains(&&outcome[..])).collect()
}

/// MP: data, then a flag; the flag, then the data. Weak: the flag is seen, the data is not.
#[test]
fn message_passing() {
    let needs_both_ends = |writer: &[Op], reader: &[Op], forbidden: &[&str]| {
        assert_eq!(apart(&[writer, reader]), all_but(2, forbidden));
    };
    needs_both_ends(&[W(X, 1), W(Y, 1)], &[R(Y), R(X)], &[]);
    needs_both_ends(&[W(X, 1), Rel(Y, 1)], &[R(Y), R(X)], &[]);
    needs_both_ends(&[W(X, 1), W(Y, 1)], &[Acq(Y), R(X)], &[]);
    needs_both_ends(&[W(X, 1), Rel(Y, 1)], &[Acq(Y), R(X)], &["10"]);
    needs_both_ends(&[W(X, 1), Fence, W(Y, 1)], &[R(Y), Fence, R(X)], &["10"]);
    needs_both_ends(&[W(X, 1), Fence, W(Y, 1)], &[Acq(Y), R(X)], &["10"]);
    needs_both_ends(&[W(X, 1), Rel(Y, 1)], &[R(Y), Fence, R(X)], &["10"]);
    needs_both_ends(&[W(X, 1), Fence, W(Y, 1)], &[R(Y), R(X)], &[]);
    needs_both_ends(&[W(X, 1), W(Y, 1)], &[R(Y), Fence, R(X)], &[]);
    // A fence on the wrong side of its access orders nothing.
    needs_both_ends(&[Fence, W(X, 1), W(Y, 1)], &[R(Y), Fence, R(X)], &[]);
    needs_both_ends(&[W(X, 1), Fence, W(Y, 1)], &[Fence, R(Y), R(X)], &[]);
    // A relaxed store behind the release, to another word, was not released.
    needs_both_ends(&[Rel(Z, 1), W(X, 1), W(Y, 1)], &[Acq(Y), R(X)], &[]);
}

/// SB: each stores, then loads the other's. Only fence.sc forbids that both see nothing, and there is none.
#[test]
fn store_buffering() {
    for between in [&[][..], &[Fence]] {
        for (store, load) in [(W as fn(usize, u64) -> Op, R as fn(usize) -> Op), (Rel, Acq)] {
            let side = |mine, other| [&[store(mine, 1)], between, &[load(other)]].concat();
            assert_eq!(apart(&[&side(X, Y), &side(Y, X)]), all_but(2, &[]));
        }
    }
}

/// LB: each loads, then stores for the other. PTX allows relaxed accesses to show 1 and 1; the model never does,
/// since a load returns what has been stored already. A limit: no protocol here may rely on its absence.
#[test]
fn load_buffering_is_not_shown() {
    assert_eq!(apart(&[&[R(X), W(Y, 1)], &[R(Y), W(X, 1)]]), all_but(2, &["11"]));
    // With a release behind the load it is forbidden, and so it is here.
    assert_eq!(apart(&[&[Acq(X), Rel(Y, 1)], &[Acq(Y), Rel(X, 1)]]), all_but(2, &["11"]));
}

/// 2+2W: both store to both, in opposite orders. PTX allows relaxed stores to end with both first stores on top;
/// the model never does, since a word's stores are in the order in which they were made. A limit likewise.
#[test]
fn two_plus_two_writes_is_not_shown() {
    // Read behind both, so that each reader sees the last store.
    let reader = [Await(3), Await(4), R(X), R(Y)];
    let seen =
        apart(&[&[W(X, 1), W(Y, 2), Fence, W(3, 1)], &[W(Y, 1), W(X, 2), Fence, W(4, 1)], &reader[..]]);
    assert_eq!(seen, set(&["12", "21", "22"]));
}

/// One word has one order of stores, and nobody sees it go back.
#[test]
fn coherence() {
    // CoRR: two loads of one word by one thread.
    assert_eq!(apart(&[&[W(X, 1)], &[R(X), R(X)]]), all_but(2, &["10"]));
    // CoRR, two writers: readers agree on the order.
    let seen = apart(&[&[W(X, 1)], &[W(X, 2)], &[R(X), R(X)], &[R(X), R(X)]]);
    assert!(!seen.contains("1221") && !seen.contains("2112"), "{seen:?}");
    assert!(seen.contains("1212") && seen.contains("2121") && seen.contains("0012"), "{seen:?}");
    // CoWR: a thread sees its own store or a later one.
    assert_eq!(apart(&[&[W(X, 1), R(X)], &[W(X, 2)]]), set(&["1", "2"]));
    // CoRW: a thread never sees a store that it makes later.
    assert_eq!(apart(&[&[R(X), W(X, 1)], &[W(X, 2)]]), set(&["0", "2"]));
    // CoWW: the second store stays.
    assert_eq!(apart(&[&[W(X, 1), W(X, 2)], &[R(X), R(X)]]), set(&["00", "01", "02", "11", "12", "22"]));
    // Ordered stores of two threads: the later one stays.
    let seen = apart(&[&[W(X, 1), Rel(Y, 1)], &[Await(Y), W(X, 2), Rel(Z, 1)], &[Await(Z), R(X)]]);
    assert_eq!(seen, set(&["2"]));
}

/// What a store of a word that others have stored to comes behind, thread by thread: `y` where it knew of every earlier
/// store, so that none can end up behind it, `n` where one could.
struct Behind(Rc<RefCell<String>>);

impl Check for Behind {
    fn name(&self) -> &'static str {
        "behind"
    }

    fn observe(&mut self, event: &Event, _: &Place) -> Result<(), String> {
        if let Action::Store { at, behind_all, .. } = event.action
            && at.offset() == 8 * X
        {
            self.0.borrow_mut().push(if behind_all { 'y' } else { 'n' });
        }
        Ok(())
    }
}

/// 2+2W is not shown, but whether a store could end up in front of an earlier one is.
#[test]
fn stores_know_what_they_come_behind() {
    let stores_of = |threads: &[&[Op]]| {
        let one = |seed: u64| {
            let seen: Rc<RefCell<String>> = Rc::default();
            let mut world = World::new(seed, Schedule::Random);
            let memory = world.memory("x", 8 * LOCATIONS, 8);
            world.check(Box::new(Behind(seen.clone())));
            for (number, ops) in threads.iter().enumerate() {
                let ops = ops.to_vec();
                world.thread(Device::Gpu(number as u32), number as u32, move |t| {
                    ops.iter().for_each(|&op| act(t, memory, op, &mut Vec::new()));
                });
            }
            world.run().expect("no rule is broken");
            seen.take()
        };
        (0..SEEDS).map(one).collect::<BTreeSet<String>>()
    };
    assert_eq!(stores_of(&[&[W(X, 1), W(X, 2)]]), set(&["yy"]));
    assert_eq!(stores_of(&[&[W(X, 1)], &[W(X, 2)]]), set(&["yn"]));
    // Handed over by a pair, by fences; by one end of a pair only; and seen in the word itself.
    assert_eq!(stores_of(&[&[W(X, 1), Rel(Y, 1)], &[Await(Y), W(X, 2)]]), set(&["yy"]));
    let told = [&[W(X, 1), Fence, W(Y, 1)][..], &[AwaitRelaxed(Y), Fence, W(X, 2)]];
    assert_eq!(stores_of(&told), set(&["yy"]));
    assert_eq!(stores_of(&[&[W(X, 1), W(Y, 1)], &[Await(Y), W(X, 2)]]), set(&["yn"]));
    assert_eq!(stores_of(&[&[W(X, 1), Rel(Y, 1)], &[AwaitRelaxed(Y), W(X, 2)]]), set(&["yn"]));
    assert_eq!(stores_of(&[&[W(X, 1)], &[AwaitRelaxed(X), W(X, 2)]]), set(&["yy"]));
    // Of three, the middle one is known and the last is not.
    assert_eq!(stores_of(&[&[W(X, 1), Rel(Y, 1), W(X, 3)], &[Await(Y), W(X, 2)]]), set(&["yyn"]));
}

/// WRC and ISA2: what one thread has acquired, another learns from it. Cumulativity.
#[test]
fn through_a_third_thread() {
    // WRC: the first thread's store is seen by the second, who tells the third.
    let told = |teller: &[Op], reader: &[Op]| apart(&[&[W(X, 1)], teller, reader]);
    assert_eq!(told(&[R(X), Rel(Y, 1)], &[Acq(Y), R(X)]), all_but(3, &["110"]));
    assert_eq!(told(&[R(X), Fence, W(Y, 1)], &[R(Y), Fence, R(X)]), all_but(3, &["110"]));
    assert_eq!(told(&[R(X), W(Y, 1)], &[Acq(Y), R(X)]), all_but(3, &[]));
    assert_eq!(told(&[R(X), Rel(Y, 1)], &[R(Y), R(X)]), all_but(3, &[]));

    // ISA2: data, a flag, a second flag.
    let isa2 = |middle: &[Op]| apart(&[&[W(X, 1), Rel(Y, 1)], middle, &[Acq(Z), R(X)]]);
    assert_eq!(isa2(&[Acq(Y), Rel(Z, 1)]), all_but(3, &["110"]));
    assert_eq!(isa2(&[R(Y), Fence, W(Z, 1)]), all_but(3, &["110"]));
    assert_eq!(isa2(&[R(Y), Rel(Z, 1)]), all_but(3, &[]), "a relaxed load acquires nothing");
    assert_eq!(isa2(&[Acq(Y), W(Z, 1)]), all_but(3, &[]), "a relaxed store releases nothing");
}

/// IRIW: two readers see two stores in opposite orders. Acquire loads allow it; only fence.sc would not.
#[test]
fn independent_reads_of_independent_writes() {
    let readers: [(&[Op], &[Op]); 3] = [
        (&[R(X), R(Y)], &[R(Y), R(X)]),
        (&[Acq(X), Acq(Y)], &[Acq(Y), Acq(X)]),
        (&[R(X), Fence, R(Y)], &[R(Y), Fence, R(X)]),
    ];
    for (one, other) in readers {
        assert_eq!(apart(&[&[Rel(X, 1)], &[Rel(Y, 1)], one, other]), all_but(4, &[]));
    }
}

/// An exchange reads the newest store, and goes on with what that one released.
#[test]
fn exchanges() {
    // Atomicity: of two, one comes first.
    assert_eq!(apart(&[&[Xchg(X, 1)], &[Xchg(X, 1)]]), set(&["01", "10"]));
    // A release sequence: who acquires from the exchange has acquired from the release before it.
    let sequence = |middle: Op| {
        let seen = apart(&[&[W(X, 1), Rel(Y, 1)], &[middle], &[Acq(Y), R(X)]]);
        seen.into_iter().filter(|outcome| outcome.contains('2')).collect::<BTreeSet<_>>()
    };
    assert!(!sequence(Xchg(Y, 2)).contains("120"), "the exchange saw 1");
    assert!(sequence(Xchg(Y, 2)).contains("020"), "the exchange came first");
    assert!(sequence(W(Y, 2)).contains("20"), "a store of another thread breaks the sequence");
}

/// A barrier makes the block's accesses those of every thread behind it.
#[test]
fn barriers_of_a_block() {
    let reader: &[&[Op]] = &[&[Await(Z), Bar], &[Bar, Read(X), Read(Y)]];
    // Two write, a third one releases: the data is there. And one acquires, another reads.
    let writer: &[&[Op]] = &[&[Write(X, 1), Bar], &[Write(Y, 1), Bar], &[Bar, Rel(Z, 1)]];
    assert_eq!(outcomes(&[(0, writer), (1, reader)]), set(&["11"]));
    let writer: &[&[Op]] = &[&[Write(X, 1), Bar], &[Write(Y, 1), Bar], &[Bar, Fence, W(Z, 1)]];
    assert_eq!(outcomes(&[(0, writer), (1, reader)]), set(&["11"]));
    // The release before the barrier stands for its own thread only.
    let writer: &[&[Op]] = &[&[Write(X, 1), Bar], &[Write(Y, 1), Bar], &[Rel(Z, 1), Bar]];
    assert!(outcomes(&[(0, writer), (1, reader)]).contains("race"));
    // No barrier behind the acquire.
    let writer: &[&[Op]] = &[&[Write(X, 1), Bar], &[Write(Y, 1), Bar], &[Bar, Rel(Z, 1)]];
    let reader: &[&[Op]] = &[&[Await(Z), Bar], &[Read(X), Bar]];
    assert!(outcomes(&[(0, writer), (1, reader)]).contains("race"));

    // Who only enters is ordered before those who wait, and learns nothing himself.
    let waits: &[&[Op]] = &[&[Write(X, 1), Arrive], &[Bar, Read(X)]];
    assert_eq!(outcomes(&[(0, waits)]), set(&["1"]));
    let does_not: &[&[Op]] = &[&[Arrive, Read(X)], &[Write(X, 1), Bar]];
    assert_eq!(outcomes(&[(0, does_not)]), set(&["race"]));

    // A vote is no barrier.
    let vote: &[&[Op]] = &[&[Write(X, 1), Vote], &[Vote, Read(X)]];
    assert_eq!(outcomes(&[(0, vote)]), set(&["race"]));
    // A barrier that one thread never comes to, and one that a thread enters twice.
    assert_eq!(outcomes(&[(0, &[&[Bar], &[]])]), set(&["stuck"]));
    assert_eq!(outcomes(&[(0, &[&[Arrive, Arrive], &[]])]), set(&["barrier"]));
}

/// Every access to a word must name a scope that spans all who access it.
#[test]
fn scopes() {
    let (store, load) = (WAt(Scope::Gpu, X, 1), RAt(Scope::Gpu, X));
    assert_eq!(outcomes(&[(0, &[&[store]]), (0, &[&[load]])]), set(&["0", "1"]));
    assert_eq!(outcomes(&[(0, &[&[store]]), (1, &[&[load]])]), set(&["scope"]));
    // One narrow access is enough, whichever device makes it and whichever of the two comes first.
    for (narrow, wide) in [(0, 1), (1, 0)] {
        for (access, other) in [(store, R(X)), (load, W(X, 1)), (store, W(X, 2))] {
            assert_eq!(outcomes(&[(narrow, &[&[access]]), (wide, &[&[other]])]), set(&["scope"]));
        }
    }
    let (store, load) = (WAt(Scope::Block, X, 1), RAt(Scope::Block, X));
    assert_eq!(outcomes(&[(0, &[&[store], &[load]])]), set(&["0", "1"]));
    assert_eq!(outcomes(&[(0, &[&[store]]), (0, &[&[load]])]), set(&["scope"]));
}

/// Plain accesses of one word, one of them a write, must be ordered, and by whom they are ordered counts.
#[test]
fn races() {
    assert!(apart(&[&[Write(X, 1)], &[Read(X)]]).contains("race"));
    assert_eq!(apart(&[&[Write(X, 1)], &[Write(X, 2)]]), set(&["race"]));
    assert!(apart(&[&[Write(X, 1)], &[R(X)]]).contains("race"), "a strong load and a plain write");
    assert_eq!(apart(&[&[Read(X)], &[Read(X)]]), set(&["00"]));
    assert_eq!(apart(&[&[Write(X, 1)], &[Read(Y)]]), set(&["0"]), "other bytes");

    let handed_over = |writer: &[Op], reader: &[Op]| apart(&[writer, reader]);
    assert_eq!(handed_over(&[Write(X, 1), Rel(Y, 1)], &[Await(Y), Read(X)]), set(&["1"]));
    assert_eq!(handed_over(&[Write(X, 1), Fence, W(Y, 1)], &[AwaitRelaxed(Y), Fence, Read(X)]), set(&["1"]));
    assert_eq!(handed_over(&[Write(X, 1), Rel(Y, 1)], &[AwaitRelaxed(Y), Read(X)]), set(&["race"]));
    assert_eq!(handed_over(&[Write(X, 1), W(Y, 1)], &[Await(Y), Read(X)]), set(&["race"]));
    // Write after read needs an order too.
    assert_eq!(handed_over(&[Read(X), Rel(Y, 1)], &[Await(Y), Write(X, 1)]), set(&["0"]));
    assert_eq!(handed_over(&[Read(X), W(Y, 1)], &[Await(Y), Write(X, 1)]), set(&["race"]));
}

/// A launch knows what its starter knew; who has waited for it knows what it did.
#[test]
fn launches() {
    let run = |before: bool, waits: bool, seed, schedule| {
        let mut world = World::new(seed, schedule);
        let x = world.memory("x", 16, 8);
        world.thread(Device::Host, 0, move |host| {
            let write = || host.write(x, &7u64.to_le_bytes());
            if before {
                write();
            }
            let grid = Grid {
                device: Device::Gpu(0),
                party: 0,
                blocks: 2,
                threads: 1,
                warp_threads: 1,
                last_is_part: false,
                shared_words: 0,
            };
            let launch = host.launch(grid, move |t| {
                if t.place().block_index == 0 {
                    let mut seen = [0; 8];
                    t.read(x, &mut seen);
                    t.write(x.plus(8), &seen);
                }
            });
            if !before {
                write();
            }
            if waits {
                host.join(launch);
            }
            let mut seen = [0; 8];
            host.read(x.plus(8), &mut seen);
            if u64::from_le_bytes(seen) != 7 {
                host.fail("value", format!("{seen:?}"));
            }
        });
        world.run().map_or_else(|failure| failure.violation.rule, |_| "7")
    };
    let all = |before, waits| -> BTreeSet<&str> {
        let schedules = [Schedule::Random, Schedule::Priority { changes: 2, steps: 40 }];
        let runs = schedules.iter().flat_map(|schedule| (0..SEEDS).map(move |seed| (*schedule, seed)));
        runs.map(|(schedule, seed)| run(before, waits, seed, schedule)).collect()
    };
    assert_eq!(all(true, true), BTreeSet::from(["7"]));
    assert!(all(true, false).contains("race"), "nobody waited for what the launch wrote");
    assert_eq!(all(false, true), BTreeSet::from(["race"]), "written behind the launch that reads it");
}

/// How one rank tells another: what it writes and then stores relaxed, or loads relaxed and then reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// In two launches, one behind the other.
    Behind,
    /// In two launches, of which the second may begin early, and waits for the first.
    Early,
    /// The same, and it does not wait.
    EarlyUnwaited,
    /// In one launch.
    Together,
}

/// Both ends of a launch are fences at system scope, and what stands in one launch has none.
#[test]
fn launches_are_fences() {
    use Apart::{Behind, Early, EarlyUnwaited, Together};
    let run = |writer: Apart, reader: Apart, seed, schedule| {
        let mut world = World::new(seed, schedule);
        let x = world.memory("x", 16, 8);
        let grid = |party| Grid {
            device: Device::Gpu(party),
            party,
            blocks: 1,
            threads: 1,
            warp_threads: 1,
            last_is_part: false,
            shared_words: 0,
        };
        let two = move |party, how, first: fn(&Thread, Address), second: fn(&Thread, Address)| {
            move |host: &Thread| {
                let both = move |t: &Thread| {
                    first(t, x);
                    if how == Together {
                        second(t, x);
                    }
                };
                let before = host.launch(grid(party), both);
                let waits = how == Early;
                let body = move |t: &Thread| {
                    if waits {
                        t.after_earlier_work();
                    }
                    second(t, x);
                };
                match how {
                    Together => host.join(before),
                    Behind => {
                        host.join(before);
                        let behind = host.launch(grid(party), body);
                        host.join(behind);
                    }
                    Early | EarlyUnwaited => {
                        let behind = host.launch_early(grid(party), before, body);
                        host.join(before);
                        host.join(behind);
                    }
                }
            }
        };
        let write = |t: &Thread, x: Address| t.write(x, &7u64.to_le_bytes());
        let tell = |t: &Thread, x: Address| t.store_relaxed(x.plus(8), 1);
        let hear = |t: &Thread, x: Address| {
            while t.load_relaxed(x.plus(8)) == 0 {
                t.pause();
            }
        };
        let read = |t: &Thread, x: Address| t.read(x, &mut [0; 8]);
        world.thread(Device::Host, 0, two(0, writer, write, tell));
        world.thread(Device::Host, 1, two(1, reader, hear, read));
        world.run().map_or_else(|failure| failure.violation.rule, |_| "well")
    };
    let all = |writer, reader| -> BTreeSet<&str> {
        let schedules = [Schedule::Random, Schedule::Priority { changes: 2, steps: 40 }];
        let runs = schedules.iter().flat_map(|schedule| (0..SEEDS).map(move |seed| (*schedule, seed)));
        runs.map(|(schedule, seed)| run(writer, reader, seed, schedule)).collect()
    };
    for (writer, reader) in [(Behind, Behind), (Early, Behind), (Behind, Early), (Early, Early)] {
        assert_eq!(all(writer, reader), BTreeSet::from(["well"]));
    }
    for weak in [Together, EarlyUnwaited] {
        assert!(all(weak, Behind).contains("race"), "nothing releases what was written");
        assert!(all(Behind, weak).contains("race"), "nothing acquires what was heard");
    }
}

/// cp.async: what it writes is there behind the wait, for the thread that waited; its source is busy until then.
#[test]
fn copies_of_a_thread() {
    let alone = |ops: &[Op]| apart(&[ops]);
    let copy = Copy { to: Y, from: X };
    assert_eq!(alone(&[Write(X, 1), copy, Commit, Wait(0), Read(Y)]), set(&["1"]), "no proxy fence needed");
    assert_eq!(alone(&[Write(X, 1), copy, Commit, Read(Y)]), set(&["race"]));
    assert_eq!(alone(&[Write(X, 1), copy, Commit, Write(X, 2), Wait(0)]), set(&["race"]));
    assert_eq!(alone(&[Write(X, 1), copy, Commit, Wait(0), Write(X, 2), Read(Y)]), set(&["1"]));
    // A group that was not closed is not waited for.
    assert_eq!(alone(&[Write(X, 1), copy, Wait(0), Read(Y)]), set(&["race"]));
    // All but one: the first is there, the last is not.
    let two = [Copy { to: Y, from: X }, Commit, Copy { to: Z, from: X }, Commit, Wait(1)];
    assert_eq!(alone(&[&two[..], &[Read(Y)]].concat()), set(&["0"]));
    assert_eq!(alone(&[&two[..], &[Read(Z)]].concat()), set(&["race"]));
    // Copies are not ordered among themselves.
    let chain = [Copy { to: Y, from: X }, Commit, Copy { to: Z, from: Y }, Commit, Wait(0), Read(Z)];
    assert_eq!(alone(&chain), set(&["race"]));
    let waited =
        [Copy { to: Y, from: X }, Commit, Wait(0), Copy { to: Z, from: Y }, Commit, Wait(0), Read(Z)];
    assert_eq!(alone(&[&[Write(X, 1)], &waited[..]].concat()), set(&["1"]));
    // The wait is the issuing thread's: the others need a barrier behind it.
    let copying: &[Op] = &[Write(X, 1), copy, Commit, Wait(0), Bar];
    assert_eq!(outcomes(&[(0, &[copying, &[Bar, Read(Y)]])]), set(&["1"]));
    assert!(outcomes(&[(0, &[copying, &[Read(Y), Bar]])]).contains("race"));
    assert_eq!(outcomes(&[(0, &[&[copy, Commit, Bar, Wait(0)], &[Bar, Read(Y)]])]), set(&["race"]));
    // A strong load behind the wait sees what the copy wrote, and no older store.
    assert_eq!(alone(&[W(Y, 5), Write(X, 1), copy, Commit, Wait(0), R(Y)]), set(&["1"]));
}

/// cp.async.bulk: of another proxy, and with a wait for its reads that says nothing of its writes.
#[test]
fn bulk_copies() {
    let alone = |ops: &[Op]| apart(&[ops]);
    let bulk = Bulk { to: Y, from: X };
    assert_eq!(alone(&[Write(X, 1), Proxy, bulk, Commit, Wait(0), Read(Y)]), set(&["1"]));
    assert_eq!(alone(&[Write(X, 1), bulk, Commit, Wait(0), Read(Y)]), set(&["race"]));
    // The fence may stand with the writer, before the barrier, or with the one who issues the copy, behind it.
    let issue = |before: &[Op]| [before, &[bulk, Commit, Wait(0), Read(Y)]].concat();
    let pair = |writer: &[Op], issuer: &[Op]| outcomes(&[(0, &[writer, issuer])]);
    assert_eq!(pair(&[Write(X, 1), Proxy, Bar], &issue(&[Bar])), set(&["1"]));
    assert_eq!(pair(&[Write(X, 1), Bar], &issue(&[Bar, Proxy])), set(&["1"]));
    assert_eq!(pair(&[Write(X, 1), Bar], &issue(&[Proxy, Bar])), set(&["race"]));
    assert_eq!(pair(&[Proxy, Write(X, 1), Bar], &issue(&[Bar])), set(&["race"]));
    assert_eq!(
        alone(&[Proxy, Write(X, 1), bulk, Commit, Wait(0), Read(Y)]),
        set(&["race"]),
        "fence too early"
    );
    // .read: the source is free, the destination is not there.
    assert_eq!(
        alone(&[Write(X, 1), Proxy, bulk, Commit, WaitRead(0), Write(X, 2), Wait(0), Read(Y)]),
        set(&["1"])
    );
    assert_eq!(alone(&[Write(X, 1), Proxy, bulk, Commit, Write(X, 2), Wait(0)]), set(&["race"]));
    assert_eq!(alone(&[Write(X, 1), Proxy, bulk, Commit, WaitRead(0), Read(Y)]), set(&["race"]));
    // Announced to another GPU before the full wait, and behind it.
    let push = |wait| apart(&[&[Write(X, 1), Proxy, bulk, Commit, wait, Rel(Z, 1)], &[Await(Z), Read(Y)]]);
    assert_eq!(push(WaitRead(0)), set(&["race"]));
    assert_eq!(push(Wait(0)), set(&["1"]));
    // What was acquired from a peer reaches a bulk copy through a proxy fence only.
    let pull = |fence: &[Op]| {
        let reader = [&[Await(Z)], fence, &[bulk, Commit, Wait(0), Read(Y)]].concat();
        apart(&[&[Write(X, 1), Rel(Z, 1)], &reader])
    };
    assert_eq!(pull(&[Proxy]), set(&["1"]));
    assert_eq!(pull(&[]), set(&["race"]));
    // A credit for what a peer has read: one thread acquires it, another copies over it behind a barrier.
    let reuse = |fence: &[Op]| {
        let issuer = [&[Bar], fence, &[bulk, Commit, Wait(0)]].concat();
        outcomes(&[(0, &[&[Await(Z), Bar], &issuer]), (1, &[&[Read(Y), Rel(Z, 1)]])])
    };
    assert_eq!(reuse(&[Proxy]), set(&["0"]));
    assert_eq!(reuse(&[]), set(&["race"]));
}
