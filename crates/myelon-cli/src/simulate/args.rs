//! The arguments of `myelon simulate`, with their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use myelon_collectives::DataType;
use myelon_lanes::Algorithm;
use myelon_sim::simulation::{Limits, Mutant, TYPES};

use super::numbers::{List, Numbers, Seeds, capacities, duration, inbox_packets, numbers, seeds, slot_bytes};
use crate::args::data_types;

/// Runs the kernels' own source under a seeded scheduler and a weak memory, and looks for a seed that breaks it
///
/// Needs no GPU. Each seed gives a case (a communicator, the calls of its ranks, and mostly nothing that goes
/// wrong) and one run of it, the same on every machine.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = HELP)]
pub struct Simulate {
    /// Seeds to run; the last is left out
    #[arg(long, default_value = "0..2000", value_parser = seeds, value_name = "A..B", help_heading = "Seeds")]
    pub seeds: Seeds,
    /// Go on from the first seed for so long, such as 30s, 10m or 2h, and not only to the last
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = "Seeds")]
    pub until: Option<Duration>,
    /// Threads that run seeds [default: one a core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N", help_heading = "Seeds")]
    pub threads: Option<u16>,

    /// What calls are made of: one-shot two-shot one-shot-lamport two-shot-lamport direct ring neighbour, with commas
    /// between them, or all; the lamports carry floats only
    #[arg(long, default_value = "all", value_parser = algorithms, value_name = "NAMES", help_heading = "Cases")]
    pub algo: Algorithms,
    /// Ranks, 2 to 8
    #[arg(long, default_value_t = Numbers(plain().ranks), value_parser = numbers(2, 8), value_name = "N|A..B", help_heading = "Cases")]
    pub ranks: Numbers,
    /// Lanes of a window, and of its inbox
    #[arg(long, default_value_t = Numbers(plain().lanes), value_parser = numbers(1, 8), value_name = "N|A..B", help_heading = "Cases")]
    pub lanes: Numbers,
    /// Slots of a ring, powers of two
    #[arg(long, default_value_t = List(plain().capacities), value_parser = capacities, value_name = "LIST", help_heading = "Cases")]
    pub capacity: List,
    /// Payload bytes of a slot, multiples of 16
    #[arg(long, default_value_t = List(plain().piece_bytes), value_parser = slot_bytes, value_name = "LIST", help_heading = "Cases")]
    pub slot_bytes: List,
    /// Packets of payload that an inbox has room for, even numbers; there is room for as much in cells
    #[arg(long, default_value_t = List(plain().inbox_packets), value_parser = inbox_packets, value_name = "LIST", help_heading = "Cases")]
    pub inbox: List,
    /// Slots after which credit is returned, at most the capacity
    #[arg(long, default_value_t = Numbers(plain().credit_batches), value_parser = numbers(1, 64), value_name = "N|A..B", help_heading = "Cases")]
    pub credit_batch: Numbers,
    /// Threads of a block that move data; a signal warp of 16 comes on top
    #[arg(long, default_value_t = movers(&plain()), value_parser = numbers(1, 64), value_name = "N|A..B", help_heading = "Cases")]
    pub movers: Numbers,
    /// Calls that follow one another
    #[arg(long, default_value_t = Numbers(plain().calls), value_parser = numbers(1, 16), value_name = "N|A..B", help_heading = "Cases")]
    pub calls: Numbers,
    /// Size of a call: what one slot for each owner carries, so many times, and a few bytes more or less; at most what
    /// the inbox has room for
    #[arg(long, default_value_t = Numbers(plain().chunks), value_parser = numbers(0, 256), value_name = "N|A..B", help_heading = "Cases")]
    pub chunks: Numbers,
    /// Element types: f16 bf16 f32 f64 i8 u8 i32 u32 i64 u64, with commas between them, or all
    #[arg(short = 'd', long, default_value = "all", value_parser = types, value_name = "TYPES", help_heading = "Cases")]
    pub datatype: Types,
    /// Nothing goes wrong: no rank is missing, stops, is slow or disagrees, no word is overwritten
    #[arg(long, help_heading = "Cases")]
    pub no_mishaps: bool,
    /// Rings begin at sequence 0, and calls by packets at epoch 0 [default: there, near a wrap, or anywhere]
    #[arg(long, help_heading = "Cases")]
    pub from_zero: bool,

    /// Weaken the protocol in one place; some seed must find it
    #[arg(long, value_parser = mutant, value_name = "NAME", help_heading = "Weaknesses")]
    pub mutant: Option<Mutant>,
    /// Show the names for --mutant, and what each weakens
    #[arg(long, help_heading = "Weaknesses")]
    pub list_mutants: bool,

    /// Last steps that a failure shows
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=100_000), value_name = "STEPS", help_heading = "Output")]
    pub trace: u32,
    /// Draw who held which slot of the rings when: in the smallest case that fails, else in that of the first seed
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    pub timeline: Option<PathBuf>,
    /// Text for people, or one JSON object for programs
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
}

