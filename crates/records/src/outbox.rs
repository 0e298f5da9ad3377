//! Events that leave the database: written by the transaction that causes them, handed on afterwards, at least once.
//!
//! # Nothing is skipped
//!
//! A consumer asks for "everything after position n". That is only safe when an event can never appear behind a position
//! that was already read. On SQLite there is one writer, so [`Tx::emit`] takes the next number and the order of numbers is
//! the order of commits. On PostgreSQL transactions that take numbers 7 and 8 may commit as 8, 7, and a reader between the
//! two would skip 7 for ever. There an event is written **without** a number; numbers are given later, to committed rows
//! only, by short transactions that follow one another (they lock the one row of `records_event_head`). A row that commits
//! late is simply numbered late. Rows are numbered in the order in which they were written, so an effect never gets a
//! smaller number than its cause: the cause had committed, and so had been written, before the effect's transaction began.
//! This needs no transaction ids, so it holds on whatever speaks PostgreSQL's protocol, and survives backup and restore.

use std::time::Duration;

use kernel::{Id, Kind, Timestamp};
use tokio::sync::watch;

use crate::{Error, Records, Tx, engine::Begin, params};

/// Something that happened, for others to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where it goes: the topic of the stream.
    pub topic: String,
    /// What it is about; events of one key stay in order.
    pub key: String,
    pub payload: serde_json::Value,
}

/// An event as the outbox hands it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// Its place in the one order: strictly increasing, never used twice. What a consumer remembers.
    pub position: i64,
    /// The same each time it is handed out, also after a restore; what a receiver recognises a repetition by.
    pub id: Id<Event>,
    pub topic: String,
    pub key: String,
    pub payload: serde_json::Value,
    pub at: Timestamp,
}

impl Kind for Event {
    const NAME: &'static str = "event";
}

/// Bytes of a payload as JSON.
const MAX_PAYLOAD: usize = 1 << 20;
/// Events numbered in one transaction, and the most that one fetch returns.
const MAX_FETCH: u32 = 10_000;

impl Tx<'_> {
    /// Writes an event that exists if and only if this transaction does. Its id.
    #[expect(clippy::needless_pass_by_value, reason = "an event is built for this call")]
    pub fn emit(&mut self, event: Event) -> Result<Id<Event>, Error> {
        let payload = event.payload.to_string();
        if payload.len() > MAX_PAYLOAD {
            let size = payload.len();
            return Err(Error::Invalid(format!("the payload of an event has {size} bytes; at most {MAX_PAYLOAD}")));
        }
        let position: Option<i64> = if self.session().is_postgres() {
            None
        } else {
            let next = "UPDATE records_event_head SET numbered = numbered + 1 WHERE one = 1 RETURNING numbered";
            Some(self.query_one(next, params![], |row| row.get(0))?)
        };
        let now = self.now();
        let id = Id::new(now, rand::random());
        self.execute(
            "INSERT INTO records_event (seq, event, topic, key, payload, at) VALUES ($1, $2, $3, $4, $5, $6)",
            params![position, id, event.topic, event.key, payload, now],
        )?;
        self.effects.events = true;
        Ok(id)
    }
}

/// Gives numbers to the oldest events that have none, and says to how many.
pub(crate) fn number(tx: &mut Tx<'_>) -> Result<u64, Error> {
    let head = "SELECT numbered FROM records_event_head WHERE one = 1";
    let lock = if tx.session().is_postgres() { " FOR UPDATE" } else { "" };
    let numbered: i64 = tx.query_one(&format!("{head}{lock}"), params![], |row| row.get(0))?;
    let count = tx.execute(
        "UPDATE records_event SET seq = $1 + fresh.rank FROM (
             SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS rank FROM records_event
             WHERE seq IS NULL ORDER BY id LIMIT $2
         ) AS fresh WHERE records_event.id = fresh.id",
        params![numbered, MAX_FETCH],
    )?;
    let advance = "UPDATE records_event_head SET numbered = numbered + $1 WHERE one = 1";
    tx.execute(advance, params![i64::try_from(count).unwrap_or(i64::MAX)])?;
    Ok(count)
}

/// The reading end. Each clone waits for itself.
#[derive(Clone)]
pub struct Outbox {
    records: Records,
    commits: watch::Receiver<u64>,
}

impl Outbox {
    pub(crate) fn new(records: Records) -> Self {
        let commits = records.shared().events.subscribe();
        Self { records, commits }
    }

    /// Up to `limit` (1 to 10,000) events after `position`, in order. Empty when there are none.
    pub async fn fetch(&self, position: i64, limit: u32) -> Result<Vec<Emitted>, Error> {
        if !(1..=MAX_FETCH).contains(&limit) {
            return Err(Error::Invalid(format!("a fetch of {limit} events; use 1 to {MAX_FETCH}")));
        }
        if self.records.is_postgres() {
            self.number().await?;
        }
        self.records
            .read(move |read| {
                read.query(
                    "SELECT seq, event, topic, key, payload, at FROM records_event
                     WHERE seq > $1 ORDER BY seq LIMIT $2",
                    params![position, limit],
                    |row| {
                        Ok(Emitted {
                            position: row.get(0)?,
                            id: row.get(1)?,
                            topic: row.get(2)?,
                            key: row.get(3)?,
                            payload: row.get(4)?,
                            at: row.get(5)?,
                        })
                    },
                )
            })
            .await
    }

    /// Gives numbers to committed events that have none yet.
    async fn number(&self) -> Result<(), Error> {
        let waiting = self.records.read(|read| {
            let any = "SELECT id FROM records_event WHERE seq IS NULL LIMIT 1";
            read.query_opt(any, params![], |row| row.get::<i64>(0))
        });
        if waiting.await?.is_none() {
            return Ok(());
        }
        self.records.submit(Begin::Locked, |tx| number(tx).map(drop)).await
    }

    /// The position up to which everything was marked delivered; 0 at the beginning.
    pub async fn delivered(&self) -> Result<i64, Error> {
        let head = "SELECT delivered FROM records_event_head WHERE one = 1";
        self.records.read(move |read| read.query_one(head, params![], |row| row.get(0))).await
    }

    /// Marks everything up to `position` as delivered and removes it. Marking again, or less, changes nothing.
    pub async fn mark_delivered(&self, position: i64) -> Result<(), Error> {
        self.records
            .submit(Begin::Locked, move |tx| {
                let head = "UPDATE records_event_head SET delivered = $1
                            WHERE one = 1 AND delivered < $1 AND numbered >= $1";
                if tx.execute(head, params![position])? > 0 {
                    tx.execute("DELETE FROM records_event WHERE seq <= $1", params![position])?;
                }
                Ok(())
            })
            .await
    }

    /// Returns after a commit of this program that emitted something since the last `wait` of this handle (or since it was
    /// made), and at the latest after `at_most`: events of another program on the same PostgreSQL make no sound here.
    pub async fn wait(&mut self, at_most: Duration) {
        // Timing out and being closed mean the same to the caller: look, then wait again.
        drop(tokio::time::timeout(at_most, self.commits.changed()).await);
    }
}
