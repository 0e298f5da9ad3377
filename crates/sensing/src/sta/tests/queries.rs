use std::sync::OnceLock;

use http::StatusCode;
use kernel::{Caller, Limits, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{City, lamp, person};
use crate::{
    Scope,
    model::EntityType,
    query::{Options, Plan, Source, encode},
};

/// Twelve lamps on a line, each with a Datastream of ten Observations.
async fn street() -> City {
    let city = City::with(Limits { page_default: 100, page_max: 1_000, body_bytes: 4 << 20, depth: 32 });
    for i in 0..12 {
        let name = ["Ash", "beech", "Cedar", "Doug", "elm", "fir"][i % 6];
        let kind = if i % 4 == 3 { "OM_CategoryObservation" } else { "OM_Measurement" };
        let mut body = lamp(&format!("{name} {i}"), kind, 114.0 + i as f64 * 0.01, 22.3);
        if i % 3 == 0 {
            body["properties"]["dimmed"] = json!(true);
        }
        city.made("/v1.1/Things", body).await;
        for j in 0..10 {
            let result = if i % 4 == 3 { json!(["low", "high"][j % 2]) } else { json!((i * 10 + j) as f64 / 2.0) };
            let at = Timestamp::from_secs(1_767_225_600 + (j * 3_600 + i * 60) as i64).to_string();
            let mut observation = json!({"result": result, "phenomenonTime": at});
            if j % 2 == 0 {
                observation["resultTime"] = json!(at);
                observation["parameters"] = json!({"run": j});
            }
            city.made(&format!("/v1.1/Datastreams({})/Observations", i + 1), observation).await;
        }
    }
    city
}

fn query(path: &str, options: &[(&str, &str)]) -> String {
    let mut text = format!("/v1.1/{path}?");
    for (name, value) in options {
        text.push_str(&format!("{name}="));
        encode(value, &mut text);
        text.push('&');
    }
    text
}

/// A.4: built-in filter operations and functions, each with the ids that it lets through.
#[tokio::test]
async fn request_data_filter() {
    let city = street().await;
    let check = async |path: &str, filter: &str, expect: &[i64]| {
        let answer = city.get(&query(path, &[("$filter", filter), ("$top", "1000")])).await;
        assert_eq!(answer.status, StatusCode::OK, "{filter}: {}", answer.text);
        let ids: Vec<i64> = answer.ids().iter().map(|id| id.as_i64().expect("id")).collect();
        assert_eq!(ids, expect, "{path} {filter}");
    };
    let all: Vec<i64> = (1..=12).collect();
    check("Things", "name eq 'Ash 0'", &[1]).await;
    check("Things", "name ne 'Ash 0'", &all[1..]).await;
    check("Things", "id gt 3 and id le 5", &[4, 5]).await;
    check("Things", "@iot.id eq 3 or id eq 7", &[3, 7]).await;
    check("Things", "not (id lt 11)", &[11, 12]).await;
    check("Things", "not startswith(name,'A') and id lt 3", &[2]).await;
    check("Things", "id mod 5 eq 0", &[5, 10]).await;
    check("Things", "id mul 2 add 1 eq 7", &[3]).await;
    check("Things", "(id sub 1) div 2 eq 1.5", &[4]).await;
    check("Things", "-id eq -2", &[2]).await;
    check("Things", "startswith(name,'Ash')", &[1, 7]).await;
    check("Things", "endswith(name,'m 4')", &[5]).await;
    check("Things", "substringof('edar',name)", &[3, 9]).await;
    check("Things", "contains(name,'%')", &[]).await;
    check("Things", "length(name) eq 5 and id lt 8", &[1, 5, 6, 7]).await;
    check("Things", "indexof(name,'oug') eq 1", &[4, 10]).await;
    check("Things", "substring(name,1) eq 'sh 0'", &[1]).await;
    check("Things", "substring(name,0,3) eq 'elm'", &[5, 11]).await;
    check("Things", "tolower(name) eq 'doug 3'", &[4]).await;
    check("Things", "toupper(name) eq 'ELM 4'", &[5]).await;
    check("Things", "trim(concat('  ', name)) eq 'fir 5'", &[6]).await;
    check("Things", "properties/dimmed eq true", &[1, 4, 7, 10]).await;
    check("Things", "properties/ward/code eq 'YTM' and properties/height gt 8 and id eq 2", &[2]).await;
    check("Things", "properties/pole eq null", &[]).await;
    check("Things", "properties/dimmed eq null and id lt 4", &[2, 3]).await;
    check("Things", "round(properties/height) eq 9 and floor(properties/height) eq 8 and ceiling(properties/height) eq 9 and id eq 1", &[1]).await;
    check("Things", "Datastreams/name eq 'elm 4 level'", &[5]).await;
    check("Things", "Datastreams/Sensor/id eq 6", &[6]).await;
    check("Things", "Datastreams/Observations/result ge 54 and Datastreams/Observations/parameters/run eq 8", &[11])
        .await;
    check("Datastreams", "Thing/name eq 'elm 4'", &[5]).await;
    check("Datastreams", "Thing/id eq 9", &[9]).await;
    check("Datastreams", "Thing/Locations/name eq 'Place of fir 5'", &[6]).await;
    check("Datastreams", "unitOfMeasurement/symbol eq 'm' and id eq 1", &[1]).await;
    check("Datastreams", "phenomenonTime ge 2026-01-01T00:11:00Z", &[12]).await;
    check("Locations", "geo.distance(location, geography'POINT(114.0 22.3)') lt 0.015", &[1, 2]).await;
    check(
        "Locations",
        "st_within(location, geography'POLYGON((114.015 22, 114.045 22, 114.045 23, 114.015 23, 114.015 22))')",
        &[3, 4, 5],
    )
    .await;
    check("Locations", "st_intersects(location, geography'LINESTRING(114.02 22, 114.02 23)')", &[3]).await;
    check("Locations", "geo.intersects(location, geography'POLYGON((114.1 22, 115 22, 115 23, 114.1 23, 114.1 22))') and st_disjoint(location, geography'POINT(114.11 22.3)')", &[11]).await;
    check("Locations", "st_equals(location, geography'POINT(114.03 22.3)')", &[4]).await;
    check("Locations", "st_touches(location, geography'LINESTRING(114.03 22.3, 114.03 23)')", &[4]).await;
    check("Locations", "st_relate(location, geography'POINT(114.03 22.3)', 'T********')", &[4]).await;
    check("Locations", "st_crosses(location, geography'LINESTRING(114.03 22.3, 114.03 23)')", &[]).await;
    check(
        "Locations",
        "st_contains(location, geography'POINT(114.03 22.3)') or st_overlaps(location, geography'POINT(1 1)')",
        &[4],
    )
    .await;
    check("Locations", "geo.length(geography'LINESTRING(0 0, 3 4)') eq 5 and id eq 1", &[1]).await;
    check("Things", "st_within(Locations/location, geography'POLYGON((114.015 22, 114.025 22, 114.025 23, 114.015 23, 114.015 22))')", &[3]).await;
    check("HistoricalLocations", "time eq 2026-11-22T09:00:00Z and id lt 3", &[1, 2]).await;
    check("HistoricalLocations", "time gt now()", &[]).await;
    check("HistoricalLocations", "time lt maxdatetime() and time gt mindatetime() and id eq 1", &[1]).await;
    check("HistoricalLocations", "year(time) eq 2026 and month(time) eq 11 and day(time) eq 22 and hour(time) eq 9 and minute(time) eq 0 and id eq 1", &[1]).await;
    check(
        "HistoricalLocations",
        "second(time) eq 0 and fractionalseconds(time) eq 0 and totaloffsetminutes(time) eq 0 and id eq 1",
        &[1],
    )
    .await;
    check("HistoricalLocations", "date(time) eq 2026-11-22 and time(time) eq 09:00:00 and id eq 2", &[2]).await;
    check("HistoricalLocations", "time add duration'PT1H' eq 2026-11-22T18:00:00+08:00 and id eq 1", &[1]).await;
}

#[tokio::test]
async fn request_data_filter_on_observations() {
    let city = street().await;
    let check = async |path: &str, filter: &str, expect: usize| {
        let answer = city.get(&query(path, &[("$filter", filter), ("$top", "1000"), ("$count", "true")])).await;
        assert_eq!(answer.status, StatusCode::OK, "{filter}: {}", answer.text);
        assert_eq!(answer.ids().len(), expect, "{path} {filter}");
        assert_eq!(answer.json()["@iot.count"], expect, "{path} {filter}");
    };
    check("Observations", "result gt 50", 9).await;
    check("Observations", "result eq 'high'", 15).await;
    check("Observations", "Datastream/id eq 2", 10).await;
    check("Observations", "Datastream/Thing/name eq 'beech 1' and result ge 7", 6).await;
    check("Observations", "FeatureOfInterest/id eq 3", 10).await;
    check("Observations", "phenomenonTime ge 2026-01-01T08:00:00Z and phenomenonTime lt 2026-01-01T09:00:00Z", 12)
        .await;
    check("Observations", "resultTime ne null", 60).await;
    check("Observations", "resultTime eq null and parameters/run eq null", 60).await;
    check("Datastreams(1)/Observations", "result ge 3 and result le 4", 3).await;
    check("Datastreams(1)/Observations", "phenomenonTime gt '2026-01-01T05:00:00Z'", 4).await;
    check("FeaturesOfInterest(2)/Observations", "result lt 6", 2).await;
}

#[tokio::test]
async fn request_data_order_page_and_count() {
    let city = street().await;
    let ids = async |path: &str, options: &[(&str, &str)]| {
        city.get(&query(path, options)).await.ids().iter().map(|v| v.as_i64().expect("id")).collect::<Vec<_>>()
    };
    assert_eq!(ids("Things", &[("$orderby", "name"), ("$top", "3")]).await, [1, 7, 3]);
    assert_eq!(ids("Things", &[("$orderby", "name desc"), ("$top", "2")]).await, [6, 12]);
    assert_eq!(ids("Things", &[("$orderby", "properties/dimmed desc,id desc"), ("$top", "4")]).await, [10, 7, 4, 1]);
    assert_eq!(ids("Things", &[("$orderby", "length(name),name"), ("$top", "2")]).await, [1, 7]);
    assert_eq!(ids("Things", &[("$skip", "10")]).await, [11, 12]);
    assert_eq!(ids("Datastreams", &[("$orderby", "Thing/id desc"), ("$top", "2")]).await, [12, 11]);
    assert_eq!(ids("Datastreams", &[("$orderby", "phenomenonTime desc"), ("$top", "1")]).await, [12]);
    // Every way of ordering pages through everything, once.
    for (path, total) in [
        ("Things", 12),
        ("Observations", 120),
        ("Datastreams(1)/Observations", 10),
        ("FeaturesOfInterest(3)/Observations", 10),
    ] {
        let observations = path.ends_with("Observations");
        let orders: &[&str] = if observations {
            &["", "phenomenonTime", "phenomenonTime desc", "resultTime desc,id", "Datastream/id desc,phenomenonTime"]
        } else {
            &["", "id desc", "name", "description desc,name", "properties/dimmed", "properties/height desc"]
        };
        for order in orders {
            for filter in ["", if observations { "result ne 3" } else { "properties/height gt 1" }] {
                let mut options = vec![("$top", "7"), ("$count", "true")];
                if !order.is_empty() {
                    options.push(("$orderby", *order));
                }
                if !filter.is_empty() {
                    options.push(("$filter", filter));
                }
                let (paged, pages) = city.pages(&query(path, &options)).await;
                options[0].1 = "1000";
                let whole = city.get(&query(path, &options)).await;
                assert_eq!(paged, whole.ids(), "{path} {order} {filter}");
                assert_eq!(whole.json()["@iot.count"].as_u64(), Some(paged.len() as u64), "{path} {order} {filter}");
                assert_eq!(pages, paged.len().div_ceil(7).max(1), "{path} {order} {filter}");
                if filter.is_empty() {
                    assert_eq!(paged.len(), total);
                }
            }
        }
    }
    let latest = city.found(&query("Observations", &[("$orderby", "phenomenonTime desc"), ("$top", "1")])).await;
    assert_eq!(latest["value"][0]["phenomenonTime"], "2026-01-01T09:11:00Z");
    let skipped = city.get(&query("Observations", &[("$skip", "115")])).await;
    assert_eq!(skipped.ids().len(), 5);
}

#[tokio::test]
async fn request_data_expand_and_select() {
    let city = street().await;
    let options = "$top=2&$select=name,Datastreams&$expand=Datastreams($select=id,name;$expand=Observations($top=1;$orderby=phenomenonTime desc;$select=result;$count=true),Thing($select=id))";
    let found = city.found(&format!("/v1.1/Things?{options}")).await;
    let first = &found["value"][0];
    assert_eq!(first.as_object().expect("object").keys().collect::<Vec<_>>(), ["name", "Datastreams"]);
    let stream = &first["Datastreams"][0];
    assert_eq!(stream["Observations"], json!([{"result": 4.5}]));
    assert_eq!((&stream["Observations@iot.count"], &stream["Thing"]), (&json!(10), &json!({"@iot.id": 1})));
    // The inner next link goes on where the expansion ended.
    let next =
        stream["Observations@iot.nextLink"].as_str().and_then(|l| l.strip_prefix("http://city.example")).expect("link");
    assert_eq!(city.found(next).await["value"][0]["result"], 4.0);
    let slash =
        city.found("/v1.1/Datastreams(2)?$expand=Observations/FeatureOfInterest,ObservedProperty&$select=id").await;
    assert_eq!(slash["Observations"][9]["FeatureOfInterest"]["@iot.id"], 2);
    assert_eq!(slash["ObservedProperty"]["name"], "Level");
    let filtered =
        city.found("/v1.1/Things?$expand=Datastreams($filter=name eq 'Ash 0 level';$count=true)&$top=2").await;
    assert_eq!(filtered["value"][0]["Datastreams"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&filtered["value"][1]["Datastreams"], &filtered["value"][1]["Datastreams@iot.count"]),
        (&json!([]), &json!(0))
    );
    let back = city.found("/v1.1/Observations?$top=1&$expand=Datastream($expand=Thing)").await;
    assert_eq!(back["value"][0]["Datastream"]["Thing"]["name"], "Ash 0");
}

#[tokio::test]
async fn data_array_answers() {
    let city = street().await;
    let found = city
        .found("/v1.1/Observations?$resultFormat=dataArray&$top=12&$count=true&$select=result,phenomenonTime")
        .await;
    assert_eq!(found["@iot.count"], 120);
    let groups = found["value"].as_array().expect("groups");
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0]["Datastream@iot.navigationLink"], "http://city.example/v1.1/Datastreams(1)");
    assert_eq!(groups[0]["components"], json!(["phenomenonTime", "result"]));
    assert_eq!(groups[0]["dataArray"][1], json!(["2026-01-01T01:00:00Z", 0.5]));
    assert_eq!(groups[1]["dataArray"].as_array().map(Vec::len), Some(2));
    assert_eq!(city.get("/v1.1/Things?$resultFormat=dataArray").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        city.get("/v1.1/Observations?$resultFormat=dataArray&$expand=Datastream").await.status,
        StatusCode::BAD_REQUEST
    );
}

