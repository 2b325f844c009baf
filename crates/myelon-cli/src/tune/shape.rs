//! What is tried at a size: the automatic plan, and a small grid around the plan of each algorithm.

use std::fmt;

use myelon_lanes::{Algorithm, Forced, Plan, Pool, Request, Row, Table, Tuning, format_bytes};

/// The numbers of a row, for whatever sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub algorithm: Algorithm,
    pub lanes: u32,
    /// 0 where the algorithm is not the ring.
    pub piece_bytes: u32,
    pub blocks: u32,
    pub threads: u32,
}

/// A row has as many threads at least; host ranks have one, whatever it says.
const THREADS_LEAST: u32 = 64;

impl Shape {
    /// That of a plan.
    pub fn of(plan: &Plan) -> Self {
        let Plan { algorithm, lanes, blocks, threads, piece_bytes, .. } = *plan;
        let piece_bytes = if algorithm == Algorithm::Ring { piece_bytes } else { 0 };
        Self { algorithm, lanes, piece_bytes, blocks, threads: threads.max(THREADS_LEAST) }
    }

    /// The row with these numbers, which is checked when it comes into a table.
    pub fn row(&self, ranks: u32, windows: bool, bytes_min: u64, bytes_max: u64) -> Row {
        let Self { algorithm, lanes, piece_bytes, blocks, threads } = *self;
        Row { ranks, windows, bytes_min, bytes_max, algorithm, lanes, piece_bytes, blocks, threads }
    }

    /// `plain` with this for all that the algorithm carries; none where a row cannot say it.
    pub fn tuning(&self, plain: &Tuning, ranks: u32, bytes: u64) -> Option<Tuning> {
        let table = Table::new(vec![self.row(ranks, plain.has_windows(), bytes, bytes)]);
        Some(plain.clone().table(table.ok()?))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, lanes, piece_bytes, blocks, threads } = self;
        write!(f, "{algorithm} lanes={lanes} blocks={blocks} threads={threads}")?;
        if *algorithm == Algorithm::Ring {
            write!(f, " slot={}", format_bytes((*piece_bytes).into()))?;
        }
        Ok(())
    }
}

/// What to try for `request` under `plain`, whose rings all of it fits: `first` before all else, each once.
///
/// A row that would need more room, or that the tuning would change, is left out.
pub fn shapes(plain: &Tuning, request: &Request, first: &[Shape]) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    let Ok(pool) = plain.pool(request.ranks) else { return shapes };
    let around = Algorithm::ALL.into_iter().flat_map(|algorithm| {
        let forced = Forced { algorithm: Some(algorithm), ..Forced::default() };
        // An algorithm that cannot run here, or not with so many bytes, has no plan.
        let plan = plain.clone().forced(forced).plan(request).ok().map(|choice| choice.plan);
        plan.map_or(Vec::new(), |plan| grid(&plan, &pool, plain.machine().host))
    });
    for shape in first.iter().copied().chain(around) {
        let runs_as_it_is = |tuning: Tuning| {
            let fits = tuning.pool(request.ranks).is_ok_and(|needed| pool.holds(&needed));
            fits && tuning.plan(request).is_ok_and(|choice| Shape::of(&choice.plan) == shape)
        };
        let tuning = shape.tuning(plain, request.ranks, request.bytes);
        if !shapes.contains(&shape) && tuning.is_some_and(runs_as_it_is) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Numbers around those of `plan`.
fn grid(plan: &Plan, pool: &Pool, is_host: bool) -> Vec<Shape> {
    let Shape { algorithm, lanes, threads, .. } = Shape::of(plan);
    let around = [lanes.div_ceil(4), lanes.div_ceil(2), lanes, 2 * lanes];
    let mut shapes = Vec::new();
    if algorithm != Algorithm::Ring {
        for lanes in around {
            for threads in [threads, 96, 160, 288, 512] {
                shapes.push(Shape { algorithm, lanes, piece_bytes: 0, blocks: lanes, threads });
            }
        }
        return shapes;
    }
    // A host rank is one thread: blocks are nothing to it, and small slots stay in its cache.
    let shares: &[u32] = if is_host { &[1, 2, 4, 8, 16] } else { &[1, 2] };
    let lanes_per_worker: &[u32] = if is_host { &[1] } else { &[1, 2] };
    for lanes in around.map(|lanes| lanes.min(pool.lanes)) {
        for share in shares {
            for each in lanes_per_worker {
                let piece_bytes = (pool.piece_bytes / share).next_multiple_of(16).min(pool.piece_bytes);
                shapes.push(Shape {
                    algorithm,
                    lanes,
                    piece_bytes,
                    blocks: 3 * lanes.div_ceil(*each),
                    threads,
                });
            }
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use myelon_lanes::Machine;

    use super::*;

    fn all(machine: Machine, ranks: u32, windows: bool, bytes: u64) -> Vec<Shape> {
        let plain = Tuning::new(machine).windows(windows);
        let request = Request { ranks, bytes, element_bytes: 2, floats: true };
        let automatic = Shape::of(&plain.plan(&request).unwrap().plan);
        let shapes = shapes(&plain, &request, &[automatic]);
        assert_eq!(shapes[0], automatic, "{ranks} ranks, {bytes} bytes");
        // One table may have any of them as rows: no row takes room from another.
        for shape in &shapes {
            let tuning = shape.tuning(&plain, ranks, bytes).unwrap();
            assert_eq!(tuning.pool(ranks), plain.pool(ranks), "{shape}");
        }
        shapes
    }

    /// Catches a grid without an algorithm that can run, or one that is too large to be measured in a minute.
    #[test]
    fn every_algorithm_that_can_run_is_tried_in_the_rings_that_are_there() {
        for ranks in 2..=8 {
            for log2 in 3..=30 {
                for windows in [false, true] {
                    let bytes = 1 << log2;
                    let shapes = all(Machine::h200(), ranks, windows, bytes);
                    let inbox = Tuning::new(Machine::h200()).pool(ranks).unwrap().inbox;
                    for algorithm in Algorithm::ALL {
                        let can_run = bytes <= algorithm.bytes_max(ranks, inbox)
                            && (windows || algorithm != Algorithm::Direct)
                            && algorithm != Algorithm::Neighbour;
                        let tried = shapes.iter().filter(|shape| shape.algorithm == algorithm).count();
                        assert_eq!(tried > 0, can_run, "{algorithm}, {ranks} ranks, {bytes} bytes");
                        assert!(tried <= 21, "{tried} of {algorithm}");
                    }
                }
            }
        }
    }

    #[test]
    fn host_ranks_try_lanes_and_slots_of_the_ring() {
        let shapes = all(Machine::host(2), 3, false, 1 << 20);
        assert!(shapes.len() >= 8 && shapes.iter().all(|shape| shape.algorithm == Algorithm::Ring));
        let words: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        assert!(words.contains(&"ring lanes=1 blocks=3 threads=64 slot=4KiB".to_string()), "{words:?}");
    }
}
