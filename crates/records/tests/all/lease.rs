//! One holder at a time, and no write of an old one after it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use records::{Error, Look, Records, Term, params};

use crate::support::{BOTH, Engine, Place, counter, demo, insert};

const CITY: &str = "city";

async fn mine(records: &Records, holder: &str) -> Term {
    match records.take_lease(CITY, holder, None).await.unwrap() {
        Look::Mine(term) => term,
        Look::Held(by) => panic!("{} has it", by.holder),
    }
}

async fn add(records: &Records) -> Result<(), Error> {
    records.write(|tx| tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[]).map(drop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_held_by_one_given_back_and_taken_from_the_silent() {
    for engine in BOTH {
        let place = Place::new(engine);
        let (one, two) = (place.open(), place.open());
        let first = mine(&one, "one").await;
        let Look::Held(seen) = two.take_lease(CITY, "two", None).await.unwrap() else { panic!("{engine:?}") };
        assert_eq!(seen.holder, "one");
        assert_eq!(one.renew_lease(first).await, Ok(true));
        // What was seen is not what is there any more: the holder lives.
        let held = two.take_lease(CITY, "two", Some(seen.clone())).await.unwrap();
        let Look::Held(again) = held else { panic!("{engine:?}") };
        assert_ne!(again, seen);
        // Now it has been silent.
        let Look::Mine(second) = two.take_lease(CITY, "two", Some(again)).await.unwrap() else { panic!("{engine:?}") };
        assert_eq!(second.number(), first.number() + 1);
        assert_eq!(one.renew_lease(first).await, Ok(false));
        assert_eq!(one.release_lease(first).await, Ok(false), "{engine:?}: not its own to give");
        assert!(matches!(one.take_lease(CITY, "one", None).await, Ok(Look::Held(_))));
        assert_eq!(two.release_lease(second).await, Ok(true));
        assert_eq!(two.renew_lease(second).await, Ok(false), "{engine:?}: given back is given back");
        assert_eq!(mine(&one, "one").await.number(), 3);
        // Another lease is another affair.
        assert!(matches!(two.take_lease("other", "two", None).await, Ok(Look::Mine(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_one_gets_it() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records: Vec<Records> = (0..4).map(|_| place.open()).collect();
        let takes = (0..16).map(|i| records[i % 4].take_lease(CITY, "someone", None));
        let looks = futures::future::join_all(takes).await;
        let won = looks.into_iter().filter(|look| matches!(look, Ok(Look::Mine(_)))).count();
        assert_eq!(won, 1, "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_lease_writes_nothing_more() {
    for engine in BOTH {
        let place = Place::new(engine);
        let one = demo(&place);
        let two = place.open();
        let first = mine(&one, "one").await;
        one.fence(first).unwrap();
        assert!(matches!(one.fence(first), Err(Error::Invalid(_))));
        add(&one).await.unwrap();
        let Look::Held(seen) = two.take_lease(CITY, "two", None).await.unwrap() else { panic!("{engine:?}") };
        assert!(matches!(two.take_lease(CITY, "two", Some(seen)).await, Ok(Look::Mine(_))));
        // Alone and in a group.
        assert_eq!(add(&one).await, Err(Error::Fenced), "{engine:?}");
        let many = futures::future::join_all((0..8).map(|_| add(&one))).await;
        assert!(many.iter().all(|one| *one == Err(Error::Fenced)), "{engine:?}: {many:?}");
        assert_eq!(counter(&one, "a").await, Some(1), "{engine:?}: it still reads");
        add(&two).await.unwrap();
        assert_eq!(counter(&one, "a").await, Some(2), "{engine:?}");
    }
}

/// The old holder is in the middle of a transaction when the lease is taken from it, and then commits. Whatever it is told, the new holder
/// never decides on what the old one has changed behind its back: here, who gives out a number twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_under_way_is_ordered_before_the_new_holders_or_fails() {
    let place = Place::new(Engine::Postgres);
    let one = demo(&place);
    one.write(|tx| insert(tx, "next", 1)).await.unwrap();
    let two = place.open();
    let first = mine(&one, "one").await;
    one.fence(first).unwrap();
    let (begun, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (has_begun, may_go) = (Arc::clone(&begun), Arc::clone(&go));
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let old = {
        let one = one.clone();
        tokio::spawn(async move {
            one.write(move |tx| {
                let next: i64 = tx.query_one("SELECT n FROM demo_counter WHERE id = 'next'", &[], |row| row.get(0))?;
                has_begun.store(true, SeqCst);
                counted.fetch_add(1, SeqCst);
                while !may_go.load(SeqCst) {
                    std::thread::yield_now();
                }
                tx.execute("UPDATE demo_counter SET n = $1 WHERE id = 'next'", params![next + 1])?;
                Ok::<_, Error>(next)
            })
            .await
        })
    };
    while !begun.load(SeqCst) {
        tokio::task::yield_now().await;
    }
    let Look::Held(seen) = two.take_lease(CITY, "two", None).await.unwrap() else { panic!("held") };
    let Look::Mine(second) = two.take_lease(CITY, "two", Some(seen)).await.unwrap() else { panic!("free") };
    two.fence(second).unwrap();
    // The new holder has decided before the old one goes on.
    let given = two
        .write(|tx| {
            let next: i64 = tx.query_one("SELECT n FROM demo_counter WHERE id = 'next'", &[], |row| row.get(0))?;
            tx.execute("UPDATE demo_counter SET n = $1 WHERE id = 'next'", params![next + 1])?;
            Ok::<_, Error>(next)
        })
        .await
        .unwrap();
    go.store(true, SeqCst);
    assert_eq!(old.await.unwrap(), Err(Error::Fenced), "it lost, was run again, and met the fence");
    assert_eq!(runs.load(SeqCst), 1, "the fence stands before the command");
    assert_eq!((given, counter(&two, "next").await), (1, Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_is_held_by_nobody() {
    for engine in BOTH {
        let (place, other) = (Place::new(engine), Place::new(engine));
        let records = demo(&place);
        let first = mine(&records, "one").await;
        let file = place.folder().join("backup");
        records.backup(&file).await.unwrap();
        let options = other.options();
        tokio::task::spawn_blocking(move || records::restore(&options, &file, &kernel::SystemClock))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(mine(&other.open(), "two").await.number(), first.number() + 1, "{engine:?}");
    }
}
