//! The picture: bus bandwidth and time over size, as SVG.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;

use myelon_lanes::format_bytes;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::record::Record;

/// Colours that colour-blind readers tell apart (M. Okabe, K. Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
];
/// The most combinations of type and operation that a picture can tell apart.
pub const SERIES_MAX: usize = COLOURS.len();

const SIZE: (u32, u32) = (1200, 560);
const FONT: &str = "sans-serif";
pub const GRID: RGBColor = RGBColor(205, 205, 205);
const FAINT: RGBColor = RGBColor(238, 238, 238);
pub const INK: RGBColor = RGBColor(70, 70, 70);

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn = Result<(), Box<dyn Error + Send + Sync>>;

/// The measurements of one type, operation and placement; sizes grow.
struct Series {
    name: String,
    colour: RGBColor,
    in_place: bool,
    /// Bytes, bus bandwidth, microseconds.
    points: Vec<(f64, f64, f64)>,
}

/// Looks whether a picture can be written to `path`, and leaves what is there as it is.
///
/// # Errors
///
/// Says why not.
pub fn try_path(path: &Path) -> Result<(), String> {
    let is_new = !path.exists();
    let tried = OpenOptions::new().append(true).create(true).open(path);
    let tried = tried.and_then(|_| if is_new { fs::remove_file(path) } else { Ok(()) });
    tried.map_err(|error| cannot_write(path, &error))
}

/// The sentence for a picture that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// Draws `records` into `path`: solid lines for calls out of place, dashed ones for calls in place.
///
/// Calls of 0 bytes have no place on a log axis and are left out. Of types and operations beyond the first
/// [`SERIES_MAX`] combinations, which the caller should refuse, colours repeat.
///
/// # Errors
///
/// Where nothing is left to draw, or the file cannot be written.
pub fn draw(path: &Path, records: &[Record]) -> Drawn {
    let series = series(records);
    let Some(first) = records.first().filter(|_| !series.is_empty()) else {
        return Err("has nothing to draw: every call had 0 elements".into());
    };
    let mut svg = String::new();
    paint(&mut svg, first, &series)?;
    fs::write(path, svg).map_err(|error| cannot_write(path, &error))?;
    Ok(())
}

/// The whole picture as text; `first` names the ranks and the backend.
fn paint(svg: &mut String, first: &Record, series: &[Series]) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let Record { ranks, backend, mode, .. } = first;
    let title = format!("all-reduce over {ranks} ranks, {backend} backend, {mode} mode");
    let style = text(20).pos(Pos::new(HPos::Center, VPos::Center)).color(&BLACK);
    root.draw(&Text::new(title, (SIZE.0 as i32 / 2, 24), style))?;

    let (panels, key) = root.margin(44, 8, 12, 12).split_vertically(SIZE.1 as i32 - 44 - 8 - 44);
    let (left, right) = panels.split_horizontally(SIZE.0 as i32 / 2 - 12);
    panel(&left, series, "bus bandwidth (GB/s, 1e9 bytes a second)", |point| (point.0, point.1), plain)?;
    panel(&right, series, "time of a call, median", |point| (point.0, point.2), duration)?;
    legend(&key, series)?;
    root.present()?;
    Ok(())
}

fn series(records: &[Record]) -> Vec<Series> {
    let mut names: Vec<String> = Vec::new();
    let mut all: Vec<Series> = Vec::new();
    for record in records.iter().filter(|record| record.bytes > 0 && record.time_us > 0.0) {
        let name = format!("{} {}", record.dtype, record.op);
        let point = (record.bytes as f64, record.busbw_gbps, record.time_us);
        if let Some(old) = all.iter_mut().find(|old| old.name == name && old.in_place == record.in_place) {
            old.points.push(point);
            continue;
        }
        let place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        let colour = COLOURS[place % COLOURS.len()];
        all.push(Series { name, colour, in_place: record.in_place, points: vec![point] });
    }
    all
}

