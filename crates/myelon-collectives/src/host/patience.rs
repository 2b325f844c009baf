//! How long a call has waited, for what, and when that is too long.

use std::mem::take;
use std::time::Duration;

use myelon_recorder::Waits;
use myelon_ring::wait::{Waiting, Yielding};

use crate::record::RankRecord;

/// What has been waited is recorded at the end of a call, and after so much of it.
const TOLD_AFTER: Duration = Duration::from_millis(100);

/// The waits of one call, one after the other.
pub(super) struct Patience<'a> {
    wait: Yielding,
    record: &'a RankRecord,
    waiting: Waiting,
    /// How much of this wait is in `waits`, or was.
    counted: Duration,
    waits: Waits,
    was_late: bool,
}

impl<'a> Patience<'a> {
    pub fn new(deadline: Duration, record: &'a RankRecord) -> Self {
        Self {
            wait: Yielding { deadline },
            record,
            waiting: Waiting::default(),
            counted: Duration::ZERO,
            waits: Waits::default(),
            was_late: false,
        }
    }

    /// Something moved: this wait is over.
    pub fn moved(&mut self) {
        self.waiting = Waiting::default();
        self.counted = Duration::ZERO;
    }

    /// Passes time after a look at which nothing moved, because data was missing or else credit. The time waited,
    /// once it has come to the deadline: look a last time, then give up.
    pub fn pause(&mut self, for_data: bool) -> Option<Duration> {
        let over = self.waiting.pause(&self.wait);
        let more = self.waiting.waited() - self.counted;
        self.counted += more;
        let more_ns = more.as_nanos() as u64;
        let waits = &mut self.waits;
        let (polls, ns) = if for_data {
            (&mut waits.polls_data, &mut waits.data_ns)
        } else {
            (&mut waits.polls_credit, &mut waits.credit_ns)
        };
        *polls += 1;
        *ns += more_ns;
        waits.longest_ns = waits.longest_ns.max(self.counted.as_nanos() as u64);
        if waits.data_ns + waits.credit_ns >= TOLD_AFTER.as_nanos() as u64 {
            self.record.waited(&take(waits));
        }
        over
    }

    /// The time waited, if that has just become late: once a call.
    pub fn late(&mut self) -> Option<Duration> {
        let is_late = !self.was_late && self.counted >= self.record.late_after();
        self.was_late |= is_late;
        is_late.then_some(self.counted)
    }

    /// What has been waited and not been recorded.
    pub fn waits(&self) -> Waits {
        self.waits
    }
}
