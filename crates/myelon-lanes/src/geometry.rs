//! The geometry of a call: payload to lanes, lanes to rounds, a round's chunk to pieces.
//!
//! `kernels/include/myelon/chunks.cuh` holds the same arithmetic.

use crate::error::{Bound, PlanError};

/// Bytes of the vector that everything is cut along, except at the very end of a payload.
pub const VECTOR_BYTES: u64 = 16;
/// The largest number of ranks: the GPUs of one NVLink node.
pub const RANKS_MAX: u32 = 8;
/// The largest payload that is accepted, 64 TiB: far beyond any GPU, and far from any overflow.
pub const BYTES_MAX: u64 = 1 << 46;

/// A run of bytes of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte, from the start of the payload.
    pub start: u64,
    /// Number of bytes; 0 for an empty span.
    pub bytes: u64,
}

impl Span {
    /// The byte after the last one.
    ///
    /// ```
    /// use myelon_lanes::Span;
    ///
    /// assert_eq!(Span { start: 32, bytes: 16 }.end(), 48);
    /// ```
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// Part `index` of `total` things split into `parts` as evenly as can be, as (start, length).
///
/// The first `total % parts` parts are one longer than the others. No intermediate value exceeds `total`.
///
/// # Panics
///
/// Where `index >= parts`.
///
/// # Example
///
/// ```
/// use myelon_lanes::split;
///
/// assert_eq!([split(10, 3, 0), split(10, 3, 1), split(10, 3, 2)], [(0, 4), (4, 3), (7, 3)]);
/// assert_eq!(split(1, 4, 3), (1, 0));
/// ```
pub fn split(total: u64, parts: u64, index: u64) -> (u64, u64) {
    assert!(index < parts, "part {index} of {parts}");
    let (each, longer) = (total / parts, total % parts);
    (index * each + index.min(longer), each + u64::from(index < longer))
}

/// Which of `parts` parts of `total` things, as [`split`] makes them, has thing `at`, and as its how-manieth.
fn part_of(total: u64, parts: u64, at: u64) -> (u64, u64) {
    let (each, longer) = (total / parts, total % parts);
    let in_longer = longer * (each + 1);
    match at.checked_sub(in_longer) {
        None => (at / (each + 1), at % (each + 1)),
        Some(behind) => (longer + behind / each, behind % each),
    }
}

/// The geometry of one call: which bytes belong to which lane, round and owner.
///
/// # Shapes and units
///
/// | name | is | split |
/// |---|---|---|
/// | payload | `bytes` bytes, `ceil(bytes / 16)` vectors | evenly over the lanes, in vectors |
/// | lane | a contiguous span | into rounds of `ranks * piece_bytes` bytes, the last one what is left |
/// | chunk | what a lane moves in one round | evenly over the owners, in vectors |
/// | piece | what one owner sums in one round | fits a slot: at most `piece_bytes` bytes |
///
/// # Guarantees
///
/// * **Cover.** The lanes tile the payload; the rounds tile a lane; the pieces tile a chunk; in order.
/// * **Balance.** Lanes differ by at most one vector, and so do the pieces of a chunk.
/// * **Alignment.** Every boundary is a multiple of 16, except the end of the payload. An empty span
///   behind the last vector starts at the end of the payload.
/// * **A round at least.** Lane 0 has a round even for 0 bytes; other lanes may have none.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Lanes, Span};
///
/// // 100 bytes are 7 vectors: 4 in lane 0 and 3 in lane 1.
/// let lanes = Lanes::new(100, 2, 2, 16)?;
/// assert_eq!(lanes.lane(0), Span { start: 0, bytes: 64 });
/// assert_eq!(lanes.lane(1), Span { start: 64, bytes: 36 });
/// // A round of 2 ranks carries 2 vectors, so lane 1 takes two rounds.
/// assert_eq!(lanes.rounds(1), 2);
/// assert_eq!(lanes.chunk(1, 1), Span { start: 96, bytes: 4 });
/// assert_eq!(lanes.piece(1, 1, 0), Span { start: 96, bytes: 4 });
/// assert_eq!(lanes.piece(1, 1, 1), Span { start: 100, bytes: 0 });
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    bytes: u64,
    ranks: u32,
    lanes: u32,
    piece_bytes: u32,
}

