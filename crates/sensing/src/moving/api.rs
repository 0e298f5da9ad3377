//! `/api/fences`, `/api/things/{id}/track` and `/visits`, `/api/map/tracks`, `/api/datastreams/{id}/profiles`. See docs/moving.md.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::{HeaderName, StatusCode, header},
    response::Response,
    routing::get,
};
use kernel::{Problem, Timestamp};
use serde_json::{Map, Value, json};
use ui::Query;

use super::{
    MAX_FIXES, MAX_THINGS, Mover, Moving, Way,
    fence::FenceDeclaration,
    fences::Stored,
    mf_json::{self, rounded},
    profile::{self, Section},
    time,
};
use crate::{
    Audience, Error, Route,
    door::{Who, caller, fresh, keyed_body, signed_in},
    model::{EntityId, EntityType},
    route::action::{READ, RULE_MANAGE},
};

/// Bytes of a fence.
const BODY_BYTES: usize = 2 << 20;
/// Fixes of an answer where nothing else was asked for, and at most.
const POINTS: usize = 1_000;
const MAX_POINTS: usize = 10_000;
/// Fixes of each Thing in the answer for the map.
const MAP_POINTS: usize = 200;
/// The span that is answered where none was asked for.
const SPAN_SECS: i64 = 86_400;
/// Fences of an answer.
const FENCES: usize = 1_000;
/// Metres that count as inside of a fence, or out of it, where no rule says otherwise.
pub const MARGIN: f64 = 20.0;

const fn route(method: &'static str, path: &'static str, audit: bool, summary: &'static str) -> Route {
    let (action, audience) = if audit { (RULE_MANAGE, Audience::SignedIn) } else { (READ, Audience::Public) };
    Route { method, path, action, audience, audit, summary }
}

pub const ROUTES: &[Route] = &[
    route("GET", "/api/fences", false, "Geofences that you may see, as a GeoJSON FeatureCollection."),
    route("GET", "/api/fences/{key}", false, "One geofence, as it was declared."),
    route("PUT", "/api/fences/{key}", true, "Draw a geofence, or draw it anew."),
    route("DELETE", "/api/fences/{key}", true, "Remove a geofence that no rule names."),
    route(
        "GET",
        "/api/things/{id}/track",
        false,
        "Where a Thing that moves was: GeoJSON, or OGC Moving Features JSON with format=mf-json.",
    ),
    route("GET", "/api/things/{id}/visits", false, "When a Thing that moves was inside of which geofence."),
    route("GET", "/api/map/tracks", false, "The tracks of all Things that move, for playing them back on a map."),
    route("GET", "/api/datastreams/{id}/profiles", false, "Casts of a Datastream whose Observations carry a depth."),
];

pub fn router(moving: Moving) -> Router {
    Router::new()
        .route("/api/fences", get(fences))
        .route("/api/fences/{key}", get(fence).put(draw).delete(remove))
        .route("/api/things/{id}/track", get(track))
        .route("/api/things/{id}/visits", get(visits))
        .route("/api/map/tracks", get(tracks))
        .route("/api/datastreams/{id}/profiles", get(profiles))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(moving)
}

/// Not 400: an id that cannot exist does not exist.
pub(crate) fn entity(kind: &str, text: &str) -> Result<EntityId, Error> {
    let id = text.parse().ok().filter(|id: &i64| *id > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    id.map(EntityId)
        .ok_or_else(|| Error::not_found(format!("The {kind} {}", text.chars().take(20).collect::<String>())))
}

fn feature(s: &Stored) -> Value {
    // Each ring as a polygon of its own would fill holes; outlines are lines.
    let lines = s.fence.rings();
    json!({
        "type": "Feature", "id": s.fence.key, "geometry": {"type": "MultiLineString", "coordinates": lines},
        "properties": {"key": s.fence.key, "name": s.fence.name, "tenant": s.fence.tenant, "kind": s.fence.kind, "public": s.fence.public,
            "source": s.source, "revision": s.revision},
    })
}

async fn fences(State(moving): State<Moving>, who: Who, RawQuery(query): RawQuery) -> Result<Response, Error> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let limit = whole(&query, "limit", FENCES, 1..=FENCES)?;
    let (found, next) = moving.fences().page(&caller(who), query.get("after").as_deref(), limit).await?;
    let features: Vec<Value> = found.iter().map(feature).collect();
    let mut body = json!({ "type": "FeatureCollection", "features": features });
    if let Some(next) = next {
        body["next"] = next.into();
    }
    Ok(fresh(Json(body)))
}

fn detail(s: &Stored) -> Value {
    json!({"fence": s.fence.declaration(), "source": s.source, "revision": s.revision, "changed_at": s.changed_at, "changed_by": s.changed_by})
}

async fn fence(State(moving): State<Moving>, who: Who, Path(key): Path<String>) -> Result<Response, Error> {
    let caller = caller(who);
    let found = moving.fences().get(&caller, &key).await?;
    let mut body = detail(&found);
    if caller.is_anonymous() {
        // Who drew it is nobody's business outside.
        body.as_object_mut().map(|b| b.remove("changed_by"));
    }
    Ok(fresh(Json(body)))
}

async fn draw(State(moving): State<Moving>, who: Who, Path(key): Path<String>, body: Bytes) -> Result<Response, Error> {
    let caller = signed_in(who)?;
    let declaration: FenceDeclaration = keyed_body(&body, &key, "fence")?;
    Ok(fresh(Json(detail(&moving.fences().declare(&caller, declaration, None).await?))))
}

