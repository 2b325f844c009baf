//! Streams, the copies that run on them, and events.

use crate::device::Device;
use crate::driver::{call, check, check_ready, driver};
use crate::error::KernelError;
use crate::graph::Kept;
use crate::memory::DeviceSpan;
use cudarc::driver::sys;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A queue of work for one GPU. It may be used from any thread; calls from several threads queue in some
/// order.
pub struct DeviceStream {
    device: Device,
    raw: sys::CUstream,
    owned: bool,
    /// Whether anybody else may know the handle, and so may capture the stream.
    shown: AtomicBool,
    /// While a [`crate::Capture`] records the stream: what the recorded work uses.
    kept: Mutex<Option<Kept>>,
}

// SAFETY: the driver allows a stream handle on any thread.
unsafe impl Send for DeviceStream {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for DeviceStream {}

/// The driver's handle of the default stream of the calling thread.
const PER_THREAD: u64 = 2;

impl DeviceStream {
    /// A new stream that does not wait for the legacy default stream, nor make it wait.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        let _current = device.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `raw` outlives the call; the stream is destroyed in `drop`.
        unsafe { call!(cuStreamCreate(&mut raw, flags)) }?;
        Ok(Self {
            device: device.clone(),
            raw,
            owned: true,
            shown: AtomicBool::new(false),
            kept: Mutex::default(),
        })
    }

    /// Somebody else's stream, by its handle (a `cudaStream_t` or `CUstream` as an integer). Zero is the
    /// legacy default stream. It is not destroyed when this is dropped. The per-thread default stream is
    /// refused: it is another stream on each thread.
    ///
    /// # Errors
    ///
    /// [`KernelError::ForeignStream`] where it was not made in the primary context of `device`, or is the
    /// per-thread default stream.
    ///
    /// # Safety
    ///
    /// `handle` is a stream of this process that lives as long as the result.
    pub unsafe fn borrow(device: &Device, handle: u64) -> Result<Self, KernelError> {
        if handle == PER_THREAD {
            return Err(KernelError::ForeignStream { ordinal: device.ordinal() });
        }
        let _current = device.bind()?;
        let raw = handle as usize as sys::CUstream;
        let mut context = std::ptr::null_mut();
        // SAFETY: the caller vouches for the handle; the default streams answer with the current context.
        unsafe { call!(cuStreamGetCtx(raw, &mut context)) }?;
        if context != device.context() {
            return Err(KernelError::ForeignStream { ordinal: device.ordinal() });
        }
        Ok(Self {
            device: device.clone(),
            raw,
            owned: false,
            shown: AtomicBool::new(true),
            kept: Mutex::default(),
        })
    }

    /// The GPU it feeds.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the stream was made here, and so lives as long as this; else it was borrowed.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// The handle, for other libraries.
    pub fn handle(&self) -> u64 {
        // ORDER: Relaxed is enough. Whoever gets the handle to another thread orders that.
        self.shown.store(true, Ordering::Relaxed);
        self.raw as usize as u64
    }

    /// Waits until everything queued so far is done.
    ///
    /// # Errors
    ///
    /// [`KernelError::Captured`] while the stream is captured; [`KernelError::Driver`] with the failure of any
    /// of that work.
    pub fn synchronize(&self) -> Result<(), KernelError> {
        if self.kept().is_some() {
            return Err(KernelError::Captured { what: "a wait" });
        }
        let _current = self.device.bind()?;
        // SAFETY: the stream lives.
        unsafe { call!(cuStreamSynchronize(self.raw)) }
    }

    /// Whether everything queued so far is done.
    ///
    /// # Errors
    ///
    /// As for [`DeviceStream::synchronize`].
    pub fn query(&self) -> Result<bool, KernelError> {
        let _eager = self.not_captured("a question")?;
        let _current = self.device.bind()?;
        // SAFETY: the stream lives.
        check_ready("cuStreamQuery", unsafe { sys::cuStreamQuery(self.raw) })
    }

