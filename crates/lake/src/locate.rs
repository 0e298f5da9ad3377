//! Finding given keys in a sealed file, reading only pages that may hold them.

use std::ops::Range;

use arrow::{array::RecordBatch, row::Rows};
use futures::TryStreamExt;

use crate::{
    Error,
    file::{FileMeta, Files, Footer},
    index::Entry,
    spec::Layout,
    write::PAGE_ROWS,
};

/// Keys in ascending order, each once.
pub(crate) struct Keys {
    pub rows: Rows,
    pub series: Vec<i64>,
    pub times: Vec<i64>,
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
    /// Keys of whole rows, or of key columns only when `keys`. Fails unless they ascend strictly.
    pub fn new(layout: &Layout, batch: &RecordBatch, keys: bool) -> Result<Self, Error> {
        let rows = layout.key_rows(batch, keys)?;
        if (1..rows.num_rows()).any(|i| rows.row(i - 1) >= rows.row(i)) {
            return Err(Error::invalid(format!(
                "rows for table '{}' must be sorted by {:?} and each key may come once",
                layout.name(),
                layout.spec.key
            )));
        }
        let (series, time) = if keys { (0, 1) } else { (layout.series, layout.time) };
        use arrow::{array::AsArray, datatypes as t};
        Ok(Self {
            rows,
            series: batch.column(series).as_primitive::<t::Int64Type>().values().to_vec(),
            times: batch.column(time).as_primitive::<t::TimestampMicrosecondType>().values().to_vec(),
        })
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether the two have a key in common.
    pub fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (0, 0);
        while a < self.len() && b < other.len() {
            match self.rows.row(a).cmp(&other.rows.row(b)) {
                std::cmp::Ordering::Less => a += 1,
                std::cmp::Ordering::Greater => b += 1,
                std::cmp::Ordering::Equal => return true,
            }
        }
        false
    }

    /// Smallest and largest time.
    pub fn times(&self) -> Option<(i64, i64)> {
        Some((*self.times.iter().min()?, *self.times.iter().max()?))
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
    let (Some(times), Some(first), Some(last)) = (keys.times(), keys.series.first(), keys.series.last()) else {
        return false;
    };
    file.time.0 <= times.1 && times.0 <= file.time.1 && file.series.0 <= *last && *first <= file.series.1
}

/// The `keys` that `file` holds, in key order. With `full` (the whole rows as bytes, one for each key) also whether the rows are the same.
pub(crate) async fn locate(
    files: &Files,
    file: &FileMeta,
    footer: &Footer,
    keys: &Keys,
    full: Option<&Rows>,
) -> Result<Vec<Match>, Error> {
    let candidates = keys.candidates(footer);
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
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
    let columns: Vec<usize> =
        if full.is_some() { (0..files.layout.schema.fields().len()).collect() } else { files.layout.key.clone() };
    let mut batches = files.rows(file, footer, &ranges, &columns, 2 * PAGE_ROWS)?;
    let mut numbers = ranges.iter().flat_map(Clone::clone);
    let mut wanted = wanted.into_iter().peekable();
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let rows = files.layout.key_rows(&batch, full.is_none())?;
        let first = found.len();
        let mut places = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            let number = numbers.next().ok_or_else(|| Error::invalid("a file holds more rows than its index says"))?;
            while wanted.next_if(|&key| keys.rows.row(key) < row).is_some() {}
            if let Some(key) = wanted.next_if(|&key| keys.rows.row(key) == row) {
                found.push(Match { key, row: number, same: false });
                places.push(place as u32);
            }
        }
        if let (Some(full), false) = (full, places.is_empty()) {
            let sealed = files.layout.all_rows(&crate::spec::take(&batch, &places)?)?;
            for (i, hit) in found[first..].iter_mut().enumerate() {
                hit.same = sealed.row(i) == full.row(hit.key);
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
