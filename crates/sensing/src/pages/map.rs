//! Home and map. The list beside the map says the same as the map, for keyboards, screen readers and pages without scripts.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State},
};
use kernel::{Caller, Problem, Timestamp};
use serde_json::{Value, json};
use ui::{Badge, Cell, Column, Html, LiveNumber, Markup, Page, Query, Table};

use super::{
    Pages, decimals,
    directory::{Asked, Groups, ThingEntry},
    plot::{self, SINGLE},
    time,
};
use crate::{
    alarms::{Filter, model::AlarmState},
    catalog::cells::Bounds,
    model::{EntityId, Observation, ResultValue},
    observe::{Order, SeriesQuery},
};

/// Rows of the list beside the map; the rest is on the page of all things.
const LISTED: usize = 200;
/// Things of a system that are asked one by one whether they report; of a larger one only their number is told.
const ASKED: u64 = 1_000;
/// Things of a larger system among which its latest reading is sought.
const SAMPLE: usize = 100;
/// The past that the slider reaches.
const SLIDER_HOURS: i64 = 24;

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    page: Page,
    numbers: Vec<LiveNumber>,
    systems: Vec<SystemCard>,
    map: Markup,
    /// That public warnings stand, when some do.
    warnings: Option<ui::Notice>,
    /// Alerts are an officer's business; the public's warnings are made of them, not these.
    alarms: Option<Table>,
    sources: bool,
}

struct SystemCard {
    href: String,
    name: String,
    things: u64,
    /// `None` when there are too many to ask each.
    live: Option<usize>,
    simulated: bool,
}

/// A system with the Things that stand for it: all of a small one, some of a large one.
struct Known<'a> {
    system: &'a super::System,
    things: Vec<ThingEntry>,
    count: super::directory::Count,
}

#[derive(Template)]
#[template(path = "map.html")]
struct MapPage {
    page: Page,
    map: Markup,
    list: Table,
    systems: Vec<SystemCard>,
    more: bool,
    /// Where the map is played back, when anything moves.
    playback: Option<String>,
}

/// A thing's first Datastream with its latest Observation.
struct Shown {
    datastream: EntityId,
    unit: String,
    interval: Option<i64>,
    latest: Option<Observation>,
}

impl Shown {
    fn number(&self) -> Option<f64> {
        self.latest.as_ref().and_then(|o| o.result.number())
    }
    fn words(&self, page: &Page) -> String {
        match self.latest.as_ref().map(|o| &o.result) {
            Some(ResultValue::Number(n)) => page.quantity(*n, &self.unit, decimals(*n)),
            Some(ResultValue::Json(raw)) => match crate::moving::place(raw.get()) {
                Some(place) => super::moving::coordinates(place),
                None => raw.get().trim_matches('"').to_owned(),
            },
            None => page.t("live.none").to_owned(),
        }
    }
    fn is_stale(&self, now: Timestamp) -> bool {
        let after = self.interval.unwrap_or(3_600).saturating_mul(3);
        self.latest.as_ref().is_none_or(|o| now.micros_since(o.phenomenon.end) > after * 1_000_000)
    }
}

impl Pages {
    fn shown(&self, thing: &ThingEntry) -> Option<Shown> {
        let d = thing.first.as_ref()?;
        let latest = self.observe.head(d.id).map(|h| h.latest);
        Some(Shown { datastream: d.id, unit: d.unit.clone(), interval: d.interval, latest })
    }

