//! One write of line protocol: rows to Datastreams, and what became of every line.
//!
//! The text is gone through once. What is the same in many rows (measurement and tags, and which field of them goes where) is worked out once for each
//! series; all Datastreams of the request are then found together; numbers go into columns as they are.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use kernel::{Caller, Interval, Problem, Tenant, Timestamp};
use serde_json::json;

use super::{
    super::{
        Admission, Door, Ingest, Known,
        declaration::{Create, Doors, LineDoor, LineValue, Others, ReadingForm, Shape, code},
    },
    parse::{Lines, Series, Value, field_name, series},
};
use crate::{
    Error,
    catalog::Declared,
    connect::report::shorten,
    model::{DatastreamInfo, EntityType, Observation, ObservationType, ResultValue},
    observe::{Batch, Run},
    route::action,
    sta::Sent,
};

/// Values of one request. Agents send some thousands.
const MAX_VALUES: usize = 1_000_000;
/// Different series of one request, and Things that one request may bring forth.
const MAX_SERIES: usize = 100_000;
const MAX_MADE: usize = 500;
/// Lines whose mistake is told; all are counted.
const TOLD: usize = 20;
/// Beyond, an integer is no longer the number that was sent (IEEE 754 binary64).
const EXACT: u64 = 1 << 53;
/// Values after which others may run.
const TURN: usize = 16_384;
/// Fields of one series that nobody has declared and that are remembered: whoever sends others in each line has each looked up by itself, and never
/// searched for among all that came before.
const STRANGE: usize = 64;

/// What stands in the address of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// `bucket` of version 2, `db` of version 1.
    pub bucket: Option<String>,
    pub precision: Precision,
}

/// The unit of the timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    /// Version 1 only.
    Minutes,
    Hours,
}

impl Precision {
    /// # Errors
    /// What would be right.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        Ok(match text {
            None | Some("" | "ns" | "n") => Self::Nanoseconds,
            Some("us" | "u") => Self::Microseconds,
            Some("ms") => Self::Milliseconds,
            Some("s") => Self::Seconds,
            Some("m") => Self::Minutes,
            Some("h") => Self::Hours,
            Some(_) => return Err("one of ns, us, ms and s is expected".to_owned()),
        })
    }
    /// Observations know microseconds; what is finer goes towards the past.
    fn instant(self, time: i64) -> Option<Timestamp> {
        let micros = match self {
            Self::Nanoseconds => time.div_euclid(1_000),
            Self::Microseconds => time,
            Self::Milliseconds => time.checked_mul(1_000)?,
            Self::Seconds => time.checked_mul(1_000_000)?,
            Self::Minutes => time.checked_mul(60_000_000)?,
            Self::Hours => time.checked_mul(3_600_000_000)?,
        };
        let at = Timestamp::from_micros(micros);
        (Timestamp::MIN..=Timestamp::MAX).contains(&at).then_some(at)
    }
}

/// What became of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub lines: usize,
    /// Observations.
    pub recorded: usize,
    /// Lines of which something was not taken.
    pub refused: usize,
    /// The first of them, and why.
    pub told: Vec<(usize, String)>,
    /// Fields that are passed over by declaration.
    pub ignored: usize,
    last: usize,
    /// Lines that are refused in part already and have values that may still be: each counts once.
    partly: Vec<usize>,
}

impl Written {
    fn refuse(&mut self, line: usize, detail: impl Into<String>) {
        // Lines are met in order, but for those that fail when their Datastream is known.
        if self.last != line {
            self.last = line;
            self.refused += 1;
            if self.told.len() < TOLD {
                self.told.push((line, detail.into()));
            }
        }
    }
}

/// Where a field of a series goes.
#[derive(Clone, Debug)]
enum Goal {
    Slot(usize),
    Ignored,
    Wrong(String),
}

/// One value to be recorded.
struct Cell<'a> {
    line: usize,
    slot: usize,
    at: Timestamp,
    value: Value<'a>,
}

/// A Datastream that the request names.
struct Slot<'d> {
    key: String,
    value: &'d LineValue,
    /// How it is made, when it is not there.
    make: Option<Make>,
    known: Result<Arc<DatastreamInfo>, String>,
}

