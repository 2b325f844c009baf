//! From times to rows: which plan is so much faster than the automatic one that a row says so, and where rows meet.

use myelon_lanes::{Inbox, PlanError, Row, Table};

use super::shape::Shape;
use crate::sweep::median;

/// A plan has to be faster than the automatic one by so much, in per cent, and by more than both vary.
pub const GAIN_LEAST: f64 = 2.0;

/// What one shape gave for one size.
#[derive(Clone, Debug)]
pub struct Trial {
    pub shape: Shape,
    /// Microseconds of a call, one for each turn.
    pub times_us: Vec<f64>,
}

impl Trial {
    /// Median over the turns.
    pub fn time_us(&self) -> Option<f64> {
        median(&self.times_us)
    }
}

/// Times of two plans that took turns alone.
#[derive(Clone, Debug)]
pub struct Duel {
    pub automatic_us: Vec<f64>,
    pub other_us: Vec<f64>,
}

impl Duel {
    /// How much longer the automatic plan takes, in per cent, if that is more than [`GAIN_LEAST`] and more than
    /// both vary.
    fn gain(&self) -> Option<f64> {
        let [automatic, other] = [median(&self.automatic_us)?, median(&self.other_us)?];
        let gain = (automatic / other - 1.0) * 100.0;
        let noise = (variation(&self.automatic_us, automatic) + variation(&self.other_us, other)) * 100.0;
        (gain > GAIN_LEAST && gain > noise).then_some(gain)
    }
}

/// The median distance of `times` from their median, as a share of it.
fn variation(times: &[f64], middle: f64) -> f64 {
    let distances: Vec<f64> = times.iter().map(|time| (time - middle).abs()).collect();
    median(&distances).unwrap_or(0.0) / middle
}

/// All that was measured for one size, with one kind of buffers.
#[derive(Clone, Debug)]
pub struct Measured {
    pub bytes: u64,
    /// The automatic plan first; no two of one shape.
    pub trials: Vec<Trial>,
    /// The automatic plan against the fastest other; none where it is the fastest itself.
    pub duel: Option<Duel>,
}

impl Measured {
    fn time_us(&self, shape: &Shape) -> Option<f64> {
        self.trials.iter().find(|trial| trial.shape == *shape)?.time_us()
    }

    /// The place of the fastest.
    pub fn fastest(&self) -> usize {
        let times = self.trials.iter().enumerate().filter_map(|(place, it)| Some((place, it.time_us()?)));
        times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(place, _)| place)
    }
}

/// What one size gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    pub bytes: u64,
    pub automatic: Shape,
    pub automatic_us: f64,
    pub shape: Shape,
    pub time_us: f64,
}

impl Decided {
    pub fn is_changed(&self) -> bool {
        self.shape != self.automatic
    }

    /// How much longer the automatic plan takes, in per cent.
    pub fn gain(&self) -> f64 {
        (self.automatic_us / self.time_us - 1.0) * 100.0
    }
}

/// The plan of each size of `all`, which ascend in bytes.
///
/// The automatic one stays unless the fastest has beaten it in their duel. One exception: where time would fall as
/// size grows, and the plan of the next size is faster here too, that plan is taken.
pub fn decide(all: &[Measured]) -> Vec<Decided> {
    let mut decided: Vec<Decided> = Vec::new();
    for one in all.iter().rev() {
        let automatic = one.trials[0].shape;
        let keep = |shape: Shape, automatic_us, time_us| Decided {
            bytes: one.bytes,
            automatic,
            automatic_us,
            shape,
            time_us,
        };
        let automatic_us = one.time_us(&automatic).unwrap_or(f64::INFINITY);
        let mut best = keep(automatic, automatic_us, automatic_us);
        if let Some(duel) = one.duel.as_ref().filter(|duel| duel.gain().is_some()) {
            let [automatic_us, time_us] =
                [&duel.automatic_us, &duel.other_us].map(|times| median(times).unwrap_or(0.0));
            best = keep(one.trials[one.fastest()].shape, automatic_us, time_us);
        } else if let Some(next) = decided.last().filter(|next| next.time_us < automatic_us)
            && let Some(time_us) = one.time_us(&next.shape).filter(|&time_us| time_us < automatic_us)
        {
            best = keep(next.shape, automatic_us, time_us);
        }
        decided.push(best);
    }
    decided.reverse();
    decided
}

