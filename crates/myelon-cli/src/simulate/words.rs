//! A case in words: what a person needs to know to see it before them.

use myelon_sim::model::Schedule;
use myelon_sim::simulation::{Call, Case, Limits, Mishap, Mutant};

use super::args::{Algorithms, Types};
use super::numbers::{List, Numbers};

/// The case as names and what they stand for, one line each.
pub fn case(case: &Case) -> Vec<(String, String)> {
    let shape = &case.shape;
    let row = |name: &str, words: String| (name.to_string(), words);
    let mut rows = vec![
        row("ranks", shape.ranks.to_string()),
        row(
            "rings",
            format!(
                "{}, {} of {} bytes each, credit after {}, from sequence {}",
                count(shape.lanes, "lane"),
                count(shape.capacity, "slot"),
                shape.piece_bytes,
                count(shape.credit_batch, "slot"),
                sequence(shape.first)
            ),
        ),
        row(
            "inbox",
            format!(
                "{}, {}, {}",
                count(shape.inbox.lanes, "lane"),
                count(shape.inbox.packets, "packet"),
                count(shape.inbox.cells, "cell")
            ),
        ),
        row("blocks", format!("{} and a signal warp", count(case.movers as usize, "mover"))),
    ];
    rows.extend(case.calls.iter().enumerate().map(|(number, of)| row(&format!("call {number}"), call(of))));
    if case.skew > 0 {
        rows.push(row("begin", format!("rank r, {} times r steps late", case.skew)));
    }
    rows.push(row("mishap", case.mishap.map_or("none".into(), mishap)));
    rows.push(row("schedule", schedule(case.schedule)));
    rows
}

/// The failure as an expression of Rust that runs it again, such as a test needs.
pub fn expression(case: &Case, mutant: Mutant, seed: u64) -> String {
    let shape = &case.shape;
    let mut words = format!(
        "Simulation::new({}).lanes({}).capacity({}).piece_bytes({}).credit_batch({}).first({:#x})\n",
        shape.ranks, shape.lanes, shape.capacity, shape.piece_bytes, shape.credit_batch, shape.first
    );
    words += &format!(".inbox({}, {})\n", shape.inbox.lanes, shape.inbox.packets);
    words +=
        &format!(".movers({}).skew({}).schedule(Schedule::{:?})\n", case.movers, case.skew, case.schedule);
    case.calls.iter().for_each(|call| words += &format!(".call({call:?})\n"));
    words.extend(case.mishap.map(|mishap| format!(".mishap(Mishap::{mishap:?})\n")));
    if mutant != Mutant::NONE {
        words += &format!(".mutant(Mutant::find(\"{mutant}\").unwrap())\n");
    }
    // Derived text gives an algorithm without its type.
    words.replace("algorithm: ", "algorithm: Algorithm::") + &format!(".run({seed})")
}

/// What cases may be, in one line.
pub fn limits(limits: &Limits) -> String {
    let Limits { movers, .. } = limits;
    let movers = Numbers(*movers.start() as usize..=*movers.end() as usize);
    format!(
        "algorithms {}, ranks {}, lanes {}, slots {} of {} bytes, inbox {}, credit after {}, movers {movers}, \
         calls {}, chunks {}, types {}, {}",
        Algorithms(limits.algorithms.clone()),
        Numbers(limits.ranks.clone()),
        Numbers(limits.lanes.clone()),
        List(limits.capacities.clone()),
        List(limits.piece_bytes.clone()),
        List(limits.inbox_packets.clone()),
        Numbers(limits.credit_batches.clone()),
        Numbers(limits.calls.clone()),
        Numbers(limits.chunks.clone()),
        Types(limits.types.clone()),
        if limits.mishaps { "mishaps" } else { "no mishaps" },
    )
}

/// `1 slot`, `2 slots`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A sequence, so that a wrap that is near is seen.
fn sequence(value: u64) -> String {
    let before = |power: u32| (1u128 << power).checked_sub(value.into());
    let near = |power: u32| Some((power, before(power).filter(|before| (1..1000).contains(before))?));
    match [64, 63, 32].into_iter().find_map(near) {
        Some((power, before)) => format!("2^{power} - {before}"),
        None if value.is_power_of_two() && value > 1 << 31 => format!("2^{}", value.ilog2()),
        None => value.to_string(),
    }
}

fn call(call: &Call) -> String {
    let mut words = format!(
        "{}: {} {} of {}, {}, on {}",
        call.algorithm,
        call.dtype,
        call.op,
        count(call.elements, "element"),
        if call.in_place { "in place" } else { "out of place" },
        count(call.lanes, "lane"),
    );
    if !call.is_of_packets() {
        words += &format!(" by {} a role, {} bytes a slot", count(call.workers, "block"), call.piece_bytes);
    }
    if call.skewed > 0 {
        words += &format!(", buffers of rank r {} * (r + 1) elements beside 16 bytes", call.skewed);
    }
    words
}

fn mishap(mishap: Mishap) -> String {
    match mishap {
        Mishap::NeverComes { rank } => format!("rank {rank} makes no call"),
        Mishap::Stops { rank, after_steps } => {
            format!("rank {rank} stops for ever after {after_steps} steps")
        }
        Mishap::Pauses { rank, after_steps } => {
            format!("rank {rank} stops after {after_steps} steps, until its peers' deadline has passed")
        }
        Mishap::Slow { rank } => format!("rank {rank} runs only when nobody else can"),
        Mishap::OtherCount { rank, algorithm } => {
            format!("the last call of rank {rank} has one element more, and goes by {algorithm}")
        }
        Mishap::Aborted { rank, after, alone } => {
            let peers = if alone { ", and its peers make no call" } else { "" };
            format!("the host tells rank {rank} to give up after {after} looks{peers}")
        }
        Mishap::Overwritten { rank, gating } => {
            let word = if gating { "gating word (or a packet)" } else { "sequence word (or a header)" };
            format!("a {word} that rank {rank} reads is overwritten, and its peers make no call")
        }
    }
}

