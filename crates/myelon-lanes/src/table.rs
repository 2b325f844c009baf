//! The tuning table: what measurements found best, by ranks and size.

use std::fmt;

use crate::error::{Bound, PlanError};
use crate::geometry::{check_piece_bytes, ranks_bound};
use crate::settings::{LANES_MAX, PIECE_BYTES_MAX, format_bytes};

/// What to launch for payloads of `bytes_min..=bytes_max` bytes between `ranks` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number of ranks.
    pub ranks: u32,
    /// The smallest payload of the row.
    pub bytes_min: u64,
    /// The largest payload of the row, inclusive.
    pub bytes_max: u64,
    /// Lanes of the call.
    pub lanes: u32,
    /// Payload bytes of a slot at most.
    pub piece_bytes: u32,
    /// Blocks a role, at most `lanes`.
    pub workers: u32,
}

impl Row {
    fn check(&self) -> Result<(), Bound> {
        ranks_bound(self.ranks).check()?;
        Bound::number("bytes_max", self.bytes_max, self.bytes_min, u64::MAX).check()?;
        Bound::number("lanes", self.lanes.into(), 1, LANES_MAX.into()).check()?;
        check_piece_bytes(self.piece_bytes, PIECE_BYTES_MAX)?;
        Bound::number("workers", self.workers.into(), 1, self.lanes.into()).check()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ranks, lanes, workers, .. } = self;
        let [min, max] = [self.bytes_min, self.bytes_max].map(format_bytes);
        let slot = format_bytes(self.piece_bytes.into());
        write!(f, "{ranks} ranks, {min} to {max}: lanes={lanes} slot={slot} workers={workers}")
    }
}

/// Rows that have been checked: each in its bounds, in ascending order of ranks, and for each number of
/// ranks in ascending order of bytes without gap or overlap.
///
/// A table need not have rows for every number of ranks, nor start at 0 bytes: what it leaves out at
/// either end is planned by rule.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Machine, Request, Row, Table, Tuning};
///
/// let small = Row { ranks: 2, bytes_min: 0, bytes_max: 65535, lanes: 2, piece_bytes: 8192, workers: 2 };
/// let large = Row { bytes_min: 65536, bytes_max: u64::MAX, lanes: 16, workers: 16, ..small };
/// let tuning = Tuning::new(Machine::h200()).table(Table::new(vec![small, large])?);
/// let choice = tuning.plan(&Request { ranks: 2, bytes: 4096, element_bytes: 2 })?;
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
            let Row { ranks, bytes_min, .. } = *this;
            let (ranks_before, bytes_max_before) = (before.ranks, before.bytes_max);
            if ranks < ranks_before {
                return Err(PlanError::RowRanks { row, ranks, ranks_before });
            }
            if ranks == ranks_before && bytes_max_before.checked_add(1) != Some(bytes_min) {
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
    /// use myelon_lanes::{Row, Table};
    ///
    /// let row = Row { ranks: 4, bytes_min: 16, bytes_max: 64, lanes: 1, piece_bytes: 16, workers: 1 };
    /// let table = Table::new(vec![row])?;
    /// assert_eq!(table.find(4, 64), Some((0, &row)));
    /// assert_eq!(table.find(4, 65), None);
    /// assert_eq!(table.find(2, 64), None);
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    pub fn find(&self, ranks: u32, bytes: u64) -> Option<(usize, &Row)> {
        self.of_ranks(ranks).find(|(_, row)| (row.bytes_min..=row.bytes_max).contains(&bytes))
    }

    pub(crate) fn of_ranks(&self, ranks: u32) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate().filter(move |(_, row)| row.ranks == ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row { ranks: 4, bytes_min: 0, bytes_max: 99, lanes: 4, piece_bytes: 4096, workers: 2 };

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
            (Row { workers: 0, ..next }, "workers is 0, needed a number from 1 to 4"),
            (Row { workers: 5, ..next }, "workers is 5, needed a number from 1 to 4"),
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
        let place = |ranks, bytes| table.find(ranks, bytes).map(|(at, _)| at);
        assert_eq!(
            [0, 99, 100, 199, 200].map(|bytes| place(4, bytes)),
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        assert_eq!([49, 50, 99, 100].map(|bytes| place(6, bytes)), [None, Some(2), Some(2), None]);
        assert_eq!(place(5, 50), None);
    }
}
