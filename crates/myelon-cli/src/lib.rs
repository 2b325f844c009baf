//! The `myelon` command: runs, checks and times all-reduces on GPUs or on host ranks, explains their plans, sweeps
//! their lanes, tunes them for a machine, simulates them, and shows what ranks of running programs do.
//!
//! A library so that `cargo bench` sweeps by the same code; [`command_line`] is all there is to call.

#![forbid(unsafe_code)]

mod all_reduce;
mod args;
mod check;
mod doctor;
mod explain;
mod failure;
mod info;
mod launch;
mod measure;
mod mode;
mod pages;
mod plot;
mod progress;
mod rank;
mod record;
mod simulate;
mod sizes;
mod sweep;
mod table;
mod top;
mod tune;
mod values;
mod world;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use failure::Failure;

/// Runs a whole command line, whose first word names the program, and says how the process should end.
///
/// Results go to standard output; errors, progress and logs to standard error. Where help or the version is asked
/// for, or nothing at all, the process ends here.
///
/// # Example
///
/// ```
/// let code = myelon_cli::command_line(["myelon", "explain", "--machine", "h200", "-b", "1M", "-e", "1M"]);
/// assert_eq!(code, std::process::ExitCode::SUCCESS);
/// ```
pub fn command_line<T: Into<OsString>>(words: impl IntoIterator<Item = T>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    match parse(&words).and_then(|cli| log().and_then(|()| run(&cli.command, &words))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(Failure::Told(code)) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {}", failure.message(command(&words)));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The arguments; where they ask for help or the version, or there are none, clap answers and ends.
fn parse(words: &[OsString]) -> Result<Cli, Failure> {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => error.into(),
    })
}

/// The command whose help a hint names.
fn command(words: &[OsString]) -> &'static str {
    match words.get(1) {
        Some(name) if name == "simulate" => "simulate",
        Some(name) if name == "explain" => "explain",
        Some(name) if name == "sweep" => "sweep",
        Some(name) if name == "tune" => "tune",
        Some(name) if name == "top" => "top",
        Some(name) if name == "doctor" => "doctor",
        _ => "all-reduce",
    }
}

/// Runs the command, which `words` asked for; `true` where nothing was wrong.
fn run(command: &Command, words: &[OsString]) -> Result<bool, Failure> {
    match command {
        Command::AllReduce(args) => all_reduce::run(args, words),
        Command::Doctor(args) => doctor::run(args),
        Command::Explain(args) => explain::run(args).map(|()| true),
        Command::Info(_) => info::run().map(|()| true),
        Command::Simulate(args) => simulate::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Top(args) => top::run(args).map(|()| true),
        Command::Tune(args) => tune::run(args).map(|()| true),
    }
}

/// What is logged unless `MYELON_LOG` says otherwise: only that a call waits long.
const LOG_DEFAULT: &str = "off,myelon_collectives::late=warn";

/// Logs to standard error what `MYELON_LOG` asks for: a level, or levels by crate; see [`LOG_DEFAULT`].
fn log() -> Result<(), Failure> {
    let filter = std::env::var("MYELON_LOG").unwrap_or_else(|_| LOG_DEFAULT.into());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Failure::Usage(format!("setting MYELON_LOG: needed a level such as info, saw \"{filter}\": {error}"))
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    Ok(())
}
