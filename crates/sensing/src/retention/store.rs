//! The rows: what was declared and confirmed, which Datastream is under which declaration, holds, runs, and what is done.

use kernel::{Id, Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Hold, Report, Run, RunKind, RunState, model::Declaration};
use crate::model::EntityId;

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "retention",
    sql: "CREATE TABLE sensing_retention (
            key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, body TEXT NOT NULL, declared BIGINT NOT NULL, confirmed TEXT,
            confirmed_through BIGINT NOT NULL, confirmed_by TEXT, confirmed_at BIGINT);
          CREATE TABLE sensing_retention_datastream (
            datastream BIGINT NOT NULL PRIMARY KEY, declaration TEXT NOT NULL, since BIGINT NOT NULL, free BIGINT NOT NULL, borders TEXT);
          CREATE INDEX sensing_retention_waiting ON sensing_retention_datastream (declaration, free, since);
          CREATE TABLE sensing_retention_run (
            id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, declaration TEXT NOT NULL, tenant TEXT NOT NULL, state TEXT NOT NULL,
            body TEXT NOT NULL, asked_by TEXT NOT NULL, asked_at BIGINT NOT NULL, began_at BIGINT, ended_at BIGINT, report TEXT);
          CREATE INDEX sensing_retention_run_of ON sensing_retention_run (declaration, id);
          CREATE INDEX sensing_retention_run_state ON sensing_retention_run (kind, state);
          CREATE TABLE sensing_retention_done (part TEXT NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL);
          CREATE TABLE sensing_retention_clock (one BIGINT NOT NULL PRIMARY KEY, at BIGINT NOT NULL);",
}];

/// Datastreams are counted up to here: a page is not to read a million rows for a number.
pub const COUNTED: i64 = 100_000;
/// Runs of a declaration that are kept.
const RUNS_KEPT: i64 = 50;

fn json<T: DeserializeOwned>(text: &str) -> Result<T, records::Error> {
    serde_json::from_str(text).map_err(|e| records::Error::Statement(format!("what is kept of retention: {e}")))
}
fn text<T: Serialize>(value: &T) -> Result<String, records::Error> {
    serde_json::to_string(value).map_err(|e| records::Error::Invalid(e.to_string()))
}

/// A declaration with what has become of it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub declaration: Declaration,
    /// Whether the pack still has it. What was confirmed of one that is gone from the pack is no longer applied.
    pub declared: bool,
    /// What an officer has confirmed; this is what is applied.
    pub confirmed: Option<Declaration>,
    /// Datastreams that were under it by then are confirmed with it.
    pub confirmed_through: Timestamp,
    pub confirmed_by: Option<String>,
    pub confirmed_at: Option<Timestamp>,
}

const COLUMNS: &str = "body, declared, confirmed, confirmed_through, confirmed_by, confirmed_at";

fn stored(row: &Row<'_>) -> Result<Stored, records::Error> {
    Ok(Stored {
        declaration: json(&row.get::<String>(0)?)?,
        declared: row.get::<i64>(1)? != 0,
        confirmed: row.get::<Option<String>>(2)?.as_deref().map(json).transpose()?,
        confirmed_through: row.get(3)?,
        confirmed_by: row.get(4)?,
        confirmed_at: row.get(5)?,
    })
}

pub fn all(read: &mut Read<'_>) -> Result<Vec<Stored>, records::Error> {
    read.query(&format!("SELECT {COLUMNS} FROM sensing_retention ORDER BY tenant, key"), params![], stored)
}

pub fn one(read: &mut Read<'_>, key: &str) -> Result<Option<Stored>, records::Error> {
    read.query_opt(&format!("SELECT {COLUMNS} FROM sensing_retention WHERE key = $1"), params![key], stored)
}

