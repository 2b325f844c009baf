//! Which settings a sweep tries: all combinations of lists, by default around the automatic plan.

use myelon_lanes::{Algorithm, Forced, Plan};

use super::args::{Sweep, Value};

/// More settings than this are taken for a slip of the hand: each is a communicator with rings of its own.
pub const SETTINGS_MAX: usize = 2000;

/// The values that are combined; none stands for what the automatic plan takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    lanes: Vec<Option<u32>>,
    slot_bytes: Vec<Option<u32>>,
    slots: Vec<Option<u32>>,
    blocks: Blocks,
    threads: Vec<Option<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Blocks {
    /// So many.
    Number(Vec<Option<u32>>),
    /// Three for every so many of the lanes, of which the last may serve fewer.
    ByLanes(Vec<Option<u32>>),
}

impl Grid {
    /// What `args` list, and for what they do not list values around `automatic`, the plan of the largest size.
    pub fn new(args: &Sweep, automatic: &Plan, on_gpus: bool) -> Self {
        let Plan { lanes, piece_bytes, .. } = *automatic;
        if automatic.algorithm != Algorithm::Ring {
            let around_lanes = match args.smoke {
                true => vec![1, 2],
                false => shares(lanes, &[(1, 8), (1, 4), (1, 2), (1, 1), (2, 1)]),
            };
            return Self {
                lanes: listed(&args.lanes, around_lanes.into_iter().map(Some)),
                slot_bytes: vec![None],
                slots: vec![None],
                blocks: Blocks::Number(vec![None]),
                threads: listed(&args.threads, [None, Some(128), Some(256), Some(512)]),
            };
        }
        let (around_lanes, around_slot_bytes) = match (args.smoke, on_gpus) {
            (true, _) => (vec![1, 2], vec![4 << 10, 64 << 10]),
            (_, true) => (
                shares(lanes, &[(1, 8), (1, 4), (1, 2), (3, 4), (1, 1), (5, 4)]),
                shares(piece_bytes, &[(1, 4), (1, 2), (1, 1), (2, 1)]),
            ),
            // A host rank is one thread, which more lanes burden; but slots may be anything that fits a cache.
            _ => (
                shares(lanes, &[(1, 2), (1, 1), (2, 1), (4, 1)]),
                shares(piece_bytes, &[(1, 16), (1, 4), (1, 1), (4, 1)]),
            ),
        };
        let around_slot_bytes = around_slot_bytes.into_iter().map(|bytes| bytes.next_multiple_of(16));
        let blocks = match (&args.blocks[..], &args.lanes_per_worker[..], on_gpus) {
            ([], [], true) => {
                Blocks::ByLanes(if args.smoke { vec![Some(1)] } else { vec![Some(1), Some(2)] })
            }
            ([], [], false) => Blocks::Number(vec![None]),
            ([], by_lanes, _) => Blocks::ByLanes(listed(by_lanes, [])),
            (numbers, ..) => Blocks::Number(listed(numbers, [])),
        };
        Self {
            lanes: listed(&args.lanes, around_lanes.into_iter().map(Some)),
            slot_bytes: listed(&args.slot_bytes, around_slot_bytes.map(Some)),
            slots: listed(&args.slots, [None]),
            blocks,
            threads: listed(&args.threads, [None]),
        }
    }

    /// How many combinations there are at most.
    pub fn len(&self) -> usize {
        let (Blocks::Number(blocks) | Blocks::ByLanes(blocks)) = &self.blocks;
        let lens = [&self.lanes, &self.slot_bytes, &self.slots, blocks, &self.threads].map(Vec::len);
        lens.into_iter().fold(1, usize::saturating_mul)
    }

    /// Every combination once, lanes slowest, but for the one that forces nothing.
    ///
    /// `automatic_lanes` is what lanes are taken to be where blocks follow from lanes that are not forced.
    pub fn settings(&self, automatic_lanes: u32) -> Vec<Forced> {
        let mut settings: Vec<Forced> = Vec::new();
        for &lanes in &self.lanes {
            let blocks = match &self.blocks {
                Blocks::Number(numbers) => numbers.clone(),
                Blocks::ByLanes(by_lanes) => by_lanes
                    .iter()
                    .map(|each| each.map(|each| 3 * lanes.unwrap_or(automatic_lanes).div_ceil(each)))
                    .collect(),
            };
            for &piece_bytes in &self.slot_bytes {
                for &slots in &self.slots {
                    let both =
                        blocks.iter().flat_map(|&blocks| self.threads.iter().map(move |&it| (blocks, it)));
                    for (blocks, threads) in both {
                        let forced =
                            Forced { lanes, piece_bytes, slots, blocks, threads, ..Forced::default() };
                        if !forced.is_empty() && !settings.contains(&forced) {
                            settings.push(forced);
                        }
                    }
                }
            }
        }
        settings
    }
}

/// The numerators over the denominators of `whole`, at least 1.
fn shares(whole: u32, shares: &[(u32, u32)]) -> Vec<u32> {
    shares.iter().map(|&(over, under)| (whole.saturating_mul(over) / under).max(1)).collect()
}

