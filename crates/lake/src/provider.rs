//! A table as DataFusion sees it: sealed files and unsealed rows as one, cut down to what the caller may see.
//!
//! What may not be seen, and what the tail has replaced or removed, is never read: each file is scanned through a selection of rows. So a
//! filter of the query cannot meet a hidden row, and cannot tell of it by failing on it.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Int64Type, SchemaRef},
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue},
    datasource::{
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource},
        source::DataSourceExec,
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_plan::{ExecutionPlan, empty::EmptyExec, metrics::ExecutionPlanMetricsSet, union::UnionExec},
};
use futures::{FutureExt, future::BoxFuture};
use object_store::ObjectMeta;
use parquet::{
    arrow::{
        arrow_reader::{ArrowReaderOptions, RowSelection},
        async_reader::AsyncFileReader,
    },
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};
use tokio::sync::OnceCell;

use crate::{
    Access, Error, TailRows, View,
    file::{FileMeta, Files, Reader},
    locate::{Keys, locate, may_hold, without},
    table::TableInner,
};

/// Pictures of sealed and unsealed rows are taken one after the other; so many tries to get two that fit.
const PAIRINGS: usize = 32;

/// Rows, by file, that the tail hides.
type Holes = HashMap<object_store::path::Path, Vec<Range<u64>>>;

pub(crate) struct LakeTable {
    view: View,
    tail: TailRows,
    access: Access,
    holes: OnceCell<Holes>,
}

impl fmt::Debug for LakeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeTable").field("name", &self.view.files.layout.name()).finish_non_exhaustive()
    }
}

impl TailRows {
    fn is_empty(&self) -> bool {
        self.dropped_series.is_empty()
            && self.batches.iter().all(|b| b.num_rows() == 0)
            && self.removed.as_ref().is_none_or(|b| b.num_rows() == 0)
    }
}

/// Sealed and unsealed rows that fit: nothing missing between them, and the tail no older than what is sealed, because on the same key
/// the tail wins.
async fn pair(table: &TableInner) -> Result<(View, TailRows), Error> {
    let Some(tail) = &table.tail else { return Ok((table.view(), TailRows::default())) };
    for _ in 0..PAIRINGS {
        let rows = tail.snapshot();
        let view = table.view();
        let sealed = view.sealed_through().map_or(0, |t| t + 1);
        if rows.is_empty() || (rows.from <= sealed && sealed <= rows.through.map_or(0, |t| t + 1)) {
            return Ok((view, rows));
        }
        tokio::task::yield_now().await;
    }
    Err(Error::Busy)
}

impl LakeTable {
    pub async fn new(table: &TableInner, access: Access) -> Result<Self, Error> {
        let (view, mut tail) = pair(table).await?;
        let layout = &view.files.layout;
        for batch in &tail.batches {
            layout.check(batch, false)?;
        }
        if let Some(removed) = &tail.removed {
            layout.check(removed, true)?;
        }
        tail.dropped_series.sort_unstable();
        Ok(Self { view, tail, access, holes: OnceCell::new() })
    }

    fn url(&self) -> DfResult<ObjectStoreUrl> {
        ObjectStoreUrl::parse(format!("lake://{}", self.view.files.layout.name()))
    }

    /// Finds the sealed rows whose keys the tail holds or has removed. Cheap when the tail is newer than everything sealed: then no
    /// file's range meets it.
    async fn find_holes(&self) -> Result<Holes, Error> {
        let files = &self.view.files;
        let mut keys = Vec::new();
        for batch in self.tail.batches.iter().filter(|b| b.num_rows() > 0) {
            keys.push(Keys::new(&files.layout, vec![batch.clone()], false)?);
        }
        if let Some(removed) = self.tail.removed.as_ref().filter(|b| b.num_rows() > 0) {
            keys.push(Keys::new(&files.layout, vec![removed.clone()], true)?);
        }
        let dropped = &self.tail.dropped_series;
        let mut holes = Holes::new();
        for file in &self.view.snapshot.files {
            let mut gone: Vec<Range<u64>> = Vec::new();
            let meets: Vec<&Keys> = keys.iter().filter(|k| may_hold(file, k)).collect();
            let drops = dropped.iter().any(|s| (file.series.0..=file.series.1).contains(s));
            if meets.is_empty() && !drops {
                continue;
            }
            let footer = files.footer(file).await?;
            gone.extend(dropped.iter().filter_map(|&s| footer.series.find(s)).map(|e| e.rows));
            for keys in meets {
                gone.extend(locate(files, file, &footer, keys, false).await?.iter().map(|m| m.row..m.row + 1));
            }
            if !gone.is_empty() {
                gone.sort_by_key(|r| r.start);
                holes.insert(file.path.clone(), gone);
            }
        }
        Ok(holes)
    }

