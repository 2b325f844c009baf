//! The window of a rank: the memory that its peers may write, and where each ring lies in it.

use crate::error::RingError;
use crate::words::{
    HEADERS, LINE, MARK, MOVEMENTS, Movement, PACKET_BYTES, RANKS_MAX, ROLES, RingConfig, Role, TRAILER_BYTES,
};

/// The part of a window for payload that shows by itself that it has come: room for packets of 16 bytes, of which 8
/// are payload, and for cells of 16 bytes, which are payload from end to end, from every peer, twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Lanes that calls may have; each has headers.
    pub lanes: usize,
    /// Packets of payload from each peer, an even number.
    pub packets: usize,
    /// Cells of payload from each peer, an even number.
    pub cells: usize,
}

/// The rings between neighbours: in each lane one from every rank to the next one, and from the last to the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Lanes that have rings; 0 where there are none.
    pub lanes: usize,
    /// Slots a ring, a power of two of at least 2: half of them hold what waits for its turn, half are on their way.
    pub capacity: usize,
    /// Payload bytes of a slot, a multiple of 16.
    pub piece_bytes: usize,
}

/// Where a window's rings of one kind lie and what shape they have, as a kernel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingsAt {
    /// Offset of the cursors.
    pub cursor_offset: usize,
    /// Offset of the gating words.
    pub gating_offset: usize,
    /// Offset of the sequence words.
    pub sequence_offset: usize,
    /// Offset of the slots.
    pub data_offset: usize,
    /// Lanes that have rings.
    pub lanes: usize,
    /// Slots a ring.
    pub capacity: usize,
    /// Bytes from one slot to the next.
    pub slot_bytes: usize,
}

/// Where the words and slots of one rank's window lie; the same on every rank.
///
/// | part | shape | written by | read by |
/// |---|---|---|---|
/// | abort word | one line | anybody who gives up | this rank |
/// | counters of waits | [`WaitCounts`](crate::words::WaitCounts), in that line | this rank | this rank |
/// | cursors | `[role][lane]` u64 | this rank, at the end of a call | this rank, at the start of the next |
/// | epochs | `[lane]` u64 of the [`Inbox`] | this rank, at the end of a call | this rank, at the start of the next |
/// | gating | `[movement][lane][place]` lines | the consumer, remotely | this rank as producer |
/// | sequence | `[movement][lane][place][capacity]` u64, padded to lines | the producer, remotely | this rank as consumer |
/// | inbox | `[parity][place][packets]` of 16 bytes: four headers a lane, then the payload | the peer at that place, remotely; what a call does not use, this rank | this rank |
/// | cells | `[parity][place][cells]` of 16 bytes | the peer at that place, remotely; this rank, when it has read | this rank |
/// | neighbours' cursors | `[lane]` u64 | this rank, at the end of a call | this rank, at the start of the next |
/// | neighbours' gating | `[lane]` lines | the next rank, remotely | this rank as producer |
/// | neighbours' sequence | `[lane][capacity]` u64, padded to lines | the rank before, remotely | this rank as consumer |
/// | data | `[movement][lane][place][capacity][slot_bytes]` | the producer, remotely | this rank as consumer |
/// | neighbours' data | `[lane][capacity][slot_bytes]` | the rank before, remotely | this rank as consumer |
///
/// Those of neighbours are there where [`WindowLayout::with_neighbours`] was asked for them, and take nothing elsewhere.
/// `place` counts the peers of a rank, which leaves itself out: see [`WindowLayout::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLayout {
    ranks: usize,
    lanes: usize,
    capacity: usize,
    slot_bytes: usize,
    inbox: Inbox,
    neighbours: Neighbours,
}

