//! The conformance suite on host ranks that join one by one, as processes do: see `src/conformance.rs`. They are in
//! one process here, which the suite can look into; what only several have is for
//! `crates/myelon-collectives/tests/processes.rs`.

use libtest_mimic::Arguments;
use myelon_collectives::{Backend, Communicator};
use myelon_tests::conformance;

fn main() {
    conformance::join_from_now_on();
    let make = |ranks| Communicator::builder().backend(Backend::Host).ranks(ranks);
    libtest_mimic::run(&Arguments::from_args(), conformance::trials(make, 500)).exit();
}
