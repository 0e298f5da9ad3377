//! Tracks, visits and profiles over HTTP.

use super::*;

const SPAN: &str = "from=2026-11-22T00:00:00Z&to=2026-11-22T12:00:00Z";

/// A way to the east, a fix every 30 s and 100 m, with a silence and one fix that cannot be.
async fn sailed(city: &City, track: EntityId) {
    let degree = 1.0 / (111_195.0 * 22.3f64.to_radians().cos());
    let mut fixes: Vec<(i64, f64, f64)> = (0..10).map(|n| (n * 30, 114.1 + n as f64 * 100.0 * degree, 22.3)).collect();
    fixes.extend((0..10).map(|n| (3_600 + n * 30, 114.15 + n as f64 * 100.0 * degree, 22.3)));
    fixes[5].2 = 22.9;
    city.sail(track, &fixes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_track_has_no_gaps_and_nothing_impossible_in_it() {
    let city = City::open().await;
    let (thing, track, _) = city.vessel("epd", "usv", true).await;
    sailed(&city, track).await;
    // Some of it is in the lake, some is not.
    city.observe.seal().await.expect("sealed");
    let degree = 1.0 / (111_195.0 * 22.3f64.to_radians().cos());
    city.sail(track, &[(3_900, 114.15 + 1_000.0 * degree, 22.3)]).await;

    let (status, found) = city.ask(None, "GET", &format!("/api/things/{thing}/track?{SPAN}"), "").await;
    assert_eq!(status, StatusCode::OK, "{found}");
    assert_eq!(found["geometry"]["type"], "MultiLineString");
    let lines = found["geometry"]["coordinates"].as_array().expect("lines");
    let times = found["properties"]["times"].as_array().expect("times");
    assert_eq!(lines.iter().map(|l| l.as_array().expect("line").len()).collect::<Vec<_>>(), [9, 11]);
    assert_eq!(times.len(), 2);
    assert_eq!(
        found["properties"]["suspect"][0]["coordinates"],
        json!([found["properties"]["suspect"][0]["coordinates"][0], 22.9])
    );
    assert_eq!((&found["properties"]["metres"], &found["properties"]["seconds"]), (&json!(1_900.0), &json!(570.0)));
    assert_eq!((&found["properties"]["fixes"], &found["properties"]["complete"]), (&json!(21), &json!(true)));
    assert_eq!(found["properties"]["speeds"][1][1], json!(3.33));

    let path = format!("/api/things/{thing}/track?{SPAN}&format=mf-json&max=6");
    let (_, moving) = city.ask(None, "GET", &path, "").await;
    assert_eq!(moving["temporalGeometry"]["type"], "MovingGeometryCollection", "{moving}");
    let prisms = moving["temporalGeometry"]["prisms"].as_array().expect("prisms");
    let of = |p: &Value, name: &str| p[name].as_array().map_or(0, Vec::len);
    assert!(prisms.iter().all(|p| p["type"] == "MovingPoint" && of(p, "datetimes") == of(p, "coordinates")));
    assert!(prisms.iter().map(|p| of(p, "coordinates")).sum::<usize>() <= 6);
    assert_eq!(moving["temporalProperties"][0]["speed"]["form"], "MTS");
    // In one piece it is one MovingPoint.
    let path = format!("/api/things/{thing}/track?from=2026-11-22T00:00:00Z&to=2026-11-22T00:30:00Z&format=mf-json");
    let (_, piece) = city.ask(None, "GET", &path, "").await;
    assert_eq!(piece["temporalGeometry"]["type"], "MovingPoint");
    let path = format!("/api/things/{thing}/track?from=2026-11-21T00:00:00Z&to=2026-11-21T00:30:00Z&format=mf-json");
    let (status, nothing) = city.ask(None, "GET", &path, "").await;
    assert_eq!((status, &nothing["temporalGeometry"]), (StatusCode::OK, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_what_is_hidden_is_not_there() {
    let city = City::open().await;
    let (thing, track, oxygen) = city.vessel("ha", "unit", false).await;
    sailed(&city, track).await;
    let own = person("ha", "viewer");
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z", "from"),
        ("from=2025-11-22T00:00:00Z&to=2026-11-21T00:00:00Z", "from"),
        ("max=1", "max"),
        ("max=many", "max"),
        ("max=100001", "max"),
        ("format=gpx", "format"),
    ] {
        let (status, problem) = city.ask(Some(&own), "GET", &format!("/api/things/{thing}/track?{query}"), "").await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{query} {problem}"
        );
    }
    let stranger = person("epd", "manager");
    for path in [
        format!("/api/things/{thing}/track?{SPAN}"),
        format!("/api/things/{thing}/visits?{SPAN}"),
        format!("/api/datastreams/{oxygen}/profiles?{SPAN}"),
        "/api/things/999999/track".to_owned(),
        "/api/things/abc/track".to_owned(),
        "/api/things/-1/visits".to_owned(),
    ] {
        for caller in [None, Some(&stranger)] {
            assert_eq!(city.ask(caller, "GET", &path, "").await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
    assert_eq!(city.ask(Some(&own), "GET", &format!("/api/things/{thing}/track?{SPAN}"), "").await.0, StatusCode::OK);
    // What moves for the public and what moves for the department.
    city.vessel("epd", "usv", true).await;
    let names = async |caller: Option<&Caller>| {
        let (_, all) = city.ask(caller, "GET", &format!("/api/map/tracks?{SPAN}"), "").await;
        let tracks = all["tracks"].as_array().expect("tracks").clone();
        tracks.iter().map(|t| t["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["usv"]);
    assert_eq!(names(Some(&own)).await, ["unit", "usv"]);
    assert_eq!(names(Some(&stranger)).await, ["usv"]);
    let (_, of_system) = city.ask(None, "GET", &format!("/api/map/tracks?{SPAN}&system=bus"), "").await;
    assert_eq!(of_system["tracks"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_are_to_fences_that_one_may_see() {
    let city = City::open().await;
    let (thing, track, _) = city.vessel("epd", "usv", true).await;
    sailed(&city, track).await;
    let manager = person("epd", "manager");
    for (key, public) in [("mooring", true), ("secret", false)] {
        let body = json!({"tenant": "epd", "public": public, "kind": "mooring", "name": {"en": key, "zh-hant": key, "zh-hans": key},
            "circle": {"lon": 114.1, "lat": 22.3, "radius": 250}});
        let (status, made) =
            city.ask(Some(&manager), "PUT", &format!("/api/fences/epd.{key}"), &body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{made}");
    }
    let path = format!("/api/things/{thing}/visits?{SPAN}");
    let (_, open) = city.ask(None, "GET", &path, "").await;
    let keys = |found: &Value| -> Vec<String> {
        let all = found["visits"].as_array().expect("visits");
        all.iter().map(|v| v["fence"].as_str().expect("key").to_owned()).collect()
    };
    assert_eq!(keys(&open), ["epd.mooring"], "{open}");
    assert_eq!(
        (&open["visits"][0]["entered_at"], &open["visits"][0]["seconds"]),
        (&json!("2026-11-22T00:00:00Z"), &json!(90))
    );
    assert_eq!(keys(&city.ask(Some(&manager), "GET", &path, "").await.1).len(), 2);
    assert_eq!(keys(&city.ask(None, "GET", &format!("{path}&kind=hospital"), "").await.1).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn casts_of_a_datastream_at_depth() {
    let city = City::open().await;
    let (_, _, oxygen) = city.vessel("epd", "usv", true).await;
    let mut batch = Batch::new();
    for (second, depth, value) in [(0, 1.0, 6.0), (20, 2.0, 5.5), (40, 9.0, 2.1), (7_200, 1.0, 6.2), (7_220, 5.0, 4.0)]
    {
        batch.push(city.observed(oxygen, second, json!(value), Some(json!({"depth": depth}))).await);
    }
    batch.push(city.observed(oxygen, 9_000, json!(5.0), None).await);
    city.observe.record(batch).await.expect("recorded");
    let path = format!("/api/datastreams/{oxygen}/profiles?{SPAN}");
    let (status, found) = city.ask(None, "GET", &path, "").await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let casts = found["casts"].as_array().expect("casts");
    assert_eq!(casts.iter().map(|c| c["samples"].as_array().expect("samples").len()).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((&casts[0]["samples"][2]["depth"], &found["unit"]), (&json!(9.0), &json!("mg/L")));
    let (_, one) = city.ask(None, "GET", &format!("{path}&max=1"), "").await;
    assert_eq!((one["casts"].as_array().map(Vec::len), &one["complete"]), (Some(1), &json!(false)));
    assert_eq!(one["casts"][0]["from"], "2026-11-22T02:00:00Z", "the newest");
    let (status, problem) = city.ask(None, "GET", &format!("{path}&max=0"), "").await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("max")));
}
