//! Runs one case after another over the ranks: writes values, calls, checks, times.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context, anyhow};
use myelon_collectives::{Communicator, DataType, Error, ReduceOp, Region};
use myelon_lanes::format_bytes;

use crate::check::{POISON, overwritten, wrong_in_part};
use crate::values::Values;

/// What is written, read and compared at once, a multiple of 8; more is done in several steps.
const PART_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };
/// Bytes behind each buffer that no call may touch.
const GUARD_BYTES: usize = 128;

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
    fn bytes(&self) -> usize {
        self.count * self.dtype.bytes()
    }
}

/// How often a case is called.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls before the timed ones.
    pub warmup: u32,
    /// Timed calls, at least one.
    pub iters: u32,
    /// Checked calls with fresh values.
    pub checks: u32,
}

/// What a case gave.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Mean time of a call on the slowest rank, in microseconds.
    pub time_us: f64,
    /// Wrong elements over all ranks; nothing where the check was off.
    pub wrong: Option<u64>,
}

/// The ranks, each with its two buffers.
pub struct Bench {
    ranks: Vec<Rank>,
    seed: u64,
    /// Grows with every set of values, so that no two are alike.
    round: u64,
}

struct Rank {
    communicator: Communicator,
    input: Region,
    output: Region,
}

impl Bench {
    /// Takes the ranks and gives each two buffers for up to `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// Where there is not enough memory for them.
    pub fn new(communicators: Vec<Communicator>, bytes_max: usize, seed: u64) -> anyhow::Result<Self> {
        let bytes = bytes_max.saturating_add(GUARD_BYTES);
        let buffer = |communicator: &Communicator| {
            communicator.region(bytes).map_err(|error| match error {
                Error::OutOfMemory { .. } => anyhow!(
                    "rank {} has no memory for two buffers of {}, the largest size, with {GUARD_BYTES} guard \
                     bytes behind each",
                    communicator.rank(),
                    format_bytes(bytes_max as u64)
                ),
                other => other.into(),
            })
        };
        let ranks = communicators.into_iter().map(|communicator| {
            let input = buffer(&communicator)?;
            let output = buffer(&communicator)?;
            Ok(Rank { communicator, input, output })
        });
        Ok(Self { ranks: ranks.collect::<anyhow::Result<_>>()?, seed, round: 0 })
    }

    /// The communicator of rank 0, which knows what was launched last.
    pub fn first(&self) -> &Communicator {
        &self.ranks[0].communicator
    }

    /// Times `case`, then checks it.
    ///
    /// The result of the last timed call is checked too, where it is out of place: there the calls ran back to
    /// back, without the host between them.
    ///
    /// # Errors
    ///
    /// The first error of the lowest rank that failed.
    pub fn run(&mut self, case: Case, effort: Effort) -> anyhow::Result<Measured> {
        self.measure(case, effort).with_context(|| {
            format!(
                "{} {} of {} elements{}",
                case.dtype,
                case.op,
                case.count,
                if case.in_place { ", in place" } else { "" }
            )
        })
    }

    fn measure(&mut self, case: Case, effort: Effort) -> anyhow::Result<Measured> {
        let values = self.fill(case)?;
        let time_us = self.time(case, effort)?;
        if effort.checks == 0 {
            return Ok(Measured { time_us, wrong: None });
        }
        let mut wrong = if case.in_place { 0 } else { self.wrong(case, &values)? };
        for _ in 0..effort.checks {
            let values = self.fill(case)?;
            self.each_rank(|rank| {
                rank.call(case)?;
                rank.communicator.stream().synchronize()
            })?;
            wrong += self.wrong(case, &values)?;
        }
        Ok(Measured { time_us, wrong: Some(wrong) })
    }

