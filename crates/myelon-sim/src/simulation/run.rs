//! One run of one case: windows and buffers in a world, a host thread for each rank, and what came of it.

use bytemuck::Zeroable;
use myelon_lanes::Algorithm;
use myelon_ring::WindowLayout;
use myelon_ring::words::{AllReduceArgs, Fault, FaultCode, Movement, RANKS_MAX};

use super::case::{Call, Case, Mishap};
use super::checks::Checks;
use super::furnish::{Buffers, Setting, buffer_segments, furnish, packet_address};
use super::map::{PacketName, Part};
use super::mutants::Mutant;
use super::packets::{Packets, uses};
use super::verdict;
use crate::launch::{KernelCall, kernel_args};
use crate::model::{Address, Device, Ended, Failure, Grid, Launch, Random, Thread, Violation, World};
use crate::port::{Kernel, kernel, run_kernel};

/// Threads of a simulated warp; `kernels/host/port_model.h` has the same number.
pub(super) const WARP_THREADS: u32 = 16;
/// Words of a block's memory, and simulated nanoseconds that a wait may last.
const SHARED_WORDS: usize = 40;
const DEADLINE_NS: u64 = 1 << 26;
/// Far beyond what a case of the sizes here takes.
const STEPS_MAX: u64 = 50_000_000;

/// Sums the ranks' bytes: type, operation, inputs.
pub type Reference = fn(&str, &str, &[&[u8]]) -> Vec<u8>;

/// What a call left, as the host sees it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) fault: Fault,
    pub(super) output: Vec<u8>,
    pub(super) input: Vec<u8>,
}

/// Which ranks make calls.
pub(super) fn comes(case: &Case, rank: usize) -> bool {
    match case.mishap {
        Some(Mishap::NeverComes { rank: missing }) => rank != missing,
        Some(Mishap::Overwritten { rank: only, .. } | Mishap::Aborted { rank: only, alone: true, .. }) => {
            rank == only
        }
        _ => true,
    }
}

/// The launches that a rank makes, one after the other.
fn launches(
    case: &Case,
    layout: &WindowLayout,
    setting: &Setting,
    rank: usize,
) -> Vec<(Kernel, AllReduceArgs, Grid)> {
    let mut addresses = [0; RANKS_MAX];
    for (address, window) in addresses.iter_mut().zip(&setting.windows) {
        *address = window.0;
    }
    let launch = |number: usize| {
        let call = case.call_of(rank, number);
        let (name, buffers) = (call.kernel(), &setting.buffers[number][rank]);
        let kernel_call = KernelCall {
            kernel: &name,
            call: call.word(),
            lanes: call.lanes,
            workers: call.workers,
            piece_bytes: call.piece_bytes,
            average: call.op == "avg",
            deadline_ns: DEADLINE_NS,
        };
        let mut args = kernel_args(&case.shape, layout, addresses, rank, &kernel_call, buffers.given.len());
        (args.input, args.output) = (buffers.input.0, buffers.output.0);
        (args.input_at, args.output_at) = ([args.input; RANKS_MAX], [args.output; RANKS_MAX]);
        (args.fault, args.host_abort) = (setting.faults[rank].0, setting.host_aborts[rank].0);
        let grid = Grid {
            device: Device::Gpu(rank as u32),
            party: rank as u32,
            blocks: call.blocks() as u32,
            threads: case.movers + WARP_THREADS,
            warp_threads: WARP_THREADS,
            last_is_part: call.is_of_packets(),
            shared_words: SHARED_WORDS,
        };
        (kernel(&name).unwrap_or_else(|| panic!("no kernel {name}")), args, grid)
    };
    (0..case.calls.len()).map(launch).collect()
}

