//! Where pages lie: a folder of this user's that nobody else may look into.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::error::RecordError;
use crate::page::Page;
use crate::process::{Identity, Life, exists};
use crate::words::PAGE_BYTES;

/// What the names of pages end with.
const ENDING: &str = "page";

/// A folder with pages, which was seen to be private: a real folder of this user's, mode 0700.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Where pages lie unless somebody says otherwise: `myelon` in `$XDG_RUNTIME_DIR`, else `myelon-<user number>`
    /// in the folder for temporary files.
    pub fn usual_path() -> PathBuf {
        match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(runtime) if runtime.is_absolute() && runtime.is_dir() => runtime.join("myelon"),
            _ => std::env::temp_dir().join(format!("myelon-{}", geteuid().as_raw())),
        }
    }

    /// The folder at `path`, made if it is not there; the folder around it must be.
    ///
    /// # Errors
    ///
    /// [`RecordError::System`], and [`RecordError::NotPrivate`] where something else is there already. Nothing is
    /// changed then.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(RecordError::system("making the folder", path)(error))
            }
            _ => Self::existing(path)?.ok_or_else(|| {
                RecordError::system("making the folder", path)(io::ErrorKind::NotFound.into())
            }),
        }
    }

    /// The folder at `path`; `None` where there is nothing.
    ///
    /// # Errors
    ///
    /// As [`Folder::create`].
    pub fn existing(path: &Path) -> Result<Option<Self>, RecordError> {
        // Of the thing itself: a link that somebody put there is not followed.
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecordError::system("looking at", path)(error)),
        };
        let user = geteuid().as_raw();
        let (needed, seen) = if !metadata.is_dir() {
            ("a folder", "something else".into())
        } else if metadata.uid() != user {
            ("a folder of this user", format!("one of user {}", metadata.uid()))
        } else if metadata.mode() & 0o077 != 0 {
            (
                "a folder that nobody else may use (mode 0700)",
                format!("mode {:04o}", metadata.mode() & 0o7777),
            )
        } else {
            return Ok(Some(Self { path: path.to_owned() }));
        };
        Err(RecordError::NotPrivate { path: path.to_owned(), needed, seen })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every page of this user's that can be read, by communicator and rank. What is no page, or one of another
    /// version, is passed over.
    ///
    /// # Errors
    ///
    /// [`RecordError::System`] where the folder can't be listed.
    pub fn pages(&self) -> Result<Vec<Page>, RecordError> {
        let files = self.files()?;
        let mut pages: Vec<Page> = files.iter().filter_map(|path| Page::open(path)).collect();
        pages.sort_by_key(|page| {
            let header = page.header();
            (header.opened_ns, header.communicator, header.rank, header.pid)
        });
        Ok(pages)
    }

    /// Removes what nobody needs any more, and says how many files that were: pages of dead processes and of
    /// communicators of this process that failed and were dropped, unless a rank of the same communicator still
    /// runs in another process; and files that no living process will make a page of.
    ///
    /// # Errors
    ///
    /// [`RecordError::System`] where the folder can't be listed. What can't be removed stays.
    pub fn clear(&self) -> Result<usize, RecordError> {
        let own = Identity::own();
        let files = self.files()?;
        let pages: Vec<(&PathBuf, Option<Page>)> =
            files.iter().map(|path| (path, Page::open(path))).collect();
        let is_over = |page: &Page| match page.life() {
            Life::Dead => true,
            Life::Alive => page.is_closed() && page.header().pid == own.pid,
            Life::Elsewhere => false,
        };
        let runs = |communicator: u64| {
            let of = |page: &&Page| page.header().communicator == communicator;
            pages.iter().filter_map(|(_, page)| page.as_ref()).filter(of).any(|page| !is_over(page))
        };
        let is_waste = |path: &Path, page: &Option<Page>| match page {
            Some(page) => is_over(page) && !runs(page.header().communicator),
            // Being made just now, or left half made, or of another version.
            None => pid_of(path).is_some_and(|pid| !exists(pid)),
        };
        let waste = pages.iter().filter(|(path, page)| is_waste(path, page));
        Ok(waste.filter(|(path, _)| fs::remove_file(path).is_ok()).count())
    }

    /// A new file of zeros for the page of a rank: nobody else's, whole, mode 0600.
    pub(crate) fn new_file(&self, name: &str, other: &str) -> Result<(PathBuf, File), RecordError> {
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let mut path = self.path.join(format!("{name}.{ENDING}"));
        let mut file = open(&path);
        if file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            // The same numbers in another container.
            path = self.path.join(format!("{name}-{other}.{ENDING}"));
            file = open(&path);
        }
        let file = file.map_err(RecordError::system("making", &path))?;
        // Written and not only made long: a file system that is full says so here, and not by a signal later.
        match io::Write::write_all(&mut &file, &vec![0; PAGE_BYTES]) {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(RecordError::system("writing", &path)(error))
            }
        }
    }

    fn files(&self) -> Result<Vec<PathBuf>, RecordError> {
        let refuse = RecordError::system("listing", &self.path);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(&refuse)? {
            let path = entry.map_err(&refuse)?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                files.push(path);
            }
        }
        Ok(files)
    }
}

/// The process that a page's name begins with.
fn pid_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.split('-').next()?.parse().ok()
}
