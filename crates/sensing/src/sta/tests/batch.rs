//! Batch requests: A.4 of 18-088, and what may not happen by them.

use http::StatusCode;
use kernel::Caller;
use serde_json::{Value, json};

use super::{Answer, City, lamp, person, unit};

const MULTIPART: &str = "multipart/mixed;boundary=batch_36522ad7";

/// A request of a multipart batch.
fn part(id: &str, request: &str, body: &Value) -> String {
    let id = if id.is_empty() { String::new() } else { format!("Content-ID: {id}\r\n") };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    format!(
        "Content-Type: application/http\r\n{id}\r\n{request} HTTP/1.1\r\nHost: elsewhere\r\nContent-Type: application/json\r\n\r\n{body}\r\n"
    )
}

fn change_set(parts: &[String]) -> String {
    let inner: String = parts.iter().map(|part| format!("--changeset_1\r\n{part}")).collect();
    format!("Content-Type: multipart/mixed;boundary=changeset_1\r\n\r\n{inner}--changeset_1--\r\n")
}

fn batch(parts: &[String]) -> Vec<u8> {
    let all: String = parts.iter().map(|part| format!("--batch_36522ad7\r\n{part}")).collect();
    format!("{all}--batch_36522ad7--\r\n").into_bytes()
}

impl City {
    async fn multipart_as(&self, caller: &Caller, parts: &[String]) -> Answer {
        let answer = self.send(caller, "POST", "/v1.1/$batch", MULTIPART, batch(parts)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer
    }
    /// The statuses of a multipart batch, in order.
    async fn multipart(&self, parts: &[String]) -> Vec<u16> {
        statuses(&self.multipart_as(&person("dsd"), parts).await.text)
    }
    async fn json_as(&self, caller: &Caller, requests: Value) -> Vec<Value> {
        let body = json!({ "requests": requests }).to_string().into_bytes();
        let answer = self.send(caller, "POST", "/v1.1/$batch", "application/json", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["responses"].as_array().expect("responses").clone()
    }
    async fn json(&self, requests: Value) -> Vec<Value> {
        self.json_as(&person("dsd"), requests).await
    }
    async fn count(&self, set: &str) -> i64 {
        self.found(&format!("/v1.1/{set}?$count=true&$top=0")).await["@iot.count"].as_i64().expect("count")
    }
}

fn statuses(text: &str) -> Vec<u16> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    lines.map(|line| line[..3].parse().expect("a status")).collect()
}

fn sensor() -> Value {
    json!({"name": "S", "description": "d", "encodingType": "application/pdf", "metadata": "http://example.org/s.pdf"})
}

fn stream(sensor: Value, property: Value) -> Value {
    json!({
        "name": "D", "description": "d", "unitOfMeasurement": unit(), "Sensor": sensor, "ObservedProperty": property,
        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement"
    })
}

fn property() -> Value {
    json!({"name": "P", "description": "d", "definition": "http://example.org/p"})
}

/// A.4.1.1: the examples of section 11.
#[tokio::test]
async fn batch_request() {
    let city = City::new();
    city.made("/v1.1/Things", json!({"name": "one", "description": "d"})).await;
    let answer = city
        .multipart_as(
            &person("dsd"),
            &[
                part("", "GET /v1.1/Things(1)", &Value::Null),
                change_set(&[
                    part("1", "POST /v1.1/Things", &json!({"name": "two", "description": "d"})),
                    part("2", "PATCH /v1.1/Things(1)", &json!({"name": "first"})),
                ]),
                part("", "GET http://city.example/v1.1/Things(1)/name", &Value::Null),
                part("", "GET /v1.1/Things(3)", &Value::Null),
            ],
        )
        .await;
    assert_eq!(statuses(&answer.text), [200, 201, 200, 200, 404], "{}", answer.text);
    assert!(
        answer
            .text
            .contains("Content-ID: 1\r\n\r\nHTTP/1.1 201 Created\r\nlocation: http://city.example/v1.1/Things(2)\r\n")
    );
    assert!(answer.text.contains("{\"name\":\"first\"}"), "a batch sees what it has done: {}", answer.text);

    // Example 3: a new Sensor is named by its Content-ID; here in an address and in a deep body too.
    let made = city
        .multipart(&[change_set(&[
            part("sensor1", "POST /v1.1/Sensors", &sensor()),
            part("stream1", "POST /v1.1/Things(1)/Datastreams", &stream(json!({"@iot.id": "$sensor1"}), property())),
            part("", "POST $stream1/Observations", &json!({"result": 4, "phenomenonTime": "2026-01-01T00:00:00Z"})),
            part("", "POST /v1.1/Observations", &json!({"result": 5, "Datastream": {"@iot.id": "$stream1"}})),
            part("", "PATCH /v1.1/Datastreams($stream1)", &json!({"name": "renamed"})),
            part("", "DELETE /v1.1/Things(2)", &Value::Null),
        ])])
        .await;
    assert_eq!(made, [201, 201, 201, 201, 200, 204]);
    let found = city.found("/v1.1/Datastreams(1)?$expand=Sensor,Observations($orderby=phenomenonTime)").await;
    assert_eq!((&found["name"], &found["Sensor"]["name"]), (&json!("renamed"), &json!("S")));
    assert_eq!(found["Observations"].as_array().map(Vec::len), Some(2));
    assert_eq!(city.get("/v1.1/Things(2)").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_change_set_is_all_or_nothing() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    let before = city.found("/v1.1/Things(1)?$expand=Datastreams($expand=Observations)").await;
    let bad = [
        part("", "POST /v1.1/Things", &json!({"name": "no description"})),
        part("", "POST /v1.1/Datastreams(1)/Observations", &json!({"result": "text where a number belongs"})),
        part("", "POST /v1.1/Observations", &json!({"result": 1, "Datastream": {"@iot.id": "$nobody"}})),
        part("", "POST $nobody/Datastreams", &json!({})),
        part("", "POST $new/Observations", &json!({"result": 1})),
        part("", "PATCH /v1.1/Things(99)", &json!({"name": "x"})),
        part("", "DELETE /v1.1/Sensors(99)", &Value::Null),
        part("", "POST /v1.1/Things(99)/Locations", &json!({})),
        part("", "GET /v1.1/Things(1)", &Value::Null),
        part("", "POST /v1.1/CreateObservations", &json!([])),
        part("", "POST /v1.1/$batch", &json!({})),
        part("", "POST http://169.254.169.254/v1.1/Things", &json!({})),
    ];
    for bad in bad {
        let good = [
            part("new", "POST /v1.1/Things", &json!({"name": "b", "description": "d"})),
            part("", "PATCH /v1.1/Things(1)", &json!({"name": "changed"})),
            part("", "POST /v1.1/Datastreams(1)/Observations", &json!({"result": 1})),
        ];
        let answer = city
            .multipart_as(&person("dsd"), &[change_set(&[good.as_slice(), std::slice::from_ref(&bad)].concat())])
            .await;
        let [status] = statuses(&answer.text)[..] else { panic!("one answer for all: {}", answer.text) };
        assert!((400..500).contains(&status), "{bad}: {}", answer.text);
        assert!(answer.text.contains("Nothing of the change set was done. part 1.4"), "{bad}: {}", answer.text);
        assert_eq!(city.count("Things").await, 1, "{bad}");
        let after = city.found("/v1.1/Things(1)?$expand=Datastreams($expand=Observations)").await;
        assert_eq!(after, before, "{bad}");
    }
}

/// OData 4.0 Part 1 section 11.7.2: what follows a failure is not come to, unless the client wants it.
#[tokio::test]
async fn a_failure_ends_a_batch_unless_it_shall_go_on() {
    let city = City::new();
    let parts = [
        part("", "POST /v1.1/Things", &json!({"name": "a", "description": "d"})),
        part("", "GET /v1.1/Things(9)", &Value::Null),
        part("", "POST /v1.1/Things", &json!({"name": "b", "description": "d"})),
    ];
    assert_eq!(city.multipart(&parts).await, [201, 404]);
    assert_eq!(city.count("Things").await, 1);
    for wish in ["odata.continue-on-error", "continue-on-error=true"] {
        let headers = [("content-type", MULTIPART), ("prefer", wish)];
        let answer = city.send_with(&person("dsd"), "POST", "/v1.1/$batch", &headers, batch(&parts)).await;
        assert_eq!(statuses(&answer.text), [201, 404, 201], "{}", answer.text);
    }
}

#[tokio::test]
async fn the_json_format_of_odata_4_01() {
    let city = City::new();
    let answers = city
        .json(json!([
            {"id": "thing", "method": "post", "url": "Things", "body": {"name": "a", "description": "d"}},
            {"id": "s", "atomicityGroup": "g", "method": "post", "url": "/v1.1/Sensors", "body": sensor()},
            {"id": "p", "atomicityGroup": "g", "method": "post", "url": "ObservedProperties", "body": property(), "headers": {"prefer": "return=representation"}},
            {"id": "d", "atomicityGroup": "g", "method": "post", "url": "$thing/Datastreams",
             "body": stream(json!({"@iot.id": "$s"}), json!({"@iot.id": "$p"}))},
            {"id": "o", "dependsOn": ["g"], "method": "post", "url": "$d/Observations", "body": {"result": 3}},
            {"id": "csv", "method": "get", "url": "Things($thing)/Datastreams?$select=name"},
        ]))
        .await;
    let seen: Vec<_> = answers.iter().map(|a| (a["id"].as_str(), a["status"].as_u64())).collect();
    let want = [("thing", 201), ("s", 201), ("p", 201), ("d", 201), ("o", 201), ("csv", 200)];
    assert_eq!(seen, want.map(|(id, status)| (Some(id), Some(status))), "{answers:?}");
    assert_eq!(answers[0]["location"], "http://city.example/v1.1/Things(1)");
    assert_eq!(answers[2]["body"]["name"], "P");
    assert_eq!(answers[5]["body"]["value"], json!([{"name": "D"}]));

    // One of a group fails: it says why, the others that it was not they, and what depends on them is not done.
    let body = json!({"requests": [
        {"id": "1", "atomicityGroup": "g", "method": "post", "url": "Things", "body": {"name": "b", "description": "d"}},
        {"id": "2", "atomicityGroup": "g", "method": "patch", "url": "Things(1)", "body": {"name": 5}},
        {"id": "3", "dependsOn": ["1"], "method": "delete", "url": "Things(1)"},
        {"id": "4", "method": "get", "url": "Things(1)/name"},
    ]});
    let headers = [("content-type", "application/json"), ("prefer", "continue-on-error")];
    let answer = city.send_with(&person("dsd"), "POST", "/v1.1/$batch", &headers, body.to_string().into_bytes()).await;
    let answers = answer.json()["responses"].as_array().expect("responses").clone();
    let seen: Vec<_> = answers.iter().map(|a| a["status"].as_u64().expect("status")).collect();
    assert_eq!(seen, [424, 400, 424, 200], "{answers:?}");
    assert_eq!(answers[1]["body"]["errors"][0]["field"], "/name", "{answers:?}");
    assert_eq!(answers[3]["body"], json!({"name": "a"}));
    assert_eq!(city.count("Things").await, 1);
}

/// A part is asked who may, as a request of its own is; what its header says of who asks counts for nothing.
#[tokio::test]
async fn nobody_gains_rights_by_a_batch() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("hidden", "OM_Measurement", 1.0, 1.0)).await;
    let mut public = lamp("public", "OM_Measurement", 1.0, 1.0);
    public["@lamppost.public"] = json!(true);
    city.made("/v1.1/Things", public).await;
    let before = city.found("/v1.1/Things?$expand=Datastreams($expand=Observations)").await;
    let forged = "Content-Type: application/http\r\n\r\nPATCH /v1.1/Things(1) HTTP/1.1\r\nAuthorization: Bearer of-dsd\r\nCookie: s=1\r\n\r\n{\"name\":\"x\"}\r\n";
    let tries = [
        (forged.to_owned(), 404),
        (part("", "GET /v1.1/Things(1)", &Value::Null), 404),
        (part("", "PATCH /v1.1/Things(1)", &json!({"name": "x"})), 404),
        (part("", "PATCH /v1.1/Things(2)", &json!({"name": "x"})), 403),
        (part("", "DELETE /v1.1/Things(2)", &Value::Null), 403),
        (part("", "POST /v1.1/Things(2)/Datastreams", &stream(sensor(), property())), 403),
        (part("", "POST /v1.1/Things", &json!({"name": "x", "description": "d", "@lamppost.tenant": "dsd"})), 403),
        (part("", "POST /v1.1/Datastreams(2)/Observations", &json!({"result": 1})), 403),
        (part("", "POST /v1.1/Datastreams(1)/Observations", &json!({"result": 1})), 404),
        (
            part(
                "",
                "POST /v1.1/Observations",
                &json!({"result": 1, "Datastream": {"@iot.id": 2}, "FeatureOfInterest": {"name": "f"}}),
            ),
            400,
        ),
    ];
    for (text, status) in &tries {
        for set in [false, true] {
            if set && text.contains("GET") {
                continue;
            }
            let parts = if set { change_set(std::slice::from_ref(text)) } else { text.clone() };
            let answer = city.multipart_as(&person("epd"), std::slice::from_ref(&parts)).await;
            assert_eq!(statuses(&answer.text), [*status], "{text}: {}", answer.text);
            let answer = city.multipart_as(&Caller::anonymous(), &[parts]).await;
            let reading = text.contains("GET");
            assert_eq!(statuses(&answer.text), [if reading { 404 } else { 401 }], "{text}: {}", answer.text);
        }
    }
    assert_eq!(city.found("/v1.1/Things?$expand=Datastreams($expand=Observations)").await, before);
    // What is published may be read by everybody, many at once too.
    let answer = city.multipart_as(&Caller::anonymous(), &[part("", "GET /v1.1/Things(2)", &Value::Null)]).await;
    assert_eq!(statuses(&answer.text), [200]);
}

