//! How everything is, for programs: an officer's own, and what everybody may know.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use kernel::{Caller, Problem};
use serde_json::json;

use super::{Console, parts, watch::Watch};

/// `GET /api/operations/status`: every feed and part that the caller may know of, the worst first, and when they were looked at.
pub async fn status(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    if caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    if !console.admits(&caller) {
        return Err(Problem::not_found("The status"));
    }
    let views = console.connect.connectors(&caller).await?;
    let (as_of, parts) = console.parts(&caller, &views).await?;
    let worst = parts.iter().map(|p| p.state).max().unwrap_or(parts::State::New);
    let mut response = Json(json!({ "as_of": as_of, "state": worst, "parts": parts })).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /api/status`: which public feeds are late, by system. When it was asked is in `Date`.
pub async fn public(State(console): State<Arc<Console>>) -> Result<Response, Problem> {
    let seen = console.watch.look().await?;
    let feeds = Watch::public(&seen);
    let worst = feeds.iter().map(|p| p.state).max().unwrap_or(parts::State::New);
    let feeds: Vec<_> = feeds
        .iter()
        .map(|p| {
            let name = console.systems.get(&p.key);
            json!({ "system": p.key, "name": name, "state": p.state, "late": p.n, "of": p.all, "since": p.since, "interval": p.interval, "simulated": p.simulated })
        })
        .collect();
    let mut response = Json(json!({ "state": worst, "feeds": feeds })).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=10"));
    Ok(response)
}
