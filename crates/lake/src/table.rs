//! A table: opening it, its one writer, and the picture of it that readers hold.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use arc_swap::ArcSwap;
use arrow::datatypes::{DataType as ArrowType, Field, Schema};
use deltalake::{
    DeltaTable,
    kernel::{
        Action, MetadataExt, Remove, StructField, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    logstore::{LogStoreRef, StorageConfig, default_logstore},
    operations::create::CreateBuilder,
    protocol::DeltaOperation,
    table::state::DeltaTableState,
};
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    Error, Inner, TableSpec, Tail,
    file::{FileMeta, Files},
    spec::Layout,
    workers::Workers,
    write::{Written, discard, now_millis, partition_values},
};

/// Under this name the stream's offset is kept in the Delta log (`txn.appId`).
const APP_ID: &str = "lamppost";
/// A checkpoint every so many commits keeps opening a table cheap: at most this many small files are read after it.
const CHECKPOINT_EVERY: u64 = 50;

/// A table of the lake. Cheap to clone; one process may hold a table open for writing.
#[derive(Clone)]
pub struct Table {
    pub(crate) inner: Arc<TableInner>,
}

pub(crate) struct TableInner {
    pub files: Files,
    pub tail: Option<Arc<dyn Tail>>,
    pub workers: Arc<Workers>,
    /// The table's folder, when it lies on this machine.
    pub folder: Option<PathBuf>,
    current: ArcSwap<Snapshot>,
    pub writer: tokio::sync::Mutex<Writer>,
    /// Compaction, retention, vacuum and backup: one at a time, beside commits.
    pub upkeep: tokio::sync::Mutex<()>,
}

/// The table at one version. Immutable: a commit swaps in the next one, so readers never wait.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub version: u64,
    pub sealed_through: Option<u64>,
    pub files: Vec<Arc<FileMeta>>,
}

/// What only the writer needs.
pub(crate) struct Writer {
    pub log: LogStoreRef,
    pub state: DeltaTableState,
}

/// One consistent picture of the sealed rows. It stays readable while commits go on, until vacuum removes its files (a week by default).
#[derive(Clone)]
pub struct View {
    pub(crate) files: Files,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) workers: Arc<Workers>,
}

/// What a table weighs, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    /// Delta version.
    pub version: u64,
    /// See [`Table::sealed_through`].
    pub sealed_through: Option<u64>,
}

