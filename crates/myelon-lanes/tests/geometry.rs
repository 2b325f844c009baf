//! Property: lanes tile the payload, rounds tile a lane, pieces tile a chunk; balanced and aligned.
//!
//! Catches: off-by-one at lane, round and piece boundaries, a remainder given to the wrong part, bytes
//! of the last vector lost or counted twice, overflow near the largest payload. Cannot catch: a kernel
//! that cuts otherwise; `tests/` compares the two.

use myelon_lanes::{BYTES_MAX, Lanes, Span, split};
use proptest::prelude::*;

/// Payloads of interest: nothing, around a vector, around a chunk, anything small.
fn payload() -> impl Strategy<Value = u64> {
    prop_oneof![0..=40u64, 0..=20_000u64, (0..=64u64, 0..=2u64).prop_map(|(n, d)| (n * 256 + d).max(1) - 1)]
}

fn piece_bytes() -> impl Strategy<Value = u32> {
    prop_oneof![(1..=20u32).prop_map(|vectors| vectors * 16), (4..=16u32).prop_map(|log2| 1 << log2)]
}

fn difference(lengths: impl IntoIterator<Item = u64>) -> u64 {
    let lengths: Vec<u64> = lengths.into_iter().collect();
    lengths.iter().max().unwrap() - lengths.iter().min().unwrap()
}

proptest! {
    #[test]
    fn every_byte_belongs_to_one_piece_in_order(
        bytes in payload(), ranks in 2..=8u32, count in 1..=9u32, piece_bytes in piece_bytes(),
    ) {
        let lanes = Lanes::new(bytes, ranks, count, piece_bytes).unwrap();
        let mut next = 0;
        for lane in 0..count {
            prop_assert_eq!(lanes.lane(lane).start, next);
            let rounds = lanes.rounds(lane);
            prop_assert_eq!(rounds == 0, lane > 0 && lanes.lane(lane).bytes == 0);
            for round in 0..rounds {
                let chunk = lanes.chunk(lane, round);
                prop_assert_eq!(chunk.start, next);
                prop_assert!(chunk.bytes <= u64::from(ranks) * u64::from(piece_bytes));
                // Only the last round of a lane is short, and none is empty but for an empty payload.
                prop_assert!(round + 1 == rounds || chunk.bytes == u64::from(ranks) * u64::from(piece_bytes));
                prop_assert!(chunk.bytes > 0 || bytes == 0);
                for owner in 0..ranks {
                    let piece = lanes.piece(lane, round, owner);
                    prop_assert_eq!(piece.start, next);
                    prop_assert!(piece.bytes <= u64::from(piece_bytes));
                    next = piece.end();
                    prop_assert!(next % 16 == 0 || next == bytes);
                }
                prop_assert_eq!(next, chunk.end());
            }
            prop_assert_eq!(next, lanes.lane(lane).end());
        }
        prop_assert_eq!(next, bytes);
    }

    #[test]
    fn lanes_and_pieces_differ_by_at_most_a_vector(
        bytes in payload(), ranks in 2..=8u32, count in 1..=9u32, piece_bytes in piece_bytes(),
    ) {
        let lanes = Lanes::new(bytes, ranks, count, piece_bytes).unwrap();
        let vectors = |span: Span| span.bytes.div_ceil(16);
        prop_assert!(difference((0..count).map(|lane| vectors(lanes.lane(lane)))) <= 1);
        for lane in 0..count {
            for round in 0..lanes.rounds(lane) {
                let lengths = (0..ranks).map(|owner| vectors(lanes.piece(lane, round, owner)));
                prop_assert!(difference(lengths) <= 1);
            }
        }
    }

    /// The same laws at single places of payloads of any size, where walking would take for ever.
    #[test]
    fn huge_payloads_keep_the_laws(
        below in 0..=1u64 << 40, ranks in 2..=8u32, count in 1..=u32::MAX, piece in 1..=u32::MAX / 16,
        lane in any::<u32>(), round in any::<u64>(),
    ) {
        let bytes = BYTES_MAX - below;
        let lanes = Lanes::new(bytes, ranks, count, piece * 16).unwrap();
        let lane = lane % count;
        prop_assert_eq!(lanes.lane(0).start, 0);
        prop_assert_eq!(lanes.lane(count - 1).end(), bytes);
        if lane > 0 {
            prop_assert_eq!(lanes.lane(lane - 1).end(), lanes.lane(lane).start);
        }
        let rounds = lanes.rounds(lane);
        prop_assert_eq!(lanes.chunk(lane, 0).start, lanes.lane(lane).start);
        prop_assert_eq!(lanes.chunk(lane, rounds - 1).end(), lanes.lane(lane).end());
        let round = round % rounds;
        let chunk = lanes.chunk(lane, round);
        if round > 0 {
            prop_assert_eq!(lanes.chunk(lane, round - 1).end(), chunk.start);
        }
        prop_assert_eq!(lanes.piece(lane, round, 0).start, chunk.start);
        prop_assert_eq!(lanes.piece(lane, round, ranks - 1).end(), chunk.end());
        for owner in 1..ranks {
            prop_assert_eq!(lanes.piece(lane, round, owner - 1).end(), lanes.piece(lane, round, owner).start);
        }
    }

    /// Against the plain thing: deal `total` things out one by one, and line them up part by part.
    #[test]
    fn split_is_dealing_out(total in 0..=2000u64, parts in 1..=50u64) {
        let mut dealt = vec![0; parts as usize];
        (0..total).for_each(|thing| dealt[(thing % parts) as usize] += 1);
        let mut start = 0;
        for (index, &length) in dealt.iter().enumerate() {
            prop_assert_eq!(split(total, parts, index as u64), (start, length));
            start += length;
        }
    }

    #[test]
    fn split_does_not_overflow(total in any::<u64>(), parts in 1..=u64::MAX, index in any::<u64>()) {
        let index = index % parts;
        let (start, length) = split(total, parts, index);
        prop_assert!(start.checked_add(length).is_some_and(|end| end <= total));
        let (last, length) = split(total, parts, parts - 1);
        prop_assert_eq!(last + length, total);
    }
}

/// The figures of the agreed rule, by hand: 1,000,003 bytes are 62,501 vectors over 4 lanes.
#[test]
fn a_payload_by_hand() {
    let lanes = Lanes::new(1_000_003, 3, 4, 4096).unwrap();
    let span = |start: u64, vectors: u64| Span { start: start * 16, bytes: vectors * 16 };
    assert_eq!(lanes.lane(0), span(0, 15_626));
    assert_eq!(lanes.lane(1), span(15_626, 15_625));
    assert_eq!(lanes.lane(3), Span { start: 46_876 * 16, bytes: 1_000_003 - 46_876 * 16 });
    // A round is 3 * 256 vectors: 20 whole ones and 265 vectors are left in lane 1.
    assert_eq!([lanes.rounds(0), lanes.rounds(1)], [21, 21]);
    assert_eq!(lanes.chunk(1, 20), span(15_626 + 20 * 768, 265));
    assert_eq!(lanes.piece(1, 20, 0), span(15_626 + 20 * 768, 89));
    assert_eq!(lanes.piece(1, 20, 1), span(15_626 + 20 * 768 + 89, 88));
    assert_eq!(lanes.piece(1, 20, 2), span(15_626 + 20 * 768 + 177, 88));
}
