//! The tiles of a dashboard as they are drawn: the same on a desk, on a phone and on a wall.

use kernel::Text;
use ui::{Badge, Cell, Column, HeatStrip, LineChart, Markup, MiniMap, Page, Series, Sparkline, State, Table};

use super::super::{Pages, alarms::severity, decimals};
use crate::{
    alarms::model::AlarmState,
    dashboards::{
        data::{Alarms, Chart, Entry, Figure, Heat, List, Place, Places, Row, Shape, Shown},
        model::{Combine, Period, Standing, Tile},
        words,
    },
    model::ResultValue,
    rules::model::Severity,
};

pub fn state(standing: Standing) -> State {
    match standing {
        Standing::Unknown => State::Unknown,
        Standing::Good => State::Good,
        Standing::Notice => State::Notice,
        Standing::Offline => State::Offline,
        Standing::Warning => State::Warning,
        Standing::Alarm => State::Alarm,
    }
}

/// A state with the word of its level, or the usual one.
fn badge(page: &Page, standing: Standing, level: Option<&Text>, alarm: bool) -> Badge {
    let shown = Badge::new(state(standing));
    match level {
        Some(word) => shown.word(page.text(word)),
        None if alarm => shown.word(page.t("board.alarm-stands")),
        None => shown,
    }
}

fn simulated(out: &mut Markup, page: &Page) {
    out.raw(" <span class=\"simulated\">").text(page.t("state.simulated")).raw("</span>");
}

/// All tiles: what an open page asks for again and puts in the place of the old ones.
pub fn tiles(pages: &Pages, page: &Page, shown: &Shown) -> Markup {
    let mut out = Markup::default();
    for (nth, (tile, shape)) in shown.dashboard.declaration.tiles.iter().zip(&shown.tiles).enumerate() {
        let width = match tile.width {
            1 => "<section class=\"tile w1",
            2 => "<section class=\"tile w2",
            3 => "<section class=\"tile w3",
            _ => "<section class=\"tile w4",
        };
        out.raw(width)
            .raw(level_class(shape))
            .raw("\" aria-labelledby=\"tile-")
            .text(nth)
            .raw("\"><h2 id=\"tile-")
            .text(nth)
            .raw("\">");
        out.text(page.text(&tile.title));
        if is_simulated(shape) {
            simulated(&mut out, page);
        }
        out.raw("</h2>");
        match shape {
            Shape::Value(figure) => value(&mut out, page, tile, figure),
            Shape::List(list) => rows(&mut out, page, tile, list),
            Shape::Chart(chart) => line(&mut out, page, tile, chart),
            Shape::Alarms(alarms) => bells(&mut out, page, alarms),
            Shape::Map(places) => map(&mut out, pages, page, tile, places),
            Shape::Heat(heat) => strip(&mut out, page, tile, heat),
            Shape::Text(text) => {
                for paragraph in page.text(text).split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
                    out.raw("<p>").text(paragraph).raw("</p>");
                }
            }
        }
        out.raw("</section>");
    }
    if shown.tiles.is_empty() {
        out.raw("<p class=\"note\">").text(page.t("board.no-tiles")).raw("</p>");
    }
    out
}

/// A value that is out of order is seen from across the room; its badge says so in words.
fn level_class(shape: &Shape) -> &'static str {
    let Shape::Value(figure) = shape else { return "" };
    match figure.state {
        Some(Standing::Alarm) => " is-alarm",
        Some(Standing::Warning) => " is-warning",
        Some(Standing::Offline | Standing::Unknown) => " is-quiet",
        _ => "",
    }
}

fn is_simulated(shape: &Shape) -> bool {
    match shape {
        Shape::Value(f) => f.simulated,
        Shape::List(l) => l.rows.iter().any(|r| r.simulated),
        Shape::Chart(c) => c.simulated,
        Shape::Map(m) => m.simulated,
        Shape::Heat(h) => h.simulated,
        Shape::Alarms(_) | Shape::Text(_) => false,
    }
}

