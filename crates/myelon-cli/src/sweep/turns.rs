//! All settings take turns for one size, then the best and the automatic one alone.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use myelon_lanes::{Forced, format_bytes};
use myelon_sim::model::Random;

use super::operands::Operands;
use super::outcome::{Outcome, Trial, median};
use super::setting::{Refused, Setting, Stopped, calls_of_a_turn};
use crate::progress::Progress;

/// Calls at most by which the length of a turn is found.
const SOME_CALLS: u32 = 16;

/// How many turns there are.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many for each size.
    Turns(u32),
    /// As many as fit, one at least.
    Time(Duration),
}

/// When the turns of one size end.
struct End {
    turns: u32,
    at: Option<Instant>,
}

impl End {
    /// `sizes_left` sizes, this one included, share what is left since `start`; of `settings` settings two have their
    /// turns again behind the end.
    fn of(pace: Pace, start: Instant, sizes_left: usize, settings: usize) -> Self {
        match pace {
            Pace::Turns(turns) => Self { turns, at: None },
            Pace::Time(time) => {
                let share = time.saturating_sub(start.elapsed()) / sizes_left.max(1) as u32;
                let share = share.mul_f64(settings as f64 / (settings + 2) as f64);
                Self { turns: u32::MAX, at: Some(Instant::now() + share) }
            }
        }
    }

    fn reached(&self, turns: u32) -> bool {
        turns >= self.turns || turns > 0 && self.at.is_some_and(|at| Instant::now() >= at)
    }
}

/// The settings of a sweep, and what they work on.
pub struct Course {
    /// The automatic one first.
    pub settings: Vec<Setting>,
    pub refused: Vec<Refused>,
    operands: Operands,
    /// Whether a thread's copy is timed in the same turns.
    copies: bool,
    pace: Pace,
    /// Who comes when.
    random: Random,
    start: Instant,
}

impl Course {
    /// The time of [`Pace::Time`] begins.
    pub fn new(
        settings: Vec<Setting>,
        refused: Vec<Refused>,
        operands: Operands,
        pace: Pace,
        copies: bool,
    ) -> Self {
        let random = Random::new(operands.seed());
        Self { settings, refused, operands, copies, pace, random, start: Instant::now() }
    }

    /// The steps of a progress bar for `sizes` sizes.
    pub fn steps(&self, sizes: usize) -> u64 {
        match self.pace {
            Pace::Turns(turns) => (sizes * (turns as usize + 1) * self.settings.len()) as u64,
            Pace::Time(time) => time.as_secs(),
        }
    }

    fn step(&self, progress: &Progress) {
        match self.pace {
            Pace::Turns(_) => progress.step(),
            Pace::Time(time) => progress.at(self.start.elapsed().min(time).as_secs()),
        }
    }

    /// Times `count` elements, one of `sizes_left` sizes that are still to come, with every setting.
    ///
    /// A setting that turns out to be refused leaves the course, and joins the refused.
    ///
    /// # Errors
    ///
    /// Where a call fails, or the automatic setting is refused.
    pub fn run(
        &mut self,
        count: usize,
        sizes_left: usize,
        progress: &mut Progress,
    ) -> anyhow::Result<Outcome> {
        let end = End::of(self.pace, self.start, sizes_left, self.settings.len());
        let bytes = (count * self.operands.dtype().bytes()) as u64;
        let mut trials = self.begin(count, bytes, progress)?;
        let (mut copies, mut copied) = (Vec::new(), vec![0; if self.copies { bytes as usize } else { 0 }]);
        let mut turns = 0;
        while !end.reached(turns) {
            self.operands.draw(count)?;
            for place in shuffled(trials.len(), &mut self.random) {
                progress.begin(what(&trials[place].forced, bytes));
                if let Some(time_us) = self.turn(place, &mut trials[place])? {
                    trials[place].times_us.push(time_us);
                }
                self.step(progress);
            }
            if self.copies {
                // The first copy meets memory that nobody has touched.
                copy_gbps(self.operands.expected(), &mut copied);
                copies.push(copy_gbps(self.operands.expected(), &mut copied));
            }
            turns += 1;
        }
        let copy_gbps = if bytes == 0 { None } else { median(&copies) };
        let mut outcome = Outcome { count, bytes, trials, copy_gbps };
        self.again(&mut outcome, turns, progress)?;
        Ok(outcome)
    }

