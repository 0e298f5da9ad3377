//! One sealed Parquet file: what is known of it, its cached footer, and reading chosen rows of it.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{RecordBatch, RecordBatchOptions, new_null_array},
    datatypes::{Schema, SchemaRef},
};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::Mutex;
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection},
        async_reader::AsyncFileReader,
    },
    errors::ParquetError,
    file::{
        metadata::{FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader},
        page_index::column_index::ColumnIndexMetaData,
    },
};

use crate::{
    Error,
    index::{FOOTER_KEY, ROLLUP_KEY, SeriesIndex},
    spec::Layout,
};

/// What the Delta log says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileMeta {
    /// Relative to the table's folder.
    pub path: Path,
    pub size: u64,
    pub rows: u64,
    pub partition: Option<String>,
    /// Inclusive; may be wider than the truth, never narrower.
    pub series: (i64, i64),
    /// Inclusive, µs; may be wider than the truth, never narrower.
    pub time: (i64, i64),
}

/// A file's Parquet metadata with its page index, and its series index.
pub(crate) struct Footer {
    pub parquet: ArrowReaderMetadata,
    pub series: SeriesIndex,
    /// Bytes of the file's rollup, where it has one.
    pub rollup: Option<u64>,
    memory: usize,
}

/// Recently used footers of all tables, bounded by the memory they take.
pub(crate) struct Footers {
    limit: usize,
    held: Mutex<Held>,
}

/// Rows of a page, and its smallest and largest time when the file says them.
pub type Page = (Range<u64>, Option<(i64, i64)>);

#[derive(Default)]
struct Held {
    /// Footer and the tick of its last use.
    by_path: HashMap<String, (Arc<Footer>, u64)>,
    bytes: usize,
    tick: u64,
}

impl Footers {
    pub fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default() }
    }

    fn get(&self, path: &str) -> Option<Arc<Footer>> {
        let mut held = self.held.lock();
        held.tick += 1;
        let tick = held.tick;
        let (footer, used) = held.by_path.get_mut(path)?;
        *used = tick;
        Some(footer.clone())
    }

    fn put(&self, path: String, footer: Arc<Footer>) {
        let mut held = self.held.lock();
        held.tick += 1;
        let tick = held.tick;
        held.bytes += footer.memory;
        if let Some((old, _)) = held.by_path.insert(path, (footer, tick)) {
            held.bytes -= old.memory;
        }
        // The one just added stays, even when it alone is over the limit.
        while held.bytes > self.limit && held.by_path.len() > 1 {
            let Some(oldest) = held.by_path.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
            else {
                break;
            };
            if let Some((old, _)) = held.by_path.remove(&oldest) {
                held.bytes -= old.memory;
            }
        }
    }
}

/// The files of one table: where they lie and how they are laid out.
#[derive(Clone)]
pub(crate) struct Files {
    pub store: Arc<dyn ObjectStore>,
    pub layout: Arc<Layout>,
    pub footers: Arc<Footers>,
    /// How the table's rollups are laid out, where it has any.
    pub rollups: Option<Arc<Layout>>,
}

