//! `$resultFormat` CSV and GeoJSON.

use http::{StatusCode, header};
use kernel::{Caller, Limits};
use serde_json::{Value, json};

use super::{Answer, City, lamp, person, point, unit};

async fn street() -> City {
    let city = City::with(Limits { page_default: 10, page_max: 3, body_bytes: 4 << 20, depth: 32 });
    for i in 0..8 {
        let mut body = lamp(&format!("lamp {i}"), "OM_Measurement", f64::from(i), 1.0);
        body["@lamppost.public"] = json!(i % 2 == 0);
        if i == 0 {
            body["name"] = json!("=cmd|'/c calc'!A1");
            body["description"] = json!("a \"quoted\", text\nof two lines");
        }
        body["Datastreams"][0]["Observations"] = json!([{"result": -1.5, "phenomenonTime": "2026-01-01T00:00:00Z"}, {"result": 7, "phenomenonTime": "2026-01-02T00:00:00Z"}]);
        city.made("/v1.1/Things", body).await;
    }
    city
}

async fn csv(city: &City, path: &str) -> Vec<String> {
    let answer = city.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    answer.text.split_terminator("\r\n").map(str::to_owned).collect()
}

#[tokio::test]
async fn csv_is_all_of_a_collection() {
    let city = street().await;
    let lines = csv(&city, "/v1.1/Things?$resultFormat=CSV").await;
    assert_eq!(lines[0], "id,name,description,properties");
    // What a spreadsheet would run is text, and quotes are doubled; a line break inside quotes is no line's end.
    assert!(
        lines[1].starts_with("1,\"'=cmd|'/c calc'!A1\",\"a \"\"quoted\"\", text\nof two lines\",\"{\"\"pole\"\":"),
        "{}",
        lines[1]
    );
    assert_eq!(lines.len(), 9, "more than a page: {lines:?}");
    assert_eq!(csv(&city, "/v1.1/Things?$resultFormat=csv&$top=5&$select=name").await.len(), 6);
    assert_eq!(csv(&city, "/v1.1/Things?$resultFormat=CSV&$top=0").await.len(), 1);
    assert_eq!(csv(&city, "/v1.1/Things?$resultFormat=CSV&$skip=6&$select=id").await, ["id", "7", "8"]);
    let filter =
        "/v1.1/Things?$resultFormat=CSV&$filter=Datastreams/any(d: d/id gt 5)&$orderby=id desc&$select=id,selfLink";
    let link = |id: i64| format!("{id},\"http://city.example/v1.1/Things({id})\"");
    assert_eq!(csv(&city, filter).await, ["id,selfLink".to_owned(), link(8), link(7), link(6)]);
    let lines =
        csv(&city, "/v1.1/Observations?$resultFormat=CSV&$orderby=phenomenonTime desc&$select=result,phenomenonTime")
            .await;
    assert_eq!(lines.len(), 17);
    assert_eq!(
        (&*lines[0], &*lines[1], &*lines[16]),
        ("phenomenonTime,result", "2026-01-02T00:00:00Z,7", "2026-01-01T00:00:00Z,-1.5")
    );
    let lines = csv(&city, "/v1.1/Datastreams(2)?$resultFormat=CSV").await;
    assert_eq!(
        lines[0],
        "id,name,description,observationType,unitOfMeasurement/name,unitOfMeasurement/symbol,unitOfMeasurement/definition,observedArea,phenomenonTime,resultTime,properties"
    );
    assert!(lines[1].contains(",\"metre\",\"m\",\"http://unitsofmeasure.org/ucum.html#para-30\",,2026-01-01T00:00:00Z/2026-01-02T00:00:00Z,,"), "{}", lines[1]);
}

#[tokio::test]
async fn csv_flattens_expansions() {
    let city = street().await;
    let path = "/v1.1/Datastreams?$resultFormat=CSV&$select=id&$top=2&$expand=Thing($select=name;$expand=Locations($select=name;$top=1)),Observations($select=result;$orderby=phenomenonTime desc;$top=1)";
    let lines = csv(&city, path).await;
    assert_eq!(lines[0], "id,Thing/name,Thing/Locations/name,Observations/result");
    assert_eq!(lines[2], "2,\"lamp 1\",\"Place of lamp 1\",7");
    for (path, expect) in [
        ("/v1.1/Things?$resultFormat=CSV&$expand=Datastreams", "Datastreams($top=1)"),
        ("/v1.1/Things(1)?$resultFormat=CSV&$expand=Datastreams($top=2)", "Datastreams($top=1)"),
        ("/v1.1/Things?$resultFormat=CSV&$filter=name", "a filter is true or false"),
        ("/v1.1/Things/$ref?$resultFormat=CSV", "leads to links"),
        ("/v1.1/Things(1)/name?$resultFormat=GeoJSON", "leads to links or to a property"),
        ("/v1.1/Things?$resultFormat=dataArray", "only Observations"),
    ] {
        let answer = city.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.text.contains(expect), "{path}: {}", answer.text);
    }
    let answer = city.get("/v1.1/Things?$resultFormat=XML").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
    assert!(answer.text.contains("dataArray, CSV and GeoJSON"), "{}", answer.text);
}

