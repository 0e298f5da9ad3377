//! The rows of connectors: what is declared, how the last runs went, and what the next must know.

use std::collections::HashMap;

use kernel::{Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};

use super::{
    declaration::{Connector, Declaration},
    fetch::Tags,
    report::Report,
};

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "connectors",
    sql: "CREATE TABLE sensing_connector (
            key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, body TEXT NOT NULL, enabled BIGINT NOT NULL,
            next_run BIGINT NOT NULL, forced BIGINT NOT NULL, failures BIGINT NOT NULL,
            started_at BIGINT, succeeded_at BIGINT, changed_at BIGINT, failed_at BIGINT, error TEXT,
            etag TEXT, modified TEXT, content TEXT, read_as TEXT, report TEXT);
          CREATE INDEX sensing_connector_due ON sensing_connector (next_run);
          CREATE TABLE sensing_connector_file (
            connector TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (connector, name));",
}];

/// A connector's row.
#[derive(Clone, Debug)]
pub struct Stored {
    pub declaration: Declaration,
    pub next_run: Timestamp,
    pub forced: bool,
    /// Runs that have failed since the last success.
    pub failures: u32,
    pub started_at: Option<Timestamp>,
    pub succeeded_at: Option<Timestamp>,
    /// The last success that found something new at the source.
    pub changed_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
    pub error: Option<String>,
    pub tags: Tags,
    /// SHA-256 of the document as it was last read completely, and of the declaration that it was read by.
    pub content: Option<String>,
    pub read_as: Option<String>,
    /// The account of the last run that read anything.
    pub report: Option<Report>,
}

const COLUMNS: &str =
    "body, next_run, forced, failures, started_at, succeeded_at, changed_at, failed_at, error, etag, modified, content,
    read_as, report, key";

fn stored(row: &Row<'_>) -> Result<Option<Stored>, records::Error> {
    let declaration = match serde_json::from_str(&row.get::<String>(0)?) {
        Ok(declaration) => declaration,
        Err(error) => {
            tracing::error!(connector = row.get::<String>(14)?, %error, "the stored connector is not valid and is not run");
            return Ok(None);
        }
    };
    let report: Option<String> = row.get(13)?;
    Ok(Some(Stored {
        declaration,
        next_run: row.get(1)?,
        forced: row.get(2)?,
        failures: row.get(3)?,
        started_at: row.get(4)?,
        succeeded_at: row.get(5)?,
        changed_at: row.get(6)?,
        failed_at: row.get(7)?,
        error: row.get(8)?,
        tags: Tags { etag: row.get(9)?, modified: row.get(10)? },
        content: row.get(11)?,
        read_as: row.get(12)?,
        report: report.and_then(|r| serde_json::from_str(&r).ok()),
    }))
}

pub fn all(read: &mut Read<'_>) -> Result<Vec<Stored>, records::Error> {
    let rows = read.query(&format!("SELECT {COLUMNS} FROM sensing_connector ORDER BY key"), params![], stored)?;
    Ok(rows.into_iter().flatten().collect())
}

pub fn one(read: &mut Read<'_>, key: &str) -> Result<Option<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_connector WHERE key = $1");
    Ok(read.query_opt(&sql, params![key], stored)?.flatten())
}

pub fn due(read: &mut Read<'_>, now: Timestamp, most: u32) -> Result<Vec<Stored>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensing_connector WHERE enabled = 1 AND next_run <= $1 ORDER BY next_run, key LIMIT $2"
    );
    let rows = read.query(&sql, params![now, most], stored)?;
    Ok(rows.into_iter().flatten().collect())
}

pub fn next_due(read: &mut Read<'_>) -> Result<Option<Timestamp>, records::Error> {
    read.query_one("SELECT MIN(next_run) FROM sensing_connector WHERE enabled = 1", params![], |row| row.get(0))
}

