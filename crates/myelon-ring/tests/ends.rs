//! Property: what an end promises beyond the FIFO: it refuses, gives up, notices a counter that cannot be,
//! carries over, and hands whole slots from thread to thread.
//!
//! Cannot catch: ordering bugs, which x86 hides; `loom.rs` is for those.

use std::time::{Duration, Instant};

use myelon_ring::wait::{Adaptive, Spin, Wait, Yielding};
use myelon_ring::{
    AlignedBytes, Consumer, Counter, Producer, RawMemory, RingConfig, RingError, RingFault, ring,
};

/// A ring whose words the test can reach behind the ends' backs.
struct Bare {
    config: RingConfig,
    _memory: AlignedBytes,
}

impl Bare {
    fn new(capacity: usize, first: u64) -> Self {
        let mut memory = AlignedBytes::zeroed(128 + 128 + capacity * 16).unwrap();
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let config = RingConfig::new(capacity, 16, start + 128, start, start + 256).unwrap();
        let bare = Self { config, _memory: memory };
        bare.poke(config.gating, first);
        for slot in 0..capacity as u64 {
            bare.poke(config.slot(slot).sequence, first.wrapping_sub(1));
        }
        bare
    }

    fn poke(&self, address: u64, value: u64) {
        // SAFETY: a word of our own memory, and no other thread is about.
        unsafe { std::ptr::with_exposed_provenance_mut::<u64>(address as usize).write(value) }
    }

    fn producer(&self, first: u64) -> Producer {
        // SAFETY: the memory outlives the ends, as each test keeps it, and each test makes one of them at a
        // time, from where the one before stood.
        unsafe { Producer::new(RawMemory::new(self.config, None).unwrap(), first) }
    }

    fn consumer(&self, first: u64) -> Consumer {
        // SAFETY: as for the producer.
        unsafe { Consumer::new(RawMemory::new(self.config, None).unwrap(), first) }
    }
}

#[test]
fn a_config_that_was_tampered_with_is_refused() {
    let mut config = Bare::new(4, 0).config;
    config.capacity = -4;
    // SAFETY: it is refused before anything is touched.
    let refused = unsafe { RawMemory::new(config, None) };
    assert!(matches!(refused, Err(RingError::Capacity { .. })));
}

#[test]
fn credit_batches_outside_the_capacity_are_refused() {
    for credit_batch in [0, 5] {
        let refused = ring(4, 16, 0).unwrap().1.with_credit_batch(credit_batch);
        assert_eq!(refused.err(), Some(RingError::CreditBatch { credit_batch, capacity: 4 }));
    }
    assert!(ring(4, 16, 0).unwrap().1.with_credit_batch(4).is_ok());
}

#[test]
#[should_panic(expected = "5 slots of a ring of 4")]
fn claiming_more_than_the_capacity_panics() {
    let _ = ring(4, 16, 0).unwrap().0.try_claim_many(5);
}

#[test]
#[should_panic(expected = "5 slots of a ring of 4")]
fn waiting_for_more_than_the_capacity_panics() {
    let _ = ring(4, 16, 0).unwrap().1.try_wait_many(5);
}

#[test]
#[should_panic(expected = "slot 2 of 2")]
fn writing_past_a_batch_panics() {
    ring(4, 16, 0).unwrap().0.try_claim_many(2).unwrap().unwrap().slot(2)[0] = 1;
}

#[test]
#[should_panic(expected = "slot 2 of 2")]
fn reading_past_a_batch_panics() {
    let (mut producer, mut consumer) = ring(4, 16, 0).unwrap();
    producer.try_claim_many(3).unwrap().unwrap().publish();
    let slots = consumer.try_wait_many(2).unwrap().unwrap();
    assert_eq!(slots.slot(2)[0], 0);
}

#[test]
#[should_panic(expected = "17 bytes for a slot of 16")]
fn too_long_a_copy_panics() {
    let _ = ring(4, 16, 0).unwrap().0.try_copy_into_slot(&[0; 17]);
}

