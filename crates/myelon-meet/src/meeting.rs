//! The rendezvous: rank 0 listens, the others come, and when all are there each is joined to each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use crate::error::MeetError;
use crate::folder::{Folder, Listener, check_user};
use crate::limit::Limit;
use crate::process::Process;
use crate::secret::Secret;
use crate::session::Session;
use crate::wire::{Kind, Message, Received, Wire, pair};

/// Connections that have not said yet who they are.
const STRANGERS_MAX: usize = 32;
/// How long rank 0 tries to tell somebody why it refuses.
const REFUSAL: std::time::Duration = std::time::Duration::from_millis(100);

/// What a rank that wants to join says.
#[derive(Serialize, Deserialize)]
struct Hello {
    rank: usize,
    secret: Option<String>,
    /// Names, and what must be the same on all ranks.
    facts: Vec<(String, String)>,
}

impl Hello {
    fn of(process: &Process, facts: &[(&str, String)]) -> Self {
        let own = [
            ("library version", env!("CARGO_PKG_VERSION").to_string()),
            ("number of ranks", process.ranks().to_string()),
        ];
        let facts = own.iter().chain(facts).map(|(name, value)| (name.to_string(), value.clone()));
        let secret = process.secret().map(Secret::reveal);
        Self { rank: process.rank(), secret, facts: facts.collect() }
    }

    fn has_secret(&self, secret: Option<&Secret>) -> bool {
        match (&self.secret, secret) {
            (None, None) => true,
            (Some(seen), Some(secret)) => seen.parse::<Secret>().is_ok_and(|seen| seen == *secret),
            _ => false,
        }
    }

    /// The first fact in which `peer` differs.
    fn compare(&self, peer: &Self) -> Result<(), MeetError> {
        const NOTHING: &str = "nothing";
        let names = self.facts.iter().chain(&peer.facts).map(|(name, _)| name);
        for name in names {
            let of = |hello: &Self| {
                let fact = hello.facts.iter().find(|(seen, _)| seen == name);
                fact.map_or(NOTHING.to_string(), |(_, value)| value.clone())
            };
            let (needed, seen) = (of(self), of(peer));
            if needed != seen {
                return Err(MeetError::Disagreement { what: name.clone(), rank: peer.rank, needed, seen });
            }
        }
        Ok(())
    }
}

/// Meets the other ranks of `process`.
pub(crate) fn join(process: &Process, facts: &[(&str, String)]) -> Result<Session, MeetError> {
    let limit = Limit::new(process.limit());
    let hello = Hello::of(process, facts);
    let wires = if process.rank() == 0 {
        Host::new(process, hello, limit)?.meet()?
    } else {
        come(process, &hello, &limit)?
    };
    // Where all are alive this takes no time, so who came late is not refused for it.
    let left = limit.left().unwrap_or_default().max(REFUSAL);
    let session = Session::begin(process.rank(), wires, left)?;
    tracing::debug!(
        rank = process.rank(),
        ranks = process.ranks(),
        waited_ms = limit.waited_ms(),
        "all ranks have met"
    );
    Ok(session)
}

fn named(process: &Process) -> String {
    format!("the meeting \"{}\" in {}", process.meeting(), process.folder().display())
}

/// Rank 0 while the others come.
struct Host<'a> {
    process: &'a Process,
    hello: Hello,
    limit: Limit,
    listener: Listener,
    /// Those who have not said who they are.
    strangers: Vec<Wire>,
    /// `[ranks]`: those who have come; none at 0.
    come: Vec<Option<Wire>>,
    /// Why somebody was refused last, for the error of a meeting that is not complete.
    refused: Option<MeetError>,
}

impl<'a> Host<'a> {
    fn new(process: &'a Process, hello: Hello, limit: Limit) -> Result<Self, MeetError> {
        let late = || MeetError::Late {
            what: named(process),
            waited_ms: limit.waited_ms(),
            missing: (1..process.ranks()).collect(),
            note: "; its folder was in use all the time".into(),
        };
        let listener = Listener::open(&process.folder(), &limit)?.ok_or_else(late)?;
        let come = (0..process.ranks()).map(|_| None).collect();
        Ok(Self { process, hello, limit, listener, strangers: Vec::new(), come, refused: None })
    }

