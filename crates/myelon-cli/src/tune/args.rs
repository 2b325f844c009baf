//! The arguments of `myelon tune`, with their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use myelon_collectives::{Backend, DataType, ReduceOp};

use crate::args::{Format, backend, data_types, operations, seconds};
use crate::sizes::Step;

/// Measures which plans are faster than the automatic ones here, and writes a file that the library follows
///
/// Every algorithm that can run takes turns with a few lanes, threads and slots, and every result is checked.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Tune {
    /// Smallest size of a rank's buffer in bytes; 1K, 4M, 1G are powers of two [default: 1K]
    #[arg(short = 'b', long, alias = "minbytes", value_parser = crate::args::bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub min_bytes: Option<u64>,
    /// Largest size, included where the steps meet it [default: 16M on the host, 256M on GPUs]
    #[arg(short = 'e', long, alias = "maxbytes", value_parser = crate::args::bytes, value_name = "BYTES", help_heading = "Sizes")]
    pub max_bytes: Option<u64>,
    /// The next size is FACTOR times the last
    #[arg(
        short = 'f',
        long,
        alias = "stepfactor",
        default_value_t = 2,
        value_name = "FACTOR",
        help_heading = "Sizes"
    )]
    pub step_factor: u64,

    /// Element type: f16 bf16 f32 f64 i8 u8 i32 u32 i64 u64 [default: bf16 on GPUs, f32 on the host]
    #[arg(short = 'd', long, value_parser = data_type, value_name = "TYPE", help_heading = "What")]
    pub datatype: Option<DataType>,
    /// Reduction: sum prod min max avg; avg is for floats only
    #[arg(short = 'o', long, default_value = "sum", value_parser = operation, value_name = "OP", help_heading = "What")]
    pub op: ReduceOp,
    /// For which buffers: windows (all ranks reach them: 'direct' can run), any, or both
    #[arg(long, value_enum, default_value_t = For::Both, hide_possible_values = true, value_name = "windows|any|both", help_heading = "What")]
    pub buffers: For,

    /// How long to measure, over all sizes; less where turns tell no more, more where each has its least
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS", help_heading = "How often")]
    pub time: Duration,
    /// Where test values and the order of turns start; the same seed gives the same
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "How often")]
    pub seed: u64,

    /// Where the ranks live: auto (GPUs where they can be used, else the host), host (threads), cuda (GPUs)
    #[arg(long, value_parser = backend, value_name = "auto|host|cuda", help_heading = "Where")]
    pub backend: Option<Backend>,
    /// Number of ranks, 2 to 8 [default: 2 on the host, all GPUs]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=8), value_name = "N", help_heading = "Where")]
    pub ranks: Option<u8>,
    /// How long a rank waits for another before tuning ends with an error
    #[arg(long, value_parser = seconds, value_name = "SECONDS", help_heading = "Where")]
    pub deadline: Option<Duration>,

    /// Where the file goes [default: MYELON_TUNING, else the usual one, which 'myelon info' names]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Measures and reports, and writes no file
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    pub dry_run: bool,
    /// A table for people, or lines for programs
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
}

/// Which communicators the rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum For {
    /// Those whose buffers are windows.
    Windows,
    /// The others.
    Any,
    Both,
}

impl For {
    /// Whether buffers are windows, for each kind.
    pub fn kinds(self) -> &'static [bool] {
        match self {
            Self::Windows => &[true],
            Self::Any => &[false],
            Self::Both => &[false, true],
        }
    }
}

impl Tune {
    /// The smallest and the largest size, and how sizes grow. One that is given moves the other's default.
    pub fn sizes(&self, on_gpus: bool) -> (u64, u64, Step) {
        const SMALLEST: u64 = 1 << 10;
        let most = crate::all_reduce::largest(on_gpus);
        let min = self.min_bytes.unwrap_or(self.max_bytes.map_or(SMALLEST, |max| max.min(SMALLEST)));
        (min, self.max_bytes.unwrap_or(most.max(min)), Step::Factor(self.step_factor))
    }
}

fn data_type(text: &str) -> Result<DataType, String> {
    let [dtype] = data_types(text)?.0[..] else { return Err("one type at a time".into()) };
    Ok(dtype)
}

