//! How communicators are made.

use std::sync::Arc;
use std::time::Duration;

use myelon_lanes::{Forced, Machine, Origin, Policy, RANKS_MAX, Tuning};
use myelon_meet::Process;

use crate::backend::{Backend, Opened};
use crate::communicator::Communicator;
use crate::error::{Error, ErrorKind};
use crate::graph::refuse_in_capture;
use crate::record::RecordPlace;
use crate::settings::{Kernels, Settings};
use crate::tuning_file::{Tuned, TuningFile};
use crate::{cuda, host};

/// How long a wait may take unless [`Builder::deadline`] says otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// Ranks on the host if nothing says otherwise.
const HOST_RANKS_DEFAULT: usize = 2;

/// What a communicator shall be; what is not said is chosen. See [`Communicator::builder`].
///
/// # Example
///
/// ```
/// use myelon_collectives::{Backend, Communicator};
/// use std::time::Duration;
///
/// let ranks = Communicator::builder()
///     .backend(Backend::Host)
///     .ranks(4)
///     .deadline(Duration::from_secs(5))
///     .build()?;
/// assert_eq!(ranks.len(), 4);
/// assert_eq!((ranks[3].rank(), ranks[3].ranks()), (3, 4));
/// # Ok::<(), myelon_collectives::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    backend: Backend,
    config: Config,
}

/// What a backend is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub ranks: Option<usize>,
    pub devices: Vec<usize>,
    tuning: Option<Tuning>,
    forced: Option<Forced>,
    policy: Option<Policy>,
    deadline: Option<Duration>,
    first_sequence: u64,
    pub kernels: Kernels,
    /// Every buffer of every call is a window.
    pub windows: bool,
    /// Sums may be in an order that depends on the plan.
    pub any_order: bool,
    tuning_file: TuningFile,
    /// Where calls are recorded.
    pub record: RecordPlace,
}

impl Builder {
    /// A builder that follows the environment's [`Settings`].
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::Settings`]: an unknown name or a value that means nothing.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self::default().settings(Settings::from_env()?))
    }

    /// Takes over what `settings` say; what they do not say stays.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        let Settings {
            backend,
            ranks,
            forced,
            policy,
            deadline,
            kernels,
            windows,
            any_order,
            tuning,
            record,
        } = settings;
        self.backend = backend.unwrap_or(self.backend);
        let config = &mut self.config;
        config.ranks = ranks.or(config.ranks);
        config.forced = if forced.is_empty() { config.forced } else { Some(forced) };
        config.policy = policy.or(config.policy);
        config.deadline = deadline.or(config.deadline);
        config.kernels = kernels;
        config.windows = windows.unwrap_or(config.windows);
        config.any_order = any_order.unwrap_or(config.any_order);
        config.record = record.unwrap_or_else(|| std::mem::take(&mut config.record));
        config.tuning_file = tuning.unwrap_or_else(|| std::mem::take(&mut config.tuning_file));
        self
    }

    /// Which backend; [`Backend::Auto`] if not said.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Number of ranks, 2 to 8. If not said: the number of devices named, or all GPUs, or 2 on the host.
    #[must_use]
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.config.ranks = Some(ranks);
        self
    }

    /// The CUDA devices, one for each rank in rank order; the first ones if not said. The host has none:
    /// its ranks are counted from 0. A device that is named more than once has several ranks, which share
    /// its multiprocessors: good for tests, not for speed.
    #[must_use]
    pub fn devices(mut self, devices: Vec<usize>) -> Self {
        self.config.devices = devices;
        self
    }

    /// What plans the calls; made for the machine if not said. The same for all ranks.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.config.tuning = Some(tuning);
        self
    }

    /// The tuning file that plans follow; [`TuningFile::None`] if not said, and what the environment says with
    /// [`Builder::from_env`]. Not looked for where [`Builder::tuning`] gives a tuning, which has a table of its own.
    #[must_use]
    pub fn tuning_file(mut self, file: impl Into<TuningFile>) -> Self {
        self.config.tuning_file = file.into();
        self
    }

    /// Numbers of the plan that are forced: honoured or refused. Takes the place of the tuning's own.
    #[must_use]
    pub fn forced(mut self, forced: Forced) -> Self {
        self.config.forced = Some(forced);
        self
    }

    /// Where the numbers come from that are not forced. Takes the place of the tuning's own.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = Some(policy);
        self
    }

    /// Promises that every buffer of every call is memory that this communicator's ranks allocated
    /// ([`Communicator::buffer`], [`Communicator::region`]) or registered ([`Communicator::register`]), so that data may go
    /// from buffer to buffer without staging: faster for middle sizes. The same on all ranks. Calls with other memory are
    /// then refused; calls with registered memory that could not be shared are staged. Not promised if not said; the host
    /// has no use for it.
    #[must_use]
    pub fn windows(mut self, windows: bool) -> Self {
        self.config.windows = windows;
        self
    }

    /// Allows sums of floats in an order that depends on the plan, and so on the size, the lanes and the slots: then
    /// [`Algorithm::Neighbour`](myelon_lanes::Algorithm::Neighbour) may be forced, for the largest sizes on 3 to 8 GPUs. All
    /// ranks still get the same bits, at every run of the same plan. It is never chosen by itself: where nothing is forced,
    /// this changes no plan and no result, and adds 8 MiB to each GPU's window. The same on all ranks. Not allowed if not
    /// said; the host has no use for it.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator};
    /// use myelon_lanes::{Algorithm, Forced};
    ///
    /// let forced = Forced { algorithm: Some(Algorithm::Neighbour), ..Forced::default() };
    /// let builder = Communicator::builder().forced(forced).any_order(true);
    /// // Host ranks have the ring alone: it is refused, with what was needed.
    /// let refused = builder.backend(Backend::Host).ranks(3).build().unwrap_err();
    /// assert!(refused.to_string().contains("neighbour cannot run here: it needs GPUs as ranks"));
    /// ```
    #[must_use]
    pub fn any_order(mut self, any_order: bool) -> Self {
        self.config.any_order = any_order;
        self
    }

