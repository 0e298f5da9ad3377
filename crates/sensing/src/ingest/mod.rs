//! The further doors by which measurements come in: network servers of LoRaWAN, agents that write line protocol, files that an officer brings. docs/ingest.md
//! describes them for whoever writes a pack or sends something.
//!
//! Each door turns what it is sent into Observations of Datastreams that a pack names ([`declaration`]), and all end in the one way in:
//! [`Observe::record`]. So an answer that says "recorded" means durable, and sending the same again is safe. A door knows the Datastreams of its caller's
//! tenant only, and creates nothing for strangers: a device that nobody has declared is listed ([`strangers`]) for somebody to look at.

pub mod api;
pub mod csv;
pub mod declaration;
pub mod line;
pub mod lorawan;
pub mod strangers;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use kernel::{Caller, FieldError, Interval, Problem, Resource, Tenant, Timestamp};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Catalog, Error,
    connect::{
        fit::result_of,
        map::{MISSING, quality},
        rows::json,
    },
    model::{DatastreamInfo, Observation, ResultValue},
    observe::{Batch, Observe},
    route::action,
    sta::{Rights, Sent, Watch},
};
use declaration::{Doors, IngestFile, LorawanDoor, ReadingForm};
use lorawan::{
    event::{Event, Heard, Named},
    payload,
};
use strangers::{Stranger, Strangers};

/// One of the doors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    ChirpStack,
    ThingsStack,
    Line,
    Csv,
}

impl Door {
    pub const ALL: [Self; 4] = [Self::ChirpStack, Self::ThingsStack, Self::Line, Self::Csv];
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChirpStack => "chirpstack",
            Self::ThingsStack => "things-stack",
            Self::Line => "line",
            Self::Csv => "csv",
        }
    }
}

/// What a door has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests with something to be recorded.
    pub messages: u64,
    pub observations: u64,
    /// Values and lines that were not taken.
    pub refused: u64,
}

#[derive(Default)]
struct Counters {
    messages: AtomicU64,
    observations: AtomicU64,
    refused: AtomicU64,
}

/// The facade over the doors. Cheap to clone.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    observe: Observe,
    rights: Option<Rights>,
    watch: Option<Watch>,
    /// The tenant that owns what is shared.
    operations: Tenant,
    doors: ArcSwap<Doors>,
    strangers: Mutex<Strangers>,
    counters: [Counters; Door::ALL.len()],
    body_bytes: usize,
    /// IANA time zone of the city.
    zone: String,
}

/// What became of a device's message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The key of its Thing; empty when the message held nothing to be recorded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thing: String,
    pub recorded: usize,
    /// Values that were not taken, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<FieldError>,
}

/// Whether a caller may add to a Datastream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Admission {
    Yes,
    /// It may be seen but not added to.
    No,
    Hidden,
}

impl Ingest {
    /// `operations` owns the Sensors and ObservedProperties that all share; `zone` is the city's, for times in files. Nothing is declared yet.
    pub fn new(catalog: Catalog, observe: Observe, operations: Tenant, zone: &str, body_bytes: usize) -> Self {
        Self(Arc::new(Inner {
            catalog,
            observe,
            rights: None,
            watch: None,
            operations,
            doors: ArcSwap::default(),
            strangers: Mutex::default(),
            counters: Default::default(),
            body_bytes,
            zone: zone.to_owned(),
        }))
    }

