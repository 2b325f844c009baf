//! From a machine, a policy, a table and forced values to the plan of a call.

use crate::algorithm::{Algorithm, Inbox};
use crate::error::{Bound, PlanError};
use crate::family;
use crate::geometry::{BYTES_MAX, RANKS_MAX, VECTOR_BYTES, ranks_bound};
use crate::machine::Machine;
use crate::plan::{Neighbours, Plan, Pool, ROLES};
use crate::settings::{Forced, Policy, SLOTS_MAX};
use crate::table::{Row, Table};
use crate::why::Why;
use crate::{gpu, harness, host, neighbour, yali};

/// The most memory of a rank's window unless the user forces its shape: it should stay in the L2 of an
/// H200 (50 MiB) beside the payload.
pub const RING_BYTES_MAX: u64 = 16 << 20;
/// The most memory of a rank's window whose shape the user forces.
pub const RING_BYTES_FORCED_MAX: u64 = 1 << 30;

/// The smallest slot that is taken to fit more lanes into the memory; below, lanes give way. Origin:
/// pieces below 2 KiB never won (8 x H200, 2026-11-20).
const PIECE_BYTES_LEAST: u32 = 2 << 10;
/// Slots are taken in steps of this.
const PIECE_BYTES_STEP: u32 = 1 << 10;

/// One call, as far as plans depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of ranks, `2..=8`.
    pub ranks: u32,
    /// Bytes of the payload at each rank, at most 2^46.
    pub bytes: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Whether elements are floats, which some algorithms need.
    pub floats: bool,
}

/// A plan and the reason for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What will be launched.
    pub plan: Plan,
    /// Why.
    pub why: Why,
}

/// Everything that decides plans: ranks with equal tunings make equal plans.
///
/// A forced value comes first, then (under [`Policy::Auto`]) a row of the table, then the rule of the
/// policy or of the machine.
///
/// # Guarantees
///
/// * The pool depends on the tuning and the number of ranks only, and every plan fits it.
/// * Without forced values a pool takes at most [`RING_BYTES_MAX`] a rank, and 8 MiB beside that for neighbours where
///   [`Tuning::any_order`] allows them; with them at most [`RING_BYTES_FORCED_MAX`].
/// * A forced value is honoured or refused, never changed.
/// * Under [`Policy::Auto`] without a table, more bytes never mean fewer lanes of one
///   algorithm.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Forced, Machine, Request, Tuning};
///
/// let mut forced = Forced::default();
/// forced.set("lanes", "4")?;
/// let tuning = Tuning::new(Machine::h200()).forced(forced);
/// let choice = tuning.plan(&Request { ranks: 2, bytes: 0, element_bytes: 4, floats: true })?;
/// assert_eq!((choice.plan.lanes, choice.plan.blocks), (4, 12));
/// assert!(choice.why.to_string().starts_with("forced lanes=4; else automatic"));
/// assert!(tuning.pool(2)?.fits(&choice.plan));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    machine: Machine,
    policy: Policy,
    forced: Forced,
    table: Table,
    windows: bool,
    any_order: bool,
}

/// What a plan takes its numbers from, where they are not forced.
enum Source<'a> {
    Row(usize, &'a Row),
    Family(Algorithm),
    Gpu,
    Host,
    Policy { lanes: u32, piece_bytes: u32 },
}

