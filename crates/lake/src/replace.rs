//! Replacing stretches of series by fewer rows: what retention and downsampling are made of.
//!
//! All stretches of one partition change in one Delta commit: before it readers see every row, after it what stands for them, and nothing in
//! between. A crash leaves files that nobody names, which vacuum removes. A commit that rewrote one of the files meanwhile is seen and the work is
//! done again on what is there then; rows that come meanwhile lie in files of their own and are left for next time. So repeating it is safe, and a
//! row is never both gone and not summed.

use std::{ops::Range, sync::Arc};

use arrow::array::RecordBatch;
use deltalake::protocol::DeltaOperation;
use kernel::Timestamp;

use crate::{
    Changes, Error, Order, SeriesQuery, Summary, Table, View,
    commit::Tally,
    file::FileMeta,
    locate::{Keys, without},
    maintain::MOST_INPUTS,
    merge::{Input, merge},
    table::{Snapshot, TableInner},
    write::{Effort, FileWriter, Written, discard},
};

/// Rows of one stretch, which are in memory together.
const MOST_ROWS: usize = 4_000_000;
/// About the size of a file of replacements.
const TARGET: u64 = 256 << 20;
/// Times that the work is done again because a commit came in between.
const TRIES: usize = 5;

/// A stretch of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub series: i64,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
}

/// Says what is to stand in place of rows.
pub trait Reduce: Send + Sync + 'static {
    /// The rows that stand from now on in place of `rows`, which are all rows of the stretch with the table's columns, by key; `None` leaves them
    /// as they are. Must lie within the stretch, of its series, by key. May be asked again for the same stretch.
    ///
    /// # Errors
    /// Whatever is said here ends the whole replacement, and nothing is changed.
    fn reduce(&self, span: &Span, rows: &RecordBatch) -> Result<Option<RecordBatch>, Error>;

    /// Asked last, while no commit can come in between: `false` leaves everything as it is ([`Error::Busy`]).
    fn still(&self) -> bool {
        true
    }
}

/// The rows of one partition that are sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub partition: Option<String>,
    /// Times that fall into it: inclusive, exclusive.
    pub from: Timestamp,
    pub to: Timestamp,
    pub rows: u64,
    pub bytes: u64,
    /// Its files by name, sorted: the same names are the same rows.
    pub files: Vec<String>,
    /// By series.
    pub series: Vec<Summary>,
}

/// What a replacement did, or would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replaced {
    /// `deleted` are the rows that went, `inserted` those that came.
    pub changes: Changes,
    /// Bytes of the rows that went, by their share of their files.
    pub bytes: u64,
}

impl View {
    /// The partitions that have rows before `before`, oldest first. Reads footers only.
    pub async fn parts(&self, before: Timestamp) -> Result<Vec<Part>, Error> {
        let mut parts: Vec<(Option<String>, Vec<Arc<FileMeta>>)> = Vec::new();
        let mut files = self.snapshot.files.clone();
        files.sort_by(|a, b| (&a.partition, &a.path).cmp(&(&b.partition, &b.path)));
        for file in files {
            match parts.last_mut() {
                Some((partition, files)) if *partition == file.partition => files.push(file),
                _ => parts.push((file.partition.clone(), vec![file])),
            }
        }
        let mut found = Vec::new();
        for (partition, files) in parts {
            let Some(first) = files.iter().map(|f| f.time.0).min().filter(|first| *first < before.as_micros()) else {
                continue;
            };
            let (_, range) = self.files.layout.spec.partition.of(first);
            let bytes = files.iter().map(|f| f.size).sum();
            let names = files.iter().map(|f| f.path.to_string()).collect();
            let inside = self.of(files);
            let series = inside.summaries().await?;
            found.push(Part {
                partition,
                from: Timestamp::from_micros(range.start),
                to: Timestamp::from_micros(range.end),
                rows: series.iter().map(|s| s.rows).sum(),
                bytes,
                files: names,
                series,
            });
        }
        Ok(found)
    }

