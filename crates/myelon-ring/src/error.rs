//! What a ring refuses, and why a wait ended without a slot.

use std::time::Duration;

use crate::words::Movement;

/// A ring, a window or an end of a ring that cannot be made. Nothing has been allocated or written.
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
    /// The memory could not be had.
    #[error("no memory for {bytes} bytes")]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
    /// Credit can be returned in batches of 1 to the capacity; a larger one would never be returned.
    #[error("credit is returned in batches of 1 to {capacity} slots, not {credit_batch}")]
    CreditBatch {
        /// What was asked for.
        credit_batch: usize,
        /// Slots of the ring.
        capacity: usize,
    },
    /// No inbox has that shape.
    #[error(
        "an inbox has lanes for its packets and cells, and an even number of each below 2^31, not {lanes} lanes, {packets} packets and {cells} cells"
    )]
    Inbox {
        /// Lanes that were asked for.
        lanes: usize,
        /// Packets of payload from each peer.
        packets: usize,
        /// Cells of payload from each peer.
        cells: usize,
    },
    /// No rings between neighbours have that shape.
    #[error(
        "rings between neighbours have lanes, a power of two of at least 2 slots, and a multiple of 16 bytes in each, not {lanes} lanes of {capacity} slots of {piece_bytes} bytes"
    )]
    Neighbours {
        /// Lanes that were asked for.
        lanes: usize,
        /// Slots a ring.
        capacity: usize,
        /// Payload bytes of a slot.
        piece_bytes: usize,
    },
    /// The windows hold no such ring.
    #[error(
        "no ring in lane {lane} from rank {source_rank} to rank {destination} of {lanes} lanes and {ranks} ranks"
    )]
    NoRing {
        /// The lane asked for.
        lane: usize,
        /// The producer's rank.
        source_rank: usize,
        /// The consumer's rank.
        destination: usize,
        /// Lanes that there are.
        lanes: usize,
        /// Ranks that there are.
        ranks: usize,
    },
    /// The end belongs to a rank of another process.
    #[error("the end belongs to rank {rank}, which is another process")]
    Elsewhere {
        /// Whose end it is.
        rank: usize,
    },
    /// Each end of a ring is handed out once.
    #[error(
        "the {end} of the {movement:?} ring in lane {lane} from rank {source_rank} to rank {destination} is taken"
    )]
    Taken {
        /// `"producer"` or `"consumer"`.
        end: &'static str,
        /// The movement asked for.
        movement: Movement,
        /// The lane asked for.
        lane: usize,
        /// The producer's rank.
        source_rank: usize,
        /// The consumer's rank.
        destination: usize,
    },
}

/// Which counter an end of a ring looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A slot's sequence word: the consumer waits for it.
    Sequence,
    /// The ring's gating word: the producer waits for it.
    Gating,
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Counter::Sequence => "sequence",
            Counter::Gating => "gating",
        })
    }
}

/// Why there is no slot. Nothing has been published, no credit returned, and the end stands where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The deadline passed. The other end is late, stopped or gone; asking again is allowed.
    #[error("waited {} us: needed {counter} {needed}, saw {seen}", waited.as_micros())]
    Stalled {
        /// What was waited for.
        counter: Counter,
        /// The value that was needed.
        needed: u64,
        /// The value seen last.
        seen: u64,
        /// How long the wait took.
        waited: Duration,
    },
    /// A counter is further than the other end can have come: memory was overwritten, or there are
    /// two ends where one may be. The ring cannot be used any more.
    #[error("protocol fault: {counter} shows {seen}, beyond {allowed}")]
    Beyond {
        /// Which counter.
        counter: Counter,
        /// The furthest that it may show.
        allowed: u64,
        /// What it shows.
        seen: u64,
    },
}