// Paragraphs are one line, which clap wraps.
const HELP: &str = "\
What is run: the kernels' own source, not a model of it, with ranks, blocks, threads and asynchronous \
copies under a scheduler that the seed drives. A load may return an older value where the memory model of \
PTX lets it, and time is simulated. Not all that PTX allows is shown: what is left out stands in \
docs/protocols/memory-model.md.

What is looked at, in every step: races, credit, laps, ownership, order of words, turns of packets and cells, what is in a cell, epochs, \
whose buffers are touched when, silence of who gave up, barriers, progress. At the end: every rank's result bit by bit against a reference, inputs unchanged, \
records that name who was at fault, slots and cursors at rest.

A failure prints the rule, the seed and a command that brings it back. The case is then made smaller as \
long as it fails; the smallest, its last steps and its timeline are what is shown. It may have another \
seed and break another rule than the case that was found.

Ranges: 3 is one number, 2..5 is 2, 3 and 4 as in Rust, 2..=5 is up to 5. Every flag under 'Cases' \
changes which case a seed gives, so the command that replays a failure names those that were used.

Examples:
  2000 seeds of small systems
    myelon simulate
  Four ranks, other seeds
    myelon simulate --ranks 4 --seeds 2000..9000
  Calls by packets only, more of them in a row
    myelon simulate --algo one-shot,two-shot --calls 3..=6
  Calls of floats by cells only, with small inboxes
    myelon simulate --algo one-shot-lamport,two-shot-lamport -d f16,bf16,f32,f64 --inbox 2,8
  Look for ten minutes among all numbers of ranks
    myelon simulate --ranks 2..=8 --until 10m
  What a missing fence does, with a picture
    myelon simulate --mutant ring/publish.fence --timeline slots.svg
  For programs
    myelon simulate --format json | jq .seeds_a_minute

Exit code: 0 nothing was found; 1 a seed broke a rule, or the run failed; 2 bad usage or a bad setting.";

/// What cases may be where no flag says otherwise: the simulator's default.
pub fn plain() -> Limits {
    Limits::default()
}

fn movers(limits: &Limits) -> Numbers {
    Numbers(*limits.movers.start() as usize..=*limits.movers.end() as usize)
}

/// Bound of [`Simulate::check_size`]. A round takes about 110 steps for each two ranks, a few times that with
/// many movers; the simulator ends at 50 million.
const SIZE_MAX: usize = 100_000;

/// Element types by name, in the order of [`TYPES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types(pub Vec<&'static str>);

impl std::fmt::Display for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.len() == TYPES.len() { f.write_str("all") } else { f.write_str(&self.0.join(",")) }
    }
}

/// How results are written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// One object
    Json,
}

/// Algorithms by name, in the order of [`Algorithm::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(pub Vec<Algorithm>);

impl std::fmt::Display for Algorithms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|algorithm| algorithm.name()).collect();
        if self.0.len() == Algorithm::ALL.len() { f.write_str("all") } else { f.write_str(&names.join(",")) }
    }
}

