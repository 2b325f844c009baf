//! The text that a tuning table is kept in: what it was measured on, its rows, and a checksum.

use std::fmt;

use crate::algorithm::Algorithm;
use crate::error::PlanError;
use crate::table::{Row, Table};

/// The first line of every such text, with the number of the format behind it.
const MAGIC: &str = "myelon tuning";
/// The format that is written and read.
const FORMAT: &str = "1";

/// On what a table was measured, and by what. A table is good where all of this is equal.
///
/// Each part is one line of text; runs of white space count as one space, and nothing as `-`.
///
/// # Example
///
/// ```
/// use myelon_lanes::Origin;
///
/// let origin = Origin::new("0.1.0", "NVIDIA  H200", "90ab", "CUDA 13.0");
/// assert_eq!(origin.machine(), "NVIDIA H200");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    parts: [String; 4],
}

/// What the parts of an [`Origin`] are called, in the text and in refusals.
const PARTS: [(&str, &str); 4] = [
    ("library", "another version of the library"),
    ("machine", "another machine"),
    ("kernels", "other kernels"),
    ("driver", "another driver"),
];

impl Origin {
    /// The library's version, the model of the machine, what tells its kernels from others, and its driver.
    pub fn new(library: &str, machine: &str, kernels: &str, driver: &str) -> Self {
        Self { parts: [library, machine, kernels, driver].map(one_line) }
    }

    /// The model of the machine.
    pub fn machine(&self) -> &str {
        &self.parts[1]
    }
}

/// Sizes that were measured for some ranks: their rows lie within, and where no row does, the rule was best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Number of ranks.
    pub ranks: u32,
    /// Whether all buffers were windows.
    pub windows: bool,
    /// The smallest payload.
    pub bytes_min: u64,
    /// The largest payload, inclusive.
    pub bytes_max: u64,
}

/// A tuning table with what one has to know before one may follow it.
///
/// # The text
///
/// Lines of words; those that begin with `#` and empty ones are for people.
///
/// | line | says |
/// |---|---|
/// | `myelon tuning 1` | the first line: what this is, and its format |
/// | `library`, `machine`, `kernels`, `driver` | the [`Origin`], each once |
/// | `note` | how it was measured, for people; at most once |
/// | `measured <ranks> any\|windows <from> <to>` | sizes in bytes that were measured, `to` inclusive |
/// | `row <ranks> any\|windows <from> <to> <algorithm> <lanes> <slot> <blocks> <threads>` | a [`Row`] |
/// | `checksum` | the last line: FNV-1a of all bytes before it, 64 bits in hexadecimal |
///
/// # Guarantees
///
/// * What [`TableFile::to_text`] writes, [`TableFile::parse`] reads back.
/// * A text of which one byte was changed, or which was cut, is refused; other damage passes once in 2^64.
/// * No text makes it panic.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Algorithm, Measured, Origin, Row, Table, TableFile};
///
/// let row = Row {
///     ranks: 2,
///     windows: false,
///     bytes_min: 1024,
///     bytes_max: 8192,
///     algorithm: Algorithm::OneShot,
///     lanes: 4,
///     piece_bytes: 0,
///     blocks: 4,
///     threads: 96,
/// };
/// let here = Origin::new("0.1.0", "NVIDIA H200", "90ab", "CUDA 13.0");
/// let measured = Measured { ranks: 2, windows: false, bytes_min: 256, bytes_max: 1 << 20 };
/// let file = TableFile {
///     origin: here.clone(),
///     note: "for this example".into(),
///     measured: vec![measured],
///     table: Table::new(vec![row])?,
/// };
/// let text = file.to_text();
/// assert_eq!(TableFile::parse(&text, &here), Ok(file));
///
/// let refusal = |text: &str, here| TableFile::parse(text, here).unwrap_err().to_string();
/// assert!(refusal(&text.replace("96", "64"), &here).contains("cut or edited"));
/// let there = Origin::new("0.1.0", "NVIDIA H100", "90ab", "CUDA 13.0");
/// assert_eq!(
///     refusal(&text, &there),
///     "it is of another machine: its machine is \"NVIDIA H200\", here it is \"NVIDIA H100\"",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFile {
    /// On what it was measured.
    pub origin: Origin,
    /// How, for people: one line.
    pub note: String,
    /// For which ranks and sizes.
    pub measured: Vec<Measured>,
    /// What was better than the rule.
    pub table: Table,
}

