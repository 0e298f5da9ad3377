//! Dry runs over a real stream and a real lake: what a rule would have raised, and that nothing comes of it.

use axum::{
    Extension, Router,
    body::to_bytes,
    http::{Request, StatusCode},
};
use kernel::SystemClock;
use lake::{Lake, Root};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    observe::{self, Observe},
    rules::{
        model::Together,
        trial::{Outcome, Trials, api},
    },
};

const NOW: i64 = 1_000_000;

/// A city and what was observed in it.
struct Past {
    city: City,
    observe: Observe,
    stream: Stream,
    _folder: tempfile::TempDir,
}

impl Past {
    async fn new() -> Self {
        let city = City::new(Store::Sqlite).await;
        let folder = tempfile::tempdir().expect("folder");
        let topic = TopicOptions::new("observations").guarded().retain_bytes(1);
        let stream = Stream::open(stream::Options::local(folder.path().join("stream"), [topic]), Arc::new(SystemClock));
        let stream = stream.await.expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.path().join("lake")))).expect("lake");
        let options = observe::Options {
            seal_every: Duration::from_secs(3_600),
            ..observe::Options::new(folder.path().join("heads"))
        };
        let topic = stream.topic("observations").expect("topic");
        let observe = Observe::open(options, topic, &lake).await.expect("observe");
        Self { city, observe, stream, _folder: folder }
    }

    async fn record(&self, rows: &[(i64, i64, f64)]) {
        let mut batch = Batch::new();
        for &(datastream, at, value) in rows {
            let mut run = Run::new(EntityId(datastream), EntityId(1));
            run.push_number(secs(at), value);
            batch.push_run(run);
        }
        self.observe.record(batch).await.expect("recorded");
    }

    fn trials(&self) -> Trials {
        Trials::new(self.city.rules.clone(), Arc::new(self.observe.clone()), jiff::tz::TimeZone::UTC)
    }

    async fn run(&self, rule: RuleDeclaration, from: i64) -> Outcome {
        let rule = crate::rules::model::Rule::new(rule).expect("valid");
        self.trials().run(&person("dsd", "viewer"), &rule, Some(secs(from)), Some(secs(NOW))).await.expect("run")
    }

    async fn close(self) {
        self.observe.close(Duration::from_secs(10)).await;
        self.stream.close().await;
    }
}

