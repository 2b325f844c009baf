//! Property: what a call launches, why, and what goes wrong can be read from its events.

mod text;

use std::time::Duration;

use myelon_collectives::{Backend, Communicator, ReduceOp};
use text::Text;

// Workers have threads of their own, so the subscriber is the process's, and this file has one test.
#[test]
fn calls_and_failures_leave_events() {
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt().with_writer(text.clone()).with_ansi(false);
    subscriber.with_max_level(tracing::Level::DEBUG).init();

    let builder = Communicator::builder().backend(Backend::Host).ranks(2).deadline(Duration::from_secs(1));
    let mut ranks = builder.build().unwrap();
    for rank in &mut ranks {
        let (stream, mut buffer) = (rank.stream().clone(), rank.buffer::<f32>(10).unwrap());
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
    }
    ranks.iter().for_each(|rank| rank.stream().synchronize().unwrap());
    let (stream, mut buffer) = (ranks[0].stream().clone(), ranks[0].buffer::<f32>(10).unwrap());
    ranks[0].all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
    stream.synchronize().unwrap_err();

    let text = text.written();
    let line = |has: &[&str]| text.lines().any(|line| has.iter().all(|part| line.contains(part)));
    assert!(line(&["communicator opened", "ranks=2", "the host backend was asked for"]), "{text}");
    for rank in ["rank=0", "rank=1"] {
        let call = [
            "call{",
            rank,
            "all_reduce",
            "kernel=\"host_ring_f32_sum\"",
            "grid=",
            "block=",
            "shared_bytes=0",
        ];
        assert!(line(&call), "{text}");
        assert!(
            line(&[rank, "bytes=40", "ranks=2", "plan=ring lanes=", "why=\"automatic for host"]),
            "{text}"
        );
    }
    assert!(line(&["WARN", "poisoned", "rank 0 waited", "for rank 1"]), "{text}");
}
