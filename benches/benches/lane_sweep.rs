//! Which lanes, slots and blocks are best for which size, and what the automatic plan loses: `myelon sweep`, with
//! its flags.
//!
//! `cargo bench -p myelon-benches --bench lane_sweep -- --help` lists them. `--smoke` (or `MYELON_BENCH_SMOKE=1`)
//! takes about a second and its figures mean nothing.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo says --bench; the setting is for benches alone.
    let flags: Vec<String> = env::args().skip(1).filter(|flag| flag != "--bench").collect();
    let smoke = env::var_os("MYELON_BENCH_SMOKE").is_some_and(|value| value == "1");
    let smoke = (smoke && !flags.iter().any(|flag| flag == "--smoke")).then(|| "--smoke".to_string());
    let command = ["myelon", "sweep"].map(String::from);
    myelon_cli::command_line(command.into_iter().chain(smoke).chain(flags))
}
