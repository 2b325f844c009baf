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
/// one before it is not taken.
fn bounds(ranks: u32) -> [u64; 3] {
    const KIB: u64 = 1 << 10;
    let wanted = match ranks {
        2 => [512 * KIB, 0, 64 << 20],
        3 | 4 => [64 * KIB, 512 * KIB, 32 << 20],
        _ => [48 * KIB, 512 * KIB, 16 << 20],
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
    let (items, least, most, lanes_max) = match algorithm {
        Algorithm::OneShot => (bytes.div_ceil(PACKET_PAYLOAD_BYTES), 64, 480, INBOX_LANES),
        Algorithm::TwoShot => {
            (bytes.div_ceil(PACKET_PAYLOAD_BYTES).div_ceil(ranks.into()), 64, 480, INBOX_LANES)
        }
        Algorithm::Direct | Algorithm::Ring => {
            (bytes.div_ceil(VECTOR_BYTES).div_ceil(ranks.into()), 512, 512, 32)
        }
    };
    let lanes_max = u64::from(lanes_max.min(blocks_max));
    let lanes = items.div_ceil(least).clamp(1, lanes_max);
    let movers = items.div_ceil(lanes).next_multiple_of(32).clamp(least, most);
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
