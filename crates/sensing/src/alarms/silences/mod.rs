//! Silences: who keeps which notifications back, until when, and why.
//!
//! A silence belongs to a tenant and covers that tenant's alarms alone. Whoever may see all of the tenant's alarms may see its silences; making and
//! ending one is asked of the policy as `alarm:silence`. An alarm is never touched by a silence. What was kept back is written down as a delivery in
//! the state `withheld`, with the silence's id; when the silence is over, letters about alarms that are still open go out after all
//! (`notify/store.rs::release`), so that nothing can fall through a silence that was forgotten.

pub mod api;
pub mod model;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};

use kernel::{Caller, FieldError, Id, PageSize, Problem, Resource, Tenant};
use records::params;

use super::{Alarms, LIMITS, model::Alarm, stored};
use crate::{Error, route::action};
use model::{Draft, Limits, Silence, SilenceState, Silencing};
use store::Quiet;

#[derive(Clone)]
pub struct Silences(Alarms);

/// Which silences.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub tenant: Option<Tenant>,
    /// All where none is named.
    pub states: Vec<SilenceState>,
    pub after: Option<Id<Silence>>,
}

enum Failure {
    Records(records::Error),
    Wrong(Vec<FieldError>),
    TooMany,
}

impl From<records::Error> for Failure {
    fn from(error: records::Error) -> Self {
        Self::Records(error)
    }
}

impl Silences {
    pub fn new(alarms: Alarms) -> Self {
        Self(alarms)
    }

    /// The tenants whose alarms the caller sees all of: that something is kept quiet is no public matter.
    fn tenants(&self, caller: &Caller) -> Vec<Tenant> {
        let visible = self.0.visible(caller);
        let all = self.0.scopes().tenants();
        all.iter().filter(|t| visible.admits(t, false)).cloned().collect()
    }

    /// Whether the caller may make and end silences of a tenant.
    pub fn may(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Silence", id: "", tenant: Some(tenant), public: false };
        caller.is_system() || self.0.policy().allows(caller, action::ALARM_SILENCE, &resource)
    }

    pub fn now(&self) -> kernel::Timestamp {
        self.0.records().now()
    }

