//! The arguments of the command, with their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use myelon_collectives::{Backend, DataType, ReduceOp, Settings, TuningFile};
use myelon_lanes::{Algorithm, Forced, Policy};

use crate::doctor::Doctor;
use crate::explain::Explain;
use crate::mode::Mode;
use crate::simulate::Simulate;
use crate::sizes::Step;
use crate::sweep::Sweep;
use crate::top::Top;
use crate::tune::Tune;

/// Collectives for the GPUs of one NVLink node, and for host threads as ranks
#[derive(Debug, Parser)]
#[command(name = "myelon", version, after_long_help = EXIT_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_HELP: &str = "\
Exit code: 0 all is right; 1 wrong elements, a broken rule, ranks in trouble, or the run failed; 2 bad usage or a bad setting.
Set MYELON_LOG=debug (or info, trace, crate=level) to see on stderr what is decided and launched.";

#[derive(Debug, Subcommand)]
pub enum Command {
    AllReduce(Box<AllReduce>),
    Doctor(Doctor),
    Explain(Explain),
    Info(Info),
    Simulate(Box<Simulate>),
    Sweep(Box<Sweep>),
    Top(Top),
    Tune(Box<Tune>),
}

/// Shows devices, links, settings, and what would be used
#[derive(Args, Debug)]
pub struct Info {}

/// Runs, checks and times all-reduces over a range of sizes
///
/// The flags and columns are those of nccl-tests. Without a GPU everything runs on host threads and says so.
#[derive(Args, Debug)]
#[command(after_long_help = all_reduce_help())]
pub struct AllReduce {
    #[command(flatten)]
    pub sizes: Sizes,

    /// Element type: f16 bf16 f32 f64 i8 u8 i32 u32 i64 u64, or all
    #[arg(short = 'd', long, default_value = "f32", value_parser = data_types, value_name = "TYPE", help_heading = "What")]
    pub datatype: Choice<DataType>,
    /// Reduction: sum prod min max avg, or all; avg is for floats only
    #[arg(short = 'o', long, default_value = "sum", value_parser = operations, value_name = "OP", help_heading = "What")]
    pub op: Choice<ReduceOp>,
    /// Only calls whose result replaces the input [default: both]
    #[arg(long, conflicts_with = "out_of_place", help_heading = "What")]
    pub in_place: bool,
    /// Only calls whose result goes to another buffer [default: both]
    #[arg(long, help_heading = "What")]
    pub out_of_place: bool,

    /// How calls are timed: stream, graph or isolated (see below)
    #[arg(
        long,
        value_enum,
        default_value_t = Mode::Stream,
        hide_possible_values = true,
        value_name = "stream|graph|isolated",
        help_heading = "How often"
    )]
    pub mode: Mode,
    /// The same as --mode graph
    #[arg(long, conflicts_with = "mode", help_heading = "How often")]
    pub graph: bool,
    /// Calls in one graph [default: 100 up to 4M, 20 up to 64M, else 5; on the host 10 up to 64K, 4 up to 1M, else 2]
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
        value_name = "N",
        help_heading = "How often"
    )]
    pub graph_calls: Option<u32>,
    /// Samples of each size
    #[arg(
        short = 'n',
        long,
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "N",
        help_heading = "How often"
    )]
    pub iters: u32,
    /// Calls before the timed ones; launches of a graph
    #[arg(
        short = 'w',
        long,
        alias = "warmup_iters",
        default_value_t = 5,
        value_name = "N",
        help_heading = "How often"
    )]
    pub warmup_iters: u32,
    /// Checked calls of each size, with fresh values each; launches of a graph; 0 turns the check off
    #[arg(short = 'c', long, default_value_t = 1, value_name = "N", help_heading = "How often")]
    pub check: u32,
    /// Where the test values start; the same seed gives the same values
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "How often")]
    pub seed: u64,

    /// Where the ranks live: auto (GPUs where they can be used, else the host), host (threads), cuda (GPUs)
    #[arg(long, value_parser = backend, value_name = "auto|host|cuda", help_heading = "Where")]
    pub backend: Option<Backend>,
    /// Number of ranks, 2 to 8 [default: 2 on the host, all GPUs]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=8), value_name = "N", help_heading = "Where")]
    pub ranks: Option<u8>,
    /// Every rank is a process, started here, or by torchrun, mpirun or srun
    #[arg(long, help_heading = "Where")]
    pub processes: bool,
    /// The process that started this one as a rank, and with which it ends
    #[arg(long, hide = true, requires = "processes", value_name = "PID")]
    pub started_by: Option<u32>,
    /// How long a rank waits for another before the call is an error
    #[arg(long, value_parser = seconds, value_name = "SECONDS", help_heading = "Where")]
    pub deadline: Option<Duration>,

    #[command(flatten)]
    pub plan: PlanFlags,

    /// A table for people, or lines for programs
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
    /// Draw bus bandwidth and time over size
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    pub plot: Option<PathBuf>,
}

