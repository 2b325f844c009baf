//! Runs one case after another over the ranks: writes values, calls, checks, times.

use std::sync::Barrier;
use std::thread;

use anyhow::Context;
use myelon_collectives::{Backend, Communicator, Error};
use myelon_lanes::Algorithm;

use crate::check::{overwritten, wrong_in_part};
use crate::mode::{Mode, Spread};
pub use crate::rank::Case;
use crate::rank::{GUARD_BYTES, PART_BYTES, Rank};
use crate::values::Values;
use crate::world::World;

/// How often a case is called, and how it is timed.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls before the timed ones; launches of a graph.
    pub warmup: u32,
    /// Samples, at least one.
    pub samples: u32,
    /// Checked calls with fresh values; launches of a graph.
    pub checks: u32,
    /// What a sample is.
    pub mode: Mode,
    /// Calls of a sample, where they are forced.
    pub calls: Option<u32>,
}

/// What a case gave.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Time of a call in microseconds: of the slowest rank in each sample.
    pub time_us: Spread,
    /// Calls of a sample, of which its time is the mean.
    pub sample_calls: u32,
    /// Wrong elements over all ranks; nothing where the check was off.
    pub wrong: Option<u64>,
}

/// The ranks of this process with their buffers.
pub struct Bench {
    ranks: Vec<Rank>,
    world: World,
    seed: u64,
    /// Grows with every set of values, so that no two are alike.
    round: u64,
}

impl Bench {
    /// Takes the ranks and gives each buffers for up to `bytes_max` bytes, and what `mode` needs.
    ///
    /// # Errors
    ///
    /// Where there is not enough memory for them.
    pub fn new(
        communicators: Vec<Communicator>,
        bytes_max: usize,
        seed: u64,
        mode: Mode,
    ) -> anyhow::Result<Self> {
        let isolated = mode == Mode::Isolated;
        let ranks =
            communicators.into_iter().map(|communicator| Rank::new(communicator, bytes_max, isolated));
        Ok(Self { ranks: ranks.collect::<anyhow::Result<_>>()?, world: World::Threads, seed, round: 0 })
    }

    /// The same where the other ranks are in `world`: all of them do the same at the same time, and get the same.
    pub fn of(self, world: World) -> Self {
        Self { world, ..self }
    }

    /// Pairs of buffers that calls of `case` go round.
    pub fn pairs(&self, case: Case) -> usize {
        self.ranks[0].pairs(case)
    }

    /// Forgets the graphs that were recorded.
    pub fn forget(&mut self) {
        self.ranks.iter_mut().for_each(Rank::forget);
    }

    /// The communicator of rank 0, which knows what was launched last.
    pub fn first(&self) -> &Communicator {
        &self.ranks[0].communicator
    }

    /// Times `case`, then checks it.
    ///
    /// Results of timed calls are checked too, where they are out of place: there the calls ran back to back,
    /// without the host between them. A graph is checked as a whole.
    ///
    /// # Errors
    ///
    /// The first error of the lowest rank that failed.
    pub fn run(&mut self, case: Case, effort: Effort) -> anyhow::Result<Measured> {
        let measured = self.measure(case, effort).with_context(|| {
            format!(
                "{} {} of {} elements{}",
                case.dtype,
                case.op,
                case.count,
                if case.in_place { ", in place" } else { "" }
            )
        });
        self.forget();
        measured
    }

    fn measure(&mut self, case: Case, effort: Effort) -> anyhow::Result<Measured> {
        let on_gpus = self.first().backend() == Backend::Cuda;
        let calls = effort.calls.unwrap_or_else(|| effort.mode.calls(case.bytes(), on_gpus));
        let pairs = self.pairs(case);
        let values = self.fill(case, pairs)?;
        if effort.mode == Mode::Graph {
            self.each_rank(|rank| rank.capture(case, calls))?;
        }
        let times = self.time(case, effort, calls)?;
        let time_us = Spread::of_slowest(&self.world.all_times(times)?);
        if effort.checks == 0 {
            return Ok(Measured { time_us, sample_calls: calls, wrong: None });
        }
        let mut wrong = 0;
        let used = match effort.mode {
            Mode::Graph => pairs.min(calls as usize),
            Mode::Stream | Mode::Isolated => pairs.min(self.ranks[0].calls_queued()),
        };
        // In place the timed calls have reduced their own results again and again.
        let timed = if case.in_place { 0 } else { used };
        for (pair, values) in values.iter().enumerate().take(timed) {
            wrong += self.wrong(case, pair, values, 1)?;
        }
        for _ in 0..effort.checks {
            wrong += if effort.mode == Mode::Graph {
                self.check_launch(case, calls as usize, used)?
            } else {
                self.check_call(case)?
            };
        }
        Ok(Measured { time_us, sample_calls: calls, wrong: Some(self.world.sum(wrong)?) })
    }

