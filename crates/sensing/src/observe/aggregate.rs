//! Aggregates of one Datastream by interval, in local time, with gaps filled on request.

use std::ops::Range;

use jiff::{Span, tz::TimeZone};
use kernel::Timestamp;

use super::{Error, Observe, Order, read::Memory, recent::Row};
use crate::model::EntityId;

/// The width of a bucket. Days and longer follow the calendar of the time zone, so a day of 23 or 25 hours is one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Minutes(u32),
    Hours(u32),
    Days(u32),
    Months(u32),
    Years(u32),
}

impl std::str::FromStr for Step {
    type Err = String;
    /// An ISO 8601 duration of one unit: `PT5M`, `PT1H`, `P1D`, `P7D`, `P1M`, `P1Y`.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || {
            format!("'{}' is not an interval; use PT5M, PT1H, P1D, P1M or P1Y", s.chars().take(20).collect::<String>())
        };
        let (time, rest) = match s.strip_prefix("PT") {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('P').ok_or_else(bad)?),
        };
        let unit = rest.chars().last().ok_or_else(bad)?;
        let n: u32 = rest[..rest.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
        let most = match (time, unit) {
            (true, 'M') => 1_440,
            (true, 'H') => 168,
            (false, 'D') => 366,
            (false, 'M') => 120,
            (false, 'Y') => 100,
            _ => return Err(bad()),
        };
        if n == 0 || n > most {
            return Err(bad());
        }
        Ok(match (time, unit) {
            (true, 'M') => Self::Minutes(n),
            (true, _) => Self::Hours(n),
            (false, 'D') => Self::Days(n),
            (false, 'M') => Self::Months(n),
            (false, _) => Self::Years(n),
        })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Minutes(n) => write!(f, "PT{n}M"),
            Self::Hours(n) => write!(f, "PT{n}H"),
            Self::Days(n) => write!(f, "P{n}D"),
            Self::Months(n) => write!(f, "P{n}M"),
            Self::Years(n) => write!(f, "P{n}Y"),
        }
    }
}

/// What stands in a bucket without observations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fill {
    /// The bucket is left out.
    #[default]
    Skip,
    /// The bucket is there and empty.
    Empty,
    /// The mean of the bucket before.
    Previous,
    /// A straight line between the means on both sides.
    Linear,
}

#[derive(Clone, Debug)]
pub struct AggregateQuery {
    pub datastream: EntityId,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
    pub step: Step,
    pub zone: TimeZone,
    pub fill: Fill,
}

/// One interval. `start` is inclusive, `end` exclusive.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Bucket {
    pub start: Timestamp,
    pub end: Timestamp,
    /// Numeric observations; 0 in a bucket that was filled.
    pub count: u64,
    pub mean: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub sum: Option<f64>,
    pub first: Option<f64>,
    pub last: Option<f64>,
}

/// What the lake sums up by the hour when it compacts: the same rows that an aggregate counts.
pub(super) const ROLLUP: lake::Rollup =
    lake::Rollup { column: "value", unless: Some(("quality", is_bad)), summed: Some(super::columns::SUMMED) };

/// Buckets of this width are read in parts, µs. Of narrower ones all rows are read soon enough; in tests most are wide.
const WIDE: i64 = if cfg!(test) { 60_000_000 } else { 2 * 86_400_000_000 };
/// Buckets in one answer.
const MAX_BUCKETS: usize = 100_000;
/// Rows read at a time.
const CHUNK: usize = 100_000;
/// Reads of rows for one answer.
const MOST_STRETCHES: usize = 32;

