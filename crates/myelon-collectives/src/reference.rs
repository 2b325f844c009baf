//! The numerics contract, computed one element at a time: what every backend must give, bit for bit.
//!
//! | type | accumulator | rounded |
//! |---|---|---|
//! | f16, bf16 | f32 | once, at the end, to nearest even |
//! | f32, f64 | the type itself | by each operation |
//! | integers | the type itself | never; sum and product wrap |
//!
//! * Ranks are combined in the order 0, 1, ..., p-1. A sum starts at +0, a product at rank 0's value.
//! * An average is the sum divided by the number of ranks in the accumulator, then rounded.
//! * A zero that a sum or an average gives is +0.
//! * Minimum and maximum of floats: NaN where any rank has NaN, and -0 is less than +0.
//! * A NaN that is given is the canonical quiet one: f16 `0x7e00`, bf16 `0x7fc0`, f32 `0x7fc00000`,
//!   f64 `0x7ff8000000000000`.

use half::{bf16, f16};
use myelon_lanes::Lanes;

use crate::dtype::DataType;
use crate::op::ReduceOp;

/// Combines the ranks' inputs, given as bytes in the machine's order, and returns what each rank gets.
///
/// # Shapes and units
///
/// | name | shape | unit |
/// |---|---|---|
/// | `inputs` | `[ranks][count * dtype.bytes()]` | bytes, at any alignment |
/// | result | `[count * dtype.bytes()]` | bytes |
///
/// # Panics
///
/// Where `inputs` is empty, the inputs differ in length or hold a part of an element, or
/// [`ReduceOp::supports`] says no. This is an oracle: a wrong question has no answer.
///
/// # Example
///
/// ```
/// use myelon_collectives::{DataType, ReduceOp, reference};
///
/// let inputs = [1.5f32.to_ne_bytes(), 2.0f32.to_ne_bytes()];
/// let sum = reference::all_reduce(DataType::F32, ReduceOp::Sum, &[&inputs[0], &inputs[1]]);
/// assert_eq!(sum, 3.5f32.to_ne_bytes());
/// ```
pub fn all_reduce(dtype: DataType, op: ReduceOp, inputs: &[&[u8]]) -> Vec<u8> {
    combined(dtype, op, inputs, inputs.len())
}

/// What each rank gets by [`Algorithm::Neighbour`](myelon_lanes::Algorithm::Neighbour): the piece of owner `o` is combined
/// from ranks `o + 1`, `o + 2`, ..., `o`, around the ring of ranks, two at a time, and what is handed on is rounded to the
/// type. Where pieces lie follows from the plan: `pieces` is its [`geometry`](myelon_lanes::Plan::geometry).
///
/// `inputs` are those of [`all_reduce`], or the part of them that begins at byte `first` of the payload, which begins an
/// element. Panics as that does, and where the part does not lie in the payload.
///
/// # Example
///
/// ```
/// use myelon_collectives::{DataType, ReduceOp, reference};
/// use myelon_lanes::Lanes;
///
/// // One element belongs to rank 0, which is the last to add: 1e30 is gone before it comes.
/// let inputs = [1.0f32, -1e30, 1e30].map(f32::to_ne_bytes);
/// let inputs = [&inputs[0][..], &inputs[1], &inputs[2]];
/// let pieces = Lanes::new(4, 3, 1, 16)?;
/// let by_neighbours = reference::by_neighbours(DataType::F32, ReduceOp::Sum, &inputs, &pieces, 0);
/// assert_eq!(by_neighbours, 1.0f32.to_ne_bytes());
/// assert_eq!(reference::all_reduce(DataType::F32, ReduceOp::Sum, &inputs), 0.0f32.to_ne_bytes());
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
pub fn by_neighbours(dtype: DataType, op: ReduceOp, inputs: &[&[u8]], pieces: &Lanes, first: u64) -> Vec<u8> {
    let (ranks, bytes) = (inputs.len(), inputs.first().map_or(0, |input| input.len()));
    assert_eq!(pieces.ranks() as usize, ranks, "a geometry of these ranks");
    let on_the_way = if op == ReduceOp::Avg { ReduceOp::Sum } else { op };
    let mut result: Vec<u8> = Vec::with_capacity(bytes);
    while result.len() < bytes {
        let start = result.len();
        let (owner, end) = pieces.owner_at(first + start as u64);
        let (owner, end) = (owner as usize, bytes.min((end - first) as usize));
        let of_rank = |rank: usize| &inputs[rank % ranks][start..end];
        let mut value = of_rank(owner + 1).to_vec();
        for rank in owner + 2..owner + ranks {
            value = combined(dtype, on_the_way, &[&value, of_rank(rank)], ranks);
        }
        result.extend(combined(dtype, op, &[&value, of_rank(owner)], ranks));
    }
    result
}