    /// Newest first, at most `limit`, and where the next page begins.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(
        &self,
        caller: &Caller,
        wanted: Wanted,
        limit: Option<u32>,
    ) -> Result<(Vec<Silence>, Option<Id<Silence>>), Error> {
        let limit = PageSize::clamp(limit.map(|l| l.max(1)), &LIMITS).get();
        let mut tenants = self.tenants(caller);
        tenants.retain(|t| wanted.tenant.as_ref().is_none_or(|w| w == t));
        let Wanted { states, after, .. } = wanted;
        let found = self.0.records().read(move |read| store::list(read, &tenants, &states, after, limit + 1));
        let mut silences = found.await.map_err(stored)?;
        let more = silences.len() > limit;
        silences.truncate(limit);
        let next = silences.last().filter(|_| more).map(|s| s.id);
        Ok((silences, next))
    }

    /// # Errors
    /// 404 when there is none, or the caller may not see its tenant's alarms.
    pub async fn get(&self, caller: &Caller, id: Id<Silence>) -> Result<Silence, Error> {
        let found = self.0.records().read(move |read| store::get(read, id)).await.map_err(stored)?;
        let visible = self.0.visible(caller);
        found.filter(|s| visible.admits(&s.tenant, false)).ok_or_else(|| Error::not_found(format!("The silence {id}")))
    }

    /// What the pack says of a tenant.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn limits(&self, tenant: Tenant) -> Result<Limits, Error> {
        self.0.records().read(move |read| store::limits(read, &tenant)).await.map_err(stored)
    }

    /// Makes a silence, audited.
    ///
    /// # Errors
    /// 400 with every field that is wrong: nothing named, a rule or Thing that the tenant does not have, a severity that the pack forbids to be quiet
    /// about, a time that has passed or is too long, no reason; 403 without `alarm:silence`; 404 where the caller may not even look; 409 when the
    /// tenant has too many.
    pub async fn create(&self, caller: &Caller, draft: Draft) -> Result<Silence, Error> {
        self.permitted(caller, &draft.tenant)?;
        let (caller, entropy) = (caller.clone(), Id::<Silence>::generate());
        let made = self.0.records().write(move |tx| {
            let now = tx.now();
            let limits = store::limits(tx, &draft.tenant)?;
            // One id, however often the transaction is tried.
            let id = Id::new(now, entropy.uuid().as_u128());
            let silence = draft.clone().decide(id, &caller.label(), &limits, now).map_err(Failure::Wrong)?;
            let strangers = strangers(tx, &silence)?;
            if !strangers.is_empty() {
                return Err(Failure::Wrong(strangers));
            }
            if store::standing(tx, &silence.tenant)?.len() >= store::MAX_STANDING {
                return Err(Failure::TooMany);
            }
            store::put(tx, &caller, &silence)?;
            Ok(silence)
        });
        made.await.map_err(|failure| match failure {
            Failure::Records(error) => stored(error),
            Failure::TooMany => {
                let most = store::MAX_STANDING;
                Error::conflict(format!("The department has {most} silences that are not over. End one of them first."))
            }
            Failure::Wrong(errors) => {
                let first =
                    errors.first().cloned().unwrap_or(FieldError { field: String::new(), detail: String::new() });
                let mut problem = Problem::field(first.field, first.detail);
                problem.errors = errors;
                problem.into()
            }
        })
    }

    fn permitted(&self, caller: &Caller, tenant: &Tenant) -> Result<(), Error> {
        if self.may(caller, tenant) {
            return Ok(());
        }
        if self.0.visible(caller).admits(tenant, false) {
            return Err(Problem::forbidden("Ask the department for the right to silence its alarms.").into());
        }
        Err(Error::not_found(format!("The department '{tenant}'")))
    }

    /// Ends a silence before its time, audited. What it has kept back is looked at at once.
    ///
    /// # Errors
    /// 404 as [`Silences::get`]; 403 without `alarm:silence`; 409 when it is over already.
    pub async fn end(&self, caller: &Caller, id: Id<Silence>) -> Result<Silence, Error> {
        let silence = self.get(caller, id).await?;
        self.permitted(caller, &silence.tenant)?;
        let who = caller.clone();
        let ended = self.0.records().write(move |tx| store::end(tx, &who, &silence)).await.map_err(stored)?;
        if !ended {
            return Err(Error::conflict("The silence is over already."));
        }
        self.get(caller, id).await
    }

    /// Which silences keep letters about these alarms back now; only those that the caller may see.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn over(&self, caller: &Caller, alarms: &[Alarm]) -> Result<BTreeMap<Id<Alarm>, Vec<Silence>>, Error> {
        let visible = self.0.visible(caller);
        let standing: Vec<Alarm> =
            alarms.iter().filter(|a| a.state.stands() && visible.admits(&a.tenant, false)).cloned().collect();
        if standing.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.0.records().read(move |read| {
            let now = read.now();
            let tenants: BTreeSet<&Tenant> = standing.iter().map(|a| &a.tenant).collect();
            let mut over = BTreeMap::new();
            for tenant in tenants {
                let quiet = Quiet::of(read, tenant)?;
                for alarm in standing.iter().filter(|a| a.tenant == *tenant) {
                    let silences: Vec<Silence> = quiet.over(alarm, now).cloned().collect();
                    if !silences.is_empty() {
                        over.insert(alarm.id, silences);
                    }
                }
            }
            Ok::<_, records::Error>(over)
        });
        found.await.map_err(stored)
    }
}

/// Checks what a pack says about silences: each entry by itself, and no tenant twice.
pub fn check(declared: &[Silencing]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, silencing) in declared.iter().enumerate() {
        let found = silencing.check().into_iter();
        errors.extend(found.map(|e| FieldError { field: format!("/{at}{}", e.field), ..e }));
        if !seen.insert(&silencing.tenant) {
            let detail = "there is one for this tenant already; put both in one".to_owned();
            errors.push(FieldError { field: format!("/{at}/tenant"), detail });
        }
    }
    errors
}

/// Rules and Things that the tenant does not have: a misspelt key would keep nothing quiet, and nobody would notice before the night.
fn strangers(read: &mut records::Read<'_>, silence: &Silence) -> Result<Vec<FieldError>, records::Error> {
    let mut errors = Vec::new();
    let own = |tenant: Option<Tenant>| tenant.as_ref() == Some(&silence.tenant);
    for key in &silence.matchers.rule {
        let sql = "SELECT tenant FROM sensing_rule WHERE key = $1";
        if !own(read.query_opt(sql, params![key], |row| row.get(0))?) {
            let detail = format!("the department has no rule '{}'", key.chars().take(80).collect::<String>());
            errors.push(FieldError { field: "/rule".to_owned(), detail });
        }
    }
    for thing in &silence.matchers.thing {
        let sql = "SELECT tenant FROM sensing_thing WHERE id = $1";
        if !own(read.query_opt(sql, params![thing.0], |row| row.get(0))?) {
            errors.push(FieldError {
                field: "/thing".to_owned(),
                detail: format!("the department has no Thing {thing}"),
            });
        }
    }
    Ok(errors)
}
