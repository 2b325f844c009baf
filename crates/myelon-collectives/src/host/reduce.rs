//! The sum of a piece on the host: loops that the compiler makes vectors of.
//!
//! Elements are read and written as arrays of bytes, which stand at any address; on the machines we
//! know an unaligned vector costs no more than an aligned one. [`crate::reference`] is the oracle.

use bytemuck::Pod;
use myelon_ring::words::RANKS_MAX;

use super::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::dtype::DataType;
use crate::op::ReduceOp;

/// Elements that are accumulated at a time where there are more than two ranks: 8 KiB at most.
const BLOCK: usize = 1024;

/// Combines `sources`, one for each rank in rank order, into `out`.
///
/// All have the length of `out`, which is whole elements of `dtype`.
pub(super) fn reduce(dtype: DataType, op: ReduceOp, sources: &[&[u8]], out: &mut [u8]) {
    match dtype {
        DataType::F16 => float::<F16>(op, sources, out),
        DataType::Bf16 => float::<Bf16>(op, sources, out),
        DataType::F32 => float::<f32>(op, sources, out),
        DataType::F64 => float::<f64>(op, sources, out),
        DataType::I8 => integer::<i8>(op, sources, out),
        DataType::U8 => integer::<u8>(op, sources, out),
        DataType::I32 => integer::<i32>(op, sources, out),
        DataType::U32 => integer::<u32>(op, sources, out),
        DataType::I64 => integer::<i64>(op, sources, out),
        DataType::U64 => integer::<u64>(op, sources, out),
    }
}

fn integer<N: Number>(op: ReduceOp, sources: &[&[u8]], out: &mut [u8]) {
    match op {
        ReduceOp::Sum => run::<N, Sum>(sources, out),
        ReduceOp::Prod => run::<N, Prod>(sources, out),
        ReduceOp::Min => run::<N, Min>(sources, out),
        ReduceOp::Max => run::<N, Max>(sources, out),
        ReduceOp::Avg => unreachable!("a call with an average of integers is refused"),
    }
}

fn float<N: Float>(op: ReduceOp, sources: &[&[u8]], out: &mut [u8]) {
    match op {
        ReduceOp::Avg => run::<N, Avg>(sources, out),
        op => integer::<N>(op, sources, out),
    }
}

/// How one type is loaded, combined and stored.
trait Number {
    /// The element's bytes, which need no alignment.
    type Raw: Pod;
    /// What it is accumulated in.
    type Acc: Copy + Default;

