//! Where the owners of foreign memory are dropped: on a thread of their own, for what they do then is theirs. `cudaFree`, for one,
//! waits for all that runs on its GPU, so also for a kernel that waits for a call which the dropping thread would make next.
//!
//! The thread lives while there are owners to drop. They are dropped one after the other, in the order in which they came.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::graph::Beside;

/// What keeps foreign memory.
pub(crate) type Owner = Box<dyn Send + Sync>;

static LEFT: Mutex<Left> = Mutex::new(Left { owners: VecDeque::new(), has_thread: false });

struct Left {
    owners: VecDeque<Owner>,
    has_thread: bool,
}

fn left() -> MutexGuard<'static, Left> {
    // Nothing panics while it is held.
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops `owner` soon, and does not wait for it.
pub(crate) fn leave(owner: Owner) {
    let mut left = left();
    left.owners.push_back(owner);
    if std::mem::replace(&mut left.has_thread, true) {
        return;
    }
    drop(left);
    let begun = std::thread::Builder::new().name("myelon-owners".into()).spawn(drop_all);
    if let Err(error) = begun {
        tracing::warn!(%error, "no thread for the owners of memory: they are dropped here, and may wait");
        drop_all();
    }
}

fn drop_all() {
    // Captures of other libraries forbid this thread nothing, and are not broken by what owners do.
    let _beside = Beside::begin();
    loop {
        let mut left = left();
        let Some(owner) = left.owners.pop_front() else {
            left.has_thread = false;
            return;
        };
        drop(left);
        if catch_unwind(AssertUnwindSafe(|| drop(owner))).is_err() {
            tracing::warn!("an owner of memory panicked when it was dropped");
        }
    }
}