    /// The worst standing alarm of each thing.
    async fn standing(&self, caller: &Caller) -> Result<BTreeMap<EntityId, &'static str>, Problem> {
        let filter = Filter { states: [AlarmState::Open, AlarmState::Acknowledged].into(), ..Filter::default() };
        let listing = self.alarms.list(caller, filter, None, Some(500)).await?;
        Ok(listing
            .alarms
            .into_iter()
            .map(|a| (a.thing, if a.state == AlarmState::Open { "alarm" } else { "warning" }))
            .collect())
    }

    /// The systems of which something can be seen.
    async fn known(&self, groups: &Groups) -> Result<Vec<Known<'_>>, Problem> {
        let mut known = Vec::new();
        for system in self.directory.systems() {
            let own = groups.of_system(&system.key);
            let count = own.count(|_| true);
            if count.things == 0 {
                continue;
            }
            let limit = if count.things <= ASKED { ASKED as usize } else { SAMPLE };
            let things = self.directory.list(own, Asked { limit, ..Asked::default() }).await?.things;
            known.push(Known { system, things, count });
        }
        Ok(known)
    }

    fn cards(&self, page: &Page, known: &[Known<'_>]) -> Vec<SystemCard> {
        let now = page.now();
        let live = |k: &Known<'_>| k.things.iter().filter(|t| self.shown(t).is_some_and(|s| !s.is_stale(now))).count();
        let card = |k: &Known<'_>| SystemCard {
            href: page.href(&format!("/things?system={}", k.system.key)),
            name: page.text(&k.system.name).to_owned(),
            things: k.count.things,
            live: (k.count.things <= ASKED).then(|| live(k)),
            simulated: k.count.simulated > 0,
        };
        known.iter().map(card).collect()
    }

    fn island(&self, page: &Page, groups: &Groups, slider: bool) -> Markup {
        let Some(base) = &self.base else { return Markup::default() };
        let systems = self.directory.systems().iter().map(|s| (s, groups.of_system(&s.key).count(|_| true).things));
        let layers: Vec<Value> = systems
            .filter(|(_, things)| *things > 0)
            .map(|(s, things)| {
                let url = format!("/api/map/layers/{}.geojson?lang={}", s.key, page.language.segment());
                // A large layer is asked for by window, and again when the window has moved.
                json!({ "id": s.key, "name": page.text(&s.name), "url": url, "on": true, "windowed": things > SINGLE })
            })
            .collect();
        let now = page.now();
        let mut props = json!({
            "language": page.language.tag(), "base": base.url, "bounds": base.bounds, "layers": layers,
            "live": "/api/live", "zone": page.zone(), "labels": ui::map_labels(page),
        });
        if slider {
            let from = now.plus_secs(-SLIDER_HOURS * 3_600);
            props["slider"] = json!({ "from": from, "to": now, "step": 600 });
        }
        ui::island("map", &props, &Markup::default())
    }
}

pub async fn home(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let groups = pages.directory.groups(&pages.scope(&page.caller)).await?;
    let known = pages.known(&groups).await?;
    let mut numbers = Vec::new();
    // One live number of each system: of the thing that spoke last.
    for Known { things, .. } in &known {
        let newest = things
            .iter()
            .filter_map(|t| Some((t, pages.shown(t)?)))
            .filter_map(|(t, s)| Some((t, s.number()?, s)))
            .max_by_key(|(_, _, s)| s.latest.as_ref().map(|o| o.phenomenon.end));
        let Some((thing, value, shown)) = newest else { continue };
        let mut number = LiveNumber::new(page.text(&thing.name), Some(value), &shown.unit)
            .what(thing.first.as_ref().map_or("", |d| page.text(&d.name)))
            .decimals(decimals(value))
            .simulated(thing.simulated)
            .href(page.href(&format!("/things/{}", thing.id)))
            .datastream(shown.datastream);
        if let Some(latest) = &shown.latest {
            number = number.at(latest.phenomenon.end);
        }
        if let Some(interval) = shown.interval {
            number = number.stale_after(interval * 3);
        }
        numbers.push(number);
    }
    let systems = pages.cards(&page, &known);
    let map = pages.island(&page, &groups, false);
    let alarms = if page.caller.is_anonymous() { None } else { Some(super::alarms::table(&pages, &page, 5).await?) };
    let warnings = super::alerts::notice(&pages, &page).await?;
    let page = page.in_section("live").with_island("map").with_island("live").titled_t("home.heading");
    let sources = groups.count(|_| true).things > 0;
    Ok(Html(Home { numbers, systems, map, warnings, alarms, sources, page }))
}

