//! The lane, slot and block heuristics of the myelon harness, kept for comparison.
//!
//! They were fitted on other machines, nothing in them scales with ranks or links, and they are not the
//! default. [`Policy::Harness`](crate::Policy::Harness) plans with the lanes and slot bytes, as far as
//! the rings' memory allows; the blocks a lane have no place in a plan with a block a role.
//!
//! Origin: the harness's early notes for the lanes; the rest is named there without constants and taken
//! from its successor, Venkat2811/yali, which calls its header the tuning of the standalone harness.

const MIB: u64 = 1 << 20;

/// The most lanes of the harness.
pub const LANES_MAX: u32 = 128;
/// The most slot bytes of [`auto_slot_bytes`].
pub const SLOT_BYTES_MAX: u32 = 1 << 20;
/// The least number of slots a ring. The harness makes rings as large as a lane; ours stay at this.
pub const SLOTS: u32 = 4;
/// Up to here, inclusive, the harness takes its pull kernel ("flash"), above its rings ("stream").
pub const FLASH_CROSSOVER_BYTES: u64 = 64 * MIB;

/// `AutoLaneCount`: lanes for a message.
///
/// Above 64 MiB it is `clamp(2^(ceil(log2(MiB)) + 2), 1, 128)`, which there is always 128.
///
/// # Example
///
/// ```
/// use myelon_lanes::harness::auto_lane_count;
///
/// assert_eq!(auto_lane_count(1 << 20), 32);
/// assert_eq!(auto_lane_count((1 << 20) + 1), 64);
/// ```
pub fn auto_lane_count(bytes: u64) -> u32 {
    if bytes <= MIB {
        32
    } else if bytes <= 8 * MIB {
        64
    } else if bytes <= 64 * MIB {
        128
    } else {
        lanes_by_mib(bytes)
    }
}

/// `clamp(2^(ceil(log2(MiB)) + 2), 1, 128)` for a message of `bytes > 0`.
fn lanes_by_mib(bytes: u64) -> u32 {
    // Rounding MiB up to a whole number does not change the ceiling of its logarithm from 1 MiB up.
    let power = bytes.div_ceil(MIB).next_power_of_two();
    (4 * power).clamp(1, LANES_MAX.into()) as u32
}

/// `AutoSlotBytes`: payload bytes of a slot for a message.
///
/// # Example
///
/// ```
/// assert_eq!(myelon_lanes::harness::auto_slot_bytes(8 << 20), 64 << 10);
/// ```
pub fn auto_slot_bytes(bytes: u64) -> u32 {
    if bytes <= 8 * MIB {
        64 << 10
    } else if bytes <= 32 * MIB {
        128 << 10
    } else if bytes <= 64 * MIB {
        256 << 10
    } else {
        SLOT_BYTES_MAX
    }
}

/// `ClampSlotBytes`: `max(256, min(slot_bytes, bytes_max))`, at most 2^31 - 1. The harness passes the
/// message as `bytes_max`, not the lane.
///
/// # Example
///
/// ```
/// assert_eq!(myelon_lanes::harness::clamp_slot_bytes(64 << 10, 1000), 1000);
/// ```
pub fn clamp_slot_bytes(slot_bytes: u64, bytes_max: u64) -> u32 {
    slot_bytes.min(bytes_max).clamp(256, i32::MAX as u64) as u32
}

/// Elements of the flash kernel's tile: 512 threads, 3 stages, 16 bytes each.
///
/// # Panics
///
/// Unless `element_bytes` is in `1..=16`.
///
/// # Example
///
/// ```
/// assert_eq!(myelon_lanes::harness::flash_tile(4), 6144);
/// ```
pub fn flash_tile(element_bytes: u32) -> u64 {
    assert!((1..=16).contains(&element_bytes), "elements of {element_bytes} bytes");
    512 * 3 * u64::from(16 / element_bytes)
}

