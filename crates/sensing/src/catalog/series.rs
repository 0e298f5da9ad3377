//! The series of a Thing.

use records::params;

use super::Catalog;
use crate::{
    Error,
    model::{EntityId, EntityType},
};

impl Catalog {
    /// The first `limit` Datastreams and MultiDatastreams of a Thing, by id. Whoever may see the Thing may see them: they are its owner's.
    pub async fn series_of(&self, thing: EntityId, limit: usize) -> Result<Vec<(EntityType, EntityId)>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = "SELECT kind, id FROM (SELECT CAST(0 AS BIGINT) AS kind, d.id AS id FROM sensing_datastream d WHERE d.thing_id = $1
                   UNION ALL SELECT CAST(1 AS BIGINT) AS kind, m.id AS id FROM sensing_multi_datastream m WHERE m.thing_id = $1) s
                   ORDER BY id LIMIT $2";
        let found = self.records().read(move |read| {
            read.query(sql, params![thing.0, limit], |row| {
                let kind = if row.get::<i64>(0)? == 0 { EntityType::Datastream } else { EntityType::MultiDatastream };
                Ok((kind, row.get(1).map(EntityId)?))
            })
        });
        Ok(found.await.map_err(|error: records::Error| error)?)
    }
}
