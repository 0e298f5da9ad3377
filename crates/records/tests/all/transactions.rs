use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use records::{Error, Param, Tx, params};

use crate::support::{BOTH, Engine, Place, counter, demo, insert};

/// A room's own error, as rooms have them.
#[derive(Debug, PartialEq)]
enum Refusal {
    NotEnough,
    Records(Error),
}
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Records(error)
    }
}

fn add(tx: &mut Tx<'_>, id: &str, by: i64) -> Result<u64, Error> {
    tx.execute("UPDATE demo_counter SET n = n + $2 WHERE id = $1", params![id, by])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_command_is_undone_alone() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let commands = (0..60).map(|n| {
            let records = records.clone();
            tokio::spawn(async move {
                records
                    .write(move |tx| {
                        insert(tx, &format!("k{n}"), n)?;
                        match n % 3 {
                            0 => Ok(n),
                            1 => Err(Refusal::NotEnough),
                            _ => panic!("boom {n}"),
                        }
                    })
                    .await
            })
        });
        let commands: Vec<_> = commands.collect();
        for (n, command) in (0..60).zip(commands) {
            let result = command.await.unwrap();
            let kept = counter(&records, &format!("k{n}")).await;
            match n % 3 {
                0 => assert_eq!((result, kept), (Ok(n), Some(n)), "{engine:?}"),
                1 => assert_eq!((result, kept), (Err(Refusal::NotEnough), None), "{engine:?}"),
                _ => {
                    let expected = Refusal::Records(Error::Panicked(format!("boom {n}")));
                    assert_eq!((result, kept), (Err(expected), None), "{engine:?}");
                }
            }
        }
        let stats = records.stats();
        assert_eq!((stats.undone, stats.panics, stats.queued), (40, 20, 0), "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_have_one_name_on_both() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let run = |sql: &'static str| {
            let records = records.clone();
            async move { records.write(move |tx| tx.execute(sql, &[])).await }
        };
        assert!(matches!(run("INSERT INTO demo_counter (id, n) VALUES ('a', 1)").await, Err(Error::Unique(_))));
        assert!(matches!(run("INSERT INTO demo_counter (id, n) VALUES ('b', -1)").await, Err(Error::Check(_))));
        assert!(matches!(run("INSERT INTO demo_counter (id, n) VALUES (NULL, 1)").await, Err(Error::Check(_))));
        assert!(matches!(run("INSERT INTO demo_counter (id, n) VALUES ('b', 'x')").await, Err(Error::Check(_))));
        assert!(matches!(run("INSERT INTO demo_note (counter) VALUES ('none')").await, Err(Error::Reference(_))));
        assert!(matches!(run("INSERT INTO nowhere (id) VALUES (1)").await, Err(Error::Statement(_))));
        assert_eq!(run("INSERT INTO demo_counter (id, n) VALUES ('b', 1)").await, Ok(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_they_went() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let bytes: Vec<u8> = (0..=255).collect();
        let expected = ("雨 🌧 'q'".to_owned(), Some(0.1 + 0.2), Some(bytes.clone()), None::<String>);
        let given = expected.clone();
        let row = records
            .write(move |tx| {
                tx.query_one(
                    "INSERT INTO demo_note (note, weight, raw, counter) VALUES ($3, $1, $2, $4)
                     RETURNING note, weight, raw, counter, id",
                    params![given.1, given.2, given.0, given.3],
                    |row| Ok(((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?), row.get::<i64>(4)?)),
                )
            })
            .await;
        assert_eq!(row, Ok::<_, Error>((expected, 1)), "{engine:?}");
        // The same number may stand twice, and an integer goes where a real is wanted.
        let same = records.read(|read| {
            let sql = "SELECT CAST(SUM(id) AS BIGINT) FROM demo_note WHERE id >= $1 AND weight < $2 AND id <= $1";
            read.query_one(sql, params![1, 1], |row| row.get::<i64>(0))
        });
        assert_eq!(same.await, Ok::<_, Error>(1));
        let refused: [&[Param<'_>]; 2] = [params!["a\0b", 1], params!["b", f64::NAN]];
        for values in refused {
            let result = tokio::task::block_in_place(|| {
                records.read_blocking(|read| read.query("SELECT $1, $2", values, |_| Ok(())))
            });
            assert!(matches!(result, Err(Error::Invalid(_))), "{engine:?} {result:?}");
        }
        let few = records.read(|read| read.query("SELECT $1, $2", params![1], |_| Ok(()))).await;
        assert!(matches!(few, Err::<Vec<()>, _>(Error::Statement(_))), "{engine:?} {few:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_cannot_write_and_sees_one_snapshot() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let written = records.read(|read| read.query("DELETE FROM demo_counter RETURNING id", &[], |_| Ok(()))).await;
        assert!(written.is_err_and(|error: Error| !error.is_transient()), "{engine:?}");
        let writer = records.clone();
        let pair = records.read(move |read| {
            let sql = "SELECT n FROM demo_counter WHERE id = 'a'";
            let before: i64 = read.query_one(sql, &[], |row| row.get(0))?;
            writer.write_blocking(|tx| add(tx, "a", 5))?;
            Ok::<_, Error>((before, read.query_one(sql, &[], |row| row.get::<i64>(0))?))
        });
        assert_eq!(pair.await, Ok((0, 0)), "{engine:?}");
        assert_eq!(counter(&records, "a").await, Some(5), "{engine:?}");
        let panicked = records.read(|_| -> Result<(), Error> { panic!("eek") }).await;
        assert_eq!(panicked, Err(Error::Panicked("eek".to_owned())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_statement_nothing_more_is_done() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let swallowed = records.write(|tx| {
            add(tx, "a", 1)?;
            let first = insert(tx, "a", 7);
            let second = add(tx, "a", 1);
            assert!(matches!((first, second), (Err(Error::Unique(_)), Err(Error::Failed(_)))));
            Ok::<_, Error>(())
        });
        assert!(matches!(swallowed.await, Err(Error::Failed(_))), "{engine:?}");
        let attempted = records.write(|tx| {
            add(tx, "a", 1)?;
            let part = tx.attempt(|tx| {
                add(tx, "a", 100)?;
                insert(tx, "a", 7)
            });
            assert!(matches!(part, Err(Error::Unique(_))));
            let inner = tx.attempt(|tx| tx.attempt(|tx| add(tx, "a", 10)));
            assert_eq!(inner, Ok::<_, Error>(1));
            Ok::<_, Error>(())
        });
        assert_eq!(attempted.await, Ok(()), "{engine:?}");
        assert_eq!(counter(&records, "a").await, Some(11), "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_lose_nothing() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let tasks = (0..256).map(|_| {
            let records = records.clone();
            tokio::spawn(async move {
                for _ in 0..4 {
                    let added = records.write(|tx| {
                        let sql = "SELECT n FROM demo_counter WHERE id = 'a'";
                        let n: i64 = tx.query_one(sql, &[], |row| row.get(0))?;
                        tx.execute("UPDATE demo_counter SET n = $1 WHERE id = 'a'", params![n + 1])
                    });
                    assert_eq!(added.await, Ok(1));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(counter(&records, "a").await, Some(1_024), "{engine:?}");
        if engine == Engine::Sqlite {
            let stats = records.stats();
            assert!(stats.flushes < stats.commands / 2, "commits are not grouped: {stats:?}");
        }
    }
}

/// Each reads what the other writes: one of them must run again, on whatever schedule.
#[tokio::test(flavor = "multi_thread")]
async fn write_skew_is_refused_and_run_again() {
    let place = Place::new(Engine::Postgres);
    let records = demo(&place);
    records.write(|tx| insert(tx, "b", 0)).await.unwrap();
    let meet = Arc::new(std::sync::Barrier::new(2));
    let runs = Arc::new(AtomicU32::new(0));
    let doctor = |own: &'static str, other: &'static str| {
        let (meet, runs) = (Arc::clone(&meet), Arc::clone(&runs));
        records.write(move |tx| {
            let sql = "SELECT n FROM demo_counter WHERE id = $1";
            let others: i64 = tx.query_one(sql, params![other], |row| row.get(0))?;
            // Both have read before either writes; later runs do not wait.
            if runs.fetch_add(1, Ordering::SeqCst) < 2 {
                meet.wait();
            }
            if others == 0 {
                add(tx, own, 1)?;
            }
            Ok::<_, Error>(())
        })
    };
    let (first, second) = tokio::join!(doctor("a", "b"), doctor("b", "a"));
    assert_eq!((first, second), (Ok(()), Ok(())));
    let sum = counter(&records, "a").await.unwrap() + counter(&records, "b").await.unwrap();
    assert_eq!(sum, 1, "both went off duty");
    assert!(runs.load(Ordering::SeqCst) > 2 && records.stats().retries > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writer_commits_in_the_order_of_asking() {
    let place = Place::new(Engine::Sqlite);
    let records = demo(&place);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut answers = Vec::new();
    for n in 0..500_i64 {
        let order = Arc::clone(&order);
        let mut write = Box::pin(records.write(move |tx| {
            order.lock().unwrap().push(n);
            tx.execute("INSERT INTO demo_note (note) VALUES ($1)", params![n.to_string()])
        }));
        // Polled once, so that it stands in the queue before the next is made.
        assert!(futures::poll!(&mut write).is_pending());
        answers.push(write);
    }
    for answer in answers {
        assert_eq!(answer.await, Ok::<_, Error>(1));
    }
    assert_eq!(*order.lock().unwrap(), (0..500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_answers_what_is_queued_and_nothing_after() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let mut last = Box::pin(records.write(|tx| add(tx, "a", 1)));
        assert!(futures::poll!(&mut last).is_pending());
        records.close().await;
        assert_eq!(last.await, Ok(1));
        assert_eq!(records.write(|tx| add(tx, "a", 1)).await, Err(Error::Closed));
        records.close().await;
        drop(records);
        assert_eq!(counter(&place.open(), "a").await, Some(1), "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_ordered_alike() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        for id in ["B", "b", "A", "é", "z", "Z", "_", "1", "雨"] {
            records.write(move |tx| insert(tx, id, 1)).await.unwrap();
        }
        let ids = records.read(|read| {
            let sql = "SELECT id FROM demo_counter WHERE id > $1 ORDER BY id";
            read.query(sql, params!["A"], |row| row.get::<String>(0))
        });
        let ids = ids.await.unwrap_or_else(|error: Error| panic!("{error}")).join("");
        assert_eq!(ids, "BZ_abzé雨", "{engine:?}");
    }
}
