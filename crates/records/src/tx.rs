//! What a command or a query holds in its hands.

use std::ops::{ControlFlow, Deref, DerefMut};

use kernel::Timestamp;

use crate::{
    Error, MAX_ROWS, Param, Row,
    engine::{Failure, Fate, Level, Session},
};

/// One snapshot of the database.
pub struct Read<'a> {
    session: &'a mut Session,
    now: Timestamp,
}

impl<'a> Read<'a> {
    pub(crate) fn new(session: &'a mut Session, now: Timestamp) -> Self {
        Self { session, now }
    }

    /// The time at which this run began; the same throughout.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// All rows, at most [`MAX_ROWS`].
    pub fn query<T>(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        self.for_each(sql, params, |row| {
            if rows.len() == MAX_ROWS {
                return Err(Error::TooManyRows(MAX_ROWS));
            }
            rows.push(read(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// The only row, or none. [`Error::TooManyRows`] when there are two.
    pub fn query_opt<T>(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut only = None;
        self.for_each(sql, params, |row| {
            if only.is_some() {
                return Err(Error::TooManyRows(1));
            }
            only = Some(read(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(only)
    }

    /// The only row. [`Error::NoRow`] when there is none.
    pub fn query_one<T>(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.query_opt(sql, params, read)?.ok_or(Error::NoRow)
    }

    /// Row by row as the database delivers them, until `Break`. Memory does not grow with the number of rows.
    pub fn for_each(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        self.session.for_each(sql, params, &mut visit)
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        self.session
    }
}

/// A transaction: a [`Read`] that can write.
pub struct Tx<'a> {
    read: Read<'a>,
    pub(crate) effects: Effects,
}

/// Who must be woken once the transaction is durable.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Effects {
    pub events: bool,
    pub jobs: bool,
}

impl Effects {
    pub fn merge(&mut self, other: Self) {
        self.events |= other.events;
        self.jobs |= other.jobs;
    }
}

impl<'a> Tx<'a> {
    pub(crate) fn new(session: &'a mut Session, now: Timestamp) -> Self {
        Self { read: Read::new(session, now), effects: Effects::default() }
    }

    /// Runs a statement and says how many rows it changed. For RETURNING use a `query…`.
    pub fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.read.session.execute(sql, params)
    }

    /// A part that may fail without taking the rest with it: a savepoint inside the command's own. Costs two more round trips
    /// on PostgreSQL; prefer `ON CONFLICT` where it can say the same.
    pub fn attempt<T, E: From<Error>>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        if let Some(failure) = self.failed() {
            return Err(Error::Failed(failure.error.to_string()).into());
        }
        self.read.session.savepoint(Level::Part).map_err(|failure| failure.error)?;
        let before = self.effects;
        let result = part(self);
        let result = match (result, self.failed()) {
            (Ok(_), Some(failure)) => Err(Error::Failed(failure.error.to_string()).into()),
            (result, _) => result,
        };
        let session = &mut *self.read.session;
        if result.is_ok() {
            session.release(Level::Part).map_err(|failure| failure.error)?;
        } else if session.failed.as_ref().is_none_or(|failure| failure.fate == Fate::Statement) {
            // A lost transaction or a serialization failure is not a part's own affair and stays failed.
            session.undo(Level::Part).map_err(|failure| failure.error)?;
            self.effects = before;
        }
        result
    }

    pub(crate) fn failed(&self) -> Option<&Failure> {
        self.read.session.failed.as_ref()
    }
}

impl<'a> Deref for Tx<'a> {
    type Target = Read<'a>;
    fn deref(&self) -> &Self::Target {
        &self.read
    }
}
impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.read
    }
}