    /// Gives every rank fresh input, and poison where nothing may have been written before or after the call.
    fn fill(&mut self, case: Case) -> anyhow::Result<Vec<Values>> {
        self.round += 1;
        let (seed, round) = (self.seed, self.round);
        self.each_rank(|rank| {
            let index = rank.communicator.rank();
            rank.write(&rank.input, case.bytes(), |first, part| {
                Values::new(seed, index, round).fill(case.dtype, first as u64, part);
            })?;
            if !case.in_place {
                rank.write(&rank.output, case.bytes(), |_, part| part.fill(POISON))?;
            }
            rank.communicator.stream().synchronize()
        })?;
        Ok((0..self.ranks.len()).map(|rank| Values::new(seed, rank, round)).collect())
    }

    fn time(&mut self, case: Case, effort: Effort) -> anyhow::Result<f64> {
        let start = Barrier::new(self.ranks.len());
        let times = self.each_rank(|rank| {
            let warm =
                rank.calls(case, effort.warmup).and_then(|()| rank.communicator.stream().synchronize());
            // Every rank comes here, failed or not: the others wait for it.
            start.wait();
            warm?;
            let from = rank.communicator.stream().mark()?;
            rank.calls(case, effort.iters)?;
            let to = rank.communicator.stream().mark()?;
            rank.communicator.stream().synchronize()?;
            to.elapsed_us(&from)
        })?;
        Ok(times.into_iter().fold(0.0, f64::max) / f64::from(effort.iters))
    }

    /// Wrong elements over all ranks, and guard bytes that were written.
    fn wrong(&mut self, case: Case, values: &[Values]) -> anyhow::Result<u64> {
        let bytes = case.bytes();
        let mut wrong = 0;
        for first in (0..bytes).step_by(PART_BYTES) {
            let part = first..bytes.min(first + PART_BYTES);
            let seen = self.each_rank(|rank| rank.read(rank.result(case), part.clone()))?;
            wrong += wrong_in_part(case.dtype, case.op, values, first as u64, &seen);
        }
        let guards = self.each_rank(|rank| rank.read(rank.result(case), bytes..bytes + GUARD_BYTES))?;
        Ok(wrong + guards.iter().map(|guard| overwritten(guard)).sum::<u64>())
    }

    /// Does `work` on a thread a rank, at the same time, and returns what each gave.
    fn each_rank<T: Send>(
        &mut self,
        work: impl Fn(&mut Rank) -> Result<T, Error> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let work = &work;
        let results: Vec<Result<T, Error>> = thread::scope(|scope| {
            let threads: Vec<_> = self.ranks.iter_mut().map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank's thread panicked")).collect()
        });
        let results = results.into_iter().enumerate();
        results
            .map(|(rank, result)| {
                result.map_err(|error| {
                    anyhow::Error::new(error.first().clone()).context(format!("rank {rank}"))
                })
            })
            .collect()
    }
}

impl Rank {
    fn result(&self, case: Case) -> &Region {
        if case.in_place { &self.input } else { &self.output }
    }

    fn call(&mut self, case: Case) -> Result<(), Error> {
        self.calls(case, 1)
    }

    fn calls(&mut self, case: Case, times: u32) -> Result<(), Error> {
        let stream = self.communicator.stream().clone();
        let input = self.input.slice(0..case.bytes())?;
        let output = self.result(case).slice(0..case.bytes())?;
        for _ in 0..times {
            self.communicator.all_reduce_region(&input, &output, case.dtype, case.op, &stream)?;
        }
        Ok(())
    }

    /// Writes `bytes` bytes from the start of `region` as `draw` fills them, and the guard behind them.
    fn write(&self, region: &Region, bytes: usize, draw: impl Fn(usize, &mut [u8])) -> Result<(), Error> {
        let stream = self.communicator.stream();
        let mut part = vec![0; bytes.min(PART_BYTES)];
        for first in (0..bytes).step_by(PART_BYTES) {
            let part = &mut part[..PART_BYTES.min(bytes - first)];
            draw(first, part);
            region.slice(first..first + part.len())?.write_bytes(stream, part)?;
        }
        region.slice(bytes..bytes + GUARD_BYTES)?.write_bytes(stream, &[POISON; GUARD_BYTES])
    }

