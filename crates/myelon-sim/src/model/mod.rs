//! A small machine with a weak memory: threads, blocks and asynchronous copies under a seeded scheduler.
//!
//! A [`World`] holds simulated memory and threads. A protocol is written against [`Thread`], whose calls are
//! the accesses that a GPU's memory model knows: strong and plain accesses, fences, barriers, votes, copies.
//! Each call is a decision of the seed: who runs next, and which of the values that the model allows a load
//! returns. What nothing orders is reported as a race, whether or not it did harm in this run.
//!
//! What the model allows, and what it leaves out, stands in `docs/protocols/memory-model.md`.
//!
//! # Example
//!
//! A flag that is stored before its data is found in some seed; in the right order no seed finds anything.
//!
//! ```
//! use myelon_sim::model::{Device, Schedule, World};
//!
//! let run = |seed, right: bool| {
//!     let mut world = World::new(seed, Schedule::Random);
//!     let (data, flag) = (world.memory("data", 8, 8), world.memory("flag", 8, 8));
//!     world.thread(Device::Gpu(0), 0, move |t| {
//!         if right {
//!             t.write(data, &7u64.to_le_bytes());
//!             t.store_release(flag, 1);
//!         } else {
//!             t.store_release(flag, 1);
//!             t.write(data, &7u64.to_le_bytes());
//!         }
//!     });
//!     world.thread(Device::Gpu(1), 1, move |t| {
//!         while t.load_acquire(flag) == 0 {
//!             t.pause();
//!         }
//!         let mut seen = [0; 8];
//!         t.read(data, &mut seen);
//!     });
//!     world.run()
//! };
//! assert!((0..100).all(|seed| run(seed, true).is_ok()));
//! let failure = (0..100).find_map(|seed| run(seed, false).err()).expect("some seed finds it");
//! assert_eq!(failure.violation.rule, "race");
//! ```

mod access;
mod block;
mod copies;
mod core;
mod event;
mod memory;
mod random;
mod thread;
mod view;
mod world;

pub use access::Order;
pub use block::BARRIERS_MAX;
pub use copies::CopyKind;
pub use event::{Action, Event, ThreadId, Violation};
pub use memory::{Address, Device, Scope};
pub use random::Random;
pub use thread::{Grid, Launch, Thread};
pub(crate) use world::with_current;
pub use world::{Ended, Failure, World};

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it runs on.
    pub device: Device,
    /// Who stops or is slow together with it.
    pub party: u32,
    /// Number of its block among all blocks of the world, if it is in one.
    pub block: Option<u32>,
    /// Number of its block in its launch.
    pub block_index: u32,
    /// Number of the thread in its block.
    pub thread: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.block {
            Some(_) => write!(f, "rank {} block {} thread {}", self.party, self.block_index, self.thread),
            None if self.device == Device::Host => write!(f, "host {}", self.party),
            None => write!(f, "rank {}", self.party),
        }
    }
}

/// How the next thread is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// By lot.
    Random,
    /// The ready thread of the highest priority; priorities are drawn once, and behind `changes` steps among the
    /// first `steps` the running thread falls behind all that have not fallen yet. Plain accesses are steps too;
    /// behind one, the thread makes its next strong step still.
    ///
    /// # Source
    ///
    /// S. Burckhardt and others, "A randomized scheduler with probabilistic guarantees of finding bugs",
    /// ASPLOS 2010.
    Priority {
        /// How often priorities change.
        changes: u32,
        /// Within how many steps.
        steps: u64,
    },
}

/// A rule that is looked at after every step.
pub trait Check {
    /// What a violation is called.
    fn name(&self) -> &'static str;

    /// Looks at one step of one thread.
    ///
    /// # Errors
    ///
    /// What was needed and what was seen.
    fn observe(&mut self, event: &Event, place: &Place) -> Result<(), String>;
}
