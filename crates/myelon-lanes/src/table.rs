//! The tuning table: what measurements found best, by ranks and size.

use std::fmt;

use crate::algorithm::Algorithm;
use crate::error::{Bound, PlanError};
use crate::family;
use crate::geometry::{check_piece_bytes, ranks_bound};
use crate::plan::ROLES;
use crate::settings::{LANES_MAX, PIECE_BYTES_MAX, format_bytes};

/// What to launch for payloads of `bytes_min..=bytes_max` bytes between `ranks` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number of ranks.
    pub ranks: u32,
    /// Whether the row is for communicators whose buffers are windows; the others have rows of their own.
    pub windows: bool,
    /// The smallest payload of the row.
    pub bytes_min: u64,
    /// The largest payload of the row, inclusive.
    pub bytes_max: u64,
    /// What the call is made of.
    pub algorithm: Algorithm,
    /// Lanes of the call.
    pub lanes: u32,
    /// Payload bytes of a slot at most; 0 where the algorithm is not the ring.
    pub piece_bytes: u32,
    /// Blocks of the launch: of the ring a multiple of 3, else as many as lanes.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
}

impl Row {
    fn check(&self) -> Result<(), Bound> {
        ranks_bound(self.ranks).check()?;
        let inbox = family::inbox(self.ranks);
        let most = self.algorithm.bytes_max(self.ranks, inbox);
        Bound::number("bytes_max", self.bytes_max, self.bytes_min, most).check()?;
        if self.algorithm != Algorithm::Ring {
            Bound::number("lanes", self.lanes.into(), 1, inbox.lanes.into()).check()?;
        }
        if self.algorithm == Algorithm::Neighbour {
            // Its sums are others than those of all other rows.
            Bound::number("rows of neighbour, which is for whoever forces it,", 1, 0, 0).check()?;
        }
        if self.algorithm == Algorithm::Direct {
            Bound::number("windows", self.windows.into(), 1, 1).check()?;
        }
        Bound::number("lanes", self.lanes.into(), 1, LANES_MAX.into()).check()?;
        let value = self.blocks.into();
        if self.algorithm == Algorithm::Ring {
            check_piece_bytes(self.piece_bytes, PIECE_BYTES_MAX)?;
            let most = u64::from(ROLES) * u64::from(self.lanes);
            Bound { name: "blocks", value, rule: "a multiple of 3", least: ROLES.into(), most }
                .check_and(self.blocks.is_multiple_of(ROLES))?;
        } else {
            Bound::number("slot-bytes", self.piece_bytes.into(), 0, 0).check()?;
            Bound::number("blocks", value, self.lanes.into(), self.lanes.into()).check()?;
        }
        Bound { name: "threads", value: self.threads.into(), rule: "a multiple of 32", least: 64, most: 512 }
            .check_and(self.threads.is_multiple_of(32))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ranks, algorithm, lanes, blocks, threads, .. } = self;
        let [min, max] = [self.bytes_min, self.bytes_max].map(format_bytes);
        let windows = if self.windows { ", windows" } else { "" };
        write!(
            f,
            "{ranks} ranks{windows}, {min} to {max}: {algorithm} lanes={lanes} blocks={blocks} threads={threads}"
        )?;
        if *algorithm != Algorithm::Ring {
            return Ok(());
        }
        write!(f, " slot={}", format_bytes(self.piece_bytes.into()))
    }
}