/// When, for how long, and on which Datastream.
fn times(outcome: &Outcome) -> Vec<(i64, i64, i64)> {
    let secs = |at: Timestamp| at.as_micros() / 1_000_000;
    outcome.episodes.iter().map(|e| (secs(e.raised_at), e.seconds, e.datastream.0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_tried_over_what_is_sealed_and_what_is_not() {
    let past = Past::new().await;
    for gauge in [1, 2] {
        past.city.gauge(gauge, "dsd", false).await;
    }
    past.city.gauge(3, "epd", false).await;
    past.record(&[(1, NOW - 900, 11.0), (1, NOW - 800, 7.0), (1, NOW - 700, 9.0), (3, NOW - 900, 99.0)]).await;
    past.observe.seal().await.expect("sealed");
    past.record(&[(1, NOW - 600, 12.0), (1, NOW - 550, 7.0), (2, NOW - 300, 10.0), (1, NOW - 100, 9.5)]).await;
    let found = past.run(high(0), NOW - 1_000).await;
    assert_eq!(times(&found), [(NOW - 900, 100, 1), (NOW - 600, 50, 1), (NOW - 300, 300, 2)]);
    assert_eq!(found.episodes[2].cleared_at, None, "it would still stand");
    assert_eq!((found.alarms, found.seconds, found.datastreams, found.observations), (3, 450, 2, 7));
    assert!(found.complete && found.left_out == 0);
    assert_eq!(found.places.iter().map(|p| (p.datastream.0, p.alarms)).collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    // Other levels and times, as somebody thinks of them.
    let level = |raise, hold| RuleDeclaration {
        when: Condition::Above(Level { raise, clear: 8.0, hold, clear_hold: 0 }),
        enabled: false,
        ..high(0)
    };
    assert_eq!(times(&past.run(level(9.0, 0), NOW - 1_000).await).len(), 4, "also when it is switched off");
    assert_eq!(times(&past.run(level(10.0, 60), NOW - 1_000).await), [(NOW - 840, 40, 1), (NOW - 240, 240, 2)]);
    assert_eq!(times(&past.run(level(10.0, 0), NOW - 400).await), [(NOW - 300, 300, 2)], "a shorter span");
    let together = RuleDeclaration { area: Some(Together { at_least: 2, within: Some(400) }), ..level(9.0, 0) };
    assert_eq!(times(&past.run(together, NOW - 1_000).await), [(NOW - 100, 100, 1)]);
    let quiet = past.run(RuleDeclaration { when: Condition::Absence { after: 250 }, ..high(0) }, NOW - 1_000).await;
    assert_eq!(times(&quiet), [(NOW - 750, 450, 2), (NOW - 300, 200, 1), (NOW - 50, 50, 2)]);
    past.close().await;
}

/// What the run says is what the engine does.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_the_engine_does() {
    let past = Past::new().await;
    let mut rows = Vec::new();
    // A walk that goes over the level and back again and again, by a rule that a reader can follow.
    let mut state = 7_u64;
    for step in 0..600 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.push((1 + i64::from(step % 3 == 0), NOW - 6_000 + i64::from(step) * 10, (state >> 60) as f64));
    }
    for gauge in [1, 2] {
        past.city.gauge(gauge, "dsd", true).await;
    }
    past.record(&rows).await;
    let found = past.run(high(0), NOW - 7_000).await;
    past.city.apply(vec![high(0)], vec![]).await;
    let engine = past.city.engine().await;
    let mut next = 0;
    for row in rows.chunks(50) {
        next = past.city.send(row).await;
    }
    engine.evaluated(next).await;
    engine.stop().await;
    let mut real: Vec<_> = past.city.all().await.iter().map(|a| (a.raised_at, a.thing, a.cleared_at)).collect();
    real.sort();
    let mut said: Vec<_> = found.episodes.iter().map(|e| (e.raised_at, e.thing, e.cleared_at)).collect();
    said.sort();
    assert!(real.len() > 20, "{}", real.len());
    assert_eq!(said, real);
    past.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_read_is_said() {
    let past = Past::new().await;
    for gauge in [1, 2] {
        past.city.gauge(gauge, "dsd", true).await;
    }
    let rows: Vec<_> = (0..40).map(|n| (1, NOW - 400 + n * 10, if n % 2 == 0 { 11.0 } else { 7.0 })).collect();
    past.record(&rows).await;
    past.record(&[(2, NOW - 390, 11.0), (2, NOW - 40, 7.0)]).await;
    let rule = crate::rules::model::Rule::new(high(0)).expect("valid");
    let trials = past.trials().with_rows(20);
    let caller = person("dsd", "viewer");
    let found = trials.run(&caller, &rule, Some(secs(NOW - 1_000)), Some(secs(NOW))).await.expect("run");
    assert!(!found.complete && found.asked_from == secs(NOW - 1_000));
    assert!(found.from > secs(NOW - 120) && found.from <= secs(NOW - 100), "ten rows of each: {}", found.from);
    assert_eq!(found.observations, 11, "ten of the first, and what the second said since");
    assert!(found.episodes.iter().all(|e| e.raised_at >= found.from));
    let whole = past.trials().run(&caller, &rule, Some(secs(NOW - 1_000)), Some(secs(NOW))).await.expect("run");
    assert!(whole.complete && whole.alarms == 21);
    past.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_over_http_change_nothing() {
    let past = Past::new().await;
    past.city.gauge(1, "dsd", false).await;
    past.city.apply(vec![high(0)], vec![]).await;
    past.record(&[(1, NOW - 900, 11.0), (1, NOW - 800, 7.0)]).await;
    let routes: Router = api::router(past.trials()).merge(crate::rules::api::router(past.city.rules.clone()));
    let call = |who: Option<Caller>, path: &'static str, body: Value| {
        let routes = match who {
            Some(caller) => routes.clone().layer(Extension(caller)),
            None => routes.clone(),
        };
        async move {
            let request = Request::builder().method("POST").uri(path).body(axum::body::Body::from(body.to_string()));
            let response = routes.oneshot(request.expect("request")).await.expect("infallible");
            let status = response.status();
            let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("body");
            (status, serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null))
        }
    };
    let counts = || async {
        let mut all = Vec::new();
        for sql in [
            "SELECT COUNT(*) FROM sensing_alarm",
            "SELECT COUNT(*) FROM sensing_rule_state",
            "SELECT COUNT(*) FROM sensing_delivery",
            "SELECT COUNT(*) FROM records_audit",
            "SELECT COUNT(*) FROM records_event",
            "SELECT COUNT(*) FROM records_job",
            "SELECT SUM(revision) FROM sensing_rule",
        ] {
            all.push(past.city.count(sql).await);
        }
        all
    };
    let before = counts().await;
    let viewer = || Some(person("dsd", "viewer"));
    let (own, new) = ("/api/rules/high/dry-run", "/api/rules/dry-run");
    let candidate = |slug: &str, raise: f64| {
        let level = Condition::Above(Level { raise, clear: 8.0, hold: 0, clear_hold: 0 });
        json!({ "rule": RuleDeclaration { key: "new".to_owned(), tenant: tenant(slug), when: level, ..high(0) } })
    };
    for (who, path, body, status, field) in [
        (None, own, json!({}), StatusCode::UNAUTHORIZED, ""),
        (None, new, candidate("dsd", 10.0), StatusCode::UNAUTHORIZED, ""),
        (Some(person("epd", "viewer")), own, json!({}), StatusCode::NOT_FOUND, ""),
        (Some(person("epd", "viewer")), new, candidate("dsd", 10.0), StatusCode::NOT_FOUND, ""),
        (viewer(), "/api/rules/nobody/dry-run", json!({}), StatusCode::NOT_FOUND, ""),
        (viewer(), own, json!({ "whn": {} }), StatusCode::BAD_REQUEST, ""),
        (
            viewer(),
            own,
            json!({ "when": { "above": { "raise": 1, "clear": 2 } } }),
            StatusCode::BAD_REQUEST,
            "/when/above/clear",
        ),
        (viewer(), new, candidate("dsd", 7.0), StatusCode::BAD_REQUEST, "/rule/when/above/clear"),
        (viewer(), own, json!({ "to": secs(NOW + 1).to_string() }), StatusCode::BAD_REQUEST, "/to"),
        (viewer(), own, json!({ "from": secs(NOW).to_string() }), StatusCode::BAD_REQUEST, "/from"),
        (viewer(), own, json!({ "from": secs(NOW - 401 * 86_400).to_string() }), StatusCode::BAD_REQUEST, "/from"),
    ] {
        let (found, problem) = call(who, path, body.clone()).await;
        assert_eq!(found, status, "{path} {body} {problem}");
        if !field.is_empty() {
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    }
    let (status, found) = call(viewer(), own, json!({})).await;
    assert_eq!((status, &found["alarms"], &found["complete"]), (StatusCode::OK, &json!(1), &json!(true)));
    assert_eq!((&found["episodes"][0]["seconds"], &found["episodes"][0]["datastream"]), (&json!(100), &json!(1)));
    let (_, found) = call(viewer(), own, json!({ "when": { "above": { "raise": 20, "clear": 2 } } })).await;
    assert_eq!(found["alarms"], 0);
    let (_, found) = call(viewer(), new, candidate("dsd", 9.0)).await;
    assert_eq!(found["alarms"], 1);
    assert_eq!(counts().await, before);
    past.close().await;
}