#[test]
fn the_first_wait_of_a_fresh_ring_finds_nothing() {
    for first in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
        let (mut producer, mut consumer) = ring(2, 16, first).unwrap();
        assert!(consumer.try_wait().unwrap().is_none());
        assert_eq!(consumer.available(2), Ok(0));
        assert_eq!(producer.credit(2), Ok(2));
    }
}

#[test]
fn a_sequence_beyond_the_awaited_is_a_fault_and_not_data() {
    for first in [0, u64::MAX - 1] {
        let bare = Bare::new(4, first);
        let mut consumer = bare.consumer(first);
        let seen = first.wrapping_add(4);
        bare.poke(bare.config.slot(first).sequence, seen);
        let fault = RingFault::Beyond { counter: Counter::Sequence, allowed: first, seen };
        assert_eq!(consumer.try_wait().err(), Some(fault));
        assert_eq!(consumer.wait(&Spin { deadline: Duration::MAX }).err(), Some(fault));
        assert_eq!(consumer.available(4), Err(fault));
        assert_eq!(consumer.position(), first);
    }
    let fault = RingFault::Beyond { counter: Counter::Sequence, allowed: 3, seen: 7 };
    assert_eq!(fault.to_string(), "protocol fault: sequence shows 7, beyond 3");
}

#[test]
fn gating_beyond_the_published_is_a_fault_and_gating_that_falls_is_no_credit() {
    let bare = Bare::new(2, 10);
    let mut producer = bare.producer(10);
    bare.poke(bare.config.gating, 11);
    let fault = RingFault::Beyond { counter: Counter::Gating, allowed: 10, seen: 11 };
    assert_eq!(producer.try_claim().err(), Some(fault));

    bare.poke(bare.config.gating, 10);
    assert!(producer.try_copy_into_slot(&[]).unwrap() && producer.try_copy_into_slot(&[]).unwrap());
    bare.poke(bare.config.gating, 3);
    assert_eq!(producer.credit(1), Ok(0));
}

#[test]
fn a_producer_that_gives_up_has_published_nothing_and_may_go_on() {
    let (mut producer, mut consumer) = ring(2, 16, u64::MAX).unwrap();
    producer.try_claim_many(2).unwrap().unwrap().publish();
    let wait = Spin { deadline: Duration::from_millis(1) };
    let Err(RingFault::Stalled { counter: Counter::Gating, needed, seen, waited }) =
        producer.claim(&wait).map(drop)
    else {
        panic!("a full ring gave a slot")
    };
    assert_eq!((needed, seen), (0, u64::MAX));
    assert!(waited >= wait.deadline);
    assert_eq!((producer.position(), producer.standing(1)), (1, (0, u64::MAX)));
    assert_eq!(consumer.available(2), Ok(2));

    consumer.try_wait_many(2).unwrap().unwrap().release();
    assert!(consumer.try_wait().unwrap().is_none(), "nothing was published while giving up");
    assert!(producer.claim(&wait).is_ok());
}

#[test]
fn a_consumer_that_gives_up_has_returned_no_credit_and_may_go_on() {
    let (mut producer, consumer) = ring(4, 16, 5).unwrap();
    let mut consumer = consumer.with_credit_batch(2).unwrap();
    assert!(producer.try_copy_into_slot(&[1]).unwrap());
    consumer.try_wait().unwrap().unwrap().release();
    let wait = Yielding { deadline: Duration::from_millis(1) };
    let fault = consumer.wait(&wait).map(drop).unwrap_err();
    let RingFault::Stalled { counter: Counter::Sequence, needed: 6, seen: 4, waited } = fault else {
        panic!("{fault:?}")
    };
    assert_eq!(fault.to_string(), format!("waited {} us: needed sequence 6, saw 4", waited.as_micros()));
    assert_eq!((consumer.position(), consumer.standing(1)), (6, (6, 4)));
    assert_eq!(producer.credit(4), Ok(3), "the credit kept back stays back");

    assert!(producer.try_copy_into_slot(&[2]).unwrap());
    assert_eq!(consumer.wait(&wait).unwrap()[0], 2);
}

