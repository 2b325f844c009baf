//! The end that writes a page.

use std::fs;
use std::mem::offset_of;
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
use crate::sequence::{read, write, write_some};
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
/// Calls are made at one end and carried out at another, which may be on two threads and do not wait for each other.
/// Each end is used by one thread at a time, and carries calls out in the order in which they were made, one after the
/// other: that is the caller's to see to, by locks that it has anyway. Else rows may mix calls; nothing worse.
///
/// Nothing is allocated but for the text of an error. Dropping it removes the file, as [`Recorder::close`] does.
pub struct Recorder {
    memory: Memory,
    file: Option<PathBuf>,
    /// A fork of the process must not remove the file.
    pid: u32,
    /// Rows of calls made, and of calls begun. Each end has its own.
    made: Own,
    begun: Own,
    /// For what is rare and may come from any thread.
    rare: Mutex<()>,
}

/// What one end alone writes, in lines of its own. Else each call of one end would take the line from the other, with
/// all that both only read. Two lines of 64 bytes, because some processors fetch them in pairs.
///
/// Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Spatial Prefetcher".
#[repr(align(128))]
struct Own(AtomicU64);

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
        let (pid, made, begun) = (std::process::id(), Own(AtomicU64::new(0)), Own(AtomicU64::new(0)));
        Self { memory, file, pid, made, begun, rare: Mutex::new(()) }
    }

    /// Its file; none where it lies in plain memory.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The rank makes a call, or by a graph `row.calls` of them. The state is [`State::Made`], whatever `row` says.
    ///
    /// Returns when that was, as of the last tick of the system.
    pub fn made(&self, row: Row) -> u64 {
        let made_ns = tick_ns();
        let bytes_through = self.count(Count::BytesMade) + row.bytes;
        let row = Row { state: State::Made as u32, made_ns, bytes_through, ..row };
        self.put_row(MADE_ROWS_AT, next(&self.made.0), &row);
        self.set(Count::BytesMade, bytes_through);
        self.set(Count::CallsMade, row.number + row.calls.saturating_sub(1));
        made_ns
    }

    /// The oldest call that was made and not begun is begun. One that `follows` the last one without anything in
    /// between has begun when that one ended; the clock is not asked.
    pub fn start(&self, row: Row, follows: bool) {
        // ORDER: Relaxed is enough. Only this end writes it.
        let before = self.begun.0.load(Ordering::Relaxed);
        let ended_ns = if follows && before > 0 { self.last_row()[ENDED].load(Ordering::Relaxed) } else { 0 };
        let started_ns = if ended_ns == 0 { now_ns() } else { ended_ns };
        let row = Row { state: State::Running as u32, started_ns, ..row };
        self.put_row(RAN_ROWS_AT, next(&self.begun.0), &row);
    }

    /// The call that was begun has waited so much more.
    pub fn waited(&self, waits: &Waits) {
        let more_ns = waits.data_ns + waits.credit_ns;
        let row = self.last_row();
        // ORDER: Relaxed is enough, here and below. Only this end writes these words.
        write_some(row, [(WAITED - 1, row[WAITED].load(Ordering::Relaxed) + more_ns)]);
        self.count_waits(waits);
    }

    /// The call that was begun waits for so long that it is late.
    pub fn late(&self, late: Late) {
        let number = self.last_row()[NUMBER].load(Ordering::Relaxed);
        let late = Late { number, at_ns: now_ns(), ..late };
        let words: [u64; words_of::<Late>()] = bytemuck::cast(late);
        write(&self.memory.words()[LATE_AT..FAILURE_AT], &words);
        self.add(Count::CallsLate, 1);
    }

    /// The call that was begun is complete; it has waited so much more.
    pub fn done(&self, waits: &Waits) {
        self.end(State::Done, 0, waits.data_ns + waits.credit_ns);
        self.count_waits(waits);
        let row = self.last_row();
        self.set(Count::CallsDone, row[NUMBER].load(Ordering::Relaxed));
        self.add(Count::BytesDone, row[BYTES].load(Ordering::Relaxed));
    }

    /// The call that was begun has failed.
    pub fn failed(&self, code: ErrorCode, text: &str) {
        self.end(State::Failed, code as u32, 0);
        self.add(Count::CallsFailed, 1);
        self.fail(self.last_row()[NUMBER].load(Ordering::Relaxed), code, text);
    }

    /// The communicator has failed, and calls of this rank are not made or not begun for that. Any thread may say so;
    /// of several failures the first is kept.
    pub fn refused(&self, code: ErrorCode, text: &str) {
        self.fail(0, code, text);
    }

    fn fail(&self, number: u64, code: ErrorCode, text: &str) {
        let _rare = self.rare();
        let words = &self.memory.words()[FAILURE_AT..MADE_ROWS_AT];
        let mut known = [0; words_of::<Failure>()];
        if !read(words, &mut known) {
            let failure = Failure::new(number, now_ns(), code, text);
            let new: [u64; words_of::<Failure>()] = bytemuck::cast(failure);
            write(words, &new);
        }
    }

    /// Somebody has waited for the first `number` calls, which are complete. For backends that do not see calls
    /// begin and end; any thread may say so.
    pub fn done_to(&self, number: u64) {
        let _rare = self.rare();
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

    /// Calls that are known to be complete.
    pub fn calls_done(&self) -> u64 {
        self.count(Count::CallsDone)
    }

    /// What all calls of the rank have waited up to now, as somebody else counts it. For backends that count where they
    /// run; any thread may say so. What is less than was said before is left.
    pub fn waited_in_all(&self, waits: &Waits) {
        let _rare = self.rare();
        let Waits { polls_data, polls_credit, data_ns, credit_ns, longest_ns } = *waits;
        for (count, value) in [
            (Count::PollsData, polls_data),
            (Count::PollsCredit, polls_credit),
            (Count::WaitedDataNs, data_ns),
            (Count::WaitedCreditNs, credit_ns),
            (Count::LongestNs, longest_ns),
        ] {
            self.set(count, value.max(self.count(count)));
        }
    }

    /// The rank is dropped. A page that is `kept` stays where it is, marked, for as long as nobody
    /// [clears](Folder::clear) it; else its file is removed.
    pub fn close(&self, kept: bool) {
        let _rare = self.rare();
        if self.count(Count::Closed) == 1 {
            return;
        }
        self.set(Count::Closed, 1);
        if let Some(file) = self.file.as_ref().filter(|_| !kept && self.pid == std::process::id()) {
            // Somebody else may have removed it.
            let _ = fs::remove_file(file);
        }
    }

    fn count_waits(&self, waits: &Waits) {
        if waits.polls_data + waits.polls_credit == 0 {
            return;
        }
        self.add(Count::PollsData, waits.polls_data);
        self.add(Count::PollsCredit, waits.polls_credit);
        self.add(Count::WaitedDataNs, waits.data_ns);
        self.add(Count::WaitedCreditNs, waits.credit_ns);
        self.set(Count::LongestNs, waits.longest_ns.max(self.count(Count::LongestNs)));
    }

    fn end(&self, state: State, error: u32, more_ns: u64) {
        let row = self.last_row();
        let ended_ns = now_ns();
        let states: u64 = bytemuck::cast([state as u32, error]);
        let waited_ns = row[WAITED].load(Ordering::Relaxed) + more_ns;
        write_some(row, [(STATES - 1, states), (ENDED - 1, ended_ns), (WAITED - 1, waited_ns)]);
        self.add(Count::BusyNs, ended_ns - row[STARTED].load(Ordering::Relaxed));
    }

    /// The words of the call that was begun last, behind their sequence.
    fn last_row(&self) -> &[AtomicU64] {
        let last = self.begun.0.load(Ordering::Relaxed).wrapping_sub(1);
        &self.memory.words()[row_at(RAN_ROWS_AT, last)..][..ROW_WORDS]
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

    fn rare(&self) -> MutexGuard<'_, ()> {
        // A panic while it was held can't have left a word half written.
        self.rare.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The number of the next row of an end.
fn next(rows: &AtomicU64) -> u64 {
    // ORDER: Relaxed is enough. Only this end writes it.
    let row = rows.load(Ordering::Relaxed);
    rows.store(row + 1, Ordering::Relaxed);
    row
}

/// Words of a row, behind its sequence.
const NUMBER: usize = 1 + offset_of!(Row, number) / 8;
const STATES: usize = 1 + offset_of!(Row, state) / 8;
const BYTES: usize = 1 + offset_of!(Row, bytes) / 8;
const STARTED: usize = 1 + offset_of!(Row, started_ns) / 8;
const ENDED: usize = 1 + offset_of!(Row, ended_ns) / 8;
const WAITED: usize = 1 + offset_of!(Row, waited_ns) / 8;
const _: () = assert!(offset_of!(Row, error) == offset_of!(Row, state) + 4);

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
