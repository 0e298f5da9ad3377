//! Years of Observations: any resolution, and files that other people's programs read.

use serde_json::{Value, json};

use crate::city::TestCity;

const READ: &str = r#"
import json, sys
import duckdb, pyarrow.parquet as pq

file = pq.ParquetFile(sys.argv[1])
table = file.read()
print(json.dumps({
    "rows": list(zip(table["datastream"].to_pylist(), [t.isoformat() for t in table["phenomenon_time"].to_pylist()], table["value"].to_pylist(), table["result"].to_pylist())),
    "about": json.loads(file.metadata.metadata[b"lamppost.export"]),
    "duck": duckdb.sql(f"select datastream, count(*), max(value) from '{sys.argv[1]}' group by 1 order by 1").fetchall(),
}))
"#;

fn thing() -> Value {
    let stream = |name: &str, kind: &str| {
        json!({
            "name": name, "description": "d",
            "observationType": format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{kind}"),
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": {"name": "gauge", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"},
            "ObservedProperty": {"name": "height", "definition": "https://example.org/height", "description": "d"},
        })
    };
    json!({"name": "pier", "description": "d", "@lamppost.public": true, "properties": {"simulated": true},
           "Datastreams": [stream("tide", "OM_Measurement"), stream("=flag", "OM_CategoryObservation")]})
}

struct Pier {
    city: TestCity,
    key: String,
    thing: i64,
    tide: i64,
    flag: i64,
}

impl Pier {
    async fn build() -> Self {
        let city = TestCity::start().await;
        let key = city.key("dsd", "admin").await;
        let made =
            city.request("POST", "/v1.1/Things").bearer_auth(&key).body(thing().to_string()).send().await.unwrap();
        assert_eq!(made.status(), 201);
        let path = "/v1.1/Things?$filter=name%20eq%20'pier'&$expand=Datastreams($orderby=id)";
        let found: Value = city.get(path).send().await.unwrap().json().await.unwrap();
        let id = |value: &Value| value["@iot.id"].as_i64().unwrap();
        let streams = &found["value"][0]["Datastreams"];
        let by = |name: &str| id(streams.as_array().unwrap().iter().find(|s| s["name"] == name).unwrap());
        let (thing, tide, flag) = (id(&found["value"][0]), by("tide"), by("=flag"));
        let pier = Self { city, key, thing, tide, flag };
        // Every ten minutes for two days in March, when Europe's clocks change; and two words.
        let rows: Vec<Value> = (0..288)
            .map(|i| json!([format!("2026-03-{:02}T{:02}:{:02}:00Z", 28 + i / 144, i % 144 / 6, i % 6 * 10), i % 144]))
            .collect();
        pier.observe(tide, rows).await;
        pier.observe(
            flag,
            vec![json!(["2026-03-28T00:00:00Z", "=up"]), json!(["2026-03-29T00:00:00Z", "down, \"half\""])],
        )
        .await;
        pier
    }