fn value(out: &mut Markup, page: &Page, tile: &Tile, f: &Figure) {
    out.raw("<p class=\"figure\">");
    let shown = f.value.map(|v| page.quantity(v, &f.unit, decimals(v)));
    match (&f.word, shown) {
        (Some(word), _) => out.text(word),
        (None, Some(shown)) => {
            out.raw("<data value=\"").text(f.value.unwrap_or_default()).raw("\">").text(shown).raw("</data>")
        }
        (None, None) => out.raw("<span class=\"none\">").text(page.t("live.none")).raw("</span>"),
    };
    out.raw("</p>");
    if let Some(standing) = f.state {
        out.raw("<p class=\"level\">").push(&badge(page, standing, f.level.as_ref(), false).html(page)).raw("</p>");
    }
    out.push(&Sparkline::new(f.spark.clone(), &f.unit).html(page));
    out.raw("<p class=\"as-of\">");
    if f.streams == 0 {
        out.text(page.t("board.nothing-fits"));
    } else if f.streams > 1 {
        let combine = tile.combine.unwrap_or_default();
        out.text(page.t(combined(combine))).raw(" · ");
        out.text(page.msg("board.reporting").with("fresh", f.fresh).with("all", f.streams)).raw(" · ");
    }
    if let Some(at) = &f.at {
        out.push(&page.ago(at));
    }
    if let Some(thing) = f.thing {
        out.raw(" · <a href=\"")
            .text(page.href(&format!("/things/{thing}")))
            .raw("\">")
            .text(page.t("board.open"))
            .raw("</a>");
    }
    out.raw("</p>");
}

fn combined(combine: Combine) -> &'static str {
    match combine {
        Combine::Mean => "board.combine.mean",
        Combine::Min => "board.combine.min",
        Combine::Max => "board.combine.max",
        Combine::Sum => "board.combine.sum",
        Combine::Total => "board.combine.total",
    }
}

/// The same of a line or strip, where what is added up is added up in each step.
fn by_step(combine: Combine) -> &'static str {
    match combine {
        Combine::Total => "board.combine.each",
        other => combined(other),
    }
}

fn entry(page: &Page, entry: &Entry, left: bool) -> Cell {
    let mut out = Markup::default();
    let shape = match entry.state {
        Standing::Good | Standing::Unknown => None,
        other => Some(other),
    };
    let text = match (&entry.result, entry.number) {
        (Some(ResultValue::Json(raw)), _) => words(raw),
        (_, Some(n)) => match entry.of {
            Some(of) if left => page
                .msg("board.left-of")
                .with("n", page.number(&n, decimals(n)))
                .with("of", page.number(&of, decimals(of)))
                .to_string(),
            Some(of) => page
                .msg("board.of")
                .with("n", page.number(&n, decimals(n)))
                .with("of", page.number(&of, decimals(of)))
                .to_string(),
            None => page.quantity(n, &entry.unit, decimals(n)),
        },
        _ => return Cell::Empty,
    };
    if let Some(standing) = shape {
        // The value, and beside it in words what is wrong with it.
        out.raw("<span class=\"rated\">")
            .text(text)
            .raw(" ")
            .push(&badge(page, standing, entry.level.as_ref(), false).html(page))
            .raw("</span>");
    } else {
        out.text(text);
    }
    Cell::Html(out)
}

fn row(page: &Page, tile: &Tile, list: &List, row: &Row) -> Vec<Cell> {
    let mut cells = vec![Cell::link(page.href(&format!("/things/{}", row.thing)), page.text(&row.name))];
    if list.ranked {
        cells.push(Cell::State(badge(page, row.state, row.level.as_ref(), row.alarm)));
    }
    for (column, told) in tile.columns.iter().zip(&row.entries) {
        cells.push(told.as_ref().map_or(Cell::Empty, |e| entry(page, e, column.left)));
    }
    cells.push(row.at.map_or(Cell::Empty, Cell::Ago));
    cells
}

