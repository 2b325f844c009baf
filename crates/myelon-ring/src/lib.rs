//! The ring of Myelon: see the crate's documentation.
mod error;
mod window;
pub mod words;

pub use error::RingError;
pub use window::WindowLayout;
pub use words::RingConfig;
