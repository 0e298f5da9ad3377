//! `/api/rules`: the rules as JSON, and a check that stores nothing.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{Rules, model::RuleDeclaration};
use crate::{
    Audience, Error, Route,
    door::{Who, fresh, json_body, signed_in},
    notify::Recipient,
    route::action::{RULE_MANAGE, RULE_READ},
};

pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/rules",
        action: RULE_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "The rules that watch Datastreams.",
    },
    Route {
        method: "GET",
        path: "/api/rules/{key}",
        action: RULE_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "One rule.",
    },
    Route {
        method: "POST",
        path: "/api/rules/check",
        action: RULE_MANAGE,
        audience: Audience::SignedIn,
        audit: false,
        summary: "Check rules and recipients without storing them.",
    },
];

/// Bytes of a set of rules to be checked.
const MAX_BODY: usize = 4 << 20;

pub fn router(rules: Rules) -> Router {
    Router::new()
        .route("/api/rules", get(list))
        .route("/api/rules/check", post(check))
        .route("/api/rules/{key}", get(one))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(rules)
}

async fn list(State(rules): State<Rules>, who: Who) -> Result<Response, Error> {
    let rules = rules.list(&signed_in(who)?).await?;
    let rules: Vec<_> = rules.iter().map(|r| r.declaration()).collect();
    Ok(fresh(Json(json!({ "rules": rules }))))
}

async fn one(State(rules): State<Rules>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    let rule = rules.get(&signed_in(who)?, &key).await?;
    Ok(fresh(Json(json!(rule.declaration()))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    rule: Vec<RuleDeclaration>,
    #[serde(default)]
    recipient: Vec<Recipient>,
}

async fn check(State(rules): State<Rules>, who: Who, body: Bytes) -> Result<Response, Error> {
    // Nothing is stored or looked up, so there is nothing to protect but the work itself.
    signed_in(who)?;
    let asked: Asked = json_body(&body)?;
    let checked = rules.check(asked.rule, &asked.recipient)?;
    Ok(fresh(Json(json!({ "valid": true, "rules": checked.len(), "recipients": asked.recipient.len() }))))
}