#[derive(Clone)]
struct Make {
    thing: String,
    name: String,
    description: String,
    create: Create,
    shape: Shape,
}

/// What is worked out for each series of the request.
struct Plan<'a, 'd> {
    /// The declaration and the tags, or why there is none.
    of: Result<(&'d LineDoor, Series<'a>), String>,
    fields: Vec<(&'a str, Goal)>,
    /// How many of them are nobody's.
    strange: usize,
}

struct Request<'a, 'd> {
    tenant: &'a Tenant,
    doors: &'d Doors,
    bucket: Option<&'a str>,
    plans: Vec<Plan<'a, 'd>>,
    by_series: HashMap<&'a str, usize, RandomState>,
    slots: Vec<Slot<'d>>,
    /// By key and by the place of the value in memory: two values may go to one Datastream, each with its own scale.
    by_key: HashMap<(String, usize), usize, RandomState>,
}

impl<'a, 'd> Request<'a, 'd> {
    fn plan(&mut self, text: &'a str) -> Result<usize, String> {
        if let Some(known) = self.by_series.get(text) {
            return Ok(*known);
        }
        if self.plans.len() >= MAX_SERIES {
            return Err(format!("a request has at most {MAX_SERIES} series"));
        }
        let of = series(text).and_then(|series| match self.door(&series) {
            Some(door) => Ok((door, series)),
            None => Err(format!(
                "nothing is declared for the measurement '{}' with these tags",
                shorten(&series.measurement)
            )),
        });
        self.plans.push(Plan { of, fields: Vec::new(), strange: 0 });
        self.by_series.insert(text, self.plans.len() - 1);
        Ok(self.plans.len() - 1)
    }

    fn door(&self, series: &Series<'_>) -> Option<&'d LineDoor> {
        self.doors.line.iter().find(|door| {
            let form = &door.form;
            form.tenant == *self.tenant
                && form.measurement == series.measurement
                && form.bucket.as_deref().is_none_or(|bucket| self.bucket == Some(bucket))
                && form
                    .only
                    .iter()
                    .all(|(tag, any)| series.tag(tag).is_some_and(|value| any.iter().any(|a| a == value)))
        })
    }

    /// Where a field goes; worked out once for each field of a series.
    fn goal(&mut self, plan: usize, name: &'a str) -> Goal {
        if let Some((_, goal)) = self.plans[plan].fields.iter().find(|(known, _)| *known == name) {
            return goal.clone();
        }
        let goal = self.find(plan, name);
        let known = &mut self.plans[plan];
        let strange = !matches!(goal, Goal::Slot(_));
        known.strange += usize::from(strange);
        // Names are kept as they are written, and one name may be written in many ways: so neither kind is kept without a bound.
        if known.fields.len() < STRANGE + known.of.as_ref().map_or(0, |(door, _)| door.form.value.len())
            && (!strange || known.strange <= STRANGE)
        {
            known.fields.push((name, goal.clone()));
        }
        goal
    }

    fn find(&mut self, plan: usize, name: &str) -> Goal {
        let (door, series) = match &self.plans[plan].of {
            Ok(of) => of,
            Err(reason) => return Goal::Wrong(reason.clone()),
        };
        let field = field_name(name);
        let Some(nth) = door.form.value.iter().position(|value| value.field == field) else {
            return match door.form.others {
                Others::Ignore => Goal::Ignored,
                Others::Refuse => Goal::Wrong(format!("the field '{}' is not declared", shorten(&field))),
            };
        };
        let tag = |name: &str| series.tag(name).map(std::borrow::Cow::Borrowed);
        let mut key = String::new();
        if let Err((tag, text, reason)) = door.datastreams[nth].render(&door.form.tables, &mut key, tag) {
            let told = if text.is_empty() {
                format!("the line has no tag '{tag}'")
            } else {
                format!("the tag '{tag}' is '{}': {reason}", shorten(&text))
            };
            return Goal::Wrong(told);
        }
        let value = &door.form.value[nth];
        let make = match (&door.thing, &door.form.create, &value.shape) {
            (Some((thing, name, description)), Some(create), Some(shape)) => {
                let mut texts = [String::new(), String::new(), String::new()];
                let made = [thing, name, description]
                    .iter()
                    .zip(&mut texts)
                    .all(|(template, out)| template.render(&door.form.tables, out, tag).is_ok());
                let [thing, name, description] = texts;
                made.then(|| Make { thing, name, description, create: create.clone(), shape: shape.clone() })
            }
            _ => None,
        };
        let of = (key, std::ptr::from_ref(value).addr());
        if let Some(slot) = self.by_key.get(&of) {
            return Goal::Slot(*slot);
        }
        self.slots.push(Slot { key: of.0.clone(), value, make, known: Err(String::new()) });
        self.by_key.insert(of, self.slots.len() - 1);
        Goal::Slot(self.slots.len() - 1)
    }
}

impl Ingest {
    /// Records what a request of line protocol says. Lines that are not understood, or do not fit, are refused one by one; the others are durable when this
    /// returns. A line without a timestamp is of now.
    ///
    /// # Errors
    /// 400 when the text is not UTF-8; 401 and 403; 413 with more values than a request may have: nothing was taken then. 503 when it cannot be made durable now: sending all of it again is
    /// safe.
    pub async fn write(&self, caller: &Caller, query: &Query, body: &[u8]) -> Result<Written, Error> {
        let tenant = self.tenant(caller)?;
        let text = std::str::from_utf8(body).map_err(|e| {
            let line = 1 + memchr::memchr_iter(b'\n', &body[..e.valid_up_to()]).count();
            Problem::field(format!("line {line}"), "UTF-8 is expected")
        })?;
        let outcome = self.record_lines(caller, &tenant, query, text).await;
        match &outcome {
            Ok((written, newest)) => {
                self.count(Door::Line, written.recorded, written.refused);
                if written.recorded > 0 {
                    self.sent(caller, Sent::Recorded(written.recorded as u64, *newest));
                }
                if let Some((line, why)) = written.told.first() {
                    self.sent(caller, Sent::Refused(&format!("line {line}: {why}")));
                }
            }
            Err(Error::Refused(problem)) if problem.status.is_client_error() => {
                self.sent(caller, Sent::Refused(&problem.detail))
            }
            Err(_) => {}
        }
        outcome.map(|(written, _)| written)
    }