impl Tuning {
    /// The automatic policy for `machine`: no table, nothing forced.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            policy: Policy::Auto,
            forced: Forced::default(),
            table: Table::default(),
            windows: false,
            any_order: false,
        }
    }

    /// Takes another policy.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Insists on values; replaces those forced before.
    #[must_use]
    pub fn forced(self, forced: Forced) -> Self {
        Self { forced, ..self }
    }

    /// Whether every buffer of every call is a window, which all ranks may read and write. Then data may go
    /// from buffer to buffer.
    #[must_use]
    pub fn windows(self, windows: bool) -> Self {
        Self { windows, ..self }
    }

    /// Whether sums may be in an order that depends on the plan. Then [`Algorithm::Neighbour`] can be forced, and windows
    /// have rings for it; nothing else changes.
    #[must_use]
    pub fn any_order(self, any_order: bool) -> Self {
        Self { any_order, ..self }
    }

    /// Takes a tuning table, which only [`Policy::Auto`] looks at.
    #[must_use]
    pub fn table(self, table: Table) -> Self {
        Self { table, ..self }
    }

    /// The same for another machine.
    #[must_use]
    pub fn on(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The rows of its table.
    pub fn rows(&self) -> &[Row] {
        self.table.rows()
    }

    /// What is forced.
    pub fn forced_values(&self) -> Forced {
        self.forced
    }

    /// Whether every buffer of every call is a window.
    pub fn has_windows(&self) -> bool {
        self.windows
    }

    /// Whether sums may be in an order that depends on the plan.
    pub fn has_any_order(&self) -> bool {
        self.any_order
    }

    /// The machine that plans are made for.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What a communicator of `ranks` ranks allocates once.
    ///
    /// The slots are the largest multiple of 1 KiB that keeps the window in [`RING_BYTES_MAX`], and lanes give way
    /// where even slots of 2 KiB do not fit. A table whose rows for these ranks ask for more gets the most that any
    /// of them asks for, and other sizes make do with that.
    ///
    /// # Errors
    ///
    /// [`PlanError::Value`] where `ranks`, a forced value or the machine is out of bounds,
    /// [`PlanError::Row`] where a row needs more blocks than can be resident, [`PlanError::Memory`]
    /// where forced values or the table need too much memory.
    pub fn pool(&self, ranks: u32) -> Result<Pool, PlanError> {
        ranks_bound(ranks).check()?;
        Bound::number("resident blocks", self.machine.blocks_max.into(), ROLES.into(), u64::MAX).check()?;
        self.forced.check(&self.machine)?;
        let rule = self.pool_of_rule(ranks);
        // Sizes without a row keep the rule's room where the rows have enough of it.
        let pool = self.pool_of_table(ranks)?.filter(|of_table| !rule.holds(of_table)).unwrap_or(rule);
        let Pool { lanes, slots, piece_bytes, .. } = pool;
        let needed = pool.window_bytes(ranks);
        let unshaped = Forced { algorithm: None, blocks_max: None, threads: None, ..self.of_ring() };
        let shape_is_forced = !unshaped.is_empty();
        let allowed = if shape_is_forced { RING_BYTES_FORCED_MAX } else { RING_BYTES_MAX };
        if needed > allowed {
            return Err(PlanError::Memory { ranks, lanes, slots, piece_bytes, needed, allowed });
        }
        let neighbours = self.neighbours(ranks)?;
        let pool = Pool { neighbours, ..pool };
        let (needed, allowed) = (pool.window_bytes(ranks), allowed.max(RING_BYTES_FORCED_MAX));
        if needed > allowed {
            let Neighbours { lanes, slots, piece_bytes } = neighbours;
            return Err(PlanError::Memory { ranks, lanes, slots, piece_bytes, needed, allowed });
        }
        Ok(pool)
    }

    /// What will be launched for one call, and why.
    ///
    /// # Errors
    ///
    /// Those of [`Tuning::pool`]; [`PlanError::Value`] beyond 2^46 bytes, and [`PlanError::Element`]
    /// where the payload is no whole number of elements.
    pub fn plan(&self, request: &Request) -> Result<Choice, PlanError> {
        let Request { ranks, bytes, element_bytes, .. } = *request;
        let pool = self.pool(ranks)?;
        Bound::number("bytes", bytes, 0, BYTES_MAX).check()?;
        if ![1, 2, 4, 8].contains(&element_bytes) || !bytes.is_multiple_of(element_bytes.into()) {
            return Err(PlanError::Element { bytes, element_bytes });
        }

        let source = self.source(request)?;
        let algorithm = match source {
            Source::Row(_, row) => row.algorithm,
            Source::Family(algorithm) => algorithm,
            _ => Algorithm::Ring,
        };
        let plan = match algorithm {
            Algorithm::Ring => self.ring_plan(&source, request, &pool),
            Algorithm::Neighbour => self.neighbour_plan(request, &pool)?,
            _ => self.family_plan(algorithm, &source, request, &pool)?,
        };
        let why = self.why(&source, &plan, &pool, request.floats);
        if self.forced.is_empty() {
            return Ok(Choice { plan, why });
        }
        Ok(Choice { plan, why: Why::Forced { forced: self.forced, others: Box::new(why) } })
    }

    /// The plan of an algorithm that has a block for each lane, and no slots.
    fn family_plan(
        &self,
        algorithm: Algorithm,
        source: &Source<'_>,
        request: &Request,
        pool: &Pool,
    ) -> Result<Plan, PlanError> {
        let Request { ranks, bytes, .. } = *request;
        let most = algorithm.bytes_max(ranks, pool.inbox);
        if bytes > most {
            return Err(PlanError::AlgorithmBytes { algorithm, ranks, bytes, most });
        }
        let automatic =
            family::shape(algorithm, ranks, bytes, self.blocks_max(), self.machine.direct_threads_max);
        let (lanes, threads) = match *source {
            Source::Row(_, row) => (row.lanes.min(self.blocks_max()), row.threads),
            _ => (automatic.lanes, automatic.threads),
        };
        let lanes = self.forced.lanes.or(self.forced.blocks).unwrap_or(lanes);
        Bound::number("lanes", lanes.into(), 1, pool.inbox.lanes.min(self.machine.blocks_max).into())
            .check()?;
        Ok(Plan {
            algorithm,
            ranks,
            lanes,
            blocks: lanes,
            threads: self.forced.threads.unwrap_or(threads),
            piece_bytes: pool.piece_bytes,
            slots: pool.slots,
            credit_batch: (pool.slots / 2).max(1),
        })
    }

    /// The plan of a call by neighbours, which has a block for each lane.
    fn neighbour_plan(&self, request: &Request, pool: &Pool) -> Result<Plan, PlanError> {
        let (Request { ranks, bytes, .. }, rings) = (*request, pool.neighbours);
        let most = rings.lanes.min(self.blocks_max());
        let lanes = self.forced.lanes.or(self.forced.blocks);
        let lanes = lanes.unwrap_or_else(|| neighbour::lanes(bytes, ranks, most));
        Bound::number("lanes", lanes.into(), 1, rings.lanes.min(self.machine.blocks_max).into()).check()?;
        let automatic = || neighbour::piece_bytes(bytes, ranks, lanes, &rings);
        Ok(Plan {
            algorithm: Algorithm::Neighbour,
            ranks,
            lanes,
            blocks: lanes,
            threads: self.forced.threads.unwrap_or(gpu::THREADS),
            piece_bytes: self.forced.piece_bytes.unwrap_or_else(automatic),
            slots: rings.slots,
            credit_batch: 1,
        })
    }

    /// Rings between neighbours, where they can be asked for.
    fn neighbours(&self, ranks: u32) -> Result<Neighbours, PlanError> {
        let can_run = !self.machine.host && self.policy == Policy::Auto && ranks >= neighbour::RANKS_MIN;
        if !self.any_order || !can_run {
            return Ok(Neighbours::NONE);
        }
        let rule = neighbour::rings(self.machine.blocks_max);
        if self.forced.algorithm != Some(Algorithm::Neighbour) {
            return Ok(rule);
        }
        let Forced { lanes, blocks, slots, piece_bytes, .. } = self.forced;
        let slots = slots.unwrap_or(rule.slots);
        Bound {
            name: "slots",
            value: slots.into(),
            rule: "a power of two",
            least: 2,
            most: SLOTS_MAX.into(),
        }
        .check()?;
        let lanes = lanes.or(blocks).unwrap_or(rule.lanes);
        Ok(Neighbours { lanes, slots, piece_bytes: piece_bytes.unwrap_or(rule.piece_bytes) })
    }

    /// What is forced of the ring: not the shape of its neighbours' rings.
    fn of_ring(&self) -> Forced {
        match self.forced.algorithm {
            Some(Algorithm::Neighbour) => {
                Forced { lanes: None, blocks: None, slots: None, piece_bytes: None, ..self.forced }
            }
            _ => self.forced,
        }
    }

    fn ring_plan(&self, source: &Source<'_>, request: &Request, pool: &Pool) -> Plan {
        let Request { ranks, bytes, .. } = *request;
        let (lanes, piece_bytes) = match *source {
            Source::Row(_, row) => (row.lanes, row.piece_bytes),
            Source::Family(_) | Source::Gpu => (gpu::lanes(bytes, ranks), pool.piece_bytes),
            Source::Host => (host::lanes(bytes), pool.piece_bytes),
            Source::Policy { lanes, piece_bytes } => (lanes, piece_bytes),
        };
        let lanes =
            self.forced.lanes.unwrap_or(lanes.max(self.forced.workers().unwrap_or(1)).min(pool.lanes));
        let workers = match (self.forced.workers(), source) {
            (Some(workers), _) => workers,
            (None, Source::Row(_, row)) => (row.blocks / ROLES).min(lanes).min(self.blocks_max() / ROLES),
            (None, _) => workers(lanes, self.blocks_max() / ROLES),
        };
        let threads = match *source {
            _ if self.machine.host => 1,
            Source::Row(_, row) => row.threads,
            _ => gpu::THREADS,
        };
        Plan {
            algorithm: Algorithm::Ring,
            ranks,
            lanes,
            blocks: ROLES * workers,
            threads: self.forced.threads.unwrap_or(threads),
            piece_bytes: self.forced.piece_bytes.unwrap_or(piece_bytes.min(pool.piece_bytes)),
            slots: pool.slots,
            credit_batch: (pool.slots / 2).max(1),
        }
    }

    /// What decides, once what is forced has been looked at.
    fn source(&self, request: &Request) -> Result<Source<'_>, PlanError> {
        if let Some(algorithm) = self.forced.algorithm.filter(|&forced| forced != Algorithm::Ring) {
            self.check_family(algorithm, request)?;
            return Ok(match self.table.find(request.ranks, self.windows, request.bytes) {
                Some((place, row)) if row.algorithm == algorithm => Source::Row(place, row),
                _ => Source::Family(algorithm),
            });
        }
        Ok(self.unforced_source(request))
    }

    /// Refuses an algorithm that cannot run here, whatever the payload.
    fn check_family(&self, algorithm: Algorithm, request: &Request) -> Result<(), PlanError> {
        let is_neighbour = algorithm == Algorithm::Neighbour;
        let has_shape = self.forced.piece_bytes.is_some() || self.forced.slots.is_some();
        let needed = if self.machine.host {
            "GPUs as ranks"
        } else if self.policy != Policy::Auto {
            "policy auto, as the others know the ring only"
        } else if has_shape && !is_neighbour {
            "no slots, but some are forced"
        } else if algorithm == Algorithm::Direct && !self.windows {
            "buffers that are windows, which was not promised"
        } else if algorithm.needs_floats() && !request.floats {
            "elements that are floats"
        } else if is_neighbour && !self.any_order {
            "permission to sum in an order that depends on the plan, which was not given"
        } else if is_neighbour {
            let ranks = request.ranks.into();
            Bound::number("ranks by neighbour", ranks, neighbour::RANKS_MIN.into(), RANKS_MAX.into())
                .check()?;
            return Ok(());
        } else {
            return Ok(());
        };
        Err(PlanError::AlgorithmHere { algorithm, needed })
    }

    /// Whether only the ring can run.
    fn is_ring_only(&self) -> bool {
        self.machine.host || self.policy != Policy::Auto || self.forced.is_ring()
    }

    fn unforced_source(&self, request: &Request) -> Source<'_> {
        let Request { ranks, bytes, element_bytes, floats } = *request;
        let lanes = match self.policy {
            Policy::Harness => harness::auto_lane_count(bytes),
            Policy::Yali => yali::lane_count(bytes, element_bytes),
            Policy::Auto => {
                let row = self.table.find(ranks, self.windows, bytes);
                let row = row.filter(|(_, row)| match row.algorithm {
                    Algorithm::Ring => true,
                    algorithm => !self.is_ring_only() && (floats || !algorithm.needs_floats()),
                });
                if let Some((place, row)) = row {
                    return Source::Row(place, row);
                }
                if self.machine.host {
                    return Source::Host;
                }
                return match family::choose(ranks, bytes, floats, self.windows) {
                    Algorithm::Ring => Source::Gpu,
                    _ if self.is_ring_only() => Source::Gpu,
                    algorithm => Source::Family(algorithm),
                };
            }
        };
        let slot_bytes = harness::clamp_slot_bytes(harness::auto_slot_bytes(bytes).into(), bytes);
        Source::Policy { lanes, piece_bytes: slot_bytes.next_multiple_of(VECTOR_BYTES as u32) }
    }

    fn why(&self, source: &Source<'_>, plan: &Plan, pool: &Pool, floats: bool) -> Why {
        let machine = &self.machine;
        match *source {
            Source::Row(place, row) => Why::Row { place, row: *row },
            Source::Family(Algorithm::Neighbour) => {
                Why::Neighbour { lanes_max: pool.neighbours.lanes, in_flight_bytes: plan.in_flight_bytes() }
            }
            Source::Family(algorithm) => {
                let most = family::bytes_max(algorithm, plan.ranks, floats);
                Why::Family { machine: machine.name.clone(), algorithm, ranks: plan.ranks, most }
            }
            Source::Gpu => Why::Gpu {
                machine: machine.name.clone(),
                lanes_max: gpu::lanes_max(plan.ranks),
                in_flight_bytes: plan.in_flight_bytes(),
                in_flight_bytes_least: machine.in_flight_bytes_least(),
                link_gbps: machine.link_gbps,
                round_trip_us: machine.round_trip_us,
            },
            Source::Host => Why::Host { machine: machine.name.clone() },
            Source::Policy { lanes, piece_bytes } => Why::Policy {
                policy: self.policy,
                lanes_wanted: lanes,
                piece_bytes_wanted: piece_bytes,
                lanes_max: pool.lanes,
                piece_bytes_max: pool.piece_bytes,
            },
        }
    }

    /// Blocks of a launch at most.
    fn blocks_max(&self) -> u32 {
        self.machine.blocks_max.min(self.forced.blocks_max.unwrap_or(u32::MAX))
    }

    fn inbox(&self, ranks: u32) -> Inbox {
        if self.is_ring_only() { Inbox::NONE } else { family::inbox(ranks) }
    }

    /// Lanes, slots and payload bytes of a slot that the rule would take if memory were free, without neighbours.
    fn rule(&self, ranks: u32) -> Pool {
        let neighbours = Neighbours::NONE;
        match self.policy {
            Policy::Harness | Policy::Yali => Pool {
                lanes: harness::LANES_MAX,
                slots: harness::SLOTS,
                piece_bytes: harness::SLOT_BYTES_MAX,
                inbox: Inbox::NONE,
                neighbours,
            },
            Policy::Auto if self.machine.host => {
                let (lanes, piece_bytes) = (host::LANES_MAX, host::PIECE_BYTES_MAX);
                Pool { lanes, slots: host::SLOTS, piece_bytes, inbox: Inbox::NONE, neighbours }
            }
            Policy::Auto => Pool {
                lanes: gpu::lanes_max(ranks),
                slots: gpu::SLOTS,
                piece_bytes: gpu::PIECE_BYTES_MAX,
                inbox: self.inbox(ranks),
                neighbours,
            },
        }
    }

    /// Lanes and workers of the ring that are forced: not those of another algorithm.
    fn ring_shape(&self) -> (Option<u32>, Option<u32>) {
        if self.forced.is_ring() { (self.forced.lanes, self.forced.workers()) } else { (None, None) }
    }

    fn pool_of_rule(&self, ranks: u32) -> Pool {
        let Pool { lanes, slots, piece_bytes, inbox, neighbours } = self.rule(ranks);
        let forced = self.of_ring();
        let slots = forced.slots.unwrap_or(slots);
        let (forced_lanes, workers) = self.ring_shape();
        let workers = workers.unwrap_or(1);
        let lane_counts = match forced_lanes {
            Some(lanes) => vec![lanes],
            None => halves(lanes.max(workers), workers),
        };
        let piece_sizes = match forced.piece_bytes {
            Some(piece_bytes) => vec![piece_bytes],
            None => steps(piece_bytes, PIECE_BYTES_STEP, PIECE_BYTES_LEAST),
        };
        let mut least = Pool { lanes, slots, piece_bytes, inbox, neighbours };
        for &lanes in &lane_counts {
            for &piece_bytes in &piece_sizes {
                least = Pool { lanes, slots, piece_bytes, inbox, neighbours };
                if least.window_bytes(ranks) <= RING_BYTES_MAX {
                    return least;
                }
            }
        }
        // The forced values alone ask for more than the budget: they get the least beside them.
        least
    }

    fn pool_of_table(&self, ranks: u32) -> Result<Option<Pool>, PlanError> {
        if self.policy != Policy::Auto {
            return Ok(None);
        }
        let mut most: Option<Pool> = None;
        let Pool { slots, inbox, neighbours, .. } = self.rule(ranks);
        let slots = self.of_ring().slots.unwrap_or(slots);
        for (place, row) in self.table.of_ranks(ranks, self.windows) {
            Bound::number("blocks", row.blocks.into(), 1, self.machine.blocks_max.into())
                .check()
                .map_err(|bound| PlanError::Row { row: place, bound })?;
            if row.algorithm != Algorithm::Ring {
                continue;
            }
            let (lanes, piece_bytes) = most.map_or((0, 0), |most| (most.lanes, most.piece_bytes));
            let (lanes, piece_bytes) = (lanes.max(row.lanes), piece_bytes.max(row.piece_bytes));
            most = Some(Pool { lanes, slots, piece_bytes, inbox, neighbours });
        }
        let (lanes, workers) = self.ring_shape();
        Ok(most.map(|most| Pool {
            lanes: lanes.unwrap_or(most.lanes.max(workers.unwrap_or(1))),
            piece_bytes: self.of_ring().piece_bytes.unwrap_or(most.piece_bytes),
            ..most
        }))
    }
}