/// What was listed, or the default, each value once.
fn listed(values: &[Value], default: impl IntoIterator<Item = Option<u32>>) -> Vec<Option<u32>> {
    let mut listed: Vec<Option<u32>> = values.iter().map(|value| value.0).collect();
    if listed.is_empty() {
        listed.extend(default);
    }
    let mut once = Vec::new();
    for value in listed {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use myelon_lanes::{Machine, Request, Tuning};

    use super::*;
    use crate::args::{Cli, Command};

    fn grid(flags: &[&str], machine: Machine, ranks: u32) -> (Grid, Plan) {
        let cli = Cli::try_parse_from(["myelon", "sweep"].iter().chain(flags)).unwrap();
        let Command::Sweep(args) = cli.command else { unreachable!("the line says sweep") };
        let on_gpus = !machine.host;
        let algorithm = Some(args.algo.unwrap_or(Algorithm::Ring));
        let bytes = if algorithm == Some(Algorithm::Ring) { 256 << 20 } else { 64 << 10 };
        let request = Request { ranks, bytes, element_bytes: 4, floats: true };
        let tuning = Tuning::new(machine).windows(true).forced(Forced { algorithm, ..Forced::default() });
        let plan = tuning.plan(&request).unwrap().plan;
        (Grid::new(&args, &plan, on_gpus), plan)
    }

    fn words(flags: &[&str], machine: Machine, ranks: u32) -> Vec<String> {
        let (grid, plan) = grid(flags, machine, ranks);
        grid.settings(plan.lanes).iter().map(ToString::to_string).collect()
    }

    /// The default always has the automatic plan's own numbers in its middle, and is of a size that is swept in
    /// minutes.
    #[test]
    fn the_default_lies_around_the_automatic_plan() {
        for machine in [Machine::h200(), Machine::host(2)] {
            for ranks in 2..=8 {
                let (grid, plan) = grid(&[], machine.clone(), ranks);
                let settings = grid.settings(plan.lanes);
                assert!((16..=48).contains(&settings.len()), "{ranks} ranks: {}", settings.len());
                assert!(settings.len() <= grid.len());
                let like = |forced: &&Forced| {
                    forced.lanes == Some(plan.lanes)
                        && forced.piece_bytes == Some(plan.piece_bytes)
                        && forced.blocks.is_none_or(|blocks| blocks == plan.blocks)
                };
                assert_eq!(settings.iter().filter(like).count(), 1, "{ranks} ranks, {plan}");
                let all = |value: fn(&Forced) -> Option<u32>| settings.iter().filter_map(value);
                assert!(
                    all(|f| f.lanes).min() < Some(plan.lanes) && all(|f| f.lanes).max() > Some(plan.lanes)
                );
                assert!(all(|f| f.piece_bytes).all(|bytes| bytes.is_multiple_of(16)));
            }
        }
    }

    #[test]
    fn lists_are_combined_and_auto_forces_nothing() {
        let host = Machine::host(2);
        let flags = ["--lanes", "1,2,1", "--slot-bytes", "8K", "--slots", "2,auto"];
        let all = ["lanes=1 slot=8KiB slots=2", "lanes=1 slot=8KiB", "lanes=2 slot=8KiB slots=2"];
        assert_eq!(words(&flags, host.clone(), 2)[..3], all);
        assert_eq!(words(&flags, host.clone(), 2).len(), 4);
        let flags = ["--lanes", "auto", "--slot-bytes", "auto", "--slots", "auto,8"];
        assert_eq!(words(&flags, host, 2), ["slots=8"]);
    }

    #[test]
    fn other_algorithms_have_lanes_and_threads_alone() {
        let words = |flags: &[&str]| words(flags, Machine::h200(), 4);
        let flags = ["--algo", "one-shot", "--lanes", "2,auto", "--threads", "96,auto"];
        assert_eq!(words(&flags), ["lanes=2 threads=96", "lanes=2", "threads=96"]);
        for algorithm in ["one-shot", "two-shot", "direct"] {
            let all = words(&["--algo", algorithm]);
            assert!((8..=20).contains(&all.len()), "{all:?}");
            assert!(all.iter().all(|words| !words.contains("slot") && !words.contains("blocks")), "{all:?}");
        }
        let ring =
            words(&["--lanes", "3", "--slot-bytes", "auto", "--blocks", "auto", "--threads", "256,512"]);
        assert_eq!(ring, ["lanes=3 threads=256", "lanes=3 threads=512"]);
    }

    #[test]
    fn blocks_are_numbers_or_follow_from_the_lanes() {
        let fixed = ["--lanes", "3,auto", "--slot-bytes", "auto"];
        let words = |flags: &[&str]| words(&[&fixed[..], flags].concat(), Machine::h200(), 4);
        assert_eq!(words(&["--blocks", "6"]), ["lanes=3 blocks=6", "blocks=6"]);
        let by_lanes = ["lanes=3 blocks=9", "lanes=3 blocks=6", "blocks=84", "blocks=42"];
        assert_eq!(words(&["--lanes-per-worker", "1,2"]), by_lanes);
        assert_eq!(words(&[]), by_lanes);
        assert_eq!(words(&["--blocks", "auto"]), ["lanes=3"]);
    }
}
