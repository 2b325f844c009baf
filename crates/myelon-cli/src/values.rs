//! Test values: a seeded hash of rank, round and position, so that no two calls move the same bytes.
//!
//! Integers take their whole range. Floats lie in `[0.25, 4)` with either sign and a full mantissa, so that
//! sums round, order shows, and a product over 8 ranks stays finite (nearly always in f16). One word in
//! [`ZERO_EVERY`] begins with a zero of random sign on every rank: sums of `-0` and the order of `-0` and
//! `+0` are tried too.

use myelon_collectives::DataType;

/// Every so many words of 8 bytes, the first element of a word of floats is a signed zero.
const ZERO_EVERY: u64 = 61;
/// Where the first of them stands, in words.
const ZERO_FIRST: u64 = 7;

/// The finalizer of splitmix64, a bijection (S. Vigna, <https://prng.di.unimi.it/splitmix64.c>).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What one rank holds in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values(u64);

impl Values {
    /// The values of `rank` in `round` of a run that was given `seed`.
    pub fn new(seed: u64, rank: usize, round: u64) -> Self {
        Self(mix(mix(mix(seed) ^ round) ^ rank as u64))
    }

    /// Fills `out` with the bytes from `first_byte` on.
    ///
    /// `first_byte` is a multiple of 8. Any cut at such places gives the same bytes.
    pub fn fill(self, dtype: DataType, first_byte: u64, out: &mut [u8]) {
        assert!(first_byte.is_multiple_of(8), "values are drawn by words of 8 bytes");
        let first = first_byte / 8;
        let shape = Shape::of(dtype);
        let words = out.len() / 8;
        let (whole, rest) = out.split_at_mut(words * 8);
        for (index, bytes) in (first..).zip(whole.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&shape.apply(self.word(index)).to_le_bytes());
        }
        let last = shape.apply(self.word(first + words as u64)).to_le_bytes();
        let rest_bytes = rest.len();
        rest.copy_from_slice(&last[..rest_bytes]);
        if dtype.is_float() {
            let skip = (ZERO_FIRST + ZERO_EVERY - first % ZERO_EVERY) % ZERO_EVERY;
            let bytes = dtype.bytes();
            for word in out.chunks_mut(8).skip(skip as usize).step_by(ZERO_EVERY as usize) {
                if let Some(element) = word.get_mut(..bytes) {
                    element[..bytes - 1].fill(0);
                    element[bytes - 1] &= 0x80;
                }
            }
        }
    }

    fn word(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// Makes small finite floats of random bits, for all elements of a word at once: the sign, the mantissa and
/// two bits of the exponent are kept, then the smallest exponent, that of 0.25, is added. No sum carries.
struct Shape {
    keep: u64,
    add: u64,
}

impl Shape {
    fn of(dtype: DataType) -> Self {
        let (keep, add) = match dtype {
            DataType::F16 => (0x8fff_8fff_8fff_8fff, 0x3400_3400_3400_3400),
            DataType::Bf16 => (0x81ff_81ff_81ff_81ff, 0x3e80_3e80_3e80_3e80),
            DataType::F32 => (0x81ff_ffff_81ff_ffff, 0x3e80_0000_3e80_0000),
            DataType::F64 => (0x803f_ffff_ffff_ffff, 0x3fd0_0000_0000_0000),
            _ => (u64::MAX, 0),
        };
        Self { keep, add }
    }

    fn apply(&self, word: u64) -> u64 {
        (word & self.keep) + self.add
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(dtype: DataType, seed: u64, rank: usize, round: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        Values::new(seed, rank, round).fill(dtype, 0, &mut out);
        out
    }

    /// The values as f64, read by code that knows nothing of [`Shape`].
    fn floats(dtype: DataType, bytes: &[u8]) -> Vec<f64> {
        match dtype {
            DataType::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            }
            DataType::Bf16 => {
                bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            }
            DataType::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            _ => bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        }
    }

    #[test]
    fn values_depend_on_seed_rank_round_and_position() {
        for dtype in DataType::ALL {
            let base = filled(dtype, 1, 0, 0, 4096);
            assert_eq!(base, filled(dtype, 1, 0, 0, 4096));
            for other in [(2, 0, 0), (1, 1, 0), (1, 0, 1)] {
                let other = filled(dtype, other.0, other.1, other.2, 4096);
                let same = base.chunks_exact(8).zip(other.chunks_exact(8)).filter(|(a, b)| a == b).count();
                // The zeros of f64, 9 of them here, agree where their signs do.
                assert!(same <= 9, "{dtype:?}: {same} of 512 words are the same");
            }
            let mut words: Vec<&[u8]> = base.chunks_exact(8).collect();
            words.sort();
            words.dedup();
            assert!(words.len() >= 500, "{dtype:?}: only {} of 512 words differ", words.len());
        }
    }

    #[test]
    fn rank_and_round_are_not_interchangeable() {
        assert_ne!(Values::new(0, 1, 2), Values::new(0, 2, 1));
        assert_ne!(Values::new(0, 0, 0), Values::new(0, 1, 1));
    }

    #[test]
    fn any_cut_gives_the_same_bytes() {
        for dtype in [DataType::F16, DataType::F64, DataType::U8] {
            let whole = filled(dtype, 9, 3, 5, 4001);
            for cut in [8, 64, 480, 488, 496, 3992, 4000] {
                let mut parts = vec![0; 4001];
                let (head, tail) = parts.split_at_mut(cut);
                Values::new(9, 3, 5).fill(dtype, 0, head);
                Values::new(9, 3, 5).fill(dtype, cut as u64, tail);
                assert_eq!(parts, whole, "{dtype:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn floats_are_small_and_zeros_of_both_signs_appear() {
        for dtype in DataType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            let values = floats(dtype, &filled(dtype, 7, 2, 0, 1 << 16));
            let (zeros, others): (Vec<f64>, Vec<f64>) = values.into_iter().partition(|&value| value == 0.0);
            assert!(others.iter().all(|value| (0.25..4.0).contains(&value.abs())), "{dtype:?}");
            assert!(others.iter().any(|&value| value > 2.0) && others.iter().any(|&value| value < -2.0));
            assert!(others.iter().any(|value| value.abs() < 0.5));
            assert_eq!(zeros.len(), (8192 - ZERO_FIRST as usize).div_ceil(ZERO_EVERY as usize), "{dtype:?}");
            assert!(zeros.iter().any(|zero| zero.is_sign_negative()));
            assert!(zeros.iter().any(|zero| zero.is_sign_positive()));
        }
    }

    #[test]
    fn integers_take_their_whole_range() {
        let bytes = filled(DataType::U8, 3, 1, 4, 1 << 14);
        let mut seen = [false; 256];
        bytes.iter().for_each(|&byte| seen[byte as usize] = true);
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn a_size_that_is_no_whole_word_is_filled_to_its_end() {
        let whole = filled(DataType::I8, 3, 1, 4, 16);
        for bytes in 0..16 {
            assert_eq!(filled(DataType::I8, 3, 1, 4, bytes), whole[..bytes]);
        }
    }
}
