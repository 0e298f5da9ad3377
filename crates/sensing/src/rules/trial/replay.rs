//! The run itself. Pure: the machines of [`crate::rules::core`] over rows that somebody has read, and nothing else.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use jiff::tz::TimeZone;
use kernel::{Id, Text, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    alarms::model::Alarm,
    model::{EntityId, Observation, ResultValue},
    moving::{Place, accuracy, place, point},
    observe::{Batch, Extra, Run},
    rules::{
        core::{Core, Happening},
        model::{Facts, Rule, Trust},
        quality,
    },
};

/// What a rule can see of an Observation, in 24 bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    /// The end of its phenomenonTime, in microseconds.
    pub at: i64,
    pub value: f64,
    /// Its Datastream, as a place in the list.
    pub series: u32,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Number,
    /// A number whose `resultQuality` names a fault; only for rules that look at such.
    Faulty,
    /// Something was said that is no number: enough for a rule about silence.
    Other,
    /// A place on the Earth, packed into the value, and the metres that it may be wrong by.
    Fix {
        doubt: u16,
    },
}

/// Ten-millionths of a degree, a centimetre: longitude and latitude in the bits of one number.
const PACKED: f64 = 1e7;

fn pack(place: Place) -> f64 {
    let whole = |degrees: f64| (degrees * PACKED).round() as i32;
    f64::from_bits((u64::from(whole(place.lon).cast_unsigned()) << 32) | u64::from(whole(place.lat).cast_unsigned()))
}
fn unpack(value: f64) -> Option<Place> {
    let bits = value.to_bits();
    let degrees = |half: u64| f64::from((half as u32).cast_signed()) / PACKED;
    Place::new(degrees(bits >> 32), degrees(bits & 0xffff_ffff))
}

impl Row {
    /// `None` for what the rule would pass over.
    pub fn of(o: &Observation, series: u32, trust: Trust) -> Option<Self> {
        let faulty = o.quality.as_ref().is_some_and(|q| quality::is_faulty(q.get()));
        if faulty && trust == Trust::Good {
            return None;
        }
        let number = if faulty { Kind::Faulty } else { Kind::Number };
        let (value, kind) = match &o.result {
            ResultValue::Number(value) => (*value, number),
            ResultValue::Json(raw) => match raw.get().trim() {
                "null" => return None,
                "true" => (1.0, number),
                "false" => (0.0, number),
                json => match place(json) {
                    Some(place) => {
                        let doubt = accuracy(o.parameters.as_ref().map(|p| p.get())).unwrap_or(0.0);
                        (pack(place), Kind::Fix { doubt: doubt.ceil() as u16 })
                    }
                    None => (f64::NAN, Kind::Other),
                },
            },
        };
        Some(Self { at: o.phenomenon.end.as_micros(), value, series, kind })
    }
}

/// One alarm that there would have been.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Episode {
    pub raised_at: Timestamp,
    /// `None` when it would still stand at the end of the span.
    pub cleared_at: Option<Timestamp>,
    /// How long it would have stood, within the span.
    pub seconds: i64,
    pub datastream: EntityId,
    pub thing: EntityId,
    pub thing_name: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub district: Option<String>,
    /// The number that raised it; `None` for silence.
    pub value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A JSON text that cannot be wrong.
fn raw(text: &str) -> Arc<RawValue> {
    RawValue::from_string(text.to_owned()).map_or_else(|_| Arc::from(RawValue::NULL.to_owned()), Arc::from)
}

static FAULTY: LazyLock<Arc<RawValue>> = LazyLock::new(|| raw("\"bad\""));
static OTHER: LazyLock<Arc<RawValue>> = LazyLock::new(|| raw("\"\""));

/// Runs the rule over the rows between two times, and says when it would have raised and for how long, oldest first. `facts` are what it watches and looks
/// at; rows name them by their place there. An Observation is taken to have arrived when it was measured, and silence counts from `from`.
pub fn replay(
    rule: &Arc<Rule>,
    facts: &[Arc<Facts>],
    mut rows: Vec<Row>,
    (from, to): (Timestamp, Timestamp),
    zone: TimeZone,
) -> Vec<Episode> {
    rows.sort_by_key(|row| row.at);
    let mut core = Core::new(from).in_zone(zone);
    core.install(vec![Arc::clone(rule)], facts, &[], &[], from);
    let mut told = Told { to, open: BTreeMap::new(), episodes: Vec::new() };
    for (offset, row) in rows.iter().enumerate() {
        let Some(facts) = facts.get(row.series as usize) else { continue };
        let at = Timestamp::from_micros(row.at);
        let mut run = Run::new(facts.datastream, facts.thing);
        match row.kind {
            Kind::Number => run.push_number(at, row.value),
            Kind::Faulty => run.push(at, row.value, Extra { quality: Some(Arc::clone(&FAULTY)), ..Extra::default() }),
            Kind::Fix { doubt } => {
                let Some(place) = unpack(row.value) else { continue };
                let result = Some(raw(&point(place)));
                let parameters = (doubt > 0).then(|| raw(&format!(r#"{{"accuracy":{doubt}}}"#)));
                run.push(at, f64::NAN, Extra { result, parameters, ..Extra::default() });
            }
            Kind::Other => run.push(at, row.value, Extra { result: Some(Arc::clone(&OTHER)), ..Extra::default() }),
        }
        let mut batch = Batch::new();
        batch.push_run(run);
        core.apply(offset as u64, at, &batch);
        if core.has_happened() {
            told.hear(core.take(false).happenings);
        }
    }
    core.tick(to);
    told.hear(core.take(false).happenings);
    told.episodes.sort_by_key(|e| (e.raised_at, e.datastream));
    told.episodes
}

struct Told {
    to: Timestamp,
    open: BTreeMap<Id<Alarm>, usize>,
    episodes: Vec<Episode>,
}

impl Told {
    fn hear(&mut self, happenings: Vec<Happening>) {
        for happening in happenings {
            match happening {
                Happening::Raised { id, facts, at, value, .. } => {
                    self.open.insert(id, self.episodes.len());
                    self.episodes.push(Episode {
                        raised_at: at,
                        cleared_at: None,
                        seconds: (self.to.micros_since(at) / 1_000_000).max(0),
                        datastream: facts.datastream,
                        thing: facts.thing,
                        thing_name: facts.thing_name.clone(),
                        district: facts.district.clone(),
                        value,
                        unit: facts.unit.clone(),
                    });
                }
                Happening::Cleared { id, at, .. } => {
                    if let Some(episode) = self.open.remove(&id).and_then(|nth| self.episodes.get_mut(nth)) {
                        episode.cleared_at = Some(at);
                        episode.seconds = (at.micros_since(episode.raised_at) / 1_000_000).max(0);
                    }
                }
            }
        }
    }
}
