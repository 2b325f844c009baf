//! The lane presets of YALI, the harness's public successor, kept for comparison.
//!
//! They were fitted on A100s with two NVLinks, are not monotone in the message, and are not the default.
//! Slots are the harness's: see [`crate::harness`].
//!
//! Origin: Venkat2811/yali. It knows fp32, fp16 and bf16; wider elements count as fp32 here, and bytes
//! as fp16.

use crate::harness::FLASH_CROSSOVER_BYTES;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// `FlashLanePreset`: lanes of the pull kernel for a message of elements of `element_bytes` bytes.
///
/// | up to and including | 256 KiB | 1 MiB | 4 MiB | 8 MiB | 16 MiB | 64 MiB | above |
/// |---|---|---|---|---|---|---|---|
/// | fp32 | 16 | 16 | 64 | 16 | 16 | 64 | 128 |
/// | fp16, bf16 | 16 | 32 | 32 | 16 | 16 | 32 | 128 |
///
/// # Example
///
/// ```
/// use myelon_lanes::yali::flash_lane_preset;
///
/// assert_eq!(flash_lane_preset(1 << 20, 4), 16);
/// assert_eq!(flash_lane_preset(1 << 20, 2), 32);
/// ```
pub fn flash_lane_preset(bytes: u64, element_bytes: u32) -> u32 {
    // (up to and including, fp32, fp16 and bf16)
    const PRESETS: [(u64, u32, u32); 7] = [
        (256 * KIB, 16, 16),
        (MIB, 16, 32),
        (4 * MIB, 64, 32),
        (8 * MIB, 16, 16),
        (16 * MIB, 16, 16),
        (64 * MIB, 64, 32),
        (u64::MAX, 128, 128),
    ];
    let (_, fp32, fp16) = PRESETS[PRESETS.partition_point(|&(bound, ..)| bound < bytes)];
    if element_bytes <= 2 { fp16 } else { fp32 }
}

/// `StreamLanePreset`: lanes of the ring kernel in YALI's benchmark. Its operations take 128 always.
///
/// # Example
///
/// ```
/// assert_eq!(myelon_lanes::yali::stream_lane_preset(128 << 20), 128);
/// ```
pub fn stream_lane_preset(bytes: u64) -> u32 {
    if bytes >= 128 * MIB {
        128
    } else if bytes >= 64 * MIB {
        64
    } else if bytes >= 16 * MIB {
        32
    } else {
        16
    }
}

/// What [`Policy::Yali`](crate::Policy::Yali) takes: the flash preset up to the crossover of 64 MiB,
/// inclusive, and the stream preset above, as YALI's benchmark does.
///
/// # Example
///
/// ```
/// use myelon_lanes::yali::lane_count;
///
/// assert_eq!(lane_count(64 << 20, 2), 32); // flash
/// assert_eq!(lane_count((64 << 20) + 1, 2), 64); // stream
/// ```
pub fn lane_count(bytes: u64, element_bytes: u32) -> u32 {
    if bytes <= FLASH_CROSSOVER_BYTES {
        flash_lane_preset(bytes, element_bytes)
    } else {
        stream_lane_preset(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_lane_preset_at_every_boundary() {
        let bounds = [256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB, 64 * MIB];
        let fp32 = [16, 16, 64, 16, 16, 64, 128];
        let fp16 = [16, 32, 32, 16, 16, 32, 128];
        for (element_bytes, lanes) in [(1, fp16), (2, fp16), (4, fp32), (8, fp32)] {
            let preset = |bytes| flash_lane_preset(bytes, element_bytes);
            for (at, bound) in bounds.into_iter().enumerate() {
                let seen = [bound - 1, bound, bound + 1].map(preset);
                assert_eq!(seen, [lanes[at], lanes[at], lanes[at + 1]], "{bound}");
            }
            assert_eq!([0, 1, u64::MAX].map(preset), [16, 16, 128]);
        }
    }

    #[test]
    fn stream_lane_preset_at_every_boundary() {
        for (bound, below, from) in [(16 * MIB, 16, 32), (64 * MIB, 32, 64), (128 * MIB, 64, 128)] {
            let seen = [bound - 1, bound, bound + 1].map(stream_lane_preset);
            assert_eq!(seen, [below, from, from], "{bound}");
        }
        assert_eq!([0, u64::MAX].map(stream_lane_preset), [16, 128]);
    }

    #[test]
    fn the_crossover_is_flash_inclusive() {
        for (element_bytes, flash) in [(2, 32), (4, 64)] {
            let around = [64 * MIB - 1, 64 * MIB, 64 * MIB + 1].map(|bytes| lane_count(bytes, element_bytes));
            assert_eq!(around, [flash, flash, 64]);
        }
        let around = [128 * MIB - 1, 128 * MIB, 128 * MIB + 1].map(|bytes| lane_count(bytes, 4));
        assert_eq!(around, [64, 128, 128]);
    }
}
