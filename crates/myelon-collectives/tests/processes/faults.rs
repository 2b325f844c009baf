//! What may happen to ranks that are processes, and what the others must make of it: the same on every backend.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use myelon_collectives::Backend;
use rustix::process::Signal;

use crate::ranks::{self, Answer, Ranks, join_line};

/// How soon a death must be noticed: by the slowest survivor, as the median of several kills, because a machine with
/// other work may keep one of them waiting. No deadline here is below 30 s where a rank is killed.
const NOTICED: Duration = Duration::from_millis(100);
/// What no kill may take, however busy the machine is.
const NOTICED_MAX: Duration = Duration::from_secs(3);

/// Where the ranks of this program are.
static BACKEND: OnceLock<Backend> = OnceLock::new();

pub fn backend() -> Backend {
    *BACKEND.get().expect("said before the first test")
}

/// All tests, of ranks on `backend`.
pub fn trials(backend: Backend) -> Vec<Trial> {
    BACKEND.set(backend).expect("said once");
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    vec![
        trial("sums_are_those_of_the_reference", sums_are_those_of_the_reference),
        trial("graphs_make_their_calls_again", graphs_make_their_calls_again),
        trial("killed_before_a_call", killed_before_a_call),
        trial("killed_in_the_middle_of_calls", killed_in_the_middle_of_calls),
        trial("killed_after_a_call", killed_after_a_call),
        trial("killed_rank_0", killed_rank_0),
        trial("killed_with_its_connections_held_open", killed_with_its_connections_held_open),
        trial("survivors_meet_again_at_once", survivors_meet_again_at_once),
        trial("left_without_dropping", left_without_dropping),
        trial("stopped_for_longer_than_the_deadline", stopped_for_longer_than_the_deadline),
        trial("stopped_for_less_than_the_deadline", stopped_for_less_than_the_deadline),
        trial("a_late_rank_is_waited_for", a_late_rank_is_waited_for),
        trial("a_rank_that_never_starts_is_named", a_rank_that_never_starts_is_named),
        trial("ranks_that_call_differently_find_out", ranks_that_call_differently_find_out),
        trial("two_communicators_in_opposite_order", two_communicators_in_opposite_order),
        trial("a_dropped_rank_is_gone_and_not_dead", a_dropped_rank_is_gone_and_not_dead),
        trial("settings_that_differ_are_named", settings_that_differ_are_named),
        trial("what_a_killed_rank_0_left_is_taken_over", what_a_killed_rank_0_left_is_taken_over),
        trial("communicators_leave_nothing_behind", communicators_leave_nothing_behind),
        trial("failed_communicators_leave_nothing_behind", failed_communicators_leave_nothing_behind),
        trial("the_environment_of_a_launcher_is_enough", the_environment_of_a_launcher_is_enough),
    ]
}

/// All survivors end with an error that names `peer` as dead, soon; all that follows fails at once.
fn survivors_end(ranks: &mut Ranks, peer: usize, killed_us: u64) {
    let mut slowest = 0;
    for rank in ranks.others(peer) {
        let answer = ranks.tell(rank, "wait");
        let error = answer.error("PeerDead");
        assert!(error.contains(&format!("lost rank {peer}: its process is dead")), "{error}");
        slowest = slowest.max(answer.at_us.saturating_sub(killed_us));
    }
    println!("noticed {slowest} us after the kill");
    assert!(slowest < NOTICED_MAX.as_micros() as u64, "{slowest} us");
    for rank in ranks.others(peer) {
        let again = ranks.tell(rank, "call f32 sum 10");
        assert!(again.error("Poisoned").contains(&format!("rank {peer}")), "{again:?}");
        ranks.drops_at_once(rank);
    }
}

fn sums_are_those_of_the_reference() {
    let promises = [Ranks::joined, Ranks::joined_by_windows];
    for (count, join) in [2, 3, 5].into_iter().flat_map(|count| promises.map(|join| (count, join))) {
        let mut ranks = join(count, 10_000);
        for line in [
            "call f32 sum 1",
            "call f32 sum 0",
            "call f64 avg 1001",
            "call i32 prod 70000",
            "call u8 max 12345",
            "call f32 min 300000",
        ] {
            ranks.all(line).iter().for_each(Answer::ok);
        }
        ranks.all("wait").iter().for_each(Answer::ok);
        ranks.all("many 200 f32 sum 999").iter().for_each(Answer::ok);
        ranks.all("wait").iter().for_each(Answer::ok);
        ranks.all("drop").iter().for_each(Answer::ok);
        ranks.leave_nothing();
    }
}