impl Observe {
    /// Numeric results summed up by interval. Rows whose resultQuality says that they are bad do not count.
    pub async fn aggregate(&self, q: AggregateQuery) -> Result<Vec<Bucket>, Error> {
        // Nothing is there before the first and after the last Observation: no bucket is made for it.
        let Some(head) = self.head(q.datastream) else { return Ok(Vec::new()) };
        let from = q.from.max(head.phenomenon.start);
        let to = q.to.min(head.phenomenon.end.plus_micros(1));
        if from >= to {
            return Ok(Vec::new());
        }
        let edges = edges(from, to, q.step, &q.zone)?;
        let mut buckets: Vec<Bucket> = edges.windows(2).map(|e| Bucket::empty(e[0], e[1])).collect();
        // What memory has anything to say about is summed up row by row, memory and lake as one; all else by the lake, out of its columns.
        // Memory is looked at first: what is sealed in between is then in both, and its buckets are among the first kind.
        let Memory { rows, removed, whole } = self.0.memory(q.datastream, from, to);
        if whole {
            rows.iter().for_each(|row| add(&mut buckets, row));
            return Ok(fill(buckets, q.fill));
        }
        let mut said: Vec<Option<(i64, i64)>> = vec![None; buckets.len()];
        for at in rows.iter().map(|row| row.key.at).chain(removed.iter().map(|key| key.at)) {
            let span = &mut said[place(&buckets, at)];
            *span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        }
        let (edges, touched) = pieces(&buckets, &said);
        let mut parts: Vec<Bucket> = edges.windows(2).map(|e| Bucket::empty(e[0], e[1])).collect();
        if touched.contains(&false) {
            self.sum_up(&q, from, to, edges, &mut parts).await?;
        }
        for stretch in stretches(&touched) {
            let (from, to) = (from.max(parts[stretch.start].start), to.min(parts[stretch.end - 1].end));
            parts[stretch.clone()].iter_mut().for_each(|b| *b = Bucket::empty(b.start, b.end));
            self.read_through(q.datastream, from, to, &mut parts[stretch]).await?;
        }
        for part in &parts {
            let at = place(&buckets, part.start.as_micros());
            buckets[at].join(part);
        }
        Ok(fill(buckets, q.fill))
    }

    /// What the lake has.
    async fn sum_up(
        &self,
        q: &AggregateQuery,
        from: Timestamp,
        to: Timestamp,
        edges: Vec<Timestamp>,
        buckets: &mut [Bucket],
    ) -> Result<(), Error> {
        let query = lake::Aggregate {
            series: &[q.datastream.0],
            from,
            to,
            buckets: lake::Buckets::Edges(edges),
            column: ROLLUP.column,
            unless: ROLLUP.unless,
        };
        let found = self.0.table.view().aggregate(query).await?;
        let mut at = 0;
        for part in found.into_values().flatten() {
            while buckets[at].start < part.start && at + 1 < buckets.len() {
                at += 1;
            }
            buckets[at] = Bucket {
                count: part.count,
                mean: Some(part.sum / part.count as f64),
                min: Some(part.min),
                max: Some(part.max),
                sum: Some(part.sum),
                first: Some(part.first),
                last: Some(part.last),
                ..buckets[at]
            };
        }
        Ok(())
    }

    /// Adds every row from `from` up to `to`.
    async fn read_through(
        &self,
        id: EntityId,
        from: Timestamp,
        to: Timestamp,
        buckets: &mut [Bucket],
    ) -> Result<(), Error> {
        let mut page = super::SeriesQuery {
            from: Some(from),
            to: Some(to.plus_micros(-1)),
            limit: CHUNK,
            order: Order::Ascending,
            ..super::SeriesQuery::all(id)
        };
        loop {
            let rows = self.0.page(&page).await?;
            rows.iter().for_each(|row| add(buckets, row));
            match rows.last() {
                Some(last) if rows.len() == CHUNK => page.after = Some(last.key.id(id)),
                _ => return Ok(()),
            }
        }
    }
}

/// Edges of parts, and which of them memory has something to say about. A wide bucket is cut where memory begins and ends: this year's is summed up
/// out of the lake but for its last minutes, and not read row by row.
fn pieces(buckets: &[Bucket], said: &[Option<(i64, i64)>]) -> (Vec<Timestamp>, Vec<bool>) {
    let (mut edges, mut touched) = (Vec::with_capacity(buckets.len() + 1), Vec::with_capacity(buckets.len()));
    let mut piece = |start: Timestamp, here: bool| {
        edges.push(start);
        touched.push(here);
    };
    for (bucket, said) in buckets.iter().zip(said) {
        let wide = bucket.end.micros_since(bucket.start) >= WIDE;
        let Some((first, last)) = said.filter(|_| wide) else {
            piece(bucket.start, said.is_some());
            continue;
        };
        let (first, after) = (Timestamp::from_micros(first), Timestamp::from_micros(last).plus_micros(1));
        if first > bucket.start {
            piece(bucket.start, false);
        }
        piece(first.max(bucket.start), true);
        if after < bucket.end {
            piece(after, false);
        }
    }
    edges.extend(buckets.last().map(|bucket| bucket.end));
    (edges, touched)
}

/// Which of the buckets, which follow each other, holds a time.
fn place(buckets: &[Bucket], at: i64) -> usize {
    buckets.partition_point(|b| b.end.as_micros() <= at).min(buckets.len().saturating_sub(1))
}

