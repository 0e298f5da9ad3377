//! Whether what should come in comes in: the Datastreams of each department and system, each measured by its own interval, and letters that wait.
//!
//! A Datastream is late when nothing has come for three of its intervals. The interval is the one that it declares (`properties.interval`), else the
//! one that it has kept so far: the median time between its last Observations. So a gauge that speaks each ten seconds is late within the minute, and a
//! record of days after three days, and neither is a constant of the program.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use kernel::{Tenant, Timestamp};
use parking_lot::Mutex;
use records::params;
use serde_json::{Map, Value};

use crate::{
    Catalog, Error,
    catalog::listing,
    model::EntityId,
    notify::model::DeliveryState,
    observe::{Observe, SeriesQuery},
};

/// Datastreams of one group that are looked at; a larger group is judged by so many of it.
pub const SAMPLE: usize = 2_000;
/// Observations that an interval is learned from, and the least that say anything.
const LEARN: usize = 20;
const LEAST: usize = 4;
/// Intervals that one look learns, and seconds for which what was learned is good.
const LEARNED_AT_ONCE: usize = 200;
const GOOD_FOR: i64 = 3_600;
/// Intervals that are kept.
const MAX_LEARNED: usize = 100_000;
/// Intervals of quiet that are no cause for worry.
const PATIENCE: i64 = 3;
/// The least of them together, in seconds: networks take their time.
const LEAST_PATIENCE: i64 = 30;

/// The Datastreams of a department's Things of one system.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub tenant: Tenant,
    /// Whether everybody may see them.
    pub public: bool,
    pub system: String,
    /// Datastreams looked at, and whether there are more.
    pub streams: u64,
    pub more: bool,
    /// Those that nothing has ever come from; they are no feed yet.
    pub never: u64,
    /// Those that are history: quiet for so long that nobody waits for them.
    pub ended: u64,
    pub fresh: u64,
    pub late: u64,
    /// The newest measurement of all.
    pub newest: Option<Timestamp>,
    /// When the first of the late ones became so.
    pub late_since: Option<Timestamp>,
    /// The shortest and longest interval that was expected, in seconds.
    pub intervals: Option<(i64, i64)>,
    pub simulated: bool,
}

/// Letters and webhooks of a department in a state that is not the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letters {
    pub tenant: Tenant,
    pub dead: u64,
    /// Tried, and not delivered yet.
    pub trying: u64,
    pub oldest: Option<Timestamp>,
}

/// What has been learned. Shared by all looks.
#[derive(Default)]
pub struct Learned(Mutex<HashMap<EntityId, (Timestamp, Option<i64>)>>);

/// The median time between moments that descend, in seconds; `None` of too few to say.
pub fn interval_of(times: &[Timestamp]) -> Option<i64> {
    let mut gaps: Vec<i64> =
        times.windows(2).map(|pair| pair[0].micros_since(pair[1]).abs()).filter(|gap| *gap > 0).collect();
    if gaps.len() + 1 < LEAST {
        return None;
    }
    gaps.sort_unstable();
    // Rounded up: an interval of less than a second is a second.
    Some((gaps[gaps.len() / 2] + 999_999) / 1_000_000)
}

/// When something that last spoke at `newest` is late.
pub fn late_at(newest: Timestamp, interval: i64) -> Timestamp {
    newest.plus_secs(interval.saturating_mul(PATIENCE).max(LEAST_PATIENCE))
}

/// Seconds and intervals of quiet, both together, after which a series is a record that has ended and no feed that is late.
const ENDED: i64 = 90 * 86_400;
const ENDED_INTERVALS: i64 = 30;

/// A Datastream's own word about itself.
struct Declared {
    id: EntityId,
    interval: Option<i64>,
    simulated: bool,
}

