//! The words that Rust and the kernels share, defined once on this side.
//!
//! `kernels/include/myelon/words.cuh` holds the same structures; both sides assert sizes and offsets
//! when they are compiled, and `tests/tests/words.rs` compares the two tables. Addresses are plain
//! `u64`, because the same words are read by a GPU, by host threads and by tests.

use bytemuck::{Pod, Zeroable};

/// Bytes of the line that keeps words of different writers apart, on the GPU's L2 and on CPUs that
/// prefetch lines in pairs.
pub const LINE: usize = 128;

/// The largest number of ranks in a communicator: the GPUs of one NVLink node.
pub const RANKS_MAX: usize = 8;

/// Bytes at the end of each collective slot that hold its [`Trailer`], a line of their own.
pub const TRAILER_BYTES: usize = LINE;

/// One ring, as both of its ends see it: the names and the widths are the harness's.
///
/// | field | where it lies | who writes it |
/// |---|---|---|
/// | `sequence` | `[capacity]` u64 in the consumer's memory | producer |
/// | `gating` | one u64 in the producer's memory | consumer |
/// | `data` | `[capacity][slot_bytes]` in the consumer's memory | producer |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RingConfig {
    /// Slots in the ring, a power of two.
    pub capacity: i32,
    /// Bytes from one slot to the next, a multiple of 16; slots of the collectives start on a line.
    pub slot_bytes: i32,
    /// Address of the sequence words, one u64 a slot.
    pub sequence: u64,
    /// Address of the gating word.
    pub gating: u64,
    /// Address of the first slot.
    pub data: u64,
}

/// What the producer writes behind the payload of a slot: which call the slot belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Trailer {
    /// The call word of the producer's operation; the consumer compares it with its own.
    pub call: u64,
    /// Keeps the trailer at one 16-byte vector; nobody writes it.
    pub reserved: u64,
}

/// The movements of all-reduces; each has rings of its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movement {
    /// Each rank sends to each owner the piece that the owner will sum.
    Scatter = 0,
    /// Each owner sends its sum to everybody.
    Gather = 1,
    /// Each rank sends to the next one alone, through the rings of [`crate::Neighbours`].
    Neighbour = 2,
}

/// The jobs of a lane; each is a worker (a block on a GPU) and has a cursor of its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Produces the scatter rings from the input.
    Scatter = 0,
    /// Consumes the scatter rings, sums, stores its own piece and produces the gather rings.
    Reduce = 1,
    /// Consumes the gather rings into the output.
    Gather = 2,
    /// Takes from the rank before and sends to the next one: the whole of a lane between neighbours.
    Neighbour = 3,
}

/// Bytes of a packet, flagged (two halves of 4 bytes of payload and 4 bytes of flag) or a cell (payload).
pub const PACKET_BYTES: usize = 16;
/// What each half of a cell holds until payload comes: a NaN in every type of floats.
pub const MARK: u64 = u64::MAX;
/// Packets with which a lane of a peer begins and ends: the call, the addresses of its buffers, the end.
pub const HEADERS: usize = 4;

/// Number of [`Role`]s of a lane whose rings join all pairs of ranks.
pub const ROLES: usize = 3;
/// Number of [`Movement`]s between all pairs of ranks.
pub const MOVEMENTS: usize = 2;

/// Why a kernel gave up; see [`Fault::code`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// Nothing happened.
    None = 0,
    /// The deadline passed while waiting for a slot or for credit.
    Stalled = 1,
    /// A slot belongs to another call than this rank's.
    Disagreement = 2,
    /// A sequence word is beyond what the protocol allows: memory was overwritten.
    Protocol = 3,
    /// A peer gave up and told this rank to stop.
    Aborted = 4,
}

/// What a rank waited for when it gave up; see [`Fault::waiting_for`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// A slot of a scatter ring.
    ScatterSlot = 0,
    /// Credit of a scatter ring.
    ScatterCredit = 1,
    /// A slot of a gather ring.
    GatherSlot = 2,
    /// Credit of a gather ring.
    GatherCredit = 3,
    /// A packet of a peer's payload, or its header.
    Packet = 4,
    /// A packet of a peer's sum.
    SumPacket = 5,
    /// A peer's word that it has begun, and where its buffers are.
    Start = 6,
    /// A peer's word that its sums are written.
    End = 7,
}

