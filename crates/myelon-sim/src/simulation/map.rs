//! What each word of a window is: so that checkers and people see rings and not addresses.

use myelon_ring::WindowLayout;
use myelon_ring::words::{HEADERS, Movement, RANKS_MAX, Role, WaitCounts};

use crate::launch::Shape;
use crate::model::Address;

/// One ring of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingName {
    /// What it carries.
    pub movement: Movement,
    /// Which lane.
    pub lane: u8,
    /// The producer.
    pub source: u8,
    /// The consumer.
    pub destination: u8,
}

impl std::fmt::Display for RingName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let movement = match self.movement {
            Movement::Scatter => "scatter",
            Movement::Gather => "gather",
            Movement::Neighbour => "neighbour",
        };
        write!(f, "{movement} ring {}->{} of lane {}", self.source, self.destination, self.lane)
    }
}

/// One packet of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketName {
    /// In whose inbox.
    pub owner: u8,
    /// Who sends it.
    pub sender: u8,
    /// For even epochs, or for odd ones.
    pub parity: u8,
    /// Which one.
    pub part: Part,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A header.
    Header {
        /// Of which lane.
        lane: u8,
        /// Its number in `Header` of `kernels/include/myelon/packet.cuh`.
        header: u8,
    },
    /// Payload, by its number.
    Payload(u32),
}

impl std::fmt::Display for PacketName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parity = if self.parity == 0 { "even" } else { "odd" };
        match self.part {
            Part::Header { lane, header } => {
                let header = ["call", "input", "output", "end"][usize::from(header)];
                write!(f, "{header} header of lane {lane}")?;
            }
            Part::Payload(number) => write!(f, "packet {number}")?,
        }
        write!(f, " {}->{}, {parity} epochs", self.sender, self.owner)
    }
}

/// Half a cell of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellName {
    /// In whose window.
    pub owner: u8,
    /// Who sends it.
    pub sender: u8,
    /// For even epochs, or for odd ones.
    pub parity: u8,
    /// Which cell.
    pub number: u32,
    /// Which half of it, 0 or 1; each is an access of its own.
    pub half: u8,
}

impl std::fmt::Display for CellName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let half = if self.half == 0 { "first" } else { "second" };
        let parity = if self.parity == 0 { "even" } else { "odd" };
        let Self { owner, sender, number, .. } = self;
        write!(f, "{half} half of cell {number} {sender}->{owner}, {parity} epochs")
    }
}

/// What lies at a place of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The abort word of a rank.
    Abort,
    /// The word that says that the rank's record is taken.
    Recorded,
    /// What the rank calls, with the number of the call.
    Calling,
    /// The call word of what it calls.
    Call,
    /// One of the counters of what it has waited.
    Waits,
    /// The number of the next call by packets, for a lane.
    Epoch(u8),
    /// One of the inbox.
    Packet(PacketName),
    /// Half of one of the cells.
    Cell(CellName),
    /// Where a role will go on in a lane.
    Cursor(Role, u8),
    /// A ring's gating word.
    Gating(RingName),
    /// The sequence word of a slot.
    Sequence(RingName, u8),
    /// Payload or trailer of a slot.
    Slot(RingName, u8),
    /// Nothing.
    Padding,
}

/// The spots of all windows.
pub struct Map {
    windows: Vec<Address>,
    spots: Vec<Vec<Spot>>,
    ranks: usize,
    lanes: usize,
    /// Slots of a ring between all pairs, and of one between neighbours.
    capacities: (usize, usize),
}

