//! What is simulated: a communicator, the calls that its ranks make, and what goes wrong.

use std::fmt;

use myelon_lanes::{Algorithm, Inbox};
use myelon_ring::RingError;

use crate::launch::Shape;
use crate::model::Schedule;

/// Element types of the kernels: name, bytes, whether they are integers.
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
    /// What it is made of.
    pub algorithm: Algorithm,
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
    /// Lanes that are used, at most the window's, or its inbox's.
    pub lanes: usize,
    /// The ring's blocks of each role, at most `lanes`.
    pub workers: usize,
    /// Payload bytes of the ring's slots, at most the window's.
    pub piece_bytes: usize,
}

impl Call {
    /// Whether it goes by packets or cells, and so takes an epoch.
    pub fn is_of_packets(&self) -> bool {
        !self.algorithm.has_slots()
    }

    /// Blocks of its launch.
    pub(super) fn blocks(&self) -> usize {
        match self.algorithm {
            Algorithm::Ring => 3 * self.workers,
            Algorithm::Neighbour => self.workers,
            _ => self.lanes,
        }
    }

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
        format!("all_reduce_{}_{}_{op}", self.algorithm.name().replace('-', "_"), self.dtype)
    }

    /// The word by which ranks find out that they call differently.
    pub fn word(&self) -> u64 {
        let dtype = TYPES.iter().position(|known| known.0 == self.dtype).unwrap_or(0) as u64;
        let op = OPERATIONS.iter().position(|known| *known == self.op).unwrap_or(0) as u64;
        (self.elements as u64) << 16 | dtype << 8 | op << 4 | (1 + self.algorithm as u64)
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
    /// The rank's last call has one element more than the others', and perhaps another algorithm for it.
    OtherCount {
        /// Which one.
        rank: usize,
        /// What its call is made of.
        algorithm: Algorithm,
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
        /// A gating word, else a sequence word. Where the first call goes by packets: a packet of the payload, or of
        /// the first lane where the payload is not in packets (cells tell no epoch); else a header, of the last lane.
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
            | Self::OtherCount { rank, .. }
            | Self::Aborted { rank, .. }
            | Self::Overwritten { rank, .. } => rank,
        }
    }
}

/// A simulation that follows from its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The window: ranks, lanes, capacity, slot bytes, credit batch, first sequence and epoch, inbox.
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
    /// What `rank` calls as call `number`.
    pub fn call_of(&self, rank: usize, number: usize) -> Call {
        let call = self.calls[number].clone();
        match self.mishap {
            Some(Mishap::OtherCount { rank: other, algorithm })
                if other == rank && number + 1 == self.calls.len() =>
            {
                let lanes = call.lanes.min(lanes_of(&self.shape, algorithm));
                let workers = call.workers.min(lanes);
                Call { algorithm, elements: call.elements + 1, lanes, workers, ..call }
            }
            _ => call,
        }
    }

    /// Whether it can be run: a shape that a window has, and calls that this window can carry.
    ///
    /// # Errors
    ///
    /// The first thing that is out of bounds.
    pub fn check(&self) -> Result<(), CaseError> {
        let Shape { ranks, lanes, capacity, credit_batch, inbox, .. } = self.shape;
        let layout = self.shape.layout().map_err(CaseError::Window)?;
        if !(1..=capacity).contains(&credit_batch) {
            return Err(CaseError::Window(RingError::CreditBatch { credit_batch, capacity }));
        }
        let within = |what, from: u64, to: u64, seen: u64| match (from..=to).contains(&seen) {
            true => Ok(()),
            false => Err((what, format!("{from} to {to}"), seen.to_string())),
        };
        let mut bounds = vec![
            within("lanes", 1, LANES_MAX as u64, lanes as u64),
            within("lanes of the inbox", 0, LANES_MAX as u64, inbox.lanes as u64),
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
        (0..self.calls.len()).try_for_each(|number| {
            let refused = |(what, needed, seen)| CaseError::Call { call: number, what, needed, seen };
            let of_rank = |rank| self.call_of(rank, number).check(&self.shape, within);
            let other = self.mishap.map_or(0, Mishap::rank);
            self.calls[number].check(&self.shape, within).and_then(|()| of_rank(other)).map_err(refused)
        })
    }
}

/// Lanes that calls of an algorithm may have.
pub(super) fn lanes_of(shape: &Shape, algorithm: Algorithm) -> usize {
    if algorithm.has_slots() { shape.lanes } else { shape.inbox.lanes }
}

/// The largest payload that an algorithm carries in a window of that shape.
pub(super) fn bytes_max(shape: &Shape, algorithm: Algorithm) -> usize {
    let inbox = Inbox {
        lanes: shape.inbox.lanes as u32,
        packets: shape.inbox.packets as u32,
        cells: shape.inbox.cells as u32,
    };
    let most = algorithm.bytes_max(shape.ranks as u32, inbox);
    most.min(BYTES_MAX as u64) as usize
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
        if integer && self.algorithm.needs_floats() {
            let floats: Vec<&str> = TYPES.iter().filter(|known| !known.2).map(|known| known.0).collect();
            return Err(("type", format!("{} by {}", floats.join(", "), self.algorithm), self.dtype.into()));
        }
        within("elements", 0, (bytes_max(shape, self.algorithm) / bytes) as u64, self.elements as u64)?;
        within("skew of buffers", 0, 15, self.skewed as u64)?;
        within("lanes", 1, lanes_of(shape, self.algorithm) as u64, self.lanes as u64)?;
        within("blocks of a role", 1, self.lanes as u64, self.workers as u64)?;
        within("bytes of a slot", 16, shape.piece_bytes as u64, self.piece_bytes as u64)?;
        match self.piece_bytes.is_multiple_of(16) {
            true => Ok(()),
            false => Err(("bytes of a slot", "a multiple of 16".into(), self.piece_bytes.to_string())),
        }
    }
}
