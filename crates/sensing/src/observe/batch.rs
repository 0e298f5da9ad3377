//! Observations on their way in, as columns.
//!
//! A batch holds runs of one Datastream and one FeatureOfInterest: two numbers a row in two columns. What most
//! observations do not have (an end, a resultTime, a result that is no number, quality, parameters) hangs off the row as
//! an [`Extra`] and costs nothing where it is absent.

use std::sync::Arc;

use kernel::{Interval, Timestamp};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::model::{EntityId, Observation, ObservationId, ResultValue};

/// The parts of an Observation that most do not have.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub result_time: Option<Timestamp>,
    /// The end of phenomenonTime, when it is an interval.
    pub end: Option<Timestamp>,
    /// The result, when it is not a number; the value column then holds NaN.
    pub result: Option<Arc<RawValue>>,
    pub quality: Option<Arc<RawValue>>,
    pub valid: Option<Interval>,
    pub parameters: Option<Arc<RawValue>>,
    /// The row stands for several that have been summed up ([`super::thin`]). Its value is their mean, `end` is the end of their interval, and
    /// `parameters` counts their qualities. Never on the stream: only the lake has such rows.
    pub summed: Option<Summed>,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summed {
    /// Those whose quality lets them count; with none, the numbers mean nothing.
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub first: f64,
    pub last: f64,
}

impl Extra {
    pub fn is_empty(&self) -> bool {
        let Self { result_time, end, result, quality, valid, parameters, summed } = self;
        result_time.is_none()
            && end.is_none()
            && result.is_none()
            && quality.is_none()
            && valid.is_none()
            && parameters.is_none()
            && summed.is_none()
    }
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<RawValue>>, b: &Option<Arc<RawValue>>| {
            a.as_ref().map(|r| r.get()) == b.as_ref().map(|r| r.get())
        };
        self.result_time == other.result_time
            && self.end == other.end
            && self.valid == other.valid
            && self.summed == other.summed
            && same(&self.result, &other.result)
            && same(&self.quality, &other.quality)
            && same(&self.parameters, &other.parameters)
    }
}

/// Numbers of a run. A live city sends one row of a series at a time: it stands in the run itself and allocates nothing.
pub type Column<T> = SmallVec<[T; 1]>;

/// Rows of one Datastream and one FeatureOfInterest, in the order they came.
#[derive(Clone, Debug)]
pub struct Run {
    pub datastream: EntityId,
    pub feature: EntityId,
    /// phenomenonTime (its start) in microseconds.
    pub times: Column<i64>,
    /// The result, or NaN when the row's [`Extra`] holds one that is no number.
    pub values: Column<f64>,
    /// As long as `times`, or empty when no row has anything extra.
    pub extras: Vec<Option<Arc<Extra>>>,
}

impl Run {
    pub fn new(datastream: EntityId, feature: EntityId) -> Self {
        Self { datastream, feature, times: Column::new(), values: Column::new(), extras: Vec::new() }
    }
    pub fn len(&self) -> usize {
        self.times.len()
    }
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
    /// The hot way in: an instant and a number.
    pub fn push_number(&mut self, at: Timestamp, value: f64) {
        self.times.push(at.as_micros());
        self.values.push(value);
        if !self.extras.is_empty() {
            self.extras.push(None);
        }
    }
    pub fn push(&mut self, at: Timestamp, value: f64, extra: Extra) {
        if extra.is_empty() {
            return self.push_number(at, value);
        }
        self.extras.resize(self.times.len(), None);
        self.times.push(at.as_micros());
        self.values.push(value);
        self.extras.push(Some(Arc::new(extra)));
    }
    /// Numbers at instants only, each later than the one before: what devices send nearly always.
    pub fn is_plain(&self) -> bool {
        self.extras.is_empty() && self.times.is_sorted_by(|a, b| a < b)
    }
    pub fn extra(&self, row: usize) -> Option<&Arc<Extra>> {
        self.extras.get(row).and_then(Option::as_ref)
    }
    pub fn observation(&self, row: usize) -> Observation {
        observation(
            self.datastream,
            self.feature,
            Timestamp::from_micros(self.times[row]),
            self.values[row],
            self.extra(row).map(|e| &**e),
        )
    }
}

/// Puts an Observation together from its columns.
pub(super) fn observation(
    datastream: EntityId,
    feature: EntityId,
    start: Timestamp,
    value: f64,
    extra: Option<&Extra>,
) -> Observation {
    let mut extra = extra.cloned().unwrap_or_default();
    if let Some(summed) = extra.summed {
        extra.parameters =
            Some(super::thin::about(start, extra.end.unwrap_or(start), &summed, extra.parameters.as_deref()));
    }
    Observation {
        datastream,
        feature,
        phenomenon: Interval { start, end: extra.end.unwrap_or(start) },
        result_time: extra.result_time,
        result: extra.result.map_or(ResultValue::Number(value), ResultValue::Json),
        quality: extra.quality,
        valid: extra.valid,
        parameters: extra.parameters,
    }
}

/// What one request, packet or file brings: durable together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    runs: Vec<Run>,
    rows: usize,
}

impl Batch {
    /// Rows in one batch; more must be sent as several.
    pub const MAX_ROWS: usize = 100_000;

    pub fn new() -> Self {
        Self::default()
    }
    pub fn one(observation: Observation) -> Self {
        let mut batch = Self::new();
        batch.push(observation);
        batch
    }
    pub fn len(&self) -> usize {
        self.rows
    }
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
    pub fn push(&mut self, o: Observation) {
        let (value, result) = match o.result {
            ResultValue::Number(n) => (n, None),
            ResultValue::Json(raw) => (f64::NAN, Some(raw)),
        };
        let extra = Extra {
            result_time: o.result_time,
            end: (!o.phenomenon.is_instant()).then_some(o.phenomenon.end),
            result,
            quality: o.quality,
            valid: o.valid,
            parameters: o.parameters,
            summed: None,
        };
        if !self.runs.last().is_some_and(|r| r.datastream == o.datastream && r.feature == o.feature) {
            self.runs.push(Run::new(o.datastream, o.feature));
        }
        if let Some(run) = self.runs.last_mut() {
            run.push(o.phenomenon.start, value, extra);
            self.rows += 1;
        }
    }
    /// Adds a whole run; an empty one is ignored.
    pub fn push_run(&mut self, run: Run) {
        debug_assert!(
            run.values.len() == run.times.len() && (run.extras.is_empty() || run.extras.len() == run.times.len())
        );
        if !run.is_empty() {
            self.rows += run.len();
            self.runs.push(run);
        }
    }
    /// What each row is called, in order.
    pub fn ids(&self) -> impl Iterator<Item = ObservationId> + '_ {
        self.runs.iter().flat_map(|run| {
            run.times.iter().enumerate().map(|(row, &at)| ObservationId {
                datastream: run.datastream,
                at: Timestamp::from_micros(at),
                feature: run.feature,
                result_time: run.extra(row).and_then(|e| e.result_time),
            })
        })
    }
    pub fn observations(&self) -> impl Iterator<Item = Observation> + '_ {
        self.runs.iter().flat_map(|run| (0..run.len()).map(|row| run.observation(row)))
    }
}
