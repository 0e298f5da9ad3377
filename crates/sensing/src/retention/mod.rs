//! Retention and downsampling by declaration: what is kept of Observations, for how long and how finely.
//!
//! A pack declares it ([`model::Declaration`]); nothing happens until an officer has seen what would go ([`Retention::preview`]) and said so
//! ([`Retention::confirm`]). What is confirmed is applied once a day, partition by partition of the lake, each in one commit
//! ([`crate::observe::thin`]), so a crash repeats work and never loses or doubles any. What changes later so that more would go, be it the
//! declaration or which Datastreams are under it, waits for another confirmation; what changes so that less goes holds at once. A hold keeps
//! everything that it covers, whatever is declared.

pub mod api;
pub mod model;
mod store;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::tz::TimeZone;
use kernel::{Caller, Id, Kind, Problem, Resource, Tenant, Text, Timestamp};
use records::{NewJob, Records};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Catalog, Error,
    model::{EntityId, EntityType},
    observe::{
        Observe,
        thin::{Form, Outcome},
    },
    route::action,
};
use model::{Declaration, check_all};
use store::Stored;

const QUEUE: &str = "sensing.retention";
/// How long a preview may be confirmed.
const PREVIEW_SECS: i64 = 86_400;
/// Holds and runs that are shown.
const SHOWN: i64 = 100;
const RUNS: i64 = 10;
/// Bytes of a reason.
const REASON: usize = 1_000;

/// The facade. Cheap to clone.
#[derive(Clone)]
pub struct Retention(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    observe: Observe,
    zone: TimeZone,
    /// Moves whenever a hold is placed: what was planned before is not done.
    epoch: AtomicU64,
    /// Moves whenever declarations change: a sweep that began before ends.
    declared: AtomicU64,
    stats: Stats,
}

/// Counters since the start, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    pub gone: AtomicU64,
    pub summed: AtomicU64,
    pub sums: AtomicU64,
    pub bytes: AtomicU64,
    pub sweeps: AtomicU64,
    pub failures: AtomicU64,
    /// Seconds by which the clock is ahead of the moment as of which Observations are thinned: it has jumped.
    pub behind: AtomicU64,
    /// Declarations that wait for an officer.
    pub waiting: AtomicU64,
    pub holds: AtomicU64,
}

/// Keeps everything of a department, a Thing or a Datastream until it is lifted: a legal hold.
#[derive(Clone, Debug, Serialize)]
pub struct Hold {
    pub id: Id<Self>,
    pub tenant: Tenant,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thing: Option<EntityId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastream: Option<EntityId>,
    pub reason: String,
    pub made_by: String,
    pub made_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_reason: Option<String>,
}

impl Kind for Hold {
    const NAME: &'static str = "hold";
}

impl Hold {
    /// Each name covers by itself: one that names both a Thing and a Datastream of another must not cover nothing, and what is held stays held when its
    /// Thing goes to another department, or the Datastream to another Thing.
    fn covers(&self, stream: &Under) -> bool {
        match (self.thing, self.datastream) {
            (None, None) => self.tenant == stream.tenant,
            (thing, datastream) => thing == Some(stream.thing) || datastream == Some(stream.id),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    Preview,
    Applied,
}

impl RunKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Applied => "applied",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Waiting,
    Running,
    Done,
    Failed,
}

impl RunState {
    const ALL: [Self; 4] = [Self::Waiting, Self::Running, Self::Done, Self::Failed];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
    fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|s| s.name() == name).unwrap_or(Self::Failed)
    }
}

/// One look at what would go, or one time that it went.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub id: Id<Self>,
    pub kind: RunKind,
    pub declaration: String,
    pub tenant: Tenant,
    pub state: RunState,
    /// The declaration as it was then.
    #[serde(skip)]
    pub body: String,
    pub asked_by: String,
    pub asked_at: Timestamp,
    pub began_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub report: Option<Report>,
}

impl Kind for Run {
    const NAME: &'static str = "run";
}

