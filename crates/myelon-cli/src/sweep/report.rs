//! What a sweep says: a table for people, lines for programs.

use std::io::{self, Write};

use myelon_collectives::{Communicator, Launch};
use myelon_lanes::{Algorithm, format_bytes};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use super::operands::Operands;
use super::outcome::{Outcome, Trial, median, over_sizes};
use super::setting::Refused;
use super::turns::name;
use crate::all_reduce::say;
use crate::args::Format;
use crate::record::{bandwidths, csv_cells, json_line};
use crate::table::{bandwidth, time};

/// One setting at one size, or one that was refused. The names of the fields are those in JSON and CSV.
#[derive(Debug, Default, Serialize)]
struct Record {
    backend: String,
    ranks: usize,
    /// Payload of a rank; none for what was refused.
    bytes: Option<u64>,
    count: Option<usize>,
    dtype: String,
    op: String,
    algorithm: &'static str,
    /// `automatic`, `forced` or `refused`.
    setting: &'static str,
    /// Of the plan that was launched; of what was refused, as far as it was forced.
    lanes: Option<u32>,
    slot_bytes: Option<u32>,
    slots: Option<u32>,
    blocks: Option<u32>,
    threads: Option<u32>,
    /// Median over the turns; none where anything was wrong.
    time_us: Option<f64>,
    /// The fastest turn.
    least_us: Option<f64>,
    turns: usize,
    /// Calls in a turn.
    calls: u32,
    algbw_gbps: Option<f64>,
    busbw_gbps: Option<f64>,
    /// `time_us` over that of the best setting, less 1.
    over_best: Option<f64>,
    /// Whether this is the best setting of this size.
    best: bool,
    /// Median over the turns of the best and the automatic setting alone.
    again_us: Option<f64>,
    wrong: Option<u64>,
    /// What one thread of the host copies.
    copy_gbps: Option<f64>,
    /// Why it was refused.
    why: String,
}

/// The fields in the order of the columns of CSV.
const FIELDS: [&str; 25] = [
    "backend",
    "ranks",
    "bytes",
    "count",
    "dtype",
    "op",
    "setting",
    "lanes",
    "slot_bytes",
    "slots",
    "blocks",
    "threads",
    "time_us",
    "least_us",
    "turns",
    "calls",
    "algbw_gbps",
    "busbw_gbps",
    "over_best",
    "best",
    "again_us",
    "wrong",
    "copy_gbps",
    "algorithm",
    "why",
];

/// Writes results to standard output, and for programs the words around them to standard error.
pub struct Report {
    format: Format,
    backend: String,
    ranks: usize,
    dtype: String,
    op: String,
    algorithm: Algorithm,
}

impl Report {
    pub fn new(format: Format, rank: &Communicator, operands: &Operands, algorithm: Algorithm) -> Self {
        let (dtype, op) = (operands.dtype().to_string(), operands.op().to_string());
        Self { format, backend: rank.backend().to_string(), ranks: rank.ranks(), dtype, op, algorithm }
    }

    /// What is run where, and the heads of the columns.
    pub fn begin(&self, words: &[String]) -> io::Result<()> {
        self.words(words)?;
        match self.format {
            Format::Table => table_header().iter().try_for_each(|line| say(line)),
            Format::Csv => say(&FIELDS.join(",")),
            Format::Json => Ok(()),
        }
    }

    /// A setting that cannot be had.
    pub fn refused(&self, refused: &Refused) -> io::Result<()> {
        match self.format {
            Format::Table => say(&format!("# refused  {}: {}", refused.forced, refused.why)),
            Format::Csv | Format::Json => self.record(&self.of_refused(refused)),
        }
    }

    /// One size; `automatic` is what its automatic setting launched.
    pub fn size(&self, outcome: &Outcome, automatic: &Launch) -> io::Result<()> {
        tracing::debug!(bytes = outcome.bytes, loss = ?outcome.loss(), ?automatic, "swept");
        match self.format {
            Format::Table => say(&self.table_line(outcome)),
            Format::Csv | Format::Json => {
                (0..outcome.trials.len()).try_for_each(|place| self.record(&self.of_trial(outcome, place)))
            }
        }
    }

    /// What the sweep came to.
    pub fn end(&self, outcomes: &[Outcome], refused: usize) -> io::Result<()> {
        self.words(&summary(outcomes, refused))
    }

