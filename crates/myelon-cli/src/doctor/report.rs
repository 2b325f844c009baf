//! How a communicator is written: sentences and a table for people, an object for programs.

use std::collections::BTreeMap;

use myelon_collectives::CallWord;
use myelon_recorder::{Life, Row, State};
use serde::Serialize;

use super::chart::{Chart, Seat};
use super::verdict::Verdict;
use crate::pages::{call, plan, ranks, span};

/// One line for people.
pub struct Text {
    pub text: String,
    /// It says what is wrong.
    pub is_marked: bool,
}

/// The lines of one communicator.
pub fn lines(chart: &Chart, verdict: &Verdict, rows: u64) -> Vec<Text> {
    let plain = |text: String| Text { text: text.trim_end().to_owned(), is_marked: false };
    let mut lines: Vec<Text> = head(chart).into_iter().map(plain).collect();
    lines.push(plain("#".into()));
    for sentence in &verdict.sentences {
        lines.push(Text { text: format!("# {sentence}"), is_marked: verdict.trouble });
    }
    lines.extend(verdict.next.iter().map(|next| plain(format!("# -> {next}"))));
    let numbers = window(chart, verdict, rows);
    if numbers.is_empty() {
        return lines;
    }
    lines.push(plain("#".into()));
    let names: Vec<String> = (0..chart.seats.len()).map(|rank| format!("rank {rank}")).collect();
    let table: Vec<(u64, Vec<String>, String)> = numbers.map(|number| row(chart, number)).collect();
    let width = |place: usize| {
        let cells = table.iter().map(|(_, cells, _)| cells[place].chars().count());
        cells.max().unwrap_or(0).max(names[place].len()) + 2
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let joined = |cells: &[String]| -> String {
        cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect()
    };
    lines.push(plain(format!("#{:>8}{}  what", "call", joined(&names))));
    for (number, cells, what) in &table {
        let part = verdict.parts.get(number);
        let mark = part.map_or(String::new(), |how| format!("  <- {how}"));
        lines.push(Text {
            text: format!(" {number:>8}{}  {what}{mark}", joined(cells)),
            is_marked: part.is_some(),
        });
        for (who, what) in apart(chart, *number) {
            lines.push(Text { text: format!("#{:>8}  {}: {what}", "", ranks(&who)), is_marked: true });
        }
    }
    lines
}

/// Which communicator, and who its ranks are.
fn head(chart: &Chart) -> Vec<String> {
    let mut processes: BTreeMap<u64, (Vec<usize>, &Seat)> = BTreeMap::new();
    for (rank, seat) in chart.seated() {
        processes.entry(seat.pid).or_insert((Vec::new(), seat)).0.push(rank);
    }
    let mut lines = vec![format!(
        "# communicator {}, {} ranks, {}, opened {} ago",
        chart.number,
        chart.seats.len(),
        chart.backend.name(),
        span(chart.now_ns.saturating_sub(chart.opened_ns))
    )];
    for (pid, (who, seat)) in processes {
        let life = match seat.life {
            Life::Alive if seat.is_closed => ", which runs and has dropped it",
            Life::Alive => "",
            Life::Dead => ", which has ended",
            Life::Elsewhere => ", of another container",
        };
        lines.push(format!("# {}: process {pid} ({}){life}", ranks(&who), seat.program));
    }
    lines
}

/// The calls to show: the last ones, or those around the first one where ranks part.
fn window(chart: &Chart, verdict: &Verdict, rows: u64) -> std::ops::RangeInclusive<u64> {
    let last = chart.made_max();
    let part = verdict.parts.keys().next().copied();
    let current = chart.seated().filter_map(|(_, seat)| seat.current()).map(|row| row.number).min();
    let middle = part.or(current).unwrap_or(last).min(last);
    let end = last.min(middle + rows / 3);
    let kept = chart.seated().flat_map(|(_, seat)| seat.calls.first()).map(|row| row.number).min();
    let start = (end + 1).saturating_sub(rows).max(kept.unwrap_or(1)).max(1);
    start..=end
}

/// The cells of one call, and what it is where the ranks agree.
fn row(chart: &Chart, number: u64) -> (u64, Vec<String>, String) {
    let cells =
        chart.seats.iter().map(|seat| seat.as_ref().map_or("?".into(), |seat| cell(chart, seat, number)));
    let what = chart.seated().find_map(|(_, seat)| {
        let row = seat.call(number)?;
        Some(format!("{}; {}", call(row), plan(row)))
    });
    let differs = !apart(chart, number).is_empty();
    let what = if differs { "see below".into() } else { what.unwrap_or_default() };
    (number, cells.collect(), what)
}

fn cell(chart: &Chart, seat: &Seat, number: u64) -> String {
    let Some(row) = seat.call(number) else { return if seat.made < number { "-" } else { "?" }.into() };
    let took = span(row.ended_ns.saturating_sub(row.started_ns));
    match row.state() {
        State::Done if row.ended_ns == 0 => "done".into(),
        State::Done => took,
        State::Failed => format!("failed {took}"),
        State::Running if seat.life == Life::Dead => "died in it".into(),
        State::Made if seat.failure.is_some() => "not begun".into(),
        State::Made if seat.life == Life::Dead => "made".into(),
        state => format!("{} {}", state.name(), span(chart.age_ns(row))),
    }
}

/// Who called what, where that differs.
fn apart(chart: &Chart, number: u64) -> Vec<(Vec<usize>, String)> {
    let mut groups: Vec<(u64, Vec<usize>, String)> = Vec::new();
    for (rank, seat) in chart.seated() {
        let Some(word) = seat.word(number) else { continue };
        match groups.iter_mut().find(|(known, ..)| *known == word) {
            Some((_, who, _)) => who.push(rank),
            None => {
                let row = seat.call(number).expect("its word is known");
                let checksum = CallWord::from_bits(word).plan();
                groups.push((word, vec![rank], format!("{}; {} (plan {checksum:#x})", call(row), plan(row))));
            }
        }
    }
    if groups.len() < 2 { Vec::new() } else { groups.into_iter().map(|(_, who, what)| (who, what)).collect() }
}

/// One communicator for programs. The names of the fields are the names in JSON.
#[derive(Serialize)]
pub struct Object<'a> {
    communicator: &'a str,
    backend: &'static str,
    trouble: bool,
    sentences: &'a [String],
    next: &'a [String],
    /// `[ranks]`; null where there is no page.
    ranks: Vec<Option<RankObject<'a>>>,
    /// The calls where ranks part, and how.
    parts: &'a BTreeMap<u64, String>,
    calls: Vec<CallObject>,
}

