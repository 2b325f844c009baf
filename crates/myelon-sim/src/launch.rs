//! Ranks whose kernels run on host threads.

use std::mem::offset_of;

use bytemuck::Zeroable;
use myelon_ring::words::{AllReduceArgs, FLAG_AVERAGE, Fault, HostPage, LINE, RANKS_MAX, WaitCounts};
use myelon_ring::{Inbox, Neighbours, RingError, WindowLayout};

use crate::ffi;

/// Threads a block: a warp of movers and the signal warp, of the host port's size.
const THREADS: u32 = 32;

/// The shape of a communicator and of its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Ranks, 2 to 8.
    pub ranks: usize,
    /// Lanes of a window.
    pub lanes: usize,
    /// Slots a ring, a power of two.
    pub capacity: usize,
    /// Payload bytes of a slot, a multiple of 16.
    pub piece_bytes: usize,
    /// Slots after which credit is returned, 1 to `capacity`.
    pub credit_batch: usize,
    /// The sequence that every ring starts at, and the first epoch.
    pub first: u64,
    /// Room for packets.
    pub inbox: Inbox,
}

impl Shape {
    /// Where everything lies in a window.
    ///
    /// # Errors
    ///
    /// [`RingError`] where no window has that shape.
    pub fn layout(&self) -> Result<WindowLayout, RingError> {
        let layout = WindowLayout::new(self.ranks, self.lanes, self.capacity, self.piece_bytes)?;
        layout.with_inbox(self.inbox)?.with_neighbours(self.neighbours())
    }

    /// The rings between neighbours: of the same shape as the others, but for those that need a second slot.
    pub fn neighbours(&self) -> Neighbours {
        let Self { lanes, capacity, piece_bytes, .. } = *self;
        Neighbours { lanes, capacity: capacity.max(2), piece_bytes }
    }
}

/// One call as one rank makes it. Ranks that pass different values disagree, as they may in a test.
#[derive(Clone, Copy, Debug)]
pub struct KernelCall<'a> {
    /// Name of the kernel, such as `all_reduce_ring_bf16_sum`.
    pub kernel: &'a str,
    /// The call word.
    pub call: u64,
    /// Lanes that the call uses, at most the window's.
    pub lanes: usize,
    /// Workers a role, at most `lanes`.
    pub workers: usize,
    /// Payload bytes that the call puts in a slot, at most the window's.
    pub piece_bytes: usize,
    /// Divide the sum by the number of ranks.
    pub average: bool,
    /// How long a wait may last.
    pub deadline_ns: u64,
}

/// The buffers of one rank in one call. They may stand at any address.
#[derive(Debug)]
pub enum Operands<'a> {
    /// The result replaces the input.
    InPlace(&'a mut [u8]),
    /// The input stays; the output is as long.
    Apart(&'a [u8], &'a mut [u8]),
}

impl Operands<'_> {
    fn addresses(&mut self) -> (u64, u64, usize) {
        match self {
            Self::InPlace(both) => (both.as_mut_ptr() as u64, both.as_mut_ptr() as u64, both.len()),
            Self::Apart(input, output) => {
                assert_eq!(input.len(), output.len(), "input and output are as long as each other");
                (input.as_ptr() as u64, output.as_mut_ptr() as u64, input.len())
            }
        }
    }
}

/// Whether a kernel is the one between neighbours, by its name.
fn is_neighbour(kernel: &str) -> bool {
    kernel.starts_with("all_reduce_neighbour_")
}

/// A kernel's parameter, but for the buffers and the fault record.
pub(crate) fn kernel_args(
    shape: &Shape,
    layout: &WindowLayout,
    window: [u64; RANKS_MAX],
    rank: usize,
    call: &KernelCall<'_>,
    bytes: usize,
) -> AllReduceArgs {
    let rings = if is_neighbour(call.kernel) { layout.neighbour_rings() } else { layout.rings() };
    AllReduceArgs {
        window,
        bytes: bytes as u64,
        call: call.call,
        deadline_ns: call.deadline_ns,
        cursor_offset: rings.cursor_offset as u64,
        gating_offset: rings.gating_offset as u64,
        sequence_offset: rings.sequence_offset as u64,
        data_offset: rings.data_offset as u64,
        rank: rank as u32,
        ranks: shape.ranks as u32,
        lanes: call.lanes as u32,
        lanes_max: rings.lanes as u32,
        workers: call.workers as u32,
        capacity: rings.capacity as u32,
        slot_bytes: rings.slot_bytes as u32,
        piece_bytes: call.piece_bytes as u32,
        credit_batch: shape.credit_batch as u32,
        flags: if call.average { FLAG_AVERAGE } else { 0 },
        epoch_offset: layout.epoch_offset() as u64,
        inbox_offset: layout.inbox_offset() as u64,
        cells_offset: layout.cells_offset() as u64,
        inbox_lanes: shape.inbox.lanes as u32,
        inbox_packets: shape.inbox.packets as u32,
        inbox_cells: shape.inbox.cells as u32,
        ..Zeroable::zeroed()
    }
}

#[repr(C, align(128))]
#[derive(Clone, Copy)]
struct Line([u64; LINE / 8]);

/// The windows of all ranks in heap memory; counters carry over from call to call, as on a GPU.
pub struct HostRanks {
    layout: WindowLayout,
    shape: Shape,
    windows: Vec<Vec<Line>>,
    /// What kernels and host tell each other. Its abort word is never raised; a kernel looks at it.
    pages: Vec<HostPage>,
}

