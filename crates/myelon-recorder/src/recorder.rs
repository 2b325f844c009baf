//! The end that writes a page.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytemuck::Zeroable;

use crate::clock::{now_ns, tick_ns};
use crate::error::RecordError;
use crate::folder::Folder;
use crate::memory::Memory;
use crate::process::{Identity, program};
use crate::sequence::{read, write};
use crate::words::{
    Backend, Count, ErrorCode, FAILURE_AT, Failure, HEADER_AT, Header, LATE_AT, Late, MADE_ROWS_AT, MAGIC,
    PAGE_BYTES, RAN_ROWS_AT, ROW_WORDS, ROWS, Row, State, VERSION, cut, words_of,
};

/// Whose page it will be.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// The communicator: the same number for all its ranks, in whatever processes, and for no other.
    pub communicator: u64,
    /// Number of the communicator in this process, from 1.
    pub number: u64,
    /// The rank.
    pub rank: usize,
    /// Number of ranks.
    pub ranks: usize,
    /// Where the ranks are.
    pub backend: Backend,
    /// How long a wait may take.
    pub deadline: Duration,
    /// How long a wait takes before it is late.
    pub late_after: Duration,
}

/// What a call, or a part of one, has waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Polls that saw no data.
    pub polls_data: u64,
    /// Polls that saw data, and no credit.
    pub polls_credit: u64,
    /// Nanoseconds waited for data, in waits that looked at the clock.
    pub data_ns: u64,
    /// Nanoseconds waited for credit, likewise.
    pub credit_ns: u64,
    /// The longest wait, in nanoseconds.
    pub longest_ns: u64,
}

/// The page of one rank, for the rank to write.
///
/// Calls are made and carried out at two ends, which may be on two threads and do not wait for each other. Calls are
/// carried out in the order in which they were made, one at a time. Nothing is allocated but for the text of an
/// error. Dropping it removes the file, as [`Recorder::close`] does.
pub struct Recorder {
    memory: Memory,
    file: Option<PathBuf>,
    /// A fork of the process must not remove the file.
    pid: u32,
    made: Mutex<u64>,
    ran: Mutex<Ran>,
}

/// What the end that carries calls out knows.
struct Ran {
    /// Calls begun.
    begun: u64,
    /// The last of them.
    row: Row,
}

impl Recorder {
    /// A page in plain memory, which only this process can look at.
    pub fn in_memory(about: &About) -> Self {
        Self::begin(Memory::heap(), None, about)
    }

