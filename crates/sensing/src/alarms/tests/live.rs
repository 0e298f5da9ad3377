//! The live stream: who sees what, what a slow or returning browser gets, and how many may come.

use axum::{
    Extension, Router,
    body::{Body, BodyDataStream},
    http::{Request, StatusCode},
};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    model::{DatastreamInfo, ObservationType},
    notify::live::{self, Directory, Live},
    observe::Extra,
};

const NOW: i64 = 1_000_000;

/// Datastreams 1 and 3 are public and belong to `dsd`, 2 is private to `epd`.
#[derive(Clone)]
struct Known(Arc<Scopes>);

impl Directory for Known {
    fn describe(&self, id: EntityId) -> Option<Arc<DatastreamInfo>> {
        (1..=3).contains(&id.0).then(|| {
            Arc::new(DatastreamInfo {
                id,
                tenant: tenant(if id.0 == 2 { "epd" } else { "dsd" }),
                public: id.0 != 2,
                thing: EntityId(id.0 * 10),
                name: "n".into(),
                observation_type: ObservationType::Any,
                elements: None,
                unit: (id.0 == 1).then(|| "m".into()),
                feature: EntityId(1),
                interval: None,
                simulated: false,
            })
        })
    }
    fn scope(&self, caller: &Caller) -> Arc<crate::Scope> {
        self.0.of(caller)
    }
    fn system(&self, id: EntityId) -> Option<Arc<str>> {
        Some(if id.0 == 3 { "flood" } else { "air" }.into())
    }
}

struct Browser {
    data: BodyDataStream,
    text: String,
}

impl Browser {
    /// The next event: its name, id and data. Comments are passed over.
    async fn next(&mut self) -> (String, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
                    line.map(str::trim).unwrap_or_default().to_owned()
                };
                let found = (field("event"), field("id"), serde_json::from_str(&field("data")).unwrap_or_default());
                self.text = rest.to_owned();
                if !found.0.is_empty() {
                    return found;
                }
                continue;
            }
            let chunk = self.data.next().await.expect("open").expect("bytes");
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

struct Door {
    _city: City,
    live: Live<Known>,
}

impl Door {
    async fn new(options: live::Options) -> Self {
        let city = City::new(Store::Sqlite).await;
        for slug in ["dsd", "epd"] {
            city.scopes.know(&tenant(slug));
        }
        let live = Live::new(Known(city.scopes.clone()), city.alarms.clone(), options, 0);
        Self { _city: city, live }
    }

