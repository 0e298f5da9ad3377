//! Rows that stand for several: how rows are summed up by interval, and how that enters the lake and the heads.
//!
//! A row that sums up others is an Observation like any other: its phenomenonTime is the interval, its result the mean, and `parameters` says what
//! it stands for. It lies in the same table and is put there by the commit that takes the others away ([`lake::Table::replace`]), so everything that
//! reads goes on over the border without knowing of it, and a crash leaves one or the other.
//!
//! What was summed can no longer be told apart: an Observation that is sent again after that counts as one that came late.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use kernel::{Interval, Timestamp};
use lake::{Part, Reduce, Replaced, Span};
use parking_lot::Mutex;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Error, Inner, Observe,
    aggregate::{is_bad, is_bad_code},
    batch::{Extra, Summed},
    columns::{self, Columns},
    recent::{Key, Row},
};
use crate::model::{EntityId, Observation};

/// What rows of a time become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// They stay as they are.
    Raw,
    /// One row for each interval of so many seconds.
    Every(u32),
    Gone,
}

/// What becomes of one series: each form holds up to its end (exclusive), ascending; later rows stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms(pub Vec<(Timestamp, Form)>);

impl Forms {
    pub fn at(&self, micros: i64) -> Form {
        let next = self.0.partition_point(|(end, _)| end.as_micros() <= micros);
        self.0.get(next).map_or(Form::Raw, |(_, form)| *form)
    }
}

/// What became of the rows of a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Rows that go without a trace.
    pub gone: u64,
    /// Rows that go into sums.
    pub summed: u64,
    /// Rows that hold those sums.
    pub sums: u64,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.gone += other.gone;
        self.summed += other.summed;
        self.sums += other.sums;
    }
}

/// Quality codes that are counted apart in one row; further ones are `other`.
const CODES: usize = 8;

/// What is being summed up of one interval and one FeatureOfInterest.
#[derive(Default)]
struct Cell {
    rows: Vec<Row>,
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
    /// With the time that decides which is first and which is last.
    first: Option<(i64, f64)>,
    last: Option<(i64, f64)>,
    qualities: BTreeMap<String, u64>,
}

impl Cell {
    fn take(&mut self, part: Summed, starts: i64, ends: i64) {
        if part.count == 0 {
            return;
        }
        (self.min, self.max) = match self.count {
            0 => (part.min, part.max),
            _ => (self.min.min(part.min), self.max.max(part.max)),
        };
        self.count += part.count;
        self.sum += part.sum;
        if self.first.is_none_or(|(at, _)| starts < at) {
            self.first = Some((starts, part.first));
        }
        if self.last.is_none_or(|(at, _)| ends >= at) {
            self.last = Some((ends, part.last));
        }
    }

    fn quality(&mut self, code: String, count: u64) {
        // What does not count is counted apart in any case: it is not in `count`.
        let apart = self.qualities.contains_key(&code) || self.qualities.len() < CODES || is_bad_code(&code);
        let code = if apart { code } else { "other".to_owned() };
        *self.qualities.entry(code).or_default() += count;
    }

    fn push(&mut self, row: Row) {
        let extra = row.extra.as_deref();
        if let Some(summed) = extra.and_then(|e| e.summed) {
            let end = extra.and_then(|e| e.end).map_or(row.key.at, Timestamp::as_micros);
            self.take(summed, row.key.at, end - 1);
            let counted = extra.and_then(|e| e.parameters.as_deref()).map(RawValue::get).unwrap_or("{}");
            for (code, count) in serde_json::from_str::<BTreeMap<String, u64>>(counted).unwrap_or_default() {
                self.quality(code, count);
            }
        } else {
            let quality = extra.and_then(|e| e.quality.as_deref()).map(RawValue::get);
            if let Some(text) = quality {
                let code = serde_json::from_str::<Value>(text).ok().and_then(|v| Some(v["code"].as_str()?.to_owned()));
                // A code is a word; what is none would be a text of anybody's kept for ever.
                let word =
                    |c: &String| c.len() <= 40 && c.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                self.quality(code.filter(word).unwrap_or_else(|| "other".to_owned()), 1);
            }
            if !quality.is_some_and(is_bad) {
                let (value, at) = (row.value, row.key.at);
                self.take(Summed { count: 1, min: value, max: value, sum: value, first: value, last: value }, at, at);
            }
        }
        self.rows.push(row);
    }

