//! Things that move: tracks, geofences, profiles at depth.
//!
//! **Where a moving Thing was is a series like any other.** 18-088 has three places for it: a FeatureOfInterest of each Observation, a Location of the Thing
//! (with a HistoricalLocation for each change), and the result of an Observation. The first two are rows of the catalogue; a vessel that tells its place every second
//! would make 31 million of them a year. So a Thing has a *position Datastream*, of the type `OM_GeometryObservation`, whose results are GeoJSON Points: its fixes go the way of all
//! Observations (stream, head, lake), whether they come by MQTT, HTTP or file, and everything here is computed from them.
//! What a client of SensorThings expects is there too: [`locate`] makes Locations of them, with their HistoricalLocations, as often as a map needs and not
//! as often as a device speaks. Observations of a moving Thing that name no FeatureOfInterest share one, which is the Thing's way (the sampling curve of ISO 19156):
//! an Observation is named by its feature, so one that changed with the place would make two of what is sent again.

pub mod api;
mod boxes;
pub mod fence;
pub mod fences;
mod fix;
pub mod locate;
pub mod mf_json;
mod plane;
pub mod profile;
#[cfg(test)]
mod tests;
pub mod track;

use std::{collections::BTreeMap, sync::Arc};

use kernel::{Caller, Problem, Tenant, Text, Timestamp};
use records::{Migration, Param, Read, ToParam, params};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

pub use fence::{Circle, Fence, FenceDeclaration, Zone};
pub use fences::Fences;
pub use fix::{Fix, accuracy, place, point};
pub use plane::Place;
pub use track::{Limits, Track, Visit};

use crate::{
    Catalog, Error, Scope,
    model::{EntityId, ObservationType},
    observe::{Observe, Order, SeriesQuery},
};

/// The words of its pages.
pub const TEXTS: ui::Texts = ui::Texts {
    room: "moving",
    en: include_str!("lang/en.toml"),
    zh_hant: include_str!("lang/zh-hant.toml"),
    zh_hans: include_str!("lang/zh-hans.toml"),
};

/// Fixes that one question reads. Of more, the newest are read, and the answer says where they begin.
pub const MAX_FIXES: usize = 50_000;
/// Observations of one page of a question.
const PAGE: usize = 10_000;
/// Questions that are read at once; the next waits its turn.
const AT_ONCE: usize = 4;
/// Things whose tracks one answer holds.
pub const MAX_THINGS: usize = 500;
/// Rows of one statement.
const ROWS: usize = 1_000;
/// The longest span of one question.
pub const MAX_SPAN_SECS: i64 = 31 * 86_400;

/// A Thing that moves.
#[derive(Clone, PartialEq, Debug)]
pub struct Mover {
    pub thing: EntityId,
    pub tenant: Tenant,
    pub public: bool,
    pub name: Text,
    pub system: String,
    pub simulated: bool,
    /// Its position Datastream.
    pub datastream: EntityId,
    pub limits: Limits,
}

/// What is known of a Thing's way in a span.
#[derive(Clone, PartialEq, Debug)]
pub struct Way {
    pub track: Arc<Track>,
    /// Since when it is known: later than what was asked for where there are too many fixes.
    pub from: Timestamp,
    /// Fixes that were read.
    pub read: usize,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Moving {
    catalog: Catalog,
    observe: Observe,
    fences: Fences,
    turns: Arc<Semaphore>,
}

/// What finds the Things that move among all.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "datastreams by type",
    sql: "CREATE INDEX sensing_datastream_type ON sensing_datastream (observation_type, public, tenant, id)",
}];

