//! What a device asks for itself: its first key for the code on its plate, its next key, what it is to do, and to whom it says how it is.

use std::{net::IpAddr, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use kernel::{Caller, Id, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Device, Devices, Report,
    api::{body, key, shown, signed_in},
    campaign::{Word, device_of},
};
use crate::{
    Error,
    route::{Audience, Route, action},
};

/// Where a request came from, proxies looked through: what the program puts into it.
#[derive(Clone, Copy, Debug)]
pub struct From(pub IpAddr);

/// Seconds that a device's other keys stay good when it changes its key by itself: unless said, at least, at most. Not none: the answer may be lost, and
/// a device that has no good key any more needs a visit.
const GRACE: (u32, u32, u32) = (86_400, 600, 7 * 86_400);

const fn own(method: &'static str, path: &'static str, audit: bool, summary: &'static str) -> Route {
    Route { method, path, action: action::OBSERVE, audience: Audience::DeviceKey, audit, summary }
}

pub const ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: "/api/devices/claim",
        action: action::OBSERVE,
        audience: Audience::Public,
        audit: true,
        summary: "A device's first key for its claim code, once",
    },
    own("GET", "/api/devices/self", false, "The device's own entry in the register"),
    own("POST", "/api/devices/self/rotate", true, "The device's next key; the others end after a while"),
    own("POST", "/api/devices/self/health", false, "The device says how it is"),
    own("GET", "/api/devices/self/command", false, "What the device is to do; 204 for nothing"),
    own("POST", "/api/devices/self/command", false, "The device says what has become of its command"),
    own("GET", "/api/devices/self/firmware/{sha256}", false, "The firmware that it was told to fetch, also in ranges"),
];

pub fn router(devices: Devices) -> Router {
    Router::new()
        .route("/api/devices/claim", post(claim))
        .route("/api/devices/self", get(look))
        .route("/api/devices/self/rotate", post(rotate))
        .route("/api/devices/self/health", post(health))
        .route("/api/devices/self/command", get(command).post(word))
        .route("/api/devices/self/firmware/{sha256}", get(firmware))
        .layer(DefaultBodyLimit::max(16 << 10))
        .with_state(devices)
}

/// The device that the caller is.
fn itself(caller: &Caller) -> Result<Id<Device>, Error> {
    signed_in(caller)?;
    device_of(caller).ok_or_else(|| Problem::forbidden("Only a device asks this, with its own key.").into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claiming {
    claim_code: String,
}

async fn claim(State(devices): State<Devices>, from: Option<Extension<From>>, bytes: Bytes) -> Result<Response, Error> {
    let wanted: Claiming = body(&bytes)?;
    let (device, made) = devices.collect(&wanted.claim_code, from.map(|Extension(From(address))| address)).await?;
    let mut response = key(&made);
    let told = json!({"key": made.secret, "prefix": made.prefix, "id": device.id, "device": device.key});
    *response.body_mut() = axum::body::Body::from(told.to_string());
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    Ok(response)
}

async fn look(State(devices): State<Devices>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Error> {
    let device = devices.find(itself(&caller)?).await?;
    Ok(Json(shown(&devices, &device)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    grace_seconds: Option<u32>,
}

async fn rotate(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Response, Error> {
    let id = itself(&caller)?;
    let wanted: Rotate = body(&bytes)?;
    let (usual, least, most) = GRACE;
    let seconds = wanted.grace_seconds.unwrap_or(usual);
    if !(least..=most).contains(&seconds) {
        return Err(Error::field("/grace_seconds", format!("{least} to {most} are expected")));
    }
    Ok(key(&devices.rotate_own(&caller, id, Duration::from_secs(seconds.into())).await?))
}

async fn health(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<StatusCode, Error> {
    itself(&caller)?;
    devices.report(&caller, &bytes)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn command(State(devices): State<Devices>, Extension(caller): Extension<Caller>) -> Result<Response, Error> {
    let id = itself(&caller)?;
    devices.heard_of(&caller);
    Ok(match devices.command_for(id).await? {
        Some(command) => Json(command).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn word(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<StatusCode, Error> {
    let id = itself(&caller)?;
    devices.heard_of(&caller);
    devices.heard(id, &body::<Word>(&bytes)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn firmware(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let id = itself(&caller)?;
    let tenant = caller.tenant.clone().ok_or_else(|| Error::not_found("The image"))?;
    devices.fetch(id, &tenant, &sha256, &headers).await
}

impl Devices {
    /// A device's next key, which it asks for with one that is good: the others stay good for `grace`, and are then cut.
    ///
    /// # Errors
    /// 403 for who is no device; 409 when it has too many keys.
    pub async fn rotate_own(&self, caller: &Caller, id: Id<Device>, grace: Duration) -> Result<super::NewKey, Error> {
        if device_of(caller) != Some(id) {
            return Err(Problem::forbidden("Only the device itself asks this.").into());
        }
        let device = self.find(id).await?;
        let micros = i64::try_from(grace.as_micros()).unwrap_or(i64::MAX);
        self.key_for(caller, device, None, Some(self.now().plus_micros(micros))).await
    }

    /// What a device says of its health, as it was sent.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn report(&self, caller: &Caller, bytes: &[u8]) -> Result<(), Error> {
        let report: Report = body(bytes)?;
        report.check()?;
        if let Some(id) = device_of(caller) {
            self.inner.live.said(&id.to_string(), self.now(), &report);
        }
        Ok(())
    }

    /// What a device says by MQTT of itself: `health` or `command`.
    ///
    /// # Errors
    /// 400 for what is not expected there, 404 and 409 as over HTTP.
    pub async fn said(&self, caller: &Caller, what: &str, bytes: &[u8]) -> Result<(), Error> {
        let id = itself(caller)?;
        match what {
            "health" => self.report(caller, bytes),
            "command" => {
                self.heard_of(caller);
                self.heard(id, &body::<Word>(bytes)?).await
            }
            _ => Err(Error::not_found("This topic")),
        }
    }

    /// A device asked for something: it is alive.
    fn heard_of(&self, caller: &Caller) {
        if let Some(id) = device_of(caller) {
            self.inner.live.said(&id.to_string(), self.now(), &Report::default());
        }
    }
}
