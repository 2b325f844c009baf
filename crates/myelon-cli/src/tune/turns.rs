//! Measures one size: every shape once, then the fastest by turns, then the fastest against the automatic plan.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use myelon_collectives::{Backend, Communicator, DataType, Error, ReduceOp};
use myelon_lanes::{Algorithm, Request, Tuning, format_bytes};
use myelon_sim::model::Random;

use super::decide::{Duel, Measured, Trial};
use super::shape::{Shape, shapes};
use crate::check::{overwritten, wrong_elements};
use crate::measure::{Bench, Case};
use crate::mode::{Mode, Spread};
use crate::progress::Progress;
use crate::rank::{GUARD_BYTES, PART_BYTES, Rank};
use crate::sweep::{is_refusal, reduce, shuffled};

/// What one turn may take, in microseconds, but for its first launch and its check.
const TURN_US: f64 = 10_000.0;
/// Launches of a turn: their median is its time.
const LAUNCHES: (u32, u32) = (3, 50);
/// Turns of a size at least, and again of the two that are compared.
const TURNS_LEAST: usize = 3;
/// Turns of a size at most: more tell no more.
const TURNS_MAX: usize = 15;
/// How many of the fastest shapes take turns.
const FINALISTS: usize = 6;
/// How much of a size's time has gone when no further shape is tried, and when no further turn begins; the rest is for
/// the duels.
const TRIED_SHARE: f64 = 0.4;
const TURNS_SHARE: f64 = 0.7;

/// One size as it is measured: buffers with values, and what should come of them.
struct Size {
    case: Case,
    /// Calls in a graph, and the pairs of buffers that they go round.
    calls: u32,
    pairs: usize,
    /// What every rank should hold, by pair.
    expected: Vec<Vec<u8>>,
}

/// The ranks, and what has come of all sizes so far.
pub struct Course {
    bench: Bench,
    /// Plans without a table, for buffers as the communicator has them.
    plain: Tuning,
    dtype: DataType,
    op: ReduceOp,
    /// For buffers that are windows and for others, as far as both are asked for.
    kinds: Vec<bool>,
    /// Who comes when.
    random: Random,
    start: Instant,
    time: Duration,
    /// Turns so far; all of their results were right.
    pub turns: usize,
}

impl Course {
    /// Buffers for up to `bytes_max` bytes on each of `communicators`. The time begins.
    ///
    /// # Errors
    ///
    /// Where there is not enough memory for them.
    pub fn new(
        communicators: Vec<Communicator>,
        bytes_max: usize,
        (dtype, op): (DataType, ReduceOp),
        kinds: &[bool],
        seed: u64,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let plain = communicators[0].tuning().clone();
        let bench = Bench::new(communicators, bytes_max, seed, Mode::Graph)?;
        let (random, start) = (Random::new(seed), Instant::now());
        Ok(Self { bench, plain, dtype, op, kinds: kinds.to_vec(), random, start, time, turns: 0 })
    }

    /// The communicator of rank 0.
    pub fn first(&self) -> &Communicator {
        self.bench.first()
    }

