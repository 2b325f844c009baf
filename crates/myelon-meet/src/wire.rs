//! Messages over a Unix stream socket, with file descriptors beside them.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::error::MeetError;
use crate::limit::Limit;

/// File descriptors that one message may carry.
pub(crate) const FDS_MAX: usize = 64;
/// Bytes that one message may carry.
pub(crate) const BYTES_MAX: usize = 4 << 20;
/// First word of every message: what does not begin so is not ours.
const MAGIC: u32 = 0x6d79_6c31;
/// Magic, kind, descriptors, bytes: 4 of each.
const HEADER_BYTES: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// A rank that wants to join tells rank 0 who it is.
    Hello = 1,
    /// All have come; with a socket to each other peer.
    Welcome = 2,
    /// Rank 0 refuses, with its error.
    Refused = 3,
    /// One rank's part of an exchange.
    Exchange = 4,
    /// Something for the one who watches.
    Note = 5,
    /// The last message: what follows is no death.
    Goodbye = 6,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Hello, Self::Welcome, Self::Refused, Self::Exchange, Self::Note, Self::Goodbye];
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Message {
    pub kind: Kind,
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// What there was to receive.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    Nothing,
    /// No more will come, and why.
    Closed(String),
}

/// A message on its way out.
pub(crate) struct Outgoing<'a> {
    bytes: Vec<u8>,
    fds: &'a [BorrowedFd<'a>],
    sent: usize,
}

