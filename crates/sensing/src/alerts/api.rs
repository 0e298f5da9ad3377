//! Warnings for programs: an Atom feed (RFC 4287) of messages as OASIS CAP Feeds describes it, each message at its own address, the same as JSON,
//! and the keys. Everything here is public and may be kept by caches for as long as it says.

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use kernel::Language;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Alerts, Filter, KEPT_DAYS, MAX_LISTED, Stored,
    xml::{element, text},
};
use crate::{Audience, Error, Route, route::action::ALARM_READ};

macro_rules! route {
    ($path:literal, $summary:literal) => {
        Route {
            method: "GET",
            path: $path,
            action: ALARM_READ,
            audience: Audience::Public,
            audit: false,
            summary: $summary,
        }
    };
}

pub const ROUTES: &[Route] = &[
    route!(
        "/cap",
        "Public warnings as an Atom feed: the newest message of each that stands or has ended within a week."
    ),
    route!("/cap/jwks.json", "The keys that warnings are signed with."),
    route!("/cap/{identifier}", "One message of the Common Alerting Protocol 1.2, signed."),
    route!("/api/alerts", "Public warnings, by district or rule, newest first."),
    route!("/api/alerts/{identifier}", "One message of a public warning, and the others of the same warning."),
];

pub fn router(alerts: Alerts) -> Router {
    Router::new()
        .route("/cap", get(feed))
        .route("/cap/jwks.json", get(keys))
        .route("/cap/{identifier}", get(message))
        .route("/api/alerts", get(list))
        .route("/api/alerts/{identifier}", get(one))
        .with_state(alerts)
}