fn tally(out: &mut Markup, page: &Page, states: &std::collections::BTreeMap<Standing, usize>) {
    out.raw("<ul class=\"legend\">");
    for (standing, count) in states.iter().rev() {
        let shown = Badge::new(state(*standing)).word(format!("{} {count}", page.t(state(*standing).key())));
        out.raw("<li>").push(&shown.html(page)).raw("</li>");
    }
    out.raw("</ul>");
}

fn rows(out: &mut Markup, page: &Page, tile: &Tile, list: &List) {
    if list.ranked {
        tally(out, page, &list.states);
    }
    let mut table = Table::new(page.text(&tile.title)).headed().column(Column::text("name", page.t("thing.name")));
    if list.ranked {
        table = table.column(Column::text("state", page.t("thing.state")));
    }
    for title in &list.columns {
        table = table.column(Column::number("value", page.text(title)));
    }
    table = table
        .column(Column::text("at", page.t("thing.as-of")))
        .rows(list.rows.iter().map(|r| row(page, tile, list, r)))
        .empty(page.t("board.nothing-fits"));
    out.push(&table.html(page));
    if list.things > list.rows.len() || list.more {
        let others = (list.things - list.rows.len()) as u64;
        let says = if list.more { page.t("board.many-more").to_owned() } else { page.count("board.more", others) };
        out.raw("<p class=\"note\">").text(says).raw("</p>");
    }
}

fn line(out: &mut Markup, page: &Page, tile: &Tile, c: &Chart) {
    let (now, before) = match c.period {
        Period::Day => ("board.period.day", "board.before.day"),
        Period::Week => ("board.period.week", "board.before.week"),
        Period::Month => ("board.period.month", "board.before.month"),
    };
    // The title says what was found: more or less than before, where both are known.
    let title = match (c.now_mean, c.before_mean) {
        (Some(now_mean), Some(before_mean)) if before_mean.abs() > f64::EPSILON => {
            let percent = (now_mean - before_mean) / before_mean.abs() * 100.0;
            let key = match percent {
                p if p >= 1.0 => "board.found.up",
                p if p <= -1.0 => "board.found.down",
                _ => "board.found.same",
            };
            page.msg(key).with("percent", page.number(&percent.abs(), 0)).with("before", page.t(before)).to_string()
        }
        _ => page.t(now).to_owned(),
    };
    let mut chart = LineChart::new(title, &c.unit)
        .range(c.from, c.to)
        .gap_after(c.step * 2)
        .series(Series::new(page.t(now), c.points.clone()));
    if !c.before.is_empty() {
        chart = chart.series(Series::new(page.t(before), c.before.clone()));
    }
    if matches!(tile.combine, Some(Combine::Sum | Combine::Total)) {
        chart = chart.from_zero();
    }
    out.push(&chart.html(page));
    beside(out, page, tile.combine, c.streams, c.left_out);
}

/// Of how many a line or strip is, and how many it leaves out.
fn beside(out: &mut Markup, page: &Page, combine: Option<Combine>, streams: usize, left_out: usize) {
    if streams > 1 {
        out.raw("<p class=\"note\">")
            .text(page.t(by_step(combine.unwrap_or_default())))
            .raw(" · ")
            .text(page.count("board.streams", streams as u64));
        if left_out > 0 {
            out.raw(" · ").text(page.count("board.left-out", left_out as u64));
        }
        out.raw("</p>");
    }
}

/// The shape of a severity.
const fn graveness(severity: Severity) -> State {
    match severity {
        Severity::Extreme | Severity::Severe => State::Alarm,
        Severity::Moderate => State::Warning,
        Severity::Minor => State::Notice,
    }
}

