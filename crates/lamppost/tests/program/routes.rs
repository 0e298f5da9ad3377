//! Every address from the program's own list, tried by those who may not.

use std::collections::BTreeSet;

use sensing::Audience;

use crate::city::TestCity;

/// An address of the route's form that names nothing that exists.
pub fn address(path: &str) -> String {
    let path = path.replace("{language}", "en").replace("{id}", "01900000-0000-7000-8000-000000000000");
    path.split('/').map(|s| if s.starts_with('{') { "x" } else { s }).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_listed_once_and_answers() {
    let city = TestCity::start().await;
    let mut seen = BTreeSet::new();
    for route in &city.running().routes {
        assert!(seen.insert((route.method, route.path)), "{} {} is listed twice", route.method, route.path);
        let answer = city.request(route.method, &address(route.path)).send().await.unwrap();
        assert_ne!(answer.status(), 405, "{} {} is listed but not served", route.method, route.path);
        assert!(answer.status().as_u16() < 500, "{} {}: {}", route.method, route.path, answer.status());
    }
}

/// Rows of the audit: what somebody did. (The program itself writes now and then, whoever asks what.)
async fn audited(city: &TestCity) -> i64 {
    let count = "SELECT COUNT(*) FROM records_audit";
    let found =
        city.running().stores.records.read(move |read| read.query_one(count, &[], |row| row.get::<i64>(0))).await;
    found.unwrap_or_else(|e: records::Error| panic!("{e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_signing_in() {
    let city = TestCity::start().await;
    let before = audited(&city).await;
    let mut tried = 0;
    for route in city.running().routes.iter().filter(|r| r.audience != Audience::Public) {
        for authorization in [
            None,
            Some("Bearer nonsense"),
            Some("Basic eDp5"),
            Some("Bearer lpk_aaaaaaaaaa_0123456789012345678901234567890123456789012"),
        ] {
            let mut request = city.request(route.method, &address(route.path)).body("{}");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let status = request.send().await.unwrap().status().as_u16();
            let to_sign_in = authorization.is_none() && route.method == "GET" && status == 303;
            let refused = matches!(status, 401 | 403 | 404)
                || (route.path.starts_with("/{language}") && matches!(status, 415 | 422));
            assert!(refused || to_sign_in, "{} {} {authorization:?}: {status}", route.method, route.path);
            tried += 1;
        }
    }
    assert!(tried >= 40, "only {tried} were tried");
    assert_eq!(audited(&city).await, before, "nothing was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_roles_and_other_departments_change_nothing() {
    let city = TestCity::start().await;
    let (manager, viewer, other) = (
        city.key("dsd", "device-manager").await,
        city.key("dsd", "viewer").await,
        city.key("epd", "device-manager").await,
    );
    let body = r#"{"tenant": "dsd", "key": "station-1", "kind": "flood-station"}"#;
    let made = city.request("POST", "/api/devices").bearer_auth(&manager).body(body).send().await.unwrap();
    let device = made.headers()["location"].to_str().unwrap().trim_start_matches("/api/devices/").to_owned();
    let issued =
        city.request("POST", &format!("/api/devices/{device}/keys")).bearer_auth(&manager).send().await.unwrap();
    let issued: serde_json::Value = issued.json().await.unwrap();
    let prefix = issued["prefix"].as_str().unwrap();
    let before =
        city.get(&format!("/api/devices/{device}")).bearer_auth(&manager).send().await.unwrap().text().await.unwrap();
    let mut tried = 0;
    for route in city.running().routes.iter().filter(|r| r.path.starts_with("/api/devices") && r.audit) {
        // What a device asks for itself, and what nobody needs a key for.
        if route.audience != sensing::Audience::SignedIn {
            continue;
        }
        let path =
            route.path.replace("{id}", &device).replace("{prefix}", prefix).replace("{fingerprint}", &"ab".repeat(32));
        let (path, body, expected) = match route.path {
            "/api/devices" => (path, body.replace("station-1", "station-2"), (403, 403)),
            "/api/devices/bulk" => (format!("{path}?tenant=dsd"), "key,kind\nx,y\n".to_owned(), (403, 403)),
            "/api/devices/place" => {
                (path, r#"{"claim_code": "7KQD-M3XP-9TWB-H4RF", "thing": 1}"#.to_owned(), (404, 404))
            }
            _ => (path, "{}".to_owned(), (403, 404)),
        };
        for (key, expect) in [(&viewer, expected.0), (&other, expected.1)] {
            let answer = city.request(route.method, &path).bearer_auth(key).body(body.clone()).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expect, "{} {}", route.method, route.path);
            tried += 1;
        }
    }
    assert_eq!(tried, 24);
    let after =
        city.get(&format!("/api/devices/{device}")).bearer_auth(&manager).send().await.unwrap().text().await.unwrap();
    assert_eq!(after, before);

    // The device's own key is a caller too, but manages nothing.
    let key = issued["key"].as_str().unwrap();
    let own =
        city.request("PATCH", &format!("/api/devices/{device}")).bearer_auth(key).body("{}").send().await.unwrap();
    assert_eq!(own.status(), 404);
    let basic = city.get("/api/devices?tenant=dsd").basic_auth("station-1", Some(key)).send().await.unwrap();
    assert_eq!(basic.status(), 404, "Basic is understood, and the list is not for devices");
    let revoked = city
        .request("DELETE", &format!("/api/devices/{device}/keys/{prefix}"))
        .bearer_auth(&manager)
        .send()
        .await
        .unwrap();
    assert_eq!(revoked.status(), 204);
    let gone = city.get("/api/devices?tenant=dsd").bearer_auth(key).send().await.unwrap();
    assert_eq!(gone.status(), 401, "a revoked key is refused at once");
}
