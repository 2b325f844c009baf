//! Captures and graphs of the host backend.

use std::any::Any;
use std::sync::Arc;

use myelon_recorder::Row;

use super::HostCalls;
use super::all_reduce::Job;
use super::memory::Fill;
use super::queue::{HostQueue, interrupt};
use crate::backend::{Place, Queue, Recording, Replay};
use crate::error::Error;
use crate::record::join;

/// What a worker does when its turn comes, any number of times.
pub(super) enum Step {
    Call(Job),
    Fill(Fill),
}

/// What a capture has recorded so far.
#[derive(Default)]
pub(super) struct Recorded {
    /// The rank whose calls these are; none as long as there is no call.
    owner: Option<Arc<HostCalls>>,
    steps: Vec<Step>,
}

impl Recorded {
    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Adds a call of `owner`. Refused if there are calls of another communicator.
    pub fn push_call(&mut self, owner: &Arc<HostCalls>, job: Job) -> Result<(), Error> {
        if !Arc::ptr_eq(self.owner.get_or_insert_with(|| owner.clone()), owner) {
            return Err(Error::invalid(
                "stream",
                "one whose capture has calls of this communicator",
                "another's",
            ));
        }
        self.push(Step::Call(job));
        Ok(())
    }
}

/// A capture under way.
pub(super) struct HostRecording<'a>(&'a HostQueue);

impl<'a> HostRecording<'a> {
    pub fn begin(queue: &'a HostQueue) -> Result<Self, Error> {
        let mut recorded = queue.recorded();
        if recorded.is_some() {
            return Err(Error::Capturing { what: "another capture" });
        }
        *recorded = Some(Recorded::default());
        Ok(Self(queue))
    }
}

impl Recording for HostRecording<'_> {
    fn end(self: Box<Self>) -> Result<Box<dyn Replay>, Error> {
        let recorded = self.0.recorded().take().expect("only this ends the capture");
        let mut calls = Row::default();
        for step in &recorded.steps {
            if let Step::Call(job) = step {
                join(&mut calls, &job.row);
            }
        }
        Ok(Box::new(HostGraph { place: self.0.place(), calls, recorded: Arc::new(recorded) }))
    }
}

impl Drop for HostRecording<'_> {
    fn drop(&mut self) {
        self.0.recorded().take();
    }
}

/// What was recorded. Workers that still run it hold it too.
struct HostGraph {
    place: Place,
    /// Its calls together, as they are recorded when they are made.
    calls: Row,
    recorded: Arc<Recorded>,
}

impl Replay for HostGraph {
    fn place(&self) -> Place {
        self.place
    }

    fn calls(&self) -> u64 {
        self.calls.calls
    }

    fn first_error(&self) -> Option<Error> {
        self.recorded.owner.as_ref().and_then(|owner| owner.first_error())
    }

    fn launch(&self, queue: &dyn Queue) -> Result<(), Error> {
        let queue: &dyn Any = queue;
        let queue: &HostQueue = queue.downcast_ref().expect("the launch has checked the backend");
        queue.check_eager("a launch of a graph")?;
        let recorded = self.recorded.clone();
        let run = move |call: &mut dyn FnMut(&Job) -> Result<(), Error>| {
            recorded.steps.iter().try_for_each(|step| match step {
                Step::Call(job) => call(job),
                Step::Fill(fill) => {
                    interrupt();
                    fill.run();
                    Ok(())
                }
            })
        };
        match &self.recorded.owner {
            Some(owner) => owner.enqueue(queue, self.calls, run),
            None => {
                queue.enqueue(Box::new(move || run(&mut |_| Ok(()))));
                Ok(())
            }
        }
    }
}
