//! Property: the kernels cut a payload and lay out a window exactly as the Rust side does.
//!
//! Catches: any difference between `kernels/include/myelon/chunks.cuh` and `myelon_lanes::Lanes`, between
//! `kernels/include/myelon/window.cuh` and `myelon_ring::WindowLayout`, and between that and
//! `myelon_lanes::Pool`. Cannot catch: a mistake that both sides share; the crates' own tests are for that.

use bytemuck::Zeroable;
use myelon_lanes::{Inbox, Lanes, Pool};
use myelon_ring::words::{AllReduceArgs, Movement};
use myelon_ring::{Neighbours, RingConfig, WindowLayout};
use proptest::prelude::*;

const VECTOR: u64 = myelon_lanes::VECTOR_BYTES;

/// Payloads of every magnitude, and those at the boundaries of a geometry.
fn bytes(chunk: u64) -> impl Strategy<Value = u64> {
    let near = |unit: u64| (0u64..40, 0u64..3).prop_map(move |(n, off)| (n * unit + off).saturating_sub(1));
    let magnitudes = (0u32..=46, any::<u64>()).prop_map(|(log2, noise)| noise & ((1 << log2) - 1));
    prop_oneof![near(VECTOR), near(chunk), 0u64..5000, magnitudes]
}

/// (bytes, ranks, lanes, piece bytes)
fn geometries() -> impl Strategy<Value = (u64, u32, u32, u32)> {
    let pieces = prop_oneof![1u32..=8, 1u32..=1 << 20].prop_map(|vectors| vectors * VECTOR as u32);
    let lanes = prop_oneof![1u32..=5, 1u32..=1024];
    (2u32..=8, lanes, pieces).prop_flat_map(|(ranks, lanes, piece)| {
        (bytes(u64::from(ranks) * u64::from(piece)), Just(ranks), Just(lanes), Just(piece))
    })
}

/// (ranks, lanes, slots, piece bytes)
fn windows() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    let capacities = (0u32..=6).prop_map(|log2| 1usize << log2);
    (2usize..=8, 1usize..=64, capacities, (1usize..=300).prop_map(|vectors| 16 * vectors))
}

/// Bytes of a ring's slots.
fn capacity_bytes(ring: &RingConfig) -> u64 {
    ring.capacity as u64 * ring.slot_bytes as u64
}

