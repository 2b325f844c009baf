//! Property: what ranks do, wait for and fail at can be read from their pages, by whoever looks, and a call that
//! waits long is warned of once, long before it is an error.
//!
//! Catches: calls that are recorded wrongly or not at all, files that stay or go when they should not, warnings that
//! name the wrong rank, come late or come often. Cannot catch: what another process sees; the tests of the command
//! are for that.

mod text;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use myelon_collectives::{
    Backend, Builder, CallWord, Communicator, DataType, ErrorKind, RecordPlace, ReduceOp, WaitingFor,
};
use myelon_recorder::{Count, ErrorCode, Folder, Page, Row, State};
use text::Text;

fn builder(folder: &Path) -> Builder {
    let builder = Communicator::builder().backend(Backend::Host).ranks(2).deadline(Duration::from_secs(20));
    builder.record(folder)
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let around = tempfile::tempdir().unwrap();
    let path = around.path().join("records");
    (around, path)
}

fn pages(path: &Path) -> Vec<Page> {
    Folder::existing(path).unwrap().expect("the folder is there").pages().unwrap()
}

fn call(rank: &mut Communicator, count: usize) {
    let (stream, mut buffer) = (rank.stream().clone(), rank.buffer::<f32>(count).unwrap());
    rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
}

fn synchronize(ranks: &[Communicator]) {
    ranks.iter().for_each(|rank| rank.stream().synchronize().unwrap());
}

fn word(row: &Row) -> String {
    CallWord::from_bits(row.call).to_string()
}

#[test]
fn every_call_is_recorded_with_what_it_was() {
    let (_around, path) = folder();
    let mut ranks = builder(&path).build().unwrap();
    for rank in &mut ranks {
        call(rank, 1024);
        let stream = rank.new_stream().unwrap();
        let (input, output) = (rank.region(64).unwrap(), rank.region(64).unwrap());
        rank.all_reduce_region(&input, &output, DataType::I64, ReduceOp::Max, &stream).unwrap();
    }
    let graphs: Vec<_> = ranks
        .iter_mut()
        .map(|rank| {
            let stream = rank.stream().clone();
            let mut buffers = [10, 20].map(|count| rank.buffer::<f32>(count).unwrap());
            let mut calls = buffers.iter_mut();
            let calls = || calls.try_for_each(|it| rank.all_reduce_in_place(it, ReduceOp::Sum, &stream));
            (stream.capture(calls).unwrap(), stream.clone())
        })
        .collect();
    graphs.iter().for_each(|(graph, stream)| graph.launch(stream).unwrap());
    synchronize(&ranks);

    let pages = pages(&path);
    assert_eq!(pages.len(), 2);
    assert_eq!(pages[0].header().communicator, pages[1].header().communicator);
    for (place, (page, rank)) in pages.iter().zip(&ranks).enumerate() {
        assert_eq!((page.header().rank, page.header().ranks), (place as u64, 2));
        assert_eq!(rank.record_file(), Some(page.path()));
        let calls = page.calls();
        let words: Vec<String> = calls.iter().map(word).collect();
        let expected = ["f32 sum count=1024", "i64 max count=8", "f32 sum count=10", "f32 sum count=20"];
        assert_eq!(words, expected.map(|call| format!("all_reduce {call}")));
        assert!(calls.iter().all(|row| row.state() == State::Done && row.calls == 1));
        assert_eq!(calls.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let flags: Vec<u32> = calls.iter().map(|row| row.flags).collect();
        let graph = Row::GRAPH | Row::IN_PLACE;
        assert_eq!(flags, [Row::IN_PLACE, 0, graph, graph]);
        assert!(calls[0].stream != calls[1].stream && calls[0].stream == calls[2].stream);
        for row in &calls {
            assert!(row.made_ns <= row.started_ns && row.started_ns <= row.ended_ns, "{row:?}");
            assert!(row.lanes > 0 && row.slots > 0 && row.piece_bytes > 0);
        }
        assert_eq!((page.count(Count::CallsMade), page.count(Count::CallsDone)), (4, 4));
        assert_eq!(page.count(Count::BytesDone), 4096 + 64 + 40 + 80);
        assert_eq!(page.count(Count::BytesMade), page.count(Count::BytesDone));
        assert_eq!(page.failure(), None);
    }
    drop(graphs);
    drop(ranks);
    assert!(Folder::existing(&path).unwrap().unwrap().pages().unwrap().is_empty());
}

#[test]
fn a_failure_stays_to_be_read_until_the_next_communicator_comes() {
    let (_around, path) = folder();
    let mut ranks = builder(&path).build().unwrap();
    ranks.iter_mut().for_each(|rank| call(rank, 8));
    synchronize(&ranks);
    call(&mut ranks[0], 8);
    call(&mut ranks[1], 9);
    let error = ranks[0].stream().synchronize().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disagreement);
    ranks[1].stream().synchronize().unwrap_err();
    drop(ranks);
    let left = pages(&path);
    assert_eq!(left.len(), 2);
    for (page, count) in left.iter().zip([8, 9]) {
        assert!(page.is_closed());
        let failure = page.failure().unwrap();
        assert_eq!((failure.code(), failure.number), (ErrorCode::Disagreement, 2));
        assert_eq!(failure.text(), error.to_string());
        let last = *page.calls().last().unwrap();
        assert_eq!(
            (last.number, last.state(), last.error()),
            (2, State::Failed, Some(ErrorCode::Disagreement))
        );
        assert_eq!(word(&last), format!("all_reduce f32 sum count={count}"));
    }
    let next = builder(&path).build().unwrap();
    let ids: Vec<u64> = pages(&path).iter().map(|page| page.header().communicator).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1] && ids[0] != left[0].header().communicator, "{ids:?}");
    drop(next);
}

