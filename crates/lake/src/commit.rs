//! Sealing: what came from the stream becomes part of the table, exactly once.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arrow::array::RecordBatch;
use deltalake::protocol::{DeltaOperation, SaveMode};

use crate::{
    Error, Table,
    file::{FileMeta, Files},
    locate::{Keys, locate, may_hold, without},
    merge::{Input, merge},
    spec::take,
    table::{Snapshot, TableInner, Writer},
    write::{Effort, FileWriter, Written, discard},
};

/// Rewritten files may be as large as the largest that compaction makes.
const REWRITE_TARGET: u64 = 1 << 30;

/// The net effect of a stretch of the stream on the table.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The last offset of the stretch. A commit at or below what is sealed does nothing.
    pub through: u64,
    /// Rows to insert or replace: the table's columns, sorted by key across all batches, each key once.
    pub puts: Vec<RecordBatch>,
    /// Keys to delete: the key columns only, in key order, sorted, each once, none of them among `puts`.
    pub deletes: Option<RecordBatch>,
    /// Series whose sealed rows all go. Rows of such a series in `puts` are inserted afterwards.
    pub dropped_series: Vec<i64>,
}

/// What a change did to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Delta version that holds the change, or the current one when there was nothing to do.
    pub version: u64,
    /// Per series, ascending; series that nothing happened to are absent.
    pub series: Vec<SeriesChange>,
}

/// What a change did to one series, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesChange {
    pub series: i64,
    /// New keys.
    pub inserted: u64,
    /// Keys that were there with other values.
    pub replaced: u64,
    /// Keys that were there with the same values: late duplicates. They cost no rewrite.
    pub unchanged: u64,
    /// Keys that are gone.
    pub deleted: u64,
}

impl Changes {
    pub fn inserted(&self) -> u64 {
        self.series.iter().map(|s| s.inserted).sum()
    }
    pub fn replaced(&self) -> u64 {
        self.series.iter().map(|s| s.replaced).sum()
    }
    pub fn unchanged(&self) -> u64 {
        self.series.iter().map(|s| s.unchanged).sum()
    }
    pub fn deleted(&self) -> u64 {
        self.series.iter().map(|s| s.deleted).sum()
    }
}

/// Counts by series while a change is being made.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<i64, SeriesChange>);

impl Tally {
    pub fn of(&mut self, series: i64) -> &mut SeriesChange {
        self.0.entry(series).or_insert(SeriesChange { series, ..SeriesChange::default() })
    }
    pub fn finish(self, version: u64) -> Changes {
        Changes { version, series: self.0.into_values().collect() }
    }
}

impl Table {
    /// Seals a stretch of the stream. Returns once it is durable and visible to readers.
    ///
    /// Errors leave the table as it was, and the same commit may be tried again ([`Error::Full`], [`Error::Store`]).
    /// Dropping the future does not stop the commit.
    pub async fn commit(&self, commit: Commit) -> Result<Changes, Error> {
        let table = self.inner.clone();
        self.inner.workers.run(async move { table.commit(commit).await }).await
    }
}

/// The part of a commit that falls into one partition.
struct Part {
    partition: Option<String>,
    /// Whole rows.
    keys: Keys,
    /// Rows that are already sealed, value for value.
    unchanged: Vec<bool>,
}

impl TableInner {
    async fn commit(&self, commit: Commit) -> Result<Changes, Error> {
        let mut writer = self.writer.lock().await;
        let snapshot = self.view().snapshot;
        if snapshot.sealed_through >= Some(commit.through) {
            return Ok(Changes { version: snapshot.version, series: Vec::new() });
        }
        if i64::try_from(commit.through).is_err() {
            return Err(Error::invalid("an offset is larger than the log can hold"));
        }
        let mut parts = split(&self.files, &commit.puts)?;
        let deletes = match &commit.deletes {
            Some(batch) if batch.num_rows() > 0 => {
                self.files.layout.check(batch, true)?;
                Some(Keys::new(&self.files.layout, vec![batch.clone()], true)?)
            }
            _ => None,
        };
        if let Some(keys) = &deletes {
            for part in &parts {
                if part.keys.meets(&self.files.layout, keys)? {
                    let table = self.files.layout.name();
                    return Err(Error::invalid(format!("a key of table '{table}' is both put and deleted")));
                }
            }
        }
        let mut tally = Tally::default();
        let holes = self.holes(&snapshot, &mut parts, deletes.as_ref(), &commit.dropped_series, &mut tally).await?;
        let mut written = Vec::new();
        match self.write(&parts, &holes, &mut tally, &mut written).await {
            Ok(()) => {}
            Err(error) => {
                discard(&self.files, &written).await;
                return Err(error);
            }
        }
        let removed: Vec<_> = holes.into_iter().map(|(file, _)| file).collect();
        self.seal(&mut writer, written, &removed, commit.through).await?;
        Ok(tally.finish(self.view().snapshot.version))
    }

