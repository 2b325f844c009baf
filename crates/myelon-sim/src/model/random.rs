//! The one source of chance: a counter that is mixed. A seed gives the same decisions for ever.

/// SplitMix64.
///
/// # Source
///
/// G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Decisions that follow from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// True `of_256` times in 256.
    pub fn chance(&mut self, of_256: u32) -> bool {
        (self.bits() >> 56) < u64::from(of_256)
    }

    /// `bytes` bytes of anything.
    pub fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| self.bits().to_le_bytes()).collect();
        data.truncate(bytes);
        data
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