/// Combines inputs, and divides an average by `divisor`.
fn combined(dtype: DataType, op: ReduceOp, inputs: &[&[u8]], divisor: usize) -> Vec<u8> {
    assert!(op.supports(dtype), "{op} of {dtype} is not defined");
    let bytes = inputs.first().expect("a reduction has at least one rank").len();
    assert!(inputs.iter().all(|input| input.len() == bytes), "every rank gives the same length");
    assert!(bytes.is_multiple_of(dtype.bytes()), "whole elements");

    let mut result = Vec::with_capacity(bytes);
    for start in (0..bytes).step_by(dtype.bytes()) {
        let ranks: Vec<&[u8]> = inputs.iter().map(|input| &input[start..start + dtype.bytes()]).collect();
        match dtype {
            DataType::F16 => result.extend(f16_element(op, &ranks, divisor)),
            DataType::Bf16 => result.extend(bf16_element(op, &ranks, divisor)),
            DataType::F32 => result.extend(f32_element(op, &ranks, divisor)),
            DataType::F64 => result.extend(f64_element(op, &ranks, divisor)),
            DataType::I8 => result.extend(i8_element(op, &ranks)),
            DataType::U8 => result.extend(u8_element(op, &ranks)),
            DataType::I32 => result.extend(i32_element(op, &ranks)),
            DataType::U32 => result.extend(u32_element(op, &ranks)),
            DataType::I64 => result.extend(i64_element(op, &ranks)),
            DataType::U64 => result.extend(u64_element(op, &ranks)),
        }
    }
    result
}

macro_rules! float_element {
    ($name:ident, $type:ty, $acc:ty, $widen:expr, $round:expr, $nan:literal) => {
        fn $name(op: ReduceOp, ranks: &[&[u8]], divisor: usize) -> [u8; size_of::<$type>()] {
            let values: Vec<$acc> = ranks
                .iter()
                .map(|bytes| $widen(<$type>::from_ne_bytes((*bytes).try_into().expect("one element"))))
                .collect();
            let is_less =
                |a: $acc, b: $acc| a < b || (a == b && a.is_sign_negative() && !b.is_sign_negative());
            let mut value: $acc = match op {
                ReduceOp::Sum | ReduceOp::Avg => 0.0,
                ReduceOp::Prod | ReduceOp::Min | ReduceOp::Max => values[0],
            };
            let rest = if matches!(op, ReduceOp::Sum | ReduceOp::Avg) { &values[..] } else { &values[1..] };
            for &next in rest {
                value = match op {
                    ReduceOp::Sum | ReduceOp::Avg => value + next,
                    ReduceOp::Prod => value * next,
                    ReduceOp::Min | ReduceOp::Max if value.is_nan() || next.is_nan() => <$acc>::NAN,
                    ReduceOp::Min => {
                        if is_less(next, value) {
                            next
                        } else {
                            value
                        }
                    }
                    ReduceOp::Max => {
                        if is_less(value, next) {
                            next
                        } else {
                            value
                        }
                    }
                };
            }
            if op == ReduceOp::Avg {
                value /= divisor as $acc;
            }
            let rounded: $type = $round(value);
            if rounded.is_nan() {
                return <$type>::from_bits($nan).to_ne_bytes();
            }
            if matches!(op, ReduceOp::Sum | ReduceOp::Avg) && $widen(rounded) == 0.0 {
                return <$type>::from_bits(0).to_ne_bytes();
            }
            rounded.to_ne_bytes()
        }
    };
}

macro_rules! integer_element {
    ($name:ident, $type:ty) => {
        fn $name(op: ReduceOp, ranks: &[&[u8]]) -> [u8; size_of::<$type>()] {
            let values =
                ranks.iter().map(|bytes| <$type>::from_ne_bytes((*bytes).try_into().expect("one element")));
            let combine = |a: $type, b: $type| match op {
                ReduceOp::Sum => a.wrapping_add(b),
                ReduceOp::Prod => a.wrapping_mul(b),
                ReduceOp::Min => a.min(b),
                ReduceOp::Max => a.max(b),
                ReduceOp::Avg => unreachable!("refused above: an average is for floats"),
            };
            values.reduce(combine).expect("at least one rank").to_ne_bytes()
        }
    };
}

