//! Profiles at depth: what an instrument said on its way down. Pure but for the reading.
//!
//! An Observation at a depth says so in `parameters.depth`, in metres below the surface. An Observation is named by its Datastream, phenomenonTime and
//! FeatureOfInterest, so the samples of a cast are at times of their own, as those of an instrument that is lowered are; several depths at one time need a FeatureOfInterest each (a
//! sampling point of ISO 19156). Samples that follow each other within [`PAUSE_SECS`] are one cast, or those that carry the same `parameters.cast`.

use kernel::Timestamp;
use serde::{Deserialize, Serialize};

use super::Moving;
use crate::{
    Error,
    model::{EntityId, Observation},
    observe::{Order, SeriesQuery},
};

/// Seconds without a sample after which the next is of another cast.
pub const PAUSE_SECS: i64 = 600;
/// Casts of one answer.
pub const MAX_CASTS: usize = 200;
/// Observations that one question reads.
pub const MAX_SAMPLES: usize = 20_000;
/// Metres: deeper than any sea.
const MAX_DEPTH: f64 = 12_000.0;

#[derive(Deserialize)]
struct Said {
    depth: f64,
    #[serde(default)]
    cast: Option<String>,
}

/// One sample.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Sample {
    /// Metres below the surface.
    pub depth: f64,
    pub value: f64,
    pub at: Timestamp,
    /// Its `resultQuality` names a fault.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub faulty: bool,
}

/// What was sampled on one way down, the shallowest first.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cast {
    pub from: Timestamp,
    pub to: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub samples: Vec<Sample>,
}

impl Cast {
    /// The value at a depth, between the samples above and below it; `None` where the cast did not reach.
    pub fn at(&self, depth: f64) -> Option<f64> {
        let good: Vec<&Sample> = self.samples.iter().filter(|s| !s.faulty).collect();
        let below = good.iter().position(|s| s.depth >= depth)?;
        let after = good[below];
        if after.depth == depth {
            return Some(after.value);
        }
        let before = good[below.checked_sub(1)?];
        let part = (depth - before.depth) / (after.depth - before.depth);
        Some(before.value + (after.value - before.value) * part)
    }
}

fn sample(o: &Observation) -> Option<(Sample, Option<String>)> {
    let value = o.result.number().filter(|v| v.is_finite())?;
    let said: Said = serde_json::from_str(o.parameters.as_ref()?.get()).ok()?;
    let faulty = o.quality.as_ref().is_some_and(|q| crate::rules::quality::is_faulty(q.get()));
    let depth = Some(said.depth).filter(|d| (0.0..=MAX_DEPTH).contains(d))?;
    Some((Sample { depth, value, at: o.phenomenon.start, faulty }, said.cast))
}

/// The casts in these Observations, which are in the order of time; oldest first. What has no depth is in none.
pub fn casts(observations: &[Observation]) -> Vec<Cast> {
    let mut casts: Vec<Cast> = Vec::new();
    for (sample, name) in observations.iter().filter_map(sample) {
        let same = casts.last().is_some_and(|cast| match (&cast.name, &name) {
            (Some(a), Some(b)) => a == b,
            (None, None) => sample.at.micros_since(cast.to) <= PAUSE_SECS * 1_000_000,
            _ => false,
        });
        match casts.last_mut().filter(|_| same) {
            Some(cast) => {
                cast.to = sample.at;
                cast.samples.push(sample);
            }
            None => casts.push(Cast { from: sample.at, to: sample.at, name, samples: vec![sample] }),
        }
    }
    for cast in &mut casts {
        cast.samples.sort_by(|a, b| a.depth.total_cmp(&b.depth).then(a.at.cmp(&b.at)));
    }
    casts
}

/// What was found, and whether it is all.
#[derive(Clone, PartialEq, Debug)]
pub struct Section {
    pub casts: Vec<Cast>,
    pub complete: bool,
}

