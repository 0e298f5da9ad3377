//! From a file into an empty database.

use std::{fs::File, io::BufReader, path::Path};

use kernel::{Clock, Timestamp};

use super::{
    BackupReport, Tables,
    format::{Frame, Reader, Value},
    quoted, tables,
};
use crate::{
    ColumnKind, Error, Options, Param, Read, Tx,
    engine::{Begin, Session},
    migrate, off_runtime, outbox, params,
};

/// Fills an empty database from a backup, all of it or nothing, and checks every reference. Blocks; may be called anywhere.
///
/// Nothing else may use the database meanwhile. Open it afterwards with [`crate::Records::open`] and migrate as always: a
/// backup of an older program is brought up to date then. `IDENTITY` goes on after the largest number that is there.
pub fn restore(options: &Options, path: &Path, clock: &dyn Clock) -> Result<BackupReport, Error> {
    options.validate()?;
    let file = File::open(path).map_err(|error| Error::Backup(format!("{}: {error}", path.display())))?;
    let mut reader = Reader::new(BufReader::new(file))?;
    let now = clock.now();
    off_runtime(|| {
        let mut session = options.session(true)?;
        refuse_unless_empty(&mut session, now)?;
        migrate::create_history(&mut session)?;
        session.begin(Begin::Locked).map_err(|failure| failure.error)?;
        let loaded = load(&mut Tx::new(&mut session, now), &mut reader);
        let result = loaded.and_then(|report| {
            session.commit().map_err(|failure| failure.error)?;
            Ok(report)
        });
        if result.is_err() {
            session.rollback();
        }
        result
    })
}

/// Refuses a database that holds a table: what [`restore`] does first, for a caller who restores other stores before. Blocks; may be called
/// anywhere.
pub fn must_be_empty(options: &Options, clock: &dyn Clock) -> Result<(), Error> {
    options.validate()?;
    off_runtime(|| refuse_unless_empty(&mut options.session(true)?, clock.now()))
}

fn refuse_unless_empty(session: &mut Session, now: Timestamp) -> Result<(), Error> {
    if !session.is_postgres() {
        // Rows come in the order of tables' names; references are checked at the end. Has no effect inside a transaction.
        session.script("PRAGMA foreign_keys = OFF")?;
    }
    session.begin(Begin::Read).map_err(|failure| failure.error)?;
    let found = tables(&mut Read::new(session, now));
    session.rollback();
    match found?.into_keys().next() {
        None => Ok(()),
        Some(table) => Err(Error::Backup(format!("the database is not empty: it has the table {table}"))),
    }
}

fn misplaced() -> Error {
    Error::Backup("the file is damaged: its parts are out of order".to_owned())
}

fn load(tx: &mut Tx<'_>, reader: &mut Reader<impl std::io::Read>) -> Result<BackupReport, Error> {
    let Frame::Header { .. } = reader.frame()? else { return Err(misplaced()) };
    let mut frame = reader.frame()?;
    while let Frame::Migration { room, version, name, sql } = &frame {
        migrate::run(tx, room, *version, name, sql)?;
        frame = reader.frame()?;
    }
    let tables = tables(tx)?;
    let references = suspend_references(tx)?;
    for table in tables.keys() {
        // Rows that migrations wrote are in the backup too, perhaps changed since.
        tx.execute(&format!("DELETE FROM {}", quoted(table)), params![])?;
    }
    let mut report = BackupReport::default();
    let mut current = None;
    loop {
        match frame {
            Frame::Table { name, columns } => {
                current = Some(Target::new(&tables, name, columns)?);
                report.tables += 1;
            }
            Frame::Rows(rows) => {
                current.as_ref().ok_or_else(misplaced)?.insert(tx, &rows)?;
                report.rows += rows.len() as u64;
            }
            Frame::End { tables, rows } if (tables, rows) == (report.tables, report.rows) => break,
            _ => return Err(misplaced()),
        }
        frame = reader.frame()?;
    }
    resume_references(tx, &references)?;
    set_identities(tx)?;
    // PostgreSQL leaves events without a number until they are read; SQLite would never give them one.
    if tables.contains_key("records_event") {
        while outbox::number(tx)? > 0 {}
    }
    // Whoever held a lease holds it over the database that was backed up, not over this one.
    if tables.contains_key("records_lease_beat") {
        tx.execute("UPDATE records_lease_beat SET held = 0", params![])?;
    }
    Ok(report)
}

