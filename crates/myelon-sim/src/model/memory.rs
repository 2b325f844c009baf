//! The simulated memory: bytes, who touched them last, and the stores of each word that may still be read.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use super::Place;
use super::view::View;

/// An address of simulated memory: a segment and a place in it. No segment is larger than 4 GiB, and
/// [`plus`](Self::plus) leads from none into another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub(crate) u64);

/// Set in every address, so that none is an address of the host: following one faults at once.
const TAG: u64 = 1 << 62;
/// What the lower half of an address can tell apart.
const SEGMENT_BYTES_MAX: usize = 1 << 32;

impl Address {
    pub(super) fn new(segment: usize, offset: usize) -> Self {
        Self(TAG | (segment as u64) << 32 | offset as u64)
    }

    pub(crate) fn of_kernel(address: u64) -> Option<Self> {
        (address & TAG != 0).then_some(Self(address))
    }

    /// The place `bytes` further.
    ///
    /// # Panics
    ///
    /// 4 GiB from the start of the segment, and beyond.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Self {
        let inside = self.offset().checked_add(bytes).is_some_and(|offset| offset < SEGMENT_BYTES_MAX);
        assert!(inside, "{bytes} bytes from {self:?} lies beyond what a segment may have");
        Self(self.0 + bytes as u64)
    }

    /// Number of the segment, in the order in which segments were made.
    pub fn segment(self) -> usize {
        ((self.0 & !TAG) >> 32) as usize
    }

    /// Bytes from the start of the segment.
    pub fn offset(self) -> usize {
        self.0 as u32 as usize
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} + {:#x}", self.segment(), self.offset())
    }
}

/// Where a thread runs and where memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// GPU number so and so.
    Gpu(u32),
    /// The host.
    Host,
}

/// Who is meant to see an access in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The threads of one block.
    Block,
    /// The threads of one GPU.
    Gpu,
    /// Every GPU and the host.
    System,
}

/// One access to bytes: by whom, at which of his steps, and whether it is strong.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    agent: u32,
    clock: u32,
    strong: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Cell {
    write: Epoch,
    reads: Vec<Epoch>,
}

impl Cell {
    pub(super) fn untouched() -> Self {
        Self { write: Epoch { agent: u32::MAX, clock: 0, strong: false }, reads: Vec::new() }
    }
}

/// Two accesses to the same bytes, at least one a write and one plain, that nothing orders.
pub(super) struct Conflict {
    pub(super) agent: u32,
    pub(super) wrote: bool,
}

/// Who makes an access, at which of his steps, and what he knows.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) agent: u32,
    pub(super) clock: u32,
    pub(super) view: &'a View,
}

impl<'a> By<'a> {
    /// A thread, which knows all that it did before.
    pub(super) fn thread(agent: u32, view: &'a View) -> Self {
        Self { agent, clock: view.clock(agent), view }
    }
}

/// An access as the search for races sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    StrongRead,
    StrongWrite,
}

impl Kind {
    fn strong(self) -> bool {
        matches!(self, Self::StrongRead | Self::StrongWrite)
    }

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::StrongWrite)
    }
}

/// Notes an access to `cells`, and says with which earlier one it races.
pub(super) fn touch(cells: &mut [Cell], by: By<'_>, kind: Kind) -> Result<(), Conflict> {
    let now = Epoch { agent: by.agent, clock: by.clock, strong: kind.strong() };
    let races = |before: &Epoch| before.clock > by.view.clock(before.agent) && !(before.strong && now.strong);
    for cell in cells {
        if races(&cell.write) {
            return Err(Conflict { agent: cell.write.agent, wrote: true });
        }
        if kind.writes() {
            if let Some(read) = cell.reads.iter().find(|read| races(read)) {
                return Err(Conflict { agent: read.agent, wrote: false });
            }
            cell.reads.clear();
            cell.write = now;
        } else {
            match cell.reads.iter_mut().find(|read| read.agent == now.agent) {
                Some(read) => *read = Epoch { strong: read.strong && now.strong, ..now },
                None => cell.reads.push(now),
            }
        }
    }
    Ok(())
}

/// A store to a word. An acquiring reader learns `released`.
pub(super) struct Store {
    pub(super) value: u64,
    pub(super) released: Option<Rc<View>>,
}

/// One u64 that several threads access with strong operations.
pub(super) struct Word {
    pub(super) stores: VecDeque<Store>,
    /// The number of the oldest store that is kept.
    pub(super) first: u32,
    /// Threads that wait for another value.
    pub(super) waiters: Vec<u32>,
    /// Who accessed it first: on which device, in which block.
    home: (Device, Option<u32>),
    /// The narrowest scope that spans all who have accessed it, and the narrowest that an access had.
    needed: Scope,
    narrowest: Scope,
}

/// Stores of a word that are kept. A reader that knows less reads the oldest one kept.
const STORES_KEPT: usize = 8;

impl Word {
    pub(super) fn last(&self) -> u32 {
        self.first + self.stores.len() as u32 - 1
    }

    pub(super) fn push(&mut self, store: Store) -> u32 {
        self.stores.push_back(store);
        if self.stores.len() > STORES_KEPT {
            self.stores.pop_front();
            self.first += 1;
        }
        self.last()
    }

