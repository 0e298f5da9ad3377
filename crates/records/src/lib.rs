//! Everything that is decided: transactions over rows, with audit, events and jobs written in the same breath.
//!
//! One API and one SQL text on two engines: SQLite in one file (the default; one writer with group commit) and PostgreSQL
//! (several writers, serializable). Every test of this room runs on both.
//!
//! ```no_run
//! # use std::sync::Arc;
//! use records::{Error, Migration, Options, Records, params};
//!
//! # async fn example() -> Result<(), Error> {
//! let records = Records::open(&Options::sqlite("city.db"), Arc::new(kernel::SystemClock))?;
//! records.migrate("lamps", &[Migration {
//!     version: 1,
//!     name: "lamps",
//!     sql: "CREATE TABLE lamps_lamp (id TEXT PRIMARY KEY, watts BIGINT NOT NULL)",
//! }])?;
//! records.write(|tx| {
//!     tx.execute("INSERT INTO lamps_lamp (id, watts) VALUES ($1, $2)", params!["L1", 60_i64])?;
//!     Ok::<_, Error>(())
//! }).await?;
//! let watts: i64 = records.read(|read| {
//!     read.query_one("SELECT watts FROM lamps_lamp WHERE id = $1", params!["L1"], |row| row.get(0))
//! }).await?;
//! # Ok(()) }
//! ```
//!
//! # A command
//!
//! [`Records::write`] takes a function over [`Tx`]. Many such functions share one flush of the disk; each runs in a savepoint
//! of its own, so one that fails or panics is undone alone. The answer comes after the commit is durable. Therefore
//! - a command has **no side effects**: on PostgreSQL it runs again after a serialization failure;
//! - it is short and does no I/O of its own: on SQLite every other write waits for it;
//! - after a statement has failed, the transaction answers nothing more ([`Error::Failed`]) and is undone, on both engines.
//!   Write `ON CONFLICT`, or [`Tx::attempt`] where a failure is expected;
//! - a command whose caller has gone before it began is not run.
//!
//! # Portable SQL
//!
//! - Placeholders are `$1`, `$2`, …, each given once in [`params!`] and used at least once in the text.
//! - Column types are `BIGINT` (integers, times in microseconds, money in minor units, 0 or 1), `TEXT` (also ids and JSON),
//!   `DOUBLE PRECISION`, `BYTES`, and `IDENTITY`: a BIGINT primary key that the database numbers. Nothing else is accepted in
//!   migrations. Tables are STRICT on SQLite, so both engines refuse a value of the wrong type; TEXT compares by code point
//!   on both (`COLLATE "C"`), so pages by key agree.
//! - The type of a parameter is that of the Rust value. No booleans: `WHERE open = 1`.
//! - `ON CONFLICT … DO UPDATE`, `RETURNING` (read it with `query…`), window functions and CTEs work on both. `LIKE` is
//!   sensitive to case. `SUM` and `AVG` of BIGINT need `CAST(SUM(x) AS BIGINT)`. No `SELECT *`, no JSON functions, no
//!   locking clauses.
//! - NaN and text with NUL are refused, because one engine could not keep them.
//!
//! # Events
//!
//! [`Tx::emit`] writes an event that exists if and only if the transaction does; [`Outbox`] hands events out in one order,
//! each at least once. See there for how nothing is skipped on PostgreSQL.

mod audit;
mod backlog;
mod backup;

mod command;
mod engine;
mod error;
mod jobs;
mod lease;
mod migrate;
mod options;
mod outbox;
mod readers;
mod row;
mod stats;
mod tx;
mod value;
mod writer;

use std::sync::{Arc, OnceLock};

