//! The conformance suite: what every backend must do, written once.
//!
//! A backend joins with one line, [`trials`], which makes a test of every function in [`parts`]. Each takes
//! a closure that gives a [`Builder`] for a number of ranks, and a budget, the number of calls that a test
//! with random calls makes about.
//!
//! Results are compared byte by byte with [`reference::all_reduce`] (by neighbours [`reference::by_neighbours`]) on every rank, with the bytes around
//! every output, and with the inputs. Cannot catch: a mistake that the reference shares.

mod calls;
mod failures;
mod graph_matrix;
mod graphs;
mod harness;
mod joined;
mod neighbours;
mod streams;
mod tunings;

pub use self::graph_matrix::every_graph;
pub use self::joined::{join, join_from_now_on};
use myelon_collectives::Builder;
#[cfg(doc)]
use myelon_collectives::reference;

/// How the suite gets its communicators: a builder for a number of ranks, with the backend set.
pub trait Make: Fn(usize) -> Builder + Clone + Send + 'static {}

impl<F: Fn(usize) -> Builder + Clone + Send + 'static> Make for F {}

/// A part of the suite: its name and its body, which takes a maker and a budget.
pub type Part<M> = (&'static str, fn(&M, usize));

/// Every part of the suite.
pub fn parts<M: Make>() -> Vec<Part<M>> {
    vec![
        ("every_type_and_operation", calls::every_type_and_operation),
        ("edge_bits", calls::edge_bits),
        ("plan_boundaries", calls::plan_boundaries),
        ("large_counts", calls::large_counts),
        ("many_calls_across_the_wrap", calls::many_calls_across_the_wrap),
        ("thread_a_rank", calls::thread_a_rank),
        ("calls_wait_for_their_stream", streams::calls_wait_for_their_stream),
        ("queued_calls_feed_each_other", streams::queued_calls_feed_each_other),
        ("two_streams_alternate", streams::two_streams_alternate),
        ("graphs_mix_with_calls", graphs::graphs_mix_with_calls),
        ("two_graphs_alternate", graphs::two_graphs_alternate),
        ("graphs_are_dropped_while_they_run", graphs::graphs_are_dropped_while_they_run),
        ("graph_matrix", graph_matrix::graph_matrix),
        ("captures_advance_nothing", graphs::captures_advance_nothing),
        ("captures_refuse_what_they_cannot_hold", graphs::captures_refuse_what_they_cannot_hold),
        ("graphs_fail_as_calls_do", graphs::graphs_fail_as_calls_do),
        ("tunings_alternate", tunings::tunings_alternate),
        ("tuning_files_are_followed", tunings::tuning_files_are_followed),
        ("neighbours_sum_in_their_order", neighbours::neighbours_sum_in_their_order),
        ("disagreement_is_an_error", failures::disagreement_is_an_error),
        ("missing_rank_is_named", failures::missing_rank_is_named),
        ("dropping_a_rank_ends_its_peers", failures::dropping_a_rank_ends_its_peers),
    ]
}

/// The suite as tests of one backend.
pub fn trials<M: Make>(make: M, budget: usize) -> Vec<libtest_mimic::Trial> {
    let trial = |(name, part): Part<M>| {
        let make = make.clone();
        libtest_mimic::Trial::test(name, move || {
            part(&make, budget);
            Ok(())
        })
    };
    parts().into_iter().map(trial).collect()
}

/// The same with ranks that join as processes do. For tests that run one at a time.
pub fn joined_trials<M: Make>(make: M, budget: usize) -> Vec<libtest_mimic::Trial> {
    let trial = |(name, part): Part<M>| {
        let make = make.clone();
        libtest_mimic::Trial::test(format!("joined::{name}"), move || {
            joined::join_in(|| part(&make, budget));
            Ok(())
        })
    };
    parts().into_iter().map(trial).collect()
}
