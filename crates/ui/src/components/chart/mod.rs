//! A time-series chart drawn by the server: lines named at their ends, gaps left open, the same values as a table behind it.
//!
//! The drawing needs neither scripts nor inline styles. It is made of four SVGs in a grid: only the middle one stretches with the window, so text keeps its size
//! on a phone. The `chart` island replaces the drawing, inside the same box.

mod scale;

use std::fmt::Write;

use kernel::Timestamp;
use serde_json::json;

use self::scale::{spread, time_ticks, value_ticks};
use super::{
    badge::simulated,
    island,
    table::{Download, downloads},
};
use crate::{Markup, Page, format};

/// More lines than this cannot be told apart (LOOK: at most six).
const MAX_SERIES: usize = 6;
/// Points of a line that reach the page; beyond it each bucket keeps its lowest and highest.
const MAX_POINTS: usize = 480;
/// Rows of the table behind the chart.
const MAX_ROWS: usize = 120;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 270.0;
/// The stretched drawing's own width; any number does.
const WIDTH: f64 = 1_000.0;

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    points: Vec<(Timestamp, Option<f64>)>,
    datastream: Option<String>,
    simulated: bool,
}

impl Series {
    /// Points by ascending time; `None` is a moment at which a value was due and absent.
    pub fn new(name: impl std::fmt::Display, points: Vec<(Timestamp, Option<f64>)>) -> Self {
        Self { name: name.to_string(), points, datastream: None, simulated: false }
    }
    /// The Datastream's id: the `chart` island then appends live values.
    #[must_use]
    pub fn datastream(mut self, id: impl std::fmt::Display) -> Self {
        self.datastream = Some(id.to_string());
        self
    }
    #[must_use]
    pub fn simulated(mut self, simulated: bool) -> Self {
        self.simulated = simulated;
        self
    }
    fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|p| p.1).filter(|v| v.is_finite())
    }
    fn last(&self) -> Option<(Timestamp, f64)> {
        self.points.iter().rev().find_map(|(at, v)| Some((*at, v.filter(|v| v.is_finite())?)))
    }
}

#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    unit: String,
    series: Vec<Series>,
    range: Option<(Timestamp, Timestamp)>,
    gap_after: Option<i64>,
    thresholds: Vec<(String, f64)>,
    from_zero: bool,
    decimals: Option<u8>,
    downloads: Vec<Download>,
    source: Option<String>,
}

impl LineChart {
    /// The title states the finding where one is known, else what is shown. `unit` is the symbol that all series share.
    pub fn new(title: impl std::fmt::Display, unit: &str) -> Self {
        Self {
            title: title.to_string(),
            unit: unit.to_owned(),
            series: Vec::new(),
            range: None,
            gap_after: None,
            thresholds: Vec::new(),
            from_zero: false,
            decimals: None,
            downloads: Vec::new(),
            source: None,
        }
    }
    /// Adds a line. A seventh and later ones are left out: choose on the page which six matter.
    #[must_use]
    pub fn series(mut self, series: Series) -> Self {
        if self.series.len() < MAX_SERIES {
            self.series.push(series);
        }
        self
    }
    /// The period shown, also where there are no values.
    #[must_use]
    pub fn range(mut self, from: Timestamp, to: Timestamp) -> Self {
        self.range = Some((from, to));
        self
    }
    /// Seconds between two values beyond which the line is interrupted: a few of the sensor's own intervals.
    #[must_use]
    pub fn gap_after(mut self, seconds: i64) -> Self {
        self.gap_after = Some(seconds.saturating_mul(1_000_000));
        self
    }
    /// A level that means something: where an alarm is raised, a legal limit.
    #[must_use]
    pub fn threshold(mut self, name: impl std::fmt::Display, value: f64) -> Self {
        self.thresholds.push((name.to_string(), value));
        self
    }
    /// The axis starts at zero, as amounts should.
    #[must_use]
    pub fn from_zero(mut self) -> Self {
        self.from_zero = true;
        self
    }
    #[must_use]
    pub fn decimals(mut self, decimals: u8) -> Self {
        self.decimals = Some(decimals);
        self
    }
    #[must_use]
    pub fn download(mut self, format: &'static str, href: impl Into<String>) -> Self {
        self.downloads.push(Download { format, href: href.into() });
        self
    }
    /// Where the island asks for other periods: `GET <source>&from=<RFC 3339>&to=<RFC 3339>` answers
    /// `{"series": [{"points": [[<ms>, <value or null>], …]}, …]}` in the order of the series here.
    #[must_use]
    pub fn source(mut self, href: impl Into<String>) -> Self {
        self.source = Some(href.into());
        self
    }

