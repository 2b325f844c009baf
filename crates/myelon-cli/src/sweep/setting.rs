//! A setting that is tried: a communicator of its own, or the reason why there is none.

use std::sync::Barrier;
use std::thread;

use myelon_collectives::{Communicator, DataType, Error, ErrorKind, Launch, Settings};
use myelon_lanes::Forced;

use super::operands::Operands;

/// What one setting may be timed for in one turn, in microseconds.
const TURN_US: f64 = 20_000.0;
/// Calls in a turn at most.
const CALLS_MAX: u32 = 1000;
/// A turn begins with so much of its calls that are not timed, one at least: threads have to find their cores.
const WARM_SHARE: u32 = 8;

/// A communicator with forced values, or the automatic one where nothing is forced.
pub struct Setting {
    pub forced: Forced,
    ranks: Vec<Communicator>,
}

/// A setting that cannot be had, and why.
#[derive(Clone, Debug)]
pub struct Refused {
    pub forced: Forced,
    pub why: String,
}

/// Why a setting gave no time.
pub enum Stopped {
    /// It cannot be had; nothing was launched.
    Refused(Error),
    /// A call failed, on this rank first.
    Failed(usize, Error),
}

impl Setting {
    /// The automatic plan of what `settings` say, which force an algorithm at most.
    ///
    /// # Errors
    ///
    /// Those of the communicator's builder.
    pub fn automatic(settings: Settings) -> Result<Self, Error> {
        let ranks = Communicator::builder().settings(settings).build()?;
        Ok(Self { forced: Forced::default(), ranks })
    }

    /// The same ranks with forced values, which have to do for `count` elements of `dtype` too.
    ///
    /// # Errors
    ///
    /// Why it cannot be had.
    pub fn forced(
        &self,
        settings: &Settings,
        forced: Forced,
        dtype: DataType,
        count: usize,
    ) -> Result<Self, Error> {
        // The backend that the automatic setting found, by name: where `auto` is told that blocks cannot be
        // resident it takes the host, and times of the host would stand among those of GPUs.
        let backend = Some(self.ranks[0].backend());
        // The algorithm is forced in the automatic setting too, so it is no difference between settings.
        let all = Forced { algorithm: settings.forced.algorithm, ..forced };
        let settings = Settings { backend, ranks: Some(self.ranks.len()), forced: all, ..settings.clone() };
        let ranks = Communicator::builder().settings(settings).build()?;
        ranks[0].explain(dtype, count as u64)?;
        Ok(Self { forced, ranks })
    }

    pub fn ranks(&self) -> &[Communicator] {
        &self.ranks
    }

    /// What was launched last.
    ///
    /// # Panics
    ///
    /// Before the first call.
    pub fn launch(&self) -> &Launch {
        self.ranks[0].last_launch().expect("the setting was called")
    }

    /// `calls` calls on every rank, each from a thread of its own, after some to warm up; microseconds a call,
    /// the slowest rank's.
    ///
    /// # Errors
    ///
    /// The first error of the lowest rank that failed.
    pub fn time_us(&mut self, calls: u32, operands: &Operands) -> Result<f64, Stopped> {
        let start = Barrier::new(self.ranks.len());
        let times: Vec<Result<f64, Error>> = thread::scope(|scope| {
            let ranks = self.ranks.iter_mut();
            let threads: Vec<_> =
                ranks.map(|rank| scope.spawn(|| time_rank(rank, operands, calls, &start))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank's thread panicked")).collect()
        });
        let mut slowest_us = 0.0f64;
        for (rank, time_us) in times.into_iter().enumerate() {
            slowest_us = slowest_us.max(time_us.map_err(|error| match is_refusal(&error) {
                true => Stopped::Refused(error),
                false => Stopped::Failed(rank, error.first().clone()),
            })?);
        }
        Ok(slowest_us)
    }
}

fn time_rank(
    rank: &mut Communicator,
    operands: &Operands,
    calls: u32,
    start: &Barrier,
) -> Result<f64, Error> {
    let stream = rank.stream().clone();
    let call = |rank: &mut Communicator| {
        let (input, output) = operands.of(rank.rank());
        rank.all_reduce_region(input, output, operands.dtype(), operands.op(), &stream)
    };
    // Every rank comes to the barrier, failed or not: the others wait for it.
    let warm = (0..calls.div_ceil(WARM_SHARE)).try_for_each(|_| call(rank));
    let warm = warm.and_then(|()| stream.synchronize());
    start.wait();
    warm?;
    let from = stream.mark()?;
    for _ in 0..calls {
        call(rank)?;
    }
    let to = stream.mark()?;
    stream.synchronize()?;
    Ok(to.elapsed_us(&from)? / f64::from(calls))
}

/// How many calls make a turn, where one call takes `once_us`.
pub fn calls_of_a_turn(once_us: f64) -> u32 {
    ((TURN_US / once_us.max(1.0)) as u32).clamp(1, CALLS_MAX)
}

/// Whether `error` says that a setting cannot be had, and not that something went wrong.
pub fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotResident | ErrorKind::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use myelon_collectives::Backend;

    use super::*;

    fn host() -> Settings {
        Settings { backend: Some(Backend::Host), ranks: Some(3), ..Settings::default() }
    }

    #[test]
    fn forced_values_are_launched_on_as_many_ranks() {
        let automatic = Setting::automatic(host()).unwrap();
        let forced = Forced {
            lanes: Some(3),
            piece_bytes: Some(48),
            slots: Some(2),
            blocks: Some(6),
            ..Forced::default()
        };
        // Settings that say something else than what was opened do not matter.
        let auto = Settings { backend: None, ranks: None, ..host() };
        let mut setting = automatic.forced(&auto, forced, DataType::F32, 100).unwrap();
        let mut operands =
            Operands::new(automatic.ranks(), 400, DataType::F32, myelon_collectives::ReduceOp::Sum, 1)
                .unwrap();
        operands.draw(100).unwrap();
        assert!(setting.time_us(2, &operands).is_ok_and(|us| us > 0.0));
        let launch = setting.launch();
        assert_eq!((launch.ranks, launch.bytes), (3, 400));
        assert_eq!(launch.plan.to_string(), "ring lanes=3 blocks=6 threads=1 slot=48B slots=2");
        assert_eq!(operands.wrong().unwrap(), 0);
    }

    #[test]
    fn what_cannot_be_had_is_a_refusal_that_says_what_was_needed() {
        let automatic = Setting::automatic(host()).unwrap();
        let no = Forced::default();
        for (forced, needed) in [
            (Forced { slots: Some(3), ..no }, "slots is 3, needed a power of two"),
            (Forced { lanes: Some(0), ..no }, "lanes is 0, needed a number from 1"),
            (Forced { piece_bytes: Some(24), ..no }, "slot-bytes is 24, needed a multiple of 16"),
            (
                Forced { lanes: Some(2), blocks: Some(9), ..no },
                "blocks is 9, needed a multiple of 3 from 3 to 6",
            ),
            (Forced { lanes: Some(1024), piece_bytes: Some(16 << 20), ..no }, "allowed are 1073741824"),
        ] {
            let error = automatic.forced(&host(), forced, DataType::F32, 1).map(|_| ()).unwrap_err();
            assert!(is_refusal(&error) && error.to_string().contains(needed), "{error}");
        }
    }

    #[test]
    fn a_turn_has_calls_for_its_time_and_at_least_one() {
        assert_eq!([0.0, 10.0, 1000.0, 15_000.0, 1e9].map(calls_of_a_turn), [1000, 1000, 20, 1, 1]);
    }
}
