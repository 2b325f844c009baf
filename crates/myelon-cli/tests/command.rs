//! Property: the command does what its help says, on a machine with or without GPUs: exit codes, formats,
//! and results that are right on the host backend.
//!
//! Catches: flags that are not honoured, output that programs cannot read, errors that do not help.
//! Cannot catch: wrong numbers in the time columns.

mod common;

use std::collections::BTreeSet;

use common::{myelon, outcome, run, well_formed};
use serde_json::Value;

/// The objects of a JSON run on the host backend, few calls each.
fn json(flags: &[&str]) -> Vec<Value> {
    let fixed = ["all-reduce", "--backend", "host", "--format", "json", "-n", "2", "-w", "1"];
    let (stdout, _) = run(0, &[&fixed, flags].concat());
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn help_explains_columns_and_exit_codes() {
    let (stdout, _) = run(0, &["--help"]);
    assert!(stdout.contains("all-reduce") && stdout.contains("info") && stdout.contains("Exit code"));
    let (stdout, _) = run(0, &["all-reduce", "--help"]);
    for word in [
        "busbw",
        "algbw",
        "#wrong",
        "What is timed",
        "--graph-calls",
        "Examples",
        "--max-bytes",
        "--deadline",
        "Exit code",
        "MYELON_DEADLINE_MS",
    ] {
        assert!(stdout.contains(word), "no `{word}` in the help");
    }
    assert!(run(0, &["--version"]).0.starts_with("myelon "));
}

#[test]
fn bad_usage_exits_with_2_and_says_what_is_known() {
    for (flags, word) in [
        (&["--speed"][..], "--speed"),
        (&["-d", "f33"], "f16, bf16, f32, f64"),
        (&["-o", "xor"], "sum, prod, min, max, avg"),
        (&["-b", "1X"], "1X"),
        (&["-b", "2M", "-e", "1M"], "above the largest"),
        (&["-f", "1"], "never ends"),
        (&["-f", "2", "-i", "8"], "cannot be used with"),
        (&["--ranks", "9"], "9"),
        (&["--in-place", "--out-of-place"], "cannot be used with"),
        (&["-d", "i32", "-o", "avg"], "floats only"),
        (&["-d", "all", "-o", "all", "--plot", "x.svg"], "--plot"),
        (&["--slots", "3"], "power of two"),
        (&["--mode", "fast"], "stream, graph, isolated"),
        (&["--graph", "--mode", "isolated"], "cannot be used with"),
        (&["--graph-calls", "5"], "--mode graph"),
    ] {
        let (stdout, stderr) = run(2, &[&["all-reduce", "--backend", "host"], flags].concat());
        assert!(stderr.contains(word), "{flags:?}: {stderr}");
        assert!(stderr.ends_with(HINT), "{flags:?}: {stderr}");
        assert!(!stdout.contains("busbw"), "{flags:?} began to run");
    }
    run(2, &["no-such-command"]);
}

const HINT: &str = "\n\ntry 'myelon all-reduce --help'; settings: 'myelon info'\n";

/// Every type and operation at crooked sizes, over five ranks: all of them, all right.
#[test]
fn every_type_and_operation_is_right_on_five_ranks() {
    let records = json(&["--ranks", "5", "-b", "1", "-e", "64K", "-f", "7", "-d", "all", "-o", "all"]);
    let mut pairs = BTreeSet::new();
    for record in &records {
        assert_eq!(record["wrong"], 0, "{record}");
        assert_eq!(record["ranks"], 5);
        assert_eq!(record["backend"], "host");
        pairs.insert((record["dtype"].to_string(), record["op"].to_string()));
    }
    assert_eq!(pairs.len(), 44);
    let bytes = |dtype: &str| -> Vec<u64> {
        let of = records.iter().filter(|r| r["dtype"] == dtype && r["op"] == "sum" && r["in_place"] == false);
        of.map(|record| record["bytes"].as_u64().unwrap()).collect()
    };
    assert_eq!(bytes("u8"), [1, 7, 49, 343, 2401, 16807]);
    assert_eq!(bytes("f64"), [0, 48, 336, 2400, 16800]);
}

#[test]
fn json_has_what_programs_need() {
    for (ranks, dtype) in [("2", "f16"), ("3", "bf16"), ("8", "i64")] {
        let records = json(&["--ranks", ranks, "-d", dtype, "-b", "64", "-e", "4K", "-f", "8", "-c", "2"]);
        assert_eq!(records.len(), 6);
        for record in records {
            assert_eq!(record["wrong"], 0);
            assert_eq!(record["ranks"].to_string(), ranks);
            assert_eq!(record["dtype"], dtype);
            let number = |field: &str| record[field].as_f64().unwrap();
            let p = number("ranks");
            assert!(number("time_us") > 0.0);
            let algbw = number("bytes") / number("time_us") / 1e3;
            assert!((number("algbw_gbps") / algbw - 1.0).abs() < 1e-9);
            assert!((number("busbw_gbps") / algbw - 2.0 * (p - 1.0) / p).abs() < 1e-9);
            for field in ["kernel", "plan", "why"] {
                assert!(!record[field].as_str().unwrap().is_empty(), "{field}");
            }
            assert!(number("grid") > 0.0 && number("block") > 0.0 && number("shared_bytes") >= 0.0);
        }
    }
}

/// Every way to time gives right results, and says what it has measured.
#[test]
fn every_mode_is_checked_and_named() {
    let size = ["--ranks", "3", "-b", "4", "-e", "256K", "-f", "256", "-d", "bf16", "-c", "2", "-n", "3"];
    let modes: [(&[&str], &str, &[u64]); 5] = [
        (&[], "stream", &[10, 10, 4]),
        (&["--mode", "stream"], "stream", &[10, 10, 4]),
        (&["--graph"], "graph", &[10, 10, 4]),
        (&["--mode", "graph", "--graph-calls", "33"], "graph", &[33, 33, 33]),
        (&["--mode", "isolated"], "isolated", &[1, 1, 1]),
    ];
    for (flags, mode, calls) in modes {
        let fixed = ["all-reduce", "--backend", "host", "--format", "json"];
        let (stdout, stderr) = run(0, &[&fixed[..], &size, flags].concat());
        let records: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2 * 3);
        for (index, record) in records.iter().enumerate() {
            assert_eq!(
                (&record["wrong"], &record["mode"]),
                (&Value::from(0), &Value::from(mode)),
                "{record}"
            );
            assert_eq!(record["sample_calls"], calls[index / 2], "{record}");
            assert_eq!(record["samples"], 3);
            let time = |field: &str| record[field].as_f64().unwrap();
            assert!(time("time_us") <= time("time_p99_us"), "{record}");
            assert!(time("time_p99_us") <= time("time_max_us"), "{record}");
        }
        assert!(stderr.contains(&format!("mode     {mode}")), "{stderr}");
        assert_eq!(stderr.contains("two marks alone"), mode == "isolated", "{stderr}");
    }
    // One sample and no call before it: fewer calls than pairs.
    for mode in ["stream", "graph", "isolated"] {
        let flags = ["all-reduce", "--backend", "host", "--format", "json", "--mode", mode];
        let (stdout, _) =
            run(0, &[&flags[..], &["-b", "64K", "-e", "1M", "-f", "16", "-n", "1", "-w", "0"]].concat());
        assert_eq!(stdout.matches("\"wrong\":0").count(), 4, "{stdout}");
    }
}