    fn period(&self) -> Option<(Timestamp, Timestamp)> {
        if let Some((from, to)) = self.range {
            return (from < to).then_some((from, to));
        }
        let times = || self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
        let (from, to) = (times().min()?, times().max()?);
        Some(if from < to { (from, to) } else { (from.plus_secs(-1_800), to.plus_secs(1_800)) })
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<figure class=\"chart\"><figcaption>").text(&self.title);
        if self.series.iter().any(|s| s.simulated) {
            out.raw(" ");
            simulated(&mut out, page);
        }
        out.raw("</figcaption>");
        let has_values = self.series.iter().any(|s| s.values().next().is_some());
        match self.period().filter(|_| has_values) {
            None => {
                out.raw("<p class=\"empty\">").text(page.t("chart.empty")).raw("</p>");
            }
            Some(period) => {
                let plot = self.plot(period);
                let drawing = self.draw(&plot, page);
                out.push(&island("chart", &self.props(&plot, page), &drawing));
                self.table(&mut out, page);
            }
        }
        downloads(&mut out, &self.downloads, page);
        out.raw("</figure>");
        out
    }

    fn plot(&self, (start, end): (Timestamp, Timestamp)) -> Plot {
        let values = self.series.iter().flat_map(Series::values).chain(self.thresholds.iter().map(|t| t.1));
        let zero = self.from_zero.then_some(0.0);
        let (low, high) =
            values.chain(zero).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (ticks, tick_decimals) = value_ticks(low, high, 4);
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        let lines = self.series.iter().map(|s| thin(&s.points, start, end)).collect();
        Plot { start, end, low, high, ticks, tick_decimals, lines }
    }

    fn decimals_of(&self, plot: &Plot) -> u8 {
        self.decimals.unwrap_or(plot.tick_decimals + 1)
    }

    fn draw(&self, plot: &Plot, page: &Page) -> Markup {
        let unit = format::unit(&page.site.catalogue, page.language, &self.unit);
        let decimals = self.decimals_of(plot);
        let mut out = Markup::default();
        out.raw("<div class=\"drawing\" role=\"img\" aria-label=\"").text(self.summary(decimals, page)).raw("\">");

        out.raw("<p class=\"axis-unit\" aria-hidden=\"true\">").text(unit).raw("</p>");
        out.raw("<svg class=\"axis-y\" aria-hidden=\"true\" focusable=\"false\">");
        for tick in &plot.ticks {
            out.raw("<text x=\"100%\" y=\"").text(round(plot.y(*tick))).raw("\">");
            out.text(format::number(*tick, plot.tick_decimals)).raw("</text>");
        }
        out.raw("</svg>");

        out.raw("<svg class=\"plot\" viewBox=\"0 0 1000 280\" preserveAspectRatio=\"none\" aria-hidden=\"true\" focusable=\"false\">");
        out.raw("<path class=\"grid\" d=\"");
        for tick in &plot.ticks {
            out.raw("M0 ").text(round(plot.y(*tick))).raw("H1000");
        }
        out.raw("\"/>");
        for (_, level) in &self.thresholds {
            let y = round(plot.y(*level));
            out.raw("<path class=\"threshold\" d=\"M0 ").text(y).raw("H1000\"/>");
        }
        for (line, class) in plot.lines.iter().zip(CLASSES) {
            out.raw("<path class=\"line ").raw(class).raw("\" d=\"").text(path(line, self.gap_after, plot)).raw("\"/>");
        }
        out.raw("</svg>");

        self.ends(&mut out, plot, decimals, page);

        out.raw("<svg class=\"axis-x\" aria-hidden=\"true\" focusable=\"false\">");
        let ticks = time_ticks(page.language, plot.start, plot.end, &page.site.zone, 6);
        for (i, (at, label)) in ticks.iter().enumerate() {
            let x = plot.x(*at) / WIDTH * 100.0;
            out.raw(if i % 2 == 0 { "<text x=\"" } else { "<text class=\"minor\" x=\"" }).text(round(x));
            out.raw("%\" y=\"16\">").text(label).raw("</text>");
        }
        out.raw("</svg></div>");
        out
    }

    /// Names at the lines' ends, moved apart where they would lie on each other; thresholds are named here too.
    fn ends(&self, out: &mut Markup, plot: &Plot, decimals: u8, page: &Page) {
        let mut labels = Vec::new();
        for (series, class) in self.series.iter().zip(CLASSES) {
            if let Some((_, value)) = series.last() {
                let text = if self.series.len() == 1 {
                    page.quantity(value, &self.unit, decimals)
                } else {
                    shorten(&series.name)
                };
                labels.push((plot.y(value), class, text));
            }
        }
        labels.extend(self.thresholds.iter().map(|(name, value)| (plot.y(*value), "threshold", shorten(name))));
        let wanted: Vec<f64> = labels.iter().map(|l| l.0).collect();
        let placed = spread(&wanted, 18.0, TOP, BOTTOM);
        out.raw("<svg class=\"ends\" aria-hidden=\"true\" focusable=\"false\">");
        for ((y, class, text), at) in labels.iter().zip(placed) {
            out.raw("<path class=\"leader ").raw(class).raw("\" d=\"M0 ").text(round(*y)).raw("L8 ").text(round(at));
            out.raw("H12\"/><text class=\"").raw(class).raw("\" x=\"16\" y=\"").text(round(at)).raw("\">");
            out.text(text).raw("</text>");
        }
        out.raw("</svg>");
    }

    /// What the drawing says, for those who do not see it: the title, then each line's lowest, highest and last value.
    fn summary(&self, decimals: u8, page: &Page) -> String {
        let mut text = self.title.clone();
        for series in &self.series {
            let Some((_, last)) = series.last() else { continue };
            let low = series.values().fold(f64::INFINITY, f64::min);
            let high = series.values().fold(f64::NEG_INFINITY, f64::max);
            let quantity = |v| page.quantity(v, &self.unit, decimals);
            let sentence = page
                .msg("chart.summary")
                .with("name", &series.name)
                .with("min", quantity(low))
                .with("max", quantity(high))
                .with("last", quantity(last));
            // Writing to a String cannot fail.
            let _ = write!(text, " – {sentence}");
        }
        text
    }

    /// The same values as rows, thinned to what a page can carry.
    fn table(&self, out: &mut Markup, page: &Page) {
        let mut times: Vec<Timestamp> = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
        times.sort_unstable();
        times.dedup();
        let every = times.len().div_ceil(MAX_ROWS).max(1);
        out.raw("<details><summary>").text(page.t("chart.table")).raw("</summary>");
        if every > 1 {
            out.raw("<p class=\"hint\">").text(page.msg("chart.thinned").n(every)).raw("</p>");
        }
        out.raw("<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"").text(&self.title);
        out.raw("\"><table><thead><tr><th scope=\"col\">").text(page.t("chart.time")).raw("</th>");
        let unit = format::unit(&page.site.catalogue, page.language, &self.unit);
        for series in &self.series {
            out.raw("<th scope=\"col\" class=\"number\">").text(&series.name);
            if !unit.is_empty() {
                out.raw(" (").text(unit).raw(")");
            }
            out.raw("</th>");
        }
        out.raw("</tr></thead><tbody>");
        for at in times.iter().rev().step_by(every) {
            out.raw("<tr><th scope=\"row\">").text(format::compact(*at, &page.site.zone)).raw("</th>");
            for series in &self.series {
                let found = series.points.binary_search_by_key(at, |p| p.0).ok().and_then(|i| series.points[i].1);
                out.raw("<td class=\"number\">");
                match found.filter(|v| v.is_finite()) {
                    Some(v) => out.text(format::number(v, self.decimals.unwrap_or_else(|| format::decimals_for(v)))),
                    None => out.raw("<span class=\"none\">").text(page.t("chart.gap")).raw("</span>"),
                };
                out.raw("</td>");
            }
            out.raw("</tr>");
        }
        out.raw("</tbody></table></div></details>");
    }

    /// What the island reads; `Props` in `web/src/chart/view.ts` has the same shape. lang-keys: island.*
    fn props(&self, plot: &Plot, page: &Page) -> serde_json::Value {
        let series: Vec<_> = self
            .series
            .iter()
            .zip(&plot.lines)
            .map(|(s, line)| {
                let points: Vec<_> = line.iter().map(|(at, v)| json!([at.as_micros() / 1_000, v])).collect();
                json!({ "name": s.name, "datastream": s.datastream, "points": points })
            })
            .collect();
        let label = |key| page.t(key);
        json!({
            "title": self.title,
            "unit": format::unit(&page.site.catalogue, page.language, &self.unit),
            "decimals": self.decimals_of(plot),
            "language": page.language.tag(),
            "zone": page.site.zone.iana_name().unwrap_or("UTC"),
            "from": plot.start.as_micros() / 1_000,
            "to": plot.end.as_micros() / 1_000,
            "gap": self.gap_after.map(|g| g / 1_000),
            "fromZero": self.from_zero,
            "simulated": self.series.iter().any(|s| s.simulated),
            "series": series,
            "thresholds": self.thresholds.iter().map(|(n, v)| json!({ "name": n, "value": v })).collect::<Vec<_>>(),
            "source": self.source,
            "labels": {
                "day": label("island.day"), "week": label("island.week"), "month": label("island.month"),
                "all": label("island.all"), "reset": label("island.reset"), "png": label("island.png"),
                "time": label("chart.time"), "help": label("island.chart-help"), "none": label("chart.gap"),
                "simulated": label("state.simulated"),
            },
        })
    }
}