    async fn ask(&self, who: Option<Caller>, query: &str, last: Option<&str>) -> axum::response::Response {
        let mut request = Request::builder().uri(format!("/api/live{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let routes: Router = live::router(self.live.clone());
        let routes = match who {
            Some(caller) => routes.layer(Extension(caller)),
            None => routes,
        };
        routes.oneshot(request.body(Body::empty()).expect("request")).await.expect("infallible")
    }

    async fn open(&self, who: Option<Caller>, query: &str, last: Option<&str>) -> Browser {
        let response = self.ask(who, query, last).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Browser { data: response.into_body().into_data_stream(), text: String::new() }
    }

    fn show(&self, offset: u64, rows: &[(i64, i64, f64)]) {
        let mut batch = Batch::new();
        for &(datastream, at, value) in rows {
            let mut run = Run::new(EntityId(datastream), EntityId(1));
            run.push_number(secs(at), value);
            batch.push_run(run);
        }
        self.live.observed(offset, &batch);
    }

    fn alarm(&self, offset: u64, slug: &str, public: bool) {
        let event = json!({ "type": "alarm.raised", "id": offset.to_string(), "tenant": slug, "public": public, "state": "open" });
        self.live.event(offset, event.to_string().as_bytes());
    }
}

fn fast() -> live::Options {
    live::Options { pace: Duration::ZERO, ..live::Options::default() }
}

#[tokio::test]
async fn everybody_sees_only_what_is_theirs() {
    let door = Door::new(fast()).await;
    let mut public = door.open(None, "", None).await;
    let mut epd = door.open(Some(person("epd", "viewer")), "", None).await;
    door.show(7, &[(2, NOW, 2.0), (9, NOW, 9.0), (1, NOW, 1.5)]);
    door.alarm(0, "epd", false);
    door.alarm(1, "dsd", true);
    // The private ones come first on the board: what the public gets first proves that they were left out.
    let (event, id, data) = public.next().await;
    assert_eq!((event.as_str(), id.as_str(), &data["id"]), ("alarm", "1", &json!("1")));
    assert_eq!((data.get("tenant"), data.get("public")), (None, None));
    let (event, id, data) = public.next().await;
    assert_eq!((event.as_str(), id.as_str()), ("observation", ""));
    assert_eq!(
        data,
        json!({ "datastream": 1, "thing": 10, "at": "1970-01-12T13:46:40Z", "value": 1.5, "unit": "m", "offset": 7 })
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (event, _, data) = epd.next().await;
        seen.push(format!("{event} {}", if event == "alarm" { &data["id"] } else { &data["datastream"] }));
    }
    assert_eq!(seen, ["alarm \"0\"", "alarm \"1\"", "observation 2", "observation 1"]);
}

#[tokio::test]
async fn a_slow_browser_gets_the_latest_and_nothing_piles_up() {
    let door = Door::new(fast()).await;
    let mut slow = door.open(None, "", None).await;
    for n in 0..10_000 {
        door.show(n, &[(1, NOW + n as i64, n as f64)]);
    }
    door.show(10_000, &[(1, NOW, 0.5)]);
    door.show(10_001, &[(3, NOW, 3.0)]);
    let (_, _, first) = slow.next().await;
    assert_eq!((&first["datastream"], &first["value"]), (&json!(1), &json!(9999.0)), "the latest, and no straggler");
    assert_eq!(slow.next().await.2["datastream"], json!(3));
}

#[tokio::test]
async fn an_alarm_does_not_wait_for_the_pace_of_observations() {
    // Whoever waited for the pace would wait for an hour.
    let door = Door::new(live::Options { pace: Duration::from_secs(3_600), ..live::Options::default() }).await;
    let mut browser = door.open(None, "", None).await;
    door.show(1, &[(1, NOW, 1.0)]);
    assert_eq!(browser.next().await.0, "observation");
    let both = async {
        // Not before the browser waits.
        tokio::task::yield_now().await;
        door.show(2, &[(1, NOW + 1, 2.0)]);
        door.alarm(0, "epd", false);
        door.alarm(1, "dsd", true);
    };
    let ((event, id, _), ()) = tokio::join!(browser.next(), both);
    assert_eq!((event.as_str(), id.as_str()), ("alarm", "1"), "what one may not see is passed over");
    // A storm: none is lost, whoever hurried a moment ago.
    (2..700).for_each(|offset| door.alarm(offset, "dsd", true));
    for offset in 2..700 {
        assert_eq!(browser.next().await.1, offset.to_string());
    }
}

#[tokio::test]
async fn what_is_asked_for_is_what_comes() {
    let door = Door::new(fast()).await;
    let mut one = door.open(None, "?datastreams=1,2", None).await;
    let mut layer = door.open(None, "?layers=flood", None).await;
    let mut run = Run::new(EntityId(1), EntityId(1));
    let raw = serde_json::value::RawValue::from_string("{\"a\":\n\n\"event: alarm\"}".to_owned()).expect("json");
    run.push(secs(NOW), f64::NAN, Extra { result: Some(raw.into()), ..Extra::default() });
    let mut batch = Batch::new();
    batch.push_run(run);
    door.show(1, &[(2, NOW, 1.0), (3, NOW, 1.0)]);
    door.live.observed(2, &batch);
    let (event, _, data) = one.next().await;
    assert_eq!(
        (event.as_str(), &data["value"]),
        ("observation", &json!({ "a": "event: alarm" })),
        "a result cannot forge an event"
    );
    assert_eq!(layer.next().await.2["datastream"], json!(3));
    for bad in ["?datastreams=x", "?colour=1", "?datastreams=1&layers=a&y"] {
        assert_eq!(door.ask(None, bad, None).await.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    let many = (0..1_002).map(|n: i32| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(door.ask(None, &format!("?datastreams={many}"), None).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_browser_that_was_away_gets_the_alarms_it_missed() {
    let door = Door::new(fast()).await;
    for offset in 0..5 {
        door.alarm(offset, "dsd", true);
    }
    let mut back = door.open(None, "", Some("2")).await;
    assert_eq!((back.next().await.1, back.next().await.1), ("3".to_owned(), "4".to_owned()));
    for foreign in ["77", "x"] {
        let mut lost = door.open(None, "", Some(foreign)).await;
        assert_eq!(lost.next().await.0, "resync", "{foreign}");
    }
    for offset in 5..1_100 {
        door.alarm(offset, "dsd", true);
    }
    let mut late = door.open(None, "", Some("2")).await;
    assert_eq!(late.next().await.0, "resync", "too much was missed");
    assert_eq!(late.next().await.1, "100", "what is still known follows");
}

#[tokio::test]
async fn connections_are_counted_in_and_out() {
    let door = Door::new(live::Options { max_connections: 4, max_per_caller: 1, ..fast() }).await;
    let first = door.open(Some(person("dsd", "viewer")), "", None).await;
    assert_eq!(door.ask(Some(person("dsd", "viewer")), "", None).await.status(), StatusCode::TOO_MANY_REQUESTS);
    let public = (door.open(None, "", None).await, door.open(None, "", None).await);
    assert_eq!(door.ask(None, "", None).await.status(), StatusCode::TOO_MANY_REQUESTS, "the public has half");
    let fourth = door.open(Some(person("epd", "duty")), "", None).await;
    assert_eq!(door.ask(Some(person("epd", "viewer")), "", None).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(door.live.connections(), 4);
    drop((first, public, fourth));
    assert_eq!(door.live.connections(), 0);
}

#[tokio::test]
async fn a_connection_ends_after_its_time() {
    let door = Door::new(live::Options { lifetime: Duration::ZERO, ..fast() }).await;
    let mut browser = door.open(None, "", None).await;
    assert!(browser.data.next().await.is_none());
    drop(browser);
    assert_eq!(door.live.connections(), 0);
}
