//! The heat map of a sweep: sizes across, settings down, and in each cell how far it is behind the best.

use std::fs;
use std::path::Path;

use myelon_lanes::Forced;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::outcome::Outcome;
use super::turns::name;
use crate::plot::{Area, Drawn, GRID, INK, cannot_write, size, text};
use crate::table::time;

/// Up to how many per cent behind the best, and the colour: from yellow to violet as in viridis
/// (S. van der Walt, N. Smith, <https://bids.github.io/colormap>), which colour-blind readers tell apart.
const SHADES: [(f64, RGBColor); 7] = [
    (2.0, RGBColor(253, 231, 37)),
    (5.0, RGBColor(144, 215, 67)),
    (10.0, RGBColor(53, 183, 121)),
    (25.0, RGBColor(33, 145, 140)),
    (50.0, RGBColor(49, 104, 142)),
    (100.0, RGBColor(68, 57, 131)),
    (f64::INFINITY, RGBColor(68, 1, 84)),
];
/// From this shade on letters are white.
const DARK: usize = 3;
const REFUSED: RGBColor = RGBColor(232, 232, 232);
const WRONG: RGBColor = RGBColor(213, 94, 0);

const CELL: (i32, i32) = (88, 22);
/// What stands over the cells and below them.
const TOP: i32 = 110;
const BOTTOM: i32 = 70;

/// Draws `outcomes` into `path`. `settings` are the rows below the automatic one, refused ones included; `title`
/// says what was run where.
///
/// # Errors
///
/// Where nothing was measured, or the file cannot be written.
pub fn draw(path: &Path, title: &str, settings: &[Forced], outcomes: &[Outcome]) -> Drawn {
    if outcomes.is_empty() {
        return Err("has nothing to draw: no size was measured".into());
    }
    let mut svg = String::new();
    paint(&mut svg, title, settings, outcomes)?;
    fs::write(path, svg).map_err(|error| cannot_write(path, &error))?;
    Ok(())
}

