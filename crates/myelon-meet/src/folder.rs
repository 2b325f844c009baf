//! The private folder of a meeting, and the socket in it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::MeetError;
use crate::limit::Limit;

/// The socket's name in the folder.
const SOCKET: &str = "meet";
/// Only the owner may enter.
const MODE: u32 = 0o700;
/// Connections that may wait until rank 0 takes them.
const BACKLOG: i32 = 64;

/// How long a rank 0 that was killed may go on listening, as it seems, before it is taken for alive.
const DYING: Duration = Duration::from_millis(500);

/// How long a folder's lock is waited for before the folder stays.
const REMOVAL: Duration = Duration::from_millis(100);

/// The folder, held open: what is checked is what is used, whatever happens to the path.
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Makes the folder where there is none, and opens it.
    pub fn make(path: &Path) -> Result<Option<Self>, MeetError> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(MODE)) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(errno) => Err(MeetError::system(format!("to make the folder {}", path.display()), errno)),
        }
    }

    /// Opens the folder if it is there: one of this user that nobody else may enter, and no link.
    pub fn open(path: &Path) -> Result<Option<Self>, MeetError> {
        let refuse = |needed: &str, seen: String| MeetError::Folder {
            path: path.display().to_string(),
            needed: needed.into(),
            seen,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(refuse("a folder", "something else, or a link".into()));
            }
            Err(Errno::ACCESS) => return Err(refuse("a folder of this user", "no access".into())),
            Err(errno) => return Err(MeetError::system(format!("to open {}", path.display()), errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| MeetError::system("fstat", errno))?;
        let user = rustix::process::geteuid().as_raw();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(refuse("a folder", "something else".into()));
        }
        if stat.st_uid != user {
            return Err(refuse(&format!("user {user} as owner"), format!("user {}", stat.st_uid)));
        }
        if stat.st_mode & 0o7777 != MODE {
            return Err(refuse(&format!("mode {MODE:o}"), format!("mode {:o}", stat.st_mode & 0o7777)));
        }
        Ok(Some(Self { fd, path: path.to_owned() }))
    }

    /// The socket's address by the folder that was checked. It is short, however long the path is.
    fn address(&self) -> Result<SocketAddrUnix, MeetError> {
        let path = format!("/proc/self/fd/{}/{SOCKET}", self.fd.as_raw_fd());
        SocketAddrUnix::new(path).map_err(|errno| MeetError::system("the address of a socket", errno))
    }

    /// Connects to rank 0; nothing if it does not listen yet.
    pub fn connect(&self) -> Result<Option<OwnedFd>, MeetError> {
        match self.try_connect()? {
            Ok(socket) => Ok(Some(socket)),
            // Not there, nobody behind it, or too many wait already.
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => {
                Err(MeetError::system(format!("to connect to rank 0 in {}", self.path.display()), errno))
            }
        }
    }

    fn try_connect(&self) -> Result<Result<OwnedFd, Errno>, MeetError> {
        let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        Ok(rustix::net::connect(&socket, &self.address()?).map(|()| socket))
    }

    /// Holds the folder's lock while `work` runs; nothing once the folder is removed or the limit has passed.
    fn locked<T>(&self, limit: &Limit, work: impl FnOnce() -> T) -> Result<Option<T>, MeetError> {
        loop {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if limit.left().is_some() => limit.nap(),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(MeetError::system("to lock the folder of the meeting", errno)),
            }
        }
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| MeetError::system("fstat", errno))?;
        let result = (stat.st_nlink > 0).then(work);
        // What does not unlock is unlocked when the folder is closed.
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
        Ok(result)
    }

    /// Removes the socket and the folder, with the lock held.
    fn remove(&self) {
        let _ = rustix::fs::unlinkat(&self.fd, SOCKET, AtFlags::empty());
        let _ = rustix::fs::rmdir(&self.path);
    }

    fn bind(&self) -> Result<Bound, MeetError> {
        let address = self.address()?;
        let fail = |what: &str, errno| MeetError::system(format!("{what} in {}", self.path.display()), errno);
        let listener = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match rustix::net::bind(&listener, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => {
                if !matches!(self.try_connect()?, Err(Errno::CONNREFUSED | Errno::NOENT)) {
                    return Ok(Bound::Taken);
                }
                // Somebody crashed here. Nobody is about to listen: that is done with the lock held.
                match rustix::fs::unlinkat(&self.fd, SOCKET, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => return Ok(Bound::Again),
                    Err(errno) => return Err(fail("to remove a stale socket", errno)),
                }
            }
            Err(Errno::NOENT) => return Ok(Bound::Again),
            Err(errno) => return Err(fail("to bind a socket", errno)),
        }
        rustix::net::listen(&listener, BACKLOG).map_err(|errno| fail("to listen", errno))?;
        Ok(Bound::Listening(listener))
    }
}

enum Bound {
    Listening(OwnedFd),
    /// Somebody else listens.
    Taken,
    /// Something was in the way, and is not any more.
    Again,
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, MeetError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| MeetError::system("a socket", errno))
}

/// Rank 0's socket. Dropping it removes socket and folder.
pub(crate) struct Listener {
    socket: OwnedFd,
    folder: Folder,
}

impl Listener {
    /// Listens in the folder at `path`, over whatever a crashed run left there; nothing once the limit has passed.
    pub fn open(path: &Path, limit: &Limit) -> Result<Option<Self>, MeetError> {
        let dying = Limit::new(DYING);
        while limit.left().is_some() {
            let Some(folder) = Folder::make(path)? else { continue };
            match folder.locked(limit, || folder.bind())?.transpose()? {
                Some(Bound::Listening(socket)) => return Ok(Some(Self { socket, folder })),
                Some(Bound::Taken) if dying.left().is_some() => std::thread::sleep(DYING / 25),
                Some(Bound::Taken) => return Err(MeetError::Taken { rank: 0 }),
                Some(Bound::Again) | None => {}
            }
        }
        Ok(None)
    }

    /// Removes what a rank 0 that was killed left at `path`; nothing where somebody listens.
    pub fn tidy(path: &Path) -> Result<(), MeetError> {
        let Some(folder) = Folder::open(path)? else { return Ok(()) };
        let remove = || {
            if let Ok(Err(Errno::CONNREFUSED | Errno::NOENT)) = folder.try_connect() {
                folder.remove();
            }
        };
        folder.locked(&Limit::new(REMOVAL), remove).map(|_| ())
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next connection that waits.
    pub fn accept(&self) -> Result<Option<OwnedFd>, MeetError> {
        match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(MeetError::system("to accept a connection", errno)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What can't be removed now is taken over by the next meeting of this name. A lock that somebody else holds
        // is held for microseconds.
        if let Err(error) = self.folder.locked(&Limit::new(REMOVAL), || self.folder.remove()) {
            tracing::debug!(%error, "the folder of a meeting stays behind");
        }
    }
}

/// Refuses a connection whose other end belongs to another user.
pub(crate) fn check_user(socket: &OwnedFd) -> Result<(), MeetError> {
    let peer = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|errno| MeetError::system("the credentials of a peer", errno))?;
    let (needed, seen) = (rustix::process::geteuid().as_raw(), peer.uid.as_raw());
    if needed == seen { Ok(()) } else { Err(MeetError::Stranger { needed, seen }) }
}
