//! `/api/tasks`: what has become of Tasks, and what people do to them; `/api/tasking/stop`: the kill switch.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    response::Response,
    routing::get,
};
use kernel::Tenant;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Deed, Run, Stopped, Tasking, model::Status};
use crate::{
    Audience, Error, Route,
    door::{Said, Who, fresh, json_body, signed_in},
    model::EntityId,
    route::action::{TASK_PROPOSE, TASK_READ, TASK_STOP},
};

/// Bytes of a body: a version and a comment.
const BODY_BYTES: usize = 16 << 10;

const fn route(
    method: &'static str,
    path: &'static str,
    action: kernel::Action,
    audit: bool,
    summary: &'static str,
) -> Route {
    Route { method, path, action, audience: Audience::SignedIn, audit, summary }
}

pub const ROUTES: &[Route] = &[
    route("GET", "/api/tasks", TASK_READ, false, "Tasks, newest first, by status, capability or thing."),
    route("GET", "/api/tasks/{id}", TASK_READ, false, "One Task with its history."),
    route(
        "POST",
        "/api/tasks/{id}/{deed}",
        TASK_PROPOSE,
        true,
        "Approve, reject, cancel, renew, release or roll back a Task (task:approve for the first two).",
    ),
    route("GET", "/api/tasking/stop", TASK_READ, false, "The kill switches that are on, and the record of them."),
    route(
        "PUT",
        "/api/tasking/stop",
        TASK_STOP,
        true,
        "Throw the kill switch of an actuator, a tenant or the city: no Task leaves.",
    ),
];

pub fn router(tasking: Tasking) -> Router {
    Router::new()
        .route("/api/tasks", get(list))
        .route("/api/tasks/{id}", get(one))
        .route("/api/tasks/{id}/{deed}", axum::routing::post(act))
        .route("/api/tasking/stop", get(stops).put(throw))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(tasking)
}

fn shown(run: &Run) -> Value {
    let task = &run.task;
    json!({
        "id": run.id, "capability": run.capability, "thing": run.thing, "actuator": run.actuator, "tenant": run.tenant,
        "parameters": run.parameters, "created_at": run.created, "status": task.status.name(), "version": task.version,
        "proposer": task.proposer, "approver": task.approver, "four_eyes": task.four_eyes, "busy": task.busy, "expires": task.expires,
        "expect": task.expect, "verify": task.verify, "hold": task.hold, "undo": task.undo, "purpose": task.purpose,
        "sent_at": task.sent_at, "due": task.due, "held_until": task.held_until, "reason": task.reason,
    })
}

/// Unknown names are refused, because a misspelt filter would quietly show everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    status: Option<String>,
    capability: Option<EntityId>,
    thing: Option<EntityId>,
    before: Option<EntityId>,
}

type Queried = Result<Query<Asked>, axum::extract::rejection::QueryRejection>;

async fn list(State(tasking): State<Tasking>, who: Who, query: Queried) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let status = asked.status.as_deref().map(|name| {
        let names: Vec<&str> = Status::ALL.into_iter().map(Status::name).collect();
        Status::from_name(name)
            .ok_or_else(|| Error::field("status", format!("one of {} is expected", names.join(", "))))
    });
    let runs = tasking.list(&caller, status.transpose()?, (asked.capability, asked.thing), asked.before).await?;
    Ok(fresh(Json(json!({ "tasks": runs.iter().map(shown).collect::<Vec<_>>() }))))
}

fn parse_id(text: &str) -> Result<EntityId, Error> {
    // Not 400: an id that cannot exist does not exist.
    let id = text.parse().ok().filter(|id: &i64| *id > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    id.map(EntityId).ok_or_else(|| Error::not_found(format!("Tasks({})", text.chars().take(20).collect::<String>())))
}

async fn one(State(tasking): State<Tasking>, who: Who, Path(id): Path<String>) -> Result<Response, Error> {
    let (run, history) = tasking.get(&signed_in(who)?, parse_id(&id)?).await?;
    Ok(fresh(Json(json!({ "task": shown(&run), "history": history }))))
}

async fn act(
    State(tasking): State<Tasking>,
    who: Who,
    Path((id, deed)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let id = parse_id(&id)?;
    let deed = Deed::from_name(&deed).ok_or_else(|| Error::not_found("What you want to do to the Task"))?;
    let said: Said = if body.is_empty() { Said::default() } else { json_body(&body)? };
    // Whoever approves must have seen what; a hold is renewed in a hurry.
    if said.version.is_none() && deed == Deed::Approve {
        return Err(Error::field("version", "the version that you have seen is expected"));
    }
    let run = tasking.act(&caller, id, deed, said.version, &said.comment).await?;
    Ok(fresh(Json(shown(&run))))
}

async fn stops(State(tasking): State<Tasking>, who: Who) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let (stops, record) = (tasking.stops(&caller).await?, tasking.switched(&caller).await?);
    Ok(fresh(Json(json!({ "stops": stops, "record": record }))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// Nothing is the city's.
    tenant: Option<String>,
    actuator: Option<EntityId>,
    stopped: bool,
    #[serde(default)]
    reason: String,
}

async fn throw(State(tasking): State<Tasking>, who: Who, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let switch: Switch = json_body(&body)?;
    let tenant = switch.tenant.as_deref().map(|slug| Tenant::parse(slug).map_err(|e| Error::field("/tenant", e)));
    let what = match (tenant.transpose()?, switch.actuator) {
        (Some(_), Some(_)) => return Err(Error::field("/actuator", "either a tenant or an actuator is stopped")),
        (None, Some(id)) => Stopped::Actuator(id),
        (Some(tenant), None) => Stopped::Tenant(tenant),
        (None, None) => Stopped::City,
    };
    tasking.throw(&caller, what, switch.stopped, &switch.reason).await?;
    let said = json!({ "tenant": switch.tenant, "actuator": switch.actuator, "stopped": switch.stopped });
    Ok(fresh(Json(said)))
}
