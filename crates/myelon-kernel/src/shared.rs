//! Memory that may be dropped while streams still use it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use myelon_ring::words::RANKS_MAX;

use crate::device::Device;
use crate::error::KernelError;
use crate::foreign::{Exported, ForeignMemory, Handles};
use crate::graph::{Beside, thread_captures};
use crate::memory::{DeviceMemory, DeviceSpan};
use crate::operand::Operand;
use crate::peer::Mapped;
use crate::stream::{DeviceEvent, DeviceStream};

/// Work that was queued on a stream: the stream itself where it is ours, and the end of the work where it is
/// somebody else's, who may destroy it at any time.
#[derive(Clone)]
pub enum StreamUse {
    /// A stream that lives as long as this.
    Ours(Arc<DeviceStream>),
    /// A borrowed stream.
    Theirs {
        /// The end of what was queued.
        end: Arc<DeviceEvent>,
    },
}

impl StreamUse {
    /// Whether the work is done. An error says so only where nothing on the GPU can run any more, and a
    /// capture that forbids the question says no.
    pub fn is_done(&self) -> bool {
        if thread_captures() {
            return false;
        }
        let _beside = Beside::begin();
        let state = match self {
            Self::Ours(stream) => stream.query(),
            Self::Theirs { end, .. } => end.query(),
        };
        match state {
            Ok(done) => done,
            // A capture under way elsewhere forbids the question.
            Err(KernelError::Driver { code, .. }) => !CAPTURE_ERRORS.contains(&code),
            Err(_) => false,
        }
    }

    /// Makes `next` wait for the work, unless it is queued on `next` itself.
    ///
    /// # Errors
    ///
    /// [`KernelError::Driver`].
    pub fn precede(&self, next: &DeviceStream) -> Result<(), KernelError> {
        match self {
            Self::Ours(stream) if stream.raw() == next.raw() => Ok(()),
            // Not told by its handle, which the driver may have given to another stream by now.
            _ => next.wait(&*self.end()?),
        }
    }

    /// The same work, known by an event of its own: what the stream does later no longer matters.
    ///
    /// # Errors
    ///
    /// [`KernelError::Captured`] while the stream is captured; [`KernelError::Driver`].
    pub fn ended(&self) -> Result<Self, KernelError> {
        Ok(Self::Theirs { end: self.end()? })
    }

    fn end(&self) -> Result<Arc<DeviceEvent>, KernelError> {
        match self {
            Self::Ours(stream) => {
                if thread_captures() {
                    return Err(KernelError::Captured { what: "an event" });
                }
                let _eager = stream.not_captured("an event")?;
                let event = DeviceEvent::new(stream.device())?;
                stream.record(&event)?;
                Ok(Arc::new(event))
            }
            Self::Theirs { end, .. } => Ok(end.clone()),
        }
    }
}

/// The driver's codes for what a capture does not allow.
const CAPTURE_ERRORS: std::ops::RangeInclusive<u32> = 900..=908;

/// A use that is about to begin: whatever can be short is made before anything is queued.
pub(crate) struct Prepared(StreamUse);

impl Prepared {
    pub fn new(stream: &Arc<DeviceStream>) -> Result<Self, KernelError> {
        Ok(Self(if stream.is_owned() {
            StreamUse::Ours(stream.clone())
        } else {
            StreamUse::Theirs { end: Arc::new(DeviceEvent::new(stream.device())?) }
        }))
    }

    /// The work has been queued on `stream`.
    pub fn queued(self, stream: &DeviceStream) -> Result<StreamUse, KernelError> {
        if let StreamUse::Theirs { end } = &self.0 {
            stream.record(end)?;
        }
        Ok(self.0)
    }
}

/// What uses something.
#[derive(Default)]
pub(crate) struct Users(Mutex<Vec<StreamUse>>);

impl Users {
    /// From now on `new` is one of them.
    pub fn add(&self, new: &StreamUse) {
        let mut users = lock(&self.0);
        if let StreamUse::Ours(new) = new {
            let same = |user: &StreamUse| matches!(user, StreamUse::Ours(old) if Arc::ptr_eq(old, new));
            if users.iter().any(same) {
                return;
            }
        }
        if users.len() >= MANY {
            users.retain(|user| !user.is_done());
        }
        users.push(new.clone());
    }

