//! Counts, extremes and sums by bucket of time, straight over the sorted pages.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, AsArray, BooleanArray},
    compute::nullif,
    datatypes::{Float64Type, Int64Type, TimestampMicrosecondType},
};
use futures::TryStreamExt;
use kernel::Timestamp;

use crate::{Error, View, write::PAGE_ROWS};

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
        self.workers.run(async move { view.fold(&series, from, to, &buckets, column, unless).await }).await
    }

    async fn fold(
        &self,
        series: &[i64],
        from: i64,
        to: i64,
        buckets: &Buckets,
        column: usize,
        unless: Option<(usize, Refuses)>,
    ) -> Result<BTreeMap<i64, Vec<Bucket>>, Error> {
        let layout = &self.files.layout;
        let mut all: BTreeMap<i64, BTreeMap<i64, Bucket>> = BTreeMap::new();
        let mut held = 0usize;
        for file in &self.snapshot.files {
            let (Some(&first), Some(&last)) = (series.first(), series.last()) else { break };
            let apart = file.time.0 >= to || file.time.1 < from || file.series.0 > last || file.series.1 < first;
            if apart {
                continue;
            }
            let footer = self.files.footer(file).await?;
            let mut ranges = Vec::new();
            for entry in series.iter().filter_map(|&s| footer.series.find(s)) {
                if entry.min < to && from <= entry.max {
                    ranges.extend(self.files.narrow(&footer, entry.rows, |min, max| min < to && from <= max));
                }
            }
            if ranges.is_empty() {
                continue;
            }
            let mut columns = vec![layout.series, layout.time, column];
            columns.extend(unless.map(|(column, _)| column));
            let mut batches = self.files.rows(file, &footer, &ranges, &columns, 4 * PAGE_ROWS)?;
            while let Some(batch) = batches.try_next().await? {
                let ids = batch.column(0).as_primitive::<Int64Type>().values();
                let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
                let values = match unless {
                    Some((_, refuses)) if batch.column(3).null_count() < batch.num_rows() => {
                        let refused: BooleanArray = batch
                            .column(3)
                            .as_string::<i32>()
                            .iter()
                            .map(|text| Some(text.is_some_and(refuses)))
                            .collect();
                        nullif(batch.column(2), &refused)?
                    }
                    _ => batch.column(2).clone(),
                };
                let values = values.as_primitive::<Float64Type>();
                let mut row = 0;
                while row < ids.len() {
                    let id = ids[row];
                    let run = row + ids[row..].partition_point(|&s| s == id);
                    let mine = all.entry(id).or_default();
                    while row < run {
                        let at = times[row];
                        let bounds = if at < from || at >= to { None } else { buckets.of(at) };
                        let Some((start, end)) = bounds else {
                            row += 1;
                            continue;
                        };
                        // Times ascend within the run, so the bucket's rows are the next ones.
                        let stop = row + times[row..run].partition_point(|&t| t < end.min(to));
                        if let Some(part) = part(start, &times[row..stop], values, row) {
                            match mine.get_mut(&start) {
                                Some(bucket) => bucket.merge(&part),
                                None => {
                                    held += 1;
                                    mine.insert(start, part);
                                }
                            }
                        }
                        row = stop;
                    }
                }
                if held > MOST_BUCKETS {
                    return Err(Error::invalid(format!(
                        "the answer would have more than {MOST_BUCKETS} buckets; ask for fewer series, less time or wider buckets"
                    )));
                }
            }
        }
        Ok(all
            .into_iter()
            .map(|(id, buckets)| (id, buckets.into_values().collect::<Vec<_>>()))
            .filter(|(_, buckets)| !buckets.is_empty())
            .collect())
    }
}

/// Folds consecutive rows of one bucket; `offset` is where they start in `values`.
fn part(start: i64, times: &[i64], values: &arrow::array::Float64Array, offset: usize) -> Option<Bucket> {
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
