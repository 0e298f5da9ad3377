//! The rows: what is declared and was, what is computed where, how far the stream has been followed, and what is still to be computed again.

use std::sync::Arc;

use kernel::{Caller, Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};
use serde::Serialize;

use super::model::{Declaration, Definition};
use crate::model::EntityId;

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "derived datastreams",
    sql: "CREATE TABLE sensing_derived (
            key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, source TEXT NOT NULL, body TEXT NOT NULL, version BIGINT NOT NULL,
            paused BIGINT NOT NULL, changed_at BIGINT NOT NULL, changed_by TEXT NOT NULL);
          CREATE TABLE sensing_derived_version (
            key TEXT NOT NULL, version BIGINT NOT NULL, at BIGINT NOT NULL, actor TEXT NOT NULL, body TEXT,
            PRIMARY KEY (key, version));
          CREATE TABLE sensing_derived_position (one BIGINT NOT NULL PRIMARY KEY, next_offset BIGINT NOT NULL);
          CREATE TABLE sensing_derived_output (
            datastream BIGINT NOT NULL PRIMARY KEY, definition TEXT NOT NULL, version BIGINT NOT NULL, done_through BIGINT);
          CREATE TABLE sensing_derived_sequence (one BIGINT NOT NULL PRIMARY KEY, last BIGINT NOT NULL);
          CREATE TABLE sensing_derived_work (
            id BIGINT NOT NULL PRIMARY KEY, datastream BIGINT NOT NULL, reason TEXT NOT NULL, first BIGINT NOT NULL, next BIGINT NOT NULL,
            last BIGINT NOT NULL, started_at BIGINT NOT NULL, written BIGINT NOT NULL);
          CREATE TABLE sensing_corrected (raw BIGINT NOT NULL PRIMARY KEY, corrected BIGINT NOT NULL, version BIGINT NOT NULL);
          CREATE UNIQUE INDEX sensing_corrected_back ON sensing_corrected (corrected);
          CREATE TABLE sensing_calibration (
            id BIGINT NOT NULL PRIMARY KEY, datastream BIGINT NOT NULL, begins BIGINT NOT NULL, ends BIGINT, method TEXT NOT NULL,
            reason TEXT NOT NULL, certificate TEXT, actor TEXT NOT NULL, at BIGINT NOT NULL,
            withdrawn_at BIGINT, withdrawn_by TEXT, withdrawn_reason TEXT);
          CREATE INDEX sensing_calibration_datastream ON sensing_calibration (datastream, id);
          CREATE TABLE sensing_correction (
            datastream BIGINT NOT NULL, observed_at BIGINT NOT NULL, feature BIGINT NOT NULL, version BIGINT NOT NULL,
            value DOUBLE PRECISION, quality TEXT, reason TEXT NOT NULL, actor TEXT NOT NULL, at BIGINT NOT NULL,
            PRIMARY KEY (datastream, observed_at, feature, version));",
}];

/// Who declared it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Pack,
    Api,
}

impl Source {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Api => "api",
        }
    }
}

/// A declaration as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub definition: Arc<Definition>,
    pub source: Source,
    /// From 1; every change makes the next.
    pub version: i64,
    /// Whether history waits; what comes is computed all the same.
    pub paused: bool,
    pub changed_at: Timestamp,
    pub changed_by: String,
}

const COLUMNS: &str = "body, source, version, paused, changed_at, changed_by, key";

fn stored(row: &Row<'_>) -> Result<Option<Stored>, records::Error> {
    let read = serde_json::from_str::<Declaration>(&row.get::<String>(0)?).map_err(|e| e.to_string());
    let definition = match read.and_then(|d| Definition::new(d).map_err(|p| p.to_string())) {
        Ok(definition) => Arc::new(definition),
        Err(error) => {
            let key: String = row.get(6)?;
            tracing::error!(key, error, "the stored declaration is not valid and is not computed");
            return Ok(None);
        }
    };
    let source = if row.get::<String>(1)? == Source::Pack.name() { Source::Pack } else { Source::Api };
    Ok(Some(Stored {
        definition,
        source,
        version: row.get(2)?,
        paused: row.get(3)?,
        changed_at: row.get(4)?,
        changed_by: row.get(5)?,
    }))
}

pub fn all(read: &mut Read<'_>) -> Result<Vec<Stored>, records::Error> {
    let rows = read.query(&format!("SELECT {COLUMNS} FROM sensing_derived ORDER BY key"), params![], stored)?;
    Ok(rows.into_iter().flatten().collect())
}

