//! One rank as a process: what it needs to know to meet the others.

use std::path::PathBuf;
use std::time::Duration;

use myelon_ring::words::RANKS_MAX;

use crate::error::MeetError;
use crate::folder::Listener;
use crate::launcher::{Launcher, Names, looked_for};
use crate::meeting;
use crate::secret::Secret;
use crate::session::Session;

/// How long a meeting may take unless [`Process::within`] or `MYELON_MEETING_MS` says otherwise.
pub const MEETING_LIMIT_DEFAULT: Duration = Duration::from_secs(60);
/// Characters of a meeting's name, as it is part of a path.
const NAME_MAX: usize = 200;

/// One rank as a process: its place, and where and how it meets the others.
///
/// Processes with the same meeting, number of ranks and user, on one node, find each other; so do threads that each
/// have a `Process`. A meeting's name may be used again as soon as the meeting before it is over.
///
/// # Example
///
/// ```
/// use myelon_meet::Process;
///
/// let process = Process::new(1, 4, "job-7");
/// assert_eq!((process.rank(), process.ranks(), process.meeting()), (1, 4, "job-7"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    launcher: Launcher,
    rank: usize,
    ranks: usize,
    local_rank: usize,
    meeting: String,
    secret: Option<Secret>,
    limit: Duration,
}

impl Process {
    /// Rank `rank` of `ranks`, which meet under the name `meeting`. A name that begins with `/` is the folder of the
    /// meeting; it is made with mode 0700, and removed when all have met. Numbers and name are checked by
    /// [`Process::join`].
    pub fn new(rank: usize, ranks: usize, meeting: impl Into<String>) -> Self {
        Self::by(Launcher::Myelon, rank, ranks, rank, meeting.into())
    }

    pub(crate) fn by(
        launcher: Launcher,
        rank: usize,
        ranks: usize,
        local_rank: usize,
        meeting: String,
    ) -> Self {
        Self { launcher, rank, ranks, local_rank, meeting, secret: None, limit: MEETING_LIMIT_DEFAULT }
    }

    /// What the environment says: see [`Launcher`] for the names. `MYELON_MEETING`, `MYELON_SECRET` and
    /// `MYELON_MEETING_MS` count with every launcher.
    ///
    /// # Errors
    ///
    /// [`MeetError::NoRank`], [`MeetError::ManyNodes`], or [`MeetError::Setting`] for a value that means nothing.
    pub fn from_env() -> Result<Self, MeetError> {
        Self::find()?.ok_or_else(|| MeetError::NoRank { looked_for: looked_for() })
    }

