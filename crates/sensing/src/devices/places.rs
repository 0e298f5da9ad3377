//! Where devices stand: the Things of a department with their Datastreams, read for one page and bounded.

use std::collections::HashMap;

use kernel::{Id, Tenant, Text};
use records::{Param, Read, Row, ToParam, params};
use serde_json::{Map, Value};

use super::{Device, SURVEY, live::Vital, store::marks};
use crate::model::{EntityId, EntityType, ObservationType};

/// Things looked through for a word that no index knows.
const LOOKED: i64 = 20_000;
/// Datastreams and MultiDatastreams of the Things of one page.
const STREAMS: i64 = 500;

/// A Thing that a device may write to.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub id: EntityId,
    pub name: Text,
    pub streams: Vec<Stream>,
}

/// One of its Datastreams or MultiDatastreams.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    pub id: EntityId,
    pub name: Text,
    pub unit: String,
    pub observation_type: Option<ObservationType>,
    /// The types of a result's elements; of a MultiDatastream alone.
    pub elements: Option<Vec<ObservationType>>,
    pub interval: Option<i64>,
}

impl Stream {
    pub fn entity(&self) -> EntityType {
        if self.elements.is_some() { EntityType::MultiDatastream } else { EntityType::Datastream }
    }
}

fn object(json: Option<String>) -> Map<String, Value> {
    json.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn name(name: String, properties: &Map<String, Value>) -> Text {
    let other = |key: &str| properties.get(key).and_then(Value::as_str).map(str::to_owned);
    Text { en: name, zh_hant: other("name_zh_hant"), zh_hans: other("name_zh_hans") }
}

fn interval(properties: &Map<String, Value>) -> Option<i64> {
    properties.get("interval").and_then(Value::as_i64).filter(|seconds| *seconds > 0)
}

/// Those of `things` that the tenant owns, in their order, with their Datastreams.
pub fn places(read: &mut Read<'_>, tenant: &Tenant, things: &[EntityId]) -> Result<Vec<Place>, records::Error> {
    if things.is_empty() {
        return Ok(Vec::new());
    }
    let mut values: Vec<Param<'_>> = vec![tenant.to_param()];
    values.extend(things.iter().map(|t| Param::Integer(t.0)));
    let within = marks(2, things.len());
    let sql =
        format!("SELECT id, name, properties FROM sensing_thing WHERE tenant = $1 AND id IN ({within}) ORDER BY id");
    let mut found = read.query(&sql, &values, |row| {
        let (id, properties) = (EntityId(row.get(0)?), object(row.get(2)?));
        Ok(Place { id, name: name(row.get(1)?, &properties), streams: Vec::new() })
    })?;
    let at: HashMap<i64, usize> = found.iter().enumerate().map(|(at, p)| (p.id.0, at)).collect();
    values.push(Param::Integer(STREAMS));
    let sql = format!(
        "SELECT thing_id, id, name, observation_type, properties, unit, NULL FROM sensing_datastream
         WHERE tenant = $1 AND thing_id IN ({within})
         UNION ALL SELECT thing_id, id, name, observation_type, properties, NULL, data_types FROM sensing_multi_datastream
         WHERE tenant = $1 AND thing_id IN ({within}) ORDER BY 1, 2 LIMIT ${}",
        values.len()
    );
    for (thing, stream) in read.query(&sql, &values, |row| Ok((row.get::<i64>(0)?, stream(row)?)))? {
        if let Some(at) = at.get(&thing) {
            found[*at].streams.push(stream);
        }
    }
    Ok(found)
}

fn stream(row: &Row<'_>) -> Result<Stream, records::Error> {
    let (unit, properties) = (object(row.get(5)?), object(row.get(4)?));
    let codes: Option<Vec<String>> = row.get::<Option<String>>(6)?.and_then(|codes| serde_json::from_str(&codes).ok());
    let kind = |code: &String| ObservationType::from_code(code).unwrap_or(ObservationType::Any);
    Ok(Stream {
        id: EntityId(row.get(1)?),
        name: name(row.get(2)?, &properties),
        unit: unit.get("symbol").and_then(Value::as_str).unwrap_or_default().to_owned(),
        observation_type: ObservationType::from_code(&row.get::<String>(3)?),
        elements: codes.map(|codes| codes.iter().map(kind).collect()),
        interval: interval(&properties),
    })
}

/// Things by a part of their name in any language, their key or their number; without a word, those that no device writes to.
pub fn find(read: &mut Read<'_>, tenant: &Tenant, sought: &str, most: usize) -> Result<Vec<Place>, records::Error> {
    let free = if sought.is_empty() {
        "AND NOT EXISTS (SELECT 1 FROM sensing_device_thing d WHERE d.thing = t.id)"
    } else {
        ""
    };
    let sql = format!(
        "SELECT t.id, t.name, t.properties, t.key FROM sensing_thing t WHERE t.tenant = $1 {free} ORDER BY t.id LIMIT $2"
    );
    let looked = if sought.is_empty() { most as i64 } else { LOOKED };
    let mut found = Vec::new();
    read.for_each(&sql, params![tenant, looked], |row| {
        let (id, properties) = (EntityId(row.get(0)?), object(row.get(2)?));
        let place = Place { id, name: name(row.get(1)?, &properties), streams: Vec::new() };
        let key: Option<String> = row.get(3)?;
        let names = kernel::Language::ALL.map(|l| place.name.get(l).to_lowercase());
        let fits = id.0.to_string() == sought
            || names.iter().any(|n| n.contains(sought))
            || key.is_some_and(|k| k.to_lowercase().contains(sought));
        if fits {
            found.push(place);
        }
        Ok(if found.len() >= most { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// A Datastream that tells of a device, with its owner: a device may be registered for any Thing, and hears of its own department's alone.
pub type Telling = (Tenant, (EntityId, Vital));

/// Datastreams of Things that tell of their devices: `"health": "battery"` among a Datastream's properties.
pub fn vitals(read: &mut Read<'_>, things: &[EntityId]) -> Result<HashMap<EntityId, Vec<Telling>>, records::Error> {
    let mut found: HashMap<EntityId, Vec<Telling>> = HashMap::new();
    for chunk in things.chunks(super::store::NAMED) {
        let values: Vec<Param<'_>> = chunk.iter().map(|t| Param::Integer(t.0)).collect();
        let within = marks(1, chunk.len());
        let sql =
            format!("SELECT thing_id, id, properties, tenant FROM sensing_datastream WHERE thing_id IN ({within})");
        read.for_each(&sql, &values, |row| {
            let properties: Option<String> = row.get(2)?;
            // Most say nothing of the kind, and their properties need not be read for it.
            if let Some(text) = properties.filter(|text| text.contains("\"health\""))
                && let Some(vital) = object(Some(text)).get("health").and_then(Vital::of)
            {
                found.entry(EntityId(row.get(0)?)).or_default().push((row.get(3)?, (EntityId(row.get(1)?), vital)));
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

/// The same for a few devices.
pub fn intervals_of(read: &mut Read<'_>, devices: &[Id<Device>]) -> Result<HashMap<Id<Device>, i64>, records::Error> {
    let mut shortest: HashMap<Id<Device>, i64> = HashMap::new();
    if devices.is_empty() {
        return Ok(shortest);
    }
    let values: Vec<Param<'_>> = devices.iter().map(ToParam::to_param).collect();
    let within = marks(1, devices.len());
    let of = |table: &str| {
        format!(
            "SELECT t.device, s.properties FROM sensing_device_thing t JOIN sensing_device d ON d.id = t.device
             JOIN {table} s ON s.thing_id = t.thing AND s.tenant = d.tenant WHERE t.device IN ({within})"
        )
    };
    let sql = format!("{} UNION ALL {}", of("sensing_datastream"), of("sensing_multi_datastream"));
    read.for_each(&sql, &values, |row| {
        if let Some(seconds) = interval(&object(row.get(1)?)) {
            let entry = shortest.entry(row.get(0)?).or_insert(seconds);
            *entry = seconds.min(*entry);
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(shortest)
}

/// The shortest interval of the Datastreams and MultiDatastreams of each device.
pub fn intervals(read: &mut Read<'_>, tenant: &Tenant) -> Result<HashMap<Id<Device>, i64>, records::Error> {
    let sql = "SELECT t.device, s.properties FROM sensing_device d
               JOIN sensing_device_thing t ON t.device = d.id JOIN sensing_datastream s ON s.thing_id = t.thing AND s.tenant = d.tenant
               WHERE d.tenant = $1
               UNION ALL SELECT t.device, s.properties FROM sensing_device d
               JOIN sensing_device_thing t ON t.device = d.id JOIN sensing_multi_datastream s ON s.thing_id = t.thing AND s.tenant = d.tenant
               WHERE d.tenant = $1 LIMIT $2";
    let mut shortest: HashMap<Id<Device>, i64> = HashMap::new();
    read.for_each(sql, params![tenant, SURVEY as i64 * 10], |row| {
        if let Some(seconds) = interval(&object(row.get(1)?)) {
            let entry = shortest.entry(row.get(0)?).or_insert(seconds);
            *entry = seconds.min(*entry);
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(shortest)
}
