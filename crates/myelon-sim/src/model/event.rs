//! What happened, step by step: what checkers look at, and what a person reads.

use super::memory::Address;

/// Number of a thread, in the order in which threads were started.
pub type ThreadId = u32;

/// One step of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Steps of the whole world so far.
    pub step: u64,
    /// Who.
    pub thread: ThreadId,
    /// What.
    pub action: Action,
}

/// What a thread did.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Ended.
    End,
    /// A strong load.
    Load {
        /// The word.
        at: Address,
        /// What was read.
        value: u64,
        /// Whether a newer value was there to be read.
        stale: bool,
    },
    /// A strong store.
    Store {
        /// The word.
        at: Address,
        /// What was stored.
        value: u64,
        /// Whether the thread knew of every earlier store of the word, so that none of them can end up behind this one.
        behind_all: bool,
    },
    /// An atomic exchange.
    Exchange {
        /// The word.
        at: Address,
        /// What it held.
        before: u64,
        /// What it holds now.
        value: u64,
    },
    /// A plain read, or one of an asynchronous copy.
    Read {
        /// The first byte.
        at: Address,
        /// How many.
        bytes: u32,
    },
    /// A plain write, or one of an asynchronous copy.
    Write {
        /// The first byte.
        at: Address,
        /// How many.
        bytes: u32,
    },
    /// A fence.
    Fence,
    /// Started the threads of a grid.
    Launch {
        /// Number of its first block among all blocks of the world.
        first_block: u32,
        /// Threads of all its blocks.
        threads: u32,
    },
    /// Was counted at a barrier of its block.
    Arrive {
        /// Which one.
        barrier: u32,
    },
    /// Was let go by a barrier of its block.
    Pass {
        /// Which one.
        barrier: u32,
    },
    /// Said something that only checkers hear.
    Note {
        /// What, by agreement between the protocol and its checker.
        what: u32,
        /// A number that goes with it.
        value: u64,
    },
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the rule or checker.
    pub rule: &'static str,
    /// What was needed and what was seen.
    pub message: String,
}

impl Violation {
    /// A broken rule.
    pub fn new(rule: &'static str, message: impl Into<String>) -> Self {
        Self { rule, message: message.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

impl std::error::Error for Violation {}
