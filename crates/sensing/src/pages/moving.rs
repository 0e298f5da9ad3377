//! Pages of what moves: the track of a Thing, the map played back.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use kernel::{Problem, Timestamp};
use serde_json::json;
use ui::{Cell, Choice, Column, Field, FieldKind, Html, LineChart, Markup, Notice, Page, Series, Table, Tone};

use super::{
    Pages, decimals,
    drawing::{Drawing, Line, Mark, around},
    silences::length,
};
use crate::{
    Audience, Route, Scope,
    moving::{
        Mover, Moving, Place, Track, Way,
        api::{MARGIN, entity},
        check_span,
        fences::Stored,
    },
    route::action,
};

/// Fixes that a drawing shows.
const DRAWN: usize = 2_000;
/// Rows of the table of places.
const ROWS: usize = 100;
/// Things on the page that plays the map back.
const PLAYED: usize = 200;
/// Fixes of each on its drawing.
const PLAYED_POINTS: usize = 200;

const fn page(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: action::READ, audience: Audience::Public, audit: false, summary }
}

pub const ROUTES: &[Route] = &[
    page(
        "/{language}/things/{id}/track",
        "Where a thing that moves was: drawing, speed, fences visited, places by time",
    ),
    page("/{language}/map/playback", "The map played back: where things were at a time of your choice"),
];

pub fn router() -> Router<Pages> {
    Router::new().route("/{language}/things/{id}/track", get(track)).route("/{language}/map/playback", get(playback))
}

impl Pages {
    /// With pages for what moves.
    #[must_use]
    pub fn moving(mut self, moving: Moving) -> Self {
        self.moving = Some(moving);
        self
    }
    pub(super) fn moves(&self) -> Result<&Moving, Problem> {
        self.moving.as_ref().ok_or_else(|| Problem::not_found("What moves"))
    }
}

/// A moment that somebody has typed: the city's clock on the wall, as a form sends it, or RFC 3339.
pub(super) fn moment(page: &Page, name: &str) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = page.query.get(name).filter(|t| !t.trim().is_empty()) else { return Ok(None) };
    let at = super::form::moment(&text, &page.site.zone);
    at.map(Some).ok_or_else(|| Problem::field(name, "a date and time is expected, such as 2026-05-01T08:00"))
}

/// As a form shows it.
fn local(page: &Page, at: Timestamp) -> String {
    at.to_jiff().to_zoned(page.site.zone.clone()).strftime("%Y-%m-%dT%H:%M").to_string()
}

/// The period that the page is about, and the form that changes it.
struct Period {
    from: Timestamp,
    to: Timestamp,
    fields: Vec<Field>,
}

/// The last day, up to the newest fix where that is older, when nothing else is asked for.
fn period(page: &Page, newest: Option<Timestamp>, hours: i64) -> Result<Period, Problem> {
    let now = page.now();
    let end = newest.filter(|n| *n < now.plus_secs(-hours * 3_600)).map_or(now, |n| n.plus_secs(1));
    let to = moment(page, "to")?.unwrap_or(end);
    let from = moment(page, "from")?.unwrap_or_else(|| to.plus_secs(-hours * 3_600));
    check_span(from, to).map_err(Problem::from)?;
    let field = |name: &str, label: &str, at| {
        Field::input(name, page.t(label), "datetime-local").value(local(page, at)).required()
    };
    let fields = vec![field("from", "move.from", from), field("to", "move.to", to)];
    Ok(Period { from, to, fields })
}

/// A distance in words: metres up to a kilometre, kilometres beyond.
fn metres(page: &Page, metres: f64) -> String {
    if metres < 1_000.0 { page.quantity(metres.round(), "m", 0) } else { page.quantity(metres / 1_000.0, "km", 1) }
}

fn kmh(speed: f64) -> f64 {
    speed * 3.6
}

/// Degrees with their letters; five decimals are a metre.
pub(super) fn coordinates(place: Place) -> String {
    let ns = if place.lat < 0.0 { 'S' } else { 'N' };
    let ew = if place.lon < 0.0 { 'W' } else { 'E' };
    format!("{:.5}° {ns}, {:.5}° {ew}", place.lat.abs(), place.lon.abs())
}

fn lines(track: &Track, class: &'static str) -> Vec<Line> {
    track.legs.iter().map(|leg| Line { class, points: leg.iter().map(|f| f.place).collect() }).collect()
}