/// Which sizes; of all commands that take a range of them.
#[derive(Args, Debug)]
pub struct Sizes {
    /// Smallest size of a rank's buffer in bytes; 1K, 4M, 1G are powers of two [default: 8]
    #[arg(short = 'b', long, alias = "minbytes", value_parser = bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub min_bytes: Option<u64>,
    /// Largest size, included where the steps meet it [default: 16M on the host, 256M on GPUs]
    #[arg(short = 'e', long, alias = "maxbytes", value_parser = bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub max_bytes: Option<u64>,
    /// The next size is FACTOR times the last [default: 2]
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
}

/// How plans are made; of all commands that make any.
#[derive(Args, Debug)]
pub struct PlanFlags {
    /// How plans are chosen: auto (what measures best), harness or yali (the heuristics of the ancestors)
    #[arg(long, value_name = "auto|harness|yali", help_heading = "Plan")]
    pub policy: Option<Policy>,
    /// Force the algorithm: one-shot, two-shot, one-shot-lamport, two-shot-lamport, direct, ring or neighbour; refused
    /// where it cannot run. 'neighbour' sums floats in an order that depends on the plan, which naming it here allows
    #[arg(long, value_name = "NAME", help_heading = "Plan")]
    pub algo: Option<Algorithm>,
    /// What buffers calls may have: windows (all ranks reach them: 'direct' can run) or any
    #[arg(long, value_enum, value_name = "windows|any", help_heading = "Plan")]
    pub buffers: Option<Buffers>,
    /// Follow this tuning file, or none [default: the usual one, which 'myelon info' names]
    #[arg(long, value_parser = tuning_file, value_name = "FILE|none", help_heading = "Plan")]
    pub tuning: Option<TuningFile>,
    /// Force the number of lanes
    #[arg(long, value_name = "N", help_heading = "Plan")]
    pub lanes: Option<u32>,
    /// Force the payload of a slot, such as 16K
    #[arg(long, value_parser = slot_bytes, value_name = "BYTES", help_heading = "Plan")]
    pub slot_bytes: Option<u32>,
    /// Force the number of slots of a ring, a power of two
    #[arg(long, value_name = "N", help_heading = "Plan")]
    pub slots: Option<u32>,
    /// Force the number of blocks of the launch: of the ring a multiple of 3
    #[arg(long, value_name = "N", help_heading = "Plan")]
    pub blocks: Option<u32>,
    /// Launch no more blocks than this, so that other kernels have the rest of the GPU
    #[arg(long, value_name = "N", help_heading = "Plan")]
    pub max_blocks: Option<u32>,
    /// Force the number of threads of a block, a multiple of 32
    #[arg(long, value_name = "N", help_heading = "Plan")]
    pub threads: Option<u32>,
}

/// What buffers are promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Buffers {
    /// Memory that all ranks may read and write
    Windows,
    /// Any memory of the rank
    Any,
}

// Paragraphs are one line, which clap wraps; tables are narrow enough for 80 columns.
const ALL_REDUCE_HELP: &str = "\
Columns:
  size          payload of a rank in bytes, in whole elements (see below)
  count         elements of a rank
  type, redop   element type and reduction
  time          microseconds of one call: in each sample of the slowest rank,
                then the median of the -n samples
  p99           the same, what 99 of 100 samples do not exceed
  algbw         size / time, in 1e9 bytes a second
  busbw         algbw * 2 * (ranks - 1) / ranks: what each link carries
  #wrong        elements that differ from the reference in any bit, plus bytes
                written behind the buffer, over all ranks; N/A with -c 0
  kernel, plan  what was launched, as the launch reported it

Sizes are rounded down to whole elements. A size below one element is a call with 0 elements, which \
must work too. Sizes that come to the same count run once. Averages of integers do not exist; with \
'-d all' or '-o all' they are left out and the summary says so.

What is timed: every rank has a host thread. After -w calls the threads meet at a barrier and take -n \
samples, without a wait between them. A sample is, by --mode,
  stream        20, 5 or 2 calls back to back (by size; on the host 10, 4 or 1)
                between two marks on the stream: enqueueing counts where it is
                not hidden
  graph         one launch of a graph of --graph-calls calls between two marks
  isolated      one call between two marks, behind a fill of 64 MiB (host 4 MiB)
                of other memory; the marks' own cost is in it, and is told