    /// The row that stands for them, or the row itself where there is nothing to sum up.
    fn finish(mut self, start: i64, width: i64, feature: i64) -> (Row, u64) {
        let of = self.rows.len() as u64;
        if self.rows.len() == 1
            && let Some(row) = self.rows.pop()
        {
            // What is no denser than asked stays as it was measured; what was summed up by it stays too.
            let wanted = row
                .extra
                .as_ref()
                .is_none_or(|e| e.summed.is_none() || e.end.map(Timestamp::as_micros) == Some(start + width));
            if wanted {
                return (row, 0);
            }
            self.rows.push(row);
        }
        let none = f64::NAN;
        let summed = Summed {
            count: self.count,
            min: if self.count > 0 { self.min } else { none },
            max: if self.count > 0 { self.max } else { none },
            sum: if self.count > 0 { self.sum } else { none },
            first: self.first.map_or(none, |(_, value)| value),
            last: self.last.map_or(none, |(_, value)| value),
        };
        let end = start + width;
        let result_time = Some(end + 1);
        let qualities =
            (!self.qualities.is_empty()).then(|| serde_json::value::to_raw_value(&self.qualities).ok()).flatten();
        let extra = Extra {
            result_time: result_time.map(Timestamp::from_micros),
            end: Some(Timestamp::from_micros(end)),
            result: (self.count == 0).then(|| RawValue::NULL.to_owned().into()),
            quality: None,
            valid: None,
            parameters: qualities.map(Into::into),
            summed: Some(summed),
        };
        let value = if self.count > 0 { self.sum / self.count as f64 } else { none };
        (Row { key: Key { at: start, feature, result_time }, value, extra: Some(Arc::new(extra)) }, of)
    }
}

/// How many Observations a row stands for, those that do not count among them.
fn stands_for(row: &Row) -> u64 {
    let Some(extra) = row.extra.as_deref() else { return 1 };
    let Some(summed) = extra.summed else { return 1 };
    let counted = extra.parameters.as_deref().map(RawValue::get).unwrap_or("{}");
    let qualities: BTreeMap<String, u64> = serde_json::from_str(counted).unwrap_or_default();
    summed.count + qualities.iter().filter(|(code, _)| is_bad_code(code)).map(|(_, n)| n).sum::<u64>()
}

/// Whether a row can be part of a sum over an interval that ends at `end`: a number that lies within it. What is no number cannot be summed up and
/// stays; what lasts longer than the interval is coarser already.
fn can_be_summed(row: &Row, end: i64) -> bool {
    let Some(extra) = row.extra.as_deref() else { return true };
    let within = extra.end.is_none_or(|e| e.as_micros() <= end);
    within && (extra.summed.is_some() || extra.result.is_none())
}

/// What stands in place of `rows` (by key); `None` when nothing changes.
pub fn reduce(rows: Vec<Row>, forms: &Forms) -> (Option<Vec<Row>>, Outcome) {
    let mut outcome = Outcome::default();
    let mut kept = Vec::new();
    let mut cells: BTreeMap<(i64, i64, i64), Cell> = BTreeMap::new();
    let before: u64 = rows.iter().map(stands_for).sum();
    let mut lost = 0;
    for row in rows {
        match forms.at(row.key.at) {
            Form::Raw => kept.push(row),
            Form::Gone => {
                outcome.gone += 1;
                lost += stands_for(&row);
            }
            Form::Every(seconds) => {
                let width = i64::from(seconds) * 1_000_000;
                let start = row.key.at.div_euclid(width) * width;
                if can_be_summed(&row, start + width) {
                    cells.entry((start, width, row.key.feature)).or_default().push(row);
                } else {
                    kept.push(row);
                }
            }
        }
    }
    for ((start, width, feature), cell) in cells {
        let (row, of) = cell.finish(start, width, feature);
        outcome.summed += of;
        outcome.sums += u64::from(of > 0);
        kept.push(row);
    }
    if outcome == Outcome::default() {
        return (None, outcome);
    }
    kept.sort_by_key(|row| row.key);
    // Whatever is not declared gone is in a row. This is the one place where Observations end; it is worth looking twice.
    let after: u64 = kept.iter().map(stands_for).sum();
    if before != after + lost || !kept.is_sorted_by(|a, b| a.key < b.key) {
        tracing::error!(before, after, lost, "a sum did not hold what it stands for; nothing was changed");
        return (None, Outcome::default());
    }
    (Some(kept), outcome)
}

/// What `parameters` of a row says that stands for several.
pub(super) fn about(start: Timestamp, end: Timestamp, summed: &Summed, qualities: Option<&RawValue>) -> Arc<RawValue> {
    let seconds = end.micros_since(start) / 1_000_000;
    let mut all = Map::new();
    all.insert("function".into(), json!("mean"));
    all.insert("interval".into(), json!(iso(seconds)));
    all.insert("count".into(), json!(summed.count));
    if summed.count > 0 {
        let parts = [
            ("min", summed.min),
            ("max", summed.max),
            ("sum", summed.sum),
            ("first", summed.first),
            ("last", summed.last),
        ];
        all.extend(parts.map(|(name, value)| (name.to_owned(), json!(value))));
    }
    if let Some(qualities) = qualities.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
        all.insert("qualities".into(), qualities);
    }
    let text = json!({ "aggregate": all }).to_string();
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()).into()
}

