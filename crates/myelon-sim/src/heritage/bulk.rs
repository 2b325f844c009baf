//! A ring that is filled by bulk copies out of a staging buffer.
//!
//! STATE     as the ring's; besides two staging places in the producer's block, used in turn.
//! RULES     the producer fills a place, copies it into the slot, and publishes the slot once the copy has
//!           landed, while the next copy is under way. A place is filled again once its copy has been read.
//! ORDER     writes of a place -> proxy fence -> bulk copy -> full wait -> release of the slot's sequence. The
//!           wait for the reads alone frees the place and says nothing of the slot. The consumer's block reads,
//!           meets at a barrier, and then one thread returns the credit.

use super::{Scene, await_reached, must_be};
use crate::model::{CopyKind, Device, Grid, Thread};

const PLACES: usize = 2;
/// Words of a slot, one for each thread of the consumer's block.
const SLOT_WORDS: usize = 2;

fn value_of(message: usize, word: usize) -> u64 {
    (10 * message + word + 1) as u64
}

pub(super) fn build(scene: &mut Scene) {
    let (early, no_proxy) = (scene.weak("bulk/read-completion"), scene.weak("bulk/proxy"));
    let early_credit = scene.weak("bulk/credit");
    let (capacity, messages, first) = (scene.chance.pick(&[2, 4]), scene.between(1, 9), scene.first());
    let sequences = scene.words_of("the sequence words", (0..capacity).map(|_| first.wrapping_sub(1)));
    let gating = scene.words_of("the gating word", [first].into_iter());
    let slots = scene.words("the slots", capacity * SLOT_WORDS);
    let staging = scene.words("the staging buffer", PLACES * SLOT_WORDS);

    let sequence_of = move |message: usize| first.wrapping_add(message as u64);
    let publish = move |t: &Thread, message: usize| {
        t.store_release(sequences.at(message % capacity), sequence_of(message));
    };
    scene.world.thread(Device::Gpu(0), 0, move |t| {
        for message in 0..messages {
            await_reached(t, gating.at(0), sequence_of(message + 1).wrapping_sub(capacity as u64));
            t.copy_wait_read(PLACES - 1);
            let place = (message % PLACES) * SLOT_WORDS;
            for word in 0..SLOT_WORDS {
                staging.put(t, place + word, value_of(message, word));
            }
            if !no_proxy {
                t.proxy_fence();
            }
            let slot = slots.at((message % capacity) * SLOT_WORDS);
            t.copy(CopyKind::Bulk, slot, staging.at(place), 8 * SLOT_WORDS);
            t.copy_commit(CopyKind::Bulk);
            if message > 0 {
                if early {
                    t.copy_wait_read(1)
                } else {
                    t.copy_wait(CopyKind::Bulk, 1)
                }
                publish(t, message - 1);
            }
        }
        if early {
            t.copy_wait_read(0)
        } else {
            t.copy_wait(CopyKind::Bulk, 0)
        }
        publish(t, messages - 1);
    });

    let grid = Grid {
        device: Device::Gpu(1),
        party: 1,
        blocks: 1,
        threads: SLOT_WORDS as u32,
        warp_threads: SLOT_WORDS as u32,
        last_is_part: false,
        shared_words: 0,
    };
    scene.world.thread(Device::Host, 1, move |host| {
        let launch = host.launch(grid, move |t| {
            let me = t.place().thread as usize;
            for message in 0..messages {
                if me == 0 {
                    await_reached(t, sequences.at(message % capacity), sequence_of(message));
                }
                t.barrier_sync(1);
                let return_credit = || {
                    if me == 0 {
                        t.store_release(gating.at(0), sequence_of(message + 1));
                    }
                };
                if early_credit {
                    return_credit();
                }
                let seen = slots.get(t, (message % capacity) * SLOT_WORDS + me);
                must_be(t, "the slot's word", seen, value_of(message, me));
                t.barrier_sync(1);
                if !early_credit {
                    return_credit();
                }
            }
        });
        host.join(launch);
    });
}
