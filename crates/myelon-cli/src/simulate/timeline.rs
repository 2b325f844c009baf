//! The picture of `--timeline`: a row for each slot, and over the steps of a run who held it, as SVG.

use std::fmt::Write;

use myelon_sim::simulation::{Held, RingName, Span};

/// What is drawn.
pub struct Timeline<'a> {
    /// The line on top, and the one below it.
    pub title: [String; 2],
    /// Who held which slot when.
    pub spans: &'a [Held],
    /// Slots of a ring.
    pub capacity: usize,
    /// The step at which a rule was broken.
    pub failed_at: Option<u64>,
}

/// Rows that fit a picture; rings beyond them are named and left out.
const ROWS_MAX: usize = 240;

const LEFT: f64 = 190.0;
const TOP: f64 = 92.0;
const PLOT: f64 = 1000.0;
const RIGHT: f64 = 40.0;
const ROW: f64 = 16.0;
/// Between two rings.
const GAP: f64 = 8.0;
const BELOW: f64 = 52.0;
/// A span that is shorter could not be seen.
const WIDTH_MIN: f64 = 1.5;
const TITLE_MAX: usize = 170;

/// Colours that colour-blind readers tell apart (M. Okabe, K. Ito, "Color Universal Design", 2008).
const KINDS: [(Span, &str, &str); 3] = [
    (Span::Written, "#e69f00", "written by the producer"),
    (Span::Published, "#56b4e9", "published, not read yet"),
    (Span::Read, "#009e73", "read, credit not returned yet"),
];
const FREE: &str = "#eeeeee";
const FAILED: &str = "#d55e00";
const INK: &str = "#464646";

/// The whole picture.
pub fn svg(timeline: &Timeline<'_>) -> String {
    let (rings, left_out) = rings(timeline);
    let axis = Axis::of(timeline);
    let height_of_ring = ROW * timeline.capacity as f64 + GAP;
    let bottom = TOP + height_of_ring * rings.len() as f64;
    let (width, height) = (LEFT + PLOT + RIGHT, bottom + BELOW + if left_out > 0 { 20.0 } else { 0.0 });
    let mut out = Picture(String::new());
    out.add(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">"#
    ));
    out.rect((0.0, 0.0), (width, height), "#ffffff", "");
    out.text((16.0, 26.0), 18, "start", &shortened(&timeline.title[0]));
    out.text((16.0, 46.0), 13, "start", &shortened(&timeline.title[1]));
    legend(&mut out, timeline.failed_at.is_some());

    for (number, &ring) in rings.iter().enumerate() {
        let top = TOP + height_of_ring * number as f64;
        out.text((LEFT - 34.0, top + 12.0), 12, "end", &ring_name(ring));
        for slot in 0..timeline.capacity {
            let y = top + ROW * slot as f64;
            out.text((LEFT - 8.0, y + 12.0), 11, "end", &slot.to_string());
            out.rect((LEFT, y + 1.0), (PLOT, ROW - 2.0), FREE, "");
        }
    }
    out.text((LEFT - 8.0, TOP - 6.0), 11, "end", "ring, slot");
    for held in timeline.spans {
        let Some(number) = rings.iter().position(|&ring| ring == held.ring) else { continue };
        let y = TOP + height_of_ring * number as f64 + ROW * f64::from(held.slot) + 1.0;
        let (x, to) = (axis.at(held.from), axis.at(held.to));
        // At the right edge a short span grows to the left.
        let x = x.min(LEFT + PLOT - WIDTH_MIN);
        let (_, colour, words) = kind(held.span);
        let tip = format!("{}, slot {}: {words}, steps {} to {}", held.ring, held.slot, held.from, held.to);
        out.rect((x, y), ((to - x).max(WIDTH_MIN), ROW - 2.0), colour, &tip);
    }
    if rings.is_empty() {
        out.text((LEFT, TOP - 6.0), 13, "start", "no slot of a ring was touched in the steps that were kept");
    }
    for step in axis.marks() {
        let x = axis.at(step);
        out.line((x, bottom), (x, bottom + 5.0), INK, 1.0);
        out.text((x, bottom + 18.0), 11, "middle", &step.to_string());
    }
    out.line((LEFT, bottom), (LEFT + PLOT, bottom), INK, 1.0);
    out.text((LEFT + PLOT / 2.0, bottom + 38.0), 12, "middle", "step");
    if let Some(step) = timeline.failed_at {
        let x = axis.at(step);
        out.line((x, TOP - 4.0), (x, bottom), FAILED, 2.0);
    }
    if left_out > 0 {
        let words = format!("{left_out} more rings are left out");
        out.text((16.0, bottom + BELOW + 8.0), 12, "start", &words);
    }
    out.add("</svg>");
    out.0
}

/// The rings that were touched, in the order of movement, lane, source and destination, and how many of them
/// find no place.
fn rings(timeline: &Timeline<'_>) -> (Vec<RingName>, usize) {
    let key = |ring: &RingName| (ring.movement as u32, ring.lane, ring.source, ring.destination);
    let mut rings: Vec<RingName> = Vec::new();
    for held in timeline.spans {
        if !rings.contains(&held.ring) {
            rings.push(held.ring);
        }
    }
    rings.sort_by_key(key);
    let fit = (ROWS_MAX / timeline.capacity.max(1)).max(1);
    let left_out = rings.len().saturating_sub(fit);
    rings.truncate(fit);
    (rings, left_out)
}

fn ring_name(ring: RingName) -> String {
    // The ring says `scatter ring 0->1 of lane 0`; a row has room for less.
    ring.to_string().replace(" ring", "").replace(" of lane", ", lane")
}

