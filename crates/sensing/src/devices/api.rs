//! `/api/devices`: the register as JSON.

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderValue, StatusCode, header};
use kernel::{Caller, Id, Problem, Tenant, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Change, Condition, Device, Devices, NewDevice, NewKey};
use crate::{
    Error,
    door::fresh,
    route::{Audience, Route, action},
};

pub const ROUTES: &[Route] = &[
    read("GET", "/api/devices", "Devices of a department, 200 to a page, also by condition"),
    write("POST", "/api/devices", "Register a device"),
    read("GET", "/api/devices/{id}", "A device and its health"),
    write("PATCH", "/api/devices/{id}", "Change a device"),
    write("DELETE", "/api/devices/{id}", "Remove a device and its keys"),
    write("POST", "/api/devices/{id}/keys", "Issue a further key, shown once"),
    write("DELETE", "/api/devices/{id}/keys/{prefix}", "Revoke a key"),
    write("POST", "/api/devices/{id}/rotate", "Issue a new key and let the others end"),
];

const fn read(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    Route { method, path, action: action::DEVICE_READ, audience: Audience::SignedIn, audit: false, summary }
}
const fn write(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    Route { method, path, action: action::DEVICE_MANAGE, audience: Audience::SignedIn, audit: true, summary }
}

pub fn router(devices: Devices) -> Router {
    Router::new()
        .route("/api/devices", get(list).post(register))
        .route("/api/devices/{id}", get(show).patch(change).delete(remove))
        .route("/api/devices/{id}/keys", post(issue))
        .route("/api/devices/{id}/keys/{prefix}", delete(revoke))
        .route("/api/devices/{id}/rotate", post(rotate))
        .layer(axum::extract::DefaultBodyLimit::max(256 << 10))
        .with_state(devices)
}

pub(super) fn signed_in(caller: &Caller) -> Result<(), Error> {
    if caller.is_anonymous() { Err(Problem::unauthenticated().into()) } else { Ok(()) }
}

pub(super) fn shown(devices: &Devices, device: &Device) -> Value {
    let mut out = serde_json::to_value(device).unwrap_or_default();
    out["health"] = json!(devices.health(device));
    out
}

/// A body that is not what is asked for is a problem like any other.
pub(super) fn body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(if bytes.is_empty() { b"{}" } else { bytes }).map_err(|e| Error::bad_request(e.to_string()))
}

pub(super) fn id(text: &str) -> Result<Id<Device>, Error> {
    // An id that cannot be is one that is not there: nothing is told about the form of ids.
    text.parse().map_err(|_| Error::not_found("The device"))
}

/// What a list is asked for.
#[derive(Deserialize)]
pub(super) struct Listing {
    tenant: Option<String>,
    after: Option<String>,
    /// `low-battery`, `unseen` or `wrong-clock`.
    condition: Option<String>,
    /// Percent for the first, seconds for the others.
    than: Option<i64>,
}

impl Listing {
    pub(super) fn tenant(&self, caller: &Caller) -> Result<Tenant, Error> {
        match &self.tenant {
            Some(slug) => Tenant::parse(slug).map_err(|e| Error::field("tenant", e)),
            None => caller.tenant.clone().ok_or_else(|| Error::field("tenant", "name a department")),
        }
    }
    pub(super) fn condition(&self, devices: &Devices) -> Result<Option<Condition>, Error> {
        let Some(name) = self.condition.as_deref().filter(|name| !name.is_empty()) else { return Ok(None) };
        let condition = Condition::of(name, self.than, devices.now());
        let known = || Error::field("condition", format!("one of {} is expected", Condition::NAMES.join(", ")));
        condition.map(Some).ok_or_else(known)
    }
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }
}

/// `19:wl-dsd-021`: a place in a list that a condition orders.
pub(super) fn place_of(text: &str) -> Option<(i64, String)> {
    let (number, key) = text.split_once(':')?;
    Some((number.parse().ok()?, key.to_owned()))
}

async fn list(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Listing>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let (tenant, condition) = (query.tenant(&caller)?, query.condition(&devices)?);
    let found = match condition {
        None => devices.list(&caller, &tenant, query.after()).await?,
        Some(condition) => {
            let after = match query.after() {
                Some(text) => Some(place_of(text).ok_or_else(|| Error::field("after", "what the page before said"))?),
                None => None,
            };
            devices.in_condition(&caller, &tenant, condition, after).await?
        }
    };
    let place = |d: &Device| match condition {
        None => d.key.clone(),
        Some(condition) => {
            let (number, key) = condition.place(d);
            format!("{number}:{key}")
        }
    };
    let next = if found.len() == super::PAGE { found.last().map(place) } else { None };
    let shown: Vec<Value> = found.iter().map(|d| shown(&devices, d)).collect();
    Ok(Json(json!({"devices": shown, "after": next})))
}

async fn register(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: bytes::Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let device = devices.register(&caller, body::<NewDevice>(&bytes)?).await?;
    let location = format!("/api/devices/{}", device.id);
    let mut response = (StatusCode::CREATED, Json(shown(&devices, &device))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn show(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let device = devices.get(&caller, id(&text)?).await?;
    Ok(Json(shown(&devices, &device)))
}

async fn change(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let device = devices.update(&caller, id(&text)?, body::<Change>(&bytes)?).await?;
    Ok(Json(shown(&devices, &device)))
}

async fn remove(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<StatusCode, Error> {
    signed_in(&caller)?;
    devices.delete(&caller, id(&text)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Issue {
    expires_at: Option<Timestamp>,
}

async fn issue(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let wanted: Issue = body(&bytes)?;
    Ok(key(&devices.issue_key(&caller, id(&text)?, wanted.expires_at).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// How long the other keys stay good; a day unless said, at most 90 days.
    grace_seconds: Option<u32>,
}

async fn rotate(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let wanted: Rotate = body(&bytes)?;
    let seconds = wanted.grace_seconds.unwrap_or(86_400);
    if seconds > 90 * 86_400 {
        return Err(Error::field("/grace_seconds", "at most 7776000 (90 days)"));
    }
    Ok(key(&devices.rotate_key(&caller, id(&text)?, std::time::Duration::from_secs(seconds.into())).await?))
}

/// The one answer that holds a key: nothing on the way may keep it.
pub(super) fn key(key: &NewKey) -> Response {
    fresh((StatusCode::CREATED, Json(json!({"key": key.secret, "prefix": key.prefix}))))
}

async fn revoke(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path((text, prefix)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    signed_in(&caller)?;
    devices.revoke_key(&caller, id(&text)?, &prefix).await?;
    Ok(StatusCode::NO_CONTENT)
}
