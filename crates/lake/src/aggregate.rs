//! Counts, extremes and sums by bucket of time, straight over the sorted pages.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    ops::Range,
};

use arrow::{
    array::{Array as _, AsArray, RecordBatch},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use futures::TryStreamExt;
use kernel::Timestamp;

use crate::{
    Error, View,
    file::{FileMeta, Footer},
    index::Entry,
    rollup::{self, HOUR, Kept, Source, Worth, counting},
    write::PAGE_ROWS,
};

/// The most buckets one answer may hold, over all its series.
const MOST_BUCKETS: usize = 1_000_000;

/// How time is cut.
#[derive(Clone, Debug)]
pub enum Buckets {
    /// Buckets of equal width in µs, one of them starting at `origin`.
    Width { origin: Timestamp, width: i64 },
    /// Buckets between ascending edges: local days and months, whose length changes. Rows outside the first and last edge are left out.
    Edges(Vec<Timestamp>),
}

/// What to aggregate. Rows whose value is null or not a number are left out.
#[derive(Clone, Debug)]
pub struct Aggregate<'a> {
    pub series: &'a [i64],
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
    pub buckets: Buckets,
    /// A `Float64` column.
    pub column: &'a str,
    /// A `Utf8` column, and what in it makes a row not count.
    pub unless: Option<(&'a str, Refuses)>,
}

/// Whether a row with this text does not count.
pub type Refuses = fn(&str) -> bool;

/// One bucket with at least one value. Units are the column's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub start: Timestamp,
    pub count: u64,
    pub min: f64,
    pub max: f64,
    /// Summed in no promised order; relative error about `count` times 1e-16.
    pub sum: f64,
    /// The earliest value, and when.
    pub first: f64,
    pub first_at: Timestamp,
    /// The latest value, and when.
    pub last: f64,
    pub last_at: Timestamp,
}

impl Bucket {
    fn one(start: Timestamp, at: Timestamp, value: f64) -> Self {
        Self {
            start,
            count: 1,
            min: value,
            max: value,
            sum: value,
            first: value,
            first_at: at,
            last: value,
            last_at: at,
        }
    }

    /// Joins two parts of the same bucket, such as the sealed and the unsealed one.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        if other.first_at < self.first_at {
            (self.first, self.first_at) = (other.first, other.first_at);
        }
        if other.last_at >= self.last_at {
            (self.last, self.last_at) = (other.last, other.last_at);
        }
    }
}

impl Buckets {
    /// Start and end of the bucket that holds `at`, or `None` outside the edges.
    fn of(&self, at: i64) -> Option<(i64, i64)> {
        match self {
            Self::Width { origin, width } => {
                let since = at.checked_sub(origin.as_micros())?;
                let start = at - since.rem_euclid(*width);
                Some((start, start.saturating_add(*width)))
            }
            Self::Edges(edges) => {
                let after = edges.partition_point(|e| e.as_micros() <= at);
                let start = edges.get(after.checked_sub(1)?)?;
                Some((start.as_micros(), edges.get(after)?.as_micros()))
            }
        }
    }

    /// Whether they are wide enough for sums by the hour to be of use.
    fn hold_hours(&self) -> bool {
        match self {
            Self::Width { width, .. } => *width >= HOUR,
            Self::Edges(edges) => match edges.as_slice() {
                [first, .., last] => last.micros_since(*first) >= HOUR * (edges.len() as i64 - 1),
                _ => false,
            },
        }
    }

    fn check(&self) -> Result<(), Error> {
        let right = match self {
            Self::Width { width, .. } => *width > 0,
            Self::Edges(edges) => edges.len() >= 2 && edges.windows(2).all(|w| w[0] < w[1]),
        };
        if right { Ok(()) } else { Err(Error::invalid("buckets must have a width above zero, or ascending edges")) }
    }
}

impl View {
    /// For each series of the query that has values: its non-empty buckets, by start. Runs on the lake's threads.
    pub async fn aggregate(&self, query: Aggregate<'_>) -> Result<BTreeMap<i64, Vec<Bucket>>, Error> {
        query.buckets.check()?;
        let column = self.columns(Some(&[query.column]))?[0];
        if *self.files.layout.schema.field(column).data_type() != arrow::datatypes::DataType::Float64 {
            return Err(Error::invalid(format!("column '{}' does not hold numbers", query.column)));
        }
        let unless = match query.unless {
            Some((name, refuses)) => {
                let column = self.columns(Some(&[name]))?[0];
                if *self.files.layout.schema.field(column).data_type() != arrow::datatypes::DataType::Utf8 {
                    return Err(Error::invalid(format!("column '{name}' does not hold text")));
                }
                Some((column, refuses))
            }
            None => None,
        };
        let mut series = query.series.to_vec();
        series.sort_unstable();
        series.dedup();
        let (view, from, to) = (self.clone(), query.from.as_micros(), query.to.as_micros());
        let buckets = query.buckets;
        // What the table keeps sums of, it also knows how to read where a row stands for several.
        let summed = self.files.layout.rollup.filter(|kept| kept.column == column).and_then(|kept| kept.summed);
        let source = Source { column, unless, summed };
        self.workers.run(async move { view.fold(&series, from, to, &buckets, source).await }).await
    }

