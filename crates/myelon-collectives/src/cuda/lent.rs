//! Plain allocations of somebody else that peers in other processes have open.
//!
//! The driver does not say what happens to one that is freed while it is open elsewhere. So what keeps it is kept until
//! every peer has said that it closed it, or is dead; and for good where a peer said goodbye with it open.

use myelon_kernel::Operand;
use myelon_ring::words::RANKS_MAX;

/// What a rank lent, and has not got back from all.
#[derive(Default)]
pub(super) struct Lents(Vec<Lent>);

pub(super) struct Lent {
    /// The offer's.
    number: u64,
    /// `[ranks]`: these may have it open.
    open: [bool; RANKS_MAX],
    /// `[ranks]`: these have said that they opened it.
    reached: [bool; RANKS_MAX],
    /// A peer said goodbye, and not that it has closed it.
    is_lost: bool,
    /// What keeps it, once nothing of this rank does.
    keeps: Option<Operand>,
}

impl Lents {
    /// Offer `number` goes to `peers`.
    pub fn add(&mut self, number: u64, peers: impl Iterator<Item = usize>) {
        let mut open = [false; RANKS_MAX];
        peers.for_each(|peer| open[peer] = true);
        self.0.push(Lent { number, open, reached: [false; RANKS_MAX], is_lost: false, keeps: None });
    }

    /// `peer` has opened offer `number`, or can't.
    pub fn answered(&mut self, number: u64, peer: usize, is_reached: bool) {
        if let Some(lent) = self.0.iter_mut().find(|lent| lent.number == number) {
            lent.reached[peer] = is_reached;
            lent.open[peer] &= is_reached;
        }
    }

    /// `peer` has closed those of `numbers`.
    pub fn closed(&mut self, peer: usize, numbers: &[u64]) {
        let closed = self.0.iter_mut().filter(|lent| numbers.contains(&lent.number));
        closed.for_each(|lent| lent.open[peer] = false);
    }

    /// Nothing is heard from `peer` any more; `is_dead` where its process has ended, which closes everything.
    pub fn gone(&mut self, peer: usize, is_dead: bool) {
        for lent in &mut self.0 {
            // Who said goodbye has said before what it opened, opens nothing any more, and has closed what it could.
            lent.is_lost |= lent.open[peer] && lent.reached[peer] && !is_dead;
            lent.open[peer] = false;
        }
    }

    /// Nothing of this rank keeps offer `number` any more, but `keeps`.
    pub fn keep(&mut self, number: u64, keeps: Option<Operand>) {
        if let Some(lent) = self.0.iter_mut().find(|lent| lent.number == number) {
            lent.keeps = keeps;
        }
    }

    /// Whether a peer may have something open, and will say so when it has not.
    pub fn are_open(&self) -> bool {
        self.0.iter().any(|lent| lent.open.contains(&true))
    }

    /// Takes what nobody has open any more. To be dropped without a lock: that may end other offers.
    #[must_use]
    pub fn take_closed(&mut self) -> Vec<Lent> {
        let is_closed = |lent: &mut Lent| lent.keeps.is_some() && !lent.is_open();
        self.0.extract_if(.., is_closed).collect()
    }
}

impl Lent {
    fn is_open(&self) -> bool {
        self.is_lost || self.open.contains(&true)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_open()
            && let Some(keeps) = self.keeps.take()
        {
            tracing::warn!("memory that a peer may still have open is left to the end of the process");
            std::mem::forget(keeps);
        }
    }
}
