//! The arguments of `myelon sweep`, with their help.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use myelon_collectives::{Backend, DataType, ReduceOp, TuningFile};
use myelon_lanes::{Algorithm, Policy};

use crate::args::{Choice, Format, backend, bytes, data_types, operations, seconds, slot_bytes, tuning_file};
use crate::sizes::Step;

/// Sweeps lanes, slots, blocks and threads of an algorithm, and says how far the automatic plan is from the best setting
///
/// Every setting is forced on a communicator of its own. For each size all settings take turns, and every
/// output is checked before its time counts.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Sweep {
    /// Whose settings: one-shot, two-shot, one-shot-lamport, two-shot-lamport, direct or ring, in the automatic plan too
    /// [default: ring]
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    pub algo: Option<Algorithm>,
    /// Lanes to try, such as 1,2,4,8 [default: around the automatic plan]
    #[arg(long, value_parser = count, value_delimiter = ',', value_name = "N,..", help_heading = "Settings")]
    pub lanes: Vec<Value>,
    /// Payloads of a slot to try, such as 8K,16K [default: around the automatic plan]
    #[arg(long, value_parser = slot, value_delimiter = ',', value_name = "BYTES,..", help_heading = "Settings")]
    pub slot_bytes: Vec<Value>,
    /// Slots of a ring to try, powers of two [default: auto]
    #[arg(long, value_parser = count, value_delimiter = ',', value_name = "N,..", help_heading = "Settings")]
    pub slots: Vec<Value>,
    /// Blocks of a launch to try, multiples of 3; no difference on the host [default: see --lanes-per-worker]
    #[arg(long, value_parser = count, value_delimiter = ',', value_name = "N,..", help_heading = "Settings")]
    pub blocks: Vec<Value>,
    /// Blocks by the lanes that each of them serves [default: 1,2 on GPUs, auto on the host]
    #[arg(
        long,
        value_parser = lanes_per_worker,
        value_delimiter = ',',
        value_name = "N,..",
        conflicts_with = "blocks",
        help_heading = "Settings"
    )]
    pub lanes_per_worker: Vec<Value>,
    /// Threads of a block to try, multiples of 32 [default: auto; of other algorithms than the ring auto,128,256,512]
    #[arg(long, value_parser = count, value_delimiter = ',', value_name = "N,..", help_heading = "Settings")]
    pub threads: Vec<Value>,
    /// Whose plan is the automatic one: auto (what measures best), harness or yali (the ancestors' heuristics)
    #[arg(long, value_name = "auto|harness|yali", help_heading = "Settings")]
    pub policy: Option<Policy>,
    /// The automatic plan follows this tuning file, or none [default: the usual one, which 'myelon info' names]
    #[arg(long, value_parser = tuning_file, value_name = "FILE|none", help_heading = "Settings")]
    pub tuning: Option<TuningFile>,

    /// Smallest size of a rank's buffer in bytes; 1K, 4M, 1G are powers of two [default: 4K on the host, 64K on
    /// GPUs, 1K for one-shot and two-shot]
    #[arg(short = 'b', long, alias = "minbytes", value_parser = bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub min_bytes: Option<u64>,
    /// Largest size, included where the steps meet it [default: 16M on the host, 256M on GPUs, or what the algorithm
    /// carries]
    #[arg(short = 'e', long, alias = "maxbytes", value_parser = bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub max_bytes: Option<u64>,
    /// The next size is FACTOR times the last [default: 4]
    #[arg(short = 'f', long, alias = "stepfactor", value_name = "FACTOR", help_heading = "Sizes")]
    pub step_factor: Option<u64>,
    /// The next size is BYTES more than the last
    #[arg(
        short = 'i',
        long,
        alias = "stepbytes",
        value_parser = bytes,
        value_name = "BYTES",
        conflicts_with = "step_factor",
        help_heading = "Sizes"
    )]
    pub step_bytes: Option<u64>,

    /// Element type: f16 bf16 f32 f64 i8 u8 i32 u32 i64 u64
    #[arg(short = 'd', long, default_value = "f32", value_parser = data_type, value_name = "TYPE", help_heading = "What")]
    pub datatype: DataType,
    /// Reduction: sum prod min max avg; avg is for floats only
    #[arg(short = 'o', long, default_value = "sum", value_parser = operation, value_name = "OP", help_heading = "What")]
    pub op: ReduceOp,

    /// Turns that each setting takes for each size [default: 5]
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "N",
        conflicts_with = "time",
        help_heading = "How often"
    )]
    pub turns: Option<u32>,
    /// Takes turns until so much time is used over all sizes, but one turn at least
    #[arg(long, value_parser = seconds, value_name = "SECONDS", help_heading = "How often")]
    pub time: Option<Duration>,
    /// Where test values and the order of turns start; the same seed gives the same
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "How often")]
    pub seed: u64,
    /// A few settings, two sizes and one turn unless other flags say more: about a second, whose figures mean nothing
    #[arg(long, help_heading = "How often")]
    pub smoke: bool,

    /// Where the ranks live: auto (GPUs where they can be used, else the host), host (threads), cuda (GPUs)
    #[arg(long, value_parser = backend, value_name = "auto|host|cuda", help_heading = "Where")]
    pub backend: Option<Backend>,
    /// Number of ranks, 2 to 8 [default: 2 on the host, all GPUs]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=8), value_name = "N", help_heading = "Where")]
    pub ranks: Option<u8>,
    /// How long a rank waits for another before the sweep ends with an error
    #[arg(long, value_parser = seconds, value_name = "SECONDS", help_heading = "Where")]
    pub deadline: Option<Duration>,

    /// A table for people, or lines for programs
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
    /// Draw a heat map: sizes across, settings down
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    pub plot: Option<PathBuf>,
}

