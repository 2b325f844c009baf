//! Property: the sentences fit what the pages say, for cases that are hard to bring about.

use myelon_collectives::{CallWord, DataType, ReduceOp};
use myelon_recorder::{Backend, ErrorCode, Late, Life, Row, State};

use super::chart::{Chart, Failed, Seat};
use super::report;
use super::verdict::{Verdict, of};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;

fn word(dtype: DataType, plan: u64) -> u64 {
    CallWord::all_reduce(dtype, ReduceOp::Sum, 1024, plan).unwrap().bits()
}

/// Call `number` in `state`, made and begun `seconds` ago.
fn row(number: u64, state: State, seconds: u64) -> Row {
    let ago = NOW - seconds * SECOND;
    let started_ns = if state == State::Made { 0 } else { ago };
    let ended_ns = if matches!(state, State::Done | State::Failed) { ago + 1 } else { 0 };
    let (call, state) = (word(DataType::F32, 0), state as u32);
    Row { number, calls: 1, call, state, made_ns: ago, started_ns, ended_ns, lanes: 1, ..Row::default() }
}

fn seat(calls: Vec<Row>) -> Seat {
    let done = calls.iter().filter(|row| row.state() == State::Done).map(|row| row.number).max().unwrap_or(0);
    Seat {
        pid: 10,
        program: "train".into(),
        life: Life::Alive,
        is_closed: false,
        made: calls.last().map_or(0, |row| row.number + row.calls - 1),
        done,
        deadline_ns: 30 * SECOND,
        late_ns: 3 * SECOND,
        calls,
        late: None,
        failure: None,
    }
}

fn chart(seats: Vec<Option<Seat>>) -> Chart {
    Chart { number: "7".into(), backend: Backend::Host, now_ns: NOW, opened_ns: NOW - 60 * SECOND, seats }
}

fn done(number: u64) -> Row {
    row(number, State::Done, 20)
}

#[track_caller]
fn says(verdict: &Verdict, sentence: &str) {
    assert!(verdict.sentences.iter().any(|said| said == sentence), "{verdict:#?}");
}

#[test]
fn ranks_that_are_processes_are_told_apart_and_a_dead_one_is_not_called_late() {
    let waits = |pid| Some(Seat { pid, ..seat(vec![done(16), row(17, State::Running, 12)]) });
    let dead = Seat { pid: 13, life: Life::Dead, ..seat(vec![done(16)]) };
    let verdict = of(&chart(vec![waits(11), waits(12), Some(dead)]));
    assert!(verdict.trouble);
    assert_eq!(verdict.sentences.len(), 1, "{verdict:#?}");
    says(
        &verdict,
        "rank 2 is dead: process 13 (train) ended after 16 calls and without dropping the communicator.",
    );
    assert!(verdict.next[0].contains("process 13"));
}

#[test]
fn a_stream_that_is_held_up_is_not_a_call_that_was_never_made() {
    let held = seat(vec![done(16), Row { stream: 5, ..row(17, State::Made, 12) }]);
    let waits = || Some(seat(vec![done(16), row(17, State::Running, 12)]));
    let verdict = of(&chart(vec![waits(), Some(held), waits()]));
    says(&verdict, "rank 1 made call 17 but has not begun it; ranks 0 and 2 are in it since 12.0 s.");
    assert!(verdict.next[0].starts_with("Stream 5 of rank 1 is held up"), "{verdict:#?}");
    assert_eq!(verdict.parts[&17], "rank 1 has not begun it");
}

#[test]
fn on_gpus_a_call_that_was_made_may_run() {
    let made = |ago| Some(seat(vec![done(16), row(17, State::Made, ago)]));
    let mut gpus = chart(vec![made(12), made(12), Some(seat(vec![done(16)]))]);
    gpus.backend = Backend::Cuda;
    let verdict = of(&gpus);
    says(&verdict, "rank 2 never made call 17 (it has made 16); ranks 0 and 1 are in it since 12.0 s.");
    gpus.seats[2] = made(12);
    assert!(!of(&gpus).trouble);
    says(&of(&gpus), "Nothing is wrong: at work, 16 of 17 calls are complete on every rank.");
}

