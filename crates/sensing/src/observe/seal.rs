//! The sealer: moves generations into the lake and keeps the heads' checkpoint.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use kernel::Interval;
use lake::{Commit, Compaction, Tail, TailRows, arrow::array::RecordBatch};
use parking_lot::Mutex;
use stream::Offset;
use tokio::sync::oneshot;

use super::{
    Error, Generations, Inner, Unsealed,
    apply::Turned,
    columns::{self, Columns},
    head::{Entry, Sealed},
    kept::Checkpoint,
    recent::{Generation, Key, Series, merge},
};
use crate::model::EntityId;

/// Seals between two looks at what can be compacted.
const COMPACT_AFTER: u64 = 16;
/// How long files that a commit replaced are kept, for readers of older versions.
pub(super) const KEEP_REPLACED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows to a batch handed to the lake.
pub(super) const BATCH_ROWS: usize = 65_536;

pub(super) async fn run(inner: Arc<Inner>, checkpoint: Arc<Mutex<Checkpoint>>) {
    loop {
        tokio::select! {
            () = inner.stopped.cancelled() => return,
            () = tokio::time::sleep(inner.options.seal_every) => {}
            () = inner.seal_now.notified() => {}
        }
        if !inner.options.may_seal.is_open() {
            tracing::warn!("another program may be sealing; this one waits until it knows that it is alone");
            continue;
        }
        let (reply, turned) = oneshot::channel();
        if inner.turn.send(reply).await.is_err() {
            return;
        }
        let Ok(turned) = turned.await else { return };
        if turned.generation.is_empty() {
            inner.unsealed.finish_seal();
            keep_heads(&inner, &checkpoint).await;
            inner.sealed.send_replace(turned.next);
            continue;
        }
        // The generation stays readable in memory until the lake has it, however often the lake says no.
        let mut pause = Duration::from_millis(200);
        while let Err(error) = seal(&inner, &turned, &checkpoint).await {
            inner.counters.seal_failures.fetch_add(1, Relaxed);
            tracing::error!(%error, rows = turned.generation.rows(), "the lake did not take a seal; trying again");
            tokio::select! {
                () = inner.stopped.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
            }
        }
        inner.counters.seals.fetch_add(1, Relaxed);
        keep_heads(&inner, &checkpoint).await;
        inner.sealed.send_replace(turned.next);
        let keep = inner.holds.lock().values().copied().chain([turned.next]).min().unwrap_or(turned.next);
        inner.topic.keep_from(Offset(keep));
        if inner.counters.seals.load(Relaxed).is_multiple_of(COMPACT_AFTER) {
            tokio::spawn(compact(inner.clone()));
        }
    }
}

/// Keeps all heads anew when that was asked for: the lake has changed without a seal. Here, because only this task writes them; between two seals,
/// because only then heads and offset are of one moment.
async fn keep_heads(inner: &Arc<Inner>, checkpoint: &Arc<Mutex<Checkpoint>>) {
    if !inner.keep_heads.swap(false, Relaxed) {
        return;
    }
    let (keeper, checkpoint) = (inner.clone(), checkpoint.clone());
    let kept = tokio::task::spawn_blocking(move || {
        let mut checkpoint = checkpoint.lock();
        if let Some(through) = keeper.table.sealed_through() {
            let changed = keeper.heads.changed();
            let known = changed.iter().map(|(id, sealed)| (*id, sealed.is_some())).collect();
            keeper.heads.rebase(checkpoint.rewrite(through, changed)?, &known);
        }
        super::thin::settled(&keeper)
    });
    if let Err(error) = kept.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
        // The mark stays, and the next start reads the lake.
        tracing::warn!(%error, "the heads could not be kept");
    }
    inner.heads_kept.send_modify(|n| *n += 1);
}

/// Merges the small files that seals leave. Commits and reads go on meanwhile.
async fn compact(inner: Arc<Inner>) {
    // One at a time: a second one would only find the first one's work.
    let Ok(_alone) = inner.compacting.try_lock() else { return };
    match inner.table.compact(Compaction::default()).await {
        Ok(done) if done.merged > 0 => {
            tracing::info!(files = done.merged, into = done.into, rows = done.rows, "compacted observations")
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "compaction failed; it will be tried again"),
    }
    if let Err(error) = inner.table.vacuum(KEEP_REPLACED).await {
        tracing::warn!(%error, "replaced files could not be removed; it will be tried again");
    }
}

