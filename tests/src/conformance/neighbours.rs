//! Calls by neighbours: where they may run, and in which order they sum.

use myelon_collectives::{Backend, ErrorKind, ReduceOp};
use myelon_lanes::{Algorithm, Forced, Tuning};

use super::Make;
use super::harness::{Case, Seat, check_all, check_all_by, enqueue_all, seats};
use super::joined::open;
use crate::data::{Fill, Random};

const NEIGHBOUR: Forced = Forced {
    algorithm: Some(Algorithm::Neighbour),
    lanes: None,
    piece_bytes: None,
    slots: None,
    blocks: None,
    blocks_max: None,
    threads: None,
};

/// A graph of two calls in place, launched three times: the cursors carry over, so that each call sums what the last one left.
fn graphs_go_on(group: &mut [Seat]) {
    const COUNT: usize = 70_001;
    let ranks = group.len() as i32;
    let made: Vec<_> = group
        .iter_mut()
        .map(|Seat { rank, .. }| {
            let (mut buffer, stream) = (rank.buffer::<i32>(COUNT).unwrap(), rank.stream().clone());
            buffer.write(&stream, &vec![1 + rank.rank() as i32; COUNT]).unwrap();
            let graph = stream.capture(|| {
                rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?;
                rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)
            });
            (buffer, stream, graph.unwrap())
        })
        .collect();
    for (_, stream, graph) in &made {
        (0..3).for_each(|_| graph.launch(stream).unwrap());
    }
    let sum = ranks * (ranks + 1) / 2 * ranks.pow(5);
    for (buffer, stream, _) in &made {
        assert_eq!(buffer.read(stream).unwrap(), vec![sum; COUNT]);
    }
}

/// Forced and allowed they run, of any shape and between calls by the rule, and every bit follows from the plan.
/// Backends that have no neighbours refuse them, as all do where it is not allowed or ranks are too few.
pub fn neighbours_sum_in_their_order(make: &impl Make, budget: usize) {
    let mut random = Random::new(23);
    // Where no call could ever run, there is no communicator.
    let refusal = |ranks: usize, any_order: bool| {
        let opened = open(make(ranks).any_order(any_order).forced(NEIGHBOUR));
        let called = opened.and_then(|mut group| {
            let stream = group[0].stream().clone();
            let rank = &mut group[0];
            let mut buffer = rank.buffer::<f32>(100)?;
            rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)
        });
        let error = called.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        error.to_string()
    };
    let is_host = open(make(3)).unwrap()[0].backend() == Backend::Host;
    let error = refusal(3, false);
    let needed =
        if is_host { "GPUs as ranks" } else { "permission to sum in an order that depends on the plan" };
    assert!(error.contains(&format!("neighbour cannot run here: it needs {needed}")), "{error}");
    if is_host {
        assert!(refusal(3, true).contains("it needs GPUs as ranks"));
        return;
    }
    assert!(refusal(2, true).contains("ranks by neighbour is 2, needed a number from 3 to 8"));

    for ranks in [3, 4] {
        let mut group = seats(make(ranks).any_order(true).first_sequence(u64::MAX - 100));
        let plain = group[0].rank.tuning().clone();
        let by = |forced: Forced| plain.clone().forced(forced);
        let tunings: Vec<Tuning> = vec![
            by(NEIGHBOUR),
            by(Forced { lanes: Some(3), piece_bytes: Some(1040), ..NEIGHBOUR }),
            by(Forced::default()),
            by(Forced { lanes: Some(1), threads: Some(64), ..NEIGHBOUR }),
        ];
        for call in 0..budget.clamp(20, 100) {
            for seat in &mut group {
                seat.rank.retune(tunings[call % tunings.len()].clone()).unwrap();
            }
            let count = random.pick(&[0usize, 1, 100, 1001, 4096, 30_001, 300_000]);
            let fill = if call % 3 == 0 { Fill::Edges } else { Fill::Ordinary };
            let case = Case::random(&mut random, count, fill);
            let pending = enqueue_all(&mut group, &case);
            let plan = group[0].rank.last_launch().unwrap().plan;
            match plan.algorithm {
                Algorithm::Neighbour => {
                    let bytes = case.count * case.dtype.bytes();
                    check_all_by(pending, &plan.geometry(bytes as u64).unwrap());
                }
                _ => {
                    assert_eq!(call % tunings.len(), 2, "{plan}");
                    check_all(pending);
                }
            }
        }
        group.iter_mut().for_each(|seat| seat.rank.retune(tunings[0].clone()).unwrap());
        graphs_go_on(&mut group);
    }
}