impl WaitingFor {
    /// All of them, each at its number.
    pub const ALL: [Self; 8] = [
        Self::ScatterSlot,
        Self::ScatterCredit,
        Self::GatherSlot,
        Self::GatherCredit,
        Self::Packet,
        Self::SumPacket,
        Self::Start,
        Self::End,
    ];
}

/// Who waited for whom when a rank gave up. Lies in host memory that the device writes.
///
/// `code` is written last, with release; a reader that sees it other than zero sees the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Fault {
    /// A [`FaultCode`].
    pub code: u32,
    /// The rank that gave up.
    pub rank: u32,
    /// The peer it waited for.
    pub peer: u32,
    /// The lane it waited in.
    pub lane: u32,
    /// A [`WaitingFor`].
    pub waiting_for: u32,
    /// Zero.
    pub reserved: u32,
    /// The sequence (or gating) it needed.
    pub needed: u64,
    /// The sequence (or gating) it saw last.
    pub seen: u64,
    /// How long it waited, in nanoseconds.
    pub waited_ns: u64,
    /// The call word of this rank.
    pub call: u64,
    /// The call word of the peer, where a slot of it was seen; else zero.
    pub call_seen: u64,
}

/// How much the waits of a rank's kernels have polled. Each counter only grows, and is read for itself.
///
/// Nothing is counted of a wait that ends before it looks at the clock, nor what it polls behind its last such look.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct WaitCounts {
    /// Polls that saw no data, of all threads together.
    pub polls_data: u64,
    /// Polls that saw no credit, likewise.
    pub polls_credit: u64,
    /// The longest wait, in nanoseconds.
    pub longest_ns: u64,
}

/// What a rank's kernels and its host tell each other, in host memory that the device writes. [`AllReduceArgs::fault`]
/// is its address, and each part has lines of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct HostPage {
    /// Why a kernel gave up.
    pub fault: Fault,
    /// Zero.
    pub behind_fault: [u64; 8],
    /// Not zero once the host wants the kernels to give up: where [`AllReduceArgs::host_abort`] may lead.
    pub abort: u64,
    /// Zero.
    pub behind_abort: [u64; 15],
    /// What the kernels have told of their counters, which they keep in the first line of the window.
    pub waits: WaitCounts,
    /// Zero.
    pub behind_waits: [u64; 13],
}

const _: () = assert!(
    std::mem::offset_of!(HostPage, abort).is_multiple_of(LINE)
        && std::mem::offset_of!(HostPage, waits).is_multiple_of(LINE)
        && size_of::<HostPage>().is_multiple_of(LINE)
);

/// What a thread of the direct kernel has of its block's dynamic shared memory: vectors on their way from the inputs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DirectStage {
    /// 16 bytes of one rank's input each.
    pub vectors: [[u64; 2]; 16],
}

/// The average flag of [`AllReduceArgs::flags`]: divide the sum by the ranks before rounding.
pub const FLAG_AVERAGE: u32 = 1;

