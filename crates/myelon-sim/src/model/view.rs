//! What a thread knows of the others: the basis of "happens before" and of coherence.

/// For each agent, the last of its steps that is known; for each word, the oldest store that may still be read.
///
/// Both only grow, and one view is learned by another by the larger of each pair. An agent is a thread, or the
/// copies that a thread has issued. `proxied` is what of `clock` has passed a proxy fence, wherever that was:
/// all that bulk copies know.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    clock: Vec<u32>,
    seen: Vec<u32>,
    proxied: Vec<u32>,
}

fn at(list: &[u32], index: u32) -> u32 {
    list.get(index as usize).copied().unwrap_or(0)
}

fn raise(list: &mut Vec<u32>, index: u32, value: u32) {
    let index = index as usize;
    if list.len() <= index {
        list.resize(index + 1, 0);
    }
    list[index] = list[index].max(value);
}

fn join(list: &mut Vec<u32>, other: &[u32]) {
    if list.len() < other.len() {
        list.resize(other.len(), 0);
    }
    for (mine, theirs) in list.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}

impl View {
    /// The last step of `agent` that happened before.
    pub(super) fn clock(&self, agent: u32) -> u32 {
        at(&self.clock, agent)
    }

    /// The oldest store of `word` that may still be read.
    pub(super) fn seen(&self, word: u32) -> u32 {
        at(&self.seen, word)
    }

    pub(super) fn raise_clock(&mut self, agent: u32, clock: u32) {
        raise(&mut self.clock, agent, clock);
    }

    pub(super) fn raise_seen(&mut self, word: u32, store: u32) {
        raise(&mut self.seen, word, store);
    }

    pub(super) fn join(&mut self, other: &Self) {
        join(&mut self.clock, &other.clock);
        join(&mut self.seen, &other.seen);
        join(&mut self.proxied, &other.proxied);
    }

    /// Passes all that is known through a proxy fence.
    pub(super) fn fence_proxy(&mut self) {
        join(&mut self.proxied, &self.clock);
    }

    pub(super) fn raise_proxied(&mut self, agent: u32, clock: u32) {
        raise(&mut self.proxied, agent, clock);
    }

    /// What a bulk copy knows that is issued now by a thread which began with `start`.
    pub(super) fn of_bulk_copy(&self, start: &Self) -> Self {
        let mut clock = start.clock.clone();
        join(&mut clock, &self.proxied);
        Self { clock, ..Self::default() }
    }
}
