//! What a sweep came to for one size: the best setting, the automatic one, and the loss between them.

use myelon_lanes::{Forced, Plan};

/// What one setting gave for one size.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What was forced; nothing for the automatic setting.
    pub forced: Forced,
    /// What was launched.
    pub plan: Plan,
    /// Calls in a turn.
    pub calls: u32,
    /// Microseconds a call, one for each turn whose result was right.
    pub times_us: Vec<f64>,
    /// Wrong elements over all ranks and turns.
    pub wrong: u64,
    /// The same in the turns of the best and the automatic setting alone, where this is one of them.
    pub again_us: Vec<f64>,
}

impl Trial {
    /// Median over the turns, in microseconds; none where anything was wrong.
    pub fn time_us(&self) -> Option<f64> {
        if self.wrong > 0 { None } else { median(&self.times_us) }
    }
}

/// What all settings gave for one size; the automatic one comes first.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Elements of a rank.
    pub count: usize,
    /// Payload of a rank.
    pub bytes: u64,
    pub trials: Vec<Trial>,
    /// 1e9 bytes a second that one thread of the host copied in the same turns; on the host only.
    pub copy_gbps: Option<f64>,
}

impl Outcome {
    pub fn automatic(&self) -> &Trial {
        &self.trials[0]
    }

    /// The place of the fastest setting; none where all were wrong.
    pub fn best(&self) -> Option<usize> {
        let times =
            self.trials.iter().enumerate().filter_map(|(place, trial)| Some((place, trial.time_us()?)));
        times.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
    }

    /// How much longer `trial` takes than the best, in per cent; none where one of them has no time.
    pub fn over_best(&self, trial: &Trial) -> Option<f64> {
        Some(over(trial.time_us()?, self.trials[self.best()?].time_us()?))
    }

    /// What the automatic plan loses against the best setting, in per cent, 0 or more.
    pub fn loss(&self) -> Option<f64> {
        self.over_best(self.automatic())
    }

    /// The same from the turns of these two alone: 0 where they are one, and less than 0 where the best was only
    /// the luckiest.
    pub fn again(&self) -> Option<f64> {
        let best = self.best()?;
        if best == 0 {
            return Some(0.0);
        }
        Some(over(median(&self.automatic().again_us)?, median(&self.trials[best].again_us)?))
    }

    pub fn wrong(&self) -> u64 {
        self.trials.iter().map(|trial| trial.wrong).sum()
    }
}

/// How much more `time_us` is than `best_us`, in per cent.
fn over(time_us: f64, best_us: f64) -> f64 {
    (time_us / best_us - 1.0) * 100.0
}

/// The middle of `values`, or the mean of the two in the middle; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The median over the sizes of a loss, and the worst with its size in bytes; none where no size has one.
pub fn over_sizes(outcomes: &[Outcome], loss: impl Fn(&Outcome) -> Option<f64>) -> Option<(f64, f64, u64)> {
    let losses: Vec<(f64, u64)> =
        outcomes.iter().filter_map(|outcome| Some((loss(outcome)?, outcome.bytes))).collect();
    let all: Vec<f64> = losses.iter().map(|&(loss, _)| loss).collect();
    let (worst, bytes) = losses.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((median(&all)?, worst, bytes))
}

#[cfg(test)]
pub mod tests {
    use myelon_lanes::{Machine, Request, Tuning};

    use super::*;

    /// An outcome whose settings have the given medians; the first is the automatic one.
    pub fn outcome(bytes: u64, times_us: &[f64]) -> Outcome {
        let request = Request { ranks: 2, bytes, element_bytes: 4, floats: true };
        let plan = Tuning::new(Machine::host(2)).plan(&request).unwrap().plan;
        let trial = |(place, &time_us): (usize, &f64)| Trial {
            forced: Forced { lanes: (place > 0).then_some(place as u32), ..Forced::default() },
            plan,
            calls: 7,
            times_us: vec![time_us * 3.0, time_us, time_us / 2.0],
            wrong: 0,
            again_us: Vec::new(),
        };
        let trials = times_us.iter().enumerate().map(trial).collect();
        Outcome { count: bytes as usize / 4, bytes, trials, copy_gbps: Some(6.5) }
    }

    #[test]
    fn the_loss_is_automatic_over_best_less_one() {
        let slower = outcome(4096, &[15.0, 12.0, 30.0]);
        assert_eq!(slower.best(), Some(1));
        assert!((slower.loss().unwrap() - 25.0).abs() < 1e-9);
        assert!((slower.over_best(&slower.trials[2]).unwrap() - 150.0).abs() < 1e-9);
        let best = outcome(4096, &[12.0, 15.0]);
        assert_eq!((best.best(), best.loss(), best.again()), (Some(0), Some(0.0), Some(0.0)));
        let alone = outcome(4096, &[12.0]);
        assert_eq!(alone.loss(), Some(0.0));
    }

    #[test]
    fn again_is_from_its_own_turns_and_may_be_below_zero() {
        let mut outcome = outcome(4096, &[15.0, 12.0]);
        assert_eq!(outcome.again(), None);
        outcome.trials[0].again_us = vec![9.0, 8.0, 100.0];
        outcome.trials[1].again_us = vec![10.0];
        assert!((outcome.again().unwrap() - -10.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_wrong_has_no_time_and_is_never_the_best() {
        let mut outcome = outcome(4096, &[15.0, 12.0, 14.0]);
        outcome.trials[1].wrong = 1;
        assert_eq!((outcome.best(), outcome.wrong()), (Some(2), 1));
        assert_eq!(outcome.over_best(&outcome.trials[1]), None);
        outcome.trials[0].wrong = 2;
        assert_eq!((outcome.loss(), outcome.again()), (None, None));
        outcome.trials[2].wrong = 3;
        assert_eq!((outcome.best(), outcome.wrong()), (None, 6));
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn the_summary_names_the_middle_and_the_worst_size() {
        let outcomes = [outcome(64, &[2.0, 1.0]), outcome(4096, &[1.1, 1.0]), outcome(1 << 20, &[1.0, 1.2])];
        let (middle, worst, bytes) = over_sizes(&outcomes, Outcome::loss).unwrap();
        assert!((middle - 10.0).abs() < 1e-9 && (worst - 100.0).abs() < 1e-9);
        assert_eq!(bytes, 64);
        assert_eq!(over_sizes(&[], Outcome::loss), None);
    }
}
