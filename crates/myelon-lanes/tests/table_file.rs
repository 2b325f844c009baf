//! Property: the text of a tuning table gives back the table, or is refused with the reason.
//!
//! Catches: a number that is lost or read as another, a damaged, cut or foreign text that passes, a panic on what
//! somebody else wrote. Cannot catch: rows that are right and slow.

use myelon_lanes::{
    Algorithm, Machine, Measured, Origin, Request, Row, Table, TableFile, TableFileError, Tuning,
};
use proptest::prelude::*;

const MACHINE: &str = "NVIDIA H200";

fn here() -> Origin {
    Origin::new("0.1.0", MACHINE, "00112233", "CUDA 13.0")
}

const ROW: Row = Row {
    ranks: 4,
    windows: true,
    bytes_min: 4096,
    bytes_max: 65535,
    algorithm: Algorithm::OneShot,
    lanes: 7,
    piece_bytes: 0,
    blocks: 7,
    threads: 96,
};

fn example() -> TableFile {
    let ring = Row {
        bytes_min: 65536,
        bytes_max: 1 << 20,
        algorithm: Algorithm::Ring,
        lanes: 4,
        piece_bytes: 8192,
        blocks: 6,
        threads: 512,
        ..ROW
    };
    let of = |ranks, windows| Measured { ranks, windows, bytes_min: 256, bytes_max: 1 << 20 };
    TableFile {
        origin: here(),
        note: "bf16 sum".into(),
        measured: vec![of(2, false), of(4, true)],
        table: Table::new(vec![ROW, ring]).unwrap(),
    }
}

