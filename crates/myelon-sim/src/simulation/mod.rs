//! Whole all-reduces: the kernels' own source in the [`model`](crate::model), under every checker.
//!
//! A [`Case`] is a communicator, the calls that its ranks make, and what goes wrong; [`Simulation`] builds
//! one. A run follows from the case and a seed. [`Hunt`] draws cases from seeds, runs them on all cores, and
//! makes what failed smaller.
//!
//! # Example
//!
//! ```
//! use myelon_sim::simulation::{Mishap, Mutant, Simulation};
//!
//! let simulation = Simulation::new(3).lanes(2).capacity(2).sum("i32", 100).sum("u8", 7);
//! for seed in 0..5 {
//!     simulation.run(seed).expect("no seed finds anything");
//! }
//! // A rank that never comes is named by those who wait for it; that is looked at too.
//! simulation.clone().mishap(Mishap::NeverComes { rank: 1 }).run(0)?;
//!
//! let weak = simulation.mutant(Mutant::find("ring/publish.fence").unwrap());
//! let failure = (0..50).find_map(|seed| weak.run(seed).err()).expect("some seed finds it");
//! // The slot's bytes were read unordered, or its trailer was still that of another call.
//! assert!(["race", "record"].contains(&failure.violation.rule));
//! assert_eq!(weak.run(failure.seed).unwrap_err().step, failure.step); // the same again
//! # Ok::<(), Box<myelon_sim::simulation::CaseFailure>>(())
//! ```

mod case;
mod cells;
mod checks;
mod furnish;
mod hunt;
mod inputs;
mod launches;
mod map;
mod mutants;
mod packets;
mod reference;
mod run;
mod slots;
pub mod strategies;
mod trace;
mod verdict;

pub use case::{Call, Case, CaseError, Mishap, OPERATIONS, TYPES};
pub use hunt::{Found, Hunt, Searched};
pub use map::{CellName, Map, PacketName, Part, RingName, Spot};
pub use mutants::Mutant;
pub use reference::by_element;
pub use run::Reference;
pub use slots::{Held, Slots, Span};
pub use strategies::Limits;
pub use trace::{CaseFailure, Step};

use myelon_lanes::Algorithm;
use myelon_ring::Inbox;

use crate::launch::Shape;
use crate::model::{Ended, Schedule, Violation};

/// The rules that a run is held to, by the names that violations carry.
pub fn checkers() -> Vec<&'static str> {
    let model = ["case", "race", "memory", "scope", "barrier", "stuck", "progress", "panic"];
    model.into_iter().chain(checks::NAMES).chain(verdict::NAMES).collect()
}

/// Builds a case and runs it.
#[derive(Clone, Debug)]
pub struct Simulation {
    case: Case,
    mutant: Mutant,
    reference: Reference,
    trace: usize,
    /// Calls that use all that the window has, whatever that will be.
    whole: Vec<usize>,
}

impl Simulation {
    /// `ranks` ranks with one lane, two slots a ring of 48 bytes, an inbox of 16 packets and 8 cells, and no calls
    /// yet.
    pub fn new(ranks: usize) -> Self {
        let shape = Shape {
            ranks,
            lanes: 1,
            capacity: 2,
            piece_bytes: 48,
            credit_batch: 1,
            first: 0,
            inbox: Inbox { lanes: 1, packets: 16, cells: strategies::cells_of(16) },
        };
        let case =
            Case { shape, movers: 1, calls: Vec::new(), skew: 0, mishap: None, schedule: Schedule::Random };
        Self::of(case)
    }

    /// A case that is there already.
    pub fn of(case: Case) -> Self {
        Self { case, mutant: Mutant::NONE, reference: by_element, trace: 0, whole: Vec::new() }
    }

