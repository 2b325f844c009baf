//! Collectives for the GPUs of one NVLink node, and for threads or processes of the host: the front door of Myelon.
//!
//! | question | answer |
//! |---|---|
//! | how do I sum buffers over ranks? | [`Communicator::all_reduce`] |
//! | what exactly is computed? | [`mod@reference`] |
//! | how do I choose host or GPUs, ranks, a deadline? | [`Builder`], [`Settings`] |
//! | how do I run one process a rank? | [`Communicator::from_env`], [`Builder::join`], [`Process`] |
//! | how do I bring memory of somebody else? | [`Region::device_owned`], [`Communicator::register`] |
//! | how do I record calls and make them again? | [`Stream::capture`], [`Graph`] |
//! | what was launched, and why? | [`Communicator::last_launch`], [`Communicator::explain`] |
//! | which measured tuning is followed? | [`TuningFile`], [`Communicator::table_reason`] |
//! | what can go wrong? | [`Error`] |
//! | what did each rank do last? | [`RecordPlace`], `myelon top`, `myelon doctor` |
//!
//! A program is the same on both backends; the example below runs on GPUs if there are any.
//!
//! ```
//! use myelon_collectives::{Communicator, ReduceOp};
//!
//! let mut ranks = Communicator::builder().ranks(2).build()?;
//! println!("{}: {}", ranks[0].backend(), ranks[0].backend_reason());
//! let mut buffers = Vec::new();
//! for rank in &mut ranks {
//!     let stream = rank.stream().clone();
//!     let mut buffer = rank.buffer::<f32>(1000)?;
//!     buffer.write(&stream, &[1.0 + rank.rank() as f32; 1000])?;
//!     rank.all_reduce_in_place(&mut buffer, ReduceOp::Avg, &stream)?;
//!     buffers.push(buffer);
//! }
//! for (rank, buffer) in ranks.iter().zip(&buffers) {
//!     assert_eq!(buffer.read(rank.stream())?, [1.5; 1000]);
//! }
//! # Ok::<(), myelon_collectives::Error>(())
//! ```

#![forbid(unsafe_code)]

mod backend;
mod builder;
mod call;
mod communicator;
mod cuda;
mod dtype;
mod error;
mod graph;
mod group;
mod host;
mod late;
mod memory;
mod op;
mod record;
pub mod reference;
mod registration;
mod settings;
mod stream;
mod told;
mod tuning_file;

pub use backend::Backend;
pub use builder::{Builder, DEADLINE_DEFAULT};
pub use call::{COUNT_MAX, CallWord};
pub use communicator::{Communicator, Launch};
pub use cuda::cuda_report;
pub use dtype::{DataType, Element};
pub use error::{Error, ErrorKind};
pub use graph::Graph;
pub use memory::{Buffer, Region};
pub use myelon_kernel::{Device, DeviceSpan, DeviceStream, ForeignMemory};
pub use myelon_meet::{Launcher, MeetError, Process, Secret};
pub use myelon_ring::words::WaitingFor;
pub use op::ReduceOp;
pub use record::RecordPlace;
pub use registration::{Registered, Sharing};
pub use settings::{Kernels, Settings};
pub use stream::{Mark, Stream};
pub use tuning_file::TuningFile;
