//! Where the kernels come from: the texts and images that the build embedded, and the choice between them.

use crate::cache::Hash;
use crate::error::KernelError;
use std::fmt;
use std::str::FromStr;

/// One file of `kernels/src`, with what was made of it when this crate was built.
pub(crate) struct Source {
    /// The file's name without its ending.
    pub(crate) name: &'static str,
    /// The text, for NVRTC.
    pub(crate) text: &'static str,
    /// The images for several architectures that nvcc made.
    pub(crate) fatbin: Option<&'static [u8]>,
}

/// Gives an embedded image the alignment that loaders of ELF files expect.
#[cfg(myelon_aot)]
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The element types that kernels exist for, as they stand in the kernels' names.
pub const DTYPES: [&str; 10] = ["f16", "bf16", "f32", "f64", "i8", "u8", "i32", "u32", "i64", "u64"];
/// Those of them that are floats: some algorithms have kernels for these alone.
pub(crate) const FLOAT_DTYPES: &[&str] = DTYPES.split_at(4).0;
/// The operations that kernels exist for; an average is a sum with
/// [`FLAG_AVERAGE`](myelon_ring::words::FLAG_AVERAGE).
pub const OPS: [&str; 4] = ["sum", "prod", "min", "max"];

/// Whether this build embeds images that nvcc made.
pub const AOT: bool = cfg!(myelon_aot);

/// What tells the kernels of this build from those of another: it follows from the text of all of them.
///
/// ```
/// assert_eq!(myelon_kernel::sources_hash(), myelon_kernel::sources_hash());
/// ```
pub fn sources_hash() -> u64 {
    let texts = SOURCES.iter().map(|source| (source.name, source.text)).chain(HEADERS.iter().copied());
    texts.fold(Hash::new(), |hash, (name, text)| hash.part(name.as_bytes()).part(text.as_bytes())).value()
}

/// Where the kernels shall come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageChoice {
    /// The embedded images where there are any and the driver takes them, else NVRTC.
    #[default]
    Auto,
    /// Only the images that nvcc made when this crate was built.
    Aot,
    /// Only NVRTC, at run time.
    Nvrtc,
}

impl ImageChoice {
    /// The environment variable that [`ImageChoice::from_env`] reads.
    pub const SETTING: &'static str = "MYELON_KERNELS";
    const KNOWN: &'static str = "auto, aot, nvrtc";

    /// The choice that `MYELON_KERNELS` makes; [`ImageChoice::Auto`] where it is not set or empty.
    ///
    /// # Errors
    ///
    /// [`KernelError::Setting`] for an unknown word.
    pub fn from_env() -> Result<Self, KernelError> {
        match std::env::var_os(Self::SETTING) {
            None => Ok(Self::Auto),
            Some(value) if value.is_empty() => Ok(Self::Auto),
            Some(value) => value.to_string_lossy().parse(),
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Aot => "aot",
            Self::Nvrtc => "nvrtc",
        }
    }
}

/// Reads `auto`, `aot` or `nvrtc`.
///
/// ```
/// use myelon_kernel::ImageChoice;
///
/// assert_eq!("nvrtc".parse(), Ok(ImageChoice::Nvrtc));
/// let error = "ptx".parse::<ImageChoice>().unwrap_err();
/// assert_eq!(error.to_string(), "MYELON_KERNELS=ptx is not known: use one of auto, aot, nvrtc");
/// ```
impl FromStr for ImageChoice {
    type Err = KernelError;

    fn from_str(word: &str) -> Result<Self, KernelError> {
        [Self::Auto, Self::Aot, Self::Nvrtc].into_iter().find(|choice| choice.name() == word).ok_or_else(
            || KernelError::Setting { setting: Self::SETTING, value: word.to_owned(), known: Self::KNOWN },
        )
    }
}

impl fmt::Display for ImageChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which image the loaded kernels came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// nvcc made it when this crate was built.
    Aot,
    /// NVRTC made it, now or earlier.
    Nvrtc {
        /// NVRTC's version, major and minor.
        version: (u32, u32),
        /// The architecture it was made for, such as 90.
        arch: u32,
        /// Whether it came from the cache.
        cached: bool,
        /// How long the compilation took, zero where it came from the cache.
        compile_ms: u64,
        /// What the compiler printed; mostly nothing.
        log: String,
    },
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aot => f.write_str("fatbin made by nvcc"),
            Self::Nvrtc { version: (major, minor), arch, cached: true, .. } => {
                write!(f, "sm_{arch} cubin made by NVRTC {major}.{minor}, from the cache")
            }
            Self::Nvrtc { version: (major, minor), arch, compile_ms, .. } => {
                write!(f, "sm_{arch} cubin made by NVRTC {major}.{minor} in {compile_ms} ms")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reads_its_own_name() {
        for choice in [ImageChoice::Auto, ImageChoice::Aot, ImageChoice::Nvrtc] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("AOT".parse::<ImageChoice>().is_err());
        assert!("".parse::<ImageChoice>().is_err());
    }

    #[test]
    fn what_the_build_says_is_what_it_embedded() {
        for source in SOURCES {
            assert_eq!(source.fatbin.is_some(), AOT, "{}", source.name);
            if let Some(fatbin) = source.fatbin {
                assert_eq!(fatbin[..4], 0xba55_ed50_u32.to_le_bytes(), "a fatbin starts with its magic");
                assert_eq!(fatbin.as_ptr() as usize % 64, 0);
            }
        }
    }

    #[test]
    fn every_include_of_ours_is_embedded() {
        for text in SOURCES.iter().map(|source| source.text).chain(HEADERS.iter().map(|header| header.1)) {
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")) {
                let name = line.split('"').next().expect("split gives one part");
                let host_only = !HEADERS.iter().any(|header| header.0 == name);
                let of_host = ["port_host.h", "port_model.h"].contains(&name);
                assert!(!host_only || of_host, "{name} is not below kernels/include");
            }
        }
    }
}
