//! `any` and `all` (OData 4.0 Part 2 section 5.1.1.5), beside paths through many, which mean any.

use http::StatusCode;
use serde_json::json;

use super::{City, lamp, unit};
use crate::query::encode;

/// Three Things: one with a warm and a cold Datastream, one with a lukewarm one, one with none.
async fn town() -> City {
    let city = City::new();
    let stream = |name: &str, property: &str, results: &[f64]| {
        let observations = results.iter().enumerate().map(|(hour, result)| {
            json!({"result": result, "phenomenonTime": format!("2026-01-01T{hour:02}:00:00Z"), "parameters": {"run": hour}})
        });
        json!({
            "name": name, "description": "d", "unitOfMeasurement": unit(), "properties": {"threshold": 20},
            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "Sensor": {"name": format!("sensor of {name}"), "description": "d", "encodingType": "text/html", "metadata": "m"},
            "ObservedProperty": {"name": property, "description": "d", "definition": "http://example.org/p"},
            "Observations": observations.collect::<Vec<_>>()
        })
    };
    let mut one = lamp("one", "OM_Measurement", 1.0, 1.0);
    one["Datastreams"] = json!([stream("warm", "NO2", &[18.0, 25.0]), stream("cold", "O3", &[1.0, 2.0, 3.0])]);
    city.made("/v1.1/Things", one).await;
    let mut two = lamp("two", "OM_Measurement", 2.0, 2.0);
    two["Datastreams"] = json!([stream("lukewarm", "NO2", &[19.0])]);
    city.made("/v1.1/Things", two).await;
    let mut three = lamp("three", "OM_Measurement", 3.0, 3.0);
    three["Datastreams"] = json!([]);
    city.made("/v1.1/Things", three).await;
    city
}

async fn ids(city: &City, path: &str, filter: &str) -> Vec<i64> {
    let mut text = format!("/v1.1/{path}?$count=true&$filter=");
    encode(filter, &mut text);
    let answer = city.get(&text).await;
    assert_eq!(answer.status, StatusCode::OK, "{filter}: {}", answer.text);
    let ids: Vec<i64> = answer.ids().iter().map(|id| id.as_i64().expect("id")).collect();
    assert_eq!(answer.json()["@iot.count"], ids.len(), "{filter}");
    ids
}

