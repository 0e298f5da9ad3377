//! Lists, counts and the map against a model: whatever is written, they say what the rows say. On both engines.

use std::sync::Arc;

use kernel::{Action, Caller, Decision, FixedClock, Policy, Principal, Resource, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng};
use records::Records;
use serde_json::json;
use testkit::postgres::Database;

use super::*;
use crate::{
    catalog::{Declared, Update, cells::Bounds},
    model::EntityType,
    pages::plot,
};

/// Who acts for a tenant may do everything there, and nothing elsewhere.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, _: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        if own { Decision::Allow } else { Decision::Deny }
    }
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

struct City {
    catalog: Catalog,
    records: Records,
    _database: Option<Database>,
    _folder: tempfile::TempDir,
}

async fn open(records: Records) -> Catalog {
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let open = tokio::task::spawn_blocking(move || Catalog::open(records, Arc::new(Own), clock).expect("catalogue"));
    open.await.expect("opens")
}

impl City {
    async fn new(postgres: bool) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let database = postgres.then(testkit::postgres::database);
        let options = match &database {
            Some(database) => records::Options::postgres(database.url()),
            None => records::Options::sqlite(folder.path().join("city.db")),
        };
        let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
        let opened = tokio::task::spawn_blocking(move || Records::open(&options, clock).expect("records"));
        let records = opened.await.expect("opens");
        let catalog = open(records.clone()).await;
        Self { catalog, records, _database: database, _folder: folder }
    }

    fn directory(&self) -> Directory {
        let named = |key: &str| System { key: key.to_owned(), name: Text::plain(key) };
        Directory::new(self.catalog.clone(), vec![named("flood"), named("air")])
    }

    /// Creates the Thing with this key, or changes it to this.
    async fn put(&self, random: &mut StdRng, owner: &str, key: usize) -> EntityId {
        let pick = |random: &mut StdRng, of: &[&str]| of[random.random_range(0..of.len())].to_owned();
        let mut properties = json!({
            "system": pick(random, &["flood", "air", "", "100%_a\\b"]),
            "district": pick(random, &["Yuen Long", "Sha Tin", ""]),
            "name_zh_hant": pick(random, &["新田", "沙田"]),
        });
        if random.random_bool(0.3) {
            properties["simulated"] = true.into();
        }
        let name = pick(random, &["San Tin", "san tin", "Sha Tin 100%", "Zoo", "Älv"]);
        let key = format!("thing-{key}");
        let mut thing = json!({
            "name": name, "description": "d", "properties": properties, "@lamppost.public": random.random_bool(0.5),
        });
        let mut declared = Vec::new();
        if random.random_bool(0.8) {
            let at = [random.random_range(113.9..114.3), random.random_range(22.2..22.5)];
            let body = json!({
                "name": "place", "description": "d", "encodingType": "application/geo+json",
                "location": {"type": "Point", "coordinates": at},
            });
            declared.push(Declared { entity: EntityType::Location, key: key.clone(), body });
            thing["Locations"] = json!([{"@iot.key": key}]);
        }
        declared.push(Declared { entity: EntityType::Thing, key, body: thing });
        let ids = self.catalog.upsert_all(&Caller::system("test"), &tenant(owner), declared).await.expect("written");
        *ids.last().expect("the Thing")
    }

    /// What the rows of the standard say: tenant, public, system, district, sought, id, place, simulated.
    async fn model(&self) -> Vec<Row> {
        let read = self.records.read(|read| {
            let sql = "SELECT t.id, t.tenant, t.public, t.name, t.properties, l.location FROM sensing_thing t
                       LEFT JOIN sensing_thing_location tl ON tl.thing_id = t.id
                       LEFT JOIN sensing_location l ON l.id = tl.location_id ORDER BY t.id";
            read.query(sql, params![], |row| {
                let properties = object(row.get(4)?);
                let text = |key: &str| properties.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let place: Option<Value> =
                    row.get::<Option<String>>(5)?.map(|l| serde_json::from_str(&l).expect("GeoJSON"));
                Ok(Row {
                    group: (row.get(1)?, row.get(2)?, text("system"), text("district")),
                    sought: [row.get::<String>(3)?.to_lowercase(), text("name_zh_hant")]
                        .join("\n")
                        .trim_end()
                        .to_owned(),
                    id: row.get(0)?,
                    place: place.map(|p| [0, 1].map(|i| p["coordinates"][i].as_f64().expect("a number"))),
                    simulated: properties.contains_key("simulated"),
                })
            })
        });
        read.await.map_err(|e: records::Error| e).expect("rows")
    }
}

