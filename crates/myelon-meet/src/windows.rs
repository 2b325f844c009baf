//! The windows of host ranks in memory that all of them map.

use std::any::Any;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use myelon_ring::{HostWindows, WindowLayout};

use crate::error::MeetError;
use crate::mapping::Mapping;
use crate::session::Session;

/// Makes this rank's window for `layout`, whose rings begin with sequence `first`, gives it to the peers, and maps
/// theirs. The result hands out this rank's ends only. All ranks call it with the same arguments.
///
/// # Errors
///
/// [`MeetError::Windows`] where a peer's window has another size, or `layout` is for another number of ranks;
/// [`MeetError::System`] where memory is short; and those of [`Session::exchange`].
pub fn share_windows(
    session: &mut Session,
    layout: WindowLayout,
    first: u64,
    limit: Duration,
) -> Result<Arc<HostWindows>, MeetError> {
    let (rank, ranks) = (session.rank(), session.ranks());
    if layout.ranks() != ranks {
        let reason = format!("windows for {} ranks in a session of {ranks}", layout.ranks());
        return Err(MeetError::Windows { reason });
    }
    let (ours, fd) = Mapping::create(&format!("myelon window {rank}"), layout.bytes())?;
    let words = layout.initial_words(first);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // SAFETY: nobody else has the memory before the exchange, and a window begins with these words.
    unsafe { ours.write(&bytes) };
    let told = session.exchange(&[], &[fd.as_fd()], limit)?;
    let mut ours = Some(ours);
    let mut windows = Vec::with_capacity(ranks);
    for (peer, told) in told.iter().enumerate() {
        windows.push(match (peer == rank, told.fds.as_slice()) {
            (true, _) => ours.take().expect("there is one window of this rank"),
            (false, [fd]) => Mapping::of(fd.as_fd(), layout.bytes())?,
            (false, fds) => {
                let (needed, seen) = ("one window".into(), format!("{} descriptors", fds.len()));
                return Err(MeetError::Protocol { peer, needed, seen });
            }
        });
    }
    let addresses = windows.iter().map(Mapping::address).collect();
    let owner: Arc<dyn Any + Send + Sync> = Arc::new(windows);
    // SAFETY: each window is a mapping of its own, of the layout's size and on a page, and `owner` keeps all mapped;
    // their ranks wrote the initial words for `first` before they gave them away. The ends of a rank are taken by
    // that rank only: a session has one process a rank, windows are made new for every call of this function, and
    // the result hands out this rank's ends.
    Ok(unsafe { HostWindows::mapped(layout, first, rank, addresses, owner) })
}