pub async fn map(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let groups = pages.directory.groups(&pages.scope(&page.caller)).await?;
    let standing = pages.standing(&page.caller).await?;
    let now = page.now();
    let listed = pages.directory.list(groups.clone(), Asked { limit: LISTED, ..Asked::default() }).await?;
    let rows = listed.things.iter().filter(|t| t.position.is_some()).map(|thing| {
        let shown = pages.shown(thing);
        let state = state_of(thing, shown.as_ref(), &standing, now);
        let value = shown.as_ref().map_or_else(String::new, |s| s.words(&page));
        let system = pages.directory.system(&thing.system).map_or("", |s| page.text(&s.name));
        vec![
            Cell::link(page.href(&format!("/things/{}", thing.id)), page.text(&thing.name)),
            Cell::text(system),
            Cell::text(value),
            Cell::State(Badge::new(state)),
        ]
    });
    let list = Table::new(page.t("map.list"))
        .column(Column::text("name", page.t("thing.name")))
        .column(Column::text("system", page.t("thing.system")))
        .column(Column::text("value", page.t("thing.value")))
        .column(Column::text("state", page.t("thing.state")))
        .rows(rows)
        .empty(page.t("map.none"));
    let map = pages.island(&page, &groups, true);
    let systems = pages.cards(&page, &pages.known(&groups).await?);
    let more = listed.next.is_some();
    let playback = pages.moving.as_ref().map(|_| page.href("/map/playback"));
    let page = page.in_section("map").with_island("map").wide().titled_t("map.heading");
    Ok(Html(MapPage { map, list, systems, more, playback, page }))
}

fn state_of(
    thing: &ThingEntry,
    shown: Option<&Shown>,
    standing: &BTreeMap<EntityId, &'static str>,
    now: Timestamp,
) -> ui::State {
    match (standing.get(&thing.id), shown) {
        (Some(&"alarm"), _) => ui::State::Alarm,
        (Some(_), _) => ui::State::Warning,
        (None, None) => ui::State::Unknown,
        (None, Some(s)) if s.latest.is_none() => ui::State::Unknown,
        (None, Some(s)) if s.is_stale(now) => ui::State::Offline,
        (None, Some(_)) => ui::State::Good,
    }
}

const fn state_name(state: ui::State) -> &'static str {
    match state {
        ui::State::Good => "good",
        ui::State::Notice => "notice",
        ui::State::Warning => "warning",
        ui::State::Alarm => "alarm",
        ui::State::Offline => "offline",
        ui::State::Unknown => "unknown",
    }
}

/// `west,south,east,north` in degrees (RFC 7946 section 5).
fn window(query: &Query) -> Result<Option<Bounds>, Problem> {
    let Some(text) = query.get("bbox") else { return Ok(None) };
    let wrong =
        || Problem::field("bbox", "west,south,east,north in degrees are expected, such as 114.1,22.2,114.3,22.4");
    let numbers: Vec<f64> = text.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let [min_x, min_y, max_x, max_y] = numbers[..] else { return Err(wrong()) };
    let bounds = Bounds { min_x, min_y, max_x, max_y };
    if bounds.is_finite() && min_x <= max_x && min_y <= max_y { Ok(Some(bounds)) } else { Err(wrong()) }
}

