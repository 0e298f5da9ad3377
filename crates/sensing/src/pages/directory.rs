//! What stands where, for lists and maps. Every question is answered from an index and is bounded; none costs more because the city has more Things.
//!
//! The catalogue counts its Things by owner, system and district ([`Group`]). What a caller may see and has asked for is a set of these groups:
//! so it is known at once how many Things there are, and a page of them is merged from the beginnings of the groups.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use kernel::{Problem, Tenant, Text};
use records::{Param, Read, ToParam, params};
use serde_json::{Map, Value};

use super::{
    name_of,
    several::{self, MultiEntry},
};
pub use crate::catalog::listing::Group;
use crate::{Catalog, Error, Scope, catalog::listing, model::EntityId};

/// Names that one search looks through. More must be narrowed by system or district first.
const SEARCHED: u64 = 1_500_000;
/// Datastreams on the page of a Thing; it says when there are more.
pub const STREAMS: usize = 300;
/// Things read by one statement.
const CHUNK: usize = 500;

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
    /// The Datastream that was declared first, which the map shows.
    pub first: Option<DatastreamEntry>,
}

#[derive(Clone, Debug)]
pub struct DatastreamEntry {
    pub id: EntityId,
    pub name: Text,
    pub unit: String,
    pub interval: Option<i64>,
    pub simulated: bool,
}

/// A Thing with what is observed at it.
#[derive(Clone, Debug)]
pub struct Observed {
    pub thing: ThingEntry,
    pub streams: Vec<DatastreamEntry>,
    pub multi: Vec<MultiEntry>,
    /// There are more of either than are here.
    pub more: bool,
}

/// How many Things there are in what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    pub things: u64,
    pub simulated: u64,
}

/// The groups that a caller may see.
#[derive(Clone, Debug, Default)]
pub struct Groups(Vec<Group>);

impl Groups {
    pub fn count(&self, fits: impl Fn(&Group) -> bool) -> Count {
        let groups = self.0.iter().filter(|g| fits(g));
        groups.fold(Count::default(), |sum, g| Count {
            things: sum.things + g.things,
            simulated: sum.simulated + g.simulated,
        })
    }
    pub fn narrowed(&self, fits: impl Fn(&Group) -> bool) -> Self {
        Self(self.0.iter().filter(|g| fits(g)).cloned().collect())
    }
    pub fn of_system(&self, system: &str) -> Self {
        self.narrowed(|g| g.system == system)
    }
    pub fn districts(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|g| g.district.as_str()).filter(|d| !d.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
    /// Owner, visibility and system, for what is not asked by district.
    pub(super) fn owners(&self) -> Vec<(Tenant, bool, String)> {
        let mut owners: Vec<_> = self.0.iter().map(|g| (g.tenant.clone(), g.public, g.system.clone())).collect();
        owners.dedup();
        owners
    }
}

/// A Thing's place in a list: its names in small letters, then its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    sought: String,
    id: i64,
}

impl Place {
    /// As it stands in an address.
    pub fn cursor(&self) -> String {
        format!("{}.{}", self.id, self.sought)
    }
    pub fn parse(cursor: &str) -> Option<Self> {
        let (id, sought) = cursor.split_once('.')?;
        Some(Self { id: id.parse().ok()?, sought: sought.to_owned() }).filter(|p| !p.sought.contains('\0'))
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// A part of one of the names; empty for all.
    pub sought: String,
    pub descending: bool,
    pub after: Option<Place>,
    pub limit: usize,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub things: Vec<ThingEntry>,
    /// Where the next page begins, when there is one.
    pub next: Option<Place>,
}

pub struct Directory {
    catalog: Catalog,
    systems: Vec<System>,
}

impl Directory {
    pub fn new(catalog: Catalog, systems: Vec<System>) -> Self {
        Self { catalog, systems }
    }
    pub fn systems(&self) -> &[System] {
        &self.systems
    }
    pub fn system(&self, key: &str) -> Option<&System> {
        self.systems.iter().find(|s| s.key == key)
    }

    /// What there is of what `scope` may see.
    pub async fn groups(&self, scope: &Scope) -> Result<Groups, Error> {
        let mut groups = self.catalog.records().read(listing::groups).await?;
        groups.retain(|g| scope.admits(&g.tenant, g.public));
        Ok(Groups(groups))
    }

    /// Whether a search through all names of these groups would be too much.
    pub fn is_too_much(groups: &Groups) -> bool {
        groups.count(|_| true).things > SEARCHED
    }

