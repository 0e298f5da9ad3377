//! Which Datastreams a tile is about: one question over the indexes that rules use too, narrowed to what its reader may read.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use kernel::{Tenant, Text};
use records::{Param, Read};
use serde_json::{Map, Value};

use super::model::Tile;
use crate::{Scope, model::EntityId, rules::model::Selection};

/// Datastreams of one tile; it says when there are more.
pub const STREAMS: usize = 2_000;

/// A Datastream with what a tile says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub id: EntityId,
    pub tenant: Tenant,
    pub thing: EntityId,
    pub thing_name: Text,
    /// The natural key of the ObservedProperty, and what it is called.
    pub property: String,
    pub property_name: Text,
    pub unit: String,
    /// Seconds between two Observations, as declared.
    pub interval: Option<i64>,
    pub simulated: bool,
    pub position: Option<[f64; 2]>,
    /// Numbers of the Thing's `properties` that columns compare with.
    pub of: BTreeMap<String, f64>,
    corrected: Option<i64>,
}

const DATASTREAM: &str = "sensing_datastream d";
const THING: &str = "sensing_thing t";
const PROPERTY: &str = "sensing_observed_property p";

/// The Datastreams of a tile, by Thing and property, and whether there are more than [`STREAMS`]. `known` are all tenants that own anything: the
/// indexes begin with the tenant.
///
/// # Errors
/// Those of `records`.
pub fn chosen(
    read: &mut Read<'_>,
    scope: &Scope,
    known: &[Tenant],
    tile: &Tile,
) -> Result<(Vec<Chosen>, bool), records::Error> {
    let Selection { system, observed_property, thing, datastream, district, within: _ } = &tile.select;
    let tenants: Vec<&Tenant> = known.iter().filter(|t| tile.tenant.as_ref().is_none_or(|own| own == *t)).collect();
    if tenants.is_empty() {
        return Ok((Vec::new(), false));
    }
    let mut values: Vec<Param<'_>> = Vec::new();
    let mut list = |all: &mut dyn Iterator<Item = Param<'static>>| {
        let marks: Vec<String> = all
            .map(|value| {
                values.push(value);
                format!("${}", values.len())
            })
            .collect();
        marks.join(", ")
    };
    let text = |t: &str| Param::Text(t.to_owned().into());
    let owners = list(&mut tenants.iter().map(|t| text(t.as_str())));
    // A list or table is about its columns' properties; everything else about one or any.
    let properties: BTreeSet<&str> = match observed_property {
        Some(one) => BTreeSet::from([one.as_str()]),
        None => tile.columns.iter().map(|c| c.observed_property.as_str()).collect(),
    };
    // By the field that leaves fewest, in an order that SQLite keeps to: see `rules/facts.rs`.
    let by_property = datastream.is_none() && thing.is_none() && (observed_property.is_some() || system.is_none());
    let order = match (datastream, thing) {
        (Some(_), _) => [DATASTREAM, THING, PROPERTY],
        _ if by_property => [PROPERTY, DATASTREAM, THING],
        _ => [THING, DATASTREAM, PROPERTY],
    };
    let mut sql = format!(
        "SELECT d.id, d.tenant, d.public, d.name, d.unit, d.properties, t.id, t.tenant, t.public, t.name, t.properties,
             t.simulated, t.x, t.y, p.key, p.name, p.properties, p.tenant, p.public
         FROM {} WHERE t.id = d.thing_id AND p.id = d.observed_property_id
             AND t.tenant IN ({owners}) AND t.public IN (0, 1)",
        order.join(" CROSS JOIN ")
    );
    if datastream.is_some() {
        sql.push_str(&format!(" AND d.tenant IN ({owners})"));
    }
    // What may not be read must not take the place of what may.
    if let Scope::Tenants(own) = scope {
        let own = list(&mut own.iter().map(|t| text(t.as_str())));
        let seen = |table: &str| match own.as_str() {
            "" => format!(" AND {table}.public = 1"),
            own => format!(" AND ({table}.public = 1 OR {table}.tenant IN ({own}))"),
        };
        sql.push_str(&seen("t"));
        sql.push_str(&seen("d"));
    }
    for (column, value) in [("t.system", system), ("t.key", thing), ("d.key", datastream), ("t.district", district)] {
        if let Some(value) = value {
            let mark = list(&mut std::iter::once(text(value)));
            sql.push_str(&format!(" AND {column} = {mark}"));
        }
    }
    if !properties.is_empty() {
        let marks = list(&mut properties.iter().map(|p| text(p)));
        // The index over ObservedProperties begins with the tenant too; sealed departments have their own of each.
        let all = list(&mut known.iter().map(|t| text(t.as_str())));
        sql.push_str(&format!(" AND p.tenant IN ({all}) AND p.key IN ({marks})"));
    }
    sql.push_str(&format!(" LIMIT {}", STREAMS + 1));
    let wanted: BTreeSet<&str> = tile.columns.iter().filter_map(|c| c.of.as_deref()).collect();
    let (mut found, mut more) = (Vec::new(), false);
    read.for_each(&sql, &values, |row| {
        // SQL narrows, Rust decides.
        let seen = |tenant: usize, public: usize| {
            Ok::<_, records::Error>(scope.admits(&row.get::<Tenant>(tenant)?, row.get(public)?))
        };
        if !seen(1, 2)? || !seen(7, 8)? {
            return Ok(ControlFlow::Continue(()));
        }
        if found.len() == STREAMS {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        let (unit, own) = (object(row.get(4)?), object(row.get(5)?));
        let thing = object(row.get(10)?);
        // The name of a property that may not be read is that of the Datastream, which may.
        let property_name =
            if seen(17, 18)? { named(row.get(15)?, &object(row.get(16)?)) } else { named(row.get(3)?, &own) };
        let number = |name: &&str| Some(((*name).to_owned(), number_of(thing.get(*name)?)?));
        found.push(Chosen {
            id: EntityId(row.get(0)?),
            tenant: row.get(1)?,
            thing: EntityId(row.get(6)?),
            thing_name: named(row.get(9)?, &thing),
            property: row.get::<Option<String>>(14)?.unwrap_or_default(),
            property_name,
            unit: unit.get("symbol").and_then(Value::as_str).unwrap_or_default().to_owned(),
            interval: own.get("interval").and_then(Value::as_i64).filter(|s| *s > 0),
            simulated: row.get(11)? || own.get("simulated") == Some(&Value::Bool(true)),
            position: row.get::<Option<f64>>(12)?.zip(row.get::<Option<f64>>(13)?).map(|(x, y)| [x, y]),
            of: wanted.iter().filter_map(number).collect(),
            corrected: own.get("corrected_by").and_then(Value::as_i64),
        });
        Ok(ControlFlow::Continue(()))
    })?;
    // Where a corrected series stands beside a raw one, it is the one that is meant (`derived/correct.rs`); unless the raw one is named.
    if datastream.is_none() {
        let ids: BTreeSet<i64> = found.iter().map(|c| c.id.0).collect();
        found.retain(|c| c.corrected.is_none_or(|by| by == c.id.0 || !ids.contains(&by)));
    }
    found.sort_by(|a, b| {
        (&a.thing_name.en, a.thing, &a.property, a.id).cmp(&(&b.thing_name.en, b.thing, &b.property, b.id))
    });
    Ok((found, more))
}

fn object(json: Option<String>) -> Map<String, Value> {
    json.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn named(name: String, properties: &Map<String, Value>) -> Text {
    let other = |key: &str| properties.get(key).and_then(Value::as_str).map(str::to_owned);
    Text { en: name, zh_hant: other("name_zh_hant"), zh_hans: other("name_zh_hans") }
}

/// A number, also where a sheet has made a text of it.
fn number_of(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|n| n.is_finite())
}
