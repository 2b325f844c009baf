//! What each access does to the memory and to what its thread knows.
//!
//! A load may return any store of its word that coherence and what the thread knows allow; an acquire learns
//! what the store released; a fence acquires what relaxed loads have read and releases for relaxed stores.

use std::rc::Rc;

use super::core::Core;
use super::event::{Action, ThreadId, Violation};
use super::memory::{Address, By, Conflict, Kind, Scope, Store};

/// How a strong load is ordered with what follows it, a strong store with what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not at all.
    Relaxed,
    /// Acquire for a load, release for a store.
    Ordered,
}

impl Core {
    /// The word at `at`, unless the access is wrong; then that is reported.
    fn word(&mut self, id: ThreadId, at: Address, scope: Scope, kind: Kind) -> Option<u32> {
        let place = self.threads[id as usize].place;
        let Ok(word) = self.memory.word(at, &place) else {
            self.report_wild(id, at, 8);
            return None;
        };
        if !self.memory.words[word as usize].spans(&place, scope) {
            let message =
                format!("{}: not every access has a scope that spans all who access it", self.name(at));
            self.fail(Violation::new("scope", message));
            return None;
        }
        self.touch(id, at, 8, kind).then_some(word)
    }

    fn touch(&mut self, id: ThreadId, at: Address, bytes: usize, kind: Kind) -> bool {
        let thread = &self.threads[id as usize];
        match self.memory.touch(at, bytes, By::thread(thread.agent, &thread.view), kind) {
            Ok(Ok(())) => return true,
            Ok(Err(conflict)) => {
                let (agent, what) = (thread.agent, self.name(at));
                self.report_race(agent, conflict, kind, what);
            }
            Err(_) => self.report_wild(id, at, bytes),
        }
        false
    }

    pub(super) fn load(&mut self, id: ThreadId, at: Address, order: Order, scope: Scope) -> u64 {
        let Some(word) = self.word(id, at, scope, Kind::StrongRead) else { return 0 };
        let this = &self.memory.words[word as usize];
        let thread = &mut self.threads[id as usize];
        let oldest = thread.view.seen(word).max(this.first);
        let last = this.last();
        let stale = oldest < last && self.random.chance(self.stale);
        let number = if stale { oldest + self.random.below((last - oldest) as usize) as u32 } else { last };
        let store = &this.stores[(number - this.first) as usize];
        let value = store.value;
        thread.view.raise_seen(word, number);
        if let Some(released) = &store.released {
            if order == Order::Ordered {
                thread.view.join(released);
            } else if !thread.recent.contains(&(word, number)) {
                thread.pending.join(released);
                thread.recent.rotate_right(1);
                thread.recent[0] = (word, number);
            }
        }
        match thread.polled.iter().position(|polled| polled.0 == word) {
            Some(at) => thread.polled[at].1 = number,
            None => thread.polled.push((word, number)),
        }
        self.emit(id, Action::Load { at, value, stale });
        value
    }

    pub(super) fn store(&mut self, id: ThreadId, at: Address, value: u64, order: Order, scope: Scope) {
        let Some(word) = self.word(id, at, scope, Kind::StrongWrite) else { return };
        let thread = &self.threads[id as usize];
        let behind_all = thread.view.seen(word) == self.memory.words[word as usize].last();
        let released = match order {
            Order::Relaxed => thread.released.clone(),
            Order::Ordered => Some(Rc::new(thread.view.clone())),
        };
        self.push(id, at, word, Store { value, released });
        if order == Order::Ordered {
            self.advance(id);
        }
        self.emit(id, Action::Store { at, value, behind_all });
    }