impl Moving {
    /// The newest casts of a Datastream between two times. A cast that the bound on Observations cuts is left out.
    ///
    /// # Errors
    /// 503 when the series cannot be read.
    pub async fn casts(
        &self,
        datastream: EntityId,
        from: Timestamp,
        to: Timestamp,
        most: usize,
    ) -> Result<Section, Error> {
        let query = SeriesQuery {
            from: Some(from),
            to: Some(to),
            order: Order::Descending,
            limit: MAX_SAMPLES + 1,
            ..SeriesQuery::all(datastream)
        };
        let mut found = self.observe().read(query).await?;
        let cut = found.len() > MAX_SAMPLES;
        found.reverse();
        let mut casts = casts(&found);
        if cut && !casts.is_empty() {
            casts.remove(0);
        }
        let more = casts.len().saturating_sub(most);
        casts.drain(..more);
        Ok(Section { casts, complete: !cut && more == 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernel::Interval;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::model::ResultValue;

    fn observed(second: i64, value: f64, parameters: &str) -> Observation {
        let raw = |text: &str| Arc::<RawValue>::from(RawValue::from_string(text.to_owned()).expect("json"));
        Observation {
            datastream: EntityId(1),
            phenomenon: Interval::instant(Timestamp::from_secs(second)),
            result_time: None,
            result: ResultValue::Number(value),
            feature: EntityId(1),
            quality: None,
            valid: None,
            parameters: Some(raw(parameters)),
        }
    }

    #[test]
    fn a_pause_or_a_name_ends_a_cast() {
        let rows = [
            observed(0, 28.0, r#"{"depth": 1}"#),
            observed(30, 26.0, r#"{"depth": 5.5}"#),
            observed(20_000, 27.0, r#"{"depth": 3}"#),
            observed(20_010, 27.5, r#"{"depth": 1}"#),
            observed(20_020, 20.0, r#"{"depth": 1, "cast": "A"}"#),
            observed(20_030, 19.0, r#"{"depth": 9, "cast": "A"}"#),
            observed(20_040, 18.0, r#"{"depth": 1, "cast": "B"}"#),
            observed(20_050, 99.0, r#"{"deep": 1}"#),
            observed(20_060, 99.0, r#"{"depth": -1}"#),
            observed(20_070, 99.0, r#"{"depth": "deep"}"#),
        ];
        let found = casts(&rows);
        let shown: Vec<Vec<f64>> = found.iter().map(|c| c.samples.iter().map(|s| s.depth).collect()).collect();
        assert_eq!(shown, [vec![1.0, 5.5], vec![1.0, 3.0], vec![1.0, 9.0], vec![1.0]]);
        assert_eq!(found[0].at(1.0), Some(28.0));
        assert_eq!(found[0].at(3.25), Some(27.0));
        assert_eq!((found[0].at(0.5), found[0].at(6.0)), (None, None), "nothing is made up beyond what was sampled");
    }

    proptest! {
        /// Every sample with a depth is in one cast; a value between two samples lies between theirs.
        #[test]
        fn nothing_is_lost(all in proptest::collection::vec((1i64..2_000, 0.0f64..60.0, -5.0f64..40.0), 0..100), depth in 0.0f64..60.0) {
            let mut second = 0;
            let rows: Vec<Observation> = all.iter().map(|(step, depth, value)| {
                second += step;
                observed(second, *value, &format!(r#"{{"depth": {depth}}}"#))
            }).collect();
            let found = casts(&rows);
            prop_assert_eq!(found.iter().map(|c| c.samples.len()).sum::<usize>(), rows.len());
            for cast in &found {
                let values = || cast.samples.iter().map(|s| s.value);
                let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
                prop_assert!(cast.at(depth).is_none_or(|v| v >= low - 1e-9 && v <= high + 1e-9));
                prop_assert!(cast.samples.is_sorted_by(|a, b| a.depth <= b.depth));
            }
        }
    }
}