    /// A few calls of each setting, by which turns are sized and refusals found.
    fn begin(&mut self, count: usize, bytes: u64, progress: &mut Progress) -> anyhow::Result<Vec<Trial>> {
        self.operands.draw(count)?;
        let mut trials = Vec::new();
        let mut kept = Vec::new();
        for mut setting in std::mem::take(&mut self.settings) {
            progress.begin(what(&setting.forced, bytes));
            self.operands.poison()?;
            let forced = setting.forced;
            // The first call says little: threads and links were idle. It says how many may follow to say more.
            let once = setting.time_us(1, &self.operands);
            let some =
                once.and_then(|us| setting.time_us(calls_of_a_turn(us).min(SOME_CALLS), &self.operands));
            match some {
                Err(Stopped::Refused(error)) if !forced.is_empty() => {
                    let why = format!("at {}: {error}", format_bytes(bytes));
                    self.refused.push(Refused { forced, why });
                    continue;
                }
                some_us => {
                    let calls = calls_of_a_turn(some_us.map_err(|stopped| failed(stopped, &forced, bytes))?);
                    let wrong = self.operands.wrong()?;
                    let plan = setting.launch().plan;
                    let (times_us, again_us) = (Vec::new(), Vec::new());
                    trials.push(Trial { forced, plan, calls, times_us, wrong, again_us });
                }
            }
            kept.push(setting);
            self.step(progress);
        }
        self.settings = kept;
        Ok(trials)
    }

    /// A turn of the setting at `place`; nothing where its result was wrong, which `trial` then says.
    fn turn(&mut self, place: usize, trial: &mut Trial) -> anyhow::Result<Option<f64>> {
        self.operands.poison()?;
        let bytes = self.operands.expected().len() as u64;
        let time_us = self.settings[place].time_us(trial.calls, &self.operands);
        let time_us = time_us.map_err(|stopped| failed(stopped, &trial.forced, bytes))?;
        let wrong = self.operands.wrong()?;
        trial.wrong += wrong;
        Ok((wrong == 0).then_some(time_us))
    }

    /// The automatic setting and the best against each other, in as many turns.
    fn again(&mut self, outcome: &mut Outcome, turns: u32, progress: &mut Progress) -> anyhow::Result<()> {
        let Some(best) = outcome.best().filter(|&best| best != 0) else { return Ok(()) };
        progress.begin(format!("again, {}", what(&outcome.trials[best].forced, outcome.bytes)));
        for turn in 0..turns {
            self.operands.draw(outcome.count)?;
            // By turns each is first, behind the drawing of values.
            for place in if turn % 2 == 0 { [0, best] } else { [best, 0] } {
                let trial = &mut outcome.trials[place];
                if let Some(time_us) = self.turn(place, trial)? {
                    outcome.trials[place].again_us.push(time_us);
                }
            }
        }
        Ok(())
    }
}

/// The places below `places` in an order of chance: with one order for all turns, a setting would always stand behind
/// the same other, and the first behind the work between the turns.
pub fn shuffled(places: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..places).collect();
    for last in (1..places).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// The setting and the size, for people.
fn what(forced: &Forced, bytes: u64) -> String {
    format!("{} {}", format_bytes(bytes), name(forced))
}

/// What a setting is called.
pub fn name(forced: &Forced) -> String {
    if forced.is_empty() { "automatic".into() } else { forced.to_string() }
}

fn failed(stopped: Stopped, forced: &Forced, bytes: u64) -> anyhow::Error {
    let error = match stopped {
        Stopped::Refused(error) => anyhow::Error::new(error),
        Stopped::Failed(rank, error) => anyhow!(error).context(format!("rank {rank}")),
    };
    Err::<(), _>(error).context(what(forced, bytes)).expect_err("it is one")
}

/// Bytes that this thread copies in a second, in 1e9.
fn copy_gbps(from: &[u8], to: &mut [u8]) -> f64 {
    let start = Instant::now();
    to.copy_from_slice(std::hint::black_box(from));
    std::hint::black_box(to);
    from.len() as f64 / start.elapsed().as_secs_f64().max(1e-9) / 1e9
}

