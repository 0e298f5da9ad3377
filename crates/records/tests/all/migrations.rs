use std::sync::Arc;

use kernel::SystemClock;
use records::{EngineOptions, Error, Migration, Options, Records};

use crate::support::{BOTH, Place};

const ONE: Migration =
    Migration { version: 1, name: "lamps", sql: "CREATE TABLE demo_lamp (id TEXT PRIMARY KEY, watts BIGINT NOT NULL)" };
const TWO: Migration = Migration {
    version: 2,
    name: "colour",
    sql: "ALTER TABLE demo_lamp ADD COLUMN colour TEXT; INSERT INTO demo_lamp (id, watts, colour) VALUES ('L1', 60, 'white');
          CREATE INDEX demo_lamp_colour ON demo_lamp (colour)",
};
const BROKEN: Migration = Migration {
    version: 3,
    name: "broken",
    sql: "INSERT INTO demo_lamp (id, watts) VALUES ('L2', 1); SELECT nonsense()",
};

fn refused(result: Result<(), Error>, words: &str) {
    match result {
        Err(Error::Migration { room, reason }) if room == "demo" => assert!(reason.contains(words), "{reason}"),
        other => panic!("expected a refusal with '{words}', got {other:?}"),
    }
}

async fn lamps(records: &Records) -> i64 {
    let count = records.read(|read| read.query_one("SELECT COUNT(*) FROM demo_lamp", &[], |row| row.get(0)));
    count.await.unwrap_or_else(|error: Error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_forward_only() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = place.open();
        records.migrate("demo", &[ONE]).unwrap();
        records.migrate("demo", &[ONE, TWO]).unwrap();
        records.migrate("demo", &[ONE, TWO]).unwrap();
        records.close().await;
        // Another program start.
        let records = place.open();
        records.migrate("demo", &[ONE, TWO]).unwrap();
        assert_eq!(lamps(&records).await, 1, "{engine:?}");
        refused(records.migrate("demo", &[ONE]), "newer");
        refused(records.migrate("demo", &[]), "newer");
        let changed = Migration { sql: "CREATE TABLE demo_lamp (id TEXT)", ..ONE };
        refused(records.migrate("demo", &[changed, TWO]), "changed");
        refused(records.migrate("demo", &[ONE, Migration { version: 3, ..TWO }]), "version 3 stands where 2 belongs");
        // All or nothing: the row before the mistake is not there, and the right version can follow.
        refused(records.migrate("demo", &[ONE, TWO, BROKEN]), "broken");
        assert_eq!(lamps(&records).await, 1, "{engine:?}");
        let mended = Migration { sql: "INSERT INTO demo_lamp (id, watts) VALUES ('L2', 1)", ..BROKEN };
        records.migrate("demo", &[ONE, TWO, mended]).unwrap();
        assert_eq!(lamps(&records).await, 2, "{engine:?}");
        // Prepared statements notice what a migration changes.
        let four = Migration { version: 4, name: "n", sql: "ALTER TABLE demo_lamp ADD COLUMN room TEXT" };
        records.migrate("demo", &[ONE, TWO, mended, four]).unwrap();
        assert_eq!(lamps(&records).await, 2, "{engine:?}");
        // Rooms do not see each other's history.
        let other = Migration { version: 1, name: "other", sql: "CREATE TABLE other_thing (id TEXT PRIMARY KEY)" };
        records.migrate("other", &[other]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_old_migration_is_noticed() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = place.open();
        records.migrate("demo", &[ONE, TWO]).unwrap();
        let forget = "DELETE FROM records_migration WHERE room = 'demo' AND version = 1";
        records.write(move |tx| tx.execute(forget, &[])).await.unwrap_or_else(|error: Error| panic!("{error}"));
        refused(records.migrate("demo", &[ONE, TWO]), "lacks version 1");
    }
}

#[test]
fn programs_that_start_together_migrate_once() {
    for engine in BOTH {
        let place = Place::new(engine);
        let start = || {
            let records = place.open();
            records.migrate("demo", &[ONE, TWO]).map(|()| records)
        };
        let programs: Vec<Records> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            starting.into_iter().map(|program| program.join().unwrap().unwrap()).collect()
        });
        let count = |sql: &'static str| {
            programs[0]
                .read_blocking(|read| read.query_one(sql, &[], |row| row.get::<i64>(0)))
                .unwrap_or_else(|error: Error| panic!("{error}"))
        };
        assert_eq!(count("SELECT COUNT(*) FROM demo_lamp"), 1, "{engine:?}");
        assert_eq!(count("SELECT COUNT(*) FROM records_migration WHERE room = 'demo'"), 2, "{engine:?}");
    }
}

#[test]
fn options_say_what_would_be_right() {
    let check = |change: fn(&mut Options), words: &str| {
        let mut options = Options::sqlite("/nonexistent/city.db");
        change(&mut options);
        let error = Records::open(&options, Arc::new(SystemClock)).err().expect("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(|options| options.readers = 0, "records.readers is 0; use 1 to 256");
    check(|options| options.queue = 2_000_000, "records.queue is 2000000");
    check(|options| options.max_batch = 0, "records.max_batch");
    check(|options| options.engine = EngineOptions::Sqlite { path: "".into() }, "records.path is empty");
    check(|options| options.engine = EngineOptions::Postgres { url: " ".into() }, "records.url is empty");
    check(|options| options.engine = EngineOptions::Postgres { url: "postgres://a:secret@[".into() }, "not valid");
    let secret = Options::postgres("postgres://a:secret@h/d");
    assert!(!format!("{secret:?}").contains("secret"));
}
