//! What a page holds, word by word. Every word is 8 bytes and has one writer.
//!
//! | words | what | written by |
//! |---|---|---|
//! | `0..32` | [`Header`] | whoever makes the page, once; its magic last |
//! | `32..48` | counters of calls made | the end that makes calls |
//! | `48..80` | counters of calls carried out | the end that carries them out |
//! | `80..96` | [`Late`], behind its sequence | the same |
//! | `96..160` | [`Failure`], behind its sequence | the same |
//! | `160..` | [`ROWS`] of [`Row`], each behind its sequence: calls made | the end that makes calls |
//! | then | as many: calls begun | the end that carries them out |
//!
//! A page of another [`VERSION`] is not read: what lies where, or what a number means, may have changed. The numbers
//! of algorithms and of call words are the library's; who changes those raises the version too.

use bytemuck::{Pod, Zeroable};

/// What the first word of a page is, once all else of the header is written.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MYELONPG");
/// Version of this layout.
pub const VERSION: u64 = 1;
/// Calls that each ring of rows keeps.
pub const ROWS: usize = 256;

pub(crate) const HEADER_AT: usize = 0;
pub(crate) const MADE_AT: usize = HEADER_AT + words_of::<Header>();
pub(crate) const RAN_AT: usize = MADE_AT + 16;
pub(crate) const LATE_AT: usize = RAN_AT + 32;
pub(crate) const FAILURE_AT: usize = LATE_AT + 1 + words_of::<Late>();
pub(crate) const MADE_ROWS_AT: usize = FAILURE_AT + 1 + words_of::<Failure>();
/// Words of a row and its sequence: a line of its own.
pub(crate) const ROW_WORDS: usize = 1 + words_of::<Row>();
pub(crate) const RAN_ROWS_AT: usize = MADE_ROWS_AT + ROWS * ROW_WORDS;
const END_AT: usize = RAN_ROWS_AT + ROWS * ROW_WORDS;
/// Bytes of a page's file: a multiple of 4096.
pub const PAGE_BYTES: usize = (END_AT * 8).next_multiple_of(4096);
pub(crate) const PAGE_WORDS: usize = PAGE_BYTES / 8;

const _: () = assert!(words_of::<Header>() == 32 && words_of::<Late>() == 15 && words_of::<Failure>() == 63);
const _: () = assert!(ROW_WORDS == 16 && MADE_ROWS_AT == 160 && PAGE_BYTES == 69_632);

pub(crate) const fn words_of<T>() -> usize {
    assert!(size_of::<T>().is_multiple_of(8));
    size_of::<T>() / 8
}

/// Who a page is of. Written once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// [`PAGE_BYTES`].
    pub bytes: u64,
    /// The process.
    pub pid: u64,
    /// When it was started, in ticks since the start of the machine: process numbers are used again.
    pub pid_started: u64,
    /// Which start of the machine that was.
    pub boot: u64,
    /// Where the process number counts: the inode of the process's namespace.
    pub pid_namespace: u64,
    /// The communicator, the same for all its ranks in all processes.
    pub communicator: u64,
    /// Number of the communicator in its process, from 1.
    pub number: u64,
    /// The rank.
    pub rank: u64,
    /// Number of ranks.
    pub ranks: u64,
    /// A [`Backend`].
    pub backend: u64,
    /// How long a wait may take.
    pub deadline_ns: u64,
    /// How long a wait takes before it is late.
    pub late_ns: u64,
    /// When the communicator was opened, as [`crate::now_ns`] counts.
    pub opened_ns: u64,
    /// Name of the program, in UTF-8, cut or filled up with zeros.
    pub program: [u8; 32],
    /// Zero.
    pub reserved: [u64; 13],
}

/// Where a communicator's ranks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Threads or processes of the host. Start and end of each call are seen.
    #[default]
    Host = 1,
    /// GPUs. Calls are seen when they are made, and some time after they are complete.
    Cuda = 2,
}

