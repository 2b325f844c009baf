//! A failure as a person reads it: the last steps in words, and who held which slot when.

use std::fmt;

use myelon_ring::words::Role;

use super::case::Case;
use super::map::{Map, RingName, Spot};
use super::mutants::Mutant;
use super::run::Setting;
use crate::model::{Action, Event, Failure, Place, Violation};
use crate::port::GAVE_UP;

/// A rule that a case broke, and how to see it again: the same case, mutant and seed break it at the same step.
#[derive(Clone, Debug)]
pub struct CaseFailure {
    /// What was run.
    pub case: Case,
    /// With which weakness.
    pub mutant: Mutant,
    /// From which seed.
    pub seed: u64,
    /// At which step.
    pub step: u64,
    /// What was broken.
    pub violation: Violation,
    /// The last steps, as many as were asked for.
    pub steps: Vec<Step>,
    /// Who held which slot during these steps.
    pub slots: Slots,
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.violation)
    }
}

impl std::error::Error for CaseFailure {}

/// One step in words.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number.
    pub number: u64,
    /// Who made it.
    pub who: String,
    /// What it was.
    pub what: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}  {:<34}  {}", self.number, self.who, self.what)
    }
}

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

/// Who held which slot when: `(ring, slot, what, first step, last step)`; a slot that is not in here was free.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// In the order in which they began.
    pub spans: Vec<(RingName, u8, Span, u64, u64)>,
}

impl Slots {
    fn of(events: &[(Event, Place)], map: &Map) -> Self {
        let mut slots = Self::default();
        let mut open: Vec<(RingName, u8, Span, u64)> = Vec::new();
        let mut enter = |slots: &mut Self, ring, slot, span: Option<Span>, step: u64| {
            let held = open.iter().position(|held| (held.0, held.1) == (ring, slot));
            if let Some(at) = held {
                if Some(open[at].2) == span {
                    return;
                }
                let (ring, slot, was, from) = open.swap_remove(at);
                slots.spans.push((ring, slot, was, from, step));
            }
            if let Some(span) = span {
                open.push((ring, slot, span, step));
            }
        };
        for (event, _) in events {
            let (at, span) = match event.action {
                Action::Write { at, .. } => (at, Span::Written),
                Action::Read { at, .. } => (at, Span::Read),
                Action::Store { at, .. } => (at, Span::Published),
                _ => continue,
            };
            match (map.spot(at), event.action) {
                (Some((_, Spot::Slot(ring, slot))), Action::Write { .. } | Action::Read { .. }) => {
                    enter(&mut slots, ring, slot, Some(span), event.step);
                }
                (Some((_, Spot::Sequence(ring, slot))), Action::Store { .. }) => {
                    enter(&mut slots, ring, slot, Some(Span::Published), event.step);
                }
                (Some((_, Spot::Gating(ring))), Action::Store { .. }) => {
                    // Slots that wait for their credit are free from here on.
                    for slot in 0..=u8::MAX {
                        if map.capacity() <= slot.into() {
                            break;
                        }
                        let read = slots.is_read(ring, slot, events, map, event.step);
                        if read {
                            enter(&mut slots, ring, slot, None, event.step);
                        }
                    }
                }
                _ => {}
            }
        }
        let end = events.last().map_or(0, |(event, _)| event.step);
        slots.spans.extend(open.into_iter().map(|(ring, slot, span, from)| (ring, slot, span, from, end)));
        slots
    }

    /// Whether the last thing that happened to a slot before `step` was a read.
    fn is_read(&self, ring: RingName, slot: u8, events: &[(Event, Place)], map: &Map, step: u64) -> bool {
        let of_slot = |action: Action| match action {
            Action::Write { at, .. } if map.spot(at).map(|s| s.1) == Some(Spot::Slot(ring, slot)) => {
                Some(false)
            }
            Action::Read { at, .. } if map.spot(at).map(|s| s.1) == Some(Spot::Slot(ring, slot)) => {
                Some(true)
            }
            Action::Store { at, .. } if map.spot(at).map(|s| s.1) == Some(Spot::Sequence(ring, slot)) => {
                Some(false)
            }
            _ => None,
        };
        let before = events.iter().rev().filter(|(event, _)| event.step < step);
        before.filter_map(|(event, _)| of_slot(event.action)).next().unwrap_or(false)
    }
}

