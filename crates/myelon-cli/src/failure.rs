//! Why the command ends early, and with which exit code.

use std::io;

use myelon_collectives::{Error, ErrorKind};

/// What ends the command.
#[derive(Debug)]
pub enum Failure {
    /// Flags or settings that cannot be; exit code 2.
    Usage(String),
    /// The run failed; exit code 1.
    Run(anyhow::Error),
    /// The ranks that were started have said why; their exit code.
    Told(u8),
}

impl Failure {
    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Run(_) => 1,
            Self::Told(code) => *code,
        }
    }

    /// Whether nobody reads standard output any more, as after `| head`: no reason to complain.
    pub fn is_closed_pipe(&self) -> bool {
        let Self::Run(error) = self else { return false };
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to tell the user of `command`: what happened, and what to do next where that is known.
    pub fn message(&self, command: &str) -> String {
        match self {
            Self::Usage(message) => {
                format!("{message}\n\ntry 'myelon {command} --help'; settings: 'myelon info'")
            }
            Self::Run(error) => {
                let next = error
                    .chain()
                    .find_map(|cause| cause.downcast_ref::<Error>())
                    .and_then(|error| next_step(command, error));
                next.map_or_else(|| format!("{error:#}"), |next| format!("{error:#}\n\n{next}"))
            }
            Self::Told(_) => String::new(),
        }
    }
}

/// What a user of `command` can do about an error.
fn next_step(command: &str, error: &Error) -> Option<&'static str> {
    match error.first().kind() {
        ErrorKind::NoDriver | ErrorKind::NoDevice | ErrorKind::NoPeerAccess if command == "explain" => {
            Some("Use --machine h200 or --machine host, or see 'myelon info' for what was tried.")
        }
        ErrorKind::NoDriver | ErrorKind::NoDevice | ErrorKind::NoPeerAccess => {
            Some("Use --backend host to run without GPUs, or see 'myelon info' for what was tried.")
        }
        ErrorKind::Stalled | ErrorKind::PeerGone => Some(
            "Use 'myelon doctor' to see what every rank did last, --deadline SECONDS for a longer wait, or \
                 MYELON_LOG=debug to see who does what.",
        ),
        ErrorKind::Disagreement => {
            Some("Use 'myelon doctor' to see the last calls of every rank side by side.")
        }
        _ => None,
    }
}

impl From<Error> for Failure {
    /// Settings and arguments are the user's to mend; all else is a failed run.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Settings | ErrorKind::InvalidArgument => Self::Usage(error.to_string()),
            _ => Self::Run(error.into()),
        }
    }
}

impl From<clap::Error> for Failure {
    /// What clap found, without its own word and hint around it: [`Failure::message`] has the hint.
    fn from(error: clap::Error) -> Self {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let end = text.find("\n\nFor more information").unwrap_or(text.len());
        Self::Usage(text[..end].trim_end().to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Run(error.into())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn no_driver() -> Error {
        Error::NoDriver { probe: "libcuda.so.1".into(), reason: "not found".into() }
    }

    #[test]
    fn what_the_user_can_mend_is_usage() {
        let setting = Error::UnknownSetting { name: "MYELON_X".into(), known: "MYELON_LANES".into() };
        assert_eq!(Failure::from(setting).exit_code(), 2);
        assert_eq!(Failure::from(no_driver()).exit_code(), 1);
    }

    #[test]
    fn what_clap_finds_is_usage_with_one_hint() {
        let message =
            Failure::from(Cli::try_parse_from(["myelon", "info", "--x"]).unwrap_err()).message("simulate");
        assert!(message.starts_with("unexpected argument '--x'"), "{message}");
        assert!(message.ends_with("\n\ntry 'myelon simulate --help'; settings: 'myelon info'"), "{message}");
        assert_eq!(message.matches("--help").count(), 1, "{message}");
    }

    #[test]
    fn a_missing_driver_says_what_to_do_next_through_any_context() {
        let failure = Failure::from(Err::<(), _>(no_driver()).context("f32 sum").unwrap_err());
        let message = failure.message("all-reduce");
        assert!(message.contains("libcuda.so.1") && message.contains("f32 sum"), "{message}");
        assert!(message.contains("--backend host"), "{message}");
    }

    #[test]
    fn only_a_closed_pipe_is_silent() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_closed_pipe());
        assert!(!Failure::from(io::Error::from(io::ErrorKind::NotFound)).is_closed_pipe());
        assert!(!Failure::from(no_driver()).is_closed_pipe());
    }
}
