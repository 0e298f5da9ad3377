//! What a pack says of the doors that are pushed to: which device or measurement is which Datastream. Pure.
//!
//! docs/ingest.md shows every field with examples.

use std::collections::{BTreeMap, BTreeSet};

use kernel::{FieldError, Problem, Tenant, Text};
use serde::{Deserialize, Serialize};

use super::lorawan::payload::{self, Payload};
use crate::{connect::template::Template, model::ObservationType, rules::model::is_key};

/// A file of `ingest/`. Unknown fields are refused, so that a misspelt one is found when the pack is checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestFile {
    #[serde(default)]
    pub lorawan: Vec<Lorawan>,
    #[serde(default)]
    pub line: Vec<Line>,
}

/// What LoRaWAN devices of one kind send, and where it belongs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lorawan {
    /// Unique among the doors of the city.
    pub key: String,
    /// Whose Datastreams it writes; it reaches no others, and takes messages of this tenant's keys only.
    pub tenant: Tenant,
    pub name: Text,
    /// Names of device profiles (ChirpStack); any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Names or ids of applications; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<String>,
    /// DevEUI (16 hexadecimal digits) to the key of the Thing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, String>,
    /// The key of the Thing of a device that `devices` does not name: `bin-{devEui}`. Fields: `devEui`, `deviceName`, and the device's tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thing: Option<String>,
    /// How the bytes are read when the network server has not read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    pub value: Vec<DeviceValue>,
}

/// Which message of the device a value is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// Measurements.
    #[default]
    Up,
    /// The answer to DevStatusReq (LoRaWAN 1.0.4 section 5.5): battery and margin.
    Status,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceValue {
    /// A dotted path in the decoded object; `$.fCnt` begins at the message; `$rssi`, `$snr`, `$gateways`, `$battery` and `$margin` are worked out.
    pub field: String,
    #[serde(default)]
    pub message: Message,
    /// Only in messages on this FPort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u8>,
    /// The Datastream's key: `{thing}.fill`.
    pub datastream: String,
    #[serde(flatten)]
    pub reading: ReadingForm,
    /// A message without the field is no mistake.
    #[serde(default)]
    pub optional: bool,
}

/// What a published value means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadingForm {
    /// `result = published * scale + offset`.
    #[serde(default = "one")]
    pub scale: f64,
    #[serde(default)]
    pub offset: f64,
    /// The publisher's word (or number) to ours: `{ "0" = "closed", "1" = "open" }`. A word that is not here is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<String, String>,
}

const fn one() -> f64 {
    1.0
}

/// What lines of one measurement mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub key: String,
    pub tenant: Tenant,
    pub name: Text,
    pub measurement: String,
    /// Only what is written to this bucket (version 2) or database (version 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Only lines whose tag has one of these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, Vec<String>>,
    /// Lookup tables: the publisher's word to ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, BTreeMap<String, String>>,
    /// What becomes of fields that no value names.
    #[serde(default)]
    pub others: Others,
    pub value: Vec<LineValue>,
    /// Things that are made when a line speaks of one that is not there; for callers with the right to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Create>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// They are mistakes of the line.
    #[default]
    Refuse,
    /// They are passed over. An agent such as Telegraf sends much that nobody asked for.
    Ignore,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineValue {
    pub field: String,
    /// The Datastream's key, from tags: `pump-{station|slug}.flow`.
    pub datastream: String,
    #[serde(flatten)]
    pub reading: ReadingForm,
    /// How the Datastream is made, where `create` makes its Thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The Thing's key: `pump-{station|slug}`. A Thing that is there is left as it is.
    pub thing: String,
    pub name: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub simulated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Keys of an ObservedProperty and a Sensor of the tenant, or of the one that runs the platform.
    pub observed_property: String,
    pub sensor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// `Measurement`, `Count`, `Truth`, `Category`, `Text`.
    pub observation_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    pub name: String,
    pub symbol: String,
    pub definition: String,
}

