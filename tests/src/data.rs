//! Data for tests: from a seed, the same everywhere.

use half::{bf16, f16};
use myelon_collectives::DataType;
pub use myelon_sim::model::Random;

/// Which elements a test takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Floats from -4 to 4 with a few bits' noise, so that rounding and order show; integers of any bits.
    Ordinary,
    /// Any bits, and often a zero of either sign, a subnormal, an infinity, a NaN, the largest number.
    Edges,
}

/// `count` elements of `dtype`, as bytes.
pub fn elements(random: &mut Random, dtype: DataType, fill: Fill, count: usize) -> Vec<u8> {
    if !dtype.is_float() {
        return random.bytes(count * dtype.bytes());
    }
    let mut data = Vec::with_capacity(count * dtype.bytes());
    for _ in 0..count {
        let bits = random.bits();
        if fill == Fill::Edges {
            let sign = bits & 1 << (dtype.bytes() * 8 - 1);
            let edges = edges(dtype);
            let element =
                if bits.is_multiple_of(3) { bits } else { sign | edges[(bits >> 8) as usize % edges.len()] };
            data.extend_from_slice(&element.to_le_bytes()[..dtype.bytes()]);
            continue;
        }
        let value = (bits >> 11) as f64 / (1u64 << 50) as f64 - 4.0;
        match dtype {
            DataType::F16 => data.extend(f16::from_f64(value).to_ne_bytes()),
            DataType::Bf16 => data.extend(bf16::from_f64(value).to_ne_bytes()),
            DataType::F32 => data.extend((value as f32).to_ne_bytes()),
            _ => data.extend(value.to_ne_bytes()),
        }
    }
    data
}

/// Bits without sign: zero, subnormals, the least normal, one, the largest, infinity, NaN quiet and not.
fn edges(dtype: DataType) -> [u64; 9] {
    let mantissa_bits = match dtype {
        DataType::F16 => 10,
        DataType::Bf16 => 7,
        DataType::F32 => 23,
        _ => 52,
    };
    let exponent_bits = dtype.bytes() as u32 * 8 - 1 - mantissa_bits;
    let infinity = ((1u64 << exponent_bits) - 1) << mantissa_bits;
    let one = ((1u64 << (exponent_bits - 1)) - 1) << mantissa_bits;
    let least = 1u64 << mantissa_bits;
    let quiet = 1u64 << (mantissa_bits - 1);
    [0, 1, least - 1, least, one, infinity - 1, infinity, infinity | quiet | 1, infinity | 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_what_they_say() {
        let edges = edges(DataType::F32).map(|bits| f32::from_bits(bits as u32));
        assert_eq!((edges[0], edges[3], edges[4]), (0.0, f32::MIN_POSITIVE, 1.0));
        assert_eq!((edges[5], edges[6]), (f32::MAX, f32::INFINITY));
        assert!(edges[1].is_subnormal() && edges[2].is_subnormal() && edges[7].is_nan() && edges[8].is_nan());
    }

    #[test]
    fn ordinary_floats_are_finite_and_of_both_signs() {
        let data = elements(&mut Random::new(1), DataType::F32, Fill::Ordinary, 1000);
        let values: Vec<f32> = data.chunks(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect();
        assert!(values.iter().all(|x| x.abs() <= 4.0));
        assert!(values.iter().any(|&x| x < -1.0) && values.iter().any(|&x| x > 1.0));
    }
}
