//! Where the owners of foreign memory are dropped: on a thread of their own, for what they do then is theirs. `cudaFree`, for one,
//! waits for all that runs on its GPU, so also for a kernel that waits for a call which the dropping thread would make next.
//!
//! The thread lives while there are owners to drop. They are dropped one after the other, in the order in which they came; those
//! that are left when the process ends are not.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::graph::Beside;

/// What is dropped there.
type Owner = Box<dyn Send>;

static LEFT: Mutex<Left> = Mutex::new(Left { owners: VecDeque::new(), has_thread: false });

struct Left {
    owners: VecDeque<Owner>,
    has_thread: bool,
}

fn left() -> MutexGuard<'static, Left> {
    // Nothing panics while it is held.
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops `owner`, which may wait for anything, soon, on a thread that drops such values one after the other; does not wait for that.
/// What is left when the process ends is not dropped.
pub fn drop_aside(owner: impl Send + 'static) {
    let mut left = left();
    left.owners.push_back(Box::new(owner));
    if left.has_thread {
        return;
    }
    // Begun with the queue locked: the thread finds it as this leaves it.
    match std::thread::Builder::new().name("myelon owners".into()).spawn(drop_all) {
        Ok(_) => left.has_thread = true,
        Err(error) => {
            tracing::warn!(%error, "no thread for the owners of memory: they stay until the next one comes")
        }
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
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(owner))) {
            tracing::warn!("an owner of memory panicked when it was dropped");
            // It might panic, too.
            std::mem::forget(payload);
        }
    }
}
