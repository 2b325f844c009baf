//! A one-shot all-reduce that reads every peer's input where it lies.
//!
//! STATE     entered[dst][src] and left[dst][src], in dst's memory; only rank src stores them. Both show the
//!           number of the call.
//! RULES     a rank writes its input, enters, and reads a peer's input once that peer has entered. It writes
//!           its input again once every peer has left.
//! ORDER     entering releases the input's writes, leaving releases the reads of the peers' inputs; both are
//!           awaited with acquire. The end of a kernel says that this rank has finished, and nothing of peers
//!           that still read its input.

use super::{Scene, await_reached, must_be};
use crate::model::Device;

const INPUT_WORDS: usize = 2;

fn value_of(rank: usize, call: usize, word: usize) -> u64 {
    (100 * call + 10 * rank + word) as u64
}

pub(super) fn build(scene: &mut Scene) {
    let (no_entry, no_exit) = (scene.weak("pull/entry"), scene.weak("pull/exit"));
    let (ranks, calls, first) = (scene.between(2, 4), scene.between(2, 4), scene.first());
    let nothing_yet = || (0..ranks * ranks).map(|_| first.wrapping_sub(1));
    let entered = scene.words_of("the entry flags", nothing_yet());
    let left = scene.words_of("the exit flags", nothing_yet());
    let inputs = scene.words("the inputs", ranks * INPUT_WORDS);

    for rank in 0..ranks {
        let peers = move || (0..ranks).filter(move |&peer| peer != rank);
        let flag = move |dst: usize, src: usize| dst * ranks + src;
        scene.world.thread(Device::Gpu(rank as u32), rank as u32, move |t| {
            for call in 0..calls {
                for word in 0..INPUT_WORDS {
                    inputs.put(t, rank * INPUT_WORDS + word, value_of(rank, call, word));
                }
                let number = first.wrapping_add(call as u64);
                for peer in peers() {
                    t.store_release(entered.at(flag(peer, rank)), number);
                }
                for peer in peers().filter(|_| !no_entry) {
                    await_reached(t, entered.at(flag(rank, peer)), number);
                }
                for word in 0..INPUT_WORDS {
                    let sum = (0..ranks).map(|from| inputs.get(t, from * INPUT_WORDS + word)).sum();
                    must_be(t, "the sum", sum, (0..ranks).map(|from| value_of(from, call, word)).sum());
                }
                for peer in peers() {
                    t.store_release(left.at(flag(peer, rank)), number);
                }
                for peer in peers().filter(|_| !no_exit) {
                    await_reached(t, left.at(flag(rank, peer)), number);
                }
            }
        });
    }
}
