//! What it costs a call to be recorded: by itself, while the other end of the page is as busy, and in a call of 4 KiB
//! between two ranks of the host, with and without.
//!
//! | measure | what | unit |
//! |---|---|---|
//! | clock | one look at the clock, which a call that follows another takes | ns |
//! | made | the end that makes calls | ns a call, median of stretches of 1000 |
//! | begun and done | the end that carries them out, where calls follow each other | likewise |
//! | enqueue | an all-reduce is made, on one rank | ns a call, median of stretches of 500 |
//! | call | it is made and carried out on both ranks | likewise |
//!
//! `busy` counts only stretches beside which the other end wrote about as much, on another core. `difference` is the
//! median over pairs of stretches, with and without by turns. That the page holds the calls and the buffer the result is
//! checked before anything is printed.
//!
//! It wants two idle cores. Where other work shares them, calls are the scheduler's and so is most of a difference.
//!
//! `cargo bench -p myelon-benches --bench record_cost -- [--smoke] [--csv FILE]`. `--smoke` (or
//! `MYELON_BENCH_SMOKE=1`) takes a few seconds at most and its figures mean nothing.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use myelon_benches::Options;
use myelon_collectives::{Backend, Buffer, Communicator, RecordPlace, ReduceOp};
use myelon_recorder::{About, Count, Folder, Recorder, Row, Waits, now_ns};

/// Calls from one look at the clock to the next.
const STRETCH: u64 = 1000;
/// The same of calls that are carried out.
const CALLS: usize = 500;
/// Elements of such a call: 4 KiB.
const COUNT: usize = 1024;
/// How long stretches beside a busy end are waited for; if half of them do not come, there is no such line.
const PATIENCE: Duration = Duration::from_secs(2);

/// An end of a page, and what it does for call `number`.
type End = fn(&Recorder, u64);

fn made(recorder: &Recorder, number: u64) {
    black_box(recorder.made(row(number)));
}

fn ran(recorder: &Recorder, number: u64) {
    recorder.start(row(number), true);
    recorder.done(&Waits::default());
}

fn row(number: u64) -> Row {
    let (lanes, slots, piece_bytes, stream) = (1, 4, 65_536, 1);
    let bytes = COUNT as u64 * 4;
    Row { number, calls: 1, call: 7, lanes, slots, piece_bytes, stream, bytes, ..Row::default() }
}

/// Nanoseconds each time `what` is done, over a stretch.
fn stretch(mut what: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..STRETCH).for_each(|_| what());
    started.elapsed().as_nanos() as f64 / STRETCH as f64
}

/// What two threads of the bench share, in lines of its own: else it would be this that is measured.
#[repr(align(128))]
struct Own<T>(T);

/// `end` alone, and with `other` beside it on a page of a file.
fn ends(end: End, other: End, stretches: usize) -> [Vec<f64>; 2] {
    let place = std::env::temp_dir().join(format!("myelon-record-cost-{}", std::process::id()));
    let folder = Folder::create(&place).expect("a folder");
    let recorder = Recorder::in_folder(&folder, &About { ranks: 2, ..About::default() }).expect("a page");
    let mut number = 0;
    let mut call = || {
        number += 1;
        end(&recorder, number);
    };
    stretch(&mut call);
    let alone = (0..stretches).map(|_| stretch(&mut call)).collect();

    let (stop, beside) = (Own(AtomicBool::new(false)), Own(AtomicU64::new(0)));
    let mut busy = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDER: Relaxed is enough, here and below. Nothing is handed over.
            for number in 1.. {
                if stop.0.load(Ordering::Relaxed) {
                    break;
                }
                other(&recorder, number);
                beside.0.store(number, Ordering::Relaxed);
            }
        });
        let started = Instant::now();
        while busy.len() < stretches && started.elapsed() < PATIENCE {
            let before = beside.0.load(Ordering::Relaxed);
            let ns = stretch(&mut call);
            // Much more, and this end had lost its core to the other one.
            let written = beside.0.load(Ordering::Relaxed) - before;
            if (STRETCH / 16..STRETCH * 16).contains(&written) {
                busy.push(ns);
            }
        }
        stop.0.store(true, Ordering::Relaxed);
    });
    if busy.len() < stretches / 2 {
        // There are no two cores for them.
        busy.clear();
    }
    let page = folder.pages().expect("the folder").remove(0);
    let seen = [Count::CallsMade, Count::CallsDone].map(|count| page.count(count));
    assert!(seen.contains(&number), "the page says {seen:?} of call {number}");
    drop(recorder);
    std::fs::remove_dir(&place).expect("an empty folder");
    [alone, busy]
}

