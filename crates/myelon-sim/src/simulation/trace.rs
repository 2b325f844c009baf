//! A failure as a person reads it: the last steps in words.

use std::fmt;

use myelon_lanes::Algorithm;
use myelon_ring::words::{MARK, Role};

use super::case::Case;
use super::furnish::Setting;
use super::map::Spot;
use super::mutants::Mutant;
use super::run::WARP_THREADS;
use super::slots::Slots;
use crate::model::{Action, Address, Event, Failure, Place, Violation};
use crate::port::GAVE_UP;

/// A rule that a case broke, and how to see it again: the same case, mutant and seed break it at the same step.
#[derive(Clone, Debug)]
pub struct CaseFailure {
    /// What was run; none where it was a protocol of [`heritage`](crate::heritage), whose sizes follow from the
    /// seed.
    pub case: Option<Case>,
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

/// Makes a failure of a world one of a case.
pub(super) fn failure(
    case: &Case,
    mutant: Mutant,
    seed: u64,
    failure: Failure,
    setting: &Setting,
) -> CaseFailure {
    let Failure { violation, step, trace } = failure;
    let (steps, slots) = (words(case, &trace, setting), Slots::of(&trace, &setting.map, step));
    let message = Names { case, setting }.in_words(&violation.message);
    let violation = Violation { message, ..violation };
    CaseFailure { case: Some(case.clone()), mutant, seed, step, violation, steps, slots }
}

/// Makes a failure of a world one of a protocol of [`heritage`](crate::heritage), whose memory has these names.
pub(super) fn failure_of_heritage(
    mutant: Mutant,
    seed: u64,
    failure: Failure,
    names: &[&'static str],
) -> CaseFailure {
    let Failure { violation, step, trace } = failure;
    // Memory that the protocol did not make by name is what its block asked the port for.
    let name_of = |at: Address| names.get(at.segment()).copied().unwrap_or("the block's stages");
    let name = |at: Address| format!("word {} of {}", at.offset() / 8, name_of(at));
    let steps = trace.iter().filter_map(|(event, place)| {
        Some(Step { number: event.step, who: place.to_string(), what: what(event.action, name)? })
    });
    let (steps, slots) = (steps.collect(), Slots::default());
    CaseFailure { case: None, mutant, seed, step, violation, steps, slots }
}

/// The action in words, unless it says nothing to a person.
fn what(action: Action, name: impl Fn(Address) -> String) -> Option<String> {
    Some(match action {
        Action::Arrive { .. } | Action::Pass { .. } => return None,
        Action::End => "ends".into(),
        Action::Load { at, value, stale } => {
            format!("sees {} in {}{}", number(value), name(at), if stale { ", an old value" } else { "" })
        }
        Action::Store { at, value, .. } => format!("stores {} in {}", number(value), name(at)),
        Action::Exchange { at, before, value } => {
            format!("exchanges {} for {} in {}", number(before), number(value), name(at))
        }
        Action::Read { at, bytes } => format!("reads {bytes} bytes of {}", name(at)),
        Action::Write { at, bytes } => format!("writes {bytes} bytes of {}", name(at)),
        Action::Fence => "fence".into(),
        Action::Launch { threads, .. } => format!("launches {threads} threads"),
        Action::Note { what: GAVE_UP.., value } => format!("gives up at {}", number(value)),
        Action::Note { what, value } => format!("notes {what}: {}", number(value)),
    })
}

/// The steps in words; those that say nothing to a person are left out.
pub(super) fn words(case: &Case, trace: &[(Event, Place)], setting: &Setting) -> Vec<Step> {
    let names = Names { case, setting };
    trace.iter().filter_map(|(event, place)| names.step(event, place)).collect()
}

struct Names<'a> {
    case: &'a Case,
    setting: &'a Setting,
}

impl Names<'_> {
    fn step(&self, event: &Event, place: &Place) -> Option<Step> {
        let spot = |at| self.setting.map.spot(at).map(|(_, spot)| spot);
        let what = match event.action {
            Action::Store { at, value, .. } => match spot(at) {
                Some(Spot::Sequence(ring, _)) => format!("publishes {} in the {ring}", number(value)),
                Some(Spot::Gating(ring)) => {
                    format!("returns up to {} of the {ring}", number(value.wrapping_sub(1)))
                }
                Some(Spot::Packet(packet)) if usize::from(packet.sender) == place.party as usize => {
                    format!("sends {} in the {packet}", half(value))
                }
                Some(Spot::Packet(packet)) => format!("scrubs the {packet} with {}", half(value)),
                Some(Spot::Cell(cell)) if usize::from(cell.sender) == place.party as usize => {
                    format!("sends {} in the {cell}", of_cell(value))
                }
                Some(Spot::Cell(cell)) => format!("leaves {} in the {cell}", of_cell(value)),
                _ => what(event.action, |at| self.name(at))?,
            },
            Action::Load { at, value, stale } if matches!(spot(at), Some(Spot::Packet(_))) => {
                let old = if stale { ", an old value" } else { "" };
                format!("sees {} in {}{old}", half(value), self.name(at))
            }
            Action::Load { at, value, stale } if matches!(spot(at), Some(Spot::Cell(_))) => {
                let old = if stale { ", an old value" } else { "" };
                format!("sees {} in {}{old}", of_cell(value), self.name(at))
            }
            // Of a block's threads it says nothing: most have nothing to do.
            Action::End if place.block.is_some() => return None,
            action => what(action, |at| self.name(at))?,
        };
        Some(Step { number: event.step, who: self.who(place), what })
    }

