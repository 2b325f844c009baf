//! Property: `myelon simulate` passes on the kernels as they are, and a weakness fails with what is needed to
//! see it again: exit codes, the replay command, the smallest case, the timeline.
//!
//! Catches: flags that do not reach the simulator, a replay that gives another case, output that programs cannot
//! read. Cannot catch: a checker that has gone blind; the tests of myelon-sim are for those.

mod common;

use common::{myelon, outcome, run, well_formed};
use serde_json::Value;

fn json(code: i32, flags: &[&str]) -> Value {
    let (stdout, _) = run(code, &[&["simulate", "--format", "json"], flags].concat());
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn the_kernels_as_they_are_pass() {
    let (stdout, _) = run(0, &["simulate", "--seeds", "0..20", "--ranks", "4"]);
    for word in ["ranks 4", "types all", "nothing found  20 seeds", "seeds a minute"] {
        assert!(stdout.contains(word), "no `{word}` in\n{stdout}");
    }
    for algorithm in
        ["one-shot", "two-shot", "one-shot-lamport", "two-shot-lamport", "direct", "ring", "neighbour"]
    {
        let (stdout, _) = run(0, &["simulate", "--seeds", "0..20", "--algo", algorithm]);
        assert!(stdout.contains(&format!("algorithms {algorithm}, ")), "{stdout}");
    }
    let flags = ["--seeds", "5..25", "--ranks", "2..4", "-d", "f16,i64", "--no-mishaps", "--from-zero"];
    let object = json(0, &flags);
    assert_eq!((&object["passed"], &object["seeds"]), (&true.into(), &20.into()));
    assert!(object["steps"].as_u64() > Some(1000) && object["seeds_a_minute"].as_f64() > Some(0.0));
}

/// The table and the JSON of the same search say the same, and so does its replay.
#[test]
fn a_mutant_fails_and_its_replay_fails_at_the_same_seed() {
    for mutant in [
        "ring/credit.gate",
        "packet/header.none",
        "packet/cell.kept",
        "direct/end.early",
        "fault/record.twice",
        "bulk/credit",
    ] {
        let flags = ["--mutant", mutant, "--lanes", "1"];
        let (stdout, _) = run(1, &[&["simulate"], &flags[..]].concat());
        let replay = stdout.lines().find_map(|line| line.strip_prefix("again with     myelon ")).unwrap();
        let words: Vec<&str> = replay.split(' ').collect();
        let (again, _) = run(1, &words);
        let seed = |text: &str| text.lines().find(|line| line.starts_with("FAILED")).unwrap().to_string();
        assert_eq!(seed(&stdout), seed(&again), "{replay}");
        let after = |text: &str| text[text.find("The smallest case").unwrap()..].to_string();
        assert_eq!(after(&stdout), after(&again), "{replay}");
        assert!(after(&stdout).contains("Its last "), "{stdout}");

        let object = json(1, &flags);
        assert_eq!(object["replay"], format!("myelon {replay}"));
        let failed_at = object["failure"]["seed"].as_u64().unwrap();
        assert!(replay.ends_with(&format!("--seeds {failed_at}..{}", failed_at + 1)), "{replay}");
        assert!(stdout.contains(object["smallest"]["message"].as_str().unwrap()));
        let steps = object["smallest"]["last_steps"].as_array().unwrap();
        assert!((1..=40).contains(&steps.len()), "{}", steps.len());
        if mutant != "bulk/credit" {
            let case = &object["smallest"]["case"];
            assert!(case["ranks"].as_u64() >= Some(2) && case["calls"][0]["algorithm"].is_string());
            assert_eq!(case["lanes"], 1);
        }
    }
}

#[test]
fn a_trace_is_as_long_as_was_asked_for() {
    let flags = ["--mutant", "ring/credit.gate", "--trace"];
    let steps = |steps: &str| {
        let object = json(1, &[&flags[..], &[steps]].concat());
        object["smallest"]["last_steps"].as_array().unwrap().len()
    };
    assert_eq!((steps("0"), steps("7")), (0, 7));
}

#[test]
fn mutants_are_listed_with_what_they_weaken() {
    let (stdout, _) = run(0, &["simulate", "--list-mutants"]);
    assert!(stdout.lines().count() >= 25, "{stdout}");
    assert!(stdout.contains("ring/publish.fence") && stdout.contains("without the fence"));
    let (lines, _) = run(0, &["simulate", "--list-mutants", "--format", "json"]);
    assert_eq!(lines.lines().count(), stdout.lines().count());
    for line in lines.lines() {
        let mutant: Value = serde_json::from_str(line).unwrap();
        assert!(stdout.contains(mutant["name"].as_str().unwrap()), "{line}");
        assert!(!mutant["weakens"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_timeline_is_drawn_of_a_failure_and_of_the_first_seed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slots.svg");
    let flags = ["simulate", "--timeline", path.to_str().unwrap(), "--no-mishaps"];
    // Only the ring and neighbours have slots to draw.
    let (stdout, _) = run(0, &[&flags[..], &["--seeds", "0..2", "--algo", "ring"]].concat());
    assert!(stdout.contains(path.to_str().unwrap()), "{stdout}");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("<svg ") && text.contains("seed 0") && !text.contains("a rule is broken"));
    well_formed(&path);
    run(1, &[&flags[..], &["--mutant", "ring/credit.gate", "--ranks", "2", "--algo", "ring"]].concat());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("a rule is broken") && text.contains("mutant ring/credit.gate"));
    assert!(text.contains("scatter 0-&gt;1, lane 0"));
    let (_, stderr) = run(2, &["simulate", "--timeline", "no/such/folder.svg"]);
    assert!(stderr.contains("--timeline cannot write"), "{stderr}");
    let (_, stderr) = run(2, &[&flags[..3], &["--mutant", "bulk/credit"]].concat());
    assert!(stderr.contains("nothing to draw"), "{stderr}");
}

#[test]
fn a_soak_lasts_as_long_as_it_should_and_goes_beyond_the_range() {
    let object = json(0, &["--until", "0.7s", "--seeds", "0..1", "--ranks", "2", "--calls", "1"]);
    assert!(object["seeds"].as_u64() > Some(1), "{object}");
    assert!(object["seconds"].as_f64() >= Some(0.7), "{object}");
}

#[test]
fn bad_usage_is_refused_with_what_is_known() {
    for (flags, word) in [
        (&["--seeds", "2000"][..], "0..2000"),
        (&["--seeds", "9..3"], "0..2000"),
        (&["--ranks", "9"], "from 2 to 8"),
        (&["--ranks", "4..4"], "from 2 to 8"),
        (&["--lanes", "0"], "from 1 to 8"),
        (&["--capacity", "1,3"], "powers of two"),
        (&["--slot-bytes", "24"], "multiples of 16"),
        (&["--inbox", "3"], "even numbers"),
        (&["--algo", "tree"], "one-shot-lamport, two-shot-lamport, direct, ring, neighbour"),
        (&["--algo", "one-shot-lamport", "-d", "i32"], "carries floats only"),
        (&["--until", "30"], "30s, 10m or 2h"),
        (&["-d", "f33"], "f16, bf16, f32"),
        (&["--mutant", "ring/none"], "ring/publish.fence"),
        (&["--format", "csv"], "json"),
        (&["--threads", "0"], "1..=1024"),
    ] {
        let (stdout, stderr) = run(2, &[&["simulate"], flags].concat());
        assert!(stderr.contains(word), "{flags:?}: {stderr}");
        assert!(stderr.ends_with("try 'myelon simulate --help'; settings: 'myelon info'\n"), "{stderr}");
        assert!(stdout.is_empty(), "{flags:?} began to run");
    }
    let (_, stderr) = outcome(2, myelon(&["simulate"]).env("MYELON_LANE", "4"));
    assert!(stderr.contains("MYELON_LANES"), "{stderr}");
}

#[test]
fn help_says_what_is_run_and_what_is_looked_at() {
    let (stdout, _) = run(0, &["simulate", "--help"]);
    for word in ["What is run", "What is looked at", "Ranges", "Examples", "--until", "2..=4", "Exit code"] {
        assert!(stdout.contains(word), "no `{word}` in the help");
    }
    assert!(run(0, &["--help"]).0.contains("simulate"));
}
