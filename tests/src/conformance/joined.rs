//! The same ranks in another way: as processes have them, each with its own end of everything.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use myelon_collectives::{Builder, Communicator, Error, Process};

static JOINED: AtomicBool = AtomicBool::new(false);

/// From now on every rank of the suite joins by itself, as a process would: over sockets, with windows that it maps
/// and a thread that watches its peers. Nothing else changes, so the suite holds one to the other.
pub fn join_from_now_on() {
    // ORDER: Relaxed is enough. It is said before any test starts.
    JOINED.store(true, Ordering::Relaxed);
}

/// The ranks of `test` join so, and those of later tests do not. For tests that run one at a time.
pub(super) fn join_in(test: impl FnOnce()) {
    /// However the test ends.
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            // ORDER: Relaxed is enough. Tests run one at a time.
            JOINED.store(false, Ordering::Relaxed);
        }
    }
    let _until = Until;
    join_from_now_on();
    test();
}

/// The ranks that `builder` makes.
pub(super) fn open(builder: Builder) -> Result<Vec<Communicator>, Error> {
    let ranks = builder.clone().build()?;
    // ORDER: Relaxed is enough, as above.
    if !JOINED.load(Ordering::Relaxed) {
        return Ok(ranks);
    }
    // Each process names its own GPU.
    let builders = ranks.iter().map(|rank| match rank.device() {
        Some(device) => builder.clone().devices(vec![device.ordinal()]),
        None => builder.clone(),
    });
    let builders = builders.collect();
    drop(ranks);
    join(builders)
}

/// The ranks of one communicator, each made by a builder of its own as a process would.
///
/// # Errors
///
/// The first rank's that has one.
pub fn join(builders: Vec<Builder>) -> Result<Vec<Communicator>, Error> {
    static MEETINGS: AtomicUsize = AtomicUsize::new(0);
    let ranks = builders.len();
    // ORDER: Relaxed is enough. Only the number counts.
    let number = MEETINGS.fetch_add(1, Ordering::Relaxed);
    let meeting = format!("conformance-{}-{number}", std::process::id());
    thread::scope(|scope| {
        let join = |(rank, builder): (usize, Builder)| {
            let process = Process::new(rank, ranks, meeting.clone());
            scope.spawn(move || builder.join(&process))
        };
        let joining: Vec<_> = builders.into_iter().enumerate().map(join).collect();
        joining.into_iter().map(|rank| rank.join().expect("joining does not panic")).collect()
    })
}

/// Waits until what happened to one rank is known to all: among processes that is a message, which takes its time.
pub(super) fn word_travels() {
    // ORDER: Relaxed is enough, as above.
    if JOINED.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(300));
    }
}
