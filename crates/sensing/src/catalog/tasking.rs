//! What the catalogue knows of Tasking (17-079): a TaskingCapability is checked as a whole, and owns its Tasks. Tasks themselves are written by
//! [`crate::tasking`] alone.

use records::params;

use super::{
    Entity,
    write::{Owner, Writer},
};
use crate::{Error, model::EntityType, route::action};

impl Writer<'_, '_> {
    /// Whether a TaskingCapability is one: its parameters are a DataRecord, and what it says of its Tasks fits them. `before` is what it was.
    pub(super) fn check_tasking(
        &mut self,
        before: Option<&Entity>,
        entity: &Entity,
        pointer: &str,
    ) -> Result<(), Error> {
        if entity.entity != EntityType::TaskingCapability {
            return Ok(());
        }
        if let Some(before) = before
            && (before.one("Actuator"), before.one("Thing")) != (entity.one("Actuator"), entity.one("Thing"))
        {
            self.at_rest(before)?;
        }
        // A Task takes its actuator from all others, so whoever only sees an Actuator may not give it out.
        if let Some(id) = entity.one("Actuator").filter(|id| before.is_none_or(|b| b.one("Actuator") != Some(*id))) {
            let actuator = self.visible(EntityType::Actuator, id, pointer)?;
            let owner = Owner { tenant: actuator.tenant, public: actuator.public };
            self.require(action::WRITE, EntityType::Actuator, &owner, &format!("Actuators({id})"))?;
        }
        let parameters = entity.field("taskingParameters").to_value();
        crate::tasking::terms::check_capability(pointer, &parameters, &entity.properties())
    }

    /// Other than it was, a TaskingCapability would move another device than its Tasks were approved for, or two Tasks one device.
    pub(super) fn at_rest(&mut self, capability: &Entity) -> Result<(), Error> {
        if capability.entity != EntityType::TaskingCapability || !crate::tasking::is_busy(self.tx, capability.id)? {
            return Ok(());
        }
        let detail = format!("TaskingCapabilities({}) has Tasks that are not over; cancel them first.", capability.id);
        Err(Error::conflict(detail))
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
