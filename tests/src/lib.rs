//! What no single crate can show.

#![deny(unsafe_code)]

pub mod conformance;
pub mod data;
pub mod fake;
pub mod gpus;
pub mod registration;
pub mod tensors;

/// The README, so that its example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