    /// A page in a new file of `folder`, named by process, communicator and rank.
    ///
    /// # Errors
    ///
    /// [`RecordError::System`]: the file can't be made or mapped. None is left.
    pub fn in_folder(folder: &Folder, about: &About) -> Result<Self, RecordError> {
        let name = format!("{}-{}-{}", std::process::id(), about.number, about.rank);
        let (path, file) = folder.new_file(&name, &format!("{:016x}", about.communicator))?;
        match Memory::writable(&file) {
            Ok(memory) => Ok(Self::begin(memory, Some(path), about)),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(RecordError::system("mapping", &path)(error))
            }
        }
    }

    fn begin(memory: Memory, file: Option<PathBuf>, about: &About) -> Self {
        let Identity { pid, started, boot, namespace } = Identity::own();
        let name = program();
        let mut program = [0; 32];
        let bytes = cut(&name, program.len());
        program[..bytes].copy_from_slice(&name.as_bytes()[..bytes]);
        let header = Header {
            magic: 0,
            version: VERSION,
            bytes: PAGE_BYTES as u64,
            pid,
            pid_started: started,
            boot,
            pid_namespace: namespace,
            communicator: about.communicator,
            number: about.number,
            rank: about.rank as u64,
            ranks: about.ranks as u64,
            backend: about.backend as u64,
            deadline_ns: nanoseconds(about.deadline),
            late_ns: nanoseconds(about.late_after),
            opened_ns: now_ns(),
            program,
            ..Header::zeroed()
        };
        let header: [u64; words_of::<Header>()] = bytemuck::cast(header);
        let words = memory.words();
        for (word, value) in words[HEADER_AT..].iter().zip(header) {
            // ORDER: Relaxed is enough, before the magic.
            word.store(value, Ordering::Relaxed);
        }
        // ORDER recorder/open: Release pairs with the fence of `Page::open` behind its look at the magic. Without it
        // a reader could take a page for whole of which it sees no owner yet.
        words[HEADER_AT].store(MAGIC, Ordering::Release);
        let ran = Mutex::new(Ran { begun: 0, row: Row::zeroed() });
        Self { memory, file, pid: std::process::id(), made: Mutex::new(0), ran }
    }

    /// Its file; none where it lies in plain memory.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The rank makes a call, or by a graph `row.calls` of them. The state is [`State::Made`], whatever `row` says.
    ///
    /// Returns when that was, as of the last tick of the system.
    pub fn made(&self, row: Row) -> u64 {
        let mut entries = lock(&self.made);
        let made_ns = tick_ns();
        let bytes_through = self.count(Count::BytesMade) + row.bytes;
        let row = Row { state: State::Made as u32, made_ns, bytes_through, ..row };
        self.put_row(MADE_ROWS_AT, *entries, &row);
        *entries += 1;
        self.set(Count::BytesMade, bytes_through);
        self.set(Count::CallsMade, row.number + row.calls.saturating_sub(1));
        made_ns
    }

    /// The oldest call that was made and not begun is begun.
    pub fn start(&self, row: Row) {
        let mut ran = lock(&self.ran);
        ran.row = Row { state: State::Running as u32, started_ns: now_ns(), ..row };
        self.put_row(RAN_ROWS_AT, ran.begun, &ran.row);
        ran.begun += 1;
    }

    /// The call that was begun has waited so much more.
    pub fn waited(&self, waits: &Waits) {
        let mut ran = lock(&self.ran);
        self.add_waits(&mut ran, waits);
    }

    /// The call that was begun waits for so long that it is late.
    pub fn late(&self, late: Late) {
        let ran = lock(&self.ran);
        let late = Late { number: ran.row.number, at_ns: now_ns(), ..late };
        let words: [u64; words_of::<Late>()] = bytemuck::cast(late);
        write(&self.memory.words()[LATE_AT..FAILURE_AT], &words);
        self.add(Count::CallsLate, 1);
    }

    /// The call that was begun is complete; it has waited so much more.
    pub fn done(&self, waits: &Waits) {
        let mut ran = lock(&self.ran);
        self.add_waits(&mut ran, waits);
        self.end(&mut ran, State::Done, 0);
        self.set(Count::CallsDone, ran.row.number);
        self.add(Count::BytesDone, ran.row.bytes);
    }

    /// A call has failed: the one that was begun and not done, or else one that could not be made. Of several
    /// failures the first is kept.
    pub fn failed(&self, code: ErrorCode, text: &str) {
        let mut ran = lock(&self.ran);
        let is_running = ran.begun > 0 && ran.row.state() == State::Running;
        if is_running {
            self.end(&mut ran, State::Failed, code as u32);
            self.add(Count::CallsFailed, 1);
        }
        let words = &self.memory.words()[FAILURE_AT..MADE_ROWS_AT];
        let mut known = [0; words_of::<Failure>()];
        if !read(words, &mut known) {
            let failure = Failure::new(if is_running { ran.row.number } else { 0 }, now_ns(), code, text);
            let new: [u64; words_of::<Failure>()] = bytemuck::cast(failure);
            write(words, &new);
        }
    }

    /// Somebody has waited for the first `number` calls, which are complete. For backends that do not see calls
    /// begin and end.
    pub fn done_to(&self, number: u64) {
        let _ran = lock(&self.ran);
        if number <= self.count(Count::CallsDone) {
            return;
        }
        let rows = (0..ROWS as u64).filter_map(|entry| self.row(MADE_ROWS_AT, entry));
        let upto = rows.filter(|row| row.number + row.calls.saturating_sub(1) <= number);
        // What is not in the ring any more is counted with a later call.
        let bytes = upto.map(|row| row.bytes_through).max().unwrap_or(0);
        self.set(Count::BytesDone, bytes.max(self.count(Count::BytesDone)));
        self.set(Count::CallsDone, number);
    }

    /// The rank is dropped. A page that is `kept` stays where it is, marked, for as long as nobody
    /// [clears](Folder::clear) it; else its file is removed.
    pub fn close(&self, kept: bool) {
        let _made = lock(&self.made);
        if self.count(Count::Closed) == 1 {
            return;
        }
        self.set(Count::Closed, 1);
        if let Some(file) = self.file.as_ref().filter(|_| !kept && self.pid == std::process::id()) {
            // Somebody else may have removed it.
            let _ = fs::remove_file(file);
        }
    }

    fn add_waits(&self, ran: &mut Ran, waits: &Waits) {
        ran.row.waited_ns += waits.data_ns + waits.credit_ns;
        self.add(Count::PollsData, waits.polls_data);
        self.add(Count::PollsCredit, waits.polls_credit);
        self.add(Count::WaitedDataNs, waits.data_ns);
        self.add(Count::WaitedCreditNs, waits.credit_ns);
        self.set(Count::LongestNs, waits.longest_ns.max(self.count(Count::LongestNs)));
    }

    fn end(&self, ran: &mut Ran, state: State, error: u32) {
        ran.row = Row { state: state as u32, error, ended_ns: now_ns(), ..ran.row };
        self.put_row(RAN_ROWS_AT, ran.begun - 1, &ran.row);
        self.add(Count::BusyNs, ran.row.ended_ns - ran.row.started_ns);
    }

    fn put_row(&self, ring: usize, entry: u64, row: &Row) {
        let values: &[u64; words_of::<Row>()] = bytemuck::cast_ref(row);
        write(&self.memory.words()[row_at(ring, entry)..][..ROW_WORDS], values);
    }

    fn row(&self, ring: usize, entry: u64) -> Option<Row> {
        let mut values = [0; words_of::<Row>()];
        read(&self.memory.words()[row_at(ring, entry)..][..ROW_WORDS], &mut values)
            .then(|| bytemuck::cast(values))
    }

    fn word(&self, count: Count) -> &AtomicU64 {
        &self.memory.words()[count as usize]
    }

    /// What a counter is, which only the end that asks writes.
    fn count(&self, count: Count) -> u64 {
        // ORDER: Relaxed is enough. Each counter is read for itself, and this end is its one writer.
        self.word(count).load(Ordering::Relaxed)
    }

    fn set(&self, count: Count, value: u64) {
        // ORDER: Relaxed is enough, as above.
        self.word(count).store(value, Ordering::Relaxed);
    }

    fn add(&self, count: Count, more: u64) {
        self.set(count, self.count(count).wrapping_add(more));
    }
}

/// Where entry `entry` of a ring of rows lies, in words.
pub(crate) fn row_at(ring: usize, entry: u64) -> usize {
    ring + (entry % ROWS as u64) as usize * ROW_WORDS
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held can't have left a word half written, and a row says itself whether it is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close(false);
    }
}
