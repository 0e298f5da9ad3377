//! A city in which a department owns one of everything, none of it published, and everybody who might knock.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kernel::{Caller, Role, Tenant};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, PASSWORD, token},
    city::{PACK, TestCity},
};

/// In every name of what the department owns: where it is read, something has leaked.
pub const MARK: &str = "walled-garden-7731";
/// The same for the sealed department.
pub const SEALED: &str = "sealed-cellar-8842";

/// How often, and how long between, what goes on in the background is looked for before it is a failure.
const TRIES: u32 = 1_200;
const PAUSE: Duration = Duration::from_millis(100);

const RULES: &str = r#"
[[recipient]]
key = "walls-mail"
tenant = "dsd"
email = { to = ["duty@dsd.example"] }

[[recipient]]
key = "walls-other-mail"
tenant = "dsd"
email = { to = ["other@dsd.example"] }

[[rule]]
key = "walls-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "walled-garden-7731 water", zh-hant = "walled-garden-7731", zh-hans = "walled-garden-7731" }
select = { system = "flood" }
when = { above = { raise = 1000, clear = 900 } }
notify = ["walls-mail", "walls-other-mail"]

[[recipient]]
key = "sealed-mail"
tenant = "csd"
email = { to = ["duty@csd.example"] }

[[rule]]
key = "sealed-high"
tenant = "csd"
severity = "Extreme"
name = { en = "sealed-cellar-8842 high", zh-hant = "sealed-cellar-8842", zh-hans = "sealed-cellar-8842" }
select = { system = "prison" }
when = { above = { raise = 1000, clear = 900 } }
notify = ["sealed-mail"]

# A warning is for everybody, and tells nothing of what raised it.
[[rule]]
key = "walls-warning"
tenant = "dsd"
severity = "Severe"
name = { en = "High water", zh-hant = "水位過高", zh-hans = "水位过高" }
select = { system = "flood" }
when = { expression = "value > 1000.0", clear = "value < 900.0" }

[rule.public_alert]
category = "Met"
urgency = "Immediate"
certainty = "Observed"
headline = { en = "High water at {thing}", zh-hant = "{thing}水位過高", zh-hans = "{thing}水位过高" }
description = { en = "High water in {district}.", zh-hant = "水位過高", zh-hans = "水位过高" }
area = { circle = 1 }
"#;

const CONNECTOR: &str = r#"
[[connector]]
key = "sealed-feed"
tenant = "csd"
name = { en = "sealed-cellar-8842 feed", zh-hant = "sealed-cellar-8842", zh-hans = "sealed-cellar-8842" }
every = "PT1H"

[connector.source]
file = "data/walls.csv"
format = "csv"
header = "at"

[connector.time]
fields = ["at"]
format = "%Y-%m-%d"
zone = "Asia/Hong_Kong"

[[connector.value]]
field = "value"
datastream = "sealed.none"

[[connector]]
key = "walls-feed"
tenant = "dsd"
name = { en = "walled-garden-7731 feed", zh-hant = "walled-garden-7731", zh-hans = "walled-garden-7731" }
every = "PT1H"

[connector.source]
file = "data/walls.csv"
format = "csv"
header = "at"

[connector.time]
fields = ["at"]
format = "%Y-%m-%d"
zone = "Asia/Hong_Kong"

[[connector.value]]
field = "value"
datastream = "walls.none"
"#;

/// Voltages: no rule looks at them.
const INGEST: &str = r#"
[[lorawan]]
key = "walls-radio"
tenant = "dsd"
name = { en = "walled-garden-7731 radio" }
devices = { 24e124ffffffff01 = "flood-san-tin" }

[[lorawan.value]]
field = "volts"
datastream = "{thing}.battery"

[[line]]
key = "walls-lines"
tenant = "dsd"
name = { en = "walled-garden-7731 lines" }
measurement = "walls"

[[line.value]]
field = "volts"
datastream = "flood-san-tin.battery"
"#;

/// Who knocks.
#[derive(Clone, Debug)]
pub enum Who {
    Anonymous,
    /// What stands in `Authorization`.
    Authorization(String),
    /// The cookies of a browser that is signed in, and the token that its forms carry.
    Session {
        cookie: String,
        csrf: String,
    },
}