/// Every mistake is answered with the option, the place and the fix.
#[tokio::test]
async fn mistakes_are_explained() {
    let city = City::new();
    let check = async |path: &str, options: &[(&str, &str)], part: &str| {
        let answer = city.get(&query(path, options)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{options:?} {}", answer.text);
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], options[0].0, "{}", answer.text);
        let detail = problem["errors"][0]["detail"].as_str().expect("detail");
        assert!(detail.contains(part), "{options:?}: {detail}");
    };
    check("Things", &[("$filter", "nam eq 'x'")], "at character 1: a Thing has no 'nam'; it has id, name").await;
    check(
        "Things",
        &[("$filter", "name eq ")],
        "at character 9: a property, a value or a function is expected, but the text ends",
    )
    .await;
    check("Things", &[("$filter", "name eq 5")], "at character 6: 'eq' compares a text with a number").await;
    check("Things", &[("$filter", "name eq 'x")], "at character 9: the string that begins here").await;
    check("Things", &[("$filter", "nearby(name)")], "'nearby' is not a function").await;
    check("Things", &[("$filter", "length(name,1) eq 1")], "takes 1 arguments, not 2").await;
    check("Things", &[("$filter", "Datastreams")], "leads to entities").await;
    check("Things", &[("$filter", "name")], "a filter is true or false").await;
    check("Locations", &[("$filter", "st_within(location, geography'POLYGON((1 2')")], "of the WKT").await;
    check("Things", &[("$filter", &"(".repeat(5_000))], "nested more than").await;
    check("Things", &[("$filter", &"not ".repeat(5_000))], "nested more than").await;
    check("Things", &[("$orderby", "name up")], "'asc', 'desc'").await;
    check("Things", &[("$expand", "Lamps")], "a Thing has no 'Lamps' to expand").await;
    check("Things", &[("$expand", "Datastreams($top=x)")], "a whole number").await;
    check("Things", &[("$select", "colour")], "a Thing has no 'colour'").await;
    check("Things", &[("$top", "-1")], "a whole number").await;
    check("Things", &[("$count", "yes")], "true or false").await;
    check("Things", &[("$skiptoken", "AAAA")], "next link").await;
    assert_eq!(city.get("/v1.1/Things?$search=x").await.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(city.get("/v1.1/Things?$filter=%zz").await.status, StatusCode::BAD_REQUEST);
}

