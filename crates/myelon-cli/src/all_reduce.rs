//! `myelon all-reduce`: plans the cases, runs them, writes the results.

use std::ffi::OsString;
use std::io::{self, Write};

use anyhow::{Context, anyhow};
use myelon_collectives::{
    Backend, Builder, Communicator, DEADLINE_DEFAULT, DataType, Error, Process, ReduceOp, Settings,
};
use myelon_lanes::format_bytes;
use owo_colors::{OwoColorize, Stream};

use crate::args::{AllReduce, Format};
use crate::failure::Failure;
use crate::launch;
use crate::measure::{Bench, Case, Effort};
use crate::mode::Mode;
use crate::plot;
use crate::progress::Progress;
use crate::record::{Record, bandwidths, csv_header, csv_line, json_line};
use crate::sizes::{about_bytes, counts, sizes};
use crate::table;
use crate::world::World;

/// The meeting of the command's own numbers, beside that of the communicator.
pub const BESIDE: &str = "times";
/// Ranks that are started where nobody says how many.
const PROCESSES_DEFAULT: usize = 2;

/// The largest default size on host ranks and on GPUs.
const MAX_BYTES_HOST: u64 = 16 << 20;
const MAX_BYTES_CUDA: u64 = 256 << 20;

/// The largest size unless the user says one.
pub fn largest(on_gpus: bool) -> u64 {
    if on_gpus { MAX_BYTES_CUDA } else { MAX_BYTES_HOST }
}

/// Runs the command, which `words` asked for; `true` where nothing was wrong.
pub fn run(args: &AllReduce, words: &[OsString]) -> Result<bool, Failure> {
    let placements = args.placements();
    let (pairs, left_out) = pairs(&args.datatype.0, &args.op.0);
    check_usage(args, &pairs)?;

    let settings = Settings::from_env()?;
    let (communicators, world) = if args.processes {
        if let Some(parent) = args.started_by {
            launch::end_with(parent)?;
        }
        let Some(process) = Process::find().map_err(Error::from)? else {
            let ranks = args.ranks.map(usize::from).or(settings.ranks);
            return launch::run(words, ranks.unwrap_or(PROCESSES_DEFAULT));
        };
        let deadline = args.deadline.or(settings.deadline).unwrap_or(DEADLINE_DEFAULT);
        let world = World::join(&process.beside(BESIDE), flags(args), deadline)?;
        (vec![builder(args, settings).join(&process)?], world)
    } else {
        (builder(args, settings).build()?, World::Threads)
    };
    let writes = world.writes();
    let (min, max) = args.sizes.byte_range(largest(communicators[0].backend() == Backend::Cuda));
    let sizes = sizes(min, max, args.sizes.step()).map_err(Failure::Usage)?;
    let lines: Vec<Line> = pairs
        .iter()
        .flat_map(|&(dtype, op)| {
            counts(&sizes, dtype.bytes()).into_iter().map(move |count| Line { dtype, op, count })
        })
        .collect();
    if args.plot.is_some() && lines.iter().all(|line| line.count == 0) {
        return Err(Failure::Usage("--plot has nothing to draw: every size is below one element".into()));
    }

    let mut output = Output { format: args.format, placements: &placements, writes };
    output.begin(&header(&communicators, args.mode()))?;
    let bytes_max = usize::try_from(sizes[sizes.len() - 1]).context("the largest size")?;
    let mut bench = Bench::new(communicators, bytes_max, args.seed, args.mode())?.of(world);
    let effort = Effort {
        warmup: args.warmup_iters,
        samples: args.iters,
        checks: args.check,
        mode: args.mode(),
        calls: args.graph_calls,
    };
    let mut progress = Progress::new((lines.len() * placements.len()) as u64);
    let mut records = Vec::new();
    for &Line { dtype, op, count } in &lines {
        let first = records.len();
        for &in_place in &placements {
            if writes {
                progress.begin(format!("{dtype} {op} {}", format_bytes((count * dtype.bytes()) as u64)));
            }
            let case = Case { dtype, op, count, in_place };
            records.push(record(&mut bench, case, effort)?);
            progress.step();
        }
        progress.aside(|| output.line(&records[first..]))?;
    }
    progress.finish();
    let mut summary = summary(&records, &left_out);
    if args.mode() == Mode::Isolated {
        let marks = bench.marks_us()?;
        summary.push(format!("two marks alone      {marks:.2} us, in the time of every call"));
    }
    output.end(&summary)?;
    if let (true, Some(path)) = (writes, &args.plot) {
        plot::draw(path, &records).map_err(|error| anyhow!("--plot {error}"))?;
    }
    Ok(all_right(&records))
}

