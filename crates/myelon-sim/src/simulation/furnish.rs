//! What a run is made of: windows, buffers and records in a world, and what each is to people and checkers.

use std::cell::{Cell, RefCell};
use std::mem::offset_of;
use std::rc::Rc;

use myelon_ring::WindowLayout;
use myelon_ring::words::{HEADERS, HostPage};

use super::case::{Call, Case};
use super::inputs;
use super::launches::Launches;
use super::map::{Map, PacketName, Part};
use super::packets::{Buffer, scrubbed_in, uses};
use crate::model::{Address, Random, World};

/// Buffers of one call of one rank.
pub(super) struct Buffers {
    pub(super) input: Address,
    pub(super) output: Address,
    pub(super) given: Vec<u8>,
}

/// Everything that a run is made of, for the verdict and for people.
pub(super) struct Setting {
    pub(super) map: Rc<Map>,
    pub(super) buffers: Vec<Vec<Buffers>>,
    pub(super) faults: Vec<Address>,
    pub(super) host_aborts: Vec<Address>,
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
        if let Some(rank) = self.faults.iter().position(|start| start.segment() == at.segment()) {
            let parts =
                [(offset_of!(HostPage, abort), "record"), (offset_of!(HostPage, waits), "host's abort word")];
            let part = parts.into_iter().find(|(end, _)| at.offset() < *end);
            return format!("the {} of rank {rank}", part.map_or("told counters", |(_, what)| what));
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

/// Makes windows and buffers with contents by lot.
pub(super) fn furnish(world: &mut World, case: &Case, layout: &WindowLayout, random: &mut Random) -> Setting {
    let ranks = case.shape.ranks;
    let words = layout.initial_words(case.shape.first);
    let mut windows = Vec::new();
    for rank in 0..ranks {
        let window = world.memory(format!("window of rank {rank}"), layout.bytes(), 8);
        world.set(window, bytemuck::cast_slice(&words));
        windows.push(window);
    }
    let page = size_of::<HostPage>();
    let faults: Vec<Address> =
        (0..ranks).map(|rank| world.memory(format!("host's page of rank {rank}"), page, 4)).collect();
    let host_aborts = faults.iter().map(|page| page.plus(offset_of!(HostPage, abort))).collect();
    let mut buffers = Vec::new();
    for (number, call) in case.calls.iter().enumerate() {
        let size = call.element_bytes();
        let mut of_call = Vec::new();
        for rank in 0..ranks {
            let elements = case.call_of(rank, number).elements;
            let skew = call.skewed * (rank + 1) * size % 16;
            let given = inputs::elements(random, call.dtype, elements);
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

pub(super) fn packet_address(setting: &Setting, layout: &WindowLayout, packet: &PacketName) -> Address {
    let (owner, sender) = (packet.owner as usize, packet.sender as usize);
    let number = match packet.part {
        Part::Header { lane, header } => HEADERS * usize::from(lane) + usize::from(header),
        Part::Payload(number) => HEADERS * layout.inbox().lanes + number as usize,
    };
    setting.windows[owner].plus(layout.packet(packet.parity.into(), layout.place(owner, sender), number))
}

/// What each segment is, where it is a buffer.
pub(super) fn buffer_segments(case: &Case, setting: &Setting) -> Vec<Option<Buffer>> {
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
