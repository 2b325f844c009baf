//! The rules of docs/protocols that are looked at in every step, each a checker of its own; those of packets and cells
//! are in `packets.rs` and `cells.rs`.

use std::cell::RefCell;
use std::rc::Rc;

use super::launches::{Launches, first_block};
use super::map::{Map, RingName, Spot};
use super::packets::{Broken, Buffer, By, Packets};
use crate::launch::Shape;
use crate::model::{Action, Address, Check, Event, Place, ThreadId};
use crate::port::GAVE_UP;
use myelon_ring::words::Movement;

/// An access to a window: who did what where.
struct Seen {
    rank: usize,
    thread: ThreadId,
    block: Option<u32>,
    launch: u32,
    /// Number of the call, where a kernel does it.
    number: Option<usize>,
    window: usize,
    spot: Spot,
    access: Access,
    /// For a store: whether nothing that was stored there before can end up behind it.
    behind_all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// With the value, where it is a word's.
    Read(Option<u64>),
    /// Likewise.
    Write(Option<u64>),
}

/// How far a ring has really come: what is published, what is returned. The next of each.
#[derive(Clone, Copy)]
struct Progress {
    published: u64,
    returned: u64,
}

impl Progress {
    fn outstanding(self) -> u64 {
        self.published.wrapping_sub(self.returned)
    }
}

/// The sequence at or after `from` that slot `slot` takes.
fn sequence_of(slot: u8, from: u64, capacity: u64) -> u64 {
    from.wrapping_add(u64::from(slot).wrapping_sub(from) & (capacity - 1))
}

type Verdict = Result<(), String>;

/// R1: every word has one writer.
fn ownership(seen: &Seen) -> Verdict {
    let Access::Write(_) = seen.access else {
        return match seen.spot {
            Spot::Slot(ring, slot) if seen.rank != ring.destination as usize => {
                Err(format!("rank {} read slot {slot} of the {ring}", seen.rank))
            }
            _ => Ok(()),
        };
    };
    let (owner, what) = match seen.spot {
        // Packets, cells and epochs have rules of their own.
        Spot::Abort | Spot::Packet(_) | Spot::Cell(_) | Spot::Epoch(_) => return Ok(()),
        Spot::Calling | Spot::Call => (seen.window, "what it calls".into()),
        Spot::Recorded => (seen.window, "the recorded word".into()),
        Spot::Waits => (seen.window, "a counter of waits".into()),
        Spot::Cursor(role, lane) => (seen.window, format!("the cursor of {role:?} in lane {lane}")),
        Spot::Gating(ring) => (ring.destination as usize, format!("the gating word of the {ring}")),
        Spot::Sequence(ring, slot) => {
            (ring.source as usize, format!("the word of slot {slot} of the {ring}"))
        }
        Spot::Slot(ring, slot) => (ring.source as usize, format!("slot {slot} of the {ring}")),
        Spot::Padding => return Err(format!("rank {} wrote where nothing lies", seen.rank)),
    };
    if seen.rank == owner { Ok(()) } else { Err(format!("rank {} wrote {what}", seen.rank)) }
}

/// R2: words only grow, and in order.
fn monotone(seen: &Seen, ring: Progress, capacity: u64) -> Verdict {
    match (seen.spot, seen.access) {
        (Spot::Sequence(name, slot), Access::Write(Some(value))) => {
            let in_place = value & (capacity - 1) == u64::from(slot);
            if value == ring.published && in_place {
                return Ok(());
            }
            Err(format!(
                "slot {slot} of the {name} became {value:#x}; the next to publish was {:#x}",
                ring.published
            ))
        }
        (Spot::Gating(name), Access::Write(Some(value))) => {
            let step = value.wrapping_sub(ring.returned);
            if (1..=capacity).contains(&step) {
                return Ok(());
            }
            Err(format!("gating of the {name} became {value:#x} after {:#x}", ring.returned))
        }
        _ => Ok(()),
    }
}

/// R3, R7: never more outstanding than the ring holds, never more returned than was published.
fn credit(name: RingName, ring: Progress, capacity: u64) -> Verdict {
    if ring.outstanding() <= capacity {
        return Ok(());
    }
    let Progress { published, returned } = ring;
    Err(format!("{name}: published up to {published:#x}, returned up to {returned:#x}, capacity {capacity}"))
}

/// R3, R4, R5: a slot is written after its last lap was returned, and read after this lap was published.
fn lap(seen: &Seen, ring: Progress, capacity: u64) -> Verdict {
    let Spot::Slot(name, slot) = seen.spot else { return Ok(()) };
    match seen.access {
        Access::Write(_) => {
            let sequence = sequence_of(slot, ring.published, capacity);
            if sequence.wrapping_sub(ring.returned) < capacity {
                return Ok(());
            }
            Err(format!("sequence {sequence:#x} of the {name} written; returned is {:#x}", ring.returned))
        }
        Access::Read(_) => {
            let sequence = sequence_of(slot, ring.returned, capacity);
            if sequence.wrapping_sub(ring.returned) < ring.outstanding() {
                return Ok(());
            }
            Err(format!(
                "sequence {sequence:#x} of the {name} read; published is up to {:#x}",
                ring.published
            ))
        }
    }
}

