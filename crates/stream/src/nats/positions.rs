//! Where consumers are: the last message of `<prefix>.POSITIONS.<topic>.<consumer>` is the next offset, in decimal.
//! (Topics are lower case, so no topic can have this subject.)

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self,
    context::PublishErrorKind,
    message::PublishMessage,
    stream::{Config, LastRawMessageErrorKind, StorageType},
};
use tokio::{sync::Mutex, time::Instant};

use super::Shared;
use crate::{ConsumerStatus, Error, NatsOptions, Offset};

pub(crate) struct Stored {
    subject: String,
    next: AtomicU64,
    /// The revision that the next commit replaces. Held over the request: commits come one after the other.
    revision: Mutex<u64>,
}

fn stream(options: &NatsOptions) -> String {
    format!("{}-POSITIONS", options.prefix)
}

pub(super) async fn declare(context: &jetstream::Context, options: &NatsOptions) -> Result<(), Error> {
    let config = Config {
        name: stream(options),
        subjects: vec![format!("{}.POSITIONS.>", options.prefix)],
        storage: StorageType::File,
        max_messages_per_subject: 1,
        num_replicas: options.replicas,
        ..Config::default()
    };
    context.create_or_update_stream(config).await.map_err(|e| Error::nats("declare the positions", e))?;
    Ok(())
}

impl Stored {
    pub(crate) fn next(&self) -> Offset {
        Offset(self.next.load(SeqCst))
    }
}

impl Shared {
    fn position_subject(&self, name: &str) -> String {
        format!("{}.POSITIONS.{}.{name}", self.limits.prefix, self.options.name)
    }

    async fn positions(&self) -> Result<jetstream::stream::Stream, Error> {
        self.context.get_stream(stream(&self.limits)).await.map_err(|e| Error::nats("read a position", e))
    }

    /// Next offset and revision, if the consumer has ever been stored.
    async fn position(&self, subject: &str) -> Result<Option<(u64, u64)>, Error> {
        let wrong = |detail: &dyn std::fmt::Display| Error::nats("read a position", detail);
        match self.positions().await?.get_last_raw_message_by_subject(subject).await {
            Ok(message) => {
                let text = std::str::from_utf8(&message.payload).ok();
                let next = text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(&"it is not a number"))?;
                Ok(Some((next, message.sequence)))
            }
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(wrong(&e)),
        }
    }

    pub(crate) async fn stored(&self, name: &str) -> Result<Arc<Stored>, Error> {
        if let Some(stored) = self.consumers.lock().get(name) {
            return Ok(stored.clone());
        }
        let subject = self.position_subject(name);
        let found = self.position(&subject).await?;
        let start = self.refresh().await?.first_sequence.saturating_sub(1);
        let (next, revision) = found.unwrap_or((start, 0));
        let stored = Arc::new(Stored { subject, next: AtomicU64::new(next), revision: Mutex::new(revision) });
        if found.is_none() {
            self.store(&stored, next).await?;
        }
        // Whoever came first, everybody in this process shares one.
        Ok(self.consumers.lock().entry(name.to_owned()).or_insert(stored).clone())
    }

    /// Durable when it returns. Going back is ignored: somebody has already read further.
    pub(crate) async fn commit(&self, stored: &Stored, next: Offset) -> Result<(), Error> {
        if next <= stored.next() {
            return Ok(());
        }
        self.store(stored, next.0).await
    }

    async fn store(&self, stored: &Stored, next: u64) -> Result<(), Error> {
        let give_up = Instant::now() + self.limits.retry_for;
        let mut revision = stored.revision.lock().await;
        if *revision > 0 && next <= stored.next().0 {
            // A later commit came first while this one waited.
            return Ok(());
        }
        loop {
            let message =
                PublishMessage::build().payload(next.to_string().into()).expected_last_subject_sequence(*revision);
            let sent = match self.context.send_publish(stored.subject.clone(), message).await {
                Ok(acknowledgement) => acknowledgement.await,
                Err(e) => Err(e),
            };
            let trouble = match sent {
                Ok(acknowledgement) => {
                    *revision = acknowledgement.sequence;
                    stored.next.fetch_max(next, SeqCst);
                    return Ok(());
                }
                // Another process was here, or our own earlier try was stored although its answer was lost.
                Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => match self.position(&stored.subject).await
                {
                    Ok(Some((theirs, newer))) => {
                        *revision = newer;
                        stored.next.fetch_max(theirs, SeqCst);
                        if theirs >= next {
                            return Ok(());
                        }
                        continue;
                    }
                    Ok(None) => {
                        *revision = 0;
                        continue;
                    }
                    Err(e) => e,
                },
                Err(e) => Error::nats("commit a position", e),
            };
            if Instant::now() >= give_up {
                return Err(trouble);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn forget(&self, name: &str) -> Result<(), Error> {
        self.consumers.lock().remove(name);
        let subject = self.position_subject(name);
        let purged = self.positions().await?.purge().filter(subject).await;
        purged.map(drop).map_err(|e| Error::nats("forget a consumer", e))
    }

    pub(crate) fn consumer_statuses(&self) -> Vec<ConsumerStatus> {
        let end = self.end().0;
        let status = |(name, stored): (&String, &Arc<Stored>)| {
            let next = stored.next();
            ConsumerStatus { name: name.clone(), next, lag: end.saturating_sub(next.0) }
        };
        let mut all: Vec<_> = self.consumers.lock().iter().map(status).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }
}
