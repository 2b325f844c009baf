//! The element types of a collective.

use std::fmt;
use std::str::FromStr;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::error::Error;

/// The type of the elements that a collective combines.
///
/// # Example
///
/// ```
/// use myelon_collectives::DataType;
///
/// let dtype: DataType = "bf16".parse()?;
/// assert_eq!((dtype.bytes(), dtype.is_float()), (2, true));
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 binary16.
    F16,
    /// The upper half of an IEEE 754 binary32.
    Bf16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 64 bits.
    U64,
}

impl DataType {
    /// Every type, in the order of their codes in a [`crate::CallWord`].
    pub const ALL: [Self; 10] = [
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::I8,
        Self::U8,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
    ];

    /// Bytes of one element; also the alignment that a region of this type needs.
    pub fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// The name in commands, kernels and logs: `f16`, `bf16`, `i8`, ...
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DataType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        by_name("data type", text, &Self::ALL, Self::name)
    }
}

/// The value of `all` that is called `text`, or an error that lists the names.
pub(crate) fn by_name<T: Copy>(
    what: &str,
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, Error> {
    all.iter().copied().find(|&value| name(value) == text).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|&value| name(value)).collect();
        Error::invalid(what, format!("one of {}", names.join(", ")), format!("\"{text}\""))
    })
}

/// A Rust type that a [`crate::Buffer`] may hold.
pub trait Element: Pod + Send + Sync + fmt::Debug + 'static {
    /// The same type as a value.
    const DTYPE: DataType;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),+ $(,)?) => {
        $(impl Element for $type { const DTYPE: DataType = DataType::$dtype; })+
        $(const _: () = assert!(align_of::<$type>() == size_of::<$type>());)+
    };
}

elements! {
    f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64,
    i8 => I8, u8 => U8, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_list_the_known() {
        for dtype in DataType::ALL {
            assert_eq!(dtype.name().parse::<DataType>().unwrap(), dtype);
        }
        let error = "float".parse::<DataType>().unwrap_err().to_string();
        assert!(error.contains("f16, bf16, f32") && error.contains("\"float\""), "{error}");
    }

    #[test]
    fn an_element_has_the_bytes_of_its_type() {
        fn check<T: Element>() {
            assert_eq!(size_of::<T>(), T::DTYPE.bytes());
        }
        check::<f16>();
        check::<bf16>();
        check::<f32>();
        check::<f64>();
        check::<i8>();
        check::<u8>();
        check::<i32>();
        check::<u32>();
        check::<i64>();
        check::<u64>();
    }
}
