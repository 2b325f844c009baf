//! Property: a tuning file that belongs here is followed, any other is refused with the reason, and the result has
//! the same bits either way.
//!
//! Catches: a file that is taken elsewhere than where it was measured, a reason that does not help, rows that are
//! not followed, rings that a table makes too small. Cannot catch: files of GPUs, and the usual folder, which tests
//! of the command look into.

use std::path::PathBuf;

use myelon_collectives::{Backend, Communicator, DataType, Error, ErrorKind, ReduceOp, TuningFile};
use myelon_lanes::{Algorithm, Forced, Measured, Origin, Policy, Row, Table, TableFile, Tuning};

const ROW: Row = Row {
    ranks: 2,
    windows: false,
    bytes_min: 1000,
    bytes_max: 9999,
    algorithm: Algorithm::Ring,
    lanes: 2,
    piece_bytes: 128,
    blocks: 6,
    threads: 64,
};

fn file(origin: Origin, row: Row) -> TableFile {
    let Row { ranks, windows, .. } = row;
    let measured = vec![Measured { ranks, windows, bytes_min: 0, bytes_max: 1 << 20 }];
    TableFile { origin, note: String::new(), measured, table: Table::new(vec![row]).unwrap() }
}

/// A file of its own for each test, which goes with it.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("myelon-tuning-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open(ranks: usize, file: impl Into<TuningFile>) -> Result<Vec<Communicator>, Error> {
    Communicator::builder().backend(Backend::Host).ranks(ranks).tuning_file(file).build()
}

fn here() -> Origin {
    open(2, TuningFile::None).unwrap()[0].origin().clone()
}

/// The bits of every rank's result, and the plan that gave them.
fn sum(mut ranks: Vec<Communicator>, count: usize) -> (Vec<Vec<u32>>, String) {
    sum_of(&mut ranks, count)
}

fn sum_of(ranks: &mut [Communicator], count: usize) -> (Vec<Vec<u32>>, String) {
    let mut buffers = Vec::new();
    for rank in ranks.iter_mut() {
        let stream = rank.stream().clone();
        let mut buffer = rank.buffer::<f32>(count).unwrap();
        let values: Vec<f32> = (0..count).map(|at| (at as f32 + 0.1) / (rank.rank() as f32 + 3.0)).collect();
        buffer.write(&stream, &values).unwrap();
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
        buffers.push(buffer);
    }
    let bits = |(rank, buffer): (&Communicator, &myelon_collectives::Buffer<f32>)| {
        buffer.read(rank.stream()).unwrap().into_iter().map(f32::to_bits).collect()
    };
    let results = ranks.iter().zip(&buffers).map(bits).collect();
    (results, ranks[0].last_launch().unwrap().plan.to_string())
}

#[test]
fn a_file_of_this_machine_is_followed_and_changes_no_bit() {
    let written = Written::new("good", &file(here(), ROW).to_text());
    let ranks = open(2, written.0.as_path()).unwrap();
    let reason = ranks[0].table_reason();
    assert_eq!(reason, format!("{}, with 1 row for these ranks and buffers", written.0.display()));
    assert_eq!(ranks[1].explain(DataType::F32, 249).unwrap().plan.lanes, 1);
    assert_eq!(ranks[1].explain(DataType::F32, 250).unwrap().plan.lanes, 2);
    let (tuned, plan) = sum(ranks, 2000);
    assert_eq!(plan, "ring lanes=2 blocks=6 threads=1 slot=128B slots=4");
    let (plain, plain_plan) = sum(open(2, TuningFile::None).unwrap(), 2000);
    assert_ne!(plan, plain_plan);
    assert_eq!(tuned, plain);
}

