//! Writing one Parquet file of a table: encodings, page sizes, the series index in the footer, the Delta `add` action.

use std::{collections::HashMap, sync::Arc};

use arrow::{array::RecordBatch, datatypes::DataType};
use bytes::Bytes;
use deltalake::kernel::Add;
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use object_store::{buffered::BufWriter, path::Path};
use parquet::{
    arrow::{AsyncArrowWriter, arrow_writer::ArrowWriterOptions, async_writer::AsyncFileWriter},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use tokio::io::AsyncWriteExt as _;

use crate::{
    Error,
    file::{FileMeta, Files},
    index::{FOOTER_KEY, ROLLUP_KEY, SeriesIndex},
    rollup::{self, RollupWriter},
    spec::Layout,
};

/// Rows in a page: what one read of a few rows has to decode, so it is small; larger pages would not compress much better.
pub(crate) const PAGE_ROWS: usize = 4_096;
/// Rows in a row group: bounds the memory of a writer.
const GROUP_ROWS: usize = 1 << 20;

/// How hard to press. A fresh file lives for minutes until compaction reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    Fresh,
    Compacted,
}

/// How the names of fresh files begin.
const FRESH: &str = "fresh-";

/// When a fresh file was written, in milliseconds since 1970; `None` for one that compaction has made.
pub(crate) fn fresh_since(path: &Path) -> Option<i64> {
    let id = path.filename()?.strip_prefix(FRESH)?.split('.').next()?;
    let (seconds, nanos) = uuid::Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1_000)?.checked_add(i64::from(nanos) / 1_000_000)
}

