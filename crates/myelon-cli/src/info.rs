//! `myelon info`: what is there, and what would be used.

use std::env;
use std::io::{self, Write};
use std::thread;

use comfy_table::Table;
use myelon_collectives::{Backend, Builder, Communicator, Settings, cuda_report};

use crate::all_reduce::ranks_and_devices;
use crate::failure::Failure;
use crate::sizes::about_bytes;

/// A heading and lines of name and value.
struct Section {
    title: &'static str,
    rows: Vec<(String, String)>,
}

/// Prints the report.
///
/// # Errors
///
/// A setting that is not known or means nothing; a host on which not even threads can be ranks.
pub fn run() -> Result<(), Failure> {
    Settings::from_env()?;
    let sections = [
        Section { title: "Backend", rows: backend_rows()? },
        Section { title: "Host", rows: host_rows() },
        Section { title: "CUDA", rows: cuda_report() },
        Section { title: "Ring memory of a rank, host backend", rows: ring_rows()? },
        Section {
            title: "Settings",
            rows: setting_rows(|name| env::var_os(name).map(|value| value.to_string_lossy().into())),
        },
    ];
    let mut out = io::stdout().lock();
    writeln!(out, "myelon {}", env!("CARGO_PKG_VERSION"))?;
    for section in &sections {
        writeln!(out, "\n{}", show(section))?;
    }
    Ok(())
}

/// What `auto` takes here, and why.
fn backend_rows() -> Result<Vec<(String, String)>, Failure> {
    let ranks = Communicator::builder().build()?;
    Ok(vec![
        row("auto takes", ranks[0].backend()),
        row("because", ranks[0].backend_reason()),
        row("ranks by default", ranks_and_devices(&ranks)),
        row("rings of a rank", about_bytes(ranks[0].ring_bytes())),
    ])
}

fn host_rows() -> Vec<(String, String)> {
    let cores = thread::available_parallelism().map_or("unknown".into(), |cores| cores.to_string());
    vec![
        row("system", format!("{} {}", env::consts::OS, env::consts::ARCH)),
        row("cores for this process", cores),
        row("ranks", "2 to 8 threads"),
    ]
}

/// What the rings of a host rank take, for every number of ranks, with the settings of the environment.
fn ring_rows() -> Result<Vec<(String, String)>, Failure> {
    let bytes = |ranks: usize| -> Result<(String, String), Failure> {
        let ranks = Builder::from_env()?.backend(Backend::Host).ranks(ranks).build()?;
        Ok(row(format!("{} ranks", ranks.len()), about_bytes(ranks[0].ring_bytes())))
    };
    (2..=8).map(bytes).collect()
}

/// Every setting that is known, and its value where it has one.
fn setting_rows(value: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    Settings::NAMES.iter().map(|&name| row(name, value(name).unwrap_or_else(|| "(not set)".into()))).collect()
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
