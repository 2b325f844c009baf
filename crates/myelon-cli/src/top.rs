//! `myelon top`: what the ranks of this user's programs do, while they do it.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use myelon_recorder::{Backend, Count, Life, Page, State, now_ns};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use crate::args::seconds;
use crate::failure::Failure;
use crate::pages::{Lines, Pages, call, communicator, span};
use crate::record::json_line;

/// Shows what every rank of this user's programs does, like top
///
/// Reads the pages in which ranks record what they do; it never disturbs them. On a terminal the table is refreshed
/// until it is ended; else it is written once.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Top {
    #[command(flatten)]
    pub pages: Pages,
    /// Look twice, write one table, and end
    #[arg(long, help_heading = "Output")]
    pub once: bool,
    /// Time between two looks
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "SECONDS", help_heading = "Output")]
    pub every: Duration,
    /// A table for people, or one object a rank for programs
    #[arg(long, value_enum, default_value_t = Lines::Table, help_heading = "Output")]
    pub format: Lines,
}

const HELP: &str = "\
Columns:
  pid, rank     process, and which rank of how many; ranks of one communicator
                stand together
  where         host or cuda
  calls         calls complete; on GPUs a quarter of a second late, but for those
                that somebody has waited for
  moved         payload of these calls at this rank, in 1e9 bytes
  rate          the same a second, since the last look
  data, credit  share of the time since the last look that was spent waiting for
                what peers send, and for room to send to them; host ranks only,
                and waits too short to look at the clock (64 polls) are left out
  polls         since the start, for data and for credit, in thousands (k),
                millions (M), ...; on GPUs of all threads, by 1024 and of waits
                of half a millisecond or more
  longest       the longest wait since the start
  late, failed  calls that were warned of because they waited long; errors
  now           the call that runs and since when; 'made' is one that waits for
                its turn (on GPUs: one not seen complete)

Examples:
  Watch
    myelon top
  For scripts: every rank that fails, or has been in a call for a second
    myelon top --once --format json | jq 'select(.failed > 0 or .now_us > 1e6)'

Ranks record unless MYELON_RECORD=none or Builder::record says otherwise. Only this user's pages are read.

Exit code: 0 also where there are no ranks; 1 the folder is not private or can't be read; 2 bad usage.";

/// One rank at one look, for programs. The names of the fields are the names in JSON.
#[derive(Clone, Debug, Serialize)]
struct Line {
    pid: u64,
    program: String,
    /// `alive`, `dead`, `elsewhere`.
    process: &'static str,
    communicator: String,
    rank: u64,
    ranks: u64,
    backend: &'static str,
    calls_made: u64,
    calls: u64,
    bytes: u64,
    rate_gbps: f64,
    waiting_data_percent: Option<f64>,
    waiting_credit_percent: Option<f64>,
    polls_data: u64,
    polls_credit: u64,
    longest_wait_us: f64,
    late: u64,
    failed: u64,
    /// `idle`, `made`, `running`, `failed`.
    state: &'static str,
    /// The call of that state.
    now: Option<String>,
    now_number: Option<u64>,
    /// Since when.
    now_us: Option<f64>,
    error: Option<String>,
}

/// What is compared with the next look.
#[derive(Clone, Copy)]
struct Before {
    at_ns: u64,
    bytes: u64,
    data_ns: u64,
    credit_ns: u64,
}

type Looks = HashMap<PathBuf, Before>;

/// Runs the command until it is ended, or once.
///
/// # Errors
///
/// Those of [`Pages::look`], and of writing.
pub fn run(args: &Top) -> Result<(), Failure> {
    let is_live = !args.once && args.format == Lines::Table && io::stdout().is_terminal();
    let mut looks = Looks::new();
    if !is_live {
        look(&args.pages.look()?, &mut looks);
        sleep(args.every);
    }
    loop {
        let lines = look(&args.pages.look()?, &mut looks);
        let mut out = io::stdout().lock();
        if is_live {
            // Home, and clear what is below; the scrollback stays.
            write!(out, "\x1b[H\x1b[J")?;
        }
        match args.format {
            Lines::Json => lines.iter().try_for_each(|line| writeln!(out, "{}", json_line(line)))?,
            Lines::Table if lines.is_empty() => writeln!(out, "# {}", args.pages.nothing()?)?,
            Lines::Table => table(&lines).iter().try_for_each(|line| writeln!(out, "{line}"))?,
        }
        out.flush()?;
        drop(out);
        if !is_live {
            return Ok(());
        }
        sleep(args.every);
    }
}