fn atoms() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "id gt 4", "id eq 3", "id ne 6", "id lt 2.5", "7 ge id", "name eq 'Ash 0'", "name ne 'elm 4'", "name lt 'F'", "name ge 'b'",
        "startswith(name,'A')", "startswith(name,'')", "endswith(name,'1')", "contains(name,'e')", "substringof('_',name)",
        "properties/dimmed eq true", "properties/dimmed ne true", "properties/height gt 8", "Datastreams/name eq 'elm 4 level'",
        "Datastreams/name ne 'elm 4 level'", "Datastreams/id lt 5", "Locations/name eq 'Place of fir 5'", "Locations/id gt 9",
        "Datastreams/Sensor/id eq 6", "Datastreams/ObservedProperty/name eq 'Level'", "Datastreams/Observations/result gt 50",
        "geo.distance(Locations/location, geography'POINT(114.05 22.3)') lt 0.02",
        "0.03 gt geo.distance(geography'POINT(114.02 22.3)', Locations/location)",
        "st_within(Locations/location, geography'POLYGON((114.015 22, 114.065 22, 114.065 23, 114.015 23, 114.015 22))')",
        "st_disjoint(Locations/location, geography'POINT(114.03 22.3)')", "HistoricalLocations/time lt 2026-11-22T09:00:01Z", "null eq name",
        "Datastreams/any(d: d/name eq 'elm 4 level')", "Datastreams/all(d: d/id lt 5)", "Datastreams/any(d: d/id gt 3 and name lt 'F')",
        "Datastreams/any(d: d/Sensor/id eq 6 or d/ObservedProperty/id lt 3)", "Locations/any()", "Datastreams/any(d: d/Sensor/name ne 'x')",
        "Datastreams/any(d: d/Observations/any(o: o/result gt 50 and o/phenomenonTime gt 2026-01-01T05:00:00Z))",
    ])
    .prop_map(str::to_owned)
}