/// Any table: some ranks, with windows and without, of touching rows.
fn file() -> impl Strategy<Value = TableFile> {
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    let row = (algorithm, 1u64..1 << 13, 1u32..=100, 1u32..=512, 2u32..=16);
    let kinds =
        prop::collection::btree_map((2u32..=8, any::<bool>()), prop::collection::vec(row, 0..4), 0..4);
    (kinds, "[a-zA-Z0-9 #]{0,20}").prop_map(|(kinds, note)| {
        let (mut rows, mut measured) = (Vec::new(), Vec::new());
        for ((ranks, windows), of_kind) in kinds {
            let mut bytes_min = 0;
            measured.push(Measured { ranks, windows, bytes_min, bytes_max: 1 << 20 });
            for (algorithm, bytes, lanes, vectors, warps) in of_kind {
                let is_ring = algorithm.has_slots() || algorithm == Algorithm::Direct && !windows;
                rows.push(Row {
                    ranks,
                    windows,
                    bytes_min,
                    bytes_max: bytes_min + bytes,
                    algorithm: if is_ring { Algorithm::Ring } else { algorithm },
                    lanes,
                    piece_bytes: if is_ring { 16 * vectors } else { 0 },
                    blocks: if is_ring { 3 * lanes } else { lanes },
                    threads: 32 * warps,
                });
                bytes_min += bytes + 1;
            }
        }
        let table = Table::new(rows).expect("the rows touch");
        TableFile {
            origin: here(),
            note: note.split_whitespace().collect::<Vec<_>>().join(" "),
            measured,
            table,
        }
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(file in file()) {
        let read = TableFile::parse(&file.to_text(), &here()).unwrap();
        prop_assert_eq!(&read.table, &file.table);
        prop_assert_eq!(&read.measured, &file.measured);
        prop_assert!(read.note == file.note || file.note.is_empty());
        prop_assert_eq!(read.to_text(), file.to_text());
    }

    /// Every change of one byte, wherever it is, and every cut.
    #[test]
    fn a_changed_byte_and_a_cut_are_refused(file in file(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let text = file.to_text();
        let at = at.index(text.len());
        let mut bytes = text.clone().into_bytes();
        bytes[at] = to;
        // What is no text at all is refused by whoever reads the file.
        if let Ok(changed) = String::from_utf8(bytes) {
            let same = changed == text;
            prop_assert_eq!(TableFile::parse(&changed, &here()).is_ok(), same, "byte {} to {}", at, to);
        }
        prop_assert!(TableFile::parse(&text[..at], &here()).is_err());
        let spliced = format!("{}{}", &text[..at], &text[at + 1..]);
        prop_assert!(TableFile::parse(&spliced, &here()).is_err());
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), body in "[a-z0-9 \n#]{0,200}") {
        prop_assert!(TableFile::parse(&text, &here()).is_err());
        let _ = TableFile::parse(&sealed(&format!("myelon tuning 1\n{body}\n")), &here());
        let known = format!("myelon tuning 1\nlibrary 0.1.0\nmachine {MACHINE}\nkernels 00112233\ndriver CUDA 13.0\n");
        let _ = TableFile::parse(&sealed(&format!("{known}row {body}\nmeasured {body}\n")), &here());
    }
}

/// The text with the checksum that belongs to it, as one finds it who edits a file and wants it taken.
fn sealed(body: &str) -> String {
    match TableFile::parse(&format!("{body}checksum 0\n"), &here()) {
        Err(TableFileError::Damaged { seen, .. }) => format!("{body}checksum {seen}\n"),
        other => panic!("{other:?}"),
    }
}

fn refusal(text: &str) -> String {
    TableFile::parse(text, &here()).unwrap_err().to_string()
}

#[test]
fn a_refusal_says_what_is_wrong() {
    let text = example().to_text();
    let body = text.rsplit_once("checksum").unwrap().0;
    assert!(TableFile::parse(&sealed(body), &here()).is_ok());
    for (from, to, reason) in [
        ("myelon tuning 1", "myelon tuning 2", "it is of format 2, this version reads format 1"),
        (
            "library 0.1.0",
            "library 0.0.9",
            "another version of the library: its library is \"0.0.9\", here it is \"0.1.0\"",
        ),
        (MACHINE, "NVIDIA A100", "another machine: its machine is \"NVIDIA A100\""),
        ("kernels 0011", "kernels 1111", "other kernels"),
        ("CUDA 13.0", "CUDA 12.9", "another driver"),
        ("\nlibrary ", "\nlibrarian ", "line 1: needed library, saw \"none\""),
        ("note", "library", "line 7: needed library, saw \"another one\""),
        ("note", "nota", "needed one of library, machine"),
        ("one-shot", "tree", "needed one-shot, two-shot, direct or ring, saw \"tree\""),
        ("65535", "65536", "rows follow each other without gap or overlap"),
        (" 96\n", " 97\n", "threads is 97, needed a multiple of 32"),
        (" 96\n", " 96 1\n", "needed the end of the line, saw \"1\""),
        (" 96\n", "\n", "needed a number of threads, saw \"\""),
        (" 96\n", " -96\n", "needed a number of threads, saw \"-96\""),
        ("measured 2 any", "measured 2 all", "needed any or windows"),
    ] {
        assert!(body.contains(from), "{from}");
        let changed = body.replacen(from, to, 1);
        let seen = if from.starts_with("myelon") { refusal(&changed) } else { refusal(&sealed(&changed)) };
        assert!(seen.contains(reason), "{from} -> {to}: {seen}");
    }
    assert!(refusal("").starts_with("it is no tuning file"));
    assert!(
        refusal("[package]\nname = 1\n").starts_with("it is no tuning file: it begins with \"[package]\"")
    );
    assert!(refusal(body).starts_with("it was cut or edited"));
}

#[test]
fn ranks_and_buffers_that_were_not_measured_are_named() {
    let file = example();
    assert_eq!(file.check_measured(4, true), Ok(()));
    assert_eq!(file.check_measured(2, false), Ok(()));
    assert_eq!(
        file.check_measured(4, false).unwrap_err().to_string(),
        "it was measured with 2 ranks and any buffers, 4 ranks and windows buffers, not with 4 ranks and any buffers"
    );
}

#[test]
fn newer_measurements_take_the_place_of_older_ones_of_the_same_kind() {
    let old = example();
    let of_two = Row { ranks: 2, windows: false, bytes_min: 0, ..ROW };
    let measured = vec![Measured { ranks: 2, windows: false, bytes_min: 0, bytes_max: 1 << 20 }];
    let newer = TableFile { measured, table: Table::new(vec![of_two]).unwrap(), ..old.clone() };
    let both = old.merge(newer.clone()).unwrap();
    assert_eq!(both.table.rows()[0], of_two);
    assert_eq!(both.table.rows()[1..], *old.table.rows());
    assert_eq!((both.measured[0], both.measured[1]), (newer.measured[0], old.measured[1]));
    assert_eq!(both.merge(old.clone()).unwrap().table.rows(), old.table.rows());
    let foreign = TableFile { origin: Origin::new("0.1.0", "other", "-", "-"), ..old };
    assert_eq!(foreign.merge(newer.clone()), Ok(newer));
}

/// Sizes without a row are planned as without a table, in the same rings.
#[test]
fn a_table_of_small_rows_takes_nothing_from_other_sizes() {
    let file = example();
    let (with, without) = (
        Tuning::new(Machine::h200()).windows(true).table(file.table.clone()),
        Tuning::new(Machine::h200()).windows(true),
    );
    assert_eq!(with.pool(4), without.pool(4));
    for bytes in [64, 4095, 4096, 65536, (1 << 20) + 16, 1 << 30] {
        let request = Request { ranks: 4, bytes, element_bytes: 1, floats: true };
        let [tuned, plain] = [&with, &without].map(|tuning| tuning.plan(&request).unwrap().plan);
        assert_eq!(tuned != plain, file.table.find(4, true, bytes).is_some(), "{bytes}: {tuned}");
    }
}
