//! Traces for OpenTelemetry collectors: one server span per request, sent as OTLP over HTTP in its JSON encoding (OpenTelemetry protocol
//! specification 1.x, "OTLP/HTTP"; ids and times as its JSON mapping asks). The context travels as W3C Trace Context, level 1.
//!
//! Written here because it is one message of one kind: the OpenTelemetry crates bring a second HTTP client, protobuf and their own
//! runtime for it. Never in the way of a request: a full queue drops spans and counts them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use kernel::{Clock, Timestamp};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::config;

/// Spans that may wait to be sent.
const QUEUE: usize = 4_096;
/// Spans in one message.
const BATCH: usize = 512;
/// How long a span may wait for company.
const WAIT: Duration = Duration::from_secs(2);

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: u128,
    /// This request's own span.
    pub span: u64,
    /// The caller's span.
    pub parent: Option<u64>,
    /// `Some` when the caller has decided whether to record.
    pub sampled: Option<bool>,
}

impl Context {
    /// From the request's `traceparent` (W3C Trace Context section 3.2), or a new trace.
    pub fn incoming(headers: &HeaderMap) -> Self {
        let given = headers.get("traceparent").and_then(|v| v.to_str().ok()).and_then(parse);
        let span = 1 + rand::random_range(0..u64::MAX);
        match given {
            Some((trace, parent, sampled)) => Self { trace, span, parent: Some(parent), sampled: Some(sampled) },
            None => Self { trace: 1 + rand::random_range(0..u128::MAX), span, parent: None, sampled: None },
        }
    }
    /// The `traceparent` for a request that is made on behalf of this one.
    pub fn header(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled.unwrap_or(false)))
    }
}

fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let (version, rest) = text.split_once('-')?;
    let (trace, rest) = rest.split_once('-')?;
    let (parent, rest) = rest.split_once('-')?;
    // Later versions may add fields after the flags; version ff is forbidden.
    let (flags, more) = rest.split_once('-').map_or((rest, false), |(f, _)| (f, true));
    let hex = |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !hex(version, 2)
        || version == "ff"
        || !hex(trace, 32)
        || !hex(parent, 16)
        || !hex(flags, 2)
        || (version == "00" && more)
    {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|t| *t != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|p| *p != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, parent, flags & 1 == 1))
}

/// Sends spans in the background. Cheap to clone.
#[derive(Clone)]
pub struct Tracer {
    sender: mpsc::Sender<Value>,
    sample: f64,
    clock: Arc<dyn Clock>,
    dropped: Arc<AtomicU64>,
}

impl Tracer {
    /// Starts the sending task; it ends, after what is queued, when the last clone is dropped.
    pub fn start(options: &config::Trace, clock: Arc<dyn Clock>) -> anyhow::Result<(Self, JoinHandle<()>)> {
        let client = crate::client::new(Duration::from_secs(10))?;
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(header) = &options.header {
            let (name, value) = header
                .expose()
                .split_once(':')
                .ok_or_else(|| anyhow::anyhow!("trace.header: 'name: value' is expected"))?;
            let mut value = HeaderValue::from_str(value.trim())?;
            value.set_sensitive(true);
            headers.insert(http::HeaderName::from_bytes(name.trim().as_bytes())?, value);
        }
        let address = format!("{}/v1/traces", options.endpoint);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(send(receiver, client, address, headers));
        Ok((Self { sender, sample: options.sample, clock, dropped: Arc::default() }, task))
    }

    /// Spans lost because the collector was away or slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Records one answered request, when it is sampled.
    pub fn request(
        &self,
        context: &Context,
        method: &Method,
        route: &str,
        status: StatusCode,
        took: Duration,
        id: &str,
    ) {
        // Of the trace id, so that all parts of a trace decide alike (TraceIdRatioBased).
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
        let chosen = || ((context.trace as u64 >> 11) as f64 / (1u64 << 53) as f64) < self.sample;
        if !context.sampled.unwrap_or_else(chosen) {
            return;
        }
        let end = self.clock.now();
        let start = end.plus_micros(-i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
        if self.sender.try_send(span(context, method, route, status, start, end, id)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

fn attribute(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

fn span(
    context: &Context,
    method: &Method,
    route: &str,
    status: StatusCode,
    start: Timestamp,
    end: Timestamp,
    id: &str,
) -> Value {
    let nanos = |at: Timestamp| format!("{}000", at.as_micros());
    let mut span = json!({
        "traceId": format!("{:032x}", context.trace),
        "spanId": format!("{:016x}", context.span),
        "name": format!("{method} {route}"),
        "kind": 2,
        "startTimeUnixNano": nanos(start),
        "endTimeUnixNano": nanos(end),
        "attributes": [
            attribute("http.request.method", json!({"stringValue": method.as_str()})),
            attribute("http.route", json!({"stringValue": route})),
            attribute("http.response.status_code", json!({"intValue": status.as_u16().to_string()})),
            attribute("lamppost.request_id", json!({"stringValue": id})),
        ],
        "status": if status.is_server_error() { json!({"code": 2}) } else { json!({}) },
    });
    if let Some(parent) = context.parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    span
}

fn message(spans: Vec<Value>) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            attribute("service.name", json!({"stringValue": "lamppost"})),
            attribute("service.version", json!({"stringValue": env!("CARGO_PKG_VERSION")})),
        ]},
        "scopeSpans": [{"scope": {"name": "lamppost.http"}, "spans": spans}],
    }]})
}

async fn send(mut receiver: mpsc::Receiver<Value>, client: reqwest::Client, address: String, headers: HeaderMap) {
    let mut well = true;
    while let Some(first) = receiver.recv().await {
        let mut spans = vec![first];
        let deadline = tokio::time::Instant::now() + WAIT;
        while spans.len() < BATCH {
            match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(span)) => spans.push(span),
                Ok(None) | Err(_) => break,
            }
        }
        let count = spans.len();
        let sent = client.post(&address).headers(headers.clone()).body(message(spans).to_string()).send().await;
        let failed = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.without_url().to_string()),
        };
        // Said once when it begins and once when it ends: a collector that is away must not fill the log.
        match &failed {
            Some(error) if well => {
                tracing::warn!(%error, count, "traces could not be sent; they are dropped until the collector answers")
            }
            None if !well => tracing::info!("traces are sent again"),
            _ => {}
        }
        well = failed.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(traceparent: &str) -> Context {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_str(traceparent).unwrap());
        Context::incoming(&headers)
    }

    #[test]
    fn follows_the_callers_trace() {
        let context = incoming("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.parent, Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!(context.sampled, Some(true));
        let again = incoming(&context.header());
        assert_eq!((again.trace, again.parent), (context.trace, Some(context.span)));
        assert!(incoming("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-later").parent.is_some());
    }

    #[test]
    fn begins_a_new_trace_when_the_header_is_wrong() {
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let context = incoming(wrong);
            assert_eq!((context.parent, context.sampled), (None, None), "{wrong}");
            assert_ne!(context.trace, 0);
        }
    }
}
