//! `POST /api/ingest/…` and the addresses that clients of InfluxDB expect.

use std::{collections::HashMap, io::Read as _};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use kernel::{Caller, Problem, Tenant};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Door, Ingest, Taken,
    csv::{Target, Upload, Wishes},
    line::{self, Precision},
    lorawan::event::{self, EVENTS, Event, Wrong},
};
use crate::{
    Audience, Error, Route,
    connect::declaration::Encoding,
    door::{Who, caller, fresh, signed_in},
    model::EntityId,
    route::action::{DEVICE_READ, OBSERVE},
};

const fn door(path: &'static str, summary: &'static str) -> Route {
    // The stream is the record of what was observed; an audit row for each would say it twice.
    Route { method: "POST", path, action: OBSERVE, audience: Audience::SignedIn, audit: false, summary }
}

pub const ROUTES: &[Route] = &[
    door(
        "/api/ingest/chirpstack",
        "A LoRaWAN device's message, as ChirpStack's HTTP integration sends it (`?event=up`, JSON).",
    ),
    door("/api/ingest/things-stack", "A LoRaWAN device's message, as a webhook of The Things Stack sends it."),
    door("/api/v2/write", "Observations in InfluxDB line protocol, as clients of version 2 write them."),
    door("/write", "Observations in InfluxDB line protocol, as clients of version 1 write them."),
    Route {
        method: "POST",
        path: "/api/ingest/csv",
        action: OBSERVE,
        audience: Audience::SignedIn,
        audit: true,
        summary: "Observations in a table (CSV) for a Thing or a Datastream: what is guessed and what would become of each row, or with `commit=true` what did.",
    },
    Route {
        method: "GET",
        path: "/api/ingest/unknown",
        action: DEVICE_READ,
        audience: Audience::SignedIn,
        audit: false,
        summary: "LoRaWAN devices of a department that spoke and that nobody has declared (`?tenant=`).",
    },
];

/// Addresses whose bodies may be compressed.
pub const UNPACKED: [&str; 3] = ["/api/v2/write", "/write", "/api/ingest/csv"];

/// A message of one device.
const MESSAGE_BYTES: usize = 1 << 20;

pub fn router(ingest: Ingest) -> Router {
    let bytes = ingest.0.body_bytes;
    let messages = Router::new()
        .route("/api/ingest/chirpstack", post(chirpstack))
        .route("/api/ingest/things-stack", post(things_stack))
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES));
    let lines = Router::new()
        .route("/api/v2/write", post(write))
        .route("/write", post(write))
        .route("/api/ingest/csv", post(csv))
        .layer(DefaultBodyLimit::max(bytes));
    Router::new().route("/api/ingest/unknown", get(unknown)).merge(messages).merge(lines).with_state(ingest)
}

#[derive(Deserialize)]
struct EventQuery {
    event: Option<String>,
}

fn message(headers: &HeaderMap, body: &[u8]) -> Result<Value, Error> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/octet-stream") {
        return Err(Problem::unsupported_media(
            "JSON is read here: choose it as the payload encoding of the integration.",
        )
        .into());
    }
    serde_json::from_slice(body).map_err(|e| Error::bad_request(format!("The body is not JSON: {e}.")))
}

fn wrong((at, detail): Wrong) -> Error {
    Error::field(at, detail)
}

async fn chirpstack(
    State(ingest): State<Ingest>,
    who: Who,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = caller(who);
    // Asked before anything is said about the body.
    ingest.tenant(&caller)?;
    let event = query.event.unwrap_or_default();
    if !EVENTS.contains(&event.as_str()) {
        return Err(Error::field(
            "event",
            format!("one of {} is expected, as ChirpStack adds it to the address", EVENTS.join(", ")),
        ));
    }
    let whole = message(&headers, &body)?;
    taken(&ingest, &caller, Door::ChirpStack, event::chirpstack(&event, whole).map_err(wrong)?).await
}

async fn things_stack(
    State(ingest): State<Ingest>,
    who: Who,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = caller(who);
    ingest.tenant(&caller)?;
    let whole = message(&headers, &body)?;
    taken(&ingest, &caller, Door::ThingsStack, event::things_stack(whole).map_err(wrong)?).await
}

async fn taken(ingest: &Ingest, caller: &Caller, door: Door, event: Event) -> Result<Response, Error> {
    let taken: Taken = ingest.take(caller, door, event).await?;
    Ok(fresh(Json(taken)))
}

#[derive(Deserialize)]
struct TenantQuery {
    tenant: Option<String>,
}

async fn unknown(State(ingest): State<Ingest>, who: Who, Query(query): Query<TenantQuery>) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let asked = query.tenant.as_deref().map(Tenant::parse).transpose();
    let asked = asked.map_err(|detail| Error::field("tenant", detail))?;
    let tenant =
        asked.or_else(|| caller.tenant.clone()).ok_or_else(|| Error::field("tenant", "a department is expected"))?;
    Ok(fresh(Json(json!({ "value": ingest.strangers(&caller, &tenant)? }))))
}

