//! Work that must be done, later or elsewhere: written by the transaction that wants it, tried until it is done or given up.
//!
//! A job is one row. Taking it moves `due_at` to the end of the lease, so the job of a worker that died becomes due again by
//! itself and nothing has to be cleaned up. A worker may therefore run twice for one job (its lease ran out while it worked,
//! or it died after its effect): it must be idempotent, or finish with [`Tx::complete`] in the transaction of its effect.

mod worker;

use std::time::Duration;

use kernel::{Id, Kind, Timestamp};

use crate::{Error, Records, Row, Tx, params};

pub use worker::JobFailure;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub queue: String,
    pub payload: serde_json::Value,
    /// Not before this time.
    pub run_at: Timestamp,
    /// While a job with this key waits or runs in the queue, another is not added. A dead one does not count.
    pub unique_key: Option<String>,
    /// Attempts before the job is given up; 1 to 1,000.
    pub max_attempts: u32,
}

impl NewJob {
    /// Due at once, up to 10 attempts (over about an hour with the default [`RetryPolicy`]), not unique.
    pub fn new(queue: impl Into<String>, payload: serde_json::Value) -> Self {
        Self { queue: queue.into(), payload, run_at: Timestamp::MIN, unique_key: None, max_attempts: 10 }
    }
}

/// A job in a worker's hands, until its lease ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: Id<Job>,
    pub queue: String,
    pub payload: serde_json::Value,
    /// Counts this attempt: 1 at the first.
    pub attempt: u32,
    pub max_attempts: u32,
    pub leased_until: Timestamp,
    /// Which taking of the job this is; whoever took it later holds another.
    lease: Id<Lease>,
}

impl Kind for Job {
    const NAME: &'static str = "job";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {}

impl Kind for Lease {
    const NAME: &'static str = "lease";
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadJob {
    pub id: Id<Job>,
    pub queue: String,
    pub payload: serde_json::Value,
    pub attempts: u32,
    pub last_error: String,
    pub created_at: Timestamp,
    pub died_at: Timestamp,
}

/// How long a lease lasts and how long a failed job rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The worker loop renews it while the job runs; after a crash the job waits this long.
    pub lease: Duration,
    /// Rest after the first failure; doubles with each further one.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            first_pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(3_600),
        }
    }
}

impl RetryPolicy {
    /// The rest after failed attempt number `attempt`: half of the doubled pause for certain, the other half by chance
    /// (`random` in 0..1), so that jobs that failed together do not return together.
    fn pause_micros(&self, attempt: u32, random: f64) -> i64 {
        let doubled =
            self.first_pause.saturating_mul(1_u32 << attempt.saturating_sub(1).min(30)).min(self.longest_pause);
        let micros = micros(doubled);
        micros / 2 + ((micros / 2) as f64 * random.clamp(0.0, 1.0)) as i64
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Bytes of a payload as JSON, of a queue's name, and of an error's text that is kept.
const MAX_PAYLOAD: usize = 1 << 20;
const MAX_NAME: usize = 200;
const MAX_ERROR: usize = 4_000;

impl Tx<'_> {
    /// Adds a job that exists if and only if this transaction does. `None` when its unique key is taken.
    #[expect(clippy::needless_pass_by_value, reason = "a job is built for this call")]
    pub fn enqueue(&mut self, job: NewJob) -> Result<Option<Id<Job>>, Error> {
        let payload = job.payload.to_string();
        if payload.len() > MAX_PAYLOAD {
            let size = payload.len();
            return Err(Error::Invalid(format!("the payload of a job has {size} bytes; at most {MAX_PAYLOAD}")));
        }
        if job.queue.is_empty() || job.queue.len() > MAX_NAME {
            return Err(Error::Invalid(format!("the name of a queue has 1 to {MAX_NAME} bytes")));
        }
        if !(1..=1_000).contains(&job.max_attempts) {
            return Err(Error::Invalid(format!("{} attempts for a job; use 1 to 1000", job.max_attempts)));
        }
        let now = self.now();
        let id = Id::new(now, rand::random());
        let due_at = job.run_at.max(now);
        let added = self.execute(
            "INSERT INTO records_job (id, queue, payload, due_at, attempts, max_attempts, unique_key, created_at)
             VALUES ($1, $2, $3, $4, 0, $5, $6, $7) ON CONFLICT (queue, unique_key) DO NOTHING",
            params![id, job.queue, payload, due_at, job.max_attempts, job.unique_key, now],
        )?;
        self.effects.jobs = true;
        Ok((added > 0).then_some(id))
    }

    /// Removes a job whose work this transaction does. [`Error::Check`] when the lease was lost to another worker: then the
    /// transaction must come to nothing, and does if the error is passed on.
    pub fn complete(&mut self, job: &Job) -> Result<(), Error> {
        let removed =
            self.execute("DELETE FROM records_job WHERE id = $1 AND lease = $2", params![job.id, job.lease])?;
        if removed == 0 {
            return Err(Error::Check(format!("the lease of job {} was lost", job.id)));
        }
        Ok(())
    }

    fn bury(&mut self, id: Id<Job>, error: &str) -> Result<(), Error> {
        self.execute(
            "INSERT INTO records_dead_job
                 (id, queue, payload, attempts, max_attempts, unique_key, last_error, created_at, died_at)
             SELECT id, queue, payload, attempts, max_attempts, unique_key, $2, created_at, $3
             FROM records_job WHERE id = $1",
            params![id, error, self.now()],
        )?;
        self.execute("DELETE FROM records_job WHERE id = $1", params![id])?;
        Ok(())
    }
}

/// The working end.
#[derive(Clone)]
pub struct Jobs {
    records: Records,
    policy: RetryPolicy,
}

fn job(row: &Row<'_>) -> Result<Job, Error> {
    Ok(Job {
        id: row.get(0)?,
        queue: row.get(1)?,
        payload: row.get(2)?,
        attempt: row.get(3)?,
        max_attempts: row.get(4)?,
        leased_until: row.get(5)?,
        lease: row.get(6)?,
    })
}

impl Jobs {
    pub(crate) fn new(records: Records) -> Self {
        Self { records, policy: RetryPolicy::default() }
    }

