use std::{fs, path::Path};

use super::*;

fn hong_kong() -> (Pack, Inventory) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packs/hong-kong");
    Pack::check(Path::new(root)).unwrap_or_else(|m| panic!("{m:#?}"))
}

/// A small pack that is right; tests spoil one file of it.
fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const CITY: &str = r#"
name = "town"
city = { en = "Town", zh-hant = "鎮" }
time_zone = "Asia/Hong_Kong"
languages = ["en", "zh-hant"]
operations = "hall"
[map]
centre = [114.0, 22.0]
zoom = 10
bounds = [113.0, 21.0, 115.0, 23.0]
[[tenant]]
slug = "hall"
name = { en = "Hall", zh-hant = "會" }
[[system]]
key = "rain"
name = { en = "Rain", zh-hant = "雨" }
"#;

const THINGS: &str = r#"
[[observed_property]]
key = "rain"
name = { en = "Rain", zh-hant = "雨" }
definition = "https://example.org/rain"
[[sensor]]
key = "gauge"
name = { en = "Gauge", zh-hant = "計" }
[[datastream]]
key = "hourly"
name = { en = "Rain in {place}", zh-hant = "雨" }
observed_property = "rain"
sensor = "gauge"
observation_type = "Measurement"
[[thing]]
from = { rows = "data/places.csv" }
key = "rain-{place|slug}"
tenant = "hall"
system = "rain"
name = { en = "{place}", zh-hant = "{place}" }
location = { lon = "{x}", lat = "{y}" }
properties = { height = "{h?}", code = "{place}" }
datastreams = ["hourly"]
"#;

