//! A plan, and the memory that plans need.

use std::fmt;

use crate::algorithm::{Algorithm, Inbox};
use crate::error::{Bound, PlanError};
use crate::family;
use crate::geometry::{Lanes, VECTOR_BYTES, check_piece_bytes, ranks_bound};
use crate::settings::{LANES_MAX, PIECE_BYTES_MAX, SLOTS_MAX, format_bytes};

/// Roles of a lane, each a block on a GPU: scatter, reduce, gather.
pub(crate) const ROLES: u32 = 3;
/// Movements of an all-reduce, each with rings of its own: scatter and gather.
const MOVEMENTS: u64 = 2;
/// Bytes of the line that slots start on, and of a slot's trailer.
const LINE: u64 = 128;

/// What will be launched for one call.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Machine, Request, Tuning};
///
/// let tuning = Tuning::new(Machine::host(4));
/// let plan = tuning.plan(&Request { ranks: 4, bytes: 4096, element_bytes: 4, floats: true })?.plan;
/// assert_eq!(plan.to_string(), "ring lanes=1 blocks=3 threads=1 slot=64KiB slots=4");
/// assert_eq!(plan.workers(), 1);
/// assert!(plan.check().is_ok());
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the call is made of.
    pub algorithm: Algorithm,
    /// Number of ranks, `2..=8`.
    pub ranks: u32,
    /// Lanes that the payload is split over.
    pub lanes: u32,
    /// Blocks of the launch: of the ring three (one a role) for each worker, else one for each lane.
    pub blocks: u32,
    /// Threads a block.
    pub threads: u32,
    /// Payload bytes of a slot at most, a multiple of 16. Only the ring and neighbours have slots.
    pub piece_bytes: u32,
    /// Slots a ring, a power of two.
    pub slots: u32,
    /// Slots after which credit is returned, at most `slots`.
    pub credit_batch: u32,
}

impl Plan {
    /// Bits of [`Plan::word`].
    pub const WORD_BITS: u32 = 14;

    /// Blocks a role of the ring. Block `b` of a role serves the lanes `b`, `b + workers`, `b + 2 * workers`, ...
    pub fn workers(&self) -> u32 {
        self.blocks / ROLES
    }

    /// The geometry of a call of `bytes` bytes under this plan.
    ///
    /// # Errors
    ///
    /// Those of [`Lanes::new`].
    pub fn geometry(&self, bytes: u64) -> Result<Lanes, PlanError> {
        Lanes::new(bytes, self.ranks, self.lanes, self.piece_bytes)
    }

    /// The least pool that this plan fits.
    pub fn pool(&self) -> Pool {
        let Self { lanes, slots, piece_bytes, .. } = *self;
        match self.algorithm {
            Algorithm::Ring => Pool { lanes, ..Pool::without_lanes(slots, piece_bytes) },
            Algorithm::Neighbour => {
                let neighbours = Neighbours { lanes, slots, piece_bytes };
                Pool { neighbours, ..Pool::without_lanes(slots, piece_bytes) }
            }
            _ => Pool { inbox: family::inbox(self.ranks), ..Pool::without_lanes(slots, piece_bytes) },
        }
    }

    /// Bytes of a rank's window if it were laid out for this plan alone; a communicator allocates the
    /// [`Pool`] that fits all of its plans.
    pub fn footprint(&self) -> u64 {
        self.pool().window_bytes(self.ranks)
    }

    /// Payload bytes that one rank's rings can hold at once under this plan, all movements together.
    pub fn in_flight_bytes(&self) -> u64 {
        let rings = match self.algorithm {
            Algorithm::Neighbour => 1,
            _ => MOVEMENTS.saturating_mul(u64::from(self.ranks.saturating_sub(1))),
        };
        rings
            .saturating_mul(self.lanes.into())
            .saturating_mul(self.slots.into())
            .saturating_mul(self.piece_bytes.into())
    }