/// Rows that have been checked: each in its bounds, in ascending order of ranks, without windows before with
/// them, and within that in ascending order of bytes without gap or overlap.
///
/// A table need not have rows for every number of ranks, nor start at 0 bytes: what it leaves out at
/// either end is planned by rule.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Algorithm, Machine, Request, Row, Table, Tuning};
///
/// let small = Row {
///     ranks: 2,
///     windows: false,
///     bytes_min: 0,
///     bytes_max: 65535,
///     algorithm: Algorithm::Ring,
///     lanes: 2,
///     piece_bytes: 8192,
///     blocks: 6,
///     threads: 512,
/// };
/// let large = Row { bytes_min: 65536, bytes_max: u64::MAX, lanes: 16, blocks: 48, ..small };
/// let tuning = Tuning::new(Machine::h200()).table(Table::new(vec![small, large])?);
/// let choice = tuning.plan(&Request { ranks: 2, bytes: 4096, element_bytes: 2, floats: true })?;
/// assert_eq!(choice.plan.to_string(), "ring lanes=2 blocks=6 threads=512 slot=8KiB slots=4");
///
/// let error = Table::new(vec![small, Row { bytes_min: 70000, ..large }]).unwrap_err();
/// assert!(error.to_string().starts_with("row 1 of the tuning table starts at 70000 bytes"));
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Checks the rows.
    ///
    /// # Errors
    ///
    /// [`PlanError::Row`], [`PlanError::RowRanks`] or [`PlanError::RowOrder`] with the first row at
    /// fault, counted from 0.
    pub fn new(rows: Vec<Row>) -> Result<Self, PlanError> {
        for (row, this) in rows.iter().enumerate() {
            this.check().map_err(|bound| PlanError::Row { row, bound })?;
            let Some(before) = row.checked_sub(1).map(|before| &rows[before]) else { continue };
            let Row { ranks, windows, bytes_min, .. } = *this;
            let (ranks_before, bytes_max_before) = (before.ranks, before.bytes_max);
            if (ranks, windows) < (ranks_before, before.windows) {
                return Err(PlanError::RowRanks { row, ranks, ranks_before });
            }
            if (ranks, windows) == (ranks_before, before.windows)
                && bytes_max_before.checked_add(1) != Some(bytes_min)
            {
                return Err(PlanError::RowOrder { row, ranks, bytes_min, bytes_max_before });
            }
        }
        Ok(Self { rows })
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row for a payload, and its place in the table.
    ///
    /// ```
    /// use myelon_lanes::{Algorithm, Row, Table};
    ///
    /// let row = Row {
    ///     ranks: 4,
    ///     windows: false,
    ///     bytes_min: 16,
    ///     bytes_max: 64,
    ///     algorithm: Algorithm::OneShot,
    ///     lanes: 1,
    ///     piece_bytes: 0,
    ///     blocks: 1,
    ///     threads: 64,
    /// };
    /// let table = Table::new(vec![row])?;
    /// assert_eq!(table.find(4, false, 64), Some((0, &row)));
    /// assert_eq!(table.find(4, false, 65), None);
    /// assert_eq!(table.find(4, true, 64), None);
    /// assert_eq!(table.find(2, false, 64), None);
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    pub fn find(&self, ranks: u32, windows: bool, bytes: u64) -> Option<(usize, &Row)> {
        self.of_ranks(ranks, windows).find(|(_, row)| (row.bytes_min..=row.bytes_max).contains(&bytes))
    }

    pub(crate) fn of_ranks(&self, ranks: u32, windows: bool) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate().filter(move |(_, row)| (row.ranks, row.windows) == (ranks, windows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row {
        ranks: 4,
        windows: false,
        bytes_min: 0,
        bytes_max: 99,
        algorithm: Algorithm::Ring,
        lanes: 4,
        piece_bytes: 4096,
        blocks: 6,
        threads: 512,
    };

    #[test]
    fn rows_out_of_bounds_are_refused_with_their_place() {
        let refusal = |row| Table::new(vec![ROW, row]).unwrap_err().to_string();
        let next = Row { bytes_min: 100, bytes_max: 199, ..ROW };
        assert!(Table::new(vec![ROW, next]).is_ok());
        for (row, tail) in [
            (Row { ranks: 9, ..next }, "ranks is 9, needed a number from 2 to 8"),
            (Row { bytes_max: 99, ..next }, "bytes_max is 99, needed a number of at least 100"),
            (Row { lanes: 0, ..next }, "lanes is 0, needed a number from 1 to 1024"),
            (Row { piece_bytes: 8, ..next }, "slot-bytes is 8, needed a multiple of 16 from 16 to 16777216"),
            (Row { blocks: 0, ..next }, "blocks is 0, needed a multiple of 3 from 3 to 12"),
            (Row { blocks: 4, ..next }, "blocks is 4, needed a multiple of 3 from 3 to 12"),
            (Row { blocks: 15, ..next }, "blocks is 15, needed a multiple of 3 from 3 to 12"),
            (Row { threads: 100, ..next }, "threads is 100, needed a multiple of 32 from 64 to 512"),
            (
                Row { algorithm: Algorithm::OneShot, ..next },
                "slot-bytes is 4096, needed a number from 0 to 0",
            ),
            (
                Row { algorithm: Algorithm::OneShot, piece_bytes: 0, ..next },
                "blocks is 6, needed a number from 4 to 4",
            ),
            (
                Row { algorithm: Algorithm::OneShot, bytes_max: 1 << 20, ..next },
                "bytes_max is 1048576, needed a number from 100 to 131072",
            ),
            (
                Row { algorithm: Algorithm::TwoShot, lanes: 129, ..next },
                "lanes is 129, needed a number from 1 to 128",
            ),
            (Row { algorithm: Algorithm::Direct, ..next }, "windows is 0, needed a number from 1 to 1"),
        ] {
            assert_eq!(refusal(row), format!("row 1 of the tuning table: {tail}"));
        }
    }

    #[test]
    fn gaps_overlaps_and_disorder_are_refused() {
        let next = Row { bytes_min: 100, bytes_max: 199, ..ROW };
        for bytes_min in [0, 99, 101] {
            assert_eq!(
                Table::new(vec![ROW, Row { bytes_min, ..next }]),
                Err(PlanError::RowOrder { row: 1, ranks: 4, bytes_min, bytes_max_before: 99 })
            );
        }
        let all = Row { bytes_max: u64::MAX, ..ROW };
        assert!(matches!(Table::new(vec![all, next]), Err(PlanError::RowOrder { row: 1, .. })));
        assert_eq!(
            Table::new(vec![ROW, Row { ranks: 2, ..ROW }]),
            Err(PlanError::RowRanks { row: 1, ranks: 2, ranks_before: 4 })
        );
    }

    #[test]
    fn rows_are_found_at_both_ends() {
        let next = Row { bytes_min: 100, bytes_max: 199, ..ROW };
        let six = Row { ranks: 6, bytes_min: 50, ..ROW };
        let table = Table::new(vec![ROW, next, six]).unwrap();
        let place = |ranks, bytes| table.find(ranks, false, bytes).map(|(at, _)| at);
        assert_eq!(
            [0, 99, 100, 199, 200].map(|bytes| place(4, bytes)),
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        assert_eq!([49, 50, 99, 100].map(|bytes| place(6, bytes)), [None, Some(2), Some(2), None]);
        assert_eq!(place(5, 50), None);
        assert_eq!(table.find(4, true, 50), None);
    }
}