    /// Lanes of the window; calls of [`sum`](Self::sum) use them all, whichever comes first.
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        (self.case.shape.lanes, self.case.shape.inbox.lanes) = (lanes, lanes);
        self.fit()
    }

    /// Room for packets, and for as much payload in cells. The lanes of the inbox may be others than those of the
    /// rings; [`lanes`](Self::lanes) sets both.
    #[must_use]
    pub fn inbox(mut self, lanes: usize, packets: usize) -> Self {
        self.case.shape.inbox = Inbox { lanes, packets, cells: strategies::cells_of(packets) };
        self.fit()
    }

    /// Slots of a ring, a power of two.
    #[must_use]
    pub fn capacity(mut self, slots: usize) -> Self {
        self.case.shape.capacity = slots;
        self
    }

    /// Payload bytes of a slot, a multiple of 16.
    #[must_use]
    pub fn piece_bytes(mut self, bytes: usize) -> Self {
        self.case.shape.piece_bytes = bytes;
        self.fit()
    }

    /// Slots after which credit is returned.
    #[must_use]
    pub fn credit_batch(mut self, slots: usize) -> Self {
        self.case.shape.credit_batch = slots;
        self
    }

    /// The sequence that every ring begins at.
    #[must_use]
    pub fn first(mut self, sequence: u64) -> Self {
        self.case.shape.first = sequence;
        self
    }

    /// Threads of a block that move.
    #[must_use]
    pub fn movers(mut self, threads: u32) -> Self {
        self.case.movers = threads;
        self
    }

    /// Rank r begins r times so many steps late.
    #[must_use]
    pub fn skew(mut self, steps: u32) -> Self {
        self.case.skew = steps;
        self
    }

    /// What goes wrong.
    #[must_use]
    pub fn mishap(mut self, mishap: Mishap) -> Self {
        self.case.mishap = Some(mishap);
        self
    }

    /// Who runs next.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.case.schedule = schedule;
        self
    }

    /// Adds a call.
    #[must_use]
    pub fn call(mut self, call: Call) -> Self {
        self.case.calls.push(call);
        self
    }

    fn fit(mut self) -> Self {
        let Shape { lanes, piece_bytes, .. } = self.case.shape;
        for &number in &self.whole {
            let call = &mut self.case.calls[number];
            let lanes = if call.is_of_packets() { self.case.shape.inbox.lanes } else { lanes };
            (call.lanes, call.workers, call.piece_bytes) = (lanes, lanes, piece_bytes);
        }
        self
    }

    /// Adds a sum through the ring, out of place on all lanes, in whole slots, of one of [`TYPES`].
    #[must_use]
    pub fn sum(self, dtype: &'static str, elements: usize) -> Self {
        self.sum_by(Algorithm::Ring, dtype, elements)
    }

    /// Adds a sum as [`sum`](Self::sum) does, by any algorithm.
    #[must_use]
    pub fn sum_by(mut self, algorithm: Algorithm, dtype: &'static str, elements: usize) -> Self {
        let Shape { lanes, piece_bytes, .. } = self.case.shape;
        let call = Call {
            algorithm,
            dtype,
            op: "sum",
            elements,
            in_place: false,
            skewed: 0,
            lanes,
            workers: lanes,
            piece_bytes,
        };
        self.whole.push(self.case.calls.len());
        self.call(call).fit()
    }

    /// Weakens the protocol. A mutant of [`heritage`](crate::heritage) weakens nothing here; [`Hunt`] runs those.
    #[must_use]
    pub fn mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = mutant;
        self
    }

    /// What results are compared with, where it is not [`by_element`]. Those of calls by neighbours, whose order depends on
    /// the plan, are compared with that order all the same.
    #[must_use]
    pub fn reference(mut self, reference: Reference) -> Self {
        self.reference = reference;
        self
    }

    /// Keeps so many of the last steps for a failure to show.
    #[must_use]
    pub fn trace(mut self, steps: usize) -> Self {
        self.trace = steps;
        self
    }

    /// The case as it stands.
    pub fn case(&self) -> &Case {
        &self.case
    }

    /// Runs the case from a seed; the steps that it took.
    ///
    /// # Errors
    ///
    /// The first rule that was broken, with the last steps. Where the case is none, as [`Case::check`] says,
    /// nothing was run, and the rule is `case`.
    pub fn run(&self, seed: u64) -> Result<u64, Box<CaseFailure>> {
        self.finish(seed, |ended, _| ended.steps())
    }

    /// Runs the case as [`run`](Self::run) does; the last steps, as many as are kept, and who held which slot
    /// during them.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_sim::simulation::{Simulation, Span};
    ///
    /// let (steps, slots) = Simulation::new(2).sum("u8", 9).trace(10_000).watch(0)?;
    /// assert!(!steps.is_empty() && slots.spans.iter().any(|held| held.span == Span::Published));
    /// # Ok::<(), Box<myelon_sim::simulation::CaseFailure>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As `run`, with the same.
    pub fn watch(&self, seed: u64) -> Result<(Vec<Step>, Slots), Box<CaseFailure>> {
        self.finish(seed, |ended, setting| {
            let trace = ended.trace();
            (trace::words(&self.case, &trace, setting), Slots::of(&trace, &setting.map, ended.steps()))
        })
    }

    fn finish<T>(
        &self,
        seed: u64,
        take: impl FnOnce(&Ended, &furnish::Setting) -> T,
    ) -> Result<T, Box<CaseFailure>> {
        if let Err(error) = self.case.check() {
            let violation = Violation::new("case", error.to_string());
            return Err(Box::new(CaseFailure {
                case: Some(self.case.clone()),
                mutant: self.mutant,
                seed,
                step: 0,
                violation,
                steps: Vec::new(),
                slots: Slots::default(),
            }));
        }
        let run::Finished { result, setting } =
            run::run(&self.case, seed, self.mutant, self.reference, self.trace);
        match result {
            Ok(ended) => Ok(take(&ended, &setting)),
            Err(failure) => Err(Box::new(trace::failure(&self.case, self.mutant, seed, failure, &setting))),
        }
    }
}
