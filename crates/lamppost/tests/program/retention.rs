//! What is kept, from outside: an officer looks, confirms, and everything that reads goes on over the border, also after a restart.

use serde_json::{Value, json};

use crate::{browser::Browser, city::TestCity};

struct Keeper {
    city: TestCity,
    key: String,
    stream: i64,
}

impl Keeper {
    /// A gauge of the flood system with two hours of ten-second values, two years old, and one of yesterday.
    async fn build() -> Self {
        let city = TestCity::start().await;
        let key = city.key("dsd", "admin").await;
        let body = json!({
        "name": "kept", "description": "d", "properties": {"system": "flood"}, "@lamppost.public": true,
        "Datastreams": [{
            "name": "kept level", "description": "d",
            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": {"name": "s", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"},
            "ObservedProperty": {"name": "p", "description": "d", "definition": "https://example.org/p"},
        }]});
        let made = city.request("POST", "/v1.1/Things").bearer_auth(&key).body(body.to_string()).send().await.unwrap();
        assert_eq!(made.status(), 201);
        let path = "/v1.1/Things?$filter=name%20eq%20'kept'&$expand=Datastreams";
        let found: Value = city.get(path).send().await.unwrap().json().await.unwrap();
        let stream = found["value"][0]["Datastreams"][0]["@iot.id"].as_i64().unwrap();
        let keeper = Self { city, key, stream };
        let start = keeper.old();
        let mut rows: Vec<Value> = (0..720).map(|i| json!([start.plus_secs(i * 10).to_string(), i % 60])).collect();
        rows.push(json!([keeper.city.running().stores.records.now().plus_secs(-86_400).to_string(), 7]));
        let body =
            json!([{"Datastream": {"@iot.id": stream}, "components": ["phenomenonTime", "result"], "dataArray": rows}]);
        assert_eq!(keeper.ask("POST", "/v1.1/CreateObservations", body).await.0, 201);
        keeper
    }

    /// A whole day, about two years ago.
    fn old(&self) -> kernel::Timestamp {
        let now = self.city.running().stores.records.now().as_micros();
        kernel::Timestamp::from_micros((now / 86_400_000_000 - 730) * 86_400_000_000)
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.city.request(method, path).bearer_auth(&self.key);
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn run(&self, id: &str) -> Value {
        for _ in 0..600 {
            let (_, run) = self.ask("GET", &format!("/api/retention/runs/{id}"), Value::Null).await;
            if run["state"] == "done" {
                return run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the run {id} does not end");
    }

    async fn count(&self) -> u64 {
        let path = format!("/v1.1/Datastreams({})/Observations?$count=true&$top=0", self.stream);
        self.ask("GET", &path, Value::Null).await.1["@iot.count"].as_u64().unwrap()
    }

    async fn series(&self) -> Value {
        let (from, to) = (self.old(), self.old().plus_secs(7_199));
        let path = format!("/api/datastreams/{}/series?from={from}&to={to}&resolution=1h&values=all", self.stream);
        self.ask("GET", &path, Value::Null).await.1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_officer_confirms_is_summed_up_and_read_on() {
    let mut keeper = Keeper::build().await;
    let before = keeper.series().await;
    assert_eq!(before["intervals"][0]["count"], 360);
    assert!(before.get("downsampled").is_none());
    {
        let mut officer = Browser::of(&keeper.city, "dsd", "admin", "keeper").await;
        let (status, html) = officer.get("/en/retention").await;
        assert_eq!(status, 200);
        assert!(html.contains("Water levels and flows") && html.contains("Not applied yet"), "{html}");
        assert!(!html.contains("Confirm: let it go"), "nothing was seen yet");
        let fields = [("do", "preview"), ("key", "flood-levels")];
        assert_eq!(officer.post("/en/retention", "/en/retention", &fields).await.status(), 303);
        let (_, view) = keeper.ask("GET", "/api/retention/flood-levels", Value::Null).await;
        let run = keeper.run(view["runs"][0]["id"].as_str().unwrap()).await;
        assert_eq!((&run["report"]["summed"], &run["report"]["sums"]), (&json!(720), &json!(12)));
        let (_, html) = officer.get("/zh-hant/retention").await;
        assert!(html.contains("確認移除") && html.contains("720") && html.contains("kept level"), "{html}");
        let fields = [("do", "confirm"), ("key", "flood-levels"), ("run", run["id"].as_str().unwrap())];
        assert_eq!(officer.post("/en/retention", "/en/retention", &fields).await.status(), 303);
    }
    for _ in 0..600 {
        if keeper.count().await == 13 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(keeper.count().await, 13, "twelve means and yesterday's");
    for restarted in [false, true] {
        if restarted {
            keeper.city.restart().await;
        }
        let after = keeper.series().await;
        assert_eq!(after["intervals"], before["intervals"], "the sums are those of before");
        assert_eq!(after["downsampled"][0]["interval"], "PT10M", "{after}");
        assert_eq!(keeper.count().await, 13);
        let path = format!("/v1.1/Datastreams({})?$select=phenomenonTime", keeper.stream);
        let (_, head) = keeper.ask("GET", &path, Value::Null).await;
        assert!(head["phenomenonTime"].as_str().unwrap().starts_with(&keeper.old().to_string()), "{head}");
    }
    // An aggregated row is not pretended to be an Observation of its moment.
    let path = format!("/v1.1/Datastreams({})/Observations?$orderby=phenomenonTime&$top=1", keeper.stream);
    let (_, found) = keeper.ask("GET", &path, Value::Null).await;
    let first = &found["value"][0];
    let span = format!("{}/{}", keeper.old(), keeper.old().plus_secs(600));
    assert_eq!((&first["phenomenonTime"], &first["result"]), (&json!(span), &json!(29.5)));
    assert_eq!(first["parameters"]["aggregate"]["count"], 60);
    let id = first["@iot.id"].as_str().unwrap();
    let (status, problem) = keeper.ask("PATCH", &format!("/v1.1/Observations({id})"), json!({"result": 1})).await;
    assert_eq!(status, 409, "{problem}");
    let path = format!(
        "/v1.1/Datastreams({})/Observations?$filter=result%20gt%2029%20and%20phenomenonTime%20lt%20{}&$count=true",
        keeper.stream,
        keeper.old().plus_secs(3_600)
    );
    assert_eq!(keeper.ask("GET", &path, Value::Null).await.1["@iot.count"], 6, "a filter reads on too");
    let csv = keeper.city.get(&format!("/api/datastreams/{}/export?format=csv", keeper.stream));
    let csv = csv.bearer_auth(&keeper.key).send().await.unwrap().text().await.unwrap();
    let second = csv.lines().nth(1).unwrap();
    assert!(second.contains(&span) && second.ends_with(",60,0.0,59.0"), "{csv}");
    let figures = keeper.city.key("city", "operator").await;
    let figures = keeper.city.get("/metrics").bearer_auth(&figures).send().await.unwrap().text().await.unwrap();
    assert!(figures.contains("sensing_retention_holds"), "{figures}");
}
