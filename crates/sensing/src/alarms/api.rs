//! `/api/alarms`: the alarm board as JSON.

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kernel::{Caller, Id, Tenant};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Alarms, Deed, Filter, LIMITS,
    model::{Alarm, AlarmState},
};
use crate::{
    Audience, Error, Route,
    model::EntityId,
    route::action::{ALARM_ACKNOWLEDGE, ALARM_CLOSE, ALARM_READ},
    rules::model::Severity,
};

macro_rules! route {
    ($method:literal $path:literal, $action:expr, $audience:expr, $audit:literal, $summary:literal) => {
        Route { method: $method, path: $path, action: $action, audience: $audience, audit: $audit, summary: $summary }
    };
}

pub const ROUTES: &[Route] = &[
    route!("GET" "/api/alarms", ALARM_READ, Audience::Public, false, "Alarms, newest first, by state, severity, system, district, rule or thing."),
    route!("GET" "/api/alarms/counts", ALARM_READ, Audience::Public, false, "How many alarms are in each state and severity."),
    route!("GET" "/api/alarms/{id}", ALARM_READ, Audience::Public, false, "One alarm with its history."),
    route!("POST" "/api/alarms/{id}/acknowledge", ALARM_ACKNOWLEDGE, Audience::SignedIn, true, "Take an alarm on."),
    route!("POST" "/api/alarms/{id}/unacknowledge", ALARM_ACKNOWLEDGE, Audience::SignedIn, true, "Undo an acknowledgement."),
    route!("POST" "/api/alarms/{id}/close", ALARM_CLOSE, Audience::SignedIn, true, "Close an alarm; needs a comment while its condition stands."),
    route!("POST" "/api/alarms/{id}/comment", ALARM_ACKNOWLEDGE, Audience::SignedIn, true, "Add a remark to an alarm's history."),
];

pub fn router(alarms: Alarms) -> Router {
    Router::new()
        .route("/api/alarms", get(list))
        .route("/api/alarms/counts", get(counts))
        .route("/api/alarms/{id}", get(one))
        .route("/api/alarms/{id}/acknowledge", post(acknowledge))
        .route("/api/alarms/{id}/unacknowledge", post(unacknowledge))
        .route("/api/alarms/{id}/close", post(close))
        .route("/api/alarms/{id}/comment", post(comment))
        .layer(DefaultBodyLimit::max(LIMITS.body_bytes))
        .with_state(alarms)
}

/// Anonymous when no door has put anybody there.
pub(crate) type Who = Option<Extension<Caller>>;

pub(crate) fn caller(who: Who) -> Caller {
    who.map_or_else(Caller::anonymous, |Extension(caller)| caller)
}

/// Names of the query's fields; unknown ones are refused, because a misspelt filter would quietly show everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Several, separated by commas.
    state: Option<String>,
    /// This one and all that are graver.
    severity: Option<String>,
    tenant: Option<String>,
    system: Option<String>,
    district: Option<String>,
    rule: Option<String>,
    thing: Option<i64>,
    after: Option<String>,
    limit: Option<u32>,
}

fn filter(asked: &Asked) -> Result<Filter, Error> {
    let states = asked.state.iter().flat_map(|s| s.split(',')).map(|name| {
        let expected = "open, acknowledged, cleared or closed is expected, several separated by commas";
        AlarmState::from_name(name.trim()).ok_or_else(|| Error::field("state", expected))
    });
    let severity = asked.severity.as_deref().map(|name| {
        let expected = "Minor, Moderate, Severe or Extreme is expected";
        Severity::from_name(name).ok_or_else(|| Error::field("severity", expected))
    });
    let tenant = asked.tenant.as_deref().map(|t| Tenant::parse(t).map_err(|e| Error::field("tenant", e)));
    for (name, value) in [("system", &asked.system), ("district", &asked.district), ("rule", &asked.rule)] {
        if value.as_ref().is_some_and(|v| v.len() > 200 || v.contains('\0')) {
            return Err(Error::field(name, "at most 200 characters are expected"));
        }
    }
    Ok(Filter {
        states: states.collect::<Result<_, _>>()?,
        severity_at_least: severity.transpose()?,
        tenant: tenant.transpose()?,
        system: asked.system.clone(),
        district: asked.district.clone(),
        rule: asked.rule.clone(),
        thing: asked.thing.map(EntityId),
    })
}