    /// What was measured for `count` elements, by kind. `larger` is what won at larger sizes, which is tried too;
    /// `sizes_left` sizes, this one included, share the time that is left.
    ///
    /// # Errors
    ///
    /// Where a call fails, or a result is wrong.
    pub fn run(
        &mut self,
        count: usize,
        larger: &[Shape],
        sizes_left: usize,
        progress: &mut Progress,
    ) -> anyhow::Result<Vec<Measured>> {
        let share = self.time.saturating_sub(self.start.elapsed()) / sizes_left.max(1) as u32;
        let [tried_at, end] = [TRIED_SHARE, TURNS_SHARE].map(|part| Instant::now() + share.mul_f64(part));
        let element_bytes = self.dtype.bytes() as u32;
        let bytes = count as u64 * u64::from(element_bytes);
        let ranks = self.first().ranks() as u32;
        let request = Request { ranks, bytes, element_bytes, floats: self.dtype.is_float() };
        let automatic: Vec<Shape> = self
            .kinds
            .iter()
            .map(|&windows| Ok(Shape::of(&self.plain.clone().windows(windows).plan(&request)?.plan)))
            .collect::<Result<_, Error>>()?;
        let first: Vec<Shape> = automatic.iter().chain(larger).copied().collect();
        let size = self.begin(count)?;

        let mut trials = Vec::new();
        let mut once_us = Vec::new();
        let shapes = shapes(&self.plain, &request, &first);
        // Where time is short, chance and not the order of algorithms says what is not tried.
        let rest = shuffled(shapes.len(), &mut self.random).into_iter().map(|place| shapes[place]);
        let rest: Vec<Shape> = rest.filter(|shape| !first.contains(shape)).collect();
        let first_of_all = shapes.iter().filter(|shape| first.contains(shape)).copied();
        for shape in first_of_all.chain(rest) {
            if trials.len() >= FINALISTS && Instant::now() > tried_at {
                break;
            }
            self.tell(progress, &shape, bytes);
            // The first turn says how long one is, and which shapes are worth more of them.
            if let Some(us) = self.turn(&size, &shape, LAUNCHES.0).with_context(|| name(&shape, bytes))? {
                trials.push(Trial { shape, times_us: Vec::new() });
                once_us.push(us);
            }
        }
        for automatic in &automatic {
            let is_tried = trials.iter().any(|trial| trial.shape == *automatic);
            ensure!(is_tried, "{} is automatic and cannot be had", name(automatic, bytes));
        }
        let mut order: Vec<usize> = (0..trials.len()).collect();
        order.sort_by(|&a, &b| once_us[a].total_cmp(&once_us[b]));
        let fastest = order.iter().take(FINALISTS).copied();
        let mut kept: Vec<usize> =
            fastest.chain((0..trials.len()).filter(|&at| first.contains(&trials[at].shape))).collect();
        kept.sort_unstable();
        kept.dedup();
        let launches: Vec<u32> = kept.iter().map(|&at| launches(once_us[at], size.calls)).collect();
        let mut trials: Vec<Trial> = kept.iter().map(|&at| trials[at].clone()).collect();

        let mut turns = 0;
        while turns < TURNS_LEAST || turns < TURNS_MAX && Instant::now() < end {
            for place in shuffled(trials.len(), &mut self.random) {
                let shape = trials[place].shape;
                self.tell(progress, &shape, bytes);
                let us = self.turn(&size, &shape, launches[place]).with_context(|| name(&shape, bytes))?;
                trials[place].times_us.extend(us);
            }
            turns += 1;
        }

        let mut measured: Vec<Measured> = Vec::new();
        for (&windows, automatic) in self.kinds.clone().iter().zip(&automatic) {
            let mut of_kind: Vec<Trial> = trials
                .iter()
                .filter(|trial| windows || trial.shape.algorithm != Algorithm::Direct)
                .cloned()
                .collect();
            // The automatic one comes first.
            of_kind.sort_by_key(|trial| trial.shape != *automatic);
            let mut one = Measured { bytes, trials: of_kind, duel: None };
            let fastest = one.fastest();
            let known = measured.iter().find(|it: &&Measured| {
                it.trials[0].shape == *automatic && it.trials[it.fastest()].shape == one.trials[fastest].shape
            });
            one.duel = match known {
                Some(known) => known.duel.clone(),
                None if fastest == 0 => None,
                None => {
                    let pair = [0, fastest].map(|place| one.trials[place].shape);
                    self.tell(progress, &pair[1], bytes);
                    let launches = pair.map(|shape| {
                        trials
                            .iter()
                            .position(|trial| trial.shape == shape)
                            .map_or(LAUNCHES.0, |at| launches[at])
                    });
                    Some(self.duel(&size, pair, launches, turns)?)
                }
            };
            measured.push(one);
        }
        self.bench.forget();
        Ok(measured)
    }

