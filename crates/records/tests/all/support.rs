//! A database of each engine, new for each test.

use std::sync::Arc;

use kernel::{Clock, FixedClock, SystemClock, Timestamp};
use records::{Error, Migration, Options, Records};
use tempfile::TempDir;
use testkit::postgres::Database;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Sqlite,
    Postgres,
}

pub const BOTH: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];

/// A place for one database; it goes with the test.
pub struct Place {
    folder: TempDir,
    database: Option<Database>,
}

impl Place {
    pub fn new(engine: Engine) -> Self {
        let database = (engine == Engine::Postgres).then(testkit::postgres::database);
        Self { folder: TempDir::new().unwrap(), database }
    }

    pub fn options(&self) -> Options {
        match &self.database {
            Some(database) => Options::postgres(database.url()),
            None => Options::sqlite(self.folder.path().join("city.db")),
        }
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("on PostgreSQL")
    }

    pub fn open(&self) -> Records {
        self.open_at(Arc::new(SystemClock))
    }

    pub fn open_at(&self, clock: Arc<dyn Clock>) -> Records {
        Records::open(&self.options(), clock).unwrap()
    }
}

pub const COUNTERS: &[Migration] = &[Migration {
    version: 1,
    name: "counters",
    sql: "CREATE TABLE demo_counter (id TEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n >= 0));
          CREATE TABLE demo_note (id IDENTITY, counter TEXT REFERENCES demo_counter (id), note TEXT, weight DOUBLE PRECISION, raw BYTES)",
}];

/// Open, with the demo tables and one counter `a` at 0.
pub fn demo(place: &Place) -> Records {
    let records = place.open();
    records.migrate("demo", COUNTERS).unwrap();
    records.write_blocking(|tx| insert(tx, "a", 0)).unwrap();
    records
}

pub fn insert(tx: &mut records::Tx<'_>, id: &str, n: i64) -> Result<(), Error> {
    tx.execute("INSERT INTO demo_counter (id, n) VALUES ($1, $2)", records::params![id, n]).map(drop)
}

pub async fn counter(records: &Records, id: &str) -> Option<i64> {
    let id = id.to_owned();
    let sql = "SELECT n FROM demo_counter WHERE id = $1";
    records
        .read(move |read| read.query_opt(sql, records::params![id], |row| row.get(0)))
        .await
        .unwrap_or_else(|e: Error| panic!("{e}"))
}

pub fn fixed_clock() -> Arc<FixedClock> {
    Arc::new(FixedClock::at(Timestamp::from_secs(1_780_000_000)))
}
