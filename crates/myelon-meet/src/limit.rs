//! A time limit over many waits.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

use crate::error::MeetError;

/// So much time, from the moment it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    start: Instant,
    limit: Duration,
}

impl Limit {
    pub fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// What is left; nothing once it has passed.
    pub fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero())
    }

    pub fn waited_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// A little time between two tries, no longer than what is left.
    pub fn nap(&self) {
        const NAP: Duration = Duration::from_millis(2);
        std::thread::sleep(NAP.min(self.left().unwrap_or_default()));
    }

    /// Waits until one of `fds` is ready; false once the limit has passed.
    pub fn poll(&self, fds: &mut [PollFd<'_>]) -> Result<bool, MeetError> {
        loop {
            let Some(left) = self.left() else { return Ok(false) };
            match poll(fds, Some(left)) {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until one of `fds` is ready or `timeout` has passed; a signal is no reason to return early.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<usize, MeetError> {
    // Longer than anybody waits is as good as for ever.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    loop {
        match rustix::event::poll(fds, timeout.as_ref()) {
            Err(Errno::INTR) if timeout.is_none() => {}
            Err(Errno::INTR) => return Ok(0),
            Err(errno) => return Err(MeetError::system("poll", errno)),
            Ok(ready) => return Ok(ready),
        }
    }
}
