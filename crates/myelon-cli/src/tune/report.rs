//! What tuning says: a table for people, lines for programs.

use std::io::{self, Write};

use myelon_lanes::format_bytes;
use serde::Serialize;

use super::decide::Decided;
use crate::all_reduce::say;
use crate::args::Format;
use crate::record::{csv_cells, json_line};
use crate::sweep::median;
use crate::table::time;

/// The sizes of one kind of buffers.
pub struct Kind {
    pub windows: bool,
    pub decided: Vec<Decided>,
}

/// One size, for programs. The names of the fields are those in JSON and CSV.
#[derive(Serialize)]
struct Record<'a> {
    backend: &'a str,
    ranks: usize,
    buffers: &'static str,
    bytes: u64,
    automatic_us: f64,
    tuned_us: f64,
    gain_percent: f64,
    changed: bool,
    plan: String,
    automatic_plan: String,
}

const FIELDS: [&str; 10] = [
    "backend",
    "ranks",
    "buffers",
    "bytes",
    "automatic_us",
    "tuned_us",
    "gain_percent",
    "changed",
    "plan",
    "automatic_plan",
];

/// Writes results to standard output, and for programs the words around them to standard error.
pub struct Report {
    pub format: Format,
    pub backend: String,
    pub ranks: usize,
}

impl Report {
    /// Words around the results.
    pub fn words(&self, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| match self.format {
            Format::Table => say(&format!("# {line}")),
            Format::Csv | Format::Json => writeln!(io::stderr(), "# {line}"),
        })
    }

    /// All sizes of all kinds.
    pub fn sizes(&self, kinds: &[Kind]) -> io::Result<()> {
        match self.format {
            Format::Table => table(kinds).iter().try_for_each(|line| say(line)),
            Format::Csv => {
                say(&FIELDS.join(","))?;
                self.records(kinds).try_for_each(|record| say(&csv_cells(&FIELDS, &record)))
            }
            Format::Json => self.records(kinds).try_for_each(|record| say(&json_line(&record))),
        }
    }

    fn records<'a>(&'a self, kinds: &'a [Kind]) -> impl Iterator<Item = Record<'a>> {
        kinds.iter().flat_map(move |kind| {
            kind.decided.iter().map(move |one| Record {
                backend: &self.backend,
                ranks: self.ranks,
                buffers: buffers(kind.windows),
                bytes: one.bytes,
                automatic_us: figures(one.automatic_us),
                tuned_us: figures(one.time_us),
                gain_percent: figures(one.gain()),
                changed: one.is_changed(),
                plan: one.shape.to_string(),
                automatic_plan: one.automatic.to_string(),
            })
        })
    }
}

pub fn buffers(windows: bool) -> &'static str {
    if windows { "windows" } else { "any" }
}

/// No more digits than a measurement has.
fn figures(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn table(kinds: &[Kind]) -> Vec<String> {
    let mut lines = vec![
        format!("#{:>12}{:>11}{:>11}{:>9}  plan | automatic plan", "size", "automatic", "tuned", "gain"),
        format!("#{:>12}{:>11}{:>11}{:>9}", "(B)", "(us)", "(us)", "(%)"),
    ];
    for (place, kind) in kinds.iter().enumerate() {
        // Where direct cannot run, both kinds are alike.
        if kinds[..place].iter().any(|before| before.decided == kind.decided) {
            lines.push(format!("# {} buffers: the same", buffers(kind.windows)));
            continue;
        }
        lines.push(format!("# {} buffers", buffers(kind.windows)));
        for one in &kind.decided {
            let [automatic, tuned] = [one.automatic_us, one.time_us].map(time);
            let (gain, plan) = match one.is_changed() {
                true => (format!("{:.1}", one.gain()), format!("{} | {}", one.shape, one.automatic)),
                false => ("-".into(), format!("= {}", one.automatic)),
            };
            lines.push(format!(" {:>12}{automatic:>11}{tuned:>11}{gain:>9}  {plan}", one.bytes));
        }
    }
    lines
}

/// How many sizes changed, and by how much.
pub fn summary(kinds: &[Kind], turns: usize) -> Vec<String> {
    let mut lines = vec![format!("wrong elements  0, OK, in {turns} turns")];
    for kind in kinds {
        let changed: Vec<&Decided> = kind.decided.iter().filter(|one| one.is_changed()).collect();
        let gains: Vec<f64> = changed.iter().map(|one| one.gain()).collect();
        let best = changed.iter().max_by(|a, b| a.gain().total_cmp(&b.gain()));
        let by = match (median(&gains), best) {
            (Some(middle), Some(best)) => {
                let at = format_bytes(best.bytes);
                format!(": gain median {middle:.1} %, best {:.1} % at {at}", best.gain())
            }
            _ => ": the automatic plans hold".into(),
        };
        let name = format!("{} buffers", buffers(kind.windows));
        lines.push(format!("{name:15} {} of {} sizes changed{by}", changed.len(), kind.decided.len()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use myelon_lanes::Algorithm;

    use super::*;
    use crate::tune::shape::Shape;

    fn kind(windows: bool) -> Kind {
        let shape = Shape { algorithm: Algorithm::Ring, lanes: 2, piece_bytes: 1024, blocks: 6, threads: 64 };
        let stays = Decided { bytes: 1024, automatic: shape, automatic_us: 12.5, shape, time_us: 12.5 };
        let changed = Decided { bytes: 4096, shape: Shape { lanes: 4, ..shape }, time_us: 10.0, ..stays };
        Kind { windows, decided: vec![stays, changed] }
    }

    #[test]
    fn columns_stand_under_their_names_and_the_same_is_told_once() {
        let lines = table(&[kind(false), kind(true)]);
        let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
        assert_eq!((lines.len(), lines[5].as_str()), (6, "# windows buffers: the same"));
        for (value, name) in [("4096", "size"), ("12.50", "automatic"), ("10.00", "tuned"), ("25.0", "gain")]
        {
            assert_eq!(end(&lines[4], value), end(&lines[0], name), "{name}\n{lines:#?}");
        }
        assert!(lines[3].ends_with("-  = ring lanes=2 blocks=6 threads=64 slot=1KiB"), "{lines:#?}");
        let plans =
            "  ring lanes=4 blocks=6 threads=64 slot=1KiB | ring lanes=2 blocks=6 threads=64 slot=1KiB";
        assert!(lines[4].ends_with(plans), "{lines:#?}");
    }

    #[test]
    fn the_summary_counts_what_changed() {
        let lines =
            summary(&[kind(false), Kind { windows: true, decided: kind(true).decided[..1].to_vec() }], 7);
        assert_eq!(lines[0], "wrong elements  0, OK, in 7 turns");
        assert_eq!(lines[1], "any buffers     1 of 2 sizes changed: gain median 25.0 %, best 25.0 % at 4KiB");
        assert_eq!(lines[2], "windows buffers 0 of 1 sizes changed: the automatic plans hold");
    }

    #[test]
    fn csv_names_every_field() {
        let report = Report { format: Format::Csv, backend: "host".into(), ranks: 2 };
        let kinds = [kind(true)];
        let records: Vec<Record<'_>> = report.records(&kinds).collect();
        let values = serde_json::to_value(&records[1]).unwrap();
        let mut names: Vec<&str> = values.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS;
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
        let cells = csv_cells(&FIELDS, &records[1]);
        assert!(cells.starts_with("host,2,windows,4096,12.5,10.0,25.0,true,ring lanes=4 "), "{cells}");
    }
}