/// The fences that this department's Things are measured against.
async fn own_fences(moving: &Moving, page: &Page, mover: &Mover) -> Result<Vec<Stored>, Problem> {
    let mut all = moving.fences().list(&page.caller).await?;
    all.retain(|s| s.fence.public || s.fence.tenant == mover.tenant);
    Ok(all)
}

#[derive(Template)]
#[template(path = "track.html")]
struct TrackPage {
    page: Page,
    thing: (String, String),
    simulated: bool,
    notices: Vec<Notice>,
    period: Period,
    facts: Vec<(String, String)>,
    map: Markup,
    speed: Option<Markup>,
    visits: Table,
    places: Table,
    api: String,
}

async fn track(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let moving = pages.moves()?;
    let scope = pages.scope(&page.caller);
    let mover = moving.mover(&scope, entity("Thing", &id)?).await?;
    let newest = pages.observe.head(mover.datastream).map(|h| h.phenomenon.end);
    let period = period(&page, newest, 24)?;
    let way = moving.way(&mover, period.from, period.to, crate::moving::MAX_FIXES).await?;
    let known = own_fences(moving, &page, &mover).await?;
    let zone = Arc::new(crate::moving::Zone::new(known.iter().map(|s| Arc::clone(&s.fence)).collect()));
    let found = way.visits(&zone, MARGIN).await?;
    let visits = Table::new(page.t("move.visits"))
        .column(Column::text("fence", page.t("move.fence")))
        .column(Column::text("entered", page.t("move.entered")))
        .column(Column::text("left", page.t("move.left")))
        .column(Column::text("time", page.t("move.stayed")))
        .rows(found.iter().rev().take(ROWS).map(|v| {
            vec![
                Cell::text(page.text(&zone.fences()[v.fence].name)),
                Cell::At(v.entered),
                v.left.map_or_else(|| Cell::text(page.t("move.inside")), Cell::At),
                Cell::text(length(&page, v.seconds())),
            ]
        }))
        .empty(page.t("move.no-visits"));
    let (simple, _) = way.simplified(DRAWN).await?;
    let facts = facts(&page, &mover, &way);
    let map = drawn(&page, &simple, &known);
    let speed = speeds(&page, &mover, &way.track, &period);
    let places = places(&page, &way.track, &zone);
    let mut notices = Vec::new();
    if way.from > period.from {
        let text = page.msg("move.cut").with("from", page.exact(&way.from)).to_string();
        notices.push(Notice::new(Tone::Information, text));
    }
    let name = page.text(&mover.name).to_owned();
    let heading = page.msg("move.track-of").with("name", &name).to_string();
    let api = format!("/api/things/{}/track?from={}&to={}&format=mf-json", mover.thing, period.from, period.to);
    let here = format!("/things/{}", mover.thing);
    let thing = (page.href(&here), name.clone());
    let simulated = mover.simulated;
    let page = page.in_section("map").with_island("chart").under_t("things.heading", "/things").under(name, &here);
    let page = page.titled(heading);
    Ok(Html(TrackPage { page, thing, simulated, notices, period, facts, map, speed, visits, places, api }))
}

fn facts(page: &Page, mover: &Mover, way: &Way) -> Vec<(String, String)> {
    let pair = |label: &str, value: String| (page.t(label).to_owned(), value);
    let fastest = way.track.speeds().concat().into_iter().map(|(_, v)| v).fold(0.0, f64::max);
    let mut facts = vec![
        pair("move.distance", metres(page, way.track.metres())),
        pair("move.time", length(page, way.track.seconds() as i64)),
        pair("move.fastest", page.quantity(kmh(fastest), "km/h", decimals(kmh(fastest)))),
        pair("move.fixes", page.number(&(way.read as f64), 0)),
    ];
    if !way.track.suspect.is_empty() {
        let limit = page.quantity(kmh(mover.limits.max_speed), "km/h", 0);
        let text = page.msg("move.suspect").n(way.track.suspect.len() as u64).with("speed", limit).to_string();
        facts.push(pair("move.flagged", text));
    }
    facts
}

