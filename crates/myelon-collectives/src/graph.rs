//! Graphs: calls that are recorded once, and made again by one launch.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use crate::backend::Replay;
use crate::error::Error;
use crate::stream::Stream;

thread_local! {
    /// Where the stream lies that this thread captures; it lives as long as the capture.
    static CAPTURED: Cell<Option<*const ()>> = const { Cell::new(None) };
}

/// Refuses `what` while this thread captures a stream.
pub(crate) fn refuse_in_capture(what: &'static str) -> Result<(), Error> {
    if CAPTURED.get().is_some() { Err(Error::Capturing { what }) } else { Ok(()) }
}

/// Refuses `what`, which is work on `stream`, while this thread captures another one.
pub(crate) fn refuse_beside_capture(stream: &Stream, what: &'static str) -> Result<(), Error> {
    if is_captured(stream) { Ok(()) } else { refuse_in_capture(what) }
}

/// Whether this thread captures `stream`.
pub(crate) fn is_captured(stream: &Stream) -> bool {
    CAPTURED.get() == Some(address(stream))
}

fn address(stream: &Stream) -> *const () {
    Arc::as_ptr(&stream.queue).cast()
}

/// This thread captures a stream until this is dropped.
struct Here;

impl Here {
    fn begin(stream: &Stream) -> Self {
        CAPTURED.set(Some(address(stream)));
        Self
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}

impl Stream {
    /// Records the calls that `calls` makes on this stream, without making them, and returns them as a graph.
    ///
    /// Every argument is checked as ever, and what a call uses is fixed: type, operation, plan, and the
    /// memory, which lives as long as the graph. What is in the memory is read when the graph is launched.
    /// Recording waits for nobody, so one thread may capture the ranks one after the other.
    ///
    /// | within `calls` | |
    /// |---|---|
    /// | calls of one rank on this stream, [`crate::Region::fill`] on it | recorded |
    /// | anything else with a stream, an allocation, a new stream or communicator | [`Error::Capturing`] |
    /// | drops | done, and memory given back later |
    ///
    /// Other threads may use other streams meanwhile; calls that they make on this one are recorded too. On
    /// GPUs it is best to capture while no call is in flight: the driver may take memory for the graph, and
    /// may then wait for kernels that wait for this rank.
    ///
    /// # Errors
    ///
    /// The error of `calls`; [`Error::Capturing`] if the thread or the stream is in a capture already;
    /// [`Error::Driver`] for a stream that can't be captured, and where `calls` went on after something that
    /// broke the capture. In all cases what was recorded is forgotten, and no call has been made.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator, ReduceOp};
    ///
    /// let mut ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
    /// let mut graphs = Vec::new();
    /// for rank in &mut ranks {
    ///     let stream = rank.stream().clone();
    ///     let mut buffer = rank.buffer::<u32>(1000)?;
    ///     buffer.write(&stream, &[1; 1000])?;
    ///     let graph = stream.capture(|| {
    ///         rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?;
    ///         rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)
    ///     })?;
    ///     assert_eq!(graph.calls(), 2);
    ///     graphs.push((graph, buffer, stream));
    /// }
    /// for _ in 0..3 {
    ///     for (graph, _, stream) in &graphs {
    ///         graph.launch(stream)?; // queues both calls and returns
    ///     }
    /// }
    /// for (_, buffer, stream) in &graphs {
    ///     assert_eq!(buffer.read(stream)?, [2u32.pow(6); 1000]);
    /// }
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn capture(&self, calls: impl FnOnce() -> Result<(), Error>) -> Result<Graph, Error> {
        refuse_in_capture("another capture")?;
        let recording = self.queue.begin_capture()?;
        let here = Here::begin(self);
        calls()?;
        drop(here);
        let replay = recording.end()?;
        tracing::debug!(calls = replay.calls(), "captured");
        Ok(Graph { replay })
    }
}

/// Calls of one rank, recorded by [`Stream::capture`], that a launch makes again.
///
/// # Guarantees
///
/// * A launch makes as many calls as were recorded, in their order: launches and calls mix freely, as long as
///   all ranks make the same calls in the same order. Some ranks may launch what others call one by one.
/// * What its calls use lives as long as the graph, and then until every launch is done. Memory that
///   somebody else owns must live as long by the promise that brought it in. The rings of the communicator
///   are among it.
/// * Dropping it never waits, also while it runs.
///
/// # Example
///
/// That of [`Stream::capture`].
pub struct Graph {
    replay: Box<dyn Replay>,
}

impl Graph {
    /// Calls that a launch makes.
    pub fn calls(&self) -> u64 {
        self.replay.calls()
    }

    /// Enqueues all recorded work on `stream`, which need not be the one that was captured, and returns.
    ///
    /// # Errors
    ///
    /// Found before anything is enqueued:
    ///
    /// * [`Error::Poisoned`] if an earlier call failed, [`Error::PeerGone`] if this rank or a peer was dropped.
    /// * [`Error::WrongBackend`], [`Error::WrongDevice`], [`Error::InvalidArgument`] for a stream that the
    ///   rank can't call on.
    /// * [`Error::Capturing`] while this thread captures, or the stream is captured.
    ///
    /// [`Error::Driver`] if the launch fails; the communicator is then poisoned.
    ///
    /// Found on the way: what [`crate::Communicator::all_reduce_region`] names.
    pub fn launch(&self, stream: &Stream) -> Result<(), Error> {
        refuse_in_capture("a launch of a graph")?;
        if let Some(first) = self.replay.first_error() {
            return Err(Error::Poisoned { first: Arc::new(first) });
        }
        self.replay.place().check("stream", stream.queue.place())?;
        self.replay.launch(&*stream.queue)?;
        tracing::debug!(calls = self.calls(), "graph launched");
        Ok(())
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Graph");
        shown.field("place", &self.replay.place()).field("calls", &self.calls()).finish()
    }
}
