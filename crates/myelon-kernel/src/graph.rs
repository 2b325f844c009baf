//! Graphs: work of a stream that is recorded once, by a capture, and replayed by one launch.

use crate::device::Device;
use crate::driver::{call, driver};
use crate::error::KernelError;
use crate::shared::{Prepared, StreamUse, Users, reap};
use crate::stream::DeviceStream;
use cudarc::driver::sys;
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// What captured work uses. It lives as long as the graph, and then until no stream runs the graph any more.
#[derive(Default)]
pub(crate) struct Kept {
    things: Vec<Box<dyn Any + Send + Sync>>,
    /// Each launch of the graph is a use of these, too.
    users: Vec<Arc<Users>>,
}

impl Kept {
    pub fn keep(&mut self, thing: impl Send + Sync + 'static) {
        self.things.push(Box::new(thing));
    }

    /// Who asks `users` is to know of every launch of the graph.
    pub fn tell(&mut self, users: &Arc<Users>) {
        if !self.users.iter().any(|known| Arc::ptr_eq(known, users)) {
            self.users.push(users.clone());
        }
    }
}

thread_local! {
    /// Whether a capture of this thread is under way: until it ends, the driver must not be asked about
    /// other work.
    static CAPTURES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread captures a stream.
pub(crate) fn thread_captures() -> bool {
    CAPTURES.get()
}

/// Lets this thread, which captures nothing, ask the driver about work whatever other threads capture. A capture by
/// other means may else forbid it, and be broken by the question.
///
/// # Errors
///
/// [`KernelError::NoDriver`] and what else finding it reports; [`KernelError::Driver`].
pub fn leave_captures_alone() -> Result<(), KernelError> {
    driver()?;
    exchange(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map(drop)
}

/// Sets what captures forbid this thread; returns what it was.
fn exchange(mut mode: sys::CUstreamCaptureMode) -> Result<sys::CUstreamCaptureMode, KernelError> {
    // SAFETY: `mode` outlives the call, which leaves the mode before there.
    unsafe { call!(cuThreadExchangeStreamCaptureMode(&mut mode)) }?;
    Ok(mode)
}

/// As long as this lives, captures by other means forbid this thread nothing and are not broken by it, not even its own. What
/// it does then has nothing to do with them.
pub(crate) struct Beside(Option<sys::CUstreamCaptureMode>, PhantomData<*const ()>);

impl Beside {
    pub fn begin() -> Self {
        let before = exchange(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
        Self(
            before.inspect_err(|error| tracing::debug!(%error, "captures go on as they are")).ok(),
            PhantomData,
        )
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let after = self.0.take().map(exchange);
        if let Some(Err(error)) = after {
            tracing::debug!(%error, "what captures forbid this thread stays changed");
        }
    }
}

/// A stream whose work is recorded and not carried out, until this is ended or dropped.
///
/// Other threads may go on using other streams. Dropping it forgets what was recorded.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use myelon_kernel::{Capture, Device, DeviceStream, KernelError};
///
/// fn nothing_twice(device: &Device) -> Result<(), KernelError> {
///     let stream = Arc::new(DeviceStream::new(device)?);
///     let graph = Capture::begin(&stream)?.end()?;
///     graph.launch(&stream)?;
///     graph.launch(&stream)?;
///     stream.synchronize()
/// }
/// # if let Ok(device) = Device::open(0) { nothing_twice(&device).unwrap() }
/// ```
#[derive(Debug)]
pub struct Capture {
    stream: Arc<DeviceStream>,
    under_way: bool,
    /// The driver ends a capture on the thread that began it.
    _this_thread: PhantomData<*const ()>,
}

impl Capture {
    /// Begins to record what is queued on `stream`, by whatever thread.
    ///
    /// # Errors
    ///
    /// [`KernelError::Captured`] where the stream is captured already, or this thread captures another;
    /// [`KernelError::Driver`], as for the legacy default stream, which can't be captured.
    pub fn begin(stream: &Arc<DeviceStream>) -> Result<Self, KernelError> {
        if thread_captures() {
            return Err(KernelError::Captured { what: "another capture" });
        }
        let mut kept = stream.kept();
        if kept.is_some() {
            return Err(KernelError::Captured { what: "another capture" });
        }
        let _current = stream.device().bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives; `end` or `drop` ends the capture, on this thread.
        unsafe { call!(cuStreamBeginCapture_v2(stream.raw(), mode)) }?;
        *kept = Some(Kept::default());
        CAPTURES.set(true);
        drop(kept);
        Ok(Self { stream: stream.clone(), under_way: true, _this_thread: PhantomData })
    }

    /// Ends the recording, makes it ready to launch, and queues its upload to the GPU on the stream.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`], where something that can't be captured was tried meanwhile, or memory is
    /// short. What was recorded is forgotten.
    pub fn end(mut self) -> Result<DeviceGraph, KernelError> {
        let device = self.stream.device().clone();
        let _current = device.bind()?;
        let (template, kept) = self.finish()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: both handles live; zero is no flag.
        unsafe { call!(cuGraphInstantiateWithFlags(&mut raw, template.0, 0)) }?;
        let parts = Arc::new(Parts { exec: Mutex::new(Exec { device: device.clone(), raw }), kept });
        let graph = DeviceGraph { device: device.clone(), parts: Some(parts), users: Users::default() };
        let prepared = Prepared::new(&self.stream)?;
        // SAFETY: both handles live, and the graph stays until the stream has passed this, by the line below.
        unsafe { call!(cuGraphUpload(raw, self.stream.raw())) }?;
        graph.runs_on(&self.stream, prepared)?;
        Ok(graph)
    }

    /// Ends the capture, and nothing else.
    fn finish(&mut self) -> Result<(Template, Kept), KernelError> {
        self.under_way = false;
        let _current = self.stream.device().bind()?;
        let mut template = std::ptr::null_mut();
        let mut kept = self.stream.kept();
        // SAFETY: the stream lives and is captured; `template` outlives the call.
        let ended = unsafe { call!(cuStreamEndCapture(self.stream.raw(), &mut template)) };
        let recorded = kept.take().unwrap_or_default();
        CAPTURES.set(false);
        // What was recorded may be dropped by the next line, and then asks this stream whether it is done.
        drop(kept);
        ended.map(|()| (Template(template), recorded))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.under_way {
            let device = self.stream.device().clone();
            let _current = device.bind();
            if let Err(error) = self.finish() {
                tracing::debug!(%error, "a capture was given up");
            }
        }
    }
}

/// What was captured, from which graphs that can be launched are made.
struct Template(sys::CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: made by the capture, destroyed once; what was instantiated from it does not need it.
        let destroyed = unsafe { call!(cuGraphDestroy(self.0)) };
        if let Err(error) = destroyed {
            tracing::debug!(%error, "destroying a captured graph");
        }
    }
}

/// A graph on the GPU.
struct Exec {
    device: Device,
    raw: sys::CUgraphExec,
}

// SAFETY: the driver allows the handle on any thread, one at a time, for which it lies behind a lock.
unsafe impl Send for Exec {}

impl Drop for Exec {
    fn drop(&mut self) {
        // SAFETY: made by us, destroyed once, when no stream runs it any more.
        let destroyed =
            self.device.bind().and_then(|_current| unsafe { call!(cuGraphExecDestroy(self.raw)) });
        if let Err(error) = destroyed {
            tracing::debug!(%error, "destroying a graph");
        }
    }
}

/// What must stay while a stream runs the graph, dropped in this order.
struct Parts {
    exec: Mutex<Exec>,
    kept: Kept,
}

/// Captured work, which a launch carries out again. It may be launched from any thread, and dropped at any
/// time: what it uses stays until the streams that run it have passed it.
pub struct DeviceGraph {
    device: Device,
    /// `None` only while it is dropped.
    parts: Option<Arc<Parts>>,
    users: Users,
}

impl DeviceGraph {
    /// The GPU it was captured for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Queues all of it on `stream`. Calls of [`crate::RankRings`] in it must keep the order that they keep
    /// when they are queued one by one.
    ///
    /// # Errors
    ///
    /// [`KernelError::WrongDevice`]; [`KernelError::Captured`] for a stream that is being captured;
    /// [`KernelError::Driver`].
    pub fn launch(&self, stream: &Arc<DeviceStream>) -> Result<StreamUse, KernelError> {
        let (needed, seen) = (self.device.ordinal(), stream.device().ordinal());
        if needed != seen {
            return Err(KernelError::WrongDevice { what: "the stream", needed, seen });
        }
        let parts = self.parts.as_ref().expect("taken only by drop");
        let prepared = Prepared::new(stream)?;
        let exec = parts.exec.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = stream.not_captured("a launch of a graph")?;
        let _current = self.device.bind()?;
        // SAFETY: both handles live, and the graph stays until the stream has passed this, by the lines
        // below. So does the memory that it uses, which `parts` keeps, or foreign memory's promise does.
        unsafe { call!(cuGraphLaunch(exec.raw, stream.raw())) }?;
        drop((kept, exec));
        self.runs_on(stream, prepared)
    }

    /// From now on `stream` uses it.
    fn runs_on(&self, stream: &DeviceStream, prepared: Prepared) -> Result<StreamUse, KernelError> {
        let work = prepared.queued(stream).inspect_err(|_| {
            // Nobody can tell when the stream has passed it: it stays.
            std::mem::forget(self.parts.clone());
        })?;
        self.users.add(&work);
        let kept = self.parts.iter().flat_map(|parts| &parts.kept.users);
        kept.for_each(|users| users.add(&work));
        Ok(work)
    }
}

impl fmt::Debug for DeviceGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceGraph(GPU {})", self.device.ordinal())
    }
}

impl Drop for DeviceGraph {
    fn drop(&mut self) {
        reap();
        self.users.bury(&[], Box::new(self.parts.take()));
    }
}
