//! What lists, maps and rules find Things by: columns beside the standard's, made from it whenever it is written. JSON is thus looked into once,
//! when it changes, and never by a search.

use std::collections::BTreeMap;

use kernel::Tenant;
use records::{ColumnKind, Param, Read, Records, Tx, params};
use serde_json::{Map, Value};

use super::{
    Entity,
    cells::{Bounds, cell},
};
use crate::model::{EntityId, EntityType};

/// Bytes of a system or district that Things can be found by; as long as a rule may write. What is longer is none.
const WORD_BYTES: usize = 200;
/// Bytes of a Thing's names that a search looks at. An index entry of PostgreSQL holds 2,700 bytes.
const SOUGHT_BYTES: usize = 800;
/// Locations of one Thing that are looked at for a place on the map.
const LOCATIONS: i64 = 16;
/// Things that one transaction catches up with.
const CHUNK: i64 = 1_000;

/// What of a Thing's name and `properties` has a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    /// `properties.system`; empty for none.
    pub system: String,
    /// `properties.district`; empty for none.
    pub district: String,
    pub simulated: bool,
    /// The names in small letters, English first, a line each: what lists are sorted and searched by.
    pub sought: String,
}

impl Listed {
    pub fn of(name: &str, properties: &Map<String, Value>) -> Self {
        let text = |key: &str| properties.get(key).and_then(Value::as_str);
        let word = |key: &str| {
            let found = text(key).filter(|w| w.len() <= WORD_BYTES && !w.contains('\0'));
            found.unwrap_or_default().to_owned()
        };
        let mut sought = String::new();
        let mut before: Option<&str> = None;
        for name in [Some(name), text("name_zh_hant"), text("name_zh_hans")].into_iter().flatten() {
            if before == Some(name) {
                continue;
            }
            if before.is_some() {
                sought.push('\n');
            }
            before = Some(name);
            sought.extend(name.chars().filter(|c| *c != '\0').flat_map(char::to_lowercase));
        }
        sought.truncate(sought.floor_char_boundary(SOUGHT_BYTES));
        Self {
            system: word("system"),
            district: word("district"),
            simulated: properties.get("simulated") == Some(&Value::Bool(true)),
            sought,
        }
    }
}

/// Things of one owner, system and district, which are counted together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Kind {
    tenant: Tenant,
    public: bool,
    system: String,
    district: String,
}

/// How the numbers of Things change within one command.
#[derive(Default)]
pub(super) struct Counts(BTreeMap<Kind, (i64, i64)>);

impl Counts {
    /// `by` more of this Thing's kind; other entities are not counted.
    pub fn add(&mut self, entity: &Entity, by: i64) {
        if entity.entity != EntityType::Thing {
            return;
        }
        let Listed { system, district, simulated, .. } = Listed::of(entity.name(), &entity.properties());
        let kind = Kind { tenant: entity.tenant.clone(), public: entity.public, system, district };
        let (things, made_up) = self.0.entry(kind).or_default();
        *things += by;
        *made_up += by * i64::from(simulated);
    }

    pub fn write(&self, tx: &mut Tx<'_>) -> Result<(), records::Error> {
        for (kind, (things, simulated)) in self.0.iter().filter(|(_, by)| **by != (0, 0)) {
            let Kind { tenant, public, system, district } = kind;
            tx.execute(
                "INSERT INTO sensing_thing_count (tenant, public, system, district, things, simulated)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (tenant, public, system, district) DO UPDATE SET
                     things = sensing_thing_count.things + excluded.things,
                     simulated = sensing_thing_count.simulated + excluded.simulated",
                params![tenant, public, system, district, things, simulated],
            )?;
            if *things < 0 {
                tx.execute(
                    "DELETE FROM sensing_thing_count
                     WHERE tenant = $1 AND public = $2 AND system = $3 AND district = $4 AND things <= 0",
                    params![tenant, public, system, district],
                )?;
            }
        }
        Ok(())
    }
}

/// A kind of Things and how many there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub tenant: Tenant,
    pub public: bool,
    pub system: String,
    pub district: String,
    pub things: u64,
    pub simulated: u64,
}

/// All kinds of Things. There are as many as owners times systems times districts, however many Things there are.
pub fn groups(read: &mut Read<'_>) -> Result<Vec<Group>, records::Error> {
    let sql = "SELECT tenant, public, system, district, things, simulated FROM sensing_thing_count
               ORDER BY tenant, public, system, district";
    read.query(sql, params![], |row| {
        Ok(Group {
            tenant: row.get(0)?,
            public: row.get(1)?,
            system: row.get(2)?,
            district: row.get(3)?,
            things: row.get(4)?,
            simulated: row.get(5)?,
        })
    })
}

