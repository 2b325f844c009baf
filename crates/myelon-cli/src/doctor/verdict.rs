//! What is wrong with a communicator, in plain sentences.

use std::collections::BTreeMap;

use myelon_collectives::{CallWord, WaitingFor};
use myelon_recorder::{Backend, Life, Row, State};

use super::chart::{Chart, Seat};
use crate::pages::{ranks, span};

/// What is wrong, and what to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether anything is.
    pub trouble: bool,
    /// What was found, the most telling first; where nothing is wrong, what goes on.
    pub sentences: Vec<String>,
    pub next: Vec<String>,
    /// Calls where ranks part, and how.
    pub parts: BTreeMap<u64, String>,
}

impl Verdict {
    fn trouble(&mut self, sentence: String) {
        self.trouble = true;
        self.sentences.push(sentence);
    }
}

/// Looks at everything that can be wrong.
pub fn of(chart: &Chart) -> Verdict {
    let mut verdict = Verdict::default();
    disagreement(chart, &mut verdict);
    dead(chart, &mut verdict);
    behind(chart, &mut verdict);
    absent(chart, &mut verdict);
    waits(chart, &mut verdict);
    failure(chart, &mut verdict);
    if !verdict.trouble {
        verdict.sentences.push(well(chart));
    }
    verdict
}

/// The first call that ranks made differently.
fn disagreement(chart: &Chart, verdict: &mut Verdict) {
    let kept = chart.seated().flat_map(|(_, seat)| seat.calls.iter().map(|row| row.number));
    let (first, last) = (kept.min().unwrap_or(1), chart.made_max());
    for number in first..=last {
        let mut words: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (rank, seat) in chart.seated() {
            if let Some(word) = seat.word(number) {
                words.entry(word).or_default().push(rank);
            }
        }
        if words.len() < 2 {
            continue;
        }
        let mut groups: Vec<(Vec<usize>, u64)> = words.into_iter().map(|(word, who)| (who, word)).collect();
        // The fewest are most likely mistaken.
        groups.sort_by_key(|(who, _)| (who.len(), who[0]));
        let names: Vec<String> =
            groups.iter().map(|&(_, word)| CallWord::from_bits(word).to_string()).collect();
        let is_named_apart = (1..names.len()).all(|place| !names[..place].contains(&names[place]));
        let said: Vec<String> = groups
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(place, ((who, word), name))| {
                let plan = if is_named_apart {
                    String::new()
                } else {
                    format!(" with plan {:#x}", CallWord::from_bits(*word).plan())
                };
                let made = if place == 0 { format!(" made call {number}") } else { String::new() };
                format!("{}{made} as {name}{plan}", ranks(who))
            })
            .collect();
        let who = ranks(&groups[0].0);
        verdict.parts.insert(number, format!("{who} called something else"));
        verdict.trouble(format!("{}.", said.join("; ")));
        let (odd, other) = (groups[0].0[0], groups[groups.len() - 1].0[0]);
        verdict.next.push(if is_named_apart {
            format!(
                "All ranks must make the same calls in the same order: compare what the program does on rank {odd} \
                 and on rank {other} before call {number}."
            )
        } else {
            format!(
                "The ranks plan the same call differently: compare settings (MYELON_*), tuning files and versions of \
                 rank {odd} and rank {other}."
            )
        });
        return;
    }
}

/// Ranks whose process ended before its communicator was dropped, with calls open or with peers that go on.
fn dead(chart: &Chart, verdict: &mut Verdict) {
    let is_dead = |seat: &Seat| seat.life == Life::Dead && !seat.is_closed;
    let others_go_on = chart.seated().any(|(_, seat)| seat.life != Life::Dead);
    let mut processes: BTreeMap<u64, Vec<(usize, &Seat)>> = BTreeMap::new();
    for (rank, seat) in chart.seated().filter(|(_, seat)| is_dead(seat)) {
        processes.entry(seat.pid).or_default().push((rank, seat));
    }
    for (pid, seats) in processes {
        let open = seats.iter().find_map(|(_, seat)| seat.current());
        if open.is_none() && !others_go_on {
            continue;
        }
        let (who, program) = (seats.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), &seats[0].1.program);
        let is = if who.len() == 1 { "is" } else { "are" };
        let when = open.map_or_else(
            || format!("after {} calls", seats[0].1.done),
            |row| format!("while call {} was {}", row.number, row.state().name()),
        );
        verdict.trouble(format!(
            "{} {is} dead: process {pid} ({program}) ended {when} and without dropping the communicator.",
            ranks(&who)
        ));
        verdict.next.push(format!(
            "See how process {pid} ended: its last output and exit code, and in 'dmesg' or 'journalctl -k' whether the \
             system killed it for memory."
        ));
    }
}

