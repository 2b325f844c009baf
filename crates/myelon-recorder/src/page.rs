//! A page as other programs see it, while its rank goes on.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use bytemuck::Pod;
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::memory::Memory;
use crate::process::{Identity, Life};
use crate::recorder::row_at;
use crate::sequence::read;
use crate::words::{
    Backend, Count, FAILURE_AT, Failure, HEADER_AT, Header, LATE_AT, Late, MADE_ROWS_AT, MAGIC, PAGE_BYTES,
    RAN_ROWS_AT, ROW_WORDS, ROWS, Row, State, VERSION, words_of,
};

/// A page of somebody else, or one's own, to look at. It is mapped for reading only: looking disturbs nobody.
pub struct Page {
    memory: Memory,
    path: PathBuf,
    header: Header,
}

impl Page {
    /// The page in the file at `path`; `None` where there is none of this user's and version.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
            return None;
        }
        let memory = Memory::readable(&file).ok()?;
        let words = memory.words();
        // ORDER: Relaxed is enough: the fence acquires what it saw.
        if words[HEADER_AT].load(Ordering::Relaxed) != MAGIC {
            return None;
        }
        // ORDER recorder/open: Acquire pairs with the store of the magic in `Recorder::begin`, which comes last.
        fence(Ordering::Acquire);
        let mut header = [0; words_of::<Header>()];
        for (value, word) in header.iter_mut().zip(&words[HEADER_AT..]) {
            // ORDER: Relaxed is enough, behind the fence.
            *value = word.load(Ordering::Relaxed);
        }
        let header: Header = bytemuck::cast(header);
        let is_known = header.version == VERSION && header.bytes == PAGE_BYTES as u64;
        is_known.then(|| Self { memory, path: path.to_owned(), header })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the rank is.
    pub fn backend(&self) -> Backend {
        if self.header.backend == Backend::Cuda as u64 { Backend::Cuda } else { Backend::Host }
    }

    /// Name of the program.
    pub fn program(&self) -> String {
        let name = String::from_utf8_lossy(&self.header.program);
        name.trim_end_matches('\0').chars().filter(|c| !c.is_control()).collect()
    }

    /// Whether its process still runs.
    pub fn life(&self) -> Life {
        let Header { pid, pid_started: started, boot, pid_namespace: namespace, .. } = self.header;
        Identity { pid, started, boot, namespace }.life()
    }

    /// Whether its rank was dropped and left it behind.
    pub fn is_closed(&self) -> bool {
        self.count(Count::Closed) == 1
    }

    /// What a counter is just now.
    pub fn count(&self, count: Count) -> u64 {
        // ORDER: Relaxed is enough. Each counter is read for itself.
        self.memory.words()[count as usize].load(Ordering::Relaxed)
    }

    /// The last calls, in their order, without gaps in what each ring still holds: as far as they were begun, and
    /// then those that were only made. A row that is written just now is left out.
    pub fn calls(&self) -> Vec<Row> {
        // First, so that what was complete then is among the rows where its end was seen.
        let done = self.count(Count::CallsDone);
        let mut begun = self.rows(RAN_ROWS_AT);
        let last = begun.last().map_or(0, |row| row.number);
        for mut row in self.rows(MADE_ROWS_AT) {
            let row_last = row.number + row.calls.saturating_sub(1);
            if row_last <= last {
                continue;
            }
            // Of a graph, what was begun stands for itself.
            if row.number <= last {
                row.calls = row_last - last;
                row.number = last + 1;
            }
            if row_last <= done {
                row.state = State::Done as u32;
            }
            begun.push(row);
        }
        begun
    }

    /// The call that the rank is in or that it will be in next; none where all that were made are complete.
    pub fn current(&self) -> Option<Row> {
        self.calls().into_iter().find(|row| matches!(row.state(), State::Made | State::Running))
    }

    /// For whom the rank waits, where call `number` has become late.
    pub fn late(&self, number: u64) -> Option<Late> {
        self.block::<Late, { words_of::<Late>() }>(LATE_AT).filter(|late| late.number == number)
    }

    /// The first error of the rank.
    pub fn failure(&self) -> Option<Failure> {
        self.block::<Failure, { words_of::<Failure>() }>(FAILURE_AT)
    }

    /// The rows of one ring that hold a call, in the order of their numbers.
    fn rows(&self, ring: usize) -> Vec<Row> {
        let row = |entry| self.block::<Row, { words_of::<Row>() }>(row_at(ring, entry));
        let mut rows: Vec<Row> = (0..ROWS as u64).filter_map(row).collect();
        rows.sort_by_key(|row| row.number);
        rows
    }

    fn block<T: Pod, const WORDS: usize>(&self, at: usize) -> Option<T> {
        let mut values = [0; WORDS];
        read(&self.memory.words()[at..][..1 + WORDS], &mut values).then(|| bytemuck::cast(values))
    }
}

const _: () = assert!(ROW_WORDS == 1 + words_of::<Row>());

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("path", &self.path).finish_non_exhaustive()
    }
}
