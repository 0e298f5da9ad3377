//! Pages of the room: the map, things and their Datastreams, alarms, and the health of every feed.
//!
//! A page asks the same facades as the API, with the same `Caller`; what it may not see is not there.

mod alarms;
mod alerts;
mod datastream;
mod devices;
mod directory;
mod form;
mod map;
mod plot;
mod several;
mod things;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, routing::get};
use kernel::{Action, Caller, Text, Timestamp};

use crate::{
    Audience, Catalog, Route, Scope, alarms::Alarms, alerts::Alerts, devices::Devices, observe::Observe, route::action,
};

pub use devices::Door;
pub use directory::{Directory, System};

/// Every address of these pages.
pub fn routes() -> Vec<Route> {
    [ROUTES, devices::ROUTES].concat()
}

/// The words of these pages.
pub const TEXTS: ui::Texts = ui::Texts {
    room: "sensing",
    en: include_str!("../../lang/en.toml"),
    zh_hant: include_str!("../../lang/zh-hant.toml"),
    zh_hans: include_str!("../../lang/zh-hans.toml"),
};

/// What the map shows under everything, from the pack.
#[derive(Clone, Debug)]
pub struct BaseMap {
    /// Address of the GeoJSON of land and districts.
    pub url: String,
    /// West, south, east, north.
    pub bounds: [f64; 4],
}

/// What the pages draw on.
#[derive(Clone)]
pub struct Pages {
    catalog: Catalog,
    observe: Observe,
    alarms: Alarms,
    directory: Arc<Directory>,
    /// Names of departments by their slug.
    owners: Arc<BTreeMap<String, Text>>,
    base: Option<BaseMap>,
    devices: Devices,
    /// Where devices connect; `None` when the door is closed.
    door: Option<Door>,
    /// Public warnings, where the city publishes any.
    alerts: Option<Alerts>,
}

impl Pages {
    pub fn new(
        (catalog, observe, alarms, devices): (Catalog, Observe, Alarms, Devices),
        systems: Vec<System>,
        owners: BTreeMap<String, Text>,
        base: Option<BaseMap>,
        door: Option<Door>,
    ) -> Self {
        let directory = Arc::new(Directory::new(catalog.clone(), systems));
        Self { catalog, observe, alarms, directory, owners: Arc::new(owners), base, devices, door, alerts: None }
    }
    /// With pages for public warnings.
    #[must_use]
    pub fn warning(mut self, alerts: Alerts) -> Self {
        self.alerts = Some(alerts);
        self
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.catalog.scope(caller)
    }
}

const fn page(path: &'static str, action: Action, audience: Audience, summary: &'static str) -> Route {
    Route { method: "GET", path, action, audience, audit: false, summary }
}

pub const ROUTES: &[Route] = &[
    page("/{language}", action::READ, Audience::Public, "The city at a glance"),
    page("/{language}/map", action::READ, Audience::Public, "The map, with layers, live values and a time slider"),
    page("/{language}/things", action::READ, Audience::Public, "All things, by system and district"),
    page("/{language}/things/{id}", action::READ, Audience::Public, "One thing with its live values and charts"),
    page("/{language}/datastreams/{id}", action::READ, Audience::Public, "One Datastream: chart, table, download"),
    page("/{language}/alerts", action::READ, Audience::Public, "Public warnings that stand, by district"),
    page("/{language}/alerts/{identifier}", action::READ, Audience::Public, "One message of a public warning"),
    page("/{language}/alarms", action::ALARM_READ, Audience::SignedIn, "The alarm board"),
    page("/{language}/alarms/{id}", action::ALARM_READ, Audience::SignedIn, "One alarm with its history"),
    Route {
        method: "POST",
        path: "/{language}/alarms/{id}",
        action: action::ALARM_ACKNOWLEDGE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Acknowledge, close or comment on an alarm",
    },
    page(
        "/api/map/layers/{layer}",
        action::READ,
        Audience::Public,
        "A layer of the map as GeoJSON, now or at a moment",
    ),
    page(
        "/api/datastreams/{id}/series",
        action::READ,
        Audience::Public,
        "A Datastream as a chart draws it: aggregated to fit",
    ),
    page(
        "/api/datastreams/{id}/observations.csv",
        action::READ,
        Audience::Public,
        "Observations of a Datastream as CSV",
    ),
];

pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/{language}", get(map::home))
        .route("/{language}/map", get(map::map))
        .route("/{language}/things", get(things::list))
        .route("/{language}/things/{id}", get(things::thing))
        .route("/{language}/datastreams/{id}", get(datastream::page))
        .route("/{language}/alerts", get(alerts::list))
        .route("/{language}/alerts/{identifier}", get(alerts::one))
        .route("/{language}/alarms", get(alarms::board))
        .route("/{language}/alarms/{id}", get(alarms::alarm).post(alarms::act))
        .route("/api/map/layers/{layer}", get(map::layer))
        .route("/api/datastreams/{id}/series", get(datastream::series))
        .route("/api/datastreams/{id}/observations.csv", get(datastream::csv))
        .merge(devices::router())
        .with_state(pages)
}

/// Digits that a measurement of this size is worth.
fn decimals(value: f64) -> u8 {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    }
}

/// A time parameter of the address; a wrong one is named.
fn time(query: &ui::Query, name: &str) -> Result<Option<Timestamp>, kernel::Problem> {
    let text = query.get(name).filter(|t| !t.is_empty());
    text.map(|t| t.parse().map_err(|e: kernel::TimeError| kernel::Problem::field(name, e.to_string()))).transpose()
}

/// A name in three languages from an entity's `name` and `properties`.
fn name_of(name: &str, properties: &serde_json::Map<String, serde_json::Value>) -> Text {
    let other = |key: &str| properties.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    Text { en: name.to_owned(), zh_hant: other("name_zh_hant"), zh_hans: other("name_zh_hans") }
}