/// A [`Lorawan`] that is known to make sense.
#[derive(Clone, Debug)]
pub struct LorawanDoor {
    pub form: Lorawan,
    pub thing: Option<Template>,
    /// As long as `form.value`.
    pub datastreams: Vec<Template>,
}

/// A [`Line`] that is known to make sense.
#[derive(Clone, Debug)]
pub struct LineDoor {
    pub form: Line,
    /// As long as `form.value`.
    pub datastreams: Vec<Template>,
    pub thing: Option<(Template, Template, Template)>,
}

/// Everything that is declared.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    pub lorawan: Vec<LorawanDoor>,
    pub line: Vec<LineDoor>,
}

/// Declarations of one city, and values of one declaration.
const MAX_DOORS: usize = 10_000;
const MAX_VALUES: usize = 1_000;
const MAX_LIST: usize = 100_000;

/// Names of fields that are worked out from a message.
pub const COMPUTED: [&str; 5] = ["$rssi", "$snr", "$gateways", "$battery", "$margin"];

/// Checks everything: each declaration by itself, and no key twice.
///
/// # Errors
/// A 400 whose fields begin with the declaration's key, such as `/lorawan/bins/value/0/datastream`.
pub fn check_all(file: IngestFile) -> Result<Doors, Problem> {
    if file.lorawan.len() + file.line.len() > MAX_DOORS {
        return Err(Problem::too_large(format!("At most {MAX_DOORS} declarations are possible.")));
    }
    let mut errors = Errors { at: String::new(), list: Vec::new() };
    let mut keys = BTreeSet::new();
    let mut doors = Doors::default();
    for form in file.lorawan {
        errors.at = format!("/lorawan/{}", form.key);
        errors.head(&form.key, &form.tenant, &mut keys);
        let (thing, datastreams) = lorawan(&form, &mut errors);
        doors.lorawan.push(LorawanDoor { form, thing, datastreams });
    }
    for form in file.line {
        errors.at = format!("/line/{}", form.key);
        errors.head(&form.key, &form.tenant, &mut keys);
        let (datastreams, thing) = line(&form, &mut errors);
        doors.line.push(LineDoor { form, datastreams, thing });
    }
    if errors.list.is_empty() {
        return Ok(doors);
    }
    let mut problem = Problem::bad_request("The declarations of doors have mistakes.");
    problem.errors = errors.list;
    Err(problem)
}

struct Errors {
    at: String,
    list: Vec<FieldError>,
}

