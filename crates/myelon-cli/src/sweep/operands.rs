//! The ranks' buffers, which all settings use in turn, and what should come out.

use std::thread;

use anyhow::anyhow;
use myelon_collectives::{Communicator, DataType, Error, ReduceOp, Region, Stream, reference};
use myelon_lanes::format_bytes;

use crate::check::{POISON, wrong_elements};
use crate::values::Values;

/// What is written, read and compared at once, a multiple of 8.
const PART_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };
/// What a thread draws and reduces at once, a multiple of 8.
const BLOCK_BYTES: usize = if cfg!(test) { 256 } else { 256 << 10 };

/// An input and an output for every rank, and the result that each should hold.
pub struct Operands {
    dtype: DataType,
    op: ReduceOp,
    seed: u64,
    /// Grows with every set of values, so that no two are alike.
    round: u64,
    ranks: Vec<Rank>,
    expected: Vec<u8>,
}

struct Rank {
    stream: Stream,
    /// For the largest size.
    whole: (Region, Region),
    /// For the size that was drawn last.
    now: (Region, Region),
}

impl Operands {
    /// Buffers for up to `bytes_max` bytes on each of `ranks`; a size has still to be drawn.
    ///
    /// # Errors
    ///
    /// Where there is not enough memory for them.
    pub fn new(
        ranks: &[Communicator],
        bytes_max: usize,
        dtype: DataType,
        op: ReduceOp,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let of_rank = |rank: &Communicator| -> Result<Rank, Error> {
            let whole = (rank.region(bytes_max)?, rank.region(bytes_max)?);
            let now = (whole.0.slice(0..0)?, whole.1.slice(0..0)?);
            Ok(Rank { stream: rank.stream().clone(), whole, now })
        };
        let ranks = ranks.iter().map(|rank| {
            of_rank(rank).map_err(|error| match error {
                Error::OutOfMemory { .. } => anyhow!(
                    "rank {} has no memory for two buffers of {}, the largest size",
                    rank.rank(),
                    format_bytes(bytes_max as u64)
                ),
                other => other.into(),
            })
        });
        let ranks = ranks.collect::<anyhow::Result<_>>()?;
        Ok(Self { dtype, op, seed, round: 0, ranks, expected: Vec::new() })
    }

    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// What values, and all else that is drawn, follow from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn op(&self) -> ReduceOp {
        self.op
    }

    /// The input and the output of `rank`.
    pub fn of(&self, rank: usize) -> (&Region, &Region) {
        let (input, output) = &self.ranks[rank].now;
        (input, output)
    }

    /// What every rank should hold.
    pub fn expected(&self) -> &[u8] {
        &self.expected
    }

    /// Fresh values for `count` elements on every rank.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub fn draw(&mut self, count: usize) -> Result<(), Error> {
        let bytes = count * self.dtype.bytes();
        self.round += 1;
        let (dtype, op) = (self.dtype, self.op);
        let values: Vec<Values> =
            (0..self.ranks.len()).map(|rank| Values::new(self.seed, rank, self.round)).collect();
        for rank in &mut self.ranks {
            rank.now = (rank.whole.0.slice(0..bytes)?, rank.whole.1.slice(0..bytes)?);
        }
        self.expected.resize(bytes, 0);
        reduce(dtype, op, &values, &mut self.expected);
        self.each_rank(|index, rank| {
            rank.write(&rank.now.0, |first, part| values[index].fill(dtype, first as u64, part))
        })?;
        Ok(())
    }

    /// Spoils every output, so that what is found there later was written since.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub fn poison(&self) -> Result<(), Error> {
        self.each_rank(|_, rank| rank.write(&rank.now.1, |_, part| part.fill(POISON))).map(|_| ())
    }

    /// Elements, over all ranks, that are not what they should be in every bit.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn wrong(&self) -> Result<u64, Error> {
        let of_rank = |_, rank: &Rank| {
            let mut wrong = 0;
            for first in (0..self.expected.len()).step_by(PART_BYTES) {
                let part = first..self.expected.len().min(first + PART_BYTES);
                let seen = rank.now.1.slice(part.clone())?.read_bytes(&rank.stream)?;
                wrong += wrong_elements(self.dtype, &self.expected[part], &seen);
            }
            Ok(wrong)
        };
        Ok(self.each_rank(of_rank)?.into_iter().sum())
    }

    /// Makes the right result of one element wrong.
    #[cfg(test)]
    pub fn expect_another_bit(&mut self) {
        self.expected[0] ^= 1;
    }

    /// Does `work` on a thread a rank, at the same time.
    fn each_rank<T: Send>(
        &self,
        work: impl Fn(usize, &Rank) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let work = &work;
        thread::scope(|scope| {
            let ranks = self.ranks.iter().enumerate();
            let threads: Vec<_> = ranks.map(|(index, rank)| scope.spawn(move || work(index, rank))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank's thread panicked")).collect()
        })
    }
}

