//! Upkeep beside commits: compaction, retention, vacuum, checkpoints, backup.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path as FsPath,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arrow::{array::AsArray, datatypes::TimestampMicrosecondType};
use deltalake::protocol::DeltaOperation;
use futures::{StreamExt, TryStreamExt};
use kernel::Timestamp;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::{
    Changes, Error, Stats, Table,
    commit::Tally,
    file::FileMeta,
    locate::without,
    merge::{Input, merge},
    rollup,
    store::{list_all, sweep_staged},
    table::{TableInner, checkpoint},
    write::{PAGE_ROWS, Written, discard, fresh_since, now_millis},
};

/// Rows of fresh files that are worth being written once more when nothing comes to them.
const WORTH: u64 = 10_000;
/// The most files merged at once: bounds the memory of a merge.
pub(crate) const MOST_INPUTS: usize = 32;
const LOG: &str = "_delta_log";

/// When files are worth merging, and how large the result may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// New files end at about this size. Files of half of it or more are left alone.
    pub target_bytes: u64,
    /// At least so many files of like size in one partition; 2 merges whatever can be merged.
    pub min_files: usize,
    /// How long nothing new has come to a partition, after which its fresh files are merged however few they are: years that were brought at once
    /// lie in one file a month, which would otherwise never get its sums by the hour.
    pub quiet: Duration,
}

impl Default for Compaction {
    /// 256 MB, eight files: each row is rewritten about once for every eightfold growth of its partition.
    fn default() -> Self {
        Self { target_bytes: 256 << 20, min_files: 8, quiet: Duration::from_secs(3_600) }
    }
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub merged: u64,
    pub into: u64,
    pub rows: u64,
}

/// What vacuum removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    pub files: u64,
    pub bytes: u64,
}

impl Table {
    /// Merges small files within each partition until none are worth it. Commits and reads go on meanwhile; where a commit rewrote one
    /// of the files in the meantime, that merge is given up and left for next time.
    pub async fn compact(&self, compaction: Compaction) -> Result<Compacted, Error> {
        let table = self.inner.clone();
        self.inner.workers.run(async move { table.compact(compaction).await }).await
    }

    /// Removes rows older than `before` (exclusive): whole files where possible, else by rewriting.
    pub async fn retain(&self, before: Timestamp) -> Result<Changes, Error> {
        let table = self.inner.clone();
        self.inner.workers.run(async move { table.retain(before.as_micros()).await }).await
    }

    /// Waits for the commit that is under way, if there is one.
    pub async fn between_commits(&self) {
        drop(self.inner.writer.lock().await);
    }

    /// Deletes files that no version younger than `keep` needs, and what crashes left behind. A week is the usual: queries, backups and
    /// other engines may still read what was current then. Less is for tests and for emergencies with nobody reading.
    pub async fn vacuum(&self, keep: Duration) -> Result<Vacuumed, Error> {
        let table = self.inner.clone();
        self.inner.workers.run(async move { table.vacuum(keep).await }).await
    }

    /// Copies the table as it is now into `folder/<name>`, which must not exist yet; opening a lake on `folder` restores it. Commits go
    /// on meanwhile and are not part of the copy; [`Stats::sealed_through`] tells where the stream has to be read on.
    pub async fn backup(&self, folder: &FsPath) -> Result<Stats, Error> {
        let (table, folder) = (self.inner.clone(), folder.join(self.name()));
        self.inner.workers.run(async move { table.backup(&folder).await }).await
    }
}

impl TableInner {
    async fn compact(&self, compaction: Compaction) -> Result<Compacted, Error> {
        let _upkeep = self.upkeep.lock().await;
        let mut done = Compacted::default();
        let mut given_up: HashSet<Path> = HashSet::new();
        loop {
            let snapshot = self.view().snapshot;
            let group = choose(&snapshot.files, compaction, &given_up);
            let group = group.or_else(|| left_over(&snapshot.files, compaction, &given_up, now_millis()));
            let Some(group) = group else { return Ok(done) };
            let partition = group.first().and_then(|f| f.partition.clone());
            let mut inputs = Vec::with_capacity(group.len());
            for file in &group {
                let keep = without(self.files.footer(file).await?.series.rows(), []);
                inputs.push(Input { file: file.clone(), keep });
            }
            let written = merge(&self.files, partition, inputs, compaction.target_bytes, false).await?;
            let (into, rows) = (written.len() as u64, written.iter().map(|w| w.meta.rows).sum::<u64>());
            let operation = DeltaOperation::Optimize { predicate: None, target_size: compaction.target_bytes as i64 };
            if self.put_in_place(&group, written, operation, false).await? {
                done.merged += group.len() as u64;
                done.into += into;
                done.rows += rows;
            } else {
                given_up.extend(group.iter().map(|f| f.path.clone()));
            }
        }
    }