#[derive(Clone, Debug)]
struct Row {
    group: (Tenant, bool, String, String),
    sought: String,
    id: i64,
    place: Option<[f64; 2]>,
    simulated: bool,
}

fn scopes() -> Vec<Scope> {
    vec![Scope::Everything, Scope::public(), Scope::Tenants([tenant("dsd")].into())]
}

/// Everything that the directory says, compared with the rows.
async fn check(city: &City) {
    let (rows, directory) = (city.model().await, city.directory());
    for scope in scopes() {
        let seen: Vec<&Row> = rows.iter().filter(|r| scope.admits(&r.group.0, r.group.1)).collect();
        let groups = directory.groups(&scope).await.expect("groups");
        assert_eq!(groups.count(|_| true).things, seen.len() as u64);
        assert_eq!(groups.count(|_| true).simulated, seen.iter().filter(|r| r.simulated).count() as u64);
        for system in ["flood", "air", "100%_a\\b", ""] {
            let own = seen.iter().filter(|r| r.group.2 == system);
            assert_eq!(groups.of_system(system).count(|_| true).things, own.count() as u64, "{system}");
        }
        for (sought, descending, system) in [
            ("", false, None),
            ("", true, Some("flood")),
            ("TIN", false, None),
            ("0%", true, None),
            ("田", false, Some("air")),
        ] {
            let narrowed = groups.narrowed(|g| system.is_none_or(|s| g.system == s));
            let fits = |r: &&&Row| system.is_none_or(|s| r.group.2 == s) && r.sought.contains(&sought.to_lowercase());
            let mut expect: Vec<(String, i64)> = seen.iter().filter(fits).map(|r| (r.sought.clone(), r.id)).collect();
            expect.sort();
            if descending {
                expect.reverse();
            }
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let asked = Asked { sought: sought.to_owned(), descending, after, limit: 7 };
                let page = directory.list(narrowed.clone(), asked).await.expect("page");
                assert!(page.things.len() <= 7);
                found.extend(page.things.iter().map(|t| t.id.0));
                // As it goes through an address and comes back.
                after = page.next.map(|next| Place::parse(&next.cursor()).expect("a cursor"));
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expect.iter().map(|(_, id)| *id).collect::<Vec<_>>(), "{sought} {descending} {system:?}");
        }
        for (single, window) in
            [(1_000, [113.0, 22.0, 115.0, 23.0]), (5, [113.0, 22.0, 115.0, 23.0]), (5, [114.0, 22.3, 114.1, 22.4])]
        {
            let bounds = Bounds { min_x: window[0], min_y: window[1], max_x: window[2], max_y: window[3] };
            let own = groups.of_system("flood");
            let drawn = city.records.read(move |read| plot::plot(read, &own, bounds, &[], single)).await.expect("plot");
            let within =
                |p: &[f64; 2]| p[0] >= window[0] && p[0] <= window[2] && p[1] >= window[1] && p[1] <= window[3];
            let placed = seen.iter().filter(|r| r.group.2 == "flood").filter_map(|r| r.place);
            let inside: Vec<[f64; 2]> = placed.filter(within).collect();
            for thing in &drawn.things {
                assert!(inside.contains(&thing.position.expect("a place")));
            }
            let gathered: i64 = drawn.clusters.iter().map(|c| c.things).sum();
            let shown = drawn.things.len() + gathered as usize;
            assert!(shown >= inside.len(), "{shown} of {} in {window:?}", inside.len());
            assert!(drawn.clusters.iter().all(|c| !c.more && c.things > 2));
            if single == 1_000 {
                assert_eq!((drawn.things.len(), drawn.clusters.len()), (inside.len(), 0));
            }
        }
    }
}