/// Why a text is no tuning table that may be followed. Reads behind the name of a file and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableFileError {
    /// It is something else.
    #[error("it is no tuning file: it begins with \"{seen}\", needed \"{MAGIC} {FORMAT}\"")]
    Foreign {
        /// The beginning of its first line.
        seen: String,
    },
    /// It is of a format that this version does not read.
    #[error("it is of format {seen}, this version reads format {FORMAT}")]
    Format {
        /// The format.
        seen: String,
    },
    /// Bytes were changed, or are missing.
    #[error("it was cut or edited: its checksum says {needed}, its text has {seen}")]
    Damaged {
        /// What stands in its last line.
        needed: String,
        /// What its text comes to.
        seen: String,
    },
    /// It was measured on something else, or by something else.
    #[error("it is of {what}: its {part} is \"{seen}\", here it is \"{needed}\"")]
    Stale {
        /// What differs, in words.
        what: &'static str,
        /// Which part of the [`Origin`].
        part: &'static str,
        /// What is here.
        needed: String,
        /// What it says.
        seen: String,
    },
    /// It was not measured with so many ranks, or not with such buffers.
    #[error("it was measured with {seen}, not with {needed}")]
    Unmeasured {
        /// What is here.
        needed: String,
        /// What was measured.
        seen: String,
    },
    /// A line that means nothing, counted from 1.
    #[error("line {line}: needed {needed}, saw \"{seen}\"")]
    Line {
        /// Which line.
        line: usize,
        /// What is allowed there.
        needed: &'static str,
        /// What was seen.
        seen: String,
    },
    /// Its rows are no table.
    #[error(transparent)]
    Table(#[from] PlanError),
}

impl TableFile {
    /// Reads what [`TableFile::to_text`] has written, if it was measured where `here` says.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in the order of [`TableFileError`].
    pub fn parse(text: &str, here: &Origin) -> Result<Self, TableFileError> {
        let first = text.lines().next().unwrap_or_default();
        match first.strip_prefix(MAGIC).map(str::trim) {
            Some(FORMAT) => {}
            Some(format) if !format.is_empty() => {
                return Err(TableFileError::Format { seen: shortened(format) });
            }
            _ => return Err(TableFileError::Foreign { seen: shortened(first) }),
        }
        let lines = Lines::of(checked(text)?);
        let seen = Origin { parts: lines.once(PARTS.map(|(part, _)| part))? };
        for (place, (part, what)) in PARTS.into_iter().enumerate() {
            let [seen, needed] = [&seen, here].map(|origin| origin.parts[place].clone());
            if seen != needed {
                return Err(TableFileError::Stale { what, part, needed, seen });
            }
        }
        let note = lines.all("note").map(|(_, rest)| one_line(rest)).next().unwrap_or_default();
        let measured =
            lines.all("measured").map(|(line, rest)| measured(line, rest)).collect::<Result<Vec<_>, _>>()?;
        let rows = lines.all("row").map(|(line, rest)| row(line, rest)).collect::<Result<Vec<_>, _>>()?;
        lines.refuse_others(&["note", "measured", "row"])?;
        Ok(Self { origin: seen, note, measured, table: Table::new(rows)? })
    }

