//! Property: `all-reduce --processes` is one run with one table, whoever started its ranks, and ends as a whole when
//! one of them does.
//!
//! Catches: ranks that write beside rank 0, numbers of one rank that stand for all, runs that hang or leave processes
//! and files behind, errors that do not name the dead rank. Cannot catch: wrong numbers in the time columns.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{myelon, outcome, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const FLAGS: [&str; 7] = ["all-reduce", "--processes", "--backend", "host", "--format", "json", "-n"];

fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn one_table_of_all_ranks_is_written() {
    for mode in ["stream", "graph", "isolated"] {
        let flags = ["3", "-w", "1", "--ranks", "3", "-b", "1K", "-e", "64K", "-f", "8", "--mode", mode];
        let (stdout, stderr) = run(0, &[&FLAGS[..], &flags].concat());
        let lines = objects(&stdout);
        assert_eq!(lines.len(), 2 * 3, "{stdout}");
        for line in lines {
            assert_eq!((&line["ranks"], &line["wrong"]), (&Value::from(3), &Value::from(0)), "{line}");
            assert!(line["time_us"].as_f64().unwrap() > 0.0);
        }
        assert!(stderr.contains("3 on host processes"), "{stderr}");
        assert_eq!(stderr.matches("wrong elements").count(), 1, "{stderr}");
    }
}

#[test]
fn every_type_and_operation_is_right_over_processes() {
    let (stdout, _) =
        run(0, &[&FLAGS[..], &["1", "-w", "0", "-d", "all", "-o", "all", "-b", "20K", "-e", "20K"]].concat());
    let lines = objects(&stdout);
    assert_eq!(lines.len(), 2 * 44);
    assert!(lines.iter().all(|line| line["wrong"] == 0));
}