/// Makes a failure of a world one of a case.
pub(super) fn failure(
    case: &Case,
    mutant: Mutant,
    seed: u64,
    failure: Failure,
    setting: &Setting,
) -> CaseFailure {
    let Failure { violation, step, trace } = failure;
    let names = Names { case, setting };
    let steps = trace.iter().filter_map(|(event, place)| names.step(event, place)).collect();
    let slots = Slots::of(&trace, &setting.map);
    CaseFailure { case: case.clone(), mutant, seed, step, violation, steps, slots }
}

struct Names<'a> {
    case: &'a Case,
    setting: &'a Setting,
}

impl Names<'_> {
    fn step(&self, event: &Event, place: &Place) -> Option<Step> {
        let what = match event.action {
            Action::Begin | Action::Arrive { .. } | Action::Pass { .. } => return None,
            Action::End => "ends".into(),
            Action::Load { at, value, stale } => {
                format!(
                    "sees {} in {}{}",
                    number(value),
                    self.name(at),
                    if stale { ", an old value" } else { "" }
                )
            }
            Action::Store { at, value } => match self.setting.map.spot(at) {
                Some((_, Spot::Sequence(ring, _))) => format!("publishes {} in the {ring}", number(value)),
                Some((_, Spot::Gating(ring))) => {
                    format!("returns up to {} of the {ring}", number(value.wrapping_sub(1)))
                }
                _ => format!("stores {} in {}", number(value), self.name(at)),
            },
            Action::Exchange { at, before, value } => {
                format!("exchanges {} for {} in {}", number(before), number(value), self.name(at))
            }
            Action::Read { at, bytes } => format!("reads {bytes} bytes of {}", self.name(at)),
            Action::Write { at, bytes } => format!("writes {bytes} bytes of {}", self.name(at)),
            Action::Fence => "fence".into(),
            Action::Note { what: GAVE_UP.., value } => format!("gives up at {}", number(value)),
            Action::Note { what, value } => format!("notes {what}: {}", number(value)),
        };
        Some(Step { number: event.step, who: self.who(place), what })
    }

    fn name(&self, at: crate::model::Address) -> String {
        match self.setting.map.spot(at) {
            Some((rank, Spot::Abort)) => format!("the abort word of rank {rank}"),
            Some((rank, Spot::Recorded)) => format!("the recorded word of rank {rank}"),
            Some((rank, Spot::Cursor(role, lane))) => {
                format!("the {role:?} cursor of rank {rank}, lane {lane}")
            }
            Some((_, Spot::Gating(ring))) => format!("the gating of the {ring}"),
            Some((_, Spot::Sequence(ring, slot))) => format!("the word of slot {slot} of the {ring}"),
            Some((_, Spot::Slot(ring, slot))) => format!("slot {slot} of the {ring}"),
            Some((_, Spot::Padding)) => format!("{at:?}"),
            None => self.setting.other_name(at),
        }
    }

    fn who(&self, place: &Place) -> String {
        if place.block.is_none() {
            return format!("host of rank {}", place.party);
        }
        // Calls may use different numbers of workers; the first one's stands for all.
        let workers = self.case.calls.first().map_or(1, |call| call.workers as u32);
        let role = [Role::Scatter, Role::Reduce, Role::Gather].get((place.block_index / workers) as usize);
        let role = role.map_or_else(
            || format!("block {}", place.block_index),
            |role| format!("{role:?}").to_lowercase(),
        );
        let part = if place.thread < self.case.movers { "mover" } else { "signal" };
        format!("rank {} {role} {} {part} {}", place.party, place.block_index % workers, place.thread)
    }
}

/// Small numbers as they are, large ones so that the wrap is seen.
fn number(value: u64) -> String {
    if value > u64::MAX - 1000 { format!("-{}", value.wrapping_neg()) } else { value.to_string() }
}