    async fn fold(
        &self,
        series: &[i64],
        from: i64,
        to: i64,
        buckets: &Buckets,
        source: Source,
    ) -> Result<BTreeMap<i64, Vec<Bucket>>, Error> {
        let mut sums = Sums::default();
        let by_hour = self.files.layout.rollup.is_some_and(|kept| same(kept, source)) && buckets.hold_hours();
        for file in &self.snapshot.files {
            let (Some(&first), Some(&last)) = (series.first(), series.last()) else { break };
            let apart = file.time.0 >= to || file.time.1 < from || file.series.0 > last || file.series.1 < first;
            if apart {
                continue;
            }
            let footer = self.files.footer(file).await?;
            let asked = series.iter().filter_map(|&s| footer.series.find(s));
            let asked: Vec<Entry> = asked.filter(|entry| entry.min < to && from <= entry.max).collect();
            if asked.is_empty() {
                continue;
            }
            let kept = if by_hour { rollup::kept(&self.files, file, &footer).await? } else { None };
            let Some(kept) = kept else {
                self.by_row(&mut sums, (file, &footer), &asked, (from, to), buckets, source).await?;
                continue;
            };
            // What an edge cuts, and series that have no hours.
            for (entry, from, to) in sums.by_hour(&kept, &asked, (from, to), buckets).await? {
                let entry = std::slice::from_ref(&entry);
                self.by_row(&mut sums, (file, &footer), entry, (from, to), buckets, source).await?;
            }
        }
        let all = sums.all.into_iter().map(|(id, buckets)| (id, buckets.into_values().collect::<Vec<_>>()));
        Ok(all.filter(|(_, buckets)| !buckets.is_empty()).collect())
    }

