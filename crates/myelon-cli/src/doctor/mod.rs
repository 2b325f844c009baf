//! `myelon doctor`: the last calls of the ranks of a communicator side by side, and what is wrong with them.

mod chart;
mod report;
#[cfg(test)]
mod tests;
mod verdict;

use std::io::{self, Write};

use clap::Args;
use myelon_recorder::now_ns;
use owo_colors::{OwoColorize, Stream};

use crate::failure::Failure;
use crate::pages::{Lines, Pages};
use crate::record::json_line;
use chart::Chart;

/// Says which rank is dead, late or called something else, from what ranks recorded last
///
/// Reads the pages in which ranks record their last calls: also those of a process that hangs, and of one that has
/// died and left its page. Nothing is disturbed or removed.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Doctor {
    #[command(flatten)]
    pub pages: Pages,
    /// Only this communicator, by the first digits of its number
    #[arg(long, value_name = "NUMBER", help_heading = "Which")]
    pub communicator: Option<String>,
    /// Calls to show: the last ones, or those around the one where ranks part
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=512), value_name = "N", help_heading = "Output")]
    pub rows: u64,
    /// Sentences and a table for people, or one object a communicator for programs
    #[arg(long, value_enum, default_value_t = Lines::Table, help_heading = "Output")]
    pub format: Lines,
}

const HELP: &str = "\
For each communicator, those in trouble first: what is wrong, what to do next, and a table with a row a call and \
a column a rank.
  12.8 us            the call is complete, and took so long
  done               it is complete; how long it took is not known (GPUs)
  running 12.1 s     it runs since then; on a rank whose process has ended: died in it
  made 12.1 s        it was made, and waits for its turn; on GPUs it may run
  failed 3.0 s       it failed after so long
  not begun          an earlier call failed
  -                  the rank never made it
  ?                  the rank has made so many calls since that it is not kept
A row where ranks part is marked, and what each of them called is listed below it.

Pages of a communicator that failed stay until this user's next communicator is opened, in the same process or, \
once that has ended, in any: so look before you run again. 'myelon top' shows all ranks while they run.

Examples:
  Something hangs, or has failed
    myelon doctor
  One process, the last 40 calls
    myelon doctor --pid 4711 --rows 40
  For programs
    myelon doctor --format json | jq -r .sentences[]

Exit code: 0 nothing is wrong, or there are no ranks; 1 a communicator is in trouble, or the folder can't be read; \
2 bad usage.";

/// Runs the command; `true` where no communicator is in trouble.
///
/// # Errors
///
/// Those of [`Pages::look`], and of writing.
pub fn run(args: &Doctor) -> Result<bool, Failure> {
    let now = now_ns();
    // By process a communicator would miss its other ranks: all are read, then those that have a rank there.
    let all = Pages { folder: args.pages.folder.clone(), pid: None };
    let mut charts = Chart::all(&all.look()?, now);
    charts.retain(|chart| {
        let is_named =
            args.communicator.as_ref().is_none_or(|start| chart.number.starts_with(start.as_str()));
        is_named && args.pages.pid.is_none_or(|pid| chart.seats.iter().flatten().any(|seat| seat.pid == pid))
    });
    let mut cases: Vec<_> = charts.iter().map(|chart| (chart, verdict::of(chart))).collect();
    cases.sort_by_key(|(_, verdict)| !verdict.trouble);
    let mut out = io::stdout().lock();
    for (place, (chart, verdict)) in cases.iter().enumerate() {
        if args.format == Lines::Json {
            writeln!(out, "{}", json_line(&report::Object::new(chart, verdict, args.rows)))?;
            continue;
        }
        if place > 0 {
            writeln!(out)?;
        }
        for line in report::lines(chart, verdict, args.rows) {
            if line.is_marked {
                writeln!(out, "{}", line.text.if_supports_color(Stream::Stdout, |text| text.red()))?;
            } else {
                writeln!(out, "{}", line.text)?;
            }
        }
    }
    if cases.is_empty() && args.format == Lines::Table {
        writeln!(out, "# {}", args.pages.nothing()?)?;
    }
    Ok(cases.iter().all(|(_, verdict)| !verdict.trouble))
}
