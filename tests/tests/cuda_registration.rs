//! Property: registered memory is shared with all ranks where it can be, staged on all where that of one can't, and is
//! freed when nothing uses it, on any rank, and not before.
//!
//! Catches: a plan that differs from rank to rank, an agreement that never comes, mappings, handles and owners that are
//! left, an allocation that is freed while a peer has it open. Cannot catch: anything about results, and what a real
//! driver does with handles; `conformance_cuda` on GPUs is for that.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use myelon_collectives::{Backend, Communicator, Error, ErrorKind, Region, Registered, Sharing};
use myelon_tests::registration::{BYTES, call, pair, registered, tensors, wait_for};
use myelon_tests::tensors::{Freed, How, Tensor};
use myelon_tests::{conformance, fake};

const LONG: Duration = Duration::from_secs(20);

fn scenario(name: &str, settings: &[(&str, &str)], launches: Option<u64>, body: impl FnOnce()) {
    fake::scenario(name, Path::new(env!("CARGO_TARGET_TMPDIR")), settings, launches, body);
}

/// A call of each rank in place; returns what was launched, which must be the same.
fn calls(ranks: &mut [Communicator], regions: &[Region]) -> String {
    let mut kernels = ranks.iter_mut().zip(regions).map(|(rank, region)| {
        let stream = rank.stream().clone();
        let kernel = call(rank, region, region, &stream).unwrap();
        let plan = rank.last_launch().unwrap().plan;
        (kernel, plan)
    });
    let (first, second) = (kernels.next().unwrap(), kernels.next().unwrap());
    assert_eq!(first, second);
    ranks_synchronize(ranks);
    first.0
}

fn ranks_synchronize(ranks: &[Communicator]) {
    ranks.iter().for_each(|rank| rank.stream().synchronize().unwrap());
}

fn regions_of(registered: &[Registered]) -> Vec<Region> {
    registered.iter().map(|it| it.region().clone()).collect()
}

/// Why the registration is staged, which all ranks say alike.
fn reason(registered: &[Registered]) -> String {
    let reasons = registered.iter().map(|it| match it.settle().unwrap() {
        Sharing::Staged { reason } => reason,
        Sharing::Shared => panic!("it is shared"),
    });
    let mut reasons: Vec<String> = reasons.collect();
    reasons.dedup();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons.remove(0)
}

/// Tensors of `how` are registered, called and dropped.
fn round(how: How, joined: bool) -> Option<String> {
    let mut ranks = pair([0, 1], joined, LONG);
    let freed = Freed::default();
    let regions = tensors(&ranks, how, BYTES + 8192, &freed);
    // A part of each, at an offset that is no page's.
    let parts: Vec<Region> = regions.iter().map(|it| it.slice(4096..4096 + BYTES).unwrap()).collect();
    let registered = registered(&mut ranks, &parts);
    drop((regions, parts));
    let shared = registered[0].is_shared().unwrap();
    assert_eq!(registered[1].is_shared(), Ok(shared));
    let kernel = calls(&mut ranks, &regions_of(&registered));
    assert_eq!(kernel.contains("direct"), shared, "{kernel}");
    let reason = (!shared).then(|| reason(&registered));
    // ORDER: Relaxed is enough. It is a count.
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    drop(registered);
    assert_eq!(wait_for(&freed, 2), 2);
    // Registered memory that is gone, and other memory, in the same communicator.
    let ours: Vec<Region> = ranks.iter().map(|rank| rank.region(BYTES).unwrap()).collect();
    assert!(calls(&mut ranks, &ours).contains("direct"));
    reason
}

#[test]
fn pages_are_shared_in_one_process() {
    scenario("pages_are_shared_in_one_process", &[], Some(4), || assert_eq!(round(How::Pages, false), None));
}

#[test]
fn private_pages_are_shared_in_one_process() {
    let name = "private_pages_are_shared_in_one_process";
    scenario(name, &[], Some(4), || assert_eq!(round(How::PrivatePages, false), None));
}

#[test]
fn pages_are_shared_by_joined_ranks() {
    scenario("pages_are_shared_by_joined_ranks", &[], Some(4), || assert_eq!(round(How::Pages, true), None));
}

#[test]
fn private_pages_are_staged_by_joined_ranks() {
    scenario("private_pages_are_staged_by_joined_ranks", &[], Some(4), || {
        let reason = round(How::PrivatePages, true).unwrap();
        assert!(reason.contains("memory of rank 0 can't be shared: its pages were made without"), "{reason}");
    });
}

#[test]
fn plain_allocations_are_shared_by_joined_ranks() {
    let name = "plain_allocations_are_shared_by_joined_ranks";
    scenario(name, &[], Some(4), || assert_eq!(round(How::Plain, true), None));
}

#[test]
fn plain_allocations_are_staged_in_one_process() {
    scenario("plain_allocations_are_staged_in_one_process", &[], Some(4), || {
        let reason = round(How::Plain, false).unwrap();
        assert!(reason.contains("only by access between whole contexts"), "{reason}");
    });
}

