//! A block copies through three stages of its memory, in by cp.async and out by bulk copies: the text of
//! `kernels/checks/staged_copy.cu`. Its orders stand in docs/protocols/copies.md.

use bytemuck::Zeroable;
use myelon_ring::words::AllReduceArgs;

use super::{Scene, must_be};
use crate::model::{Device, Grid};
use crate::port;

/// Vectors of a stage; the kernel has the same number.
const STAGE_VECTORS: usize = 64;

pub(super) fn build(scene: &mut Scene) {
    let unacquired = scene.weak("copies/landed.acquire");
    let number = (1..).map_while(|number| Some((number, port::mutant(number)?.0)));
    let of_kernel = number.into_iter().find(|(_, name)| *name == scene.mutant);
    scene.world.mutant(of_kernel.map_or(0, |(number, _)| number));

    let vectors = scene.between(0, 7 * STAGE_VECTORS);
    let threads = scene.between(2, 4) as u32;
    let input = scene.words_of("the input", (0..2 * vectors).map(|i| (i * i + 1) as u64));
    let output = scene.words("the output", 2 * vectors);
    let landed = scene.words("the flag", 1);
    let chunks = vectors.div_ceil(STAGE_VECTORS) as u64;
    let kernel = port::kernel("staged_copy_check").expect("the kernel is compiled in");
    let args = AllReduceArgs {
        input: input.at(0).0,
        output: output.at(0).0,
        bytes: 16 * vectors as u64,
        call: landed.at(0).0,
        ..Zeroable::zeroed()
    };
    scene.world.thread(Device::Host, 0, move |host| {
        let device = Device::Gpu(0);
        let grid = Grid {
            device,
            party: 0,
            blocks: 1,
            threads,
            warp_threads: threads,
            last_is_part: false,
            shared_words: 0,
        };
        let launch = host.launch(grid, move |_| port::run_kernel(kernel, &args));
        // The flag is to be believed at once, before the kernel has ended.
        loop {
            // ORDER copies/landed: the acquire that lets the output be read behind the flag.
            let seen = match unacquired {
                true => host.load_relaxed(landed.at(0)),
                false => host.load_acquire(landed.at(0)),
            };
            if seen == chunks {
                break;
            }
            host.pause();
        }
        for i in 0..2 * vectors {
            must_be(host, "the copy", output.get(host, i), (i * i + 1) as u64);
        }
        host.join(launch);
    });
}