#[test]
fn placement_check_and_forced_plan_are_honoured() {
    let size = ["-b", "1K", "-e", "1K"];
    assert!(json(&[&size[..], &["--in-place"]].concat()).iter().all(|record| record["in_place"] == true));
    assert!(
        json(&[&size[..], &["--out-of-place"]].concat()).iter().all(|record| record["in_place"] == false)
    );
    assert!(json(&[&size[..], &["-c", "0"]].concat()).iter().all(|record| record["wrong"].is_null()));
    let forced = ["--lanes", "3", "--slot-bytes", "256", "--slots", "2", "-b", "16K", "-e", "16K"];
    for record in json(&forced) {
        let plan = record["plan"].as_str().unwrap();
        for word in ["lanes=3", "slot=256B", "slots=2"] {
            assert!(plan.contains(word), "{plan}");
        }
        assert_eq!(record["wrong"], 0);
    }
}

#[test]
fn csv_has_a_header_and_as_many_cells_a_line() {
    let flags =
        ["all-reduce", "--backend", "host", "--format", "csv", "-b", "8", "-e", "64", "-f", "8", "-n", "1"];
    let (stdout, stderr) = run(0, &flags);
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[0]
            .starts_with("backend,ranks,bytes,count,dtype,op,in_place,time_us,algbw_gbps,busbw_gbps,wrong,")
    );
    assert_eq!(lines.len(), 1 + 4);
    assert!(lines[1..].iter().all(|line| line.starts_with("host,2,")));
    assert!(stderr.contains("wrong elements"), "the words around the results go to standard error: {stderr}");
}

#[test]
fn the_table_says_backend_devices_and_verdict_and_has_no_colours_in_a_pipe() {
    let flags = ["all-reduce", "-b", "8", "-e", "32", "-n", "2", "-d", "f32", "-o", "all"];
    let (stdout, _) = run(0, &flags);
    for word in [
        "backend  host",
        "ranks    2",
        "mode     stream",
        "p99",
        "out-of-place",
        "in-place",
        "#wrong",
        "0, OK",
        "mean bus bandwidth",
    ] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    assert_eq!(stdout.lines().filter(|line| !line.starts_with('#')).count(), 5 * 3);
    assert!(!stdout.contains('\u{1b}'));
}

