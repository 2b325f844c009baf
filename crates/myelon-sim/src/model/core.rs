//! The state of a world: threads, blocks, launches, memory, and who runs next.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::rc::Rc;

use super::block::Block;
use super::copies::Copies;
use super::event::{Action, Event, ThreadId, Violation};
use super::memory::Memory;
use super::random::Random;
use super::thread::Thread;
use super::view::View;
use super::{Check, Place, Schedule};

/// What a thread runs.
pub(super) type Body = Rc<dyn Fn(&Thread)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// In a wait that polls: until a word that it polls has another value.
    Polling,
    /// At a barrier, in a vote, or for a launch.
    Blocked(&'static str),
    Ended,
}

pub(super) struct ThreadState {
    pub(super) place: Place,
    pub(super) agent: u32,
    pub(super) view: View,
    /// What relaxed loads have read, for the next fence to acquire.
    pub(super) pending: View,
    /// What the last fence released, for relaxed stores to carry.
    pub(super) released: Option<Rc<View>>,
    /// What the thread began with.
    pub(super) start: Rc<View>,
    pub(super) copies: [Option<Box<Copies>>; 2],
    /// Words loaded since the last pause, and which of their stores was read.
    pub(super) polled: Vec<(u32, u32)>,
    /// The last few words that were loaded, and which store: their views are known already.
    pub(super) recent: [(u32, u32); 4],
    pub(super) state: State,
    priority: u64,
    /// In which queue of those who are ready, and where in it.
    queued_in: usize,
    queued_at: u32,
    launch: Option<u32>,
    /// Agents of launches that this thread has seen the end of.
    agents_free: Vec<u32>,
}

/// Threads that were started together.
pub(super) struct LaunchState {
    unfinished: u32,
    view: View,
    /// Whoever waits for its end, and the launch behind it.
    waiters: Vec<ThreadId>,
    agents: Vec<u32>,
    /// The launch in front of it that need not have ended when it begins.
    before: Option<u32>,
}

/// Those who fail, stop or are slow together: a rank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Party {
    /// Steps until it stops for ever.
    pub(super) steps_left: Option<u64>,
    /// If not for ever: for how long, and once it has stopped, until when.
    pub(super) sleeps_until_ns: Option<u64>,
    /// Runs only when nobody else can.
    pub(super) slow: bool,
}

impl Party {
    fn stopped(&self) -> bool {
        self.steps_left == Some(0)
    }
}

pub(super) struct Core {
    pub(super) memory: Memory,
    pub(super) threads: Vec<ThreadState>,
    pub(super) blocks: Vec<Block>,
    pub(super) launches: Vec<LaunchState>,
    pub(super) parties: Vec<Party>,
    /// The step that each agent is at, and the thread it belongs to.
    pub(super) agents: Vec<(u32, ThreadId)>,
    pub(super) random: Random,
    schedule: Schedule,
    /// How often a load reads an old value, and a thread goes on after a step, of 256.
    pub(super) stale: u32,
    go_on: u32,
    /// Steps behind which the running thread gets another priority, and which; the next one is the last.
    changes: Vec<(u64, u64)>,
    /// Ready threads: those of ordinary parties, and those of slow ones.
    ready: [Vec<ThreadId>; 2],
    /// Whether somebody else may have the highest priority since the last choice.
    order_changed: bool,
    pub(super) step: u64,
    pub(super) steps_max: u64,
    pub(super) clock_ns: u64,
    idle_ns: u64,
    pub(super) idle_ns_max: u64,
    /// How often time has passed since the last store, and how often that may be.
    idle: u32,
    pub(super) idle_max: u32,
    pub(super) violation: Option<Violation>,
    pub(super) checks: Vec<Box<dyn Check>>,
    pub(super) trace: VecDeque<Event>,
    pub(super) trace_kept: usize,
    pub(super) started: Vec<(ThreadId, Body)>,
    pub(super) mutant: u32,
}

/// What the threads of a party that has stopped wait for.
const STOPPED: &str = "nothing: its party has stopped";

/// Simulated time that passes when nobody has anything to do; it doubles as long as that lasts.
const IDLE_NS: u64 = 1 << 10;

