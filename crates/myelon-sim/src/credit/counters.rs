//! The steps that the roles take, by counters alone, and what must hold between them.

use std::fmt;

use super::{Kind, Mutant, RANKS_MAX, ROUNDS_MAX, System, Tell};

const ROLES: [&str; 3] = ["scatter", "reduce", "gather"];
/// Movement `m` goes from role `m` of one rank to role `m + 1` of another.
const MOVEMENTS: [&str; 2] = ["scatter", "gather"];

/// One role's counters: `told`, and by how much `moved` and `begun` are ahead of it, 0 to 2; `seen` has a bit
/// for each edge whose peer was told of round `told` already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct At {
    told: usize,
    moved: usize,
    begun: usize,
    seen: u16,
}

/// [`At`] in 15 bits: 5 + 2 + 2 + 6.
type Packed = u16;
pub(super) type State = [[Packed; 3]; RANKS_MAX];

impl At {
    fn pack(self) -> Packed {
        let Self { told, moved, begun, seen } = self;
        told as u16 | ((moved - told) as u16) << 5 | ((begun - told) as u16) << 7 | seen << 9
    }

    fn of(packed: Packed) -> Self {
        let (told, part) = (usize::from(packed & 31), |shift: u32| usize::from(packed >> shift & 3));
        Self { told, moved: told + part(5), begun: told + part(7), seen: packed >> 9 }
    }
}

/// A role's rounds in the order in which it serves them: its turns. All roles have the same.
#[derive(Clone, Copy)]
struct Turn {
    lane: usize,
    /// The turn behind the last one of this lane in this call.
    lane_end: usize,
    /// The first turn of this call.
    call_begin: usize,
}

/// The ring from role `movement` of `source` to the role behind it of `destination`, and the bit that its two
/// ends have in [`At::seen`].
#[derive(Clone, Copy)]
struct Ring {
    movement: usize,
    source: usize,
    destination: usize,
    published_bit: u16,
    returned_bit: u16,
}

impl Ring {
    /// The bit of one end of an edge, and its peer.
    fn bit_of((ring, publishes): &(Self, bool)) -> (u16, usize) {
        if *publishes { (ring.published_bit, ring.destination) } else { (ring.returned_bit, ring.source) }
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { movement, source, destination, .. } = *self;
        write!(f, "{} ring from rank {source} to rank {destination}", MOVEMENTS[movement])
    }
}

#[derive(Clone, Copy)]
enum Act {
    Begins,
    Moves,
    Tells(Option<usize>),
}

/// A step that a role can take, and the state that follows.
pub(super) struct Step {
    rank: usize,
    role: usize,
    turn: usize,
    act: Act,
    pub(super) to: State,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, turn, act, .. } = self;
        write!(f, "rank {rank} {} ", ROLES[self.role])?;
        match act {
            Act::Begins => write!(f, "begins {turn}"),
            Act::Moves => write!(f, "moves {turn}"),
            Act::Tells(None) => write!(f, "tells {turn}"),
            Act::Tells(Some(peer)) => write!(f, "tells rank {peer} of {turn}"),
        }
    }
}

pub(super) struct Model<'a> {
    system: &'a System,
    mutant: Option<Mutant>,
    rings: Vec<Ring>,
    /// `[rank][role]`: its rings, and whether it is their producer.
    edges: Vec<[Vec<(Ring, bool)>; 3]>,
    turns: Vec<Turn>,
    /// `[lane][turns]`: slots of a ring of this lane that are used after so many turns, and that are returned.
    used: Vec<Vec<usize>>,
    back: Vec<Vec<usize>>,
    /// `[n]`: the sequence of use number `n` of a ring.
    sequence: Vec<u64>,
}

fn reached(seen: u64, needed: u64) -> bool {
    seen.wrapping_sub(needed) as i64 >= 0
}

