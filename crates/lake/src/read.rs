//! One series out of Parquet, without a query engine: the index in each footer gives the rows, the page index the pages.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch},
    datatypes::TimestampMicrosecondType,
};
use futures::{StreamExt, TryStreamExt};
use kernel::Timestamp;

use crate::{
    Error, View,
    file::{FileMeta, Footer},
    index::Entry,
    locate::{Keys, locate, may_hold},
    spec::take,
    write::PAGE_ROWS,
};

/// Footers fetched at the same time when all are needed.
const FETCHES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By key, oldest first.
    Ascending,
    /// By key, newest first.
    Descending,
}

/// Rows of one series within a time range.
#[derive(Clone, Debug)]
pub struct SeriesQuery<'a> {
    pub series: i64,
    /// Times from here, inclusive ...
    pub from: Timestamp,
    /// ... up to here, exclusive.
    pub to: Timestamp,
    pub order: Order,
    /// The most rows to return.
    pub limit: usize,
    /// Which columns, in this order; `None` for all. Fewer columns, fewer pages.
    pub columns: Option<&'a [&'a str]>,
}

/// What is sealed of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub series: i64,
    pub rows: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// A file that holds rows of the series within the range.
struct Candidate {
    file: Arc<FileMeta>,
    footer: Arc<Footer>,
    entry: Entry,
}

impl View {
    /// The sealed rows of one series, in one batch. Reads only the pages that hold them.
    pub async fn series(&self, query: &SeriesQuery<'_>) -> Result<RecordBatch, Error> {
        let layout = &self.files.layout;
        let wanted = self.columns(query.columns)?;
        // The key is read as well, to order rows of several files.
        let mut columns = layout.key.clone();
        columns.extend(wanted.iter().filter(|c| !layout.key.contains(c)));
        let schema = Arc::new(layout.schema.project(&columns)?);
        let (from, to) = (query.from.as_micros(), query.to.as_micros());
        let mut candidates = self.candidates(query.series, from, to).await?;
        let best = |c: &Candidate| match query.order {
            Order::Ascending => c.entry.min.max(from),
            Order::Descending => -c.entry.max.min(to - 1),
        };
        candidates.sort_by_key(best);
        let mut batches = Vec::new();
        // Distance of each row gathered so far from the wanted end; smaller is better, as in `best`.
        let mut gathered: Vec<i64> = Vec::new();
        for candidate in candidates {
            if query.limit == 0 {
                break;
            }
            if gathered.len() >= query.limit {
                let (_, worst, _) = gathered.select_nth_unstable(query.limit - 1);
                if *worst < best(&candidate) {
                    break;
                }
            }
            for batch in self.read_entry(&candidate, query, &columns).await? {
                let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
                gathered.extend(times.iter().map(|&t| if query.order == Order::Ascending { t } else { -t }));
                batches.push(batch);
            }
        }
        let all = concat_batches(&schema, &batches)?;
        let keys = layout.key_rows(&all.project(&(0..layout.key.len()).collect::<Vec<_>>())?, true)?;
        let mut rows: Vec<u32> = (0..all.num_rows() as u32).collect();
        rows.sort_unstable_by(|&a, &b| {
            let ascending = keys.row(a as usize).cmp(&keys.row(b as usize));
            if query.order == Order::Ascending { ascending } else { ascending.reverse() }
        });
        rows.truncate(query.limit);
        let places: Vec<usize> = wanted.iter().filter_map(|w| columns.iter().position(|c| c == w)).collect();
        take(&all.project(&places)?, &rows)
    }

    /// The rows with the given keys (key columns only, in key order, sorted, each once) that are sealed, by key.
    pub async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch, Error> {
        let layout = &self.files.layout;
        layout.check(keys, true)?;
        let keys = Keys::new(layout, vec![keys.clone()], true)?;
        let columns: Vec<usize> = (0..layout.schema.fields().len()).collect();
        let mut batches = Vec::new();
        for file in self.snapshot.files.iter().filter(|f| may_hold(f, &keys)) {
            let footer = self.files.footer(file).await?;
            let found = locate(&self.files, file, &footer, &keys, false).await?;
            let ranges: Vec<Range<u64>> = found.iter().map(|m| m.row..m.row + 1).collect();
            if !ranges.is_empty() {
                let rows = self.files.rows(file, &footer, &ranges, &columns, PAGE_ROWS)?;
                batches.extend(rows.try_collect::<Vec<_>>().await?);
            }
        }
        let all = concat_batches(&layout.schema, &batches)?;
        let order = layout.key_rows(&all, false)?;
        let mut rows: Vec<u32> = (0..all.num_rows() as u32).collect();
        rows.sort_unstable_by(|&a, &b| order.row(a as usize).cmp(&order.row(b as usize)));
        take(&all, &rows)
    }