    /// Both in turn, each as often first.
    fn duel(
        &mut self,
        size: &Size,
        pair: [Shape; 2],
        launches: [u32; 2],
        turns: usize,
    ) -> anyhow::Result<Duel> {
        let mut times = [Vec::new(), Vec::new()];
        for turn in 0..turns {
            for place in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
                let shape = &pair[place];
                let us = self.turn(size, shape, launches[place]);
                times[place].extend(us.with_context(|| name(shape, size.case.bytes() as u64))?);
            }
        }
        let [automatic_us, other_us] = times;
        Ok(Duel { automatic_us, other_us })
    }

    fn tell(&self, progress: &mut Progress, shape: &Shape, bytes: u64) {
        progress.begin(name(shape, bytes));
        progress.at(self.start.elapsed().min(self.time).as_secs());
    }

    /// Fresh values for `count` elements in all pairs, and what should come of them.
    fn begin(&mut self, count: usize) -> anyhow::Result<Size> {
        let case = Case { dtype: self.dtype, op: self.op, count, in_place: false };
        let on_gpus = self.first().backend() == Backend::Cuda;
        let calls = Mode::Graph.calls(case.bytes(), on_gpus);
        let pairs = self.bench.pairs(case).min(calls as usize);
        let values = self.bench.fill(case, pairs)?;
        let expected = values.iter().map(|values| {
            let mut expected = vec![0; case.bytes()];
            reduce(case.dtype, case.op, values, &mut expected);
            expected
        });
        Ok(Size { case, calls, pairs, expected: expected.collect() })
    }

    /// One turn of `shape`: spoils the outputs, records the calls, launches them once and then `launches` times, and
    /// compares every result. Microseconds of a call; none where the shape cannot be had.
    ///
    /// # Errors
    ///
    /// Where a call fails, or a result is wrong.
    fn turn(&mut self, size: &Size, shape: &Shape, launches: u32) -> anyhow::Result<Option<f64>> {
        let Size { case, calls, pairs, .. } = *size;
        let Some(tuning) = shape.tuning(&self.plain, self.first().ranks() as u32, case.bytes() as u64) else {
            return Ok(None);
        };
        self.turns += 1;
        let recorded = self.bench.each_rank(|rank| {
            rank.communicator.retune(tuning.clone())?;
            rank.poison(case, pairs)?;
            rank.capture(case, calls)
        });
        match recorded {
            Err(error) if error.downcast_ref::<Error>().is_some_and(is_refusal) => return Ok(None),
            recorded => recorded?,
        };
        let start = Barrier::new(self.first().ranks());
        let times = self.bench.each_rank(|rank| time(rank, launches, calls, &start))?;
        let wrong: u64 = self.bench.each_rank(|rank| wrong(rank, size))?.into_iter().sum();
        ensure!(wrong == 0, "{wrong} wrong elements over all ranks; nothing is written");
        Ok(Some(Spread::of_slowest(&times).median))
    }

    /// Makes the right result of one element wrong.
    #[cfg(test)]
    fn expect_another_bit(size: &mut Size) {
        size.expected[0][0] ^= 1;
    }
}

/// Microseconds of a call in each of `launches` launches, behind one that is not timed.
fn time(rank: &mut Rank, launches: u32, calls: u32, start: &Barrier) -> Result<Vec<f64>, Error> {
    let stream = rank.communicator.stream().clone();
    let warm = rank.launch().and_then(|()| stream.synchronize());
    // Every rank comes here, failed or not: the others wait for it.
    start.wait();
    warm?;
    let mut marks = vec![stream.mark()?];
    for _ in 0..launches {
        rank.launch()?;
        marks.push(stream.mark()?);
    }
    stream.synchronize()?;
    marks.windows(2).map(|pair| Ok(pair[1].elapsed_us(&pair[0])? / f64::from(calls))).collect()
}

