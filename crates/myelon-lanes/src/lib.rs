//! The plan of a Myelon collective: how a payload is cut into lanes, chunks and pieces, and how many
//! lanes, slots, blocks and threads a call gets.
//!
//! Numbers in, numbers out: no CUDA, no atomics, no threads, and it knows no other crate of Myelon.
//!
//! | question | answer |
//! |---|---|
//! | which bytes does lane 3 send to owner 1 in round 7? | [`Lanes::piece`] |
//! | what does a communicator allocate? | [`Tuning::pool`] |
//! | what will a call of this size launch, and why? | [`Tuning::plan`] |
//! | what did the user force? | [`Forced`], [`parse_bytes`] |
//! | what was measured to be better than the rule, and where? | [`Table`], [`TableFile`] |
//! | what did the harness and YALI choose? | [`harness`], [`yali`] |
//!
//! All of it is a pure function of its arguments, so that ranks which agree on the arguments agree on
//! the geometry.
//!
//! # Example
//!
//! ```
//! use myelon_lanes::{Machine, Request, Tuning};
//!
//! let tuning = Tuning::new(Machine::h200());
//! let choice = tuning.plan(&Request { ranks: 8, bytes: 56 << 20, element_bytes: 2, floats: true })?;
//! assert_eq!(choice.plan.to_string(), "ring lanes=28 blocks=84 threads=512 slot=6KiB slots=4");
//! assert!(choice.why.to_string().starts_with("automatic"));
//!
//! let lanes = choice.plan.geometry(56 << 20)?;
//! assert_eq!(lanes.lane(0).bytes, 2 << 20);
//! assert_eq!(lanes.rounds(0), 43); // of 8 ranks x 6 KiB
//! assert_eq!(lanes.piece(0, 1, 7).bytes, 6 << 10);
//! # Ok::<(), myelon_lanes::PlanError>(())
//! ```

#![forbid(unsafe_code)]

mod algorithm;
mod error;
mod family;
mod geometry;
mod gpu;
pub mod harness;
mod host;
mod machine;
mod neighbour;
mod plan;
mod settings;
mod table;
mod table_file;
mod tuning;
mod why;
pub mod yali;

pub use algorithm::{Algorithm, Inbox, PACKET_PAYLOAD_BYTES};
pub use error::{Bound, PlanError, SettingError};
pub use geometry::{BYTES_MAX, Lanes, RANKS_MAX, Span, VECTOR_BYTES, split};
pub use machine::Machine;
pub use plan::{Neighbours, Plan, Pool};
pub use settings::{Forced, LANES_MAX, PIECE_BYTES_MAX, Policy, SLOTS_MAX, format_bytes, parse_bytes};
pub use table::{Row, Table};
pub use table_file::{Measured, Origin, TableFile, TableFileError};
pub use tuning::{Choice, RING_BYTES_FORCED_MAX, RING_BYTES_MAX, Request, Tuning};
pub use why::Why;
