//! A city as a folder of declarations; docs/packs.md is its format.
//!
//! [`Pack::check`] reads everything and names every mistake; what it returns is complete and refers to nothing that is missing. [`apply`] brings
//! the stores to it.
//!
//! A city that is served needs its Things from the pack once: then they are in the stores. So [`Pack::load`] leaves them alone, and whoever
//! needs them asks [`Pack::inventory`].

pub mod apply;
pub mod city;
pub mod rows;
pub mod source;
pub mod things;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    path::Path,
    sync::Arc,
};

use kernel::{Tenant, Text};
use serde_json::Value;
use sha2::{Digest, Sha256};
use toml::Spanned;

pub use city::City;
pub use source::{Folder, Mistake};
use source::{Source, whole};
use things::{Datastream, DatastreamForm, ObservedProperty, Sensor, TaskingCapability, TaskingForm, Thing, ThingForm};

use crate::policy::{self, CedarPolicy};

/// Most mistakes reported at once; the rest is likely their consequence.
const MISTAKES: usize = 200;

/// A pack that has no mistake, without the things that it declares.
#[derive(Debug)]
pub struct Pack {
    pub folder: Folder,
    pub city: City,
    /// The tenant that runs the platform.
    pub operations: Tenant,
    pub tenants: Vec<Tenant>,
    pub sealed: BTreeSet<Tenant>,
    /// `connectors/*.toml`, `rules/*.toml`, `ingest/*.toml`, `derived/*.toml`, `fences/*.toml` and `dashboards/*.toml`, for the parts of `sensing` that know their form.
    pub connectors: Vec<Declared>,
    pub rules: Vec<Declared>,
    pub ingest: Vec<Declared>,
    pub derived: Vec<Declared>,
    pub fences: Vec<Declared>,
    /// `retention/*.toml`.
    pub retention: Vec<Declared>,
    pub dashboards: Vec<Declared>,
    pub policy: Arc<CedarPolicy>,
    /// SHA-256 over all files, hex: the same hash is the same pack.
    pub hash: String,
}

/// What `things/` declares.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub observed_properties: Vec<ObservedProperty>,
    pub sensors: Vec<Sensor>,
    pub things: Vec<Thing>,
}

/// One file of declarations whose form another part knows, with its text for naming lines.
#[derive(Debug)]
pub struct Declared {
    pub source: Source,
    pub table: toml::Table,
}

impl Pack {
    /// Reads and checks all but the things and the outlines of the map. The hash is over all of it, so a pack whose hash was applied before has
    /// been checked before.
    pub fn load(root: &Path) -> Result<Self, Vec<Mistake>> {
        Check::run(root, |check| check.pack())
    }

    /// Reads and checks the whole folder.
    pub fn check(root: &Path) -> Result<(Self, Inventory), Vec<Mistake>> {
        Check::run(root, |check| {
            let pack = check.pack();
            let city = match &pack {
                Some(pack) => &pack.city,
                // Something else is wrong with the pack; what is wrong with its things is told in the same breath.
                None => &check.keep_read("pack.toml").and_then(|source| source.parse().ok())?,
            };
            check.outlines(city);
            let inventory = check.inventory(city);
            Some((pack?, inventory))
        })
    }

    /// The things, read now.
    pub fn inventory(&self) -> Result<Inventory, Vec<Mistake>> {
        Check::run(&self.folder.root, |check| {
            check.outlines(&self.city);
            Some(check.inventory(&self.city))
        })
    }

    pub fn tenant_name(&self, tenant: &Tenant) -> Option<&Text> {
        self.city.tenant.iter().find(|t| t.slug.get_ref() == tenant.as_str()).map(|t| &t.name)
    }
}

struct Check<'a> {
    folder: &'a Folder,
    mistakes: Vec<Mistake>,
    /// Which languages a text must have.
    complete: Vec<String>,
}

/// A declaration and where it stands, to name the first of two with one key.
struct Declarations<'s, T>(BTreeMap<String, (T, &'s Source)>);