/// The track with the fences behind it.
fn drawn(page: &Page, track: &Track, fences: &[Stored]) -> Markup {
    let places = || track.legs.iter().flatten().map(|f| &f.place);
    let Some(window) = around(places()) else {
        let mut out = Markup::default();
        out.raw("<p class=\"note\">").text(page.t("move.nothing")).raw("</p>");
        return out;
    };
    let mut all = super::fences::lines(fences);
    all.extend(lines(track, "way"));
    let mut marks: Vec<Mark> =
        track.suspect.iter().map(|f| Mark { class: "suspect", at: f.place, label: String::new() }).collect();
    // One that is far off would shrink everything else to a dot: it is cut off with the rest.
    marks.retain(|m| {
        (window.min_x..=window.max_x).contains(&m.at.lon) && (window.min_y..=window.max_y).contains(&m.at.lat)
    });
    if let (Some(first), Some(last)) = (track.first(), track.last()) {
        marks.push(Mark { class: "begin", at: first.place, label: page.t("move.begin").to_owned() });
        marks.push(Mark { class: "end", at: last.place, label: page.t("move.end").to_owned() });
    }
    let summary =
        page.msg("move.summary").with("distance", metres(page, track.metres())).n(track.legs.len() as u64).to_string();
    Drawing { lines: all, marks, summary }.html(&window)
}

fn speeds(page: &Page, mover: &Mover, track: &Track, period: &Period) -> Option<Markup> {
    let points: Vec<(Timestamp, Option<f64>)> =
        track.speeds().concat().into_iter().map(|(at, v)| (at, Some(kmh(v)))).collect();
    if points.is_empty() {
        return None;
    }
    let series = Series::new(page.t("move.speed"), points).simulated(mover.simulated);
    let chart = LineChart::new(page.t("move.speed"), "km/h").series(series).range(period.from, period.to);
    Some(chart.from_zero().gap_after(i64::from(mover.limits.gap)).html(page))
}

/// The places, the newest first, thinned to what a page can carry.
fn places(page: &Page, track: &Track, zone: &crate::moving::Zone) -> Table {
    let (simple, _) = track.simplified(ROWS);
    let rows = simple.legs.iter().flatten().rev().map(|fix| {
        vec![Cell::At(fix.at), Cell::text(coordinates(fix.place)), Cell::text(inside(page, zone, fix.place))]
    });
    Table::new(page.t("move.places"))
        .column(Column::text("at", page.t("move.at")))
        .column(Column::text("place", page.t("move.place")))
        .column(Column::text("fence", page.t("move.in-fence")))
        .rows(rows)
        .empty(page.t("move.nothing"))
}

/// The fences that hold a place.
fn inside(page: &Page, zone: &crate::moving::Zone, place: Place) -> String {
    let mut names = Vec::new();
    zone.near(place, 0.0, |n, _| names.push(page.text(&zone.fences()[n].name).to_owned()));
    names.sort();
    names.truncate(3);
    names.join(" · ")
}

#[derive(Template)]
#[template(path = "playback.html")]
struct Playback {
    page: Page,
    period: Period,
    notices: Vec<Notice>,
    map: Markup,
    earlier: Option<String>,
    later: Option<String>,
    at: Markup,
    places: Table,
}

