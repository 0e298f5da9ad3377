//! Districts of the map as outlines of fences.

use std::path::Path;

use anyhow::Context;
use sensing::moving::fences::Districts;
use serde_json::{Value, json};

use crate::{basemap, pack::city::DistrictForm};

/// Some twenty metres, which is what a fix is wrong by.
const TOLERANCE: f64 = 0.0002;

/// The districts of a GeoJSON file as things name them: by the pack's key of that name, else by the file's own. Without a file there are none.
pub fn districts(file: Option<&Path>, names: &[DistrictForm]) -> anyhow::Result<Districts> {
    let Some(file) = file else { return Ok(Districts::new()) };
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("{shown} cannot be read"))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{shown} is not JSON"))?;
    let features = value["features"].as_array().with_context(|| format!("{shown} is not a FeatureCollection"))?;
    let key = |name: String| names.iter().find(|d| d.name.en == name).map_or(name, |d| d.key.clone());
    Ok(features.iter().filter_map(district).map(|(name, outline)| (key(name), outline)).collect())
}

fn district(feature: &Value) -> Option<(String, Value)> {
    let properties = &feature["properties"];
    let name = properties["name"].as_str().or_else(|| properties["NAME_EN"].as_str())?.trim().to_owned();
    let coordinates = feature["geometry"]["coordinates"].as_array()?;
    let polygons: Vec<&Value> = match feature["geometry"]["type"].as_str()? {
        "Polygon" => vec![&feature["geometry"]["coordinates"]],
        "MultiPolygon" => coordinates.iter().collect(),
        _ => return None,
    };
    let polygons: Vec<Value> = polygons.into_iter().filter_map(polygon).collect();
    (!polygons.is_empty()).then(|| (name, json!({"type": "MultiPolygon", "coordinates": polygons})))
}

/// The rings that are left; a polygon whose outer ring is less than the tolerance goes whole.
fn polygon(rings: &Value) -> Option<Value> {
    let pair = |p: &Value| Some([p.get(0)?.as_f64()?, p.get(1)?.as_f64()?]);
    let mut rings = rings.as_array()?.iter().map(|ring| {
        let points: Vec<[f64; 2]> = ring.as_array().into_iter().flatten().filter_map(pair).collect();
        basemap::simplify(&points, TOLERANCE)
    });
    let outer = rings.next().filter(|ring| ring.len() >= 4)?;
    let kept: Vec<_> = std::iter::once(outer).chain(rings.filter(|ring| ring.len() >= 4)).collect();
    Some(json!(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_district_of_the_pack_is_a_fence() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong");
        let pack = crate::pack::Pack::load(&root).unwrap_or_else(|m| panic!("{m:?}"));
        let file = root.join("data/districts-with-sea.geojson");
        let found = districts(Some(&file), &pack.city.district).expect("districts");
        assert!(pack.city.district.iter().all(|d| found.contains_key(&d.key)), "{:?}", found.keys());
        assert_eq!(found.len(), 18);
        let declared = found.keys().map(|name| {
            let key = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let form = json!({"key": key, "tenant": "city", "district": name, "name": {"en": name, "zh-hant": name, "zh-hans": name}});
            serde_json::from_value(form).expect("a fence")
        });
        let fences = sensing::moving::fences::check_all(declared.collect(), &found).unwrap_or_else(|e| panic!("{e:?}"));
        let at = |lon, lat| {
            let place = sensing::moving::Place { lon, lat };
            let inside: Vec<&str> = fences.iter().filter(|f| f.distance(place) < 0.0).map(|f| f.key.as_str()).collect();
            inside.join(" ")
        };
        assert_eq!(at(114.1311, 22.2702), "southern", "Queen Mary Hospital");
        assert_eq!(at(114.1875, 22.3870), "sha-tin");
    }
}
