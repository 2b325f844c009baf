//! Streams of the CUDA backend.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use myelon_kernel::{DeviceEvent, DeviceStream};
use myelon_recorder::Row;

use super::Shared;
use super::errors::error_of;
use super::graph::CudaRecording;
use super::watch::Waiting;
use crate::backend::{Backend, Moment, Place, Queue, Recording};
use crate::error::{Error, panic_message};
use crate::record::new_stream;

/// A CUDA stream of one communicator.
pub(crate) struct CudaQueue {
    stream: Arc<DeviceStream>,
    shared: Arc<Shared>,
    rank: usize,
    /// What the record calls it.
    number: u64,
    /// Number of the last call that was enqueued since the last report, from 1; zero for none.
    last_call: AtomicU64,
    /// Calls that a capture has recorded, together, while there is one.
    recorded: Mutex<Option<Row>>,
    /// What a task's panic said.
    task_error: Arc<Mutex<Option<Error>>>,
}

impl CudaQueue {
    pub fn new(stream: DeviceStream, shared: Arc<Shared>, rank: usize) -> Self {
        let (stream, task_error) = (Arc::new(stream), Arc::default());
        let (last_call, recorded) = (AtomicU64::new(0), Mutex::default());
        Self { stream, shared, rank, number: new_stream(), last_call, recorded, task_error }
    }

    pub fn stream(&self) -> &Arc<DeviceStream> {
        &self.stream
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// What the record calls it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Refuses a stream that is not one of `rank` in the communicator of `shared`.
    pub fn check_belongs(&self, shared: &Arc<Shared>, rank: usize) -> Result<(), Error> {
        if Arc::ptr_eq(&self.shared, shared) && self.rank == rank {
            return Ok(());
        }
        Err(Error::invalid("stream", "one of this communicator and rank", "one of another"))
    }

    /// Calls that a capture has recorded, while there is one. As long as the guard is held, none begins or
    /// ends.
    pub fn recorded(&self) -> MutexGuard<'_, Option<Row>> {
        // Nothing panics while it is held.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses `what` while the stream is captured, by us or by anybody.
    pub fn check_eager(&self, what: &'static str) -> Result<MutexGuard<'_, Option<Row>>, Error> {
        let recorded = self.recorded();
        if recorded.is_some() || self.stream.is_captured().map_err(error_of)? {
            return Err(Error::Capturing { what });
        }
        Ok(recorded)
    }

    /// Call number `call` of the rank has been enqueued; the next wait reports its failure.
    pub fn carries_call(&self, call: u64) {
        // ORDER: Relaxed is enough. The number guards no other data.
        self.last_call.store(call, Ordering::Relaxed);
    }
}

impl Queue for CudaQueue {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.stream.device().ordinal()) }
    }

    fn begin_capture(&self) -> Result<Box<dyn Recording + '_>, Error> {
        Ok(Box::new(CudaRecording::begin(self)?))
    }

    fn synchronize(&self) -> Result<(), Error> {
        // ORDER: Relaxed is enough, as above. Read first: a call that another thread enqueues while this one
        // waits is not for this wait to report.
        let last_call = self.last_call.load(Ordering::Relaxed);
        let waiting = (last_call != 0).then(|| {
            let late_after = self.shared.member(self.rank).record.late_after();
            Waiting::begin(self.shared.clone(), self.rank, last_call, late_after)
        });
        self.stream.synchronize().map_err(error_of)?;
        drop(waiting);
        let task_error = self.task_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        // ORDER: Relaxed is enough, as above.
        let _ = self.last_call.compare_exchange(last_call, 0, Ordering::Relaxed, Ordering::Relaxed);
        if last_call != 0 {
            self.shared.tell_waits(self.rank);
        }
        let call_error = if last_call == 0 { None } else { self.shared.why_ended(self.rank) };
        if call_error.is_none() {
            // Calls are chained over streams: the earlier ones are complete too.
            self.shared.group.complete_to(self.rank, last_call);
            self.shared.member(self.rank).record.done_to(last_call);
        }
        if let Some(error) = &call_error {
            self.shared.member(self.rank).record.failed(error, false);
        }
        call_error.or(task_error).map_or(Ok(()), Err)
    }

    fn mark(&self) -> Result<Arc<dyn Moment>, Error> {
        let _recorded = self.check_eager("a mark")?;
        let event = DeviceEvent::with_timing(self.stream.device()).map_err(error_of)?;
        self.stream.record(&event).map_err(error_of)?;
        Ok(Arc::new(CudaMoment(event)))
    }

    fn host_task(&self, task: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        let task_error = self.task_error.clone();
        let caught = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(task)) {
                let message = panic_message(&*panic);
                *task_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Error::Task { message });
            }
        };
        self.stream.host_task(Box::new(caught)).map_err(error_of)
    }
}

struct CudaMoment(DeviceEvent);

impl Moment for CudaMoment {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.0.device().ordinal()) }
    }

    fn elapsed_us(&self, earlier: &dyn Moment) -> Result<f64, Error> {
        let earlier: &dyn Any = earlier;
        let earlier: &Self = earlier.downcast_ref().expect("`Mark` has checked the backend");
        self.0.synchronize().map_err(error_of)?;
        earlier.0.elapsed_us(&self.0).map_err(error_of)
    }
}