    /// How long a rank may wait for its peers without any progress; [`DEADLINE_DEFAULT`] if not said. After a tenth
    /// of it, but not before a second, an event warns of the call, once: on the host with the peer and what is
    /// awaited, on GPUs when its completion is waited for.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = Some(deadline);
        self
    }

    /// Where each rank records its last calls; [`RecordPlace::Usual`] if not said. See `myelon top` and `myelon
    /// doctor`.
    #[must_use]
    pub fn record(mut self, place: impl Into<RecordPlace>) -> Self {
        self.config.record = place.into();
        self
    }

    /// The sequence of the first slot of every ring, 0 if not said. For tests near the wrap.
    #[must_use]
    pub fn first_sequence(mut self, first_sequence: u64) -> Self {
        self.config.first_sequence = first_sequence;
        self
    }

    /// Makes the communicators of all ranks, in rank order. Each may go to a thread of its own.
    ///
    /// All memory of the rings is allocated here: [`Communicator::ring_bytes`].
    ///
    /// # Errors
    ///
    /// * [`Error::InvalidArgument`], [`Error::Plan`]: a number is out of range, or a forced one can't be had.
    /// * [`Error::TuningFile`]: a tuning file was named and cannot be taken.
    /// * [`Error::NoDriver`], [`Error::NoDevice`], [`Error::NoPeerAccess`], [`Error::Unsupported`],
    ///   [`Error::NotResident`]: this machine's GPUs can't be used. [`Backend::Auto`] then takes the host, and
    ///   [`Communicator::backend_reason`] says why; but not where devices were named, which insists on CUDA.
    /// * [`Error::Driver`]: the driver failed. Nothing falls back.
    /// * [`Error::OutOfMemory`], [`Error::Ring`]: memory or threads are short.
    pub fn build(self) -> Result<Vec<Communicator>, Error> {
        refuse_in_capture("a new communicator")?;
        let Self { backend, config } = self;
        config.check()?;
        let _span = tracing::debug_span!("open", %backend, ranks = config.ranks).entered();
        let (Opened { ranks, tuned }, reason) = match backend {
            Backend::Host => {
                if !config.devices.is_empty() {
                    let seen = format!("devices {:?} for the host backend", config.devices);
                    return Err(Error::invalid("devices", "the cuda backend", seen));
                }
                (host::open(&config)?, "the host backend was asked for".to_owned())
            }
            Backend::Cuda => (cuda::open(&config)?, "the cuda backend was asked for".to_owned()),
            Backend::Auto => match cuda::open(&config) {
                Ok(opened) => (opened, "CUDA can be used".to_owned()),
                Err(error) if config.may_do_without(&error) => {
                    (host::open(&config)?, format!("CUDA can't be used: {error}"))
                }
                Err(error) => return Err(error),
            },
        };
        let count = ranks.len();
        tracing::info!(ranks = count, reason, table = tuned.reason, "communicator opened");
        let tuned = Arc::new(tuned);
        let mut communicators = Vec::with_capacity(count);
        for (rank, backend) in ranks.into_iter().enumerate() {
            communicators.push(Communicator::new(rank, count, backend, tuned.clone(), reason.clone())?);
        }
        Ok(communicators)
    }
}

