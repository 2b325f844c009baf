//! The producer's end: claim slots against credit, write them in place, publish them in order.

use std::sync::atomic::Ordering;

use crate::config::{beyond, check_count, check_index, credit_needed, reached};
use crate::error::{Counter, RingFault};
use crate::memory::{RawMemory, RingMemory};
use crate::wait::{Wait, Waiting};

/// Writes slots and publishes them. One a ring; see `docs/protocols/ring.md` for R1 to R9.
///
/// A claim that is dropped publishes nothing, and the next claim gives the same slots again.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use myelon_ring::{ring, wait::Spin};
///
/// let wait = Spin { deadline: Duration::from_secs(1) };
/// let (mut producer, mut consumer) = ring(4, 16, 0)?;
/// let mut slot = producer.claim(&wait)?;
/// slot.fill(7);
/// slot.publish();
/// assert_eq!(producer.position(), 1);
///
/// let slot = consumer.wait(&wait)?;
/// assert_eq!(*slot, [7; 16]);
/// slot.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Producer<M = RawMemory> {
    memory: M,
    /// The sequence that the next slot will have.
    position: u64,
    /// The gating seen last; the true one is never behind it (R2).
    gating_seen: u64,
}

impl<M: RingMemory> Producer<M> {
    /// The producer of a ring whose next sequence is `first`. Nothing is touched.
    ///
    /// # Safety
    ///
    /// It is the only producer of the ring, and the words stand as a producer left them whose
    /// [`position`](Producer::position) was `first`, or as they are made for `first`: gating at `first`,
    /// every sequence word at `first - 1`.
    pub unsafe fn new(memory: M, first: u64) -> Self {
        // The least that the gating can be by R3: it makes the first claim look.
        let gating_seen = first.wrapping_sub(memory.capacity() as u64);
        Self { memory, position: first, gating_seen }
    }

    /// The sequence of the next slot: what a next producer of this ring begins with.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.memory.slot_bytes()
    }

    /// The gating that a claim of `count` slots needs, and the gating as it stands: for a report.
    pub fn standing(&self, count: usize) -> (u64, u64) {
        // ORDER: Relaxed is enough. The value is only shown.
        (self.gating_needed(count), self.memory.load_gating(Ordering::Relaxed))
    }

    /// Slots that may be claimed now. Looks at the gating word only if the remembered one leaves fewer than
    /// `count`, which is at most the capacity.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`]: more came back than was published.
    #[inline]
    pub fn credit(&mut self, count: usize) -> Result<usize, RingFault> {
        self.has_credit(count)?;
        Ok(self.capacity() - self.position.wrapping_sub(self.gating_seen) as usize)
    }

    /// Claims the next slot, if there is credit.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    #[inline]
    pub fn try_claim(&mut self) -> Result<Option<SlotMut<'_, M>>, RingFault> {
        Ok(if self.has_credit(1)? { Some(self.slot()) } else { None })
    }

    /// Claims the next slot, waiting for credit.
    ///
    /// # Errors
    ///
    /// [`RingFault`]; nothing has been published.
    #[inline]
    pub fn claim(&mut self, wait: &impl Wait) -> Result<SlotMut<'_, M>, RingFault> {
        self.await_credit(1, wait)?;
        Ok(self.slot())
    }

    /// Claims the next `count` slots, all or none.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    ///
    /// # Panics
    ///
    /// If `count` is larger than the capacity.
    #[inline]
    pub fn try_claim_many(&mut self, count: usize) -> Result<Option<SlotsMut<'_, M>>, RingFault> {
        Ok(if self.has_credit(count)? { Some(self.slots(count)) } else { None })
    }

    /// Claims the next `count` slots, waiting until there is credit for all of them.
    ///
    /// With a consumer that returns credit in batches of `b`, `count + b - 1` may not exceed the capacity:
    /// the consumer may keep `b - 1` slots back for ever (R7).
    ///
    /// # Errors
    ///
    /// [`RingFault`]; nothing has been published.
    ///
    /// # Panics
    ///
    /// If `count` is larger than the capacity.
    #[inline]
    pub fn claim_many(&mut self, count: usize, wait: &impl Wait) -> Result<SlotsMut<'_, M>, RingFault> {
        self.await_credit(count, wait)?;
        Ok(self.slots(count))
    }

    /// Copies `bytes` into the next slot and publishes it; false, if there is no credit.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than a slot.
    pub fn try_copy_into_slot(&mut self, bytes: &[u8]) -> Result<bool, RingFault> {
        Ok(self.try_claim()?.map(|slot| slot.publish_copy(bytes)).is_some())
    }

    /// Copies `bytes` into the next slot and publishes it, waiting for credit.
    ///
    /// # Errors
    ///
    /// [`RingFault`]; nothing has been published.
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than a slot.
    pub fn copy_into_slot(&mut self, bytes: &[u8], wait: &impl Wait) -> Result<(), RingFault> {
        self.claim(wait)?.publish_copy(bytes);
        Ok(())
    }

    fn gating_needed(&self, count: usize) -> u64 {
        credit_needed(self.position.wrapping_add(count as u64).wrapping_sub(1), self.capacity())
    }

    /// Whether the remembered gating suffices. It is apart from the look, which is out of line, so that a claim
    /// is small enough to be inlined: a call that returns through memory stores more than a small message.
    #[inline]
    fn remembers_credit(&self, count: usize) -> bool {
        check_count(count, self.capacity());
        reached(self.gating_seen, self.gating_needed(count))
    }

    /// Looks at the gating word.
    fn look_for_credit(&mut self, count: usize) -> Result<bool, RingFault> {
        // ORDER ring/credit: Acquire pairs with the Release store in `Consumer::flush`. Without it the write
        // of the slot could overtake the consumer's reads of what the slot held a lap before.
        let seen = self.memory.load_gating(Ordering::Acquire);
        if beyond(seen, self.position) > 0 {
            return Err(RingFault::Beyond { counter: Counter::Gating, allowed: self.position, seen });
        }
        if reached(seen, self.gating_seen) {
            self.gating_seen = seen;
        }
        Ok(self.remembers_credit(count))
    }

    #[inline]
    fn has_credit(&mut self, count: usize) -> Result<bool, RingFault> {
        if self.remembers_credit(count) { Ok(true) } else { self.look_for_credit(count) }
    }

    #[inline]
    fn await_credit(&mut self, count: usize, wait: &impl Wait) -> Result<(), RingFault> {
        if self.remembers_credit(count) { Ok(()) } else { self.poll_for_credit(count, wait) }
    }

    #[cold]
    fn poll_for_credit(&mut self, count: usize, wait: &impl Wait) -> Result<(), RingFault> {
        let mut waiting = Waiting::default();
        while !self.look_for_credit(count)? {
            if let Some(waited) = waiting.pause(wait) {
                if self.look_for_credit(count)? {
                    break;
                }
                let (needed, seen) = (self.gating_needed(count), self.gating_seen);
                return Err(RingFault::Stalled { counter: Counter::Gating, needed, seen, waited });
            }
        }
        Ok(())
    }

    #[inline]
    fn slot(&mut self) -> SlotMut<'_, M> {
        will_write(&self.memory, self.position, self.gating_seen);
        // SAFETY: by `has_credit` gating has reached `position - capacity + 1`, so by R3 the slot is ours;
        // the guard publishes it only after the bytes are gone, and `&mut self` allows one guard.
        let bytes = unsafe { self.memory.write(self.position) };
        SlotMut { bytes, memory: &self.memory, position: &mut self.position }
    }

    #[inline]
    fn slots(&mut self, count: usize) -> SlotsMut<'_, M> {
        let gating_seen = self.gating_seen;
        SlotsMut { memory: &self.memory, position: &mut self.position, gating_seen, count }
    }
}

