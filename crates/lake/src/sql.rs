//! Read-only SQL over the lake, within limits.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use datafusion::{
    common::DataFusionError,
    dataframe::DataFrame,
    execution::{
        context::{SQLOptions, SessionContext},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::SessionConfig,
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::ast::Statement as Parsed,
    },
};
use futures::{Stream, StreamExt};
use parquet::errors::ParquetError;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Lake, provider::LakeTable};

/// Longer text is not a question but an attack on the parser.
const LONGEST_QUERY: usize = 64 << 10;
/// How long a query waits for its turn before [`Error::Busy`].
const PATIENCE: Duration = Duration::from_secs(5);
/// Functions that make much out of little (their memory is not accounted for), or tell of the machine.
const REMOVED: [&str; 13] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "list_repeat",
    "generate_series",
    "range",
    "array_resize",
    "list_resize",
    "gen_series",
    "version",
    "arrow_metadata",
    "array_generate_series",
];

/// How much one query may take.
#[derive(Clone, Copy, Debug)]
pub struct SqlOptions {
    /// Rows beyond this are cut off, and [`SqlRows::truncated`] says so.
    pub max_rows: usize,
    pub timeout: Duration,
    pub memory_bytes: usize,
}

impl Default for SqlOptions {
    /// 100,000 rows, 30 s, 256 MB.
    fn default() -> Self {
        Self { max_rows: 100_000, timeout: Duration::from_secs(30), memory_bytes: 256 << 20 }
    }
}

/// What a caller may see of a table.
#[derive(Clone, Debug)]
pub enum Access {
    /// The table does not exist for the caller.
    Hidden,
    All,
    /// Rows of these series only.
    Series(Arc<BTreeSet<i64>>),
}

/// Decides what the caller sees; asked once for each table that a query names.
pub trait Visible: Send + Sync {
    fn access(&self, table: &str) -> Access;
}

impl<F: Fn(&str) -> Access + Send + Sync> Visible for F {
    fn access(&self, table: &str) -> Access {
        self(table)
    }
}

/// The rows of an answer, as a stream. Dropping it stops the query.
#[derive(Debug)]
pub struct SqlRows {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch, Error>>,
    truncated: Arc<AtomicBool>,
}

impl SqlRows {
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether rows were left out because of [`SqlOptions::max_rows`]. Known once the stream has ended.
    pub fn truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    /// All rows at once; for answers known to be small.
    pub async fn collect_all(&mut self) -> Result<Vec<RecordBatch>, Error> {
        let mut all = Vec::new();
        while let Some(batch) = self.next().await {
            all.push(batch?);
        }
        Ok(all)
    }
}

impl Stream for SqlRows {
    type Item = Result<RecordBatch, Error>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(cx)
    }
}

impl Lake {
    /// Answers one `SELECT` (with `WITH`, `UNION`, joins, window functions) over the tables that `visible` shows. Times are
    /// `TIMESTAMP` in UTC. Sealed and unsealed rows are one table. Anything but a query is [`Error::Query`].
    pub async fn sql(&self, query: &str, options: SqlOptions, visible: Arc<dyn Visible>) -> Result<SqlRows, Error> {
        let statement = parse(query)?;
        let turn = tokio::time::timeout(PATIENCE, self.inner.queries.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy)?.map_err(|_| Error::Busy)?;
        let (lake, truncated) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let (started, start) = oneshot::channel();
        let (sender, batches) = mpsc::channel(4);
        let cut = truncated.clone();
        let task = async move {
            let _turn = turn;
            let ended = sender.clone();
            let run = async {
                let mut rows = match lake.plan(statement, options, visible).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                if started.send(Ok(rows.schema())).is_err() {
                    return;
                }
                let mut left = options.max_rows;
                while let Some(next) = rows.next().await {
                    let next = next.map_err(|e| told(&e, options)).map(|batch| {
                        if batch.num_rows() > left {
                            cut.store(true, Ordering::Release);
                        }
                        batch.slice(0, batch.num_rows().min(left))
                    });
                    left -= next.as_ref().map_or(left, RecordBatch::num_rows);
                    let failed = next.is_err();
                    let empty = next.as_ref().is_ok_and(|b| b.num_rows() == 0);
                    if (!empty && sender.send(next).await.is_err()) || failed || cut.load(Ordering::Acquire) {
                        return;
                    }
                }
            };
            // A reader that went away ends the query too, also while it is still computing.
            tokio::select! {
                done = tokio::time::timeout(options.timeout, run) => {
                    if done.is_err() {
                        let _ = ended.send(Err(Error::Timeout { seconds: options.timeout.as_secs() })).await;
                    }
                }
                () = ended.closed() => {}
            }
        };
        self.inner.workers.spawn(task).ok_or(Error::Busy)?;
        let timeout = Error::Timeout { seconds: options.timeout.as_secs() };
        let schema = start.await.map_err(|_| timeout)??;
        Ok(SqlRows { schema, batches, truncated })
    }