/// One panel; both axes are logarithms, with marks at places that people read.
fn panel(
    area: &Area<'_>,
    series: &[Series],
    title: &str,
    at: impl Fn(&(f64, f64, f64)) -> (f64, f64),
    label: impl Fn(f64) -> String,
) -> Drawn {
    let points = || series.iter().flat_map(|series| series.points.iter().map(&at));
    let x = byte_marks(points().map(|(x, _)| x));
    let y = value_marks(points().map(|(_, y)| y));
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(22)
        .caption(title, text(15).color(&BLACK))
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(13))
        .axis_desc_style(text(14))
        .x_desc("size of a rank's buffer")
        .x_label_formatter(&|&log| size(10f64.powf(log)))
        .y_label_formatter(&|&log| label(10f64.powf(log)))
        .draw()?;
    for series in series {
        let points: Vec<(f64, f64)> =
            series.points.iter().map(&at).map(|(x, y)| (x.log10(), y.log10())).collect();
        let style = ShapeStyle::from(series.colour).stroke_width(2);
        if series.in_place {
            chart.draw_series(DashedLineSeries::new(points.iter().copied(), 7, 5, style))?;
            let dots = points.iter().map(|&point| Circle::new(point, 3, ShapeStyle::from(WHITE).filled()));
            chart.draw_series(dots)?;
            let rings = points
                .iter()
                .map(|&point| Circle::new(point, 3, ShapeStyle::from(series.colour).stroke_width(1)));
            chart.draw_series(rings)?;
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, series.colour.filled())))?;
        }
    }
    Ok(())
}

/// The key below the panels: a colour for each type and operation, a dash for the placement.
fn legend(area: &Area<'_>, series: &[Series]) -> Drawn {
    let mut entries: Vec<(String, RGBColor, bool)> = Vec::new();
    for series in series {
        if !entries.iter().any(|(name, ..)| *name == series.name) {
            entries.push((series.name.clone(), series.colour, false));
        }
    }
    for (in_place, name) in [(false, "out of place"), (true, "in place")] {
        if series.iter().any(|series| series.in_place == in_place) {
            entries.push((name.into(), INK, in_place));
        }
    }
    let width = |name: &str| 62 + 8 * name.len() as i32;
    let total: i32 = entries.iter().map(|(name, ..)| width(name)).sum();
    let mut x = (area.dim_in_pixel().0 as i32 - total) / 2;
    for (name, colour, dashed) in &entries {
        let style = ShapeStyle::from(*colour).stroke_width(2);
        let ends = [(x, 16), (x + 32, 16)];
        if *dashed {
            area.draw(&DashedPathElement::new(ends, 7, 5, style))?;
            area.draw(&Circle::new((x + 16, 16), 3, ShapeStyle::from(WHITE).filled()))?;
            area.draw(&Circle::new((x + 16, 16), 3, ShapeStyle::from(*colour).stroke_width(1)))?;
        } else {
            area.draw(&PathElement::new(ends, style))?;
            area.draw(&Circle::new((x + 16, 16), 3, colour.filled()))?;
        }
        area.draw(&Text::new(name.clone(), (x + 40, 16), text(14).pos(Pos::new(HPos::Left, VPos::Center))))?;
        x += width(name);
    }
    Ok(())
}

/// The letters of every picture.
pub fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// The span of an axis and its marks, all as decimal logarithms.
#[derive(Debug, PartialEq)]
struct Marks {
    from: f64,
    to: f64,
    bold: Vec<f64>,
    light: Vec<f64>,
}

impl Ranged for Marks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { self.light.clone() } else { self.bold.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

/// Marks at powers of two, few enough to have room for their labels.
fn byte_marks(values: impl Iterator<Item = f64>) -> Marks {
    let (low, high) = bounds(values.map(f64::log2));
    let (low, high) = (low.floor() as i32, high.ceil() as i32);
    // A size alone stands in the middle.
    let (low, high) = if low == high { (low - 1, high + 1) } else { (low, high) };
    let step = ((high - low) as usize).div_ceil(7);
    let log = |power: i32| f64::from(power) * 2f64.log10();
    let marks = |step: usize| (low..=high).step_by(step).map(log).collect();
    Marks { from: log(low), to: log(high), bold: marks(step), light: marks(1) }
}

/// Marks at powers of ten; at 1, 2 and 5 where the span is short.
fn value_marks(values: impl Iterator<Item = f64>) -> Marks {
    let (low, high) = bounds(values.filter(|&value| value > 0.0).map(f64::log10));
    let decades = (low.floor() as i32..=high.ceil() as i32).collect::<Vec<i32>>();
    let at = |digits: &'static [f64]| {
        decades
            .iter()
            .flat_map(move |&decade| digits.iter().map(move |digit| digit.log10() + f64::from(decade)))
    };
    let digits: &[f64] = if high - low < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let from = at(digits).filter(|&mark| mark <= low + 1e-9).fold(low.floor(), f64::max);
    let to = at(digits).filter(|&mark| mark >= high - 1e-9).fold(high.ceil().max(from + 0.1), f64::min);
    let to = if to > from { to } else { from + 1.0 };
    let inside = |mark: &f64| (from - 1e-9..=to + 1e-9).contains(mark);
    let light = at(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]).filter(inside).collect();
    Marks { from, to, bold: at(digits).filter(inside).collect(), light }
}

