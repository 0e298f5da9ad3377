//! Dashboards: what a role has to keep an eye on, in tiles; declared by the pack, or made by officers.
//!
//! Two questions are kept apart. Who sees a dashboard is said by its audience. What its tiles then show is what this reader may read of the Datastreams
//! that they select: the same dashboard shows an officer of the department more than it shows the public, and nothing of a sealed department to anybody
//! else. A tile selects as a rule does, so what is installed tomorrow appears by itself.
//!
//! [`model`] is what is written down, [`select`] which Datastreams a tile is about, [`data`] what it shows, [`walls`] screens that hang somewhere.

pub mod api;
pub mod data;
pub mod model;
pub mod select;
pub mod store;
pub mod walls;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use kernel::{Caller, FieldError, Policy, Problem, Resource, Tenant, Timestamp};
use records::Records;
use serde_json::value::RawValue;

use crate::{Catalog, Error, Scope, alarms::Alarms, observe::Observe, route::action};
use data::Past;
use model::{Audience, DashboardFile, Declaration, Scales};
use store::Dashboard;
pub use walls::Walls;

/// The facade. Cheap to clone.
#[derive(Clone)]
pub struct Dashboards(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    observe: Observe,
    alarms: Alarms,
    /// The pack's levels, by ObservedProperty.
    scales: ArcSwap<Scales>,
    past: Past,
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
}

enum Failure {
    Records(records::Error),
    Changed,
    Taken,
    TooMany,
}

impl From<records::Error> for Failure {
    fn from(error: records::Error) -> Self {
        Self::Records(error)
    }
}

fn shorten(key: &str) -> String {
    key.chars().take(80).collect()
}

/// A result that is no number, as people read it.
pub fn words(raw: &RawValue) -> String {
    serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().chars().take(200).collect())
}

impl Dashboards {
    /// Brings the tables up to date. Blocks.
    ///
    /// # Errors
    /// Those of the migration.
    pub fn open(catalog: Catalog, observe: Observe, alarms: Alarms) -> Result<Self, Error> {
        catalog.records().migrate("sensing_dashboards", store::MIGRATIONS)?;
        let (scales, past) = (ArcSwap::default(), Past::default());
        Ok(Self(Arc::new(Inner { catalog, observe, alarms, scales, past })))
    }

