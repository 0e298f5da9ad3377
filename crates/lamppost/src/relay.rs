//! From the outbox of `records` to the topic `events` of `stream`: at least once, in order.
//!
//! A receiver recognises a repetition (after a crash between the two stores) by the event's id.

use std::time::Duration;

use bytes::Bytes;
use records::{Emitted, Records};
use serde_json::json;
use stream::Topic;
use tokio_util::sync::CancellationToken;

const BATCH: u32 = 512;
/// Another program on the same PostgreSQL makes no sound here.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure; doubled up to the limit.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Relays until `stop`.
pub async fn run(records: Records, events: Topic, stop: CancellationToken) {
    let mut outbox = records.outbox();
    let mut pause = PAUSE.0;
    loop {
        match drain(&outbox, &events).await {
            Ok(()) => {
                pause = PAUSE.0;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = outbox.wait(LOOK) => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, "events wait in the outbox");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Moves everything that is in the outbox now.
pub async fn drain(outbox: &records::Outbox, events: &Topic) -> Result<(), String> {
    let mut position = outbox.delivered().await.map_err(|e| e.to_string())?;
    loop {
        let batch = outbox.fetch(position, BATCH).await.map_err(|e| e.to_string())?;
        let Some(last) = batch.last() else { return Ok(()) };
        position = last.position;
        let mut pending = Vec::with_capacity(batch.len());
        for event in &batch {
            pending.push(events.enqueue(payload(event)).await.map_err(|e| e.to_string())?);
        }
        for one in pending {
            one.durable().await.map_err(|e| e.to_string())?;
        }
        outbox.mark_delivered(position).await.map_err(|e| e.to_string())?;
    }
}

/// An event on the stream: `{"id", "topic", "key", "at", "payload"}`.
fn payload(event: &Emitted) -> Bytes {
    json!({"id": event.id, "topic": event.topic, "key": event.key, "at": event.at, "payload": event.payload})
        .to_string()
        .into()
}
