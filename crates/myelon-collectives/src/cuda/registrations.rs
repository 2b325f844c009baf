//! What the ranks of a communicator say of their registrations, until all have said it.
//!
//! Registrations are numbered by each rank, from 0. When all ranks have said their part in a number, its outcome is
//! settled, by the same rule everywhere: the parts differ in bytes, or one of them can't be reached by all, or it is shared.
//! Ranks of one process say it into the same table. Ranks that are processes tell it: as many at once as there are, and
//! then no more until all peers have noted those, so that a socket never fills.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use myelon_meet::Voice;
use myelon_ring::words::RANKS_MAX;

use super::Shared;
use crate::backend::Agreement;
use crate::error::Error;
use crate::told::{Note, Part, Said};

/// How often a rank that waits looks whether something happened.
const LOOK: Duration = Duration::from_millis(20);
/// Registrations that one word tells.
const SAID_MAX: usize = 100;
/// Characters of a reason that travel.
const REASON_MAX: usize = 500;

/// Nothing where all ranks reach the memory, or why they do not; or how the ranks disagree.
type Outcome = Result<Option<String>, Error>;

/// The registrations of a communicator, as far as this process knows.
pub(super) struct Registrations {
    ranks: usize,
    /// Of this process, where the others are other processes.
    teller: Option<(usize, Voice)>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `[ranks]`: the number of the next registration.
    next: [u64; RANKS_MAX],
    /// Those that not all ranks have said, by number.
    open: BTreeMap<u64, Open>,
    /// What the peers do not know yet.
    untold: Vec<Said>,
    /// `[ranks]`: these have not noted yet what was told last.
    telling: [bool; RANKS_MAX],
    /// `[ranks]`: nothing is heard from them any more.
    gone: [bool; RANKS_MAX],
}

#[derive(Default)]
struct Open {
    /// `[ranks]`.
    said: [Option<Part>; RANKS_MAX],
    outcome: Arc<OnceLock<Outcome>>,
}

impl Registrations {
    /// Of `ranks` ranks; `teller` is the one of this process where the others are processes.
    pub fn new(ranks: usize, teller: Option<(usize, Voice)>) -> Arc<Self> {
        Arc::new(Self { ranks, teller, state: Mutex::default(), changed: Condvar::new() })
    }

    /// The next registration of `rank`; its part is to be said, whatever happens.
    pub fn begin(&self, shared: &Arc<Shared>, rank: usize) -> Registration {
        let mut state = self.lock();
        let number = state.next[rank];
        state.next[rank] += 1;
        let outcome = state.open.entry(number).or_default().outcome.clone();
        Registration { shared: Arc::downgrade(shared), rank, number, outcome }
    }

    /// `rank`, which is of this process, says its part in registration `number`.
    pub fn say(&self, rank: usize, number: u64, bytes: u64, reached: Result<(), String>) {
        let refusal = reached.err().map(|reason| reason.chars().take(REASON_MAX).collect());
        let part = Part { bytes, refusal };
        let mut state = self.lock();
        if self.teller.is_some() {
            state.untold.push(Said { number, part: part.clone() });
        }
        self.take(&mut state, rank, number, part);
        self.tell(state);
    }

    /// `peer`, which is another process, said its part in some.
    pub fn hear(&self, peer: usize, said: Vec<Said>) {
        let mut state = self.lock();
        for Said { number, part } in said {
            self.take(&mut state, peer, number, part);
        }
    }

    /// `peer` has noted what was told last.
    pub fn noted(&self, peer: usize) {
        let mut state = self.lock();
        state.telling[peer] = false;
        self.tell(state);
    }

    /// Nothing is heard from `peer` any more.
    pub fn gone(&self, peer: usize) {
        self.lock().gone[peer] = true;
        self.noted(peer);
    }

    fn take(&self, state: &mut State, rank: usize, number: u64, part: Part) {
        let open = state.open.entry(number).or_default();
        open.said[rank] = Some(part);
        let said = &open.said[..self.ranks];
        if let Some(parts) = said.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() {
            let outcome = settled(number, &parts);
            match &outcome {
                Ok(None) => tracing::info!(number, bytes = parts[0].bytes, "registered memory is shared"),
                Ok(Some(reason)) => {
                    tracing::info!(number, bytes = parts[0].bytes, reason, "registered memory is staged");
                }
                Err(error) => tracing::warn!(number, %error, "registrations differ"),
            }
            let _ = open.outcome.set(outcome);
            state.open.remove(&number);
            self.changed.notify_all();
        }
    }

