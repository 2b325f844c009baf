//! `myelon explain`: what would be launched, why, and what else was possible.

mod args;
mod report;

use myelon_collectives::{Backend, Communicator, DataType, Error, Settings, TuningFile};
use myelon_lanes::{
    Algorithm, Choice, Forced, Inbox, Machine, Plan, PlanError, Policy, Pool, Request, Tuning, format_bytes,
};
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
    let (min, max) = args.sizes.byte_range(largest(!subject.machine().host));
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
    /// Of a machine, with the policy, the table and what is forced.
    tuning: Tuning,
    /// Why this machine.
    because: String,
    /// Which tuning table is in use, or why none.
    table: String,
    ranks: u32,
    policy: Policy,
    forced: Forced,
    /// A rank of this machine, which is asked instead of the tuning.
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
    /// Another algorithm than the decision's, with automatic numbers.
    is_other_algorithm: bool,
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
        let (windows, any_order) =
            (settings.windows.unwrap_or_default(), settings.any_order.unwrap_or_default());
        if args.machine == MachineKind::H200 {
            let ranks = settings.ranks.unwrap_or(H200_RANKS) as u32;
            if let Some(TuningFile::At(path)) = &args.plan.tuning {
                return Err(Failure::Usage(format!(
                    "the tuning file {} is for the machine it was measured on: it needs --machine here or host",
                    path.display()
                )));
            }
            let tuning = Tuning::new(Machine::h200()).policy(policy).forced(forced).windows(windows);
            let tuning = tuning.any_order(any_order);
            let because = "this machine was asked for".into();
            let table = "none: it is another machine".into();
            return Ok(Self { tuning, because, table, ranks, policy, forced, rank: None });
        }
        if args.machine == MachineKind::Host {
            settings.backend = Some(Backend::Host);
        }
        let rank = Communicator::builder().settings(settings).build()?.swap_remove(0);
        let because = rank.backend_reason().to_string();
        Ok(Self {
            tuning: rank.tuning().clone(),
            because,
            table: rank.table_reason().to_string(),
            ranks: rank.ranks() as u32,
            policy,
            forced,
            rank: Some(rank),
        })
    }

    fn machine(&self) -> &Machine {
        self.tuning.machine()
    }

    fn explain(&self, dtype: DataType, count: u64, runners_up: usize) -> Result<Explained, Error> {
        let element_bytes = dtype.bytes() as u32;
        let request = Request {
            ranks: self.ranks,
            bytes: count * u64::from(element_bytes),
            element_bytes,
            floats: dtype.is_float(),
        };
        let choice = match &self.rank {
            Some(rank) => rank.explain(dtype, count)?,
            None => self.tuning.plan(&request)?,
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

    /// Adds the plans of the other policies and algorithms, and the decision's neighbours in its own rings.
    fn others(&self, request: &Request, explained: &mut Explained) {
        let Plan { algorithm: own, lanes, piece_bytes, slots, .. } = explained.choice.plan;
        let mut add = |which: String, plan: Result<Plan, String>| match plan {
            Err(why) => explained.refused.push(Refused { which, why }),
            Ok(plan) => match explained.runners_up.iter_mut().find(|other| other.plan == plan) {
                Some(same) => {
                    same.which += &format!(", {which}");
                    same.is_other_algorithm |= which.starts_with(ALGORITHM);
                }
                None => {
                    let prediction = self.predict(&plan, request.bytes);
                    let is_other_algorithm = which.starts_with(ALGORITHM);
                    explained.runners_up.push(RunnerUp { which, is_other_algorithm, plan, prediction });
                }
            },
        };
        for policy in [Policy::Auto, Policy::Harness, Policy::Yali] {
            if policy != self.policy {
                let choice = self.tuning.clone().policy(policy).plan(request);
                add(format!("policy {policy}"), choice.map(|it| it.plan).map_err(why));
            }
        }
        // Neighbours give other bits than the rest, so they stand beside it only where that is allowed.
        let any_order = self.tuning.has_any_order();
        let others = Algorithm::ALL.into_iter().filter(|&other| other != own);
        for algorithm in others.filter(|&other| any_order || other != Algorithm::Neighbour) {
            let forced = Forced { algorithm: Some(algorithm), ..self.forced };
            let choice = self.tuning.clone().forced(forced).plan(request);
            add(format!("{ALGORITHM}{algorithm}"), choice.map(|it| it.plan).map_err(why));
        }
        let is_ring = own == Algorithm::Ring;
        for (which, lanes, piece_bytes) in [
            ("half the lanes", lanes / 2, piece_bytes),
            ("twice the lanes", lanes * 2, piece_bytes),
            ("half the slot", lanes, piece_bytes / 2 / 16 * 16),
            ("twice the slot", lanes, piece_bytes * 2),
        ] {
            // Only the ring has slots.
            if lanes > 0 && piece_bytes > 0 && (is_ring || which.ends_with("lanes")) {
                let (lanes, algorithm) = (Some(lanes), Some(own));
                let forced = Forced { lanes, ..self.forced };
                let forced = match is_ring {
                    true => Forced { piece_bytes: Some(piece_bytes), slots: Some(slots), ..forced },
                    false => Forced { algorithm, blocks: None, ..forced },
                };
                add(which.into(), self.neighbour(request, forced));
            }
        }
        // The model of time knows the ring alone, so other algorithms have no place in its order.
        let time = |other: &RunnerUp| other.prediction.as_ref().map_or(f64::INFINITY, |it| it.time_us);
        let key = |other: &RunnerUp| (!other.is_other_algorithm, time(other));
        explained.runners_up.sort_by(|a, b| key(a).0.cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1)));
    }

    /// The plan of `forced`, as far as the rings of the decision have room for it.
    fn neighbour(&self, request: &Request, forced: Forced) -> Result<Plan, String> {
        let pool = self.tuning.pool(self.ranks).map_err(why)?;
        let plan = self.tuning.clone().forced(forced).plan(request).map_err(why)?.plan;
        let rings = Pool { inbox: Inbox::NONE, ..pool };
        if pool.fits(&plan) { Ok(plan) } else { Err(format!("the rings have room for {rings}")) }
    }

    /// What the model says, where there is one and the call is not too long for it.
    fn predict(&self, plan: &Plan, bytes: u64) -> Option<Prediction> {
        let rounds = plan.geometry(bytes).ok()?.rounds(0);
        let all = rounds.saturating_mul((plan.lanes * plan.ranks).into());
        if self.machine().host || all > ROUNDS_MAX {
            return None;
        }
        LinkModel::h200().predict(plan, bytes).ok()
    }
}

