//! The side of a rank: a process that does what it is told line by line, and answers each line with one.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, Instant};

use myelon_collectives::{
    Backend, Communicator, DataType, Error, Graph, Process, ReduceOp, Region, reference,
};

use crate::ranks::now_us;

/// Where this is set, the program is a rank, on the backend that it names.
pub const IS_RANK: &str = "PROCESSES_TEST_RANK";

/// Where this process is a rank, reads lines until there are no more; whether it is one.
pub fn serves() -> bool {
    let Ok(backend) = std::env::var(IS_RANK) else { return false };
    serve(backend.parse().unwrap());
    true
}

fn serve(backend: Backend) {
    let mut rank = Rank { backend, ..Rank::default() };
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match rank.does(&words) {
            Ok(text) => format!("ok {} {text}", now_us()),
            Err(error) => format!("{:?} {} {error}", error.kind(), now_us()),
        };
        println!("{answer}");
        stdout().flush().unwrap();
    }
}

#[derive(Default)]
struct Rank {
    backend: Backend,
    communicator: Option<Communicator>,
    /// Another one of the same ranks.
    second: Option<Communicator>,
    /// Results that have not been compared yet.
    made: Vec<Made>,
    graphs: Vec<Graph>,
    calls: u64,
}

/// A call that was made.
struct Made {
    output: Region,
    dtype: DataType,
    op: ReduceOp,
    count: usize,
    number: u64,
    /// How often the call was made, each time in the place of its own result.
    times: usize,
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().ok().unwrap_or_else(|| panic!("{word} is no number"))
}

/// The input of `rank` in a call: small whole numbers, of which products stay exact.
fn input(dtype: DataType, count: usize, rank: usize, call: u64) -> Vec<u8> {
    let value = |at: usize| ((at * 7 + rank * 13 + call as usize * 3) % 5) as u8;
    let values = (0..count).map(value);
    match dtype {
        DataType::F32 => values.flat_map(|value| f32::from(value).to_ne_bytes()).collect(),
        DataType::F64 => values.flat_map(|value| f64::from(value).to_ne_bytes()).collect(),
        DataType::I32 => values.flat_map(|value| i32::from(value).to_ne_bytes()).collect(),
        DataType::U8 => values.collect(),
        other => panic!("no values of {other}"),
    }
}

impl Rank {
    fn does(&mut self, words: &[&str]) -> Result<String, Error> {
        match *words {
            ["join", rank, ranks, meeting, deadline_ms, limit_ms, ref promise @ ..] => {
                let limit = Duration::from_millis(number(limit_ms));
                let process = Process::new(number(rank), number(ranks), meeting).within(limit);
                self.forget();
                let deadline = Duration::from_millis(number(deadline_ms));
                self.communicator = Some(self.join(&process, deadline, promise == ["windows"])?);
            }
            ["beside", rank, ranks, meeting, deadline_ms, limit_ms] => {
                let limit = Duration::from_millis(number(limit_ms));
                let process = Process::new(number(rank), number(ranks), meeting).within(limit);
                self.second = Some(self.join(&process, Duration::from_millis(number(deadline_ms)), false)?);
            }
            ["opposite", times, begin, count] => {
                self.opposite(number(times), begin == "first", number(count))?
            }
            ["from_env"] => self.communicator = Some(Communicator::from_env()?),
            ["rounds", times, rank, ranks, meeting] => {
                let process = Process::new(number(rank), number(ranks), meeting);
                for _ in 0..number::<usize>(times) {
                    self.communicator = Some(self.join(&process, Duration::from_secs(10), true)?);
                    self.call("i32", "sum", 100)?;
                    self.wait()?;
                    self.forget();
                }
            }
            ["call", dtype, op, count] => self.call(dtype, op, number(count))?,
            ["many", times, dtype, op, count] => self.many(number(times), dtype, op, number(count))?,
            ["graph", launches, calls, dtype, op, count] => {
                self.graph(number(launches), number(calls), dtype, op, number(count))?;
            }
            ["wait"] => self.wait()?,
            ["drop"] => self.forget(),
            ["free", rank] => return Ok(free(self.backend, number(rank)).to_string()),
            ["count"] => return Ok(count(self.backend)),
            // Without dropping anything.
            ["exit"] => std::process::exit(0),
            _ => panic!("nobody knows what {words:?} means"),
        }
        Ok(String::new())
    }

    fn join(&self, process: &Process, deadline: Duration, windows: bool) -> Result<Communicator, Error> {
        // Near the wrap.
        let mut builder = Communicator::builder().backend(self.backend).first_sequence(u64::MAX - 3);
        if self.backend == Backend::Cuda {
            let gpus = myelon_kernel::probe().expect("the test has looked for GPUs").devices.len();
            builder = builder.devices(vec![process.rank() % gpus]).windows(windows);
        }
        builder.deadline(deadline).join(process)
    }

    fn communicator(&mut self) -> &mut Communicator {
        self.communicator.as_mut().expect("a communicator was joined")
    }

    fn forget(&mut self) {
        self.made.clear();
        self.graphs.clear();
        (self.communicator, self.second) = (None, None);
        self.calls = 0;
    }