    /// Whether every access so far has a scope that spans all who access the word.
    pub(super) fn spans(&mut self, place: &Place, scope: Scope) -> bool {
        let (device, block) = self.home;
        let needed = match () {
            () if place.device != device => Scope::System,
            () if place.block != block => Scope::Gpu,
            () => Scope::Block,
        };
        self.needed = self.needed.max(needed);
        self.narrowest = self.narrowest.min(scope);
        self.narrowest >= self.needed
    }
}

pub(super) struct Segment {
    pub(super) name: String,
    bytes: Vec<u8>,
    granule: usize,
    cells: Vec<Cell>,
    /// Number of the word at every eighth byte, plus 1; 0 where there is none yet.
    words: Vec<u32>,
}

impl Segment {
    fn cells_of(&mut self, offset: usize, bytes: usize) -> &mut [Cell] {
        &mut self.cells[offset / self.granule..(offset + bytes).div_ceil(self.granule)]
    }
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) segments: Vec<Segment>,
    pub(super) words: Vec<Word>,
}

/// Why an access was refused before it was made.
pub(super) struct Wild;

impl Memory {
    /// Zeroed memory. Accesses to different granules do not race.
    pub(super) fn add(&mut self, name: String, bytes: usize, granule: usize) -> Address {
        assert!(bytes <= SEGMENT_BYTES_MAX, "{bytes} bytes are more than the 4 GiB that {name} may have");
        assert!(granule > 0, "a granule of {name} has at least one byte");
        let cells = vec![Cell::untouched(); bytes.div_ceil(granule)];
        let words = vec![0; bytes.div_ceil(8)];
        self.segments.push(Segment { name, bytes: vec![0; bytes], granule, cells, words });
        Address::new(self.segments.len() - 1, 0)
    }

    fn segment(&mut self, at: Address, bytes: usize) -> Result<&mut Segment, Wild> {
        let segment = self.segments.get_mut(at.segment()).ok_or(Wild)?;
        let inside = at.offset() + bytes <= segment.bytes.len();
        if inside { Ok(segment) } else { Err(Wild) }
    }

    /// The bytes as they are now, without an access.
    pub(super) fn peek(&mut self, at: Address, bytes: usize) -> Result<&[u8], Wild> {
        Ok(&self.segment(at, bytes)?.bytes[at.offset()..at.offset() + bytes])
    }

    /// Sets bytes before anybody runs.
    pub(super) fn poke(&mut self, at: Address, bytes: &[u8]) -> Result<(), Wild> {
        self.segment(at, bytes.len())?.bytes[at.offset()..at.offset() + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn touch(
        &mut self,
        at: Address,
        bytes: usize,
        by: By<'_>,
        kind: Kind,
    ) -> Result<Result<(), Conflict>, Wild> {
        Ok(touch(self.segment(at, bytes)?.cells_of(at.offset(), bytes), by, kind))
    }

    /// Writes bytes; where they are words, that is a store of each. Says which words have changed.
    pub(super) fn write(
        &mut self,
        at: Address,
        bytes: &[u8],
        mut changed: impl FnMut(u32, u32),
    ) -> Result<(), Wild> {
        self.poke(at, bytes)?;
        let segment = &self.segments[at.segment()];
        for eighth in at.offset() / 8..(at.offset() + bytes.len()).div_ceil(8) {
            let number = segment.words[eighth];
            if number != 0 {
                let value =
                    u64::from_le_bytes(segment.bytes[eighth * 8..][..8].try_into().expect("eight bytes"));
                changed(number - 1, self.words[number as usize - 1].push(Store { value, released: None }));
            }
        }
        Ok(())
    }

    /// The number of the word at an address; a word begins with the value that its bytes have.
    pub(super) fn word(&mut self, at: Address, place: &Place) -> Result<u32, Wild> {
        let next = self.words.len() as u32;
        let segment = self.segment(at, 8)?;
        if !at.offset().is_multiple_of(8) {
            return Err(Wild);
        }
        let number = &mut segment.words[at.offset() / 8];
        if *number == 0 {
            *number = next + 1;
            let value =
                u64::from_le_bytes(segment.bytes[at.offset()..][..8].try_into().expect("eight bytes"));
            self.words.push(Word {
                stores: VecDeque::from([Store { value, released: None }]),
                first: 0,
                waiters: Vec::new(),
                home: (place.device, place.block),
                needed: Scope::Block,
                narrowest: Scope::System,
            });
            return Ok(next);
        }
        Ok(*number - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_leads_into_another_segment() {
        let last = Address::new(3, 16).plus(SEGMENT_BYTES_MAX - 17);
        assert_eq!((last.segment(), last.offset()), (3, SEGMENT_BYTES_MAX - 1));
        for bytes in [1, 1 << 33, usize::MAX] {
            assert!(std::panic::catch_unwind(|| last.plus(bytes)).is_err(), "{bytes}");
        }
    }

    #[test]
    fn memory_has_bounds() {
        for (bytes, granule) in [(SEGMENT_BYTES_MAX + 1, 8), (8, 0)] {
            let made = std::panic::catch_unwind(|| Memory::default().add("x".into(), bytes, granule));
            assert!(made.is_err(), "{bytes} bytes, granule {granule}");
        }
    }
}
