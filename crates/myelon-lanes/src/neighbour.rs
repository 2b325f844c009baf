//! The rule for calls by neighbours. Every number that measurements will change stands here; none of them has been
//! measured with this algorithm yet.

use crate::gpu::LANE_BYTES_PER_RANK;
use crate::plan::Neighbours;

/// Ranks from which it can be asked for: with 2 every rank has one partner by any algorithm.
pub(crate) const RANKS_MIN: u32 = 3;
/// Lanes, each a block. Origin: 64 blocks x 512 threads of 16-byte stores carry 361 GB/s to a neighbour, 16 carry 343
/// and 132 carry 365 (8 x H200, 2026-11-20).
const LANES_MAX: u32 = 64;
/// Slots a ring, of which half take turns. Origin: first guess, as the ring's.
const SLOTS: u32 = 4;
/// Payload bytes of a slot: four vectors for each of the 480 threads that move. Origin: first guess.
const PIECE_BYTES_MAX: u32 = 480 * 4 * 16;
/// Smaller pieces are not made to even out rounds. Origin: as the ring's lanes.
const PIECE_BYTES_LEAST: u64 = 2 << 10;

/// The rings, of which no call has more lanes than blocks can be resident.
pub(crate) fn rings(blocks_max: u32) -> Neighbours {
    Neighbours { lanes: LANES_MAX.min(blocks_max), slots: SLOTS, piece_bytes: PIECE_BYTES_MAX }
}

/// Lanes of a call: never fewer for more bytes.
pub(crate) fn lanes(bytes: u64, ranks: u32, most: u32) -> u32 {
    bytes.div_ceil(u64::from(ranks) * LANE_BYTES_PER_RANK).clamp(1, most.into()) as u32
}

/// Payload bytes of a slot, at most those of `rings`: such that all rounds of a lane are alike, and as many as take turns or
/// a multiple of that.
pub(crate) fn piece_bytes(bytes: u64, ranks: u32, lanes: u32, rings: &Neighbours) -> u32 {
    let share = bytes.div_ceil(16).div_ceil(lanes.into()).div_ceil(ranks.into()) * 16;
    let most = u64::from(rings.piece_bytes);
    let rounds = share.div_ceil(most).next_multiple_of((rings.slots / 2).into());
    let even = share.div_ceil(rounds.max(1)).next_multiple_of(16);
    even.max(PIECE_BYTES_LEAST).min(most) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_alike_and_fill_the_turns() {
        let rings = rings(132);
        for ranks in 3..=8 {
            for log2 in 10..=34 {
                for bytes in [(1u64 << log2) - 16, 1 << log2, (1 << log2) + 16] {
                    let lanes = lanes(bytes, ranks, rings.lanes);
                    let piece = piece_bytes(bytes, ranks, lanes, &rings);
                    assert!(piece.is_multiple_of(16) && piece <= rings.piece_bytes);
                    let share = bytes.div_ceil(16).div_ceil(lanes.into()).div_ceil(ranks.into()) * 16;
                    let rounds = share.div_ceil(piece.into());
                    assert!(
                        // Whole vectors: of hundreds of rounds one may be saved.
                        rounds.is_multiple_of(2) || u64::from(piece) == PIECE_BYTES_LEAST || rounds > 100,
                        "{ranks} ranks, {bytes} bytes: {rounds} rounds of {piece}"
                    );
                }
            }
        }
    }
}
