//! The settings of the environment.

use std::time::Duration;

use myelon_lanes::{Forced, Policy};

use crate::backend::Backend;
use crate::error::Error;
use crate::record::RecordPlace;
use crate::tuning_file::TuningFile;

/// What every name of the environment that starts with this must be known to [`Settings`].
const PREFIX: &str = "MYELON_";

/// Where the kernels of the CUDA backend come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// Those compiled ahead of time where there are any for the device, else compiled at run time.
    #[default]
    Auto,
    /// Only those compiled ahead of time.
    Aot,
    /// Only those compiled at run time, by NVRTC.
    Nvrtc,
}

/// The settings of the environment, read once; what is not set is `None`, or nothing forced.
///
/// | name | value | for |
/// |---|---|---|
/// | `MYELON_BACKEND` | `auto`, `host`, `cuda` | [`crate::Builder::backend`] |
/// | `MYELON_RANKS` | `2..=8` | [`crate::Builder::ranks`] |
/// | `MYELON_ALGO`, `MYELON_LANES`, `MYELON_SLOT_BYTES`, `MYELON_SLOTS`, `MYELON_BLOCKS`, `MYELON_MAX_BLOCKS` | as [`Forced::set`] reads them | [`crate::Builder::forced`] |
/// | `MYELON_POLICY` | a [`Policy`] | [`crate::Builder::policy`] |
/// | `MYELON_BUFFERS` | `any`, `windows` | [`crate::Builder::windows`] |
/// | `MYELON_ORDER` | `ranks`, `any` | [`crate::Builder::any_order`] |
/// | `MYELON_TUNING` | a file, or `none`; not set means [`TuningFile::Usual`] to [`Settings::from_env`] | [`crate::Builder::tuning_file`] |
/// | `MYELON_RECORD` | a folder, or `none` | [`crate::Builder::record`] |
/// | `MYELON_DEADLINE_MS` | milliseconds, at least 1 | [`crate::Builder::deadline`] |
/// | `MYELON_KERNELS` | `auto`, `aot`, `nvrtc` | the CUDA backend |
/// | `MYELON_CACHE_DIR` | a directory | the CUDA backend: kernels compiled at run time |
/// | `MYELON_RANK`, `MYELON_MEETING`, `MYELON_SECRET`, `MYELON_MEETING_MS` | as [`crate::Process`] reads them | [`crate::Communicator::from_env`]; not read here |
/// | `MYELON_NVCC`, `MYELON_LOG`, `MYELON_BENCH_SMOKE` | anything | builds, the command, benches; not read here |
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Settings};
///
/// let settings = Settings::parse([("MYELON_BACKEND", "host"), ("MYELON_LANES", "2"), ("HOME", "/")])?;
/// assert_eq!(settings.backend, Some(Backend::Host));
/// assert_eq!(settings.forced.lanes, Some(2));
/// assert_eq!(settings.ranks, None);
/// let error = Settings::parse([("MYELON_LANE", "2")]).unwrap_err();
/// assert!(error.to_string().starts_with("unknown setting MYELON_LANE; known: MYELON_BACKEND, "));
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which backend.
    pub backend: Option<Backend>,
    /// Number of ranks.
    pub ranks: Option<usize>,
    /// Numbers of the plan that are forced.
    pub forced: Forced,
    /// Where the other numbers come from.
    pub policy: Option<Policy>,
    /// How long a wait may take.
    pub deadline: Option<Duration>,
    /// Where kernels come from.
    pub kernels: Kernels,
    /// Whether every buffer of every call is a window.
    pub windows: Option<bool>,
    /// Whether sums may be in an order that depends on the plan.
    pub any_order: Option<bool>,
    /// Which tuning file is followed.
    pub tuning: Option<TuningFile>,
    /// Where calls are recorded.
    pub record: Option<RecordPlace>,
}

