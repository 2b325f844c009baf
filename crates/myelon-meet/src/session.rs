//! All ranks have met: what they tell each other before they work.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::error::MeetError;
use crate::limit::Limit;
use crate::meeting::refusal;
use crate::watch::{Event, Voice, Watch};
use crate::wire::{BYTES_MAX, FDS_MAX, Kind, Outgoing, Received, Wire};

/// A connection to every peer. Dropping it tells the peers, so that they end at once, too.
#[derive(Debug)]
pub struct Session {
    rank: usize,
    /// `[ranks]`, none at this rank.
    wires: Vec<Option<Wire>>,
    /// `[ranks]`: what becomes readable when the process of a rank ends, where the system has that.
    lives: Vec<Option<OwnedFd>>,
    exchanges: u64,
}

/// What one rank told in an exchange.
#[derive(Debug)]
pub struct Told {
    /// The bytes it gave.
    pub bytes: Vec<u8>,
    /// The file descriptors it gave, as this process's own.
    pub fds: Vec<OwnedFd>,
}

impl Session {
    /// Makes a session of connections to all peers, and tells them by what they see this process end.
    pub(crate) fn begin(rank: usize, wires: Vec<Option<Wire>>, limit: Duration) -> Result<Self, MeetError> {
        let mut session = Self { rank, wires, lives: Vec::new(), exchanges: 0 };
        let own = pidfd_open(getpid(), PidfdFlags::empty());
        if let Err(errno) = &own {
            tracing::debug!(%errno, "peers see the end of this process by its connections only");
        }
        let own: Vec<BorrowedFd<'_>> = own.iter().map(AsFd::as_fd).collect();
        let told = session.exchange(&[], &own, limit)?;
        let life = |(peer, told): (usize, Told)| told.fds.into_iter().next().filter(|_| peer != rank);
        session.lives = told.into_iter().enumerate().map(life).collect();
        Ok(session)
    }

    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.wires.len()
    }

    /// Gives `bytes` and `fds` to all ranks and returns what each gave, in rank order, this one's among them. No rank
    /// returns before all have called, so it is a barrier too.
    ///
    /// | name | shape | unit |
    /// |---|---|---|
    /// | `bytes` | up to 4 MiB, of any length on each rank | bytes |
    /// | `fds` | up to 64, of any number on each rank | file descriptors, which stay the caller's |
    /// | result | `[ranks]` | |
    ///
    /// # Errors
    ///
    /// [`MeetError::Dead`] or [`MeetError::Left`] as soon as a peer is, [`MeetError::Late`] after `limit`,
    /// [`MeetError::Protocol`], or [`MeetError::System`]. The session is of no use then.
    pub fn exchange(
        &mut self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Vec<Told>, MeetError> {
        if bytes.len() > BYTES_MAX || fds.len() > FDS_MAX {
            let seen = format!("{} bytes and {} descriptors", bytes.len(), fds.len());
            let needed = format!("at most {BYTES_MAX} bytes and {FDS_MAX} descriptors");
            return Err(MeetError::setting("an exchange", needed, seen));
        }
        self.exchanges += 1;
        let mut told = Vec::with_capacity(self.wires.len());
        for wire in &self.wires {
            told.push(match wire {
                Some(_) => None,
                None => Some(own(bytes, fds)?),
            });
        }
        let mut outgoing: Vec<_> = self
            .wires
            .iter()
            .map(|wire| wire.as_ref().map(|_| Outgoing::new(Kind::Exchange, bytes, fds)))
            .collect();
        let limit = Limit::new(limit);
        loop {
            let mut waits = Vec::with_capacity(self.wires.len());
            for (peer, wire) in self.wires.iter_mut().enumerate() {
                let Some(wire) = wire else { continue };
                let mut flags = PollFlags::empty();
                if let Some(message) = &mut outgoing[peer] {
                    match message.advance(wire.socket().as_fd()) {
                        Ok(true) => outgoing[peer] = None,
                        Ok(false) => flags |= PollFlags::OUT,
                        // What it said before it went may tell why; that is looked at below.
                        Err(Errno::PIPE | Errno::CONNRESET) if told[peer].is_none() => {}
                        Err(Errno::PIPE | Errno::CONNRESET) => {
                            let reason = "its connection closed without a word".into();
                            return Err(MeetError::Dead { peer, reason, during: during(self.exchanges) });
                        }
                        Err(errno) => {
                            return Err(MeetError::system(format!("to send to rank {peer}"), errno));
                        }
                    }
                }
                if told[peer].is_none() {
                    flags |= PollFlags::IN;
                    told[peer] = part(peer, wire, self.exchanges)?;
                }
                if outgoing[peer].is_some() || told[peer].is_none() {
                    waits.push((peer, flags));
                }
            }
            if waits.is_empty() {
                return Ok(told.into_iter().flatten().collect());
            }
            let wire = |peer: usize| self.wires[peer].as_ref().expect("only peers are waited for");
            let mut fds: Vec<PollFd<'_>> =
                waits.iter().map(|&(peer, flags)| wire(peer).poll_fd(flags)).collect();
            if !limit.poll(&mut fds)? {
                return Err(MeetError::Late {
                    what: format!("exchange {} of rank {}", self.exchanges, self.rank),
                    waited_ms: limit.waited_ms(),
                    missing: waits.into_iter().map(|(peer, _)| peer).collect(),
                    note: String::new(),
                });
            }
        }
    }

    /// What tells the peers something while they are watched.
    pub fn voice(&self) -> Voice {
        Voice::new(self.wires.iter().map(|wire| wire.as_ref().map(|wire| wire.socket().clone())).collect())
    }

    /// Starts a thread that gives to `handler` what the peers say, and their end, as it happens. What `handler` does
    /// must not wait. `voice` is that of this session; it is silent once the watch is dropped.
    ///
    /// # Errors
    ///
    /// [`MeetError::System`] if there is no thread for it.
    pub fn watch(
        mut self,
        voice: Voice,
        handler: impl FnMut(usize, Event<'_>) + Send + 'static,
    ) -> Result<Watch, MeetError> {
        let (wires, lives) = (std::mem::take(&mut self.wires), std::mem::take(&mut self.lives));
        Watch::start(self.rank, wires, lives, voice, handler)
    }
}

impl Drop for Session {
    /// Says that this rank lives and gave up, unless somebody watches from now on.
    fn drop(&mut self) {
        for wire in self.wires.iter().flatten() {
            // One try: who takes no more finds the connection closed.
            let _ = Outgoing::new(Kind::Goodbye, &[], &[]).advance(wire.socket().as_fd());
        }
    }
}

fn own(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Told, MeetError> {
    let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>();
    let fds = fds.map_err(|error| MeetError::system("a copy of a file descriptor", error))?;
    Ok(Told { bytes: bytes.to_vec(), fds })
}

/// The part of `peer` in exchange `number`, if it has come.
fn part(peer: usize, wire: &mut Wire, number: u64) -> Result<Option<Told>, MeetError> {
    let during = during(number);
    match wire.receive() {
        Received::Nothing => Ok(None),
        Received::Closed(reason) => Err(MeetError::Dead { peer, reason, during }),
        Received::Message(message) => match message.kind {
            Kind::Exchange => Ok(Some(Told { bytes: message.bytes, fds: message.fds })),
            Kind::Goodbye => Err(MeetError::Left { peer, during }),
            // Rank 0 lost somebody when all had come, and some were told so already.
            Kind::Refused => Err(refusal(peer, &message.bytes)),
            kind => {
                let (needed, seen) = (format!("its part of exchange {number}"), format!("{kind:?}"));
                Err(MeetError::Protocol { peer, needed, seen })
            }
        },
    }
}

fn during(number: u64) -> String {
    format!("during exchange {number}")
}
