//! Property: two ranks that exchange slots, each the producer of one ring and the consumer of the other, read
//! every slot as it was written and come to the end, for every interleaving and every value that the memory
//! model lets a load return. Exploration is complete, with no bound.
//!
//! Catches what one ring alone does not show: turns that wait for each other, and an ordering of one ring that
//! holds only because the other ring's words happen to order it. The ends are the crate's own; only the memory
//! is loom's, so each ordering can be weakened in it, and **each weakened ordering must be seen to fail**.
//!
//! Cannot catch: what loom does not model (load buffering, scopes), more than 2 ranks, more than 3 rounds.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use loom::cell::{ConstPtr, MutPtr, UnsafeCell};
use loom::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};
use myelon_ring::wait::Wait;
use myelon_ring::{Consumer, Producer, RingMemory};

const SLOT_BYTES: usize = 16;
/// The first sequence: the second one is behind the wrap.
const FIRST: u64 = u64::MAX;

/// An ordering that the memory of both rings weakens to relaxed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakened {
    /// ring/publish, the producer's end.
    PublishStore,
    /// ring/publish, the consumer's end.
    PublishLoad,
    /// ring/credit, the consumer's end.
    CreditStore,
    /// ring/credit, the producer's end.
    CreditLoad,
}

struct Ring {
    weakened: Option<Weakened>,
    sequence: Vec<AtomicU64>,
    gating: AtomicU64,
    data: Vec<UnsafeCell<[u8; SLOT_BYTES]>>,
}

/// One end's view of a ring.
struct LoomMemory(Arc<Ring>);

// SAFETY: the cells are the slots, and that they are not accessed at once is what loom checks here; loom runs
// all threads of a model on one thread in turn, so even a race that it finds is none in fact.
unsafe impl Sync for Ring {}
// SAFETY: nothing in it belongs to a thread, for the same reason.
unsafe impl Send for Ring {}

struct Reading(ConstPtr<[u8; SLOT_BYTES]>);
struct Writing(MutPtr<[u8; SLOT_BYTES]>);

impl Deref for Reading {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the ring outlives both ends, and loom has checked the access.
        unsafe { self.0.deref() }
    }
}

impl Deref for Writing {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as for `Reading`.
        unsafe { self.0.deref() }
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `Reading`.
        unsafe { self.0.deref() }
    }
}

impl LoomMemory {
    fn index(&self, sequence: u64) -> usize {
        sequence as usize & (self.0.data.len() - 1)
    }

    fn order(&self, order: Ordering, what: Weakened) -> Ordering {
        if self.0.weakened == Some(what) { Relaxed } else { order }
    }
}

impl RingMemory for LoomMemory {
    type Read<'a> = Reading;
    type Write<'a> = Writing;

    fn capacity(&self) -> usize {
        self.0.data.len()
    }

    fn slot_bytes(&self) -> usize {
        SLOT_BYTES
    }

    fn load_sequence(&self, sequence: u64, order: Ordering) -> u64 {
        self.0.sequence[self.index(sequence)].load(self.order(order, Weakened::PublishLoad))
    }

    fn store_sequence(&self, sequence: u64, order: Ordering) {
        self.0.sequence[self.index(sequence)].store(sequence, self.order(order, Weakened::PublishStore));
    }

    fn load_gating(&self, order: Ordering) -> u64 {
        self.0.gating.load(self.order(order, Weakened::CreditLoad))
    }

    fn store_gating(&self, gating: u64, order: Ordering) {
        self.0.gating.store(gating, self.order(order, Weakened::CreditStore));
    }

    unsafe fn read(&self, sequence: u64) -> Reading {
        Reading(self.0.data[self.index(sequence)].get())
    }

    unsafe fn write(&self, sequence: u64) -> Writing {
        Writing(self.0.data[self.index(sequence)].get_mut())
    }
}

fn ends(capacity: usize, weakened: Option<Weakened>) -> (Producer<LoomMemory>, Consumer<LoomMemory>) {
    let ring = Arc::new(Ring {
        weakened,
        sequence: (0..capacity).map(|_| AtomicU64::new(FIRST.wrapping_sub(1))).collect(),
        gating: AtomicU64::new(FIRST),
        data: (0..capacity).map(|_| UnsafeCell::new([0; SLOT_BYTES])).collect(),
    });
    // SAFETY: the only two ends of this ring, whose words were just made for `FIRST`.
    unsafe { (Producer::new(LoomMemory(ring.clone()), FIRST), Consumer::new(LoomMemory(ring), FIRST)) }
}

/// Gives the turn away. Twice, because loom puts a thread last that has yielded twice: fewer futile polls.
struct Turn;

impl Wait for Turn {
    fn pause(&self, _spin: u32) {
        loom::thread::yield_now();
        loom::thread::yield_now();
    }