impl Backend {
    /// `host` or `cuda`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Cuda => "cuda",
        }
    }
}

/// A counter; each only grows, and is read for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Calls that were made.
    CallsMade = MADE_AT as isize,
    /// Bytes of their payloads.
    BytesMade,
    /// 1 once the rank was dropped and its page was left behind.
    Closed,
    /// Calls that are known to be complete.
    CallsDone = RAN_AT as isize,
    /// Bytes of their payloads.
    BytesDone,
    /// Calls that failed.
    CallsFailed,
    /// Calls that were warned of because they were late.
    CallsLate,
    /// Nanoseconds in calls.
    BusyNs,
    /// Polls that saw no data; on GPUs of all threads, in waits that looked at the clock.
    PollsData,
    /// Polls that saw data, and no credit; on GPUs that saw no credit, likewise.
    PollsCredit,
    /// Nanoseconds waited for data, in waits that looked at the clock; 0 on GPUs.
    WaitedDataNs,
    /// Nanoseconds waited for credit, likewise.
    WaitedCreditNs,
    /// The longest wait, in nanoseconds.
    LongestNs,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::CallsMade,
        Self::BytesMade,
        Self::Closed,
        Self::CallsDone,
        Self::BytesDone,
        Self::CallsFailed,
        Self::CallsLate,
        Self::BusyNs,
        Self::PollsData,
        Self::PollsCredit,
        Self::WaitedDataNs,
        Self::WaitedCreditNs,
        Self::LongestNs,
    ];
}

const _: () = assert!((Count::Closed as usize) < RAN_AT && (Count::LongestNs as usize) < LATE_AT);

/// How far a call has come.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It was made, and waits for its turn; or on GPUs nobody has seen it complete yet.
    #[default]
    Made = 0,
    /// It is being carried out.
    Running = 1,
    /// It is complete.
    Done = 2,
    /// It failed.
    Failed = 3,
}

impl State {
    /// `made`, `running`, `done`, `failed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Of what kind a failure is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// A peer was waited for in vain.
    Stalled = 1,
    /// The ranks called differently.
    Disagreement = 2,
    /// A peer was dropped.
    PeerGone = 3,
    /// Memory of a ring was overwritten.
    Protocol = 4,
    /// Anything else.
    Other = 5,
}

impl ErrorCode {
    /// The kind's name: `stalled`, `disagreement`, `peer gone`, `protocol`, `other`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Disagreement => "disagreement",
            Self::PeerGone => "peer gone",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }

    pub(crate) fn of(code: u32) -> Option<Self> {
        let all = [Self::Stalled, Self::Disagreement, Self::PeerGone, Self::Protocol, Self::Other];
        all.into_iter().find(|&known| known as u32 == code)
    }
}

/// One call, or the calls that one launch of a graph makes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Row {
    /// Number of the (first) call, from 1 in the order in which the rank made them.
    pub number: u64,
    /// 1, or how many calls the graph has.
    pub calls: u64,
    /// What is called: the library's call word; of a graph that of its first call.
    pub call: u64,
    /// A [`State`]: see [`Row::state`].
    pub state: u32,
    /// An [`ErrorCode`], or 0: see [`Row::error`].
    pub error: u32,
    /// [`Row::IN_PLACE`], [`Row::GRAPH`].
    pub flags: u32,
    /// Place of the algorithm in the library's list of them.
    pub algorithm: u32,
    /// Lanes.
    pub lanes: u32,
    /// Slots of a ring.
    pub slots: u32,
    /// Payload bytes of a slot at most.
    pub piece_bytes: u32,
    /// Blocks of a launch.
    pub blocks: u32,
    /// The stream: a number that no other stream of the process has.
    pub stream: u64,
    /// Bytes of the payload at this rank, of all calls of a graph together.
    pub bytes: u64,
    /// Bytes of all payloads of this rank up to here; in calls made only.
    pub bytes_through: u64,
    /// When it was made, as [`crate::now_ns`] counts, but some milliseconds early: the clock is that of the ticks.
    pub made_ns: u64,
    /// When it began, or 0.
    pub started_ns: u64,
    /// When it ended, or 0.
    pub ended_ns: u64,
    /// Nanoseconds it waited for peers, in waits that looked at the clock.
    pub waited_ns: u64,
    /// Zero.
    pub reserved: u64,
}

