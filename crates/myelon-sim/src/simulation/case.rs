//! What is simulated: a communicator, the calls that its ranks make, and what goes wrong.

use crate::launch::Shape;
use crate::model::Schedule;

/// Element types of the kernels: name, bytes, whether the integers' reference covers it.
pub const TYPES: [(&str, usize, bool); 10] = [
    ("f16", 2, false),
    ("bf16", 2, false),
    ("f32", 4, false),
    ("f64", 8, false),
    ("i8", 1, true),
    ("u8", 1, true),
    ("i32", 4, true),
    ("u32", 4, true),
    ("i64", 8, true),
    ("u64", 8, true),
];

/// Operations of the kernels. `avg` is the sum's kernel with a flag, for floats.
pub const OPERATIONS: [&str; 5] = ["sum", "prod", "min", "max", "avg"];

/// One all-reduce, as every rank calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// One of [`TYPES`].
    pub dtype: &'static str,
    /// One of [`OPERATIONS`].
    pub op: &'static str,
    /// Elements of each rank.
    pub elements: usize,
    /// The result replaces the input.
    pub in_place: bool,
    /// Elements by which the buffers stand beside a multiple of 16 bytes, times the rank plus 1.
    pub skewed: usize,
    /// Lanes that are used, at most the window's.
    pub lanes: usize,
    /// Blocks of each role, at most `lanes`.
    pub workers: usize,
    /// Payload bytes of a slot, at most the window's.
    pub piece_bytes: usize,
}

impl Call {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        TYPES.iter().find(|known| known.0 == self.dtype).expect("one of TYPES").1
    }

    /// Bytes of each rank.
    pub fn bytes(&self) -> usize {
        self.elements * self.element_bytes()
    }

    /// The kernel's name.
    pub fn kernel(&self) -> String {
        let op = if self.op == "avg" { "sum" } else { self.op };
        format!("all_reduce_ring_{}_{op}", self.dtype)
    }

    /// The word by which ranks find out that they call differently.
    pub fn word(&self) -> u64 {
        let dtype = TYPES.iter().position(|known| known.0 == self.dtype).unwrap_or(0) as u64;
        let op = OPERATIONS.iter().position(|known| *known == self.op).unwrap_or(0) as u64;
        (self.elements as u64) << 16 | dtype << 8 | op << 4 | 1
    }
}

/// What goes wrong with one rank, or with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The rank makes no call.
    NeverComes {
        /// Which one.
        rank: usize,
    },
    /// The rank stops for ever in the middle.
    Stops {
        /// Which one.
        rank: usize,
        /// After how many of its steps.
        after_steps: u64,
    },
    /// The rank runs only when nobody else can.
    Slow {
        /// Which one.
        rank: usize,
    },
    /// The rank's last call has one element more than the others'.
    OtherCount {
        /// Which one.
        rank: usize,
    },
    /// The host tells the rank to give up.
    Aborted {
        /// Which one.
        rank: usize,
        /// After so many looks of the host.
        after: u32,
        /// Its peers make no call: being told is all that can end its wait before the deadline.
        alone: bool,
    },
    /// A word that the rank reads was overwritten with more than can be; its peers make no call.
    Overwritten {
        /// Which one.
        rank: usize,
        /// A gating word, else a sequence word.
        gating: bool,
    },
}

/// A simulation that follows from its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The window: ranks, lanes, capacity, slot bytes, credit batch, first sequence.
    pub shape: Shape,
    /// Threads of a block that move; the signal warp comes on top.
    pub movers: u32,
    /// What each rank calls, one after the other.
    pub calls: Vec<Call>,
    /// Steps that a rank lets pass before its first call, times its number.
    pub skew: u32,
    /// What goes wrong.
    pub mishap: Option<Mishap>,
    /// Who runs next.
    pub schedule: Schedule,
}
