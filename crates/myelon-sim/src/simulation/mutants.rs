//! The ways in which a run can weaken the protocol.

use std::fmt;

use crate::port;

/// One weakness, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    number: u32,
    name: &'static str,
    about: &'static str,
}

impl Mutant {
    /// The protocol as it is.
    pub const NONE: Self = Self { number: 0, name: "none", about: "the protocol as it is" };

    /// The host's end of `fault/record`, which is Rust and not in the kernels' list.
    pub(super) const RECORD_ACQUIRE: Self = Self {
        number: u32::MAX,
        name: "fault/record.acquire",
        about: "the host reads the record without acquiring its code",
    };

    /// Every mutant there is: those of `kernels/include/myelon/mutants.cuh`, and the host's.
    pub fn all() -> Vec<Self> {
        let kernels = (1..).map_while(|number| {
            let (name, about) = port::mutant(number)?;
            Some(Self { number, name, about })
        });
        kernels.chain([Self::RECORD_ACQUIRE]).collect()
    }

    /// The mutant of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|mutant| mutant.name == name)
    }

    /// `page/what.how`: the page of docs/protocols, the label or invariant, and its weakness.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it weakens.
    pub fn about(&self) -> &'static str {
        self.about
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}
