//! What the tiles of a dashboard show: values now and over time, for one reader. Shapes first, then how they are made.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use jiff::tz::TimeZone;
use kernel::{Caller, Language, Text, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::{
    Dashboards,
    model::{Combine, Kind, Level, Period, Scales, Standing, Tile, judge, judge_number},
    select::{Chosen, chosen},
    store::{self, Dashboard},
};
use crate::{
    Error,
    alarms::{
        self, Filter,
        model::{Alarm, AlarmState},
    },
    model::{EntityId, ResultValue},
    observe::{AggregateQuery, Bucket, Fill, Step},
    rules::{model::Severity, quality},
};

/// Datastreams whose past one tile sums up.
pub const PAST_STREAMS: usize = 100;
/// Datastreams of a value that has a line beside it.
const SPARK_STREAMS: usize = 24;
/// Summed up at the same time.
const AT_ONCE: usize = 4;
/// Alarms that are looked at for the state of Things, and shown by a tile that does not say how many.
const ALARMS: u32 = 500;
const NEWEST: usize = 5;
/// How long sums of the past are good: their newest part moves.
const KEPT: i64 = 60;
/// Sums that are kept.
const MAX_KEPT: usize = 4_000;

/// A dashboard with what it shows to one reader.
#[derive(Clone, Debug)]
pub struct Shown {
    pub dashboard: Dashboard,
    pub at: Timestamp,
    pub tiles: Vec<Shape>,
}

/// What one tile shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Value(Box<Figure>),
    List(List),
    Chart(Chart),
    Alarms(Alarms),
    Map(Places),
    Heat(Box<Heat>),
    Text(Text),
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Figure {
    /// Datastreams that fit, and those of them that are not silent.
    pub streams: usize,
    pub fresh: usize,
    pub more: bool,
    pub value: Option<f64>,
    /// Of a single Datastream whose result is no number.
    pub word: Option<String>,
    pub unit: String,
    pub at: Option<Timestamp>,
    pub state: Option<Standing>,
    pub level: Option<Text>,
    pub simulated: bool,
    /// The one Thing that it is about.
    pub thing: Option<EntityId>,
    /// 24 hours, by the hour; the last is the one that runs.
    pub spark: Vec<Option<f64>>,
}

/// One result in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub stream: EntityId,
    pub result: Option<ResultValue>,
    /// What is shown of it: the number itself, or what is left.
    pub number: Option<f64>,
    /// What it is a part of.
    pub of: Option<f64>,
    pub unit: String,
    pub at: Option<Timestamp>,
    pub stale: bool,
    pub state: Standing,
    pub level: Option<Text>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub thing: EntityId,
    pub name: Text,
    pub state: Standing,
    /// Why it is so: the level, or that an alarm stands.
    pub level: Option<Text>,
    pub alarm: bool,
    pub simulated: bool,
    pub at: Option<Timestamp>,
    pub entries: Vec<Option<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct List {
    pub columns: Vec<Text>,
    pub rows: Vec<Row>,
    /// Things that fit, and how many are in each state.
    pub things: usize,
    pub more: bool,
    pub states: BTreeMap<Standing, usize>,
    /// The worst first, and not by name.
    pub ranked: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    pub unit: String,
    pub from: Timestamp,
    pub to: Timestamp,
    pub period: Period,
    pub step: i64,
    pub points: Vec<(Timestamp, Option<f64>)>,
    /// Of the period before, moved to lie under this one.
    pub before: Vec<(Timestamp, Option<f64>)>,
    /// Of both periods as a whole.
    pub now_mean: Option<f64>,
    pub before_mean: Option<f64>,
    pub streams: usize,
    pub left_out: usize,
    pub simulated: bool,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Alarms {
    /// The reader may see no alarms at all: nothing is said of how many there are.
    pub hidden: bool,
    /// The gravest first.
    pub counts: Vec<(Severity, store::Standing)>,
    pub newest: Vec<Alarm>,
    /// Query of the board that shows the same.
    pub query: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub thing: EntityId,
    pub name: Text,
    pub position: [f64; 2],
    pub state: Standing,
    pub level: Option<Text>,
    pub value: Option<(f64, String)>,
    pub at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Places {
    /// The worst last, so that they are drawn above the others.
    pub places: Vec<Place>,
    pub more: bool,
    pub simulated: bool,
    pub states: BTreeMap<Standing, usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    pub unit: String,
    pub weeks: u8,
    /// Monday first, by the hour of local time.
    pub cells: [[Option<f64>; 24]; 7],
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub streams: usize,
    pub left_out: usize,
    pub simulated: bool,
}

impl Heat {
    /// Day and hour of the greatest mean.
    pub fn peak(&self) -> Option<(usize, usize, f64)> {
        let cells =
            self.cells.iter().enumerate().flat_map(|(d, row)| row.iter().enumerate().map(move |(h, v)| (d, h, *v)));
        cells.filter_map(|(d, h, v)| Some((d, h, v?))).max_by(|a, b| a.2.total_cmp(&b.2))
    }
}

// ---- how they are made ----------------------------------------------------------------------------------------------

/// Sums of the past by Datastream, from, to and step. Rights are looked at before it is asked.
#[derive(Default)]
pub struct Past(Mutex<HashMap<Asked, Summed>>);

type Asked = (EntityId, Timestamp, i64);
/// When it was summed up, and what came of it.
type Summed = (Timestamp, std::sync::Arc<Vec<Bucket>>);

/// What is the same for all tiles of a dashboard.
struct Look<'a> {
    board: &'a Dashboards,
    scales: &'a Scales,
    zone: &'a TimeZone,
    now: Timestamp,
    /// The gravest standing alarm of each Thing.
    alarms: HashMap<EntityId, Severity>,
}

/// A Datastream and its newest result.
struct Latest<'a> {
    chosen: &'a Chosen,
    at: Option<Timestamp>,
    result: Option<ResultValue>,
    stale: bool,
}

impl Latest<'_> {
    fn number(&self) -> Option<f64> {
        self.result.as_ref().and_then(ResultValue::number)
    }
}

