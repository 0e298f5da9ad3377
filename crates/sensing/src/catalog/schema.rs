//! The entity model as a table: 18-088 sections 8.2 and 12 and 17-079 section 7 in one place.
//!
//! Bodies are checked, rows are read and written, paths in $filter are resolved and answers are printed from this table and from
//! nothing else. A new property or entity type is a new line here and a migration.

use crate::model::EntityType;

/// What may stand in a property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A string; a TEXT column.
    Text,
    /// Any JSON but null; a TEXT column.
    Json,
    /// A JSON object; a TEXT column.
    Object,
    /// An ISO 8601 instant; a BIGINT column of microseconds.
    Time,
    /// An ISO 8601 instant or interval. Only Observations and computed properties have it.
    Interval,
}

/// Where a property's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A column of the entity's table.
    Column(&'static str),
    /// A column that the service alone writes, such as a Task's creationTime; ignored when sent.
    Service(&'static str),
    /// The head of the series of a Datastream or MultiDatastream: never written by a client, ignored when sent (18-088 table 11).
    Head,
    /// A column of the series.
    Series,
}

#[derive(Debug)]
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub source: Source,
}

/// How two entities are tied together in storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// To one: a column in this entity's row.
    One { column: &'static str },
    /// To many: a column in the other entity's rows.
    Many { column: &'static str },
    /// Many to many: a table with a column for each side.
    Through { table: &'static str, own: &'static str, other: &'static str, list: List },
    /// Between an Observation and its Datastream, MultiDatastream or FeatureOfInterest: part of the Observation's identity.
    Series,
}

/// Whether a tie of many to many is a list: its entities have an order, and one may stand in it more than once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    No,
    /// This entity has the list: the others in the order of the table's column [`PLACE`].
    Near,
    /// The others have lists in which this entity stands.
    Far,
}

/// The place in a list, from 0.
pub const PLACE: &str = "place";

#[derive(Debug)]
pub struct Navigation {
    pub name: &'static str,
    pub target: EntityType,
    pub link: Link,
    /// Whether the entity cannot exist without it.
    pub required: bool,
    /// The navigation property that leads back.
    pub inverse: &'static str,
}

impl Navigation {
    pub fn to_many(&self) -> bool {
        self.name == self.target.set()
    }
    /// Whether what it leads to has an order of its own.
    pub fn is_list(&self) -> bool {
        matches!(self.link, Link::Through { list: List::Near, .. })
    }
}

#[derive(Debug)]
pub struct Schema {
    pub entity: EntityType,
    /// Empty for Observations.
    pub table: &'static str,
    pub properties: &'static [Property],
    /// Ties to one come first and the Thing before all others, because the rest inherits its owner.
    pub navigation: &'static [Navigation],
    /// The property that holds a geometry and is indexed by cell and box.
    pub geometry: Option<&'static str>,
    /// Columns beside the standard's: what the catalogue itself remembers.
    pub extra: &'static [&'static str],
}

const fn text(name: &'static str, column: &'static str) -> Property {
    Property { name, kind: Kind::Text, required: true, source: Source::Column(column) }
}
const fn json(name: &'static str, column: &'static str) -> Property {
    Property { name, kind: Kind::Json, required: true, source: Source::Column(column) }
}
const fn properties() -> Property {
    Property { name: "properties", kind: Kind::Object, required: false, source: Source::Column("properties") }
}
const fn series(name: &'static str, kind: Kind, required: bool) -> Property {
    Property { name, kind, required, source: Source::Series }
}
const fn head(name: &'static str) -> Property {
    Property { name, kind: Kind::Interval, required: false, source: Source::Head }
}
const fn one(name: &'static str, target: EntityType, column: &'static str, inverse: &'static str) -> Navigation {
    Navigation { name, target, link: Link::One { column }, required: true, inverse }
}
const fn many(name: &'static str, target: EntityType, column: &'static str, inverse: &'static str) -> Navigation {
    Navigation { name, target, link: Link::Many { column }, required: false, inverse }
}
const fn set(table: &'static str, own: &'static str, other: &'static str) -> Link {
    Link::Through { table, own, other, list: List::No }
}
const fn observed(name: &'static str, target: EntityType, required: bool, inverse: &'static str) -> Navigation {
    Navigation { name, target, link: Link::Series, required, inverse }
}

