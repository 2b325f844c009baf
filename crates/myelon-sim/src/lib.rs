//! The kernels' own source on the host.
//!
//! `kernels/src` is compiled twice: for GPUs, and here against `kernels/host/port_host.h`, where one OS
//! thread stands for one GPU thread. So a test on a laptop runs the text that the GPU runs: its geometry,
//! its ring protocol, its waits and its arithmetic. What it cannot show is ordering, because the CPU below
//! is stronger than the GPU's memory model.
//!
//! * [`HostRanks`] holds the windows of all ranks in heap memory and launches a kernel on every rank.
//! * [`layout`] is what the C++ side takes the shared words to be, and [`kernel_piece`], [`kernel_ring`]
//!   what it takes the geometry to be.

pub mod credit;
mod ffi;
pub mod heritage;
mod launch;
pub mod model;
mod port;
pub mod simulation;
pub mod timing;

pub use ffi::{bf16_from_f32, f16_from_f32, f32_from_f16, kernel_piece, kernel_ring, layout};
pub use launch::{HostRanks, KernelCall, Operands, Shape};