/// The host of a rank: queues its calls and looks at the record.
fn host(
    world: &mut World,
    case: &Case,
    layout: &WindowLayout,
    setting: &Setting,
    rank: usize,
    mutant: Mutant,
) {
    let launches = launches(case, layout, setting, rank);
    let calls: Vec<Call> = (0..case.calls.len()).map(|number| case.call_of(rank, number)).collect();
    let buffers: Vec<(Address, Address, Vec<u8>)> = setting
        .buffers
        .iter()
        .map(|call| (call[rank].input, call[rank].output, call[rank].given.clone()))
        .collect();
    let (records, skew) = (setting.faults.clone(), case.skew * rank as u32);
    let well = setting.well.clone();
    let look_at_peers = !matches!(case.mishap, Some(Mishap::Aborted { .. }));
    world.thread(Device::Host, rank as u32, move |thread| {
        for _ in 0..skew {
            thread.pause();
        }
        // Work in front of a call writes its input; work behind it reads the output, and writes the input again.
        let start = |number: usize, before: Option<Launch>| {
            let (kernel, args, grid) = launches[number];
            let (input, _, given) = &buffers[number];
            let beside = mutant == Mutant::START_EARLY && calls[number].algorithm == Algorithm::Direct;
            if !beside {
                thread.write(*input, given);
            }
            let launch = match before {
                Some(before) => thread.launch_early(grid, before, move |_| run_kernel(kernel, &args)),
                None => thread.launch(grid, move |_| run_kernel(kernel, &args)),
            };
            if beside {
                thread.write(*input, given);
            }
            launch
        };
        let mut early = None;
        for (number, (input, output, given)) in buffers.iter().enumerate() {
            let launch = early.take().unwrap_or_else(|| start(number, None));
            // Calls by packets are launched such that the next one may be there before this one has ended.
            let is_early = |call: &Call| calls[number].is_of_packets() && call.is_of_packets();
            if calls.get(number + 1).is_some_and(is_early) {
                early = Some(start(number + 1, Some(launch)));
            }
            // The host looks at the record while the kernel runs, and once more behind it.
            look_at_record(thread, &records, rank, mutant, look_at_peers);
            thread.join(launch);
            let code = look_at_record(thread, &records, rank, mutant, look_at_peers);
            well.borrow_mut()[number][rank] = code == FaultCode::None as u32;
            if code == FaultCode::None as u32 {
                thread.read(*output, &mut vec![0; given.len()]);
                if input != output {
                    thread.write(*input, given);
                }
            }
        }
    });
}

/// Reads the record as `FaultPage::read` of myelon-kernel does, and holds F2 and F3; its code.
fn look_at_record(
    thread: &Thread,
    records: &[Address],
    rank: usize,
    mutant: Mutant,
    look_at_peers: bool,
) -> u32 {
    let read = |of: usize| {
        // ORDER fault/record: the acquire that FaultPage::read has; its mutant has none.
        let head = match mutant == Mutant::RECORD_ACQUIRE {
            true => thread.load_relaxed(records[of]),
            false => thread.load_acquire(records[of]),
        };
        if head != 0 {
            let mut fields = [0; 56];
            thread.read(records[of].plus(8), &mut fields);
        }
        head as u32
    };
    let code = read(rank);
    if code == FaultCode::Aborted as u32 && look_at_peers {
        let found = (0..records.len()).any(|peer| ![0, FaultCode::Aborted as u32].contains(&read(peer)));
        if !found {
            thread.fail("record", format!("rank {rank} was told to stop, and no record says why"));
        }
    }
    code
}

