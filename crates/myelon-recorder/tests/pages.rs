//! Property: what a rank records is what other programs read, while it writes and after it has died, and nobody
//! but its user can.
//!
//! Catches: rows that mix two calls, a ring that keeps the wrong calls, counters that a second writer changes, files
//! that stay or go when they should not, a folder or file that others may use. Cannot catch: an ordering that this
//! processor gives anyway; the loom test of `crates/myelon-recorder/src/sequence.rs` is for that. Nor pages of a real
//! second user, for which one needs to be the system's administrator: where one is, a file is given away.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use myelon_recorder::{
    About, Backend, Count, ErrorCode, Folder, Late, Life, Page, ROWS, RecordError, Recorder, Row, State,
    Waits,
};

fn place() -> (tempfile::TempDir, Folder) {
    let around = tempfile::tempdir().unwrap();
    let folder = Folder::create(&around.path().join("myelon")).unwrap();
    (around, folder)
}

fn about(communicator: u64, rank: usize) -> About {
    let (deadline, late_after) = (Duration::from_secs(30), Duration::from_secs(3));
    About { communicator, number: 1, rank, ranks: 2, backend: Backend::Host, deadline, late_after }
}

/// Call `number`, whose every field follows from its number.
fn row(number: u64) -> Row {
    Row { number, calls: 1, call: number * 3, bytes: number * 5, stream: number * 7, ..Row::default() }
}

fn only(folder: &Folder) -> Page {
    let mut pages = folder.pages().unwrap();
    assert_eq!(pages.len(), 1);
    pages.remove(0)
}

#[test]
fn a_page_says_what_the_rank_does() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 1)).unwrap();
    let page = only(&folder);
    let header = page.header();
    assert_eq!((header.communicator, header.rank, header.ranks, header.number), (7, 1, 2, 1));
    assert_eq!((header.deadline_ns, header.late_ns), (30_000_000_000, 3_000_000_000));
    assert_eq!((header.pid, page.life()), (std::process::id().into(), Life::Alive));
    assert_eq!((page.backend(), page.is_closed()), (Backend::Host, false));
    assert!(page.program().starts_with("pages-"), "{}", page.program());
    assert_eq!((page.calls(), page.current()), (vec![], None));

    (1..=3).for_each(|number| assert!(recorder.made(row(number)) > 0));
    recorder.start(row(1), false);
    let late = Late { peer: 0, lane: 2, waiting_for: 1, needed: 9, seen: 8, waited_ns: 5, ..Late::default() };
    recorder.late(late);
    let seen = page.late(1).unwrap();
    assert_eq!((seen.number, seen.lane, seen.needed, seen.seen, page.late(2)), (1, 2, 9, 8, None));
    recorder.done(&Waits { polls_data: 4, polls_credit: 1, data_ns: 30, credit_ns: 10, longest_ns: 25 });
    recorder.start(row(2), false);
    let calls = page.calls();
    let states: Vec<State> = calls.iter().map(Row::state).collect();
    assert_eq!(states, [State::Done, State::Running, State::Made]);
    assert!(calls[0].started_ns <= calls[0].ended_ns && calls[0].ended_ns <= calls[1].started_ns);
    assert_eq!((calls[0].waited_ns, page.current().unwrap().number), (40, 2));

    recorder.failed(ErrorCode::Stalled, "rank 1 waited for rank 0");
    recorder.refused(ErrorCode::Other, "another error");
    let failure = page.failure().unwrap();
    assert_eq!(
        (failure.number, failure.code(), failure.text()),
        (2, ErrorCode::Stalled, "rank 1 waited for rank 0")
    );
    assert_eq!((page.calls()[1].state(), page.calls()[1].error()), (State::Failed, Some(ErrorCode::Stalled)));
    let counts = Count::ALL.map(|count| page.count(count));
    let busy = calls[0].ended_ns - calls[0].started_ns + page.calls()[1].ended_ns - calls[1].started_ns;
    assert_eq!(counts, [3, 30, 0, 1, 5, 1, 1, busy, 4, 1, 30, 10, 25]);
}

#[test]
fn the_last_calls_stay_and_a_long_queue_does_not_hide_the_call_that_runs() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    let page = only(&folder);
    let rows = ROWS as u64;
    for number in 1..=rows + 10 {
        recorder.made(row(number));
        recorder.start(row(number), false);
        recorder.done(&Waits::default());
    }
    let numbers = |page: &Page| page.calls().iter().map(|row| row.number).collect::<Vec<_>>();
    assert_eq!(numbers(&page), (11..=rows + 10).collect::<Vec<_>>());
    let stuck = rows + 11;
    for number in stuck..stuck + 5 * rows {
        recorder.made(row(number));
    }
    recorder.start(row(stuck), false);
    let calls = page.calls();
    assert_eq!(page.current(), calls.iter().find(|row| row.number == stuck).copied());
    assert_eq!(page.current().unwrap().state(), State::Running);
    assert_eq!(calls.last().unwrap().number, stuck + 5 * rows - 1);
}