    fn load(raw: Self::Raw) -> Self::Acc;
    /// Rounds; a NaN becomes the canonical one.
    fn store(acc: Self::Acc) -> Self::Raw;
    /// The value as the start of a sum: -0 becomes +0.
    fn start(acc: Self::Acc) -> Self::Acc;
    fn add(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn mul(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn min(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn max(a: Self::Acc, b: Self::Acc) -> Self::Acc;
}

/// What an average needs besides.
trait Float: Number {
    /// Divides by the number of ranks, rounds, and makes a zero +0.
    fn average(acc: Self::Acc, ranks: usize) -> Self::Raw;
}

/// An operation, as the first value, the next, and the end.
trait Op<N: Number> {
    fn first(x: N::Acc) -> N::Acc;
    fn next(acc: N::Acc, x: N::Acc) -> N::Acc;
    fn end(acc: N::Acc, ranks: usize) -> N::Raw;
}

struct Sum;
struct Prod;
struct Min;
struct Max;
struct Avg;

macro_rules! operation {
    ($op:ident, $bound:ident, $first:expr, $next:path, $end:expr) => {
        impl<N: $bound> Op<N> for $op {
            #[inline(always)]
            fn first(x: N::Acc) -> N::Acc {
                $first(x)
            }
            #[inline(always)]
            fn next(acc: N::Acc, x: N::Acc) -> N::Acc {
                $next(acc, x)
            }
            #[inline(always)]
            fn end(acc: N::Acc, ranks: usize) -> N::Raw {
                $end(acc, ranks)
            }
        }
    };
}

operation!(Sum, Number, N::start, N::add, |acc, _| N::store(acc));
operation!(Prod, Number, |x| x, N::mul, |acc, _| N::store(acc));
operation!(Min, Number, |x| x, N::min, |acc, _| N::store(acc));
operation!(Max, Number, |x| x, N::max, |acc, _| N::store(acc));
operation!(Avg, Float, N::start, N::add, N::average);

/// Two ranks in one pass; more in blocks that stay in the first cache.
fn run<N: Number, O: Op<N>>(sources: &[&[u8]], out: &mut [u8]) {
    let ranks = sources.len();
    let out: &mut [N::Raw] = bytemuck::cast_slice_mut(out);
    let mut raw: [&[N::Raw]; RANKS_MAX] = [&[]; RANKS_MAX];
    for (raw, source) in raw.iter_mut().zip(sources) {
        *raw = bytemuck::cast_slice(source);
        assert_eq!(raw.len(), out.len(), "every rank gives as much as is asked for");
    }
    let (&[first, ref middle @ .., last], rest) = raw.split_at(ranks) else {
        unreachable!("a communicator has at least two ranks");
    };
    debug_assert!(rest.iter().all(|unused| unused.is_empty()));
    if middle.is_empty() {
        for ((out, &a), &b) in out.iter_mut().zip(first).zip(last) {
            *out = O::end(O::next(O::first(N::load(a)), N::load(b)), ranks);
        }
        return;
    }
    let mut acc = [N::Acc::default(); BLOCK];
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let span = block * BLOCK..block * BLOCK + out.len();
        let acc = &mut acc[..out.len()];
        for (acc, &x) in acc.iter_mut().zip(&first[span.clone()]) {
            *acc = O::first(N::load(x));
        }
        for source in middle {
            for (acc, &x) in acc.iter_mut().zip(&source[span.clone()]) {
                *acc = O::next(*acc, N::load(x));
            }
        }
        for ((out, &acc), &x) in out.iter_mut().zip(&*acc).zip(&last[span]) {
            *out = O::end(O::next(acc, N::load(x)), ranks);
        }
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl Number for $type {
            type Raw = [u8; size_of::<$type>()];
            type Acc = $type;

            #[inline(always)]
            fn load(raw: Self::Raw) -> $type {
                <$type>::from_ne_bytes(raw)
            }
            #[inline(always)]
            fn store(acc: $type) -> Self::Raw {
                acc.to_ne_bytes()
            }
            #[inline(always)]
            fn start(acc: $type) -> $type {
                acc
            }
            #[inline(always)]
            fn add(a: $type, b: $type) -> $type {
                a.wrapping_add(b)
            }
            #[inline(always)]
            fn mul(a: $type, b: $type) -> $type {
                a.wrapping_mul(b)
            }
            #[inline(always)]
            fn min(a: $type, b: $type) -> $type {
                a.min(b)
            }
            #[inline(always)]
            fn max(a: $type, b: $type) -> $type {
                a.max(b)
            }
        }
    )+};
}

integers!(i8, u8, i32, u32, i64, u64);

/// Stands for binary16, accumulated in f32.
struct F16;
/// Stands for bfloat16, accumulated in f32.
struct Bf16;

macro_rules! floats {
    ($($type:ty, $acc:ty, $bits:ty, $load:expr, $store:expr;)+) => {$(
        impl Number for $type {
            type Raw = [u8; size_of::<$bits>()];
            type Acc = $acc;

            #[inline(always)]
            fn load(raw: Self::Raw) -> $acc {
                $load(<$bits>::from_ne_bytes(raw))
            }
            #[inline(always)]
            fn store(acc: $acc) -> Self::Raw {
                <$bits>::to_ne_bytes($store(acc))
            }
            #[inline(always)]
            fn start(acc: $acc) -> $acc {
                acc + 0.0
            }
            #[inline(always)]
            fn add(a: $acc, b: $acc) -> $acc {
                a + b
            }
            #[inline(always)]
            fn mul(a: $acc, b: $acc) -> $acc {
                a * b
            }
            // Values that compare equal have the same bits, unless they are zeros of either sign.
            #[inline(always)]
            fn min(a: $acc, b: $acc) -> $acc {
                let equal = <$acc>::from_bits(a.to_bits() | b.to_bits());
                let least = if b < a { b } else { a };
                let least = if a == b { equal } else { least };
                if a.is_nan() | b.is_nan() { <$acc>::NAN } else { least }
            }
            #[inline(always)]
            fn max(a: $acc, b: $acc) -> $acc {
                let equal = <$acc>::from_bits(a.to_bits() & b.to_bits());
                let greatest = if b > a { b } else { a };
                let greatest = if a == b { equal } else { greatest };
                if a.is_nan() | b.is_nan() { <$acc>::NAN } else { greatest }
            }
        }

        impl Float for $type {
            #[inline(always)]
            fn average(acc: $acc, ranks: usize) -> Self::Raw {
                let bits: $bits = $store(acc / ranks as $acc);
                let bits = if bits << 1 == 0 { 0 } else { bits };
                bits.to_ne_bytes()
            }
        }
    )+};
}

fn f32_bits(value: f32) -> u32 {
    if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }
}