    fn meet(mut self) -> Result<Vec<Option<Wire>>, MeetError> {
        let result = self.gather();
        let Self { listener, mut come, strangers, .. } = self;
        // Before anybody goes on: the next meeting may have the same name.
        drop(listener);
        drop(strangers);
        match result.and_then(|()| introduce(&mut come, &self.limit)) {
            Ok(()) => Ok(come),
            Err(error) => {
                come.iter().flatten().for_each(|wire| refuse(wire, &error));
                Err(error)
            }
        }
    }

    fn missing(&self) -> Vec<usize> {
        (1..self.come.len()).filter(|&rank| self.come[rank].is_none()).collect()
    }

    /// Waits until everybody has come.
    fn gather(&mut self) -> Result<(), MeetError> {
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            let mut fds = vec![PollFd::new(self.listener.socket(), PollFlags::IN)];
            let wires = self.strangers.iter().chain(self.come.iter().flatten());
            fds.extend(wires.map(|wire| wire.poll_fd(PollFlags::IN)));
            if !self.limit.poll(&mut fds)? {
                return Err(MeetError::Late {
                    what: named(self.process),
                    waited_ms: self.limit.waited_ms(),
                    missing,
                    note: self
                        .refused
                        .as_ref()
                        .map_or(String::new(), |why| format!("; refused before: {why}")),
                });
            }
            while let Some(socket) = self.listener.accept()? {
                match check_user(&socket) {
                    Ok(()) if self.strangers.len() == STRANGERS_MAX => drop(self.strangers.remove(0)),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection to a meeting is refused");
                        self.refused = Some(error);
                        continue;
                    }
                }
                self.strangers.push(Wire::new(socket));
            }
            for mut wire in std::mem::take(&mut self.strangers) {
                match wire.receive() {
                    Received::Nothing => self.strangers.push(wire),
                    Received::Closed(_) => {}
                    Received::Message(message) => self.admit(wire, &message)?,
                }
            }
            self.forget_gone();
        }
    }

    /// Who is gone before all have met has its place free again, for itself or for its successor.
    fn forget_gone(&mut self) {
        for wire in &mut self.come {
            if let Some(Received::Closed(_)) = wire.as_mut().map(Wire::receive) {
                *wire = None;
            }
        }
    }

    /// Lets somebody in, or refuses only it, or, where members disagree, ends the meeting.
    fn admit(&mut self, wire: Wire, message: &Message) -> Result<(), MeetError> {
        let hello = (message.kind == Kind::Hello && message.fds.is_empty())
            .then(|| serde_json::from_slice::<Hello>(&message.bytes).ok())
            .flatten();
        // Whatever it is, it is none of ours.
        let Some(hello) = hello else { return Ok(()) };
        let rank = hello.rank;
        if !hello.has_secret(self.process.secret()) {
            self.turn_away(&wire, MeetError::Secret { rank });
            return Ok(());
        }
        if let Err(error) = self.hello.compare(&hello) {
            refuse(&wire, &error);
            return Err(error);
        }
        self.forget_gone();
        match self.come.get_mut(rank) {
            Some(place @ None) if rank != 0 => *place = Some(wire),
            _ => self.turn_away(&wire, MeetError::Taken { rank }),
        }
        Ok(())
    }

    fn turn_away(&mut self, wire: &Wire, error: MeetError) {
        tracing::warn!(%error, "a process is refused at a meeting");
        refuse(wire, &error);
        self.refused = Some(error);
    }
}

/// Tells why, as far as that goes at once.
fn refuse(wire: &Wire, error: &MeetError) {
    let text = serde_json::to_vec(error).expect("an error is numbers and text");
    // Who does not listen finds the connection closed.
    let _ = wire.send(Kind::Refused, &text, &[], &Limit::new(REFUSAL));
}

