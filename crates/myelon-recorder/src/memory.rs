//! The words of a page: on the heap, or in a file that is mapped.
//!
//! All unsafe code of this crate is here. Invariants:
//!
//! * **M1 Whole.** A mapping is exactly [`PAGE_BYTES`] long, and so is its file when it is mapped. Nobody makes a
//!   page's file shorter: it is written once at its full length and then only unlinked.
//! * **M2 Words.** A mapping is touched as aligned atomic words only, by this process and by others.
//! * **M3 Reading.** A mapping for reading is only loaded from, by relaxed loads of 8 bytes.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

use crate::words::{PAGE_BYTES, PAGE_WORDS};

/// The words of one page.
pub(crate) enum Memory {
    Heap(Box<[AtomicU64]>),
    Mapped(MmapRaw),
}

impl Memory {
    /// Zeros on the heap.
    pub fn heap() -> Self {
        Self::Heap((0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    /// The page in `file`, to be written.
    pub fn writable(file: &File) -> io::Result<Self> {
        check_length(file)?;
        Ok(Self::Mapped(MmapOptions::new().len(PAGE_BYTES).map_raw(file)?))
    }

    /// The page in `file`, to be looked at.
    pub fn readable(file: &File) -> io::Result<Self> {
        check_length(file)?;
        Ok(Self::Mapped(MmapOptions::new().len(PAGE_BYTES).map_raw_read_only(file)?))
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Heap(words) => words,
            // SAFETY: the mapping lives as long as `self`, starts on a page of the system, so it is aligned, and is
            // as long as these words (M1). Whoever else maps the file touches it by atomic words too (M2). Where it
            // is mapped for reading only, no word is stored to (M3).
            Self::Mapped(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), PAGE_WORDS) },
        }
    }
}

/// M1.
fn check_length(file: &File) -> io::Result<()> {
    let bytes = file.metadata()?.len();
    if bytes == PAGE_BYTES as u64 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("needed {PAGE_BYTES} bytes, saw {bytes}")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn who_maps_for_reading_sees_what_is_written() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Memory::readable(&file).err().unwrap().kind(), io::ErrorKind::InvalidData);
        file.set_len(PAGE_BYTES as u64).unwrap();
        let (ours, theirs) = (Memory::writable(&file).unwrap(), Memory::readable(&file).unwrap());
        ours.words()[PAGE_WORDS - 1].store(9, Ordering::Relaxed);
        assert_eq!(theirs.words()[PAGE_WORDS - 1].load(Ordering::Relaxed), 9);
        assert_eq!(Memory::heap().words().len(), PAGE_WORDS);
    }
}
