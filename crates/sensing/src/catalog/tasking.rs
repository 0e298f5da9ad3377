//! What the catalogue knows of Tasking (17-079): a TaskingCapability is checked as a whole, and owns its Tasks. Tasks themselves are written by
//! [`crate::tasking`] alone.

use records::params;

use super::{Entity, write::Writer};
use crate::{Error, model::EntityType};

impl Writer<'_, '_> {
    /// Whether a TaskingCapability is one: its parameters are a DataRecord, and what it says of its Tasks fits them.
    pub(super) fn check_tasking(&self, entity: &Entity, pointer: &str) -> Result<(), Error> {
        if entity.entity != EntityType::TaskingCapability {
            return Ok(());
        }
        let parameters = entity.field("taskingParameters").to_value();
        crate::tasking::terms::check_capability(pointer, &parameters, &entity.properties())
    }

    /// Whoever owns a TaskingCapability owns its Tasks.
    pub(super) fn hand_down(&mut self, capability: &Entity) -> Result<(), Error> {
        if capability.entity == EntityType::TaskingCapability {
            let sql = "UPDATE sensing_task SET tenant = $1, public = $2 WHERE tasking_capability_id = $3";
            self.tx.execute(sql, params![capability.tenant, capability.public, capability.id.0])?;
        }
        Ok(())
    }
}
