//! The pack's dashboards, an officer's own, and a screen on a wall, over HTTP.

use serde_json::Value;

use crate::{
    browser::{Browser, audit, between, location, token},
    city::TestCity,
};

async fn keys(city: &TestCity, key: Option<&str>) -> Vec<String> {
    let mut request = city.get("/api/dashboards");
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let told: Value = request.send().await.unwrap().json().await.unwrap();
    let mut keys: Vec<String> =
        told["dashboards"].as_array().unwrap().iter().map(|d| d["key"].as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

/// A latest value for a Datastream of the pack, by its key.
async fn say(city: &TestCity, tenant: &str, stream: &str, value: f64) {
    let manager = city.key(tenant, "admin").await;
    let thing = stream.rsplit_once('.').unwrap().0;
    let path = format!("/v1.1/Things?$filter=properties/key%20eq%20'{thing}'&$expand=Datastreams&$top=1");
    let found: Value = city.get(&path).bearer_auth(&manager).send().await.unwrap().json().await.unwrap();
    let streams = found["value"][0]["Datastreams"].as_array().unwrap_or_else(|| panic!("{found}")).clone();
    let wanted = streams.iter().find(|s| s["properties"]["key"] == stream).unwrap_or_else(|| panic!("{streams:?}"));
    let path = format!("/v1.1/Datastreams({})/Observations", wanted["@iot.id"]);
    let sent = city.request("POST", &path).bearer_auth(&manager).body(format!("{{\"result\": {value}}}"));
    assert_eq!(sent.send().await.unwrap().status(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_the_dashboards_and_readings_that_are_theirs() {
    let city = TestCity::start().await;
    let public = ["air", "floods", "lampposts", "parking", "toilets"];
    assert_eq!(keys(&city, None).await, public);
    assert_eq!(keys(&city, Some(&city.key("fehd", "viewer").await)).await, public);
    let hospital = city.key("ha", "viewer").await;
    assert_eq!(keys(&city, Some(&hospital)).await, ["air", "floods", "hepa", "lampposts", "parking", "toilets"]);
    assert_eq!(city.get("/api/dashboards/hepa/data").send().await.unwrap().status(), 404);
    assert_eq!(city.get("/en/dashboards/hepa").header("accept", "text/html").send().await.unwrap().status(), 404);
    let told: Value =
        city.get("/api/dashboards/hepa/data").bearer_auth(&hospital).send().await.unwrap().json().await.unwrap();
    let list = told["tiles"].as_array().unwrap().iter().find(|t| t["kind"] == "status").unwrap();
    assert_eq!(list["things"], 400, "all units, and nobody has listed them");

    say(&city, "fehd", "toilet-peak-road.ammonia", 9.0).await;
    for (language, words) in [("en", "Clean now"), ("zh-hant", "須即時清潔"), ("zh-hans", "须立即清洁")] {
        let page =
            city.get(&format!("/{language}/dashboards/toilets")).header("accept", "text/html").send().await.unwrap();
        assert_eq!(page.status(), 200);
        let html = page.text().await.unwrap();
        assert!(html.contains(words), "{language}: {html}");
        assert!(html.contains("class=\"simulated\""), "what is made up says so");
    }
    // An open page asks for the tiles alone, and is sent them once.
    let tiles = city.get("/en/dashboards/toilets/tiles").send().await.unwrap();
    let tag = tiles.headers()["etag"].clone();
    assert!(!tiles.text().await.unwrap().contains("<html"));
    let again = city.get("/en/dashboards/toilets/tiles").header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_makes_a_dashboard_with_forms_alone() {
    let city = TestCity::start().await;
    let mut officer = Browser::of(&city, "fehd", "device-manager", "officer").await;
    let (status, html) = officer.get("/en/dashboards/new?from=toilets").await;
    assert_eq!(status, 200);
    assert!(html.contains("t4.columns") && html.contains("occupied-cubicles left of cubicles"), "{html}");
    let mut fields: Vec<(String, String)> = vec![
        ("tenant", "fehd"),
        ("key", "night"),
        ("title.en", "Night"),
        ("title.zh-hant", "夜更"),
        ("title.zh-hans", "夜班"),
        ("audience", "tenant"),
        ("refresh", "15"),
        ("tiles", "0"),
        ("do", "add"),
        ("kind", "value"),
    ]
    .into_iter()
    .map(|(n, v)| (n.to_owned(), v.to_owned()))
    .collect();
    let post = async |officer: &mut Browser<'_>, fields: &[(String, String)]| {
        let csrf = officer.token().await;
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        officer.post_with(&csrf, "/en/dashboards/new", &fields).await
    };
    // Adding a tile is answered with the form, and nothing is kept yet.
    let added = post(&mut officer, &fields).await;
    assert_eq!(added.status(), 200);
    let html = added.text().await.unwrap();
    assert!(html.contains("name=\"t0.title.en\"") && html.contains("value=\"夜更\""), "{html}");
    assert_eq!(audit(&city).await.iter().filter(|a| *a == "dashboard:create").count(), 0);
    fields.retain(|(n, _)| n != "do" && n != "tiles");
    for (name, value) in
        [("do", "save"), ("tiles", "1"), ("t0.kind", "value"), ("t0.width", "2"), ("t0.title.en", "Air")]
    {
        fields.push((name.to_owned(), value.to_owned()));
    }
    let wrong = post(&mut officer, &fields).await;
    assert_eq!(wrong.status(), 422);
    let html = wrong.text().await.unwrap();
    assert!(
        html.contains("error-summary") && html.contains("#field-t0.system") && html.contains("#field-t0.title.zh-hant"),
        "{html}"
    );
    for (name, value) in [
        ("t0.title.zh-hant", "空氣"),
        ("t0.title.zh-hans", "空气"),
        ("t0.system", "toilet"),
        ("t0.observed_property", "ammonia"),
    ] {
        fields.push((name.to_owned(), value.to_owned()));
    }
    let made = post(&mut officer, &fields).await;
    assert_eq!(location(&made), "/en/dashboards/fehd.night?did=saved");
    let (_, html) = officer.get("/zh-hant/dashboards/fehd.night").await;
    assert!(html.contains("夜更") && html.contains("空氣"), "{html}");
    // Somebody else changed it meanwhile.
    let edit = "/en/dashboards/fehd.night/edit";
    let changed = [
        ("version", "1"),
        ("title.en", "Late"),
        ("title.zh-hant", "夜"),
        ("title.zh-hans", "夜"),
        ("audience", "tenant"),
        ("refresh", "15"),
        ("tiles", "0"),
        ("do", "save"),
    ];
    assert_eq!(officer.post(edit, edit, &changed).await.status(), 303);
    assert_eq!(officer.post(edit, edit, &changed).await.status(), 412);
    let mut other = Browser::of(&city, "ha", "admin", "other").await;
    assert_eq!(other.get("/en/dashboards/fehd.night").await.0, 404);
    assert_eq!(other.get(edit).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_on_a_wall_shows_and_does_nothing_else() {
    let mut city = TestCity::start().await;
    let (code, cookie) = {
        let mut officer = Browser::of(&city, "ha", "admin", "officer").await;
        let fields = [("name", "Ward 5"), ("board", "hepa"), ("board", "air"), ("every", "20"), ("days", "30")];
        let made = officer.post("/en/walls", "/en/walls", &fields).await;
        assert_eq!(made.status(), 200);
        assert_eq!(made.headers()["cache-control"], "no-store");
        let html = made.text().await.unwrap();
        let code = between(&html, "/en/wall#", "<").to_owned();
        assert!(!officer.get("/en/walls").await.1.contains(&code), "told this once");

        let mut screen = Browser::new(&city);
        assert_eq!(screen.get("/en/wall/tiles").await.0, 401);
        let (_, html) = screen.get("/en/wall").await;
        let wrong = screen.post_with(&token(&html), "/en/wall", &[("code", "ABCD-EFGH-JKMN-PQRS-TVWX")]).await;
        assert_eq!(wrong.status(), 422);
        let paired = screen.post_with(&token(&html), "/en/wall", &[("code", &code)]).await;
        assert_eq!(location(&paired), "/en/wall");
        let set = paired.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(set.contains("lamppost-wall=") && set.contains("Max-Age=25"), "{set}");
        (code, screen.cookie())
    };
    let ask = async |city: &TestCity, path: &str| {
        let answer = city.get(path).header("accept", "text/html").header("cookie", &cookie).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, html) = ask(&city, "/en/wall").await;
    assert_eq!(status, 200);
    assert!(html.contains("Mobile HEPA units") && !html.contains("<nav"), "{html}");
    assert!(html.contains("url=/en/wall?turn=1"), "without scripts it goes on too");
    assert!(ask(&city, "/zh-hant/wall?turn=1").await.1.contains("空氣質素"));
    // What hangs on the wall opens nothing but the wall.
    assert_eq!(ask(&city, "/en/dashboards/hepa").await.0, 404);
    assert_eq!(ask(&city, "/en/account").await.0, 303);
    assert_eq!(ask(&city, "/api/dashboards/hepa").await.0, 404);
    let post = city.request("POST", "/api/dashboards").header("cookie", &cookie).body("{}").send().await.unwrap();
    assert_eq!(post.status(), 401);
    // It goes on after a restart, which ends no screen.
    city.restart().await;
    assert_eq!(ask(&city, "/en/wall/tiles").await.0, 200);
    let rows = city
        .running()
        .stores
        .records
        .audit(records::AuditQuery { limit: 1_000, ..Default::default() })
        .await
        .unwrap()
        .rows;
    assert!(!format!("{rows:?}").contains(&code), "no code is written down");
    // Taken away, it shows nothing, at once.
    let mut officer = Browser::of(&city, "ha", "admin", "second").await;
    let (_, html) = officer.get("/en/walls").await;
    let id = between(&html, "/en/walls/", "/renew").to_owned();
    let revoked = officer.post("/en/walls", &format!("/en/walls/{id}/revoke"), &[]).await;
    assert_eq!(location(&revoked), "/en/walls?did=revoked");
    assert_eq!(ask(&city, "/en/wall/tiles").await.0, 401);
    assert!(ask(&city, "/en/wall").await.1.contains("name=\"code\""), "it asks for another code");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_screen_is_for_who_may_see_what_is_on_it() {
    let city = TestCity::start().await;
    let ask = async |path: &str| {
        let answer = city.get(path).header("accept", "text/html").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, html) = ask("/en/dashboards/toilets?wall=floods,air&every=30").await;
    assert_eq!(status, 200);
    assert!(
        html.contains("data-wall")
            && html.contains("content=\"30;url=/en/dashboards/floods?wall=floods%2Cair%2Ctoilets"),
        "{html}"
    );
    assert_eq!(ask("/en/dashboards/toilets?wall=hepa").await.0, 404, "one that may not be seen is told now");
    assert_eq!(ask("/en/dashboards/toilets?wall&every=1").await.0, 400);
}
