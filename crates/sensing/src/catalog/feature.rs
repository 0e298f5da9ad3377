//! The FeatureOfInterest of Observations that name none (18-088 section 10.2, special case 1), and the Observations of a deep insert.

use kernel::{Interval, Tenant};
use records::{Read, params};
use serde_json::json;

use super::{
    Entity, Operation, Schema,
    body::{Draft, ObservationDraft},
    entity::Field,
    write::{Context, Owner, Writer},
};
use crate::{
    Error,
    model::{EntityId, EntityType, Observation, ObservationType, raw},
    route::action,
};

/// Where a Thing's Observations are made, as the `origin` of the feature: its first located Location, else its first Location, else the
/// Thing itself. What a moving Thing observes is observed along its way: its Locations follow it, and an Observation is named by its feature, so
/// one that was made of where the Thing just is would give what is sent again another name.
pub(super) fn origin(read: &mut Read<'_>, thing: EntityId) -> Result<(String, Option<EntityId>), Error> {
    let moves = "SELECT 1 FROM sensing_datastream WHERE thing_id = $1 AND observation_type = $2 LIMIT 1";
    if read.query_opt(moves, params![thing.0, ObservationType::Geometry.code()], |_| Ok(()))?.is_some() {
        return Ok((format!("thing:{thing}"), None));
    }
    let sql = "SELECT l.id, l.cell FROM sensing_thing_location t JOIN sensing_location l ON l.id = t.location_id
               WHERE t.thing_id = $1 ORDER BY l.id LIMIT 20";
    let locations = read.query(sql, params![thing.0], |row| Ok((row.get::<i64>(0)?, row.get::<Option<i64>>(1)?)))?;
    let best = locations.iter().find(|(_, cell)| cell.is_some()).or(locations.first());
    Ok(match best {
        Some((id, _)) => (format!("location:{id}"), Some(EntityId(*id))),
        None => (format!("thing:{thing}"), None),
    })
}

pub(super) fn by_origin(read: &mut Read<'_>, origin: &str) -> Result<Option<EntityId>, Error> {
    let sql = "SELECT id FROM sensing_feature WHERE origin = $1";
    Ok(read.query_opt(sql, params![origin], |row| row.get(0).map(EntityId))?)
}

/// Whether the catalogue knows that Observations of this Datastream are about this feature.
pub(super) fn is_observed(read: &mut Read<'_>, datastream: EntityId, feature: EntityId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM sensing_observed_feature WHERE datastream_id = $1 AND feature_id = $2";
    Ok(read.query_opt(sql, params![datastream.0, feature.0], |_| Ok(()))?.is_some())
}

impl Writer<'_, '_> {
    /// Finds or makes the feature of a Thing's present place. A Thing without a Location gets an unlocated GeoJSON Feature (RFC 7946
    /// section 3.2), so that no device is turned away because the catalogue is incomplete.
    pub fn feature_of_thing(&mut self, thing: EntityId) -> Result<EntityId, Error> {
        let (origin, location) = origin(self.tx, thing)?;
        if let Some(id) = by_origin(self.tx, &origin)? {
            return Ok(id);
        }
        let source = match location {
            Some(location) => self.load(EntityType::Location, location)?,
            None => self.load(EntityType::Thing, thing)?,
        };
        let source = source.ok_or_else(|| Error::internal(format!("{origin} is gone")))?;
        let own = |name: &str| source.field(name).clone();
        let (encoding, place) = if location.is_some() {
            (own("encodingType"), own("location"))
        } else {
            let nowhere = json!({"type": "Feature", "geometry": null, "properties": {}});
            (Field::Text("application/geo+json".to_owned()), Field::Json(nowhere.to_string()))
        };
        let feature = Entity {
            entity: EntityType::FeatureOfInterest,
            id: self.next_id(EntityType::FeatureOfInterest)?,
            tenant: source.tenant.clone(),
            public: source.public,
            key: None,
            fields: vec![own("name"), own("description"), encoding, place, Field::Null],
            ones: Vec::new(),
        };
        self.insert_row(&feature, "", Some(&origin))?;
        self.note(Operation::Created, &feature)?;
        Ok(feature.id)
    }

