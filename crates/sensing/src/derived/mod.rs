//! Derived Datastreams: what is computed from other Datastreams, and what officers have found out about one.
//!
//! A [`model::Declaration`] says which Datastream is computed from which by which formula; [`plan`] finds the Datastreams that it means; [`compute`]
//! is the formula, pure; [`engine`] follows the stream and writes the difference. An output is a Datastream like any other: head, lake, rules, MQTT and
//! pages need not know. [`correct`] makes the corrected version of a raw Datastream in the same way.

pub mod api;
pub mod compute;
pub mod correct;
pub mod engine;
pub mod model;
pub mod plan;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use kernel::{Action, Caller, Problem, Resource, Tenant, Text, Timestamp};
use parking_lot::Mutex;
use records::Records;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{
    Catalog, Error,
    catalog::{Entity, Update},
    model::{EntityId, EntityType, ObservationId, ObservationType},
    observe::Observe,
    route::action,
};
use correct::{Calibration, Correction, NewCalibration, NewCorrection, Pair};
use engine::{Handle, Options, Stats};
use model::{Declaration, Definition, check_all};
use plan::{Instance, Plan, Reason, Trouble};
use store::{Source, Stored, Work};

pub use store::Version;

/// Outputs of one declaration that are listed.
const MOST_OUTPUTS: usize = 1_000;

/// The facade. Cheap to clone.
#[derive(Clone)]
pub struct Derived(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    observe: Observe,
    reload: Arc<Notify>,
    /// As the engine sees it.
    plan: ArcSwap<Plan>,
    works: Mutex<Vec<Work>>,
    stats: Stats,
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
    pub unchanged: usize,
}

/// Work that is under way or waits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    pub datastream: EntityId,
    /// `history`, `another version`, `late data`, …
    pub reason: String,
    pub started_at: Timestamp,
    /// Everything before is done; `None` before it has begun.
    pub through: Option<Timestamp>,
    pub to: Timestamp,
    /// Of the time between the first output and the end, 0 to 100.
    pub percent: u8,
    /// Observations written or taken away so far.
    pub written: u64,
}

/// A declaration as officers see it.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    pub key: String,
    pub tenant: Tenant,
    pub name: Text,
    /// `pack` or `api`.
    pub declared: Source,
    pub version: i64,
    pub changed_at: Timestamp,
    pub changed_by: String,
    pub enabled: bool,
    pub paused: bool,
    /// Datastreams that are computed by it.
    pub outputs: usize,
    pub work: Vec<Progress>,
    pub troubles: Vec<Trouble>,
}

/// One declaration with all that it has been.
#[derive(Clone, Debug, Serialize)]
pub struct Detail {
    #[serde(flatten)]
    pub view: View,
    pub declaration: Declaration,
    pub datastreams: Vec<Computed>,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Computed {
    pub output: EntityId,
    pub inputs: Vec<EntityId>,
    /// Steps away from what is measured.
    pub depth: u32,
}

/// Where the results of a Datastream come from.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    pub datastream: EntityId,
    /// `measured`, `derived` or `corrected`.
    pub origin: &'static str,
    /// The declaration's key, name, where the formula is published, and since when this version holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// The inputs that the reader may see.
    pub from: Vec<From>,
    /// The raw Datastream of a corrected one, and the other way round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrects: Option<EntityId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected_by: Option<EntityId>,
    pub work: Vec<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct By {
    pub key: String,
    pub name: Text,
    pub source: Option<String>,
    pub version: i64,
    pub since: Option<Timestamp>,
    pub formulas: Vec<model::Formula>,
    pub every: Option<u32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct From {
    pub name: String,
    pub datastream: EntityId,
    pub label: Text,
    pub window: Option<u32>,
}

/// Everything that was said about one Observation.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// As it was measured.
    pub raw: Value,
    /// In order; the last one counts.
    pub corrections: Vec<Correction>,
    /// The Datastream in which the corrected version stands.
    pub corrected_by: Option<EntityId>,
}

impl Derived {
    /// # Errors
    /// When the tables cannot be brought up to date.
    pub fn open(catalog: Catalog, observe: Observe) -> Result<Self, Error> {
        catalog.records().migrate("sensing_derived", store::MIGRATIONS)?;
        Ok(Self(Arc::new(Inner {
            catalog,
            observe,
            reload: Arc::new(Notify::new()),
            plan: ArcSwap::default(),
            works: Mutex::default(),
            stats: Stats::default(),
        })))
    }

