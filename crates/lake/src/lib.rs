//! The lake: everything that happened, as columns. Delta tables of Parquet files, in a folder or in S3-compatible objects.
//!
//! A [`Table`] is a *set* of rows over its key, sorted by series and time. It is written by exactly one process, which hands over what
//! has come from the stream ([`Table::commit`]) together with the stream's offset. Offset and rows enter the Delta log in one
//! action, so however often a commit is repeated after a crash, every row is in the table once. Rows that are already sealed
//! and come again, changed, replace what was there: the files that held them are rewritten in the same commit. No deletion vectors, no
//! column mapping, so Spark, Trino, DuckDB and delta-rs read the same rows from the same folder.
//!
//! There are three ways to read:
//! - [`View::series`], [`View::get`], [`View::aggregate`]: one or some series out of Parquet, by an index in each
//!   file's footer, touching only the pages needed;
//! - [`Lake::sql`]: one read-only `SELECT` over sealed and unsealed rows as one table, within limits and within what the caller may see;
//! - any other engine, on the folder itself.
//!
//! This is the only crate that names DataFusion and Delta; other rooms build their rows with [`arrow`].

mod aggregate;
mod commit;
mod error;
mod export;
mod file;
mod index;
mod locate;
mod maintain;
mod merge;
mod provider;
mod read;
mod replace;
mod restore;
mod rollup;
mod spec;
mod sql;
mod store;
mod table;
mod workers;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use aggregate::{Aggregate, Bucket, Buckets, Refuses};
pub use arrow;
pub use commit::{Changes, Commit, SeriesChange};
pub use error::Error;
pub use export::ParquetRows;
pub use maintain::{Compacted, Compaction, Vacuumed};
pub use read::{Order, SeriesQuery, Summary};
pub use replace::{Part, Reduce, Replaced, Span};
pub use restore::{must_be_empty, restore};
pub use rollup::{Rollup, Summed};
pub use spec::{Partition, TableSpec, times};
pub use sql::{Access, SqlOptions, SqlRows, Visible};
pub use store::{Root, S3};
pub use table::{Stats, Table, View};

/// How a lake is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub root: Root,
    /// Threads for commits, compaction and SQL; reads of single series run on the caller's.
    pub threads: usize,
    /// SQL queries that run at the same time; the next one waits a moment, then gets [`Error::Busy`].
    pub queries: usize,
    /// Bytes of file footers and indexes kept in memory, for all tables together.
    pub footer_memory: usize,
}

impl Options {
    /// Two threads, two queries, 128 MB of footers.
    pub fn new(root: Root) -> Self {
        Self { root, threads: 2, queries: 2, footer_memory: 128 << 20 }
    }
}

/// What is on the stream but not yet sealed, so that SQL can read both as one table.
pub trait Tail: Send + Sync + 'static {
    /// A consistent picture. Must be quick: it is taken once for each query and table.
    fn snapshot(&self) -> TailRows;
}

/// The unsealed rows of a table: the net effect of all offsets from `from` up to `through`.
#[derive(Clone, Debug, Default)]
pub struct TailRows {
    /// The first offset whose effect is included: everything below it was already sealed when the picture was taken.
    pub from: u64,
    /// The last offset whose effect is included; `None` when the stream is empty.
    pub through: Option<u64>,
    /// Rows with the table's columns. Sorted by key within each batch; a key may come once in all batches together.
    pub batches: Vec<arrow::array::RecordBatch>,
    /// Keys (the key columns only, in key order, sorted) of sealed rows that have been removed since.
    pub removed: Option<arrow::array::RecordBatch>,
    /// Series whose sealed rows have all been removed since.
    pub dropped_series: Vec<i64>,
}

/// A lake. Cheap to clone.
#[derive(Clone)]
pub struct Lake {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub options: Options,
    pub workers: Arc<workers::Workers>,
    pub footers: Arc<file::Footers>,
    pub tables: Mutex<BTreeMap<String, Table>>,
    pub queries: Arc<Semaphore>,
}

impl Lake {
    /// Opens the lake: starts its threads and creates the folder when it is local. No table is read yet.
    pub fn open(options: Options) -> Result<Self, Error> {
        if let Root::Local(folder) = &options.root {
            std::fs::create_dir_all(folder).map_err(|e| Error::store("the lake's folder could not be created", e))?;
        }
        let inner = Inner {
            workers: Arc::new(workers::Workers::start(options.threads)?),
            footers: Arc::new(file::Footers::new(options.footer_memory)),
            tables: Mutex::default(),
            queries: Arc::new(Semaphore::new(options.queries.max(1))),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a table, or creates it. Columns that `spec` adds at the end, nullable, are added to the table; any other difference is
    /// [`Error::Invalid`]. `tail` lets [`Lake::sql`] see what is not sealed yet. A table is opened once; the second time the same
    /// handle is returned and `spec` and `tail` are ignored.
    pub async fn table(&self, spec: TableSpec, tail: Option<Arc<dyn Tail>>) -> Result<Table, Error> {
        if let Some(table) = self.inner.tables.lock().get(&spec.name) {
            return Ok(table.clone());
        }
        let (lake, name) = (self.inner.clone(), spec.name.clone());
        let table = self.inner.workers.run(async move { Table::open(&lake, spec, tail).await }).await?;
        Ok(self.inner.tables.lock().entry(name).or_insert(table).clone())
    }
}