impl<T> Declarations<'_, T> {
    fn known(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

impl<'a> Check<'a> {
    fn run<T>(root: &Path, read: impl FnOnce(&mut Check<'_>) -> Option<T>) -> Result<T, Vec<Mistake>> {
        let folder = Folder { root: root.to_owned() };
        let mut check = Check { folder: &folder, mistakes: Vec::new(), complete: Vec::new() };
        let found = read(&mut check);
        let mut mistakes = check.mistakes;
        mistakes.sort();
        mistakes.dedup();
        mistakes.truncate(MISTAKES);
        match found {
            Some(found) if mistakes.is_empty() => Ok(found),
            _ => Err(mistakes),
        }
    }

    fn fail(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }
    fn keep<T>(&mut self, result: Result<T, Mistake>) -> Option<T> {
        result.map_err(|m| self.fail(m)).ok()
    }

    fn pack(&mut self) -> Option<Pack> {
        let source = self.keep_read("pack.toml")?;
        let parsed = source.parse::<City>();
        let city = self.keep(parsed)?;
        self.speak(&city);
        self.city(&source, &city);
        let tenants = tenants(&city);
        let sealed =
            city.tenant.iter().filter(|t| t.sealed).filter_map(|t| Tenant::parse(t.slug.get_ref()).ok()).collect();
        let operations = tenants.iter().find(|t| t.as_str() == city.operations.get_ref()).cloned();

        let connectors = self.declared("connectors");
        let rules = self.declared("rules");
        let ingest = self.declared("ingest");
        let derived = self.declared("derived");
        let fences = self.declared("fences");
        let retention = self.declared("retention");
        let dashboards = self.declared("dashboards");
        let policy = self.policy(&sealed);
        let hash = self.hash();
        Some(Pack {
            folder: self.folder.clone(),
            operations: operations?,
            city,
            tenants,
            sealed,
            connectors,
            rules,
            ingest,
            derived,
            fences,
            retention,
            dashboards,
            policy: Arc::new(policy?),
            hash: hash?,
        })
    }

    /// Texts must have the city's languages.
    fn speak(&mut self, city: &City) {
        self.complete = city.languages.get_ref().iter().map(|l| l.get_ref().clone()).collect();
    }

    fn inventory(&mut self, city: &City) -> Inventory {
        self.speak(city);
        let files = self.files("things");
        self.things(&files, city, &tenants(city))
    }

    /// Reading megabytes of GeoJSON at every start would be felt.
    fn outlines(&mut self, city: &City) {
        let Some(source) = self.keep_read("pack.toml") else { return };
        for file in [&city.map.land, &city.map.districts].into_iter().flatten() {
            let geojson = self
                .folder
                .read(file.get_ref())
                .and_then(|s| s.text.parse::<geojson::GeoJson>().map_err(|e| whole(&s.name, e.to_string())));
            if let Err(m) = geojson {
                self.fail(source.mistake(&file.span(), m.to_string()));
            }
        }
    }

    fn keep_read(&mut self, name: &str) -> Option<Source> {
        let read = self.folder.read(name);
        self.keep(read)
    }
    fn files(&mut self, folder: &str) -> Vec<Source> {
        let listed = self.folder.list(folder, ".toml");
        self.keep(listed).unwrap_or_default().iter().filter_map(|name| self.keep_read(name)).collect()
    }
    fn declared(&mut self, folder: &str) -> Vec<Declared> {
        let mut out = Vec::new();
        for source in self.files(folder) {
            let parsed = source.parse::<toml::Table>();
            if let Some(table) = self.keep(parsed) {
                out.push(Declared { source, table });
            }
        }
        out
    }

    fn city(&mut self, source: &Source, city: &City) {
        let at = |span: Range<usize>, message: String| source.mistake(&span, message);
        if jiff::tz::TimeZone::get(city.time_zone.get_ref()).is_err() {
            self.fail(at(
                city.time_zone.span(),
                format!("'{}' is not an IANA time zone, such as Asia/Hong_Kong", city.time_zone.get_ref()),
            ));
        }
        for language in city.languages.get_ref() {
            if kernel::Language::from_segment(language.get_ref()).is_none() {
                self.fail(at(language.span(), format!("'{}' is not one of en, zh-hant, zh-hans", language.get_ref())));
            }
        }
        if city.languages.get_ref().is_empty() {
            self.fail(at(city.languages.span(), "languages: at least one is needed".to_owned()));
        }
        let mut seen = BTreeSet::new();
        for tenant in &city.tenant {
            if let Err(e) = Tenant::parse(tenant.slug.get_ref()) {
                self.fail(at(tenant.slug.span(), e));
            }
            if tenant.sealed && tenant.slug.get_ref() == city.operations.get_ref() {
                self.fail(at(tenant.slug.span(), "operations owns what all share and cannot be sealed".to_owned()));
            }
            if !seen.insert(tenant.slug.get_ref()) {
                self.fail(at(tenant.slug.span(), format!("the tenant '{}' is declared twice", tenant.slug.get_ref())));
            }
            self.text(source, &tenant.slug.span(), "name", &tenant.name);
        }
        if !seen.contains(city.operations.get_ref()) {
            self.fail(at(
                city.operations.span(),
                format!("operations: there is no tenant '{}'", city.operations.get_ref()),
            ));
        }
        for (key, name) in
            city.system.iter().map(|s| (&s.key, &s.name)).chain(city.role.iter().map(|r| (&r.key, &r.name)))
        {
            self.key(source, key);
            self.text(source, &key.span(), "name", name);
        }
        self.text(source, &(0..0), "city", &city.city);
        let [west, south, east, north] = *city.map.bounds.get_ref();
        if !(-180.0..=180.0).contains(&west)
            || !(west..=180.0).contains(&east)
            || !(-90.0..=90.0).contains(&south)
            || !(south..=90.0).contains(&north)
        {
            self.fail(at(city.map.bounds.span(), "bounds are west, south, east, north in degrees".to_owned()));
        }
        let [lon, lat] = *city.map.centre.get_ref();
        if !(west..=east).contains(&lon) || !(south..=north).contains(&lat) {
            self.fail(at(city.map.centre.span(), "centre (longitude, latitude) lies outside of bounds".to_owned()));
        }
    }

    fn key(&mut self, source: &Source, key: &Spanned<String>) {
        if !is_key(key.get_ref()) {
            let text = key.get_ref();
            self.fail(source.mistake(
                &key.span(),
                format!("'{text}' is not a key: use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit"),
            ));
        }
    }

    fn text(&mut self, source: &Source, at: &Range<usize>, field: &str, text: &Text) {
        let has = |language: &str| match language {
            "en" => !text.en.trim().is_empty(),
            "zh-hant" => text.zh_hant.as_deref().is_some_and(|t| !t.trim().is_empty()),
            _ => text.zh_hans.as_deref().is_some_and(|t| !t.trim().is_empty()),
        };
        let missing: Vec<&str> = self.complete.iter().map(String::as_str).filter(|l| !has(l)).collect();
        if !missing.is_empty() {
            let message = format!("{field} lacks {}", missing.join(", "));
            self.fail(source.mistake(at, message));
        }
    }

    /// Adds a declaration; a second one with the key is a mistake that names the first.
    fn declare<'s, T>(
        &mut self,
        all: &mut Declarations<'s, T>,
        kind: &str,
        key: &str,
        at: &Range<usize>,
        source: &'s Source,
        value: T,
    ) {
        if let Some((_, first)) = all.0.get(key) {
            let message = format!("the {kind} '{key}' is declared twice; first in {}", first.name);
            return self.fail(source.mistake(at, message));
        }
        all.0.insert(key.to_owned(), (value, source));
    }

    fn things(&mut self, sources: &[Source], city: &City, tenants: &[Tenant]) -> Inventory {
        let files: Vec<(&Source, things::File)> =
            sources.iter().filter_map(|s| self.keep(s.parse()).map(|file| (s, file))).collect();
        let mut observed = Declarations(BTreeMap::new());
        let mut sensors = Declarations(BTreeMap::new());
        let mut shapes = Declarations(BTreeMap::new());
        let mut tasking = Declarations(BTreeMap::new());
        for (source, file) in &files {
            for form in &file.observed_property {
                self.named(source, &form.key, &form.name, form.description.as_ref());
                let (key, at) = (form.key.get_ref(), form.key.span());
                let description = form.description.clone().unwrap_or_else(|| form.name.clone());
                let value = ObservedProperty {
                    key: key.clone(),
                    name: form.name.clone(),
                    definition: form.definition.clone(),
                    description,
                };
                self.declare(&mut observed, "observed property", key, &at, source, value);
            }
            for form in &file.sensor {
                self.named(source, &form.key, &form.name, form.description.as_ref());
                let (key, at) = (form.key.get_ref(), form.key.span());
                let description = form.description.clone().unwrap_or_else(|| form.name.clone());
                let value = Sensor {
                    key: key.clone(),
                    name: form.name.clone(),
                    description,
                    encoding_type: form.encoding_type.clone(),
                    metadata: form.metadata.clone(),
                };
                self.declare(&mut sensors, "sensor", key, &at, source, value);
            }
            for form in &file.datastream {
                let form = form.get_ref();
                self.declare(&mut shapes, "datastream", form.key.get_ref(), &form.key.span(), source, form);
            }
            for form in &file.tasking_capability {
                let form = form.get_ref();
                self.named(source, &form.key, &form.name, form.description.as_ref());
                self.text(source, &form.key.span(), "actuator.name", &form.actuator.name);
                self.declare(&mut tasking, "tasking capability", form.key.get_ref(), &form.key.span(), source, form);
            }
        }
        for (source, file) in &files {
            let own = file.thing.iter().flat_map(|t| t.get_ref().datastream.iter());
            for form in file.datastream.iter().map(Spanned::get_ref).chain(own) {
                self.datastream(source, form, &observed, &sensors);
            }
        }
        let mut all = Declarations(BTreeMap::new());
        for (source, file) in &files {
            for form in &file.thing {
                self.thing(source, form, city, tenants, (&shapes, &tasking), &mut all);
            }
        }
        let values = |pair: (String, (Thing, &Source))| pair.1.0;
        Inventory {
            observed_properties: observed.0.into_values().map(|(v, _)| v).collect(),
            sensors: sensors.0.into_values().map(|(v, _)| v).collect(),
            things: all.0.into_iter().map(values).collect(),
        }
    }

    fn named(&mut self, source: &Source, key: &Spanned<String>, name: &Text, description: Option<&Text>) {
        self.key(source, key);
        self.text(source, &key.span(), "name", name);
        if let Some(description) = description {
            self.text(source, &key.span(), "description", description);
        }
    }

    fn datastream(
        &mut self,
        source: &Source,
        form: &DatastreamForm,
        observed: &Declarations<'_, ObservedProperty>,
        sensors: &Declarations<'_, Sensor>,
    ) {
        self.named(source, &form.key, &form.name, form.description.as_ref());
        if !observed.known(form.observed_property.get_ref()) {
            let message = format!("there is no observed property '{}'", form.observed_property.get_ref());
            self.fail(source.mistake(&form.observed_property.span(), message));
        }
        if !sensors.known(form.sensor.get_ref()) {
            let message = format!("there is no sensor '{}'", form.sensor.get_ref());
            self.fail(source.mistake(&form.sensor.span(), message));
        }
        if form.interval == Some(0) {
            self.fail(source.mistake(&form.key.span(), "interval is at least one second"));
        }
    }

    fn thing<'s>(
        &mut self,
        source: &'s Source,
        spanned: &Spanned<ThingForm>,
        city: &City,
        tenants: &[Tenant],
        (shapes, tasking): (&Declarations<'_, &DatastreamForm>, &Declarations<'_, &TaskingForm>),
        all: &mut Declarations<'s, Thing>,
    ) {
        let form = spanned.get_ref();
        let Some(tenant) = tenants.iter().find(|t| t.as_str() == form.tenant.get_ref()) else {
            let message = format!("there is no tenant '{}'", form.tenant.get_ref());
            return self.fail(source.mistake(&form.tenant.span(), message));
        };
        let sealed = city.tenant.iter().any(|t| t.sealed && t.slug.get_ref() == form.tenant.get_ref());
        if sealed && (form.public || form.datastream.iter().any(|d| d.public == Some(true))) {
            let message = format!("'{tenant}' is sealed: nothing of it is public");
            self.fail(source.mistake(&form.key.span(), message));
        }
        if !city.system.iter().any(|s| s.key.get_ref() == form.system.get_ref()) {
            let message = format!("there is no system '{}'", form.system.get_ref());
            self.fail(source.mistake(&form.system.span(), message));
        }
        self.text(source, &form.key.span(), "name", &form.name);
        if let Some(description) = &form.description {
            self.text(source, &form.key.span(), "description", description);
        }
        let mut datastreams: Vec<&DatastreamForm> = form.datastream.iter().collect();
        for name in &form.datastreams {
            match shapes.0.get(name.get_ref()) {
                Some((shape, _)) => datastreams.push(shape),
                None => self.fail(source.mistake(&name.span(), format!("there is no datastream '{}'", name.get_ref()))),
            }
        }
        let mut moves: Vec<&TaskingForm> = Vec::new();
        for name in &form.tasking_capabilities {
            match tasking.0.get(name.get_ref()) {
                Some((shape, _)) => moves.push(shape),
                None => {
                    let message = format!("there is no tasking capability '{}'", name.get_ref());
                    self.fail(source.mistake(&name.span(), message));
                }
            }
        }
        let rows = match &form.from {
            None => vec![rows::Row::new()],
            Some(from) => match from.load(self.folder) {
                Ok(rows) => rows,
                Err(e) => return self.fail(source.mistake(&spanned.span(), e)),
            },
        };
        for (i, row) in rows.iter().enumerate() {
            match build(form, tenant, (&datastreams, &moves), row) {
                Ok(thing) => {
                    let key = thing.key.clone();
                    self.declare(all, "thing", &key, &form.key.span(), source, thing);
                }
                Err(e) => {
                    let place = if form.from.is_some() { format!("row {}: {e}", i + 1) } else { e };
                    // One mistake of the template is enough: it is the same in every row.
                    return self.fail(source.mistake(&spanned.span(), place));
                }
            }
        }
    }

    fn policy(&mut self, sealed: &BTreeSet<Tenant>) -> Option<CedarPolicy> {
        let listed = self.folder.list("policies", ".cedar");
        let names = self.keep(listed)?;
        if names.is_empty() {
            self.fail(whole("policies", "holds no .cedar file: nobody could do anything"));
            return None;
        }
        let sources: Vec<Source> = names.iter().filter_map(|name| self.keep_read(name)).collect();
        let schema = self.keep_read("policies/schema.cedarschema")?;
        let files: Vec<(&str, &str)> = sources.iter().map(|s| (s.name.as_str(), s.text.as_str())).collect();
        match CedarPolicy::new((&schema.name, &schema.text), &files, sealed.clone()) {
            Ok(policy) => Some(policy),
            Err(errors) => {
                for policy::Invalid { file, at, message } in errors {
                    let source = sources.iter().chain([&schema]).find(|s| s.name == file);
                    self.fail(match (source, at) {
                        (Some(source), Some(at)) => source.mistake(&at, message),
                        _ => whole(&file, message),
                    });
                }
                None
            }
        }
    }

    /// Over every file, by name, so that two machines agree.
    fn hash(&mut self) -> Option<String> {
        let mut names = vec!["pack.toml".to_owned()];
        for folder in
            ["things", "connectors", "rules", "derived", "fences", "retention", "dashboards", "policies", "data"]
        {
            let listed = self.folder.list(folder, "");
            names.extend(self.keep(listed)?);
        }
        let mut hash = Sha256::new();
        for name in names {
            if self.folder.root.join(&name).is_dir() {
                continue;
            }
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name.as_bytes());
            // Piece by piece: a city's tables need not be in memory to be recognised.
            let length = self.folder.length(&name).map(u64::to_be_bytes);
            hash.update(self.keep(length)?);
            let read = self.folder.each(&name, |piece| hash.update(piece));
            self.keep(read)?;
        }
        Some(hex::encode(hash.finalize()))
    }
}

