//! Memory that ranks in other processes map: what is offered to them, and what they said.
//!
//! A rank that allocates gives the descriptor of its memory to every peer; the thread that watches its peers maps it
//! there and answers with the address. So an allocation is no collective call: no peer has to be waited for but by that
//! thread. When nothing of this rank can use the memory any more, it says so, and the peers unmap it as soon as what they
//! had queued by then is done. A plain allocation of somebody else is kept beyond that, until the peers say that they have
//! closed it, for the driver does not do so by itself.
//!
//! Everything said is answered, and little of it is unanswered at any time: a socket holds some hundred words, and who
//! does not take them is cut off.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use myelon_kernel::{Exported, Handles, Operand, PeerMemory, RankRings, ReachedAt, SharedMemory, drop_aside};
use myelon_meet::{Voice, Watch};
use myelon_ring::words::RANKS_MAX;

use super::errors::error_of;
use super::lent::{Lent, Lents};
use crate::error::Error;
use crate::told::{How, Note};

/// Offers that may be unanswered: each peer holds descriptors for each, and systems count those under way.
const UNANSWERED_MAX: usize = 4;
/// Descriptors of such offers together.
const DESCRIPTORS_MAX: usize = 16;
/// Numbers that one word names.
const NUMBERS_MAX: usize = 1000;
/// How long a rank that is dropped waits for what it has of peers to be closed: by other threads, and behind streams that
/// were busy when it was left.
const CLOSING_MAX: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// What this rank offers.
pub(super) struct Offers {
    rank: usize,
    ranks: usize,
    voice: Voice,
    state: Mutex<State>,
    changed: Condvar,
    /// Whether this rank still maps what is offered; held while it does.
    is_open: Mutex<bool>,
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
    /// How many times memory of peers was left that may not be closed yet.
    closing: usize,
    /// The communicator has failed: nobody needs to reach anything.
    ended: bool,
    lent: Lents,
    /// The rank is dropped, and this hears what becomes of what it lent.
    watch: Option<Watch>,
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
    /// How far in what the peers map the memory begins.
    offset: u64,
    /// Descriptors that went along.
    descriptors: usize,
    /// Is told what came of it, where that is a registration; else the refusal is kept for who waits.
    done: Option<Done>,
}

impl Waiting {
    fn is_answered_by(&self, ranks: usize) -> bool {
        self.answers[..ranks].iter().all(Option::is_some)
    }
}

/// What is told whether all peers have mapped an offer, or why not.
pub(super) type Done = Box<dyn FnOnce(Result<(), String>) + Send + Sync>;

impl Offers {
    pub fn new(rank: usize, ranks: usize, voice: Voice) -> Self {
        let is_open = Mutex::new(true);
        Self { rank, ranks, voice, state: Mutex::default(), changed: Condvar::new(), is_open }
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
        let exported = memory.export().map_err(error_of)?;
        let Some(state) = self.lock_with_room(&exported, limit)? else { return Ok(None) };
        Ok(Some(self.offer(state, rings, memory, &exported, None, None)))
    }

    /// Offers `memory`, which `keeps` keeps and somebody else allocated, to all peers. `done` is told what came of it, at
    /// once or by the thread that watches. Waits only while many offers are unanswered.
    pub fn lend(
        self: &Arc<Self>,
        rings: &RankRings,
        memory: &SharedMemory,
        keeps: Operand,
        limit: Duration,
        done: Done,
    ) {
        let exported = match memory.export() {
            Ok(exported) => exported,
            Err(error) => return done(Err(error.to_string())),
        };
        match self.lock_with_room(&exported, limit) {
            Err(error) => done(Err(error.to_string())),
            Ok(None) => done(Err("a rank is gone".into())),
            Ok(Some(state)) => {
                let keeps = matches!(exported.handles, Handles::Allocation { .. }).then_some(keeps);
                self.offer(state, rings, memory, &exported, keeps, Some(done));
            }
        }
    }

    fn offer(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        rings: &RankRings,
        memory: &SharedMemory,
        exported: &Exported,
        keeps: Option<Operand>,
        done: Option<Done>,
    ) -> u64 {
        let (number, offset) = (state.next, exported.offset);
        state.next += 1;
        let mut answers = [None; RANKS_MAX];
        answers[self.rank] = Some(memory.address());
        let reached_at = ReachedAt::default();
        state.waiting.push(Waiting {
            number,
            answers,
            refusal: None,
            reached_at: reached_at.clone(),
            is_left: false,
            offset,
            descriptors: descriptors_of(exported),
            done,
        });
        if keeps.is_some() {
            let (rank, gone) = (self.rank, state.gone);
            state.lent.add(number, (0..self.ranks).filter(|&peer| peer != rank && !gone[peer]));
        }
        drop(state);
        let this = self.clone();
        rings.offer(memory, reached_at, Box::new(move || this.withdraw(number, keeps)));
        let (how, handles): (How, Vec<BorrowedFd<'_>>) = match &exported.handles {
            Handles::Allocation { handle, bytes } => {
                (How::Allocation { handle: handle.to_vec(), bytes: *bytes }, Vec::new())
            }
            Handles::Pages(pages) => {
                let sizes = pages.iter().map(|(_, bytes)| *bytes).collect();
                (How::Pages(sizes), pages.iter().map(|(handle, _)| handle.as_fd()).collect())
            }
        };
        self.voice.tell(&Note::Offered { number, how }.bytes(), &handles);
        number
    }

