//! Pages of the room: the map, things and their Datastreams, alarms, and the health of every feed.
//!
//! A page asks the same facades as the API, with the same `Caller`; what it may not see is not there.

mod alarms;
mod alerts;
mod dashboards;
mod datastream;
mod devices;
mod directory;
mod drawing;
mod export;
mod fences;
mod form;
mod map;
mod moving;
mod origin;
mod plot;
mod profiles;
mod retention;
mod rules;
mod series;
mod several;
mod silences;
mod tasking;
mod things;
mod upload;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};
use kernel::{Action, Caller, Text, Timestamp};

use crate::{
    Audience, Catalog, Route, Scope,
    alarms::Alarms,
    alerts::Alerts,
    dashboards::Walls,
    derived::Derived,
    devices::Devices,
    ingest::Ingest,
    moving::Moving,
    observe::Observe,
    retention::Retention,
    route::action,
    rules::{Rules, trial::Trials},
    tasking::Tasking,
};

pub use devices::Door;
#[doc(hidden)]
pub use devices::upload::probe as upload_probe;
pub use directory::{Directory, System};

/// Every address of these pages.
pub fn routes() -> Vec<Route> {
    [ROUTES, devices::ROUTES, moving::ROUTES, fences::ROUTES, profiles::ROUTES, tasking::ROUTES, dashboards::ROUTES]
        .concat()
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
    /// Address of the same land as an SVG symbol, for the small maps of dashboards.
    pub outline: Option<String>,
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
    /// Rules, and what they would have raised, where they are shown.
    rules: Option<Rules>,
    trials: Option<Trials>,
    /// Tables that officers bring.
    ingest: Option<Ingest>,
    /// What is computed, where anything is.
    derived: Option<Derived>,
    /// What moves, where anything does.
    moving: Option<Moving>,
    /// What is kept how long, where that is declared.
    retention: Option<Retention>,
    /// What may be asked of actuators, in a program that takes Tasks.
    tasking: Option<Tasking>,
    /// Dashboards and the screens that show them, where there are any.
    walls: Option<Walls>,
    /// Places for files that are being written.
    exports: Arc<tokio::sync::Semaphore>,
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
        let (owners, exports) = (Arc::new(owners), Arc::new(tokio::sync::Semaphore::new(export::AT_ONCE)));
        let (alerts, rules, trials, ingest, derived, moving, retention, tasking) =
            (None, None, None, None, None, None, None, None);
        Self {
            catalog,
            observe,
            alarms,
            directory,
            owners,
            base,
            devices,
            door,
            alerts,
            rules,
            trials,
            ingest,
            derived,
            moving,
            retention,
            tasking,
            walls: None,
            exports,
        }
    }
    /// With dashboards and walls.
    #[must_use]
    pub fn showing(mut self, walls: Walls) -> Self {
        self.walls = Some(walls);
        self
    }
    /// With pages for public warnings.
    #[must_use]
    pub fn warning(mut self, alerts: Alerts) -> Self {
        self.alerts = Some(alerts);
        self
    }
    /// With pages for rules.
    #[must_use]
    pub fn ruled(mut self, rules: Rules, trials: Trials) -> Self {
        (self.rules, self.trials) = (Some(rules), Some(trials));
        self
    }
    /// With the form for tables.
    #[must_use]
    pub fn uploading(mut self, ingest: Ingest) -> Self {
        self.ingest = Some(ingest);
        self
    }
    /// With where values come from, calibrations and corrections.
    #[must_use]
    pub fn deriving(mut self, derived: Derived) -> Self {
        self.derived = Some(derived);
        self
    }
    /// With what is kept how long.
    #[must_use]
    pub fn keeping(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }
    /// With the desk from which actuators are moved.
    #[must_use]
    pub fn tasking(mut self, tasking: Tasking) -> Self {
        self.tasking = Some(tasking);
        self
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.catalog.scope(caller)
    }
}

const fn page(path: &'static str, action: Action, audience: Audience, summary: &'static str) -> Route {
    Route { method: "GET", path, action, audience, audit: false, summary }
}

const fn silencing(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: action::ALARM_SILENCE, audience: Audience::SignedIn, audit: true, summary }
}

