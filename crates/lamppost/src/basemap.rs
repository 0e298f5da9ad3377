//! The land under the map: the pack's outline, reduced to what a screen can show.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// About twenty metres: less than a pixel at the zoom levels of a city.
const TOLERANCE: f64 = 0.0002;

/// [`simplified`], kept in `folder` from the first time on: reading megabytes of GeoJSON takes time and memory at every start, and its answer
/// changes when the file does.
pub fn kept(file: &Path, folder: &Path) -> anyhow::Result<Vec<u8>> {
    let source = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let name = format!("land-{}.geojson", hex::encode(&Sha256::digest(&source)[..16]));
    let path = folder.join(&name);
    if let Ok(land) = std::fs::read(&path) {
        return Ok(land);
    }
    let land = simplified(file)?;
    // It is a cache: a folder that cannot be written costs the next start some time.
    if let Err(error) = keep(folder, &name, &land) {
        tracing::warn!(%error, "the simplified land could not be kept");
    }
    Ok(land)
}

/// Whole or not at all, and instead of those of other files.
fn keep(folder: &Path, name: &str, land: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|n| n.starts_with("land-")) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let fresh = folder.join("land-new");
    std::fs::write(&fresh, land)?;
    std::fs::rename(fresh, folder.join(name))
}

/// Reads GeoJSON and answers it with simpler lines, five decimals, and no properties.
pub fn simplified(file: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("{shown} cannot be read"))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{shown} is not JSON"))?;
    let features = value["features"].as_array().with_context(|| format!("{shown} is not a FeatureCollection"))?;
    let features: Vec<Value> = features.iter().filter_map(|f| feature(&f["geometry"])).collect();
    Ok(serde_json::to_vec(&json!({ "type": "FeatureCollection", "features": features }))?)
}

fn feature(geometry: &Value) -> Option<Value> {
    let coordinates = geometry["coordinates"].as_array()?;
    let coordinates: Vec<Value> = match geometry["type"].as_str()? {
        "Polygon" => vec![polygon(coordinates)?],
        "MultiPolygon" => coordinates.iter().filter_map(|p| polygon(p.as_array()?)).collect(),
        _ => return None,
    };
    let geometry = json!({ "type": "MultiPolygon", "coordinates": coordinates });
    Some(json!({ "type": "Feature", "properties": Map::new(), "geometry": geometry }))
}

/// `None` when its outer ring is too small to be seen.
fn polygon(rings: &[Value]) -> Option<Value> {
    let mut kept = rings.iter().map(|ring| ring_of(ring.as_array()?));
    let outer = kept.next()??;
    Some(Value::Array(std::iter::once(outer).chain(kept.flatten()).collect()))
}

fn ring_of(ring: &[Value]) -> Option<Value> {
    let points: Vec<[f64; 2]> = ring.iter().filter_map(|p| Some([p.get(0)?.as_f64()?, p.get(1)?.as_f64()?])).collect();
    let round = |v: f64| (v * 100_000.0).round() / 100_000.0;
    let kept = simplify(&points, TOLERANCE);
    (kept.len() >= 4).then(|| json!(kept.iter().map(|p| [round(p[0]), round(p[1])]).collect::<Vec<_>>()))
}

/// About fifty metres: less than a pixel of a small map.
const OUTLINE: f64 = 0.0005;

/// The land as one SVG symbol, in the projection of [`ui::MiniMap`]: what dashboards draw their places on. Takes what [`simplified`] answers.
pub fn outline(land: &[u8], bounds: [f64; 4]) -> anyhow::Result<Vec<u8>> {
    use std::fmt::Write as _;
    let value: Value = serde_json::from_slice(land)?;
    let mut path = String::new();
    let features = value["features"].as_array().into_iter().flatten();
    let polygons = features.flat_map(|f| f["geometry"]["coordinates"].as_array().into_iter().flatten());
    for ring in polygons.flat_map(|p| p.as_array().into_iter().flatten()) {
        let points = ring.as_array().into_iter().flatten();
        let points: Vec<[f64; 2]> = points.filter_map(|p| Some([p.get(0)?.as_f64()?, p.get(1)?.as_f64()?])).collect();
        let kept = simplify(&points, OUTLINE);
        if kept.len() < 4 {
            continue;
        }
        // Whole numbers, each counted from the one before: a third of the bytes.
        let mut before: Option<[i64; 2]> = None;
        for point in kept {
            let at = ui::project(bounds, point).map(|v| v.round() as i64);
            // Writing to a String cannot fail.
            let _ = match before {
                None => write!(path, "M{} {}l", at[0], at[1]),
                Some(before) => write!(path, "{} {} ", at[0] - before[0], at[1] - before[1]),
            };
            before = Some(at);
        }
        path.truncate(path.trim_end().len());
        path.push('z');
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><symbol id=\"land\" overflow=\"visible\"><path d=\"{path}\"/></symbol></svg>"
    );
    Ok(svg.into_bytes())
}

