//! One rank with its buffers: several pairs of them, so that no call finds its data in a cache.

use std::ops::Range;

use anyhow::anyhow;
use myelon_collectives::{Backend, Communicator, DataType, Error, Graph, ReduceOp, Region};
use myelon_lanes::format_bytes;

use crate::check::POISON;

/// What is written, read and compared at once, a multiple of 8; more is done in several steps.
pub const PART_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };
/// Bytes behind each buffer that no call may touch.
pub const GUARD_BYTES: usize = 128;
/// The most pairs of buffers that calls go round.
pub const PAIRS_MAX: usize = 16;

/// One line of work.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Element type.
    pub dtype: DataType,
    /// Reduction.
    pub op: ReduceOp,
    /// Elements of a rank.
    pub count: usize,
    /// Whether the result replaces the input.
    pub in_place: bool,
}

impl Case {
    pub fn bytes(&self) -> usize {
        self.count * self.dtype.bytes()
    }
}

/// Bytes of inputs, and of outputs, that calls go round: on GPUs more than twice the largest second-level
/// cache of an H200 (50 MB), for at least half of it is used.
pub fn rotation_bytes(backend: Backend) -> usize {
    if backend == Backend::Cuda { 128 << 20 } else { 16 << 20 }
}

/// Bytes of the memory that is filled between isolated calls.
fn unrelated_bytes(backend: Backend) -> usize {
    if backend == Backend::Cuda { 64 << 20 } else { 4 << 20 }
}

/// Buffers begin on multiples of this, so on lines of their own.
const ALIGN_BYTES: usize = 128;
/// The most bytes from the end of a buffer to the next one.
const BESIDE_MAX: usize = GUARD_BYTES + ALIGN_BYTES;

/// From one buffer to the next.
fn stride(bytes: usize) -> usize {
    (bytes + GUARD_BYTES).next_multiple_of(ALIGN_BYTES)
}

/// A rank and its buffers.
pub struct Rank {
    pub communicator: Communicator,
    /// All inputs, one behind the other, and all outputs.
    inputs: Region,
    outputs: Region,
    /// What isolated calls do not touch.
    unrelated: Option<Region>,
    rotation_bytes: usize,
    /// Calls since the last rewind; the next one takes the next pair.
    calls_queued: usize,
    graph: Option<Graph>,
}

impl Rank {
    /// Gives `communicator` buffers for cases of up to `bytes_max` bytes, and where calls are isolated, memory
    /// to fill between them.
    pub fn new(communicator: Communicator, bytes_max: usize, isolated: bool) -> anyhow::Result<Self> {
        let rotation_bytes = rotation_bytes(communicator.backend());
        let largest = bytes_max.max(rotation_bytes.min(bytes_max.saturating_mul(PAIRS_MAX)));
        let buffer = || {
            communicator.region(largest.saturating_add(PAIRS_MAX * BESIDE_MAX)).map_err(|error| match error {
                Error::OutOfMemory { .. } => anyhow!(
                    "rank {} has no memory for two buffers of {}, the largest size, with {GUARD_BYTES} guard \
                     bytes behind each",
                    communicator.rank(),
                    format_bytes(bytes_max as u64)
                ),
                other => other.into(),
            })
        };
        let (inputs, outputs) = (buffer()?, buffer()?);
        let unrelated =
            if isolated { Some(communicator.region(unrelated_bytes(communicator.backend()))?) } else { None };
        Ok(Self { communicator, inputs, outputs, unrelated, rotation_bytes, calls_queued: 0, graph: None })
    }

    /// Pairs of buffers that calls of `case` go round.
    pub fn pairs(&self, case: Case) -> usize {
        (self.rotation_bytes / case.bytes().max(1)).clamp(1, PAIRS_MAX)
    }

    /// The next call takes the first pair.
    pub fn rewind(&mut self) {
        self.calls_queued = 0;
    }