/// The rows from the first size that changed to the last, and nothing where none did: what is left out at both ends
/// is planned by the rule, as are sizes that were not measured.
///
/// # Errors
///
/// Where the rows are no table, which a shape that has run does not bring about.
pub fn rows(
    all: &[Measured],
    decided: &[Decided],
    inbox: Inbox,
    ranks: u32,
    windows: bool,
) -> Result<Vec<Row>, PlanError> {
    let first = decided.iter().position(Decided::is_changed);
    let last = decided.iter().rposition(Decided::is_changed);
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    // The last byte of each size's plan; between two sizes of one plan it does not matter.
    let ends: Vec<u64> = (0..decided.len())
        .map(|at| match decided.get(at + 1) {
            Some(next) => {
                let most = decided[at].shape.algorithm.bytes_max(ranks, inbox);
                meeting(&all[at], &all[at + 1], &decided[at].shape, &next.shape).min(most)
            }
            None => decided[at].bytes,
        })
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    for at in first..=last {
        let bytes_min = if at == 0 { decided[0].bytes } else { ends[at - 1] + 1 };
        let row = decided[at].shape.row(ranks, windows, bytes_min, ends[at]);
        match rows.last_mut() {
            Some(before)
                if Row { bytes_min: before.bytes_min, ..row } == Row { bytes_max: ends[at], ..*before } =>
            {
                before.bytes_max = ends[at];
            }
            _ => rows.push(row),
        }
    }
    Table::new(rows).map(|table| table.rows().to_vec())
}

/// The last byte of `a`'s plan `from`, before `to` is as fast: where the lines through both plans' times cross, or
/// the geometric middle where one of them was not measured at both sizes.
fn meeting(a: &Measured, b: &Measured, from: &Shape, to: &Shape) -> u64 {
    let [low, high] = [a.bytes as f64, b.bytes as f64];
    let lead = |one: &Measured| Some(one.time_us(to)? - one.time_us(from)?);
    let share = match (lead(a), lead(b)) {
        (Some(at_a), Some(at_b)) if at_a > 0.0 && at_b < 0.0 => Some(at_a / (at_a - at_b)),
        _ => None,
    };
    let at = share.map_or((low.max(1.0) * high).sqrt(), |share| low + (high - low) * share);
    // Vectors stay whole.
    (at as u64 / 16 * 16).clamp(a.bytes + 1, b.bytes) - 1
}

#[cfg(test)]
mod tests {
    use myelon_lanes::{Algorithm, Machine, Request, Tuning};
    use myelon_sim::model::Random;

    use super::*;

    fn shape(lanes: u32) -> Shape {
        Shape { algorithm: Algorithm::Ring, lanes, piece_bytes: 1024, blocks: 3 * lanes, threads: 64 }
    }

    fn steady(time_us: f64) -> Vec<f64> {
        vec![time_us * 1.001, time_us, time_us * 0.999]
    }

    /// A size at which shapes of so many lanes take so long; the first is the automatic one. The duel repeats it.
    fn measured(bytes: u64, times: &[(u32, f64)]) -> Measured {
        let trials = times.iter().map(|&(lanes, us)| Trial { shape: shape(lanes), times_us: steady(us) });
        let mut one = Measured { bytes, trials: trials.collect(), duel: None };
        let fastest = one.fastest();
        if fastest > 0 {
            let [automatic_us, other_us] = [0, fastest].map(|place| one.trials[place].times_us.clone());
            one.duel = Some(Duel { automatic_us, other_us });
        }
        one
    }

    fn lanes(decided: &[Decided]) -> Vec<u32> {
        decided.iter().map(|one| one.shape.lanes).collect()
    }

    fn spans(all: &[Measured]) -> Vec<(u32, u64, u64)> {
        let rows = rows(all, &decide(all), Inbox::NONE, 2, false).unwrap();
        rows.iter().map(|row| (row.lanes, row.bytes_min, row.bytes_max)).collect()
    }

    #[test]
    fn the_automatic_plan_stays_unless_it_is_beaten_by_more_than_the_noise() {
        let one = |us| lanes(&decide(&[measured(1024, &[(1, 10.0), (2, us)])]));
        assert_eq!([one(11.0), one(9.9), one(9.7)], [[1], [1], [2]]);
        // Luck in the turns of all is not luck in the duel.
        let mut lucky = measured(1024, &[(1, 10.0), (2, 8.0)]);
        lucky.duel = Some(Duel { automatic_us: steady(10.0), other_us: steady(10.1) });
        assert_eq!(lanes(&decide(&[lucky.clone()])), [1]);
        // 20 % less, but both vary by 15 %.
        let wild = |us: f64| vec![us * 0.85, us, us * 1.15];
        lucky.duel = Some(Duel { automatic_us: wild(10.0), other_us: wild(8.3) });
        assert_eq!(lanes(&decide(&[lucky])), [1]);
    }

    #[test]
    fn a_gain_is_what_the_duel_gave() {
        let mut one = measured(1024, &[(1, 10.0), (2, 5.0)]);
        one.duel = Some(Duel { automatic_us: steady(12.0), other_us: steady(8.0) });
        let decided = decide(&[one])[0];
        assert!((decided.gain() - 50.0).abs() < 1e-9 && decided.is_changed());
    }