impl<'a> Model<'a> {
    pub(super) fn new(system: &'a System, mutant: Option<Mutant>) -> Self {
        let System { ranks, lanes, capacity, credit_batch, ref calls, first, .. } = *system;
        assert!((2..=RANKS_MAX).contains(&ranks) && lanes > 0 && capacity.is_power_of_two());
        assert!((1..=capacity).contains(&credit_batch));
        assert!(calls.iter().sum::<u32>() * lanes as u32 <= ROUNDS_MAX);
        let mut model = Self {
            system,
            mutant,
            rings: Vec::new(),
            edges: vec![Default::default(); ranks],
            turns: Vec::new(),
            used: vec![vec![0]; lanes],
            back: vec![vec![0]; lanes],
            sequence: Vec::new(),
        };
        let place = |rank: usize, peer: usize| if peer < rank { peer } else { peer - 1 };
        let pairs = (0..ranks).flat_map(|source| (0..ranks).map(move |destination| (source, destination)));
        for (source, destination) in pairs.filter(|(source, destination)| source != destination) {
            for movement in 0..MOVEMENTS.len() {
                let published_bit = 1 << (ranks - 1 + place(source, destination));
                let returned_bit = 1 << place(destination, source);
                let ring = Ring { movement, source, destination, published_bit, returned_bit };
                model.rings.push(ring);
                model.edges[source][movement].push((ring, true));
                model.edges[destination][movement + 1].push((ring, false));
            }
        }
        let batch = if model.is(Mutant::BatchBeyondCapacity) { capacity + 1 } else { credit_batch };
        for &rounds in calls {
            let call_begin = model.turns.len();
            for lane in 0..lanes {
                let lane_end = model.turns.len() + rounds as usize;
                for round in 1..=rounds {
                    model.turns.push(Turn { lane, lane_end, call_begin });
                    let is_last = round == rounds && !model.is(Mutant::NotFlushed);
                    for (other, (used, back)) in model.used.iter_mut().zip(&mut model.back).enumerate() {
                        let now = used[used.len() - 1] + usize::from(other == lane);
                        let is_back = other == lane && (round % batch == 0 || is_last);
                        used.push(now);
                        let returned = match mutant {
                            Some(Mutant::OneMore) => now + 1,
                            Some(Mutant::CreditOfTheCall) => round as usize,
                            _ => now,
                        };
                        back.push(if is_back { returned } else { back[back.len() - 1] });
                    }
                }
            }
            let before = if model.is(Mutant::Restarted) { 0 } else { model.sequence.len() as u64 };
            model.sequence.extend((0..u64::from(rounds)).map(|n| first.wrapping_add(before + n)));
        }
        // Nobody uses it, but a mutant returns it.
        model.sequence.push(first.wrapping_add(model.sequence.len() as u64));
        model
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Slots that the producer has published.
    fn published(&self, state: &State, ring: &Ring, lane: usize) -> usize {
        let at = At::of(state[ring.source][ring.movement]);
        let told = at.told + usize::from(at.seen & ring.published_bit != 0);
        self.used[lane][if self.is(Mutant::PublishOnBegin) { at.begun } else { told }]
    }

    /// Slots that the consumer has returned.
    fn returned(&self, state: &State, ring: &Ring, lane: usize) -> usize {
        let at = At::of(state[ring.destination][ring.movement + 1]);
        let told = at.told + usize::from(at.seen & ring.returned_bit != 0);
        self.back[lane][if self.is(Mutant::CreditOnBegin) { at.begun } else { told }]
    }

    /// The sequence word of the slot that use number `n` takes.
    fn slot_word(&self, state: &State, ring: &Ring, lane: usize, n: usize) -> u64 {
        let slot = |n: usize| self.sequence[n] & u64::from(self.system.capacity - 1);
        let last = (0..self.published(state, ring, lane)).rev().find(|&m| slot(m) == slot(n));
        last.map_or(self.system.first.wrapping_sub(1), |m| self.sequence[m])
    }

    fn gating_word(&self, state: &State, ring: &Ring, lane: usize) -> u64 {
        let returned = self.returned(state, ring, lane);
        if returned == 0 { self.system.first } else { self.sequence[returned - 1].wrapping_add(1) }
    }

    /// Whether all edges of a role are ready for `turn`.
    fn is_ready(&self, state: &State, rank: usize, role: usize, turn: usize) -> bool {
        let lane = self.turns[turn].lane;
        let n = self.used[lane][turn];
        let least = match self.mutant {
            Some(Mutant::OneEarly) => 0,
            Some(Mutant::OneLate) => 2,
            _ => 1,
        };
        let edges = if self.is(Mutant::OneEdge) { 1 } else { usize::MAX };
        self.edges[rank][role].iter().take(edges).all(|(ring, publishes)| {
            let (seen, needed) = if *publishes {
                let needed = self.sequence[n].wrapping_sub(self.system.capacity.into()).wrapping_add(least);
                (self.gating_word(state, ring, lane), needed)
            } else {
                (self.slot_word(state, ring, lane, n), self.sequence[n])
            };
            match self.mutant {
                Some(Mutant::NoGate) if *publishes => true,
                Some(Mutant::Equality) if *publishes => seen == needed,
                Some(Mutant::Unsigned) => seen >= needed,
                _ => reached(seen, needed),
            }
        })
    }

    /// Whether a role may begin its next turn now, if that is ready.
    fn may_begin(&self, state: &State, rank: usize, at: &At) -> bool {
        let Some(next) = self.turns.get(at.begun) else { return false };
        // One round ahead of the one to be told, and not beyond a lane's end.
        let ahead = at.begun - at.told;
        let is_near = ahead == 0 || (ahead == 1 && at.begun < self.turns[at.told].lane_end);
        is_near && at.seen == 0 && state[rank].iter().all(|&role| At::of(role).told >= next.call_begin)
    }

    /// Every step that can be taken.
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        steps.clear();
        for (rank, role) in (0..self.system.ranks).flat_map(|rank| (0..3).map(move |role| (rank, role))) {
            let at = At::of(state[rank][role]);
            let mut push = |turn, act, at: At| {
                let mut to = *state;
                to[rank][role] = at.pack();
                steps.push(Step { rank, role, turn, act, to });
            };
            if self.may_begin(state, rank, &at) && self.is_ready(state, rank, role, at.begun) {
                push(at.begun, Act::Begins, At { begun: at.begun + 1, ..at });
            }
            if at.moved < at.begun {
                push(at.moved, Act::Moves, At { moved: at.moved + 1, ..at });
            }
            if at.told == at.moved {
                continue;
            }
            let told = At { told: at.told + 1, seen: 0, ..at };
            let back = &self.back[self.turns[at.told].lane];
            let is_due = |publishes: bool| publishes || back[at.told] != back[at.told + 1];
            let due = || self.edges[rank][role].iter().filter(|edge| is_due(edge.1)).map(Ring::bit_of);
            let all = due().fold(0, |all, (bit, _)| all | bit);
            if self.system.tell == Tell::AtOnce || all == 0 {
                push(at.told, Act::Tells(None), told);
                continue;
            }
            for (bit, peer) in due().filter(|(bit, _)| at.seen & bit == 0) {
                let seen = at.seen | bit;
                push(at.told, Act::Tells(Some(peer)), if seen == all { told } else { At { seen, ..at } });
            }
        }
    }

