//! How calls are timed, and what comes of the samples.

use clap::ValueEnum;

/// What a sample is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Calls queued one by one, back to back; a sample is some of them between two marks
    #[default]
    Stream,
    /// A graph of several calls; a sample is one launch of it between two marks
    Graph,
    /// A fill of unrelated memory, then one call between two marks, which is a sample
    Isolated,
}

impl Mode {
    /// The name in flags and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Graph => "graph",
            Self::Isolated => "isolated",
        }
    }

    /// Calls of one sample, unless the user says: enough that the marks around them do not count, and fewer
    /// where a call is long.
    pub fn calls(self, bytes: usize, on_gpus: bool) -> u32 {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        let [short, middle, long] = match (self, on_gpus) {
            (Self::Isolated, _) => [1, 1, 1],
            (Self::Graph, true) => [100, 20, 5],
            (Self::Stream, true) => [20, 5, 2],
            (Self::Graph, false) => [10, 4, 2],
            (Self::Stream, false) => [10, 4, 1],
        };
        let (short_max, middle_max) = if on_gpus { (4 * MIB, 64 * MIB) } else { (64 * KIB, MIB) };
        match bytes {
            bytes if bytes <= short_max => short,
            bytes if bytes <= middle_max => middle,
            _ => long,
        }
    }
}

/// Samples, by rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; the mean of both where two are in the middle.
    pub median: f64,
    /// The smallest that 99 of 100 do not exceed: the largest of fewer than 100.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of `samples`, of which there is at least one.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let n = samples.len();
        let median = (samples[(n - 1) / 2] + samples[n / 2]) / 2.0;
        Self { median, p99: samples[(n * 99).div_ceil(100) - 1], max: samples[n - 1] }
    }

    /// Of the slowest rank in each sample: `times` has a row a rank, a sample a column.
    pub fn of_slowest(times: &[Vec<f64>]) -> Self {
        let samples = times.first().map_or(0, Vec::len);
        let slowest = |sample| times.iter().map(|rank| rank[sample]).fold(0.0, f64::max);
        Self::of((0..samples).map(slowest).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_by_rank_and_not_by_mean() {
        let spread = |samples: &[f64]| Spread::of(samples.to_vec());
        assert_eq!(spread(&[7.0]), Spread { median: 7.0, p99: 7.0, max: 7.0 });
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Spread { median: 2.0, p99: 9.0, max: 9.0 });
        assert_eq!(spread(&[4.0, 1.0, 2.0, 100.0]).median, 3.0);
        let many: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(spread(&many), Spread { median: 100.5, p99: 198.0, max: 200.0 });
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(spread(&hundred).p99, 99.0);
    }

    #[test]
    fn each_sample_is_that_of_its_slowest_rank() {
        let times = [vec![1.0, 5.0, 2.0], vec![3.0, 4.0, 2.5]];
        assert_eq!(Spread::of_slowest(&times), Spread { median: 3.0, p99: 5.0, max: 5.0 });
    }

    #[test]
    fn longer_calls_are_fewer() {
        let calls = |mode: Mode, on_gpus| {
            [0, 64 << 10, 1 << 20, 4 << 20, 64 << 20, 1 << 30].map(|bytes| mode.calls(bytes, on_gpus))
        };
        assert_eq!(calls(Mode::Graph, true), [100, 100, 100, 100, 20, 5]);
        assert_eq!(calls(Mode::Graph, false), [10, 10, 4, 2, 2, 2]);
        assert_eq!(calls(Mode::Stream, true), [20, 20, 20, 20, 5, 2]);
        assert_eq!(calls(Mode::Isolated, true), [1; 6]);
    }
}
