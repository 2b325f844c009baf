//! A ring's words, checked, and the arithmetic of sequence and gating that every end shares.

use crate::error::RingError;
use crate::words::RingConfig;

/// One slot, derived from the ring and a sequence, never stored.
///
/// | field | unit |
/// |---|---|
/// | `ptr` | address of the first byte |
/// | `sequence` | address of the slot's sequence word |
/// | `bytes` | bytes of the slot |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Address of the slot's first byte.
    pub ptr: u64,
    /// Address of the slot's sequence word.
    pub sequence: u64,
    /// Bytes of the slot, the trailer included where there is one.
    pub bytes: i32,
}

impl RingConfig {
    /// Names the words and slots of a ring. Nothing is touched.
    ///
    /// | name | shape | where it must stand |
    /// |---|---|---|
    /// | `sequence` | `[capacity]` u64 | on 8 bytes |
    /// | `gating` | one u64 | on 8 bytes |
    /// | `data` | `[capacity][slot_bytes]` | on 16 bytes |
    ///
    /// # Errors
    ///
    /// [`RingError::Capacity`], [`RingError::SlotBytes`] and [`RingError::Misaligned`], in this order.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_ring::{RingConfig, RingError};
    ///
    /// let ring = RingConfig::new(4, 256, 0x1000, 0x2000, 0x3000)?;
    /// let slot = ring.slot(7); // the fourth slot, in its second lap
    /// assert_eq!((slot.ptr, slot.sequence, slot.bytes), (0x3000 + 3 * 256, 0x1000 + 3 * 8, 256));
    /// assert_eq!(RingConfig::new(6, 256, 0, 0, 0), Err(RingError::Capacity { capacity: 6 }));
    /// # Ok::<(), RingError>(())
    /// ```
    pub fn new(
        capacity: usize,
        slot_bytes: usize,
        sequence: u64,
        gating: u64,
        data: u64,
    ) -> Result<Self, RingError> {
        if !capacity.is_power_of_two() || capacity > i32::MAX as usize {
            return Err(RingError::Capacity { capacity });
        }
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(16) || slot_bytes > i32::MAX as usize {
            return Err(RingError::SlotBytes { slot_bytes });
        }
        for (what, address, needed) in [("sequence", sequence, 8), ("gating", gating, 8), ("data", data, 16)]
        {
            if !address.is_multiple_of(needed as u64) {
                return Err(RingError::Misaligned { what, address, needed });
            }
        }
        Ok(Self { capacity: capacity as i32, slot_bytes: slot_bytes as i32, sequence, gating, data })
    }

    /// The slot that holds `sequence`, whatever lap it is in.
    pub fn slot(&self, sequence: u64) -> SlotView {
        let index = sequence & (self.capacity as u64 - 1);
        SlotView {
            ptr: self.data + index * self.slot_bytes as u64,
            sequence: self.sequence + index * size_of::<u64>() as u64,
            bytes: self.slot_bytes,
        }
    }
}

/// Whether a counter that shows `seen` has come to `needed`: a signed difference, right across the wrap.
///
/// Right while the two are less than 2^63 apart, which a ring keeps by its capacity.
///
/// # Example
///
/// ```
/// use myelon_ring::reached;
///
/// assert!(reached(5, 5) && reached(6, 5) && !reached(4, 5));
/// assert!(reached(1, u64::MAX)); // two steps past the wrap
/// assert!(!reached(u64::MAX, 0)); // a fresh ring's "nothing yet" is not ready
/// ```
#[inline]
pub fn reached(seen: u64, needed: u64) -> bool {
    beyond(seen, needed) >= 0
}

/// How far `seen` lies past `needed`; negative while it has not come there.
#[inline]
pub(crate) fn beyond(seen: u64, needed: u64) -> i64 {
    seen.wrapping_sub(needed) as i64
}

/// The gating that a producer needs to see before it writes the slot of `sequence`.
///
/// # Example
///
/// ```
/// use myelon_ring::{credit_needed, reached};
///
/// let (first, capacity) = (0, 4);
/// assert!(reached(first, credit_needed(3, capacity))); // four slots need no gating beyond the first
/// assert!(!reached(first, credit_needed(4, capacity))); // the fifth needs slot 0 given back
/// ```
#[inline]
pub fn credit_needed(sequence: u64, capacity: usize) -> u64 {
    sequence.wrapping_sub(capacity as u64).wrapping_add(1)
}

/// Refuses a batch that can never be had. Out of line, so that the ends stay small enough to be inlined.
#[inline]
pub(crate) fn check_count(count: usize, capacity: usize) {
    #[cold]
    #[inline(never)]
    fn refuse(count: usize, capacity: usize) -> ! {
        panic!("{count} slots of a ring of {capacity}")
    }
    if count > capacity {
        refuse(count, capacity);
    }
}

/// Refuses a slot that a batch does not have, likewise out of line.
#[inline]
pub(crate) fn check_index(index: usize, count: usize) {
    #[cold]
    #[inline(never)]
    fn refuse(index: usize, count: usize) -> ! {
        panic!("slot {index} of {count}")
    }
    if index >= count {
        refuse(index, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rings_are_refused() {
        let capacity = |capacity| RingConfig::new(capacity, 16, 0, 0, 0);
        for bad in [0, 3, 6, 1 << 31] {
            assert_eq!(capacity(bad), Err(RingError::Capacity { capacity: bad }));
        }
        assert!(capacity(1).is_ok() && capacity(1 << 30).is_ok());
        for bad in [0, 8, 24, 1 << 31] {
            assert_eq!(RingConfig::new(1, bad, 0, 0, 0), Err(RingError::SlotBytes { slot_bytes: bad }));
        }
        let misaligned = |what, address, needed| Err(RingError::Misaligned { what, address, needed });
        assert_eq!(RingConfig::new(1, 16, 4, 0, 0), misaligned("sequence", 4, 8));
        assert_eq!(RingConfig::new(1, 16, 8, 12, 0), misaligned("gating", 12, 8));
        assert_eq!(RingConfig::new(1, 16, 8, 8, 8), misaligned("data", 8, 16));
    }

    #[test]
    fn slots_follow_the_sequence_across_the_wrap() {
        let ring = RingConfig::new(4, 32, 0x100, 0x200, 0x400).unwrap();
        let index = |sequence| (ring.slot(sequence).ptr - ring.data) / 32;
        assert_eq!([u64::MAX - 1, u64::MAX, 0, 1].map(index), [2, 3, 0, 1]);
        assert_eq!(ring.slot(u64::MAX).sequence, 0x100 + 24);
    }

    #[test]
    fn credit_is_a_capacity_behind() {
        assert_eq!(credit_needed(9, 4), 6);
        assert_eq!(credit_needed(0, 4), 0u64.wrapping_sub(3));
        assert!(reached(0, credit_needed(3, 4)) && !reached(0, credit_needed(4, 4)));
        let late = u64::MAX - 1;
        assert!(reached(late, credit_needed(late.wrapping_add(3), 4)));
        assert!(!reached(late, credit_needed(late.wrapping_add(4), 4)));
    }

    #[test]
    fn reached_is_right_up_to_half_the_range() {
        assert!(reached(i64::MAX as u64, 0));
        assert!(!reached(i64::MAX as u64 + 1, 0));
    }
}