impl Moving {
    /// # Errors
    /// When the index cannot be made.
    pub fn open(catalog: Catalog, observe: Observe, fences: Fences) -> Result<Self, Error> {
        catalog.records().migrate("sensing_moving", MIGRATIONS)?;
        Ok(Self { catalog, observe, fences, turns: Arc::new(Semaphore::new(AT_ONCE)) })
    }
    pub fn fences(&self) -> &Fences {
        &self.fences
    }
    pub fn now(&self) -> Timestamp {
        self.catalog.now()
    }
    pub(crate) fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.catalog.scope(caller)
    }
    pub(crate) fn observe(&self) -> &Observe {
        &self.observe
    }
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The Thing, when it moves and `scope` may see it.
    ///
    /// # Errors
    /// 404 for a Thing that is not there, may not be seen, or has no position Datastream.
    pub async fn mover(&self, scope: &Scope, thing: EntityId) -> Result<Mover, Error> {
        let sql = format!("{MOVERS} AND t.id = $2 ORDER BY d.id LIMIT 1");
        let found = self
            .catalog
            .records()
            .read(move |read| read.query_opt(&sql, params![ObservationType::Geometry.code(), thing.0], mover));
        let found = found.await?.filter(|m| scope.admits(&m.tenant, m.public));
        found.ok_or_else(|| Error::not_found(format!("The track of Things({thing})")))
    }

    /// Up to `most` Things that move, of one system or of all, by id; and whether there are more.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn movers(
        &self,
        scope: &Arc<Scope>,
        system: Option<String>,
        most: usize,
    ) -> Result<(Vec<Mover>, bool), Error> {
        let scope = Arc::clone(scope);
        let found = self.catalog.records().read(move |read| movers(read, &scope, system.as_deref(), most + 1));
        let mut found = found.await?;
        let more = found.len() > most;
        found.truncate(most);
        Ok((found, more))
    }

    /// Where those of these Things that move are, or were at a time: the newest fix by then.
    ///
    /// # Errors
    /// 503 when the series cannot be read.
    pub(crate) async fn newest_fixes(
        &self,
        things: Vec<i64>,
        at: Option<Timestamp>,
    ) -> Result<BTreeMap<EntityId, Fix>, Error> {
        let found = self.catalog.records().read(move |read| {
            let geometry = ObservationType::Geometry.code();
            let mut found: BTreeMap<EntityId, EntityId> = BTreeMap::new();
            for things in things.chunks(ROWS) {
                let marks: Vec<String> = (2..things.len() + 2).map(|n| format!("${n}")).collect();
                let sql = format!(
                    "SELECT thing_id, MIN(id) FROM sensing_datastream WHERE observation_type = $1 AND thing_id IN ({})
                     GROUP BY thing_id",
                    marks.join(", ")
                );
                let mut values: Vec<Param<'_>> = vec![geometry.to_param()];
                values.extend(things.iter().map(ToParam::to_param));
                found.extend(read.query(&sql, &values, |row| Ok((EntityId(row.get(0)?), EntityId(row.get(1)?))))?);
            }
            Ok::<_, records::Error>(found)
        });
        let mut fixes = BTreeMap::new();
        for (thing, datastream) in found.await? {
            let newest = match at {
                // What is now is known without reading.
                None => self.observe.head(datastream).map(|head| head.latest),
                Some(at) => {
                    let query = SeriesQuery { to: Some(at), ..SeriesQuery::latest(datastream, 1) };
                    self.observe.read(query).await?.pop()
                }
            };
            fixes.extend(newest.as_ref().and_then(Fix::of).map(|fix| (thing, fix)));
        }
        Ok(fixes)
    }

    /// Where a Thing was between two times, both inclusive; of too many fixes the newest `most`.
    ///
    /// # Errors
    /// 400 for a span that is empty or too long; 503 when the series cannot be read.
    pub async fn way(&self, mover: &Mover, from: Timestamp, to: Timestamp, most: usize) -> Result<Way, Error> {
        check_span(from, to)?;
        let _turn = self.turns.acquire().await.map_err(Error::internal)?;
        let (mut fixes, mut after, mut read, mut begins) = (Vec::new(), None, 0, from);
        loop {
            let limit = PAGE.min(most.saturating_sub(read) + 1);
            let query = SeriesQuery {
                datastream: mover.datastream,
                from: Some(from),
                to: Some(to),
                order: Order::Descending,
                after,
                limit,
            };
            let found = self.observe.read(query).await?;
            for o in &found {
                if read == most {
                    begins = o.phenomenon.start.plus_micros(1);
                    break;
                }
                read += 1;
                let faulty = o.quality.as_ref().is_some_and(|q| crate::rules::quality::is_faulty(q.get()));
                fixes.extend(Fix::of(o).filter(|_| !faulty));
            }
            after = found.last().map(crate::model::Observation::id);
            if found.len() < limit || begins != from {
                break;
            }
        }
        fixes.reverse();
        fixes.sort_by_key(|f| f.at);
        let limits = mover.limits;
        let track = tokio::task::spawn_blocking(move || Track::new(&fixes, limits)).await.map_err(Error::internal)?;
        Ok(Way { track: Arc::new(track), from: begins, read })
    }
}

impl Way {
    /// As [`Track::simplified`], on a thread that may take its time: a way can be such that each fix that stays has all others looked at.
    ///
    /// # Errors
    /// When the program is stopping.
    pub async fn simplified(&self, most: usize) -> Result<(Track, f64), Error> {
        let track = Arc::clone(&self.track);
        tokio::task::spawn_blocking(move || track.simplified(most)).await.map_err(Error::internal)
    }

    /// [`Track::visits`], off the threads that answer others.
    ///
    /// # Errors
    /// When the program is stopping.
    pub async fn visits(&self, zone: &Arc<Zone>, margin: f64) -> Result<Vec<Visit>, Error> {
        let (track, zone) = (Arc::clone(&self.track), Arc::clone(zone));
        tokio::task::spawn_blocking(move || track.visits(&zone, margin)).await.map_err(Error::internal)
    }
}

