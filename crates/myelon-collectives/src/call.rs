//! What a call is, in one word that every slot carries.

use std::fmt;

use myelon_lanes::Plan;

use crate::dtype::DataType;
use crate::error::Error;
use crate::op::ReduceOp;

/// Bits of the count in a [`CallWord`].
const COUNT_BITS: u32 = 40;
/// Bits of the plan's checksum in a [`CallWord`].
const PLAN_BITS: u32 = Plan::WORD_BITS;
const OP_SHIFT: u32 = COUNT_BITS + PLAN_BITS;
const DTYPE_SHIFT: u32 = OP_SHIFT + 3;
const COLLECTIVE_SHIFT: u32 = DTYPE_SHIFT + 4;
const _: () = assert!(COLLECTIVE_SHIFT + 3 == u64::BITS);
/// The code of an all-reduce. Zero is no collective, so that a zeroed slot is no call.
const ALL_REDUCE: u64 = 1;

/// The largest number of elements in a call, one less than 2^40.
pub const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// A call in one word: ranks that call differently find out by comparing it.
///
/// | bits | 61..64 | 57..61 | 54..57 | 40..54 | 0..40 |
/// |---|---|---|---|---|---|
/// | | collective | type | operation | checksum of the plan | count |
///
/// # Example
///
/// ```
/// use myelon_collectives::{CallWord, DataType, ReduceOp};
///
/// let word = CallWord::all_reduce(DataType::F32, ReduceOp::Sum, 1024, 0)?;
/// assert_eq!(word.to_string(), "all_reduce f32 sum count=1024");
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallWord(u64);

impl CallWord {
    /// The word of an all-reduce of `count` elements; of `plan`, a checksum, the lowest 14 bits count.
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::CountTooLarge`] where `count` is above [`COUNT_MAX`].
    pub fn all_reduce(dtype: DataType, op: ReduceOp, count: u64, plan: u64) -> Result<Self, Error> {
        if count > COUNT_MAX {
            return Err(Error::CountTooLarge { count, count_max: COUNT_MAX });
        }
        let plan = plan & ((1 << PLAN_BITS) - 1);
        Ok(Self(
            ALL_REDUCE << COLLECTIVE_SHIFT
                | (dtype as u64) << DTYPE_SHIFT
                | (op as u64) << OP_SHIFT
                | plan << COUNT_BITS
                | count,
        ))
    }

    /// A word as it was found in a slot, whatever it holds.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as it goes into a slot.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The checksum of the plan: 14 bits.
    pub fn plan(self) -> u64 {
        self.0 >> COUNT_BITS & ((1 << PLAN_BITS) - 1)
    }
}

impl fmt::Display for CallWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collective = self.0 >> COLLECTIVE_SHIFT;
        let dtype = DataType::ALL.get((self.0 >> DTYPE_SHIFT & 15) as usize);
        let op = ReduceOp::ALL.get((self.0 >> OP_SHIFT & 7) as usize);
        match (collective, dtype, op) {
            (ALL_REDUCE, Some(dtype), Some(op)) => {
                write!(f, "all_reduce {dtype} {op} count={}", self.0 & COUNT_MAX)
            }
            _ => write!(f, "no call that is known ({:#018x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_call_is_in_its_word() {
        let mut words = std::collections::HashSet::new();
        for dtype in DataType::ALL {
            for op in ReduceOp::ALL {
                for count in [0, 1, COUNT_MAX] {
                    for plan in [0, 1, (1 << PLAN_BITS) - 1] {
                        let word = CallWord::all_reduce(dtype, op, count, plan).unwrap();
                        assert!(words.insert(word));
                        assert_eq!(word.plan(), plan);
                        assert_eq!(word.to_string(), format!("all_reduce {dtype} {op} count={count}"));
                        assert_eq!(CallWord::from_bits(word.bits()), word);
                    }
                }
            }
        }
    }

    #[test]
    fn a_count_that_does_not_fit_is_refused() {
        let error = CallWord::all_reduce(DataType::U8, ReduceOp::Sum, COUNT_MAX + 1, 0).unwrap_err();
        assert_eq!(error, Error::CountTooLarge { count: 1 << 40, count_max: COUNT_MAX });
    }

    #[test]
    fn a_word_that_is_no_call_says_so() {
        assert_eq!(CallWord::from_bits(0).to_string(), "no call that is known (0x0000000000000000)");
        assert!(CallWord::from_bits(u64::MAX).to_string().starts_with("no call that is known"));
    }
}
