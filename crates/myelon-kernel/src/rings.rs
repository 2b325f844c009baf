//! The rings of a communicator in device memory, and the safe way to launch a kernel on them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use myelon_lanes::{Algorithm, Inbox, Plan};
use myelon_ring::WindowLayout;
use myelon_ring::words::{AllReduceArgs, FLAG_AVERAGE, Fault, RANKS_MAX};

use crate::device::Device;
use crate::error::KernelError;
use crate::fault::FaultPage;
use crate::image::{Image, ImageChoice};
use crate::kernel::{Kernels, LaunchShape, Launching};
use crate::memory::{DeviceMemory, DeviceSpan};
use crate::shared::{Prepared, SharedMemory, StreamUse, Users};
use crate::stream::DeviceStream;

/// What all ranks of a communicator share. Every rank holds it, so it outlives the first that is dropped.
struct Group {
    layout: WindowLayout,
    devices: Vec<Device>,
    /// `None` only while it is dropped.
    parts: Option<Parts>,
    users: Arc<Users>,
}

/// What kernels of all ranks touch.
struct Parts {
    windows: Vec<DeviceMemory>,
    faults: Vec<FaultPage>,
}

/// Pages that no kernel knows any more. They are used again and never freed, because the driver waits for
/// all kernels of a GPU before it gives pinned memory back.
static FREE_PAGES: Mutex<Vec<FaultPage>> = Mutex::new(Vec::new());

fn fault_page(device: &Device) -> Result<FaultPage, KernelError> {
    let mut free = FREE_PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    match free.iter().position(|page| page.device().ordinal() == device.ordinal()) {
        Some(index) => {
            let page = free.swap_remove(index);
            page.clear();
            Ok(page)
        }
        None => FaultPage::new(device),
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        FREE_PAGES.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.faults);
    }
}

/// What has been loaded: `(ordinal, choice, kernels)`.
static LOADED: Mutex<Vec<(usize, ImageChoice, Arc<Kernels>)>> = Mutex::new(Vec::new());

/// The kernels of a GPU, loaded once for the process and never unloaded: nobody could tell when the last
/// launch that was queued has begun.
fn kernels(device: &Device, choice: ImageChoice) -> Result<Arc<Kernels>, KernelError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = loaded.iter().find(|entry| (entry.0, entry.1) == (device.ordinal(), choice));
    if let Some((_, _, kernels)) = found {
        return Ok(kernels.clone());
    }
    let kernels = Arc::new(Kernels::load(device, choice)?);
    loaded.push((device.ordinal(), choice, kernels.clone()));
    Ok(kernels)
}

impl Group {
    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("taken only by drop")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.users.bury(&[], Box::new(self.parts.take()));
    }
}

/// One rank's end of the rings: its kernels, and the windows of all.
pub struct RankRings {
    rank: usize,
    group: Arc<Group>,
    kernels: Arc<Kernels>,
    /// Ranks on this rank's GPU.
    share: u32,
}

/// A buffer of a call.
#[derive(Clone)]
pub enum Operand {
    /// Part of memory that is kept until the call is done.
    Shared {
        /// The memory.
        memory: Arc<SharedMemory>,
        /// Where the part starts in it.
        start: usize,
        /// How long it is.
        bytes: usize,
    },
    /// Memory of somebody else, who promised to keep it when the span was made.
    Foreign(DeviceSpan),
}

impl Operand {
    /// All of `memory`.
    pub fn shared(memory: SharedMemory) -> Self {
        let bytes = memory.memory().bytes();
        Self::Shared { memory: Arc::new(memory), start: 0, bytes }
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        match self {
            Self::Shared { memory, start, .. } => memory.memory().address() + *start as u64,
            Self::Foreign(span) => span.address(),
        }
    }

    /// Its GPU.
    pub fn ordinal(&self) -> usize {
        match self {
            Self::Shared { memory, .. } => memory.memory().device().ordinal(),
            Self::Foreign(span) => span.ordinal(),
        }
    }

