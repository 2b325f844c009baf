//! The conformance suite on the host backend: see `src/conformance.rs`.

use myelon_collectives::{Backend, Builder, Communicator};

fn host(ranks: usize) -> Builder {
    Communicator::builder().backend(Backend::Host).ranks(ranks)
}

myelon_tests::conformance_suite!(host, 2000);
