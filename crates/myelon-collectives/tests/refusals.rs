//! Property: what can't be done is refused before anything is enqueued, with what was needed and seen.
//!
//! Catches: a check left out or made too late. Each case then makes a good call, which shows that the
//! refused one has left no trace. Disagreement and ranks that never come are in the conformance suite.

use std::time::Duration;

use myelon_collectives::{
    Backend, COUNT_MAX, Communicator, DataType, Element, Error, ErrorKind, ReduceOp, Region, Settings,
};
use myelon_lanes::{Forced, Machine, PlanError, Tuning};

fn pair() -> Vec<Communicator> {
    Communicator::builder().backend(Backend::Host).ranks(2).deadline(Duration::from_secs(10)).build().unwrap()
}

/// The communicators still work.
fn assert_unharmed(ranks: &mut [Communicator]) {
    let mut buffers = Vec::new();
    for rank in ranks.iter_mut() {
        let stream = rank.stream().clone();
        let mut buffer = rank.buffer::<f32>(3).unwrap();
        buffer.write(&stream, &[1.0, 2.0, 3.0]).unwrap();
        rank.all_reduce_in_place(&mut buffer, ReduceOp::Sum, &stream).unwrap();
        buffers.push(buffer);
    }
    for (rank, buffer) in ranks.iter().zip(&buffers) {
        assert_eq!(buffer.read(rank.stream()).unwrap(), [2.0, 4.0, 6.0]);
    }
}

/// Makes a call on rank 0 that must be refused, and returns the error.
fn refused(
    ranks: &mut [Communicator],
    input: &Region,
    output: &Region,
    dtype: DataType,
    op: ReduceOp,
) -> Error {
    let stream = ranks[0].stream().clone();
    let before = output.read_bytes(&stream);
    let error = ranks[0].all_reduce_region(input, output, dtype, op, &stream).unwrap_err();
    assert_eq!(output.read_bytes(&stream), before, "something was written");
    assert_unharmed(ranks);
    error
}

#[test]
fn an_average_of_integers() {
    let mut ranks = pair();
    for dtype in DataType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        let region = ranks[0].region(64).unwrap();
        let error = refused(&mut ranks, &region, &region, dtype, ReduceOp::Avg);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with(&format!("avg of {dtype} is not supported")), "{error}");
    }
}

#[test]
fn regions_that_overlap_in_part() {
    let mut ranks = pair();
    let region = ranks[0].region(64).unwrap();
    let part = |start, end| region.slice(start..end).unwrap();
    for (input, output) in [(part(0, 32), part(4, 36)), (part(4, 36), part(0, 32)), (part(0, 8), part(4, 12))]
    {
        let error = refused(&mut ranks, &input, &output, DataType::F32, ReduceOp::Sum);
        assert!(matches!(&error, Error::Overlap { input, output } if input != output), "{error}");
    }
    // Side by side is no overlap, and neither is nothing.
    let stream = ranks[0].stream().clone();
    for (input, output) in [(part(0, 32), part(32, 64)), (part(8, 8), part(4, 4))] {
        ranks[0].all_reduce_region(&input, &output, DataType::F32, ReduceOp::Sum, &stream).unwrap();
        let other = ranks[1].region(input.bytes()).unwrap();
        let stream = ranks[1].stream().clone();
        ranks[1].all_reduce_region(&other, &other, DataType::F32, ReduceOp::Sum, &stream).unwrap();
    }
    assert_unharmed(&mut ranks);
}

