//! What the ranks of a communicator know of each other besides their rings: in one process by sharing it, in several
//! by telling it.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use myelon_meet::Event;

use crate::error::Error;
use crate::late::DOCTOR;
use crate::told::{Note, Peers, completed_in};

/// The first error, and who has come how far.
pub(crate) struct Group {
    first_error: OnceLock<Error>,
    /// Of a rank in another process only that it was dropped, and what it had completed then.
    ranks: Mutex<Vec<Calls>>,
    /// Other programs see what the ranks record.
    is_recorded: bool,
    /// The ranks that are other processes, where there are any: then all but one are.
    peers: Option<Peers>,
}

/// The calls of one rank.
#[derive(Clone, Copy, Default)]
struct Calls {
    made: u64,
    completed: u64,
    dropped: bool,
    /// Of a rank in another process: what it said last that it has made.
    told: u64,
}

impl Group {
    pub fn new(ranks: usize) -> Self {
        Self::with(ranks, None)
    }

    /// For one rank of this process and its `peers`.
    pub fn of_process(ranks: usize, peers: Peers) -> Self {
        Self::with(ranks, Some(peers))
    }

    fn with(ranks: usize, peers: Option<Peers>) -> Self {
        let (first_error, ranks) = (OnceLock::new(), Mutex::new(vec![Calls::default(); ranks]));
        Self { first_error, ranks, is_recorded: false, peers }
    }

    /// The event of the first error says where the rest can be seen, if other programs see what ranks record.
    pub fn recorded(self, is_recorded: bool) -> Self {
        Self { is_recorded, ..self }
    }

    /// The error that ends every call of every rank, once there is one.
    pub fn first_error(&self) -> Option<&Error> {
        self.first_error.get()
    }

    /// Ends every call of every rank with `error`, unless there is an earlier one, which is returned.
    pub fn poison(&self, error: Error) -> &Error {
        self.poison_from(error, true)
    }

    fn poison_from(&self, error: Error, is_ours: bool) -> &Error {
        self.first_error.get_or_init(|| {
            let next = if self.is_recorded { DOCTOR } else { "" };
            tracing::warn!(%error, next, "the communicator is poisoned");
            // Before anybody sees it, who might say goodbye: what is told behind that is not heard.
            if let (true, Some(peers)) = (is_ours, &self.peers) {
                peers.failed(&error);
            }
            error
        })
    }

    /// Something happened to `peer`, which is another process. Never waits. Returns what is not the group's business.
    pub fn hear(&self, peer: usize, event: Event<'_>) -> Option<(Note, Vec<OwnedFd>)> {
        let peers = self.peers.as_ref()?;
        let rank = peers.rank;
        match event {
            Event::Note { bytes, fds } => match Note::read(peer, bytes) {
                // Who told it has told the others too.
                Ok(Note::Failed(told)) => {
                    self.poison_from(told.error(peer), false);
                }
                // An error has been told already.
                Ok(Note::Why) => peers.voice.tell_one(peer, &Note::Made(self.calls_made(rank)).bytes()),
                Ok(Note::Made(calls)) => self.lock()[peer].told = calls,
                Ok(other) => return Some((other, fds)),
                Err(error) => {
                    self.poison(error);
                }
            },
            Event::Dead(reason) => {
                self.poison(Error::PeerDead { rank, peer, reason: reason.into() });
            }
            Event::Goodbye(goodbye) => {
                let completed = completed_in(goodbye);
                let mut ranks = self.lock();
                ranks[peer] = Calls { made: completed, completed, dropped: true, told: completed };
                let calls = ranks[rank].made;
                if calls > completed {
                    self.poison(Error::PeerGone { rank, peer, calls, completed });
                }
            }
        }
        None
    }

    /// Asks the ranks that are other processes whether something happened.
    pub fn ask(&self) {
        if let Some(peers) = &self.peers {
            peers.voice.tell(&Note::Why.bytes(), &[]);
        }
    }

    /// `rank` makes its next call; returns how many it has made. Refused if a peer that it needs has been
    /// dropped.
    pub fn make_call(&self, rank: usize) -> Result<u64, Error> {
        self.make_calls(rank, 1)
    }

    /// `rank` makes its next `more` calls, all or none, as [`Group::make_call`] does one.
    pub fn make_calls(&self, rank: usize, more: u64) -> Result<u64, Error> {
        let mut ranks = self.lock();
        let calls = ranks[rank].made + more;
        if let Some(peer) = ranks.iter().position(|peer| peer.dropped && peer.completed < calls) {
            let gone = Error::PeerGone { rank, peer, calls, completed: ranks[peer].completed };
            return Err(self.poison(gone).clone());
        }
        ranks[rank].made = calls;
        Ok(calls)
    }

    /// `rank` has completed the oldest call that it had not.
    pub fn complete_call(&self, rank: usize) {
        self.lock()[rank].completed += 1;
    }