#[test]
fn where_ends_are_not_seen_calls_are_done_when_somebody_has_waited() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &About { backend: Backend::Cuda, ..about(7, 0) }).unwrap();
    let page = only(&folder);
    recorder.made(row(1));
    recorder.made(Row { number: 2, calls: 10, bytes: 1000, flags: Row::GRAPH, ..Row::default() });
    recorder.made(row(12));
    recorder.done_to(11);
    recorder.done_to(4); // another stream's wait, told late
    let states: Vec<State> = page.calls().iter().map(Row::state).collect();
    assert_eq!(states, [State::Done, State::Done, State::Made]);
    assert_eq!((page.count(Count::CallsDone), page.count(Count::BytesDone)), (11, 1005));
    assert_eq!((page.current().unwrap().number, page.backend()), (12, Backend::Cuda));
}

#[test]
fn a_call_that_follows_begins_when_the_last_one_ended() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    for (number, follows) in [(1, true), (2, true), (3, false)] {
        recorder.made(row(number));
        std::thread::sleep(Duration::from_millis(2));
        recorder.start(row(number), follows);
        recorder.done(&Waits::default());
    }
    let calls = only(&folder).calls();
    assert!(calls[0].started_ns > 0 && calls[1].started_ns == calls[0].ended_ns);
    assert!(calls[2].started_ns >= calls[1].ended_ns + 2_000_000);
}

/// A graph whose first calls were begun: they stand for themselves, the others are still to come.
#[test]
fn a_graph_is_cut_where_its_calls_have_begun() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    recorder.made(Row { calls: 4, flags: Row::GRAPH, ..row(1) });
    recorder.start(row(1), false);
    recorder.done(&Waits::default());
    recorder.start(row(2), false);
    let calls = only(&folder).calls();
    let shown: Vec<_> = calls.iter().map(|row| (row.number, row.calls, row.state())).collect();
    assert_eq!(shown, [(1, 1, State::Done), (2, 1, State::Running), (3, 2, State::Made)]);
}

/// Readers look as fast as they can while a rank records: every row is one call's.
#[test]
fn a_reader_never_sees_a_torn_row() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    let page = only(&folder);
    let stop = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut looks, mut rows, mut last) = (0u64, 0u64, 0);
            // ORDER: Relaxed is enough. The word says all there is to say.
            while !stop.load(Ordering::Relaxed) || looks < 10 {
                let calls = page.calls();
                for row in &calls {
                    assert_eq!(
                        (row.call, row.bytes, row.stream),
                        (row.number * 3, row.number * 5, row.number * 7)
                    );
                    assert_eq!(row.state() == State::Done, row.ended_ns != 0, "{row:?}");
                    assert_eq!(row.state() == State::Made, row.started_ns == 0, "{row:?}");
                }
                assert!(calls.windows(2).all(|pair| pair[0].number < pair[1].number));
                let done = page.count(Count::CallsDone);
                assert!(done >= last, "a counter went back");
                (looks, rows, last) = (looks + 1, rows + calls.len() as u64, done);
            }
            (looks, rows)
        });
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < Duration::from_millis(700) {
            number += 1;
            recorder.made(row(number));
            recorder.start(row(number), number % 7 == 0);
            recorder.done(&Waits::default());
        }
        // ORDER: Relaxed is enough, as above.
        stop.store(true, Ordering::Relaxed);
        assert!(number > 1000, "only {number} calls");
        reader.join().unwrap()
    });
    assert!(looks.0 >= 10 && looks.1 > 1000, "{looks:?}");
}

#[test]
fn only_this_user_may_look() {
    let (around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(folder.path()), mode(recorder.file().unwrap())), (0o700, 0o600));

    // A folder that others may use, a link to a good one, and a file: refused, and nothing is changed.
    let open = around.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
    let link = around.path().join("link");
    symlink(folder.path(), &link).unwrap();
    let file = around.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, seen) in [(&open, "mode 0750"), (&link, "something else"), (&file, "something else")] {
        for error in [Folder::create(path).unwrap_err(), Folder::existing(path).unwrap_err()] {
            assert!(
                matches!(error, RecordError::NotPrivate { .. }) && error.to_string().contains(seen),
                "{error}"
            );
        }
    }
    assert_eq!(mode(&open), 0o750);
    assert!(Folder::existing(&around.path().join("nothing")).unwrap().is_none());
    let error = Folder::create(&around.path().join("no/such")).unwrap_err();
    assert!(matches!(error, RecordError::System { .. }), "{error}");

    // A page of somebody else's, and a link to one, are passed over; whatever they hold.
    let page = recorder.file().unwrap();
    symlink(page, folder.path().join("1-1-1.page")).unwrap();
    fs::write(folder.path().join("x.page"), "no page").unwrap();
    assert_eq!(folder.pages().unwrap().len(), 1);
    if fs::metadata(page).unwrap().uid() == 0 {
        chown(page, Some(12345), None).unwrap();
        assert!(folder.pages().unwrap().is_empty());
        chown(folder.path(), Some(12345), None).unwrap();
        let error = Folder::existing(folder.path()).unwrap_err();
        assert!(error.to_string().contains("one of user 12345"), "{error}");
    } else {
        eprintln!("SKIPPED: giving a page away, because only the administrator can");
    }
}

