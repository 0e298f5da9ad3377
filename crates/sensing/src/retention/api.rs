//! `/api/retention`: what is kept of Observations, what would go, and who has said that it shall.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kernel::{Id, Tenant};
use serde::Deserialize;
use serde_json::json;

use super::{Retention, Run};
use crate::{
    Audience, Error, Route,
    door::{Who, fresh, json_body, parse_id, signed_in},
    model::EntityId,
    route::action::{DELETE, READ},
};

const BODY_BYTES: usize = 16 << 10;

pub const ROUTES: &[Route] = &[
    read("/api/retention", "What is kept of Observations by declaration, what waits for an officer, and holds."),
    read("/api/retention/{key}", "One declaration, with its newest runs."),
    read("/api/retention/runs/{id}", "What would go by a declaration, or went."),
    write("/api/retention/{key}/preview", "Ask what a declaration would delete or sum up; nothing is changed."),
    write("/api/retention/{key}/confirm", "Say that what a preview has shown shall go from now on."),
    write("/api/retention/holds", "Keep everything of a department, a Thing or a Datastream until the hold is lifted."),
    write("/api/retention/holds/{id}/lift", "Lift a hold."),
];

const fn read(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: READ, audience: Audience::SignedIn, audit: false, summary }
}
const fn write(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: DELETE, audience: Audience::SignedIn, audit: true, summary }
}

pub fn router(retention: Retention) -> Router {
    Router::new()
        .route("/api/retention", get(list))
        .route("/api/retention/{key}", get(one))
        .route("/api/retention/runs/{id}", get(run))
        .route("/api/retention/{key}/preview", post(preview))
        .route("/api/retention/{key}/confirm", post(confirm))
        .route("/api/retention/holds", post(hold))
        .route("/api/retention/holds/{id}/lift", post(lift))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(retention)
}

async fn list(State(retention): State<Retention>, who: Who) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let (declarations, holds) = (retention.list(&caller).await?, retention.holds(&caller).await?);
    Ok(fresh(Json(json!({ "retention": declarations, "holds": holds }))))
}

async fn one(State(retention): State<Retention>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    Ok(fresh(Json(retention.get(&signed_in(who)?, &key).await?)))
}

async fn run(State(retention): State<Retention>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let run = retention.run(&signed_in(who)?, parse_id(&id)?).await?;
    Ok(fresh(Json(run)))
}

async fn preview(State(retention): State<Retention>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    let run = retention.preview(&signed_in(who)?, &key).await?;
    let mut response = fresh((StatusCode::ACCEPTED, Json(&run)).into_response());
    if let Ok(location) = HeaderValue::from_str(&format!("/api/retention/runs/{}", run.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    preview: String,
}

async fn confirm(
    State(retention): State<Retention>,
    who: Who,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    // Who may not know of it learns nothing from what is wrong with the body.
    retention.get(&caller, &key).await?;
    let Confirmed { preview } = json_body(&body)?;
    let preview: Id<Run> =
        preview.parse().map_err(|_| Error::field("/preview", "the id of a preview of this declaration is expected"))?;
    Ok(fresh(Json(retention.confirm(&caller, &key, preview).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    tenant: Option<Tenant>,
    thing: Option<EntityId>,
    datastream: Option<EntityId>,
    #[serde(default)]
    reason: String,
}

async fn hold(State(retention): State<Retention>, who: Who, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let Wish { tenant, thing, datastream, reason } = json_body(&body)?;
    let tenant = tenant.or_else(|| caller.tenant.clone());
    let tenant =
        tenant.ok_or_else(|| Error::field("/tenant", "the department whose data are to be kept is expected"))?;
    let tenant = Tenant::parse(tenant.as_str()).map_err(|e| Error::field("/tenant", e))?;
    let hold = retention.hold(&caller, &tenant, thing, datastream, &reason).await?;
    Ok(fresh((StatusCode::CREATED, Json(hold))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifted {
    #[serde(default)]
    reason: String,
}

async fn lift(
    State(retention): State<Retention>,
    who: Who,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let id = parse_id(&id)?;
    let Lifted { reason } = json_body(&body)?;
    Ok(fresh(Json(retention.lift(&caller, id, &reason).await?)))
}