/// Seconds of quiet after which a value is old: three of its own intervals, and three hours where nobody has said one.
pub fn patience(interval: Option<i64>) -> i64 {
    interval.unwrap_or(3_600).saturating_mul(3)
}

impl Dashboards {
    /// What a dashboard shows to somebody, now. One question for each tile, one for all alarms.
    ///
    /// # Errors
    /// Those of `records` and of the observations.
    pub async fn show(&self, caller: &Caller, dashboard: Dashboard, zone: &TimeZone) -> Result<Shown, Error> {
        let scope = self.scope(caller);
        let known = self.catalog().scopes().tenants();
        let tiles = dashboard.declaration.tiles.clone();
        let visible = self.alarms().visible(caller);
        let (asked, seen) = (tiles.clone(), visible.clone());
        let read = self.records().read(move |read| {
            let mut found = Vec::with_capacity(asked.len());
            for tile in &asked {
                found.push(match tile.kind {
                    Kind::Text => Found::None,
                    Kind::Alarms => Found::Alarms(store::standing(read, &seen, &tile.select, tile.tenant.as_ref())?),
                    _ => {
                        let (streams, more) = chosen(read, &scope, &known, tile)?;
                        Found::Streams(streams, more)
                    }
                });
            }
            Ok::<_, records::Error>(found)
        });
        let found = read.await?;
        let rated = tiles.iter().any(|t| matches!(t.kind, Kind::Status | Kind::Map | Kind::Table));
        let mut standing = HashMap::new();
        if rated {
            let filter = Filter { states: [AlarmState::Open, AlarmState::Acknowledged].into(), ..Filter::default() };
            for alarm in self.alarms().list(caller, filter, None, Some(ALARMS)).await?.alarms {
                let worst = standing.entry(alarm.thing).or_insert(alarm.severity);
                *worst = (*worst).max(alarm.severity);
            }
        }
        let scales = self.scales();
        let look = Look { board: self, scales: &scales, zone, now: self.now(), alarms: standing };
        let mut shapes = Vec::with_capacity(tiles.len());
        for (tile, found) in tiles.iter().zip(found) {
            shapes.push(match found {
                Found::None => Shape::Text(tile.text.clone().unwrap_or_default()),
                Found::Alarms(counts) => Shape::Alarms(look.alarms(caller, &visible, tile, counts).await?),
                Found::Streams(streams, more) => look.shape(tile, &streams, more).await?,
            });
        }
        Ok(Shown { at: look.now, dashboard, tiles: shapes })
    }