/// Fixes that are read of each of so many Things, so that an answer about all costs no more than one about a few.
pub fn share(things: usize) -> usize {
    /// Of all Things together.
    const ALL: usize = 100_000;
    /// Of one: a day at two a minute.
    const ONE: usize = 3_000;
    (ALL / things.max(1)).min(ONE)
}

/// # Errors
/// 400 for a span that ends before it begins, or is too long.
pub fn check_span(from: Timestamp, to: Timestamp) -> Result<(), Error> {
    if from >= to {
        return Err(Error::field("from", "a time before 'to' is expected"));
    }
    if to.micros_since(from) > MAX_SPAN_SECS * 1_000_000 {
        return Err(Error::field("from", format!("at most {} days before 'to' are expected", MAX_SPAN_SECS / 86_400)));
    }
    Ok(())
}

const MOVERS: &str = "SELECT t.id, t.tenant, d.public, t.name, t.properties, t.system, t.simulated, d.id, d.properties
     FROM sensing_datastream d JOIN sensing_thing t ON t.id = d.thing_id WHERE d.observation_type = $1";

/// What is published, then what each tenant keeps to itself, each from an index: what somebody may not see is not read.
fn movers(read: &mut Read<'_>, scope: &Scope, system: Option<&str>, most: usize) -> Result<Vec<Mover>, records::Error> {
    let geometry = ObservationType::Geometry.code();
    let parts: Vec<(&str, Option<&Tenant>)> = match scope {
        Scope::Everything => vec![("", None)],
        Scope::Tenants(own) => std::iter::once((" AND d.public = 1", None))
            .chain(own.iter().map(|tenant| (" AND d.public = 0 AND d.tenant = $3", Some(tenant))))
            .collect(),
    };
    let mut found: BTreeMap<EntityId, Mover> = BTreeMap::new();
    for (narrowed, tenant) in parts {
        let sql = format!("{MOVERS} AND d.id > $2{narrowed} ORDER BY d.id LIMIT {ROWS}");
        let mut after = 0;
        loop {
            let rows = match tenant {
                Some(tenant) => read.query(&sql, params![geometry, after, tenant], mover)?,
                None => read.query(&sql, params![geometry, after], mover)?,
            };
            let Some(last) = rows.last() else { break };
            let (ended, next) = (rows.len() < ROWS, last.datastream.0);
            after = next;
            // A second position Datastream of a Thing is another view of the same way.
            for row in rows.into_iter().filter(|r| system.is_none_or(|s| s == r.system)) {
                found.entry(row.thing).or_insert(row);
            }
            if found.len() >= most {
                return Ok(found.into_values().take(most).collect());
            }
            if ended {
                break;
            }
        }
    }
    Ok(found.into_values().collect())
}

fn mover(row: &records::Row<'_>) -> Result<Mover, records::Error> {
    let object = |text: Option<String>| -> Map<String, Value> {
        text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
    };
    let (of_thing, of_stream) = (object(row.get(4)?), object(row.get(8)?));
    let word = |name: &str| of_thing.get(name).and_then(Value::as_str).map(str::to_owned);
    let simulated = row.get::<bool>(6)? || of_stream.get("simulated") == Some(&Value::Bool(true));
    Ok(Mover {
        thing: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        public: row.get(2)?,
        name: Text { en: row.get(3)?, zh_hant: word("name_zh_hant"), zh_hans: word("name_zh_hans") },
        system: row.get(5)?,
        simulated,
        datastream: EntityId(row.get(7)?),
        limits: limits(&of_stream),
    })
}

/// `properties.track = { max_speed = 40, gap = 600 }` of a position Datastream. What is not said or makes no sense is as for all.
pub(crate) fn limits(properties: &Map<String, Value>) -> Limits {
    let said = |name: &str| properties.get("track").and_then(|t| t.get(name)).and_then(Value::as_f64);
    let plain = Limits::default();
    // A device that speaks every ten minutes is not lost after fifteen.
    let interval = properties.get("interval").and_then(Value::as_f64).unwrap_or(0.0);
    let gap = said("gap").filter(|s| (1.0..=86_400.0).contains(s));
    Limits {
        max_speed: said("max_speed").filter(|v| (0.1..=1_000.0).contains(v)).unwrap_or(plain.max_speed),
        gap: gap.unwrap_or(f64::from(plain.gap).max(3.0 * interval).min(86_400.0)) as u32,
    }
}

/// A time parameter of an address; a wrong one is named.
pub(crate) fn time(query: &ui::Query, name: &str) -> Result<Option<Timestamp>, Problem> {
    let text = query.get(name).filter(|t| !t.is_empty());
    text.map(|t| t.parse().map_err(|e: kernel::TimeError| Problem::field(name, e.to_string()))).transpose()
}
