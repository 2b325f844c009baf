//! `myelon tune`: measures which plans are faster than the automatic ones here, and writes a file that the library
//! follows.

mod args;
mod decide;
mod file;
mod report;
mod shape;
mod turns;

use std::path::Path;

use anyhow::{Context, ensure};
use myelon_collectives::{Backend, Communicator, DataType, Settings, TuningFile};
use myelon_lanes::{Forced, Measured as MeasuredSizes, PlanError, Policy, Row, Table, TableFile};

pub use args::Tune;
use decide::{Decided, Measured, decide, rows};
use file::Staged;
use report::{Kind, Report, buffers, summary};
use shape::Shape;
use turns::Course;

use crate::all_reduce::ranks_and_devices;
use crate::failure::Failure;
use crate::measure::{Bench, Case, Effort};
use crate::mode::Mode;
use crate::progress::Progress;
use crate::sizes::{about_bytes, counts, sizes};

/// Runs the command.
///
/// # Errors
///
/// Usage and settings that cannot be, before anything has run; a call that failed or was wrong; a file that cannot be written, or
/// that no communicator takes.
pub fn run(args: &Tune) -> Result<(), Failure> {
    let asked = Settings::from_env()?;
    check_usage(args, &asked)?;
    let path = file::place(args, &asked)?;
    let settings = settings(args, asked);
    let communicators = Communicator::builder().settings(settings.clone()).build()?;
    let on_gpus = communicators[0].backend() == Backend::Cuda;
    // What `auto` has found holds to the end.
    let settings =
        Settings { backend: Some(communicators[0].backend()), ranks: Some(communicators.len()), ..settings };
    let dtype = args.datatype.unwrap_or(if on_gpus { DataType::Bf16 } else { DataType::F32 });
    if !args.op.supports(dtype) {
        return Err(Failure::Usage("avg is for floats only: choose f16, bf16, f32 or f64".into()));
    }
    let (min, max, step) = args.sizes(on_gpus);
    let sizes = sizes(min, max, step).map_err(Failure::Usage)?;
    let counts = counts(&sizes, dtype.bytes());
    let bytes_max = counts[counts.len() - 1].checked_mul(dtype.bytes()).context("the largest size")?;

    let (backend, ranks) = (communicators[0].backend().to_string(), communicators.len());
    let report = Report { format: args.format, backend, ranks };
    report.words(&header(args, dtype, &communicators, path.as_deref()))?;
    let kinds = args.buffers.kinds();
    let mut course = Course::new(communicators, bytes_max, (dtype, args.op), kinds, args.seed, args.time)?;
    let measured = measure(&mut course, &counts, args)?;

    let decided: Vec<Kind> =
        kinds.iter().zip(&measured).map(|(&windows, all)| Kind { windows, decided: decide(all) }).collect();
    report.sizes(&decided)?;
    report.words(&summary(&decided, course.turns))?;
    let Some(path) = path else {
        report.words(&["file            none: a dry run".into()])?;
        return Ok(());
    };
    let table =
        table_file(args, dtype, &course, &measured, &decided).context("the rows that were measured")?;
    let count = table.table.rows().len();
    let origin = table.origin.clone();
    let staged = Staged::write(&path, table, &origin)?;
    drop(course);
    let proven = prove(&staged.beside, &settings, dtype, args, &decided).context("the file was no good")?;
    let before = staged.keep()?;
    let rows = if count == 1 { "1 row".into() } else { format!("{count} rows") };
    let mut words = vec![format!("file            {}, {rows}", path.display())];
    words.extend(before.map(|before| format!("file before     {before}")));
    words.push(format!("read back       taken by the library; {proven} calls of its rows checked, 0 wrong"));
    report.words(&words)?;
    Ok(())
}

/// Refuses what can be seen to be wrong before anything is built.
fn check_usage(args: &Tune, settings: &Settings) -> Result<(), Failure> {
    if !settings.forced.is_empty() {
        return Err(Failure::Usage(format!(
            "the environment forces {}, so there is no automatic plan to compare with: unset it",
            settings.forced
        )));
    }
    if let Some(policy) = settings.policy.filter(|&policy| policy != Policy::Auto) {
        let why = "a tuning file is for policy auto";
        return Err(Failure::Usage(format!(
            "the environment says policy {policy}, and {why}: unset MYELON_POLICY"
        )));
    }
    let (min, max, step) = args.sizes(false);
    sizes(min, max, step).map_err(Failure::Usage).map(|_| ())
}

/// What the flags say, and the environment where they say nothing. No file is followed: its plans are no automatic ones.
fn settings(args: &Tune, settings: Settings) -> Settings {
    Settings {
        backend: args.backend.or(settings.backend),
        ranks: args.ranks.map(usize::from).or(settings.ranks),
        deadline: args.deadline.or(settings.deadline),
        windows: Some(args.buffers.kinds().contains(&true)),
        tuning: Some(TuningFile::None),
        forced: Forced::default(),
        ..settings
    }
}