    /// What is wrong with a state.
    pub(super) fn fault(&self, state: &State) -> Option<(Kind, String)> {
        let capacity = self.system.capacity as usize;
        let rings = self.rings.iter().flat_map(|ring| self.used.iter().map(move |used| (ring, used)));
        rings.enumerate().find_map(|(number, (ring, used))| {
            let lane = number % self.system.lanes;
            let producer = At::of(state[ring.source][ring.movement]);
            let consumer = At::of(state[ring.destination][ring.movement + 1]);
            let (written, read) = (used[producer.moved], used[consumer.moved]);
            let (published, returned) = (self.published(state, ring, lane), self.returned(state, ring, lane));
            let wrong = |kind, text| Some((kind, format!("{ring}, lane {lane}: {text}")));
            if returned > published || published > returned + capacity {
                return wrong(Kind::Credit, format!("{published} published, {returned} returned"));
            }
            if used[producer.begun] > read + capacity {
                return wrong(Kind::Overwritten, format!("use {} begun, {read} read", used[producer.begun]));
            }
            if used[consumer.begun] > written {
                let text = format!("use {} begun, {written} written", used[consumer.begun]);
                return wrong(Kind::Unwritten, text);
            }
            let looks = |at: &At| self.turns.get(at.begun).is_some_and(|next| next.lane == lane);
            let slot = looks(&consumer).then(|| used[consumer.begun]);
            let credit = looks(&producer).then(|| used[producer.begun]);
            let seen_slot = slot.map(|n| (n, self.slot_word(state, ring, lane, n)));
            let seen_credit = credit.map(|n| (n, self.gating_word(state, ring, lane)));
            let mut seen = seen_slot.into_iter().chain(seen_credit);
            let (n, seen) = seen.find(|&(n, seen)| !reached(self.sequence[n], seen))?;
            wrong(Kind::Beyond, format!("saw {seen}, and at most {} can be", self.sequence[n]))
        })
    }

    /// A word that a step lets shrink.
    pub(super) fn shrunk(&self, from: &State, step: &Step) -> Option<(Kind, String)> {
        let lane = self.turns[step.turn].lane;
        let n = self.used[lane][step.turn];
        self.edges[step.rank][step.role].iter().find_map(|(ring, publishes)| {
            let word = |state| {
                if *publishes {
                    self.slot_word(state, ring, lane, n)
                } else {
                    self.gating_word(state, ring, lane)
                }
            };
            let (before, after) = (word(from), word(&step.to));
            (!reached(after, before)).then(|| (Kind::Backwards, format!("{ring}: {before} became {after}")))
        })
    }

    /// What is wrong with a state in which nobody can take a step.
    pub(super) fn fault_at_end(&self, state: &State) -> Option<(Kind, String)> {
        let total = self.turns.len();
        if state[..self.system.ranks].iter().flatten().any(|&role| At::of(role).told != total) {
            return Some((Kind::Stuck, "nobody can take a step".into()));
        }
        let rings = self.rings.iter().flat_map(|ring| (0..self.system.lanes).map(move |lane| (ring, lane)));
        rings.map(|(ring, lane)| (ring, lane, self.returned(state, ring, lane))).find_map(
            |(ring, lane, returned)| {
                let used = self.used[lane][total];
                (returned != used).then(|| {
                    (Kind::KeptBack, format!("{ring}, lane {lane}: {used} used, {returned} returned"))
                })
            },
        )
    }

    /// One state for all that differ by the names of ranks alone. A mutant that knows ranks by name has none.
    pub(super) fn canonical(&self, mut state: State) -> State {
        if self.system.tell == Tell::AtOnce && !self.is(Mutant::OneEdge) {
            state[..self.system.ranks].sort_unstable();
        }
        state
    }
}
