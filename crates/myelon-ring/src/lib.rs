//! The ring of Myelon: slots that one producer publishes and one consumer gives back, by credit.
//!
//! A ring lies in memory that both ends reach: the heap, a mapped file, a GPU's memory that the host sees.
//! [`RingConfig`] names its parts, [`Producer`] and [`Consumer`] run the protocol over them, and the kernels
//! run the same protocol on the device, over the same [`words`].
//!
//! ```text
//! producer                      consumer's memory                  consumer
//!   claim   <- gating            data[capacity][slot_bytes]          wait    -> sequence reached
//!   write   ------------------>  slot                          ----> read
//!   publish ------------------>  sequence[capacity]                  release -> gating, in the producer's
//! ```
//!
//! * A slot is written only against credit, and read only when published: nothing is lost, torn or lapped.
//! * Sequences and gating only grow, across the wrap of 64 bits too. Nobody resets them, so a ring carries
//!   over from call to call: [`Producer::position`] is where the next one begins.
//! * Every wait ends: see [`wait`].
//!
//! The protocol, its invariants and its two orderings are in `docs/protocols/ring.md`; `tests/loom.rs`
//! explores them and shows that each is needed. This crate knows no CUDA.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use myelon_ring::{ring, wait::Adaptive};
//!
//! let wait = Adaptive { deadline: Duration::from_secs(5) };
//! let (mut producer, consumer) = ring(16, 64, 0)?; // 16 slots of 64 bytes
//! let mut consumer = consumer.with_credit_batch(8)?;
//!
//! let worker = std::thread::spawn(move || -> Result<u64, myelon_ring::RingFault> {
//!     for batch in 0..100 {
//!         let mut slots = producer.claim_many(4, &wait)?; // one look at the gating word, at most
//!         for index in 0..4 {
//!             slots.slot(index).fill(batch);
//!         }
//!         slots.publish();
//!     }
//!     Ok(producer.position())
//! });
//! for batch in 0..100 {
//!     let slots = consumer.wait_many(4, &wait)?; // one word polled
//!     assert!((0..4).all(|index| slots.slot(index) == [batch; 64]));
//!     slots.release();
//! }
//! consumer.flush();
//! assert_eq!(worker.join().unwrap()?, 400);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
mod bytes;
mod config;
mod consumer;
mod error;
mod hint;
mod host;
mod memory;
mod producer;
pub mod wait;
mod window;
pub mod words;

pub use bytes::{AlignedBytes, ForeignBytes};
pub use config::{SlotView, credit_needed, reached};
pub use consumer::{Consumer, SlotRef, SlotsRef};
pub use error::{Counter, RingError, RingFault};
pub use host::{HostWindows, ring};
pub use memory::{RawMemory, RingMemory};
pub use producer::{Producer, SlotMut, SlotsMut};
pub use window::{Inbox, Neighbours, RingsAt, WindowLayout};
pub use words::RingConfig;
