//! The conformance suite: what every backend must do, written once.
//!
//! A backend joins with one line, [`crate::conformance_suite!`], which makes a test of every function
//! below. Each takes a closure that gives a [`Builder`] for a number of ranks, and a budget, the number
//! of calls that a test with random calls makes about.
//!
//! Results are compared byte by byte with [`reference::all_reduce`] on every rank, with the bytes around
//! every output, and with the inputs. Cannot catch: a mistake that the reference shares.

mod calls;
mod failures;
mod harness;
mod streams;

pub use calls::{
    edge_bits, every_type_and_operation, many_calls_across_the_wrap, plan_boundaries, thread_a_rank,
};
pub use failures::{disagreement_is_an_error, dropping_a_rank_ends_its_peers, missing_rank_is_named};
pub use streams::{calls_wait_for_their_stream, queued_calls_feed_each_other, two_streams_alternate};

use myelon_collectives::Builder;
#[cfg(doc)]
use myelon_collectives::reference;

/// How the suite gets its communicators: a builder for a number of ranks, with the backend set.
pub trait Make: Fn(usize) -> Builder {}

impl<F: Fn(usize) -> Builder> Make for F {}

/// Makes a test of every part of the suite: `conformance_suite!(make, budget)`.
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr, $budget:expr) => {
        $crate::conformance_suite!(@tests $make, $budget,
            every_type_and_operation edge_bits plan_boundaries many_calls_across_the_wrap thread_a_rank
            calls_wait_for_their_stream queued_calls_feed_each_other two_streams_alternate
            disagreement_is_an_error missing_rank_is_named dropping_a_rank_ends_its_peers);
    };
    (@tests $make:expr, $budget:expr, $($name:ident)+) => {
        $(#[test]
        fn $name() {
            $crate::conformance::$name(&$make, $budget);
        })+
    };
}
