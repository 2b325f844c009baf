//! Who is still there: one thread that sees what peers say, and the end of their connections.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::net::Shutdown;

use crate::error::MeetError;
use crate::limit::poll;
use crate::wire::{BYTES_MAX, FDS_MAX, Kind, Outgoing, Received, Wire};

/// What happened to a peer.
#[derive(Debug)]
pub enum Event<'a> {
    /// It said something, by [`Voice::tell`] or [`Voice::tell_one`].
    Note {
        /// What it said.
        bytes: &'a [u8],
        /// The file descriptors it gave, as this process's own.
        fds: Vec<OwnedFd>,
    },
    /// It said its last word, by [`Voice::goodbye`]. Nothing follows.
    Goodbye(&'a [u8]),
    /// Its connection ended without a goodbye, and how: its process is dead. Nothing follows.
    Dead(&'a str),
}

/// Tells peers something. It never waits: a peer whose socket takes no more, after hundreds of kilobytes that it
/// did not read, is cut off, and then this process is dead to it.
#[derive(Clone, Debug)]
pub struct Voice {
    /// `[ranks]`, none at this rank, where a peer was cut off, and when the watch is over.
    sockets: Arc<Mutex<Vec<Option<Arc<OwnedFd>>>>>,
}

impl Voice {
    pub(crate) fn new(sockets: Vec<Option<Arc<OwnedFd>>>) -> Self {
        Self { sockets: Arc::new(Mutex::new(sockets)) }
    }

    /// Tells all peers `bytes`, of which there are at most 4 MiB, and gives them `fds`, at most 64, which stay the
    /// caller's.
    pub fn tell(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send(Kind::Note, bytes, fds, |_| true);
    }

    /// Tells `peer` alone.
    pub fn tell_one(&self, peer: usize, bytes: &[u8]) {
        self.send(Kind::Note, bytes, &[], |other| other == peer);
    }

    /// Tells all peers a last word; what happens to this process then is no death to them. Later words are not sent.
    pub fn goodbye(&self, bytes: &[u8]) {
        self.send(Kind::Goodbye, bytes, &[], |_| true);
        self.close();
    }

    fn send(&self, kind: Kind, bytes: &[u8], fds: &[BorrowedFd<'_>], to: impl Fn(usize) -> bool) {
        debug_assert!(bytes.len() <= BYTES_MAX && fds.len() <= FDS_MAX);
        // Held while it is sent, so that messages of two threads do not mix.
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, place) in sockets.iter_mut().enumerate().filter(|(peer, _)| to(*peer)) {
            let Some(socket) = place else { continue };
            if !matches!(Outgoing::new(kind, bytes, fds).advance(socket.as_fd()), Ok(true)) {
                let _ = rustix::net::shutdown(&**socket, Shutdown::Write);
                *place = None;
            }
        }
    }

    fn close(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Peers are watched as long as this lives. Dropping it ends the thread and closes the connections; who has said no
/// goodbye before is dead to its peers.
#[derive(Debug)]
pub struct Watch {
    wake: Arc<OwnedFd>,
    voice: Voice,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(
        rank: usize,
        mut wires: Vec<Option<Wire>>,
        lives: Vec<Option<OwnedFd>>,
        voice: Voice,
        mut handler: impl FnMut(usize, Event<'_>) + Send + 'static,
    ) -> Result<Self, MeetError> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| MeetError::system("an eventfd", errno))?;
        let wake = Arc::new(wake);
        let (woken, spoken) = (wake.clone(), Spoken(voice.clone()));
        let work = move || {
            let _spoken = spoken;
            while wires.iter().any(Option::is_some) {
                // Before it is heard, so that its last words are.
                let ended: Vec<bool> =
                    lives.iter().map(|life| life.as_ref().is_some_and(has_ended)).collect();
                for (peer, place) in wires.iter_mut().enumerate() {
                    hear(peer, place, ended[peer], &mut handler);
                }
                let mut fds = vec![PollFd::new(&*woken, PollFlags::IN)];
                for (wire, life) in wires.iter().zip(&lives) {
                    if let Some(wire) = wire {
                        fds.push(wire.poll_fd(PollFlags::IN));
                        fds.extend(life.as_ref().map(|life| PollFd::new(life, PollFlags::IN)));
                    }
                }
                if let Err(error) = poll(&mut fds, None) {
                    tracing::error!(%error, "peers can't be watched any more");
                    return;
                }
                if !fds[0].revents().is_empty() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("myelon watch {rank}")).spawn(work);
        let thread = thread.map_err(|error| MeetError::system("a thread that watches peers", error))?;
        Ok(Self { wake, voice, thread: Some(thread) })
    }
}

/// A thread that hears nobody any more, because its handler panicked, speaks for nobody either: this process is then dead
/// to its peers, and they wait for it no longer.
struct Spoken(Voice);

impl Drop for Spoken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

/// Whether the process that `life` stands for has ended. Its connections close then, too, unless it has forked: its
/// children hold them open.
fn has_ended(life: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(life, PollFlags::IN)], Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
}

/// Hands on what `peer` has said, and its end.
fn hear(peer: usize, place: &mut Option<Wire>, ended: bool, handler: &mut impl FnMut(usize, Event<'_>)) {
    while let Some(wire) = place {
        let end = match wire.receive() {
            Received::Message(message) => match message.kind {
                Kind::Note => {
                    handler(peer, Event::Note { bytes: &message.bytes, fds: message.fds });
                    continue;
                }
                Kind::Goodbye => {
                    *place = None;
                    return handler(peer, Event::Goodbye(&message.bytes));
                }
                kind => format!("it sent {kind:?} out of turn"),
            },
            Received::Closed(reason) => reason,
            Received::Nothing if ended => "its process ended, and its children hold its connections".into(),
            Received::Nothing => return,
        };
        *place = None;
        handler(peer, Event::Dead(&end));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.voice.close();
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        let Some(thread) = self.thread.take() else { return };
        // The handler may be what drops it. It never waits, so neither does this.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread that watched peers panicked");
        }
    }
}
