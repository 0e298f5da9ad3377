//! Much at once: ten thousand alarms in a minute, messages that arrive together, receivers that fail while everything is loud.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Bytes as Body, http::StatusCode, routing::any};
use kernel::SystemClock;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    notify::{deliveries, hook, options, receiver, settle},
    *,
};
use crate::{
    alarms::model::AlarmState,
    notify::{Notifier, model::DeliveryState},
};

const NOW: i64 = 1_000_000;

/// Gauges in one transaction; of every third another Datastream measures the same Thing.
async fn gauges(city: &City, many: i64) {
    let add = city.records.write(move |tx| {
        for id in 1..=many {
            let district = ["Yuen Long", "North", "Tai Po"][usize::try_from(id % 3).unwrap_or(0)];
            let properties = format!(r#"{{"system":"flood","district":"{district}"}}"#);
            tx.execute(
                "INSERT INTO sensing_thing (id, tenant, public, key, name, properties, system, district, x, y)
                 VALUES ($1, 'dsd', 1, $2, 'Gauge', $3, 'flood', $4, 114.07, 22.49)",
                params![id, format!("thing-{id}"), properties, district],
            )?;
            tx.execute(
                "INSERT INTO sensing_datastream (id, tenant, public, key, unit, thing_id, observed_property_id)
                 VALUES ($1, 'dsd', 1, $2, '{\"symbol\":\"m\"}', $1, 1)",
                params![id, format!("thing-{id}.level")],
            )?;
        }
        Ok::<_, records::Error>(())
    });
    add.await.expect("gauges");
}

/// Ten thousand gauges go over their level within a minute of the city's clock: through the stream, the machines and the records, as it would be.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_alarms_are_a_few_letters_and_a_board_of_pages() {
    const GAUGES: i64 = 10_000;
    let (port, calls) = receiver(vec![]).await;
    let city = City::new(Store::Sqlite).await;
    gauges(&city, GAUGES).await;
    let to = Recipient { group: 300, ..hook(format!("http://127.0.0.1:{port}/hook")) };
    city.apply(vec![RuleDeclaration { notify: vec!["hook".to_owned()], ..high(0) }], vec![to]).await;
    let engine = city.engine().await;
    let mut next = 0;
    for from in (1..=GAUGES).step_by(500) {
        let rows: Vec<(i64, i64, f64)> = (from..from + 500).map(|id| (id, NOW, 11.0)).collect();
        next = city.send(&rows).await;
        city.clock.advance_micros(2_500_000);
    }
    engine.evaluated(next).await;
    engine.stop().await;
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_alarm WHERE state = 'open'").await, GAUGES);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 3, "one for each district at once");
    city.clock.advance_micros(300 * 1_000_000);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 6, "and one for each when the span is over");
    let gathered: i64 = deliveries(&city).await.iter().map(|d| i64::from(d.gathered)).sum();
    assert_eq!(gathered, GAUGES, "every alarm is in one of them");
    // The board is pages of an index: each alarm once, newest first, whatever the filter.
    let filter = Filter { states: [AlarmState::Open, AlarmState::Acknowledged].into(), ..Filter::default() };
    let (mut seen, mut after) = (BTreeSet::new(), None);
    loop {
        let page = city.alarms.list(&Caller::system("test"), filter.clone(), after, Some(500)).await.expect("a page");
        assert!(page.alarms.windows(2).all(|w| w[0].id > w[1].id));
        seen.extend(page.alarms.iter().map(|a| a.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len() as i64, GAUGES);
    let plan = city.records.read(|read| {
        let sql = "EXPLAIN QUERY PLAN SELECT id FROM sensing_alarm WHERE state = 'open' ORDER BY id DESC LIMIT 50";
        read.query(sql, params![], |row| row.get::<String>(3))
    });
    let plan = plan.await.expect("a plan").join("; ");
    assert!(plan.contains("sensing_alarm_state") && !plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{plan}");
}

/// Messages of one Thing arrive together by many ways, some of them twice: one alarm stands, and it is told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_that_arrive_together_make_one_alarm() {
    const THINGS: i64 = 20;
    let city = City::new(Store::Sqlite).await;
    for thing in 1..=THINGS {
        // Two Datastreams of each Thing see the same water.
        gauge(&city.records, thing, thing, "dsd", true).await;
        gauge(&city.records, thing + THINGS, thing, "dsd", true).await;
    }
    let to = hook("https://control.example/alarms".to_owned());
    city.apply(vec![RuleDeclaration { notify: vec!["hook".to_owned()], ..high(0) }], vec![to]).await;
    let engine = city.engine().await;
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let topic = city.topic.clone();
        senders.spawn(async move {
            let mut next = 0;
            for thing in 1..=THINGS {
                let at = NOW + sender % 2;
                let rows = [(thing, at, 11.0), (thing + THINGS, at, 12.0)];
                // Half of the senders say it in one message, half in two.
                next = if sender < 4 {
                    send(&topic, &rows).await
                } else {
                    send(&topic, &rows[..1]).await;
                    send(&topic, &rows[1..]).await
                };
            }
            next
        });
    }
    let mut last = 0;
    while let Some(next) = senders.join_next().await {
        last = last.max(next.expect("sent"));
    }
    engine.evaluated(last).await;
    engine.stop().await;
    let count = |alarms: Vec<Alarm>| {
        let mut by_thing: BTreeMap<i64, usize> = BTreeMap::new();
        alarms.iter().for_each(|a| *by_thing.entry(a.thing.0).or_default() += 1);
        by_thing
    };
    let raised = count(city.all().await);
    assert_eq!(raised.len() as i64, THINGS);
    assert!(raised.values().all(|many| *many == 1), "{raised:?}");
    assert_eq!(deliveries(&city).await.len() as i64, THINGS);
    // All of it read again, as after a crash before any checkpoint.
    let forget = city.records.write(|tx| tx.execute("UPDATE sensing_rule_position SET next_offset = 0", params![]));
    forget.await.expect("forgotten");
    let engine = city.engine().await;
    engine.evaluated(last).await;
    engine.stop().await;
    assert_eq!(count(city.all().await), raised);
    assert_eq!(deliveries(&city).await.len() as i64, THINGS);
}