/// For a file with the columns `kept` of the table.
fn properties(layout: &Layout, effort: Effort, kept: &[usize]) -> Result<WriterProperties, Error> {
    let level = if effort == Effort::Fresh { 1 } else { 3 };
    let mut properties = WriterProperties::builder()
        .set_created_by("lamppost".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(1_024)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        // A dictionary is read whole for the sake of one row, so it must stay small; past the limit the writer goes on without.
        .set_dictionary_page_size_limit(128 << 10)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(
            layout
                .key
                .iter()
                // Without a column that is null everywhere the order is the same.
                .filter_map(|key| kept.iter().position(|column| column == key))
                .map(|at| SortingColumn { column_idx: at as i32, descending: false, nulls_first: true })
                .collect(),
        ));
    for field in kept.iter().map(|&i| layout.schema.field(i)) {
        let column = ColumnPath::from(field.name().as_str());
        match field.data_type() {
            // Sorted or evenly spaced: differences of differences vanish, a dictionary would only repeat them.
            DataType::Int64 | DataType::Timestamp(..) => {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
            // Sensors repeat few values (one or two decimals of a narrow range): by measurement (tests/it/measure.rs) a dictionary takes
            // 1.1 to 1.5 bytes a value, plain 1.3 to 2.3, split bytes 1.5 to 4.6. Where there are too many values for a small dictionary
            // the writer goes on plainly.
            DataType::Float64 => {
                properties = properties.set_column_encoding(column, Encoding::PLAIN);
            }
            _ => {}
        }
    }
    Ok(properties.build())
}

/// A file being written, with its rollup where it gets one. Rows must arrive in key order.
pub(crate) struct FileWriter {
    plain: PlainWriter,
    rollup: Option<RollupWriter>,
}

/// A file being written.
///
/// Columns in which no row has a value are left out of the file: a reader of Delta takes an absent column for null, and seven columns
/// that say nothing would cost more to encode than the four that do.
pub(crate) struct PlainWriter {
    files: Files,
    partition: Option<String>,
    path: Path,
    writer: AsyncArrowWriter<Upload>,
    /// Columns of the table that are in the file.
    kept: Vec<usize>,
    index: SeriesIndex,
}

/// A file that is in the store, durable, and not yet in the log.
pub(crate) struct Written {
    pub meta: FileMeta,
    pub add: Add,
}

impl FileWriter {
    /// `vacant` says of each column of the table whether no row that will be written has a value there.
    pub fn start(files: &Files, partition: Option<String>, effort: Effort, vacant: &[bool]) -> Result<Self, Error> {
        let kind = if effort == Effort::Fresh { FRESH } else { "part-" };
        let name = format!("{kind}{}.zstd.parquet", uuid::Uuid::now_v7());
        let path = match (files.layout.spec.partition.column(), &partition) {
            (Some(column), Some(value)) => Path::from(format!("{column}={value}/{name}")),
            _ => Path::from(name),
        };
        // A fresh file is compacted before anybody asks for a year of it.
        let rollup = if effort == Effort::Compacted { RollupWriter::start(files, &path) } else { None };
        Ok(Self { plain: PlainWriter::start(files, path, partition, effort, vacant)?, rollup })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if let Some(rollup) = &mut self.rollup {
            rollup.push(&self.plain.files.layout, batch).await?;
        }
        self.plain.write(batch).await
    }

    /// Bytes so far, about.
    pub fn bytes(&self) -> usize {
        self.plain.bytes()
    }

    /// `None` when no row was written; nothing is then left in the store.
    pub async fn finish(mut self, data_change: bool) -> Result<Option<Written>, Error> {
        // It is there before the file says so.
        if let Some(rollup) = self.rollup
            && let Some(size) = rollup.finish().await?
        {
            self.plain.writer.append_key_value_metadata(KeyValue::new(ROLLUP_KEY.to_owned(), size.to_string()));
        }
        self.plain.finish(data_change).await
    }
}

impl PlainWriter {
    /// `vacant` as in [`FileWriter::start`].
    pub fn start(
        files: &Files,
        path: Path,
        partition: Option<String>,
        effort: Effort,
        vacant: &[bool],
    ) -> Result<Self, Error> {
        let kept: Vec<usize> = (0..vacant.len()).filter(|&i| !vacant[i]).collect();
        let upload = Upload(BufWriter::new(files.store.clone(), path.clone()));
        let options = ArrowWriterOptions::new()
            .with_properties(properties(&files.layout, effort, &kept)?)
            // The Arrow schema follows from the Parquet one; leaving it out keeps small files small.
            .with_skip_arrow_metadata(true);
        let schema = Arc::new(files.layout.schema.project(&kept)?);
        let writer = AsyncArrowWriter::try_new_with_options(upload, schema, options)?;
        Ok(Self { files: files.clone(), partition, path, writer, kept, index: SeriesIndex::default() })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let layout = &self.files.layout;
        self.index.push(layout.series_of(batch), layout.time_of(batch));
        self.writer.write(&batch.project(&self.kept)?).await.map_err(|e| self.failed(e))
    }

    /// Bytes so far, about.
    pub fn bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    fn failed(&self, error: ParquetError) -> Error {
        Error::writing(self.files.layout.name(), "a Parquet file could not be written", error)
    }

    /// `None` when no row was written; nothing is then left in the store.
    pub async fn finish(mut self, data_change: bool) -> Result<Option<Written>, Error> {
        let (Some(series), Some(time)) = (self.index.series_range(), self.index.times()) else { return Ok(None) };
        self.writer.append_key_value_metadata(KeyValue::new(FOOTER_KEY.to_owned(), self.index.encode()));
        if let Err(error) = self.writer.finish().await {
            return Err(self.failed(error));
        }
        let size = self.writer.bytes_written() as u64;
        let meta = FileMeta { path: self.path, size, rows: self.index.rows(), partition: self.partition, series, time };
        let spec = &self.files.layout.spec;
        let micros = |t: i64| {
            let at = kernel::Timestamp::from_micros(t).to_jiff();
            format!("{at:.6}")
        };
        let stats = serde_json::json!({
            "numRecords": meta.rows,
            "minValues": { spec.series: series.0, spec.time: micros(time.0) },
            "maxValues": { spec.series: series.1, spec.time: micros(time.1) },
            "nullCount": { spec.series: 0, spec.time: 0 },
        });
        let add = Add {
            path: meta.path.to_string(),
            partition_values: partition_values(&self.files.layout, &meta),
            size: size as i64,
            modification_time: now_millis(),
            data_change,
            stats: Some(stats.to_string()),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        Ok(Some(Written { meta, add }))
    }
}

pub(crate) fn partition_values(layout: &Layout, file: &FileMeta) -> HashMap<String, Option<String>> {
    layout.spec.partition.column().map(|column| (column.to_owned(), file.partition.clone())).into_iter().collect()
}

/// The wall clock, which Delta wants in its log for retention. Nothing in this crate decides by it but vacuum.
#[expect(
    clippy::disallowed_methods,
    reason = "the log of the table format carries the wall clock; nothing is decided by it"
)]
pub(crate) fn now_millis() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

struct Upload(BufWriter);

impl AsyncFileWriter for Upload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { self.0.put(bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }
    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { self.0.shutdown().map_err(|e| ParquetError::External(Box::new(e))).await }.boxed()
    }
}

/// Deletes files that a failed commit left unnamed. Best effort: what remains is removed by vacuum.
pub(crate) async fn discard(files: &Files, written: &[Written]) {
    for file in written {
        if let Err(error) = object_store::ObjectStoreExt::delete(&files.store, &file.meta.path).await {
            tracing::debug!(%error, "an uncommitted file stays until vacuum");
        }
        if files.rollups.is_some() {
            // Most have none.
            drop(object_store::ObjectStoreExt::delete(&files.store, &rollup::place(&file.meta.path)).await);
        }
    }
}