/// In which round a wait of a block gave up.
struct GaveUp {
    rank: usize,
    launch: u32,
    block: u32,
    thread: ThreadId,
    lane: u8,
    sequence: u64,
}

/// R8, F4: a block that gave up in a round tells nobody of that round, of a later one, or of a later lane, and
/// moves no cursor. By neighbours, where a turn's two ends have sequences of their own, the one of its producer counts, and
/// the consumer's thread itself is held to silence. A thread that gave up writes no packet and no cell, moves no epoch and writes no output. Behind a launch in which
/// a wait gave up, the rank's later launches write nothing, also not what they call.
#[derive(Default)]
struct Silence {
    gave_up: Vec<GaveUp>,
}

impl Silence {
    fn observe(&self, seen: &Seen) -> Verdict {
        if let Spot::Sequence(ring, _) | Spot::Gating(ring) = seen.spot
            && ring.movement == Movement::Neighbour
            && matches!(seen.access, Access::Write(_))
        {
            self.of_thread(seen.thread, seen.spot)?;
        }
        // Rounds that were moved before may still be told, by another thread than the one that gave up.
        let (lane, told) = match (seen.spot, seen.access) {
            (Spot::Sequence(ring, _), Access::Write(Some(value))) => (ring.lane, Some(value)),
            (Spot::Gating(ring), Access::Write(Some(value))) => (ring.lane, Some(value.wrapping_sub(1))),
            (Spot::Cursor(_, lane), Access::Write(_)) => (lane, None),
            (Spot::Packet(_) | Spot::Cell(_) | Spot::Epoch(_), Access::Write(_)) => {
                return self.of_thread(seen.thread, seen.spot);
            }
            _ => return Ok(()),
        };
        let late = |of: &&GaveUp| {
            let of_round = told.is_none_or(|told| told.wrapping_sub(of.sequence) as i64 >= 0);
            seen.block == Some(of.block) && (lane > of.lane || lane == of.lane && of_round)
        };
        match self.gave_up.iter().find(late) {
            Some(GaveUp { sequence, .. }) => Err(format!(
                "rank {} gave up at {sequence:#x} and went on: {:?}, {told:x?}",
                seen.rank, seen.spot
            )),
            None => Ok(()),
        }
    }

    /// What the thread itself may no longer write.
    fn of_thread(&self, thread: ThreadId, what: impl std::fmt::Debug) -> Verdict {
        match self.gave_up.iter().find(|of| of.thread == thread) {
            Some(GaveUp { rank, sequence, .. }) => {
                Err(format!("a thread of rank {rank} gave up at {sequence:#x} and went on: {what:?}"))
            }
            None => Ok(()),
        }
    }

    fn behind(&self, seen: &Seen) -> Verdict {
        let of_fault = matches!(seen.spot, Spot::Abort | Spot::Recorded);
        if matches!(seen.access, Access::Read(_)) || of_fault {
            return Ok(());
        }
        self.of_later_launch(seen.rank, seen.launch, seen.spot)
    }

    fn of_later_launch(&self, rank: usize, launch: u32, what: impl std::fmt::Debug) -> Verdict {
        match self.gave_up.iter().find(|of| of.rank == rank && of.launch < launch) {
            Some(GaveUp { sequence, .. }) => {
                Err(format!("rank {rank} gave up at {sequence:#x}, and its next call wrote: {what:?}"))
            }
            None => Ok(()),
        }
    }
}

/// The names of the checkers here, as violations carry them.
pub(super) const NAMES: [&str; 9] =
    ["ownership", "monotone", "credit", "lap", "silence", "turn", "cells", "epoch", "buffers"];

/// Leads every access to a window past each checker.
pub(super) struct Checks {
    map: Rc<Map>,
    rings: Vec<Progress>,
    silence: Silence,
    launches: Rc<RefCell<Launches>>,
    packets: Packets,
    /// By segment.
    buffers: Vec<Option<Buffer>>,
    broken: &'static str,
}

impl Checks {
    pub(super) fn new(
        map: Rc<Map>,
        shape: &Shape,
        launches: Rc<RefCell<Launches>>,
        packets: Packets,
        buffers: Vec<Option<Buffer>>,
    ) -> Self {
        let start = Progress { published: shape.first, returned: shape.first };
        let rings = vec![start; map.numbers()];
        let silence = Silence::default();
        Self { map, rings, silence, launches, packets, buffers, broken: NAMES[0] }
    }

