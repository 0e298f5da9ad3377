//! `/api/alarms`: the alarm board as JSON.

use std::collections::BTreeMap;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
    routing::{get, post},
};
use kernel::{Id, Tenant};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Alarms, Deed, Filter, LIMITS,
    model::{Alarm, AlarmState},
    silences::{Silences, model::Silence},
};
use crate::{
    Audience, Error, Route,
    door::{Said, Who, caller, fresh, json_body, parse_id, signed_in},
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
    route!("POST" "/api/alarms/{id}/assign", ALARM_ACKNOWLEDGE, Audience::SignedIn, true, "Ask a team, a person or a role to see to an alarm."),
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
        .route("/api/alarms/{id}/assign", post(assign))
        .layer(DefaultBodyLimit::max(LIMITS.body_bytes))
        .with_state(alarms)
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
    /// `me`, or as in the alarm's own `assignee`.
    assignee: Option<String>,
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
    for (name, value) in
        [("system", &asked.system), ("district", &asked.district), ("rule", &asked.rule), ("assignee", &asked.assignee)]
    {
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
        assignee: asked.assignee.clone(),
    })
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn list(State(alarms): State<Alarms>, who: Who, query: Queried<Asked>) -> Result<Response, Error> {
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let after = asked.after.as_deref().map(|id| id.parse().map_err(|e: String| Error::field("after", e)));
    let caller = caller(who);
    let mut filter = filter(&asked)?;
    if filter.assignee.as_deref() == Some("me") {
        filter.assignee = Some(signed_in(Some(Extension(caller.clone())))?.label());
    }
    let listing = alarms.list(&caller, filter, after.transpose()?, asked.limit).await?;
    let over = Silences::new(alarms).over(&caller, &listing.alarms).await?;
    let shown: Vec<Value> = listing.alarms.iter().map(|alarm| silenced(alarm, &over)).collect();
    let mut answer = json!({ "alarms": shown });
    if let Some(next) = listing.next {
        answer["next"] = json!(next);
    }
    Ok(fresh(Json(answer)))
}

/// An alarm, and which silences keep letters about it back.
fn silenced(alarm: &Alarm, over: &BTreeMap<Id<Alarm>, Vec<Silence>>) -> Value {
    let mut value = json!(alarm);
    if let Some(silences) = over.get(&alarm.id) {
        value["silenced_by"] = silences.iter().map(|s| json!(s.id)).collect();
    }
    value
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
    let over = Silences::new(alarms).over(&caller, std::slice::from_ref(&alarm)).await?;
    let mut response = fresh(Json(json!({ "alarm": silenced(&alarm, &over), "history": history })));
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
struct Given {
    /// Nobody any more where none is given.
    to: Option<String>,
    #[serde(default)]
    comment: String,
    version: Option<u32>,
}

async fn assign(
    State(alarms): State<Alarms>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let id = parse_id(&id)?;
    let given: Given = json_body(&body)?;
    let version = seen(&headers, given.version)?;
    let version =
        Some(version.ok_or_else(|| {
            Error::field("version", "the version that you have seen is expected, here or as If-Match")
        })?);
    let alarm = alarms.assign(&caller, id, given.to.as_deref(), version, &given.comment).await?;
    let tag = etag(&alarm);
    let mut response = fresh(Json(alarm));
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// The version that the client has seen, from where it says so.
fn seen(headers: &HeaderMap, body: Option<u32>) -> Result<Option<u32>, Error> {
    match (if_match(headers)?, body) {
        (Some(header), Some(body)) if header != body => {
            Err(Error::bad_request("If-Match and 'version' name different versions; send one of them."))
        }
        (header, body) => Ok(header.or(body)),
    }
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
    let version = seen(headers, said.version)?;
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