/// What would go, or went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Bytes of the rows that go, by their share of their files. What the sums take is not taken off.
    pub bytes: u64,
    /// Datastreams of which something goes.
    pub datastreams: u64,
    /// Datastreams that are kept by a hold.
    pub held: u64,
    /// By month, oldest first.
    pub months: Vec<Month>,
    /// Those that lose most, at most 200.
    pub streams: Vec<StreamReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Month {
    pub month: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    pub datastream: EntityId,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Report {
    pub fn is_empty(&self) -> bool {
        self.outcome == Outcome::default()
    }
}

/// A declaration as officers see it.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    pub key: String,
    pub tenant: Tenant,
    pub name: Text,
    /// As the pack has it.
    pub declaration: Declaration,
    /// What is applied; `None` before it was first confirmed.
    pub confirmed: Option<Declaration>,
    pub confirmed_by: Option<String>,
    pub confirmed_at: Option<Timestamp>,
    /// Whether the pack still declares it.
    pub declared: bool,
    /// Whether something waits for an officer: the declaration itself, or Datastreams that came under it with something to lose.
    pub waits: bool,
    pub datastreams: u64,
    pub waiting_datastreams: u64,
    /// Newest first.
    pub runs: Vec<Run>,
}

/// Up to when a Datastream has been summed up, and by which interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Border {
    pub until: Timestamp,
    pub interval: String,
}

/// A Datastream that is swept.
struct Under {
    id: EntityId,
    declaration: usize,
    tenant: Tenant,
    thing: EntityId,
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
}

impl Retention {
    /// # Errors
    /// When the tables cannot be brought up to date.
    pub fn open(catalog: Catalog, observe: Observe, zone: TimeZone) -> Result<Self, Error> {
        catalog.records().migrate("sensing_retention", store::MIGRATIONS)?;
        let (epoch, declared, stats) = (AtomicU64::new(0), AtomicU64::new(0), Stats::default());
        Ok(Self(Arc::new(Inner { catalog, observe, zone, epoch, declared, stats })))
    }

    fn records(&self) -> &Records {
        self.0.catalog.records()
    }
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Whether the caller may decide what is deleted of a department: that is what `sensing:delete` says.
    pub fn may(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Retention", id: "", tenant: Some(tenant), public: false };
        caller.is_system() || self.0.catalog.scopes().policy().allows(caller, action::DELETE, &resource)
    }

    fn permitted(&self, caller: &Caller, tenant: &Tenant, what: impl FnOnce() -> String) -> Result<(), Error> {
        if self.may(caller, tenant) {
            return Ok(());
        }
        if self.0.catalog.scope(caller).admits(tenant, false) {
            return Err(Problem::forbidden("Ask the department for the right to delete Observations.").into());
        }
        Err(Error::not_found(what()))
    }

    /// Departments that the caller may decide for.
    pub fn tenants(&self, caller: &Caller) -> Vec<Tenant> {
        let mut all = self.0.catalog.scopes().tenants();
        all.retain(|tenant| self.may(caller, tenant));
        all
    }

    // --- declaring -------------------------------------------------------------------------------------------------

    /// Makes the declarations those of the pack. One that keeps less than what was confirmed waits; one that keeps more holds at once.
    ///
    /// # Errors
    /// 400 with every mistake and its place.
    pub async fn apply(&self, caller: &Caller, declared: Vec<Declaration>) -> Result<Applied, Error> {
        let errors = check_all(&declared);
        if let Some(first) = errors.first().cloned() {
            let mut problem = Problem::field(first.field, first.detail);
            problem.errors = errors;
            return Err(problem.into());
        }
        let by = caller.clone();
        let applied = self.records().write(move |tx| {
            let before = store::all(tx)?;
            let mut applied = Applied::default();
            for declaration in &declared {
                let known = before.iter().find(|s| s.declaration.key == declaration.key);
                if known.is_some_and(|s| s.declared && s.declaration == *declaration) {
                    continue;
                }
                applied.written += 1;
                // Another department's word is not this one's.
                let known = known.filter(|s| s.declaration.tenant == declaration.tenant);
                let mut next = Stored {
                    declaration: declaration.clone(),
                    declared: true,
                    confirmed: known.and_then(|s| s.confirmed.clone()),
                    confirmed_through: known.map_or(Timestamp::MIN, |s| s.confirmed_through),
                    confirmed_by: known.and_then(|s| s.confirmed_by.clone()),
                    confirmed_at: known.and_then(|s| s.confirmed_at),
                };
                let milder = next.confirmed.as_ref().is_some_and(|c| !declaration.keeps_less_than(c, tx.now()));
                if milder {
                    next.confirmed = Some(declaration.clone());
                }
                store::put(tx, &next)?;
                let detail = json!({ "keep": declaration.keep, "waits": !milder });
                let tenant = Some(&declaration.tenant);
                tx.audit(&by, "retention:declare", "Retention", &declaration.key, tenant, detail)?;
            }
            for gone in before.iter().filter(|s| s.declared && !declared.iter().any(|d| d.key == s.declaration.key)) {
                applied.removed += 1;
                store::put(tx, &Stored { declared: false, ..gone.clone() })?;
                let (key, tenant) = (&gone.declaration.key, Some(&gone.declaration.tenant));
                tx.audit(&by, "retention:withdraw", "Retention", key, tenant, json!({}))?;
            }
            Ok::<_, records::Error>(applied)
        });
        let applied = applied.await?;
        if applied != Applied::default() {
            // What keeps more, or is withdrawn, holds at once, also against a sweep that is under way.
            self.0.declared.fetch_add(1, Relaxed);
            self.0.observe.between_commits().await;
        }
        self.refresh_stats().await?;
        Ok(applied)
    }