    /// The file as DataFusion should scan it; `None` when nothing of it may be seen.
    async fn visible_file(
        &self,
        file: &Arc<FileMeta>,
        gone: Option<&Vec<Range<u64>>>,
    ) -> Result<Option<PartitionedFile>, Error> {
        let scanned = PartitionedFile::new_from_meta(ObjectMeta {
            location: file.path.clone(),
            last_modified: Default::default(),
            size: file.size,
            e_tag: None,
            version: None,
        })
        .with_extension(file.clone());
        let gone = gone.map(Vec::as_slice).unwrap_or_default();
        if matches!(self.access, Access::All) && gone.is_empty() {
            return Ok(Some(scanned));
        }
        let footer = self.view.files.footer(file).await?;
        let rows = footer.series.rows();
        let mut hidden: Vec<Range<u64>> = gone.to_vec();
        if let Access::Series(seen) = &self.access {
            hidden.extend(footer.series.iter().filter(|e| !seen.contains(&e.series)).map(|e| e.rows));
            hidden.sort_by_key(|r| r.start);
        }
        let kept = without(rows, hidden);
        if kept.is_empty() {
            return Ok(None);
        }
        let kept = kept.into_iter().map(|r| r.start as usize..r.end as usize);
        let selection = RowSelection::from_consecutive_ranges(kept, rows as usize);
        Ok(Some(
            scanned.with_extension(datafusion::datasource::physical_plan::parquet::ParquetRowSelection::new(selection)),
        ))
    }

    /// Unsealed rows that may be seen.
    fn visible_tail(&self) -> Result<Vec<RecordBatch>, Error> {
        let layout = &self.view.files.layout;
        let mut batches = Vec::new();
        for batch in self.tail.batches.iter().filter(|b| b.num_rows() > 0) {
            match &self.access {
                Access::Hidden => {}
                Access::All => batches.push(batch.clone()),
                Access::Series(seen) => {
                    let ids = batch.column(layout.series).as_primitive::<Int64Type>();
                    let mask: BooleanArray = ids.values().iter().map(|s| Some(seen.contains(s))).collect();
                    if mask.true_count() > 0 {
                        batches.push(filter_record_batch(batch, &mask)?);
                    }
                }
            }
        }
        Ok(batches)
    }
}

