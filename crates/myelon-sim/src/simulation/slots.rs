//! Who held which slot when, from the events of a run.

use super::map::{Map, RingName, Spot};
use crate::model::{Action, Event, Place};

/// What a slot went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The producer writes it.
    Written,
    /// It is published, and nobody has read it yet.
    Published,
    /// The consumer reads it, or has read it and keeps its credit.
    Read,
}

/// One span of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose slot.
    pub ring: RingName,
    /// Which slot.
    pub slot: u8,
    /// What happened to it.
    pub span: Span,
    /// The step at which it began.
    pub from: u64,
    /// The step at which something else began, or the last one of the run.
    pub to: u64,
}

/// Who held which slot when; a slot that is not in here was free.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// In the order in which they began.
    pub spans: Vec<Held>,
}

/// A slot between two events.
#[derive(Clone, Copy, Default)]
struct Now {
    /// What is under way, and since when.
    span: Option<(Span, u64)>,
    /// The sequence that was published last, if that was seen.
    sequence: Option<u64>,
}

impl Slots {
    /// Follows every slot through `events`, each of which is looked at once, up to the step `end`.
    pub(super) fn of(events: &[(Event, Place)], map: &Map, end: u64) -> Self {
        let mut follow =
            Follow { now: vec![Now::default(); map.numbers() * map.capacity_max()], map, spans: Vec::new() };
        for (event, _) in events {
            follow.look(event);
        }
        follow.end(end)
    }
}

struct Follow<'a> {
    map: &'a Map,
    /// By number of the ring, then by slot.
    now: Vec<Now>,
    /// Those that are over.
    spans: Vec<Held>,
}

impl Follow<'_> {
    fn look(&mut self, event: &Event) {
        let (at, bytes, stored, span) = match event.action {
            Action::Write { at, bytes } => (at, bytes, None, Span::Written),
            Action::Store { at, value, .. } => (at, 8, Some(value), Span::Written),
            Action::Read { at, bytes } => (at, bytes, None, Span::Read),
            Action::Load { at, .. } => (at, 8, None, Span::Read),
            _ => return,
        };
        let map = self.map;
        for (_, spot) in map.spots(at, bytes) {
            match (spot, stored) {
                // A trailer is stored and loaded, and is all that a slot without payload has.
                (Spot::Slot(ring, slot), _) => self.enter(ring, slot, Some(span), event.step),
                (Spot::Sequence(ring, slot), Some(value)) => {
                    self.enter(ring, slot, Some(Span::Published), event.step);
                    self.now(ring, slot).sequence = Some(value);
                }
                (Spot::Gating(ring), Some(value)) => self.release(ring, value, event.step),
                _ => {}
            }
        }
    }

    fn now(&mut self, ring: RingName, slot: u8) -> &mut Now {
        &mut self.now[self.map.number(ring) * self.map.capacity_max() + usize::from(slot)]
    }

    /// The slot goes over to `span`, or is free.
    fn enter(&mut self, ring: RingName, slot: u8, span: Option<Span>, step: u64) {
        let now = self.now(ring, slot);
        if now.span.map(|(span, _)| span) == span {
            return;
        }
        let before = std::mem::replace(&mut now.span, span.map(|span| (span, step)));
        self.spans.extend(before.map(|(span, from)| Held { ring, slot, span, from, to: step }));
    }

    /// Slots of sequences before `gating` are free, read or not; so are those that were read of unknown
    /// sequences. What is being written is of the next lap.
    fn release(&mut self, ring: RingName, gating: u64, step: u64) {
        for slot in 0..self.map.capacity(ring) {
            let slot = slot as u8;
            let Now { span, sequence } = *self.now(ring, slot);
            let is_before = sequence.is_none_or(|sequence| gating.wrapping_sub(sequence) as i64 > 0);
            if is_before && span.is_some_and(|(span, _)| span != Span::Written) {
                self.enter(ring, slot, None, step);
            }
        }
    }

    /// What is under way lasts until `step`.
    fn end(mut self, step: u64) -> Slots {
        for ring in self.map.rings() {
            for slot in 0..self.map.capacity(ring) {
                self.enter(ring, slot as u8, None, step);
            }
        }
        self.spans.sort_by_key(|held| held.from);
        Slots { spans: self.spans }
    }
}

#[cfg(test)]
mod tests {
    use myelon_ring::words::{Movement, RANKS_MAX};
    use myelon_ring::{Inbox, WindowLayout};

    use super::*;
    use crate::launch::Shape;
    use crate::model::{Address, Device};

    const RING: RingName = RingName { movement: Movement::Scatter, lane: 0, source: 0, destination: 1 };

    /// Two ranks, one lane, two slots of 16 bytes.
    struct Window {
        map: Map,
        gating: Address,
        sequence: Address,
        data: Address,
        slot_bytes: usize,
        events: Vec<(Event, Place)>,
    }