    /// Asks `rights` instead of the policy alone who may add Observations (a device: to its own Things only), and tells `watch` what came of them. To be called
    /// before the handle is cloned; later it changes nothing.
    #[must_use]
    pub fn guarded(mut self, rights: Rights, watch: Watch) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.rights = Some(rights);
            inner.watch = Some(watch);
        }
        self
    }

    /// Makes the declared doors those of `file`.
    ///
    /// # Errors
    /// 400 with every mistake and its place; then nothing has changed.
    pub fn declare(&self, file: IngestFile) -> Result<(), Error> {
        self.0.doors.store(Arc::new(declaration::check_all(file)?));
        Ok(())
    }

    pub fn stats(&self, door: Door) -> Stats {
        let c = &self.0.counters[door as usize];
        Stats {
            messages: c.messages.load(Relaxed),
            observations: c.observations.load(Relaxed),
            refused: c.refused.load(Relaxed),
        }
    }
    fn count(&self, door: Door, recorded: usize, refused: usize) {
        let c = &self.0.counters[door as usize];
        c.messages.fetch_add(1, Relaxed);
        c.observations.fetch_add(recorded as u64, Relaxed);
        c.refused.fetch_add(refused as u64, Relaxed);
    }

    fn sent(&self, caller: &Caller, sent: Sent<'_>) {
        if let Some(watch) = &self.0.watch {
            watch(caller, sent);
        }
    }

    /// Whether there is more than the catalogue's own answer to be given: the tenant for which the caller may add Observations at all.
    fn tenant(&self, caller: &Caller) -> Result<Tenant, Error> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        let Some(tenant) = caller.tenant.clone() else {
            return Err(Problem::forbidden("Only what acts for a department may send measurements.").into());
        };
        let resource = Resource { kind: "Datastream", id: "", tenant: Some(&tenant), public: false };
        if caller.is_system() || self.0.catalog.scopes().policy().allows(caller, action::OBSERVE, &resource) {
            return Ok(tenant);
        }
        Err(Problem::forbidden("You may not add Observations.").into())
    }

    fn admission(&self, caller: &Caller, info: &DatastreamInfo) -> Admission {
        let allowed = caller.is_system()
            || match &self.0.rights {
                Some(rights) => rights(caller, info),
                None => {
                    let resource =
                        Resource { kind: "Datastream", id: "", tenant: Some(&info.tenant), public: info.public };
                    self.0.catalog.scopes().policy().allows(caller, action::OBSERVE, &resource)
                }
            };
        if allowed {
            Admission::Yes
        } else if self.0.catalog.scope(caller).admits(&info.tenant, info.public) {
            Admission::No
        } else {
            Admission::Hidden
        }
    }

    // --- LoRaWAN --------------------------------------------------------------------------------------------------

    /// Takes a message of a network server.
    ///
    /// # Errors
    /// 400 when it is no such message or nothing of it can be recorded, with each value and why; 401 and 403 as everywhere; 404 when nobody has declared the
    /// device, which is then listed for an officer; 503 when it cannot be made durable now.
    pub async fn take(&self, caller: &Caller, door: Door, event: Event) -> Result<Taken, Error> {
        let tenant = self.tenant(caller)?;
        let heard = match event {
            Event::Heard(heard) => heard,
            Event::Noted(device) => return Ok(Taken { device: device.eui, ..Taken::default() }),
            Event::Complaint(device, why) => {
                tracing::info!(%tenant, device = device.eui, why, "the network server complains about a device");
                return Ok(Taken { device: device.eui, ..Taken::default() });
            }
        };
        let outcome = self.hear(caller, &tenant, door, &heard).await;
        match &outcome {
            Ok(taken) => {
                self.count(door, taken.recorded, taken.refused.len());
                if taken.recorded > 0 {
                    self.sent(caller, Sent::Recorded(taken.recorded as u64, Some(heard.at)));
                }
                if let Some(first) = taken.refused.first() {
                    self.sent(caller, Sent::Refused(&format!("{}, {}: {}", taken.device, first.field, first.detail)));
                }
            }
            Err(Error::Refused(problem)) if problem.status.is_client_error() => {
                self.count(door, 0, problem.errors.len().max(1));
                self.sent(caller, Sent::Refused(&problem.detail));
            }
            Err(_) => {}
        }
        outcome
    }

    async fn hear(&self, caller: &Caller, tenant: &Tenant, door: Door, heard: &Heard) -> Result<Taken, Error> {
        let doors = self.0.doors.load_full();
        let found = doors
            .lorawan
            .iter()
            .filter(|d| d.form.tenant == *tenant)
            .find_map(|d| Some((d, d.thing_of(&heard.device)?)));
        let Some((declared, thing)) = found else {
            return Err(self.strange(tenant, door, heard, "Nothing in the pack names it."));
        };
        let object = object_of(declared, heard)?;
        // Nothing was measured: a frame without a payload, or on a port of which nothing is declared.
        let silent = object.as_object().is_none_or(Map::is_empty);
        let mut wanted: Vec<(usize, String)> = Vec::new();
        let mut taken = Taken { device: heard.device.eui.clone(), thing: thing.clone(), ..Taken::default() };
        let tables = BTreeMap::new();
        for (at, value) in declared.form.value.iter().enumerate() {
            let other_port = value.port.is_some() && value.port != heard.port;
            if value.message != heard.message || other_port {
                continue;
            }
            let mut key = String::new();
            let rendered = declared.datastreams[at].render(&tables, &mut key, |name| heard.device.word(name, &thing));
            match rendered {
                Ok(()) => wanted.push((at, key)),
                Err((field, _, reason)) => taken.refuse(&value.field, format!("{field}: {reason}")),
            }
        }
        let keys = wanted.iter().map(|(_, key)| key.clone()).collect();
        let known = self.0.catalog.keyed(tenant, keys).await?;
        let known = |key: &str| known.get(key).map(|info| (info, self.admission(caller, info)));
        if !wanted.is_empty() && wanted.iter().all(|(_, key)| known(key).is_none_or(|k| k.1 == Admission::Hidden)) {
            return Err(self.strange(
                tenant,
                door,
                heard,
                "Its Thing has none of the Datastreams that the pack names.",
            ));
        }
        let mut batch = Batch::new();
        for (at, key) in &wanted {
            let value = &declared.form.value[*at];
            let (info, admission) = match known(key) {
                Some((info, admission)) if admission != Admission::Hidden => (info, admission),
                _ => {
                    taken.refuse(&value.field, format!("there is no Datastream '{key}'"));
                    continue;
                }
            };
            if admission == Admission::No {
                return Err(Problem::forbidden(format!("You may not add Observations to '{key}'.")).into());
            }
            let Some(found) = heard.field(&object, &value.field) else {
                if !value.optional && (!silent || value.field.starts_with('$')) {
                    taken.refuse(&value.field, "the message has no such field".to_owned());
                }
                continue;
            };
            match observation(&found, &value.reading, info, heard.at) {
                Ok(observation) => batch.push(observation),
                Err(reason) => taken.refuse(&value.field, reason),
            }
        }
        taken.recorded = batch.len();
        if batch.is_empty() && !taken.refused.is_empty() {
            let mut problem =
                Problem::bad_request(format!("Nothing of the message of {} can be recorded.", taken.device));
            problem.errors = taken.refused;
            return Err(problem.into());
        }
        if !batch.is_empty() {
            self.0.observe.record(batch).await?;
        }
        self.0.strangers.lock().forget(tenant, &heard.device.eui);
        Ok(taken)
    }

    fn strange(&self, tenant: &Tenant, door: Door, heard: &Heard, why: &'static str) -> Error {
        self.0.strangers.lock().saw(tenant, door, &heard.device, self.0.catalog.now(), why);
        let detail = format!("The device {} is not taken. {why} It is listed for an officer.", heard.device.eui);
        Problem::new(http::StatusCode::NOT_FOUND, "unknown-device", "Nobody has declared this device", detail).into()
    }

    /// Devices of a tenant that network servers have spoken of and nobody has declared, the last heard first.
    ///
    /// # Errors
    /// 404 for those who may not read the tenant's devices.
    pub fn strangers(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<Stranger>, Error> {
        let resource = Resource { kind: "Device", id: "", tenant: Some(tenant), public: false };
        if !self.0.catalog.scopes().policy().allows(caller, action::DEVICE_READ, &resource) {
            return Err(Error::not_found("The list"));
        }
        Ok(self.0.strangers.lock().of(tenant))
    }
}

