//! What a legal hold covers is not deleted by hand either, and does not leave what the hold names.

use kernel::Tenant;
use records::{Read, params};

use super::{Catalog, Entity, write::Writer};
use crate::{
    Error,
    model::{DatastreamInfo, EntityId, EntityType},
};

/// The hold that keeps a series or a Thing, if one does.
fn hold_on(
    read: &mut Read<'_>,
    tenant: &Tenant,
    thing: Option<EntityId>,
    series: Option<EntityId>,
) -> Result<Option<String>, records::Error> {
    let sql = "SELECT id FROM sensing_retention_hold
               WHERE lifted_at IS NULL AND (thing = $2 OR datastream = $3 OR (thing IS NULL AND datastream IS NULL AND tenant = $1))
               ORDER BY id LIMIT 1";
    read.query_opt(sql, params![tenant, thing.map(|id| id.0), series.map(|id| id.0)], |row| row.get(0))
}

/// The hold that keeps something that was observed of a feature.
const OF_FEATURE: &str = "
    SELECT h.id FROM sensing_observed_feature f
    JOIN (SELECT id, tenant, thing_id FROM sensing_datastream UNION ALL SELECT id, tenant, thing_id FROM sensing_multi_datastream) d
      ON d.id = f.datastream_id
    JOIN sensing_retention_hold h ON h.lifted_at IS NULL
      AND (h.thing = d.thing_id OR h.datastream = d.id OR (h.thing IS NULL AND h.datastream IS NULL AND h.tenant = d.tenant))
    WHERE f.feature_id = $1 ORDER BY h.id LIMIT 1";

fn refused(what: &str, hold: &str) -> Error {
    Error::conflict(format!(
        "{what} is kept by the hold {hold}. Nothing of it is changed or deleted before that is lifted."
    ))
}

impl Writer<'_, '_> {
    /// 409 while a hold keeps the entity or what would go with it.
    pub(super) fn unheld(&mut self, entity: &Entity) -> Result<(), Error> {
        let hold = match entity.entity {
            EntityType::Thing => hold_on(self.tx, &entity.tenant, Some(entity.id), None),
            EntityType::Datastream | EntityType::MultiDatastream => {
                hold_on(self.tx, &entity.tenant, entity.one("Thing"), Some(entity.id))
            }
            EntityType::HistoricalLocation => hold_on(self.tx, &entity.tenant, entity.one("Thing"), None),
            EntityType::FeatureOfInterest => self.tx.query_opt(OF_FEATURE, params![entity.id.0], |row| row.get(0)),
            _ => return Ok(()),
        };
        match hold? {
            Some(hold) => Err(refused(&format!("{}({})", entity.entity.set(), entity.id), &hold)),
            None => Ok(()),
        }
    }
}

impl Catalog {
    /// 409 while a hold keeps the Observations of a series.
    pub(crate) async fn unheld(&self, info: &DatastreamInfo) -> Result<(), Error> {
        let (tenant, thing, id) = (info.tenant.clone(), info.thing, info.id);
        let hold: Result<_, records::Error> =
            self.records().read(move |read| hold_on(read, &tenant, Some(thing), Some(id))).await;
        match hold? {
            Some(hold) => Err(refused(&format!("{}({id})", info.entity().set()), &hold)),
            None => Ok(()),
        }
    }
}