    /// Count, first and last time of every series with sealed rows, by series: what a cold start needs. Reads footers only.
    pub async fn summaries(&self) -> Result<Vec<Summary>, Error> {
        let mut all: HashMap<i64, Summary> = HashMap::new();
        let mut footers = self.footers();
        while let Some((_, footer)) = footers.try_next().await? {
            for entry in footer.series.iter() {
                let (first, last) = (Timestamp::from_micros(entry.min), Timestamp::from_micros(entry.max));
                let summary = all.entry(entry.series).or_insert(Summary { series: entry.series, rows: 0, first, last });
                summary.rows += entry.rows.end - entry.rows.start;
                summary.first = summary.first.min(first);
                summary.last = summary.last.max(last);
            }
        }
        let mut all: Vec<Summary> = all.into_values().collect();
        all.sort_unstable_by_key(|s| s.series);
        Ok(all)
    }

    /// The newest row of every series (the greatest key), in no promised order; `None` for all columns. One pass over the files,
    /// reading one page of each series.
    pub async fn latest(&self, columns: Option<&[&str]>) -> Result<Vec<RecordBatch>, Error> {
        let layout = &self.files.layout;
        let wanted = self.columns(columns)?;
        let mut newest: HashMap<i64, i64> = HashMap::new();
        let mut footers = self.footers();
        while let Some((_, footer)) = footers.try_next().await? {
            for entry in footer.series.iter() {
                let last = newest.entry(entry.series).or_insert(entry.max);
                *last = entry.max.max(*last);
            }
        }
        let mut columns = layout.key.clone();
        columns.extend(wanted.iter().filter(|c| !layout.key.contains(c)));
        let places: Vec<usize> = wanted.iter().filter_map(|w| columns.iter().position(|c| c == w)).collect();
        let key: Vec<usize> = (0..layout.key.len()).collect();
        let mut found = Vec::new();
        // Series whose newest time is in several files: the greatest key decides among them.
        let mut ties: HashMap<i64, (Vec<u8>, usize, usize)> = HashMap::new();
        let mut footers = self.footers();
        while let Some((file, footer)) = footers.try_next().await? {
            let ranges: Vec<Range<u64>> = footer
                .series
                .iter()
                .filter(|e| newest.get(&e.series) == Some(&e.max))
                .map(|e| e.rows.end - 1..e.rows.end)
                .collect();
            if ranges.is_empty() {
                continue;
            }
            let mut batches = self.files.rows(&file, &footer, &ranges, &columns, 2 * PAGE_ROWS)?;
            while let Some(batch) = batches.try_next().await? {
                let keys = layout.key_rows(&batch.project(&key)?, true)?;
                let series = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>();
                for row in 0..batch.num_rows() {
                    let bytes = keys.row(row);
                    match ties.get_mut(&series.value(row)) {
                        Some(best) if best.0.as_slice() >= bytes.as_ref() => {}
                        Some(best) => *best = (bytes.as_ref().to_vec(), found.len(), row),
                        None => {
                            ties.insert(series.value(row), (bytes.as_ref().to_vec(), found.len(), row));
                        }
                    }
                }
                found.push(batch);
            }
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); found.len()];
        for (_, batch, row) in ties.into_values() {
            rows[batch].push(row as u32);
        }
        found.iter().zip(rows).map(|(batch, rows)| take(&batch.project(&places)?, &rows)).collect()
    }

    /// Every file with its footer, several fetched at a time.
    fn footers(&self) -> impl futures::Stream<Item = Result<(Arc<FileMeta>, Arc<Footer>), Error>> + Send + Unpin + '_ {
        Box::pin(
            futures::stream::iter(self.snapshot.files.clone())
                .map(move |file| async move {
                    let footer = self.files.footer(&file).await?;
                    Ok((file, footer))
                })
                .buffer_unordered(FETCHES),
        )
    }

    pub(crate) fn columns(&self, names: Option<&[&str]>) -> Result<Vec<usize>, Error> {
        let layout = &self.files.layout;
        match names {
            None => Ok((0..layout.schema.fields().len()).collect()),
            Some(names) => names
                .iter()
                .map(|name| {
                    layout
                        .schema
                        .index_of(name)
                        .map_err(|_| Error::invalid(format!("table '{}' has no column '{name}'", layout.name())))
                })
                .collect(),
        }
    }

    async fn candidates(&self, series: i64, from: i64, to: i64) -> Result<Vec<Candidate>, Error> {
        let mut found = Vec::new();
        for file in &self.snapshot.files {
            let inside = (file.series.0..=file.series.1).contains(&series) && file.time.0 < to && from <= file.time.1;
            if !inside {
                continue;
            }
            let footer = self.files.footer(file).await?;
            if let Some(entry) = footer.series.find(series).filter(|e| e.min < to && from <= e.max) {
                found.push(Candidate { file: file.clone(), footer, entry });
            }
        }
        Ok(found)
    }

    /// How many rows of a series are sealed with a time from `from` (inclusive) to `to` (exclusive). Of a file only the pages at either end
    /// are read. `None` when some row of the files asked has a value in the column `unless`.
    pub async fn count(
        &self,
        series: i64,
        from: Timestamp,
        to: Timestamp,
        unless: Option<&str>,
    ) -> Result<Option<u64>, Error> {
        let (from, to) = (from.as_micros(), to.as_micros());
        let mut count = 0;
        for Candidate { file, footer, entry } in self.candidates(series, from, to).await? {
            if unless.is_some_and(|column| !footer.is_vacant(column)) {
                return Ok(None);
            }
            if from <= entry.min && entry.max < to {
                count += entry.rows.end - entry.rows.start;
                continue;
            }
            let mut edges = Vec::new();
            for range in self.files.pages(&footer, entry.rows) {
                match range {
                    (rows, Some((min, max))) if from <= min && max < to => count += rows.end - rows.start,
                    (_, Some((min, max))) if max < from || min >= to => {}
                    (rows, _) => edges.push(rows),
                }
            }
            let mut batches = self.files.rows(&file, &footer, &edges, &[self.files.layout.time], PAGE_ROWS)?;
            while let Some(batch) = batches.try_next().await? {
                let times = batch.column(0).as_primitive::<TimestampMicrosecondType>().values();
                count += times.iter().filter(|t| (from..to).contains(*t)).count() as u64;
            }
        }
        Ok(Some(count))
    }

    async fn read_entry(
        &self,
        candidate: &Candidate,
        query: &SeriesQuery<'_>,
        columns: &[usize],
    ) -> Result<Vec<RecordBatch>, Error> {
        let (from, to) = (query.from.as_micros(), query.to.as_micros());
        let Candidate { file, footer, entry } = candidate;
        let whole = from <= entry.min && entry.max < to;
        let mut ranges = if whole {
            vec![entry.rows.clone()]
        } else {
            self.files.narrow(footer, entry.rows.clone(), |min, max| min < to && from <= max)
        };
        // Pages at either end may hold rows outside the range, and the series' first and last page are shared with its neighbours.
        let open = match query.order {
            Order::Ascending => from <= entry.min,
            Order::Descending => entry.max < to,
        };
        trim(&mut ranges, query.order, query.limit as u64 + if open { 0 } else { 3 * PAGE_ROWS as u64 });
        let mut batches = Vec::new();
        let mut rows = self.files.rows(file, footer, &ranges, columns, PAGE_ROWS)?;
        while let Some(batch) = rows.try_next().await? {
            if whole {
                batches.push(batch);
                continue;
            }
            let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
            let inside: BooleanArray = times.values().iter().map(|&t| Some(from <= t && t < to)).collect();
            if inside.true_count() > 0 {
                batches.push(filter_record_batch(&batch, &inside)?);
            }
        }
        Ok(batches)
    }
}

