//! A rank's end of a communicator: what users call.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use myelon_kernel::{Device, DeviceStream};
use myelon_lanes::{Choice, Origin, Plan, Pool, Request, Table, Tuning, Why};

use crate::backend::{Backend, Call, Place, RankBackend};
use crate::builder::Builder;
use crate::call::{COUNT_MAX, CallWord};
use crate::dtype::{DataType, Element};
use crate::error::Error;
use crate::graph::{is_captured, refuse_beside_capture, refuse_in_capture};
use crate::memory::{Buffer, Region};
use crate::op::ReduceOp;
use crate::stream::Stream;
use crate::tuning_file::Tuned;

/// One rank of a group that makes collective calls together.
///
/// All ranks make the same calls in the same order, from one thread or from one thread each. A call
/// enqueues its work on a stream and returns. The calls of one rank are done in the order they were made,
/// whatever streams they are on.
///
/// # Guarantees
///
/// * **Same bits.** [`crate::reference`] says what is computed, bit for bit: the same on every rank, for
///   every size, plan and backend; but for calls by neighbours, which must be allowed
///   ([`Builder::any_order`]) and forced, and are [`crate::reference::by_neighbours`].
/// * **Stream order.** Work before a call on its stream is seen by it; work behind it sees its result.
/// * **It ends.** A rank that waits longer than the deadline gives up, and all others with it. The error
///   comes from the next wait on the stream, and the communicator is poisoned: every later call on any rank
///   fails with [`Error::Poisoned`].
/// * **Graphs.** [`Stream::capture`] records calls, and a [`crate::Graph`] makes them again, mixed with calls
///   that are made one by one.
/// * **Disagreement is an error.** Ranks whose calls differ find out: [`Error::Disagreement`].
/// * **GPUs are shared in order.** Kernels of two communicators that run on one GPU at the same time need room
///   beside each other, or the same order on all ranks; else they wait for each other until the deadline.
/// * **Dropping waits for no call**; at most a second for memory of a peer that is just being closed, where ranks are
///   processes. Calls in flight that need the dropped rank end with [`Error::PeerGone`], so synchronize first. Streams and memory of a dropped communicator stay usable.
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator, ReduceOp};
///
/// let mut ranks = Communicator::builder().backend(Backend::Host).ranks(3).build()?;
/// let mut buffers = Vec::new();
/// for rank in &mut ranks {
///     let stream = rank.stream().clone();
///     let mut buffer = rank.buffer::<f32>(4)?;
///     buffer.write(&stream, &[rank.rank() as f32; 4])?;
///     rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?; // returns at once
///     buffers.push(buffer);
/// }
/// for (rank, buffer) in ranks.iter().zip(&buffers) {
///     assert_eq!(buffer.read(rank.stream())?, [0.0 + 1.0 + 2.0; 4]);
/// }
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
pub struct Communicator {
    rank: usize,
    ranks: usize,
    pub(crate) backend: Box<dyn RankBackend>,
    reason: String,
    tuning: Tuning,
    tuned: Arc<Tuned>,
    pool: Pool,
    stream: Stream,
    last_launch: Option<Launch>,
    /// What earlier calls were planned to be: a call of the same size again is not planned again.
    choices: Vec<(Size, Choice)>,
}

/// What a plan follows from: bytes of the payload and of an element, and whether memory is staged in spite of the promise
/// that all is windows.
type Size = (u64, u32, bool);

/// So many sizes are remembered.
const CHOICES_MAX: usize = 64;

/// What a call launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's symbol, or what stands for it on the host: `host_ring_f32_sum`.
    pub kernel: String,
    /// Blocks; on the host worker threads.
    pub grid: u32,
    /// Threads a block.
    pub block: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The plan that was carried out.
    pub plan: Plan,
    /// Why this plan.
    pub why: Why,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Number of ranks.
    pub ranks: usize,
}

