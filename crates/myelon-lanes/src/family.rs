//! The automatic choice of an algorithm on GPUs, and its lanes and threads. Every number that measurements will
//! change stands here.

use crate::algorithm::{Algorithm, Inbox};

/// Threads of a block that speak to the peers and move nothing.
pub(crate) const SPEAKERS: u32 = 32;
/// Lanes of an inbox.
const INBOX_LANES: u32 = 128;
/// Most memory of the flagged packets, and of the cells, from which their number follows: a power of two that fits. Over two
/// ranks cells are ahead of direct as far as they reach, so they have more.
const PACKETS_BYTES_MAX: u64 = 7 << 18;
const CELLS_BYTES_MAX: u64 = 7 << 19;
const CELLS_BYTES_PAIR_MAX: u64 = 4 << 20;

/// Lanes of a direct call at most. Origin: calls of 8 to 128 MiB leave the other multiprocessors alone; more lanes are
/// up to 5 % faster (`benches/record/h200-x4/2026-11-21-steps.csv`).
const DIRECT_LANES_MAX: u32 = 32;
/// The same of larger ones between two ranks, where more lanes are still faster: 256 MiB with 32, 64 and 128 lanes 812, 797 and 789
/// us, 1 GiB 3216, 3174 and 3144 (`benches/record/h200-x2/2026-11-28-variants.txt`).
const DIRECT_LANES_PAIR_MAX: u32 = 128;
/// Up to so many bytes a call leaves most multiprocessors to others.
const BUDGET_BYTES: u64 = 128 << 20;

/// What a call has, apart from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub lanes: u32,
    pub threads: u32,
}

/// Most memory of the cells.
fn cells_bytes_max(ranks: u32) -> u64 {
    if ranks == 2 { CELLS_BYTES_PAIR_MAX } else { CELLS_BYTES_MAX }
}

/// The inbox of a rank.
pub(crate) fn inbox(ranks: u32) -> Inbox {
    let peers = u64::from(ranks - 1);
    let most = |bytes: u64| ((bytes / (2 * peers * 16) + 1).next_power_of_two() / 2) as u32;
    Inbox { lanes: INBOX_LANES, packets: most(PACKETS_BYTES_MAX), cells: most(cells_bytes_max(ranks)) }
}

/// The algorithms that are taken, each with its largest payload, in ascending order. Origin: 4 x H200, 2026-11-21, bf16,
/// times in us, in graphs but for the ring, which was on a stream (`benches/record/h200-x4/2026-11-21-steps.txt`):
///
/// | ranks | payload | one-shot | two-shot | direct, at most 32 blocks | ring, all lanes |
/// |---|---|---|---|---|---|
/// | 4 | 64 KiB | 4.3 | 4.6 | 6.9 | 15 |
/// | 4 | 128 KiB | 5.5 | 4.9 | | |
/// | 4 | 256 KiB | | 6.0 | 7.7 | 16 |
/// | 4 | 16 MiB | | | 90 | 94 |
/// | 4 | 64 MiB | | | 327 | 323 |
/// | 2 | 256 KiB | 4.1 | | 6.7 | 14 |
/// | 2 | 64 MiB | | | 219 | 219 |
///
/// Cells, for floats, with 4 ranks (`2026-11-21-cells.txt` there): 64 KiB 3.7, 256 KiB 5.7 by one hop or two, 1 MiB 8.0. Above
/// 128 MiB the budget of 32 blocks ends, and the ring has more with 3 and 4 ranks. More than 4 ranks: not measured.
///
/// Two ranks, by cells and direct (`benches/record/h200-x2/2026-11-28-variants.txt`). One pass of all threads carries 960 KiB, and
/// the cells end at 2 MiB by two hops:
///
/// | payload | one hop | two hops | direct, 32 blocks | ring |
/// |---|---|---|---|---|
/// | 512 KiB | 3.93 | 4.37 | | |
/// | 896 KiB | 5.12 | 5.49 | | |
/// | 1 MiB | 6.80 | 6.02 | 8.18 | |
/// | 1.5 MiB | 8.19 | 7.86 | 9.70 | |
/// | 2 MiB | 10.8 | 9.77 | 11.2 | |
/// | 1 GiB | | | 3216, 128 blocks 3144 | 3183, in the slots that the cells leave |
fn bounds(ranks: u32, floats: bool) -> impl Iterator<Item = (Algorithm, u64)> {
    use Algorithm::{Direct, OneShot, OneShotLamport, TwoShot, TwoShotLamport};
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let wanted: &[(Algorithm, u64)] = match (floats, ranks) {
        (true, 2) => {
            &[(OneShot, 64 * KIB), (OneShotLamport, 960 * KIB), (TwoShotLamport, 2 * MIB), (Direct, u64::MAX)]
        }
        (true, 3 | 4) => {
            &[(OneShot, 32 * KIB), (OneShotLamport, 192 * KIB), (TwoShotLamport, MIB), (Direct, 128 * MIB)]
        }
        (true, _) => {
            &[(OneShot, 16 * KIB), (OneShotLamport, 64 * KIB), (TwoShotLamport, MIB), (Direct, 32 * MIB)]
        }
        (false, 2) => &[(OneShot, 256 * KIB), (Direct, u64::MAX)],
        (false, 3 | 4) => &[(OneShot, 64 * KIB), (TwoShot, 256 * KIB), (Direct, 128 * MIB)],
        (false, _) => &[(OneShot, 48 * KIB), (TwoShot, 256 * KIB), (Direct, 32 * MIB)],
    };
    let inbox = inbox(ranks);
    wanted.iter().map(move |&(algorithm, most)| (algorithm, most.min(algorithm.bytes_max(ranks, inbox))))
}