/// A table that is being filled.
struct Target {
    table: String,
    columns: Vec<String>,
    kinds: Vec<ColumnKind>,
}

/// Parameters of one statement: enough rows that a round trip costs little, few enough that their text stays small.
const PARAMS: usize = 1_000;

impl Target {
    fn new(tables: &Tables, table: String, columns: Vec<String>) -> Result<Self, Error> {
        let known = tables.get(&table).filter(|_| (1..=PARAMS).contains(&columns.len()));
        let known =
            known.ok_or_else(|| Error::Backup(format!("no migration of the backup makes its table {table}")))?;
        let kind = |column: &String| {
            let found = known.iter().find(|(name, _)| name == column);
            found.map(|(_, kind)| *kind).ok_or_else(|| Error::Backup(format!("{table} has no column {column}")))
        };
        let kinds = columns.iter().map(kind).collect::<Result<_, _>>()?;
        Ok(Self { table, columns, kinds })
    }

    fn insert(&self, tx: &mut Tx<'_>, rows: &[Vec<Value>]) -> Result<(), Error> {
        let width = self.columns.len();
        if rows.iter().any(|row| row.len() != width) {
            return Err(misplaced());
        }
        for some in rows.chunks(PARAMS / width) {
            let values =
                some.iter().flat_map(|row| row.iter().zip(&self.kinds).map(|(value, kind)| value.param(*kind)));
            let values: Vec<Param<'_>> = values.collect();
            tx.execute(&self.sql(some.len()), &values)?;
        }
        Ok(())
    }

    fn sql(&self, rows: usize) -> String {
        let width = self.columns.len();
        let row = |row: usize| {
            let numbers = (1..=width).map(|column| format!("${}", row * width + column)).collect::<Vec<_>>();
            format!("({})", numbers.join(", "))
        };
        let names = self.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
        let rows = (0..rows).map(row).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {} ({names}) VALUES {rows}", quoted(&self.table))
    }
}

/// Takes the foreign keys off, as the statements that put them back. SQLite has them switched off instead.
fn suspend_references(tx: &mut Tx<'_>) -> Result<Vec<String>, Error> {
    if !tx.session().is_postgres() {
        return Ok(Vec::new());
    }
    let references = tx.query(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
         WHERE contype = 'f' AND connamespace = current_schema()::regnamespace",
        params![],
        |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<String>(2)?)),
    )?;
    for (table, name, _) in &references {
        tx.session().script(&format!("ALTER TABLE {table} DROP CONSTRAINT {name}"))?;
    }
    let again = |(table, name, definition): (String, String, String)| {
        format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    };
    Ok(references.into_iter().map(again).collect())
}

fn resume_references(tx: &mut Tx<'_>, references: &[String]) -> Result<(), Error> {
    for statement in references {
        // Checks all rows.
        tx.session().script(statement)?;
    }
    if !tx.session().is_postgres() {
        let broken =
            tx.query("SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1", params![], |row| row.get::<String>(0))?;
        if let Some(table) = broken.first() {
            return Err(Error::Backup(format!("a reference of the table {table} points at nothing")));
        }
    }
    Ok(())
}

/// Inserting a number does not advance PostgreSQL's sequence behind it; on SQLite it does.
fn set_identities(tx: &mut Tx<'_>) -> Result<(), Error> {
    if !tx.session().is_postgres() {
        return Ok(());
    }
    let identities = tx.query(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
         WHERE table_schema = current_schema() AND is_identity = 'YES' AND table_name <> 'records_migration'",
        params![],
        |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?)),
    )?;
    for (table, column) in identities {
        let (table, name) = (quoted(&table), quoted(&column));
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence($1, $2), (SELECT COALESCE(MAX({name}), 0) + 1 FROM {table}), false)"
        );
        tx.query(&sql, params![table, column], |_| Ok(()))?;
    }
    Ok(())
}