/// `GET /api/map/layers/<system>.geojson[?bbox=west,south,east,north][&at=<RFC 3339>][&lang=zh-hant]`: the things of a system that the caller
/// may see, as points.
///
/// Of a large system, things that stand close together come as one feature with `things`, their number (`more` when it is at least that
/// many), until the window is small enough; `complete` says whether every thing in the window is a feature of its own.
pub async fn layer(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(layer): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<([(axum::http::HeaderName, &'static str); 2], Json<Value>), Problem> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let key = layer.strip_suffix(".geojson").unwrap_or(&layer);
    if pages.directory.system(key).is_none() {
        return Err(Problem::not_found(format!("The layer '{key}'")));
    }
    let language = query.get("lang").and_then(|l| kernel::Language::from_segment(&l)).unwrap_or_default();
    let at = time(&query, "at")?;
    let world = Bounds { min_x: -180.0, min_y: -90.0, max_x: 180.0, max_y: 90.0 };
    let window = window(&query)?;
    let groups = pages.directory.groups(&pages.scope(&caller)).await?.of_system(key);
    let total = groups.count(|_| true).things;
    // A large layer without a window is the city as the map opens on it.
    let city = || pages.base.as_ref().map(|b| b.bounds).filter(|_| total > SINGLE);
    let bounds = |[min_x, min_y, max_x, max_y]: [f64; 4]| Bounds { min_x, min_y, max_x, max_y };
    let window = window.or_else(|| city().map(bounds)).unwrap_or(world);
    let standing = pages.standing(&caller).await?;
    let urgent: Vec<EntityId> = standing.keys().copied().collect();
    let drawn = pages.catalog.records().read(move |read| plot::plot(read, &groups, window, &urgent, SINGLE)).await?;
    let now = pages.catalog.now();
    let mut features = Vec::with_capacity(drawn.things.len() + drawn.clusters.len());
    // What moves is where it is, and not where it was last written down.
    let fixes = match &pages.moving {
        Some(moving) => moving.newest_fixes(drawn.things.iter().map(|t| t.id.0).collect(), at).await?,
        None => BTreeMap::new(),
    };
    for thing in &drawn.things {
        let fix = fixes.get(&thing.id);
        let Some(position) = fix.map(|f| [f.place.lon, f.place.lat]).or(thing.position) else { continue };
        let mut shown = pages.shown(thing);
        let mut state = state_of(thing, shown.as_ref(), &standing, now);
        if let (Some(at), Some(s)) = (at, shown.as_mut()) {
            // The past as it was: the newest Observation up to then. Alarms of the present do not colour it.
            let q = SeriesQuery { to: Some(at), order: Order::Descending, limit: 1, ..SeriesQuery::all(s.datastream) };
            s.latest = pages.observe.read(q).await.map_err(crate::Error::from)?.pop();
            state = state_of(thing, Some(s), &BTreeMap::new(), at);
        }
        let mut properties = json!({
            "id": thing.id, "name": thing.name.get(language), "state": state_name(state), "simulated": thing.simulated,
            "href": format!("/{}/things/{}", language.segment(), thing.id),
        });
        if let Some(s) = &shown {
            properties["datastream"] = json!(s.datastream.to_string());
            properties["unit"] = json!(s.unit);
            properties["stale"] = json!(s.is_stale(at.unwrap_or(now)));
            if let Some(latest) = &s.latest {
                properties["asOf"] = json!(latest.phenomenon.end);
                properties["value"] = match &latest.result {
                    // A place is where it is drawn.
                    ResultValue::Json(raw) if crate::moving::place(raw.get()).is_some() => Value::Null,
                    ResultValue::Number(n) => json!(n),
                    ResultValue::Json(raw) => json!(raw.get().trim_matches('"')),
                };
            }
        }
        features.push(feature(position, properties));
    }
    let complete = drawn.clusters.is_empty();
    for (nth, cluster) in drawn.clusters.iter().enumerate() {
        let properties = json!({ "id": format!("cluster-{nth}"), "things": cluster.things, "more": cluster.more });
        features.push(feature(cluster.position, properties));
    }
    let headers =
        [(axum::http::header::CONTENT_TYPE, "application/geo+json"), (axum::http::header::CACHE_CONTROL, "no-store")];
    let answer = json!({ "type": "FeatureCollection", "features": features, "total": total, "complete": complete });
    Ok((headers, Json(answer)))
}

fn feature(position: [f64; 2], properties: Value) -> Value {
    json!({ "type": "Feature", "geometry": { "type": "Point", "coordinates": position }, "properties": properties })
}
