//! `myelon sweep`: tries lanes, slots and blocks, and says what the automatic plan loses against the best.

mod args;
mod grid;
mod heatmap;
mod operands;
mod outcome;
mod report;
mod setting;
mod turns;

use anyhow::{Context, anyhow};
use myelon_collectives::{Backend, Error, Settings};
use myelon_lanes::{Algorithm, Forced};

pub use args::Sweep;
use grid::{Grid, SETTINGS_MAX};
use operands::Operands;
pub use operands::reduce;
pub use outcome::median;
use report::Report;
pub use setting::is_refusal;
use setting::{Refused, Setting};
pub use turns::shuffled;
use turns::{Course, Pace};

use crate::all_reduce::ranks_and_devices;
use crate::failure::Failure;
use crate::plot;
use crate::progress::Progress;
use crate::sizes::{about_bytes, counts, sizes};

/// Turns of each setting for each size unless the user says more or less.
const TURNS: u32 = 5;

/// Runs the command; `true` where nothing was wrong.
///
/// # Errors
///
/// Usage and settings that cannot be, before anything has run; a call that failed.
pub fn run(args: &Sweep) -> Result<bool, Failure> {
    check_usage(args)?;
    let settings = settings(args, Settings::from_env()?)?;
    let automatic = Setting::automatic(settings.clone())?;
    let on_gpus = automatic.ranks()[0].backend() == Backend::Cuda;
    let algorithm = algorithm(&automatic);
    // One that cannot run here says so before it has sizes.
    automatic.ranks()[0].explain(args.datatype, 0)?;
    let (ranks, tuning) = (automatic.ranks().len() as u32, automatic.ranks()[0].tuning());
    let bytes_max = algorithm.bytes_max(ranks, tuning.pool(ranks).map_err(Error::from)?.inbox);
    let (min, max, step) = args.sizes(on_gpus, bytes_max);
    let sizes = sizes(min, max, step).map_err(Failure::Usage)?;
    let counts = counts(&sizes, args.datatype.bytes());
    let count_max = counts[counts.len() - 1];

    let plan = automatic.ranks()[0].explain(args.datatype, count_max as u64)?.plan;
    let grid = Grid::new(args, &plan, on_gpus);
    if grid.len() > SETTINGS_MAX {
        return Err(Failure::Usage(format!(
            "the lists make {} settings, needed at most {SETTINGS_MAX}: each has rings of its own",
            grid.len()
        )));
    }
    let forced = grid.settings(plan.lanes);
    let (all, refused) = open(automatic, &settings, &forced, args, count_max)?;
    let bytes_max = count_max.checked_mul(args.datatype.bytes()).context("the largest size")?;
    let operands = Operands::new(all[0].ranks(), bytes_max, args.datatype, args.op, args.seed)?;
    let report = Report::new(args.format, &all[0].ranks()[0], &operands, algorithm);
    report.begin(&header(args, &all))?;
    refused.iter().try_for_each(|refused| report.refused(refused))?;

    let pace = match args.time {
        Some(time) => Pace::Time(time),
        None => Pace::Turns(args.turns.unwrap_or(if args.smoke { 1 } else { TURNS })),
    };
    let mut course = Course::new(all, refused, operands, pace, !on_gpus);
    let mut progress = match pace {
        Pace::Turns(_) => Progress::new(course.steps(counts.len())),
        Pace::Time(_) => Progress::of_rate(course.steps(counts.len())),
    };
    let mut outcomes = Vec::new();
    for (place, &count) in counts.iter().enumerate() {
        let refused = course.refused.len();
        let outcome = course.run(count, counts.len() - place, &mut progress)?;
        progress.aside(|| -> std::io::Result<()> {
            course.refused[refused..].iter().try_for_each(|refused| report.refused(refused))?;
            report.size(&outcome, course.settings[0].launch())
        })?;
        outcomes.push(outcome);
    }
    progress.finish();
    report.end(&outcomes, course.refused.len())?;
    if let Some(path) = &args.plot {
        let title = title(args, &course.settings[0]);
        heatmap::draw(path, &title, &forced, &outcomes).map_err(|error| anyhow!("--plot {error}"))?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.wrong() == 0))
}

/// Refuses what can be seen to be wrong before anything is built.
fn check_usage(args: &Sweep) -> Result<(), Failure> {
    if !args.op.supports(args.datatype) {
        return Err(Failure::Usage("avg is for floats only: choose f16, bf16, f32 or f64".into()));
    }
    // The default of the largest size only widens the range, so one that is bad now stays bad.
    let (min, max, step) = args.sizes(false, u64::MAX);
    sizes(min, max, step).map_err(Failure::Usage)?;
    match &args.plot {
        Some(path) => plot::try_path(path).map_err(|error| Failure::Usage(format!("--plot {error}"))),
        None => Ok(()),
    }
}