/// A whole number of minutes or hours as ISO 8601 has it.
pub fn iso(seconds: i64) -> String {
    match seconds {
        s if s % 3_600 == 0 => format!("PT{}H", s / 3_600),
        s if s % 60 == 0 => format!("PT{}M", s / 60),
        s => format!("PT{s}S"),
    }
}

impl Observation {
    /// Whether it sums up others. Its resultTime is a moment after the interval, which no device says and by which it differs from what was
    /// observed at the same time.
    pub fn is_summed(&self) -> bool {
        !self.phenomenon.is_instant() && self.result_time == Some(self.phenomenon.end.plus_micros(1))
    }
}

/// What is to become of many series. Shared with the lake while it works.
pub struct Plan {
    pub forms: BTreeMap<i64, Forms>,
    /// Asked before anything is final.
    pub still: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether memory has something to say of a stretch that the lake does not know yet.
    unsealed: Box<dyn Fn(&Span) -> bool + Send + Sync>,
    /// By series and stretch: what is done again because a commit came in between counts once.
    outcome: Mutex<BTreeMap<(i64, Timestamp, Timestamp), Outcome>>,
    results: Mutex<BTreeMap<i64, Interval>>,
}

impl Plan {
    pub fn new(forms: BTreeMap<i64, Forms>, still: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let unsealed = Box::new(|_: &Span| false);
        Self { forms, still: Box::new(still), unsealed, outcome: Mutex::default(), results: Mutex::default() }
    }
}

impl Reduce for Plan {
    fn reduce(
        &self,
        span: &Span,
        rows: &lake::arrow::array::RecordBatch,
    ) -> Result<Option<lake::arrow::array::RecordBatch>, lake::Error> {
        let Some(forms) = self.forms.get(&span.series) else { return Ok(None) };
        // A sum would hold for ever what has been deleted or corrected meanwhile. The next sweep takes the stretch.
        if (self.unsealed)(span) {
            return Ok(None);
        }
        let (instead, outcome) = reduce(columns::rows(rows), forms);
        self.outcome.lock().insert((span.series, span.from, span.to), outcome);
        let Some(instead) = instead else { return Ok(None) };
        let times: Vec<Timestamp> =
            instead.iter().filter_map(|row| row.extra.as_ref().filter(|e| e.summed.is_some())?.result_time).collect();
        if let (Some(&start), Some(&end)) = (times.iter().min(), times.iter().max()) {
            let mut results = self.results.lock();
            let extent = results.entry(span.series).or_insert(Interval { start, end });
            *extent = Interval { start: extent.start.min(start), end: extent.end.max(end) };
        }
        let mut columns = Columns::default();
        instead.iter().for_each(|row| columns.push(span.series, row));
        Ok(Some(columns.finish()?))
    }

    fn still(&self) -> bool {
        let unsealed = |(&(series, from, to), outcome): (&(i64, Timestamp, Timestamp), &Outcome)| {
            *outcome != Outcome::default() && (self.unsealed)(&Span { series, from, to })
        };
        (self.still)() && !self.outcome.lock().iter().any(unsealed)
    }
}

/// What thinning did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Thinned {
    pub by_series: BTreeMap<i64, Outcome>,
    /// Bytes of the rows that went.
    pub bytes: u64,
}

/// Rows of a stretch that are reduced together.
const STRETCH: u64 = 400_000;
/// Of so many and more it is not known how they lie, and a stretch with too many of them would end the sweep of all: they are taken by the hour.
const DENSE: u64 = 8 * STRETCH;
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 86_400_000_000;

/// The right to thin: one holds it at a time. While it is held the kept heads are not believed after a crash.
pub struct Thinning<'a> {
    inner: &'a Arc<Inner>,
    _alone: tokio::sync::MutexGuard<'a, ()>,
    marked: bool,
}

/// Beside the heads: says that the lake has changed in a way that they may not know.
fn mark(inner: &Inner) -> PathBuf {
    inner.options.heads.with_extension("thinning")
}

/// Whether a run was cut off before the heads were kept again.
pub(super) fn was_cut_off(inner: &Inner) -> bool {
    mark(inner).exists()
}

