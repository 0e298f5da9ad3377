//! Writing entities: every function here runs inside one `records` transaction and has no other effect.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use kernel::{Action, Caller, Policy, Problem, Resource, Tenant, Timestamp};
use records::{ColumnKind, Event, Param, Tx, params};
use serde_json::{Value, json};

use super::{
    Change, Changes, Entity, Operation,
    body::{Draft, Target, missing},
    cells::cell,
    entity::Field,
    geometry,
    listing::{self, Counts, Listed},
    schema::{COMMON, Link, List, Navigation, Schema, Source},
};
use crate::{
    Error, Scope,
    model::{EntityId, EntityType},
    route::action,
};

/// Who writes, and what they may.
#[derive(Clone)]
pub(crate) struct Context {
    pub caller: Caller,
    pub policy: Arc<dyn Policy>,
    pub scope: Arc<Scope>,
    /// Whether a MultiDatastream may get another number of elements: nothing was observed with the one that it has.
    pub resizes: bool,
}

/// Who owns an entity and whether it is published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub tenant: Tenant,
    pub public: bool,
}

/// A tie that the place of an entity decides: its own navigation property, and where that leads.
pub(crate) type Bound = (&'static Navigation, EntityId);

pub(crate) struct Writer<'w, 'tx> {
    pub tx: &'w mut Tx<'tx>,
    pub context: &'w Context,
    pub changes: Changes,
    pub(super) counts: Counts,
    /// The policy's answers within this command.
    decided: BTreeMap<(&'static str, &'static str, Tenant, bool), bool>,
}

impl<'w, 'tx> Writer<'w, 'tx> {
    pub fn new(tx: &'w mut Tx<'tx>, context: &'w Context) -> Self {
        Self { tx, context, changes: Changes::default(), counts: Counts::default(), decided: BTreeMap::new() }
    }
    pub fn now(&self) -> Timestamp {
        self.tx.now()
    }

    // --- rights ---------------------------------------------------------------------------------------------------

    pub fn allows(&mut self, action: Action, entity: EntityType, owner: &Owner) -> bool {
        let Context { caller, policy, .. } = self.context;
        if caller.is_system() {
            return true;
        }
        let kind = entity.singular();
        let ask = || {
            let resource = Resource { kind, id: "", tenant: Some(&owner.tenant), public: owner.public };
            policy.allows(caller, action, &resource)
        };
        *self.decided.entry((action.0, kind, owner.tenant.clone(), owner.public)).or_insert_with(ask)
    }

    /// Whether the caller may see what this owner has. The scope was computed before the transaction began; of a department that the
    /// transaction itself has brought in, the policy is asked now.
    pub fn admits(&mut self, owner: &Owner) -> bool {
        if self.context.scope.admits(&owner.tenant, owner.public) {
            return true;
        }
        let hidden = Owner { tenant: owner.tenant.clone(), public: false };
        self.changes.tenants.contains(&owner.tenant) && self.allows(action::READ, EntityType::Thing, &hidden)
    }

    /// Refuses what the policy does not allow: 401 without a sign-in, 404 where existence is private, else 403.
    pub fn require(&mut self, action: Action, entity: EntityType, owner: &Owner, what: &str) -> Result<(), Error> {
        if self.allows(action, entity, owner) {
            return Ok(());
        }
        Err(if self.context.caller.is_anonymous() {
            Problem::unauthenticated().into()
        } else if self.context.scope.admits(&owner.tenant, owner.public) {
            Problem::forbidden(format!("{what} belongs to '{}'; {} needs a right there.", owner.tenant, action.0))
                .into()
        } else {
            Error::not_found(what)
        })
    }

    // --- reading --------------------------------------------------------------------------------------------------

    pub fn load(&mut self, entity: EntityType, id: EntityId) -> Result<Option<Entity>, Error> {
        let schema = Schema::of(entity);
        if schema.table.is_empty() {
            return Ok(None);
        }
        let sql = format!("SELECT {} FROM {} e WHERE e.id = $1", schema.columns("e"), schema.table);
        Ok(self.tx.query_opt(&sql, params![id.0], |row| Entity::read(schema, row))?)
    }
    /// An entity that the caller may see.
    pub fn visible(&mut self, entity: EntityType, id: EntityId, at: &str) -> Result<Entity, Error> {
        // The scope was computed before this command; what the command itself has written, it may see.
        let found = self
            .load(entity, id)?
            .filter(|e| self.context.scope.admits(&e.tenant, e.public) || self.changes.tenants.contains(&e.tenant));
        found.ok_or_else(|| Error::field(at, format!("there is no {}({id})", entity.set())))
    }
    pub fn by_key(&mut self, entity: EntityType, tenant: &Tenant, key: &str) -> Result<Option<EntityId>, Error> {
        let sql = format!("SELECT id FROM {} WHERE tenant = $1 AND key = $2", Schema::of(entity).table);
        Ok(self.tx.query_opt(&sql, params![tenant, key], |row| row.get(0).map(EntityId))?)
    }
    pub fn ids(&mut self, sql: &str, id: EntityId) -> Result<Vec<EntityId>, Error> {
        Ok(self.tx.query(sql, params![id.0], |row| row.get(0).map(EntityId))?)
    }

    // --- creating -------------------------------------------------------------------------------------------------

    /// Creates what the draft describes and everything inside it.
    pub fn insert(
        &mut self,
        draft: &Draft,
        bound: Option<Bound>,
        inherited: Option<&Owner>,
    ) -> Result<EntityId, Error> {
        let schema = Schema::of(draft.entity);
        let (ones, owner) = self.ties(schema, draft, bound, inherited)?;
        if !self.allows(action::WRITE, draft.entity, &owner) {
            // Nothing is given away: the tenant is the caller's own word.
            return Err(if self.context.caller.is_anonymous() {
                Problem::unauthenticated().into()
            } else {
                let kind = schema.entity.singular();
                Problem::forbidden(format!("You may not create a {kind} for '{}'.", owner.tenant)).into()
            });
        }
        if let Some(key) = &draft.key
            && self.by_key(draft.entity, &owner.tenant, key)?.is_some()
        {
            let kind = schema.entity.singular();
            return Err(Error::conflict(format!("'{}' has a {kind} with the key '{key}' already.", owner.tenant)));
        }
        let id = self.next_id(draft.entity)?;
        let fields = draft.fields.iter().map(|f| f.clone().unwrap_or_default()).collect();
        let ones = ones.into_iter().map(|(_, id)| id).collect();
        let entity = Entity {
            entity: draft.entity,
            id,
            tenant: owner.tenant.clone(),
            public: owner.public,
            key: draft.key.clone(),
            fields,
            ones,
        };
        self.check_tasking(None, &entity, &draft.pointer)?;
        self.insert_row(&entity, &draft.pointer, None)?;
        self.counts.add(&entity, 1);
        self.note(Operation::Created, &entity)?;
        self.attach(&entity, draft, bound, &owner)?;
        self.observations(&entity, draft)?;
        Ok(id)
    }

    /// Resolves the ties to one; the Thing, where there is one, decides who owns the entity.
    pub(super) fn ties(
        &mut self,
        schema: &'static Schema,
        draft: &Draft,
        bound: Option<Bound>,
        inherited: Option<&Owner>,
    ) -> Result<(Vec<Bound>, Owner), Error> {
        let mut ones = Vec::new();
        let mut owner = None;
        for (navigation, _) in schema.ones() {
            let given = draft.links(navigation.name).first();
            let bound = bound.filter(|(n, _)| n.name == navigation.name).map(|(_, id)| id);
            let id = match (given, bound) {
                (None, Some(id)) => id,
                (None, None) => return Err(missing(schema.entity, navigation.name, &draft.pointer)),
                (Some(target), bound) => {
                    let at = draft.at(navigation.name);
                    let id = self.resolve(target, navigation.target, &at, owner.as_ref().or(inherited))?;
                    if bound.is_some_and(|b| b != id) {
                        return Err(Error::field(at, "the address and the body name different entities"));
                    }
                    id
                }
            };
            if navigation.target == EntityType::Thing {
                let thing = self.visible(EntityType::Thing, id, &draft.at(navigation.name))?;
                owner = Some(Owner { tenant: thing.tenant, public: thing.public });
            }
            ones.push((navigation, id));
        }
        let owner = match owner {
            Some(owner) => owner,
            None => self.owner(draft, inherited)?,
        };
        Ok((ones, owner))
    }

    fn owner(&self, draft: &Draft, inherited: Option<&Owner>) -> Result<Owner, Error> {
        let public = draft.public.or(inherited.map(|o| o.public)).unwrap_or(false);
        let tenant = draft.tenant.clone().or_else(|| inherited.map(|o| o.tenant.clone()));
        let Some(tenant) = tenant.or_else(|| self.context.caller.tenant.clone()) else {
            if self.context.caller.is_anonymous() {
                return Err(Problem::unauthenticated().into());
            }
            let detail = "you act for no department, so say which one owns the entity, for example \"dsd\"";
            return Err(Error::field(draft.at("@lamppost.tenant"), detail));
        };
        Ok(Owner { tenant, public })
    }

    /// The id behind a link in a body; creates what is described inline.
    pub fn resolve(
        &mut self,
        target: &Target,
        entity: EntityType,
        at: &str,
        inherited: Option<&Owner>,
    ) -> Result<EntityId, Error> {
        match target {
            Target::Id(id) => self.visible(entity, *id, at).map(|e| e.id),
            Target::Key(key) => {
                let tenant = inherited.map(|o| o.tenant.clone()).or_else(|| self.context.caller.tenant.clone());
                let found = match &tenant {
                    Some(tenant) => self.by_key(entity, tenant, key)?,
                    None => None,
                };
                found.ok_or_else(|| Error::field(at, format!("there is no {} with the key '{key}'", entity.singular())))
            }
            Target::New(draft) => self.insert(draft, None, inherited),
        }
    }

    pub fn next_id(&mut self, entity: EntityType) -> Result<EntityId, Error> {
        // An Observation is named by the id of its series, so no two series have the same, of whichever kind they are.
        let entity = if entity.has_series() { EntityType::Datastream } else { entity };
        let sql = "INSERT INTO sensing_sequence (kind, last) VALUES ($1, 1)
                   ON CONFLICT (kind) DO UPDATE SET last = sensing_sequence.last + 1 RETURNING last";
        Ok(EntityId(self.tx.query_one(sql, params![entity.singular()], |row| row.get(0))?))
    }

    pub fn insert_row(&mut self, entity: &Entity, pointer: &str, origin: Option<&str>) -> Result<(), Error> {
        self.stays_sealed(entity, pointer)?;
        let schema = entity.schema();
        let mut row = Assignments::default();
        row.set("id", Param::Integer(entity.id.0));
        row.owner(entity);
        row.set("key", text(entity.key.as_deref()));
        row.fields(schema, entity);
        row.place(entity, pointer)?;
        row.listed(entity);
        for ((_, column), id) in schema.ones().zip(&entity.ones) {
            row.set(column, Param::Integer(id.0));
        }
        if schema.extra.contains(&"origin") {
            row.set("origin", text(origin));
        }
        let places: Vec<String> = (1..=row.columns.len()).map(|i| format!("${i}")).collect();
        let sql = format!("INSERT INTO {} ({}) VALUES ({})", schema.table, row.columns.join(", "), places.join(", "));
        self.tx.execute(&sql, &row.values)?;
        if self.changes.tenants.insert(entity.tenant.clone()) {
            let sql = "INSERT INTO sensing_tenant (tenant) VALUES ($1) ON CONFLICT (tenant) DO NOTHING";
            self.tx.execute(sql, params![entity.tenant])?;
        }
        Ok(())
    }

    pub fn update_row(&mut self, entity: &Entity, pointer: &str) -> Result<(), Error> {
        self.stays_sealed(entity, pointer)?;
        let schema = entity.schema();
        let mut row = Assignments::default();
        row.owner(entity);
        row.fields(schema, entity);
        row.place(entity, pointer)?;
        row.listed(entity);
        for ((_, column), id) in schema.ones().zip(&entity.ones) {
            row.set(column, Param::Integer(id.0));
        }
        let sets: Vec<String> = row.columns.iter().enumerate().map(|(i, c)| format!("{c} = ${}", i + 1)).collect();
        row.values.push(Param::Integer(entity.id.0));
        let sql = format!("UPDATE {} SET {} WHERE id = ${}", schema.table, sets.join(", "), row.values.len());
        self.tx.execute(&sql, &row.values)?;
        if self.changes.tenants.insert(entity.tenant.clone()) {
            let sql = "INSERT INTO sensing_tenant (tenant) VALUES ($1) ON CONFLICT (tenant) DO NOTHING";
            self.tx.execute(sql, params![entity.tenant])?;
        }
        Ok(())
    }

    /// The ties to many of a new entity. `bound` is the tie back to where it was created.
    fn attach(&mut self, entity: &Entity, draft: &Draft, bound: Option<Bound>, owner: &Owner) -> Result<(), Error> {
        for navigation in entity.schema().navigation {
            let here = bound.filter(|(n, _)| n.name == navigation.name).map(|(_, id)| id);
            let mut ids = Vec::new();
            match navigation.link {
                Link::Through { list: List::Near, .. } => ids = self.listed(draft, navigation, here, owner)?,
                Link::Through { .. } => ids.extend(here),
                Link::One { .. } | Link::Many { .. } | Link::Series => {}
            }
            for (i, target) in draft.links(navigation.name).iter().enumerate() {
                let at = format!("{}/{i}", draft.at(navigation.name));
                match navigation.link {
                    Link::Many { .. } => self.adopt(entity, navigation, target, &at, owner)?,
                    Link::Through { list: List::Far, .. } => {
                        self.insert_listed(entity, navigation, target, &at, owner)?;
                    }
                    Link::Through { list: List::No, .. } => {
                        let id = self.resolve(target, navigation.target, &at, Some(owner))?;
                        if !ids.contains(&id) {
                            ids.push(id);
                        }
                    }
                    Link::Through { list: List::Near, .. } | Link::One { .. } | Link::Series => {}
                }
            }
            self.connect(entity, navigation, &ids, &draft.at(navigation.name))?;
        }
        if entity.entity == EntityType::MultiDatastream {
            self.whole(entity, &draft.pointer)?;
        }
        if entity.entity == EntityType::HistoricalLocation {
            self.relocate_from_history(entity)?;
        }
        Ok(())
    }

    /// One entity on the far side of a tie to many: created with the tie, or moved here.
    pub(super) fn adopt(
        &mut self,
        entity: &Entity,
        navigation: &'static Navigation,
        target: &Target,
        at: &str,
        owner: &Owner,
    ) -> Result<(), Error> {
        let Some((_, back)) = Schema::of(navigation.target).navigation(navigation.inverse) else {
            return Err(Error::internal(format!("{} leads nowhere", navigation.name)));
        };
        if let Target::New(draft) = target {
            self.insert(draft, Some((back, entity.id)), Some(owner))?;
            return Ok(());
        }
        let id = self.resolve(target, navigation.target, at, Some(owner))?;
        let mut other = self.visible(navigation.target, id, at)?;
        let before = Owner { tenant: other.tenant.clone(), public: other.public };
        self.require(action::WRITE, navigation.target, &before, &format!("{}({id})", navigation.target.set()))?;
        self.at_rest(&other)?;
        other.set_one(navigation.inverse, entity.id);
        if entity.entity == EntityType::Thing {
            other.tenant = owner.tenant.clone();
            other.public = owner.public;
        }
        self.update_row(&other, at)?;
        self.hand_down(&other)?;
        self.note(Operation::Updated, &other)
    }

    /// Sets the many-to-many ties of `entity`. A Thing's Locations are where it is now, so they replace the old ones.
    pub(super) fn connect(
        &mut self,
        entity: &Entity,
        navigation: &'static Navigation,
        ids: &[EntityId],
        at: &str,
    ) -> Result<(), Error> {
        let Link::Through { table, own, other, list } = navigation.link else { return Ok(()) };
        for id in ids {
            self.inside(&entity.tenant, navigation, *id, at)?;
        }
        if ids.is_empty() {
            return if navigation.required {
                let pointer = at.strip_suffix(navigation.name).and_then(|p| p.strip_suffix('/'));
                Err(missing(entity.entity, navigation.name, pointer.unwrap_or_default()))
            } else {
                Ok(())
            };
        }
        if list == List::Near {
            return self.set_list(entity, navigation, ids, at);
        }
        match (entity.entity, navigation.target) {
            (EntityType::Thing, EntityType::Location) => self.locate(entity, ids),
            (EntityType::Location, EntityType::Thing) => {
                for id in ids {
                    let thing = self.visible(EntityType::Thing, *id, at)?;
                    let owner = Owner { tenant: thing.tenant.clone(), public: thing.public };
                    self.require(action::WRITE, EntityType::Thing, &owner, &format!("Things({id})"))?;
                    self.locate(&thing, &[entity.id])?;
                }
                Ok(())
            }
            _ => {
                for id in ids {
                    let sql = format!("INSERT INTO {table} ({own}, {other}) VALUES ($1, $2) ON CONFLICT DO NOTHING");
                    self.tx.execute(&sql, params![entity.id.0, id.0])?;
                }
                Ok(())
            }
        }
    }

    /// The Thing is at `locations` from now on; the service itself adds the HistoricalLocation (18-088 section 8.2.3).
    pub fn locate(&mut self, thing: &Entity, locations: &[EntityId]) -> Result<(), Error> {
        if !self.set_locations(thing.id, locations)? {
            return Ok(());
        }
        let history = Entity {
            entity: EntityType::HistoricalLocation,
            id: self.next_id(EntityType::HistoricalLocation)?,
            tenant: thing.tenant.clone(),
            public: thing.public,
            key: None,
            fields: vec![Field::Time(self.now())],
            ones: vec![thing.id],
        };
        self.insert_row(&history, "", None)?;
        for location in locations {
            let sql = "INSERT INTO sensing_location_history (history_id, location_id) VALUES ($1, $2)";
            self.tx.execute(sql, params![history.id.0, location.0])?;
        }
        self.note(Operation::Created, &history)
    }

    /// Whether anything changed.
    fn set_locations(&mut self, thing: EntityId, locations: &[EntityId]) -> Result<bool, Error> {
        let sql = "SELECT location_id FROM sensing_thing_location WHERE thing_id = $1 ORDER BY location_id";
        let mut before = self.ids(sql, thing)?;
        let mut after = locations.to_vec();
        after.sort_unstable();
        after.dedup();
        before.sort_unstable();
        if before == after {
            return Ok(false);
        }
        self.tx.execute("DELETE FROM sensing_thing_location WHERE thing_id = $1", params![thing.0])?;
        for location in after {
            let sql = "INSERT INTO sensing_thing_location (thing_id, location_id) VALUES ($1, $2)";
            self.tx.execute(sql, params![thing.0, location.0])?;
        }
        listing::settle(self.tx, thing)?;
        self.stale_series(thing)?;
        Ok(true)
    }

    /// A HistoricalLocation that a client adds moves the Thing when it is the latest (18-088 section 8.2.3).
    fn relocate_from_history(&mut self, history: &Entity) -> Result<(), Error> {
        let (Some(thing), Field::Time(at)) = (history.one("Thing"), history.field("time").clone()) else {
            return Ok(());
        };
        let sql = "SELECT COUNT(*) FROM sensing_historical_location WHERE thing_id = $1 AND at >= $2 AND id <> $3";
        let later: i64 = self.tx.query_one(sql, params![thing.0, at, history.id.0], |row| row.get(0))?;
        if later > 0 {
            return Ok(());
        }
        let sql = "SELECT location_id FROM sensing_location_history WHERE history_id = $1";
        let locations = self.ids(sql, history.id)?;
        self.set_locations(thing, &locations).map(|_| ())
    }

    // --- what others must learn -----------------------------------------------------------------------------------

    /// What the doors know of a Thing's Datastreams and MultiDatastreams is no longer so.
    pub fn stale_series(&mut self, thing: EntityId) -> Result<(), Error> {
        for entity in EntityType::SERIES {
            let ids = self.ids(&format!("SELECT id FROM {} WHERE thing_id = $1", Schema::of(entity).table), thing)?;
            self.changes.stale.extend(ids);
        }
        Ok(())
    }

    /// Remembers a change for the audit row, the event and the caches.
    pub fn note(&mut self, operation: Operation, entity: &Entity) -> Result<(), Error> {
        if entity.entity.has_series() {
            self.changes.stale.insert(entity.id);
        }
        self.changes.list.push(Change {
            operation,
            entity: entity.entity,
            id: entity.id,
            tenant: entity.tenant.clone(),
            public: entity.public,
            properties: Vec::new(),
        });
        Ok(())
    }

    /// Remembers an update, and which properties it has changed.
    pub fn note_changed(&mut self, before: &Entity, after: &Entity) -> Result<(), Error> {
        self.note(Operation::Updated, after)?;
        let fields = after.schema().properties.iter().zip(before.fields.iter().zip(&after.fields));
        let changed = fields.filter(|(_, (before, after))| before != after).map(|(property, _)| property.name);
        if let Some(change) = self.changes.list.last_mut() {
            change.properties = changed.collect();
        }
        Ok(())
    }

    /// Writes the audit row and the events of everything that was noted; the last act of every command.
    pub fn finish(mut self, action: Action) -> Result<Changes, Error> {
        /// Changes that one audit row spells out; a larger command gives their number.
        const SPELLED_OUT: usize = 200;
        let Some(first) = self.changes.list.first() else { return Ok(self.changes) };
        self.counts.write(self.tx)?;
        let detail = if self.changes.list.len() <= SPELLED_OUT {
            let spelled =
                self.changes.list.iter().map(|c| format!("{} {}({})", c.operation.as_str(), c.entity.set(), c.id));
            json!({ "changes": spelled.collect::<Vec<_>>() })
        } else {
            json!({ "changes": self.changes.list.len() })
        };
        let (kind, id) = (first.entity.singular(), first.id.to_string());
        self.tx.audit(&self.context.caller, action.0, kind, &id, Some(&first.tenant), detail)?;
        for part in self.changes.list.chunks(SPELLED_OUT) {
            let changes: Vec<_> = part
                .iter()
                .map(|c| {
                    json!({"operation": c.operation.as_str(), "entity": c.entity.singular(), "id": c.id.0,
                           "tenant": c.tenant.as_str(), "public": c.public, "properties": c.properties})
                })
                .collect();
            let key = part.first().map(|c| format!("{}({})", c.entity.set(), c.id)).unwrap_or_default();
            let payload = json!({ "type": "sensing.catalogue", "changes": changes });
            self.tx.emit(Event { topic: "events".into(), key, payload })?;
        }
        self.changes.list.shrink_to_fit();
        Ok(std::mem::take(&mut self.changes))
    }
}

fn text(value: Option<&str>) -> Param<'_> {
    value.map_or(Param::Null(ColumnKind::Text), |t| Param::Text(Cow::Borrowed(t)))
}