/// What the flags say, and the environment where they say nothing.
fn settings(args: &Sweep, settings: Settings) -> Result<Settings, Failure> {
    let algorithm = args.algo.or(settings.forced.algorithm).unwrap_or(Algorithm::Ring);
    let numbers = Forced { algorithm: None, ..settings.forced };
    if !numbers.is_empty() {
        return Err(Failure::Usage(format!(
            "the environment forces {}, so there is no automatic plan to compare with: unset it, and use --lanes, \
             --slot-bytes, --slots and --blocks",
            numbers
        )));
    }
    if algorithm == Algorithm::Neighbour {
        return Err(Failure::Usage(
            "the settings of a sweep are held against one result, and by neighbour the result depends on the setting: use \
             myelon all-reduce --algo neighbour with --lanes, --slot-bytes and --slots, one after the other"
                .into(),
        ));
    }
    let ring_only = [&args.slot_bytes, &args.slots, &args.blocks, &args.lanes_per_worker];
    if algorithm != Algorithm::Ring && ring_only.iter().any(|values| !values.is_empty()) {
        return Err(Failure::Usage(format!(
            "{algorithm} has no slots, and a block for each lane: use --lanes and --threads alone"
        )));
    }
    // The sweep's own buffers are windows; only direct has a use for that.
    let windows = settings.windows.or((algorithm == Algorithm::Direct).then_some(true));
    Ok(Settings {
        forced: Forced { algorithm: Some(algorithm), ..Forced::default() },
        windows,
        tuning: args.tuning.clone().or(settings.tuning),
        backend: args.backend.or(settings.backend),
        ranks: args.ranks.map(usize::from).or(settings.ranks),
        policy: args.policy.or(settings.policy),
        deadline: args.deadline.or(settings.deadline),
        ..settings
    })
}

/// The automatic setting first, then every forced one that can be had; and those that cannot.
fn open(
    automatic: Setting,
    settings: &Settings,
    forced: &[Forced],
    args: &Sweep,
    count: usize,
) -> Result<(Vec<Setting>, Vec<Refused>), Failure> {
    let (mut all, mut refused) = (vec![automatic], Vec::new());
    let mut progress = Progress::new(forced.len() as u64);
    for &forced in forced {
        progress.begin(format!("opening {forced}"));
        match all[0].forced(settings, forced, args.datatype, count) {
            Ok(setting) => all.push(setting),
            Err(error) if is_refusal(&error) => refused.push(Refused { forced, why: error.to_string() }),
            Err(error) => return Err(of_setting(forced, error)),
        }
        progress.step();
    }
    progress.finish();
    match refused.first() {
        Some(Refused { forced, why }) if all.len() == 1 => Err(Failure::Usage(format!(
            "all {} settings were refused, the first of them, {forced}, because {why}",
            refused.len()
        ))),
        None if all.len() == 1 => {
            Err(Failure::Usage("the lists say auto and nothing else: there is nothing to compare".into()))
        }
        _ => Ok((all, refused)),
    }
}

fn of_setting(forced: Forced, error: Error) -> Failure {
    Failure::Run(anyhow::Error::new(error).context(forced.to_string()))
}

/// What runs where, and how often.
fn header(args: &Sweep, all: &[Setting]) -> Vec<String> {
    let ranks = all[0].ranks();
    let rings: u64 = all.iter().map(|setting| setting.ranks()[0].ring_bytes()).sum();
    let turns = match (args.time, args.turns) {
        (Some(time), _) => format!("as many as fit into {} s", time.as_secs_f64()),
        (None, turns) => turns.unwrap_or(if args.smoke { 1 } else { TURNS }).to_string(),
    };
    let smoke = if args.smoke { "; a smoke run, its figures mean nothing" } else { "" };
    vec![
        format!(
            "myelon {} sweep of all-reduce by {}, {} of {}, out of place",
            env!("CARGO_PKG_VERSION"),
            algorithm(&all[0]),
            args.op,
            args.datatype
        ),
        format!("backend  {}: {}", ranks[0].backend(), ranks[0].backend_reason()),
        format!("ranks    {}", ranks_and_devices(ranks)),
        format!("rings    {} a rank, of all {} settings together", about_bytes(rings), all.len()),
        format!("table    {}", ranks[0].table_reason()),
        format!("turns    {turns}{smoke}"),
    ]
}

/// Whose settings are swept.
fn algorithm(automatic: &Setting) -> Algorithm {
    automatic.ranks()[0].tuning().forced_values().algorithm.unwrap_or(Algorithm::Ring)
}

/// The title of the picture.
fn title(args: &Sweep, automatic: &Setting) -> String {
    let rank = &automatic.ranks()[0];
    let smoke = if args.smoke { ", a smoke run" } else { "" };
    format!(
        "all-reduce by {}, {} of {}, over {} ranks, {} backend{smoke}",
        algorithm(automatic),
        args.op,
        args.datatype,
        rank.ranks(),
        rank.backend()
    )
}
