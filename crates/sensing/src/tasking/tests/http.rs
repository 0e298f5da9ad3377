//! The service as clients, officers and devices see it.

use std::time::Duration;

use http::StatusCode;
use kernel::{Caller, Principal};
use records::AuditQuery;
use serde_json::{Value, json};

use crate::{
    model::EntityId,
    sta::tests::{Answer, City, lamp, person, tenant},
    tasking::{Stopped, desk::Asked},
};

pub fn declared() -> Value {
    json!({"type": "DataRecord", "field": [
        {"name": "speed", "type": "Quantity", "uom": {"code": "%"}, "constraint": {"type": "AllowedValues", "interval": [[0, 100]]}},
        {"name": "mode", "type": "Category", "optional": true, "constraint": {"type": "AllowedTokens", "value": ["day", "night"]}},
    ]})
}

fn capability(tasking: Value) -> Value {
    json!({"name": "Fan", "description": "d", "taskingParameters": declared(), "properties": { "tasking": tasking },
           "Actuator": {"name": "Motor", "description": "d", "encodingType": "application/pdf", "metadata": "http://example.org/m.pdf"}})
}

/// Thing 1 with Datastream 1 and TaskingCapability 1 of Actuator 1.
async fn city(tasking: Value) -> City {
    let city = City::new();
    let mut thing = lamp("unit", "OM_Measurement", 1.0, 1.0);
    thing["TaskingCapabilities"] = json!([capability(tasking)]);
    city.made("/v1.1/Things", thing).await;
    city
}

fn colleague() -> Caller {
    Caller { principal: Principal::Person { id: "second".into(), name: "Second".into() }, ..person("dsd") }
}

fn device(id: &str) -> Caller {
    Caller { principal: Principal::Device { id: id.into() }, ..person("dsd") }
}

async fn propose(city: &City, body: Value) -> Answer {
    city.post("/v1.1/TaskingCapabilities(1)/Tasks", body).await
}

fn speed(value: impl Into<Value>) -> Value {
    json!({"taskingParameters": {"speed": value.into()}})
}

async fn status(city: &City, id: i64) -> Value {
    city.found(&format!("/v1.1/Tasks({id})")).await["@lamppost.status"].clone()
}

async fn act(city: &City, who: &Caller, id: i64, deed: &str, body: Value) -> Answer {
    let path = format!("/api/tasks/{id}/{deed}");
    city.send(who, "POST", &path, "application/json", body.to_string().into_bytes()).await
}

async fn says(city: &City, who: &Caller, id: i64, word: &str) -> Answer {
    let body = json!({"@lamppost.status": word, "@lamppost.reason": "the motor is hot"});
    city.send(who, "PATCH", &format!("/v1.1/Tasks({id})"), "application/json", body.to_string().into_bytes()).await
}

async fn observe(city: &City, value: f64) {
    let at = city.catalog.now().to_string();
    city.made("/v1.1/Datastreams(1)/Observations", json!({"result": value, "phenomenonTime": at})).await;
    city.tasking.look(EntityId(1)).await.expect("looked");
}

/// Time passes, and the jobs that have become due are done.
async fn later(city: &City, secs: i64) {
    city.clock.advance_micros(secs * 1_000_000);
    let jobs = city.catalog.records().jobs();
    loop {
        let due = jobs.claim("tasking", 10).await.expect("jobs");
        if due.is_empty() {
            return;
        }
        for job in due {
            city.tasking.due(job).await.expect("done");
        }
    }
}

async fn history(city: &City, id: i64) -> Vec<String> {
    let seen = city.found(&format!("/api/tasks/{id}")).await;
    let lines = seen["history"].as_array().expect("history").clone();
    lines.iter().map(|line| line["event"].as_str().expect("event").to_owned()).collect()
}

