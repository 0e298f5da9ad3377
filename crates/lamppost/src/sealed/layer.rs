//! The HTTP door's part: every request of a sealed department is on record before its answer leaves.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, header};
use kernel::{Caller, Principal, Problem};
use tokio::time::Instant;

use super::{Look, Sealed};
use crate::operators::layer::VisitEnds;

/// What shows nothing of any department.
const BARE: [&str; 4] = ["/assets/", "/health/", "/metrics", "/api/openapi.json"];
/// Where a device sends what it has measured, and is told no more than what became of it. Every other door that it may knock at shows something: what a table
/// would be read as, for one.
const MEASURES: [&str; 8] = [
    "/v1.1/",
    "/api/ingest/chirpstack",
    "/api/ingest/things-stack",
    "/api/v2/write",
    "/write",
    "/api/devices/self/rotate",
    "/api/devices/self/health",
    "/api/devices/self/command",
];
/// How long a live view goes on before it is asked for again: that makes a new look of it, and asks who it is. Browsers come back by themselves.
const LIVE: Duration = Duration::from_secs(600);
/// Bytes of a batch; the door's own limit is met first unless it was raised beyond this.
const BATCH: usize = 64 << 20;

/// The middleware. Stands inside the one that says who it is.
pub async fn looks(State(sealed): State<Arc<Sealed>>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().filter(|caller| sealed.of(caller).is_some()).cloned();
    let Some(caller) = caller else { return next.run(request).await };
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let batch = method == Method::POST && matches!(uri.path(), "/v1.1/$batch" | "/v1.1/%24batch");
    let reads = matches!(method, Method::GET | Method::HEAD) || batch;
    let measures = matches!(caller.principal, Principal::Device { .. })
        && !reads
        && MEASURES.iter().any(|door| match door.strip_suffix('/') {
            Some(_) => uri.path().starts_with(door),
            None => uri.path() == *door,
        });
    // What a device sends is not a look, and the stream is its record.
    if measures || BARE.iter().any(|bare| uri.path().starts_with(bare)) {
        return next.run(request).await;
    }
    let ends = request.extensions().get::<VisitEnds>().copied();
    let (request, inside) = if batch {
        match parts(request).await {
            Ok(read) => read,
            Err(problem) => return problem.into_response(),
        }
    } else {
        (request, Vec::new())
    };
    let response = next.run(request).await;
    let answer = response.status().as_u16();
    let whole = uri.path_and_query().map_or_else(|| uri.path(), |whole| whole.as_str());
    let mut looks = vec![Look { door: "http", what: format!("{method} {whole}"), answer }];
    looks.extend(inside.into_iter().map(|what| Look { door: "batch", what, answer }));
    if let Err(error) = sealed.record(&caller, looks).await {
        tracing::warn!(%error, "a look could not be put on record; it was not answered");
        let detail =
            "Who looks at what of this department is put on record, which cannot be done now. Try again in a moment.";
        return Problem::unavailable(detail, 5).into_response();
    }
    let streams =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
    let left = ends.map(|VisitEnds(at)| {
        let left = at.micros_since(sealed.records.now());
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    });
    if streams {
        let left = left.map_or(LIVE, |left| LIVE.min(left));
        return response.map(|body| Body::from_stream(body.into_data_stream().take_until(tokio::time::sleep(left))));
    }
    // A file of years takes its time, and is not whole when the visit ends before: whoever fetches it must not take it for whole.
    match left.filter(|_| response.body().size_hint().exact().is_none()) {
        Some(left) => response.map(|body| Body::from_stream(until(body, left))),
        None => response,
    }
}

/// A body that fails when it is not over in time.
fn until(body: Body, left: Duration) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let end = Instant::now() + left;
    futures::stream::try_unfold(body.into_data_stream(), move |mut pieces| async move {
        match tokio::time::timeout_at(end, pieces.next()).await {
            Ok(piece) => Ok(piece.transpose()?.map(|piece| (piece, pieces))),
            Err(_) => Err(axum::Error::new("the visit is over")),
        }
    })
}

/// The batch as it was, and what its parts ask for.
async fn parts(request: Request) -> Result<(Request, Vec<String>), Problem> {
    let (head, body) = request.into_parts();
    let body =
        to_bytes(body, BATCH).await.map_err(|_| Problem::too_large("The batch has more bytes than are accepted."))?;
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let asked = sensing::sta::asked_in_batch(kind, &body);
    Ok((Request::from_parts(head, Body::from(body)), asked))
}