The time of a sample is that between its marks, divided by its calls. JSON and CSV have the median as \
time_us, and time_p99_us, time_max_us, mode, samples and sample_calls. Calls take turns on up to 16 pairs \
of buffers of together up to 256 MiB (host 32 MiB), so that none finds its data in a cache. In-place calls \
reduce their own results again and again, so floats may reach infinity while timed.

What is checked: -c calls with inputs from a hash of seed, rank, round and position, and out of place \
what the timed calls left in every pair. With --mode graph it is -c launches on fresh inputs, and every \
result that is still there, in place too. Outputs are poisoned before, and compared byte for byte with a \
reference that is computed on the host, on every rank.

Examples:
  A quick look, 8 B to 16 MiB on a laptop
    myelon all-reduce
  Doubling sizes of bf16
    myelon all-reduce -b 1K -e 1G -f 2 -d bf16
  As inside a CUDA graph, and as a call between other kernels
    myelon all-reduce --graph -b 1K -e 64M -f 4 -d bf16
    myelon all-reduce --mode isolated -b 1K -e 64M -f 4 -d bf16
  Every type and reduction at crooked sizes
    myelon all-reduce -b 1 -e 1M -f 7 -d all -o all
  Five threads as ranks, three checks a size
    myelon all-reduce --backend host --ranks 5 -c 3
  Four processes as ranks, started here or by a launcher
    myelon all-reduce --processes --ranks 4
    torchrun --nproc-per-node 4 --no-python myelon all-reduce --processes
  For programs
    myelon all-reduce --format json | jq .busbw_gbps
  A forced plan, with a picture
    myelon all-reduce --lanes 8 --slots 4 --plot busbw.svg";

/// What stands below the flags: columns, measurement, examples, settings, exit codes.
fn all_reduce_help() -> String {
    format!(
        "{ALL_REDUCE_HELP}\n\n\
         Settings of the environment: {}. A flag wins over its setting. A MYELON_ name that is not among \
         these is refused. 'myelon info' shows what is set and what comes of it.\n\n\
         Exit code: 0 all is right; 1 wrong elements, or the run failed; 2 bad usage or a bad setting.",
        Settings::NAMES.join(", ")
    )
}

impl AllReduce {
    /// How calls are timed, by either flag.
    pub fn mode(&self) -> Mode {
        if self.graph { Mode::Graph } else { self.mode }
    }

    /// The placements to run, `true` for in place, in the order of the table.
    pub fn placements(&self) -> Vec<bool> {
        match (self.in_place, self.out_of_place) {
            (true, _) => vec![true],
            (_, true) => vec![false],
            _ => vec![false, true],
        }
    }
}

impl Sizes {
    /// The smallest and largest size, where `largest` is the default of the backend in use.
    ///
    /// One that is given moves the other's default, so that `-b 1G` or `-e 4` alone is a range.
    pub fn byte_range(&self, largest: u64) -> (u64, u64) {
        const SMALLEST: u64 = 8;
        let min = self.min_bytes.unwrap_or(SMALLEST.min(self.max_bytes.unwrap_or(SMALLEST)));
        (min, self.max_bytes.unwrap_or(largest.max(min)))
    }

    /// How the sizes grow.
    pub fn step(&self) -> Step {
        self.step_bytes.map_or(Step::Factor(self.step_factor.unwrap_or(2)), Step::Bytes)
    }
}

impl PlanFlags {
    /// `settings` with what the flags say in place of theirs, number by number.
    pub fn over(&self, settings: Settings) -> Settings {
        let Self { policy, algo, buffers, lanes, slot_bytes, slots, blocks, max_blocks, threads, .. } = *self;
        let forced = settings.forced;
        let forced = Forced {
            algorithm: algo.or(forced.algorithm),
            lanes: lanes.or(forced.lanes),
            piece_bytes: slot_bytes.or(forced.piece_bytes),
            slots: slots.or(forced.slots),
            blocks: blocks.or(forced.blocks),
            blocks_max: max_blocks.or(forced.blocks_max),
            threads: threads.or(forced.threads),
        };
        // The command's own buffers are windows, so it says so unless somebody says otherwise.
        let windows = buffers.map(|buffers| buffers == Buffers::Windows).or(settings.windows);
        let windows = Some(windows.unwrap_or(true));
        let tuning = self.tuning.clone().or(settings.tuning);
        // Whoever forces it for this command wants its order.
        let is_neighbour = forced.algorithm == Some(Algorithm::Neighbour);
        let any_order = settings.any_order.or(is_neighbour.then_some(true));
        Settings { forced, policy: policy.or(settings.policy), windows, any_order, tuning, ..settings }
    }
}