    async fn observe(&self, datastream: i64, rows: Vec<Value>) {
        let body = json!([{"Datastream": {"@iot.id": datastream}, "components": ["phenomenonTime", "result"], "dataArray": rows}]);
        let request =
            self.city.request("POST", "/v1.1/CreateObservations").bearer_auth(&self.key).body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 201);
    }

    async fn ask(&self, path: &str) -> (u16, Value) {
        let answer = self.city.get(path).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_has_any_resolution() {
    let pier = Pier::build().await;
    let base = format!("/api/datastreams/{}/series?from=2026-03-28T00:00:00Z&to=2026-03-29T23:59:59Z", pier.tide);
    for (resolution, points, said) in [
        ("raw", 288, "raw"),
        ("auto", 288, "raw"),
        ("1h", 48, "PT1H"),
        ("PT30M", 96, "PT30M"),
        ("1d", 2, "P1D"),
        ("1y", 1, "P1Y"),
    ] {
        let (status, answer) = pier.ask(&format!("{base}&resolution={resolution}")).await;
        assert_eq!((status, &answer["resolution"]), (200, &json!(said)), "{resolution}: {answer}");
        assert_eq!(answer["series"][0]["points"].as_array().unwrap().len(), points, "{resolution}");
        assert_eq!(answer["unit"], "m");
    }
    // London's 29 March 2026 has 23 hours: the day after begins at 23:00 UTC.
    let (_, days) = pier.ask(&format!("{base}&resolution=1d&zone=Europe/London&values=all")).await;
    let days: Vec<(&str, &str, u64)> = days["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["start"].as_str().unwrap(), d["end"].as_str().unwrap(), d["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        days,
        [
            ("2026-03-28T00:00:00Z", "2026-03-29T00:00:00Z", 144),
            ("2026-03-29T00:00:00Z", "2026-03-29T23:00:00Z", 138),
            ("2026-03-29T23:00:00Z", "2026-03-30T23:00:00Z", 6)
        ]
    );
    let (_, day) = pier.ask(&format!("{base}&resolution=1d&values=all")).await;
    let expect = json!({"start": "2026-03-28T00:00:00Z", "end": "2026-03-29T00:00:00Z", "count": 144, "mean": 71.5, "min": 0.0, "max": 143.0,
                        "sum": 10296.0, "first": 0.0, "last": 143.0});
    assert_eq!(day["intervals"][0], expect);
    for bad in [
        "resolution=1s",
        "resolution=",
        "zone=Mars/Base",
        "fill=some",
        "values=few",
        "from=x",
        "from=2026-03-30T00:00:00Z",
    ] {
        let (status, problem) =
            pier.ask(&format!("/api/datastreams/{}/series?to=2026-03-29T00:00:00Z&{bad}", pier.tide)).await;
        assert_eq!(status, 400, "{bad}: {problem}");
        assert_eq!(problem["errors"][0]["field"], bad.split('=').next().unwrap(), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_by_others() {
    let pier = Pier::build().await;
    let path = format!("/api/things/{}/export?from=2026-03-28T23:00:00Z&to=2026-03-29T00:30:00Z", pier.thing);
    let answer = pier.city.get(&path).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/vnd.apache.parquet");
    assert_eq!(
        answer.headers()["content-disposition"],
        format!("attachment; filename=\"thing-{}.parquet\"", pier.thing)
    );
    let file = pier.city.folder.path().join("pier.parquet");
    std::fs::write(&file, answer.bytes().await.unwrap()).unwrap();
    let said =
        tokio::task::spawn_blocking(move || testkit::python::run(READ, &[file.to_str().unwrap()])).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let (first, second) = (pier.tide.min(pier.flag), pier.tide.max(pier.flag));
    let of = |id: i64| said["rows"].as_array().unwrap().iter().filter(|r| r[0] == id).cloned().collect::<Vec<_>>();
    assert_eq!(said["rows"][0][0], first);
    assert_eq!(said["rows"].as_array().unwrap().last().unwrap()[0], second);
    assert_eq!(of(pier.flag), [json!([pier.flag, "2026-03-29T00:00:00+00:00", null, "\"down, \\\"half\\\"\""])]);
    let tide = of(pier.tide);
    assert_eq!(tide.len(), 10);
    assert_eq!(tide[0], json!([pier.tide, "2026-03-28T23:00:00+00:00", 138.0, null]));
    assert!(said["duck"].as_array().unwrap().contains(&json!([pier.tide, 10, 143.0])));
    let about = said["about"]["datastreams"].as_array().unwrap().iter().find(|d| d["id"] == pier.tide).unwrap();
    assert_eq!((&about["name"], &about["unitOfMeasurement"]["symbol"]), (&json!("tide"), &json!("m")));
    assert_eq!(
        (&about["Thing"]["name"], &about["ObservedProperty"]["definition"]),
        (&json!("pier"), &json!("https://example.org/height"))
    );

    let text = async |path: String| pier.city.get(&path).send().await.unwrap().text().await.unwrap();
    let csv = text(format!("/api/datastreams/{}/export?format=csv", pier.flag)).await;
    let flag = pier.flag;
    assert_eq!(
        csv,
        format!(
            "datastream,phenomenonTime,resultTime,result,resultQuality,count,min,max\r\n{flag},2026-03-28T00:00:00Z,,\"'=up\",,,,\r\n\
             {flag},2026-03-29T00:00:00Z,,\"down, \"\"half\"\"\",,,,\r\n"
        )
    );
    let lines = text(format!("/api/datastreams/{}/export?format=ndjson&from=2026-03-29T23:40:00Z", pier.tide)).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [
            json!({"datastream": pier.tide, "phenomenonTime": "2026-03-29T23:40:00Z", "result": 142.0}),
            json!({"datastream": pier.tide, "phenomenonTime": "2026-03-29T23:50:00Z", "result": 143.0})
        ]
    );
    let empty = text(format!("/api/datastreams/{}/export?format=csv&from=2030-01-01T00:00:00Z", pier.tide)).await;
    assert_eq!(empty, "datastream,phenomenonTime,resultTime,result,resultQuality,count,min,max\r\n");
    for (path, status) in [
        (format!("/api/datastreams/{}/export?format=xlsx", pier.tide), 400),
        (format!("/api/datastreams/{}/export?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", pier.tide), 400),
        ("/api/datastreams/999999999/export".to_owned(), 404),
        ("/api/things/none/export".to_owned(), 404),
    ] {
        assert_eq!(pier.city.get(&path).send().await.unwrap().status(), status, "{path}");
    }
}