fn add(buckets: &mut [Bucket], row: &Row) {
    if let Some(s) = row.extra.as_ref().and_then(|extra| extra.summed) {
        let at = place(buckets, row.key.at);
        let Bucket { start, end, .. } = buckets[at];
        let (min, max, sum) = (Some(s.min), Some(s.max), Some(s.sum));
        let (mean, first, last) = (None, Some(s.first), Some(s.last));
        buckets[at].join(&Bucket { start, end, count: s.count, mean, min, max, sum, first, last });
        return;
    }
    if let Some(value) = usable(row) {
        let at = place(buckets, row.key.at);
        buckets[at].add(value);
    }
}

/// Stretches of touched buckets; one from the first to the last when there are many, because each is a read of its own.
fn stretches(touched: &[bool]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (i, _) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
        match found.last_mut() {
            Some(last) if last.end == i => last.end += 1,
            _ => found.push(i..i + 1),
        }
    }
    match found.as_slice() {
        [first, .., last] if found.len() > MOST_STRETCHES => std::iter::once(first.start..last.end).collect(),
        _ => found,
    }
}

/// The number of a row, unless it has none or is marked bad.
fn usable(row: &Row) -> Option<f64> {
    let Some(extra) = &row.extra else { return Some(row.value) };
    let bad = extra.quality.as_ref().is_some_and(|q| is_bad(q.get()));
    (extra.result.is_none() && !bad).then_some(row.value)
}

/// `{"code":"bad"}` in resultQuality, as connectors and devices write it.
pub(super) fn is_bad(quality: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(quality).is_ok_and(|v| v["code"].as_str().is_some_and(is_bad_code))
}

pub(super) fn is_bad_code(code: &str) -> bool {
    matches!(code, "bad" | "missing")
}

impl Bucket {
    fn empty(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end, count: 0, mean: None, min: None, max: None, sum: None, first: None, last: None }
    }
    /// Takes in the next part of it.
    fn join(&mut self, part: &Self) {
        if part.count == 0 {
            return;
        }
        self.count += part.count;
        let sum = self.sum.unwrap_or(0.0) + part.sum.unwrap_or(0.0);
        self.sum = Some(sum);
        self.mean = Some(sum / self.count as f64);
        self.min = self.min.into_iter().chain(part.min).reduce(f64::min);
        self.max = self.max.into_iter().chain(part.max).reduce(f64::max);
        self.first = self.first.or(part.first);
        self.last = part.last.or(self.last);
    }
    fn add(&mut self, value: f64) {
        self.count += 1;
        let sum = self.sum.unwrap_or(0.0) + value;
        self.sum = Some(sum);
        self.mean = Some(sum / self.count as f64);
        self.min = Some(self.min.map_or(value, |m| m.min(value)));
        self.max = Some(self.max.map_or(value, |m| m.max(value)));
        self.first = self.first.or(Some(value));
        self.last = Some(value);
    }
}

/// Edges of the buckets that cover `from..to`, aligned to the calendar of `zone`: one more than there are buckets.
fn edges(from: Timestamp, to: Timestamp, step: Step, zone: &TimeZone) -> Result<Vec<Timestamp>, Error> {
    let fixed = match step {
        Step::Minutes(n) => Some(i64::from(n) * 60_000_000),
        Step::Hours(n) => Some(i64::from(n) * 3_600_000_000),
        Step::Days(_) | Step::Months(_) | Step::Years(_) => None,
    };
    let too_many =
        || Error::Query(format!("the interval is too fine for the time asked: at most {MAX_BUCKETS} buckets"));
    let calendar = |error: jiff::Error| Error::Query(format!("the calendar does not reach that far: {error}"));
    let local = from.to_jiff().to_zoned(zone.clone());
    let midnight = local.start_of_day().map_err(calendar)?;
    if let Some(width) = fixed {
        // Aligned to local midnight, in elapsed time: 5-minute buckets stay 5 minutes long when clocks change.
        let origin = Timestamp::from_jiff(midnight.timestamp()).as_micros();
        let first = origin + (from.as_micros() - origin).div_euclid(width) * width;
        let count = usize::try_from((to.as_micros() - first + width - 1) / width).unwrap_or(usize::MAX);
        if count > MAX_BUCKETS {
            return Err(too_many());
        }
        return Ok((0..=count as i64).map(|i| Timestamp::from_micros(first + i * width)).collect());
    }
    let (first, span) = match step {
        Step::Days(n) => (midnight, Span::new().days(n)),
        Step::Months(n) => (midnight.first_of_month().map_err(calendar)?, Span::new().months(n)),
        Step::Years(n) | Step::Minutes(n) | Step::Hours(n) => {
            (midnight.first_of_year().map_err(calendar)?, Span::new().years(n))
        }
    };
    let mut edges = vec![Timestamp::from_jiff(first.timestamp())];
    let mut i = 0;
    while edges.last().is_some_and(|e| *e < to) {
        if edges.len() > MAX_BUCKETS {
            return Err(too_many());
        }
        i += 1;
        // Each edge is counted from the first, so that the 31st does not become the 28th for good.
        let next = first.checked_add(span.checked_mul(i).map_err(calendar)?).map_err(calendar)?;
        edges.push(Timestamp::from_jiff(next.timestamp()));
    }
    Ok(edges)
}

