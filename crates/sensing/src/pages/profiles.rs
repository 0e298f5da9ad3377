//! Profiles at depth: one cast as a line going down, several side by side as a section, and the same as tables.

use askama::Template;
use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use kernel::{Problem, Timestamp};
use serde_json::Value;
use ui::{Cell, Column, Field, Html, Markup, Page, Table};

use super::{Pages, decimals, moving::moment, name_of};
use crate::{
    Audience, Route,
    moving::{
        check_span,
        profile::{Cast, Sample},
    },
    route::action,
};

/// Casts side by side.
const SHOWN: usize = 48;
/// Steps of the colour scale.
const STEPS: usize = 7;
/// Bands of depth in a section.
const BANDS: usize = 24;
/// Days that are looked back where nothing else is asked for.
const DAYS: i64 = 7;

pub const ROUTES: &[Route] = &[Route {
    method: "GET",
    path: "/{language}/datastreams/{id}/profiles",
    action: action::READ,
    audience: Audience::Public,
    audit: false,
    summary: "Profiles at depth of a Datastream: one cast, and a section of several",
}];

pub fn router() -> Router<Pages> {
    Router::new().route("/{language}/datastreams/{id}/profiles", get(profiles))
}

#[derive(Template)]
#[template(path = "profiles.html")]
struct Profiles {
    page: Page,
    name: (String, String),
    simulated: bool,
    fields: Vec<Field>,
    complete: bool,
    profile: Option<Markup>,
    samples: Option<Table>,
    section: Option<Markup>,
    casts: Table,
    api: String,
}

async fn profiles(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let moving = pages.moves()?;
    let entity = pages.datastream(&page.caller, &id).await?;
    let properties = entity.properties();
    let name = page.text(&name_of(entity.name(), &properties)).to_owned();
    let unit = entity.field("unitOfMeasurement").to_value()["symbol"].as_str().unwrap_or_default().to_owned();
    let simulated = properties.get("simulated") == Some(&Value::Bool(true));
    let newest = pages.observe.head(entity.id).map(|h| h.phenomenon.end);
    let end = newest.filter(|n| *n < page.now()).map_or(page.now(), |n| n.plus_secs(1));
    let to = moment(&page, "to")?.unwrap_or(end);
    let from = moment(&page, "from")?.unwrap_or_else(|| to.plus_secs(-DAYS * 86_400));
    check_span(from, to).map_err(Problem::from)?;
    let found = moving.casts(entity.id, from, to, SHOWN).await?;
    // The cast that was chosen: the newest that had begun by then.
    let at = moment(&page, "at")?.unwrap_or(to);
    let chosen = found.casts.iter().rev().find(|c| c.from <= at).or(found.casts.first());
    let rows = found.casts.iter().rev().map(|cast| {
        let deepest = cast.samples.last().map_or(0.0, |s| s.depth);
        let values = || cast.samples.iter().filter(|s| !s.faulty).map(|s| s.value);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let quantity = |v: f64| if v.is_finite() { Cell::quantity(v, decimals(v), &unit) } else { Cell::Empty };
        vec![
            Cell::link(page.here_with("at", &cast.from.to_string()), page.exact(&cast.from)),
            Cell::quantity(deepest, 1, "m"),
            Cell::number(cast.samples.len() as f64, 0),
            quantity(low),
            quantity(high),
        ]
    });
    let casts = Table::new(page.count("depth.casts", found.casts.len() as u64))
        .column(Column::text("at", page.t("move.at")))
        .column(Column::number("deep", page.t("depth.deepest")))
        .column(Column::number("samples", page.t("depth.samples")))
        .column(Column::number("low", page.t("depth.least")))
        .column(Column::number("high", page.t("depth.greatest")))
        .rows(rows)
        .empty(page.t("depth.none"));
    let profile = chosen.map(|cast| draw_profile(&page, cast, &unit));
    let samples = chosen.map(|cast| {
        Table::new(page.msg("depth.cast-at").with("at", page.exact(&cast.from)).to_string())
            .column(Column::number("depth", page.t("depth.depth")))
            .column(Column::number("value", name.clone()))
            .column(Column::text("at", page.t("move.at")))
            .rows(cast.samples.iter().map(|s| {
                vec![Cell::quantity(s.depth, 1, "m"), Cell::quantity(s.value, decimals(s.value), &unit), Cell::At(s.at)]
            }))
    });
    let section = (found.casts.len() > 1).then(|| draw_section(&page, &found.casts, &unit)).flatten();
    let field = |name: &str, label: &str, at: Timestamp| {
        let shown = at.to_jiff().to_zoned(page.site.zone.clone()).strftime("%Y-%m-%dT%H:%M").to_string();
        Field::input(name, page.t(label), "datetime-local").value(shown).required()
    };
    let fields = vec![field("from", "move.from", from), field("to", "move.to", to)];
    let api = format!("/api/datastreams/{}/profiles?from={from}&to={to}", entity.id);
    let here = format!("/datastreams/{}", entity.id);
    let link = (page.href(&here), name.clone());
    let heading = page.msg("depth.heading").with("name", &name).to_string();
    let complete = found.complete;
    let page = page.in_section("live").under_t("things.heading", "/things").under(name, &here).titled(heading);
    Ok(Html(Profiles { page, name: link, simulated, fields, complete, profile, samples, section, casts, api }))
}

/// The ends of an axis that holds these values, apart from each other.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !low.is_finite() || !high.is_finite() {
        return None;
    }
    Some(if high - low > 1e-9 { (low, high) } else { (low - 0.5, high + 0.5) })
}

