//! What tiles of a dashboard draw: a line of a day, the hours of a week, a small map. Drawn by the server; each says in words what it shows.

use super::badge::State;
use crate::{Markup, Page, format};

/// A line without axes, to see where a value comes from.
#[derive(Clone, Debug)]
pub struct Sparkline {
    points: Vec<Option<f64>>,
    unit: String,
}

impl Sparkline {
    /// One value for each hour, the newest last.
    pub fn new(points: Vec<Option<f64>>, unit: &str) -> Self {
        Self { points, unit: unit.to_owned() }
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        let known = || self.points.iter().flatten().copied().filter(|v| v.is_finite());
        let (low, high) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if known().count() < 2 {
            return out;
        }
        let quantity = |v: f64| page.quantity(v, &self.unit, format::decimals_for(v).min(1));
        let says =
            page.msg("tile.spark").n(self.points.len() as u64).with("min", quantity(low)).with("max", quantity(high));
        out.raw("<svg class=\"spark\" viewBox=\"0 0 100 24\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"")
            .text(says);
        out.raw("\"><path d=\"").text(line(&self.points, low, high)).raw("\"/></svg>");
        out
    }
}

/// An SVG path in a box of 100 by 24; it stops where nothing is known. A value between two gaps is a dot.
fn line(points: &[Option<f64>], low: f64, high: f64) -> String {
    let width = (points.len().max(2) - 1) as f64;
    let span = if high > low { high - low } else { 1.0 };
    let mut d = String::new();
    let mut joined = false;
    for (at, value) in points.iter().enumerate() {
        let Some(value) = value.filter(|v| v.is_finite()) else {
            joined = false;
            continue;
        };
        let (x, y) = (at as f64 / width * 100.0, 22.0 - (value - low) / span * 20.0);
        let alone = !joined && points.get(at + 1).is_none_or(Option::is_none);
        let step = if joined { 'L' } else { 'M' };
        d.push_str(&format!("{step}{x:.1} {y:.1}{}", if alone { "h0" } else { "" }));
        joined = true;
    }
    d
}

/// Seven days by twenty-four hours, darker where there is more. A table: whoever hears it hears the numbers.
#[derive(Clone, Debug)]
pub struct HeatStrip {
    title: String,
    cells: [[Option<f64>; 24]; 7],
    unit: String,
}

/// Steps from light to dark.
const SHADES: [&str; 5] = ["q0", "q1", "q2", "q3", "q4"];

impl HeatStrip {
    /// Monday first.
    pub fn new(title: impl std::fmt::Display, cells: [[Option<f64>; 24]; 7], unit: &str) -> Self {
        Self { title: title.to_string(), cells, unit: unit.to_owned() }
    }

    /// Name of a day, Monday first. lang-keys: tile.day.*
    pub fn day(page: &Page, day: usize) -> &str {
        page.t(match day {
            0 => "tile.day.mon",
            1 => "tile.day.tue",
            2 => "tile.day.wed",
            3 => "tile.day.thu",
            4 => "tile.day.fri",
            5 => "tile.day.sat",
            _ => "tile.day.sun",
        })
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        let known = || self.cells.iter().flatten().flatten().copied().filter(|v| v.is_finite());
        let (low, high) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            out.raw("<p class=\"empty\">").text(page.t("chart.empty")).raw("</p>");
            return out;
        }
        let decimals = format::decimals_for(high - low).min(1);
        out.raw("<table class=\"heat\"><caption class=\"visually-hidden\">")
            .text(&self.title)
            .raw("</caption><thead><tr><td></td>");
        for hour in 0..24 {
            out.raw("<th scope=\"col\">");
            // Each sixth is written, the others are there for those who hear them.
            if hour % 6 == 0 {
                out.text(format!("{hour:02}"));
            } else {
                out.raw("<span class=\"visually-hidden\">").text(format!("{hour:02}")).raw("</span>");
            }
            out.raw("</th>");
        }
        out.raw("</tr></thead><tbody>");
        for (day, row) in self.cells.iter().enumerate() {
            out.raw("<tr><th scope=\"row\">").text(Self::day(page, day)).raw("</th>");
            for (hour, value) in row.iter().enumerate() {
                match value.filter(|v| v.is_finite()) {
                    Some(v) => {
                        let share = if high > low { (v - low) / (high - low) } else { 0.0 };
                        // Within 0 and 4 by construction.
                        let shade = SHADES[((share * 5.0) as usize).min(4)];
                        let said = page.quantity(v, &self.unit, decimals);
                        out.raw("<td class=\"").raw(shade).raw("\" title=\"").text(Self::day(page, day)).raw(" ");
                        out.text(format!("{hour:02}:00 {said}")).raw("\"><span class=\"visually-hidden\">").text(said);
                    }
                    None => {
                        out.raw("<td><span class=\"visually-hidden\">").text(page.t("chart.gap"));
                    }
                }
                out.raw("</span></td>");
            }
            out.raw("</tr>");
        }
        out.raw("</tbody></table><p class=\"heat-legend\"><span>")
            .text(page.quantity(low, &self.unit, decimals))
            .raw("</span>");
        for shade in SHADES {
            out.raw("<i class=\"").raw(shade).raw("\"></i>");
        }
        out.raw("<span>").text(page.quantity(high, &self.unit, decimals)).raw("</span></p>");
        out
    }
}

