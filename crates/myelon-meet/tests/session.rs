//! Property: what one rank gives reaches all, in order and whole, and a rank that ends is noticed as what it is.
//!
//! Catches: bytes or descriptors that go to the wrong rank, exchanges that mix, a goodbye taken for a death, a death
//! taken for a goodbye, threads and descriptors that stay. Cannot catch what only a killed process does.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use myelon_meet::{Event, MeetError, Process, Session, Voice, Watch, share_windows};
use myelon_ring::WindowLayout;
use myelon_ring::words::Movement;

const LONG: Duration = Duration::from_secs(20);

fn sessions(ranks: usize) -> Vec<Session> {
    let base = tempfile::tempdir().unwrap();
    let name = base.path().join("m").to_str().unwrap().to_owned();
    let join = |rank| {
        let process = Process::new(rank, ranks, name.clone()).within(LONG);
        thread::spawn(move || process.join(&[]).unwrap())
    };
    let threads: Vec<_> = (0..ranks).map(join).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn each<T: Send + 'static>(
    sessions: Vec<Session>,
    work: impl Fn(Session) -> T + Send + Copy + 'static,
) -> Vec<T> {
    let threads: Vec<_> = sessions.into_iter().map(|session| thread::spawn(move || work(session))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn bytes_and_descriptors_of_every_rank_reach_every_rank() {
    each(sessions(4), |mut session| {
        let rank = session.rank();
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "of rank {rank}").unwrap();
        // Rank 3 gives none, rank 2 the same twice; lengths differ by rank, up to more than a socket holds.
        let fds: Vec<_> = std::iter::repeat_n(file.as_fd(), [1, 1, 2, 0][rank]).collect();
        let bytes = vec![rank as u8; [0, 1, 100_000, 3 << 20][rank]];
        let told = session.exchange(&bytes, &fds, LONG).unwrap();
        for (peer, told) in told.into_iter().enumerate() {
            assert_eq!(told.bytes, vec![peer as u8; [0, 1, 100_000, 3 << 20][peer]]);
            assert_eq!(told.fds.len(), [1, 1, 2, 0][peer]);
            // They share one offset, so one at a time.
            let told = told.fds.into_iter().map(File::from);
            let first = told.take(1).next();
            session.exchange(&[], &[], LONG).unwrap();
            if let (Some(mut file), true) = (first, rank == 1) {
                let mut text = String::new();
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, format!("of rank {peer}"));
            }
        }
    });
}

#[test]
fn exchanges_follow_each_other_without_mixing() {
    each(sessions(3), |mut session| {
        for number in 0..500u32 {
            for told in session.exchange(&number.to_le_bytes(), &[], LONG).unwrap() {
                assert_eq!(told.bytes, number.to_le_bytes());
            }
        }
    });
}

#[test]
fn an_exchange_that_is_too_large_is_refused_and_harms_nobody() {
    each(sessions(2), |mut session| {
        let error = session.exchange(&vec![0; 5 << 20], &[], LONG).unwrap_err();
        assert!(matches!(error, MeetError::Setting { .. }), "{error}");
        session.exchange(&[1], &[], LONG).unwrap();
    });
}

#[test]
fn who_does_not_come_to_an_exchange_is_named() {
    let mut sessions = sessions(3);
    let silent = sessions.pop().unwrap();
    let errors =
        each(sessions, |mut session| session.exchange(&[], &[], Duration::from_millis(200)).unwrap_err());
    for error in errors {
        // Who gave up first is gone for the other.
        let names = matches!(&error, MeetError::Late { missing, .. } if missing.contains(&2));
        assert!(names || matches!(error, MeetError::Left { .. }), "{error}");
    }
    drop(silent);
}