    async fn seal(
        &self,
        writer: &mut Writer,
        written: Vec<Written>,
        removed: &[Arc<FileMeta>],
        through: u64,
    ) -> Result<(), Error> {
        let partition_by = self.files.layout.spec.partition.column().map(|c| vec![c.to_owned()]);
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by, predicate: None };
        self.log(writer, written, removed, Some(through), operation, true).await
    }

    /// For each sealed file that must lose rows: which rows, ascending. Marks puts that are sealed already.
    async fn holes(
        &self,
        snapshot: &Snapshot,
        parts: &mut [Part],
        deletes: Option<&Keys>,
        dropped: &[i64],
        tally: &mut Tally,
    ) -> Result<Vec<(Arc<FileMeta>, Vec<Range<u64>>)>, Error> {
        let mut found = Vec::new();
        for file in &snapshot.files {
            let mut part = parts.iter_mut().find(|p| p.partition == file.partition && may_hold(file, &p.keys));
            let deletes = deletes.filter(|keys| may_hold(file, keys));
            let drops = dropped.iter().any(|s| (file.series.0..=file.series.1).contains(s));
            if part.is_none() && deletes.is_none() && !drops {
                continue;
            }
            let footer = self.files.footer(file).await?;
            let mut gone: Vec<Range<u64>> = Vec::new();
            for &series in dropped {
                if let Some(entry) = footer.series.find(series) {
                    tally.of(series).deleted += entry.rows.end - entry.rows.start;
                    gone.push(entry.rows);
                }
            }
            let is_dropped = |series: i64| dropped.contains(&series);
            if let Some(part) = &mut part {
                for hit in locate(&self.files, file, &footer, &part.keys, true).await? {
                    let series = part.keys.series[hit.key];
                    if is_dropped(series) {
                        continue;
                    }
                    if hit.same {
                        part.unchanged[hit.key] = true;
                        tally.of(series).unchanged += 1;
                    } else {
                        // Counted as inserted when written; here it is told apart.
                        let change = tally.of(series);
                        change.replaced += 1;
                        gone.push(hit.row..hit.row + 1);
                    }
                }
            }
            if let Some(keys) = deletes {
                for hit in locate(&self.files, file, &footer, keys, false).await? {
                    let series = keys.series[hit.key];
                    if !is_dropped(series) {
                        tally.of(series).deleted += 1;
                        gone.push(hit.row..hit.row + 1);
                    }
                }
            }
            if !gone.is_empty() {
                gone.sort_by_key(|r| r.start);
                found.push((file.clone(), gone));
            }
        }
        Ok(found)
    }

    /// Writes the new rows and what remains of the files that lose some.
    async fn write(
        &self,
        parts: &[Part],
        holes: &[(Arc<FileMeta>, Vec<Range<u64>>)],
        tally: &mut Tally,
        written: &mut Vec<Written>,
    ) -> Result<(), Error> {
        for (file, gone) in holes {
            // Counted by the file itself, not by the log's statistics, which another program may have rounded or dropped.
            let rows = self.files.footer(file).await?.series.rows();
            let keep = without(rows, gone.iter().cloned());
            let input = Input { file: file.clone(), keep };
            written.extend(merge(&self.files, file.partition.clone(), vec![input], REWRITE_TARGET, true).await?);
        }
        for part in parts {
            let keys = &part.keys;
            let mut row = 0;
            while row < keys.len() {
                let series = keys.series[row];
                let end = row + keys.series[row..].partition_point(|&s| s == series);
                let fresh = part.unchanged[row..end].iter().filter(|unchanged| !**unchanged).count();
                if fresh > 0 {
                    tally.of(series).inserted += fresh as u64;
                }
                row = end;
            }
            let vacant = self.files.layout.vacant(&keys.batches);
            let mut writer = FileWriter::start(&self.files, part.partition.clone(), Effort::Fresh, &vacant)?;
            let mut start = 0;
            for batch in &keys.batches {
                let unchanged = &part.unchanged[start..start + batch.num_rows()];
                start += batch.num_rows();
                if unchanged.contains(&true) {
                    let fresh: Vec<u32> =
                        (0..).zip(unchanged).filter(|(_, same)| !**same).map(|(row, _)| row).collect();
                    writer.write(&take(batch, &fresh)?).await?;
                } else {
                    writer.write(batch).await?;
                }
            }
            written.extend(writer.finish(true).await?);
        }
        for change in tally.0.values_mut() {
            change.inserted -= change.replaced;
        }
        Ok(())
    }
}

/// Cuts `puts` by partition, checks columns, order and uniqueness.
fn split(files: &Files, puts: &[RecordBatch]) -> Result<Vec<Part>, Error> {
    let layout = &files.layout;
    let mut by_partition: BTreeMap<Option<String>, Vec<RecordBatch>> = BTreeMap::new();
    for batch in puts {
        layout.check(batch, false)?;
        let times = layout.time_of(batch);
        let Some(&first) = times.first() else { continue };
        let (value, range) = layout.spec.partition.of(first);
        if times.iter().all(|t| range.contains(t)) {
            by_partition.entry(value).or_default().push(batch.clone());
            continue;
        }
        let mut rows: BTreeMap<Option<String>, Vec<u32>> = BTreeMap::new();
        let (mut value, mut range) = (value, range);
        for (row, &time) in times.iter().enumerate() {
            if !range.contains(&time) {
                (value, range) = layout.spec.partition.of(time);
            }
            match rows.get_mut(&value) {
                Some(rows) => rows.push(row as u32),
                None => {
                    rows.insert(value.clone(), vec![row as u32]);
                }
            }
        }
        for (value, rows) in rows {
            by_partition.entry(value).or_default().push(take(batch, &rows)?);
        }
    }
    by_partition
        .into_iter()
        .map(|(partition, batches)| {
            let keys = Keys::new(layout, batches, false)?;
            let unchanged = vec![false; keys.len()];
            Ok(Part { partition, keys, unchanged })
        })
        .collect()
}
