//! Geofences in the rules: on a real stream and real records, through a crash, and over the past.

use std::sync::Arc;

use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    moving::{Fences, fences::Districts},
    observe::Extra,
    rules::trial::replay::{Row, replay},
};

/// Metres east of the middle of the yard.
fn point(east: f64) -> String {
    let lon = 114.1 + east / (111_195.0 * 22.3f64.to_radians().cos());
    format!(r#"{{"type":"Point","coordinates":[{lon},22.3]}}"#)
}

fn raw(text: &str) -> Arc<RawValue> {
    RawValue::from_string(text.to_owned()).expect("json").into()
}

/// Fixes of a Thing: its Datastream, seconds, metres east, metres of doubt.
async fn sail(city: &City, rows: &[(i64, i64, f64, f64)]) -> u64 {
    let mut batch = Batch::new();
    for &(datastream, at, east, doubt) in rows {
        let mut run = Run::new(EntityId(datastream), EntityId(1));
        let parameters = (doubt > 0.0).then(|| raw(&format!(r#"{{"accuracy": {doubt}}}"#)));
        run.push(secs(at), f64::NAN, Extra { result: Some(raw(&point(east))), parameters, ..Extra::default() });
        batch.push_run(run);
    }
    let bytes = Bytes::from(encode_frame(&Frame::Observed(batch)));
    city.topic.append(bytes).await.expect("durable").0 + 1
}

async fn fences(city: &City, radius: f64) -> Fences {
    let alarms = city.alarms.clone();
    let fences = tokio::task::spawn_blocking(move || Fences::open(alarms, Districts::new()).expect("table"));
    let fences = fences.await.expect("opens");
    draw(&fences, radius).await;
    fences
}

async fn draw(fences: &Fences, radius: f64) {
    let yard = |key: &str, lon: f64| {
        json!({"key": key, "tenant": "dsd", "kind": "yard", "name": {"en": "Yard", "zh-hant": "場", "zh-hans": "场"},
            "circle": {"lon": lon, "lat": 22.3, "radius": radius}})
    };
    let all = [yard("near", 114.1), yard("far", 114.2)].map(|f| serde_json::from_value(f).expect("a fence"));
    fences.apply(&Caller::system("test"), all.to_vec()).await.expect("applied");
}

fn watched(when: Value) -> RuleDeclaration {
    let when = serde_json::from_value(json!({ "geofence": when })).expect("a condition");
    RuleDeclaration { key: "yard".to_owned(), when, ..high(0) }
}

async fn came_in(store: Store) {
    let city = City::new(store).await;
    city.gauge(1, "dsd", false).await;
    city.gauge(2, "dsd", false).await;
    let fences = fences(&city, 100.0).await;
    city.apply(vec![watched(json!({"kind": "yard", "raise": "inside", "margin": 10, "max_speed": 50}))], Vec::new())
        .await;
    let engine = city.engine().await;
    let now = 1_000_000;
    // The second Thing never comes near.
    let mut next = sail(&city, &[(1, now - 100, -500.0, 0.0), (2, now - 100, 5_000.0, 0.0)]).await;
    // On the line, inside by less than the margin, inside but not sure: nothing.
    for (second, east, doubt) in [(-90, -100.0, 0.0), (-85, -95.0, 0.0), (-80, -50.0, 60.0)] {
        next = sail(&city, &[(1, now + second, east, doubt)]).await;
    }
    engine.evaluated(next).await;
    assert!(city.all().await.is_empty());
    next = sail(&city, &[(1, now - 70, 0.0, 0.0)]).await;
    engine.evaluated(next).await;
    let found = city.all().await;
    assert_eq!(found.len(), 1);
    let alarm = &found[0];
    assert_eq!((alarm.raised_at, alarm.thing.0, alarm.unit.as_deref()), (secs(now - 70), 1, Some("m")));
    assert!(alarm.value.is_some_and(|v| (v + 100.0).abs() < 1.0), "{:?}", alarm.value);
    // The program ends and another one goes on from the state rows: still one alarm. Leaving clears it, not sooner than beyond the line.
    engine.stop().await;
    let engine = city.engine().await;
    next = sail(&city, &[(1, now - 65, 95.0, 0.0), (1, now - 60, 105.0, 0.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].cleared_at, None);
    next = sail(&city, &[(1, now - 50, 400.0, 0.0)]).await;
    engine.evaluated(next).await;
    let found = city.all().await;
    assert_eq!((found.len(), found[0].cleared_at), (1, Some(secs(now - 50))));
    // A fence that is drawn anew is known to the engine when it is told.
    let reloading = engine.clone();
    fences.telling(move || reloading.reload());
    draw(&fences, 1_000.0).await;
    let slots = engine.stats().slots.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(slots, 2);
    engine.stop().await;
    let engine = city.engine().await;
    next = sail(&city, &[(1, now - 20, 700.0, 0.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await.len(), 2, "inside of the wider one");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_raises_one_alarm_sqlite() {
    came_in(Store::Sqlite).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_raises_one_alarm_postgres() {
    came_in(Store::Postgres).await;
}

/// Going out, staying out, and a fix that cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn who_stays_away_is_missed_and_a_jump_is_not_believed() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", false).await;
    fences(&city, 100.0).await;
    let when = json!({"fences": ["near", "far"], "raise": "outside", "margin": 10, "hold": 60, "max_speed": 20});
    city.apply(vec![watched(when)], Vec::new()).await;
    let engine = city.engine().await;
    let now = 1_000_000;
    let next = sail(&city, &[(1, now - 500, 0.0, 0.0), (1, now - 490, 4_000.0, 0.0), (1, now - 480, 0.0, 0.0)]).await;
    engine.evaluated(next).await;
    // Out for half a minute and in again, then out for good.
    let away = [(-470, 150.0), (-440, 200.0), (-430, 0.0), (-400, 200.0), (-370, 300.0), (-340, 500.0)];
    let rows: Vec<_> = away.iter().map(|(second, east)| (1, now + second, *east, 0.0)).collect();
    let next = sail(&city, &rows).await;
    engine.evaluated(next).await;
    let found = city.all().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].raised_at, secs(now - 340), "a minute after it went out");
    // In another of the fences it is back.
    let next = sail(&city, &[(1, now + 100, 10_300.0, 0.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].cleared_at, Some(secs(now + 100)));
    engine.stop().await;
}

/// A Thing that falls silent inside has stayed when the time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_stay_is_over_by_the_clock() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", false).await;
    fences(&city, 100.0).await;
    city.apply(vec![watched(json!({"fences": ["near"], "raise": "inside", "hold": 600}))], Vec::new()).await;
    let engine = city.engine().await;
    let next = sail(&city, &[(1, 1_000_000, 0.0, 0.0)]).await;
    engine.evaluated(next).await;
    assert!(city.all().await.is_empty());
    city.clock.advance_micros(601_000_000);
    engine.ticked(city.clock.now()).await;
    assert_eq!(city.all().await.len(), 1);
    engine.stop().await;
}

/// Rules about what stands within a fence, as the catalogue has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_selection_by_place() {
    let city = City::new(Store::Sqlite).await;
    for id in [1, 2] {
        city.gauge(id, "dsd", false).await;
    }
    // The gauges stand at 114.0725, 22.4985; one is moved into the yard.
    let moved =
        city.records.write(|tx| tx.execute("UPDATE sensing_thing SET x = 114.1, y = 22.3 WHERE id = 2", params![]));
    moved.await.expect("moved");
    fences(&city, 100.0).await;
    let select = Selection { within: Some("near".to_owned()), ..Selection::default() };
    city.apply(vec![RuleDeclaration { select: select.clone(), ..high(0) }], Vec::new()).await;
    let engine = city.engine().await;
    let now = 1_000_000;
    let next = city.send(&[(1, now, 11.0), (2, now, 11.0)]).await;
    engine.evaluated(next).await;
    let found = city.all().await;
    assert_eq!(found.iter().map(|a| a.thing.0).collect::<Vec<_>>(), [2]);
    engine.stop().await;
    // A fence that is not there holds nothing.
    let nowhere = Selection { within: Some("nowhere".to_owned()), ..select };
    city.apply(vec![RuleDeclaration { key: "other".to_owned(), select: nowhere, ..high(0) }], Vec::new()).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, now + 1, 12.0), (2, now + 1, 12.0)]).await;
    engine.evaluated(next).await;
    assert!(city.all().await.iter().all(|a| a.rule == "high"));
    engine.stop().await;
}

/// The past says what the engine would have said, with its doubts and jumps.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_what_would_have_been() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", false).await;
    fences(&city, 100.0).await;
    let declared = watched(json!({"fences": ["near"], "raise": "inside", "margin": 10, "hold": 60, "max_speed": 20}));
    let rule = Arc::new(crate::rules::model::Rule::new(declared).expect("valid"));
    let found = city.records.read(move |read| {
        let rules = crate::moving::fences::attach(read, vec![rule])?;
        let (facts, _) = crate::rules::facts::load(read, &rules)?;
        Ok::<_, records::Error>((rules, facts))
    });
    let (rules, facts) = found.await.expect("read");
    let fixes: [(i64, f64, f64); 8] = [
        (0, 1_000.0, 0.0),
        (100, 0.0, 0.0),
        (110, 0.0, 500.0),
        (120, 4_000.0, 0.0),
        (161, 0.0, 0.0),
        (300, 50.0, 0.0),
        (400, 300.0, 0.0),
        (500, 50.0, 0.0),
    ];
    let rows = fixes.iter().filter_map(|(at, east, doubt)| {
        let parameters = (*doubt > 0.0).then(|| raw(&format!(r#"{{"accuracy": {doubt}}}"#)));
        let observation = crate::model::Observation {
            datastream: EntityId(1),
            phenomenon: kernel::Interval::instant(secs(*at)),
            result_time: None,
            result: crate::model::ResultValue::Json(raw(&point(*east))),
            feature: EntityId(1),
            quality: None,
            valid: None,
            parameters,
        };
        Row::of(&observation, 0, Trust::Good)
    });
    let rows: Vec<Row> = rows.collect();
    assert_eq!(rows.len(), fixes.len());
    let episodes = replay(&rules[0], &facts, rows, (secs(0), secs(520)), jiff::tz::TimeZone::UTC);
    let told: Vec<_> = episodes.iter().map(|e| (e.raised_at, e.cleared_at, e.unit.as_deref())).collect();
    assert_eq!(told, [(secs(160), Some(secs(400)), Some("m"))]);
}