fn f64_bits(value: f64) -> u64 {
    if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() }
}

floats! {
    F16, f32, u16, f16_to_f32, f32_to_f16;
    Bf16, f32, u16, bf16_to_f32, f32_to_bf16;
    f32, f32, u32, f32::from_bits, f32_bits;
    f64, f64, u64, f64::from_bits, f64_bits;
}

#[cfg(test)]
mod tests {
    //! Property: the fast loops give the reference's bits, for any bits, ranks, length and alignment.
    //!
    //! Cannot catch: a mistake that the reference shares; its own tests are for those.

    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    /// Bits that meet the edges often: zeros, subnormals, infinities, NaN, and small numbers.
    fn element(bytes: usize) -> impl Strategy<Value = u64> {
        let edges = match bytes {
            2 => vec![0, 0x8000, 1, 0x8001, 0x7c00, 0xfc00, 0x7e01, 0x7f80, 0xff80, 0xffc1, 0x3c00, 0x0400],
            4 => vec![0, 1 << 31, 1, (1 << 31) | 1, 0x7f80_0000, 0xff80_0000, 0x7fa0_0001, 0x3f80_0000],
            _ => vec![0, 1 << 63, 1, (1 << 63) | 1, 0x7ff << 52, 0xfff << 52, (0x7ff << 52) | 1, 0x3ff << 52],
        };
        prop_oneof![any::<u64>(), proptest::sample::select(edges)]
    }

    proptest! {
        #[test]
        fn fast_is_the_reference(
            dtype in proptest::sample::select(DataType::ALL.to_vec()),
            ranks in 2usize..=8,
            count in prop_oneof![0usize..40, BLOCK - 2..BLOCK + 3, 2 * BLOCK..2 * BLOCK + 2],
            offset in 0usize..8,
            seed in proptest::collection::vec((2usize..9, any::<u64>()), 8),
            elements in proptest::collection::vec(prop_oneof![element(2), element(4), element(8)], 61),
        ) {
            let bytes = count * dtype.bytes();
            let inputs: Vec<Vec<u8>> = (0..ranks).map(|rank| {
                let (stride, flip) = seed[rank];
                let flip = if flip % 4 == 0 { flip } else { 0 };
                let mut data = vec![0; offset];
                for i in 0..count {
                    let x = elements[(i * stride + rank) % elements.len()] ^ flip;
                    data.extend_from_slice(&x.to_le_bytes()[..dtype.bytes()]);
                }
                data
            }).collect();
            let sources: Vec<&[u8]> = inputs.iter().map(|data| &data[offset..]).collect();
            for op in ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)) {
                let mut out = vec![0xa5; bytes + 2];
                reduce(dtype, op, &sources, &mut out[1..=bytes]);
                prop_assert_eq!(&out[1..=bytes], &reference::all_reduce(dtype, op, &sources)[..]);
                prop_assert_eq!((out[0], out[bytes + 1]), (0xa5, 0xa5));
            }
        }
    }
}
