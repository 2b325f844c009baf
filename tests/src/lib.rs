//! What no single crate can show.

#![deny(unsafe_code)]

pub mod conformance;
pub mod data;
pub mod gpus;