use EntityType as E;

static THING: Schema = Schema {
    entity: E::Thing,
    table: "sensing_thing",
    properties: &[text("name", "name"), text("description", "description"), properties()],
    navigation: &[
        Navigation {
            name: "Locations",
            target: E::Location,
            link: set("sensing_thing_location", "thing_id", "location_id"),
            required: false,
            inverse: "Things",
        },
        many("HistoricalLocations", E::HistoricalLocation, "thing_id", "Thing"),
        many("Datastreams", E::Datastream, "thing_id", "Thing"),
        many("MultiDatastreams", E::MultiDatastream, "thing_id", "Thing"),
        many("TaskingCapabilities", E::TaskingCapability, "thing_id", "Thing"),
    ],
    geometry: None,
    extra: &[],
};

static LOCATION: Schema = Schema {
    entity: E::Location,
    table: "sensing_location",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("encodingType", "encoding_type"),
        json("location", "location"),
        properties(),
    ],
    navigation: &[
        Navigation {
            name: "Things",
            target: E::Thing,
            link: set("sensing_thing_location", "location_id", "thing_id"),
            required: false,
            inverse: "Locations",
        },
        Navigation {
            name: "HistoricalLocations",
            target: E::HistoricalLocation,
            link: set("sensing_location_history", "location_id", "history_id"),
            required: false,
            inverse: "Locations",
        },
    ],
    geometry: Some("location"),
    extra: &[],
};

static HISTORICAL_LOCATION: Schema = Schema {
    entity: E::HistoricalLocation,
    table: "sensing_historical_location",
    properties: &[Property { name: "time", kind: Kind::Time, required: true, source: Source::Column("at") }],
    navigation: &[
        one("Thing", E::Thing, "thing_id", "HistoricalLocations"),
        Navigation {
            name: "Locations",
            target: E::Location,
            link: set("sensing_location_history", "history_id", "location_id"),
            required: true,
            inverse: "HistoricalLocations",
        },
    ],
    geometry: None,
    extra: &[],
};

static DATASTREAM: Schema = Schema {
    entity: E::Datastream,
    table: "sensing_datastream",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("observationType", "observation_type"),
        Property { name: "unitOfMeasurement", kind: Kind::Object, required: true, source: Source::Column("unit") },
        Property { name: "observedArea", kind: Kind::Object, required: false, source: Source::Column("observed_area") },
        head("phenomenonTime"),
        head("resultTime"),
        properties(),
    ],
    navigation: &[
        one("Thing", E::Thing, "thing_id", "Datastreams"),
        one("Sensor", E::Sensor, "sensor_id", "Datastreams"),
        one("ObservedProperty", E::ObservedProperty, "observed_property_id", "Datastreams"),
        observed("Observations", E::Observation, false, "Datastream"),
    ],
    geometry: None,
    extra: &[],
};

/// Which ObservedProperty each element of a MultiDatastream's results is of.
pub const ELEMENTS: &str = "sensing_multi_observed_property";

static MULTI_DATASTREAM: Schema = Schema {
    entity: E::MultiDatastream,
    table: "sensing_multi_datastream",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("observationType", "observation_type"),
        json("multiObservationDataTypes", "data_types"),
        json("unitOfMeasurements", "units"),
        Property { name: "observedArea", kind: Kind::Object, required: false, source: Source::Column("observed_area") },
        head("phenomenonTime"),
        head("resultTime"),
        properties(),
    ],
    navigation: &[
        one("Thing", E::Thing, "thing_id", "MultiDatastreams"),
        one("Sensor", E::Sensor, "sensor_id", "MultiDatastreams"),
        Navigation {
            name: "ObservedProperties",
            target: E::ObservedProperty,
            link: Link::Through {
                table: ELEMENTS,
                own: "multi_datastream_id",
                other: "observed_property_id",
                list: List::Near,
            },
            required: true,
            inverse: "MultiDatastreams",
        },
        observed("Observations", E::Observation, false, "MultiDatastream"),
    ],
    geometry: None,
    extra: &[],
};

static SENSOR: Schema = Schema {
    entity: E::Sensor,
    table: "sensing_sensor",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("encodingType", "encoding_type"),
        json("metadata", "metadata"),
        properties(),
    ],
    navigation: &[
        many("Datastreams", E::Datastream, "sensor_id", "Sensor"),
        many("MultiDatastreams", E::MultiDatastream, "sensor_id", "Sensor"),
    ],
    geometry: None,
    extra: &[],
};

