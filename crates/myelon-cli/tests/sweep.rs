//! Property: `myelon sweep` tries what it was told to on host ranks, says what was refused, and its loss follows
//! from the times that it prints.
//!
//! Catches: settings that are dropped or not honoured, a loss of something else, a heat map with missing cells.
//! Cannot catch: times that are wrong, and anything of GPUs.

mod common;

use std::collections::BTreeSet;

use common::{myelon, outcome, run, well_formed};
use serde_json::Value;

const TINY: [&str; 14] = [
    "sweep",
    "--backend",
    "host",
    "--ranks",
    "2",
    "-b",
    "64",
    "-e",
    "4K",
    "-f",
    "64",
    "--turns",
    "2",
    "--seed=9",
];

fn json(flags: &[&str]) -> (Vec<Value>, String) {
    let (stdout, stderr) = run(0, &[&TINY[..], &["--format", "json"], flags].concat());
    (stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), stderr)
}

#[test]
fn every_combination_is_launched_checked_and_compared_with_the_best() {
    let flags = ["--lanes", "1,3", "--slot-bytes", "256,4K", "--slots", "2,auto", "-d", "bf16"];
    let (records, stderr) = json(&flags);
    assert_eq!(records.len(), 2 * (1 + 8));
    for bytes in [64, 4096] {
        let of_size: Vec<&Value> = records.iter().filter(|record| record["bytes"] == bytes).collect();
        let time = |record: &Value| record["time_us"].as_f64().unwrap();
        let best = of_size.iter().map(|record| time(record)).fold(f64::INFINITY, f64::min);
        let mut plans = BTreeSet::new();
        for record in &of_size {
            assert_eq!(
                (&record["wrong"], &record["ranks"], &record["dtype"]),
                (&0.into(), &2.into(), &"bf16".into())
            );
            assert_eq!((&record["turns"], record["count"].as_u64()), (&2.into(), Some(bytes / 2)));
            let over = record["over_best"].as_f64().unwrap();
            assert!((over - (time(record) / best - 1.0)).abs() < 2e-3 * (1.0 + over), "{record}");
            assert!(record["least_us"].as_f64().unwrap() <= time(record) && record["copy_gbps"].is_number());
            if record["setting"] == "forced" {
                plans.insert(["lanes", "slot_bytes", "slots"].map(|name| record[name].as_u64().unwrap()));
            }
        }
        assert_eq!(of_size[0]["setting"], "automatic");
        assert_eq!(of_size.iter().filter(|record| record["best"] == true).count(), 1);
        let all = [1, 3]
            .into_iter()
            .flat_map(|lanes| [256, 4096].map(|slot| [2, 4].map(|slots| [lanes, slot, slots])));
        assert_eq!(plans, all.flatten().collect());
        let again = of_size.iter().filter(|record| record["again_us"].is_number()).count();
        assert_eq!(again, if of_size[0]["best"] == true { 0 } else { 2 });
    }
    for words in
        ["8 forced and the automatic one, 0 refused", "wrong elements  0, OK", "loss  ", "over 2 sizes"]
    {
        assert!(stderr.contains(words), "no `{words}` in\n{stderr}");
    }
}

#[test]
fn what_cannot_be_had_is_listed_with_its_reason_and_counted() {
    let flags = ["--lanes", "2", "--slot-bytes", "4K,1M", "--slots", "3,4,1024", "--blocks", "6,9"];
    let (records, stderr) = json(&flags);
    let refused: Vec<&Value> = records.iter().filter(|record| record["setting"] == "refused").collect();
    assert_eq!(refused.len(), 9);
    assert_eq!(records.len(), refused.len() + 2 * (1 + 3));
    let of = |name: &str, value: u64, words: &str| {
        let of = refused.iter().filter(|record| record[name] == value);
        of.filter(|record| record["why"].as_str().unwrap().contains(words)).count()
    };
    assert_eq!(
        of("slots", 3, "needed a power of two") + of("blocks", 9, "needed a multiple of 3 from 3 to 6"),
        8
    );
    assert_eq!(of("slots", 1024, "allowed are 1073741824"), 1, "{refused:?}");
    assert!(refused.iter().all(|record| record["bytes"].is_null() && record["time_us"].is_null()));
    assert!(stderr.contains("3 forced and the automatic one, 9 refused"), "{stderr}");

    let (stdout, _) = run(0, &[&TINY[..], &["--lanes", "2,0", "--slot-bytes", "4K"]].concat());
    assert!(
        stdout.contains("# refused  lanes=0 slot=4KiB: lanes is 0, needed a number from 1 to 1024"),
        "{stdout}"
    );
}

#[test]
fn the_table_has_a_line_a_size_and_a_summary() {
    let (stdout, stderr) = run(0, &[&TINY[..], &["--lanes", "1,2", "--slot-bytes", "auto"]].concat());
    assert!(stderr.is_empty(), "{stderr}");
    assert_eq!(stdout.lines().filter(|line| !line.starts_with('#')).count(), 2);
    for word in [
        "all-reduce by ring",
        "automatic",
        "best",
        "loss",
        "again",
        "copy",
        "median",
        "worst",
        "backend  host",
        "0, OK",
    ] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    assert!(!stdout.contains('\u{1b}'));
}