/// Workers for `lanes` lanes where at most `workers_max` can be resident: the fewest that give no worker
/// more lanes than it must have.
fn workers(lanes: u32, workers_max: u32) -> u32 {
    lanes.div_ceil(lanes.div_ceil(workers_max))
}

/// `most`, half of it, a quarter, ..., down to but not below `least`; at least `most` itself.
fn halves(most: u32, least: u32) -> Vec<u32> {
    std::iter::successors(Some(most), |&value| Some(value / 2).filter(|&half| half >= least.max(1))).collect()
}

/// `most`, then the multiples of `step` below it, down to but not below `least`.
fn steps(most: u32, step: u32, least: u32) -> Vec<u32> {
    let below = (1..most.div_ceil(step)).rev().map(|count| count * step).filter(|&value| value >= least);
    [most].into_iter().chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_down_by_the_least() {
        assert_eq!(steps(10, 2, 4), [10, 8, 6, 4]);
        assert_eq!(steps(9, 4, 4), [9, 8, 4]);
        assert_eq!(steps(4, 4, 4), [4]);
        assert_eq!(steps(3, 4, 4), [3]);
    }

    #[test]
    fn halves_end_at_the_least() {
        assert_eq!(halves(32, 1), [32, 16, 8, 4, 2, 1]);
        assert_eq!(halves(8, 3), [8, 4]);
        assert_eq!(halves(40, 40), [40]);
        assert_eq!(halves(1, 5), [1]);
    }

    #[test]
    fn workers_share_lanes_with_as_few_blocks_as_are_useful() {
        for (lanes, workers_max, expected) in
            [(1, 44, 1), (32, 44, 32), (44, 44, 44), (45, 44, 23), (128, 44, 43), (128, 1, 1), (5, 2, 2)]
        {
            assert_eq!(workers(lanes, workers_max), expected, "{lanes} lanes, at most {workers_max}");
        }
    }
}