    /// Remembers that the Datastream has Observations of the feature.
    pub fn observe_feature(&mut self, datastream: EntityId, feature: EntityId) -> Result<(), Error> {
        let sql =
            "INSERT INTO sensing_observed_feature (feature_id, datastream_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.tx.execute(sql, params![feature.0, datastream.0])?;
        Ok(())
    }

    /// The Observations inside a deep insert, checked and made complete; they are recorded after the commit.
    pub(super) fn observations(&mut self, entity: &Entity, draft: &Draft) -> Result<(), Error> {
        for observation in &draft.observations {
            let observation = match entity.entity {
                of if of.has_series() => self.complete(observation, Some((of, entity.id)), None)?,
                _ => self.complete(observation, None, Some(entity.id))?,
            };
            self.changes.observations.push(observation);
        }
        Ok(())
    }

    /// An Observation with its Datastream or MultiDatastream and its feature resolved, its type checked and its right granted.
    pub fn complete(
        &mut self,
        draft: &ObservationDraft,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> Result<Observation, Error> {
        let (kind, id) = match (&draft.datastream, datastream) {
            (Some((kind, target)), bound) => {
                let at = format!("{}/{}", draft.pointer, kind.singular());
                let id = self.resolve(target, *kind, &at, None)?;
                if bound.is_some_and(|b| b != (*kind, id)) {
                    let detail = format!("the address and the body name different {}", kind.set());
                    return Err(Error::field(at, detail));
                }
                (*kind, id)
            }
            (None, Some(bound)) => bound,
            (None, None) => return Err(super::body::missing(EntityType::Observation, "Datastream", &draft.pointer)),
        };
        let datastream = self.visible(kind, id, &format!("{}/{}", draft.pointer, kind.singular()))?;
        let owner = Owner { tenant: datastream.tenant.clone(), public: datastream.public };
        self.require(action::OBSERVE, kind, &owner, &format!("{}({id})", kind.set()))?;
        let fits = super::info(&datastream).check(&draft.result);
        fits.map_err(|e| Error::field(format!("{}{}", draft.pointer, e.place()), e.to_string()))?;
        let at = format!("{}/FeatureOfInterest", draft.pointer);
        let feature = match (&draft.feature, feature) {
            (Some(target), _) => self.resolve(target, EntityType::FeatureOfInterest, &at, Some(&owner))?,
            (None, Some(feature)) => feature,
            (None, None) => {
                let thing = datastream.one("Thing").ok_or_else(|| Error::internal("a Datastream without a Thing"))?;
                self.feature_of_thing(thing)?
            }
        };
        if !is_observed(self.tx, id, feature)? {
            self.observe_feature(id, feature)?;
        }
        Ok(draft.clone().into_observation(id, feature, Interval::instant(self.now())))
    }
}

impl ObservationDraft {
    /// `now` is the phenomenonTime of an Observation that has none (18-088 table 12: mandatory, the service supplies it).
    pub fn into_observation(self, datastream: EntityId, feature: EntityId, now: Interval) -> Observation {
        let mut quality = self.quality;
        if quality.is_none() && is_null(&self.result) {
            quality = Some(no_result());
        }
        Observation {
            datastream,
            phenomenon: self.phenomenon.unwrap_or(now),
            result_time: self.result_time,
            result: self.result,
            feature,
            quality,
            valid: self.valid,
            parameters: self.parameters,
        }
    }
}

pub(crate) fn is_null(result: &crate::model::ResultValue) -> bool {
    matches!(result, crate::model::ResultValue::Json(raw) if raw.get() == "null")
}

/// `resultQuality` of a result that is null without a reason given (OGC nil reasons).
pub(crate) fn no_result() -> std::sync::Arc<serde_json::value::RawValue> {
    raw(&json!({"nilReason": "http://www.opengis.net/def/nil/OGC/0/unknown"}))
}

/// A context for what the service does on its own account.
pub(super) fn own(context: &Context) -> Context {
    Context { caller: kernel::Caller::system("catalogue"), ..context.clone() }
}

/// Used where a tenant must be shown that owns a row.
pub(super) fn tenant(read: &mut Read<'_>, entity: EntityType, id: EntityId) -> Result<Option<(Tenant, bool)>, Error> {
    let sql = format!("SELECT tenant, public FROM {} WHERE id = $1", Schema::of(entity).table);
    Ok(read.query_opt(&sql, params![id.0], |row| Ok((row.get(0)?, row.get(1)?)))?)
}