/// The one parameter of the all-reduce kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AllReduceArgs {
    /// `[ranks]` addresses of the windows, as this rank's device sees them.
    pub window: [u64; RANKS_MAX],
    /// Address of the input, in this rank's memory.
    pub input: u64,
    /// Address of the output; equal to `input` or apart from it.
    pub output: u64,
    /// Bytes of the payload at each rank.
    pub bytes: u64,
    /// What is called, in one word; ranks that differ find out in the first slot.
    pub call: u64,
    /// Address of this rank's [`HostPage`], which begins with the [`Fault`].
    pub fault: u64,
    /// How long a wait may take, in nanoseconds.
    pub deadline_ns: u64,
    /// Address of a u64 in host memory: not zero once the host wants the kernel to give up.
    pub host_abort: u64,
    /// Offsets in a window, in bytes: see [`crate::WindowLayout`]. Of the rings that the kernel uses, as are `lanes_max`,
    /// `capacity` and `slot_bytes`: see [`crate::RingsAt`].
    pub cursor_offset: u64,
    /// `[movement][lane][peer place]`, a line each.
    pub gating_offset: u64,
    /// `[movement][lane][peer place][capacity]` u64, padded to lines.
    pub sequence_offset: u64,
    /// `[movement][lane][peer place][capacity][slot_bytes]`.
    pub data_offset: u64,
    /// `[lane]` u64: see [`crate::Inbox`].
    pub epoch_offset: u64,
    /// `[parity][peer place][packets]` of 16 bytes.
    pub inbox_offset: u64,
    /// `[parity][peer place][cells]` of 16 bytes.
    pub cells_offset: u64,
    /// Place of this rank.
    pub rank: u32,
    /// Number of ranks.
    pub ranks: u32,
    /// Lanes that this call uses.
    pub lanes: u32,
    /// Lanes that the window has.
    pub lanes_max: u32,
    /// Blocks a role of the ring; block `b` has role `b / workers` and serves lanes `b % workers`, `+ workers`, ...
    pub workers: u32,
    /// Slots a ring, a power of two.
    pub capacity: u32,
    /// Bytes from one slot to the next, the trailer included.
    pub slot_bytes: u32,
    /// Payload bytes that this call puts in a slot at most, a multiple of 16.
    pub piece_bytes: u32,
    /// Slots after which credit is returned, at most the capacity.
    pub credit_batch: u32,
    /// [`FLAG_AVERAGE`] or zero.
    pub flags: u32,
    /// Lanes that the inbox has headers for.
    pub inbox_lanes: u32,
    /// Packets of payload from each peer that the inbox has room for.
    pub inbox_packets: u32,
    /// Cells of payload from each peer that the inbox has room for.
    pub inbox_cells: u32,
    /// Zero.
    pub reserved: u32,
    /// `[ranks]` addresses at which each rank reaches this one's input, where all do: the same in one process.
    pub input_at: [u64; RANKS_MAX],
    /// The same for the output.
    pub output_at: [u64; RANKS_MAX],
}

macro_rules! shared_layout {
    ($($type:ident { $($field:ident @ $offset:literal),+ $(,)? } = $size:literal;)+) => {
        $($(const _: () = assert!(std::mem::offset_of!($type, $field) == $offset);)+
          const _: () = assert!(size_of::<$type>() == $size);)+

        /// Every shared word as `(type.field, offset)`, and `(type, size)` after its fields.
        pub const SHARED_LAYOUT: &[(&str, usize)] = &[
            $($((concat!(stringify!($type), ".", stringify!($field)), $offset),)+
              (stringify!($type), $size),)+
        ];
    };
}

shared_layout! {
    RingConfig { capacity @ 0, slot_bytes @ 4, sequence @ 8, gating @ 16, data @ 24 } = 32;
    Trailer { call @ 0, reserved @ 8 } = 16;
    Fault {
        code @ 0, rank @ 4, peer @ 8, lane @ 12, waiting_for @ 16, reserved @ 20, needed @ 24,
        seen @ 32, waited_ns @ 40, call @ 48, call_seen @ 56,
    } = 64;
    WaitCounts { polls_data @ 0, polls_credit @ 8, longest_ns @ 16 } = 24;
    HostPage { fault @ 0, abort @ 128, waits @ 256 } = 384;
    DirectStage { vectors @ 0 } = 256;
    AllReduceArgs {
        window @ 0, input @ 64, output @ 72, bytes @ 80, call @ 88, fault @ 96, deadline_ns @ 104,
        host_abort @ 112, cursor_offset @ 120, gating_offset @ 128, sequence_offset @ 136, data_offset @ 144,
        epoch_offset @ 152, inbox_offset @ 160, cells_offset @ 168, rank @ 176, ranks @ 180, lanes @ 184,
        lanes_max @ 188, workers @ 192, capacity @ 196, slot_bytes @ 200, piece_bytes @ 204,
        credit_batch @ 208, flags @ 212, inbox_lanes @ 216, inbox_packets @ 220, inbox_cells @ 224,
        reserved @ 228, input_at @ 232, output_at @ 296,
    } = 360;
}