impl Who {
    pub fn key(text: &str) -> Self {
        Self::Authorization(format!("Bearer {text}"))
    }
}

pub struct World {
    pub city: TestCity,
    /// What stands for `{thing}` and so on in the recipes, and what stands there for something that does not exist.
    pub names: BTreeMap<&'static str, (String, String)>,
    pub manager: Who,
    pub viewer: Who,
    pub stranger: Who,
    pub city_admin: Who,
    pub own_device: Who,
    pub strange_device: Who,
    pub manager_browser: Who,
    pub viewer_browser: Who,
    pub stranger_browser: Who,
    pub warden_browser: Who,
    _pack: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

pub fn thing() -> Value {
    thing_of(MARK, "flood")
}

/// One of everything that hangs on a Thing, with a mark in every name.
pub fn thing_of(mark: &str, system: &str) -> Value {
    json!({
        "name": mark,
        "description": "Made by a test",
        "@lamppost.public": false,
        "properties": {"system": system},
        "Locations": [{
            "name": format!("Where {mark} is"),
            "description": "Made by a test",
            "encodingType": "application/geo+json",
            "location": {"type": "Point", "coordinates": [114.17, 22.32]},
        }],
        "Datastreams": [{
            "name": format!("{mark} level"),
            "description": "Made by a test",
            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": {
                "name": format!("{mark} gauge"),
                "description": "Made by a test",
                "encodingType": "text/html",
                "metadata": "https://example.org/gauge.html",
            },
            "ObservedProperty": {
                "name": format!("{mark} height"),
                "definition": "https://example.org/height",
                "description": "Made by a test",
            },
        }],
        "TaskingCapabilities": [{
            "name": format!("{mark} gate"),
            "description": "Made by a test",
            "taskingParameters": {"type": "DataRecord", "field": [{"name": "level", "type": "Count"}]},
            // So that what is proposed here waits, and what it is about can be deleted.
            "properties": {"tasking": {"four_eyes": true}},
            "Actuator": {
                "name": format!("{mark} motor"),
                "description": "Made by a test",
                "encodingType": "text/html",
                "metadata": "https://example.org/motor.html",
            },
        }],
    })
}

