//! Silences from outside, and what becomes of the letters that they keep back.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    api::Door,
    notify::{deliveries, hook, receiver, settle},
    *,
};
use crate::{
    alarms::silences::{
        Silences,
        model::{Draft, Matchers, Silence, Silencing},
    },
    notify::model::DeliveryState,
};

const NOW: i64 = 1_000_000;

fn draft(matchers: Matchers, lasts: i64) -> Draft {
    Draft {
        tenant: tenant("dsd"),
        matchers,
        starts_at: None,
        ends_at: secs(NOW + lasts),
        reason: "road works".to_owned(),
    }
}

fn thing(id: i64) -> Matchers {
    Matchers { thing: [EntityId(id)].into(), ..Matchers::default() }
}

async fn silence(city: &City, draft: Draft) -> Silence {
    Silences::new(city.alarms.clone()).create(&person("dsd", "duty"), draft).await.expect("made")
}

/// Two gauges whose rule tells a webhook; what it heard.
async fn city(store: Store, group: u32) -> (City, super::notify::Calls) {
    let (port, calls) = receiver(vec![]).await;
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    city.gauge(2, "dsd", true).await;
    let to = Recipient { group, ..hook(format!("http://127.0.0.1:{port}/hook")) };
    city.apply(vec![RuleDeclaration { notify: vec!["hook".to_owned()], ..high(0) }], vec![to]).await;
    (city, calls)
}

/// What the webhook heard, as `type thing`, in order.
fn heard(calls: &super::notify::Calls) -> Vec<String> {
    let word = |(_, body): &(axum::http::HeaderMap, Vec<u8>)| {
        let json: Value = serde_json::from_slice(body).expect("JSON");
        format!("{} {}", json["type"].as_str().unwrap_or_default(), json["data"]["thing"])
    };
    let mut all: Vec<String> = calls.lock().iter().map(word).collect();
    all.sort();
    all
}

async fn run(city: &City, records: &[&[(i64, i64, f64)]]) {
    let engine = city.engine().await;
    let mut next = 0;
    for rows in records {
        next = city.send(rows).await;
    }
    engine.evaluated(next).await;
    engine.stop().await;
}

