//! Property: that of `processes.rs`, for ranks whose memory is that of GPUs.
//!
//! Catches and cannot catch: as there; also memory that a peer reaches no more while a kernel uses it. Ranks share GPUs
//! where there are fewer; their kernels then take turns, which is slow and right.
//!
//! Without a GPU every test counts as ignored, and the reason is said.

#[path = "processes/faults.rs"]
mod faults;
#[path = "processes/rank.rs"]
mod rank;
#[path = "processes/ranks.rs"]
mod ranks;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use myelon_collectives::Backend;

fn main() -> ExitCode {
    if rank::serves() {
        return ExitCode::SUCCESS;
    }
    let mut trials = faults::trials(Backend::Cuda);
    if let Err(error) = myelon_kernel::probe() {
        eprintln!("SKIPPED: {} tests of processes on GPUs, because: {error}", trials.len());
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    let mut arguments = Arguments::from_args();
    // Kernels of two tests would wait for each other's turn on a GPU.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
