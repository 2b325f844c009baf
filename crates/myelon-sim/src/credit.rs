//! Every interleaving of the counters of a ring all-reduce, by a plain breadth-first search.
//!
//! The model has the steps of `kernels/src/all_reduce_ring.cu` and nothing of its payload. A role waits until
//! all its edges are ready and lets a round begin; its movers move it; then each peer is told: a slot is
//! published, or credit returned. The next round may begin before this one is told, where it is ready. A rank
//! makes its next call when all its roles have ended this one, so ranks may be a call apart.
//!
//! | counted | by |
//! |---|---|
//! | `told`, `moved`, `begun` | each role: rounds that it told, moved and began, of all calls |
//! | sequence words, gating words | nobody: they follow from `told` and from what a peer was told already |
//!
//! In every state docs/protocols/ring.md must hold: see [`Kind`]. Memory is sequentially consistent here;
//! orderings are the business of loom and of the memory models. One look at all edges of a role is one step,
//! because an edge that was ready stays so (R2).
//!
//! ```
//! use myelon_sim::credit::{Kind, Mutant, System, Tell, explore};
//!
//! let (calls, tell) = (vec![1, 3], Tell::EachEdge);
//! let system = System { ranks: 2, lanes: 1, capacity: 2, credit_batch: 2, calls, first: u64::MAX, tell };
//! assert!(explore(&system, None).is_ok());
//! let violation = explore(&system, Some(Mutant::NotFlushed)).unwrap_err();
//! assert_eq!(violation.kind, Kind::Stuck);
//! ```

mod counters;

use std::fmt;

use counters::{Model, State};

/// Most ranks that a state has room for.
pub const RANKS_MAX: usize = 4;
/// Most rounds that a state has room for, of all calls and lanes together.
pub const ROUNDS_MAX: u32 = 31;

/// How a role tells its peers of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// One peer after the other, in any order, as the threads of a signal warp do.
    EachEdge,
    /// All peers in one step, and states that differ by the names of ranks alone count once: less to explore.
    /// Nothing is lost by it but what a wait for equality would do: words only grow, so a peer that is told
    /// sooner can still do all that it could when told later.
    AtOnce,
}

/// What is explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Ranks, 2 to [`RANKS_MAX`].
    pub ranks: usize,
    /// Lanes that the roles serve one after the other, as blocks do that have more than one.
    pub lanes: usize,
    /// Slots a ring, a power of two.
    pub capacity: u32,
    /// Slots after which credit is returned, 1 to `capacity`.
    pub credit_batch: u32,
    /// Rounds of each call, in each lane.
    pub calls: Vec<u32>,
    /// The sequence that every ring starts at.
    pub first: u64,
    /// How peers are told.
    pub tell: Tell,
}

/// What an exploration without a violation has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Steps from the beginning to the end: every way has as many.
    pub depth: usize,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not `0 <= published - returned <= capacity` (R3).
    Credit,
    /// A slot may be written whose last lap is not read yet (R3, R5).
    Overwritten,
    /// A slot may be read that does not hold the sequence wanted (R4).
    Unwritten,
    /// A word that a role looks at is beyond what can be (R6).
    Beyond,
    /// A word does not grow (R2).
    Backwards,
    /// No role can take a step, and there is work left (R7).
    Stuck,
    /// Everybody is done, and credit is not back (R7).
    KeptBack,
}

/// A state that must not be, and a shortest way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is violated.
    pub kind: Kind,
    /// Where, with what was needed and seen.
    pub detail: String,
    /// The steps from the beginning.
    pub path: Vec<String>,
    /// States that had been visited.
    pub states: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}: {}, after {} steps:", self.kind, self.detail, self.path.len())?;
        self.path.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

impl std::error::Error for Violation {}

/// A mistake in the arithmetic. Each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The producer always finds credit.
    NoGate,
    /// The producer asks for one credit too few.
    OneEarly,
    /// The producer asks for one credit too many.
    OneLate,
    /// A batch of credit is one larger than the ring.
    BatchBeyondCapacity,
    /// The last batch of a call is kept back.
    NotFlushed,
    /// Credit goes back when a round begins.
    CreditOnBegin,
    /// One slot more is returned than was read.
    OneMore,
    /// Credit counts the rounds of its call only.
    CreditOfTheCall,
    /// A slot is published when its round begins.
    PublishOnBegin,
    /// A wait for credit ends at equality only.
    Equality,
    /// Words are compared without sign.
    Unsigned,
    /// Sequences restart with each call.
    Restarted,
    /// A role looks at the first of its edges only.
    OneEdge,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::NoGate,
        Self::OneEarly,
        Self::OneLate,
        Self::BatchBeyondCapacity,
        Self::NotFlushed,
        Self::CreditOnBegin,
        Self::OneMore,
        Self::CreditOfTheCall,
        Self::PublishOnBegin,
        Self::Equality,
        Self::Unsigned,
        Self::Restarted,
        Self::OneEdge,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoGate => "credit/no-gate",
            Self::OneEarly => "credit/one-early",
            Self::OneLate => "credit/one-late",
            Self::BatchBeyondCapacity => "credit/batch-beyond-capacity",
            Self::NotFlushed => "credit/not-flushed",
            Self::CreditOnBegin => "credit/on-begin",
            Self::OneMore => "credit/one-more",
            Self::CreditOfTheCall => "credit/of-the-call",
            Self::PublishOnBegin => "credit/publish-on-begin",
            Self::Equality => "credit/equality",
            Self::Unsigned => "credit/unsigned",
            Self::Restarted => "credit/restarted",
            Self::OneEdge => "credit/one-edge",
        }
    }
}