fn graphs_make_their_calls_again() {
    let mut ranks = Ranks::joined_by_windows(3, 10_000);
    for _ in 0..3 {
        ranks.all("graph 5 4 i32 sum 777").iter().for_each(Answer::ok);
        ranks.all("graph 2 3 f32 sum 777777").iter().for_each(Answer::ok);
        ranks.all("call f32 sum 100").iter().for_each(Answer::ok);
        ranks.all("wait").iter().for_each(Answer::ok);
    }
}

fn killed_before_a_call() {
    let mut noticed: Vec<u64> = (0..7).map(|_| kill_before_a_call()).collect();
    noticed.sort_unstable();
    println!("noticed {noticed:?} us after the kill");
    assert!(noticed[noticed.len() / 2] < NOTICED.as_micros() as u64, "{noticed:?} us");
}

/// Kills a rank that two others wait for; how long the slower one takes to notice, in microseconds.
fn kill_before_a_call() -> u64 {
    let mut ranks = Ranks::joined(3, 30_000);
    ranks.all("call f32 sum 10").iter().for_each(Answer::ok);
    ranks.all("wait").iter().for_each(Answer::ok);
    // Two wait for the third, which never calls.
    for rank in [0, 1] {
        ranks.tell(rank, "call f32 sum 1000").ok();
    }
    for rank in [0, 1] {
        ranks.begin(rank, "wait");
    }
    std::thread::sleep(Duration::from_millis(50));
    let killed_us = ranks.kill(2);
    let mut slowest = 0;
    for rank in [0, 1] {
        let answer = ranks.answer(rank);
        assert!(answer.error("PeerDead").contains("rank 2: its process is dead"), "{answer:?}");
        assert!(answer.at_us > killed_us, "it ended before");
        slowest = slowest.max(answer.at_us - killed_us);
    }
    ranks.drops_at_once(0);
    ranks.drops_at_once(1);
    slowest
}

fn killed_in_the_middle_of_calls() {
    killed_in_the_middle(Ranks::joined(3, 30_000));
    killed_in_the_middle(Ranks::joined_by_windows(3, 30_000));
}

fn killed_in_the_middle(mut ranks: Ranks) {
    ranks.all("many 200 f32 sum 2000000").iter().for_each(Answer::ok);
    ranks.begin(0, "wait");
    ranks.begin(1, "wait");
    std::thread::sleep(Duration::from_millis(60));
    let killed_us = ranks.kill(2);
    for rank in [0, 1] {
        let answer = ranks.answer(rank);
        assert!(answer.error("PeerDead").contains("rank 2: its process is dead"), "{answer:?}");
        let noticed_us = answer.at_us.saturating_sub(killed_us);
        println!("rank {rank} noticed {noticed_us} us after the kill");
        assert!(noticed_us < NOTICED_MAX.as_micros() as u64, "{noticed_us} us");
        ranks.drops_at_once(rank);
    }
}

fn killed_after_a_call() {
    let mut ranks = Ranks::joined(3, 30_000);
    ranks.all("call f32 sum 1000").iter().for_each(Answer::ok);
    ranks.all("wait").iter().for_each(Answer::ok);
    ranks.kill(1);
    std::thread::sleep(NOTICED);
    for rank in [0, 2] {
        // Nothing is in flight, so nothing fails before the next call; that one fails before it begins.
        ranks.tell(rank, "wait").ok();
        let error = ranks.tell(rank, "call f32 sum 10");
        assert!(error.error("Poisoned").contains("rank 1: its process is dead"), "{error:?}");
        ranks.drops_at_once(rank);
    }
}

fn killed_rank_0() {
    let mut ranks = Ranks::joined(4, 30_000);
    for rank in 1..4 {
        ranks.tell(rank, "call f32 sum 1000").ok();
    }
    let killed_us = ranks.kill(0);
    survivors_end(&mut ranks, 0, killed_us);
    ranks.leave_nothing();
}

