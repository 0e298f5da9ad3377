use std::{collections::BTreeMap, future::Future, sync::atomic::Ordering::Relaxed};

use kernel::{Clock as _, Id};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    alarms::model::AlarmState,
    rules::{self, core::SlotRow, machine::State},
};

const NOW: i64 = 1_000_000;

async fn storm(store: Store) {
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    gauge(&city.records, 2, 1, "dsd", true).await;
    city.apply(vec![high(0)], vec![]).await;
    let engine = city.engine().await;
    // Two Datastreams of one Thing, 200 messages of the same second, each twice, all at once.
    let sends = (0..200).map(|n| {
        let topic = city.topic.clone();
        tokio::spawn(async move {
            send(&topic, &[(1 + n % 2, NOW + n / 100, 11.0), (1 + n % 2, NOW + n / 100, 11.0)]).await
        })
    });
    let mut last = 0;
    for sent in futures::future::join_all(sends).await {
        last = last.max(sent.expect("sent"));
    }
    engine.evaluated(last).await;
    let alarms = city.all().await;
    assert_eq!(alarms.len(), 1, "{store:?}");
    assert_eq!((alarms[0].state, alarms[0].thing, alarms[0].value), (AlarmState::Open, EntityId(1), Some(11.0)));
    assert_eq!(alarms[0].unit.as_deref(), Some("m"));
    assert_eq!(city.count("SELECT COUNT(*) FROM records_event WHERE topic = 'events'").await, 1);
    assert_eq!(city.count("SELECT COUNT(*) FROM records_audit WHERE action = 'alarm:raise'").await, 1);
    // Over at one, not at the other; then at both; then again.
    let next = city.send(&[(1, NOW + 5, 7.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].state, AlarmState::Open);
    let next = city.send(&[(2, NOW + 5, 7.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].state, AlarmState::Cleared);
    assert_eq!(city.all().await[0].cleared_at, Some(secs(NOW + 5)));
    let next = city.send(&[(1, NOW + 6, 12.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await.iter().map(|a| a.state).collect::<Vec<_>>(), [AlarmState::Open, AlarmState::Cleared]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_messages_is_one_alarm() {
    storm(Store::Sqlite).await;
    storm(Store::Postgres).await;
}

/// A stream whose disk is busy: what has arrived since some moment is not there yet.
struct Busy(TopicFeed, Arc<parking_lot::Mutex<Option<Timestamp>>>);

impl Feed for Busy {
    type Reader = TopicReader;
    fn read(&self, offset: u64) -> impl Future<Output = Result<TopicReader, Error>> + Send {
        self.0.read(offset)
    }
    fn end(&self) -> u64 {
        self.0.end()
    }
    fn settled(&self) -> (Timestamp, u64) {
        let (at, end) = self.0.settled();
        (self.1.lock().map_or(at, |since| since.min(at)), end)
    }
    fn hold(&self, _: u64) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_disk_is_no_silence() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    city.apply(vec![silent(600)], vec![]).await;
    let busy = Arc::new(parking_lot::Mutex::new(None));
    let feed = Busy(TopicFeed(city.topic.clone()), Arc::clone(&busy));
    let engine = engine::start(feed, city.alarms.clone(), city.clock.clone(), city.options()).await.expect("engine");
    let next = city.send(&[(1, NOW, 5.0)]).await;
    engine.evaluated(next).await;
    // The next one arrives in time, and is on its way to the disk for 200 seconds.
    city.clock.advance_micros(500 * 1_000_000);
    engine.ticked(secs(NOW + 500)).await;
    *busy.lock() = Some(secs(NOW + 500));
    city.clock.advance_micros(200 * 1_000_000);
    let ticks = engine.stats().ticks.load(Relaxed);
    while engine.stats().ticks.load(Relaxed) < ticks + 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(city.all().await.is_empty(), "nobody can say yet that nothing came");
    *busy.lock() = None;
    engine.ticked(secs(NOW + 700)).await;
    assert_eq!(city.all().await.len(), 1, "and now it is known");
    engine.stop().await;
}

async fn states_only_go_forward(store: Store) {
    let city = City::new(store).await;
    let put = async |next_offset: u64, value: f64| {
        let row = SlotRow {
            rule: "high".to_owned(),
            datastream: EntityId(1),
            thing: EntityId(1),
            next_offset,
            state: State { value: Some(value), ..State::default() },
            memory: None,
        };
        let rows = [row];
        city.records.write(move |tx| rules::store::put_states(tx, &rows)).await.expect("written");
        let states = city.records.read(rules::store::states).await.expect("states");
        (states[0].next_offset, states[0].state.value)
    };
    assert_eq!(put(7, 1.0).await, (7, Some(1.0)));
    assert_eq!(put(9, 2.0).await, (9, Some(2.0)));
    assert_eq!(put(8, 3.0).await, (9, Some(2.0)), "{store:?}: what a dying program still writes is older");
    assert_eq!(put(9, 4.0).await, (9, Some(4.0)), "time alone moves a state too");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_never_replaces_a_newer() {
    states_only_go_forward(Store::Sqlite).await;
    states_only_go_forward(Store::Postgres).await;
}

async fn waits(store: Store) {
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    city.apply(vec![high(60), silent(600)], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    let advance = async |seconds: i64| {
        city.clock.advance_micros(seconds * 1_000_000);
        engine.ticked(city.clock.now()).await;
    };
    advance(59).await;
    assert!(city.all().await.is_empty(), "the hold is not over");
    advance(1).await;
    let alarms = city.all().await;
    assert_eq!(alarms.iter().map(|a| (a.rule.as_str(), a.raised_at)).collect::<Vec<_>>(), [("high", secs(NOW + 60))]);
    advance(539).await;
    assert_eq!(city.all().await.len(), 1, "not silent for long enough");
    advance(1).await;
    let alarms = city.all().await;
    assert_eq!(
        (alarms[0].rule.as_str(), alarms[0].raised_at, alarms[0].value),
        ("silent", secs(NOW + 600), Some(11.0))
    );
    // Back again: over at once for the silence, after its hold for the level.
    let next = city.send(&[(1, NOW + 700, 7.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await.iter().map(|a| a.state).collect::<Vec<_>>(), [AlarmState::Cleared, AlarmState::Open]);
    advance(60).await;
    assert!(city.all().await.iter().all(|a| a.state == AlarmState::Cleared));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_and_silence_end_by_the_clock() {
    waits(Store::Sqlite).await;
    waits(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_no_silence_and_nothing_is_forgotten() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    city.apply(vec![high(0), silent(600)], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    engine.stop().await;
    // A day later, with a record that came while nobody was listening.
    city.clock.advance_micros(86_400_000_000);
    let missed = city.send(&[(1, NOW + 1, 7.0)]).await;
    let engine = city.engine().await;
    engine.evaluated(missed).await;
    engine.ticked(city.clock.now()).await;
    let alarms = city.all().await;
    assert_eq!(alarms.iter().map(|a| (a.rule.as_str(), a.state)).collect::<Vec<_>>(), [("high", AlarmState::Cleared)]);
    city.clock.advance_micros(600_000_000);
    engine.ticked(city.clock.now()).await;
    assert_eq!(city.all().await.len(), 2, "silent since the restart");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_things_and_changed_rules_are_noticed() {
    let city = City::new(Store::Sqlite).await;
    city.apply(vec![high(0)], vec![]).await;
    let engine = city.engine().await;
    city.gauge(7, "dsd", true).await;
    city.gauge(8, "epd", true).await;
    let next = city.send(&[(7, NOW, 11.0), (8, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await.len(), 1, "the first Observation counts, another tenant's never");
    let again = city.rules.apply(&Caller::system("test"), vec![high(0)], vec![]).await.expect("applied");
    assert_eq!((again.written, again.removed, again.unchanged), (0, 0, 1));
    let removed = city.rules.apply(&Caller::system("test"), vec![], vec![]).await.expect("applied");
    assert_eq!(removed.removed, 1);
    engine.reload();
    city.clock.advance_micros(20_000_000);
    engine.ticked(city.clock.now()).await;
    assert_eq!(city.all().await[0].state, AlarmState::Cleared, "nobody is left who could clear it");
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_rule_state").await, 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_away_are_waited_for() {
    let city = City::new(Store::Postgres).await;
    city.gauge(1, "dsd", true).await;
    city.apply(vec![high(0)], vec![]).await;
    let engine = city.engine().await;
    let database = city._database.as_ref().expect("postgres");
    database.goes_away();
    let next = city.send(&[(1, NOW, 11.0)]).await;
    while engine.stats().failures.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    database.comes_back();
    engine.evaluated(next).await;
    assert_eq!(city.all().await.len(), 1);
    engine.stop().await;
}

type Outcome = BTreeMap<Id<Alarm>, (i64, Timestamp, Option<Timestamp>)>;

fn outcome(alarms: &[Alarm]) -> Outcome {
    alarms.iter().map(|a| (a.id, (a.thing.0, a.raised_at, a.cleared_at))).collect()
}

/// The same records with and without crashes: engines are torn down in the middle of whatever they do.
async fn crashes(store: Store, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let script: Vec<Vec<(i64, i64, f64)>> = (0..150i64)
        .map(|n| {
            (0..3)
                .map(|_| {
                    (
                        random.random_range(1..=4),
                        NOW + n - random.random_range(0..5),
                        [7.0, 9.0, 11.0][random.random_range(0..3)],
                    )
                })
                .collect()
        })
        .collect();
    let mut results: Vec<Outcome> = Vec::new();
    for crash in [false, true] {
        let city = City::new(store).await;
        for id in 1..=4 {
            gauge(&city.records, id, 1 + id % 3, "dsd", true).await;
        }
        city.apply(vec![high(0)], vec![]).await;
        // The first life decides where reading begins; all others continue.
        city.engine().await.stop().await;
        let mut engine: Option<tokio::runtime::Runtime> = None;
        for rows in &script {
            if engine.is_none() || (crash && random.random_bool(0.2)) {
                // Not a stop: tasks vanish at their next await, with whatever they held.
                if let Some(old) = engine.take() {
                    old.shutdown_background();
                }
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("runtime");
                let (feed, alarms, clock) = (TopicFeed(city.topic.clone()), city.alarms.clone(), city.clock.clone());
                let mut options = city.options();
                // Some lives are long enough for a checkpoint, others are not.
                options.checkpoint = Duration::from_secs(random.random_range(1..4));
                runtime.spawn(async move { engine::start(feed, alarms, clock, options).await.expect("engine") });
                engine = Some(runtime);
            }
            city.send(rows).await;
            city.clock.advance_micros(1_000_000);
        }
        engine.take().expect("running").shutdown_background();
        let last = city.engine().await;
        last.evaluated(city.topic.end().0).await;
        let alarms = city.all().await;
        let open = city.count("SELECT COUNT(*) FROM sensing_alarm WHERE open_key IS NOT NULL").await;
        assert_eq!(open, alarms.iter().filter(|a| a.state.stands()).count() as i64);
        last.stop().await;
        results.push(outcome(&alarms));
    }
    assert!(!results[0].is_empty());
    assert_eq!(results[0], results[1], "seed {seed} {store:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_any_moment_change_no_alarm() {
    for seed in 0..4 {
        crashes(Store::Sqlite, seed).await;
    }
    crashes(Store::Postgres, 9).await;
}
