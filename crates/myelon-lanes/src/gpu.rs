//! The automatic rule for GPUs. Every number that measurements will change stands here.

/// Lanes of the pool, where blocks can be resident for them. Origin: 3 blocks a lane make 96 of an
/// H200's 132; first guess, to be tuned.
pub(crate) const LANES_MAX: u32 = 32;
/// Slots a ring. Origin: credit is returned every second slot, so two can be in flight meanwhile;
/// first guess, to be tuned.
pub(crate) const SLOTS: u32 = 4;
/// Payload bytes of a slot at most. Origin: the best bulk chunk is 32 KiB to one neighbour and 8-16 KiB
/// to all peers (8 x H200, 2026-11-20); the memory budget gives just these for 2, 3-4 and 5-8 ranks.
pub(crate) const PIECE_BYTES_MAX: u32 = 32 << 10;
/// A call gets a lane for so many bytes of each owner's share. Origin: pieces below 2 KiB never won
/// (8 x H200, 2026-11-20).
pub(crate) const LANE_BYTES_PER_RANK: u64 = 2 << 10;
/// Threads a block. Origin: what 16-byte stores were measured with (8 x H200, 2026-11-20).
pub(crate) const THREADS: u32 = 512;

/// Lanes of a call: never fewer for more bytes.
pub(crate) fn lanes(bytes: u64, ranks: u32) -> u32 {
    let wanted = bytes.div_ceil(u64::from(ranks) * LANE_BYTES_PER_RANK);
    wanted.clamp(1, LANES_MAX.into()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_for_every_2_kib_a_rank() {
        for ranks in 2..=8 {
            let step = u64::from(ranks) * 2048;
            for lane in 1..=u64::from(LANES_MAX) {
                assert_eq!(u64::from(lanes(lane * step, ranks)), lane);
                assert_eq!(u64::from(lanes(lane * step - 1, ranks)), lane);
                assert_eq!(u64::from(lanes(lane * step + 1, ranks)), (lane + 1).min(32));
            }
            assert_eq!((lanes(0, ranks), lanes(1, ranks), lanes(u64::MAX, ranks)), (1, 1, 32));
        }
    }
}
