//! The desk from which officers move things: which actuators there are, a form to propose a Task, the Task's own page with whoever approves it,
//! and the kill switch.

mod desk;
mod form;
mod propose;
mod stop;
mod task;

use axum::{
    Router,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use kernel::{Problem, Tenant};
use serde_json::Value;
use ui::{Badge, Page};

use super::{Pages, decimals};
use crate::{
    Audience, Route,
    model::{EntityId, ResultValue},
    route::action::{TASK_PROPOSE, TASK_READ, TASK_STOP},
    tasking::{Tasking, desk::Line, model::Status},
};

pub const ROUTES: &[Route] = &[
    route(
        "GET",
        "/{language}/tasking",
        TASK_READ,
        "The actuators of a department: state, who has each, what is stopped",
    ),
    route("GET", "/{language}/tasking/tasks", TASK_READ, "Tasks, newest first, by where they are"),
    route(
        "GET",
        "/{language}/tasking/tasks/{id}",
        TASK_READ,
        "One Task: what is wanted, what is so, and all its steps",
    ),
    route(
        "POST",
        "/{language}/tasking/tasks/{id}",
        TASK_PROPOSE,
        "Approve, reject, cancel, renew, release or roll back a Task (task:approve for the first two)",
    ),
    route("GET", "/{language}/tasking/stop", TASK_READ, "The kill switches, and the record of them"),
    route("POST", "/{language}/tasking/stop", TASK_STOP, "Throw or lift a kill switch"),
    route("GET", "/{language}/tasking/{id}", TASK_READ, "One TaskingCapability, and the form that proposes a Task"),
    route("POST", "/{language}/tasking/{id}", TASK_PROPOSE, "Propose a Task"),
];

const fn route(method: &'static str, path: &'static str, action: kernel::Action, summary: &'static str) -> Route {
    let audit = matches!(method.as_bytes(), b"POST");
    Route { method, path, action, audience: Audience::SignedIn, audit, summary }
}

pub fn router() -> Router<Pages> {
    Router::new()
        .route("/{language}/tasking", get(desk::list))
        .route("/{language}/tasking/tasks", get(desk::tasks))
        .route("/{language}/tasking/tasks/{id}", get(task::show).post(task::act))
        .route("/{language}/tasking/stop", get(stop::show).post(stop::throw))
        .route("/{language}/tasking/{id}", get(propose::show).post(propose::send))
        .layer(axum::extract::DefaultBodyLimit::max(256 << 10))
}

/// Who takes Tasks, in a program that does.
fn tasking(pages: &Pages) -> Result<&Tasking, Problem> {
    pages.tasking.as_ref().ok_or_else(|| Problem::not_found("The page"))
}

/// What sends whoever is not signed in to do so first.
fn sign_in_first(page: &Page) -> Option<Response> {
    page.caller.is_anonymous().then(|| match page.sign_in_and_back() {
        Some(href) => Redirect::to(&href).into_response(),
        None => Problem::unauthenticated().into_response(),
    })
}

/// An id that cannot be is one that is not there.
fn id(text: &str, what: &str) -> Result<EntityId, Problem> {
    let number = text.parse().ok().filter(|n: &i64| *n > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    number.map(EntityId).ok_or_else(|| Problem::not_found(what))
}

fn department<'a>(pages: &'a Pages, page: &'a Page, tenant: &'a Tenant) -> &'a str {
    pages.owners.get(tenant.as_str()).map_or(tenant.as_str(), |name| page.text(name))
}

fn badge(page: &Page, status: Status) -> Badge {
    let shape = match status {
        Status::Proposed | Status::Approved | Status::Sent | Status::Acknowledged => ui::State::Notice,
        Status::Validated | Status::Expired => ui::State::Warning,
        Status::Verified | Status::Completed => ui::State::Good,
        Status::Rejected | Status::RolledBack => ui::State::Offline,
        Status::Failed => ui::State::Alarm,
    };
    Badge::new(shape).word(page.t(status_key(status)))
}

/// Key of the word for it. lang-keys: tasking.status.*
const fn status_key(status: Status) -> &'static str {
    match status {
        Status::Proposed => "tasking.status.proposed",
        Status::Validated => "tasking.status.validated",
        Status::Approved => "tasking.status.approved",
        Status::Sent => "tasking.status.sent",
        Status::Acknowledged => "tasking.status.acknowledged",
        Status::Verified => "tasking.status.verified",
        Status::Completed => "tasking.status.completed",
        Status::Rejected => "tasking.status.rejected",
        Status::Failed => "tasking.status.failed",
        Status::Expired => "tasking.status.expired",
        Status::RolledBack => "tasking.status.rolled_back",
    }
}

/// A value as a person reads it: `60 %`, `Open`, `on`.
fn shown(page: &Page, value: &Value, unit: &str) -> String {
    match value {
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |n| page.quantity(n, unit, decimals(n))),
        Value::Bool(true) => page.t("tasking.yes").to_owned(),
        Value::Bool(false) => page.t("tasking.no").to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}

/// What the Datastream of a read-back says now, in the words of the parameter that it is read back for, and since when.
fn now(pages: &Pages, page: &Page, line: &Line) -> Option<(String, Value, kernel::Timestamp)> {
    let latest = pages.observe.head(line.watched?)?.latest;
    let value = match &latest.result {
        ResultValue::Number(number) => serde_json::json!(number),
        ResultValue::Json(raw) => serde_json::from_str(raw.get()).unwrap_or(Value::Null),
    };
    Some((in_words(page, line, &value), value, latest.phenomenon.end))
}

/// What a Datastream says, in the words of the parameter: 1 is "open" where the terms map it so.
fn in_words(page: &Page, line: &Line, value: &Value) -> String {
    let Some(verify) = line.terms().verify else { return shown(page, value, "") };
    let record = line.record();
    let Some(parameter) = record.parameter(&verify.parameter) else { return shown(page, value, "") };
    let same = |mapped: &Value| match (mapped.as_f64(), value.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-9,
        _ => mapped == value,
    };
    let word = verify.values.iter().find(|(_, mapped)| same(mapped)).map(|(token, _)| token.clone());
    match word {
        Some(token) if token == "true" || token == "false" => shown(page, &Value::Bool(token == "true"), ""),
        Some(token) => page.text(&parameter.token_title(&token)).to_owned(),
        None => shown(page, value, parameter.unit.as_deref().unwrap_or_default()),
    }
}