fn bells(out: &mut Markup, page: &Page, a: &Alarms) {
    if a.hidden {
        out.raw("<p class=\"note\">").text(page.t("board.alarms-hidden")).raw("</p>");
        return;
    }
    out.raw("<ul class=\"bells\">");
    for (level, n) in &a.counts {
        let standing = if n.open + n.acknowledged == 0 { State::Good } else { graveness(*level) };
        out.raw("<li><b>")
            .text(n.open)
            .raw("</b> ")
            .push(&Badge::new(standing).word(severity(page, *level)).html(page));
        if n.acknowledged > 0 {
            out.raw(" <span class=\"note\">").text(page.count("board.acknowledged", n.acknowledged)).raw("</span>");
        }
        out.raw("</li>");
    }
    out.raw("</ul>");
    if a.newest.is_empty() {
        out.raw("<p class=\"note\">").text(page.t("alarm.none-standing")).raw("</p>");
    } else {
        out.raw("<ul class=\"newest\">");
        for alarm in &a.newest {
            let open = alarm.state == AlarmState::Open;
            let shown = Badge::new(graveness(alarm.severity)).word(severity(page, alarm.severity));
            out.raw("<li>")
                .push(&shown.html(page))
                .raw(" <a href=\"")
                .text(page.href(&format!("/alarms/{}", alarm.id)))
                .raw("\">");
            out.text(page.text(&alarm.name))
                .raw("</a> ")
                .text(page.text(&alarm.thing_name))
                .raw(" <span class=\"note\">");
            out.push(&page.ago(&alarm.raised_at));
            if !open {
                out.raw(" · ").text(page.t("alarm.state.acknowledged"));
            }
            out.raw("</span></li>");
        }
        out.raw("</ul>");
    }
    out.raw("<p class=\"provenance\"><a href=\"")
        .text(page.href(&format!("/alarms{}", a.query)))
        .raw("\">")
        .text(page.t("home.all-alarms"))
        .raw("</a></p>");
}

fn map(out: &mut Markup, pages: &Pages, page: &Page, tile: &Tile, m: &Places) {
    let Some(base) = &pages.base else {
        tally(out, page, &m.states);
        return;
    };
    let says = page.msg("board.map-says").n(m.places.len() as u64).with("title", page.text(&tile.title)).to_string();
    let mut drawn = MiniMap::new(says, base.bounds);
    if let Some(outline) = &base.outline {
        drawn = drawn.land(outline);
    }
    for place in &m.places {
        drawn = drawn.point(place.position, state(place.state));
    }
    out.push(&drawn.html(page));
    tally(out, page, &m.states);
    // The list says the same as the drawing, the worst first.
    let most = tile.rows();
    let cells = |p: &Place| {
        vec![
            Cell::link(page.href(&format!("/things/{}", p.thing)), page.text(&p.name)),
            Cell::State(badge(page, p.state, p.level.as_ref(), false)),
            p.value.as_ref().map_or(Cell::Empty, |(v, unit)| Cell::quantity(*v, decimals(*v), unit)),
        ]
    };
    let table = Table::new(page.text(&tile.title))
        .headed()
        .column(Column::text("name", page.t("thing.name")))
        .column(Column::text("state", page.t("thing.state")))
        .column(Column::number("value", page.t("thing.value")))
        .rows(m.places.iter().rev().take(most).map(cells))
        .empty(page.t("board.nothing-fits"));
    out.raw("<details><summary>").text(page.t("map.list")).raw("</summary>").push(&table.html(page));
    if m.places.len() > most || m.more {
        let says = if m.more {
            page.t("board.many-more").to_owned()
        } else {
            page.count("board.more", (m.places.len() - most) as u64)
        };
        out.raw("<p class=\"note\">").text(says).raw("</p>");
    }
    out.raw("</details>");
}

fn strip(out: &mut Markup, page: &Page, tile: &Tile, h: &Heat) {
    let weeks = page.count("board.weeks", u64::from(h.weeks));
    if let Some((day, hour, value)) = h.peak() {
        let says = page
            .msg("board.peak")
            .with("day", HeatStrip::day(page, day))
            .with("hour", format!("{hour:02}:00"))
            .with("value", page.quantity(value, &h.unit, decimals(value)));
        out.raw("<p>").text(says).raw("</p>");
    }
    out.push(&HeatStrip::new(format!("{} – {weeks}", page.text(&tile.title)), h.cells, &h.unit).html(page));
    out.raw("<p class=\"note\">").text(weeks).raw("</p>");
    beside(out, page, tile.combine, h.streams, h.left_out);
}