pub fn put(tx: &mut Tx<'_>, s: &Stored) -> Result<(), records::Error> {
    let d = &s.declaration;
    let confirmed = s.confirmed.as_ref().map(text).transpose()?;
    tx.execute(
        "INSERT INTO sensing_retention (key, tenant, body, declared, confirmed, confirmed_through, confirmed_by, confirmed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, body = excluded.body, declared = excluded.declared,
           confirmed = excluded.confirmed, confirmed_through = excluded.confirmed_through,
           confirmed_by = excluded.confirmed_by, confirmed_at = excluded.confirmed_at",
        params![
            d.key,
            d.tenant,
            text(d)?,
            i64::from(s.declared),
            confirmed,
            s.confirmed_through,
            s.confirmed_by,
            s.confirmed_at
        ],
    )?;
    Ok(())
}

/// What decides which declaration a Datastream is under.
#[derive(Clone, Debug)]
pub struct Stream {
    pub id: EntityId,
    pub tenant: Tenant,
    pub thing: EntityId,
    pub system: Option<String>,
    /// `properties.retention`.
    pub named: Option<String>,
    /// What is known of it so far: its declaration, since when, and whether it had nothing to lose then.
    pub known: Option<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub declaration: String,
    pub since: Timestamp,
    pub free: bool,
}

/// The tables of [`streams`].
pub const TABLES: [&str; 2] = ["sensing_datastream", "sensing_multi_datastream"];

/// Datastreams of one of [`TABLES`] by id from `after` (exclusive) on.
pub fn streams(read: &mut Read<'_>, table: &str, after: i64, limit: usize) -> Result<Vec<Stream>, records::Error> {
    let sql = format!(
        "SELECT d.id, d.tenant, d.thing_id, t.system, d.properties, r.declaration, r.since, r.free
         FROM {table} d JOIN sensing_thing t ON t.id = d.thing_id
         LEFT JOIN sensing_retention_datastream r ON r.datastream = d.id
         WHERE d.id > $1 ORDER BY d.id LIMIT $2"
    );
    read.query(&sql, params![after, i64::try_from(limit).unwrap_or(i64::MAX)], stream)
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    retention: Option<serde_json::Value>,
}

fn stream(row: &Row<'_>) -> Result<Stream, records::Error> {
    let properties: Option<String> = row.get(4)?;
    // What cannot be read may say `forever`.
    let named = match properties.as_deref().map(serde_json::from_str::<Option<Named>>) {
        None | Some(Ok(None)) => None,
        Some(Ok(Some(named))) => named.retention,
        Some(Err(_)) => Some(serde_json::Value::Null),
    };
    let declaration: Option<String> = row.get(5)?;
    let since: Option<Timestamp> = row.get(6)?;
    let free: Option<i64> = row.get(7)?;
    let known = declaration.zip(since).zip(free);
    Ok(Stream {
        id: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        thing: EntityId(row.get(2)?),
        system: row.get::<Option<String>>(3)?.filter(|s| !s.is_empty()),
        // What is no text is a name that is none, and keeps everything.
        named: named.map(|n| n.as_str().map_or_else(|| "forever".to_owned(), str::to_owned)),
        known: known.map(|((declaration, since), free)| Known { declaration, since, free: free != 0 }),
    })
}

pub fn assign(tx: &mut Tx<'_>, id: EntityId, known: Option<&Known>) -> Result<(), records::Error> {
    match known {
        Some(known) => tx.execute(
            "INSERT INTO sensing_retention_datastream (datastream, declaration, since, free) VALUES ($1, $2, $3, $4)
             ON CONFLICT (datastream) DO UPDATE SET declaration = excluded.declaration, since = excluded.since, free = excluded.free",
            params![id.0, known.declaration, known.since, i64::from(known.free)],
        )?,
        None => tx.execute("DELETE FROM sensing_retention_datastream WHERE datastream = $1", params![id.0])?,
    };
    Ok(())
}