impl Lanes {
    /// The geometry of a payload of `bytes` bytes over `ranks` ranks and `lanes` lanes, with at most
    /// `piece_bytes` bytes a slot.
    ///
    /// # Errors
    ///
    /// [`PlanError::Value`] unless `bytes <= 2^46`, `ranks` is in `2..=8`, `lanes >= 1`, and
    /// `piece_bytes` is a positive multiple of 16.
    pub fn new(bytes: u64, ranks: u32, lanes: u32, piece_bytes: u32) -> Result<Self, PlanError> {
        Bound::number("bytes", bytes, 0, BYTES_MAX).check()?;
        ranks_bound(ranks).check()?;
        Bound::number("lanes", lanes.into(), 1, u32::MAX.into()).check()?;
        check_piece_bytes(piece_bytes, u32::MAX)?;
        Ok(Self { bytes, ranks, lanes, piece_bytes })
    }

    /// Bytes of the payload.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of ranks, and of pieces in a chunk.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Bytes of a piece at most.
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// The bytes of `lane`.
    ///
    /// # Panics
    ///
    /// Where there is no such lane.
    pub fn lane(&self, lane: u32) -> Span {
        let (start, vectors) = self.lane_vectors(lane);
        self.span(start, vectors)
    }

    /// Rounds that `lane` takes: at least 1 for lane 0, else 0 for an empty lane.
    ///
    /// # Panics
    ///
    /// Where there is no such lane.
    pub fn rounds(&self, lane: u32) -> u64 {
        let (_, vectors) = self.lane_vectors(lane);
        vectors.div_ceil(self.chunk_vectors()).max(u64::from(lane == 0))
    }

    /// The bytes that `lane` moves in `round`; empty only in the one round of an empty payload.
    ///
    /// # Panics
    ///
    /// Where there is no such lane or round.
    pub fn chunk(&self, lane: u32, round: u64) -> Span {
        let (start, vectors) = self.round_vectors(lane, round);
        self.span(start, vectors)
    }

    /// The bytes that rank `owner` sums for `lane` in `round`; may be empty.
    ///
    /// # Panics
    ///
    /// Where there is no such lane, round or owner.
    pub fn piece(&self, lane: u32, round: u64, owner: u32) -> Span {
        let (start, vectors) = self.round_vectors(lane, round);
        let (offset, vectors) = split(vectors, self.ranks.into(), owner.into());
        self.span(start + offset, vectors)
    }

    /// Whose piece holds byte `at`, and where that piece ends.
    ///
    /// # Panics
    ///
    /// Where the payload has no such byte.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_lanes::Lanes;
    ///
    /// let lanes = Lanes::new(100, 2, 2, 16)?;
    /// assert_eq!([0, 15, 16, 99].map(|at| lanes.owner_at(at)), [(0, 16), (0, 16), (1, 32), (0, 100)]);
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    pub fn owner_at(&self, at: u64) -> (u32, u64) {
        assert!(at < self.bytes, "byte {at} of {}", self.bytes);
        let vector = at / VECTOR_BYTES;
        let (lane, within) = part_of(self.bytes.div_ceil(VECTOR_BYTES), self.lanes.into(), vector);
        let round = within / self.chunk_vectors();
        let (start, vectors) = self.round_vectors(lane as u32, round);
        let (owner, _) = part_of(vectors, self.ranks.into(), vector - start);
        (owner as u32, self.piece(lane as u32, round, owner as u32).end())
    }

    fn chunk_vectors(&self) -> u64 {
        u64::from(self.ranks) * (u64::from(self.piece_bytes) / VECTOR_BYTES)
    }

    fn lane_vectors(&self, lane: u32) -> (u64, u64) {
        split(self.bytes.div_ceil(VECTOR_BYTES), self.lanes.into(), lane.into())
    }

    fn round_vectors(&self, lane: u32, round: u64) -> (u64, u64) {
        let rounds = self.rounds(lane);
        assert!(round < rounds, "round {round} of {rounds} in lane {lane}");
        let (start, vectors) = self.lane_vectors(lane);
        let done = round * self.chunk_vectors();
        (start + done, (vectors - done).min(self.chunk_vectors()))
    }