const CLASSES: [&str; MAX_SERIES] = ["s1", "s2", "s3", "s4", "s5", "s6"];

struct Plot {
    start: Timestamp,
    end: Timestamp,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    tick_decimals: u8,
    lines: Vec<Vec<(Timestamp, Option<f64>)>>,
}

impl Plot {
    fn x(&self, at: Timestamp) -> f64 {
        at.micros_since(self.start) as f64 / self.end.micros_since(self.start) as f64 * WIDTH
    }
    fn y(&self, value: f64) -> f64 {
        BOTTOM - (value - self.low) / (self.high - self.low) * (BOTTOM - TOP)
    }
}

/// One place after the point: a tenth of a pixel.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The points within the period, at most [`MAX_POINTS`]: of each bucket the lowest and the highest, so that no peak is
/// lost, and a `None` where the bucket had one, so that no gap is closed.
fn thin(points: &[(Timestamp, Option<f64>)], start: Timestamp, end: Timestamp) -> Vec<(Timestamp, Option<f64>)> {
    let clean = |p: &(Timestamp, Option<f64>)| (p.0, p.1.filter(|v| v.is_finite()));
    let within: Vec<_> = points.iter().filter(|p| start <= p.0 && p.0 <= end).map(clean).collect();
    if within.len() <= MAX_POINTS {
        return within;
    }
    let size = within.len().div_ceil(MAX_POINTS / 3);
    let mut kept = Vec::with_capacity(MAX_POINTS);
    for bucket in within.chunks(size) {
        let value = |p: &&(Timestamp, Option<f64>)| p.1.unwrap_or(f64::NAN);
        let known = || bucket.iter().filter(|p| p.1.is_some());
        let low = known().min_by(|a, b| value(a).total_cmp(&value(b)));
        let high = known().max_by(|a, b| value(a).total_cmp(&value(b)));
        let gap = bucket.iter().find(|p| p.1.is_none());
        let mut few: Vec<_> = low.into_iter().chain(high).chain(gap).copied().collect();
        few.sort_by_key(|p| p.0);
        few.dedup_by_key(|p| p.0);
        kept.extend(few);
    }
    kept
}

