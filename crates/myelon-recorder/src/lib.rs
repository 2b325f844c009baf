//! The flight recorder of the Myelon collectives: what each rank did last, in a page that other programs read.
//!
//! A [`Recorder`] is one rank's page: [counters](Count) and two rings of [`ROWS`] [`Row`]s, of the calls that were
//! made and of those that were begun. It lies in a file that is mapped, in a private [`Folder`], so that
//! `myelon top` and `myelon doctor` see it while the program runs, hangs, or has died; or in plain memory where
//! there is no such folder. Writing one is a few dozen stores and allocates nothing; whoever reads disturbs nobody.
//!
//! | question | answer |
//! |---|---|
//! | how does a rank record? | [`Recorder`] |
//! | where do pages lie? | [`Folder`] |
//! | how is a page read? | [`Folder::pages`], [`Page`] |
//! | whether its process still runs? | [`Life`] |
//! | what is in it, word by word? | [`mod@words`] |
//!
//! The page's layout, its invariants and orderings are in `docs/protocols/recorder.md`. This crate knows no
//! collectives: a call is a number, a word and sizes.
//!
//! # Example
//!
//! ```
//! use myelon_recorder::{About, Folder, Recorder, Row, State};
//!
//! let place = std::env::temp_dir().join(format!("myelon-example-{}", std::process::id()));
//! let folder = Folder::create(&place)?;
//! let recorder = Recorder::in_folder(&folder, &About { communicator: 7, ranks: 2, ..About::default() })?;
//! recorder.made(Row { number: 1, calls: 1, bytes: 4096, ..Row::default() });
//! recorder.start(Row { number: 1, calls: 1, bytes: 4096, ..Row::default() }, false);
//!
//! let pages = folder.pages()?; // as another program would
//! let calls = pages[0].calls();
//! assert_eq!((calls[0].number, calls[0].state()), (1, State::Running));
//! drop(recorder);
//! assert!(folder.pages()?.is_empty());
//! # std::fs::remove_dir(&place)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
mod clock;
mod error;
mod folder;
mod memory;
mod page;
mod process;
mod recorder;
mod sequence;
pub mod words;

pub use clock::now_ns;
pub use error::RecordError;
pub use folder::Folder;
pub use page::Page;
pub use process::Life;
pub use recorder::{About, Recorder, Waits};
pub use words::{Backend, Count, ErrorCode, Failure, Late, ROWS, Row, State};
