//! Over HTTP: who may, who may not, and what the answers say.

use super::*;

fn flow() -> String {
    json!({"tenant": "dsd", "name": {"en": "Flow", "zh-hant": "流量", "zh-hans": "流量"}, "things": {"system": "flood"}, "output": "flow",
        "input": [{"name": "level", "datastream": "level"}], "formula": [{"expression": "level.value * 2.0"}]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_over_http_from_its_making_to_its_end() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "flow"], json!({"@lamppost.public": true})).await;
    city.send(ids[0], &[(0, 3.0)]).await;
    let handle = city.start().await;
    let manager = person("dsd", "manager");
    let seen = handle.idled();
    let (status, made) = city.ask(Some(&manager), "PUT", "/api/derived/flow", &flow()).await;
    assert_eq!((status, &made["version"]), (StatusCode::OK, &json!(1)), "{made}");
    handle.idle(seen).await;
    let (_, one) = city.ask(Some(&manager), "GET", "/api/derived/flow", "").await;
    assert_eq!(one["datastreams"], json!([{"output": ids[1], "inputs": [ids[0]], "depth": 1}]), "{one}");
    assert_eq!((&one["declared"], &one["changed_by"]), (&json!("api"), &json!("person:p1")));
    let (_, again) = city.ask(Some(&manager), "PUT", "/api/derived/flow", &flow()).await;
    assert_eq!(again["version"], json!(1), "the same makes no version");

    let path = format!("/api/datastreams/{}/provenance", ids[1]);
    let (status, provenance) = city.ask(None, "GET", &path, "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&provenance["origin"], &provenance["by"]["version"]), (&json!("derived"), &json!(1)), "{provenance}");
    assert_eq!(provenance["from"][0]["datastream"], json!(ids[0]));
    let (_, measured) = city.ask(None, "GET", &format!("/api/datastreams/{}/provenance", ids[0]), "").await;
    assert_eq!(measured["origin"], "measured");

    let (status, _) = city.ask(Some(&manager), "POST", "/api/derived/flow/pause", "").await;
    assert_eq!(status, StatusCode::OK);
    let (_, paused) = city.ask(Some(&manager), "GET", "/api/derived", "").await;
    assert_eq!(paused["derived"][0]["paused"], json!(true));
    let (status, _) = city.ask(Some(&manager), "POST", "/api/derived/flow/resume", "").await;
    assert_eq!(status, StatusCode::OK);
    let span = r#"{"from": "2026-11-22T00:00:00Z", "to": "2026-11-23T00:00:00Z"}"#;
    let (status, _) = city.ask(Some(&manager), "POST", "/api/derived/flow/recalculate", span).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = city.ask(Some(&manager), "POST", "/api/derived/flow/explode", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let seen = handle.idled();
    let (status, _) = city.ask(Some(&manager), "DELETE", "/api/derived/flow", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    handle.idle(seen).await;
    assert_eq!(city.values(ids[1]).await, [(0, 6.0)], "what was computed stays");
    let (status, _) = city.ask(Some(&manager), "GET", "/api/derived/flow", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let audit =
        city.catalog.records().audit(records::AuditQuery { limit: 100, ..Default::default() }).await.expect("audit");
    let deeds: Vec<&str> =
        audit.rows.iter().rev().map(|r| r.action.as_str()).filter(|a| a.starts_with("derived:")).collect();
    assert_eq!(deeds, ["derived:declare", "derived:pause", "derived:resume", "derived:recalculate", "derived:remove"]);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_nothing_and_bad_bodies_change_nothing() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "flow"], json!({})).await;
    let (manager, viewer, stranger) = (person("dsd", "manager"), person("dsd", "viewer"), person("epd", "manager"));
    let (status, _) = city.ask(Some(&manager), "PUT", "/api/derived/flow", &flow()).await;
    assert_eq!(status, StatusCode::OK);
    for (method, path) in [("GET", "/api/derived"), ("GET", "/api/derived/flow"), ("DELETE", "/api/derived/flow")] {
        assert_eq!(city.ask(None, method, path, "").await.0, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    assert_eq!(city.ask(Some(&stranger), "GET", "/api/derived", "").await.1, json!({"derived": []}));
    for (method, path, body) in [
        ("GET", "/api/derived/flow", String::new()),
        ("DELETE", "/api/derived/flow", String::new()),
        ("POST", "/api/derived/flow/pause", String::new()),
        ("GET", &format!("/api/datastreams/{}/provenance", ids[0]), String::new()),
        ("GET", &format!("/api/datastreams/{}/calibrations", ids[0]), String::new()),
    ] {
        assert_eq!(city.ask(Some(&stranger), method, path, &body).await.0, StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(city.ask(Some(&viewer), "DELETE", "/api/derived/flow", "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(city.ask(Some(&viewer), "PUT", "/api/derived/flow", &flow()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(city.ask(Some(&stranger), "PUT", "/api/derived/flow", &flow()).await.0, StatusCode::FORBIDDEN);
    for body in [
        "",
        "[]",
        "{}",
        "{\"tenant\": \"dsd\"}",
        &flow().replace("\"output\"", "\"outputs\""),
        &flow().replace("value", "worth"),
    ] {
        let (status, problem) = city.ask(Some(&manager), "PUT", "/api/derived/other", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {problem}");
    }
    let huge = "x".repeat(300 << 10);
    assert_eq!(city.ask(Some(&manager), "PUT", "/api/derived/other", &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let (_, all) = city.ask(Some(&manager), "GET", "/api/derived", "").await;
    assert_eq!(all["derived"].as_array().map(Vec::len), Some(1), "{all}");
}

/// Whoever tries numbers as outputs learns no more of what they may not read than of what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_may_not_be_read_does_not_exist() {
    let city = City::open().await;
    let own = city.thing("dsd", "gauge", &["level"], json!({})).await;
    let hidden = city.thing("csd", "cell", &["pulse"], json!({"@lamppost.public": false})).await;
    let manager = person("dsd", "manager");
    let told = async |output: i64| {
        let body = json!({"tenant": "dsd", "name": {"en": "Flow", "zh-hant": "流量", "zh-hans": "流量"}, "output": output,
            "input": [{"name": "level", "datastream": own[0]}], "formula": [{"expression": "level.value * 2.0"}]});
        city.ask(Some(&manager), "PUT", "/api/derived/flow", &body.to_string()).await
    };
    let missing = told(999_999).await;
    assert_eq!(missing.0, StatusCode::BAD_REQUEST, "{}", missing.1);
    assert_eq!(told(hidden[0].0).await, missing);
}
