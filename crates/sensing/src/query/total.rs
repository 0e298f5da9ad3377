//! How many Observations a caller may see, of all series together.

use std::ops::ControlFlow;

use kernel::Tenant;
use records::{Row, params};

use super::{narrow::Sql, run::Engine};
use crate::{
    Error, Scope,
    catalog::schema::Schema,
    model::{EntityId, EntityType},
    observe::{Owner, TALLIED, Tally},
};

/// Series asked for in one statement.
const CHUNK: usize = 512;
/// How often the owners are looked up anew because they have changed meanwhile, before all series are walked instead.
const TRIES: usize = 4;

/// A series with its owner.
fn owned(row: &Row<'_>) -> Result<(i64, Owner), records::Error> {
    Ok((row.get(0)?, Some((row.get::<Tenant>(1)?, row.get(2)?))))
}

fn statement(condition: &str) -> String {
    let part =
        |of: EntityType| format!("SELECT e.id, e.tenant, e.public FROM {} e WHERE {condition}", Schema::of(of).table);
    EntityType::SERIES.map(part).join(" UNION ALL ")
}

impl Engine {
    /// Exactly what walking over all series would give. `None` when they must be walked: where no tally is kept, or it does not come to rest.
    pub(super) async fn total(&self, scope: &Scope) -> Result<Option<u64>, Error> {
        let Some(tally) = self.series.tally() else { return Ok(None) };
        let mut learned = tally.learning.lock().await;
        for _ in 0..TRIES {
            // Before anything is read: whatever changes from here on is noticed below.
            let changes = self.catalog.series_changes(*learned);
            let known = if tally.is_on() { changes.since.as_deref() } else { None };
            match known {
                Some(changed) => {
                    tally.doubt(changed.iter().map(|id| id.0));
                    self.strangers(tally).await?;
                }
                None => {
                    tally.begin();
                    if !self.everybody(tally).await? {
                        *learned = None;
                        return Ok(None);
                    }
                }
            }
            *learned = Some(changes.generation);
            if self.catalog.series_changes(*learned).generation != changes.generation {
                continue;
            }
            let Some(total) = tally.total(scope) else { continue };
            drop(learned);
            let mut count = total.certain;
            for id in total.doubtful {
                count += self.series.count(EntityId(id)).await?;
            }
            return Ok(Some(count));
        }
        Ok(None)
    }

    async fn strangers(&self, tally: &Tally) -> Result<(), Error> {
        let strange = tally.strangers();
        for chunk in strange.chunks(CHUNK) {
            let mut sql = Sql::default();
            let list = sql.ids(chunk);
            let text = statement(&format!("e.id IN ({list})"));
            let found =
                self.catalog.records().read(move |read| Ok::<_, Error>(read.query(&text, &sql.params, owned)?));
            // Without an answer they stay strange, or they would count for whom they belonged to before.
            let found = found.await?;
            let mut all: ahash::AHashMap<i64, Owner> = chunk.iter().map(|id| (*id, None)).collect();
            all.extend(found);
            tally.learn(all);
            tally.met(chunk);
            chunk.iter().for_each(|id| self.series.tell(EntityId(*id)));
        }
        Ok(())
    }

    /// `false` when there are too many series.
    async fn everybody(&self, tally: &Tally) -> Result<bool, Error> {
        let text = statement("1 = 1");
        let found = self.catalog.records().read(move |read| {
            let mut found = Vec::new();
            read.for_each(&text, params![], |row| {
                found.push(owned(row)?);
                Ok(if found.len() <= TALLIED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            Ok::<_, Error>(found)
        });
        let found = found.await?;
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        if !tally.learn(found) {
            return Ok(false);
        }
        self.series.tell_all(ids).await;
        Ok(true)
    }
}

#[cfg(test)]
#[path = "total_tests.rs"]
mod tests;
