//! Making a world, running it, and what is left of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use super::core::{Body, Core};
use super::event::{Event, ThreadId, Violation};
use super::memory::{Address, Device};
use super::thread::Thread;
use super::{Check, Place, Schedule};

/// Bytes of a thread's stack: room for bodies in a plain style. Only pages that are used take memory.
const STACK_BYTES: usize = 256 << 10;

thread_local! {
    /// The thread of the world that runs now on this thread of the host.
    static CURRENT: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
    /// Stacks that were used before.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// Calls `act` with the thread that runs now.
///
/// # Panics
///
/// Outside a world.
pub(crate) fn with_current<T>(act: impl FnOnce(&Thread) -> T) -> T {
    let thread = CURRENT.get();
    assert!(!thread.is_null(), "no simulated thread runs");
    // SAFETY: `World::run` sets it to a thread that it owns for as long as that thread runs.
    act(unsafe { &*thread })
}

/// Simulated memory and threads, before they run.
pub struct World {
    core: Rc<RefCell<Core>>,
}

/// A world in which every thread has ended and nothing was wrong.
pub struct Ended {
    core: Rc<RefCell<Core>>,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which one, and how.
    pub violation: Violation,
    /// Steps up to then.
    pub step: u64,
    /// The last steps.
    pub trace: Vec<(Event, Place)>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}", self.step, self.violation)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.violation)
    }
}

impl World {
    /// An empty world whose every decision follows from `seed`.
    pub fn new(seed: u64, schedule: Schedule) -> Self {
        Self { core: Rc::new(RefCell::new(Core::new(seed, schedule))) }
    }

    /// Makes zeroed memory, up to 4 GiB. Accesses to different pieces of `granule` bytes never race.
    ///
    /// # Panics
    ///
    /// For more than 4 GiB, and for a granule of 0.
    pub fn memory(&mut self, name: impl Into<String>, bytes: usize, granule: usize) -> Address {
        self.core.borrow_mut().memory.add(name.into(), bytes, granule)
    }

    /// Sets bytes before anybody runs.
    ///
    /// # Panics
    ///
    /// Beyond the memory's end.
    pub fn set(&mut self, at: Address, bytes: &[u8]) {
        assert!(self.core.borrow_mut().memory.poke(at, bytes).is_ok(), "beyond the end");
    }

    /// Adds a thread that belongs to no block. Threads of one `party` stop together, or are slow together.
    ///
    /// The body has a stack of 256 KiB; what uses more of it ends the process, so large values belong in a box.
    pub fn thread(&mut self, device: Device, party: u32, body: impl Fn(&Thread) + 'static) {
        let place = Place { device, party, block: None, block_index: 0, thread: 0 };
        self.core.borrow_mut().start(place, None, None, Rc::new(body));
    }

    /// Adds a rule.
    pub fn check(&mut self, check: Box<dyn Check>) {
        self.core.borrow_mut().checks.push(check);
    }

    /// The party stops for ever after so many of its steps.
    pub fn stop(&mut self, party: u32, after_steps: u64) {
        self.core.borrow_mut().party(party).steps_left = Some(after_steps);
    }

    /// The party stops after so many of its steps, until nobody else has had anything to do for `ns` of
    /// simulated time.
    pub fn pause(&mut self, party: u32, after_steps: u64, ns: u64) {
        let mut core = self.core.borrow_mut();
        let party = core.party(party);
        (party.steps_left, party.sleeps_until_ns) = (Some(after_steps), Some(ns));
    }

    /// The party runs only when nobody else can.
    pub fn slow(&mut self, party: u32) {
        self.core.borrow_mut().party(party).slow = true;
    }

    /// What [`Thread::mutant`] says.
    pub fn mutant(&mut self, number: u32) {
        self.core.borrow_mut().mutant = number;
    }

    /// More steps than these are a violation.
    pub fn steps_max(&mut self, steps: u64) {
        self.core.borrow_mut().steps_max = steps;
    }

    /// While everybody polls, time passes in steps that double up to `step_ns`; after more than `times` of them
    /// without a store, that nobody ends is a violation.
    pub fn idle_max(&mut self, step_ns: u64, times: u32) {
        let mut core = self.core.borrow_mut();
        (core.idle_ns_max, core.idle_max) = (step_ns, times);
    }

    /// Keeps the last `events` for a failure to show.
    pub fn keep_trace(&mut self, events: usize) {
        self.core.borrow_mut().trace_kept = events;
    }