impl Map {
    /// The map of windows that begin at `windows`.
    pub(super) fn new(shape: &Shape, layout: &WindowLayout, windows: &[Address]) -> Self {
        let mut spots = vec![vec![Spot::Padding; layout.bytes().div_ceil(8)]; shape.ranks];
        for window in &mut spots {
            window[..4].copy_from_slice(&[Spot::Abort, Spot::Recorded, Spot::Calling, Spot::Call]);
            window[layout.waits_offset() / 8..][..size_of::<WaitCounts>() / 8].fill(Spot::Waits);
            for lane in 0..shape.inbox.lanes {
                window[layout.epoch_offset() / 8 + lane] = Spot::Epoch(lane as u8);
            }
            for role in [Role::Scatter, Role::Reduce, Role::Gather, Role::Neighbour] {
                for lane in 0..shape.lanes {
                    window[layout.cursor(role, lane) / 8] = Spot::Cursor(role, lane as u8);
                }
            }
        }
        let offsets = [0; RANKS_MAX];
        let (ranks, lanes) = (shape.ranks, shape.lanes);
        for name in rings(ranks, lanes) {
            let (source, destination) = (name.source as usize, name.destination as usize);
            let ring = layout.ring(&offsets, name.movement, name.lane.into(), source, destination);
            spots[source][ring.gating as usize / 8] = Spot::Gating(name);
            for slot in 0..ring.capacity as usize {
                spots[destination][ring.sequence as usize / 8 + slot] = Spot::Sequence(name, slot as u8);
                let words = ring.slot_bytes as usize / 8;
                let start = ring.data as usize / 8 + slot * words;
                spots[destination][start..start + words].fill(Spot::Slot(name, slot as u8));
            }
        }
        for owner in 0..ranks {
            for (sender, number) in of_senders(ranks, owner, shape.inbox.cells) {
                for (parity, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let at = layout.cell(parity.into(), layout.place(owner, sender), number) / 8 + half;
                    let (sender, number, half) = (sender as u8, number as u32, half as u8);
                    let name = CellName { owner: owner as u8, sender, parity, number, half };
                    spots[owner][at] = Spot::Cell(name);
                }
            }
            for (sender, number) in of_senders(ranks, owner, layout.place_packets()) {
                for parity in 0..2 {
                    let at = layout.packet(parity, layout.place(owner, sender), number) / 8;
                    let part = part_of(shape.inbox.lanes, number);
                    let (owner, sender, parity) = (owner as u8, sender as u8, parity as u8);
                    let name = PacketName { owner, sender, parity, part };
                    spots[owner as usize][at..at + 2].fill(Spot::Packet(name));
                }
            }
        }
        let capacities = (shape.capacity, shape.neighbours().capacity);
        Self { windows: windows.to_vec(), spots, ranks, lanes, capacities }
    }

    /// Whose window an address is in, and what lies there.
    pub fn spot(&self, at: Address) -> Option<(usize, Spot)> {
        let rank = self.window(at)?;
        Some((rank, self.spots[rank][at.offset() / 8]))
    }

    /// Whose window an access is in, and all that lies there, one after the other.
    pub(super) fn spots(&self, at: Address, bytes: u32) -> impl Iterator<Item = (usize, Spot)> {
        let words = |rank: usize| {
            let words = at.offset() / 8..(at.offset() + bytes as usize).div_ceil(8);
            (rank, self.spots[rank].get(words).unwrap_or_default())
        };
        let found = self.window(at).map(words).into_iter();
        found.flat_map(|(rank, spots)| {
            let begins = |&i: &usize| i == 0 || spots[i] != spots[i - 1];
            (0..spots.len()).filter(begins).map(move |i| (rank, spots[i]))
        })
    }

    fn window(&self, at: Address) -> Option<usize> {
        self.windows.iter().position(|window| window.segment() == at.segment())
    }

    /// Number of a ring among all.
    pub fn number(&self, ring: RingName) -> usize {
        let lane = ring.movement as usize * self.lanes + ring.lane as usize;
        (lane * self.ranks + ring.source as usize) * self.ranks + ring.destination as usize
    }

    /// Slots of a ring.
    pub fn capacity(&self, ring: RingName) -> usize {
        if ring.movement == Movement::Neighbour { self.capacities.1 } else { self.capacities.0 }
    }

    /// Slots of the longest ring.
    pub fn capacity_max(&self) -> usize {
        self.capacities.0.max(self.capacities.1)
    }

    /// Every ring.
    pub fn rings(&self) -> impl Iterator<Item = RingName> + use<> {
        rings(self.ranks, self.lanes)
    }

    /// How many numbers there are.
    pub fn numbers(&self) -> usize {
        3 * self.lanes * self.ranks * self.ranks
    }
}

/// What an owner has `numbers` of from every peer: who sends it, and its number.
fn of_senders(ranks: usize, owner: usize, numbers: usize) -> impl Iterator<Item = (usize, usize)> {
    let senders = (0..ranks).filter(move |&sender| sender != owner);
    senders.flat_map(move |sender| (0..numbers).map(move |number| (sender, number)))
}

/// What the packet of that number carries, in an inbox of so many lanes.
pub(super) fn part_of(inbox_lanes: usize, number: usize) -> Part {
    match number.checked_sub(HEADERS * inbox_lanes) {
        Some(payload) => Part::Payload(payload as u32),
        None => Part::Header { lane: (number / HEADERS) as u8, header: (number % HEADERS) as u8 },
    }
}

/// Every ring of a window of that shape.
pub(super) fn rings(ranks: usize, lanes: usize) -> impl Iterator<Item = RingName> {
    let movements = [Movement::Scatter, Movement::Gather, Movement::Neighbour].into_iter();
    movements.flat_map(move |movement| {
        (0..lanes * ranks * ranks).filter_map(move |i| {
            let (lane, source, destination) = (i / ranks / ranks, i / ranks % ranks, i % ranks);
            let name =
                RingName { movement, lane: lane as u8, source: source as u8, destination: destination as u8 };
            let is_there = match movement {
                Movement::Neighbour => destination == (source + 1) % ranks,
                _ => source != destination,
            };
            is_there.then_some(name)
        })
    })
}