fn filters() -> impl Strategy<Value = String> {
    atoms().prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

fn shared() -> &'static (tokio::runtime::Runtime, City) {
    static CITY: OnceLock<(tokio::runtime::Runtime, City)> = OnceLock::new();
    CITY.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let city = runtime.block_on(street());
        (runtime, city)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The principle of the query layer: narrowing by SQL changes no answer.
    #[test]
    fn sql_only_narrows(filter in filters(), order in prop::sample::select(vec!["", "name desc", "id", "properties/height,name", "Datastreams/id desc"])) {
        let (runtime, city) = shared();
        let mut text = "$top=5&$count=true&$filter=".to_owned();
        encode(&filter, &mut text);
        if !order.is_empty() {
            text.push_str("&$orderby=");
            encode(order, &mut text);
        }
        let options = Options::parse(&text).expect("parses");
        let limits = city.engine.limits();
        let scope = Scope::Everything;
        let answer = |pushdown: bool| {
            let engine = city.engine.clone().with_pushdown(pushdown);
            let plan = Plan::new(EntityType::Thing, &options, limits, Timestamp::from_secs(1_800_000_000)).expect("plans");
            runtime.block_on(engine.answer(&scope, &plan, &Source::All)).map(|a| {
                let ids: Vec<i64> = a.rows.iter().filter_map(|r| r.item.as_entity().map(|e| e.id.0)).collect();
                (ids, a.count)
            })
        };
        let (with, without) = (answer(true), answer(false));
        prop_assert_eq!(with.expect("answers"), without.expect("answers"), "{}", filter);
    }

    #[test]
    fn any_filter_text_never_panics(text in "\\PC{0,60}") {
        if let Ok(expr) = crate::query::parse_filter(&text) {
            // What has been understood prints as text that means the same.
            let printed = expr.to_string();
            let again = crate::query::parse_filter(&printed);
            prop_assert_eq!(again.map(|e| e.to_string()), Ok(printed));
        }
    }

    #[test]
    fn any_words_never_panic(words in prop::collection::vec(prop::sample::select(vec![
        "name", "eq", "and", "or", "not", "(", ")", "'x'", "5", "-", "add", "/", ",", "null", "true", "2026-01-01T00:00:00Z", "id", "length(",
        "geography'POINT(1 2)'", "duration'PT1H'", "properties/a-b", "Datastreams/any(", "d/all(", "d:", "12:30", "2026-01-01", "1e5", "asc",
    ]), 0..14)) {
        let text = words.join(" ");
        if let Ok(expr) = crate::query::parse_filter(&text) {
            let printed = expr.to_string();
            let again = crate::query::parse_filter(&printed);
            prop_assert_eq!(again.map(|e| e.to_string()), Ok(printed));
        }
    }

    #[test]
    fn any_query_never_panics(text in "(\\$(filter|expand|select|orderby|top|skiptoken)=[ -~]{0,40}&?){0,3}") {
        let _: Result<Value, ()> = Options::parse(&text).map_err(|_| ()).map(|options| {
            let _ = Plan::new(EntityType::Datastream, &options, &Limits::DEFAULT, Timestamp::from_secs(0));
            Value::Null
        });
    }
}

