//! Forward-only migrations, each room's own, written once and rendered for both engines.

mod render;

use std::fmt::Write as _;

use kernel::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    Error, Tx,
    engine::{Begin, Session},
    params,
};

pub(crate) use render::{Dialect, render};

/// One step forward. Once released it never changes; a mistake is mended by the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// 1, 2, 3, … without a gap.
    pub version: u32,
    /// A few words for people: `"alarms have a closing note"`.
    pub name: &'static str,
    /// Portable DDL and DML (see the crate's text), several statements separated by `;`, no parameters.
    pub sql: &'static str,
}

/// The first table of all: what has been applied, with the text itself, so that a backup can rebuild the schema on either
/// engine.
const HISTORY: &str = "CREATE TABLE records_migration (position IDENTITY, room TEXT NOT NULL, version BIGINT NOT NULL, name TEXT NOT NULL,
    checksum TEXT NOT NULL, sql TEXT NOT NULL, applied_at BIGINT NOT NULL, UNIQUE (room, version))";

/// This room's own tables.
const OWN: &[Migration] = &[
    Migration { version: 1, name: "audit, events, jobs", sql: include_str!("schema.sql") },
    Migration { version: 2, name: "leases", sql: crate::lease::SCHEMA },
];

/// Creates what every database of this program has.
pub(crate) fn bootstrap(session: &mut Session, now: Timestamp) -> Result<(), Error> {
    create_history(session)?;
    session.begin(Begin::Locked).map_err(|failure| failure.error)?;
    let applied = apply(&mut Tx::new(session, now), "records", OWN);
    let result = applied.and_then(|()| session.commit().map_err(|failure| failure.error));
    if result.is_err() {
        session.rollback();
    }
    result
}

pub(crate) fn create_history(session: &mut Session) -> Result<(), Error> {
    let dialect = Dialect::of(session);
    let sql = render(HISTORY, dialect)?.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1);
    // Two programs that start at once on an empty PostgreSQL may collide here; the second finds the table.
    let mut tries = 0;
    loop {
        session.begin(Begin::Locked).map_err(|failure| failure.error)?;
        let created = session.script(&sql).and_then(|()| session.commit().map_err(|failure| failure.error));
        match created {
            Ok(()) => return Ok(()),
            Err(error) => {
                session.rollback();
                tries += 1;
                if tries == 3 {
                    return Err(error);
                }
            }
        }
    }
}

fn refuse<T>(room: &str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Migration { room: room.to_owned(), reason: reason.into() })
}

pub(crate) fn validate(room: &str, migrations: &[Migration]) -> Result<(), Error> {
    if room.is_empty() || !room.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return refuse(room, "name the room in a-z, 0-9 and '_'");
    }
    for (migration, expected) in migrations.iter().zip(1_u32..) {
        if migration.version != expected {
            return refuse(room, format!("version {} stands where {expected} belongs", migration.version));
        }
    }
    Ok(())
}

/// Compares the history with the program's and applies the rest.
pub(crate) fn apply(tx: &mut Tx<'_>, room: &str, migrations: &[Migration]) -> Result<(), Error> {
    if tx.session().is_postgres() {
        // Programs that start together apply one after the other.
        tx.session().script("LOCK TABLE records_migration IN EXCLUSIVE MODE")?;
    }
    let applied = tx.query(
        "SELECT version, name, checksum FROM records_migration WHERE room = $1 ORDER BY version",
        params![room],
        |row| Ok((row.get::<u32>(0)?, row.get::<String>(1)?, row.get::<String>(2)?)),
    )?;
    for ((version, name, checksum), expected) in applied.iter().zip(1_u32..) {
        if *version != expected {
            return refuse(room, format!("the database lacks version {expected} but has {version} '{name}'"));
        }
        let Some(known) = migrations.get(expected as usize - 1) else {
            let newest = migrations.len();
            return refuse(
                room,
                format!("the database is newer: it has version {version} '{name}', this program knows {newest}"),
            );
        };
        if self::checksum(known.sql) != *checksum {
            return refuse(room, format!("version {version} '{name}' was changed after it had been applied"));
        }
    }
    for migration in &migrations[applied.len()..] {
        run(tx, room, migration.version, migration.name, migration.sql)?;
        tracing::info!(room, version = migration.version, name = migration.name, "migration applied");
    }
    Ok(())
}

pub(crate) fn run(tx: &mut Tx<'_>, room: &str, version: u32, name: &str, sql: &str) -> Result<(), Error> {
    let dialect = Dialect::of(tx.session());
    let rendered = render(sql, dialect).and_then(|rendered| tx.session().script(&rendered));
    if let Err(error) = rendered {
        return refuse(room, format!("version {version} '{name}': {error}"));
    }
    tx.execute(
        "INSERT INTO records_migration (room, version, name, checksum, sql, applied_at) VALUES ($1, $2, $3, $4, $5, $6)",
        params![room, version, name, checksum(sql), sql, tx.now()],
    )?;
    Ok(())
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