impl Taken {
    fn refuse(&mut self, field: &str, detail: String) {
        self.refused.push(FieldError { field: format!("/{field}"), detail });
    }
}

impl LorawanDoor {
    /// The key of the device's Thing, when this declaration is about it.
    fn thing_of(&self, device: &Named) -> Option<String> {
        let among = |list: &[String], name: &str| list.iter().any(|l| l == name);
        if !self.form.profiles.is_empty() && !among(&self.form.profiles, &device.profile) {
            return None;
        }
        if !self.form.applications.is_empty() && !device.applications.iter().any(|a| among(&self.form.applications, a))
        {
            return None;
        }
        if let Some(thing) = self.form.devices.get(&device.eui) {
            return Some(thing.clone());
        }
        let mut thing = String::new();
        let rendered = self.thing.as_ref()?.render(&BTreeMap::new(), &mut thing, |name| device.word(name, ""));
        rendered.is_ok().then_some(thing)
    }
}

impl Named {
    /// What stands for a name between the braces of a key.
    fn word<'a>(&'a self, name: &str, thing: &'a str) -> Option<Cow<'a, str>> {
        Some(Cow::Borrowed(match name {
            "thing" => thing,
            "devEui" => &self.eui,
            "deviceName" => &self.name,
            tag => self.tags.iter().find(|(key, _)| key == tag).map(|(_, value)| value.as_str())?,
        }))
    }
}

