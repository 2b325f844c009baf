//! `myelon explain`: what would be launched, why, and what else was possible.

mod args;
mod report;

use myelon_collectives::{Backend, Communicator, DataType, Error, Settings};
use myelon_lanes::{Bound, Choice, Forced, Machine, Plan, PlanError, Policy, Request, Tuning};
use myelon_sim::timing::{LinkModel, Prediction};

pub use args::Explain;
use args::MachineKind;

use crate::all_reduce::largest;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::sizes::{counts, sizes};

/// Ranks where nobody says how many there are: those of a full node.
const H200_RANKS: usize = 8;
/// A call of more rounds, over all lanes and ranks, is not predicted: this many take seconds.
const ROUNDS_MAX: u64 = 2_000_000;

/// Runs the command.
///
/// # Errors
///
/// Sizes, settings or forced values that cannot be, and GPUs that were asked for and cannot be used.
pub fn run(args: &Explain) -> Result<(), Failure> {
    let subject = Subject::of(args)?;
    let (min, max) = args.sizes.byte_range(largest(!subject.machine.host));
    let sizes = sizes(min, max, args.sizes.step()).map_err(Failure::Usage)?;
    let counts = counts(&sizes, args.datatype.bytes());
    let mut progress = Progress::new(counts.len() as u64);
    let mut explained = Vec::new();
    for count in counts {
        progress.begin(format!("{} {count}", args.datatype));
        let one = subject.explain(args.datatype, count as u64, args.runners_up);
        explained.push(one.map_err(|error| Failure::Usage(error.to_string()))?);
        progress.step();
    }
    progress.finish();
    report::write(args, &subject, &explained)
}

/// What plans are made for.
struct Subject {
    machine: Machine,
    /// Why this machine.
    because: String,
    ranks: u32,
    policy: Policy,
    forced: Forced,
    windows: bool,
    /// A rank of this machine, which is asked instead of the machine's tuning.
    rank: Option<Communicator>,
}

/// One size, its plan, and the others.
struct Explained {
    count: u64,
    bytes: u64,
    choice: Choice,
    prediction: Option<Prediction>,
    /// Those that can be had, the fastest first.
    runners_up: Vec<RunnerUp>,
    refused: Vec<Refused>,
}

struct RunnerUp {
    which: String,
    plan: Plan,
    prediction: Option<Prediction>,
}

/// What cannot be had, and why.
struct Refused {
    which: String,
    why: String,
}

impl Subject {
    fn of(args: &Explain) -> Result<Self, Failure> {
        let mut settings = args.plan.over(Settings::from_env()?);
        settings.ranks = args.ranks.map(usize::from).or(settings.ranks);
        let (policy, forced) = (settings.policy.unwrap_or_default(), settings.forced);
        let windows = settings.windows.unwrap_or_default();
        if args.machine == MachineKind::H200 {
            let ranks = settings.ranks.unwrap_or(H200_RANKS) as u32;
            let because = "this machine was asked for".into();
            return Ok(Self {
                machine: Machine::h200(),
                because,
                ranks,
                policy,
                forced,
                windows,
                rank: None,
            });
        }
        if args.machine == MachineKind::Host {
            settings.backend = Some(Backend::Host);
        }
        let rank = Communicator::builder().settings(settings).build()?.swap_remove(0);
        let (machine, ranks) = (machine_of(&rank)?, rank.ranks() as u32);
        let because = rank.backend_reason().to_string();
        Ok(Self { machine, because, ranks, policy, forced, windows, rank: Some(rank) })
    }

    fn tuning(&self) -> Tuning {
        Tuning::new(self.machine.clone()).policy(self.policy).forced(self.forced).windows(self.windows)
    }

