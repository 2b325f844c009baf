//! Property: `myelon explain` says what a call launches, with its reason and what else was possible, in forms for
//! people and programs.
//!
//! Catches: an explanation of another plan than the one that runs, flags and settings that are not honoured, lines
//! that programs cannot read. Cannot catch: predictions that are wrong; tests of myelon-sim compare those with
//! records.

mod common;

use common::{myelon, outcome, run};
use serde_json::Value;

fn json(command: &[&str], flags: &[&str]) -> Vec<Value> {
    let (stdout, _) = run(0, &[command, &["--format", "json"], flags].concat());
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_decision_is_what_all_reduce_launches() {
    for flags in [
        &["--ranks", "3", "-d", "bf16", "-b", "8", "-e", "4M", "-f", "32"][..],
        &["-b", "1M", "-e", "1M", "--lanes", "3", "--slots", "2"],
        &["-b", "64K", "-e", "64K", "--policy", "yali", "--slot-bytes", "4K"],
    ] {
        let explained = json(&["explain", "--machine", "here", "--runners-up", "0"], flags);
        let launched = json(&["all-reduce", "-n", "1", "-w", "0", "--in-place"], flags);
        assert_eq!(explained.len(), launched.len());
        for (explained, launched) in explained.iter().zip(&launched) {
            for field in ["ranks", "dtype", "bytes", "count", "plan", "why"] {
                assert_eq!(explained[field], launched[field], "{field} of {flags:?}");
            }
            assert!(explained["predicted_us"].is_null(), "the host has no model of time");
        }
    }
}

#[test]
fn h200s_are_explained_without_any() {
    // The first is another algorithm's, which has no time; the second is the ring's.
    let flags = ["--ranks", "4", "-d", "bf16", "-b", "64K", "-e", "1G", "-f", "16384", "--runners-up", "2"];
    let rows = json(&["explain", "--machine", "h200"], &flags);
    let number =
        |row: &Value, field: &str| row[field].as_f64().unwrap_or_else(|| panic!("no {field}: {row}"));
    let mut decision = &Value::Null;
    for row in &rows {
        assert_eq!((&row["machine"], &row["ranks"]), (&"H200".into(), &4.into()));
        match row["place"].as_u64() {
            Some(0) => {
                decision = row;
                assert!(row["why"].as_str().unwrap().starts_with("automatic for H200"), "{row}");
                if row["bytes"] == 64 << 10 {
                    assert!(row["plan"].as_str().unwrap().starts_with("one-shot"), "{row}");
                    assert!(row["predicted_us"].is_null(), "{row}");
                    continue;
                }
                let busbw = number(row, "bytes") / number(row, "predicted_us") / 1e3 * 2.0 * 3.0 / 4.0;
                assert!((number(row, "predicted_busbw_gbps") / busbw - 1.0).abs() < 1e-6, "{row}");
            }
            Some(_) if row["predicted_us"].is_null() || decision["predicted_us"].is_null() => {
                assert!(row["difference_percent"].is_null() && row["plan"] != decision["plan"], "{row}");
            }
            Some(_) => {
                let percent = (number(row, "predicted_us") / number(decision, "predicted_us") - 1.0) * 100.0;
                assert!((number(row, "difference_percent") - percent).abs() < 1e-6, "{row}");
                assert_ne!(row["plan"], decision["plan"]);
            }
            None => assert!(row["plan"].is_null() && row["why"].is_string(), "{row}"),
        }
    }
    let of_algorithms = rows.iter().filter(|row| row["which"].as_str().unwrap().contains("algorithm"));
    assert_eq!(of_algorithms.count(), 2 + 5, "two of 64K are shown, and of 1G one and four that are refused");
    let compared = rows.iter().filter(|row| row["difference_percent"].is_number());
    assert_eq!(compared.count(), 1 + 1, "the decision of 1G and one runner-up have times");
    let places: Vec<Option<u64>> = rows.iter().map(|row| row["place"].as_u64()).collect();
    let of_size = [Some(0), Some(1), Some(2)];
    assert!(
        places.starts_with(&of_size) && places.windows(3).filter(|w| *w == of_size).count() == 2,
        "{places:?}"
    );
}

#[test]
fn the_table_names_machine_reason_and_runners_up_in_120_columns() {
    let (stdout, _) = run(0, &["explain", "--machine", "h200", "-b", "1K", "-e", "256M", "-f", "64"]);
    for word in [
        "machine  H200",
        "8 ranks",
        "not measured",
        "bound by",
        "automatic for H200",
        "the link needs",
        "policy harness",
        "policy yali",
        "algorithm ring",
        "carries at most",
        "table    none",
        "refused",
        "the rings have room for",
    ] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    assert!(stdout.lines().all(|line| line.len() <= 120), "{stdout}");
    let (stdout, _) = run(0, &["explain", "--machine", "h200", "-b", "1K", "-e", "1K", "--runners-up", "0"]);
    assert!(!stdout.contains("runners-up") && !stdout.contains("refused"), "{stdout}");
    let (stdout, stderr) = run(0, &["explain", "--machine", "host", "-b", "8", "-e", "8", "--format", "csv"]);
    assert!(
        stdout.starts_with("machine,ranks,dtype,bytes,") && stderr.contains("none: the model"),
        "{stdout}{stderr}"
    );
}

#[test]
fn settings_hold_and_bad_usage_says_what_is_known() {
    let flags = ["explain", "--machine", "h200", "-b", "1M", "-e", "1M", "--format", "json", "--lanes", "2"];
    let settings =
        [("MYELON_RANKS", "3"), ("MYELON_LANES", "5"), ("MYELON_SLOTS", "2"), ("MYELON_POLICY", "yali")];
    let (stdout, _) = outcome(0, myelon(&flags).envs(settings));
    let decision: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    let plan = decision["plan"].as_str().unwrap();
    assert_eq!(decision["ranks"], 3);
    assert!(plan.contains("lanes=2") && plan.contains("slots=2"), "{plan}");
    assert!(decision["why"].as_str().unwrap().contains("policy yali"), "{decision}");

    for (flags, word) in [
        (&["--machine", "h100"][..], "h200, host, here"),
        (&["-d", "all"], "one type at a time"),
        (&["-d", "f33"], "f16, bf16, f32, f64"),
        (&["--policy", "fast"], "auto, harness, yali"),
        (&["-b", "2M", "-e", "1M"], "above the largest"),
        (&["-b", "128T"], "1099511627775 elements"),
        (&["--machine", "h200", "-b", "128T"], "70368744177664"),
        (&["--machine", "h200", "--lanes", "9999"], "from 1 to 1024"),
        (&["--slots", "3"], "power of two"),
    ] {
        let (stdout, stderr) = run(2, &[&["explain"], flags].concat());
        assert!(stderr.contains(word) && stdout.is_empty(), "{flags:?}: {stderr}{stdout}");
        assert!(stderr.ends_with("\n\ntry 'myelon explain --help'; settings: 'myelon info'\n"), "{stderr}");
    }
    let (_, stderr) = run(2, &["explain", "--machine", "h200", "--tuning", "some.txt"]);
    assert!(stderr.contains("the tuning file some.txt is for the machine it was measured on"), "{stderr}");
    let (_, stderr) = outcome(1, myelon(&["explain"]).env("MYELON_BACKEND", "cuda"));
    assert!(stderr.contains("--machine h200"), "{stderr}");
}
