//! Tables 22 and 23 of 18-088, a line for each row: the built-in operators and functions.

use http::StatusCode;
use serde_json::{Value, json};

use super::{City, lamp};
use crate::query::encode;

/// Three Things with a Datastream each; the first has measured numbers, the third what has parts.
async fn lab() -> City {
    let city = City::new();
    let shapes = [
        json!({"type": "Point", "coordinates": [30, 10]}),
        json!({"type": "Polygon", "coordinates": [[[30, 10], [40, 40], [20, 40], [10, 20], [30, 10]]]}),
        json!({"type": "LineString", "coordinates": [[30, 10], [10, 30], [40, 40]]}),
    ];
    let kinds = ["OM_Measurement", "OM_Measurement", "OM_Observation"];
    for (i, description) in ["Sensor Things", "test bench", "  Sensor Things "].into_iter().enumerate() {
        let mut body = lamp(["a", "b", "c"][i], kinds[i], 0.0, 0.0);
        body["description"] = json!(description);
        body["properties"] =
            json!({"a": {"b": i, "list": [1, {"c": "x"}]}, "on": i == 0, "since": "2015-12-08T00:00:00Z"});
        body["Locations"][0]["location"] = shapes[i].clone();
        if i == 0 {
            body["Datastreams"][0]["unitOfMeasurement"] =
                json!({"name": "degree Celsius", "symbol": "degree", "definition": "ucum:Cel"});
        }
        city.made("/v1.1/Things", body).await;
    }
    for (hour, result) in [2.0, 3.5, 12.0, 20.0, 32.4, 100.0].into_iter().enumerate() {
        let body = json!({
            "result": result, "phenomenonTime": format!("2015-12-08T{hour:02}:00:00Z"),
            "resultTime": format!("2015-12-08T{hour:02}:30:15.25Z"),
            "validTime": format!("2015-12-08T{:02}:00:00Z/2015-12-09T00:00:00Z", hour + 1),
        });
        city.made("/v1.1/Datastreams(1)/Observations", body).await;
    }
    for result in [json!({"a": 6, "deep": {"b": ["x", 7]}}), json!([1, 2]), json!("text")] {
        let time = format!("2016-01-01T00:00:0{}Z", result.to_string().len() % 10);
        city.made("/v1.1/Datastreams(3)/Observations", json!({"result": result, "phenomenonTime": time})).await;
    }
    city
}

async fn answer(city: &City, path: &str, filter: &str) -> Value {
    let mut text = format!("/v1.1/{path}?$top=1000&$filter=");
    encode(filter, &mut text);
    let answer = city.get(&text).await;
    assert_eq!(answer.status, StatusCode::OK, "{path} {filter}: {}", answer.text);
    answer.json()["value"].clone()
}