/// What each page says now, against the looks before, which become those of now.
fn look(pages: &[Page], looks: &mut Looks) -> Vec<Line> {
    let mut next = Looks::new();
    let lines = pages
        .iter()
        .map(|page| {
            let now = Before {
                at_ns: now_ns(),
                bytes: page.count(Count::BytesDone),
                data_ns: page.count(Count::WaitedDataNs),
                credit_ns: page.count(Count::WaitedCreditNs),
            };
            let opened = Before { at_ns: page.header().opened_ns, bytes: 0, data_ns: 0, credit_ns: 0 };
            let before = looks.get(page.path()).copied().unwrap_or(opened);
            next.insert(page.path().to_owned(), now);
            line(page, before, now)
        })
        .collect();
    *looks = next;
    lines
}

fn line(page: &Page, before: Before, now: Before) -> Line {
    let header = page.header();
    let span_ns = now.at_ns.saturating_sub(before.at_ns).max(1) as f64;
    let is_host = page.backend() == Backend::Host;
    let percent =
        |from: u64, to: u64| is_host.then(|| (to.saturating_sub(from) as f64 / span_ns * 100.0).min(100.0));
    let failure = page.failure();
    let current = page.current();
    let state = match (&failure, &current) {
        (Some(_), _) => "failed",
        (None, Some(row)) => row.state().name(),
        (None, None) => "idle",
    };
    let shown = if failure.is_some() { None } else { current };
    let since = shown.map(|row| if row.state() == State::Running { row.started_ns } else { row.made_ns });
    Line {
        pid: header.pid,
        program: page.program(),
        process: match page.life() {
            Life::Alive => "alive",
            Life::Dead => "dead",
            Life::Elsewhere => "elsewhere",
        },
        communicator: communicator(header.communicator),
        rank: header.rank,
        ranks: header.ranks,
        backend: page.backend().name(),
        calls_made: page.count(Count::CallsMade),
        calls: page.count(Count::CallsDone),
        bytes: now.bytes,
        rate_gbps: now.bytes.saturating_sub(before.bytes) as f64 / span_ns,
        waiting_data_percent: percent(before.data_ns, now.data_ns),
        waiting_credit_percent: percent(before.credit_ns, now.credit_ns),
        polls_data: page.count(Count::PollsData),
        polls_credit: page.count(Count::PollsCredit),
        longest_wait_us: page.count(Count::LongestNs) as f64 / 1e3,
        late: page.count(Count::CallsLate),
        failed: page.count(Count::CallsFailed).max(u64::from(failure.is_some())),
        state,
        now: shown.map(|row| call(&row)),
        now_number: shown.map(|row| row.number),
        now_us: since.map(|since| now.at_ns.saturating_sub(since) as f64 / 1e3),
        error: failure.map(|failure| failure.text().to_owned()),
    }
}

/// The lines for people.
fn table(lines: &[Line]) -> Vec<String> {
    let mut table = vec![
        format!(
            "#{:>8} {:>7} {:>5}{:>11}{:>10}{:>9}{:>6}{:>7}{:>12}{:>9}{:>5}{:>7}  now",
            "pid",
            "rank",
            "where",
            "calls",
            "moved",
            "rate",
            "data",
            "credit",
            "polls",
            "longest",
            "late",
            "failed"
        ),
        format!(
            "#{:>8} {:>7} {:>5}{:>11}{:>10}{:>9}{:>6}{:>7}",
            "", "", "", "", "(GB)", "(GB/s)", "(%)", "(%)"
        ),
    ];
    let mut last = None;
    for line in lines {
        if last.is_some_and(|last| last != &line.communicator) {
            table.push("#".into());
        }
        last = Some(&line.communicator);
        let share = |percent: Option<f64>| percent.map_or("-".into(), |percent| format!("{percent:.0}"));
        let failed = format!("{:>7}", line.failed);
        let failed = if line.failed == 0 {
            failed
        } else {
            failed.if_supports_color(Stream::Stdout, |text| text.red()).to_string()
        };
        table.push(format!(
            " {:>8} {:>7} {:>5}{:>11}{:>10.3}{:>9.3}{:>6}{:>7}{:>12}{:>9}{:>5}{failed}  {}",
            line.pid,
            format!("{}/{}", line.rank, line.ranks),
            line.backend,
            line.calls,
            line.bytes as f64 / 1e9,
            line.rate_gbps,
            share(line.waiting_data_percent),
            share(line.waiting_credit_percent),
            format!("{}/{}", short(line.polls_data), short(line.polls_credit)),
            span((line.longest_wait_us * 1e3) as u64),
            line.late,
            now(line),
        ));
    }
    table
}

