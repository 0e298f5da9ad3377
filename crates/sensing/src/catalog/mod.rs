//! The catalogue: every entity but the Observations, as rows of `records`.
//!
//! [`schema`] says what exists; everything else is driven by it. A command is one transaction that also writes its audit row and its event.
//! The policy is asked inside that transaction, about the rows as they are then.

mod body;
mod cache;
pub mod cells;
mod change;
pub(crate) mod change_set;
mod counted;
mod delete;
mod entity;
mod feature;
pub mod geometry;
mod held;
mod ids;
pub mod listing;
mod migrations;
mod moved;
mod multi;
mod plain;
pub mod schema;
mod sealed;
mod series;
mod tasking;
mod write;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kernel::{Action, Caller, Clock, Policy, Tenant, Timestamp};
use records::{Records, ToParam, params};
use serde_json::Value;

pub use entity::{Entity, Field};
pub use ids::{last_ids, skip_ids};
pub use schema::Schema;

use crate::{
    Error, Scope, Scopes,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationType},
    route::action,
};
use body::{Draft, Purpose};
use cache::Cache;
use write::{Bound, Context};

pub(crate) use body::{ObservationDraft, Target, kind_of};
pub(crate) use change::patched;
pub(crate) use feature::no_result;
pub(crate) use plain::plain;
pub(crate) use write::{Owner, Writer};

/// Entities that one bulk upsert writes in one transaction.
const CHUNK: usize = 500;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Created,
    Updated,
    Deleted,
}

impl Operation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// One entity that a command touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub operation: Operation,
    pub entity: EntityType,
    pub id: EntityId,
    pub tenant: Tenant,
    pub public: bool,
    /// Of an update, the properties that have another value now.
    pub properties: Vec<&'static str>,
}

/// What a command did, for those who must follow up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub list: Vec<Change>,
    /// Observations of a deep insert, still to be recorded.
    pub observations: Vec<Observation>,
    /// Datastreams and MultiDatastreams that are gone, whose Observations must go too.
    pub dropped: Vec<EntityId>,
    /// Datastream and feature whose Observations must go, because the feature is gone.
    pub unobserved: Vec<(EntityId, EntityId)>,
    stale: BTreeSet<EntityId>,
    tenants: BTreeSet<Tenant>,
}

/// Where a new entity is posted: `Things(1)/Datastreams`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parent {
    pub entity: EntityType,
    pub id: EntityId,
    /// The navigation property of the parent.
    pub navigation: &'static str,
}

/// How an entity shall change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    /// PATCH with a part of the representation.
    Merge,
    /// PUT with the whole of it.
    Replace,
    /// PATCH with `application/json-patch+json`.
    JsonPatch,
}

/// An entity declared by its natural key.
#[derive(Clone, Debug)]
pub struct Declared {
    pub entity: EntityType,
    pub key: String,
    pub body: Value,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    scopes: Scopes,
    clock: Arc<dyn Clock>,
    cache: Cache,
    counted: counted::Counted,
}

impl Catalog {
    /// Brings the tables up to date. Reads the owners and no entity, so it takes as long with a million Things as with none.
    pub fn open(records: Records, policy: Arc<dyn Policy>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        records.migrate("sensing_catalogue", migrations::MIGRATIONS)?;
        listing::catch_up(&records)?;
        let scopes = Scopes::new(policy);
        let sql = "SELECT tenant FROM sensing_tenant";
        let tenants: Vec<Tenant> = records.read_blocking(|read| read.query(sql, &[], |row| row.get(0)))?;
        tenants.iter().for_each(|tenant| scopes.know(tenant));
        Ok(Self {
            inner: Arc::new(Inner {
                records,
                scopes,
                clock,
                cache: Cache::new(),
                counted: counted::Counted::default(),
            }),
        })
    }