    fn look(&mut self, seen: &Seen) -> Result<(), Broken> {
        ownership(seen).map_err(|message| ("ownership", message))?;
        self.silence.behind(seen).map_err(|message| ("silence", message))?;
        if let Some(number) = seen.number {
            let by = By { rank: seen.rank, number };
            match (seen.spot, seen.access) {
                (Spot::Packet(packet), Access::Read(_)) => self.packets.read(by, &packet)?,
                (Spot::Packet(packet), Access::Write(value)) => {
                    self.packets.written(by, &packet, value.unwrap_or(0), seen.behind_all)?;
                }
                (Spot::Cell(cell), Access::Read(value)) => self.packets.cells.read(by, cell, value)?,
                (Spot::Cell(cell), Access::Write(value)) => {
                    self.packets.cells.written(by, cell, value, seen.behind_all)?;
                }
                (Spot::Epoch(lane), Access::Write(_)) => self.packets.moved(by, seen.window, lane)?,
                _ => {}
            }
        }
        let (Spot::Gating(name) | Spot::Sequence(name, _) | Spot::Slot(name, _)) = seen.spot else {
            return self.silence.observe(seen).map_err(|message| ("silence", message));
        };
        let capacity = self.map.capacity(name) as u64;
        let ring = &mut self.rings[self.map.number(name)];
        lap(seen, *ring, capacity).map_err(|message| ("lap", message))?;
        monotone(seen, *ring, capacity).map_err(|message| ("monotone", message))?;
        match (seen.spot, seen.access) {
            (Spot::Sequence(..), Access::Write(Some(value))) => ring.published = value.wrapping_add(1),
            (Spot::Gating(_), Access::Write(Some(value))) => ring.returned = value,
            _ => return Ok(()),
        }
        credit(name, *ring, capacity).map_err(|message| ("credit", message))?;
        self.silence.observe(seen).map_err(|message| ("silence", message))
    }

    fn look_at_all(
        &mut self,
        access: Access,
        at: Address,
        bytes: u32,
        event: &Event,
        place: &Place,
    ) -> Result<(), Broken> {
        let (rank, block, launch) = (place.party as usize, place.block, first_block(place));
        let (thread, number) = (event.thread, self.launches.borrow().number(place));
        if let (Some(&Some(buffer)), Some(number)) = (self.buffers.get(at.segment()), number) {
            let writes = matches!(access, Access::Write(_));
            if writes {
                self.silence.of_thread(thread, buffer).map_err(|message| ("silence", message))?;
                self.silence.of_later_launch(rank, launch, buffer).map_err(|message| ("silence", message))?;
            }
            return self.packets.touched(By { rank, number }, buffer, writes);
        }
        let map = self.map.clone();
        let behind_all = !matches!(event.action, Action::Store { behind_all: false, .. });
        for (window, spot) in map.spots(at, bytes) {
            self.look(&Seen { rank, thread, block, launch, number, window, spot, access, behind_all })?;
        }
        Ok(())
    }

    fn look_at_event(&mut self, event: &Event, place: &Place) -> Result<(), Broken> {
        match event.action {
            Action::Read { at, bytes } => self.look_at_all(Access::Read(None), at, bytes, event, place),
            Action::Write { at, bytes } => self.look_at_all(Access::Write(None), at, bytes, event, place),
            Action::Load { at, value, .. } => {
                self.look_at_all(Access::Read(Some(value)), at, 8, event, place)
            }
            Action::Store { at, value, .. } | Action::Exchange { at, value, .. } => {
                self.look_at_all(Access::Write(Some(value)), at, 8, event, place)
            }
            Action::Note { what: what @ GAVE_UP.., value } => {
                let (rank, number) = (place.party as usize, self.launches.borrow().number(place));
                number.into_iter().for_each(|number| self.packets.gave_up(By { rank, number }));
                self.silence.gave_up.push(GaveUp {
                    rank,
                    launch: first_block(place),
                    block: place.block.unwrap_or(u32::MAX),
                    thread: event.thread,
                    lane: (what - GAVE_UP) as u8,
                    sequence: value,
                });
                Ok(())
            }
            Action::Launch { .. } | Action::End => {
                let ended = self.launches.borrow_mut().observe(event, place);
                let rank = place.party as usize;
                ended.map_or(Ok(()), |number| self.packets.ended(By { rank, number }))
            }
            _ => Ok(()),
        }
    }
}

impl Check for Checks {
    fn name(&self) -> &'static str {
        self.broken
    }

    fn observe(&mut self, event: &Event, place: &Place) -> Verdict {
        self.look_at_event(event, place).map_err(|(name, message)| {
            self.broken = name;
            message
        })
    }
}
