//! Bringing the catalogue to what a pack says. Declared by natural key, so that a second time writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Context;
use kernel::{Caller, Tenant, Text, Timestamp};
use records::{Migration, Records, params};
use sensing::{
    Catalog,
    catalog::Declared,
    model::{EntityId, EntityType},
};
use serde_json::{Map, Value, json};

use super::{Inventory, Mistake, Pack, things};

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "which pack was applied",
    sql: "CREATE TABLE lamppost_pack (name TEXT NOT NULL PRIMARY KEY, hash TEXT NOT NULL, applied_at BIGINT NOT NULL)",
}];

/// Who applies: what audit rows show.
pub fn caller() -> Caller {
    Caller::system("pack")
}

/// Where the catalogue's own ids of shared entities are found when datastreams are declared.
#[derive(Debug)]
pub struct Shared<I> {
    pub observed_properties: BTreeMap<String, I>,
    pub sensors: BTreeMap<String, I>,
}

impl<I> Default for Shared<I> {
    fn default() -> Self {
        Self { observed_properties: BTreeMap::new(), sensors: BTreeMap::new() }
    }
}

fn named(body: &mut Value, name: &Text, description: &Text) {
    body["name"] = name.en.clone().into();
    body["description"] = description.en.clone().into();
}

/// The languages beside English, as properties: SensorThings has one `name`.
fn languages(properties: &mut Map<String, Value>, name: &Text, description: &Text) {
    for (key, text) in [
        ("name_zh_hant", &name.zh_hant),
        ("name_zh_hans", &name.zh_hans),
        ("description_zh_hant", &description.zh_hant),
        ("description_zh_hans", &description.zh_hans),
    ] {
        if let Some(text) = text {
            properties.insert(key.to_owned(), text.clone().into());
        }
    }
}

/// Observed properties and sensors, for the tenant `operations`: those that somebody uses who is not sealed, or nobody yet.
pub fn shared(inventory: &Inventory, sealed: &BTreeSet<Tenant>) -> Vec<Declared> {
    let used = |by: &dyn Fn(&Tenant) -> bool| -> BTreeSet<(EntityType, &str)> {
        let things = inventory.things.iter().filter(|t| by(&t.tenant));
        let both = things
            .flat_map(|t| &t.datastreams)
            .flat_map(|d| [(EntityType::ObservedProperty, &*d.observed_property), (EntityType::Sensor, &*d.sensor)]);
        both.collect()
    };
    let (inside, outside) = (used(&|t| sealed.contains(t)), used(&|t| !sealed.contains(t)));
    let mut declared = instruments(inventory, true);
    declared.retain(|d| {
        let named = (d.entity, d.key.as_str());
        outside.contains(&named) || !inside.contains(&named)
    });
    declared
}

/// A sealed tenant's own observed properties and sensors: what it measures, and with what, would say what it has.
pub fn own(inventory: &Inventory, tenant: &Tenant) -> Vec<Declared> {
    let things = inventory.things.iter().filter(|t| t.tenant == *tenant);
    let used: Vec<_> = things.flat_map(|t| &t.datastreams).map(|d| (&d.observed_property, &d.sensor)).collect();
    let mut declared = instruments(inventory, false);
    declared.retain(|d| match d.entity {
        EntityType::Sensor => used.iter().any(|(_, sensor)| **sensor == d.key),
        _ => used.iter().any(|(property, _)| **property == d.key),
    });
    declared
}

fn instruments(inventory: &Inventory, public: bool) -> Vec<Declared> {
    let properties = |key: &str, name: &Text, description: &Text| {
        let mut properties = Map::from_iter([("key".to_owned(), Value::from(key))]);
        languages(&mut properties, name, description);
        properties
    };
    let observed = inventory.observed_properties.iter().map(|o| {
        let mut body = json!({"definition": o.definition, "@lamppost.public": public, "properties": properties(&o.key, &o.name, &o.description)});
        named(&mut body, &o.name, &o.description);
        Declared { entity: EntityType::ObservedProperty, key: o.key.clone(), body }
    });
    let sensors = inventory.sensors.iter().map(|s| {
        let mut body = json!({
            "encodingType": s.encoding_type,
            "metadata": s.metadata,
            "@lamppost.public": public,
            "properties": properties(&s.key, &s.name, &s.description),
        });
        named(&mut body, &s.name, &s.description);
        Declared { entity: EntityType::Sensor, key: s.key.clone(), body }
    });
    observed.chain(sensors).collect()
}