#[test]
fn no_wait_is_needed_where_there_is_something() {
    struct Never;
    impl Wait for Never {
        fn pause(&self, _spin: u32) {
            panic!("waited")
        }
        fn deadline(&self) -> Duration {
            Duration::ZERO
        }
    }
    let (mut producer, mut consumer) = ring(4, 16, 0).unwrap();
    producer.claim_many(3, &Never).unwrap().publish();
    producer.claim(&Never).unwrap().publish();
    consumer.wait(&Never).unwrap().release();
    consumer.wait_many(3, &Never).unwrap().release();
}

#[test]
fn an_end_goes_on_where_the_one_before_stood() {
    let first = u64::MAX - 4;
    let bare = Bare::new(4, first);
    let mut position = (first, first);
    for call in 0..9u8 {
        let mut producer = bare.producer(position.0);
        let mut consumer = bare.consumer(position.1).with_credit_batch(3).unwrap();
        for slot in 0..=call {
            assert!(producer.try_copy_into_slot(&[call, slot]).unwrap(), "call {call}, slot {slot}");
            let read = consumer.try_wait().unwrap().unwrap();
            assert_eq!(read[..2], [call, slot]);
            read.release();
        }
        consumer.flush();
        position = (producer.position(), consumer.position());
    }
    assert_eq!(position, (40, 40));
}

#[test]
fn a_producer_that_starts_anew_finds_a_full_ring_full() {
    let bare = Bare::new(2, 0);
    bare.producer(0).try_claim_many(2).unwrap().unwrap().publish();
    let mut next = bare.producer(2);
    assert!(next.try_claim().unwrap().is_none());
    bare.consumer(0).try_wait().unwrap().unwrap().release();
    assert!(next.try_claim().unwrap().is_some());
}

/// Every byte of every slot is a function of its sequence.
fn fill(slot: &mut [u8], sequence: u64) {
    for (place, word) in slot.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(sequence ^ (place as u64) << 48).to_le_bytes());
    }
}

fn stress(
    capacity: usize,
    publish: usize,
    consume: usize,
    credit_batch: usize,
    wait: impl Wait + Copy + Send + 'static,
) {
    let (first, messages, slot_bytes) = (u64::MAX - 1000, 12_000, 48);
    let (mut producer, consumer) = ring(capacity, slot_bytes, first).unwrap();
    let mut consumer = consumer.with_credit_batch(credit_batch).unwrap();
    let worker = std::thread::spawn(move || {
        for _ in 0..messages / publish {
            let mut slots = producer.claim_many(publish, &wait).unwrap();
            for index in 0..publish {
                let sequence = slots.sequence().wrapping_add(index as u64);
                fill(slots.slot(index), sequence);
            }
            slots.publish();
        }
    });
    let mut expected = vec![0; slot_bytes];
    for _ in 0..messages / consume {
        let slots = consumer.wait_many(consume, &wait).unwrap();
        for index in 0..consume {
            let sequence = slots.sequence().wrapping_add(index as u64);
            fill(&mut expected, sequence);
            assert_eq!(slots.slot(index), expected, "sequence {sequence}");
        }
        slots.release();
    }
    worker.join().unwrap();
    assert_eq!(consumer.position(), first.wrapping_add(messages as u64));
}

#[test]
fn two_threads_see_every_byte_of_every_slot() {
    let deadline = Duration::from_secs(60);
    let started = Instant::now();
    for (capacity, publish, consume, credit_batch) in
        [(1, 1, 1, 1), (2, 1, 1, 2), (4, 1, 1, 4), (4, 2, 1, 2), (8, 4, 2, 4), (16, 3, 4, 8), (64, 16, 8, 32)]
    {
        stress(capacity, publish, consume, credit_batch, Yielding { deadline });
    }
    stress(64, 4, 4, 16, Adaptive { deadline });
    assert!(started.elapsed() < deadline);
}
