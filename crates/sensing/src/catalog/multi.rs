//! MultiDatastreams (18-088 section 12): what each element of a result is, is said by three lists of one length. Two of them are properties,
//! the third are the ObservedProperties in their order, which are rows.

use std::sync::Arc;

use records::params;
use serde_json::Value;

use super::{
    Entity, Operation,
    body::{Draft, Target, kind_of, unit},
    entity::Field,
    schema::{Link, Navigation, PLACE, Schema},
    write::{Owner, Writer},
};
use crate::{
    Error,
    model::{EntityId, EntityType, ObservationType},
};

/// Elements of one result. A weather station with everything has about thirty; each costs a row, and a look at every Observation.
const MOST: usize = 100;
/// Bytes of a code of `multiObservationDataTypes`.
const CODE_BYTES: usize = 1_000;

/// Complaints about a property of a MultiDatastream beyond its kind; nothing about properties that others have too.
pub(super) fn check(at: &str, name: &str, value: &Value) -> Result<(), Error> {
    match name {
        "observationType" => {
            let code = ObservationType::Complex.code();
            if value.as_str() == Some(&code) {
                return Ok(());
            }
            Err(Error::field(
                at,
                format!(
                    "of a MultiDatastream it is always {code}; its elements' types stand in multiObservationDataTypes"
                ),
            ))
        }
        "multiObservationDataTypes" => list(at, value, |at, one| match one {
            Value::String(code) if code.len() <= CODE_BYTES => Ok(()),
            Value::String(_) => Err(Error::field(at, format!("it may have at most {CODE_BYTES} bytes"))),
            other => {
                Err(Error::field(at, format!("the code of an observationType is expected, not {}", kind_of(other))))
            }
        }),
        "unitOfMeasurements" => list(at, value, |at, one| match one {
            Value::Object(map) => unit(at, map),
            other => {
                let detail = "a unit of measurement is expected, its members null where an element has none";
                Err(Error::field(at, format!("{detail}; not {}", kind_of(other))))
            }
        }),
        _ => Ok(()),
    }
}

fn list(at: &str, value: &Value, one: impl Fn(&str, &Value) -> Result<(), Error>) -> Result<(), Error> {
    let items = value.as_array().filter(|items| (1..=MOST).contains(&items.len())).ok_or_else(|| {
        Error::field(at, format!("an array with an element for each of a result's is expected: 1 to {MOST}"))
    })?;
    items.iter().enumerate().try_for_each(|(i, item)| one(&format!("{at}/{i}"), item))
}

/// The types of a result's elements. What the standard does not list admits anything, as in a Datastream.
pub(super) fn types(entity: &Entity) -> Arc<[ObservationType]> {
    let Value::Array(codes) = entity.field("multiObservationDataTypes").to_value() else { return Arc::default() };
    let kind = |code: &Value| code.as_str().and_then(ObservationType::from_code).unwrap_or(ObservationType::Any);
    codes.iter().map(kind).collect()
}

/// As many ObservedProperties as a result may have elements.
pub(super) fn bounded(at: &str, length: usize) -> Result<(), Error> {
    if (1..=MOST).contains(&length) {
        return Ok(());
    }
    Err(Error::field(at, format!("a MultiDatastream has one for each element of its results: 1 to {MOST}")))
}

fn length(entity: &Entity, property: &str) -> usize {
    match entity.field(property) {
        Field::Json(json) => serde_json::from_str::<Vec<&serde_json::value::RawValue>>(json).map_or(0, |all| all.len()),
        _ => 0,
    }
}

impl Writer<'_, '_> {
    /// A MultiDatastream keeps its number of elements once something was observed, because every Observation has as many.
    pub(super) fn keeps_length(&self, before: &Entity, after: &Entity) -> Result<(), Error> {
        let of = |entity| length(entity, "multiObservationDataTypes");
        if before.entity != EntityType::MultiDatastream || self.context.resizes || of(before) == of(after) {
            return Ok(());
        }
        let (id, had, wanted) = (before.id, of(before), of(after));
        Err(Error::conflict(format!(
            "The results of MultiDatastreams({id}) have {had} elements, and there are Observations; create another for results of {wanted}."
        )))
    }

