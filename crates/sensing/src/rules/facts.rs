//! What rules select by, found in the catalogue's tables: each rule asks by its own fields, over their indexes, so that reading costs what the
//! rules watch and not what the city has.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use kernel::{Tenant, Text};
use records::{Param, Read, Row, ToParam, params};
use serde_json::Value;

use super::model::{Facts, Rule, Selection};
use crate::model::EntityId;

const COLUMNS: &str = "d.id, d.tenant, d.public, d.key, d.unit, d.thing_id, t.key, t.name, t.properties, p.key,
     t.x, t.y, t.simulated, d.properties";
const DATASTREAM: &str = "sensing_datastream d";
const THING: &str = "sensing_thing t";
const PROPERTY: &str = "sensing_observed_property p";

/// The three tables in the order in which SQLite is to go through them: it keeps to that of a CROSS JOIN. By itself it has no idea how many
/// Datastreams a tenant has and begins with all of them. PostgreSQL knows, and reads the same words as any other join.
fn facts_of(order: [&str; 3]) -> String {
    let from = order.join(" CROSS JOIN ");
    format!("SELECT {COLUMNS} FROM {from} WHERE t.id = d.thing_id AND p.id = d.observed_property_id")
}

/// The Datastreams that any of `rules` selects, by id, and the greatest id that exists.
///
/// # Errors
/// Those of `records`.
pub fn load(read: &mut Read<'_>, rules: &[Arc<Rule>]) -> Result<(Vec<Arc<Facts>>, i64), records::Error> {
    let mut found: BTreeMap<i64, Arc<Facts>> = BTreeMap::new();
    let mut asked: Vec<(&Tenant, &Selection)> = Vec::new();
    for rule in rules.iter().filter(|r| r.enabled) {
        // Several rules often watch the same Datastreams, each with a level of its own.
        if !asked.contains(&(&rule.tenant, &rule.select)) {
            asked.push((&rule.tenant, &rule.select));
            selected(read, rule, &mut found)?;
        }
    }
    for rule in rules.iter().filter(|r| r.enabled && !r.inputs().is_empty()) {
        neighbours(read, rule, &mut found)?;
    }
    let newest =
        read.query_one("SELECT MAX(id) FROM sensing_datastream", params![], |row| row.get::<Option<i64>>(0))?;
    Ok((found.into_values().collect(), newest.unwrap_or(0)))
}

