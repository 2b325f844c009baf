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
    /// `cp.async.bulk`: of the asynchronous proxy. It knows what the thread began with, and of what the thread
    /// knows that which has passed a proxy fence, its own or one that came before in another thread.
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

/// The copies of one kind of one thread.
pub(super) struct Copies {
    reader: u32,
    writer: u32,
    clock: u32,
    open: Vec<Copy>,
    groups: VecDeque<Group>,
}

impl Core {
    fn copies_of(&mut self, id: ThreadId, kind: CopyKind) -> &mut Copies {
        if self.threads[id as usize].copies[kind as usize].is_none() {
            let (reader, writer) = (self.new_agent(id), self.new_agent(id));
            let copies = Copies { reader, writer, clock: 1, open: Vec::new(), groups: VecDeque::new() };
            self.threads[id as usize].copies[kind as usize] = Some(Box::new(copies));
        }
        self.threads[id as usize].copies[kind as usize].as_mut().expect("it was just made")
    }

    /// Issues a copy into the group that is open.
    pub(super) fn copy(&mut self, id: ThreadId, kind: CopyKind, to: Address, from: Address, bytes: usize) {
        let &mut Copies { reader, writer, clock, .. } = self.copies_of(id, kind);
        let thread = &self.threads[id as usize];
        let of_bulk;
        let view = match kind {
            CopyKind::Thread => &thread.view,
            CopyKind::Bulk => {
                of_bulk = thread.view.of_bulk_copy(&thread.start);
                &of_bulk
            }
        };
        for (agent, at, access) in [(reader, from, Kind::Read), (writer, to, Kind::Write)] {
            match self.memory.touch(at, bytes, By { agent, clock, view }, access) {
                Ok(Ok(())) => {}
                Ok(Err(conflict)) => {
                    let what = self.name(at);
                    return self.report_race(agent, conflict, access, what);
                }
                Err(_) => return self.report_wild(id, at, bytes),
            }
        }
        self.emit(id, Action::Read { at: from, bytes: bytes as u32 });
        self.copies_of(id, kind).open.push(Copy { from, to, bytes, read: None });
    }

    /// Closes the open group of the kind.
    pub(super) fn commit(&mut self, id: ThreadId, kind: CopyKind) {
        let copies = self.copies_of(id, kind);
        let group = Group { clock: copies.clock, copies: std::mem::take(&mut copies.open) };
        copies.groups.push_back(group);
        copies.clock += 1;
    }

    /// Ends once at most `pending` groups of the kind are unfinished: what the others wrote is there.
    pub(super) fn wait_copies(&mut self, id: ThreadId, kind: CopyKind, pending: usize) {
        while self.copies_of(id, kind).groups.len() > pending {
            self.land(id, kind);
        }
    }

    /// Ends once the reads of all but `pending` groups are over: their sources may be written again.
    pub(super) fn wait_copy_reads(&mut self, id: ThreadId, kind: CopyKind, pending: usize) {
        let copies = self.copies_of(id, kind);
        let over = copies.groups.len().saturating_sub(pending);
        let reader = copies.reader;
        for index in 0..over {
            let group = &self.copies_of(id, kind).groups[index];
            let clock = group.clock;
            let sources: Vec<(Address, usize)> =
                group.copies.iter().map(|copy| (copy.from, copy.bytes)).collect();
            for (i, (from, bytes)) in sources.into_iter().enumerate() {
                let bytes = self.memory.peek(from, bytes).map(<[u8]>::to_vec).unwrap_or_default();
                self.copies_of(id, kind).groups[index].copies[i].read.get_or_insert(bytes);
            }
            self.threads[id as usize].view.raise_clock(reader, clock);
        }
    }

    /// Bulk copies that are issued behind this fence know what the thread knows now.
    pub(super) fn proxy_fence(&mut self, id: ThreadId) {
        self.threads[id as usize].view.fence_proxy();
        // What the thread writes from here on is not behind this fence.
        self.advance(id);
    }

    /// Finishes the oldest group of the kind.
    fn land(&mut self, id: ThreadId, kind: CopyKind) {
        let copies = self.copies_of(id, kind);
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
        if kind == CopyKind::Bulk {
            view.raise_proxied(writer, group.clock);
        }
    }

    /// A thread that ends has finished its copies.
    pub(super) fn land_all(&mut self, id: ThreadId) {
        for kind in [CopyKind::Thread, CopyKind::Bulk] {
            if self.threads[id as usize].copies[kind as usize].is_some() {
                self.commit(id, kind);
                self.wait_copies(id, kind, 0);
            }
        }
    }
}