#[test]
fn who_gives_up_ends_the_exchange_of_all_at_once() {
    let mut sessions = sessions(3);
    drop(sessions.remove(1));
    let start = Instant::now();
    for error in each(sessions, |mut session| session.exchange(&[], &[], LONG).unwrap_err()) {
        assert!(matches!(error, MeetError::Left { .. }), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// What a watch heard: the peer, and the event in words.
type Heard = Receiver<(usize, String)>;

fn watched(session: Session) -> (Watch, Voice, Heard) {
    let (to, heard) = channel();
    let voice = session.voice();
    let handler = move |peer, event: Event<'_>| {
        let text = match event {
            Event::Note { bytes, fds } => format!("note {} {}", String::from_utf8_lossy(bytes), fds.len()),
            Event::Goodbye(word) => format!("goodbye {}", String::from_utf8_lossy(word)),
            Event::Dead(_) => "dead".into(),
        };
        let _ = to.send((peer, text));
    };
    (session.watch(voice.clone(), handler).unwrap(), voice, heard)
}

#[test]
fn notes_goodbyes_and_deaths_are_told_apart() {
    let mut all: Vec<_> = sessions(3).into_iter().map(watched).collect();
    let file = tempfile::tempfile().unwrap();
    all[0].1.tell(b"one", &[file.as_fd(), file.as_fd()]);
    all[0].1.tell(b"two", &[]);
    all[0].1.tell_one(1, b"three");
    for (rank, words) in
        [(1, &["note one 2", "note two 0", "note three 0"][..]), (2, &["note one 2", "note two 0"])]
    {
        for &word in words {
            assert_eq!(all[rank].2.recv_timeout(LONG).unwrap(), (0, word.to_owned()));
        }
    }
    let (watch, voice, _) = all.remove(2);
    voice.goodbye(b"bye");
    voice.tell(b"after", &[]);
    drop(watch);
    // Without a goodbye.
    let (watch, ..) = all.remove(1);
    drop(watch);
    let (watch, _, heard) = all.remove(0);
    let mut seen: Vec<_> = [(); 2].map(|()| heard.recv_timeout(LONG).unwrap()).into();
    seen.sort();
    assert_eq!(seen, [(1, "dead".into()), (2, "goodbye bye".into())]);
    drop(watch);
    assert!(heard.recv_timeout(LONG).is_err(), "nothing more, and the thread is gone");
}

#[test]
fn who_can_hear_no_more_is_dead_to_its_peers() {
    let mut sessions = sessions(2);
    let (peer, own) = (sessions.pop().unwrap(), sessions.pop().unwrap());
    let (_watch, voice, heard) = watched(own);
    let deaf_voice = peer.voice();
    let deaf = peer.watch(deaf_voice.clone(), |_, _| panic!("in the handler")).unwrap();
    voice.tell(b"a word", &[]);
    assert_eq!(heard.recv_timeout(LONG).unwrap(), (1, "dead".to_owned()));
    // It lives on, and says nothing.
    deaf_voice.tell(b"never sent", &[]);
    drop(deaf);
}

#[test]
fn notes_come_whole_and_in_order() {
    let mut all: Vec<_> = sessions(2).into_iter().map(watched).collect();
    for number in 0..1000 {
        all[0].1.tell(number.to_string().as_bytes(), &[]);
        if number % 100 == 99 {
            for number in number - 99..=number {
                assert_eq!(all[1].2.recv_timeout(LONG).unwrap(), (0, format!("note {number} 0")));
            }
        }
    }
    all.clear();
}

/// Words to a peer that reads nothing do not block: it is cut off.
#[test]
fn a_voice_never_waits() {
    let mut sessions = sessions(2);
    let deaf = sessions.pop().unwrap();
    let (watch, voice, _heard) = watched(sessions.pop().unwrap());
    let start = Instant::now();
    for _ in 0..100 {
        voice.tell(&[0; 100_000], &[]);
    }
    voice.goodbye(b"");
    drop(watch);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(deaf);
}

#[test]
fn shared_windows_carry_slots_between_ranks() {
    let layout = WindowLayout::new(3, 2, 4, 64).unwrap();
    each(sessions(3), move |mut session| {
        let rank = session.rank();
        let windows = share_windows(&mut session, layout, u64::MAX - 1, LONG).unwrap();
        let wait = myelon_ring::wait::Yielding { deadline: LONG };
        let peers = || (0..3).filter(move |&peer| peer != rank);
        let mut to: Vec<_> =
            peers().map(|peer| windows.producer(Movement::Gather, 1, rank, peer).unwrap()).collect();
        let mut from: Vec<_> =
            peers().map(|peer| windows.consumer(Movement::Gather, 1, peer, rank).unwrap()).collect();
        for lap in 0..20u8 {
            to.iter_mut().for_each(|ring| ring.copy_into_slot(&[rank as u8, lap], &wait).unwrap());
            for (ring, peer) in from.iter_mut().zip(peers()) {
                let mut bytes = [0; 2];
                ring.copy_from_slot(&mut bytes, &wait).unwrap();
                assert_eq!(bytes, [peer as u8, lap]);
            }
        }
        // The ends of others are not to be had.
        assert!(windows.producer(Movement::Gather, 0, (rank + 1) % 3, rank).is_err());
        session.exchange(&[], &[], LONG).unwrap();
    });
}

#[test]
fn windows_of_other_shapes_are_refused() {
    let errors = each(sessions(2), |mut session| {
        let layout = WindowLayout::new(2, 1 + session.rank(), 4, 64).unwrap();
        share_windows(&mut session, layout, 0, LONG).unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, MeetError::Windows { .. }), "{error}");
    }
    let mut session = sessions(2).remove(0);
    let other = WindowLayout::new(3, 1, 4, 64).unwrap();
    assert!(matches!(share_windows(&mut session, other, 0, LONG), Err(MeetError::Windows { .. })));
}