fn town(spoil: &[(&str, &str)]) -> Result<(Pack, Inventory), String> {
    let folder = tempfile::tempdir().unwrap();
    spoilt(folder.path(), spoil);
    Pack::check(folder.path()).map_err(|m| m.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn spoilt(root: &Path, spoil: &[(&str, &str)]) {
    write(root, "pack.toml", CITY);
    write(root, "things/rain.toml", THINGS);
    write(root, "data/places.csv", "place,x,y,h\nSha Tin,114.2,22.4,7\nTai Po,114.1,22.5,\n");
    write(root, "policies/schema.cedarschema", include_str!("../../../../packs/hong-kong/policies/schema.cedarschema"));
    write(root, "policies/all.cedar", "permit (principal, action, resource) when { resource.public };");
    for (name, text) in spoil {
        write(root, name, text);
    }
}

#[test]
fn hong_kong_has_no_mistakes() {
    let (pack, inventory) = hong_kong();
    let of = |system: &str| inventory.things.iter().filter(|t| t.system == system).count();
    assert_eq!((of("flood"), of("toilet"), of("parking"), of("hepa")), (20, 10, 6, 400));
    assert!(of("lamppost") >= 6 && of("air") > 0 && of("weather") > 0);
    assert_eq!(pack.operations.as_str(), "city");
    assert_eq!(pack.hash, hong_kong().0.hash);
}

/// A start that has nothing to apply pays nothing for the things; whoever does read them is told what is wrong with them.
#[test]
fn things_are_read_when_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    spoilt(folder.path(), &[("things/rain.toml", "this is not TOML")]);
    let pack = Pack::load(folder.path()).unwrap();
    let mistakes = pack.inventory().unwrap_err();
    assert_eq!((mistakes.len(), mistakes[0].file.as_str(), mistakes[0].line), (1, "things/rain.toml", 1));
    spoilt(folder.path(), &[]);
    assert_eq!(pack.inventory().unwrap().things.len(), 2);
    assert_eq!(Pack::load(folder.path()).unwrap().hash, town(&[]).unwrap().0.hash);
}

#[test]
fn a_thing_for_each_row() {
    let (_, pack) = town(&[]).unwrap();
    let keys: Vec<&str> = pack.things.iter().map(|t| t.key.as_str()).collect();
    assert_eq!(keys, ["rain-sha-tin", "rain-tai-po"]);
    let sha_tin = &pack.things[0];
    assert_eq!(sha_tin.location, Some(serde_json::json!({"type": "Point", "coordinates": [114.2, 22.4]})));
    assert_eq!(sha_tin.properties.get("height"), Some(&"7".into()));
    assert_eq!(pack.things[1].properties.get("height"), None, "an optional field that is empty is no property");
    assert_eq!(sha_tin.datastreams[0].key, "rain-sha-tin.hourly");
    assert_eq!(sha_tin.datastreams[0].name.en, "Rain in Sha Tin");
}

#[test]
fn the_hash_changes_with_any_file() {
    let hash = |spoil: &[(&str, &str)]| town(spoil).unwrap().0.hash;
    let before = hash(&[]);
    assert_eq!(before, hash(&[]));
    assert_ne!(before, hash(&[("data/other.txt", "x")]));
    assert_ne!(before, hash(&[("things/rain.toml", &format!("{THINGS}\n"))]));
}

/// Each mistake names its file, its line and what would be right.
#[test]
fn mistakes_are_named() {
    let check = |file: &str, from: &str, to: &str, expect: &str| {
        let text = match file {
            "pack.toml" => CITY,
            _ => THINGS,
        };
        assert!(text.contains(from), "{from}");
        let found = town(&[(file, &text.replacen(from, to, 1))]).expect_err(expect);
        assert_eq!(found, expect);
    };
    let (city, things) = ("pack.toml", "things/rain.toml");
    check(
        city,
        "Asia/Hong_Kong",
        "Asia/Nowhere",
        "pack.toml:4: 'Asia/Nowhere' is not an IANA time zone, such as Asia/Hong_Kong",
    );
    check(city, "operations = \"hall\"", "operations = \"moon\"", "pack.toml:6: operations: there is no tenant 'moon'");
    check(city, ", zh-hant = \"會\"", "", "pack.toml:12: name lacks zh-hant");
    check(city, "[114.0, 22.0]", "[22.0, 114.0]", "pack.toml:8: centre (longitude, latitude) lies outside of bounds");
    check(things, "sensor = \"gauge\"", "sensor = \"guage\"", "things/rain.toml:13: there is no sensor 'guage'");
    check(things, "tenant = \"hall\"", "tenant = \"moon\"", "things/rain.toml:18: there is no tenant 'moon'");
    check(
        things,
        "datastreams = [\"hourly\"]",
        "datastreams = [\"daily\"]",
        "things/rain.toml:23: there is no datastream 'daily'",
    );
    check(
        things,
        "data/places.csv",
        "data/none.csv",
        "things/rain.toml:15: data/none.csv: cannot be read: No such file or directory (os error 2)",
    );
    check(
        things,
        "data/places.csv",
        "../places.csv",
        "things/rain.toml:15: ../places.csv: is not a path inside the pack",
    );
    check(things, "{h?}", "{h}", "things/rain.toml:15: row 2: the row has no 'h' (write {h?} where that may be)");
    check(
        things,
        "lat = \"{y}\"",
        "lat = \"{place}\"",
        "things/rain.toml:15: row 1: location.lat: 'Sha Tin' is not a number",
    );
    check(
        things,
        "key = \"rain-{place|slug}\"",
        "key = \"rain\"",
        "things/rain.toml:17: the thing 'rain' is declared twice; first in things/rain.toml",
    );
    let unknown = town(&[(things, &THINGS.replace("system = ", "sytem = "))]).unwrap_err();
    assert!(unknown.starts_with("things/rain.toml:19: unknown field `sytem`"), "{unknown}");
    let policy =
        town(&[("policies/all.cedar", "\npermit (principal, action, resource) when { resource.colour == 1 };")])
            .unwrap_err();
    assert!(policy.starts_with("policies/all.cedar:2: "), "{policy}");
}

/// What a sealed department measures, and with what, is its own: the city's shared instruments do not tell.
#[test]
fn a_sealed_department_has_its_own_instruments() {
    let (pack, inventory) = hong_kong();
    let sealed: Vec<&Tenant> = pack.sealed.iter().collect();
    assert_eq!(sealed.len(), 1, "{sealed:?}");
    let keys = |declared: Vec<sensing::catalog::Declared>| -> Vec<String> {
        assert!(declared.iter().all(|d| d.body["@lamppost.public"].is_boolean()));
        declared.into_iter().map(|d| format!("{} {}", d.entity.singular(), d.key)).collect()
    };
    let (shared, own) = (keys(apply::shared(&inventory, &pack.sealed)), keys(apply::own(&inventory, sealed[0])));
    assert!(own.contains(&"ObservedProperty pulse-rate".to_owned()), "{own:?}");
    assert!(!own.is_empty() && own.iter().all(|one| !shared.contains(one)), "{own:?}");
    assert!(apply::own(&inventory, sealed[0]).iter().all(|d| d.body["@lamppost.public"] == false));
    // What others use too is declared on both sides, so that no tie leads out.
    let mut mixed = inventory.clone();
    mixed.things.iter_mut().find(|t| t.tenant.as_str() == "ha").unwrap().tenant = sealed[0].clone();
    let (shared, own) = (keys(apply::shared(&mixed, &pack.sealed)), keys(apply::own(&mixed, sealed[0])));
    assert!(
        shared.contains(&"Sensor hepa-controller".to_owned()) && own.contains(&"Sensor hepa-controller".to_owned())
    );
}

#[test]
fn a_sealed_department_publishes_nothing() {
    let sealed = CITY.replacen("operations = \"hall\"", "operations = \"other\"", 1);
    assert_ne!(sealed, CITY);
    let sealed = sealed.replacen("slug = \"hall\"", "slug = \"hall\"\nsealed = true", 1)
        + "\n[[tenant]]\nslug = \"other\"\nname = { en = \"Other\", zh-hant = \"他\" }\n";
    let public = THINGS.replacen("system = ", "public = true\nsystem = ", 1);
    let mistake = town(&[("pack.toml", &sealed), ("things/rain.toml", &public)]).expect_err("it is refused");
    assert!(mistake.ends_with("'hall' is sealed: nothing of it is public"), "{mistake}");
    let operations = CITY.replacen("slug = \"hall\"", "slug = \"hall\"\nsealed = true", 1);
    let mistake = town(&[("pack.toml", &operations)]).expect_err("it is refused");
    assert!(mistake.contains("operations owns what all share and cannot be sealed"), "{mistake}");
}

#[test]
fn declarations_come_before_what_refers_to_them() {
    let (pack, inventory) = hong_kong();
    let shared = apply::shared(&inventory, &pack.sealed);
    let mut ids = apply::Shared::default();
    for (id, one) in shared.iter().enumerate() {
        match one.entity {
            sensing::model::EntityType::Sensor => ids.sensors.insert(one.key.clone(), id),
            _ => ids.observed_properties.insert(one.key.clone(), id),
        };
    }
    for tenant in pack.tenants.iter().filter(|t| !pack.sealed.contains(*t)) {
        let mut known = std::collections::BTreeSet::new();
        for one in apply::of_tenant(&inventory, tenant, &ids) {
            for link in [one.body.get("Thing"), one.body.get("Locations").and_then(|l| l.get(0))].into_iter().flatten()
            {
                let key = link["@iot.key"].as_str().unwrap().to_owned();
                let set = if one.body.get("Thing").is_some() { "Thing" } else { "Location" };
                assert!(known.contains(&(set, key.clone())), "{} refers to {set} {key}", one.key);
            }
            if one.entity == sensing::model::EntityType::Datastream {
                assert!(
                    one.body["Sensor"]["@iot.id"].is_u64() && one.body["ObservedProperty"]["@iot.id"].is_u64(),
                    "{}",
                    one.key
                );
            }
            assert!(known.insert((one.entity.singular(), one.key)), "declared twice");
        }
    }
}