async fn withheld_then_told(store: Store) {
    let (city, calls) = city(store, 0).await;
    let made = silence(&city, draft(thing(1), 3_600)).await;
    run(&city, &[&[(1, NOW, 11.0), (2, NOW, 11.0)]]).await;
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 2"], "the alarm of the other gauge is told");
    assert_eq!(city.all().await.len(), 2, "both are raised all the same");
    let kept: Vec<_> = deliveries(&city).await.into_iter().filter(|d| d.state == DeliveryState::Withheld).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].withheld_by.as_deref(), Some(format!("silence/{}", made.id).as_str()));
    // It ends by itself, and what is still open is told.
    city.clock.advance_micros(3_599 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls).len(), 1, "a second too early");
    city.clock.advance_micros(1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1", "alarm.raised 2"]);
    assert!(deliveries(&city).await.iter().all(|d| d.state == DeliveryState::Delivered));
    run(&city, &[&[(1, NOW + 4_000, 7.0), (2, NOW + 4_000, 7.0)]]).await;
    settle(&city).await;
    assert_eq!(heard(&calls).len(), 4, "both ends are told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_open_when_a_silence_ends_is_told() {
    withheld_then_told(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_open_when_a_silence_ends_is_told_on_postgres() {
    withheld_then_told(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_by_then_needs_no_letter() {
    let (city, calls) = city(Store::Sqlite, 0).await;
    let silences = Silences::new(city.alarms.clone());
    let made = silence(&city, draft(thing(1), 3_600)).await;
    run(&city, &[&[(1, NOW, 11.0)], &[(1, NOW + 60, 7.0)]]).await;
    settle(&city).await;
    let ended = silences.end(&person("dsd", "duty"), made.id).await.expect("ended");
    assert_eq!(ended.ended.expect("by somebody").by, "person:duty");
    settle(&city).await;
    assert_eq!(heard(&calls), Vec::<String>::new(), "neither that it began nor that it ended");
    assert!(deliveries(&city).await.iter().all(|d| d.state == DeliveryState::Withheld && d.attempts == 0));
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_delivery WHERE awaits IS NOT NULL").await, 0);
    // Somebody who has acknowledged it knows of it.
    let made = silence(&city, draft(thing(2), 3_600)).await;
    run(&city, &[&[(2, NOW + 60, 11.0)]]).await;
    let open = city.all().await.into_iter().find(|a| a.thing == EntityId(2)).expect("raised");
    city.alarms
        .act(&person("dsd", "duty"), open.id, crate::alarms::Deed::Acknowledge, Some(1), "")
        .await
        .expect("done");
    silences.end(&person("dsd", "duty"), made.id).await.expect("ended");
    settle(&city).await;
    assert_eq!(heard(&calls), Vec::<String>::new());
    // Who was told of the beginning is told of the end, though it came in a silence: when that is over.
    run(&city, &[&[(1, NOW + 120, 11.0)]]).await;
    settle(&city).await;
    let made = silence(&city, draft(thing(1), 3_600)).await;
    run(&city, &[&[(1, NOW + 180, 7.0)]]).await;
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1"]);
    silences.end(&person("dsd", "duty"), made.id).await.expect("ended");
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.cleared 1", "alarm.raised 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_group_is_kept_back_too() {
    let (city, calls) = city(Store::Sqlite, 300).await;
    run(&city, &[&[(2, NOW, 11.0)], &[(1, NOW, 11.0)]]).await;
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 2"], "the second waits for the end of the span");
    let all = Matchers { rule: ["high".to_owned()].into(), ..Matchers::default() };
    silence(&city, draft(all, 600)).await;
    city.clock.advance_micros(300 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls).len(), 1, "a silence has begun meanwhile");
    city.clock.advance_micros(300 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1", "alarm.raised 2"]);
}

/// The letter speaks for more than the alarm that it names.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_gathered_is_told_though_the_first_of_it_is_over() {
    let (city, calls) = city(Store::Sqlite, 300).await;
    city.gauge(3, "dsd", true).await;
    run(&city, &[&[(2, NOW, 11.0)], &[(1, NOW, 11.0)], &[(3, NOW, 11.0)]]).await;
    settle(&city).await;
    let all = Matchers { rule: ["high".to_owned()].into(), ..Matchers::default() };
    silence(&city, draft(all, 600)).await;
    city.clock.advance_micros(300 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 2"]);
    let first = city.all().await.into_iter().find(|a| a.thing == EntityId(1)).expect("raised");
    let deed = crate::alarms::Deed::Acknowledge;
    city.alarms.act(&person("dsd", "duty"), first.id, deed, Some(1), "").await.expect("done");
    city.clock.advance_micros(300 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1", "alarm.raised 2"], "the third is open, and nobody was told");
    let last: Value = serde_json::from_slice(&calls.lock()[1].1).expect("JSON");
    assert_eq!(last["gathered"], json!(2));
}

/// A transaction that began while a silence stood may be written after its end was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_back_too_late_is_found_all_the_same() {
    let (city, calls) = city(Store::Sqlite, 0).await;
    let made = silence(&city, draft(thing(1), 600)).await;
    run(&city, &[&[(1, NOW, 11.0)]]).await;
    // As if the look back had been before the letter was written.
    let forget = "DELETE FROM records_job WHERE unique_key = $1";
    let key = format!("silence/{}@{}", made.id, made.ends_at.as_micros());
    let gone = city.records.write(move |tx| tx.execute(forget, records::params![key]));
    assert_eq!(gone.await.expect("deleted"), 1);
    city.clock.advance_micros(660 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_silence_may_follow_another() {
    let (city, calls) = city(Store::Sqlite, 0).await;
    silence(&city, draft(thing(1), 600)).await;
    run(&city, &[&[(1, NOW, 11.0)]]).await;
    let second = silence(&city, draft(thing(1), 1_200)).await;
    city.clock.advance_micros(600 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls).len(), 0);
    assert_eq!(deliveries(&city).await[0].withheld_by, Some(format!("silence/{}", second.id)));
    city.clock.advance_micros(600 * 1_000_000);
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pack_forbids_is_told_through_every_silence() {
    let (city, calls) = city(Store::Sqlite, 0).await;
    let forbid = |never: Severity| Silencing { tenant: None, never: [never].into(), longest: 3_600 };
    silence(&city, draft(thing(1), 3_600)).await;
    let system = Caller::system("pack");
    assert!(city.rules.apply_duty(&system, vec![forbid(Severity::Severe)], vec![]).await.expect("applied"));
    assert!(
        !city.rules.apply_duty(&system, vec![forbid(Severity::Severe)], vec![]).await.expect("applied"),
        "the same"
    );
    run(&city, &[&[(1, NOW, 11.0)]]).await;
    settle(&city).await;
    assert_eq!(heard(&calls), ["alarm.raised 1"]);
    let grave = Matchers { severity: [Severity::Severe].into(), ..Matchers::default() };
    let refused = Silences::new(city.alarms.clone()).create(&person("dsd", "duty"), draft(grave, 60)).await;
    let problem = kernel::Problem::from(refused.expect_err("forbidden"));
    assert_eq!((problem.status, problem.errors[0].field.as_str()), (StatusCode::BAD_REQUEST, "/severity"));
    let refused = Silences::new(city.alarms.clone()).create(&person("dsd", "duty"), draft(thing(1), 3_601)).await;
    assert_eq!(kernel::Problem::from(refused.expect_err("too long")).errors[0].field, "/ends_at");
    let refused = city.rules.apply_duty(&person("dsd", "manager"), vec![], vec![]).await;
    assert_eq!(kernel::Problem::from(refused.expect_err("the pack's")).status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn silences_over_http() {
    let door = Door::new(Store::Sqlite).await;
    let who = |slug: &str, role| Some(person(slug, role));
    let end = secs(NOW + 3_600).to_string();
    let good = json!({ "rule": ["high"], "ends_at": end, "reason": "road works" }).to_string();
    let post = |who, body: String| {
        let door = &door;
        async move { door.call(who, "POST", "/api/silences", &[], &body).await }
    };
    // Refused without a trace.
    let before = door.trace().await;
    let with = |field: &str, value: Value| {
        let mut body: Value = serde_json::from_str(&good).expect("JSON");
        body[field] = value;
        body.to_string()
    };
    for (who, body, status, field) in [
        (None, good.clone(), StatusCode::UNAUTHORIZED, ""),
        (who("dsd", "viewer"), good.clone(), StatusCode::FORBIDDEN, ""),
        (who("epd", "duty"), with("tenant", json!("dsd")), StatusCode::NOT_FOUND, ""),
        (who("dsd", "duty"), with("tenant", json!("D S D")), StatusCode::BAD_REQUEST, ""),
        (who("dsd", "duty"), with("rule", json!([])), StatusCode::BAD_REQUEST, "/rule"),
        (who("dsd", "duty"), with("rule", json!(["hihg"])), StatusCode::BAD_REQUEST, "/rule"),
        (who("dsd", "duty"), with("rule", json!(["other"])), StatusCode::BAD_REQUEST, "/rule"),
        (who("dsd", "duty"), with("thing", json!([2])), StatusCode::BAD_REQUEST, "/thing"),
        (who("dsd", "duty"), with("thing", json!([77])), StatusCode::BAD_REQUEST, "/thing"),
        (who("dsd", "duty"), with("severity", json!(["Grave"])), StatusCode::BAD_REQUEST, ""),
        (who("dsd", "duty"), with("ends_at", json!(secs(NOW).to_string())), StatusCode::BAD_REQUEST, "/ends_at"),
        (
            who("dsd", "duty"),
            with("ends_at", json!(secs(NOW + 40 * 86_400).to_string())),
            StatusCode::BAD_REQUEST,
            "/ends_at",
        ),
        (who("dsd", "duty"), with("reason", json!(" ")), StatusCode::BAD_REQUEST, "/reason"),
        (who("dsd", "duty"), with("distrct", json!(["North"])), StatusCode::BAD_REQUEST, ""),
        (who("dsd", "duty"), "[".to_owned(), StatusCode::BAD_REQUEST, ""),
    ] {
        let (found, problem) = post(who, body.clone()).await;
        assert_eq!(found, status, "{body} {problem}");
        if !field.is_empty() {
            assert_eq!(problem["errors"][0]["field"], field, "{body} {problem}");
        }
    }
    assert_eq!(door.trace().await, before);
    assert_eq!(door.city.count("SELECT COUNT(*) FROM sensing_silence").await, 0);
    // Made, seen by the department, by nobody else.
    let (status, made) = post(who("dsd", "duty"), good.clone()).await;
    assert_eq!((status, &made["state"], &made["by"]), (StatusCode::CREATED, &json!("active"), &json!("person:duty")));
    let path = format!("/api/silences/{}", made["id"].as_str().expect("an id"));
    assert_eq!(door.get(who("dsd", "viewer"), &path).await.0, StatusCode::OK);
    assert_eq!(door.get(who("epd", "viewer"), &path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(door.get(None, &path).await.0, StatusCode::UNAUTHORIZED);
    let list = |who, query: &'static str| {
        let door = &door;
        async move { door.get(who, &format!("/api/silences{query}")).await.1["silences"].as_array().map_or(0, Vec::len) }
    };
    assert_eq!(list(who("dsd", "viewer"), "?state=active,pending").await, 1);
    assert_eq!(list(who("dsd", "viewer"), "?state=expired").await, 0);
    assert_eq!(list(who("dsd", "viewer"), "?tenant=epd").await, 0);
    assert_eq!(list(who("epd", "viewer"), "").await, 0);
    assert_eq!(door.get(who("dsd", "viewer"), "/api/silences?state=quiet").await.0, StatusCode::BAD_REQUEST);
    // The alarm says so, to the department; the public, which sees the alarm, does not learn of it.
    let alarm = format!("/api/alarms/{}", door.id("dsd").await);
    let (_, one) = door.get(who("dsd", "viewer"), &alarm).await;
    assert_eq!(one["alarm"]["silenced_by"], json!([made["id"]]));
    let (status, one) = door.get(None, &alarm).await;
    assert_eq!((status, &one["alarm"]["silenced_by"]), (StatusCode::OK, &Value::Null));
    let (_, board) = door.get(who("dsd", "viewer"), "/api/alarms").await;
    assert_eq!(board["alarms"][0]["silenced_by"], json!([made["id"]]));
    // Ended once.
    let expire = format!("{path}/expire");
    assert_eq!(door.call(None, "POST", &expire, &[], "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(door.call(who("dsd", "viewer"), "POST", &expire, &[], "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(door.call(who("epd", "duty"), "POST", &expire, &[], "").await.0, StatusCode::NOT_FOUND);
    let (status, ended) = door.call(who("dsd", "duty"), "POST", &expire, &[], "").await;
    assert_eq!((status, &ended["state"]), (StatusCode::OK, &json!("expired")));
    assert_eq!(door.call(who("dsd", "duty"), "POST", &expire, &[], "").await.0, StatusCode::CONFLICT);
    let audit =
        door.city.count("SELECT COUNT(*) FROM records_audit WHERE action IN ('silence:create', 'silence:expire')");
    assert_eq!(audit.await, 2);
    let (_, one) = door.get(who("dsd", "viewer"), &alarm).await;
    assert_eq!(one["alarm"]["silenced_by"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_department_has_so_many_silences_at_once() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    for _ in 0..100 {
        silence(&city, draft(thing(1), 600)).await;
    }
    let refused = Silences::new(city.alarms.clone()).create(&person("dsd", "duty"), draft(thing(1), 600)).await;
    assert_eq!(kernel::Problem::from(refused.expect_err("too many")).status, StatusCode::CONFLICT);
    city.clock.advance_micros(600 * 1_000_000);
    silence(&city, draft(thing(1), 1_200)).await;
}