/// `POST /api/v2/write?org=…&bucket=…&precision=…` and `POST /write?db=…&precision=…`.
async fn write(
    State(ingest): State<Ingest>,
    who: Who,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match written(&ingest, &caller(who), &query, &headers, body).await {
        Ok(written) if written.refused == 0 => StatusCode::NO_CONTENT.into_response(),
        Ok(written) => {
            let told = |(line, why): &(usize, String)| format!("line {line}: {why}");
            let first = written.told.first().map(told).unwrap_or_default();
            let detail = format!(
                "partial write: {} of {} lines were refused or taken in part, everything else is stored; {first}",
                written.refused, written.lines
            );
            let mut problem =
                Problem::new(StatusCode::BAD_REQUEST, "partial-write", "Not all lines could be taken", detail);
            problem.errors = written
                .told
                .into_iter()
                .map(|(line, detail)| kernel::FieldError { field: format!("line {line}"), detail })
                .collect();
            refusal(problem)
        }
        Err(error) => refusal(error.into()),
    }
}

/// A problem document that clients of InfluxDB understand too: they read `code` and `message`.
fn refusal(problem: Problem) -> Response {
    let code = match problem.status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not found",
        StatusCode::PAYLOAD_TOO_LARGE => "request too large",
        StatusCode::TOO_MANY_REQUESTS => "too many requests",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_client_error() => "invalid",
        _ => "internal error",
    };
    let mut whole = serde_json::to_value(&problem).unwrap_or_default();
    whole["code"] = json!(code);
    whole["message"] = json!(problem.detail);
    let mut response = problem.into_response();
    *response.body_mut() = whole.to_string().into();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    // Version 1 reads nothing but this.
    let told: String =
        whole["message"].as_str().unwrap_or_default().chars().filter(|c| matches!(c, ' '..='~')).take(500).collect();
    if let Ok(told) = HeaderValue::from_str(&told) {
        response.headers_mut().insert("x-influxdb-error", told);
    }
    response
}

async fn written(
    ingest: &Ingest,
    caller: &Caller,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<line::Written, Error> {
    ingest.tenant(caller)?;
    let precision =
        Precision::parse(query.get("precision").map(String::as_str)).map_err(|e| Error::field("precision", e))?;
    let bucket = query.get("bucket").or_else(|| query.get("db")).cloned();
    let body = plain(headers, body, ingest.0.body_bytes).await?;
    ingest.write(caller, &line::Query { bucket, precision }, &body).await
}

/// What is said of a file beside it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CsvQuery {
    thing: Option<i64>,
    datastream: Option<i64>,
    #[serde(default)]
    commit: bool,
    encoding: Option<Encoding>,
    delimiter: Option<char>,
    decimal: Option<char>,
    header: Option<u32>,
    time: Option<String>,
    format: Option<String>,
    zone: Option<String>,
    quality: Option<String>,
}

async fn csv(
    State(ingest): State<Ingest>,
    who: Who,
    Query(query): Query<CsvQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = caller(who);
    ingest.tenant(&caller)?;
    let target = match (query.thing, query.datastream) {
        (Some(id), None) => Target::Thing(EntityId(id)),
        (None, Some(id)) => Target::Datastream(EntityId(id)),
        _ => return Err(Error::field("datastream", "one of thing and datastream is expected, with its number")),
    };
    let wishes = Wishes {
        encoding: query.encoding,
        delimiter: query.delimiter,
        decimal: query.decimal,
        header: query.header,
        time: query.time,
        format: query.format,
        zone: query.zone,
        quality: query.quality,
    };
    let bytes = plain(&headers, body, ingest.0.body_bytes).await?.to_vec();
    let outcome = ingest.upload(&caller, Upload { target, bytes, wishes, commit: query.commit }).await?;
    Ok(fresh(Json(outcome)))
}

/// The body as it was before it was compressed, and no more of it than a body may have.
async fn plain(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, Error> {
    match headers.get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap_or("?")) {
        None | Some("" | "identity") => Ok(body),
        Some(name) if name.eq_ignore_ascii_case("gzip") => {
            let unpacked = tokio::task::spawn_blocking(move || {
                let mut out = Vec::new();
                let limit = most as u64 + 1;
                flate2::read::MultiGzDecoder::new(&*body).take(limit).read_to_end(&mut out).map(|_| out)
            });
            let out = unpacked.await.map_err(Error::internal)?;
            let out = out.map_err(|_| Error::bad_request("The body is not gzip, as Content-Encoding says."))?;
            if out.len() > most {
                return Err(Problem::too_large(format!("Unpacked, the body has more than {most} bytes.")).into());
            }
            Ok(out.into())
        }
        Some(_) => Err(Problem::unsupported_media("Send the body as it is, or with Content-Encoding: gzip.").into()),
    }
}