fn mishaps(world: &mut World, case: &Case, layout: &WindowLayout, setting: &Setting) {
    match case.mishap {
        Some(Mishap::Stops { rank, after_steps }) => world.stop(rank as u32, after_steps),
        // No peer waits longer than the deadline and an eighth.
        Some(Mishap::Pauses { rank, after_steps }) => world.pause(rank as u32, after_steps, 2 * DEADLINE_NS),
        Some(Mishap::Slow { rank }) => world.slow(rank as u32),
        Some(Mishap::Aborted { rank, after, .. }) => {
            let word = setting.host_aborts[rank];
            world.thread(Device::Host, RANKS_MAX as u32, move |thread| {
                for _ in 0..after {
                    thread.pause();
                }
                thread.store_relaxed(word, 1);
            });
        }
        Some(Mishap::Overwritten { rank, gating }) if case.calls.first().is_some_and(Call::is_of_packets) => {
            let (shape, call) = (&case.shape, case.call_of(rank, 0));
            // Of the packets that a wait lacks, the one of the last rank is the one it looks at.
            let sender = if rank + 1 == shape.ranks { rank - 1 } else { shape.ranks - 1 };
            let part = match (gating, call.algorithm) {
                (_, Algorithm::Direct) => {
                    Part::Header { lane: if gating { 0 } else { call.lanes as u8 - 1 }, header: 2 }
                }
                (true, _) => Part::Payload(0),
                (false, _) => Part::Header { lane: call.lanes as u8 - 1, header: 0 },
            };
            let parity = (shape.first % 2) as u8;
            let mut packet = PacketName { owner: rank as u8, sender: sender as u8, parity, part };
            if !uses(&call, shape, &packet) {
                packet.part = Part::Header { lane: 0, header: 0 };
            }
            let beyond = shape.first.wrapping_add(2) << 32;
            for half in 0..2 {
                let at = packet_address(setting, layout, &packet).plus(8 * half);
                world.set(at, &beyond.to_le_bytes());
            }
        }
        Some(Mishap::Overwritten { rank, gating }) => {
            let is_neighbour = case.calls.first().is_some_and(|call| call.algorithm == Algorithm::Neighbour);
            let movement = if is_neighbour { Movement::Neighbour } else { Movement::Scatter };
            let after = (rank + 1) % case.shape.ranks;
            let before = if is_neighbour { (rank + case.shape.ranks - 1) % case.shape.ranks } else { after };
            let ring = match gating {
                true => layout.ring(&[0; RANKS_MAX], movement, 0, rank, after),
                false => layout.ring(&[0; RANKS_MAX], movement, 0, before, rank),
            };
            // More than anybody can have written before the rank's first look.
            let (first, capacity) = (case.shape.first, ring.capacity as u64);
            let (offset, beyond) = match gating {
                true => (ring.gating, first.wrapping_add(1)),
                false => (ring.sequence + 8 * (first & (capacity - 1)), first.wrapping_add(capacity)),
            };
            world.set(setting.windows[rank].plus(offset as usize), &beyond.to_le_bytes());
        }
        Some(Mishap::NeverComes { .. } | Mishap::OtherCount { .. }) | None => {}
    }
}

/// What is left of a run.
pub(super) struct Finished {
    pub(super) result: Result<Ended, Failure>,
    pub(super) setting: Setting,
}

/// Runs a case from a seed and looks at all that came of it.
pub(super) fn run(case: &Case, seed: u64, mutant: Mutant, reference: Reference, trace: usize) -> Finished {
    let shape = &case.shape;
    let layout = shape.layout().expect("Case::check was asked before");
    let mut world = World::new(seed, case.schedule);
    let mut random = Random::new(!seed);
    let setting = furnish(&mut world, case, &layout, &mut random);
    world.mutant(mutant.number());
    world.steps_max(STEPS_MAX);
    world.idle_max(DEADLINE_NS / 32, 256);
    world.keep_trace(trace);
    let launches = setting.launches.clone();
    let packets = Packets::new(shape, launches.clone(), case.calls.len(), setting.unscrubbed.clone());
    let buffers = buffer_segments(case, &setting);
    world.check(Box::new(Checks::new(setting.map.clone(), shape, launches, packets, buffers)));
    for rank in (0..shape.ranks).filter(|&rank| comes(case, rank)) {
        host(&mut world, case, &layout, &setting, rank, mutant);
    }
    mishaps(&mut world, case, &layout, &setting);
    let result = world.run().and_then(|ended| {
        let outcomes = outcomes(&ended, &setting);
        let verdict = verdict::judge(case, &setting, &outcomes, reference)
            .and_then(|()| verdict::at_rest(case, &layout, &setting, &ended))
            .and_then(|()| verdict::counted(&setting, &layout, &outcomes[0], &ended));
        let failed = |violation: Violation| Failure { violation, step: ended.steps(), trace: ended.trace() };
        match verdict {
            Ok(()) => Ok(ended),
            Err(violation) => Err(failed(violation)),
        }
    });
    Finished { result, setting }
}

fn outcomes(ended: &Ended, setting: &Setting) -> Vec<Vec<Outcome>> {
    let of_rank = |(rank, buffers): (usize, &Buffers)| {
        let mut fault = Fault::zeroed();
        bytemuck::bytes_of_mut(&mut fault)
            .copy_from_slice(&ended.bytes(setting.faults[rank], size_of::<Fault>()));
        let bytes = buffers.given.len();
        Outcome {
            fault,
            output: ended.bytes(buffers.output, bytes),
            input: ended.bytes(buffers.input, bytes),
        }
    };
    setting.buffers.iter().map(|call| call.iter().enumerate().map(of_rank).collect()).collect()
}