impl Simulate {
    /// What cases may be.
    pub fn limits(&self) -> Limits {
        Limits {
            algorithms: self.algo.0.clone(),
            ranks: self.ranks.0.clone(),
            lanes: self.lanes.0.clone(),
            capacities: self.capacity.0.clone(),
            piece_bytes: self.slot_bytes.0.clone(),
            inbox_packets: self.inbox.0.clone(),
            credit_batches: self.credit_batch.0.clone(),
            movers: *self.movers.0.start() as u32..=*self.movers.0.end() as u32,
            calls: self.calls.0.clone(),
            chunks: self.chunks.0.clone(),
            types: self.datatype.0.clone(),
            mishaps: !self.no_mishaps,
            any_first: !self.from_zero,
        }
    }

    /// Refuses types of which no algorithm carries any.
    pub fn check_types(&self) -> Result<(), String> {
        let is_float = |name: &&str| TYPES.iter().any(|known| known.0 == *name && !known.2);
        if self.datatype.0.iter().any(is_float)
            || !self.algo.0.iter().all(|algorithm| algorithm.needs_floats())
        {
            return Ok(());
        }
        Err(format!("--algo {} carries floats only, and --datatype {} has none", self.algo, self.datatype))
    }

    /// Refuses cases that could take more steps than the simulator lets pass before it says that nobody ends.
    pub fn check_size(&self) -> Result<(), String> {
        let slot_bytes = self.slot_bytes.0.iter().max().copied().unwrap_or(0);
        let rounds = self.calls.0.end() * self.chunks.0.end() * slot_bytes / 16;
        let size = rounds * self.ranks.0.end().pow(2);
        match size <= SIZE_MAX {
            true => Ok(()),
            false => Err(format!(
                "cases may be too large: calls * chunks * slot bytes / 16 * ranks * ranks is up to {size}, and \
                 may be {SIZE_MAX}"
            )),
        }
    }

    /// The command that runs the case of `seed` again.
    pub fn replay(&self, seed: u64) -> String {
        let mut line = "myelon simulate".to_string();
        for (flag, plain) in flags(&self.limits()).into_iter().zip(flags(&plain())) {
            if flag != plain {
                line += &format!(" {flag}");
            }
        }
        for (is_set, flag) in [(self.no_mishaps, "--no-mishaps"), (self.from_zero, "--from-zero")] {
            if is_set {
                line += &format!(" {flag}");
            }
        }
        if let Some(mutant) = self.mutant {
            line += &format!(" --mutant {mutant}");
        }
        line + &format!(" --seeds {seed}..{}", seed + 1)
    }
}

/// The flags that give these limits, but for those without a value.
fn flags(limits: &Limits) -> [String; 11] {
    [
        format!("--algo {}", Algorithms(limits.algorithms.clone())),
        format!("--ranks {}", Numbers(limits.ranks.clone())),
        format!("--lanes {}", Numbers(limits.lanes.clone())),
        format!("--capacity {}", List(limits.capacities.clone())),
        format!("--slot-bytes {}", List(limits.piece_bytes.clone())),
        format!("--inbox {}", List(limits.inbox_packets.clone())),
        format!("--credit-batch {}", Numbers(limits.credit_batches.clone())),
        format!("--movers {}", movers(limits)),
        format!("--calls {}", Numbers(limits.calls.clone())),
        format!("--chunks {}", Numbers(limits.chunks.clone())),
        format!("--datatype {}", Types(limits.types.clone())),
    ]
}

fn algorithms(text: &str) -> Result<Algorithms, String> {
    if text == "all" {
        return Ok(Algorithms(Algorithm::ALL.to_vec()));
    }
    let chosen: Result<Vec<Algorithm>, _> = text.split(',').map(str::parse).collect();
    let chosen =
        chosen.map_err(|error: myelon_lanes::SettingError| format!("{error}, or all of them: all"))?;
    Ok(Algorithms(Algorithm::ALL.into_iter().filter(|algorithm| chosen.contains(algorithm)).collect()))
}

fn types(text: &str) -> Result<Types, String> {
    let mut chosen: Vec<DataType> = Vec::new();
    for word in text.split(',') {
        chosen.extend(data_types(word)?.0);
    }
    let is_chosen = |name: &&str| chosen.iter().any(|dtype| dtype.name() == *name);
    Ok(Types(TYPES.iter().map(|known| known.0).filter(is_chosen).collect()))
}