/// The command as a launcher starts it.
fn launched(names: &[(&str, String)], flags: &[&str]) -> Child {
    let all = [&FLAGS[..], &["2", "-w", "1", "-b", "1K", "-e", "1K"], flags].concat();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("myelon"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MYELON_")) {
        command.env_remove(name);
    }
    command.env("MYELON_TUNING", "none").envs(names.iter().cloned());
    command.args(all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn torchrun(rank: usize) -> [(&'static str, String); 5] {
    let id = std::process::id();
    [
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", "2".into()),
        ("LOCAL_WORLD_SIZE", "2".into()),
        ("TORCHELASTIC_RUN_ID", format!("test-{id}")),
        ("MYELON_MEETING_MS", "20000".into()),
    ]
}

#[test]
fn ranks_of_a_launcher_join_and_rank_0_writes() {
    let ranks = [1, 0].map(|rank| launched(&torchrun(rank), &[]));
    let [one, zero] = ranks.map(|rank| rank.wait_with_output().unwrap());
    assert!(one.status.success() && zero.status.success(), "{one:?} {zero:?}");
    assert!(one.stdout.is_empty() && one.stderr.is_empty(), "{one:?}");
    assert_eq!(objects(&String::from_utf8(zero.stdout).unwrap()).len(), 2);
}

#[test]
fn ranks_with_other_flags_are_refused_by_name() {
    let names = |rank| {
        torchrun(rank).map(|(name, value)| match name {
            "TORCHELASTIC_RUN_ID" => (name, format!("{value}-flags")),
            _ => (name, value),
        })
    };
    let ranks = [launched(&names(0), &["-c", "1"]), launched(&names(1), &["-c", "2"])];
    for rank in ranks.map(|rank| rank.wait_with_output().unwrap()) {
        let stderr = String::from_utf8(rank.stderr).unwrap();
        assert!(!rank.status.success() && stderr.contains("flags of the command: rank 0 has"), "{stderr}");
    }
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let (_, stderr) = outcome(2, myelon(&["all-reduce", "--processes"]).env("MYELON_RANK", "1"));
    assert!(stderr.contains("MYELON_RANKS: needed a number beside MYELON_RANK"), "{stderr}");
    let nodes = [("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")];
    let (_, stderr) = outcome(2, myelon(&["all-reduce", "--processes"]).envs(nodes));
    assert!(stderr.contains("ranks on one node are needed"), "{stderr}");
    let (_, stderr) = run(2, &["all-reduce", "--started-by", "1"]);
    assert!(stderr.contains("--processes"), "{stderr}");
    let (_, stderr) = run(2, &["all-reduce", "--processes", "--slots", "3"]);
    assert_eq!(stderr.matches("power of two").count(), 1, "{stderr}");
    // Where there are GPUs, too, none is shown.
    let mut no_gpu = myelon(&["all-reduce", "--processes", "--backend", "cuda"]);
    let (_, stderr) = outcome(1, no_gpu.env("CUDA_VISIBLE_DEVICES", ""));
    assert!(stderr.contains("--backend host"), "{stderr}");
}

/// A run that is busy, and its ranks.
struct Busy {
    child: Child,
    folder: tempfile::TempDir,
    /// Process ids in rank order.
    ranks: Vec<Pid>,
    out: BufReader<std::process::ChildStdout>,
}

impl Busy {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("myelon"));
        command.args(FLAGS).args(["100000", "--ranks", "3", "-b", "256K", "-e", "4M", "-c", "0", "-w", "1"]);
        command.env("XDG_RUNTIME_DIR", folder.path()).env("MYELON_TUNING", "none");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        let mut ranks = Vec::new();
        while ranks.len() < 3 {
            assert!(start.elapsed() < Duration::from_secs(20), "it does not start");
            std::thread::sleep(Duration::from_millis(10));
            ranks = Self::ranks_of(child.id());
        }
        // They have met when nothing is left of their meetings, and then they work.
        while !Self::have_met(&ranks) {
            assert!(start.elapsed() < Duration::from_secs(20), "they do not meet");
            std::thread::sleep(Duration::from_millis(10));
        }
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, folder, ranks, out }
    }

    fn ranks_of(parent: u32) -> Vec<Pid> {
        let children =
            fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let rank = |pid: &str| {
            let names = fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
            let rank = names.split('\0').find_map(|name| name.strip_prefix("MYELON_RANK="))?.parse().ok()?;
            Some((rank, Pid::from_raw(pid.parse().ok()?)?))
        };
        let mut ranks: Vec<(usize, Pid)> = children.split_whitespace().filter_map(rank).collect();
        ranks.sort_by_key(|&(rank, _)| rank);
        ranks.into_iter().map(|(_, pid)| pid).collect()
    }

    fn have_met(ranks: &[Pid]) -> bool {
        ranks.iter().all(|&pid| {
            let tasks = fs::read_dir(tasks(pid)).map_or(0, Iterator::count);
            // The main thread, the watch, the stream and a rank's thread of the run.
            tasks >= 4
        })
    }

    /// Waits for the end; exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        assert_eq!(self.out.by_ref().lines().count(), 0, "no size is complete");
        for rank in &self.ranks {
            gone(*rank);
        }
        // Of meetings; what else the command keeps there is another's business.
        let left = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("myelon-")).collect();
        assert!(left.is_empty(), "{left:?}");
        (code, stderr)
    }
}

fn tasks(pid: Pid) -> String {
    format!("/proc/{}/task", pid.as_raw_nonzero())
}

/// The process ends within a moment.
fn gone(pid: Pid) {
    let start = Instant::now();
    let state = || fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok();
    // One whose parent does not look is a zombie, which runs no more.
    while state().is_some_and(|text| !text.contains(") Z ")) {
        assert!(start.elapsed() < Duration::from_secs(5), "process {pid:?} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_run_and_is_named() {
    for dead in [0, 1, 2] {
        let busy = Busy::start();
        let start = Instant::now();
        kill_process(busy.ranks[dead], Signal::KILL).unwrap();
        let (code, stderr) = busy.end();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(code, Some(1));
        assert!(stderr.contains(&format!("rank {dead} died: killed by signal 9")), "{stderr}");
        if dead != 0 {
            assert!(stderr.contains(&format!("lost rank {dead}: its process is dead")), "{stderr}");
        }
    }
}

#[test]
fn ranks_end_with_the_process_that_started_them() {
    let mut busy = Busy::start();
    busy.child.kill().unwrap();
    busy.child.wait().unwrap();
    busy.ranks.iter().copied().for_each(gone);
}
