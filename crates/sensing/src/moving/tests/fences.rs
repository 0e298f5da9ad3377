//! Fences over HTTP: who may, who may not, and what changes nothing.

use super::*;
use crate::rules::model::RuleDeclaration;

fn yard(tenant: &str, public: bool) -> Value {
    json!({"tenant": tenant, "public": public, "kind": "yard", "name": {"en": "Yard", "zh-hant": "場", "zh-hans": "场"},
        "circle": {"lon": 114.1, "lat": 22.3, "radius": 250}})
}

fn rule(fence: &str) -> RuleDeclaration {
    serde_json::from_value(json!({"key": "strayed", "tenant": "ha", "severity": "Minor",
        "name": {"en": "Strayed", "zh-hant": "離", "zh-hans": "离"}, "select": {"system": "hepa"},
        "when": {"geofence": {"fences": [fence], "raise": "outside"}}}))
    .expect("a rule")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_from_its_drawing_to_its_end() {
    let city = City::open().await;
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let heard = told.clone();
    city.moving.fences().telling(move || {
        heard.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let manager = person("ha", "manager");
    let put = async |body: Value| city.ask(Some(&manager), "PUT", "/api/fences/ha.yard", &body.to_string()).await;
    let (status, made) = put(yard("ha", false)).await;
    assert_eq!((status, &made["source"], &made["revision"]), (StatusCode::OK, &json!("api"), &json!(1)), "{made}");
    assert_eq!(put(yard("ha", false)).await.1["revision"], json!(1), "the same writes nothing");
    let mut wider = yard("ha", false);
    wider["circle"]["radius"] = json!(300);
    assert_eq!(put(wider).await.1["revision"], json!(2));
    let (_, all) = city.ask(Some(&manager), "GET", "/api/fences", "").await;
    assert_eq!(all["features"][0]["properties"]["key"], "ha.yard");
    assert_eq!(city.ask(None, "GET", "/api/fences", "").await.1["features"], json!([]), "it is not published");

    city.rules.apply(&Caller::system("test"), vec![rule("ha.yard")], Vec::new()).await.expect("applied");
    let (status, problem) = city.ask(Some(&manager), "DELETE", "/api/fences/ha.yard", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("strayed")), "{problem}");
    city.rules.apply(&Caller::system("test"), vec![rule("other")], Vec::new()).await.expect("applied");
    assert_eq!(city.ask(Some(&manager), "DELETE", "/api/fences/ha.yard", "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(city.ask(Some(&manager), "DELETE", "/api/fences/ha.yard", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 4, "the rules hear of every change");
    let audit =
        city.catalog.records().audit(records::AuditQuery { limit: 100, ..Default::default() }).await.expect("audit");
    let deeds: Vec<&str> =
        audit.rows.iter().rev().map(|r| r.action.as_str()).filter(|a| a.starts_with("fence:")).collect();
    assert_eq!(deeds, ["fence:declare", "fence:declare", "fence:remove"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_come_in_pages_and_nobody_draws_over_anothers_change() {
    let city = City::open().await;
    let manager = person("ha", "manager");
    for key in ["ha.a", "ha.b", "ha.c"] {
        let body = yard("ha", false).to_string();
        assert_eq!(city.ask(Some(&manager), "PUT", &format!("/api/fences/{key}"), &body).await.0, StatusCode::OK);
    }
    let keys = |page: &Value| -> Vec<String> {
        let features = page["features"].as_array().expect("features");
        features.iter().map(|f| f["properties"]["key"].as_str().expect("a key").to_owned()).collect()
    };
    let ask = async |query: &str| city.ask(Some(&manager), "GET", &format!("/api/fences{query}"), "").await;
    let (_, first) = ask("?limit=2").await;
    assert_eq!((keys(&first), &first["next"]), (vec!["ha.a".to_owned(), "ha.b".to_owned()], &json!("ha.b")));
    let (_, last) = ask("?limit=2&after=ha.b").await;
    assert_eq!((keys(&last), &last["next"]), (vec!["ha.c".to_owned()], &Value::Null));
    assert_eq!(ask("?limit=3").await.1["next"], Value::Null, "all of them fit");
    for bad in ["?limit=0", "?limit=1001", "?limit=x"] {
        assert_eq!(ask(bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }

    let mut wider = yard("ha", false);
    (wider["key"], wider["circle"]["radius"]) = ("ha.a".into(), json!(300));
    let wider: crate::moving::FenceDeclaration = serde_json::from_value(wider).expect("a fence");
    let declare = async |seen| {
        let made = city.moving.fences().declare(&manager, wider.clone(), seen).await;
        made.map(|made| made.revision).map_err(|error| kernel::Problem::from(error).status)
    };
    assert_eq!(declare(Some(0)).await, Err(StatusCode::CONFLICT), "the key is taken");
    assert_eq!(declare(Some(2)).await, Err(StatusCode::CONFLICT));
    assert_eq!(declare(Some(1)).await, Ok(2));
    assert_eq!(declare(Some(1)).await, Err(StatusCode::CONFLICT), "somebody was quicker");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_change_nothing_and_neither_do_bad_bodies() {
    let city = City::open().await;
    let (manager, viewer, stranger) = (person("ha", "manager"), person("ha", "viewer"), person("epd", "manager"));
    let put = async |caller: Option<&Caller>, key: &str, body: &str| {
        city.ask(caller, "PUT", &format!("/api/fences/{key}"), body).await
    };
    let body = yard("ha", false).to_string();
    assert_eq!(put(Some(&manager), "ha.yard", &body).await.0, StatusCode::OK);
    assert_eq!(put(None, "ha.other", &body).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(put(Some(&viewer), "ha.other", &body).await.0, StatusCode::FORBIDDEN);
    assert_eq!(put(Some(&stranger), "ha.other", &body).await.0, StatusCode::FORBIDDEN);
    // A key of another department is not theirs, whether it is there or not.
    for key in ["ha.yard", "ha.none", "yard"] {
        let (status, problem) = put(Some(&stranger), key, &yard("epd", false).to_string()).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/key")), "{problem}");
    }
    for caller in [None, Some(&stranger)] {
        assert_eq!(city.ask(caller, "GET", "/api/fences/ha.yard", "").await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(city.ask(Some(&stranger), "DELETE", "/api/fences/ha.yard", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(city.ask(Some(&viewer), "DELETE", "/api/fences/ha.yard", "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(city.ask(None, "DELETE", "/api/fences/ha.yard", "").await.0, StatusCode::UNAUTHORIZED);
    for body in [
        String::new(),
        "[]".to_owned(),
        "{}".to_owned(),
        body.replace("circle", "circles"),
        body.replace("250", "1"),
        body.replace("250", "\"wide\""),
        yard("ha", false).to_string().replacen('{', "{\"key\": \"else\",", 1),
    ] {
        let (status, problem) = put(Some(&manager), "ha.other", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body} {problem}");
    }
    let huge = format!("{{\"polygon\": [{}]}}", "[114.1, 22.3],".repeat(200_000));
    assert_eq!(put(Some(&manager), "ha.other", &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let sealed = person("csd", "manager");
    let (status, problem) = put(Some(&sealed), "csd.cell", &yard("csd", true).to_string()).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/public")));
    let (_, all) = city.ask(Some(&manager), "GET", "/api/fences", "").await;
    assert_eq!(all["features"].as_array().map(Vec::len), Some(1), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packs_fences_are_the_packs_and_officers_keep_theirs() {
    let city = City::open().await;
    let system = Caller::system("pack");
    let declared = |key: &str, shape: Value| {
        let mut body = yard("ha", false);
        body["key"] = json!(key);
        body.as_object_mut().expect("object").remove("circle");
        body.as_object_mut().expect("object").extend(shape.as_object().expect("object").clone());
        serde_json::from_value(body).expect("a fence")
    };
    let circle = || json!({"circle": {"lon": 114.1, "lat": 22.3, "radius": 250}});
    let fences = city.moving.fences();
    let manager = person("ha", "manager");
    assert_eq!(
        city.ask(Some(&manager), "PUT", "/api/fences/ha.own", &yard("ha", false).to_string()).await.0,
        StatusCode::OK
    );
    let all = vec![declared("ha.a", circle()), declared("b", json!({"district": "Southern"}))];
    let applied = fences.apply(&system, all.clone()).await.expect("applied");
    assert_eq!((applied.written, applied.removed), (2, 0));
    assert_eq!(fences.apply(&system, all).await.expect("applied"), Default::default(), "twice writes nothing");
    assert!(fences.apply(&manager, Vec::new()).await.is_err());
    let body = yard("ha", false).to_string();
    assert_eq!(city.ask(Some(&manager), "PUT", "/api/fences/ha.a", &body).await.0, StatusCode::CONFLICT);
    assert_eq!(city.ask(Some(&manager), "DELETE", "/api/fences/ha.a", "").await.0, StatusCode::CONFLICT);
    let inside =
        fences.get(&manager, "b").await.expect("there").fence.distance(super::super::Place { lon: 114.15, lat: 22.25 });
    assert!(inside < -1_000.0, "a district is its outline: {inside}");
    let atlantis =
        fences.apply(&system, vec![declared("c", json!({"district": "Atlantis"}))]).await.expect_err("no such place");
    assert!(atlantis.to_string().contains("Atlantis"), "{atlantis}");
    let applied = fences.apply(&system, vec![declared("ha.a", circle())]).await.expect("applied");
    assert_eq!((applied.written, applied.removed), (0, 1));
    let keys: Vec<String> = fences.list(&manager).await.expect("list").iter().map(|s| s.fence.key.clone()).collect();
    assert_eq!(keys, ["ha.a", "ha.own"]);
}
