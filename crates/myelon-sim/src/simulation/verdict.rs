//! What must be true when a run is over: results, records, and words at rest.

use std::mem::offset_of;

use myelon_lanes::Algorithm;
use myelon_ring::WindowLayout;
use myelon_ring::words::{FaultCode, HostPage, MARK, Movement, RANKS_MAX, Role, WaitCounts, WaitingFor};

use super::case::{Case, Mishap};
use super::furnish::Setting;
use super::map::rings;
use super::reference::by_neighbours;
use super::run::{Outcome, Reference, comes};
use crate::model::{Address, Ended, Violation};

const NONE: u32 = FaultCode::None as u32;
const STALLED: u32 = FaultCode::Stalled as u32;
const DISAGREEMENT: u32 = FaultCode::Disagreement as u32;
const PROTOCOL: u32 = FaultCode::Protocol as u32;
const ABORTED: u32 = FaultCode::Aborted as u32;

/// The names of the checkers here, as violations carry them.
pub(super) const NAMES: [&str; 7] = ["payload", "bits", "input", "record", "rest", "scrub", "waits"];

/// Polls of which the host is told at once; `count_looks` in `kernels/include/myelon/window.cuh` has the same number.
const POLLS_TOLD: u64 = 32 * 2;

/// Results against the reference, the same bits on all ranks, and records that say what went wrong.
pub(super) fn judge(
    case: &Case,
    setting: &Setting,
    outcomes: &[Vec<Outcome>],
    reference: Reference,
) -> Result<(), Violation> {
    let codes: Vec<u32> = outcomes[0].iter().map(|outcome| outcome.fault.code).collect();
    records(case, &codes, &outcomes[0])?;
    // Results of calls that ended before there was a record are as good as any.
    let well = setting.well.borrow();
    for (number, call) in case.calls.iter().enumerate() {
        let given: Vec<&[u8]> = setting.buffers[number].iter().map(|buffers| &buffers.given[..]).collect();
        let same_count = given.iter().all(|input| input.len() == given[0].len());
        let ranks = (0..case.shape.ranks).filter(|&rank| well[number][rank]);
        if same_count {
            let needed = match call.algorithm {
                Algorithm::Neighbour => by_neighbours(call, &given),
                _ => reference(call.dtype, call.op, &given),
            };
            for rank in ranks.clone() {
                let output = &outcomes[number][rank].output;
                if let Some(at) = (0..needed.len()).find(|&at| output[at] != needed[at]) {
                    let element = at / call.element_bytes();
                    let message =
                        format!("call {number}, rank {rank}, element {element} differs from the reference");
                    return Err(Violation::new("payload", message));
                }
            }
        }
        let mut outputs = ranks.clone().map(|rank| &outcomes[number][rank].output);
        let first = outputs.next();
        if outputs.any(|output| Some(output) != first) {
            return Err(Violation::new("bits", format!("call {number}: ranks have different results")));
        }
        for rank in ranks.filter(|_| !call.in_place) {
            if outcomes[number][rank].input != given[rank] {
                return Err(Violation::new(
                    "input",
                    format!("call {number}, rank {rank}: the input was written"),
                ));
            }
        }
    }
    Ok(())
}

/// What a record says, in a word.
fn name(code: u32) -> &'static str {
    match code {
        NONE => "none",
        STALLED => "stalled",
        DISAGREEMENT => "disagreement",
        PROTOCOL => "protocol",
        ABORTED => "aborted",
        _ => "unknown",
    }
}

fn stops(case: &Case, rank: usize) -> bool {
    matches!(case.mishap, Some(Mishap::Stops { rank: stopped, .. }) if stopped == rank)
}

fn records(case: &Case, codes: &[u32], outcomes: &[Outcome]) -> Result<(), Violation> {
    let survivors = (0..case.shape.ranks).filter(|&rank| comes(case, rank) && !stops(case, rank));
    let names: Vec<&str> = codes.iter().map(|&code| name(code)).collect();
    let seen = || format!("with {:?} the ranks' records are {names:?}", case.mishap);
    let must = |holds: bool, what: &str| match holds {
        true => Ok(()),
        false => Err(Violation::new("record", format!("{what}; {}", seen()))),
    };
    let all_among = |allowed: &[u32]| survivors.clone().all(|rank| allowed.contains(&codes[rank]));
    match case.mishap {
        None | Some(Mishap::Slow { .. }) => must(all_among(&[NONE]), "every call must succeed"),
        Some(Mishap::NeverComes { rank: missing }) => {
            must(all_among(&[STALLED, ABORTED]), "every survivor must give up")?;
            let mut stalled = survivors.clone().filter(|&rank| codes[rank] == STALLED).peekable();
            must(stalled.peek().is_some(), "somebody must have waited in vain")?;
            let named = stalled.all(|rank| outcomes[rank].fault.peer as usize == missing);
            must(named, "whoever waited in vain must name the rank that is missing")
        }
        Some(Mishap::Pauses { rank: late, .. }) => {
            must(all_among(&[NONE, STALLED, ABORTED]), "every rank must end")?;
            let mut records = (0..codes.len()).filter(|&rank| rank != late && codes[rank] != NONE).peekable();
            let stalled = |rank: usize| codes[rank] == STALLED;
            must(records.peek().is_none() || records.any(stalled), "a survivor must have waited in vain")
        }
        Some(Mishap::Stops { rank: stopped, .. }) => {
            must(all_among(&[NONE, STALLED, ABORTED]), "survivors must end")?;
            must(codes[stopped] == NONE, "the rank that stopped must be the one that left nothing")
        }
        Some(Mishap::Aborted { rank, alone, .. }) => {
            must(codes[rank] == ABORTED || !alone, "a rank that waits in vain must stop when it is told")?;
            must(all_among(&[NONE, ABORTED]), "who is told to stop says so, and nobody waits in vain")?;
            let told = codes.contains(&ABORTED);
            must(!told || codes[rank] == ABORTED, "the rank that was told must be among those who stopped")
        }
        Some(Mishap::OtherCount { .. }) => {
            must(all_among(&[DISAGREEMENT, ABORTED]), "every rank must give up")?;
            must(codes.contains(&DISAGREEMENT), "somebody must say that ranks disagree")
        }
        Some(Mishap::Overwritten { rank, .. }) => {
            must(codes[rank] == PROTOCOL, "a word beyond what can be must be a fault of the protocol")
        }
    }
}

