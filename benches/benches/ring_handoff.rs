//! What it costs to hand a message from one thread to another: the ring, crossbeam's `ArrayQueue` and the
//! `disruptor` crate, in the same run, in turn.
//!
//! | measure | what | unit |
//! |---|---|---|
//! | latency | a message of 8 bytes goes there and back; half of it | ns, median and 99th percentile |
//! | throughput | one thread writes each message anew, the other checks each byte | ns a message, median of stretches of 8192 messages |
//!
//! All ends wait alike: they poll without a pause, and yield to the operating system only after 1000 polls,
//! when the other end must have lost its core. In form `one` messages are published one by one, in form
//! `batch` by 32, where there is such a form; the other end takes what is there. `ArrayQueue` knows one form
//! only, and stands in both. Contents are checked before anything is printed.
//!
//! A slot of the ring holds whole vectors of 16 bytes and has a sequence word of its own, so that a message
//! of 8 bytes moves 24; a rival's slot is as large as the message. In batches of 8-byte messages, where lines
//! are all that counts, the `disruptor` is therefore ahead; with slots of equal size they are even.
//!
//! It wants two idle cores. Where the threads share one, all figures are those of the scheduler.
//!
//! `cargo bench -p myelon-benches --bench ring_handoff -- [--smoke] [--csv FILE]`. `--smoke` (or
//! `MYELON_BENCH_SMOKE=1`) takes about a second and its figures mean nothing.

use std::fmt::Write as _;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use disruptor::{BusySpin, Producer as _, build_single_producer};
use myelon_benches::Options;
use myelon_ring::{ring, wait::Wait};

/// Slots in each ring and queue.
const CAPACITY: usize = 1024;
/// Messages in a batch.
const BATCH: usize = 32;
/// Slots after which the ring's consumer returns credit.
const CREDIT_BATCH: usize = 256;
/// Messages from one look at the clock to the next.
const STRETCH: u64 = 8192;

/// What every end does after a poll that failed, `spin` counted from 0.
#[inline]
fn pause(spin: u32) {
    if spin >= 1000 {
        std::thread::yield_now();
    }
}

/// Polls until there is something.
#[inline]
fn poll<T>(mut something: impl FnMut() -> Option<T>) -> T {
    let mut spin = 0;
    loop {
        if let Some(thing) = something() {
            return thing;
        }
        pause(spin);
        spin = spin.saturating_add(1);
    }
}

/// The same for the ring.
struct PollThenYield;

const WAIT: PollThenYield = PollThenYield;

impl Wait for PollThenYield {
    #[inline]
    fn pause(&self, spin: u32) {
        pause(spin);
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// When how many messages had come.
struct Clock {
    marks: Vec<(u64, Instant)>,
    next: u64,
}

impl Clock {
    fn start(messages: u64) -> Self {
        let mut marks = Vec::with_capacity((messages / STRETCH) as usize + 2);
        marks.push((0, Instant::now()));
        Self { marks, next: STRETCH }
    }

    #[inline]
    fn at(&mut self, number: u64) {
        if number >= self.next {
            self.marks.push((number, Instant::now()));
            self.next = number + STRETCH;
        }
    }

    /// Nanoseconds a message, the median of all stretches but the first.
    fn per_message(self) -> f64 {
        let stretch = |pair: &[(u64, Instant)]| {
            (pair[1].1 - pair[0].1).as_nanos() as f64 / (pair[1].0 - pair[0].0) as f64
        };
        median(&mut self.marks[1..].windows(2).map(stretch).collect::<Vec<_>>())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Myelon,
    ArrayQueue,
    Disruptor,
}

const ENGINES: [Engine; 3] = [Engine::Myelon, Engine::ArrayQueue, Engine::Disruptor];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    One,
    Batch,
}

/// Every byte of a message depends on its number.
#[inline]
fn fill<const BYTES: usize>(message: &mut [u8; BYTES], number: u64) {
    for (place, word) in message.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number ^ (place as u64) << 56).to_le_bytes());
    }
}

#[inline]
fn differs<const BYTES: usize>(message: &[u8; BYTES], number: u64) -> u64 {
    message.chunks_exact(8).enumerate().fold(0, |differs, (place, word)| {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        differs | (word ^ number ^ (place as u64) << 56)
    })
}

/// Runs `produce` on a thread and `consume` here. `consume` returns how its messages differed from what they
/// should be.
fn timed(messages: u64, produce: impl FnOnce() + Send, consume: impl FnOnce(&mut Clock) -> u64) -> f64 {
    let start = Barrier::new(2);
    let clock = std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            produce();
        });
        start.wait();
        let mut clock = Clock::start(messages);
        assert_eq!(consume(&mut clock), 0, "a message arrived that was not sent");
        clock
    });
    clock.per_message()
}

