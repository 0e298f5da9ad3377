//! What every request passes first: a name for it, a limit on how many are at work, a limit on how long, a trace, a count.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use kernel::Problem;
use tokio::sync::Semaphore;
use tracing::Instrument;
use uuid::Uuid;

use super::metrics::Metrics;
use crate::telemetry::trace::{Context, Tracer};

pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of a request: the client's own when it is plain, else a new one. In the answer, the log and the trace.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// Where the request came from, proxies of our own looked through.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

pub struct Edge {
    pub metrics: Metrics,
    pub tracer: Option<Tracer>,
    pub permits: Arc<Semaphore>,
    pub timeout: Duration,
    pub body_limit: usize,
    pub trust_proxy: bool,
}

pub async fn edge(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(id.clone());
    let peer = edge.peer(&request);
    request.extensions_mut().insert(Peer(peer));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched".into(), |m| Arc::<str>::from(m.as_str()));

    let mut response = if let Some(refusal) = edge.refusal(&request) {
        refusal.into_response()
    } else if let Ok(_permit) = edge.permits.clone().try_acquire_owned() {
        edge.metrics.began();
        let started = Instant::now();
        let context = edge.tracer.as_ref().map(|_| Context::incoming(request.headers()));
        if let Some(context) = &context {
            request.extensions_mut().insert(*context);
        }
        let span = tracing::info_span!("request", id = &*id.0, method = method.as_str(), route = &*route);
        let response = edge.limited(request, next).instrument(span.clone()).await;
        let took = started.elapsed();
        edge.metrics.answered(&method, &route, response.status(), took);
        if let (Some(tracer), Some(context)) = (&edge.tracer, context) {
            tracer.request(&context, &method, &route, response.status(), took, &id.0);
        }
        let status = response.status().as_u16();
        span.in_scope(|| tracing::debug!(status, took_us = took.as_micros() as u64, "answered"));
        response
    } else {
        edge.metrics.refused();
        Problem::unavailable("Too many requests are at work. Try again in a second.", 1).into_response()
    };
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID.clone(), value);
    }
    response
}

impl Edge {
    fn peer(&self, request: &Request) -> IpAddr {
        let connected = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip());
        let forwarded = || {
            let last = request.headers().get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
            last.rsplit(',').next()?.trim().parse().ok()
        };
        let through = if self.trust_proxy { forwarded() } else { None };
        through.or(connected).unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    fn refusal(&self, request: &Request) -> Option<Problem> {
        let length = request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
        (length > self.body_limit as u64).then(|| {
            Problem::too_large(format!("The request has {length} bytes; at most {} are accepted.", self.body_limit))
        })
    }

    /// Live streams say `text/event-stream` and end when their reader goes.
    async fn limited(&self, request: Request, next: Next) -> Response {
        let accept = request.headers().get(header::ACCEPT).map_or(&b""[..], HeaderValue::as_bytes);
        if accept.starts_with(b"text/event-stream") {
            return next.run(request).await;
        }
        match tokio::time::timeout(self.timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                tracing::warn!("a request took too long and was given up");
                let detail = "The request took too long. Ask for less at once, or try again later.";
                Problem::unavailable(detail, 5).into_response()
            }
        }
    }
}

fn request_id(headers: &HeaderMap) -> RequestId {
    let plain = |v: &&str| {
        (1..=64).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(plain);
    RequestId(given.map_or_else(|| Uuid::now_v7().to_string().into(), Into::into))
}

/// A handler's panic becomes a problem; the place goes to the log (the panic hook writes it), not to the client.
pub fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a handler panicked; the request was answered 500");
    Problem::internal().into_response()
}
