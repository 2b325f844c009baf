//! Property: whatever other threads, peers and owners of memory do meanwhile, nothing is unmapped too soon, nothing is kept
//! for good, and nobody waits for who waits for it.
//!
//! Catches: work that is queued and that nobody knows of, memory that only a later allocation would free, a rank that is
//! dropped by who holds what an owner needs, driver calls that break another library's capture. Cannot catch: what takes
//! longer than the fake's calls can be made to take, and what a real driver does by itself.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::time::Duration;

use myelon_collectives::{Backend, Communicator, DeviceStream, RecordPlace, Region, Registered};
use myelon_tests::registration::{BYTES, call, pair, registered, tensors, wait_for};
use myelon_tests::tensors::{Freed, GlobalCapture, How, Tensor};
use myelon_tests::{conformance, fake};

const LONG: Duration = Duration::from_secs(20);

fn scenario(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    fake::scenario(name, Path::new(env!("CARGO_TARGET_TMPDIR")), settings, None, body);
}

/// What `body` returns, which must not take long: a test that hangs says nothing.
fn within_a_minute<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(done.send(body())));
    match end.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        result => {
            thread.join().unwrap();
            result.unwrap()
        }
    }
}

/// A rank may have done with its memory when a peer gave up in the call, while that peer's kernel still runs. Here that
/// kernel was queued by a graph alone.
#[test]
fn memory_of_a_peer_stays_while_a_graph_may_use_it() {
    scenario("memory_of_a_peer_stays_while_a_graph_may_use_it", &[("FAKE_BUSY", "1000")], || {
        let mut ranks = pair([0, 1], true, LONG);
        let freed = Freed::default();
        let regions = tensors(&ranks, How::Plain, BYTES, &freed);
        let mut registered = registered(&mut ranks, &regions);
        drop(regions);
        for (rank, it) in ranks.iter_mut().zip(&registered) {
            let stream = rank.stream().clone();
            let graph = stream.capture(|| call(rank, it.region(), it.region(), &stream).map(drop)).unwrap();
            graph.launch(&stream).unwrap();
        }
        // GPU 0 is done. To close what rank 1 has of it is a breach until GPU 1 is.
        drop(registered.remove(0));
        std::thread::sleep(Duration::from_millis(200));
        ranks[1].stream().synchronize().unwrap();
        drop(ranks[1].region(4).unwrap());
        assert_eq!(wait_for(&freed, 1), 1);
    });
}

/// A rank that allocates and drops nothing any more does not keep its peers' memory, nor its own.
#[test]
fn what_was_used_last_is_freed_without_another_call() {
    scenario("what_was_used_last_is_freed_without_another_call", &[("FAKE_BUSY", "300")], || {
        for joined in [false, true] {
            let mut ranks = pair([0, 1], joined, LONG);
            let freed = Freed::default();
            let regions = tensors(&ranks, How::Plain, BYTES, &freed);
            let registered = registered(&mut ranks, &regions);
            drop(regions);
            for (rank, it) in ranks.iter_mut().zip(&registered) {
                let stream = rank.stream().clone();
                call(rank, it.region(), it.region(), &stream).unwrap();
            }
            drop(registered);
            assert_eq!(wait_for(&freed, 2), 2, "joined {joined}");
        }
    });
}

/// Takes a lock when it is dropped, as owners in other languages do.
struct Locks(Arc<Mutex<()>>);

impl Drop for Locks {
    fn drop(&mut self) {
        drop(self.0.lock().unwrap());
    }
}