/// The heads on disk are right again.
pub(super) fn settled(inner: &Inner) -> std::io::Result<()> {
    match std::fs::remove_file(mark(inner)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Observe {
    /// The partitions of the lake with rows before `before`.
    pub async fn parts(&self, before: Timestamp) -> Result<Vec<Part>, Error> {
        Ok(self.0.table.view().parts(before).await?)
    }

    /// Waits for the right to thin.
    pub async fn thinning(&self) -> Thinning<'_> {
        Thinning { inner: &self.0, _alone: self.0.thinning.lock().await, marked: false }
    }

    /// Waits for the commit of the lake that is under way: what asked `still` before has happened then, and what asks later hears of what is now.
    pub async fn between_commits(&self) {
        self.0.table.between_commits().await;
    }

    /// Removes the files that were replaced so long ago that nobody reads them any more.
    pub async fn vacuum(&self) -> Result<(), Error> {
        let freed = self.0.table.vacuum(super::seal::KEEP_REPLACED).await?;
        if freed.files > 0 {
            tracing::info!(files = freed.files, bytes = freed.bytes, "replaced files were removed");
        }
        Ok(())
    }
}

impl Thinning<'_> {
    /// Gives the rows of one partition the forms of `plan`, or says what that would do.
    ///
    /// # Errors
    /// Those of the lake; nothing is changed then.
    pub async fn part(&mut self, part: &Part, mut plan: Plan, dry: bool) -> Result<Thinned, Error> {
        let mut spans = Vec::new();
        for summary in &part.series {
            let Some(forms) = plan.forms.get(&summary.series) else { continue };
            let Some((border, _)) = forms.0.last() else { continue };
            let from = part.from.max(whole_day(summary.first));
            let to = part.to.min(*border);
            if from >= to {
                continue;
            }
            // No interval is wider than an hour, so none is cut.
            let hours = (to.micros_since(from) + HOUR - 1) / HOUR;
            let steps = if summary.rows < DENSE { summary.rows.div_ceil(STRETCH) } else { u64::MAX };
            let steps = i64::try_from(steps).unwrap_or(hours).clamp(1, hours.max(1));
            let step = (hours + steps - 1) / steps * HOUR;
            let mut at = from;
            while at < to {
                let end = at.plus_micros(step).min(to);
                spans.push(Span { series: summary.series, from: at, to: end });
                at = end;
            }
        }
        if spans.is_empty() {
            return Ok(Thinned::default());
        }
        if !dry {
            self.mark().await?;
        }
        let inner = self.inner.clone();
        plan.unsealed = Box::new(move |span| {
            let memory = inner.memory(EntityId(span.series), span.from, span.to);
            memory.whole || !memory.rows.is_empty() || !memory.removed.is_empty()
        });
        let plan = Arc::new(plan);
        let reduce: Arc<dyn Reduce> = plan.clone();
        let Replaced { changes, bytes } = self.inner.table.replace(part.partition.clone(), spans, reduce, dry).await?;
        let outcomes = std::mem::take(&mut *plan.outcome.lock());
        let mut by_series: BTreeMap<i64, Outcome> = BTreeMap::new();
        for ((series, ..), outcome) in outcomes {
            by_series.entry(series).or_default().add(outcome);
        }
        by_series.retain(|series, outcome| {
            *outcome != Outcome::default() && changes.series.iter().any(|change| change.series == *series)
        });
        if dry {
            return Ok(Thinned { by_series, bytes });
        }
        // The lake answers for it from here on; the heads only catch up with that.
        let results = std::mem::take(&mut *plan.results.lock());
        let observe = Observe(self.inner.clone());
        for change in &changes.series {
            self.inner.heads.change(change.series, |head| {
                head.thinned(change.inserted, change.deleted, results.get(&change.series).copied());
            });
            observe.refresh(EntityId(change.series)).await?;
            self.inner.heads.change(change.series, super::head::Entry::settle);
        }
        Ok(Thinned { by_series, bytes })
    }

    async fn mark(&mut self) -> Result<(), Error> {
        if self.marked {
            return Ok(());
        }
        let path = mark(self.inner);
        let made = tokio::task::spawn_blocking(move || {
            std::fs::File::create(&path)?.sync_all()?;
            path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
        });
        made.await.map_err(std::io::Error::other)??;
        self.marked = true;
        Ok(())
    }

    /// Keeps the heads as they are now, so that a start need not read them from the lake.
    ///
    /// # Errors
    /// When the program is stopping: the next start reads them then.
    pub async fn finish(self) -> Result<(), Error> {
        if !self.marked {
            return Ok(());
        }
        let mut kept = self.inner.heads_kept.subscribe();
        kept.borrow_and_update();
        self.inner.keep_heads.store(true, Relaxed);
        self.inner.seal_now.notify_one();
        tokio::select! {
            () = self.inner.stopped.cancelled() => Err(Error::Stopping),
            changed = kept.changed() => changed.map_err(|_| Error::Stopping),
        }
    }
}

fn whole_day(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros().div_euclid(DAY) * DAY)
}

#[cfg(test)]
#[path = "thin_tests.rs"]
mod tests;
