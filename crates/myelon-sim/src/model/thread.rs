//! A thread's own handle: what a protocol under test is written in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use corosensei::Yielder;

use super::Place;
use super::access::Order;
use super::copies::CopyKind;
use super::core::{Body, Core};
use super::event::{Action, ThreadId};
use super::memory::{Address, Device, Kind, Scope};

pub(super) type Handover = Yielder<(), ()>;

/// One thread of a [`World`](super::World). Every call is a step, after which another thread may run.
pub struct Thread {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) id: ThreadId,
    pub(super) place: Place,
    pub(super) yielder: Cell<*const Handover>,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Where it runs.
    pub device: Device,
    /// Who fails together with it: see [`World::thread`](super::World::thread).
    pub party: u32,
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Threads of a block that vote together.
    pub warp_threads: u32,
    /// Where threads are left over for a warp that is not whole: whether it is the block's last, or its first.
    pub last_is_part: bool,
    /// Words of 64 bits that the threads of a block share.
    pub shared_words: usize,
}

/// A launch that was started.
#[derive(Clone, Copy, Debug)]
pub struct Launch(u32);

impl Thread {
    /// Makes a step, and lets others run if it comes to that.
    fn step<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let result = act(&mut core);
        let goes_on = core.goes_on(self.id);
        drop(core);
        if !goes_on {
            self.give_way();
        }
        result
    }

    fn give_way(&self) {
        // SAFETY: the yielder was set by the coroutine of this thread before its body began, lives on that
        // coroutine's stack as long as the body runs, and is used by nobody but code that the body calls.
        unsafe { &*self.yielder.get() }.suspend(());
    }

    /// Where this thread is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// A relaxed load at system scope.
    pub fn load_relaxed(&self, at: Address) -> u64 {
        self.load(at, Order::Relaxed, Scope::System)
    }

    /// An acquire load at system scope.
    pub fn load_acquire(&self, at: Address) -> u64 {
        self.load(at, Order::Ordered, Scope::System)
    }

    /// A strong load of a u64.
    pub fn load(&self, at: Address, order: Order, scope: Scope) -> u64 {
        self.step(|core| core.load(self.id, at, order, scope))
    }

    /// A relaxed store at system scope.
    pub fn store_relaxed(&self, at: Address, value: u64) {
        self.store(at, value, Order::Relaxed, Scope::System);
    }

    /// A release store at system scope.
    pub fn store_release(&self, at: Address, value: u64) {
        self.store(at, value, Order::Ordered, Scope::System);
    }

    /// A strong store of a u64.
    pub fn store(&self, at: Address, value: u64, order: Order, scope: Scope) {
        self.step(|core| core.store(self.id, at, value, order, scope));
    }

    /// A relaxed exchange at system scope; what the word held.
    pub fn exchange_relaxed(&self, at: Address, value: u64) -> u64 {
        self.step(|core| core.exchange(self.id, at, value))
    }

    /// Adds `value` to the statistic at `total`, and leaves the sum at `told` where it passes a multiple of `step`; or
    /// with a step of 0 raises it to `value`, and leaves that there. No step of the thread: nobody acts on it.
    pub fn tally(&self, total: Address, told: Address, value: u64, step: u64) {
        self.quietly(|core| core.tally(self.id, total, told, value, step));
    }

    /// An acquire and release fence at system scope.
    pub fn fence(&self) {
        self.step(|core| core.fence(self.id));
    }

    /// A plain read. It must be ordered after every write of the same bytes.
    pub fn read(&self, at: Address, to: &mut [u8]) {
        // Plain accesses are no place where another thread must run: what is not ordered is found at any.
        self.quietly(|core| core.read(self.id, at, to));
    }

    /// A plain write. It must be ordered with every other access to the same bytes.
    pub fn write(&self, at: Address, bytes: &[u8]) {
        self.quietly(|core| core.write(self.id, at, bytes));
    }

    /// Acts without letting others run, unless something is wrong.
    fn quietly(&self, act: impl FnOnce(&mut Core)) {
        let mut core = self.core.borrow_mut();
        act(&mut core);
        let wrong = core.violation.is_some();
        drop(core);
        if wrong {
            self.give_way();
        }
    }

    pub(crate) fn touch_shared(&self, address: u64, bytes: usize, writes: bool) {
        let kind = if writes { Kind::Write } else { Kind::Read };
        self.quietly(|core| core.touch_shared(self.id, address, bytes, kind));
    }

    pub(crate) fn shared_words(&self) -> *mut u64 {
        let block = self.place.block.expect("only threads of blocks share memory");
        self.core.borrow_mut().blocks[block as usize].words()
    }

    /// Simulated memory of the block, made when it is first asked for: what asynchronous copies go through.
    pub(crate) fn stage(&self, bytes: usize) -> Address {
        self.core.borrow_mut().stage_of(self.id, bytes)
    }

    pub(crate) fn threads_of_block(&self) -> u32 {
        let block = self.place.block.expect("only threads of blocks have neighbours");
        self.core.borrow().blocks[block as usize].threads()
    }

    /// The weakness under test, by the number that the protocol gives it; 0 for none.
    pub fn mutant(&self) -> u32 {
        self.core.borrow().mutant
    }

    /// Counts this thread at a barrier of its block and waits for all threads of the block.
    ///
    /// # Panics
    ///
    /// Outside blocks, and for a barrier from [`BARRIERS_MAX`](super::BARRIERS_MAX) on.
    pub fn barrier_sync(&self, barrier: u32) {
        let phase = self.core.borrow_mut().arrive(self.id, barrier, true);
        while !self.step(|core| core.try_pass(self.id, barrier, phase)) {}
    }

    /// Counts this thread at a barrier of its block.
    ///
    /// # Panics
    ///
    /// As [`barrier_sync`](Self::barrier_sync).
    pub fn barrier_arrive(&self, barrier: u32) {
        self.step(|core| core.arrive(self.id, barrier, false));
    }

    /// Whether all threads of the warp said yes. Orders no memory.
    ///
    /// # Panics
    ///
    /// Outside blocks.
    pub fn warp_all(&self, yes: bool) -> bool {
        let phase = self.core.borrow_mut().vote(self.id, yes);
        loop {
            if let Some(outcome) = self.step(|core| core.try_outcome(self.id, phase)) {
                return outcome;
            }
        }
    }

    /// Says that the thread polls: it may sleep until a word that it has loaded since the last pause changes.
    pub fn pause(&self) {
        self.core.borrow_mut().pause(self.id);
        self.give_way();
    }

    /// Simulated nanoseconds. They pass slowly while anybody is busy, and fast when all wait.
    pub fn clock_ns(&self) -> u64 {
        self.core.borrow().clock_ns
    }

    /// Issues an asynchronous copy into the open group.
    pub fn copy(&self, kind: CopyKind, to: Address, from: Address, bytes: usize) {
        self.step(|core| core.copy(self.id, kind, to, from, bytes));
    }

    /// Closes the open group of copies of the kind.
    pub fn copy_commit(&self, kind: CopyKind) {
        self.step(|core| core.commit(self.id, kind));
    }

    /// Waits until at most `pending` groups of the kind are unfinished.
    pub fn copy_wait(&self, kind: CopyKind, pending: usize) {
        self.step(|core| core.wait_copies(self.id, kind, pending));
    }

    /// Waits until the reads of all but `pending` groups of bulk copies are over; their writes may still be
    /// under way.
    pub fn copy_wait_read(&self, pending: usize) {
        self.step(|core| core.wait_copy_reads(self.id, CopyKind::Bulk, pending));
    }

    /// Orders what this thread knows before the bulk copies that it issues from now on.
    pub fn proxy_fence(&self) {
        self.step(|core| core.proxy_fence(self.id));
    }

    /// Tells the checkers something.
    pub fn note(&self, what: u32, value: u64) {
        self.quietly(|core| core.emit(self.id, Action::Note { what, value }));
    }

    /// Ends the world: the protocol has found a fault itself.
    pub fn fail(&self, rule: &'static str, message: impl Into<String>) {
        self.quietly(|core| core.fail(super::Violation::new(rule, message)));
    }

    /// Starts the threads of a grid; each knows what this thread knows, and its relaxed stores carry that: both ends
    /// of a launch are fences at system scope.
    ///
    /// Each has a stack of 256 KiB, as in [`World::thread`](super::World::thread).
    pub fn launch(&self, grid: Grid, body: impl Fn(&Thread) + 'static) -> Launch {
        self.start(grid, None, Rc::new(body))
    }

    /// As [`launch`](Self::launch), while the launch `before` may still be running: its end is behind
    /// [`after_earlier_work`](Self::after_earlier_work) only.
    pub fn launch_early(&self, grid: Grid, before: Launch, body: impl Fn(&Thread) + 'static) -> Launch {
        self.start(grid, Some(before.0), Rc::new(body))
    }

    /// Waits until the launch in front of this thread's own has ended; then this thread knows what that one did.
    pub fn after_earlier_work(&self) {
        while !self.step(|core| core.try_begin(self.id)) {}
    }

    fn start(&self, grid: Grid, before: Option<u32>, body: Body) -> Launch {
        self.step(|core| {
            let launch = core.new_launch(before);
            let first_block = core.blocks.len() as u32;
            for block in 0..grid.blocks {
                let number = core.new_block(grid);
                for thread in 0..grid.threads {
                    let Grid { device, party, .. } = grid;
                    let place = Place { device, party, block: Some(number), block_index: block, thread };
                    core.start(place, Some(self.id), Some(launch), body.clone());
                }
            }
            // What this thread does from here on, the launch does not know.
            core.advance(self.id);
            core.emit(self.id, Action::Launch { first_block, threads: grid.blocks * grid.threads });
            Launch(launch)
        })
    }

    /// Waits for a launch; then this thread knows what the launch did.
    pub fn join(&self, launch: Launch) {
        while !self.step(|core| core.try_join(self.id, launch.0)) {}
    }
}
