//! The ranks that are not in this process: who waits for them, and what becomes of their numbers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use myelon_collectives::{Error, Process};
use myelon_meet::Session;

/// How long ranks may be apart, where the work between two meetings differs from rank to rank: many deadlines.
const APART_DEADLINES: u32 = 10;

/// All ranks of a run.
pub enum World {
    /// They are threads of this process.
    Threads,
    /// This process is one of them. What is measured and checked goes by a connection of its own, so that it does not
    /// depend on what is measured and checked.
    Processes {
        /// The connections to the others.
        session: Mutex<Session>,
        /// How long one rank waits for another.
        limit: Duration,
    },
}

impl World {
    /// Meets the other ranks of `process`, which were given the same `flags`.
    ///
    /// # Errors
    ///
    /// [`Error::Meeting`].
    pub fn join(process: &Process, flags: String, deadline: Duration) -> Result<Self, Error> {
        let session = process.join(&[("flags of the command", flags)])?;
        Ok(Self::Processes { session: Mutex::new(session), limit: deadline * APART_DEADLINES })
    }

    /// Whether this process is the one that writes results.
    pub fn writes(&self) -> bool {
        match self {
            Self::Threads => true,
            Self::Processes { session, .. } => {
                session.lock().unwrap_or_else(PoisonError::into_inner).rank() == 0
            }
        }
    }

    /// Returns when the other processes have come here, too.
    ///
    /// # Errors
    ///
    /// [`Error::Meeting`], also where one of them has ended.
    pub fn barrier(&self) -> Result<(), Error> {
        self.gather(&[]).map(|_| ())
    }

    /// `numbers` of every process, in the order of the ranks; they are as many in each.
    ///
    /// # Errors
    ///
    /// As for [`World::barrier`].
    pub fn gather(&self, numbers: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        let Self::Processes { session, limit } = self else { return Ok(vec![numbers.to_vec()]) };
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let told = session.exchange(&bytes, &[], *limit)?;
        let numbers = |bytes: &[u8]| {
            let words = bytes.as_chunks::<8>().0;
            words.iter().map(|&word| f64::from_le_bytes(word)).collect()
        };
        Ok(told.iter().map(|told| numbers(&told.bytes)).collect())
    }

    /// The samples of all ranks, `[ranks][samples]`, of which this process has taken `times`.
    ///
    /// # Errors
    ///
    /// As for [`World::barrier`].
    pub fn all_times(&self, times: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>, Error> {
        match (self, times.as_slice()) {
            (Self::Processes { .. }, [own]) => self.gather(own),
            _ => Ok(times),
        }
    }

    /// `count` summed over all processes.
    ///
    /// # Errors
    ///
    /// As for [`World::barrier`].
    pub fn sum(&self, count: u64) -> Result<u64, Error> {
        // Exact below 2^53, and there are no so many elements.
        let counts = self.gather(&[count as f64])?;
        Ok(counts.iter().map(|counts| counts[0] as u64).sum())
    }
}