impl Settings {
    /// Every name that is known. The last three are for builds, the command and benches.
    pub const NAMES: [&'static str; 23] = [
        "MYELON_BACKEND",
        "MYELON_RANKS",
        "MYELON_ALGO",
        "MYELON_LANES",
        "MYELON_SLOT_BYTES",
        "MYELON_SLOTS",
        "MYELON_BLOCKS",
        "MYELON_MAX_BLOCKS",
        "MYELON_BUFFERS",
        "MYELON_ORDER",
        "MYELON_POLICY",
        "MYELON_TUNING",
        "MYELON_RECORD",
        "MYELON_DEADLINE_MS",
        "MYELON_KERNELS",
        "MYELON_CACHE_DIR",
        "MYELON_RANK",
        "MYELON_MEETING",
        "MYELON_SECRET",
        "MYELON_MEETING_MS",
        "MYELON_NVCC",
        "MYELON_LOG",
        "MYELON_BENCH_SMOKE",
    ];

    /// The settings of this process's environment; where it names no tuning file, the usual one.
    ///
    /// # Errors
    ///
    /// As [`Settings::parse`]; text that is no Unicode means nothing.
    pub fn from_env() -> Result<Self, Error> {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let mut settings = Self::parse(std::env::vars_os().map(|(name, value)| (text(name), text(value))))?;
        settings.tuning.get_or_insert(TuningFile::Usual);
        Ok(settings)
    }

