//! SQLite: one file in WAL mode, one writing connection, several reading ones.

use std::{fs::OpenOptions, path::Path, time::Duration};

use rusqlite::{ErrorCode, ffi, types::ToSqlOutput};

use super::{Begin, Failure, Fate, Visit};
use crate::{Error, Param, Row, Term};

pub(crate) struct Connection {
    inner: rusqlite::Connection,
}

/// Long enough for another program (a shell, a backup tool) to finish its write, short enough for a person to wait.
const BUSY: Duration = Duration::from_secs(5);

impl Connection {
    pub fn open(path: &Path, write: bool) -> Result<Self, Error> {
        let open = || -> rusqlite::Result<rusqlite::Connection> {
            let connection = rusqlite::Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.set_prepared_statement_cache_capacity(crate::STATEMENTS);
            // FULL: a commit is on the disk before it is answered, also when the power fails.
            connection.execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
                 PRAGMA case_sensitive_like = ON; PRAGMA trusted_schema = OFF; PRAGMA journal_size_limit = 67108864;",
            )?;
            if write {
                connection.execute_batch("PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 4000;")?;
            } else {
                connection.execute_batch("PRAGMA cache_size = -8192; PRAGMA query_only = ON;")?;
            }
            Ok(connection)
        };
        if write {
            create_private(path)?;
        }
        let inner = open().map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
        if write {
            let mode: String = inner
                .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
                .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
            if mode != "wal" {
                let path = path.display();
                return Err(Error::Invalid(format!("{path}: this file system does not support SQLite's WAL mode")));
            }
        }
        Ok(Self { inner })
    }

    /// Whether a transaction is still open. SQLite ends it by itself on some errors (full disk, I/O).
    pub fn in_transaction(&self) -> bool {
        !self.inner.is_autocommit()
    }

    pub fn begin(&mut self, begin: Begin, term: Option<&Term>) -> Result<(), Failure> {
        self.control(match begin {
            Begin::Read => "BEGIN DEFERRED",
            Begin::Write | Begin::Locked => "BEGIN IMMEDIATE",
        })?;
        let Some(term) = term else { return Ok(()) };
        let standing = self
            .inner
            .prepare_cached("SELECT term FROM records_lease WHERE name = ?1")
            .and_then(|mut statement| statement.query_row([term.name], |row| row.get::<_, i64>(0)));
        match standing {
            Ok(number) if number == term.number => Ok(()),
            Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => Err(Failure::statement(Error::Fenced)),
            Err(error) => Err(self.failure(error)),
        }
    }

    pub fn commit(&mut self) -> Result<(), Failure> {
        self.control("COMMIT")
    }

    pub fn rollback(&mut self) {
        if self.in_transaction()
            && let Err(failure) = self.control("ROLLBACK")
        {
            tracing::error!(error = %failure.error, "rollback failed");
        }
    }

    pub fn control(&mut self, sql: &'static str) -> Result<(), Failure> {
        let result = self.inner.prepare_cached(sql).and_then(|mut statement| statement.raw_execute());
        result.map(drop).map_err(|error| self.failure(error))
    }

    pub fn script(&mut self, sql: &str) -> Result<(), Failure> {
        self.inner.execute_batch(sql).map_err(|error| self.failure(error))
    }

    pub fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failure> {
        let mut statement = self.inner.prepare_cached(sql).map_err(|error| self.failure(error))?;
        bind(&mut statement, params).map_err(|error| self.failure(error))?;
        let count = statement.raw_execute().map_err(|error| self.failure(error))?;
        Ok(count as u64)
    }

    pub fn for_each(&mut self, sql: &str, params: &[Param<'_>], visit: Visit<'_>) -> Result<(), Failure> {
        let mut statement = self.inner.prepare_cached(sql).map_err(|error| self.failure(error))?;
        bind(&mut statement, params).map_err(|error| self.failure(error))?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| self.failure(error))? {
            if visit(&Row::sqlite(row)).map_err(Failure::statement)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn failure(&self, error: rusqlite::Error) -> Failure {
        // A transaction that SQLite has ended takes every command of the batch with it.
        let fate = if self.inner.is_autocommit() { Fate::Lost } else { Fate::Statement };
        Failure { fate, error: explain(error) }
    }
}

/// SQLite numbers `$2` by where it first stands, not by its name; so bind by name, as PostgreSQL reads it.
fn bind(statement: &mut rusqlite::Statement<'_>, params: &[Param<'_>]) -> rusqlite::Result<()> {
    let count = statement.parameter_count();
    if count != params.len() {
        return Err(rusqlite::Error::InvalidParameterCount(params.len(), count));
    }
    for index in 1..=count {
        let name = statement.parameter_name(index).unwrap_or("?");
        let param = name
            .strip_prefix('$')
            .and_then(|number| number.parse::<usize>().ok())
            .and_then(|number| params.get(number.wrapping_sub(1)));
        let Some(param) = param else {
            return Err(rusqlite::Error::InvalidParameterName(name.to_owned()));
        };
        statement.raw_bind_parameter(index, param)?;
    }
    Ok(())
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        use rusqlite::types::{Value, ValueRef};
        Ok(match self {
            Param::Null(_) => ToSqlOutput::Owned(Value::Null),
            Param::Integer(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            Param::Real(value) => ToSqlOutput::Owned(Value::Real(*value)),
            Param::Text(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
            Param::Bytes(value) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
        })
    }
}

fn explain(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(code, message) = &error else {
        return Error::Statement(error.to_string());
    };
    let text = message.clone().unwrap_or_else(|| code.to_string());
    match code.code {
        ErrorCode::ConstraintViolation => match code.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
                Error::Unique(text)
            }
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Error::Reference(text),
            _ => Error::Check(text),
        },
        ErrorCode::TypeMismatch => Error::Check(text),
        ErrorCode::DiskFull => Error::Unavailable("the disk is full; free space and try again".to_owned()),
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::OutOfMemory
        | ErrorCode::PermissionDenied
        | ErrorCode::FileLockingProtocolFailed => Error::Unavailable(text),
        ErrorCode::TooBig => Error::Invalid(text),
        _ => Error::Statement(text),
    }
}

/// Accounts and cases lie in this file: only the program's own user may read it. SQLite gives -wal and -shm the same mode.
fn create_private(path: &Path) -> Result<(), Error> {
    let unavailable = |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unavailable)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(unavailable)
}