/// Two ranks of the host, and what they reduce.
struct Ranks(Vec<(Communicator, Buffer<f32>)>);

impl Ranks {
    fn new(record: RecordPlace) -> Self {
        let is_recorded = record != RecordPlace::None;
        let ranks = Communicator::builder().backend(Backend::Host).ranks(2).record(record);
        let ranks = ranks.build().expect("two ranks").into_iter().map(|rank| {
            assert_eq!(rank.record_file().is_some(), is_recorded);
            let mut buffer = rank.buffer(COUNT).expect("a buffer");
            buffer.write(rank.stream(), &[rank.rank() as f32; COUNT]).expect("what is reduced");
            (rank, buffer)
        });
        Self(ranks.collect())
    }

    /// Nanoseconds to enqueue a call on one rank, and to make it on both and carry it out.
    fn stretch(&mut self) -> [f64; 2] {
        let started = Instant::now();
        for _ in 0..CALLS {
            for (rank, buffer) in &mut self.0 {
                let stream = rank.stream().clone();
                rank.all_reduce_in_place(buffer, ReduceOp::Max, &stream).expect("a call");
            }
        }
        let enqueued = started.elapsed();
        self.0.iter().for_each(|(rank, _)| rank.stream().synchronize().expect("no fault"));
        let ns = |time: Duration, calls: usize| time.as_nanos() as f64 / calls as f64;
        [ns(enqueued, CALLS * self.0.len()), ns(started.elapsed(), CALLS)]
    }

    fn check(&self) {
        for (rank, buffer) in &self.0 {
            assert_eq!(buffer.read(rank.stream()).expect("the result"), [1.0; COUNT]);
        }
    }
}

/// Of enqueueing and of whole calls: without, with, and the difference. Where the ranks' threads and memory come to lie
/// matters more than the record, so every few pairs have ranks of their own.
fn calls(pairs: usize) -> [[Vec<f64>; 3]; 2] {
    let place = std::env::temp_dir().join(format!("myelon-record-cost-{}-calls", std::process::id()));
    let mut figures: [[Vec<f64>; 3]; 2] = Default::default();
    let mut ranks = Vec::new();
    for pair in 0..pairs {
        if pair % 10 == 0 {
            ranks = [RecordPlace::None, RecordPlace::Folder(place.clone())].map(Ranks::new).into();
            ranks.iter_mut().for_each(|ranks| _ = ranks.stretch());
        }
        let mut seen = [[0.0; 2]; 2];
        for turn in [pair % 2, 1 - pair % 2] {
            seen[turn] = ranks[turn].stretch();
        }
        for (measure, figures) in figures.iter_mut().enumerate() {
            let [without, with] = seen.map(|both| both[measure]);
            for (values, value) in figures.iter_mut().zip([without, with, with - without]) {
                values.push(value);
            }
        }
        ranks.iter().for_each(Ranks::check);
    }
    drop(ranks);
    std::fs::remove_dir(&place).expect("an empty folder");
    figures
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let options = Options::of_process();
    let smoke = options.smoke;
    let (stretches, pairs) = if smoke { (20, 4) } else { (2000, 400) };

    let clock = (0..stretches).map(|_| stretch(|| _ = black_box(now_ns()))).collect();
    let [made_alone, made_busy] = ends(made, ran, stretches);
    let [ran_alone, ran_busy] = ends(ran, made, stretches);
    let [enqueue, call] = calls(pairs);
    let mut lines = vec![
        ("clock".to_owned(), clock),
        ("made, alone".to_owned(), made_alone),
        ("made, busy".to_owned(), made_busy),
        ("begun and done, alone".to_owned(), ran_alone),
        ("begun and done, busy".to_owned(), ran_busy),
    ];
    for (name, figures) in [("enqueue", enqueue), ("call", call)] {
        let forms = ["not recorded", "recorded", "difference"];
        lines
            .extend(forms.into_iter().zip(figures).map(|(form, values)| (format!("{name}, {form}"), values)));
    }

    let mut table = String::from("measure,stretches,ns\n");
    println!("cost of the record, ns{}", if smoke { "; a smoke run, the figures mean nothing" } else { "" });
    for (measure, values) in lines.iter_mut().filter(|(_, values)| !values.is_empty()) {
        let (stretches, ns) = (values.len(), median(values));
        println!("{measure:<24}{ns:>10.1}, median of {stretches}");
        writeln!(table, "\"{measure}\",{stretches},{ns:.1}").expect("a string");
    }
    options.write(&table);
}
