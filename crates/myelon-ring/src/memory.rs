//! The memory that a ring lies in, as the two ends touch it: every access, with the order it needs.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::RingError;
use crate::hint::{can_will_write, will_write};
use crate::words::RingConfig;

/// What [`Producer`](crate::Producer) and [`Consumer`](crate::Consumer) ask of a ring's memory.
///
/// The protocol passes the order of each access in, so that the text which runs over [`RawMemory`] is the
/// text that a model checker runs over its own atomics and cells. A slot is named by a sequence; an
/// implementation finds its place by `sequence & (capacity - 1)`.
pub trait RingMemory {
    /// A slot's bytes while the consumer reads them.
    type Read<'a>: Deref<Target = [u8]>
    where
        Self: 'a;
    /// A slot's bytes while the producer writes them.
    type Write<'a>: DerefMut<Target = [u8]>
    where
        Self: 'a;

    /// Slots in the ring, a power of two.
    fn capacity(&self) -> usize;

    /// Bytes of a slot.
    fn slot_bytes(&self) -> usize;

    /// Reads the sequence word of the slot that holds `sequence`.
    fn load_sequence(&self, sequence: u64, order: Ordering) -> u64;

    /// Stores `sequence` into the sequence word of its slot. Only the producer does this.
    fn store_sequence(&self, sequence: u64, order: Ordering);

    /// Reads the gating word.
    fn load_gating(&self, order: Ordering) -> u64;

    /// Stores the gating word. Only the consumer does this.
    fn store_gating(&self, gating: u64, order: Ordering);

    /// The bytes of the slot that holds `sequence`, to read.
    ///
    /// # Safety
    ///
    /// The caller is the consumer, has acquired the slot's publication and has not returned its credit
    /// while the result lives.
    unsafe fn read(&self, sequence: u64) -> Self::Read<'_>;

    /// The bytes of the slot that holds `sequence`, to write.
    ///
    /// # Safety
    ///
    /// The caller is the producer, has acquired the credit for the slot, has not published it while the
    /// result lives, and holds no other result for the same slot.
    unsafe fn write(&self, sequence: u64) -> Self::Write<'_>;

    /// A hint that the slot that holds `sequence`, for which there is credit, will be written soon.
    #[inline]
    fn will_write(&self, sequence: u64) {
        let _ = sequence;
    }
}

/// A ring at plain addresses: on the heap, in a mapped file, in device memory that the host can reach.
///
/// It stands for one end: see the duties of [`RawMemory::new`].
pub struct RawMemory {
    sequence: *const AtomicU64,
    gating: *const AtomicU64,
    data: *mut u8,
    mask: u64,
    slot_bytes: usize,
    can_will_write: bool,
    config: RingConfig,
    /// What keeps the addresses alive, where that is ours to do.
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the pointers are shared with the other end only through atomics and through slots that the
// protocol gives to one end at a time (R3 to R5); nothing in here belongs to a thread, and the owner is Send.
unsafe impl Send for RawMemory {}

impl RawMemory {
    /// One end's view of the ring at `config`'s addresses; `owner`, if there is one, lives as long as it.
    ///
    /// # Errors
    ///
    /// As [`RingConfig::new`]; nothing is touched.
    ///
    /// # Safety
    ///
    /// * The three parts are memory of this process, initialised, disjoint, with exposed provenance, and
    ///   stay so while the result lives.
    /// * The result goes into one [`Producer`](crate::Producer) or one [`Consumer`](crate::Consumer). A ring
    ///   has one of each at a time, in this process or elsewhere.
    /// * Nobody else touches the words and slots meanwhile.
    pub unsafe fn new(
        config: RingConfig,
        owner: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<Self, RingError> {
        // The fields are public, and may come from memory that somebody else wrote.
        let config = RingConfig::new(
            config.capacity as usize,
            config.slot_bytes as usize,
            config.sequence,
            config.gating,
            config.data,
        )?;
        Ok(Self {
            sequence: std::ptr::with_exposed_provenance(config.sequence as usize),
            gating: std::ptr::with_exposed_provenance(config.gating as usize),
            data: std::ptr::with_exposed_provenance_mut(config.data as usize),
            mask: config.capacity as u64 - 1,
            slot_bytes: config.slot_bytes as usize,
            can_will_write: can_will_write(),
            config,
            _owner: owner,
        })
    }

    /// The ring's words.
    pub fn config(&self) -> RingConfig {
        self.config
    }

    #[inline]
    fn index(&self, sequence: u64) -> usize {
        (sequence & self.mask) as usize
    }

    #[inline]
    fn sequence_word(&self, sequence: u64) -> &AtomicU64 {
        // SAFETY: the index is below the capacity, and by `new` there is a live, aligned u64 which both ends
        // access as an atomic only.
        unsafe { &*self.sequence.add(self.index(sequence)) }
    }

    #[inline]
    fn gating_word(&self) -> &AtomicU64 {
        // SAFETY: by `new` a live, aligned u64 that both ends access as an atomic only.
        unsafe { &*self.gating }
    }

    #[inline]
    fn slot(&self, sequence: u64) -> *mut u8 {
        // SAFETY: the index is below the capacity, so the slot lies in the data that `new` was promised.
        unsafe { self.data.add(self.index(sequence) * self.slot_bytes) }
    }
}

impl RingMemory for RawMemory {
    type Read<'a> = &'a [u8];
    type Write<'a> = &'a mut [u8];

    #[inline]
    fn capacity(&self) -> usize {
        self.mask as usize + 1
    }

    #[inline]
    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    #[inline]
    fn load_sequence(&self, sequence: u64, order: Ordering) -> u64 {
        self.sequence_word(sequence).load(order)
    }

    #[inline]
    fn store_sequence(&self, sequence: u64, order: Ordering) {
        self.sequence_word(sequence).store(sequence, order);
    }

    #[inline]
    fn load_gating(&self, order: Ordering) -> u64 {
        self.gating_word().load(order)
    }

    #[inline]
    fn store_gating(&self, gating: u64, order: Ordering) {
        self.gating_word().store(gating, order);
    }

    #[inline]
    unsafe fn read(&self, sequence: u64) -> &[u8] {
        // SAFETY: the caller has acquired the slot's sequence, so by R4 all of it is written; by R3 and R5 it
        // is written again only after the credit is returned, that is after the slice is gone.
        unsafe { std::slice::from_raw_parts(self.slot(sequence), self.slot_bytes) }
    }

    #[inline]
    unsafe fn write(&self, sequence: u64) -> &mut [u8] {
        // SAFETY: the caller has acquired the slot's credit, so by R5 its last lap is read; by R4 nobody reads
        // it again before it is published, that is after the slice is gone. There is no other slice of it.
        unsafe { std::slice::from_raw_parts_mut(self.slot(sequence), self.slot_bytes) }
    }

    #[inline]
    fn will_write(&self, sequence: u64) {
        if self.can_will_write {
            // SAFETY: just asked.
            unsafe { will_write(self.slot(sequence)) };
        }
    }
}

impl fmt::Debug for RawMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawMemory").field(&self.config).finish()
    }
}
