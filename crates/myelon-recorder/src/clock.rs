//! The clock of all pages.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine was started: one clock for all processes, which nobody sets.
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// The same as of the system's last tick, some milliseconds ago at most, for a fifth of the cost.
pub(crate) fn tick_ns() -> u64 {
    read(ClockId::MonotonicCoarse)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Neither part is negative since the start of the machine.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let before = now_ns();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(now_ns() - before >= 2_000_000);
        let tick = tick_ns();
        assert!((0..100_000_000).contains(&(now_ns() - tick)), "ticks are rare here");
    }
}
