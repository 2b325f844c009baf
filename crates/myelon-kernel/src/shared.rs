//! Memory that may be dropped while streams still use it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::Device;
use crate::error::KernelError;
use crate::memory::DeviceMemory;
use crate::stream::{DeviceEvent, DeviceStream};

/// The streams that use something.
#[derive(Default)]
pub(crate) struct Users(Mutex<Vec<Arc<DeviceStream>>>);

impl Users {
    /// From now on `stream` is one of them.
    pub fn add(&self, stream: &Arc<DeviceStream>) {
        let mut users = lock(&self.0);
        if !users.iter().any(|user| Arc::ptr_eq(user, stream)) {
            users.push(stream.clone());
        }
    }

    /// Drops `what` once none of them can use it any more, and does not wait for that.
    pub fn bury(&self, what: Box<dyn Send>) {
        reap();
        let users = std::mem::take(&mut *lock(&self.0));
        // A stream whose state cannot be told will not run again either.
        let busy = users.iter().filter(|user| matches!(user.query(), Ok(false)));
        let ends: Vec<_> = busy.filter_map(|user| end_of(user).ok()).collect();
        if ends.is_empty() {
            return drop(what);
        }
        lock(&GRAVEYARD).push(Buried { ends, _what: what });
    }
}

fn end_of(stream: &DeviceStream) -> Result<DeviceEvent, KernelError> {
    let event = DeviceEvent::new(stream.device())?;
    stream.record(&event)?;
    Ok(event)
}

/// What waits for streams to end before it is dropped.
struct Buried {
    ends: Vec<DeviceEvent>,
    _what: Box<dyn Send>,
}

static GRAVEYARD: Mutex<Vec<Buried>> = Mutex::new(Vec::new());

/// Drops what no stream uses any more.
fn reap() {
    let mut free = Vec::new();
    let mut buried = lock(&GRAVEYARD);
    for index in (0..buried.len()).rev() {
        if !buried[index].ends.iter().any(|end| matches!(end.query(), Ok(false))) {
            free.push(buried.swap_remove(index));
        }
    }
    // Dropped without the lock.
    drop(buried);
}

/// [`DeviceMemory`] that remembers which streams use it: dropping it never waits, and never takes memory
/// away from work that is queued. What must stay is freed by a later allocation or drop.
pub struct SharedMemory {
    memory: Option<DeviceMemory>,
    users: Users,
}

impl SharedMemory {
    /// As [`DeviceMemory::allocate`], for `device` alone.
    ///
    /// # Errors
    ///
    /// Those of [`DeviceMemory::allocate`].
    pub fn allocate(device: &Device, bytes: usize) -> Result<Self, KernelError> {
        reap();
        Ok(Self { memory: Some(DeviceMemory::allocate(device, bytes, &[])?), users: Users::default() })
    }

    /// The memory itself. Queue work on it only on streams that [`SharedMemory::used_by`] was told of.
    pub fn memory(&self) -> &DeviceMemory {
        self.memory.as_ref().expect("taken only by drop")
    }

    /// Keeps the memory for what is queued on `stream`, before and after this call.
    pub fn used_by(&self, stream: &Arc<DeviceStream>) {
        self.users.add(stream);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.users.bury(Box::new(self.memory.take()));
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({:#x}, {} bytes)", self.memory().address(), self.memory().bytes())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