    async fn refresh_stats(&self) -> Result<(), Error> {
        let (waiting, holds) = self
            .records()
            .read(|read| {
                let mut waiting = 0;
                for stored in store::all(read)?.iter().filter(|s| s.declared) {
                    waiting += u64::from(waits(
                        stored,
                        store::counts(read, &stored.declaration.key, stored.confirmed_through)?.1,
                    ));
                }
                Ok::<_, records::Error>((waiting, store::standing(read)?.len() as u64))
            })
            .await?;
        self.0.stats.waiting.store(waiting, Relaxed);
        self.0.stats.holds.store(holds, Relaxed);
        Ok(())
    }

    // --- looking ---------------------------------------------------------------------------------------------------

    /// The declarations of departments whose Things the caller sees all of.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<View>, Error> {
        let scope = self.0.catalog.scope(caller);
        let found = self.records().read(move |read| {
            let mut views = Vec::new();
            for stored in store::all(read)?.into_iter().filter(|s| scope.admits(&s.declaration.tenant, false)) {
                views.push(view(read, stored)?);
            }
            Ok::<_, records::Error>(views)
        });
        Ok(found.await?)
    }

    /// # Errors
    /// 404 where there is none, or the caller may not see its department.
    pub async fn get(&self, caller: &Caller, key: &str) -> Result<View, Error> {
        let (scope, wanted) = (self.0.catalog.scope(caller), key.to_owned());
        let found = self.records().read(move |read| {
            let stored = store::one(read, &wanted)?.filter(|s| scope.admits(&s.declaration.tenant, false));
            stored.map(|stored| view(read, stored)).transpose()
        });
        let found: Result<_, records::Error> = found.await;
        found?.ok_or_else(|| missing(key))
    }

    /// # Errors
    /// 404 where there is none, or the caller may not see its department.
    pub async fn run(&self, caller: &Caller, id: Id<Run>) -> Result<Run, Error> {
        let scope = self.0.catalog.scope(caller);
        let found: Result<_, records::Error> = self.records().read(move |read| store::run_of(read, id)).await;
        let run = found?.filter(|run| scope.admits(&run.tenant, false));
        run.ok_or_else(|| Error::not_found(format!("The run {id}")))
    }

    /// Holds of departments whose Things the caller sees all of: those that stand first.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn holds(&self, caller: &Caller) -> Result<Vec<Hold>, Error> {
        let scope = self.0.catalog.scope(caller);
        let tenants: Vec<Tenant> =
            self.0.catalog.scopes().tenants().into_iter().filter(|tenant| scope.admits(tenant, false)).collect();
        let found = self.records().read(move |read| {
            let mut found = Vec::new();
            for tenant in &tenants {
                found.extend(store::holds(read, tenant, SHOWN)?);
            }
            Ok::<_, records::Error>(found)
        });
        Ok(found.await?)
    }

    /// Up to when a Datastream has been summed up, oldest first.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn borders(&self, id: EntityId) -> Result<Vec<Border>, Error> {
        let found: Result<_, records::Error> = self.records().read(move |read| store::borders(read, id)).await;
        Ok(found?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    // --- deciding --------------------------------------------------------------------------------------------------

    /// Asks what a declaration would do, all of its Datastreams included. Audited.
    ///
    /// # Errors
    /// 404 and 403 as everywhere; 409 while another preview of it is under way.
    pub async fn preview(&self, caller: &Caller, key: &str) -> Result<Run, Error> {
        let stored = self.stored(caller, key).await?;
        let (by, entropy) = (caller.clone(), Id::<Run>::generate());
        let made = self.records().write(move |tx| {
            let declaration = &stored.declaration;
            let now = tx.now();
            let run = Run {
                id: Id::new(now, entropy.uuid().as_u128()),
                kind: RunKind::Preview,
                declaration: declaration.key.clone(),
                tenant: declaration.tenant.clone(),
                state: RunState::Waiting,
                body: body(declaration),
                asked_by: by.label(),
                asked_at: now,
                began_at: None,
                ended_at: None,
                report: None,
            };
            let mut job = NewJob::new(QUEUE, json!({ "run": run.id }));
            job.unique_key = Some(format!("preview:{}", declaration.key));
            job.max_attempts = 3;
            if tx.enqueue(job)?.is_none() {
                return Ok(None);
            }
            store::put_run(tx, &run)?;
            let (key, tenant) = (&declaration.key, Some(&declaration.tenant));
            tx.audit(&by, "retention:preview", "Retention", key, tenant, json!({ "run": run.id }))?;
            Ok::<_, records::Error>(Some(run))
        });
        made.await?
            .ok_or_else(|| Error::conflict("What this declaration would do is being looked at already. Wait for it."))
    }

    async fn stored(&self, caller: &Caller, key: &str) -> Result<Stored, Error> {
        let wanted = key.to_owned();
        let found: Result<_, records::Error> = self.records().read(move |read| store::one(read, &wanted)).await;
        let stored = found?.ok_or_else(|| missing(key))?;
        self.permitted(caller, &stored.declaration.tenant, || format!("The declaration '{}'", short(key)))?;
        if !stored.declared {
            return Err(Error::conflict("The pack does not declare this any more. Nothing is deleted by it."));
        }
        Ok(stored)
    }

    /// Says that what a preview has shown shall go, from now on. Audited. It goes with the next sweep, which begins at once.
    ///
    /// # Errors
    /// 400 for a preview that is another declaration's; 404 and 403 as everywhere; 409 for one that is not done, is older than a day, or has seen
    /// another declaration than the one that is there now.
    pub async fn confirm(&self, caller: &Caller, key: &str, preview: Id<Run>) -> Result<View, Error> {
        let stored = self.stored(caller, key).await?;
        let by = caller.clone();
        let done = self.records().write(move |tx| {
            let found = store::run_of(tx, preview)?.filter(|run| run.kind == RunKind::Preview);
            let Some(run) = found.filter(|run| run.declaration == stored.declaration.key) else {
                return Ok(Err("the id of a preview of this declaration is expected"));
            };
            let now = tx.now();
            let (Some(began), Some(ended), RunState::Done) = (run.began_at, run.ended_at, run.state) else {
                return Ok(Err("the preview is not done"));
            };
            let current = store::one(tx, &stored.declaration.key)?;
            let Some(current) = current.filter(|c| c.declared && body(&c.declaration) == run.body) else {
                return Ok(Err("the declaration has changed since the preview; ask for another one"));
            };
            if now > ended.plus_secs(PREVIEW_SECS) {
                return Ok(Err("the preview is older than a day; ask for another one"));
            }
            let next = Stored {
                confirmed: Some(current.declaration.clone()),
                // Whoever came under it later has not been seen by anybody.
                confirmed_through: began,
                confirmed_by: Some(by.label()),
                confirmed_at: Some(now),
                ..current
            };
            store::put(tx, &next)?;
            let mut job = NewJob::new(QUEUE, json!({ "sweep": "now" }));
            job.unique_key = Some("now".to_owned());
            job.max_attempts = 5;
            tx.enqueue(job)?;
            let outcome = run.report.map(|report| (report.outcome, report.bytes, report.datastreams));
            let detail = json!({ "run": preview, "keep": next.declaration.keep, "seen": outcome });
            let (key, tenant) = (&next.declaration.key, Some(&next.declaration.tenant));
            tx.audit(&by, "retention:confirm", "Retention", key, tenant, detail)?;
            Ok::<_, records::Error>(Ok(()))
        });
        match done.await? {
            Ok(()) => {}
            Err(detail) if detail.starts_with("the id") => return Err(Error::field("/preview", detail)),
            Err(detail) => return Err(Error::conflict(format!("Nothing was confirmed: {detail}."))),
        }
        self.refresh_stats().await?;
        self.get(caller, key).await
    }

    /// Places a hold, audited. Once this has returned, nothing that it covers goes.
    ///
    /// # Errors
    /// 400 for a Thing or Datastream that is not the department's, or without a reason; 404 and 403 as everywhere.
    pub async fn hold(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        thing: Option<EntityId>,
        datastream: Option<EntityId>,
        reason: &str,
    ) -> Result<Hold, Error> {
        self.permitted(caller, tenant, || format!("The department '{tenant}'"))?;
        let reason = reason_of(reason)?;
        let scope = self.0.catalog.scope(caller);
        if let Some(id) = thing {
            let found = self.0.catalog.get(&scope, EntityType::Thing, id).await?;
            if found.is_none_or(|found| found.tenant != *tenant) {
                return Err(Error::field("/thing", format!("the department has no Things({id})")));
            }
        }
        if let Some(id) = datastream {
            let found = self.0.catalog.datastream(id).await?;
            if found.is_none_or(|found| found.tenant != *tenant) {
                return Err(Error::field("/datastream", format!("the department has no Datastreams({id})")));
            }
        }
        let (by, entropy, tenant) = (caller.clone(), Id::<Hold>::generate(), tenant.clone());
        let made = self.records().write(move |tx| {
            let now = tx.now();
            let hold = Hold {
                id: Id::new(now, entropy.uuid().as_u128()),
                tenant: tenant.clone(),
                thing,
                datastream,
                reason: reason.clone(),
                made_by: by.label(),
                made_at: now,
                lifted_by: None,
                lifted_at: None,
                lifted_reason: None,
            };
            store::put_hold(tx, &hold)?;
            let detail = json!({ "thing": thing, "datastream": datastream, "reason": reason });
            tx.audit(&by, "retention:hold", "Hold", &hold.id.to_string(), Some(&tenant), detail)?;
            Ok::<_, records::Error>(hold)
        });
        let hold = made.await?;
        // Whatever was planned without it is given up, and what was past the last question is done before this is acknowledged.
        self.0.epoch.fetch_add(1, Relaxed);
        self.0.observe.between_commits().await;
        self.refresh_stats().await?;
        Ok(hold)
    }

    /// Lifts a hold, audited.
    ///
    /// # Errors
    /// 404 and 403 as everywhere; 400 without a reason; 409 when it was lifted already.
    pub async fn lift(&self, caller: &Caller, id: Id<Hold>, reason: &str) -> Result<Hold, Error> {
        let found: Result<_, records::Error> = self.records().read(move |read| store::hold_of(read, id)).await;
        let none = || format!("The hold {id}");
        let hold = found?.ok_or_else(|| Error::not_found(none()))?;
        self.permitted(caller, &hold.tenant, none)?;
        let (by, reason) = (caller.clone(), reason_of(reason)?);
        let lifted = self.records().write(move |tx| {
            if !store::lift(tx, id, &by.label(), &reason)? {
                return Ok(None);
            }
            let detail = json!({ "reason": reason });
            tx.audit(&by, "retention:lift", "Hold", &id.to_string(), Some(&hold.tenant), detail)?;
            store::hold_of(tx, id)
        });
        let lifted: Result<_, records::Error> = lifted.await;
        let lifted = lifted?.ok_or_else(|| Error::conflict("The hold was lifted already."))?;
        self.refresh_stats().await?;
        Ok(lifted)
    }
}

