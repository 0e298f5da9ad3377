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

use super::{Pages, decimals, directory::ThingEntry, time};
use crate::{
    Scope,
    alarms::{Filter, model::AlarmState},
    model::{EntityId, Observation, ResultValue},
    observe::{Order, SeriesQuery},
};

/// Rows of the list beside the map; the rest is on the page of all things.
const LISTED: usize = 200;
/// The past that the slider reaches.
const SLIDER_HOURS: i64 = 24;

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    page: Page,
    numbers: Vec<LiveNumber>,
    systems: Vec<SystemCard>,
    map: Markup,
    /// Alerts are an officer's business; the public's warnings are made of them, not these.
    alarms: Option<Table>,
    sources: bool,
}

struct SystemCard {
    href: String,
    name: String,
    things: usize,
    live: usize,
    simulated: bool,
}

#[derive(Template)]
#[template(path = "map.html")]
struct MapPage {
    page: Page,
    map: Markup,
    list: Table,
    systems: Vec<SystemCard>,
    more: bool,
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
            Some(ResultValue::Json(raw)) => raw.get().trim_matches('"').to_owned(),
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
        let d = thing.datastreams.first()?;
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

    fn cards(&self, page: &Page, things: &[ThingEntry]) -> Vec<SystemCard> {
        let now = page.now();
        let systems = self.directory.systems().iter();
        let card = |system: &super::System| {
            let mine: Vec<&ThingEntry> = things.iter().filter(|t| t.system == system.key).collect();
            let live = mine.iter().filter(|t| self.shown(t).is_some_and(|s| !s.is_stale(now))).count();
            (!mine.is_empty()).then(|| SystemCard {
                href: page.href(&format!("/things?system={}", system.key)),
                name: page.text(&system.name).to_owned(),
                things: mine.len(),
                live,
                simulated: mine.iter().any(|t| t.simulated),
            })
        };
        systems.filter_map(card).collect()
    }

    fn island(&self, page: &Page, things: &[ThingEntry], slider: bool) -> Markup {
        let Some(base) = &self.base else { return Markup::default() };
        let present = |key: &str| things.iter().any(|t| t.system == key);
        let layers: Vec<Value> = self
            .directory
            .systems()
            .iter()
            .filter(|s| present(&s.key))
            .map(|s| {
                let url = format!("/api/map/layers/{}.geojson?lang={}", s.key, page.language.segment());
                json!({ "id": s.key, "name": page.text(&s.name), "url": url, "on": true })
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
    let things = pages.directory.things(&pages.scope(&page.caller)).await?;
    let mut numbers = Vec::new();
    // One live number of each system: of the thing that spoke last.
    for system in pages.directory.systems() {
        let newest = things
            .iter()
            .filter(|t| t.system == system.key)
            .filter_map(|t| Some((t, pages.shown(t)?)))
            .filter_map(|(t, s)| Some((t, s.number()?, s)))
            .max_by_key(|(_, _, s)| s.latest.as_ref().map(|o| o.phenomenon.end));
        let Some((thing, value, shown)) = newest else { continue };
        let mut number = LiveNumber::new(page.text(&thing.name), Some(value), &shown.unit)
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
    let systems = pages.cards(&page, &things);
    let map = pages.island(&page, &things, false);
    let alarms = if page.caller.is_anonymous() { None } else { Some(super::alarms::table(&pages, &page, 5).await?) };
    let page = page.in_section("live").with_island("map").with_island("live").titled_t("home.heading");
    Ok(Html(Home { numbers, systems, map, alarms, sources: !things.is_empty(), page }))
}

pub async fn map(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let things = pages.directory.things(&pages.scope(&page.caller)).await?;
    let standing = pages.standing(&page.caller).await?;
    let now = page.now();
    let rows = things.iter().filter(|t| t.position.is_some()).take(LISTED).map(|thing| {
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
    let map = pages.island(&page, &things, true);
    let systems = pages.cards(&page, &things);
    let more = things.len() > LISTED;
    let page = page.in_section("map").with_island("map").wide().titled_t("map.heading");
    Ok(Html(MapPage { map, list, systems, more, page }))
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

/// `GET /api/map/layers/<system>.geojson[?at=<RFC 3339>][&lang=zh-hant]`: the things of a system that the caller may see, as points.
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
    let scope: &Scope = &pages.scope(&caller);
    let things = pages.directory.things(scope).await?;
    let standing = pages.standing(&caller).await?;
    let now = pages.catalog.now();
    let mut features = Vec::new();
    for thing in things.iter().filter(|t| t.system == key) {
        let Some(position) = thing.position else { continue };
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
                    ResultValue::Number(n) => json!(n),
                    ResultValue::Json(raw) => json!(raw.get().trim_matches('"')),
                };
            }
        }
        features.push(json!({ "type": "Feature", "geometry": { "type": "Point", "coordinates": position }, "properties": properties }));
    }
    let headers =
        [(axum::http::header::CONTENT_TYPE, "application/geo+json"), (axum::http::header::CACHE_CONTROL, "no-store")];
    Ok((headers, Json(json!({ "type": "FeatureCollection", "features": features }))))
}