    /// A relaxed exchange at system scope: reads the newest store, and goes on with what that one released.
    pub(super) fn exchange(&mut self, id: ThreadId, at: Address, value: u64) -> u64 {
        let Some(word) = self.word(id, at, Scope::System, Kind::StrongWrite) else { return 0 };
        let last = self.memory.words[word as usize].stores.back().expect("a word has a store");
        let before = last.value;
        let thread = &mut self.threads[id as usize];
        let released = match (&thread.released, &last.released) {
            (Some(mine), Some(theirs)) => {
                let mut both = (**mine).clone();
                both.join(theirs);
                Some(Rc::new(both))
            }
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        if let Some(theirs) = &last.released {
            thread.pending.join(theirs);
        }
        self.push(id, at, word, Store { value, released });
        self.emit(id, Action::Exchange { at, before, value });
        before
    }

    /// Counts a statistic: see [`Thread::tally`](super::Thread::tally). Nobody waits for it, so it wakes nobody, is no
    /// progress, and releases nothing.
    pub(super) fn tally(&mut self, id: ThreadId, total: Address, told: Address, value: u64, step: u64) {
        let Some(word) = self.word(id, total, Scope::System, Kind::StrongWrite) else { return };
        let before = self.memory.words[word as usize].stores.back().expect("a word has a store").value;
        let after = if step == 0 { before.max(value) } else { before.wrapping_add(value) };
        let steps = |value: u64| value.checked_div(step);
        let tells = if step == 0 { after > before } else { steps(after) != steps(before) };
        for at in [Some(total), tells.then_some(told)].into_iter().flatten() {
            let Some(word) = self.word(id, at, Scope::System, Kind::StrongWrite) else { return };
            let _ = self.memory.poke(at, &after.to_le_bytes());
            let number = self.memory.words[word as usize].push(Store { value: after, released: None });
            self.threads[id as usize].view.raise_seen(word, number);
        }
    }

    fn push(&mut self, id: ThreadId, at: Address, word: u32, store: Store) {
        let _ = self.memory.poke(at, &store.value.to_le_bytes());
        let number = self.memory.words[word as usize].push(store);
        self.threads[id as usize].view.raise_seen(word, number);
        self.stored(word);
    }

    /// An acquire and release fence at system scope.
    pub(super) fn fence(&mut self, id: ThreadId) {
        let thread = &mut self.threads[id as usize];
        let pending = std::mem::take(&mut thread.pending);
        thread.view.join(&pending);
        thread.released = Some(Rc::new(thread.view.clone()));
        thread.recent = [(u32::MAX, 0); 4];
        self.advance(id);
        self.emit(id, Action::Fence);
    }

    /// A plain read.
    pub(super) fn read(&mut self, id: ThreadId, at: Address, to: &mut [u8]) {
        if self.touch(id, at, to.len(), Kind::Read) {
            if let Ok(bytes) = self.memory.peek(at, to.len()) {
                to.copy_from_slice(bytes);
            }
            self.emit(id, Action::Read { at, bytes: to.len() as u32 });
        }
    }

    /// A plain write.
    pub(super) fn write(&mut self, id: ThreadId, at: Address, bytes: &[u8]) {
        if self.touch(id, at, bytes.len(), Kind::Write) {
            let mut changed = Vec::new();
            let _ = self.memory.write(at, bytes, |word, number| changed.push((word, number)));
            for (word, number) in changed {
                self.threads[id as usize].view.raise_seen(word, number);
                self.stored(word);
            }
            self.emit(id, Action::Write { at, bytes: bytes.len() as u32 });
        }
    }

    // ---- reports ---------------------------------------------------------------------------------------

    pub(super) fn name(&self, at: Address) -> String {
        match self.memory.segments.get(at.segment()) {
            Some(segment) => format!("{} + {}", segment.name, at.offset()),
            None => format!("{at:?}"),
        }
    }

    pub(super) fn report_wild(&mut self, id: ThreadId, at: Address, bytes: usize) {
        let place = self.threads[id as usize].place;
        let message = format!("{place} accessed {bytes} bytes at {}, beyond its end or askew", self.name(at));
        self.fail(Violation::new("memory", message));
    }

    /// The agent as a person names it.
    fn whose(&self, agent: u32) -> String {
        let thread = &self.threads[self.agents[agent as usize].1 as usize];
        format!("{}{}", if thread.agent == agent { "" } else { "a copy of " }, thread.place)
    }

    pub(super) fn report_race(&mut self, agent: u32, other: Conflict, kind: Kind, what: String) {
        let before = self.whose(other.agent);
        let message = format!(
            "{} {} {what}, which {before} has {}; nothing orders the two",
            self.whose(agent),
            if matches!(kind, Kind::Write | Kind::StrongWrite) { "writes" } else { "reads" },
            if other.wrote { "written" } else { "read" },
        );
        self.fail(Violation::new("race", message));
    }
}
