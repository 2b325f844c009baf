//! Threads that wait in the driver can't say that they wait long, nor for what, so one thread of the process does it for
//! them. It never calls the driver, which may keep a caller for as long as a call hangs.
//!
//! It costs a wait two short locks. The thread looks at the waits that are under way a few times a second, and
//! sleeps for good while there are none.

use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who is told that a wait is late.
pub(super) trait Watched: Send + Sync {
    /// `rank` still waits. Said at every look.
    fn look(&self, rank: usize);

    /// `rank` has waited for `waited` for its calls up to number `call` to complete. Said once a wait.
    fn late(&self, rank: usize, call: u64, waited: Duration);
}

/// How often the thread looks.
const TICK: Duration = Duration::from_millis(100);
/// Looks without a wait after which it sleeps.
const IDLE_TICKS: u32 = 50;

struct Entry {
    id: u64,
    watched: Arc<dyn Watched>,
    rank: usize,
    call: u64,
    since: Instant,
    late_after: Duration,
    was_late: bool,
}

#[derive(Default)]
struct Waits {
    under_way: Vec<Entry>,
    next_id: u64,
    sleeps: bool,
}

/// The waits of a process, and the thread that looks at them.
#[derive(Default)]
struct Watch {
    waits: Mutex<Waits>,
    woken: Condvar,
}

/// The watch of this process; none where it could have no thread.
fn watch() -> Option<&'static Watch> {
    static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);
    static IS_STARTED: LazyLock<bool> = LazyLock::new(|| {
        let thread = std::thread::Builder::new().name("myelon late".into());
        thread.spawn(|| WATCH.look()).is_ok()
    });
    IS_STARTED.then_some(&*WATCH)
}

/// A wait that is under way until this is dropped.
pub(super) struct Waiting(Option<(&'static Watch, u64)>);

impl Waiting {
    /// `rank` begins to wait for its calls up to number `call`.
    pub fn begin(watched: Arc<dyn Watched>, rank: usize, call: u64, late_after: Duration) -> Self {
        let Some(watch) = watch() else { return Self(None) };
        let mut waits = watch.lock();
        let id = waits.next_id;
        waits.next_id += 1;
        let (since, was_late) = (Instant::now(), false);
        waits.under_way.push(Entry { id, watched, rank, call, since, late_after, was_late });
        if waits.sleeps {
            watch.woken.notify_one();
        }
        Self(Some((watch, id)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((watch, id)) = self.0 {
            watch.lock().under_way.retain(|entry| entry.id != id);
        }
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Waits> {
        // Nothing panics while it is held.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let mut idle = 0;
        loop {
            let mut waits = self.lock();
            idle = if waits.under_way.is_empty() { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                waits.sleeps = true;
                while waits.under_way.is_empty() {
                    waits = self.woken.wait(waits).unwrap_or_else(PoisonError::into_inner);
                }
                waits.sleeps = false;
                idle = 0;
            }
            let mut late = Vec::new();
            for entry in &mut waits.under_way {
                entry.watched.look(entry.rank);
                let waited = entry.since.elapsed();
                if !entry.was_late && waited >= entry.late_after {
                    entry.was_late = true;
                    late.push((entry.watched.clone(), entry.rank, entry.call, waited));
                }
            }
            drop(waits);
            for (watched, rank, call, waited) in late {
                watched.late(rank, call, waited);
            }
            std::thread::sleep(TICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was told, and how often each rank was looked at.
    #[derive(Default)]
    struct Told(Mutex<Vec<(usize, u64, Duration)>>, Mutex<[u32; 4]>);

    impl Watched for Told {
        fn look(&self, rank: usize) {
            self.1.lock().unwrap()[rank] += 1;
        }

        fn late(&self, rank: usize, call: u64, waited: Duration) {
            self.0.lock().unwrap().push((rank, call, waited));
        }
    }

    #[test]
    fn a_wait_that_lasts_is_told_once_and_one_that_ends_never() {
        let told = Arc::new(Told::default());
        let late_after = Duration::from_millis(300);
        let long = Waiting::begin(told.clone(), 1, 17, late_after);
        let patient = Waiting::begin(told.clone(), 2, 18, Duration::from_secs(600));
        for call in 0..5 {
            let short = Waiting::begin(told.clone(), 0, call, late_after);
            std::thread::sleep(Duration::from_millis(20));
            drop(short);
        }
        std::thread::sleep(Duration::from_millis(1000));
        drop((long, patient));
        let looks = *told.1.lock().unwrap();
        // Also behind the warning, which comes after 3 looks or 4.
        assert!(looks[1] > 5 && looks[2] > 5, "{looks:?}");
        let told = told.0.lock().unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].0, told[0].1), (1, 17));
        assert!(told[0].2 >= late_after, "{told:?}");
    }

    #[test]
    fn the_thread_sleeps_and_wakes_up() {
        let watch: &'static Watch = Box::leak(Box::default());
        std::thread::spawn(|| watch.look());
        let start = Instant::now();
        while !watch.lock().sleeps {
            assert!(start.elapsed() < 4 * TICK * IDLE_TICKS, "it does not sleep");
            std::thread::sleep(TICK);
        }
        let told = Arc::new(Told::default());
        let since = Instant::now();
        let (late_after, was_late) = (Duration::ZERO, false);
        let entry = Entry { id: 0, watched: told.clone(), rank: 3, call: 1, since, late_after, was_late };
        watch.lock().under_way.push(entry);
        watch.woken.notify_one();
        while told.0.lock().unwrap().is_empty() {
            assert!(since.elapsed() < 50 * TICK, "it does not wake up");
            std::thread::yield_now();
        }
    }
}