impl Row {
    /// The result replaces the input.
    pub const IN_PLACE: u32 = 1;
    /// A launch of a graph made it.
    pub const GRAPH: u32 = 2;

    /// How far it has come.
    pub fn state(&self) -> State {
        let all = [State::Made, State::Running, State::Done, State::Failed];
        all.into_iter().find(|&known| known as u32 == self.state).unwrap_or_default()
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<ErrorCode> {
        ErrorCode::of(self.error)
    }

    /// Whether call `number` is this one, or among those of the graph.
    pub fn holds(&self, number: u64) -> bool {
        number.wrapping_sub(self.number) < self.calls
    }
}

/// For whom a rank waits, told when that had become late, once a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Late {
    /// Number of the call.
    pub number: u64,
    /// The peer that is waited for.
    pub peer: u64,
    /// The lane.
    pub lane: u64,
    /// What is awaited: a number of `myelon_ring::words::WaitingFor`.
    pub waiting_for: u64,
    /// The sequence, or gating, that is needed.
    pub needed: u64,
    /// The sequence, or gating, that was seen then.
    pub seen: u64,
    /// How long it had been waited for then.
    pub waited_ns: u64,
    /// When that was, as [`crate::now_ns`] counts.
    pub at_ns: u64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// The first error of a rank, after which it makes no call any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Failure {
    /// Number of the call that failed, or 0.
    pub number: u64,
    /// When that was, as [`crate::now_ns`] counts.
    pub at_ns: u64,
    /// An [`ErrorCode`].
    pub code: u32,
    /// Bytes of the text.
    pub bytes: u32,
    /// What the error says, in UTF-8; cut at a character where it is longer.
    pub text: [u8; 480],
}

impl Failure {
    pub(crate) fn new(number: u64, at_ns: u64, code: ErrorCode, text: &str) -> Self {
        let mut failure = Self { number, at_ns, code: code as u32, ..Self::zeroed() };
        let bytes = cut(text, failure.text.len());
        failure.text[..bytes].copy_from_slice(&text.as_bytes()[..bytes]);
        failure.bytes = bytes as u32;
        failure
    }

    /// Of what kind it is.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::of(self.code).unwrap_or(ErrorCode::Other)
    }

    /// What it says.
    pub fn text(&self) -> &str {
        let text = &self.text[..(self.bytes as usize).min(self.text.len())];
        std::str::from_utf8(text).unwrap_or("a text that is no text")
    }
}

/// The largest place up to `bytes` at which a character of `text` ends.
pub(crate) fn cut(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_words_of_their_own() {
        for (place, one) in Count::ALL.into_iter().enumerate() {
            assert!(Count::ALL[..place].iter().all(|&other| other as usize != one as usize));
            assert!((MADE_AT..LATE_AT).contains(&(one as usize)), "{one:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "x".to_owned() + &"ü".repeat(300);
        let failure = Failure::new(3, 0, ErrorCode::Stalled, &text);
        assert_eq!((failure.text().len(), failure.text()), (479, &text[..479]));
        assert_eq!(Failure::new(3, 0, ErrorCode::Other, "no").text(), "no");
    }

    #[test]
    fn a_graph_holds_its_calls() {
        let row = Row { number: 5, calls: 3, ..Row::default() };
        assert_eq!([4, 5, 7, 8].map(|number| row.holds(number)), [false, true, true, false]);
    }
}
