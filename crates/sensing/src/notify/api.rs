//! `/api/deliveries`: what became of notifications, and another try for those that were given up.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::Response,
    routing::{get, post},
};
use kernel::{Id, PageSize, Problem};
use serde::Deserialize;
use serde_json::json;

use super::{
    deliveries::{self, Wanted},
    model::{Delivery, DeliveryState},
};
use crate::{
    Audience, Error, Route,
    alarms::{Alarms, LIMITS},
    door::{Who, caller, fresh, parse_id, signed_in},
    route::action::{ALARM_READ, RULE_MANAGE},
};

pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/deliveries",
        action: ALARM_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Notifications, newest first; state=dead lists those that were given up.",
    },
    Route {
        method: "POST",
        path: "/api/deliveries/{id}/retry",
        action: RULE_MANAGE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Try a notification that was given up once more.",
    },
];

pub fn router(alarms: Alarms) -> Router {
    Router::new()
        .route("/api/deliveries", get(list))
        .route("/api/deliveries/{id}/retry", post(retry))
        .with_state(alarms)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    state: Option<String>,
    alarm: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn list(State(alarms): State<Alarms>, who: Who, query: Queried<Asked>) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let state = asked.state.as_deref().map(|name| {
        DeliveryState::from_name(name).ok_or_else(|| Error::field("state", "pending, delivered or dead is expected"))
    });
    let alarm = asked.alarm.as_deref().map(|id| id.parse().map_err(|e: String| Error::field("alarm", e)));
    let after = asked.after.as_deref().map(|id| id.parse().map_err(|e: String| Error::field("after", e)));
    let (state, alarm, after) = (state.transpose()?, alarm.transpose()?, after.transpose()?);
    let limit = PageSize::clamp(asked.limit.map(|l| l.max(1)), &LIMITS).get();
    let wanted = Wanted { state, alarm, after };
    let (deliveries, next) = deliveries::list(&alarms, &caller, wanted, limit).await?;
    Ok(fresh(Json(json!({ "deliveries": deliveries, "next": next }))))
}

async fn retry(State(alarms): State<Alarms>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let caller = caller(who);
    if caller.is_anonymous() {
        return Err(Problem::unauthenticated().into());
    }
    let id: Id<Delivery> = parse_id(&id)?;
    deliveries::retry(&alarms, &caller, id).await?;
    Ok(fresh(Json(json!({ "id": id, "state": DeliveryState::Pending }))))
}
