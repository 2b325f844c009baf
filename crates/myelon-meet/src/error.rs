//! What can go wrong before ranks work together.

use serde::{Deserialize, Serialize};

/// Why there is no rank, no meeting, or no exchange. What was begun is closed and removed again.
///
/// Rank 0 tells its own error to those who have come, so that all of them report the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// A name of the environment has a value that means nothing.
    #[error("{name}: needed {needed}, saw \"{seen}\"")]
    Setting {
        /// The name.
        name: String,
        /// What is allowed.
        needed: String,
        /// What was seen.
        seen: String,
    },
    /// Nothing says which rank this process is.
    #[error("nothing says which rank this process is: needed the names of a launcher, one of {looked_for}")]
    NoRank {
        /// The names that were looked for.
        looked_for: String,
    },
    /// The ranks are spread over several nodes.
    #[error("ranks on one node are needed, but {seen}; ranks on several nodes can't be joined")]
    ManyNodes {
        /// What the launcher says.
        seen: String,
    },
    /// The folder of the meeting is not private.
    #[error("the folder {path} of the meeting: needed {needed}, saw {seen}")]
    Folder {
        /// The folder.
        path: String,
        /// What is needed.
        needed: String,
        /// What was seen.
        seen: String,
    },
    /// The process at the other end belongs to somebody else.
    #[error("a process of user {seen} in a meeting of user {needed}")]
    Stranger {
        /// This process's user.
        needed: u32,
        /// The other's.
        seen: u32,
    },
    /// The secrets differ.
    #[error("rank {rank} has another secret than rank 0: it belongs to another session, or nobody told it")]
    Secret {
        /// The rank that wanted to join.
        rank: usize,
    },
    /// Somebody else is that rank.
    #[error("rank {rank} is taken by another process, and that one is alive")]
    Taken {
        /// The rank that two claim.
        rank: usize,
    },
    /// Something that must be the same on all ranks is not.
    #[error("{what}: rank 0 has \"{needed}\", but rank {rank} has \"{seen}\"")]
    Disagreement {
        /// What must be the same.
        what: String,
        /// The rank that has something else.
        rank: usize,
        /// What rank 0 has.
        needed: String,
        /// What `rank` has.
        seen: String,
    },
    /// The time limit of the meeting, or of an exchange, has passed.
    #[error("{what} is not complete after {waited_ms} ms: missing {}{note}", ranks_named(missing))]
    Late {
        /// The meeting and its folder, or the exchange.
        what: String,
        /// How long was waited.
        waited_ms: u64,
        /// Who did not come.
        missing: Vec<usize>,
        /// What else is known; empty or begins with a mark.
        note: String,
    },
    /// A peer's connection closed without a word: its process ended.
    #[error("rank {peer} is dead: {reason}, {during}")]
    Dead {
        /// The peer.
        peer: usize,
        /// How it was seen.
        reason: String,
        /// What this rank was about.
        during: String,
    },
    /// A peer gave up, and lives.
    #[error("rank {peer} gave up {during}")]
    Left {
        /// The peer.
        peer: usize,
        /// What this rank was about.
        during: String,
    },
    /// A peer sent what the protocol does not allow.
    #[error("rank {peer} sent {seen}, needed {needed}")]
    Protocol {
        /// The peer.
        peer: usize,
        /// What is allowed.
        needed: String,
        /// What was seen.
        seen: String,
    },
    /// The system did not do it.
    #[error("{call}: {reason}")]
    System {
        /// What was asked for.
        call: String,
        /// What the system said.
        reason: String,
    },
    /// The windows can't be made so.
    #[error("{reason}")]
    Windows {
        /// Why not.
        reason: String,
    },
}

impl MeetError {
    pub(crate) fn system(call: impl Into<String>, errno: impl std::fmt::Display) -> Self {
        Self::System { call: call.into(), reason: errno.to_string() }
    }

    pub(crate) fn setting(name: &str, needed: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), needed: needed.into(), seen: seen.into() }
    }
}

fn ranks_named(ranks: &[usize]) -> String {
    let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_travel_as_text_and_name_what_is_missing() {
        let late = MeetError::Late {
            what: "the meeting".into(),
            waited_ms: 20,
            missing: vec![1, 3],
            note: String::new(),
        };
        assert_eq!(late.to_string(), "the meeting is not complete after 20 ms: missing ranks 1, 3");
        let told = serde_json::to_string(&late).unwrap();
        assert_eq!(serde_json::from_str::<MeetError>(&told).unwrap(), late);
    }
}