fn fill(mut buckets: Vec<Bucket>, fill: Fill) -> Vec<Bucket> {
    match fill {
        Fill::Skip => buckets.retain(|b| b.count > 0),
        Fill::Empty => {}
        Fill::Previous => {
            let mut before = None;
            for bucket in &mut buckets {
                match bucket.mean {
                    Some(mean) => before = Some(mean),
                    None => bucket.mean = before,
                }
            }
        }
        Fill::Linear => {
            let known: Vec<(usize, f64)> = buckets.iter().enumerate().filter_map(|(i, b)| Some((i, b.mean?))).collect();
            for pair in known.windows(2) {
                let ((a, left), (b, right)) = (pair[0], pair[1]);
                for (i, bucket) in buckets[a + 1..b].iter_mut().enumerate() {
                    bucket.mean = Some(left + (right - left) * (i + 1) as f64 / (b - a) as f64);
                }
            }
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    #[test]
    fn intervals_are_one_unit_of_iso_8601() {
        assert_eq!("PT5M".parse(), Ok(Step::Minutes(5)));
        assert_eq!("P1M".parse(), Ok(Step::Months(1)));
        for bad in ["", "P", "PT", "P0D", "PT5", "P1DT1H", "5M", "PT9999H", "P1é"] {
            assert!(bad.parse::<Step>().is_err(), "{bad}");
        }
    }

    #[test]
    fn days_are_local_days() {
        let hong_kong = TimeZone::get("Asia/Hong_Kong").expect("zone");
        let edges =
            edges(at("2026-11-21T17:00:00Z"), at("2026-11-22T17:00:00Z"), Step::Days(1), &hong_kong).expect("edges");
        assert_eq!(edges, [at("2026-11-21T16:00:00Z"), at("2026-11-22T16:00:00Z"), at("2026-11-23T16:00:00Z")]);
    }

    #[test]
    fn a_day_of_25_hours_is_one_bucket() {
        let london = TimeZone::get("Europe/London").expect("zone");
        let edges =
            edges(at("2026-10-25T00:00:00Z"), at("2026-10-26T00:00:00Z"), Step::Days(1), &london).expect("edges");
        assert_eq!(edges[1].micros_since(edges[0]), 25 * 3_600_000_000);
    }

    #[test]
    fn months_count_from_the_first() {
        let edges = edges(at("2026-01-31T00:00:00Z"), at("2026-04-01T00:00:00Z"), Step::Months(1), &TimeZone::UTC)
            .expect("edges");
        assert_eq!(edges.last(), Some(&at("2026-04-01T00:00:00Z")));
        assert_eq!(edges.len(), 4);
    }

    #[test]
    fn gaps_are_filled_as_asked() {
        let make = || {
            let mut buckets: Vec<Bucket> =
                (0..5).map(|i| Bucket::empty(Timestamp::from_secs(i), Timestamp::from_secs(i + 1))).collect();
            buckets[1].add(10.0);
            buckets[4].add(40.0);
            buckets
        };
        let means = |f| fill(make(), f).iter().map(|b| b.mean).collect::<Vec<_>>();
        assert_eq!(means(Fill::Skip), [Some(10.0), Some(40.0)]);
        assert_eq!(means(Fill::Empty), [None, Some(10.0), None, None, Some(40.0)]);
        assert_eq!(means(Fill::Previous), [None, Some(10.0), Some(10.0), Some(10.0), Some(40.0)]);
        assert_eq!(means(Fill::Linear), [None, Some(10.0), Some(20.0), Some(30.0), Some(40.0)]);
    }
}