    /// Starts to compute.
    ///
    /// # Errors
    /// Those of the records and of the stream.
    pub async fn start(&self, options: Options) -> Result<Handle, Error> {
        engine::start(self.clone(), options).await
    }

    fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }
    fn observe(&self) -> &Observe {
        &self.0.observe
    }
    fn records(&self) -> &Records {
        self.0.catalog.records()
    }
    fn now(&self) -> Timestamp {
        self.0.catalog.now()
    }
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Whether a Datastream is computed: then nobody else adds to it. One that was computed once stays so: should it be declared again, what somebody
    /// has measured into it meanwhile would be taken for what was computed, and go.
    pub fn is_output(&self, datastream: EntityId) -> bool {
        let plan = self.0.plan.load();
        plan.computed.contains(&datastream) || plan.of(datastream).is_some()
    }
    /// The corrected Datastream beside a raw one.
    pub fn corrected(&self, raw: EntityId) -> Option<EntityId> {
        self.0.plan.load().corrected(raw)
    }
    /// The raw Datastream that a corrected one stands beside.
    pub fn raw(&self, corrected: EntityId) -> Option<EntityId> {
        self.0.plan.load().raw(corrected)
    }

    /// What is to be computed, from what is stored.
    async fn plan(&self) -> Result<Plan, Error> {
        let read = self.records().read(|read| {
            let stored = store::all(read)?;
            Ok::<_, records::Error>((plan::resolve(read, &stored)?, plan::corrected(read)?, computed(read)?))
        });
        let ((instances, troubles), (pairs, corrected), known) = read.await?;
        Ok(self.planned(instances, troubles, (pairs, corrected), &known).knowing(known))
    }

    /// Puts what was found in order. What was measured must not be taken for what was computed: a Datastream with Observations that never was an
    /// output does not become one, because those Observations would go.
    fn planned(
        &self,
        mut instances: Vec<Instance>,
        mut troubles: Vec<Trouble>,
        (pairs, corrected): (Vec<Pair>, Vec<Instance>),
        known: &BTreeSet<EntityId>,
    ) -> Plan {
        instances.retain(|i| {
            let own = !known.contains(&i.output) && self.observe().head(i.output).is_some();
            if own {
                troubles.push(Trouble {
                    reason: Reason::Unfit,
                    definition: i.definition.key.clone(),
                    output: Some(i.output),
                    detail: "the output has Observations of its own, which would be lost".to_owned(),
                });
            }
            !own
        });
        instances.extend(corrected);
        Plan::new(instances, troubles).beside(pairs)
    }

    fn may(&self, caller: &Caller, action: Action, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Datastream", id: "", tenant: Some(tenant), public: false };
        caller.is_system() || self.catalog().scopes().policy().allows(caller, action, &resource)
    }

