//! Captures and graphs of the CUDA backend.

use std::any::Any;
use std::sync::Arc;

use myelon_kernel::{Capture, DeviceGraph, StreamUse};
use myelon_recorder::Row;

use super::Shared;
use super::errors::error_of;
use super::queue::CudaQueue;
use crate::backend::{Backend, Place, Queue, Recording, Replay};
use crate::error::Error;

/// A capture under way.
pub(super) struct CudaRecording<'a> {
    queue: &'a CudaQueue,
    /// `None` only while it is ended.
    capture: Option<Capture>,
}

impl<'a> CudaRecording<'a> {
    pub fn begin(queue: &'a CudaQueue) -> Result<Self, Error> {
        let mut recorded = queue.recorded();
        if recorded.is_some() {
            return Err(Error::Capturing { what: "another capture" });
        }
        // Calls that other threads make meanwhile come after the last one, and must not ask this stream.
        let mut last_call = queue.shared().last_call(queue.rank());
        if let Some(StreamUse::Ours(stream)) = &*last_call
            && Arc::ptr_eq(stream, queue.stream())
        {
            *last_call = Some(StreamUse::Ours(stream.clone()).ended().map_err(error_of)?);
        }
        let capture = Capture::begin(queue.stream()).map_err(error_of)?;
        *recorded = Some(Row::default());
        drop(last_call);
        drop(recorded);
        Ok(Self { queue, capture: Some(capture) })
    }
}

impl Recording for CudaRecording<'_> {
    fn end(mut self: Box<Self>) -> Result<Box<dyn Replay>, Error> {
        let mut recorded = self.queue.recorded();
        let calls = recorded.take().expect("only this ends the capture");
        let capture = self.capture.take().expect("ended once");
        let graph = capture.end().map_err(error_of)?;
        drop(recorded);
        let (shared, rank) = (self.queue.shared().clone(), self.queue.rank());
        Ok(Box::new(CudaGraph { shared, rank, calls, graph }))
    }
}

impl Drop for CudaRecording<'_> {
    fn drop(&mut self) {
        let mut recorded = self.queue.recorded();
        drop(self.capture.take());
        *recorded = None;
    }
}

/// A graph of one rank's calls.
struct CudaGraph {
    shared: Arc<Shared>,
    rank: usize,
    /// Its calls together, as they are recorded when they are made.
    calls: Row,
    graph: DeviceGraph,
}

impl Replay for CudaGraph {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.graph.device().ordinal()) }
    }

    fn calls(&self) -> u64 {
        self.calls.calls
    }

    fn first_error(&self) -> Option<Error> {
        self.shared.first_error()
    }

    fn launch(&self, queue: &dyn Queue) -> Result<(), Error> {
        let queue: &dyn Any = queue;
        let queue: &CudaQueue = queue.downcast_ref().expect("the launch has checked the backend");
        queue.check_belongs(&self.shared, self.rank)?;
        let recorded = queue.check_eager("a launch of a graph")?;
        if self.calls.calls == 0 {
            return self.graph.launch(queue.stream()).map(drop).map_err(error_of);
        }
        let mut last_call = self.shared.last_call(self.rank);
        self.shared.chain(last_call.as_ref(), queue.stream())?;
        let number = self.shared.group.make_calls(self.rank, self.calls.calls);
        let number = number.inspect_err(|error| self.shared.member(self.rank).record.failed(error, false))?;
        let launched = self.graph.launch(queue.stream());
        // The peers' calls can't complete without these.
        *last_call = Some(launched.map_err(|error| self.shared.poison(error_of(error)))?);
        let made = Row { number: number + 1 - self.calls.calls, stream: queue.number(), ..self.calls };
        self.shared.member(self.rank).record.made(made);
        queue.carries_call(number);
        drop(recorded);
        Ok(())
    }
}