    /// Commits `written` in place of `files`, unless a commit took one of them away in the meantime.
    async fn put_in_place(
        &self,
        files: &[Arc<FileMeta>],
        written: Vec<Written>,
        operation: DeltaOperation,
        data_change: bool,
    ) -> Result<bool, Error> {
        self.put_in_place_if(files, written, operation, data_change, &|| true).await
    }

    /// The same, unless `still` says no when no commit can come in between any more: then [`Error::Busy`].
    pub(crate) async fn put_in_place_if(
        &self,
        files: &[Arc<FileMeta>],
        written: Vec<Written>,
        operation: DeltaOperation,
        data_change: bool,
        still: &(dyn Fn() -> bool + Sync),
    ) -> Result<bool, Error> {
        let mut writer = self.writer.lock().await;
        if !still() {
            discard(&self.files, &written).await;
            return Err(Error::Busy);
        }
        let snapshot = self.view().snapshot;
        let current: HashSet<&Path> = snapshot.files.iter().map(|f| &f.path).collect();
        if !files.iter().all(|f| current.contains(&f.path)) {
            discard(&self.files, &written).await;
            return Ok(false);
        }
        self.log(&mut writer, written, files, None, operation, data_change).await?;
        Ok(true)
    }

    async fn retain(&self, before: i64) -> Result<Changes, Error> {
        let _upkeep = self.upkeep.lock().await;
        let mut tally = Tally::default();
        let operation = || DeltaOperation::Delete { predicate: None };
        // Once more after a commit got in between; it can only have rewritten files, so this ends.
        loop {
            let snapshot = self.view().snapshot;
            let mut gone = Vec::new();
            let mut cut = Vec::new();
            for file in snapshot.files.iter().filter(|f| f.time.0 < before) {
                let footer = self.files.footer(file).await?;
                match footer.series.times() {
                    Some((min, _)) if min >= before => {}
                    Some((_, max)) if max >= before => cut.push((file.clone(), footer)),
                    _ => gone.push((file.clone(), footer)),
                }
            }
            if let Some((file, footer)) = cut.pop() {
                let mut mine: BTreeMap<i64, u64> = BTreeMap::new();
                let mut holes = Vec::new();
                for entry in footer.series.iter().filter(|e| e.min < before) {
                    let old = self.older(&file, &footer, &entry, before).await?;
                    mine.insert(entry.series, old);
                    holes.push(entry.rows.start..entry.rows.start + old);
                }
                let keep = without(footer.series.rows(), holes);
                let input = Input { file: file.clone(), keep };
                let written = merge(&self.files, file.partition.clone(), vec![input], u64::MAX, true).await?;
                if self.put_in_place(&[file], written, operation(), true).await? {
                    mine.into_iter().for_each(|(series, old)| tally.of(series).deleted += old);
                }
                continue;
            }
            if !gone.is_empty() {
                let files: Vec<_> = gone.iter().map(|(file, _)| file.clone()).collect();
                if !self.put_in_place(&files, Vec::new(), operation(), true).await? {
                    continue;
                }
                for (_, footer) in &gone {
                    for entry in footer.series.iter() {
                        tally.of(entry.series).deleted += entry.rows.end - entry.rows.start;
                    }
                }
            }
            return Ok(tally.finish(self.view().snapshot.version));
        }
    }

    /// How many of the series' rows in a file are older than `before`.
    pub(crate) async fn older(
        &self,
        file: &FileMeta,
        footer: &crate::file::Footer,
        entry: &crate::index::Entry,
        before: i64,
    ) -> Result<u64, Error> {
        if entry.max < before {
            return Ok(entry.rows.end - entry.rows.start);
        }
        // Pages that lie wholly before the time need not be read: the first page that reaches it decides.
        let reaching = self.files.narrow(footer, entry.rows.clone(), |_, max| max >= before);
        let Some(from) = reaching.first().map(|r| r.start) else { return Ok(entry.rows.end - entry.rows.start) };
        let mut count = from - entry.rows.start;
        let range = from..entry.rows.end;
        let mut batches = self.files.rows(file, footer, &[range], &[self.files.layout.time], PAGE_ROWS)?;
        while let Some(batch) = batches.try_next().await? {
            let times = batch.column(0).as_primitive::<TimestampMicrosecondType>().values();
            let old = times.partition_point(|&t| t < before);
            count += old as u64;
            if old < times.len() {
                break;
            }
        }
        Ok(count)
    }