fn schedule(schedule: Schedule) -> String {
    match schedule {
        Schedule::Random => "by lot".into(),
        Schedule::Priority { changes, steps } => {
            let changes = count(changes as usize, "time");
            format!("by priorities that change {changes} in the first {steps} steps")
        }
    }
}

#[cfg(test)]
mod tests {
    use myelon_lanes::Algorithm;
    use myelon_sim::simulation::Simulation;

    use super::*;

    fn words(simulation: &Simulation) -> String {
        let rows = case(simulation.case());
        rows.into_iter().map(|(name, words)| format!("{name}: {words}\n")).collect()
    }

    #[test]
    fn a_case_is_told_line_by_line() {
        let simulation = Simulation::new(3).capacity(1).sum("i32", 1);
        let simulation = simulation.sum_by(Algorithm::TwoShot, "u8", 20).skew(4);
        assert_eq!(
            words(&simulation),
            "ranks: 3\n\
             rings: 1 lane, 1 slot of 48 bytes each, credit after 1 slot, from sequence 0\n\
             inbox: 1 lane, 16 packets, 8 cells\n\
             blocks: 1 mover and a signal warp\n\
             call 0: ring: i32 sum of 1 element, out of place, on 1 lane by 1 block a role, 48 bytes a slot\n\
             call 1: two-shot: u8 sum of 20 elements, out of place, on 1 lane\n\
             begin: rank r, 4 times r steps late\n\
             mishap: none\n\
             schedule: by lot\n"
        );
    }

    /// The expression, and what it comes to.
    macro_rules! both {
        ($simulation:expr) => {
            (stringify!($simulation), $simulation)
        };
    }

    #[test]
    fn a_case_as_an_expression_is_the_same_case() {
        let call = |in_place| Call {
            algorithm: Algorithm::TwoShot,
            dtype: "i32",
            op: "max",
            elements: 7,
            in_place,
            skewed: 3,
            lanes: 1,
            workers: 1,
            piece_bytes: 16,
        };
        let simulation = Simulation::new(3).lanes(2).capacity(4).piece_bytes(32).credit_batch(3).first(11);
        let simulation =
            simulation.inbox(2, 6).movers(2).skew(5).schedule(Schedule::Priority { changes: 2, steps: 9 });
        let simulation = simulation.call(call(true)).call(call(false));
        let simulation = simulation.mishap(Mishap::OtherCount { rank: 1, algorithm: Algorithm::Direct });
        let (words, again) = both!(
            Simulation::new(3)
                .lanes(2)
                .capacity(4)
                .piece_bytes(32)
                .credit_batch(3)
                .first(0xb)
                .inbox(2, 6)
                .movers(2)
                .skew(5)
                .schedule(Schedule::Priority { changes: 2, steps: 9 })
                .call(Call {
                    algorithm: Algorithm::TwoShot,
                    dtype: "i32",
                    op: "max",
                    elements: 7,
                    in_place: true,
                    skewed: 3,
                    lanes: 1,
                    workers: 1,
                    piece_bytes: 16
                })
                .call(Call {
                    algorithm: Algorithm::TwoShot,
                    dtype: "i32",
                    op: "max",
                    elements: 7,
                    in_place: false,
                    skewed: 3,
                    lanes: 1,
                    workers: 1,
                    piece_bytes: 16
                })
                .mishap(Mishap::OtherCount { rank: 1, algorithm: Algorithm::Direct })
        );
        assert_eq!(again.case(), simulation.case());
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(bare(&expression(simulation.case(), Mutant::NONE, 6)), bare(words) + ".run(6)");
        let mutant = Mutant::find("ring/credit.gate").unwrap();
        let weak = expression(simulation.case(), mutant, 6);
        assert!(weak.contains("\n.mutant(Mutant::find(\"ring/credit.gate\").unwrap())\n"), "{weak}");
    }

    #[test]
    fn every_mishap_names_its_rank_and_has_words_of_its_own() {
        let mishaps = [
            Mishap::NeverComes { rank: 5 },
            Mishap::Stops { rank: 5, after_steps: 77 },
            Mishap::Pauses { rank: 5, after_steps: 77 },
            Mishap::Slow { rank: 5 },
            Mishap::OtherCount { rank: 5, algorithm: Algorithm::Direct },
            Mishap::Aborted { rank: 5, after: 77, alone: false },
            Mishap::Aborted { rank: 5, after: 77, alone: true },
            Mishap::Overwritten { rank: 5, gating: true },
            Mishap::Overwritten { rank: 5, gating: false },
        ];
        let mut told: Vec<String> = mishaps.into_iter().map(mishap).collect();
        assert!(told.iter().all(|words| words.contains("rank 5")), "{told:?}");
        told.sort();
        told.dedup();
        assert_eq!(told.len(), mishaps.len());
    }

    #[test]
    fn a_wrap_that_is_near_is_seen() {
        let shown = [0, 7, u64::MAX, (1 << 63) - 2, 1 << 63, (1 << 32) - 11, 5 << 40].map(sequence);
        assert_eq!(shown, ["0", "7", "2^64 - 1", "2^63 - 2", "2^63", "2^32 - 11", "5497558138880"]);
    }
}