async fn playback(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let moving = pages.moves()?;
    let scope: Arc<Scope> = pages.scope(&page.caller);
    let mut period = period(&page, None, 6)?;
    let system = page.query.get("system").filter(|s| !s.is_empty());
    if system.as_deref().is_some_and(|s| pages.directory.system(s).is_none()) {
        return Err(Problem::field("system", "a system of the city is expected"));
    }
    let at = moment(&page, "at")?.unwrap_or(period.to).clamp(period.from, period.to);
    let (movers, more) = moving.movers(&scope, system.clone(), PLAYED).await?;
    let fences = moving.fences().list(&page.caller).await?;
    let zone = crate::moving::Zone::new(fences.iter().map(|s| Arc::clone(&s.fence)).collect());
    let (mut rows, mut all, mut marks, mut cut) = (Vec::new(), super::fences::lines(&fences), Vec::new(), more);
    for mover in &movers {
        let way = moving.way(mover, period.from, period.to, crate::moving::share(movers.len())).await?;
        cut |= way.from > period.from;
        let name = page.text(&mover.name);
        let place = way.track.at(at).or_else(|| way.track.still(at, mover.limits));
        let (simple, _) = way.simplified(PLAYED_POINTS).await?;
        all.extend(lines(&simple, "way"));
        if let Some(place) = place {
            marks.push(Mark {
                class: "end",
                at: place,
                label: if movers.len() <= 12 { name.to_owned() } else { String::new() },
            });
        }
        rows.push(vec![
            Cell::link(page.href(&format!("/things/{}/track", mover.thing)), name),
            place.map_or_else(|| Cell::text(page.t("move.unknown")), |p| Cell::text(coordinates(p))),
            Cell::text(place.map_or_else(String::new, |p| inside(&page, &zone, p))),
            if mover.simulated { Cell::text(page.t("state.simulated")) } else { Cell::Empty },
        ]);
    }
    let places = Table::new(page.msg("move.places-at").with("at", page.exact(&at)).to_string())
        .column(Column::text("name", page.t("thing.name")))
        .column(Column::text("place", page.t("move.place")))
        .column(Column::text("fence", page.t("move.in-fence")))
        .column(Column::text("origin", page.t("thing.origin")))
        .rows(rows)
        .empty(page.t("move.none"));
    let summary = page.msg("move.drawing").with("at", page.exact(&at)).n(marks.len() as u64).to_string();
    let window = around(all.iter().filter(|l| l.class == "way").flat_map(|l| l.points.iter()));
    let drawing = window.map(|w| Drawing { lines: all, marks, summary }.html(&w)).unwrap_or_default();
    let mut notices = Vec::new();
    if cut {
        notices.push(Notice::new(Tone::Information, page.t("move.not-all")));
    }
    // A twelfth of the period is a step.
    let step = (period.to.micros_since(period.from) / 12).max(1);
    let here = |to: Timestamp| page.here_with("at", &to.to_string());
    let earlier = (at > period.from).then(|| here(at.plus_micros(-step).max(period.from)));
    let later = (at < period.to).then(|| here(at.plus_micros(step).min(period.to)));
    let mut choices = vec![Choice::new("", page.t("move.all-systems"))];
    choices.extend(pages.directory.systems().iter().map(|s| Choice::new(&s.key, page.text(&s.name))));
    let chosen = system.clone().unwrap_or_default();
    period.fields.push(Field::new("system", page.t("thing.system"), FieldKind::Select(choices)).value(chosen));
    let map = pages.played(&page, &period, at, system.as_deref(), &drawing).await?;
    let at = page.at(&at);
    let page =
        page.in_section("map").with_island("map").wide().under_t("map.heading", "/map").titled_t("move.playback");
    Ok(Html(Playback { page, period, notices, map, earlier, later, at, places }))
}

impl Pages {
    /// The island, over the drawing that stands there without it.
    async fn played(
        &self,
        page: &Page,
        period: &Period,
        at: Timestamp,
        system: Option<&str>,
        drawing: &Markup,
    ) -> Result<Markup, Problem> {
        let Some(base) = &self.base else { return Ok(drawing.clone()) };
        let groups = self.directory.groups(&self.scope(&page.caller)).await?;
        let wanted = self.directory.systems().iter().filter(|s| system.is_none_or(|key| key == s.key));
        let layers: Vec<_> = wanted
            .map(|s| (s, groups.of_system(&s.key).count(|_| true).things))
            .filter(|(_, things)| *things > 0)
            .map(|(s, things)| {
                let url = format!("/api/map/layers/{}.geojson?lang={}", s.key, page.language.segment());
                json!({ "id": s.key, "name": page.text(&s.name), "url": url, "on": true, "windowed": things > super::plot::SINGLE })
            })
            .collect();
        let of_system = system.map_or_else(String::new, |s| format!("&system={}", ui::encode(s)));
        let tracks = format!(
            "/api/map/tracks?from={}&to={}&lang={}{of_system}",
            period.from,
            period.to,
            page.language.segment()
        );
        let mut labels = ui::map_labels(page);
        for (name, key) in [("speed", "move.play-speed"), ("playTime", "move.play-time"), ("unknown", "move.unknown")] {
            labels[name] = page.t(key).into();
        }
        let props = json!({
            "language": page.language.tag(), "base": base.url, "bounds": base.bounds, "layers": layers, "zone": page.zone(),
            "labels": labels, "playback": { "from": period.from, "to": period.to, "at": at, "tracks": tracks, "fences": "/api/fences" },
        });
        Ok(ui::island("map", &props, drawing))
    }
}