/// Who drops a rank may hold what the owner of its memory waits for.
#[test]
fn an_owner_may_wait_for_who_drops_the_rank() {
    scenario("an_owner_may_wait_for_who_drops_the_rank", &[("FAKE_SLOW", "cuIpcCloseMemHandle:50")], || {
        within_a_minute(|| {
            let mut ranks = pair([0, 1], true, LONG);
            let (freed, lock) = (Freed::default(), Arc::new(Mutex::new(())));
            let owned = ranks.iter().map(|rank| {
                let tensor = Tensor::new(rank.device().unwrap(), How::Plain, BYTES, &freed);
                tensor.into_region_with(Locks(lock.clone()))
            });
            let regions: Vec<Region> = owned.collect();
            let registered = registered(&mut ranks, &regions);
            assert!(registered.iter().all(|it| it.is_shared().unwrap()));
            drop((regions, registered));
            let held = lock.lock().unwrap();
            // The peers close them, which takes a while, and say so.
            std::thread::sleep(Duration::from_millis(200));
            // A rank whose owners are waited for still hears and answers.
            drop(ranks[0].region(4).unwrap());
            drop(ranks);
            drop(held);
            assert_eq!(wait_for(&freed, 2), 2);
        });
    });
}

/// Nor does anybody wait for an owner who drops or allocates other memory.
#[test]
fn nobody_waits_for_an_owner() {
    scenario("nobody_waits_for_an_owner", &[], || {
        within_a_minute(|| {
            let ranks = pair([0, 1], false, LONG);
            let (freed, lock) = (Freed::default(), Arc::new(Mutex::new(())));
            let held = lock.lock().unwrap();
            let tensor = Tensor::new(ranks[0].device().unwrap(), How::Plain, BYTES, &freed);
            drop(tensor.into_region_with(Locks(lock.clone())));
            drop(ranks[0].region(4).unwrap());
            drop(ranks);
            assert_eq!(freed.load(Ordering::Relaxed), 0);
            drop(held);
            assert_eq!(wait_for(&freed, 1), 1);
        });
    });
}

/// A capture of another library forbids what may be unsafe to all threads that do not ask to be left alone.
#[test]
fn what_peers_say_breaks_no_capture() {
    scenario("what_peers_say_breaks_no_capture", &[], || {
        let ranks = pair([0, 1], true, LONG);
        let region = ranks[1].region(BYTES).unwrap();
        let capture = GlobalCapture::begin(ranks[0].device().unwrap());
        // A process of its own would do that.
        let peer = std::thread::spawn(move || {
            myelon_kernel::leave_captures_alone().unwrap();
            drop(region);
            let other = ranks[1].region(BYTES).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            (ranks, other)
        });
        let left = peer.join().unwrap();
        drop(capture);
        drop(left);
    });
}

/// Memory and ranks may be dropped by a thread that captures by means of another library, and memory while that captures a
/// stream that used it.
#[test]
fn what_is_dropped_breaks_no_capture() {
    scenario("what_is_dropped_breaks_no_capture", &[], || {
        let mut ranks = pair([0, 1], false, LONG);
        let device = ranks[0].device().unwrap().clone();
        let shown = DeviceStream::new(&device).unwrap();
        // From now on others know it.
        shown.handle();
        let streams = [ranks[0].stream().clone(), ranks[0].adopt_stream(shown).unwrap()];
        let regions = streams.map(|stream| {
            let region = ranks[0].region(400).unwrap();
            call(&mut ranks[0], &region, &region, &stream).unwrap();
            region
        });
        // The fake knows one stream a GPU: the first capture is of another one, the second one of that of the region.
        for (region, captured) in regions.into_iter().zip([1, 0]) {
            let capture = GlobalCapture::begin(ranks[captured].device().unwrap());
            drop(region);
            drop(capture);
        }
        let capture = GlobalCapture::begin(ranks[1].device().unwrap());
        drop(ranks.remove(0));
        drop(capture);
    });
}

/// A rank that can't join waits for no kernel of another communicator, whose peer may be the same thread's to call. The
/// driver would, where pinned memory is given back.
#[test]
fn a_rank_that_cannot_join_waits_for_no_kernel() {
    let refused =
        [("FAKE_PINNED", "1"), ("FAKE_FAIL", "cuMemImportFromShareableHandle"), ("FAKE_SPARE", "2")];
    scenario("a_rank_that_cannot_join_waits_for_no_kernel", &refused, || {
        let builder = Communicator::builder().backend(Backend::Cuda).record(RecordPlace::None);
        let joined = || conformance::join([0, 1].map(|device| builder.clone().devices(vec![device])).into());
        let _other = joined().unwrap();
        let error = joined().map(drop).unwrap_err().to_string();
        assert!(error.contains("the window of rank"), "{error}");
    });
}

