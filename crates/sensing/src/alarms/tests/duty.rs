//! Who is told, when, and who next: hours, alarms that speak for others, escalation, assignment.

use axum::http::StatusCode;
use serde_json::json;

use super::{
    api::Door,
    notify::{deliveries, hook, receiver, settle},
    *,
};
use crate::{
    alarms::Deed,
    notify::{
        escalate::Step,
        hours::Window,
        inhibit::{Inhibition, Same},
        model::{DeliveryState, Occasion},
    },
};

/// 1970-01-12 13:46:40 UTC, a Monday; 21:46 in the zone of the letters, which is UTC+8.
const NOW: i64 = 1_000_000;

async fn told(city: &City, state: DeliveryState) -> Vec<(String, Occasion)> {
    let all = deliveries(city).await.into_iter().filter(|d| d.state == state);
    let mut all: Vec<_> = all.map(|d| (d.recipient, d.occasion)).collect();
    all.sort();
    all
}

/// The engine with the zone that the letters have.
async fn engine_at_home(city: &City) -> Handle {
    let options = Options { zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(8)), ..city.options() };
    let feed = TopicFeed(city.topic.clone());
    engine::start(feed, city.alarms.clone(), city.clock.clone(), options).await.expect("engine")
}

async fn run(city: &City, rows: &[(i64, i64, f64)]) {
    let engine = engine_at_home(city).await;
    let next = city.send(rows).await;
    engine.evaluated(next).await;
    engine.stop().await;
}