    /// Sums by the step from `from` to now; from memory when they were asked for within a minute.
    async fn past(
        &self,
        id: EntityId,
        from: Timestamp,
        (step, seconds): (Step, i64),
        zone: &TimeZone,
    ) -> Result<std::sync::Arc<Vec<Bucket>>, Error> {
        let (key, now) = ((id, from, seconds), self.now());
        let kept = self.kept().0.lock().get(&key).cloned();
        if let Some((_, buckets)) = kept.filter(|(at, _)| now.micros_since(*at) < KEPT * 1_000_000 && *at <= now) {
            return Ok(buckets);
        }
        let query =
            AggregateQuery { datastream: id, from, to: now.plus_micros(1), step, zone: zone.clone(), fill: Fill::Skip };
        let buckets = std::sync::Arc::new(self.observe().aggregate(query).await?);
        let mut all = self.kept().0.lock();
        if all.len() >= MAX_KEPT {
            all.retain(|_, (at, _)| now.micros_since(*at) < KEPT * 1_000_000);
            if all.len() >= MAX_KEPT {
                all.clear();
            }
        }
        all.insert(key, (now, buckets.clone()));
        Ok(buckets)
    }
}

enum Found {
    None,
    Alarms(BTreeMap<Severity, store::Standing>),
    Streams(Vec<Chosen>, bool),
}

/// The step, counted from local midnight as aggregates count, that a moment is in: so that a look within the same step asks the same.
fn aligned(at: Timestamp, step: i64, zone: &TimeZone) -> Timestamp {
    let midnight = at.to_jiff().to_zoned(zone.clone()).start_of_day();
    let origin = midnight.map_or(at, |m| Timestamp::from_jiff(m.timestamp()));
    let width = step.clamp(1, 86_400) * 1_000_000;
    origin.plus_micros(at.micros_since(origin).div_euclid(width) * width)
}

