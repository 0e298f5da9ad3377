use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kernel::{Caller, SystemClock};
use records::{Error, Event, NewJob, Records, Tx, ValueRef, params, restore};
use serde_json::json;

use crate::support::{BOTH, Engine, Place, demo, insert};

/// Every table of the demo and of the room itself, in an order of their own.
const TABLES: [&str; 7] = [
    "SELECT id, n FROM demo_counter ORDER BY id",
    "SELECT id, counter, note, weight, raw FROM demo_note ORDER BY id",
    "SELECT id, at, caller, tenant, action, kind, entity, detail FROM records_audit ORDER BY id",
    "SELECT event, topic, key, payload, at FROM records_event ORDER BY event",
    "SELECT delivered FROM records_event_head ORDER BY one",
    "SELECT id, queue, payload, due_at, attempts, max_attempts, unique_key, lease, last_error FROM records_job ORDER BY id",
    "SELECT room, version, name, checksum, sql FROM records_migration ORDER BY room, version",
];

async fn contents(records: &Records) -> Vec<Vec<String>> {
    let all = records.read(|read| {
        let table = |sql: &&str| {
            read.query(sql, &[], |row| {
                let mut cells = String::new();
                let mut column = 0;
                while let Ok(value) = row.value(column) {
                    cells.push_str(&format!("{value:?}|"));
                    column += 1;
                }
                Ok(cells)
            })
        };
        TABLES.iter().map(table).collect::<Result<_, Error>>()
    });
    all.await.unwrap()
}

