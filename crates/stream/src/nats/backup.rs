//! Copying topics out of the server into segment files, and segment files into a server: the same folder as the local engine's, so that a
//! backup of either engine is brought back into the other.

use std::{path::Path, sync::Arc};

use kernel::{Clock, Timestamp};

use super::{Engine, Shared, publisher};
use crate::{
    BackupReport, Error, NatsOptions, Offset, TopicOptions,
    local::{Export, Import, must_be_empty, topic_folders},
};

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(run).await.map_err(|_| Error::Closed)?
}

impl Engine {
    /// What is stored at the time of the call, topic by topic, with the consumers that this process has opened.
    pub(crate) async fn backup(&self, to: &Path) -> Result<Vec<BackupReport>, Error> {
        let (folder, at) = (to.to_owned(), self.now());
        blocking(move || must_be_empty(&folder)).await?;
        let mut reports = Vec::new();
        for topic in self.topics.values() {
            reports.push(backup(topic, to, at).await?);
        }
        Ok(reports)
    }
}

async fn backup(topic: &Arc<Shared>, to: &Path, at: Timestamp) -> Result<BackupReport, Error> {
    // Positions first: what they point at is then surely inside what is copied.
    let consumers: Vec<_> = topic.consumer_statuses().into_iter().map(|c| (c.name, c.next)).collect();
    let state = topic.refresh().await?;
    let (start, end) = (Offset(state.first_sequence.saturating_sub(1)), Offset(state.last_sequence));
    let mut report = BackupReport { topic: topic.options.name.clone(), start, end, bytes: 0, linked_bytes: 0 };
    let folder = to.join(&topic.options.name);
    let mut export = blocking(move || Export::create(&folder, start, at)).await?;
    let mut next = start;
    if start < end {
        let mut subscription = topic.subscribe(start).await?;
        while next < end {
            let mut records = subscription.next().await?;
            records.retain(|record| record.offset < end);
            report.bytes += records.iter().map(|record| record.payload.len() as u64).sum::<u64>();
            next = records.last().map_or(end, |last| Offset(last.offset.0 + 1));
            export = blocking(move || export.write(&records).map(|()| export)).await?;
        }
    }
    blocking(move || export.finish(&consumers, at)).await?;
    Ok(report)
}

/// Fills a server that has none of the topics. Offsets are what they were; the time of a record is that of its coming back, because the server
/// stamps it.
pub(crate) async fn restore(
    from: &Path,
    options: NatsOptions,
    topics: &[TopicOptions],
    max_payload: usize,
    clock: Arc<dyn Clock>,
) -> Result<Vec<BackupReport>, Error> {
    let folder = from.to_owned();
    let found = blocking(move || topic_folders(&folder)).await?;
    if let Some(stray) = found.iter().find(|name| !topics.iter().any(|topic| topic.name == **name)) {
        return Err(Error::UnknownTopic(stray.clone()));
    }
    let engine = Engine::open(options, topics, max_payload, clock).await?;
    let mut reports = Vec::new();
    let result = async {
        // Looked at before anything is written into any of them.
        for topic in engine.topics.values() {
            if topic.refresh().await?.last_sequence > 0 {
                return Err(Error::nats("restore", format!("the stream {} is not empty", topic.stream)));
            }
        }
        for name in found {
            let Some(topic) = engine.topics.get(&name) else { continue };
            reports.push(restore_topic(topic, &from.join(&name)).await?);
        }
        Ok(())
    }
    .await;
    engine.close().await;
    result.map(|()| reports)
}

async fn restore_topic(topic: &Arc<Shared>, from: &Path) -> Result<BackupReport, Error> {
    let folder = from.to_owned();
    let mut import = blocking(move || Import::open(&folder)).await?;
    let (start, end) = (import.start, import.end);
    let wrong = |detail: &dyn std::fmt::Display| Error::nats("restore", detail);
    if start.0 > 0 {
        // An empty stream that is purged up to a sequence number goes on from there.
        let stream = topic.context.get_stream(&topic.stream).await.map_err(|e| wrong(&e))?;
        stream.purge().sequence(start.0 + 1).await.map_err(|e| wrong(&e))?;
    }
    let mut report = BackupReport { topic: topic.options.name.clone(), start, end, bytes: 0, linked_bytes: 0 };
    let mut names = publisher::Names::new();
    let mut next = start.0;
    loop {
        let (back, records) = blocking(move || import.next().map(|records| (import, records))).await?;
        import = back;
        let Some(records) = records else { break };
        report.bytes += records.iter().map(|payload| payload.len() as u64).sum::<u64>();
        for outcome in publisher::publish(topic, &records, &mut names).await {
            let offset = outcome?;
            if offset.0 != next {
                return Err(wrong(&format!("record {next} became record {offset}; somebody else writes into it")));
            }
            next += 1;
        }
    }
    for (name, position) in &import.consumers {
        let stored = topic.stored(name).await?;
        topic.commit(&stored, *position).await?;
    }
    Ok(report)
}