/// The call that ranks wait in, and who has not come to it.
fn behind(chart: &Chart, verdict: &mut Verdict) {
    let is_open = |row: &&Row| matches!(row.state(), State::Made | State::Running);
    let waits_in = |seat: &Seat| -> Option<Row> {
        // A call that gave up waiting is as telling as one that waits.
        let stalled = seat.calls.iter().find(|row| row.state() == State::Failed);
        seat.current().or(stalled).copied()
    };
    // The first call that a rank is in, of those that some rank has not made, or made and not begun.
    let mut waiting: BTreeMap<u64, Vec<(usize, Row)>> = BTreeMap::new();
    for (rank, seat) in chart.seated() {
        let begun = |row: &Row| row.state() != State::Made || chart.backend == Backend::Cuda;
        if let Some(row) = waits_in(seat).filter(begun) {
            waiting.entry(row.number).or_default().push((rank, row));
        }
    }
    let Some((number, waiting)) = waiting.into_iter().next() else { return };
    let who: Vec<usize> = waiting.iter().map(|(rank, _)| *rank).collect();
    let has_failed = waiting.iter().all(|(_, row)| row.state() == State::Failed);
    let age = waiting.iter().map(|(_, row)| chart.age_ns(row)).max().unwrap_or(0);
    let limit = chart.seated().map(|(_, seat)| seat.late_ns).min().unwrap_or(0);
    let verb = if who.len() == 1 { "is" } else { "are" };
    let since = if has_failed { "failed in it".into() } else { format!("{verb} in it since {}", span(age)) };
    // Whoever is dead was named; whoever called something else has come.
    let goes_on = |seat: &Seat| seat.life != Life::Dead || has_failed;
    let missing: Vec<(usize, &Seat)> =
        chart.seated().filter(|(_, seat)| goes_on(seat) && seat.made < number).collect();
    let is_told = |seat: &Seat| seat.life == Life::Dead && !seat.is_closed;
    if missing.iter().any(|(_, seat)| !is_told(seat)) {
        let late: Vec<usize> = missing.iter().map(|(rank, _)| *rank).collect();
        let seat = missing[0].1;
        let (never, made) =
            if has_failed || age >= limit { ("never made", true) } else { ("has not made", false) };
        verdict.parts.insert(number, format!("{} {never} it", ranks(&late)));
        let has = if late.len() == 1 {
            format!("it has made {}", seat.made)
        } else {
            "they have made fewer".into()
        };
        let sentence = format!("{} {never} call {number} ({has}); {} {since}.", ranks(&late), ranks(&who));
        if made {
            verdict.trouble(sentence);
            if seat.life == Life::Alive && !seat.is_closed {
                let pid = seat.pid;
                verdict.next.push(format!(
                    "See where rank {}'s program is instead, in process {pid}: 'gdb -p {pid} -batch -ex \"thread apply \
                     all bt\"', or 'py-spy dump --pid {pid}' for Python. Whoever waits gives up after {}.",
                    late[0],
                    span(seat.deadline_ns)
                ));
            } else {
                verdict
                    .next
                    .push(format!("See what rank {}'s program did instead of call {number}.", late[0]));
            }
        } else {
            verdict.sentences.push(sentence);
        }
    }
    let held: Vec<(usize, &Seat, &Row)> = chart
        .seated()
        .filter(|(_, seat)| chart.backend == Backend::Host && goes_on(seat))
        .filter(|(_, seat)| {
            seat.failure.is_none() || seat.calls.iter().all(|row| row.state() != State::Failed)
        })
        .filter_map(|(rank, seat)| Some((rank, seat, seat.call(number).filter(is_open)?)))
        .filter(|(.., row)| row.state() == State::Made && age >= limit)
        .collect();
    if let [(rank, seat, row), ..] = held[..] {
        let all: Vec<usize> = held.iter().map(|(rank, ..)| *rank).collect();
        verdict.parts.insert(number, format!("{} has not begun it", ranks(&all)));
        verdict.trouble(format!(
            "{} made call {number} but has not begun it; {} {since}.",
            ranks(&all),
            ranks(&who)
        ));
        verdict.next.push(format!(
            "Stream {} of rank {rank} is held up by earlier work, a task of the program's perhaps: see what the threads \
             'myelon rank {rank}' of process {} do.",
            row.stream, seat.pid
        ));
    }
}