    /// `bytes` bytes of it from `offset` on.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfBounds`].
    pub fn part(&self, offset: usize, bytes: usize) -> Result<Self, KernelError> {
        match self {
            Self::Shared { memory, start, bytes: size } => match offset.checked_add(bytes) {
                Some(end) if end <= *size => {
                    Ok(Self::Shared { memory: memory.clone(), start: start + offset, bytes })
                }
                _ => Err(KernelError::OutOfBounds { offset, bytes, size: *size }),
            },
            Self::Foreign(span) => Ok(Self::Foreign(span.part(offset, bytes)?)),
        }
    }

    /// Copies `from` to the start, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// As for [`DeviceMemory::write`].
    pub fn write(&self, stream: &DeviceStream, from: &[u8]) -> Result<(), KernelError> {
        let to = self.span()?;
        // SAFETY: `from` and `self` are borrowed until the stream has finished.
        unsafe { stream.copy_to_device(to.part(0, from.len())?, from) }?;
        stream.synchronize()
    }

    /// Copies from the start to `to`, after the work queued on `stream`, and returns when it is done.
    ///
    /// # Errors
    ///
    /// As for [`DeviceMemory::read`].
    pub fn read(&self, stream: &DeviceStream, to: &mut [u8]) -> Result<(), KernelError> {
        let from = self.span()?.part(0, to.len())?;
        // SAFETY: `to` and `self` are borrowed until the stream has finished.
        unsafe { stream.copy_to_host(to, from) }?;
        stream.synchronize()
    }

    /// Queues the setting of every byte, or records it where `stream` is captured; what is done is the use
    /// of the stream.
    ///
    /// # Errors
    ///
    /// As for [`DeviceMemory::fill`].
    pub fn fill(&self, stream: &Arc<DeviceStream>, byte: u8) -> Result<(), KernelError> {
        let (span, prepared) = (self.span()?, Prepared::new(stream)?);
        let mut kept = stream.kept();
        if kept.is_none() {
            stream.not_captured_by_others("this fill")?;
        }
        // SAFETY: the graph or the stream's use keeps shared memory by the lines below; foreign memory is
        // kept by the promise that made it.
        unsafe { stream.fill_or_record(span, byte) }?;
        if let Some(kept) = kept.as_mut() {
            kept.push(Box::new(self.clone()));
            return Ok(());
        }
        let work = prepared.queued(stream).inspect_err(|_| std::mem::forget(self.clone()))?;
        drop(kept);
        self.used_by(&work);
        Ok(())
    }

    fn span(&self) -> Result<DeviceSpan, KernelError> {
        match self {
            Self::Shared { memory, start, bytes } => memory.memory().whole().part(*start, *bytes),
            Self::Foreign(span) => Ok(*span),
        }
    }

    fn used_by(&self, work: &StreamUse) {
        if let Self::Shared { memory, .. } = self {
            memory.used_by(work);
        }
    }

    fn reached_by(&self, users: &Arc<Users>) {
        if let Self::Shared { memory, .. } = self {
            memory.reached_by(users);
        }
    }

    /// Whether all of `devices` may read and write it.
    pub fn is_window_of(&self, devices: &[Device]) -> bool {
        match self {
            Self::Shared { memory, .. } => {
                devices.iter().all(|device| memory.memory().is_reached_by(device.ordinal()))
            }
            Self::Foreign(_) => false,
        }
    }
}

/// What a rank calls. All ranks pass the same, or find out that they do not.
#[derive(Clone, Copy, Debug)]
pub struct RingCall<'a> {
    /// Name of the element type, one of [`crate::DTYPES`].
    pub dtype: &'a str,
    /// Name of the operation, one of [`crate::OPS`].
    pub op: &'a str,
    /// Divide the sum by the number of ranks; for floats.
    pub average: bool,
    /// The call in one word, which every slot carries.
    pub word: u64,
    /// The plan; it must fit the window that the rings were opened with.
    pub plan: &'a Plan,
    /// How long a wait may last.
    pub deadline: Duration,
}

