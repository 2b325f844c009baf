//! Where ranks that are processes meet: who is which rank, a rendezvous, memory that all of them map, and who is
//! still alive.
//!
//! ```text
//! Process   rank, ranks and meeting, from a launcher's environment or by hand
//!    | join       a Unix stream socket in a private folder; rank 0 listens, checks, and joins all to all
//! Session   a connection to every peer: exchange(bytes, descriptors)
//!    | watch      one thread, which sees a closed connection at once
//! Watch     notes and goodbyes of the peers, and their death
//! ```
//!
//! The messages, what is checked and what is guarded against stand in `docs/protocols/meeting.md`. This crate knows
//! no collective and no CUDA: what a backend shares, bytes or file descriptors, goes through [`Session::exchange`].
//! [`share_windows`] does so for the windows of host ranks.
//!
//! # Example
//!
//! Two threads stand for two processes here.
//!
//! ```
//! use std::time::Duration;
//! use myelon_meet::{Process, Secret, Session};
//!
//! let name = format!("example-{}", std::process::id());
//! let secret = Secret::random()?;
//! let join = |rank| {
//!     let process = Process::new(rank, 2, name.clone()).with_secret(secret.clone());
//!     let mut session = process.join(&[("words", "the same on all ranks".into())])?;
//!     let told = session.exchange(&[rank as u8], &[], Duration::from_secs(5))?;
//!     Ok::<_, myelon_meet::MeetError>(told.into_iter().map(|told| told.bytes[0]).collect::<Vec<_>>())
//! };
//! std::thread::scope(|scope| {
//!     let other = scope.spawn(|| join(1));
//!     assert_eq!(join(0)?, [0, 1]);
//!     assert_eq!(other.join().unwrap()?, [0, 1]);
//!     Ok::<_, myelon_meet::MeetError>(())
//! })?;
//! # Ok::<(), myelon_meet::MeetError>(())
//! ```

mod error;
mod folder;
mod launcher;
mod limit;
mod mapping;
mod meeting;
mod parent;
mod process;
mod secret;
mod session;
mod watch;
mod windows;
mod wire;

pub use error::MeetError;
pub use launcher::Launcher;
pub use mapping::Mapping;
pub use parent::die_with_parent;
pub use process::{MEETING_LIMIT_DEFAULT, Process};
pub use secret::Secret;
pub use session::{Session, Told};
pub use watch::{Event, Voice, Watch};
pub use windows::share_windows;
