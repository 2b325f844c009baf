//! The rules of docs/protocols/packet.md that are looked at in every step, for cells.

use std::cell::RefCell;
use std::rc::Rc;

use myelon_lanes::Algorithm;
use myelon_ring::words::MARK;

use super::case::Call;
use super::launches::Launches;
use super::map::CellName;
use super::packets::{Broken, By, Values};
use crate::launch::Shape;

/// Whether a call, made by all ranks, sends a cell.
fn uses(call: &Call, shape: &Shape, cell: CellName) -> bool {
    let values = Values { count: call.bytes().div_ceil(16), room: shape.inbox.cells, ranks: shape.ranks };
    match call.algorithm {
        Algorithm::OneShotLamport => values.one_shot(cell.number),
        Algorithm::TwoShotLamport => values.two_shot(cell.sender, cell.owner, cell.number),
        Algorithm::OneShot
        | Algorithm::TwoShot
        | Algorithm::Direct
        | Algorithm::Ring
        | Algorithm::Neighbour => false,
    }
}

/// Half a cell: what was stored last, and whether its owner has seen that.
#[derive(Clone, Copy)]
struct Half {
    value: u64,
    seen: bool,
}

pub(super) struct Cells {
    shape: Shape,
    launches: Rc<RefCell<Launches>>,
    /// By owner, sender, parity, number and half.
    halves: Vec<Half>,
}

impl Cells {
    pub(super) fn new(shape: &Shape, launches: Rc<RefCell<Launches>>) -> Self {
        let count = shape.ranks * shape.ranks * 2 * shape.inbox.cells * 2;
        Self { shape: *shape, launches, halves: vec![Half { value: MARK, seen: false }; count] }
    }

    fn half(&mut self, cell: CellName) -> &mut Half {
        let Shape { ranks, inbox, .. } = self.shape;
        let place =
            (usize::from(cell.owner) * ranks + usize::from(cell.sender)) * 2 + usize::from(cell.parity);
        &mut self.halves[(place * inbox.cells + cell.number as usize) * 2 + usize::from(cell.half)]
    }

    /// P1: a cell is read by its owner alone.
    pub(super) fn read(&mut self, by: By, cell: CellName, value: Option<u64>) -> Result<(), Broken> {
        if by.rank != usize::from(cell.owner) {
            return Err(("ownership", format!("rank {} read the {cell}", by.rank)));
        }
        let half = self.half(cell);
        half.seen |= value == Some(half.value);
        Ok(())
    }

    /// P1, P6: a cell that the call uses becomes payload by its sender, where it held the mark, and the mark by its
    /// owner, who has seen the payload; no other is written. P3: in this epoch's place, by a sender when the owner has
    /// come to the end of the epoch that was there before, and behind all that was stored there, in the order of
    /// memory too.
    pub(super) fn written(
        &mut self,
        by: By,
        cell: CellName,
        value: Option<u64>,
        behind_all: bool,
    ) -> Result<(), Broken> {
        let By { rank, number } = by;
        let (owner, sends) = (usize::from(cell.owner), rank == usize::from(cell.sender));
        let half = *self.half(cell);
        let launches = self.launches.borrow();
        let does = if sends { "sends" } else { "empties" };
        let call = launches.call(rank, number);
        if !uses(call, &self.shape, cell) || !(sends || rank == owner) {
            return Err(("ownership", format!("rank {rank} {does} the {cell}; its call has no right to")));
        }
        let before = launches.epochs_before(rank, number);
        let (epoch, ended) = (self.shape.first.wrapping_add(before), launches.epochs_ended(owner));
        let turn =
            |why: &str| Err(("turn", format!("rank {rank} {does} the {cell} in epoch {epoch:#x}{why}")));
        if epoch % 2 != u64::from(cell.parity) {
            return turn("");
        }
        if sends && ended + 1 < before {
            let needed = before - 1;
            return turn(&format!(
                ", when rank {owner} has ended {ended} epochs and not the {needed} that it needs"
            ));
        }
        let wrong = match (sends, value) {
            (true, Some(MARK)) => Some("sends the mark as payload in"),
            (true, Some(_)) if half.value != MARK => Some("sends payload over payload in"),
            (false, Some(MARK)) if half.value == MARK => Some("empties, though it is empty,"),
            (false, Some(MARK)) if !half.seen => Some("empties, without having seen what is in it,"),
            (true, Some(_)) | (false, Some(MARK)) => None,
            (false, Some(_)) | (_, None) => Some("writes something else than the mark into"),
        };
        if let Some(wrong) = wrong {
            return Err(("cells", format!("rank {rank} {wrong} the {cell}, in epoch {epoch:#x}")));
        }
        if !behind_all {
            return turn("; nothing orders that behind what was there");
        }
        drop(launches);
        *self.half(cell) = Half { value: value.unwrap_or(MARK), seen: false };
        Ok(())
    }

    /// P6: a call that ended well leaves the mark in every cell of its epoch's parity, used or not. Nobody can have
    /// sent the next payload of that parity: it comes behind this rank's next epoch.
    pub(super) fn ended(&mut self, by: By) -> Result<(), Broken> {
        let epoch = self.shape.first.wrapping_add(self.launches.borrow().epochs_before(by.rank, by.number));
        let Shape { ranks, inbox, .. } = self.shape;
        let halves = 2 * inbox.cells;
        for sender in (0..ranks).filter(|&sender| sender != by.rank) {
            for at in 0..halves {
                let (number, half) = ((at / 2) as u32, (at % 2) as u8);
                let (owner, sender, parity) = (by.rank as u8, sender as u8, (epoch % 2) as u8);
                let cell = CellName { owner, sender, parity, number, half };
                if self.half(cell).value != MARK {
                    let By { rank, number } = by;
                    let message = format!("call {number} of rank {rank} ended with payload in the {cell}");
                    return Err(("cells", message));
                }
            }
        }
        Ok(())
    }
}
