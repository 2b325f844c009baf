//! The conformance suite on GPUs: see `src/conformance.rs`.
//!
//! Without a GPU every test counts as ignored, and the reason is said. With fewer GPUs than ranks, ranks
//! share GPUs: the kernels, the rings and the waits are the same, only the links are fewer.

use libtest_mimic::{Arguments, Trial};
use myelon_collectives::{Backend, Communicator};
use myelon_tests::{conformance, gpus, registration};

/// Calls of a test with random calls, and about half of the largest count in them.
const BUDGET: usize = 16_000;
/// The same for ranks that join as processes do, whose calls are the same.
const JOINED_BUDGET: usize = 4_000;

fn main() {
    gpus::take_all_queues();
    let seen = myelon_kernel::probe().map(|node| node.devices.len());
    let count = *seen.as_ref().unwrap_or(&0);
    let make = move |ranks: usize| {
        let devices = (0..ranks).map(|rank| rank % count).collect();
        Communicator::builder().backend(Backend::Cuda).devices(devices)
    };
    let mut trials = conformance::trials(make, BUDGET);
    trials.extend(conformance::joined_trials(make, JOINED_BUDGET));
    trials.push(Trial::test("tensors_of_somebody_else", move || {
        gpus::foreign_memory_and_streams(count);
        Ok(())
    }));
    trials.push(Trial::test("wrong_device_is_refused", move || {
        gpus::wrong_device_is_refused(count);
        Ok(())
    }));
    trials.push(Trial::test("allocation_beside_a_waiting_peer", move || {
        gpus::allocation_beside_a_waiting_peer(count);
        Ok(())
    }));
    trials.push(Trial::test("capture_beside_a_waiting_peer", move || {
        gpus::capture_beside_a_waiting_peer(count);
        Ok(())
    }));
    for (name, joined) in
        [("registered_memory_is_summed", false), ("registered_memory_is_summed_joined", true)]
    {
        trials.push(Trial::test(name, move || {
            registration::sums_are_exact(count, joined);
            Ok(())
        }));
    }
    let mut arguments = Arguments::from_args();
    // Two communicators at once on a GPU could each hold the multiprocessors that the other one needs.
    arguments.test_threads = Some(1);
    if let Err(error) = seen {
        eprintln!("SKIPPED: {} GPU tests, because: {error}", trials.len());
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    libtest_mimic::run(&arguments, trials).exit();
}