impl Rank {
    /// Writes all of `region` as `draw` fills it, and waits until that is done.
    fn write(&self, region: &Region, draw: impl Fn(usize, &mut [u8])) -> Result<(), Error> {
        let bytes = region.bytes();
        let mut part = vec![0; bytes.min(PART_BYTES)];
        for first in (0..bytes).step_by(PART_BYTES) {
            let part = &mut part[..PART_BYTES.min(bytes - first)];
            draw(first, part);
            region.slice(first..first + part.len())?.write_bytes(&self.stream, part)?;
        }
        self.stream.synchronize()
    }
}

/// What the reference makes of `values`, on all threads of the host.
pub fn reduce(dtype: DataType, op: ReduceOp, values: &[Values], out: &mut [u8]) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = out.len().div_ceil(threads).next_multiple_of(BLOCK_BYTES);
    thread::scope(|scope| {
        for (thread, out) in out.chunks_mut(share.max(1)).enumerate() {
            scope.spawn(move || {
                let mut inputs = vec![Vec::new(); values.len()];
                for (block, out) in out.chunks_mut(BLOCK_BYTES).enumerate() {
                    let first = thread * share + block * BLOCK_BYTES;
                    for (values, input) in values.iter().zip(&mut inputs) {
                        input.resize(out.len(), 0);
                        values.fill(dtype, first as u64, input);
                    }
                    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
                    out.copy_from_slice(&reference::all_reduce(dtype, op, &inputs));
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use myelon_collectives::Backend;

    use super::*;

    fn three() -> (Vec<Communicator>, Operands) {
        let ranks = Communicator::builder().backend(Backend::Host).ranks(3).build().unwrap();
        let operands = Operands::new(&ranks, 1 << 13, DataType::F32, ReduceOp::Sum, 3).unwrap();
        (ranks, operands)
    }

    /// The result is the reference's of the values that lie in the ranks' memory, whatever it was cut into.
    #[test]
    fn what_is_expected_follows_from_the_inputs() {
        let (ranks, mut operands) = three();
        for count in [0, 1, 64, 65, 1001, 2048] {
            operands.draw(count).unwrap();
            let inputs: Vec<Vec<u8>> = ranks
                .iter()
                .map(|rank| operands.of(rank.rank()).0.read_bytes(rank.stream()).unwrap())
                .collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            assert_eq!(inputs[0].len(), 4 * count);
            assert_eq!(operands.expected(), reference::all_reduce(DataType::F32, ReduceOp::Sum, &inputs));
        }
    }

    #[test]
    fn poison_stale_results_and_single_bits_are_wrong() {
        let (ranks, mut operands) = three();
        operands.draw(1001).unwrap();
        operands.poison().unwrap();
        assert_eq!(operands.wrong().unwrap(), 3 * 1001);
        let write_all = |operands: &Operands| {
            for rank in &ranks {
                operands.of(rank.rank()).1.write_bytes(rank.stream(), operands.expected()).unwrap();
                rank.stream().synchronize().unwrap();
            }
        };
        write_all(&operands);
        assert_eq!(operands.wrong().unwrap(), 0);
        for (rank, byte) in [(0, 0), (1, 300 * 4 + 3), (2, 4003)] {
            let spoilt = operands.of(rank).1.slice(byte..byte + 1).unwrap();
            let was = spoilt.read_bytes(ranks[rank].stream()).unwrap();
            spoilt.write_bytes(ranks[rank].stream(), &[was[0] ^ 1]).unwrap();
        }
        assert_eq!(operands.wrong().unwrap(), 3);
        write_all(&operands);
        operands.draw(1001).unwrap();
        assert!(operands.wrong().unwrap() > 2900, "the results of older values are wrong");
    }

    #[test]
    fn memory_that_is_not_there_is_one_sentence() {
        let ranks = Communicator::builder().backend(Backend::Host).build().unwrap();
        let error = Operands::new(&ranks, 1 << 60, DataType::F32, ReduceOp::Sum, 3).map(|_| ()).unwrap_err();
        let needed = "rank 0 has no memory for two buffers of 1048576TiB, the largest size";
        assert_eq!(error.to_string(), needed);
    }
}
