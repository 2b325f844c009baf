//! Property: ranks that are processes give what ranks that are threads give, and whatever happens to one of them, the
//! others end with an error that names it, at once where it died, and leave nothing behind.
//!
//! Catches: wrong sums over shared memory, a death noticed only at the deadline, hangs, errors that do not reach all,
//! threads, descriptors, mappings and files that stay. Each rank is a process of this program, which does what it is
//! told line by line. Cannot catch what happens between two instructions of a rank that is killed, but by luck.

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
    libtest_mimic::run(&Arguments::from_args(), faults::trials(Backend::Host)).exit_code()
}