fn kind(span: Span) -> (Span, &'static str, &'static str) {
    KINDS.into_iter().find(|kind| kind.0 == span).expect("every span has a colour")
}

fn legend(out: &mut Picture, failed: bool) {
    let mut x = LEFT;
    for (_, colour, words) in KINDS.into_iter().chain([(Span::Read, FREE, "free")]) {
        out.rect((x, 57.0), (14.0, 14.0), colour, "");
        out.text((x + 20.0, 68.0), 12, "start", words);
        x += 40.0 + 6.6 * words.len() as f64;
    }
    if failed {
        out.line((x + 7.0, 55.0), (x + 7.0, 73.0), FAILED, 2.0);
        out.text((x + 20.0, 68.0), 12, "start", "a rule is broken");
    }
}

/// Steps from left to right.
struct Axis {
    from: u64,
    to: u64,
}

impl Axis {
    fn of(timeline: &Timeline<'_>) -> Self {
        let from = timeline.spans.iter().map(|held| held.from).min();
        let to = timeline.spans.iter().map(|held| held.to).chain(timeline.failed_at).max();
        let from = from.or(timeline.failed_at).unwrap_or(0);
        Self { from, to: to.unwrap_or(0).max(from + 1) }
    }

    fn at(&self, step: u64) -> f64 {
        LEFT + PLOT * (step - self.from) as f64 / (self.to - self.from) as f64
    }

    /// Up to eleven steps at 1, 2 or 5 times a power of ten.
    fn marks(&self) -> Vec<u64> {
        let steps =
            (0..20).flat_map(|power| [1, 2, 5].map(|digit: u64| digit.saturating_mul(10u64.pow(power))));
        let fits = |step: &u64| (self.to - self.from) / step <= 10;
        let step = { steps }.find(fits).unwrap_or(u64::MAX);
        let first = self.from.div_ceil(step);
        (first..=self.to / step).map(|number| number * step).collect()
    }
}

/// At most [`TITLE_MAX`] characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(TITLE_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_string(),
    }
}

struct Picture(String);

impl Picture {
    fn add(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    /// A filled place; `tip` shows where the pointer rests on it.
    fn rect(&mut self, at: (f64, f64), size: (f64, f64), colour: &str, tip: &str) {
        let ((x, y), (width, height)) = (at, size);
        let _ = write!(
            self.0,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}""#
        );
        match tip {
            "" => self.add("/>"),
            tip => self.add(&format!("><title>{}</title></rect>", escaped(tip))),
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        ));
    }

    fn text(&mut self, at: (f64, f64), size: u32, anchor: &str, text: &str) {
        let ((x, y), text) = (at, escaped(text));
        self.add(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{text}</text>"#
        ));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use myelon_sim::simulation::Simulation;

    use super::*;

    fn draw(spans: &[Held], capacity: usize, failed_at: Option<u64>) -> String {
        let title = ["a <b> & c".to_string(), "x".repeat(500)];
        svg(&Timeline { title, spans, capacity, failed_at })
    }

    fn spans(ranks: usize, lanes: usize) -> Vec<Held> {
        let simulation = Simulation::new(ranks).lanes(lanes).sum("u8", 400);
        simulation.trace(100_000).watch(0).unwrap().1.spans
    }

    #[test]
    fn every_span_has_a_place_a_colour_and_a_tip() {
        let spans = spans(2, 1);
        let svg = draw(&spans, 2, None);
        assert_eq!(svg.matches("<title>").count(), spans.len());
        for (span, colour, _) in KINDS {
            let of_kind = spans.iter().filter(|held| held.span == span).count();
            // One more in the legend.
            assert_eq!(svg.matches(colour).count(), of_kind + 1, "{span:?}");
            assert!(of_kind > 2);
        }
        // Two movements, two directions, two slots, and the legend.
        assert_eq!(svg.matches(FREE).count(), 8 + 1);
        assert!(svg.contains("scatter 0-&gt;1, lane 0") && svg.contains("gather 1-&gt;0, lane 0"));
        assert!(!svg.contains(FAILED) && !svg.contains("NaN"));
    }

    #[test]
    fn the_step_that_failed_is_marked_and_titles_are_text() {
        let svg = draw(&spans(2, 1), 2, Some(9_999));
        assert_eq!(svg.matches(FAILED).count(), 2);
        assert!(svg.contains("a &lt;b&gt; &amp; c") && svg.contains("xxx ..."));
    }

    #[test]
    fn rings_without_a_place_are_counted() {
        let svg = draw(&spans(4, 2), 64, None);
        assert!(svg.contains(&format!("{} more rings", 2 * 2 * 12 - ROWS_MAX / 64)), "{svg}");
    }

    #[test]
    fn nothing_at_all_is_a_picture_too() {
        assert!(draw(&[], 1, None).contains("no slot of a ring was touched"));
        assert!(draw(&[], 1, Some(7)).contains("no slot of a ring was touched"));
    }

    #[test]
    fn marks_are_round_and_few() {
        let marks = |from, to| Axis { from, to }.marks();
        assert_eq!(marks(0, 10), (0..=10).collect::<Vec<u64>>());
        assert_eq!(marks(130, 900), [200, 300, 400, 500, 600, 700, 800, 900]);
        assert_eq!(marks(49_989, 50_019), [49_990, 49_995, 50_000, 50_005, 50_010, 50_015]);
        assert!(marks(0, u64::MAX).len() <= 11);
    }
}