    /// A page of the Things of these groups, by name.
    ///
    /// # Errors
    /// 400 when a search would have to look through too many names.
    pub async fn list(&self, groups: Groups, asked: Asked) -> Result<Listing, Error> {
        if !asked.sought.is_empty() && Self::is_too_much(&groups) {
            let detail = format!("there are more than {SEARCHED} names; choose a system or a district first");
            return Err(Problem::field("q", detail).into());
        }
        let read = self.catalog.records().read(move |read| {
            let mut places = page(read, &groups.0, &asked)?;
            let more = places.len() > asked.limit;
            places.truncate(asked.limit);
            let ids: Vec<i64> = places.iter().map(|p| p.id).collect();
            let next = if more { places.pop() } else { None };
            Ok::<_, Error>(Listing { things: entries(read, &ids)?, next })
        });
        read.await
    }

    /// One Thing with its Datastreams and MultiDatastreams, as far as `scope` may see them; up to [`STREAMS`] and [`several::MOST`] of them, and
    /// whether there are more.
    pub async fn thing(&self, scope: &Scope, id: EntityId) -> Result<Option<Observed>, Error> {
        let scope = scope.clone();
        let read = self.catalog.records().read(move |read| {
            let owner =
                read.query_opt("SELECT tenant, public FROM sensing_thing WHERE id = $1", params![id.0], |row| {
                    Ok((row.get::<Tenant>(0)?, row.get::<bool>(1)?))
                })?;
            if !owner.is_some_and(|(tenant, public)| scope.admits(&tenant, public)) {
                return Ok(None);
            }
            let Some(thing) = entries(read, &[id.0])?.pop() else { return Ok(None) };
            let sql = "SELECT id, name, unit, properties, tenant, public FROM sensing_datastream
                       WHERE thing_id = $1 ORDER BY id LIMIT $2";
            let mut streams = read.query(sql, params![id.0, STREAMS as i64 + 1], |row| {
                let seen = scope.admits(&row.get::<Tenant>(4)?, row.get(5)?);
                Ok(if seen { Some(datastream(row, 0)?) } else { None })
            })?;
            let more = streams.len() > STREAMS;
            streams.truncate(STREAMS);
            let (multi, more_multi) = several::of_thing(read, &scope, id)?;
            let streams = streams.into_iter().flatten().collect();
            Ok::<_, Error>(Some(Observed { thing, streams, multi, more: more || more_multi }))
        });
        read.await
    }
}

/// Up to `limit + 1` places after `asked.after`, merged from the groups. Each group is read a little at a time, so what is read grows
/// with the groups and the page and not with the Things.
fn page(read: &mut Read<'_>, groups: &[Group], asked: &Asked) -> Result<Vec<Place>, records::Error> {
    struct Run<'g> {
        group: &'g Group,
        ready: VecDeque<Place>,
        last: Option<Place>,
        ended: bool,
    }
    let wanted = asked.limit + 1;
    let little = (2 * wanted / groups.len().max(1)).clamp(8, wanted.max(8));
    let mut runs: Vec<Run<'_>> = groups
        .iter()
        .map(|group| Run { group, ready: VecDeque::new(), last: asked.after.clone(), ended: false })
        .collect();
    let mut found = Vec::with_capacity(wanted);
    while found.len() < wanted {
        for run in runs.iter_mut().filter(|r| r.ready.is_empty() && !r.ended) {
            run.ready = beginning(read, run.group, run.last.as_ref(), asked, little)?.into();
            run.ended = run.ready.len() < little;
            run.last = run.ready.back().cloned().or(run.last.take());
        }
        let order = |a: &Place, b: &Place| if asked.descending { b.cmp(a) } else { a.cmp(b) };
        let first = runs
            .iter_mut()
            .filter(|r| !r.ready.is_empty())
            .min_by(|a, b| a.ready.front().zip(b.ready.front()).map_or(Ordering::Equal, |(a, b)| order(a, b)));
        match first.and_then(|run| run.ready.pop_front()) {
            Some(place) => found.push(place),
            None => break,
        }
    }
    Ok(found)
}

