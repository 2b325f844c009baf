//! The rules of docs/protocols/packet.md that are looked at in every step, for flagged packets, epochs and buffers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use myelon_lanes::Algorithm;

use super::case::Call;
use super::cells::Cells;
use super::launches::Launches;
use super::map::{PacketName, Part};
use crate::launch::Shape;

/// Who makes an access: a rank in one of its calls.
#[derive(Clone, Copy)]
pub(super) struct By {
    pub(super) rank: usize,
    pub(super) number: usize,
}

/// What memory of the user a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) rank: usize,
    pub(super) number: usize,
    pub(super) is_input: bool,
    pub(super) is_output: bool,
}

/// A broken rule: its name, and how.
pub(super) type Broken = (&'static str, String);

/// Whether a call, made by all ranks, uses a packet.
pub(super) fn uses(call: &Call, shape: &Shape, packet: &PacketName) -> bool {
    let values = Values { count: call.bytes().div_ceil(8), room: shape.inbox.packets, ranks: shape.ranks };
    match (call.algorithm, packet.part) {
        (Algorithm::Ring | Algorithm::Neighbour, _) => false,
        (_, Part::Header { lane, .. }) if usize::from(lane) >= call.lanes => false,
        (Algorithm::Direct, Part::Header { .. }) => true,
        (_, Part::Header { header, .. }) => header == 0,
        (Algorithm::OneShot, Part::Payload(number)) => values.one_shot(number),
        (Algorithm::TwoShot, Part::Payload(number)) => values.two_shot(packet.sender, packet.owner, number),
        // The payload of the others lies elsewhere.
        (_, Part::Payload(_)) => false,
    }
}

/// The values of a payload, and the room for them from each peer.
pub(super) struct Values {
    pub(super) count: usize,
    pub(super) room: usize,
    pub(super) ranks: usize,
}

impl Values {
    /// Whether a one-shot sends its value `number`.
    pub(super) fn one_shot(&self, number: u32) -> bool {
        (number as usize) < self.count
    }

    /// Whether a two-shot sends one in place `number` of the room: pieces in the first half, sums in the second.
    pub(super) fn two_shot(&self, sender: u8, owner: u8, number: u32) -> bool {
        let piece = |of: u8| self.count / self.ranks + usize::from(usize::from(of) < self.count % self.ranks);
        match (number as usize).checked_sub(self.room / 2) {
            Some(summed) => summed < piece(sender),
            None => (number as usize) < piece(owner),
        }
    }
}

/// What a call by packets has done so far, of what each such call does once.
#[derive(Clone, Default)]
struct Done {
    /// How often each lane's epoch was moved.
    moved: Vec<u32>,
    /// Whose packets were scrubbed.
    scrubbed: Vec<PacketName>,
    gave_up: bool,
}

pub(super) struct Packets {
    shape: Shape,
    launches: Rc<RefCell<Launches>>,
    /// By rank and call.
    done: Vec<Vec<Done>>,
    pub(super) cells: Cells,
    /// The first packet that a call had to scrub and has left as it was: it does harm much later, if ever.
    unscrubbed: Rc<Cell<Option<(usize, usize)>>>,
}

impl Packets {
    pub(super) fn new(
        shape: &Shape,
        launches: Rc<RefCell<Launches>>,
        calls: usize,
        unscrubbed: Rc<Cell<Option<(usize, usize)>>>,
    ) -> Self {
        let one = Done { moved: vec![0; shape.inbox.lanes], ..Done::default() };
        let done = vec![vec![one; calls]; shape.ranks];
        Self { shape: *shape, cells: Cells::new(shape, launches.clone()), launches, done, unscrubbed }
    }

    pub(super) fn gave_up(&mut self, by: By) {
        self.done[by.rank][by.number].gave_up = true;
    }

    /// P1: a packet is read by its owner alone.
    pub(super) fn read(&self, by: By, packet: &PacketName) -> Result<(), Broken> {
        match by.rank == usize::from(packet.owner) {
            true => Ok(()),
            false => Err(("ownership", format!("rank {} read the {packet}", by.rank))),
        }
    }

    /// P1: a packet that the call uses is written by its sender, any other by its owner. P3: with this epoch, in this
    /// epoch's place, when its owner has come to the end of the epoch that was there before, and behind all that was
    /// stored there, in the order of memory too.
    pub(super) fn written(
        &mut self,
        by: By,
        packet: &PacketName,
        value: u64,
        behind_all: bool,
    ) -> Result<(), Broken> {
        let launches = self.launches.borrow();
        let call = launches.call(by.rank, by.number);
        let (owner, sends) = (usize::from(packet.owner), by.rank == usize::from(packet.sender));
        let may = if sends { uses(call, &self.shape, packet) } else { !uses(call, &self.shape, packet) };
        if !may || !call.is_of_packets() || !(sends || by.rank == owner) {
            let does = if sends { "sends" } else { "scrubs" };
            return Err((
                "ownership",
                format!("rank {} {does} the {packet}; its call has no right to", by.rank),
            ));
        }
        let before = launches.epochs_before(by.rank, by.number);
        let epoch = self.shape.first.wrapping_add(before);
        if value >> 32 != epoch & 0xffff_ffff || epoch % 2 != u64::from(packet.parity) {
            return Err(("turn", format!("the {packet} became {value:#x} in epoch {epoch:#x}")));
        }
        let ended = launches.epochs_ended(owner);
        if sends && ended + 1 < before {
            let message = format!(
                "rank {} sends the {packet} in epoch {epoch:#x}, when rank {owner} has ended {ended} epochs and not \
                 the {} that it needs",
                by.rank,
                before - 1
            );
            return Err(("turn", message));
        }
        // Ranks whose calls differ may send and scrub the same packet; they do not go on.
        let peer = usize::from(if sends { packet.owner } else { packet.sender });
        if !behind_all && launches.call(peer, by.number) == call {
            return Err((
                "turn",
                format!("rank {} wrote the {packet}; nothing orders that behind what was there", by.rank),
            ));
        }
        if !sends {
            self.done[by.rank][by.number].scrubbed.push(*packet);
        }
        Ok(())
    }

    /// P5: a call by packets moves the epoch of each lane once.
    pub(super) fn moved(&mut self, by: By, window: usize, lane: u8) -> Result<(), Broken> {
        if by.rank != window {
            return Err(("ownership", format!("rank {} wrote an epoch of rank {window}", by.rank)));
        }
        let moved = &mut self.done[by.rank][by.number].moved[usize::from(lane)];
        *moved += 1;
        if *moved > 1 || !self.launches.borrow().call(by.rank, by.number).is_of_packets() {
            let By { rank, number } = by;
            return Err((
                "epoch",
                format!("call {number} of rank {rank} moved the epoch of lane {lane} too far"),
            ));
        }
        Ok(())
    }

    /// P5, P4: what a call must have done that ended well.
    pub(super) fn ended(&mut self, by: By) -> Result<(), Broken> {
        let (done, launches) = (&self.done[by.rank][by.number], self.launches.borrow());
        let call = launches.call(by.rank, by.number);
        if !call.is_of_packets() || done.gave_up {
            return Ok(());
        }
        if let Some(lane) = done.moved.iter().position(|&moved| moved == 0) {
            let By { rank, number } = by;
            return Err((
                "epoch",
                format!("call {number} of rank {rank} ended without moving lane {lane}'s epoch"),
            ));
        }
        self.cells.ended(by)?;
        let epoch = self.shape.first.wrapping_add(launches.epochs_before(by.rank, by.number));
        for sender in (0..self.shape.ranks).filter(|&sender| sender != by.rank) {
            let packet = scrubbed_in(epoch, &self.shape, by.rank, sender);
            if !uses(call, &self.shape, &packet) && !done.scrubbed.contains(&packet) {
                self.unscrubbed.set(self.unscrubbed.get().or(Some((by.rank, by.number))));
            }
        }
        Ok(())
    }

    /// Z1, Z2: a launch touches the buffers of its own call; those of a peer only in the direct algorithm, and only
    /// from the peer's begin to its end. A peer that gave up waits for nobody, so others may come later.
    pub(super) fn touched(&self, by: By, buffer: Buffer, writes: bool) -> Result<(), Broken> {
        let launches = self.launches.borrow();
        let direct = launches.call(by.rank, by.number).algorithm == Algorithm::Direct;
        let right = if writes { buffer.is_output } else { buffer.is_input };
        let under_way = launches.is_under_way(buffer.rank, buffer.number)
            || self.done[buffer.rank][buffer.number].gave_up;
        let timely = by.rank == buffer.rank || direct && under_way;
        if right && timely && by.number == buffer.number {
            return Ok(());
        }
        let does = if writes { "writes" } else { "reads" };
        let By { rank, number } = by;
        let (what, of) = (if buffer.is_input { "input" } else { "output" }, buffer.rank);
        let when = match timely {
            true => "",
            false => ", which is not under way",
        };
        let message = format!(
            "rank {rank} {does} in call {number} the {what} of rank {of} in call {}{when}",
            buffer.number
        );
        Err(("buffers", message))
    }
}

/// The packet that an owner looks after in an epoch, of those of one sender: it scrubs it where nobody sends it.
pub(super) fn scrubbed_in(epoch: u64, shape: &Shape, owner: usize, sender: usize) -> PacketName {
    let headers = myelon_ring::words::HEADERS * shape.inbox.lanes;
    let number = (epoch / 2 % (headers + shape.inbox.packets) as u64) as usize;
    let part = super::map::part_of(shape.inbox.lanes, number);
    PacketName { owner: owner as u8, sender: sender as u8, parity: (epoch % 2) as u8, part }
}
