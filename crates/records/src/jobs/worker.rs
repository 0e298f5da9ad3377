//! The loop that takes jobs of one queue and runs them.

use std::{future::Future, time::Duration};

use tokio::task::JoinSet;

use super::{Job, Jobs};
use crate::Error;

/// Why a worker did not do a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFailure {
    /// It may work later.
    #[error("{0}")]
    Retry(String),
    /// It never will: the job becomes a dead letter at once.
    #[error("{0}")]
    GiveUp(String),
}

impl From<Error> for JobFailure {
    fn from(error: Error) -> Self {
        Self::Retry(error.to_string())
    }
}

/// The longest rest between two looks at the queue: jobs of another program on the same PostgreSQL make no sound here, and a
/// clock may jump.
const LONGEST_REST: Duration = Duration::from_secs(1);
const SHORTEST_REST: Duration = Duration::from_millis(5);

impl Jobs {
    /// Runs `worker` for each job of `queue`, up to `concurrency` (1 to 1,000) at once, until `shutdown` is ready; then takes
    /// no more, waits for those that run, and returns. Leases are renewed while a job runs; a panic is a failure like another.
    /// An unavailable database is waited for.
    pub async fn run<F, W>(
        &self,
        queue: &str,
        concurrency: usize,
        worker: W,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error>
    where
        W: Fn(Job) -> F,
        F: Future<Output = Result<(), JobFailure>> + Send + 'static,
    {
        if !(1..=1_000).contains(&concurrency) {
            return Err(Error::Invalid(format!("{concurrency} jobs at once; use 1 to 1000")));
        }
        let mut commits = self.records.shared().jobs.subscribe();
        let mut running = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let free = concurrency - running.len();
            let mut rest = LONGEST_REST;
            if free > 0 {
                commits.mark_unchanged();
                match self.claim(queue, u32::try_from(free).unwrap_or(1)).await {
                    Ok(jobs) => {
                        let full = jobs.len() == free;
                        for job in jobs {
                            let work = tokio::spawn(worker(job.clone()));
                            running.spawn(self.clone().see_through(job, work));
                        }
                        if !full {
                            rest = self.until_due(queue).await;
                        }
                    }
                    Err(Error::Closed) => break,
                    Err(error) => tracing::warn!(queue, %error, "jobs cannot be taken"),
                }
            }
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = running.join_next() => {}
                _ = commits.changed(), if running.len() < concurrency => {}
                () = tokio::time::sleep(rest), if running.len() < concurrency => {}
            }
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    async fn until_due(&self, queue: &str) -> Duration {
        let Ok(Some(due)) = self.next_due(queue).await else { return LONGEST_REST };
        let micros = due.micros_since(self.records.now());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0)).clamp(SHORTEST_REST, LONGEST_REST)
    }

    /// Waits for one job's work, keeps its lease, writes what came of it.
    async fn see_through(self, job: Job, mut work: tokio::task::JoinHandle<Result<(), JobFailure>>) {
        let beat = (self.policy.lease / 3).max(SHORTEST_REST);
        let outcome = loop {
            tokio::select! {
                joined = &mut work => break joined,
                () = tokio::time::sleep(beat) => {
                    if let Ok(false) = self.renew(&job).await {
                        // Somebody else has it, or the worker has completed it in a transaction of its own and is about to end.
                        tracing::debug!(job = %job.id, "lease is gone");
                    }
                }
            }
        };
        let result = match outcome {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(JobFailure::Retry("the worker panicked".to_owned())),
            // The runtime ends: the lease will run out and the job comes back.
            Err(_) => return,
        };
        let written = match &result {
            Ok(()) => self.complete(&job).await,
            Err(failure) => {
                tracing::info!(job = %job.id, queue = job.queue, attempt = job.attempt, %failure, "job failed");
                self.fail(&job, failure).await
            }
        };
        if let Err(error) = written {
            // Not written: the lease runs out and the job is tried again, as after a crash.
            tracing::warn!(job = %job.id, %error, "a job's outcome could not be saved");
        }
    }
}
