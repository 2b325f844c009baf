//! The consumer's end: wait for slots, read them in place, give them back.

use std::sync::atomic::Ordering;

use crate::config::{beyond, check_count, check_index, reached};
use crate::error::{Counter, RingError, RingFault};
use crate::memory::{RawMemory, RingMemory};
use crate::wait::{Wait, Waiting};

/// Reads slots and returns their credit. One a ring; see `docs/protocols/ring.md` for R1 to R9.
///
/// A slot that is dropped unreleased returns no credit, and the next wait gives it again.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use myelon_ring::{RingFault, ring, wait::Spin};
///
/// let (mut producer, consumer) = ring(4, 16, 0)?;
/// let mut consumer = consumer.with_credit_batch(2)?;
/// for value in 0..4 {
///     assert!(producer.try_copy_into_slot(&[value; 16])?);
/// }
/// let slots = consumer.try_wait_many(3)?.expect("four are there");
/// assert_eq!(slots.slot(2)[0], 2);
/// slots.release();
/// assert_eq!(producer.credit(1)?, 3); // a batch of two was due, and all three went back
///
/// consumer.try_wait()?.expect("one is there").release();
/// assert_eq!(producer.credit(4)?, 3); // kept back, until
/// consumer.flush();
/// assert_eq!(producer.credit(4)?, 4);
///
/// let impatient = Spin { deadline: Duration::ZERO };
/// assert!(matches!(consumer.wait(&impatient), Err(RingFault::Stalled { needed: 4, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Consumer<M = RawMemory> {
    memory: M,
    /// Every sequence before this one is known to be published.
    published: u64,
    place: Place,
}

/// How far the consumer has come.
#[derive(Debug)]
struct Place {
    /// The sequence that is consumed next.
    position: u64,
    /// What the gating word shows.
    returned: u64,
    credit_batch: u64,
}

impl<M: RingMemory> Consumer<M> {
    /// The consumer of a ring whose next sequence is `first`; it returns every credit at once. Nothing is
    /// touched.
    ///
    /// # Safety
    ///
    /// It is the only consumer of the ring, and the words stand as a consumer left them whose
    /// [`position`](Consumer::position) was `first` and that had [flushed](Consumer::flush), or as they are
    /// made for `first`: gating at `first`, every sequence word at `first - 1`.
    pub unsafe fn new(memory: M, first: u64) -> Self {
        Self { memory, published: first, place: Place { position: first, returned: first, credit_batch: 1 } }
    }

    /// Lets credit go back only when `credit_batch` slots have been released, or at [`Consumer::flush`].
    ///
    /// # Errors
    ///
    /// [`RingError::CreditBatch`] unless it is from 1 to the capacity.
    pub fn with_credit_batch(mut self, credit_batch: usize) -> Result<Self, RingError> {
        let capacity = self.capacity();
        if !(1..=capacity).contains(&credit_batch) {
            return Err(RingError::CreditBatch { credit_batch, capacity });
        }
        self.place.credit_batch = credit_batch as u64;
        Ok(self)
    }

    /// The sequence of the next slot: what a next consumer of this ring begins with.
    pub fn position(&self) -> u64 {
        self.place.position
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.memory.slot_bytes()
    }

    /// The sequence that `count` more slots need, at least one, and what its word shows: for a report.
    pub fn standing(&self, count: usize) -> (u64, u64) {
        let last = self.last(count);
        // ORDER: Relaxed is enough. The value is only shown.
        (last, self.memory.load_sequence(last, Ordering::Relaxed))
    }