#[tokio::test]
async fn geojson_has_a_place_and_flat_properties() {
    let city = street().await;
    let found = city.found("/v1.1/Locations?$resultFormat=GeoJSON&$top=2&$count=true").await;
    assert_eq!((&found["type"], &found["@iot.count"]), (&json!("FeatureCollection"), &json!(8)));
    assert_eq!(
        found["features"][1],
        json!({"type": "Feature", "geometry": point(1.0, 1.0), "properties": {
            "id": 2, "name": "Place of lamp 1", "description": "On the kerb", "encodingType": "application/geo+json"}})
    );
    let next = found["@iot.nextLink"].as_str().expect("link").strip_prefix("http://city.example").expect("own");
    assert!(next.contains("$resultFormat=GeoJSON"), "{next}");
    assert_eq!(city.found(next).await["features"][0]["properties"]["id"], 3);
    // The Thing's place is that of its Location.
    let path = "/v1.1/Datastreams(2)?$resultFormat=geojson&$select=name,unitOfMeasurement&$expand=Thing($select=properties;$expand=Locations($select=id,location)),Observations($select=result;$orderby=phenomenonTime desc)";
    let found = city.found(path).await;
    assert_eq!(
        found["features"],
        json!([{"type": "Feature", "geometry": point(1.0, 1.0), "properties": {
            "name": "lamp 1 level", "unitOfMeasurement/name": unit()["name"], "unitOfMeasurement/symbol": "m",
            "unitOfMeasurement/definition": unit()["definition"], "Thing/properties/pole": "lamp 1", "Thing/properties/height": 8.5,
            "Thing/properties/ward/code": "YTM", "Thing/Locations/0/id": 2, "Observations/0/result": 7, "Observations/1/result": -1.5}}])
    );
    let found = city.found("/v1.1/FeaturesOfInterest?$resultFormat=GeoJSON&$select=id,feature&$top=1").await;
    assert_eq!(found["features"], json!([{"type": "Feature", "geometry": point(0.0, 1.0), "properties": {"id": 1}}]));
    let found = city.found("/v1.1/Observations?$resultFormat=GeoJSON&$select=result&$top=1").await;
    assert_eq!(found["features"], json!([{"type": "Feature", "geometry": null, "properties": {"result": -1.5}}]));
}

#[tokio::test]
async fn the_names_of_a_feature_have_a_bound() {
    let city = City::new();
    let mut body = lamp("lamp", "OM_Measurement", 1.0, 1.0);
    // Each of these repeats the way to it: a body of 60 kB, whose names would be 40 MB.
    let inner: serde_json::Map<String, Value> = (0..800).map(|i| (format!("k{i}"), json!(i))).collect();
    body["properties"] = json!({ "x".repeat(50_000): inner });
    city.made("/v1.1/Things", body).await;
    let answer = city.get("/v1.1/Things?$resultFormat=GeoJSON").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text.len());
    assert!(answer.text.contains("whose names take at most"), "{}", answer.text);
}

#[tokio::test]
async fn formats_show_what_the_caller_may_see() {
    let city = street().await;
    let lines = |answer: &Answer| answer.text.matches("\r\n").count();
    let path = "/v1.1/Things?$resultFormat=CSV&$select=id";
    assert_eq!(lines(&city.get_as(&Caller::anonymous(), path).await), 5);
    assert_eq!(lines(&city.get_as(&person("dsd"), path).await), 9);
    assert_eq!(
        city.get_as(&Caller::anonymous(), "/v1.1/Things(2)?$resultFormat=CSV").await.status,
        StatusCode::NOT_FOUND
    );
    let found = city.get_as(&Caller::anonymous(), "/v1.1/Locations?$resultFormat=GeoJSON").await.json();
    assert_eq!(found["features"].as_array().map(Vec::len), Some(4), "what is published");
}

#[tokio::test]
async fn a_file_has_a_name() {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt as _;
    let city = street().await;
    for (path, kind, disposition) in [
        (
            "/v1.1/Things?$resultFormat=CSV",
            "text/csv; charset=utf-8; header=present",
            "attachment; filename=\"Things.csv\"",
        ),
        (
            "/v1.1/Things(1)/Datastreams?$resultFormat=CSV",
            "text/csv; charset=utf-8; header=present",
            "attachment; filename=\"Datastreams.csv\"",
        ),
        ("/v1.1/Locations?$resultFormat=GeoJSON", "application/geo+json", "inline; filename=\"Locations.geojson\""),
    ] {
        let mut request =
            Request::builder().uri(path).header(header::HOST, "city.example").body(Body::empty()).expect("request");
        request.extensions_mut().insert(person("dsd"));
        let response = city.router.clone().oneshot(request).await.expect("infallible");
        let told = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(
            (told(header::CONTENT_TYPE), told(header::CONTENT_DISPOSITION)),
            (Some(kind), Some(disposition)),
            "{path}"
        );
    }
}
