//! Property: whatever the machine, the policy, the table and the forced values, a plan is one that a
//! kernel can run, fits the pool, and honours what was forced.
//!
//! Catches: a plan larger than the rings that were allocated, a forced value changed in passing, a pool
//! that depends on the request, more blocks than can be resident. Cannot catch: a plan that is slow.

use myelon_lanes::{
    Algorithm, Choice, Forced, Machine, Neighbours, Plan, PlanError, Policy, Pool, RING_BYTES_FORCED_MAX,
    RING_BYTES_MAX, Request, Row, Table, Tuning, Why,
};
use proptest::option;
use proptest::prelude::*;

const POLICIES: [Policy; 3] = [Policy::Auto, Policy::Harness, Policy::Yali];

fn machine() -> impl Strategy<Value = Machine> {
    prop_oneof![
        Just(Machine::h200()),
        (3..=300u32).prop_map(|blocks| Machine::unknown_gpu("X1", blocks)),
        (1..=128u32).prop_map(Machine::host),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(&POLICIES)
}

/// Values around and inside of what is allowed; some out of bounds.
fn forced() -> impl Strategy<Value = Forced> {
    let slots = prop_oneof![(0..=10u32).prop_map(|log2| 1 << log2), 0..=1100u32];
    let piece_bytes = prop_oneof![(0..=4096u32).prop_map(|vectors| 16 * vectors), 0..=33_554_432u32];
    let blocks = prop_oneof![(0..=50u32).prop_map(|workers| 3 * workers), 0..=200u32];
    let threads = prop_oneof![Just(1), (0..=33u32).prop_map(|warps| 32 * warps), 0..=1100u32];
    (
        option::of(prop_oneof![0..=40u32, 0..=1100u32]),
        option::of(piece_bytes),
        option::of(slots),
        option::of(blocks),
        option::of(threads),
        (option::weighted(0.3, prop::sample::select(&Algorithm::ALL)), option::weighted(0.3, 0..=140u32)),
    )
        .prop_map(|(lanes, piece_bytes, slots, blocks, threads, (algorithm, blocks_max))| Forced {
            algorithm,
            lanes,
            piece_bytes,
            slots,
            blocks,
            blocks_max,
            threads,
        })
}

/// Up to four touching rows for each of some numbers of ranks.
fn table() -> impl Strategy<Value = Table> {
    let algorithm = prop::sample::select(&Algorithm::ALL);
    let shape = (1..=100_000u64, 1..=48u32, 1..=1024u32, 1..=48u32, (algorithm, 2..=16u32));
    let rows = (0..=100_000u64, prop::collection::vec(shape, 0..=4));
    prop::collection::vec(rows, 14).prop_map(|all| {
        let mut table = Vec::new();
        for (number, (start, shapes)) in (4..).zip(all) {
            let (ranks, windows) = (number / 2, number % 2 == 1);
            let mut bytes_min = start;
            for (bytes, lanes, vectors, workers, (algorithm, warps)) in shapes {
                let bytes_max = bytes_min + bytes - 1;
                let algorithm = match algorithm {
                    Algorithm::OneShot if bytes_max > 64 << 10 => Algorithm::Ring,
                    Algorithm::TwoShot if bytes_max > 160 << 10 => Algorithm::Ring,
                    Algorithm::OneShotLamport if bytes_max > 256 << 10 => Algorithm::Ring,
                    Algorithm::Direct if !windows => Algorithm::Ring,
                    Algorithm::Neighbour => Algorithm::Ring,
                    algorithm => algorithm,
                };
                let (piece_bytes, blocks) = match algorithm {
                    Algorithm::Ring => (16 * vectors, 3 * workers.min(lanes)),
                    _ => (0, lanes),
                };
                let threads = 32 * warps;
                table.push(Row {
                    ranks,
                    windows,
                    bytes_min,
                    bytes_max,
                    algorithm,
                    lanes,
                    piece_bytes,
                    blocks,
                    threads,
                });
                bytes_min = bytes_max + 1;
            }
        }
        Table::new(table).expect("the rows touch")
    })
}

fn request() -> impl Strategy<Value = Request> {
    let bytes = prop_oneof![
        0..=200_000u64,
        (0..=46u32, -2..=2i64)
            .prop_map(|(log2, d)| { ((1u64 << log2).saturating_add_signed(8 * d)).min(1 << 46) })
    ];
    (2..=8u32, bytes, prop::sample::select(&[1u32, 2, 4, 8])).prop_map(|(ranks, bytes, element_bytes)| {
        Request {
            ranks,
            bytes: bytes / u64::from(element_bytes) * u64::from(element_bytes),
            element_bytes,
            floats: true,
        }
    })
}

/// What holds for every plan, whatever it was made from.
fn check(tuning: &Tuning, forced: Forced, request: &Request, choice: &Choice) -> Result<(), TestCaseError> {
    let (plan, machine) = (choice.plan, tuning.machine());
    prop_assert_eq!(plan.check(), Ok(()));
    let pool = tuning.pool(request.ranks).expect("a plan has a pool");
    prop_assert!(pool.fits(&plan), "{plan} in {pool}");
    prop_assert!(plan.footprint() <= pool.window_bytes(request.ranks));
    prop_assert_eq!(plan.ranks, request.ranks);
    prop_assert!(plan.blocks <= machine.blocks_max);
    prop_assert!(!machine.host || plan.threads == 1);
    prop_assert_eq!(plan.geometry(request.bytes).unwrap().bytes(), request.bytes);
    prop_assert!(request.bytes <= plan.algorithm.bytes_max(plan.ranks, pool.inbox));
    prop_assert_eq!(forced.algorithm.unwrap_or(plan.algorithm), plan.algorithm);
    prop_assert!(
        forced.blocks.is_some()
            || plan.algorithm != Algorithm::Ring
            || plan.blocks <= forced.blocks_max.unwrap_or(u32::MAX)
    );
    for (value, seen) in [
        (forced.lanes, plan.lanes),
        (forced.piece_bytes, plan.piece_bytes),
        (forced.slots, plan.slots),
        (forced.blocks, plan.blocks),
        (forced.threads, plan.threads),
    ] {
        prop_assert_eq!(value.unwrap_or(seen), seen);
    }
    prop_assert_eq!(matches!(choice.why, Why::Forced { .. }), !forced.is_empty());
    Ok(())
}

/// Whether a forced value breaks a rule that does not depend on the others.
fn out_of_bounds(forced: &Forced, machine: &Machine) -> bool {
    let is_ring = forced.algorithm.is_none_or(|algorithm| algorithm == Algorithm::Ring);
    let blocks_max = machine.blocks_max.min(3 * forced.lanes.unwrap_or(1024));
    let most = machine.blocks_max.min(128);
    if !is_ring
        && (forced.lanes.is_some_and(|lanes| lanes > most)
            || forced.blocks.is_some_and(|blocks| {
                blocks == 0
                    || blocks > forced.lanes.unwrap_or(most)
                    || forced.lanes.is_some_and(|lanes| lanes != blocks)
            }))
    {
        return true;
    }
    if forced.blocks_max.is_some_and(|blocks| blocks < 3) {
        return true;
    }
    forced.lanes.is_some_and(|lanes| !(1..=1024).contains(&lanes))
        || forced.piece_bytes.is_some_and(|piece| piece == 0 || piece % 16 != 0 || piece > 16 << 20)
        || forced.slots.is_some_and(|slots| !slots.is_power_of_two() || slots > 1024)
        || is_ring
            && forced.blocks.is_some_and(|blocks| blocks == 0 || blocks % 3 != 0 || blocks > blocks_max)
        || forced.threads.is_some_and(|threads| match machine.host {
            true => threads != 1,
            false => !(64..=512).contains(&threads) || threads % 32 != 0,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn plans_by_rule_never_fail(
        machine in machine(), policy in policy(), request in request(), windows in any::<bool>(),
    ) {
        let tuning = Tuning::new(machine).policy(policy).windows(windows);
        let choice = tuning.plan(&request).unwrap();
        check(&tuning, Forced::default(), &request, &choice)?;
        prop_assert!(tuning.pool(request.ranks).unwrap().window_bytes(request.ranks) <= RING_BYTES_MAX);
    }

    #[test]
    fn forced_values_are_honoured_or_refused(
        machine in machine(), policy in policy(), forced in forced(), table in table(), request in request(),
        windows in any::<bool>(),
    ) {
        let tuning =
            Tuning::new(machine.clone()).policy(policy).forced(forced).table(table.clone()).windows(windows);
        // These alone do not excuse larger rings.
        let shape = Forced { algorithm: None, blocks_max: None, threads: None, ..forced };
        let most = match shape.is_empty() || forced.algorithm == Some(Algorithm::Neighbour) {
            true => RING_BYTES_MAX,
            false => RING_BYTES_FORCED_MAX,
        };
        match tuning.plan(&request) {
            Ok(choice) => {
                prop_assert!(!out_of_bounds(&forced, &machine));
                check(&tuning, forced, &request, &choice)?;
                prop_assert!(tuning.pool(request.ranks).unwrap().window_bytes(request.ranks) <= most);
            }
            Err(PlanError::Value(_)) => prop_assert!(out_of_bounds(&forced, &machine)),
            Err(PlanError::Row { row, .. }) => {
                prop_assert!(policy == Policy::Auto && table.rows()[row].blocks > machine.blocks_max);
            }
            Err(PlanError::AlgorithmHere { algorithm, .. }) => {
                let slots = forced.piece_bytes.is_some() || forced.slots.is_some();
                let direct = algorithm == Algorithm::Direct && !windows;
                let not_allowed = direct || algorithm == Algorithm::Neighbour;
                prop_assert!(machine.host || policy != Policy::Auto || slots || not_allowed);
                prop_assert_eq!(forced.algorithm, Some(algorithm));
            }
            Err(PlanError::AlgorithmBytes { algorithm, bytes, most, .. }) => {
                prop_assert_eq!(forced.algorithm, Some(algorithm));
                prop_assert!(bytes == request.bytes && bytes > most);
            }
            Err(PlanError::Memory { needed, allowed, .. }) => {
                // The lanes of another algorithm are looked at behind the memory.
                let family = forced.algorithm.is_some_and(|algorithm| algorithm != Algorithm::Ring);
                prop_assert!(family || !out_of_bounds(&forced, &machine));
                prop_assert_eq!(allowed, most);
                prop_assert!(needed > allowed);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn rows_are_taken_where_they_stand_and_by_no_other_policy(
        machine in machine(), policy in policy(), table in table(), request in request(), windows in any::<bool>(),
    ) {
        let tuning = Tuning::new(machine.clone()).policy(policy).table(table.clone()).windows(windows);
        match tuning.plan(&request) {
            Ok(choice) => {
                check(&tuning, Forced::default(), &request, &choice)?;
                let row = table.find(request.ranks, windows, request.bytes);
                match row.filter(|(_, row)| row.algorithm == Algorithm::Ring || !machine.host) {
                    Some((place, row)) if policy == Policy::Auto => {
                        let plan = choice.plan;
                        prop_assert_eq!((plan.algorithm, plan.lanes), (row.algorithm, row.lanes));
                        prop_assert_eq!(plan.blocks, row.blocks);
                        prop_assert!(machine.host || plan.threads == row.threads);
                        if row.algorithm == Algorithm::Ring {
                            prop_assert_eq!(plan.piece_bytes, row.piece_bytes);
                        }
                        prop_assert_eq!(choice.why, Why::Row { place, row: *row });
                    }
                    _ => prop_assert!(!matches!(choice.why, Why::Row { .. }), "{}", choice.why),
                }
            }
            Err(PlanError::Row { row, .. }) => {
                prop_assert_eq!(policy, Policy::Auto);
                prop_assert!(table.rows()[row].blocks > machine.blocks_max);
            }
            Err(PlanError::Memory { needed, allowed, .. }) => {
                prop_assert_eq!((policy, allowed), (Policy::Auto, RING_BYTES_MAX));
                prop_assert!(needed > allowed);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn more_bytes_never_mean_fewer_lanes(
        machine in machine(), request in request(), more in prop_oneof![0..=8192u64, 0..=1u64 << 30],
    ) {
        let tuning = Tuning::new(machine);
        let more = Request { bytes: (request.bytes + more * 8).min(1 << 46), ..request };
        let (few, many) = (tuning.plan(&request)?.plan, tuning.plan(&more)?.plan);
        prop_assert!(few.lanes <= many.lanes || few.algorithm != many.algorithm);
        // Algorithms follow each other in their order.
        let place = |plan: Plan| Algorithm::ALL.iter().position(|&other| other == plan.algorithm);
        prop_assert!(place(few) <= place(many));
    }

    /// The text of every setting reaches the plan: what a user forces by name is what is launched.
    #[test]
    fn settings_by_name_are_settings_by_field(lanes in 1..=64u32, log2 in 0..=4u32, vectors in 1..=512u32) {
        let mut named = Forced::default();
        for (name, value) in [("lanes", lanes), ("slots", 1 << log2), ("slot-bytes", 16 * vectors)] {
            named.set(name, &value.to_string()).unwrap();
        }
        let fields = Forced {
            lanes: Some(lanes), slots: Some(1 << log2), piece_bytes: Some(16 * vectors), ..Forced::default()
        };
        prop_assert_eq!(named, fields);
    }

    #[test]
    fn printed_bytes_are_read_back(bytes in any::<u64>(), shift in 0..64u32) {
        for bytes in [bytes, bytes << shift, bytes >> shift, 1 << shift] {
            prop_assert_eq!(myelon_lanes::parse_bytes(&myelon_lanes::format_bytes(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[ 0-9KMGTkibB.x-]{0,24}") {
        let plain = text.trim().parse::<u64>().ok();
        match (myelon_lanes::parse_bytes(&text), plain) {
            (Ok(bytes), Some(plain)) => prop_assert_eq!(bytes, plain),
            (Ok(_), None) => prop_assert!(text.trim().starts_with(|digit: char| digit.is_ascii_digit())),
            (Err(error), plain) => {
                prop_assert!(plain.is_none());
                prop_assert!(error.to_string().contains("is no number of bytes: "));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Neighbours are forced and allowed, or refused; whoever only allows them keeps every plan, and every other ring.
    #[test]
    fn neighbours_are_forced_where_they_are_allowed(
        machine in machine(), mut forced in forced(), request in request(), windows in any::<bool>(), any_order in any::<bool>(),
    ) {
        let Request { ranks, .. } = request;
        let plain = Tuning::new(machine.clone()).windows(windows);
        let allowed = plain.clone().any_order(true);
        prop_assert_eq!(plain.plan(&request), allowed.plan(&request));
        let can_run = !machine.host && ranks >= 3;
        let (pool, with) = (plain.pool(ranks)?, allowed.pool(ranks)?);
        prop_assert_eq!(Pool { neighbours: Neighbours::NONE, ..with }, pool);
        prop_assert_eq!(with.neighbours.lanes, if can_run { machine.blocks_max.min(64) } else { 0 });
        prop_assert!(with.window_bytes(ranks) - pool.window_bytes(ranks) <= 8 << 20);

        forced.algorithm = Some(Algorithm::Neighbour);
        let tuning = plain.any_order(any_order).forced(forced);
        match tuning.plan(&request) {
            Ok(choice) => {
                check(&tuning, forced, &request, &choice)?;
                prop_assert!(any_order && can_run);
                let plan = choice.plan;
                prop_assert_eq!((plan.blocks, plan.credit_batch), (plan.lanes, 1));
                let pool = tuning.pool(ranks)?;
                prop_assert_eq!((plan.slots, plan.lanes <= pool.neighbours.lanes), (pool.neighbours.slots, true));
                prop_assert_eq!(Pool { neighbours: Neighbours::NONE, ..pool }, plain_of(&tuning, ranks));
            }
            Err(PlanError::AlgorithmHere { algorithm, .. }) => {
                prop_assert_eq!(algorithm, Algorithm::Neighbour);
                prop_assert!(machine.host || !any_order);
            }
            Err(PlanError::Value(bound)) if bound.name == "ranks by neighbour" => prop_assert_eq!(ranks, 2),
            Err(PlanError::Value(_)) => prop_assert!(out_of_bounds(&forced, &machine) || forced.slots == Some(1)),
            Err(PlanError::Memory { needed, allowed, .. }) => prop_assert!(needed > allowed && allowed == RING_BYTES_FORCED_MAX),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

/// The pool of the same machine where nothing is forced or allowed.
fn plain_of(tuning: &Tuning, ranks: u32) -> Pool {
    let forced = Forced { blocks_max: tuning.forced_values().blocks_max, ..Forced::default() };
    Tuning::new(tuning.machine().clone()).windows(tuning.has_windows()).forced(forced).pool(ranks).unwrap()
}

/// What is missing is named.
#[test]
fn neighbours_that_cannot_run_say_what_they_need() {
    let forced = Forced { algorithm: Some(Algorithm::Neighbour), ..Forced::default() };
    let refusal = |tuning: Tuning, ranks| {
        let request = Request { ranks, bytes: 1 << 28, element_bytes: 2, floats: true };
        tuning.forced(forced).plan(&request).unwrap_err().to_string()
    };
    let gpus = Tuning::new(Machine::h200());
    assert_eq!(
        refusal(gpus.clone(), 4),
        "neighbour cannot run here: it needs permission to sum in an order that depends on the plan, which was not given"
    );
    let any_order = gpus.any_order(true);
    assert_eq!(refusal(any_order.clone(), 2), "ranks by neighbour is 2, needed a number from 3 to 8");
    assert!(refusal(any_order.clone().policy(Policy::Yali), 4).contains("it needs policy auto"));
    assert!(refusal(Tuning::new(Machine::host(4)).any_order(true), 4).contains("it needs GPUs as ranks"));
    let request = Request { ranks: 8, bytes: 1 << 30, element_bytes: 2, floats: true };
    let choice = any_order.forced(forced).plan(&request).unwrap();
    assert_eq!(choice.plan.to_string(), "neighbour lanes=64 blocks=64 threads=512 slot=29968B slots=4");
    assert_eq!(
        choice.why.to_string(),
        "forced algo=neighbour; else a lane for every 2KiB a rank, at most 64, in rounds that are alike; \
         the rings to the next rank hold 7671808 bytes"
    );
}

/// Every automatic pool: its memory, and that it keeps the link of an H200 busy.
#[test]
fn automatic_pools_stay_in_their_budget_and_fill_the_link() {
    let h200 = Machine::h200();
    let pools = [(36, 38), (28, 29), (28, 17), (28, 14), (28, 10), (28, 8), (28, 6)];
    for (ranks, (lanes, piece_kib)) in (2..=8).zip(pools) {
        for policy in POLICIES {
            for machine in [Machine::h200(), Machine::unknown_gpu("X1", 3), Machine::host(2)] {
                let pool = Tuning::new(machine).policy(policy).pool(ranks).unwrap();
                assert!(pool.window_bytes(ranks) <= RING_BYTES_MAX, "{ranks} {policy} {pool}");
            }
        }
        let tuning = Tuning::new(h200.clone());
        let pool = tuning.pool(ranks).unwrap();
        assert_eq!((pool.lanes, pool.slots, pool.piece_bytes), (lanes, 4, piece_kib << 10));
        let large = Request { ranks, bytes: 1 << 30, element_bytes: 4, floats: true };
        let in_flight = tuning.plan(&large).unwrap().plan.in_flight_bytes();
        assert!(in_flight >= h200.in_flight_bytes_least(), "{ranks} ranks: {in_flight}");
        // A step more would not do: it breaks the budget, or the bound of 48 KiB.
        let more = Pool { piece_bytes: pool.piece_bytes + (1 << 10), ..pool };
        assert!(more.window_bytes(ranks) > RING_BYTES_MAX || pool.piece_bytes == 48 << 10);
    }
}

#[test]
fn the_policies_take_their_lanes_and_slots_where_there_is_room() {
    let plan = |policy, ranks, bytes, element_bytes| {
        let tuning = Tuning::new(Machine::h200()).policy(policy);
        tuning.plan(&Request { ranks, bytes, element_bytes, floats: true }).unwrap()
    };
    let harness = plan(Policy::Harness, 2, 1 << 20, 4);
    assert_eq!(harness.plan.to_string(), "ring lanes=32 blocks=96 threads=512 slot=15KiB slots=4");
    assert_eq!(
        harness.why.to_string(),
        "policy harness: wanted lanes=32 slot=64KiB; the rings have room for lanes=128 slot=15KiB"
    );
    // 128 lanes share 43 workers: three lanes for most, as 44 would leave it too.
    assert_eq!(plan(Policy::Harness, 8, 1 << 30, 2).plan.blocks, 3 * 43);
    let small = plan(Policy::Harness, 2, 1001, 1);
    assert_eq!((small.plan.lanes, small.plan.piece_bytes), (32, 1008));
    assert_eq!(small.why.to_string(), "policy harness: wanted lanes=32 slot=1008B");
    assert_eq!(plan(Policy::Yali, 2, 1 << 20, 4).plan.lanes, 16);
    assert_eq!(plan(Policy::Yali, 2, 1 << 20, 2).plan.lanes, 32);
    assert_eq!(plan(Policy::Yali, 2, 128 << 20, 2).plan.lanes, 128);
}

#[test]
fn forced_values_make_room_for_each_other() {
    let tuning = |forced| Tuning::new(Machine::h200()).forced(forced);
    let request = Request { ranks: 8, bytes: 0, element_bytes: 4, floats: true };
    // More lanes: smaller slots.
    let forced = Forced { lanes: Some(128), ..Forced::default() };
    assert_eq!(tuning(forced).pool(8).unwrap().to_string(), "lanes=128 slot=2KiB slots=4");
    // Larger slots: fewer lanes.
    let forced = Forced { piece_bytes: Some(64 << 10), ..Forced::default() };
    assert_eq!(tuning(forced).pool(8).unwrap().to_string(), "lanes=3 slot=64KiB slots=4");
    // Blocks bring the lanes that keep them busy, even for nothing.
    let forced = Forced { blocks: Some(120), ..Forced::default() };
    assert_eq!(
        tuning(forced).plan(&request).unwrap().plan.to_string(),
        "ring lanes=40 blocks=120 threads=512 slot=7KiB slots=4"
    );
    // Beyond the budget if the user insists, but not beyond all bounds.
    let forced = Forced { lanes: Some(64), piece_bytes: Some(128 << 10), ..Forced::default() };
    assert!(tuning(forced).pool(8).unwrap().window_bytes(8) > 400 << 20);
    let forced = Forced { lanes: Some(1024), ..forced };
    let error = tuning(forced).pool(8).unwrap_err().to_string();
    assert!(
        error.starts_with("the rings of 8 ranks with lanes=1024 slots=4 slot-bytes=131072 need "),
        "{error}"
    );
    assert!(error.ends_with(" allowed are 1073741824"), "{error}");
    // Threads are no part of the rings' shape.
    let forced = Forced { threads: Some(64), ..Forced::default() };
    assert_eq!(tuning(forced).pool(8), Tuning::new(Machine::h200()).pool(8));
}

#[test]
fn forced_values_go_before_a_row() {
    let row = Row {
        ranks: 2,
        windows: false,
        bytes_min: 0,
        bytes_max: u64::MAX,
        algorithm: Algorithm::Ring,
        lanes: 8,
        piece_bytes: 16 << 10,
        blocks: 24,
        threads: 512,
    };
    let table = Table::new(vec![row]).unwrap();
    let request = Request { ranks: 2, bytes: 1 << 20, element_bytes: 4, floats: true };
    let choice =
        |forced| Tuning::new(Machine::h200()).table(table.clone()).forced(forced).plan(&request).unwrap();
    for (name, text, plan) in [
        ("threads", "64", "ring lanes=8 blocks=24 threads=64 slot=16KiB slots=4"),
        ("lanes", "4", "ring lanes=4 blocks=12 threads=512 slot=16KiB slots=4"),
        ("lanes", "16", "ring lanes=16 blocks=24 threads=512 slot=16KiB slots=4"),
        ("blocks", "30", "ring lanes=10 blocks=30 threads=512 slot=16KiB slots=4"),
        ("slot-bytes", "32K", "ring lanes=8 blocks=24 threads=512 slot=32KiB slots=4"),
        ("slots", "8", "ring lanes=8 blocks=24 threads=512 slot=16KiB slots=8"),
    ] {
        let mut forced = Forced::default();
        forced.set(name, text).unwrap();
        let choice = choice(forced);
        assert_eq!(choice.plan.to_string(), plan);
        assert_eq!(choice.why.to_string(), format!("forced {forced}; else row 0 of the tuning table: {row}"));
    }
    // A row that needs more than the budget is refused, with forced threads too.
    let wide = Table::new(vec![Row { lanes: 1024, ..row }]).unwrap();
    let tuning = Tuning::new(Machine::h200()).table(wide);
    let threads = Forced { threads: Some(64), ..Forced::default() };
    for tuning in [tuning.clone(), tuning.forced(threads)] {
        let error = tuning.pool(2).unwrap_err();
        assert!(matches!(error, PlanError::Memory { allowed: RING_BYTES_MAX, .. }), "{error}");
    }
}

#[test]
fn requests_out_of_bounds_are_refused() {
    let tuning = Tuning::new(Machine::h200());
    let refusal = |ranks, bytes, element_bytes| {
        tuning.plan(&Request { ranks, bytes, element_bytes, floats: true }).unwrap_err().to_string()
    };
    assert_eq!(refusal(1, 0, 4), "ranks is 1, needed a number from 2 to 8");
    assert_eq!(refusal(9, 0, 4), "ranks is 9, needed a number from 2 to 8");
    assert!(refusal(2, (1 << 46) + 4, 4).starts_with("bytes is 70368744177668, needed a number from 0 to"));
    for (bytes, element_bytes) in [(6, 4), (1, 2), (0, 0), (0, 3), (16, 16)] {
        assert!(
            refusal(2, bytes, element_bytes).contains("not a whole number of"),
            "{bytes} {element_bytes}"
        );
    }
    let error = Tuning::new(Machine::unknown_gpu("X1", 2)).pool(2).unwrap_err().to_string();
    assert_eq!(error, "resident blocks is 2, needed a number of at least 3");
}
