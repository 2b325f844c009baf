//! The CUDA backend: ranks are GPUs.

use crate::backend::Opened;
use crate::builder::Config;
use crate::error::Error;

/// The ranks of `config` on GPUs.
pub(crate) fn open(_config: &Config) -> Result<Opened, Error> {
    Err(Error::NoDriver {
        probe: "the CUDA backend".into(),
        reason: "this build of myelon-collectives has none".into(),
    })
}
