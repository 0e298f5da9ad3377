//! What comes out of what goes in. Pure: the same inputs give the same bits, whatever else was computed with them, so that computing a span again
//! writes nothing where nothing has changed.

use jiff::tz::TimeZone;
use kernel::Timestamp;

use super::model::{Compiled, Definition};
use crate::{
    model::EntityId,
    rules::cel::{Env, Figure, Out, Recall, Sample, local},
};

/// One number of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Microseconds since 1970.
    pub at: i64,
    pub value: f64,
    /// Whether its `resultQuality` names no fault.
    pub good: bool,
}

/// What an output is named by, and what leads to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    pub at: i64,
    /// The end of phenomenonTime; `at` for an instant.
    pub end: i64,
    pub feature: EntityId,
    /// The first input's own Observation, where outputs follow it.
    pub own: Option<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub value: f64,
    pub faulty: bool,
}

/// What one output looks at: each input up to its time.
struct At<'a> {
    definition: &'a Definition,
    lead: &'a Lead,
    /// By input: its latest value that still stands, and the values of its window.
    seen: Vec<(Option<Point>, &'a [Point])>,
}

impl At<'_> {
    fn window(&self, at: u8) -> Option<&[Point]> {
        let (_, window) = self.seen.get(usize::from(at))?;
        Some(window)
    }
}

impl Recall for At<'_> {
    fn previous(&self) -> Option<f64> {
        None
    }
    fn input(&self, at: u8) -> Option<Sample> {
        let point = self.seen.get(usize::from(at))?.0?;
        Some(Sample { at: point.at, value: point.value, good: point.good })
    }
    fn count(&self, window: u8) -> Option<i64> {
        self.window(window).map(|w| i64::try_from(w.len()).unwrap_or(i64::MAX))
    }
    fn figure(&self, at: u8, figure: Figure, _: Timestamp, _: f64) -> Option<f64> {
        let window = self.window(at)?;
        let need = self.definition.inputs.get(usize::from(at))?.need.unwrap_or(1);
        if window.is_empty() || window.len() < need as usize {
            return None;
        }
        let values = window.iter().map(|p| p.value);
        match figure {
            Figure::Mean => Some(values.sum::<f64>() / window.len() as f64),
            Figure::Min => values.reduce(f64::min),
            Figure::Max => values.reduce(f64::max),
            Figure::Rate => {
                let (first, last) = (window.first()?, window.last()?);
                let seconds = (last.at - first.at) as f64 / 1e6;
                (seconds > 0.0).then(|| (last.value - first.value) / seconds)
            }
            Figure::Count => None,
        }
    }
    fn table(&self, at: u8, x: f64) -> Option<f64> {
        self.definition.tables.get(usize::from(at))?.at(x)
    }
}

/// One outcome for each of `leads`; `None` where nothing can be computed. `series` are the inputs in order of time, as far back as each reaches.
pub fn outcomes(
    definition: &Definition,
    zone: &TimeZone,
    series: &[Vec<Point>],
    leads: &[Lead],
) -> Vec<Option<Outcome>> {
    leads.iter().map(|lead| outcome(definition, zone, series, lead)).collect()
}

fn outcome(definition: &Definition, zone: &TimeZone, series: &[Vec<Point>], lead: &Lead) -> Option<Outcome> {
    let formula = definition.formula(lead.at)?;
    let seen = definition.inputs.iter().zip(series).enumerate().map(|(nth, (input, points))| {
        let through = points.partition_point(|p| p.at <= lead.at);
        let points = &points[..through];
        let latest = match lead.own {
            Some(own) if nth == 0 => Some(own),
            _ => points.last().copied().filter(|p| lead.at - p.at <= input.within()),
        };
        let window = input.window.map_or(0, |s| i64::from(s) * 1_000_000);
        let from = points.partition_point(|p| p.at <= lead.at - window);
        (latest, &points[from..])
    });
    let at = At { definition, lead, seen: seen.collect() };
    let time = Timestamp::from_micros(lead.at);
    let env = Env {
        value: f64::NAN,
        time,
        good: true,
        district: "",
        system: "",
        local: formula.local.then(|| local(time, zone)),
        memory: &at,
    };
    let value = match env.eval(&formula.node)? {
        Out::Double(value) => value,
        Out::Int(value) => value as f64,
        Out::Bool(value) => f64::from(u8::from(value)),
        Out::Text(_) => return None,
    };
    value.is_finite().then(|| Outcome { value, faulty: faulty(formula, &at) })
}

/// Whether anything that the formula looks at is a fault.
fn faulty(formula: &Compiled, at: &At<'_>) -> bool {
    let own = at.lead.own.is_some_and(|p| !p.good);
    own || formula.looks.iter().zip(&at.seen).any(|((value, figures), (latest, window))| {
        (*value && latest.is_some_and(|p| !p.good)) || (*figures && window.iter().any(|p| !p.good))
    })
}

/// Spans that touch or overlap become one. Both ends inclusive, in microseconds.
pub fn merge(spans: &mut Vec<(i64, i64)>) {
    spans.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::with_capacity(spans.len());
    for &(from, to) in spans.iter() {
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    *spans = merged;
}

/// The spans of outputs that Observations at `times` may change.
pub fn touched(times: impl IntoIterator<Item = i64>, reach: i64, into: &mut Vec<(i64, i64)>) {
    into.extend(times.into_iter().map(|at| (at, at.saturating_add(reach))));
    merge(into);
}

/// Multiples of `every` (microseconds) from `from` to `to`, both inclusive, at most `most`.
pub fn grid(from: i64, to: i64, every: i64, most: usize) -> Vec<i64> {
    let first = from.div_euclid(every).saturating_add(i64::from(from.rem_euclid(every) > 0)).saturating_mul(every);
    std::iter::successors(Some(first), |at| at.checked_add(every)).take_while(|at| *at <= to).take(most).collect()
}
