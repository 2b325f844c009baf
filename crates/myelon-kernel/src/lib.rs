//! Everything between Rust and the CUDA driver: which GPUs there are, memory that peers can see, streams
//! and events, and the kernels, compiled, loaded and launched.
//!
//! Data flows one way: [`probe`] says what is there, [`Device::open`] holds a GPU, [`DeviceMemory`] gives a
//! window that the peers may write, [`Kernels::load`] brings the code, and [`Kernel::launch`] queues one
//! kernel with its `AllReduceArgs` on a [`DeviceStream`]; whatever the kernel has to complain about comes
//! back through a [`FaultPage`]. [`RankRings`] puts these together, so that a launch is safe.
//!
//! # Without a GPU
//!
//! This crate builds with no CUDA at all and finds the driver when it is first asked. Without one, every
//! entry is [`KernelError::NoDriver`], which names what was tried; nothing panics.
//!
//! ```
//! use myelon_kernel::{Device, KernelError};
//!
//! match Device::open(0) {
//!     Ok(device) => println!("{device:?} has {} bytes", device.info().memory_bytes),
//!     Err(KernelError::NoDriver { tried }) => println!("no driver among {tried}"),
//!     Err(other) => println!("{other}"),
//! }
//! ```
//!
//! # Where the kernels come from
//!
//! A build that finds nvcc (`MYELON_NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`; `MYELON_NVCC=none` to do
//! without) embeds images for sm_80, sm_90 and sm_100 and PTX for what comes later. Every build embeds the
//! sources too, which NVRTC compiles at run time where there is no image or the driver refuses it; results
//! are kept in `MYELON_CACHE_DIR`, else `XDG_CACHE_HOME/myelon`, else `~/.cache/myelon`.
//! `MYELON_KERNELS=auto|aot|nvrtc` forces the way: see [`ImageChoice`]. NVRTC is looked for by name, then
//! in `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda`.
//!
//! # Guarantees
//!
//! * The current device of the caller is as before after every call.
//! * Nothing waits for the GPU except what is named `synchronize`, the copies of [`DeviceMemory`], and what
//!   the driver does when memory is pinned, mapped or given back.
//! * All code is on the GPU before the first launch.

mod cache;
mod device;
mod driver;
mod error;
mod fault;
mod foreign;
mod graph;
mod group;
mod image;
mod kernel;
mod memory;
mod module;
mod node;
mod nvrtc;
mod operand;
mod owners;
mod peer;
mod rings;
mod shared;
mod stream;

pub use device::{Device, Location};
pub use error::KernelError;
pub use fault::FaultPage;
pub use foreign::{Exported, ForeignMemory, Handles};
pub use graph::{Capture, DeviceGraph, leave_captures_alone};
pub use group::LoneRank;
pub use image::{AOT, DTYPES, Image, ImageChoice, OPS, sources_hash};
pub use kernel::{Kernel, Kernels, LaunchShape, Launching};
pub use memory::{DeviceMemory, DeviceSpan, PAGE_BYTES};
pub use node::{DeviceInfo, Node, PeerLink, probe};
pub use operand::Operand;
pub use owners::drop_aside;
pub use peer::PeerMemory;
pub use rings::{Launched, RankRings, RingCall};
pub use shared::{ReachedAt, SharedMemory, StreamUse, reap};
pub use stream::{DeviceEvent, DeviceStream};