    fn deadline(&self) -> Duration {
        Duration::MAX
    }

    fn clock_due(&self, _spin: u32) -> bool {
        false
    }
}

/// What `rank` says in a round.
fn says(rank: usize, sequence: u64) -> [u8; SLOT_BYTES] {
    std::array::from_fn(|place| (sequence as u8).wrapping_mul(17).wrapping_add((place + 100 * rank) as u8))
}

/// How two ranks exchange slots.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    capacity: usize,
    rounds: usize,
    /// Rounds that a rank may have said and not heard: 1 is in lock step.
    ahead: usize,
}

const LOCK_STEP_DEPTH_1: Exchange = Exchange { capacity: 1, rounds: 2, ahead: 1 };
const LOCK_STEP_DEPTH_2: Exchange = Exchange { capacity: 2, rounds: 2, ahead: 1 };
const ONE_AHEAD_DEPTH_2: Exchange = Exchange { capacity: 2, rounds: 3, ahead: 2 };

impl Exchange {
    /// One rank's side.
    fn run(self, rank: usize, mut to_peer: Producer<LoomMemory>, mut from_peer: Consumer<LoomMemory>) {
        for turn in 0..self.rounds + self.ahead - 1 {
            if turn < self.rounds {
                let mut slot = to_peer.claim(&Turn).unwrap();
                let bytes = says(rank, slot.sequence());
                slot.copy_from_slice(&bytes);
                slot.publish();
            }
            if turn + 1 >= self.ahead {
                let slot = from_peer.wait(&Turn).unwrap();
                assert_eq!(*slot, says(1 - rank, slot.sequence()));
                slot.release();
            }
        }
    }

    /// Explores all of it; how many executions there are.
    fn explore(self, weakened: Option<Weakened>) -> usize {
        let executions = Arc::new(AtomicUsize::new(0));
        let counted = executions.clone();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = None;
        builder.max_duration = None;
        builder.max_permutations = None;
        builder.check(move || {
            counted.fetch_add(1, SeqCst);
            let (to_1, from_0) = ends(self.capacity, weakened);
            let (to_0, from_1) = ends(self.capacity, weakened);
            let rank_1 = loom::thread::spawn(move || self.run(1, to_0, from_0));
            self.run(0, to_1, from_1);
            rank_1.join().unwrap();
        });
        executions.load(SeqCst)
    }

    /// What loom says where `weakened` is; none if it finds nothing.
    fn complaint(self, weakened: Weakened) -> Option<String> {
        let panic = catch_unwind(AssertUnwindSafe(|| self.explore(Some(weakened)))).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a text"))
    }

    /// Explores the sound rings. Fewer executions than this would mean that the ranks hardly meet.
    fn holds(self, executions_min: usize) {
        let executions = self.explore(None);
        println!("{self:?}: {executions} executions");
        assert!(executions >= executions_min);
    }
}

#[test]
fn in_lock_step_at_depth_1() {
    LOCK_STEP_DEPTH_1.holds(1000);
}

#[test]
fn in_lock_step_at_depth_2() {
    LOCK_STEP_DEPTH_2.holds(100);
}

#[test]
fn one_ahead_at_depth_2() {
    ONE_AHEAD_DEPTH_2.holds(1000);
}

/// A read of a slot that does not know of a write.
const AT_A_READ: &str = "Causality violation: Concurrent read and write accesses.";
/// A write of a slot that does not know of a read.
const AT_A_WRITE: &str = "Causality violation: Concurrent read and write accesses to `UnsafeCell`.";

#[test]
fn a_weak_publication_is_found() {
    for weakened in [Weakened::PublishStore, Weakened::PublishLoad] {
        for exchange in [LOCK_STEP_DEPTH_1, LOCK_STEP_DEPTH_2, ONE_AHEAD_DEPTH_2] {
            let found =
                exchange.complaint(weakened).unwrap_or_else(|| panic!("{weakened:?} survived {exchange:?}"));
            assert!(found.contains(AT_A_READ), "{weakened:?}, {exchange:?}: {found}");
        }
    }
}

/// In lock step at depth 2 credit orders nothing that is not ordered already: who hears round 1 knows that its
/// peer has heard round 0.
#[test]
fn a_weak_credit_is_found() {
    for weakened in [Weakened::CreditStore, Weakened::CreditLoad] {
        for exchange in [LOCK_STEP_DEPTH_1, ONE_AHEAD_DEPTH_2] {
            let found =
                exchange.complaint(weakened).unwrap_or_else(|| panic!("{weakened:?} survived {exchange:?}"));
            assert!(found.contains(AT_A_WRITE), "{weakened:?}, {exchange:?}: {found}");
        }
        assert_eq!(LOCK_STEP_DEPTH_2.complaint(weakened), None);
    }
}
