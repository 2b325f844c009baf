//! Memory that several processes map: by descriptor, never by name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::MeetError;

/// Bytes that are mapped here and wherever else their descriptor went. They go when the last mapping does, however
/// the processes end: there is no name that could stay behind.
///
/// What is done with the address is for unsafe code; [`crate::share_windows`] is what uses it in this crate.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address and a length; who reads or writes there answers for it.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// New memory, zero and all there, so that no access can fail later; and the descriptor to hand out. Nobody can
    /// change its size.
    ///
    /// # Errors
    ///
    /// [`MeetError::System`], also where there is not so much memory.
    ///
    /// # Example
    ///
    /// ```
    /// use std::os::fd::AsFd;
    /// use myelon_meet::Mapping;
    ///
    /// let (here, fd) = Mapping::create("example", 4096)?;
    /// let there = Mapping::of(fd.as_fd(), 4096)?; // in another process
    /// assert_ne!(here.address(), there.address());
    /// assert!(Mapping::of(fd.as_fd(), 8192).is_err());
    /// # Ok::<(), myelon_meet::MeetError>(())
    /// ```
    pub fn create(name: &str, bytes: usize) -> Result<(Self, OwnedFd), MeetError> {
        let fail = |errno| MeetError::system(format!("{bytes} bytes of shared memory"), errno);
        // The system would go on giving pages until it has none left, and then end somebody.
        if available_bytes().is_some_and(|available| bytes as u64 > available) {
            return Err(MeetError::system(format!("{bytes} bytes of shared memory"), "there is not so much"));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(fail)?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(fail)?;
        // A page that is not there when it is touched would kill the process.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64).map_err(fail)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(fail)?;
        Ok((Self::map(fd.as_fd(), bytes)?, fd))
    }

    /// Maps the memory of `fd`, which somebody else made.
    ///
    /// # Errors
    ///
    /// [`MeetError::Windows`] if it has another size than `bytes` or could shrink, [`MeetError::System`].
    pub fn of(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, MeetError> {
        let stat =
            rustix::fs::fstat(fd).map_err(|errno| MeetError::system("the size of shared memory", errno))?;
        if u64::try_from(stat.st_size).ok() != Some(bytes as u64) {
            let reason = format!("a window has {bytes} bytes, and a peer sent memory of {}", stat.st_size);
            return Err(MeetError::Windows { reason });
        }
        let seals = rustix::fs::fcntl_get_seals(fd);
        if !seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            let reason = "a peer sent memory that is not sealed against shrinking".into();
            return Err(MeetError::Windows { reason });
        }
        Self::map(fd, bytes)
    }

    fn map(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, MeetError> {
        let fail =
            |reason: String| MeetError::system(format!("to map {bytes} bytes of shared memory"), reason);
        // SAFETY: a new mapping wherever there is room, over nothing that exists; `bytes` is the file's size, which
        // can't shrink, so every page of it is there.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        };
        let start = start.map_err(|errno| fail(errno.to_string()))?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or_else(|| fail("it is at null".into()))?, bytes })
    }

    /// Where it is mapped, on a page; its provenance is exposed.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes `bytes` at the start.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes there meanwhile, in any process, and there are so many bytes.
    pub(crate) unsafe fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.bytes);
        // SAFETY: within the mapping by the line above; nobody else is there, as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), bytes.len()) };
    }
}

/// Memory that could be had without taking it from anybody, where the system says.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and unmapped only here; who made pointers of the address keeps
        // this alive as long as them.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) } {
            tracing::error!(%errno, "shared memory can't be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn memory_that_could_shrink_is_refused_and_ours_cannot() {
        let (_here, fd) = Mapping::create("test", 8192).unwrap();
        assert!(rustix::fs::ftruncate(&fd, 4096).is_err());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 8192]).unwrap();
        let error = Mapping::of(file.as_fd(), 8192).unwrap_err().to_string();
        assert!(error.contains("not sealed"), "{error}");
        let plain = rustix::fs::memfd_create("plain", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&plain, 8192).unwrap();
        assert!(Mapping::of(plain.as_fd(), 8192).is_err());
        let error = Mapping::of(fd.as_fd(), 4096).unwrap_err().to_string();
        assert!(error.contains("4096 bytes") && error.contains("8192"), "{error}");
    }

    #[test]
    fn what_cannot_be_had_is_an_error_and_no_crash() {
        let available = available_bytes().unwrap();
        assert!((1 << 20..1 << 50).contains(&available), "{available}");
        assert!(matches!(Mapping::create("huge", 1 << 50), Err(MeetError::System { .. })));
    }
}