    fn words(&self, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| match self.format {
            Format::Table => say(&format!("# {line}")),
            Format::Csv | Format::Json => writeln!(io::stderr(), "# {line}"),
        })
    }

    fn record(&self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Json => say(&json_line(record)),
            _ => say(&csv_cells(&FIELDS, record)),
        }
    }

    fn blank(&self) -> Record {
        Record {
            backend: self.backend.clone(),
            ranks: self.ranks,
            dtype: self.dtype.clone(),
            op: self.op.clone(),
            algorithm: self.algorithm.name(),
            ..Record::default()
        }
    }

    fn of_refused(&self, refused: &Refused) -> Record {
        let forced = refused.forced;
        Record {
            setting: "refused",
            lanes: forced.lanes,
            slot_bytes: forced.piece_bytes,
            slots: forced.slots,
            blocks: forced.blocks,
            threads: forced.threads,
            why: refused.why.clone(),
            ..self.blank()
        }
    }

    fn of_trial(&self, outcome: &Outcome, place: usize) -> Record {
        let trial = &outcome.trials[place];
        let plan = trial.plan;
        let time_us = trial.time_us();
        let rates = time_us.map(|time_us| bandwidths(outcome.bytes, self.ranks, time_us));
        Record {
            bytes: Some(outcome.bytes),
            count: Some(outcome.count),
            setting: if trial.forced.is_empty() { "automatic" } else { "forced" },
            lanes: Some(plan.lanes),
            slot_bytes: Some(plan.piece_bytes),
            slots: Some(plan.slots),
            blocks: Some(plan.blocks),
            threads: Some(plan.threads),
            time_us: figures(time_us),
            least_us: figures(time_us.and_then(|_| trial.times_us.iter().copied().reduce(f64::min))),
            turns: trial.times_us.len(),
            calls: trial.calls,
            algbw_gbps: figures(rates.map(|rates| rates.0)),
            busbw_gbps: figures(rates.map(|rates| rates.1)),
            over_best: figures(outcome.over_best(trial).map(|percent| percent / 100.0)),
            best: outcome.best() == Some(place),
            again_us: figures(median(&trial.again_us)),
            wrong: Some(trial.wrong),
            copy_gbps: figures(outcome.copy_gbps),
            ..self.blank()
        }
    }

    fn table_line(&self, outcome: &Outcome) -> String {
        let none = || "-".to_string();
        let figures = |trial: Option<&Trial>| match trial.and_then(Trial::time_us) {
            Some(us) => {
                let (_, busbw) = bandwidths(outcome.bytes, self.ranks, us);
                format!("{:>11}{:>9}", time(us), bandwidth(busbw))
            }
            None => format!("{:>11}{:>9}", "-", "-"),
        };
        let percent = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.1}"));
        let automatic = outcome.automatic();
        let best = outcome.best().map(|place| &outcome.trials[place]);
        let line = format!(
            " {:>12}{}{}{:>9}{:>9}{:>9}  {} | {}",
            outcome.bytes,
            figures(Some(automatic)),
            figures(best),
            percent(outcome.loss()),
            percent(outcome.again()),
            outcome.copy_gbps.map_or_else(none, bandwidth),
            best.map_or_else(none, |trial| name(&trial.forced)),
            automatic.plan
        );
        match outcome.wrong() {
            0 => line,
            wrong => line + &red(format!("  {wrong} wrong elements")),
        }
    }
}

/// The lines over the table, of which the last names the units.
fn table_header() -> Vec<String> {
    let line = |cells: [&str; 8], rest: &str| {
        let [size, automatic, busbw, best, best_busbw, loss, again, copy] = cells;
        let line = format!(
            "#{size:>12}{automatic:>11}{busbw:>9}{best:>11}{best_busbw:>9}{loss:>9}{again:>9}{copy:>9}  {rest}"
        );
        line.trim_end().to_string()
    };
    vec![
        line(
            ["size", "automatic", "busbw", "best", "busbw", "loss", "again", "copy"],
            "best | automatic plan",
        ),
        line(["(B)", "(us)", "(GB/s)", "(us)", "(GB/s)", "(%)", "(%)", "(GB/s)"], ""),
    ]
}

