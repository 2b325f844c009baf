//! Property: `myelon doctor` and `myelon top` say of programs that run, hang, have failed or have died what is wrong with
//! them, from outside and without touching them.
//!
//! Catches: the wrong rank named, a hang taken for work and work for a hang, evidence that is lost when a process
//! dies or that stays for ever. Cannot catch: ranks on GPUs; `tests/tests/cuda_bookkeeping.rs` records some.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{myelon, outcome};
use myelon_collectives::{Backend, Communicator, DataType, ReduceOp};
use serde_json::Value;

fn ranks(folder: &Path, ranks: usize) -> Vec<Communicator> {
    // Late after a second.
    let builder =
        Communicator::builder().backend(Backend::Host).ranks(ranks).deadline(Duration::from_secs(10));
    builder.record(folder).build().unwrap()
}

fn call(rank: &mut Communicator, dtype: DataType, count: usize) {
    let (stream, region) = (rank.stream().clone(), rank.region(count * dtype.bytes()).unwrap());
    rank.all_reduce_region(&region, &region, dtype, ReduceOp::Sum, &stream).unwrap();
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let around = tempfile::tempdir().unwrap();
    let path = around.path().join("records");
    (around, path)
}

/// Standard output of a command on `folder` that should end with `code`.
fn run(code: i32, folder: &Path, args: &[&str]) -> String {
    let folder = folder.to_str().unwrap();
    outcome(code, &mut myelon(&[args, &["--folder", folder]].concat())).0
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

/// Asks the doctor until it says `sentence`, which it has to in time.
fn until(folder: &Path, sentence: &str, patience: Duration) {
    let start = Instant::now();
    loop {
        let text = run_any(folder);
        if text.contains(sentence) {
            return;
        }
        assert!(start.elapsed() < patience, "no `{sentence}` in\n{text}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_and_one_that_comes_is_well() {
    let (_around, folder) = folder();
    let mut ranks = ranks(&folder, 3);
    for rank in &mut ranks {
        (0..2).for_each(|_| call(rank, DataType::F32, 1024));
    }
    ranks.iter().for_each(|rank| rank.stream().synchronize().unwrap());
    has(&run(0, &folder, &["doctor"]), &["Nothing is wrong: every rank has made 2 calls, all complete."]);

    ranks[..2].iter_mut().for_each(|rank| call(rank, DataType::F32, 4096));
    let start = Instant::now();
    // Not late yet: no trouble. Both ranks have begun the call soon.
    let soon = "rank 2 has not made call 3 (it has made 2); ranks 0 and 1 are in it since";
    until(&folder, soon, Duration::from_millis(950));
    until(&folder, "# rank 1 waits in call 3", Duration::from_secs(5));
    until(&folder, "# rank 0 waits in call 3", Duration::from_secs(5));
    assert!(start.elapsed() >= Duration::from_secs(1));

    let text = run(1, &folder, &["doctor"]);
    let pid = std::process::id();
    has(
        &text,
        &[
            "3 ranks, host, opened",
            &format!("# ranks 0, 1 and 2: process {pid} (doctor-"),
            "# rank 2 never made call 3 (it has made 2); ranks 0 and 1 are in it since ",
            &format!("gdb -p {pid}"),
            "Whoever waits gives up after 10.0 s.",
            "# rank 0 waits in call 3 for rank 2, lane 0: what it sends to be summed, needed",
            "all_reduce f32 sum count=4096, in place; ring",
            "<- rank 2 never made it",
        ],
    );
    let row = text.lines().find(|line| line.contains("<-")).unwrap();
    assert_eq!(row.matches("running ").count(), 2, "{row}");
    assert!(row.contains("  -  all_reduce"), "{row}");
    // Only this process has ranks there.
    has(&run(0, &folder, &["doctor", "--pid", "1"]), &["no rank of process 1 records in"]);
    let objects = json(&run(1, &folder, &["doctor", "--format", "json", "--pid", &pid.to_string()]));
    assert_eq!((objects.len(), &objects[0]["trouble"]), (1, &Value::Bool(true)));
    assert_eq!(objects[0]["parts"]["3"], "rank 2 never made it");
    let calls = objects[0]["calls"].as_array().unwrap();
    let of = |rank: u64| calls.iter().filter(|call| call["rank"] == rank).count();
    assert_eq!([0, 1, 2].map(of), [3, 3, 2]);
    let number = objects[0]["communicator"].as_str().unwrap();
    assert_eq!(
        run(1, &folder, &["doctor", "--communicator", &number[..6], "--format", "json"]).lines().count(),
        1
    );
    assert_eq!(run(0, &folder, &["doctor", "--communicator", "no", "--format", "json"]), "");

    let lines = json(&run(0, &folder, &["top", "--once", "--every", "0.3", "--format", "json"]));
    assert_eq!(lines.len(), 3);
    for line in &lines[..2] {
        assert_eq!(
            (&line["state"], &line["now_number"], &line["pid"]),
            (&"running".into(), &3.into(), &pid.into())
        );
        assert!(line["now_us"].as_f64().unwrap() > 1e6, "{line}");
        assert!(line["waiting_data_percent"].as_f64().unwrap() > 50.0, "{line}");
        assert_eq!((&line["calls"], &line["bytes"], &line["late"]), (&2.into(), &8192.into(), &1.into()));
    }
    assert_eq!((&lines[2]["state"], &lines[2]["waiting_data_percent"]), (&"idle".into(), &0.0.into()));
    let table = run(0, &folder, &["top", "--once", "--every", "0.1"]);
    has(&table, &["0/3  host", "1/3  host", "2/3  host", "running ", " 3: all_reduce f32 sum count=4096"]);

    // Looking has harmed nobody.
    call(&mut ranks[2], DataType::F32, 4096);
    ranks.iter().for_each(|rank| rank.stream().synchronize().unwrap());
    has(&run(0, &folder, &["doctor"]), &["every rank has made 3 calls, all complete"]);
    drop(ranks);
    has(&run(0, &folder, &["doctor"]), &["no rank records in"]);
    has(&run(0, &folder, &["top", "--once", "--every", "0.01"]), &["no rank records in"]);
}

#[test]
fn a_rank_that_calls_something_else_is_named_with_both_calls() {
    let (_around, folder) = folder();
    let mut ranks = ranks(&folder, 4);
    for rank in &mut ranks {
        call(rank, DataType::Bf16, 64);
        let dtype = if rank.rank() == 2 { DataType::F32 } else { DataType::Bf16 };
        call(rank, dtype, 1024);
    }
    ranks.iter().for_each(|rank| drop(rank.stream().synchronize().unwrap_err()));
    let said = |text: &str| {
        has(
            text,
            &[
                "# rank 2 made call 2 as all_reduce f32 sum count=1024; \
             ranks 0, 1 and 3 as all_reduce bf16 sum count=1024.",
                "compare what the program does on rank 2 and on rank 0 before call 2",
                "The communicator failed",
                "(disagreement): rank",
                "<- rank 2 called something else",
                "rank 2: all_reduce f32 sum count=1024, in place; ring",
                "ranks 0, 1 and 3: all_reduce bf16 sum count=1024, in place; ring",
            ],
        );
    };
    said(&run(1, &folder, &["doctor"]));
    // Dropped, it is still to be read.
    drop(ranks);
    let text = run(1, &folder, &["doctor"]);
    said(&text);
    has(&text, &["which runs and has dropped it"]);
}

const INSIDE: &str = "DOCTOR_TESTS_FOLDER";

/// This test again, in a process of its own whose second rank never makes its second call.
fn hanging_process(folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_that_was_killed_is_examined_and_then_forgotten", "--nocapture"]);
    command.env(INSIDE, folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_process_that_was_killed_is_examined_and_then_forgotten() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        let mut ranks = ranks(Path::new(&folder), 2);
        ranks.iter_mut().for_each(|rank| call(rank, DataType::U8, 100));
        call(&mut ranks[0], DataType::U8, 200);
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let (_around, folder) = folder();
    let mut child = hanging_process(&folder);
    for sentence in ["ranks 0 and 1: process", "rank 1 has not made call 2 (it has made 1); rank 0 is in it"]
    {
        until(&folder, sentence, Duration::from_secs(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let text = run(1, &folder, &["doctor"]);
    let pid = child.id();
    has(
        &text,
        &[
            &format!("process {pid} (doctor-"),
            "which has ended",
            &format!("# ranks 0 and 1 are dead: process {pid} (doctor-"),
            "ended while call 2 was running and without dropping the communicator.",
            "dmesg",
            "died in it",
        ],
    );
    let top = run(0, &folder, &["top", "--once", "--every", "0.01"]);
    has(&top, &["process has ended; running"]);

    // The next program forgets it.
    let folder_text = folder.to_str().unwrap();
    let args = ["all-reduce", "--backend", "host", "-b", "8", "-e", "8", "-n", "1", "-w", "0"];
    outcome(0, myelon(&args).env("MYELON_RECORD", folder_text));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

fn run_any(folder: &Path) -> String {
    let output = myelon(&["doctor", "--folder", folder.to_str().unwrap()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A deadline that nobody can meet: the command fails, says what to do next, and that works.
#[test]
fn a_command_that_fails_leads_to_the_doctor() {
    let (_around, folder) = folder();
    let folder_text = folder.to_str().unwrap();
    let args =
        ["all-reduce", "--backend", "host", "--ranks", "4", "-b", "4M", "-e", "4M", "--deadline", "0.000001"];
    let (_, stderr) = outcome(1, myelon(&args).env("MYELON_RECORD", folder_text));
    has(&stderr, &["waited", "Use 'myelon doctor' to see what every rank did last"]);
    let (stdout, _) = outcome(1, myelon(&["doctor"]).env("MYELON_RECORD", folder_text));
    has(&stdout, &["(stalled): rank", "which has ended", "failed"]);
    // Turned off, nothing is left.
    std::fs::remove_dir_all(&folder).unwrap();
    outcome(1, myelon(&args).env("MYELON_RECORD", "none"));
    assert!(!folder.exists());
}

#[test]
fn a_folder_that_is_not_private_is_refused() {
    let (around, folder) = folder();
    has(&run(0, &folder, &["doctor"]), &["no rank records in"]);
    assert!(!folder.exists(), "looking makes nothing");
    std::fs::set_permissions(around.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["doctor", "top"] {
        let folder = around.path().to_str().unwrap();
        let (_, stderr) = outcome(1, &mut myelon(&[command, "--folder", folder]));
        has(&stderr, &["mode 0700", "saw mode 0755"]);
        let (_, stderr) = outcome(2, &mut myelon(&[command, "--rows", "0", "--every", "0"]));
        has(&stderr, &[&format!("try 'myelon {command} --help'")]);
    }
}

#[test]
fn help_says_what_is_shown() {
    for (command, parts) in [
        ("top", ["credit", "longest", "--once", "jq", "Exit code"]),
        ("doctor", ["died in it", "never made it", "--rows", "jq", "Exit code"]),
    ] {
        has(&outcome(0, &mut myelon(&[command, "--help"])).0, &parts);
        has(&outcome(0, &mut myelon(&["--help"])).0, &[command]);
    }
}
