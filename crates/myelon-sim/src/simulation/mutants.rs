//! The ways in which a run can weaken the protocol.

use std::fmt;

use crate::{heritage, port};

/// One weakness, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    of: Of,
    name: &'static str,
    about: &'static str,
}

/// What a mutant weakens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Nothing,
    /// The kernels' text, in which it has this number.
    Kernels(u32),
    /// The host's end, which is Rust.
    Host,
    /// One of the protocols of [`heritage`].
    Heritage,
}

impl Mutant {
    /// The protocol as it is.
    pub const NONE: Self = Self { of: Of::Nothing, name: "none", about: "the protocol as it is" };

    /// The host's end of `fault/record`.
    pub(super) const RECORD_ACQUIRE: Self = Self {
        of: Of::Host,
        name: "fault/record.acquire",
        about: "the host reads the record without acquiring its code",
    };

    /// The host's end of `direct/start`: it launches calls.
    pub(super) const START_EARLY: Self = Self {
        of: Of::Host,
        name: "direct/start.early",
        about: "a call is launched beside the work that writes its input, not behind it",
    };

    /// Every mutant there is: those of `kernels/include/myelon/mutants.cuh`, the host's, and those of
    /// [`heritage`].
    pub fn all() -> Vec<Self> {
        let kernels = (1..).map_while(|number| {
            let (name, about) = port::mutant(number)?;
            Some(Self { of: Of::Kernels(number), name, about })
        });
        // Those of the smallest kernel are run as one of the small protocols.
        let kernels = kernels.filter(|mutant| !mutant.name.starts_with("copies/"));
        let inherited = heritage::mutants().iter();
        let inherited = inherited.map(|&(name, about)| Self { of: Of::Heritage, name, about });
        kernels.chain([Self::RECORD_ACQUIRE, Self::START_EARLY]).chain(inherited).collect()
    }

    /// The mutant of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|mutant| mutant.name == name)
    }

    /// `page/what.how`: the page of docs/protocols, the label or invariant, and its weakness. One of
    /// [`heritage`] is named `protocol/how`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it weakens.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The protocol of [`heritage`] that it weakens, if it is one of those; then it weakens no kernel.
    pub fn protocol(&self) -> Option<&'static str> {
        let protocol = || self.name.split('/').next().expect("there is a first part");
        (self.of == Of::Heritage).then(protocol)
    }

    /// Its number in the kernels' text, or 0.
    pub(super) fn number(&self) -> u32 {
        match self.of {
            Of::Kernels(number) => number,
            _ => 0,
        }
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}