/// Elements of this rank's results that are wrong in any bit, and bytes behind them that were written.
fn wrong(rank: &mut Rank, size: &Size) -> Result<u64, Error> {
    let (case, bytes) = (size.case, size.case.bytes());
    let mut wrong = 0;
    for (pair, expected) in size.expected.iter().enumerate() {
        for first in (0..bytes).step_by(PART_BYTES) {
            let part = first..bytes.min(first + PART_BYTES);
            wrong += wrong_elements(case.dtype, &expected[part.clone()], &rank.read(case, pair, part)?);
        }
        wrong += overwritten(&rank.read(case, pair, bytes..bytes + GUARD_BYTES)?);
    }
    Ok(wrong)
}

/// Launches of a turn, where one call takes `call_us` and a graph has `calls` of them.
fn launches(call_us: f64, calls: u32) -> u32 {
    ((TURN_US / (call_us * f64::from(calls)).max(1.0)) as u32).clamp(LAUNCHES.0, LAUNCHES.1)
}

/// The size and the shape, for people.
fn name(shape: &Shape, bytes: u64) -> String {
    format!("{} {shape}", format_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(ranks: usize, kinds: &[bool]) -> Course {
        let all = Communicator::builder().backend(Backend::Host).ranks(ranks).build().unwrap();
        Course::new(all, 1 << 14, (DataType::Bf16, ReduceOp::Sum), kinds, 7, Duration::from_millis(1))
            .unwrap()
    }

    #[test]
    fn every_finalist_has_its_turns_and_the_automatic_plan_is_among_them() {
        let mut course = course(3, &[false, true]);
        for count in [0, 1, 1 << 13] {
            let larger =
                Shape { algorithm: Algorithm::Ring, lanes: 2, piece_bytes: 4096, blocks: 3, threads: 64 };
            let measured = course.run(count, &[larger], 1, &mut Progress::of_rate(1)).unwrap();
            assert_eq!(measured.len(), 2);
            let request = Request { ranks: 3, bytes: 2 * count as u64, element_bytes: 2, floats: true };
            let automatic = Shape::of(&course.plain.plan(&request).unwrap().plan);
            for one in &measured {
                assert_eq!((one.bytes, one.trials[0].shape), (request.bytes, automatic));
                assert!((2..=FINALISTS + 2).contains(&one.trials.len()));
                assert!(one.trials.iter().any(|trial| trial.shape == larger));
                assert!(one.trials.iter().all(|trial| trial.times_us.len() == TURNS_LEAST));
                assert_eq!(one.duel.is_some(), one.fastest() != 0);
            }
        }
        assert!(course.turns > 3 * (2 + 3));
    }

    /// A bit that should be otherwise is a wrong element on each rank, and ends the course.
    #[test]
    fn a_wrong_result_is_an_error() {
        let mut course = course(2, &[false]);
        let mut size = course.begin(500).unwrap();
        let shape = Shape { algorithm: Algorithm::Ring, lanes: 1, piece_bytes: 64, blocks: 3, threads: 64 };
        assert!(course.turn(&size, &shape, 1).unwrap().is_some_and(|us| us > 0.0));
        let launched = course.first().last_launch().unwrap().plan.to_string();
        assert_eq!(launched, "ring lanes=1 blocks=3 threads=1 slot=64B slots=4");
        Course::expect_another_bit(&mut size);
        let error = course.turn(&size, &shape, 1).unwrap_err().to_string();
        assert_eq!(error, "2 wrong elements over all ranks; nothing is written");
        let too_wide = Shape { lanes: 100, blocks: 300, ..shape };
        assert_eq!(course.turn(&size, &too_wide, 1).unwrap(), None, "what cannot be had is not wrong");
    }

    #[test]
    fn a_turn_has_a_few_launches_and_not_too_many() {
        assert_eq!([(0.1, 10), (10.0, 100), (5e5, 2)].map(|(us, calls)| launches(us, calls)), [50, 10, 3]);
    }
}
