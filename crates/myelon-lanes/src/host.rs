//! The automatic rule for host ranks. Every number that measurements will change stands here.

/// Lanes of the pool, and of a call of [`TWO_LANES_BYTES`] or more. Origin: one thread serves all lanes
/// of a rank, so a second one only bridges waits; first guess, to be tuned.
pub(crate) const LANES_MAX: u32 = 2;
/// From here up a call has two lanes. Origin: first guess, to be tuned.
pub(crate) const TWO_LANES_BYTES: u64 = 1 << 20;
/// Slots a ring. Origin: as on GPUs.
pub(crate) const SLOTS: u32 = 4;
/// Payload bytes of a slot at most. Origin: large against the cost of a step, small against a core's
/// second-level cache; first guess, to be tuned.
pub(crate) const PIECE_BYTES_MAX: u32 = 64 << 10;

/// Lanes of a call: never fewer for more bytes.
pub(crate) fn lanes(bytes: u64) -> u32 {
    if bytes < TWO_LANES_BYTES { 1 } else { LANES_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lanes_from_1_mib() {
        let mib = 1 << 20;
        assert_eq!([0, mib - 1, mib, mib + 1, u64::MAX].map(lanes), [1, 1, 2, 2, 2]);
    }
}
