//! Property: `myelon tune` writes a file that the library follows; a file that is stale, foreign, cut or edited is
//! refused with the reason where it was named, and done without where it lay in the usual folder. Results are right
//! either way.
//!
//! Catches: files that are not followed, or followed where they do not belong, a file of somebody else written over, a
//! tuning that does not say what it measured. Cannot catch: wrong times, and files of GPUs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{myelon, outcome, run};
use myelon_collectives::{Backend, Communicator};
use myelon_lanes::{Algorithm, Measured, Origin, Row, Table, TableFile};
use serde_json::Value;

const TINY: [&str; 13] =
    ["tune", "--backend", "host", "--ranks", "2", "-b", "64", "-e", "4K", "-f", "8", "--time", "0.3"];

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn here() -> Origin {
    Communicator::builder().backend(Backend::Host).build().unwrap()[0].origin().clone()
}

fn read(path: &Path) -> TableFile {
    TableFile::parse(&fs::read_to_string(path).unwrap(), &here()).unwrap()
}

/// A file of one row for 2 ranks, from 1000 bytes up, which no rule would plan so.
fn one_row(origin: Origin) -> TableFile {
    let row = |windows| Row {
        ranks: 2,
        windows,
        bytes_min: 1000,
        bytes_max: 1 << 20,
        algorithm: Algorithm::Ring,
        lanes: 2,
        piece_bytes: 48,
        blocks: 6,
        threads: 64,
    };
    let measured = |windows| Measured { ranks: 2, windows, bytes_min: 8, bytes_max: 1 << 20 };
    TableFile {
        origin,
        note: "made by hand".into(),
        measured: vec![measured(false), measured(true)],
        table: Table::new(vec![row(false), row(true)]).unwrap(),
    }
}

const TUNED: &str = "ring lanes=2 blocks=6 threads=1 slot=48B slots=4";

/// A checked all-reduce at 512 and 4096 bytes: the plans of both.
fn plans(flags: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let fixed =
        ["all-reduce", "--backend", "host", "--in-place", "-b", "512", "-e", "4K", "-f", "8", "-n", "1"];
    let mut command = myelon(&[&fixed[..], &["--format", "json"], flags].concat());
    let (stdout, _) = outcome(0, command.envs(environment.iter().copied()));
    let records = lines(&stdout);
    assert!(records.len() == 2 && records.iter().all(|record| record["wrong"] == 0), "{stdout}");
    records.iter().map(|record| record["plan"].as_str().unwrap().to_string()).collect()
}

#[test]
fn what_was_measured_is_written_read_back_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.txt");
    let name = path.to_str().unwrap();
    let (stdout, stderr) = run(0, &[&TINY[..], &["--output", name, "--format", "json"]].concat());
    let records = lines(&stdout);
    assert_eq!(records.len(), 2 * 3);
    for words in ["wrong elements  0, OK", "of 3 sizes changed", "read back       taken by the library", name]
    {
        assert!(stderr.contains(words), "no `{words}` in\n{stderr}");
    }
    let file = read(&path);
    let span = |windows| Measured { ranks: 2, windows, bytes_min: 64, bytes_max: 4096 };
    assert_eq!(file.measured, [span(false), span(true)]);

    let flags = ["--machine", "host", "--ranks", "2", "-b", "64", "-e", "4K", "-f", "8", "--runners-up", "0"];
    for buffers in ["any", "windows"] {
        let fixed = ["explain", "--format", "json", "--tuning", name, "--buffers", buffers];
        let explained = lines(&run(0, &[&fixed[..], &flags].concat()).0);
        let of_kind: Vec<&Value> = records.iter().filter(|record| record["buffers"] == buffers).collect();
        assert_eq!((explained.len(), of_kind.len()), (3, 3));
        for (explained, record) in explained.iter().zip(of_kind) {
            assert_eq!(explained["bytes"], record["bytes"]);
            // The file's plan is written without slots, and with threads that a host rank has not.
            let plan = record["plan"].as_str().unwrap().replace("threads=64", "threads=1");
            assert!(explained["plan"].as_str().unwrap().starts_with(&plan), "{explained}\n{record}");
            assert_eq!(record["changed"] == true, record["plan"] != record["automatic_plan"], "{record}");
            let us = |field: &str| record[field].as_f64().unwrap();
            let gain = (us("automatic_us") / us("tuned_us") - 1.0) * 100.0;
            assert!((us("gain_percent") - gain).abs() < 0.1 && us("tuned_us") > 0.0, "{record}");
        }
    }
    plans(&["--tuning", name], &[]);

    // Other ranks join the file; the same ranks take their own rows' place.
    let three = TINY.map(|word| if word == "2" { "3" } else { word });
    let (stdout, _) = run(0, &[&three[..], &["--output", name, "--buffers", "any"]].concat());
    assert!(stdout.contains("# file before     kept as far as it was of other ranks"), "{stdout}");
    assert!(stdout.contains("automatic") && stdout.contains("any buffers"), "{stdout}");
    let kinds: Vec<(u32, bool)> = read(&path).measured.iter().map(|it| (it.ranks, it.windows)).collect();
    assert_eq!(kinds, [(2, false), (2, true), (3, false)]);
}

