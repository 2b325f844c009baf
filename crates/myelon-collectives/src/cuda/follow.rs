//! Nobody need wait for a GPU's calls, so one thread of the process looks how far they have come: for the record, and to
//! free memory that was dropped while calls still used it, here or at a peer that waits to hear of it.
//!
//! It costs a call nothing. A few times a second the thread asks for the end of what each rank has called by then, by
//! one event of its own, and never waits for a rank that makes a call just then. It sleeps while there are no ranks.

use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use myelon_kernel::{DeviceEvent, StreamUse, leave_captures_alone, reap};
use myelon_recorder::Waits;
use myelon_ring::words::WaitCounts;

use super::{Member, Shared};
use crate::error::Error;

/// How often the thread looks.
const TICK: Duration = Duration::from_millis(250);

/// The end of a rank's calls up to a number, which the GPU has not come to.
pub(super) struct Asked {
    number: u64,
    end: Arc<DeviceEvent>,
}

/// Whose ranks are followed.
pub(super) trait Followed: Send + Sync {
    /// Looks at `rank`; what was asked for stays for the next look.
    fn look(&self, rank: usize, asked: &mut Option<Asked>);
}

struct Entry {
    id: u64,
    followed: Arc<dyn Followed>,
    rank: usize,
    asked: Option<Asked>,
}

#[derive(Default)]
struct Ranks {
    entries: Vec<Entry>,
    next_id: u64,
}

/// The ranks of a process, and the thread that looks at them.
#[derive(Default)]
struct Follower {
    ranks: Mutex<Ranks>,
    woken: Condvar,
}

/// The follower of this process; none where it could have no thread.
fn follower() -> Option<&'static Follower> {
    static FOLLOWER: LazyLock<Follower> = LazyLock::new(Follower::default);
    static IS_STARTED: LazyLock<bool> = LazyLock::new(|| {
        let thread = std::thread::Builder::new().name("myelon record".into());
        let body = || {
            if let Err(error) = leave_captures_alone() {
                return tracing::debug!(%error, "calls that nobody waits for are recorded as made, not as complete, and memory is freed by the next that is");
            }
            FOLLOWER.look()
        };
        thread.spawn(body).is_ok()
    });
    IS_STARTED.then_some(&*FOLLOWER)
}

/// A rank that is followed until this is dropped. Dropping it waits for a look that is under way.
pub(super) struct Following(Option<(&'static Follower, u64)>);

impl Following {
    pub fn begin(followed: Arc<dyn Followed>, rank: usize) -> Self {
        let Some(follower) = follower() else { return Self(None) };
        let mut ranks = follower.lock();
        let id = ranks.next_id;
        ranks.next_id += 1;
        ranks.entries.push(Entry { id, followed, rank, asked: None });
        follower.woken.notify_one();
        Self(Some((follower, id)))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some((follower, id)) = self.0 {
            let mut ranks = follower.lock();
            let entry = ranks.entries.iter().position(|entry| entry.id == id);
            let entry = entry.map(|at| ranks.entries.swap_remove(at));
            drop(ranks);
            // The driver gives its event back, with nothing locked.
            drop(entry);
        }
    }
}

impl Follower {
    fn lock(&self) -> MutexGuard<'_, Ranks> {
        // A look that panicked has left every entry whole.
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        loop {
            let mut ranks = self.lock();
            while ranks.entries.is_empty() {
                ranks = self.woken.wait(ranks).unwrap_or_else(PoisonError::into_inner);
            }
            for entry in &mut ranks.entries {
                entry.followed.look(entry.rank, &mut entry.asked);
            }
            drop(ranks);
            reap();
            std::thread::sleep(TICK);
        }
    }
}

impl Shared {
    /// Records what the kernels of `rank` have told of their waits. No driver call.
    pub(super) fn tell_waits(&self, rank: usize) {
        let WaitCounts { polls_data, polls_credit, longest_ns } = self.member(rank).rings.waits(rank);
        let waits = Waits { polls_data, polls_credit, longest_ns, ..Waits::default() };
        self.member(rank).record.waited_in_all(&waits);
    }

    /// Asks for the end of the calls that `rank` has made, if there are any that are not known to be complete.
    fn ask(&self, rank: usize) -> Option<Asked> {
        // Whoever makes a call holds it.
        let last_call = self.member(rank).last_call.try_lock().ok()?;
        let number = self.group.calls_made(rank);
        if number <= self.member(rank).record.calls_done() {
            return None;
        }
        let work = last_call.clone()?;
        drop(last_call);
        if let StreamUse::Ours(stream) = &work
            && stream.is_captured() != Ok(false)
        {
            return None;
        }
        match work.ended() {
            Ok(StreamUse::Theirs { end }) => Some(Asked { number, end }),
            _ => None,
        }
    }

    /// The error that ends every call, as far as it can be seen: whoever calls next finds it, and ends the rest.
    fn error_seen(&self) -> Option<Error> {
        self.group.first_error().cloned().or_else(|| self.fault())
    }
}

impl Followed for Shared {
    fn look(&self, rank: usize, asked: &mut Option<Asked>) {
        let Member { rings, record, .. } = self.member(rank);
        self.tell_waits(rank);
        if asked.is_none() && self.error_seen().is_none() && rings.fault(rank).is_none() {
            *asked = self.ask(rank);
        }
        let ended = asked.as_ref().map(|asked| (asked.number, asked.end.query()));
        // Looked for behind the question: a kernel that gives up has said so before it ends.
        if let Some(error) = self.error_seen() {
            record.failed(&error, false);
            *asked = None;
        } else if let Some((number, Ok(true))) = ended {
            // Told to stop by a rank in another process, which has not said why.
            if rings.fault(rank).is_none() {
                record.done_to(number);
            }
            *asked = None;
        } else if let Some((_, Err(_))) = ended {
            // Somebody's capture may have come between; the next look asks again.
            *asked = None;
        }
    }
}
