//! The arguments of `myelon explain`, with their help.

use clap::{Args, ValueEnum};
use myelon_collectives::DataType;

use crate::args::{Format, PlanFlags, Sizes, data_types};

/// Says what an all-reduce would launch, why, how long it should take, and what else was possible
///
/// Nothing is launched. Plans for H200s, with times from a model, are explained on any machine.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Explain {
    #[command(flatten)]
    pub sizes: Sizes,

    /// Element type: f16 bf16 f32 f64 i8 u8 i32 u32 i64 u64
    #[arg(short = 'd', long, default_value = "f32", value_parser = data_type, value_name = "TYPE", help_heading = "What")]
    pub datatype: DataType,

    /// Which machine: h200 (a node of H200s), host (threads), here (what all-reduce would use)
    #[arg(long, value_enum, default_value_t = MachineKind::Here, hide_possible_values = true, value_name = "h200|host|here", help_heading = "Where")]
    pub machine: MachineKind,
    /// Number of ranks, 2 to 8 [default: 8 for h200, 2 on the host, all GPUs here]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=8), value_name = "N", help_heading = "Where")]
    pub ranks: Option<u8>,

    #[command(flatten)]
    pub plan: PlanFlags,

    /// How many runners-up to show of each size; 0 shows the decisions alone
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Output")]
    pub runners_up: usize,
    /// A table for people, or lines for programs
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
}

/// The machine that plans are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MachineKind {
    H200,
    Host,
    Here,
}

fn data_type(text: &str) -> Result<DataType, String> {
    match data_types(text)?.0[..] {
        [dtype] => Ok(dtype),
        _ => Err("one type at a time".into()),
    }
}

// Paragraphs are one line, which clap wraps; tables are narrow enough for 80 columns.
const HELP: &str = "\
Columns:
  size          payload of a rank in bytes, in whole elements
  predicted     microseconds of one call by the model of time; not measured
  busbw         what each link carries at that time, in 1e9 bytes a second
  diff          predicted time against that of the decision, in per cent
  plan          what would be launched
  why           the number of a reason below the decisions
  bound by      what takes the time: the link, its blocks, credit, looks and
                fences, or latency
  which         how a runner-up differs: another algorithm or policy, with its
                automatic numbers and in rings of its own; or half and twice
                the lanes or the slot, in the rings of the decision. A plan
                that cannot be had says why.

Other algorithms than the decision's come first among the runners-up; the others stand by their time.

How far to trust a time: the model has ten constants of H200s. It was compared with records of 2 to 4 \
ranks, where it is mostly within 2 to 4 % and nine times in ten within 15 %; so it cannot place plans that \
differ by less. It knows the ring alone: other algorithms have no time. No record of 5 to 8 ranks is there to compare with. Other GPUs are given the times of \
H200s, and say so. The host has no model of time, and calls of very many rounds are not predicted.

For programs: one line a plan; place is 0 for the decision, then 1, 2, ... in the order of the table, and \
none for a plan that was refused.

Examples:
  What 8 H200s would launch, asked from any machine
    myelon explain --machine h200 --ranks 8 -d bf16 -b 1K -e 1G
  The decisions alone, for what this machine has
    myelon explain --runners-up 0
  What forced lanes would cost at one size
    myelon explain --machine h200 --ranks 4 -b 64M -e 64M --lanes 8
  What a tuning file makes of this machine's calls
    myelon explain --tuning my-tuning.txt
  For programs
    myelon explain --machine h200 --format json | jq .predicted_us

Settings of the environment hold as for all-reduce, and a flag wins over its setting; 'myelon info' shows \
them. --machine h200 and host win over MYELON_BACKEND.

Exit code: 0 it was explained; 1 the GPUs here cannot be used; 2 bad usage, a bad setting, or a forced \
plan that cannot be had.";
