//! Which lanes, slots and blocks are best for which size, and how far the automatic plan is from it.
//!
//! Every setting is forced on a communicator of its own, through the public API, and for each size all settings
//! take turns, so that the machine's moods hit them alike. A call is an out-of-place sum of f32; what is timed
//! stands in docs/measurements.md. Every output of every setting is compared before a time is printed.
//!
//! `cargo bench -p myelon-benches --bench lane_sweep -- [--backend auto|host|cuda] [--ranks N]
//! [--sizes 64K,1M,16M] [--csv FILE] [--smoke]`. `--smoke` (or `MYELON_BENCH_SMOKE=1`) takes about a second and
//! its figures mean nothing. On the host a single thread's copy of as many bytes is timed in the same turns.

use std::fmt::Write as _;
use std::sync::Barrier;
use std::time::Instant;

use myelon_collectives::{Backend, Buffer, Communicator, Error, ErrorKind, Launch, ReduceOp};
use myelon_lanes::{Forced, format_bytes, parse_bytes};

/// What one setting may be timed for in one turn, in microseconds.
const TURN_US: f64 = 20_000.0;
/// Calls in a turn at most.
const CALLS_MAX: u32 = 100;

struct Arguments {
    backend: Backend,
    ranks: Option<usize>,
    sizes: Option<Vec<usize>>,
    csv: Option<String>,
    smoke: bool,
}

impl Arguments {
    fn read() -> Self {
        let smoke = std::env::var_os("MYELON_BENCH_SMOKE").is_some_and(|value| value == "1");
        let mut read = Self { backend: Backend::Auto, ranks: None, sizes: None, csv: None, smoke };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => {} // what cargo says
                "--smoke" => read.smoke = true,
                "--csv" => read.csv = Some(value()),
                "--backend" => read.backend = value().parse().unwrap_or_else(|error| panic!("{error}")),
                "--ranks" => read.ranks = Some(value().parse().expect("--ranks needs a number")),
                "--sizes" => {
                    let size = |text: &str| parse_bytes(text).unwrap_or_else(|error| panic!("{error}"));
                    read.sizes = Some(value().split(',').map(|text| size(text) as usize & !3).collect());
                }
                other => panic!(
                    "unknown argument {other:?}; known are --backend, --ranks, --sizes, --csv FILE and --smoke"
                ),
            }
        }
        read
    }
}

/// The values that a sweep takes.
struct Grid {
    lanes: &'static [u32],
    slot_bytes: &'static [u32],
    /// Lanes that a worker serves: 1 gives each lane its own three blocks. Makes no difference on the host.
    lanes_per_worker: &'static [u32],
    sizes: &'static [usize],
    turns: usize,
}

const KIB: u32 = 1 << 10;
const MIB: usize = 1 << 20;

fn grid(backend: Backend, smoke: bool) -> Grid {
    match (backend, smoke) {
        (Backend::Cuda, false) => Grid {
            lanes: &[4, 8, 16, 24, 32, 40],
            slot_bytes: &[4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB],
            lanes_per_worker: &[1, 2],
            sizes: &[MIB / 16, MIB / 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB],
            turns: 5,
        },
        (_, false) => Grid {
            lanes: &[1, 2, 4, 8],
            slot_bytes: &[4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB],
            lanes_per_worker: &[1],
            sizes: &[MIB / 256, MIB / 16, MIB, 16 * MIB, 64 * MIB],
            turns: 5,
        },
        (_, true) => Grid {
            lanes: &[1, 2],
            slot_bytes: &[4 * KIB, 64 * KIB],
            lanes_per_worker: &[1],
            sizes: &[MIB / 256, MIB / 4],
            turns: 1,
        },
    }
}

/// A communicator with forced values, or the automatic one where nothing is forced.
struct Setting {
    forced: Forced,
    ranks: Vec<Communicator>,
    /// What was launched last.
    launch: Option<Launch>,
    /// Microseconds a call, one a turn, for the size at hand.
    times_us: Vec<f64>,
}

impl Setting {
    fn open(arguments: &Arguments, forced: Forced) -> Result<Self, Error> {
        let mut builder = Communicator::builder().backend(arguments.backend).forced(forced);
        if let Some(ranks) = arguments.ranks {
            builder = builder.ranks(ranks);
        }
        Ok(Self { forced, ranks: builder.build()?, launch: None, times_us: Vec::new() })
    }