    /// A checksum of what ranks must agree on besides the payload: algorithm, lanes, slots, slot bytes, ranks.
    ///
    /// It goes into the call word that each slot and each header carries. It is a weighted sum modulo the largest
    /// prime below 2^14, so two plans of up to 16,380 lanes that differ in **one** of these always differ here, except where slot bytes differ by a multiple of 262,096. Plans that differ in several
    /// agree by chance once in 16,381.
    ///
    /// ```
    /// use myelon_lanes::{Machine, Plan, Request, Tuning};
    ///
    /// let tuning = Tuning::new(Machine::h200());
    /// let plan = tuning.plan(&Request { ranks: 2, bytes: 1 << 20, element_bytes: 4, floats: true })?.plan;
    /// assert!(plan.word() < 1 << Plan::WORD_BITS);
    /// assert_ne!(plan.word(), Plan { lanes: plan.lanes + 1, ..plan }.word());
    /// assert_eq!(plan.word(), Plan { threads: 64, ..plan }.word()); // no business of other ranks
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    pub fn word(&self) -> u32 {
        const PRIME: u64 = 16_381;
        let weighted = u64::from(self.lanes)
            + u64::from(self.piece_bytes) / VECTOR_BYTES * 3_571
            + u64::from(self.slots) * 9_973
            + u64::from(self.ranks) * 12_289
            + self.algorithm as u64 * 5_003;
        (weighted % PRIME) as u32
    }

    /// Refuses a plan that no kernel can run. Every plan of a [`crate::Tuning`] passes.
    ///
    /// # Errors
    ///
    /// [`PlanError::Value`] with the number that is out of its bounds.
    pub fn check(&self) -> Result<(), PlanError> {
        ranks_bound(self.ranks).check()?;
        Bound::number("lanes", self.lanes.into(), 1, LANES_MAX.into()).check()?;
        check_piece_bytes(self.piece_bytes, PIECE_BYTES_MAX)?;
        let (value, most) = (self.slots.into(), SLOTS_MAX.into());
        let least = if self.algorithm == Algorithm::Neighbour { 2 } else { 1 };
        Bound { name: "slots", value, rule: "a power of two", least, most }
            .check_and(self.slots.is_power_of_two())?;
        let value = self.blocks.into();
        if self.algorithm == Algorithm::Ring {
            let most = (ROLES * self.lanes).into();
            Bound { name: "blocks", value, rule: "a multiple of 3", least: ROLES.into(), most }
                .check_and(self.blocks.is_multiple_of(ROLES))?;
        } else {
            Bound::number("blocks", value, self.lanes.into(), self.lanes.into()).check()?;
        }
        Bound::number("threads", self.threads.into(), 1, 1024).check()?;
        Bound::number("credit batch", self.credit_batch.into(), 1, self.slots.into()).check()?;
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, lanes, blocks, threads, slots, .. } = self;
        if !algorithm.has_slots() {
            return write!(f, "{algorithm} lanes={lanes} blocks={blocks} threads={threads}");
        }
        let slot = format_bytes(self.piece_bytes.into());
        write!(f, "{algorithm} lanes={lanes} blocks={blocks} threads={threads} slot={slot} slots={slots}")
    }
}

/// What a communicator allocates once: rings for `lanes` lanes, that every plan of its tuning fits.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Machine, Tuning};
///
/// let pool = Tuning::new(Machine::h200()).pool(8)?;
/// assert_eq!(pool.to_string(), "lanes=28 slot=6KiB slots=4, 8192 packets, 16384 cells");
/// assert!(pool.window_bytes(8) <= 16 << 20);
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Lanes that have rings.
    pub lanes: u32,
    /// Slots a ring: counters carry over from call to call, so every plan has as many.
    pub slots: u32,
    /// Payload bytes that a slot can hold.
    pub piece_bytes: u32,
    /// Room for packets.
    pub inbox: Inbox,
    /// Rings between neighbours.
    pub neighbours: Neighbours,
}

/// Rings between neighbours: in each lane one from every rank to the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Lanes that have rings; 0 where there are none.
    pub lanes: u32,
    /// Slots a ring.
    pub slots: u32,
    /// Payload bytes that a slot can hold.
    pub piece_bytes: u32,
}

impl Neighbours {
    /// No such rings.
    pub const NONE: Self = Self { lanes: 0, slots: 0, piece_bytes: 0 };

    fn holds(&self, other: &Self) -> bool {
        let is_within = other.lanes <= self.lanes && other.piece_bytes <= self.piece_bytes;
        other.lanes == 0 || is_within && other.slots == self.slots
    }
}

impl Pool {
    /// A pool that has nothing but the shape of its slots.
    fn without_lanes(slots: u32, piece_bytes: u32) -> Self {
        Self { lanes: 0, slots, piece_bytes, inbox: Inbox::NONE, neighbours: Neighbours::NONE }
    }

