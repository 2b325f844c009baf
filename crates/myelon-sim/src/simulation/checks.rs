//! The rules of docs/protocols/ring.md and fault.md that are looked at in every step, each a checker of its own.

use std::rc::Rc;

use crate::launch::Shape;
use crate::model::{Action, Address, Check, Event, Place};
use crate::port::GAVE_UP;

use super::map::{Map, RingName, Spot};

/// An access to a window: who did what where.
struct Seen {
    rank: usize,
    block: Option<u32>,
    launch: u32,
    window: usize,
    spot: Spot,
    access: Access,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    /// With the value, where it is a word's.
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
        Spot::Abort => return Ok(()),
        Spot::Recorded => (seen.window, "the recorded word".into()),
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
        Access::Read => {
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
    lane: u8,
    sequence: u64,
}

/// A launch by the number of its first block: those of later launches are larger.
fn launch(place: &Place) -> u32 {
    place.block.map_or(0, |block| block - place.block_index)
}

/// R8, F4: a block that gave up in a round tells nobody of that round, of a later one, or of a later lane, and
/// moves no cursor. Behind a launch in which a block gave up, the rank's later launches write nothing at all.
#[derive(Default)]
struct Silence {
    gave_up: Vec<GaveUp>,
}

impl Silence {
    fn observe(&self, seen: &Seen) -> Verdict {
        // Rounds that were moved before may still be told, by another thread than the one that gave up.
        let (lane, told) = match (seen.spot, seen.access) {
            (Spot::Sequence(ring, _), Access::Write(Some(value))) => (ring.lane, Some(value)),
            (Spot::Gating(ring), Access::Write(Some(value))) => (ring.lane, Some(value.wrapping_sub(1))),
            (Spot::Cursor(_, lane), Access::Write(_)) => (lane, None),
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

    fn behind(&self, seen: &Seen) -> Verdict {
        if seen.access == Access::Read || matches!(seen.spot, Spot::Abort | Spot::Recorded) {
            return Ok(());
        }
        match self.gave_up.iter().find(|of| of.rank == seen.rank && of.launch < seen.launch) {
            Some(GaveUp { sequence, .. }) => Err(format!(
                "rank {} gave up at {sequence:#x}, and its next call wrote: {:?}",
                seen.rank, seen.spot
            )),
            None => Ok(()),
        }
    }
}

/// The names of the checkers here, as violations carry them.
pub(super) const NAMES: [&str; 5] = ["ownership", "monotone", "credit", "lap", "silence"];

/// Leads every access to a window past each checker.
pub(super) struct Checks {
    map: Rc<Map>,
    capacity: u64,
    rings: Vec<Progress>,
    silence: Silence,
    broken: &'static str,
}

impl Checks {
    pub(super) fn new(map: Rc<Map>, shape: &Shape) -> Self {
        let start = Progress { published: shape.first, returned: shape.first };
        let rings = vec![start; map.numbers()];
        Self { map, capacity: shape.capacity as u64, rings, silence: Silence::default(), broken: NAMES[0] }
    }

    fn look(&mut self, seen: &Seen) -> Result<(), (&'static str, String)> {
        ownership(seen).map_err(|message| ("ownership", message))?;
        self.silence.behind(seen).map_err(|message| ("silence", message))?;
        let (Spot::Gating(name) | Spot::Sequence(name, _) | Spot::Slot(name, _)) = seen.spot else {
            return self.silence.observe(seen).map_err(|message| ("silence", message));
        };
        let capacity = self.capacity;
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

    fn look_at_all(&mut self, access: Access, at: Address, bytes: u32, place: &Place) -> Verdict {
        let (rank, block, launch) = (place.party as usize, place.block, launch(place));
        let map = self.map.clone();
        for (window, spot) in map.spots(at, bytes) {
            self.look(&Seen { rank, block, launch, window, spot, access }).map_err(|(name, message)| {
                self.broken = name;
                message
            })?;
        }
        Ok(())
    }
}

impl Check for Checks {
    fn name(&self) -> &'static str {
        self.broken
    }

    fn observe(&mut self, event: &Event, place: &Place) -> Verdict {
        match event.action {
            Action::Read { at, bytes } => self.look_at_all(Access::Read, at, bytes, place),
            Action::Write { at, bytes } => self.look_at_all(Access::Write(None), at, bytes, place),
            Action::Load { at, .. } => self.look_at_all(Access::Read, at, 8, place),
            Action::Store { at, value } | Action::Exchange { at, value, .. } => {
                self.look_at_all(Access::Write(Some(value)), at, 8, place)
            }
            Action::Note { what: what @ GAVE_UP.., value } => {
                self.silence.gave_up.push(GaveUp {
                    rank: place.party as usize,
                    launch: launch(place),
                    block: place.block.unwrap_or(u32::MAX),
                    lane: (what - GAVE_UP) as u8,
                    sequence: value,
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