#[test]
fn the_usual_folder_is_written_to_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let path = folder.path().join("myelon/tuning.txt");
    let (stdout, _) = outcome(0, myelon(&[&TINY[..], &["--dry-run"]].concat()).env("XDG_CONFIG_HOME", home));
    assert!(stdout.contains("none: a dry run") && !path.exists(), "{stdout}");
    outcome(0, myelon(&TINY).env("XDG_CONFIG_HOME", home));
    assert_eq!(read(&path).measured.len(), 2);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

    fs::write(&path, one_row(here()).to_text()).unwrap();
    let automatic = plans(&["--tuning", "none"], &[("XDG_CONFIG_HOME", home)]);
    let tuned = plans(&[], &[("XDG_CONFIG_HOME", home)]);
    assert_eq!((&tuned[0], tuned[1].as_str()), (&automatic[0], TUNED));
    assert_eq!(plans(&[], &[("XDG_CONFIG_HOME", home), ("MYELON_TUNING", "none")]), automatic);
    assert_eq!(plans(&[], &[("XDG_CONFIG_HOME", "relative"), ("HOME", "")]), automatic);
    let (stdout, _) = outcome(0, myelon(&["info"]).env("XDG_CONFIG_HOME", home));
    let table = format!("{}, with 1 row for these ranks and buffers", path.display());
    assert!(stdout.contains(&table), "{stdout}");
    // What is forced comes first.
    let forced = plans(&["--lanes", "1"], &[("XDG_CONFIG_HOME", home)]);
    assert!(forced[1].starts_with("ring lanes=1 ") && forced[1].contains("slot=48B"), "{forced:?}");
    // A tuning measures against the rule, whatever file is there, and takes its place.
    let (stdout, _) = outcome(0, myelon(&TINY).env("XDG_CONFIG_HOME", home));
    assert!(!stdout.contains("slot=48B |") && !stdout.contains("= ring lanes=2"), "{stdout}");
    assert_ne!(read(&path).note, "made by hand");
}

/// Each kind of file that does not belong here: its text, and words of the refusal.
fn misfits() -> Vec<(&'static str, String, &'static str)> {
    let good = one_row(here()).to_text();
    let of = |library: &str, machine: &str| one_row(Origin::new(library, machine, "none", "none")).to_text();
    vec![
        (
            "stale",
            of("0.0.1", here().machine()),
            "of another version of the library: its library is \"0.0.1\"",
        ),
        (
            "foreign",
            of(env!("CARGO_PKG_VERSION"), "NVIDIA H200"),
            "of another machine: its machine is \"NVIDIA H200\"",
        ),
        ("truncated", good[..good.len() - 30].to_string(), "it was cut or edited"),
        ("edited", good.replace(" 48 ", " 64 "), "it was cut or edited"),
        ("other", "lanes = 8\n".to_string(), "it is no tuning file: it begins with \"lanes = 8\""),
    ]
}

#[test]
fn a_named_file_that_does_not_belong_here_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, reason) in misfits() {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        for command in [&["all-reduce"][..], &["explain"], &["sweep"]] {
            let flags = [command, &["--tuning", path]].concat();
            let (stdout, stderr) = outcome(2, myelon(&flags).env("MYELON_BACKEND", "host"));
            assert!(
                stdout.is_empty() && stderr.contains(reason) && stderr.contains(path),
                "{name}: {stderr}"
            );
            assert!(stderr.contains("measure again with 'myelon tune'"), "{stderr}");
        }
        let (_, stderr) = outcome(2, myelon(&["info"]).env("MYELON_TUNING", path));
        assert!(stderr.contains(reason), "{name}: {stderr}");
    }
    let path = folder.path().join("good");
    fs::write(&path, one_row(here()).to_text()).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(plans(&["--tuning", path], &[])[1], TUNED);
    assert_eq!(plans(&[], &[("MYELON_TUNING", path)])[1], TUNED);
    let (_, stderr) = run(2, &["all-reduce", "--backend", "host", "--ranks", "5", "--tuning", path]);
    assert!(
        stderr.contains("it was measured with 2 ranks and any buffers, 2 ranks and windows buffers"),
        "{stderr}"
    );
    assert!(stderr.contains("not with 5 ranks and windows buffers"), "{stderr}");
}