    #[test]
    fn adjacent_sizes_of_one_plan_are_one_row_and_the_ends_are_left_to_the_rule() {
        let all = [
            measured(1024, &[(1, 10.0), (2, 11.0)]),
            measured(2048, &[(1, 20.0), (2, 12.0)]),
            measured(4096, &[(1, 40.0), (2, 14.0)]),
            measured(8192, &[(1, 41.0), (2, 50.0)]),
        ];
        // The lines cross after an eighth ... of the way: 1 of 1 + 8 microseconds; then 26 of 26 + 9.
        let crossing =
            |from: u64, to: u64, share: f64| (from as f64 + (to - from) as f64 * share) as u64 / 16 * 16;
        let (start, end) = (crossing(1024, 2048, 1.0 / 9.0), crossing(4096, 8192, 26.0 / 35.0));
        assert_eq!(spans(&all), [(2, start, end - 1)]);
        assert_eq!(spans(&all[..1]), []);
        assert_eq!(spans(&all[1..3]), [(2, 2048, 4096)], "nothing is said of sizes that were not measured");
        let gap = [
            all[1].clone(),
            measured(4096, &[(1, 13.0), (2, 50.0)]),
            measured(8192, &[(1, 50.0), (3, 30.0)]),
        ];
        let seen = spans(&gap);
        assert_eq!(
            seen.iter().map(|row| row.0).collect::<Vec<_>>(),
            [2, 1, 3],
            "the automatic plan's own row"
        );
        assert!(seen.windows(2).all(|pair| pair[0].2 + 1 == pair[1].1), "{seen:?}");
        // 3 lanes were not measured at 4096: the geometric middle.
        assert_eq!(seen[2].1, (4096.0f64 * 8192.0).sqrt() as u64 / 16 * 16);
    }

    #[test]
    fn time_does_not_fall_where_the_next_plan_is_faster_here_too() {
        // 1.5 % are no gain, but with them 1024 takes no longer than 2048.
        let next = measured(2048, &[(1, 12.0), (2, 9.9)]);
        let all = [measured(1024, &[(1, 10.0), (2, 9.85)]), next.clone()];
        assert_eq!(lanes(&decide(&all)), [2, 2]);
        let all = [measured(1024, &[(1, 9.85), (2, 9.80)]), next.clone()];
        assert_eq!(lanes(&decide(&all)), [1, 2], "it does not fall");
        let all = [measured(1024, &[(1, 10.0), (2, 10.5)]), next];
        assert_eq!(lanes(&decide(&all)), [1, 2], "the machine is slow there, whatever the plan");
    }

    /// Whatever the times: the rows are a table, each size is planned as was decided, and nothing changed without a
    /// reason.
    #[test]
    fn any_times_make_a_table_that_says_what_was_decided() {
        let mut random = Random::new(3);
        let mut changed = 0;
        for _ in 0..2000 {
            let sizes = 1 + random.below(6);
            let mut all = Vec::new();
            for at in 0..sizes {
                let some = (1..=5).filter(|_| random.below(4) > 0).collect::<Vec<u32>>();
                let some = if some.is_empty() { vec![1] } else { some };
                let times: Vec<(u32, f64)> =
                    some.into_iter().map(|lanes| (lanes, (90 + random.below(20)) as f64 / 10.0)).collect();
                all.push(measured(if at == 0 { 0 } else { 100 << (2 * at) }, &times));
            }
            let decided = decide(&all);
            let rows = rows(&all, &decided, Inbox::NONE, 2, false).unwrap();
            let table = Table::new(rows.clone()).unwrap();
            assert!(
                rows.windows(2).all(|pair| pair[0].lanes != pair[1].lanes),
                "one plan is one row: {rows:?}"
            );
            for (at, one) in decided.iter().enumerate() {
                let row = table.find(2, false, one.bytes).map(|(_, row)| row.lanes);
                let needed =
                    if one.is_changed() { Some(one.shape.lanes) } else { row.map(|_| one.automatic.lanes) };
                assert_eq!(row, needed, "{one:?}");
                let falls = decided.get(at + 1).is_some_and(|next| next.time_us < one.automatic_us);
                assert!(!one.is_changed() || one.gain() > GAIN_LEAST || falls && one.gain() > 0.0, "{one:?}");
                changed += usize::from(one.is_changed());
            }
        }
        assert!(changed > 1000, "{changed}");
    }

    #[test]
    fn a_row_ends_where_its_algorithm_does() {
        let plain = Tuning::new(Machine::h200());
        let inbox = plain.pool(8).unwrap().inbox;
        let most = Algorithm::OneShot.bytes_max(8, inbox);
        let small = Shape { algorithm: Algorithm::OneShot, piece_bytes: 0, blocks: 9, ..shape(9) };
        let mut all = [most, 4 * most].map(|bytes| {
            let automatic = Shape::of(
                &plain.plan(&Request { ranks: 8, bytes, element_bytes: 1, floats: true }).unwrap().plan,
            );
            let trials = vec![Trial { shape: automatic, times_us: steady(20.0) }];
            Measured { bytes, trials, duel: None }
        });
        all[0].trials.push(Trial { shape: small, times_us: steady(10.0) });
        all[0].duel = Some(Duel { automatic_us: steady(20.0), other_us: steady(10.0) });
        let rows = rows(&all, &decide(&all), inbox, 8, false).unwrap();
        assert_eq!((rows.len(), rows[0].bytes_min, rows[0].bytes_max), (1, most, most));
    }
}
