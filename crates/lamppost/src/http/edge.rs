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
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
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
    /// The public address begins with `https`.
    pub https: bool,
}

/// Bytes of a framework's own words that are passed on.
const MAX_SAID: usize = 2_000;

/// How long, and for how many bytes, a client whose request is refused for its head is listened to.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 << 20);

pub async fn edge(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(id.clone());
    let peer = edge.peer(&request);
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(sensing::devices::own::From(peer));
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);

    let mut response = if let Some(refusal) = edge.refusal(&request) {
        linger(request).await;
        refusal.into_response()
    } else if let Ok(_permit) = edge.permits.clone().try_acquire_owned() {
        edge.metrics.began();
        let started = Instant::now();
        let context = edge.tracer.as_ref().map(|_| Context::incoming(request.headers()));
        if let Some(context) = &context {
            request.extensions_mut().insert(*context);
        }
        let span = tracing::info_span!("request", id = &*id.0, method = method.as_str(), route);
        let response = edge.limited(request, next).instrument(span.clone()).await;
        let took = started.elapsed();
        edge.metrics.answered(&method, route, response.status(), took);
        if let (Some(tracer), Some(context)) = (&edge.tracer, context) {
            tracer.request(&context, &method, route, response.status(), took, &id.0);
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
    edge.secure(response.headers_mut());
    response
}

/// Takes what is on its way: a connection that is closed with unread input is reset (RFC 9112 section 9.6), and the client may then never see
/// why. Whoever asks first (`Expect: 100-continue`) has sent nothing yet.
async fn linger(request: Request) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let (mut body, mut left) = (request.into_body().into_data_stream(), LINGER.1);
    let take = async {
        while let Some(Ok(data)) = body.next().await
            && data.len() < left
        {
            left -= data.len();
        }
    };
    // Whoever goes on sending after that does not listen.
    let _ = tokio::time::timeout(LINGER.0, take).await;
}

/// Refusals of the framework itself (a method, an address or a form that does not fit, a body that is cut off) are plain text or nothing:
/// they become problems like all others. Stands inside the shell, which shows problems as pages.
pub async fn problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let plain = response.headers().get(header::CONTENT_TYPE).is_none_or(|t| t.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, MAX_SAID).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let or = |fallback: &str| if said.is_empty() { fallback.to_owned() } else { format!("{said}.") };
    let problem = match status {
        StatusCode::NOT_FOUND => Problem::not_found("This address"),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = parts.headers.get(header::ALLOW).and_then(|a| a.to_str().ok()).unwrap_or("others");
            Problem::new(status, "method-not-allowed", "This is not done here", format!("The address takes {allowed}."))
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("The body has more bytes than are accepted here."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::unsupported_media(or("Send the body in another form.")),
        status if status.is_client_error() => {
            Problem { status, ..Problem::bad_request(or("Look at the address and the body.")) }
        }
        _ => {
            tracing::error!(%status, said, "an answer without a problem document");
            Problem::internal()
        }
    };
    let mut response = problem.into_response();
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

impl Edge {
    /// What also holds for answers that were given before any page was asked.
    fn secure(&self, headers: &mut HeaderMap) {
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
            (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        ] {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if self.https {
            let year = HeaderValue::from_static("max-age=31536000");
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(year);
        }
    }

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
        let encoding = request.headers().get(header::CONTENT_ENCODING);
        // These doors unpack what they are sent themselves, and bound what comes out.
        let unpacks = sensing::ingest::api::UNPACKED.contains(&request.uri().path());
        if !unpacks && encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "Content-Encoding: requests are not unpacked here. Send the body as it is.";
            return Some(Problem::unsupported_media(detail));
        }
        let length = request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
        (length > self.body_limit as u64).then(|| {
            Problem::too_large(format!("The request has {length} bytes; at most {} are accepted.", self.body_limit))
        })
    }

    /// Counted until the answer's head: what streams afterwards has given its permit back. Nobody is exempt for what they say they accept,
    /// or a body that never comes would hold a permit for ever.
    async fn limited(&self, request: Request, next: Next) -> Response {
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