    /// Runs until every thread has ended, or until a rule is broken.
    ///
    /// # Errors
    ///
    /// The first rule that was broken.
    pub fn run(self) -> Result<Ended, Failure> {
        let core = self.core;
        let mut running = Running { threads: Vec::new() };
        loop {
            let started = std::mem::take(&mut core.borrow_mut().started);
            for (id, body) in started {
                running.add(&core, id, body);
            }
            let Some(id) = core.borrow_mut().next() else { break };
            match running.resume(id) {
                Ok(true) => {}
                Ok(false) => core.borrow_mut().ended(id),
                Err(message) => core.borrow_mut().fail(Violation::new("panic", message)),
            }
        }
        drop(running);
        let mut core_now = core.borrow_mut();
        core_now.checks.clear();
        let Some(violation) = core_now.violation.take() else {
            drop(core_now);
            return Ok(Ended { core });
        };
        let trace = std::mem::take(&mut core_now.trace);
        let place = |event: Event| (event, core_now.threads[event.thread as usize].place);
        Err(Failure { violation, step: core_now.step, trace: trace.into_iter().map(place).collect() })
    }
}

impl Ended {
    /// Bytes of memory as they are at the end.
    ///
    /// # Panics
    ///
    /// Beyond the memory's end.
    pub fn bytes(&self, at: Address, bytes: usize) -> Vec<u8> {
        self.core.borrow_mut().memory.peek(at, bytes).ok().expect("beyond the end").to_vec()
    }

    /// Steps that all threads made.
    pub fn steps(&self) -> u64 {
        self.core.borrow().step
    }

    /// The last events that were kept.
    pub fn trace(&self) -> Vec<(Event, Place)> {
        let core = self.core.borrow();
        let events: &VecDeque<Event> = &core.trace;
        events.iter().map(|event| (*event, core.threads[event.thread as usize].place)).collect()
    }
}

/// A thread's coroutine, and the handle that its body was given.
struct RunningThread {
    coroutine: Coroutine<(), (), (), DefaultStack>,
    handle: Rc<Thread>,
}

struct Running {
    threads: Vec<Option<RunningThread>>,
}

impl Running {
    fn add(&mut self, core: &Rc<RefCell<Core>>, id: ThreadId, body: Body) {
        let place = core.borrow().threads[id as usize].place;
        let handle = Rc::new(Thread { core: core.clone(), id, place, yielder: Cell::new(std::ptr::null()) });
        let stack = STACKS.with_borrow_mut(Vec::pop);
        let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let of_body = handle.clone();
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            of_body.yielder.set(yielder);
            body(&of_body);
        });
        assert_eq!(self.threads.len(), id as usize, "threads are started in order");
        self.threads.push(Some(RunningThread { coroutine, handle }));
    }

    /// Lets a thread run until it gives way; false where it has ended.
    fn resume(&mut self, id: ThreadId) -> Result<bool, String> {
        let slot = &mut self.threads[id as usize];
        let thread = slot.as_mut().expect("an ended thread is not chosen");
        // A body may itself run a world.
        let before = CURRENT.replace(&raw const *thread.handle);
        let result = catch_unwind(AssertUnwindSafe(|| thread.coroutine.resume(())));
        CURRENT.set(before);
        match result {
            Ok(CoroutineResult::Yield(())) => Ok(true),
            Ok(CoroutineResult::Return(())) => {
                let thread = slot.take().expect("it has just run");
                STACKS.with_borrow_mut(|stacks| stacks.push(thread.coroutine.into_stack()));
                Ok(false)
            }
            Err(panic) => {
                *slot = None;
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body uses most of its stack, and runs a world of its own; the outer thread is the current one again.
    #[test]
    fn worlds_in_worlds_and_large_locals() {
        let mut outer = World::new(1, Schedule::Random);
        outer.thread(Device::Host, 7, |t| {
            let large = std::hint::black_box([t.place().party as u8; 192 << 10]);
            let mut inner = World::new(2, Schedule::Random);
            inner.thread(Device::Host, 8, |_| assert_eq!(with_current(Thread::place).party, 8));
            inner.run().expect("nothing is wrong");
            t.fence();
            assert_eq!(with_current(Thread::place).party, u32::from(large[large.len() - 1]));
        });
        outer.run().expect("nothing is wrong");
        assert!(CURRENT.get().is_null());
    }
}