/// A task that does not end holds up a rank's first call; its second one is on another stream. When the peer has
/// given up, the rank's other stream is free too, although the task still runs.
#[test]
fn a_call_behind_one_that_is_held_up_ends_when_the_communicator_has_failed() {
    let (_around, path) = folder();
    let mut ranks = builder(&path).deadline(Duration::from_secs(1)).build().unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    ranks[0]
        .stream()
        .host_task(move || {
            let _ = held.recv();
        })
        .unwrap();
    call(&mut ranks[0], 100);
    call(&mut ranks[1], 100);
    let (stream, mut buffer) = (ranks[0].new_stream().unwrap(), ranks[0].buffer::<f32>(100).unwrap());
    ranks[0].all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
    let error = stream.synchronize().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stalled);
    let pages = pages(&path);
    let states: Vec<State> = pages[0].calls().iter().map(Row::state).collect();
    assert_eq!(states, [State::Made, State::Made], "neither was begun");
    assert_eq!(pages[1].calls()[0].state(), State::Failed);
    drop(hold);
    assert_eq!(ranks[0].stream().synchronize().unwrap_err().kind(), ErrorKind::Stalled);
}

/// Workers have threads of their own, so the subscriber is the process's; only this test has one.
#[test]
fn a_rank_that_is_late_is_warned_of_once_and_named_and_then_the_call_fails() {
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt().with_writer(text.clone()).with_ansi(false);
    subscriber.with_max_level(tracing::Level::WARN).init();
    let (_around, path) = folder();
    let mut ranks = builder(&path).ranks(3).deadline(Duration::from_secs(3)).build().unwrap();
    call(&mut ranks[0], 5000);
    call(&mut ranks[1], 5000);
    let late = |page: &Page| page.current().and_then(|row| page.late(row.number));
    let start = std::time::Instant::now();
    let pages = pages(&path);
    let seen = loop {
        assert!(start.elapsed() < Duration::from_millis(2900), "no word of it before the error");
        match late(&pages[0]) {
            Some(seen) => break seen,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!((seen.number, seen.peer, seen.waiting_for), (1, 2, WaitingFor::ScatterSlot as u64));
    assert!((1_000_000_000..2_900_000_000).contains(&seen.waited_ns) && seen.needed != seen.seen);
    // What is waited is seen before it ends.
    assert!(pages[0].count(Count::WaitedDataNs) >= 900_000_000 && pages[0].count(Count::PollsData) > 0);
    assert_eq!((pages[0].failure(), pages[2].count(Count::CallsMade)), (None, 0));
    ranks[0].stream().synchronize().unwrap_err();
    ranks[1].stream().synchronize().unwrap_err();
    assert_eq!(pages[0].failure().unwrap().code(), ErrorCode::Stalled);
    assert_eq!([0, 1, 2].map(|rank| pages[rank].count(Count::CallsLate)), [1, 1, 0]);
    assert_eq!([0, 1, 2].map(|rank| pages[rank].count(Count::CallsFailed)), [1, 1, 0]);
    assert!(pages[0].count(Count::LongestNs) >= 2_900_000_000);

    // A folder that others may use is not taken, and a warning says so.
    let open = path.with_file_name("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut others = builder(&open).build().unwrap();
    assert_eq!(others[0].record_file(), None);
    others.iter_mut().for_each(|rank| call(rank, 8));
    synchronize(&others);
    let silent = builder(&open).record(RecordPlace::None).build().unwrap();
    assert_eq!(silent[0].record_file(), None);

    let text = text.written();
    for rank in [0, 1] {
        let start = format!("a call is late: rank {rank} waits for rank 2 since ");
        // Other tests of this file may have events here too, but of two ranks.
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&start)).collect();
        assert_eq!(lines.len(), 1, "{text}");
        for part in [
            "WARN myelon_collectives::late:",
            "s and gives up after 3.0 s",
            "peer=2",
            "number=1",
            "call=all_reduce f32 sum count=5000",
            "lane=",
            "waiting_for=\"slot of the scatter\"",
            "needed=",
            "seen=",
            "waited_us=",
            "deadline_us=3000000",
        ] {
            assert!(lines[0].contains(part), "no {part} in {}", lines[0]);
        }
    }
    let line = |has: &[&str]| text.lines().filter(|line| has.iter().all(|part| line.contains(part))).count();
    assert_eq!(line(&["WARN", "poisoned", "waited 3", "for rank 2", "'myelon doctor' shows"]), 1, "{text}");
    assert_eq!(line(&["WARN", "recorded in plain memory", "mode 0755"]), 1, "{text}");
}
