//! What public warnings need of the program: the key that they are signed with, and the districts' outlines from the pack.

use std::path::Path;

use anyhow::Context;
use kernel::Text;
use ring::rand::SystemRandom;
use sensing::alerts::{
    publisher::{Districts, Ring},
    sign::Signer,
};
use serde_json::Value;

use crate::{basemap, pack::city::DistrictForm};

/// About a hundred metres: finer than any receiver decides by.
const TOLERANCE: f64 = 0.001;

/// The key in `path`, made at the first start and readable by its owner alone. A machine that takes over with a data folder of its own has
/// a key of its own; the public halves of both are in the records.
pub fn signer(path: &Path) -> anyhow::Result<Signer> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let random = SystemRandom::new();
    let pkcs8 = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let fresh = Signer::generate(&random).map_err(anyhow::Error::msg)?;
            let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&fresh)?;
            file.sync_all()?;
            fresh
        }
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
    };
    let signer = Signer::new(&pkcs8, Box::new(random)).map_err(anyhow::Error::msg);
    let signer = signer.with_context(|| {
        format!("{} is damaged: put it back from a backup, or remove it for a new key", path.display())
    })?;
    let chain = path.with_extension("pem");
    match std::fs::read_to_string(&chain) {
        Ok(pem) => signer.vouched(&pem).map_err(anyhow::Error::msg).with_context(|| {
            format!("{}: have a certificate issued for the key beside it, or remove the file", chain.display())
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(signer),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", chain.display())),
    }
}

/// The districts of a GeoJSON file, called as the pack says or else as the file does. Without a file they have names and no outlines.
pub fn districts(file: Option<&Path>, names: &[DistrictForm]) -> anyhow::Result<Districts> {
    let named = names.iter().map(|d| (d.key.clone(), d.name.clone()));
    let Some(file) = file else { return Ok(Districts::new([], named)) };
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("{shown} cannot be read"))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{shown} is not JSON"))?;
    let features = value["features"].as_array().with_context(|| format!("{shown} is not a FeatureCollection"))?;
    Ok(Districts::new(features.iter().filter_map(district), named))
}

/// Names under `name`, `name_zh_hant` and `name_zh_hans`, or as the Lands Department's files have them.
fn district(feature: &Value) -> Option<(Text, Vec<Ring>)> {
    let property = |names: &[&str]| {
        let found = names.iter().find_map(|n| feature["properties"][n].as_str());
        found.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
    };
    let name = Text {
        en: property(&["name", "NAME_EN"])?,
        zh_hant: property(&["name_zh_hant", "NAME_TC"]),
        zh_hans: property(&["name_zh_hans", "NAME_SC"]),
    };
    let coordinates = feature["geometry"]["coordinates"].as_array()?;
    let outer: Vec<&Value> = match feature["geometry"]["type"].as_str()? {
        "Polygon" => coordinates.first().into_iter().collect(),
        "MultiPolygon" => coordinates.iter().filter_map(|p| p.get(0)).collect(),
        _ => return None,
    };
    let mut rings: Vec<Ring> = outer.into_iter().filter_map(ring).collect();
    // Islands that are smaller come later, and the smallest not at all.
    rings.sort_by_key(|r| std::cmp::Reverse(r.len()));
    Some((name, rings))
}

fn ring(points: &Value) -> Option<Ring> {
    let pair = |p: &Value| Some([p.get(0)?.as_f64()?, p.get(1)?.as_f64()?]);
    let points: Ring = points.as_array()?.iter().filter_map(pair).collect();
    let kept = basemap::simplify(&points, TOLERANCE);
    (kept.len() >= 4).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        let first = signer(&path).expect("made");
        assert_eq!(signer(&path).expect("read").id(), first.id());
        std::fs::write(&path, b"not a key").expect("written");
        let error = signer(&path).err().expect("damaged");
        assert!(format!("{error:#}").contains("is damaged"), "{error:#}");
        std::fs::remove_file(&path).expect("removed");
        // A certificate for the key before it: a warning that nobody can verify is not sent.
        let own = rcgen::KeyPair::generate().expect("a key");
        let other = rcgen::CertificateParams::new(Vec::<String>::new()).and_then(|p| p.self_signed(&own)).expect("one");
        std::fs::write(path.with_extension("pem"), other.pem()).expect("written");
        let error = signer(&path).err().expect("of another key");
        assert!(format!("{error:#}").contains("another key"), "{error:#}");
    }

    #[test]
    fn the_packs_districts_have_names_and_outlines() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong/data/districts-with-sea.geojson");
        let names =
            [DistrictForm { key: "Yuen Long".to_owned(), name: Text::new("Yuen Long", "元朗區", "元朗区") }];
        let shown = format!("{:?}", districts(Some(&file), &names).expect("read"));
        for name in ["yuen long", "central and western", "sai kung"] {
            assert!(shown.contains(&format!("\"{name}\": (Text")), "{name}");
        }
        assert!(shown.contains("元朗区"), "the pack's own name");
        assert!(shown.len() < 200_000, "{} bytes: every message carries one of them three times", shown.len());
    }
}
