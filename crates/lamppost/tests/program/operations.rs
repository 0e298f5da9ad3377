//! The duty officer's page, and what everybody may know.

use serde_json::Value;

use crate::{
    browser::{Browser, audit, between, location},
    city::{PACK, TestCity},
};

/// Waits until a feed has run: its last failure's time, or that of its success.
async fn ran(city: &TestCity, key: &str, feed: &str) -> Value {
    loop {
        let path = format!("/api/connectors/{feed}");
        let view: Value = city.get(&path).bearer_auth(key).send().await.unwrap().json().await.unwrap();
        if view["running"] == false && (!view["failed_at"].is_null() || !view["succeeded_at"].is_null()) {
            return view;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_department_sees_its_own_feeds_and_runs_them() {
    // The pack's feeds are where the simulator would publish them, which nobody has allowed here: they fail, and say so.
    let city = TestCity::start().await;
    let viewer = city.key("hko", "viewer").await;
    let view = ran(&city, &viewer, "hko-daily-rainfall").await;
    assert_eq!(view["health"], "failing");
    let mut officer = Browser::of(&city, "hko", "device-manager", "chan").await;
    let (status, html) = officer.get("/en/operations").await;
    assert_eq!(status, 200);
    assert!(html.contains("Daily rainfall at the Observatory") && html.contains("Fails"), "{html}");
    assert!(html.contains("feeds need a look") && html.contains("where feeds may not go"), "{html}");
    assert!(!html.contains("Daily air quality"), "another department's: {html}");
    assert!(!html.contains("Failures since the start"), "the stores are for who runs the city");
    let (_, zh) = officer.get("/zh-hant/operations/feeds/hko-daily-rainfall").await;
    assert!(zh.contains("此網址指向不容許讀取的位置") && zh.contains("10 分鐘"), "{zh}");

    let run = "/en/operations/feeds/hko-daily-rainfall/run";
    let begun = officer.post("/en/operations", run, &[]).await;
    assert_eq!(location(&begun), "/en/operations/feeds/hko-daily-rainfall?did=run");
    assert_eq!(audit(&city).await.iter().filter(|a| *a == "connector:run").count(), 1);

    let mut colleague = Browser::of(&city, "hko", "viewer", "lee").await;
    let (status, html) = colleague.get("/en/operations").await;
    assert_eq!(status, 200);
    assert!(!html.contains("Run now"), "a viewer looks: {html}");
    let mut other = Browser::of(&city, "epd", "admin", "wong").await;
    let mut nobody = Browser::new(&city);
    assert_eq!(nobody.get("/en/operations").await.0, 303);
    assert_eq!(nobody.get("/en/operations/feeds/hko-daily-rainfall").await.0, 303);
    assert_eq!(other.get("/en/operations/feeds/hko-daily-rainfall").await.0, 404);
    let (of_colleague, of_other) = (colleague.token().await, other.token().await);
    assert_eq!(colleague.post_with(&of_colleague, run, &[]).await.status(), 403);
    assert_eq!(other.post_with(&of_other, run, &[]).await.status(), 404);
    assert_eq!(officer.post_with("", run, &[]).await.status(), 403);
    assert_eq!(nobody.post_with("", run, &[]).await.status(), 401);
    let own = officer.token().await;
    assert_eq!(officer.post_with(&own, "/en/operations/feeds/no-such/run", &[]).await.status(), 404);
    assert_eq!(audit(&city).await.iter().filter(|a| *a == "connector:run").count(), 1, "refused, and not noted");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_the_city_sees_the_program() {
    let city = TestCity::start().await;
    let mut officer = Browser::of(&city, "city", "operator", "hoho").await;
    let (_, html) = officer.get("/en/operations").await;
    assert!(html.contains("Daily air quality") && html.contains("Daily rainfall"), "every department's: {html}");
    for part in ["Records", "Stream", "Lake", "Works", env!("CARGO_PKG_VERSION"), "hong-kong "] {
        assert!(html.contains(part), "{part}: {html}");
    }
    // A device's key is a caller too, for whom the page is nothing.
    let manager = city.key("dsd", "device-manager").await;
    let body = r#"{"tenant": "dsd", "key": "wl-1", "kind": "k"}"#;
    let made = city.request("POST", "/api/devices").bearer_auth(&manager).body(body).send().await.unwrap();
    let id = made.headers()["location"].to_str().unwrap().to_owned();
    let key: Value =
        city.request("POST", &format!("{id}/keys")).bearer_auth(&manager).send().await.unwrap().json().await.unwrap();
    let device = city.get("/en/operations").bearer_auth(key["key"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(device.status(), 404);
}

/// The pack with a rule that always raises and a recipient who cannot be reached: mail is not configured.
fn pack_with_a_letter(folder: &std::path::Path) -> std::path::PathBuf {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let (entry, target) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
            if entry.is_dir() {
                copy(&entry, &target);
            } else {
                std::fs::copy(entry, target).unwrap();
            }
        }
    }
    let pack = folder.join("hong-kong");
    copy(std::path::Path::new(PACK), &pack);
    let rule = r#"
[[recipient]]
key = "dsd-test"
tenant = "dsd"
email = { to = ["duty@dsd.example"] }

[[rule]]
key = "test-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
instruction = { en = "Nothing is to be done.", zh-hant = "無須採取行動。", zh-hans = "无须采取行动。" }
select = { system = "flood" }
when = { above = { raise = 1000, clear = 900 } }
notify = ["dsd-test"]
"#;
    std::fs::write(pack.join("rules/zz-test.toml"), rule).unwrap();
    pack
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_given_up_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let pack = pack_with_a_letter(folder.path());
    let city = TestCity::with(|config| config.pack = pack).await;
    let key = city.key("dsd", "operator").await;
    let path = "/v1.1/Datastreams?$filter=name%20eq%20'Water%20level'&$orderby=id&$top=1&$select=id";
    let found: Value = city.get(path).send().await.unwrap().json().await.unwrap();
    let observe = format!("/v1.1/Datastreams({})/Observations", found["value"][0]["@iot.id"]);
    let sent = city.request("POST", &observe).bearer_auth(&key).header("content-type", "application/json");
    assert_eq!(sent.body("{\"result\": 1500}").send().await.unwrap().status(), 201);
    let given_up = async || loop {
        let path = "/api/deliveries?state=dead";
        let dead: Value = city.get(path).bearer_auth(&key).send().await.unwrap().json().await.unwrap();
        if let Some(id) = dead["deliveries"][0]["id"].as_str() {
            return id.to_owned();
        }
        tokio::task::yield_now().await;
    };
    let id = given_up().await;
    let mut admin = Browser::of(&city, "dsd", "admin", "chan").await;
    let (_, html) = admin.get("/en/operations").await;
    assert!(html.contains("1 notification could not be delivered.") && html.contains("dsd-test"), "{html}");
    assert!(html.contains("This is not set up here.") && html.contains("e-mail is not configured"), "{html}");
    let retry = between(&html, "action=\"/en/operations/deliveries/", "\"").to_owned();
    assert_eq!(retry, format!("{id}/retry"));
    let retry = format!("/en/operations/deliveries/{retry}");

    let mut operator = Browser::of(&city, "dsd", "operator", "lee").await;
    let (_, html) = operator.get("/en/operations").await;
    assert!(html.contains("dsd-test") && !html.contains("Try again"), "who may not is offered nothing: {html}");
    let mut other = Browser::of(&city, "epd", "admin", "wong").await;
    let (_, html) = other.get("/en/operations").await;
    assert!(!html.contains("dsd-test"), "{html}");
    let (of_operator, of_other) = (operator.token().await, other.token().await);
    assert_eq!(operator.post_with(&of_operator, &retry, &[]).await.status(), 403);
    assert_eq!(other.post_with(&of_other, &retry, &[]).await.status(), 404);
    assert_eq!(admin.post_with("", &retry, &[]).await.status(), 403);
    assert_eq!(Browser::new(&city).post_with("", &retry, &[]).await.status(), 401);
    let own = admin.token().await;
    assert_eq!(admin.post_with(&own, "/en/operations/deliveries/x/retry", &[]).await.status(), 404);
    assert!(!audit(&city).await.contains(&"delivery:retry".to_owned()));

    assert_eq!(location(&admin.post_with(&own, &retry, &[]).await), "/en/operations?did=retry");
    assert!(audit(&city).await.contains(&"delivery:retry".to_owned()));
    assert_eq!(given_up().await, id, "tried again, and given up again: mail is still not configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_whether_it_works() {
    let city = TestCity::start().await;
    let viewer = city.key("hko", "viewer").await;
    ran(&city, &viewer, "hko-daily-rainfall").await;
    let mut nobody = Browser::new(&city);
    let (status, html) = nobody.get("/en/status").await;
    assert_eq!(status, 200);
    assert!(html.contains("Places, devices, alerts and accounts") && html.contains("are up to date."), "{html}");
    for secret in ["hko", "127.0.0.1:8090", "internal network", "Daily rainfall"] {
        assert!(!html.contains(secret), "{secret} is not for everybody: {html}");
    }
    let (_, home) = nobody.get("/en").await;
    assert!(home.contains("href=\"/en/status\"") && !home.contains("href=\"/health/ready\""), "the footer leads here");
    assert!(!home.contains("href=\"/en/devices\"") && !home.contains("href=\"/en/operations\""), "of use to nobody");
    for (language, heading) in [("zh-hant", "系統狀況"), ("zh-hans", "运行状态")] {
        let (_, html) = nobody.get(&format!("/{language}/status")).await;
        assert!(html.contains(heading), "{html}");
    }
}

/// Parts of a status by kind and key.
fn part<'v>(told: &'v Value, kind: &str, key: &str) -> Option<&'v Value> {
    told["parts"].as_array().unwrap().iter().find(|p| p["kind"] == kind && p["key"] == key)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_how_everything_is_and_each_its_own() {
    let city = TestCity::start().await;
    let ask = async |path: &str, key: &str| {
        let answer = city.get(path).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json::<Value>().await.unwrap()
    };
    // A flood station that spoke an hour ago, though it speaks each ten seconds.
    let dsd = city.key("dsd", "admin").await;
    let found = ask("/v1.1/Datastreams?$filter=endswith(name,'evel')&$top=1&$select=id,name,properties", &dsd).await;
    let stream = found["value"][0]["@iot.id"].to_string();
    let then = kernel::Timestamp::from_jiff(jiff::Timestamp::now()).plus_secs(-3_600);
    let body = format!("{{\"result\": 0.5, \"phenomenonTime\": \"{then}\"}}");
    let sent = city.request("POST", &format!("/v1.1/Datastreams({stream})/Observations")).bearer_auth(&dsd).body(body);
    assert_eq!(sent.send().await.unwrap().status(), 201);

    ran(&city, &city.key("hko", "viewer").await, "hko-daily-rainfall").await;
    let hko = ask("/api/operations/status", &city.key("hko", "viewer").await).await;
    let feed = part(&hko, "connector", "hko-daily-rainfall").unwrap();
    assert_eq!((feed["state"].as_str(), feed["wrong"].as_str()), (Some("failing"), Some("connector-fails")));
    assert!(feed["cause"].as_str().is_some_and(|c| !c.is_empty()), "{feed}");
    assert_eq!(hko["state"], "failing");
    assert!(part(&hko, "rules", "rules").is_none() && part(&hko, "series", "flood").is_none(), "another's: {hko}");
    assert_eq!(hko["parts"][0]["state"], "failing", "the worst is first");

    // What was seen a moment ago may still be shown.
    let late = async || {
        let told = ask("/api/operations/status", &dsd).await;
        part(&told, "series", "flood").filter(|p| p["state"] == "late").cloned()
    };
    let mut tries = 0;
    let flood = loop {
        if let Some(flood) = late().await {
            break flood;
        }
        tries += 1;
        assert!(tries < 300, "it is never late");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    // What is computed of its level is late with it, once it has been computed.
    assert!(flood["n"] == flood["all"] && flood["n"].as_u64() >= Some(1), "{flood}");
    assert_eq!(flood["interval"], 10);
    let since: kernel::Timestamp = flood["since"].as_str().unwrap().parse().unwrap();
    assert_eq!(since, then.plus_secs(30), "three times ten seconds after it spoke last");

    let platform = ask("/api/operations/status", &city.key("city", "operator").await).await;
    for (kind, key) in [("rules", "rules"), ("lake", "lake"), ("outbox", "outbox"), ("disk", "data"), ("door", "csv")] {
        assert!(part(&platform, kind, key).is_some(), "{kind}: {platform}");
    }
    assert_eq!(part(&platform, "rules", "rules").unwrap()["state"], "good");
    assert_eq!(city.get("/api/operations/status").send().await.unwrap().status(), 401);

    // Everybody is told which public feeds are late, and nothing of anybody's connectors.
    let public: Value = city.get("/api/status").send().await.unwrap().json().await.unwrap();
    let feed = public["feeds"].as_array().unwrap().iter().find(|f| f["system"] == "flood").unwrap();
    assert_eq!((feed["state"].as_str(), feed["name"]["zh-hant"].as_str()), (Some("late"), Some("水浸監測")));
    assert!(!public.to_string().contains("rainfall"), "{public}");
    let mut nobody = Browser::new(&city);
    for (language, words) in [("en", "Flood monitoring"), ("zh-hant", "水浸監測"), ("zh-hans", "水浸监测")] {
        let (status, html) = nobody.get(&format!("/{language}/status")).await;
        assert!(status == 200 && html.contains(words) && html.contains("1 "), "{html}");
    }
    let metrics =
        city.get("/metrics").bearer_auth(city.key("city", "admin").await).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("lamppost_part_needs_a_look{kind=\"series\",part=\"flood\"} 1"), "{metrics}");
    assert!(
        metrics.contains("lamppost_part_lag_seconds{kind=\"series\",part=\"flood\"}") && !metrics.contains("dsd"),
        "{metrics}"
    );
    let mut officer = Browser::of(&city, "dsd", "operator", "duty").await;
    let (_, html) = officer.get("/en/operations").await;
    assert!(html.contains("series are late.") && html.contains("Look at power"), "{html}");
}