    /// Makes one call on fresh values; how much of it is wrong.
    fn check_call(&mut self, case: Case) -> anyhow::Result<u64> {
        let values = self.fill(case, 1)?;
        self.each_rank(|rank| {
            rank.rewind();
            rank.calls(case, 1)?;
            rank.communicator.stream().synchronize()
        })?;
        self.wrong(case, 0, &values[0], 1)
    }

    /// Launches the graph of `calls` calls once on fresh values in its `pairs` pairs; how much of all that it
    /// leaves behind is wrong.
    fn check_launch(&mut self, case: Case, calls: usize, pairs: usize) -> anyhow::Result<u64> {
        let values = self.fill(case, pairs)?;
        self.each_rank(|rank| {
            rank.launch()?;
            rank.communicator.stream().synchronize()
        })?;
        let mut wrong = 0;
        for (pair, values) in values.iter().enumerate() {
            // In place a pair holds its own result, reduced as often as the graph came round to it.
            let times = if case.in_place { (calls - pair).div_ceil(pairs) } else { 1 };
            wrong += self.wrong(case, pair, values, times)?;
        }
        Ok(wrong)
    }

    /// Gives every rank fresh inputs in the first `pairs` pairs, and poison where nothing may have been written
    /// before or after the call. The values are `[pairs][ranks]`.
    pub fn fill(&mut self, case: Case, pairs: usize) -> anyhow::Result<Vec<Vec<Values>>> {
        let (seed, first) = (self.seed, self.round + 1);
        self.round += pairs as u64;
        let values = |rank: usize, pair: usize| Values::new(seed, rank, first + pair as u64);
        self.each_rank(|rank| {
            let index = rank.communicator.rank();
            for pair in 0..pairs {
                rank.fill(case, pair, |first, part| {
                    values(index, pair).fill(case.dtype, first as u64, part)
                })?;
            }
            rank.communicator.stream().synchronize()
        })?;
        let ranks = self.first().ranks();
        Ok((0..pairs).map(|pair| (0..ranks).map(|rank| values(rank, pair)).collect()).collect())
    }

    /// Microseconds of a call, `[ranks][samples]`.
    fn time(&mut self, case: Case, effort: Effort, calls: u32) -> anyhow::Result<Vec<Vec<f64>>> {
        let start = Barrier::new(self.ranks.len());
        let world = std::mem::replace(&mut self.world, World::Threads);
        let times = self.each_rank(|rank| {
            let stream = rank.communicator.stream().clone();
            rank.rewind();
            let warm = match effort.mode {
                Mode::Graph => (0..effort.warmup).try_for_each(|_| rank.launch()),
                Mode::Stream | Mode::Isolated => rank.calls(case, effort.warmup),
            };
            let warm = warm.and_then(|()| stream.synchronize());
            // Every rank comes here, failed or not: the others wait for it.
            start.wait();
            warm?;
            world.barrier()?;
            let mut marks = Vec::with_capacity(2 * effort.samples as usize);
            if effort.mode == Mode::Isolated {
                // The first round brings the ranks into step.
                for sample in 0..=effort.samples {
                    rank.disturb(sample as u8)?;
                    let from = stream.mark()?;
                    rank.calls(case, calls)?;
                    marks.push((from, stream.mark()?));
                }
                marks.remove(0);
            } else {
                let mut from = stream.mark()?;
                for _ in 0..effort.samples {
                    match effort.mode {
                        Mode::Graph => rank.launch()?,
                        _ => rank.calls(case, calls)?,
                    }
                    let to = stream.mark()?;
                    marks.push((std::mem::replace(&mut from, to.clone()), to));
                }
            }
            stream.synchronize()?;
            marks.iter().map(|(from, to)| Ok(to.elapsed_us(from)? / f64::from(calls))).collect()
        });
        self.world = world;
        times
    }

