//! Runs connectors when they are due: a few at a time, each never twice at once.

use std::{sync::Arc, time::Duration};

use kernel::Timestamp;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Connect,
    declaration::Connector,
    fetch::Failure,
    store::{self, Stored},
};

/// The longest that one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(1_800);
/// The longest sleep: another program on the same database may have been told to run something.
const LONGEST: Duration = Duration::from_secs(30);
/// The shortest, so that a connector that is due again while it still runs is not asked about without end.
const SHORTEST: Duration = Duration::from_secs(1);
/// Connectors looked at in one round.
const ROUND: u32 = 100;

const FIRST_RETRY: u64 = 30;
const LAST_RETRY: u64 = 3_600;
const LONGEST_WISH: u32 = 86_400;

/// Seconds until the next attempt: 30, 60, 120 … up to an hour or the connector's own interval, whichever is longer; and not before the publisher
/// wants to be asked.
pub fn backoff(failures: u32, every: Duration, retry_after: Option<u32>) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let longest = LAST_RETRY.max(every.as_secs());
    let asked = u64::from(retry_after.unwrap_or(0).min(LONGEST_WISH));
    Duration::from_secs(doubled.min(longest).max(asked))
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
}

impl Connect {
    /// Polls until `shutdown`. What is under way then is given up: the next run begins it again and writes only what is missing.
    pub async fn run(self, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.0.options.parallel.max(1)));
        let mut tasks = JoinSet::new();
        while !shutdown.is_cancelled() {
            let wait = match self.round(&places, &mut tasks, &shutdown).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "connectors cannot be looked up");
                    LONGEST
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.0.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            while tasks.try_join_next().is_some() {}
        }
        tasks.shutdown().await;
    }

    /// Starts what is due; how long nothing will be.
    async fn round(
        &self,
        places: &Arc<Semaphore>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, records::Error> {
        let now = self.now();
        let due = self.records().read(move |read| store::due(read, now, ROUND)).await?;
        for stored in due {
            let place = tokio::select! {
                () = shutdown.cancelled() => return Ok(SHORTEST),
                place = Arc::clone(places).acquire_owned() => place,
            };
            let Ok(place) = place else { return Ok(SHORTEST) };
            let Some(run) = self.begin(stored).await? else { continue };
            let connect = self.clone();
            tasks.spawn(async move {
                connect.finish(run).await;
                drop(place);
            });
        }
        let next = self.records().read(store::next_due).await?;
        let wait =
            next.map_or(LONGEST, |next| Duration::from_micros(next.micros_since(self.now()).max(0).unsigned_abs()));
        Ok(wait.clamp(SHORTEST, LONGEST))
    }

    /// Takes a due run; `None` when it runs here or somebody else has it.
    async fn begin(&self, stored: Stored) -> Result<Option<Run>, records::Error> {
        let connector = match Connector::new(stored.declaration.clone()) {
            Ok(connector) => Arc::new(connector),
            Err(errors) => {
                tracing::error!(
                    connector = stored.declaration.key,
                    ?errors,
                    "the stored connector is not valid and is not run"
                );
                let (key, next) = (stored.declaration.key.clone(), after(self.now(), Duration::from_secs(LAST_RETRY)));
                let text = "this program does not understand the declaration: apply the pack again";
                self.records().write(move |tx| store::fail(tx, &key, text, 1, next)).await?;
                return Ok(None);
            }
        };
        if !self.0.running.lock().insert(connector.key.clone()) {
            return Ok(None);
        }
        let guard = Running { connect: self.clone(), key: connector.key.clone() };
        let (key, seen, next) = (connector.key.clone(), stored.next_run, after(self.now(), connector.interval));
        let claimed = self.records().write(move |tx| store::claim(tx, &key, seen, next)).await?;
        Ok(claimed.then_some(Run { connector, stored, _running: guard }))
    }

    async fn finish(&self, run: Run) {
        let Run { connector, stored, _running } = &run;
        let began = std::time::Instant::now();
        let worked = tokio::time::timeout(RUN_LIMIT, self.work(connector, stored)).await;
        let worked = worked.unwrap_or_else(|_| Err(Failure::new("the run took too long and was given up")));
        let key = connector.key.clone();
        let written = match worked {
            Ok(success) => {
                match &success.report {
                    Some(report) => tracing::info!(
                        connector = key,
                        rows = report.rows,
                        written = report.written,
                        unchanged = report.unchanged,
                        rejected = report.rejected + report.rows_rejected,
                        ms = began.elapsed().as_millis() as u64,
                        "a connector has read"
                    ),
                    None => tracing::debug!(connector = key, "a connector found nothing new"),
                }
                self.records().write(move |tx| store::succeed(tx, &key, &success)).await
            }
            Err(failure) => {
                let failures = stored.failures.saturating_add(1);
                tracing::warn!(connector = key, failures, error = %failure, "a connector failed");
                let next = after(self.now(), backoff(failures, connector.interval, failure.retry_after));
                self.records().write(move |tx| store::fail(tx, &key, &failure.text, failures, next)).await
            }
        };
        if let Err(error) = written {
            tracing::error!(connector = connector.key, %error, "how a connector's run went could not be written down");
        }
    }

    /// Runs everything that is due now, one after the other; for tests and the command line.
    ///
    /// # Errors
    /// Those of `records`; a connector's own failure is in its state.
    pub async fn run_due(&self) -> Result<usize, crate::Error> {
        let now = self.now();
        let due = self.records().read(move |read| store::due(read, now, ROUND)).await?;
        let mut ran = 0;
        for stored in due {
            if let Some(run) = self.begin(stored).await? {
                self.finish(run).await;
                ran += 1;
            }
        }
        Ok(ran)
    }
}

struct Run {
    connector: Arc<Connector>,
    stored: Stored,
    _running: Running,
}

/// Marks a connector as running until it is dropped, however that comes.
struct Running {
    connect: Connect,
    key: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connect.0.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_but_never_for_good() {
        let check = |failures, every, asked, expect| {
            let wait = backoff(failures, Duration::from_secs(every), asked);
            assert_eq!(wait.as_secs(), expect, "{failures} {every} {asked:?}");
        };
        check(1, 600, None, 30);
        check(2, 600, None, 60);
        check(7, 600, None, 1_920);
        check(8, 600, None, 3_600);
        check(u32::MAX, 600, None, 3_600);
        check(20, 86_400, None, 86_400);
        check(1, 600, Some(900), 900);
        check(1, 600, Some(u32::MAX), 86_400);
    }
}