    /// The same picture with these of its files alone.
    fn of(&self, files: Vec<Arc<FileMeta>>) -> Self {
        let Snapshot { version, sealed_through, .. } = *self.snapshot;
        Self { snapshot: Arc::new(Snapshot { version, sealed_through, files }), ..self.clone() }
    }
}

impl Table {
    /// Replaces stretches of series, all within `partition`, in one commit. `spans` ascend by series and time and do not overlap.
    ///
    /// With `dry` everything is read and reduced and nothing is written: the answer says what would be done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for spans or rows that are not as described, [`Error::Conflict`] when commits came in between too often,
    /// [`Error::Busy`] when [`Reduce::still`] said no. Nothing is changed then.
    pub async fn replace(
        &self,
        partition: Option<String>,
        spans: Vec<Span>,
        reduce: Arc<dyn Reduce>,
        dry: bool,
    ) -> Result<Replaced, Error> {
        let table = self.inner.clone();
        self.inner.workers.run(async move { table.replace(partition, &spans, &*reduce, dry).await }).await
    }
}

/// A file of the partition with the rows that go out of it.
struct Losing {
    file: Arc<FileMeta>,
    footer: Arc<crate::file::Footer>,
    gone: Vec<Range<u64>>,
}

impl TableInner {
    async fn replace(
        &self,
        partition: Option<String>,
        spans: &[Span],
        reduce: &dyn Reduce,
        dry: bool,
    ) -> Result<Replaced, Error> {
        let ascend = |w: &[Span]| (w[0].series, w[0].to) <= (w[1].series, w[1].from);
        if spans.iter().any(|s| s.from >= s.to) || !spans.windows(2).all(ascend) {
            return Err(Error::invalid("stretches to be replaced must ascend and not overlap"));
        }
        let _upkeep = self.upkeep.lock().await;
        for _ in 0..TRIES {
            let view = self.view();
            let files: Vec<_> = view.snapshot.files.iter().filter(|f| f.partition == partition).cloned().collect();
            let mut losing = Vec::with_capacity(files.len());
            for file in &files {
                losing.push(Losing { file: file.clone(), footer: self.files.footer(file).await?, gone: Vec::new() });
            }
            let inside = view.of(files);
            let mut fresh = Fresh { writer: None, written: Vec::new() };
            let mut tally = Tally::default();
            let done =
                self.reduce(&inside, &mut losing, &mut fresh, &mut tally, (&partition, spans, reduce, dry)).await;
            if let Err(error) = done {
                discard(&self.files, &fresh.written).await;
                return Err(error);
            }
            losing.retain(|l| !l.gone.is_empty());
            let bytes = losing
                .iter()
                .map(|l| {
                    let gone: u64 = l.gone.iter().map(|r| r.end - r.start).sum();
                    let all = l.footer.series.rows().max(1);
                    u64::try_from(u128::from(l.file.size) * u128::from(gone) / u128::from(all)).unwrap_or(u64::MAX)
                })
                .sum();
            if dry || losing.is_empty() {
                return Ok(Replaced { changes: tally.finish(view.version()), bytes });
            }
            let removed: Vec<_> = losing.iter().map(|l| l.file.clone()).collect();
            let mut written = fresh.written;
            for some in losing.chunks(MOST_INPUTS) {
                let inputs = some.iter().map(|l| Input {
                    file: l.file.clone(),
                    keep: without(l.footer.series.rows(), l.gone.iter().cloned()),
                });
                match merge(&self.files, partition.clone(), inputs.collect(), TARGET, true).await {
                    Ok(rest) => written.extend(rest),
                    Err(error) => {
                        discard(&self.files, &written).await;
                        return Err(error);
                    }
                }
            }
            let operation = DeltaOperation::Delete { predicate: None };
            if self.put_in_place_if(&removed, written, operation, true, &|| reduce.still()).await? {
                return Ok(Replaced { changes: tally.finish(self.view().version()), bytes });
            }
        }
        Err(Error::Conflict { table: self.files.layout.name().to_owned() })
    }

