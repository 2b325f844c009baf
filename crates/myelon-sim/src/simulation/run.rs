//! One run of one case: windows and buffers in a world, a host thread for each rank, and what came of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytemuck::Zeroable;
use myelon_lanes::Algorithm;
use myelon_ring::WindowLayout;
use myelon_ring::words::{AllReduceArgs, Fault, FaultCode, HEADERS, Movement, RANKS_MAX};

use super::case::{Call, Case, Mishap};
use super::checks::Checks;
use super::launches::Launches;
use super::map::{Map, PacketName, Part};
use super::mutants::Mutant;
use super::packets::{Buffer, Packets, scrubbed_in, uses};
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

/// Buffers of one call of one rank.
pub(super) struct Buffers {
    input: Address,
    output: Address,
    pub(super) given: Vec<u8>,
}

/// What a call left, as the host sees it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) fault: Fault,
    pub(super) output: Vec<u8>,
    pub(super) input: Vec<u8>,
}

/// Everything that a run is made of, for the verdict and for people.
pub(super) struct Setting {
    pub(super) map: Rc<Map>,
    pub(super) buffers: Vec<Vec<Buffers>>,
    faults: Vec<Address>,
    host_aborts: Vec<Address>,
    pub(super) windows: Vec<Address>,
    /// By call and rank: whether the host saw the call's end, and no record then.
    pub(super) well: Rc<RefCell<Vec<Vec<bool>>>>,
    pub(super) launches: Rc<RefCell<Launches>>,
    /// The first rank and call that left a packet as it was which it had to scrub.
    pub(super) unscrubbed: Rc<Cell<Option<(usize, usize)>>>,
}

