//! The `myelon` command; all of it is in the library of this package.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    myelon_cli::command_line(std::env::args_os())
}
