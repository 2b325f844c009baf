//! Memory that collectives work on: regions of bytes, and buffers of elements.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use myelon_kernel::{DeviceSpan, ForeignMemory};
use myelon_ring::ForeignBytes;

use crate::backend::{Memory, Place};
use crate::cuda;
use crate::dtype::Element;
use crate::error::Error;
use crate::graph::{refuse_beside_capture, refuse_in_capture};
use crate::host::HostMemory;
use crate::stream::Stream;

/// A range of bytes of one rank's memory, without a type. A clone is the same bytes, which live as long as
/// any region of them.
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator};
///
/// let ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
/// let region = ranks[0].region(16)?;
/// let half = region.slice(8..16)?;
/// half.write_bytes(ranks[0].stream(), &[7; 8])?;
/// assert_eq!(region.read_bytes(ranks[0].stream())?[7..9], [0, 7]);
/// assert!(region.slice(8..17).is_err());
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone)]
pub struct Region {
    memory: Arc<dyn Memory>,
    start: usize,
    bytes: usize,
}

impl Region {
    pub(crate) fn new(memory: Arc<dyn Memory>, bytes: usize) -> Self {
        Self { memory, start: 0, bytes }
    }

    /// Host memory that somebody else owns, for the host backend; any rank may use it.
    ///
    /// Raw pointers come in here: making [`ForeignBytes`] is the unsafe step, and says what is promised.
    /// The memory must live as long as any clone or slice of the region and as any call on it.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator, DataType, ReduceOp, Region};
    /// use myelon_ring::ForeignBytes;
    ///
    /// let mut theirs = [[1.5f32; 3], [2.0; 3]];
    /// let mut ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
    /// for (rank, values) in ranks.iter_mut().zip(&mut theirs) {
    ///     // SAFETY: `theirs` outlives the communicators and their calls, and nobody touches it meanwhile.
    ///     let bytes = unsafe { ForeignBytes::new(values.as_mut_ptr().cast(), size_of_val(values)) };
    ///     let region = Region::host_foreign(bytes);
    ///     let stream = rank.stream().clone();
    ///     rank.all_reduce_region(&region, &region, DataType::F32, ReduceOp::Sum, &stream)?;
    /// }
    /// for rank in &ranks {
    ///     rank.stream().synchronize()?;
    /// }
    /// drop(ranks);
    /// assert_eq!(theirs, [[3.5; 3]; 2]);
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn host_foreign(bytes: ForeignBytes) -> Self {
        let length = bytes.len();
        Self::new(Arc::new(HostMemory::foreign(bytes)), length)
    }

    /// Device memory that somebody else owns, for the CUDA backend: a raw pointer, whatever allocated it.
    ///
    /// Making the span, by `Device::span` of [`crate::Communicator::device`], is the unsafe step, and says
    /// what is promised. The memory must live as long as any clone or slice of the region and as any call
    /// on it.
    pub fn device_foreign(span: DeviceSpan) -> Self {
        cuda::foreign_region(span)
    }

