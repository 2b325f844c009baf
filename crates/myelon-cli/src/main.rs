//! The `myelon` command: runs, checks and times all-reduces on GPUs or on host ranks.

#![forbid(unsafe_code)]

mod all_reduce;
mod args;
mod check;
mod failure;
mod info;
mod measure;
mod plot;
mod progress;
mod record;
mod sizes;
mod table;
mod values;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = log().and_then(|()| match &cli.command {
        Command::AllReduce(args) => all_reduce::run(args),
        Command::Info(_) => info::run().map(|()| true),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Logs to standard error what `MYELON_LOG` asks for: a level, or levels by crate; nothing by default.
fn log() -> Result<(), Failure> {
    let Ok(filter) = std::env::var("MYELON_LOG") else { return Ok(()) };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Failure::Usage(format!("setting MYELON_LOG: needed a level such as info, saw \"{filter}\": {error}"))
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    Ok(())
}