async fn seal(inner: &Arc<Inner>, turned: &Turned, checkpoint: &Arc<Mutex<Checkpoint>>) -> Result<(), Error> {
    let generation = turned.generation.clone();
    let rows =
        tokio::task::spawn_blocking(move || generation_rows(&[&generation])).await.map_err(std::io::Error::other)??;
    let dropped = turned.generation.dropped();
    let through = turned.next - 1;
    let report = inner
        .table
        .commit(Commit { through, puts: rows.puts, deletes: rows.deletes, dropped_series: dropped.clone() })
        .await?;
    // From here on the lake answers for these rows; what follows only catches up with that.
    let mut changed = Vec::new();
    let mut touched = turned.generation.datastreams();
    touched.extend(&dropped);
    touched.sort_unstable();
    touched.dedup();
    for id in &touched {
        // A head whose newest row was removed must not be kept with that row; whoever removed it may have gone.
        if let Err(error) = super::Observe(inner.clone()).refresh(EntityId(*id)).await {
            tracing::warn!(%error, "a head could not be put right after a removal");
        }
        let series = report.series.binary_search_by_key(id, |s| s.series).ok().map(|at| &report.series[at]);
        let (inserted, deleted) = series.map_or((0, 0), |s| (s.inserted, s.deleted));
        let (sealed, in_base) = inner.heads.change(*id, |head| {
            let rows = turned.generation.with(EntityId(*id), Series::len).unwrap_or(0);
            head.sealed(inserted, deleted, rows as u64);
            (head.sealed.clone(), head.in_base)
        });
        inner.heads.tidy(*id);
        changed.extend(sealed.map(|s| (*id, s, in_base)));
    }
    inner.unsealed.finish_seal();
    let (keeper, checkpoint) = (inner.clone(), checkpoint.clone());
    let kept = tokio::task::spawn_blocking(move || {
        // Nobody but this task asks for the lock.
        let mut checkpoint = checkpoint.lock();
        if checkpoint.wants_rewrite(changed.len()) {
            let changed = keeper.heads.changed();
            let known = changed.iter().map(|(id, sealed)| (*id, sealed.is_some())).collect();
            keeper.heads.rebase(checkpoint.rewrite(through, changed)?, &known);
            return Ok(());
        }
        checkpoint.append(through, &touched, changed.iter().map(|(id, s, in_base)| (*id, s, *in_base)))
    });
    if let Err(error) = kept.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
        // It is a cache of what the lake knows; the next start will read the lake instead.
        tracing::warn!(%error, "the heads could not be kept");
    }
    Ok(())
}

/// Opens the sealed heads: those that are kept when they are as far as the lake, else read from the lake.
pub(super) async fn load_heads(inner: &Arc<Inner>) -> Result<Checkpoint, Error> {
    let path = &inner.options.heads;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let (mut checkpoint, loaded) = Checkpoint::open(path, inner.options.heads_log)?;
    let sealed = inner.table.sealed_through();
    let whole = !super::thin::was_cut_off(inner);
    if loaded.through == sealed && whole {
        // A log that is too long (an older program left it) is read once and never again.
        if let (Some(through), true) = (sealed, checkpoint.wants_rewrite(0)) {
            let heads = loaded.heads.into_iter().map(|(id, head)| (id, head.map(|(head, _)| head))).collect();
            inner.heads.rebase(checkpoint.rewrite(through, heads)?, &AHashMap::new());
            return Ok(checkpoint);
        }
        inner.heads.rebase(checkpoint.base(), &AHashMap::new());
        for (id, head) in loaded.heads {
            let (mut entry, in_base) = match head {
                Some((head, in_base)) => (Entry::from_sealed(head), in_base),
                None => (Entry::default(), true),
            };
            entry.in_base = in_base;
            inner.heads.insert(id, entry);
        }
        return Ok(checkpoint);
    }
    tracing::info!("reading the heads from the lake");
    checkpoint.clear()?;
    let view = inner.table.view();
    let mut newest = AHashMap::new();
    for batch in view.latest(None).await? {
        newest.extend(columns::ids(&batch).iter().copied().zip(columns::rows(&batch)));
    }
    let mut heads = BTreeMap::new();
    for summary in view.summaries().await? {
        let Some(row) = newest.remove(&summary.series) else { continue };
        let latest = row.observation(EntityId(summary.series));
        let phenomenon = Interval { start: summary.first, end: summary.last.max(latest.phenomenon.end) };
        // The lake sums up no resultTime; the newest row's stands for all until others come.
        let result_time = latest.result_time.map(Interval::instant);
        heads.insert(summary.series, Some(Sealed { count: summary.rows, latest, phenomenon, result_time }));
    }
    if let Some(through) = sealed {
        inner.heads.rebase(checkpoint.restart(through, heads)?, &AHashMap::new());
        super::thin::settled(inner)?;
    }
    Ok(checkpoint)
}