/// Ranks without a page, where others have calls open or have failed.
fn absent(chart: &Chart, verdict: &mut Verdict) {
    let missing: Vec<usize> =
        chart.seats.iter().enumerate().filter(|(_, seat)| seat.is_none()).map(|(rank, _)| rank).collect();
    let needs_them = |seat: &Seat| {
        seat.failure.is_some() || seat.current().is_some_and(|row| chart.age_ns(row) >= seat.late_ns)
    };
    if missing.is_empty() || !chart.seated().any(|(_, seat)| needs_them(seat)) {
        return;
    }
    let has = if missing.len() == 1 { "has" } else { "have" };
    verdict.trouble(format!(
        "{} {has} no page: dropped before anything failed, not opened yet, or recorded elsewhere.",
        ranks(&missing)
    ));
}

/// What calls that are late wait for.
fn waits(chart: &Chart, verdict: &mut Verdict) {
    for (rank, seat) in chart.seated().filter(|(_, seat)| seat.life != Life::Dead) {
        let Some(late) = seat.late else { continue };
        let what = WaitingFor::ALL.get(late.waiting_for as usize).map_or("something", |it| awaited(*it));
        verdict.trouble(format!(
            "rank {rank} waits in call {} for rank {}, lane {}: {what}, needed {}, saw {} after {}.",
            late.number,
            late.peer,
            late.lane,
            late.needed,
            late.seen,
            span(late.waited_ns)
        ));
    }
}

/// The error that came first.
fn failure(chart: &Chart, verdict: &mut Verdict) {
    let failures = chart.seated().filter_map(|(_, seat)| seat.failure.as_ref());
    let Some(first) = failures.min_by_key(|failure| failure.at_ns) else { return };
    let ago = span(chart.now_ns.saturating_sub(first.at_ns));
    verdict.trouble(format!("The communicator failed {ago} ago ({}): {}.", first.code.name(), first.text));
    verdict
        .next
        .push("A communicator that failed stays unusable: drop it on all ranks and make a new one.".into());
}

/// What goes on where nothing is wrong.
fn well(chart: &Chart) -> String {
    let made = chart.made_max();
    let done = chart.seated().map(|(_, seat)| seat.done).min().unwrap_or(0);
    let has_ended = chart.seated().all(|(_, seat)| seat.life == Life::Dead);
    let missing = chart.seats.iter().any(Option::is_none);
    match (has_ended, missing) {
        _ if made > done => {
            format!("Nothing is wrong: at work, {done} of {made} calls are complete on every rank.")
        }
        (true, _) => format!("Nothing was wrong: the program ended after {made} calls, all complete."),
        (_, true) => {
            format!("Nothing is wrong: {made} calls are complete; some ranks are gone or not there yet.")
        }
        _ => format!("Nothing is wrong: every rank has made {made} calls, all complete."),
    }
}

fn awaited(waiting_for: WaitingFor) -> &'static str {
    match waiting_for {
        WaitingFor::ScatterSlot => "what it sends to be summed",
        WaitingFor::ScatterCredit => "room to send to it",
        WaitingFor::GatherSlot => "its sum",
        WaitingFor::GatherCredit => "room to send it the sum",
        WaitingFor::Packet => "a packet of its payload",
        WaitingFor::SumPacket => "a packet of its sum",
        WaitingFor::Start => "its start",
        WaitingFor::End => "its end",
    }
}
