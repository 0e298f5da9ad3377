//! A track as OGC Moving Features JSON (19-045r3), and as GeoJSON (RFC 7946).

use serde_json::{Map, Value, json};

use super::{Fix, Track};

fn coordinates(leg: &[Fix]) -> Vec<[f64; 2]> {
    leg.iter().map(|fix| [fix.place.lon, fix.place.lat]).collect()
}

fn suspects(track: &Track) -> Vec<Value> {
    track.suspect.iter().map(|f| json!({"time": f.at, "coordinates": [f.place.lon, f.place.lat]})).collect()
}

/// MF-JSON Prism (19-045r3 section 7.2): a `MovingPoint` for a way without gaps, else a `MovingGeometryCollection` of one for each leg, so that nobody is told of a straight
/// line where nobody knows; speed as a temporal property (section 7.2.3) in metres a second, which UN/CEFACT calls `MTS`.
pub fn prism(track: &Track, properties: Map<String, Value>) -> Value {
    let point = |leg: &Vec<Fix>| {
        let times: Vec<_> = leg.iter().map(|fix| fix.at).collect();
        json!({"type": "MovingPoint", "datetimes": times, "coordinates": coordinates(leg), "interpolation": "Linear"})
    };
    let geometry = match track.legs.as_slice() {
        // A collection has at least one.
        [] => Value::Null,
        [leg] => point(leg),
        legs => json!({"type": "MovingGeometryCollection", "prisms": legs.iter().map(point).collect::<Vec<_>>()}),
    };
    let crs = json!({"type": "Name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}});
    let trs = json!({"type": "Name", "properties": {"name": "urn:ogc:data:time:iso8601"}});
    let speeds: Vec<Value> = track
        .speeds()
        .iter()
        .filter(|leg| !leg.is_empty())
        .map(|leg| {
            let times: Vec<_> = leg.iter().map(|(at, _)| at).collect();
            let values: Vec<f64> = leg.iter().map(|(_, v)| rounded(*v)).collect();
            json!({"datetimes": times, "speed": {"type": "Measure", "form": "MTS", "values": values, "interpolation": "Linear"}})
        })
        .collect();
    let mut properties = properties;
    properties.insert("suspect".to_owned(), suspects(track).into());
    json!({
        "type": "Feature", "crs": crs, "trs": trs, "temporalGeometry": geometry, "temporalProperties": speeds,
        "properties": properties,
    })
}

/// A Feature whose geometry is a MultiLineString, one line for each leg; `times` and `speeds` are as its `coordinates` are. A leg of one fix stands twice
/// in its line, which must have two positions.
pub fn geojson(track: &Track, properties: Map<String, Value>) -> Value {
    let doubled = |leg: &[Fix]| if leg.len() == 1 { [leg, leg].concat() } else { leg.to_vec() };
    let legs: Vec<Vec<Fix>> = track.legs.iter().map(|leg| doubled(leg)).collect();
    let lines: Vec<_> = legs.iter().map(|leg| coordinates(leg)).collect();
    let times: Vec<Vec<_>> = legs.iter().map(|leg| leg.iter().map(|f| f.at).collect()).collect();
    let speeds: Vec<Vec<Option<f64>>> = track
        .speeds()
        .into_iter()
        .map(|leg| {
            let rest: Vec<Option<f64>> = leg.into_iter().map(|(_, v)| Some(rounded(v))).collect();
            // The first of a leg has nothing before it.
            let rest = if rest.is_empty() { vec![None] } else { rest };
            std::iter::once(None).chain(rest).collect()
        })
        .collect();
    let mut properties = properties;
    properties.insert("times".to_owned(), json!(times));
    properties.insert("speeds".to_owned(), json!(speeds));
    properties.insert("suspect".to_owned(), suspects(track).into());
    json!({"type": "Feature", "geometry": {"type": "MultiLineString", "coordinates": lines}, "properties": properties})
}

pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