    /// `calls` calls on every rank, each from a thread of its own; microseconds a call, the slowest rank's.
    fn time(&mut self, calls: u32, operands: &mut [Operands]) -> Result<f64, Error> {
        let start = Barrier::new(self.ranks.len());
        let times: Vec<Result<f64, Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .ranks
                .iter_mut()
                .zip(operands)
                .map(|(rank, operands)| scope.spawn(|| time_rank(rank, operands, calls, &start)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut slowest_us = 0.0f64;
        for time_us in times {
            slowest_us = slowest_us.max(time_us?);
        }
        self.launch = self.ranks[0].last_launch().cloned();
        Ok(slowest_us)
    }

    fn median_us(&self) -> f64 {
        median(&self.times_us)
    }
}

fn time_rank(
    rank: &mut Communicator,
    (input, output): &mut Operands,
    calls: u32,
    start: &Barrier,
) -> Result<f64, Error> {
    let stream = rank.stream().clone();
    // Every rank comes to the barrier, failed or not: the others wait for it.
    let warm = rank.all_reduce(input, output, ReduceOp::Sum, &stream).and_then(|()| stream.synchronize());
    start.wait();
    warm?;
    let from = stream.mark()?;
    for _ in 0..calls {
        rank.all_reduce(input, output, ReduceOp::Sum, &stream)?;
    }
    let to = stream.mark()?;
    stream.synchronize()?;
    Ok(to.elapsed_us(&from)? / f64::from(calls))
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One rank's input and output, which all settings use in turn.
type Operands = (Buffer<f32>, Buffer<f32>);

/// Small whole numbers: their sum over the ranks is exact in any order.
fn value(rank: usize, index: usize) -> f32 {
    ((index * 7 + rank * 131) % 1009) as f32
}

fn operands(ranks: &[Communicator], count: usize) -> Result<Vec<Operands>, Error> {
    let of_rank = |rank: &Communicator| {
        let mut input = rank.buffer::<f32>(count)?;
        let values: Vec<f32> = (0..count).map(|index| value(rank.rank(), index)).collect();
        input.write(rank.stream(), &values)?;
        Ok((input, rank.buffer::<f32>(count)?))
    };
    ranks.iter().map(of_rank).collect()
}

/// Compares every rank's output with the sum, and poisons it for whoever comes next.
fn check(setting: &Setting, operands: &mut [Operands], sum: &[f32]) -> Result<(), Error> {
    let poison = vec![-1.0; sum.len()];
    for (rank, (_, output)) in setting.ranks.iter().zip(operands) {
        let seen = output.read(rank.stream())?;
        if let Some(index) = seen.iter().zip(sum).position(|(seen, needed)| seen != needed) {
            let (needed, seen, rank) = (sum[index], seen[index], rank.rank());
            panic!("rank {rank}, element {index}: needed {needed}, saw {seen}, with {:?}", setting.launch);
        }
        output.write(rank.stream(), &poison)?;
    }
    Ok(())
}

/// The automatic setting first, then every forced one that is not refused, and the refusals.
fn settings(arguments: &Arguments, automatic: Setting, grid: &Grid) -> (Vec<Setting>, Vec<String>) {
    let on_gpus = automatic.ranks[0].backend() == Backend::Cuda;
    let (mut settings, mut refused) = (vec![automatic], Vec::new());
    for &lanes in grid.lanes {
        for &slot_bytes in grid.slot_bytes {
            for &lanes_per_worker in grid.lanes_per_worker {
                let blocks = on_gpus.then_some(3 * (lanes / lanes_per_worker));
                let (lanes, piece_bytes) = (Some(lanes), Some(slot_bytes));
                let forced = Forced { lanes, piece_bytes, blocks, ..Forced::default() };
                match Setting::open(arguments, forced) {
                    Ok(setting) => settings.push(setting),
                    Err(error) if is_refusal(&error) => refused.push(format!("{forced}: {error}")),
                    Err(error) => panic!("{forced}: {error}"),
                }
            }
        }
    }
    (settings, refused)
}

fn is_refusal(error: &Error) -> bool {
    let kinds = [ErrorKind::InvalidArgument, ErrorKind::NotResident, ErrorKind::OutOfMemory];
    kinds.contains(&error.kind())
}

/// Bytes that one thread copies in a second, in 1e9.
fn copy_gbps(from: &[f32], to: &mut [f32]) -> f64 {
    let start = Instant::now();
    to.copy_from_slice(std::hint::black_box(from));
    std::hint::black_box(to);
    size_of_val(from) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Times all settings for one size, turn by turn, and returns the rates of a copy in the same turns.
fn sweep(settings: &mut [Setting], bytes: usize, turns: usize, on_host: bool) -> Result<Vec<f64>, Error> {
    let count = bytes / size_of::<f32>();
    let ranks = settings[0].ranks.len();
    let mut operands = operands(&settings[0].ranks, count)?;
    let sum: Vec<f32> =
        (0..count).map(|index| (0..ranks).map(|rank| value(rank, index)).sum::<f32>()).collect();

    let mut calls = Vec::new();
    for setting in settings.iter_mut() {
        setting.times_us.clear();
        let once_us = setting.time(1, &mut operands)?;
        check(setting, &mut operands, &sum)?;
        calls.push(((TURN_US / once_us) as u32).clamp(1, CALLS_MAX));
    }
    let (mut copies, mut copied) = (Vec::new(), vec![0.0; if on_host { count } else { 0 }]);
    for _ in 0..turns {
        for (setting, &calls) in settings.iter_mut().zip(&calls) {
            let time_us = setting.time(calls, &mut operands)?;
            check(setting, &mut operands, &sum)?;
            setting.times_us.push(time_us);
        }
        if on_host {
            copies.push(copy_gbps(&sum, &mut copied));
        }
    }
    Ok(copies)
}

fn main() {
    if let Err(error) = run(&Arguments::read()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let automatic = Setting::open(arguments, Forced::default())?;
    let (backend, ranks) = (automatic.ranks[0].backend(), automatic.ranks.len());
    let on_host = backend == Backend::Host;
    let grid = grid(backend, arguments.smoke);
    println!("{ranks} ranks, {backend}: {}", automatic.ranks[0].backend_reason());
    let (mut settings, refused) = settings(arguments, automatic, &grid);
    println!(
        "all-reduce, sum of f32, out of place: {} settings, median of {} interleaved turns{}",
        settings.len(),
        grid.turns,
        if arguments.smoke { "; a smoke run, the figures mean nothing" } else { "" }
    );
    for refusal in &refused {
        println!("refused: {refusal}");
    }

    let mut table = String::from(
        "backend,ranks,bytes,setting,lanes,slot_bytes,slots,blocks,threads,time_us,algbw_gbps,busbw_gbps,copy_gbps\n",
    );
    println!(
        "{:>8}{:>12}{:>9}{:>9}{:>12}{:>9}{:>9}{:>11}{:>8}  best setting; automatic plan",
        "size", "automatic", "algbw", "busbw", "best", "algbw", "busbw", "auto/best", "copy"
    );
    let sizes = arguments.sizes.clone().unwrap_or_else(|| grid.sizes.to_vec());
    for bytes in sizes {
        let copies = sweep(&mut settings, bytes, grid.turns, on_host)?;
        let copy = if copies.is_empty() { 0.0 } else { median(&copies) };
        let bus = 2.0 * (ranks as f64 - 1.0) / ranks as f64;
        let algbw = |time_us: f64| bytes as f64 / time_us / 1e3;
        for setting in &settings {
            let plan = setting.launch.as_ref().expect("it was called").plan;
            let name = if setting.forced.is_empty() { "automatic" } else { "forced" };
            let time_us = setting.median_us();
            let rate = algbw(time_us);
            writeln!(
                table,
                "{backend},{ranks},{bytes},{name},{},{},{},{},{},{time_us:.2},{rate:.3},{:.3},{copy:.3}",
                plan.lanes,
                plan.piece_bytes,
                plan.slots,
                plan.blocks,
                plan.threads,
                rate * bus
            )
            .expect("a string");
        }
        let best = settings.iter().min_by(|a, b| a.median_us().total_cmp(&b.median_us()));
        let (best, automatic) = (best.expect("one at least"), &settings[0]);
        let figures = |setting: &Setting| {
            let (time_us, rate) = (setting.median_us(), algbw(setting.median_us()));
            format!("{time_us:>12.1}{rate:>9.2}{:>9.2}", rate * bus)
        };
        let plan = |setting: &Setting| setting.launch.as_ref().expect("it was called").plan;
        println!(
            "{:>8}{}{}{:>11.2}{:>8}  {}; {}",
            format_bytes(bytes as u64),
            figures(automatic),
            figures(best),
            automatic.median_us() / best.median_us(),
            if on_host { format!("{copy:.2}") } else { "-".into() },
            if best.forced.is_empty() { "automatic".into() } else { best.forced.to_string() },
            plan(automatic)
        );
    }
    println!("times in us a call, rates in 1e9 bytes a second; copy: one thread of the host");
    if let Some(file) = &arguments.csv {
        std::fs::write(file, table).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    Ok(())
}