impl WindowLayout {
    /// Lays out a window without an inbox for `lanes` lanes whose slots carry up to `piece_bytes` bytes of payload.
    ///
    /// # Errors
    ///
    /// [`RingError`] where `ranks` is not in `2..=8`, `lanes` is zero, `capacity` is no power of two,
    /// or `piece_bytes` is zero or no multiple of 16. Nothing has been allocated.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_ring::WindowLayout;
    ///
    /// let window = WindowLayout::new(8, 16, 4, 16 << 10)?;
    /// assert_eq!(window.slot_bytes(), (16 << 10) + 128); // the payload and its trailer
    /// assert!(window.bytes() < 16 << 20);
    /// # Ok::<(), myelon_ring::RingError>(())
    /// ```
    pub fn new(ranks: usize, lanes: usize, capacity: usize, piece_bytes: usize) -> Result<Self, RingError> {
        if !(2..=RANKS_MAX).contains(&ranks) {
            return Err(RingError::Ranks { ranks });
        }
        if lanes == 0 {
            return Err(RingError::NoLanes);
        }
        if !capacity.is_power_of_two() || capacity > i32::MAX as usize {
            return Err(RingError::Capacity { capacity });
        }
        if piece_bytes == 0 || !piece_bytes.is_multiple_of(16) || piece_bytes > (i32::MAX as usize) / 2 {
            return Err(RingError::SlotBytes { slot_bytes: piece_bytes });
        }
        let slot_bytes = piece_bytes.next_multiple_of(LINE) + TRAILER_BYTES;
        let (inbox, neighbours) = (Inbox::default(), Neighbours::default());
        Ok(Self { ranks, lanes, capacity, slot_bytes, inbox, neighbours })
    }

    /// The same window with an inbox.
    ///
    /// # Errors
    ///
    /// [`RingError::Inbox`] where it has packets or cells without lanes, an odd number of them, or 2^31 of anything.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_ring::{Inbox, WindowLayout};
    ///
    /// let window = WindowLayout::new(8, 16, 4, 8 << 10)?;
    /// let both = window.with_inbox(Inbox { lanes: 64, packets: 8192, cells: 4096 })?;
    /// assert_eq!(both.bytes() - window.bytes(), 64 * 8 + 2 * 7 * (64 * 4 + 8192 + 4096) * 16);
    /// # Ok::<(), myelon_ring::RingError>(())
    /// ```
    pub fn with_inbox(self, inbox: Inbox) -> Result<Self, RingError> {
        let Inbox { lanes, packets, cells } = inbox;
        let most = i32::MAX as usize;
        let is_room = |room: usize| room <= most && room.is_multiple_of(2) && (lanes > 0 || room == 0);
        if lanes > most / HEADERS || !is_room(packets) || !is_room(cells) {
            return Err(RingError::Inbox { lanes, packets, cells });
        }
        Ok(Self { inbox, ..self })
    }

    /// The same window with rings between neighbours.
    ///
    /// # Errors
    ///
    /// [`RingError::Neighbours`] where they have a lane and its slots are not as [`Neighbours`] has them.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_ring::{Neighbours, WindowLayout};
    ///
    /// let window = WindowLayout::new(8, 16, 4, 8 << 10)?;
    /// let both = window.with_neighbours(Neighbours { lanes: 2, capacity: 4, piece_bytes: 4096 })?;
    /// assert_eq!(both.bytes() - window.bytes(), 128 + 2 * (128 + 128 + 4 * (4096 + 128)));
    /// # Ok::<(), myelon_ring::RingError>(())
    /// ```
    pub fn with_neighbours(self, neighbours: Neighbours) -> Result<Self, RingError> {
        let Neighbours { lanes, capacity, piece_bytes } = neighbours;
        if lanes > 0 {
            let refused = RingError::Neighbours { lanes, capacity, piece_bytes };
            Self::new(self.ranks, lanes, capacity, piece_bytes).map_err(|_| refused)?;
            if capacity < 2 {
                return Err(refused);
            }
        }
        Ok(Self { neighbours, ..self })
    }

    /// The rings between neighbours, as they were asked for.
    pub fn neighbours(&self) -> Neighbours {
        self.neighbours
    }