    /// Tells the peers what they do not know, unless one has not noted the last of it.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let Some((rank, voice)) = &self.teller else { return };
        if state.untold.is_empty() || state.telling.contains(&true) {
            return;
        }
        let most = state.untold.len().min(SAID_MAX);
        let said = state.untold.drain(..most).collect();
        for peer in 0..self.ranks {
            state.telling[peer] = peer != *rank && !state.gone[peer];
        }
        // Before another thread can tell the next ones.
        voice.tell(&Note::Registered { said }.bytes(), &[]);
    }

    /// The first rank that has not said its part in registration `number`.
    fn missing(&self, state: &State, number: u64) -> Option<usize> {
        state.open.get(&number)?.said[..self.ranks].iter().position(Option::is_none)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but where the state is broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes of registration `number` by the `parts` of all ranks.
fn settled(number: u64, parts: &[&Part]) -> Outcome {
    let bytes = parts[0].bytes;
    if let Some(peer) = parts.iter().position(|part| part.bytes != bytes) {
        let peer_bytes = parts[peer].bytes;
        return Err(Error::RegistrationsDiffer { number, rank: 0, bytes, peer, peer_bytes });
    }
    let refused = |(rank, part): (usize, &&Part)| {
        part.refusal.as_ref().map(|why| format!("memory of rank {rank} can't be shared: {why}"))
    };
    Ok(parts.iter().enumerate().find_map(refused))
}

/// One registration of a rank of this process.
#[derive(Clone)]
pub(super) struct Registration {
    /// Not kept alive by the memory.
    shared: Weak<Shared>,
    rank: usize,
    pub number: u64,
    outcome: Arc<OnceLock<Outcome>>,
}

impl Registration {
    /// Whether it is one of `rank` in the communicator of `shared`.
    pub fn belongs_to(&self, shared: &Arc<Shared>, rank: usize) -> bool {
        std::ptr::eq(self.shared.as_ptr(), Arc::as_ptr(shared)) && self.rank == rank
    }

    /// Why it is staged, once that is settled.
    pub fn staged(&self) -> Option<&str> {
        self.outcome.get()?.as_ref().ok()?.as_deref()
    }

    fn missing(&self, peer: usize, waited: Duration, is_dropped: bool) -> Error {
        let waited_us = waited.as_micros() as u64;
        Error::Unregistered { rank: self.rank, peer, number: self.number, waited_us, is_dropped }
    }
}

impl Agreement for Registration {
    fn settle(&self) -> Outcome {
        let start = Instant::now();
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            let waited = start.elapsed();
            let Some(shared) = self.shared.upgrade() else {
                return Err(self.missing(self.rank, waited, true));
            };
            if let Some(first) = shared.first_error() {
                return Err(Error::Poisoned { first: Arc::new(first) });
            }
            let registrations = &shared.registrations;
            let state = registrations.lock();
            let Some(missing) = registrations.missing(&state, self.number) else { continue };
            let left = shared.deadline.checked_sub(waited).filter(|_| !shared.group.is_dropped(missing));
            let Some(left) = left else {
                drop(state);
                if let (true, Some(offers)) = (missing == self.rank, &shared.offers) {
                    // It is a peer that has not answered.
                    offers.wait(None, Duration::ZERO)?;
                }
                // What was said last, before that.
                if self.outcome.get().is_some() {
                    continue;
                }
                return Err(self.missing(missing, waited, shared.group.is_dropped(missing)));
            };
            drop(registrations.changed.wait_timeout(state, left.min(LOOK)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: u64, refusal: Option<&str>) -> Part {
        Part { bytes, refusal: refusal.map(String::from) }
    }

    #[test]
    fn what_is_settled_is_the_same_whoever_asks() {
        let (shared, refused, other) = (part(8, None), part(8, Some("it is of a pool")), part(9, None));
        assert_eq!(settled(0, &[&shared, &shared]), Ok(None));
        let reason = "memory of rank 1 can't be shared: it is of a pool".to_string();
        assert_eq!(settled(0, &[&shared, &refused, &refused]), Ok(Some(reason)));
        let differ = Error::RegistrationsDiffer { number: 3, rank: 0, bytes: 8, peer: 2, peer_bytes: 9 };
        assert_eq!(settled(3, &[&refused, &shared, &other]), Err(differ.clone()));
        assert_eq!(
            differ.to_string(),
            "rank 0 registers 8 bytes as its number 3, but rank 2 registers 9 bytes"
        );
    }

    #[test]
    fn parts_may_be_said_in_any_order_and_before_this_rank_begins() {
        let registrations = Registrations::new(2, None);
        registrations.hear(1, vec![Said { number: 1, part: part(8, None) }]);
        registrations.say(0, 1, 8, Ok(()));
        assert!(registrations.lock().open.is_empty());
        registrations.say(0, 0, 4, Err("why".repeat(1000)));
        assert_eq!(registrations.missing(&registrations.lock(), 0), Some(1));
        let outcome = registrations.lock().open[&0].outcome.clone();
        registrations.hear(1, vec![Said { number: 0, part: part(4, None) }]);
        let reason = outcome.get().unwrap().clone().unwrap().unwrap();
        assert!(
            reason.starts_with("memory of rank 0 can't be shared: why") && reason.len() < 600,
            "{reason}"
        );
    }
}
