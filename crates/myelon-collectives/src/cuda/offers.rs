//! Memory that ranks in other processes map: what is offered to them, and what they said.
//!
//! A rank that allocates gives the descriptor of its memory to every peer; the thread that watches its peers maps it
//! there and answers with the address. So an allocation is no collective call: no peer has to be waited for but by that
//! thread. When nothing of this rank can use the memory any more, it says so, and the peers unmap it as soon as what they
//! had queued by then is done.
//!
//! Everything said is answered, and little of it is unanswered at any time: a socket holds some hundred words, and who
//! does not take them is cut off.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use myelon_kernel::{RankRings, ReachedAt, SharedMemory};
use myelon_meet::Voice;
use myelon_ring::words::RANKS_MAX;

use super::errors::error_of;
use crate::error::Error;
use crate::told::Note;

/// Offers that may be unanswered: each peer holds a descriptor for each, and systems count those under way.
const UNANSWERED_MAX: usize = 4;
/// Numbers that one word names.
const NUMBERS_MAX: usize = 1000;

/// What this rank offers.
pub(super) struct Offers {
    rank: usize,
    ranks: usize,
    voice: Voice,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: Vec<Waiting>,
    /// What nothing uses any more, and the peers do not know yet.
    left: Vec<u64>,
    /// `[ranks]`: these have not answered yet to what was said of such.
    leaving: [bool; RANKS_MAX],
    /// `[ranks]`: nothing is heard from them any more.
    gone: [bool; RANKS_MAX],
    /// The communicator has failed: nobody needs to reach anything.
    ended: bool,
}

impl State {
    /// Nobody answers any more, and nobody needs an answer.
    fn is_over(&self) -> bool {
        self.ended || self.gone.contains(&true)
    }
}

/// An offer that not all peers have answered, or that one has refused.
struct Waiting {
    number: u64,
    /// `[ranks]`: where the rank reaches it, or anything where it refused.
    answers: [Option<u64>; RANKS_MAX],
    refusal: Option<Error>,
    reached_at: ReachedAt,
    /// Nothing uses it any more; the peers hear that when all have answered.
    is_left: bool,
}

impl Waiting {
    fn is_answered_by(&self, ranks: usize) -> bool {
        self.answers[..ranks].iter().all(Option::is_some)
    }
}