    /// Whether the three lists are of one length. The last act of whatever has written one of them.
    pub(super) fn whole(&mut self, entity: &Entity, pointer: &str) -> Result<(), Error> {
        let Some((_, navigation)) = entity.schema().navigation("ObservedProperties") else { return Ok(()) };
        let Link::Through { table, own, .. } = navigation.link else { return Ok(()) };
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {own} = $1");
        let properties: u64 = self.tx.query_one(&sql, params![entity.id.0], |row| row.get(0))?;
        let types = length(entity, "multiObservationDataTypes");
        let units = length(entity, "unitOfMeasurements");
        for (name, has) in [("unitOfMeasurements", units as u64), ("ObservedProperties", properties)] {
            if has != types as u64 {
                let detail = format!(
                    "there are {has}, but multiObservationDataTypes has {types}: unitOfMeasurements, multiObservationDataTypes and \
                     ObservedProperties have one for each element of a result, in the same order (18-088 section 12)"
                );
                return Err(Error::field(format!("{pointer}/{name}"), detail));
            }
        }
        Ok(())
    }

    /// Sets the list of `entity` at `navigation`, in this order.
    pub(super) fn set_list(
        &mut self,
        entity: &Entity,
        navigation: &'static Navigation,
        ids: &[EntityId],
        at: &str,
    ) -> Result<(), Error> {
        let Link::Through { table, own, other, .. } = navigation.link else { return Ok(()) };
        bounded(at, ids.len())?;
        let before = self.ids(&format!("SELECT {other} FROM {table} WHERE {own} = $1 ORDER BY {PLACE}"), entity.id)?;
        if before == ids {
            return Ok(());
        }
        self.tx.execute(&format!("DELETE FROM {table} WHERE {own} = $1"), params![entity.id.0])?;
        for (place, id) in ids.iter().enumerate() {
            let sql = format!("INSERT INTO {table} ({own}, {PLACE}, {other}) VALUES ($1, $2, $3)");
            self.tx.execute(&sql, params![entity.id.0, place as i64, id.0])?;
        }
        // Of a new one it is said that it was created, and of one with changed properties that it was updated.
        let noted = self.changes.list.last().is_some_and(|c| (c.entity, c.id) == (entity.entity, entity.id));
        if noted || before.is_empty() { Ok(()) } else { self.note(Operation::Updated, entity) }
    }

    /// The ObservedProperties of a new MultiDatastream, in their order. One that the address names is among them, or is the only one.
    pub(super) fn listed(
        &mut self,
        draft: &Draft,
        navigation: &'static Navigation,
        bound: Option<EntityId>,
        owner: &Owner,
    ) -> Result<Vec<EntityId>, Error> {
        let at = draft.at(navigation.name);
        let mut ids = Vec::new();
        for (i, target) in draft.links(navigation.name).iter().enumerate() {
            ids.push(self.resolve(target, navigation.target, &format!("{at}/{i}"), Some(owner))?);
        }
        match bound {
            Some(id) if ids.is_empty() => ids.push(id),
            Some(id) if !ids.contains(&id) => {
                let detail = format!(
                    "the place of this MultiDatastream names {}({id}), which is not among them",
                    navigation.target.set()
                );
                return Err(Error::field(at, detail));
            }
            _ => {}
        }
        Ok(ids)
    }

    /// Creates what stands inside an entity that it has in its list. What is there already has its list, where one more would have no type and no
    /// unit; so the tie is made from the list's side.
    pub(super) fn insert_listed(
        &mut self,
        entity: &Entity,
        navigation: &'static Navigation,
        target: &Target,
        at: &str,
        owner: &Owner,
    ) -> Result<(), Error> {
        let back = Schema::of(navigation.target).navigation(navigation.inverse).map(|(_, n)| (n, entity.id));
        match target {
            Target::New(draft) => self.insert(draft, back, Some(owner)).map(|_| ()),
            Target::Id(_) | Target::Key(_) => Err(only_from_the_list(navigation, at)),
        }
    }
}

pub(super) fn only_from_the_list(navigation: &Navigation, at: &str) -> Error {
    let (set, list) = (navigation.target.set(), navigation.inverse);
    Error::field(
        at,
        format!("the {list} of {set} have an order; change them there, together with their types and units"),
    )
}