    /// A message in which the model, which knows windows by their bytes, gave addresses: they get their names.
    fn in_words(&self, message: &str) -> String {
        let mut parts = message.split("window of rank ");
        let mut words = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // `1 + 768, and so on`
            let split = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (rank, rest) = part.split_at(split(part));
            let rest = rest.strip_prefix(" + ").unwrap_or_default();
            let (offset, rest) = rest.split_at(split(rest));
            let window = rank.parse().ok().and_then(|rank: usize| self.setting.windows.get(rank));
            match (window, offset.parse()) {
                (Some(window), Ok(offset)) => words += &format!("{}{rest}", self.name(window.plus(offset))),
                _ => words += &format!("window of rank {part}"),
            }
        }
        words
    }

    fn name(&self, at: Address) -> String {
        match self.setting.map.spot(at) {
            Some((rank, Spot::Abort)) => format!("the abort word of rank {rank}"),
            Some((rank, Spot::Recorded)) => format!("the recorded word of rank {rank}"),
            Some((rank, Spot::Calling)) => format!("the calling word of rank {rank}"),
            Some((rank, Spot::Call)) => format!("the call word of rank {rank}"),
            Some((rank, Spot::Waits)) => format!("a counter of waits of rank {rank}"),
            Some((rank, Spot::Epoch(lane))) => format!("the epoch of rank {rank}, lane {lane}"),
            Some((_, Spot::Packet(packet))) => format!("the {packet}"),
            Some((_, Spot::Cell(cell))) => format!("the {cell}"),
            Some((rank, Spot::Cursor(role, lane))) => {
                format!("the {role:?} cursor of rank {rank}, lane {lane}")
            }
            Some((_, Spot::Gating(ring))) => format!("the gating of the {ring}"),
            Some((_, Spot::Sequence(ring, slot))) => format!("the word of slot {slot} of the {ring}"),
            Some((_, Spot::Slot(ring, slot))) => format!("slot {slot} of the {ring}"),
            Some((rank, Spot::Padding)) => {
                format!("what is no word at {} of the window of rank {rank}", at.offset())
            }
            None => self.setting.other_name(at),
        }
    }

    fn who(&self, place: &Place) -> String {
        if place.block.is_none() {
            return format!("host of rank {}", place.party);
        }
        let launches = self.setting.launches.borrow();
        let Some(number) = launches.number(place) else { return place.to_string() };
        let call = launches.call(place.party as usize, number);
        if call.is_of_packets() {
            let what = match place.thread < WARP_THREADS {
                true => format!("signal {}", place.thread),
                false => format!("mover {}", place.thread - WARP_THREADS),
            };
            return format!("rank {} {} {} {what}", place.party, call.algorithm, place.block_index);
        }
        let workers = call.workers as u32;
        if call.algorithm == Algorithm::Neighbour {
            let part = if place.thread < self.case.movers { "mover" } else { "signal" };
            return format!("rank {} neighbour {} {part} {}", place.party, place.block_index, place.thread);
        }
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

/// Half a packet.
fn half(value: u64) -> String {
    let (flag, payload) = ((value >> 32) as u32, value as u32);
    let flag = if flag > u32::MAX - 1000 { format!("-{}", flag.wrapping_neg()) } else { flag.to_string() };
    format!("flag {flag} over {payload:#x}")
}

/// Half a cell.
fn of_cell(value: u64) -> String {
    if value == MARK { "the mark".into() } else { format!("{value:#018x}") }
}

#[cfg(test)]
mod tests {
    use crate::simulation::{Mutant, Simulation};

    /// The model's own words are `window of rank 1 + 768`.
    #[test]
    fn a_race_is_told_by_the_names_of_slots() {
        let weak = Simulation::new(2).sum("i32", 100).mutant(Mutant::find("ring/publish.fence").unwrap());
        let failures = (0..50).filter_map(|seed| weak.run(seed).err());
        let races: Vec<_> = failures.filter(|failure| failure.violation.rule == "race").collect();
        assert!(!races.is_empty());
        for race in races {
            let message = &race.violation.message;
            assert!(
                message.contains(" of the scatter ring ") || message.contains(" of the gather ring "),
                "{message}"
            );
            assert!(!message.contains("window of rank"), "{message}");
        }
    }

    #[test]
    fn threads_that_end_in_a_block_are_no_steps_to_show() {
        let (steps, _) = Simulation::new(2).sum("i32", 4).trace(100_000).watch(0).unwrap();
        let ended: Vec<&str> =
            steps.iter().filter(|step| step.what == "ends").map(|step| step.who.as_str()).collect();
        assert_eq!(ended.len(), 2);
        assert!(ended.iter().all(|who| who.starts_with("host of rank")), "{ended:?}");
    }
}
