//! What a call must give, one element at a time, in the order of the ranks.

use myelon_lanes::Lanes;

use super::case::Call;
use crate::ffi::{bf16_from_f32, f16_from_f32, f32_from_f16};

/// Combines elements of any type as the contract of the library has it: integers wrap; f16 and bf16 are widened to f32
/// and rounded once at the end; a NaN is the canonical one, and a zero that a sum or an average gives is +0.
///
/// # Panics
///
/// For types and operations that are none of the kernels', and for averages of integers.
pub fn by_element(dtype: &str, op: &str, inputs: &[&[u8]]) -> Vec<u8> {
    combined(dtype, op, inputs, inputs.len())
}

/// What a call by neighbours gives: the piece of owner `o` from ranks `o + 1`, `o + 2`, ..., `o`, two at a time.
pub(super) fn by_neighbours(call: &Call, inputs: &[&[u8]]) -> Vec<u8> {
    let (ranks, mut output) = (inputs.len(), Vec::new());
    let pieces = Lanes::new(inputs[0].len() as u64, ranks as u32, call.lanes as u32, call.piece_bytes as u32);
    let pieces = pieces.expect("Case::check was asked before");
    let on_the_way = if call.op == "avg" { "sum" } else { call.op };
    let rounds =
        (0..pieces.lanes()).flat_map(|lane| (0..pieces.rounds(lane)).map(move |round| (lane, round)));
    for ((lane, round), owner) in rounds.flat_map(|round| (0..ranks).map(move |owner| (round, owner))) {
        let piece = pieces.piece(lane, round, owner as u32);
        let of_rank = |rank: usize| &inputs[rank % ranks][piece.start as usize..piece.end() as usize];
        let begun = of_rank(owner + 1).to_vec();
        let handed_on = (owner + 2..owner + ranks)
            .fold(begun, |value, rank| combined(call.dtype, on_the_way, &[&value, of_rank(rank)], ranks));
        output.extend(combined(call.dtype, call.op, &[&handed_on, of_rank(owner)], ranks));
    }
    output
}

/// Combines inputs, and divides an average by `divisor`.
fn combined(dtype: &str, op: &str, inputs: &[&[u8]], divisor: usize) -> Vec<u8> {
    let f16 = |value: f32| f16_from_f32(value.to_bits()).to_le_bytes();
    let bf16 = |value: f32| bf16_from_f32(value.to_bits()).to_le_bytes();
    let of_f16 = |bytes: [u8; 2]| f32::from_bits(f32_from_f16(u16::from_le_bytes(bytes)));
    let of_bf16 = |bytes: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    match dtype {
        "i8" => integers::<1>(op, inputs, true),
        "u8" => integers::<1>(op, inputs, false),
        "i32" => integers::<4>(op, inputs, true),
        "u32" => integers::<4>(op, inputs, false),
        "i64" => integers::<8>(op, inputs, true),
        "u64" => integers::<8>(op, inputs, false),
        "f16" => floats(inputs, |ranks: &[[u8; 2]]| {
            match join_f32(op, divisor, ranks.iter().map(|&x| of_f16(x))) {
                value if value.is_nan() => 0x7e00u16.to_le_bytes(),
                value => positive(op, f16(value)),
            }
        }),
        "bf16" => floats(inputs, |ranks: &[[u8; 2]]| {
            match join_f32(op, divisor, ranks.iter().map(|&x| of_bf16(x))) {
                value if value.is_nan() => 0x7fc0u16.to_le_bytes(),
                value => positive(op, bf16(value)),
            }
        }),
        "f32" => floats(inputs, |ranks: &[[u8; 4]]| {
            match join_f32(op, divisor, ranks.iter().map(|&x| f32::from_le_bytes(x))) {
                value if value.is_nan() => 0x7fc0_0000u32.to_le_bytes(),
                value => positive(op, value.to_le_bytes()),
            }
        }),
        "f64" => floats(inputs, |ranks: &[[u8; 8]]| {
            match join_f64(op, divisor, ranks.iter().map(|&x| f64::from_le_bytes(x))) {
                value if value.is_nan() => 0x7ff8_0000_0000_0000u64.to_le_bytes(),
                value => positive(op, value.to_le_bytes()),
            }
        }),
        _ => panic!("the kernels have no {dtype}"),
    }
}

fn integers<const N: usize>(op: &str, inputs: &[&[u8]], signed: bool) -> Vec<u8> {
    // Wrapping sums and products have the same low bytes at any width; comparisons need the sign.
    let value = |bytes: &[u8]| {
        let fill = if signed && bytes[N - 1] >= 0x80 { 0xff } else { 0 };
        let mut wide = [fill; 16];
        wide[..N].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    };
    let mut output = Vec::with_capacity(inputs[0].len());
    for at in (0..inputs[0].len()).step_by(N) {
        let values = inputs.iter().map(|input| value(&input[at..at + N]));
        let joined = match op {
            "sum" => values.reduce(i128::wrapping_add),
            "prod" => values.reduce(i128::wrapping_mul),
            "min" => values.min(),
            "max" => values.max(),
            _ => panic!("integers have no {op}"),
        };
        output.extend_from_slice(&joined.expect("there are ranks").to_le_bytes()[..N]);
    }
    output
}

/// Each element from those of the ranks.
fn floats<const N: usize>(inputs: &[&[u8]], join: impl Fn(&[[u8; N]]) -> [u8; N]) -> Vec<u8> {
    let element = |at: usize| {
        let of_rank = |input: &&[u8]| input[at..at + N].try_into().expect("one element");
        join(&inputs.iter().map(of_rank).collect::<Vec<[u8; N]>>())
    };
    (0..inputs[0].len()).step_by(N).flat_map(element).collect()
}

/// Sums and averages give no -0, which has but its highest bit.
fn positive<const N: usize>(op: &str, bytes: [u8; N]) -> [u8; N] {
    let magnitude = |(at, byte): (usize, &u8)| if at + 1 == N { byte & 0x7f } else { *byte };
    let is_zero = bytes.iter().enumerate().map(magnitude).all(|byte| byte == 0);
    if is_zero && matches!(op, "sum" | "avg") { [0; N] } else { bytes }
}

macro_rules! join {
    ($name:ident, $acc:ty) => {
        fn $name(op: &str, divisor: usize, values: impl Iterator<Item = $acc>) -> $acc {
            let less = |a: $acc, b: $acc| a.total_cmp(&b).is_lt();
            let of_both = |a: $acc, b: $acc, first: bool| match a.is_nan() || b.is_nan() {
                true => <$acc>::NAN,
                false => {
                    if first {
                        a
                    } else {
                        b
                    }
                }
            };
            match op {
                "sum" => values.fold(0.0, |a, b| a + b),
                "avg" => values.fold(0.0, |a, b| a + b) / divisor as $acc,
                "prod" => values.reduce(|a, b| a * b).expect("there are ranks"),
                "min" => values.reduce(|a, b| of_both(a, b, less(a, b))).expect("there are ranks"),
                "max" => values.reduce(|a, b| of_both(a, b, less(b, a))).expect("there are ranks"),
                _ => panic!("floats have no {op}"),
            }
        }
    };
}

join!(join_f32, f32);
join!(join_f64, f64);
