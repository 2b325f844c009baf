//! What a tuning changes, and what it does not.

use std::collections::BTreeSet;

use myelon_collectives::{Backend, DataType};
use myelon_lanes::{Algorithm, Measured, Request, Row, Table, TableFile, Tuning};

use super::Make;
use super::harness::{Case, check_all, enqueue_all, seats};
use super::joined::open;
use crate::data::{Fill, Random};

/// A row for all that its algorithm carries.
fn row(algorithm: Algorithm, ranks: u32, windows: bool, bytes_max: u64, lanes: u32) -> Row {
    let is_ring = algorithm == Algorithm::Ring;
    let (piece_bytes, blocks) = if is_ring { (1040, 3 * lanes) } else { (0, lanes) };
    Row { ranks, windows, bytes_min: 0, bytes_max, algorithm, lanes, piece_bytes, blocks, threads: 160 }
}

/// `plain` with that row, if it is planned so in the rings that are there; and the most bytes of the row.
pub(super) fn tuned(plain: &Tuning, algorithm: Algorithm, ranks: u32, lanes: u32) -> Option<(u64, Tuning)> {
    let pool = plain.pool(ranks).unwrap();
    let most = algorithm.bytes_max(ranks, pool.inbox).min(1 << 20);
    let table = Table::new(vec![row(algorithm, ranks, plain.has_windows(), most, lanes)]).ok()?;
    let tuning = plain.clone().table(table);
    let plan = tuning.plan(&Request { ranks, bytes: most, element_bytes: 1, floats: true }).ok()?.plan;
    let runs = pool.holds(&tuning.pool(ranks).ok()?) && (plan.algorithm, plan.lanes) == (algorithm, lanes);
    runs.then_some((most, tuning))
}

/// Calls under one table after the other, of every algorithm that the backend has: each is planned by its row, the same
/// sizes again under another, and all give the right bits.
pub fn tunings_alternate(make: &impl Make, budget: usize) {
    let mut random = Random::new(17);
    for ranks in [2, 3] {
        let mut group = seats(make(ranks).windows(true));
        let plain = group[0].rank.tuning().clone();
        let tunings: Vec<(u64, Tuning)> = Algorithm::ALL
            .into_iter()
            .flat_map(|algorithm| [1, 2, 7].map(|lanes| tuned(&plain, algorithm, ranks as u32, lanes)))
            .flatten()
            .collect();
        let mut launched = BTreeSet::new();
        for call in 0..budget.clamp(20, 200) {
            let (most, tuning) = &tunings[call % tunings.len()];
            for seat in &mut group {
                seat.rank.retune(tuning.clone()).unwrap();
            }
            // Few sizes, so that most were called before under another plan.
            let count = random.pick(&[0usize, 1, 100, 1001, 4096]).min(*most as usize / 8);
            let case = Case::random(&mut random, count, Fill::Ordinary);
            check_all(enqueue_all(&mut group, &case));
            let plan = group[0].rank.last_launch().unwrap().plan;
            let row = tuning.rows()[0];
            if row.algorithm.needs_floats() && !case.dtype.is_float() {
                assert!(!plan.algorithm.needs_floats(), "{case:?}");
            } else {
                assert_eq!(
                    (plan.algorithm, plan.lanes, plan.blocks),
                    (row.algorithm, row.lanes, row.blocks),
                    "{case:?}"
                );
            }
            launched.insert(plan.algorithm.name());
        }
        let on_gpus = group[0].rank.backend() == Backend::Cuda;
        // No table has rows of the one that sums in an order of its own.
        assert_eq!(launched.len(), if on_gpus { Algorithm::ALL.len() - 1 } else { 1 }, "{launched:?}");
    }
}

/// A file that was measured here is followed, by all ranks.
pub fn tuning_files_are_followed(make: &impl Make, _budget: usize) {
    let path = std::env::temp_dir().join(format!("myelon-conformance-{}", std::process::id()));
    let mut group = seats(make(2));
    let origin = group[0].rank.origin().clone();
    let row = Row { bytes_min: 100, ..row(Algorithm::Ring, 2, false, 9999, 2) };
    let measured = vec![Measured { ranks: 2, windows: false, bytes_min: 8, bytes_max: 9999 }];
    let table = Table::new(vec![row]).unwrap();
    let file = TableFile { origin, note: String::new(), measured, table };
    std::fs::write(&path, file.to_text()).unwrap();
    let opened = open(make(2).tuning_file(path.as_path()));
    std::fs::remove_file(&path).unwrap();
    let ranks = opened.unwrap();
    for rank in &ranks {
        assert!(rank.table_reason().contains("1 row"), "{}", rank.table_reason());
        let plan = |count| rank.explain(DataType::F32, count).unwrap().plan;
        assert_eq!((plan(25).piece_bytes, plan(2499).piece_bytes), (1040, 1040));
        assert_eq!(
            [24, 2500].map(plan),
            [24, 2500].map(|count| group[0].rank.explain(DataType::F32, count).unwrap().plan)
        );
    }
    let mut random = Random::new(5);
    // Rank 1 alone follows it: they find out.
    group[1].rank.retune(ranks[1].tuning().clone()).unwrap();
    let case = Case { dtype: DataType::F32, ..Case::random(&mut random, 1000, Fill::Ordinary) };
    let case = Case { op: myelon_collectives::ReduceOp::Sum, ..case };
    let pending = enqueue_all(&mut group, &case);
    let errors: Vec<_> = group.iter().filter_map(|seat| seat.rank.stream().synchronize().err()).collect();
    let disagreement = myelon_collectives::ErrorKind::Disagreement;
    assert!(errors.iter().any(|error| error.first().kind() == disagreement), "{errors:?}");
    drop(pending);
}
