//! `--processes` without a launcher: starts the ranks, watches them, and says who died.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use myelon_collectives::{MeetError, Process, Secret};

use crate::failure::Failure;

/// How long the others may go on after a rank has failed. They know at once, unless they are stopped or still meet.
const GRACE: Duration = Duration::from_secs(2);
/// The exit code of bad usage.
const USAGE: i32 = 2;
/// What is kept of the words of a rank.
const WORDS_MAX: usize = 16 << 10;

/// Starts `ranks` processes of this program with the arguments `words` (the first names the program), and waits for
/// them. Rank 0 writes to this process's outputs; `true` where nothing was wrong.
///
/// # Errors
///
/// Where a rank can't be started, or ends with an error; those that are left are ended then.
pub fn run(words: &[OsString], ranks: usize) -> Result<bool, Failure> {
    let secret = Secret::random().map_err(|error| anyhow!(error))?;
    // No two runs have the same name; the secret says it anyway.
    let meeting = format!(
        "run-{}-{}",
        std::process::id(),
        &Secret::random().map_err(|error| anyhow!(error))?.reveal()[..8]
    );
    let program = std::env::current_exe().context("where this program is")?;
    let mut started = Started { ranks: Vec::with_capacity(ranks), meeting: meeting.clone() };
    for rank in 0..ranks {
        let mut command = Command::new(&program);
        command.args(&words[1..]).arg("--started-by").arg(std::process::id().to_string());
        command.env("MYELON_RANK", rank.to_string()).env("MYELON_RANKS", ranks.to_string());
        command.env("MYELON_MEETING", &meeting).env("MYELON_SECRET", secret.reveal()).stdin(Stdio::null());
        if rank > 0 {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| format!("starting rank {rank}"))?;
        let words = child.stderr.take().map(|stderr| thread::spawn(move || hear(rank, stderr)));
        started.ranks.push(RankProcess { child, words, ended: None });
    }
    started.watch()?;
    started.verdict()
}

/// Reads what a rank says to the end; the first of it. All of it is passed on where a log is asked for.
fn hear(rank: usize, stderr: impl Read) -> String {
    let logged = std::env::var_os("MYELON_LOG").is_some();
    let mut kept = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if logged {
            eprintln!("[rank {rank}] {line}");
        }
        if kept.len() + line.len() < WORDS_MAX {
            kept += &line;
            kept.push('\n');
        }
    }
    kept
}

/// A rank that was started.
struct RankProcess {
    child: Child,
    /// What it says, but for rank 0, which says it itself.
    words: Option<JoinHandle<String>>,
    ended: Option<Ended>,
}

/// How a rank ended.
#[derive(Clone, Copy)]
struct Ended {
    status: ExitStatus,
    /// Its place among those that ended.
    place: usize,
    /// Not by itself, but because others had failed.
    by_us: bool,
}

/// The ranks that were started. Dropping it ends those that are left.
struct Started {
    ranks: Vec<RankProcess>,
    meeting: String,
}

impl Started {
    /// Waits until all have ended.
    fn watch(&mut self) -> io::Result<()> {
        let mut failed_at: Option<Instant> = None;
        let mut ended = 0;
        while ended < self.ranks.len() {
            let overdue = failed_at.is_some_and(|at| at.elapsed() > GRACE);
            for rank in self.ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
                if overdue {
                    rank.child.kill()?;
                }
                let status = if overdue { Some(rank.child.wait()?) } else { rank.child.try_wait()? };
                let Some(status) = status else { continue };
                rank.ended = Some(Ended { status, place: ended, by_us: overdue });
                ended += 1;
                if !status.success() {
                    failed_at.get_or_insert_with(Instant::now);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What became of it. Who was killed is named; else the words of the rank that failed first are repeated, unless
    /// it was rank 0, which has said them.
    fn verdict(&mut self) -> Result<bool, Failure> {
        let ends = self.ranks.iter().enumerate().filter_map(|(rank, one)| Some((rank, one.ended?)));
        let mut ends: Vec<(usize, Ended)> = ends.collect();
        ends.sort_by_key(|(_, ended)| ended.place);
        let own = |signal: &Option<i32>, ended: &Ended| signal.is_some() && !ended.by_us;
        let killed: Vec<String> = ends
            .iter()
            .filter(|(_, ended)| own(&ended.status.signal(), ended))
            .map(|(rank, ended)| {
                format!("rank {rank} died: killed by signal {}", ended.status.signal().unwrap_or(0))
            })
            .collect();
        if !killed.is_empty() {
            return Err(Failure::Run(anyhow!(killed.join("; "))));
        }
        let Some(&(first, ended)) = ends.iter().find(|(_, ended)| !ended.status.success()) else {
            return Ok(true);
        };
        let code = ended.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        let words = self.ranks[first].words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        let words = words.trim();
        let is_usage = |ended: Option<Ended>| ended.is_some_and(|ended| ended.status.code() == Some(USAGE));
        // What only one rank can know, such as that its memory is short, has not been said yet. Usage is bad on all.
        if !words.is_empty() && !is_usage(self.ranks[0].ended) {
            eprintln!("rank {first}: {words}");
        }
        let late: Vec<String> =
            ends.iter().filter(|(_, ended)| ended.by_us).map(|(rank, _)| rank.to_string()).collect();
        if !late.is_empty() {
            eprintln!(
                "rank {} did not end by itself within {} s, and was killed",
                late.join(", "),
                GRACE.as_secs()
            );
        }
        Err(Failure::Told(code))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for rank in self.ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
            let _ = rank.child.kill();
            let _ = rank.child.wait();
        }
        let process = Process::new(0, self.ranks.len(), self.meeting.clone());
        process.tidy();
        process.beside(crate::all_reduce::BESIDE).tidy();
    }
}

/// Ends this process when the one that started it ends.
///
/// # Errors
///
/// Where that has ended already.
pub fn end_with(parent: u32) -> Result<(), Failure> {
    myelon_meet::die_with_parent(parent).map_err(|error: MeetError| Failure::Run(anyhow!(error)))
}
