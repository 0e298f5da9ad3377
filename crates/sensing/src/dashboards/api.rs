//! `/api/dashboards`: what they are, what they show, and making one.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::tz::TimeZone;
use kernel::Language;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Dashboards, model::Declaration, store::Dashboard};
use crate::{
    Audience, Error, Route,
    door::{Who, caller, fresh, json_body, signed_in},
    route::action::{DASHBOARD_MANAGE, READ},
};

/// Bytes of one dashboard.
const MAX_BODY: usize = 128 << 10;

pub const ROUTES: &[Route] = &[
    read("/api/dashboards", "The dashboards that one may see."),
    write("POST", "/api/dashboards", "Make a dashboard."),
    read("/api/dashboards/{key}", "One dashboard as it is declared, with its version as ETag."),
    write("PUT", "/api/dashboards/{key}", "Change a dashboard of the version in If-Match."),
    write("DELETE", "/api/dashboards/{key}", "Remove a dashboard of the version in If-Match."),
    read(
        "/api/dashboards/{key}/data",
        "What a dashboard shows to whoever asks, with an ETag: ask again with If-None-Match.",
    ),
];

const fn read(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: READ, audience: Audience::Public, audit: false, summary }
}
const fn write(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    Route { method, path, action: DASHBOARD_MANAGE, audience: Audience::SignedIn, audit: true, summary }
}

#[derive(Clone)]
struct Door {
    dashboards: Dashboards,
    zone: TimeZone,
}

pub fn router(dashboards: Dashboards, zone: TimeZone) -> Router {
    Router::new()
        .route("/api/dashboards", get(list).post(create))
        .route("/api/dashboards/{key}", get(one).put(change).delete(remove))
        .route("/api/dashboards/{key}/data", get(data))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Door { dashboards, zone })
}

/// An entity tag over what is answered (RFC 9110 section 8.8.3).
pub fn tag(content: &[u8]) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(content)[..16]))
}

/// Whether the client has it already (RFC 9110 section 13.1.2; weak comparison).
pub fn has(headers: &HeaderMap, tag: &str) -> bool {
    let asked = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    asked.flat_map(|v| v.split(',')).map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*")
}

/// For one reader, and to be asked again each time.
pub fn tagged(headers: &HeaderMap, tag: &str, body: impl IntoResponse) -> Response {
    let mut response = if has(headers, tag) { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
    let fields = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        fields.insert(header::ETAG, tag);
    }
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    fields.insert(header::VARY, HeaderValue::from_static("Authorization, Cookie"));
    response
}

/// `If-Match: "3"` (RFC 9110 section 13.1.1), or `?version=3` for who cannot send one: the version that the client has seen.
fn version(headers: &HeaderMap, query: VersionQuery) -> Result<u32, Error> {
    let Query(Seen { version }) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    if let (Some(version), None) = (version, headers.get(header::IF_MATCH)) {
        return Ok(version);
    }
    let missing = || Error::field("If-Match", "the version that you have seen is expected, in quotes, such as \"3\"");
    let value = headers.get(header::IF_MATCH).ok_or_else(missing)?;
    let text = value.to_str().unwrap_or_default().trim();
    let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    number.ok_or_else(|| Error::field("If-Match", "one version in quotes is expected, such as \"3\""))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    version: Option<u32>,
}

type VersionQuery = Result<Query<Seen>, axum::extract::rejection::QueryRejection>;

fn versioned(status: StatusCode, dashboard: &Dashboard) -> Response {
    let mut response = fresh((status, Json(dashboard)));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", dashboard.version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

async fn list(State(door): State<Door>, who: Who) -> Result<Response, Error> {
    let found = door.dashboards.list(&caller(who)).await?;
    let found: Vec<_> = found
        .iter()
        .map(|d| {
            let b = &d.declaration;
            json!({
                "key": b.key, "tenant": b.tenant, "title": b.title, "about": b.about, "audience": b.audience,
                "declared": d.declared, "version": d.version, "tiles": b.tiles.len(), "changed_at": d.changed_at,
            })
        })
        .collect();
    Ok(fresh(Json(json!({ "dashboards": found }))))
}

async fn one(State(door): State<Door>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    Ok(versioned(StatusCode::OK, &door.dashboards.get(&caller(who), &key).await?))
}

async fn create(State(door): State<Door>, who: Who, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let declaration: Declaration = json_body(&body)?;
    let made = door.dashboards.create(&caller, declaration).await?;
    let mut response = versioned(StatusCode::CREATED, &made);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/dashboards/{}", made.declaration.key)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn change(
    State(door): State<Door>,
    who: Who,
    Path(key): Path<String>,
    query: VersionQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    // Who may not even see it learns nothing of versions and forms.
    door.dashboards.get(&caller, &key).await?;
    let version = version(&headers, query)?;
    let declaration: Declaration = json_body(&body)?;
    Ok(versioned(StatusCode::OK, &door.dashboards.change(&caller, &key, declaration, version).await?))
}

async fn remove(
    State(door): State<Door>,
    who: Who,
    Path(key): Path<String>,
    query: VersionQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    door.dashboards.get(&caller, &key).await?;
    door.dashboards.remove(&caller, &key, version(&headers, query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    lang: Option<String>,
}

type Queried = Result<Query<Asked>, axum::extract::rejection::QueryRejection>;

async fn data(
    State(door): State<Door>,
    who: Who,
    Path(key): Path<String>,
    query: Queried,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let caller = caller(who);
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let language = match asked.lang.as_deref() {
        None => Language::default(),
        Some(segment) => {
            Language::from_segment(segment).ok_or_else(|| Error::field("lang", "en, zh-hant or zh-hans is expected"))?
        }
    };
    let dashboard = door.dashboards.get(&caller, &key).await?;
    let shown = door.dashboards.show(&caller, dashboard, &door.zone).await?;
    let body = shown.json(language).to_string();
    let tag = tag(body.as_bytes());
    Ok(tagged(&headers, &tag, ([(header::CONTENT_TYPE, "application/json")], body)))
}
