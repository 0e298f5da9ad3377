//! One entity as it lies in its row.

use kernel::{Tenant, Timestamp};
use records::Row;
use serde_json::{Map, Value};

use super::schema::{COMMON, Kind, Link, Schema, Source};
use crate::model::{EntityId, EntityType};

/// A stored property.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Field {
    #[default]
    Null,
    Text(String),
    /// JSON text, valid and compact.
    Json(String),
    Time(Timestamp),
}

impl Field {
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => Value::String(text.clone()),
            Self::Json(json) => serde_json::from_str(json).unwrap_or(Value::Null),
            Self::Time(at) => Value::String(at.to_string()),
        }
    }
}

/// A row of the catalogue. Properties stand in the order of [`Schema::properties`]; those that are computed are `Null`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    pub entity: EntityType,
    pub id: EntityId,
    /// Who owns it.
    pub tenant: Tenant,
    /// Whether everybody may read it.
    pub public: bool,
    /// The natural key, unique in its type and tenant.
    pub key: Option<String>,
    pub(crate) fields: Vec<Field>,
    /// The ties to one, in the order of [`Schema::ones`].
    pub(crate) ones: Vec<EntityId>,
}

impl Entity {
    pub fn schema(&self) -> &'static Schema {
        Schema::of(self.entity)
    }
    /// Reads the columns of [`Schema::columns`].
    pub(crate) fn read(schema: &'static Schema, row: &Row<'_>) -> Result<Self, records::Error> {
        let mut column = COMMON.len();
        let mut fields = Vec::with_capacity(schema.properties.len());
        for property in schema.properties {
            if !matches!(property.source, Source::Column(_) | Source::Service(_)) {
                fields.push(Field::Null);
                continue;
            }
            fields.push(match property.kind {
                Kind::Text => row.get::<Option<String>>(column)?.map_or(Field::Null, Field::Text),
                Kind::Json | Kind::Object => row.get::<Option<String>>(column)?.map_or(Field::Null, Field::Json),
                Kind::Time | Kind::Interval => row.get::<Option<Timestamp>>(column)?.map_or(Field::Null, Field::Time),
            });
            column += 1;
        }
        let ones = schema.ones().enumerate().map(|(i, _)| row.get(column + i).map(EntityId));
        Ok(Self {
            entity: schema.entity,
            id: EntityId(row.get(0)?),
            tenant: row.get(1)?,
            public: row.get(2)?,
            key: row.get(3)?,
            fields,
            ones: ones.collect::<Result<_, _>>()?,
        })
    }

    /// A stored property; `Null` for one that the type does not have.
    pub fn field(&self, name: &str) -> &Field {
        const NULL: &Field = &Field::Null;
        self.schema().property(name).and_then(|(index, _)| self.fields.get(index)).unwrap_or(NULL)
    }
    /// The text of a property such as `name`; empty when it is not a text.
    pub fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Field::Text(text) => text,
            _ => "",
        }
    }
    pub fn name(&self) -> &str {
        self.text("name")
    }
    /// `properties`, parsed; an empty object when there are none.
    pub fn properties(&self) -> Map<String, Value> {
        match self.field("properties").to_value() {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
    /// Where a tie to one leads: `one("Thing")` of a Datastream.
    pub fn one(&self, navigation: &str) -> Option<EntityId> {
        let index = self.schema().ones().position(|(n, _)| n.name == navigation)?;
        self.ones.get(index).copied()
    }
    pub(crate) fn set_one(&mut self, navigation: &str, id: EntityId) {
        if let Some(index) = self.schema().ones().position(|(n, _)| n.name == navigation)
            && let Some(slot) = self.ones.get_mut(index)
        {
            *slot = id;
        }
    }
    /// The standard's representation without links and annotations.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("@iot.id".to_owned(), self.id.0.into());
        for (property, field) in self.schema().properties.iter().zip(&self.fields) {
            if *field != Field::Null {
                map.insert(property.name.to_owned(), field.to_value());
            }
        }
        Value::Object(map)
    }
    /// Whether this entity's rows tie it to a Thing, whose owner and visibility it then takes over.
    pub(crate) fn belongs_to_thing(entity: EntityType) -> bool {
        Schema::of(entity).navigation("Thing").is_some_and(|(_, n)| matches!(n.link, Link::One { .. }))
    }
}