/// How the names of other algorithms begin.
const ALGORITHM: &str = "algorithm ";

/// Why a plan cannot be had; without the name of an algorithm, which stands beside it.
fn why(error: PlanError) -> String {
    match error {
        PlanError::AlgorithmHere { needed, .. } => format!("cannot run here, for it needs {needed}"),
        PlanError::AlgorithmBytes { ranks, most, .. } => {
            format!("carries at most {} between {ranks} ranks", format_bytes(most))
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h200(policy: Policy, forced: Forced) -> Subject {
        let tuning = Tuning::new(Machine::h200()).policy(policy).forced(forced).windows(true);
        Subject { tuning, because: String::new(), table: String::new(), ranks: 4, policy, forced, rank: None }
    }

    fn which(explained: &Explained) -> String {
        let runners_up = explained.runners_up.iter().map(|other| other.which.as_str());
        runners_up
            .chain(explained.refused.iter().map(|other| other.which.as_str()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn others_are_all_policies_and_algorithms_but_the_own_and_four_neighbours() {
        for (policy, absent) in [(Policy::Auto, "auto"), (Policy::Harness, "harness"), (Policy::Yali, "yali")]
        {
            let explained = h200(policy, Forced::default()).explain(DataType::F32, 1 << 28, 9).unwrap();
            assert_eq!(explained.choice.plan.algorithm, Algorithm::Ring);
            let which = which(&explained);
            assert!(!which.contains(absent) && !which.contains("ring"), "{which}");
            for word in ["policy", "half the lanes", "twice the lanes", "half the slot", "twice the slot"] {
                assert!(which.contains(word), "no `{word}` in {which}");
            }
            assert_eq!(which.split(", ").count(), 11, "{which}");
        }
    }

    /// Other algorithms come first, each forced; those that cannot carry the payload are refused with the reason.
    #[test]
    fn other_algorithms_are_runners_up_or_refused() {
        let subject = h200(Policy::Auto, Forced::default());
        let flagged = vec![Algorithm::OneShot, Algorithm::TwoShot];
        let of_packets = Algorithm::ALL[..4].to_vec();
        for (count, own, refused) in [
            (1 << 8, Algorithm::OneShot, vec![]),
            (1 << 15, Algorithm::OneShotLamport, vec![]),
            (1 << 17, Algorithm::TwoShotLamport, flagged),
            (1 << 20, Algorithm::Direct, of_packets.clone()),
            (1 << 28, Algorithm::Ring, of_packets),
        ] {
            let explained = subject.explain(DataType::F32, count, 9).unwrap();
            assert_eq!(explained.choice.plan.algorithm, own);
            let others = explained.runners_up.iter().take_while(|other| other.is_other_algorithm);
            let others: Vec<Algorithm> = others.map(|other| other.plan.algorithm).collect();
            let allowed = Algorithm::ALL.into_iter().filter(|&algorithm| algorithm != Algorithm::Neighbour);
            for algorithm in allowed.filter(|&algorithm| algorithm != own) {
                let name = format!("algorithm {algorithm}");
                let why = explained.refused.iter().find(|it| it.which == name).map(|it| it.why.as_str());
                assert_eq!(why.is_some(), refused.contains(&algorithm), "{name} at {count}: {why:?}");
                assert!(why.is_none_or(|why| why.contains("carries at most")), "{why:?}");
                assert_ne!(others.contains(&algorithm), refused.contains(&algorithm), "{name} at {count}");
            }
            let lanes = explained.runners_up.iter().find(|other| other.which.contains("half the lanes"));
            assert!(lanes.is_some_and(|it| it.plan.algorithm == own), "{own}");
            assert_eq!(which(&explained).contains("slot"), own == Algorithm::Ring);
        }
        let has_neighbour = |subject: &Subject| {
            let explained = subject.explain(DataType::F32, 1 << 28, 99).unwrap();
            explained.runners_up.iter().any(|other| other.which == "algorithm neighbour")
        };
        let mut allowed = h200(Policy::Auto, Forced::default());
        allowed.tuning = allowed.tuning.any_order(true);
        assert!(has_neighbour(&allowed) && !has_neighbour(&subject));
        let any = Subject { tuning: subject.tuning.clone().windows(false), ..subject };
        let explained = any.explain(DataType::F32, 8, 9).unwrap();
        let why = "cannot run here, for it needs buffers that are windows, which was not promised";
        assert!(explained.refused.iter().any(|it| it.which == "algorithm direct" && it.why == why));
        let explained = any.explain(DataType::I32, 1 << 15, 9).unwrap();
        assert_eq!(explained.choice.plan.algorithm, Algorithm::TwoShot);
        let why = "cannot run here, for it needs elements that are floats";
        assert!(explained.refused.iter().any(|it| it.which == "algorithm one-shot-lamport" && it.why == why));
    }

    #[test]
    fn the_fastest_come_first_and_neighbours_fit_the_rings() {
        let subject = h200(Policy::Auto, Forced::default());
        let pool = subject.tuning.pool(4).unwrap();
        for count in [0, 1000, 1 << 16, 1 << 22] {
            let explained = subject.explain(DataType::Bf16, count, 9).unwrap();
            let rest = explained.runners_up.iter().skip_while(|other| other.is_other_algorithm);
            let rest = rest.map(|other| other.prediction.as_ref().map_or(f64::INFINITY, |it| it.time_us));
            let times: Vec<f64> = rest.collect();
            assert!(times.is_sorted() && times.len() >= 3, "{count}: {times:?}");
            assert!(times[0].is_finite(), "{count}: {times:?}");
            for other in explained
                .runners_up
                .iter()
                .filter(|other| other.which.ends_with("lanes") || other.which.ends_with("slot"))
            {
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
        assert!(
            h200(Policy::Auto, Forced::default()).explain(DataType::U8, 8, 0).unwrap().prediction.is_none()
        );
        assert!(subject.explain(DataType::U8, 1 << 40, 1).unwrap().prediction.is_none());
        assert!(subject.explain(DataType::U8, 1 << 10, 1).unwrap().prediction.is_some());
        let host = Subject { tuning: Tuning::new(Machine::host(2)), ..h200(Policy::Auto, Forced::default()) };
        assert!(host.explain(DataType::F32, 8, 1).unwrap().prediction.is_none());
    }
}