/// Writes a declaration if it differs from what is stored; the version that it made. The one before stays readable.
pub fn put(
    tx: &mut Tx<'_>,
    caller: &Caller,
    definition: &Definition,
    source: Source,
) -> Result<Option<i64>, records::Error> {
    let body = serde_json::to_string(definition.declaration()).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let before =
        tx.query_opt("SELECT body, source FROM sensing_derived WHERE key = $1", params![definition.key], |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?))
        })?;
    if before.is_some_and(|(known, by)| known == body && by == source.name()) {
        return Ok(None);
    }
    let version = next_version(tx, &definition.key)?;
    let (now, actor) = (tx.now(), caller.label());
    tx.execute(
        "INSERT INTO sensing_derived (key, tenant, source, body, version, paused, changed_at, changed_by)
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, source = excluded.source, body = excluded.body,
             version = excluded.version, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
        params![definition.key, definition.tenant, source.name(), body, version, now, actor],
    )?;
    tx.execute(
        "INSERT INTO sensing_derived_version (key, version, at, actor, body) VALUES ($1, $2, $3, $4, $5)",
        params![definition.key, version, now, actor, body],
    )?;
    Ok(Some(version))
}

/// Numbers go on where a declaration of the same key was taken away: a version is one text for ever.
fn next_version(read: &mut Read<'_>, key: &str) -> Result<i64, records::Error> {
    let sql = "SELECT MAX(version) FROM sensing_derived_version WHERE key = $1";
    Ok(read.query_one(sql, params![key], |row| row.get::<Option<i64>>(0))?.unwrap_or(0) + 1)
}

/// Takes a declaration away; its versions stay, and so does what was computed.
pub fn delete(tx: &mut Tx<'_>, caller: &Caller, key: &str) -> Result<(), records::Error> {
    let version = next_version(tx, key)?;
    let (now, actor) = (tx.now(), caller.label());
    tx.execute("DELETE FROM sensing_derived WHERE key = $1", params![key])?;
    tx.execute(
        "INSERT INTO sensing_derived_version (key, version, at, actor, body) VALUES ($1, $2, $3, $4, NULL)",
        params![key, version, now, actor],
    )?;
    Ok(())
}

pub fn pause(tx: &mut Tx<'_>, key: &str, paused: bool) -> Result<(), records::Error> {
    tx.execute("UPDATE sensing_derived SET paused = $2 WHERE key = $1", params![key, paused])?;
    Ok(())
}

/// One version of a declaration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    pub version: i64,
    pub at: Timestamp,
    pub by: String,
    /// `None` when it was taken away.
    pub declaration: Option<serde_json::Value>,
}

/// Versions that are shown.
const MOST_VERSIONS: i64 = 100;

/// Newest first.
pub fn versions(read: &mut Read<'_>, key: &str) -> Result<Vec<Version>, records::Error> {
    let sql =
        "SELECT version, at, actor, body FROM sensing_derived_version WHERE key = $1 ORDER BY version DESC LIMIT $2";
    read.query(sql, params![key, MOST_VERSIONS], |row| {
        let body: Option<String> = row.get(3)?;
        let declaration = body.and_then(|b| serde_json::from_str(&b).ok());
        Ok(Version { version: row.get(0)?, at: row.get(1)?, by: row.get(2)?, declaration })
    })
}

/// What an output is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub datastream: EntityId,
    pub definition: String,
    pub version: i64,
    /// Of an output at fixed intervals: the last one that was computed, in microseconds.
    pub done_through: Option<i64>,
}

pub fn outputs(read: &mut Read<'_>) -> Result<Vec<Output>, records::Error> {
    let sql = "SELECT datastream, definition, version, done_through FROM sensing_derived_output";
    read.query(sql, params![], |row| {
        Ok(Output {
            datastream: EntityId(row.get(0)?),
            definition: row.get(1)?,
            version: row.get(2)?,
            done_through: row.get(3)?,
        })
    })
}