    /// Slots that are there to be read, up to `count`; not always all of them, but none only if there is none.
    ///
    /// Looks at no word while some remembered slot is left; else at slots 1, 2, 4, 8, ... ahead until one
    /// is not there. Each look stands for all slots before it, because they are published in order (R2).
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`]: a slot was overwritten before it was released.
    #[inline]
    pub fn available(&mut self, count: usize) -> Result<usize, RingFault> {
        let count = count.min(self.capacity());
        if self.known() == 0 {
            let mut ahead = 1;
            while ahead <= count && self.look(ahead)? {
                ahead *= 2;
            }
        }
        Ok(self.known().min(count))
    }

    /// The next slot, if it is published.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    #[inline]
    pub fn try_wait(&mut self) -> Result<Option<SlotRef<'_, M>>, RingFault> {
        Ok(if self.is_there(1)? { Some(self.slot()) } else { None })
    }

    /// The next slot, once it is published.
    ///
    /// # Errors
    ///
    /// [`RingFault`]; no credit has been returned.
    #[inline]
    pub fn wait(&mut self, wait: &impl Wait) -> Result<SlotRef<'_, M>, RingFault> {
        self.await_slots(1, wait)?;
        Ok(self.slot())
    }

    /// The next `count` slots, if all of them are published.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    ///
    /// # Panics
    ///
    /// If `count` is larger than the capacity.
    #[inline]
    pub fn try_wait_many(&mut self, count: usize) -> Result<Option<SlotsRef<'_, M>>, RingFault> {
        Ok(if self.is_there(count)? { Some(self.slots(count)) } else { None })
    }

    /// The next `count` slots, once all of them are published. It looks at the last one's word only.
    ///
    /// As in [`Producer::claim_many`](crate::Producer::claim_many), `count` plus what is kept back may not
    /// exceed the capacity.
    ///
    /// # Errors
    ///
    /// [`RingFault`]; no credit has been returned.
    ///
    /// # Panics
    ///
    /// If `count` is larger than the capacity.
    #[inline]
    pub fn wait_many(&mut self, count: usize, wait: &impl Wait) -> Result<SlotsRef<'_, M>, RingFault> {
        self.await_slots(count, wait)?;
        Ok(self.slots(count))
    }

    /// Copies the start of the next slot into all of `bytes` and releases the slot; false, if there is none.
    ///
    /// # Errors
    ///
    /// [`RingFault::Beyond`].
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than a slot.
    pub fn try_copy_from_slot(&mut self, bytes: &mut [u8]) -> Result<bool, RingFault> {
        Ok(self.try_wait()?.map(|slot| slot.release_copy(bytes)).is_some())
    }

    /// Copies the start of the next slot into all of `bytes` and releases the slot, waiting for it.
    ///
    /// # Errors
    ///
    /// [`RingFault`]; `bytes` are as they were, and no credit has been returned.
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than a slot.
    pub fn copy_from_slot(&mut self, bytes: &mut [u8], wait: &impl Wait) -> Result<(), RingFault> {
        self.wait(wait)?.release_copy(bytes);
        Ok(())
    }

    /// Returns the credit of every slot released so far. A call ends with this (R7).
    #[inline]
    pub fn flush(&mut self) {
        self.place.flush(&self.memory);
    }

    fn known(&self) -> usize {
        self.published.wrapping_sub(self.place.position) as usize
    }

    fn last(&self, count: usize) -> u64 {
        self.place.position.wrapping_add(count as u64).wrapping_sub(1)
    }

    /// Whether what is known suffices; apart from the look and small, as in the producer.
    #[inline]
    fn remembers(&self, count: usize) -> bool {
        check_count(count, self.capacity());
        reached(self.published, self.place.position.wrapping_add(count as u64))
    }

    /// Looks whether the slot `count` ahead is published, and with it all before.
    fn look(&mut self, count: usize) -> Result<bool, RingFault> {
        let last = self.last(count);
        // ORDER ring/publish: Acquire pairs with the Release store in the producer's `publish`. Without it
        // the reads of the slot could run ahead and find bytes from before they were written.
        let seen = self.memory.load_sequence(last, Ordering::Acquire);
        if beyond(seen, last) > 0 {
            return Err(RingFault::Beyond { counter: Counter::Sequence, allowed: last, seen });
        }
        let there = reached(seen, last);
        if there {
            self.published = last.wrapping_add(1);
        }
        Ok(there)
    }

    #[inline]
    fn is_there(&mut self, count: usize) -> Result<bool, RingFault> {
        if self.remembers(count) { Ok(true) } else { self.look(count) }
    }

    #[inline]
    fn await_slots(&mut self, count: usize, wait: &impl Wait) -> Result<(), RingFault> {
        if self.remembers(count) { Ok(()) } else { self.poll(count, wait) }
    }

    #[cold]
    fn poll(&mut self, count: usize, wait: &impl Wait) -> Result<(), RingFault> {
        let mut waiting = Waiting::default();
        while !self.look(count)? {
            if let Some(waited) = waiting.pause(wait) {
                if self.look(count)? {
                    break;
                }
                let (needed, seen) = self.standing(count);
                return Err(RingFault::Stalled { counter: Counter::Sequence, needed, seen, waited });
            }
        }
        Ok(())
    }

    #[inline]
    fn slot(&mut self) -> SlotRef<'_, M> {
        // SAFETY: `position` is before `published`, so its publication was acquired and by R4 the slot is
        // ours; the guard returns its credit only after the bytes are gone.
        let bytes = unsafe { self.memory.read(self.place.position) };
        SlotRef { bytes, memory: &self.memory, place: &mut self.place }
    }

    #[inline]
    fn slots(&mut self, count: usize) -> SlotsRef<'_, M> {
        SlotsRef { memory: &self.memory, place: &mut self.place, count }
    }
}

impl Place {
    #[inline]
    fn release<M: RingMemory>(&mut self, memory: &M, count: usize) {
        self.position = self.position.wrapping_add(count as u64);
        if self.position.wrapping_sub(self.returned) >= self.credit_batch {
            self.flush(memory);
        }
    }

    #[inline]
    fn flush<M: RingMemory>(&mut self, memory: &M) {
        if self.returned != self.position {
            self.returned = self.position;
            // ORDER ring/credit: Release pairs with the Acquire load in `Producer::look_for_credit`.
            // Without it
            // our reads of a slot could come after the producer has written it anew.
            memory.store_gating(self.position, Ordering::Release);
        }
    }
}

/// A slot that the consumer may read: its bytes, in place.
#[must_use = "a slot that is dropped returns no credit"]
pub struct SlotRef<'c, M: RingMemory + 'c> {
    bytes: M::Read<'c>,
    memory: &'c M,
    place: &'c mut Place,
}

impl<M: RingMemory> SlotRef<'_, M> {
    /// The slot's sequence.
    pub fn sequence(&self) -> u64 {
        self.place.position
    }

    /// Gives the slot back to the producer, at once or with its batch.
    #[inline]
    pub fn release(self) {
        let Self { bytes, memory, place } = self;
        drop(bytes);
        place.release(memory, 1);
    }

    fn release_copy(self, bytes: &mut [u8]) {
        let length = bytes.len();
        assert!(length <= self.bytes.len(), "{length} bytes of a slot of {}", self.bytes.len());
        bytes.copy_from_slice(&self.bytes[..length]);
        self.release();
    }
}

impl<M: RingMemory> std::ops::Deref for SlotRef<'_, M> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Several slots in a row that the consumer may read.
#[must_use = "slots that are dropped return no credit"]
pub struct SlotsRef<'c, M: RingMemory> {
    memory: &'c M,
    place: &'c mut Place,
    count: usize,
}

impl<M: RingMemory> SlotsRef<'_, M> {
    /// The sequence of the first slot.
    pub fn sequence(&self) -> u64 {
        self.place.position
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
    pub fn slot(&self, index: usize) -> M::Read<'_> {
        check_index(index, self.count);
        // SAFETY: `is_there` was asked for all `count` slots, so their publication was acquired and by R4
        // this one is ours; `release` takes `self`, so the bytes are gone by then.
        unsafe { self.memory.read(self.place.position.wrapping_add(index as u64)) }
    }

    /// Gives all slots back to the producer, at once or with their batch: one store.
    #[inline]
    pub fn release(self) {
        self.place.release(self.memory, self.count);
    }
}