#[test]
fn plans_that_differ_are_named_where_nothing_else_does() {
    let calls = |plan| Some(seat(vec![Row { call: word(DataType::F32, plan), ..row(1, State::Failed, 1) }]));
    let verdict = of(&chart(vec![calls(1), calls(2)]));
    says(
        &verdict,
        "rank 0 made call 1 as all_reduce f32 sum count=1024 with plan 0x1; \
         rank 1 as all_reduce f32 sum count=1024 with plan 0x2.",
    );
    assert!(verdict.next[0].contains("MYELON_"), "{verdict:#?}");
}

/// A graph's later calls are not known before they begin: no disagreement is made up.
#[test]
fn graphs_and_calls_one_by_one_do_not_disagree() {
    let graph = Row { calls: 3, flags: Row::GRAPH, ..row(1, State::Done, 5) };
    let single = |number, dtype| Row { call: word(dtype, 0), ..done(number) };
    let singles = vec![single(1, DataType::F32), single(2, DataType::Bf16), single(3, DataType::U8)];
    let charted = chart(vec![Some(Seat { done: 3, ..seat(vec![graph]) }), Some(seat(singles))]);
    let verdict = of(&charted);
    assert!(!verdict.trouble, "{verdict:#?}");
    says(&verdict, "Nothing is wrong: every rank has made 3 calls, all complete.");
}

#[test]
fn a_failure_names_the_first_error_and_who_was_dropped_before() {
    let failed = |ago: u64, text: &str| {
        let failure = Failed { code: ErrorCode::PeerGone, at_ns: NOW - ago * SECOND, text: text.into() };
        let failed = Row { error: ErrorCode::PeerGone as u32, ..row(2, State::Failed, ago) };
        Some(Seat {
            failure: Some(failure),
            is_closed: true,
            life: Life::Dead,
            ..seat(vec![done(1), failed])
        })
    };
    let verdict = of(&chart(vec![failed(4, "second"), failed(5, "first"), None]));
    says(
        &verdict,
        "rank 2 has no page: dropped before anything failed, not opened yet, or recorded elsewhere.",
    );
    says(&verdict, "The communicator failed 5.0 s ago (peer gone): first.");
    assert!(!verdict.sentences.iter().any(|said| said.contains("dead")), "{verdict:#?}");
}

/// A rank that hangs behind a thousand calls that are queued: the table shows where, not the end of the queue.
#[test]
fn the_table_shows_the_call_where_ranks_part() {
    let mut queued = vec![done(16), row(17, State::Running, 12)];
    queued.extend((1000..1200).map(|number| row(number, State::Made, 11)));
    let late = Late {
        number: 17,
        peer: 1,
        waiting_for: 0,
        needed: 9,
        seen: 8,
        waited_ns: 3 * SECOND,
        ..Late::default()
    };
    let queued = Seat { late: Some(late), ..seat(queued) };
    let charted = chart(vec![Some(queued), Some(seat(vec![done(16)]))]);
    let verdict = of(&charted);
    says(
        &verdict,
        "rank 0 waits in call 17 for rank 1, lane 0: what it sends to be summed, needed 9, saw 8 after 3.0 s.",
    );
    let lines: Vec<String> = report::lines(&charted, &verdict, 6).into_iter().map(|line| line.text).collect();
    let part = lines.iter().find(|line| line.contains("<- rank 1 never made it"));
    assert!(part.is_some_and(|line| line.contains("      17  running 12.0 s")), "{lines:#?}");
    let header = lines.iter().find(|line| line.starts_with("#    call")).unwrap();
    assert_eq!(header.find("what"), part.unwrap().find("all_reduce"));
    assert_eq!(lines.iter().filter(|line| line.starts_with(' ')).count(), 4, "{lines:#?}");
}

#[test]
fn one_that_ended_without_a_word_but_in_order_is_no_trouble() {
    let ended = || Some(Seat { life: Life::Dead, ..seat(vec![done(1), done(2)]) });
    let verdict = of(&chart(vec![ended(), ended()]));
    assert!(!verdict.trouble);
    says(&verdict, "Nothing was wrong: the program ended after 2 calls, all complete.");
}