#[tokio::test]
async fn table_22_and_23() {
    let city = lab().await;
    // Row of the table, filter, the results of the first Datastream that it lets through.
    let results: &[(&str, &str, &[f64])] = &[
        ("eq", "result eq 20", &[20.0]),
        ("ne", "result ne 20", &[2.0, 3.5, 12.0, 32.4, 100.0]),
        ("gt", "result gt 20.0", &[32.4, 100.0]),
        ("ge", "result ge 20.0", &[20.0, 32.4, 100.0]),
        ("lt", "result lt 3.5", &[2.0]),
        ("le", "result le 3.5", &[2.0, 3.5]),
        ("and", "result le 3.5 and FeatureOfInterest/id eq 1", &[2.0, 3.5]),
        ("and", "result le 3.5 and FeatureOfInterest/id eq '1'", &[2.0, 3.5]),
        ("or", "result gt 20 or result le 3.5", &[2.0, 3.5, 32.4, 100.0]),
        ("not", "not (result gt 3.5)", &[2.0, 3.5]),
        ("not", "not result gt 3.5", &[2.0, 3.5]),
        ("add", "result add 5 gt 37", &[32.4, 100.0]),
        ("sub", "result sub 5 gt 10", &[20.0, 32.4, 100.0]),
        ("mul", "result mul 2 gt 64", &[32.4, 100.0]),
        ("div", "result div 2 gt 10", &[32.4, 100.0]),
        ("div by zero", "result div 0 gt 1", &[]),
        ("mod", "result mod 2 eq 0", &[2.0, 12.0, 20.0, 100.0]),
        ("( )", "(result sub 5) gt 10", &[20.0, 32.4, 100.0]),
        // Precedence: what stands closer binds tighter.
        ("mul before add", "result add 2 mul 5 eq 12", &[2.0]),
        ("mod before sub", "result sub 7 mod 4 eq 9", &[12.0]),
        ("add before gt", "100 lt result add 70", &[32.4, 100.0]),
        ("gt before eq", "result gt 20 eq true", &[32.4, 100.0]),
        ("eq before and", "result eq 2 or result eq 12 and result eq 20", &[2.0]),
        ("not before and", "not result gt 3.5 and result gt 2", &[3.5]),
        ("and before or", "result gt 3 and result lt 4 or result eq 100", &[3.5, 100.0]),
        ("negation", "-result lt -32", &[32.4, 100.0]),
        ("year", "year(resultTime) eq 2015", &[2.0, 3.5, 12.0, 20.0, 32.4, 100.0]),
        ("month", "month(resultTime) ne 12", &[]),
        ("day", "day(resultTime) eq 8 and result lt 3", &[2.0]),
        ("hour", "hour(resultTime) eq 1", &[3.5]),
        ("minute", "minute(resultTime) eq 30 and result lt 3", &[2.0]),
        ("second", "second(resultTime) eq 15 and result lt 3", &[2.0]),
        ("fractionalseconds", "fractionalseconds(resultTime) eq 0.25 and result lt 3", &[2.0]),
        ("date", "date(resultTime) ne date(validTime)", &[]),
        ("date", "date(resultTime) eq 2015-12-08 and result lt 3", &[2.0]),
        ("date", "date(resultTime) eq '2015-12-08' and result lt 3", &[2.0]),
        ("time", "time(resultTime) le validTime and result lt 4", &[2.0, 3.5]),
        ("time", "time(resultTime) gt time(validTime)", &[]),
        ("time", "time(resultTime) lt 01:30:15.5", &[2.0, 3.5]),
        ("totaloffsetminutes", "totaloffsetminutes(resultTime) eq 0 and result lt 3", &[2.0]),
        ("now", "resultTime ge now()", &[]),
        ("now", "resultTime lt now() sub duration'P3650D' and result lt 3", &[2.0]),
        ("mindatetime", "resultTime eq mindatetime()", &[]),
        ("mindatetime", "resultTime gt mindatetime() and result lt 3", &[2.0]),
        ("maxdatetime", "resultTime lt maxdatetime() and result lt 3", &[2.0]),
        ("duration", "resultTime sub phenomenonTime gt duration'PT30M15S' and result lt 3", &[2.0]),
        ("duration", "resultTime sub phenomenonTime eq duration'PT30M15.25S' and result lt 3", &[2.0]),
        ("duration", "phenomenonTime add duration'PT1H30M' eq 2015-12-08T01:30:00Z", &[2.0]),
        ("duration", "phenomenonTime add -duration'PT1H' eq 2015-12-08T00:00:00Z", &[3.5]),
        ("duration", "phenomenonTime eq 2015-12-08T05:00:00Z sub 2 mul duration'PT1H'", &[20.0]),
        ("duration", "duration'PT90M' div 3 eq duration'PT30M' and result lt 3", &[2.0]),
        ("duration", "duration'P1D' add duration'PT1H' eq duration'PT25H' and result lt 3", &[2.0]),
        ("round", "round(result) eq 32", &[32.4]),
        ("round", "round(result) eq 4", &[3.5]),
        ("floor", "floor(result) eq 32", &[32.4]),
        ("ceiling", "ceiling(result) eq 33", &[32.4]),
        ("null", "resultQuality eq null and result lt 3", &[2.0]),
        ("interval", "validTime eq 2015-12-08T01:00:00Z/2015-12-09T00:00:00Z", &[2.0]),
    ];
    for (row, filter, expect) in results {
        let found = answer(&city, "Datastreams(1)/Observations", filter).await;
        let found: Vec<f64> =
            found.as_array().expect("rows").iter().map(|o| o["result"].as_f64().expect("number")).collect();
        assert_eq!(&found, expect, "{row}: {filter}");
    }
    let locations: &[(&str, &str, &[i64])] = &[
        ("geo.distance", "geo.distance(location, geography'POINT (30 10)') eq 0", &[1, 2, 3]),
        ("geo.distance", "geo.distance(location, geography'POINT (33 14)') gt 4.9", &[1, 3]),
        ("geo.length", "geo.length(geography'LINESTRING (30 10, 10 30, 40 40)') gt 59.9 and id eq 1", &[1]),
        ("geo.length", "geo.length(location) gt 59.9", &[3]),
        (
            "geo.intersects",
            "geo.intersects(location, geography'POLYGON ((30 10, 10 20, 20 40, 40 40, 30 10))')",
            &[1, 2, 3],
        ),
        ("st_equals", "st_equals(location, geography'POINT (30 10)')", &[1]),
        ("st_disjoint", "st_disjoint(location, geography'POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))')", &[1, 2, 3]),
        ("st_disjoint", "st_disjoint(location, geography'POLYGON ((30 10, 10 20, 20 40, 40 40, 30 10))')", &[]),
        ("st_touches", "st_touches(location, geography'LINESTRING (30 10, 10 0)')", &[1, 2, 3]),
        ("st_within", "st_within(location, geography'POLYGON ((30 10, 10 20, 20 40, 40 40, 30 10))')", &[2]),
        ("st_within", "st_within(location, geography'POLYGON ((0 0, 50 0, 50 50, 0 50, 0 0))')", &[1, 2, 3]),
        ("st_overlaps", "st_overlaps(location, geography'POLYGON ((0 0, 25 0, 25 50, 0 50, 0 0))')", &[2]),
        ("st_crosses", "st_crosses(location, geography'LINESTRING (0 25, 50 25)')", &[2, 3]),
        ("st_intersects", "st_intersects(location, geography'LINESTRING (30 10, 10 30, 40 40)')", &[1, 2, 3]),
        ("st_contains", "st_contains(location, geography'POINT (25 25)')", &[2]),
        ("st_contains", "st_contains(location, geography'POINT (30 10)')", &[1]),
        (
            "st_relate",
            "st_relate(location, geography'POLYGON ((30 10, 10 20, 20 40, 40 40, 30 10))', 'T********')",
            &[2, 3],
        ),
        ("not", "not st_intersects(location, geography'POINT (25 25)')", &[1, 3]),
        ("in $orderby's place", "geo.distance(geography'POINT (0 0)', location) add 1 lt 100", &[1, 2, 3]),
    ];
    let things: &[(&str, &str, &[i64])] = &[
        ("substringof", "substringof('Sensor Things',description)", &[1, 3]),
        ("endswith", "endswith(description,'Things')", &[1]),
        ("startswith", "startswith(description,'Sensor')", &[1]),
        ("not", "not startswith(description,'test')", &[1, 3]),
        ("length", "length(description) eq 13", &[1]),
        ("indexof", "indexof(description,'ensor') eq 1", &[1]),
        ("substring", "substring(description,1) eq 'ensor Things'", &[1]),
        ("substring", "substring(description,2,4) eq 'nsor'", &[1]),
        ("tolower", "tolower(description) eq 'sensor things'", &[1]),
        ("toupper", "toupper(description) eq 'SENSOR THINGS'", &[1]),
        ("trim", "trim(description) eq 'Sensor Things'", &[1, 3]),
        ("concat", "concat(concat(name,', '), description) eq 'b, test bench'", &[2]),
        ("JSON", "properties/a/b eq 1", &[2]),
        ("JSON", "properties/a/b add 1 gt 2", &[3]),
        ("JSON", "properties/on", &[1]),
        ("JSON", "not properties/on", &[2, 3]),
        ("JSON", "properties/a/list/'1'/c eq 'x' and properties/a/list/'0' eq 1", &[1, 2, 3]),
        ("JSON", "properties/nothing/there eq null and id eq 1", &[1]),
        ("JSON", "year(properties/since) eq 2015 and properties/since lt 2015-12-09T00:00:00Z and id eq 1", &[1]),
        ("JSON", "properties/since add duration'P1D' eq 2015-12-09T00:00:00Z and id eq 1", &[1]),
    ];
    let streams: &[(&str, &str, &[i64])] = &[
        ("eq", "unitOfMeasurement/name eq 'degree Celsius'", &[1]),
        ("ne", "unitOfMeasurement/name ne 'degree Celsius'", &[2, 3]),
        (
            "concat",
            "concat(concat(unitOfMeasurement/symbol,', '), unitOfMeasurement/name) eq 'degree, degree Celsius'",
            &[1],
        ),
        ("geo", "geo.distance(Thing/Locations/location, geography'POINT (30 10)') lt 1", &[1, 2, 3]),
    ];
    for (path, rows) in [("Locations", locations), ("Things", things), ("Datastreams", streams)] {
        for (row, filter, expect) in rows {
            let found = answer(&city, path, filter).await;
            let found: Vec<i64> =
                found.as_array().expect("rows").iter().map(|e| e["@iot.id"].as_i64().expect("id")).collect();
            assert_eq!(&found, expect, "{row}: {path} {filter}");
        }
    }
    // Results that have parts.
    for (filter, expect) in [
        ("result/a gt 5", json!([{"a": 6, "deep": {"b": ["x", 7]}}])),
        ("result/deep/b/'1' eq 7", json!([{"a": 6, "deep": {"b": ["x", 7]}}])),
        ("result/'1' eq 2", json!([[1, 2]])),
        ("result/a eq null and result ne 'text'", json!([[1, 2]])),
        ("result eq 'text'", json!(["text"])),
        ("substringof('ex', result)", json!(["text"])),
    ] {
        let found = answer(&city, "Datastreams(3)/Observations", filter).await;
        let found: Vec<Value> = found.as_array().expect("rows").iter().map(|o| o["result"].clone()).collect();
        assert_eq!(Value::Array(found), expect, "{filter}");
    }
}