/// As where the rank has forked children, which have its sockets, too.
fn killed_with_its_connections_held_open() {
    let mut ranks = Ranks::joined(3, 30_000);
    for rank in [0, 2] {
        ranks.tell(rank, "call f32 sum 1000").ok();
    }
    let Some(held) = ranks.descriptors(1) else {
        println!("SKIPPED: this process may not take descriptors of another");
        return;
    };
    assert!(held.len() > 4, "{held:?}");
    let killed_us = ranks.kill(1);
    survivors_end(&mut ranks, 1, killed_us);
    drop(held);
}

fn survivors_meet_again_at_once() {
    let mut ranks = Ranks::joined(3, 30_000);
    let killed_us = ranks.kill(1);
    std::thread::sleep(Duration::from_millis(20));
    for rank in [0, 2] {
        assert!(!ranks.tell(rank, "call f32 sum 10").is_ok());
    }
    survivors_have(&mut ranks, [0, 2], killed_us);
}

fn survivors_have(ranks: &mut Ranks, survivors: [usize; 2], since_us: u64) {
    let meeting = ranks.meeting("again");
    for (place, rank) in survivors.into_iter().enumerate() {
        ranks.begin(rank, &join_line(place, 2, &meeting, 10_000, 10_000));
    }
    survivors.iter().for_each(|&rank| ranks.answer(rank).ok());
    for rank in survivors {
        ranks.begin(rank, "call i32 sum 100");
    }
    survivors.iter().for_each(|&rank| ranks.answer(rank).ok());
    for rank in survivors {
        ranks.begin(rank, "wait");
    }
    let done = survivors.map(|rank| {
        let answer = ranks.answer(rank);
        answer.ok();
        answer.at_us
    });
    let took_us = done[0].max(done[1]) - since_us;
    assert!(took_us < 3_000_000, "{took_us} us");
}

/// A program that ends without dropping its communicator is dead to the others.
fn left_without_dropping() {
    let mut ranks = Ranks::joined(2, 30_000);
    ranks.tell(0, "call f32 sum 1000").ok();
    let left_us = ranks::now_us();
    ranks.begin(1, "exit");
    survivors_end(&mut ranks, 1, left_us);
}

fn stopped_for_longer_than_the_deadline() {
    let mut ranks = Ranks::joined(3, 400);
    ranks.signal(2, Signal::STOP);
    let start = Instant::now();
    for rank in [0, 1] {
        ranks.tell(rank, "call f32 sum 1000").ok();
    }
    for rank in [0, 1] {
        let answer = ranks.tell(rank, "wait");
        let error = answer.error("Stalled");
        assert!(error.contains("for rank 2"), "{error}");
    }
    let waited = start.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_millis(1500)).contains(&waited), "{waited:?}");
    // When it wakes, it finds out that the others have given up.
    ranks.signal(2, Signal::CONT);
    let calls = ranks.tell(2, "call f32 sum 1000");
    let error = if calls.is_ok() { ranks.tell(2, "wait") } else { calls };
    assert!(error.text.contains("for rank 2"), "{error:?}");
    (0..3).for_each(|rank| ranks.drops_at_once(rank));
}

fn stopped_for_less_than_the_deadline() {
    let mut ranks = Ranks::joined(3, 10_000);
    ranks.all("many 20 f32 sum 100000").iter().for_each(Answer::ok);
    ranks.signal(1, Signal::STOP);
    std::thread::sleep(Duration::from_millis(500));
    ranks.signal(1, Signal::CONT);
    ranks.all("wait").iter().for_each(Answer::ok);
}

fn a_late_rank_is_waited_for() {
    // Late to the meeting, then late to a call.
    let mut ranks = Ranks::new(2);
    let meeting = ranks.meeting("late");
    ranks.begin(1, &join_line(1, 2, &meeting, 10_000, 10_000));
    std::thread::sleep(Duration::from_millis(1000));
    ranks.begin(0, &join_line(0, 2, &meeting, 10_000, 10_000));
    (0..2).for_each(|rank| ranks.answer(rank).ok());
    ranks.tell(0, "call f32 sum 1000").ok();
    std::thread::sleep(Duration::from_millis(1000));
    ranks.tell(1, "call f32 sum 1000").ok();
    ranks.all("wait").iter().for_each(Answer::ok);
}

