//! `/api/campaigns` and `/api/firmware`.

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use kernel::{Caller, Id, Tenant};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        Device, Devices,
        api::{body, signed_in},
    },
    Proposal, firmware,
    model::{Campaign, Deed, Stage, Wave},
};
use crate::{
    Audience, Error, Route,
    route::action::{DEVICE_MANAGE, DEVICE_READ},
};

const fn route(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    let read = matches!(method.as_bytes(), b"GET");
    let action = if read { DEVICE_READ } else { DEVICE_MANAGE };
    Route { method, path, action, audience: Audience::SignedIn, audit: !read, summary }
}

pub const ROUTES: &[Route] = &[
    route("GET", "/api/campaigns", "Campaigns of a department, newest first"),
    route("POST", "/api/campaigns", "Propose a campaign of firmware or configuration in waves"),
    route("GET", "/api/campaigns/{id}", "A campaign and the numbers of its waves"),
    route("GET", "/api/campaigns/{id}/devices", "Devices of a campaign in one stage"),
    route(
        "POST",
        "/api/campaigns/{id}/{deed}",
        "Approve, reject, pause, resume or abort a campaign (task:approve for the first two)",
    ),
    route("GET", "/api/firmware", "Images of firmware that a department keeps"),
    route("POST", "/api/firmware", "Keep an image of firmware"),
    route("DELETE", "/api/firmware/{sha256}", "Remove an image that no campaign needs"),
];

pub fn router(devices: Devices) -> Router {
    let images = Router::new()
        .route("/api/firmware", get(images).post(upload))
        .layer(DefaultBodyLimit::max(firmware::MOST))
        .with_state(devices.clone());
    Router::new()
        .route("/api/campaigns", get(list).post(propose))
        .route("/api/campaigns/{id}", get(one))
        .route("/api/campaigns/{id}/devices", get(members))
        .route("/api/campaigns/{id}/{deed}", post(act))
        .route("/api/firmware/{sha256}", delete(remove))
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(devices)
        .merge(images)
}

fn id(text: &str) -> Result<Id<Campaign>, Error> {
    text.parse().map_err(|_| Error::not_found("The campaign"))
}

fn shown((campaign, waves): &(Campaign, Vec<Wave>)) -> Value {
    json!({"campaign": campaign, "waves": waves})
}

#[derive(Deserialize)]
struct Of {
    tenant: Option<String>,
    before: Option<String>,
}

impl Of {
    fn tenant(&self, caller: &Caller) -> Result<Tenant, Error> {
        match &self.tenant {
            Some(slug) => Tenant::parse(slug).map_err(|e| Error::field("tenant", e)),
            None => caller.tenant.clone().ok_or_else(|| Error::field("tenant", "name a department")),
        }
    }
}

async fn list(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Of>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let before = query.before.as_deref().map(id).transpose()?;
    let found = devices.campaigns(&caller, &query.tenant(&caller)?, before).await?;
    let next = if found.len() == super::PAGE { found.last().map(|c| c.id) } else { None };
    Ok(Json(json!({"campaigns": found, "before": next})))
}

async fn propose(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let made = devices.propose(&caller, body::<Proposal>(&bytes)?).await?;
    let location = format!("/api/campaigns/{}", made.0.id);
    let mut response = (StatusCode::CREATED, Json(shown(&made))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn one(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    Ok(Json(shown(&devices.campaign(&caller, id(&text)?).await?)))
}

#[derive(Deserialize)]
struct Members {
    stage: Option<String>,
    after: Option<String>,
}

async fn members(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    Query(query): Query<Members>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let stage = query.stage.as_deref().unwrap_or("failed");
    let stage = Stage::from_name(stage).ok_or_else(|| {
        Error::field("stage", format!("one of {} is expected", Stage::ALL.map(Stage::name).join(", ")))
    })?;
    let after = match &query.after {
        Some(text) => Some(text.parse::<Id<Device>>().map_err(|e| Error::field("after", e))?),
        None => None,
    };
    let found = devices.members(&caller, id(&text)?, stage, after).await?;
    let next = if found.len() == super::PAGE { found.last().map(|m| m.device) } else { None };
    Ok(Json(json!({"devices": found, "after": next})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    revision: Option<u32>,
    #[serde(default)]
    comment: String,
}

async fn act(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path((text, deed)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    let deed = Deed::from_name(&deed).ok_or_else(|| Error::not_found("This address"))?;
    let wanted: Act = body(&bytes)?;
    let done = devices.decide(&caller, id(&text)?, deed, wanted.revision, &wanted.comment).await?;
    Ok(Json(shown(&done)))
}

async fn images(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Of>,
) -> Result<Json<Value>, Error> {
    signed_in(&caller)?;
    Ok(Json(json!({"firmware": devices.images(&caller, &query.tenant(&caller)?).await?})))
}

#[derive(Deserialize)]
struct Upload {
    tenant: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    sha256: Option<String>,
}

async fn upload(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Upload>, QueryRejection>,
    bytes: Bytes,
) -> Result<Response, Error> {
    signed_in(&caller)?;
    let Query(query) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let tenant = Tenant::parse(&query.tenant).map_err(|e| Error::field("tenant", e))?;
    let named = (query.name.as_str(), query.version.as_str());
    let kept = devices.upload(&caller, &tenant, named, bytes, query.sha256.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(json!(kept))).into_response())
}

async fn remove(
    State(devices): State<Devices>,
    Extension(caller): Extension<Caller>,
    Path(sha256): Path<String>,
    Query(query): Query<Of>,
) -> Result<StatusCode, Error> {
    signed_in(&caller)?;
    devices.remove_image(&caller, &query.tenant(&caller)?, &sha256.to_lowercase()).await?;
    Ok(StatusCode::NO_CONTENT)
}