/// A number that is forced; none where it is left to the automatic plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub Option<u32>);

impl Sweep {
    /// The smallest and the largest size, and how sizes grow.
    ///
    /// A size that is given moves the other's default, so that `-b 1G` or `-e 4` alone is a range. `bytes_max` is what
    /// the algorithm carries.
    pub fn sizes(&self, on_gpus: bool, bytes_max: u64) -> (u64, u64, Step) {
        let (least, most, factor) = match (self.smoke, on_gpus) {
            (true, _) => (4 << 10, 256 << 10, 64),
            (_, true) => (64 << 10, 256 << 20, 4),
            _ => (4 << 10, 16 << 20, 4),
        };
        let is_small =
            self.algo.is_some_and(|algorithm| !matches!(algorithm, Algorithm::Direct | Algorithm::Ring));
        let (least, most) = (if is_small { 1 << 10 } else { least }, bytes_max.min(most));
        let min = self.min_bytes.unwrap_or(self.max_bytes.map_or(least, |max| max.min(least)));
        let max = self.max_bytes.unwrap_or(most.max(min));
        (min, max, self.step_bytes.map_or(Step::Factor(self.step_factor.unwrap_or(factor)), Step::Bytes))
    }
}

fn or_auto(text: &str, parse: impl Fn(&str) -> Result<u32, String>) -> Result<Value, String> {
    if text == "auto" { Ok(Value(None)) } else { parse(text).map(|value| Value(Some(value))) }
}

fn count(text: &str) -> Result<Value, String> {
    let parse = |text: &str| u32::from_str(text).map_err(|_| "needed a whole number or auto".to_string());
    or_auto(text, parse)
}

fn lanes_per_worker(text: &str) -> Result<Value, String> {
    match count(text)? {
        Value(Some(0)) => Err("a block serves 1 lane at least".into()),
        value => Ok(value),
    }
}

fn slot(text: &str) -> Result<Value, String> {
    or_auto(text, slot_bytes)
}

fn data_type(text: &str) -> Result<DataType, String> {
    one(data_types(text)?, "one type at a time")
}

fn operation(text: &str) -> Result<ReduceOp, String> {
    one(operations(text)?, "one reduction at a time")
}

fn one<T: Copy>(choice: Choice<T>, refusal: &str) -> Result<T, String> {
    if let [one] = choice.0[..] { Ok(one) } else { Err(refusal.into()) }
}

// Paragraphs are one line, which clap wraps; tables are narrow enough for 80 columns.
const HELP: &str = "\
Columns:
  size        payload of a rank in bytes, in whole elements
  automatic   microseconds of one call under the automatic plan, and its busbw:
              1e9 bytes a second that each link carries
  best        the same of the fastest setting; the automatic one is among them
  loss        automatic / best - 1 in per cent: what the heuristic costs
  again       the same from further turns of these two alone (see below)
  copy        1e9 bytes a second that one thread copies; on the host only
  settings    the best one, then the automatic plan

Settings are all combinations of the lists. In each list 'auto' stands for what the automatic plan takes at \
each size, so '--lanes auto --slots 2,4,8' sweeps slots alone. With --algo the automatic plan is the best \
that this algorithm has; other algorithms than the ring have a block for each lane and no slots, and 'direct' \
needs GPUs and buffers that all ranks reach, which the sweep's are. A setting that cannot be had, for memory or \
because its blocks could not all be resident or because it makes no sense, is listed with the reason and \
counted. More lanes than a worker has blocks for are served in turn: '--lanes-per-worker 1,2' forces \
3 * lanes and 3 * lanes / 2 blocks.

What is timed: as in 'all-reduce', out of place. A turn of a setting is some calls to warm up, then calls \
back to back for about 20 ms, 1000 at most. All settings have their turn before any has the next, in an order \
that is drawn each time, so that a machine that changes its speed does so for all of them. What counts is the \
median over the turns.

What is checked: the inputs are drawn anew for each round of turns, outputs are poisoned before each turn, \
and afterwards compared byte for byte with the reference on every rank. A setting with a wrong element has no \
time, and the command ends with 1.