impl Communicator {
    /// Begins to make communicators; nothing of the environment is read, unlike [`Builder::from_env`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// This process's rank of a communicator over several processes: rank, number of ranks and meeting point are
    /// what `torchrun`, `mpirun`, `srun` or the `MYELON_` names say, all else is as [`Builder::from_env`] has it. See
    /// [`crate::Launcher`] for the names. Returns when all ranks are there.
    ///
    /// The same calls mean the same as over threads. A peer whose process dies is noticed at once: calls in flight
    /// end with [`Error::PeerDead`], and later ones fail with it. So a program drops its communicator before it ends.
    /// What happens to one rank reaches the others as a message, so a call that is made in the same moment may still
    /// be enqueued, and fail on its way.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::from_env`], of [`crate::Process::from_env`] and of [`Builder::join`].
    ///
    /// # Example
    ///
    /// ```no_run
    /// use myelon_collectives::{Communicator, ReduceOp};
    ///
    /// let mut rank = Communicator::from_env()?; // e.g. torchrun --nproc-per-node 4 --no-python ./program
    /// let stream = rank.stream().clone();
    /// let mut buffer = rank.buffer::<f32>(1000)?;
    /// buffer.write(&stream, &[rank.rank() as f32; 1000])?;
    /// rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?;
    /// println!("rank {} of {}: {}", rank.rank(), rank.ranks(), buffer.read(&stream)?[0]);
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn from_env() -> Result<Self, Error> {
        Builder::from_env()?.join(&crate::Process::from_env()?)
    }

    pub(crate) fn new(
        rank: usize,
        ranks: usize,
        backend: Box<dyn RankBackend>,
        tuned: Arc<Tuned>,
        reason: String,
    ) -> Result<Self, Error> {
        let stream = Stream { queue: backend.new_stream()? };
        let tuning = tuned.tuning.clone();
        let pool = tuning.pool(ranks as u32)?;
        let choices = Vec::new();
        Ok(Self { rank, ranks, backend, reason, tuning, tuned, pool, stream, last_launch: None, choices })
    }