    async fn vacuum(&self, keep: Duration) -> Result<Vacuumed, Error> {
        let _upkeep = self.upkeep.lock().await;
        // Nothing may be between writing its files and naming them in the log.
        let writer = self.writer.lock().await;
        let cutoff = now_millis().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let mut needed: HashSet<Path> = self.view().snapshot.files.iter().map(|f| f.path.clone()).collect();
        let mut tombstones = writer.state.all_tombstones(writer.log.as_ref());
        while let Some(tombstone) = tombstones.try_next().await? {
            if tombstone.deletion_timestamp().is_none_or(|at| at > cutoff) {
                let path = tombstone.path();
                needed.insert(Path::parse(path.as_ref()).unwrap_or_else(|_| Path::from(path.as_ref())));
            }
        }
        let mut done = Vacuumed::default();
        let mut doomed = Vec::new();
        let names: HashSet<&str> = needed.iter().filter_map(Path::filename).collect();
        for object in list_all(self.files.store.as_ref()).await? {
            let ours = object.location.as_ref().ends_with(".parquet") && !object.location.as_ref().starts_with('_');
            let needless = match rollup::belongs_to(&object.location) {
                Some(file) => !names.contains(file),
                None => ours && !needed.contains(&object.location),
            };
            if needless && object.last_modified.timestamp_millis() <= cutoff {
                done.files += 1;
                done.bytes += object.size;
                doomed.push(Ok(object.location));
            }
        }
        self.files.store.delete_stream(futures::stream::iter(doomed).boxed()).try_collect::<Vec<_>>().await?;
        if let Some(folder) = self.folder.clone() {
            #[expect(
                clippy::disallowed_methods,
                reason = "it is compared with the times of files, which the machine's clock gave them"
            )]
            let before = SystemTime::now().checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
            let swept = tokio::task::spawn_blocking(move || sweep_staged(&folder, before)).await;
            match swept {
                Ok(Ok(files)) => done.files += files,
                Ok(Err(error)) => return Err(Error::store("half-written files could not be removed", error)),
                Err(error) => return Err(Error::store("half-written files could not be removed", error)),
            }
        }
        Ok(done)
    }

    async fn backup(&self, folder: &FsPath) -> Result<Stats, Error> {
        let _upkeep = self.upkeep.lock().await;
        let failed = |e: std::io::Error| Error::writing(self.files.layout.name(), "the backup could not be written", e);
        if tokio::fs::try_exists(folder).await.map_err(failed)? {
            return Err(Error::invalid("the backup's folder exists already"));
        }
        // A checkpoint holds the whole state of its version, so the copy needs no older log entry.
        let (view, stats) = {
            let writer = self.writer.lock().await;
            checkpoint(&writer).await?;
            (self.view(), self.view().stats())
        };
        let version = format!("{LOG}/{:020}", view.version());
        let mut paths: Vec<Path> = view.snapshot.files.iter().map(|f| f.path.clone()).collect();
        for file in &view.snapshot.files {
            let rollup = rollup::place(&file.path);
            // Where somebody has tidied it away there is nothing to copy, and nothing is wrong.
            if self.files.footer(file).await?.rollup.is_some() && self.files.store.head(&rollup).await.is_ok() {
                paths.push(rollup);
            }
        }
        for object in list_all(self.files.store.as_ref()).await? {
            if object.location.as_ref().starts_with(&version) {
                paths.push(object.location);
            }
        }
        for path in paths {
            let target = path.parts().fold(folder.to_path_buf(), |folder, part| folder.join(part.as_ref()));
            if let Some(parent) = target.parent() {
                tokio::fs::create_dir_all(parent).await.map_err(failed)?;
            }
            let mut file = tokio::fs::File::create_new(&target).await.map_err(failed)?;
            let mut bytes = self.files.store.get(&path).await?.into_stream();
            while let Some(part) = bytes.try_next().await? {
                tokio::io::AsyncWriteExt::write_all(&mut file, &part).await.map_err(failed)?;
            }
            file.sync_all().await.map_err(failed)?;
        }
        Ok(stats)
    }
}