    /// Calls that were queued one by one since then.
    pub fn calls_queued(&self) -> usize {
        self.calls_queued
    }

    /// Queues `times` calls, each on the next pair.
    pub fn calls(&mut self, case: Case, times: u32) -> Result<(), Error> {
        let (stream, pairs) = (self.communicator.stream().clone(), self.pairs(case));
        for _ in 0..times {
            let pair = self.calls_queued % pairs;
            let input = self.part(&self.inputs, case, pair, 0..case.bytes())?;
            let output = self.result(case, pair, 0..case.bytes())?;
            self.communicator.all_reduce_region(&input, &output, case.dtype, case.op, &stream)?;
            self.calls_queued += 1;
        }
        Ok(())
    }

    /// Records `times` calls, the first on the first pair.
    pub fn capture(&mut self, case: Case, times: u32) -> Result<(), Error> {
        let stream = self.communicator.stream().clone();
        self.rewind();
        self.graph = Some(stream.capture(|| self.calls(case, times))?);
        Ok(())
    }

    /// Makes the calls that were recorded.
    pub fn launch(&self) -> Result<(), Error> {
        self.graph.as_ref().expect("there is a graph in this mode").launch(self.communicator.stream())
    }

    /// Forgets what was recorded.
    pub fn forget(&mut self) {
        self.graph = None;
    }

    /// Queues a fill of memory that no call touches.
    pub fn disturb(&self, byte: u8) -> Result<(), Error> {
        let unrelated = self.unrelated.as_ref().expect("there is such memory in this mode");
        unrelated.fill(self.communicator.stream(), byte)
    }

    /// Bytes `bytes` of the buffer of `pair` in `region`, where those behind the case are the guard.
    fn part(&self, region: &Region, case: Case, pair: usize, bytes: Range<usize>) -> Result<Region, Error> {
        let start = pair * stride(case.bytes());
        region.slice(start + bytes.start..start + bytes.end)
    }

    /// The same of the buffer that gets the result.
    pub fn result(&self, case: Case, pair: usize, bytes: Range<usize>) -> Result<Region, Error> {
        self.part(if case.in_place { &self.inputs } else { &self.outputs }, case, pair, bytes)
    }

    /// Writes an input as `draw` fills it, and poison behind it and where the result will be.
    pub fn fill(&self, case: Case, pair: usize, draw: impl Fn(usize, &mut [u8])) -> Result<(), Error> {
        self.write(&self.inputs, case, pair, draw)?;
        if case.in_place {
            Ok(())
        } else {
            self.write(&self.outputs, case, pair, |_, part| part.fill(POISON))
        }
    }

    /// Queues the same poison for the outputs of the first `pairs` pairs, and behind them.
    pub fn poison(&self, case: Case, pairs: usize) -> Result<(), Error> {
        for pair in 0..pairs {
            let all = 0..case.bytes() + GUARD_BYTES;
            self.part(&self.outputs, case, pair, all)?.fill(self.communicator.stream(), POISON)?;
        }
        Ok(())
    }

    fn write(
        &self,
        region: &Region,
        case: Case,
        pair: usize,
        draw: impl Fn(usize, &mut [u8]),
    ) -> Result<(), Error> {
        let (stream, bytes) = (self.communicator.stream(), case.bytes());
        let mut part = vec![0; bytes.min(PART_BYTES)];
        for first in (0..bytes).step_by(PART_BYTES) {
            let part = &mut part[..PART_BYTES.min(bytes - first)];
            draw(first, part);
            self.part(region, case, pair, first..first + part.len())?.write_bytes(stream, part)?;
        }
        self.part(region, case, pair, bytes..bytes + GUARD_BYTES)?.write_bytes(stream, &[POISON; GUARD_BYTES])
    }

    /// What lies there.
    pub fn read(&self, case: Case, pair: usize, bytes: Range<usize>) -> Result<Vec<u8>, Error> {
        self.result(case, pair, bytes)?.read_bytes(self.communicator.stream())
    }
}