fn throughput<const BYTES: usize>(engine: Engine, form: Form, messages: u64) -> f64 {
    match engine {
        Engine::Myelon => myelon_throughput::<BYTES>(form, messages),
        Engine::ArrayQueue => array_queue_throughput::<BYTES>(messages),
        Engine::Disruptor => disruptor_throughput::<BYTES>(form, messages),
    }
}

fn myelon_throughput<const BYTES: usize>(form: Form, messages: u64) -> f64 {
    let (mut producer, consumer) = ring(CAPACITY, BYTES.next_multiple_of(16), 0).expect("a ring");
    let mut consumer = consumer.with_credit_batch(CREDIT_BATCH).expect("a batch");
    let produce = move || match form {
        Form::One => {
            for number in 0..messages {
                let mut slot = producer.claim(&WAIT).expect("credit");
                fill::<BYTES>(slot.first_chunk_mut().expect("a slot"), number);
                slot.publish();
            }
        }
        Form::Batch => {
            for first in (0..messages).step_by(BATCH) {
                let mut slots = producer.claim_many(BATCH, &WAIT).expect("credit");
                for index in 0..BATCH {
                    fill::<BYTES>(slots.slot(index).first_chunk_mut().expect("a slot"), first + index as u64);
                }
                slots.publish();
            }
        }
    };
    let consume = |clock: &mut Clock| {
        let (mut number, mut wrong) = (0, 0);
        while number < messages {
            let count =
                poll(|| Some(consumer.available(CAPACITY).expect("no fault")).filter(|&count| count > 0));
            let slots = consumer.wait_many(count, &WAIT).expect("no fault");
            for index in 0..count {
                wrong |= differs::<BYTES>(slots.slot(index).first_chunk().expect("a slot"), number);
                number += 1;
            }
            slots.release();
            clock.at(number);
        }
        wrong
    };
    timed(messages, produce, consume)
}

fn array_queue_throughput<const BYTES: usize>(messages: u64) -> f64 {
    let queue = ArrayQueue::<[u8; BYTES]>::new(CAPACITY);
    let produce = || {
        for number in 0..messages {
            let mut message = [0; BYTES];
            fill(&mut message, number);
            poll(|| queue.push(message).ok());
        }
    };
    let consume = |clock: &mut Clock| {
        let mut wrong = 0;
        for number in 0..messages {
            wrong |= differs(&poll(|| queue.pop()), number);
            clock.at(number + 1);
        }
        wrong
    };
    timed(messages, produce, consume)
}

fn disruptor_throughput<const BYTES: usize>(form: Form, messages: u64) -> f64 {
    let (mut poller, builder) = build_single_producer(CAPACITY, || [0u8; BYTES], BusySpin).new_event_poller();
    let mut producer = builder.build();
    let produce = move || match form {
        Form::One => {
            for number in 0..messages {
                poll(|| producer.try_publish(|message| fill(message, number)).ok());
            }
        }
        Form::Batch => {
            for first in (0..messages).step_by(BATCH) {
                poll(|| {
                    let write = producer.try_batch_publish(BATCH, |batch| {
                        for (message, number) in batch.zip(first..) {
                            fill(message, number);
                        }
                    });
                    write.ok()
                });
            }
        }
    };
    let consume = |clock: &mut Clock| {
        let (mut number, mut wrong) = (0, 0);
        while number < messages {
            poll(|| {
                let mut batch = poller.poll().ok()?;
                for message in &mut batch {
                    wrong |= differs(message, number);
                    number += 1;
                }
                Some(())
            });
            clock.at(number);
        }
        wrong
    };
    timed(messages, produce, consume)
}

/// Half the times of `rounds` round trips, in nanoseconds, sorted, after as many as a tenth unrecorded.
fn latency(engine: Engine, rounds: usize) -> Vec<f64> {
    let total = rounds + rounds / 10;
    match engine {
        Engine::Myelon => {
            let (mut there, mut arrives) = ring(CAPACITY, 16, 0).expect("a ring");
            let (mut back, mut returns) = ring(CAPACITY, 16, 0).expect("a ring");
            let echo = move || {
                for _ in 0..total {
                    let slot = arrives.wait(&WAIT).expect("a message");
                    let message: [u8; 8] = *slot.first_chunk().expect("a slot");
                    slot.release();
                    let mut slot = back.claim(&WAIT).expect("credit");
                    slot[..8].copy_from_slice(&message);
                    slot.publish();
                }
            };
            round_trips(total, rounds, echo, |number| {
                let mut slot = there.claim(&WAIT).expect("credit");
                slot[..8].copy_from_slice(&number.to_le_bytes());
                slot.publish();
                let slot = returns.wait(&WAIT).expect("a message");
                let number = u64::from_le_bytes(*slot.first_chunk().expect("a slot"));
                slot.release();
                number
            })
        }
        Engine::ArrayQueue => {
            let there = Arc::new(ArrayQueue::<u64>::new(CAPACITY));
            let back = Arc::new(ArrayQueue::<u64>::new(CAPACITY));
            let (arrives, returns) = (there.clone(), back.clone());
            let echo = move || {
                for _ in 0..total {
                    back.push(poll(|| arrives.pop())).expect("room");
                }
            };
            round_trips(total, rounds, echo, |number| {
                there.push(number).expect("room");
                poll(|| returns.pop())
            })
        }
        Engine::Disruptor => {
            let (mut arrives, builder) =
                build_single_producer(CAPACITY, || 0u64, BusySpin).new_event_poller();
            let mut there = builder.build();
            let (mut returns, builder) =
                build_single_producer(CAPACITY, || 0u64, BusySpin).new_event_poller();
            let mut back = builder.build();
            let echo = move || {
                for _ in 0..total {
                    let number = poll(|| Some(*(&mut arrives.poll().ok()?).next().expect("an event")));
                    back.publish(|event| *event = number);
                }
            };
            round_trips(total, rounds, echo, |number| {
                there.publish(|event| *event = number);
                poll(|| Some(*(&mut returns.poll().ok()?).next().expect("an event")))
            })
        }
    }
}