/// One value, or all there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<T>(pub Vec<T>);

/// How results are written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, one line a size
    Table,
    /// Comma separated, with a header, one line a result
    Csv,
    /// One object a line, one line a result
    Json,
}

pub fn backend(text: &str) -> Result<Backend, String> {
    text.parse().map_err(|_| "known are auto, host, cuda".into())
}

pub fn tuning_file(text: &str) -> Result<TuningFile, String> {
    match text {
        "" => Err("needed a file, or none".into()),
        "none" => Ok(TuningFile::None),
        path => Ok(path.into()),
    }
}

pub fn bytes(text: &str) -> Result<u64, String> {
    myelon_lanes::parse_bytes(text).map_err(|error| error.to_string())
}

pub fn slot_bytes(text: &str) -> Result<u32, String> {
    u32::try_from(bytes(text)?).map_err(|_| format!("`{text}` is 4 GiB or more"))
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    let deadline = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if deadline.is_zero() { Err("a deadline of 0 seconds cannot be met".into()) } else { Ok(deadline) }
}

/// What nccl-tests call our types.
const NCCL_TYPES: [(&str, &str); 10] = [
    ("half", "f16"),
    ("bfloat16", "bf16"),
    ("float", "f32"),
    ("double", "f64"),
    ("int8", "i8"),
    ("uint8", "u8"),
    ("int32", "i32"),
    ("uint32", "u32"),
    ("int64", "i64"),
    ("uint64", "u64"),
];

pub fn data_types(text: &str) -> Result<Choice<DataType>, String> {
    let text = NCCL_TYPES.iter().find(|(theirs, _)| *theirs == text).map_or(text, |(_, ours)| ours);
    choice(text, &DataType::ALL, |dtype| dtype.name())
}

pub fn operations(text: &str) -> Result<Choice<ReduceOp>, String> {
    choice(text, &ReduceOp::ALL, |op| op.name())
}