/// The loss over all sizes, wrong elements, and how many settings took part.
fn summary(outcomes: &[Outcome], refused: usize) -> Vec<String> {
    let wrong: u64 = outcomes.iter().map(Outcome::wrong).sum();
    let settings = outcomes.iter().map(|outcome| outcome.trials.len() - 1).max().unwrap_or(0);
    let loss = |loss: fn(&Outcome) -> Option<f64>| match over_sizes(outcomes, loss) {
        Some((middle, worst, bytes)) => {
            format!("median {middle:.1} %, worst {worst:.1} % at {}", format_bytes(bytes))
        }
        None => "none".into(),
    };
    let sizes = match outcomes.len() {
        1 => "1 size".into(),
        sizes => format!("{sizes} sizes"),
    };
    vec![
        format!("settings        {settings} forced and the automatic one, {refused} refused"),
        match wrong {
            0 => "wrong elements  0, OK".into(),
            _ => format!("wrong elements  {}", red(format!("{wrong}, FAILED"))),
        },
        format!("loss            {} (automatic / best - 1, over {sizes})", loss(Outcome::loss)),
        format!("again           {} (these two alone)", loss(Outcome::again)),
    ]
}

fn red(text: String) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.red()).to_string()
}

/// No more digits than a measurement has.
fn figures(value: Option<f64>) -> Option<f64> {
    value.map(|value| (value * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use myelon_lanes::Forced;

    use super::*;
    use crate::sweep::outcome::tests::outcome;

    fn report() -> Report {
        let (dtype, op) = ("f32".into(), "sum".into());
        let algorithm = Algorithm::Ring;
        Report { format: Format::Csv, backend: "host".into(), ranks: 2, dtype, op, algorithm }
    }

    #[test]
    fn columns_stand_under_their_names() {
        let row = report().table_line(&outcome(4096, &[15.25, 12.5]));
        let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
        let header = table_header();
        for (value, name) in [("4096", "size"), ("15.25", "automatic"), ("12.50", "best"), ("22.0", "loss")] {
            assert_eq!(end(&row, value), end(&header[0], name), "{name}\n{}\n{row}", header[0]);
        }
        assert_eq!(end(&row, "6.50"), end(&header[0], "copy"));
        assert!(row.ends_with("  lanes=1 | ring lanes=1 blocks=3 threads=1 slot=64KiB slots=4"), "{row}");
    }

    #[test]
    fn the_summary_says_loss_refusals_and_wrong_elements() {
        let mut outcomes = vec![outcome(64, &[2.0, 1.0]), outcome(4096, &[1.0, 1.5])];
        let lines = summary(&outcomes, 3).join("\n");
        for words in [
            "1 forced and the automatic one, 3 refused",
            "0, OK",
            "median 50.0 %, worst 100.0 % at 64B",
            "over 2 sizes",
        ] {
            assert!(lines.contains(words), "no `{words}` in\n{lines}");
        }
        outcomes[1].trials[1].wrong = 7;
        assert!(summary(&outcomes, 0).join("\n").contains("7, FAILED"));
        assert!(report().table_line(&outcomes[1]).contains("7 wrong elements"));
        assert!(summary(&[], 1).join("\n").contains("loss            none"));
    }

    #[test]
    fn csv_names_every_field_and_a_wrong_or_refused_setting_has_no_time() {
        let record = report().of_trial(&outcome(4096, &[15.0, 12.0]), 0);
        let values = serde_json::to_value(&record).unwrap();
        let mut names: Vec<&str> = values.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS.to_vec();
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
        assert_eq!(
            csv_cells(&FIELDS, &record),
            "host,2,4096,1024,f32,sum,automatic,1,65536,4,3,1,15.0,7.5,3,7,0.2731,0.2731,0.25,false,,0,6.5,ring,"
        );
        let mut wrong = outcome(4096, &[15.0, 12.0]);
        wrong.trials[1].wrong = 3;
        let record = report().of_trial(&wrong, 1);
        assert_eq!(
            (record.time_us, record.least_us, record.busbw_gbps, record.wrong),
            (None, None, None, Some(3))
        );
        let refused =
            Refused { forced: Forced { slots: Some(3), ..Forced::default() }, why: "slots, 3".into() };
        assert_eq!(
            csv_cells(&FIELDS, &report().of_refused(&refused)),
            "host,2,,,f32,sum,refused,,,3,,,,,0,0,,,,false,,,,ring,\"slots, 3\""
        );
    }
}
