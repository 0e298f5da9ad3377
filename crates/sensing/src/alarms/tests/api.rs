//! `/api/alarms` and `/api/rules` from outside: what they answer, and what they refuse without leaving a trace.

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    Audience,
    alarms::{self, model::AlarmState},
};

const NOW: i64 = 1_000_000;

pub(super) struct Door {
    pub city: City,
    routes: Router,
}

impl Door {
    /// Two alarms: one at a public Thing of `dsd`, one at a private Thing of `epd`.
    pub async fn new(store: Store) -> Self {
        let city = City::new(store).await;
        city.gauge(1, "dsd", true).await;
        city.gauge(2, "epd", false).await;
        let other =
            RuleDeclaration { key: "other".to_owned(), tenant: tenant("epd"), severity: Severity::Minor, ..high(0) };
        city.apply(vec![high(0), other], vec![]).await;
        let engine = city.engine().await;
        let next = city.send(&[(1, NOW, 11.0), (2, NOW, 11.0)]).await;
        engine.evaluated(next).await;
        engine.stop().await;
        let routes = alarms::api::router(city.alarms.clone())
            .merge(crate::rules::api::router(city.rules.clone()))
            .merge(crate::notify::api::router(city.alarms.clone()))
            .merge(alarms::silences::api::router(alarms::silences::Silences::new(city.alarms.clone())));
        Self { city, routes }
    }

    pub async fn call(
        &self,
        who: Option<Caller>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).expect("request");
        let routes = match who {
            Some(caller) => self.routes.clone().layer(Extension(caller)),
            None => self.routes.clone(),
        };
        let response = routes.oneshot(request).await.expect("infallible");
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("body");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, who: Option<Caller>, path: &str) -> (StatusCode, Value) {
        self.call(who, "GET", path, &[], "").await
    }

    pub async fn id(&self, slug: &str) -> String {
        self.city.all().await.into_iter().find(|a| a.tenant == tenant(slug)).expect("raised").id.to_string()
    }

    /// Everything that a refused call must leave as it was.
    pub async fn trace(&self) -> (Vec<Alarm>, [i64; 3]) {
        let c = &self.city;
        let counts = [
            c.count("SELECT COUNT(*) FROM records_audit").await,
            c.count("SELECT COUNT(*) FROM records_event").await,
            c.count("SELECT COUNT(*) FROM sensing_alarm_entry").await,
        ];
        (c.all().await, counts)
    }
}

