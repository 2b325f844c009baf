//! What ranks in several processes tell each other: their first error, how far they came when they are dropped, and on
//! GPUs which of their memory the others may map.

use myelon_meet::Voice;
use myelon_ring::words::WaitingFor;
use serde::{Deserialize, Serialize};

use crate::call::CallWord;
use crate::error::Error;

/// Words of an error that travel: what a panic says has any length, and a note must fit a socket at once.
const CHARACTERS_MAX: usize = 4000;

/// Tells the peers of a rank, which are other processes.
pub(crate) struct Peers {
    /// This process's rank.
    pub rank: usize,
    pub voice: Voice,
}

impl Peers {
    /// `error` ends every call of every rank.
    pub fn failed(&self, error: &Error) {
        self.voice.tell(&Note::Failed(Told::of(self.rank, error)).bytes(), &[]);
    }

    /// This rank is dropped, and completed so many calls.
    pub fn dropped(&self, completed: u64) {
        self.voice.goodbye(&serde_json::to_vec(&completed).expect("a number"));
    }
}

/// What a rank tells others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// Its error, which ends every call of every rank.
    Failed(Told),
    /// It wants to know whether something happened. The answer is an error, or [`Note::Made`].
    Why,
    /// So many calls it has made.
    Made(u64),
    /// The peers may map memory of its GPU; descriptors go along where they need some.
    Offered { number: u64, how: How },
    /// That was mapped there by the teller.
    Reached { number: u64, address: u64 },
    /// It can't be mapped by the teller.
    Refused { number: u64, message: String },
    /// Nothing of the teller uses these any more.
    Left { numbers: Vec<u64> },
    /// They are not mapped any more, or will not be soon.
    Forgotten,
    /// The teller has closed these, which their owner had to keep for that.
    Closed { numbers: Vec<u64> },
    /// The teller has made these registrations.
    Registered { said: Vec<Said> },
    /// The teller has heard that.
    Noted,
}

/// What memory is mapped by.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum How {
    /// A descriptor for each of these numbers of bytes, one behind the other.
    Pages(Vec<usize>),
    /// What the driver knows a plain allocation by, 64 bytes.
    Allocation { handle: Vec<u8>, bytes: usize },
}

/// What a rank says of a registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Its number, from 0, in the order of the rank.
    pub number: u64,
    pub part: Part,
}

/// A rank's part in a registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub bytes: u64,
    /// Why not all ranks reach it.
    pub refusal: Option<String>,
}

impl Note {
    /// As it travels.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text")
    }

    /// What `peer` told.
    pub fn read(peer: usize, bytes: &[u8]) -> Result<Self, Error> {
        let strange =
            |error| Error::PeerFailed { peer, message: format!("it told what can't be read: {error}") };
        serde_json::from_slice(bytes).map_err(strange)
    }
}

/// The calls that a peer had completed when it was dropped; one that never was whole completed none.
pub(crate) fn completed_in(goodbye: &[u8]) -> u64 {
    serde_json::from_slice(goodbye).unwrap_or(0)
}

/// Where two ranks met, or did not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meant {
    rank: usize,
    peer: usize,
    lane: usize,
    /// Its place in [`WaitingFor::ALL`].
    waiting_for: usize,
    needed: u64,
    seen: u64,
}

/// An error as it travels. Those that have numbers arrive as they were.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Stalled { at: Meant, waited_us: u64, call: u64 },
    Disagreement { rank: usize, peer: usize, lane: usize, call: u64, peer_call: u64 },
    Protocol(Meant),
    PeerGone { rank: usize, peer: usize, calls: u64, completed: u64 },
    PeerDead { rank: usize, peer: usize, reason: String },
    PeerFailed { peer: usize, message: String },
}