    async fn record_lines(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        query: &Query,
        text: &str,
    ) -> Result<(Written, Option<Timestamp>), Error> {
        let doors = self.0.doors.load_full();
        let now = self.0.catalog.now();
        let mut written = Written::default();
        let (mut cells, mut slots) = read(tenant, &doors, query, now, text, &mut written).await?;
        self.find_all(caller, tenant, &mut slots).await?;
        // Runs of one Datastream; the order within each stays, so that of two rows of one time the later stands.
        cells.sort_by_key(|cell| cell.slot);
        let newest = cells.iter().map(|cell| cell.at).max();
        let (mut batches, mut batch) = (Vec::new(), Batch::new());
        let mut misfits: Vec<(usize, String)> = Vec::new();
        for (nth, group) in cells.chunk_by(|a, b| a.slot == b.slot).enumerate() {
            if nth % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let slot = &slots[group[0].slot];
            match &slot.known {
                Err(reason) => misfits.extend(group.iter().map(|cell| (cell.line, reason.clone()))),
                Ok(info) => {
                    for part in group.chunks(Batch::MAX_ROWS) {
                        if batch.len() + part.len() > Batch::MAX_ROWS {
                            batches.push(std::mem::take(&mut batch));
                        }
                        fill(slot, info, part, &mut batch, &mut misfits);
                    }
                }
            }
        }
        batches.push(batch);
        let mut broken = std::mem::take(&mut written.told);
        misfits.sort_by_key(|(line, _)| *line);
        misfits.dedup_by_key(|(line, _)| *line);
        written.refused += misfits.iter().filter(|(line, _)| written.partly.binary_search(line).is_err()).count();
        broken.extend(misfits);
        broken.sort_by_key(|(line, _)| *line);
        broken.dedup_by_key(|(line, _)| *line);
        broken.truncate(TOLD);
        written.told = broken;
        for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
            written.recorded += batch.len();
            self.0.observe.record(batch).await?;
        }
        Ok((written, newest))
    }