async fn life(store: Store) {
    let door = Door::new(store).await;
    let duty = || Some(person("dsd", "duty"));
    let id = door.id("dsd").await;
    let path = format!("/api/alarms/{id}");
    let (status, one) = door.get(duty(), &path).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&one["alarm"]["state"], &one["alarm"]["severity"], &one["alarm"]["version"]),
        (&json!("open"), &json!("Severe"), &json!(1))
    );
    assert_eq!(one["alarm"]["thing_name"], json!({ "en": "San Tin", "zh-hant": "新田" }));
    assert_eq!(one["history"][0]["kind"], "raised");
    let (status, alarm) = door
        .call(duty(), "POST", &format!("{path}/acknowledge"), &[("if-match", "\"1\"")], r#"{"comment":"on my way"}"#)
        .await;
    assert_eq!((status, &alarm["state"], &alarm["version"]), (StatusCode::OK, &json!("acknowledged"), &json!(2)));
    assert_eq!(alarm["acknowledged"]["by"], "person:duty");
    let (_, alarm) = door.call(duty(), "POST", &format!("{path}/unacknowledge"), &[], r#"{"version":2}"#).await;
    assert_eq!(alarm["state"], "open");
    let (status, _) = door.call(duty(), "POST", &format!("{path}/comment"), &[], r#"{"comment":"two\nlines"}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, alarm) =
        door.call(duty(), "POST", &format!("{path}/close"), &[], r#"{"version":4,"comment":"broken gauge"}"#).await;
    assert_eq!((status, &alarm["state"]), (StatusCode::OK, &json!("closed")));
    let (_, one) = door.get(duty(), &path).await;
    let kinds: Vec<_> = one["history"].as_array().expect("history").iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["raised", "acknowledged", "unacknowledged", "remark", "closed"]);
    assert_eq!(door.city.count("SELECT COUNT(*) FROM records_audit WHERE caller = 'person:duty'").await, 4);
    assert_eq!(door.city.count("SELECT COUNT(*) FROM records_event WHERE topic = 'events'").await, 6);
    // Closed while it stood: the end of the condition finds nothing to clear, and the next raise is a new alarm.
    let engine = door.city.engine().await;
    let next = door.city.send(&[(1, NOW + 1, 7.0), (1, NOW + 2, 11.0)]).await;
    engine.evaluated(next).await;
    let states: Vec<_> =
        door.city.all().await.into_iter().filter(|a| a.tenant == tenant("dsd")).map(|a| a.state).collect();
    assert_eq!(states, [AlarmState::Open, AlarmState::Closed]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarms_life_through_the_api() {
    life(Store::Sqlite).await;
    life(Store::Postgres).await;
}

async fn seen(store: Store) {
    let door = Door::new(store).await;
    let listed = async |who: Option<Caller>, query: &str| -> Vec<String> {
        let (status, list) = door.get(who, &format!("/api/alarms{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query} {list}");
        list["alarms"].as_array().expect("list").iter().map(|a| a["rule"].as_str().expect("rule").to_owned()).collect()
    };
    assert_eq!(listed(None, "").await, ["high"], "the public sees what is published");
    assert_eq!(listed(Some(person("dsd", "viewer")), "").await, ["high"]);
    let mut both = listed(Some(person("epd", "viewer")), "").await;
    both.sort();
    assert_eq!(both, ["high", "other"]);
    let epd = || Some(person("epd", "viewer"));
    for (query, expect) in [
        ("?state=open", 2),
        ("?state=closed,cleared", 0),
        ("?severity=severe", 1),
        ("?severity=minor", 2),
        ("?tenant=epd", 1),
        ("?system=flood", 2),
        ("?system=air", 0),
        ("?district=Yuen%20Long", 2),
        ("?rule=other", 1),
        ("?thing=1", 1),
        ("?thing=3", 0),
    ] {
        assert_eq!(listed(epd(), query).await.len(), expect, "{query}");
    }
    // Pages of one: each alarm once.
    let (_, first) = door.get(epd(), "/api/alarms?limit=1").await;
    let (_, second) =
        door.get(epd(), &format!("/api/alarms?limit=1&after={}", first["next"].as_str().expect("more"))).await;
    assert_ne!(first["alarms"][0]["id"], second["alarms"][0]["id"]);
    assert_eq!(second.get("next"), None);
    let (_, counts) = door.get(epd(), "/api/alarms/counts").await;
    assert_eq!((&counts["open"]["total"], &counts["open"]["severity"]["Severe"]), (&json!(2), &json!(1)));
    let (_, counts) = door.get(None, "/api/alarms/counts").await;
    assert_eq!(counts["open"]["total"], json!(1));
    let id = door.id("dsd").await;
    door.call(Some(person("dsd", "duty")), "POST", &format!("/api/alarms/{id}/acknowledge"), &[], r#"{"version":1}"#)
        .await;
    let (_, counts) = door.get(None, "/api/alarms/counts").await;
    assert_eq!(
        (&counts["open"]["total"], &counts["acknowledged"]["total"]),
        (&json!(0), &json!(1)),
        "counted again after a change"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_is_theirs() {
    seen(Store::Sqlite).await;
    seen(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_no_trace() {
    let door = Door::new(Store::Sqlite).await;
    let (mine, theirs) = (door.id("dsd").await, door.id("epd").await);
    let before = door.trace().await;
    let duty = || Some(person("dsd", "duty"));
    let viewer = || Some(person("dsd", "viewer"));
    let long = format!(r#"{{"version":1,"comment":"{}"}}"#, "x".repeat(2_001));
    let huge = format!(r#"{{"version":1,"comment":"{}"}}"#, "x".repeat(20_000));
    let good = r#"{"version":1,"comment":"x"}"#;
    let on = |id: &str, deed: &str| format!("/api/alarms/{id}/{deed}");
    type Case<'a> = (Option<Caller>, String, &'a [(&'a str, &'a str)], &'a str, u16);
    let cases: Vec<Case<'_>> = vec![
        (None, on(&mine, "acknowledge"), &[], good, 401),
        (None, on(&mine, "close"), &[], good, 401),
        (None, on(&theirs, "comment"), &[], good, 401),
        (viewer(), on(&mine, "acknowledge"), &[], good, 403),
        (viewer(), on(&mine, "close"), &[], good, 403),
        (viewer(), on(&mine, "comment"), &[], good, 403),
        (Some(person("epd", "duty")), on(&mine, "close"), &[], good, 403),
        (duty(), on(&theirs, "acknowledge"), &[], good, 404),
        (duty(), on(&theirs, "close"), &[], good, 404),
        (duty(), on("00000000-0000-7000-8000-000000000000", "close"), &[], good, 404),
        (duty(), on("x'; DROP TABLE sensing_alarm; --", "close").replace(' ', "%20"), &[], good, 404),
        (duty(), on(&mine, "acknowledge"), &[], "", 400),
        (duty(), on(&mine, "acknowledge"), &[], "{}", 400),
        (duty(), on(&mine, "acknowledge"), &[], "[", 400),
        (duty(), on(&mine, "acknowledge"), &[], r#"{"version":1,"state":"closed"}"#, 400),
        (duty(), on(&mine, "acknowledge"), &[], r#"{"version":7}"#, 412),
        (duty(), on(&mine, "acknowledge"), &[("if-match", "\"7\"")], "", 412),
        (duty(), on(&mine, "acknowledge"), &[("if-match", "seven")], "", 400),
        (duty(), on(&mine, "acknowledge"), &[("if-match", "\"1\"")], r#"{"version":2}"#, 400),
        (duty(), on(&mine, "unacknowledge"), &[], r#"{"version":1}"#, 409),
        (duty(), on(&mine, "close"), &[], r#"{"version":1}"#, 400),
        (duty(), on(&mine, "close"), &[], r#"{"version":1,"comment":"  "}"#, 400),
        (duty(), on(&mine, "comment"), &[], r#"{"comment":""}"#, 400),
        (duty(), on(&mine, "comment"), &[], "{\"comment\":\"a\\u0000b\"}", 400),
        (duty(), on(&mine, "close"), &[], &long, 400),
        (duty(), on(&mine, "close"), &[], &huge, 413),
    ];
    for (who, path, headers, body, expect) in cases {
        let (status, answer) = door.call(who, "POST", &path, headers, body).await;
        assert_eq!(status.as_u16(), expect, "{path} {body:.80} {answer}");
    }
    for (who, path, expect) in [
        (None, format!("/api/alarms/{theirs}"), 404),
        (viewer(), format!("/api/alarms/{theirs}"), 404),
        (None, "/api/alarms/x".to_owned(), 404),
        (None, "/api/alarms?state=opened".to_owned(), 400),
        (None, "/api/alarms?severity=bad".to_owned(), 400),
        (None, "/api/alarms?colour=red".to_owned(), 400),
        (None, "/api/alarms?after=1".to_owned(), 400),
        (None, "/api/alarms?limit=-1".to_owned(), 400),
        (None, "/api/rules".to_owned(), 401),
        (None, "/api/rules/high".to_owned(), 401),
        (viewer(), "/api/rules/other".to_owned(), 404),
        (None, "/api/deliveries".to_owned(), 401),
        (viewer(), "/api/deliveries?state=lost".to_owned(), 400),
    ] {
        let (status, answer) = door.get(who, &path).await;
        assert_eq!(status.as_u16(), expect, "{path} {answer}");
    }
    assert_eq!(door.trace().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listed_route_exists_and_guards_its_door() {
    let door = Door::new(Store::Sqlite).await;
    let id = door.id("dsd").await;
    for route in alarms::api::ROUTES.iter().chain(crate::rules::api::ROUTES).chain(crate::notify::api::ROUTES) {
        let path = route.path.replace("{id}", &id).replace("{key}", "high");
        let (status, _) = door.call(None, route.method, &path, &[], "").await;
        let expect = if route.audience == Audience::Public { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expect, "{} {path}", route.method);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_checked_without_being_stored() {
    let door = Door::new(Store::Sqlite).await;
    let viewer = || Some(person("dsd", "viewer"));
    let (status, list) = door.get(viewer(), "/api/rules").await;
    assert_eq!((status, list["rules"].as_array().map(Vec::len)), (StatusCode::OK, Some(1)), "{list}");
    let (_, rule) = door.get(viewer(), "/api/rules/high").await;
    assert_eq!(rule["when"], json!({ "above": { "raise": 10.0, "clear": 8.0, "hold": 0, "clear_hold": 0 } }));
    let before = door.trace().await;
    let mut bad = rule.clone();
    bad["when"]["above"]["clear"] = json!(12);
    let check = async |rule: &Value| {
        door.call(viewer(), "POST", "/api/rules/check", &[], &json!({ "rule": [rule] }).to_string()).await
    };
    let (status, answer) = check(&bad).await;
    assert_eq!((status, &answer["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/0/when/above/clear")));
    let (status, answer) = check(&rule).await;
    assert_eq!((status, &answer["valid"]), (StatusCode::OK, &json!(true)));
    assert_eq!(door.trace().await, before);
    let refused = door.city.rules.apply(&person("dsd", "viewer"), vec![high(5)], vec![]).await;
    assert!(matches!(refused, Err(Error::Refused(p)) if p.status == StatusCode::FORBIDDEN));
    let unknown = RuleDeclaration { notify: vec!["nobody".to_owned()], ..high(0) };
    let refused = door.city.rules.apply(&Caller::system("test"), vec![unknown], vec![]).await;
    assert!(matches!(refused, Err(Error::Refused(p)) if p.errors[0].field == "/0/notify/0"));
    assert_eq!(door.city.count("SELECT COUNT(*) FROM sensing_rule").await, 2);
}
