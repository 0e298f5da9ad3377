//! What an office does with devices beyond one at a time: sheets, claims, certificates, the end of a device, and lists for a spreadsheet.

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::{Caller, Problem, Tenant, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Device, Devices,
    api::{Listing, body, id, shown, signed_in},
    bulk::{
        Keys, Outcome, Wanted,
        sheet::{self, Named},
    },
};
use crate::{
    Error,
    door::fresh,
    route::{Audience, Route, action},
    spreadsheet,
};

/// Devices of one file.
const EXPORTED: usize = 100_000;

const fn route(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    let read = matches!(method.as_bytes(), b"GET");
    let action = if read { action::DEVICE_READ } else { action::DEVICE_MANAGE };
    Route { method, path, action, audience: Audience::SignedIn, audit: !read, summary }
}

pub const ROUTES: &[Route] = &[
    route("GET", "/api/devices.csv", "Devices of a department and how they are, for a spreadsheet"),
    route("POST", "/api/devices/bulk", "Register the devices of a sheet (text/csv), all or none"),
    route("POST", "/api/devices/place", "Say by a claim code where a device stands"),
    route("GET", "/api/devices/{id}/claim", "The claim of a device, without its code"),
    route("POST", "/api/devices/{id}/claim", "A new claim code for a device, shown once"),
    route("GET", "/api/devices/{id}/certificates", "Certificates that are registered for a device"),
    route("POST", "/api/devices/{id}/certificates", "Register a certificate for a device"),
    route("DELETE", "/api/devices/{id}/certificates/{fingerprint}", "Revoke a certificate of a device"),
    route("POST", "/api/devices/{id}/decommission", "The end of a device: what it has is cut, its history stays"),
];

pub fn router(devices: Devices) -> Router {
    let sheets = Router::new()
        .route("/api/devices/bulk", post(bulk))
        .layer(DefaultBodyLimit::max(sheet::BYTES + 1))
        .with_state(devices.clone());
    Router::new()
        .route("/api/devices.csv", get(export))
        .route("/api/devices/place", post(place))
        .route("/api/devices/{id}/claim", get(claim).post(new_claim))
        .route("/api/devices/{id}/certificates", get(certificates).post(certify))
        .route("/api/devices/{id}/certificates/{fingerprint}", delete(uncertify))
        .route("/api/devices/{id}/decommission", post(decommission))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(devices)
        .merge(sheets)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk {
    tenant: String,
    /// `all` (unless said) or `partial`.
    mode: Option<String>,
    /// `refuse` (unless said) or `update`.
    existing: Option<String>,
    /// `new` (unless said), `unused`, `claim` or `none`.
    keys: Option<String>,
    #[serde(default)]
    check: bool,
}

fn one_of(field: &str, given: Option<&str>, words: [&str; 2]) -> Result<bool, Error> {
    match given.unwrap_or(words[0]) {
        word if word == words[0] => Ok(false),
        word if word == words[1] => Ok(true),
        _ => Err(Error::field(field, format!("{} or {} is expected", words[0], words[1]))),
    }
}

async fn bulk(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Bulk>, QueryRejection>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let Query(query) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let given = query.keys.as_deref().unwrap_or("new");
    let keys = Keys::of(given).ok_or_else(|| Error::field("keys", "new, unused, claim or none is expected"))?;
    let wanted = Wanted {
        tenant: Tenant::parse(&query.tenant).map_err(|e| Error::field("tenant", e))?,
        check: query.check,
        partial: one_of("mode", query.mode.as_deref(), ["all", "partial"])?,
        update: one_of("existing", query.existing.as_deref(), ["refuse", "update"])?,
        keys,
    };
    let partial = wanted.partial || wanted.check;
    let outcome = devices.register_sheet(&caller, &bytes, wanted).await?;
    if !outcome.applied && !partial {
        return Err(refused(&outcome).into());
    }
    let csv = headers.get(header::ACCEPT).is_some_and(|a| a.as_bytes().starts_with(b"text/csv"));
    let response = if csv && outcome.applied {
        file(outcome.csv(keys), "devices-keys.csv")
    } else {
        Json(outcome).into_response()
    };
    Ok(fresh(response))
}

/// 422: every row and column that is wrong.
pub(crate) fn refused(outcome: &Outcome) -> Problem {
    let detail = match outcome.mistakes_in_all {
        0 => "There is nothing to do in the sheet. Nothing was changed.".to_owned(),
        n => format!("{n} mistakes in the sheet. Nothing was changed."),
    };
    let title = "The sheet was not taken";
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "sheet", title, detail);
    outcome
        .mistakes
        .iter()
        .fold(problem, |problem, m| problem.with_field(format!("/{}/{}", m.line, m.column), m.detail.clone()))
}

