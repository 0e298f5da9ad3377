//! `pack.toml`: the city, its departments, roles and systems.

use kernel::Text;
use serde::Deserialize;
use toml::Spanned;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct City {
    pub name: String,
    pub city: Text,
    pub time_zone: Spanned<String>,
    pub languages: Spanned<Vec<Spanned<String>>>,
    /// The tenant that runs the platform and owns what is shared.
    pub operations: Spanned<String>,
    pub map: Map,
    pub tenant: Vec<TenantForm>,
    #[serde(default)]
    pub system: Vec<System>,
    #[serde(default)]
    pub role: Vec<RoleForm>,
    /// How districts are called, where the file of districts does not say it in all languages.
    #[serde(default)]
    pub district: Vec<DistrictForm>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistrictForm {
    /// As things name it in `district`.
    pub key: String,
    pub name: Text,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Longitude, latitude.
    pub centre: Spanned<[f64; 2]>,
    pub zoom: f64,
    /// West, south, east, north.
    pub bounds: Spanned<[f64; 4]>,
    /// GeoJSON files inside the pack.
    pub land: Option<Spanned<String>>,
    pub districts: Option<Spanned<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantForm {
    pub slug: Spanned<String>,
    pub name: Text,
    /// Nobody outside sees anything of it.
    #[serde(default)]
    pub sealed: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    pub key: Spanned<String>,
    pub name: Text,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleForm {
    pub key: Spanned<String>,
    pub name: Text,
    pub description: Option<Text>,
}
