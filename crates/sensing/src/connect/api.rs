//! `/api/connectors`: how the feeds are doing, and running one at once.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde_json::json;

use super::Connect;
use crate::{
    Audience, Error, Route,
    door::{Who, fresh, signed_in},
    route::action::{CONNECTOR_MANAGE, CONNECTOR_READ},
};

pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/connectors",
        action: CONNECTOR_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "The feeds that are polled, and how their last runs went.",
    },
    Route {
        method: "GET",
        path: "/api/connectors/{key}",
        action: CONNECTOR_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "One feed, with the account of its last run.",
    },
    Route {
        method: "POST",
        path: "/api/connectors/{key}/run",
        action: CONNECTOR_MANAGE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Poll a feed now and read it completely.",
    },
];

pub fn router(connect: Connect) -> Router {
    Router::new()
        .route("/api/connectors", get(list))
        .route("/api/connectors/{key}", get(one))
        .route("/api/connectors/{key}/run", post(run))
        .with_state(connect)
}

async fn list(State(connect): State<Connect>, who: Who) -> Result<Response, Error> {
    let connectors = connect.connectors(&signed_in(who)?).await?;
    Ok(fresh(Json(json!({ "value": connectors }))))
}

async fn one(State(connect): State<Connect>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    Ok(fresh(Json(connect.connector(&signed_in(who)?, &key).await?)))
}

async fn run(State(connect): State<Connect>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    let view = connect.run_now(&signed_in(who)?, &key).await?;
    Ok(fresh((StatusCode::ACCEPTED, Json(view))))
}
