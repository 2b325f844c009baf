//! The events of one call: the steps of kernels/src/all_reduce_ring.cu in the order of their times.
//!
//! Times are whole picoseconds, and events of the same time keep the order in which they were foreseen. So
//! the same call has the same events, always.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use myelon_lanes::{Lanes, Plan, PlanError, VECTOR_BYTES};

use super::link::LinkModel;
use super::prediction::{Bound, Prediction, Shares};

/// Picoseconds.
type Ps = u64;

/// Threads of a block that move nothing: the signal warp.
const SIGNAL_THREADS: u32 = 32;
/// Vectors that a mover copies in one pass: `depth_whole` of the kernel.
const COPY_VECTORS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Scatter,
    Reduce,
    Gather,
}
use Role::{Gather, Reduce, Scatter};
const ROLES: [Role; 3] = [Scatter, Reduce, Gather];

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It starts.
    Enter,
    /// Its signal warp has seen that a round can begin, and lets the movers begin.
    Begin,
    /// The movers begin a round.
    Move,
    /// The signal warp has looked at the next round.
    Looked,
    /// The movers have ended the round, and the signal warp has looked again where it had to.
    Tell,
    /// The fence is over, and the flags leave.
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Block(usize, Step),
    /// What a block told its peers is in their memory: a slot of its outbound rings, and credit for so many
    /// of its inbound ones.
    Flag {
        role: Role,
        rank: usize,
        lane: u32,
        credit: u64,
    },
}

/// What the movers of a block have done so far.
#[derive(Clone, Copy, Default)]
struct Spent {
    moving: Ps,
    link: Ps,
    slot: Ps,
    credit: Ps,
    signal: Ps,
}

struct Block {
    rank: usize,
    role: Role,
    lane: u32,
    /// Rounds of this lane; told, let begin, and moved so far.
    rounds: u64,
    told: u64,
    begun: u64,
    moved: u64,
    /// By turns for even and odd rounds: when the movers end, and when their bytes have landed.
    ends: [Ps; 2],
    lands: [Ps; 2],
    /// Consumed and not yet given back.
    credit: u64,
    /// Since when the signal warp waits for peers, and what of the movers' idle time it has waited.
    waits_since: Option<Ps>,
    waited: Ps,
    /// What the link has added to the last fence.
    held_up: Ps,
    /// When the movers have ended what they were let begin.
    idle_since: Ps,
    spent: Spent,
    /// When the block was through with all of its lanes.
    finished: Ps,
}

/// [`LinkModel`] in picoseconds.
struct Costs {
    hop: Ps,
    message: Ps,
    fence: Ps,
    look: Ps,
    round: Ps,
    pass: Ps,
    link_per_byte: f64,
    copy_per_byte: f64,
    sum_per_byte: f64,
}

pub(super) struct Simulation {
    costs: Costs,
    plan: Plan,
    geometry: Lanes,
    /// By rank, role and worker.
    blocks: Vec<Block>,
    /// By movement, lane and rank, as peers see it: slots that a rank has published to each of them, and
    /// slots that it has given back to each.
    published: [Vec<u64>; 2],
    returned: [Vec<u64>; 2],
    /// By rank: until when its link is taken by what was sent so far, outwards and inwards.
    leaving: Vec<Ps>,
    entering: Vec<Ps>,
    sent_bytes: Vec<u64>,
    events: BinaryHeap<Reverse<(Ps, u64, Event)>>,
    foreseen: u64,
}

fn ps(us: f64) -> Ps {
    (us * 1e6).round() as Ps
}

fn us(time: Ps) -> f64 {
    time as f64 / 1e6
}

impl Simulation {
    pub(super) fn new(
        model: &LinkModel,
        plan: &Plan,
        bytes: u64,
        late_us: &[f64],
    ) -> Result<Self, PlanError> {
        plan.check()?;
        let geometry = plan.geometry(bytes)?;
        let costs = Costs {
            hop: ps(model.hop_us),
            message: ps(model.message_us),
            fence: ps(model.fence_us),
            look: ps(model.look_us),
            round: ps(model.round_us),
            pass: ps(model.pass_us),
            link_per_byte: 1e3 / model.link_gbps,
            copy_per_byte: 1e3 / model.copy_gbps,
            sum_per_byte: 1e3 / model.sum_gbps,
        };
        let ranks = plan.ranks as usize;
        let words = || vec![0; ranks * plan.lanes as usize];
        let mut simulation = Self {
            costs,
            plan: *plan,
            geometry,
            blocks: Vec::new(),
            published: [words(), words()],
            returned: [words(), words()],
            leaving: vec![0; ranks],
            entering: vec![0; ranks],
            sent_bytes: vec![0; ranks],
            events: BinaryHeap::new(),
            foreseen: 0,
        };
        for rank in 0..ranks {
            let start = ps(late_us.get(rank).copied().unwrap_or(0.0));
            for role in ROLES {
                for worker in 0..plan.workers() {
                    simulation.blocks.push(Block::new(rank, role, worker, start));
                    simulation.foresee(start, Event::Block(simulation.blocks.len() - 1, Step::Enter));
                }
            }
        }
        Ok(simulation)
    }

