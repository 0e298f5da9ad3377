//! What officers look at: the actuators of their departments, who has each, and what it is in.

use std::collections::BTreeMap;

use kernel::{Caller, Tenant, Text};
use records::{Param, Read, Row, ToParam};
use serde_json::{Map, Value};

use super::{
    Tasking, Terms,
    model::Status,
    swe::Record,
    terms::{ReadBack, Reference},
};
use crate::{
    Error,
    model::{EntityId, EntityType},
    route::action,
};

/// Lines of one page.
pub const LINES: usize = 100;

/// One TaskingCapability with the Thing that it moves and whoever has its Actuator.
#[derive(Clone, Debug)]
pub struct Line {
    pub capability: EntityId,
    pub tenant: Tenant,
    pub public: bool,
    pub name: Text,
    pub description: Text,
    /// `taskingParameters`.
    pub declared: Value,
    pub properties: Map<String, Value>,
    pub actuator: EntityId,
    pub thing: EntityId,
    pub thing_name: Text,
    pub system: String,
    pub district: String,
    pub simulated: bool,
    /// The Task that has the lease.
    pub holder: Option<(EntityId, Status)>,
    /// The Datastream by which its Tasks are read back, where its terms name one that is there.
    pub watched: Option<EntityId>,
}

impl Line {
    /// Its parameters. What is stored was checked, so nothing is lost by an empty record.
    pub fn record(&self) -> Record {
        Record::parse("", &self.declared).unwrap_or(Record { parameters: Vec::new() })
    }
    pub fn terms(&self) -> Terms {
        Terms::parse("", &self.properties, &self.record()).unwrap_or_default()
    }
    fn read_back(&self) -> Option<ReadBack> {
        self.terms().verify
    }
}

/// What is asked for. Empty words narrow nothing.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub tenant: Option<Tenant>,
    pub system: String,
    pub district: String,
    pub after: Option<EntityId>,
}

/// Which lines a question is about.
enum Of {
    Department(Vec<Tenant>, Asked),
    These(Vec<EntityId>),
}