    fn explain(&self, dtype: DataType, count: u64, runners_up: usize) -> Result<Explained, Error> {
        let element_bytes = dtype.bytes() as u32;
        let request = Request { ranks: self.ranks, bytes: count * u64::from(element_bytes), element_bytes };
        let choice = match &self.rank {
            Some(rank) => rank.explain(dtype, count)?,
            None => self.tuning().plan(&request)?,
        };
        let bytes = request.bytes;
        let prediction = self.predict(&choice.plan, bytes);
        let mut explained =
            Explained { count, bytes, choice, prediction, runners_up: Vec::new(), refused: Vec::new() };
        if runners_up > 0 {
            self.others(&request, &mut explained);
            explained.runners_up.truncate(runners_up);
        }
        Ok(explained)
    }

    /// Adds the plans of the other policies, and the decision's neighbours in its own rings.
    fn others(&self, request: &Request, explained: &mut Explained) {
        let Plan { lanes, piece_bytes, slots, .. } = explained.choice.plan;
        let mut add = |which: String, plan: Result<Plan, String>| match plan {
            Err(why) => explained.refused.push(Refused { which, why }),
            Ok(plan) => match explained.runners_up.iter_mut().find(|other| other.plan == plan) {
                Some(same) => same.which += &format!(", {which}"),
                None => {
                    let prediction = self.predict(&plan, request.bytes);
                    explained.runners_up.push(RunnerUp { which, plan, prediction });
                }
            },
        };
        for policy in [Policy::Auto, Policy::Harness, Policy::Yali] {
            if policy != self.policy {
                let choice = self.tuning().policy(policy).plan(request);
                add(format!("policy {policy}"), choice.map(|it| it.plan).map_err(|error| error.to_string()));
            }
        }
        for (which, lanes, piece_bytes) in [
            ("half the lanes", lanes / 2, piece_bytes),
            ("twice the lanes", lanes * 2, piece_bytes),
            ("half the slot", lanes, piece_bytes / 2 / 16 * 16),
            ("twice the slot", lanes, piece_bytes * 2),
        ] {
            if lanes > 0 && piece_bytes > 0 {
                let (lanes, piece_bytes) = (Some(lanes), Some(piece_bytes));
                let forced = Forced { lanes, piece_bytes, slots: Some(slots), ..self.forced };
                add(which.into(), self.neighbour(request, forced));
            }
        }
        let time = |other: &RunnerUp| other.prediction.as_ref().map_or(0.0, |it| it.time_us);
        explained.runners_up.sort_by(|a, b| time(a).total_cmp(&time(b)));
    }

    /// The plan of `forced`, as far as the rings of the decision have room for it.
    fn neighbour(&self, request: &Request, forced: Forced) -> Result<Plan, String> {
        let text = |error: PlanError| error.to_string();
        let pool = self.tuning().pool(self.ranks).map_err(text)?;
        let plan = self.tuning().forced(forced).plan(request).map_err(text)?.plan;
        if pool.fits(&plan) { Ok(plan) } else { Err(format!("the rings have room for {pool}")) }
    }

    /// What the model says, where there is one and the call is not too long for it.
    fn predict(&self, plan: &Plan, bytes: u64) -> Option<Prediction> {
        let rounds = plan.geometry(bytes).ok()?.rounds(0);
        let all = rounds.saturating_mul((plan.lanes * plan.ranks).into());
        if self.machine.host || all > ROUNDS_MAX {
            return None;
        }
        LinkModel::h200().predict(plan, bytes).ok()
    }
}