impl World {
    #[expect(clippy::too_many_lines, reason = "one of everything")]
    pub async fn build() -> Self {
        let pack = tempfile::tempdir().unwrap();
        // A pack must be called as its folder.
        let root = pack.path().join("hong-kong");
        copy(Path::new(PACK), &root);
        // What is sealed is empty at first, so that filling it can be seen to change nothing.
        std::fs::remove_file(root.join("things/prison.toml")).unwrap();
        std::fs::remove_file(root.join("rules/prison.toml")).unwrap();
        std::fs::write(root.join("rules/zz-walls.toml"), RULES).unwrap();
        std::fs::write(root.join("connectors/zz-walls.toml"), CONNECTOR).unwrap();
        std::fs::write(root.join("ingest/zz-walls.toml"), INGEST).unwrap();
        std::fs::write(root.join("data/walls.csv"), "at,value\n2024-01-01,1\n").unwrap();
        let city = TestCity::with(|config| {
            config.pack = root;
            config.backup_folder = Some(pack.path().join("backups"));
        })
        .await;
        std::fs::create_dir_all(pack.path().join("backups")).unwrap();
        let manager_key = city.key("dsd", "admin").await;
        let ask = async |method: &str, path: &str, body: Value| -> (Option<String>, Value) {
            let mut request = city.request(method, path).bearer_auth(&manager_key);
            if method != "GET" {
                request = request.body(body.to_string());
            }
            let answer = request.send().await.unwrap();
            assert!(answer.status().is_success(), "{method} {path}: {}", answer.status());
            let location = answer.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
            let text = answer.text().await.unwrap();
            (location, serde_json::from_str(&text).unwrap_or_default())
        };
        let (made, _) = ask("POST", "/v1.1/Things", thing()).await;
        let made = made.unwrap();
        let thing = made[made.rfind('(').unwrap() + 1..].trim_end_matches(')').to_owned();
        let mut names = BTreeMap::new();
        let mut name =
            |key: &'static str, real: &str, missing: &str| names.insert(key, (real.to_owned(), missing.to_owned()));
        name("thing", &thing, "999999999");
        let id = |value: &Value| value["@iot.id"].to_string();
        let expand = "Locations,Datastreams($expand=Sensor,ObservedProperty),HistoricalLocations,TaskingCapabilities($expand=Actuator)";
        let (_, found) = ask("GET", &format!("/v1.1/Things({thing})?$expand={expand}"), Value::Null).await;
        let datastream = id(&found["Datastreams"][0]);
        name("datastream", &datastream, "999999999");
        name("location", &id(&found["Locations"][0]), "999999999");
        name("history", &id(&found["HistoricalLocations"][0]), "999999999");
        name("sensor", &id(&found["Datastreams"][0]["Sensor"]), "999999999");
        name("property", &id(&found["Datastreams"][0]["ObservedProperty"]), "999999999");
        let code = |name: &str| format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{name}");
        let unit = json!({"name": null, "symbol": null, "definition": null});
        let tie = |to: &Value| json!({"@iot.id": to["@iot.id"]});
        let (sensor, property) = (&found["Datastreams"][0]["Sensor"], &found["Datastreams"][0]["ObservedProperty"]);
        let several = json!({
            "name": "walled-garden-7731 both", "description": "d", "observationType": code("OM_ComplexObservation"),
            "multiObservationDataTypes": [code("OM_Measurement"), code("OM_Measurement")],
            "unitOfMeasurements": [unit, unit],
            "Sensor": tie(sensor), "ObservedProperties": [tie(property), tie(property)],
            "Observations": [{"phenomenonTime": "2024-01-01T00:00:00Z", "result": [1, 2]}],
        });
        let (made, _) = ask("POST", &format!("/v1.1/Things({thing})/MultiDatastreams"), several).await;
        let made = made.unwrap();
        name("multi", made[made.rfind('(').unwrap() + 1..].trim_end_matches(')'), "999999999");
        let computed = json!({
            "name": "walled-garden-7731 twice the level", "description": "d", "observationType": code("OM_Measurement"),
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": tie(sensor), "ObservedProperty": tie(property),
        });
        let (made, _) = ask("POST", &format!("/v1.1/Things({thing})/Datastreams"), computed).await;
        let made = made.unwrap();
        let computed = made[made.rfind('(').unwrap() + 1..].trim_end_matches(')').to_owned();
        name("computed", &computed, "999999998");
        name("derived", "walls-derived", "walls-none");
        let number = |text: &str| text.parse::<i64>().unwrap();
        let twice = json!({
            "tenant": "dsd", "name": {"en": "walled-garden-7731 twice", "zh-hant": "兩倍", "zh-hans": "两倍"},
            "output": number(&computed), "input": [{"name": "level", "datastream": number(&datastream)}],
            "formula": [{"expression": "level.value * 2.0"}],
        });
        ask("PUT", "/api/derived/walls-derived", twice).await;
        // A Thing that moves, long ago, so that nothing goes on meanwhile; and what it has sampled at depth.
        let mover = json!({
            "name": "walled-garden-7731 vessel", "description": "d", "@lamppost.public": false, "properties": {"system": "vessel"},
            "Datastreams": [{
                "name": "walled-garden-7731 track", "description": "d", "observationType": code("OM_GeometryObservation"),
                "unitOfMeasurement": unit, "Sensor": tie(sensor), "ObservedProperty": tie(property),
                "Observations": [{"phenomenonTime": "2024-01-01T00:00:00Z", "result": {"type": "Point", "coordinates": [114.17, 22.32]}}],
            }],
        });
        let (made, _) = ask("POST", "/v1.1/Things", mover).await;
        let made = made.unwrap();
        name("mover", made[made.rfind('(').unwrap() + 1..].trim_end_matches(')'), "999999997");
        name("fence", "dsd.walls-yard", "dsd.walls-none");
        let capability = id(&found["TaskingCapabilities"][0]);
        name("capability", &capability, "999999999");
        name("actuator", &id(&found["TaskingCapabilities"][0]["Actuator"]), "999999999");
        // A program's Task waits for a person: it is proposed, and not sent.
        let body = json!({"taskingParameters": {"level": 1}});
        let (made, _) = ask("POST", &format!("/v1.1/TaskingCapabilities({capability})/Tasks"), body).await;
        let made = made.unwrap();
        name("task", made[made.rfind('(').unwrap() + 1..].trim_end_matches(')'), "999999999");
        let body = json!({"taskingParameters": {"level": 4}});
        let (made, _) = ask("POST", &format!("/v1.1/TaskingCapabilities({capability})/Tasks"), body).await;
        let made = made.unwrap();
        name("errand", made[made.rfind('(').unwrap() + 1..].trim_end_matches(')'), "999999999");
        // One of long ago, which rules leave alone, and one of now, above the level.
        for body in [json!({"phenomenonTime": "2024-01-01T00:00:00Z", "result": 1500}), json!({"result": 2000})] {
            ask("POST", &format!("/v1.1/Datastreams({datastream})/Observations"), body).await;
        }
        let path = format!(
            "/v1.1/Datastreams({datastream})/Observations?$expand=FeatureOfInterest&$orderby=phenomenonTime%20asc"
        );
        let (_, found) = ask("GET", &path, Value::Null).await;
        let observation = found["value"][0]["@iot.id"].as_str().unwrap().to_owned();
        name("observation", &observation, &observation.replacen(&datastream, "999999999", 1));
        name("feature", &id(&found["value"][0]["FeatureOfInterest"]), "999999999");

        // The rule engine and the workers that send take their time; nothing else depends on it.
        let mut tries = 0..TRIES;
        let (alarm, delivery, letter) = loop {
            tries.next().expect("an alarm and a letter that was given up");
            let (_, alarms) = ask("GET", "/api/alarms?rule=walls-high-water", Value::Null).await;
            let (_, dead) = ask("GET", "/api/deliveries?state=dead", Value::Null).await;
            let given_up = |n: usize| dead["deliveries"][n]["id"].as_str().map(str::to_owned);
            match (alarms["alarms"][0]["id"].as_str(), given_up(0), given_up(1)) {
                (Some(alarm), Some(delivery), Some(letter)) => break (alarm.to_owned(), delivery, letter),
                _ => tokio::time::sleep(PAUSE).await,
            }
        };
        let nobody = "01900000-0000-7000-8000-000000000000";
        name("alarm", &alarm, nobody);
        let warning = loop {
            tries.next().expect("a warning");
            let (_, alerts) = ask("GET", "/api/alerts?rule=walls-warning", Value::Null).await;
            match alerts["alerts"][0]["message"]["identifier"].as_str() {
                Some(identifier) => break identifier.to_owned(),
                None => tokio::time::sleep(PAUSE).await,
            }
        };
        name("warning", &warning, "none");
        let soon = city.running().stores.records.now().plus_secs(3_600).to_string();
        name("soon", &soon, &soon);
        for key in ["silence", "hush"] {
            let body = json!({"district": ["Nowhere"], "ends_at": soon, "reason": MARK});
            let (_, made) = ask("POST", "/api/silences", body).await;
            name(key, made["id"].as_str().unwrap(), nobody);
        }
        name("keep", "flood-levels", "walls-none");
        // What is held is not deleted by hand: a Thing of its own, so that others can be.
        let (made, _) = ask("POST", "/v1.1/Things", json!({"name": "evidence", "description": "d"})).await;
        let made = made.unwrap();
        let evidence = made[made.rfind('(').unwrap() + 1..].trim_end_matches(')');
        name("evidence", evidence, "999999996");
        let hold = json!({"tenant": "dsd", "thing": evidence.parse::<i64>().unwrap(), "reason": MARK});
        let (_, held) = ask("POST", "/api/retention/holds", hold).await;
        name("held", held["id"].as_str().unwrap(), nobody);
        let (_, look) = ask("POST", "/api/retention/flood-levels/preview", json!({})).await;
        let look = look["id"].as_str().unwrap().to_owned();
        loop {
            tries.next().expect("what would go has been looked at");
            let (_, run) = ask("GET", &format!("/api/retention/runs/{look}"), Value::Null).await;
            if run["state"] == "done" {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        name("look", &look, nobody);
        name("delivery", &delivery, nobody);
        name("letter", &letter, nobody);
        loop {
            tries.next().expect("the feed has been read");
            let (_, feed) = ask("GET", "/api/connectors/walls-feed", Value::Null).await;
            if feed["running"] == false && !(feed["succeeded_at"].is_null() && feed["failed_at"].is_null()) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        // What is computed of what was observed above is there before anybody knocks.
        loop {
            tries.next().expect("what is derived is computed");
            let (_, twice) = ask("GET", "/api/derived/walls-derived", Value::Null).await;
            let path = format!("/v1.1/Datastreams({computed})/Observations?$count=true&$top=1");
            let (_, there) = ask("GET", &path, Value::Null).await;
            if twice["outputs"] == 1 && twice["work"] == json!([]) && there["@iot.count"] == 2 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let html = city.get("/en").send().await.unwrap().text().await.unwrap();
        let asset = html.split("/assets/").nth(1).unwrap().split('"').next().unwrap().to_owned();
        name("asset", &asset, "nothing.css");
        name("connector", "walls-feed", "walls-none");
        // Two dashboards, one for programs and one for forms, and two walls, one of which waits for its screen.
        for (key, short) in [("dashboard", "walls"), ("board", "forms")] {
            let board = json!({
                "key": format!("dsd.{short}"), "tenant": "dsd", "title": {"en": format!("{MARK} board"), "zh-hant": "一", "zh-hans": "一"},
                "tile": [{"kind": "text", "title": {"en": MARK, "zh-hant": MARK, "zh-hans": MARK}, "text": {"en": "a", "zh-hant": "a", "zh-hans": "a"}}],
            });
            ask("POST", "/api/dashboards", board).await;
            name(key, &format!("dsd.{short}"), "dsd.none");
        }
        let walls = city.running().city.walls(false);
        let hang = async |boards: &str| {
            let draft = sensing::dashboards::walls::Draft {
                tenant: Tenant::parse("dsd").unwrap(),
                name: format!("{MARK} wall"),
                boards: vec![boards.to_owned()],
                every: 20,
                days: 1,
            };
            walls.make(&Caller::system("test"), draft).await.unwrap()
        };
        name("wall", &hang("dsd.walls").await.0.id.to_string(), "01900000-0000-7000-8000-000000000000");
        name("wall_code", &hang("dsd.walls").await.1, "ABCD-EFGH-JKMN-PQRS-TVWX");
        name("rule", "walls-high-water", "walls-none");
        name("tenant", "dsd", "nowhere");

        let body = json!({"tenant": "dsd", "key": MARK, "kind": "station", "things": [thing.parse::<i64>().unwrap()]});
        let (_, device) = ask("POST", "/api/devices", body).await;
        let device = device["id"].as_str().unwrap().to_owned();
        let (_, key) = ask("POST", &format!("/api/devices/{device}/keys"), json!({})).await;
        name("device", &device, nobody);
        name("prefix", key["prefix"].as_str().unwrap(), "aaaaaaaaaa");
        let (_, spare) = ask("POST", "/api/devices", json!({"tenant": "dsd", "key": "spare", "kind": "station"})).await;
        let spare = spare["id"].as_str().unwrap().to_owned();
        let (_, taken) = ask("POST", &format!("/api/devices/{spare}/keys"), json!({})).await;
        name("spare", &spare, nobody);
        name("taken", taken["prefix"].as_str().unwrap(), "aaaaaaaaaa");
        // Two that are claimed by somebody in the field, a campaign that waits for approval, and an image.
        let codes = ["7KQD-M3XP-9TWB-H4RF", "8KQD-M3XP-9TWB-H4RF"];
        let sheet = format!("key,kind,claim_code\nclaimed,station,{}\nending,station,{}\n", codes[0], codes[1]);
        let bulk = city.request("POST", "/api/devices/bulk?tenant=dsd").bearer_auth(&manager_key).body(sheet);
        let made: Value = bulk.send().await.unwrap().json().await.unwrap();
        let made = |n: usize| made["devices"][n]["id"].as_str().unwrap().to_owned();
        name("placed", &made(0), nobody);
        name("ending", &made(1), nobody);
        name("code", codes[0], "9KQD-M3XP-9TWB-H4RF");
        name("second", codes[1], "9KQD-M3XP-9TWB-H4RF");
        name("fingerprint", &"ab".repeat(32), &"cd".repeat(32));
        name("another_print", &"ef".repeat(32), &"12".repeat(32));
        let keep = "/api/firmware?tenant=dsd&name=walled-garden-7731&version=1";
        let kept = city.request("POST", keep).bearer_auth(&manager_key).body("an image").send().await.unwrap();
        let kept: Value = kept.json().await.unwrap();
        name("image", kept["sha256"].as_str().unwrap(), &"0".repeat(64));
        let body = json!({"tenant": "dsd", "name": MARK, "configuration": {"interval": 60}, "version": "2",
            "target": {"devices": [MARK]}, "waves": "rest"});
        let (made, _) = ask("POST", "/api/campaigns", body).await;
        name("campaign", made.unwrap().trim_start_matches("/api/campaigns/"), nobody);
        let own_device = Who::key(key["key"].as_str().unwrap());

        let stranger_key = city.key("epd", "admin").await;
        let request = city.request("POST", "/api/devices").bearer_auth(&stranger_key);
        let made = request.body(r#"{"tenant": "epd", "key": "other", "kind": "station", "gateway": true}"#);
        let made: Value = made.send().await.unwrap().json().await.unwrap();
        let path = format!("/api/devices/{}/keys", made["id"].as_str().unwrap());
        let issued = city.request("POST", &path).bearer_auth(&stranger_key).body("{}").send().await.unwrap();
        let issued: Value = issued.json().await.unwrap();
        let strange_device = Who::key(issued["key"].as_str().unwrap());

        let spare = city.key("dsd", "viewer").await;
        let spare = spare.split('_').nth(1).unwrap().to_owned();
        name("key", &spare, "aaaaaaaaaa");
        let invitation = invite(&city, "dsd", "viewer").await;
        name("invitation", &invitation, &"A".repeat(43));
        let viewer = Who::key(&city.key("dsd", "viewer").await);
        let city_admin = Who::key(&city.key("city", "admin").await);
        let (manager_browser, session) = sign_up(&city, "manager", "dsd", "admin").await;
        name("session", &session, nobody);
        name("backup", "walls-backup", "walls-nothing");
        sign_up(&city, "colleague", "dsd", "operator").await;
        let dsd = Tenant::parse("dsd").unwrap();
        let system = Caller::system("test");
        let people = city.running().operators.people(&system, &dsd).await.unwrap();
        let colleague = people.iter().find(|(person, _)| person.account == "colleague").unwrap().0.id.to_string();
        name("person", &colleague, nobody);
        let resetting = city.running().operators.reset_link(&system, &colleague).await.unwrap();
        name("resetting", &resetting, &"A".repeat(43));
        let (viewer_browser, _) = sign_up(&city, "viewer", "dsd", "viewer").await;
        let (warden_browser, _) = sign_up(&city, "warden", "csd", "admin").await;
        let (stranger_browser, _) = sign_up(&city, "stranger", "epd", "admin").await;
        let world = Self {
            city,
            names,
            manager: Who::key(&manager_key),
            viewer,
            stranger: Who::key(&stranger_key),
            city_admin,
            own_device,
            strange_device,
            manager_browser,
            viewer_browser,
            stranger_browser,
            warden_browser,
            _pack: pack,
        };
        // Fences, like rules, are drawn by people.
        let body = r#"{"tenant": "dsd", "name": {"en": "walled-garden-7731 yard", "zh-hant": "場", "zh-hans": "场"},
            "circle": {"lon": 114.17, "lat": 22.32, "radius": 100}}"#;
        let json = Some(("application/json", body));
        let drawn = world.send("PUT", "/api/fences/dsd.walls-yard", &world.manager_browser, json, &[]).await;
        assert_eq!(drawn.status(), 200, "{}", drawn.text().await.unwrap());
        world
    }

    /// A recipe's text with the names of what exists, or of what does not.
    pub fn fill(&self, text: &str, real: bool) -> String {
        let mut out = text.to_owned();
        for (name, (is, is_not)) in &self.names {
            out = out.replace(&format!("{{{name}}}"), if real { is } else { is_not });
        }
        out
    }

    /// Everything that a refused request might have changed, as one text.
    pub async fn state(&self) -> String {
        let records = &self.city.running().stores.records;
        let mut out = String::new();
        // Events leave the database behind the answer: all of them are to be out before they are counted.
        loop {
            let waiting = records.outbox().fetch(records.outbox().delivered().await.unwrap(), 1).await.unwrap();
            if waiting.is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let events = self.city.running().stores.stream.topic("events").unwrap().end();
        let audit = records.audit(records::AuditQuery { limit: 1, ..Default::default() }).await.unwrap();
        out.push_str(&format!("{events:?} {:?}\n", audit.rows.first().map(|row| row.id)));
        for path in [
            "/v1.1/Things({thing})?$expand=Locations,HistoricalLocations,Datastreams($expand=Sensor,ObservedProperty)",
            "/v1.1/Datastreams({datastream})/Observations?$expand=FeatureOfInterest&$count=true",
            "/v1.1/MultiDatastreams({multi})?$expand=ObservedProperties,Observations",
            "/v1.1/Things?$count=true&$top=0",
            "/v1.1/Datastreams?$count=true&$top=0",
            "/v1.1/MultiDatastreams?$count=true&$top=0",
            "/v1.1/Sensors?$count=true&$top=0",
            "/v1.1/Locations?$count=true&$top=0",
            "/v1.1/Observations?$count=true&$top=1",
            "/api/devices?tenant=dsd",
            "/api/campaigns/{campaign}",
            "/api/campaigns?tenant=dsd",
            "/api/firmware?tenant=dsd",
            "/api/alarms/{alarm}",
            "/api/deliveries",
            "/api/silences",
            "/v1.1/Tasks",
            "/v1.1/TaskingCapabilities?$expand=Actuator",
            "/api/tasks/{task}",
            "/api/tasking/stop",
            "/api/rules",
            "/api/connectors/{connector}",
            "/api/derived/{derived}",
            "/api/fences/{fence}",
            "/v1.1/Things({mover})/Locations",
            "/api/dashboards/{dashboard}",
            "/api/dashboards/{board}",
            "/api/datastreams/{datastream}/calibrations",
            "/api/observations/{observation}/history",
        ] {
            let path = self.fill(path, true);
            let answer = self.send("GET", &path, &self.manager, None, &[]).await;
            assert_eq!(answer.status(), 200, "{path}");
            out.push_str(&format!("{path}\n{}\n", answer.text().await.unwrap()));
        }
        out
    }

    /// Asks as somebody. A body that is a form gets the sender's token where it says `{csrf}`.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        who: &Who,
        body: Option<(&str, &str)>,
        headers: &[(&str, &str)],
    ) -> reqwest::Response {
        let mut request = self.city.request(method, path);
        let mut token = "";
        match who {
            Who::Anonymous => {}
            Who::Authorization(value) => request = request.header("authorization", value),
            Who::Session { cookie, csrf } => {
                request = request.header("cookie", cookie);
                token = csrf;
            }
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body.replace("{csrf}", token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }
}

async fn invite(city: &TestCity, tenant: &str, role: &str) -> String {
    let roles = [Role::Owned(role.to_owned())].into();
    let tenant = Tenant::parse(tenant).unwrap();
    city.running().operators.invite(&Caller::system("test"), &tenant, roles).await.unwrap()
}

/// Somebody with an account, signed in; and the id of a second session of theirs.
pub async fn sign_up(city: &TestCity, account: &str, tenant: &str, role: &str) -> (Who, String) {
    let join = format!("/en/join/{}", invite(city, tenant, role).await);
    let mut browser = Browser::new(city);
    let joined = browser.post(&join, &join, &[("name", account), ("account", account), ("password", PASSWORD)]).await;
    assert_eq!(joined.status(), 303);
    let mut elsewhere = Browser::new(city);
    let fields = [("account", account), ("password", PASSWORD)];
    assert_eq!(elsewhere.post("/en/sign-in", "/en/sign-in", &fields).await.status(), 303);
    let (_, html) = browser.get("/en/account").await;
    let at = html.find("name=\"session\" value=\"").expect("a session that can be ended") + 22;
    let session = html[at..].split('"').next().unwrap().to_owned();
    (Who::Session { cookie: browser.cookie(), csrf: token(&html) }, session)
}