fn tenants(city: &City) -> Vec<Tenant> {
    city.tenant.iter().filter_map(|t| Tenant::parse(t.slug.get_ref()).ok()).collect()
}

pub fn is_key(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

fn build(
    form: &ThingForm,
    tenant: &Tenant,
    (shapes, moves): (&[&DatastreamForm], &[&TaskingForm]),
    row: &rows::Row,
) -> Result<Thing, String> {
    let key = rows::fill(form.key.get_ref(), row)?;
    if !is_key(&key) {
        return Err(format!(
            "'{key}' is not a key: use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit ({{field|slug}} makes one)"
        ));
    }
    let name = things::fill_text(&form.name, row)?;
    let description = form.description.as_ref().map(|d| things::fill_text(d, row)).transpose()?;
    let properties = match rows::fill_value(&Value::Object(form.properties.clone()), row)? {
        Some(Value::Object(properties)) => properties,
        _ => serde_json::Map::new(),
    };
    let mut keys = HashMap::new();
    let datastreams: Result<Vec<_>, String> = shapes
        .iter()
        .map(|shape| {
            if keys.insert(shape.key.get_ref().clone(), ()).is_some() {
                return Err(format!("it has two datastreams '{}'", shape.key.get_ref()));
            }
            let name = things::fill_text(&shape.name, row)?;
            let description = shape.description.as_ref().map(|d| things::fill_text(d, row)).transpose()?;
            Ok(Datastream {
                key: format!("{key}.{}", shape.key.get_ref()),
                description: description.unwrap_or_else(|| name.clone()),
                name,
                observed_property: shape.observed_property.get_ref().clone(),
                sensor: shape.sensor.get_ref().clone(),
                unit: shape.unit.clone(),
                observation_type: shape.observation_type,
                interval: shape.interval,
                public: shape.public.unwrap_or(form.public),
                simulated: shape.simulated.unwrap_or(form.simulated),
                properties: shape.properties.clone(),
            })
        })
        .collect();
    let datastreams = datastreams?;
    let tasking = moves.iter().map(|shape| movable(&key, shape, &datastreams)).collect::<Result<_, _>>()?;
    Ok(Thing {
        tenant: tenant.clone(),
        system: form.system.get_ref().clone(),
        description: description.unwrap_or_else(|| name.clone()),
        name,
        location: form.location.as_ref().map(|l| l.resolve(row)).transpose()?,
        district: form.district.as_deref().map(|d| rows::fill(d, row)).transpose()?.filter(|d| !d.is_empty()),
        public: form.public,
        simulated: form.simulated,
        properties,
        datastreams,
        tasking,
        key,
    })
}

/// What may be asked of one thing: the same check as at the API's door, so that a pack's mistake is found before anything is applied.
fn movable(thing: &str, shape: &TaskingForm, datastreams: &[Datastream]) -> Result<TaskingCapability, String> {
    let name = shape.key.get_ref();
    let mut terms = shape.terms.clone();
    if let Some(Value::Object(verify)) = terms.get_mut("verify") {
        let of = verify.remove("datastream").and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let key = format!("{thing}.{of}");
        if !datastreams.iter().any(|d| d.key == key) {
            return Err(format!(
                "tasking capability '{name}': terms.verify.datastream: the thing has no datastream '{of}'"
            ));
        }
        verify.insert("Datastream".to_owned(), serde_json::json!({ "@iot.key": key }));
    }
    let parameters = serde_json::json!({"type": "DataRecord", "field": shape.parameters});
    let properties = [("tasking".to_owned(), Value::Object(terms.clone()))].into_iter().collect();
    sensing::tasking::terms::check_capability("", &parameters, &properties).map_err(|error| {
        let problem = kernel::Problem::from(error);
        let wrong = problem.errors.first().map(|e| format!("{}: {}", e.field, e.detail));
        format!("tasking capability '{name}': {}", wrong.unwrap_or(problem.detail))
    })?;
    let description = shape.description.clone().unwrap_or_else(|| shape.name.clone());
    let (name, actuator) = (shape.name.clone(), shape.actuator.clone());
    Ok(TaskingCapability {
        key: format!("{thing}.{}", shape.key.get_ref()),
        name,
        description,
        actuator,
        parameters,
        terms,
    })
}

#[cfg(test)]
mod tests;
