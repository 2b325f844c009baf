//! What the threads of one block share: memory, barriers, votes.

use std::cell::UnsafeCell;
use std::rc::Rc;

use super::core::Core;
use super::event::{Action, ThreadId, Violation};
use super::memory::{Address, By, Cell, Kind, touch};
use super::thread::Grid;
use super::view::View;

/// Barriers of a block.
pub const BARRIERS_MAX: usize = 16;
/// Bytes of a block's memory that may race with others apart from their neighbours.
const GRANULE: usize = 4;

#[derive(Default)]
struct Barrier {
    /// Who has been counted in this phase.
    counted: Vec<ThreadId>,
    waiting: Vec<ThreadId>,
    /// What all who were counted know.
    view: View,
    passed: u64,
}

#[derive(Default)]
struct Vote {
    cast: Vec<ThreadId>,
    all: bool,
    last: bool,
    passed: u64,
}

pub(super) struct Block {
    threads: u32,
    warp_threads: u32,
    last_is_part: bool,
    /// Behind an `Rc`, and only shared, because threads keep addresses of them while the block moves.
    words: Rc<[UnsafeCell<u64>]>,
    stage: Option<Address>,
    cells: Vec<Cell>,
    barriers: Vec<Barrier>,
    votes: Vec<Vote>,
}

impl Block {
    fn new(grid: Grid) -> Self {
        let Grid { threads, warp_threads, last_is_part, shared_words: words, .. } = grid;
        Self {
            threads,
            warp_threads,
            last_is_part,
            stage: None,
            words: (0..words).map(|_| UnsafeCell::new(0xdead_beef_dead_beef)).collect(),
            cells: vec![Cell::untouched(); words * 8 / GRANULE],
            barriers: (0..BARRIERS_MAX).map(|_| Barrier::default()).collect(),
            votes: (0..threads.div_ceil(warp_threads))
                .map(|_| Vote { all: true, ..Vote::default() })
                .collect(),
        }
    }

    pub(super) fn threads(&self) -> u32 {
        self.threads
    }

    pub(super) fn words(&self) -> *mut u64 {
        UnsafeCell::raw_get(self.words.as_ptr())
    }
}

impl Core {
    pub(super) fn new_block(&mut self, grid: Grid) -> u32 {
        self.blocks.push(Block::new(grid));
        self.blocks.len() as u32 - 1
    }

    pub(super) fn stage_of(&mut self, id: ThreadId, bytes: usize) -> Address {
        let place = self.threads[id as usize].place;
        let block = place.block.expect("only blocks have stages") as usize;
        if let Some(stage) = self.blocks[block].stage {
            return stage;
        }
        let name = format!("stages of rank {} block {}", place.party, place.block_index);
        let stage = self.memory.add(name, bytes, 8);
        self.blocks[block].stage = Some(stage);
        stage
    }

    /// Notes a plain access to the block's own memory, at an address of the host.
    pub(super) fn touch_shared(&mut self, id: ThreadId, address: u64, bytes: usize, kind: Kind) {
        let thread = &self.threads[id as usize];
        let Some(block) = thread.place.block else {
            return self.report_foreign(id);
        };
        let block = &mut self.blocks[block as usize];
        let offset = address.wrapping_sub(block.words() as u64) as usize;
        if offset.saturating_add(bytes) > block.words.len() * 8 {
            return self.report_foreign(id);
        }
        let cells = &mut block.cells[offset / GRANULE..(offset + bytes).div_ceil(GRANULE)];
        if let Err(conflict) = touch(cells, By::thread(thread.agent, &thread.view), kind) {
            self.report_race(thread.agent, conflict, kind, format!("byte {offset} of the block's memory"));
        }
    }

    /// The message has no address: one of the host is another in every process.
    fn report_foreign(&mut self, id: ThreadId) {
        let place = self.threads[id as usize].place;
        self.fail(Violation::new("memory", format!("{place} accessed what is no memory of the world")));
    }

    /// Counts a thread at a barrier of its block; says how often the barrier has let threads pass before.
    ///
    /// Only one who also waits (`syncs`) learns what the others know.
    pub(super) fn arrive(&mut self, id: ThreadId, barrier: u32, syncs: bool) -> u64 {
        self.emit(id, Action::Arrive { barrier });
        let place = self.threads[id as usize].place;
        let block = place.block.expect("a barrier belongs to a block") as usize;
        let Block { barriers, threads, .. } = &mut self.blocks[block];
        let this = &mut barriers[barrier as usize];
        if this.counted.contains(&id) {
            self.fail(Violation::new(
                "barrier",
                format!("{place} came to barrier {barrier} twice in one phase"),
            ));
            return 0;
        }
        this.counted.push(id);
        this.view.join(&self.threads[id as usize].view);
        let phase = this.passed;
        if this.counted.len() as u32 == *threads {
            this.passed += 1;
            this.counted.clear();
            let view = std::mem::take(&mut this.view);
            for waiter in std::mem::take(&mut this.waiting) {
                self.threads[waiter as usize].view.join(&view);
                self.wake(waiter);
            }
            if syncs {
                self.threads[id as usize].view.join(&view);
            }
        }
        self.advance(id);
        phase
    }

    /// Whether the barrier has let pass those who came in `phase`; else the thread waits.
    pub(super) fn try_pass(&mut self, id: ThreadId, barrier: u32, phase: u64) -> bool {
        let block = self.threads[id as usize].place.block.expect("a barrier belongs to a block") as usize;
        let this = &mut self.blocks[block].barriers[barrier as usize];
        if this.passed > phase {
            self.emit(id, Action::Pass { barrier });
            return true;
        }
        this.waiting.push(id);
        self.block_on(id, "a barrier");
        false
    }

    /// Casts a thread's vote in its warp. A vote orders no memory.
    pub(super) fn vote(&mut self, id: ThreadId, yes: bool) -> u64 {
        self.count_step(id);
        let (vote, size) = self.vote_of(id);
        vote.cast.push(id);
        vote.all &= yes;
        let phase = vote.passed;
        if vote.cast.len() as u32 == size {
            (vote.last, vote.all) = (vote.all, true);
            vote.passed += 1;
            for voter in std::mem::take(&mut vote.cast) {
                self.wake(voter);
            }
        }
        phase
    }

    /// The outcome of the vote cast in `phase`, once all have voted; else the thread waits.
    pub(super) fn try_outcome(&mut self, id: ThreadId, phase: u64) -> Option<bool> {
        let (vote, _) = self.vote_of(id);
        // Nobody of the warp votes again before all have seen this outcome: `last` is still that of `phase`
        // because a later vote needs this thread.
        if vote.passed > phase {
            return Some(vote.last);
        }
        self.block_on(id, "a vote of its warp");
        None
    }

    fn vote_of(&mut self, id: ThreadId) -> (&mut Vote, u32) {
        let place = self.threads[id as usize].place;
        let block = &mut self.blocks[place.block.expect("a vote belongs to a block") as usize];
        // Counted from the end that has only whole warps.
        let from_there = if block.last_is_part { place.thread } else { block.threads - 1 - place.thread };
        let warp = from_there / block.warp_threads;
        let size = block.warp_threads.min(block.threads - warp * block.warp_threads);
        (&mut block.votes[warp as usize], size)
    }
}
