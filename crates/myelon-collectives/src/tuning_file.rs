//! Which tuning file plans follow: it is found, read, and taken or refused with the reason.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use myelon_lanes::{Machine, Origin, Table, TableFile, Tuning};

use crate::error::Error;

/// A file of more bytes is no tuning file.
const BYTES_MAX: u64 = 1 << 20;

/// Which tuning file a communicator follows, where it makes its tuning itself.
///
/// A file holds a [`TableFile`]: what `myelon tune` measured to be faster than the automatic rule. Results do not
/// depend on it, because every plan gives the same bits. All ranks that are opened together follow the same file;
/// ranks that planned a call differently would find out, because the plan is part of what they compare.
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator, TuningFile};
///
/// let builder = Communicator::builder().backend(Backend::Host);
/// assert_eq!(builder.clone().build()?[0].table_reason(), "none: no file was asked for");
/// let error = builder.tuning_file("no/such/file").build().unwrap_err();
/// assert!(error.to_string().starts_with("the tuning file no/such/file cannot be taken: No such file"));
/// assert_eq!(TuningFile::from("here.txt"), TuningFile::At("here.txt".into()));
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TuningFile {
    /// None.
    #[default]
    None,
    /// The file at [`TuningFile::usual_path`]. One that is not there, or cannot be taken, is done without:
    /// [`crate::Communicator::table_reason`] says why.
    Usual,
    /// This file. One that cannot be taken is an error.
    At(PathBuf),
}

impl TuningFile {
    /// `XDG_CONFIG_HOME/myelon/tuning.txt`, else `~/.config/myelon/tuning.txt`; none where neither is an absolute
    /// path.
    pub fn usual_path() -> Option<PathBuf> {
        usual_path(&|name| std::env::var_os(name))
    }
}

impl<P: Into<PathBuf>> From<P> for TuningFile {
    fn from(path: P) -> Self {
        Self::At(path.into())
    }
}

fn usual_path(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    folder.map(|folder| folder.join("myelon/tuning.txt"))
}

/// A tuning, and where its table is from.
pub(crate) struct Tuned {
    pub tuning: Tuning,
    /// What a file has to be measured on to be taken here.
    pub origin: Origin,
    /// Which table is in use, or why none.
    pub reason: String,
    /// The file that was taken.
    file: Option<(PathBuf, Insists)>,
}

/// Whether a file that cannot be taken is an error.
type Insists = bool;

impl Tuned {
    /// A tuning that follows no file, for `reason`.
    pub fn without(tuning: Tuning, origin: Origin, reason: &str) -> Self {
        Self { tuning, origin, reason: reason.into(), file: None }
    }

    /// `plain` with the table of `file`, for `ranks` ranks.
    ///
    /// # Errors
    ///
    /// [`Error::TuningFile`] where the file was named and cannot be taken.
    pub fn follow(file: &TuningFile, plain: Tuning, origin: Origin, ranks: u32) -> Result<Self, Error> {
        let (path, insists) = match file {
            TuningFile::None => return Ok(Self::without(plain, origin, "none: no file was asked for")),
            TuningFile::At(path) => (path.clone(), true),
            TuningFile::Usual => match TuningFile::usual_path() {
                Some(path) => (path, false),
                None => {
                    let reason = "none: neither XDG_CONFIG_HOME nor HOME names a folder";
                    return Ok(Self::without(plain, origin, reason));
                }
            },
        };
        if !insists && !path.exists() {
            let reason = format!("none: {} is not there", path.display());
            return Ok(Self::without(plain, origin, &reason));
        }
        match take(&path, &plain, &origin, ranks) {
            Ok(tuning) => {
                let rows = tuning.rows().iter();
                let rows =
                    rows.filter(|row| (row.ranks, row.windows) == (ranks, plain.has_windows())).count();
                let rows = if rows == 1 { "1 row".into() } else { format!("{rows} rows") };
                let reason = format!("{}, with {rows} for these ranks and buffers", path.display());
                Ok(Self { tuning, origin, reason, file: Some((path, insists)) })
            }
            Err(reason) if insists => Err(refusal(&path, reason)),
            Err(reason) => Ok(Self::without(plain, origin, &done_without(&path, &reason))),
        }
    }

    /// The same for `machine`, which is this one when more is known of it.
    ///
    /// # Errors
    ///
    /// [`Error::TuningFile`] where a file was named whose rows it cannot run.
    pub fn on(mut self, machine: Machine, ranks: u32) -> Result<Self, Error> {
        self.tuning = self.tuning.on(machine);
        let (Some((path, insists)), Err(error)) = (&self.file, self.tuning.pool(ranks)) else {
            return Ok(self);
        };
        if *insists {
            return Err(refusal(path, error.to_string()));
        }
        self.reason = done_without(path, &error.to_string());
        Ok(Self { tuning: self.tuning.table(Table::default()), file: None, ..self })
    }
}

fn refusal(path: &Path, reason: String) -> Error {
    Error::TuningFile { path: path.display().to_string(), reason }
}

/// Says to the log, and returns, that plans are made without the file.
fn done_without(path: &Path, reason: &str) -> String {
    tracing::warn!(path = %path.display(), reason, "the tuning file was not taken; plans are automatic");
    format!("none: {} was not taken: {reason}", path.display())
}

/// `plain` with the table of the file at `path`, or why it cannot be taken.
fn take(path: &Path, plain: &Tuning, origin: &Origin, ranks: u32) -> Result<Tuning, String> {
    let file = TableFile::parse(&read(path)?, origin).map_err(|error| error.to_string())?;
    file.check_measured(ranks, plain.has_windows()).map_err(|error| error.to_string())?;
    let tuning = plain.clone().table(file.table);
    match (plain.pool(ranks), tuning.pool(ranks)) {
        // What is forced and can't be had is refused as without a table.
        (Ok(_), Err(error)) => Err(error.to_string()),
        _ => Ok(tuning),
    }
}

/// The text of a file that is small enough to be one of ours.
fn read(path: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    // Opening a pipe would wait for somebody to write to it.
    if !fs::metadata(path).map_err(text)?.is_file() {
        return Err("it is no file".into());
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(text)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("it is no tuning file: it has more than {BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no tuning file: it is no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_folder_is_the_first_that_is_named() {
        let with = |pairs: &'static [(&str, &str)]| {
            usual_path(&|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1)))
        };
        let both = with(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(both, Some("/x/myelon/tuning.txt".into()));
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]),
            Some("/h/.config/myelon/tuning.txt".into())
        );
        assert_eq!(with(&[("XDG_CONFIG_HOME", ""), ("HOME", "")]), None);
    }

    #[test]
    fn what_is_no_small_text_file_is_not_read() {
        let folder = std::env::temp_dir();
        assert_eq!(read(&folder), Err("it is no file".into()));
        assert_eq!(read(Path::new("/dev/null")), Err("it is no file".into()));
        let path = folder.join(format!("myelon-tuning-test-{}", std::process::id()));
        for (bytes, expected) in [
            (vec![b'a'; BYTES_MAX as usize], Ok("a".repeat(BYTES_MAX as usize))),
            (
                vec![b'a'; BYTES_MAX as usize + 1],
                Err("it is no tuning file: it has more than 1048576 bytes".into()),
            ),
            (vec![0xff, 0xfe], Err("it is no tuning file: it is no text".into())),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path), expected);
        }
        fs::remove_file(&path).unwrap();
    }
}