    /// Whether `plan` can run in this window.
    pub fn fits(&self, plan: &Plan) -> bool {
        if plan.algorithm == Algorithm::Neighbour {
            let Plan { lanes, slots, piece_bytes, .. } = *plan;
            return self.neighbours.holds(&Neighbours { lanes, slots, piece_bytes });
        }
        if plan.algorithm != Algorithm::Ring {
            return plan.lanes <= self.inbox.lanes;
        }
        plan.lanes <= self.lanes && plan.slots == self.slots && plan.piece_bytes <= self.piece_bytes
    }

    /// Whether every plan of a tuning with the pool `other` can run in this window.
    ///
    /// ```
    /// use myelon_lanes::{Inbox, Machine, Pool, Tuning};
    ///
    /// let pool = Tuning::new(Machine::h200()).pool(4)?;
    /// assert!(pool.holds(&pool) && pool.holds(&Pool { lanes: 1, inbox: Inbox::NONE, ..pool }));
    /// assert!(!pool.holds(&Pool { slots: 2 * pool.slots, ..pool }));
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    pub fn holds(&self, other: &Self) -> bool {
        let Self { lanes, slots, piece_bytes, inbox, neighbours } = *other;
        let has_inbox = inbox == Inbox::NONE || inbox == self.inbox;
        let has_rings = lanes <= self.lanes && slots == self.slots && piece_bytes <= self.piece_bytes;
        has_rings && has_inbox && self.neighbours.holds(&neighbours)
    }