    pub fn records(&self) -> &Records {
        &self.inner.records
    }
    pub fn scopes(&self) -> &Scopes {
        &self.inner.scopes
    }
    pub fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.inner.scopes.of(caller)
    }
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }
    fn context(&self, caller: &Caller) -> Context {
        let scopes = &self.inner.scopes;
        let scope = scopes.of(caller);
        Context { caller: caller.clone(), policy: Arc::clone(scopes.policy()), scope, resizes: false }
    }

    /// Runs one command and makes the caches follow, also when whoever has asked does not wait for the answer: a request that is given up in the middle
    /// may be committed, and what is near must not say for ever what was so before.
    async fn command<T, F>(&self, context: Context, action: Action, command: F) -> Result<(T, Changes), Error>
    where
        T: Send + 'static,
        F: Fn(&mut Writer<'_, '_>) -> Result<T, Error> + Send + 'static,
    {
        let this = self.clone();
        let done = tokio::spawn(async move {
            let written = this.inner.records.write(move |tx| {
                let mut writer = Writer::new(tx, &context);
                let value = command(&mut writer)?;
                Ok::<_, Error>((value, writer.finish(action)?))
            });
            let (value, changes) = this.written(written.await, |error| error)?;
            this.follow(&changes);
            Ok::<_, Error>((value, changes))
        });
        // Panics are caught inside; a join error means that the runtime is going down.
        done.await.unwrap_or_else(|_| Err(records::Error::Closed.into()))
    }

    /// What was read before is old now; where nobody knows what became of a command, everything is.
    fn written<T, E>(&self, outcome: Result<T, E>, cause: impl FnOnce(&E) -> &Error) -> Result<T, E> {
        self.inner.counted.changed();
        if let Err(error) = &outcome
            && let Error::Records(records::Error::OutcomeUnknown(_)) = cause(error)
        {
            self.inner.cache.forget_everything();
        }
        outcome
    }

    /// Makes the caches follow what was committed.
    fn follow(&self, changes: &Changes) {
        if !changes.stale.is_empty() {
            self.inner.cache.forget(changes.stale.iter().copied());
        }
        changes.tenants.iter().for_each(|tenant| self.inner.scopes.know(tenant));
    }

    /// Runs a command of another topic that writes entities too: the Tasks' own rows stand beside what becomes of them.
    pub(crate) async fn with_writer<T, F>(&self, caller: &Caller, action: Action, command: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut Writer<'_, '_>) -> Result<T, Error> + Send + 'static,
    {
        self.command(self.context(caller), action, command).await.map(|(value, _)| value)
    }

    // --- writing --------------------------------------------------------------------------------------------------

    /// Creates an entity and everything inside its body, all or nothing (18-088 section 10.2). The Observations inside it are
    /// checked but not recorded: see [`Changes::observations`].
    pub async fn create(
        &self,
        caller: &Caller,
        entity: EntityType,
        body: &Value,
        parent: Option<Parent>,
    ) -> Result<(EntityId, Changes), Error> {
        let draft = Draft::parse(entity, body, Purpose::Create)?;
        let context = self.context(caller);
        let command = move |writer: &mut Writer<'_, '_>| create_in(writer, &draft, parent);
        self.command(context, action::WRITE, command).await
    }

    /// Completes one Observation: Datastream or MultiDatastream, and FeatureOfInterest, resolved or created, result checked, right granted. It is not recorded.
    pub async fn prepare_observation(
        &self,
        caller: &Caller,
        body: &Value,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> Result<Observation, Error> {
        let draft = ObservationDraft::parse(body)?;
        let command = move |writer: &mut Writer<'_, '_>| writer.complete(&draft, datastream, feature);
        self.command(self.context(caller), action::OBSERVE, command).await.map(|(observation, _)| observation)
    }

    /// Changes one entity; nothing is written when it is equal already.
    pub async fn update(
        &self,
        caller: &Caller,
        entity: EntityType,
        id: EntityId,
        body: &Value,
        how: Update,
    ) -> Result<Changes, Error> {
        self.change(self.context(caller), entity, id, body, how).await
    }

    /// The same for a MultiDatastream without Observations: its results may get another number of elements, which is refused otherwise.
    /// Whoever observes in the same moment may be checked by the old number, as it may by the old type of a Datastream.
    pub async fn update_unobserved(
        &self,
        caller: &Caller,
        entity: EntityType,
        id: EntityId,
        body: &Value,
        how: Update,
    ) -> Result<Changes, Error> {
        let context = Context { resizes: true, ..self.context(caller) };
        self.change(context, entity, id, body, how).await
    }

    async fn change(
        &self,
        context: Context,
        entity: EntityType,
        id: EntityId,
        body: &Value,
        how: Update,
    ) -> Result<Changes, Error> {
        let (draft, body) = (change::draft_of(entity, body, how)?, body.clone());
        let command = move |writer: &mut Writer<'_, '_>| change::update_in(writer, entity, id, draft.as_ref(), &body);
        self.command(context, action::WRITE, command).await.map(|(_, changes)| changes)
    }

    /// Deletes one entity and what depends on it (18-088 table 25). The caller of this function drops the Observations:
    /// [`Changes::dropped`] and [`Changes::unobserved`].
    pub async fn delete(&self, caller: &Caller, entity: EntityType, id: EntityId) -> Result<Changes, Error> {
        let command = move |writer: &mut Writer<'_, '_>| writer.delete(entity, id);
        self.command(self.context(caller), action::DELETE, command).await.map(|(_, changes)| changes)
    }

    /// Creates or changes the entity with this natural key; writes nothing, not even an audit row, when it is equal already. Links may name
    /// keys: `{"@iot.key": "…"}`; entities inside the body need keys of their own.
    pub async fn upsert(
        &self,
        caller: &Caller,
        entity: EntityType,
        tenant: &Tenant,
        key: &str,
        body: Value,
    ) -> Result<EntityId, Error> {
        let declared = vec![Declared { entity, key: key.to_owned(), body }];
        let ids = self.upsert_all(caller, tenant, declared).await?;
        ids.first().copied().ok_or_else(|| Error::internal("an upsert gave no id"))
    }

    /// Many upserts, a few hundred to a transaction; ids in the order given. An error leaves earlier chunks written: send all of it again.
    pub async fn upsert_all(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        declared: Vec<Declared>,
    ) -> Result<Vec<EntityId>, Error> {
        let mut drafts = Vec::with_capacity(declared.len());
        for one in declared {
            body::check_key(&one.key).map_err(|e| Error::field("@iot.key", e))?;
            let mut draft = Draft::parse(one.entity, &one.body, Purpose::Create)?;
            draft.key = Some(one.key);
            drafts.push(draft);
        }
        let mut ids = Vec::with_capacity(drafts.len());
        let mut drafts = drafts.into_iter();
        loop {
            let chunk: Vec<Draft> = drafts.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(ids);
            }
            let owner = Owner { tenant: tenant.clone(), public: false };
            let command = move |writer: &mut Writer<'_, '_>| {
                chunk.iter().map(|draft| writer.put_keyed(draft, None, &owner)).collect::<Result<Vec<_>, _>>()
            };
            let (chunk_ids, _) = self.command(self.context(caller), action::WRITE, command).await?;
            ids.extend(chunk_ids);
        }
    }

    // --- reading --------------------------------------------------------------------------------------------------

    pub async fn get(&self, scope: &Scope, entity: EntityType, id: EntityId) -> Result<Option<Entity>, Error> {
        let schema = Schema::of(entity);
        if schema.table.is_empty() {
            return Ok(None);
        }
        let sql = format!("SELECT {} FROM {} e WHERE e.id = $1", schema.columns("e"), schema.table);
        let found = self
            .inner
            .records
            .read(move |read| Ok::<_, Error>(read.query_opt(&sql, params![id.0], |row| Entity::read(schema, row))?));
        Ok(found.await?.filter(|e| scope.admits(&e.tenant, e.public)))
    }

    pub async fn by_key(&self, entity: EntityType, tenant: &Tenant, key: &str) -> Result<Option<EntityId>, Error> {
        let sql = format!("SELECT id FROM {} WHERE tenant = $1 AND key = $2", Schema::of(entity).table);
        let (tenant, key) = (tenant.clone(), key.to_owned());
        let found = self.inner.records.read(move |read| {
            Ok::<_, Error>(read.query_opt(&sql, params![tenant, key], |row| row.get(0).map(EntityId))?)
        });
        found.await
    }

    /// What the doors must know of a Datastream or MultiDatastream, whichever has this id; makes its default FeatureOfInterest when there is none yet.
    pub async fn datastream(&self, id: EntityId) -> Result<Option<Arc<DatastreamInfo>>, Error> {
        if let Some(info) = self.inner.cache.get(id) {
            return Ok(Some(info));
        }
        let generation = self.inner.cache.generation();
        let found = self.inner.records.read(move |read| read_whole(read, id));
        let Some((mut info, mut system)) = found.await? else { return Ok(None) };
        if info.feature == EntityId(0) {
            let context = feature::own(&self.context(&Caller::system("catalogue")));
            let command = move |writer: &mut Writer<'_, '_>| observed_first(writer, id);
            let (made, _) = self.command(context, action::WRITE, command).await?;
            let Some(made) = made else { return Ok(None) };
            (info, system) = made;
        }
        let info = Arc::new(info);
        self.inner.cache.put(Arc::clone(&info), system, generation);
        Ok(Some(info))
    }

    /// The Datastreams of a Thing that are in scope; up to 1,000.
    pub async fn streams_of(&self, scope: &Scope, thing: EntityId) -> Result<Vec<Entity>, Error> {
        let schema = Schema::of(EntityType::Datastream);
        let sql = format!(
            "SELECT {} FROM {} e WHERE e.thing_id = $1 ORDER BY e.id LIMIT 1000",
            schema.columns("e"),
            schema.table
        );
        let found = self
            .inner
            .records
            .read(move |read| Ok::<_, Error>(read.query(&sql, params![thing.0], |row| Entity::read(schema, row))?));
        Ok(found.await?.into_iter().filter(|e| scope.admits(&e.tenant, e.public)).collect())
    }

    /// The Datastreams of a tenant with these keys, and what the doors must know of them. One look into the store for any number of keys; a
    /// second, and a write, only for those that were never observed.
    pub async fn keyed(
        &self,
        tenant: &Tenant,
        keys: Vec<String>,
    ) -> Result<HashMap<String, Arc<DatastreamInfo>>, Error> {
        let generation = self.inner.cache.generation();
        let (inner, owner) = (Arc::clone(&self.inner), tenant.clone());
        let read = self.inner.records.read(move |read| {
            let mut found = Vec::with_capacity(keys.len());
            for chunk in keys.chunks(CHUNK) {
                let places: Vec<String> = (2..chunk.len() + 2).map(|n| format!("${n}")).collect();
                let sql = format!(
                    "SELECT key, id FROM sensing_datastream WHERE tenant = $1 AND key IN ({})",
                    places.join(", ")
                );
                let mut given = vec![ToParam::to_param(&owner)];
                given.extend(chunk.iter().map(ToParam::to_param));
                let rows = read.query(&sql, &given, |row| Ok((row.get::<String>(0)?, EntityId(row.get::<i64>(1)?))))?;
                for (key, id) in rows {
                    let far = match inner.cache.get(id) {
                        Some(info) => Ok(info),
                        None => Err(read_whole(read, id)?),
                    };
                    found.push((key, far));
                }
            }
            Ok::<_, Error>(found)
        });
        let mut found = HashMap::new();
        let mut unobserved = Vec::new();
        for (key, info) in read.await? {
            match info {
                Ok(info) => drop(found.insert(key, info)),
                Err(None) => {}
                Err(Some((info, _))) if info.feature == EntityId(0) => unobserved.push((key, info.id)),
                Err(Some((info, system))) => {
                    let info = Arc::new(info);
                    self.inner.cache.put(Arc::clone(&info), system, generation);
                    found.insert(key, info);
                }
            }
        }
        for chunk in unobserved.chunks(CHUNK) {
            let context = feature::own(&self.context(&Caller::system("catalogue")));
            let ids: Vec<EntityId> = chunk.iter().map(|(_, id)| *id).collect();
            let command = move |writer: &mut Writer<'_, '_>| {
                ids.iter().map(|id| observed_first(writer, *id)).collect::<Result<Vec<_>, _>>()
            };
            let (made, _) = self.command(context, action::WRITE, command).await?;
            for ((key, _), info) in chunk.iter().zip(made) {
                if let Some((info, system)) = info {
                    let info = Arc::new(info);
                    self.inner.cache.put(Arc::clone(&info), system, generation);
                    found.insert(key.clone(), info);
                }
            }
        }
        Ok(found)
    }

    /// The same without a wait; `None` when it is not near.
    pub fn datastream_cached(&self, id: EntityId) -> Option<Arc<DatastreamInfo>> {
        self.inner.cache.get(id)
    }
    /// `properties.system` of the Datastream's Thing, without a wait; `None` when the Datastream is not near, empty when there is none.
    pub fn system_cached(&self, id: EntityId) -> Option<Arc<str>> {
        self.inner.cache.system(id)
    }
    /// Series whose owner, type or existence may have changed since this generation.
    pub(crate) fn series_changes(&self, since: Option<u64>) -> SeriesChanges {
        let (generation, since) = self.inner.cache.invalidated(since);
        SeriesChanges { generation, since }
    }
    /// Datastreams whose info is near, for metrics.
    pub fn cached_datastreams(&self) -> usize {
        self.inner.cache.len()
    }

    /// Whether Observations of this Datastream may be about this feature without asking the store.
    pub fn feature_cached(&self, datastream: EntityId, feature: EntityId) -> bool {
        self.inner.cache.knows_feature(datastream, feature)
    }
    /// Admits a feature that an Observation names: it must exist and be readable for the caller. The catalogue remembers the pair, so
    /// that `FeaturesOfInterest(1)/Observations` finds its Datastreams.
    pub async fn admit_feature(&self, caller: &Caller, datastream: EntityId, feature: EntityId) -> Result<bool, Error> {
        if self.feature_cached(datastream, feature) {
            return Ok(true);
        }
        let generation = self.inner.cache.generation();
        let scope = self.scope(caller);
        let read = self.inner.records.read(move |read| {
            let owner = feature::tenant(read, EntityType::FeatureOfInterest, feature)?;
            let visible = owner.is_some_and(|(tenant, public)| scope.admits(&tenant, public));
            Ok::<_, Error>((visible, feature::is_observed(read, datastream, feature)?))
        });
        let (visible, registered) = read.await?;
        if !visible {
            return Ok(false);
        }
        if !registered {
            let context = feature::own(&self.context(caller));
            let command = move |writer: &mut Writer<'_, '_>| writer.observe_feature(datastream, feature);
            self.command(context, action::OBSERVE, command).await?;
        }
        self.inner.cache.put_feature(datastream, feature, generation);
        Ok(true)
    }
}

