//! What a user may set, and how the text of a setting is read.

use std::fmt;
use std::str::FromStr;

use crate::algorithm::Algorithm;
use crate::error::{Bound, PlanError, SettingError};
use crate::geometry::check_piece_bytes;
use crate::machine::Machine;
use crate::plan::ROLES;

/// The most lanes that can be forced.
pub const LANES_MAX: u32 = 1024;
/// The most payload bytes of a slot that can be forced.
pub const PIECE_BYTES_MAX: u32 = 16 << 20;
/// The most slots a ring that can be forced.
pub const SLOTS_MAX: u32 = 1024;

/// Values that the user insists on. Each is honoured in every plan or refused, never changed.
///
/// | name | field | allowed |
/// |---|---|---|
/// | `algo` | algorithm | the name of an [`Algorithm`] |
/// | `lanes` | lanes | `1..=1024` |
/// | `slot-bytes` | payload bytes of a slot | a multiple of 16, `16..=16 MiB` |
/// | `slots` | slots a ring | a power of two, `1..=1024` |
/// | `blocks` | blocks a launch | a multiple of 3, at most 3 a lane and what can be resident |
/// | `max-blocks` | blocks a launch at most, where `blocks` is not forced | at least 3 |
/// | `threads` | threads a block | a multiple of 32, `64..=512`; on the host 1 |
///
/// Lanes, slots and blocks are the ring's where no other algorithm is forced, and so force the ring. Other
/// algorithms have a block for each lane, and no slots but for `neighbour`, whose rings they shape where it is forced.
///
/// # Example
///
/// ```
/// use myelon_lanes::Forced;
///
/// let mut forced = Forced::default();
/// forced.set("lanes", "8")?;
/// forced.set("slot-bytes", "16K")?;
/// assert_eq!(forced, Forced { lanes: Some(8), piece_bytes: Some(16 << 10), ..Forced::default() });
/// assert_eq!(forced.to_string(), "lanes=8 slot=16KiB");
/// # Ok::<(), myelon_lanes::SettingError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// Algorithm of every call.
    pub algorithm: Option<Algorithm>,
    /// Lanes of every call.
    pub lanes: Option<u32>,
    /// Payload bytes of every slot.
    pub piece_bytes: Option<u32>,
    /// Slots of every ring.
    pub slots: Option<u32>,
    /// Blocks of every launch.
    pub blocks: Option<u32>,
    /// Blocks of every launch at most.
    pub blocks_max: Option<u32>,
    /// Threads of every block.
    pub threads: Option<u32>,
}