async fn remove(State(moving): State<Moving>, who: Who, Path(key): Path<String>) -> Result<StatusCode, Error> {
    moving.fences().remove(&signed_in(who)?, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `from` and `to` of an address; the day before `to` where `from` is not given, and `to` is now.
pub(crate) fn span(query: &Query, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    let to = time(query, "to")?.unwrap_or(now);
    let from = time(query, "from")?.unwrap_or_else(|| to.plus_secs(-SPAN_SECS));
    super::check_span(from, to).map_err(Problem::from)?;
    Ok((from, to))
}

fn whole(query: &Query, name: &str, plain: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize, Problem> {
    let Some(text) = query.get(name) else { return Ok(plain) };
    let wrong = || Problem::field(name, format!("{} to {} is expected", range.start(), range.end()));
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(wrong)
}

fn summary(mover: &Mover, way: &Way, (from, to): (Timestamp, Timestamp), wrong: f64) -> Map<String, Value> {
    let body = json!({
        "thing": mover.thing, "datastream": mover.datastream, "name": mover.name, "simulated": mover.simulated, "from": way.from, "to": to,
        "complete": way.from == from, "fixes": way.read, "metres": way.track.metres().round(), "seconds": way.track.seconds().round(),
        "tolerance": rounded(wrong), "limits": mover.limits,
    });
    match body {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

type Typed = ([(HeaderName, &'static str); 2], Json<Value>);

async fn track(
    State(moving): State<Moving>,
    who: Who,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Typed, Error> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let scope = moving.scope(&caller(who));
    let mover = moving.mover(&scope, entity("Thing", &id)?).await?;
    let (from, to) = span(&query, moving.now())?;
    let most = whole(&query, "max", POINTS, 2..=MAX_POINTS)?;
    let (kind, moving_features) = match query.get("format").as_deref() {
        None | Some("geojson") => ("application/geo+json", false),
        Some("mf-json") => ("application/json", true),
        Some(_) => return Err(Error::field("format", "geojson or mf-json is expected")),
    };
    let way = moving.way(&mover, from, to, MAX_FIXES).await?;
    let (simple, wrong) = way.simplified(most).await?;
    let properties = summary(&mover, &way, (from, to), wrong);
    let body = match moving_features {
        true => mf_json::prism(&simple, properties),
        false => mf_json::geojson(&simple, properties),
    };
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], Json(body)))
}

async fn visits(
    State(moving): State<Moving>,
    who: Who,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let caller = caller(who);
    let mover = moving.mover(&moving.scope(&caller), entity("Thing", &id)?).await?;
    let (from, to) = span(&query, moving.now())?;
    let zone = Arc::new(moving.fences().zone(&caller, &mover.tenant, query.get("kind").as_deref()).await?);
    let way = moving.way(&mover, from, to, MAX_FIXES).await?;
    let visits: Vec<Value> = way
        .visits(&zone, MARGIN)
        .await?
        .iter()
        .map(|v| {
            let fence = &zone.fences()[v.fence];
            json!({"fence": fence.key, "name": fence.name, "kind": fence.kind, "entered_at": v.entered, "left_at": v.left, "seconds": v.seconds()})
        })
        .collect();
    let body = json!({"thing": mover.thing, "from": way.from, "to": to, "complete": way.from == from, "margin": MARGIN, "visits": visits});
    Ok(fresh(Json(body)))
}

/// Of each Thing `[milliseconds, longitude, latitude]`, by legs: what an island draws.
async fn tracks(State(moving): State<Moving>, who: Who, RawQuery(query): RawQuery) -> Result<Response, Error> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let language = query.get("lang").and_then(|l| kernel::Language::from_segment(&l)).unwrap_or_default();
    let (from, to) = span(&query, moving.now())?;
    let most = whole(&query, "max", MAP_POINTS, 2..=1_000)?;
    let system = query.get("system").filter(|s| !s.is_empty());
    let (movers, more) = moving.movers(&moving.scope(&caller(who)), system, MAX_THINGS).await?;
    let mut tracks = Vec::with_capacity(movers.len());
    let mut complete = !more;
    for mover in &movers {
        let way = moving.way(mover, from, to, super::share(movers.len())).await?;
        complete &= way.from == from;
        let (simple, _) = way.simplified(most).await?;
        let point = |f: &super::Fix| json!([f.at.as_micros() / 1_000, f.place.lon, f.place.lat]);
        let legs: Vec<Vec<Value>> = simple.legs.iter().map(|leg| leg.iter().map(point).collect()).collect();
        tracks.push(json!({
            "id": mover.thing, "name": mover.name.get(language), "system": mover.system, "simulated": mover.simulated, "gap": mover.limits.gap,
            "href": format!("/{}/things/{}/track", language.segment(), mover.thing), "legs": legs,
        }));
    }
    Ok(fresh(Json(json!({"from": from, "to": to, "complete": complete, "tracks": tracks}))))
}

async fn profiles(
    State(moving): State<Moving>,
    who: Who,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let scope = moving.scope(&caller(who));
    let id = entity("Datastream", &id)?;
    let found = moving.catalog().get(&scope, EntityType::Datastream, id).await?;
    let datastream = found.ok_or_else(|| Error::not_found(format!("Datastreams({id})")))?;
    let (from, to) = span(&query, moving.now())?;
    let most = whole(&query, "max", 50, 1..=profile::MAX_CASTS)?;
    let Section { casts, complete } = moving.casts(id, from, to, most).await?;
    let unit = datastream.field("unitOfMeasurement").to_value();
    let body =
        json!({"datastream": id, "unit": unit["symbol"], "from": from, "to": to, "complete": complete, "casts": casts});
    Ok(fresh(Json(body)))
}
