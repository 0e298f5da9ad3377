//! The one task that publishes a topic: in order, many at a time, again when the connection breaks.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::{REQUEST, Shared};
use crate::{
    Error, Offset,
    queue::{Outcome, Take},
};

/// Messages on their way at once. Everything in a window is settled before the next begins, so what a broken
/// connection can reorder is at most a window.
pub(super) const WINDOW: usize = 1024;

/// How often the task looks what other processes have written.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(topic: Arc<Shared>) {
    struct Farewell(Arc<Shared>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            self.0.queue.abandon();
            self.0.closed.send_replace(true);
        }
    }
    let farewell = Farewell(topic);
    let topic = &farewell.0;
    let mut names = Names::new();
    let mut spare = Vec::new();
    let mut looked = Instant::now();
    loop {
        let errands = match topic.queue.take_async(&mut spare, LOOK).await {
            Take::Batch(batch) => {
                topic.writing.begin(&*topic.clock);
                let outcomes = publish(topic, &batch.records, &mut names).await;
                topic.writing.end();
                batch.resolve(Outcome::Each(outcomes.into()));
                topic.queue.release(batch, &mut spare);
                if looked.elapsed() < LOOK {
                    continue;
                }
                Vec::new()
            }
            Take::Idle(errands) => errands,
            Take::Closed => break,
        };
        looked = Instant::now();
        let done = match topic.refresh().await {
            Ok(_) => topic.retain().await,
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            tracing::warn!(topic = topic.options.name, "{e}");
        }
        for asker in errands {
            // The asker may have left.
            let _ = asker.send(());
        }
    }
}

/// `Nats-Msg-Id`: unique over all writers, and the same when a record is sent again.
pub(super) struct Names {
    writer: String,
    count: u64,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { writer: uuid::Uuid::new_v4().simple().to_string(), count: 0 }
    }
}

pub(super) async fn publish(topic: &Shared, records: &[Bytes], names: &mut Names) -> Vec<Result<Offset, Error>> {
    let began = Instant::now();
    let mut outcomes = Vec::with_capacity(records.len());
    for window in records.chunks(WINDOW) {
        let first = names.count;
        names.count += window.len() as u64;
        outcomes.extend(settle(topic, window, |index| format!("{}-{}", names.writer, first + index as u64)).await);
    }
    let counters = &topic.counters;
    let stored = outcomes.iter().zip(records).filter(|(outcome, _)| outcome.is_ok());
    let (count, bytes) = stored.fold((0, 0), |(count, bytes), (_, payload)| (count + 1, bytes + payload.len() as u64));
    counters.records.fetch_add(count, SeqCst);
    counters.bytes.fetch_add(bytes, SeqCst);
    counters.refused.fetch_add(records.len() as u64 - count, SeqCst);
    counters.flushes.fetch_add(1, SeqCst);
    counters.flush_micros.fetch_add(began.elapsed().as_micros() as u64, SeqCst);
    outcomes
}

/// Sends a window until every record of it has an outcome.
async fn settle(topic: &Shared, window: &[Bytes], name: impl Fn(usize) -> String) -> Vec<Result<Offset, Error>> {
    let give_up = Instant::now() + topic.limits.retry_for;
    let mut outcomes: Vec<Option<Result<Offset, Error>>> = vec![None; window.len()];
    let mut trouble: Option<Error> = None;
    for attempt in 0.. {
        let open: Vec<usize> = (0..window.len()).filter(|&index| outcomes[index].is_none()).collect();
        if open.is_empty() {
            break;
        }
        if Instant::now() >= give_up {
            let error = trouble.unwrap_or_else(|| Error::nats("append", "no acknowledgement in time"));
            outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_none())
                .for_each(|outcome| *outcome = Some(Err(error.clone())));
            break;
        }
        if attempt > 0 {
            sleep(Duration::from_millis((20 << attempt.min(6)).min(1_000))).await;
        }
        let mut sent = Vec::with_capacity(open.len());
        for index in open {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, name(index).as_str());
            let message = PublishMessage::build().payload(window[index].clone()).headers(headers);
            match topic.context.send_publish(topic.subject.clone(), message).await {
                Ok(acknowledgement) => sent.push((index, acknowledgement)),
                Err(e) => match verdict(topic, window[index].len(), &e) {
                    Verdict::Refused(error) => outcomes[index] = Some(Err(error)),
                    Verdict::Again(error) => {
                        trouble = Some(error);
                        // What comes after it would overtake it.
                        break;
                    }
                },
            }
        }
        // One limit for all of them: when the connection is gone, waiting for each in turn would take minutes.
        let until = Instant::now() + REQUEST;
        for (index, acknowledgement) in sent {
            match timeout_at(until, acknowledgement.into_future()).await {
                Ok(Ok(acknowledgement)) => {
                    topic.saw_end(acknowledgement.sequence);
                    outcomes[index] = Some(Ok(Offset(acknowledgement.sequence - 1)));
                }
                Ok(Err(e)) => match verdict(topic, window[index].len(), &e) {
                    Verdict::Refused(error) => outcomes[index] = Some(Err(error)),
                    Verdict::Again(error) => trouble = Some(error),
                },
                Err(_) => trouble = Some(Error::nats("append", "no acknowledgement in time")),
            }
        }
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Error::Closed))).collect()
}

enum Verdict {
    /// The server has said no.
    Refused(Error),
    /// Nobody knows; the same `Nats-Msg-Id` makes asking again harmless.
    Again(Error),
}

fn verdict(topic: &Shared, len: usize, error: &PublishError) -> Verdict {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return Verdict::Refused(Error::TooLarge { len, max: topic.max_payload });
    }
    let source = std::error::Error::source(error);
    let Some(said) = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>()) else {
        return Verdict::Again(Error::nats("append", error));
    };
    const FULL: [ErrorCode; 5] = [
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_STORE_FAILED,
    ];
    if FULL.contains(&said.error_code()) {
        return Verdict::Refused(Error::Full { place: topic.stream.clone() });
    }
    // 503: no leader at the moment, a server starting up.
    if said.code() == 503 {
        Verdict::Again(Error::nats("append", said))
    } else {
        Verdict::Refused(Error::nats("append", said))
    }
}