/// See [`Catalog::series_changes`].
pub(crate) struct SeriesChanges {
    pub generation: u64,
    /// `None` when it is too long ago to be known.
    pub since: Option<Vec<EntityId>>,
}

/// Creates an entity and everything inside it, at the root or below a parent.
fn create_in(writer: &mut Writer<'_, '_>, draft: &Draft, parent: Option<Parent>) -> Result<EntityId, Error> {
    let Some(parent) = parent else { return writer.insert(draft, None, None) };
    let nothing = || Error::not_found(format!("{}({})", parent.entity.set(), parent.id));
    let above = writer.load(parent.entity, parent.id)?.ok_or_else(nothing)?;
    // Only the Thing hands its ownership down: whoever adds a Datastream to a Sensor does not act for the Sensor's owner.
    let owner = Owner { tenant: above.tenant, public: above.public };
    if !writer.admits(&owner) {
        return Err(nothing());
    }
    let back = Schema::of(parent.entity).navigation(parent.navigation).map(|(_, n)| n.inverse);
    let back = back.and_then(|name| Schema::of(draft.entity).navigation(name)).map(|(_, n)| n);
    let back = back.ok_or_else(|| Error::bad_request("This address takes no POST."))?;
    let bound: Bound = (back, parent.id);
    let inherited = (parent.entity == EntityType::Thing).then_some(&owner);
    writer.insert(draft, Some(bound), inherited)
}