    /// Device memory that somebody else allocated, for the CUDA backend, with the value that keeps it: that is dropped
    /// when the last region of the memory is, and nothing that was enqueued uses it any more, on any rank. So it may be
    /// dropped at any time, and it may be registered: [`crate::Communicator::register`].
    ///
    /// What keeps it is dropped on a thread that does nothing else. Where that frees memory by a call which waits for the GPU, as
    /// `cudaFree` does, the thread waits for calls that other ranks still have to join, and the driver may hold up whatever else
    /// is asked of that GPU meanwhile.
    ///
    /// [`ForeignMemory::new`] is the unsafe step, and says what is promised.
    pub fn device_owned(memory: ForeignMemory) -> Self {
        cuda::owned_region(memory)
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes of `range`, counted from the start of this region; the same memory.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the range does not lie within the region.
    pub fn slice(&self, range: Range<usize>) -> Result<Self, Error> {
        if range.start > range.end || range.end > self.bytes {
            let needed = format!("a range within 0..{}", self.bytes);
            return Err(Error::invalid("slice of a region", needed, format_args!("{range:?}")));
        }
        Ok(Self { memory: self.memory.clone(), start: self.start + range.start, bytes: range.len() })
    }

    /// Writes all of the region: after earlier work on `stream`, and done on return.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if `bytes` has another length, [`Error::WrongBackend`] or
    /// [`Error::WrongDevice`] if the stream is elsewhere, and what [`Stream::synchronize`] reports; nothing
    /// has been written.
    pub fn write_bytes(&self, stream: &Stream, bytes: &[u8]) -> Result<(), Error> {
        refuse_in_capture("a write")?;
        if bytes.len() != self.bytes {
            return Err(Error::invalid("bytes to write", format!("{} bytes", self.bytes), bytes.len()));
        }
        self.place().check("stream", stream.queue.place())?;
        self.memory.write(&*stream.queue, self.start, bytes)
    }

    /// The bytes of the region, after earlier work on `stream`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongBackend`] or [`Error::WrongDevice`] if the stream is elsewhere, and what
    /// [`Stream::synchronize`] reports.
    pub fn read_bytes(&self, stream: &Stream) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.bytes];
        self.read_into(stream, &mut bytes)?;
        Ok(bytes)
    }

    /// Enqueues the setting of every byte of the region, and returns. A capture of `stream` records it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongBackend`] or [`Error::WrongDevice`] if the stream is elsewhere, [`Error::Capturing`] while
    /// this thread captures another stream, [`Error::Driver`] on a GPU.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator};
    ///
    /// let ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
    /// let region = ranks[0].region(4)?;
    /// region.slice(1..3)?.fill(ranks[0].stream(), 7)?;
    /// assert_eq!(region.read_bytes(ranks[0].stream())?, [0, 7, 7, 0]);
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn fill(&self, stream: &Stream, byte: u8) -> Result<(), Error> {
        refuse_beside_capture(stream, "a fill on another stream")?;
        self.place().check("stream", stream.queue.place())?;
        self.memory.clone().fill(&*stream.queue, self.start, self.bytes, byte)
    }

    fn read_into(&self, stream: &Stream, bytes: &mut [u8]) -> Result<(), Error> {
        refuse_in_capture("a read")?;
        self.place().check("stream", stream.queue.place())?;
        self.memory.read(&*stream.queue, self.start, bytes)
    }

    pub(crate) fn place(&self) -> Place {
        self.memory.place()
    }

    pub(crate) fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// Where the region starts in its memory.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn addresses(&self) -> Range<u64> {
        let start = self.memory.address() + self.start as u64;
        start..start + self.bytes as u64
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { backend, device } = self.place();
        f.debug_struct("Region")
            .field("backend", &backend)
            .field("device", &device)
            .field("addresses", &format_args!("{:#x?}", self.addresses()))
            .finish()
    }
}

/// `len` elements of type `T` in one rank's memory: see [`crate::Communicator::buffer`].
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator};
///
/// let ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
/// let mut buffer = ranks[0].buffer::<i32>(3)?;
/// buffer.write(ranks[0].stream(), &[1, 2, 3])?;
/// assert_eq!(buffer.read(ranks[0].stream())?, [1, 2, 3]);
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
pub struct Buffer<T> {
    region: Region,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(region: Region, len: usize) -> Self {
        Self { region, len, element: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of its bytes.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The bytes of the elements in `range`.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the buffer, as with a slice.
    pub fn slice(&self, range: Range<usize>) -> Region {
        let Range { start, end } = range;
        assert!(start <= end && end <= self.len, "elements {range:?} of a buffer of {}", self.len);
        self.region.slice(start * size_of::<T>()..end * size_of::<T>()).expect("checked above")
    }

    /// Writes all elements: after earlier work on `stream`, and done on return.
    ///
    /// # Errors
    ///
    /// Those of [`Region::write_bytes`].
    pub fn write(&mut self, stream: &Stream, elements: &[T]) -> Result<(), Error> {
        self.region.write_bytes(stream, bytemuck::cast_slice(elements))
    }

    /// The elements, after earlier work on `stream`.
    ///
    /// # Errors
    ///
    /// Those of [`Region::read_bytes`].
    pub fn read(&self, stream: &Stream) -> Result<Vec<T>, Error> {
        let mut elements = vec![T::zeroed(); self.len];
        self.region.read_into(stream, bytemuck::cast_slice_mut(&mut elements))?;
        Ok(elements)
    }
}

impl<T: Element> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("dtype", &T::DTYPE).field("len", &self.len).finish_non_exhaustive()
    }
}
