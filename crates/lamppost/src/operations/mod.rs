//! What a duty officer looks at: feeds, notifications that did not arrive, and the program itself; and what everybody may know of it.

mod page;
mod status;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};
use kernel::{Caller, Policy, Resource, Tenant, Text, Timestamp};
use sensing::{Audience, Route, alarms::Alarms, connect::Connect, observe::Observe, route::action};

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
];

/// What the pages draw on.
pub struct Console {
    pub connect: Connect,
    pub alarms: Alarms,
    pub observe: Observe,
    pub stores: Stores,
    pub health: Arc<Health>,
    pub policy: Arc<dyn Policy>,
    /// Names of departments, from the pack.
    pub tenants: BTreeMap<Tenant, Text>,
    /// Whether devices can connect by MQTT.
    pub mqtt: bool,
    pub started_at: Timestamp,
    /// Which pack is applied: name and the beginning of its hash.
    pub pack: String,
}

impl Console {
    /// Whether somebody may see the platform itself and not only their department's part of it.
    fn sees_platform(&self, caller: &Caller) -> bool {
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
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(console)
}
