use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{
        DeliverPolicy,
        pull::{Ordered, OrderedConfig},
    },
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use kernel::Timestamp;
use tokio::sync::watch;

use super::{Shared, micros};
use crate::{Error, Offset, Record};

const BATCH_BYTES: usize = 1 << 20;
const BATCH_RECORDS: usize = 4096;

/// A reader with an ordered consumer of the server behind it, made again whenever it is lost.
pub(crate) struct Subscription {
    topic: Arc<Shared>,
    closed: watch::Receiver<bool>,
    next: u64,
    messages: Option<Ordered>,
}

impl Shared {
    pub(crate) async fn subscribe(self: &Arc<Self>, from: Offset) -> Result<Subscription, Error> {
        self.check(from).await?;
        Ok(Subscription { closed: self.closed.subscribe(), topic: self.clone(), next: from.0, messages: None })
    }

    async fn check(&self, from: Offset) -> Result<(), Error> {
        self.refresh().await?;
        let (start, end) = (self.start(), self.end());
        if from < start {
            return Err(Error::Gone { requested: from, start });
        }
        if from > end {
            return Err(Error::Ahead { requested: from, end });
        }
        Ok(())
    }

    async fn messages(&self, from: u64) -> Result<Ordered, Error> {
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from + 1 },
            ..OrderedConfig::default()
        };
        let consumer: jetstream::consumer::Consumer<OrderedConfig> = self
            .context
            .create_consumer_on_stream(config, self.stream.as_str())
            .await
            .map_err(|e| Error::nats("subscribe", e))?;
        consumer.messages().await.map_err(|e| Error::nats("subscribe", e))
    }
}

impl Subscription {
    pub(crate) fn position(&self) -> Offset {
        Offset(self.next)
    }

    pub(crate) async fn seek(&mut self, to: Offset) -> Result<(), Error> {
        self.topic.check(to).await?;
        self.next = to.0;
        self.messages = None;
        Ok(())
    }

    /// Waits while the server is away.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> {
        let mut closed = self.closed.clone();
        tokio::select! {
            records = self.read() => records,
            _ = closed.wait_for(|closed| *closed) => Err(Error::Closed),
        }
    }

    async fn read(&mut self) -> Result<Vec<Record>, Error> {
        let mut pause = Duration::from_millis(20);
        loop {
            let trouble = match &mut self.messages {
                None => match self.topic.messages(self.next).await {
                    Ok(messages) => {
                        self.messages = Some(messages);
                        continue;
                    }
                    Err(e) => e.to_string(),
                },
                // Nothing is awaited between this and the return, so nothing that was taken can be lost.
                Some(messages) => match messages.next().await {
                    Some(Ok(message)) => {
                        let records = self.collect(message)?;
                        if records.is_empty() {
                            continue;
                        }
                        return Ok(records);
                    }
                    Some(Err(e)) => e.to_string(),
                    None => "the consumer ended".to_owned(),
                },
            };
            tracing::warn!(topic = self.topic.options.name, "subscribing again: {trouble}");
            self.messages = None;
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_secs(2));
        }
    }

    /// The message and those that have arrived with it.
    fn collect(&mut self, first: jetstream::Message) -> Result<Vec<Record>, Error> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut message = Some(first);
        while let Some(taken) = message.take() {
            let info = taken.info().map_err(|e| Error::nats("read a record", e))?;
            let (offset, at) = (info.stream_sequence - 1, Timestamp::from_micros(micros(info.published)));
            if offset > self.next {
                // A hole is where retention was faster than we are. The next call begins at it again.
                self.messages = None;
                if records.is_empty() {
                    return Err(Error::Gone { requested: Offset(self.next), start: Offset(offset) });
                }
                break;
            }
            if offset == self.next {
                let payload: Bytes = taken.payload.clone();
                bytes += payload.len();
                records.push(Record { offset: Offset(offset), at, payload });
                self.next += 1;
            }
            if bytes < BATCH_BYTES && records.len() < BATCH_RECORDS {
                // An error or the end shows again on the next call.
                message = self.messages.as_mut().and_then(|messages| messages.next().now_or_never()??.ok());
            }
        }
        self.topic.saw_end(self.next);
        Ok(records)
    }
}