    /// Microseconds between two marks with nothing between them, behind a fill: what an isolated call seems to
    /// cost beyond itself. The median, of the slowest rank.
    ///
    /// # Errors
    ///
    /// As for [`Bench::run`].
    pub fn marks_us(&mut self) -> anyhow::Result<f64> {
        let times = self.each_rank(|rank| {
            let stream = rank.communicator.stream().clone();
            let pair = |byte: u8| {
                rank.disturb(byte)?;
                Ok((stream.mark()?, stream.mark()?))
            };
            let marks = (0..32).map(pair).collect::<Result<Vec<_>, Error>>()?;
            stream.synchronize()?;
            marks.iter().map(|(from, to)| to.elapsed_us(from)).collect::<Result<Vec<_>, Error>>()
        })?;
        let median = times.into_iter().map(|times| Spread::of(times).median).fold(0.0, f64::max);
        Ok(self.world.gather(&[median])?.into_iter().flatten().fold(0.0, f64::max))
    }

    /// Wrong elements over all ranks in what a pair holds after `times` calls in place, or any number out of
    /// place, and guard bytes that were written.
    fn wrong(&mut self, case: Case, pair: usize, values: &[Values], times: usize) -> anyhow::Result<u64> {
        let bytes = case.bytes();
        let plan = self.ranks[0].communicator.explain(case.dtype, case.count as u64)?.plan;
        let pieces = match plan.algorithm {
            Algorithm::Neighbour => Some(plan.geometry(bytes as u64)?),
            _ => None,
        };
        let mut wrong = 0;
        for part in 0..bytes.div_ceil(PART_BYTES).max(1) {
            let first = part * PART_BYTES;
            let end = bytes.min(first + PART_BYTES);
            // The guard comes with the last part.
            let guard_bytes = if end == bytes { GUARD_BYTES } else { 0 };
            let mut seen = self.each_rank(|rank| rank.read(case, pair, first..end + guard_bytes))?;
            for seen in &mut seen {
                wrong += overwritten(&seen.split_off(end - first));
            }
            wrong += wrong_in_part(case.dtype, case.op, values, times, first as u64, pieces.as_ref(), &seen);
        }
        Ok(wrong)
    }