fn pass(city: &City, seconds: i64) {
    city.clock.advance_micros(seconds * 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_off_duty_is_told_in_the_morning() {
    let (port, calls) = receiver(vec![]).await;
    let url = format!("http://127.0.0.1:{port}/hook");
    let office: Window = toml::from_str("from = \"08:00\"\nto = \"18:00\"").expect("TOML");
    let day = Recipient { key: "day".to_owned(), hours: vec![office.clone()], ..hook(url.clone()) };
    let grave = Recipient { key: "grave".to_owned(), at_any_hour: Some(Severity::Severe), ..day.clone() };
    let city = City::new(Store::Sqlite).await;
    for gauge in [1, 2] {
        city.gauge(gauge, "dsd", true).await;
    }
    let rule = RuleDeclaration { notify: vec!["day".to_owned(), "grave".to_owned()], ..high(0) };
    city.apply(vec![rule], vec![day, grave]).await;
    run(&city, &[(1, NOW, 11.0), (2, NOW, 11.0)]).await;
    settle(&city).await;
    assert_eq!(calls.lock().len(), 2, "only the grave ones are told at night");
    let kept = deliveries(&city).await.into_iter().filter(|d| d.state == DeliveryState::Withheld);
    assert!(
        kept.map(|d| (d.recipient, d.withheld_by))
            .eq([("day".to_owned(), Some("hours".to_owned())), ("day".to_owned(), Some("hours".to_owned()))])
    );
    // One is over before the morning.
    run(&city, &[(1, NOW + 60, 7.0)]).await;
    settle(&city).await;
    assert_eq!(calls.lock().len(), 3);
    pass(&city, 10 * 3_600);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 3, "07:46");
    pass(&city, 15 * 60);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 4, "08:01: the one that is still open, and not the end of the other");
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_delivery WHERE awaits IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_alarm_speaks_for_others() {
    for same in [Same::Thing, Same::District] {
        let (port, calls) = receiver(vec![]).await;
        let city = City::new(Store::Sqlite).await;
        for gauge in [1, 2] {
            city.gauge(gauge, "dsd", true).await;
        }
        let rules = vec![
            RuleDeclaration { notify: vec!["hook".to_owned()], ..high(0) },
            RuleDeclaration {
                key: "power".to_owned(),
                when: Condition::Above(Level { raise: 100.0, clear: 90.0, hold: 0, clear_hold: 0 }),
                ..high(0)
            },
        ];
        city.apply(rules, vec![hook(format!("http://127.0.0.1:{port}/hook"))]).await;
        let inhibit = Inhibition {
            tenant: tenant("dsd"),
            standing: ["power".to_owned()].into(),
            withhold: ["high".to_owned()].into(),
            same,
        };
        let system = Caller::system("pack");
        assert!(city.rules.apply_duty(&system, vec![], vec![inhibit.clone()]).await.expect("applied"));
        // Gauge 1 raises both, gauge 2 only the one that is spoken for.
        run(&city, &[(1, NOW, 200.0)]).await;
        run(&city, &[(2, NOW, 11.0)]).await;
        settle(&city).await;
        let expected = if same == Same::Thing { 1 } else { 0 };
        let raised = city.all().await;
        assert_eq!(raised.len(), 3, "all of them are raised");
        assert_eq!(calls.lock().len(), expected, "{same:?}");
        let power = raised.iter().find(|a| a.rule == "power").expect("raised").id;
        let kept = deliveries(&city).await.into_iter().filter(|d| d.state == DeliveryState::Withheld);
        assert!(kept.into_iter().all(|d| d.withheld_by == Some(format!("alarm/{power}"))));
        // The power is back, the water is still high.
        run(&city, &[(1, NOW + 60, 50.0)]).await;
        settle(&city).await;
        assert_eq!(calls.lock().len(), 2, "{same:?}");
        // What the pack names wrongly is refused, and changes nothing.
        let wrong = Inhibition { standing: ["nobody".to_owned()].into(), ..inhibit };
        let problem =
            kernel::Problem::from(city.rules.apply_duty(&system, vec![], vec![wrong]).await.expect_err("wrong"));
        assert_eq!(problem.errors[0].field, "/0/while");
        assert_eq!(city.count("SELECT COUNT(*) FROM sensing_inhibition").await, 1);
    }
}

async fn escalates(store: Store) {
    let (port, calls) = receiver(vec![]).await;
    let url = format!("http://127.0.0.1:{port}/hook");
    let to = |key: &str| Recipient { key: key.to_owned(), ..hook(url.clone()) };
    let step = |after, key: &str| Step { after, notify: vec![key.to_owned()] };
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    let rule = RuleDeclaration {
        notify: vec!["duty".to_owned()],
        escalate: vec![step(900, "officer"), step(3_600, "chief")],
        ..high(0)
    };
    city.apply(vec![rule], vec![to("duty"), to("officer"), to("chief")]).await;
    run(&city, &[(1, NOW, 11.0)]).await;
    settle(&city).await;
    assert_eq!(calls.lock().len(), 1);
    // Nothing runs for a quarter of an hour, as after a crash: the job is there all the same.
    pass(&city, 900);
    settle(&city).await;
    let escalated = |key: &str| (key.to_owned(), Occasion::Escalated);
    assert_eq!(
        told(&city, DeliveryState::Delivered).await,
        [("duty".to_owned(), Occasion::Raised), escalated("officer")]
    );
    let body: serde_json::Value = serde_json::from_slice(&calls.lock()[1].1).expect("JSON");
    assert_eq!(body["type"], "alarm.escalated");
    let audit = "SELECT COUNT(*) FROM records_audit WHERE action = 'alarm:escalate'";
    assert_eq!(city.count(audit).await, 1);
    // The officer answers: nobody calls the chief.
    let alarm = city.all().await.remove(0);
    city.alarms.act(&person("dsd", "duty"), alarm.id, Deed::Acknowledge, Some(1), "").await.expect("acknowledged");
    pass(&city, 2_700);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 2);
    // Undone: it is nobody's again, and the count begins anew.
    city.alarms.act(&person("dsd", "duty"), alarm.id, Deed::Unacknowledge, Some(2), "").await.expect("undone");
    pass(&city, 899);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 2);
    pass(&city, 1);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 3, "the officer once more");
    pass(&city, 2_700);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 4, "and then the chief");
    assert_eq!(city.count(audit).await, 3);
    assert_eq!(city.count("SELECT COUNT(*) FROM records_job").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_next_is_told_until_somebody_answers() {
    escalates(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_next_is_told_until_somebody_answers_on_postgres() {
    escalates(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_called_for_what_is_over_or_silent() {
    let (port, calls) = receiver(vec![]).await;
    let city = City::new(Store::Sqlite).await;
    for gauge in [1, 2] {
        city.gauge(gauge, "dsd", true).await;
    }
    let steps = vec![Step { after: 900, notify: vec!["hook".to_owned()] }];
    let rule = RuleDeclaration { escalate: steps, ..high(0) };
    city.apply(vec![rule], vec![hook(format!("http://127.0.0.1:{port}/hook"))]).await;
    run(&city, &[(1, NOW, 11.0), (2, NOW, 11.0)]).await;
    run(&city, &[(1, NOW + 60, 7.0)]).await;
    let silent = crate::alarms::silences::model::Draft {
        tenant: tenant("dsd"),
        matchers: crate::alarms::silences::model::Matchers { thing: [EntityId(2)].into(), ..Default::default() },
        starts_at: None,
        ends_at: secs(NOW + 1_800),
        reason: "road works".to_owned(),
    };
    let silences = crate::alarms::silences::Silences::new(city.alarms.clone());
    silences.create(&person("dsd", "duty"), silent).await.expect("made");
    pass(&city, 900);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 0);
    assert_eq!(told(&city, DeliveryState::Withheld).await, [("hook".to_owned(), Occasion::Escalated)]);
    pass(&city, 900);
    settle(&city).await;
    assert_eq!(calls.lock().len(), 1, "still open when the silence is over");
    // Steps that name nobody are found with the pack.
    let nobody = RuleDeclaration { escalate: vec![Step { after: 9, notify: vec!["no".to_owned()] }], ..high(0) };
    let refused = city.rules.apply(&Caller::system("test"), vec![nobody], vec![]).await.expect_err("nobody");
    assert_eq!(kernel::Problem::from(refused).errors[0].field, "/0/escalate/0/notify/0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_given_to_somebody() {
    let door = Door::new(Store::Sqlite).await;
    let (port, calls) = receiver(vec![]).await;
    let url = format!("http://127.0.0.1:{port}/hook");
    let team = Recipient { key: "crew".to_owned(), occasions: BTreeSet::new(), ..hook(url.clone()) };
    let foreign = Recipient { key: "foreign".to_owned(), tenant: tenant("epd"), ..hook(url) };
    let stored = door.city.records.write(move |tx| {
        crate::notify::store::put_recipient(tx, &team)?;
        crate::notify::store::put_recipient(tx, &foreign)
    });
    stored.await.expect("stored");
    let path = format!("/api/alarms/{}/assign", door.id("dsd").await);
    let post = |who, body: serde_json::Value| {
        let (door, path) = (&door, &path);
        async move { door.call(who, "POST", path, &[], &body.to_string()).await }
    };
    let duty = || Some(person("dsd", "duty"));
    let before = door.trace().await;
    for (who, body, status) in [
        (None, json!({ "to": "team:crew", "version": 1 }), StatusCode::UNAUTHORIZED),
        (Some(person("dsd", "viewer")), json!({ "to": "team:crew", "version": 1 }), StatusCode::FORBIDDEN),
        (duty(), json!({ "to": "team:crew" }), StatusCode::BAD_REQUEST),
        (duty(), json!({ "to": "crew", "version": 1 }), StatusCode::BAD_REQUEST),
        (duty(), json!({ "to": "team:foreign", "version": 1 }), StatusCode::BAD_REQUEST),
        (duty(), json!({ "to": "team:nobody", "version": 1 }), StatusCode::BAD_REQUEST),
        (duty(), json!({ "to": "team:crew", "version": 7 }), StatusCode::PRECONDITION_FAILED),
        (duty(), json!({ "to": "", "version": 1 }), StatusCode::CONFLICT),
        (duty(), json!({ "too": "team:crew", "version": 1 }), StatusCode::BAD_REQUEST),
    ] {
        let (found, problem) = post(who, body.clone()).await;
        assert_eq!(found, status, "{body} {problem}");
    }
    assert_eq!(door.trace().await, before);
    let (status, alarm) = post(duty(), json!({ "to": "team:crew", "version": 1, "comment": "bring pumps" })).await;
    assert_eq!((status, &alarm["assignee"], &alarm["state"]), (StatusCode::OK, &json!("team:crew"), &json!("open")));
    settle(&door.city).await;
    assert_eq!(calls.lock().len(), 1, "the team is told");
    let body: serde_json::Value = serde_json::from_slice(&calls.lock()[0].1).expect("JSON");
    assert_eq!((&body["type"], &body["data"]["assignee"]), (&json!("alarm.assigned"), &json!("team:crew")));
    let (_, one) = door.get(duty(), &format!("/api/alarms/{}", door.id("dsd").await)).await;
    assert_eq!(
        (&one["history"][1]["kind"], &one["history"][1]["comment"]),
        (&json!("assigned"), &json!("team:crew\nbring pumps"))
    );
    let (status, alarm) = post(duty(), json!({ "to": "me", "version": 2 })).await;
    assert_eq!((status, &alarm["assignee"]), (StatusCode::OK, &json!("person:duty")));
    settle(&door.city).await;
    assert_eq!(calls.lock().len(), 1);
    for (query, many) in [("me", 1), ("person:duty", 1), ("team:crew", 0)] {
        let (_, board) = door.get(duty(), &format!("/api/alarms?assignee={query}")).await;
        assert_eq!(board["alarms"].as_array().map(Vec::len), Some(many), "{query}");
    }
    assert_eq!(door.get(None, "/api/alarms?assignee=me").await.0, StatusCode::UNAUTHORIZED);
    let (status, alarm) = post(duty(), json!({ "version": 3 })).await;
    assert_eq!((status, &alarm["assignee"]), (StatusCode::OK, &serde_json::Value::Null));
    assert_eq!(door.city.count("SELECT COUNT(*) FROM records_audit WHERE action = 'alarm:assign'").await, 3);
}