/// `AutoCtasPerLane` of the flash kernel: blocks for a lane of `lane_elements` elements. The stream
/// kernel always has 1.
///
/// # Panics
///
/// As [`flash_tile`].
///
/// # Example
///
/// ```
/// assert_eq!(myelon_lanes::harness::auto_ctas_per_lane(5 * 6144, 4), 5);
/// ```
pub fn auto_ctas_per_lane(lane_elements: u64, element_bytes: u32) -> u32 {
    match lane_elements {
        0 => 1,
        _ => lane_elements.div_ceil(flash_tile(element_bytes)).clamp(4, 32) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts `below` up to and including `bound`, and `above` behind it.
    fn step<T: PartialEq + std::fmt::Debug>(rule: impl Fn(u64) -> T, bound: u64, below: T, above: T) {
        assert_eq!(rule(bound - 1), below, "{bound} - 1");
        assert_eq!(rule(bound), below, "{bound}");
        assert_eq!(rule(bound + 1), above, "{bound} + 1");
    }

    #[test]
    fn auto_lane_count_at_every_boundary() {
        step(auto_lane_count, MIB, 32, 64);
        step(auto_lane_count, 8 * MIB, 64, 128);
        step(auto_lane_count, 64 * MIB, 128, 128);
        assert_eq!([0, 1, u64::MAX].map(auto_lane_count), [32, 32, 128]);
    }

    #[test]
    fn the_last_branch_is_as_stated_also_where_it_is_never_taken() {
        for (mib, lanes) in [(1, 4), (2, 8), (3, 16), (4, 16), (5, 32), (16, 64), (17, 128), (32, 128)] {
            assert_eq!(lanes_by_mib(mib * MIB), lanes, "{mib} MiB");
        }
        step(lanes_by_mib, 4 * MIB, 16, 32);
        for log2 in 26..=46 {
            step(lanes_by_mib, 1 << log2, 128, 128);
        }
    }

    #[test]
    fn auto_slot_bytes_at_every_boundary() {
        step(auto_slot_bytes, 8 * MIB, 64 << 10, 128 << 10);
        step(auto_slot_bytes, 32 * MIB, 128 << 10, 256 << 10);
        step(auto_slot_bytes, 64 * MIB, 256 << 10, SLOT_BYTES_MAX);
        assert_eq!([0, u64::MAX].map(auto_slot_bytes), [64 << 10, SLOT_BYTES_MAX]);
    }

    #[test]
    fn clamp_slot_bytes_at_every_boundary() {
        let slot = 64 << 10;
        for (bytes_max, clamped) in [(0, 256), (255, 256), (256, 256), (257, 257)] {
            assert_eq!(clamp_slot_bytes(slot, bytes_max), clamped);
        }
        for (bytes_max, clamped) in [(slot - 1, 65535), (slot, 65536), (slot + 1, 65536)] {
            assert_eq!(clamp_slot_bytes(slot, bytes_max), clamped);
        }
        let most = i32::MAX as u64;
        for (slot, clamped) in [(most - 1, most - 1), (most, most), (most + 1, most), (u64::MAX, most)] {
            assert_eq!(u64::from(clamp_slot_bytes(slot, u64::MAX)), clamped);
        }
    }

    #[test]
    fn blocks_a_lane_at_every_boundary() {
        assert_eq!([flash_tile(2), flash_tile(4)], [12_288, 6_144]);
        for element_bytes in [1, 2, 4, 8] {
            let tile = flash_tile(element_bytes);
            let ctas = |elements| auto_ctas_per_lane(elements, element_bytes);
            assert_eq!([ctas(0), ctas(1)], [1, 4]);
            step(ctas, 4 * tile, 4, 5);
            step(ctas, 5 * tile, 5, 6);
            step(ctas, 32 * tile, 32, 32);
            assert_eq!(ctas(u64::MAX), 32);
        }
    }
}