    /// The rings between all pairs of ranks.
    pub fn rings(&self) -> RingsAt {
        RingsAt {
            cursor_offset: self.cursor_offset(),
            gating_offset: self.gating_offset(),
            sequence_offset: self.sequence_offset(),
            data_offset: self.data_offset(),
            lanes: self.lanes,
            capacity: self.capacity,
            slot_bytes: self.slot_bytes,
        }
    }

    /// The rings between neighbours.
    pub fn neighbour_rings(&self) -> RingsAt {
        let Neighbours { lanes, capacity, piece_bytes } = self.neighbours;
        let cursor_offset = self.cells_offset() + self.cells_bytes();
        let gating_offset = cursor_offset + (lanes * size_of::<u64>()).next_multiple_of(LINE);
        RingsAt {
            cursor_offset,
            gating_offset,
            sequence_offset: gating_offset + lanes * LINE,
            data_offset: self.data_offset() + self.edges() * self.capacity * self.slot_bytes,
            lanes,
            capacity,
            slot_bytes: piece_bytes.next_multiple_of(LINE) + TRAILER_BYTES,
        }
    }

    /// The rank that `rank` sends to as a neighbour.
    pub fn next(&self, rank: usize) -> usize {
        (rank + 1) % self.ranks
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Lanes that the window has.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Slots a ring.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes from one slot to the next: the payload rounded up to a line, and the trailer's line.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// The place of `peer` among the peers of `rank`, from 0 to `ranks - 2`.
    pub fn place(&self, rank: usize, peer: usize) -> usize {
        debug_assert!(rank != peer && rank < self.ranks && peer < self.ranks);
        if peer < rank { peer } else { peer - 1 }
    }

    fn edges(&self) -> usize {
        MOVEMENTS * self.lanes * (self.ranks - 1)
    }

    fn edge(&self, movement: Movement, lane: usize, rank: usize, peer: usize) -> usize {
        (movement as usize * self.lanes + lane) * (self.ranks - 1) + self.place(rank, peer)
    }

    fn sequence_bytes(capacity: usize) -> usize {
        (capacity * size_of::<u64>()).next_multiple_of(LINE)
    }

    /// Offset of the counters of waits, behind the abort word and what the rank calls.
    pub fn waits_offset(&self) -> usize {
        4 * size_of::<u64>()
    }

    /// Offset of the cursors.
    pub fn cursor_offset(&self) -> usize {
        LINE
    }

    /// Offset of the cursor of `role` in `lane`: the sequence that its next slot will have.
    pub fn cursor(&self, role: Role, lane: usize) -> usize {
        if role == Role::Neighbour {
            return self.neighbour_rings().cursor_offset + lane * size_of::<u64>();
        }
        self.cursor_offset() + (role as usize * self.lanes + lane) * size_of::<u64>()
    }

    /// Offset of the epochs: the number of the next call that uses the inbox, for each of its lanes.
    pub fn epoch_offset(&self) -> usize {
        self.cursor_offset() + (ROLES * self.lanes * size_of::<u64>()).next_multiple_of(LINE)
    }

    /// Offset of the gating words.
    pub fn gating_offset(&self) -> usize {
        self.epoch_offset() + (self.inbox.lanes * size_of::<u64>()).next_multiple_of(LINE)
    }

    /// Offset of the sequence words.
    pub fn sequence_offset(&self) -> usize {
        self.gating_offset() + self.edges() * LINE
    }

    /// Offset of the inbox.
    pub fn inbox_offset(&self) -> usize {
        self.sequence_offset() + self.edges() * Self::sequence_bytes(self.capacity)
    }

    /// The inbox.
    pub fn inbox(&self) -> Inbox {
        self.inbox
    }

    /// Packets of one peer in one parity: the headers of all lanes, and the payload.
    pub fn place_packets(&self) -> usize {
        HEADERS * self.inbox.lanes + self.inbox.packets
    }

    fn inbox_bytes(&self) -> usize {
        2 * (self.ranks - 1) * self.place_packets() * PACKET_BYTES
    }

    /// Offset of packet `number` of those that the peer at `place` sends in an epoch: first the headers, four
    /// a lane, then the payload.
    pub fn packet(&self, epoch: u64, place: usize, number: usize) -> usize {
        let parity = (epoch % 2) as usize;
        let places = parity * (self.ranks - 1) + place;
        self.inbox_offset() + (places * self.place_packets() + number) * PACKET_BYTES
    }

    /// Offset of the cells.
    pub fn cells_offset(&self) -> usize {
        self.inbox_offset() + self.inbox_bytes().next_multiple_of(LINE)
    }

    /// Offset of cell `number` of those that the peer at `place` sends in an epoch.
    pub fn cell(&self, epoch: u64, place: usize, number: usize) -> usize {
        let places = (epoch % 2) as usize * (self.ranks - 1) + place;
        self.cells_offset() + (places * self.inbox.cells + number) * PACKET_BYTES
    }

    fn cells_bytes(&self) -> usize {
        (2 * (self.ranks - 1) * self.inbox.cells * PACKET_BYTES).next_multiple_of(LINE)
    }

    /// Offset of the slots of the rings between all pairs; those of neighbours come behind them.
    pub fn data_offset(&self) -> usize {
        let Neighbours { lanes, capacity, .. } = self.neighbours;
        let words = (lanes * size_of::<u64>()).next_multiple_of(LINE)
            + lanes * (LINE + Self::sequence_bytes(capacity));
        self.cells_offset() + self.cells_bytes() + words
    }

    /// Bytes of the whole window.
    pub fn bytes(&self) -> usize {
        let RingsAt { data_offset, lanes, capacity, slot_bytes, .. } = self.neighbour_rings();
        data_offset + lanes * capacity * slot_bytes
    }

    /// The ring from `source` to `destination`, given the addresses of all windows.
    ///
    /// The slots and their sequence lie in the destination's window, the gating word in the source's. Between neighbours
    /// `destination` is the [`next`](Self::next) of `source`.
    pub fn ring(
        &self,
        windows: &[u64],
        movement: Movement,
        lane: usize,
        source: usize,
        destination: usize,
    ) -> RingConfig {
        let (at, inbound, outbound) = match movement {
            Movement::Neighbour => {
                debug_assert_eq!(destination, self.next(source));
                (self.neighbour_rings(), lane, lane)
            }
            _ => {
                let inbound = self.edge(movement, lane, destination, source);
                (self.rings(), inbound, self.edge(movement, lane, source, destination))
            }
        };
        let sequence_bytes = Self::sequence_bytes(at.capacity);
        RingConfig {
            capacity: at.capacity as i32,
            slot_bytes: at.slot_bytes as i32,
            sequence: windows[destination] + (at.sequence_offset + inbound * sequence_bytes) as u64,
            gating: windows[source] + (at.gating_offset + outbound * LINE) as u64,
            data: windows[destination] + (at.data_offset + inbound * at.capacity * at.slot_bytes) as u64,
        }
    }

    /// The words of a fresh window, up to [`WindowLayout::data_offset`]; the slots may hold anything.
    ///
    /// Cursors, epochs and gating stand at `first`, every sequence word and every flag of the inbox at
    /// `first - 1`: nothing published yet. Cells hold the [`MARK`](crate::words::MARK).
    /// `first` is 0 in practice, and near the wrap in tests.
    pub fn initial_words(&self, first: u64) -> Vec<u64> {
        let word = size_of::<u64>();
        let mut words = vec![0; self.data_offset() / word];
        let cursors = self.cursor_offset() / word;
        words[cursors..cursors + ROLES * self.lanes].fill(first);
        let epochs = self.epoch_offset() / word;
        words[epochs..epochs + self.inbox.lanes].fill(first);
        words[self.gating_offset() / word..self.sequence_offset() / word].fill(first);
        let (sequence, inbox) = (self.sequence_offset() / word, self.inbox_offset() / word);
        words[sequence..inbox].fill(first.wrapping_sub(1));
        let cells = self.cells_offset() / word;
        words[inbox..cells].fill(first.wrapping_sub(1) << 32);
        let at = self.neighbour_rings();
        words[cells..at.cursor_offset / word].fill(MARK);
        words[at.cursor_offset / word..][..at.lanes].fill(first);
        words[at.gating_offset / word..at.sequence_offset / word].fill(first);
        words[at.sequence_offset / word..].fill(first.wrapping_sub(1));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_do_not_overlap_and_end_with_the_window() {
        let neighbours = Neighbours { lanes: 2, capacity: 8, piece_bytes: 80 };
        for (ranks, neighbours) in
            (2..=8).flat_map(|ranks| [(ranks, Neighbours::default()), (ranks, neighbours)])
        {
            let layout = WindowLayout::new(ranks, 3, 4, 48).unwrap().with_neighbours(neighbours).unwrap();
            let windows: Vec<u64> = (0..ranks as u64).map(|r| r << 32).collect();
            let mut spans = Vec::new();
            for movement in [Movement::Scatter, Movement::Gather] {
                for lane in 0..3 {
                    for source in 0..ranks {
                        for destination in (0..ranks).filter(|&d| d != source) {
                            let ring = layout.ring(&windows, movement, lane, source, destination);
                            spans.push((ring.data, layout.capacity() as u64 * ring.slot_bytes as u64));
                            spans.push((ring.sequence, LINE as u64));
                            spans.push((ring.gating, LINE as u64));
                            assert_eq!(ring.sequence >> 32, destination as u64);
                            assert_eq!(ring.gating >> 32, source as u64);
                        }
                    }
                }
            }
            for (lane, source) in
                (0..neighbours.lanes).flat_map(|lane| (0..ranks).map(move |rank| (lane, rank)))
            {
                let destination = layout.next(source);
                let ring = layout.ring(&windows, Movement::Neighbour, lane, source, destination);
                spans.push((ring.data, ring.capacity as u64 * ring.slot_bytes as u64));
                spans.push((ring.sequence, LINE as u64));
                spans.push((ring.gating, LINE as u64));
                spans.push((windows[source] + layout.cursor(Role::Neighbour, lane) as u64, 8));
                assert_eq!((ring.sequence >> 32, ring.gating >> 32), (destination as u64, source as u64));
            }
            spans.sort_unstable();
            for pair in spans.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
            }
            let (start, bytes) = spans[spans.len() - 1];
            assert_eq!((start + bytes) & 0xffff_ffff, layout.bytes() as u64);
        }
    }

    #[test]
    fn bad_shapes_are_refused() {
        assert_eq!(WindowLayout::new(1, 1, 4, 16), Err(RingError::Ranks { ranks: 1 }));
        assert_eq!(WindowLayout::new(9, 1, 4, 16), Err(RingError::Ranks { ranks: 9 }));
        assert_eq!(WindowLayout::new(2, 0, 4, 16), Err(RingError::NoLanes));
        assert_eq!(WindowLayout::new(2, 1, 3, 16), Err(RingError::Capacity { capacity: 3 }));
        assert_eq!(WindowLayout::new(2, 1, 0, 16), Err(RingError::Capacity { capacity: 0 }));
        assert_eq!(WindowLayout::new(2, 1, 4, 24), Err(RingError::SlotBytes { slot_bytes: 24 }));
        assert_eq!(WindowLayout::new(2, 1, 4, 0), Err(RingError::SlotBytes { slot_bytes: 0 }));
        let layout = WindowLayout::new(2, 1, 1, 16).unwrap();
        for (capacity, piece_bytes) in [(1, 16), (3, 16), (0, 16), (4, 0), (4, 24)] {
            let refused = layout.with_neighbours(Neighbours { lanes: 1, capacity, piece_bytes });
            assert_eq!(refused, Err(RingError::Neighbours { lanes: 1, capacity, piece_bytes }));
        }
    }
}