pub const ROUTES: &[Route] = &[
    page("/{language}", action::READ, Audience::Public, "The city at a glance"),
    page("/{language}/map", action::READ, Audience::Public, "The map, with layers, live values and a time slider"),
    page("/{language}/things", action::READ, Audience::Public, "All things, by system and district"),
    page("/{language}/things/{id}", action::READ, Audience::Public, "One thing with its live values and charts"),
    page("/{language}/datastreams/{id}", action::READ, Audience::Public, "One Datastream: chart, table, download"),
    page("/{language}/upload", action::OBSERVE, Audience::SignedIn, "The form for a table of Observations"),
    Route {
        method: "POST",
        path: "/{language}/upload",
        action: action::OBSERVE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Try a table of Observations for a thing or a Datastream, and record it",
    },
    Route {
        method: "POST",
        path: "/{language}/datastreams/{id}",
        action: action::OBSERVE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Enter a calibration of a Datastream (sensing:write), or correct one of its Observations",
    },
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
        summary: "Acknowledge, close, comment on or assign an alarm",
    },
    page(
        "/{language}/alarms/silences",
        action::ALARM_READ,
        Audience::SignedIn,
        "Silences, and the form that makes one",
    ),
    silencing("/{language}/alarms/silences", "Keep notifications about some alarms back for a while"),
    silencing("/{language}/alarms/silences/{id}", "End a silence"),
    page(
        "/{language}/retention",
        action::READ,
        Audience::SignedIn,
        "What is kept of Observations, what would go, holds",
    ),
    Route {
        method: "POST",
        path: "/{language}/retention",
        action: action::DELETE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Ask what a declaration would delete, confirm it, place or lift a hold",
    },
    page("/{language}/rules", action::RULE_READ, Audience::SignedIn, "The rules that watch Datastreams"),
    page(
        "/{language}/rules/{key}",
        action::RULE_READ,
        Audience::SignedIn,
        "One rule, and what it would have raised in the past",
    ),
    page(
        "/api/map/layers/{layer}",
        action::READ,
        Audience::Public,
        "A layer of the map as GeoJSON, now or at a moment",
    ),
    page(
        "/api/datastreams/{id}/export",
        action::READ,
        Audience::Public,
        "Observations of a Datastream as a file: Parquet, CSV or NDJSON",
    ),
    page(
        "/api/things/{id}/export",
        action::READ,
        Audience::Public,
        "Observations of all Datastreams of a Thing as a file: Parquet, CSV or NDJSON",
    ),
    page(
        "/api/datastreams/{id}/series",
        action::READ,
        Audience::Public,
        "A Datastream at any resolution: Observations, or their count, mean, extremes, sum, first and last by interval",
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
        .route("/{language}/datastreams/{id}", get(datastream::page).post(origin::act))
        .route(
            "/{language}/upload",
            get(upload::form).post(upload::send).layer(axum::extract::DefaultBodyLimit::max(upload::BYTES)),
        )
        .route("/{language}/alerts", get(alerts::list))
        .route("/{language}/alerts/{identifier}", get(alerts::one))
        .route("/{language}/alarms", get(alarms::board))
        .route("/{language}/alarms/{id}", get(alarms::alarm).post(alarms::act))
        .route("/{language}/alarms/silences", get(silences::show).post(silences::make))
        .route("/{language}/alarms/silences/{id}", post(silences::end))
        .route("/{language}/retention", get(retention::show).post(retention::decide))
        .route("/{language}/rules", get(rules::list))
        .route("/{language}/rules/{key}", get(rules::show))
        .route("/api/map/layers/{layer}", get(map::layer))
        .route("/api/datastreams/{id}/export", get(export::of_datastream))
        .route("/api/things/{id}/export", get(export::of_thing))
        .route("/api/datastreams/{id}/series", get(series::series))
        .route("/api/datastreams/{id}/observations.csv", get(datastream::csv))
        .merge(devices::router())
        .merge(moving::router())
        .merge(fences::router())
        .merge(profiles::router())
        .merge(tasking::router())
        .merge(dashboards::router())
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