impl Core {
    pub(super) fn new(seed: u64, schedule: Schedule) -> Self {
        let mut random = Random::new(seed);
        let stale = random.pick(&[0, 32, 128, 224]);
        let go_on = random.pick(&[0, 128, 224, 250]);
        let mut changes: Vec<(u64, u64)> = match schedule {
            Schedule::Random => Vec::new(),
            // Each change has its own priority, so that among those who fell back any may be the last.
            Schedule::Priority { changes, steps } => (0..u64::from(changes))
                .map(|priority| (1 + random.below(steps.max(1) as usize) as u64, priority))
                .collect(),
        };
        changes.sort_unstable_by(|one, other| other.cmp(one));
        Self {
            memory: Memory::default(),
            threads: Vec::new(),
            blocks: Vec::new(),
            launches: Vec::new(),
            parties: Vec::new(),
            agents: Vec::new(),
            random,
            schedule,
            stale,
            go_on,
            changes,
            ready: [Vec::new(), Vec::new()],
            order_changed: false,
            step: 0,
            steps_max: u64::MAX,
            clock_ns: 1,
            idle_ns: IDLE_NS,
            idle_ns_max: 1 << 40,
            idle: 0,
            idle_max: 1000,
            violation: None,
            checks: Vec::new(),
            trace: VecDeque::new(),
            trace_kept: 0,
            started: Vec::new(),
            mutant: 0,
        }
    }

    // ---- threads ---------------------------------------------------------------------------------------

    pub(super) fn party(&mut self, number: u32) -> &mut Party {
        let number = number as usize;
        if self.parties.len() <= number {
            self.parties.resize(number + 1, Party::default());
        }
        &mut self.parties[number]
    }

    pub(super) fn new_agent(&mut self, thread: ThreadId) -> u32 {
        self.agents.push((0, thread));
        self.agents.len() as u32 - 1
    }

    /// A thread that knows what `parent` knows, or nothing.
    pub(super) fn start(
        &mut self,
        place: Place,
        parent: Option<ThreadId>,
        launch: Option<u32>,
        body: Body,
    ) -> ThreadId {
        let id = self.threads.len() as ThreadId;
        let free = parent.and_then(|parent| self.threads[parent as usize].agents_free.pop());
        let agent = free.unwrap_or_else(|| self.new_agent(id));
        self.agents[agent as usize].1 = id;
        let mut view = parent.map(|parent| self.threads[parent as usize].view.clone()).unwrap_or_default();
        let start = Rc::new(view.clone());
        // A launch begins with a fence: its relaxed stores carry what its starter knew.
        let released = launch.is_some().then(|| start.clone());
        self.agents[agent as usize].0 += 1;
        view.raise_clock(agent, self.agents[agent as usize].0);
        if let Some(launch) = launch {
            let launch = &mut self.launches[launch as usize];
            launch.unfinished += 1;
            launch.agents.push(agent);
        }
        self.party(place.party);
        self.threads.push(ThreadState {
            place,
            agent,
            start,
            view,
            pending: View::default(),
            released,
            copies: [None, None],
            polled: Vec::new(),
            recent: [(u32::MAX, 0); 4],
            state: State::Blocked("start"),
            priority: u64::MAX / 2 + (self.random.bits() >> 2),
            queued_in: 0,
            queued_at: 0,
            launch,
            agents_free: Vec::new(),
        });
        self.started.push((id, body));
        self.wake(id);
        id
    }

    pub(super) fn new_launch(&mut self, before: Option<u32>) -> u32 {
        self.launches.push(LaunchState {
            unfinished: 0,
            view: View::default(),
            waiters: Vec::new(),
            agents: Vec::new(),
            before,
        });
        self.launches.len() as u32 - 1
    }

    /// What the thread did up to now is step one, what follows is another: others may know the first only.
    pub(super) fn advance(&mut self, id: ThreadId) {
        let thread = &mut self.threads[id as usize];
        let clock = &mut self.agents[thread.agent as usize].0;
        *clock += 1;
        thread.view.raise_clock(thread.agent, *clock);
    }

    pub(super) fn ended(&mut self, id: ThreadId) {
        self.land_all(id);
        self.leave_ready(id);
        self.emit(id, Action::End);
        let thread = &mut self.threads[id as usize];
        thread.state = State::Ended;
        let (mut view, pending) = (std::mem::take(&mut thread.view), std::mem::take(&mut thread.pending));
        if let Some(launch) = thread.launch {
            // A launch ends with a fence, which also acquires what its relaxed loads have read.
            view.join(&pending);
            let launch = &mut self.launches[launch as usize];
            launch.view.join(&view);
            launch.unfinished -= 1;
            if launch.unfinished == 0 {
                for waiter in std::mem::take(&mut launch.waiters) {
                    self.wake(waiter);
                }
            }
        }
    }

    /// Whether the launch in front of the thread's own has ended; then the thread knows all that it did, as if it
    /// had begun behind it. Else it waits.
    pub(super) fn try_begin(&mut self, id: ThreadId) -> bool {
        let launch = self.threads[id as usize].launch;
        let Some(before) = launch.and_then(|launch| self.launches[launch as usize].before) else {
            return true;
        };
        let before = &mut self.launches[before as usize];
        if before.unfinished > 0 {
            before.waiters.push(id);
            self.block_on(id, "the launch in front");
            return false;
        }
        let thread = &mut self.threads[id as usize];
        thread.view.join(&before.view);
        thread.released = Some(Rc::new(thread.view.clone()));
        self.advance(id);
        true
    }