/// Value to the right, depth downwards.
fn draw_profile(page: &Page, cast: &Cast, unit: &str) -> Markup {
    let mut out = Markup::default();
    let good: Vec<&Sample> = cast.samples.iter().filter(|s| !s.faulty).collect();
    let Some((low, high)) = ends(good.iter().map(|s| s.value)) else { return out };
    let deep = good.last().map_or(1.0, |s| s.depth).max(1.0);
    let x = |v: f64| 90.0 + (v - low) / (high - low) * 480.0;
    let y = |d: f64| 50.0 + d / deep * 420.0;
    let shown = |v: f64| page.quantity(v, unit, decimals(v));
    let summary = page
        .msg("depth.summary")
        .with("deep", page.quantity(deep, "m", 1))
        .with("surface", good.first().map_or_else(String::new, |s| shown(s.value)))
        .with("bottom", good.last().map_or_else(String::new, |s| shown(s.value)));
    out.raw("<svg class=\"track-drawing depth\" role=\"img\" viewBox=\"0 0 640 500\" aria-label=\"")
        .text(summary)
        .raw("\">");
    for part in 0..=4 {
        let depth = deep * f64::from(part) / 4.0;
        out.raw("<path class=\"rule\" d=\"M90 ")
            .text(format!("{:.1}", y(depth)))
            .raw("H570\"/><text class=\"left\" x=\"80\" y=\"");
        out.text(format!("{:.1}", y(depth))).raw("\">").text(page.quantity(depth, "m", 1)).raw("</text>");
    }
    for (value, class) in [(low, false), (high, true)] {
        out.raw(if class { "<text class=\"left\" x=\"" } else { "<text x=\"" });
        out.text(format!("{:.1}", x(value))).raw("\" y=\"26\">").text(shown(value)).raw("</text>");
    }
    let path: Vec<String> = good.iter().map(|s| format!("{:.1} {:.1}", x(s.value), y(s.depth))).collect();
    out.raw("<path class=\"way\" d=\"M").text(path.join("L")).raw("\"/>");
    for s in &good {
        out.raw("<circle class=\"sample\" r=\"6\" cx=\"").text(format!("{:.1}", x(s.value)));
        out.raw("\" cy=\"").text(format!("{:.1}", y(s.depth))).raw("\"/>");
    }
    out.raw("</svg>");
    out
}

const CELLS: [&str; STEPS] =
    ["amount a1", "amount a2", "amount a3", "amount a4", "amount a5", "amount a6", "amount a7"];

/// Cast beside cast, deeper downwards, one hue from light to dark; `None` when nothing is to be drawn.
fn draw_section(page: &Page, casts: &[Cast], unit: &str) -> Option<Markup> {
    let all = || casts.iter().flat_map(|c| c.samples.iter().filter(|s| !s.faulty));
    let (low, high) = ends(all().map(|s| s.value))?;
    let deep = all().map(|s| s.depth).fold(1.0, f64::max);
    let shown = |v: f64| page.quantity(v, unit, decimals(v));
    let summary = page
        .msg("depth.section-summary")
        .n(casts.len() as u64)
        .with("min", shown(low))
        .with("max", shown(high))
        .to_string();
    let (wide, high_band) = (780.0 / casts.len() as f64, 360.0 / BANDS as f64);
    let mut out = Markup::default();
    out.raw("<svg class=\"track-drawing section\" role=\"img\" viewBox=\"0 0 900 500\" aria-label=\"")
        .text(summary)
        .raw("\">");
    for (nth, cast) in casts.iter().enumerate() {
        for band in 0..BANDS {
            let depth = (band as f64 + 0.5) / BANDS as f64 * deep;
            let Some(value) = cast.at(depth) else { continue };
            let step = (((value - low) / (high - low) * STEPS as f64) as usize).min(STEPS - 1);
            out.raw("<rect class=\"").raw(CELLS[step]).raw("\" x=\"").text(format!("{:.1}", 90.0 + nth as f64 * wide));
            out.raw("\" y=\"").text(format!("{:.1}", 20.0 + band as f64 * high_band));
            out.raw("\" width=\"")
                .text(format!("{:.1}", wide - 1.0))
                .raw("\" height=\"")
                .text(format!("{:.1}", high_band + 0.3))
                .raw("\"/>");
        }
    }
    for part in 0..=4 {
        let depth = deep * f64::from(part) / 4.0;
        out.raw("<text class=\"left\" x=\"80\" y=\"").text(format!("{:.1}", 20.0 + depth / deep * 360.0)).raw("\">");
        out.text(page.quantity(depth, "m", 1)).raw("</text>");
    }
    let time = |cast: &Cast| cast.from.to_jiff().to_zoned(page.site.zone.clone()).strftime("%m-%d %H:%M").to_string();
    if let (Some(first), Some(last)) = (casts.first(), casts.last()) {
        out.raw("<text x=\"90\" y=\"404\">").text(time(first)).raw("</text><text class=\"left\" x=\"870\" y=\"404\">");
        out.text(time(last)).raw("</text>");
    }
    // The scale, as cells of its own with words at their ends.
    for (step, class) in CELLS.iter().enumerate() {
        out.raw("<rect class=\"")
            .raw(class)
            .raw("\" x=\"")
            .text(260 + step * 56)
            .raw("\" y=\"440\" width=\"55\" height=\"24\"/>");
    }
    out.raw("<text class=\"left\" x=\"250\" y=\"452\">").text(shown(low)).raw("</text><text x=\"662\" y=\"452\">");
    out.text(shown(high)).raw("</text></svg>");
    Some(out)
}