/// All groups, worst last; costs a bounded look at each.
///
/// # Errors
/// Those of `records` and of the observations.
pub async fn groups(catalog: &Catalog, observe: &Observe, learned: &Learned) -> Result<Vec<Group>, Error> {
    let counted = catalog.records().read(listing::groups).await?;
    let mut kinds: Vec<(Tenant, bool, String, bool)> = Vec::new();
    for group in counted.into_iter().filter(|g| g.things > 0) {
        match kinds.iter_mut().find(|(t, p, s, _)| *t == group.tenant && *p == group.public && *s == group.system) {
            Some(known) => known.3 |= group.simulated > 0,
            None => kinds.push((group.tenant, group.public, group.system, group.simulated > 0)),
        }
    }
    let mut out = Vec::with_capacity(kinds.len());
    for (tenant, public, system, simulated) in kinds {
        let (owner, of) = (tenant.clone(), system.clone());
        let read = catalog.records().read(move |read| {
            let mut found = Vec::new();
            let sql = format!(
                "SELECT d.id, d.properties FROM sensing_thing t CROSS JOIN sensing_datastream d
                 WHERE t.tenant = $1 AND t.public = $2 AND t.system = $3 AND d.thing_id = t.id AND d.public = $2 LIMIT {}",
                SAMPLE + 1
            );
            read.for_each(&sql, params![owner, public, of], |row| {
                let properties: Option<String> = row.get(1)?;
                let properties: Map<String, Value> =
                    properties.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                found.push(Declared {
                    id: EntityId(row.get(0)?),
                    interval: properties.get("interval").and_then(Value::as_i64).filter(|s| *s > 0),
                    simulated: properties.get("simulated") == Some(&Value::Bool(true)),
                });
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, records::Error>(found)
        });
        let mut found = read.await?;
        let more = found.len() > SAMPLE;
        found.truncate(SAMPLE);
        let mut group = Group {
            tenant,
            public,
            system,
            streams: found.len() as u64,
            more,
            never: 0,
            ended: 0,
            fresh: 0,
            late: 0,
            newest: None,
            late_since: None,
            intervals: None,
            simulated: simulated || found.iter().any(|d| d.simulated),
        };
        let mut budget = LEARNED_AT_ONCE;
        for stream in found {
            look(catalog.now(), observe, learned, &stream, &mut group, &mut budget).await?;
        }
        out.push(group);
    }
    Ok(out)
}

async fn look(
    now: Timestamp,
    observe: &Observe,
    learned: &Learned,
    stream: &Declared,
    group: &mut Group,
    budget: &mut usize,
) -> Result<(), Error> {
    let Some(newest) = observe.head(stream.id).map(|h| h.phenomenon.end) else {
        group.never += 1;
        return Ok(());
    };
    let interval = match stream.interval {
        Some(declared) => Some(declared),
        None => learn(now, observe, learned, stream.id, budget).await?,
    };
    let quiet = now.micros_since(newest) / 1_000_000;
    if quiet > ENDED && quiet > interval.unwrap_or(0).saturating_mul(ENDED_INTERVALS) {
        group.ended += 1;
        return Ok(());
    }
    group.newest = group.newest.max(Some(newest));
    // What says nothing of when it speaks, and has hardly spoken, cannot be late.
    let Some(interval) = interval else {
        group.fresh += 1;
        return Ok(());
    };
    let (least, most) = group.intervals.unwrap_or((interval, interval));
    group.intervals = Some((least.min(interval), most.max(interval)));
    let late = late_at(newest, interval);
    if late < now {
        group.late += 1;
        group.late_since = Some(group.late_since.map_or(late, |since| since.min(late)));
    } else {
        group.fresh += 1;
    }
    Ok(())
}

async fn learn(
    now: Timestamp,
    observe: &Observe,
    learned: &Learned,
    id: EntityId,
    budget: &mut usize,
) -> Result<Option<i64>, Error> {
    let known = learned.0.lock().get(&id).copied();
    if let Some((at, interval)) = known
        && now.micros_since(at) < GOOD_FOR * 1_000_000
    {
        return Ok(interval);
    }
    if *budget == 0 {
        return Ok(known.and_then(|(_, interval)| interval));
    }
    *budget -= 1;
    let rows = observe.read(SeriesQuery::latest(id, LEARN)).await?;
    let times: Vec<Timestamp> = rows.iter().map(|o| o.phenomenon.end).collect();
    let interval = interval_of(&times);
    let mut all = learned.0.lock();
    if all.len() >= MAX_LEARNED {
        all.clear();
    }
    all.insert(id, (now, interval));
    Ok(interval)
}

/// Letters that were given up or are being tried again, by department.
///
/// # Errors
/// Those of `records`.
pub async fn letters(catalog: &Catalog) -> Result<Vec<Letters>, Error> {
    let read = catalog.records().read(|read| {
        let sql = "SELECT tenant, state, COUNT(*), MIN(created_at) FROM sensing_delivery
                   WHERE state = $1 OR (state = $2 AND last_error IS NOT NULL) GROUP BY tenant, state";
        let (dead, pending) = (DeliveryState::Dead.name(), DeliveryState::Pending.name());
        let rows = read.query(sql, params![dead, pending], |row| {
            Ok((row.get::<Tenant>(0)?, row.get::<String>(1)?, row.get::<u64>(2)?, row.get::<Option<Timestamp>>(3)?))
        })?;
        let mut all: BTreeMap<Tenant, Letters> = BTreeMap::new();
        for (tenant, state, count, oldest) in rows {
            let empty = Letters { tenant: tenant.clone(), dead: 0, trying: 0, oldest: None };
            let letters = all.entry(tenant).or_insert(empty);
            if state == dead {
                letters.dead += count
            } else {
                letters.trying += count
            }
            letters.oldest = match (letters.oldest, oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Ok::<_, records::Error>(all.into_values().collect())
    });
    Ok(read.await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    #[test]
    fn an_interval_is_the_usual_time_between_two() {
        assert_eq!(interval_of(&[at(100), at(90), at(80), at(70)]), Some(10));
        assert_eq!(interval_of(&[at(1_000), at(90), at(80), at(70), at(60)]), Some(10), "one gap is not the rule");
        assert_eq!(interval_of(&[at(100), at(90), at(80)]), None, "three say too little");
        assert_eq!(interval_of(&[at(5); 20]), None);
        let quick: Vec<Timestamp> = (0..10).rev().map(|n| Timestamp::from_micros(n * 200_000)).collect();
        assert_eq!(interval_of(&quick), Some(1));
    }

    #[test]
    fn late_is_by_ones_own_interval() {
        assert_eq!(late_at(at(0), 1), at(30), "networks take their time");
        assert_eq!(late_at(at(0), 60), at(180));
        assert_eq!(late_at(at(0), 86_400), at(3 * 86_400));
    }

    proptest! {
        #[test]
        fn an_interval_lies_between_the_gaps(gaps in proptest::collection::vec(1i64..100_000, 3..30)) {
            let mut times = vec![at(0)];
            for gap in &gaps {
                let last = times[times.len() - 1];
                times.push(last.plus_secs(-gap));
            }
            let interval = interval_of(&times).expect("enough");
            prop_assert!(gaps.iter().min() <= Some(&interval) && Some(&interval) <= gaps.iter().max());
        }
    }
}