    fn call(&mut self, dtype: &str, op: &str, count: usize) -> Result<(), Error> {
        let (dtype, op, number) = (dtype.parse()?, op.parse()?, self.calls);
        self.calls += 1;
        let rank = self.communicator();
        let stream = rank.stream().clone();
        let bytes = input(dtype, count, rank.rank(), number);
        let (from, output) = (rank.region(bytes.len())?, rank.region(bytes.len())?);
        // What was queued before may take long, or fail; a new stream knows nothing of it.
        from.write_bytes(&rank.new_stream()?, &bytes)?;
        rank.all_reduce_region(&from, &output, dtype, op, &stream)?;
        self.made.push(Made { output, dtype, op, count, number, times: 1 });
        Ok(())
    }

    /// The same call again and again, from one input to one output.
    fn many(&mut self, times: usize, dtype: &str, op: &str, count: usize) -> Result<(), Error> {
        self.call(dtype, op, count)?;
        let (dtype, op) = (dtype.parse()?, op.parse()?);
        let number = self.calls - 1;
        let rank = self.communicator();
        let stream = rank.stream().clone();
        let bytes = input(dtype, count, rank.rank(), number);
        let (from, output) = (rank.region(bytes.len())?, rank.region(bytes.len())?);
        from.write_bytes(&rank.new_stream()?, &bytes)?;
        for _ in 1..times {
            rank.all_reduce_region(&from, &output, dtype, op, &stream)?;
        }
        self.made.push(Made { output, dtype, op, count, number, times: 1 });
        Ok(())
    }

    /// A graph of calls in place, launched several times.
    fn graph(
        &mut self,
        launches: usize,
        calls: usize,
        dtype: &str,
        op: &str,
        count: usize,
    ) -> Result<(), Error> {
        let (dtype, op, number) = (dtype.parse()?, op.parse()?, self.calls);
        self.calls += 1;
        let rank = self.communicator();
        let stream = rank.stream().clone();
        let bytes = input(dtype, count, rank.rank(), number);
        let output = rank.region(bytes.len())?;
        output.write_bytes(&stream, &bytes)?;
        let record =
            || (0..calls).try_for_each(|_| rank.all_reduce_region(&output, &output, dtype, op, &stream));
        let graph = stream.clone().capture(record)?;
        (0..launches).try_for_each(|_| graph.launch(&stream))?;
        self.graphs.push(graph);
        self.made.push(Made { output, dtype, op, count, number, times: launches * calls });
        Ok(())
    }

    /// Makes `times` calls of both communicators, each on its own stream, in turns that one of them begins.
    fn opposite(&mut self, times: usize, first_begins: bool, count: usize) -> Result<(), Error> {
        let mut both =
            [self.communicator.as_mut(), self.second.as_mut()].map(|rank| rank.expect("both were joined"));
        if !first_begins {
            both.reverse();
        }
        let mut regions = Vec::new();
        for rank in &both {
            regions.push(rank.region(4 * count)?);
        }
        for _ in 0..times {
            for (rank, region) in both.iter_mut().zip(&regions) {
                let stream = rank.stream().clone();
                rank.all_reduce_region(region, region, DataType::F32, ReduceOp::Sum, &stream)?;
            }
        }
        let ends = both.map(|rank| rank.stream().synchronize());
        ends.into_iter().collect()
    }

    /// Waits for all calls, and compares what they gave.
    fn wait(&mut self) -> Result<(), Error> {
        let made = std::mem::take(&mut self.made);
        let rank = self.communicator();
        rank.stream().synchronize()?;
        for Made { output, dtype, op, count, number, times } in made {
            let inputs: Vec<Vec<u8>> =
                (0..rank.ranks()).map(|peer| input(dtype, count, peer, number)).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let mut expected = reference::all_reduce(dtype, op, &inputs);
            for _ in 1..times {
                expected = reference::all_reduce(dtype, op, &vec![&expected[..]; rank.ranks()]);
            }
            let seen = output.read_bytes(rank.stream())?;
            assert!(seen == expected, "call {number} of {count} {dtype} {op} gave something else");
        }
        Ok(())
    }
}

/// MiB that are free on the GPU of `rank`; nothing on the host.
fn free(backend: Backend, rank: usize) -> usize {
    if backend == Backend::Host {
        return 0;
    }
    let gpus = myelon_kernel::probe().unwrap().devices.len();
    myelon_kernel::Device::open(rank % gpus).unwrap().memory_free().unwrap() >> 20
}

/// Open descriptors, threads and mappings of windows, once the workers of what was dropped have ended.
fn count(backend: Backend) -> String {
    let entries = |path| std::fs::read_dir(path).unwrap().count();
    let now = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let windows = maps.lines().filter(|line| line.contains("memfd:")).count();
        format!("{} {} {windows}", entries("/proc/self/fd"), entries("/proc/self/task"))
    };
    let start = Instant::now();
    let mut seen = now();
    // They end by themselves, when nobody holds their stream any more.
    let is_left = |seen: &str| backend == Backend::Host && !seen.ends_with(" 1 0");
    if backend == Backend::Cuda {
        std::thread::sleep(Duration::from_millis(500));
        seen = now();
    }
    while start.elapsed() < Duration::from_secs(5) && is_left(&seen) {
        std::thread::sleep(Duration::from_millis(5));
        seen = now();
    }
    seen
}