/// Three hundred alarms for three receivers: one is well, one refuses two calls of three, one never accepts. Meanwhile the program that sends is
/// stopped and started. Whatever was due has arrived or is a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_notification_is_lost_under_load() {
    const ALARMS: i64 = 300;
    let heard: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::default();
    let turns = Arc::new(AtomicUsize::new(0));
    let taken = Arc::clone(&heard);
    let take = move |path: axum::extract::Path<String>, body: Body| async move {
        let refuses = match path.0.as_str() {
            "well" => false,
            "flaky" => !turns.fetch_add(1, Ordering::SeqCst).is_multiple_of(3),
            _ => true,
        };
        if refuses {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        taken.lock().entry(path.0).or_default().insert(json["data"]["id"].as_str().expect("an id").to_owned());
        StatusCode::NO_CONTENT
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/{to}", any(take))).await });
    let city = City::with(Store::Sqlite, Arc::new(FixedClock::at(secs(NOW))), Arc::new(SystemClock)).await;
    gauges(&city, ALARMS).await;
    let names = ["well", "flaky", "gone"];
    let to = |name: &&str| Recipient { key: (*name).to_owned(), ..hook(format!("http://127.0.0.1:{port}/{name}")) };
    let rule = RuleDeclaration { notify: names.iter().map(|n| (*n).to_owned()).collect(), ..high(0) };
    city.apply(vec![rule], names.iter().map(to).collect()).await;
    let engine = city.engine().await;
    let mut work = options(None, &["127.0.0.1"]);
    // So short that the lease of what a stopped program held is over at once.
    work.retry = records::RetryPolicy {
        lease: Duration::from_millis(200),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
    };
    work.concurrency = 16;
    let start = || {
        let notifier = Notifier::new(city.records.clone(), work.clone()).expect("options");
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        (stop, tokio::spawn(async move { notifier.run(stopping.cancelled_owned()).await }))
    };
    // Killed in the midst of its work, twice, while alarms come in.
    let mut next = 0;
    for from in (1..=ALARMS).step_by(100) {
        let (_, running) = start();
        for id in from..from + 100 {
            next = city.send(&[(id, NOW, 11.0)]).await;
        }
        engine.evaluated(next).await;
        running.abort();
    }
    engine.stop().await;
    let (stop, running) = start();
    let done = loop {
        let visible = city.alarms.visible(&Caller::system("test"));
        let read = city.records.read(move |r| crate::notify::store::list(r, &visible, None, None, None, 10_000));
        let all = read.await.expect("deliveries");
        if all.iter().all(|d| matches!(d.state, DeliveryState::Delivered | DeliveryState::Dead)) {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stop.cancel();
    running.await.expect("ran").expect("worked");
    assert_eq!(done.len() as i64, ALARMS * 3, "one for each alarm and recipient");
    let heard = heard.lock().clone();
    for name in names {
        let of =
            |state| done.iter().filter(move |d| d.recipient == name && d.state == state).map(|d| d.alarm.to_string());
        let delivered: BTreeSet<String> = of(DeliveryState::Delivered).collect();
        assert_eq!(delivered.len() + of(DeliveryState::Dead).count(), ALARMS as usize, "{name}");
        let arrived = heard.get(name).cloned().unwrap_or_default();
        assert!(delivered.is_subset(&arrived), "{name}: what is said to be delivered has arrived");
        match name {
            "well" => assert_eq!(arrived.len() as i64, ALARMS),
            "gone" => assert!(delivered.is_empty()),
            _ => {}
        }
    }
    let pending = "SELECT COUNT(*) FROM records_job WHERE queue = 'sensing-notify'";
    assert_eq!(city.count(pending).await, 0);
}
