//! `things/*.toml`: what a file may say ([`File`]) and the things it comes to ([`Thing`]) once rows are filled in and shapes looked up.

use kernel::Text;
use sensing::model::ObservationType;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::rows;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub observed_property: Vec<ObservedPropertyForm>,
    pub sensor: Vec<SensorForm>,
    pub datastream: Vec<Spanned<DatastreamForm>>,
    pub tasking_capability: Vec<Spanned<TaskingForm>>,
    pub thing: Vec<Spanned<ThingForm>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedPropertyForm {
    pub key: Spanned<String>,
    pub name: Text,
    pub definition: String,
    pub description: Option<Text>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorForm {
    pub key: Spanned<String>,
    pub name: Text,
    pub description: Option<Text>,
    #[serde(default = "html")]
    pub encoding_type: String,
    #[serde(default)]
    pub metadata: String,
}

fn html() -> String {
    "text/html".to_owned()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatastreamForm {
    pub key: Spanned<String>,
    pub name: Text,
    pub description: Option<Text>,
    pub observed_property: Spanned<String>,
    pub sensor: Spanned<String>,
    pub unit: Option<Unit>,
    pub observation_type: ObservationType,
    pub interval: Option<u32>,
    pub public: Option<bool>,
    pub simulated: Option<bool>,
    #[serde(default)]
    pub properties: Map<String, Value>,
}

/// What may be asked of a thing (OGC 17-079), as a shape that things name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskingForm {
    pub key: Spanned<String>,
    pub name: Text,
    pub description: Option<Text>,
    pub actuator: ActuatorForm,
    /// The fields of the DataRecord, in the JSON of SWE Common.
    pub parameters: Vec<Value>,
    /// As `properties.tasking` of a TaskingCapability (docs/tasking.md), but that `verify.datastream` is a shape of the same thing.
    #[serde(default)]
    pub terms: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActuatorForm {
    pub name: Text,
    pub description: Option<Text>,
    #[serde(default = "html")]
    pub encoding_type: String,
    #[serde(default)]
    pub metadata: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    pub name: String,
    pub symbol: String,
    pub definition: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThingForm {
    pub from: Option<rows::From>,
    pub key: Spanned<String>,
    pub tenant: Spanned<String>,
    pub system: Spanned<String>,
    pub name: Text,
    pub description: Option<Text>,
    pub location: Option<LocationForm>,
    pub district: Option<String>,
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub simulated: bool,
    #[serde(default)]
    pub properties: Map<String, Value>,
    #[serde(default)]
    pub datastreams: Vec<Spanned<String>>,
    #[serde(default)]
    pub datastream: Vec<DatastreamForm>,
    #[serde(default)]
    pub tasking_capabilities: Vec<Spanned<String>>,
}

/// `{ lon, lat }` or `{ geojson }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationForm {
    pub lon: Option<NumberForm>,
    pub lat: Option<NumberForm>,
    pub geojson: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a number, or a text such as \"{LAT}\"")]
pub enum NumberForm {
    Number(f64),
    Text(String),
}

/// One thing, complete: rows filled in, shapes looked up, every reference known to exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    pub key: String,
    pub tenant: kernel::Tenant,
    pub system: String,
    pub name: Text,
    pub description: Text,
    /// GeoJSON geometry.
    pub location: Option<Value>,
    pub district: Option<String>,
    pub public: bool,
    pub simulated: bool,
    pub properties: Map<String, Value>,
    pub datastreams: Vec<Datastream>,
    pub tasking: Vec<TaskingCapability>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskingCapability {
    /// `<thing>.<shape>`, of the actuator too.
    pub key: String,
    pub name: Text,
    pub description: Text,
    pub actuator: ActuatorForm,
    /// The DataRecord.
    pub parameters: Value,
    /// `properties.tasking`.
    pub terms: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Datastream {
    /// `<thing>.<shape>`.
    pub key: String,
    pub name: Text,
    pub description: Text,
    pub observed_property: String,
    pub sensor: String,
    pub unit: Option<Unit>,
    pub observation_type: ObservationType,
    pub interval: Option<u32>,
    pub public: bool,
    pub simulated: bool,
    pub properties: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedProperty {
    pub key: String,
    pub name: Text,
    pub definition: String,
    pub description: Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    pub key: String,
    pub name: Text,
    pub description: Text,
    pub encoding_type: String,
    pub metadata: String,
}

/// `text` with the row's fields in each of its languages.
pub fn fill_text(text: &Text, row: &rows::Row) -> Result<Text, String> {
    let fill = |t: &Option<String>| t.as_deref().map(|t| rows::fill(t, row)).transpose();
    Ok(Text { en: rows::fill(&text.en, row)?, zh_hant: fill(&text.zh_hant)?, zh_hans: fill(&text.zh_hans)? })
}

impl LocationForm {
    /// The GeoJSON geometry; `row` fills in texts.
    pub fn resolve(&self, row: &rows::Row) -> Result<Value, String> {
        match (&self.lon, &self.lat, &self.geojson) {
            (Some(lon), Some(lat), None) => {
                let (lon, lat) = (lon.resolve(row, "lon")?, lat.resolve(row, "lat")?);
                if !(-180.0..=180.0).contains(&lon) || !(-90.0..=90.0).contains(&lat) {
                    return Err(format!("location: {lon}, {lat} is not a longitude and a latitude in degrees"));
                }
                Ok(serde_json::json!({"type": "Point", "coordinates": [lon, lat]}))
            }
            (None, None, Some(geojson)) => {
                let text = rows::fill(&geojson_braces(geojson), row)?;
                let value: Value = serde_json::from_str(&text).map_err(|e| format!("location.geojson: {e}"))?;
                text.parse::<geojson::Geometry>().map_err(|e| format!("location.geojson: {e}"))?;
                Ok(value)
            }
            _ => Err("location: either lon and lat, or geojson".to_owned()),
        }
    }
}

/// GeoJSON is full of braces of its own: only a text that is one field is a template.
fn geojson_braces(text: &str) -> String {
    let inner = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    if inner.is_some_and(|t| !t.contains(['"', '{'])) {
        text.trim().to_owned()
    } else {
        text.replace('{', "{{").replace('}', "}}")
    }
}

impl NumberForm {
    fn resolve(&self, row: &rows::Row, field: &str) -> Result<f64, String> {
        match self {
            Self::Number(n) => Ok(*n),
            Self::Text(text) => {
                let filled = rows::fill(text, row)?;
                filled
                    .trim()
                    .parse()
                    .ok()
                    .filter(|n: &f64| n.is_finite())
                    .ok_or_else(|| format!("location.{field}: '{filled}' is not a number"))
            }
        }
    }
}
