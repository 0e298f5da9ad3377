//! Locations and HistoricalLocations of Things that move, made by themselves from the fixes of their position Datastreams.
//!
//! Not one for each fix: a Location is a row with an index, an event and an audit row, and a fleet that tells its place every second would write more of them than
//! everything else in the city together, to say worse what the position Datastream says exactly. So a Thing is written down again when it has gone
//! [`Options::far`] and [`Options::every`] has passed since. What the map shows now, tracks and rules do not wait for that: they look at the Datastream.
//!
//! Nothing here has to survive a crash: what is written is compared with where the catalogue has the Thing, and the next fix does that again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernel::Timestamp;
use records::{Param, ToParam};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{Fix, Limits, Moving, Place, Track, limits};
use crate::{
    Error,
    catalog::Changes,
    model::{EntityId, ObservationType},
    observe::SeriesQuery,
};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The shortest time between two Locations of a Thing.
    pub every: Duration,
    /// Metres that it must have gone.
    pub far: f64,
    /// How often what has moved is looked at.
    pub tick: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { every: Duration::from_secs(300), far: 50.0, tick: Duration::from_secs(10) }
    }
}

/// Things that wait to be looked at. What does not fit is found again by its next fix.
const WAITING: usize = 100_000;
/// Things that are looked at, and written, together.
const CHUNK: usize = 200;
/// Fixes among which one that cannot be is found.
const LOOK_BACK: usize = 16;
/// A fix that is older is history, and says nothing of where a Thing is.
const OLD_SECS: i64 = 3_600;

/// What is remembered of the Things that move, by their position Datastreams.
#[derive(Default)]
pub struct Locator {
    waiting: BTreeSet<i64>,
    written: BTreeMap<EntityId, Timestamp>,
}

impl Locator {
    /// A Datastream has said where its Thing is.
    pub fn heard(&mut self, datastream: EntityId) {
        if self.waiting.len() < WAITING {
            self.waiting.insert(datastream.0);
        }
    }

    /// Looks at those that have moved, and writes down those that have gone far enough.
    ///
    /// # Errors
    /// Those of the records and of the series; what was waiting waits on.
    pub async fn look(&mut self, moving: &Moving, options: Options) -> Result<Vec<Changes>, Error> {
        let now = moving.now();
        let every = i64::try_from(options.every.as_micros()).unwrap_or(i64::MAX);
        self.written.retain(|_, at| now.micros_since(*at) < every);
        let mut done = Vec::new();
        let mut after = i64::MIN;
        loop {
            let chunk: Vec<i64> = self.waiting.range(after..).copied().take(CHUNK).collect();
            let Some(last) = chunk.last() else { return Ok(done) };
            after = last + 1;
            let known = positions(moving, chunk.clone()).await?;
            let mut moves: BTreeMap<EntityId, Fix> = BTreeMap::new();
            for datastream in chunk {
                // What is no position Datastream, or is gone, has nothing to wait for.
                let Some(position) = known.get(&datastream) else {
                    self.waiting.remove(&datastream);
                    continue;
                };
                if self.written.contains_key(&position.thing) {
                    continue;
                }
                self.waiting.remove(&datastream);
                let newest = newest(moving, EntityId(datastream), position.limits, now).await?;
                let far = |fix: &Fix| position.place.is_none_or(|place| place.metres(fix.place) >= options.far);
                if let Some(fix) = newest.filter(far) {
                    moves.insert(position.thing, fix);
                }
            }
            if !moves.is_empty() {
                let things: Vec<EntityId> = moves.keys().copied().collect();
                done.push(moving.catalog().moved(moves.into_iter().collect()).await?);
                self.written.extend(things.into_iter().map(|thing| (thing, now)));
            }
        }
    }
}

/// The newest fix that can be believed; `None` when it is history, or claims to come from ahead.
async fn newest(moving: &Moving, id: EntityId, limits: Limits, now: Timestamp) -> Result<Option<Fix>, Error> {
    let mut rows = moving.observe().read(SeriesQuery::latest(id, LOOK_BACK)).await?;
    rows.reverse();
    let fixes: Vec<Fix> = rows.iter().filter_map(Fix::of).collect();
    let track = Track::new(&fixes, limits);
    Ok(track.last().filter(|fix| fix.at >= now.plus_secs(-OLD_SECS) && fix.at <= now.plus_secs(600)).copied())
}

/// A position Datastream, and where the catalogue has its Thing.
struct Position {
    thing: EntityId,
    limits: Limits,
    place: Option<Place>,
}

/// Those of these Datastreams that are position Datastreams.
async fn positions(moving: &Moving, datastreams: Vec<i64>) -> Result<BTreeMap<i64, Position>, Error> {
    let found = moving.catalog().records().read(move |read| {
        let geometry = ObservationType::Geometry.code();
        let marks: Vec<String> = (2..datastreams.len() + 2).map(|n| format!("${n}")).collect();
        let sql = format!(
            "SELECT d.id, d.thing_id, d.properties, t.x, t.y FROM sensing_datastream d JOIN sensing_thing t ON t.id = d.thing_id
             WHERE d.observation_type = $1 AND d.id IN ({})",
            marks.join(", ")
        );
        let mut values: Vec<Param<'_>> = vec![geometry.to_param()];
        values.extend(datastreams.iter().map(ToParam::to_param));
        let rows = read.query(&sql, &values, |row| {
            let properties: Option<String> = row.get(2)?;
            let properties = properties.and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
            let place = row.get::<Option<f64>>(3)?.zip(row.get::<Option<f64>>(4)?);
            let place = place.and_then(|(lon, lat)| Place::new(lon, lat));
            let position = Position { thing: EntityId(row.get(1)?), limits: limits(&properties), place };
            Ok((row.get::<i64>(0)?, position))
        })?;
        Ok::<_, records::Error>(rows.into_iter().collect())
    });
    Ok(found.await?)
}

/// Follows what is observed, until told to stop.
pub async fn run(moving: Moving, options: Options, stop: CancellationToken) {
    let mut applied = moving.observe().subscribe();
    let mut locator = Locator::default();
    let mut tick = tokio::time::interval(options.tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            one = applied.recv() => match one {
                Ok(one) => {
                    let runs = one.batch().into_iter().flat_map(|batch| batch.runs());
                    // A place is no number, so what is plain numbers is passed over at a glance.
                    for run in runs.filter(|run| !run.extras.is_empty()) {
                        let object = |e: &crate::observe::Extra| e.result.as_ref().is_some_and(|r| r.get().starts_with('{'));
                        if run.extras.iter().flatten().any(|e| object(e)) {
                            locator.heard(run.datastream);
                        }
                    }
                }
                // Who moves says so again.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick() => {
                if let Err(error) = locator.look(&moving, options).await {
                    tracing::warn!(%error, "where Things have moved to could not be written down; trying again");
                }
            }
        }
    }
}