fn outside(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        self.view.files.layout.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        // Files and pages are left out by them; every row that comes through is tested again.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let files = &self.view.files;
        let layout = &files.layout;
        state.runtime_env().register_object_store(self.url()?.as_ref(), files.store.clone());
        let holes = self.holes.get_or_try_init(|| self.find_holes()).await.map_err(outside)?;
        let (time, series) = (bounds(filters, layout.spec.time), bounds(filters, layout.spec.series));
        let overlaps = |have: (i64, i64), want: (i64, i64)| have.0 <= want.1 && want.0 <= have.1;
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = Vec::new();
        groups.resize_with(state.config().target_partitions().max(1), Default::default);
        let mut scanned: Vec<&Arc<FileMeta>> =
            self.view.snapshot.files.iter().filter(|f| overlaps(f.time, time) && overlaps(f.series, series)).collect();
        scanned.sort_by_key(|f| std::cmp::Reverse(f.size));
        for file in scanned {
            if let Some(part) = self.visible_file(file, holes.get(&file.path)).await.map_err(outside)?
                && let Some(least) = groups.iter_mut().min_by_key(|g| g.0)
            {
                least.0 += file.size;
                least.1.push(part);
            }
        }
        let groups: Vec<FileGroup> =
            groups.into_iter().filter(|g| !g.1.is_empty()).map(|g| FileGroup::new(g.1)).collect();

        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !groups.is_empty() {
            let mut source = ParquetSource::new(layout.schema.clone())
                .with_pushdown_filters(true)
                .with_enable_page_index(true)
                .with_parquet_file_reader_factory(Arc::new(Readers(files.clone())));
            if let Some(filter) = conjunction(filters.to_vec()) {
                let schema = DFSchema::try_from(layout.schema.as_ref().clone())?;
                source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
            }
            let config = FileScanConfigBuilder::new(self.url()?, Arc::new(source))
                .with_file_groups(groups)
                .with_projection_indices(projection.cloned())?
                .with_limit(if filters.is_empty() { limit } else { None })
                .build();
            inputs.push(DataSourceExec::from_data_source(config));
        }
        let tail = self.visible_tail().map_err(outside)?;
        if !tail.is_empty() {
            inputs.push(MemorySourceConfig::try_new_exec(&[tail], self.schema(), projection.cloned())?);
        }
        match inputs.len() {
            0 => {
                let schema = match projection {
                    Some(columns) => Arc::new(self.schema().project(columns)?),
                    None => self.schema(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => inputs.pop().ok_or_else(|| DataFusionError::Internal("one input".to_owned())),
            _ => UnionExec::try_new(inputs),
        }
    }
}

/// The values of a column, inclusive, outside of which some filter is false. Wide open when the filters do not say.
fn bounds(filters: &[Expr], column: &str) -> (i64, i64) {
    let mut range = (i64::MIN, i64::MAX);
    for filter in filters {
        narrow(filter, column, &mut range);
    }
    range
}

fn narrow(filter: &Expr, column: &str, range: &mut (i64, i64)) {
    match filter {
        Expr::BinaryExpr(both) if both.op == Operator::And => {
            narrow(&both.left, column, range);
            narrow(&both.right, column, range);
        }
        Expr::BinaryExpr(test) => {
            let named = |e: &Expr| matches!(e, Expr::Column(c) if c.name == column);
            let (op, value) = match (named(&test.left), named(&test.right)) {
                (true, false) => (Some(test.op), literal(&test.right)),
                (false, true) => (test.op.swap(), literal(&test.left)),
                _ => return,
            };
            let Some(value) = value else { return };
            match op {
                Some(Operator::Eq) => *range = (range.0.max(value), range.1.min(value)),
                Some(Operator::Gt | Operator::GtEq) => range.0 = range.0.max(value),
                Some(Operator::Lt | Operator::LtEq) => range.1 = range.1.min(value),
                _ => {}
            }
        }
        Expr::Between(test) if !test.negated => {
            if matches!(test.expr.as_ref(), Expr::Column(c) if c.name == column)
                && let (Some(low), Some(high)) = (literal(&test.low), literal(&test.high))
            {
                *range = (range.0.max(low), range.1.min(high));
            }
        }
        _ => {}
    }
}

fn literal(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(value), _) | Expr::Literal(ScalarValue::TimestampMicrosecond(value, _), _) => {
            *value
        }
        _ => None,
    }
}

/// Hands DataFusion readers that know the cached footers.
#[derive(Clone)]
struct Readers(Files);

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readers")
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> DfResult<Box<dyn AsyncFileReader + Send>> {
        let meta = file
            .extension::<Arc<FileMeta>>()
            .ok_or_else(|| DataFusionError::Internal("a file of the lake lost its description".to_owned()))?
            .clone();
        let reader = Reader { store: self.0.store.clone(), path: meta.path.clone(), parquet: None, size: meta.size };
        Ok(Box::new(Cached { reader, files: self.0.clone(), meta }))
    }
}

struct Cached {
    reader: Reader,
    files: Files,
    meta: Arc<FileMeta>,
}

impl AsyncFileReader for Cached {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.reader.get_bytes(range)
    }
    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.reader.get_byte_ranges(ranges)
    }
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let footer = self.files.footer(&self.meta).await.map_err(|e| ParquetError::External(Box::new(e)))?;
            Ok(footer.parquet.metadata().clone())
        }
        .boxed()
    }
}
