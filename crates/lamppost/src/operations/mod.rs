//! What a duty officer looks at: feeds, notifications that did not arrive, and the program itself; and what everybody may know of it.

mod api;
mod page;
pub mod parts;
mod status;
pub mod watch;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};
use kernel::{Caller, Policy, Problem, Resource, Tenant, Text, Timestamp};
use sensing::{
    Audience, Route,
    alarms::Alarms,
    connect::{Connect, View},
    observe::Observe,
    route::action,
};

use crate::{http::health::Health, stores::Stores};

pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/{language}/operations",
        action: action::CONNECTOR_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Feeds, notifications that failed, stores: for the officer on duty",
    },
    Route {
        method: "GET",
        path: "/{language}/operations/feeds/{key}",
        action: action::CONNECTOR_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "One feed with the account of its last run",
    },
    Route {
        method: "POST",
        path: "/{language}/operations/feeds/{key}/run",
        action: action::CONNECTOR_MANAGE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Poll a feed now",
    },
    Route {
        method: "POST",
        path: "/{language}/operations/deliveries/{id}/retry",
        action: action::RULE_MANAGE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Try a notification that was given up once more",
    },
    Route {
        method: "GET",
        path: "/{language}/status",
        action: action::READ,
        audience: Audience::Public,
        audit: false,
        summary: "Whether the program works, in words",
    },
    Route {
        method: "GET",
        path: "/api/operations/status",
        action: action::CONNECTOR_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Every feed and part that one may know of, the worst first: what is wrong, since when",
    },
    Route {
        method: "GET",
        path: "/api/status",
        action: action::READ,
        audience: Audience::Public,
        audit: false,
        summary: "Which public feeds are late, each by its own interval",
    },
];

/// What the pages draw on.
pub struct Console {
    pub connect: Connect,
    pub alarms: Alarms,
    pub observe: Observe,
    pub stores: Stores,
    pub health: Arc<Health>,
    pub policy: Arc<dyn Policy>,
    /// Names of departments and systems, from the pack.
    pub tenants: BTreeMap<Tenant, Text>,
    pub systems: BTreeMap<String, Text>,
    pub watch: Arc<watch::Watch>,
    /// Whether devices can connect by MQTT.
    pub mqtt: bool,
    pub started_at: Timestamp,
    /// Which pack is applied: name and the beginning of its hash.
    pub pack: String,
}

impl Console {
    /// Whether somebody may see the platform itself and not only their department's part of it.
    pub fn sees_platform(&self, caller: &Caller) -> bool {
        let resource = Resource { kind: "Platform", id: "", tenant: None, public: false };
        self.policy.allows(caller, action::OPS_READ, &resource)
    }
    /// Whether the page is of any use to somebody.
    fn admits(&self, caller: &Caller) -> bool {
        let own = caller.tenant.as_ref().is_some_and(|tenant| {
            let resource = Resource { kind: "Connector", id: "", tenant: Some(tenant), public: false };
            self.policy.allows(caller, action::CONNECTOR_READ, &resource)
        });
        own || self.sees_platform(caller)
    }
    /// How everything is that somebody may know of, the worst first, and as of when. Connectors are as they are now, because somebody has just
    /// pressed "Run now".
    async fn parts(&self, caller: &Caller, views: &[View]) -> Result<(Timestamp, Vec<parts::Part>), Problem> {
        let seen = self.watch.look().await?;
        let mut parts = self.watch.visible(&seen, caller, self.sees_platform(caller));
        parts.retain(|p| p.kind != parts::Kind::Connector);
        parts.extend(views.iter().map(watch::connector));
        parts::rank(&mut parts);
        Ok((seen.at, parts))
    }
    fn tenant_name<'a>(&'a self, page: &'a ui::Page, tenant: &'a Tenant) -> &'a str {
        self.tenants.get(tenant).map_or(tenant.as_str(), |name| page.text(name))
    }
}

pub fn router(console: Arc<Console>) -> Router {
    Router::new()
        .route("/{language}/operations", get(page::operations))
        .route("/{language}/operations/feeds/{key}", get(page::feed))
        .route("/{language}/operations/feeds/{key}/run", post(page::run))
        .route("/{language}/operations/deliveries/{id}/retry", post(page::retry))
        .route("/{language}/status", get(status::status))
        .route("/api/operations/status", get(api::status))
        .route("/api/status", get(api::public))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(console)
}