    /// Reads (name, value) pairs and passes over names that do not start with `MYELON_`.
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::Settings`]: a name that is not known, with the list of those that are, or a
    /// value that means nothing, with what is needed. Bounds of forced numbers are checked with the plan.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Error> {
        let mut settings = Self::default();
        for (name, value) in pairs {
            if let Some(short) = name.as_ref().strip_prefix(PREFIX) {
                settings.set(short, value.as_ref())?;
            }
        }
        Ok(settings)
    }

    fn set(&mut self, short: &str, text: &str) -> Result<(), Error> {
        let refuse = |needed: &str| Error::Setting {
            name: format!("{PREFIX}{short}"),
            needed: needed.into(),
            seen: text.into(),
        };
        match short {
            "BACKEND" => {
                self.backend = Some(text.parse().map_err(|_| refuse("one of auto, host, cuda"))?);
            }
            "RANKS" => {
                let ranks = text.parse().ok().filter(|ranks| (2..=8).contains(ranks));
                self.ranks = Some(ranks.ok_or_else(|| refuse("a number from 2 to 8"))?);
            }
            "ALGO" => {
                let algorithm = text.parse().map_err(|_| {
                    refuse("one of one-shot, two-shot, one-shot-lamport, two-shot-lamport, direct, ring, neighbour")
                })?;
                self.forced.algorithm = Some(algorithm);
            }
            "BUFFERS" => {
                self.windows = match text {
                    "any" => Some(false),
                    "windows" => Some(true),
                    _ => return Err(refuse("one of any, windows")),
                };
            }
            "ORDER" => {
                self.any_order = match text {
                    "ranks" => Some(false),
                    "any" => Some(true),
                    _ => return Err(refuse("one of ranks, any")),
                };
            }
            "LANES" | "SLOT_BYTES" | "SLOTS" | "BLOCKS" | "MAX_BLOCKS" => {
                self.forced.set(short, text).map_err(|error| refuse(&format!("a number ({error})")))?;
            }
            "POLICY" => {
                self.policy = Some(text.parse().map_err(|_| refuse("one of auto, harness, yali"))?);
            }
            "TUNING" => {
                self.tuning = match text {
                    "" => return Err(refuse("a file, or none")),
                    "none" => Some(TuningFile::None),
                    path => Some(path.into()),
                };
            }
            "RECORD" => {
                self.record = match text {
                    "" => return Err(refuse("a folder, or none")),
                    "none" => Some(RecordPlace::None),
                    path => Some(path.into()),
                };
            }
            "DEADLINE_MS" => {
                let ms = text.parse().ok().filter(|&ms: &u64| ms > 0);
                let ms = ms.ok_or_else(|| refuse("a whole number of milliseconds, at least 1"))?;
                self.deadline = Some(Duration::from_millis(ms));
            }
            "KERNELS" => {
                self.kernels = match text {
                    "auto" => Kernels::Auto,
                    "aot" => Kernels::Aot,
                    "nvrtc" => Kernels::Nvrtc,
                    _ => return Err(refuse("one of auto, aot, nvrtc")),
                };
            }
            "CACHE_DIR" if text.is_empty() => return Err(refuse("a directory")),
            "CACHE_DIR" | "NVCC" | "LOG" | "BENCH_SMOKE" => {}
            "RANK" | "MEETING" | "SECRET" | "MEETING_MS" => {}
            _ => {
                let name = format!("{PREFIX}{short}");
                return Err(Error::UnknownSetting { name, known: Self::NAMES.join(", ") });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use myelon_lanes::Algorithm;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_name_that_is_listed_is_read() {
        let values = [
            "cuda",
            "3",
            "two-shot",
            "4",
            "16K",
            "8",
            "12",
            "30",
            "windows",
            "any",
            "yali",
            "/tmp/tuning.txt",
            "/run/records",
            "250",
            "nvrtc",
            "/tmp/kernels",
            "1",
            "job-7",
            "secret",
            "5000",
            "/bin/nvcc",
            "debug",
            "1",
        ];
        let settings = Settings::parse(Settings::NAMES.into_iter().zip(values)).unwrap();
        let forced =
            Forced { lanes: Some(4), piece_bytes: Some(16 << 10), slots: Some(8), ..Forced::default() };
        let expected = Settings {
            backend: Some(Backend::Cuda),
            ranks: Some(3),
            forced: Forced {
                algorithm: Some(Algorithm::TwoShot),
                blocks: Some(12),
                blocks_max: Some(30),
                ..forced
            },
            policy: Some(Policy::Yali),
            deadline: Some(Duration::from_millis(250)),
            kernels: Kernels::Nvrtc,
            windows: Some(true),
            any_order: Some(true),
            tuning: Some("/tmp/tuning.txt".into()),
            record: Some("/run/records".into()),
        };
        assert_eq!(settings, expected);
        let none = Settings::parse([("MYELON_TUNING", "none")]).unwrap();
        assert_eq!(none.tuning, Some(TuningFile::None));
        let none = Settings::parse([("MYELON_RECORD", "none")]).unwrap();
        assert_eq!(none.record, Some(RecordPlace::None));
    }

    #[test]
    fn other_names_are_passed_over() {
        let settings = Settings::parse([("PATH", "x"), ("myelon_ranks", "x"), ("MY_MYELON_X", "x")]);
        assert_eq!(settings, Ok(Settings::default()));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_are_known() {
        for name in ["MYELON_", "MYELON_RANKED", "MYELON_LANES ", "MYELON_THREADS"] {
            let error = Settings::parse([(name, "2")]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings);
            let text = error.to_string();
            assert!(
                text.contains(name) && Settings::NAMES.iter().all(|known| text.contains(known)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_malformed_value_is_refused_and_named() {
        for (name, seen) in [
            ("MYELON_BACKEND", "gpu"),
            ("MYELON_BACKEND", ""),
            ("MYELON_RANKS", "1"),
            ("MYELON_RANKS", "9"),
            ("MYELON_RANKS", "two"),
            ("MYELON_LANES", "-1"),
            ("MYELON_SLOT_BYTES", "16KB"),
            ("MYELON_SLOTS", "many"),
            ("MYELON_BLOCKS", "3.5"),
            ("MYELON_MAX_BLOCKS", "few"),
            ("MYELON_ALGO", "tree"),
            ("MYELON_BUFFERS", "own"),
            ("MYELON_POLICY", "fast"),
            ("MYELON_TUNING", ""),
            ("MYELON_RECORD", ""),
            ("MYELON_DEADLINE_MS", "0"),
            ("MYELON_DEADLINE_MS", "1s"),
            ("MYELON_KERNELS", "ptx"),
            ("MYELON_CACHE_DIR", ""),
        ] {
            let error = Settings::parse([(name, seen)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings);
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(&format!("saw \"{seen}\"")), "{text}");
        }
    }
}
