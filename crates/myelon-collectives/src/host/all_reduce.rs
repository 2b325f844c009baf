//! The all-reduce of one host rank: one thread takes every lane and role forward, a slot at a time,
//! wherever a ring allows it.
//!
//! ```text
//! Scatter  input[piece of owner]      -> slot of the scatter ring to the owner
//! Reduce   slots of all peers + input -> slot of a gather ring -> the other gather slots, output
//! Gather   slot of the owner          -> output[piece of owner]
//! ```
//!
//! In place, each byte of the input has been read before it is overwritten: a rank's own piece by its own
//! Reduce, a peer's piece by Scatter, without which the peer could not have summed it.

use std::sync::Arc;
use std::time::Duration;

use myelon_lanes::Lanes;
use myelon_recorder::{Late, Row, Waits};
use myelon_ring::words::{Movement, RANKS_MAX, TRAILER_BYTES, WaitingFor};
use myelon_ring::{Consumer, HostWindows, Producer, RingError, RingFault};

use super::memory::HostSpan;
use super::patience::Patience;
use super::reduce::reduce;
use crate::call::CallWord;
use crate::dtype::DataType;
use crate::error::Error;
use crate::group::Group;
use crate::late::{self, Awaited};
use crate::op::ReduceOp;
use crate::record::RankRecord;

/// A call, as its worker gets it.
pub(super) struct Job {
    /// What is recorded of it, but for its number.
    pub row: Row,
    pub word: CallWord,
    pub dtype: DataType,
    pub op: ReduceOp,
    pub geometry: Lanes,
    pub input: HostSpan,
    pub output: HostSpan,
}

/// This rank's ends of all its rings.
pub(super) struct Engine {
    rank: usize,
    deadline: Duration,
    group: Arc<Group>,
    record: Arc<RankRecord>,
    lanes: Vec<LaneEnds>,
}

/// This rank's ends in one lane, each `[ranks - 1]` in the order of the peers.
struct LaneEnds {
    scatter_to: Vec<Producer>,
    scatter_from: Vec<Consumer>,
    gather_to: Vec<Producer>,
    gather_from: Vec<Consumer>,
}

/// How many rounds of a lane each end has done.
struct Progress {
    lane: usize,
    rounds: u64,
    /// `[ranks - 1]`.
    scattered: Vec<u64>,
    reduced: u64,
    /// `[ranks - 1]`.
    gathered: Vec<u64>,
    /// The last step missed a slot, and not only credit.
    lacks_data: bool,
}

impl Engine {
    /// Takes `rank`'s ends of all rings of `windows`.
    pub fn new(
        rank: usize,
        windows: &Arc<HostWindows>,
        credit_batch: usize,
        deadline: Duration,
        group: Arc<Group>,
        record: Arc<RankRecord>,
    ) -> Result<Self, Error> {
        let layout = windows.layout();
        let peers = || (0..layout.ranks()).filter(move |&peer| peer != rank);
        let producers = |movement, lane| {
            peers().map(|peer| windows.producer(movement, lane, rank, peer)).collect::<Result<Vec<_>, _>>()
        };
        let consumers = |movement, lane| {
            let batched =
                |peer| windows.consumer(movement, lane, peer, rank)?.with_credit_batch(credit_batch);
            peers().map(batched).collect::<Result<Vec<_>, RingError>>()
        };
        let mut lanes = Vec::with_capacity(layout.lanes());
        for lane in 0..layout.lanes() {
            lanes.push(LaneEnds {
                scatter_to: producers(Movement::Scatter, lane)?,
                scatter_from: consumers(Movement::Scatter, lane)?,
                gather_to: producers(Movement::Gather, lane)?,
                gather_from: consumers(Movement::Gather, lane)?,
            });
        }
        Ok(Self { rank, deadline, group, record, lanes })
    }