impl Default for Unsealed {
    fn default() -> Self {
        let generations = Generations { open: Arc::default(), sealing: None, open_from: 0, from: 0 };
        Self { generations: ArcSwap::from_pointee(generations), next: AtomicU64::new(0) }
    }
}

impl Unsealed {
    /// Nothing is unsealed before `next`.
    pub(super) fn begin(&self, next: u64) {
        self.generations.store(Arc::new(Generations {
            open: Arc::default(),
            sealing: None,
            open_from: next,
            from: next,
        }));
        self.next.store(next, Relaxed);
    }

    /// The sealing generation is in the lake now.
    fn finish_seal(&self) {
        let now = self.generations.load();
        let (open, open_from) = (now.open.clone(), now.open_from);
        self.generations.store(Arc::new(Generations { open, sealing: None, open_from, from: open_from }));
    }
}

impl Tail for Unsealed {
    fn snapshot(&self) -> TailRows {
        // The offset is read first: rows applied in between are then in the batches but not in `through`, which only makes `through` modest.
        let next = self.next.load(Relaxed);
        let generations = self.generations.load_full();
        let newest_first: Vec<&Generation> = generations.each().map(|g| &**g).collect();
        match generation_rows(&newest_first) {
            Ok(rows) => TailRows {
                from: generations.from,
                through: next.checked_sub(1),
                batches: rows.puts,
                removed: rows.deletes,
                dropped_series: rows.dropped,
            },
            Err(error) => {
                tracing::error!(%error, "unsealed rows could not be shown as a table");
                TailRows::default()
            }
        }
    }
}

struct Rows {
    puts: Vec<RecordBatch>,
    deletes: Option<RecordBatch>,
    dropped: Vec<i64>,
}

/// The rows of generations (newest first) as one: sorted by key, unique, newer rows standing before older ones.
fn generation_rows(newest_first: &[&Generation]) -> Result<Rows, Error> {
    let mut ids: Vec<i64> = newest_first.iter().flat_map(|g| g.datastreams()).collect();
    ids.sort_unstable();
    ids.dedup();
    let (mut puts, mut columns) = (Vec::new(), Columns::default());
    let mut deletes: Vec<(i64, Key)> = Vec::new();
    for id in ids {
        let datastream = EntityId(id);
        if let [generation] = newest_first
            && generation.with(datastream, |series| push_plain(id, series, &mut columns, &mut puts)).transpose()?
                == Some(true)
        {
            continue;
        }
        let mut rows = Vec::new();
        let mut gone = std::collections::BTreeSet::new();
        for generation in newest_first.iter().rev() {
            if generation.is_dropped(datastream) {
                rows.clear();
                gone.clear();
            }
            generation.with(datastream, |series| {
                rows.retain(|row: &super::recent::Row| !series.is_removed(&row.key));
                let newer = series.rows(None, None, false, usize::MAX);
                newer.iter().for_each(|row| {
                    gone.remove(&row.key);
                });
                gone.extend(series.removed().copied().filter(|key| !series.contains(key)));
                rows = merge(std::mem::take(&mut rows).into_iter(), newer.into_iter(), Key::cmp).collect();
            });
        }
        deletes.extend(gone.into_iter().map(|key| (id, key)));
        for row in &rows {
            columns.push(id, row);
            if columns.len() == BATCH_ROWS {
                puts.push(std::mem::take(&mut columns).finish()?);
            }
        }
    }
    if columns.len() > 0 {
        puts.push(columns.finish()?);
    }
    let deletes = if deletes.is_empty() { None } else { Some(columns::keys(&deletes)?) };
    let dropped = newest_first.iter().flat_map(|g| g.dropped()).collect();
    Ok(Rows { puts, deletes, dropped })
}

/// Hands over a series that is nothing but numbers in order, column by column. `false` when it is more than that.
fn push_plain(id: i64, series: &Series, columns: &mut Columns, puts: &mut Vec<RecordBatch>) -> Result<bool, Error> {
    let Some((feature, mut times, mut values)) = series.plain() else { return Ok(false) };
    while !times.is_empty() {
        let rows = times.len().min(BATCH_ROWS - columns.len());
        columns.push_plain(id, feature, &times[..rows], &values[..rows]);
        (times, values) = (&times[rows..], &values[rows..]);
        if columns.len() == BATCH_ROWS {
            puts.push(std::mem::take(columns).finish()?);
        }
    }
    Ok(true)
}