fn paint(svg: &mut String, title: &str, settings: &[Forced], outcomes: &[Outcome]) -> Drawn {
    let rows: Vec<Forced> = [Forced::default()].iter().chain(settings).copied().collect();
    // Room for the longest name; letters are narrower than this.
    let letters = rows.iter().map(|forced| name(forced).len()).max().unwrap_or(0) as i32;
    let left = 40 + 8 * letters;
    let width = left + CELL.0 * (outcomes.len() as i32).max(7) + 24;
    let height = TOP + CELL.1 * rows.len() as i32 + BOTTOM;
    let root = SVGBackend::with_string(svg, (width as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let middle = Pos::new(HPos::Center, VPos::Center);
    let says = "per cent behind the best setting of the size; the best is framed";
    root.draw(&Text::new(title.to_string(), (width / 2, 24), text(20).pos(middle).color(&BLACK)))?;
    root.draw(&Text::new(says, (width / 2, 50), text(14).pos(middle)))?;

    for (column, outcome) in outcomes.iter().enumerate() {
        let x = left + CELL.0 * column as i32 + CELL.0 / 2;
        let best = outcome.best().and_then(|place| outcome.trials[place].time_us());
        let best = best.map_or("-".into(), |us| format!("{} \u{b5}s", time(us)));
        root.draw(&Text::new(size(outcome.bytes as f64), (x, TOP - 32), text(14).pos(middle).color(&BLACK)))?;
        root.draw(&Text::new(best, (x, TOP - 13), text(12).pos(middle)))?;
    }
    let right = Pos::new(HPos::Right, VPos::Center);
    for (row, forced) in rows.iter().enumerate() {
        let y = TOP + CELL.1 * row as i32;
        let style = text(13).pos(right).color(if row == 0 { &BLACK } else { &INK });
        root.draw(&Text::new(name(forced), (left - 10, y + CELL.1 / 2), style))?;
        // A line where the lanes change, so that a row is found.
        if row > 0 && rows[row - 1].lanes != forced.lanes || row == 1 {
            root.draw(&PathElement::new([(20, y), (left, y)], ShapeStyle::from(GRID)))?;
        }
        for (column, outcome) in outcomes.iter().enumerate() {
            cell(&root, (left + CELL.0 * column as i32, y), forced, outcome)?;
        }
    }
    // Frames last, so that no neighbour covers them.
    for (column, outcome) in outcomes.iter().enumerate() {
        let best = outcome.best().map(|place| outcome.trials[place].forced);
        if let Some(row) = best.and_then(|best| rows.iter().position(|row| *row == best)) {
            let (x, y) = (left + CELL.0 * column as i32, TOP + CELL.1 * row as i32);
            let frame = ShapeStyle::from(BLACK).stroke_width(2);
            root.draw(&Rectangle::new([(x, y), (x + CELL.0, y + CELL.1)], frame))?;
        }
    }
    key(&root, (left, height - BOTTOM + 24))?;
    root.present()?;
    Ok(())
}

/// One setting at one size.
fn cell(area: &Area<'_>, (x, y): (i32, i32), forced: &Forced, outcome: &Outcome) -> Drawn {
    let trial = outcome.trials.iter().find(|trial| trial.forced == *forced);
    let (words, colour, letters) = match trial.map(|trial| (trial, outcome.over_best(trial))) {
        None => ("refused".to_string(), REFUSED, INK),
        Some((_, None)) => ("wrong".to_string(), WRONG, WHITE),
        Some((_, Some(percent))) => {
            let (shade, colour) = shade(percent);
            (percent_words(percent), colour, if shade >= DARK { WHITE } else { BLACK })
        }
    };
    let corners = [(x, y), (x + CELL.0, y + CELL.1)];
    area.draw(&Rectangle::new(corners, colour.filled()))?;
    area.draw(&Rectangle::new(corners, ShapeStyle::from(WHITE)))?;
    let style = text(12).pos(Pos::new(HPos::Center, VPos::Center)).color(&letters);
    area.draw(&Text::new(words, (x + CELL.0 / 2, y + CELL.1 / 2), style))?;
    Ok(())
}

/// The number and the colour of a shade.
fn shade(percent: f64) -> (usize, RGBColor) {
    let shade = SHADES.iter().position(|&(most, _)| percent <= most).unwrap_or(SHADES.len() - 1);
    (shade, SHADES[shade].1)
}

fn percent_words(percent: f64) -> String {
    if percent < 9.95 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// What the colours mean.
fn key(area: &Area<'_>, (left, y): (i32, i32)) -> Drawn {
    let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new("up to", (left - 50, y + 9), style.clone()))?;
    for (place, (most, colour)) in SHADES.into_iter().enumerate() {
        let x = left + CELL.0 * place as i32;
        area.draw(&Rectangle::new([(x, y), (x + 18, y + 18)], colour.filled()))?;
        let words = if most.is_finite() { format!("{most:.0} %") } else { "more".into() };
        area.draw(&Text::new(words, (x + 24, y + 9), style.clone()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::outcome::tests::outcome;

    fn lanes(lanes: u32) -> Forced {
        Forced { lanes: Some(lanes), ..Forced::default() }
    }

    /// The words of the text elements.
    fn words(svg: &str) -> Vec<&str> {
        let texts = svg.split("<text").skip(1);
        texts.filter_map(|text| Some(text.split_once('>')?.1.split_once("</text>")?.0.trim())).collect()
    }

    /// 30 settings of which one is refused and one wrong, over 4 sizes: every cell has its rectangle and its words.
    #[test]
    fn every_setting_and_size_has_its_cell() {
        let times: Vec<f64> = (0..30).map(|place| 20.0 + f64::from(place)).collect();
        let mut outcomes: Vec<Outcome> =
            [64, 4096, 1 << 20, 1 << 28].map(|bytes| outcome(bytes, &times)).into();
        outcomes[2].trials[5].wrong = 1;
        let settings: Vec<Forced> = (1..=30).map(lanes).collect();
        let mut svg = String::new();
        paint(&mut svg, "a sweep", &settings, &outcomes).unwrap();
        assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let words = words(&svg);
        let count = |word: &str| words.iter().filter(|&&seen| seen == word).count();
        assert_eq!((count("refused"), count("wrong")), (4, 1));
        assert_eq!(count("automatic"), 1);
        for lanes in 1..=30 {
            assert_eq!(count(&format!("lanes={lanes}")), 1);
        }
        let mut expected = 0;
        for place in 0..30 {
            let percent = percent_words(f64::from(place) * 5.0);
            expected += count(&percent);
            assert_eq!(count(&percent), if place == 5 { 3 } else { 4 }, "{percent}");
        }
        // Rectangles: two a cell, a frame a size, the key, the ground.
        assert_eq!(expected, 30 * 4 - 1);
        assert_eq!(svg.matches("<rect").count(), 2 * 31 * 4 + 4 + SHADES.len() + 1);
        for size in ["64 B", "4 KiB", "1 MiB", "256 MiB"] {
            assert_eq!(count(size), 1, "{size}");
        }
    }

    #[test]
    fn shades_grow_with_the_loss() {
        let shades = [0.0, 2.0, 2.1, 9.9, 10.1, 50.0, 51.0, 100.1, 1e9].map(|percent| shade(percent).0);
        assert_eq!(shades, [0, 0, 1, 2, 3, 4, 5, 6, 6]);
        assert_eq!([0.0, 9.94, 9.96, 123.4].map(percent_words), ["0.0", "9.9", "10", "123"]);
    }

    #[test]
    fn nothing_measured_and_a_lost_folder_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.svg");
        assert!(draw(&path, "a sweep", &[], &[]).unwrap_err().to_string().contains("nothing to draw"));
        assert!(!path.exists());
        let outcomes = [outcome(64, &[1.0, 2.0])];
        draw(&path, "a sweep", &[lanes(1)], &outcomes).unwrap();
        let lost = folder.path().join("no/such.svg");
        let error = draw(&lost, "a sweep", &[lanes(1)], &outcomes).unwrap_err().to_string();
        assert!(error.starts_with("cannot write"), "{error}");
    }
}