static OBSERVED_PROPERTY: Schema = Schema {
    entity: E::ObservedProperty,
    table: "sensing_observed_property",
    properties: &[
        text("name", "name"),
        text("definition", "definition"),
        text("description", "description"),
        properties(),
    ],
    navigation: &[
        many("Datastreams", E::Datastream, "observed_property_id", "ObservedProperty"),
        Navigation {
            name: "MultiDatastreams",
            target: E::MultiDatastream,
            link: Link::Through {
                table: ELEMENTS,
                own: "observed_property_id",
                other: "multi_datastream_id",
                list: List::Far,
            },
            required: false,
            inverse: "ObservedProperties",
        },
    ],
    geometry: None,
    extra: &[],
};

static OBSERVATION: Schema = Schema {
    entity: E::Observation,
    table: "",
    properties: &[
        series("phenomenonTime", Kind::Interval, true),
        series("resultTime", Kind::Time, false),
        series("result", Kind::Json, true),
        series("resultQuality", Kind::Json, false),
        series("validTime", Kind::Interval, false),
        series("parameters", Kind::Object, false),
    ],
    navigation: &[
        // One of the two (18-088 section 12, multi-datastream/relations).
        observed("Datastream", E::Datastream, false, "Observations"),
        observed("MultiDatastream", E::MultiDatastream, false, "Observations"),
        observed("FeatureOfInterest", E::FeatureOfInterest, false, "Observations"),
    ],
    geometry: None,
    extra: &[],
};

static FEATURE: Schema = Schema {
    entity: E::FeatureOfInterest,
    table: "sensing_feature",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("encodingType", "encoding_type"),
        json("feature", "feature"),
        properties(),
    ],
    navigation: &[observed("Observations", E::Observation, false, "FeatureOfInterest")],
    geometry: Some("feature"),
    // Where the service made the feature itself: `location:<id>` or `thing:<id>`.
    extra: &["origin"],
};

static TASKING_CAPABILITY: Schema = Schema {
    entity: E::TaskingCapability,
    table: "sensing_tasking_capability",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        Property {
            name: "taskingParameters",
            kind: Kind::Object,
            required: true,
            source: Source::Column("tasking_parameters"),
        },
        properties(),
    ],
    navigation: &[
        one("Thing", E::Thing, "thing_id", "TaskingCapabilities"),
        one("Actuator", E::Actuator, "actuator_id", "TaskingCapabilities"),
        many("Tasks", E::Task, "tasking_capability_id", "TaskingCapability"),
    ],
    geometry: None,
    extra: &[],
};

static ACTUATOR: Schema = Schema {
    entity: E::Actuator,
    table: "sensing_actuator",
    properties: &[
        text("name", "name"),
        text("description", "description"),
        text("encodingType", "encoding_type"),
        json("metadata", "metadata"),
        properties(),
    ],
    navigation: &[many("TaskingCapabilities", E::TaskingCapability, "actuator_id", "Actuator")],
    geometry: None,
    extra: &[],
};

/// What becomes of a Task stands in `crate::tasking`; here is what 17-079 says of it, and where it is at.
pub const STATUS: &str = "@lamppost.status";
/// Until when the device must have answered, or its reading be there.
pub const DUE: &str = "@lamppost.due";
/// Until when a hold holds unless it is renewed, and what the device does by itself when that is over and it has heard nothing.
pub const HELD_UNTIL: &str = "@lamppost.heldUntil";
pub const FALLBACK: &str = "@lamppost.fallback";

static TASK: Schema = Schema {
    entity: E::Task,
    table: "sensing_task",
    properties: &[
        Property {
            name: "taskingParameters",
            kind: Kind::Object,
            required: true,
            source: Source::Column("tasking_parameters"),
        },
        Property { name: "creationTime", kind: Kind::Time, required: true, source: Source::Service("creation_time") },
        Property { name: STATUS, kind: Kind::Text, required: true, source: Source::Service("status") },
        Property { name: DUE, kind: Kind::Time, required: false, source: Source::Service("due") },
        Property { name: HELD_UNTIL, kind: Kind::Time, required: false, source: Source::Service("held_until") },
        Property { name: FALLBACK, kind: Kind::Object, required: false, source: Source::Service("fallback") },
    ],
    navigation: &[one("TaskingCapability", E::TaskingCapability, "tasking_capability_id", "Tasks")],
    geometry: None,
    extra: &[],
};

