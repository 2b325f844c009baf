//! What `simulate` says: for people in words, for programs one JSON object.

use std::io::{self, Write};
use std::time::Duration;

use myelon_sim::simulation::{Case, CaseFailure, Found, Hunt, Searched, Step};
use owo_colors::{OwoColorize, Stream};
use serde_json::{Value, json};

use super::args::{Format, Simulate};
use super::words;

/// What a search came to, and how long it took.
pub struct Outcome {
    /// What was run, or what was found.
    pub searched: Result<Searched, Box<Found>>,
    /// From the first seed to the last, and to the smallest case where one failed.
    pub elapsed: Duration,
}

/// What will be run: for programs on standard error.
pub fn header(args: &Simulate, hunt: &Hunt) -> io::Result<()> {
    let seeds = match args.until {
        Some(until) => format!("from {} on, for {} s", args.seeds.0.start, until.as_secs_f64()),
        None => args.seeds.to_string(),
    };
    let mut lines = vec![
        format!("myelon {} simulate", env!("CARGO_PKG_VERSION")),
        format!("seeds    {seeds}, on {}", words::count(hunt.threads, "thread")),
        match hunt.mutant.protocol() {
            Some(protocol) => format!("cases    those of the protocol {protocol}, which no flag changes"),
            None => format!("cases    {}", words::limits(&hunt.limits)),
        },
    ];
    lines.extend(args.mutant.map(|mutant| format!("mutant   {mutant}: {}", mutant.about())));
    lines.iter().try_for_each(|line| match args.format {
        Format::Table => writeln!(io::stdout(), "# {line}"),
        Format::Json => writeln!(io::stderr(), "# {line}"),
    })
}

/// What came of it.
pub fn outcome(args: &Simulate, outcome: &Outcome) -> io::Result<()> {
    let text = match args.format {
        Format::Table => table(args, outcome),
        Format::Json => json(args, outcome).to_string() + "\n",
    };
    io::stdout().write_all(text.as_bytes())
}

fn a_minute(seeds: u64, elapsed: Duration) -> f64 {
    60.0 * seeds as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn table(args: &Simulate, outcome: &Outcome) -> String {
    let seconds = outcome.elapsed.as_secs_f64();
    let drawn = args.timeline.as_ref().map(|path| format!("timeline       {}\n", path.display()));
    let drawn = drawn.unwrap_or_default();
    let found = match &outcome.searched {
        Ok(Searched { seeds, steps }) => {
            let rate = a_minute(*seeds, outcome.elapsed);
            return format!(
                "nothing found  {seeds} seeds, {steps} steps in {seconds:.1} s: {rate:.0} seeds a minute\n{drawn}"
            );
        }
        Err(found) => found,
    };
    let Found { failure, smallest } = &**found;
    let failed = format!("FAILED         {}", failure.violation);
    let failed = failed.if_supports_color(Stream::Stdout, |text| text.red()).to_string();
    let mut text = format!(
        "{failed}\n\
         seed           {}, at step {}; found and made smaller in {seconds:.1} s\n\
         again with     {}\n\
         {drawn}\n\
         The smallest case that was found to fail:\n",
        failure.seed,
        failure.step,
        args.replay(failure.seed)
    );
    match &smallest.case {
        Some(case) => {
            for (name, words) in words::case(case) {
                text += &format!("  {name:<9} {words}\n");
            }
        }
        // A protocol of the ancestors has no cases.
        None => text += &format!("  {:<9} {}\n", "mutant", failure.mutant.about()),
    }
    text += &format!("  {:<9} {}, at step {}\n", "seed", smallest.seed, smallest.step);
    text += &format!("  {:<9} {}\n", "broke", smallest.violation);
    if let Some(case) = &smallest.case {
        text += "\nIn a test:\n";
        let expression = words::expression(case, smallest.mutant, smallest.seed);
        expression.lines().for_each(|line| text += &format!("  {line}\n"));
    }
    let steps = last(smallest, args.trace);
    if !steps.is_empty() {
        text += &format!("\nIts last {}:\n", words::count(steps.len(), "step"));
        steps.iter().for_each(|step| text += &format!("{step}\n"));
    }
    text
}

/// The last steps, as many as are asked for.
fn last(failure: &CaseFailure, steps: u32) -> &[Step] {
    &failure.steps[failure.steps.len().saturating_sub(steps as usize)..]
}

fn json(args: &Simulate, outcome: &Outcome) -> Value {
    let seconds = outcome.elapsed.as_secs_f64();
    let mut object = match &outcome.searched {
        Ok(Searched { seeds, steps }) => json!({
            "passed": true,
            "seeds": seeds,
            "steps": steps,
            "seeds_a_minute": a_minute(*seeds, outcome.elapsed),
        }),
        Err(found) => {
            let Found { failure, smallest } = &**found;
            let mut smallest_object = json_failure(smallest);
            smallest_object["last_steps"] = last(smallest, args.trace)
                .iter()
                .map(|step| json!({ "step": step.number, "who": step.who, "what": step.what }))
                .collect();
            json!({
                "passed": false,
                "failure": json_failure(failure),
                "replay": args.replay(failure.seed),
                "smallest": smallest_object,
            })
        }
    };
    object["seconds"] = seconds.into();
    object["mutant"] = args.mutant.map(|mutant| mutant.name()).into();
    object["timeline"] = args.timeline.as_ref().map(|path| path.display().to_string()).into();
    object
}

fn json_failure(failure: &CaseFailure) -> Value {
    json!({
        "seed": failure.seed,
        "step": failure.step,
        "rule": failure.violation.rule,
        "message": failure.violation.message,
        "case": failure.case.as_ref().map(json_case),
        "expression": failure.case.as_ref().map(|case| words::expression(case, failure.mutant, failure.seed)),
    })
}

fn json_case(case: &Case) -> Value {
    let shape = &case.shape;
    let calls = case.calls.iter().map(|call| {
        json!({
            "algorithm": call.algorithm.name(),
            "dtype": call.dtype,
            "op": call.op,
            "elements": call.elements,
            "in_place": call.in_place,
            "skewed": call.skewed,
            "lanes": call.lanes,
            "workers": call.workers,
            "piece_bytes": call.piece_bytes,
        })
    });
    let words = words::case(case);
    let word = |name: &str| words.iter().find(|row| row.0 == name).map(|row| row.1.clone());
    json!({
        "ranks": shape.ranks,
        "lanes": shape.lanes,
        "capacity": shape.capacity,
        "slot_bytes": shape.piece_bytes,
        "credit_batch": shape.credit_batch,
        "first": shape.first,
        "inbox_lanes": shape.inbox.lanes,
        "inbox_packets": shape.inbox.packets,
        "inbox_cells": shape.inbox.cells,
        "movers": case.movers,
        "skew": case.skew,
        "calls": calls.collect::<Vec<Value>>(),
        "mishap": word("mishap"),
        "schedule": word("schedule"),
    })
}