#[test]
fn a_page_goes_with_its_rank_unless_it_is_kept() {
    let (_around, folder) = place();
    let recorder = Recorder::in_folder(&folder, &about(7, 0)).unwrap();
    let path = recorder.file().unwrap().to_owned();
    let name = format!("{}-1-0.page", std::process::id());
    assert_eq!(path.file_name().unwrap().to_str(), Some(name.as_str()));
    // The same numbers in another container: both have their page.
    let twin = Recorder::in_folder(&folder, &about(8, 0)).unwrap();
    assert_ne!(twin.file(), recorder.file());
    drop(twin);
    drop(recorder);
    assert!(!path.exists());

    let failed = Recorder::in_folder(&folder, &about(9, 0)).unwrap();
    let alive = Recorder::in_folder(&folder, &about(9, 1)).unwrap();
    failed.refused(ErrorCode::Stalled, "x");
    failed.close(true);
    drop(failed);
    assert_eq!(folder.pages().unwrap().iter().filter(|page| page.is_closed()).count(), 1);
    // It goes when the next communicator comes, but not while another rank of it is there.
    assert_eq!(folder.clear().unwrap(), 0);
    drop(alive);
    assert_eq!(folder.clear().unwrap(), 1);
    assert!(folder.pages().unwrap().is_empty());
}

#[test]
fn memory_does_where_there_is_no_folder() {
    let recorder = Recorder::in_memory(&about(7, 0));
    assert_eq!(recorder.file(), None);
    recorder.made(row(1));
    recorder.close(true);
}

const INSIDE: &str = "RECORDER_TESTS_FOLDER";

/// This test again, in a process of its own that records two calls, says so, and waits to be killed.
fn other_process(folder: &Folder, communicator: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pages_of_the_dead_are_read_and_then_cleared", "--nocapture"]);
    command.env(INSIDE, folder.path()).env("COMMUNICATOR", communicator.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let pid = u64::from(child.id());
    let is_there = |page: &Page| page.header().pid == pid && page.calls().len() == 2;
    while !folder.pages().unwrap().iter().any(is_there) {
        assert!(start.elapsed() < Duration::from_secs(20), "the other process does not come");
        assert!(child.try_wait().unwrap().is_none(), "the other process has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn pages_of_the_dead_are_read_and_then_cleared() {
    if let Some(path) = std::env::var_os(INSIDE) {
        let folder = Folder::create(Path::new(&path)).unwrap();
        let communicator = std::env::var("COMMUNICATOR").unwrap().parse().unwrap();
        let recorder = Recorder::in_folder(&folder, &about(communicator, 0)).unwrap();
        let _times = [1, 2].map(|number| recorder.made(row(number)));
        recorder.start(row(1), false);
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let (_around, folder) = place();
    let mut lonely = other_process(&folder, 7);
    let mut peer = other_process(&folder, 8);
    let ours = Recorder::in_folder(&folder, &about(8, 1)).unwrap();
    assert_eq!(folder.clear().unwrap(), 0, "all three live");
    for child in [&mut lonely, &mut peer] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let pages = folder.pages().unwrap();
    let dead: Vec<&Page> = pages.iter().filter(|page| page.life() == Life::Dead).collect();
    assert_eq!((pages.len(), dead.len()), (3, 2));
    for page in dead {
        assert_eq!(page.current().unwrap().state(), State::Running);
        assert_eq!(page.calls().len(), 2);
    }
    // A half-made page of a process that is gone, and one of a process that may still be about to write it.
    let half = |pid: u32| folder.path().join(format!("{pid}-9-9.page"));
    fs::write(half(lonely.id()), "").unwrap();
    fs::write(half(std::process::id()), "").unwrap();
    // The rank that died beside one that lives tells why that one hangs; so its page stays.
    assert_eq!(folder.clear().unwrap(), 2);
    assert!(half(std::process::id()).exists() && !half(lonely.id()).exists());
    assert_eq!(folder.pages().unwrap().len(), 2);
    drop(ours);
    assert_eq!(folder.clear().unwrap(), 1);
    assert!(folder.pages().unwrap().is_empty());
}
