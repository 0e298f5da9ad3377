//! Public warnings on real stores: Alert, Update and Cancel in the transactions of the alarms, and how they are served.

use std::collections::BTreeMap;

use axum::body::to_bytes;
use http::{Request, StatusCode, header};
use ring::rand::SystemRandom;
use tower::ServiceExt as _;

use super::*;
use crate::{
    alarms::Deed,
    alerts::{
        self, Alerts, Stored,
        model::{Category, Certainty, MsgType, Place, PublicAlert, Status, Urgency},
        publisher::{Districts, Publisher},
        sign::Signer,
    },
};

const NOW: i64 = 1_000_000;

fn declared() -> PublicAlert {
    PublicAlert {
        category: vec![Category::Met],
        urgency: Urgency::Immediate,
        severity: None,
        certainty: Certainty::Observed,
        headline: Text::new("Flooding in {district} & around", "{district}水浸", "{district}水浸"),
        description: Text::new("{thing}: {value} <now>", "{thing}：{value}", "{thing}：{value}"),
        instruction: Some(Text::new("Move up", "移往高處", "移往高处")),
        area: Place::District,
        expires: 3_600,
        exercise: false,
    }
}

fn publisher() -> Publisher {
    let random = SystemRandom::new();
    let key = Signer::generate(&random).expect("a key");
    let square = vec![[114.0, 22.4], [114.1, 22.4], [114.1, 22.5], [114.0, 22.4]];
    let name = Text::new("Yuen Long District", "元朗區", "元朗区");
    Publisher {
        signer: Signer::new(&key, Box::new(random)).expect("reads"),
        districts: Districts::new([(name, vec![square])], []),
        city: Text::new("Hong Kong", "香港", "香港"),
        tenants: BTreeMap::from([(tenant("dsd"), Text::new("Drainage", "渠務署", "渠务署"))]),
        address: "https://city.example".to_owned(),
        zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(8)),
        catalogue: Arc::new(ui::Catalogue::new(&[ui::TEXTS, crate::pages::TEXTS]).expect("texts")),
    }
}

fn public(area: Place) -> RuleDeclaration {
    RuleDeclaration { public_alert: Some(PublicAlert { area, ..declared() }), ..high(0) }
}

async fn opened(city: &City) -> Alerts {
    Alerts::open(&city.alarms, publisher()).await.expect("opens")
}

async fn newest(alerts: &Alerts) -> Stored {
    alerts.list(alerts::Filter::default(), 10).await.expect("list").remove(0)
}