    /// This rank's place, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// The backend in use, never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.backend.place().backend
    }

    /// Why this backend is in use, in words.
    pub fn backend_reason(&self) -> &str {
        &self.reason
    }

    /// Which tuning table plans follow, or `none: ` and why none, in words.
    pub fn table_reason(&self) -> &str {
        &self.tuned.reason
    }

    /// What a tuning file has to be measured on to be taken here.
    pub fn origin(&self) -> &Origin {
        &self.tuned.origin
    }

    /// What plans the calls.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Plans later calls by `tuning`, in the rings that are there; what buffers were promised stays. For measuring
    /// one plan after the other. All ranks do so between the same calls, or find out by
    /// [`Error::Disagreement`]; calls that were made, or recorded in a graph, keep their plan.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] if the tuning has no pool for these ranks, [`Error::InvalidArgument`] if that has no room in
    /// the rings, or the tuning is for the other kind of machine. The tuning is then as it was.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator, DataType};
    /// use myelon_lanes::Forced;
    ///
    /// let mut ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
    /// for rank in &mut ranks {
    ///     let forced = Forced { lanes: Some(1), ..Forced::default() };
    ///     rank.retune(rank.tuning().clone().forced(forced))?;
    ///     assert_eq!(rank.explain(DataType::F32, 1 << 20)?.plan.lanes, 1);
    ///     let wide = Forced { lanes: Some(64), ..Forced::default() };
    ///     assert!(rank.retune(rank.tuning().clone().forced(wide)).is_err());
    /// }
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn retune(&mut self, tuning: Tuning) -> Result<(), Error> {
        let tuning = tuning.windows(self.tuning.has_windows()).any_order(self.tuning.has_any_order());
        if tuning.machine().host != self.tuning.machine().host {
            let (needed, seen) = (self.tuning.machine(), tuning.machine());
            return Err(Error::invalid("tuning", format!("one for {}", needed.name), &seen.name));
        }
        let pool = tuning.pool(self.ranks as u32)?;
        if !self.pool.holds(&pool) {
            return Err(Error::invalid("tuning", format!("one that fits rings of {}", self.pool), pool));
        }
        self.tuning = tuning;
        // What was planned before says nothing any more.
        self.choices.clear();
        Ok(())
    }

    /// Bytes of this rank's window, rings and room for packets, allocated when the communicator was made; calls allocate none.
    pub fn ring_bytes(&self) -> u64 {
        self.backend.ring_bytes()
    }

    /// The file in which this rank records its last calls, for `myelon top` and `myelon doctor`; none where
    /// [`Builder::record`] said so or where it could not be had. It is removed when the rank is dropped, unless the
    /// communicator has failed: then it stays until this user's next communicator is opened, in this process or,
    /// once this one has ended, in any.
    pub fn record_file(&self) -> Option<&Path> {
        self.backend.record().file()
    }

    /// What this rank runs on.
    pub fn device_name(&self) -> String {
        self.backend.device_name()
    }

    /// A buffer of `len` zeros in this rank's memory.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Capturing`] while this thread captures a stream.
    pub fn buffer<T: Element>(&self, len: usize) -> Result<Buffer<T>, Error> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| Error::OutOfMemory {
            what: format!("a buffer of {len} elements of {}", T::DTYPE),
            reason: "it is larger than the address space".into(),
        })?;
        Ok(Buffer::new(self.region(bytes)?, len))
    }

    /// `bytes` zero bytes of this rank's memory.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Capturing`] while this thread captures a stream.
    pub fn region(&self, bytes: usize) -> Result<Region, Error> {
        refuse_in_capture("an allocation")?;
        Ok(Region::new(self.backend.allocate(bytes)?, bytes))
    }

    /// The stream that this rank came with. Clone it to pass it to a call of the same communicator.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Another stream of this rank.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] or [`Error::Driver`]; [`Error::Capturing`] while this thread captures a stream.
    pub fn new_stream(&self) -> Result<Stream, Error> {
        refuse_in_capture("a new stream")?;
        Ok(Stream { queue: self.backend.new_stream()? })
    }

    /// The GPU of this rank; none on the host. Raw pointers and streams come in through it: its
    /// `span` makes a [`Region`] by [`Region::device_foreign`], and `DeviceStream::borrow` a [`Stream`] by
    /// [`Communicator::adopt_stream`]. Both are unsafe and say what is promised.
    pub fn device(&self) -> Option<&Device> {
        self.backend.device()
    }

    /// A CUDA stream of somebody else as a stream of this rank. It must live as long as the result is used;
    /// calls that were queued on it are remembered by events of ours.
    ///
    /// # Errors
    ///
    /// [`Error::WrongBackend`] on the host, [`Error::WrongDevice`] if the stream is of another GPU.
    pub fn adopt_stream(&self, stream: DeviceStream) -> Result<Stream, Error> {
        let device = Some(stream.device().ordinal());
        self.backend.place().check("stream", Place { backend: Backend::Cuda, device })?;
        Ok(Stream { queue: self.backend.adopt_stream(stream) })
    }

    /// Combines the ranks' inputs element by element and leaves the result in every rank's output.
    ///
    /// # Shapes and units
    ///
    /// | name | shape | unit |
    /// |---|---|---|
    /// | `input` | `[count]`, the same on every rank | elements, `count` from 0 to [`COUNT_MAX`] |
    /// | `output` | `[count]` | elements, all overwritten |
    ///
    /// # Guarantees
    ///
    /// Those of [`Communicator`]. No input is written. What a rank sends follows from the algorithm
    /// of the plan: see [`myelon_lanes::Algorithm`].
    ///
    /// # Errors
    ///
    /// Those of [`Communicator::all_reduce_region`].
    pub fn all_reduce<T: Element>(
        &mut self,
        input: &Buffer<T>,
        output: &mut Buffer<T>,
        op: ReduceOp,
        stream: &Stream,
    ) -> Result<(), Error> {
        self.all_reduce_region(input.region(), output.region(), T::DTYPE, op, stream)
    }

    /// [`Communicator::all_reduce`] with the input overwritten by the result.
    ///
    /// # Errors
    ///
    /// Those of [`Communicator::all_reduce_region`].
    pub fn all_reduce_in_place<T: Element>(
        &mut self,
        buffer: &mut Buffer<T>,
        op: ReduceOp,
        stream: &Stream,
    ) -> Result<(), Error> {
        self.all_reduce_region(buffer.region(), buffer.region(), T::DTYPE, op, stream)
    }

    /// [`Communicator::all_reduce`] of regions, with a type that is known at run time. Equal regions mean in
    /// place. Regions may start at any element, not at the same one on every rank.
    ///
    /// # Errors
    ///
    /// Found before anything is enqueued or written:
    ///
    /// * [`Error::Poisoned`] if an earlier call failed, [`Error::PeerGone`] if a peer was dropped.
    /// * [`Error::Capturing`] while this thread captures another stream, or somebody else captures this one by
    ///   other means than [`Stream::capture`].
    /// * [`Error::Unsupported`] if there is no such operation of the type.
    /// * [`Error::InvalidArgument`] if the regions differ in length, hold a part of an element, or do not
    ///   start on a multiple of its size.
    /// * [`Error::CountTooLarge`] above [`COUNT_MAX`], [`Error::Overlap`] if the regions overlap in part.
    /// * [`Error::WrongBackend`], [`Error::WrongDevice`] if a region or the stream is elsewhere; on GPUs also
    ///   [`Error::InvalidArgument`] for a stream of another communicator or rank.
    /// * [`Error::Plan`], [`Error::NotResident`] if what is forced or given as a tuning can't be had.
    /// * Those of [`crate::Registered::settle`] if a region is registered.
    ///
    /// [`Error::Driver`] if the launch fails; nothing is written, but the peers' calls can't complete, so the
    /// communicator is poisoned.
    ///
    /// Found on the way, and reported by the next wait on the stream: [`Error::Disagreement`],
    /// [`Error::Stalled`], [`Error::PeerGone`], [`Error::Protocol`].
    pub fn all_reduce_region(
        &mut self,
        input: &Region,
        output: &Region,
        dtype: DataType,
        op: ReduceOp,
        stream: &Stream,
    ) -> Result<(), Error> {
        let _span = tracing::debug_span!("call", rank = self.rank, %dtype, %op).entered();
        if let Some(first) = self.backend.first_error() {
            return Err(Error::Poisoned { first: Arc::new(first) });
        }
        refuse_beside_capture(stream, "a call on another stream")?;
        let place = self.backend.place();
        place.check("stream", stream.queue.place())?;
        place.check("input", input.place())?;
        place.check("output", output.place())?;
        let count = check_regions(input, output, dtype, op)?;

        // Without the promise nothing is planned for windows.
        let staged = self.tuning.has_windows() && self.backend.is_staged([input, output])?;
        let choice = self.choose(dtype, count, staged)?;
        let word = CallWord::all_reduce(dtype, op, count, choice.plan.word().into())?;
        let launch = self.backend.all_reduce(&Call { word, dtype, op, choice }, input, output, stream)?;
        tracing::debug!(
            rank = self.rank,
            captured = is_captured(stream),
            ranks = launch.ranks,
            bytes = launch.bytes,
            %dtype,
            %op,
            plan = %launch.plan,
            why = launch.why.to_string(),
            kernel = launch.kernel,
            grid = launch.grid,
            block = launch.block,
            shared_bytes = launch.shared_bytes,
            "all_reduce"
        );
        self.last_launch = Some(launch);
        Ok(())
    }

    fn choose(&mut self, dtype: DataType, count: u64, staged: bool) -> Result<Choice, Error> {
        let element_bytes = dtype.bytes() as u32;
        let size = (count * u64::from(element_bytes), element_bytes, staged);
        if let Some((_, choice)) = self.choices.iter().find(|known| known.0 == size) {
            return Ok(choice.clone());
        }
        let choice = if staged {
            self.plan(&self.staged_tuning()?, dtype, count)?
        } else {
            self.plan(&self.tuning, dtype, count)?
        };
        if self.choices.len() == CHOICES_MAX {
            self.choices.clear();
        }
        self.choices.push((size, choice.clone()));
        Ok(choice)
    }

    /// What plans calls with memory that not all ranks reach, in the rings that are there: the rows of the table for such
    /// memory may ask for others, and then give way to the rule.
    fn staged_tuning(&self) -> Result<Tuning, Error> {
        let followed = self.tuning.clone().windows(false);
        let plain = followed.clone().table(Table::default());
        for tuning in [followed, plain] {
            if self.pool.holds(&tuning.pool(self.ranks as u32)?) {
                return Ok(tuning);
            }
        }
        Err(Error::invalid("memory that is staged", "a plan that fits the rings", self.pool))
    }

    /// What a call of `count` elements of `dtype` would launch, why, and what else was possible.
    ///
    /// # Errors
    ///
    /// [`Error::CountTooLarge`], or [`Error::Plan`] if what is forced can't be had.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator, DataType};
    ///
    /// let ranks = Communicator::builder().backend(Backend::Host).ranks(2).build()?;
    /// let choice = ranks[0].explain(DataType::F32, 1 << 20)?;
    /// println!("{}, because {}", choice.plan, choice.why);
    /// assert_eq!(choice.plan.ranks, 2);
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn explain(&self, dtype: DataType, count: u64) -> Result<Choice, Error> {
        self.plan(&self.tuning, dtype, count)
    }

    fn plan(&self, tuning: &Tuning, dtype: DataType, count: u64) -> Result<Choice, Error> {
        check_count(count)?;
        let element_bytes = dtype.bytes() as u32;
        let bytes = count * u64::from(element_bytes);
        Ok(tuning.plan(&Request {
            ranks: self.ranks as u32,
            bytes,
            element_bytes,
            floats: dtype.is_float(),
        })?)
    }

    /// What the last call of this rank launched, or recorded in a capture.
    pub fn last_launch(&self) -> Option<&Launch> {
        self.last_launch.as_ref()
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("rank", &self.rank)
            .field("ranks", &self.ranks)
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

fn check_count(count: u64) -> Result<(), Error> {
    if count > COUNT_MAX { Err(Error::CountTooLarge { count, count_max: COUNT_MAX }) } else { Ok(()) }
}

/// The number of elements, if the regions fit each other, the type and the operation.
fn check_regions(input: &Region, output: &Region, dtype: DataType, op: ReduceOp) -> Result<u64, Error> {
    if !op.supports(dtype) {
        let reason = "an average is for floats: f16, bf16, f32, f64".into();
        return Err(Error::Unsupported { what: format!("{op} of {dtype}"), reason });
    }
    if input.bytes() != output.bytes() {
        let needed = format!("{} bytes, as the input", input.bytes());
        return Err(Error::invalid("output", needed, format_args!("{} bytes", output.bytes())));
    }
    let element = dtype.bytes();
    if !input.bytes().is_multiple_of(element) {
        let needed = format!("whole elements of {element} bytes");
        return Err(Error::invalid("input", needed, format_args!("{} bytes", input.bytes())));
    }
    check_count((input.bytes() / element) as u64)?;
    let (from, to) = (input.addresses(), output.addresses());
    for (what, addresses) in [("input", &from), ("output", &to)] {
        if !addresses.start.is_multiple_of(element as u64) {
            let needed = format!("a start on a multiple of {element} bytes for {dtype}");
            return Err(Error::invalid(what, needed, format_args!("address {:#x}", addresses.start)));
        }
    }
    if from != to && from.start < to.end && to.start < from.end {
        return Err(Error::Overlap { input: from, output: to });
    }
    Ok((input.bytes() / element) as u64)
}