/// What [`refuse`] told.
pub(crate) fn refusal(peer: usize, told: &[u8]) -> MeetError {
    let (needed, seen) = ("a reason".into(), "a refusal without one".into());
    serde_json::from_slice(told).unwrap_or(MeetError::Protocol { peer, needed, seen })
}

/// Gives every two ranks but rank 0 a connection of their own.
fn introduce(come: &mut [Option<Wire>], limit: &Limit) -> Result<(), MeetError> {
    // What each rank gets, in the order of its peers: those below it have been given their end before.
    let mut ends: Vec<Vec<OwnedFd>> = come.iter().map(|_| Vec::new()).collect();
    let mut rest = ends.as_mut_slice();
    while let Some((one, others)) = std::mem::take(&mut rest).split_first_mut() {
        // Rank 0 has its connections already.
        if others.len() + 1 < come.len() {
            for other in others.iter_mut() {
                let (here, there) = pair()?;
                one.push(here);
                other.push(there);
            }
        }
        rest = others;
    }
    for (rank, (wire, ends)) in come.iter().zip(&ends).enumerate() {
        let Some(wire) = wire else { continue };
        let fds: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
        wire.send(Kind::Welcome, &[], &fds, limit).map_err(|reason| MeetError::Dead {
            peer: rank,
            reason,
            during: "when all ranks had met".into(),
        })?;
    }
    Ok(())
}

/// Comes to rank 0, says who this is, and waits until all are there.
fn come(process: &Process, hello: &Hello, limit: &Limit) -> Result<Vec<Option<Wire>>, MeetError> {
    let (path, text) = (process.folder(), serde_json::to_vec(hello).expect("text and numbers"));
    // Rank 0 answers at its own limit, which may end a little later than this one's.
    let answer = Limit::new(process.limit() + REFUSAL);
    let (mut missing, mut note) = (vec![0], "; it was never there");
    while limit.left().is_some() {
        let socket = match Folder::open(&path)? {
            Some(folder) => folder.connect()?,
            None => None,
        };
        let Some(socket) = socket else {
            limit.nap();
            continue;
        };
        check_user(&socket)?;
        note = "; it was there, and went away";
        let mut wire = Wire::new(socket);
        if wire.send(Kind::Hello, &text, &[], limit).is_err() {
            continue;
        }
        match wire.receive_within(&answer)? {
            Received::Message(message) => return welcomed(process, wire, message),
            Received::Nothing => {
                missing = (1..process.ranks()).filter(|&rank| rank != process.rank()).collect();
                note = " or one of them; rank 0 is there, and still waits";
            }
            // A meeting that ended just now, or a rank 0 that did: the next one may come.
            Received::Closed(_) => limit.nap(),
        }
    }
    let what = named(process);
    Err(MeetError::Late { what, waited_ms: limit.waited_ms(), missing, note: note.into() })
}

fn welcomed(process: &Process, wire: Wire, message: Message) -> Result<Vec<Option<Wire>>, MeetError> {
    let (rank, ranks) = (process.rank(), process.ranks());
    let strange = |seen: String| MeetError::Protocol { peer: 0, needed: "a welcome".into(), seen };
    match message.kind {
        Kind::Welcome if message.fds.len() == ranks - 2 => {}
        Kind::Welcome => return Err(strange(format!("{} sockets for {ranks} ranks", message.fds.len()))),
        Kind::Refused => return Err(refusal(0, &message.bytes)),
        kind => return Err(strange(format!("{kind:?}"))),
    }
    let mut sockets = message.fds.into_iter();
    let mut wires: Vec<Option<Wire>> = Vec::with_capacity(ranks);
    wires.push(Some(wire));
    wires.extend((1..ranks).map(|peer| if peer == rank { None } else { sockets.next().map(Wire::new) }));
    Ok(wires)
}
