//! The operations of a reduction.

use std::fmt;
use std::str::FromStr;

use crate::dtype::{DataType, by_name};
use crate::error::Error;

/// How the ranks' elements are combined, always in the order of the ranks.
///
/// What each gives to the last bit is said, and computed one element at a time, in [`crate::reference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// The sum. Integers wrap; a zero is +0.
    Sum,
    /// The product. Integers wrap.
    Prod,
    /// The least; NaN where any rank has NaN, and -0 is less than +0.
    Min,
    /// The greatest; NaN where any rank has NaN, and +0 is greater than -0.
    Max,
    /// The sum divided by the number of ranks before it is rounded; floats only. A zero is +0.
    Avg,
}

impl ReduceOp {
    /// Every operation, in the order of their codes in a [`crate::CallWord`].
    pub const ALL: [Self; 5] = [Self::Sum, Self::Prod, Self::Min, Self::Max, Self::Avg];

    /// The name in commands, kernels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Prod => "prod",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
        }
    }

    /// Whether elements of `dtype` can be combined so: [`ReduceOp::Avg`] is for floats only.
    pub fn supports(self, dtype: DataType) -> bool {
        self != Self::Avg || dtype.is_float()
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ReduceOp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        by_name("operation", text, &Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_list_the_known() {
        for op in ReduceOp::ALL {
            assert_eq!(op.name().parse::<ReduceOp>().unwrap(), op);
        }
        let error = "mean".parse::<ReduceOp>().unwrap_err().to_string();
        assert!(error.contains("sum, prod, min, max, avg") && error.contains("\"mean\""), "{error}");
    }

    #[test]
    fn only_an_average_asks_for_floats() {
        let refused: Vec<_> = ReduceOp::ALL
            .iter()
            .flat_map(|&op| DataType::ALL.map(|dtype| (op, dtype)))
            .filter(|&(op, dtype)| !op.supports(dtype))
            .collect();
        assert_eq!(refused.len(), 6);
        assert!(refused.iter().all(|&(op, dtype)| op == ReduceOp::Avg && !dtype.is_float()));
    }
}