/// What was launched.
pub struct Launched {
    /// Symbol of the kernel.
    pub kernel: String,
    /// Grid, block and dynamic shared memory.
    pub shape: LaunchShape,
    /// Where it was queued; none where a capture has recorded it and nothing runs yet.
    pub work: Option<StreamUse>,
}

impl RankRings {
    /// Opens the rings of one communicator: rank `r` on `devices[r]`, with its window in that GPU's memory.
    ///
    /// Several ranks may be on one GPU, for tests: then they share its multiprocessors. Every kernel is
    /// loaded on every GPU, the windows are written, and all of that is done on return, so no later call
    /// loads code or allocates.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPeerAccess`] where a GPU does not reach another, and what [`Kernels::load`],
    /// [`DeviceMemory::allocate`] and [`FaultPage::new`] report. Nothing stays allocated.
    pub fn open(
        devices: &[Device],
        layout: WindowLayout,
        first_sequence: u64,
        choice: ImageChoice,
    ) -> Result<Vec<Self>, KernelError> {
        let all_kernels =
            devices.iter().map(|device| kernels(device, choice)).collect::<Result<Vec<_>, _>>()?;
        let words = layout.initial_words(first_sequence);
        let mut parts = Parts { windows: Vec::new(), faults: Vec::new() };
        for device in devices {
            let window = DeviceMemory::allocate(device, layout.bytes(), devices)?;
            window.write(&DeviceStream::new(device)?, 0, bytemuck::cast_slice(&words))?;
            parts.windows.push(window);
            parts.faults.push(fault_page(device)?);
        }
        let share =
            |device: &Device| devices.iter().filter(|other| other.ordinal() == device.ordinal()).count();
        let shares: Vec<u32> = devices.iter().map(|device| share(device) as u32).collect();
        let group =
            Arc::new(Group { layout, devices: devices.to_vec(), parts: Some(parts), users: Arc::default() });
        let ranks = all_kernels.into_iter().zip(shares).enumerate().map(|(rank, (kernels, share))| Self {
            rank,
            group: group.clone(),
            kernels,
            share,
        });
        Ok(ranks.collect())
    }

    /// The GPU of this rank.
    pub fn device(&self) -> &Device {
        &self.group.devices[self.rank]
    }

    /// Which image the kernels came from.
    pub fn image(&self) -> &Image {
        self.kernels.image()
    }

    /// Blocks of `threads` threads that this rank may launch, whatever the kernel: what its GPU holds
    /// together, divided by the ranks on it.
    ///
    /// # Errors
    ///
    /// Those of [`crate::Kernel::resident_blocks`].
    pub fn resident_blocks(&self, threads: u32) -> Result<u32, KernelError> {
        let mut least = u32::MAX;
        for kernel in self.kernels.iter() {
            least = least.min(kernel.resident_blocks(threads, 0)? / self.share);
        }
        Ok(least)
    }

    /// The record of `rank`'s kernels that gave up, if any.
    pub fn fault(&self, rank: usize) -> Option<Fault> {
        self.group.parts().faults[rank].read()
    }

    /// Makes the kernels of all ranks give up, those that run and those that are queued.
    pub fn abort(&self) {
        for page in &self.group.parts().faults {
            page.raise_abort();
        }
    }

