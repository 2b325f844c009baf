//! Property: the ring is a bounded FIFO whose credit is exactly what the consumer has given back, from any
//! first sequence, slot by slot or in batches.
//!
//! Catches: off-by-one in the credit, a wrong mask, comparisons that are not wrap-safe, slots lost, doubled
//! or handed over early, credit kept back after a flush. Cannot catch: ordering bugs; `loom.rs` is for those.

use std::collections::VecDeque;

use myelon_ring::{Consumer, Producer, ring};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Publish,
    PublishMany(usize),
    ClaimAndDrop,
    Consume,
    ConsumeMany(usize),
    WaitAndDrop,
    Available(usize),
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Publish),
        2 => (0usize..=16).prop_map(Op::PublishMany),
        1 => Just(Op::ClaimAndDrop),
        4 => Just(Op::Consume),
        2 => (0usize..=16).prop_map(Op::ConsumeMany),
        1 => Just(Op::WaitAndDrop),
        1 => (0usize..=20).prop_map(Op::Available),
        1 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 0..200)
}

fn first_sequence() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        (0u64..40).prop_map(|back| u64::MAX - back),
        (0u64..40).prop_map(|b| (1 << 63) - b),
        any::<u64>()
    ]
}

/// The plain thing: what is published and unread, and how many slots the producer may not write.
struct Model {
    capacity: usize,
    credit_batch: usize,
    queue: VecDeque<u64>,
    kept_back: usize,
    next: u64,
}

impl Model {
    fn credit(&self) -> usize {
        self.capacity - self.queue.len() - self.kept_back
    }

    fn publish(&mut self) -> u64 {
        self.queue.push_back(self.next);
        self.next = self.next.wrapping_add(1);
        self.next.wrapping_sub(1)
    }

    fn released(&mut self, count: usize) {
        self.kept_back += count;
        if self.kept_back >= self.credit_batch {
            self.kept_back = 0;
        }
    }
}

fn stamp(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[8..16].try_into().unwrap())
}

fn step(
    op: &Op,
    model: &mut Model,
    producer: &mut Producer,
    consumer: &mut Consumer,
) -> Result<(), TestCaseError> {
    match *op {
        Op::Publish => {
            let room = model.credit() > 0;
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&model.next.to_le_bytes());
            prop_assert_eq!(producer.try_copy_into_slot(&bytes), Ok(room));
            if room {
                model.publish();
            }
        }
        Op::PublishMany(count) => {
            let count = count.min(model.capacity);
            let room = model.credit() >= count;
            let slots = producer.try_claim_many(count).unwrap();
            prop_assert_eq!(slots.is_some(), room);
            if let Some(mut slots) = slots {
                prop_assert_eq!((slots.sequence(), slots.len()), (model.next, count));
                for index in 0..count {
                    slots.slot(index)[8..16].copy_from_slice(&model.publish().to_le_bytes());
                }
                slots.publish();
            }
        }
        Op::ClaimAndDrop => {
            let slot = producer.try_claim().unwrap();
            prop_assert_eq!(slot.is_some(), model.credit() > 0);
            if let Some(mut slot) = slot {
                slot.fill(0xff);
            }
        }
        Op::Consume => {
            let mut bytes = [0; 16];
            prop_assert_eq!(consumer.try_copy_from_slot(&mut bytes), Ok(!model.queue.is_empty()));
            if let Some(sequence) = model.queue.pop_front() {
                prop_assert_eq!(stamp(&bytes), sequence);
                model.released(1);
            }
        }
        Op::ConsumeMany(count) => {
            let count = count.min(model.capacity);
            let slots = consumer.try_wait_many(count).unwrap();
            prop_assert_eq!(slots.is_some(), model.queue.len() >= count);
            if let Some(slots) = slots {
                for index in 0..count {
                    prop_assert_eq!(Some(stamp(slots.slot(index))), model.queue.pop_front());
                }
                slots.release();
                model.released(count);
            }
        }
        Op::WaitAndDrop => {
            let slot = consumer.try_wait().unwrap();
            prop_assert_eq!(slot.map(|slot| stamp(&slot)), model.queue.front().copied());
        }
        Op::Available(count) => {
            let seen = consumer.available(count).unwrap();
            prop_assert!(seen <= count.min(model.queue.len()));
            prop_assert_eq!(seen == 0, count == 0 || model.queue.is_empty());
        }
        Op::Flush => {
            consumer.flush();
            model.kept_back = 0;
        }
    }
    prop_assert_eq!(producer.credit(model.capacity), Ok(model.credit()));
    prop_assert_eq!(producer.position(), model.next);
    prop_assert_eq!(consumer.position(), model.next.wrapping_sub(model.queue.len() as u64));
    Ok(())
}

proptest! {
    #[test]
    fn the_ring_is_a_bounded_fifo(
        ops in ops(),
        first in first_sequence(),
        log2 in 0u32..=4,
        batch in 1usize..=16,
    ) {
        let capacity = 1 << log2;
        let credit_batch = batch.min(capacity);
        let (mut producer, consumer) = ring(capacity, 16, first).unwrap();
        let mut consumer = consumer.with_credit_batch(credit_batch).unwrap();
        let mut model = Model { capacity, credit_batch, queue: VecDeque::new(), kept_back: 0, next: first };
        for op in &ops {
            step(op, &mut model, &mut producer, &mut consumer)?;
        }
    }
}
