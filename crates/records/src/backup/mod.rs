//! Backup while running, and restore into an empty database of either engine.
//!
//! A backup is one file: the migrations with their portable text, then every table's rows, all from one snapshot. Restore
//! replays the migrations in the words of its own engine and loads the rows. So the same file moves a city from SQLite to
//! PostgreSQL, or back.

mod format;
mod restore;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    ops::ControlFlow,
    path::Path,
};

use crate::{ColumnKind, Error, Read, Records, params};
use format::{FRAME_TARGET, Frame, Value, Writer};

pub use restore::{must_be_empty, restore};

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    pub tables: u64,
    pub rows: u64,
}

impl Records {
    /// Writes everything, as of one moment, to a new file at `path`, which appears only when it is complete and on the disk.
    /// Writers are not held up; on SQLite the -wal file grows meanwhile. Refuses to overwrite a file.
    pub async fn backup(&self, path: &Path) -> Result<BackupReport, Error> {
        let path = path.to_owned();
        self.read(move |read| write_file(read, &path)).await
    }
}

fn io(error: std::io::Error) -> Error {
    Error::Backup(error.to_string())
}

fn write_file(read: &mut Read<'_>, path: &Path) -> Result<BackupReport, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The temporary file is readable by our user only, as the database is, and goes when anything fails.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    let mut writer = Writer::new(BufWriter::new(file.as_file_mut()))?;
    let report = dump(read, &mut writer)?;
    writer.into_inner().flush().map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist_noclobber(path).map_err(|error| Error::Backup(format!("{}: {}", path.display(), error.error)))?;
    // The name itself must be on the disk too.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(report)
}

fn dump(read: &mut Read<'_>, writer: &mut Writer<impl Write>) -> Result<BackupReport, Error> {
    let engine = if read.session().is_postgres() { "postgres" } else { "sqlite" };
    writer.frame(&Frame::Header { engine: engine.to_owned(), at: read.now().as_micros() })?;
    for migration in history(read)? {
        writer.frame(&migration)?;
    }
    let mut report = BackupReport::default();
    for (name, columns) in tables(read)? {
        let columns: Vec<String> = columns.into_iter().map(|(column, _)| column).collect();
        writer.frame(&Frame::Table { name: name.clone(), columns: columns.clone() })?;
        report.tables += 1;
        report.rows += dump_table(read, writer, &name, &columns)?;
    }
    writer.frame(&Frame::End { tables: report.tables, rows: report.rows })?;
    Ok(report)
}

fn dump_table(
    read: &mut Read<'_>,
    writer: &mut Writer<impl Write>,
    table: &str,
    columns: &[String],
) -> Result<u64, Error> {
    let mut count = 0;
    let (mut rows, mut size) = (Vec::new(), 0);
    let list = columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
    read.for_each(&format!("SELECT {list} FROM {}", quoted(table)), params![], |row| {
        let values = (0..columns.len()).map(|index| row.value(index).map(Value::from));
        let values: Vec<Value> = values.collect::<Result<_, _>>()?;
        size += values.iter().map(Value::size).sum::<usize>();
        rows.push(values);
        count += 1;
        if size >= FRAME_TARGET {
            writer.frame(&Frame::Rows(std::mem::take(&mut rows)))?;
            size = 0;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !rows.is_empty() {
        writer.frame(&Frame::Rows(rows))?;
    }
    Ok(count)
}

/// Migrations in the order in which they were applied: rooms refer only to rooms migrated before them.
fn history(read: &mut Read<'_>) -> Result<Vec<Frame>, Error> {
    let sql = "SELECT room, version, name, sql FROM records_migration ORDER BY position";
    read.query(sql, params![], |row| {
        Ok(Frame::Migration { room: row.get(0)?, version: row.get(1)?, name: row.get(2)?, sql: row.get(3)? })
    })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

type Tables = BTreeMap<String, Vec<(String, ColumnKind)>>;

/// All tables but the history, which restore writes by replaying it.
fn tables(read: &mut Read<'_>) -> Result<Tables, Error> {
    let sql = if read.session().is_postgres() {
        "SELECT c.table_name::text, c.column_name::text, c.data_type::text FROM information_schema.columns c
         JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
         WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' ORDER BY 1, c.ordinal_position"
    } else {
        "SELECT m.name, c.name, c.type FROM sqlite_schema m, pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY m.name, c.cid"
    };
    let mut tables = Tables::new();
    read.for_each(sql, params![], |row| {
        let (table, column, kind): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let kind = match kind.to_ascii_lowercase().as_str() {
            "bigint" | "integer" => ColumnKind::Integer,
            "double precision" | "real" => ColumnKind::Real,
            "text" => ColumnKind::Text,
            "bytea" | "blob" => ColumnKind::Bytes,
            other => {
                return Err(Error::Backup(format!("{table}.{column} has the type {other}, which is not portable")));
            }
        };
        tables.entry(table).or_default().push((column, kind));
        Ok(ControlFlow::Continue(()))
    })?;
    tables.remove("records_migration");
    Ok(tables)
}