impl Heard {
    /// A field of the message; a JSON value, because a decoder's `null` means something else than an absent member.
    fn field<'a>(&'a self, object: &'a Value, name: &str) -> Option<Cow<'a, Value>> {
        let computed = match name {
            "$rssi" => self.rssi,
            "$snr" => self.snr,
            "$battery" => self.battery,
            "$margin" => self.margin,
            "$gateways" => Some(self.gateways as f64),
            _ => return json::field(&self.whole, object, name).map(Cow::Borrowed),
        };
        computed.map(|n| Cow::Owned(Value::from(n)))
    }
}

/// What the network server has decoded, else what the declaration makes of the bytes.
fn object_of(declared: &LorawanDoor, heard: &Heard) -> Result<Value, Error> {
    if let Some(object) = &heard.object {
        return Ok(Value::Object(object.clone()));
    }
    if heard.bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match &declared.form.payload {
        Some(payload) => {
            let read = payload::read(payload, &heard.bytes, heard.port);
            read.map(Value::Object).map_err(|detail| Error::field("/data", detail))
        }
        None => Err(Error::field(
            "/object",
            "the network server has not decoded the payload, and nothing declares how it is read: give the device profile a codec, or the declaration a payload",
        )),
    }
}

/// A value as an Observation of its Datastream. What a decoder could not read (null) is no result, and says so.
fn observation(value: &Value, form: &ReadingForm, info: &DatastreamInfo, at: Timestamp) -> Result<Observation, String> {
    let (result, missing) = match value {
        Value::Null => (ResultValue::Json(crate::model::raw(&Value::Null)), Some(quality(MISSING, None))),
        Value::String(text) => (form.result(text, info)?, None),
        other => (form.result(&other.to_string(), info)?, None),
    };
    info.check(&result).map_err(|e| e.to_string())?;
    Ok(Observation {
        datastream: info.id,
        phenomenon: Interval::instant(at),
        result_time: None,
        result,
        feature: info.feature,
        quality: missing,
        valid: None,
        parameters: None,
    })
}

impl ReadingForm {
    fn result(&self, text: &str, info: &DatastreamInfo) -> Result<ResultValue, String> {
        if self.words.is_empty() {
            return result_of(text, (self.scale, self.offset), info.observation_type);
        }
        // A decoder that computes writes 1.0 where the declaration says 1.
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let ours = self.words.get(text).or_else(|| self.words.get(whole));
        let ours =
            ours.ok_or_else(|| format!("'{}' is none of the declared words", crate::connect::report::shorten(text)))?;
        result_of(ours, (1.0, 0.0), info.observation_type)
    }
}

/// Infos by key, for callers that ask for many.
type Known = HashMap<String, Arc<DatastreamInfo>>;