/// What was measured, `[kinds][sizes]`. The largest size comes first, so that each size also tries what won at the next
/// larger one.
fn measure(course: &mut Course, counts: &[usize], args: &Tune) -> anyhow::Result<Vec<Vec<Measured>>> {
    let mut progress = Progress::of_rate(args.time.as_secs().max(1));
    let mut all: Vec<Vec<Measured>> = args.buffers.kinds().iter().map(|_| Vec::new()).collect();
    let mut larger: Vec<Shape> = Vec::new();
    for (place, &count) in counts.iter().enumerate().rev() {
        let measured = course.run(count, &larger, place + 1, &mut progress)?;
        larger = measured.iter().map(|one| one.trials[one.fastest()].shape).collect();
        for (all, one) in all.iter_mut().zip(measured) {
            all.push(one);
        }
    }
    progress.finish();
    all.iter_mut().for_each(|all| all.reverse());
    Ok(all)
}

/// What is written.
fn table_file(
    args: &Tune,
    dtype: DataType,
    course: &Course,
    measured: &[Vec<Measured>],
    decided: &[Kind],
) -> Result<TableFile, PlanError> {
    let first = course.first();
    let ranks = first.ranks() as u32;
    let inbox = first.tuning().pool(ranks)?.inbox;
    let mut all: Vec<Row> = Vec::new();
    let mut sizes = Vec::new();
    for (measured, Kind { windows, decided }) in measured.iter().zip(decided) {
        all.extend(rows(measured, decided, inbox, ranks, *windows)?);
        if let (Some(first), Some(last)) = (decided.first(), decided.last()) {
            let (bytes_min, bytes_max) = (first.bytes, last.bytes);
            sizes.push(MeasuredSizes { ranks, windows: *windows, bytes_min, bytes_max });
        }
    }
    let note = format!(
        "all-reduce, {} of {dtype}, graphs of calls, {} turns within {} s; ring memory {} a rank",
        args.op,
        course.turns,
        args.time.as_secs_f64(),
        about_bytes(first.ring_bytes())
    );
    Ok(TableFile { origin: first.origin().clone(), note, measured: sizes, table: Table::new(all)? })
}

/// Has the library read the file, and looks whether a communicator of each kind plans by it; then makes a checked call of
/// each row. How many calls.
fn prove(
    path: &Path,
    settings: &Settings,
    dtype: DataType,
    args: &Tune,
    kinds: &[Kind],
) -> anyhow::Result<usize> {
    let mut calls = 0;
    for Kind { windows, decided } in kinds {
        let tuning = Some(TuningFile::At(path.to_path_buf()));
        let settings = Settings { windows: Some(*windows), tuning, ..settings.clone() };
        let ranks = Communicator::builder().settings(settings).build()?;
        let plan = |one: &Decided| -> anyhow::Result<Shape> {
            Ok(Shape::of(&ranks[0].explain(dtype, one.bytes / dtype.bytes() as u64)?.plan))
        };
        for one in decided {
            let planned = plan(one)?;
            ensure!(
                planned == one.shape,
                "{} buffers, {} bytes: planned is {planned}, needed {}",
                buffers(*windows),
                one.bytes,
                one.shape
            );
        }
        // The smallest size of each stretch of one plan.
        let starts = decided
            .iter()
            .enumerate()
            .filter(|&(at, one)| one.is_changed() && (at == 0 || decided[at - 1].shape != one.shape));
        let starts: Vec<&Decided> = starts.map(|(_, one)| one).collect();
        let Some(largest) = starts.last() else { continue };
        let mut bench = Bench::new(ranks, largest.bytes as usize, args.seed, Mode::Stream)?;
        for one in &starts {
            let count = one.bytes as usize / dtype.bytes();
            let case = Case { dtype, op: args.op, count, in_place: false };
            let effort = Effort { warmup: 0, samples: 1, checks: 1, mode: Mode::Stream, calls: Some(1) };
            let wrong = bench.run(case, effort)?.wrong;
            ensure!(
                wrong == Some(0),
                "{} bytes under {}: {wrong:?} elements are wrong",
                one.bytes,
                one.shape
            );
            calls += 1;
        }
    }
    Ok(calls)
}

/// What runs where, for how long.
fn header(args: &Tune, dtype: DataType, ranks: &[Communicator], path: Option<&Path>) -> Vec<String> {
    let first = &ranks[0];
    let kinds: Vec<&str> = args.buffers.kinds().iter().map(|&windows| buffers(windows)).collect();
    vec![
        format!(
            "myelon {} tune of all-reduce, {} of {dtype}, out of place",
            env!("CARGO_PKG_VERSION"),
            args.op
        ),
        format!("backend  {}: {}", first.backend(), first.backend_reason()),
        format!("ranks    {}", ranks_and_devices(ranks)),
        format!("machine  {}", first.origin().machine()),
        format!("rings    {} a rank", about_bytes(first.ring_bytes())),
        format!("buffers  {}", kinds.join(", ")),
        format!("time     {} s, in graphs of calls", args.time.as_secs_f64()),
        format!("file     {}", path.map_or("none: a dry run".into(), |path| path.display().to_string())),
    ]
}