/// Where things are, as shapes over the outline of the land. The list of the same things stands beside it, written by whoever uses it.
#[derive(Clone, Debug)]
pub struct MiniMap {
    says: String,
    bounds: [f64; 4],
    land: Option<String>,
    points: Vec<([f64; 2], State)>,
}

/// Units of the drawing in a degree of latitude: about eleven metres each.
const SCALE: f64 = 10_000.0;
/// The least that is shown, in degrees: a single place is not a map.
const LEAST: f64 = 0.04;

/// A place in the drawing: equirectangular, true to shape at the middle of the city.
pub fn project(bounds: [f64; 4], [lon, lat]: [f64; 2]) -> [f64; 2] {
    let [west, south, _, north] = bounds;
    let narrow = f64::midpoint(south, north).to_radians().cos();
    [(lon - west) * narrow * SCALE, (north - lat) * SCALE]
}

impl MiniMap {
    /// `says` is what the drawing shows, for those who do not see it; `bounds` are the city's west, south, east and north.
    pub fn new(says: impl std::fmt::Display, bounds: [f64; 4]) -> Self {
        Self { says: says.to_string(), bounds, land: None, points: Vec::new() }
    }
    /// Address of an SVG whose symbol `land` is drawn with [`project`].
    #[must_use]
    pub fn land(mut self, href: impl Into<String>) -> Self {
        self.land = Some(href.into());
        self
    }
    /// In the order in which they are drawn.
    #[must_use]
    pub fn point(mut self, position: [f64; 2], state: State) -> Self {
        self.points.push((position, state));
        self
    }

    /// What is shown: the places with some room around them, in a box of three by two.
    fn window(&self) -> [f64; 4] {
        let [west, south, east, north] = self.bounds;
        let inside = self.points.iter().filter(|([x, y], _)| (west..=east).contains(x) && (south..=north).contains(y));
        let extent = inside.fold(None, |e: Option<[f64; 4]>, ([x, y], _)| {
            let [w, s, e, n] = e.unwrap_or([*x, *y, *x, *y]);
            Some([w.min(*x), s.min(*y), e.max(*x), n.max(*y)])
        });
        let [w, s, e, n] = extent.unwrap_or(self.bounds);
        let (room_x, room_y) = ((LEAST - (e - w)).max(0.0) / 2.0, (LEAST - (n - s)).max(0.0) / 2.0);
        let ([x0, y0], [x1, y1]) =
            (project(self.bounds, [w - room_x, n + room_y]), project(self.bounds, [e + room_x, s - room_y]));
        let (mut width, mut height) = ((x1 - x0) * 1.2, (y1 - y0) * 1.2);
        let (middle_x, middle_y) = (f64::midpoint(x0, x1), f64::midpoint(y0, y1));
        if width < height * 1.5 {
            width = height * 1.5;
        } else {
            height = width / 1.5;
        }
        [middle_x - width / 2.0, middle_y - height / 2.0, width, height]
    }

    pub fn html(&self, _: &Page) -> Markup {
        let mut out = Markup::default();
        let [x, y, width, height] = self.window();
        out.raw("<svg class=\"minimap\" role=\"img\" aria-label=\"").text(&self.says).raw("\" viewBox=\"");
        out.text(format!("{x:.0} {y:.0} {width:.0} {height:.0}")).raw("\">");
        if let Some(land) = &self.land {
            out.raw("<use class=\"land\" href=\"").text(land).raw("#land\"/>");
        }
        // A fortieth of the width, whatever that is.
        let size = width / 40.0 / 16.0;
        for (position, state) in &self.points {
            let [px, py] = project(self.bounds, *position);
            out.raw("<g class=\"shape ").raw(state.name()).raw("\" transform=\"translate(");
            out.text(format!("{:.0} {:.0}", px - 8.0 * size, py - 8.0 * size)).raw(") scale(");
            out.text(format!("{size:.2}")).raw(")\">").raw(state.shape()).raw("</g>");
        }
        out.raw("</svg>");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stops_where_nothing_is_known() {
        let points = [Some(0.0), Some(1.0), None, Some(2.0), None, Some(f64::NAN)];
        let d = line(&points, 0.0, 2.0);
        assert_eq!(d, "M0.0 22.0L20.0 12.0M60.0 2.0h0");
        assert_eq!(
            line(&[Some(3.0), Some(3.0)], 3.0, 3.0),
            "M0.0 22.0L100.0 22.0",
            "a flat line has no height to divide by"
        );
    }

    #[test]
    fn a_window_holds_its_places_and_is_never_a_point() {
        let bounds = [113.82, 22.13, 114.45, 22.57];
        let map = |points: &[[f64; 2]]| points.iter().fold(MiniMap::new("", bounds), |m, p| m.point(*p, State::Good));
        for points in [vec![[114.1, 22.3]], vec![[113.9, 22.2], [114.4, 22.5]], vec![]] {
            let [x, y, width, height] = map(&points).window();
            assert!(width > 100.0 && (width / height - 1.5).abs() < 1e-6, "{width} {height}");
            for point in &points {
                let [px, py] = project(bounds, *point);
                assert!((x..=x + width).contains(&px) && (y..=y + height).contains(&py), "{point:?}");
            }
        }
        // What lies outside of the city does not make it small.
        assert_eq!(map(&[[114.1, 22.3], [0.0, 0.0]]).window(), map(&[[114.1, 22.3]]).window());
    }
}
