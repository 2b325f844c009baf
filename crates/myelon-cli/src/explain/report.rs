//! What `myelon explain` writes: tables for people, lines for programs.

use std::io::{self, Write};

use myelon_lanes::Plan;
use myelon_sim::timing::Prediction;
use serde::Serialize;

use super::{Explain, Explained, Subject};
use crate::all_reduce::say;
use crate::args::Format;
use crate::failure::Failure;
use crate::record::{csv_cells, json_line};
use crate::sizes::about_bytes;
use crate::table::{bandwidth, time};

/// Writes everything to standard output, and for programs the words around it to standard error.
pub fn write(args: &Explain, subject: &Subject, all: &[Explained]) -> Result<(), Failure> {
    for line in header(args, subject) {
        match args.format {
            Format::Table => say(&format!("# {line}"))?,
            Format::Csv | Format::Json => writeln!(io::stderr(), "# {line}")?,
        }
    }
    let rows = || all.iter().flat_map(|one| rows(args, subject, one));
    match args.format {
        Format::Table => table(all).iter().try_for_each(|line| say(line))?,
        Format::Csv => {
            say(&FIELDS.join(","))?;
            rows().try_for_each(|row| say(&csv_cells(&FIELDS, &row)))?;
        }
        Format::Json => rows().try_for_each(|row| say(&json_line(&row)))?,
    }
    Ok(())
}

/// For what the plans are, and what the times are worth.
fn header(args: &Explain, subject: &Subject) -> Vec<String> {
    let Subject { because, table, ranks, policy, .. } = subject;
    let machine = subject.machine();
    let pool = subject.tuning.pool(*ranks);
    let rings = pool.map_or_else(
        |error| format!("none: {error}"),
        |pool| format!("{} a rank: {pool}", about_bytes(pool.window_bytes(*ranks))),
    );
    let times = match (machine.host, *ranks) {
        (true, _) => "none: the model of time knows GPUs only",
        (_, 2..=4) => "predicted for H200s, not measured; mostly off by 2 to 4 %, at times by 15 %",
        _ => "predicted for H200s, not measured; no record of more than 4 ranks to compare with",
    };
    vec![
        format!("myelon {} explain: what would be launched; nothing was", env!("CARGO_PKG_VERSION")),
        format!("machine  {}", machine.name),
        format!("because  {because}"),
        format!("call     all-reduce of {}, {ranks} ranks, policy {policy}", args.datatype),
        format!("rings    {rings}"),
        format!("table    {table}"),
        format!("times    {times}"),
    ]
}

/// Decisions, their reasons, and what else was possible.
fn table(all: &[Explained]) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    let mut lines = vec![
        format!("#{:>11}{:>11}{:>9}  {:PLAN$} why  bound by", "size", "predicted", "busbw", "plan"),
        format!("#{:>11}{:>11}{:>9}", "(B)", "(us)", "(GB/s)"),
    ];
    for one in all {
        let why = one.choice.why.to_string();
        let place = reasons.iter().position(|known| *known == why).unwrap_or_else(|| {
            reasons.push(why);
            reasons.len() - 1
        });
        let prediction = one.prediction.as_ref();
        let [us, gbps] = cells(prediction);
        let bound = prediction.map_or("-".into(), |it| it.bound.to_string());
        let plan = one.choice.plan.to_string();
        lines.push(format!(" {:>11}{us:>11}{gbps:>9}  {plan:PLAN$} {:>3}  {bound}", one.bytes, place + 1));
    }
    lines.extend(["#".into(), "# why".into()]);
    for (place, reason) in reasons.iter().enumerate() {
        // A reason has the rule before its semicolon and the figures behind it.
        for (part, text) in reason.split("; ").enumerate() {
            let number = if part == 0 { (place + 1).to_string() } else { String::new() };
            lines.push(format!("# {number:>3}  {text}"));
        }
    }
    if all.iter().any(|one| !one.runners_up.is_empty() || !one.refused.is_empty()) {
        let is_predicted = all.iter().flat_map(|one| &one.runners_up).any(|other| other.prediction.is_some());
        let order = if is_predicted { ": other algorithms, then the fastest first" } else { "" };
        lines.extend(["#".into(), format!("# runners-up{order}")]);
        lines.push(format!("#{:>11}{:>11}{:>9}  {:PLAN$} which", "size", "predicted", "diff", "plan"));
        lines.push(format!("#{:>11}{:>11}{:>9}", "(B)", "(us)", "(%)"));
        all.iter().for_each(|one| others(one, &mut lines));
    }
    lines
}

/// Characters of most plans.
const PLAN: usize = 56;

/// The lines of one size's runners-up; the refused ones stand together where the reason is the same.
fn others(one: &Explained, lines: &mut Vec<String>) {
    let mut size = one.bytes.to_string();
    for other in &one.runners_up {
        let [us, _] = cells(other.prediction.as_ref());
        let diff = difference(one, other.prediction.as_ref()).map_or("-".into(), |it| format!("{it:+.1}"));
        let plan = other.plan.to_string();
        lines.push(format!(" {size:>11}{us:>11}{diff:>9}  {plan:PLAN$} {}", other.which));
        size.clear();
    }
    let mut refused: Vec<(&str, Vec<&str>)> = Vec::new();
    for other in &one.refused {
        match refused.iter_mut().find(|(why, _)| *why == other.why) {
            Some((_, which)) => which.push(&other.which),
            None => refused.push((&other.why, vec![&other.which])),
        }
    }
    for (why, which) in refused {
        lines.push(format!(" {size:>11}{:>11}{:>9}  {}: {why}", "refused", "", which.join(", ")));
        size.clear();
    }
}

