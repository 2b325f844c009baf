//! One call, with everything around it checked.

use myelon_collectives::{Builder, Communicator, DataType, ReduceOp, Region, Stream, reference};

use myelon_lanes::Lanes;

use super::joined::open;
use crate::data::{Fill, Random, elements};

/// Bytes on either side of an output that must stay as they are.
const GUARD_BYTES: usize = 64;

/// One call of all ranks.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub dtype: DataType,
    pub op: ReduceOp,
    pub count: usize,
    pub in_place: bool,
    pub fill: Fill,
    /// Data and offsets follow from it.
    pub seed: u64,
}

impl Case {
    /// A call of random type, operation, place and data.
    pub fn random(random: &mut Random, count: usize, fill: Fill) -> Self {
        let dtype = random.pick(&DataType::ALL);
        let ops: Vec<_> = ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)).collect();
        let (op, in_place, seed) = (random.pick(&ops), random.bits() & 1 == 0, random.bits());
        Self { dtype, op, count, in_place, fill, seed }
    }

    /// What each rank puts in, the same whoever asks.
    fn input(&self, rank: usize) -> Vec<u8> {
        let mut random = Random::new(self.seed ^ (rank as u64 + 1) << 32);
        elements(&mut random, self.dtype, self.fill, self.count)
    }

    fn expected(&self, ranks: usize) -> Vec<u8> {
        self.expected_by(ranks, None)
    }

    /// What comes out, by neighbours where there are pieces.
    fn expected_by(&self, ranks: usize, pieces: Option<&Lanes>) -> Vec<u8> {
        let inputs: Vec<_> = (0..ranks).map(|rank| self.input(rank)).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[..]).collect();
        match pieces {
            Some(pieces) => reference::by_neighbours(self.dtype, self.op, &inputs, pieces, 0),
            None => reference::all_reduce(self.dtype, self.op, &inputs),
        }
    }
}

/// A rank, and a stream on which memory is written without waiting for calls in flight.
pub(super) struct Seat {
    pub rank: Communicator,
    side: Stream,
}

/// The ranks that `builder` makes.
pub(super) fn seats(builder: Builder) -> Vec<Seat> {
    let seat = |rank: Communicator| Seat { side: rank.new_stream().unwrap(), rank };
    open(builder).unwrap().into_iter().map(seat).collect()
}

/// A call of one rank that has been enqueued.
pub(super) struct Pending {
    case: Case,
    rank: usize,
    ranks: usize,
    stream: Stream,
    input: Region,
    /// The output with its guards.
    around: Region,
    guards: Vec<u8>,
}

/// Enqueues `case` for one rank on its own stream, in memory of its own, at odd places.
///
/// Input and output start at different elements behind a 16-byte boundary, others on every rank.
pub(super) fn enqueue(seat: &mut Seat, case: &Case) -> Pending {
    let Seat { rank, side } = seat;
    let stream = rank.stream().clone();
    let (place, ranks) = (rank.rank(), rank.ranks());
    let mut random = Random::new(case.seed ^ place as u64);
    let element = case.dtype.bytes();
    let bytes = case.count * element;
    let mut odd_place = || random.below(16 / element) * element;
    let (input_at, output_at) = (odd_place(), GUARD_BYTES + odd_place());

    let around = rank.region(output_at + bytes + GUARD_BYTES).unwrap();
    let mut guards = random.bytes(around.bytes());
    let output = around.slice(output_at..output_at + bytes).unwrap();
    let input = if case.in_place {
        guards[output_at..output_at + bytes].copy_from_slice(&case.input(place));
        output.clone()
    } else {
        let input = rank.region(input_at + bytes).unwrap().slice(input_at..input_at + bytes).unwrap();
        input.write_bytes(side, &case.input(place)).unwrap();
        input
    };
    around.write_bytes(side, &guards).unwrap();
    rank.all_reduce_region(&input, &output, case.dtype, case.op, &stream).unwrap();
    guards.drain(output_at..output_at + bytes);
    Pending { case: case.clone(), rank: place, ranks, stream, input, around, guards }
}

impl Pending {
    /// Waits for the call, and compares everything that it may and may not have written.
    pub fn check(self) {
        let expected = self.case.expected(self.ranks);
        self.check_with(&expected);
    }

    fn check_with(self, expected: &[u8]) {
        let Self { case, rank, ranks, stream, input, around, guards } = self;
        let mut seen = around.read_bytes(&stream).unwrap();
        let output_at = guards.len() - GUARD_BYTES;
        let output: Vec<u8> = seen.drain(output_at..output_at + expected.len()).collect();
        let element = case.dtype.bytes();
        if let Some(at) = (0..case.count).find(|at| {
            let bytes = at * element..(at + 1) * element;
            output[bytes.clone()] != expected[bytes]
        }) {
            let bytes = at * element..(at + 1) * element;
            panic!(
                "rank {rank} of {ranks}, element {at}: needed {:02x?}, saw {:02x?} in {case:?}",
                &expected[bytes.clone()],
                &output[bytes]
            );
        }
        assert!(seen == guards, "rank {rank} of {ranks}: bytes around the output were written in {case:?}");
        if !case.in_place {
            let unchanged = input.read_bytes(&stream).unwrap() == case.input(rank);
            assert!(unchanged, "rank {rank} of {ranks}: the input was written in {case:?}");
        }
    }
}

/// Enqueues `case` on every rank, in an order of the ranks that follows from the seed.
pub(super) fn enqueue_all(seats: &mut [Seat], case: &Case) -> Vec<Pending> {
    let ranks = seats.len();
    let first = case.seed as usize % ranks;
    (0..ranks).map(|step| enqueue(&mut seats[(first + step) % ranks], case)).collect()
}

/// Checks one case on all ranks, which was called by neighbours with these pieces.
pub(super) fn check_all_by(pending: Vec<Pending>, pieces: &Lanes) {
    let expected = pending[0].case.expected_by(pending.len(), Some(pieces));
    pending.into_iter().for_each(|pending| pending.check_with(&expected));
}

/// Checks one case on all ranks.
pub(super) fn check_all(pending: Vec<Pending>) {
    let expected = pending[0].case.expected(pending.len());
    pending.into_iter().for_each(|pending| pending.check_with(&expected));
}