#[test]
fn csv_has_as_many_cells_a_line() {
    let (stdout, _) = run(0, &[&TINY[..], &["--smoke", "--format", "csv"]].concat());
    let cells = |line: &str| line.split(',').count();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[0].starts_with("backend,ranks,bytes,count,dtype,op,setting,lanes,slot_bytes,slots,blocks,")
    );
    assert_eq!(lines.len(), 1 + 2 * (1 + 4), "a smoke run has four settings");
    assert!(lines.iter().all(|line| cells(line) == cells(lines[0])), "{stdout}");
}

#[test]
fn the_heat_map_holds_every_cell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.svg");
    let flags = ["--lanes", "1,2,0", "--slot-bytes", "1K,4K", "--plot", path.to_str().unwrap()];
    run(0, &[&TINY[..], &flags].concat());
    well_formed(&path);
    let svg = std::fs::read_to_string(&path).unwrap();
    assert_eq!(svg.matches("\nrefused\n").count(), 2 * 2);
    for lanes in [0, 1, 2] {
        for slot in ["1KiB", "4KiB"] {
            assert!(svg.contains(&format!("\nlanes={lanes} slot={slot}\n")), "lanes={lanes} slot={slot}");
        }
    }
    assert!(svg.contains("2 ranks, host backend"));

    let lost = folder.path().join("no/such/folder.svg");
    let (stdout, stderr) = run(2, &["sweep", "--plot", lost.to_str().unwrap()]);
    assert!(stderr.starts_with("error: --plot cannot write") && stdout.is_empty(), "{stderr}{stdout}");
}

#[test]
fn time_is_a_limit_and_every_size_has_a_turn() {
    let flags = ["sweep", "--backend", "host", "-b", "64", "-e", "4K", "-f", "64", "--lanes", "1,2"];
    let start = std::time::Instant::now();
    let (stdout, _) = run(0, &[&flags[..], &["--time", "1", "--format", "json"]].concat());
    let elapsed = start.elapsed().as_secs_f64();
    let turns: Vec<u64> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["turns"].as_u64().unwrap())
        .collect();
    assert_eq!(turns.len(), 2 * (1 + 2 * 4));
    assert!(turns.iter().all(|&turns| turns >= 1) && elapsed > 0.9, "{turns:?} in {elapsed} s");
}

#[test]
fn bad_usage_exits_with_2_before_anything_runs() {
    for (flags, word) in [
        (&["--lanes", "x"][..], "needed a whole number or auto"),
        (&["-o", "avg", "-d", "i32"], "floats only"),
        (&["-b", "2M", "-e", "1M"], "above the largest"),
        (&["--lanes", "0"], "all 4 settings were refused, the first of them, lanes=0"),
        (&["--lanes", "auto", "--slot-bytes", "auto"], "nothing to compare"),
        (&["--turns", "1", "--time", "1"], "cannot be used with"),
        (&["--algo", "one-shot"], "one-shot cannot run here: it needs GPUs as ranks"),
        (&["--algo", "direct", "--slots", "2"], "direct has no slots, and a block for each lane"),
        (&["--tuning", "/no/such/file"], "the tuning file /no/such/file cannot be taken"),
    ] {
        let (stdout, stderr) = run(2, &[&["sweep", "--backend", "host"], flags].concat());
        assert!(stderr.contains(word), "{flags:?}: {stderr}");
        assert!(stderr.ends_with("\n\ntry 'myelon sweep --help'; settings: 'myelon info'\n"), "{stderr}");
        assert!(stdout.is_empty(), "{flags:?} began to run");
    }
    let many = (1..=2001).map(|lanes| lanes.to_string()).collect::<Vec<_>>().join(",");
    let (_, stderr) = run(2, &["sweep", "--backend", "host", "--slot-bytes", "auto", "--lanes", &many]);
    assert!(stderr.contains("2001 settings, needed at most 2000"), "{stderr}");
    let (_, stderr) = outcome(2, myelon(&["sweep"]).env("MYELON_LANES", "4"));
    assert!(stderr.contains("forces lanes=4, so there is no automatic plan"), "{stderr}");
    let (stdout, stderr) = run(1, &["sweep", "--backend", "cuda"]);
    assert!(stderr.contains("--backend host") && stdout.is_empty(), "{stderr}");
}

#[test]
fn help_explains_columns_method_and_loss() {
    let (stdout, _) = run(0, &["sweep", "--help"]);
    for word in
        ["loss", "again", "What is timed", "What is checked", "How to read the loss", "Examples", "Exit code"]
    {
        assert!(stdout.contains(word), "no `{word}` in the help");
    }
    assert!(run(0, &["--help"]).0.contains("sweep"));
}
