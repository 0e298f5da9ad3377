//! One session, two engines. Everything above this module is written once.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::ops::ControlFlow;

use crate::{Error, Param, Row, Term};

/// What a failed statement means for its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Only the statement is wrong; a savepoint can undo it.
    Statement,
    /// The transaction lost against another one and must run again.
    Conflict,
    /// The transaction is gone: connection lost, or SQLite rolled all of it back.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub fate: Fate,
    pub error: Error,
}

impl Failure {
    pub fn statement(error: Error) -> Self {
        Self { fate: Fate::Statement, error }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Sees one snapshot, cannot write.
    Read,
    /// As if alone in the database.
    Write,
    /// Orders itself by row and table locks and sees every commit before each statement. PostgreSQL only; for the
    /// numbering of events and for migrations. On SQLite there is one writer, so this is `Write`.
    Locked,
}

/// What a savepoint belongs to: a command of a batch, or a part of a command ([`crate::Tx::attempt`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Command,
    Part,
}

pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Row<'_>) -> Result<ControlFlow<()>, Error>;

#[expect(clippy::large_enum_variant, reason = "a handful of sessions live as long as the program")]
pub(crate) enum Engine {
    Sqlite(sqlite::Connection),
    Postgres(postgres::Connection),
}

/// A connection and what has gone wrong in its open transaction.
pub(crate) struct Session {
    pub engine: Engine,
    pub failed: Option<Failure>,
}

macro_rules! dispatch {
    ($self:ident, $connection:ident => $call:expr) => {
        match &mut $self.engine {
            Engine::Sqlite($connection) => $call,
            Engine::Postgres($connection) => $call,
        }
    };
}

impl Session {
    pub fn new(engine: Engine) -> Self {
        Self { engine, failed: None }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    pub fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        self.begin_within(begin, None)
    }

    /// Begins a transaction that is refused unless `term` stands. To be rolled back when it is.
    pub fn begin_within(&mut self, begin: Begin, term: Option<&Term>) -> Result<(), Failure> {
        self.failed = None;
        dispatch!(self, c => c.begin(begin, term))
    }

    pub fn commit(&mut self) -> Result<(), Failure> {
        dispatch!(self, c => c.commit())
    }

    /// Never fails: what cannot be rolled back is a lost connection, which is rolled back by being lost.
    pub fn rollback(&mut self) {
        self.failed = None;
        dispatch!(self, c => c.rollback());
    }

    /// A savepoint's name says whose it is: undoing a command's must also undo the parts that it left open by panicking.
    pub fn savepoint(&mut self, level: Level) -> Result<(), Failure> {
        self.control(match level {
            Level::Command => "SAVEPOINT command",
            Level::Part => "SAVEPOINT part",
        })
    }

    pub fn release(&mut self, level: Level) -> Result<(), Failure> {
        self.control(match level {
            Level::Command => "RELEASE SAVEPOINT command",
            Level::Part => "RELEASE SAVEPOINT part",
        })
    }

    pub fn undo(&mut self, level: Level) -> Result<(), Failure> {
        self.control(match level {
            Level::Command => "ROLLBACK TO SAVEPOINT command",
            Level::Part => "ROLLBACK TO SAVEPOINT part",
        })?;
        self.release(level)?;
        self.failed = None;
        Ok(())
    }

    fn control(&mut self, sql: &'static str) -> Result<(), Failure> {
        let result = dispatch!(self, c => c.control(sql));
        result.inspect_err(|failure| self.failed = Some(failure.clone()))
    }

    /// Several statements without parameters, as migrations are.
    pub fn script(&mut self, sql: &str) -> Result<(), Error> {
        self.guard(|session| dispatch!(session, c => c.script(sql)))
    }

    pub fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        check_statement(sql, params)?;
        self.guard(|session| dispatch!(session, c => c.execute(sql, params)))
    }

    pub fn for_each(&mut self, sql: &str, params: &[Param<'_>], visit: Visit<'_>) -> Result<(), Error> {
        check_statement(sql, params)?;
        self.guard(|session| dispatch!(session, c => c.for_each(sql, params, visit)))
    }

    /// Both engines answer a statement after a failed one alike: not at all. (SQLite would go on, PostgreSQL would not.)
    fn guard<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Error> {
        if let Some(failure) = &self.failed {
            return Err(Error::Failed(failure.error.to_string()));
        }
        run(self).map_err(|failure| {
            self.failed = Some(failure.clone());
            failure.error
        })
    }
}

fn check_statement(sql: &str, params: &[Param<'_>]) -> Result<(), Error> {
    if sql.len() > crate::MAX_SQL_BYTES {
        let (size, most) = (sql.len(), crate::MAX_SQL_BYTES);
        return Err(Error::Statement(format!("{size} bytes of SQL; at most {most} are accepted")));
    }
    if params.len() > crate::MAX_PARAMS {
        let (count, most) = (params.len(), crate::MAX_PARAMS);
        return Err(Error::Statement(format!("{count} parameters; at most {most} are accepted")));
    }
    params.iter().try_for_each(Param::check)
}
