//! `myelon simulate`: runs seeds in the simulator, and shows what it finds.

mod args;
mod numbers;
mod report;
mod timeline;
mod words;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use comfy_table::Table;
use myelon_collectives::{DataType, ReduceOp, Settings, reference};
use myelon_sim::simulation::{Found, Hunt, Mutant, Searched, Simulation};

use args::Format;
pub use args::Simulate;
use report::Outcome;
use timeline::Timeline;

use crate::failure::Failure;
use crate::plot;
use crate::progress::Progress;

/// Events that are kept for a picture, and for each step that is shown: events that say nothing are not.
const EVENTS_OF_PICTURE: usize = 200_000;
const EVENTS_OF_STEP: usize = 10;

/// Runs the command; `true` where no seed broke a rule.
pub fn run(args: &Simulate) -> Result<bool, Failure> {
    // No setting changes a simulation, but one that is mistyped is refused as everywhere.
    Settings::from_env()?;
    if args.list_mutants {
        return list_mutants(args.format).map(|()| true);
    }
    if let Some(path) = &args.timeline {
        if let Some(protocol) = args.mutant.and_then(|mutant| mutant.protocol()) {
            return Err(Failure::Usage(format!(
                "--timeline has nothing to draw: the protocol {protocol} has no slots"
            )));
        }
        plot::try_path(path).map_err(|error| Failure::Usage(format!("--timeline {error}")))?;
    }
    args.check_types().map_err(Failure::Usage)?;
    args.check_size().map_err(Failure::Usage)?;
    let hunt = hunt(args);
    report::header(args, &hunt)?;
    let start = Instant::now();
    let searched = search(args, &hunt, start);
    let outcome = Outcome { searched, elapsed: start.elapsed() };
    if let Some(path) = &args.timeline {
        draw(path, args, &hunt, &outcome.searched)?;
    }
    report::outcome(args, &outcome)?;
    Ok(outcome.searched.is_ok())
}

fn hunt(args: &Simulate) -> Hunt {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let trace = match &args.timeline {
        Some(_) => EVENTS_OF_PICTURE,
        None => args.trace as usize * EVENTS_OF_STEP,
    };
    Hunt {
        limits: args.limits(),
        mutant: args.mutant.unwrap_or(Mutant::NONE),
        reference: by_name,
        threads: args.threads.map_or_else(cores, usize::from),
        trace,
    }
}

/// The reference of the library, for names of types and operations.
fn by_name(dtype: &str, op: &str, inputs: &[&[u8]]) -> Vec<u8> {
    let dtype: DataType = dtype.parse().expect("simulated types are those of the library");
    let op: ReduceOp = op.parse().expect("simulated operations are those of the library");
    reference::all_reduce(dtype, op, inputs)
}

/// Runs the seeds, with a progress bar.
fn search(args: &Simulate, hunt: &Hunt, start: Instant) -> Result<Searched, Box<Found>> {
    let milliseconds = |duration: Duration| duration.as_millis() as u64;
    let seeds = match args.until {
        Some(_) => args.seeds.0.start..u64::MAX,
        None => args.seeds.0.clone(),
    };
    let length = args.until.map_or(seeds.end - seeds.start, milliseconds);
    let seen = Mutex::new((Progress::of_rate(length), 0));
    let goes_on = || {
        let elapsed = start.elapsed();
        let (progress, seeds) = &mut *seen.lock().expect("nobody panics with it");
        *seeds += 1;
        let rate = *seeds as f64 / elapsed.as_secs_f64();
        progress.begin(format!("{seeds} seeds, {rate:.0} seeds/s"));
        progress.at(args.until.map_or(*seeds, |_| milliseconds(elapsed)));
        args.until.is_none_or(|until| elapsed < until)
    };
    let searched = hunt.search(seeds, &goes_on);
    seen.into_inner().expect("nobody panics with it").0.finish();
    searched
}

/// Draws the smallest case that failed, else the case of the first seed.
fn draw(
    path: &Path,
    args: &Simulate,
    hunt: &Hunt,
    searched: &Result<Searched, Box<Found>>,
) -> anyhow::Result<()> {
    let mutant = args.mutant.map_or(String::new(), |mutant| format!(", mutant {mutant}"));
    let title = |ranks, seed| format!("{ranks} ranks, seed {seed}{mutant}: who held which slot when");
    let svg = match searched {
        Err(found) => {
            let smallest = &found.smallest;
            let shape = smallest.case.as_ref().ok_or_else(|| anyhow!("--timeline needs a case"))?.shape;
            timeline::svg(&Timeline {
                title: [title(shape.ranks, smallest.seed), smallest.violation.to_string()],
                spans: &smallest.slots.spans,
                capacity: shape.capacity,
                failed_at: Some(smallest.step),
            })
        }
        Ok(_) => {
            let seed = args.seeds.0.start;
            let case = hunt.case(seed);
            let simulation = Simulation::of(case.clone()).mutant(hunt.mutant).reference(hunt.reference);
            let (_, slots) = simulation.trace(hunt.trace).watch(seed).map_err(|failure| anyhow!(failure))?;
            timeline::svg(&Timeline {
                title: [title(case.shape.ranks, seed), "no rule was broken".into()],
                spans: &slots.spans,
                capacity: case.shape.capacity,
                failed_at: None,
            })
        }
    };
    fs::write(path, svg).map_err(|error| anyhow!("--timeline cannot write {}: {error}", path.display()))
}

/// Names for `--mutant`, and what each weakens.
fn list_mutants(format: Format) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => {
            let mut table = Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            for mutant in Mutant::all() {
                table.add_row([mutant.name(), mutant.about()]);
            }
            for line in table.lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Format::Json => {
            for mutant in Mutant::all() {
                let line = serde_json::json!({ "name": mutant.name(), "weakens": mutant.about() });
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use myelon_sim::simulation::{OPERATIONS, TYPES};

    use super::*;

    #[test]
    fn every_simulated_type_and_operation_has_a_reference() {
        for (name, bytes, is_integer) in TYPES {
            let (one, two) = (vec![0; bytes], vec![0; bytes]);
            for op in OPERATIONS.into_iter().filter(|&op| op != "avg" || !is_integer) {
                assert_eq!(by_name(name, op, &[&one, &two]), vec![0; bytes], "{name} {op}");
            }
        }
    }
}