fn body(declaration: &Declaration) -> String {
    json!(declaration).to_string()
}

fn short(key: &str) -> String {
    key.chars().take(80).collect()
}

fn missing(key: &str) -> Error {
    Error::not_found(format!("The declaration '{}'", short(key)))
}

fn reason_of(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::field("/reason", "say why, for whoever asks later"));
    }
    if text.len() > REASON || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Error::field("/reason", "at most 1000 bytes of plain text are expected"));
    }
    Ok(text.to_owned())
}

fn waits(stored: &Stored, waiting: u64) -> bool {
    let thins = stored.declaration.keep.iter().any(|s| s.lasts.is_some() || s.form.0 != Form::Raw);
    stored.declared && ((thins && stored.confirmed.as_ref() != Some(&stored.declaration)) || waiting > 0)
}

fn view(read: &mut records::Read<'_>, stored: Stored) -> Result<View, records::Error> {
    let key = &stored.declaration.key;
    let (datastreams, waiting_datastreams) = store::counts(read, key, stored.confirmed_through)?;
    let runs = store::runs(read, key, RUNS)?;
    Ok(View {
        key: key.clone(),
        tenant: stored.declaration.tenant.clone(),
        name: stored.declaration.name.clone(),
        waits: waits(&stored, waiting_datastreams),
        declared: stored.declared,
        confirmed_by: stored.confirmed_by,
        confirmed_at: stored.confirmed_at,
        confirmed: stored.confirmed,
        declaration: stored.declaration,
        datastreams,
        waiting_datastreams,
        runs,
    })
}