impl Look<'_> {
    async fn shape(&self, tile: &Tile, streams: &[Chosen], more: bool) -> Result<Shape, Error> {
        let latest: Vec<Latest<'_>> = streams.iter().map(|c| self.latest(c)).collect();
        Ok(match tile.kind {
            Kind::Value => Shape::Value(Box::new(self.figure(tile, &latest, more).await?)),
            Kind::Status | Kind::Table => Shape::List(self.list(tile, &latest, more)),
            Kind::Map => Shape::Map(self.places(tile, &latest, more)),
            Kind::Chart => Shape::Chart(self.chart(tile, streams).await?),
            Kind::Heat => Shape::Heat(Box::new(self.heat(tile, streams).await?)),
            Kind::Alarms | Kind::Text => Shape::Text(Text::default()),
        })
    }

    fn latest<'c>(&self, chosen: &'c Chosen) -> Latest<'c> {
        let newest = self.board.observe().head(chosen.id).map(|h| h.latest);
        let at = newest.as_ref().map(|o| o.phenomenon.end);
        let old = |at: Timestamp| self.now.micros_since(at) > patience(chosen.interval) * 1_000_000;
        // What its own sensor does not believe is as good as none.
        let faulty = newest.as_ref().and_then(|o| o.quality.as_ref()).is_some_and(|q| quality::is_faulty(q.get()));
        let result = newest.filter(|_| !faulty).map(|o| o.result);
        Latest { chosen, at, stale: at.is_none_or(old) || faulty, result }
    }

    fn levels<'l>(&'l self, own: &'l [Level], property: &str) -> &'l [Level] {
        if own.is_empty() { self.scales.get(property).map_or(&[], Vec::as_slice) } else { own }
    }

    async fn figure(&self, tile: &Tile, latest: &[Latest<'_>], more: bool) -> Result<Figure, Error> {
        let combine = tile.combine.unwrap_or_default();
        let fresh: Vec<&Latest<'_>> = latest.iter().filter(|l| !l.stale).collect();
        let mut figure = Figure {
            streams: latest.len(),
            fresh: fresh.len(),
            more,
            unit: latest.first().map_or_else(String::new, |l| l.chosen.unit.clone()),
            simulated: latest.iter().any(|l| l.chosen.simulated),
            thing: latest.first().map(|l| l.chosen.thing).filter(|t| latest.iter().all(|l| l.chosen.thing == *t)),
            at: fresh.iter().filter_map(|l| l.at).max().or_else(|| latest.iter().filter_map(|l| l.at).max()),
            ..Figure::default()
        };
        if latest.len() <= SPARK_STREAMS || combine == Combine::Total {
            figure.spark = self.spark(combine, latest).await?;
        }
        if let [one] = latest {
            // A single value is shown also when it is old, and said to be so.
            figure.value = one.number();
            figure.word = match &one.result {
                Some(ResultValue::Json(raw)) => Some(crate::dashboards::words(raw)),
                _ => None,
            };
        } else {
            figure.value = combine.of(fresh.iter().filter_map(|l| l.number()));
        }
        if combine == Combine::Total {
            figure.value = Combine::Total.of(figure.spark.iter().flatten().copied());
        }
        let property = latest.first().map_or("", |l| l.chosen.property.as_str());
        let levels = if combine == Combine::Total { &tile.levels } else { self.levels(&tile.levels, property) };
        let level = match (latest, figure.value) {
            ([one], _) if one.number().is_none() => one.result.as_ref().and_then(|r| judge(levels, r)),
            (_, Some(value)) => judge_number(levels, value),
            _ => None,
        };
        (figure.state, figure.level) = (level.map(|l| l.state), level.and_then(|l| l.word.clone()));
        if fresh.is_empty() && combine != Combine::Total {
            // What is old says nothing about now, however good it was.
            (figure.state, figure.level) =
                (Some(if figure.at.is_some() { Standing::Offline } else { Standing::Unknown }), None);
        }
        Ok(figure)
    }

    async fn spark(&self, combine: Combine, latest: &[Latest<'_>]) -> Result<Vec<Option<f64>>, Error> {
        let from = aligned(self.now.plus_secs(-23 * 3_600), 3_600, self.zone);
        let streams: Vec<EntityId> = latest.iter().map(|l| l.chosen.id).take(PAST_STREAMS).collect();
        let merged = self.merged(&streams, from, (Step::Hours(1), 3_600), combine).await?;
        Ok((0..24).map(|hour| merged.get(&from.plus_secs(hour * 3_600)).copied()).collect())
    }

    /// By the beginning of each step, the values of several Datastreams as one.
    async fn merged(
        &self,
        streams: &[EntityId],
        from: Timestamp,
        step: (Step, i64),
        combine: Combine,
    ) -> Result<BTreeMap<Timestamp, f64>, Error> {
        let mut reads = stream::iter(streams.iter().copied().map(|id| self.board.past(id, from, step, self.zone)))
            .buffered(AT_ONCE);
        let mut all: BTreeMap<Timestamp, Vec<f64>> = BTreeMap::new();
        while let Some(buckets) = reads.next().await {
            for bucket in buckets?.iter() {
                let value = match combine {
                    Combine::Total => bucket.sum,
                    Combine::Min => bucket.min,
                    Combine::Max => bucket.max,
                    Combine::Mean | Combine::Sum => bucket.mean,
                };
                all.entry(bucket.start).or_default().extend(value);
            }
        }
        Ok(all.into_iter().filter_map(|(at, values)| Some((at, combine.of(values)?))).collect())
    }

    async fn chart(&self, tile: &Tile, streams: &[Chosen]) -> Result<Chart, Error> {
        let (combine, period) = (tile.combine.unwrap_or_default(), tile.period.unwrap_or_default());
        let (step, seconds) = match period {
            Period::Day => (Step::Hours(1), 3_600),
            Period::Week => (Step::Hours(3), 3 * 3_600),
            Period::Month => (Step::Days(1), 86_400),
        };
        let width = period.seconds();
        let ids: Vec<EntityId> = streams.iter().map(|c| c.id).take(PAST_STREAMS).collect();
        let from = aligned(self.now.plus_secs(-width), seconds, self.zone);
        let begin = if tile.compare { from.plus_secs(-width) } else { from };
        let merged = self.merged(&ids, begin, (step, seconds), combine).await?;
        let points = merged.range(from..).map(|(at, v)| (*at, Some(*v))).collect();
        let before = merged.range(..from).map(|(at, v)| (at.plus_secs(width), Some(*v))).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| Combine::Mean.of(values);
        Ok(Chart {
            unit: streams.first().map_or_else(String::new, |c| c.unit.clone()),
            from,
            to: self.now,
            period,
            step: seconds,
            points,
            before,
            now_mean: mean(&mut merged.range(from..).map(|(_, v)| *v)),
            before_mean: mean(&mut merged.range(..from).map(|(_, v)| *v)),
            streams: ids.len(),
            left_out: streams.len() - ids.len(),
            simulated: streams.iter().any(|c| c.simulated),
        })
    }

    async fn heat(&self, tile: &Tile, streams: &[Chosen]) -> Result<Heat, Error> {
        let weeks = tile.weeks.unwrap_or(4);
        let ids: Vec<EntityId> = streams.iter().map(|c| c.id).take(PAST_STREAMS).collect();
        let from = aligned(self.now.plus_secs(-i64::from(weeks) * 7 * 86_400), 3_600, self.zone);
        let merged = self.merged(&ids, from, (Step::Hours(1), 3_600), tile.combine.unwrap_or_default()).await?;
        let mut sums = [[(0u32, 0.0f64); 24]; 7];
        for (at, value) in merged {
            let local = self.zone.to_datetime(at.to_jiff());
            let (day, hour) = (local.weekday().to_monday_zero_offset(), local.hour());
            let place = usize::try_from(day).ok().zip(usize::try_from(hour).ok());
            if let Some(cell) = place.and_then(|(day, hour)| sums.get_mut(day)?.get_mut(hour)) {
                *cell = (cell.0 + 1, cell.1 + value);
            }
        }
        let cells = sums.map(|row| row.map(|(n, sum)| (n > 0).then(|| sum / f64::from(n))));
        let all = || cells.iter().flatten().flatten().copied();
        Ok(Heat {
            unit: streams.first().map_or_else(String::new, |c| c.unit.clone()),
            weeks,
            low: Combine::Min.of(all()),
            high: Combine::Max.of(all()),
            cells,
            streams: ids.len(),
            left_out: streams.len() - ids.len(),
            simulated: streams.iter().any(|c| c.simulated),
        })
    }

    fn rated(&self, latest: &Latest<'_>, own: &[Level]) -> (Standing, Option<Text>) {
        match &latest.result {
            _ if latest.at.is_none() => (Standing::Unknown, None),
            Some(result) if !latest.stale => {
                let level = judge(self.levels(own, &latest.chosen.property), result);
                level.map_or((Standing::Good, None), |l| (l.state, l.word.clone()))
            }
            _ => (Standing::Offline, None),
        }
    }

    /// An alarm that stands is worse than what the levels say.
    fn alarmed(&self, thing: EntityId, state: Standing) -> (Standing, bool) {
        match self.alarms.get(&thing) {
            Some(severity) => {
                let by = if *severity >= Severity::Severe { Standing::Alarm } else { Standing::Warning };
                (state.max(by), true)
            }
            None => (state, false),
        }
    }

    fn list(&self, tile: &Tile, latest: &[Latest<'_>], more: bool) -> List {
        let mut things: BTreeMap<(String, EntityId), Vec<&Latest<'_>>> = BTreeMap::new();
        for one in latest {
            things.entry((one.chosen.thing_name.en.clone(), one.chosen.thing)).or_default().push(one);
        }
        let mut rows: Vec<Row> = Vec::with_capacity(things.len());
        for ((_, thing), own) in things {
            let mut entries = Vec::with_capacity(tile.columns.len());
            for column in &tile.columns {
                // Of several series of one property the one that spoke last.
                let fits = own.iter().filter(|l| l.chosen.property == column.observed_property);
                entries.push(fits.max_by_key(|l| l.at).map(|l| {
                    let (state, level) = self.rated(l, &column.levels);
                    let of = column.of.as_ref().and_then(|name| l.chosen.of.get(name).copied());
                    let number = match (l.number(), of) {
                        (Some(n), Some(of)) if column.left => Some((of - n).max(0.0)),
                        (n, _) => n,
                    };
                    Entry {
                        stream: l.chosen.id,
                        result: l.result.clone(),
                        number,
                        of,
                        unit: l.chosen.unit.clone(),
                        at: l.at,
                        stale: l.stale,
                        state,
                        level,
                    }
                }));
            }
            let told: Vec<&Entry> = entries.iter().flatten().collect();
            let worst = told.iter().max_by_key(|e| e.state);
            let (state, level) = worst.map_or((Standing::Unknown, None), |e| (e.state, e.level.clone()));
            let (state, alarm) = self.alarmed(thing, state);
            rows.push(Row {
                thing,
                name: own.first().map(|l| l.chosen.thing_name.clone()).unwrap_or_default(),
                level: level.filter(|_| worst.is_some_and(|e| e.state == state)),
                state,
                alarm,
                simulated: own.iter().any(|l| l.chosen.simulated),
                at: told.iter().filter_map(|e| e.at).max(),
                entries,
            });
        }
        let mut states = BTreeMap::new();
        rows.iter().for_each(|r| *states.entry(r.state).or_default() += 1);
        let ranked = tile.kind == Kind::Status;
        if ranked {
            // Stable: by name among equals.
            rows.sort_by_key(|r| std::cmp::Reverse(r.state));
        }
        let things = rows.len();
        rows.truncate(tile.rows());
        let named = |c: &super::model::Column| {
            let own = latest.iter().find(|l| l.chosen.property == c.observed_property);
            c.title
                .clone()
                .or_else(|| own.map(|l| l.chosen.property_name.clone()))
                .unwrap_or_else(|| Text::plain(&*c.observed_property))
        };
        List { columns: tile.columns.iter().map(named).collect(), rows, things, more, states, ranked }
    }

    fn places(&self, tile: &Tile, latest: &[Latest<'_>], more: bool) -> Places {
        let mut things: BTreeMap<EntityId, (Place, bool)> = BTreeMap::new();
        for one in latest {
            let Some(position) = one.chosen.position else { continue };
            let (state, level) = self.rated(one, &tile.levels);
            let value = one.number().filter(|_| !one.stale).map(|n| (n, one.chosen.unit.clone()));
            let place = Place {
                thing: one.chosen.thing,
                name: one.chosen.thing_name.clone(),
                position,
                state,
                level,
                value,
                at: one.at,
            };
            match things.get_mut(&place.thing) {
                Some((known, _)) if known.state >= place.state => {}
                Some((known, _)) => *known = place,
                None => drop(things.insert(place.thing, (place, one.chosen.simulated))),
            }
        }
        let simulated = things.values().any(|(_, simulated)| *simulated);
        let mut places: Vec<Place> = things.into_values().map(|(place, _)| place).collect();
        for place in &mut places {
            let (state, _) = self.alarmed(place.thing, place.state);
            if state != place.state {
                (place.state, place.level) = (state, None);
            }
        }
        let mut states = BTreeMap::new();
        places.iter().for_each(|p| *states.entry(p.state).or_default() += 1);
        places.sort_by_key(|p| p.state);
        Places { places, more, simulated, states }
    }

    async fn alarms(
        &self,
        caller: &Caller,
        visible: &alarms::Visible,
        tile: &Tile,
        counts: BTreeMap<Severity, store::Standing>,
    ) -> Result<Alarms, Error> {
        let hidden = !visible.everything && visible.all.is_empty() && visible.published.is_empty();
        let least = tile.severity.unwrap_or(Severity::Minor);
        let each = Severity::ALL.into_iter().rev().filter(|s| *s >= least);
        let counts = each.map(|s| (s, counts.get(&s).copied().unwrap_or_default())).collect();
        let filter = Filter {
            states: [AlarmState::Open, AlarmState::Acknowledged].into(),
            severity_at_least: Some(least),
            tenant: tile.tenant.clone(),
            system: tile.select.system.clone(),
            district: tile.select.district.clone(),
            ..Filter::default()
        };
        let most = tile.most.map_or(NEWEST, usize::from);
        let most = u32::try_from(most).unwrap_or(ALARMS).min(ALARMS);
        let mut newest =
            if hidden { Vec::new() } else { self.board.alarms().list(caller, filter, None, Some(most)).await?.alarms };
        // What nobody has taken on comes first, then the gravest.
        newest.sort_by_key(|a| (a.state != AlarmState::Open, std::cmp::Reverse(a.severity), std::cmp::Reverse(a.id)));
        let query = tile.select.system.as_ref().map_or_else(String::new, |s| format!("?system={}", ui::encode(s)));
        Ok(Alarms { hidden, counts, newest, query })
    }
}

impl Standing {
    fn json(self) -> Json {
        json!(self.name())
    }
}

// ---- as JSON ----------------------------------------------------------------------------------------------------------

impl Shown {
    /// What programs read, and what an open page compares itself with: no time of the asking is in it.
    pub fn json(&self, language: Language) -> Json {
        let d = &self.dashboard.declaration;
        let text = |t: &Text| json!(t.get(language));
        let tiles = d.tiles.iter().zip(&self.tiles).map(|(tile, shape)| {
            let mut out = shape.json(language);
            out["kind"] = json!(tile.kind);
            out["title"] = text(&tile.title);
            out
        });
        json!({
            "key": d.key, "tenant": d.tenant, "version": self.dashboard.version, "title": text(&d.title),
            "about": d.about.as_ref().map(text), "refresh": d.refresh, "tiles": tiles.collect::<Vec<_>>(),
        })
    }
}

impl Shape {
    fn json(&self, language: Language) -> Json {
        let text = |t: &Option<Text>| t.as_ref().map(|t| t.get(language).to_owned());
        let millis =
            |points: &[(Timestamp, Option<f64>)]| points.iter().map(|(at, v)| json!([at, v])).collect::<Vec<_>>();
        match self {
            Self::Value(f) => json!({
                "value": f.value, "word": f.word, "unit": f.unit, "at": f.at, "state": f.state, "level": text(&f.level),
                "datastreams": f.streams, "reporting": f.fresh, "more": f.more, "simulated": f.simulated, "thing": f.thing,
                "hours": f.spark,
            }),
            Self::List(l) => {
                let entry = |e: &Entry| {
                    let raw = match &e.result {
                        Some(ResultValue::Json(raw)) => json!(super::words(raw)),
                        _ => json!(e.number),
                    };
                    json!({
                        "datastream": e.stream, "value": raw, "of": e.of, "unit": e.unit, "at": e.at, "stale": e.stale,
                        "state": e.state.json(), "level": text(&e.level),
                    })
                };
                let row = |r: &Row| {
                    let entries: Vec<Json> = r.entries.iter().map(|e| e.as_ref().map_or(Json::Null, entry)).collect();
                    json!({
                        "thing": r.thing, "name": r.name.get(language), "state": r.state.json(), "level": text(&r.level),
                        "alarm": r.alarm, "simulated": r.simulated, "at": r.at, "values": entries,
                    })
                };
                let states: BTreeMap<&str, usize> = l.states.iter().map(|(s, n)| (s.name(), *n)).collect();
                json!({
                    "columns": l.columns.iter().map(|c| c.get(language)).collect::<Vec<_>>(),
                    "things": l.things, "more": l.more, "states": states, "rows": l.rows.iter().map(row).collect::<Vec<_>>(),
                })
            }
            Self::Chart(c) => json!({
                "unit": c.unit, "from": c.from, "period": c.period, "step": c.step, "points": millis(&c.points),
                "before": millis(&c.before), "mean": c.now_mean, "mean_before": c.before_mean, "datastreams": c.streams,
                "left_out": c.left_out, "simulated": c.simulated,
            }),
            Self::Alarms(a) if a.hidden => json!({ "hidden": true }),
            Self::Alarms(a) => {
                let counts: Vec<Json> = a
                    .counts
                    .iter()
                    .map(
                        |(severity, n)| json!({ "severity": severity, "open": n.open, "acknowledged": n.acknowledged }),
                    )
                    .collect();
                let newest: Vec<Json> = a
                    .newest
                    .iter()
                    .map(|alarm| {
                        json!({
                            "id": alarm.id, "name": alarm.name.get(language), "thing": alarm.thing,
                            "thing_name": alarm.thing_name.get(language), "severity": alarm.severity, "state": alarm.state,
                            "raised_at": alarm.raised_at,
                        })
                    })
                    .collect();
                json!({ "hidden": false, "counts": counts, "newest": newest })
            }
            Self::Map(m) => {
                let place = |p: &Place| {
                    json!({
                        "thing": p.thing, "name": p.name.get(language), "position": p.position, "state": p.state.json(),
                        "level": text(&p.level), "value": p.value.as_ref().map(|v| v.0), "unit": p.value.as_ref().map(|v| &v.1), "at": p.at,
                    })
                };
                json!({ "places": m.places.iter().map(place).collect::<Vec<_>>(), "more": m.more, "simulated": m.simulated })
            }
            Self::Heat(h) => json!({
                "unit": h.unit, "weeks": h.weeks, "days": h.cells, "datastreams": h.streams, "left_out": h.left_out, "simulated": h.simulated,
            }),
            Self::Text(t) => json!({ "text": t.get(language) }),
        }
    }
}