/// Locations, then Things, Datastreams, Actuators and TaskingCapabilities of one tenant: each refers only to what comes before it.
pub fn of_tenant<I: serde::Serialize>(inventory: &Inventory, tenant: &Tenant, shared: &Shared<I>) -> Vec<Declared> {
    let own = || inventory.things.iter().filter(|t| t.tenant == *tenant);
    let locations = own().filter_map(|thing| {
        let location = thing.location.as_ref()?;
        let body = json!({
            "name": thing.name.en,
            "description": thing.description.en,
            "encodingType": "application/geo+json",
            "location": location,
            "@lamppost.public": thing.public,
        });
        Some(Declared { entity: EntityType::Location, key: thing.key.clone(), body })
    });
    let things = own().map(thing);
    let datastreams = own().flat_map(|t| t.datastreams.iter().map(move |d| datastream(t, d, shared)));
    let actuators = own().flat_map(|t| t.tasking.iter().map(move |c| actuator(t, c)));
    let capabilities = own().flat_map(|t| t.tasking.iter().map(move |c| capability(t, c)));
    locations.chain(things).chain(datastreams).chain(actuators).chain(capabilities).collect()
}

fn thing(thing: &things::Thing) -> Declared {
    let mut properties = thing.properties.clone();
    properties.insert("key".to_owned(), thing.key.clone().into());
    properties.insert("system".to_owned(), thing.system.clone().into());
    if let Some(district) = &thing.district {
        properties.insert("district".to_owned(), district.clone().into());
    }
    if thing.simulated {
        properties.insert("simulated".to_owned(), true.into());
    }
    languages(&mut properties, &thing.name, &thing.description);
    let mut body = json!({"properties": properties, "@lamppost.public": thing.public});
    named(&mut body, &thing.name, &thing.description);
    if thing.location.is_some() {
        body["Locations"] = json!([{"@iot.key": thing.key}]);
    }
    Declared { entity: EntityType::Thing, key: thing.key.clone(), body }
}

fn actuator(thing: &things::Thing, capability: &things::TaskingCapability) -> Declared {
    let form = &capability.actuator;
    let description = form.description.as_ref().unwrap_or(&form.name);
    let mut properties = Map::from_iter([("key".to_owned(), Value::from(capability.key.clone()))]);
    if thing.simulated {
        properties.insert("simulated".to_owned(), true.into());
    }
    languages(&mut properties, &form.name, description);
    let mut body = json!({
        "encodingType": form.encoding_type, "metadata": form.metadata, "properties": properties, "@lamppost.public": thing.public,
    });
    named(&mut body, &form.name, description);
    Declared { entity: EntityType::Actuator, key: capability.key.clone(), body }
}

fn capability(thing: &things::Thing, capability: &things::TaskingCapability) -> Declared {
    let mut properties = Map::from_iter([("key".to_owned(), Value::from(capability.key.clone()))]);
    properties.insert("tasking".to_owned(), Value::Object(capability.terms.clone()));
    if thing.simulated {
        properties.insert("simulated".to_owned(), true.into());
    }
    languages(&mut properties, &capability.name, &capability.description);
    let mut body = json!({
        "taskingParameters": capability.parameters,
        "properties": properties,
        "@lamppost.public": thing.public,
        "Thing": {"@iot.key": thing.key},
        "Actuator": {"@iot.key": capability.key},
    });
    named(&mut body, &capability.name, &capability.description);
    Declared { entity: EntityType::TaskingCapability, key: capability.key.clone(), body }
}

fn datastream<I: serde::Serialize>(thing: &things::Thing, stream: &things::Datastream, shared: &Shared<I>) -> Declared {
    let mut properties = stream.properties.clone();
    properties.insert("key".to_owned(), stream.key.clone().into());
    if let Some(interval) = stream.interval {
        properties.insert("interval".to_owned(), interval.into());
    }
    if stream.simulated {
        properties.insert("simulated".to_owned(), true.into());
    }
    languages(&mut properties, &stream.name, &stream.description);
    let unit = stream.unit.as_ref();
    let mut body = json!({
        "observationType": stream.observation_type.code(),
        "unitOfMeasurement": {
            "name": unit.map(|u| &u.name),
            "symbol": unit.map(|u| &u.symbol),
            "definition": unit.map(|u| &u.definition),
        },
        "properties": properties,
        "@lamppost.public": stream.public,
        "Thing": {"@iot.key": thing.key},
        "ObservedProperty": {"@iot.id": shared.observed_properties.get(&stream.observed_property)},
        "Sensor": {"@iot.id": shared.sensors.get(&stream.sensor)},
    });
    named(&mut body, &stream.name, &stream.description);
    Declared { entity: EntityType::Datastream, key: stream.key.clone(), body }
}