    /// Bytes of one rank's window: the slots, and the words that guard them.
    ///
    /// | part | bytes |
    /// |---|---|
    /// | abort word | 128 |
    /// | cursors | 8 for each of 3 roles and each lane, rounded up to 128 |
    /// | epochs | 8 for each lane of the inbox, rounded up to 128 |
    /// | gating | 128 for each of `2 * (ranks - 1) * lanes` rings |
    /// | sequence | 8 a slot, rounded up to 128 a ring |
    /// | inbox | 16 for each of `2 * (ranks - 1) * (4 * lanes + packets)` packets, rounded up to 128 |
    /// | cells | 16 for each of `2 * (ranks - 1) * cells` cells, rounded up to 128 |
    /// | slots | the payload rounded up to 128, and 128 for the trailer, each |
    /// | neighbours | cursors, gating, sequence and slots likewise, of one ring a lane |
    ///
    /// The layout itself is `WindowLayout` of `myelon-ring`, which this crate does not know; a test
    /// compares the two. Saturates where the numbers are absurd.
    pub fn window_bytes(&self, ranks: u32) -> u64 {
        let line = u128::from(LINE);
        let rings = |lanes: u32, slots: u32, piece_bytes: u32, roles: u32, rings_a_lane: u128| {
            let [lanes, slots, piece] = [lanes, slots, piece_bytes].map(u128::from);
            let cursors = (u128::from(roles) * lanes * 8).next_multiple_of(line);
            let slots_bytes = slots * (piece.next_multiple_of(line) + line);
            let ring = line + (slots * 8).next_multiple_of(line) + slots_bytes;
            cursors.saturating_add((rings_a_lane * lanes).saturating_mul(ring))
        };
        let pairs = u128::from(MOVEMENTS) * u128::from(ranks.saturating_sub(1));
        let of_pairs = rings(self.lanes, self.slots, self.piece_bytes, ROLES, pairs);
        let Neighbours { lanes, slots, piece_bytes } = self.neighbours;
        let of_neighbours = rings(lanes, slots, piece_bytes, 1, 1);
        let inbox = u128::from(self.inbox.bytes(ranks));
        let all = (line + inbox).saturating_add(of_pairs).saturating_add(of_neighbours);
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = format_bytes(self.piece_bytes.into());
        write!(f, "lanes={} slot={slot} slots={}", self.lanes, self.slots)?;
        let Inbox { packets, cells, .. } = self.inbox;
        if self.inbox != Inbox::NONE {
            write!(f, ", {packets} packets, {cells} cells")?;
        }
        let Neighbours { lanes, slots, piece_bytes } = self.neighbours;
        if lanes == 0 {
            return Ok(());
        }
        write!(f, ", neighbours lanes={lanes} slot={} slots={slots}", format_bytes(piece_bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        algorithm: Algorithm::Ring,
        ranks: 8,
        lanes: 32,
        blocks: 96,
        threads: 512,
        piece_bytes: 8 << 10,
        slots: 4,
        credit_batch: 2,
    };

    /// Catches a part of the window left out or rounded otherwise than written in the table.
    #[test]
    fn the_window_is_the_sum_of_its_parts() {
        let rings = 2 * 7 * 32;
        let words = 128 + 3 * 32 * 8 + rings * (128 + 128);
        assert_eq!(PLAN.footprint(), words + rings * 4 * (8192 + 128));
        let odd = Pool { lanes: 1, ..Pool::without_lanes(32, 48) };
        assert_eq!(odd.window_bytes(2), 128 + 128 + 2 * (128 + 256 + 32 * (128 + 128)));
        let neighbours = Neighbours { lanes: 17, slots: 4, piece_bytes: 4096 };
        let more = Pool { neighbours, ..odd }.window_bytes(2) - odd.window_bytes(2);
        assert_eq!(more, 256 + 17 * (128 + 128 + 4 * (4096 + 128)));
        let most = u32::MAX;
        let neighbours = Neighbours { lanes: most, slots: most, piece_bytes: most };
        let absurd = Pool { lanes: most, neighbours, ..Pool::without_lanes(most, most) };
        assert_eq!(absurd.window_bytes(u32::MAX), u64::MAX);
    }

    #[test]
    fn a_plan_fits_its_own_pool_and_none_that_is_smaller_or_has_other_slots() {
        let pool = PLAN.pool();
        assert!(pool.fits(&PLAN));
        for plan in [
            Plan { lanes: 33, ..PLAN },
            Plan { piece_bytes: PLAN.piece_bytes + 16, ..PLAN },
            Plan { slots: 2, ..PLAN },
            Plan { slots: 8, ..PLAN },
        ] {
            assert!(!pool.fits(&plan), "{plan}");
        }
        assert!(pool.fits(&Plan { lanes: 1, piece_bytes: 16, ..PLAN }));
    }

    #[test]
    fn each_field_out_of_bounds_is_refused() {
        assert_eq!(PLAN.check(), Ok(()));
        assert_eq!(Plan { algorithm: Algorithm::Direct, blocks: 32, ..PLAN }.check(), Ok(()));
        for (plan, seen) in [
            (Plan { algorithm: Algorithm::OneShot, ..PLAN }, "blocks is 96, needed a number from 32 to 32"),
            (Plan { ranks: 1, ..PLAN }, "ranks is 1,"),
            (Plan { lanes: 0, ..PLAN }, "lanes is 0,"),
            (Plan { lanes: 31, ..PLAN }, "blocks is 96, needed a multiple of 3 from 3 to 93"),
            (Plan { blocks: 95, ..PLAN }, "blocks is 95,"),
            (Plan { blocks: 0, ..PLAN }, "blocks is 0,"),
            (Plan { threads: 0, ..PLAN }, "threads is 0,"),
            (Plan { piece_bytes: 8, ..PLAN }, "slot-bytes is 8,"),
            (Plan { slots: 5, ..PLAN }, "slots is 5,"),
            (Plan { credit_batch: 0, ..PLAN }, "credit batch is 0,"),
            (Plan { credit_batch: 5, ..PLAN }, "credit batch is 5, needed a number from 1 to 4"),
        ] {
            let error = plan.check().unwrap_err().to_string();
            assert!(error.starts_with(seen), "{error}");
        }
    }

    /// The promise of [`Plan::word`], for every value that a plan can have in one field.
    #[test]
    fn plans_that_differ_in_one_field_differ_in_their_word() {
        let all_differ = |plans: Vec<Plan>| {
            let mut words: Vec<u32> = plans.iter().map(Plan::word).collect();
            assert!(words.iter().all(|&word| word < 1 << Plan::WORD_BITS));
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), plans.len());
        };
        all_differ((1..=LANES_MAX).map(|lanes| Plan { lanes, ..PLAN }).collect());
        all_differ(Algorithm::ALL.map(|algorithm| Plan { algorithm, ..PLAN }).to_vec());
        all_differ((2..=8).map(|ranks| Plan { ranks, ..PLAN }).collect());
        all_differ((0..=10).map(|log2| Plan { slots: 1 << log2, ..PLAN }).collect());
        all_differ((4..=24).map(|log2| Plan { piece_bytes: 1 << log2, ..PLAN }).collect());
        all_differ((1..=16_381).map(|vectors| Plan { piece_bytes: 16 * vectors, ..PLAN }).collect());
    }
}
