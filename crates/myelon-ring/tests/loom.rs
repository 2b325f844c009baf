//! Property: for every interleaving, and every value that the memory model lets a load return, each slot is
//! read as it was written and written only when its reads are over. Exploration is complete, with no bound.
//!
//! The ends are the crate's own; only the memory is loom's. So each ordering can be weakened in the memory,
//! and **every such mutant must be seen to fail**, with the complaint that its weakness deserves.
//!
//! Cannot catch: what loom does not model (load buffering, scopes, a GPU's asynchronous copies), and depths
//! beyond 2.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use loom::cell::{ConstPtr, MutPtr, UnsafeCell};
use loom::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed, Ordering::Release};
use myelon_ring::wait::Wait;
use myelon_ring::{Consumer, Producer, RingMemory};

/// What is wrong with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// ring/publish, the producer's end.
    PublishStoreRelaxed,
    /// ring/publish, the consumer's end.
    PublishLoadRelaxed,
    /// ring/credit, the consumer's end.
    CreditStoreRelaxed,
    /// ring/credit, the producer's end.
    CreditLoadRelaxed,
    /// The producer always finds credit.
    NoGate,
    /// A slot's credit goes back before the slot is read.
    CreditBeforeRead,
    /// A slot's sequence is stored before its bytes.
    PublishBeforeWrite,
}

const SLOT_BYTES: usize = 16;

struct World {
    mutant: Mutant,
    sequence: Vec<AtomicU64>,
    gating: AtomicU64,
    data: Vec<UnsafeCell<[u8; SLOT_BYTES]>>,
}

/// One end's view. `published` is the producer's own count, for the mutant without a gate.
struct LoomMemory {
    world: Arc<World>,
    published: Cell<u64>,
}

// SAFETY: the cells are the ring's slots, and that they are not accessed at once is what loom checks here;
// loom runs all threads of a model on one thread in turn, so even a mutant's race is none in fact.
unsafe impl Sync for World {}
// SAFETY: nothing in it belongs to a thread, for the same reason.
unsafe impl Send for World {}

/// A slot's bytes in somebody's hands. The access counts once more when it ends, so that loom sees one that
/// outlasts the publication or the credit.
struct Reading<'a> {
    access: Option<ConstPtr<[u8; SLOT_BYTES]>>,
    slot: &'a UnsafeCell<[u8; SLOT_BYTES]>,
}

struct Writing<'a> {
    access: Option<MutPtr<[u8; SLOT_BYTES]>>,
    slot: &'a UnsafeCell<[u8; SLOT_BYTES]>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.access = None;
        self.slot.with(|_| {});
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.access = None;
        self.slot.with_mut(|_| {});
    }
}

impl Deref for Reading<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the slot outlives the guard, and loom has checked the access.
        unsafe { self.access.as_ref().unwrap().deref() }
    }
}

impl Deref for Writing<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as for `Reading`.
        unsafe { self.access.as_ref().unwrap().deref() }
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `Reading`.
        unsafe { self.access.as_ref().unwrap().deref() }
    }
}

impl LoomMemory {
    fn index(&self, sequence: u64) -> usize {
        sequence as usize & (self.world.data.len() - 1)
    }

    fn weakened(&self, mutant: Mutant, order: Ordering) -> Ordering {
        if self.world.mutant == mutant { Relaxed } else { order }
    }
}

impl RingMemory for LoomMemory {
    type Read<'a> = Reading<'a>;
    type Write<'a> = Writing<'a>;

    fn capacity(&self) -> usize {
        self.world.data.len()
    }

    fn slot_bytes(&self) -> usize {
        SLOT_BYTES
    }

    fn load_sequence(&self, sequence: u64, order: Ordering) -> u64 {
        let order = self.weakened(Mutant::PublishLoadRelaxed, order);
        self.world.sequence[self.index(sequence)].load(order)
    }

    fn store_sequence(&self, sequence: u64, order: Ordering) {
        self.published.set(sequence.wrapping_add(1));
        if self.world.mutant == Mutant::PublishBeforeWrite {
            return;
        }
        let order = self.weakened(Mutant::PublishStoreRelaxed, order);
        self.world.sequence[self.index(sequence)].store(sequence, order);
    }

    fn load_gating(&self, order: Ordering) -> u64 {
        if self.world.mutant == Mutant::NoGate {
            return self.published.get();
        }
        self.world.gating.load(self.weakened(Mutant::CreditLoadRelaxed, order))
    }

    fn store_gating(&self, gating: u64, order: Ordering) {
        if self.world.mutant == Mutant::CreditBeforeRead {
            return;
        }
        self.world.gating.store(gating, self.weakened(Mutant::CreditStoreRelaxed, order));
    }

    unsafe fn read(&self, sequence: u64) -> Reading<'_> {
        if self.world.mutant == Mutant::CreditBeforeRead {
            self.world.gating.store(sequence.wrapping_add(1), Release);
        }
        let slot = &self.world.data[self.index(sequence)];
        Reading { access: Some(slot.get()), slot }
    }

    unsafe fn write(&self, sequence: u64) -> Writing<'_> {
        if self.world.mutant == Mutant::PublishBeforeWrite {
            self.world.sequence[self.index(sequence)].store(sequence, Release);
        }
        let slot = &self.world.data[self.index(sequence)];
        Writing { access: Some(slot.get_mut()), slot }
    }
}

