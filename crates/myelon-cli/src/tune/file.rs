//! Where the file goes, what stood there before, and how it gets there: whole or not at all.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use myelon_collectives::{Settings, TuningFile};
use myelon_lanes::{Origin, TableFile};

use super::args::Tune;
use crate::failure::Failure;
use crate::plot;

/// How the first line of every tuning file begins.
const MAGIC: &str = "myelon tuning ";

/// Where the file shall go; none for a dry run.
///
/// # Errors
///
/// Where nobody says so, or the place cannot be written, or something else than a tuning file is there.
pub fn place(args: &Tune, settings: &Settings) -> Result<Option<PathBuf>, Failure> {
    if args.dry_run {
        return Ok(None);
    }
    let named = match (&args.output, &settings.tuning) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(TuningFile::At(path))) => Some(path.clone()),
        _ => None,
    };
    let path = match (named, TuningFile::usual_path()) {
        (Some(path), _) => path,
        (None, Some(path)) => {
            let folder = path.parent().expect("it is in a folder");
            fs::create_dir_all(folder)
                .map_err(|error| Failure::Usage(format!("cannot make {}: {error}", folder.display())))?;
            path
        }
        (None, None) => {
            let message = "neither XDG_CONFIG_HOME nor HOME names a folder for the file: use --output FILE";
            return Err(Failure::Usage(message.into()));
        }
    };
    check_overwritten(&path)?;
    plot::try_path(&path).map_err(|error| Failure::Usage(format!("--output {error}")))?;
    Ok(Some(path))
}

/// Refuses to write over what is no tuning file.
fn check_overwritten(path: &Path) -> Result<(), Failure> {
    let refuse = |why: &str| Failure::Usage(format!("--output {}: {why}", path.display()));
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refuse(&error.to_string())),
        Ok(found) if !found.is_file() => Err(refuse("it is no file")),
        Ok(found) if found.len() == 0 => Ok(()),
        Ok(_) => {
            let mut start = Vec::new();
            let file = fs::File::open(path).map_err(|error| refuse(&error.to_string()))?;
            file.take(MAGIC.len() as u64)
                .read_to_end(&mut start)
                .map_err(|error| refuse(&error.to_string()))?;
            if start == MAGIC.as_bytes() {
                Ok(())
            } else {
                Err(refuse("it holds something else than a tuning file"))
            }
        }
    }
}

/// A file beside the one that it shall be, until it is known to be good; it goes with this unless it is kept.
pub struct Staged {
    pub beside: PathBuf,
    path: PathBuf,
    /// What becomes of the file that was there, if there was one.
    before: Option<String>,
}

impl Staged {
    /// Writes `file` beside `path`, with the rows for other ranks that stand there if they still hold.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn write(path: &Path, file: TableFile, here: &Origin) -> anyhow::Result<Self> {
        let (file, before) = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => (file, None),
            Err(error) => (file, Some(format!("replaced, because {error}"))),
            Ok(text) if text.is_empty() => (file, None),
            Ok(text) => match TableFile::parse(&text, here) {
                Ok(older) => {
                    (older.merge(file)?, Some("kept as far as it was of other ranks or buffers".into()))
                }
                Err(error) => (file, Some(format!("replaced, because {error}"))),
            },
        };
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let staged = Self { beside: beside.into(), path: path.into(), before };
        fs::write(&staged.beside, file.to_text())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(staged)
    }

    /// Puts it where it shall be; returns what became of the file that was there.
    ///
    /// # Errors
    ///
    /// Where it cannot be put there; what was there is then as it was.
    pub fn keep(mut self) -> anyhow::Result<Option<String>> {
        fs::rename(&self.beside, &self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self.before.take())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nothing is there where it was kept.
        let _ = fs::remove_file(&self.beside);
    }
}

#[cfg(test)]
mod tests {
    use myelon_lanes::{Measured, Table};

    use super::*;

    fn of(ranks: u32, library: &str) -> TableFile {
        let measured = vec![Measured { ranks, windows: false, bytes_min: 8, bytes_max: 64 }];
        let origin = Origin::new(library, "m", "k", "d");
        TableFile { origin, note: "n".into(), measured, table: Table::default() }
    }

    #[test]
    fn rows_of_other_ranks_stay_unless_the_file_is_stale_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.txt");
        let ranks = |here: &Origin| -> Vec<u32> {
            let read = TableFile::parse(&fs::read_to_string(&path).unwrap(), here).unwrap();
            read.measured.iter().map(|it| it.ranks).collect()
        };
        let (old, new) = (Origin::new("1", "m", "k", "d"), Origin::new("2", "m", "k", "d"));
        let write = |path: &Path, file, here: &Origin| Staged::write(path, file, here)?.keep();
        drop(Staged::write(&path, of(4, "1"), &old).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what was not kept is gone");
        assert_eq!(write(&path, of(4, "1"), &old).unwrap(), None);
        let kept = write(&path, of(2, "1"), &old).unwrap().unwrap();
        assert!(kept.starts_with("kept") && ranks(&old) == [2, 4], "{kept}");
        let replaced = write(&path, of(3, "2"), &new).unwrap().unwrap();
        assert!(replaced.contains("another version of the library") && ranks(&new) == [3], "{replaced}");
        fs::write(&path, "myelon tuning 1\n").unwrap();
        let replaced = write(&path, of(3, "2"), &new).unwrap().unwrap();
        assert!(replaced.contains("cut or edited") && ranks(&new) == [3], "{replaced}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part file stays");
        let lost = folder.path().join("no/such/folder.txt");
        assert!(write(&lost, of(2, "1"), &old).unwrap_err().to_string().starts_with("cannot write"));
    }

    #[test]
    fn something_else_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        assert!(check_overwritten(&path).is_ok());
        for (text, is_ours) in
            [("", true), ("myelon tuning 9\nx", true), ("dear diary", false), ("myelon", false)]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(check_overwritten(&path).is_ok(), is_ours, "{text}");
        }
        assert!(check_overwritten(folder.path()).unwrap_err().message("tune").contains("it is no file"));
    }
}