impl HostRanks {
    /// Makes the windows.
    ///
    /// # Errors
    ///
    /// [`RingError`] where [`WindowLayout::new`] refuses the shape.
    pub fn new(shape: Shape) -> Result<Self, RingError> {
        let layout = shape.layout()?;
        let words = layout.initial_words(shape.first);
        let lines = layout.bytes().div_ceil(LINE);
        let window = {
            // The slots hold rubbish at first, so that reading one too early shows.
            let mut lines = vec![Line([0xdead_beef_dead_beef; LINE / 8]); lines];
            for (word, value) in lines.iter_mut().flat_map(|line| line.0.iter_mut()).zip(words) {
                *word = value;
            }
            lines
        };
        let (windows, pages) = (vec![window; shape.ranks], vec![HostPage::zeroed(); shape.ranks]);
        Ok(Self { layout, shape, windows, pages })
    }

    /// The one parameter that `rank` passes to its kernel, but for the buffers and the fault record.
    pub fn args(&mut self, rank: usize, call: &KernelCall<'_>, bytes: usize) -> AllReduceArgs {
        let mut window = [0; RANKS_MAX];
        for (address, lines) in window.iter_mut().zip(&mut self.windows) {
            *address = lines.as_mut_ptr() as u64;
        }
        kernel_args(&self.shape, &self.layout, window, rank, call, bytes)
    }

    /// Overwrites a word of `rank`'s window, `offset` bytes from its start: a fault of memory, for tests.
    ///
    /// # Panics
    ///
    /// Where the offset is no place of a word in the window.
    pub fn overwrite(&mut self, rank: usize, offset: usize, word: u64) {
        assert!(offset.is_multiple_of(8));
        self.windows[rank][offset / LINE].0[offset % LINE / 8] = word;
    }

    /// The sequence words of all windows: what has been published.
    pub fn sequence_words(&self) -> Vec<u64> {
        let words = self.layout.sequence_offset() / 8..self.layout.data_offset() / 8;
        let of = |window: &Vec<Line>| {
            let all: Vec<u64> = window.iter().flat_map(|line| line.0).collect();
            all[words.clone()].to_vec()
        };
        self.windows.iter().flat_map(of).collect()
    }

    /// Where everything lies in a window.
    pub fn layout(&self) -> WindowLayout {
        self.layout
    }

    /// Whether the inbox has room for a call of a kernel that is not the ring's.
    fn carries(&self, kernel: &str, bytes: usize) -> bool {
        let Inbox { packets, cells, .. } = self.shape.inbox;
        let (values, room) = match kernel.contains("_lamport_") {
            true => (bytes.div_ceil(16), cells),
            false => (bytes.div_ceil(8), packets),
        };
        match kernel {
            kernel if kernel.starts_with("all_reduce_one_shot_") => values <= room,
            kernel if kernel.starts_with("all_reduce_two_shot_") => {
                values.div_ceil(self.shape.ranks) <= room / 2
            }
            _ => true,
        }
    }

    /// What `rank`'s kernels have told of their waits, in all calls so far.
    pub fn waits(&self, rank: usize) -> WaitCounts {
        self.pages[rank].waits
    }

    /// Runs one call on all ranks side by side and returns their fault records, of this call alone.
    ///
    /// A rank without a call (`None`) never comes.
    ///
    /// # Panics
    ///
    /// Where a shape is out of bounds or a kernel's name is unknown: a mistake of the test.
    pub fn run(&mut self, calls: &[Option<KernelCall<'_>>], operands: &mut [Operands<'_>]) -> Vec<Fault> {
        assert_eq!((calls.len(), operands.len()), (self.shape.ranks, self.shape.ranks));
        self.pages.iter_mut().for_each(|page| page.fault = Fault::zeroed());
        let mut launches = Vec::new();
        for (rank, call) in calls.iter().enumerate() {
            let Some(call) = call else { continue };
            let neighbour = is_neighbour(call.kernel);
            let is_ring = neighbour || call.kernel.starts_with("all_reduce_ring_");
            let lanes = if is_ring { self.shape.lanes } else { self.shape.inbox.lanes };
            assert!((1..=lanes).contains(&call.lanes) && (1..=call.lanes).contains(&call.workers));
            assert!((16..=self.shape.piece_bytes).contains(&call.piece_bytes));
            assert!(call.piece_bytes.is_multiple_of(16));
            let (input, output, bytes) = operands[rank].addresses();
            let mut args = self.args(rank, call, bytes);
            (args.input, args.output) = (input, output);
            (args.input_at, args.output_at) = ([input; RANKS_MAX], [output; RANKS_MAX]);
            let page = &raw mut self.pages[rank];
            args.host_abort = page as u64 + offset_of!(HostPage, abort) as u64;
            args.fault = page as u64;
            assert!(is_ring || self.carries(call.kernel, bytes), "{bytes} bytes are beyond the inbox");
            let blocks = match (neighbour, is_ring) {
                (true, _) => call.workers,
                (_, true) => 3 * call.workers,
                _ => call.lanes,
            };
            launches.push((call.kernel, args, blocks as u32));
        }
        std::thread::scope(|scope| {
            for (kernel, args, blocks) in &launches {
                scope.spawn(move || {
                    // SAFETY: windows and pages are borrowed exclusively through `self`; they and the operands live
                    // until the scope ends and are touched by the kernels alone. The shapes that bound the
                    // kernel's accesses were asserted above.
                    let known = unsafe { ffi::launch(kernel, args, *blocks, THREADS) };
                    assert!(known, "no kernel {kernel}");
                });
            }
        });
        self.pages.iter().map(|page| page.fault).collect()
    }
}
