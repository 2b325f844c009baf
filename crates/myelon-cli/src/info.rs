//! `myelon info`: what is there, and what would be used.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::thread;

use comfy_table::Table;
use myelon_collectives::{Backend, Builder, Communicator, ErrorKind, Settings, TuningFile, cuda_report};
use myelon_lanes::{Machine, Tuning};

use crate::all_reduce::ranks_and_devices;
use crate::failure::Failure;
use crate::sizes::about_bytes;

/// A heading and lines of name and value.
struct Section {
    title: &'static str,
    rows: Vec<(String, String)>,
}

/// Prints the report; the settings come first, so that they are seen even where they are refused.
///
/// # Errors
///
/// A setting that is not known, means nothing or can't be had.
pub fn run() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "myelon {}", env!("CARGO_PKG_VERSION"))?;
    let settings = setting_rows(|name| env::var_os(name).map(|value| value.to_string_lossy().into()));
    writeln!(out, "\n{}", show(&Section { title: "Settings", rows: settings }))?;
    let (backend, rows) = backend_rows()?;
    let sections = [
        Section { title: "Backend with these settings", rows },
        Section { title: "Host", rows: host_rows() },
        Section { title: "CUDA", rows: cuda_report() },
        if backend == Backend::Host {
            Section { title: "Ring memory of a rank, host backend", rows: host_ring_rows()? }
        } else {
            Section { title: CUDA_RINGS, rows: cuda_ring_rows() }
        },
    ];
    for section in &sections {
        writeln!(out, "\n{}", show(section))?;
    }
    Ok(())
}

const CUDA_RINGS: &str = "Ring memory of a rank, cuda backend: the automatic one for GPUs like an H200";

/// The backend that a run would use, or that it would ask for in vain, and what is to say of it.
fn backend_rows() -> Result<(Backend, Vec<(String, String)>), Failure> {
    match Builder::from_env()?.build() {
        Ok(ranks) => {
            let first = &ranks[0];
            let usual = TuningFile::usual_path().map_or("none".into(), |path| path.display().to_string());
            let rows = vec![
                row("backend", first.backend()),
                row("because", first.backend_reason()),
                row("ranks", ranks_and_devices(&ranks)),
                row("rings of a rank", about_bytes(first.ring_bytes())),
                row("table", first.table_reason()),
                row("usual table", usual),
                row("records", records(first)),
            ];
            Ok((first.backend(), rows))
        }
        Err(error) if matches!(error.kind(), ErrorKind::Settings | ErrorKind::InvalidArgument) => {
            Err(error.into())
        }
        // The host needs no more than threads, so this is CUDA's.
        Err(error) => Ok((Backend::Cuda, vec![row("backend", "none"), row("because", error)])),
    }
}

/// Where ranks record what they do.
fn records(rank: &Communicator) -> String {
    let folder = rank.record_file().and_then(|file| file.parent());
    folder.map_or("none that others see".into(), |folder| folder.display().to_string())
}

fn host_rows() -> Vec<(String, String)> {
    let cores = thread::available_parallelism().map_or("unknown".into(), |cores| cores.to_string());
    vec![
        row("system", format!("{} {}", env::consts::OS, env::consts::ARCH)),
        row("cores for this process", cores),
        row("ranks", "2 to 8 threads or processes"),
    ]
}

/// What the rings of a host rank take, for every number of ranks, with the settings of the environment.
fn host_ring_rows() -> Result<Vec<(String, String)>, Failure> {
    let builder = Builder::from_env()?.backend(Backend::Host);
    // A tuning file is for some numbers of ranks; its own are above.
    let builder = builder.tuning_file(TuningFile::None);
    let bytes = |ranks| builder.clone().ranks(ranks).build().map(|ranks| ranks[0].ring_bytes());
    Ok((2..=8).map(|ranks| ring_row(ranks, bytes(ranks))).collect())
}

/// What they take on a GPU like an H200 where nothing is forced.
fn cuda_ring_rows() -> Vec<(String, String)> {
    let tuning = Tuning::new(Machine::h200());
    let bytes = |ranks| tuning.pool(ranks).map(|pool| pool.window_bytes(ranks));
    (2..=8).map(|ranks| ring_row(ranks, bytes(ranks))).collect()
}

/// A number of ranks for which there are no such rings says why.
fn ring_row<E: Display>(ranks: impl Display, bytes: Result<u64, E>) -> (String, String) {
    row(format!("{ranks} ranks"), bytes.map_or_else(|error| format!("none: {error}"), about_bytes))
}

/// Every setting that is known, and its value where it has one.
fn setting_rows(value: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let shown = |name: &str| match (name, value(name)) {
        (_, None) => "(not set)".into(),
        ("MYELON_SECRET", Some(_)) => "(set, not shown)".into(),
        (_, Some(value)) => value,
    };
    Settings::NAMES.iter().map(|&name| row(name, shown(name))).collect()
}

fn row(name: impl ToString, value: impl ToString) -> (String, String) {
    (name.to_string(), value.to_string())
}

/// The section as text: the title, then indented names and values in two columns.
fn show(section: &Section) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for (name, value) in &section.rows {
        table.add_row([format!(" {name}"), value.clone()]);
    }
    let lines = table.lines().map(|line| line.trim_end().to_string());
    [section.title.to_string()].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_listed_with_its_value() {
        let rows = setting_rows(|name| (name == "MYELON_LANES").then(|| "7".to_string()));
        assert_eq!(rows.len(), Settings::NAMES.len());
        assert!(rows.contains(&row("MYELON_LANES", "7")));
        assert!(rows.contains(&row("MYELON_SLOTS", "(not set)")));
        let rows = setting_rows(|_| Some("hush".to_string()));
        assert!(rows.contains(&row("MYELON_SECRET", "(set, not shown)")));
    }

    #[test]
    fn rings_of_gpus_are_those_of_the_tuning() {
        let rows = cuda_ring_rows();
        assert_eq!(rows.len(), 7);
        let eight = Tuning::new(Machine::h200()).pool(8).unwrap().window_bytes(8);
        assert_eq!(rows[6], row("8 ranks", about_bytes(eight)));
        assert_eq!(ring_row(3, Err("too large")), row("3 ranks", "none: too large"));
    }

    #[test]
    fn a_section_is_its_title_over_aligned_rows() {
        let section = Section { title: "Host", rows: vec![row("a", "one"), row("longer", "two")] };
        let text = show(&section);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Host");
        assert_eq!(lines[1].find("one"), lines[2].find("two"));
        assert!(lines[1].starts_with("  a"));
    }
}