    /// Carries out `job`, this rank's call `number`, and counts it as completed. Returns what it has waited and not
    /// yet recorded.
    ///
    /// # Errors
    ///
    /// The first error of the group, wherever it came from; the engine can't be used any more.
    pub fn run(&mut self, job: &Job, number: u64) -> Result<Waits, Error> {
        let peers = job.geometry.ranks() as usize - 1;
        let mut active: Vec<Progress> = (0..job.geometry.lanes())
            .map(|lane| Progress {
                lane: lane as usize,
                rounds: job.geometry.rounds(lane),
                scattered: vec![0; peers],
                reduced: 0,
                gathered: vec![0; peers],
                lacks_data: false,
            })
            .filter(|progress| progress.rounds > 0)
            .collect();
        let mut patience = Patience::new(self.deadline, &self.record);
        let mut waited = None;
        loop {
            if let Some(error) = self.group.first_error() {
                return Err(error.clone());
            }
            let mut moved = false;
            for progress in &mut active {
                let step = Step { rank: self.rank, job, ends: &mut self.lanes[progress.lane], progress };
                moved |= step.advance()?;
            }
            active.retain(|progress| !progress.is_done());
            if active.is_empty() {
                self.group.complete_call(self.rank);
                return Ok(patience.waits());
            }
            if moved {
                patience.moved();
                waited = None;
            } else if let Some(waited) = waited.take()
                && let Some(awaited) = self.awaited(&active)
            {
                return Err(self.stalled(job, &awaited, waited));
            } else {
                // Once the deadline has passed, the rings get one last look.
                waited = patience.pause(active.iter().any(|progress| progress.lacks_data));
                if let Some(waited) = patience.late()
                    && let Some(awaited) = self.awaited(&active)
                {
                    self.warn(job, number, &awaited, waited);
                }
            }
        }
    }

    /// Whom this rank waits for; nobody where something has come just now. A sum that misses a slot tells more than
    /// what follows from it.
    fn awaited(&self, active: &[Progress]) -> Option<Awaited> {
        let waits = active.iter().flat_map(|progress| {
            let waits = progress.waits(&self.lanes[progress.lane]);
            waits.into_iter().map(|(waiting_for, place, (needed, seen))| Awaited {
                peer: peer_at(self.rank, place),
                lane: progress.lane,
                waiting_for,
                needed,
                seen,
            })
        });
        waits.min_by_key(|awaited| match awaited.waiting_for {
            WaitingFor::ScatterSlot => 0,
            WaitingFor::ScatterCredit => 1,
            WaitingFor::GatherCredit => 2,
            _ => 3, // a slot of the gather
        })
    }

    fn stalled(&self, job: &Job, awaited: &Awaited, waited: Duration) -> Error {
        let Awaited { peer, lane, waiting_for, needed, seen } = *awaited;
        let waited_us = waited.as_micros() as u64;
        Error::Stalled { rank: self.rank, peer, lane, waiting_for, needed, seen, waited_us, call: job.word }
    }

    /// Says and records that call `number` is late.
    fn warn(&self, job: &Job, number: u64, awaited: &Awaited, waited: Duration) {
        late::warn(self.rank, number, job.word, awaited, waited, self.deadline);
        self.record.late(Late {
            peer: awaited.peer as u64,
            lane: awaited.lane as u64,
            waiting_for: awaited.waiting_for as u64,
            needed: awaited.needed,
            seen: awaited.seen,
            waited_ns: waited.as_nanos() as u64,
            ..Late::default()
        });
    }
}

impl Progress {
    fn is_done(&self) -> bool {
        self.reduced == self.rounds
            && self.scattered.iter().chain(&self.gathered).all(|&rounds| rounds == self.rounds)
    }