    /// `rank` has completed its first `calls` calls, at least.
    pub fn complete_to(&self, rank: usize, calls: u64) {
        let completed = &mut self.lock()[rank].completed;
        *completed = calls.max(*completed);
    }

    /// Calls that `rank` has made, as far as this process knows.
    pub fn calls_made(&self, rank: usize) -> u64 {
        let ranks = self.lock();
        ranks[rank].made.max(ranks[rank].told)
    }

    /// Whether `rank` was dropped.
    pub fn is_dropped(&self, rank: usize) -> bool {
        self.lock()[rank].dropped
    }

    /// Whether the other ranks are other processes.
    pub fn has_processes(&self) -> bool {
        self.peers.is_some()
    }

    /// `rank` is dropped: ends the calls that can't complete without it, and only then.
    pub fn drop_rank(&self, rank: usize) {
        let mut ranks = self.lock();
        ranks[rank].dropped = true;
        let completed = ranks[rank].completed;
        let stranded = |&other: &usize| ranks[other].made > completed;
        let peers = (0..ranks.len()).filter(|&other| other != rank);
        if let Some(other) = peers.chain([rank]).find(stranded) {
            let calls = ranks[other].made;
            self.poison(Error::PeerGone { rank: other, peer: rank, calls, completed });
        }
        if let Some(peers) = &self.peers {
            peers.dropped(completed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Calls>> {
        // Nothing panics while it is held.
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use myelon_meet::Process;

    use super::*;
    use crate::error::ErrorKind;

    /// Two threads of a rank: one finds an error, the other one sees it and drops the rank.
    #[test]
    fn peers_hear_an_error_before_the_goodbye_of_who_saw_it() {
        for round in 0..100 {
            let meeting = format!("group-{}-{round}", std::process::id());
            let join = |rank| {
                let process = Process::new(rank, 2, meeting.clone());
                std::thread::spawn(move || process.join(&[]).unwrap())
            };
            let [own, peer] = [join(0), join(1)].map(|session| session.join().unwrap());
            let (own_voice, peer_voice) = (own.voice(), peer.voice());
            let group = Arc::new(Group::of_process(2, Peers { rank: 0, voice: own_voice.clone() }));
            let own = own.watch(own_voice, |_, _| ()).unwrap();
            let (heard, first) = mpsc::channel();
            let is_note = move |_, event: Event<'_>| {
                let _ = heard.send(matches!(event, Event::Note { .. }));
            };
            let peer = peer.watch(peer_voice, is_note).unwrap();
            let poisoned = group.clone();
            let finds = std::thread::spawn(move || {
                poisoned.poison(Error::Task { message: "so".into() });
            });
            while group.first_error().is_none() {
                std::hint::spin_loop();
            }
            group.drop_rank(0);
            finds.join().unwrap();
            assert_eq!(first.recv_timeout(Duration::from_secs(20)), Ok(true), "round {round}");
            drop((own, peer));
        }
    }

    #[test]
    fn dropping_a_rank_ends_only_calls_that_need_it() {
        let group = Group::new(3);
        for rank in 0..3 {
            group.make_call(rank).unwrap();
        }
        group.complete_call(0);
        group.drop_rank(0);
        assert_eq!(group.first_error(), None); // the others can complete without it
        group.complete_call(1);
        let gone = group.make_call(1).unwrap_err();
        assert_eq!(gone, Error::PeerGone { rank: 1, peer: 0, calls: 2, completed: 1 });
        assert_eq!(group.first_error(), Some(&gone));
    }

    #[test]
    fn several_calls_are_made_together_or_not_at_all() {
        let group = Group::new(2);
        assert_eq!((group.make_calls(0, 3), group.make_calls(1, 2)), (Ok(3), Ok(2)));
        group.complete_to(0, 3);
        group.drop_rank(0);
        assert_eq!(group.first_error(), None);
        let gone = group.make_calls(1, 2).unwrap_err();
        assert_eq!(gone, Error::PeerGone { rank: 1, peer: 0, calls: 4, completed: 3 });
        assert_eq!(group.calls_made(1), 2);
    }

    #[test]
    fn dropping_a_rank_in_its_call_ends_the_call() {
        let group = Group::new(2);
        group.make_call(0).unwrap();
        group.drop_rank(0);
        assert_eq!(group.first_error(), Some(&Error::PeerGone { rank: 0, peer: 0, calls: 1, completed: 0 }));
        assert_eq!(group.make_call(1).unwrap_err().kind(), ErrorKind::PeerGone);
    }

    #[test]
    fn dropping_a_rank_that_never_called_ends_its_peers_calls() {
        let group = Group::new(2);
        group.make_call(0).unwrap();
        group.drop_rank(1);
        assert_eq!(group.first_error(), Some(&Error::PeerGone { rank: 0, peer: 1, calls: 1, completed: 0 }));
    }
}