/// The states seen so far, in the order in which they were found, and a table over them by hash.
struct Visited {
    states: Vec<State>,
    parents: Vec<u32>,
    table: Vec<u32>,
}

impl Visited {
    fn new(first: State) -> Self {
        let mut visited = Self { states: Vec::new(), parents: Vec::new(), table: vec![u32::MAX; 1 << 10] };
        visited.insert(first, 0);
        visited
    }

    /// The numbers of the states from the first to `last`.
    fn way(&self, last: u32) -> Vec<u32> {
        let mut way = vec![last];
        while way[way.len() - 1] != 0 {
            way.push(self.parents[way[way.len() - 1] as usize]);
        }
        way.reverse();
        way
    }

    /// The place of `state` in the table, or where it belongs.
    fn find(&self, state: &State) -> usize {
        /// An odd number whose bits look random: 2^64 by the golden ratio.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, &part: &u16| (hash ^ u64::from(part)).wrapping_mul(ODD).rotate_left(29);
        let hash = state.iter().flatten().fold(0, mix);
        let mut place = hash as usize & (self.table.len() - 1);
        while self.table[place] != u32::MAX && self.states[self.table[place] as usize] != *state {
            place = (place + 1) & (self.table.len() - 1);
        }
        place
    }

    /// The number of `state`, if it is new.
    fn insert(&mut self, state: State, parent: u32) -> Option<u32> {
        let place = self.find(&state);
        if self.table[place] != u32::MAX {
            return None;
        }
        let number = self.states.len() as u32;
        self.table[place] = number;
        self.states.push(state);
        self.parents.push(parent);
        if self.states.len() * 2 > self.table.len() {
            self.table = vec![u32::MAX; self.table.len() * 2];
            for number in 0..self.states.len() {
                let place = self.find(&self.states[number]);
                self.table[place] = number as u32;
            }
        }
        Some(number)
    }
}

/// Explores every interleaving of `system`, with a mistake in it or without.
///
/// # Errors
///
/// A [`Violation`], with a shortest way to it.
///
/// # Panics
///
/// Where a field of `system` is out of bounds.
pub fn explore(system: &System, mutant: Option<Mutant>) -> Result<Explored, Violation> {
    let model = Model::new(system, mutant);
    let mut visited = Visited::new(State::default());
    let (mut steps, mut explored) = (Vec::new(), Explored { states: 0, steps: 0, depth: 0 });
    let violation = |visited: &Visited, (kind, detail), last| {
        let (path, states) = (path(&model, visited, last), visited.states.len());
        Violation { kind, detail, path, states }
    };
    // What is behind `number` was explored, what is before it is yet to be: breadth first.
    let mut number = 0;
    while let Some(&state) = visited.states.get(number as usize) {
        model.steps(&state, &mut steps);
        if steps.is_empty() {
            if let Some(fault) = model.fault_at_end(&state) {
                return Err(violation(&visited, fault, number));
            }
            explored.depth = visited.way(number).len() - 1;
        }
        explored.steps += steps.len();
        for step in &steps {
            let shrunk = model.shrunk(&state, step);
            let Some(new) = visited.insert(model.canonical(step.to), number) else { continue };
            if let Some(fault) = shrunk.or_else(|| model.fault(&step.to)) {
                return Err(violation(&visited, fault, new));
            }
        }
        number += 1;
    }
    Ok(Explored { states: visited.states.len(), ..explored })
}

/// The steps from the beginning to state `last`. Ranks keep their names on the way, also where the states that
/// were visited do not.
fn path(model: &Model<'_>, visited: &Visited, last: u32) -> Vec<String> {
    let (mut steps, mut at) = (Vec::new(), visited.states[0]);
    let way = visited.way(last);
    let step_to = |&next: &u32| {
        model.steps(&at, &mut steps);
        let wanted = visited.states[next as usize];
        let step = steps.iter().find(|step| model.canonical(step.to) == wanted).expect("it was taken before");
        at = step.to;
        step.to_string()
    };
    way[1..].iter().map(step_to).collect()
}