    fn manages(&self, caller: &Caller, tenant: &Tenant) -> Result<(), Error> {
        if self.may(caller, action::WRITE, tenant) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("You may not declare what is derived for '{tenant}'.")).into())
    }

    // --- declaring -------------------------------------------------------------------------------------------------

    /// Makes the declarations of the pack those that are given; what officers have declared over the API stays. What the declarations mean by
    /// Datastreams need not be there yet.
    ///
    /// # Errors
    /// 400 with every mistake and its place; 409 for circles and for two that compute one Datastream; 403 without `sensing:write`.
    pub async fn apply(&self, caller: &Caller, declarations: Vec<Declaration>) -> Result<Applied, Error> {
        let definitions: Vec<Arc<Definition>> = check_all(declarations)?.into_iter().map(Arc::new).collect();
        for definition in &definitions {
            self.manages(caller, &definition.tenant)?;
        }
        let before = self.records().read(store::all).await?;
        let removed: Vec<(String, Tenant)> = before
            .iter()
            .filter(|s| s.source == Source::Pack && !definitions.iter().any(|d| d.key == s.definition.key))
            .map(|s| (s.definition.key.clone(), s.definition.tenant.clone()))
            .collect();
        let gone: Vec<String> = removed.iter().map(|(key, _)| key.clone()).collect();
        self.orderly(&definitions, &gone).await?;
        let by = caller.clone();
        let written = self.records().write(move |tx| {
            let mut applied = Applied::default();
            for definition in &definitions {
                match store::put(tx, &by, definition, Source::Pack)? {
                    Some(version) => {
                        applied.written += 1;
                        let detail = json!({ "version": version });
                        tx.audit(&by, "derived:declare", "Derived", &definition.key, Some(&definition.tenant), detail)?;
                    }
                    None => applied.unchanged += 1,
                }
            }
            for (key, tenant) in &removed {
                store::delete(tx, &by, key)?;
                tx.audit(&by, "derived:remove", "Derived", key, Some(tenant), json!({}))?;
                applied.removed += 1;
            }
            Ok::<_, Error>(applied)
        });
        let applied = written.await?;
        self.relabel().await?;
        self.0.reload.notify_one();
        Ok(applied)
    }

    /// Declares one, or another version of it.
    ///
    /// # Errors
    /// 400 with every mistake, also when a Datastream is not there, may not be read or does not fit; 409 when the pack has declared the key, for
    /// circles, and for two that compute one Datastream; 403 without `sensing:write`.
    pub async fn declare(&self, caller: &Caller, declaration: Declaration) -> Result<Detail, Error> {
        let definition = Arc::new(Definition::new(declaration)?);
        let key = definition.key.clone();
        self.manages(caller, &definition.tenant)?;
        if key.starts_with(plan::CORRECTED) {
            return Err(Error::field("/key", "such keys are those of corrected Datastreams"));
        }
        let asked = key.clone();
        if let Some((tenant, source)) = self.records().read(move |read| store::tenant_of(read, &asked)).await? {
            self.manages(caller, &tenant).map_err(|_| Problem::conflict("The key is taken."))?;
            if source == Source::Pack.name() {
                return Err(Error::conflict("The pack declares this key; change it there."));
            }
        }
        let planned = self.orderly(&[Arc::clone(&definition)], &[]).await?;
        if let Some(trouble) = planned.troubles.iter().find(|t| t.definition == key) {
            return Err(Error::field("/", trouble.detail.clone()));
        }
        let by = caller.clone();
        let written = self.records().write(move |tx| {
            if let Some(version) = store::put(tx, &by, &definition, Source::Api)? {
                let detail = json!({ "version": version });
                tx.audit(&by, "derived:declare", "Derived", &definition.key, Some(&definition.tenant), detail)?;
            }
            Ok::<_, Error>(())
        });
        written.await?;
        self.0.reload.notify_one();
        self.get(caller, &key).await
    }

    /// The plan as it would be with these declarations and without those keys.
    ///
    /// # Errors
    /// 409 when something could then not be put in order that can be now.
    async fn orderly(&self, definitions: &[Arc<Definition>], gone: &[String]) -> Result<Plan, Error> {
        let (new, gone) = (definitions.to_vec(), gone.to_vec());
        let read = self.records().read(move |read| {
            let mut stored = store::all(read)?;
            let before = plan::resolve(read, &stored)?;
            stored.retain(|s| !gone.contains(&s.definition.key) && !new.iter().any(|d| d.key == s.definition.key));
            stored.extend(new.into_iter().map(|definition| Stored {
                definition,
                source: Source::Api,
                version: 0,
                paused: false,
                changed_at: Timestamp::MIN,
                changed_by: String::new(),
            }));
            let after = plan::resolve(read, &stored)?;
            Ok::<_, records::Error>((before, after, plan::corrected(read)?, computed(read)?))
        });
        let (before, after, corrected, known) = read.await?;
        let before = self.planned(before.0, before.1, corrected.clone(), &known);
        let after = self.planned(after.0, after.1, corrected, &known);
        let new = |t: &&Trouble| t.reason == Reason::Order && !before.troubles.contains(t);
        match after.troubles.iter().find(new) {
            Some(trouble) => Err(Error::conflict(format!("'{}': {}.", trouble.definition, trouble.detail))),
            None => Ok(after),
        }
    }

    /// Stops computing by a declaration. What was computed stays, and so do its versions.
    ///
    /// # Errors
    /// 404 when there is none that the caller may see; 403 without `sensing:write`; 409 when the pack declares it.
    pub async fn remove(&self, caller: &Caller, key: &str) -> Result<(), Error> {
        let found = self.managed(caller, key).await?;
        if found.source == Source::Pack {
            return Err(Error::conflict("The pack declares this key; take it away there."));
        }
        let (by, key, tenant) = (caller.clone(), key.to_owned(), found.definition.tenant.clone());
        let written = self.records().write(move |tx| {
            store::delete(tx, &by, &key)?;
            tx.audit(&by, "derived:remove", "Derived", &key, Some(&tenant), json!({}))
        });
        written.await?;
        self.0.reload.notify_one();
        Ok(())
    }

    /// Lets history wait, or go on. What comes is computed all the same.
    ///
    /// # Errors
    /// As [`Derived::remove`].
    pub async fn pause(&self, caller: &Caller, key: &str, paused: bool) -> Result<Detail, Error> {
        let found = self.managed(caller, key).await?;
        let (by, asked, tenant) = (caller.clone(), key.to_owned(), found.definition.tenant.clone());
        let action = if paused { "derived:pause" } else { "derived:resume" };
        let written = self.records().write(move |tx| {
            store::pause(tx, &asked, paused)?;
            tx.audit(&by, action, "Derived", &asked, Some(&tenant), json!({}))
        });
        written.await?;
        self.0.reload.notify_one();
        self.get(caller, key).await
    }

    /// Computes a span of all outputs of a declaration again, in the background. Nothing is written where nothing has changed.
    ///
    /// # Errors
    /// As [`Derived::remove`]; 400 when `from` is later than `to`.
    pub async fn recalculate(
        &self,
        caller: &Caller,
        key: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Detail, Error> {
        let found = self.managed(caller, key).await?;
        if from > to {
            return Err(Error::field("/from", "it must not be later than 'to'"));
        }
        let plan = self.0.plan.load_full();
        let outputs: Vec<EntityId> =
            plan.instances.iter().filter(|i| i.definition.key == key).map(|i| i.output).collect();
        let (by, asked, tenant) = (caller.clone(), key.to_owned(), found.definition.tenant.clone());
        let written = self.records().write(move |tx| {
            for output in &outputs {
                store::add_work(tx, *output, "asked for", from.as_micros(), to.as_micros())?;
            }
            let detail = json!({ "from": from, "to": to, "outputs": outputs.len() });
            tx.audit(&by, "derived:recalculate", "Derived", &asked, Some(&tenant), detail)
        });
        written.await?;
        self.0.reload.notify_one();
        self.get(caller, key).await
    }

    // --- looking ---------------------------------------------------------------------------------------------------

    async fn stored(&self, caller: &Caller) -> Result<Vec<Stored>, Error> {
        let scope = self.catalog().scope(caller);
        let mut all = self.records().read(store::all).await?;
        all.retain(|s| scope.admits(&s.definition.tenant, false));
        Ok(all)
    }

    async fn readable(&self, caller: &Caller, key: &str) -> Result<Stored, Error> {
        let shown: String = key.chars().take(80).collect();
        let found = self.stored(caller).await?.into_iter().find(|s| s.definition.key == key);
        found.ok_or_else(|| Error::not_found(format!("The declaration '{shown}'")))
    }

    async fn managed(&self, caller: &Caller, key: &str) -> Result<Stored, Error> {
        let found = self.readable(caller, key).await?;
        self.manages(caller, &found.definition.tenant)?;
        Ok(found)
    }

    /// The declarations that `caller` may see, by key: those of departments whose data it may read.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<View>, Error> {
        let plan = self.0.plan.load_full();
        Ok(self.stored(caller).await?.into_iter().map(|s| self.view(&plan, &s)).collect())
    }

    /// # Errors
    /// 404 when there is none that the caller may see.
    pub async fn get(&self, caller: &Caller, key: &str) -> Result<Detail, Error> {
        let stored = self.readable(caller, key).await?;
        let asked = key.to_owned();
        let versions = self.records().read(move |read| store::versions(read, &asked)).await?;
        let plan = self.0.plan.load_full();
        let own = plan.instances.iter().filter(|i| i.definition.key == key).take(MOST_OUTPUTS);
        let computed = |i: &Instance| Computed { output: i.output, inputs: i.inputs.clone(), depth: i.depth };
        Ok(Detail {
            view: self.view(&plan, &stored),
            declaration: stored.definition.declaration().clone(),
            datastreams: own.map(computed).collect(),
            versions,
        })
    }

    fn view(&self, plan: &Plan, stored: &Stored) -> View {
        let key = &stored.definition.key;
        let outputs: BTreeSet<EntityId> =
            plan.instances.iter().filter(|i| i.definition.key == *key).map(|i| i.output).collect();
        let now = self.now();
        let work =
            self.0.works.lock().iter().filter(|w| outputs.contains(&w.datastream)).map(|w| progress(w, now)).collect();
        View {
            key: key.clone(),
            tenant: stored.definition.tenant.clone(),
            name: stored.definition.name.clone(),
            declared: stored.source,
            version: stored.version,
            changed_at: stored.changed_at,
            changed_by: stored.changed_by.clone(),
            enabled: stored.definition.enabled,
            paused: stored.paused,
            outputs: outputs.len(),
            work,
            troubles: plan.troubles.iter().filter(|t| t.definition == *key).take(MOST_OUTPUTS).cloned().collect(),
        }
    }

    /// Where the results of a Datastream come from.
    ///
    /// # Errors
    /// 404 when there is no such Datastream that the caller may see.
    pub async fn provenance(&self, caller: &Caller, datastream: EntityId) -> Result<Provenance, Error> {
        self.seen(caller, datastream).await?;
        let plan = self.0.plan.load_full();
        let now = self.now();
        let mut found = Provenance {
            datastream,
            origin: "measured",
            by: None,
            from: Vec::new(),
            corrects: None,
            corrected_by: plan.corrected(datastream),
            work: self.0.works.lock().iter().filter(|w| w.datastream == datastream).map(|w| progress(w, now)).collect(),
            trouble: plan.troubles.iter().find(|t| t.output == Some(datastream)).map(|t| t.detail.clone()),
        };
        let Some(instance) = plan.of(datastream) else { return Ok(found) };
        found.corrects = plan.raw(datastream);
        found.origin = if found.corrects.is_some() { "corrected" } else { "derived" };
        let scope = self.catalog().scope(caller);
        for (input, id) in instance.definition.inputs.iter().zip(&instance.inputs) {
            if let Some(entity) = self.catalog().get(&scope, EntityType::Datastream, *id).await? {
                found.from.push(From {
                    name: input.name.clone(),
                    datastream: *id,
                    label: label(&entity),
                    window: input.window,
                });
            }
        }
        let d = &instance.definition;
        let (key, version) = (d.key.clone(), instance.version);
        let versions = self.records().read(move |read| store::versions(read, &key)).await?;
        found.by = Some(By {
            key: d.key.clone(),
            name: d.name.clone(),
            source: d.source.clone(),
            version,
            since: versions.iter().find(|v| v.version == version).map(|v| v.at),
            formulas: if found.corrects.is_some() { Vec::new() } else { d.formulas.clone() },
            every: d.every,
        });
        Ok(found)
    }

    async fn seen(&self, caller: &Caller, datastream: EntityId) -> Result<Entity, Error> {
        let scope = self.catalog().scope(caller);
        let found = self.catalog().get(&scope, EntityType::Datastream, datastream).await?;
        found.ok_or_else(|| Error::not_found(format!("The Datastream {datastream}")))
    }

    // --- calibrations and corrections ------------------------------------------------------------------------------

    /// The raw Datastream behind `datastream`, which may be the corrected one: people see one sensor.
    fn behind(&self, datastream: EntityId) -> EntityId {
        self.0.plan.load().raw(datastream).unwrap_or(datastream)
    }

    async fn may_say(&self, caller: &Caller, datastream: EntityId, action: Action) -> Result<Entity, Error> {
        let entity = self.seen(caller, self.behind(datastream)).await?;
        // A device says what it measures; what to make of it is for people and their programs.
        let device = matches!(caller.principal, kernel::Principal::Device { .. });
        if device || !self.may(caller, action, &entity.tenant) {
            return Err(Problem::forbidden("You may not correct this Datastream.").into());
        }
        let kind = ObservationType::from_code(entity.text("observationType"));
        if !matches!(kind, Some(ObservationType::Measurement | ObservationType::Count)) {
            return Err(Error::conflict("Only numbers can be corrected."));
        }
        if self.is_output(entity.id) {
            return Err(Error::conflict("This Datastream is computed: correct what it is computed from."));
        }
        Ok(entity)
    }

    /// The calibrations of a Datastream, withdrawn ones with them, in the order in which they were entered.
    ///
    /// # Errors
    /// 404 when there is no such Datastream; 403 when the caller does not act for whom it belongs to.
    pub async fn calibrations(&self, caller: &Caller, datastream: EntityId) -> Result<Vec<Calibration>, Error> {
        let entity = self.seen(caller, self.behind(datastream)).await?;
        let raw = entity.id;
        let mut all = self.records().read(move |read| correct::calibrations(read, raw)).await?;
        // Who entered them is their department's own business.
        if !self.catalog().scope(caller).admits(&entity.tenant, false) {
            for calibration in &mut all {
                calibration.by.clear();
                if let Some(withdrawn) = &mut calibration.withdrawn {
                    withdrawn.by.clear();
                }
            }
        }
        Ok(all)
    }

    /// Enters a calibration. What it changes is computed again, in the corrected Datastream; the raw one stays as it was measured.
    ///
    /// # Errors
    /// 400 with every mistake; 404, 403 without `sensing:write`; 409 for what is no number or is computed.
    pub async fn calibrate(
        &self,
        caller: &Caller,
        datastream: EntityId,
        new: NewCalibration,
    ) -> Result<Calibration, Error> {
        new.check()?;
        let raw = self.may_say(caller, datastream, action::WRITE).await?;
        let corrected = self.beside(&raw).await?;
        let (by, id, tenant) = (caller.clone(), raw.id, raw.tenant.clone());
        let written = self.records().write(move |tx| {
            if correct::count(tx, id)?.0 >= correct::MAX_CALIBRATIONS as i64 {
                let most = correct::MAX_CALIBRATIONS;
                return Err(Error::conflict(format!("At most {most} calibrations of a Datastream are possible.")));
            }
            let found = correct::put_calibration(tx, id, &new, &by.label())?;
            let last = new.to.map_or(Timestamp::MAX, |to| to.plus_micros(-1));
            said(tx, id, corrected, "calibration", new.from, last)?;
            let detail = json!({ "calibration": found.id, "from": new.from, "to": new.to, "reason": new.reason });
            tx.audit(&by, "datastream:calibrate", "Datastream", &id.to_string(), Some(&tenant), detail)?;
            Ok(found)
        });
        let found = written.await?;
        self.0.reload.notify_one();
        Ok(found)
    }

    /// Takes a calibration back: it stays readable and counts no more.
    ///
    /// # Errors
    /// 404 when there is none that counts; as [`Derived::calibrate`].
    pub async fn withdraw(
        &self,
        caller: &Caller,
        datastream: EntityId,
        calibration: i64,
        reason: &str,
    ) -> Result<(), Error> {
        correct::check_reason(reason)?;
        let raw = self.may_say(caller, datastream, action::WRITE).await?;
        let corrected = self.beside(&raw).await?;
        let (by, id, tenant, reason) = (caller.clone(), raw.id, raw.tenant.clone(), reason.trim().to_owned());
        let written = self.records().write(move |tx| {
            let known = correct::calibrations(tx, id)?.into_iter().find(|c| c.id == calibration);
            let gone = || Error::not_found(format!("The calibration {calibration}"));
            let known = known.ok_or_else(gone)?;
            if !correct::withdraw(tx, id, calibration, &by.label(), &reason)? {
                return Err(gone());
            }
            let last = known.to.map_or(Timestamp::MAX, |to| to.plus_micros(-1));
            said(tx, id, corrected, "calibration", known.from, last)?;
            let detail = json!({ "calibration": calibration, "reason": reason });
            tx.audit(&by, "datastream:uncalibrate", "Datastream", &id.to_string(), Some(&tenant), detail)?;
            Ok::<_, Error>(())
        });
        written.await?;
        self.0.reload.notify_one();
        Ok(())
    }

    /// Says of one Observation what it should have been, or whether it is to be believed. The raw one stays.
    ///
    /// # Errors
    /// 400 with every mistake; 404 when there is no such Observation; 403 without `sensing:observe`; 409 as [`Derived::calibrate`].
    pub async fn correct(
        &self,
        caller: &Caller,
        observation: ObservationId,
        new: NewCorrection,
    ) -> Result<Correction, Error> {
        new.check()?;
        self.about(caller, &observation).await?;
        let raw = self.may_say(caller, observation.datastream, action::OBSERVE).await?;
        let observation = ObservationId { datastream: raw.id, ..observation };
        self.measured(&observation).await?;
        let corrected = self.beside(&raw).await?;
        let (by, id, tenant) = (caller.clone(), raw.id, raw.tenant.clone());
        let written = self.records().write(move |tx| {
            if correct::count(tx, id)?.1 >= correct::MAX_CORRECTIONS as i64 {
                let most = correct::MAX_CORRECTIONS;
                let detail = format!(
                    "At most {most} corrections of a Datastream's Observations are possible; enter a calibration."
                );
                return Err(Error::conflict(detail));
            }
            let found = correct::put_correction(tx, &observation, &new, &by.label())?;
            said(tx, id, corrected, "correction", observation.at, observation.at)?;
            let detail =
                json!({ "value": new.value, "quality": new.quality, "reason": new.reason, "version": found.version });
            tx.audit(&by, "observation:correct", "Observation", &observation.to_string(), Some(&tenant), detail)?;
            Ok(found)
        });
        let found = written.await?;
        self.0.reload.notify_one();
        Ok(found)
    }

    /// What was measured, and what has been said about it since.
    ///
    /// # Errors
    /// 404 when there is no such Observation that the caller may see.
    pub async fn history(&self, caller: &Caller, observation: ObservationId) -> Result<History, Error> {
        self.about(caller, &observation).await?;
        let raw = self.seen(caller, self.behind(observation.datastream)).await?;
        let observation = ObservationId { datastream: raw.id, ..observation };
        let measured = self.measured(&observation).await?;
        let mut corrections = self.records().read(move |read| correct::of_observation(read, &observation)).await?;
        if !self.catalog().scope(caller).admits(&raw.tenant, false) {
            corrections.iter_mut().for_each(|c| c.by.clear());
        }
        let result = match &measured.result {
            crate::model::ResultValue::Number(n) => json!(n),
            crate::model::ResultValue::Json(raw) => serde_json::from_str(raw.get()).unwrap_or_default(),
        };
        let quality: Option<Value> = measured.quality.as_ref().and_then(|q| serde_json::from_str(q.get()).ok());
        let raw_id = raw.id;
        Ok(History {
            raw: json!({ "id": observation.to_string(), "phenomenonTime": measured.phenomenon.to_string(), "result": result, "resultQuality": quality }),
            corrections,
            corrected_by: self.corrected(raw_id),
        })
    }

    /// Whether the caller may see what the Observation belongs to; the answer names what was asked for and nothing else.
    async fn about(&self, caller: &Caller, id: &ObservationId) -> Result<(), Error> {
        let scope = self.catalog().scope(caller);
        let found = self.catalog().get(&scope, EntityType::Datastream, self.behind(id.datastream)).await?;
        found.map(drop).ok_or_else(|| Error::not_found(format!("The Observation {id}")))
    }

    async fn measured(&self, id: &ObservationId) -> Result<crate::model::Observation, Error> {
        let found = self.observe().get(id).await?;
        found.ok_or_else(|| Error::not_found(format!("The Observation {id}")))
    }

    /// The corrected Datastream beside a raw one, made when it is not there yet: of the same Thing, Sensor, ObservedProperty and unit, so that
    /// everything that knows Datastreams knows it.
    async fn beside(&self, raw: &Entity) -> Result<EntityId, Error> {
        let id = raw.id;
        let pairs = self.records().read(correct::pairs).await?;
        let everything = crate::Scope::Everything;
        if let Some(Pair { corrected, .. }) = pairs.iter().find(|p| p.raw == id)
            && self.catalog().get(&everything, EntityType::Datastream, *corrected).await?.is_some()
        {
            return Ok(*corrected);
        }
        let mut properties = raw.properties();
        let own = properties.get("key").and_then(Value::as_str).map(str::to_owned);
        let key = format!("{}.corrected", own.unwrap_or_else(|| format!("datastream-{id}")));
        // Whatever has the key already is somebody's own, unless it was made here and the program ended before that was written down.
        if let Some(there) = self.catalog().by_key(EntityType::Datastream, &raw.tenant, &key).await? {
            let found = self.catalog().get(&everything, EntityType::Datastream, there).await?;
            let ours = found.is_some_and(|d| d.properties().get("corrects") == Some(&json!(id)));
            if !ours || self.observe().head(there).is_some() {
                return Err(Error::conflict(format!(
                    "The key '{key}' of the corrected Datastream is taken by the Datastream {there}; give that another key."
                )));
            }
        }
        let label = label(raw);
        properties.insert("key".to_owned(), key.clone().into());
        properties.insert("corrects".to_owned(), id.0.into());
        for (field, text, mark) in
            [("name_zh_hant", &label.zh_hant, "（已更正）"), ("name_zh_hans", &label.zh_hans, "（已更正）")]
        {
            if let Some(text) = text {
                properties.insert(field.to_owned(), format!("{text}{mark}").into());
            }
        }
        let link = |navigation: &str| raw.one(navigation).map(|id| json!({ "@iot.id": id })).unwrap_or_default();
        let body = json!({
            "name": format!("{} (corrected)", raw.name()),
            "description": raw.text("description"),
            "observationType": raw.text("observationType"),
            "unitOfMeasurement": raw.field("unitOfMeasurement").to_value(),
            "properties": properties,
            "@lamppost.public": raw.public,
            "Thing": link("Thing"),
            "ObservedProperty": link("ObservedProperty"),
            "Sensor": link("Sensor"),
        });
        let system = Caller::system("derived");
        let corrected = self.catalog().upsert(&system, EntityType::Datastream, &raw.tenant, &key, body).await?;
        self.mark(id, corrected).await?;
        Ok(corrected)
    }

    /// Writes into the raw Datastream's properties which one corrects it, where SensorThings clients and rules find it.
    async fn mark(&self, raw: EntityId, corrected: EntityId) -> Result<(), Error> {
        let Some(entity) = self.catalog().get(&crate::Scope::Everything, EntityType::Datastream, raw).await? else {
            return Ok(());
        };
        let mut properties: Map<String, Value> = entity.properties();
        if properties.get("corrected_by") == Some(&json!(corrected)) {
            return Ok(());
        }
        properties.insert("corrected_by".to_owned(), json!(corrected));
        let (system, body) = (Caller::system("derived"), json!({ "properties": properties }));
        self.catalog().update(&system, EntityType::Datastream, raw, &body, Update::Merge).await?;
        Ok(())
    }

    /// A pack that is applied writes a Datastream's properties as it has them.
    async fn relabel(&self) -> Result<(), Error> {
        for pair in self.records().read(correct::pairs).await? {
            self.mark(pair.raw, pair.corrected).await?;
        }
        Ok(())
    }
}