    /// The text, which ends with its checksum.
    pub fn to_text(&self) -> String {
        use fmt::Write as _;
        let mut text = format!("{MAGIC} {FORMAT}\n");
        let mut line = |key: &str, rest: fmt::Arguments<'_>| {
            writeln!(text, "{key} {rest}").expect("a string takes all");
        };
        line(
            "#",
            format_args!(
                "Written by 'myelon tune'. A changed byte makes it void; sizes are bytes, both ends in."
            ),
        );
        for ((part, _), value) in PARTS.into_iter().zip(&self.origin.parts) {
            line(part, format_args!("{value}"));
        }
        line("note", format_args!("{}", one_line(&self.note)));
        for Measured { ranks, windows, bytes_min, bytes_max } in &self.measured {
            line("measured", format_args!("{ranks} {} {bytes_min} {bytes_max}", buffers(*windows)));
        }
        line(
            "#  ",
            format_args!(
                "{:>5} {:7} {:>12} {:>20} {:9} {:>5} {:>8} {:>6} {:>7}",
                "ranks", "buffers", "from", "to", "algorithm", "lanes", "slot", "blocks", "threads"
            ),
        );
        for row in self.table.rows() {
            let Row { ranks, bytes_min, bytes_max, algorithm, lanes, piece_bytes, blocks, threads, windows } =
                *row;
            line(
                "row ",
                format_args!(
                    "{ranks:>5} {:7} {bytes_min:>12} {bytes_max:>20} {algorithm:9} {lanes:>5} {piece_bytes:>8} {blocks:>6} {threads:>7}",
                    buffers(windows),
                ),
            );
        }
        let checksum = checksum(&text);
        text + &format!("checksum {checksum}\n")
    }

    /// Whether it says something for `ranks` ranks with such buffers.
    ///
    /// # Errors
    ///
    /// [`TableFileError::Unmeasured`], with what it was measured with.
    pub fn check_measured(&self, ranks: u32, windows: bool) -> Result<(), TableFileError> {
        if self.measured.iter().any(|it| (it.ranks, it.windows) == (ranks, windows)) {
            return Ok(());
        }
        let name = |ranks: u32, windows| format!("{ranks} ranks and {} buffers", buffers(windows));
        let seen: Vec<String> = self.measured.iter().map(|it| name(it.ranks, it.windows)).collect();
        let seen = if seen.is_empty() { "nothing".into() } else { seen.join(", ") };
        Err(TableFileError::Unmeasured { needed: name(ranks, windows), seen })
    }

    /// Takes over what `newer` was measured with, and keeps the rest, as far as both are of one origin.
    ///
    /// # Errors
    ///
    /// [`PlanError`] where the rows of both make no table, which those of two tables always do.
    pub fn merge(&self, newer: Self) -> Result<Self, PlanError> {
        if self.origin != newer.origin {
            return Ok(newer);
        }
        let is_newer = |ranks, windows| newer.check_measured(ranks, windows).is_ok();
        let mut measured: Vec<Measured> =
            self.measured.iter().filter(|it| !is_newer(it.ranks, it.windows)).copied().collect();
        let kept = self.table.rows().iter().filter(|row| !is_newer(row.ranks, row.windows));
        let mut rows: Vec<Row> = kept.chain(newer.table.rows()).copied().collect();
        measured.extend(&newer.measured);
        measured.sort_by_key(|it| (it.ranks, it.windows));
        rows.sort_by_key(|row| (row.ranks, row.windows, row.bytes_min));
        Ok(Self { measured, table: Table::new(rows)?, ..newer })
    }
}

impl fmt::Display for TableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// Lines that are not for people, with their numbers, cut behind the first word.
struct Lines<'a>(Vec<(usize, &'a str, &'a str)>);