#[tokio::test]
async fn entities_and_their_ties() {
    let city = city(json!({})).await;
    assert_eq!(propose(&city, speed(40)).await.path(), "/v1.1/Tasks(1)");
    let root = city.found("/v1.1").await;
    let sets: Vec<&str> = root["value"].as_array().expect("sets").iter().filter_map(|s| s["name"].as_str()).collect();
    for set in ["TaskingCapabilities", "Actuators", "Tasks"] {
        assert!(sets.contains(&set), "{set}");
    }
    for class in ["tasking-capability", "task", "actuator", "create-tasks"] {
        let name = format!("http://www.opengis.net/spec/iot_tasking/1.0/req/{class}");
        assert!(root["serverSettings"]["conformance"].as_array().expect("classes").contains(&json!(name)), "{class}");
    }
    let thing = city.found("/v1.1/Things(1)?$expand=TaskingCapabilities($expand=Actuator,Tasks)").await;
    let fan = &thing["TaskingCapabilities"][0];
    assert_eq!(fan["taskingParameters"]["field"][0]["name"], "speed");
    assert_eq!(
        (&fan["Actuator"]["name"], &fan["Tasks"][0]["taskingParameters"]["speed"]),
        (&json!("Motor"), &json!(40))
    );
    for (path, count) in [
        ("/v1.1/Actuators(1)/TaskingCapabilities", 1),
        ("/v1.1/TaskingCapabilities(1)/Tasks", 1),
        ("/v1.1/Tasks?$filter=@lamppost.status eq 'sent'", 1),
        ("/v1.1/Tasks?$filter=taskingParameters/speed gt 50", 0),
        ("/v1.1/Tasks?$filter=TaskingCapability/Thing/id eq 1&$orderby=creationTime desc", 1),
        ("/v1.1/TaskingCapabilities?$filter=Actuator/name eq 'Motor'", 1),
    ] {
        assert_eq!(city.found(path).await["value"].as_array().expect("value").len(), count, "{path}");
    }
    let task = city.found("/v1.1/Tasks(1)").await;
    assert_eq!(task["creationTime"], "2026-11-22T09:00:00Z");
    assert_eq!(city.found("/v1.1/Tasks(1)/TaskingCapability/Actuator").await["@iot.id"], 1);
    assert_eq!(city.patch("/v1.1/Actuators(1)", json!({"name": "Engine"})).await.status, StatusCode::OK);
    let bad = json!({"taskingParameters": {"type": "DataRecord", "field": [{"name": "x", "type": "Tensor"}]}});
    let answer = city.patch("/v1.1/TaskingCapabilities(1)", bad).await;
    assert_eq!(answer.json()["errors"][0]["field"], "/taskingParameters/field/0/type");
    assert_eq!(city.delete("/v1.1/Actuators(1)").await, StatusCode::CONFLICT, "a Task is under way");
    assert_eq!(act(&city, &person("dsd"), 1, "cancel", json!({})).await.status, StatusCode::OK);
    assert_eq!(city.delete("/v1.1/Actuators(1)").await, StatusCode::NO_CONTENT);
    for path in ["/v1.1/Tasks(1)", "/v1.1/TaskingCapabilities(1)", "/api/tasks/1"] {
        assert_eq!(city.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_complaint_names_the_parameter() {
    let city = city(json!({})).await;
    for (body, field) in [
        (json!({"taskingParameters": {}}), "/taskingParameters/speed"),
        (speed("fast"), "/taskingParameters/speed"),
        (speed(101), "/taskingParameters/speed"),
        (json!({"taskingParameters": {"speed": 1, "sped": 1}}), "/taskingParameters/sped"),
        (json!({"taskingParameters": {"speed": 1, "mode": "noon"}}), "/taskingParameters/mode"),
        (json!({"taskingParameters": {"speed": 1}, "colour": 1}), "/colour"),
        (json!({"taskingParameters": {"speed": 1}, "@lamppost.expires": "2020-01-01T00:00:00Z"}), "/@lamppost.expires"),
        (json!({}), "/taskingParameters"),
    ] {
        let answer = propose(&city, body.clone()).await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{body}"
        );
    }
    let answer = city.post("/v1.1/Tasks", speed(1)).await;
    assert_eq!(answer.json()["errors"][0]["field"], "/TaskingCapability");
    assert_eq!(city.found("/v1.1/Tasks").await["value"], json!([]), "nothing of all that is there");
    let mut body = speed(1);
    body["TaskingCapability"] = json!({"@iot.id": 1});
    assert_eq!(city.post("/v1.1/Tasks", body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn others_see_nothing_and_move_nothing() {
    let city = city(json!({})).await;
    propose(&city, speed(1)).await.path();
    for stranger in [Caller::anonymous(), person("epd")] {
        for path in [
            "/v1.1/Tasks(1)",
            "/v1.1/TaskingCapabilities(1)",
            "/v1.1/Actuators(1)",
            "/v1.1/TaskingCapabilities(1)/Tasks",
        ] {
            assert_eq!(city.get_as(&stranger, path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    let body = speed(1).to_string().into_bytes();
    let sent =
        city.send(&person("epd"), "POST", "/v1.1/TaskingCapabilities(1)/Tasks", "application/json", body.clone()).await;
    assert_eq!(sent.status, StatusCode::NOT_FOUND);
    let sent = city.send(&Caller::anonymous(), "POST", "/v1.1/Tasks", "application/json", body).await;
    assert_eq!(sent.status, StatusCode::UNAUTHORIZED);
    assert_eq!(act(&city, &person("epd"), 1, "cancel", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(city.get_as(&person("epd"), "/api/tasks/1").await.status, StatusCode::NOT_FOUND);
    assert_eq!(says(&city, &device("other"), 1, "acknowledged").await.status, StatusCode::FORBIDDEN, "not its Thing");
    assert_eq!(status(&city, 1).await, "sent");
}

#[tokio::test]
async fn who_only_sees_an_actuator_does_not_give_it_out() {
    let city = City::new();
    let mut thing = lamp("unit", "OM_Measurement", 1.0, 1.0);
    thing["@lamppost.public"] = json!(true);
    thing["TaskingCapabilities"] = json!([capability(json!({}))]);
    city.made("/v1.1/Things", thing).await;
    let stranger = person("epd");
    assert_eq!(city.get_as(&stranger, "/v1.1/Actuators(1)").await.status, StatusCode::OK, "everybody sees it");
    let taking = json!({"name": "Ours", "description": "d", "TaskingCapabilities": [{
        "name": "Fan", "description": "d", "taskingParameters": declared(), "Actuator": {"@iot.id": 1}}]});
    let send = async |who: &Caller, method: &str, path: &str, body: &Value| {
        city.send(who, method, path, "application/json", body.to_string().into_bytes()).await
    };
    let seized = send(&stranger, "POST", "/v1.1/Things", &taking).await;
    assert_eq!(seized.status, StatusCode::FORBIDDEN, "{}", seized.text);
    let mut own = taking.clone();
    own["TaskingCapabilities"][0]["Actuator"] = capability(json!({}))["Actuator"].clone();
    let made = send(&stranger, "POST", "/v1.1/Things", &own).await.path();
    let theirs = city.get_as(&stranger, &format!("{made}/TaskingCapabilities")).await.json()["value"][0].clone();
    let path = format!("/v1.1/TaskingCapabilities({})", theirs["@iot.id"]);
    let seized = send(&stranger, "PATCH", &path, &json!({"Actuator": {"@iot.id": 1}})).await;
    assert_eq!(seized.status, StatusCode::FORBIDDEN, "nor by a link that is made afterwards: {}", seized.text);
    assert_eq!(city.found("/v1.1/Actuators(1)/TaskingCapabilities").await["value"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_capability_stays_where_it_is_while_a_task_waits() {
    let city = city(json!({"four_eyes": true})).await;
    let mut other = lamp("other", "OM_Measurement", 1.0, 1.0);
    other["TaskingCapabilities"] = json!([capability(json!({}))]);
    city.made("/v1.1/Things", other).await;
    propose(&city, speed(1)).await.path();
    for link in [json!({"Actuator": {"@iot.id": 2}}), json!({"Thing": {"@iot.id": 2}})] {
        let moved = city.patch("/v1.1/TaskingCapabilities(1)", link.clone()).await;
        assert_eq!(moved.status, StatusCode::CONFLICT, "{link}: {}", moved.text);
    }
    let taken = json!({"TaskingCapabilities": [{"@iot.id": 1}]});
    assert_eq!(city.patch("/v1.1/Things(2)", taken.clone()).await.status, StatusCode::CONFLICT, "from the other side");
    assert_eq!(act(&city, &colleague(), 1, "reject", json!({"comment": "no"})).await.status, StatusCode::OK);
    assert_eq!(city.patch("/v1.1/Things(2)", taken).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_read_back_follows_what_is_amended() {
    let verify = json!({"Datastream": {"@iot.id": 1}, "parameter": "speed", "tolerance": 1, "seconds": 60});
    let city = city(json!({"four_eyes": true, "verify": verify})).await;
    propose(&city, speed(40)).await.path();
    assert_eq!(city.patch("/v1.1/Tasks(1)", speed(70)).await.status, StatusCode::OK);
    let version = city.found("/api/tasks/1").await["task"]["version"].clone();
    assert_eq!(act(&city, &colleague(), 1, "approve", json!({ "version": version })).await.status, StatusCode::OK);
    assert_eq!(city.delete("/v1.1/Tasks(1)").await, StatusCode::CONFLICT, "the device may be acting on it");
    says(&city, &device("gauge"), 1, "acknowledged").await;
    city.clock.advance_micros(1_000_000);
    observe(&city, 40.0).await;
    assert_eq!(status(&city, 1).await, "acknowledged", "what was proposed first is no longer wanted");
    city.clock.advance_micros(1_000_000);
    observe(&city, 70.0).await;
    assert_eq!(status(&city, 1).await, "completed");
    // A word that comes too late is heard and changes nothing.
    assert_eq!(says(&city, &device("gauge"), 1, "failed").await.status, StatusCode::OK);
    assert_eq!(status(&city, 1).await, "completed");
}

#[tokio::test]
async fn a_second_person_approves() {
    let city = city(json!({"four_eyes": true})).await;
    propose(&city, speed(1)).await.path();
    assert_eq!(status(&city, 1).await, "validated");
    let version = city.found("/api/tasks/1").await["task"]["version"].clone();
    let own = act(&city, &person("dsd"), 1, "approve", json!({ "version": version })).await;
    assert_eq!(own.status, StatusCode::FORBIDDEN, "{}", own.text);
    let mut terms = speed(2);
    terms["@lamppost.expires"] = json!("2026-11-22T10:00:00Z");
    assert_eq!(city.patch("/v1.1/Tasks(1)", terms).await.json()["errors"][0]["field"], "/@lamppost.expires");
    assert_eq!(city.patch("/v1.1/Tasks(1)", speed(2)).await.status, StatusCode::OK);
    let stale = act(&city, &colleague(), 1, "approve", json!({ "version": version })).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "what was seen is not what is there");
    let version = city.found("/api/tasks/1").await["task"]["version"].clone();
    let approved = act(&city, &colleague(), 1, "approve", json!({ "version": version })).await;
    assert_eq!((approved.status, &approved.json()["status"]), (StatusCode::OK, &json!("sent")));
    assert_eq!(city.patch("/v1.1/Tasks(1)", speed(3)).await.status, StatusCode::CONFLICT);
    assert_eq!(history(&city, 1).await, ["proposed", "validated", "amended", "approved", "sent"]);
    propose(&city, speed(1)).await.path();
    let rejected = act(&city, &colleague(), 2, "reject", json!({"comment": "not today"})).await;
    assert_eq!(rejected.json()["status"], "rejected");
    let audit = city.catalog.records().audit(AuditQuery { limit: 100, ..AuditQuery::default() }).await.expect("audit");
    let actions: Vec<_> = audit.rows.iter().filter(|r| r.kind == "Task").map(|r| r.action.as_str()).collect();
    assert!(actions.contains(&"task:approve") && actions.contains(&"task:propose"), "{actions:?}");
}

#[tokio::test]
async fn the_device_answers_and_the_city_reads_back() {
    let verify = json!({"Datastream": {"@iot.id": 1}, "parameter": "speed", "tolerance": 1, "seconds": 60});
    let city = city(json!({"verify": verify, "undo": {"speed": 0}})).await;
    observe(&city, 40.0).await;
    city.clock.advance_micros(1_000_000);
    propose(&city, speed(40)).await.path();
    assert_eq!(says(&city, &device("gauge"), 1, "completed").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(says(&city, &device("gauge"), 1, "acknowledged").await.status, StatusCode::OK);
    assert_eq!(says(&city, &device("gauge"), 1, "acknowledged").await.status, StatusCode::OK, "said again");
    assert_eq!(status(&city, 1).await, "acknowledged", "what was observed before it was sent proves nothing");
    observe(&city, 10.0).await;
    assert_eq!(status(&city, 1).await, "acknowledged");
    city.clock.advance_micros(1_000_000);
    observe(&city, 39.5).await;
    assert_eq!(status(&city, 1).await, "completed");
    let way = ["proposed", "validated", "approved", "sent", "acknowledged", "verified", "completed"];
    assert_eq!(history(&city, 1).await, way);
    // Another one whose reading never comes is taken back.
    propose(&city, speed(90)).await.path();
    says(&city, &device("gauge"), 2, "acknowledged").await;
    later(&city, 61).await;
    assert_eq!((status(&city, 2).await, status(&city, 3).await), (json!("failed"), json!("sent")));
    assert_eq!(city.found("/v1.1/Tasks(3)").await["taskingParameters"], json!({"speed": 0}));
    says(&city, &device("gauge"), 3, "acknowledged").await;
    assert_eq!(status(&city, 2).await, "failed", "taken back is what was seen to be");
    city.clock.advance_micros(1_000_000);
    observe(&city, 0.0).await;
    assert_eq!((status(&city, 2).await, status(&city, 3).await), (json!("rolled_back"), json!("completed")));
    propose(&city, speed(50)).await.path();
    says(&city, &device("gauge"), 4, "failed").await;
    let last =
        city.found("/api/tasks/4").await["history"].as_array().expect("history").last().cloned().expect("a line");
    assert_eq!((&last["event"], &last["remark"]), (&json!("refused_by_device"), &json!("the motor is hot")));
}

#[tokio::test]
async fn one_key_is_one_task() {
    let city = city(json!({})).await;
    let with = async |key: &str, body: Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let path = "/v1.1/TaskingCapabilities(1)/Tasks";
        city.send_with(&person("dsd"), "POST", path, &headers, body.to_string().into_bytes()).await
    };
    assert_eq!(with("a", speed(1)).await.path(), "/v1.1/Tasks(1)");
    assert_eq!(with("a", speed(1)).await.path(), "/v1.1/Tasks(1)");
    assert_eq!(with("a", speed(2)).await.status, StatusCode::CONFLICT);
    let (one, other) = (json!({"speed": 1, "mode": "day"}), json!({"mode": "day", "speed": 1}));
    assert_eq!(with("b", json!({"taskingParameters": one})).await.path(), "/v1.1/Tasks(2)");
    assert_eq!(
        with("b", json!({"taskingParameters": other})).await.path(),
        "/v1.1/Tasks(2)",
        "the same in another order"
    );
    assert_eq!(city.found("/v1.1/Tasks").await["value"].as_array().expect("value").len(), 2);
    assert_eq!(history(&city, 1).await.iter().filter(|e| *e == "sent").count(), 1);
}

#[tokio::test]
async fn one_task_has_the_actuator() {
    let city = city(json!({})).await;
    propose(&city, speed(1)).await.path();
    propose(&city, speed(2)).await.path();
    let mut refuses = speed(3);
    refuses["@lamppost.busy"] = json!("refuse");
    propose(&city, refuses).await.path();
    assert_eq!(
        (status(&city, 1).await, status(&city, 2).await, status(&city, 3).await),
        (json!("sent"), json!("approved"), json!("rejected"))
    );
    says(&city, &device("gauge"), 1, "acknowledged").await;
    assert_eq!((status(&city, 1).await, status(&city, 2).await), (json!("completed"), json!("sent")));
    later(&city, 31).await;
    assert_eq!(status(&city, 2).await, "failed", "never acknowledged");
}

#[tokio::test]
async fn the_expected_state_is_looked_at() {
    let city = city(json!({})).await;
    let expecting = |value: f64| {
        let mut body = speed(1);
        body["@lamppost.expect"] = json!({"Datastream": {"@iot.id": 1}, "value": value, "tolerance": 0.5});
        body
    };
    propose(&city, expecting(20.0)).await.path();
    assert_eq!(status(&city, 1).await, "rejected", "nothing was observed");
    observe(&city, 20.2).await;
    propose(&city, expecting(21.0)).await.path();
    propose(&city, expecting(20.0)).await.path();
    assert_eq!((status(&city, 2).await, status(&city, 3).await), (json!("rejected"), json!("sent")));
}

#[tokio::test]
async fn a_dead_mans_handle_falls_back() {
    let city = city(json!({"hold": {"seconds": 20, "fallback": {"speed": 5}}})).await;
    propose(&city, speed(80)).await.path();
    says(&city, &device("gauge"), 1, "acknowledged").await;
    later(&city, 15).await;
    assert_eq!(act(&city, &person("dsd"), 1, "renew", json!({})).await.status, StatusCode::OK);
    later(&city, 15).await;
    assert_eq!(status(&city, 1).await, "acknowledged");
    later(&city, 5).await;
    assert_eq!((status(&city, 1).await, status(&city, 2).await), (json!("expired"), json!("sent")));
    assert_eq!(city.found("/v1.1/Tasks(2)").await["taskingParameters"], json!({"speed": 5}));
    assert_eq!(act(&city, &person("dsd"), 1, "renew", json!({})).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn while_the_switch_is_on_nothing_leaves() {
    let city = city(json!({})).await;
    let throw = async |who: &Caller, body: Value| {
        city.send(who, "PUT", "/api/tasking/stop", "application/json", body.to_string().into_bytes()).await.status
    };
    let dsd = person("dsd");
    assert_eq!(
        throw(&person("epd"), json!({"tenant": "dsd", "stopped": true, "reason": "x"})).await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        throw(&dsd, json!({"stopped": true, "reason": "x"})).await,
        StatusCode::FORBIDDEN,
        "the city's is not theirs"
    );
    assert_eq!(throw(&dsd, json!({"tenant": "dsd", "stopped": true})).await, StatusCode::BAD_REQUEST, "no reason");
    assert_eq!(throw(&dsd, json!({"tenant": "dsd", "stopped": true, "reason": "typhoon"})).await, StatusCode::OK);
    propose(&city, speed(1)).await.path();
    assert_eq!(status(&city, 1).await, "approved");
    assert_eq!(city.found("/api/tasking/stop").await["stops"][0]["reason"], "typhoon");
    city.tasking.throw(&Caller::system("test"), Stopped::City, true, "the whole city").await.expect("thrown");
    assert_eq!(throw(&dsd, json!({"tenant": "dsd", "stopped": false})).await, StatusCode::OK);
    assert_eq!(status(&city, 1).await, "approved", "the city's is on");
    city.tasking.throw(&Caller::system("test"), Stopped::City, false, "").await.expect("lifted");
    assert_eq!(status(&city, 1).await, "sent");
    let audit = city.catalog.records().audit(AuditQuery { limit: 100, ..AuditQuery::default() }).await.expect("audit");
    assert_eq!(audit.rows.iter().filter(|r| r.action == "task:stop").count(), 4);
    assert_eq!(audit.rows.iter().filter(|r| r.tenant == Some(tenant("dsd")) && r.action == "task:stop").count(), 2);
}

#[tokio::test]
async fn one_actuator_is_stopped_and_the_others_go_on() {
    let city = city(json!({})).await;
    let mut other = lamp("other", "OM_Measurement", 1.0, 1.0);
    other["TaskingCapabilities"] = json!([capability(json!({}))]);
    city.made("/v1.1/Things", other).await;
    let throw = async |who: &Caller, body: Value| {
        city.send(who, "PUT", "/api/tasking/stop", "application/json", body.to_string().into_bytes()).await
    };
    let dsd = person("dsd");
    let both = throw(&dsd, json!({"tenant": "dsd", "actuator": 1, "stopped": true, "reason": "x"})).await;
    assert_eq!((both.status, &both.json()["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/actuator")));
    let stop = json!({"actuator": 1, "stopped": true, "reason": "the motor is hot"});
    for (who, answer) in [
        (&person("epd"), StatusCode::NOT_FOUND),
        (&Caller::anonymous(), StatusCode::UNAUTHORIZED),
        (&dsd, StatusCode::OK),
    ] {
        assert_eq!(throw(who, stop.clone()).await.status, answer);
    }
    let missing = throw(&dsd, json!({"actuator": 99, "stopped": true, "reason": "x"})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    propose(&city, speed(1)).await.path();
    city.post("/v1.1/TaskingCapabilities(2)/Tasks", speed(2)).await.path();
    assert_eq!((status(&city, 1).await, status(&city, 2).await), (json!("approved"), json!("sent")));
    let seen = city.found("/api/tasking/stop").await;
    assert_eq!((&seen["stops"][0]["actuator"], &seen["stops"][0]["tenant"]), (&json!(1), &json!("dsd")));
    assert!(city.get_as(&person("epd"), "/api/tasking/stop").await.text.find("motor").is_none(), "not theirs");
    assert_eq!(throw(&dsd, json!({"actuator": 1, "stopped": false})).await.status, StatusCode::OK);
    assert_eq!(status(&city, 1).await, "sent");
    let lines = city.found("/api/tasking/stop").await["record"].as_array().expect("record").clone();
    let lines: Vec<&Value> = lines.iter().map(|line| &line["stopped"]).collect();
    assert_eq!(lines, [&json!(false), &json!(true)]);
}

#[tokio::test]
async fn what_is_done_is_taken_back_with_as_many_eyes() {
    let verify = json!({"Datastream": {"@iot.id": 1}, "parameter": "speed", "tolerance": 1, "seconds": 60});
    let city = city(json!({"verify": verify, "undo": {"speed": 5}, "four_eyes": true})).await;
    let approve = async |id: i64| {
        let version = city.found(&format!("/api/tasks/{id}")).await["task"]["version"].clone();
        act(&city, &colleague(), id, "approve", json!({ "version": version })).await.status
    };
    let mut body = speed(40);
    body["@lamppost.reason"] = json!("the ward is hot");
    propose(&city, body).await.path();
    assert_eq!(city.found("/api/tasks/1").await["history"][0]["remark"], "the ward is hot");
    assert_eq!(act(&city, &person("dsd"), 1, "roll-back", json!({})).await.status, StatusCode::CONFLICT);
    assert_eq!(approve(1).await, StatusCode::OK);
    says(&city, &device("gauge"), 1, "acknowledged").await;
    city.clock.advance_micros(1_000_000);
    observe(&city, 40.0).await;
    assert_eq!(status(&city, 1).await, "completed");
    assert_eq!(act(&city, &device("gauge"), 1, "roll-back", json!({})).await.status, StatusCode::FORBIDDEN);
    let back = act(&city, &colleague(), 1, "roll-back", json!({"comment": "too cold"})).await;
    assert_eq!((back.status, &back.json()["status"]), (StatusCode::OK, &json!("completed")), "{}", back.text);
    assert_eq!(status(&city, 2).await, "validated", "it waits for a second person as the first did");
    let own = city.found("/api/tasks/2").await["task"]["version"].clone();
    assert_eq!(act(&city, &colleague(), 2, "approve", json!({ "version": own })).await.status, StatusCode::FORBIDDEN);
    let version = city.found("/api/tasks/2").await["task"]["version"].clone();
    let first = person("dsd");
    assert_eq!(act(&city, &first, 2, "reject", json!({ "version": version })).await.status, StatusCode::OK);
    assert_eq!(history(&city, 1).await.last().map(String::as_str), Some("not_rolled_back"));
    assert_eq!(act(&city, &first, 1, "roll-back", json!({})).await.status, StatusCode::OK);
    assert_eq!(approve(3).await, StatusCode::OK);
    says(&city, &device("gauge"), 3, "acknowledged").await;
    city.clock.advance_micros(1_000_000);
    observe(&city, 5.0).await;
    assert_eq!((status(&city, 1).await, status(&city, 3).await), (json!("rolled_back"), json!("completed")));
    // What something else was done after is not taken back any more.
    for id in [4, 5] {
        propose(&city, speed(20 + id)).await.path();
        assert_eq!(approve(id).await, StatusCode::OK);
        says(&city, &device("gauge"), id, "acknowledged").await;
        city.clock.advance_micros(1_000_000);
        observe(&city, 20.0 + id as f64).await;
        assert_eq!(status(&city, id).await, "completed");
    }
    assert_eq!(act(&city, &first, 4, "roll-back", json!({})).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_device_is_told_how_long_it_may_hold() {
    let city = city(json!({"hold": {"seconds": 20, "fallback": {"speed": 5}}})).await;
    propose(&city, speed(80)).await.path();
    let task = city.found("/v1.1/Tasks(1)").await;
    assert_eq!(task["@lamppost.heldUntil"], "2026-11-22T09:00:20Z");
    assert_eq!(task["@lamppost.due"], "2026-11-22T09:00:30Z");
    assert_eq!(task["@lamppost.fallback"], json!({"speed": 5}));
    says(&city, &device("gauge"), 1, "acknowledged").await;
    later(&city, 15).await;
    act(&city, &person("dsd"), 1, "renew", json!({})).await;
    assert_eq!(city.found("/v1.1/Tasks(1)").await["@lamppost.heldUntil"], "2026-11-22T09:00:35Z");
    let ignored = json!({"taskingParameters": {"speed": 3}, "@lamppost.heldUntil": "2030-01-01T00:00:00Z"});
    city.post("/v1.1/TaskingCapabilities(1)/Tasks", ignored).await.path();
    assert_eq!(city.found("/v1.1/Tasks(2)").await["@lamppost.heldUntil"], json!(null), "the service alone writes it");
}

#[tokio::test]
async fn a_device_proposes_for_its_own_thing_and_no_more_than_so_many_wait() {
    let city = city(json!({"four_eyes": true})).await;
    let path = "/v1.1/TaskingCapabilities(1)/Tasks";
    let body = speed(1).to_string().into_bytes();
    let own = city.send(&device("gauge"), "POST", path, "application/json", body.clone()).await;
    assert_eq!(own.status, StatusCode::CREATED, "{}", own.text);
    let other = city.send(&device("other"), "POST", path, "application/json", body).await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    propose(&city, speed(2)).await.path();
    let theirs = act(&city, &device("gauge"), 2, "cancel", json!({})).await;
    assert_eq!(theirs.status, StatusCode::FORBIDDEN, "a person has proposed it");
    assert_eq!(act(&city, &device("gauge"), 1, "cancel", json!({})).await.status, StatusCode::OK);
    for _ in 0..99 {
        propose(&city, speed(3)).await.path();
    }
    let refused = propose(&city, speed(4)).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text);
}

#[tokio::test]
async fn the_desk_shows_who_has_what() {
    let verify = json!({"Datastream": {"@iot.id": 1}, "parameter": "speed", "seconds": 60});
    let city = city(json!({"verify": verify})).await;
    propose(&city, speed(1)).await.path();
    let (lines, next) = city.tasking.desk(&person("dsd"), Asked::default()).await.expect("a desk");
    let line = &lines[0];
    assert_eq!((lines.len(), next, line.watched), (1, None, Some(EntityId(1))));
    assert_eq!(line.holder.map(|(id, status)| (id.0, status.name())), Some((1, "sent")));
    let nowhere = Asked { district: "Nowhere".to_owned(), ..Asked::default() };
    assert!(city.tasking.desk(&person("dsd"), nowhere).await.expect("a desk").0.is_empty());
    let (others, _) = city.tasking.desk(&person("epd"), Asked::default()).await.expect("a desk");
    assert!(others.is_empty(), "another department's");
    let asked = Asked { tenant: Some(tenant("dsd")), ..Asked::default() };
    assert!(city.tasking.desk(&person("epd"), asked).await.is_err());
    assert!(city.tasking.desk(&Caller::anonymous(), Asked::default()).await.is_err());
    assert!(city.tasking.line(&person("epd"), EntityId(1)).await.is_err());
}

/// What waits for a time waits in the database: another start of the program does it.
#[tokio::test]
async fn what_waits_survives_the_program() {
    let city = city(json!({"undo": {"speed": 0}})).await;
    propose(&city, speed(1)).await.path();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    city.clock.advance_micros(31_000_000);
    // A worker that knows nothing of what happened before it.
    let again =
        crate::tasking::Tasking::new(city.catalog.clone(), city.memory.clone(), std::sync::Arc::new(|_, _, _| false));
    let worker = tokio::spawn(async move { again.run(async { drop(stopped.await) }).await });
    let mut changes = 0..2_000;
    while status(&city, 1).await != "failed" {
        changes.next().expect("the job is done");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).expect("running");
    worker.await.expect("joined").expect("run");
    assert_eq!(status(&city, 2).await, "sent");
}
