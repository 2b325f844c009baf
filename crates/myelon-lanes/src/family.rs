//! The automatic choice of an algorithm on GPUs, and its lanes and threads. Every number that measurements will
//! change stands here.

use crate::algorithm::{Algorithm, Inbox, PACKET_PAYLOAD_BYTES};
use crate::geometry::VECTOR_BYTES;

/// Threads of a block that speak to the peers and move nothing.
pub(crate) const SPEAKERS: u32 = 32;
/// Lanes of an inbox.
const INBOX_LANES: u32 = 128;
/// Most memory of an inbox, from which its packets follow: a power of two that fits.
const INBOX_BYTES_MAX: u64 = 7 << 19;

/// Lanes of a direct call at most. Origin: calls of 8 to 128 MiB leave the other multiprocessors alone; 64 lanes were
/// up to 6 % faster with 4 ranks and 5 % with 2 (`benches/record/h200-x4/2026-11-21-steps.csv`).
const DIRECT_LANES_MAX: u32 = 32;

/// What a call has, apart from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub lanes: u32,
    pub threads: u32,
}

/// The inbox of a rank.
pub(crate) fn inbox(ranks: u32) -> Inbox {
    let peers = u64::from(ranks - 1);
    let most = INBOX_BYTES_MAX / (2 * peers * 2 * PACKET_PAYLOAD_BYTES);
    let packets = (most + 1).next_power_of_two() / 2;
    Inbox { lanes: INBOX_LANES, packets: packets as u32 }
}

/// The largest payloads of one-shot, two-shot and direct, in this order; an algorithm whose bound is not above the
/// one before it is not taken. Origin: 4 x H200, 2026-11-21, bf16, times in us, in graphs but for the ring, which was on
/// a stream (`benches/record/h200-x4/2026-11-21-steps.txt`):
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
/// Above 128 MiB the budget of 32 blocks ends, and the ring has more. More than 4 ranks: not measured.
fn bounds(ranks: u32) -> [u64; 3] {
    const KIB: u64 = 1 << 10;
    let wanted = match ranks {
        2 => [512 * KIB, 0, 128 << 20],
        3 | 4 => [64 * KIB, 512 * KIB, 128 << 20],
        _ => [48 * KIB, 512 * KIB, 32 << 20],
    };
    let inbox = inbox(ranks);
    let algorithms = [Algorithm::OneShot, Algorithm::TwoShot, Algorithm::Direct];
    std::array::from_fn(|i| wanted[i].min(algorithms[i].bytes_max(ranks, inbox)))
}

/// The largest payload for which `algorithm` is chosen; 0 where it never is.
pub(crate) fn bytes_max(algorithm: Algorithm, ranks: u32) -> u64 {
    let place = Algorithm::ALL.iter().position(|&other| other == algorithm).expect("it is one of all");
    bounds(ranks).get(place).copied().unwrap_or(u64::MAX)
}

/// Which algorithm is the fastest for `bytes` bytes.
pub(crate) fn choose(ranks: u32, bytes: u64, windows: bool) -> Algorithm {
    let [one_shot, two_shot, direct] = bounds(ranks);
    if bytes <= one_shot {
        Algorithm::OneShot
    } else if bytes <= two_shot {
        Algorithm::TwoShot
    } else if windows && bytes <= direct {
        Algorithm::Direct
    } else {
        Algorithm::Ring
    }
}

/// Lanes and threads of a call that is not the ring's.
pub(crate) fn shape(algorithm: Algorithm, ranks: u32, bytes: u64, blocks_max: u32) -> Shape {
    let packets = bytes.div_ceil(PACKET_PAYLOAD_BYTES);
    // A thread a packet: as above, 64 in a block for very few packets, and 128 for more, were the fastest.
    let least = |packets: u64| if packets <= 256 { 64 } else { 128 };
    let (items, least, most, lanes_max) = match algorithm {
        Algorithm::OneShot => (packets, least(packets), 480, INBOX_LANES),
        Algorithm::TwoShot => {
            let longest = packets.div_ceil(ranks.into());
            (longest, least(longest), 480, INBOX_LANES)
        }
        Algorithm::Direct | Algorithm::Ring => {
            (bytes.div_ceil(VECTOR_BYTES).div_ceil(ranks.into()), 512, 512, DIRECT_LANES_MAX)
        }
    };
    let lanes_max = u64::from(lanes_max.min(blocks_max));
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
        let packets: Vec<u32> = (2..=8).map(|ranks| inbox(ranks).packets).collect();
        assert_eq!(packets, [65536, 32768, 32768, 16384, 16384, 16384, 16384]);
        for ranks in 2..=8u64 {
            let bytes = 2 * (ranks - 1) * u64::from(inbox(ranks as u32).packets) * 16;
            assert!(bytes <= INBOX_BYTES_MAX && 2 * bytes > INBOX_BYTES_MAX, "{ranks} ranks");
        }
    }

    /// Catches a bound beyond what the inbox can carry: such calls would be refused.
    #[test]
    fn what_is_chosen_can_carry_the_payload() {
        for ranks in 2..=8 {
            for log2 in 0..40 {
                for bytes in [(1 << log2) - 1, 1 << log2, (1 << log2) + 1] {
                    for windows in [false, true] {
                        let algorithm = choose(ranks, bytes, windows);
                        assert!(bytes <= algorithm.bytes_max(ranks, inbox(ranks)), "{ranks} {bytes}");
                        assert!(windows || algorithm != Algorithm::Direct);
                    }
                }
            }
        }
    }

    #[test]
    fn every_shape_can_be_launched() {
        for algorithm in [Algorithm::OneShot, Algorithm::TwoShot, Algorithm::Direct] {
            for ranks in 2..=8 {
                for bytes in [0, 1, 8, 511, 512, 513, 65536, 1 << 20, 1 << 40] {
                    for blocks_max in [1, 3, 132] {
                        let Shape { lanes, threads } = shape(algorithm, ranks, bytes, blocks_max);
                        assert!((1..=blocks_max).contains(&lanes) && lanes <= INBOX_LANES);
                        assert!(threads.is_multiple_of(32) && (64..=512).contains(&threads));
                    }
                }
            }
        }
    }
}
