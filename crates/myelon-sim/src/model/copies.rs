//! Asynchronous copies: issued by a thread, done by the machine, finished as late as they may be.
//!
//! A copy reads its source and writes its destination as two agents of its own. Waiting for the reads of a
//! group (`.read`) orders only the reads before the waiter; waiting for the group orders both. So a source
//! that is written too early, and a destination that is read or announced too early, are races. Copies of one
//! thread are not ordered among themselves: what one of them wrote, the next finds only behind a wait.

use std::collections::VecDeque;

use super::core::Core;
use super::event::{Action, ThreadId};
use super::memory::{Address, By, Kind};

/// Which unit of the machine does the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// `cp.async`: of the thread's own proxy, so it knows what the thread knows.
    Thread,
    /// `cp.async.bulk`: of the asynchronous proxy. It knows what the thread knew at its last proxy fence.
    Bulk,
}

struct Copy {
    from: Address,
    to: Address,
    bytes: usize,
    /// The source, where its reads were waited for before the writes were.
    read: Option<Vec<u8>>,
}

struct Group {
    clock: u32,
    copies: Vec<Copy>,
}

/// The copies of one thread.
pub(super) struct Copies {
    reader: u32,
    writer: u32,
    clock: u32,
    open: Vec<Copy>,
    groups: VecDeque<Group>,
}

impl Core {
    fn copies_of(&mut self, id: ThreadId) -> &mut Copies {
        if self.threads[id as usize].copies.is_none() {
            let (reader, writer) = (self.new_agent(id), self.new_agent(id));
            let copies = Copies { reader, writer, clock: 1, open: Vec::new(), groups: VecDeque::new() };
            self.threads[id as usize].copies = Some(Box::new(copies));
        }
        self.threads[id as usize].copies.as_mut().expect("it was just made")
    }

    /// Issues a copy into the group that is open.
    pub(super) fn copy(&mut self, id: ThreadId, kind: CopyKind, to: Address, from: Address, bytes: usize) {
        let &mut Copies { reader, writer, clock, .. } = self.copies_of(id);
        let thread = &self.threads[id as usize];
        let view = match kind {
            CopyKind::Thread => &thread.view,
            CopyKind::Bulk => &*thread.proxy,
        };
        for (agent, at, kind) in [(reader, from, Kind::Read), (writer, to, Kind::Write)] {
            match self.memory.touch(at, bytes, By { agent, clock, view }, kind) {
                Ok(Ok(())) => {}
                Ok(Err(conflict)) => {
                    let what = self.name(at);
                    return self.report_race(agent, conflict, kind, what);
                }
                Err(_) => return self.report_wild(id, at, bytes),
            }
        }
        self.emit(id, Action::Read { at: from, bytes: bytes as u32 });
        self.copies_of(id).open.push(Copy { from, to, bytes, read: None });
    }

    /// Closes the open group.
    pub(super) fn commit(&mut self, id: ThreadId) {
        let copies = self.copies_of(id);
        let group = Group { clock: copies.clock, copies: std::mem::take(&mut copies.open) };
        copies.groups.push_back(group);
        copies.clock += 1;
    }

    /// Ends once at most `pending` groups are unfinished: what the others wrote is there.
    pub(super) fn wait_copies(&mut self, id: ThreadId, pending: usize) {
        while self.copies_of(id).groups.len() > pending {
            self.land(id);
        }
    }

    /// Ends once the reads of all but `pending` groups are over: their sources may be written again.
    pub(super) fn wait_copy_reads(&mut self, id: ThreadId, pending: usize) {
        let copies = self.copies_of(id);
        let over = copies.groups.len().saturating_sub(pending);
        let reader = copies.reader;
        for index in 0..over {
            let group = &self.copies_of(id).groups[index];
            let clock = group.clock;
            let sources: Vec<(Address, usize)> =
                group.copies.iter().map(|copy| (copy.from, copy.bytes)).collect();
            for (i, (from, bytes)) in sources.into_iter().enumerate() {
                let bytes = self.memory.peek(from, bytes).map(<[u8]>::to_vec).unwrap_or_default();
                self.copies_of(id).groups[index].copies[i].read.get_or_insert(bytes);
            }
            self.threads[id as usize].view.raise_clock(reader, clock);
        }
    }

    /// What bulk copies that are issued from now on know.
    pub(super) fn proxy_fence(&mut self, id: ThreadId) {
        let thread = &mut self.threads[id as usize];
        thread.proxy = std::rc::Rc::new(thread.view.clone());
        // What the thread writes from here on is not behind this fence.
        self.advance(id);
    }

    /// Finishes the oldest group.
    fn land(&mut self, id: ThreadId) {
        let copies = self.copies_of(id);
        let (reader, writer) = (copies.reader, copies.writer);
        let Some(group) = copies.groups.pop_front() else { return };
        for Copy { from, to, bytes, read } in group.copies {
            let bytes =
                read.unwrap_or_else(|| self.memory.peek(from, bytes).map(<[u8]>::to_vec).unwrap_or_default());
            let mut changed = Vec::new();
            let _ = self.memory.write(to, &bytes, |word, number| changed.push((word, number)));
            for (word, number) in changed {
                self.threads[id as usize].view.raise_seen(word, number);
                self.stored(word);
            }
            self.emit(id, Action::Write { at: to, bytes: bytes.len() as u32 });
        }
        let view = &mut self.threads[id as usize].view;
        view.raise_clock(reader, group.clock);
        view.raise_clock(writer, group.clock);
    }

    /// A thread that ends has finished its copies.
    pub(super) fn land_all(&mut self, id: ThreadId) {
        if self.threads[id as usize].copies.is_some() {
            self.commit(id);
            self.wait_copies(id, 0);
        }
    }
}
