//! Deleting with the integrity rules of 18-088 table 25.

use records::params;

use super::{
    Entity, Operation, listing,
    schema::{Link, List, Navigation, Schema},
    write::{Owner, Writer},
};
use crate::{
    Error,
    model::{EntityId, EntityType},
    route::action,
};

/// Rows that one DELETE may take with it; more must be deleted from below first.
const CASCADE: usize = 20_000;

impl Writer<'_, '_> {
    pub fn delete(&mut self, entity: EntityType, id: EntityId) -> Result<(), Error> {
        let found = self.seen(entity, id)?;
        self.remove(&found)
    }

    /// Removes one entity and what cannot exist without it. Each of them is asked for: a Sensor's owner must not delete
    /// another department's Datastreams by deleting the Sensor.
    fn remove(&mut self, entity: &Entity) -> Result<(), Error> {
        let owner = Owner { tenant: entity.tenant.clone(), public: entity.public };
        let what = format!("{}({})", entity.entity.set(), entity.id);
        self.require(action::DELETE, entity.entity, &owner, &what)?;
        self.unheld(entity)?;
        let stood_here = if entity.entity == EntityType::Location { self.things_at(entity.id)? } else { Vec::new() };
        for navigation in entity.schema().navigation {
            match navigation.link {
                Link::Many { column } => self.remove_all(entity, navigation, &format!("e.{column} = $1"), &what)?,
                // A list that loses an element no longer says what the elements of its results are.
                Link::Through { table, own, other, list: List::Far } => {
                    let within = format!("e.id IN (SELECT l.{other} FROM {table} l WHERE l.{own} = $1)");
                    self.remove_all(entity, navigation, &within, &what)?;
                }
                Link::Through { table, own, .. } => {
                    if entity.entity == EntityType::Location {
                        self.forget_place(entity.id)?;
                    }
                    self.tx.execute(&format!("DELETE FROM {table} WHERE {own} = $1"), params![entity.id.0])?;
                }
                Link::One { .. } | Link::Series => {}
            }
        }
        let sql = format!("DELETE FROM {} WHERE id = $1", entity.schema().table);
        self.tx.execute(&sql, params![entity.id.0])?;
        for thing in stood_here {
            listing::settle(self.tx, thing)?;
        }
        self.counts.add(entity, -1);
        match entity.entity {
            EntityType::Datastream | EntityType::MultiDatastream => {
                let sql = "DELETE FROM sensing_observed_feature WHERE datastream_id = $1";
                self.tx.execute(sql, params![entity.id.0])?;
                self.changes.dropped.push(entity.id);
            }
            EntityType::Task => crate::tasking::forget(self.tx, entity.id)?,
            EntityType::FeatureOfInterest => {
                let sql =
                    "SELECT datastream_id FROM sensing_observed_feature WHERE feature_id = $1 ORDER BY datastream_id";
                let datastreams = self.ids(sql, entity.id)?;
                self.changes.stale.extend(datastreams.iter().copied());
                self.changes.unobserved.extend(datastreams.into_iter().map(|d| (d, entity.id)));
                let sql = "DELETE FROM sensing_observed_feature WHERE feature_id = $1";
                self.tx.execute(sql, params![entity.id.0])?;
            }
            EntityType::Thing => {
                let sql = "UPDATE sensing_feature SET origin = NULL WHERE origin = $1";
                self.tx.execute(sql, params![format!("thing:{}", entity.id)])?;
            }
            _ => {}
        }
        self.note(Operation::Deleted, entity)
    }

    /// Removes what depends on `entity` by `navigation`: the rows for which `condition` holds with its id as `$1`.
    fn remove_all(
        &mut self,
        entity: &Entity,
        navigation: &Navigation,
        condition: &str,
        what: &str,
    ) -> Result<(), Error> {
        let schema = Schema::of(navigation.target);
        let columns = schema.columns("e");
        let sql = format!("SELECT {columns} FROM {} e WHERE {condition} LIMIT {}", schema.table, CASCADE + 1);
        let children = self.tx.query(&sql, params![entity.id.0], |row| Entity::read(schema, row))?;
        if children.len() + self.changes.list.len() > CASCADE {
            let detail = format!("{what} has more than {CASCADE} dependents; delete them first.");
            return Err(Error::conflict(detail));
        }
        for child in &children {
            let owner = Owner { tenant: child.tenant.clone(), public: child.public };
            let hidden = !self.context.scope.admits(&owner.tenant, owner.public);
            if hidden && !self.allows(action::DELETE, child.entity, &owner) {
                // That something depends on it cannot be kept from whoever deletes it; what it is, can.
                return Err(Error::conflict(format!("Something that you may not see depends on {what}.")));
            }
            self.remove(child)?;
        }
        Ok(())
    }

    /// A Location takes its HistoricalLocations with it; Things that stood there have no Location afterwards.
    fn forget_place(&mut self, location: EntityId) -> Result<(), Error> {
        self.release_feature(location)?;
        let schema = Schema::of(EntityType::HistoricalLocation);
        let sql = format!(
            "SELECT {} FROM sensing_historical_location e JOIN sensing_location_history h ON h.history_id = e.id
             WHERE h.location_id = $1 LIMIT {CASCADE}",
            schema.columns("e")
        );
        for history in self.tx.query(&sql, params![location.0], |row| Entity::read(schema, row))? {
            self.remove(&history)?;
        }
        Ok(())
    }
}