impl Table {
    pub(crate) async fn open(lake: &Inner, spec: TableSpec, tail: Option<Arc<dyn Tail>>) -> Result<Self, Error> {
        let layout = Arc::new(Layout::new(spec)?);
        let place = lake.options.root.place(layout.name())?;
        let log = default_logstore(place.table.clone(), place.whole, &place.url, &StorageConfig::default());
        let mut table = DeltaTable::new(log.clone());
        if log.is_delta_table_location().await? {
            table.load().await?;
            evolve(&layout, &log, &mut table).await?;
        } else {
            table = create(&layout, log.clone()).await?;
        }
        let state = table.snapshot()?.clone();
        let snapshot = load(&layout, &log, &state).await?;
        let rollups = layout.rollup.map(|_| crate::rollup::layout()).transpose()?.map(Arc::new);
        let files = Files { store: place.table, layout, footers: lake.footers.clone(), rollups };
        Ok(Self {
            inner: Arc::new(TableInner {
                files,
                tail,
                workers: lake.workers.clone(),
                folder: place.folder,
                current: ArcSwap::from_pointee(snapshot),
                writer: tokio::sync::Mutex::new(Writer { log, state }),
                upkeep: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// Whether the store answers: one small question that reads no data.
    pub async fn ping(&self) -> Result<(), Error> {
        let store = self.inner.files.store.clone();
        self.inner
            .workers
            .run(async move {
                match store.head(&Path::from("_delta_log/_last_checkpoint")).await {
                    // A young table has none; that is an answer too.
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await
    }

    pub fn name(&self) -> &str {
        self.inner.files.layout.name()
    }

    /// The last offset of the stream whose effect is in the table: consumers resume at the next one. `None` before the first commit.
    pub fn sealed_through(&self) -> Option<u64> {
        self.inner.current.load().sealed_through
    }

    /// The sealed rows as they are now.
    pub fn view(&self) -> View {
        self.inner.view()
    }

    pub fn stats(&self) -> Stats {
        self.view().stats()
    }
}

impl View {
    /// What the table weighs in this picture.
    pub fn stats(&self) -> Stats {
        let snapshot = &self.snapshot;
        Stats {
            files: snapshot.files.len() as u64,
            bytes: snapshot.files.iter().map(|f| f.size).sum(),
            rows: snapshot.files.iter().map(|f| f.rows).sum(),
            version: snapshot.version,
            sealed_through: snapshot.sealed_through,
        }
    }

    /// See [`Table::sealed_through`], for this picture.
    pub fn sealed_through(&self) -> Option<u64> {
        self.snapshot.sealed_through
    }
    /// Delta version.
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }
}

impl TableInner {
    pub fn view(&self) -> View {
        View { files: self.files.clone(), snapshot: self.current.load_full(), workers: self.workers.clone() }
    }

    /// Puts `added` in and takes `removed` out in one Delta commit, then lets readers see it. `through` enters the same commit.
    ///
    /// When the answer of the store is lost, the log is read again: it alone knows whether the commit happened.
    pub async fn log(
        &self,
        writer: &mut Writer,
        added: Vec<Written>,
        removed: &[Arc<FileMeta>],
        through: Option<u64>,
        operation: DeltaOperation,
        data_change: bool,
    ) -> Result<(), Error> {
        let before = self.current.load_full();
        let mut actions: Vec<Action> = removed.iter().map(|f| remove(&self.files.layout, f, data_change)).collect();
        actions.extend(added.iter().map(|w| Action::Add(w.add.clone())));
        let mut properties = CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        if let Some(through) = through {
            properties = properties.with_application_transaction(Transaction::new(APP_ID, through as i64));
        }
        let result = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(&writer.state), writer.log.clone(), operation)
            .await;
        match result {
            Ok(done) if done.version == before.version + 1 => {
                writer.state = done.snapshot();
                let gone: HashSet<&Path> = removed.iter().map(|f| &f.path).collect();
                let mut files: Vec<_> = before.files.iter().filter(|f| !gone.contains(&f.path)).cloned().collect();
                files.extend(added.into_iter().map(|w| Arc::new(w.meta)));
                self.current.store(Arc::new(Snapshot {
                    version: done.version,
                    sealed_through: through.or(before.sealed_through),
                    files,
                }));
            }
            other => {
                let log = writer.log.clone();
                let state = DeltaTableState::try_new(&log, None).await?;
                let now = load(&self.files.layout, &log, &state).await?;
                let happened = match (added.first(), through) {
                    (Some(first), _) => now.files.iter().any(|f| f.path == first.meta.path),
                    (None, Some(_)) => now.sealed_through == through,
                    (None, None) => now.version > before.version,
                };
                let version = now.version;
                writer.state = state;
                self.current.store(Arc::new(now));
                if !happened {
                    // A local store has answered for good. A remote one may still apply the request it did not answer, so its
                    // files stay until vacuum.
                    if self.folder.is_some() {
                        discard(&self.files, &added).await;
                    }
                    let table = self.files.layout.name();
                    return Err(match other {
                        Err(_) if version > before.version => Error::Conflict { table: table.to_owned() },
                        Err(error) => Error::writing(table, "a commit could not be written to the Delta log", error),
                        Ok(_) => Error::Conflict { table: table.to_owned() },
                    });
                }
            }
        }
        let version = self.current.load().version;
        if version.is_multiple_of(CHECKPOINT_EVERY)
            && let Err(error) = checkpoint(writer).await
        {
            // The commit stands; the next checkpoint covers this one too.
            tracing::warn!(table = self.files.layout.name(), %error, "no checkpoint could be written");
        }
        Ok(())
    }
}

/// Writes a checkpoint of the current version and removes log entries that it and the retention make needless.
pub(crate) async fn checkpoint(writer: &Writer) -> Result<(), Error> {
    let mut table = DeltaTable::new(writer.log.clone());
    table.load().await?;
    deltalake::checkpoints::create_checkpoint(&table, None).await?;
    deltalake::checkpoints::cleanup_metadata(&table, None).await?;
    Ok(())
}

fn remove(layout: &Layout, file: &FileMeta, data_change: bool) -> Action {
    Action::Remove(Remove {
        path: file.path.to_string(),
        data_change,
        deletion_timestamp: Some(now_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(partition_values(layout, file)),
        size: Some(file.size as i64),
        ..Remove::default()
    })
}

/// The table's columns as Delta has them: the declared ones, then the partition's.
fn delta_schema(layout: &Layout) -> Result<StructType, Error> {
    let mut fields: Vec<Arc<Field>> = layout.schema.fields().iter().cloned().collect();
    if let Some(column) = layout.spec.partition.column() {
        fields.push(Arc::new(Field::new(column, ArrowType::Utf8, true)));
    }
    Ok((&Schema::new(fields)).try_into_kernel()?)
}

async fn create(layout: &Layout, log: LogStoreRef) -> Result<DeltaTable, Error> {
    let settings = [
        ("delta.logRetentionDuration", "interval 7 days"),
        ("delta.deletedFileRetentionDuration", "interval 7 days"),
        // Two columns are what our files have statistics for; asking other writers for more would only slow them.
        ("delta.dataSkippingNumIndexedCols", "2"),
    ];
    let fields: Vec<StructField> = delta_schema(layout)?.fields().cloned().collect();
    CreateBuilder::new()
        .with_log_store(log)
        .with_table_name(layout.name())
        .with_columns(fields)
        .with_partition_columns(layout.spec.partition.column())
        .with_configuration(settings.map(|(key, value)| (key, Some(value))))
        .await
        .map_err(|e| Error::writing(layout.name(), "the table could not be created", e))
}

/// Checks the declared columns against the table's and adds those that are new.
async fn evolve(layout: &Layout, log: &LogStoreRef, table: &mut DeltaTable) -> Result<(), Error> {
    let state = table.snapshot()?;
    let declared = delta_schema(layout)?;
    let partition: Vec<String> = layout.spec.partition.column().into_iter().map(str::to_owned).collect();
    let mismatch = |what: String| Error::invalid(format!("table '{}' exists with {what}", layout.name()));
    if *state.metadata().partition_columns() != *partition {
        return Err(mismatch("another partition".to_owned()));
    }
    let schema = state.schema();
    let is_partition = |f: &&StructField| !partition.contains(f.name());
    let mut wanted = declared.fields().filter(is_partition);
    for have in schema.fields().filter(is_partition) {
        match wanted.next() {
            Some(want) if want.name() == have.name() && want.data_type() == have.data_type() => {}
            _ => return Err(mismatch(format!("column '{}' of type {} in its place", have.name(), have.data_type()))),
        }
    }
    let new: Vec<StructField> = wanted.cloned().collect();
    if new.is_empty() {
        return Ok(());
    }
    if let Some(field) = new.iter().find(|f| !f.is_nullable()) {
        return Err(mismatch(format!("rows that lack column '{}'; a new column must be nullable", field.name())));
    }
    let all = StructType::try_new(schema.fields().cloned().chain(new.iter().cloned()))
        .map_err(|e| Error::store("the table's columns could not be combined", e))?;
    let metadata = state
        .metadata()
        .clone()
        .with_schema(&all)
        .map_err(|e| Error::store("the table's schema could not change", e))?;
    CommitBuilder::from(CommitProperties::default().with_max_retries(0).with_create_checkpoint(false))
        .with_actions(vec![Action::Metadata(metadata)])
        .build(Some(state), log.clone(), DeltaOperation::AddColumn { fields: new })
        .await?;
    table.update_state().await?;
    Ok(())
}

/// Reads the list of files out of the log's state.
async fn load(layout: &Layout, log: &LogStoreRef, state: &DeltaTableState) -> Result<Snapshot, Error> {
    let spec = &layout.spec;
    let mut files = Vec::new();
    for file in state.log_data().iter() {
        let stats: serde_json::Value =
            file.stats().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let bound = |which: &str, column: &str| stats.get(which).and_then(|values| values.get(column)).cloned();
        let series = |which| bound(which, spec.series).and_then(|v| v.as_i64());
        // After a checkpoint times may have been cut to milliseconds.
        let time = |which| -> Option<i64> {
            Some(bound(which, spec.time)?.as_str()?.parse::<kernel::Timestamp>().ok()?.as_micros())
        };
        let values: HashMap<String, Option<String>> = file.partition_values_map();
        files.push(Arc::new(FileMeta {
            path: file.object_store_path(),
            size: u64::try_from(file.size()).unwrap_or(0),
            rows: stats.get("numRecords").and_then(serde_json::Value::as_u64).unwrap_or(0),
            partition: spec.partition.column().and_then(|column| values.get(column).cloned().flatten()),
            series: (series("minValues").unwrap_or(i64::MIN), series("maxValues").unwrap_or(i64::MAX)),
            time: (
                time("minValues").unwrap_or(i64::MIN),
                time("maxValues").map_or(i64::MAX, |t| t.saturating_add(999)),
            ),
        }));
    }
    let sealed = state.transaction_version(log.as_ref(), APP_ID).await?;
    Ok(Snapshot { version: state.version(), sealed_through: sealed.and_then(|n| u64::try_from(n).ok()), files })
}