/// Douglas and Peucker's line simplification, without recursion so that a long shore cannot exhaust the stack.
pub(crate) fn simplify(points: &[[f64; 2]], tolerance: f64) -> Vec<[f64; 2]> {
    if points.len() < 4 {
        return points.to_vec();
    }
    let mut keep = vec![false; points.len()];
    let last = points.len() - 1;
    // A ring ends where it begins: it is cut at its farthest point, or everything would be zero away from the chord.
    let far = (0..=last)
        .max_by(|a, b| distance2(points[*a], points[0]).total_cmp(&distance2(points[*b], points[0])))
        .unwrap_or(last);
    for at in [0, far, last] {
        keep[at] = true;
    }
    let mut spans = vec![(0, far), (far, last)];
    while let Some((from, to)) = spans.pop() {
        let off = |at: usize| from_chord(points[at], points[from], points[to]);
        let Some(worst) = (from + 1..to).max_by(|a, b| off(*a).total_cmp(&off(*b))) else { continue };
        if off(worst) > tolerance * tolerance {
            keep[worst] = true;
            spans.extend([(from, worst), (worst, to)]);
        }
    }
    points.iter().zip(keep).filter(|(_, keep)| *keep).map(|(p, _)| *p).collect()
}

fn distance2(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

/// Squared distance of `p` from the segment.
fn from_chord(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let length = distance2(a, b);
    if length == 0.0 {
        return distance2(p, a);
    }
    let along = (((p[0] - a[0]) * (b[0] - a[0]) + (p[1] - a[1]) * (b[1] - a[1])) / length).clamp(0.0, 1.0);
    distance2(p, [a[0] + along * (b[0] - a[0]), a[1] + along * (b[1] - a[1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hong_kong_becomes_a_third_and_keeps_its_districts() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong/data/districts-land.geojson");
        let before = std::fs::metadata(&data).expect("data").len();
        let after = simplified(&data).expect("simplified");
        assert!(after.len() as u64 * 3 < before, "{} of {before}", after.len());
        let value: Value = serde_json::from_slice(&after).expect("JSON");
        assert_eq!(value["features"].as_array().map(Vec::len), Some(18));
    }

    #[test]
    fn the_outline_is_small_and_lies_where_its_places_are() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong/data/districts-land.geojson");
        let land = simplified(&data).expect("simplified");
        let bounds = [113.82, 22.13, 114.45, 22.57];
        let svg = String::from_utf8(outline(&land, bounds).expect("an outline")).expect("text");
        assert!(svg.len() < 120_000, "{} bytes", svg.len());
        let [width, height] = ui::project(bounds, [bounds[2], bounds[1]]);
        let path = svg.split("path d=\"").nth(1).and_then(|d| d.split('"').next()).expect("a path");
        let starts: Vec<[f64; 2]> = path
            .split('M')
            .skip(1)
            .filter_map(|ring| {
                let (x, y) = ring.split('l').next()?.split_once(' ')?;
                Some([x.parse().ok()?, y.parse().ok()?])
            })
            .collect();
        assert!(starts.len() > 20, "only {} rings", starts.len());
        let inside = starts.iter().filter(|[x, y]| (0.0..=width).contains(x) && (0.0..=height).contains(y)).count();
        assert!(inside * 10 >= starts.len() * 9, "{inside} of {} lie in the city", starts.len());
    }

    #[test]
    fn the_land_is_simplified_once_for_each_outline() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, cache) = (folder.path().join("outline.geojson"), folder.path().join("cache"));
        let names = || -> Vec<_> {
            let entries = std::fs::read_dir(&cache).expect("a folder");
            entries.map(|e| e.expect("an entry").file_name()).collect()
        };
        let square = |size: f64| {
            let ring = [[0.0, 0.0], [size, 0.0], [size, size], [0.0, size], [0.0, 0.0]];
            let geometry = json!({"type": "Polygon", "coordinates": [ring]});
            json!({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": geometry}]}).to_string()
        };
        std::fs::write(&file, square(1.0)).expect("written");
        let first = kept(&file, &cache).expect("simplified");
        assert_eq!(first, simplified(&file).expect("simplified"));
        // What is kept is what is answered.
        let before = names();
        std::fs::write(cache.join(&before[0]), "kept").expect("written");
        assert_eq!(kept(&file, &cache).expect("kept"), b"kept");
        std::fs::write(&file, square(2.0)).expect("written");
        assert_eq!(kept(&file, &cache).expect("simplified"), simplified(&file).expect("simplified"));
        assert_eq!(names().len(), 1, "the old one is gone");
        assert_ne!(names(), before);
    }

    #[test]
    fn what_is_straight_loses_its_middle_and_a_corner_stays() {
        let square = [[0.0, 0.0], [0.5, 0.00001], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]];
        assert_eq!(simplify(&square, TOLERANCE), [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]);
    }
}
