//! The service's front page (18-088 section 9.2.1): what there is and what holds.

use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::{Response, SensorThings, json_response};
use crate::model::EntityType;

const REQ: &str = "http://www.opengis.net/spec/iot_sensing/1.1/req/";

/// Requirements and classes that hold as a whole; tests named after them are in `tests/`.
const CONFORMANCE: &[&str] = &[
    "datamodel",
    "resource-path/resource-path-to-entities",
    "request-data",
    "create-update-delete/create-entity",
    "create-update-delete/link-to-existing-entities",
    "create-update-delete/deep-insert",
    "create-update-delete/deep-insert-status-code",
    "create-update-delete/update-entity",
    "create-update-delete/update-entity-put",
    "create-update-delete/update-entity-jsonpatch",
    "create-update-delete/delete-entity",
    "create-update-delete/historical-location-auto-creation",
    "create-update-delete/historical-location-manual-creation",
    "multi-datastream",
    "batch-request/batch-request",
    "data-array/data-array",
];

/// What FROST has added to the standard, under the names that its clients look for.
const EXTENSIONS: &[&str] = &[
    "https://fraunhoferiosb.github.io/FROST-Server/extensions/JsonBatchRequest.html",
    "https://fraunhoferiosb.github.io/FROST-Server/extensions/GeoJSON-ResultFormat.html",
    "https://github.com/INSIDE-information-systems/SensorThingsAPI/blob/master/CSV-ResultFormat/CSV-ResultFormat.md",
];
const TASKING: &str = "http://www.opengis.net/spec/iot_tasking/1.0/req/";

/// Those of 17-079.
const TASKING_CONFORMANCE: &[&str] = &["tasking-capability", "task", "actuator", "create-tasks"];
const TASKING_MQTT: &[&str] = &["create-tasks-via-mqtt", "receive-updates-via-mqtt"];

const MQTT: &[&str] =
    &["create-observations-via-mqtt/observations-creation", "receive-updates-via-mqtt/receive-updates"];

pub async fn landing(State(state): State<SensorThings>, headers: HeaderMap) -> Response {
    let base = state.base(&headers);
    let mut conformance: Vec<String> = CONFORMANCE.iter().map(|c| format!("{REQ}{c}")).collect();
    conformance.extend(EXTENSIONS.iter().map(|&c| c.to_owned()));
    if state.tasking.is_some() {
        conformance.extend(TASKING_CONFORMANCE.iter().map(|c| format!("{TASKING}{c}")));
        if !state.settings.mqtt.is_empty() {
            conformance.extend(TASKING_MQTT.iter().map(|c| format!("{TASKING}{c}")));
        }
    }
    let mut settings = Map::new();
    let mqtt = &state.settings.mqtt;
    if !mqtt.is_empty() {
        conformance.extend(MQTT.iter().map(|c| format!("{REQ}{c}")));
    }
    settings.insert("conformance".to_owned(), json!(conformance));
    if !mqtt.is_empty() {
        for class in MQTT {
            settings.insert(format!("{REQ}{class}"), json!({ "endpoints": mqtt }));
        }
        for class in TASKING_MQTT.iter().filter(|_| state.tasking.is_some()) {
            settings.insert(format!("{TASKING}{class}"), json!({ "endpoints": mqtt }));
        }
    }
    let sets: Vec<Value> =
        EntityType::ALL.iter().map(|t| json!({"name": t.set(), "url": format!("{base}/{}", t.set())})).collect();
    let body = json!({ "value": sets, "serverSettings": settings });
    json_response(StatusCode::OK, body.to_string().into_bytes())
}