    /// Finds every Datastream of the request with one question, and makes those that are declared to be made.
    async fn find_all(&self, caller: &Caller, tenant: &Tenant, slots: &mut [Slot<'_>]) -> Result<(), Error> {
        let mut keys: Vec<String> = slots.iter().map(|slot| slot.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut known = self.0.catalog.keyed(tenant, keys).await?;
        let missing: Vec<&Slot<'_>> =
            slots.iter().filter(|s| s.make.is_some() && !known.contains_key(&s.key)).collect();
        let mut why = None;
        if !missing.is_empty() {
            let resource = kernel::Resource { kind: "Thing", id: "", tenant: Some(tenant), public: false };
            if caller.is_system() || self.0.catalog.scopes().policy().allows(caller, action::WRITE, &resource) {
                let made = self.make(caller, tenant, &missing).await?;
                known.extend(made);
            } else {
                why = Some("it would be made for a caller with the right to write");
            }
        }
        let mut refused = 0;
        for slot in slots.iter_mut() {
            slot.known = match known.get(&slot.key) {
                None => {
                    let why = why.filter(|_| slot.make.is_some()).map(|w| format!("; {w}")).unwrap_or_default();
                    Err(format!("there is no Datastream '{}'{why}", shorten(&slot.key)))
                }
                Some(info) => match self.admission(caller, info) {
                    Admission::Yes => Ok(Arc::clone(info)),
                    Admission::No => {
                        refused += 1;
                        Err(format!("you may not add Observations to '{}'", shorten(&slot.key)))
                    }
                    Admission::Hidden => Err(format!("there is no Datastream '{}'", shorten(&slot.key))),
                },
            };
        }
        match slots.first() {
            Some(first) if refused == slots.len() => {
                Err(Problem::forbidden(format!("You may not add Observations to '{}'.", shorten(&first.key))).into())
            }
            _ => Ok(()),
        }
    }

    /// Makes Things and Datastreams by their declaration, as the caller. Things that are there are left as they are.
    async fn make(&self, caller: &Caller, tenant: &Tenant, missing: &[&Slot<'_>]) -> Result<Known, Error> {
        let catalog = &self.0.catalog;
        let (mut things, mut streams): (Vec<Declared>, Vec<Declared>) = (Vec::new(), Vec::new());
        let mut shared: HashMap<(EntityType, String), i64> = HashMap::new();
        for slot in missing {
            let Some(make) = &slot.make else { continue };
            if streams.iter().any(|s| s.key == slot.key) {
                continue;
            }
            if things.len() + streams.len() >= MAX_MADE {
                let detail = format!("The request would make more than {MAX_MADE} entities. Send it in parts.");
                return Err(Problem::too_large(detail).into());
            }
            if !things.iter().any(|t| t.key == make.thing)
                && catalog.by_key(EntityType::Thing, tenant, &make.thing).await?.is_none()
            {
                things.push(thing(make));
            }
            let links = [
                (EntityType::Sensor, &make.shape.sensor),
                (EntityType::ObservedProperty, &make.shape.observed_property),
            ];
            for (entity, key) in links {
                let of = (entity, key.clone());
                if shared.contains_key(&of) {
                    continue;
                }
                let own = catalog.by_key(entity, tenant, key).await?;
                let found = match own {
                    Some(id) => Some(id),
                    None => catalog.by_key(entity, &self.0.operations, key).await?,
                };
                let detail = || format!("The declaration names the {} '{key}', which is not there.", entity.singular());
                shared.insert(of, found.ok_or_else(|| Error::conflict(detail()))?.0);
            }
            let id = |entity: EntityType, key: &str| shared.get(&(entity, key.to_owned())).copied().unwrap_or_default();
            streams.push(datastream(
                slot,
                make,
                id(EntityType::Sensor, &make.shape.sensor),
                id(EntityType::ObservedProperty, &make.shape.observed_property),
            ));
        }
        let keys = streams.iter().map(|s| s.key.clone()).collect();
        catalog.upsert_all(caller, tenant, things.into_iter().chain(streams).collect()).await?;
        catalog.keyed(tenant, keys).await
    }
}

fn thing(make: &Make) -> Declared {
    let mut properties = json!({ "key": make.thing });
    if let Some(system) = &make.create.system {
        properties["system"] = json!(system);
    }
    if make.create.simulated {
        properties["simulated"] = json!(true);
    }
    let body = json!({
        "name": make.name, "description": make.description, "properties": properties, "@lamppost.public": make.create.public,
    });
    Declared { entity: EntityType::Thing, key: make.thing.clone(), body }
}

fn datastream(slot: &Slot<'_>, make: &Make, sensor: i64, property: i64) -> Declared {
    let shape = &make.shape;
    let mut properties = json!({ "key": slot.key });
    if let Some(interval) = shape.interval {
        properties["interval"] = json!(interval);
    }
    if make.create.simulated {
        properties["simulated"] = json!(true);
    }
    let unit = shape.unit.as_ref().map_or(
        json!({"name": null, "symbol": null, "definition": null}),
        |u| json!({"name": u.name, "symbol": u.symbol, "definition": u.definition}),
    );
    let body = json!({
        "name": shape.name,
        "description": shape.description.as_ref().unwrap_or(&shape.name),
        "observationType": code(&shape.observation_type),
        "unitOfMeasurement": unit,
        "properties": properties,
        "@lamppost.public": make.create.public,
        "Thing": {"@iot.key": make.thing},
        "Sensor": {"@iot.id": sensor},
        "ObservedProperty": {"@iot.id": property},
    });
    Declared { entity: EntityType::Datastream, key: slot.key.clone(), body }
}

/// Goes through the text once.
async fn read<'a, 'd>(
    tenant: &'a Tenant,
    doors: &'d Doors,
    query: &'a Query,
    now: Timestamp,
    text: &'a str,
    written: &mut Written,
) -> Result<(Vec<Cell<'a>>, Vec<Slot<'d>>), Error> {
    let mut request = Request {
        tenant,
        doors,
        bucket: query.bucket.as_deref(),
        plans: Vec::new(),
        by_series: HashMap::default(),
        slots: Vec::new(),
        by_key: HashMap::default(),
    };
    let mut cells = Vec::new();
    let mut work = 0;
    for row in Lines::new(text) {
        written.lines += 1;
        work += 1;
        // By what was done and not by lines: one may have a thousand fields.
        if work >= TURN {
            work = 0;
            tokio::task::yield_now().await;
        }
        let row = match row {
            Ok(row) => row,
            Err(broken) => {
                written.refuse(broken.line, broken.detail);
                continue;
            }
        };
        let at = match row.time {
            None => Some(now),
            Some(time) => query.precision.instant(time),
        };
        let Some(at) = at else {
            written.refuse(row.line, "the timestamp is no time from year 1 to 9999: is the precision right?");
            continue;
        };
        let plan = request.plan(row.series).map_err(Problem::too_large)?;
        let (before, refused) = (cells.len(), written.refused);
        for field in row.fields() {
            work += 1;
            let (name, value) = match field {
                Ok(field) => field,
                Err(detail) => {
                    // Half a line is no line.
                    cells.truncate(before);
                    written.refuse(row.line, detail);
                    break;
                }
            };
            match request.goal(plan, name) {
                Goal::Ignored => written.ignored += 1,
                Goal::Wrong(reason) => written.refuse(row.line, reason),
                Goal::Slot(slot) => cells.push(Cell { line: row.line, slot, at, value }),
            }
        }
        if written.refused > refused && cells.len() > before {
            written.partly.push(row.line);
        }
        if cells.len() > MAX_VALUES {
            return Err(
                Problem::too_large(format!("A request has at most {MAX_VALUES} values. Send it in parts.")).into()
            );
        }
    }
    Ok((cells, request.slots))
}

/// Puts the values of one Datastream into the batch.
fn fill(
    slot: &Slot<'_>,
    info: &DatastreamInfo,
    cells: &[Cell<'_>],
    batch: &mut Batch,
    misfits: &mut Vec<(usize, String)>,
) {
    let form = &slot.value.reading;
    let plain = form.words.is_empty() && info.elements.is_none();
    let mut run = Run::new(info.id, info.feature);
    for cell in cells {
        let number = match number(&cell.value) {
            Ok(number) => number,
            Err(reason) => {
                misfits.push((cell.line, format!("{}: {reason}", slot.value.field)));
                continue;
            }
        };
        if let (Some(n), true, ObservationType::Measurement | ObservationType::Any) =
            (number, plain, info.observation_type)
        {
            let scaled = n * form.scale + form.offset;
            if scaled.is_finite() {
                run.push_number(cell.at, scaled);
                continue;
            }
        }
        match result(&cell.value, number, form, info) {
            Err(reason) => misfits.push((cell.line, format!("{}: {reason}", slot.value.field))),
            Ok(result) => {
                batch.push_run(std::mem::replace(&mut run, Run::new(info.id, info.feature)));
                batch.push(Observation {
                    datastream: info.id,
                    phenomenon: Interval::instant(cell.at),
                    result_time: None,
                    result,
                    feature: info.feature,
                    quality: None,
                    valid: None,
                    parameters: None,
                });
            }
        }
    }
    batch.push_run(run);
}

/// The value as a number, when it is one.
#[expect(clippy::cast_precision_loss, reason = "what would lose any is refused")]
fn number(value: &Value<'_>) -> Result<Option<f64>, String> {
    let exact = |n: u64| {
        if n <= EXACT {
            Ok(())
        } else {
            Err("an integer beyond 2^53 cannot be kept exactly; write it as a float or a text".to_owned())
        }
    };
    match value {
        Value::Float(n) => Ok(Some(*n)),
        Value::Integer(n) => exact(n.unsigned_abs()).map(|()| Some(*n as f64)),
        Value::Unsigned(n) => exact(*n).map(|()| Some(*n as f64)),
        Value::Boolean(_) | Value::Text(_) => Ok(None),
    }
}

fn result(
    value: &Value<'_>,
    number: Option<f64>,
    form: &ReadingForm,
    info: &DatastreamInfo,
) -> Result<ResultValue, String> {
    let result = match (value, number) {
        (Value::Text(text), _) => {
            let numeric = matches!(info.observation_type, ObservationType::Measurement | ObservationType::Count);
            if form.words.is_empty() && numeric {
                return Err("a number is expected, not a text".to_owned());
            }
            form.result(text, info)?
        }
        (Value::Boolean(truth), _) => form.result(if *truth { "true" } else { "false" }, info)?,
        (_, Some(n)) => {
            let numeric = matches!(info.observation_type, ObservationType::Category | ObservationType::Text);
            if form.words.is_empty() && numeric {
                return Err("a text in quotes is expected".to_owned());
            }
            form.result(&n.to_string(), info)?
        }
        (_, None) => return Err("a number is expected".to_owned()),
    };
    info.check(&result).map_err(|e| e.to_string())?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_in_every_precision() {
        let at = |precision: &str, time: i64| {
            Precision::parse(Some(precision)).expect("known").instant(time).map(|t| t.to_string())
        };
        let noon = Some("2026-11-22T12:00:00Z".to_owned());
        assert_eq!(at("ns", 1_795_348_800_000_000_999), noon);
        assert_eq!(at("us", 1_795_348_800_000_000), noon);
        assert_eq!(at("ms", 1_795_348_800_000), noon);
        assert_eq!(at("s", 1_795_348_800), noon);
        assert_eq!(at("m", 1_795_348_800 / 60), noon);
        assert_eq!(at("h", 1_795_348_800 / 3_600), noon);
        assert_eq!(at("ns", -1), Some("1969-12-31T23:59:59.999999Z".to_owned()));
        // Nanoseconds that somebody calls seconds.
        assert_eq!(at("s", 1_795_348_800_000_000_000), None);
        assert!(Precision::parse(Some("d")).is_err());
    }

    /// Whoever writes other names in each line would have each of them searched for among all that came before.
    #[test]
    fn names_of_nobody_are_not_remembered_without_end() {
        let (tenant, doors) = (Tenant::parse("fehd").expect("slug"), Doors::default());
        let names: Vec<String> = (0..10_000).map(|n| format!("f{n}")).collect();
        let mut request = Request {
            tenant: &tenant,
            doors: &doors,
            bucket: None,
            plans: Vec::new(),
            by_series: HashMap::default(),
            slots: Vec::new(),
            by_key: HashMap::default(),
        };
        let plan = request.plan("pump,id=thing").expect("a series");
        for name in &names {
            assert!(matches!(request.goal(plan, name), Goal::Wrong(_)));
        }
        assert!(request.plans[plan].fields.len() <= STRANGE);
    }
}