#[test]
fn what_does_not_exist_is_left_out_and_said_once() {
    let flags =
        ["all-reduce", "--backend", "host", "-b", "8", "-e", "8", "-n", "1", "-d", "i32", "-o", "all"];
    let (stdout, _) = run(0, &flags);
    assert_eq!(stdout.matches("i32 avg").count(), 1);
    assert_eq!(stdout.lines().filter(|line| !line.starts_with('#')).count(), 4);
}

#[test]
fn a_picture_is_written_and_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.svg");
    let flags = ["all-reduce", "--backend", "host", "-b", "1", "-e", "4K", "-f", "4", "-n", "1", "-o", "sum"];
    run(0, &[&flags[..], &["--plot", path.to_str().unwrap()]].concat());
    well_formed(&path);
    let lost = folder.path().join("no/such/folder.svg");
    let (stdout, stderr) = run(2, &[&flags[..], &["--plot", lost.to_str().unwrap()]].concat());
    let needed = format!("error: --plot cannot write {}: No such file", lost.display());
    assert!(stderr.starts_with(&needed) && stdout.is_empty(), "{stderr}{stdout}");
    let empty = ["all-reduce", "-b", "0", "-e", "3", "--plot", path.to_str().unwrap()];
    let (stdout, stderr) = run(2, &empty);
    assert!(stderr.contains("nothing to draw") && stdout.is_empty(), "{stderr}{stdout}");
    well_formed(&path);
}

#[test]
fn cuda_without_a_gpu_fails_and_says_what_to_do() {
    let (stdout, stderr) = run(1, &["all-reduce", "--backend", "cuda"]);
    assert!(stderr.starts_with("error: ") && stderr.contains("--backend host"), "{stderr}");
    assert!(stderr.contains("myelon info"), "{stderr}");
    assert!(stdout.is_empty(), "{stdout}");
}

#[test]
fn unknown_and_malformed_settings_are_refused() {
    for command in ["all-reduce", "info"] {
        let (_, stderr) = outcome(2, myelon(&[command]).env("MYELON_LANE", "4"));
        assert!(stderr.contains("MYELON_LANE;") && stderr.contains("MYELON_LANES"), "{stderr}");
        let (_, stderr) = outcome(2, myelon(&[command]).env("MYELON_BACKEND", "gpu"));
        assert!(stderr.contains("auto, host, cuda"), "{stderr}");
        let (_, stderr) = outcome(2, myelon(&[command]).env("MYELON_LOG", "loud=very"));
        assert!(stderr.contains("MYELON_LOG"), "{stderr}");
    }
}

#[test]
fn settings_hold_and_flags_win_over_them() {
    let flags = ["all-reduce", "--format", "json", "-b", "64K", "-e", "64K", "-n", "1", "--lanes", "2"];
    let mut command = myelon(&flags);
    command.env("MYELON_RANKS", "3").env("MYELON_LANES", "5").env("MYELON_SLOTS", "2");
    let (stdout, _) = outcome(0, &mut command);
    for line in stdout.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let plan = record["plan"].as_str().unwrap();
        assert_eq!(record["ranks"], 3);
        assert!(plan.contains("lanes=2") && plan.contains("slots=2"), "{plan}");
    }
}

#[test]
fn the_log_is_silent_unless_asked_for_and_goes_to_standard_error() {
    let flags = ["all-reduce", "--backend", "host", "--format", "json", "-b", "8", "-e", "8", "-n", "1"];
    let (_, quiet) = run(0, &flags);
    assert!(!quiet.contains("DEBUG"), "{quiet}");
    let (stdout, loud) = outcome(0, myelon(&flags).env("MYELON_LOG", "debug"));
    assert!(loud.contains("DEBUG") && loud.contains("all_reduce"), "{loud}");
    assert!(stdout.lines().all(|line| line.starts_with('{')));
}

#[test]
fn info_shows_backend_memory_and_settings() {
    let (stdout, _) = outcome(0, myelon(&["info"]).env("MYELON_SLOTS", "8"));
    for word in [
        "backend          host",
        "because",
        "CUDA",
        "not usable",
        "8 ranks",
        "MYELON_DEADLINE_MS",
        "(not set)",
    ] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    let slots = stdout.lines().find(|line| line.contains("MYELON_SLOTS ")).unwrap();
    assert!(slots.trim_end().ends_with(" 8"), "{slots}");
}

#[test]
fn info_follows_the_environment() {
    let (stdout, _) = outcome(0, myelon(&["info"]).env("MYELON_BACKEND", "host").env("MYELON_RANKS", "5"));
    assert!(stdout.contains("the host backend was asked for") && stdout.contains("5 on host"), "{stdout}");
    let (stdout, _) = outcome(0, myelon(&["info"]).env("MYELON_BACKEND", "cuda"));
    for word in ["backend  none", "because  no usable CUDA driver", "like an H200", "8 ranks"] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    let (stdout, stderr) = outcome(2, myelon(&["info"]).env("MYELON_LANES", "9999"));
    assert!(stdout.contains("9999") && stderr.contains("lanes is 9999"), "{stdout}{stderr}");
}