    fn read(&self, region: &Region, bytes: std::ops::Range<usize>) -> Result<Vec<u8>, Error> {
        region.slice(bytes)?.read_bytes(self.communicator.stream())
    }
}

#[cfg(test)]
mod tests {
    use myelon_collectives::Backend;

    use super::*;

    const CASE: Case = Case { dtype: DataType::F32, op: ReduceOp::Sum, count: 1001, in_place: false };
    const EFFORT: Effort = Effort { warmup: 1, iters: 2, checks: 2 };

    fn bench(ranks: usize) -> Bench {
        let ranks = Communicator::builder().backend(Backend::Host).ranks(ranks).build().unwrap();
        Bench::new(ranks, 1 << 13, 3).unwrap()
    }

    #[test]
    fn a_case_is_timed_and_found_right_in_several_parts() {
        let mut bench = bench(3);
        for in_place in [false, true] {
            for count in [0, 1, 256, 1001] {
                let measured = bench.run(Case { count, in_place, ..CASE }, EFFORT).unwrap();
                assert_eq!(measured.wrong, Some(0));
                assert!(measured.time_us > 0.0);
            }
        }
        let unchecked = bench.run(CASE, Effort { checks: 0, ..EFFORT }).unwrap();
        assert_eq!(unchecked.wrong, None);
    }

    /// What the check reads is what lies in the ranks' memory: spoilt elements and a spoilt guard count.
    #[test]
    fn spoilt_memory_is_counted() {
        let mut bench = bench(3);
        for case in [CASE, Case { in_place: true, ..CASE }] {
            let values = bench.fill(case).unwrap();
            bench
                .each_rank(|rank| {
                    rank.call(case)?;
                    rank.communicator.stream().synchronize()
                })
                .unwrap();
            assert_eq!(bench.wrong(case, &values).unwrap(), 0);
            for (rank, byte) in
                [(0, 0), (1, 17 * 4), (1, 300 * 4 + 3), (2, case.bytes()), (2, case.bytes() + 127)]
            {
                let rank = &bench.ranks[rank];
                let spoilt = rank.result(case).slice(byte..byte + 1).unwrap();
                let stream = rank.communicator.stream();
                let was = spoilt.read_bytes(stream).unwrap();
                spoilt.write_bytes(stream, &[!was[0]]).unwrap();
            }
            assert_eq!(bench.wrong(case, &values).unwrap(), 5);
        }
    }

    #[test]
    fn without_a_call_every_element_is_wrong() {
        let mut bench = bench(2);
        let values = bench.fill(CASE).unwrap();
        assert_eq!(bench.wrong(CASE, &values).unwrap(), 2 * CASE.count as u64);
    }

    #[test]
    fn each_fill_draws_other_values() {
        let mut bench = bench(2);
        assert_ne!(bench.fill(CASE).unwrap(), bench.fill(CASE).unwrap());
    }

    #[test]
    fn memory_that_is_not_there_is_one_sentence_that_names_what_was_asked_for() {
        for (bytes, text) in [(1 << 60, "1048576TiB"), (usize::MAX, "18446744073709551615B")] {
            let ranks = Communicator::builder().backend(Backend::Host).build().unwrap();
            let error = Bench::new(ranks, bytes, 3).map(|_| ()).unwrap_err();
            assert_eq!(
                format!("{error:#}"),
                format!(
                    "rank 0 has no memory for two buffers of {text}, the largest size, with 128 guard bytes \
                     behind each"
                )
            );
        }
    }

    #[test]
    fn an_error_names_the_rank_and_the_case() {
        let mut bench = bench(2);
        let error = bench.run(Case { dtype: DataType::I32, op: ReduceOp::Avg, ..CASE }, EFFORT).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("i32 avg of 1001 elements") && text.contains("rank 0"), "{text}");
    }
}
