//! Which rows of a Parquet file belong to which series. Written into the file's own footer, so that it can neither be lost nor disagree.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// Footer key. Other engines ignore keys they do not know.
pub(crate) const FOOTER_KEY: &str = "lamppost.series";
/// Footer key: how many bytes the file's rollup has.
pub(crate) const ROLLUP_KEY: &str = "lamppost.rollup";

/// For each series in a file, in ascending order: its rows (they are consecutive, because files are sorted) and its times.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SeriesIndex {
    series: Vec<i64>,
    /// First row of each series.
    first: Vec<u64>,
    min: Vec<i64>,
    max: Vec<i64>,
    rows: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub series: i64,
    pub rows: Range<u64>,
    /// Both inclusive, µs.
    pub min: i64,
    pub max: i64,
}

impl SeriesIndex {
    /// Appends the next rows of the file, which must come in key order.
    pub fn push(&mut self, series: &[i64], times: &[i64]) {
        for (&s, &t) in series.iter().zip(times) {
            match self.series.last() {
                Some(&last) if last == s => {
                    if let Some(max) = self.max.last_mut() {
                        *max = t;
                    }
                }
                _ => {
                    self.series.push(s);
                    self.first.push(self.rows);
                    self.min.push(t);
                    self.max.push(t);
                }
            }
            self.rows += 1;
        }
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    pub fn entry(&self, i: usize) -> Entry {
        let end = self.first.get(i + 1).copied().unwrap_or(self.rows);
        Entry { series: self.series[i], rows: self.first[i]..end, min: self.min[i], max: self.max[i] }
    }

    pub fn find(&self, series: i64) -> Option<Entry> {
        self.series.binary_search(&series).ok().map(|i| self.entry(i))
    }

    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map(|i| self.entry(i))
    }

    /// Smallest and largest time in the file.
    pub fn times(&self) -> Option<(i64, i64)> {
        Some((*self.min.iter().min()?, *self.max.iter().max()?))
    }

    pub fn series_range(&self) -> Option<(i64, i64)> {
        Some((*self.series.first()?, *self.series.last()?))
    }

    pub fn memory(&self) -> usize {
        self.series.len() * 32 + 64
    }

    /// Differences as variable-length integers: about 12 bytes a series.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(self.len() * 12 + 16);
        put(&mut bytes, self.len() as u64);
        let (mut series, mut time) = (0i64, 0i64);
        for entry in self.iter() {
            put(&mut bytes, zigzag(entry.series.wrapping_sub(series)));
            put(&mut bytes, entry.rows.end - entry.rows.start);
            put(&mut bytes, zigzag(entry.min.wrapping_sub(time)));
            put(&mut bytes, entry.max.wrapping_sub(entry.min) as u64);
            (series, time) = (entry.series, entry.min);
        }
        STANDARD_NO_PAD.encode(bytes)
    }

    /// `None` when the text is not what [`Self::encode`] writes.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text).ok()?;
        let mut rest = bytes.as_slice();
        let count = get(&mut rest)?;
        // Every series takes at least four bytes, so a count beyond that is a lie and must not become an allocation.
        if count > rest.len() as u64 / 4 {
            return None;
        }
        let mut index = Self::default();
        let (mut series, mut time) = (0i64, 0i64);
        for i in 0..count {
            let next = series.wrapping_add(unzigzag(get(&mut rest)?));
            if i > 0 && next <= series {
                return None;
            }
            series = next;
            let rows = get(&mut rest)?;
            time = time.wrapping_add(unzigzag(get(&mut rest)?));
            let max = time.wrapping_add(get(&mut rest)? as i64);
            if rows == 0 || max < time {
                return None;
            }
            index.series.push(series);
            index.first.push(index.rows);
            index.min.push(time);
            index.max.push(max);
            index.rows = index.rows.checked_add(rows)?;
        }
        rest.is_empty().then_some(index)
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}
fn unzigzag(n: u64) -> i64 {
    ((n >> 1) as i64) ^ -((n & 1) as i64)
}
fn put(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push((n as u8) | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}
fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_footer(mut rows in proptest::collection::vec((any::<i64>(), any::<i64>()), 0..200)) {
            rows.sort();
            let mut index = SeriesIndex::default();
            index.push(&rows.iter().map(|r| r.0).collect::<Vec<_>>(), &rows.iter().map(|r| r.1).collect::<Vec<_>>());
            // A span of more than i64 in one series cannot happen: times lie between the years 1 and 9999.
            prop_assume!(index.iter().all(|e| e.max.checked_sub(e.min).is_some()));
            prop_assert_eq!(SeriesIndex::decode(&index.encode()), Some(index));
        }

        #[test]
        fn finds_every_row(mut rows in proptest::collection::vec((0i64..20, 0i64..1000), 1..200)) {
            rows.sort();
            let mut index = SeriesIndex::default();
            index.push(&rows.iter().map(|r| r.0).collect::<Vec<_>>(), &rows.iter().map(|r| r.1).collect::<Vec<_>>());
            for s in -1..21 {
                let expected: Vec<_> = rows.iter().enumerate().filter(|(_, r)| r.0 == s).map(|(i, r)| (i as u64, r.1)).collect();
                match index.find(s) {
                    None => prop_assert!(expected.is_empty()),
                    Some(e) => {
                        prop_assert_eq!(e.rows, expected[0].0..expected[expected.len() - 1].0 + 1);
                        prop_assert_eq!((e.min, e.max), (expected[0].1, expected[expected.len() - 1].1));
                    }
                }
            }
        }

        #[test]
        fn hostile_text_is_refused_without_panic(text in "[A-Za-z0-9+/]{0,80}") {
            let _ = SeriesIndex::decode(&text);
        }
    }
}
