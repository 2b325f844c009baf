//! The rings of a communicator in device memory, and the safe way to launch a kernel on them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use myelon_lanes::{Algorithm, Inbox, Plan};
use myelon_ring::words::{AllReduceArgs, FLAG_AVERAGE, Fault, WaitCounts};

use crate::device::Device;
use crate::error::KernelError;
use crate::fault::FaultPage;
use crate::group::Group;
use crate::image::Image;
use crate::kernel::{Kernels, LaunchShape, Launching, shared_bytes, threads_fitting};
use crate::memory::DeviceSpan;
use crate::operand::Operand;
use crate::peer::PeerMemory;
use crate::shared::{Prepared, ReachedAt, SharedMemory, StreamUse};
use crate::stream::DeviceStream;

/// One rank's end of the rings: its kernels, and the windows of all.
pub struct RankRings {
    rank: usize,
    device: Device,
    group: Arc<Group>,
    kernels: Arc<Kernels>,
    /// Ranks on this rank's GPU.
    share: u32,
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
    pub(crate) fn new(
        rank: usize,
        device: Device,
        group: Arc<Group>,
        kernels: Arc<Kernels>,
        share: u32,
    ) -> Self {
        Self { rank, device, group, kernels, share }
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.group.layout.ranks()
    }

    /// The GPU of this rank.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Which image the kernels came from.
    pub fn image(&self) -> &Image {
        self.kernels.image()
    }

    /// Blocks of `threads` threads that this rank may launch, whatever the kernel: what its GPU holds
    /// together, divided by the ranks on it. Of direct kernels blocks of at most [`RankRings::direct_threads_max`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Kernel::resident_blocks`].
    pub fn resident_blocks(&self, threads: u32) -> Result<u32, KernelError> {
        let mut least = u32::MAX;
        for (algorithm, kernel) in self.kernels.iter() {
            let threads = threads_fitting(self.device.info(), algorithm, threads);
            least =
                least.min(kernel.resident_blocks(threads, shared_bytes(algorithm, threads))? / self.share);
        }
        Ok(least)
    }

    /// Threads that a block of a direct kernel can have on this GPU, at most 512: each has its part of the shared memory.
    pub fn direct_threads_max(&self) -> u32 {
        threads_fitting(self.device.info(), Algorithm::Direct, 512)
    }

    /// The record of `rank`'s kernels that gave up, if there is one and the rank is of this process.
    pub fn fault(&self, rank: usize) -> Option<Fault> {
        self.group.fault_page(rank)?.read()
    }

    /// What the waits of `rank`'s kernels have polled: see [`FaultPage::waits`]. Nothing of a rank of another process.
    pub fn waits(&self, rank: usize) -> WaitCounts {
        self.group.fault_page(rank).map(FaultPage::waits).unwrap_or_default()
    }

    /// Makes the kernels of all ranks of this process give up, those that run and those that are queued.
    pub fn abort(&self) {
        self.group.fault_pages().for_each(|page| page.raise_abort());
    }

    /// Keeps memory that `peer`, which is another process, calls `number`, until [`RankRings::leave`]. It was mapped for
    /// this rank's GPU by what [`SharedMemory::export`] gave the peer.
    pub fn keep(&self, peer: usize, number: u64, memory: PeerMemory) {
        self.group.keep(peer, number, memory);
    }

    /// Unmaps what `peer` calls by one of `numbers`, once nothing that is queued by now can use it. Never waits. `closed` is
    /// run when that is done, with those numbers, if any, whose memory the peer must keep until then; by any thread.
    pub fn leave(&self, peer: usize, numbers: &[u64], closed: impl FnOnce(Vec<u64>) + Send + Sync + 'static) {
        self.group.leave(peer, |number| numbers.contains(&number), false, closed);
    }

    /// The same with all that is `peer`'s, but for its window; at once where the rank `is_idle`: **every call of it that was
    /// made, and every launch of a graph of such, is complete, and none will be made.**
    pub fn leave_all(
        &self,
        peer: usize,
        is_idle: bool,
        closed: impl FnOnce(Vec<u64>) + Send + Sync + 'static,
    ) {
        self.group.leave(peer, |_| true, is_idle, closed);
    }

    /// Lets all ranks, which are of this process, reach `memory`, which somebody else allocated: they do when this
    /// returns, until `memory` is dropped and nothing that is queued uses it.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotShareable`], which says why; [`KernelError::Driver`]. Nothing stays mapped.
    pub fn share(&self, memory: &SharedMemory) -> Result<(), KernelError> {
        self.group.share(memory)
    }

