//! The side of a rank: a process that does what it is told line by line, and answers each line with one.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, Instant};

use myelon_collectives::{
    Backend, Communicator, DataType, Error, Graph, Process, ReduceOp, Region, reference,
};

use crate::ranks::now_us;

/// Where this is set, the program is a rank.
pub const IS_RANK: &str = "PROCESSES_TEST_RANK";

/// Reads lines until there are no more.
pub fn serve() {
    let mut rank = Rank::default();
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
    communicator: Option<Communicator>,
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
            ["join", rank, ranks, meeting, deadline_ms, limit_ms] => {
                let limit = Duration::from_millis(number(limit_ms));
                let process = Process::new(number(rank), number(ranks), meeting).within(limit);
                self.forget();
                self.communicator = Some(join(&process, Duration::from_millis(number(deadline_ms)))?);
            }
            ["from_env"] => self.communicator = Some(Communicator::from_env()?),
            ["rounds", times, rank, ranks, meeting] => {
                let process = Process::new(number(rank), number(ranks), meeting);
                for _ in 0..number::<usize>(times) {
                    self.communicator = Some(join(&process, Duration::from_secs(10))?);
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
            ["count"] => return Ok(count()),
            // Without dropping anything.
            ["exit"] => std::process::exit(0),
            _ => panic!("nobody knows what {words:?} means"),
        }
        Ok(String::new())
    }

    fn communicator(&mut self) -> &mut Communicator {
        self.communicator.as_mut().expect("a communicator was joined")
    }

    fn forget(&mut self) {
        self.made.clear();
        self.graphs.clear();
        self.communicator = None;
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

fn join(process: &Process, deadline: Duration) -> Result<Communicator, Error> {
    // Near the wrap.
    let builder = Communicator::builder().backend(Backend::Host).first_sequence(u64::MAX - 3);
    builder.deadline(deadline).join(process)
}

/// Open descriptors, threads and mappings of windows, once the workers of what was dropped have ended.
fn count() -> String {
    let entries = |path| std::fs::read_dir(path).unwrap().count();
    let now = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let windows = maps.lines().filter(|line| line.contains("memfd:")).count();
        format!("{} {} {windows}", entries("/proc/self/fd"), entries("/proc/self/task"))
    };
    let start = Instant::now();
    let mut seen = now();
    // They end by themselves, when nobody holds their stream any more.
    while start.elapsed() < Duration::from_secs(5) && !seen.ends_with(" 1 0") {
        std::thread::sleep(Duration::from_millis(5));
        seen = now();
    }
    seen
}