impl Builder {
    /// Makes the communicator of one rank, which is this process; its peers are other processes on this node, which
    /// do the same with the same settings. Returns when all ranks are there.
    ///
    /// On [`Backend::Cuda`] the process's GPU is the one that [`Builder::devices`] names, alone; else the one of its number
    /// on the node ([`Process::local_rank`]), or the only one where `CUDA_VISIBLE_DEVICES` shows just one. Ranks that share
    /// a GPU are refused unless each names it. [`Backend::Auto`] takes GPUs where this process sees one for each rank.
    /// Buffers that are made then are mapped by all ranks, by a thread of each; so a rank can make one while its peers do
    /// something else, but not while one is stopped.
    ///
    /// # Errors
    ///
    /// * [`Error::Meeting`]: the ranks did not meet within [`Process::within`], were refused, or differ in what must be
    ///   the same: the version of the library, the number of ranks, the backend, the rings, the deadline, the first
    ///   sequence, on GPUs also their model, the promise of [`Builder::windows`] and the permission of
    ///   [`Builder::any_order`].
    /// * [`Error::PeerFailed`]: a peer could not do its part, and why.
    /// * Those of [`Builder::build`].
    ///
    /// # Example
    ///
    /// Two threads stand for two processes here.
    ///
    /// ```
    /// use myelon_collectives::{Backend, Communicator, Process, ReduceOp};
    ///
    /// let meeting = format!("example-{}", std::process::id());
    /// let sum = |rank| {
    ///     let process = Process::new(rank, 2, meeting.clone());
    ///     let mut rank = Communicator::builder().backend(Backend::Host).join(&process)?;
    ///     let stream = rank.stream().clone();
    ///     let mut buffer = rank.buffer::<f32>(3)?;
    ///     buffer.write(&stream, &[1.0 + rank.rank() as f32; 3])?;
    ///     rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream)?;
    ///     buffer.read(&stream)
    /// };
    /// std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| sum(1));
    ///     assert_eq!(sum(0)?, [3.0; 3]);
    ///     assert_eq!(other.join().unwrap()?, [3.0; 3]);
    ///     Ok::<_, myelon_collectives::Error>(())
    /// })?;
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn join(self, process: &Process) -> Result<Communicator, Error> {
        refuse_in_capture("a new communicator")?;
        let Self { backend, mut config } = self;
        let ranks = process.ranks();
        if let Some(asked) = config.ranks.filter(|&asked| asked != ranks) {
            let needed = format!("{ranks}, as {} says", process.launcher());
            return Err(Error::invalid("ranks", needed, asked));
        }
        config.ranks = Some(ranks);
        Config { devices: Vec::new(), ..config.clone() }.check()?;
        if backend == Backend::Host && !config.devices.is_empty() {
            let seen = format!("devices {:?} for the host backend", config.devices);
            return Err(Error::invalid("devices", "the cuda backend", seen));
        }
        let (device, reason) = match backend {
            Backend::Host => (None, "the host backend was asked for".to_owned()),
            Backend::Cuda => {
                (Some(cuda::own_device(&config, process)?), "the cuda backend was asked for".to_owned())
            }
            Backend::Auto => match cuda::own_device(&config, process) {
                Ok(device) => (Some(device), "CUDA can be used".to_owned()),
                Err(error) if config.may_do_without(&error) => (None, format!("CUDA can't be used: {error}")),
                Err(error) => return Err(error),
            },
        };
        let (rank, tuned) = match device {
            Some(device) => cuda::join(&config, process, device)?,
            None => host::join(&config, process)?,
        };
        tracing::info!(rank = process.rank(), ranks, reason, table = tuned.reason, "communicator joined");
        Communicator::new(process.rank(), ranks, rank, Arc::new(tuned), reason)
    }
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let named = (!self.devices.is_empty()).then_some(self.devices.len());
        for ranks in self.ranks.into_iter().chain(named) {
            if !(2..=RANKS_MAX as usize).contains(&ranks) {
                return Err(Error::invalid("ranks", format!("a number from 2 to {RANKS_MAX}"), ranks));
            }
        }
        if let (Some(ranks), Some(named)) = (self.ranks, named)
            && ranks != named
        {
            return Err(Error::invalid("devices", format!("one for each of {ranks} ranks"), named));
        }
        if self.deadline() == Duration::ZERO {
            return Err(Error::invalid("deadline", "more than nothing", "0"));
        }
        Ok(())
    }

    /// Whether `error` only says that this machine has no GPUs that can be used, and none were insisted on.
    /// What was forced and can't be had is no reason to run something else.
    fn may_do_without(&self, error: &Error) -> bool {
        let absent = matches!(
            error.kind(),
            ErrorKind::NoDriver
                | ErrorKind::NoDevice
                | ErrorKind::NoPeerAccess
                | ErrorKind::Unsupported
                | ErrorKind::NotResident
        );
        absent && self.devices.is_empty()
    }

    /// Ranks on the host.
    pub fn host_ranks(&self) -> usize {
        self.ranks.unwrap_or(if self.devices.is_empty() { HOST_RANKS_DEFAULT } else { self.devices.len() })
    }

    pub fn deadline(&self) -> Duration {
        self.deadline.unwrap_or(DEADLINE_DEFAULT)
    }

    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// The tuning that was given, or one for `machine` with the table of the file that is followed; for `ranks`
    /// ranks, and with what is forced.
    pub fn tuned(&self, machine: Machine, ranks: u32, origin: Origin) -> Result<Tuned, Error> {
        let plain = self.tuning(|| machine);
        match self.tuning {
            Some(_) => Ok(Tuned::without(plain, origin, "that of the tuning that was given")),
            None => Tuned::follow(&self.tuning_file, plain, origin, ranks),
        }
    }

    /// `tuned` for `machine`, which is this one when more is known of it; what was given stays.
    pub fn tuned_on(&self, tuned: Tuned, machine: Machine, ranks: u32) -> Result<Tuned, Error> {
        if self.tuning.is_some() { Ok(tuned) } else { tuned.on(machine, ranks) }
    }

    /// The tuning that was given or one for `machine`, with what is forced.
    fn tuning(&self, machine: impl FnOnce() -> Machine) -> Tuning {
        let tuning = self.tuning.clone().unwrap_or_else(|| Tuning::new(machine()));
        let mut tuning = tuning.windows(self.windows).any_order(self.any_order);
        if let Some(policy) = self.policy {
            tuning = tuning.policy(policy);
        }
        if let Some(forced) = self.forced {
            tuning = tuning.forced(forced);
        }
        tuning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_does_without_gpus_that_are_not_there_and_with_nothing_else() {
        let (any, named) = (Config::default(), Config { devices: vec![0, 1], ..Config::default() });
        let absent = Error::NoDriver { probe: "libcuda".into(), reason: String::new() };
        assert!(any.may_do_without(&absent));
        assert!(!named.may_do_without(&absent));
        let refused = any.tuning(Machine::h200).forced(Forced { lanes: Some(0), ..Forced::default() });
        assert!(!any.may_do_without(&refused.pool(2).unwrap_err().into()));
        let failed = Error::Driver { call: String::new(), reason: String::new() };
        assert!(!any.may_do_without(&failed));
        let short = Error::OutOfMemory { what: String::new(), reason: String::new() };
        assert!(!any.may_do_without(&short));
    }
}
