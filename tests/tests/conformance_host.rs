//! The conformance suite on the host backend: see `src/conformance.rs`.

use libtest_mimic::Arguments;
use myelon_collectives::{Backend, Communicator};
use myelon_tests::conformance;

fn main() {
    let make = |ranks| Communicator::builder().backend(Backend::Host).ranks(ranks);
    libtest_mimic::run(&Arguments::from_args(), conformance::trials(make, 2000)).exit();
}