    /// The same, or nothing where no launcher speaks of this process.
    ///
    /// # Errors
    ///
    /// As [`Process::from_env`], without [`MeetError::NoRank`].
    pub fn find() -> Result<Option<Self>, MeetError> {
        Self::find_in(|name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned()))
    }

    /// The same by what `lookup` says of each name.
    ///
    /// # Errors
    ///
    /// As [`Process::find`].
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_meet::{Launcher, Process};
    ///
    /// let torchrun = |name: &str| match name {
    ///     "RANK" | "LOCAL_RANK" => Some("1".into()),
    ///     "WORLD_SIZE" | "LOCAL_WORLD_SIZE" => Some("2".into()),
    ///     "MASTER_PORT" => Some("29500".into()),
    ///     _ => None,
    /// };
    /// let process = Process::find_in(torchrun)?.unwrap();
    /// assert_eq!((process.launcher(), process.rank(), process.ranks()), (Launcher::Torchrun, 1, 2));
    /// assert_eq!(process.meeting(), "torchrun-29500");
    /// assert_eq!(Process::find_in(|_| None)?, None);
    /// # Ok::<(), myelon_meet::MeetError>(())
    /// ```
    pub fn find_in(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, MeetError> {
        let names = Names(&lookup);
        let Some(mut process) = names.process()? else { return Ok(None) };
        if let Some(text) = names.text("MYELON_SECRET") {
            process.secret = Some(text.parse()?);
        }
        if let Some(text) = names.text("MYELON_MEETING_MS") {
            let ms = text.parse().ok().filter(|&ms: &u64| ms > 0);
            let refuse = || MeetError::setting("MYELON_MEETING_MS", "milliseconds, at least 1", &text);
            process.limit = Duration::from_millis(ms.ok_or_else(refuse)?);
        }
        Ok(Some(process))
    }

    /// Only processes with the same secret meet.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// How long the whole meeting may take; [`MEETING_LIMIT_DEFAULT`] if not said.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same process in another meeting of the same session, for what shall have connections of its own.
    ///
    /// ```
    /// # use myelon_meet::Process;
    /// assert_eq!(Process::new(0, 2, "job-7").beside("times").meeting(), "job-7.times");
    /// ```
    #[must_use]
    pub fn beside(&self, suffix: &str) -> Self {
        Self { meeting: format!("{}.{suffix}", self.meeting), ..self.clone() }
    }

    /// Who said so.
    pub fn launcher(&self) -> Launcher {
        self.launcher
    }

    /// This process's rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// This process's number on its node, from 0: which GPU would be its own.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Where the ranks meet: a name, or the folder.
    pub fn meeting(&self) -> &str {
        &self.meeting
    }

    /// How long the meeting may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// Meets the others, and returns when all are there. Every rank passes the same names in `facts`, each with what
    /// must be the same on all of them; this library's version and the number of ranks are compared without being
    /// named.
    ///
    /// # Errors
    ///
    /// * [`MeetError::Setting`]: a rank, a number of ranks or a name of a meeting that cannot be.
    /// * [`MeetError::Folder`], [`MeetError::Stranger`]: the folder is not private, or somebody else sits in it.
    /// * [`MeetError::Secret`], [`MeetError::Taken`]: refused by rank 0. The meeting goes on without this process.
    /// * [`MeetError::Disagreement`]: on all ranks, with the rank and both values.
    /// * [`MeetError::Late`]: on all that came, with those who did not.
    /// * [`MeetError::System`].
    pub fn join(&self, facts: &[(&str, String)]) -> Result<Session, MeetError> {
        if !(2..=RANKS_MAX).contains(&self.ranks) {
            return Err(MeetError::setting("ranks", format!("2 to {RANKS_MAX}"), self.ranks.to_string()));
        }
        if self.rank >= self.ranks {
            let needed = format!("a rank below {}", self.ranks);
            return Err(MeetError::setting("rank", needed, self.rank.to_string()));
        }
        if self.meeting.is_empty() || self.meeting.len() > NAME_MAX || self.meeting.contains('\0') {
            let needed = format!("1 to {NAME_MAX} characters");
            return Err(MeetError::setting("meeting", needed, &self.meeting));
        }
        meeting::join(self, facts)
    }

    /// Removes what rank 0 left of this meeting if it was killed in it, for who started the ranks and saw them end.
    /// The next meeting of this name would do without.
    pub fn tidy(&self) {
        if let Err(error) = Listener::tidy(&self.folder()) {
            tracing::debug!(%error, "the folder of a meeting stays behind");
        }
    }

    /// The folder of the meeting: below `$XDG_RUNTIME_DIR` where there is such a folder, else the one for temporary
    /// files.
    pub(crate) fn folder(&self) -> PathBuf {
        if self.meeting.starts_with('/') {
            return PathBuf::from(&self.meeting);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
        let name: String = self.meeting.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let user = rustix::process::geteuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let base = runtime.filter(|path| path.is_absolute() && path.is_dir());
        base.unwrap_or_else(std::env::temp_dir).join(format!("myelon-{user}-{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        for (rank, ranks, meeting, name) in [
            (0, 1, "m", "ranks"),
            (0, 9, "m", "ranks"),
            (2, 2, "m", "rank"),
            (0, 2, "", "meeting"),
            (0, 2, "a\0b", "meeting"),
        ] {
            match Process::new(rank, ranks, meeting).join(&[]) {
                Err(MeetError::Setting { name: seen, .. }) => assert_eq!(seen, name),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        let folder = Process::new(0, 2, "a/../b c").folder();
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("myelon-") && name.ends_with("-a_.._b_c"), "{name}");
        assert_eq!(Process::new(0, 2, "/x/y").folder(), PathBuf::from("/x/y"));
    }

    #[test]
    fn settings_of_the_meeting_are_read_with_every_launcher() {
        let find = |name: &'static str, value: &'static str| {
            Process::find_in(move |seen| match seen {
                "RANK" => Some("0".into()),
                "WORLD_SIZE" => Some("2".into()),
                seen if seen == name => Some(value.into()),
                _ => None,
            })
        };
        let process = find("MYELON_MEETING_MS", "250").unwrap().unwrap();
        assert_eq!(process.limit(), Duration::from_millis(250));
        assert!(find("MYELON_MEETING_MS", "0").is_err());
        assert!(find("MYELON_SECRET", "short").is_err());
    }
}