    impl Window {
        fn new() -> Self {
            let shape = Shape {
                ranks: 2,
                lanes: 1,
                capacity: 2,
                piece_bytes: 16,
                credit_batch: 1,
                first: 0,
                inbox: Inbox::default(),
            };
            let layout = WindowLayout::new(2, 1, 2, 16).unwrap();
            let windows = [Address(0), Address(1 << 32)];
            let ring = layout.ring(&[0; RANKS_MAX], Movement::Scatter, 0, 0, 1);
            Self {
                map: Map::new(&shape, &layout, &windows),
                gating: windows[0].plus(ring.gating as usize),
                sequence: windows[1].plus(ring.sequence as usize),
                data: windows[1].plus(ring.data as usize),
                slot_bytes: layout.slot_bytes(),
                events: Vec::new(),
            }
        }

        fn at(&mut self, step: u64, action: Action) {
            let place = Place { device: Device::Gpu(0), party: 0, block: None, block_index: 0, thread: 0 };
            self.events.push((Event { step, thread: 0, action }, place));
        }

        fn write(&mut self, step: u64, slot: usize) {
            self.at(step, Action::Write { at: self.data.plus(slot * self.slot_bytes), bytes: 16 });
        }

        fn read(&mut self, step: u64, slot: usize) {
            self.at(step, Action::Read { at: self.data.plus(slot * self.slot_bytes), bytes: 16 });
        }

        fn publish(&mut self, step: u64, sequence: u64) {
            let slot = (sequence & 1) as usize;
            self.at(
                step,
                Action::Store { at: self.sequence.plus(8 * slot), value: sequence, behind_all: true },
            );
        }

        fn release(&mut self, step: u64, gating: u64) {
            self.at(step, Action::Store { at: self.gating, value: gating, behind_all: true });
        }

        fn spans(&self) -> Vec<(u8, Span, u64, u64)> {
            let end = self.events.last().map_or(0, |(event, _)| event.step);
            let slots = Slots::of(&self.events, &self.map, end);
            assert!(slots.spans.iter().all(|held| held.ring == RING));
            slots.spans.iter().map(|held| (held.slot, held.span, held.from, held.to)).collect()
        }
    }

    #[test]
    fn a_slot_is_written_published_read_and_free() {
        let mut window = Window::new();
        window.write(1, 0);
        window.write(2, 0);
        window.publish(4, 6);
        window.read(7, 0);
        window.read(8, 0);
        window.release(10, 7);
        window.write(15, 0);
        window.publish(16, 8);
        window.at(20, Action::Fence);
        let first = [(0, Span::Written, 1, 4), (0, Span::Published, 4, 7), (0, Span::Read, 7, 10)];
        let second = [(0, Span::Written, 15, 16), (0, Span::Published, 16, 20)];
        assert_eq!(window.spans(), [&first[..], &second].concat());
    }

    /// Across the wrap, too: credit for one slot says nothing about the next one, which is being read.
    #[test]
    fn credit_frees_only_what_it_covers() {
        for first in [6, u64::MAX - 1, u64::MAX] {
            let (even, odd) = ((first & 1) as usize, (first.wrapping_add(1) & 1) as usize);
            let mut window = Window::new();
            window.publish(1, first);
            window.publish(2, first.wrapping_add(1));
            window.read(3, even);
            window.read(4, odd);
            window.release(5, first.wrapping_add(1));
            window.release(9, first.wrapping_add(2));
            let read: Vec<_> = window.spans().into_iter().filter(|span| span.1 == Span::Read).collect();
            assert_eq!(read, [(even as u8, Span::Read, 3, 5), (odd as u8, Span::Read, 4, 9)]);
        }
    }

    #[test]
    fn a_slot_without_payload_has_a_trailer_and_unread_slots_may_be_returned() {
        let mut window = Window::new();
        let trailer = window.data.plus(16);
        window.at(1, Action::Store { at: trailer, value: 7, behind_all: true });
        window.publish(2, 6);
        window.at(3, Action::Load { at: trailer, value: 7, stale: false });
        window.publish(4, 7);
        window.write(5, 0);
        window.release(6, 8);
        let spans = [(0, Span::Written, 1, 2), (0, Span::Published, 2, 3), (0, Span::Read, 3, 5)];
        let others = [(1, Span::Published, 4, 6), (0, Span::Written, 5, 6)];
        assert_eq!(window.spans(), [&spans[..], &others].concat());
    }

    #[test]
    fn a_trace_may_begin_in_the_middle_and_spans_stand_in_order() {
        let mut window = Window::new();
        window.write(100, 0);
        window.read(101, 1);
        window.release(110, 3);
        window.at(120, Action::Fence);
        assert_eq!(window.spans(), [(0, Span::Written, 100, 120), (1, Span::Read, 101, 110)]);
    }

    #[test]
    fn a_copy_that_goes_beyond_its_slot_is_seen_in_both() {
        let mut window = Window::new();
        window.at(1, Action::Write { at: window.data, bytes: window.slot_bytes as u32 + 1 });
        assert_eq!(window.spans(), [(0, Span::Written, 1, 1), (1, Span::Written, 1, 1)]);
    }

    #[test]
    fn nothing_is_held_where_nothing_happened() {
        assert!(Window::new().spans().is_empty());
    }
}