fn a_rank_that_never_starts_is_named() {
    let mut ranks = Ranks::new(3);
    let meeting = ranks.meeting("never");
    for rank in [0, 1] {
        ranks.begin(rank, &join_line(rank, 3, &meeting, 10_000, 500));
    }
    for rank in [0, 1] {
        let answer = ranks.answer(rank);
        assert!(answer.error("Meeting").contains("missing rank 2"), "{answer:?}");
    }
    ranks.leave_nothing();
}

fn ranks_that_call_differently_find_out() {
    for other in ["call f32 sum 1001", "call i32 sum 1000", "call f32 max 1000"] {
        let mut ranks = Ranks::joined(3, 5_000);
        ranks.tell(0, "call f32 sum 1000").ok();
        ranks.tell(1, "call f32 sum 1000").ok();
        ranks.tell(2, other).ok();
        for answer in ranks.all("wait") {
            let error = answer.error("Disagreement");
            assert!(error.contains("f32 sum count=1000") && error.contains("rank 2"), "{error}");
        }
        for rank in 0..3 {
            assert!(ranks.tell(rank, "call f32 sum 10").error("Poisoned").contains("rank 2"));
            ranks.drops_at_once(rank);
        }
    }
}

/// Each rank has two communicators and calls the one first whose call the other makes last. That ends: well, or with
/// errors when the deadline has passed, where the one's kernels leave the other's no room.
fn two_communicators_in_opposite_order() {
    let mut ranks = Ranks::joined(2, 3_000);
    let meeting = ranks.meeting("second");
    for rank in 0..2 {
        ranks.begin(rank, &join_line(rank, 2, &meeting, 3_000, 20_000).replace("join", "beside"));
    }
    (0..2).for_each(|rank| ranks.answer(rank).ok());
    let start = Instant::now();
    ranks.begin(0, "opposite 20 first 3000000");
    ranks.begin(1, "opposite 20 second 3000000");
    let answers = [0, 1].map(|rank| ranks.answer(rank));
    println!("after {:?}: {answers:?}", start.elapsed());
    for answer in &answers {
        assert!(
            answer.is_ok() || ["Stalled", "Poisoned", "PeerFailed"].contains(&answer.kind.as_str()),
            "{answer:?}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    (0..2).for_each(|rank| ranks.drops_at_once(rank));
}

fn a_dropped_rank_is_gone_and_not_dead() {
    let mut ranks = Ranks::joined(3, 30_000);
    ranks.all("call f32 sum 1000").iter().for_each(Answer::ok);
    ranks.all("wait").iter().for_each(Answer::ok);
    ranks.tell(2, "drop").ok();
    std::thread::sleep(NOTICED);
    for rank in [0, 1] {
        let answer = ranks.tell(rank, "call f32 sum 1000");
        assert!(answer.text.contains("rank 2 was dropped after it completed 1"), "{answer:?}");
    }
    // Its own call in flight fails, and that error is the first of all ranks, whether they call or not.
    let mut ranks = Ranks::joined(3, 30_000);
    ranks.tell(1, "call f32 sum 1000").ok();
    ranks.drops_at_once(1);
    std::thread::sleep(NOTICED);
    for rank in [0, 2] {
        let answer = ranks.tell(rank, "call f32 sum 1000");
        assert!(answer.error("Poisoned").contains("rank 1 was dropped after it completed 0"), "{answer:?}");
    }
    // In flight elsewhere: the call can't complete without the rank that is dropped.
    let mut ranks = Ranks::joined(2, 30_000);
    ranks.tell(0, "call f32 sum 1000").ok();
    ranks.tell(1, "drop").ok();
    let answer = ranks.tell(0, "wait");
    assert!(answer.error("PeerGone").contains("rank 1 was dropped after it completed 0"), "{answer:?}");
}

fn settings_that_differ_are_named() {
    let mut ranks = Ranks::new(2);
    let meeting = ranks.meeting("differ");
    ranks.begin(0, &join_line(0, 2, &meeting, 5_000, 5_000));
    ranks.begin(1, &join_line(1, 2, &meeting, 6_000, 5_000));
    for rank in 0..2 {
        let answer = ranks.answer(rank);
        let error = answer.error("Meeting");
        assert_eq!(error, "deadline: rank 0 has \"5000 ms\", but rank 1 has \"6000 ms\"");
    }
    ranks.leave_nothing();
}

fn what_a_killed_rank_0_left_is_taken_over() {
    let mut ranks = Ranks::new(3);
    let meeting = ranks.meeting("stale");
    ranks.begin(0, &join_line(0, 2, &meeting, 5_000, 10_000));
    let start = Instant::now();
    while fs::read_dir(&meeting).map_or(0, Iterator::count) == 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
    ranks.kill(0);
    assert!(fs::read_dir(&meeting).unwrap().count() == 1, "a killed process can't tidy up");
    for (rank, process) in [(0, 1), (1, 2)] {
        ranks.begin(process, &join_line(rank, 2, &meeting, 5_000, 10_000));
    }
    [1, 2].iter().for_each(|&process| ranks.answer(process).ok());
    ranks.leave_nothing();
}

fn communicators_leave_nothing_behind() {
    let mut ranks = Ranks::new(2);
    let meeting = ranks.meeting("many");
    let rounds = |ranks: &mut Ranks, times: usize| {
        for rank in 0..2 {
            ranks.begin(rank, &format!("rounds {times} {rank} 2 {meeting}"));
        }
        (0..2).for_each(|rank| ranks.answer(rank).ok());
        ranks.all("count").into_iter().map(|answer| answer.text).collect::<Vec<_>>()
    };
    let free = |ranks: &mut Ranks| {
        let answers = [0, 1].map(|rank| ranks.tell(rank, &format!("free {rank}")));
        answers.map(|answer| answer.text.parse::<usize>().unwrap())
    };
    let few = rounds(&mut ranks, 5);
    let free_first = free(&mut ranks);
    let start = Instant::now();
    let many = rounds(&mut ranks, 200);
    println!("a communicator with a call in it takes {:?}", start.elapsed() / 200);
    // A communicator has 16 MiB, and its calls buffers.
    let free_last = free(&mut ranks);
    assert!((0..2).all(|rank| free_last[rank] + 64 > free_first[rank]), "{free_first:?} {free_last:?}");
    println!("descriptors, threads and mappings of windows: after 5 {few:?}, after 200 more {many:?}");
    assert_eq!(few, many);
    ranks.leave_nothing();
}

fn failed_communicators_leave_nothing_behind() {
    let mut ranks = Ranks::new(3);
    // What stays as long as a process lives is there from the first communicator on.
    let meeting = ranks.meeting("warm");
    (0..3).for_each(|rank| ranks.begin(rank, &format!("rounds 1 {rank} 3 {meeting}")));
    (0..3).for_each(|rank| ranks.answer(rank).ok());
    let before = ranks.tell(0, "count").text;
    let meeting = ranks.meeting("fail");
    (0..3).for_each(|rank| ranks.begin(rank, &join_line(rank, 3, &meeting, 30_000, 10_000)));
    (0..3).for_each(|rank| ranks.answer(rank).ok());
    ranks.tell(0, "call f32 sum 1000000").ok();
    ranks.kill(2);
    assert!(!ranks.tell(0, "wait").is_ok());
    ranks.drops_at_once(0);
    assert_eq!(ranks.tell(0, "count").text, before);
}

fn the_environment_of_a_launcher_is_enough() {
    let run = std::process::id().to_string();
    let torchrun = |rank: usize| {
        let names = [("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string())];
        let same = [("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_PORT", "29500")];
        let same = same.map(|(name, value)| (name, value.to_string()));
        [("TORCHELASTIC_RUN_ID", run.clone())].into_iter().chain(names).chain(same).collect()
    };
    let mut ranks = Ranks::with_names(2, torchrun);
    (0..2).for_each(|rank| ranks.begin(rank, "from_env"));
    (0..2).for_each(|rank| ranks.answer(rank).ok());
    ranks.all("call f32 sum 1000").iter().for_each(Answer::ok);
    ranks.all("wait").iter().for_each(Answer::ok);

    let nodes = |rank: usize| {
        let names = [("RANK", rank.to_string()), ("WORLD_SIZE", "4".into())];
        names.into_iter().chain([("LOCAL_WORLD_SIZE", "2".into())]).collect()
    };
    let mut ranks = Ranks::with_names(1, nodes);
    assert!(ranks.tell(0, "from_env").error("Settings").contains("ranks on one node are needed"));
    let mut ranks = Ranks::new(1);
    assert!(ranks.tell(0, "from_env").error("Settings").contains("nothing says which rank"));
}