/// The next files to merge: those of one partition that are below half the target, from the smallest up while each is not much larger
/// than all before it together. So a row moves to a file several times as large each time it is rewritten.
fn choose(files: &[Arc<FileMeta>], compaction: Compaction, given_up: &HashSet<Path>) -> Option<Vec<Arc<FileMeta>>> {
    let mut by_partition: BTreeMap<&Option<String>, Vec<&Arc<FileMeta>>> = BTreeMap::new();
    for file in files.iter().filter(|f| f.size < compaction.target_bytes / 2 && !given_up.contains(&f.path)) {
        by_partition.entry(&file.partition).or_default().push(file);
    }
    for mut small in by_partition.into_values() {
        small.sort_by_key(|f| f.size);
        let mut group: Vec<Arc<FileMeta>> = Vec::new();
        let mut bytes = 0;
        for file in small {
            let alike = compaction.min_files <= 2 || group.is_empty() || file.size <= 4 * bytes;
            if !alike || group.len() == MOST_INPUTS {
                break;
            }
            bytes += file.size;
            group.push(file.clone());
        }
        if group.len() >= compaction.min_files.max(2) {
            return Some(group);
        }
    }
    None
}

/// The fresh files of a partition to which nothing new has come for a while, where they are worth being written once more.
fn left_over(
    files: &[Arc<FileMeta>],
    compaction: Compaction,
    given_up: &HashSet<Path>,
    now: i64,
) -> Option<Vec<Arc<FileMeta>>> {
    let mut by_partition: BTreeMap<&Option<String>, (i64, Vec<&Arc<FileMeta>>)> = BTreeMap::new();
    for file in files {
        let Some(written) = fresh_since(&file.path) else { continue };
        let (newest, fresh) = by_partition.entry(&file.partition).or_default();
        *newest = written.max(*newest);
        fresh.push(file);
    }
    let quiet = i64::try_from(compaction.quiet.as_millis()).unwrap_or(i64::MAX);
    by_partition.into_values().find_map(|(newest, fresh)| {
        let group: Vec<_> =
            fresh.into_iter().filter(|f| !given_up.contains(&f.path)).take(MOST_INPUTS).cloned().collect();
        let rows: u64 = group.iter().map(|file| file.rows).sum();
        (rows >= WORTH && now.saturating_sub(newest) >= quiet).then_some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_is_merged_when_it_is_quiet() {
        let written = |at: u64, rows: u64, partition: &str| {
            let id = uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, at, 0));
            let path = Path::from(format!("{partition}/fresh-{id}.zstd.parquet"));
            Arc::new(FileMeta { path, rows, ..FileMeta::clone(&file(1, partition)) })
        };
        let policy = Compaction { quiet: Duration::from_secs(3_600), ..Compaction::default() };
        let left = |files: &[Arc<FileMeta>], now: i64| {
            left_over(files, policy, &HashSet::new(), now * 1_000).map(|group| group.len())
        };
        let files = [written(1_000, WORTH, "a"), written(2_000, 1, "a"), file(3, "a"), written(4_000, WORTH - 1, "b")];
        assert_eq!(left(&files, 5_599), None, "something came within the hour");
        assert_eq!(left(&files, 5_600), Some(2), "and not what is merged already");
        assert_eq!(left(&files[3..], 90_000), None, "too little to be worth it");
        assert_eq!(fresh_since(&files[0].path), Some(1_000_000));
        assert_eq!(fresh_since(&Path::from("a/part-x.zstd.parquet")), None);
    }

    fn file(size: u64, partition: &str) -> Arc<FileMeta> {
        Arc::new(FileMeta {
            path: Path::from(format!("{partition}/{size}")),
            size,
            rows: 1,
            partition: Some(partition.to_owned()),
            series: (0, 0),
            time: (0, 0),
        })
    }

    #[test]
    fn merges_like_with_like() {
        let policy = Compaction { target_bytes: 1_000, min_files: 3, ..Compaction::default() };
        let sizes = |files: &[Arc<FileMeta>]| {
            choose(files, policy, &HashSet::new()).map(|g| g.iter().map(|f| f.size).collect::<Vec<_>>())
        };
        assert_eq!(sizes(&[file(1, "a"), file(2, "a"), file(3, "b")]), None, "too few in each partition");
        assert_eq!(sizes(&[file(1, "a"), file(2, "a"), file(3, "a"), file(400, "a")]), Some(vec![1, 2, 3]));
        assert_eq!(sizes(&[file(600, "a"), file(700, "a"), file(800, "a")]), None, "large ones are left alone");
    }
}
