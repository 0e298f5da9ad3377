//! `/api/deliveries`: what became of notifications, and another try for those that were given up.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::Response,
    routing::{get, post},
};
use kernel::{Caller, Id, PageSize, Problem, Resource};
use serde::Deserialize;
use serde_json::json;

use super::{
    model::{Delivery, DeliveryState},
    store,
};
use crate::{
    Audience, Error, Route,
    alarms::{
        self, Alarms, LIMITS,
        api::{Who, caller, fresh, parse_id, signed_in},
    },
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
    let visible = alarms.visible(&caller);
    let found = alarms.records().read(move |read| store::list(read, &visible, state, alarm, after, limit + 1));
    let mut deliveries = found.await.map_err(alarms::stored)?;
    let more = deliveries.len() > limit;
    deliveries.truncate(limit);
    let next = deliveries.last().filter(|_| more).map(|d| d.id);
    Ok(fresh(Json(json!({ "deliveries": deliveries, "next": next }))))
}

async fn retry(State(alarms): State<Alarms>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let caller = caller(who);
    if caller.is_anonymous() {
        return Err(Problem::unauthenticated().into());
    }
    let id: Id<Delivery> = parse_id(&id)?;
    let found = alarms.records().read(move |read| store::get(read, id)).await.map_err(alarms::stored)?;
    let visible = alarms.visible(&caller);
    let missing = || Error::not_found(format!("The delivery {id}"));
    let delivery = found.filter(|d| visible.admits(&d.tenant, false)).ok_or_else(missing)?;
    may_manage(&alarms, &caller, &delivery)?;
    let revived = alarms.records().write(move |tx| {
        let revived = store::revive(tx, id)?;
        if revived {
            let detail = json!({ "alarm": delivery.alarm, "recipient": delivery.recipient });
            tx.audit(&caller, "delivery:retry", "Delivery", &id.to_string(), Some(&delivery.tenant), detail)?;
        }
        Ok::<_, records::Error>(revived)
    });
    if !revived.await.map_err(alarms::stored)? {
        return Err(Error::conflict("Only a notification that was given up can be tried again."));
    }
    Ok(fresh(Json(json!({ "id": id, "state": DeliveryState::Pending }))))
}

fn may_manage(alarms: &Alarms, caller: &Caller, delivery: &Delivery) -> Result<(), Error> {
    let id = delivery.id.to_string();
    let resource = Resource { kind: "Rule", id: &id, tenant: Some(&delivery.tenant), public: false };
    if alarms.policy().allows(caller, RULE_MANAGE, &resource) {
        return Ok(());
    }
    Err(Problem::forbidden("Ask the department's rule manager to send it again.").into())
}