impl Files {
    pub async fn footer(&self, file: &FileMeta) -> Result<Arc<Footer>, Error> {
        let key = format!("{}/{}", self.layout.name(), file.path);
        if let Some(footer) = self.footers.get(&key) {
            return Ok(footer);
        }
        let mut reader = Reader { store: self.store.clone(), path: file.path.clone(), parquet: None, size: file.size };
        let parquet = ParquetMetaDataReader::new()
            .with_prefetch_hint(Some(256 << 10))
            .with_page_index_policy(PageIndexPolicy::Optional)
            .load_and_finish(&mut reader, file.size)
            .await?;
        let head = parquet.file_metadata();
        let series = head
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == FOOTER_KEY))
            .and_then(|pair| SeriesIndex::decode(pair.value.as_deref()?))
            .filter(|index| Ok(index.rows()) == u64::try_from(head.num_rows()) && parquet.offset_index().is_some())
            .ok_or_else(|| Error::Foreign { table: self.layout.name().to_owned() })?;
        let rollup = head.key_value_metadata().and_then(|pairs| {
            let pair = pairs.iter().find(|pair| pair.key == ROLLUP_KEY)?;
            pair.value.as_deref()?.parse().ok()
        });
        // The index's text is not kept: it would double what the cache holds.
        let slim = FileMetaData::new(
            head.version(),
            head.num_rows(),
            None,
            None,
            head.schema_descr_ptr(),
            head.column_orders().cloned(),
        );
        let slim = ParquetMetaDataBuilder::new(slim)
            .set_row_groups(parquet.row_groups().to_vec())
            .set_column_index(parquet.column_index().cloned())
            .set_offset_index(parquet.offset_index().cloned())
            .build();
        let memory = slim.memory_size() + series.memory() + key.len();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let parquet = ArrowReaderMetadata::try_new(Arc::new(slim), options)?;
        let footer = Arc::new(Footer { parquet, series, rollup, memory });
        self.footers.put(key, footer.clone());
        Ok(footer)
    }

    /// The rows in `ranges` (ascending, apart), as the given columns of the table, in file order.
    /// Columns that the file is too old to have are null.
    pub fn rows(
        &self,
        file: &FileMeta,
        footer: &Footer,
        ranges: &[Range<u64>],
        columns: &[usize],
        batch_rows: usize,
    ) -> Result<impl Stream<Item = Result<RecordBatch, Error>> + Send + Unpin + use<>, Error> {
        let parquet = footer.parquet.metadata();
        let reader = Reader {
            store: self.store.clone(),
            path: file.path.clone(),
            parquet: Some(parquet.clone()),
            size: file.size,
        };
        let wanted: SchemaRef = Arc::new(self.layout.schema.project(columns)?);
        let (groups, selection) = select(parquet, ranges);
        // A column without any value there is not read: preparing to decompress it would cost more than the rest of a short read.
        let mask = ProjectionMask::columns(
            parquet.file_metadata().schema_descr(),
            wanted.fields().iter().map(|f| f.name().as_str()).filter(|name| !empty(parquet, &groups, name)),
        );
        let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, footer.parquet.clone())
            .with_projection(mask)
            .with_row_groups(groups)
            .with_row_selection(selection)
            .with_batch_size(batch_rows)
            .build()?;
        Ok(stream.map(move |batch| conform(&batch?, &wanted)))
    }

    /// Rows within `rows` whose page may hold a time that `wanted` accepts; `wanted` gets the page's smallest and largest time.
    pub fn narrow(
        &self,
        footer: &Footer,
        rows: Range<u64>,
        mut wanted: impl FnMut(i64, i64) -> bool,
    ) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for (page, times) in self.pages(footer, rows) {
            if times.is_none_or(|(min, max)| wanted(min, max)) {
                match found.last_mut() {
                    Some(last) if last.end == page.start => last.end = page.end,
                    _ => found.push(page),
                }
            }
        }
        found
    }

    /// `rows` cut by the pages of the time column, each with the page's smallest and largest time when the file says them.
    pub fn pages(&self, footer: &Footer, rows: Range<u64>) -> Vec<Page> {
        let parquet = footer.parquet.metadata();
        let time = self.layout.spec.time;
        let column = parquet.file_metadata().schema_descr().columns().iter().position(|c| c.name() == time);
        let (Some(column), Some(offsets)) = (column, parquet.offset_index()) else { return vec![(rows, None)] };
        let mut found = Vec::new();
        let mut start = 0u64;
        for (g, group) in parquet.row_groups().iter().enumerate() {
            let end = start + group.num_rows() as u64;
            if end > rows.start && start < rows.end {
                let pages = offsets[g][column].page_locations();
                let times = match parquet.column_index().map(|index| &index[g][column]) {
                    Some(ColumnIndexMetaData::INT64(index)) => Some(index),
                    _ => None,
                };
                let first = pages.partition_point(|p| start + p.first_row_index as u64 <= rows.start).saturating_sub(1);
                for (p, page) in pages.iter().enumerate().skip(first) {
                    let from = (start + page.first_row_index as u64).max(rows.start);
                    if from >= rows.end {
                        break;
                    }
                    let to = pages.get(p + 1).map_or(end, |next| start + next.first_row_index as u64).min(rows.end);
                    if to > from {
                        found.push((from..to, times.and_then(|t| Some((*t.min_value(p)?, *t.max_value(p)?)))));
                    }
                }
            }
            start = end;
        }
        found
    }
}

/// Whether a column is absent, or null in all rows of the given row groups.
fn empty(parquet: &ParquetMetaData, groups: &[usize], name: &str) -> bool {
    let Some(column) = parquet.file_metadata().schema_descr().columns().iter().position(|c| c.name() == name) else {
        return true;
    };
    groups.iter().all(|&g| {
        let group = parquet.row_group(g);
        let nulls = group.column(column).statistics().and_then(|statistics| statistics.null_count_opt());
        nulls.is_some_and(|nulls| Ok(nulls) == u64::try_from(group.num_rows()))
    })
}

impl Footer {
    /// Whether no row of the file has a value in this column.
    pub fn is_vacant(&self, name: &str) -> bool {
        let parquet = self.parquet.metadata();
        empty(parquet, &(0..parquet.num_row_groups()).collect::<Vec<_>>(), name)
    }
}

/// Row groups that hold any of `ranges`, and the selection within those groups taken together.
fn select(parquet: &ParquetMetaData, ranges: &[Range<u64>]) -> (Vec<usize>, RowSelection) {
    let mut groups = Vec::new();
    let mut kept: Vec<Range<usize>> = Vec::new();
    let (mut start, mut base, mut next) = (0u64, 0usize, 0usize);
    for (g, group) in parquet.row_groups().iter().enumerate() {
        let end = start + group.num_rows() as u64;
        let before = kept.len();
        while let Some(range) = ranges.get(next) {
            if range.start >= end {
                break;
            }
            let (from, to) = (range.start.max(start), range.end.min(end));
            if to > from {
                kept.push(base + (from - start) as usize..base + (to - start) as usize);
            }
            if range.end > end {
                break; // The rest of it lies in the next group.
            }
            next += 1;
        }
        if kept.len() > before {
            groups.push(g);
            base += group.num_rows() as usize;
        }
        start = end;
    }
    (groups, RowSelection::from_consecutive_ranges(kept.into_iter(), base))
}

/// `batch` with exactly the columns of `wanted`; those it lacks become null.
pub(crate) fn conform(batch: &RecordBatch, wanted: &Arc<Schema>) -> Result<RecordBatch, Error> {
    let columns = wanted
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => arrow::compute::cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(wanted.clone(), columns, &options)?)
}

/// Reads byte ranges of one file; hands out cached metadata when it has it.
#[derive(Clone)]
pub(crate) struct Reader {
    pub store: Arc<dyn ObjectStore>,
    pub path: Path,
    pub parquet: Option<Arc<ParquetMetaData>>,
    pub size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            if let Some(parquet) = &self.parquet {
                return Ok(parquet.clone());
            }
            let size = self.size;
            let parquet = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .load_and_finish(self, size)
                .await?;
            Ok(Arc::new(parquet))
        }
        .boxed()
    }
}
