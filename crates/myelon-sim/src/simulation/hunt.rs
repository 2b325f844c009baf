//! Looking for a seed that breaks a rule, and making what it broke smaller.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use proptest::strategy::ValueTree;

use super::Simulation;
use super::case::Case;
use super::mutants::Mutant;
use super::reference::by_element;
use super::run::Reference;
use super::strategies::{Limits, tree};
use super::trace::{CaseFailure, failure_of_heritage};
use crate::heritage;

/// Smaller cases that are tried, and seeds that each is tried with.
const SMALLER_MAX: usize = 300;
const SEEDS_OF_SMALLER: u64 = 8;

/// A search: each seed gives a case and a run of it. Where the mutant is one of [`heritage`], each seed gives a
/// run of its protocol instead, and the limits mean nothing.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// What cases may be.
    pub limits: Limits,
    /// What is weakened.
    pub mutant: Mutant,
    /// What results are compared with.
    pub reference: Reference,
    /// Threads of the host that search.
    pub threads: usize,
    /// Steps that a failure shows.
    pub trace: usize,
}

/// A search that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searched {
    /// Seeds that were run.
    pub seeds: u64,
    /// Steps of all of them.
    pub steps: u64,
}

/// The lowest seed that broke a rule.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the seed gave it.
    pub failure: CaseFailure,
    /// The smallest case that was found to fail too; by which seed, its own failure says. Where there are no
    /// cases, the failure of the fewest steps.
    pub smallest: CaseFailure,
}

impl Default for Hunt {
    fn default() -> Self {
        Self { limits: Limits::default(), mutant: Mutant::NONE, reference: by_element, threads: 1, trace: 0 }
    }
}

impl Hunt {
    /// The case that a seed gives, whatever the mutant.
    pub fn case(&self, seed: u64) -> Case {
        tree(&self.limits, seed).current()
    }

    fn simulation(&self, case: Case) -> Simulation {
        Simulation::of(case).mutant(self.mutant).reference(self.reference)
    }

    /// Runs one seed; the steps it took.
    ///
    /// # Errors
    ///
    /// The rule that it broke.
    pub fn run(&self, seed: u64) -> Result<u64, Box<CaseFailure>> {
        match self.mutant.protocol() {
            Some(protocol) => self.run_heritage(protocol, seed, 0),
            None => self.simulation(self.case(seed)).run(seed),
        }
    }

    fn run_heritage(&self, protocol: &str, seed: u64, trace: usize) -> Result<u64, Box<CaseFailure>> {
        let (result, names) = heritage::watch(protocol, Some(self.mutant.name()), seed, trace);
        result.map_err(|failure| Box::new(failure_of_heritage(self.mutant, seed, failure, &names)))
    }

    /// Runs every seed in order until one breaks a rule, or until `goes_on`, called after each seed, says no.
    ///
    /// Which failure is found does not depend on the number of threads.
    ///
    /// # Errors
    ///
    /// The lowest seed that broke a rule, and the smallest case that was found from it.
    pub fn search(
        &self,
        seeds: Range<u64>,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Searched, Box<Found>> {
        let next = AtomicU64::new(seeds.start);
        let (run, steps) = (AtomicU64::new(0), AtomicU64::new(0));
        let stop = AtomicBool::new(false);
        let lowest: Mutex<Option<Box<CaseFailure>>> = Mutex::new(None);
        let work = || {
            while !stop.load(Relaxed) {
                let seed = next.fetch_add(1, Relaxed);
                let found =
                    || lowest.lock().expect("nobody panics with it").as_ref().map(|failure| failure.seed);
                if seed >= seeds.end || found().is_some_and(|found| found < seed) {
                    break;
                }
                match self.run(seed) {
                    Ok(taken) => steps.fetch_add(taken, Relaxed),
                    Err(failure) => {
                        let mut lowest = lowest.lock().expect("nobody panics with it");
                        if lowest.as_ref().is_none_or(|before| before.seed > seed) {
                            *lowest = Some(failure);
                        }
                        break;
                    }
                };
                run.fetch_add(1, Relaxed);
                if !goes_on() {
                    stop.store(true, Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(work);
            }
            work();
        });
        match lowest.into_inner().expect("nobody panics with it") {
            Some(failure) => Err(Box::new(match self.mutant.protocol() {
                Some(protocol) => self.explain_heritage(protocol, failure.seed),
                None => self.explain(failure.seed),
            })),
            None => Ok(Searched { seeds: run.into_inner(), steps: steps.into_inner() }),
        }
    }

    /// Runs a failing seed again with a trace, and looks for seeds that fail in fewer steps.
    fn explain_heritage(&self, protocol: &str, seed: u64) -> Found {
        let again = |seed| {
            let failure = self.run_heritage(protocol, seed, self.trace);
            *failure.expect_err("the same seed fails again")
        };
        let steps = |seed| Some((self.run(seed).err()?.step, seed));
        let fewest = [seed].into_iter().chain(0..SMALLER_MAX as u64).filter_map(steps).min();
        let (_, of_seed) = fewest.expect("the seed itself fails");
        Found { failure: again(seed), smallest: again(of_seed) }
    }

    /// Runs a failing seed again with a trace, and looks for smaller cases that fail.
    fn explain(&self, seed: u64) -> Found {
        let again = |case: &Case, seed| {
            let failure = self.simulation(case.clone()).trace(self.trace).run(seed);
            *failure.expect_err("the same seed fails again")
        };
        let mut tree = tree(&self.limits, seed);
        let failure = again(&tree.current(), seed);
        let (mut smallest, mut of_seed) = (tree.current(), seed);
        let mut smaller = tree.simplify();
        for _ in 0..SMALLER_MAX {
            if !smaller {
                break;
            }
            let case = tree.current();
            let fails = |&seed: &u64| self.simulation(case.clone()).run(seed).is_err();
            smaller = match [seed].into_iter().chain(0..SEEDS_OF_SMALLER).find(fails) {
                Some(seed) => {
                    (smallest, of_seed) = (case, seed);
                    tree.simplify()
                }
                None => tree.complicate(),
            };
        }
        Found { smallest: again(&smallest, of_seed), failure }
    }
}