/// Writes a declaration if it differs from what is stored; whether it did. A changed connector runs at once.
pub fn put(tx: &mut Tx<'_>, connector: &Connector) -> Result<bool, records::Error> {
    let body = serde_json::to_string(connector.declaration()).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let changed = tx.execute(
        "INSERT INTO sensing_connector (key, tenant, body, enabled, next_run, forced, failures) VALUES ($1, $2, $3, $4, $5, 0, 0)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, body = excluded.body, enabled = excluded.enabled,
             next_run = excluded.next_run, failures = 0
         WHERE sensing_connector.body <> excluded.body",
        params![connector.key, connector.tenant, body, connector.enabled, tx.now()],
    )?;
    Ok(changed > 0)
}

pub fn keys(read: &mut Read<'_>) -> Result<Vec<(String, Tenant)>, records::Error> {
    read.query("SELECT key, tenant FROM sensing_connector ORDER BY key", params![], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

pub fn delete(tx: &mut Tx<'_>, key: &str) -> Result<(), records::Error> {
    tx.execute("DELETE FROM sensing_connector WHERE key = $1", params![key])?;
    tx.execute("DELETE FROM sensing_connector_file WHERE connector = $1", params![key])?;
    Ok(())
}

/// Takes a due run, so that of several programs on one database only one does it; whether it was free. The next run is set at once: after a crash
/// it simply comes.
pub fn claim(tx: &mut Tx<'_>, key: &str, seen: Timestamp, next: Timestamp) -> Result<bool, records::Error> {
    let taken = tx.execute(
        "UPDATE sensing_connector SET next_run = $3, forced = 0, started_at = $4 WHERE key = $1 AND next_run = $2 AND enabled = 1",
        params![key, seen, next, tx.now()],
    )?;
    Ok(taken > 0)
}

/// What a successful run leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Success {
    pub tags: Tags,
    pub content: Option<String>,
    pub read_as: Option<String>,
    /// `None` when the source was as before.
    pub report: Option<Report>,
}

pub fn succeed(tx: &mut Tx<'_>, key: &str, success: &Success) -> Result<(), records::Error> {
    let report = success.report.as_ref().map(serde_json::to_string).transpose();
    let report = report.map_err(|e| records::Error::Invalid(e.to_string()))?;
    let changed = report.is_some().then(|| tx.now());
    tx.execute(
        "UPDATE sensing_connector SET succeeded_at = $2, failures = 0, error = NULL, etag = $3, modified = $4, content = $5, read_as = $6,
             changed_at = COALESCE($7, changed_at), report = COALESCE($8, report)
         WHERE key = $1",
        params![key, tx.now(), success.tags.etag, success.tags.modified, success.content, success.read_as, changed, report],
    )?;
    Ok(())
}

/// An operator's wish to run at once is not put off by the backoff.
pub fn fail(tx: &mut Tx<'_>, key: &str, error: &str, failures: u32, next: Timestamp) -> Result<(), records::Error> {
    tx.execute(
        "UPDATE sensing_connector SET failed_at = $2, failures = $3, error = $4, next_run = CASE WHEN forced = 1 THEN next_run ELSE $5 END
         WHERE key = $1",
        params![key, tx.now(), failures, error, next],
    )?;
    Ok(())
}

pub fn force(tx: &mut Tx<'_>, key: &str) -> Result<bool, records::Error> {
    let forced = tx.execute(
        "UPDATE sensing_connector SET forced = 1, next_run = $2 WHERE key = $1 AND enabled = 1",
        params![key, tx.now()],
    )?;
    Ok(forced > 0)
}

pub fn files(read: &mut Read<'_>, key: &str) -> Result<HashMap<String, String>, records::Error> {
    let rows =
        read.query("SELECT name, content FROM sensing_connector_file WHERE connector = $1", params![key], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(rows.into_iter().collect())
}

pub fn put_file(tx: &mut Tx<'_>, key: &str, name: &str, content: &str) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_connector_file (connector, name, content) VALUES ($1, $2, $3)
         ON CONFLICT (connector, name) DO UPDATE SET content = excluded.content",
        params![key, name, content],
    )?;
    Ok(())
}

/// Files that are gone from the folder need not be remembered.
pub fn forget_file(tx: &mut Tx<'_>, key: &str, name: &str) -> Result<(), records::Error> {
    tx.execute("DELETE FROM sensing_connector_file WHERE connector = $1 AND name = $2", params![key, name])?;
    Ok(())
}