/// The machine that the plans of `rank` are made for.
fn machine_of(rank: &Communicator) -> Result<Machine, Error> {
    if rank.backend() == Backend::Host {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(Machine::host(cores as u32));
    }
    let name = rank.device_name();
    let name = name.split_once(", ").map_or(name.as_str(), |(_, name)| name);
    // A launch of more blocks than a GPU can hold is refused before anything is allocated, and the refusal says
    // how many it can hold at least.
    let forced = Forced { blocks: Some(u32::MAX / 3 * 3), ..Forced::default() };
    let builder = Communicator::builder().backend(Backend::Cuda).ranks(rank.ranks()).forced(forced);
    let blocks_max = match builder.build() {
        Err(Error::Plan(PlanError::Value(Bound { name: "blocks", most, .. }))) => most as u32,
        Err(error) => return Err(error),
        Ok(_) => Machine::h200().blocks_max,
    };
    if name.contains("H200") {
        return Ok(Machine { blocks_max, ..Machine::h200() });
    }
    Ok(Machine::unknown_gpu(name, blocks_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h200(policy: Policy, forced: Forced) -> Subject {
        Subject {
            machine: Machine::h200(),
            because: String::new(),
            ranks: 4,
            policy,
            forced,
            windows: true,
            rank: None,
        }
    }

    fn which(explained: &Explained) -> String {
        let runners_up = explained.runners_up.iter().map(|other| other.which.as_str());
        runners_up
            .chain(explained.refused.iter().map(|other| other.which.as_str()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn others_are_all_policies_but_the_own_and_four_neighbours() {
        for (policy, absent) in [(Policy::Auto, "auto"), (Policy::Harness, "harness"), (Policy::Yali, "yali")]
        {
            let explained = h200(policy, Forced::default()).explain(DataType::F32, 1 << 20, 9).unwrap();
            let which = which(&explained);
            assert!(!which.contains(absent), "{which}");
            for word in ["policy", "half the lanes", "twice the lanes", "half the slot", "twice the slot"] {
                assert!(which.contains(word), "no `{word}` in {which}");
            }
            assert_eq!(which.split(", ").count(), 6, "{which}");
        }
    }

    #[test]
    fn the_fastest_come_first_and_neighbours_fit_the_rings() {
        let subject = h200(Policy::Auto, Forced::default());
        let pool = subject.tuning().pool(4).unwrap();
        for count in [0, 1000, 1 << 16, 1 << 22] {
            let explained = subject.explain(DataType::Bf16, count, 9).unwrap();
            let times: Vec<f64> =
                explained.runners_up.iter().map(|other| other.prediction.as_ref().unwrap().time_us).collect();
            assert!(times.is_sorted() && times.len() >= 4, "{count}: {times:?}");
            for other in explained.runners_up.iter().filter(|other| !other.which.contains("policy")) {
                assert!(pool.fits(&other.plan), "{count}: {}", other.plan);
            }
            let few = subject.explain(DataType::Bf16, count, 2).unwrap();
            assert_eq!(few.runners_up.len(), 2);
        }
        assert!(subject.explain(DataType::Bf16, 8, 0).unwrap().refused.is_empty());
    }

    #[test]
    fn a_plan_that_cannot_be_had_says_why() {
        let forced = Forced { blocks: Some(84), ..Forced::default() };
        let explained = h200(Policy::Auto, forced).explain(DataType::F32, 1 << 24, 3).unwrap();
        let why =
            |which: &str| explained.refused.iter().find(|other| other.which == which).unwrap().why.clone();
        assert_eq!(why("half the lanes"), "blocks is 84, needed a multiple of 3 from 3 to 42");
        assert_eq!(why("twice the slot"), "the rings have room for lanes=28 slot=24KiB slots=4");
    }

    #[test]
    fn calls_of_too_many_rounds_and_of_the_host_are_not_predicted() {
        let forced = Forced { piece_bytes: Some(16), ..Forced::default() };
        let subject = h200(Policy::Auto, forced);
        assert!(subject.explain(DataType::U8, 1 << 40, 1).unwrap().prediction.is_none());
        assert!(subject.explain(DataType::U8, 1 << 10, 1).unwrap().prediction.is_some());
        let host = Subject { machine: Machine::host(2), ..h200(Policy::Auto, Forced::default()) };
        assert!(host.explain(DataType::F32, 8, 1).unwrap().prediction.is_none());
    }
}