/// An SVG path that starts anew after every gap. A value between two gaps becomes a dot (a line of no length, round caps).
fn path(points: &[(Timestamp, Option<f64>)], gap_after: Option<i64>, plot: &Plot) -> String {
    let mut d = String::new();
    let mut last: Option<Timestamp> = None;
    let mut alone = false;
    for (at, value) in points {
        let Some(value) = value else {
            if alone {
                d.push_str("h0");
            }
            (last, alone) = (None, false);
            continue;
        };
        let (x, y) = (round(plot.x(*at)), round(plot.y(*value)));
        let joined = last.is_some_and(|l| gap_after.is_none_or(|gap| at.micros_since(l) <= gap));
        if !joined && alone {
            d.push_str("h0");
        }
        // Writing to a String cannot fail.
        let _ = write!(d, "{}{x} {y}", if joined { 'L' } else { 'M' });
        (last, alone) = (Some(*at), !joined);
    }
    if alone {
        d.push_str("h0");
    }
    d
}

/// Cuts a name to what the column at the lines' ends holds; a Chinese character is as wide as two Latin letters.
fn shorten(name: &str) -> String {
    const ROOM: usize = 12;
    let mut used = 0;
    for (at, c) in name.char_indices() {
        used += if c.is_ascii() { 1 } else { 2 };
        if used > ROOM {
            return format!("{}…", name[..at].trim_end());
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_stay_open_and_lone_values_show() {
        let at = |s: i64| Timestamp::from_secs(s);
        let points = [
            (at(0), Some(0.0)),
            (at(10), Some(5.0)),
            (at(20), None),
            (at(30), Some(5.0)),
            (at(90), Some(10.0)),
            (at(100), Some(0.0)),
        ];
        let plot = Plot {
            start: at(0),
            end: at(100),
            low: 0.0,
            high: 10.0,
            ticks: vec![0.0, 10.0],
            tick_decimals: 0,
            lines: vec![],
        };
        assert_eq!(path(&points, Some(20_000_000), &plot), "M0 270L100 140M300 140h0M900 10L1000 270");
    }

    #[test]
    fn thinning_keeps_peaks_and_gaps() {
        let mut points: Vec<_> = (0..10_000).map(|i| (Timestamp::from_secs(i), Some(1.0))).collect();
        points[5_003].1 = Some(99.0);
        points[7_777].1 = None;
        let thinned = thin(&points, Timestamp::from_secs(0), Timestamp::from_secs(10_000));
        assert!(thinned.len() <= MAX_POINTS, "{}", thinned.len());
        assert!(thinned.contains(&(Timestamp::from_secs(5_003), Some(99.0))));
        assert!(thinned.contains(&(Timestamp::from_secs(7_777), None)));
        assert!(thinned.is_sorted_by_key(|p| p.0));
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shorten("Kai Tak"), "Kai Tak");
        assert_eq!(shorten("Lei Yue Mun Municipal"), "Lei Yue Mun…");
        assert_eq!(shorten("鯉魚門市政大廈測量站"), "鯉魚門市政大…");
    }
}