/// Keeps at most `rows` rows of `ranges`: the first, or the last when descending.
fn trim(ranges: &mut Vec<Range<u64>>, order: Order, mut rows: u64) {
    let mut kept = Vec::new();
    let take = |range: Range<u64>, rows: &mut u64| -> Option<Range<u64>> {
        let length = (range.end - range.start).min(*rows);
        *rows -= length;
        (length > 0).then(|| match order {
            Order::Ascending => range.start..range.start + length,
            Order::Descending => range.end - length..range.end,
        })
    };
    match order {
        Order::Ascending => kept.extend(ranges.drain(..).filter_map(|r| take(r, &mut rows))),
        Order::Descending => {
            kept.extend(ranges.drain(..).rev().filter_map(|r| take(r, &mut rows)));
            kept.reverse();
        }
    }
    *ranges = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_from_the_wanted_end() {
        let check = |order, rows, expect: &[Range<u64>]| {
            let mut ranges = vec![0..10, 20..30];
            trim(&mut ranges, order, rows);
            assert_eq!(ranges, expect);
        };
        check(Order::Ascending, 12, &[0..10, 20..22]);
        check(Order::Descending, 12, &[8..10, 20..30]);
        check(Order::Descending, 3, std::slice::from_ref(&(27..30)));
        check(Order::Ascending, 0, &[]);
        check(Order::Ascending, 99, &[0..10, 20..30]);
    }
}