/// Datastreams under a declaration, and those of them that wait for its confirmation.
pub fn counts(read: &mut Read<'_>, key: &str, through: Timestamp) -> Result<(u64, u64), records::Error> {
    let count = |row: &Row<'_>| row.get::<i64>(0);
    let of = |also: &str, most: &str| {
        format!(
            "SELECT COUNT(*) FROM (
               SELECT datastream FROM sensing_retention_datastream WHERE declaration = $1{also} LIMIT {most}) counted"
        )
    };
    let all = read.query_one(&of("", "$2"), params![key, COUNTED], count)?;
    let waiting = of(" AND free = 0 AND since > $2", "$3");
    let waiting = read.query_one(&waiting, params![key, through, COUNTED], count)?;
    Ok((u64::try_from(all).unwrap_or(0), u64::try_from(waiting).unwrap_or(0)))
}

/// Up to when what has been summed up in a Datastream, as JSON.
pub fn borders(read: &mut Read<'_>, id: EntityId) -> Result<Option<String>, records::Error> {
    let sql = "SELECT borders FROM sensing_retention_datastream WHERE datastream = $1";
    Ok(read.query_opt(sql, params![id.0], |row| row.get::<Option<String>>(0))?.flatten())
}

pub fn set_borders(tx: &mut Tx<'_>, id: i64, borders: &str) -> Result<(), records::Error> {
    let sql = "UPDATE sensing_retention_datastream SET borders = $2 WHERE datastream = $1";
    tx.execute(sql, params![id, borders])?;
    Ok(())
}

const HOLD: &str = "id, tenant, thing, datastream, reason, made_by, made_at, lifted_by, lifted_at, lifted_reason";

fn hold(row: &Row<'_>) -> Result<Hold, records::Error> {
    Ok(Hold {
        id: row.get(0)?,
        tenant: row.get(1)?,
        thing: row.get::<Option<i64>>(2)?.map(EntityId),
        datastream: row.get::<Option<i64>>(3)?.map(EntityId),
        reason: row.get(4)?,
        made_by: row.get(5)?,
        made_at: row.get(6)?,
        lifted_by: row.get(7)?,
        lifted_at: row.get(8)?,
        lifted_reason: row.get(9)?,
    })
}

/// All that stand.
pub fn standing(read: &mut Read<'_>) -> Result<Vec<Hold>, records::Error> {
    let sql = format!("SELECT {HOLD} FROM sensing_retention_hold WHERE lifted_at IS NULL ORDER BY id");
    read.query(&sql, params![], hold)
}

/// A department's, those that stand first, then the newest.
pub fn holds(read: &mut Read<'_>, tenant: &Tenant, limit: i64) -> Result<Vec<Hold>, records::Error> {
    let sql = format!(
        "SELECT {HOLD} FROM sensing_retention_hold WHERE tenant = $1
         ORDER BY CASE WHEN lifted_at IS NULL THEN 0 ELSE 1 END, id DESC LIMIT $2"
    );
    read.query(&sql, params![tenant, limit], hold)
}

pub fn hold_of(read: &mut Read<'_>, id: Id<Hold>) -> Result<Option<Hold>, records::Error> {
    read.query_opt(&format!("SELECT {HOLD} FROM sensing_retention_hold WHERE id = $1"), params![id], hold)
}

pub fn put_hold(tx: &mut Tx<'_>, h: &Hold) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_retention_hold (id, tenant, thing, datastream, reason, made_by, made_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![h.id, h.tenant, h.thing.map(|t| t.0), h.datastream.map(|d| d.0), h.reason, h.made_by, h.made_at],
    )?;
    Ok(())
}

/// `false` when it was lifted already.
pub fn lift(tx: &mut Tx<'_>, id: Id<Hold>, by: &str, reason: &str) -> Result<bool, records::Error> {
    let now = tx.now();
    let sql = "UPDATE sensing_retention_hold SET lifted_by = $2, lifted_at = $3, lifted_reason = $4
               WHERE id = $1 AND lifted_at IS NULL";
    Ok(tx.execute(sql, params![id, by, now, reason])? > 0)
}

const RUN: &str = "id, kind, declaration, tenant, state, body, asked_by, asked_at, began_at, ended_at, report";