    /// Whether the launch has ended; then the caller knows all that it did. Else the caller waits.
    pub(super) fn try_join(&mut self, id: ThreadId, launch: u32) -> bool {
        let launch = &mut self.launches[launch as usize];
        if launch.unfinished > 0 {
            launch.waiters.push(id);
            self.block_on(id, "a launch");
            return false;
        }
        let thread = &mut self.threads[id as usize];
        thread.view.join(&launch.view);
        thread.agents_free.append(&mut launch.agents);
        true
    }

    // ---- who runs --------------------------------------------------------------------------------------

    pub(super) fn wake(&mut self, id: ThreadId) {
        let thread = &mut self.threads[id as usize];
        let queue = usize::from(self.parties[thread.place.party as usize].slow);
        if matches!(thread.state, State::Ready | State::Ended) {
            return;
        }
        thread.state = State::Ready;
        (thread.queued_in, thread.queued_at) = (queue, self.ready[queue].len() as u32);
        self.ready[queue].push(id);
        self.order_changed = true;
    }

    fn leave_ready(&mut self, id: ThreadId) {
        if self.threads[id as usize].state != State::Ready {
            return;
        }
        let ThreadState { queued_in: queue, queued_at: at, .. } = self.threads[id as usize];
        self.ready[queue].swap_remove(at as usize);
        if let Some(&moved) = self.ready[queue].get(at as usize) {
            self.threads[moved as usize].queued_at = at;
        }
    }

    pub(super) fn block_on(&mut self, id: ThreadId, what: &'static str) {
        self.leave_ready(id);
        self.threads[id as usize].state = State::Blocked(what);
    }

    /// A wait polls: the thread sleeps until a word that it has polled since the last pause is stored to.
    pub(super) fn pause(&mut self, id: ThreadId) {
        let thread = &mut self.threads[id as usize];
        let polled = std::mem::take(&mut thread.polled);
        let newest = |&(word, store): &(u32, u32)| self.memory.words[word as usize].last() == store;
        if !polled.is_empty() && polled.iter().all(newest) {
            for (word, _) in polled {
                self.memory.words[word as usize].waiters.push(id);
            }
            self.leave_ready(id);
            self.threads[id as usize].state = State::Polling;
        }
    }

    pub(super) fn stored(&mut self, word: u32) {
        (self.idle_ns, self.idle) = (IDLE_NS, 0);
        let mut waiters = std::mem::take(&mut self.memory.words[word as usize].waiters);
        for id in waiters.drain(..) {
            if self.threads[id as usize].state == State::Polling {
                self.wake(id);
            }
        }
        self.memory.words[word as usize].waiters = waiters;
    }

    /// Nobody is ready: time passes, and every wait looks again. False where nobody waits.
    fn let_time_pass(&mut self) -> bool {
        self.clock_ns += self.idle_ns;
        self.idle_ns = (self.idle_ns * 2).min(self.idle_ns_max);
        self.idle += 1;
        let polling = |thread: &ThreadState| thread.state == State::Polling;
        let waiting: Vec<usize> = (0..self.threads.len()).filter(|&id| polling(&self.threads[id])).collect();
        let mut any = self.wake_sleepers();
        for id in waiting {
            let stopped = self.parties[self.threads[id].place.party as usize].stopped();
            if !stopped {
                self.wake(id as ThreadId);
                any = true;
            }
        }
        any
    }

    /// Parties that have slept long enough go on. Whether there are any that slept.
    fn wake_sleepers(&mut self) -> bool {
        let mut any = false;
        for number in 0..self.parties.len() {
            let party = &mut self.parties[number];
            let (true, Some(until)) = (party.stopped(), party.sleeps_until_ns) else { continue };
            any = true;
            if self.clock_ns < until {
                continue;
            }
            party.steps_left = None;
            for id in 0..self.threads.len() {
                let thread = &self.threads[id];
                if thread.place.party as usize == number && thread.state == State::Blocked(STOPPED) {
                    self.wake(id as ThreadId);
                }
            }
        }
        any
    }

    /// The thread to run next; none where all have ended, or something is wrong.
    pub(super) fn next(&mut self) -> Option<ThreadId> {
        loop {
            if self.violation.is_some() {
                return None;
            }
            let queue = if self.ready[0].is_empty() { 1 } else { 0 };
            if self.ready[queue].is_empty() {
                if self.let_time_pass() {
                    if self.idle > self.idle_max {
                        self.fail(Violation::new(
                            "progress",
                            "everybody polls, nobody stores, and no wait ends",
                        ));
                    }
                    continue;
                }
                self.look_for_stuck();
                return None;
            }
            let id = self.choose(queue);
            if self.parties[self.threads[id as usize].place.party as usize].stopped() {
                self.block_on(id, STOPPED);
                continue;
            }
            return Some(id);
        }
    }