fn operation(text: &str) -> Result<ReduceOp, String> {
    let [op] = operations(text)?.0[..] else { return Err("one reduction at a time".into()) };
    Ok(op)
}

// Paragraphs are one line, which clap wraps; tables are narrow enough for 80 columns.
const HELP: &str = "\
Columns:
  size         payload of a rank in bytes, in whole elements
  automatic    microseconds of one call under the automatic plan
  tuned        the same under the plan that the file says; of a plan that
               stays, that of the automatic one
  gain         automatic / tuned - 1 in per cent
  plan         what the file says, and what is automatic; '=' where that stays

What is tried: at each size every algorithm that can run, with lanes, threads and slots around its automatic \
ones, and what won at the next larger size; where time is short, some of these, by chance. All of it fits the rings that a communicator has anyway, so that rows take \
no room from each other.

What is timed: graphs of calls, out of place, on rotating buffers, as in 'all-reduce --graph'; the slowest rank, and the \
median over the launches of a turn. Every plan has a turn; the fastest and the automatic one then take more, in an order \
that is drawn each time, and at last the fastest and the automatic one alone.

What changes: the automatic plan stays unless another one beats it in the turns of these two alone by more than 2 % and by \
more than both vary; or where time would fall as size grows, and the plan of the next size is faster here too. Adjacent \
sizes with the same plan are one row. Two rows meet where the lines through their times cross, or in the geometric middle. \
Sizes beyond those that were measured, and those at both ends where nothing changed, are left to the rule.

What is checked: inputs are drawn anew for each size, outputs are spoilt before each turn, and each result is compared byte \
for byte with the reference on every rank. The first wrong element ends the command with 1, and no file is \
written.

The file: lines of text with a checksum. It holds for this version of the library and its kernels, for this model of \
machine, its driver, and the ranks and buffers that were measured; one that does not fit is refused with the reason. Rows \
for other ranks in a file that fits are kept. A file decides how fast a call is, never what it gives. Before it takes its \
place the library reads it, and a call of each row is checked.

Examples:
  What could be gained here, in a minute
    myelon tune --dry-run --time 60
  Four GPUs, for every program of this user
    myelon tune --backend cuda --ranks 4
  Two host ranks, small sizes, to a file; then with and without it
    myelon tune --backend host -b 1K -e 64K --output tuning.txt
    myelon all-reduce --tuning tuning.txt
    myelon all-reduce --tuning none

Settings of the environment hold as for all-reduce, and a flag wins over its setting. One that forces a plan, or another \
policy than auto, is refused here.

Exit code: 0 all is right; 1 wrong elements, or the run failed; 2 bad usage or a bad setting.";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<Tune, clap::Error> {
        let line = ["myelon", "tune"].iter().chain(flags);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Tune(args) => *args,
            _ => unreachable!("the line says tune"),
        })
    }

    #[test]
    fn sizes_follow_the_backend_until_they_are_said() {
        let sizes = |flags: &[&str], on_gpus| parse(flags).unwrap().sizes(on_gpus);
        assert_eq!(sizes(&[], false), (1 << 10, 16 << 20, Step::Factor(2)));
        assert_eq!(sizes(&["-f", "4"], true), (1 << 10, 256 << 20, Step::Factor(4)));
        assert_eq!(sizes(&["-b", "1G"], true), (1 << 30, 1 << 30, Step::Factor(2)));
        assert_eq!(sizes(&["-e", "8"], true), (8, 8, Step::Factor(2)));
        assert_eq!(parse(&["--buffers", "any"]).unwrap().buffers.kinds(), [false]);
        assert_eq!(parse(&[]).unwrap().buffers.kinds(), [false, true]);
    }

    #[test]
    fn bad_values_are_refused_with_what_is_known() {
        for (flags, word) in [
            (&["-d", "all"][..], "one type at a time"),
            (&["-o", "all"], "one reduction at a time"),
            (&["--time", "0"], "--time"),
            (&["--buffers", "own"], "windows|any|both"),
            (&["--dry-run", "--output", "x"], "cannot be used with"),
            (&["--ranks", "1"], "2..=8"),
        ] {
            let text = parse(flags).map(|_| ()).expect_err("should be refused").to_string();
            assert!(text.contains(word), "{flags:?}: {text}");
        }
    }
}
