//! `/api/derived`: what is computed from what. `/api/datastreams/{id}/…`: where results come from, calibrations, corrections.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use kernel::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{Derived, correct::NewCalibration, correct::NewCorrection, model::Declaration};
use crate::{
    Audience, Error, Route,
    door::{Who, caller, fresh, json_body, keyed_body, signed_in},
    model::{EntityId, ObservationId},
    route::action::{OBSERVE, READ, WRITE},
};

/// Bytes of a declaration or of a calibration with its table.
const BODY_BYTES: usize = 256 << 10;

const fn route(
    method: &'static str,
    path: &'static str,
    action: kernel::Action,
    audience: Audience,
    audit: bool,
    summary: &'static str,
) -> Route {
    Route { method, path, action, audience, audit, summary }
}

pub const ROUTES: &[Route] = &[
    route(
        "GET",
        "/api/derived",
        READ,
        Audience::SignedIn,
        false,
        "What is computed from other Datastreams, with progress.",
    ),
    route(
        "GET",
        "/api/derived/{key}",
        READ,
        Audience::SignedIn,
        false,
        "One declaration: outputs, inputs, versions, progress.",
    ),
    route(
        "PUT",
        "/api/derived/{key}",
        WRITE,
        Audience::SignedIn,
        true,
        "Declare a derived Datastream, or another version of it.",
    ),
    route("DELETE", "/api/derived/{key}", WRITE, Audience::SignedIn, true, "Stop computing; what was computed stays."),
    route(
        "POST",
        "/api/derived/{key}/{deed}",
        WRITE,
        Audience::SignedIn,
        true,
        "Pause or resume history, or recalculate a span.",
    ),
    route(
        "GET",
        "/api/datastreams/{id}/provenance",
        READ,
        Audience::Public,
        false,
        "Where the results of a Datastream come from: measured, computed from what by which version, corrected.",
    ),
    route(
        "GET",
        "/api/datastreams/{id}/calibrations",
        READ,
        Audience::Public,
        false,
        "The calibrations of a Datastream.",
    ),
    route(
        "POST",
        "/api/datastreams/{id}/calibrations",
        WRITE,
        Audience::SignedIn,
        true,
        "Enter a calibration; the raw results stay, corrected ones stand beside them.",
    ),
    route(
        "POST",
        "/api/datastreams/{id}/calibrations/{calibration}/withdraw",
        WRITE,
        Audience::SignedIn,
        true,
        "Take a calibration back.",
    ),
    route(
        "GET",
        "/api/observations/{id}/history",
        READ,
        Audience::Public,
        false,
        "What was measured, and what was said about it.",
    ),
    route(
        "POST",
        "/api/observations/{id}/correction",
        OBSERVE,
        Audience::SignedIn,
        true,
        "Correct or flag one Observation, with a reason.",
    ),
];

pub fn router(derived: Derived) -> Router {
    Router::new()
        .route("/api/derived", get(list))
        .route("/api/derived/{key}", get(one).put(declare).delete(remove))
        .route("/api/derived/{key}/{deed}", post(act))
        .route("/api/datastreams/{id}/provenance", get(provenance))
        .route("/api/datastreams/{id}/calibrations", get(calibrations).post(calibrate))
        .route("/api/datastreams/{id}/calibrations/{calibration}/withdraw", post(withdraw))
        .route("/api/observations/{id}/history", get(history))
        .route("/api/observations/{id}/correction", post(correct))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(derived)
}

async fn list(State(derived): State<Derived>, who: Who) -> Result<Response, Error> {
    let all = derived.list(&signed_in(who)?).await?;
    Ok(fresh(Json(json!({ "derived": all }))))
}

async fn one(State(derived): State<Derived>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    Ok(fresh(Json(derived.get(&signed_in(who)?, &key).await?)))
}

async fn declare(
    State(derived): State<Derived>,
    who: Who,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let declaration: Declaration = keyed_body(&body, &key, "declaration")?;
    Ok(fresh(Json(derived.declare(&caller, declaration).await?)))
}

async fn remove(State(derived): State<Derived>, who: Who, Path(key): Path<String>) -> Result<StatusCode, Error> {
    derived.remove(&signed_in(who)?, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

async fn act(
    State(derived): State<Derived>,
    who: Who,
    Path((key, deed)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let span: Span = if body.is_empty() { Span::default() } else { json_body(&body)? };
    let detail = match deed.as_str() {
        "pause" => derived.pause(&caller, &key, true).await?,
        "resume" => derived.pause(&caller, &key, false).await?,
        "recalculate" => {
            let (from, to) = (span.from.unwrap_or(Timestamp::MIN), span.to.unwrap_or(Timestamp::MAX));
            derived.recalculate(&caller, &key, from, to).await?
        }
        _ => return Err(Error::not_found("What you want to do to the declaration")),
    };
    Ok(fresh(Json(detail)))
}

fn datastream(text: &str) -> Result<EntityId, Error> {
    // Not 400: an id that cannot exist does not exist.
    let id = text.parse().ok().filter(|id: &i64| *id > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    id.map(EntityId)
        .ok_or_else(|| Error::not_found(format!("The Datastream {}", text.chars().take(20).collect::<String>())))
}

fn observation(text: &str) -> Result<ObservationId, Error> {
    text.parse().map_err(|_| Error::not_found(format!("The Observation {}", text.chars().take(80).collect::<String>())))
}

async fn provenance(State(derived): State<Derived>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    Ok(fresh(Json(derived.provenance(&caller(who), datastream(&id)?).await?)))
}

async fn calibrations(State(derived): State<Derived>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let all = derived.calibrations(&caller(who), datastream(&id)?).await?;
    Ok(fresh(Json(json!({ "calibrations": all }))))
}

async fn calibrate(
    State(derived): State<Derived>,
    who: Who,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Response), Error> {
    let caller = signed_in(who)?;
    let new: NewCalibration = json_body(&body)?;
    let found = derived.calibrate(&caller, datastream(&id)?, new).await?;
    Ok((StatusCode::CREATED, fresh(Json(found))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Because {
    reason: String,
}

async fn withdraw(
    State(derived): State<Derived>,
    who: Who,
    Path((id, calibration)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let caller = signed_in(who)?;
    let because: Because = json_body(&body)?;
    let missing = || Error::not_found(format!("The calibration {}", calibration.chars().take(20).collect::<String>()));
    let number = calibration.parse().map_err(|_| missing())?;
    derived.withdraw(&caller, datastream(&id)?, number, &because.reason).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn history(State(derived): State<Derived>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    Ok(fresh(Json(derived.history(&caller(who), observation(&id)?).await?)))
}

async fn correct(
    State(derived): State<Derived>,
    who: Who,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Response), Error> {
    let caller = signed_in(who)?;
    let new: NewCorrection = json_body(&body)?;
    let found = derived.correct(&caller, observation(&id)?, new).await?;
    Ok((StatusCode::CREATED, fresh(Json(found))))
}