    /// Drops `what` once none of them, nor of `others`, can use it any more, and does not wait for that.
    pub fn bury(&self, others: &[Arc<Users>], what: Box<dyn Send>) {
        let _beside = (!thread_captures()).then(Beside::begin);
        let mut users = std::mem::take(&mut *lock(&self.0));
        others.iter().for_each(|others| users.extend(lock(&others.0).iter().cloned()));
        let busy = users.iter().filter(|user| !user.is_done());
        let ended = busy.map(|user| match user.ended() {
            // Asked again when the capture is over.
            Err(KernelError::Captured { .. }) => Ok(user.clone()),
            other => other,
        });
        let Ok(uses) = ended.collect::<Result<Vec<_>, _>>() else {
            // Nobody can tell when it is free: it stays.
            tracing::debug!("memory is left to the end of the process");
            return std::mem::forget(what);
        };
        if uses.is_empty() && !thread_captures() {
            return drop(what);
        }
        lock(&GRAVEYARD).push(Buried { uses, _what: what });
    }
}

/// So many users are looked through before another one is added.
const MANY: usize = 32;

/// What waits for streams to end before it is dropped, or for a capture of this thread.
struct Buried {
    uses: Vec<StreamUse>,
    _what: Box<dyn Send>,
}

static GRAVEYARD: Mutex<Vec<Buried>> = Mutex::new(Vec::new());

/// Drops what was left to streams that used it, and that none uses any more; the owners of foreign memory are dropped a little
/// later. Whatever allocates or drops memory does so, too; while this thread captures, nothing is done. Not for a thread that
/// must not wait: what communicators had of the host is freed here, and the driver may wait for the GPU then.
pub fn reap() {
    if thread_captures() {
        return;
    }
    let mut buried = lock(&GRAVEYARD);
    if buried.is_empty() {
        return;
    }
    let _beside = Beside::begin();
    let mut free = Vec::new();
    for index in (0..buried.len()).rev() {
        if buried[index].uses.iter().all(StreamUse::is_done) {
            free.push(buried.swap_remove(index));
        }
    }
    // Dropped without the lock.
    drop(buried);
}

/// Memory that remembers which streams use it: dropping it never waits, and never takes memory away from work that is
/// queued. What must stay is freed by a later allocation or drop.
pub struct SharedMemory {
    /// `None` only while it is dropped.
    memory: Option<Backing>,
    users: Users,
    /// The users of communicators whose ranks reach it from other GPUs.
    reached: Mutex<Vec<Arc<Users>>>,
    offered: OnceLock<Offer>,
}

/// What a [`SharedMemory`] is.
enum Backing {
    Ours(DeviceMemory),
    Theirs(ForeignMemory),
}

/// Where ranks that are other processes reach a memory: `[ranks]` addresses, once all have said.
pub type ReachedAt = Arc<OnceLock<[u64; RANKS_MAX]>>;

/// What the ranks of a communicator were told of a memory that they know by addresses of their own.
struct Offer {
    /// The users of the communicator.
    group: Arc<Users>,
    reached_at: ReachedAt,
    _farewell: Farewell,
}

/// Is run when it is dropped.
pub(crate) struct Farewell(pub Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(farewell) = self.0.take() {
            farewell();
        }
    }
}

impl SharedMemory {
    /// As [`DeviceMemory::allocate`].
    ///
    /// # Errors
    ///
    /// Those of [`DeviceMemory::allocate`]; [`KernelError::Captured`] while this thread captures a stream.
    pub fn allocate(device: &Device, bytes: usize, peers: &[Device]) -> Result<Self, KernelError> {
        if thread_captures() {
            return Err(KernelError::Captured { what: "an allocation" });
        }
        reap();
        Ok(Self::new(Backing::Ours(DeviceMemory::allocate(device, bytes, peers)?)))
    }

    /// Memory of somebody else. Its owner is dropped when no queued work uses it any more.
    pub fn foreign(memory: ForeignMemory) -> Self {
        Self::new(Backing::Theirs(memory))
    }

    /// The bytes of `operand` as memory of its own, to be offered by itself, which keeps what it is a part of. None
    /// where nothing keeps that.
    pub fn part_of(operand: &Operand) -> Option<Self> {
        let Operand::Shared { memory, .. } = operand else { return None };
        let span = operand.span().ok()?;
        Some(Self::foreign(ForeignMemory::kept(memory.device(), span, operand.clone())))
    }

    fn new(backing: Backing) -> Self {
        let (users, reached, offered) = (Users::default(), Mutex::default(), OnceLock::new());
        Self { memory: Some(backing), users, reached, offered }
    }