    /// Makes work queued here from now on wait for `event`, which may be of another GPU.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn wait(&self, event: &DeviceEvent) -> Result<(), KernelError> {
        let _current = self.device.bind()?;
        // SAFETY: both handles live; zero is the default kind of wait.
        unsafe { call!(cuStreamWaitEvent(self.raw, event.raw, 0)) }
    }

    /// Makes `event` stand for the work queued here so far.
    ///
    /// # Errors
    ///
    /// [`KernelError::WrongDevice`] where the event was made for another GPU; [`KernelError::Driver`].
    pub fn record(&self, event: &DeviceEvent) -> Result<(), KernelError> {
        self.owns("the event", event.device.ordinal())?;
        let _current = self.device.bind()?;
        // SAFETY: both handles live and share a context.
        unsafe { call!(cuEventRecord(event.raw, self.raw)) }
    }

    /// Queues the setting of every byte of `span`.
    ///
    /// # Errors
    ///
    /// [`KernelError::WrongDevice`]; [`KernelError::Driver`].
    ///
    /// # Safety
    ///
    /// The memory lives, and nobody else touches it, until the stream has passed this.
    pub unsafe fn fill(&self, span: DeviceSpan, byte: u8) -> Result<(), KernelError> {
        let _eager = self.not_captured("this fill")?;
        // SAFETY: the caller vouches for the memory.
        unsafe { self.fill_or_record(span, byte) }
    }

    /// [`DeviceStream::fill`], also into a capture.
    ///
    /// # Safety
    ///
    /// As there; for a capture, the memory lives and is left alone as long as the graph is run.
    pub(crate) unsafe fn fill_or_record(&self, span: DeviceSpan, byte: u8) -> Result<(), KernelError> {
        self.owns("the span", span.ordinal())?;
        if span.bytes() == 0 {
            return Ok(());
        }
        let _current = self.device.bind()?;
        // SAFETY: the caller vouches for the memory.
        unsafe { call!(cuMemsetD8Async(span.address(), byte, span.bytes(), self.raw)) }
    }

    /// Queues a copy from the host to the start of `to`.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfBounds`]; [`KernelError::WrongDevice`]; [`KernelError::Driver`].
    ///
    /// # Safety
    ///
    /// `from` is not changed, and the memory lives and nobody else touches it, until the stream has
    /// passed this.
    pub unsafe fn copy_to_device(&self, to: DeviceSpan, from: &[u8]) -> Result<(), KernelError> {
        let _eager = self.not_captured("this copy")?;
        self.owns("the span", to.ordinal())?;
        let to = to.part(0, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        let _current = self.device.bind()?;
        // SAFETY: the lengths agree; the caller vouches for both sides.
        unsafe { call!(cuMemcpyHtoDAsync_v2(to.address(), from.as_ptr().cast(), from.len(), self.raw)) }
    }

    /// Queues a copy from the start of `from` to the host.
    ///
    /// # Errors
    ///
    /// As for [`DeviceStream::copy_to_device`].
    ///
    /// # Safety
    ///
    /// `to` is not touched, and the memory lives and nobody else writes it, until the stream has passed
    /// this.
    pub unsafe fn copy_to_host(&self, to: &mut [u8], from: DeviceSpan) -> Result<(), KernelError> {
        let _eager = self.not_captured("this copy")?;
        self.owns("the span", from.ordinal())?;
        let from = from.part(0, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        let _current = self.device.bind()?;
        // SAFETY: the lengths agree; the caller vouches for both sides.
        unsafe { call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.address(), to.len(), self.raw)) }
    }

    /// Queues a copy of `from` to the start of `to`, both on this GPU.
    ///
    /// # Errors
    ///
    /// As for [`DeviceStream::copy_to_device`].
    ///
    /// # Safety
    ///
    /// The two do not overlap, live until the stream has passed this, and until then nobody else writes
    /// `from` or touches `to`.
    pub unsafe fn copy(&self, to: DeviceSpan, from: DeviceSpan) -> Result<(), KernelError> {
        let _eager = self.not_captured("this copy")?;
        self.owns("the span", to.ordinal())?;
        self.owns("the span", from.ordinal())?;
        let to = to.part(0, from.bytes())?;
        if from.bytes() == 0 {
            return Ok(());
        }
        let _current = self.device.bind()?;
        // SAFETY: the lengths agree; the caller vouches for both sides.
        unsafe { call!(cuMemcpyDtoDAsync_v2(to.address(), from.address(), from.bytes(), self.raw)) }
    }

    /// Queues `task` to run on a thread of the driver when its turn comes. Work behind it waits for it.
    ///
    /// The task must not call the driver, nor wait for its own stream, and a panic in it ends the process.
    ///
    /// # Errors
    ///
    /// [`KernelError::Captured`], because it runs once; [`KernelError::Driver`]. In both cases the task is dropped and never runs.
    pub fn host_task(&self, task: Box<dyn FnOnce() + Send>) -> Result<(), KernelError> {
        unsafe extern "C" fn run(task: *mut std::ffi::c_void) {
            // SAFETY: the pointer came from `into_raw` below, and the driver calls this once.
            let task = unsafe { Box::from_raw(task.cast::<Box<dyn FnOnce() + Send>>()) };
            task();
        }
        let _eager = self.not_captured("a task")?;
        let _current = self.device.bind()?;
        let task = Box::into_raw(Box::new(task));
        // SAFETY: the stream lives; `run` takes what `task` points to.
        let queued = unsafe { call!(cuLaunchHostFunc(self.raw, Some(run), task.cast())) };
        if queued.is_err() {
            // SAFETY: nothing was queued, so the box is still ours.
            drop(unsafe { Box::from_raw(task) });
        }
        queued
    }

    /// Whether anybody captures the stream, by a [`crate::Capture`] or by other means.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn is_captured(&self) -> Result<bool, KernelError> {
        match self.not_captured("") {
            Ok(_) => Ok(false),
            Err(KernelError::Captured { .. }) => Ok(true),
            Err(other) => Err(other),
        }
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// What a capture of ours keeps; none while there is no such capture. As long as the guard is held, none
    /// begins or ends.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses `what` if anybody captures the stream: it would be carried out later, and more than once, with
    /// memory that nobody keeps. As long as the guard is held, no capture of ours begins.
    pub(crate) fn not_captured(
        &self,
        what: &'static str,
    ) -> Result<MutexGuard<'_, Option<Kept>>, KernelError> {
        let kept = self.kept();
        if kept.is_some() {
            return Err(KernelError::Captured { what });
        }
        self.not_captured_by_others(what)?;
        Ok(kept)
    }

    /// Refuses `what` if the stream is captured by other means than [`crate::Capture`]. Asked while that one
    /// does not capture it.
    pub(crate) fn not_captured_by_others(&self, what: &'static str) -> Result<(), KernelError> {
        // ORDER: Relaxed is enough, as in `handle`.
        if !self.shown.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _current = self.device.bind()?;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream lives; `status` outlives the call.
        unsafe { call!(cuStreamIsCapturing(self.raw, &mut status)) }?;
        match status {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(KernelError::Captured { what }),
        }
    }

    fn owns(&self, what: &'static str, seen: usize) -> Result<(), KernelError> {
        let needed = self.device.ordinal();
        if seen == needed { Ok(()) } else { Err(KernelError::WrongDevice { what, needed, seen }) }
    }
}