fn round_trips(
    total: usize,
    rounds: usize,
    echo: impl FnOnce() + Send,
    mut round_trip: impl FnMut(u64) -> u64,
) -> Vec<f64> {
    let mut times = Vec::with_capacity(total);
    let mut wrong = 0;
    std::thread::scope(|scope| {
        scope.spawn(echo);
        for number in 0..total as u64 {
            let started = Instant::now();
            let returned = round_trip(number);
            times.push(started.elapsed().as_nanos() as f64 / 2.0);
            wrong |= returned ^ number;
        }
    });
    assert_eq!(wrong, 0, "a message came back that was not sent");
    let mut times = times.split_off(total - rounds);
    times.sort_by(f64::total_cmp);
    times
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One line of the table: a figure of each engine, in nanoseconds, one a repetition.
struct Line {
    measure: String,
    runs: [Vec<f64>; ENGINES.len()],
}

impl Line {
    fn new(measure: String) -> Self {
        Self { measure, runs: [const { Vec::new() }; ENGINES.len()] }
    }

    fn medians(&mut self) -> [f64; ENGINES.len()] {
        self.runs.each_mut().map(|runs| median(runs))
    }
}

struct Size {
    repetitions: usize,
    rounds: usize,
    messages: u64,
}

fn measure_payload<const BYTES: usize>(size: &Size) -> [Line; 2] {
    [Form::One, Form::Batch].map(|form| {
        let form_name = if form == Form::One { "one" } else { "batch" };
        let mut line = Line::new(format!("throughput {BYTES} B {form_name}"));
        for _ in 0..size.repetitions {
            for (engine, runs) in ENGINES.into_iter().zip(&mut line.runs) {
                runs.push(throughput::<BYTES>(engine, form, size.messages));
            }
        }
        line
    })
}

fn measure_latency(size: &Size) -> [Line; 2] {
    let mut middle = Line::new("latency median".to_owned());
    let mut late = Line::new("latency p99".to_owned());
    for _ in 0..size.repetitions {
        for (index, engine) in ENGINES.into_iter().enumerate() {
            let times = latency(engine, size.rounds);
            middle.runs[index].push(times[times.len() / 2]);
            late.runs[index].push(times[times.len() * 99 / 100]);
        }
    }
    [middle, late]
}

fn main() {
    let options = Options::of_process();
    let smoke = options.smoke;
    let size = if smoke {
        Size { repetitions: 1, rounds: 2_000, messages: 8 * STRETCH }
    } else {
        Size { repetitions: 11, rounds: 100_000, messages: 64 * STRETCH }
    };

    let mut lines = Vec::from(measure_latency(&size));
    lines.extend(measure_payload::<8>(&size));
    lines.extend(measure_payload::<16>(&size));
    lines.extend(measure_payload::<64>(&size));
    lines.extend(measure_payload::<256>(&size));

    let mut table =
        String::from("measure,repetitions,myelon_ns,array_queue_ns,disruptor_ns,myelon_by_better_rival\n");
    println!(
        "hand-off between two threads, ns, median of {} interleaved repetitions{}",
        size.repetitions,
        if smoke { "; a smoke run, the figures mean nothing" } else { "" }
    );
    println!(
        "{:<24}{:>10}{:>12}{:>12}{:>22}",
        "measure", "myelon", "ArrayQueue", "disruptor", "by the better rival"
    );
    for line in &mut lines {
        let [myelon, array_queue, disruptor] = line.medians();
        let ratio = myelon / array_queue.min(disruptor);
        let measure = &line.measure;
        println!("{measure:<24}{myelon:>10.1}{array_queue:>12.1}{disruptor:>12.1}{ratio:>22.2}");
        writeln!(
            table,
            "{measure},{},{myelon:.1},{array_queue:.1},{disruptor:.1},{ratio:.3}",
            size.repetitions
        )
        .expect("a string");
    }
    options.write(&table);
}