fn read_info(read: &mut records::Read<'_>, id: EntityId) -> Result<Option<DatastreamInfo>, Error> {
    for entity in EntityType::SERIES {
        let schema = Schema::of(entity);
        let sql = format!("SELECT {} FROM {} e WHERE e.id = $1", schema.columns("e"), schema.table);
        if let Some(found) = read.query_opt(&sql, params![id.0], |row| Entity::read(schema, row))? {
            return Ok(Some(info(&found)));
        }
    }
    Ok(None)
}

/// The same with its feature (0 when it was never observed) and the system of its Thing.
fn read_whole(read: &mut records::Read<'_>, id: EntityId) -> Result<Option<(DatastreamInfo, Arc<str>)>, Error> {
    let Some(mut info) = read_info(read, id)? else { return Ok(None) };
    let (origin, _) = feature::origin(read, info.thing)?;
    let system = system_of(read, info.thing)?;
    let known = match feature::by_origin(read, &origin)? {
        Some(default) if feature::is_observed(read, id, default)? => Some(default),
        _ => None,
    };
    info.feature = known.unwrap_or(EntityId(0));
    Ok(Some((info, system)))
}

/// Makes the feature of a Datastream that was never observed.
fn observed_first(writer: &mut Writer<'_, '_>, id: EntityId) -> Result<Option<(DatastreamInfo, Arc<str>)>, Error> {
    let Some(info) = read_info(writer.tx, id)? else { return Ok(None) };
    let system = system_of(writer.tx, info.thing)?;
    let default = writer.feature_of_thing(info.thing)?;
    writer.observe_feature(id, default)?;
    Ok(Some((DatastreamInfo { feature: default, ..info }, system)))
}

fn system_of(read: &mut records::Read<'_>, thing: EntityId) -> Result<Arc<str>, Error> {
    let sql = "SELECT system FROM sensing_thing WHERE id = $1";
    Ok(read.query_opt(sql, params![thing.0], |row| row.get::<String>(0))?.unwrap_or_default().into())
}

fn info(entity: &Entity) -> DatastreamInfo {
    let unit = entity.field("unitOfMeasurement").to_value();
    let properties = entity.properties();
    DatastreamInfo {
        id: entity.id,
        tenant: entity.tenant.clone(),
        public: entity.public,
        thing: entity.one("Thing").unwrap_or(EntityId(0)),
        name: entity.name().into(),
        observation_type: ObservationType::from_code(entity.text("observationType")).unwrap_or(ObservationType::Any),
        elements: (entity.entity == EntityType::MultiDatastream).then(|| multi::types(entity)),
        unit: unit.get("symbol").and_then(Value::as_str).map(Into::into),
        feature: EntityId(0),
        interval: properties.get("interval").and_then(Value::as_u64).and_then(|s| u32::try_from(s).ok()),
        simulated: properties.get("simulated").and_then(Value::as_bool).unwrap_or(false),
    }
}