/// The least and the greatest of `values`; 0 and 1 where there are none.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .fold(None, |seen: Option<(f64, f64)>, value| {
            Some(seen.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        })
        .unwrap_or((0.0, 1.0))
}

/// A bandwidth without more figures than it has.
fn plain(value: f64) -> String {
    let decimals = (-value.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

/// A size with its unit: `64 KiB`.
pub fn size(bytes: f64) -> String {
    let text = format_bytes(bytes.round() as u64);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    format!("{} {}", &text[..digits], &text[digits..])
}

/// A time with its unit and one figure or so: `200 µs`.
pub fn duration(us: f64) -> String {
    let (value, unit) = match us {
        999_999.0.. => (us / 1e6, "s"),
        999.0.. => (us / 1e3, "ms"),
        _ => (us, "\u{b5}s"),
    };
    format!("{} {unit}", plain(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::example;

    fn run() -> Vec<Record> {
        let mut records = Vec::new();
        for op in ["sum", "max"] {
            for in_place in [false, true] {
                for log2 in (3..=24).step_by(3) {
                    let bytes = 1u64 << log2;
                    let time_us = 20.0 + bytes as f64 / if in_place { 5000.0 } else { 4000.0 };
                    let (algbw_gbps, busbw_gbps) = crate::record::bandwidths(bytes, 4, time_us);
                    let op = op.to_string();
                    records.push(Record { op, time_us, algbw_gbps, busbw_gbps, ..example(bytes, in_place) });
                }
            }
        }
        records
    }

    #[test]
    fn series_are_kept_apart_and_share_a_colour_over_placements() {
        let series = series(&run());
        let names: Vec<(&str, bool)> = series.iter().map(|s| (s.name.as_str(), s.in_place)).collect();
        assert_eq!(names, [("f32 sum", false), ("f32 sum", true), ("f32 max", false), ("f32 max", true)]);
        assert!(series.iter().all(|series| series.points.len() == 8));
        assert_eq!(series[0].colour, series[1].colour);
        assert_ne!(series[0].colour, series[2].colour);
    }

    #[test]
    fn a_picture_has_both_panels_all_series_and_units() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        draw(&path, &run()).unwrap();
        let svg = fs::read_to_string(&path).unwrap();
        assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in [
            "GB/s",
            "time of a call",
            "ms",
            "MiB",
            "f32 sum",
            "f32 max",
            "out of place",
            "in place",
            "4 ranks",
            "stream mode",
        ] {
            assert!(svg.contains(word), "no `{word}` in the picture");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn empty_calls_are_left_out_and_alone_they_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let empty = Record { busbw_gbps: 0.0, ..example(0, false) };
        assert!(draw(&path, std::slice::from_ref(&empty)).unwrap_err().to_string().contains("0 elements"));
        draw(&path, &[empty, example(8, false)]).unwrap();
    }

    #[test]
    fn a_path_is_tried_without_a_trace_and_an_error_is_one_plain_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        try_path(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "an older picture").unwrap();
        try_path(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "an older picture");
        let lost = folder.path().join("no/such/folder.svg");
        let needed = format!("cannot write {}: No such file", lost.display());
        for error in [try_path(&lost).unwrap_err(), draw(&lost, &run()).unwrap_err().to_string()] {
            assert!(error.starts_with(&needed), "{error}");
        }
    }

    #[test]
    fn marks_enclose_the_values() {
        for values in
            [vec![5.0], vec![1.0], vec![0.003, 180.0], vec![12.0, 13.0], vec![1.0, 10.0], vec![95.0, 480.0]]
        {
            for marks in [value_marks(values.iter().copied()), byte_marks(values.iter().map(|v| v * 1024.0))]
            {
                let scale = if marks == value_marks(values.iter().copied()) { 1.0 } else { 1024.0 };
                let logs: Vec<f64> = values.iter().map(|value| (value * scale).log10()).collect();
                assert!(marks.from < marks.to, "{values:?} {marks:?}");
                assert!(
                    logs.iter().all(|log| (marks.from - 1e-6..=marks.to + 1e-6).contains(log)),
                    "{values:?} {marks:?}"
                );
                assert!((1..=12).contains(&marks.bold.len()), "{values:?} {marks:?}");
            }
        }
    }

    #[test]
    fn labels_have_units_and_no_spare_figures() {
        assert_eq!([0.002, 0.5, 1.0, 20.0, 500.0].map(plain), ["0.002", "0.5", "1", "20", "500"]);
        assert_eq!([8.0, 65536.0].map(size), ["8 B", "64 KiB"]);
        assert_eq!([0.5, 1.0, 200.0, 1000.0, 2e6].map(duration), ["0.5 µs", "1 µs", "200 µs", "1 ms", "2 s"]);
    }
}
