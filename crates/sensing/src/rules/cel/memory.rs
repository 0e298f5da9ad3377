//! What an expression remembers between Observations: the value before, moving windows, and the latest of the Thing's other Datastreams. It stands
//! in the rule's state row and is written with it, so it survives what the machine survives.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kernel::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Compiled, Figure, eval::Recall};

/// A window is kept as so many sums, not as its Observations: it costs the same for a gauge that speaks every second as for one that speaks
/// hourly, and its age is exact to a thirtieth.
pub const STEPS: i64 = 30;

/// The sums of one thirtieth of a window.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Step {
    /// Number of the step since 1970.
    index: i64,
    count: u32,
    sum: f64,
    least: f64,
    greatest: f64,
    /// Its first value, and when that was.
    first: f64,
    first_at: i64,
}

/// Values of the last so many seconds, by the time of measurement. Values come in the order of their times: the machine takes no others.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    seconds: u32,
    steps: VecDeque<Step>,
}

impl Window {
    pub fn new(seconds: u32) -> Self {
        Self { seconds, steps: VecDeque::new() }
    }

    pub fn add(&mut self, at: Timestamp, value: f64) {
        let width = (i64::from(self.seconds) * 1_000_000 / STEPS).max(1);
        let (micros, index) = (at.as_micros(), at.as_micros().div_euclid(width));
        while self.steps.front().is_some_and(|s| s.index <= index - STEPS) {
            self.steps.pop_front();
        }
        match self.steps.back_mut().filter(|s| s.index == index) {
            Some(step) => {
                step.count = step.count.saturating_add(1);
                step.sum += value;
                step.least = step.least.min(value);
                step.greatest = step.greatest.max(value);
            }
            None => self.steps.push_back(Step {
                index,
                count: 1,
                sum: value,
                least: value,
                greatest: value,
                first: value,
                first_at: micros,
            }),
        }
    }

    pub fn count(&self) -> i64 {
        self.steps.iter().map(|s| i64::from(s.count)).sum()
    }
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.steps.iter().map(|s| s.sum).sum::<f64>() / count as f64)
    }
    pub fn min(&self) -> Option<f64> {
        self.steps.iter().map(|s| s.least).reduce(f64::min)
    }
    pub fn max(&self) -> Option<f64> {
        self.steps.iter().map(|s| s.greatest).reduce(f64::max)
    }
    /// Change per second from the oldest value of the window to this newest one; nothing where that is the same.
    pub fn rate(&self, at: Timestamp, value: f64) -> Option<f64> {
        let oldest = self.steps.front()?;
        let seconds = (at.as_micros() - oldest.first_at) as f64 / 1e6;
        (seconds > 0.0).then(|| (value - oldest.first) / seconds)
    }
}

/// The latest value of another Datastream.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Microseconds since 1970.
    pub at: i64,
    pub value: f64,
    pub good: bool,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    pub previous: Option<f64>,
    pub windows: Vec<Window>,
    inputs: Vec<(String, Option<Sample>)>,
}

impl Memory {
    /// An empty memory for this expression, or what fits of an earlier one: a window of the same length and a neighbour of the same key keep what
    /// they know when the rule's text changes.
    pub fn fitting(compiled: &Compiled, earlier: Option<Self>) -> Self {
        let earlier = earlier.unwrap_or_default();
        let window = |seconds: u32| earlier.windows.iter().find(|w| w.seconds == seconds).cloned();
        let input = |key: &String| earlier.inputs.iter().find(|(k, _)| k == key).and_then(|(_, s)| *s);
        Self {
            previous: earlier.previous,
            windows: compiled.windows.iter().map(|(_, s)| window(*s).unwrap_or_else(|| Window::new(*s))).collect(),
            inputs: compiled.inputs.iter().map(|k| (k.clone(), input(k))).collect(),
        }
    }

    pub fn input(&self, at: u8) -> Option<Sample> {
        self.inputs.get(usize::from(at)).and_then(|(_, sample)| *sample)
    }

    /// Takes a neighbour's value when it is newer than what is known; whether it was.
    pub fn heard(&mut self, at: u8, sample: Sample) -> bool {
        match self.inputs.get_mut(usize::from(at)) {
            Some((_, known)) if known.is_none_or(|k| sample.at > k.at) => {
                *known = Some(sample);
                true
            }
            _ => false,
        }
    }

    /// A neighbour was deleted with everything in it.
    pub fn forget(&mut self, at: u8) {
        if let Some((_, known)) = self.inputs.get_mut(usize::from(at)) {
            *known = None;
        }
    }

    /// As it stands in the state row.
    pub fn encode(&self) -> String {
        // Plain data always serialises.
        STANDARD.encode(postcard::to_stdvec(self).unwrap_or_default())
    }

    /// `None` for what another program has written: the windows then begin anew.
    pub fn decode(text: &str) -> Option<Self> {
        postcard::from_bytes(&STANDARD.decode(text).ok()?).ok()
    }
}

impl Recall for Memory {
    fn previous(&self) -> Option<f64> {
        self.previous
    }
    fn input(&self, at: u8) -> Option<Sample> {
        Self::input(self, at)
    }
    fn count(&self, window: u8) -> Option<i64> {
        self.windows.get(usize::from(window)).map(Window::count)
    }
    fn figure(&self, window: u8, figure: Figure, time: Timestamp, value: f64) -> Option<f64> {
        let window = self.windows.get(usize::from(window))?;
        match figure {
            Figure::Mean => window.mean(),
            Figure::Min => window.min(),
            Figure::Max => window.max(),
            Figure::Rate => window.rate(time, value),
            Figure::Count => None,
        }
    }
}