    pub(crate) fn records(&self) -> &Records {
        self.0.catalog.records()
    }
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }
    pub(crate) fn observe(&self) -> &Observe {
        &self.0.observe
    }
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.0.alarms
    }
    pub(crate) fn policy(&self) -> &Arc<dyn Policy> {
        self.0.catalog.scopes().policy()
    }
    pub(crate) fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.0.catalog.scope(caller)
    }
    fn kept(&self) -> &Past {
        &self.0.past
    }
    pub fn scales(&self) -> Arc<Scales> {
        self.0.scales.load_full()
    }
    pub fn now(&self) -> Timestamp {
        self.0.catalog.now()
    }

    /// Whether somebody may make and change dashboards of a tenant.
    pub fn may_manage(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Dashboard", id: "", tenant: Some(tenant), public: false };
        caller.is_system() || self.policy().allows(caller, action::DASHBOARD_MANAGE, &resource)
    }

    /// Whether somebody may read a tenant's own dashboards. The scope does not say it of a tenant that has nothing yet.
    pub(crate) fn reads(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Dashboard", id: "", tenant: Some(tenant), public: false };
        self.policy().allows(caller, action::READ, &resource)
    }

    fn sees(&self, caller: &Caller, d: &Declaration) -> bool {
        let public = d.audience == Audience::Public;
        let resource = Resource { kind: "Dashboard", id: &d.key, tenant: Some(&d.tenant), public };
        if caller.is_system() || self.may_manage(caller, &d.tenant) {
            return true;
        }
        if !self.policy().allows(caller, action::READ, &resource) {
            return false;
        }
        // A wall was made by somebody who sees it, and has no role but its own.
        d.roles.is_empty()
            || (caller.tenant.as_ref() == Some(&d.tenant)
                && (caller.has_role(walls::ROLE) || d.roles.iter().any(|role| caller.has_role(role))))
    }

    /// The dashboards that `caller` sees: those of the own tenant first, then the pack's, then by title.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Dashboard>, Error> {
        let mut all = self.records().read(store::all).await?;
        all.retain(|d| self.sees(caller, &d.declaration));
        all.sort_by_key(|d| (caller.tenant.as_ref() != Some(&d.declaration.tenant), !d.declared));
        Ok(all)
    }

    /// # Errors
    /// 404 when there is none that `caller` sees.
    pub async fn get(&self, caller: &Caller, key: &str) -> Result<Dashboard, Error> {
        let asked = key.to_owned();
        let found = self.records().read(move |read| store::get(read, &asked)).await?;
        let found = found.filter(|d| self.sees(caller, &d.declaration));
        found.ok_or_else(|| Error::not_found(format!("The dashboard '{}'", shorten(key))))
    }

    fn checked(&self, d: &Declaration) -> Result<(), Error> {
        let errors = model::check(d, &|tenant| self.policy().seals(tenant));
        if errors.is_empty() { Ok(()) } else { Err(model::refused(errors).into()) }
    }

    fn permitted(&self, caller: &Caller, tenant: &Tenant, missing: impl FnOnce() -> Error) -> Result<(), Error> {
        if self.may_manage(caller, tenant) {
            return Ok(());
        }
        if !caller.is_anonymous() && self.reads(caller, tenant) {
            return Err(Problem::forbidden("Ask the department for the right to make dashboards.").into());
        }
        Err(missing())
    }

    /// Makes a dashboard of an officer's, audited. Its key has the tenant before it: so whether another department has one of that name is not told.
    ///
    /// # Errors
    /// 400 with every field that is wrong; 403 without `dashboard:manage`; 404 for a tenant that the caller may not read; 409 when the key is taken or
    /// the tenant has too many.
    pub async fn create(&self, caller: &Caller, declaration: Declaration) -> Result<Dashboard, Error> {
        let tenant = declaration.tenant.clone();
        self.permitted(caller, &tenant, || Error::not_found(format!("The department '{tenant}'")))?;
        if !declaration.key.contains('.') {
            let detail = format!(
                "write it as {tenant}.{}: what officers make has the department before it",
                shorten(&declaration.key)
            );
            return Err(Error::field("/key", detail));
        }
        self.checked(&declaration)?;
        let (who, made) = (caller.clone(), declaration.clone());
        let done = self.records().write(move |tx| {
            if store::get(tx, &made.key)?.is_some() {
                return Err(Failure::Taken);
            }
            if store::own(tx, &made.tenant)? >= model::MAX_OWN as u64 {
                return Err(Failure::TooMany);
            }
            store::insert(tx, &who, &made)?;
            Ok(())
        });
        done.await.map_err(|f| failed(f, &declaration.key))?;
        self.get(caller, &declaration.key).await
    }

    /// The dashboard that somebody is about to change.
    async fn own(&self, caller: &Caller, key: &str) -> Result<Dashboard, Error> {
        let found = self.get(caller, key).await?;
        let tenant = &found.declaration.tenant;
        if !self.may_manage(caller, tenant) {
            return Err(Problem::forbidden("Ask the dashboard's department for the right to change it.").into());
        }
        if found.declared {
            let detail = "The pack declares this dashboard. Copy it, and change the copy.";
            return Err(Error::conflict(detail));
        }
        Ok(found)
    }

    /// Changes the version that the caller has seen, audited. Key and tenant stay.
    ///
    /// # Errors
    /// As [`Dashboards::create`]; 404 when there is none that the caller sees; 409 for one of the pack's; 412 when somebody was faster.
    pub async fn change(
        &self,
        caller: &Caller,
        key: &str,
        declaration: Declaration,
        version: u32,
    ) -> Result<Dashboard, Error> {
        let found = self.own(caller, key).await?.declaration;
        if declaration.key != found.key || declaration.tenant != found.tenant {
            let field = if declaration.key == found.key { "/tenant" } else { "/key" };
            return Err(Error::field(field, "it stays as it is; make another dashboard"));
        }
        self.checked(&declaration)?;
        let who = caller.clone();
        let done = self.records().write(move |tx| {
            if store::update(tx, &who, &declaration, version)? { Ok(()) } else { Err(Failure::Changed) }
        });
        done.await.map_err(|f| failed(f, key))?;
        self.get(caller, key).await
    }

    /// Takes an officer's dashboard away, audited.
    ///
    /// # Errors
    /// As [`Dashboards::change`].
    pub async fn remove(&self, caller: &Caller, key: &str, version: u32) -> Result<(), Error> {
        let found = self.own(caller, key).await?.declaration;
        let who = caller.clone();
        let done = self.records().write(move |tx| {
            if store::delete(tx, &who, &found.key, &found.tenant, Some(version))? {
                Ok(())
            } else {
                Err(Failure::Changed)
            }
        });
        done.await.map_err(|f| failed(f, key))
    }

    /// Makes the pack's dashboards and scales those that are given. What officers have made stays.
    ///
    /// # Errors
    /// 400 with every mistake and its place; 403 for everybody but the program itself.
    pub async fn apply(&self, caller: &Caller, file: DashboardFile) -> Result<Applied, Error> {
        if !caller.is_system() {
            return Err(Problem::forbidden("The pack's dashboards are the pack's.").into());
        }
        let errors: Vec<FieldError> = model::check_file(&file, &|tenant| self.policy().seals(tenant));
        if !errors.is_empty() {
            return Err(model::refused(errors).into());
        }
        let DashboardFile { dashboard, scale } = file;
        let caller = caller.clone();
        let applied = self.records().write(move |tx| {
            let mut applied = Applied::default();
            for d in &dashboard {
                applied.written += usize::from(store::declare(tx, &caller, d)?);
            }
            let kept: BTreeSet<&str> = dashboard.iter().map(|d| d.key.as_str()).collect();
            for (key, tenant) in store::declared(tx)? {
                if !kept.contains(key.as_str()) {
                    applied.removed += usize::from(store::delete(tx, &caller, &key, &tenant, None)?);
                }
            }
            Ok::<_, records::Error>(applied)
        });
        let applied = applied.await?;
        self.0.scales.store(Arc::new(scale.into_iter().map(|s| (s.observed_property, s.levels)).collect()));
        Ok(applied)
    }
}

fn failed(failure: Failure, key: &str) -> Error {
    match failure {
        Failure::Records(error) => error.into(),
        Failure::Taken => {
            Error::conflict(format!("There is a dashboard '{}' already. Choose another key.", shorten(key)))
        }
        Failure::TooMany => {
            Error::conflict(format!("The department has {} dashboards of its own. Remove one first.", model::MAX_OWN))
        }
        Failure::Changed => Problem::new(
            http::StatusCode::PRECONDITION_FAILED,
            "dashboard-changed",
            "The dashboard has changed",
            "The dashboard has been changed since you opened it. Nothing was saved; look at it again.",
        )
        .into(),
    }
}