async fn life(store: Store) {
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    city.gauge(2, "dsd", true).await;
    let alerts = opened(&city).await;
    city.apply(vec![public(Place::District)], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    let first = newest(&alerts).await;
    let message = &first.message;
    assert_eq!((message.msg_type, message.status, message.references.len()), (MsgType::Alert, Status::Actual, 0));
    assert_eq!(message.sender, "dsd@city.example");
    assert_eq!(message.sent, "1970-01-12T21:46:40+08:00", "the city's time, with its offset");
    let english = message.info(kernel::Language::En).expect("English");
    assert_eq!(english.headline, "Flooding in Yuen Long District & around");
    assert_eq!(english.description, "San Tin: 11\u{202f}m <now>");
    assert_eq!(english.area.area_desc, "Yuen Long District");
    assert_eq!(english.area.polygon.len(), 1);
    assert_eq!(message.info.len(), 3);
    assert_eq!(message.info(kernel::Language::ZhHans).expect("Chinese").area.area_desc, "元朗区");

    // A second gauge of the district is the same warning.
    let next = city.send(&[(2, NOW + 1, 12.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await.len(), 2);
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_alert").await, 1, "{store:?}");

    // Before the message is over, another follows that holds as long.
    assert_eq!(alerts.renew().await.expect("renewed"), 0);
    city.clock.advance_micros(2_800 * 1_000_000);
    assert_eq!(alerts.renew().await.expect("renewed"), 1);
    assert_eq!(alerts.renew().await.expect("renewed"), 0, "once");
    let update = newest(&alerts).await;
    assert_eq!((update.message.msg_type, update.chain.number), (MsgType::Update, 2));
    assert_eq!(update.message.references, [first.message.reference()]);
    assert_eq!(update.expires.micros_since(update.sent), 3_600 * 1_000_000);
    assert!(update.stands(city.clock.now()));

    // It is over when it is over at both.
    let next = city.send(&[(1, NOW + 2_800, 1.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(newest(&alerts).await, update);
    let next = city.send(&[(2, NOW + 2_800, 1.0)]).await;
    engine.evaluated(next).await;
    let cancel = newest(&alerts).await;
    assert_eq!((cancel.message.msg_type, cancel.chain.number), (MsgType::Cancel, 3));
    assert_eq!(cancel.message.references, [first.message.reference(), update.message.reference()]);
    assert!(!cancel.stands(city.clock.now()));
    let english = cancel.message.info(kernel::Language::En).expect("English");
    assert_eq!((english.urgency, english.response_type.as_deref()), (Urgency::Past, Some("AllClear")));
    assert_eq!(english.headline, "Ended: Flooding in Yuen Long District & around");
    assert_eq!(city.count("SELECT COUNT(*) FROM sensing_alert_alarm").await, 0);
    assert_eq!(city.count("SELECT COUNT(*) FROM records_audit WHERE action = 'alert:issue'").await, 3);
    let (_, history) = alerts.get(&cancel.message.identifier).await.expect("there");
    assert_eq!(history.iter().map(|l| l.msg_type.as_str()).collect::<Vec<_>>(), ["Cancel", "Update", "Alert"]);

    // The next time is another warning.
    let next = city.send(&[(1, NOW + 2_900, 11.0)]).await;
    engine.evaluated(next).await;
    assert_ne!(newest(&alerts).await.chain.warning, first.chain.warning);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_issued_extended_and_cancelled() {
    life(Store::Sqlite).await;
    life(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_simulated_is_an_exercise_and_says_so() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", false).await;
    let simulate = city.records.write(|tx| tx.execute("UPDATE sensing_thing SET simulated = 1", params![]));
    simulate.await.expect("marked");
    let alerts = opened(&city).await;
    city.apply(vec![public(Place::Circle(1.5))], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    let message = newest(&alerts).await.message;
    assert_eq!(message.status, Status::Exercise);
    assert!(message.note.is_some_and(|n| n.starts_with("Exercise")));
    for info in &message.info {
        assert!(info.headline.starts_with("EXERCISE: ") || info.headline.starts_with("【"), "{}", info.headline);
        // The gauge is not published: neither its place nor its name is told.
        assert_eq!(info.area.circle, None);
        assert!(!info.description.contains("San Tin") && !info.area.area_desc.contains("San Tin"));
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_that_a_person_closes_ends_its_warning() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    let alerts = opened(&city).await;
    city.apply(vec![public(Place::District)], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    let alarm = city.all().await.remove(0);
    let duty = person("dsd", "duty");
    city.alarms.act(&duty, alarm.id, Deed::Close, Some(1), "broken gauge").await.expect("closed");
    assert_eq!(newest(&alerts).await.message.msg_type, MsgType::Cancel);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_are_served_to_everybody() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    let alerts = opened(&city).await;
    let router = alerts::api::router(alerts.clone());
    let get = async |path: &str, known: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let answer = router.clone().oneshot(request.body(axum::body::Body::empty()).expect("a request")).await;
        let (head, body) = answer.expect("an answer").into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("a body");
        let text = |name| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        (head.status, text(header::CONTENT_TYPE), text(header::ETAG), String::from_utf8(body.to_vec()).expect("text"))
    };
    let (status, kind, empty, body) = get("/cap", None).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/atom+xml; charset=utf-8"));
    assert!(body.contains("<updated>") && !body.contains("<entry>"));
    city.apply(vec![public(Place::District)], vec![]).await;
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW, 11.0)]).await;
    engine.evaluated(next).await;
    engine.stop().await;
    let (status, _, tag, feed) = get("/cap?language=zh-hant", Some(&empty)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(feed.contains("<entry>") && feed.contains("元朗區水浸") && feed.contains("type=\"application/cap+xml\""));
    assert_eq!(get("/cap?language=zh-hant", Some(&tag)).await.0, StatusCode::NOT_MODIFIED);
    assert_eq!(get("/cap?language=fr", None).await.0, StatusCode::BAD_REQUEST);

    let identifier = newest(&alerts).await.message.identifier;
    let (status, kind, tag, xml) = get(&format!("/cap/{identifier}"), None).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/cap+xml; charset=utf-8"));
    assert!(xml.contains("<headline>Flooding in Yuen Long District &amp; around</headline>"));
    assert!(xml.contains("<polygon>22.40000,114.00000 ") && xml.contains("<SignatureValue>"));
    assert_eq!(get(&format!("/cap/{identifier}"), Some(&tag)).await.0, StatusCode::NOT_MODIFIED);
    let (_, kind, _, keys) = get("/cap/jwks.json", None).await;
    let keys: serde_json::Value = serde_json::from_str(&keys).expect("JSON");
    assert_eq!(kind, "application/jwk-set+json");
    assert!(xml.contains(&format!("<KeyName>{}</KeyName>", keys["keys"][0]["kid"].as_str().expect("a key"))));
    let (_, _, _, json) = get("/api/alerts?standing=true&district=Yuen%20Long", None).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["alerts"][0]["message"]["msgType"], "Alert");
    assert_eq!(json["alerts"][0]["message"]["info"][0]["area"]["areaDesc"], "Yuen Long District");
    let (_, _, _, json) = get(&format!("/api/alerts/{identifier}"), None).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["standing"], &json["history"][0]["msgType"]), (&true.into(), &"Alert".into()));
    for path in ["/cap/none", "/api/alerts/none"] {
        assert_eq!(get(path, None).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get("/api/alerts?distict=x", None).await.0, StatusCode::BAD_REQUEST);
}
