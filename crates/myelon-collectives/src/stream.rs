//! Streams: queues of work that is done in order.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Moment, Queue};
use crate::error::Error;
use crate::graph::refuse_in_capture;

/// A queue of work of one rank, done in order: a worker thread on the host, a CUDA stream on a GPU.
///
/// A clone is another handle of the same stream. Work that was enqueued is done even if every handle has
/// been dropped; dropping never waits for it.
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator};
///
/// let ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
/// let stream = ranks[0].stream();
/// let before = stream.mark()?;
/// stream.host_task(|| std::thread::sleep(std::time::Duration::from_millis(2)))?;
/// let after = stream.mark()?;
/// assert!(after.elapsed_us(&before)? >= 2000.0);
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone)]
pub struct Stream {
    pub(crate) queue: Arc<dyn Queue>,
}

impl Stream {
    /// Waits until all work that has been enqueued is done.
    ///
    /// # Errors
    ///
    /// What went wrong first on this stream since the last report: [`Error::Stalled`],
    /// [`Error::Disagreement`], [`Error::PeerGone`], [`Error::Protocol`], [`Error::Task`]. Outputs of the
    /// calls that failed are unspecified. It is reported once, here or by a read or write that waits.
    /// [`Error::Capturing`] while this thread captures, or this stream is captured.
    pub fn synchronize(&self) -> Result<(), Error> {
        refuse_in_capture("a wait")?;
        self.queue.synchronize()
    }

    /// A point behind all work that has been enqueued.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`] on a GPU; [`Error::Capturing`] as for [`Stream::synchronize`].
    pub fn mark(&self) -> Result<Mark, Error> {
        refuse_in_capture("a mark")?;
        Ok(Mark { moment: self.queue.mark()? })
    }

    /// Enqueues a task of the caller's, which runs on a thread of the backend when its turn comes.
    ///
    /// Tasks are for tests and for small things such as a notice. Work behind the task waits for it, so a
    /// task must not wait for its own stream, nor call the driver.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`] on a GPU; [`Error::Capturing`] as for [`Stream::synchronize`], because a task runs
    /// once. A task that panics is reported by [`Stream::synchronize`].
    pub fn host_task(&self, task: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        refuse_in_capture("a task")?;
        self.queue.host_task(Box::new(task))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("place", &self.queue.place()).finish()
    }
}

/// A point in a stream: see [`Stream::mark`].
#[derive(Clone)]
pub struct Mark {
    moment: Arc<dyn Moment>,
}

impl Mark {
    /// Microseconds from `earlier` to here; negative if `earlier` came later. Waits for both points.
    ///
    /// # Errors
    ///
    /// [`Error::WrongBackend`] or [`Error::WrongDevice`] if `earlier` is of another backend or device;
    /// [`Error::Capturing`] while this thread captures.
    pub fn elapsed_us(&self, earlier: &Mark) -> Result<f64, Error> {
        refuse_in_capture("a wait")?;
        self.moment.place().check("mark", earlier.moment.place())?;
        self.moment.elapsed_us(&*earlier.moment)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark").field("place", &self.moment.place()).finish()
    }
}
