//! Which rank this process is, by the names that launchers set.

use std::fmt;

use crate::error::MeetError;
use crate::process::Process;

/// Who said which rank a process is. Where several did, the first of these counts: each may have been started by a
/// later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `MYELON_RANK`, `MYELON_RANKS` and `MYELON_MEETING`, or [`Process::new`].
    Myelon,
    /// `torchrun`: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, and for the name of the meeting
    /// `TORCHELASTIC_RUN_ID`, `TORCHELASTIC_RESTART_COUNT`, `MASTER_ADDR`, `MASTER_PORT`.
    Torchrun,
    /// Open MPI's `mpirun`: `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE`, and `PMIX_NAMESPACE` or
    /// `OMPI_MCA_ess_base_jobid`.
    OpenMpi,
    /// A launcher with PMI, as MPICH's: `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS`, `PMI_JOBID`.
    Pmi,
    /// `srun`: `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` (or `SLURM_NTASKS`), `SLURM_LOCALID`, `SLURM_STEP_NUM_NODES`
    /// (or `SLURM_NNODES`), `SLURM_JOB_ID`, `SLURM_STEP_ID` (or `SLURM_STEPID`). Without a step it is a batch script,
    /// which is one process and no rank.
    Slurm,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Myelon => "myelon",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI",
            Self::Pmi => "PMI",
            Self::Slurm => "Slurm",
        })
    }
}

/// The names by which each launcher says a process's rank and the number of ranks.
const RANK_NAMES: [(Launcher, &str, &[&str]); 5] = [
    (Launcher::Myelon, "MYELON_RANK", &["MYELON_RANKS"]),
    (Launcher::Torchrun, "RANK", &["WORLD_SIZE"]),
    (Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", &["OMPI_COMM_WORLD_SIZE"]),
    (Launcher::Pmi, "PMI_RANK", &["PMI_SIZE"]),
    (Launcher::Slurm, "SLURM_PROCID", &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]),
];

/// What Slurm calls a step, now and formerly.
const SLURM_STEP: [&str; 2] = ["SLURM_STEP_ID", "SLURM_STEPID"];

/// Names that say which rank a process is, for errors.
pub(crate) fn looked_for() -> String {
    RANK_NAMES.map(|(_, rank, ranks)| format!("{rank} and {}", ranks[ranks.len() - 1])).join(", ")
}

/// The environment as a launcher's names are looked up in it.
pub(crate) struct Names<'a>(pub &'a dyn Fn(&str) -> Option<String>);

