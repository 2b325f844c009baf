//! Ranks that meet again and again, each by one word for each of its peers.
//!
//! STATE     board[dst][src], in dst's memory; only rank src stores it. It shows the epoch that src has come to.
//! RULES     a word grows by 1 an epoch and is never reset. While a rank waits for epoch e, a peer's word shows
//!           e - 1, e or e + 1: the peer may have seen this rank's arrival and come to the next meeting already.
//! ORDER     arrival releases, the wait acquires.

use super::{Scene, reached};
use crate::model::Device;

pub(super) fn build(scene: &mut Scene) {
    let equal_only = scene.weak("equality/lap");
    let (ranks, epochs, first) = (scene.between(2, 4), scene.between(2, 6), scene.first());
    let board = scene.words_of("the board", (0..ranks * ranks).map(|_| first));

    for rank in 0..ranks {
        let peers = move || (0..ranks).filter(move |&peer| peer != rank);
        let word = move |dst: usize, src: usize| board.at(dst * ranks + src);
        scene.world.thread(Device::Gpu(rank as u32), rank as u32, move |t| {
            for number in 1..=epochs {
                let epoch = first.wrapping_add(number as u64);
                for peer in peers() {
                    t.store_release(word(peer, rank), epoch);
                }
                for peer in peers() {
                    let seen = loop {
                        let seen = t.load_acquire(word(rank, peer));
                        if seen == epoch || !equal_only && reached(seen, epoch) {
                            break seen;
                        }
                        t.pause();
                    };
                    if reached(seen, epoch.wrapping_add(2)) {
                        t.fail("lead", format!("rank {rank} needed epoch {epoch:#x}, saw {seen:#x}"));
                    }
                }
            }
        });
    }
}
