//! Property: two processes on two GPUs sum memory that each has registered, whatever it was made by; it goes from buffer to
//! buffer where a process can lend it, and its owner frees it afterwards.
//!
//! Catches: handles that another process can't map, a wrong offset, memory freed too early or never. Cannot catch: what
//! needs more than two GPUs.
//!
//! With fewer than two GPUs the test counts as ignored, and the reason is said.

use std::process::{Child, Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use myelon_tests::registration;

const RANK: &str = "REGISTRATION_RANK";
const MEETING: &str = "REGISTRATION_MEETING";

fn main() -> ExitCode {
    if let (Ok(rank), Ok(meeting)) = (std::env::var(RANK), std::env::var(MEETING)) {
        registration::process_sums_are_exact(rank.parse().expect("a rank"), &meeting);
        return ExitCode::SUCCESS;
    }
    let mut trials = vec![Trial::test("registered_memory_of_processes_is_summed", || {
        let meeting = format!("registration-{}", std::process::id());
        let start = |rank: usize| -> Child {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.env(RANK, rank.to_string()).env(MEETING, &meeting).spawn().unwrap()
        };
        let mut children = [start(0), start(1)];
        let ended = children.each_mut().map(|child| child.wait().unwrap());
        assert!(ended.iter().all(|status| status.success()), "{ended:?}");
        Ok(())
    })];
    let seen = myelon_kernel::probe().map_err(|error| error.to_string());
    let because = match seen.map(|node| node.devices.len()) {
        Ok(gpus) if gpus >= 2 => None,
        Ok(gpus) => Some(format!("there are {gpus} GPUs")),
        Err(error) => Some(error),
    };
    if let Some(because) = because {
        eprintln!("SKIPPED: {} tests of registration by processes, because: {because}", trials.len());
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