    /// Does `work` on a thread a rank, at the same time, and returns what each gave.
    pub fn each_rank<T: Send>(
        &mut self,
        work: impl Fn(&mut Rank) -> Result<T, Error> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let work = &work;
        let results: Vec<Result<T, Error>> = thread::scope(|scope| {
            let threads: Vec<_> = self.ranks.iter_mut().map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank's thread panicked")).collect()
        });
        let results = self.ranks.iter().zip(results);
        results
            .map(|(rank, result)| {
                result.map_err(|error| {
                    let rank = rank.communicator.rank();
                    anyhow::Error::new(error.first().clone()).context(format!("rank {rank}"))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use myelon_collectives::{DataType, ReduceOp};

    use super::*;

    const CASE: Case = Case { dtype: DataType::F32, op: ReduceOp::Sum, count: 1001, in_place: false };
    const EFFORT: Effort = Effort { warmup: 1, samples: 2, checks: 2, mode: Mode::Stream, calls: None };

    fn bench(ranks: usize) -> Bench {
        let ranks = Communicator::builder().backend(Backend::Host).ranks(ranks).build().unwrap();
        Bench::new(ranks, 1 << 13, 3, Mode::Isolated).unwrap()
    }

    const MODES: [Mode; 3] = [Mode::Stream, Mode::Graph, Mode::Isolated];

    #[test]
    fn a_case_is_timed_and_found_right_in_several_parts() {
        let mut bench = bench(3);
        for (in_place, mode) in [false, true].into_iter().flat_map(|place| MODES.map(|mode| (place, mode))) {
            for count in [0, 1, 256, 1001] {
                let measured =
                    bench.run(Case { count, in_place, ..CASE }, Effort { mode, ..EFFORT }).unwrap();
                assert_eq!((measured.wrong, measured.sample_calls), (Some(0), mode.calls(4 * count, false)));
                let Spread { median, p99, max } = measured.time_us;
                assert!(0.0 < median && median <= p99 && p99 <= max);
            }
        }
        assert!(bench.marks_us().unwrap() >= 0.0);
        let unchecked = bench.run(CASE, Effort { checks: 0, ..EFFORT }).unwrap();
        assert_eq!(unchecked.wrong, None);
    }

    /// Graphs with fewer calls than pairs, as many, and more, so that some pairs come round more often: every
    /// pair is compared, in place too.
    #[test]
    fn every_result_of_a_graph_is_compared() {
        let mut bench = bench(2);
        let pairs = bench.ranks[0].pairs(CASE);
        assert_eq!(pairs, crate::rank::PAIRS_MAX);
        for in_place in [false, true] {
            for calls in [1, 3, 16, 17, 40] {
                let case = Case { in_place, dtype: DataType::I32, ..CASE };
                let effort = Effort { mode: Mode::Graph, calls: Some(calls), ..EFFORT };
                assert_eq!(bench.run(case, effort).unwrap().wrong, Some(0), "{calls} calls");
                // A graph that makes other calls than it says leaves something wrong behind.
                bench.each_rank(|rank| rank.capture(case, calls)).unwrap();
                let used = pairs.min(calls as usize);
                assert_eq!(bench.check_launch(case, calls as usize, used).unwrap(), 0);
                if used < pairs {
                    let missing = bench.check_launch(case, pairs, used + 1).unwrap();
                    assert!(missing >= 2 * CASE.count as u64 / 2, "{missing} wrong for {calls} calls");
                }
                if in_place {
                    assert!(bench.check_launch(case, calls as usize + pairs, used).unwrap() > 0);
                }
            }
        }
    }

    /// What the check reads is what lies in the ranks' memory: spoilt elements and a spoilt guard count.
    #[test]
    fn spoilt_memory_is_counted() {
        let mut bench = bench(3);
        for case in [CASE, Case { in_place: true, ..CASE }] {
            let values = bench.fill(case, 2).unwrap();
            bench
                .each_rank(|rank| {
                    rank.rewind();
                    rank.calls(case, 2)?;
                    rank.communicator.stream().synchronize()
                })
                .unwrap();
            assert_eq!(bench.wrong(case, 1, &values[1], 1).unwrap(), 0);
            for (rank, byte) in
                [(0, 0), (1, 17 * 4), (1, 300 * 4 + 3), (2, case.bytes()), (2, case.bytes() + 127)]
            {
                let rank = &bench.ranks[rank];
                let spoilt = rank.result(case, 1, byte..byte + 1).unwrap();
                let stream = rank.communicator.stream();
                let was = spoilt.read_bytes(stream).unwrap();
                spoilt.write_bytes(stream, &[!was[0]]).unwrap();
            }
            assert_eq!(bench.wrong(case, 1, &values[1], 1).unwrap(), 5);
            assert_eq!(bench.wrong(case, 0, &values[0], 1).unwrap(), 0);
        }
    }

    #[test]
    fn without_a_call_every_element_is_wrong() {
        let mut bench = bench(2);
        let values = bench.fill(CASE, 1).unwrap();
        assert_eq!(bench.wrong(CASE, 0, &values[0], 1).unwrap(), 2 * CASE.count as u64);
    }

    #[test]
    fn each_fill_draws_other_values() {
        let mut bench = bench(2);
        let mut drawn = bench.fill(CASE, 2).unwrap();
        drawn.extend(bench.fill(CASE, 2).unwrap());
        let all = drawn.concat();
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
    }

    #[test]
    fn memory_that_is_not_there_is_one_sentence_that_names_what_was_asked_for() {
        for (bytes, text) in [(1 << 60, "1048576TiB"), (usize::MAX, "18446744073709551615B")] {
            let ranks = Communicator::builder().backend(Backend::Host).build().unwrap();
            let error = Bench::new(ranks, bytes, 3, Mode::Stream).map(|_| ()).unwrap_err();
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