/// The Datastreams with ids from `after` (exclusive) to `through` that any of `rules` selects or looks at from
/// beside.
///
/// # Errors
/// Those of `records`.
pub fn between(
    read: &mut Read<'_>,
    rules: &[Arc<Rule>],
    after: i64,
    through: i64,
) -> Result<Vec<Arc<Facts>>, records::Error> {
    let mut found = Vec::new();
    let facts_in_order = facts_of([DATASTREAM, THING, PROPERTY]);
    let sql = format!("{facts_in_order} AND d.id > $1 AND d.id <= $2 ORDER BY d.id");
    read.for_each(&sql, params![after, through], |row| {
        let (facts, corrected) = (facts(row)?, corrected(row)?);
        if rules.iter().any(|r| r.selects(&facts) || r.reads(&facts).is_some()) {
            found.push((Arc::new(facts), corrected));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut kept = Vec::new();
    for (facts, corrected) in found {
        let corrected = beside(read, &facts, corrected)?;
        if rules.iter().any(|r| (r.selects(&facts) && !passes_over(r, corrected)) || r.reads(&facts).is_some()) {
            kept.push(facts);
        }
    }
    Ok(kept)
}

/// Adds what one rule selects.
fn selected(read: &mut Read<'_>, rule: &Rule, found: &mut BTreeMap<i64, Arc<Facts>>) -> Result<(), records::Error> {
    let Selection { system, observed_property, thing, datastream, district, within } = &rule.select;
    let mut values: Vec<Param<'_>> = vec![rule.tenant.to_param()];
    // By the field that leaves fewest, of those that were given.
    let order = match (datastream, thing, observed_property) {
        (Some(_), ..) => [DATASTREAM, THING, PROPERTY],
        (None, None, Some(_)) => [PROPERTY, DATASTREAM, THING],
        _ => [THING, DATASTREAM, PROPERTY],
    };
    // A Datastream belongs to whom its Thing belongs to.
    let mut sql = format!("{} AND d.tenant = $1 AND t.tenant = $1 AND t.public IN (0, 1)", facts_of(order));
    let columns = [
        ("t.system", system),
        ("p.key", observed_property),
        ("t.key", thing),
        ("d.key", datastream),
        ("t.district", district),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            values.push(value.to_param());
            sql.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    // A fence that is gone holds nothing.
    let bounds = rule.within().and_then(|zone| zone.bounds());
    if within.is_some() && bounds.is_none() {
        return Ok(());
    }
    if let Some(b) = &bounds {
        let first = values.len();
        values.extend([&b.min_x, &b.max_x, &b.min_y, &b.max_y].map(ToParam::to_param));
        let [w, e, s, n] = [1, 2, 3, 4].map(|nth| first + nth);
        sql.push_str(&format!(" AND t.x BETWEEN ${w} AND ${e} AND t.y BETWEEN ${s} AND ${n}"));
    }
    let mut doubtful = Vec::new();
    read.for_each(&sql, &values, |row| {
        let (facts, corrected) = (facts(row)?, corrected(row)?);
        // SQL narrows, the rule decides.
        if rule.selects(&facts) {
            if passes_over(rule, corrected.is_some()) {
                doubtful.push((facts, corrected));
            } else {
                found.entry(facts.datastream.0).or_insert_with(|| Arc::new(facts));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (facts, corrected) in doubtful {
        if !beside(read, &facts, corrected)? {
            found.entry(facts.datastream.0).or_insert_with(|| Arc::new(facts));
        }
    }
    Ok(())
}

/// Things of one statement.
const THINGS: usize = 200;

/// Adds what the expression of one rule looks at beside what it selects: other Datastreams of the same Things.
fn neighbours(read: &mut Read<'_>, rule: &Rule, found: &mut BTreeMap<i64, Arc<Facts>>) -> Result<(), records::Error> {
    let things: BTreeSet<i64> = found.values().filter(|f| rule.selects(f)).map(|f| f.thing.0).collect();
    let things: Vec<i64> = things.into_iter().collect();
    for things in things.chunks(THINGS) {
        let marks: Vec<String> = (2..things.len() + 2).map(|n| format!("${n}")).collect();
        let facts_in_order = facts_of([THING, DATASTREAM, PROPERTY]);
        let sql = format!("{facts_in_order} AND d.tenant = $1 AND t.id IN ({})", marks.join(", "));
        let mut values: Vec<Param<'_>> = vec![rule.tenant.to_param()];
        values.extend(things.iter().map(ToParam::to_param));
        read.for_each(&sql, &values, |row| {
            let facts = facts(row)?;
            if rule.reads(&facts).is_some() {
                found.entry(facts.datastream.0).or_insert_with(|| Arc::new(facts));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}

/// The corrected Datastream that is said to stand beside this one (`crate::derived::correct`).
fn corrected(row: &Row<'_>) -> Result<Option<i64>, records::Error> {
    let properties: Option<String> = row.get(13)?;
    let named = |p: String| serde_json::from_str::<Value>(&p).ok()?.get("corrected_by")?.as_i64();
    Ok(properties.and_then(named))
}

/// Whether it does: properties outlive the Datastream that they name, and a gauge that nobody watches for that would be worse than one watched as
/// it measures.
fn beside(read: &mut Read<'_>, raw: &Facts, corrected: Option<i64>) -> Result<bool, records::Error> {
    let Some(id) = corrected.filter(|id| *id != raw.datastream.0) else { return Ok(false) };
    let sql = "SELECT COUNT(*) FROM sensing_datastream WHERE id = $1 AND thing_id = $2";
    Ok(read.query_one(sql, params![id, raw.thing.0], |row| row.get::<i64>(0))? > 0)
}

/// A rule that selects both looks at the corrected one; one that names the raw one by its key means it.
fn passes_over(rule: &Rule, corrected: bool) -> bool {
    corrected && rule.select.datastream.is_none()
}

fn facts(row: &Row<'_>) -> Result<Facts, records::Error> {
    let unit: Option<Value> = row.get::<Option<String>>(4)?.and_then(|u| serde_json::from_str(&u).ok());
    let properties: Value =
        row.get::<Option<String>>(8)?.and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
    let declared: Value =
        row.get::<Option<String>>(13)?.and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
    let simulated: bool = row.get(12)?;
    let position = row.get::<Option<f64>>(10)?.zip(row.get::<Option<f64>>(11)?);
    let text = |name: &str| properties.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Facts {
        datastream: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        public: row.get(2)?,
        datastream_key: row.get(3)?,
        unit: unit.as_ref().and_then(|u| u.get("symbol")).and_then(Value::as_str).map(str::to_owned),
        thing: EntityId(row.get(5)?),
        thing_key: row.get(6)?,
        thing_name: Text { en: row.get(7)?, zh_hant: text("name_zh_hant"), zh_hans: text("name_zh_hans") },
        system: text("system"),
        district: text("district"),
        observed_property: row.get(9)?,
        position: position.map(|(x, y)| [x, y]),
        simulated: simulated || declared.get("simulated") == Some(&Value::Bool(true)),
    })
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
