//! The range of message sizes, as nccl-tests understand it.

/// How one size follows from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next size is so many times the last.
    Factor(u64),
    /// The next size is so many bytes more than the last.
    Bytes(u64),
}

/// More sizes than this in one run are taken for a slip of the hand.
pub const SIZES_MAX: usize = 100_000;

/// All sizes in bytes from `min` up to and including `max`.
///
/// With a factor, a range that begins at 0 runs 0 and goes on from 1.
///
/// # Errors
///
/// A sentence for the user, where the range is empty, never ends, or holds more than [`SIZES_MAX`] sizes.
pub fn sizes(min: u64, max: u64, step: Step) -> Result<Vec<u64>, String> {
    if min > max {
        return Err(format!("the smallest size, {min} bytes, is above the largest, {max} bytes"));
    }
    match step {
        Step::Factor(factor) if factor < 2 => {
            return Err(format!("a step factor of {factor} never ends: use 2 or more"));
        }
        Step::Bytes(0) => return Err("a step of 0 bytes never ends: use 1 or more".into()),
        _ => {}
    }
    let next = |size: u64| match step {
        Step::Factor(_) if size == 0 => Some(1),
        Step::Factor(factor) => size.checked_mul(factor),
        Step::Bytes(bytes) => size.checked_add(bytes),
    };
    let mut sizes = Vec::new();
    let mut size = Some(min);
    while let Some(bytes) = size.filter(|&bytes| bytes <= max) {
        if sizes.len() == SIZES_MAX {
            return Err(format!("more than {SIZES_MAX} sizes from {min} to {max} bytes: use a larger step"));
        }
        sizes.push(bytes);
        size = next(bytes);
    }
    Ok(sizes)
}

/// The element counts that `sizes` mean for elements of `element_bytes`, each once.
///
/// Sizes are rounded down to whole elements, as nccl-tests do. A size below one element is a call with
/// 0 elements, which has to work too.
pub fn counts(sizes: &[u64], element_bytes: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = sizes.iter().map(|&bytes| (bytes / element_bytes as u64) as usize).collect();
    counts.dedup();
    counts
}

/// `bytes` to three figures or so, in the unit that suits: `1.02 MiB`.
pub fn about_bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            format!("{:.2} {unit}", bytes as f64 / f64::from(1u32 << (shift - 10)) / 1024.0)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_multiplies_and_stops_at_the_end() {
        assert_eq!(sizes(8, 128, Step::Factor(4)), Ok(vec![8, 32, 128]));
        assert_eq!(sizes(8, 127, Step::Factor(4)), Ok(vec![8, 32]));
        assert_eq!(
            sizes(1, 1 << 20, Step::Factor(7)),
            Ok(vec![1, 7, 49, 343, 2401, 16807, 117_649, 823_543])
        );
        assert_eq!(sizes(5, 5, Step::Factor(2)), Ok(vec![5]));
    }

    #[test]
    fn a_step_adds() {
        assert_eq!(sizes(10, 40, Step::Bytes(10)), Ok(vec![10, 20, 30, 40]));
        assert_eq!(sizes(0, 2, Step::Bytes(1)), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn a_factor_range_from_zero_goes_on_from_one() {
        assert_eq!(sizes(0, 9, Step::Factor(3)), Ok(vec![0, 1, 3, 9]));
    }

    #[test]
    fn the_end_of_u64_is_no_trap() {
        assert_eq!(sizes(u64::MAX - 1, u64::MAX, Step::Factor(2)), Ok(vec![u64::MAX - 1]));
        assert_eq!(sizes(u64::MAX - 1, u64::MAX, Step::Bytes(5)), Ok(vec![u64::MAX - 1]));
    }

    #[test]
    fn ranges_that_are_empty_or_endless_are_refused() {
        assert!(sizes(9, 8, Step::Factor(2)).unwrap_err().contains("above the largest"));
        assert!(sizes(1, 8, Step::Factor(1)).unwrap_err().contains("never ends"));
        assert!(sizes(1, 8, Step::Factor(0)).unwrap_err().contains("never ends"));
        assert!(sizes(1, 8, Step::Bytes(0)).unwrap_err().contains("never ends"));
        assert!(sizes(0, 1 << 30, Step::Bytes(1)).unwrap_err().contains("larger step"));
    }

    #[test]
    fn counts_round_down_and_are_not_repeated() {
        assert_eq!(counts(&[1, 7, 49, 343], 8), vec![0, 6, 42]);
        assert_eq!(counts(&[1, 7, 49], 1), vec![1, 7, 49]);
    }

    #[test]
    fn memory_is_shown_in_a_unit_that_suits() {
        let shown = [0, 1023, 1024, 1_051_904, 3 << 29, 5 << 40].map(about_bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.00 MiB", "1.50 GiB", "5.00 TiB"]);
    }
}