#[test]
fn memory_of_pools_is_staged() {
    scenario("memory_of_pools_is_staged", &[], Some(8), || {
        for joined in [false, true] {
            let reason = round(How::Pool, joined).unwrap();
            assert!(reason.contains("memory of a pool (cuMemAllocAsync)"), "{reason}");
        }
    });
}

/// One rank's part is enough, and a plain promise keeps nothing.
#[test]
fn what_one_rank_cannot_share_all_stage() {
    scenario("what_one_rank_cannot_share_all_stage", &[], None, || {
        for joined in [false, true] {
            let mut ranks = pair([0, 1], joined, LONG);
            let freed = Freed::default();
            let ours = ranks[0].region(BYTES).unwrap();
            let tensor = Tensor::new(ranks[1].device().unwrap(), How::Pages, BYTES, &freed);
            let theirs = tensor.promised_region();
            // Before it is registered it is refused, as without registration.
            let stream = ranks[1].stream().clone();
            let error = call(&mut ranks[1], &theirs, &theirs, &stream).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            let registered = registered(&mut ranks, &[ours.clone(), theirs]);
            assert!(reason(&registered).starts_with("memory of rank 1 can't be shared: nothing keeps it"));
            assert!(!calls(&mut ranks, &regions_of(&registered)).contains("direct"));
            // The plan of the same size without it is another one.
            let other = ranks[1].region(BYTES).unwrap();
            assert!(calls(&mut ranks, &[ours, other]).contains("direct"));
            drop((registered, tensor));
        }
    });
}

#[test]
fn ranks_that_register_differently_find_out() {
    scenario("ranks_that_register_differently_find_out", &[], None, || {
        for joined in [false, true] {
            let mut ranks = pair([0, 1], joined, LONG);
            let freed = Freed::default();
            let [small, large] = [BYTES, 2 * BYTES].map(|bytes| tensors(&ranks, How::Pages, bytes, &freed));
            // The same two in another order.
            let first = registered(&mut ranks, &[small[0].clone(), large[1].clone()]);
            let second = registered(&mut ranks, &[large[0].clone(), small[1].clone()]);
            let (bytes, peer_bytes) = (BYTES as u64, 2 * BYTES as u64);
            for (number, registered, bytes, peer_bytes) in
                [(0, &first, bytes, peer_bytes), (1, &second, peer_bytes, bytes)]
            {
                let differ = Error::RegistrationsDiffer { number, rank: 0, bytes, peer: 1, peer_bytes };
                for (rank, it) in ranks.iter_mut().zip(registered) {
                    assert_eq!(it.settle(), Err(differ.clone()));
                    let stream = rank.stream().clone();
                    assert_eq!(call(rank, it.region(), it.region(), &stream), Err(differ.clone()));
                }
            }
            // That has harmed nothing.
            drop((first, second));
            let third = registered(&mut ranks, &small);
            assert!(calls(&mut ranks, &regions_of(&third)).contains("direct"));
        }
    });
}