/// The largest payload for which `algorithm` is chosen; 0 where it never is.
pub(crate) fn bytes_max(algorithm: Algorithm, ranks: u32, floats: bool) -> u64 {
    if algorithm == Algorithm::Ring {
        return u64::MAX;
    }
    bounds(ranks, floats).find(|bound| bound.0 == algorithm).map_or(0, |bound| bound.1)
}

/// Which algorithm is the fastest for `bytes` bytes.
pub(crate) fn choose(ranks: u32, bytes: u64, floats: bool, windows: bool) -> Algorithm {
    let mut able = bounds(ranks, floats)
        .filter(|&(algorithm, most)| bytes <= most && (windows || algorithm != Algorithm::Direct));
    able.next().map_or(Algorithm::Ring, |(algorithm, _)| algorithm)
}

/// Lanes and threads of a call that is not the ring's.
pub(crate) fn shape(
    algorithm: Algorithm,
    ranks: u32,
    bytes: u64,
    blocks_max: u32,
    direct_threads_max: u32,
) -> Shape {
    let values = bytes.div_ceil(algorithm.unit_bytes());
    let (items, least, most, lanes_max) = match algorithm {
        Algorithm::OneShot | Algorithm::OneShotLamport => (values, 64, 480, INBOX_LANES),
        Algorithm::TwoShot | Algorithm::TwoShotLamport => {
            (values.div_ceil(ranks.into()), 64, 480, INBOX_LANES)
        }
        Algorithm::Direct | Algorithm::Ring | Algorithm::Neighbour => {
            let threads = u64::from(direct_threads_max.clamp(32, 512));
            let lanes_max =
                if ranks == 2 && bytes > BUDGET_BYTES { DIRECT_LANES_PAIR_MAX } else { DIRECT_LANES_MAX };
            (values.div_ceil(ranks.into()), threads, threads, lanes_max)
        }
    };
    let lanes_max = u64::from(lanes_max.min(blocks_max));
    // Never fewer lanes for more values.
    let lanes = items.div_ceil(least).clamp(1, lanes_max);
    // As few passes as there must be, of threads that all have something to do.
    let passes = items.div_ceil(lanes * most).max(1);
    let movers = items.div_ceil(lanes * passes).next_multiple_of(32).clamp(least, most);
    let speakers = if algorithm == Algorithm::Direct { 0 } else { SPEAKERS };
    Shape { lanes: lanes as u32, threads: movers as u32 + speakers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inboxes_are_the_largest_that_fit() {
        let inboxes: Vec<(u32, u32)> = (2..=8).map(inbox).map(|it| (it.packets, it.cells)).collect();
        let few = (8192, 16384);
        assert_eq!(inboxes, [(32768, 131072), (16384, 32768), (16384, 32768), few, few, few, few]);
        for ranks in 2..=8u64 {
            let Inbox { packets, cells, .. } = inbox(ranks as u32);
            for (room, most) in [(packets, PACKETS_BYTES_MAX), (cells, cells_bytes_max(ranks as u32))] {
                let bytes = 2 * (ranks - 1) * u64::from(room) * 16;
                assert!(bytes <= most && 2 * bytes > most, "{ranks} ranks");
            }
        }
    }

    /// Catches a bound beyond what the inbox can carry: such calls would be refused.
    #[test]
    fn what_is_chosen_can_carry_the_payload() {
        for ranks in 2..=8 {
            for log2 in 0..40 {
                for bytes in [(1 << log2) - 1, 1 << log2, (1 << log2) + 1] {
                    for (floats, windows) in [(false, false), (false, true), (true, false), (true, true)] {
                        let algorithm = choose(ranks, bytes, floats, windows);
                        assert!(bytes <= algorithm.bytes_max(ranks, inbox(ranks)), "{ranks} {bytes}");
                        assert!(windows || algorithm != Algorithm::Direct);
                        assert!(floats || !algorithm.needs_floats());
                    }
                }
            }
        }
    }

    /// Catches a bound that moves because an inbox does, and calls beyond the budget of blocks.
    #[test]
    fn two_ranks_change_where_they_were_measured() {
        use Algorithm::{Direct, OneShot, OneShotLamport, TwoShotLamport};
        let lanes = |algorithm, bytes, most| shape(algorithm, 2, bytes, most, 512).lanes;
        let bounds: [(u64, _, _); 3] = [
            (64 << 10, OneShot, OneShotLamport),
            (960 << 10, OneShotLamport, TwoShotLamport),
            (2 << 20, TwoShotLamport, Direct),
        ];
        for (bytes, below, above) in bounds {
            assert_eq!([choose(2, bytes, true, true), choose(2, bytes + 16, true, true)], [below, above]);
        }
        assert_eq!(choose(2, 1 << 40, true, true), Direct);
        assert_eq!([BUDGET_BYTES, BUDGET_BYTES + 16].map(|bytes| lanes(Direct, bytes, 132)), [32, 128]);
        assert_eq!(lanes(Direct, BUDGET_BYTES + 16, 24), 24);
    }

    #[test]
    fn every_shape_can_be_launched() {
        for algorithm in Algorithm::ALL.into_iter().filter(|it| !it.has_slots()) {
            for ranks in 2..=8 {
                for bytes in [0, 1, 8, 511, 512, 513, 65536, 1 << 20, 1 << 40] {
                    for blocks_max in [1, 3, 132] {
                        for most in [384, 512] {
                            let Shape { lanes, threads } = shape(algorithm, ranks, bytes, blocks_max, most);
                            assert!((1..=blocks_max).contains(&lanes) && lanes <= INBOX_LANES);
                            assert!(threads.is_multiple_of(32) && (64..=512).contains(&threads));
                            assert!(algorithm != Algorithm::Direct || threads == most);
                        }
                    }
                }
            }
        }
    }
}
