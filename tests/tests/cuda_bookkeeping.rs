//! Property: on the CUDA backend a capture makes no call, a launch of a graph makes as many as were recorded, and
//! nothing is left behind, whatever is mixed with what.
//!
//! Catches: calls counted or launched too often or not at all, locks taken twice, questions that a capture
//! forbids, leaks. Cannot catch: anything about results, for the driver is one of host memory whose kernels
//! do nothing, and its work is done when it is queued; the conformance suite on GPUs is for that.
//!
//! The driver is that of the tests of `myelon-kernel`. It is found by name, in a process of its own. Where there
//! is no C compiler, or not Linux, the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use myelon_collectives::{
    Backend, Builder, CallWord, Communicator, DataType, DeviceStream, Error, ErrorKind, Graph, RecordPlace,
    ReduceOp, Region, Stream,
};
use myelon_lanes::{Algorithm, Forced};
use myelon_recorder::{Count, Folder, Page, Row, State};
use myelon_tests::{conformance, fake};

#[test]
fn graphs_and_calls_are_counted_once() {
    scenario("graphs_and_calls_are_counted_once", &[], Some(2 * CALLS), || run(Builder::build));
}

#[test]
fn graphs_and_calls_of_joined_ranks_are_counted_once() {
    scenario("graphs_and_calls_of_joined_ranks_are_counted_once", &[], Some(2 * CALLS), || {
        run(|builder| {
            let builder = |device| builder.clone().windows(true).devices(vec![device]);
            conformance::join(vec![builder(0), builder(1)])
        });
    });
}

/// Two ranks that join, with all buffers promised to be windows.
fn joined_pair() -> Result<Vec<Communicator>, Error> {
    let builder = Communicator::builder().backend(Backend::Cuda).windows(true).record(RecordPlace::None);
    conformance::join([0, 1].map(|device| builder.clone().devices(vec![device])).into())
}

/// They are seen to be complete all the same, and what they have waited.
#[test]
fn calls_that_nobody_waits_for_are_recorded() {
    scenario("calls_that_nobody_waits_for_are_recorded", &[], Some(2), nobody_waits);
}

