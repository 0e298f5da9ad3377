//! Finding given keys in a sealed file, reading only pages that may hold them.

use std::{cmp::Ordering, ops::Range};

use arrow::{
    array::{AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::{Int64Type, TimestampMicrosecondType},
    row::Rows,
};
use futures::TryStreamExt;

use crate::{
    Error,
    file::{FileMeta, Files, Footer},
    index::Entry,
    spec::{Layout, take},
    write::PAGE_ROWS,
};

/// Keys in ascending order, each once. What is compared all the time, series and time, lies in two vectors; the rest of a key is looked at
/// only where those two are equal, so that rows which nothing stands against are never turned into comparable bytes.
pub(crate) struct Keys {
    pub series: Vec<i64>,
    pub times: Vec<i64>,
    /// Whole rows, or the key columns alone when `bare`.
    pub batches: Vec<RecordBatch>,
    bare: bool,
    /// The number of the first key of each batch.
    starts: Vec<usize>,
    /// Smallest and largest time.
    span: Option<(i64, i64)>,
}

/// A key that a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Its number among the [`Keys`].
    pub key: usize,
    /// Its row in the file.
    pub row: u64,
    /// The whole row in the file equals the one that was put (only when asked).
    pub same: bool,
}

impl Keys {
    /// Keys of whole rows, or of key columns only when `bare`. Fails unless they ascend strictly, across all batches.
    pub fn new(layout: &Layout, batches: Vec<RecordBatch>, bare: bool) -> Result<Self, Error> {
        let (series, time) = if bare { (0, 1) } else { (layout.series, layout.time) };
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let mut keys = Self {
            series: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            bare,
            starts: Vec::with_capacity(batches.len()),
            batches: Vec::new(),
            span: None,
        };
        for batch in &batches {
            keys.starts.push(keys.series.len());
            keys.series.extend_from_slice(batch.column(series).as_primitive::<Int64Type>().values());
            keys.times.extend_from_slice(batch.column(time).as_primitive::<TimestampMicrosecondType>().values());
        }
        keys.batches = batches;
        keys.span = keys.times.iter().fold(None, |span, &t| {
            let (min, max) = span.unwrap_or((t, t));
            Some((t.min(min), t.max(max)))
        });
        let at = |i: usize| (keys.series[i], keys.times[i]);
        let mut ties = Vec::new();
        for i in 1..keys.len() {
            match at(i - 1).cmp(&at(i)) {
                Ordering::Less => {}
                Ordering::Equal => ties.push(i),
                Ordering::Greater => return Err(keys.disorder(layout)),
            }
        }
        if !ties.is_empty() {
            // Both sides of each tie, each once.
            let mut places: Vec<usize> = ties.iter().flat_map(|&i| [i - 1, i]).collect();
            places.dedup();
            let rows = keys.rows(layout, &places)?;
            let ascend = |pair: usize| places[pair] + 1 != places[pair + 1] || rows.row(pair) < rows.row(pair + 1);
            if !(0..places.len() - 1).all(ascend) {
                return Err(keys.disorder(layout));
            }
        }
        Ok(keys)
    }

