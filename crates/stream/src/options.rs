use std::{path::PathBuf, time::Duration};

use crate::{Error, local};

/// How a stream is opened.
#[derive(Debug, Clone)]
pub struct Options {
    pub engine: EngineOptions,
    pub topics: Vec<TopicOptions>,
    /// Largest payload in bytes; 4 MiB unless set, at most 64 MiB. On NATS the server's `max_payload` holds as well.
    pub max_payload: usize,
}

impl Options {
    pub const DEFAULT_MAX_PAYLOAD: usize = 4 << 20;

    /// Segment files under `dir`, every other setting at its default.
    pub fn local(dir: impl Into<PathBuf>, topics: impl IntoIterator<Item = TopicOptions>) -> Self {
        Self::new(EngineOptions::Local(LocalOptions::new(dir)), topics)
    }

    /// NATS JetStream, every other setting at its default.
    pub fn nats(url: impl Into<String>, topics: impl IntoIterator<Item = TopicOptions>) -> Self {
        Self::new(EngineOptions::Nats(NatsOptions::new(url)), topics)
    }

    fn new(engine: EngineOptions, topics: impl IntoIterator<Item = TopicOptions>) -> Self {
        Self { engine, topics: topics.into_iter().collect(), max_payload: Self::DEFAULT_MAX_PAYLOAD }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |option, why: &str| Err(Error::Option { option, why: why.to_owned() });
        if self.max_payload == 0 || self.max_payload > local::MAX_PAYLOAD {
            return wrong("max_payload", "it must be between 1 byte and 64 MiB");
        }
        for (at, topic) in self.topics.iter().enumerate() {
            check_name(&topic.name)?;
            if self.topics[..at].iter().any(|other| other.name == topic.name) {
                return wrong("topics", &format!("'{}' is declared twice", topic.name));
            }
            if topic.retain_bytes == Some(0) || topic.retain_age.is_some_and(|age| age < Duration::from_secs(1)) {
                return wrong("retention", "keep at least one byte and one second");
            }
        }
        match &self.engine {
            EngineOptions::Local(local) if local.segment_bytes < 1 << 10 => {
                wrong("segment_bytes", "a segment has at least 1 KiB")
            }
            EngineOptions::Local(LocalOptions { queue_bytes, .. })
            | EngineOptions::Nats(NatsOptions { queue_bytes, .. })
                if !(1 << 10..=1 << 30).contains(queue_bytes) =>
            {
                wrong("queue_bytes", "a queue has between 1 KiB and 1 GiB")
            }
            EngineOptions::Nats(nats) => check_name(&nats.prefix),
            EngineOptions::Local(_) => Ok(()),
        }
    }
}

/// Topics and consumers become folder names, file names and NATS subjects.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

#[derive(Debug, Clone)]
pub enum EngineOptions {
    Local(LocalOptions),
    Nats(NatsOptions),
}

/// Segment files on this machine.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Created when missing. One process at a time.
    pub dir: PathBuf,
    /// A segment is sealed before it would grow beyond this (a single larger batch may). 128 MiB.
    pub segment_bytes: u64,
    /// What may wait for the disk in each topic before `append` waits. Also the largest batch. 16 MiB.
    pub queue_bytes: usize,
    /// The newest batches of each topic kept in memory for subscribers that keep up. 16 MiB.
    pub ring_bytes: usize,
}

impl LocalOptions {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 128 << 20, queue_bytes: 16 << 20, ring_bytes: 16 << 20 }
    }
}

/// A NATS server or cluster with JetStream.
///
/// An acknowledgement means that JetStream has stored the record: on a cluster with `replicas` 3, in the memory or
/// page cache of a majority. The server itself flushes to disk every two minutes by default; whoever runs a single
/// server and wants what the local engine promises sets `sync_interval: always` in the server's `jetstream` block.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// `nats://host:4222`, or `tls://host:4222`; several servers separated by commas.
    pub url: String,
    /// Streams are called `<prefix>-<topic>`, so that two installations can share a cluster. `lamppost`.
    pub prefix: String,
    /// Copies of each record in the cluster, 1, 3 or 5. 1.
    pub replicas: usize,
    /// A `.creds` file, when the server asks for one.
    pub credentials: Option<PathBuf>,
    /// PEM certificates to trust for `tls://`; required for it.
    pub ca: Option<PathBuf>,
    /// What may wait in each topic before `append` waits. 16 MiB.
    pub queue_bytes: usize,
    /// How long an append is tried again while the server is away, before it fails. Also the server's window for
    /// recognising what was sent twice, at least two minutes. 30 s.
    pub retry_for: Duration,
}

impl NatsOptions {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "lamppost".to_owned(),
            replicas: 1,
            credentials: None,
            ca: None,
            queue_bytes: 16 << 20,
            retry_for: Duration::from_secs(30),
        }
    }
}

/// One ordered log of records.
#[derive(Debug, Clone)]
pub struct TopicOptions {
    /// 1 to 64 of `a-z`, `0-9`, `-`, `_`.
    pub name: String,
    /// Delete the oldest records when the topic is larger than this many bytes. `None` keeps everything.
    pub retain_bytes: Option<u64>,
    /// Delete records when they are older than this. `None` keeps everything.
    pub retain_age: Option<Duration>,
    /// Delete nothing until the owner has called [`crate::Topic::keep_from`] since the stream was opened. For topics
    /// whose records must first be somewhere else: a full disk then refuses new records instead of losing old ones.
    pub guarded: bool,
}

impl TopicOptions {
    /// Keeps everything.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), retain_bytes: None, retain_age: None, guarded: false }
    }

    pub fn retain_bytes(self, bytes: u64) -> Self {
        Self { retain_bytes: Some(bytes), ..self }
    }

    pub fn retain_age(self, age: Duration) -> Self {
        Self { retain_age: Some(age), ..self }
    }

    pub fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }
}