impl<'a> Outgoing<'a> {
    /// # Panics
    ///
    /// Above [`BYTES_MAX`] or [`FDS_MAX`], which callers check.
    pub fn new(kind: Kind, bytes: &[u8], fds: &'a [BorrowedFd<'a>]) -> Self {
        assert!(bytes.len() <= BYTES_MAX && fds.len() <= FDS_MAX, "a message that is too large");
        let mut framed = Vec::with_capacity(HEADER_BYTES + bytes.len());
        for word in [MAGIC, kind as u32, fds.len() as u32, bytes.len() as u32] {
            framed.extend_from_slice(&word.to_le_bytes());
        }
        framed.extend_from_slice(bytes);
        Self { bytes: framed, fds, sent: 0 }
    }

    /// Sends what the socket takes now; whether that was the rest of it.
    pub fn advance(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        while self.sent < self.bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            // With the first byte, so that they are there before the message is complete.
            if self.sent == 0 && !self.fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(self.fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(socket, &[IoSlice::new(&self.bytes[self.sent..])], &mut control, flags)
            {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Arc<OwnedFd>,
    inbox: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    closed: Option<String>,
}

impl Wire {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket: Arc::new(socket), inbox: Vec::new(), fds: VecDeque::new(), closed: None }
    }

    pub fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// To wait for a message, or for the end.
    pub fn poll_fd(&self, flags: PollFlags) -> PollFd<'_> {
        PollFd::new(&*self.socket, flags)
    }

    /// The next message, if it is there as a whole. Never waits.
    pub fn receive(&mut self) -> Received {
        loop {
            match self.parse() {
                Ok(Some(message)) => return Received::Message(message),
                Ok(None) => {}
                Err(reason) => self.closed = Some(reason),
            }
            if let Some(reason) = &self.closed {
                return Received::Closed(reason.clone());
            }
            if !self.fill() && self.closed.is_none() {
                return Received::Nothing;
            }
        }
    }

    /// Takes over what the socket has; whether there was anything.
    fn fill(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 16 << 10];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(&*self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        match received.map(|received| received.bytes) {
            Ok(0) => self.closed = Some("its connection closed without a word".into()),
            Ok(count) => {
                self.inbox.extend_from_slice(&bytes[..count]);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // It ended with messages unread.
            Err(Errno::CONNRESET) => self.closed = Some("its connection broke without a word".into()),
            Err(errno) => self.closed = Some(format!("its connection failed: {errno}")),
        }
        false
    }

    /// The first message of the inbox, if it is complete.
    fn parse(&mut self) -> Result<Option<Message>, String> {
        if self.inbox.len() < HEADER_BYTES {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes(self.inbox[4 * at..][..4].try_into().expect("four bytes"));
        let (magic, kind, fds, bytes) = (word(0), word(1), word(2) as usize, word(3) as usize);
        let known = Kind::ALL.into_iter().find(|&known| known as u32 == kind);
        let (MAGIC, Some(kind), 0..=FDS_MAX, 0..=BYTES_MAX) = (magic, known, fds, bytes) else {
            return Err("it sent what is no message of this library".into());
        };
        let end = HEADER_BYTES + bytes;
        if self.inbox.len() < end {
            return Ok(None);
        }
        if self.fds.len() < fds {
            return Err(format!("it announced {fds} file descriptors, and {} came", self.fds.len()));
        }
        let bytes = self.inbox[HEADER_BYTES..end].to_vec();
        self.inbox.drain(..end);
        Ok(Some(Message { kind, bytes, fds: self.fds.drain(..fds).collect() }))
    }

    /// Sends a whole message within `limit`; what goes wrong is in words.
    pub fn send(
        &self,
        kind: Kind,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        limit: &Limit,
    ) -> Result<(), String> {
        let mut message = Outgoing::new(kind, bytes, fds);
        while !message.advance(self.socket.as_fd()).map_err(|errno| errno.to_string())? {
            match limit.poll(&mut [self.poll_fd(PollFlags::OUT)]) {
                Ok(true) => {}
                Ok(false) => return Err("it takes no more messages".into()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// The next message within `limit`.
    pub fn receive_within(&mut self, limit: &Limit) -> Result<Received, MeetError> {
        loop {
            match self.receive() {
                Received::Nothing if limit.poll(&mut [self.poll_fd(PollFlags::IN)])? => {}
                other => return Ok(other),
            }
        }
    }
}

/// Both ends of a connection.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), MeetError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| MeetError::system("a pair of sockets", errno))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wires() -> (Wire, Wire) {
        let (one, other) = pair().unwrap();
        (Wire::new(one), Wire::new(other))
    }

    fn limit() -> Limit {
        Limit::new(Duration::from_secs(5))
    }

    fn message(wire: &mut Wire) -> Message {
        match wire.receive_within(&limit()).unwrap() {
            Received::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_keep_their_bounds_their_order_and_their_descriptors() {
        let (one, mut other) = wires();
        let file = tempfile::tempfile().unwrap();
        one.send(Kind::Note, b"first", &[], &limit()).unwrap();
        one.send(Kind::Exchange, b"", &[file.as_fd(), one.socket().as_fd()], &limit()).unwrap();
        one.send(Kind::Note, b"third", &[file.as_fd()], &limit()).unwrap();
        let first = message(&mut other);
        assert_eq!((first.kind, &first.bytes[..], first.fds.len()), (Kind::Note, &b"first"[..], 0));
        let second = message(&mut other);
        assert_eq!((second.kind, second.bytes.len(), second.fds.len()), (Kind::Exchange, 0, 2));
        assert_eq!(message(&mut other).fds.len(), 1);
        assert!(matches!(other.receive(), Received::Nothing));
        for fd in &second.fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child would inherit it");
        }
        // Its copy went along.
        drop(one);
        assert!(matches!(other.receive(), Received::Nothing));
        drop(second);
        assert!(matches!(other.receive(), Received::Closed(_)));
    }

    #[test]
    fn a_message_larger_than_the_socket_holds_goes_through() {
        let (one, mut other) = wires();
        let bytes = vec![7; BYTES_MAX];
        std::thread::scope(|scope| {
            scope.spawn(|| one.send(Kind::Exchange, &bytes, &[], &limit()).unwrap());
            assert_eq!(message(&mut other).bytes, bytes);
        });
        // And one that nobody reads ends at the limit.
        let error = one.send(Kind::Note, &bytes, &[], &Limit::new(Duration::from_millis(20))).unwrap_err();
        assert!(error.contains("takes no more"), "{error}");
    }

    #[test]
    fn what_is_no_message_closes_the_wire() {
        let (one, mut other) = wires();
        rustix::io::write(&**one.socket(), b"GET / HTTP/1.1\r\n\r\n").unwrap();
        match other.receive() {
            Received::Closed(reason) => assert!(reason.contains("no message"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(other.receive(), Received::Closed(_)));
    }

    #[test]
    fn what_was_said_before_the_end_is_heard() {
        let (one, mut other) = wires();
        other.send(Kind::Note, b"unread", &[], &limit()).unwrap();
        one.send(Kind::Goodbye, b"bye", &[], &limit()).unwrap();
        drop(one);
        assert_eq!(message(&mut other).kind, Kind::Goodbye);
        assert!(matches!(other.receive(), Received::Closed(_)));
    }
}