    fn disorder(&self, layout: &Layout) -> Error {
        Error::invalid(format!(
            "rows for table '{}' must be sorted by {:?} and each key may come once",
            layout.name(),
            layout.spec.key
        ))
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// The batches' rows at `places` (ascending), one gathered batch for each batch that has any.
    fn gathered(&self, places: &[usize]) -> Result<Vec<RecordBatch>, Error> {
        let mut found = Vec::new();
        let mut next = 0;
        for (batch, &start) in self.batches.iter().zip(&self.starts) {
            let end = start + batch.num_rows();
            let stop = next + places[next..].partition_point(|&p| p < end);
            if stop > next {
                let rows: Vec<u32> = places[next..stop].iter().map(|&p| (p - start) as u32).collect();
                found.push(take(batch, &rows)?);
            }
            next = stop;
        }
        Ok(found)
    }

    /// The keys at `places` (ascending) as bytes that compare as the table sorts.
    pub fn rows(&self, layout: &Layout, places: &[usize]) -> Result<Rows, Error> {
        let mut rows = layout.no_key_rows();
        for batch in self.gathered(places)? {
            layout.append_key_rows(&mut rows, &batch, self.bare)?;
        }
        Ok(rows)
    }

    /// The whole rows at `places` (ascending), in one batch.
    fn whole(&self, layout: &Layout, places: &[usize]) -> Result<RecordBatch, Error> {
        Ok(concat_batches(&layout.schema, &self.gathered(places)?)?)
    }

    /// Whether the two have a key in common.
    pub fn meets(&self, layout: &Layout, other: &Self) -> Result<bool, Error> {
        let (mut a, mut b) = (0, 0);
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        while a < self.len() && b < other.len() {
            match (self.series[a], self.times[a]).cmp(&(other.series[b], other.times[b])) {
                Ordering::Less => a += 1,
                Ordering::Greater => b += 1,
                Ordering::Equal => {
                    // All keys of this series and time on both sides.
                    let place = (self.series[a], self.times[a]);
                    while a < self.len() && (self.series[a], self.times[a]) == place {
                        mine.push(a);
                        a += 1;
                    }
                    while b < other.len() && (other.series[b], other.times[b]) == place {
                        theirs.push(b);
                        b += 1;
                    }
                }
            }
        }
        let (mine, theirs) = (self.rows(layout, &mine)?, other.rows(layout, &theirs)?);
        let (mut a, mut b) = (0, 0);
        while a < mine.num_rows() && b < theirs.num_rows() {
            match mine.row(a).cmp(&theirs.row(b)) {
                Ordering::Less => a += 1,
                Ordering::Greater => b += 1,
                Ordering::Equal => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Keys whose series the file holds and whose time lies between that series' first and last in the file.
    fn candidates(&self, footer: &Footer) -> Vec<(Range<usize>, Entry)> {
        let mut found = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let series = self.series[start];
            let end = start + self.series[start..].partition_point(|&s| s == series);
            if let Some(entry) = footer.series.find(series) {
                let times = &self.times[start..end];
                let from = start + times.partition_point(|&t| t < entry.min);
                let to = start + times.partition_point(|&t| t <= entry.max);
                if from < to {
                    found.push((from..to, entry));
                }
            }
            start = end;
        }
        found
    }
}

/// Whether a file could hold any of `keys`, by what the log says of it alone.
pub(crate) fn may_hold(file: &FileMeta, keys: &Keys) -> bool {
    let (Some(times), Some(first), Some(last)) = (keys.span, keys.series.first(), keys.series.last()) else {
        return false;
    };
    file.time.0 <= times.1 && times.0 <= file.time.1 && file.series.0 <= *last && *first <= file.series.1
}

/// The `keys` that `file` holds, in key order. With `same`, for which the keys must be whole rows, also whether the rows are the same.
pub(crate) async fn locate(
    files: &Files,
    file: &FileMeta,
    footer: &Footer,
    keys: &Keys,
    same: bool,
) -> Result<Vec<Match>, Error> {
    let candidates = keys.candidates(footer);
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let layout = &files.layout;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut wanted = Vec::new();
    for (range, entry) in candidates {
        let times = &keys.times[range.clone()];
        ranges.extend(files.narrow(footer, entry.rows, |min, max| {
            let at = times.partition_point(|&t| t < min);
            times.get(at).is_some_and(|&t| t <= max)
        }));
        wanted.extend(range);
    }
    let wanted_rows = keys.rows(layout, &wanted)?;
    let columns: Vec<usize> = if same { (0..layout.schema.fields().len()).collect() } else { layout.key.clone() };
    let mut batches = files.rows(file, footer, &ranges, &columns, 2 * PAGE_ROWS)?;
    let mut numbers = ranges.iter().flat_map(Clone::clone);
    let mut next = 0;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let rows = layout.key_rows(&batch, !same)?;
        let first = found.len();
        let mut places = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            let number = numbers.next().ok_or_else(|| Error::invalid("a file holds more rows than its index says"))?;
            while next < wanted.len() && wanted_rows.row(next) < row {
                next += 1;
            }
            if next < wanted.len() && wanted_rows.row(next) == row {
                found.push(Match { key: wanted[next], row: number, same: false });
                places.push(place as u32);
                next += 1;
            }
        }
        if same && !places.is_empty() {
            let sealed = layout.all_rows(&take(&batch, &places)?)?;
            let put: Vec<usize> = found[first..].iter().map(|m| m.key).collect();
            let put = layout.all_rows(&keys.whole(layout, &put)?)?;
            for (i, hit) in found[first..].iter_mut().enumerate() {
                hit.same = sealed.row(i) == put.row(i);
            }
        }
    }
    Ok(found)
}

/// The ranges of `0..rows` that remain without `gone` (ascending).
pub(crate) fn without(rows: u64, gone: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut kept: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    for hole in gone {
        if hole.start > at {
            kept.push(at..hole.start);
        }
        at = at.max(hole.end);
    }
    if at < rows {
        kept.push(at..rows);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_leave_the_rest() {
        assert_eq!(without(10, [0..2, 5..6, 6..7, 9..10]), vec![2..5, 7..9]);
        assert_eq!(without(3, []), vec![0..3]);
        assert_eq!(without(3, std::iter::once(0..3)), Vec::<Range<u64>>::new());
    }
}
