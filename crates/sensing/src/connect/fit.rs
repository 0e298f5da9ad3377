//! Readings to Observations, by what the Datastream admits; and what of a series is new. Pure.

use std::{collections::HashMap, sync::Arc};

use kernel::{Interval, Timestamp};
use serde_json::value::RawValue;

use super::{
    declaration::Plan,
    map::{Content, MISSING, Reading, quality},
    time::When,
};
use crate::model::{DatastreamInfo, Observation, ObservationId, ObservationType, ResultValue};

/// A reading as an Observation of its Datastream.
///
/// # Errors
/// Why the Datastream does not admit it.
pub fn fit(reading: &Reading, plan: &Plan, info: &DatastreamInfo) -> Result<Observation, String> {
    let result = match &reading.content {
        Content::Missing => ResultValue::Json(RawValue::NULL.to_owned().into()),
        Content::Number(n) => ResultValue::Number(*n),
        Content::Text(text) => result(text, plan, info.observation_type)?,
    };
    info.check(&result).map_err(|e| e.to_string())?;
    let missing = reading.content == Content::Missing && reading.quality.is_none();
    Ok(Observation {
        datastream: info.id,
        phenomenon: reading.at,
        result_time: None,
        result,
        feature: info.feature,
        quality: if missing { Some(quality(MISSING, None)) } else { reading.quality.clone() },
        valid: None,
        parameters: None,
    })
}

fn result(text: &str, plan: &Plan, kind: ObservationType) -> Result<ResultValue, String> {
    result_of(text, (plan.scale, plan.offset), kind)
}

/// A published text as a result; a number is scaled and moved.
///
/// # Errors
/// What a Datastream of this kind expects.
pub(crate) fn result_of(text: &str, (scale, offset): (f64, f64), kind: ObservationType) -> Result<ResultValue, String> {
    let json = |value: serde_json::Value| Ok(ResultValue::Json(crate::model::raw(&value)));
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| n * scale + offset);
    match kind {
        ObservationType::Measurement | ObservationType::Count => number
            .filter(|n| n.is_finite())
            .map(ResultValue::Number)
            .ok_or_else(|| "a number is expected; declare what else may stand there under placeholders".to_owned()),
        ObservationType::Truth => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => json(true.into()),
            "false" | "0" | "no" => json(false.into()),
            _ => Err("true or false is expected".to_owned()),
        },
        ObservationType::Category | ObservationType::Text | ObservationType::Temporal if text.is_empty() => {
            Err("a text is expected; declare what an empty one means under placeholders".to_owned())
        }
        ObservationType::Category | ObservationType::Text | ObservationType::Temporal => json(text.into()),
        ObservationType::Geometry | ObservationType::Complex => {
            let value =
                serde_json::from_str::<serde_json::Value>(text).map_err(|e| format!("JSON is expected: {e}"))?;
            json(value)
        }
        ObservationType::Any => {
            number.filter(|n| n.is_finite()).map_or_else(|| json(text.into()), |n| Ok(ResultValue::Number(n)))
        }
    }
}

/// One series' share of a window.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub observation: Observation,
    /// Made for a step that no row gives: it never replaces what is stored.
    pub gap: bool,
}

/// Sorts by time and keeps the last of those with the same identity; how many were dropped.
pub fn settle(mut observations: Vec<Observation>) -> (Vec<Candidate>, u64) {
    let before = observations.len();
    // The sort is stable, so of equal identities the last one is the last row of the file.
    observations.sort_by_key(Observation::id);
    let mut kept: Vec<Candidate> = Vec::with_capacity(before);
    for observation in observations {
        match kept.last_mut().filter(|last| last.observation.id() == observation.id()) {
            Some(last) => last.observation = observation,
            None => kept.push(Candidate { observation, gap: false }),
        }
    }
    let dropped = before - kept.len();
    (kept, dropped as u64)
}

/// The extent of a series that earlier windows of the same file have covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first: Interval,
    pub last: Interval,
}

/// Steps that one run makes up; a wrong year must not become a million Observations.
pub const MAX_GAPS: u64 = 100_000;

/// Fills the steps that `kept` (sorted) leaves out with Observations without a result. `extent` follows. The filled come after the given.
///
/// # Errors
/// The time after which the steps are too many; what was filled until then is kept.
pub fn fill(
    when: &When,
    kept: &mut Vec<Candidate>,
    extent: &mut Option<Extent>,
    left: &mut u64,
) -> Result<(), Timestamp> {
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else { return Ok(()) };
    let (first, last, model) = (first.observation.phenomenon, last.observation.phenomenon, first.observation.clone());
    // What lies between this window and those before it: a file may run from old to new or from new to old.
    let mut bounds: Vec<(Interval, Interval)> = Vec::new();
    match extent {
        Some(known) if known.last.start < first.start => bounds.push((known.last, first)),
        Some(known) if last.start < known.first.start => bounds.push((last, known.first)),
        _ => {}
    }
    bounds.extend(kept.windows(2).map(|pair| (pair[0].observation.phenomenon, pair[1].observation.phenomenon)));
    *extent = Some(match extent {
        None => Extent { first, last },
        Some(known) => Extent { first: known.first.min(first), last: known.last.max(last) },
    });
    let nothing: Arc<RawValue> = RawValue::NULL.to_owned().into();
    let flag = quality(MISSING, None);
    for (from, to) in bounds {
        for step in (1..).map_while(|n| when.step(from, n)).take_while(|step| step.end <= to.start) {
            if *left == 0 {
                return Err(step.start);
            }
            *left -= 1;
            let observation = Observation {
                phenomenon: step,
                result: ResultValue::Json(nothing.clone()),
                quality: Some(flag.clone()),
                ..model.clone()
            };
            kept.push(Candidate { observation, gap: true });
        }
    }
    Ok(())
}

/// What must be written, given what is stored.
pub fn changed(candidates: Vec<Candidate>, stored: &HashMap<ObservationId, Observation>) -> Vec<Observation> {
    let new = |c: &Candidate| match stored.get(&c.observation.id()) {
        None => true,
        Some(known) => !c.gap && *known != c.observation,
    };
    candidates.into_iter().filter(new).map(|c| c.observation).collect()
}