#[test]
fn lengths_and_places_that_do_not_fit() {
    let mut ranks = pair();
    let (a, b) = (ranks[0].region(64).unwrap(), ranks[0].region(64).unwrap());
    let part = |region: &Region, start, end| region.slice(start..end).unwrap();
    for (input, output, text) in [
        (part(&a, 0, 8), part(&b, 0, 16), "output: needed 8 bytes, as the input, saw 16 bytes"),
        (part(&a, 0, 7), part(&b, 0, 7), "input: needed whole elements of 4 bytes, saw 7 bytes"),
        (part(&a, 2, 10), part(&b, 0, 8), "input: needed a start on a multiple of 4 bytes for f32"),
        (part(&a, 0, 8), part(&b, 1, 9), "output: needed a start on a multiple of 4 bytes for f32"),
    ] {
        let error = refused(&mut ranks, &input, &output, DataType::F32, ReduceOp::Sum);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().starts_with(text), "{error}");
    }
    for range in [0..65, 60..65, 65..65] {
        assert_eq!(a.slice(range).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let stream = ranks[0].stream().clone();
    let error = a.write_bytes(&stream, &[0; 63]).unwrap_err();
    assert_eq!(error.to_string(), "bytes to write: needed 64 bytes, saw 63");
}

#[test]
fn memory_and_streams_of_another_rank() {
    let mut ranks = pair();
    let (ours, theirs) = (ranks[0].region(64).unwrap(), ranks[1].region(64).unwrap());
    let error = refused_with(&mut ranks, &theirs, &ours);
    assert_eq!(error, Error::WrongDevice { what: "input", needed: 0, seen: 1 });
    let error = refused_with(&mut ranks, &ours, &theirs);
    assert_eq!(error, Error::WrongDevice { what: "output", needed: 0, seen: 1 });
    let stream = ranks[1].stream().clone();
    let error = ranks[0].all_reduce_region(&ours, &ours, DataType::U8, ReduceOp::Sum, &stream).unwrap_err();
    assert_eq!(error, Error::WrongDevice { what: "stream", needed: 0, seen: 1 });
    assert_eq!(ours.write_bytes(&stream, &[1; 64]).unwrap_err().kind(), ErrorKind::WrongDevice);
    assert_eq!(ours.read_bytes(&stream).unwrap_err().kind(), ErrorKind::WrongDevice);
    let (here, there) = (ranks[0].stream().mark().unwrap(), stream.mark().unwrap());
    assert_eq!(here.elapsed_us(&there).unwrap_err().kind(), ErrorKind::WrongDevice);
    assert_unharmed(&mut ranks);
}

fn refused_with(ranks: &mut [Communicator], input: &Region, output: &Region) -> Error {
    let stream = ranks[0].stream().clone();
    ranks[0].all_reduce_region(input, output, DataType::U8, ReduceOp::Sum, &stream).unwrap_err()
}

#[test]
fn a_count_that_does_not_fit() {
    let ranks = pair();
    let error = ranks[0].explain(DataType::U8, COUNT_MAX + 1).unwrap_err();
    assert_eq!(error, Error::CountTooLarge { count: 1 << 40, count_max: COUNT_MAX });
    assert!(ranks[0].explain(DataType::F64, COUNT_MAX).is_ok());
    assert_eq!(ranks[0].buffer::<f64>(usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(ranks[0].region(usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
}

#[test]
fn communicators_that_cannot_be() {
    let host = || Communicator::builder().backend(Backend::Host);
    let text = |builder: myelon_collectives::Builder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.to_string()
    };
    for ranks in [0, 1, 9] {
        assert_eq!(text(host().ranks(ranks)), format!("ranks: needed a number from 2 to 8, saw {ranks}"));
    }
    assert_eq!(text(host().devices(vec![0])), "ranks: needed a number from 2 to 8, saw 1");
    let auto = Communicator::builder;
    assert_eq!(text(auto().ranks(3).devices(vec![0, 1])), "devices: needed one for each of 3 ranks, saw 2");
    assert!(text(host().devices(vec![0, 1])).contains("saw devices [0, 1] for the host backend"));
    assert_eq!(text(host().deadline(Duration::ZERO)), "deadline: needed more than nothing, saw 0");

    for forced in [
        Forced { slots: Some(3), ..Forced::default() },
        Forced { piece_bytes: Some(24), ..Forced::default() },
        Forced { lanes: Some(0), ..Forced::default() },
        Forced { blocks: Some(4), ..Forced::default() },
    ] {
        let error = host().forced(forced).build().unwrap_err();
        assert!(matches!(error, Error::Plan(PlanError::Value(_))), "{error}");
    }
}

#[test]
fn a_forced_choice_is_honoured_and_told() {
    let forced = Forced { lanes: Some(3), slots: Some(8), piece_bytes: Some(256), ..Forced::default() };
    let tuning = Tuning::new(Machine::host(7));
    let builder = Communicator::builder().backend(Backend::Host).ranks(2).tuning(tuning).forced(forced);
    let mut ranks = builder.build().unwrap();
    assert!(ranks[0].ring_bytes() >= 2 * 3 * 8 * 256);
    assert_unharmed(&mut ranks);
    let launch = ranks[1].last_launch().unwrap();
    assert_eq!((launch.plan.lanes, launch.plan.slots, launch.plan.piece_bytes), (3, 8, 256));
    assert!(launch.why.to_string().contains("forced"), "{}", launch.why);
    assert_eq!((&launch.kernel[..], launch.grid, launch.block), ("host_ring_f32_sum", 1, 1));
}

#[test]
fn settings_become_a_communicator() {
    let pairs = [("MYELON_BACKEND", "host"), ("MYELON_RANKS", "3"), ("MYELON_LANES", "4")];
    let settings = Settings::parse(pairs).unwrap();
    let builder = Communicator::builder().ranks(2).deadline(Duration::from_secs(5)).settings(settings);
    let ranks = builder.build().unwrap();
    assert_eq!((ranks.len(), ranks[0].backend()), (3, Backend::Host));
    assert_eq!(ranks[0].explain(DataType::F32, 0).unwrap().plan.lanes, 4);
}

#[test]
fn memory_and_streams_outlive_their_communicator() {
    let ours = pair();
    let region = ours[1].region(4).unwrap();
    let stream = ours[1].stream().clone();
    drop(ours);
    region.write_bytes(&stream, &[1, 2, 3, 4]).unwrap();
    assert_eq!(region.read_bytes(&stream).unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_panic_in_a_task_is_told_and_the_stream_goes_on() {
    let mut ranks = pair();
    ranks[0].stream().host_task(|| panic!("no luck with {}", 7)).unwrap();
    let error = ranks[0].stream().synchronize().unwrap_err();
    assert_eq!(error, Error::Task { message: "no luck with 7".into() });
    assert_eq!(ranks[0].stream().synchronize(), Ok(()));
    assert_unharmed(&mut ranks);
}

#[test]
fn element_types_and_buffers_keep_their_bounds() {
    let ranks = pair();
    let buffer = ranks[0].buffer::<u32>(4).unwrap();
    assert_eq!((buffer.len(), buffer.is_empty(), buffer.region().bytes()), (4, false, 16));
    assert_eq!(buffer.slice(1..3).bytes(), 2 * size_of::<u32>());
    assert_eq!(u32::DTYPE, DataType::U32);
    let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffer.slice(3..5)));
    assert!(outside.is_err());
}

#[test]
fn cuda_that_cannot_be_used_is_an_error_and_auto_says_why_it_fell_back() {
    let forced = Communicator::builder().backend(Backend::Cuda).ranks(2).build();
    let auto = Communicator::builder().backend(Backend::Auto).ranks(2).build().unwrap();
    match forced {
        Ok(_) => assert_eq!(auto[0].backend(), Backend::Cuda),
        Err(error) => {
            assert_eq!(auto[0].backend(), Backend::Host);
            let reason = auto[0].backend_reason();
            assert!(reason.contains(&error.to_string()), "{reason}: {error}");
        }
    }
}
