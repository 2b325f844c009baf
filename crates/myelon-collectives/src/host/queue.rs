//! Streams of the host backend: a worker thread each.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, unbounded};

use super::graph::{HostRecording, Recorded};
use crate::backend::{Backend, Moment, Place, Queue, Recording};
use crate::error::{Error, panic_message};
use crate::record::new_stream;

type Task = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// A stream: tasks go to a thread, which ends when all handles are gone and all tasks are done.
pub(super) struct HostQueue {
    place: Place,
    /// What the record calls it.
    number: u64,
    tasks: Sender<Task>,
    /// What went wrong first since the last report.
    failed: Arc<Mutex<Option<Error>>>,
    /// What a capture has recorded, while there is one.
    recorded: Mutex<Option<Recorded>>,
}

impl HostQueue {
    /// Starts the worker of a stream of `rank`.
    pub fn new(rank: usize) -> Result<Self, Error> {
        let (tasks, inbox) = unbounded::<Task>();
        let failed = Arc::new(Mutex::new(None));
        let report = failed.clone();
        let worker = move || {
            loop {
                let task = match inbox.try_recv() {
                    Ok(task) => task,
                    Err(_) => {
                        interrupt();
                        let Ok(task) = inbox.recv() else { break };
                        task
                    }
                };
                if let Err(error) = caught(task) {
                    lock(&report).get_or_insert(error);
                }
            }
        };
        std::thread::Builder::new().name(format!("myelon rank {rank}")).spawn(worker).map_err(|error| {
            Error::OutOfMemory { what: "a thread for a stream".into(), reason: error.to_string() }
        })?;
        let place = Place { backend: Backend::Host, device: Some(rank) };
        let number = new_stream();
        Ok(Self { place, number, tasks, failed, recorded: Mutex::default() })
    }

    /// What the record calls it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Enqueues a task; what it returns is reported by the next wait. A call behind it does not follow another one.
    pub fn enqueue(&self, task: Task) {
        self.enqueue_call(Box::new(move || {
            interrupt();
            task()
        }));
    }

    /// Enqueues a task that carries calls out.
    pub fn enqueue_call(&self, task: Task) {
        // The worker takes tasks until this sender is gone, whatever the tasks do.
        self.tasks.send(task).expect("the worker outlives its sender");
    }

    /// What a capture has recorded, while there is one. As long as the guard is held, none begins or ends.
    pub fn recorded(&self) -> MutexGuard<'_, Option<Recorded>> {
        lock(&self.recorded)
    }

    /// Refuses `what` while the stream is captured.
    pub fn check_eager(&self, what: &'static str) -> Result<(), Error> {
        if self.recorded().is_some() { Err(Error::Capturing { what }) } else { Ok(()) }
    }
}

impl Queue for HostQueue {
    fn place(&self) -> Place {
        self.place
    }

    fn begin_capture(&self) -> Result<Box<dyn Recording + '_>, Error> {
        Ok(Box::new(HostRecording::begin(self)?))
    }

    fn synchronize(&self) -> Result<(), Error> {
        self.check_eager("a wait")?;
        let here = Arc::new(Event::default());
        let reached = here.clone();
        self.enqueue(Box::new(move || {
            reached.set(());
            Ok(())
        }));
        here.wait();
        lock(&self.failed).take().map_or(Ok(()), Err)
    }

    fn mark(&self) -> Result<Arc<dyn Moment>, Error> {
        self.check_eager("a mark")?;
        let here = Arc::new(Event::default());
        let reached = here.clone();
        self.enqueue(Box::new(move || {
            reached.set(Instant::now());
            Ok(())
        }));
        Ok(Arc::new(HostMoment { place: self.place, event: here }))
    }

    fn host_task(&self, task: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        self.check_eager("a task")?;
        self.enqueue(Box::new(move || {
            task();
            Ok(())
        }));
        Ok(())
    }
}

thread_local! {
    /// Whose call was the last thing that this worker did; its address, or 0.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// Whether the last thing that this worker did was to end a call of `calls`: then the time is known.
pub(super) fn follows<T>(calls: &Arc<T>) -> bool {
    LAST.get() == Arc::as_ptr(calls).addr()
}

/// A call of `calls` has ended just now.
pub(super) fn next_follows<T>(calls: &Arc<T>) {
    LAST.set(Arc::as_ptr(calls).addr());
}

/// Something else happens, or nothing for a while.
pub(super) fn interrupt() {
    LAST.set(0);
}

/// Runs `task`; a panic becomes [`Error::Task`].
pub(super) fn caught<T>(task: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(task))
        .unwrap_or_else(|panic| Err(Error::Task { message: panic_message(&*panic) }))
}

/// Something that happens once, and what is known of it then: for a mark the time. The end of a call is not asked for
/// its time, so the clock is not looked at.
pub(super) struct Event<T = ()> {
    known: Mutex<Option<T>>,
    happened: Condvar,
}

impl<T> Default for Event<T> {
    fn default() -> Self {
        Self { known: Mutex::new(None), happened: Condvar::new() }
    }
}

impl<T: Copy> Event<T> {
    pub fn set(&self, what: T) {
        lock(&self.known).get_or_insert(what);
        self.happened.notify_all();
    }

    pub fn wait(&self) -> T {
        let mut known = lock(&self.known);
        loop {
            if let Some(what) = *known {
                return what;
            }
            known = self.happened.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits no longer than until `is_over`, which is asked now and then.
    pub fn wait_unless(&self, is_over: impl Fn() -> bool) {
        const NOW_AND_THEN: Duration = Duration::from_millis(20);
        let mut known = lock(&self.known);
        while known.is_none() && !is_over() {
            let waited = self.happened.wait_timeout(known, NOW_AND_THEN);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct HostMoment {
    place: Place,
    event: Arc<Event<Instant>>,
}

impl Moment for HostMoment {
    fn place(&self) -> Place {
        self.place
    }

    fn elapsed_us(&self, earlier: &dyn Moment) -> Result<f64, Error> {
        let earlier: &dyn Any = earlier;
        let earlier: &HostMoment = earlier.downcast_ref().expect("`Mark` has checked the backend");
        let (here, there) = (self.event.wait(), earlier.event.wait());
        let us = here.max(there).duration_since(here.min(there)).as_secs_f64() * 1e6;
        Ok(if here < there { -us } else { us })
    }
}

/// A panic while the lock was held can't have left these values half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
