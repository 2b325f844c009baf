//! The clock of all pages.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine was started: one clock for all processes, which nobody sets.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
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
    }
}
