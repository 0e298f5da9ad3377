//! Connectors: feeds that are polled and mapped by declaration, as docs/connectors.md describes for whoever writes a pack.
//!
//! A run goes [`fetch`] → [`rows`] → [`map`] → [`fit`] → `observe`, and writes down in [`report::Report`] what became of every row. All but the
//! two ends is pure. [`schedule`] decides when, [`store`] remembers.

pub mod api;
pub mod declaration;
pub mod fetch;
pub mod fit;
pub mod guard;
pub mod map;
pub mod modbus;
pub mod report;
pub mod rows;
mod schedule;
mod store;
pub(crate) mod template;
mod time;
pub(crate) mod work;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use kernel::{Caller, Problem, Resource, Tenant, Text, Timestamp};
use parking_lot::Mutex;
use records::Records;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use crate::{Catalog, Error, observe::Observe, route::action};
use declaration::{Connector, Declaration, check_all};
use report::Report;
use store::Stored;

pub use declaration::ConnectorFile;
pub use guard::Allowed;

/// How connectors may work here.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pack's folder: relative paths begin here.
    pub base: PathBuf,
    /// Folders elsewhere that connectors may read.
    pub folders: Vec<PathBuf>,
    /// Addresses inside the city's own network that connectors may poll.
    pub allowed: Allowed,
    /// Connectors that run at the same time.
    pub parallel: usize,
    /// Bytes of one document, decompressed.
    pub max_bytes: usize,
    /// For one HTTP request, from connecting to the last byte.
    pub time_limit: Duration,
}

impl Options {
    pub fn new(base: PathBuf) -> Self {
        Self {
            base,
            folders: Vec::new(),
            allowed: Allowed::default(),
            parallel: 2,
            max_bytes: 64 << 20,
            time_limit: Duration::from_secs(120),
        }
    }
}

/// The facade over connectors. Cheap to clone.
#[derive(Clone)]
pub struct Connect(Arc<Inner>);

struct Inner {
    options: Options,
    fetcher: fetch::Fetcher,
    catalog: Catalog,
    observe: Observe,
    wake: Notify,
    running: Mutex<BTreeSet<String>>,
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
    pub unchanged: usize,
}

/// How a connector is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Has not run yet.
    New,
    Ok,
    /// Reads, but refuses some of what it reads.
    Rejecting,
    Failing,
    /// No success for three of its intervals, without a failure: the program was away.
    Late,
    Disabled,
}

/// A connector as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    pub key: String,
    pub tenant: Tenant,
    pub name: Text,
    /// Where it reads; an address without its query.
    pub source: String,
    /// ISO 8601 duration.
    pub every: String,
    pub health: Health,
    pub running: bool,
    pub started_at: Option<Timestamp>,
    pub succeeded_at: Option<Timestamp>,
    /// When the source last had something new.
    pub changed_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
    /// Why the last run failed; `None` after a success.
    pub error: Option<String>,
    /// Runs that have failed since the last success.
    pub failures: u32,
    pub next_run: Option<Timestamp>,
    /// The account of the last run that read anything.
    pub report: Option<Report>,
}

impl Connect {
    /// # Errors
    /// When the tables cannot be brought up to date or the platform offers no TLS roots.
    pub fn open(options: Options, catalog: Catalog, observe: Observe) -> Result<Self, Error> {
        catalog.records().migrate("sensing_connect", store::MIGRATIONS)?;
        let fetcher = fetch::Fetcher::new(&options).map_err(Error::internal)?;
        Ok(Self(Arc::new(Inner { options, fetcher, catalog, observe, wake: Notify::new(), running: Mutex::default() })))
    }

    fn records(&self) -> &Records {
        self.0.catalog.records()
    }
    fn now(&self) -> Timestamp {
        self.0.catalog.now()
    }

    fn may(&self, caller: &Caller, action: kernel::Action, tenant: &Tenant, key: &str) -> bool {
        let resource = Resource { kind: "Connector", id: key, tenant: Some(tenant), public: false };
        caller.is_system() || self.0.catalog.scopes().policy().allows(caller, action, &resource)
    }

