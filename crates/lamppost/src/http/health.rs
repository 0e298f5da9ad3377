//! `/health/live` and `/health/ready`, for whatever starts, stops and balances this program.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// The longest that a store may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(2);

type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What must be well for the program to be ready.
#[derive(Default)]
pub struct Health {
    probes: Vec<(&'static str, Probe)>,
}

impl Health {
    #[must_use]
    pub fn with<F>(mut self, name: &'static str, probe: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.probes.push((name, Box::new(move || probe().boxed())));
        self
    }

    /// Every probe at once, each within [`PATIENCE`]. What fails goes to the log; the answer only names it.
    pub async fn ask(&self) -> (bool, Map<String, Value>) {
        let asked = self.probes.iter().map(|(name, probe)| async move {
            let answer = tokio::time::timeout(PATIENCE, probe()).await.unwrap_or_else(|_| Err("no answer".to_owned()));
            if let Err(error) = &answer {
                tracing::warn!(part = name, %error, "not ready");
            }
            (*name, answer.is_ok())
        });
        let answers = futures::future::join_all(asked).await;
        let ready = answers.iter().all(|(_, ok)| *ok);
        (
            ready,
            answers.into_iter().map(|(n, ok)| (n.to_owned(), if ok { "ready" } else { "not ready" }.into())).collect(),
        )
    }
}

/// The process answers.
pub async fn live() -> Response {
    answer(StatusCode::OK, serde_json::json!({"status": "live"}))
}

/// Every store answers.
pub async fn ready(State(health): State<Arc<Health>>) -> Response {
    let (ready, parts) = health.ask().await;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, serde_json::json!({"status": if ready { "ready" } else { "not ready" }, "parts": parts}))
}

fn answer(status: StatusCode, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
