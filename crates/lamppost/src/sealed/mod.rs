//! Sealed departments: nobody outside learns anything of them, and whoever inside looks is on record before they see.
//!
//! The first half is kept by others: `policy` denies whatever a pack permits, `sensing::catalog` publishes nothing of them and ties nothing of
//! theirs to anything outside. Here is the second half. Every request of a sealed department's people, programs and devices, and every
//! subscription of its devices, becomes a row; the row is durable before the first byte of the answer leaves, and what cannot be written
//! down is not shown. The rows of all who look at the same time are made durable together, by the group commit of `records`.
//!
//! The same look by the same caller within a minute is one row with a count: a page that is open all day is a line a minute and not a line
//! a second. Who reads the record is on record too.

mod api;
mod layer;
mod page;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Router, routing::get};
use kernel::{Action, Caller, Policy, Problem, Resource, Role, Tenant, Text, Timestamp};
use records::Records;
use sensing::{Audience, Route};

use crate::operators::Operators;

pub use layer::looks;
pub use store::{Found, Look, Wanted};

/// Read the record of looks.
pub const READ: Action = Action("audit:read");

/// How long a look is kept: an inquiry begins within two years.
pub const KEPT: i64 = 2 * 366 * 24 * 3_600 * 1_000_000;
/// Characters of a look that are kept; longer ones are told apart by their hash.
pub const WHAT: usize = 1_000;

pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/looks",
        action: READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Who of a sealed department has looked at what, newest first",
    },
    Route {
        method: "GET",
        path: "/{language}/looks",
        action: READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Who of a sealed department has looked at what, and who was let in from outside",
    },
    Route {
        method: "POST",
        path: "/{language}/looks/visits",
        action: crate::operators::MANAGE,
        audience: Audience::Role("admin"),
        audit: true,
        summary: "Let somebody from outside look into a sealed department, for hours and for a reason",
    },
];

/// What every door asks.
pub struct Sealed {
    tenants: BTreeSet<Tenant>,
    records: Records,
}

impl Sealed {
    /// Brings the table up to date. Blocks; may be called anywhere.
    pub fn open(records: Records, tenants: BTreeSet<Tenant>) -> Result<Self, records::Error> {
        records.migrate("sealed", store::MIGRATIONS)?;
        Ok(Self { tenants, records })
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// The sealed department that somebody acts for.
    pub fn of<'c>(&self, caller: &'c Caller) -> Option<&'c Tenant> {
        caller.tenant.as_ref().filter(|tenant| self.tenants.contains(*tenant))
    }

    /// Puts looks on record. Answers after they are durable; nothing may be shown when it fails.
    pub async fn record(&self, caller: &Caller, looks: Vec<Look>) -> Result<(), records::Error> {
        let Some(tenant) = self.of(caller).cloned() else { return Ok(()) };
        let label = caller.label();
        self.records.write(move |tx| looks.iter().try_for_each(|look| store::insert(tx, &tenant, &label, look))).await
    }

    /// Forgets what is older than [`KEPT`], a part at a time. To be called about once a minute.
    pub async fn sweep(&self) -> Result<u64, records::Error> {
        let before: Timestamp = self.records.now().plus_micros(-KEPT);
        self.records.write(move |tx| store::sweep(tx, before)).await
    }

    pub async fn list(&self, tenant: &Tenant, wanted: Wanted) -> Result<Vec<Found>, records::Error> {
        let tenant = tenant.clone();
        self.records.read(move |read| store::list(read, &tenant, &wanted)).await
    }
}

/// What the page and the API need.
pub struct Record {
    pub sealed: Arc<Sealed>,
    pub operators: Operators,
    pub policy: Arc<dyn Policy>,
    pub tenants: BTreeMap<Tenant, Text>,
    /// The roles as the pack lists them, the least first.
    pub roles: Vec<(Role, Text)>,
    /// Where links begin: `https://city.example`.
    pub public_url: String,
}

impl Record {
    /// The department whose record somebody may read. Who may not is answered as if there were none, whichever department they are of.
    fn readable(&self, caller: &Caller) -> Result<Tenant, Problem> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated());
        }
        let tenant = self.sealed.of(caller).filter(|tenant| {
            let resource = Resource { kind: "Look", id: "", tenant: Some(tenant), public: false };
            self.policy.allows(caller, READ, &resource)
        });
        tenant.cloned().ok_or_else(|| Problem::not_found("The record"))
    }
    fn manages(&self, caller: &Caller, tenant: &Tenant) -> bool {
        self.operators.allows(caller, crate::operators::MANAGE, tenant)
    }
}

pub fn router(record: Arc<Record>) -> Router {
    Router::new()
        .route("/api/looks", get(api::looks))
        .route("/{language}/looks", get(page::looks))
        .route("/{language}/looks/visits", axum::routing::post(page::visit))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(record)
}

/// A store's failure as a client sees it.
fn failed(error: &records::Error) -> Problem {
    tracing::warn!(%error, "the record of looks");
    sensing::error::away(error).unwrap_or_else(Problem::internal)
}

#[cfg(test)]
mod tests;
