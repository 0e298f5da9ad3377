//! What rules select by, read from the catalogue's tables in pages, so that a city of a million Datastreams is not one answer.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use kernel::{Tenant, Text};
use records::{Read, Row, params};
use serde_json::Value;

use super::model::{Facts, Rule};
use crate::model::EntityId;

const PAGE: i64 = 10_000;

/// The Datastreams that any of `rules` selects, and the greatest id that exists.
///
/// # Errors
/// Those of `records`.
pub fn load(read: &mut Read<'_>, rules: &[Arc<Rule>]) -> Result<(Vec<Arc<Facts>>, i64), records::Error> {
    let tenants: BTreeSet<&Tenant> = rules.iter().filter(|r| r.enabled).map(|r| &r.tenant).collect();
    let mut found = Vec::new();
    let mut after = 0i64;
    loop {
        let (from, mut rows) = (after, 0);
        read.for_each(
            "SELECT d.id, d.tenant, d.public, d.key, d.unit, d.thing_id, t.key, t.name, t.properties, p.key
             FROM sensing_datastream d
             JOIN sensing_thing t ON t.id = d.thing_id
             JOIN sensing_observed_property p ON p.id = d.observed_property_id
             WHERE d.id > $1 ORDER BY d.id LIMIT $2",
            params![from, PAGE],
            |row| {
                rows += 1;
                after = row.get(0)?;
                // Most Datastreams belong to nobody with rules; their JSON is not worth reading.
                if tenants.contains(&row.get::<Tenant>(1)?) {
                    let facts = facts(row)?;
                    if rules.iter().any(|r| r.selects(&facts)) {
                        found.push(Arc::new(facts));
                    }
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if rows < PAGE {
            return Ok((found, after));
        }
    }
}

fn facts(row: &Row<'_>) -> Result<Facts, records::Error> {
    let unit: Option<Value> = row.get::<Option<String>>(4)?.and_then(|u| serde_json::from_str(&u).ok());
    let properties: Value =
        row.get::<Option<String>>(8)?.and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
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
    })
}