#[tokio::test]
async fn any_and_all() {
    let city = town().await;
    let check = async |path: &str, filter: &str, expect: &[i64]| {
        assert_eq!(ids(&city, path, filter).await, expect, "{path} {filter}");
    };
    check("Things", "Datastreams/any()", &[1, 2]).await;
    check("Things", "not Datastreams/any()", &[3]).await;
    check("Things", "Datastreams/any(d: d/name eq 'cold')", &[1]).await;
    check("Things", "Datastreams/any(d:d/id gt 1)", &[1, 2]).await;
    check("Things", "Datastreams/all(d: d/ObservedProperty/name eq 'NO2')", &[2, 3]).await;
    check("Things", "Datastreams/all(d: d/ObservedProperty/name ne 'O3') and Datastreams/any()", &[2]).await;
    // Two lambdas may mean two rows; one means one.
    check(
        "Things",
        "Datastreams/any(a: a/ObservedProperty/name eq 'NO2') and Datastreams/any(b: b/ObservedProperty/name eq 'O3')",
        &[1],
    )
    .await;
    check("Things", "Datastreams/any(a: a/ObservedProperty/name eq 'NO2' and a/name eq 'cold')", &[]).await;
    // The house's paths through many: the same path is the same row, and another lambda is not that row.
    check("Things", "Datastreams/ObservedProperty/name eq 'NO2' and Datastreams/name eq 'cold'", &[]).await;
    check("Things", "Datastreams/ObservedProperty/name eq 'NO2' and Datastreams/any(d: d/name eq 'cold')", &[1]).await;
    check("Things", "not Datastreams/any(d: d/name eq 'cold')", &[2, 3]).await;
    // Inside each other, with the names of all of them, and the root's own properties.
    check("Things", "Datastreams/any(d: d/Observations/any(o: o/result gt 20))", &[1]).await;
    check("Things", "Datastreams/any(d: d/name eq 'cold' and d/Observations/any(o: o/result gt 20))", &[]).await;
    check("Things", "Datastreams/any(d: d/Observations/any(o: o/result gt d/properties/threshold))", &[1]).await;
    check("Things", "Datastreams/any(d: d/Observations/all(o: o/result lt 20))", &[1, 2]).await;
    check("Things", "Datastreams/any(d: d/Observations/any(o: o/parameters/run eq 2 and o/result eq 3))", &[1]).await;
    check(
        "Things",
        "Datastreams/any(d: d/Observations/any(o: o/phenomenonTime ge 2026-01-01T03:00:00Z sub duration'PT1H'))",
        &[1],
    )
    .await;
    check(
        "Things",
        "Datastreams/any(d: d/Observations/any(o: o/phenomenonTime lt 2026-01-01T01:00:00Z and o/result lt 5))",
        &[1],
    )
    .await;
    check("Things", "Datastreams/any(d: startswith(d/name, 'luke') and $it/name eq 'two' and name eq 'two')", &[2])
        .await;
    check(
        "Things",
        "Locations/any(l: st_within(l/location, geography'POLYGON((1.5 1.5, 4 1.5, 4 4, 1.5 4, 1.5 1.5))'))",
        &[2, 3],
    )
    .await;
    check("Sensors", "Datastreams/any(d: d/Thing/Locations/any(l: l/name eq 'Place of two'))", &[3]).await;
    check("Datastreams", "Thing/Datastreams/any(other: other/name eq 'cold' and other/id ne $it/id)", &[1]).await;
    check("FeaturesOfInterest", "Observations/any(o: o/result eq 19)", &[2]).await;
    check("FeaturesOfInterest", "Observations/any() and Observations/any(o: o/result gt 20)", &[1]).await;
    check("Datastreams", "Observations/any()", &[1, 2, 3]).await;
    check("Datastreams", "Observations/any() and Observations/all(o: o/result gt 17)", &[1, 3]).await;
    // A name of one's own choosing hides a property.
    check("Things", "Datastreams/any(name: name/name eq 'cold')", &[1]).await;
    // In an expansion.
    let path = "/v1.1/Things?$expand=Datastreams($filter=Observations/any(o: o/result ge 19);$select=name)&$select=id";
    let found = city.found(path).await;
    let names: Vec<_> = found["value"].as_array().expect("things").iter().map(|t| t["Datastreams"].clone()).collect();
    assert_eq!(names, [json!([{"name": "warm"}]), json!([{"name": "lukewarm"}]), json!([])]);
    // The link to the next page carries the lambda along.
    let path = "/v1.1/Things?$top=1&$filter=Datastreams/any(d: d/name ne 'x' and d/Observations/any())";
    let (all, pages) = city.pages(path).await;
    assert_eq!((all, pages), (vec![json!(1), json!(2)], 2));
}

#[tokio::test]
async fn mistakes_in_a_lambda_are_explained() {
    let city = City::new();
    let check = async |path: &str, filter: &str, expect: &str| {
        let mut text = format!("/v1.1/{path}?$filter=");
        encode(filter, &mut text);
        let answer = city.get(&text).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{filter}: {}", answer.text);
        assert!(answer.text.contains(expect), "{filter}: {}", answer.text);
    };
    check("Things", "Datastreams/any(d)", "':' is expected").await;
    check("Things", "Datastreams/any(d: d/name)", "true or false is expected").await;
    check("Things", "Datastreams/any(d: d)", "leads to entities").await;
    check("Things", "Datastreams/any(d: d/colour eq 1)", "a Datastream has no 'colour'").await;
    check("Things", "Datastreams/all()", "a name for one of them").await;
    check("Things", "Datastreams/any(eq: true)", "a name for one of them").await;
    check("Things", "any(d: true)", "'any' is not a function").await;
    check("Things", "properties/any(p: p eq 1)", "is a property").await;
    check("Datastreams", "Thing/any(t: t/id eq 1)", "is one entity").await;
    check("Things", "d/any(x: true)", "a Thing has no 'd'").await;
    let deep = "Datastreams/any(a: a/Thing/Datastreams/any(b: b/Thing/Datastreams/any(c: c/Thing/Datastreams/any(d: d/Thing/Datastreams/any(e: e/Thing/Datastreams/any(f: true))))))";
    check("Things", deep, "at most 5 deep").await;
    let wide = vec!["Datastreams/any(d: d/id eq 1)"; 13].join(" and ");
    check("Things", &wide, "at most 12 navigation").await;
}