How to read the loss: the fastest of many settings is partly the luckiest of them, so loss is too high \
rather than too low. For 'again' the automatic setting and the best are timed against each other once more, \
in as many turns: luck does not come twice. It may be below 0.

For programs: one line for each size and setting, and one for each that was refused; over_best is \
time_us / that of the best - 1.

Examples:
  What the heuristic loses on this machine
    myelon sweep
  Four GPUs, bf16, with a picture
    myelon sweep --backend cuda --ranks 4 -d bf16 --plot sweep.svg
  Slots and nothing else, at one size, for a minute
    myelon sweep --lanes auto --slot-bytes auto --slots 2,4,8,16 -b 64M --time 60
  Lanes and threads of one-shot, with what it carries
    myelon sweep --backend cuda --algo one-shot --lanes 1,4,16,64 --threads 96,160,288
  Lanes x slot bytes on host ranks, to a file
    myelon sweep --backend host --lanes 1,2,4 --slot-bytes 16K,64K --format csv
  What the harness's own heuristic loses
    myelon sweep --policy harness

Settings of the environment hold as for all-reduce, and a flag wins over its setting. One that forces a plan, \
such as MYELON_LANES, is refused here: there would be no automatic plan to compare with.

Exit code: 0 all is right; 1 wrong elements, or the run failed; 2 bad usage or a bad setting, or every setting \
was refused.";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<Sweep, clap::Error> {
        let line = ["myelon", "sweep"].iter().chain(flags);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Sweep(args) => *args,
            _ => unreachable!("the line says sweep"),
        })
    }

    fn refused(flags: &[&str]) -> String {
        parse(flags).map(|_| ()).expect_err("should be refused").to_string()
    }

    #[test]
    fn lists_are_read_with_their_units_and_auto() {
        let args =
            parse(&["--lanes", "1,2,auto", "--slot-bytes", "8K,48", "--slots", "4", "--blocks", "3,6"]);
        let args = args.unwrap();
        assert_eq!(args.lanes, [Some(1), Some(2), None].map(Value));
        assert_eq!(args.slot_bytes, [Some(8192), Some(48)].map(Value));
        assert_eq!((args.slots, args.blocks), (vec![Value(Some(4))], vec![Value(Some(3)), Value(Some(6))]));
        assert_eq!(parse(&["--lanes-per-worker", "1,2"]).unwrap().lanes_per_worker.len(), 2);
    }

    #[test]
    fn sizes_follow_the_backend_until_they_are_said() {
        let sizes = |flags: &[&str], on_gpus| parse(flags).unwrap().sizes(on_gpus, u64::MAX);
        let one_shot = parse(&["--algo", "one-shot"]).unwrap();
        assert_eq!(one_shot.sizes(true, 128 << 10), (1 << 10, 128 << 10, Step::Factor(4)));
        assert_eq!(sizes(&[], false), (4 << 10, 16 << 20, Step::Factor(4)));
        assert_eq!(sizes(&[], true), (64 << 10, 256 << 20, Step::Factor(4)));
        assert_eq!(sizes(&["--smoke"], true), (4 << 10, 256 << 10, Step::Factor(64)));
        assert_eq!(sizes(&["--smoke", "-e", "8K", "-f", "2"], false), (4 << 10, 8 << 10, Step::Factor(2)));
        assert_eq!(sizes(&["-b", "1G"], true), (1 << 30, 1 << 30, Step::Factor(4)));
        assert_eq!(sizes(&["-e", "8", "-i", "4"], true), (8, 8, Step::Bytes(4)));
        assert_eq!(sizes(&["-b", "9", "-e", "8"], true).0, 9);
    }

    #[test]
    fn bad_values_are_refused_with_what_is_known() {
        for (flags, word) in [
            (&["--lanes", "1,x"][..], "needed a whole number or auto"),
            (&["--lanes", "1,,2"], "needed a whole number or auto"),
            (&["--slot-bytes", "8KB"], "ambiguous"),
            (&["--slot-bytes", "4G"], "4 GiB"),
            (&["--lanes-per-worker", "0"], "1 lane at least"),
            (&["--algo", "tree"], "one-shot-lamport, two-shot-lamport, direct, ring, neighbour"),
            (&["--threads", "few"], "needed a whole number or auto"),
            (&["--blocks", "3", "--lanes-per-worker", "1"], "cannot be used with"),
            (&["--turns", "0"], "--turns"),
            (&["--turns", "2", "--time", "1"], "cannot be used with"),
            (&["--time", "0"], "--time"),
            (&["-d", "all"], "one type at a time"),
            (&["-o", "all"], "one reduction at a time"),
            (&["-o", "xor"], "sum, prod, min, max, avg"),
            (&["-f", "2", "-i", "8"], "cannot be used with"),
            (&["--ranks", "9"], "2..=8"),
        ] {
            let text = refused(flags);
            assert!(text.contains(word), "{flags:?}: {text}");
        }
    }
}
