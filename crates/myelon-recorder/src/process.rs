//! Which process a page is of, and whether it still runs.
//!
//! A process number is used again after a while, so it goes with the time of the process's start; times count from
//! the start of the machine, so they go with that; and in containers numbers count for themselves, so they go with
//! their namespace. Of a process in another namespace nothing can be said.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, as nothing else is called until the end of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub pid: u64,
    /// In ticks since the start of the machine.
    pub started: u64,
    pub boot: u64,
    pub namespace: u64,
}

/// Whether the process of a page still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Alive,
    /// It has ended.
    Dead,
    /// It is one of another container: nothing can be said from here.
    Elsewhere,
}

impl Identity {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        let started = stat(u64::from(pid)).map_or(0, |(_, started)| started);
        Self { pid: pid.into(), started, boot: boot(), namespace: namespace() }
    }

    /// Whether it still runs.
    pub fn life(&self) -> Life {
        if self.boot != boot() {
            return Life::Dead;
        }
        if self.namespace != namespace() {
            return Life::Elsewhere;
        }
        match stat(self.pid) {
            // One that has ended and that nobody has waited for is still listed.
            Some((state, started)) if started == self.started && !matches!(state, 'Z' | 'X' | 'x') => {
                Life::Alive
            }
            _ => Life::Dead,
        }
    }
}

/// Whether there is a process of this number at all.
pub(crate) fn exists(pid: u64) -> bool {
    stat(pid).is_some()
}

/// State and start of a process, by proc_pid_stat(5): the third field and the 22nd. The second is a name in
/// brackets, which may hold anything.
fn stat(pid: u64) -> Option<(char, u64)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = String::from_utf8_lossy(&text[behind_name..]);
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Which start of the machine this is: the first digits of the system's own name for it.
fn boot() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// Name of this program: the last part of its path.
pub(crate) fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_runs_and_is_told_from_one_that_had_its_number() {
        let own = Identity::own();
        assert!(own.started > 0 && own.boot > 0 && own.namespace > 0, "{own:?}");
        assert_eq!(own.life(), Life::Alive);
        assert_eq!(Identity { started: own.started - 1, ..own }.life(), Life::Dead);
        assert_eq!(Identity { boot: own.boot ^ 1, ..own }.life(), Life::Dead);
        assert_eq!(Identity { namespace: own.namespace + 1, ..own }.life(), Life::Elsewhere);
    }

    #[test]
    fn a_process_that_was_killed_is_dead_before_anybody_waits_for_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = u64::from(child.id());
        let (_, started) = stat(pid).unwrap();
        let identity = Identity { pid, started, ..Identity::own() };
        assert_eq!(identity.life(), Life::Alive);
        child.kill().unwrap();
        let patience = std::time::Instant::now();
        while identity.life() == Life::Alive && patience.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert_eq!((identity.life(), exists(pid)), (Life::Dead, true));
        child.wait().unwrap();
        assert_eq!((identity.life(), exists(pid)), (Life::Dead, false));
    }
}