/// The columns that every table starts with.
pub const COMMON: [&str; 4] = ["id", "tenant", "public", "key"];

impl Schema {
    pub fn of(entity: EntityType) -> &'static Self {
        match entity {
            E::Thing => &THING,
            E::Location => &LOCATION,
            E::HistoricalLocation => &HISTORICAL_LOCATION,
            E::Datastream => &DATASTREAM,
            E::MultiDatastream => &MULTI_DATASTREAM,
            E::Sensor => &SENSOR,
            E::ObservedProperty => &OBSERVED_PROPERTY,
            E::Observation => &OBSERVATION,
            E::FeatureOfInterest => &FEATURE,
            E::TaskingCapability => &TASKING_CAPABILITY,
            E::Actuator => &ACTUATOR,
            E::Task => &TASK,
        }
    }
    pub fn property(&self, name: &str) -> Option<(usize, &'static Property)>
    where
        Self: 'static,
    {
        let found: Option<(usize, &Property)> = self.properties.iter().enumerate().find(|(_, p)| p.name == name);
        found.map(|(index, property)| (index, property as _))
    }
    pub fn navigation(&self, name: &str) -> Option<(usize, &'static Navigation)> {
        let all: &'static [Navigation] = self.navigation;
        all.iter().enumerate().find(|(_, n)| n.name == name)
    }
    /// Column names of the ties to one, in order.
    pub fn ones(&self) -> impl Iterator<Item = (&'static Navigation, &'static str)> + use<> {
        let all: &'static [Navigation] = self.navigation;
        all.iter().filter_map(|n| match n.link {
            Link::One { column } => Some((n, column)),
            _ => None,
        })
    }
    /// Everything a client may name, for the sentence that says what would have been right.
    pub fn names(&self) -> String {
        let mut names: Vec<&str> = vec!["id"];
        names.extend(self.properties.iter().map(|p| p.name));
        names.extend(self.navigation.iter().map(|n| n.name));
        names.join(", ")
    }
    /// The columns of a SELECT that [`super::Entity::read`] understands, each prefixed with `alias.`.
    pub fn columns(&self, alias: &str) -> String {
        let mut out = String::new();
        let stored = self.properties.iter().filter_map(|p| match p.source {
            Source::Column(column) | Source::Service(column) => Some(column),
            _ => None,
        });
        for column in COMMON.into_iter().chain(stored).chain(self.ones().map(|(_, column)| column)) {
            if !out.is_empty() {
                out.push_str(", ");
            }
            out.push_str(alias);
            out.push('.');
            out.push_str(column);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every link has two ends, and both describe the same storage.
    #[test]
    fn every_navigation_leads_back() {
        for entity in EntityType::ALL {
            for n in Schema::of(entity).navigation {
                let (_, back) = Schema::of(n.target).navigation(n.inverse).expect(n.inverse);
                assert_eq!(back.target, entity, "{}", n.name);
                assert_eq!(back.inverse, n.name);
                let same = match (n.link, back.link) {
                    (Link::One { column: a }, Link::Many { column: b })
                    | (Link::Many { column: a }, Link::One { column: b }) => a == b,
                    (
                        Link::Through { table: a, own, other, list },
                        Link::Through { table: b, own: other_own, other: other_other, list: back },
                    ) => {
                        let lists = matches!(
                            (list, back),
                            (List::No, List::No) | (List::Near, List::Far) | (List::Far, List::Near)
                        );
                        a == b && own == other_other && other == other_own && lists
                    }
                    (Link::Series, Link::Series) => true,
                    _ => false,
                };
                assert!(same, "{entity:?}/{}", n.name);
                assert_eq!(
                    n.to_many(),
                    !matches!(
                        n.name,
                        "Thing"
                            | "Sensor"
                            | "ObservedProperty"
                            | "Datastream"
                            | "MultiDatastream"
                            | "FeatureOfInterest"
                            | "TaskingCapability"
                            | "Actuator"
                    )
                );
            }
        }
    }
}