fn choice<T>(text: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<Choice<T>, String>
where
    T: Copy + std::str::FromStr,
{
    if text == "all" {
        return Ok(Choice(all.to_vec()));
    }
    let one = text.parse().map_err(|_| {
        let known: Vec<&str> = all.iter().map(|&value| name(value)).collect();
        format!("known are {} and all", known.join(", "))
    })?;
    Ok(Choice(vec![one]))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(flags: &[&str]) -> Result<AllReduce, clap::Error> {
        let line = ["myelon", "all-reduce"].iter().chain(flags);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::AllReduce(args) => *args,
            _ => unreachable!("the line says all-reduce"),
        })
    }

    fn refused(flags: &[&str]) -> String {
        parse(flags).map(|_| ()).expect_err("should be refused").to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_nccl_tests_are_understood() {
        let args = parse(&[
            "-b", "1", "-e", "1M", "-f", "7", "-d", "all", "-o", "all", "-n", "3", "-w", "0", "-c", "2",
        ]);
        let args = args.unwrap();
        assert_eq!(args.sizes.byte_range(0), (1, 1 << 20));
        assert_eq!(args.sizes.step(), Step::Factor(7));
        assert_eq!(args.datatype.0, DataType::ALL);
        assert_eq!(args.op.0, ReduceOp::ALL);
        assert_eq!((args.iters, args.warmup_iters, args.check), (3, 0, 2));
        let long = ["--minbytes", "4K", "--maxbytes", "1G", "--stepbytes", "1M", "--warmup_iters", "2"];
        let args = parse(&long).unwrap();
        assert_eq!(args.sizes.byte_range(0), (4 << 10, 1 << 30));
        assert_eq!(args.sizes.step(), Step::Bytes(1 << 20));
        assert_eq!(args.warmup_iters, 2);
    }

    #[test]
    fn the_type_names_of_nccl_tests_are_understood() {
        for (theirs, ours) in NCCL_TYPES {
            assert_eq!(parse(&["-d", theirs]).unwrap().datatype, Choice(vec![ours.parse().unwrap()]));
        }
    }

    #[test]
    fn what_is_forced_goes_on_as_it_is() {
        let over = |flags: &[&str], settings| parse(flags).unwrap().plan.over(settings);
        // The command's own buffers are windows; nothing else is said where no flag is given.
        let plain = Settings { windows: Some(true), ..Settings::default() };
        assert_eq!(over(&[], Settings::default()), plain);
        assert_eq!(over(&["--buffers", "any"], plain).windows, Some(false));
        let named = Settings { tuning: Some("a".into()), ..Settings::default() };
        assert_eq!(over(&[], named.clone()).tuning, Some("a".into()));
        assert_eq!(over(&["--tuning", "b"], named.clone()).tuning, Some("b".into()));
        assert_eq!(over(&["--tuning", "none"], named).tuning, Some(TuningFile::None));
        let flags = ["--lanes", "8", "--slot-bytes", "16K", "--slots", "4", "--blocks", "24"];
        let forced = over(&flags, Settings::default()).forced;
        assert_eq!(forced.to_string(), "lanes=8 slot=16KiB slots=4 blocks=24");
        let environment = Settings::parse([("MYELON_LANES", "4"), ("MYELON_SLOTS", "8")]).unwrap();
        assert_eq!(over(&["--lanes", "2"], environment).forced.to_string(), "lanes=2 slots=8");
        assert!(refused(&["--slot-bytes", "4G"]).contains("4G"));
        assert!(refused(&["--policy", "fast"]).contains("auto, harness, yali"));
    }

    #[test]
    fn one_end_moves_the_default_of_the_other() {
        assert_eq!(parse(&[]).unwrap().sizes.byte_range(1 << 24), (8, 1 << 24));
        assert_eq!(parse(&["-b", "1G"]).unwrap().sizes.byte_range(1 << 24), (1 << 30, 1 << 30));
        assert_eq!(parse(&["-e", "4"]).unwrap().sizes.byte_range(1 << 24), (4, 4));
        assert_eq!(parse(&["-b", "9", "-e", "4"]).unwrap().sizes.byte_range(1 << 24), (9, 4));
    }

    #[test]
    fn both_placements_unless_one_is_asked_for() {
        assert_eq!(parse(&[]).unwrap().placements(), [false, true]);
        assert_eq!(parse(&["--in-place"]).unwrap().placements(), [true]);
        assert_eq!(parse(&["--out-of-place"]).unwrap().placements(), [false]);
        assert!(refused(&["--in-place", "--out-of-place"]).contains("cannot be used with"));
    }

    #[test]
    fn the_mode_has_a_short_form() {
        let mode = |flags: &[&str]| parse(flags).unwrap().mode();
        assert_eq!(mode(&[]), Mode::Stream);
        assert_eq!((mode(&["--graph"]), mode(&["--mode", "graph"])), (Mode::Graph, Mode::Graph));
        for mode in [Mode::Stream, Mode::Graph, Mode::Isolated] {
            assert_eq!(parse(&["--mode", mode.name()]).unwrap().mode(), mode);
        }
        assert_eq!(parse(&["--graph", "--graph-calls", "7"]).unwrap().graph_calls, Some(7));
        assert!(refused(&["--graph", "--mode", "stream"]).contains("cannot be used with"));
        assert!(refused(&["--mode", "fast"]).contains("stream, graph, isolated"));
        assert!(refused(&["--graph", "--graph-calls", "0"]).contains("--graph-calls"));
    }

    #[test]
    fn bad_values_are_refused_with_what_is_known() {
        assert!(refused(&["-d", "f33"]).contains("f16, bf16, f32, f64"));
        assert!(refused(&["-o", "xor"]).contains("sum, prod, min, max, avg and all"));
        assert!(refused(&["-b", "12Q"]).contains("12Q"));
        assert!(refused(&["-b", "-4"]).contains("-4"));
        assert!(refused(&["-f", "2", "-i", "4"]).contains("cannot be used with"));
        assert!(refused(&["--ranks", "1"]).contains("2..=8"));
        assert!(refused(&["--ranks", "9"]).contains("2..=8"));
        assert!(refused(&["-n", "0"]).contains("-n") || refused(&["-n", "0"]).contains("--iters"));
        assert!(refused(&["--backend", "rocm"]).contains("cuda"));
        assert!(refused(&["--format", "xml"]).contains("json"));
        for deadline in ["0", "soon", "NaN", "inf"] {
            assert!(refused(&["--deadline", deadline]).contains("--deadline"), "{deadline}");
        }
    }

    #[test]
    fn a_deadline_may_be_a_fraction() {
        assert_eq!(parse(&["--deadline", "0.25"]).unwrap().deadline, Some(Duration::from_millis(250)));
    }
}