/// Where to draw a Location: its point, or the first position of what it is.
pub(super) fn point(geojson: &str) -> Option<[f64; 2]> {
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

/// Writes down where the Thing stands on the map; to be called whenever its Locations, or one of them, have changed.
pub(super) fn settle(tx: &mut Tx<'_>, thing: EntityId) -> Result<(), records::Error> {
    let sql = "SELECT l.location FROM sensing_thing_location tl JOIN sensing_location l ON l.id = tl.location_id
               WHERE tl.thing_id = $1 ORDER BY l.id LIMIT $2";
    let locations = tx.query(sql, params![thing.0, LOCATIONS], |row| row.get::<String>(0))?;
    let place = locations.iter().find_map(|location| point(location));
    let real = |at: Option<f64>| at.map_or(Param::Null(ColumnKind::Real), Param::Real);
    let at = place.map(|[x, y]| cell(&Bounds { min_x: x, min_y: y, max_x: x, max_y: y }));
    let values = [
        Param::Integer(thing.0),
        at.map_or(Param::Null(ColumnKind::Integer), Param::Integer),
        real(place.map(|p| p[0])),
        real(place.map(|p| p[1])),
    ];
    tx.execute("UPDATE sensing_thing SET cell = $2, x = $3, y = $4 WHERE id = $1", &values)?;
    Ok(())
}

/// Fills the columns of Things that were written before there were such columns. Goes on where an earlier start was interrupted; costs one
/// look-up when there is nothing to do.
pub(super) fn catch_up(records: &Records) -> Result<(), records::Error> {
    let mut caught = 0usize;
    loop {
        let mut after = records.read_blocking(|read| {
            let sql = "SELECT after FROM sensing_catch_up WHERE what = 'things'";
            read.query_opt(sql, params![], |row| row.get::<i64>(0))
        })?;
        let Some(from) = after.take() else { break };
        let chunk = records.write_blocking(move |tx| catch_up_with(tx, from))?;
        caught += chunk;
        if chunk == 0 {
            break;
        }
    }
    if caught > 0 {
        tracing::info!(things = caught, "things can now be found by system, district, name and place");
    }
    Ok(())
}

/// One chunk of Things after `from`; how many there were.
fn catch_up_with(tx: &mut Tx<'_>, from: i64) -> Result<usize, records::Error> {
    let sql = "SELECT id, name, properties FROM sensing_thing WHERE id > $1 ORDER BY id LIMIT $2";
    let things = tx.query(sql, params![from, CHUNK], |row| {
        Ok((row.get::<i64>(0)?, row.get::<String>(1)?, row.get::<Option<String>>(2)?))
    })?;
    for (id, name, properties) in &things {
        let properties = properties.as_deref().and_then(|p| serde_json::from_str(p).ok()).unwrap_or_default();
        let Listed { system, district, simulated, sought } = Listed::of(name, &properties);
        tx.execute(
            "UPDATE sensing_thing SET system = $2, district = $3, simulated = $4, sought = $5 WHERE id = $1",
            params![id, system, district, simulated, sought],
        )?;
        settle(tx, EntityId(*id))?;
    }
    if let Some((last, ..)) = things.last() {
        tx.execute("UPDATE sensing_catch_up SET after = $1 WHERE what = 'things'", params![last])?;
        return Ok(things.len());
    }
    // Everything has its columns: from here on the counts follow what is written.
    tx.execute("DELETE FROM sensing_thing_count", params![])?;
    tx.execute(
        "INSERT INTO sensing_thing_count (tenant, public, system, district, things, simulated)
         SELECT tenant, public, system, district, COUNT(*), CAST(SUM(simulated) AS BIGINT)
         FROM sensing_thing GROUP BY tenant, public, system, district",
        params![],
    )?;
    tx.execute("DELETE FROM sensing_catch_up WHERE what = 'things'", params![])?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_geometry_has_a_place() {
        assert_eq!(point(r#"{"type":"Point","coordinates":[114.1,22.3]}"#), Some([114.1, 22.3]));
        assert_eq!(point(r#"{"type":"Polygon","coordinates":[[[1,2],[3,4],[1,2]]]}"#), Some([1.0, 2.0]));
        assert_eq!(point(r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[5,6]}}"#), Some([5.0, 6.0]));
        assert_eq!(point("[]"), None);
        assert_eq!(point(r#"{"type":"Point","coordinates":[]}"#), None);
    }

    #[test]
    fn what_an_index_cannot_hold_is_left_out() {
        let listed = |name: &str, properties: Value| Listed::of(name, properties.as_object().expect("an object"));
        let both = serde_json::json!({"system": "flood", "district": 7, "simulated": true, "name_zh_hant": "新田", "name_zh_hans": "新田"});
        let expect =
            Listed {
                system: "flood".into(), district: String::new(), simulated: true, sought: "san tin\n新田".into()
            };
        assert_eq!(listed("San Tin", both), expect);
        let long = listed(&"Ö".repeat(1_000), serde_json::json!({"system": "x".repeat(201), "district": "a\0b"}));
        assert_eq!((long.system.as_str(), long.district.as_str()), ("", ""));
        assert_eq!(long.sought, "ö".repeat(SOUGHT_BYTES / 2));
    }
}
