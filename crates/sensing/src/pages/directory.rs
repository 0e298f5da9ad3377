//! What stands where: a small read model of all things, for maps and lists.
//!
//! It is read whole from `records` when somebody looks and the last reading is older than a few seconds, so a map of a thousand things is
//! two queries and not two thousand. Larger cities see the first [`MOST`] things of it here and all of them through the API.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kernel::{Tenant, Text};
use records::params;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::name_of;
use crate::{Catalog, Error, Scope, model::EntityId};

/// Things that the read model holds.
const MOST: i64 = 50_000;
/// How old it may be.
const FRESH: Duration = Duration::from_secs(5);

/// What belongs together on the map, as the pack declares it.
#[derive(Clone, Debug)]
pub struct System {
    pub key: String,
    pub name: Text,
}

#[derive(Clone, Debug)]
pub struct ThingEntry {
    pub id: EntityId,
    pub tenant: Tenant,
    pub public: bool,
    pub name: Text,
    pub system: String,
    pub district: String,
    pub simulated: bool,
    pub position: Option<[f64; 2]>,
    /// In the order they were declared: the first is what the map shows.
    pub datastreams: Vec<DatastreamEntry>,
}

#[derive(Clone, Debug)]
pub struct DatastreamEntry {
    pub id: EntityId,
    pub public: bool,
    pub name: Text,
    pub unit: String,
    pub interval: Option<i64>,
    pub simulated: bool,
}

pub struct Directory {
    catalog: Catalog,
    systems: Vec<System>,
    read: Mutex<Option<(Instant, Arc<Vec<ThingEntry>>)>>,
}

impl Directory {
    pub fn new(catalog: Catalog, systems: Vec<System>) -> Self {
        Self { catalog, systems, read: Mutex::new(None) }
    }
    pub fn systems(&self) -> &[System] {
        &self.systems
    }
    pub fn system(&self, key: &str) -> Option<&System> {
        self.systems.iter().find(|s| s.key == key)
    }

    /// The things that `scope` may see, with the Datastreams that it may see.
    pub async fn things(&self, scope: &Scope) -> Result<Vec<ThingEntry>, Error> {
        let all = self.all().await?;
        let seen = all.iter().filter(|t| scope.admits(&t.tenant, t.public));
        Ok(seen
            .map(|thing| {
                let mut thing = thing.clone();
                thing.datastreams.retain(|d| scope.admits(&thing.tenant, d.public));
                thing
            })
            .collect())
    }

    async fn all(&self) -> Result<Arc<Vec<ThingEntry>>, Error> {
        // Those who come while it is being read wait for that one reading.
        let mut read = self.read.lock().await;
        if let Some((at, things)) = read.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(things.clone());
        }
        let things = Arc::new(self.load().await?);
        *read = Some((Instant::now(), things.clone()));
        Ok(things)
    }

    async fn load(&self) -> Result<Vec<ThingEntry>, Error> {
        self.catalog
            .records()
            .read(|read| {
                let mut things: Vec<ThingEntry> = Vec::new();
                let sql = "SELECT t.id, t.tenant, t.public, t.name, t.properties, l.location FROM sensing_thing t \
                     LEFT JOIN sensing_thing_location tl ON tl.thing_id = t.id LEFT JOIN sensing_location l ON l.id = tl.location_id \
                     ORDER BY t.id LIMIT $1";
                read.query(sql, params![MOST], |row| {
                    let id = EntityId(row.get(0)?);
                    if things.last().is_some_and(|t| t.id == id) {
                        return Ok(()); // a second Location of the same Thing
                    }
                    let Ok(tenant) = Tenant::parse(&row.get::<String>(1)?) else { return Ok(()) };
                    let properties = object(row.get(4)?);
                    let name: String = row.get(3)?;
                    things.push(ThingEntry {
                        id,
                        tenant,
                        public: row.get::<i64>(2)? != 0,
                        name: name_of(&name, &properties),
                        system: text(&properties, "system"),
                        district: text(&properties, "district"),
                        simulated: properties.get("simulated") == Some(&Value::Bool(true)),
                        position: row.get::<Option<String>>(5)?.and_then(|l| point(&l)),
                        datastreams: Vec::new(),
                    });
                    Ok(())
                })?;
                let index: HashMap<i64, usize> = things.iter().enumerate().map(|(at, t)| (t.id.0, at)).collect();
                let sql = "SELECT id, thing_id, public, name, unit, properties FROM sensing_datastream ORDER BY id LIMIT $1";
                read.query(sql, params![MOST * 10], |row| {
                    let Some(&at) = index.get(&row.get::<i64>(1)?) else { return Ok(()) };
                    let properties = object(row.get(5)?);
                    let unit = object(row.get(4)?);
                    let name: String = row.get(3)?;
                    things[at].datastreams.push(DatastreamEntry {
                        id: EntityId(row.get(0)?),
                        public: row.get::<i64>(2)? != 0,
                        name: name_of(&name, &properties),
                        unit: text(&unit, "symbol"),
                        interval: properties.get("interval").and_then(Value::as_i64),
                        simulated: properties.get("simulated") == Some(&Value::Bool(true)),
                    });
                    Ok(())
                })?;
                Ok::<_, records::Error>(things)
            })
            .await
            .map_err(Error::internal)
    }
}

fn object(json: Option<String>) -> Map<String, Value> {
    json.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn text(properties: &Map<String, Value>, key: &str) -> String {
    properties.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Where to draw a Location: its point, or the first position of what it is.
fn point(geojson: &str) -> Option<[f64; 2]> {
    fn first(value: &Value) -> Option<[f64; 2]> {
        let list = value.as_array()?;
        match (list.first()?.as_f64(), list.get(1).and_then(Value::as_f64)) {
            (Some(x), Some(y)) => Some([x, y]),
            _ => first(list.first()?),
        }
    }
    let value: Value = serde_json::from_str(geojson).ok()?;
    let geometry = if value["type"] == "Feature" { &value["geometry"] } else { &value };
    first(&geometry["coordinates"])
}

#[cfg(test)]
mod tests {
    use super::point;

    #[test]
    fn every_geometry_has_a_place() {
        assert_eq!(point(r#"{"type":"Point","coordinates":[114.1,22.3]}"#), Some([114.1, 22.3]));
        assert_eq!(point(r#"{"type":"Polygon","coordinates":[[[1,2],[3,4],[1,2]]]}"#), Some([1.0, 2.0]));
        assert_eq!(point(r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[5,6]}}"#), Some([5.0, 6.0]));
        assert_eq!(point("[]"), None);
        assert_eq!(point(r#"{"type":"Point","coordinates":[]}"#), None);
    }
}