#[cfg(test)]
mod tests {
    use myelon_collectives::{Backend, DataType, ReduceOp, Settings};

    use super::*;

    fn course(forced: &[Forced], pace: Pace) -> Course {
        let settings = Settings { backend: Some(Backend::Host), ranks: Some(2), ..Settings::default() };
        let automatic = Setting::automatic(settings.clone()).unwrap();
        let operands = Operands::new(automatic.ranks(), 4096, DataType::F32, ReduceOp::Sum, 1).unwrap();
        let mut all = vec![automatic];
        for &forced in forced {
            all.push(all[0].forced(&settings, forced, DataType::F32, 1024).unwrap());
        }
        Course::new(all, Vec::new(), operands, pace, true)
    }

    #[test]
    fn every_setting_has_every_turn_and_the_best_two_have_them_again() {
        let forced = [1, 2, 3].map(|lanes| Forced { lanes: Some(lanes), ..Forced::default() });
        let mut course = course(&forced, Pace::Turns(3));
        for count in [1024, 1, 0] {
            let outcome = course.run(count, 1, &mut Progress::new(9)).unwrap();
            assert_eq!((outcome.count, outcome.bytes, outcome.trials.len()), (count, 4 * count as u64, 4));
            for (trial, lanes) in outcome.trials.iter().zip([1, 1, 2, 3]) {
                assert_eq!((trial.wrong, trial.times_us.len(), trial.plan.lanes), (0, 3, lanes));
                assert!(trial.calls >= 1 && trial.time_us().is_some_and(|us| us > 0.0));
            }
            let best = outcome.best().unwrap();
            for (place, trial) in outcome.trials.iter().enumerate() {
                let expected = if best != 0 && (place == 0 || place == best) { 3 } else { 0 };
                assert_eq!(trial.again_us.len(), expected, "{place} of best {best}");
            }
            assert!(outcome.loss().is_some_and(|loss| loss >= 0.0) && outcome.again().is_some());
            assert_eq!(outcome.copy_gbps.is_some(), count > 0);
        }
    }

    /// What the reference says is changed in one bit: the result of both ranks is then wrong, and its time is none.
    #[test]
    fn a_wrong_result_has_no_time() {
        let mut course = course(&[], Pace::Turns(1));
        let mut trials = course.begin(64, 256, &mut Progress::new(9)).unwrap();
        assert!(course.turn(0, &mut trials[0]).unwrap().is_some());
        trials[0].times_us.push(1.0);
        assert_eq!((trials[0].time_us(), trials[0].wrong), (Some(1.0), 0));
        course.operands.expect_another_bit();
        assert_eq!(course.turn(0, &mut trials[0]).unwrap(), None);
        assert_eq!((trials[0].time_us(), trials[0].wrong), (None, 2));
    }

    #[test]
    fn an_order_has_every_place_once_and_none_is_always_first() {
        let mut random = Random::new(1);
        let mut first = [0; 4];
        for _ in 0..400 {
            let mut order = shuffled(4, &mut random);
            first[order[0]] += 1;
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
        assert!(first.iter().all(|&times| (60..140).contains(&times)), "{first:?}");
        assert!(shuffled(0, &mut random).is_empty());
    }

    #[test]
    fn time_is_shared_by_the_sizes_and_one_turn_is_taken_without_any() {
        let start = Instant::now() - Duration::from_secs(10);
        let end = End::of(Pace::Time(Duration::from_secs(30)), start, 4, 8);
        let share = end.at.unwrap() - Instant::now();
        // 20 seconds are left, 5 of them for this size, 4 of those for the turns of all 8 settings.
        assert!((3.5..=4.0).contains(&share.as_secs_f64()), "{share:?}");
        assert!(!end.reached(1000));
        let late = End::of(Pace::Time(Duration::from_secs(5)), start, 4, 8);
        assert!(!late.reached(0) && late.reached(1));
        let turns = End::of(Pace::Turns(2), start, 4, 8);
        assert!(!turns.reached(1) && turns.reached(2));
        let outcome = course(&[], Pace::Time(Duration::from_nanos(1))).run(64, 1, &mut Progress::new(9));
        assert_eq!(outcome.unwrap().automatic().times_us.len(), 1);
    }
}
