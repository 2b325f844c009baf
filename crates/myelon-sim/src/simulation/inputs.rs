//! What ranks hand in.

use myelon_ring::words::MARK;

use super::case::TYPES;
use crate::ffi::{bf16_from_f32, f16_from_f32};
use crate::model::Random;

/// How often, of 256, a float is any bits, and half a cell of floats looks like the mark.
const ANY_BITS: u32 = 64;
const MARKS: u32 = 12;

/// So many elements of a type. Integers are any bits. Most floats are small whole numbers, so that none of them is lost
/// beside another; some are any bits, and some halves of cells are all ones, in every type NaNs.
pub(super) fn elements(random: &mut Random, dtype: &str, count: usize) -> Vec<u8> {
    let &(_, bytes, integer) = TYPES.iter().find(|known| known.0 == dtype).expect("one of TYPES");
    let mut given = random.bytes(count * bytes);
    if integer {
        return given;
    }
    for element in given.chunks_exact_mut(bytes) {
        if !random.chance(ANY_BITS) {
            let number = random.below(17) as f32 - 8.0;
            match dtype {
                "f16" => element.copy_from_slice(&f16_from_f32(number.to_bits()).to_le_bytes()),
                "bf16" => element.copy_from_slice(&bf16_from_f32(number.to_bits()).to_le_bytes()),
                "f32" => element.copy_from_slice(&number.to_le_bytes()),
                _ => element.copy_from_slice(&f64::from(number).to_le_bytes()),
            }
        }
    }
    for half in given.chunks_exact_mut(8) {
        if random.chance(MARKS) {
            half.copy_from_slice(&MARK.to_le_bytes());
        }
    }
    given
}