#[test]
fn what_does_not_belong_here_is_an_error_that_says_why() {
    let good = file(here(), ROW).to_text();
    let machine = here().machine().to_string();
    let of =
        |library: &str, machine: &str| file(Origin::new(library, machine, "none", "none"), ROW).to_text();
    for (name, text, reason) in [
        ("stale", of("0.0.1", &machine), "it is of another version of the library: its library is \"0.0.1\""),
        (
            "foreign",
            of(env!("CARGO_PKG_VERSION"), "NVIDIA H200"),
            "another machine: its machine is \"NVIDIA H200\"",
        ),
        ("cut", good[..good.len() / 2].into(), "it was cut or edited"),
        ("edited", good.replace("1000", "1001"), "it was cut or edited"),
        ("other", "[package]\n".into(), "it is no tuning file: it begins with \"[package]\""),
        ("empty", String::new(), "it is no tuning file"),
        (
            "ranks",
            file(here(), Row { ranks: 3, ..ROW }).to_text(),
            "measured with 3 ranks and any buffers, not with 2",
        ),
        (
            "memory",
            file(here(), Row { lanes: 1024, piece_bytes: 1 << 20, ..ROW }).to_text(),
            "allowed are 16777216",
        ),
    ] {
        let written = Written::new(name, &text);
        let error = open(2, written.0.as_path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        let text = error.to_string();
        let path = written.0.display().to_string();
        assert!(
            text.contains(reason) && text.contains(&path) && text.contains("myelon tune"),
            "{name}: {text}"
        );
    }
    for (path, reason) in
        [("/no/such/file", "No such file"), ("/", "it is no file"), ("/dev/zero", "it is no file")]
    {
        let text = open(2, path).unwrap_err().to_string();
        assert!(text.contains(reason) && text.contains(path), "{text}");
    }
}

#[test]
fn what_is_forced_or_given_comes_before_the_file() {
    let written = Written::new("forced", &file(here(), ROW).to_text());
    let builder = || Communicator::builder().backend(Backend::Host).ranks(2).tuning_file(written.0.as_path());
    let plan = |builder: myelon_collectives::Builder| {
        builder.build().unwrap()[0].explain(DataType::F32, 1000).unwrap().plan.to_string()
    };
    let forced = Forced { lanes: Some(1), ..Forced::default() };
    assert_eq!(plan(builder().forced(forced)), "ring lanes=1 blocks=3 threads=1 slot=128B slots=4");
    assert!(!plan(builder().policy(Policy::Harness)).contains("slot=128B"));
    let given = Tuning::new(myelon_lanes::Machine::host(2));
    let ranks = builder().tuning(given).build().unwrap();
    assert_eq!(ranks[0].table_reason(), "that of the tuning that was given");
    assert_eq!(ranks[0].explain(DataType::F32, 1000).unwrap().plan.lanes, 1);
    let error = builder().forced(Forced { lanes: Some(0), ..Forced::default() }).build().unwrap_err();
    assert!(error.to_string().starts_with("lanes is 0"), "{error}");
}

#[test]
fn a_tuning_changes_between_calls_where_the_rings_have_room() {
    let mut ranks = open(2, TuningFile::None).unwrap();
    let plain = ranks[0].tuning().clone();
    let table = Table::new(vec![ROW]).unwrap();
    // A call of the same size before, whose plan must not be remembered.
    let (_, plan) = sum_of(&mut ranks, 2000);
    assert_eq!(plan, "ring lanes=1 blocks=3 threads=1 slot=64KiB slots=4");
    for rank in &mut ranks {
        rank.retune(plain.clone().table(table.clone())).unwrap();
        let wide = Table::new(vec![Row { lanes: 3, blocks: 9, ..ROW }]).unwrap();
        let error = rank.retune(plain.clone().table(wide)).unwrap_err().to_string();
        assert!(error.contains("one that fits rings of lanes=2"), "{error}");
        let error = rank.retune(Tuning::new(myelon_lanes::Machine::h200())).unwrap_err().to_string();
        assert!(error.starts_with("tuning: needed one for host"), "{error}");
        assert_eq!(rank.tuning().rows(), [ROW]);
    }
    let (results, plan) = sum(ranks, 2000);
    assert_eq!(plan, "ring lanes=2 blocks=6 threads=1 slot=128B slots=4");
    assert_eq!(results[0], results[1]);
}

/// Ranks that follow other tables than their peers find out, by the plan in the word of the call.
#[test]
fn ranks_with_other_tables_disagree() {
    let mut ranks = open(2, TuningFile::None).unwrap();
    let tuned = ranks[0].tuning().clone().table(Table::new(vec![ROW]).unwrap());
    ranks[0].retune(tuned).unwrap();
    let mut buffers: Vec<_> = ranks.iter().map(|rank| rank.buffer::<f32>(2000).unwrap()).collect();
    for (rank, buffer) in ranks.iter_mut().zip(&mut buffers) {
        let stream = rank.stream().clone();
        rank.all_reduce_in_place(buffer, ReduceOp::Sum, &stream).unwrap();
    }
    let errors: Vec<Error> = ranks.iter().filter_map(|rank| rank.stream().synchronize().err()).collect();
    assert!(errors.iter().any(|error| error.first().kind() == ErrorKind::Disagreement), "{errors:?}");
}