fn run(row: &Row<'_>) -> Result<Run, records::Error> {
    Ok(Run {
        id: row.get(0)?,
        kind: if row.get::<String>(1)? == "preview" { RunKind::Preview } else { RunKind::Applied },
        declaration: row.get(2)?,
        tenant: row.get(3)?,
        state: RunState::from_name(&row.get::<String>(4)?),
        body: row.get(5)?,
        asked_by: row.get(6)?,
        asked_at: row.get(7)?,
        began_at: row.get(8)?,
        ended_at: row.get(9)?,
        report: row.get::<Option<String>>(10)?.as_deref().map(json::<Report>).transpose()?,
    })
}

pub fn run_of(read: &mut Read<'_>, id: Id<Run>) -> Result<Option<Run>, records::Error> {
    read.query_opt(&format!("SELECT {RUN} FROM sensing_retention_run WHERE id = $1"), params![id], run)
}

/// The newest runs of a declaration.
pub fn runs(read: &mut Read<'_>, key: &str, limit: i64) -> Result<Vec<Run>, records::Error> {
    let sql = format!("SELECT {RUN} FROM sensing_retention_run WHERE declaration = $1 ORDER BY id DESC LIMIT $2");
    read.query(&sql, params![key, limit], run)
}

pub fn put_run(tx: &mut Tx<'_>, r: &Run) -> Result<(), records::Error> {
    let report = r.report.as_ref().map(text).transpose()?;
    tx.execute(
        "INSERT INTO sensing_retention_run (id, kind, declaration, tenant, state, body, asked_by, asked_at, began_at, ended_at, report)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, began_at = excluded.began_at, ended_at = excluded.ended_at,
           report = excluded.report",
        params![
            r.id,
            r.kind.name(),
            r.declaration,
            r.tenant,
            r.state.name(),
            r.body,
            r.asked_by,
            r.asked_at,
            r.began_at,
            r.ended_at,
            report
        ],
    )?;
    tx.execute(
        "DELETE FROM sensing_retention_run WHERE declaration = $1 AND id NOT IN (
           SELECT id FROM sensing_retention_run WHERE declaration = $1 ORDER BY id DESC LIMIT $2)",
        params![r.declaration, RUNS_KEPT],
    )?;
    Ok(())
}

/// What is said to be going on while no sweep goes on was broken off: by a crash, an error, or a declaration that changed.
pub fn end_broken_runs(tx: &mut Tx<'_>) -> Result<u64, records::Error> {
    let now = tx.now();
    let sql = "UPDATE sensing_retention_run SET state = $1, ended_at = $2 WHERE kind = $3 AND state = $4";
    let (failed, running) = (RunState::Failed.name(), RunState::Running.name());
    tx.execute(sql, params![failed, now, RunKind::Applied.name(), running])
}

/// Up to when the clock has been followed.
pub fn clock(read: &mut Read<'_>) -> Result<Option<Timestamp>, records::Error> {
    read.query_opt("SELECT at FROM sensing_retention_clock WHERE one = 1", params![], |row| row.get(0))
}

pub fn set_clock(tx: &mut Tx<'_>, at: Timestamp) -> Result<(), records::Error> {
    let sql =
        "INSERT INTO sensing_retention_clock (one, at) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET at = excluded.at";
    tx.execute(sql, params![at])?;
    Ok(())
}

pub fn done(read: &mut Read<'_>, part: &str) -> Result<Option<String>, records::Error> {
    let sql = "SELECT fingerprint FROM sensing_retention_done WHERE part = $1";
    read.query_opt(sql, params![part], |row| row.get(0))
}

pub fn set_done(tx: &mut Tx<'_>, part: &str, fingerprint: &str) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_retention_done (part, fingerprint) VALUES ($1, $2)
         ON CONFLICT (part) DO UPDATE SET fingerprint = excluded.fingerprint",
        params![part, fingerprint],
    )?;
    Ok(())
}