#[test]
fn a_file_in_the_usual_folder_that_does_not_belong_here_is_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let path: PathBuf = folder.path().join("myelon/tuning.txt");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let automatic = plans(&["--tuning", "none"], &[]);
    for (name, text, reason) in misfits() {
        fs::write(&path, text).unwrap();
        assert_eq!(plans(&[], &[("XDG_CONFIG_HOME", home)]), automatic, "{name}");
        let flags = ["all-reduce", "--backend", "host", "-b", "8", "-e", "8", "-n", "1"];
        let mut command = myelon(&flags);
        let (stdout, stderr) = outcome(0, command.env("XDG_CONFIG_HOME", home).env("MYELON_LOG", "warn"));
        assert!(
            stderr.contains("WARN") && stderr.contains("the tuning file was not taken"),
            "{name}: {stderr}"
        );
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
        let table = format!("table    none: {} was not taken: ", path.display());
        assert!(stdout.contains(&table) && stdout.contains(reason), "{name}: {stdout}");
        let (stdout, _) = outcome(0, myelon(&["info"]).env("XDG_CONFIG_HOME", home));
        assert!(stdout.contains("was not taken: ") && stdout.contains(reason), "{name}: {stdout}");
    }
    fs::write(&path, misfits()[0].1.clone()).unwrap();
    let (stdout, _) = outcome(0, myelon(&TINY).env("XDG_CONFIG_HOME", home));
    assert!(stdout.contains("# file before     replaced, because it is of another version"), "{stdout}");
    assert_eq!(read(&path).measured.len(), 2);
}

#[test]
fn bad_usage_exits_with_2_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let diary = folder.path().join("diary.txt");
    fs::write(&diary, "dear diary\n").unwrap();
    let lost = folder.path().join("no/such/folder.txt");
    let [diary, lost, dir] = [&*diary, &*lost, folder.path()].map(|path| path.to_str().unwrap());
    for (flags, word) in [
        (&["--output", diary][..], "it holds something else than a tuning file"),
        (&["--output", lost], "--output cannot write"),
        (&["--output", dir], "it is no file"),
        (&["--dry-run", "-o", "avg", "-d", "i32"], "floats only"),
        (&["--dry-run", "-b", "2M", "-e", "1M"], "above the largest"),
        (&["--dry-run", "-f", "1"], "never ends"),
        (&["--time", "soon"], "no number of seconds"),
    ] {
        let (stdout, stderr) = run(2, &[&["tune", "--backend", "host"], flags].concat());
        assert!(stderr.contains(word), "{flags:?}: {stderr}");
        assert!(stderr.ends_with("\n\ntry 'myelon tune --help'; settings: 'myelon info'\n"), "{stderr}");
        assert!(stdout.is_empty(), "{flags:?} began to run");
    }
    assert_eq!(fs::read_to_string(diary).unwrap(), "dear diary\n");
    for (name, value, word) in
        [("MYELON_LANES", "2", "forces lanes=2"), ("MYELON_POLICY", "yali", "unset MYELON_POLICY")]
    {
        let (_, stderr) = outcome(2, myelon(&["tune", "--dry-run"]).env(name, value));
        assert!(stderr.contains(word), "{stderr}");
    }
    let (_, stderr) = outcome(
        2,
        myelon(&["tune"]).env("XDG_CONFIG_HOME", "").env("HOME", "").env("MYELON_BACKEND", "host"),
    );
    assert!(stderr.contains("use --output FILE"), "{stderr}");
    let (stdout, stderr) = run(1, &["tune", "--backend", "cuda", "--dry-run"]);
    assert!(stderr.contains("--backend host") && stdout.is_empty(), "{stderr}");
}

#[test]
fn help_says_what_is_tried_timed_changed_and_checked() {
    let (stdout, _) = run(0, &["tune", "--help"]);
    for word in [
        "What is tried",
        "What is timed",
        "What changes",
        "What is checked",
        "The file",
        "Examples",
        "--dry-run",
    ] {
        assert!(stdout.contains(word), "no `{word}` in the help");
    }
    assert!(run(0, &["--help"]).0.contains("tune"));
}