impl Forced {
    /// Sets the value called `name` from its text. `slot-bytes` takes what [`parse_bytes`] takes, the
    /// others a plain number. Capitals and `_` count as small letters and `-`, as in the environment.
    ///
    /// Bounds are checked where a plan is made, because some depend on the machine.
    ///
    /// # Errors
    ///
    /// [`SettingError`] where the name or the text means nothing. `self` is then as it was.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_lanes::Forced;
    ///
    /// let mut forced = Forced::default();
    /// let error = forced.set("lane", "8").unwrap_err();
    /// assert_eq!(error.to_string(), "unknown setting `lane`; known: algo, lanes, slot-bytes, slots, blocks, max-blocks, threads");
    /// let error = forced.set("SLOTS", "many").unwrap_err();
    /// assert_eq!(error.to_string(), "slots: `many` is no whole number from 0 to 4294967295");
    /// ```
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SettingError> {
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "algo" => self.algorithm = Some(text.trim().parse()?),
            "lanes" => self.lanes = Some(parse_count("lanes", text)?),
            "slot-bytes" => self.piece_bytes = Some(parse_slot_bytes(text)?),
            "slots" => self.slots = Some(parse_count("slots", text)?),
            "blocks" => self.blocks = Some(parse_count("blocks", text)?),
            "max-blocks" => self.blocks_max = Some(parse_count("max-blocks", text)?),
            "threads" => self.threads = Some(parse_count("threads", text)?),
            _ => {
                let known = "algo, lanes, slot-bytes, slots, blocks, max-blocks, threads";
                return Err(SettingError::Unknown { what: "setting", seen: name.into(), known });
            }
        }
        Ok(())
    }

    /// Nothing is forced.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the ring has to carry every call: it is forced, or its shape is and no other algorithm.
    pub(crate) fn is_ring(&self) -> bool {
        let shaped = Self { algorithm: None, threads: None, blocks_max: None, ..*self };
        self.algorithm.map_or(!shaped.is_empty(), |algorithm| algorithm == Algorithm::Ring)
    }

    /// Blocks a role, where blocks are forced.
    pub(crate) fn workers(&self) -> Option<u32> {
        self.blocks.map(|blocks| blocks / ROLES)
    }

    pub(crate) fn check(&self, machine: &Machine) -> Result<(), PlanError> {
        if let Some(lanes) = self.lanes {
            Bound::number("lanes", lanes.into(), 1, LANES_MAX.into()).check()?;
        }
        if let Some(piece_bytes) = self.piece_bytes {
            check_piece_bytes(piece_bytes, PIECE_BYTES_MAX)?;
        }
        if let Some(slots) = self.slots {
            let (value, most) = (slots.into(), SLOTS_MAX.into());
            Bound { name: "slots", value, rule: "a power of two", least: 1, most }
                .check_and(slots.is_power_of_two())?;
        }
        if let Some(blocks_max) = self.blocks_max {
            Bound::number("max-blocks", blocks_max.into(), ROLES.into(), u64::MAX).check()?;
        }
        let other = self.algorithm.is_some_and(|algorithm| algorithm != Algorithm::Ring);
        if let (Some(blocks), true) = (self.blocks, other) {
            let (least, most) = self.lanes.map_or((1, machine.blocks_max), |lanes| (lanes, lanes));
            Bound::number("blocks", blocks.into(), least.into(), most.into()).check()?;
        } else if let Some(blocks) = self.blocks {
            let most = machine.blocks_max.min(ROLES * self.lanes.unwrap_or(LANES_MAX)) / ROLES * ROLES;
            let (value, least) = (blocks.into(), ROLES.into());
            Bound { name: "blocks", value, rule: "a multiple of 3", least, most: most.into() }
                .check_and(blocks.is_multiple_of(ROLES))?;
        }
        if let Some(threads) = self.threads {
            let value = threads.into();
            if machine.host {
                Bound::number("threads", value, 1, 1).check()?;
            } else {
                Bound { name: "threads", value, rule: "a multiple of 32", least: 64, most: 512 }
                    .check_and(threads.is_multiple_of(32))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut word = |name: &str, value: Option<String>| words.extend(value.map(|v| format!("{name}={v}")));
        word("algo", self.algorithm.map(|algorithm| algorithm.to_string()));
        word("lanes", self.lanes.map(|lanes| lanes.to_string()));
        word("slot", self.piece_bytes.map(|bytes| format_bytes(bytes.into())));
        word("slots", self.slots.map(|slots| slots.to_string()));
        word("blocks", self.blocks.map(|blocks| blocks.to_string()));
        word("max-blocks", self.blocks_max.map(|blocks| blocks.to_string()));
        word("threads", self.threads.map(|threads| threads.to_string()));
        f.write_str(&words.join(" "))
    }
}

/// Where the numbers come from that are not forced.
///
/// # Example
///
/// ```
/// use myelon_lanes::Policy;
///
/// assert_eq!("harness".parse(), Ok(Policy::Harness));
/// assert_eq!(Policy::Yali.to_string(), "yali");
/// assert_eq!(
///     "fast".parse::<Policy>().unwrap_err().to_string(),
///     "unknown policy `fast`; known: auto, harness, yali",
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The tuning table where it has a row, else the machine's own rule.
    #[default]
    Auto,
    /// The lane and slot heuristics of the myelon harness: see [`crate::harness`].
    Harness,
    /// The lane presets of YALI, with the harness's slots: see [`crate::yali`].
    Yali,
}

impl FromStr for Policy {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        match text {
            "auto" => Ok(Self::Auto),
            "harness" => Ok(Self::Harness),
            "yali" => Ok(Self::Yali),
            _ => {
                Err(SettingError::Unknown { what: "policy", seen: text.into(), known: "auto, harness, yali" })
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Harness => "harness",
            Self::Yali => "yali",
        })
    }
}

const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// Reads a number of bytes: `123`, `123B`, `16K`, `16KiB`, `4M`, `1G`, `2T`, in powers of two.
///
/// Capitals do not matter. `KB` and the like are refused, because half of the world means 1000.
///
/// # Errors
///
/// [`SettingError::Bytes`], which says what is wrong with the text.
///
/// # Example
///
/// ```
/// use myelon_lanes::parse_bytes;
///
/// assert_eq!(parse_bytes("16K")?, 16 * 1024);
/// assert_eq!(parse_bytes("4MiB")?, 4 << 20);
/// assert_eq!(
///     parse_bytes("16KB").unwrap_err().to_string(),
///     "`16KB` is no number of bytes: KB, MB, GB and TB are ambiguous; \
///      write for example 123, 16K, 4MiB or 1G (powers of two)",
/// );
/// # Ok::<(), myelon_lanes::SettingError>(())
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, SettingError> {
    let refuse = |problem| SettingError::Bytes { seen: text.into(), problem };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(refuse("it does not start with a digit"));
    }
    let number: u64 = number.parse().map_err(|_| refuse("it is 2^64 or more"))?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        "KB" | "MB" | "GB" | "TB" => return Err(refuse("KB, MB, GB and TB are ambiguous")),
        unit if unit.starts_with('.') => return Err(refuse("fractions are not taken")),
        _ => return Err(refuse("the unit is none of B, K, M, G, T, KiB, MiB, GiB, TiB")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| refuse("it is 2^64 or more"))
}