    /// The ranks, of which the others are processes, may reach `memory`; all do as soon as `reached_at` says where: rank `r`
    /// at address `r`. `farewell` is run when no call of this rank can use it any more: then the peers may leave it. Only
    /// the first offer of a memory counts.
    pub fn offer(
        &self,
        memory: &SharedMemory,
        reached_at: ReachedAt,
        farewell: Box<dyn FnOnce() + Send + Sync>,
    ) {
        memory.offer(&self.group.users, reached_at, farewell);
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
        let (rings, workers) = match algorithm {
            Algorithm::Neighbour => (layout.neighbour_rings(), plan.blocks),
            _ => (layout.rings(), plan.blocks / 3),
        };
        let (from, to) = (input.span()?, output.span()?);
        for (what, span) in [("the input", &from), ("the output", &to)] {
            let (needed, seen) = (self.device().ordinal(), span.ordinal());
            if needed != seen {
                return Err(KernelError::WrongDevice { what, needed, seen });
            }
        }
        check_operands(call.dtype, &from, &to)?;
        let reached = [input, output].map(|operand| self.group.addresses_of(operand));
        if algorithm == Algorithm::Direct && reached.contains(&None) {
            let reason = "a direct call needs memory that every rank may read and write";
            return Err(KernelError::Operands { reason });
        }
        let [input_at, output_at] = reached.map(Option::unwrap_or_default);
        self.check_plan(plan, from.bytes())?;
        let shared_bytes = shared_bytes(algorithm, plan.threads);
        let shape = LaunchShape { blocks: plan.blocks, threads: plan.threads, shared_bytes };
        let available = kernel.resident_blocks(shape.threads, shared_bytes)? / self.share;
        if shape.blocks > available {
            let (kernel, ordinal) = (kernel.name().to_owned(), self.device().ordinal());
            return Err(KernelError::NotResident { kernel, ordinal, needed: shape.blocks, available });
        }

        let fault = self.group.fault_page(self.rank).expect("a rank of this process has a page");
        let args = AllReduceArgs {
            window: self.group.windows(),
            input: from.address(),
            output: to.address(),
            bytes: from.bytes() as u64,
            call: call.word,
            fault: fault.address(),
            deadline_ns: u64::try_from(call.deadline.as_nanos()).unwrap_or(u64::MAX),
            host_abort: fault.abort_address(),
            epoch_offset: layout.epoch_offset() as u64,
            inbox_offset: layout.inbox_offset() as u64,
            cells_offset: layout.cells_offset() as u64,
            cursor_offset: rings.cursor_offset as u64,
            gating_offset: rings.gating_offset as u64,
            sequence_offset: rings.sequence_offset as u64,
            data_offset: rings.data_offset as u64,
            rank: self.rank as u32,
            ranks: layout.ranks() as u32,
            lanes: plan.lanes,
            lanes_max: rings.lanes as u32,
            workers,
            capacity: rings.capacity as u32,
            slot_bytes: rings.slot_bytes as u32,
            piece_bytes: plan.piece_bytes,
            credit_batch: plan.credit_batch,
            flags: if call.average { FLAG_AVERAGE } else { 0 },
            inbox_lanes: layout.inbox().lanes as u32,
            inbox_packets: layout.inbox().packets as u32,
            inbox_cells: layout.inbox().cells as u32,
            reserved: 0,
            input_at,
            output_at,
        };
        // A block of the ring waits for other blocks of its own grid; of the others only for the same block of peers. By
        // neighbours that is all blocks of a ring of ranks, so none may lack.
        let launching = match algorithm {
            Algorithm::Ring | Algorithm::Neighbour => Launching::Together,
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
            kept.keep((self.group.clone(), input.clone(), output.clone()));
            kept.tell(&self.group.users);
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
        self.group.addresses_of(operand).is_some()
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
        if plan.algorithm == Algorithm::Direct {
            most("threads of a direct kernel", plan.threads, self.direct_threads_max() as usize)?;
        }
        let neighbours = plan.algorithm == Algorithm::Neighbour;
        if !plan.algorithm.has_slots() {
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
        let rings = if neighbours { layout.neighbour_rings() } else { layout.rings() };
        most("lanes", plan.lanes, rings.lanes)?;
        most("slots", plan.slots, rings.capacity)?;
        most("slot bytes", plan.piece_bytes.next_multiple_of(128), rings.slot_bytes - 128)?;
        most("credit batch", plan.credit_batch, rings.capacity)?;
        most("workers", if neighbours { plan.blocks } else { plan.blocks / 3 }, plan.lanes as usize)?;
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
        write!(f, "RankRings(rank {} of {} on {:?})", self.rank, self.group.layout.ranks(), self.device)
    }
}
