//! How many entities of a type somebody may see. The stores count rows by walking over them; while nothing is written the answer stays the same, so
//! it is remembered until something is.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use parking_lot::Mutex;

use super::{Catalog, schema::Schema};
use crate::{Error, Scope, model::EntityType, query::Sql};

/// Different questions kept: types times departments, mostly. Beyond it all are asked anew.
const KEPT: usize = 1_024;

#[derive(Default)]
pub(super) struct Counted {
    /// Moves with every command, whether or not it is known what became of it.
    generation: AtomicU64,
    kept: Mutex<HashMap<(EntityType, Scope), (u64, u64)>>,
}

impl Counted {
    pub fn changed(&self) {
        self.generation.fetch_add(1, SeqCst);
    }
}

impl Catalog {
    /// How many entities of a type the scope lets through.
    pub(crate) async fn count(&self, scope: &Scope, entity: EntityType) -> Result<u64, Error> {
        let counted = &self.inner.counted;
        let key = (entity, scope.clone());
        // Before the rows are read: what is written meanwhile makes the answer old at once.
        let generation = counted.generation.load(SeqCst);
        // Tasks are made by the passing of time too, and not by a command of the catalogue: what brings a device back.
        let kept_here = entity != EntityType::Task;
        if kept_here && let Some((_, count)) = counted.kept.lock().get(&key).filter(|(of, _)| *of == generation) {
            return Ok(*count);
        }
        let mut sql = Sql::default();
        let condition = sql.scope(scope, "e").unwrap_or_else(|| "1 = 1".to_owned());
        // The numbers of Things are kept as they are written.
        let text = match entity {
            EntityType::Thing => {
                format!(
                    "SELECT CAST(COALESCE(SUM(e.things), 0) AS BIGINT) FROM sensing_thing_count e WHERE {condition}"
                )
            }
            _ => format!("SELECT COUNT(*) FROM {} e WHERE {condition}", Schema::of(entity).table),
        };
        let found = self
            .inner
            .records
            .read(move |read| Ok::<_, Error>(read.query_one(&text, &sql.params, |row| row.get::<u64>(0))?));
        let count = found.await?;
        if !kept_here {
            return Ok(count);
        }
        let mut kept = counted.kept.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, (generation, count));
        Ok(count)
    }
}