/// CSV to be kept as a file.
pub(crate) fn file(text: String, name: &str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

async fn export(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Listing>,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let (tenant, condition) = (query.tenant(&caller)?, query.condition(&devices)?);
    let mut out = String::from(HEAD);
    let (mut after, mut key, mut count) = (None, String::new(), 0);
    loop {
        let found = match condition {
            Some(condition) => devices.in_condition(&caller, &tenant, condition, after.clone()).await?,
            None => devices.list(&caller, &tenant, Some(&key)).await?,
        };
        for device in &found {
            row(&mut out, &devices, device);
        }
        count += found.len();
        let Some(last) = found.last().filter(|_| found.len() == super::PAGE && count < EXPORTED) else { break };
        key.clone_from(&last.key);
        after = condition.map(|condition| condition.place(last));
    }
    Ok(fresh(file(out, &format!("devices-{tenant}.csv"))))
}

const HEAD: &str = "key,name,kind,firmware,things,gateway,in_service,seen_at,observed_at,connected,battery_percent,signal_dbm,clock_seconds,refused_at,refusal,registered_at,decommissioned_at\r\n";

fn row(out: &mut String, devices: &Devices, device: &Device) {
    let health = devices.health(device);
    let at = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    let truth = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    for text in [&device.key, &device.name, &device.kind, device.firmware.as_ref().unwrap_or(&String::new())] {
        spreadsheet::field(out, text);
        out.push(',');
    }
    let things = device.things.iter().map(ToString::to_string).collect::<Vec<_>>().join(";");
    // Positive when the device's clock is ahead, as people say it.
    let clock = health.skew_micros.map(|skew| -skew / 1_000_000);
    let plain = [
        things,
        truth(device.gateway),
        truth(device.enabled),
        at(health.seen_at),
        at(health.observed_at),
        truth(health.connected),
        number(health.battery),
        number(health.signal),
        number(clock),
        at(health.refused_at),
    ];
    out.push_str(&plain.join(","));
    out.push(',');
    spreadsheet::field(out, health.refusal.as_deref().unwrap_or_default());
    let ended = device.decommissioned.as_ref().map(|d| d.at);
    out.push_str(&format!(",{},{}\r\n", device.created_at, at(ended)));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Placing {
    claim_code: String,
    /// A Thing's id, or the key that its department gave it.
    thing: Value,
}

async fn place(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let wanted: Placing = body(&bytes)?;
    let thing = match &wanted.thing {
        Value::String(text) => Named::of(text.trim()),
        Value::Number(number) => Named::of(&number.to_string()),
        _ => return Err(Error::field("/thing", "a Thing's id or key is expected")),
    };
    let device = devices.place(&caller, &wanted.claim_code, &thing).await?;
    Ok(Json(shown(&devices, &device)))
}

async fn claim(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    Ok(Json(json!({"claim": devices.claim_of(&caller, id(&text)?).await?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClaim {
    expires_at: Option<Timestamp>,
}

async fn new_claim(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let wanted: NewClaim = body(&bytes)?;
    let code = devices.new_claim(&caller, id(&text)?, wanted.expires_at).await?;
    Ok(fresh((StatusCode::CREATED, Json(json!({"claim_code": code})))))
}

async fn certificates(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    Ok(Json(json!({"certificates": devices.certificates(&caller, id(&text)?).await?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certify {
    /// PEM, or the SHA-256 fingerprint.
    certificate: String,
}

async fn certify(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let id = id(&text)?;
    // Whether it is there is told before what is wrong with the body.
    devices.managed(&caller, id).await?;
    let wanted: Certify = body(&bytes)?;
    let registered = devices.add_certificate(&caller, id, &wanted.certificate).await?;
    Ok((StatusCode::CREATED, Json(json!(registered))).into_response())
}

async fn uncertify(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path((text, fingerprint)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    signed_in(&caller)?;
    devices.revoke_certificate(&caller, id(&text)?, &fingerprint).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decommission {
    reason: String,
}

async fn decommission(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let id = id(&text)?;
    devices.managed(&caller, id).await?;
    let wanted: Decommission = body(&bytes)?;
    let device = devices.decommission(&caller, id, &wanted.reason).await?;
    Ok(Json(shown(&devices, &device)))
}