#[test]
fn a_window_that_cannot_be_mapped_is_an_error_of_both() {
    let refused = [("FAKE_FAIL", "cuMemImportFromShareableHandle"), ("FAKE_SPARE", "1")];
    scenario("a_window_that_cannot_be_mapped_is_an_error_of_both", &refused, None, || {
        // One of them maps its peer's; which one is left to chance.
        match joined_pair().map(|_| ()).unwrap_err() {
            Error::Driver { call, .. } => assert!(call.contains("mapping the window of rank"), "{call}"),
            Error::PeerFailed { message, .. } => assert!(message.contains("the window of rank"), "{message}"),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn memory_that_peers_cannot_map_is_refused_and_harms_nothing() {
    let name = "memory_that_peers_cannot_map_is_refused_and_harms_nothing";
    let refused = [("FAKE_FAIL", "cuMemImportFromShareableHandle"), ("FAKE_SPARE", "3")];
    scenario(name, &refused, None, || {
        let mut ranks = joined_pair().unwrap();
        let reached = ranks[0].region(400).unwrap();
        let error = ranks[1].region(400).map(|_| ()).unwrap_err();
        let Error::PeerFailed { peer: 0, message } = &error else { panic!("{error}") };
        assert!(message.contains("it can't reach memory of rank 1: cuMemImport"), "{message}");
        let stream = ranks[0].stream().clone();
        call(&mut ranks[0], &reached, &stream).unwrap();
        stream.synchronize().unwrap();
    });
}

/// That it is reached by nobody is not the caller's mistake.
#[test]
fn a_call_with_a_new_buffer_says_that_a_peer_has_gone() {
    scenario("a_call_with_a_new_buffer_says_that_a_peer_has_gone", &[], None, || {
        let mut ranks = joined_pair().unwrap();
        drop(ranks.pop());
        // That is a message.
        std::thread::sleep(Duration::from_millis(300));
        let region = ranks[0].region(400).unwrap();
        let stream = ranks[0].stream().clone();
        let error = call(&mut ranks[0], &region, &stream).unwrap_err();
        assert_eq!(error, Error::PeerGone { rank: 0, peer: 1, calls: 1, completed: 0 });
    });
}

/// Eight ranks at once, which make buffers faster than anybody maps them: nobody is cut off by too many words.
#[test]
fn many_buffers_at_once_are_no_flood() {
    scenario("many_buffers_at_once_are_no_flood", &[], None, || {
        let builder = Communicator::builder().backend(Backend::Cuda).record(RecordPlace::None);
        let builders = (0..8).map(|rank| builder.clone().devices(vec![rank % 2])).collect();
        let ranks = conformance::join(builders).unwrap();
        let made = |mut rank: Communicator| {
            for _ in 0..50 {
                let regions: Vec<Region> = (0..8).map(|_| rank.region(400).unwrap()).collect();
                drop(regions);
            }
            let region = rank.region(400).unwrap();
            let stream = rank.stream().clone();
            call(&mut rank, &region, &stream).unwrap();
            stream.synchronize().unwrap();
            rank
        };
        let ranks = ranks.into_iter().map(|rank| std::thread::spawn(move || made(rank)));
        let ranks: Vec<_> = ranks.collect();
        let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        drop(ranks);
    });
}

/// The fake has room for far fewer mappings.
#[test]
fn what_a_rank_drops_its_peers_leave() {
    scenario("what_a_rank_drops_its_peers_leave", &[], None, || {
        let ranks = joined_pair().unwrap();
        for round in 0..5000 {
            // Several at once, too, of which the peer hears together.
            let regions: Vec<Region> =
                (0..1 + round % 5).map(|_| ranks[round % 2].region(400).unwrap()).collect();
            drop(regions);
        }
    });
}

/// Without the promise of windows nobody has to map what a rank allocates, and only the rank itself may be kept waiting.
#[test]
fn what_a_slow_peer_does_not_map_is_the_ranks_alone() {
    let slow = [("FAKE_SLOW", "cuMemImportFromShareableHandle:700")];
    scenario("what_a_slow_peer_does_not_map_is_the_ranks_alone", &slow, None, || {
        let limit = Duration::from_millis(200);
        let builder =
            Communicator::builder().backend(Backend::Cuda).deadline(limit).record(RecordPlace::None);
        let mut ranks =
            conformance::join([0, 1].map(|device| builder.clone().devices(vec![device])).into()).unwrap();
        let start = Instant::now();
        // The fifth finds four that are not answered, and so does the sixth.
        let regions: Vec<Region> = (0..6).map(|_| ranks[0].region(400).unwrap()).collect();
        let took = start.elapsed();
        assert!(took >= 2 * limit, "{took:?}");
        let theirs = ranks[1].region(400).unwrap();
        for region in &regions {
            for (rank, region) in ranks.iter_mut().zip([region, &theirs]) {
                let stream = rank.stream().clone();
                call(rank, region, &stream).unwrap();
                stream.synchronize().unwrap();
                let plan = rank.last_launch().unwrap().plan;
                assert_ne!(plan.algorithm.name(), "direct");
            }
        }
    });
}

#[test]
fn a_rank_whose_memory_is_short_says_so_and_harms_nothing() {
    let short = [("FAKE_FAIL", "cuMemCreate:2"), ("FAKE_SPARE", "3")];
    scenario("a_rank_whose_memory_is_short_says_so_and_harms_nothing", &short, None, || {
        let mut ranks = joined_pair().unwrap();
        let reached = ranks[0].region(400).unwrap();
        let short = ranks[1].region(400).map(|_| ()).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::OutOfMemory);
        assert!(
            short.to_string().contains("GPU 1 has 3145728 bytes left, and 2097152 are needed"),
            "{short}"
        );
        let stream = ranks[0].stream().clone();
        call(&mut ranks[0], &reached, &stream).unwrap();
        stream.synchronize().unwrap();
    });
}

/// Launched where they are forced and allowed, on rings that are there for that; refused before any launch elsewhere.
#[test]
fn neighbours_are_launched_where_they_are_allowed() {
    scenario("neighbours_are_launched_where_they_are_allowed", &[], Some(3), || {
        let builder = Communicator::builder().backend(Backend::Cuda).record(RecordPlace::None);
        let builder = builder.devices(vec![0, 1, 0]);
        let forced = Forced { algorithm: Some(Algorithm::Neighbour), ..Forced::default() };
        let forced_builder = builder.clone().forced(forced);
        let mut not_allowed = forced_builder.clone().build().unwrap();
        let mut allowed = forced_builder.clone().any_order(true).build().unwrap();
        let plain = builder.clone().any_order(true).build().unwrap();
        let windows = [&not_allowed, &allowed, &plain].map(|ranks| ranks[0].ring_bytes());
        assert!(windows[0] <= 16 << 20 && windows[0] < windows[1] && windows[1] == windows[2], "{windows:?}");
        assert!(windows[1] - windows[0] <= 8 << 20, "{windows:?}");
        let planned = plain[0].explain(DataType::F32, 1 << 28).unwrap().plan;
        assert_eq!(planned.algorithm, Algorithm::Ring);
        for (rank, not_allowed) in allowed.iter_mut().zip(&mut not_allowed) {
            let (region, stream) = (rank.region(400).unwrap(), rank.stream().clone());
            call(rank, &region, &stream).unwrap();
            stream.synchronize().unwrap();
            let launched = rank.last_launch().unwrap();
            assert_eq!(launched.plan.algorithm, Algorithm::Neighbour);
            let (region, stream) = (not_allowed.region(400).unwrap(), not_allowed.stream().clone());
            let error = call(not_allowed, &region, &stream).unwrap_err();
            let needed = "neighbour cannot run here: it needs permission to sum in an order";
            assert!(error.to_string().contains(needed), "{error}");
        }
        // Ranks that join agree on it.
        let builder = Communicator::builder().backend(Backend::Cuda).record(RecordPlace::None);
        let builders = [true, false, true].into_iter().enumerate();
        let builders = builders.map(|(rank, any)| builder.clone().devices(vec![rank % 2]).any_order(any));
        let error = conformance::join(builders.collect()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("rings") || error.contains("any order"), "{error}");
    });
}

fn scenario(name: &str, settings: &[(&str, &str)], launches: Option<u64>, body: fn()) {
    fake::scenario(name, Path::new(env!("CARGO_TARGET_TMPDIR")), settings, launches, body);
}

/// Calls that each of the two ranks makes.
const CALLS: u64 = 2 * 9;

fn call(rank: &mut Communicator, region: &Region, stream: &Stream) -> Result<(), Error> {
    rank.all_reduce_region(region, region, DataType::F32, ReduceOp::Sum, stream)
}

/// Nine calls of `rank`, in every way.
fn nine_calls(rank: &mut Communicator, region: &Region) -> (Graph, Stream) {
    let (stream, other) = (rank.stream().clone(), rank.new_stream().unwrap());
    let adopted = DeviceStream::new(rank.device().unwrap()).unwrap();
    let adopted = rank.adopt_stream(adopted).unwrap();
    call(rank, region, &stream).unwrap();
    let kept = rank.region(16).unwrap();
    let graph = stream.capture(|| {
        call(rank, region, &stream)?;
        kept.fill(&stream, 3)?;
        let kind = |error: Error| error.kind();
        assert_eq!(stream.synchronize().map_err(kind), Err(ErrorKind::Capturing));
        assert_eq!(call(rank, region, &other).map_err(kind), Err(ErrorKind::Capturing));
        call(rank, region, &stream)
    });
    let graph = graph.unwrap();
    assert_eq!(graph.calls(), 2);
    graph.launch(&stream).unwrap();
    call(rank, region, &other).unwrap();
    graph.launch(&other).unwrap();
    graph.launch(&adopted).unwrap();
    call(rank, region, &adopted).unwrap();
    let given_up = stream.capture(|| {
        call(rank, region, &stream)?;
        Err(Error::Task { message: "given up".into() })
    });
    assert_eq!(given_up.unwrap_err().kind(), ErrorKind::Task);
    let nothing = adopted.capture(|| Ok(())).unwrap();
    nothing.launch(&stream).unwrap();
    assert_eq!(kept.read_bytes(&other).unwrap(), [3; 16]);
    for stream in [&stream, &other, &adopted] {
        stream.synchronize().unwrap();
    }
    (graph, stream)
}

/// What a rank's page says after all its calls have been waited for.
fn recorded(page: &Page) {
    assert_eq!((page.count(Count::CallsMade), page.count(Count::CallsDone)), (CALLS, CALLS));
    assert_eq!((page.count(Count::BytesMade), page.count(Count::BytesDone)), (CALLS * 400, CALLS * 400));
    // What the fake's kernels tell of each call.
    let waits = [Count::PollsData, Count::PollsCredit, Count::LongestNs, Count::WaitedDataNs];
    assert_eq!(waits.map(|count| page.count(count)), [1024 * CALLS, 2048 * CALLS, 5000, 0]);
    let calls = page.calls();
    // A launch of a graph is one row, here of two calls.
    let graphs = |row: &&Row| row.flags & Row::GRAPH != 0;
    assert!(calls.iter().filter(graphs).all(|row| row.calls == 2 && row.bytes == 800));
    assert_eq!((calls.len() as u64, calls.iter().filter(graphs).count()), (CALLS - 6, 6));
    let word = CallWord::from_bits(calls[0].call).to_string();
    assert!(calls.iter().all(|row| row.state() == State::Done && row.call == calls[0].call), "{calls:?}");
    assert_eq!((word.as_str(), page.current(), page.failure()), ("all_reduce f32 sum count=100", None, None));
    let mut next = 1;
    for row in &calls {
        assert_eq!(row.number, next);
        next += row.calls;
    }
}

fn nobody_waits() {
    let records = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("records-{}", std::process::id()));
    let builder = Communicator::builder().backend(Backend::Cuda).ranks(2).record(&records);
    let mut ranks = builder.build().unwrap();
    let regions: Vec<Region> = ranks.iter().map(|rank| rank.region(400).unwrap()).collect();
    for (rank, region) in ranks.iter_mut().zip(&regions) {
        let stream = rank.stream().clone();
        call(rank, region, &stream).unwrap();
    }
    let folder = Folder::existing(&records).unwrap().unwrap();
    let start = Instant::now();
    let counts = [Count::CallsDone, Count::BytesDone, Count::PollsData, Count::PollsCredit, Count::LongestNs];
    let told = |page: &Page| counts.map(|count| page.count(count));
    while !folder.pages().unwrap().iter().all(|page| told(page) == [1, 400, 1024, 2048, 5000]) {
        let seen: Vec<_> = folder.pages().unwrap().iter().map(told).collect();
        assert!(start.elapsed() < Duration::from_secs(20), "{seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(folder.pages().unwrap()[0].calls()[0].state(), State::Done);
    drop((regions, ranks));
    std::fs::remove_dir_all(&records).unwrap();
}

fn run(open: impl FnOnce(Builder) -> Result<Vec<Communicator>, Error>) {
    let records = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("records-{}", std::process::id()));
    let builder = Communicator::builder().backend(Backend::Cuda).ranks(2).record(&records);
    let mut ranks = open(builder).unwrap();
    let mut graphs = Vec::new();
    for _ in 0..2 {
        for rank in &mut ranks {
            let region = rank.region(400).unwrap();
            graphs.push(nine_calls(rank, &region));
        }
    }
    assert_eq!(graphs[0].0.launch(&graphs[1].1).unwrap_err().kind(), ErrorKind::WrongDevice);
    let folder = Folder::existing(&records).unwrap().unwrap();
    folder.pages().unwrap().iter().for_each(recorded);
    drop(ranks.pop());
    // Among processes that is a message.
    std::thread::sleep(Duration::from_millis(300));
    // Two more calls than the dropped rank has made.
    let error = graphs[0].0.launch(&graphs[0].1).unwrap_err();
    assert_eq!(error, Error::PeerGone { rank: 0, peer: 1, calls: CALLS + 2, completed: CALLS });
    for (graph, stream) in &graphs {
        // The dropped rank, where it is a process, hears nothing more and finds out by itself.
        let kind = graph.launch(stream).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::Poisoned | ErrorKind::PeerGone), "{kind:?}");
    }
    // The rank that was dropped while all was well took its page along; the other's stays with its error.
    drop((graphs, ranks));
    let pages = folder.pages().unwrap();
    assert_eq!((pages.len(), pages[0].header().rank, pages[0].is_closed()), (1, 0, true));
    assert_eq!(pages[0].failure().unwrap().text(), error.to_string());
    std::fs::remove_dir_all(&records).unwrap();
}
