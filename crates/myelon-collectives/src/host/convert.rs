//! Half precision to f32 and back, without branches, so that the compiler makes vectors of it.

/// The f32 that the binary16 `bits` stand for; a NaN stays some NaN.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    // The exponents differ by 112, and by as much again for infinity and NaN.
    let normal = magnitude + (112 << 23);
    let special = normal + (112 << 23);
    // A subnormal gets the exponent of 2^-14, which is then taken off again. No f32 subnormal occurs on
    // the way: they cost a hundred cycles.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let finite = if magnitude < 1 << 23 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { special } else { finite })
}

/// The binary16 nearest to `value`, ties to even; every NaN becomes `0x7e00`.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 the result is subnormal: adding 0.5, whose last bit weighs 2^-24, rounds it.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    // Above, the exponent moves by 112, and half of the last bit, less one if even, rounds.
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    // From 65520 on everything rounds to infinity; the sum above need not hold there.
    let rounded = sign | if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    let result = if magnitude > 0x7f80_0000 { 0x7e00 } else { rounded };
    result as u16
}

/// The f32 that the bfloat16 `bits` stand for.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bfloat16 nearest to `value`, ties to even; every NaN becomes `0x7fc0`.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = bits >> 16 & 1;
    let rounded = (bits.wrapping_add(0x7fff + odd) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fc0 } else { rounded }
}

#[cfg(test)]
mod tests {
    //! Property: the same as the `half` crate, with NaN canonical.

    use super::*;
    use half::{bf16, f16};

    #[test]
    fn widening_agrees_with_half_for_every_value() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
            let (ours, theirs) = (bf16_to_f32(bits), bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
    }

    fn check_narrowing(bits: u32) {
        let value = f32::from_bits(bits);
        if value.is_nan() {
            assert_eq!((f32_to_f16(value), f32_to_bf16(value)), (0x7e00, 0x7fc0), "{bits:#x}");
        } else {
            assert_eq!(f32_to_f16(value), f16::from_f32(value).to_bits(), "f16 of {bits:#x}");
            assert_eq!(f32_to_bf16(value), bf16::from_f32(value).to_bits(), "bf16 of {bits:#x}");
        }
    }

    #[test]
    fn narrowing_agrees_with_half() {
        // Every value of the upper 20 bits, hence every tie, with its neighbours; then a wide stride.
        for high in 0..1u32 << 20 {
            for low in [0, 1, 0x7ff, 0x800, 0xfff] {
                check_narrowing(high << 12 | low);
            }
        }
        for bits in (0..=u32::MAX).step_by(4099) {
            check_narrowing(bits);
        }
    }
}