    pub fn with_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Takes up to `limit` (1 to 1,000) jobs that are due, oldest first. Gives up those whose last worker died on them.
    pub async fn claim(&self, queue: &str, limit: u32) -> Result<Vec<Job>, Error> {
        if !(1..=1_000).contains(&limit) {
            return Err(Error::Invalid(format!("{limit} jobs at once; use 1 to 1000")));
        }
        let queue = queue.to_owned();
        let lease = micros(self.policy.lease);
        self.records
            .write(move |tx| {
                let now = tx.now();
                let spent = tx.query(
                    "SELECT id FROM records_job WHERE queue = $1 AND due_at <= $2 AND attempts >= max_attempts
                     ORDER BY due_at, id LIMIT $3",
                    params![queue, now, limit],
                    |row| row.get::<Id<Job>>(0),
                )?;
                for id in spent {
                    tx.bury(id, "the worker stopped during the last attempt")?;
                }
                let mut jobs = tx.query(
                    "UPDATE records_job SET attempts = attempts + 1, due_at = $3, lease = $4
                     WHERE id IN (SELECT id FROM records_job WHERE queue = $1 AND due_at <= $2
                                  AND attempts < max_attempts ORDER BY due_at, id LIMIT $5)
                     RETURNING id, queue, payload, attempts, max_attempts, due_at, lease",
                    params![queue, now, now.plus_micros(lease), Id::<Lease>::new(now, rand::random()), limit],
                    job,
                )?;
                // RETURNING has no order.
                jobs.sort_by_key(|job| job.id);
                Ok(jobs)
            })
            .await
    }

    /// Prolongs the lease from now. `false` when it was lost.
    pub async fn renew(&self, job: &Job) -> Result<bool, Error> {
        let (id, lease, length) = (job.id, job.lease, micros(self.policy.lease));
        self.records
            .write(move |tx| {
                let until = tx.now().plus_micros(length);
                let renew = "UPDATE records_job SET due_at = $3 WHERE id = $1 AND lease = $2";
                Ok(tx.execute(renew, params![id, lease, until])? > 0)
            })
            .await
    }

    /// Done. `false` when the lease was lost, or the job was completed already with [`Tx::complete`].
    pub async fn complete(&self, job: &Job) -> Result<bool, Error> {
        let (id, lease) = (job.id, job.lease);
        self.records
            .write(move |tx| {
                let done = "DELETE FROM records_job WHERE id = $1 AND lease = $2";
                Ok(tx.execute(done, params![id, lease])? > 0)
            })
            .await
    }