    /// Sums up the rows of some series in a file that lie in a time.
    async fn by_row(
        &self,
        sums: &mut Sums,
        (file, footer): (&FileMeta, &Footer),
        asked: &[Entry],
        (from, to): (i64, i64),
        buckets: &Buckets,
        source: Source,
    ) -> Result<(), Error> {
        let layout = &self.files.layout;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for entry in asked {
            ranges.extend(self.files.narrow(footer, entry.rows.clone(), |min, max| min < to && from <= max));
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let mut columns = vec![layout.series, layout.time, source.column];
        columns.extend(source.unless.map(|(column, _)| column));
        let several = columns.len();
        columns.extend(source.summed.into_iter().flatten());
        let mut batches = self.files.rows(file, footer, &ranges, &columns, 4 * PAGE_ROWS)?;
        while let Some(batch) = batches.try_next().await? {
            let ids = batch.column(0).as_primitive::<Int64Type>().values();
            let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
            let values = counting(batch.column(2), source.unless.map(|(_, refuses)| (batch.column(3), refuses)))?;
            let worth = Worth::new(values, source.summed.map(|_| std::array::from_fn(|i| batch.column(several + i))));
            let mut row = 0;
            while row < ids.len() {
                let id = ids[row];
                let run = row + ids[row..].partition_point(|&s| s == id);
                while row < run {
                    let at = times[row];
                    let bounds = if at < from || at >= to { None } else { buckets.of(at) };
                    let Some((start, end)) = bounds else {
                        row += 1;
                        continue;
                    };
                    // Times ascend within the run, so the bucket's rows are the next ones.
                    let stop = row + times[row..run].partition_point(|&t| t < end.min(to));
                    if let Some(part) = worth.part(start, &times[row..stop], row) {
                        sums.add(id, part)?;
                    }
                    row = stop;
                }
            }
        }
        Ok(())
    }
}

/// Whether two questions count the same rows.
fn same(a: Source, b: Source) -> bool {
    let unless = match (a.unless, b.unless) {
        (None, None) => true,
        (Some((a, refuses)), Some((b, other))) => a == b && std::ptr::fn_addr_eq(refuses, other),
        _ => false,
    };
    a.column == b.column && unless
}

/// Buckets by series and start.
#[derive(Default)]
struct Sums {
    all: BTreeMap<i64, BTreeMap<i64, Bucket>>,
    held: usize,
}

impl Sums {
    fn add(&mut self, series: i64, part: Bucket) -> Result<(), Error> {
        match self.all.entry(series).or_default().entry(part.start.as_micros()) {
            Slot::Occupied(mut bucket) => bucket.get_mut().merge(&part),
            Slot::Vacant(slot) => {
                slot.insert(part);
                self.held += 1;
            }
        }
        if self.held <= MOST_BUCKETS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the answer would have more than {MOST_BUCKETS} buckets; ask for fewer series, less time or wider buckets"
        )))
    }

    /// Sums up a file's hours. What is left for its rows, with its times: hours that are cut by an edge, and series that have no hours.
    async fn by_hour(
        &mut self,
        kept: &Kept,
        asked: &[Entry],
        (from, to): (i64, i64),
        buckets: &Buckets,
    ) -> Result<Vec<(Entry, i64, i64)>, Error> {
        let (mut left, mut ranges) = (Vec::new(), Vec::new());
        for entry in asked {
            match kept.footer.series.find(entry.series) {
                Some(hours) => ranges.extend(
                    kept.files.narrow(&kept.footer, hours.rows, |min, max| min < to && from < max.saturating_add(HOUR)),
                ),
                None => left.push((entry.clone(), from, to)),
            }
        }
        if ranges.is_empty() {
            return Ok(left);
        }
        let columns: Vec<usize> = (0..kept.files.layout.schema.fields().len()).collect();
        let read: Result<Vec<RecordBatch>, Error> =
            match kept.files.rows(&kept.file, &kept.footer, &ranges, &columns, 4 * PAGE_ROWS) {
                Ok(batches) => batches.try_collect().await,
                Err(error) => Err(error),
            };
        let batches = match read {
            Ok(batches) => batches,
            // Nothing of it is counted yet: rows answer as well, only later.
            Err(error) => {
                tracing::debug!(path = %kept.file.path, %error, "a rollup cannot be read");
                return Ok(asked.iter().map(|entry| (entry.clone(), from, to)).collect());
            }
        };
        // The series whose hour before this one was cut: hours that are cut one after the other are read at once.
        let mut cut = None;
        for batch in batches {
            for (series, mut cell) in rollup::cells(&batch) {
                let (start, end) = (cell.start.as_micros(), cell.start.as_micros().saturating_add(HOUR));
                let whole = buckets.of(start).filter(|(_, last)| end <= *last && from <= start && end <= to);
                if let Some((bucket, _)) = whole {
                    cell.start = Timestamp::from_micros(bucket);
                    self.add(series, cell)?;
                    cut = None;
                } else if start < to
                    && from < end
                    && let Ok(entry) = asked.binary_search_by_key(&series, |entry| entry.series)
                {
                    match left.last_mut() {
                        Some((_, _, last)) if cut == Some(series) => *last = end.min(to),
                        _ => left.push((asked[entry].clone(), start.max(from), end.min(to))),
                    }
                    cut = Some(series);
                }
            }
        }
        Ok(left)
    }
}

/// Folds consecutive rows of one bucket; `offset` is where they start in `values`.
pub(crate) fn part(start: i64, times: &[i64], values: &arrow::array::Float64Array, offset: usize) -> Option<Bucket> {
    let numbers = &values.values()[offset..offset + times.len()];
    let counts = |i: usize| (values.null_count() == 0 || values.is_valid(offset + i)) && !numbers[i].is_nan();
    let first = (0..times.len()).find(|&i| counts(i))?;
    let mut bucket = Bucket::one(Timestamp::from_micros(start), Timestamp::from_micros(times[first]), numbers[first]);
    let mut last = first;
    for (i, &value) in numbers.iter().enumerate().skip(first + 1) {
        if counts(i) {
            bucket.count += 1;
            bucket.sum += value;
            bucket.min = bucket.min.min(value);
            bucket.max = bucket.max.max(value);
            last = i;
        }
    }
    (bucket.last, bucket.last_at) = (numbers[last], Timestamp::from_micros(times[last]));
    Some(bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cut_time_from_their_origin() {
        let hours = Buckets::Width { origin: Timestamp::from_micros(30), width: 60 };
        assert_eq!(hours.of(30), Some((30, 90)));
        assert_eq!(hours.of(29), Some((-30, 30)));
        assert_eq!(hours.of(-31), Some((-90, -30)));
        let days = Buckets::Edges([0, 10, 25].map(Timestamp::from_micros).to_vec());
        assert_eq!((days.of(-1), days.of(0), days.of(24), days.of(25)), (None, Some((0, 10)), Some((10, 25)), None));
        assert!(Buckets::Edges(vec![]).check().is_err());
    }
}
