//! What is simulated: a communicator, the calls that its ranks make, and what goes wrong.

use std::fmt;

use myelon_ring::{RingError, WindowLayout};

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
    /// The rank stops in the middle, and goes on when its peers' deadline has passed.
    Pauses {
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

impl Mishap {
    /// The rank that it happens to.
    pub fn rank(self) -> usize {
        match self {
            Self::NeverComes { rank }
            | Self::Stops { rank, .. }
            | Self::Pauses { rank, .. }
            | Self::Slow { rank }
            | Self::OtherCount { rank }
            | Self::Aborted { rank, .. }
            | Self::Overwritten { rank, .. } => rank,
        }
    }
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

/// Bounds of what is simulated; lanes and slots have numbers of one byte.
const LANES_MAX: usize = 256;
const CAPACITY_MAX: usize = 256;
const MOVERS_MAX: u32 = 1024;
const SKEW_MAX: u32 = 1 << 20;
const BYTES_MAX: usize = 1 << 26;

/// Why a case is none. Nothing was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseError {
    /// No window has that shape.
    Window(RingError),
    /// Something of the case is out of bounds.
    Bounds {
        /// What.
        what: &'static str,
        /// What it must be.
        needed: String,
        /// What it is.
        seen: String,
    },
    /// Something of a call is.
    Call {
        /// Which call, from 0.
        call: usize,
        /// What.
        what: &'static str,
        /// What it must be.
        needed: String,
        /// What it is.
        seen: String,
    },
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(error) => write!(f, "{error}"),
            Self::Bounds { what, needed, seen } => write!(f, "{what} must be {needed}, not {seen}"),
            Self::Call { call, what, needed, seen } => {
                write!(f, "call {call}: {what} must be {needed}, not {seen}")
            }
        }
    }
}

impl std::error::Error for CaseError {}

impl Case {
    /// Whether it can be run: a shape that a window has, and calls that this window can carry.
    ///
    /// # Errors
    ///
    /// The first thing that is out of bounds.
    pub fn check(&self) -> Result<(), CaseError> {
        let Shape { ranks, lanes, capacity, piece_bytes, credit_batch, .. } = self.shape;
        let layout = WindowLayout::new(ranks, lanes, capacity, piece_bytes).map_err(CaseError::Window)?;
        if !(1..=capacity).contains(&credit_batch) {
            return Err(CaseError::Window(RingError::CreditBatch { credit_batch, capacity }));
        }
        let within = |what, from: u64, to: u64, seen: u64| match (from..=to).contains(&seen) {
            true => Ok(()),
            false => Err((what, format!("{from} to {to}"), seen.to_string())),
        };
        let mut bounds = vec![
            within("lanes", 1, LANES_MAX as u64, lanes as u64),
            within("slots of a ring", 1, CAPACITY_MAX as u64, capacity as u64),
            within("bytes of a window", 1, BYTES_MAX as u64, layout.bytes() as u64),
            within("movers", 1, MOVERS_MAX.into(), self.movers.into()),
            within("skew", 0, SKEW_MAX.into(), self.skew.into()),
        ];
        let rank =
            self.mishap.map(|mishap| within("rank of the mishap", 0, ranks as u64 - 1, mishap.rank() as u64));
        bounds.extend(rank);
        let all: Result<(), _> = bounds.into_iter().collect();
        all.map_err(|(what, needed, seen)| CaseError::Bounds { what, needed, seen })?;
        self.calls.iter().enumerate().try_for_each(|(number, call)| {
            let refused = |(what, needed, seen)| CaseError::Call { call: number, what, needed, seen };
            call.check(&self.shape, within).map_err(refused)
        })
    }
}

/// What is out of bounds, what it must be, what it is.
type Refused = (&'static str, String, String);

impl Call {
    fn check(
        &self,
        shape: &Shape,
        within: impl Fn(&'static str, u64, u64, u64) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let Some(&(_, bytes, integer)) = TYPES.iter().find(|known| known.0 == self.dtype) else {
            return Err(("type", TYPES.map(|known| known.0).join(", "), self.dtype.into()));
        };
        let operations = &OPERATIONS[..if integer { 4 } else { 5 }];
        if !operations.contains(&self.op) {
            return Err(("operation", operations.join(", "), self.op.into()));
        }
        within("elements", 0, (BYTES_MAX / bytes) as u64, self.elements as u64)?;
        within("skew of buffers", 0, 15, self.skewed as u64)?;
        within("lanes", 1, shape.lanes as u64, self.lanes as u64)?;
        within("blocks of a role", 1, self.lanes as u64, self.workers as u64)?;
        within("bytes of a slot", 16, shape.piece_bytes as u64, self.piece_bytes as u64)?;
        match self.piece_bytes.is_multiple_of(16) {
            true => Ok(()),
            false => Err(("bytes of a slot", "a multiple of 16".into(), self.piece_bytes.to_string())),
        }
    }
}
