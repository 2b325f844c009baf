//! The pages of running programs, for `myelon top` and `myelon doctor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use myelon_collectives::{CallWord, RecordPlace, Settings};
use myelon_lanes::Algorithm;
use myelon_recorder::{Folder, Page, Row};

use crate::failure::Failure;

/// Which pages.
#[derive(Args, Debug)]
pub struct Pages {
    /// Where the pages are [default: MYELON_RECORD, else the user's private folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Which")]
    pub folder: Option<PathBuf>,
    /// Only ranks of this process
    #[arg(long, value_name = "PID", help_heading = "Which")]
    pub pid: Option<u64>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lines {
    /// For people
    Table,
    /// For programs: one object a line
    Json,
}

impl Pages {
    /// The folder that is looked at.
    ///
    /// # Errors
    ///
    /// A setting that is not known or means nothing.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        let place = match &self.folder {
            Some(folder) => RecordPlace::Folder(folder.clone()),
            // None: nothing new is recorded, but there may be pages.
            None => Settings::from_env()?.record.filter(|it| *it != RecordPlace::None).unwrap_or_default(),
        };
        Ok(place.path().unwrap_or_else(Folder::usual_path))
    }

    /// The pages that are there now; none where there is no folder.
    ///
    /// # Errors
    ///
    /// As [`Pages::path`]; a folder that is not private or can't be read.
    pub fn look(&self) -> Result<Vec<Page>, Failure> {
        let run = |error: myelon_recorder::RecordError| Failure::Run(error.into());
        let Some(folder) = Folder::existing(&self.path()?).map_err(run)? else { return Ok(Vec::new()) };
        let mut pages = folder.pages().map_err(run)?;
        pages.retain(|page| self.pid.is_none_or(|pid| page.header().pid == pid));
        Ok(pages)
    }

    /// What to say where there are no pages.
    pub fn nothing(&self) -> Result<String, Failure> {
        let of = self.pid.map_or(String::new(), |pid| format!(" of process {pid}"));
        Ok(format!("no rank{of} records in {}", self.path()?.display()))
    }
}

/// A communicator's number, as it is written.
pub fn communicator(number: u64) -> String {
    format!("{number:016x}")
}

/// What a row calls: `all_reduce f32 sum count=1024, in place`.
pub fn call(row: &Row) -> String {
    let mut text = CallWord::from_bits(row.call).to_string();
    if row.flags & Row::IN_PLACE != 0 {
        text += ", in place";
    }
    if row.calls > 1 {
        text += &format!(", first of {} by a graph", row.calls);
    } else if row.flags & Row::GRAPH != 0 {
        text += ", by a graph";
    }
    text
}

/// How a row is carried out: `ring 2 lanes`.
pub fn plan(row: &Row) -> String {
    let name = Algorithm::ALL.get(row.algorithm as usize).map_or("unknown", |algorithm| algorithm.name());
    format!("{name} {} {}", row.lanes, if row.lanes == 1 { "lane" } else { "lanes" })
}

/// A time in three figures or so, with its unit: `12.8 us`, `340 ms`, `12.1 s`.
pub fn span(ns: u64) -> String {
    let duration = Duration::from_nanos(ns);
    let (value, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (duration.as_secs_f64(), "s"),
    };
    let places = if value < 100.0 { 1 } else { 0 };
    format!("{value:.places$} {unit}")
}

/// `rank 2`, `ranks 0 and 1`, `ranks 0, 1 and 3`.
pub fn ranks(ranks: &[usize]) -> String {
    match ranks {
        [one] => format!("rank {one}"),
        [more @ .., last] => {
            let more: Vec<String> = more.iter().map(usize::to_string).collect();
            format!("ranks {} and {last}", more.join(", "))
        }
        [] => "no rank".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        let texts = [0, 12_780, 340_000_000, 12_100_000_000, 200_000_000_000].map(span);
        assert_eq!(texts, ["0.0 us", "12.8 us", "340 ms", "12.1 s", "200 s"]);
    }

    #[test]
    fn ranks_are_listed_as_people_do() {
        assert_eq!(
            [ranks(&[2]), ranks(&[0, 1]), ranks(&[0, 1, 3])],
            ["rank 2", "ranks 0 and 1", "ranks 0, 1 and 3"]
        );
    }
}
