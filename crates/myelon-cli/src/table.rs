//! The table for people: the columns of nccl-tests, then the kernel and the plan.
//!
//! Lines are written as they are measured, so widths are fixed.

use owo_colors::{OwoColorize, Stream};

use crate::record::Record;

/// The two lines over the table, of which the second names the units.
pub fn header(placements: &[bool]) -> Vec<String> {
    let left = ["", "", "", ""];
    let mut lines = [
        cells_left(&left),
        cells_left(&["size", "count", "type", "redop"]),
        cells_left(&["(B)", "(elements)", "", ""]),
    ];
    for &in_place in placements {
        lines[0] += &format!(
            "{:^width$}",
            if in_place { "in-place" } else { "out-of-place" },
            width = PLACEMENT_WIDTH
        );
        lines[1] += &format!("{:>10}{:>9}{:>9}{:>9}{:>9}", "time", "p99", "algbw", "busbw", "#wrong");
        lines[2] += &format!("{:>10}{:>9}{:>9}{:>9}{:>9}", "(us)", "(us)", "(GB/s)", "(GB/s)", "");
    }
    lines[1] += "  kernel and plan";
    lines.iter().map(|line| format!("#{}", line.trim_end())).collect()
}

const PLACEMENT_WIDTH: usize = 46;

fn cells_left(cells: &[&str; 4]) -> String {
    format!("{:>12}{:>13}{:>7}{:>7}", cells[0], cells[1], cells[2], cells[3])
}

/// The line of one size: `records` are its placements, in the order of the header.
///
/// Wrong elements are red where the terminal has colours; `N/A` says that the check was off.
pub fn line(records: &[Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let mut line = format!(
        " {}",
        cells_left(&[&first.bytes.to_string(), &first.count.to_string(), &first.dtype, &first.op])
    );
    for record in records {
        line += &format!(
            "{:>10}{:>9}{:>9}{:>9}",
            time(record.time_us),
            time(record.time_p99_us),
            bandwidth(record.algbw_gbps),
            bandwidth(record.busbw_gbps)
        );
        let wrong = record.wrong.map_or("N/A".into(), |wrong| wrong.to_string());
        let wrong = format!("{wrong:>9}");
        line += &match record.wrong {
            Some(1..) => wrong.if_supports_color(Stream::Stdout, |text| text.red()).to_string(),
            _ => wrong,
        };
    }
    let mut chosen: Vec<String> =
        records.iter().map(|record| format!("{} {}", record.kernel, record.plan)).collect();
    chosen.dedup();
    line + "  " + &chosen.join(" | ")
}

/// Microseconds to three or four figures, as nccl-tests print them.
pub fn time(us: f64) -> String {
    match us {
        10_000.0.. => format!("{us:.0}"),
        100.0.. => format!("{us:.1}"),
        _ => format!("{us:.2}"),
    }
}

/// 1e9 bytes a second to two places, and more where it is next to nothing.
pub fn bandwidth(gbps: f64) -> String {
    if gbps != 0.0 && gbps < 0.1 { format!("{gbps:.4}") } else { format!("{gbps:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::example;

    #[test]
    fn columns_stand_under_their_names() {
        let lines = header(&[false, true]);
        let row = line(&[example(1 << 30, false), example(1 << 30, true)]);
        let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
        assert_eq!(end(&row, "1073741824"), end(&lines[1], "size"));
        assert_eq!(end(&row, "268435456"), end(&lines[1], "count"));
        assert_eq!(end(&row, "f32"), end(&lines[1], "type"));
        assert_eq!(end(&row, "sum"), end(&lines[1], "redop"));
        assert_eq!(end(&row, "12.50"), end(&lines[1], "time"));
        assert_eq!(end(&row, "13.50"), end(&lines[1], "p99"));
        assert_eq!(end(&row, " 1.50"), end(&lines[1], "busbw"));
        assert_eq!(row.rfind("12.50").unwrap() + 5, lines[1].rfind("time").unwrap() + 4);
        assert_eq!(row.find("host_ring"), lines[1].find("kernel"));
    }

    #[test]
    fn one_placement_has_one_group_of_columns() {
        assert_eq!(header(&[true])[1].matches("busbw").count(), 1);
        assert!(!header(&[true])[0].contains("out-of-place"));
        assert_eq!(line(&[example(64, true)]).matches("12.50").count(), 1);
    }

    #[test]
    fn wrong_elements_and_a_missing_check_are_told_apart() {
        let row = line(&[
            Record { wrong: Some(17), ..example(64, false) },
            Record { wrong: None, ..example(64, true) },
        ]);
        assert!(row.contains("17"), "{row}");
        assert!(row.contains("N/A"), "{row}");
    }

    #[test]
    fn the_plan_is_named_once_unless_the_placements_differ() {
        let same = line(&[example(64, false), example(64, true)]);
        assert_eq!(same.matches("host_ring").count(), 1);
        let other = Record { kernel: "other".into(), ..example(64, true) };
        assert!(
            line(&[example(64, false), other])
                .contains("host_ring 2 lanes, 4 slots | other 2 lanes, 4 slots")
        );
    }

    #[test]
    fn times_keep_the_figures_that_matter() {
        assert_eq!([1.234, 99.994, 123.456, 12_345.6].map(time), ["1.23", "99.99", "123.5", "12346"]);
        assert_eq!([0.0, 0.00512, 0.1, 350.123].map(bandwidth), ["0.00", "0.0051", "0.10", "350.12"]);
    }

    #[test]
    fn nothing_measured_is_an_empty_line() {
        assert_eq!(line(&[]), "");
    }
}