    /// Reads and reduces every stretch, writes what came of it, and notes which rows it stands for.
    async fn reduce(
        &self,
        inside: &View,
        losing: &mut [Losing],
        fresh: &mut Fresh,
        tally: &mut Tally,
        (partition, spans, reduce, dry): (&Option<String>, &[Span], &dyn Reduce, bool),
    ) -> Result<(), Error> {
        let layout = &self.files.layout;
        for span in spans {
            let query = SeriesQuery {
                series: span.series,
                from: span.from,
                to: span.to,
                order: Order::Ascending,
                limit: MOST_ROWS,
                columns: None,
            };
            let rows = inside.series(&query).await?;
            if rows.num_rows() == 0 {
                continue;
            }
            if rows.num_rows() == MOST_ROWS {
                return Err(Error::invalid(format!("a stretch has {MOST_ROWS} rows or more; take shorter ones")));
            }
            let Some(instead) = reduce.reduce(span, &rows)? else { continue };
            self.fits(partition.as_deref(), span, &instead)?;
            let change = tally.of(span.series);
            change.deleted += rows.num_rows() as u64;
            change.inserted += instead.num_rows() as u64;
            let (from, to) = (span.from.as_micros(), span.to.as_micros());
            let mut found = 0;
            for l in losing.iter_mut() {
                let Some(entry) = l.footer.series.find(span.series).filter(|e| e.min < to && from <= e.max) else {
                    continue;
                };
                let first = if from <= entry.min { 0 } else { self.older(&l.file, &l.footer, &entry, from).await? };
                let last = self.older(&l.file, &l.footer, &entry, to).await?;
                if first < last {
                    found += last - first;
                    l.gone.push(entry.rows.start + first..entry.rows.start + last);
                }
            }
            // What is taken away is what was read, row for row, or nothing is.
            if found != rows.num_rows() as u64 {
                return Err(Error::Foreign { table: layout.name().to_owned() });
            }
            if !dry && instead.num_rows() > 0 {
                fresh.write(self, partition, &instead).await?;
            }
        }
        fresh.roll().await
    }

    /// Whether rows may stand in a stretch.
    fn fits(&self, partition: Option<&str>, span: &Span, rows: &RecordBatch) -> Result<(), Error> {
        let layout = &self.files.layout;
        layout.check(rows, false)?;
        Keys::new(layout, vec![rows.clone()], false)?;
        let (from, to) = (span.from.as_micros(), span.to.as_micros());
        let here = layout.series_of(rows).iter().all(|s| *s == span.series)
            && layout.time_of(rows).iter().all(|t| (from..to).contains(t))
            && layout.time_of(rows).iter().all(|t| layout.spec.partition.of(*t).0.as_deref() == partition);
        if here { Ok(()) } else { Err(Error::invalid("what replaces rows must lie where they lay")) }
    }
}

/// Files of what replaces rows.
struct Fresh {
    writer: Option<FileWriter>,
    written: Vec<Written>,
}

impl Fresh {
    async fn write(&mut self, table: &TableInner, partition: &Option<String>, rows: &RecordBatch) -> Result<(), Error> {
        let files = &table.files;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                // Which columns stay empty is known only when all is written.
                let vacant = vec![false; files.layout.schema.fields().len()];
                none.insert(FileWriter::start(files, partition.clone(), Effort::Compacted, &vacant)?)
            }
        };
        writer.write(rows).await?;
        if writer.bytes() as u64 >= TARGET { self.roll().await } else { Ok(()) }
    }

    async fn roll(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.written.extend(writer.finish(true).await?);
        }
        Ok(())
    }
}