    /// Queues one all-reduce of this rank on `stream`, or records it where a [`crate::Capture`] is under way
    /// there: then the graph keeps what the call uses.
    ///
    /// Input and output are of the same length, and equal or apart; `count` elements of the call's type.
    /// Calls of one rank must be queued so that they run one after the other, in the order in which all
    /// ranks queue them: on one stream, or on streams that wait for each other.
    ///
    /// # Errors
    ///
    /// Found before anything is queued: [`KernelError::UnknownKernel`], [`KernelError::WrongDevice`],
    /// [`KernelError::Operands`], [`KernelError::PlanBeyondWindow`], [`KernelError::NotResident`], and
    /// [`KernelError::Captured`] where somebody else captures the stream.
    pub fn all_reduce(
        &self,
        call: &RingCall<'_>,
        input: &Operand,
        output: &Operand,
        stream: &Arc<DeviceStream>,
    ) -> Result<Launched, KernelError> {
        let algorithm = call.plan.algorithm;
        let kernel = self.kernels.all_reduce(algorithm, call.dtype, call.op)?;
        let (layout, plan) = (&self.group.layout, call.plan);
        let (from, to) = (input.span()?, output.span()?);
        for (what, span) in [("the input", &from), ("the output", &to)] {
            let (needed, seen) = (self.device().ordinal(), span.ordinal());
            if needed != seen {
                return Err(KernelError::WrongDevice { what, needed, seen });
            }
        }
        check_operands(call.dtype, &from, &to)?;
        if algorithm == Algorithm::Direct && ![input, output].iter().all(|it| self.is_window(it)) {
            let reason = "a direct call needs memory that every rank may read and write";
            return Err(KernelError::Operands { reason });
        }
        self.check_plan(plan, from.bytes())?;
        let shape = LaunchShape { blocks: plan.blocks, threads: plan.threads, shared_bytes: 0 };
        let available = kernel.resident_blocks(shape.threads, 0)? / self.share;
        if shape.blocks > available {
            let (kernel, ordinal) = (kernel.name().to_owned(), self.device().ordinal());
            return Err(KernelError::NotResident { kernel, ordinal, needed: shape.blocks, available });
        }

        let parts = self.group.parts();
        let mut window = [0; RANKS_MAX];
        for (address, memory) in window.iter_mut().zip(&parts.windows) {
            *address = memory.address();
        }
        let args = AllReduceArgs {
            window,
            input: from.address(),
            output: to.address(),
            bytes: from.bytes() as u64,
            call: call.word,
            fault: parts.faults[self.rank].address(),
            deadline_ns: u64::try_from(call.deadline.as_nanos()).unwrap_or(u64::MAX),
            host_abort: parts.faults[self.rank].abort_address(),
            epoch_offset: layout.epoch_offset() as u64,
            inbox_offset: layout.inbox_offset() as u64,
            cells_offset: layout.cells_offset() as u64,
            cursor_offset: layout.cursor_offset() as u64,
            gating_offset: layout.gating_offset() as u64,
            sequence_offset: layout.sequence_offset() as u64,
            data_offset: layout.data_offset() as u64,
            rank: self.rank as u32,
            ranks: layout.ranks() as u32,
            lanes: plan.lanes,
            lanes_max: layout.lanes() as u32,
            workers: plan.blocks / 3,
            capacity: layout.capacity() as u32,
            slot_bytes: layout.slot_bytes() as u32,
            piece_bytes: plan.piece_bytes,
            credit_batch: plan.credit_batch,
            flags: if call.average { FLAG_AVERAGE } else { 0 },
            inbox_lanes: layout.inbox().lanes as u32,
            inbox_packets: layout.inbox().packets as u32,
            inbox_cells: layout.inbox().cells as u32,
            reserved: 0,
        };
        // A block of the ring waits for other blocks of its own grid; of the others only for the same block of peers.
        let launching = match algorithm {
            Algorithm::Ring => Launching::Together,
            // Where ranks share a GPU, blocks of a launch that is prepared ahead could take the place of those that
            // another rank's launch in front still needs.
            _ if self.share > 1 => Launching::Alone,
            _ => Launching::Following,
        };
        let prepared = Prepared::new(stream)?;
        let mut kept = stream.kept();
        if kept.is_none() {
            stream.not_captured_by_others("this call")?;
        }
        // SAFETY: the windows, the fault page and shared operands are borrowed here, and kept until `stream`
        // has passed the launch, or as long as the graph that records it, by the lines below; foreign
        // operands by the promise that made them. Operands that peers touch too (direct) are windows, as was
        // checked, and stay until all that the ranks have queued is done. Lengths, geometry and the plan's
        // bounds were checked, and the layout wrote the windows that the offsets describe.
        unsafe { kernel.launch(stream, shape, launching, &args) }?;
        if algorithm == Algorithm::Direct {
            // Peers touch it too, and where a rank gives up nobody knows for how long.
            for operand in [input, output] {
                operand.reached_by(&self.group.users);
            }
        }
        if let Some(kept) = kept.as_mut() {
            kept.push(Box::new((self.group.clone(), input.clone(), output.clone())));
            return Ok(Launched { kernel: kernel.name().to_owned(), shape, work: None });
        }
        let work = prepared.queued(stream).inspect_err(|_| {
            // Nobody can tell when the launch is done: what it uses stays.
            std::mem::forget((self.group.clone(), input.clone(), output.clone()));
        })?;
        drop(kept);
        self.group.users.add(&work);
        input.used_by(&work);
        output.used_by(&work);
        Ok(Launched { kernel: kernel.name().to_owned(), shape, work: Some(work) })
    }

