//! What a sealed department's rows may be: never published, tied to nothing outside. So no question that begins outside leads to one of
//! them, nothing outside hangs on one, and whoever deletes something of their own does not learn that somebody sealed has used it.

use kernel::Tenant;
use records::params;

use super::{
    Catalog, Entity,
    body::Draft,
    schema::{Navigation, Schema},
    write::Writer,
};
use crate::{Error, model::EntityType};

/// The entities that a department owns, beginning with those that own others.
const OWNED: [EntityType; 11] = [
    EntityType::Thing,
    EntityType::Location,
    EntityType::HistoricalLocation,
    EntityType::Datastream,
    EntityType::MultiDatastream,
    EntityType::Sensor,
    EntityType::ObservedProperty,
    EntityType::FeatureOfInterest,
    EntityType::Actuator,
    EntityType::TaskingCapability,
    EntityType::Task,
];

impl Writer<'_, '_> {
    /// Refuses a row that would let something of a sealed department be seen from outside.
    pub(super) fn stays_sealed(&mut self, entity: &Entity, pointer: &str) -> Result<(), Error> {
        if !self.context.policy.seals(&entity.tenant) {
            return Ok(());
        }
        if entity.public {
            let detail = format!("'{}' is sealed: nothing of it is published. Leave it out, or false.", entity.tenant);
            return Err(Error::field(format!("{pointer}/@lamppost.public"), detail));
        }
        let schema = entity.schema();
        for ((navigation, _), id) in schema.ones().zip(&entity.ones) {
            self.inside(&entity.tenant, navigation, *id, &format!("{pointer}/{}", navigation.name))?;
        }
        Ok(())
    }

    /// A tie of a sealed department's entity leads to another one of its own.
    pub(super) fn inside(
        &mut self,
        tenant: &Tenant,
        navigation: &'static Navigation,
        id: crate::model::EntityId,
        at: &str,
    ) -> Result<(), Error> {
        let table = Schema::of(navigation.target).table;
        if !self.context.policy.seals(tenant) || table.is_empty() {
            return Ok(());
        }
        let sql = format!("SELECT tenant FROM {table} WHERE id = $1");
        let owner: Option<Tenant> = self.tx.query_opt(&sql, params![id.0], |row| row.get(0))?;
        if owner.as_ref().is_none_or(|owner| owner == tenant) {
            return Ok(());
        }
        let kind = navigation.target.singular();
        let detail =
            format!("'{tenant}' is sealed: make a {kind} of its own, one of another department's would know of it");
        Err(Error::field(at, detail))
    }

    /// What has been outside was seen there, and what has been inside would be seen; neither is undone by another owner.
    pub(super) fn stays_with(&self, before: &Entity, after: &Entity, draft: &Draft) -> Result<(), Error> {
        let seals = |tenant| self.context.policy.seals(tenant);
        if before.tenant == after.tenant || !(seals(&before.tenant) || seals(&after.tenant)) {
            return Ok(());
        }
        let detail = "nothing moves into a sealed department or out of it; make it anew there";
        Err(Error::field(draft.at("@lamppost.tenant"), detail))
    }
}

impl Catalog {
    /// What of a sealed department is still published: the first entity found of each kind, as `Things(3)`. For a department that has become
    /// sealed; what is written afterwards cannot be.
    pub async fn published(&self, tenant: &Tenant) -> Result<Vec<String>, Error> {
        let tenant = tenant.clone();
        let found = self.records().read(move |read| {
            let mut found = Vec::new();
            for entity in OWNED {
                let sql = format!("SELECT MIN(id) FROM {} WHERE tenant = $1 AND public = 1", Schema::of(entity).table);
                let id: Option<i64> = read.query_one(&sql, params![tenant], |row| row.get(0))?;
                found.extend(id.map(|id| format!("{}({id})", entity.set())));
            }
            Ok::<_, records::Error>(found)
        });
        Ok(found.await?)
    }
}
