//! What the processes of one session know, and nobody else.

use std::fmt;

use crate::error::MeetError;

const BYTES: usize = 32;

/// A random word of a session. A launcher makes it and hands it down by the environment (`MYELON_SECRET`).
///
/// It keeps the sessions of one user apart. It is no guard against a process of the same user that wants in: such a
/// process can read the environment of the others.
///
/// # Example
///
/// ```
/// use myelon_meet::Secret;
///
/// let secret = Secret::random()?;
/// assert_eq!(secret.reveal().parse::<Secret>()?, secret);
/// assert_ne!(Secret::random()?, secret);
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// # Ok::<(), myelon_meet::MeetError>(())
/// ```
#[derive(Clone)]
pub struct Secret([u8; BYTES]);

impl Secret {
    /// 256 bits of the system's randomness.
    ///
    /// # Errors
    ///
    /// [`MeetError::System`] where it has none.
    pub fn random() -> Result<Self, MeetError> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|error| MeetError::system("randomness", error))?;
        Ok(Self(bytes))
    }

    /// The secret as 64 hexadecimal digits, for the environment of a process that is started.
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::str::FromStr for Secret {
    type Err = MeetError;

    fn from_str(text: &str) -> Result<Self, MeetError> {
        // What was seen is not repeated: it may be most of a secret.
        let refuse = || {
            let seen = format!("{} characters", text.chars().count());
            MeetError::setting("MYELON_SECRET", format!("{} hexadecimal digits", 2 * BYTES), seen)
        };
        if text.len() != 2 * BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let mut bytes = [0; BYTES];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl PartialEq for Secret {
    /// Takes as long wherever the difference is.
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |differ, (ours, theirs)| differ | (ours ^ theirs)) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        for text in ["", "12", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            let error = text.parse::<Secret>().unwrap_err().to_string();
            assert!(error.starts_with("MYELON_SECRET: needed 64 hexadecimal digits"), "{error}");
            assert!(text.len() < 32 || !error.contains(text), "{error}");
        }
    }
}
