//! Which calls have begun and ended, from the events of a run: the k-th launch of a rank is its k-th call.

use std::cell::RefCell;
use std::rc::Rc;

use super::case::{Call, Case};
use crate::model::{Action, Event, Place};

/// One launch of a rank.
#[derive(Clone, Copy, Debug)]
struct Launched {
    /// Number of its first block among all blocks of the world.
    first_block: u32,
    /// Threads that have not ended.
    unfinished: u32,
}

/// The launches of every rank, and the calls that they are.
#[derive(Debug)]
pub(super) struct Launches {
    calls: Vec<Vec<Call>>,
    launched: Vec<Vec<Launched>>,
}

/// A launch by the number of its first block: those of later launches are larger.
pub(super) fn first_block(place: &Place) -> u32 {
    place.block.map_or(0, |block| block - place.block_index)
}

impl Launches {
    pub(super) fn new(case: &Case) -> Rc<RefCell<Self>> {
        let of_rank = |rank| (0..case.calls.len()).map(|number| case.call_of(rank, number)).collect();
        let calls: Vec<Vec<Call>> = (0..case.shape.ranks).map(of_rank).collect();
        Rc::new(RefCell::new(Self { launched: vec![Vec::new(); calls.len()], calls }))
    }

    /// Takes part of every event; the call that ended with this one.
    pub(super) fn observe(&mut self, event: &Event, place: &Place) -> Option<usize> {
        match event.action {
            Action::Launch { first_block, threads } => {
                self.launched[place.party as usize].push(Launched { first_block, unfinished: threads });
                None
            }
            Action::End if place.block.is_some() => {
                let number = self.number(place)?;
                let launch = &mut self.launched[place.party as usize][number];
                launch.unfinished -= 1;
                (launch.unfinished == 0).then_some(number)
            }
            _ => None,
        }
    }

    /// Number of the call of the launch that a thread is in; none for a host.
    pub(super) fn number(&self, place: &Place) -> Option<usize> {
        let (launched, first) = (self.launched.get(place.party as usize)?, first_block(place));
        place.block.and_then(|_| launched.iter().rposition(|launch| launch.first_block == first))
    }

    /// What a rank calls as call `number`.
    pub(super) fn call(&self, rank: usize, number: usize) -> &Call {
        &self.calls[rank][number]
    }

    /// Calls by packets among those before call `number`: how far its epoch is from the first one.
    pub(super) fn epochs_before(&self, rank: usize, number: usize) -> u64 {
        self.calls[rank][..number].iter().filter(|call| call.is_of_packets()).count() as u64
    }

    fn ended(&self, rank: usize) -> usize {
        self.launched[rank].iter().take_while(|launch| launch.unfinished == 0).count()
    }

    /// Epochs that a rank has come to the end of.
    pub(super) fn epochs_ended(&self, rank: usize) -> u64 {
        self.epochs_before(rank, self.ended(rank))
    }

    /// Whether a rank has begun call `number`, behind all earlier ones, and not ended it.
    pub(super) fn is_under_way(&self, rank: usize, number: usize) -> bool {
        self.launched[rank].len() > number && self.ended(rank) == number
    }
}