    /// Vectors to bytes, clipped to the payload.
    fn span(&self, start: u64, vectors: u64) -> Span {
        let clip = |vector: u64| (vector * VECTOR_BYTES).min(self.bytes);
        Span { start: clip(start), bytes: clip(start + vectors) - clip(start) }
    }
}

pub(crate) fn ranks_bound(ranks: u32) -> Bound {
    Bound::number("ranks", ranks.into(), 2, RANKS_MAX.into())
}

/// `most` is 2^32 - 1 for a geometry, which holds for any piece, and less for what a slot may be.
pub(crate) fn check_piece_bytes(piece_bytes: u32, most: u32) -> Result<(), Bound> {
    let value = piece_bytes.into();
    Bound { name: "slot-bytes", value, rule: "a multiple of 16", least: VECTOR_BYTES, most: most.into() }
        .check_and(u64::from(piece_bytes).is_multiple_of(VECTOR_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_shapes_are_refused_by_name() {
        let refusal =
            |bytes, ranks, lanes, piece| Lanes::new(bytes, ranks, lanes, piece).unwrap_err().to_string();
        assert_eq!(refusal(0, 1, 1, 16), "ranks is 1, needed a number from 2 to 8");
        assert_eq!(refusal(0, 9, 1, 16), "ranks is 9, needed a number from 2 to 8");
        assert_eq!(refusal(0, 2, 0, 16), "lanes is 0, needed a number from 1 to 4294967295");
        assert_eq!(refusal(0, 2, 1, 0), "slot-bytes is 0, needed a multiple of 16 from 16 to 4294967295");
        assert_eq!(refusal(0, 2, 1, 24), "slot-bytes is 24, needed a multiple of 16 from 16 to 4294967295");
        assert!(refusal(BYTES_MAX + 1, 2, 1, 16).starts_with("bytes is 70368744177665, needed"));
        assert!(Lanes::new(BYTES_MAX, 2, 1, 16).is_ok());
    }

    #[test]
    fn an_empty_payload_has_one_empty_round_in_lane_0() {
        let lanes = Lanes::new(0, 8, 3, 8 << 10).unwrap();
        assert_eq!([lanes.rounds(0), lanes.rounds(1), lanes.rounds(2)], [1, 0, 0]);
        assert_eq!(lanes.chunk(0, 0), Span::default());
        assert_eq!(lanes.piece(0, 0, 7), Span::default());
    }

    #[test]
    fn one_byte_is_the_first_piece_of_the_first_lane() {
        let lanes = Lanes::new(1, 8, 3, 8 << 10).unwrap();
        assert_eq!(lanes.lane(0), Span { start: 0, bytes: 1 });
        assert_eq!(lanes.lane(2), Span { start: 1, bytes: 0 });
        assert_eq!(lanes.piece(0, 0, 0), Span { start: 0, bytes: 1 });
        assert_eq!(lanes.piece(0, 0, 1), Span { start: 1, bytes: 0 });
    }

    #[test]
    fn owners_are_found_by_what_they_own() {
        for (bytes, ranks, lanes, piece) in
            [(1, 8, 3, 16), (5000, 3, 2, 48), (4097, 8, 5, 16), (640, 2, 64, 32)]
        {
            let lanes = Lanes::new(bytes, ranks, lanes, piece).unwrap();
            for (lane, owner) in
                (0..lanes.lanes()).flat_map(|lane| (0..ranks).map(move |owner| (lane, owner)))
            {
                for piece in (0..lanes.rounds(lane)).map(|round| lanes.piece(lane, round, owner)) {
                    let owners = (piece.start..piece.end()).map(|at| lanes.owner_at(at));
                    assert!(owners.into_iter().all(|found| found == (owner, piece.end())), "{lanes:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "round 1 of 1 in lane 0")]
    fn a_round_too_many_panics() {
        Lanes::new(1, 2, 1, 16).unwrap().chunk(0, 1);
    }

    #[test]
    #[should_panic(expected = "part 2 of 2")]
    fn an_owner_too_many_panics() {
        Lanes::new(1, 2, 1, 16).unwrap().piece(0, 0, 2);
    }
}
