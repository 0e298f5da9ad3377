//! Drawings of places: tracks and fences as SVG, for pages without scripts and for print. Neither inline styles nor scripts.

use ui::Markup;

use crate::{catalog::cells::Bounds, moving::Place};

/// The longer side of a drawing, in units of its own.
const SIDE: f64 = 1_000.0;
/// The least that is drawn, in degrees: about a hundred metres.
const LEAST: f64 = 0.001;

/// One line on a drawing.
pub struct Line {
    pub class: &'static str,
    pub points: Vec<Place>,
}

/// One mark with a word beside it.
pub struct Mark {
    pub class: &'static str,
    pub at: Place,
    pub label: String,
}

pub struct Drawing {
    pub lines: Vec<Line>,
    pub marks: Vec<Mark>,
    /// What is seen, for those who do not see it.
    pub summary: String,
}

/// The box around places, with a margin; `None` without any.
pub fn around<'a>(places: impl Iterator<Item = &'a Place>) -> Option<Bounds> {
    let boxes = places.map(|p| Bounds { min_x: p.lon, min_y: p.lat, max_x: p.lon, max_y: p.lat });
    let all = boxes.reduce(|a, b| a.with(&b))?;
    Some(all.widened(0.06 * (all.max_x - all.min_x).max(all.max_y - all.min_y).max(LEAST)))
}

impl Drawing {
    /// What lies in `window`; the rest is cut off at the edge.
    pub fn html(&self, window: &Bounds) -> Markup {
        let shrink = ((window.min_y + window.max_y) / 2.0).to_radians().cos().max(0.05);
        let (wide, high) = ((window.max_x - window.min_x) * shrink, window.max_y - window.min_y);
        let scale = SIDE / wide.max(high).max(1e-9);
        let at = |p: &Place| {
            let (x, y) = ((p.lon - window.min_x) * shrink * scale, (window.max_y - p.lat) * scale);
            format!("{x:.1} {y:.1}")
        };
        let mut out = Markup::default();
        out.raw("<svg class=\"track-drawing\" role=\"img\" preserveAspectRatio=\"xMidYMid meet\" viewBox=\"0 0 ");
        out.text(format!("{:.0} {:.0}", wide * scale, high * scale))
            .raw("\" aria-label=\"")
            .text(&self.summary)
            .raw("\">");
        for line in &self.lines {
            let path: Vec<String> = line.points.iter().map(at).collect();
            // A single place is a dot: a line of no length with round ends.
            let path = if path.len() == 1 { format!("M{}h0", path[0]) } else { format!("M{}", path.join("L")) };
            out.raw("<path class=\"").raw(line.class).raw("\" d=\"").text(path).raw("\"/>");
        }
        for mark in &self.marks {
            let place = at(&mark.at);
            let (x, y) = place.split_once(' ').unwrap_or_default();
            out.raw("<circle class=\"")
                .raw(mark.class)
                .raw("\" r=\"9\" cx=\"")
                .text(x)
                .raw("\" cy=\"")
                .text(y)
                .raw("\"/>");
            if !mark.label.is_empty() {
                let right = x.parse::<f64>().is_ok_and(|x| x > 0.7 * wide * scale);
                out.raw(if right { "<text class=\"left\" x=\"" } else { "<text x=\"" });
                let x = x.parse::<f64>().unwrap_or_default() + if right { -16.0 } else { 16.0 };
                out.text(format!("{x:.1}")).raw("\" y=\"").text(y).raw("\">").text(&mark.label).raw("</text>");
            }
        }
        out.raw("</svg>");
        out
    }
}