async fn follows_every_write(postgres: bool) {
    let city = City::new(postgres).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut ids = Vec::new();
    for key in 0..60 {
        ids.push(city.put(&mut random, ["dsd", "epd"][key % 2], key).await);
    }
    check(&city).await;
    // The same keys again are changes, places included.
    for key in 0..30 {
        city.put(&mut random, ["dsd", "epd"][key % 2], key).await;
    }
    let system = Caller::system("test");
    for (nth, id) in ids.iter().enumerate().take(12) {
        let (body, how) = match nth % 4 {
            0 => (json!({"properties": {"system": "air"}}), Update::Merge),
            1 => (json!({"name": "Zebra", "description": "d"}), Update::Replace),
            2 => (json!({"@lamppost.public": nth % 8 == 2, "@lamppost.tenant": "dsd"}), Update::Merge),
            _ => (json!([{"op": "add", "path": "/properties/district", "value": "Sha Tin"}]), Update::JsonPatch),
        };
        city.catalog.update(&system, EntityType::Thing, *id, &body, how).await.expect("updated");
    }
    for id in &ids[50..55] {
        city.catalog.delete(&system, EntityType::Thing, *id).await.expect("deleted");
    }
    let sql = "SELECT location_id FROM sensing_thing_location ORDER BY thing_id DESC LIMIT 3";
    let locations = city.records.read(move |r| r.query(sql, params![], |row| row.get::<i64>(0))).await;
    for id in locations.map_err(|e: records::Error| e).expect("locations") {
        city.catalog.delete(&system, EntityType::Location, EntityId(id)).await.expect("deleted");
    }
    check(&city).await;
    // A city from before the columns: the next start fills them, and a second one finds nothing to do.
    let forget = city.records.write(|tx| {
        tx.execute(
            "UPDATE sensing_thing SET system = '', district = '', simulated = 0, sought = '', cell = NULL, x = NULL, y = NULL",
            params![],
        )?;
        tx.execute("DELETE FROM sensing_thing_count", params![])?;
        tx.execute("INSERT INTO sensing_catch_up (what, after) VALUES ('things', 0)", params![])
    });
    forget.await.map_err(|e: records::Error| e).expect("forgotten");
    for _ in 0..2 {
        let catalog = open(city.records.clone()).await;
        check(&City {
            catalog,
            records: city.records.clone(),
            _database: None,
            _folder: tempfile::tempdir().expect("folder"),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_counts_and_maps_follow_every_write() {
    follows_every_write(false).await;
    follows_every_write(true).await;
}

#[tokio::test]
async fn what_one_may_not_see_is_not_there() {
    let city = City::new(false).await;
    let body = json!({"name": "Secret", "description": "d", "properties": {"system": "flood"}});
    let declared = vec![Declared { entity: EntityType::Thing, key: "secret".to_owned(), body }];
    let ids = city.catalog.upsert_all(&Caller::system("test"), &tenant("epd"), declared).await.expect("written");
    let directory = city.directory();
    let person = |slug: &str| Caller {
        principal: Principal::Person { id: "p".into(), name: "P".into() },
        tenant: Some(tenant(slug)),
        ..Caller::anonymous()
    };
    for (caller, visible) in [(Caller::anonymous(), 0), (person("dsd"), 0), (person("epd"), 1)] {
        let scope = city.catalog.scope(&caller);
        let groups = directory.groups(&scope).await.expect("groups");
        assert_eq!(groups.count(|_| true).things, visible);
        let found = directory.list(groups, Asked { limit: 9, ..Asked::default() }).await.expect("page");
        assert_eq!(found.things.len() as u64, visible);
        assert_eq!(directory.thing(&scope, ids[0]).await.expect("asked").is_some(), visible == 1);
    }
}

/// What the page of a Thing and the page of a device show of MultiDatastreams, to whom; and declared again, nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_thing_has_its_multi_datastreams() {
    for postgres in [false, true] {
        let city = City::new(postgres).await;
        let system = Caller::system("test");
        let owner = tenant("dsd");
        let unit = |symbol: Option<&str>| json!({"name": null, "symbol": symbol, "definition": null});
        let kind = |name: &str| format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{name}");
        let property = |key: &str, public: bool| {
            let body = json!({"name": key, "definition": "d", "description": "d", "properties": {"name_zh_hant": "風"}, "@lamppost.public": public});
            Declared { entity: EntityType::ObservedProperty, key: key.to_owned(), body }
        };
        let sensor = json!({"name": "s", "description": "d", "encodingType": "e", "metadata": "m"});
        let thing = json!({"name": "Mast", "description": "d", "@lamppost.public": true});
        let multi = json!({
            "name": "Wind", "description": "d", "observationType": kind("OM_ComplexObservation"),
            "multiObservationDataTypes": [kind("OM_Measurement"), kind("OM_CategoryObservation"), kind("OM_Measurement")],
            "unitOfMeasurements": [unit(Some("m/s")), unit(None), unit(Some("m/s"))],
            "properties": {"simulated": true, "interval": 30, "name_zh_hant": "風力"},
            "Thing": {"@iot.key": "mast"}, "Sensor": {"@iot.key": "s"},
            "ObservedProperties": [{"@iot.key": "speed"}, {"@iot.key": "secret"}, {"@iot.key": "speed"}],
        });
        let declared = || {
            let one = |entity, key: &str, body: &Value| Declared { entity, key: key.to_owned(), body: body.clone() };
            vec![
                property("speed", true),
                property("secret", false),
                one(EntityType::Sensor, "s", &sensor),
                one(EntityType::Thing, "mast", &thing),
                one(EntityType::MultiDatastream, "wind", &multi),
            ]
        };
        let ids = city.catalog.upsert_all(&system, &owner, declared()).await.expect("written");
        let audit = || async {
            let query = records::AuditQuery { limit: 100, ..records::AuditQuery::default() };
            city.records.audit(query).await.expect("audit").rows.len()
        };
        let before = audit().await;
        assert_eq!(city.catalog.upsert_all(&system, &owner, declared()).await.expect("written"), ids);
        assert_eq!(audit().await, before, "declared again it is the same");

        let (thing, wind) = (ids[3], ids[4]);
        let directory = city.directory();
        for (scope, second) in [(Scope::public(), None), (Scope::Tenants([owner.clone()].into()), Some("secret"))] {
            let found = directory.thing(&scope, thing).await.expect("asked").expect("there");
            assert!(found.streams.is_empty() && !found.more);
            let [entry] = found.multi.as_slice() else { panic!("{:?}", found.multi) };
            assert_eq!((entry.id, entry.simulated, entry.name.zh_hant.as_deref()), (wind, true, Some("風力")));
            let names: Vec<_> = entry.elements.iter().map(|e| e.name.as_ref().map(|name| name.en.as_str())).collect();
            assert_eq!(names, [Some("speed"), second, Some("speed")]);
            assert_eq!(entry.elements.iter().map(|e| e.unit.as_str()).collect::<Vec<_>>(), ["m/s", "", "m/s"]);
        }
        // What the doors know of it, and the register of devices.
        let info = city.catalog.datastream(wind).await.expect("asked").expect("there");
        assert_eq!((info.entity(), info.elements.as_ref().map(|e| e.len())), (EntityType::MultiDatastream, Some(3)));
        assert_eq!((info.interval, info.simulated, info.thing), (Some(30), true, thing));
        let devices = crate::devices::Devices::open(city.records.clone(), Arc::new(Own)).expect("devices");
        let places = devices.places(&owner, &[thing]).await.expect("places");
        let [stream] = places[0].streams.as_slice() else { panic!("{places:?}") };
        assert_eq!((stream.id, stream.entity(), stream.interval), (wind, EntityType::MultiDatastream, Some(30)));
        assert_eq!(devices.intervals(&owner).await.expect("intervals").len(), 0);
        // Another length is refused to whoever declares it: the pack does not know whether something was observed.
        let mut shorter = multi.clone();
        for list in ["multiObservationDataTypes", "unitOfMeasurements", "ObservedProperties"] {
            shorter[list].as_array_mut().expect("array").pop();
        }
        let refused = city.catalog.upsert(&system, EntityType::MultiDatastream, &owner, "wind", shorter).await;
        assert!(matches!(&refused, Err(Error::Refused(problem)) if problem.status == 409), "{refused:?}");
        // Hidden with its Thing.
        let hide = json!({"@lamppost.public": false});
        city.catalog.update(&system, EntityType::Thing, thing, &hide, Update::Merge).await.expect("hidden");
        assert!(directory.thing(&Scope::public(), thing).await.expect("asked").is_none());
        assert!(city.catalog.get(&Scope::public(), EntityType::MultiDatastream, wind).await.expect("asked").is_none());
        city.catalog.delete(&system, EntityType::ObservedProperty, ids[0]).await.expect("deleted");
        assert!(city.catalog.datastream(wind).await.expect("asked").is_none());
    }
}