/// A department that has nothing yet brings itself in by a change set, and sees what it brings.
#[tokio::test]
async fn a_new_department_may_name_what_it_creates() {
    let city = City::new();
    let parts = [
        part("t", "POST /v1.1/Things", &json!({"name": "a", "description": "d"})),
        part("", "PATCH $t", &json!({"description": "changed"})),
        part("d", "POST $t/Datastreams", &stream(sensor(), property())),
        part(
            "gone",
            "POST $t/Locations",
            &json!({"name": "l", "description": "d", "encodingType": "text/plain", "location": "here"}),
        ),
        part("", "DELETE $gone", &Value::Null),
        part("", "DELETE $t/properties", &Value::Null),
    ];
    assert_eq!(city.multipart(&[change_set(&parts)]).await, [201, 200, 201, 201, 204, 204]);
    assert_eq!(city.found("/v1.1/Things(1)").await["description"], "changed");
    assert_eq!(city.count("Locations").await, 0);
}

/// Observations are recorded when the entities are there: what that means when they cannot be.
#[tokio::test]
async fn observations_come_after_the_entities() {
    let city = City::new();
    let thing = |name: &str| {
        let mut body = lamp(name, "OM_Measurement", 1.0, 1.0);
        body["Datastreams"][0]["Observations"] = json!([{"result": 1}]);
        part("", "POST /v1.1/Things", &body)
    };
    *city.memory.broken.lock() = true;
    assert_eq!(city.multipart(&[change_set(&[thing("a"), thing("b")])]).await, [503]);
    for set in ["Things", "Datastreams", "Sensors", "Locations", "Observations"] {
        assert_eq!(city.count(set).await, 0, "what only created is taken back: {set}");
    }
    assert_eq!(city.multipart(&[change_set(&[thing("a"), thing("b")])]).await, [201, 201]);
    assert_eq!(city.count("Observations").await, 2);
    // With a change among them the entities stay, and the answer says which Observations are missing.
    *city.memory.broken.lock() = true;
    let parts = [
        part("", "PATCH /v1.1/Things(3)", &json!({"name": "changed"})),
        part(
            "",
            "POST /v1.1/Datastreams(3)/Observations",
            &json!({"result": 9, "phenomenonTime": "2026-02-01T00:00:00Z"}),
        ),
    ];
    let answer = city.multipart_as(&person("dsd"), &[change_set(&parts)]).await;
    assert_eq!(statuses(&answer.text), [200, 503], "{}", answer.text);
    assert!(answer.text.contains("The entities of the change set were saved"), "{}", answer.text);
    assert_eq!(city.found("/v1.1/Things(3)/name").await["name"], "changed");
    assert_eq!(city.count("Observations").await, 2);
    assert_eq!(city.multipart(&[change_set(&parts)]).await, [200, 201]);
    // An Observation is changed and deleted with the rest.
    let id = city.found("/v1.1/Datastreams(3)/Observations?$filter=result eq 9").await["value"][0]["@iot.id"].clone();
    let id = id.as_str().expect("id");
    let parts = [
        part("", &format!("PATCH /v1.1/Observations('{id}')"), &json!({"phenomenonTime": "2026-02-02T00:00:00Z"})),
        part("", "PATCH /v1.1/Things(3)", &json!({"name": "again"})),
    ];
    assert_eq!(city.multipart(&[change_set(&parts)]).await, [200, 200]);
    assert_eq!(city.get(&format!("/v1.1/Observations('{id}')")).await.status, StatusCode::NOT_FOUND);
    let moved = city.found("/v1.1/Datastreams(3)/Observations?$filter=result eq 9").await["value"][0].clone();
    assert_eq!(moved["phenomenonTime"], "2026-02-02T00:00:00Z");
    let request = format!("DELETE /v1.1/Observations('{}')", moved["@iot.id"].as_str().expect("id"));
    let missing = part("", "DELETE /v1.1/Things(99)", &Value::Null);
    assert_eq!(city.multipart(&[change_set(&[part("", &request, &Value::Null), missing])]).await, [404]);
    assert_eq!(city.count("Observations").await, 3);
    assert_eq!(city.multipart(&[change_set(&[part("", &request, &Value::Null)])]).await, [204]);
    assert_eq!(city.count("Observations").await, 2);
    // Nothing is recorded for a Datastream that the set itself deletes.
    let parts = [
        part("", "DELETE /v1.1/Datastreams(3)", &Value::Null),
        part("", "POST /v1.1/Datastreams(3)/Observations", &json!({"result": 9})),
    ];
    assert_eq!(city.multipart(&[change_set(&parts)]).await, [400]);
    assert_eq!(city.get("/v1.1/Datastreams(3)").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_batch_without_time_says_what_it_did_not_begin() {
    use axum::body::Body;
    use http::{Request, header};
    use tower::ServiceExt as _;
    let city = City::new();
    let door = super::SensorThings::new(city.engine.clone(), super::Settings::default());
    let router = super::router(door.hasty(std::time::Duration::ZERO));
    let parts = ["a", "b"].map(|name| part("", "POST /v1.1/Things", &json!({"name": name, "description": "d"})));
    let request = Request::post("/v1.1/$batch").header(header::CONTENT_TYPE, MULTIPART);
    let request = request.header("prefer", "continue-on-error").extension(person("dsd"));
    let response = router.oneshot(request.body(Body::from(batch(&parts))).expect("request")).await.expect("infallible");
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
    let text = String::from_utf8(bytes.to_vec()).expect("utf-8");
    assert_eq!(statuses(&text), [503], "{text}");
    assert!(text.contains("was not begun"), "{text}");
    assert_eq!(city.count("Things").await, 0);
}

/// What is computed is changed by nobody, one by one or in a batch; all else as ever.
#[tokio::test]
async fn what_is_computed_is_neither_changed_nor_deleted() {
    use axum::body::Body;
    use http::{Request, StatusCode, header};
    use tower::ServiceExt as _;
    let city = City::new();
    city.made("/v1.1/Things", lamp("unit", "OM_Measurement", 1.0, 1.0)).await;
    let datastream = city.found("/v1.1/Datastreams").await["value"][0]["@iot.id"].clone();
    let observed = json!({"result": 9, "phenomenonTime": "2026-02-01T00:00:00Z"});
    let path = city.made(&format!("/v1.1/Datastreams({datastream})/Observations"), observed).await;
    for (computed, delete) in [(true, StatusCode::CONFLICT), (false, StatusCode::NO_CONTENT)] {
        let door = super::SensorThings::new(city.engine.clone(), super::Settings::default());
        let router = super::router(door.computed(std::sync::Arc::new(move |_| computed)));
        let ask = async |method: &str, path: &str, kind: &str, body: Vec<u8>| {
            let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
            let request = request.extension(person("dsd")).body(Body::from(body)).expect("request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            let status = response.status();
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
            (status, String::from_utf8(bytes.to_vec()).expect("utf-8"))
        };
        let patch = ask("PATCH", &path, "application/json", json!({"result": 5.0}).to_string().into_bytes()).await;
        assert_eq!(patch.0, if computed { StatusCode::CONFLICT } else { StatusCode::OK }, "{}", patch.1);
        if computed {
            let parts = [part("", &format!("DELETE {path}"), &json!({}))];
            let (_, text) = ask("POST", "/v1.1/$batch", MULTIPART, batch(&parts)).await;
            assert_eq!(statuses(&text), [409], "{text}");
        }
        assert_eq!(ask("DELETE", &path, "application/json", Vec::new()).await.0, delete);
    }
}

#[tokio::test]
async fn a_part_is_named_as_a_request_is() {
    let city = City::new();
    let mut thing = lamp("unit", "OM_Measurement", 1.0, 1.0);
    thing["TaskingCapabilities"] = json!([{
        "name": "Fan", "description": "d", "taskingParameters": crate::tasking::tests::http::declared(),
        "Actuator": {"name": "Motor", "description": "d", "encodingType": "application/pdf", "metadata": "http://example.org/m.pdf"}}]);
    city.made("/v1.1/Things", thing).await;
    let body = json!({"taskingParameters": {"speed": 1}});
    let named =
        part("", "POST /v1.1/TaskingCapabilities(1)/Tasks", &body).replace("Host: elsewhere", "Idempotency-Key: a");
    for _ in 0..2 {
        assert_eq!(city.multipart(std::slice::from_ref(&named)).await.len(), 1);
    }
    let other = json!([{"id": "1", "method": "post", "url": "TaskingCapabilities(1)/Tasks", "headers": {"Idempotency-Key": "a"}, "body": body}]);
    city.json(other).await;
    assert_eq!(city.count("Tasks").await, 1, "the same Task, however often its batch is sent");
}

#[tokio::test]
async fn a_batch_in_another_form_is_refused_with_a_reason() {
    let city = City::new();
    let send = async |kind: &str, body: &str| {
        city.send(&person("dsd"), "POST", "/v1.1/$batch", kind, body.as_bytes().to_vec()).await
    };
    assert_eq!(send("text/plain", "x").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for (kind, body, expect) in [
        ("multipart/mixed", "x", "boundary"),
        ("multipart/mixed;boundary=b", "--b\r\n", "--b--"),
        ("application/json", "[]", "a JSON batch is"),
    ] {
        let answer = send(kind, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{kind} {body}");
        assert!(answer.text.contains(expect), "{kind} {body}: {}", answer.text);
    }
    let nested = city.json(json!([{"id": "1", "method": "post", "url": "$batch", "body": {"requests": []}}])).await;
    assert_eq!(nested[0]["status"], 400, "{nested:?}");
    assert_eq!(send("application/json", "{\"requests\": []}").await.json(), json!({"responses": []}));
}