impl Setting {
    /// The name of memory that is no window.
    pub(super) fn other_name(&self, at: Address) -> String {
        for (what, list) in [("record", &self.faults), ("host's abort word", &self.host_aborts)] {
            if let Some(rank) = list.iter().position(|start| start.segment() == at.segment()) {
                return format!("the {what} of rank {rank}");
            }
        }
        for (number, of_call) in self.buffers.iter().enumerate() {
            for (rank, buffers) in of_call.iter().enumerate() {
                for (what, start) in [("input", buffers.input), ("output", buffers.output)] {
                    if start.segment() == at.segment() {
                        return format!("the {what} of rank {rank} in call {number}");
                    }
                }
            }
        }
        format!("{at:?}")
    }
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

/// Makes windows and buffers with random contents.
fn furnish(world: &mut World, case: &Case, layout: &WindowLayout, random: &mut Random) -> Setting {
    let ranks = case.shape.ranks;
    let words = layout.initial_words(case.shape.first);
    let mut windows = Vec::new();
    for rank in 0..ranks {
        let window = world.memory(format!("window of rank {rank}"), layout.bytes(), 8);
        world.set(window, bytemuck::cast_slice(&words));
        windows.push(window);
    }
    let line =
        |world: &mut World, name: &str, rank: usize| world.memory(format!("{name} of rank {rank}"), 128, 4);
    let faults = (0..ranks).map(|rank| line(world, "record", rank)).collect();
    let host_aborts = (0..ranks).map(|rank| line(world, "host's abort word", rank)).collect();
    let mut buffers = Vec::new();
    for (number, call) in case.calls.iter().enumerate() {
        let size = call.element_bytes();
        let mut of_call = Vec::new();
        for rank in 0..ranks {
            let elements = case.call_of(rank, number).elements;
            let skew = call.skewed * (rank + 1) * size % 16;
            let given = random.bytes(elements * size);
            let input =
                world.memory(format!("input {number} of rank {rank}"), skew + given.len(), size).plus(skew);
            world.set(input, &given);
            let output = match call.in_place {
                true => input,
                false => {
                    let output =
                        world.memory(format!("output {number} of rank {rank}"), skew + given.len(), size);
                    output.plus(skew)
                }
            };
            of_call.push(Buffers { input, output, given });
        }
        buffers.push(of_call);
    }
    let map = Rc::new(Map::new(&case.shape, layout, &windows));
    let well = Rc::new(RefCell::new(vec![vec![false; ranks]; case.calls.len()]));
    let (launches, unscrubbed) = (Launches::new(case), Rc::default());
    let setting = Setting { map, buffers, faults, host_aborts, windows, well, launches, unscrubbed };
    leave_stale_packets(world, case, layout, &setting, random);
    setting
}

/// P4: what scrubbing is for. Packets that show the epoch of the last call already, as some could after 2^32 epochs:
/// those that an earlier call scrubs before anybody looks at them.
fn leave_stale_packets(
    world: &mut World,
    case: &Case,
    layout: &WindowLayout,
    setting: &Setting,
    random: &mut Random,
) {
    let shape = &case.shape;
    let by_packets: Vec<&Call> = case.calls.iter().filter(|call| call.is_of_packets()).collect();
    let epoch_of = |index: usize| shape.first.wrapping_add(index as u64);
    let Some(last) = by_packets.len().checked_sub(1) else { return };
    for scrubs in (0..last).filter(|index| (last - index).is_multiple_of(2)) {
        for (owner, sender) in (0..shape.ranks * shape.ranks).map(|i| (i / shape.ranks, i % shape.ranks)) {
            if owner == sender {
                continue;
            }
            let packet = scrubbed_in(epoch_of(scrubs), shape, owner, sender);
            if by_packets[..=scrubs].iter().any(|call| uses(call, shape, &packet)) {
                continue;
            }
            let at = packet_address(setting, layout, &packet);
            for half in 0..2 {
                let value = epoch_of(last) << 32 | random.bits() >> 32;
                world.set(at.plus(8 * half), &value.to_le_bytes());
            }
        }
    }
}

fn packet_address(setting: &Setting, layout: &WindowLayout, packet: &PacketName) -> Address {
    let (owner, sender) = (packet.owner as usize, packet.sender as usize);
    let number = match packet.part {
        Part::Header { lane, header } => HEADERS * usize::from(lane) + usize::from(header),
        Part::Payload(number) => HEADERS * layout.inbox().lanes + number as usize,
    };
    setting.windows[owner].plus(layout.packet(packet.parity.into(), layout.place(owner, sender), number))
}

/// What each segment is, where it is a buffer.
fn buffer_segments(case: &Case, setting: &Setting) -> Vec<Option<Buffer>> {
    let mut segments = Vec::new();
    let mut enter = |at: Address, buffer: Buffer| {
        segments.resize(segments.len().max(at.segment() + 1), None);
        segments[at.segment()] = Some(buffer);
    };
    for (number, of_call) in setting.buffers.iter().enumerate() {
        let in_place = case.calls[number].in_place;
        for (rank, buffers) in of_call.iter().enumerate() {
            enter(buffers.input, Buffer { rank, number, is_input: true, is_output: in_place });
            enter(buffers.output, Buffer { rank, number, is_input: in_place, is_output: true });
        }
    }
    segments
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
        (args.fault, args.host_abort) = (setting.faults[rank].0, setting.host_aborts[rank].0);
        let grid = Grid {
            device: Device::Gpu(rank as u32),
            party: rank as u32,
            blocks: if call.is_of_packets() { call.lanes } else { 3 * call.workers } as u32,
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
    let by_packets: Vec<bool> =
        (0..case.calls.len()).map(|number| case.call_of(rank, number).is_of_packets()).collect();
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
            thread.write(*input, given);
            match before {
                Some(before) => thread.launch_early(grid, before, move |_| run_kernel(kernel, &args)),
                None => thread.launch(grid, move |_| run_kernel(kernel, &args)),
            }
        };
        let mut early = None;
        for (number, (input, output, given)) in buffers.iter().enumerate() {
            let launch = early.take().unwrap_or_else(|| start(number, None));
            // Calls by packets are launched such that the next one may be there before this one has ended.
            if by_packets[number] && by_packets.get(number + 1) == Some(&true) {
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
            let peer = (rank + 1) % case.shape.ranks;
            let ring = match gating {
                true => layout.ring(&[0; RANKS_MAX], Movement::Scatter, 0, rank, peer),
                false => layout.ring(&[0; RANKS_MAX], Movement::Scatter, 0, peer, rank),
            };
            // More than anybody can have written before the rank's first look.
            let (first, capacity) = (case.shape.first, case.shape.capacity as u64);
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
            .and_then(|()| verdict::at_rest(case, &layout, &setting, &ended));
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