    pub(super) fn run(mut self, launch_us: f64) -> Prediction {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Block(block, Step::Enter) => self.enter_lane(block, now),
                Event::Block(block, Step::Begin) => self.begin(block, now),
                Event::Block(block, Step::Move) => self.start_moving(block, now),
                Event::Block(block, Step::Looked) => self.looked(block, now),
                Event::Block(block, Step::Tell) => self.tell(block, now),
                Event::Block(block, Step::Told) => self.told(block, now),
                Event::Flag { role, rank, lane, credit } => self.flag(role, rank, lane, credit, now),
            }
        }
        self.prediction(launch_us)
    }

    fn foresee(&mut self, time: Ps, event: Event) {
        self.foreseen += 1;
        self.events.push(Reverse((time, self.foreseen, event)));
    }

    /// Goes on to the next lane that has rounds, from the one that the block stands at.
    fn enter_lane(&mut self, at: usize, now: Ps) {
        let block = &mut self.blocks[at];
        while block.lane < self.plan.lanes {
            block.rounds = self.geometry.rounds(block.lane);
            (block.told, block.begun, block.moved) = (0, 0, 0);
            if block.rounds > 0 {
                return self.wait_for_round(at, now);
            }
            block.lane += self.plan.workers();
        }
        block.finished = now;
    }

    /// Whether every edge of the block shows what `round` needs.
    fn is_ready(&self, at: usize, round: u64) -> bool {
        let block = &self.blocks[at];
        let ranks = self.plan.ranks as usize;
        let all = |words: &[Vec<u64>; 2], movement: usize, least: u64| {
            let words = &words[movement][block.lane as usize * ranks..][..ranks];
            words.iter().enumerate().all(|(peer, &seen)| peer == block.rank || seen >= least)
        };
        let (slots, credit) = (round + 1, (round + 1).saturating_sub(self.plan.slots.into()));
        round < block.rounds
            && match block.role {
                Scatter => all(&self.returned, 0, credit),
                Reduce => all(&self.published, 0, slots) && all(&self.returned, 1, credit),
                Gather => all(&self.published, 1, slots),
            }
    }

    fn wait_for_round(&mut self, at: usize, now: Ps) {
        if self.is_ready(at, self.blocks[at].told) {
            self.foresee(now + self.costs.look, Event::Block(at, Step::Begin));
        } else {
            self.blocks[at].waits_since = Some(now);
        }
    }

    fn begin(&mut self, at: usize, now: Ps) {
        self.let_begin(at, now);
        self.foresee(now + self.costs.look, Event::Block(at, Step::Looked));
    }

    /// Lets the movers begin a round as soon as they have ended the one before.
    fn let_begin(&mut self, at: usize, now: Ps) {
        let block = &mut self.blocks[at];
        block.begun += 1;
        let start = now.max(block.idle_since);
        self.foresee(start, Event::Block(at, Step::Move));
    }

    fn looked(&mut self, at: usize, now: Ps) {
        let round = self.blocks[at].told;
        let next_is_ready = self.is_ready(at, round + 1);
        if next_is_ready {
            self.let_begin(at, now);
        }
        let block = &self.blocks[at];
        let looks_again = !next_is_ready && round + 1 < block.rounds;
        let moved = now.max(block.ends[turn(round)]);
        let told = moved + if looks_again { self.costs.look } else { 0 };
        self.foresee(told, Event::Block(at, Step::Tell));
    }

    fn tell(&mut self, at: usize, now: Ps) {
        let round = self.blocks[at].told;
        if self.blocks[at].begun == round + 1 && self.is_ready(at, round + 1) {
            self.let_begin(at, now);
        }
        let block = &mut self.blocks[at];
        block.credit += u64::from(block.role != Scatter);
        let Costs { hop, fence, .. } = self.costs;
        // The trailer is the last that the fence waits for: it leaves behind all that the rank has sent.
        let trailer = now.max(self.leaving[block.rank]) + hop;
        let told = match block.role {
            Gather if !gives_back(&self.plan, block) => now,
            Gather => now + fence,
            Scatter | Reduce => trailer.max(block.lands[turn(round)]) + hop + fence,
        };
        block.held_up = (told - now).saturating_sub(2 * hop + fence);
        self.foresee(told, Event::Block(at, Step::Told));
    }

    fn told(&mut self, at: usize, now: Ps) {
        let block = &mut self.blocks[at];
        let (rank, role, lane) = (block.rank, block.role, block.lane);
        let credit = if gives_back(&self.plan, block) { std::mem::take(&mut block.credit) } else { 0 };
        block.told += 1;
        let (through, next_has_begun) = (block.told == block.rounds, block.begun > block.told);
        if through {
            block.lane += self.plan.workers();
        }
        if role != Gather || credit > 0 {
            let seen = now.max(self.leaving[rank]) + self.costs.hop;
            self.foresee(seen, Event::Flag { role, rank, lane, credit });
        }
        match (through, next_has_begun) {
            (true, _) => self.enter_lane(at, now),
            (false, true) => self.foresee(now + self.costs.look, Event::Block(at, Step::Looked)),
            (false, false) => self.wait_for_round(at, now),
        }
    }

    fn flag(&mut self, role: Role, rank: usize, lane: u32, credit: u64, now: Ps) {
        let word = lane as usize * self.plan.ranks as usize + rank;
        if role != Gather {
            self.published[role as usize][word] += 1;
            self.wake(ROLES[role as usize + 1], rank, lane, now, |spent| &mut spent.slot);
        }
        if credit > 0 {
            self.returned[role as usize - 1][word] += credit;
            self.wake(ROLES[role as usize - 1], rank, lane, now, |spent| &mut spent.credit);
        }
    }

    /// Ends the waits of the peers' blocks of one role that now see what they need.
    fn wake(&mut self, role: Role, by: usize, lane: u32, now: Ps, kind: fn(&mut Spent) -> &mut Ps) {
        let (ranks, workers) = (self.plan.ranks as usize, self.plan.workers() as usize);
        for rank in (1..ranks).map(|i| (by + i) % ranks) {
            let at = (rank * ROLES.len() + role as usize) * workers + lane as usize % workers;
            let block = &self.blocks[at];
            let Some(since) = block.waits_since.filter(|_| block.lane == lane) else { continue };
            if self.is_ready(at, block.told) {
                let block = &mut self.blocks[at];
                block.waits_since = None;
                block.waited = now - since;
                *kind(&mut block.spent) += now - since;
                self.foresee(now + self.costs.look, Event::Block(at, Step::Begin));
            }
        }
    }

    /// The movers begin a round; when they end it, and when its bytes have landed, follows at once.
    fn start_moving(&mut self, at: usize, now: Ps) {
        let Block { rank, role, lane, rounds, moved: round, .. } = self.blocks[at];
        let ranks = self.plan.ranks as usize;
        let geometry = self.geometry;
        let piece = |owner: usize| match round + 1 < rounds {
            true => u64::from(geometry.piece_bytes()),
            false => geometry.piece(lane, round, owner as u32).bytes,
        };
        let peers = (1..ranks).map(|i| (rank + i) % ranks);
        let own = piece(rank);
        let others: u64 = peers.clone().map(piece).sum();
        // The pieces for the peers leave one behind the other where they are copied, side by side where one
        // sum goes to all.
        let (first, per_byte) = match role {
            Scatter | Gather => (self.passes(others, COPY_VECTORS), self.costs.copy_per_byte),
            Reduce => {
                let bytes = own * ranks as u64;
                let sum = (bytes as f64 * self.costs.sum_per_byte) as Ps;
                (self.passes(own, sum_vectors(ranks)) + sum, 0.0)
            }
        };
        let mut pace = now + self.costs.round + first;
        let (mut taken, mut lands) = (pace, pace);
        for peer in peers {
            let bytes = if role == Reduce { own } else { piece(peer) };
            pace += (bytes as f64 * per_byte) as Ps;
            taken = taken.max(pace);
            if role != Gather {
                taken = taken.max(self.send(rank, peer, bytes, now));
                lands = taken + self.costs.hop;
            }
        }
        let block = &mut self.blocks[at];
        let idle = now - block.idle_since - std::mem::take(&mut block.waited);
        let held_up = std::mem::take(&mut block.held_up).min(idle);
        block.spent.signal += idle - held_up;
        block.spent.moving += pace - now;
        block.spent.link += taken - pace + held_up;
        block.idle_since = taken;
        block.ends[turn(round)] = taken;
        block.lands[turn(round)] = lands;
        block.moved += 1;
    }

    /// What the passes over a piece cost, with `vectors` vectors a mover in each of them.
    fn passes(&self, bytes: u64, vectors: u64) -> Ps {
        let movers = self.plan.threads.saturating_sub(SIGNAL_THREADS).max(1);
        bytes.div_ceil(VECTOR_BYTES * vectors * u64::from(movers)) * self.costs.pass
    }

    /// Takes the links of both ends, each in the order of the calls; when both have carried the slot.
    fn send(&mut self, rank: usize, peer: usize, bytes: u64, now: Ps) -> Ps {
        let wire = (bytes as f64 * self.costs.link_per_byte) as Ps + self.costs.message;
        let start = now.max(self.leaving[rank]);
        self.leaving[rank] = start + wire;
        self.entering[peer] = self.entering[peer].max(start) + wire;
        self.sent_bytes[rank] += bytes;
        self.entering[peer]
    }

    fn prediction(self, launch_us: f64) -> Prediction {
        debug_assert!(
            self.blocks.iter().all(|block| block.lane >= self.plan.lanes),
            "a block waits for ever"
        );
        let end = self.blocks.iter().map(|block| block.finished).max().unwrap_or(0);
        let time_us = us(end) + launch_us;
        let (ranks, bytes) = (f64::from(self.plan.ranks), self.geometry.bytes() as f64);
        let finished = |rank: usize| {
            let blocks = self.blocks.iter().filter(|block| block.rank == rank);
            us(blocks.map(|block| block.finished).max().unwrap_or(0)) + launch_us
        };
        let roles = ROLES.map(|role| shares(self.blocks.iter().filter(|block| block.role == role), end));
        let sent_most = self.sent_bytes.iter().copied().max().unwrap_or(0);
        let link_busy = sent_most as f64 * self.costs.link_per_byte / end.max(1) as f64;
        Prediction {
            time_us,
            busbw_gbps: 2.0 * (ranks - 1.0) / ranks * bytes / (time_us * 1e3),
            finished_us: (0..self.plan.ranks as usize).map(finished).collect(),
            link_busy,
            sent_bytes: self.sent_bytes,
            roles,
            bound: Bound::of(link_busy, &roles),
        }
    }
}