impl<'a> Lines<'a> {
    fn of(body: &'a str) -> Self {
        let lines = body.lines().enumerate().skip(1).map(|(at, line)| {
            let (key, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            (at + 1, key, rest.trim())
        });
        Self(lines.filter(|(_, key, _)| !key.is_empty() && !key.starts_with('#')).collect())
    }

    fn all(&self, key: &str) -> impl Iterator<Item = (usize, &'a str)> {
        self.0.iter().filter(move |(_, seen, _)| *seen == key).map(|&(line, _, rest)| (line, rest))
    }

    /// What stands behind each of `keys`, which are there once.
    fn once<const N: usize>(&self, keys: [&'static str; N]) -> Result<[String; N], TableFileError> {
        let mut values = [const { String::new() }; N];
        for (value, key) in values.iter_mut().zip(keys) {
            let mut lines = self.all(key);
            match (lines.next(), lines.next()) {
                (Some((_, rest)), None) => *value = one_line(rest),
                (first, second) => {
                    let line = second.or(first).map_or(1, |(line, _)| line);
                    let seen = if second.is_some() { "another one" } else { "none" };
                    return Err(TableFileError::Line { line, needed: key, seen: seen.into() });
                }
            }
        }
        Ok(values)
    }

    /// Refuses lines that are neither parts of an origin nor among `keys`.
    fn refuse_others(&self, keys: &[&str]) -> Result<(), TableFileError> {
        let is_known = |key: &str| PARTS.iter().any(|(part, _)| *part == key) || keys.contains(&key);
        match self.0.iter().find(|(_, key, _)| !is_known(key)) {
            Some(&(line, key, _)) => {
                let needed = "one of library, machine, kernels, driver, note, measured, row";
                Err(TableFileError::Line { line, needed, seen: shortened(key) })
            }
            None => Ok(()),
        }
    }
}

/// All but the last line, if that has the right checksum.
fn checked(text: &str) -> Result<&str, TableFileError> {
    let last = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).map_or(text.len(), |end| end + 1);
    let (body, last) = text.split_at(last);
    let seen = checksum(body);
    if last == format!("checksum {seen}\n") {
        return Ok(body);
    }
    let needed = last.strip_prefix("checksum ").map_or("nothing".into(), |text| shortened(text.trim()));
    Err(TableFileError::Damaged { needed, seen })
}

/// FNV-1a. Each step can be undone, so two texts that differ in one byte never have the same.
fn checksum(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { "-".into() } else { words.join(" ") }
}

/// Enough of `text` to know it again.
fn shortened(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

fn buffers(windows: bool) -> &'static str {
    if windows { "windows" } else { "any" }
}

/// The words of a line, read one after the other.
struct Words<'a> {
    line: usize,
    rest: std::str::SplitWhitespace<'a>,
}

impl Words<'_> {
    fn next<T>(
        &mut self,
        needed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, TableFileError> {
        let word = self.rest.next().unwrap_or_default();
        read(word).ok_or_else(|| TableFileError::Line { line: self.line, needed, seen: shortened(word) })
    }

    fn number<T: std::str::FromStr>(&mut self, needed: &'static str) -> Result<T, TableFileError> {
        self.next(needed, |word| word.parse().ok())
    }

    fn windows(&mut self) -> Result<bool, TableFileError> {
        self.next("any or windows", |word| match word {
            "any" => Some(false),
            "windows" => Some(true),
            _ => None,
        })
    }

    fn end(mut self) -> Result<(), TableFileError> {
        self.next("the end of the line", |word| word.is_empty().then_some(()))
    }
}

fn measured(line: usize, rest: &str) -> Result<Measured, TableFileError> {
    let mut words = Words { line, rest: rest.split_whitespace() };
    let measured = Measured {
        ranks: words.number("a number of ranks")?,
        windows: words.windows()?,
        bytes_min: words.number("a number of bytes")?,
        bytes_max: words.number("a number of bytes")?,
    };
    words.end()?;
    Ok(measured)
}

fn row(line: usize, rest: &str) -> Result<Row, TableFileError> {
    let mut words = Words { line, rest: rest.split_whitespace() };
    let row = Row {
        ranks: words.number("a number of ranks")?,
        windows: words.windows()?,
        bytes_min: words.number("a number of bytes")?,
        bytes_max: words.number("a number of bytes")?,
        algorithm: words.next("one-shot, two-shot, direct or ring", |word| word.parse::<Algorithm>().ok())?,
        lanes: words.number("a number of lanes")?,
        piece_bytes: words.number("a number of bytes below 4 GiB")?,
        blocks: words.number("a number of blocks")?,
        threads: words.number("a number of threads")?,
    };
    words.end()?;
    Ok(row)
}