/// Time and bus bandwidth.
fn cells(prediction: Option<&Prediction>) -> [String; 2] {
    prediction.map_or(["-".into(), "-".into()], |it| [time(it.time_us), bandwidth(it.busbw_gbps)])
}

/// How much longer than the decision, in per cent of it.
fn difference(one: &Explained, other: Option<&Prediction>) -> Option<f64> {
    let (decision, other) = (one.prediction.as_ref()?, other?);
    Some((other.time_us / decision.time_us - 1.0) * 100.0)
}

/// One plan of one size, for programs. The names of the fields are the names in JSON and CSV.
#[derive(Serialize)]
struct Row<'a> {
    machine: &'a str,
    ranks: u32,
    dtype: &'static str,
    bytes: u64,
    count: u64,
    /// 0 for the decision, then 1, 2, ... for the runners-up; nothing for a plan that was refused.
    place: Option<usize>,
    /// `decision`, or how the plan differs from it.
    which: &'a str,
    plan: Option<String>,
    predicted_us: Option<f64>,
    predicted_busbw_gbps: Option<f64>,
    difference_percent: Option<f64>,
    bound_by: Option<String>,
    /// Why this plan was chosen, or why it was refused.
    why: Option<String>,
}

const FIELDS: [&str; 13] = [
    "machine",
    "ranks",
    "dtype",
    "bytes",
    "count",
    "place",
    "which",
    "plan",
    "predicted_us",
    "predicted_busbw_gbps",
    "difference_percent",
    "bound_by",
    "why",
];

fn rows<'a>(args: &Explain, subject: &'a Subject, one: &'a Explained) -> Vec<Row<'a>> {
    let row =
        |place: Option<usize>, which: &'a str, plan: Option<&Plan>, prediction: Option<&Prediction>| Row {
            machine: &subject.machine().name,
            ranks: subject.ranks,
            dtype: args.datatype.name(),
            bytes: one.bytes,
            count: one.count,
            place,
            which,
            plan: plan.map(Plan::to_string),
            predicted_us: prediction.map(|it| it.time_us),
            predicted_busbw_gbps: prediction.map(|it| it.busbw_gbps),
            difference_percent: difference(one, prediction),
            bound_by: prediction.map(|it| it.bound.to_string()),
            why: None,
        };
    let decision = row(Some(0), "decision", Some(&one.choice.plan), one.prediction.as_ref());
    let mut rows = vec![Row { why: Some(one.choice.why.to_string()), ..decision }];
    for (place, other) in one.runners_up.iter().enumerate() {
        rows.push(row(Some(place + 1), &other.which, Some(&other.plan), other.prediction.as_ref()));
    }
    for other in &one.refused {
        rows.push(Row { why: Some(other.why.clone()), ..row(None, &other.which, None, None) });
    }
    rows
}

#[cfg(test)]
mod tests {
    use myelon_collectives::DataType;
    use myelon_lanes::{Forced, Machine, Policy, Tuning};

    use super::*;

    fn example(machine: Machine) -> Subject {
        let (policy, forced, because, table) =
            (Policy::Auto, Forced::default(), String::new(), String::new());
        let tuning = Tuning::new(machine).windows(true);
        Subject { tuning, because, table, ranks: 8, policy, forced, rank: None }
    }

    #[test]
    fn csv_names_every_field_of_a_row() {
        use clap::Parser;
        let cli = crate::args::Cli::try_parse_from(["myelon", "explain"]).unwrap();
        let crate::args::Command::Explain(args) = cli.command else { unreachable!("the line says explain") };
        let subject = example(Machine::h200());
        let one = subject.explain(DataType::F32, 64, 1).unwrap();
        for row in rows(&args, &subject, &one) {
            let row = serde_json::to_value(row).unwrap();
            let mut names: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
            let mut fields = FIELDS;
            names.sort_unstable();
            fields.sort_unstable();
            assert_eq!(names, fields);
        }
    }

    #[test]
    fn columns_stand_under_their_names_and_a_reason_is_told_once() {
        let subject = example(Machine::h200());
        // Above what other algorithms are chosen for.
        let all = [1 << 27, 1 << 28].map(|count| subject.explain(DataType::F32, count, 1).unwrap());
        let lines = table(&all);
        let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
        assert_eq!(end(&lines[0], "size"), end(&lines[2], "536870912"));
        assert_eq!(lines[0].find("plan"), lines[2].find("ring"));
        assert_eq!(lines[0].find("  bound"), lines[2].find("  the link"));
        assert!(lines[2].ends_with("  1  the link") && lines[3].contains("  1  "), "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.contains("automatic for H200")).count(), 1);
        let runner_up = lines.iter().rposition(|line| line.contains("which")).unwrap();
        assert_eq!(lines[runner_up].find("plan"), lines[runner_up + 2].find("direct"));
        assert!(lines.iter().all(|line| line.len() <= 120), "{lines:#?}");
    }

    #[test]
    fn the_host_has_no_times_and_no_order() {
        let all = [example(Machine::host(2)).explain(DataType::F32, 8, 1).unwrap()];
        let lines = table(&all);
        assert!(lines[2].ends_with(" -"), "{}", lines[2]);
        assert!(lines.contains(&"# runners-up".to_string()));
    }
}