fn ends(mutant: Mutant, capacity: usize, first: u64) -> (Producer<LoomMemory>, Consumer<LoomMemory>) {
    let world = Arc::new(World {
        mutant,
        sequence: (0..capacity).map(|_| AtomicU64::new(first.wrapping_sub(1))).collect(),
        gating: AtomicU64::new(first),
        data: (0..capacity).map(|_| UnsafeCell::new([0; SLOT_BYTES])).collect(),
    });
    let memory = || LoomMemory { world: world.clone(), published: Cell::new(first) };
    // SAFETY: the only two ends of this world, whose words were just made for `first`.
    unsafe { (Producer::new(memory(), first), Consumer::new(memory(), first)) }
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

fn pattern(sequence: u64) -> [u8; SLOT_BYTES] {
    std::array::from_fn(|place| (sequence as u8).wrapping_mul(17).wrapping_add(place as u8))
}

/// Slots go over one by one.
fn singles(mutant: Mutant, capacity: usize, messages: usize, credit_batch: usize) -> impl Fn() + Sync + Send {
    move || {
        let (mut producer, consumer) = ends(mutant, capacity, u64::MAX);
        let mut consumer = consumer.with_credit_batch(credit_batch).unwrap();
        let worker = loom::thread::spawn(move || {
            for _ in 0..messages {
                let mut slot = producer.claim(&Turn).unwrap();
                let bytes = pattern(slot.sequence());
                slot.copy_from_slice(&bytes);
                slot.publish();
            }
        });
        for _ in 0..messages {
            let slot = consumer.wait(&Turn).unwrap();
            assert_eq!(*slot, pattern(slot.sequence()));
            slot.release();
        }
        consumer.flush();
        worker.join().unwrap();
    }
}

/// Two slots go over at once, twice; the consumer looks at the second one's word only.
fn pairs(mutant: Mutant) -> impl Fn() + Sync + Send {
    move || {
        let (mut producer, mut consumer) = ends(mutant, 2, u64::MAX);
        let worker = loom::thread::spawn(move || {
            for _ in 0..2 {
                let mut slots = producer.claim_many(2, &Turn).unwrap();
                for index in 0..2 {
                    let bytes = pattern(slots.sequence().wrapping_add(index as u64));
                    slots.slot(index).copy_from_slice(&bytes);
                }
                slots.publish();
            }
        });
        for _ in 0..2 {
            let slots = consumer.wait_many(2, &Turn).unwrap();
            for index in 0..2 {
                assert_eq!(*slots.slot(index), pattern(slots.sequence().wrapping_add(index as u64)));
            }
            slots.release();
        }
        worker.join().unwrap();
    }
}

/// The consumer takes whatever is there, and the producer never waits.
fn whatever_is_there() {
    let (mut producer, mut consumer) = ends(Mutant::None, 4, u64::MAX);
    let worker = loom::thread::spawn(move || {
        for _ in 0..3 {
            let mut slot = producer.try_claim().unwrap().unwrap();
            let bytes = pattern(slot.sequence());
            slot.copy_from_slice(&bytes);
            slot.publish();
        }
    });
    let mut read = 0;
    while read < 3 {
        let count = consumer.available(4).unwrap();
        if count == 0 {
            Turn.pause(0);
            continue;
        }
        let slots = consumer.try_wait_many(count).unwrap().unwrap();
        for index in 0..count {
            assert_eq!(*slots.slot(index), pattern(slots.sequence().wrapping_add(index as u64)));
        }
        slots.release();
        read += count;
    }
    worker.join().unwrap();
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_duration = None;
    builder.max_permutations = None;
    builder.check(model);
}

#[test]
fn depth_1_three_messages() {
    explore(singles(Mutant::None, 1, 3, 1));
}

#[test]
fn depth_2_three_messages() {
    explore(singles(Mutant::None, 2, 3, 1));
}

#[test]
fn depth_2_three_messages_credit_in_batches_of_2() {
    explore(singles(Mutant::None, 2, 3, 2));
}

#[test]
fn depth_2_two_pairs() {
    explore(pairs(Mutant::None));
}

#[test]
fn depth_4_whatever_is_there() {
    explore(whatever_is_there);
}

/// What loom says of `model`; none if it finds nothing.
fn complaint(model: impl Fn() + Sync + Send + 'static) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| explore(model))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a text"))
}

/// A read of a slot that does not know of a write.
const AT_A_READ: &str = "Causality violation: Concurrent read and write accesses.";
/// A write of a slot that does not know of a read.
const AT_A_WRITE: &str = "Causality violation: Concurrent read and write accesses to `UnsafeCell`.";

/// Explores each way of using the ring with `mutant`, and wants this complaint from each.
fn must_fail(mutant: Mutant, wanted: &str) {
    let found = [
        ("depth 1", complaint(singles(mutant, 1, 3, 1))),
        ("depth 2", complaint(singles(mutant, 2, 3, 1))),
        ("pairs", complaint(pairs(mutant))),
    ];
    for (way, found) in found {
        let found = found.unwrap_or_else(|| panic!("{mutant:?} survived, {way}"));
        assert!(found.contains(wanted), "{mutant:?}, {way}: {found}");
    }
}

#[test]
fn publish_store_relaxed_is_found() {
    must_fail(Mutant::PublishStoreRelaxed, AT_A_READ);
}

#[test]
fn publish_load_relaxed_is_found() {
    must_fail(Mutant::PublishLoadRelaxed, AT_A_READ);
}

#[test]
fn credit_store_relaxed_is_found() {
    must_fail(Mutant::CreditStoreRelaxed, AT_A_WRITE);
}

#[test]
fn credit_load_relaxed_is_found() {
    must_fail(Mutant::CreditLoadRelaxed, AT_A_WRITE);
}

#[test]
fn no_gate_is_found() {
    must_fail(Mutant::NoGate, AT_A_READ);
}

#[test]
fn credit_before_read_is_found() {
    must_fail(Mutant::CreditBeforeRead, AT_A_WRITE);
}

#[test]
fn publish_before_write_is_found() {
    must_fail(Mutant::PublishBeforeWrite, AT_A_READ);
}