/// The declaration and version that an output is at.
pub fn output(read: &mut Read<'_>, datastream: EntityId) -> Result<Option<(String, i64)>, records::Error> {
    let sql = "SELECT definition, version FROM sensing_derived_output WHERE datastream = $1";
    read.query_opt(sql, params![datastream.0], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub fn put_output(tx: &mut Tx<'_>, output: &Output) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_derived_output (datastream, definition, version, done_through) VALUES ($1, $2, $3, $4)
         ON CONFLICT (datastream) DO UPDATE SET definition = excluded.definition, version = excluded.version,
             done_through = excluded.done_through",
        params![output.datastream.0, output.definition, output.version, output.done_through],
    )?;
    Ok(())
}

/// An output is computed no more. The row stays: it says that what is in the Datastream was computed, and may be computed again.
pub fn end_output(tx: &mut Tx<'_>, datastream: EntityId) -> Result<(), records::Error> {
    let ended =
        "UPDATE sensing_derived_output SET definition = '', version = 0, done_through = NULL WHERE datastream = $1";
    tx.execute(ended, params![datastream.0])?;
    tx.execute("DELETE FROM sensing_derived_work WHERE datastream = $1", params![datastream.0])?;
    Ok(())
}

/// A span of an output that is to be computed, or computed again. Both ends inclusive, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub id: i64,
    pub datastream: EntityId,
    pub reason: String,
    pub first: i64,
    /// Everything before is done.
    pub next: i64,
    pub last: i64,
    pub started_at: Timestamp,
    /// Observations written or taken away.
    pub written: u64,
}

pub fn works(read: &mut Read<'_>) -> Result<Vec<Work>, records::Error> {
    let sql =
        "SELECT id, datastream, reason, first, next, last, started_at, written FROM sensing_derived_work ORDER BY id";
    read.query(sql, params![], |row| {
        Ok(Work {
            id: row.get(0)?,
            datastream: EntityId(row.get(1)?),
            reason: row.get(2)?,
            first: row.get(3)?,
            next: row.get(4)?,
            last: row.get(5)?,
            started_at: row.get(6)?,
            written: row.get(7)?,
        })
    })
}

/// Adds a span. What is added and has not been begun of the same output and reason is extended instead, so that rows stay few.
pub fn add_work(
    tx: &mut Tx<'_>,
    datastream: EntityId,
    reason: &str,
    first: i64,
    last: i64,
) -> Result<(), records::Error> {
    let waiting = tx.query_opt(
        "SELECT id, first, last FROM sensing_derived_work WHERE datastream = $1 AND reason = $2 AND next = first ORDER BY id LIMIT 1",
        params![datastream.0, reason],
        |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?)),
    )?;
    // Never one that was used before: whoever has done a work remembers its number until it is written down.
    let id: i64 = tx.query_one(
        "INSERT INTO sensing_derived_sequence (one, last) VALUES (1, 1)
         ON CONFLICT (one) DO UPDATE SET last = sensing_derived_sequence.last + 1 RETURNING last",
        params![],
        |row| row.get(0),
    )?;
    let (mut first, mut last) = (first, last);
    if let Some((waiting, from, to)) = waiting {
        (first, last) = (first.min(from), last.max(to));
        tx.execute("DELETE FROM sensing_derived_work WHERE id = $1", params![waiting])?;
    }
    // A row is never changed from outside: whoever is at work on it holds a copy.
    tx.execute(
        "INSERT INTO sensing_derived_work (id, datastream, reason, first, next, last, started_at, written)
         VALUES ($1, $2, $3, $4, $4, $5, $6, 0)",
        params![id, datastream.0, reason, first, last, tx.now()],
    )?;
    Ok(())
}

/// How far it has come; nothing when it was taken away meanwhile.
pub fn move_work(tx: &mut Tx<'_>, work: &Work) -> Result<(), records::Error> {
    let written = i64::try_from(work.written).unwrap_or(i64::MAX);
    tx.execute(
        "UPDATE sensing_derived_work SET first = $2, next = $3, written = $4 WHERE id = $1",
        params![work.id, work.first, work.next, written],
    )?;
    Ok(())
}

pub fn end_work(tx: &mut Tx<'_>, id: i64) -> Result<(), records::Error> {
    tx.execute("DELETE FROM sensing_derived_work WHERE id = $1", params![id])?;
    Ok(())
}

/// The offset from which the stream has to be read again after a restart.
pub fn position(read: &mut Read<'_>) -> Result<Option<u64>, records::Error> {
    read.query_opt("SELECT next_offset FROM sensing_derived_position WHERE one = 1", params![], |row| row.get(0))
}

pub fn put_position(tx: &mut Tx<'_>, next: u64) -> Result<(), records::Error> {
    let next = i64::try_from(next).unwrap_or(i64::MAX);
    tx.execute(
        "INSERT INTO sensing_derived_position (one, next_offset) VALUES (1, $1)
         ON CONFLICT (one) DO UPDATE SET next_offset = excluded.next_offset",
        params![next],
    )?;
    Ok(())
}

pub fn tenant_of(read: &mut Read<'_>, key: &str) -> Result<Option<(Tenant, String)>, records::Error> {
    read.query_opt("SELECT tenant, source FROM sensing_derived WHERE key = $1", params![key], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}
