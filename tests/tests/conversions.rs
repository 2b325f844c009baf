//! Property: the conversions of the kernels' host port are those of the `half` crate: exact where they
//! widen, rounded to nearest even where they narrow.
//!
//! Catches: wrong rounding at any tie and next to it, subnormals, the step to infinity, signs of zero.
//! Cannot catch: what the instructions of a GPU do; the conformance suite compares those bit by bit.
//! NaN is compared as a class: the kernels replace each by the canonical one.

use half::{bf16, f16};
use myelon_tests::data::Random;

/// Compares one narrowing of `bits`, the bits of an f32.
fn check_narrow(bits: u32) {
    let value = f32::from_bits(bits);
    let (to_f16, to_bf16) = (myelon_sim::f16_from_f32(bits), myelon_sim::bf16_from_f32(bits));
    if value.is_nan() {
        assert!(f16::from_bits(to_f16).is_nan() && bf16::from_bits(to_bf16).is_nan(), "{bits:#010x}");
    } else {
        assert_eq!(to_f16, f16::from_f32(value).to_bits(), "f16 of {value:e}, {bits:#010x}");
        assert_eq!(to_bf16, bf16::from_f32(value).to_bits(), "bf16 of {value:e}, {bits:#010x}");
    }
}

#[test]
fn every_f16_widens_exactly() {
    for bits in 0..=u16::MAX {
        let (seen, needed) = (f32::from_bits(myelon_sim::f32_from_f16(bits)), f16::from_bits(bits).to_f32());
        assert!(seen.to_bits() == needed.to_bits() || (seen.is_nan() && needed.is_nan()), "{bits:#06x}");
    }
}

/// Between two neighbouring f16 lies one tie, which is an f32; from the largest on that is the step to infinity.
#[test]
fn every_tie_of_f16_goes_to_even_and_its_neighbours_to_the_nearest() {
    for bits in 0..0x7c00u16 {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let tie = if high.is_infinite() { 65_520.0 } else { (low + high) / 2.0 };
        for near in [low.to_bits(), tie.to_bits() - 1, tie.to_bits(), tie.to_bits() + 1] {
            check_narrow(near);
            check_narrow(near | 1 << 31);
        }
    }
}

/// A bf16 is the upper half of an f32, and the tie is the lower half 0x8000.
#[test]
fn every_tie_of_bf16_goes_to_even_and_its_neighbours_to_the_nearest() {
    for upper in 0..=u16::MAX {
        for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            check_narrow(u32::from(upper) << 16 | lower);
        }
    }
}

#[test]
fn any_f32_narrows_to_the_nearest() {
    let mut random = Random::new(5);
    for _ in 0..1 << 20 {
        check_narrow(random.bits() as u32);
    }
}