    /// Makes the stored connectors those that are given: what is missing is removed (what it has recorded stays). All or nothing; applying
    /// the same twice writes nothing the second time.
    ///
    /// # Errors
    /// 400 with every mistake and its place; 403 without `connector:manage`.
    pub async fn apply(&self, caller: &Caller, declarations: Vec<Declaration>) -> Result<Applied, Error> {
        let connectors = check_all(declarations)?;
        let before = self.records().read(store::keys).await?;
        let touched =
            connectors.iter().map(|c| (&c.key, &c.tenant)).chain(before.iter().map(|(key, tenant)| (key, tenant)));
        for (key, tenant) in touched {
            if !self.may(caller, action::CONNECTOR_MANAGE, tenant, key) {
                return Err(Problem::forbidden(format!("You may not manage the connectors of '{tenant}'.")).into());
            }
        }
        let caller = caller.clone();
        let applied = self.records().write(move |tx| {
            let mut applied = Applied::default();
            for connector in &connectors {
                if store::put(tx, connector)? {
                    applied.written += 1;
                    let detail = json!({ "source": connector.source.address(), "every": connector.every });
                    tx.audit(&caller, "connector:apply", "Connector", &connector.key, Some(&connector.tenant), detail)?;
                } else {
                    applied.unchanged += 1;
                }
            }
            for (key, tenant) in store::keys(tx)? {
                if !connectors.iter().any(|c| c.key == key) {
                    store::delete(tx, &key)?;
                    tx.audit(&caller, "connector:remove", "Connector", &key, Some(&tenant), json!({}))?;
                    applied.removed += 1;
                }
            }
            Ok::<_, Error>(applied)
        });
        let applied = applied.await?;
        self.0.wake.notify_one();
        Ok(applied)
    }

    /// The connectors that `caller` may read, by key.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn connectors(&self, caller: &Caller) -> Result<Vec<View>, Error> {
        let mut all = self.records().read(store::all).await?;
        all.retain(|c| self.may(caller, action::CONNECTOR_READ, &c.declaration.tenant, &c.declaration.key));
        Ok(all.into_iter().map(|c| self.view(c)).collect())
    }

    /// # Errors
    /// 404 when there is no such connector or `caller` may not read it.
    pub async fn connector(&self, caller: &Caller, key: &str) -> Result<View, Error> {
        self.readable(caller, key).await.map(|c| self.view(c))
    }

    async fn readable(&self, caller: &Caller, key: &str) -> Result<Stored, Error> {
        let asked = key.to_owned();
        let found = self.records().read(move |read| store::one(read, &asked)).await?;
        let found = found.filter(|c| self.may(caller, action::CONNECTOR_READ, &c.declaration.tenant, key));
        found.ok_or_else(|| Error::not_found(format!("The connector '{}'", report::shorten(key))))
    }

    /// Runs a connector soon and reads its source completely, also where it seems unchanged.
    ///
    /// # Errors
    /// 404 as [`Connect::connector`]; 403 without `connector:manage`; 409 when it is disabled.
    pub async fn run_now(&self, caller: &Caller, key: &str) -> Result<View, Error> {
        let found = self.readable(caller, key).await?;
        let tenant = found.declaration.tenant;
        if !self.may(caller, action::CONNECTOR_MANAGE, &tenant, key) {
            return Err(Problem::forbidden(format!("You may not manage the connectors of '{tenant}'.")).into());
        }
        let (by, asked) = (caller.clone(), key.to_owned());
        let forced = self.records().write(move |tx| {
            let forced = store::force(tx, &asked)?;
            if forced {
                tx.audit(&by, "connector:run", "Connector", &asked, Some(&tenant), json!({}))?;
            }
            Ok::<_, Error>(forced)
        });
        if !forced.await? {
            return Err(Error::conflict("The connector is disabled in the pack."));
        }
        self.0.wake.notify_one();
        self.connector(caller, key).await
    }

    fn view(&self, stored: Stored) -> View {
        let running = self.0.running.lock().contains(&stored.declaration.key);
        let health = self.health(&stored);
        let d = stored.declaration;
        View {
            source: d.source.address().to_owned(),
            key: d.key,
            tenant: d.tenant,
            name: d.name,
            every: d.every,
            health,
            running,
            started_at: stored.started_at,
            succeeded_at: stored.succeeded_at,
            changed_at: stored.changed_at,
            failed_at: stored.failed_at,
            error: stored.error,
            failures: stored.failures,
            next_run: d.enabled.then_some(stored.next_run),
            report: stored.report,
        }
    }

    fn health(&self, stored: &Stored) -> Health {
        let Ok(connector) = Connector::new(stored.declaration.clone()) else { return Health::Failing };
        if !connector.enabled {
            return Health::Disabled;
        }
        if stored.failures > 0 {
            return Health::Failing;
        }
        let Some(succeeded) = stored.succeeded_at else { return Health::New };
        let patience = i64::try_from(connector.interval.as_micros()).unwrap_or(i64::MAX).saturating_mul(3);
        if self.now().micros_since(succeeded) > patience {
            return Health::Late;
        }
        let rejecting = stored.report.as_ref().is_some_and(|r| r.rejected + r.rows_rejected > 0);
        if rejecting { Health::Rejecting } else { Health::Ok }
    }
}