/// Rings between neighbours, or none.
fn neighbours() -> impl Strategy<Value = Neighbours> {
    let capacities = (1u32..=6).prop_map(|log2| 1usize << log2);
    (0usize..=64, capacities, (1usize..=300).prop_map(|vectors| 16 * vectors))
        .prop_map(|(lanes, capacity, piece_bytes)| Neighbours { lanes, capacity, piece_bytes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_kernel_cuts_the_same_pieces(
        (bytes, ranks, lanes, piece_bytes) in geometries(),
        lane in any::<prop::sample::Index>(),
        round in any::<u64>(),
    ) {
        let geometry = Lanes::new(bytes, ranks, lanes, piece_bytes).unwrap();
        let args = AllReduceArgs { bytes, ranks, lanes, piece_bytes, ..Zeroable::zeroed() };
        let lane = lane.index(lanes as usize) as u32;
        let rounds = geometry.rounds(lane);
        prop_assert_eq!(myelon_sim::kernel_piece(&args, lane, 0, 0).0, rounds);
        if rounds == 0 {
            return Ok(());
        }
        // The first and the last round have the boundaries; one between them stands for the rest.
        for round in [0, round % rounds, rounds - 1] {
            for owner in 0..ranks {
                let (_, first, vectors) = myelon_sim::kernel_piece(&args, lane, round, owner);
                let piece = geometry.piece(lane, round, owner);
                let clip = |vector: u64| (vector * VECTOR).min(bytes);
                prop_assert_eq!((clip(first), clip(first + vectors)), (piece.start, piece.end()));
                prop_assert!(vectors * VECTOR <= u64::from(piece_bytes));
            }
        }
    }

    #[test]
    fn the_kernel_finds_the_same_rings((ranks, lanes, capacity, piece_bytes) in windows(), used in 1usize..=64) {
        let layout = WindowLayout::new(ranks, lanes, capacity, piece_bytes).unwrap();
        let mut args = AllReduceArgs {
            cursor_offset: layout.cursor_offset() as u64,
            gating_offset: layout.gating_offset() as u64,
            sequence_offset: layout.sequence_offset() as u64,
            data_offset: layout.data_offset() as u64,
            ranks: ranks as u32,
            lanes: used.min(lanes) as u32,
            lanes_max: lanes as u32,
            capacity: capacity as u32,
            slot_bytes: layout.slot_bytes() as u32,
            piece_bytes: 16,
            ..Zeroable::zeroed()
        };
        for (rank, window) in args.window.iter_mut().enumerate() {
            *window = (rank as u64 + 1) << 40;
        }
        for movement in [Movement::Scatter, Movement::Gather] {
            for lane in [0, lanes / 2, lanes - 1] {
                for source in 0..ranks {
                    for destination in (0..ranks).filter(|&other| other != source) {
                        let [at, from, to] = [lane, source, destination].map(|place| place as u32);
                        prop_assert_eq!(
                            myelon_sim::kernel_ring(&args, movement, at, from, to),
                            layout.ring(&args.window, movement, lane, source, destination)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_kernel_finds_the_same_rings_between_neighbours(
        (ranks, lanes, capacity, piece_bytes) in windows(), neighbours in neighbours(),
    ) {
        let layout = WindowLayout::new(ranks, lanes, capacity, piece_bytes).unwrap();
        let layout = layout.with_neighbours(neighbours).unwrap();
        let at = layout.neighbour_rings();
        let mut args = AllReduceArgs {
            cursor_offset: at.cursor_offset as u64,
            gating_offset: at.gating_offset as u64,
            sequence_offset: at.sequence_offset as u64,
            data_offset: at.data_offset as u64,
            ranks: ranks as u32,
            lanes: at.lanes as u32,
            lanes_max: at.lanes as u32,
            capacity: at.capacity as u32,
            slot_bytes: at.slot_bytes as u32,
            piece_bytes: 16,
            ..Zeroable::zeroed()
        };
        for (rank, window) in args.window.iter_mut().enumerate() {
            *window = (rank as u64 + 1) << 40;
        }
        for (lane, rank) in (0..neighbours.lanes).flat_map(|lane| (0..ranks).map(move |rank| (lane, rank))) {
            let ring = layout.ring(&args.window, Movement::Neighbour, lane, rank, layout.next(rank));
            prop_assert_eq!(myelon_sim::kernel_ring_to_next(&args, lane as u32, rank as u32), ring);
            prop_assert!(ring.data + capacity_bytes(&ring) <= args.window[layout.next(rank)] + layout.bytes() as u64);
        }
    }

    #[test]
    fn a_pool_is_as_large_as_its_window(
        (ranks, lanes, capacity, piece_bytes) in windows(), (inbox_lanes, pairs, cell_pairs) in (1..=9u32, 0..=99u32, 0..=99u32),
        neighbours in neighbours(),
    ) {
        let inbox = Inbox { lanes: inbox_lanes, packets: 2 * pairs, cells: 2 * cell_pairs };
        let layout = WindowLayout::new(ranks, lanes, capacity, piece_bytes).unwrap();
        let layout = layout
            .with_inbox(myelon_ring::Inbox {
                lanes: inbox.lanes as usize,
                packets: inbox.packets as usize,
                cells: inbox.cells as usize,
            })
            .unwrap()
            .with_neighbours(neighbours)
            .unwrap();
        let neighbours = myelon_lanes::Neighbours {
            lanes: neighbours.lanes as u32,
            slots: neighbours.capacity as u32,
            piece_bytes: neighbours.piece_bytes as u32,
        };
        let pool = Pool { lanes: lanes as u32, slots: capacity as u32, piece_bytes: piece_bytes as u32, inbox, neighbours };
        prop_assert_eq!(pool.window_bytes(ranks as u32), layout.bytes() as u64);
    }
}
