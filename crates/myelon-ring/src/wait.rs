//! How an end of a ring passes the time between two polls, and when it gives up.

use std::hint::spin_loop;
use std::thread::yield_now;
use std::time::{Duration, Instant};

/// Polls below this count pause [`PAUSES_NS`]`[0]` in an [`Adaptive`] wait.
pub const SPINS_SHORT: u32 = 32;
/// Polls below this count, and not below [`SPINS_SHORT`], pause [`PAUSES_NS`]`[1]`; later ones `[2]`.
pub const SPINS_MEDIUM: u32 = 256;
/// The harness's three pauses, in nanoseconds.
pub const PAUSES_NS: [u64; 3] = [32, 128, 512];
/// Polls after which a [`Yielding`] wait gives its core away between polls.
pub const SPINS_BEFORE_YIELD: u32 = 64;
/// Polls from one look at the clock to the next; a wait that ends sooner reads no clock at all.
pub const POLLS_A_CLOCK: u32 = 256;

/// What a wait does between two polls, and how long it may take in all.
///
/// `spin` counts the polls of one wait that have failed, from 0.
pub trait Wait {
    /// Passes a little time.
    fn pause(&self, spin: u32);

    /// How long a wait may take, from its first look at the clock.
    fn deadline(&self) -> Duration;

    /// Whether to look at the clock after this poll: never at once, and not at every poll.
    fn clock_due(&self, spin: u32) -> bool {
        spin % POLLS_A_CLOCK == POLLS_A_CLOCK - 1
    }
}

/// Polls without a pause: the least latency, for ends that have a core each.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    /// How long a wait may take.
    pub deadline: Duration,
}

impl Wait for Spin {
    #[inline]
    fn pause(&self, _spin: u32) {}

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// The harness's pauses: 32 ns for the first 32 polls, 128 ns up to 256, then 512 ns.
///
/// Like the GPU's `nanosleep`, the pause is only near its value. ASSUMPTION: a spin-loop hint stands for
/// 32 ns; the clock is not read for it.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    /// How long a wait may take.
    pub deadline: Duration,
}

impl Adaptive {
    /// The pause after poll `spin`, in nanoseconds.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_ring::wait::Adaptive;
    ///
    /// assert_eq!([0, 31, 32, 255, 256].map(Adaptive::pause_ns), [32, 32, 128, 128, 512]);
    /// ```
    pub fn pause_ns(spin: u32) -> u64 {
        match spin {
            0..SPINS_SHORT => PAUSES_NS[0],
            SPINS_SHORT..SPINS_MEDIUM => PAUSES_NS[1],
            _ => PAUSES_NS[2],
        }
    }
}

impl Wait for Adaptive {
    #[inline]
    fn pause(&self, spin: u32) {
        for _ in 0..Self::pause_ns(spin) / PAUSES_NS[0] {
            spin_loop();
        }
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Polls a little, then yields to the operating system between polls: for more ranks than cores.
#[derive(Clone, Copy, Debug)]
pub struct Yielding {
    /// How long a wait may take.
    pub deadline: Duration,
}

impl Wait for Yielding {
    #[inline]
    fn pause(&self, spin: u32) {
        if spin < SPINS_BEFORE_YIELD { spin_loop() } else { yield_now() }
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    /// After every yield, which may take as long as the other threads like.
    fn clock_due(&self, spin: u32) -> bool {
        spin >= SPINS_BEFORE_YIELD
    }
}

/// One wait in progress: counts its polls and knows when it has taken too long.
///
/// The ends of a ring use it, and so does whoever waits for several rings at once.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use myelon_ring::wait::{Spin, Waiting};
///
/// let wait = Spin { deadline: Duration::from_micros(50) };
/// let mut waiting = Waiting::default();
/// let waited = loop {
///     // ... poll, and leave if there is something ...
///     if let Some(waited) = waiting.pause(&wait) {
///         break waited;
///     }
/// };
/// assert!(waited >= Duration::from_micros(50));
/// ```
#[derive(Debug, Default)]
pub struct Waiting {
    spin: u32,
    since: Option<Instant>,
    waited: Duration,
}

impl Waiting {
    /// Passes time after a poll that failed. The time waited, once it has come to the deadline: poll a last
    /// time, then give up.
    #[inline]
    pub fn pause(&mut self, wait: &impl Wait) -> Option<Duration> {
        wait.pause(self.spin);
        let due = wait.clock_due(self.spin);
        // After 2^32 polls the short pauses come once more, which harms nobody.
        self.spin = self.spin.wrapping_add(1);
        if !due {
            return None;
        }
        self.clock(wait.deadline())
    }

    /// How long it had taken at the last look at the clock, from the first one; nothing before.
    #[inline]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    #[cold]
    fn clock(&mut self, deadline: Duration) -> Option<Duration> {
        self.waited = self.since.get_or_insert_with(Instant::now).elapsed();
        (self.waited >= deadline).then_some(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_the_harness_s() {
        assert_eq!((SPINS_SHORT, SPINS_MEDIUM, PAUSES_NS), (32, 256, [32, 128, 512]));
        for (spin, ns) in [(0, 32), (31, 32), (32, 128), (255, 128), (256, 512), (u32::MAX, 512)] {
            assert_eq!(Adaptive::pause_ns(spin), ns, "spin {spin}");
        }
    }

    #[test]
    fn the_first_polls_read_no_clock() {
        fn clockless_polls(wait: &impl Wait) -> u32 {
            let mut waiting = Waiting::default();
            let mut polls = 0;
            while waiting.since.is_none() {
                waiting.pause(wait);
                polls += 1;
            }
            polls - 1
        }
        let deadline = Duration::ZERO;
        assert_eq!(clockless_polls(&Spin { deadline }), POLLS_A_CLOCK - 1);
        assert_eq!(clockless_polls(&Adaptive { deadline }), POLLS_A_CLOCK - 1);
        assert_eq!(clockless_polls(&Yielding { deadline }), SPINS_BEFORE_YIELD);
    }

    #[test]
    fn every_wait_ends_and_not_before_its_deadline() {
        fn waited(wait: &impl Wait) -> Duration {
            let mut waiting = Waiting::default();
            assert_eq!(waiting.waited(), Duration::ZERO);
            loop {
                if let Some(waited) = waiting.pause(wait) {
                    assert_eq!(waiting.waited(), waited);
                    return waited;
                }
            }
        }
        let deadline = Duration::from_millis(2);
        for waited in
            [waited(&Spin { deadline }), waited(&Adaptive { deadline }), waited(&Yielding { deadline })]
        {
            assert!(waited >= deadline, "{waited:?}");
        }
    }

    #[test]
    fn a_very_long_wait_keeps_looking_at_the_clock() {
        let wait = Spin { deadline: Duration::ZERO };
        let mut waiting = Waiting { spin: u32::MAX - 4 * POLLS_A_CLOCK, since: None, waited: Duration::ZERO };
        let looks = (0..8 * POLLS_A_CLOCK).filter(|_| waiting.pause(&wait).is_some()).count();
        assert_eq!(looks, 8);
    }
}