fn marks(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

fn in_languages(name: &str, properties: &Map<String, Value>, key: &str) -> Text {
    let other =
        |language: &str| properties.get(&format!("{key}_{language}")).and_then(Value::as_str).map(str::to_owned);
    Text { en: name.to_owned(), zh_hant: other("zh_hant"), zh_hans: other("zh_hans") }
}

fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn line(row: &Row<'_>) -> Result<Line, records::Error> {
    let (name, description): (String, String) = (row.get(3)?, row.get(4)?);
    let properties = object(row.get(5)?);
    let thing_name: String = row.get(9)?;
    let thing_properties = object(row.get(10)?);
    let holder: Option<i64> = row.get(14)?;
    let status: Option<String> = row.get(15)?;
    Ok(Line {
        capability: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        public: row.get(2)?,
        name: in_languages(&name, &properties, "name"),
        description: in_languages(&description, &properties, "description"),
        declared: row.get(6)?,
        actuator: EntityId(row.get(7)?),
        thing: EntityId(row.get(8)?),
        thing_name: in_languages(&thing_name, &thing_properties, "name"),
        system: row.get(11)?,
        district: row.get(12)?,
        simulated: row.get(13)?,
        holder: holder.map(EntityId).zip(status.as_deref().and_then(Status::from_name)),
        watched: None,
        properties,
    })
}

fn lines(read: &mut Read<'_>, of: &Of) -> Result<Vec<Line>, records::Error> {
    let (mut values, narrowed): (Vec<Param<'_>>, String) = match of {
        Of::Department(tenants, asked) => {
            let values = vec![
                Param::Integer(asked.after.map_or(0, |id| id.0)),
                Param::Text(asked.system.as_str().into()),
                Param::Text(asked.district.as_str().into()),
            ];
            let marks = marks(4, tenants.len());
            let narrowed = format!(
                "c.id > $1 AND ($2 = '' OR t.system = $2) AND ($3 = '' OR t.district = $3) AND c.tenant IN ({marks})"
            );
            (values, narrowed)
        }
        Of::These(ids) => (Vec::new(), format!("c.id IN ({})", marks(1, ids.len()))),
    };
    match of {
        Of::Department(tenants, _) => values.extend(tenants.iter().map(ToParam::to_param)),
        Of::These(ids) => values.extend(ids.iter().map(|id| Param::Integer(id.0))),
    }
    let sql = format!(
        "SELECT c.id, c.tenant, c.public, c.name, c.description, c.properties, c.tasking_parameters, c.actuator_id, t.id, t.name,
             t.properties, t.system, t.district, t.simulated, l.task_id, r.status
         FROM sensing_tasking_capability c JOIN sensing_thing t ON t.id = c.thing_id
         LEFT JOIN sensing_task_lease l ON l.actuator_id = c.actuator_id
         LEFT JOIN sensing_task_run r ON r.task_id = l.task_id
         WHERE {narrowed} ORDER BY c.id LIMIT {}",
        LINES + 1
    );
    let mut found = read.query(&sql, &values, line)?;
    watch(read, &mut found)?;
    Ok(found)
}

/// Finds the Datastreams of the read-backs: one question for each department, whatever the number of lines.
fn watch(read: &mut Read<'_>, lines: &mut [Line]) -> Result<(), records::Error> {
    let mut keys: BTreeMap<Tenant, Vec<(String, usize)>> = BTreeMap::new();
    for (at, line) in lines.iter_mut().enumerate() {
        match line.read_back().map(|verify| verify.datastream) {
            Some(Reference::Id(id)) => line.watched = Some(id),
            Some(Reference::Key(key)) => keys.entry(line.tenant.clone()).or_default().push((key, at)),
            None => {}
        }
    }
    for (tenant, wanted) in keys {
        let sql =
            format!("SELECT key, id FROM sensing_datastream WHERE tenant = $1 AND key IN ({})", marks(2, wanted.len()));
        let mut values = vec![tenant.to_param()];
        values.extend(wanted.iter().map(|(key, _)| Param::Text(key.as_str().into())));
        let ids: Vec<(String, i64)> = read.query(&sql, &values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ids: BTreeMap<String, i64> = ids.into_iter().collect();
        for (key, at) in wanted {
            if let (Some(id), Some(line)) = (ids.get(&key), lines.get_mut(at)) {
                line.watched = Some(EntityId(*id));
            }
        }
    }
    Ok(())
}

impl Tasking {
    /// Departments whose Tasks the caller may read, the own one first.
    pub fn departments(&self, caller: &Caller) -> Vec<Tenant> {
        let mut all = self.0.catalog.scopes().tenants();
        all.extend(caller.tenant.clone());
        all.sort();
        all.dedup();
        all.retain(|tenant| self.allows(caller, action::TASK_READ, tenant));
        all.sort_by_key(|tenant| Some(tenant) != caller.tenant.as_ref());
        all
    }

    /// Actuators that the caller may look after, and the id to go on after.
    ///
    /// # Errors
    /// 404 for whoever may read no Tasks at all, or none of the department that is asked for.
    pub async fn desk(&self, caller: &Caller, asked: Asked) -> Result<(Vec<Line>, Option<EntityId>), Error> {
        let mut tenants = self.departments(caller);
        if let Some(tenant) = &asked.tenant {
            tenants.retain(|t| t == tenant);
        }
        if tenants.is_empty() {
            return Err(Error::not_found("The list"));
        }
        let of = Of::Department(tenants, asked);
        let mut found: Vec<Line> = self.0.catalog.records().read(move |read| lines(read, &of)).await?;
        let more = found.len() > LINES;
        found.truncate(LINES);
        let next = if more { found.last().map(|line| line.capability) } else { None };
        Ok((found, next))
    }

    /// One of them, for whoever may read its Tasks.
    ///
    /// # Errors
    /// 404 when there is none, or the caller may not see it.
    pub async fn line(&self, caller: &Caller, capability: EntityId) -> Result<Line, Error> {
        let found = self.lines(caller, &[capability]).await?.remove(&capability);
        found.ok_or_else(|| Error::not_found(format!("TaskingCapabilities({capability})")))
    }

    /// Those of these that the caller may see.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn lines(&self, caller: &Caller, ids: &[EntityId]) -> Result<BTreeMap<EntityId, Line>, Error> {
        let mut ids: Vec<EntityId> = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(LINES);
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let of = Of::These(ids);
        let found: Vec<Line> = self.0.catalog.records().read(move |read| lines(read, &of)).await?;
        let seen =
            found.into_iter().filter(|line| self.may(caller, action::TASK_READ, Some(&line.tenant), line.public));
        Ok(seen.map(|line| (line.capability, line)).collect())
    }

    /// The TaskingCapabilities of a Thing that the caller may look after.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn of_thing(&self, caller: &Caller, thing: EntityId) -> Result<Vec<(EntityId, Text)>, Error> {
        let read = self.0.catalog.records().read(move |read| {
            let sql = format!(
                "SELECT id, tenant, public, name, properties FROM sensing_tasking_capability WHERE thing_id = $1 ORDER BY id LIMIT {LINES}"
            );
            read.query(&sql, records::params![thing.0], |row| {
                let (id, name): (i64, String) = (row.get(0)?, row.get(3)?);
                let owner: (Tenant, bool) = (row.get(1)?, row.get(2)?);
                Ok((EntityId(id), owner, in_languages(&name, &object(row.get(4)?), "name")))
            })
        });
        let found: Vec<(EntityId, (Tenant, bool), Text)> = read.await.map_err(|e: records::Error| e)?;
        let seen = found
            .into_iter()
            .filter(|(_, (tenant, public), _)| self.may(caller, action::TASK_READ, Some(tenant), *public));
        Ok(seen.map(|(id, _, name)| (id, name)).collect())
    }

    /// What a person who is asked to act must be allowed to, of a Task or a TaskingCapability of this owner.
    pub fn permits(&self, caller: &Caller, action: kernel::Action, owner: (&Tenant, bool)) -> bool {
        self.may(caller, action, Some(owner.0), owner.1)
    }

    /// Whether the caller may throw the city's kill switch.
    pub fn may_stop_city(&self, caller: &Caller) -> bool {
        self.may(caller, action::TASK_STOP, None, false)
    }

    /// The name of an Actuator whose Tasks the caller may read.
    ///
    /// # Errors
    /// 404 when there is none, or the caller may not see it.
    pub async fn actuator(&self, caller: &Caller, id: EntityId) -> Result<(Tenant, String), Error> {
        let found: Option<(Tenant, String)> =
            self.0.catalog.records().read(move |read| super::store::actuator(read, id)).await?;
        let found = found.filter(|(tenant, _)| self.allows(caller, action::TASK_READ, tenant));
        found.ok_or_else(|| Error::not_found(format!("{}({id})", EntityType::Actuator.set())))
    }
}
