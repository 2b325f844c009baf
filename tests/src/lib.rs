//! What no single crate can show.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod data;