    fn choose(&mut self, queue: usize) -> ThreadId {
        let ready = &self.ready[queue];
        match self.schedule {
            Schedule::Random => ready[self.random.below(ready.len())],
            Schedule::Priority { .. } => {
                let priority = |id: &&ThreadId| self.threads[**id as usize].priority;
                *ready.iter().max_by_key(priority).expect("not empty")
            }
        }
    }

    /// Whether the thread that has just made a step may make another at once.
    pub(super) fn goes_on(&mut self, id: ThreadId) -> bool {
        if self.violation.is_some() || self.threads[id as usize].state != State::Ready {
            return false;
        }
        match self.schedule {
            Schedule::Random => self.random.chance(self.go_on),
            Schedule::Priority { .. } => !std::mem::take(&mut self.order_changed),
        }
    }

    fn look_for_stuck(&mut self) {
        let mut text = String::new();
        for thread in &self.threads {
            let stopped = self.parties[thread.place.party as usize].stopped();
            if let (State::Blocked(what), false) = (thread.state, stopped) {
                let _ = write!(
                    text,
                    "{}{} waits for {what}",
                    if text.is_empty() { "" } else { "; " },
                    thread.place
                );
                if text.len() > 400 {
                    text += "; ...";
                    break;
                }
            }
        }
        if !text.is_empty() {
            self.fail(Violation::new("stuck", text));
        }
    }

    // ---- what happened ---------------------------------------------------------------------------------

    pub(super) fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// Counts a step of the thread. A change of priorities that is due falls on this thread, even where the step
    /// itself lets nobody else run.
    pub(super) fn count_step(&mut self, id: ThreadId) {
        self.step += 1;
        if let Some((_, priority)) = self.changes.pop_if(|change| change.0 <= self.step) {
            self.threads[id as usize].priority = priority;
            self.order_changed = true;
        }
    }

    /// Counts a step of the thread, and tells the checkers.
    pub(super) fn emit(&mut self, id: ThreadId, action: Action) {
        self.count_step(id);
        self.clock_ns += 1;
        let place = self.threads[id as usize].place;
        let party = &mut self.parties[place.party as usize];
        if let Some(left) = &mut party.steps_left {
            if *left == 1 {
                party.sleeps_until_ns = party.sleeps_until_ns.map(|ns| self.clock_ns + ns);
            }
            *left = left.saturating_sub(1);
        }
        if self.step > self.steps_max {
            self.fail(Violation::new("progress", format!("not over after {} steps", self.steps_max)));
        }
        let event = Event { step: self.step, thread: id, action };
        if self.trace_kept > 0 {
            if self.trace.len() == self.trace_kept {
                self.trace.pop_front();
            }
            self.trace.push_back(event);
        }
        for check in &mut self.checks {
            if let Err(message) = check.observe(&event, &place) {
                let violation = Violation::new(check.name(), message);
                self.violation.get_or_insert(violation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Device;

    /// Each change of priorities takes one thread, once: also when it falls on a step behind which nobody is
    /// asked, and however often somebody is asked behind one step.
    #[test]
    fn every_change_demotes_one_thread_once() {
        const CHANGES: u32 = 5;
        for seed in 0..200 {
            let mut core = Core::new(seed, Schedule::Priority { changes: CHANGES, steps: 40 });
            let threads: Vec<ThreadId> = (0..3)
                .map(|party| {
                    let place = Place { device: Device::Host, party, block: None, block_index: 0, thread: 0 };
                    core.start(place, None, None, Rc::new(|_| {}))
                })
                .collect();
            let mut demotions = 0;
            // Changes that fall on one step take one step each, hence some steps more than 40.
            for step in 0..40 + CHANGES {
                let running = core.next().expect("all are ready");
                let before: Vec<u64> = core.threads.iter().map(|thread| thread.priority).collect();
                core.emit(running, Action::Fence);
                // Most steps are plain accesses, behind which nobody is asked; some are asked for twice.
                for _ in 0..[0, 0, 2][step as usize % 3] {
                    core.goes_on(running);
                }
                for &id in &threads {
                    if core.threads[id as usize].priority != before[id as usize] {
                        demotions += 1;
                        assert_eq!(id, running);
                        assert!(core.threads[id as usize].priority < u64::from(CHANGES));
                    }
                }
            }
            assert_eq!(demotions, CHANGES, "seed {seed}");
        }
    }
}
