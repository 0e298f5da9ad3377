//! The control room of the demonstration: receives the webhooks of the pack's recipients, as another department's program would, and says in
//! the log what came. It takes nothing whose signature is not right.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use kernel::{Clock, SystemClock};
use sensing::notify::webhook::{Secret, sign};
use subtle::ConstantTimeEq;

/// A letter that has been on its way for longer may have been caught and sent again by somebody else (standard-webhooks, "Verifying").
const TOLERANCE_S: i64 = 300;

/// `POST /hooks/{name}`, for every name that has a secret.
pub fn router(secrets: BTreeMap<String, Secret>) -> Router {
    Router::new().route("/hooks/{name}", post(receive)).with_state(Arc::new(secrets))
}

async fn receive(
    State(secrets): State<Arc<BTreeMap<String, Secret>>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let Some(secret) = secrets.get(&name) else { return StatusCode::NOT_FOUND };
    let now = SystemClock.now().as_micros().div_euclid(1_000_000);
    if !is_genuine(secret, &headers, &body, now) {
        tracing::warn!(receiver = name, "a letter was not taken: its signature is not right");
        return StatusCode::UNAUTHORIZED;
    }
    let letter: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let (kind, alarm) = (letter["type"].as_str().unwrap_or("?"), letter["data"]["id"].as_str().unwrap_or("?"));
    tracing::info!(receiver = name, kind, alarm, "a letter has arrived");
    StatusCode::NO_CONTENT
}

fn is_genuine(secret: &Secret, headers: &HeaderMap, body: &[u8], now: i64) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(signatures)) = (header("webhook-id"), header("webhook-signature")) else { return false };
    let Some(at) = header("webhook-timestamp").and_then(|at| at.parse::<i64>().ok()) else { return false };
    let expected = sign(secret, id, at, body);
    // Several while a secret is being changed, with spaces between.
    let any = signatures.split(' ').any(|one| bool::from(one.as_bytes().ct_eq(expected.as_bytes())));
    any && (now - at).abs() <= TOLERANCE_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_signed_and_fresh_is_genuine() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let other = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx").unwrap();
        let headers = |signature: String| {
            let mut headers = HeaderMap::new();
            headers.insert("webhook-id", "one".parse().unwrap());
            headers.insert("webhook-timestamp", "1000".parse().unwrap());
            headers.insert("webhook-signature", signature.parse().unwrap());
            headers
        };
        let signed = headers(format!("v1,AAAA {}", sign(&secret, "one", 1_000, b"body")));
        assert!(is_genuine(&secret, &signed, b"body", 1_300));
        assert!(!is_genuine(&secret, &signed, b"body", 1_301), "too old");
        assert!(!is_genuine(&secret, &signed, b"bodY", 1_000));
        assert!(!is_genuine(&other, &signed, b"body", 1_000));
        assert!(!is_genuine(&secret, &HeaderMap::new(), b"body", 1_000));
    }
}
