//! What a ring refuses.

/// A ring or window that cannot be made. Nothing has been allocated or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of ranks is out of range.
    #[error("a window joins 2 to 8 ranks, not {ranks}")]
    Ranks {
        /// What was asked for.
        ranks: usize,
    },
    /// There must be a lane.
    #[error("a window needs at least one lane")]
    NoLanes,
    /// The capacity is no power of two.
    #[error("the capacity of a ring is a power of two, not {capacity}")]
    Capacity {
        /// What was asked for.
        capacity: usize,
    },
    /// The slots are empty or do not hold whole 16-byte vectors.
    #[error("a slot holds a multiple of 16 bytes, at least 16, not {slot_bytes}")]
    SlotBytes {
        /// What was asked for.
        slot_bytes: usize,
    },
    /// A word or slot does not stand on the line that it needs.
    #[error("{what} at address {address:#x} must stand on {needed} bytes")]
    Misaligned {
        /// Which address.
        what: &'static str,
        /// Where it is.
        address: u64,
        /// The alignment it needs.
        needed: usize,
    },
}