impl Told {
    fn of(teller: usize, error: &Error) -> Self {
        match error.clone() {
            Error::Stalled { rank, peer, lane, waiting_for, needed, seen, waited_us, call } => {
                let at = Meant { rank, peer, lane, waiting_for: waiting_for as usize, needed, seen };
                Self::Stalled { at, waited_us, call: call.bits() }
            }
            Error::Disagreement { rank, peer, lane, call, peer_call } => {
                Self::Disagreement { rank, peer, lane, call: call.bits(), peer_call: peer_call.bits() }
            }
            Error::Protocol { rank, peer, lane, waiting_for, needed, seen } => {
                Self::Protocol(Meant { rank, peer, lane, waiting_for: waiting_for as usize, needed, seen })
            }
            Error::PeerGone { rank, peer, calls, completed } => {
                Self::PeerGone { rank, peer, calls, completed }
            }
            Error::PeerDead { rank, peer, reason } => Self::PeerDead { rank, peer, reason },
            Error::PeerFailed { peer, message } => Self::PeerFailed { peer, message },
            other => {
                let message = other.to_string().chars().take(CHARACTERS_MAX).collect();
                Self::PeerFailed { peer: teller, message }
            }
        }
    }

    /// What `teller` told.
    pub fn error(self, teller: usize) -> Error {
        let waiting_for = |number: usize| WaitingFor::ALL.get(number).copied();
        let strange =
            || Error::PeerFailed { peer: teller, message: "it waited for what is not known".into() };
        match self {
            Self::Stalled { at, waited_us, call } => {
                let Meant { rank, peer, lane, needed, seen, .. } = at;
                let Some(waiting_for) = waiting_for(at.waiting_for) else { return strange() };
                let call = CallWord::from_bits(call);
                Error::Stalled { rank, peer, lane, waiting_for, needed, seen, waited_us, call }
            }
            Self::Disagreement { rank, peer, lane, call, peer_call } => {
                let (call, peer_call) = (CallWord::from_bits(call), CallWord::from_bits(peer_call));
                Error::Disagreement { rank, peer, lane, call, peer_call }
            }
            Self::Protocol(at) => {
                let Meant { rank, peer, lane, needed, seen, .. } = at;
                let Some(waiting_for) = waiting_for(at.waiting_for) else { return strange() };
                Error::Protocol { rank, peer, lane, waiting_for, needed, seen }
            }
            Self::PeerGone { rank, peer, calls, completed } => {
                Error::PeerGone { rank, peer, calls, completed }
            }
            Self::PeerDead { rank, peer, reason } => Error::PeerDead { rank, peer, reason },
            Self::PeerFailed { peer, message } => Error::PeerFailed { peer, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn travelled(error: &Error) -> Error {
        match Note::read(3, &Note::Failed(Told::of(3, error)).bytes()) {
            Ok(Note::Failed(told)) => told.error(3),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_arrive_as_they_were() {
        let (call, peer_call) = (CallWord::from_bits(7), CallWord::from_bits(u64::MAX));
        for waiting_for in WaitingFor::ALL {
            let (rank, peer, lane, needed, seen) = (1, 2, 5, u64::MAX, 3);
            let (waited_us, reason) = (9, "\"so\"".to_string());
            for error in [
                Error::Stalled { rank, peer, lane, waiting_for, needed, seen, waited_us, call },
                Error::Disagreement { rank, peer, lane, call, peer_call },
                Error::Protocol { rank, peer, lane, waiting_for, needed, seen },
                Error::PeerGone { rank, peer, calls: 4, completed: 3 },
                Error::PeerDead { rank, peer, reason },
                Error::PeerFailed { peer, message: String::new() },
            ] {
                assert_eq!(travelled(&error), error);
            }
        }
    }

    #[test]
    fn other_errors_arrive_as_words_with_the_rank_that_had_them() {
        let error = travelled(&Error::Task { message: "boom".into() });
        assert_eq!(error.to_string(), "rank 3 failed: a task on the stream panicked: boom");
        let long = travelled(&Error::Task { message: "boom".repeat(1 << 20) });
        assert_eq!(long.to_string().len(), "rank 3 failed: ".len() + CHARACTERS_MAX);
        assert!(matches!(Note::read(2, b"{"), Err(Error::PeerFailed { peer: 2, .. })));
        assert_eq!((completed_in(b"17"), completed_in(b"")), (17, 0));
    }
}
