//! The side of the tests: processes that are ranks, and what they are told.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

use crate::faults::backend;
use crate::rank::IS_RANK;

/// What a rank answers to a line.
#[derive(Debug)]
pub struct Answer {
    /// `ok`, or the kind of an error.
    pub kind: String,
    /// When, in microseconds since 1970.
    pub at_us: u64,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn ok(&self) {
        assert!(self.is_ok(), "{self:?}");
    }

    pub fn is_ok(&self) -> bool {
        self.kind == "ok"
    }

    /// The words of an error of this kind.
    #[track_caller]
    pub fn error(&self, kind: &str) -> &str {
        assert_eq!(self.kind, kind, "{}", self.text);
        &self.text
    }
}

pub fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

/// The line that makes a process rank `rank`.
pub fn join_line(rank: usize, ranks: usize, meeting: &str, deadline_ms: u64, limit_ms: u64) -> String {
    format!("join {rank} {ranks} {meeting} {deadline_ms} {limit_ms}")
}

/// Processes that wait for lines.
pub struct Ranks {
    processes: Vec<Process>,
    folder: TempDir,
}

struct Process {
    child: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Ranks {
    pub fn new(ranks: usize) -> Self {
        Self::with_names(ranks, |_| Vec::new())
    }

    /// Each process has these names in its environment, too.
    pub fn with_names(ranks: usize, names: impl Fn(usize) -> Vec<(&'static str, String)>) -> Self {
        let start = |rank| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let strange = |name: &str| name.starts_with("MYELON_") || name.starts_with("SLURM_");
            for (name, _) in std::env::vars().filter(|(name, _)| strange(name)) {
                command.env_remove(name);
            }
            command.env(IS_RANK, backend().name()).env("MYELON_TUNING", "none").envs(names(rank));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (lines, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            Process { child, lines, answers: BufReader::new(answers) }
        };
        Self { processes: (0..ranks).map(start).collect(), folder: tempfile::tempdir().unwrap() }
    }

    /// Processes that are the ranks of a communicator.
    pub fn joined(count: usize, deadline_ms: u64) -> Self {
        Self::joined_with(count, deadline_ms, "")
    }

    /// The same, all of whose buffers are windows.
    pub fn joined_by_windows(count: usize, deadline_ms: u64) -> Self {
        Self::joined_with(count, deadline_ms, " windows")
    }

    fn joined_with(count: usize, deadline_ms: u64, promise: &str) -> Self {
        let mut ranks = Self::new(count);
        let meeting = ranks.meeting("first");
        for rank in 0..count {
            ranks.begin(rank, &(join_line(rank, count, &meeting, deadline_ms, 20_000) + promise));
        }
        (0..count).for_each(|rank| ranks.answer(rank).ok());
        ranks
    }

    /// The folder of a meeting.
    pub fn meeting(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// No meeting has left anything.
    pub fn leave_nothing(&self) {
        let path: &Path = self.folder.path();
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    }

    pub fn others(&self, but: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.processes.len()).filter(move |&rank| rank != but)
    }

    /// Tells a rank something, without waiting for the answer.
    pub fn begin(&mut self, rank: usize, line: &str) {
        writeln!(self.processes[rank].lines, "{line}").unwrap();
    }

    /// The answer to what was begun.
    pub fn answer(&mut self, rank: usize) -> Answer {
        let mut line = String::new();
        self.processes[rank].answers.read_line(&mut line).unwrap();
        let mut parts = line.trim_end_matches('\n').splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_else(|| panic!("rank {rank} ended: {line:?}")).to_owned();
        Answer { kind: part(), at_us: part().parse().unwrap(), text: part() }
    }

    pub fn tell(&mut self, rank: usize, line: &str) -> Answer {
        self.begin(rank, line);
        self.answer(rank)
    }

    /// Tells all at once.
    pub fn all(&mut self, line: &str) -> Vec<Answer> {
        let count = self.processes.len();
        (0..count).for_each(|rank| self.begin(rank, line));
        (0..count).map(|rank| self.answer(rank)).collect()
    }

    /// Dropping the communicator takes no time, whatever state it is in.
    pub fn drops_at_once(&mut self, rank: usize) {
        let start = Instant::now();
        self.tell(rank, "drop").ok();
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }

    /// Kills a rank; when, in microseconds since 1970.
    pub fn kill(&mut self, rank: usize) -> u64 {
        let killed_us = now_us();
        self.processes[rank].child.kill().unwrap();
        killed_us
    }

    /// Copies of all that a rank has open; nothing where the system does not allow that.
    pub fn descriptors(&self, rank: usize) -> Option<Vec<OwnedFd>> {
        let id = self.processes[rank].child.id();
        let process = pidfd_open(Pid::from_raw(id as i32).unwrap(), PidfdFlags::empty()).ok()?;
        let numbers = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
        let number = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().to_str().unwrap().parse::<i32>().unwrap()
        };
        let copy = |number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok();
        numbers.map(number).map(copy).collect()
    }

    pub fn signal(&mut self, rank: usize, signal: Signal) {
        let pid = Pid::from_raw(self.processes[rank].child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
