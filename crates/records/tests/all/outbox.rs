use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use records::{Emitted, Error, Event, Records, params};
use serde_json::json;

use crate::support::{BOTH, Engine, Place, demo, fixed_clock};

fn event(key: &str, n: i64) -> Event {
    Event { topic: "demo".to_owned(), key: key.to_owned(), payload: json!({ "n": n }) }
}

async fn drain(records: &Records, position: &mut i64, into: &mut Vec<Emitted>) {
    loop {
        let events = records.outbox().fetch(*position, 100).await.unwrap();
        let Some(last) = events.last() else { return };
        *position = last.position;
        into.extend(events);
    }
}

/// A reader that never looks back must see every event of every writer, each once, those of one key in order.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_skipped_beside_concurrent_writers() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let records = records.clone();
                tokio::spawn(async move {
                    for n in 0..25_i64 {
                        let result = records.write(move |tx| {
                            tx.emit(event(&format!("w{writer}"), n))?;
                            // Some hold their number while others commit; some never commit.
                            tx.query("SELECT COUNT(*) FROM demo_counter", &[], |_| Ok(()))?;
                            if n % 5 == 4 { Err(Error::NoRow) } else { tx.emit(event("common", n)).map(drop) }
                        });
                        assert_eq!(result.await.is_ok(), n % 5 != 4);
                    }
                })
            })
            .collect();
        let (mut position, mut seen) = (0, Vec::new());
        while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
            drain(&records, &mut position, &mut seen).await;
        }
        for writer in writers {
            writer.await.unwrap();
        }
        drain(&records, &mut position, &mut seen).await;

        assert_eq!(seen.len(), 16 * 20 * 2, "{engine:?}");
        assert!(seen.windows(2).all(|pair| pair[0].position < pair[1].position), "{engine:?}");
        assert_eq!(seen.iter().map(|event| event.id).collect::<BTreeSet<_>>().len(), seen.len());
        let mut by_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for event in &seen {
            by_key.entry(event.key.clone()).or_default().push(event.payload["n"].as_i64().unwrap());
        }
        let own: Vec<i64> = (0..25).filter(|n| n % 5 != 4).collect();
        for writer in 0..16 {
            assert_eq!(by_key[&format!("w{writer}")], own, "{engine:?}");
        }
    }
}

/// The case that plain sequences get wrong, step by step: an event written early commits late.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_not_skipped() {
    let place = Place::new(Engine::Postgres);
    let records = demo(&place);
    let (early_written, written) = std::sync::mpsc::channel();
    let (go, may_commit) = std::sync::mpsc::channel::<()>();
    let early = tokio::spawn({
        let records = records.clone();
        async move {
            records
                .write(move |tx| {
                    tx.emit(event("early", 1))?;
                    early_written.send(()).unwrap();
                    may_commit.recv().unwrap();
                    Ok::<_, Error>(())
                })
                .await
        }
    });
    tokio::task::block_in_place(|| written.recv()).unwrap();
    records.write(|tx| tx.emit(event("late", 2))).await.unwrap();
    let first = records.outbox().fetch(0, 10).await.unwrap();
    assert_eq!(first.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["late"]);
    go.send(()).unwrap();
    early.await.unwrap().unwrap();
    let second = records.outbox().fetch(first[0].position, 10).await.unwrap();
    assert_eq!(second.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["early"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_events_go_and_positions_go_on() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        drop(records);
        let records = place.open_at(fixed_clock());
        let outbox = records.outbox();
        for n in 0..5 {
            records.write(move |tx| tx.emit(event("k", n))).await.unwrap();
        }
        let events = outbox.fetch(0, 3).await.unwrap();
        assert_eq!(events.iter().map(|event| event.position).collect::<Vec<_>>(), [1, 2, 3], "{engine:?}");
        assert_eq!(outbox.fetch(0, 3).await.unwrap(), events, "the same again until it is delivered");
        outbox.mark_delivered(3).await.unwrap();
        outbox.mark_delivered(1).await.unwrap();
        outbox.mark_delivered(99).await.unwrap();
        assert_eq!(outbox.delivered().await, Ok(3), "{engine:?}");
        let left = outbox.fetch(0, 10).await.unwrap();
        assert_eq!(left.iter().map(|event| event.position).collect::<Vec<_>>(), [4, 5], "{engine:?}");
        outbox.mark_delivered(5).await.unwrap();
        records.write(|tx| tx.emit(event("k", 5))).await.unwrap();
        assert_eq!(outbox.fetch(0, 10).await.unwrap()[0].position, 6, "{engine:?}");
        assert!(matches!(outbox.fetch(0, 0).await, Err(Error::Invalid(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wakes_the_reader() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        let mut outbox = records.outbox();
        let reader = tokio::spawn(async move {
            // Longer than the test may last: only a wake-up ends it.
            outbox.wait(Duration::from_secs(3_600)).await;
            outbox.fetch(0, 10).await
        });
        records
            .write(|tx| tx.execute("DELETE FROM demo_note", params![]))
            .await
            .unwrap_or_else(|e: Error| panic!("{e}"));
        records.write(|tx| tx.emit(event("k", 1))).await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap().len(), 1, "{engine:?}");
    }
}