use kernel::{Clock, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

pub use audit::{AuditPage, AuditQuery, AuditRow};
pub use backlog::{Backlog, Queue};
pub use backup::{BackupReport, must_be_empty, restore};
pub use error::Error;
pub use jobs::{DeadJob, Job, JobFailure, Jobs, NewJob, RetryPolicy};
pub use lease::{Holder, Look, Patience, Term};
pub use migrate::Migration;
pub use options::{EngineOptions, Options};
pub use outbox::{Emitted, Event, Outbox};
pub use row::Row;
pub use stats::Stats;
pub use tx::{Read, Tx};
pub use value::{ColumnKind, FromValue, Param, ToParam, ValueRef};

use command::{Message, Typed};
use engine::{Begin, Engine, Session};

/// Bytes of one statement.
pub const MAX_SQL_BYTES: usize = 64 << 10;
/// Parameters of one statement. (SQLite allows 32,766, PostgreSQL 65,535.)
pub const MAX_PARAMS: usize = 4_096;
/// Bytes of one value. What is larger belongs into a file.
pub const MAX_VALUE_BYTES: usize = 16 << 20;
/// Rows that `query` collects; `for_each` has no limit.
pub const MAX_ROWS: usize = 100_000;
/// Times that a command is run on PostgreSQL before [`Error::Contention`].
pub const MAX_TRIES: u32 = 40;
/// Prepared statements kept by each connection.
pub(crate) const STATEMENTS: usize = 512;

/// The handle. Cheap to clone; the last clone to go ends the writers after what is queued.
#[derive(Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

struct Inner {
    sender: mpsc::Sender<Message>,
    readers: readers::Readers,
    shared: Arc<Shared>,
    writers: Mutex<Vec<std::thread::JoinHandle<()>>>,
    postgres: bool,
}

/// What writers, readers and the handle have in common.
pub(crate) struct Shared {
    pub clock: Arc<dyn Clock>,
    pub counters: stats::Counters,
    /// Counts commits that emitted events; waiting consumers watch it change.
    pub events: watch::Sender<u64>,
    /// The same for jobs.
    pub jobs: watch::Sender<u64>,
    /// Set when only one program may write; see [`Records::fence`].
    pub fence: OnceLock<Term>,
}

impl Records {
    /// Opens or creates the database and brings this room's own tables up to date. Blocks; may be called anywhere.
    pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        options.validate()?;
        let shared = Arc::new(Shared {
            clock,
            counters: stats::Counters::default(),
            events: watch::Sender::new(0),
            jobs: watch::Sender::new(0),
            fence: OnceLock::new(),
        });
        let (sender, receiver) = mpsc::channel(options.queue);
        // The PostgreSQL client drives a runtime of its own, which must not start on a thread that already has one.
        let (readers, writers) = off_runtime(|| {
            let mut first = options.session(true)?;
            migrate::bootstrap(&mut first, shared.clock.now())?;
            let readers = readers::Readers::open(options, Arc::clone(&shared))?;
            let writers = writer::start(options, first, receiver, &shared)?;
            Ok::<_, Error>((readers, writers))
        })?;
        let postgres = matches!(options.engine, EngineOptions::Postgres { .. });
        Ok(Self { inner: Arc::new(Inner { sender, readers, shared, writers: Mutex::new(writers), postgres }) })
    }

    /// Applies what is new in `migrations` to the tables of `room`, all of it or nothing. Refuses a database that has seen a
    /// later or a different history. Blocks; may be called anywhere.
    pub fn migrate(&self, room: &'static str, migrations: &[Migration]) -> Result<(), Error> {
        migrate::validate(room, migrations)?;
        let migrations = migrations.to_vec();
        off_runtime(|| self.submit_blocking(Begin::Locked, move |tx| migrate::apply(tx, room, &migrations)))
    }

    /// Runs a command and answers after its commit is durable. See the crate's text for what a command may do.
    ///
    /// Waits while the queue is full. Dropping the future before the command began leaves it undone; later it is too late.
    pub async fn write<T, E>(&self, command: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.submit(Begin::Write, command).await
    }

    pub(crate) async fn submit<T, E>(
        &self,
        begin: Begin,
        command: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let message = Message::Command(Box::new(Typed::new(begin, command, reply)));
        self.inner.sender.send(message).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// [`Records::write`] for threads; not to be called on a thread that drives async tasks.
    pub fn write_blocking<T, E>(
        &self,
        command: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.submit_blocking(Begin::Write, command)
    }

    fn submit_blocking<T, E>(
        &self,
        begin: Begin,
        command: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        futures::executor::block_on(self.submit(begin, command))
    }

    /// Runs a query over one snapshot on a reading connection, beside the writers. Waits while all readers are busy.
    /// What a `write` has answered before is seen.
    pub async fn read<T, E>(&self, query: impl FnOnce(&mut Read<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let permit = self.inner.readers.permit().await?;
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            let result = inner.readers.run(query);
            drop(permit);
            result
        });
        // Panics are caught inside; a join error means that the runtime is going down.
        task.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// [`Records::read`] for threads and for what begins. Blocks; may be called anywhere.
    pub fn read_blocking<T, E>(&self, query: impl FnOnce(&mut Read<'_>) -> Result<T, E> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<Error> + Send,
    {
        off_runtime(|| {
            let _permit = futures::executor::block_on(self.inner.readers.permit())?;
            self.inner.readers.run(query)
        })
    }

    /// Lets the queue run empty, commits, and ends the writers. Later writes answer [`Error::Closed`].
    pub async fn close(&self) {
        if self.inner.sender.send(Message::Close).await.is_err() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let ended = tokio::task::spawn_blocking(move || {
            let writers = std::mem::take(&mut *inner.writers.lock());
            writers.into_iter().map(std::thread::JoinHandle::join).filter(Result::is_err).count()
        });
        if ended.await.unwrap_or(1) > 0 {
            tracing::error!("a writer of the records ended with a panic");
        }
    }

    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.clone())
    }

    pub fn jobs(&self) -> Jobs {
        Jobs::new(self.clone())
    }

    /// Counters since the start, and the present depth of the queue.
    pub fn stats(&self) -> Stats {
        let sender = &self.inner.sender;
        self.inner.shared.counters.read(sender.max_capacity() - sender.capacity())
    }

    pub fn now(&self) -> Timestamp {
        self.inner.shared.clock.now()
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.inner.postgres
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }
}

impl Options {
    pub(crate) fn session(&self, write: bool) -> Result<Session, Error> {
        Ok(Session::new(match &self.engine {
            EngineOptions::Sqlite { path } => Engine::Sqlite(engine::sqlite::Connection::open(path, write)?),
            EngineOptions::Postgres { url } => Engine::Postgres(engine::postgres::Connection::new(url)?),
        }))
    }
}

/// Runs on a thread that no async runtime has marked as its own, and waits for it.
pub(crate) fn off_runtime<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
