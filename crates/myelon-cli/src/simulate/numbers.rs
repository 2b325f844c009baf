//! What the flags of `simulate` hold: ranges and lists of numbers, and spans of time.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// Numbers that a case may take, from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(pub RangeInclusive<usize>);

impl fmt::Display for Numbers {
    /// As it is read: `3`, or `2..=4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.start() == self.0.end() {
            true => write!(f, "{}", self.0.start()),
            false => write!(f, "{}..={}", self.0.start(), self.0.end()),
        }
    }
}

/// Seeds, without the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Range<u64>);

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.0.start, self.0.end)
    }
}

/// Numbers of which a case takes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(pub Vec<usize>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&words.join(","))
    }
}

/// Reads `A..B` or `A..=B`; nothing where it is neither, or holds no number.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (from, to) = text.split_once("..")?;
    let from: u64 = from.parse().ok()?;
    let to = match to.strip_prefix('=') {
        Some(last) => last.parse().ok()?,
        None => to.parse::<u64>().ok()?.checked_sub(1)?,
    };
    (from <= to).then_some(from..=to)
}

/// Reads numbers within `low..=high`.
pub fn numbers(
    low: usize,
    high: usize,
) -> impl Fn(&str) -> Result<Numbers, String> + Clone + Send + Sync + 'static {
    move |text| {
        let one = || text.parse().ok().map(|number: u64| number..=number);
        let found = range(text).or_else(one).map(|range| (*range.start() as usize, *range.end() as usize));
        match found {
            Some((from, to)) if low <= from && to <= high => Ok(Numbers(from..=to)),
            _ => Err(format!("needed numbers from {low} to {high}: one, A..B (which leaves B out) or A..=B")),
        }
    }
}

/// Reads a range of seeds.
pub fn seeds(text: &str) -> Result<Seeds, String> {
    // The last seed of all has none behind it.
    match range(text).map(|range| (*range.start(), range.end().checked_add(1))) {
        Some((from, Some(end))) => Ok(Seeds(from..end)),
        _ => Err("needed seeds such as 0..2000, or 7..8 for seed 7 alone".into()),
    }
}

/// Reads numbers with commas between them.
fn list(text: &str, needed: &str, is_right: fn(u64) -> bool) -> Result<List, String> {
    let number = |word| myelon_lanes::parse_bytes(word).ok().filter(|&number| is_right(number));
    let numbers: Option<Vec<u64>> = text.split(',').map(number).collect();
    match numbers {
        Some(numbers) => Ok(List(numbers.into_iter().map(|number| number as usize).collect())),
        None => Err(format!("needed {needed}, with commas between them")),
    }
}

/// Reads slots of a ring.
pub fn capacities(text: &str) -> Result<List, String> {
    list(text, "powers of two up to 64", |slots| slots.is_power_of_two() && slots <= 64)
}

/// Reads payloads of a slot.
pub fn slot_bytes(text: &str) -> Result<List, String> {
    list(text, "multiples of 16 up to 4K", |bytes| bytes.is_multiple_of(16) && (16..=4096).contains(&bytes))
}

/// Reads packets of an inbox.
pub fn inbox_packets(text: &str) -> Result<List, String> {
    list(text, "even numbers from 2 to 1024", |packets| {
        packets.is_multiple_of(2) && (2..=1024).contains(&packets)
    })
}

/// Reads a span of time such as `30s`, `10m` or `1.5h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let needed = || format!("needed a duration such as 30s, 10m or 2h, not `{text}`");
    let (number, seconds) = [('s', 1.0), ('m', 60.0), ('h', 3600.0)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(needed)?;
    let number: f64 = number.parse().map_err(|_| needed())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| needed())?;
    if duration.is_zero() { Err(needed()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_one_or_a_range_with_or_without_its_end() {
        let read = numbers(2, 8);
        assert_eq!(read("3"), Ok(Numbers(3..=3)));
        assert_eq!(read("2..5"), Ok(Numbers(2..=4)));
        assert_eq!(read("2..=8"), Ok(Numbers(2..=8)));
        for text in ["1", "9", "2..10", "5..5", "5..=4", "", "..", "2..", "two", "-3", "2...4"] {
            assert!(read(text).unwrap_err().contains("from 2 to 8"), "{text}");
        }
    }

    #[test]
    fn seeds_are_always_a_range() {
        assert_eq!(seeds("0..2000"), Ok(Seeds(0..2000)));
        assert_eq!(seeds("7..=7"), Ok(Seeds(7..8)));
        let last = format!("{0}..{0}", u64::MAX);
        for text in ["2000", "5..5", "9..3", "x..y", "0..=18446744073709551615", &last] {
            assert!(seeds(text).unwrap_err().contains("0..2000"), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for text in ["3", "2..=8"] {
            assert_eq!(numbers(2, 8)(text).unwrap().to_string(), text);
        }
        assert_eq!(seeds("4..9").unwrap().to_string(), "4..9");
        assert_eq!(capacities("1,2,64").unwrap().to_string(), "1,2,64");
        assert_eq!(slot_bytes("16,1K").unwrap().to_string(), "16,1024");
    }

    #[test]
    fn lists_hold_what_rings_can_have() {
        for text in ["0", "3", "128", "1,,2", "", "many"] {
            assert!(capacities(text).unwrap_err().contains("powers of two"), "{text}");
        }
        for text in ["0", "8", "20", "8K", "16;32"] {
            assert!(slot_bytes(text).unwrap_err().contains("multiples of 16"), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        for text in ["30", "0s", "-1s", "s", "infs", "2d", "soon", ""] {
            assert!(duration(text).unwrap_err().contains("30s, 10m or 2h"), "{text}");
        }
    }
}