/// What all ranks must have been told alike: the arguments, as they were understood, but for who started them.
fn flags(args: &AllReduce) -> String {
    let parts = [
        format!("{:?} {:?} {:?}", args.sizes, args.datatype, args.op),
        format!("{:?} {:?} {:?}", args.placements(), args.mode(), args.graph_calls),
        format!("{} {} {} {}", args.iters, args.warmup_iters, args.check, args.seed),
    ];
    parts.join(" ")
}

/// Whether no checked call had a wrong element.
fn all_right(records: &[Record]) -> bool {
    records.iter().all(|record| record.wrong.unwrap_or(0) == 0)
}

/// One line of the table: all placements of one size.
struct Line {
    dtype: DataType,
    op: ReduceOp,
    count: usize,
}

/// Refuses what can be seen to be wrong before anything is built.
fn check_usage(args: &AllReduce, pairs: &[Pair]) -> Result<(), Failure> {
    if pairs.is_empty() {
        return Err(Failure::Usage("avg is for floats only: choose f16, bf16, f32 or f64".into()));
    }
    if args.graph_calls.is_some() && args.mode() != Mode::Graph {
        return Err(Failure::Usage("--graph-calls needs --mode graph, where calls are in graphs".into()));
    }
    if args.plot.is_some() && pairs.len() > plot::SERIES_MAX {
        return Err(Failure::Usage(format!(
            "--plot can tell {} combinations of type and operation apart, not {}",
            plot::SERIES_MAX,
            pairs.len()
        )));
    }
    // The default of the largest size only widens the range, so one that is bad now stays bad.
    let (min, max) = args.sizes.byte_range(MAX_BYTES_HOST);
    sizes(min, max, args.sizes.step()).map_err(Failure::Usage)?;
    match &args.plot {
        Some(path) => plot::try_path(path).map_err(|error| Failure::Usage(format!("--plot {error}"))),
        None => Ok(()),
    }
}

/// A type and an operation on it.
type Pair = (DataType, ReduceOp);

/// The pairs to run, and those that do not exist.
fn pairs(dtypes: &[DataType], ops: &[ReduceOp]) -> (Vec<Pair>, Vec<Pair>) {
    let all = dtypes.iter().flat_map(|&dtype| ops.iter().map(move |&op| (dtype, op)));
    all.partition(|&(dtype, op)| op.supports(dtype))
}

/// What the flags say, and the environment where they say nothing.
fn builder(args: &AllReduce, settings: Settings) -> Builder {
    let mut builder = Communicator::builder().settings(args.plan.over(settings));
    if let Some(backend) = args.backend {
        builder = builder.backend(backend);
    }
    if let Some(ranks) = args.ranks {
        builder = builder.ranks(ranks.into());
    }
    if let Some(deadline) = args.deadline {
        builder = builder.deadline(deadline);
    }
    builder
}