    /// Every end that is not done and can't move, with what it needs and sees.
    fn waits(&self, ends: &LaneEnds) -> Vec<(WaitingFor, usize, (u64, u64))> {
        let mut waits = Vec::new();
        for place in 0..self.scattered.len() {
            let mut slot = |waiting_for, consumer: &Consumer| {
                let (needed, seen) = consumer.standing(1);
                if seen != needed {
                    waits.push((waiting_for, place, (needed, seen)));
                }
            };
            if self.reduced < self.rounds {
                slot(WaitingFor::ScatterSlot, &ends.scatter_from[place]);
            }
            if self.gathered[place] < self.rounds {
                slot(WaitingFor::GatherSlot, &ends.gather_from[place]);
            }
            let mut credit = |waiting_for, producer: &Producer| {
                let (needed, seen) = producer.standing(1);
                if !myelon_ring::reached(seen, needed) {
                    waits.push((waiting_for, place, (needed, seen)));
                }
            };
            if self.scattered[place] < self.rounds {
                credit(WaitingFor::ScatterCredit, &ends.scatter_to[place]);
            }
            if self.reduced < self.rounds {
                credit(WaitingFor::GatherCredit, &ends.gather_to[place]);
            }
        }
        waits
    }
}

/// One lane of one call, about to take a step.
struct Step<'a> {
    rank: usize,
    job: &'a Job,
    ends: &'a mut LaneEnds,
    progress: &'a mut Progress,
}

impl Step<'_> {
    /// Moves every end of the lane by at most a slot, and says whether any moved.
    fn advance(mut self) -> Result<bool, Error> {
        let mut moved = false;
        self.progress.lacks_data = false;
        for place in 0..self.progress.scattered.len() {
            moved |= self.scatter(place)?;
        }
        moved |= self.reduce()?;
        for place in 0..self.progress.gathered.len() {
            moved |= self.gather(place)?;
        }
        Ok(moved)
    }

    fn scatter(&mut self, place: usize) -> Result<bool, Error> {
        let round = self.progress.scattered[place];
        if round == self.progress.rounds {
            return Ok(false);
        }
        let owner = peer_at(self.rank, place);
        let piece = self.piece(round, owner);
        let ring = &mut self.ends.scatter_to[place];
        let at = At { rank: self.rank, place, lane: self.progress.lane };
        let Some(mut slot) = ring.try_claim().map_err(|fault| at.fault(WaitingFor::ScatterCredit, fault))?
        else {
            return Ok(false);
        };
        self.job.input.with(piece.0, piece.1, |input| slot[..piece.1].copy_from_slice(input));
        sign(&mut slot, self.job.word);
        slot.publish();
        self.progress.scattered[place] += 1;
        Ok(true)
    }

    fn gather(&mut self, place: usize) -> Result<bool, Error> {
        let round = self.progress.gathered[place];
        if round == self.progress.rounds {
            return Ok(false);
        }
        let owner = peer_at(self.rank, place);
        let piece = self.piece(round, owner);
        let ring = &mut self.ends.gather_from[place];
        let at = At { rank: self.rank, place, lane: self.progress.lane };
        let Some(slot) = ring.try_wait().map_err(|fault| at.fault(WaitingFor::GatherSlot, fault))? else {
            self.progress.lacks_data = true;
            return Ok(false);
        };
        at.check(self.job.word, &slot)?;
        self.job.output.with(piece.0, piece.1, |output| output.copy_from_slice(&slot[..piece.1]));
        slot.release();
        self.progress.gathered[place] += 1;
        if self.progress.gathered[place] == self.progress.rounds {
            ring.flush();
        }
        Ok(true)
    }

    /// Sums this rank's piece of a round, once every peer has sent its part and can take the sum.
    fn reduce(&mut self) -> Result<bool, Error> {
        let round = self.progress.reduced;
        if round == self.progress.rounds {
            return Ok(false);
        }
        let (rank, lane) = (self.rank, self.progress.lane);
        let (start, bytes) = self.piece(round, rank);
        let Job { word, dtype, op, ref input, ref output, .. } = *self.job;

        for (place, ring) in self.ends.gather_to.iter_mut().enumerate() {
            let at = At { rank, place, lane };
            if ring.credit(1).map_err(|fault| at.fault(WaitingFor::GatherCredit, fault))? == 0 {
                return Ok(false);
            }
        }
        let mut parts = Vec::with_capacity(RANKS_MAX);
        for (place, ring) in self.ends.scatter_from.iter_mut().enumerate() {
            let at = At { rank, place, lane };
            match ring.try_wait().map_err(|fault| at.fault(WaitingFor::ScatterSlot, fault))? {
                Some(slot) => {
                    at.check(word, &slot)?;
                    parts.push(slot);
                }
                None => {
                    self.progress.lacks_data = true;
                    return Ok(false);
                }
            }
        }
        let mut sums = Vec::with_capacity(RANKS_MAX);
        for (place, ring) in self.ends.gather_to.iter_mut().enumerate() {
            let at = At { rank, place, lane };
            let slot = ring.try_claim().map_err(|fault| at.fault(WaitingFor::GatherCredit, fault))?;
            sums.push(slot.expect("there was credit, and only this end spends it"));
        }
        let (sum, copies) = sums.split_first_mut().expect("there is at least one peer");
        sign(sum, word);
        input.with(start, bytes, |own| {
            let mut sources: Vec<&[u8]> = parts.iter().map(|part| &part[..bytes]).collect();
            sources.insert(rank, own);
            reduce(dtype, op, &sources, &mut sum[..bytes]);
        });
        for copy in copies {
            copy[..bytes].copy_from_slice(&sum[..bytes]);
            sign(copy, word);
        }
        output.with(start, bytes, |output| output.copy_from_slice(&sum[..bytes]));
        sums.into_iter().for_each(|slot| slot.publish());
        parts.into_iter().for_each(|slot| slot.release());
        self.progress.reduced += 1;
        if self.progress.reduced == self.progress.rounds {
            self.ends.scatter_from.iter_mut().for_each(Consumer::flush);
        }
        Ok(true)
    }

    /// Where the piece of `owner` starts in the payload, and its bytes.
    fn piece(&self, round: u64, owner: usize) -> (usize, usize) {
        let piece = self.job.geometry.piece(self.progress.lane as u32, round, owner as u32);
        (piece.start as usize, piece.bytes as usize)
    }
}