    /// The state, once there is room for one more offer; nothing where nobody needs it.
    fn lock_with_room(
        &self,
        exported: &Exported,
        limit: Duration,
    ) -> Result<Option<MutexGuard<'_, State>>, Error> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if state.is_over() {
                return Ok(None);
            }
            let unanswered = state.waiting.iter().filter(|waiting| !waiting.is_answered_by(self.ranks));
            let under_way: usize = unanswered.clone().map(|waiting| waiting.descriptors).sum();
            let is_full = unanswered.clone().count() >= UNANSWERED_MAX
                || under_way > 0 && under_way + descriptors_of(exported) > DESCRIPTORS_MAX;
            let Some(oldest) = unanswered.clone().next().filter(|_| is_full) else {
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
            let mut asked = state
                .waiting
                .iter()
                .filter(|it| !it.is_left && number.is_none_or(|number| number == it.number));
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

    /// Nothing of this rank uses offer `number` any more; what `keeps` it is dropped when no peer has it open.
    fn withdraw(&self, number: u64, keeps: Option<Operand>) {
        let mut state = self.lock();
        state.lent.keep(number, keeps);
        let done = match state.waiting.iter_mut().find(|waiting| waiting.number == number) {
            Some(waiting) => {
                waiting.is_left = true;
                waiting.done.take()
            }
            None => {
                state.left.push(number);
                None
            }
        };
        self.settle(state).into_iter().for_each(drop_aside);
        if let Some(done) = done {
            done(Err("it was dropped before all ranks had mapped it".into()));
        }
    }

    /// Takes out what all have answered and nobody asks for any more, and what nobody has open, which is returned.
    #[must_use]
    fn settle(&self, mut state: MutexGuard<'_, State>) -> Vec<Lent> {
        let closed = state.lent.take_closed();
        let is_settled = |waiting: &mut Waiting| {
            waiting.is_answered_by(self.ranks) && (waiting.is_left || waiting.refusal.is_none())
        };
        let settled: Vec<Waiting> = state.waiting.extract_if(.., is_settled).collect();
        let mut reached = Vec::new();
        for waiting in settled {
            if waiting.is_left {
                state.left.push(waiting.number);
            } else {
                let _ = waiting.reached_at.set(waiting.answers.map(Option::unwrap_or_default));
                reached.extend(waiting.done);
            }
        }
        self.changed.notify_all();
        self.tell_left(state);
        // Without the lock: registrations have one of their own, and another memory may be withdrawn by what is dropped.
        reached.into_iter().for_each(|done| done(Ok(())));
        closed
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
    pub fn hear(self: &Arc<Self>, rings: &RankRings, peer: usize, note: Note, fds: &[OwnedFd]) {
        match note {
            Note::Offered { number, how } => {
                let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
                let mapped = if *is_open { map(rings, how, fds) } else { Err("it is dropped".into()) };
                let answer = match mapped {
                    Ok(memory) => {
                        let address = memory.address();
                        rings.keep(peer, number, memory);
                        Note::Reached { number, address }
                    }
                    Err(message) => Note::Refused { number, message },
                };
                self.voice.tell_one(peer, &answer.bytes());
            }
            Note::Left { numbers } => {
                self.leave(rings, peer, &numbers);
                self.voice.tell_one(peer, &Note::Forgotten.bytes());
            }
            Note::Closed { numbers } => self.closed(peer, &numbers),
            Note::Forgotten => {
                let mut state = self.lock();
                state.leaving[peer] = false;
                self.tell_left(state);
            }
            Note::Reached { number, address } => self.answered(peer, number, Ok(address)),
            Note::Refused { number, message } => self.answered(peer, number, Err(message)),
            Note::Failed(_) | Note::Why | Note::Made(_) | Note::Registered { .. } | Note::Noted => {}
        }
    }

    fn answered(&self, peer: usize, number: u64, answer: Result<u64, String>) {
        let mut state = self.lock();
        state.lent.answered(number, peer, answer.is_ok());
        let mut refused = None;
        if let Some(waiting) = state.waiting.iter_mut().find(|waiting| waiting.number == number) {
            let address = answer.as_ref().copied().unwrap_or(0);
            waiting.answers[peer] = Some(address.wrapping_add(waiting.offset));
            if let Err(reason) = answer {
                if let Some(done) = waiting.done.take() {
                    // Nobody will reach it, so those who have mapped it may leave it.
                    waiting.is_left = true;
                    refused = Some((done, format!("rank {peer} can't map it: {reason}")));
                } else if !waiting.is_left {
                    let message = format!("it can't reach memory of rank {}: {reason}", self.rank);
                    tracing::debug!(peer, message);
                    waiting.refusal = Some(Error::PeerFailed { peer, message });
                }
            }
        }
        self.settle(state).into_iter().for_each(drop_aside);
        if let Some((done, reason)) = refused {
            done(Err(reason));
        }
    }

    /// `peer` has closed those of `numbers`.
    fn closed(&self, peer: usize, numbers: &[u64]) {
        let mut state = self.lock();
        state.lent.closed(peer, numbers);
        self.release(state);
    }

    /// Nothing is heard from `peer` any more; `is_dead` where its process has ended.
    pub fn gone(&self, peer: usize, is_dead: bool) {
        let mut state = self.lock();
        state.gone[peer] = true;
        state.lent.gone(peer, is_dead);
        let unanswered = state.waiting.iter_mut().filter(|waiting| waiting.answers[peer].is_none());
        let unanswered: Vec<Done> = unanswered.filter_map(|waiting| waiting.done.take()).collect();
        self.changed.notify_all();
        self.release(state);
        for done in unanswered {
            done(Err(format!("rank {peer} is gone")));
        }
    }

    /// Drops what no peer has open any more, and the watch that waited for that.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let closed = state.lent.take_closed();
        let is_over = !state.lent.are_open();
        let watch = state.watch.take_if(|_| is_over);
        drop(state);
        closed.into_iter().for_each(drop_aside);
        drop(watch);
    }

    /// Leaves what `peer` calls by one of `numbers`, and tells it what it may free then.
    fn leave(self: &Arc<Self>, rings: &RankRings, peer: usize, numbers: &[u64]) {
        rings.leave(peer, numbers, self.closing(peer));
    }

    /// The same with all that is `peer`'s; at once where no call of this rank is under way.
    pub fn leave_all(self: &Arc<Self>, rings: &RankRings, peer: usize, is_idle: bool) {
        rings.leave_all(peer, is_idle, self.closing(peer));
    }

    /// Tells `peer` what of its own was closed.
    fn closing(self: &Arc<Self>, peer: usize) -> impl FnOnce(Vec<u64>) + Send + Sync + 'static {
        let closing = Closing::begin(self);
        move |numbers: Vec<u64>| {
            for numbers in numbers.chunks(NUMBERS_MAX) {
                let closed = Note::Closed { numbers: numbers.to_vec() };
                closing.0.voice.tell_one(peer, &closed.bytes());
            }
        }
    }

    /// The rank is about to say goodbye: maps nothing any more, and leaves all that is of peers where it `is_idle`. What
    /// is closed after the goodbye is not heard of, so it waits a moment for what other threads are closing just now.
    pub fn close(self: &Arc<Self>, rings: &RankRings, is_idle: bool) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
        if !is_idle {
            return;
        }
        (0..self.ranks).filter(|&peer| peer != self.rank).for_each(|peer| self.leave_all(rings, peer, true));
        let start = Instant::now();
        while self.lock().closing > 0 && start.elapsed() < CLOSING_MAX {
            std::thread::sleep(LOOK);
            myelon_kernel::reap();
        }
    }

    /// The rank is dropped, and has said goodbye: `watch` stays as long as peers have something open that is to be kept.
    pub fn outlive(&self, watch: Watch) {
        let mut state = self.lock();
        state.ended = true;
        state.watch = Some(watch);
        self.release(state);
    }

    /// Whether a peer is gone or the communicator has failed: then nobody answers any more, and nobody needs an answer.
    pub fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    /// Whether the rank is being dropped, or is: then peers are only heard until they have closed what it lent.
    pub fn is_closed(&self) -> bool {
        !*self.is_open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn voice(&self) -> &Voice {
        &self.voice
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

/// Memory of peers that was left, and may not be closed until this is dropped.
struct Closing(Arc<Offers>);

impl Closing {
    fn begin(offers: &Arc<Offers>) -> Self {
        offers.lock().closing += 1;
        Self(offers.clone())
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().closing -= 1;
    }
}

fn descriptors_of(exported: &Exported) -> usize {
    match &exported.handles {
        Handles::Pages(pages) => pages.len(),
        Handles::Allocation { .. } => 0,
    }
}

/// Maps what a peer offers, with the descriptors that came along.
fn map(rings: &RankRings, how: How, fds: &[OwnedFd]) -> Result<PeerMemory, String> {
    let mapped = match how {
        How::Pages(sizes) if sizes.len() == fds.len() => {
            let pages: Vec<_> = fds.iter().map(AsFd::as_fd).zip(sizes).collect();
            PeerMemory::import_all(rings.device(), &pages)
        }
        How::Allocation { handle, bytes } if fds.is_empty() => match handle.try_into() {
            Ok(handle) => PeerMemory::open(rings.device(), handle, bytes),
            Err(_) => return Err("the handle is not one of 64 bytes".into()),
        },
        _ => return Err(format!("{} descriptors came with the offer", fds.len())),
    };
    mapped.map_err(|error| error.to_string())
}
