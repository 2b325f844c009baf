//! A ring whose ends are kernels in a graph that is replayed.
//!
//! STATE     as the ring's; besides a position for each end, in device memory.
//! RULES     each replay launches both ends with the arguments of the capture. An end begins where its last
//!           launch has stopped, and advances its position on its way out.
//! ORDER     the launches of an end follow one another on its stream; ends meet through the ring alone.

use super::{Scene, await_reached, must_be};
use crate::model::{Device, Grid};

fn value_of(replay: usize, message: usize) -> u64 {
    (100 * replay + message + 1) as u64
}

fn one_thread(rank: u32) -> Grid {
    Grid {
        device: Device::Gpu(rank),
        party: rank,
        blocks: 1,
        threads: 1,
        warp_threads: 1,
        last_is_part: false,
        shared_words: 0,
    }
}

pub(super) fn build(scene: &mut Scene) {
    let host_counter = scene.weak("replay/host-counter");
    let (capacity, replays, first) = (scene.chance.pick(&[1, 2, 4]), scene.between(2, 3), scene.first());
    let messages = scene.between(1, 2 * capacity);
    let sequences = scene.words_of("the sequence words", (0..capacity).map(|_| first.wrapping_sub(1)));
    let gating = scene.words_of("the gating word", [first].into_iter());
    let slots = scene.words("the slots", capacity);
    let input = scene.words("the producer's input", messages);
    let output = scene.words("the consumer's output", messages);
    let positions = scene.words_of("the positions", [first, first].into_iter());
    let slot_of = move |sequence: u64| (sequence & (capacity as u64 - 1)) as usize;

    scene.world.thread(Device::Host, 0, move |host| {
        for replay in 0..replays {
            for message in 0..messages {
                input.put(host, message, value_of(replay, message));
            }
            let launch = host.launch(one_thread(0), move |t| {
                let base = if host_counter { first } else { positions.get(t, 0) };
                for message in 0..messages {
                    let sequence = base.wrapping_add(message as u64);
                    await_reached(t, gating.at(0), sequence.wrapping_sub(capacity as u64 - 1));
                    slots.put(t, slot_of(sequence), input.get(t, message));
                    t.store_release(sequences.at(slot_of(sequence)), sequence);
                }
                positions.put(t, 0, base.wrapping_add(messages as u64));
            });
            host.join(launch);
        }
    });
    scene.world.thread(Device::Host, 1, move |host| {
        for replay in 0..replays {
            let launch = host.launch(one_thread(1), move |t| {
                let base = if host_counter { first } else { positions.get(t, 1) };
                for message in 0..messages {
                    let sequence = base.wrapping_add(message as u64);
                    await_reached(t, sequences.at(slot_of(sequence)), sequence);
                    output.put(t, message, slots.get(t, slot_of(sequence)));
                    t.store_release(gating.at(0), sequence.wrapping_add(1));
                }
                positions.put(t, 1, base.wrapping_add(messages as u64));
            });
            host.join(launch);
            for message in 0..messages {
                must_be(host, "the output", output.get(host, message), value_of(replay, message));
            }
        }
    });
}
