//! What a plan or a setting refuses.

use std::fmt;

use crate::algorithm::Algorithm;

/// A number outside of what is allowed, and what is allowed.
///
/// # Example
///
/// ```
/// use myelon_lanes::Bound;
///
/// let bound = Bound { name: "slots", value: 3, rule: "a power of two", least: 1, most: 1024 };
/// assert_eq!(bound.to_string(), "slots is 3, needed a power of two from 1 to 1024");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which number.
    pub name: &'static str,
    /// What was seen.
    pub value: u64,
    /// What kind of number is needed, such as "a power of two"; "a number" where any will do.
    pub rule: &'static str,
    /// The least that is allowed.
    pub least: u64,
    /// The most that is allowed.
    pub most: u64,
}

impl Bound {
    /// Any number from `least` to `most`.
    pub(crate) fn number(name: &'static str, value: u64, least: u64, most: u64) -> Self {
        Self { name, value, rule: "a number", least, most }
    }

    /// Refuses the value unless it lies in the range.
    pub(crate) fn check(self) -> Result<(), Bound> {
        self.check_and(true)
    }

    /// Refuses the value unless it lies in the range and its rule holds.
    pub(crate) fn check_and(self, rule_holds: bool) -> Result<(), Bound> {
        if rule_holds && (self.least..=self.most).contains(&self.value) { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, rule, least, most } = self;
        write!(f, "{name} is {value}, needed {rule} ")?;
        match *most {
            u64::MAX => write!(f, "of at least {least}"),
            most if most < *least => write!(f, "of at least {least}, but no more than {most} is possible"),
            most => write!(f, "from {least} to {most}"),
        }
    }
}

impl std::error::Error for Bound {}

/// A plan, geometry or table that cannot be. Nothing has been allocated or launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A number, forced or given, is out of its bounds.
    #[error(transparent)]
    Value(#[from] Bound),
    /// The payload is no whole number of elements, or the element has no known size.
    #[error("{bytes} bytes are not a whole number of {element_bytes}-byte elements of 1, 2, 4 or 8 bytes")]
    Element {
        /// Bytes of the payload.
        bytes: u64,
        /// Bytes of an element.
        element_bytes: u32,
    },
    /// The rings would take more memory than allowed.
    #[error(
        "the rings of {ranks} ranks with lanes={lanes} slots={slots} slot-bytes={piece_bytes} \
         need {needed} bytes a rank, allowed are {allowed}"
    )]
    Memory {
        /// Number of ranks.
        ranks: u32,
        /// Lanes of the pool.
        lanes: u32,
        /// Slots a ring.
        slots: u32,
        /// Payload bytes of a slot.
        piece_bytes: u32,
        /// Bytes of the window that were needed.
        needed: u64,
        /// Bytes that are allowed.
        allowed: u64,
    },
    /// The forced algorithm, or one of a table's row, cannot run in this communicator.
    #[error("{algorithm} cannot run here: it needs {needed}")]
    AlgorithmHere {
        /// Which one.
        algorithm: Algorithm,
        /// What is missing.
        needed: &'static str,
    },
    /// The forced algorithm cannot carry so large a payload.
    #[error("{algorithm} carries at most {most} bytes between {ranks} ranks, not {bytes}")]
    AlgorithmBytes {
        /// Which one.
        algorithm: Algorithm,
        /// Number of ranks.
        ranks: u32,
        /// Bytes of the payload.
        bytes: u64,
        /// The most that it carries.
        most: u64,
    },
    /// The model of time does not cover the algorithm.
    #[error("the model of time knows the ring, not {algorithm}")]
    NotModelled {
        /// Which one.
        algorithm: Algorithm,
    },
    /// A row of a tuning table holds a number out of its bounds. Rows count from 0.
    #[error("row {row} of the tuning table: {bound}")]
    Row {
        /// Which row.
        row: usize,
        /// The number, and its bounds.
        bound: Bound,
    },
    /// A row of a tuning table leaves a gap after the row before it, or overlaps it. Rows count from 0.
    #[error(
        "row {row} of the tuning table starts at {bytes_min} bytes, but the row before it for {ranks} ranks \
         ends at {bytes_max_before}: rows follow each other without gap or overlap"
    )]
    RowOrder {
        /// Which row.
        row: usize,
        /// The ranks of both rows.
        ranks: u32,
        /// Where the row starts.
        bytes_min: u64,
        /// Where the row before it ends, inclusive.
        bytes_max_before: u64,
    },
    /// The rows of a tuning table are not in the order of their ranks. Rows count from 0.
    #[error(
        "row {row} of the tuning table is for {ranks} ranks, after a row for {ranks_before}: ranks ascend"
    )]
    RowRanks {
        /// Which row.
        row: usize,
        /// Ranks of the row.
        ranks: u32,
        /// Ranks of the row before it.
        ranks_before: u32,
    },
}

/// A setting that is not known, or whose text means nothing. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such name.
    #[error("unknown {what} `{seen}`; known: {known}")]
    Unknown {
        /// What was looked for, such as "setting" or "policy".
        what: &'static str,
        /// The name that was seen.
        seen: String,
        /// Every name that is known, with commas.
        known: &'static str,
    },
    /// The text is no number of bytes.
    #[error(
        "`{seen}` is no number of bytes: {problem}; write for example 123, 16K, 4MiB or 1G (powers of two)"
    )]
    Bytes {
        /// The text that was seen.
        seen: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The text is no count.
    #[error("{name}: `{seen}` is no whole number from 0 to {}", u32::MAX)]
    Count {
        /// Which setting.
        name: &'static str,
        /// The text that was seen.
        seen: String,
    },
}