impl fmt::Debug for DeviceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceStream({:#x} of GPU {})", self.raw as usize, self.device.ordinal())
    }
}

impl Drop for DeviceStream {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // SAFETY: created by us, destroyed once. The driver returns at once and lets queued work finish.
        let destroyed =
            self.device.bind().and_then(|_current| unsafe { call!(cuStreamDestroy_v2(self.raw)) });
        if let Err(error) = destroyed {
            tracing::debug!(%error, "destroying a stream");
        }
    }
}

/// A point in a stream.
pub struct DeviceEvent {
    device: Device,
    raw: sys::CUevent,
}

// SAFETY: the driver allows an event handle on any thread.
unsafe impl Send for DeviceEvent {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for DeviceEvent {}

impl DeviceEvent {
    /// An event for ordering alone, which is the cheaper kind.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        Self::create(device, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event that remembers when it was passed.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn with_timing(device: &Device) -> Result<Self, KernelError> {
        Self::create(device, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn create(device: &Device, flags: sys::CUevent_flags) -> Result<Self, KernelError> {
        let _current = device.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` outlives the call; the event is destroyed in `drop`.
        unsafe { call!(cuEventCreate(&mut raw, flags as u32)) }?;
        Ok(Self { device: device.clone(), raw })
    }

    /// The GPU it was made for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until the work it was recorded after is done; returns at once where it was never recorded.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`] with the failure of any of that work.
    pub fn synchronize(&self) -> Result<(), KernelError> {
        let _current = self.device.bind()?;
        // SAFETY: the event lives.
        unsafe { call!(cuEventSynchronize(self.raw)) }
    }

    /// Whether the work it was recorded after is done.
    ///
    /// # Errors
    ///
    /// As for [`DeviceEvent::synchronize`].
    pub fn query(&self) -> Result<bool, KernelError> {
        let _current = self.device.bind()?;
        // SAFETY: the event lives.
        check_ready("cuEventQuery", unsafe { sys::cuEventQuery(self.raw) })
    }

    /// Microseconds from this event to `end`; both were made with timing, recorded and passed.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`], with `CUDA_ERROR_NOT_READY` where one has not been passed yet and
    /// `CUDA_ERROR_INVALID_HANDLE` where one has no timing or was never recorded.
    pub fn elapsed_us(&self, end: &Self) -> Result<f64, KernelError> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        const NAME: &str = "cuEventElapsedTime";
        // The plain name is in every driver; the bindings of CUDA 13 know only its second version, which
        // drivers before 12.8 lack.
        // SAFETY: that is the function's type in every version of the driver.
        let elapsed = unsafe { driver()?.optional::<Elapsed>(NAME) };
        let elapsed = elapsed.ok_or(KernelError::OldDriver { missing: NAME })?;
        let _current = self.device.bind()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: the place and both events outlive the call.
        check(NAME, unsafe { elapsed(&mut milliseconds, self.raw, end.raw) })?;
        Ok(f64::from(milliseconds) * 1e3)
    }
}

impl fmt::Debug for DeviceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceEvent(GPU {})", self.device.ordinal())
    }
}

impl Drop for DeviceEvent {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once; the driver keeps it until work that waits for it is done.
        let destroyed = self.device.bind().and_then(|_current| unsafe { call!(cuEventDestroy_v2(self.raw)) });
        if let Err(error) = destroyed {
            tracing::debug!(%error, "destroying an event");
        }
    }
}
