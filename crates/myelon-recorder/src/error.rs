//! Why there is no page in a file.

use std::io;
use std::path::{Path, PathBuf};

/// Why pages can't lie in, or be read from, a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The folder is not private: others could read or change what a rank records.
    #[error("{}: needed {needed}, saw {seen}", path.display())]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What it has to be.
        needed: &'static str,
        /// What it is.
        seen: String,
    },
    /// The system refused.
    #[error("{what} {}: {reason}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

impl RecordError {
    /// What the system said to `what` on `path`.
    pub(crate) fn system(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::System { what, path: path.clone(), reason }
    }
}