/// Prints a number of bytes in the largest unit that leaves a whole number; [`parse_bytes`] reads it.
///
/// # Example
///
/// ```
/// use myelon_lanes::format_bytes;
///
/// assert_eq!(format_bytes(8 << 10), "8KiB");
/// assert_eq!(format_bytes(1000), "1000B");
/// ```
pub fn format_bytes(bytes: u64) -> String {
    let fits = |&&(_, shift): &&(&str, u32)| bytes != 0 && bytes.is_multiple_of(1 << shift);
    match UNITS.iter().find(fits) {
        Some((unit, shift)) => format!("{}{unit}iB", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

fn parse_count(name: &'static str, text: &str) -> Result<u32, SettingError> {
    let text = text.trim();
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let refuse = || SettingError::Count { name, seen: text.into() };
    plain.then(|| text.parse().ok()).flatten().ok_or_else(refuse)
}

fn parse_slot_bytes(text: &str) -> Result<u32, SettingError> {
    let problem = "a slot of 4 GiB or more is out of the question";
    parse_bytes(text)?.try_into().map_err(|_| SettingError::Bytes { seen: text.into(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("123B", 123),
            ("1k", 1 << 10),
            (" 16KiB ", 16 << 10),
            ("4mib", 4 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("18446744073709551615", u64::MAX),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "does not start with a digit"),
            ("K", "does not start with a digit"),
            ("-1", "does not start with a digit"),
            ("+1", "does not start with a digit"),
            ("é", "does not start with a digit"),
            ("1.5M", "fractions"),
            ("1 K", "the unit is none of"),
            ("1Ki", "the unit is none of"),
            ("0x10", "the unit is none of"),
            ("1é", "the unit is none of"),
            ("1MB", "ambiguous"),
            ("18446744073709551616", "2^64 or more"),
            ("16777216T", "2^64 or more"),
        ] {
            let error = parse_bytes(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn every_setting_is_set_by_its_name_and_only_that_one() {
        let mut forced = Forced::default();
        assert!(forced.is_empty());
        for (name, text) in [
            ("Lanes", "1"),
            ("SLOT_BYTES", "2K"),
            ("slots", " 4 "),
            ("blocks", "3"),
            ("threads", "64"),
            ("algo", "ring"),
            ("MAX_BLOCKS", "9"),
        ] {
            forced.set(name, text).unwrap();
        }
        let (lanes, piece_bytes, slots, blocks, threads) = (Some(1), Some(2048), Some(4), Some(3), Some(64));
        let (algorithm, blocks_max) = (Some(Algorithm::Ring), Some(9));
        assert_eq!(forced, Forced { algorithm, lanes, piece_bytes, slots, blocks, blocks_max, threads });
        assert_eq!(
            forced.to_string(),
            "algo=ring lanes=1 slot=2KiB slots=4 blocks=3 max-blocks=9 threads=64"
        );

        let before = forced;
        for (name, text) in
            [("slot-byte", "1"), ("lanes", "+1"), ("lanes", ""), ("lanes", "4K"), ("slot-bytes", "4G")]
        {
            assert!(forced.set(name, text).is_err(), "{name}={text}");
        }
        assert_eq!(forced, before);
    }

    #[test]
    fn forced_values_out_of_bounds_are_refused_by_name() {
        let refusal = |name: &str, text: &str, machine: &Machine| {
            let mut forced = Forced::default();
            forced.set(name, text).unwrap();
            forced.check(machine).map_err(|error| error.to_string()).unwrap_err()
        };
        let (gpu, host) = (Machine::h200(), Machine::host(2));
        assert_eq!(refusal("lanes", "0", &gpu), "lanes is 0, needed a number from 1 to 1024");
        assert_eq!(refusal("lanes", "1025", &gpu), "lanes is 1025, needed a number from 1 to 1024");
        for text in ["0", "24", "16777232"] {
            let tail = "needed a multiple of 16 from 16 to 16777216";
            assert_eq!(refusal("slot-bytes", text, &gpu), format!("slot-bytes is {text}, {tail}"));
        }
        for text in ["0", "3", "2048"] {
            let tail = "needed a power of two from 1 to 1024";
            assert_eq!(refusal("slots", text, &gpu), format!("slots is {text}, {tail}"));
        }
        for text in ["0", "4", "135"] {
            let tail = "needed a multiple of 3 from 3 to 132";
            assert_eq!(refusal("blocks", text, &gpu), format!("blocks is {text}, {tail}"));
        }
        for text in ["0", "32", "65", "544"] {
            let tail = "needed a multiple of 32 from 64 to 512";
            assert_eq!(refusal("threads", text, &gpu), format!("threads is {text}, {tail}"));
        }
        assert_eq!(refusal("threads", "32", &host), "threads is 32, needed a number from 1 to 1");
        assert_eq!(refusal("blocks", "3075", &host), "blocks is 3075, needed a multiple of 3 from 3 to 3072");
        let both = Forced { lanes: Some(2), blocks: Some(9), ..Forced::default() };
        assert_eq!(
            both.check(&gpu).unwrap_err().to_string(),
            "blocks is 9, needed a multiple of 3 from 3 to 6"
        );
    }
}
