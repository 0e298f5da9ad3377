//! What waits and what was given up, for whoever watches the stores.

use std::collections::BTreeMap;

use kernel::Timestamp;

use crate::{Error, Records, params};

/// Jobs of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Waiting or running.
    pub jobs: u64,
    /// When the most overdue of them should have been taken; later than now when none is.
    pub due_at: Option<Timestamp>,
    /// Given up.
    pub dead: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that nobody has been handed yet, and since when the oldest waits.
    pub events: u64,
    pub events_since: Option<Timestamp>,
    pub queues: BTreeMap<String, Queue>,
}

impl Records {
    /// What waits now. Costs what waits, not what there ever was: what is done is removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn backlog(&self) -> Result<Backlog, Error> {
        self.read(|read| {
            let sql = "SELECT COUNT(*), MIN(at) FROM records_event
                       WHERE seq IS NULL OR seq > (SELECT delivered FROM records_event_head WHERE one = 1)";
            let (events, events_since) = read.query_one(sql, params![], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut queues: BTreeMap<String, Queue> = BTreeMap::new();
            let sql = "SELECT queue, COUNT(*), MIN(due_at) FROM records_job GROUP BY queue";
            for (name, jobs, due_at) in
                read.query(sql, params![], |row| Ok((row.get::<String>(0)?, row.get(1)?, row.get(2)?)))?
            {
                queues.insert(name, Queue { jobs, due_at, dead: 0 });
            }
            let sql = "SELECT queue, COUNT(*) FROM records_dead_job GROUP BY queue";
            for (name, dead) in read.query(sql, params![], |row| Ok((row.get::<String>(0)?, row.get(1)?)))? {
                queues.entry(name).or_default().dead = dead;
            }
            Ok(Backlog { events, events_since, queues })
        })
        .await
    }
}