#[derive(Serialize)]
struct RankObject<'a> {
    rank: usize,
    pid: u64,
    program: &'a str,
    process: &'static str,
    dropped: bool,
    made: u64,
    done: u64,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct CallObject {
    number: u64,
    rank: usize,
    state: &'static str,
    error: Option<&'static str>,
    call: String,
    /// Calls of a graph that are told together.
    calls: u64,
    in_place: bool,
    graph: bool,
    plan: String,
    slots: u32,
    piece_bytes: u32,
    blocks: u32,
    stream: u64,
    bytes: u64,
    /// Since the start of the machine.
    made_ns: u64,
    started_ns: Option<u64>,
    ended_ns: Option<u64>,
    waited_ns: u64,
}

impl<'a> Object<'a> {
    pub fn new(chart: &'a Chart, verdict: &'a Verdict, rows: u64) -> Self {
        let rank = |(rank, seat): (usize, &'a Option<Seat>)| {
            let seat = seat.as_ref()?;
            Some(RankObject {
                rank,
                pid: seat.pid,
                program: &seat.program,
                process: match seat.life {
                    Life::Alive => "alive",
                    Life::Dead => "dead",
                    Life::Elsewhere => "elsewhere",
                },
                dropped: seat.is_closed,
                made: seat.made,
                done: seat.done,
                error: seat.failure.as_ref().map(|failure| failure.text.as_str()),
            })
        };
        let window = window(chart, verdict, rows);
        let shown = |row: &&Row| row.number <= *window.end() && row.number + row.calls > *window.start();
        let calls = chart.seated().flat_map(|(rank, seat)| {
            seat.calls.iter().filter(shown).map(move |row| CallObject::new(rank, row))
        });
        Self {
            communicator: &chart.number,
            backend: chart.backend.name(),
            trouble: verdict.trouble,
            sentences: &verdict.sentences,
            next: &verdict.next,
            ranks: chart.seats.iter().enumerate().map(rank).collect(),
            parts: &verdict.parts,
            calls: calls.collect(),
        }
    }
}

impl CallObject {
    fn new(rank: usize, row: &Row) -> Self {
        let time = |ns: u64| (ns != 0).then_some(ns);
        Self {
            number: row.number,
            rank,
            state: row.state().name(),
            error: row.error().map(|error| error.name()),
            call: CallWord::from_bits(row.call).to_string(),
            calls: row.calls,
            in_place: row.flags & Row::IN_PLACE != 0,
            graph: row.flags & Row::GRAPH != 0,
            plan: plan(row),
            slots: row.slots,
            piece_bytes: row.piece_bytes,
            blocks: row.blocks,
            stream: row.stream,
            bytes: row.bytes,
            made_ns: row.made_ns,
            started_ns: time(row.started_ns),
            ended_ns: time(row.ended_ns),
            waited_ns: row.waited_ns,
        }
    }
}