impl Block {
    fn new(rank: usize, role: Role, lane: u32, start: Ps) -> Self {
        Self {
            rank,
            role,
            lane,
            rounds: 0,
            told: 0,
            begun: 0,
            moved: 0,
            ends: [0; 2],
            lands: [0; 2],
            credit: 0,
            waits_since: None,
            waited: 0,
            held_up: 0,
            idle_since: start,
            spent: Spent::default(),
            finished: start,
        }
    }
}

/// Whether the round that the block tells of ends a batch of credit, or the lane.
fn gives_back(plan: &Plan, block: &Block) -> bool {
    let rounds = block.told + 1;
    block.role != Scatter && (rounds.is_multiple_of(plan.credit_batch.into()) || rounds == block.rounds)
}

/// Vectors that a mover sums in one pass, in the kernel for so many ranks: of its eight registers' worth.
fn sum_vectors(ranks: usize) -> u64 {
    match ranks {
        0..=2 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

fn shares<'a>(blocks: impl Iterator<Item = &'a Block>, end: Ps) -> Shares {
    let (mut sum, mut total) = (Spent::default(), 0);
    for Block { spent, .. } in blocks {
        sum.moving += spent.moving;
        sum.link += spent.link;
        sum.slot += spent.slot;
        sum.credit += spent.credit;
        sum.signal += spent.signal;
        total += end;
    }
    let share = |part: Ps| part as f64 / total.max(1) as f64;
    let [moving, link, slot, credit, signal] =
        [sum.moving, sum.link, sum.slot, sum.credit, sum.signal].map(share);
    Shares { moving, link, slot, credit, signal, rest: 1.0 - moving - link - slot - credit - signal }
}

fn turn(round: u64) -> usize {
    (round % 2) as usize
}