#[test]
fn a_rank_that_does_not_register_is_named() {
    scenario("a_rank_that_does_not_register_is_named", &[], None, || {
        for joined in [false, true] {
            let mut ranks = pair([0, 1], joined, Duration::from_millis(300));
            let freed = Freed::default();
            let regions = tensors(&ranks, How::Pages, BYTES, &freed);
            let first = ranks[0].register(&regions[0]).unwrap();
            let error = first.settle().unwrap_err();
            let Error::Unregistered { rank: 0, peer: 1, number: 0, is_dropped: false, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(error.kind(), ErrorKind::Stalled);
            // It may come later.
            let second = ranks[1].register(&regions[1]).unwrap();
            assert_eq!((first.is_shared(), second.is_shared()), (Ok(true), Ok(true)));
            let third = ranks[0].register(&regions[0]).unwrap();
            drop(ranks.pop());
            let error = third.settle().unwrap_err();
            let gone = matches!(error, Error::Unregistered { peer: 1, number: 1, is_dropped: true, .. });
            assert!(gone && error.kind() == ErrorKind::PeerGone, "{error}");
        }
    });
}

/// Whoever refuses, and whatever it is: the ranks stage, and say why.
#[test]
fn what_the_driver_refuses_is_staged() {
    // What the ranks map themselves when they are opened, and what the tensors are made of, is spared.
    for (settings, joined, how, why) in [
        (
            [("FAKE_FAIL", "cuMemImportFromShareableHandle"), ("FAKE_SPARE", "2")],
            true,
            How::Pages,
            "can't map it",
        ),
        ([("FAKE_FAIL", "cuIpcOpenMemHandle_v2:217"), ("FAKE_SPARE", "0")], true, How::Plain, "can't map it"),
        ([("FAKE_FAIL", "cuIpcGetMemHandle:1"), ("FAKE_SPARE", "1")], true, How::Plain, "memory of rank "),
        (
            [("FAKE_FAIL", "cuMemAddressReserve:2"), ("FAKE_SPARE", "5")],
            false,
            How::Pages,
            "rank 1 can't be shared: cuMemAddressReserve failed with CUDA_ERROR_OUT_OF_MEMORY",
        ),
    ] {
        scenario("what_the_driver_refuses_is_staged", &settings, None, || {
            // In the process itself, this is not what it was started with.
            let _ = (joined, how, why);
            let wanted = std::env::var("FAKE_FAIL").unwrap();
            let joined = !wanted.starts_with("cuMemAddressReserve");
            let how = if wanted.starts_with("cuIpc") { How::Plain } else { How::Pages };
            let reason = refused_round(how, joined);
            println!("{wanted}: {reason}");
            let expected = match wanted.as_str() {
                "cuIpcGetMemHandle:1" => {
                    "the driver gives no handle of the allocation: cuIpcGetMemHandle failed"
                }
                "cuMemAddressReserve:2" => {
                    "rank 1 can't be shared: cuMemAddressReserve failed with CUDA_ERROR_OUT_OF_MEMORY"
                }
                _ => "can't map it: cu",
            };
            assert!(reason.contains(expected), "{wanted}: {reason}");
        });
        if std::env::var_os("MYELON_TESTS_FAKE_CUDA").is_some() {
            return;
        }
    }
}

fn refused_round(how: How, joined: bool) -> String {
    let mut ranks = pair([0, 1], joined, LONG);
    let freed = Freed::default();
    let regions = tensors(&ranks, how, BYTES, &freed);
    let registered = registered(&mut ranks, &regions);
    let reason = reason(&registered);
    assert!(!calls(&mut ranks, &regions_of(&registered)).contains("direct"));
    drop((regions, registered));
    assert_eq!(wait_for(&freed, 2), 2);
    reason
}

/// The fake has room for far fewer mappings, and a socket for fewer words.
#[test]
fn registrations_leave_nothing() {
    scenario("registrations_leave_nothing", &[], None, || {
        for how in [How::Pages, How::Plain, How::Pool] {
            let mut ranks = pair([0, 1], true, LONG);
            let freed = Freed::default();
            for round in 0..100 {
                let regions = tensors(&ranks, how, 2 << 20, &freed);
                // Also such as nobody waits for, and none of which all ranks have heard.
                let some: Vec<_> = (0..1 + round % 4).map(|_| registered(&mut ranks, &regions)).collect();
                if round % 3 == 0 {
                    assert_eq!(some[0][1].is_shared(), Ok(how != How::Pool));
                }
                drop((regions, some));
                if round % 8 == 7 {
                    assert_eq!(wait_for(&freed, 2 * (round + 1)), 2 * (round + 1), "{how:?}");
                }
            }
            let many: Vec<Region> = ranks.iter().map(|rank| rank.region(4).unwrap()).collect();
            let many: Vec<_> = (0..2000).map(|_| registered(&mut ranks, &many)).collect();
            assert!(many.iter().flatten().all(|it| it.is_shared().unwrap()));
        }
    });
}

/// Nothing is left of graphs of any algorithm on any memory. Their results are for GPUs.
#[test]
fn graphs_leave_nothing() {
    scenario("graphs_leave_nothing", &[("FAKE_ONE_MODEL", "1")], None, || {
        let make = |ranks: usize| {
            Communicator::builder().backend(Backend::Cuda).devices((0..ranks).map(|rank| rank % 2).collect())
        };
        conformance::every_graph(&make, false);
        conformance::join_from_now_on();
        conformance::every_graph(&make, false);
    });
}

/// Whatever is dropped first, and however long a peer takes to close what it has open.
#[test]
fn tensors_outlive_what_may_use_them() {
    for settings in [&[][..], &[("FAKE_SLOW", "cuIpcCloseMemHandle:50")]] {
        scenario("tensors_outlive_what_may_use_them", settings, None, outlived);
        if std::env::var_os("MYELON_TESTS_FAKE_CUDA").is_some() {
            return;
        }
    }
}

fn outlived() {
    for joined in [false, true] {
        for how in [How::Pages, How::Plain] {
            let mut ranks = pair([0, 1], joined, LONG);
            let freed = Freed::default();
            let regions = tensors(&ranks, how, BYTES, &freed);
            let registered = registered(&mut ranks, &regions);
            let graphs: Vec<_> = ranks
                .iter_mut()
                .zip(&registered)
                .map(|(rank, it)| {
                    let stream = rank.stream().clone();
                    stream.capture(|| call(rank, it.region(), it.region(), &stream).map(drop)).unwrap()
                })
                .collect();
            drop(regions);
            let slices: Vec<Region> = registered.iter().map(|it| it.region().slice(0..4).unwrap()).collect();
            drop((registered, slices));
            // ORDER: Relaxed is enough, here and below. It is a count.
            assert_eq!(freed.load(Ordering::Relaxed), 0, "the graphs use them");
            let regions = tensors(&ranks, how, BYTES, &freed);
            let other = self::registered(&mut ranks, &regions);
            for rank in ranks {
                drop(rank);
                // The thread that watches for the other one closes what was of this one.
                std::thread::sleep(Duration::from_millis(25));
            }
            assert_eq!(freed.load(Ordering::Relaxed), 0, "handles and graphs use them");
            drop(graphs);
            drop((regions, other));
            assert_eq!(wait_for(&freed, 4), 4, "{how:?}, joined {joined}");
        }
    }
}
