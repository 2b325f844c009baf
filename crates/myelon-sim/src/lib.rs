//! Ring and barrier protocols for GPUs, proved on a laptop: the kernels' own source in a simulated machine.
//!
//! `kernels/src` is compiled three times: for GPUs; for host threads; and against a port whose every access is
//! a decision of a seed. A failure is a seed, and the same seed fails again.
//!
//! | question | answer |
//! |---|---|
//! | does any schedule, any reordering that a GPU may do, or any failing peer break the kernels? | [`simulation`] |
//! | does it break a protocol of mine? | [`model`], and `tests/own_protocol.rs` as an example |
//! | which faults did others have, and would we see them? | [`heritage`] |
//! | are the credit rules right in every interleaving of a small system? | [`credit`] |
//! | how long will a call take with so many lanes and slots? | [`timing`] |
//! | what does the text compute, on plain host threads? | [`HostRanks`], [`layout`], [`kernel_piece`], [`kernel_ring`] |
//!
//! What the model takes a GPU's memory to be, and what it leaves out, stands in
//! `docs/protocols/memory-model.md`. Nothing here reads a clock or the system's randomness.

pub mod credit;
mod ffi;
pub mod heritage;
mod launch;
pub mod model;
mod port;
pub mod simulation;
pub mod timing;

pub use ffi::{
    bf16_from_f32, f16_from_f32, f32_from_f16, kernel_piece, kernel_ring, kernel_ring_to_next, layout,
};
pub use launch::{HostRanks, KernelCall, Operands, Shape};