/// Three ranks that are processes, on two GPUs.
fn three() -> Vec<Communicator> {
    let builder = Communicator::builder().backend(Backend::Cuda).windows(true).record(RecordPlace::None);
    let builders = [0, 1, 0].map(|device| builder.clone().deadline(LONG).devices(vec![device]));
    conformance::join(builders.into()).unwrap()
}

/// Numbers that look random, and are the same on all ranks.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// The fake knows one stream a GPU, and one capture.
static CAPTURE: RwLock<()> = RwLock::new(());

/// What a rank does until it or a peer has gone.
fn work(mut rank: Communicator, seed: u64, freed: &Freed) -> usize {
    let (mut all, mut own) = (seed, seed + 1000 * (rank.rank() as u64 + 1));
    let (mut made, mut kept, mut graphs) = (0, Vec::<Registered>::new(), Vec::new());
    let stream = rank.stream().clone();
    let end = 5 + next(&mut own) % 40;
    for _ in 0..end {
        let how = [How::Pages, How::Plain, How::Pool, How::Plain][next(&mut all) as usize % 4];
        let (calls, captures) = (next(&mut all).is_multiple_of(2), next(&mut all).is_multiple_of(3));
        let region = Tensor::new(rank.device().unwrap(), how, 2 << 20, freed).into_region();
        made += 1;
        // From now on everything may fail, as a peer may have gone.
        let Ok(it) = rank.register(&region) else { break };
        drop(region);
        if (calls || captures) && it.settle().is_err() {
            break;
        }
        if calls {
            let _shared = CAPTURE.read().unwrap();
            if call(&mut rank, it.region(), it.region(), &stream).is_err() {
                break;
            }
        }
        if captures {
            let _alone = CAPTURE.write().unwrap();
            let graph = stream.capture(|| call(&mut rank, it.region(), it.region(), &stream).map(drop));
            let Ok(graph) = graph else { break };
            if graph.launch(&stream).is_err() {
                break;
            }
            graphs.push(graph);
        }
        kept.push(it);
        if next(&mut own).is_multiple_of(3) {
            kept.clear();
        }
        if next(&mut own).is_multiple_of(4) {
            graphs.clear();
        }
        let buffer = {
            let _shared = CAPTURE.read().unwrap();
            rank.region(4)
        };
        if buffer.is_err() {
            break;
        }
        drop(buffer);
        std::thread::sleep(Duration::from_micros(next(&mut own) % 500));
    }
    if next(&mut own).is_multiple_of(2) {
        drop(rank);
        drop((kept, graphs));
    } else {
        drop((kept, graphs));
        drop(rank);
    }
    made
}

/// Three ranks that come and go as they like, beside a driver that takes its time.
#[test]
fn nothing_stays_of_three_ranks_in_any_order() {
    for seed in ["1", "2", "3", "4"] {
        scenario(
            "nothing_stays_of_three_ranks_in_any_order",
            &[("FAKE_JITTER", seed), ("FAKE_GONE", "1")],
            || {
                let seed: u64 = std::env::var("FAKE_JITTER").unwrap().parse().unwrap();
                for round in 0..12 {
                    within_a_minute(move || {
                        let freed = Freed::default();
                        let worked = three().into_iter().map(|rank| {
                            let freed = freed.clone();
                            std::thread::spawn(move || work(rank, 100 * seed + round, &freed))
                        });
                        let worked: Vec<_> = worked.collect();
                        let made: usize = worked.into_iter().map(|rank| rank.join().unwrap()).sum();
                        assert_eq!(wait_for(&freed, made), made, "seed {seed}, round {round}");
                    });
                }
            },
        );
        if std::env::var_os("MYELON_TESTS_FAKE_CUDA").is_some() {
            return;
        }
    }
}