fn record(bench: &mut Bench, case: Case, effort: Effort) -> anyhow::Result<Record> {
    let measured = bench.run(case, effort)?;
    let communicator = bench.first();
    let launch = communicator.last_launch().context("rank 0 does not know what it launched")?;
    let bytes = (case.count * case.dtype.bytes()) as u64;
    let (algbw_gbps, busbw_gbps) = bandwidths(bytes, communicator.ranks(), measured.time_us.median);
    tracing::debug!(?case, ?measured, ?launch, "measured");
    Ok(Record {
        backend: communicator.backend().to_string(),
        ranks: communicator.ranks(),
        bytes,
        count: case.count,
        dtype: case.dtype.to_string(),
        op: case.op.to_string(),
        in_place: case.in_place,
        time_us: measured.time_us.median,
        algbw_gbps,
        busbw_gbps,
        wrong: measured.wrong,
        kernel: launch.kernel.to_string(),
        plan: launch.plan.to_string(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        why: launch.why.to_string(),
        time_p99_us: measured.time_us.p99,
        time_max_us: measured.time_us.max,
        mode: effort.mode.name().into(),
        samples: effort.samples,
        sample_calls: measured.sample_calls,
    })
}

/// What runs where: backend and why, ranks and their devices, memory.
fn header(communicators: &[Communicator], mode: Mode) -> Vec<String> {
    let first = &communicators[0];
    vec![
        format!("myelon {} all-reduce", env!("CARGO_PKG_VERSION")),
        format!("backend  {}: {}", first.backend(), first.backend_reason()),
        format!("ranks    {}", ranks_and_devices(communicators)),
        format!("rings    {} a rank", about_bytes(first.ring_bytes())),
        format!("table    {}", first.table_reason()),
        format!("mode     {}", mode.name()),
    ]
}

/// How many ranks there are, and on what: one name where all are alike, else all in rank order.
pub fn ranks_and_devices(communicators: &[Communicator]) -> String {
    let mut names: Vec<String> = communicators.iter().map(Communicator::device_name).collect();
    names.dedup();
    let ranks = communicators.first().map_or(0, Communicator::ranks);
    format!("{ranks} on {}", names.join(", "))
}

/// What the run came to: wrong elements, the mean bus bandwidth, and what was left out.
fn summary(records: &[Record], left_out: &[Pair]) -> Vec<String> {
    let checked: Vec<u64> = records.iter().filter_map(|record| record.wrong).collect();
    let wrong: u64 = checked.iter().sum();
    let verdict = match (checked.len(), wrong) {
        (0, _) => "not checked (-c 0)".to_string(),
        (_, 0) => "0, OK".to_string(),
        _ => format!("{wrong}, FAILED").if_supports_color(Stream::Stdout, |text| text.red()).to_string(),
    };
    let mean = records.iter().map(|record| record.busbw_gbps).sum::<f64>() / records.len().max(1) as f64;
    let mut lines =
        vec![format!("wrong elements      {verdict}"), format!("mean bus bandwidth  {mean:.4} GB/s")];
    if !left_out.is_empty() {
        let names: Vec<String> = left_out.iter().map(|(dtype, op)| format!("{dtype} {op}")).collect();
        lines.push(format!("left out            {} (avg is for floats only)", names.join(", ")));
    }
    lines
}

/// Writes results to standard output, and for programs the words around them to standard error.
struct Output<'a> {
    format: Format,
    placements: &'a [bool],
    /// Else another process does.
    writes: bool,
}

impl Output<'_> {
    fn begin(&mut self, header: &[String]) -> io::Result<()> {
        self.words(header)?;
        if !self.writes {
            return Ok(());
        }
        match self.format {
            Format::Table => table::header(self.placements).iter().try_for_each(|line| say(line)),
            Format::Csv => say(&csv_header()),
            Format::Json => Ok(()),
        }
    }

    fn line(&mut self, records: &[Record]) -> io::Result<()> {
        if !self.writes {
            return Ok(());
        }
        match self.format {
            Format::Table => say(&table::line(records)),
            Format::Csv => records.iter().try_for_each(|record| say(&csv_line(record))),
            Format::Json => records.iter().try_for_each(|record| say(&json_line(record))),
        }
    }

    fn end(&mut self, summary: &[String]) -> io::Result<()> {
        self.words(summary)
    }

    fn words(&self, lines: &[String]) -> io::Result<()> {
        if !self.writes {
            return Ok(());
        }
        lines.iter().try_for_each(|line| match self.format {
            Format::Table => say(&format!("# {line}")),
            Format::Csv | Format::Json => writeln!(io::stderr(), "# {line}"),
        })
    }
}

/// Writes one line to standard output.
pub fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::example;

    #[test]
    fn averages_of_integers_are_left_out_and_named_once() {
        let (kept, left_out) = pairs(&DataType::ALL, &ReduceOp::ALL);
        assert_eq!((kept.len(), left_out.len()), (44, 6));
        let lines = summary(&[example(64, false)], &left_out);
        assert_eq!(lines.iter().filter(|line| line.contains("i32 avg")).count(), 1);
        assert!(!lines.iter().any(|line| line.contains("f32 avg")));
        assert_eq!(summary(&[example(64, false)], &[]).len(), 2);
    }

    #[test]
    fn the_verdict_tells_right_wrong_and_unchecked_apart() {
        let with =
            |wrong| summary(&[example(64, false), Record { wrong, ..example(64, true) }], &[])[0].clone();
        assert!(with(Some(0)).contains("0, OK"));
        assert!(with(Some(3)).contains("3, FAILED"));
        let unchecked = summary(&[Record { wrong: None, ..example(64, true) }], &[]);
        assert!(unchecked[0].contains("not checked"));
    }

    #[test]
    fn one_wrong_element_anywhere_fails_the_command() {
        let with = |wrong| Record { wrong, ..example(64, false) };
        assert!(all_right(&[with(Some(0)), with(None)]));
        assert!(!all_right(&[with(Some(0)), with(Some(1)), with(None)]));
    }
}