/// Brings the catalogue to the pack. What is there already is left alone; what an earlier version declared and this one does not, stays.
pub async fn apply(pack: &Pack, inventory: &Inventory, catalog: &Catalog) -> Result<(), sensing::Error> {
    let caller = caller();
    let known = declare(catalog, &caller, &pack.operations, shared(inventory, &pack.sealed)).await?;
    for tenant in &pack.tenants {
        let declared = if pack.sealed.contains(tenant) {
            let own = declare(catalog, &caller, tenant, own(inventory, tenant)).await?;
            of_tenant(inventory, tenant, &own)
        } else {
            of_tenant(inventory, tenant, &known)
        };
        let count = declared.len();
        catalog.upsert_all(&caller, tenant, declared).await?;
        tracing::debug!(%tenant, count, "declared");
    }
    Ok(())
}

/// Declares instruments and gives them as their keys find them.
async fn declare(
    catalog: &Catalog,
    caller: &Caller,
    tenant: &Tenant,
    declared: Vec<Declared>,
) -> Result<Shared<EntityId>, sensing::Error> {
    let names: Vec<(EntityType, String)> = declared.iter().map(|d| (d.entity, d.key.clone())).collect();
    let ids = catalog.upsert_all(caller, tenant, declared).await?;
    let mut known: Shared<EntityId> = Shared::default();
    for ((entity, key), id) in names.into_iter().zip(ids) {
        let of = if entity == EntityType::Sensor { &mut known.sensors } else { &mut known.observed_properties };
        of.insert(key, id);
    }
    Ok(known)
}

/// A department that the pack has sealed must have nothing left that it had published; what a person has published, a person takes back.
async fn sealed(pack: &Pack, catalog: &Catalog) -> anyhow::Result<()> {
    for tenant in &pack.sealed {
        let found = catalog.published(tenant).await?;
        anyhow::ensure!(
            found.is_empty(),
            "the pack seals '{tenant}', which has still published {}: serve once more without the seal, set \"@lamppost.public\" to false \
             there (or delete it), then seal",
            found.join(", ")
        );
    }
    Ok(())
}

/// [`apply`], unless this very pack was applied last: then its things are not even read. Whether there was something to do.
pub async fn bring(pack: &Arc<Pack>, catalog: &Catalog, records: &Records) -> anyhow::Result<bool> {
    let applied = Applied::open(records.clone())?;
    if applied.hash(&pack.city.name).await?.as_deref() == Some(&pack.hash) {
        sealed(pack, catalog).await?;
        return Ok(false);
    }
    let inventory = inventory(pack).await?;
    apply(pack, &inventory, catalog).await.context("the pack")?;
    sealed(pack, catalog).await?;
    applied.note(pack).await?;
    let things = inventory.things.len();
    tracing::info!(pack = pack.city.name, hash = &pack.hash[..12], things, "the pack was applied");
    Ok(true)
}

/// The things of a pack, read on a thread that may wait.
pub async fn inventory(pack: &Arc<Pack>) -> anyhow::Result<Inventory> {
    let (read, shown) = (pack.clone(), pack.folder.root.display().to_string());
    let found = tokio::task::spawn_blocking(move || read.inventory()).await?;
    found.map_err(|mistakes| refused(&shown, &mistakes))
}

/// A pack with mistakes is refused whole, with all of them.
pub fn refused(shown: &str, mistakes: &[Mistake]) -> anyhow::Error {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("the pack {shown} has mistakes:\n{}", lines.join("\n"))
}

/// Which pack the stores are at.
pub struct Applied {
    records: Records,
}

impl Applied {
    pub fn open(records: Records) -> Result<Self, records::Error> {
        records.migrate("lamppost_pack", MIGRATIONS)?;
        Ok(Self { records })
    }
    /// The hash of the pack that was last applied under this name.
    pub async fn hash(&self, name: &str) -> Result<Option<String>, records::Error> {
        let name = name.to_owned();
        let sql = "SELECT hash FROM lamppost_pack WHERE name = $1";
        self.records.read(move |read| read.query_opt(sql, params![name], |row| row.get(0))).await
    }
    /// Notes that everything of this pack is in the stores.
    pub async fn note(&self, pack: &Pack) -> Result<(), records::Error> {
        let (name, hash) = (pack.city.name.clone(), pack.hash.clone());
        self.records
            .write(move |tx| {
                let now: Timestamp = tx.now();
                let sql = "INSERT INTO lamppost_pack (name, hash, applied_at) VALUES ($1, $2, $3)
                           ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, applied_at = excluded.applied_at";
                tx.execute(sql, params![name, hash, now])?;
                tx.audit(&caller(), "pack:apply", "Pack", &name, None, json!({"hash": hash}))
            })
            .await
    }
}
