//! A process that was started by a launcher ends with it.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::error::MeetError;

/// From now on this process is killed when the thread that started it, in process `parent`, ends.
///
/// # Errors
///
/// [`MeetError::System`] where the system does not do that, or `parent` has ended already.
///
/// # Example
///
/// ```
/// let nobody = u32::MAX >> 1;
/// assert!(myelon_meet::die_with_parent(nobody).is_err());
/// ```
pub fn die_with_parent(parent: u32) -> Result<(), MeetError> {
    const CALL: &str = "to end with the process that started this one";
    let seen = getppid().map(Pid::as_raw_nonzero);
    if seen.is_none_or(|seen| i64::from(seen.get()) != i64::from(parent)) {
        return Err(MeetError::system(CALL, format_args!("process {parent} is not the parent")));
    }
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| MeetError::system(CALL, errno))?;
    // It may have ended in between, and then no signal comes.
    if getppid().map(Pid::as_raw_nonzero) == seen {
        Ok(())
    } else {
        Err(MeetError::system(CALL, format_args!("process {parent} has ended")))
    }
}