/// How many slots ahead of the one that is written the next line is asked for.
const SLOTS_AHEAD: u64 = 8;

/// While the slot of `sequence` is written, asks for a later one, if it is known to have been given back: a
/// line that the consumer still reads stays there.
#[inline]
fn will_write<M: RingMemory>(memory: &M, sequence: u64, gating_seen: u64) {
    let ahead = sequence.wrapping_add(SLOTS_AHEAD);
    if reached(gating_seen, credit_needed(ahead, memory.capacity())) {
        memory.will_write(ahead);
    }
}

/// Publishes the `count` slots from `position` on.
#[inline]
fn publish<M: RingMemory>(memory: &M, position: &mut u64, count: usize) {
    for _ in 0..count {
        // ORDER ring/publish: Release pairs with the Acquire load in `Consumer::look`. Without it the
        // consumer could see the sequence and then read bytes from before they were written.
        memory.store_sequence(*position, Ordering::Release);
        *position = position.wrapping_add(1);
    }
}

/// A slot that the producer may write: its bytes, in place. They hold whatever the slot held before.
#[must_use = "a claim that is dropped publishes nothing"]
pub struct SlotMut<'p, M: RingMemory + 'p> {
    bytes: M::Write<'p>,
    memory: &'p M,
    position: &'p mut u64,
}

impl<M: RingMemory> SlotMut<'_, M> {
    /// The slot's sequence.
    pub fn sequence(&self) -> u64 {
        *self.position
    }

    /// Hands the slot to the consumer.
    #[inline]
    pub fn publish(self) {
        let Self { bytes, memory, position } = self;
        drop(bytes);
        publish(memory, position, 1);
    }

    fn publish_copy(mut self, bytes: &[u8]) {
        let room = self.bytes.len();
        assert!(bytes.len() <= room, "{} bytes for a slot of {room}", bytes.len());
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.publish();
    }
}

impl<M: RingMemory> std::ops::Deref for SlotMut<'_, M> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<M: RingMemory> std::ops::DerefMut for SlotMut<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Several slots in a row that the producer may write. They hold whatever they held before.
#[must_use = "a claim that is dropped publishes nothing"]
pub struct SlotsMut<'p, M: RingMemory> {
    memory: &'p M,
    position: &'p mut u64,
    gating_seen: u64,
    count: usize,
}

impl<M: RingMemory> SlotsMut<'_, M> {
    /// The sequence of the first slot.
    pub fn sequence(&self) -> u64 {
        *self.position
    }

    /// How many slots.
    #[expect(clippy::len_without_is_empty, reason = "a count of slots, not a collection")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The bytes of slot `index`, counted from the first.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    #[inline]
    pub fn slot(&mut self, index: usize) -> M::Write<'_> {
        check_index(index, self.count);
        let sequence = self.position.wrapping_add(index as u64);
        will_write(self.memory, sequence, self.gating_seen);
        // SAFETY: `has_credit` was asked for all `count` slots, so by R3 this one is ours; `publish` takes
        // `self`, so the bytes are gone by then, and `&mut self` allows one slot at a time.
        unsafe { self.memory.write(sequence) }
    }

    /// Hands all slots to the consumer, in order.
    #[inline]
    pub fn publish(self) {
        publish(self.memory, self.position, self.count);
    }
}