impl Names<'_> {
    /// What `name` says; text that is empty says nothing.
    pub fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.is_empty())
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.text(name))
    }

    fn number(&self, name: &str) -> Result<Option<usize>, MeetError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| MeetError::setting(name, "a number from 0", text))
    }

    fn first_number(&self, names: &[&str]) -> Result<Option<usize>, MeetError> {
        names.iter().find_map(|name| self.number(name).transpose()).transpose()
    }

    /// The process that the first launcher speaks of, without secret and limit.
    ///
    /// # Errors
    ///
    /// A rank without a number of ranks, a value that is no number, more nodes than one, or no name for a meeting.
    pub fn process(&self) -> Result<Option<Process>, MeetError> {
        for (launcher, rank_name, ranks_names) in RANK_NAMES {
            let Some(rank) = self.number(rank_name)? else { continue };
            if launcher == Launcher::Slurm && self.first(&SLURM_STEP).is_none() {
                continue;
            }
            let ranks_name = ranks_names[ranks_names.len() - 1];
            let Some(ranks) = self.first_number(ranks_names)? else {
                // A rank alone is some other program's word, but for ours.
                if launcher == Launcher::Myelon {
                    let seen = format!("{rank_name} alone");
                    return Err(MeetError::setting(ranks_name, "a number beside MYELON_RANK", seen));
                }
                continue;
            };
            if rank >= ranks {
                let needed = format!("a rank below {ranks_name}={ranks}");
                return Err(MeetError::setting(rank_name, needed, rank.to_string()));
            }
            self.check_one_node(launcher, ranks)?;
            let local_rank = self.number(launcher.local_rank_name())?.unwrap_or(rank);
            let meeting = match self.text("MYELON_MEETING") {
                Some(meeting) => meeting,
                None => self.meeting(launcher)?,
            };
            return Ok(Some(Process::by(launcher, rank, ranks, local_rank, meeting)));
        }
        Ok(None)
    }

    fn check_one_node(&self, launcher: Launcher, ranks: usize) -> Result<(), MeetError> {
        let local = |name: &str, text: &str| -> Result<(), MeetError> {
            match self.number(name)? {
                Some(local) if local != ranks => {
                    Err(MeetError::ManyNodes { seen: format!("{text}={ranks} and {name}={local}") })
                }
                _ => Ok(()),
            }
        };
        match launcher {
            Launcher::Myelon => Ok(()),
            Launcher::Torchrun => local("LOCAL_WORLD_SIZE", "WORLD_SIZE"),
            Launcher::OpenMpi => local("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
            Launcher::Pmi => local("MPI_LOCALNRANKS", "PMI_SIZE"),
            Launcher::Slurm => match self.first_number(&["SLURM_STEP_NUM_NODES", "SLURM_NNODES"])? {
                Some(nodes) if nodes != 1 => {
                    Err(MeetError::ManyNodes { seen: format!("Slurm says {nodes} nodes") })
                }
                _ => Ok(()),
            },
        }
    }

    /// A name that all ranks of this start derive alike, and no other start.
    fn meeting(&self, launcher: Launcher) -> Result<String, MeetError> {
        let parts = match launcher {
            Launcher::Myelon => {
                return Err(MeetError::setting("MYELON_MEETING", "a name beside MYELON_RANK", "nothing"));
            }
            Launcher::Torchrun => {
                let parts =
                    ["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"];
                parts.into_iter().filter_map(|name| self.text(name)).collect()
            }
            Launcher::OpenMpi => {
                self.first(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"]).into_iter().collect()
            }
            Launcher::Pmi => self.text("PMI_JOBID").into_iter().collect::<Vec<_>>(),
            Launcher::Slurm => {
                [self.text("SLURM_JOB_ID"), self.first(&SLURM_STEP)].into_iter().flatten().collect()
            }
        };
        let parts = match (parts.is_empty(), rustix::process::getppid()) {
            (false, _) => parts.join("-"),
            // The ranks of a node are children of one process of the launcher, unless something stands between.
            (true, Some(parent)) => format!("parent-{}", parent.as_raw_nonzero()),
            (true, None) => return Err(MeetError::setting("MYELON_MEETING", "a name", "nothing")),
        };
        Ok(format!("{}-{parts}", launcher.to_string().replace(' ', "-").to_lowercase()))
    }
}

impl Launcher {
    fn local_rank_name(self) -> &'static str {
        match self {
            Self::Myelon => "MYELON_RANK",
            Self::Torchrun => "LOCAL_RANK",
            Self::OpenMpi => "OMPI_COMM_WORLD_LOCAL_RANK",
            Self::Pmi => "MPI_LOCALRANKID",
            Self::Slurm => "SLURM_LOCALID",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&str, &str)]) -> Result<Option<Process>, MeetError> {
        let lookup = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string());
        Names(&lookup).process()
    }

    fn here(pairs: &[(&str, &str)]) -> (Launcher, usize, usize, usize, String) {
        let process = found(pairs).unwrap().unwrap();
        let meeting = process.meeting().to_owned();
        (process.launcher(), process.rank(), process.ranks(), process.local_rank(), meeting)
    }

    #[test]
    fn every_launcher_is_understood() {
        let ours = [("MYELON_RANK", "1"), ("MYELON_RANKS", "4"), ("MYELON_MEETING", "m")];
        assert_eq!(here(&ours), (Launcher::Myelon, 1, 4, 1, "m".into()));
        let torch = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "3"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RUN_ID", "none"),
            ("TORCHELASTIC_RESTART_COUNT", "0"),
        ];
        let meeting = "torchrun-none-127.0.0.1-29500-0".to_string();
        assert_eq!(here(&torch), (Launcher::Torchrun, 3, 4, 3, meeting));
        let ompi = [
            ("OMPI_COMM_WORLD_RANK", "0"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ("PMIX_NAMESPACE", "prterun-7@1"),
        ];
        assert_eq!(here(&ompi), (Launcher::OpenMpi, 0, 2, 0, "open-mpi-prterun-7@1".into()));
        let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("PMI_JOBID", "kvs_9")];
        assert_eq!(here(&pmi), (Launcher::Pmi, 1, 2, 1, "pmi-kvs_9".into()));
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_NNODES", "1"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "77"),
            ("SLURM_STEP_ID", "2"),
        ];
        assert_eq!(here(&slurm), (Launcher::Slurm, 1, 8, 1, "slurm-77-2".into()));
        let parent = here(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).4;
        assert!(parent.starts_with("pmi-parent-"), "{parent}");
    }

    #[test]
    fn what_was_started_last_counts_and_a_given_meeting_wins() {
        let both = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("MYELON_MEETING", "given"),
        ];
        assert_eq!(here(&both), (Launcher::OpenMpi, 1, 2, 1, "given".into()));
        // A number of ranks alone is no place, nor is a name that other programs use too.
        assert_eq!(found(&[("MYELON_RANKS", "4"), ("RANK", "2"), ("WORLD_SIZE", "")]), Ok(None));
        // A batch script of Slurm, before any srun.
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_JOB_ID", "7")]), Ok(None));
    }

    #[test]
    fn several_nodes_are_refused() {
        for pairs in [
            [("RANK", "0"), ("WORLD_SIZE", "16"), ("LOCAL_WORLD_SIZE", "8")],
            [
                ("OMPI_COMM_WORLD_RANK", "0"),
                ("OMPI_COMM_WORLD_SIZE", "4"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ],
            [("PMI_RANK", "0"), ("PMI_SIZE", "4"), ("MPI_LOCALNRANKS", "1")],
            [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_NNODES", "2")],
        ] {
            let error = found(&[&pairs[..], &[("SLURM_STEPID", "0")]].concat()).unwrap_err();
            assert!(matches!(error, MeetError::ManyNodes { .. }), "{error}");
            assert!(error.to_string().contains("one node"), "{error}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_and_named() {
        for (pairs, name) in [
            (&[("MYELON_RANK", "1")][..], "MYELON_RANKS"),
            (&[("MYELON_RANK", "1"), ("MYELON_RANKS", "2")], "MYELON_MEETING"),
            (&[("MYELON_RANK", "one"), ("MYELON_RANKS", "2")], "MYELON_RANK"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK"),
            (&[("RANK", "0"), ("WORLD_SIZE", "-2")], "WORLD_SIZE"),
        ] {
            match found(pairs) {
                Err(MeetError::Setting { name: seen, .. }) => assert_eq!(seen, name),
                other => panic!("{other:?}"),
            }
        }
    }
}