fn mutant(text: &str) -> Result<Mutant, String> {
    Mutant::find(text).ok_or_else(|| {
        let names: Vec<&str> = Mutant::all().iter().map(Mutant::name).collect();
        format!("known are {}; --list-mutants says what they weaken", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<Simulate, clap::Error> {
        let line = ["myelon", "simulate"].iter().chain(flags);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Simulate(args) => *args,
            _ => unreachable!("the line says simulate"),
        })
    }

    #[test]
    fn without_flags_cases_are_plain() {
        let args = parse(&[]).unwrap();
        assert_eq!(format!("{:?}", args.limits()), format!("{:?}", plain()));
        assert_eq!(args.replay(17), "myelon simulate --seeds 17..18");
        assert_eq!(args.seeds, Seeds(0..2000));
    }

    #[test]
    fn the_replay_gives_the_same_cases_and_weakness() {
        let lines: [&[&str]; 5] = [
            &["--ranks", "4"],
            &["--ranks", "3..6", "--lanes", "2", "--capacity", "4,1", "--slot-bytes", "64", "-d", "float,i8"],
            &[
                "--credit-batch",
                "1..=2",
                "--movers",
                "3",
                "--calls",
                "1",
                "--chunks",
                "0..=2",
                "--no-mishaps",
            ],
            &["--algo", "ring,one-shot", "--inbox", "4,64"],
            &["--from-zero", "--mutant", "ring/credit.gate", "--until", "10s", "--threads", "1"],
        ];
        for line in lines {
            let args = parse(line).unwrap();
            let replay = args.replay(5);
            let words: Vec<&str> = replay.split(' ').skip(2).collect();
            let again = parse(&words).unwrap();
            assert_eq!(format!("{:?}", again.limits()), format!("{:?}", args.limits()), "{replay}");
            assert_eq!((again.mutant, again.seeds), (args.mutant, Seeds(5..6)), "{replay}");
            assert_eq!(again.until, None);
        }
    }

    #[test]
    fn cases_that_would_not_end_are_refused() {
        assert_eq!(parse(&[]).unwrap().check_size(), Ok(()));
        assert_eq!(
            parse(&["--ranks", "2..=8", "--slot-bytes", "1K", "--calls", "2"]).unwrap().check_size(),
            Ok(())
        );
        let large = parse(&["--ranks", "8", "--slot-bytes", "16,4K", "--chunks", "0..=256"]).unwrap();
        assert!(large.check_size().unwrap_err().contains(&(3 * 256 * 256 * 64).to_string()));
    }

    #[test]
    fn integers_by_cells_alone_are_refused() {
        let check = |algo: &str, types: &str| parse(&["--algo", algo, "-d", types]).unwrap().check_types();
        let refused = check("one-shot-lamport,two-shot-lamport", "i32,u8").unwrap_err();
        assert_eq!(
            refused,
            "--algo one-shot-lamport,two-shot-lamport carries floats only, and --datatype u8,i32 has none"
        );
        assert_eq!(check("two-shot-lamport", "i32,f16"), Ok(()));
        assert_eq!(check("two-shot-lamport,ring", "i32"), Ok(()));
    }

    #[test]
    fn algorithms_are_a_list_of_names_or_all() {
        assert_eq!(algorithms("all").unwrap().to_string(), "all");
        assert_eq!(
            algorithms("ring,direct,ring").unwrap(),
            Algorithms(vec![Algorithm::Direct, Algorithm::Ring])
        );
        assert!(algorithms("ring,tree").unwrap_err().contains("one-shot, two-shot, one-shot-lamport,"));
        assert!(algorithms("").is_err());
    }

    #[test]
    fn types_are_a_list_of_names_or_all() {
        assert_eq!(types("all").unwrap().to_string(), "all");
        assert_eq!(types("u8,half,u8").unwrap(), Types(vec!["f16", "u8"]));
        assert!(types("f32,f33").unwrap_err().contains("f16, bf16, f32"));
        assert!(types("").is_err());
    }
}
