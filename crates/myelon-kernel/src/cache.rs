//! Images that NVRTC made, kept on disk: a folder of files, each named by what went into it.
//!
//! A file is `magic, length, checksum, image`. One that does not hold together counts as absent. A file
//! is written under another name and renamed, so that nobody sees half of one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const MAGIC: &[u8; 8] = b"MYELONc1";
const HEAD_BYTES: usize = 24;

/// FNV-1a over parts, each closed by its length so that two splits of one text differ.
#[derive(Clone, Copy)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn part(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

/// A folder of images, or none.
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The cache of this process: `MYELON_CACHE_DIR`, else `XDG_CACHE_HOME/myelon`, else
    /// `~/.cache/myelon`, else a folder of this user's own among the temporary files.
    pub(crate) fn of_this_user() -> Self {
        let folder = chosen(&|name| std::env::var_os(name)).or_else(private_temporary);
        if folder.is_none() {
            tracing::debug!("no folder for compiled kernels, every process compiles its own");
        }
        Self { folder }
    }

    #[cfg(test)]
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { folder: None }
    }

    /// The image stored under `key`, if it is whole.
    pub(crate) fn get(&self, key: u64) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(file_name(key));
        let file = fs::read(&path).ok()?;
        let image = unwrap(&file);
        if image.is_none() {
            tracing::warn!(path = %path.display(), "a cached kernel image is damaged and will be replaced");
        }
        image.map(<[u8]>::to_vec)
    }

    /// Stores `image` under `key`. A cache that cannot be written is worth a note, not an error.
    pub(crate) fn put(&self, key: u64, image: &[u8]) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = store(folder, key, image) {
            tracing::debug!(%error, folder = %folder.display(), "the compiled kernels could not be kept");
        }
    }
}

fn file_name(key: u64) -> String {
    format!("{key:016x}.cubin")
}

fn unwrap(file: &[u8]) -> Option<&[u8]> {
    let (head, image) = file.split_at_checked(HEAD_BYTES)?;
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let whole = head[..8] == MAGIC[..]
        && word(8) == image.len() as u64
        && word(16) == Hash::new().part(image).value()
        && !image.is_empty();
    whole.then_some(image)
}

fn store(folder: &Path, key: u64, image: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    fs::create_dir_all(folder)?;
    let mut file = Vec::with_capacity(HEAD_BYTES + image.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&(image.len() as u64).to_le_bytes());
    file.extend_from_slice(&Hash::new().part(image).value().to_le_bytes());
    file.extend_from_slice(image);
    // ORDER: Relaxed is enough. Only the value matters, and it is taken once.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let half = folder.join(format!("{key:016x}.{}.{number}.part", std::process::id()));
    let stored = fs::write(&half, file).and_then(|()| fs::rename(&half, folder.join(file_name(key))));
    if stored.is_err() {
        let _ = fs::remove_file(&half);
    }
    stored
}

/// The folder that the environment names; relative values of the two general variables do not count, as
/// the XDG rules say.
fn chosen(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
    path("MYELON_CACHE_DIR")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|folder| folder.join("myelon")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/myelon")))
}

/// A folder among the temporary files that belongs to this user and that nobody else can write: what
/// lies there is loaded onto a GPU.
#[cfg(unix)]
fn private_temporary() -> Option<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let user = fs::metadata("/proc/self").ok()?.uid();
    let folder = std::env::temp_dir().join(format!("myelon-{user}"));
    // It may be there already; what counts is what it is.
    let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
    let found = fs::symlink_metadata(&folder).ok()?;
    (found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0).then_some(folder)
}

#[cfg(not(unix))]
fn private_temporary() -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    //! Property: what was stored comes back whole or not at all.
    //!
    //! Catches: half-written and damaged files being loaded, keys that do not depend on what they must.

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("myelon-cache-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn an_image_comes_back_whole() {
        let folder = scratch("whole");
        let cache = Cache::at(folder.clone());
        assert_eq!(cache.get(7), None);
        cache.put(7, b"image");
        assert_eq!(cache.get(7).as_deref(), Some(&b"image"[..]));
        assert_eq!(cache.get(8), None);
        cache.put(7, b"another");
        assert_eq!(cache.get(7).as_deref(), Some(&b"another"[..]));
        let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, [OsString::from("0000000000000007.cubin")], "no part file stays");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_counts_as_absent() {
        let folder = scratch("damaged");
        let cache = Cache::at(folder.clone());
        cache.put(1, &[42; 100]);
        let path = folder.join(file_name(1));
        let good = fs::read(&path).unwrap();
        let flipped: Vec<u8> =
            good.iter().enumerate().map(|(at, &b)| if at == 60 { b ^ 1 } else { b }).collect();
        for bad in [&good[..0], &good[..23], &good[..24], &good[..99], &flipped[..]] {
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.get(1), None, "{} bytes", bad.len());
        }
        cache.put(1, &[42; 100]);
        assert_eq!(cache.get(1), Some(vec![42; 100]), "a damaged file is replaced");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let cache = Cache::at(PathBuf::from("/proc/no/such/folder"));
        cache.put(1, b"image");
        assert_eq!(cache.get(1), None);
        let none = Cache::none();
        none.put(1, b"image");
        assert_eq!(none.get(1), None);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let hash = |parts: &[&str]| parts.iter().fold(Hash::new(), |h, part| h.part(part.as_bytes())).value();
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }

    #[test]
    fn the_folder_is_the_first_that_is_named() {
        let with = |pairs: &'static [(&str, &str)]| {
            chosen(&|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1)))
        };
        let all: &[_] = &[("MYELON_CACHE_DIR", "here"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(with(all), Some("here".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/myelon".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Some("/h/.cache/myelon".into()));
        assert_eq!(with(&[("MYELON_CACHE_DIR", ""), ("HOME", "")]), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_temporary_folder_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let Some(folder) = private_temporary() else { panic!("the temporary folder can be written here") };
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o022, 0);
    }
}