/// The first places of a group after one.
fn beginning(
    read: &mut Read<'_>,
    group: &Group,
    after: Option<&Place>,
    asked: &Asked,
    limit: usize,
) -> Result<Vec<Place>, records::Error> {
    let (end, beyond, direction) = if asked.descending {
        (Place { sought: char::MAX.to_string(), id: i64::MAX }, "<", " DESC")
    } else {
        (Place { sought: String::new(), id: i64::MIN }, ">", "")
    };
    let after = after.unwrap_or(&end);
    let limit = limit as i64;
    let mut values: Vec<Param<'_>> = vec![
        group.tenant.to_param(),
        group.public.to_param(),
        group.system.to_param(),
        group.district.to_param(),
        after.sought.to_param(),
        after.id.to_param(),
        limit.to_param(),
    ];
    let pattern = like(&asked.sought);
    let matching = if asked.sought.is_empty() {
        ""
    } else {
        values.push(pattern.to_param());
        " AND sought LIKE $8 ESCAPE '\\'"
    };
    let sql = format!(
        "SELECT sought, id FROM sensing_thing
         WHERE tenant = $1 AND public = $2 AND system = $3 AND district = $4 AND (sought, id) {beyond} ($5, $6){matching}
         ORDER BY sought{direction}, id{direction} LIMIT $7"
    );
    read.query(&sql, &values, |row| Ok(Place { sought: row.get(0)?, id: row.get(1)? }))
}

fn like(sought: &str) -> String {
    let escaped = sought.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{}%", escaped.replace('\0', ""))
}

/// These Things with their first Datastreams, in the order of `ids`. One that has gone meanwhile is left out.
pub(super) fn entries(read: &mut Read<'_>, ids: &[i64]) -> Result<Vec<ThingEntry>, records::Error> {
    let mut things: BTreeMap<i64, ThingEntry> = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let (marks, values) = list(ids);
        let sql = format!(
            "SELECT id, tenant, name, properties, system, district, simulated, x, y, public FROM sensing_thing
             WHERE id IN ({marks})"
        );
        read.query(&sql, &values, |row| {
            let id: i64 = row.get(0)?;
            let name: String = row.get(2)?;
            let x: Option<f64> = row.get(7)?;
            let entry = ThingEntry {
                id: EntityId(id),
                tenant: row.get(1)?,
                public: row.get(9)?,
                name: name_of(&name, &object(row.get(3)?)),
                system: row.get(4)?,
                district: row.get(5)?,
                simulated: row.get(6)?,
                position: x.zip(row.get::<Option<f64>>(8)?).map(|(x, y)| [x, y]),
                first: None,
            };
            things.insert(id, entry);
            Ok(())
        })?;
        // Whoever may see a Thing may see its Datastreams: they belong to whom it belongs to.
        let sql = format!(
            "SELECT thing_id, id, name, unit, properties FROM sensing_datastream WHERE id IN
                 (SELECT MIN(id) FROM sensing_datastream WHERE thing_id IN ({marks}) GROUP BY thing_id)"
        );
        read.query(&sql, &values, |row| {
            if let Some(thing) = things.get_mut(&row.get::<i64>(0)?) {
                thing.first = Some(datastream(row, 1)?);
            }
            Ok(())
        })?;
    }
    Ok(ids.iter().filter_map(|id| things.remove(id)).collect())
}

/// `$1, $2, …` for these ids. Their number is rounded up by repeating the last, so that few different statements have to be prepared.
pub(super) fn list(ids: &[i64]) -> (String, Vec<Param<'static>>) {
    let last = ids.last().copied().unwrap_or_default();
    let length = ids.len().max(1).next_power_of_two();
    let values: Vec<Param<'static>> =
        ids.iter().copied().chain(std::iter::repeat(last)).take(length).map(Param::Integer).collect();
    let marks: Vec<String> = (1..=length).map(|n| format!("${n}")).collect();
    (marks.join(", "), values)
}

/// `id, name, unit, properties` from the column `at` on.
fn datastream(row: &records::Row<'_>, at: usize) -> Result<DatastreamEntry, records::Error> {
    let name: String = row.get(at + 1)?;
    let (unit, properties) = (object(row.get(at + 2)?), object(row.get(at + 3)?));
    Ok(DatastreamEntry {
        id: EntityId(row.get(at)?),
        name: name_of(&name, &properties),
        unit: unit.get("symbol").and_then(Value::as_str).unwrap_or_default().to_owned(),
        interval: properties.get("interval").and_then(Value::as_i64),
        simulated: properties.get("simulated") == Some(&Value::Bool(true)),
    })
}

pub(super) fn object(json: Option<String>) -> Map<String, Value> {
    json.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