/// Moves one unit from a to b and leaves a trace of every kind.
fn transfer(tx: &mut Tx<'_>, n: i64) -> Result<(), Error> {
    tx.execute("UPDATE demo_counter SET n = n - 1 WHERE id = 'a'", &[])?;
    tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'b'", &[])?;
    tx.execute(
        "INSERT INTO demo_note (counter, note, weight, raw) VALUES ($1, $2, $3, $4)",
        params!["b", format!("note {n} 雨'\""), n as f64 / 3.0, n.to_be_bytes()],
    )?;
    tx.execute("INSERT INTO demo_note (counter) VALUES (NULL)", &[])?;
    tx.audit(&Caller::system("demo"), "demo:move", "Counter", "a", None, json!({ "n": n }))?;
    tx.emit(Event { topic: "moves".into(), key: "a".into(), payload: json!(n) })?;
    tx.enqueue(NewJob { unique_key: Some(format!("k{}", n % 7)), ..NewJob::new("q", json!(n)) })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_into_either_engine() {
    for from in BOTH {
        let place = Place::new(from);
        let records = demo(&place);
        records
            .write(|tx| {
                tx.execute("UPDATE demo_counter SET n = 1000 WHERE id = 'a'", &[])?;
                insert(tx, "b", 0)
            })
            .await
            .unwrap();
        for n in 0..50 {
            records.write(move |tx| transfer(tx, n)).await.unwrap();
        }
        // Some events are numbered on PostgreSQL, some are not yet.
        let events = records.outbox().fetch(0, 100).await.unwrap();
        records.outbox().mark_delivered(events[9].position).await.unwrap();
        records.jobs().claim("q", 2).await.unwrap();
        records.write(move |tx| transfer(tx, 50)).await.unwrap();
        let file = place.folder().join("still.backup");
        let report = records.backup(&file).await.unwrap();
        assert!(report.tables >= 7 && report.rows > 150, "{report:?}");
        assert!(matches!(records.backup(&file).await, Err(Error::Backup(_))), "overwrites nothing");
        let before = contents(&records).await;

        for to in BOTH {
            let empty = Place::new(to);
            assert_eq!(restore(&empty.options(), &file, &SystemClock), Ok(report), "{from:?} to {to:?}");
            let restored = empty.open();
            restored.migrate("demo", crate::support::COUNTERS).unwrap();
            assert_eq!(contents(&restored).await, before, "{from:?} to {to:?}");
            assert!(matches!(restore(&empty.options(), &file, &SystemClock), Err(Error::Backup(_))), "not empty");

            // Life goes on: numbers are not used twice, references hold, events continue.
            restored.write(move |tx| transfer(tx, 51)).await.unwrap();
            let dangling = restored.write(|tx| tx.execute("INSERT INTO demo_note (counter) VALUES ('none')", &[]));
            assert!(matches!(dangling.await, Err(Error::Reference(_))));
            let rest = restored.outbox().fetch(restored.outbox().delivered().await.unwrap(), 100).await.unwrap();
            let payloads: Vec<i64> = rest.iter().map(|event| event.payload.as_i64().unwrap()).collect();
            assert_eq!(payloads, (10..52).collect::<Vec<_>>(), "{from:?} to {to:?}");
            assert_eq!(rest[..40], events[10..], "what had a number keeps it");
            assert!(rest.windows(2).all(|pair| pair[0].position < pair[1].position));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_writers_is_of_one_moment() {
    for from in BOTH {
        let place = Place::new(from);
        let records = demo(&place);
        records
            .write(|tx| {
                tx.execute("UPDATE demo_counter SET n = 100000 WHERE id = 'a'", &[])?;
                insert(tx, "b", 0)
            })
            .await
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (records, stop) = (records.clone(), Arc::clone(&stop));
            async move {
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    records.write(move |tx| transfer(tx, n)).await.unwrap();
                    n += 1;
                }
            }
        });
        for round in 0..3 {
            // The writer is at work: more has been written since the last round.
            let moved = records.stats().commands;
            while records.stats().commands < moved + 20 {
                tokio::task::yield_now().await;
            }
            let file = place.folder().join(format!("live{round}.backup"));
            records.backup(&file).await.unwrap();
            let empty = Place::new(Engine::Sqlite);
            restore(&empty.options(), &file, &SystemClock).unwrap();
            let restored = empty.open();
            let numbers = restored.read(|read| {
                let mut one = |sql: &str| {
                    read.query_one(sql, &[], |row| {
                        Ok(if let ValueRef::Integer(n) = row.value(0)? { n } else { panic!("{sql}") })
                    })
                };
                Ok::<_, Error>([
                    one("SELECT CAST(SUM(n) AS BIGINT) FROM demo_counter")?,
                    one("SELECT n FROM demo_counter WHERE id = 'b'")?,
                    one("SELECT COUNT(*) FROM demo_note WHERE counter = 'b'")?,
                    one("SELECT COUNT(*) FROM records_audit")?,
                    one("SELECT COUNT(*) FROM records_event")?,
                ])
            });
            let [sum, moved, notes, audits, events] = numbers.await.unwrap();
            assert_eq!((sum, notes, audits, events), (100_000, moved, moved, moved), "{from:?}");
            assert!(moved >= 20);
        }
        stop.store(true, Ordering::SeqCst);
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_changes_nothing() {
    let place = Place::new(Engine::Sqlite);
    let records = demo(&place);
    for n in 0..20 {
        records
            .write(move |tx| tx.execute("INSERT INTO demo_note (note) VALUES ($1)", params![format!("n{n}")]))
            .await
            .unwrap_or_else(|error: Error| panic!("{error}"));
    }
    let whole = place.folder().join("whole.backup");
    let report = records.backup(&whole).await.unwrap();
    let bytes = fs::read(&whole).unwrap();
    for to in BOTH {
        let empty = Place::new(to);
        let broken = place.folder().join("broken.backup");
        for cut in [0, 7, 20, bytes.len() / 2, bytes.len() - 30, bytes.len() - 1] {
            fs::write(&broken, &bytes[..cut]).unwrap();
            let result = restore(&empty.options(), &broken, &SystemClock);
            assert!(matches!(result, Err(Error::Backup(_))), "{to:?} cut at {cut}: {result:?}");
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() - 200] ^= 4;
        fs::write(&broken, &flipped).unwrap();
        assert!(matches!(restore(&empty.options(), &broken, &SystemClock), Err(Error::Backup(_))));
        // Still empty, so the whole one goes in.
        assert_eq!(restore(&empty.options(), &whole, &SystemClock), Ok(report), "{to:?}");
    }
}
