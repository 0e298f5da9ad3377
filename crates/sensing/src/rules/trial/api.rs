//! `POST /api/rules/{key}/dry-run`: what a rule would have raised.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    response::Response,
    routing::post,
};
use kernel::{FieldError, Problem, Timestamp};
use serde::Deserialize;

use super::Trials;
use crate::{
    Audience, Error, Route,
    door::{Who, fresh, json_body, signed_in},
    route::action::RULE_READ,
    rules::model::{Condition, Rule, RuleDeclaration, Selection, Together, Trust},
};

pub const ROUTES: &[Route] = &[
    route("/api/rules/dry-run", "What a rule that is not declared yet would have raised in the past. Changes nothing."),
    route(
        "/api/rules/{key}/dry-run",
        "What a rule would have raised in the past, with other levels if given. Changes nothing.",
    ),
];

const fn route(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: RULE_READ, audience: Audience::SignedIn, audit: false, summary }
}

const MAX_BODY: usize = 64 << 10;

pub fn router(trials: Trials) -> Router {
    Router::new()
        .route("/api/rules/dry-run", post(candidate))
        .route("/api/rules/{key}/dry-run", post(stored))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(trials)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    rule: RuleDeclaration,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

async fn candidate(State(trials): State<Trials>, who: Who, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let asked: Candidate = json_body(&body)?;
    let rule = checked(asked.rule, "/rule")?;
    Ok(fresh(Json(trials.run(&caller, &rule, asked.from, asked.to).await?)))
}

/// What is tried in the place of what the rule says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    when: Option<Condition>,
    select: Option<Selection>,
    quality: Option<Trust>,
    area: Option<Together>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

async fn stored(
    State(trials): State<Trials>,
    who: Who,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let rule = trials.rules().get(&caller, &key).await?;
    let change: Change = if body.is_empty() { Change::default() } else { json_body(&body)? };
    let mut declared = rule.declaration().clone();
    declared.when = change.when.unwrap_or(declared.when);
    declared.select = change.select.unwrap_or(declared.select);
    declared.quality = change.quality.unwrap_or(declared.quality);
    declared.area = change.area.or(declared.area);
    let rule = checked(declared, "")?;
    Ok(fresh(Json(trials.run(&caller, &rule, change.from, change.to).await?)))
}

/// The rule, or everything that is wrong with it.
pub(crate) fn checked(declared: RuleDeclaration, place: &str) -> Result<Rule, Error> {
    Rule::new(declared).map_err(|errors| {
        let errors: Vec<FieldError> =
            errors.into_iter().map(|e| FieldError { field: format!("{place}{}", e.field), ..e }).collect();
        let first = errors.first().cloned().unwrap_or(FieldError { field: String::new(), detail: String::new() });
        let mut problem = Problem::field(first.field, first.detail);
        problem.errors = errors;
        problem.into()
    })
}
