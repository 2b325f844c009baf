//! The automatic rule for GPUs. Every number that measurements will change stands here.

/// Lanes of the pool of two ranks, where blocks can be resident for them. With one peer a round moves
/// little, so it takes more lanes to fill the link. Origin: 4 x H200, 2026-11-21, bf16, 1 GiB, bus
/// bandwidth of 2 ranks with 32 lanes x 32 KiB 307, 36 x 48 KiB 332, 40 x 32 KiB 317 to 332, 44 x 32 KiB
/// 337 GB/s (`benches/record/h200-x4/2026-11-21-pools.txt`); 36 leave a sixth of the multiprocessors alone.
const LANES_MAX_PAIR: u32 = 36;
/// The same for more ranks. Origin: as above, 4 ranks, 32 lanes x 16 KiB 319, 28 x 24 KiB 336, 24 x 28 KiB
/// 329, 16 x 40 KiB 324; 3 ranks, 28 x 32 KiB 340. Beyond 4 ranks not measured.
const LANES_MAX: u32 = 28;
/// Slots a ring. Origin: credit is returned every second slot, so two can be in flight meanwhile. As
/// above, 8 slots of half the size were no faster.
pub(crate) const SLOTS: u32 = 4;
/// Payload bytes of a slot at most: what the best pair of ranks was measured with. More ranks get what the
/// memory budget leaves.
pub(crate) const PIECE_BYTES_MAX: u32 = 48 << 10;
/// A call gets a lane for so many bytes of each owner's share. Origin: pieces below 2 KiB never won
/// (8 x H200, 2026-11-20).
pub(crate) const LANE_BYTES_PER_RANK: u64 = 2 << 10;
/// Threads a block. Origin: what 16-byte stores were measured with (8 x H200, 2026-11-20).
pub(crate) const THREADS: u32 = 512;

/// Lanes of the pool.
pub(crate) fn lanes_max(ranks: u32) -> u32 {
    if ranks == 2 { LANES_MAX_PAIR } else { LANES_MAX }
}

/// Lanes of a call: never fewer for more bytes.
pub(crate) fn lanes(bytes: u64, ranks: u32) -> u32 {
    let wanted = bytes.div_ceil(u64::from(ranks) * LANE_BYTES_PER_RANK);
    wanted.clamp(1, lanes_max(ranks).into()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_for_every_2_kib_a_rank() {
        for ranks in 2..=8 {
            let step = u64::from(ranks) * 2048;
            let most = lanes_max(ranks);
            for lane in 1..=u64::from(most) {
                assert_eq!(u64::from(lanes(lane * step, ranks)), lane);
                assert_eq!(u64::from(lanes(lane * step - 1, ranks)), lane);
                assert_eq!(u64::from(lanes(lane * step + 1, ranks)), (lane + 1).min(most.into()));
            }
            assert_eq!((lanes(0, ranks), lanes(1, ranks), lanes(u64::MAX, ranks)), (1, 1, most));
        }
    }
}
