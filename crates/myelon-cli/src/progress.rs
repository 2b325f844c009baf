//! The progress bar: on standard error, only on a terminal, and only when the work turns out long.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this needs no bar.
const LONG: Duration = Duration::from_secs(2);

/// A bar that appears after [`LONG`].
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    shown: bool,
}

impl Progress {
    /// A hidden bar for `steps` steps.
    pub fn new(steps: u64) -> Self {
        Self::with_template(steps, "{wide_bar} {pos}/{len}  {msg}  {eta} left")
    }

    /// The same for work that says itself how far it is.
    pub fn of_rate(length: u64) -> Self {
        Self::with_template(length, "{wide_bar} {msg}  {eta} left")
    }

    fn with_template(length: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden())
            .with_style(style.expect("the template is right"));
        Self { bar, start: Instant::now(), shown: false }
    }

    /// Says what is under way, and shows the bar when that has taken long enough.
    pub fn begin(&mut self, what: String) {
        if !self.shown && self.start.elapsed() >= LONG {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        self.bar.set_message(what);
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// So much of the length is done.
    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Writes something else while the bar is out of the way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_has_no_bar_and_steps_are_counted() {
        let mut progress = Progress::new(3);
        progress.begin("one".into());
        progress.step();
        progress.step();
        assert!(!progress.shown);
        assert_eq!(progress.bar.position(), 2);
        progress.at(3);
        assert_eq!(progress.bar.position(), 3);
        assert_eq!(progress.aside(|| 7), 7);
        progress.finish();
    }

    #[test]
    fn long_work_has_a_bar() {
        let mut progress = Progress::new(3);
        progress.start -= LONG;
        progress.begin("one".into());
        assert!(progress.shown);
        progress.finish();
    }
}