    /// Not done: rests and is tried again, or is given up when it must not be or its attempts are spent. `false` when the
    /// lease was lost.
    pub async fn fail(&self, job: &Job, failure: &JobFailure) -> Result<bool, Error> {
        let (id, lease, attempt) = (job.id, job.lease, job.attempt);
        let (text, give_up) = match failure {
            JobFailure::Retry(text) => (text, job.attempt >= job.max_attempts),
            JobFailure::GiveUp(text) => (text, true),
        };
        // What a remote server answered may hold a NUL, which no column takes.
        let text: String = text.replace('\0', "").chars().take(MAX_ERROR).collect();
        let pause = self.policy.pause_micros(attempt, rand::random());
        self.records
            .write(move |tx| {
                let due_at = tx.now().plus_micros(pause);
                let rest =
                    "UPDATE records_job SET due_at = $3, lease = NULL, last_error = $4 WHERE id = $1 AND lease = $2";
                let held = tx.execute(rest, params![id, lease, due_at, text])? > 0;
                if held && give_up {
                    tx.bury(id, &text)?;
                }
                Ok(held)
            })
            .await
    }

    /// When the next job of the queue becomes due (a lease's end counts); `None` when there is none.
    pub async fn next_due(&self, queue: &str) -> Result<Option<Timestamp>, Error> {
        let queue = queue.to_owned();
        let next = "SELECT MIN(due_at) FROM records_job WHERE queue = $1";
        self.records.read(move |read| read.query_one(next, params![queue], |row| row.get(0))).await
    }

    /// Jobs of the queue that wait or run.
    pub async fn count(&self, queue: &str) -> Result<u64, Error> {
        let queue = queue.to_owned();
        let count = "SELECT COUNT(*) FROM records_job WHERE queue = $1";
        self.records.read(move |read| read.query_one(count, params![queue], |row| row.get(0))).await
    }

    /// Jobs given up, by id; `after` is the last id of the page before. `limit` 1 to 1,000.
    pub async fn dead(&self, queue: &str, after: Option<Id<Job>>, limit: u32) -> Result<Vec<DeadJob>, Error> {
        if !(1..=1_000).contains(&limit) {
            return Err(Error::Invalid(format!("a page of {limit} jobs; use 1 to 1000")));
        }
        let queue = queue.to_owned();
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        self.records
            .read(move |read| {
                read.query(
                    "SELECT id, queue, payload, attempts, last_error, created_at, died_at FROM records_dead_job
                     WHERE queue = $1 AND id > $2 ORDER BY id LIMIT $3",
                    params![queue, after, limit],
                    |row| {
                        Ok(DeadJob {
                            id: row.get(0)?,
                            queue: row.get(1)?,
                            payload: row.get(2)?,
                            attempts: row.get(3)?,
                            last_error: row.get(4)?,
                            created_at: row.get(5)?,
                            died_at: row.get(6)?,
                        })
                    },
                )
            })
            .await
    }

    /// Sends a dead job again, with all its attempts before it. `false` when there is no such job, or when a living one holds
    /// its unique key: then the work is under way already and the dead one stays.
    pub async fn requeue(&self, id: Id<Job>) -> Result<bool, Error> {
        self.records
            .write(move |tx| {
                let added = tx.execute(
                    "INSERT INTO records_job
                         (id, queue, payload, due_at, attempts, max_attempts, unique_key, last_error, created_at)
                     SELECT id, queue, payload, $2, 0, max_attempts, unique_key, last_error, created_at
                     FROM records_dead_job WHERE id = $1 ON CONFLICT (queue, unique_key) DO NOTHING",
                    params![id, tx.now()],
                )?;
                if added > 0 {
                    tx.execute("DELETE FROM records_dead_job WHERE id = $1", params![id])?;
                }
                tx.effects.jobs = true;
                Ok(added > 0)
            })
            .await
    }

    /// Throws a dead job away. `false` when there is no such job.
    pub async fn discard(&self, id: Id<Job>) -> Result<bool, Error> {
        let discard = "DELETE FROM records_dead_job WHERE id = $1";
        self.records.write(move |tx| Ok(tx.execute(discard, params![id])? > 0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let check = |attempt, random, secs: i64| assert_eq!(policy.pause_micros(attempt, random), secs * 1_000_000);
        check(1, 1.0, 5);
        check(2, 1.0, 10);
        check(2, 0.0, 5);
        check(5, 1.0, 80);
        check(40, 1.0, 3_600);
        check(1_000, 0.0, 1_800);
    }
}