/// The peer at `place`, which counts the peers of `rank` in rank order.
fn peer_at(rank: usize, place: usize) -> usize {
    if place < rank { place } else { place + 1 }
}

/// Writes into the slot's trailer which call it belongs to.
fn sign(slot: &mut [u8], word: CallWord) {
    let at = slot.len() - TRAILER_BYTES;
    slot[at..at + size_of::<u64>()].copy_from_slice(&word.bits().to_ne_bytes());
}

/// Which ring an error comes from.
#[derive(Clone, Copy)]
struct At {
    rank: usize,
    place: usize,
    lane: usize,
}

impl At {
    fn fault(self, waiting_for: WaitingFor, fault: RingFault) -> Error {
        let (rank, peer, lane) = (self.rank, peer_at(self.rank, self.place), self.lane);
        match fault {
            RingFault::Beyond { allowed, seen, .. } => {
                Error::Protocol { rank, peer, lane, waiting_for, needed: allowed, seen }
            }
            RingFault::Stalled { .. } => unreachable!("nothing in here waits on a single ring"),
        }
    }

    /// Refuses a slot of another call than `call`.
    fn check(self, call: CallWord, slot: &[u8]) -> Result<(), Error> {
        let at = slot.len() - TRAILER_BYTES;
        let bits = slot[at..at + size_of::<u64>()].try_into().expect("eight bytes");
        let peer_call = CallWord::from_bits(u64::from_ne_bytes(bits));
        if peer_call == call {
            return Ok(());
        }
        let (rank, peer, lane) = (self.rank, peer_at(self.rank, self.place), self.lane);
        Err(Error::Disagreement { rank, peer, lane, call, peer_call })
    }
}
