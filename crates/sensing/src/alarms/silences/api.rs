//! `/api/silences`: who keeps which notifications back.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kernel::{Tenant, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Silences, Wanted,
    model::{Draft, Matchers, Silence, SilenceState},
};
use crate::{
    Audience, Error, Route,
    alarms::LIMITS,
    door::{Who, fresh, json_body, parse_id, signed_in},
    route::action::{ALARM_READ, ALARM_SILENCE},
};

pub const ROUTES: &[Route] = &[
    read("/api/silences", "Silences, newest first, by state or department."),
    write("/api/silences", "Keep notifications about some alarms back for a while."),
    read("/api/silences/{id}", "One silence."),
    write("/api/silences/{id}/expire", "End a silence now; letters about alarms that are still open go out."),
];

const fn read(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: ALARM_READ, audience: Audience::SignedIn, audit: false, summary }
}
const fn write(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: ALARM_SILENCE, audience: Audience::SignedIn, audit: true, summary }
}

pub fn router(silences: Silences) -> Router {
    Router::new()
        .route("/api/silences", get(list).post(create))
        .route("/api/silences/{id}", get(one))
        .route("/api/silences/{id}/expire", post(expire))
        .layer(DefaultBodyLimit::max(LIMITS.body_bytes))
        .with_state(silences)
}

/// A silence as a client sees it: with its state.
fn shown(silence: &Silence, now: Timestamp) -> Value {
    let mut value = json!(silence);
    value["state"] = json!(silence.state(now));
    value
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Several, separated by commas.
    state: Option<String>,
    tenant: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn list(State(silences): State<Silences>, who: Who, query: Queried<Asked>) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let states = asked.state.iter().flat_map(|s| s.split(',')).map(|name| {
        let expected = "active, pending or expired is expected, several separated by commas";
        SilenceState::from_name(name.trim()).ok_or_else(|| Error::field("state", expected))
    });
    let tenant = asked.tenant.as_deref().map(|t| Tenant::parse(t).map_err(|e| Error::field("tenant", e)));
    let after = asked.after.as_deref().map(|id| id.parse().map_err(|e: String| Error::field("after", e)));
    let wanted =
        Wanted { tenant: tenant.transpose()?, states: states.collect::<Result<_, _>>()?, after: after.transpose()? };
    let (found, next) = silences.list(&caller, wanted, asked.limit).await?;
    let now = silences.now();
    let found: Vec<Value> = found.iter().map(|s| shown(s, now)).collect();
    Ok(fresh(Json(json!({ "silences": found, "next": next }))))
}

async fn one(State(silences): State<Silences>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let silence = silences.get(&signed_in(who)?, parse_id(&id)?).await?;
    Ok(fresh(Json(shown(&silence, silences.now()))))
}

/// The fields stand beside each other, and unknown ones are refused: a misspelt `district` would keep the whole city quiet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    tenant: Option<Tenant>,
    #[serde(default)]
    rule: Vec<String>,
    #[serde(default)]
    severity: Vec<crate::rules::model::Severity>,
    #[serde(default)]
    district: Vec<String>,
    #[serde(default)]
    system: Vec<String>,
    #[serde(default)]
    thing: Vec<crate::model::EntityId>,
    starts_at: Option<Timestamp>,
    ends_at: Timestamp,
    #[serde(default)]
    reason: String,
}

async fn create(State(silences): State<Silences>, who: Who, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let wish: Wish = json_body(&body)?;
    let tenant = wish.tenant.or_else(|| caller.tenant.clone());
    let tenant = tenant.ok_or_else(|| Error::field("/tenant", "the department whose alarms are meant is expected"))?;
    let tenant = Tenant::parse(tenant.as_str()).map_err(|e| Error::field("/tenant", e))?;
    let matchers = Matchers {
        rule: wish.rule.into_iter().collect(),
        severity: wish.severity.into_iter().collect(),
        district: wish.district.into_iter().collect(),
        system: wish.system.into_iter().collect(),
        thing: wish.thing.into_iter().collect(),
    };
    let draft = Draft { tenant, matchers, starts_at: wish.starts_at, ends_at: wish.ends_at, reason: wish.reason };
    let silence = silences.create(&caller, draft).await?;
    let mut response = fresh((StatusCode::CREATED, Json(shown(&silence, silences.now()))).into_response());
    if let Ok(location) = HeaderValue::from_str(&format!("/api/silences/{}", silence.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn expire(State(silences): State<Silences>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let silence = silences.end(&signed_in(who)?, parse_id(&id)?).await?;
    Ok(fresh(Json(shown(&silence, silences.now()))))
}