impl Offers {
    pub fn new(rank: usize, ranks: usize, voice: Voice) -> Self {
        Self { rank, ranks, voice, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Offers `memory` to all peers; returns the number of the offer. Where a peer is gone or the communicator has failed,
    /// there is nobody to offer it to, and nothing is done. Waits only while many offers are unanswered.
    ///
    /// # Errors
    ///
    /// Those of the driver where it can't be exported, and [`Error::PeerFailed`] where a peer has not answered within
    /// `limit`. The memory is then this rank's alone.
    pub fn make(
        self: &Arc<Self>,
        rings: &RankRings,
        memory: &SharedMemory,
        limit: Duration,
    ) -> Result<Option<u64>, Error> {
        let (handle, bytes) = memory.export().map_err(error_of)?;
        let Some(mut state) = self.lock_with_room(limit)? else { return Ok(None) };
        let number = state.next;
        state.next += 1;
        let mut answers = [None; RANKS_MAX];
        answers[self.rank] = Some(memory.memory().address());
        let reached_at = ReachedAt::default();
        state.waiting.push(Waiting {
            number,
            answers,
            refusal: None,
            reached_at: reached_at.clone(),
            is_left: false,
        });
        drop(state);
        let this = self.clone();
        rings.offer(memory, reached_at, Box::new(move || this.withdraw(number)));
        self.voice.tell(&Note::Offered { number, bytes }.bytes(), &[handle.as_fd()]);
        Ok(Some(number))
    }

    /// The state, once there is room for one more offer; nothing where nobody needs it.
    fn lock_with_room(&self, limit: Duration) -> Result<Option<MutexGuard<'_, State>>, Error> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if state.is_over() {
                return Ok(None);
            }
            let unanswered = state.waiting.iter().filter(|waiting| !waiting.is_answered_by(self.ranks));
            let Some(oldest) = unanswered.clone().nth(UNANSWERED_MAX - 1).and(unanswered.clone().next())
            else {
                return Ok(Some(state));
            };
            state = match limit.checked_sub(start.elapsed()) {
                None => return Err(self.unanswered(oldest, limit)),
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn unanswered(&self, waiting: &Waiting, limit: Duration) -> Error {
        let peer = waiting.answers.iter().position(Option::is_none).unwrap_or(self.rank);
        let message = format!("it did not map memory of rank {} within {limit:?}", self.rank);
        Error::PeerFailed { peer, message }
    }

    /// Returns when all peers have answered offer `number`, or every offer, and mapped it; or when nobody needs to any more.
    ///
    /// # Errors
    ///
    /// [`Error::PeerFailed`] where a peer can't map it, or does not answer within `limit`.
    pub fn wait(&self, number: Option<u64>, limit: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            let mut asked =
                state.waiting.iter().filter(|waiting| number.is_none_or(|it| it == waiting.number));
            let Some(waiting) = asked.next().filter(|_| !state.is_over()) else { return Ok(()) };
            if let Some(refusal) = &waiting.refusal {
                return Err(refusal.clone());
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                return Err(self.unanswered(waiting, limit));
            };
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nothing of this rank uses offer `number` any more.
    fn withdraw(&self, number: u64) {
        let mut state = self.lock();
        match state.waiting.iter_mut().find(|waiting| waiting.number == number) {
            Some(waiting) => waiting.is_left = true,
            None => state.left.push(number),
        }
        self.settle(state);
    }

    /// Takes out what all have answered and nobody asks for any more.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let is_settled = |waiting: &mut Waiting| {
            waiting.is_answered_by(self.ranks) && (waiting.is_left || waiting.refusal.is_none())
        };
        let settled: Vec<Waiting> = state.waiting.extract_if(.., is_settled).collect();
        for waiting in settled {
            if waiting.is_left {
                state.left.push(waiting.number);
            } else {
                let _ = waiting.reached_at.set(waiting.answers.map(Option::unwrap_or_default));
            }
        }
        self.changed.notify_all();
        self.tell_left(state);
    }

    /// Tells the peers what nothing uses any more, unless one has not answered to that yet.
    fn tell_left(&self, mut state: MutexGuard<'_, State>) {
        if state.left.is_empty() || state.leaving.contains(&true) || state.is_over() {
            return;
        }
        let first = state.left.len().saturating_sub(NUMBERS_MAX);
        let numbers = state.left.split_off(first);
        (0..self.ranks).for_each(|peer| state.leaving[peer] = peer != self.rank);
        drop(state);
        self.voice.tell(&Note::Left { numbers }.bytes(), &[]);
    }

    /// `peer` said something about memory.
    pub fn hear(&self, rings: &RankRings, peer: usize, note: Note, fds: &[OwnedFd]) {
        match note {
            Note::Offered { number, bytes } => {
                let reached = match fds {
                    [handle] => {
                        rings.reach(peer, number, handle.as_fd(), bytes).map_err(|error| error.to_string())
                    }
                    _ => Err(format!("{} descriptors came with the offer", fds.len())),
                };
                let answer = match reached {
                    Ok(address) => Note::Reached { number, address },
                    Err(message) => Note::Refused { number, message },
                };
                self.voice.tell_one(peer, &answer.bytes());
            }
            Note::Left { numbers } => {
                rings.leave(peer, &numbers);
                self.voice.tell_one(peer, &Note::Forgotten.bytes());
            }
            Note::Forgotten => {
                let mut state = self.lock();
                state.leaving[peer] = false;
                self.tell_left(state);
            }
            Note::Reached { number, address } => self.answered(peer, number, Ok(address)),
            Note::Refused { number, message } => self.answered(peer, number, Err(message)),
            Note::Failed(_) | Note::Why | Note::Made(_) => {}
        }
    }

    fn answered(&self, peer: usize, number: u64, answer: Result<u64, String>) {
        let mut state = self.lock();
        let Some(waiting) = state.waiting.iter_mut().find(|waiting| waiting.number == number) else { return };
        waiting.answers[peer] = Some(*answer.as_ref().unwrap_or(&0));
        if let Err(reason) = answer {
            let message = format!("it can't reach memory of rank {}: {reason}", self.rank);
            tracing::debug!(peer, message);
            waiting.refusal = Some(Error::PeerFailed { peer, message });
        }
        self.settle(state);
    }

    /// Nothing is heard from `peer` any more.
    pub fn gone(&self, peer: usize) {
        self.lock().gone[peer] = true;
        self.changed.notify_all();
    }

    /// The communicator has failed.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but where the state is broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