    /// Whether every rank of the communicator may read and write `operand`.
    pub fn is_window(&self, operand: &Operand) -> bool {
        operand.is_window_of(&self.group.devices)
    }

    /// Refuses a plan that reaches beyond the windows.
    fn check_plan(&self, plan: &Plan, bytes: usize) -> Result<(), KernelError> {
        let layout = &self.group.layout;
        let most = |what: &'static str, seen: u32, most: usize| {
            let seen = seen as usize;
            if (1..=most).contains(&seen) {
                Ok(())
            } else {
                Err(KernelError::PlanBeyondWindow { what, seen, most })
            }
        };
        most("ranks", plan.ranks, layout.ranks())?;
        most("threads beyond whole warps, plus 1,", plan.threads % 32 + 1, 1)?;
        if plan.algorithm != Algorithm::Ring {
            let inbox = layout.inbox();
            most("lanes", plan.lanes, inbox.lanes)?;
            most("blocks", plan.blocks, plan.lanes as usize)?;
            most("lanes without a block, plus 1,", plan.lanes - plan.blocks + 1, 1)?;
            // A warp that speaks to the peers, and one that moves.
            most("warps beyond one", (plan.threads / 32).saturating_sub(1), 15)?;
            let room =
                Inbox { lanes: inbox.lanes as u32, packets: inbox.packets as u32, cells: inbox.cells as u32 };
            let bytes_max = plan.algorithm.bytes_max(plan.ranks, room);
            if bytes as u64 > bytes_max {
                let (what, most) = ("bytes of the payload", bytes_max as usize);
                return Err(KernelError::PlanBeyondWindow { what, seen: bytes, most });
            }
            return Ok(());
        }
        most("lanes", plan.lanes, layout.lanes())?;
        most("slots", plan.slots, layout.capacity())?;
        most("slot bytes", plan.piece_bytes.next_multiple_of(128), layout.slot_bytes() - 128)?;
        most("credit batch", plan.credit_batch, layout.capacity())?;
        most("workers", plan.blocks / 3, plan.lanes as usize)?;
        // Whole vectors of 16 bytes; of the warps one signals and at least one moves.
        most("bytes beyond whole vectors, plus 1,", plan.piece_bytes % 16 + 1, 1)?;
        most("warps that move", (plan.threads / 32).saturating_sub(1), 15)
    }
}

/// Refuses operands of different length, at no element's place, or that overlap in part.
fn check_operands(dtype: &str, from: &DeviceSpan, to: &DeviceSpan) -> Result<(), KernelError> {
    let element = match dtype {
        "i8" | "u8" => 1,
        "f16" | "bf16" => 2,
        "f64" | "i64" | "u64" => 8,
        _ => 4,
    };
    let (a, b, bytes) = (from.address(), to.address(), from.bytes() as u64);
    let reason = if from.bytes() != to.bytes() {
        "input and output differ in length"
    } else if [a, b, bytes].iter().any(|number| !number.is_multiple_of(element)) {
        "addresses and length must be whole elements"
    } else if a != b && a < b + bytes && b < a + bytes {
        "input and output overlap in part"
    } else {
        return Ok(());
    };
    Err(KernelError::Operands { reason })
}

impl fmt::Debug for RankRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RankRings(rank {} of {} on {:?})", self.rank, self.group.layout.ranks(), self.device())
    }
}