impl Errors {
    fn wrong(&mut self, field: &str, detail: impl Into<String>) {
        self.list.push(FieldError { field: format!("{}{field}", self.at), detail: detail.into() });
    }
    fn head(&mut self, key: &str, tenant: &Tenant, keys: &mut BTreeSet<String>) {
        if !is_key(key) {
            self.wrong("/key", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit");
        }
        if !keys.insert(key.to_owned()) {
            self.wrong("/key", "the key is used twice");
        }
        if let Err(detail) = Tenant::parse(tenant.as_str()) {
            self.wrong("/tenant", detail);
        }
    }
    fn template(&mut self, field: &str, text: &str, tables: &BTreeMap<String, BTreeMap<String, String>>) -> Template {
        match Template::parse(text) {
            Ok(template) => {
                if let Some(table) = template.tables().find(|t| !tables.contains_key(*t)) {
                    self.wrong(field, format!("there is no table '{table}'"));
                }
                template
            }
            Err(detail) => {
                self.wrong(field, detail);
                Template::default()
            }
        }
    }
    fn reading(&mut self, field: &str, form: &ReadingForm) {
        if !form.scale.is_finite() || form.scale == 0.0 || !form.offset.is_finite() {
            self.wrong(&format!("{field}/scale"), "finite numbers are expected, and a scale that is not 0");
        }
        if form.words.len() > MAX_VALUES {
            self.wrong(&format!("{field}/words"), format!("at most {MAX_VALUES} words are expected"));
        }
    }
    fn count(&mut self, values: usize) {
        if values == 0 || values > MAX_VALUES {
            self.wrong("/value", format!("1 to {MAX_VALUES} values are expected"));
        }
    }
}

/// 16 hexadecimal digits, as LoRaWAN writes an EUI-64.
pub fn is_eui(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn lorawan(form: &Lorawan, errors: &mut Errors) -> (Option<Template>, Vec<Template>) {
    let none = BTreeMap::new();
    errors.count(form.value.len());
    if form.devices.is_empty() && form.thing.is_none() {
        errors.wrong("/devices", "name the devices, or give thing as a template such as bin-{devEui}");
    }
    if form.devices.len() > MAX_LIST {
        errors.wrong("/devices", format!("at most {MAX_LIST} devices are expected"));
    }
    for (eui, thing) in &form.devices {
        if !is_eui(eui) {
            errors.wrong(&format!("/devices/{eui}"), "a DevEUI of 16 of 0-9 and a-f is expected");
        }
        if !is_key(thing) {
            errors.wrong(&format!("/devices/{eui}"), format!("'{thing}' is not the key of a Thing"));
        }
    }
    let thing = form.thing.as_ref().map(|text| errors.template("/thing", text, &none));
    if let Some(payload) = &form.payload {
        for (place, detail) in payload::check(payload) {
            errors.wrong(&format!("/payload{place}"), detail);
        }
    }
    let mut datastreams = Vec::with_capacity(form.value.len());
    for (at, value) in form.value.iter().enumerate() {
        let place = format!("/value/{at}");
        errors.reading(&place, &value.reading);
        if value.field.starts_with('$') && !value.field.starts_with("$.") && !COMPUTED.contains(&value.field.as_str()) {
            errors.wrong(&format!("{place}/field"), format!("one of {} is expected", COMPUTED.join(", ")));
        }
        datastreams.push(errors.template(&format!("{place}/datastream"), &value.datastream, &none));
    }
    (thing, datastreams)
}

type Made = (Template, Template, Template);

fn line(form: &Line, errors: &mut Errors) -> (Vec<Template>, Option<Made>) {
    errors.count(form.value.len());
    if form.measurement.is_empty() {
        errors.wrong("/measurement", "the name of a measurement is expected");
    }
    let entries =
        form.tables.values().map(BTreeMap::len).sum::<usize>() + form.only.values().map(Vec::len).sum::<usize>();
    if entries > MAX_LIST {
        errors.wrong("/tables", format!("at most {MAX_LIST} entries of tables and only are expected"));
    }
    let mut fields = BTreeSet::new();
    let mut datastreams = Vec::with_capacity(form.value.len());
    for (at, value) in form.value.iter().enumerate() {
        let place = format!("/value/{at}");
        errors.reading(&place, &value.reading);
        if !fields.insert(value.field.as_str()) {
            errors.wrong(&format!("{place}/field"), "the field is named twice");
        }
        datastreams.push(errors.template(&format!("{place}/datastream"), &value.datastream, &form.tables));
        match &value.shape {
            Some(_) if form.create.is_none() => {
                errors.wrong(&format!("{place}/shape"), "it goes with create");
            }
            Some(shape) if code(&shape.observation_type).is_none() => errors.wrong(
                &format!("{place}/shape/observation_type"),
                "one of Measurement, Count, Truth, Category and Text is expected",
            ),
            _ => {}
        }
    }
    let thing = form.create.as_ref().map(|create| {
        (
            errors.template("/create/thing", &create.thing, &form.tables),
            errors.template("/create/name", &create.name, &form.tables),
            errors.template("/create/description", &create.description, &form.tables),
        )
    });
    (datastreams, thing)
}

/// The type as SensorThings writes it, of those whose results a line can carry.
pub fn code(name: &str) -> Option<String> {
    use ObservationType as T;
    let all = [T::Measurement, T::Count, T::Truth, T::Category, T::Text];
    let names = ["Measurement", "Count", "Truth", "Category", "Text"];
    names.iter().position(|n| *n == name).map(|at| all[at].code())
}