/// Columns and their values, side by side.
#[derive(Default)]
struct Assignments<'a> {
    columns: Vec<&'static str>,
    values: Vec<Param<'a>>,
}

impl<'a> Assignments<'a> {
    fn set(&mut self, column: &'static str, value: Param<'a>) {
        self.columns.push(column);
        self.values.push(value);
    }
    fn owner(&mut self, entity: &'a Entity) {
        debug_assert_eq!(COMMON, ["id", "tenant", "public", "key"]);
        self.set("tenant", text(Some(entity.tenant.as_str())));
        self.set("public", Param::Integer(i64::from(entity.public)));
    }
    fn fields(&mut self, schema: &'static Schema, entity: &'a Entity) {
        for (property, field) in schema.properties.iter().zip(&entity.fields) {
            let (Source::Column(column) | Source::Service(column)) = property.source else { continue };
            let value = match field {
                Field::Null if property.kind == super::schema::Kind::Time => Param::Null(ColumnKind::Integer),
                Field::Null => Param::Null(ColumnKind::Text),
                Field::Text(text) | Field::Json(text) => Param::Text(Cow::Borrowed(text)),
                Field::Time(at) => Param::Integer(at.as_micros()),
            };
            self.set(column, value);
        }
    }
    /// What a Thing is found by.
    fn listed(&mut self, entity: &Entity) {
        if entity.entity != EntityType::Thing {
            return;
        }
        let Listed { system, district, simulated, sought } = Listed::of(entity.name(), &entity.properties());
        self.set("system", Param::Text(Cow::Owned(system)));
        self.set("district", Param::Text(Cow::Owned(district)));
        self.set("simulated", Param::Integer(i64::from(simulated)));
        self.set("sought", Param::Text(Cow::Owned(sought)));
    }
    /// The cell and box of the geometry. What claims to be GeoJSON must be GeoJSON.
    fn place(&mut self, entity: &Entity, pointer: &str) -> Result<(), Error> {
        let Some(name) = entity.schema().geometry else { return Ok(()) };
        let value = entity.field(name).to_value();
        let geometry = geometry::from_geojson(&value);
        // RFC 7946 section 3.2: a Feature without a place.
        let nowhere =
            value.get("type").is_some_and(|t| t == "Feature") && value.get("geometry").is_some_and(Value::is_null);
        if geometry.is_none() && !nowhere && entity.text("encodingType").contains("geo+json") {
            let detail = "it is not a GeoJSON geometry or Feature (RFC 7946), which the encodingType promises";
            return Err(Error::field(format!("{pointer}/{name}"), detail));
        }
        // Whatever reads as a place is indexed, because that is also what a spatial function sees.
        let bounds = geometry.as_ref().and_then(geometry::bounds);
        let real = |pick: fn(&super::cells::Bounds) -> f64| {
            bounds.as_ref().map_or(Param::Null(ColumnKind::Real), |b| Param::Real(pick(b)))
        };
        self.set("cell", bounds.as_ref().map_or(Param::Null(ColumnKind::Integer), |b| Param::Integer(cell(b))));
        self.set("min_x", real(|b| b.min_x));
        self.set("min_y", real(|b| b.min_y));
        self.set("max_x", real(|b| b.max_x));
        self.set("max_y", real(|b| b.max_y));
        Ok(())
    }
}
