//! A block pulls the peer's input through three buffers with cp.async, and adds its own.
//!
//! STATE     three buffers of one vector a thread, in the block's memory; a group of copies for each stage.
//! RULES     stage k lies in buffer k mod 3. A thread uses what its neighbour has fetched, as it does where
//!           local and remote vectors are not cut alike.
//! ORDER     the wait makes a group's data that of the thread that issued it; the barrier behind the wait makes
//!           it the block's; the barrier behind the use lets the buffer be fetched into again.

use super::{Scene, must_be};
use crate::model::{CopyKind, Device, Grid};

const BUFFERS: usize = 3;

fn theirs_of(vector: usize) -> u64 {
    1000 + vector as u64
}

fn mine_of(vector: usize) -> u64 {
    7 * vector as u64
}

pub(super) fn build(scene: &mut Scene) {
    let (refetch, drain) = (scene.weak("prefetch/refetch"), scene.weak("prefetch/drain"));
    let no_barrier = scene.weak("prefetch/barrier");
    let (threads, stages) = (scene.between(2, 3), scene.between(1, 8));
    let vectors = threads * stages;
    let theirs = scene.words_of("the peer's input", (0..vectors).map(theirs_of));
    let mine = scene.words_of("the own input", (0..vectors).map(mine_of));
    let output = scene.words("the output", vectors);
    let buffers = scene.words("the buffers", BUFFERS * threads);

    scene.world.thread(Device::Host, 0, move |host| {
        let grid = Grid {
            device: Device::Gpu(0),
            party: 0,
            blocks: 1,
            threads: threads as u32,
            warp_threads: threads as u32,
            last_is_part: false,
            shared_words: 0,
        };
        let launch = host.launch(grid, move |t| {
            let me = t.place().thread as usize;
            let in_buffer = |stage: usize, thread: usize| (stage % BUFFERS) * threads + thread;
            let fetch = |stage: usize| {
                if stage < stages {
                    let (to, from) = (buffers.at(in_buffer(stage, me)), theirs.at(stage * threads + me));
                    t.copy(CopyKind::Thread, to, from, 8);
                    t.copy_commit(CopyKind::Thread);
                }
            };
            for stage in 0..BUFFERS {
                fetch(stage);
            }
            for stage in 0..stages {
                // Groups behind this stage's: fewer than two where no more stages follow.
                let behind = if drain { 2 } else { (stages - 1 - stage).min(BUFFERS - 1) };
                t.copy_wait(CopyKind::Thread, behind);
                if !no_barrier {
                    t.barrier_sync(1);
                }
                if refetch {
                    fetch(stage + BUFFERS);
                }
                let neighbour = (me + 1) % threads;
                let vector = stage * threads + neighbour;
                let sum = buffers.get(t, in_buffer(stage, neighbour)).wrapping_add(mine.get(t, vector));
                output.put(t, vector, sum);
                t.barrier_sync(1);
                if !refetch {
                    fetch(stage + BUFFERS);
                }
            }
        });
        host.join(launch);
        for vector in 0..vectors {
            must_be(host, "the sum", output.get(host, vector), theirs_of(vector) + mine_of(vector));
        }
    });
}