/// A number in at most four characters and its unit.
fn short(number: u64) -> String {
    let units = ["", "k", "M", "G", "T", "P", "E"];
    let place = (0..units.len()).find(|&place| number < 1000u64.saturating_pow(place as u32 + 1));
    let place = place.unwrap_or(units.len() - 1);
    let part = number as f64 / 1000f64.powi(place as i32);
    if place == 0 || part >= 10.0 {
        format!("{}{}", part as u64, units[place])
    } else {
        format!("{:.1}{}", (part * 10.0).floor() / 10.0, units[place])
    }
}

/// What a rank does now, in words.
fn now(line: &Line) -> String {
    let does = match (&line.now, line.now_number, line.now_us) {
        (Some(call), Some(number), Some(us)) => {
            format!("{} {} {number}: {call}", line.state, span((us * 1e3) as u64))
        }
        _ => line.state.to_owned(),
    };
    match line.process {
        "alive" => does,
        "dead" => format!("process has ended; {does}"),
        process => format!("process is {process}; {does}"),
    }
}

#[cfg(test)]
mod tests {
    use myelon_recorder::{About, Folder, Recorder, Row, Waits};

    use super::*;

    /// A page of one rank with a call done and a call begun, and what is told of it.
    fn told(backend: Backend) -> Line {
        let around = tempfile::tempdir().unwrap();
        let folder = Folder::create(&around.path().join("records")).unwrap();
        let about = About { communicator: 7, ranks: 2, backend, ..About::default() };
        let recorder = Recorder::in_folder(&folder, &about).unwrap();
        let mut looks = Looks::new();
        look(&folder.pages().unwrap(), &mut looks);
        let row = |number| Row { number, calls: 1, bytes: 1 << 30, ..Row::default() };
        let times = [1, 2].map(|number| recorder.made(row(number)));
        assert!(times[0] <= times[1]);
        recorder.start(row(1), false);
        recorder.done(&Waits {
            polls_data: 1,
            data_ns: u64::MAX / 2,
            longest_ns: 2_000_000,
            ..Waits::default()
        });
        recorder.start(row(2), false);
        let mut lines = look(&folder.pages().unwrap(), &mut looks);
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    #[test]
    fn a_line_says_what_was_done_since_the_last_look() {
        let line = told(Backend::Host);
        assert_eq!((line.calls_made, line.calls, line.bytes), (2, 1, 1 << 30));
        assert!(line.rate_gbps > 0.0);
        assert_eq!((line.waiting_data_percent, line.waiting_credit_percent), (Some(100.0), Some(0.0)));
        assert_eq!((line.longest_wait_us, line.state, line.now_number), (2000.0, "running", Some(2)));
        assert_eq!((line.process, line.failed), ("alive", 0));
        assert_eq!(told(Backend::Cuda).waiting_data_percent, None);
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0, 999, 1000, 9999, 10_000, 999_999, 1_234_567, u64::MAX];
        let shown = numbers.map(short);
        assert_eq!(shown, ["0", "999", "1.0k", "9.9k", "10k", "999k", "1.2M", "18E"]);
    }

    #[test]
    fn columns_stand_under_their_names() {
        let lines = table(&[told(Backend::Host)]);
        let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
        assert_eq!(end(&lines[0], "rank"), end(&lines[2], "0/2"));
        assert_eq!(end(&lines[0], "moved"), end(&lines[2], "1.074"));
        assert_eq!(end(&lines[0], "polls"), end(&lines[2], " 1/0"));
        assert_eq!(end(&lines[0], "longest"), end(&lines[2], "2.0 ms"));
        assert_eq!(lines[0].find("now"), lines[2].find("running"));
    }

    #[test]
    fn a_process_that_has_ended_is_told_so() {
        let line = Line { process: "dead", ..told(Backend::Host) };
        assert!(now(&line).starts_with("process has ended; running "), "{}", now(&line));
    }
}