#[tokio::test]
async fn next_links_are_for_the_same_question_only() {
    let city = street().await;
    let first = city.found("/v1.1/Things?$orderby=name&$top=3").await;
    let link = first["@iot.nextLink"].as_str().expect("link");
    let token = link.split("$skiptoken=").nth(1).expect("token");
    assert_eq!(city.get(&format!("/v1.1/Things?$top=3&$skiptoken={token}")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        city.get(&format!("/v1.1/Observations?$orderby=result&$skiptoken={token}")).await.status,
        StatusCode::BAD_REQUEST
    );
    let nobody = city.get_as(&Caller::anonymous(), &format!("/v1.1/Things?$orderby=name&$skiptoken={token}")).await;
    assert_eq!(nobody.ids(), Vec::<Value>::new(), "a token carries no rights");
    let _ = person("epd");
}

/// What an index counts is what a reader finds, for every comparison, at and beside the edges, with intervals among the instants and without.
#[tokio::test]
async fn a_count_by_time_is_the_number_of_what_is_listed() {
    let city = street().await;
    let agrees = async |what: &str| {
        for operator in ["eq", "ne", "lt", "le", "gt", "ge"] {
            for time in
                ["2026-01-01T02:00:00Z", "2026-01-01T02:00:00.000001Z", "2026-01-01T02:00:00Z/2026-01-01T04:00:00Z"]
            {
                for filter in [
                    format!("phenomenonTime {operator} {time}"),
                    format!("{time} {operator} phenomenonTime"),
                    format!("phenomenonTime {operator} {time} and phenomenonTime lt 2026-01-01T05:30:00Z"),
                    format!("phenomenonTime {operator} {time} and result gt 2"),
                    format!("not (phenomenonTime {operator} {time})"),
                ] {
                    for path in ["Datastreams(1)/Observations", "Observations"] {
                        let page = city
                            .found(&query(path, &[("$filter", &filter), ("$count", "true"), ("$top", "1000")]))
                            .await;
                        let listed = page["value"].as_array().map(Vec::len);
                        assert_eq!(page["@iot.count"].as_u64().map(|n| n as usize), listed, "{what}: {path} {filter}");
                    }
                }
            }
        }
    };
    agrees("instants").await;
    let long = json!({"result": 1, "phenomenonTime": "2026-01-01T01:30:00Z/2026-01-01T02:00:00Z"});
    city.made("/v1.1/Datastreams(1)/Observations", long).await;
    agrees("an interval among them").await;
}