pub(crate) fn parse_id<K: kernel::Kind>(text: &str) -> Result<Id<K>, Error> {
    // Not 400: an id that cannot exist does not exist.
    text.parse().map_err(|_| Error::not_found(format!("The {} {}", K::NAME, text.chars().take(60).collect::<String>())))
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn list(State(alarms): State<Alarms>, who: Who, query: Queried<Asked>) -> Result<Response, Error> {
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let after = asked.after.as_deref().map(|id| id.parse().map_err(|e: String| Error::field("after", e)));
    let listing = alarms.list(&caller(who), filter(&asked)?, after.transpose()?, asked.limit).await?;
    Ok(fresh(Json(listing)))
}

async fn counts(State(alarms): State<Alarms>, who: Who) -> Result<Response, Error> {
    let counts = alarms.counts(&caller(who)).await?;
    let total = |state: AlarmState, severity: Option<Severity>| -> u64 {
        let counted = counts.iter().filter(|c| c.state == state && severity.is_none_or(|s| s == c.severity));
        counted.map(|c| c.count).sum()
    };
    let by_state = AlarmState::ALL.into_iter().filter(|s| *s != AlarmState::Closed).map(|state| {
        let by_severity: serde_json::Map<_, _> =
            Severity::ALL.into_iter().map(|s| (s.name().to_owned(), total(state, Some(s)).into())).collect();
        (state.name().to_owned(), json!({ "total": total(state, None), "severity": by_severity }))
    });
    Ok(fresh(Json(by_state.collect::<serde_json::Map<_, _>>())))
}

async fn one(State(alarms): State<Alarms>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let (caller, id) = (caller(who), parse_id(&id)?);
    let alarm = alarms.get(&caller, id).await?;
    let history = alarms.history(&caller, id).await?;
    let tag = etag(&alarm);
    let mut response = fresh(Json(json!({ "alarm": alarm, "history": history })));
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

async fn acknowledge(
    State(alarms): State<Alarms>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    act(&alarms, who, &id, Deed::Acknowledge, &headers, &body).await
}
async fn unacknowledge(
    State(alarms): State<Alarms>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    act(&alarms, who, &id, Deed::Unacknowledge, &headers, &body).await
}
async fn close(
    State(alarms): State<Alarms>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    act(&alarms, who, &id, Deed::Close, &headers, &body).await
}
async fn comment(
    State(alarms): State<Alarms>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    act(&alarms, who, &id, Deed::Remark, &headers, &body).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default)]
    comment: String,
    version: Option<u32>,
}

async fn act(
    alarms: &Alarms,
    who: Who,
    id: &str,
    deed: Deed,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let id = parse_id(id)?;
    let said: Said = if body.is_empty() { Said::default() } else { json_body(body)? };
    let version = match (if_match(headers)?, said.version) {
        (Some(header), Some(body)) if header != body => {
            return Err(Error::bad_request("If-Match and 'version' name different versions; send one of them."));
        }
        (header, body) => header.or(body),
    };
    // A remark decides nothing, so nobody can be overtaken by it.
    if version.is_none() && deed != Deed::Remark {
        return Err(Error::field("version", "the version that you have seen is expected, here or as If-Match"));
    }
    let alarm = alarms.act(&caller, id, deed, version, &said.comment).await?;
    let tag = etag(&alarm);
    let mut response = fresh(Json(alarm));
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

pub(crate) fn signed_in(who: Who) -> Result<Caller, Error> {
    let caller = caller(who);
    if caller.is_anonymous() { Err(kernel::Problem::unauthenticated().into()) } else { Ok(caller) }
}

pub(crate) fn json_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|e| Error::bad_request(format!("The body is not the JSON that is expected: {e}.")))
}

/// `If-Match: "3"` (RFC 9110 section 13.1.1).
fn if_match(headers: &HeaderMap) -> Result<Option<u32>, Error> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    number.map(Some).ok_or_else(|| Error::field("If-Match", "one version in quotes is expected, such as \"3\""))
}

fn etag(alarm: &Alarm) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", alarm.version)).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// What somebody may see is nobody else's to keep.
pub(crate) fn fresh(body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