/// The Datastreams whose Observations were computed.
fn computed(read: &mut records::Read<'_>) -> Result<BTreeSet<EntityId>, records::Error> {
    Ok(store::outputs(read)?.into_iter().map(|o| o.datastream).collect())
}

/// Notes in the same transaction what has to be computed again: all of it, unless the output is known to stand at the version before.
fn said(
    tx: &mut records::Tx<'_>,
    raw: EntityId,
    corrected: EntityId,
    reason: &str,
    first: Timestamp,
    last: Timestamp,
) -> Result<(), records::Error> {
    let version = correct::touch(tx, raw, corrected)?;
    let definition = format!("{}{raw}", plan::CORRECTED);
    let follows = store::output(tx, corrected)?.is_some_and(|(key, at)| key == definition && at == version - 1);
    // The output is at the new version when the work is done; until then the work says what is missing.
    store::put_output(tx, &store::Output { datastream: corrected, definition, version, done_through: None })?;
    let (first, last) = if follows { (first, last) } else { (Timestamp::MIN, Timestamp::MAX) };
    store::add_work(tx, corrected, reason, first.as_micros(), last.as_micros())
}

fn label(entity: &Entity) -> Text {
    let properties = entity.properties();
    let other = |key: &str| properties.get(key).and_then(Value::as_str).map(str::to_owned);
    Text { en: entity.name().to_owned(), zh_hant: other("name_zh_hant"), zh_hans: other("name_zh_hans") }
}

fn progress(work: &Work, now: Timestamp) -> Progress {
    let clamp =
        |micros: i64| Timestamp::from_micros(micros.clamp(Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros()));
    let begun = work.next > work.first && work.first > Timestamp::MIN.as_micros();
    // Work may go to the end of time; people wait for now.
    let last = work.last.min(now.as_micros());
    let share = if begun && last > work.first {
        (work.next.min(last) - work.first) as f64 / (last - work.first) as f64
    } else {
        0.0
    };
    Progress {
        datastream: work.datastream,
        reason: work.reason.clone(),
        started_at: work.started_at,
        through: begun.then(|| clamp(work.next)),
        to: clamp(last),
        percent: (share * 100.0).clamp(0.0, 100.0) as u8,
        written: work.written,
    }
}
