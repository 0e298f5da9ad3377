//! The HTTP door: health, figures, limits, names of requests, stopping.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::city::TestCity;

#[tokio::test(flavor = "multi_thread")]
async fn says_that_it_is_well_and_what_it_did() {
    let city = TestCity::start().await;
    let ready: Value = city.get("/health/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        ready,
        serde_json::json!({"status": "ready", "parts": {"records": "ready", "stream": "ready", "lake": "ready"}})
    );
    assert_eq!(city.get("/health/live").send().await.unwrap().status(), 200);
    let key = city.key("city", "operator").await;
    assert_eq!(
        city.get("/metrics").send().await.unwrap().status(),
        401,
        "a sealed department's traffic is in the figures"
    );
    let figures = city.get("/metrics").bearer_auth(&key).send().await.unwrap().text().await.unwrap();
    assert!(
        figures.contains("lamppost_http_requests_total{method=\"GET\",route=\"/health/ready\",status=\"200\"} 1"),
        "{figures}"
    );
    assert!(figures.contains("lamppost_records_commands_total"), "{figures}");
    assert!(figures.contains("lamppost_stream_end{topic=\"events\"}"), "{figures}");
    let api: Value = city.get("/api/openapi.json").send().await.unwrap().json().await.unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    assert!(api["paths"]["/api/devices/{id}"]["patch"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_names() {
    let city = TestCity::start().await;
    let id = |answer: &reqwest::Response| answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(id(&city.get("/health/live").header("x-request-id", "my-7").send().await.unwrap()), "my-7");
    let fresh = id(&city
        .get("/health/live")
        .header("x-request-id", "bad id\u{7f}".trim_end_matches('\u{7f}'))
        .send()
        .await
        .unwrap());
    assert_eq!(fresh.len(), 36, "what is not plain is replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_too_many_are_refused_clearly() {
    let city = TestCity::with(|config| {
        config.http.body_limit = 1_000;
        config.http.concurrency = 1;
        config.http.timeout = Duration::from_millis(300);
    })
    .await;
    let key = city.key("dsd", "admin").await;
    let large = city.request("POST", "/api/devices").bearer_auth(&key).body("x".repeat(2_000)).send().await.unwrap();
    assert_eq!(large.status(), 413);
    assert_eq!(large.headers()["content-type"], "application/problem+json");

    // A client that declares a body and does not send it holds the only place, until its time is over.
    let mut slow = tokio::net::TcpStream::connect(city.running().http).await.unwrap();
    let head =
        format!("POST /api/devices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 10\r\n\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    loop {
        let answer = city.get("/health/live").send().await.unwrap();
        if answer.status() == 503 {
            assert_eq!(answer.headers()["retry-after"], "1");
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    assert_eq!(city.get("/health/live").send().await.unwrap().status(), 200, "and the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_without_tls_is_spoken() {
    let city = TestCity::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(city.url("/health/live")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_is_kept_out_and_a_restart_keeps_all() {
    let mut city = TestCity::start().await;
    let clock = std::sync::Arc::new(kernel::SystemClock);
    let second = lamppost::compose::start(city.config.clone(), clock).await.err().expect("refused").to_string();
    assert!(second.starts_with("another lamppost is using the folder"), "{second}");

    let key = city.key("dsd", "device-manager").await;
    let body = r#"{"tenant": "dsd", "key": "station-1", "kind": "flood-station"}"#;
    let made = city.request("POST", "/api/devices").bearer_auth(&key).body(body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let location = made.headers()["location"].to_str().unwrap().to_owned();
    let audit = || async {
        let query = records::AuditQuery { limit: 1_000, ..Default::default() };
        city.running().stores.records.audit(query).await.unwrap().rows.len()
    };
    let before = audit().await;
    city.restart().await;
    let shown = city.get(&location).bearer_auth(&key).send().await.unwrap();
    assert_eq!(shown.json::<Value>().await.unwrap()["key"], "station-1");
    let query = records::AuditQuery { limit: 1_000, ..Default::default() };
    let after = city.running().stores.records.audit(query).await.unwrap().rows.len();
    // The one-time link of a city without operators is made anew; the pack is not applied again.
    assert_eq!(after, before + 1, "a second start writes nothing for the pack");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_records_emit_arrives_on_the_stream() {
    let city = TestCity::start().await;
    let topic = city.running().stores.stream.topic("events").unwrap();
    // The catalogue has emitted events while the pack was applied; this one comes after them.
    let mark = serde_json::json!({"test": 7});
    let payload = mark.clone();
    let emitted = city.running().stores.records.write(move |tx| {
        tx.emit(records::Event { topic: "test".to_owned(), key: "k".to_owned(), payload: payload.clone() })
    });
    let id = emitted.await.unwrap_or_else(|e: records::Error| panic!("{e}"));
    let mut reader = topic.subscribe(topic.start()).await.unwrap();
    loop {
        let records = reader.next().await.unwrap();
        let found = records.iter().find_map(|r| {
            let event: Value = serde_json::from_slice(&r.payload).ok()?;
            (event["id"] == id.to_string()).then_some(event)
        });
        if let Some(event) = found {
            assert_eq!((&event["topic"], &event["payload"]), (&"test".into(), &mark));
            break;
        }
    }
}
