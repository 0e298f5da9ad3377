//! A backup while the city is served, and a restore into an empty folder that is then compared.

use std::{path::Path, sync::Arc};

use kernel::SystemClock;
use lamppost::{backup, compose};
use serde_json::Value;

use crate::city::{TestCity, new_stores};

/// Everything that the city answers about what it holds, as one text.
async fn everything(city: &TestCity, key: &str) -> String {
    let mut out = String::new();
    let mut next = Some("/api/devices?tenant=dsd".to_owned());
    while let Some(path) = next {
        let page: Value = city.get(&path).bearer_auth(key).send().await.unwrap().json().await.unwrap();
        next = page["after"].as_str().map(|after| format!("/api/devices?tenant=dsd&after={after}"));
        out.push_str(&page.to_string());
    }
    for path in [
        "/v1.1/Datastreams?$orderby=id&$top=500",
        "/v1.1/Things?$orderby=id&$top=1000",
        "/api/alarms",
        &observations(city).await,
    ] {
        let answer = city.get(path).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        // Links name the port, which differs from start to start.
        out.push_str(&answer.text().await.unwrap().replace(&city.url(""), ""));
    }
    let records = &city.running().stores.records;
    for table in [
        "sensing_thing",
        "sensing_datastream",
        "sensing_sensor",
        "sensing_observed_property",
        "sensing_location",
        "operators_person",
        "operators_key",
        "lamppost_pack",
    ] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let count = records.read(move |read| read.query_one(&sql, &[], |row| row.get::<i64>(0))).await;
        out.push_str(&format!("\n{table}: {}", count.unwrap_or_else(|e: records::Error| panic!("{table}: {e}"))));
    }
    out
}

/// A Datastream of flood monitoring: its id.
async fn level(city: &TestCity) -> String {
    let path = "/v1.1/Datastreams?$filter=name%20eq%20'Water%20level'&$orderby=id&$top=1&$select=id";
    let found: Value = city.get(path).send().await.unwrap().json().await.unwrap();
    found["value"][0]["@iot.id"].to_string()
}
async fn observations(city: &TestCity) -> String {
    format!("/v1.1/Datastreams({})/Observations?$orderby=phenomenonTime&$top=1000", level(city).await)
}

async fn observe(city: &TestCity, key: &str, minutes: std::ops::Range<i64>) {
    let path = format!("/v1.1/Datastreams({})/Observations", level(city).await);
    for minute in minutes {
        let at = kernel::Timestamp::from_secs(1_700_000_000 + minute * 60);
        let body = serde_json::json!({"phenomenonTime": at, "result": minute as f64 / 8.0}).to_string();
        let answer = city
            .request("POST", &path)
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }
}

async fn devices(city: &TestCity, key: &str, from: usize, to: usize) {
    for i in from..to {
        let body = format!(r#"{{"tenant": "dsd", "key": "station-{i}", "kind": "flood-station"}}"#);
        assert_eq!(
            city.request("POST", "/api/devices").bearer_auth(key).body(body).send().await.unwrap().status(),
            201
        );
    }
}

async fn wait_done(city: &TestCity, name: &str, key: &str) {
    loop {
        let state: Value =
            city.get(&format!("/api/ops/backups/{name}")).bearer_auth(key).send().await.unwrap().json().await.unwrap();
        match state["state"].as_str() {
            Some("running") => tokio::task::yield_now().await,
            other => return assert_eq!(other, Some("done")),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_brought_back_is_what_was_there() {
    let backups = tempfile::tempdir().unwrap();
    let folder = backups.path().to_owned();
    let mut city = TestCity::with(|config| config.backup_folder = Some(folder.clone())).await;
    let (manager, admin) = (city.key("dsd", "device-manager").await, city.key("city", "admin").await);
    let operator = city.key("dsd", "operator").await;
    devices(&city, &manager, 0, 20).await;
    // Some of it in the lake, some only on the stream.
    observe(&city, &operator, 0..30).await;
    city.running().city.observe.seal().await.unwrap();
    observe(&city, &operator, 30..45).await;

    let viewer = city.key("city", "viewer").await;
    let refused = city.request("PUT", "/api/ops/backups/one").bearer_auth(&viewer).send().await.unwrap();
    assert_eq!(refused.status(), 404);
    for bad in ["..", "%2e%2e%2fetc", ".hidden", "a%2fb"] {
        let answer = city.request("PUT", &format!("/api/ops/backups/{bad}")).bearer_auth(&admin).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{bad}: {}", answer.status());
    }
    let begun = city.request("PUT", "/api/ops/backups/one").bearer_auth(&admin).send().await.unwrap();
    assert_eq!(begun.status(), 202);
    wait_done(&city, "one", &admin).await;
    let again = city.request("PUT", "/api/ops/backups/one").bearer_auth(&admin).send().await.unwrap();
    assert_eq!(again.status(), 409, "a backup is never overwritten");
    let before = everything(&city, &manager).await;
    // What comes after the backup is not in it.
    devices(&city, &manager, 20, 25).await;
    observe(&city, &operator, 45..50).await;
    assert_ne!(everything(&city, &manager).await, before);

    city.running.take().unwrap().stop().await;
    let mut config = city.config.clone();
    config.data = city.folder.path().join("restored");
    let _new = new_stores(&mut config).await;
    let (from, into) = (folder.join("one"), config.clone());
    tokio::task::spawn_blocking(move || backup::restore(&from, &into, Arc::new(SystemClock))).await.unwrap().unwrap();
    city.running = Some(compose::start(config.clone(), Arc::new(SystemClock)).await.unwrap());
    assert_eq!(everything(&city, &manager).await, before, "also the key that asks is there");
    observe(&city, &operator, 50..52).await;
    city.running().city.observe.seal().await.unwrap();
    let after: Value = city.get(&observations(&city).await).send().await.unwrap().json().await.unwrap();
    assert_eq!(after["value"].as_array().unwrap().len(), 47, "and it goes on from there");
    city.running.take().unwrap().stop().await;

    let from = folder.join("one");
    let full = tokio::task::spawn_blocking({
        let (from, config) = (from.clone(), config.clone());
        move || backup::restore(&from, &config, Arc::new(SystemClock)).unwrap_err().to_string()
    });
    assert!(full.await.unwrap().contains("is not empty"));

    // A backup that lost or changed anything is refused before anything is written.
    for (spoil, expect) in [
        ("missing", "is missing"),
        ("damaged", "is damaged"),
        ("extra", "does not belong"),
        ("linked", "neither a file nor a folder"),
    ] {
        let bad = folder.join(spoil);
        copy(&from, &bad);
        match spoil {
            "missing" => std::fs::remove_file(bad.join("secret")).unwrap(),
            "damaged" => std::fs::write(bad.join("secret"), [7; 32]).unwrap(),
            "linked" => std::os::unix::fs::symlink("/etc/hostname", bad.join("stray")).unwrap(),
            _ => std::fs::write(bad.join("stray"), "x").unwrap(),
        }
        let mut config = config.clone();
        config.data = city.folder.path().join(spoil);
        let error = tokio::task::spawn_blocking(move || {
            let error = backup::restore(&bad, &config, Arc::new(SystemClock)).unwrap_err().to_string();
            assert!(!config.data.exists(), "{error}");
            error
        });
        let error = error.await.unwrap();
        assert!(error.contains(expect), "{spoil}: {error}");
    }
}