    fn backing(&self) -> &Backing {
        self.memory.as_ref().expect("taken only by drop")
    }

    /// The GPU whose memory it is.
    pub fn device(&self) -> &Device {
        match self.backing() {
            Backing::Ours(memory) => memory.device(),
            Backing::Theirs(memory) => memory.device(),
        }
    }

    /// Whether somebody else allocated it.
    pub fn is_foreign(&self) -> bool {
        matches!(self.backing(), Backing::Theirs(_))
    }

    /// The first address, for its own GPU and process.
    pub fn address(&self) -> u64 {
        self.whole().address()
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.whole().bytes()
    }

    /// All of it. [`SharedMemory::used_by`] must be told of the work that is queued on it.
    pub(crate) fn whole(&self) -> DeviceSpan {
        match self.backing() {
            Backing::Ours(memory) => memory.whole(),
            Backing::Theirs(memory) => memory.span(),
        }
    }

    /// Whether `devices` reach it where its owner does.
    pub(crate) fn is_reached_by(&self, devices: &[Device]) -> bool {
        match self.backing() {
            Backing::Ours(memory) => devices.iter().all(|device| memory.is_reached_by(device.ordinal())),
            // What others let their GPUs reach is no promise to us.
            Backing::Theirs(memory) => {
                devices.iter().all(|device| device.ordinal() == memory.device().ordinal())
            }
        }
    }

    /// Maps it once more for `users`, where it is somebody else's; returns the mapping, and how far in it this memory begins.
    pub(crate) fn map_again(&self, users: &[&Device]) -> Result<(Mapped, u64), KernelError> {
        match self.backing() {
            Backing::Theirs(memory) => memory.map_again(users),
            Backing::Ours(_) => {
                let reason = "it was allocated for other GPUs".into();
                Err(KernelError::NotShareable { reason })
            }
        }
    }

    /// What ranks in other processes need for [`crate::PeerMemory::import_all`] or [`crate::PeerMemory::open`].
    ///
    /// # Errors
    ///
    /// [`KernelError::NotExportable`] and [`KernelError::NotShareable`], which say why; [`KernelError::Driver`].
    pub fn export(&self) -> Result<Exported, KernelError> {
        match self.backing() {
            Backing::Theirs(memory) => memory.export(),
            Backing::Ours(memory) => {
                let handles = Handles::Pages(vec![(memory.export()?, memory.mapped_bytes())]);
                Ok(Exported { handles, offset: 0 })
            }
        }
    }

    /// As [`DeviceMemory::fill`].
    ///
    /// # Errors
    ///
    /// Those of [`DeviceMemory::fill`].
    pub fn fill(&self, stream: &DeviceStream, byte: u8) -> Result<(), KernelError> {
        // SAFETY: `self` is borrowed until the stream has finished.
        unsafe { stream.fill(self.whole(), byte) }?;
        stream.synchronize()
    }

    /// Keeps the memory until the work is done.
    pub fn used_by(&self, work: &StreamUse) {
        self.users.add(work);
    }

    /// Keeps the memory until whatever `users` have queued by its end is done.
    pub(crate) fn reached_by(&self, users: &Arc<Users>) {
        let mut reached = lock(&self.reached);
        if !reached.iter().any(|known| Arc::ptr_eq(known, users)) {
            reached.push(users.clone());
        }
    }

    /// The ranks of `group` may reach it, and do where `reached_at` says.
    pub(crate) fn offer(
        &self,
        group: &Arc<Users>,
        reached_at: ReachedAt,
        farewell: Box<dyn FnOnce() + Send + Sync>,
    ) {
        let offer = Offer { group: group.clone(), reached_at, _farewell: Farewell(Some(farewell)) };
        // Else it is dropped, and says farewell.
        let _ = self.offered.set(offer);
    }

    /// Where the ranks of `group` reach it.
    pub(crate) fn offered_to(&self, group: &Arc<Users>) -> Option<[u64; RANKS_MAX]> {
        let offer = self.offered.get().filter(|offer| Arc::ptr_eq(&offer.group, group))?;
        offer.reached_at.get().copied()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let reached = std::mem::take(&mut *lock(&self.reached));
        reap();
        // The farewell is run when nobody here uses it any more, and before its owner may free it.
        self.users.bury(&reached, Box::new((self.offered.take(), self.memory.take())));
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({:#x}, {} bytes)", self.address(), self.bytes())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