/// Seconds for which a feed may be kept: a warning is at most so late at whoever asks through a cache.
const FEED_AGE: &str = "public, max-age=15";
/// A message never changes.
const MESSAGE_AGE: &str = "public, max-age=86400, immutable";

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn query<T>(query: Queried<T>) -> Result<T, Error> {
    query.map(|Query(asked)| asked).map_err(|e| Error::bad_request(e.body_text()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedAsked {
    language: Option<String>,
    district: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    district: Option<String>,
    rule: Option<String>,
    /// Only those that stand.
    #[serde(default)]
    standing: bool,
    limit: Option<usize>,
}

fn checked(name: &str, value: Option<String>) -> Result<Option<String>, Error> {
    match value {
        Some(v) if v.len() > 200 || v.contains('\0') => Err(Error::field(name, "at most 200 characters are expected")),
        value => Ok(value),
    }
}

async fn feed(State(alerts): State<Alerts>, asked: Queried<FeedAsked>, headers: HeaderMap) -> Result<Response, Error> {
    let asked = query(asked)?;
    let language = match &asked.language {
        None => Language::En,
        Some(l) => {
            Language::from_segment(l).ok_or_else(|| Error::field("language", "en, zh-hant or zh-hans is expected"))?
        }
    };
    let since = alerts.now().plus_secs(-KEPT_DAYS * 86_400);
    let district = checked("district", asked.district)?;
    // What stands comes first: many short warnings must not push a long one out.
    let standing = Filter { district: district.clone(), standing: true, ..Filter::default() };
    let mut found = alerts.list(standing, MAX_LISTED).await?;
    let recent = alerts.list(Filter { district, since: Some(since), ..Filter::default() }, MAX_LISTED).await?;
    let now = alerts.now();
    found.extend(recent.into_iter().filter(|s| !s.stands(now)));
    found.truncate(MAX_LISTED);
    found.sort_by_key(|s| std::cmp::Reverse(s.sent));
    Ok(conditional(&headers, atom(&alerts, language, &found), "application/atom+xml; charset=utf-8", FEED_AGE))
}

/// The feed; `updated` is that of its newest entry, so that asking again for the same gives the same bytes.
fn atom(alerts: &Alerts, language: Language, found: &[Stored]) -> String {
    let publisher = alerts.publisher();
    let (address, words) = (&publisher.address, &publisher.catalogue);
    let title = words.msg(language, "warning.cap.feed").with("city", publisher.city.get(language)).to_string();
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\" xml:lang=\"",
    );
    out.push_str(language.tag());
    out.push_str("\">");
    element(&mut out, "id", &format!("{address}/cap"));
    element(&mut out, "title", &title);
    let newest = found.first().map_or(kernel::Timestamp::from_secs(0), |s| s.sent);
    element(&mut out, "updated", &publisher.time(newest));
    out.push_str("<author>");
    element(&mut out, "name", publisher.city.get(language));
    out.push_str("</author>");
    link(&mut out, "self", "application/atom+xml", &format!("{address}/cap"));
    link(&mut out, "alternate", "text/html", &format!("{address}/{}/alerts", language.segment()));
    for one in found {
        let message = &one.message;
        let Some(info) = message.info(language) else { continue };
        out.push_str("<entry>");
        element(&mut out, "id", &format!("{address}/cap/{}", message.identifier));
        element(&mut out, "title", &info.headline);
        element(&mut out, "updated", &message.sent);
        element(&mut out, "published", &message.sent);
        out.push_str("<author>");
        element(&mut out, "name", &info.sender_name);
        out.push_str("</author>");
        for term in [message.status.name(), message.msg_type.name(), info.severity.name()] {
            out.push_str("<category term=\"");
            out.push_str(term);
            out.push_str("\"></category>");
        }
        element(&mut out, "summary", &info.description);
        link(&mut out, "alternate", "application/cap+xml", &format!("{address}/cap/{}", message.identifier));
        link(&mut out, "related", "text/html", &info.web);
        out.push_str("</entry>");
    }
    out.push_str("</feed>");
    out
}

fn link(out: &mut String, rel: &str, kind: &str, href: &str) {
    out.push_str("<link rel=\"");
    out.push_str(rel);
    out.push_str("\" type=\"");
    out.push_str(kind);
    out.push_str("\" href=\"");
    let mut escaped = String::new();
    text(&mut escaped, href);
    out.push_str(&escaped.replace('"', "&quot;"));
    out.push_str("\"></link>");
}

async fn message(
    State(alerts): State<Alerts>,
    Path(identifier): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let xml = alerts.xml(&identifier).await?;
    Ok(conditional(&headers, xml, "application/cap+xml; charset=utf-8", MESSAGE_AGE))
}

async fn keys(State(alerts): State<Alerts>, headers: HeaderMap) -> Result<Response, Error> {
    let keys = alerts.keys().await?.to_string();
    Ok(conditional(&headers, keys, "application/jwk-set+json", "public, max-age=3600"))
}

async fn list(State(alerts): State<Alerts>, asked: Queried<Asked>, headers: HeaderMap) -> Result<Response, Error> {
    let asked = query(asked)?;
    let filter = Filter {
        district: checked("district", asked.district)?,
        rule: checked("rule", asked.rule)?,
        standing: asked.standing,
        since: None,
    };
    let found = alerts.list(filter, asked.limit.unwrap_or(50)).await?;
    let now = alerts.now();
    let body = json!({ "alerts": found.iter().map(|s| shown(s, now)).collect::<Vec<_>>() });
    Ok(conditional(&headers, body.to_string(), "application/json", FEED_AGE))
}

fn shown(stored: &Stored, now: kernel::Timestamp) -> Value {
    let Stored { chain, message, .. } = stored;
    json!({
        "warning": chain.warning, "standing": stored.stands(now), "rule": chain.rule, "tenant": chain.tenant,
        "district": chain.district, "message": message, "cap": format!("/cap/{}", message.identifier),
    })
}

async fn one(
    State(alerts): State<Alerts>,
    Path(identifier): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (stored, history) = alerts.get(&identifier).await?;
    let mut body = shown(&stored, alerts.now());
    let lines = history.iter().map(|l| json!({ "identifier": l.identifier, "msgType": l.msg_type, "sent": l.sent }));
    body["history"] = lines.collect::<Vec<_>>().into();
    Ok(conditional(&headers, body.to_string(), "application/json", FEED_AGE))
}

/// The answer with its ETag, or 304 to whoever has it already (RFC 9110 section 13.1.2).
fn conditional(headers: &HeaderMap, body: String, kind: &'static str, age: &'static str) -> Response {
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let known =
        known.is_some_and(|tags| tags.split(',').map(str::trim).any(|t| t == "*" || t.trim_start_matches("W/") == tag));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { (StatusCode::OK, body).into_response() };
    let out = response.headers_mut();
    if !known {
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(age));
    // Whoever draws a map on another page may ask: nothing here is anybody's own.
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