    async fn plan(
        &self,
        statement: Statement,
        options: SqlOptions,
        visible: Arc<dyn Visible>,
    ) -> Result<datafusion::execution::SendableRecordBatchStream, Error> {
        let told = |error: DataFusionError| told(&error, options);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(options.memory_bytes)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()
            .map_err(told)?;
        let config = SessionConfig::new()
            .with_target_partitions(self.inner.options.threads.max(1))
            .with_information_schema(false)
            .with_default_catalog_and_schema("lake", "public");
        let context = SessionContext::new_with_config_rt(config, runtime);
        for name in REMOVED {
            context.deregister_udf(name);
            context.deregister_udtf(name);
        }
        let state = context.state();
        for reference in state.resolve_table_references(&statement).map_err(told)? {
            let table = self.inner.tables.lock().get(reference.table()).cloned();
            let Some(table) = table else { continue };
            match visible.access(table.name()) {
                Access::Hidden => {}
                access => {
                    let table = LakeTable::new(&table.inner, access).await?;
                    context.register_table(reference.table(), Arc::new(table)).map_err(told)?;
                }
            }
        }
        let state = context.state();
        let plan = state.statement_to_plan(statement).await.map_err(told)?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(told)?;
        let frame = DataFrame::new(state, plan).limit(0, Some(options.max_rows.saturating_add(1))).map_err(told)?;
        frame.execute_stream().await.map_err(told)
    }
}

/// Parses one query and refuses everything else, before anything of it is looked at.
fn parse(query: &str) -> Result<Statement, Error> {
    if query.len() > LONGEST_QUERY {
        return Err(Error::Query(format!("the query is longer than {LONGEST_QUERY} bytes")));
    }
    let mut statements = DFParserBuilder::new(query)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| Error::Query(e.strip_backtrace()))?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(Statement::Statement(parsed)), true) if matches!(parsed.as_ref(), Parsed::Query(_)) => {
            Ok(Statement::Statement(parsed))
        }
        _ => Err(Error::Query("write one SELECT; nothing else is answered here".to_owned())),
    }
}

/// A failure as the caller may hear it: what is wrong with the query in words, what is wrong with the machine only by name.
fn told(error: &DataFusionError, options: SqlOptions) -> Error {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Error::Memory { megabytes: options.memory_bytes >> 20 },
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Execution(_)
        | DataFusionError::ArrowError(..) => Error::Query(error.find_root().strip_backtrace()),
        // A filter of the query that failed while a file was read.
        DataFusionError::ParquetError(inner) if filter_failed(inner) => {
            Error::Query("a condition of the query fails on some row, such as by dividing by zero".to_owned())
        }
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::store("a query failed", Text(error.to_string())),
        },
        _ => Error::store("a query failed", Text(error.to_string())),
    }
}

/// Failures of the store come through Parquet as errors of the store; those of a computation as Arrow's.
fn filter_failed(error: &ParquetError) -> bool {
    match error {
        ParquetError::ArrowError(_) => true,
        ParquetError::External(inner) => inner.is::<ArrowError>(),
        _ => false,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Text(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_query_is_taken() {
        for good in
            ["select 1", "WITH a AS (SELECT 1) SELECT * FROM a;", "(select 1) union all (select 2)", "values (1)"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "select 1; select 2",
            "insert into t values (1)",
            "create table t as select 1",
            "create external table t stored as csv location '/etc/passwd'",
            "copy t to '/tmp/x.csv'",
            "set datafusion.execution.batch_size = 1",
            "show tables",
            "explain select 1",
            "explain analyze select 1",
            "drop table t",
            "delete from t",
            "reset datafusion.execution.batch_size",
            "prepare p as select 1",
            &format!("select {}", "1+".repeat(40_000)),
            &format!("select {}1{}", "(".repeat(2_000), ")".repeat(2_000)),
        ] {
            assert!(matches!(parse(bad), Err(Error::Query(_))), "{}", &bad[..bad.len().min(60)]);
        }
    }
}