float_element!(f16_element, f16, f32, f16::to_f32, f16::from_f32, 0x7e00);
float_element!(bf16_element, bf16, f32, bf16::to_f32, bf16::from_f32, 0x7fc0);
float_element!(f32_element, f32, f32, f32::from, f32::from, 0x7fc0_0000);
float_element!(f64_element, f64, f64, f64::from, f64::from, 0x7ff8_0000_0000_0000);
integer_element!(i8_element, i8);
integer_element!(u8_element, u8);
integer_element!(i32_element, i32);
integer_element!(u32_element, u32);
integer_element!(i64_element, i64);
integer_element!(u64_element, u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(op: ReduceOp, ranks: &[f32]) -> u32 {
        let bytes: Vec<[u8; 4]> = ranks.iter().map(|x| x.to_ne_bytes()).collect();
        let inputs: Vec<&[u8]> = bytes.iter().map(|x| &x[..]).collect();
        u32::from_ne_bytes(all_reduce(DataType::F32, op, &inputs).try_into().unwrap())
    }

    fn f16s(op: ReduceOp, ranks: &[u16]) -> u16 {
        let bytes: Vec<[u8; 2]> = ranks.iter().map(|x| x.to_ne_bytes()).collect();
        let inputs: Vec<&[u8]> = bytes.iter().map(|x| &x[..]).collect();
        u16::from_ne_bytes(all_reduce(DataType::F16, op, &inputs).try_into().unwrap())
    }

    #[test]
    fn zeros_of_sums_are_positive_and_minimum_knows_the_sign_of_zero() {
        assert_eq!(f32s(ReduceOp::Sum, &[-0.0, -0.0]), 0);
        assert_eq!(f32s(ReduceOp::Avg, &[-0.0, -0.0]), 0);
        // The least subnormal, negative: a third of it rounds to zero.
        assert_eq!(f32s(ReduceOp::Avg, &[f32::from_bits(0x8000_0001), 0.0, 0.0]), 0);
        assert_eq!(f32s(ReduceOp::Min, &[0.0, -0.0]), (-0.0f32).to_bits());
        assert_eq!(f32s(ReduceOp::Min, &[-0.0, 0.0]), (-0.0f32).to_bits());
        assert_eq!(f32s(ReduceOp::Max, &[-0.0, 0.0]), 0);
        assert_eq!(f32s(ReduceOp::Max, &[-0.0, -0.0]), (-0.0f32).to_bits());
        assert_eq!(f32s(ReduceOp::Prod, &[-0.0, 1.0]), (-0.0f32).to_bits());
    }

    #[test]
    fn every_nan_is_the_canonical_one() {
        let odd = f32::from_bits(0xffa1_2345);
        for op in ReduceOp::ALL {
            assert_eq!(f32s(op, &[1.0, odd]), 0x7fc0_0000, "{op}");
            assert_eq!(f32s(op, &[odd, 1.0]), 0x7fc0_0000, "{op}");
            assert_eq!(f16s(op, &[0x3c00, 0xfc01]), 0x7e00, "{op}");
        }
        assert_eq!(f32s(ReduceOp::Sum, &[f32::INFINITY, f32::NEG_INFINITY]), 0x7fc0_0000);
    }

    #[test]
    fn half_precision_is_summed_in_f32_in_rank_order_and_rounded_once() {
        // 2048 + 1 + 1 is 2050 in f32, but 2048 when every sum is rounded to f16.
        assert_eq!(f16s(ReduceOp::Sum, &[0x6800, 0x3c00, 0x3c00]), 0x6801);
        // 65504 + 65504 overflows f16, its average does not.
        assert_eq!(f16s(ReduceOp::Avg, &[0x7bff, 0x7bff]), 0x7bff);
        assert_eq!(f16s(ReduceOp::Sum, &[0x7bff, 0x7bff]), 0x7c00);
        // In rank order 1e8 + 1 - 1e8 is 0 in f32, in any other order it is 1.
        assert_eq!(f32s(ReduceOp::Sum, &[1e8, 1.0, -1e8]), 0);
        assert_eq!(f32s(ReduceOp::Sum, &[1e8, -1e8, 1.0]), 1.0f32.to_bits());
    }

    #[test]
    fn integers_wrap() {
        assert_eq!(all_reduce(DataType::I8, ReduceOp::Sum, &[&[127], &[1]]), [128]);
        assert_eq!(all_reduce(DataType::U8, ReduceOp::Prod, &[&[16], &[17]]), [16]);
        assert_eq!(all_reduce(DataType::I8, ReduceOp::Min, &[&[127], &[128]]), [128]);
        assert_eq!(all_reduce(DataType::U8, ReduceOp::Min, &[&[127], &[128]]), [127]);
    }
}