/// F8: whoever waited in vain has counted it, as what it was, and the host was told.
pub(super) fn counted(
    setting: &Setting,
    layout: &WindowLayout,
    outcomes: &[Outcome],
    ended: &Ended,
) -> Result<(), Violation> {
    let counts = |at: Address| -> WaitCounts {
        bytemuck::pod_read_unaligned(&ended.bytes(at, size_of::<WaitCounts>()))
    };
    for (rank, Outcome { fault, .. }) in outcomes.iter().enumerate() {
        let counted = counts(setting.windows[rank].plus(layout.waits_offset()));
        let told = counts(setting.faults[rank].plus(offset_of!(HostPage, waits)));
        let steps = |polls: u64| polls / POLLS_TOLD;
        let is_told = told.longest_ns == counted.longest_ns
            && [(told.polls_data, counted.polls_data), (told.polls_credit, counted.polls_credit)]
                .iter()
                .all(|&(told, counted)| told <= counted && steps(told) == steps(counted));
        let for_credit = [WaitingFor::ScatterCredit, WaitingFor::GatherCredit]
            .iter()
            .any(|&credit| fault.waiting_for == credit as u32);
        let polls = if for_credit { counted.polls_credit } else { counted.polls_data };
        let is_counted = fault.code != STALLED || (polls > 0 && counted.longest_ns >= fault.waited_ns);
        if !is_told || !is_counted {
            let message = format!("rank {rank} has counted {counted:?} and told {told:?} before {fault:?}");
            return Err(Violation::new("waits", message));
        }
    }
    Ok(())
}

/// R7, R9, P5, P6: behind calls that went well every slot is returned, every cursor stands where its rings do, every
/// epoch stands behind the calls by packets, and every cell holds the mark. P4: nothing was left unscrubbed.
pub(super) fn at_rest(
    case: &Case,
    layout: &WindowLayout,
    setting: &Setting,
    ended: &Ended,
) -> Result<(), Violation> {
    let windows: &[Address] = &setting.windows;
    if let Some((rank, number)) = setting.unscrubbed.get() {
        let message = format!("call {number} of rank {rank} left a packet as it was that was its to scrub");
        return Err(Violation::new("scrub", message));
    }
    if !matches!(case.mishap, None | Some(Mishap::Slow { .. })) {
        return Ok(());
    }
    let shape = &case.shape;
    let offsets = [0; RANKS_MAX];
    let word = |rank: usize, offset: usize| {
        u64::from_le_bytes(ended.bytes(windows[rank].plus(offset), 8).try_into().expect("eight bytes"))
    };
    let calls = case.calls.iter().filter(|call| call.is_of_packets()).count() as u64;
    let needed = shape.first.wrapping_add(calls);
    for (rank, lane) in (0..shape.ranks).flat_map(|rank| (0..shape.inbox.lanes).map(move |lane| (rank, lane)))
    {
        let epoch = word(rank, layout.epoch_offset() + 8 * lane);
        if epoch != needed {
            let message = format!("rank {rank}: the epoch of lane {lane} is {epoch:#x}, not {needed:#x}");
            return Err(Violation::new("rest", message));
        }
    }
    for (rank, window) in windows.iter().enumerate() {
        let (from, to) = (layout.cells_offset(), layout.neighbour_rings().cursor_offset);
        if let Some(at) = (from..to).step_by(8).find(|&at| word(rank, at) != MARK) {
            let spot = setting.map.spot(window.plus(at)).map(|(_, spot)| spot);
            let message = format!("rank {rank} is left with {:#x} in {spot:?}", word(rank, at));
            return Err(Violation::new("rest", message));
        }
    }
    for name in rings(shape.ranks, shape.lanes) {
        let (source, destination) = (name.source as usize, name.destination as usize);
        let ring = layout.ring(&offsets, name.movement, name.lane.into(), source, destination);
        let gating = word(source, ring.gating as usize);
        let last = gating.wrapping_sub(1);
        let slot = (last & (ring.capacity as u64 - 1)) as usize;
        let published = word(destination, ring.sequence as usize + 8 * slot);
        if published != last {
            let message = format!("{name}: published {published:#x}, returned {last:#x}");
            return Err(Violation::new("rest", message));
        }
        let (producer, consumer) = match name.movement {
            Movement::Scatter => (Role::Scatter, Role::Reduce),
            Movement::Gather => (Role::Reduce, Role::Gather),
            Movement::Neighbour => (Role::Neighbour, Role::Neighbour),
        };
        for (rank, role) in [(source, producer), (destination, consumer)] {
            let cursor = word(rank, layout.cursor(role, name.lane.into()));
            if cursor != gating {
                let message = format!("{name}: {role:?} will go on at {cursor:#x}, its ring at {gating:#x}");
                return Err(Violation::new("rest", message));
            }
        }
    }
    Ok(())
}
