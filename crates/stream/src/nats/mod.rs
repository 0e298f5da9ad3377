//! The engine for when one machine is outgrown: a JetStream stream for each topic.
//!
//! A record is a message, its offset is the stream's sequence number minus one. Every append carries a `Nats-Msg-Id`,
//! so one that is sent again after a lost acknowledgement is stored once. Consumers' positions lie in a stream of their
//! own that keeps the last message of each subject; a commit names the revision it replaces, so two processes cannot
//! take a position back.
//!
//! Retention is the server's, except on guarded topics: the server knows no floor, so there the stream has no limits
//! and the process that calls `keep_from` purges. One process per guarded topic should do so.

mod backup;
mod positions;
mod publisher;
mod subscription;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::{
    ConnectOptions,
    jetstream::{
        self,
        context::ContextBuilder,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use kernel::{Clock, Timestamp};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) use self::{backup::restore, positions::Stored, subscription::Subscription};
use crate::{Error, NatsOptions, Offset, TopicOptions, TopicStats, queue::Queue, settled::Writing};

/// Headers and protocol beside the payload, which the server's `max_payload` counts too.
const ENVELOPE: usize = 512;

/// How long one request may take before it is asked again.
const REQUEST: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Counters {
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub flushes: AtomicU64,
    pub flush_micros: AtomicU64,
    pub refused: AtomicU64,
}

pub(crate) struct Shared {
    pub options: TopicOptions,
    pub limits: NatsOptions,
    pub max_payload: usize,
    pub queue: Queue,
    pub context: jetstream::Context,
    pub stream: String,
    pub subject: String,
    clock: Arc<dyn Clock>,
    start: AtomicU64,
    end: AtomicU64,
    stored_bytes: AtomicU64,
    pub writing: Writing,
    floor: AtomicU64,
    counters: Counters,
    closed: watch::Sender<bool>,
    consumers: Mutex<HashMap<String, Arc<Stored>>>,
}

pub(crate) struct Engine {
    clock: Arc<dyn Clock>,
    topics: BTreeMap<String, Arc<Shared>>,
    publishers: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub(crate) async fn open(
        options: NatsOptions,
        topics: &[TopicOptions],
        max_payload: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let client = connect(&options).await?;
        let server_limit = client.server_info().max_payload.saturating_sub(ENVELOPE);
        let context = ContextBuilder::new()
            .timeout(REQUEST)
            // An acknowledgement nobody waits for any more gives its place back soon.
            .ack_timeout(Duration::from_secs(1))
            .max_ack_inflight(4 * publisher::WINDOW)
            .backpressure_on_inflight(true)
            .build(client);
        positions::declare(&context, &options).await?;
        let mut opened = BTreeMap::new();
        for topic in topics {
            let shared = Shared {
                queue: Queue::new(options.queue_bytes),
                max_payload: max_payload.min(server_limit),
                context: context.clone(),
                stream: format!("{}-{}", options.prefix, topic.name),
                subject: format!("{}.{}", options.prefix, topic.name),
                clock: clock.clone(),
                start: AtomicU64::new(0),
                end: AtomicU64::new(0),
                stored_bytes: AtomicU64::new(0),
                writing: Writing::default(),
                floor: AtomicU64::new(0),
                counters: Counters::default(),
                closed: watch::Sender::new(false),
                consumers: Mutex::default(),
                limits: options.clone(),
                options: topic.clone(),
            };
            shared.declare().await?;
            opened.insert(topic.name.clone(), Arc::new(shared));
        }
        let publishers = opened.values().map(|topic| tokio::spawn(publisher::run(topic.clone()))).collect();
        Ok(Self { clock, topics: opened, publishers: Mutex::new(publishers) })
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Shared>> {
        self.topics.get(name).cloned()
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.topics.values()
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        match self.topics.values().next() {
            Some(topic) => topic.refresh().await.map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn stop(&self) {
        for topic in self.topics.values() {
            topic.queue.close();
        }
    }

    pub(crate) async fn close(&self) {
        self.stop();
        let publishers = std::mem::take(&mut *self.publishers.lock());
        for publisher in publishers {
            if publisher.await.is_err() {
                tracing::error!("a stream publisher had panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn connect(options: &NatsOptions) -> Result<async_nats::Client, Error> {
    let mut connect = ConnectOptions::new()
        .name("lamppost")
        .request_timeout(Some(REQUEST))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempt| Duration::from_millis((50 << attempt.min(6)).min(2_000)));
    if let Some(path) = &options.credentials {
        connect = connect.credentials_file(path).await.map_err(|e| Error::io(path, e))?;
    }
    let servers: Vec<_> = options.url.split(',').map(str::trim).collect();
    if servers.iter().any(|url| url.starts_with("tls://")) {
        let ca = options
            .ca
            .as_deref()
            .ok_or_else(|| Error::Option { option: "ca", why: "tls:// needs the certificates to trust".to_owned() })?;
        connect = connect.require_tls(true).tls_client_config(tls(ca)?);
    }
    connect.connect(servers).await.map_err(|e| Error::nats("connect", e))
}

/// With the provider named, because more than one is linked into the program and then none is the default.
fn tls(ca: &Path) -> Result<rustls::ClientConfig, Error> {
    let wrong = |why: String| Error::Option { option: "ca", why };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Shared {
    async fn declare(&self) -> Result<(), Error> {
        let (bytes, age) = match self.options.guarded {
            true => (None, None),
            false => (self.options.retain_bytes, self.options.retain_age),
        };
        let config = Config {
            name: self.stream.clone(),
            subjects: vec![self.subject.clone()],
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_bytes: bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            max_age: age.unwrap_or_default(),
            num_replicas: self.limits.replicas,
            // The server asks that no message is remembered longer than it is kept.
            duplicate_window: (2 * self.limits.retry_for)
                .max(Duration::from_secs(120))
                .min(age.unwrap_or(Duration::MAX)),
            ..Config::default()
        };
        let info = self.context.create_or_update_stream(config).await;
        self.learn(&info.map_err(|e| Error::nats("declare a topic", e))?.state);
        Ok(())
    }

    fn learn(&self, state: &jetstream::stream::State) {
        self.saw_end(state.last_sequence);
        self.start.fetch_max(state.first_sequence.saturating_sub(1), SeqCst);
        self.stored_bytes.store(state.bytes, SeqCst);
    }

    fn saw_end(&self, end: u64) {
        self.end.fetch_max(end, SeqCst);
    }

    async fn refresh(&self) -> Result<jetstream::stream::State, Error> {
        let stream = self.context.get_stream(&self.stream).await.map_err(|e| Error::nats("look at a topic", e))?;
        let state = &stream.cached_info().state;
        self.learn(state);
        Ok(state.clone())
    }

    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.load(SeqCst))
    }

    pub(crate) fn start(&self) -> Offset {
        Offset(self.start.load(SeqCst))
    }

    pub(crate) fn keep_from(&self, floor: Offset) {
        self.floor.store(floor.0, SeqCst);
        self.queue.nudge();
    }

    /// Purges what a guarded topic may let go. See the module's text.
    async fn retain(&self) -> Result<(), Error> {
        let (bytes, age) = (self.options.retain_bytes, self.options.retain_age);
        if !self.options.guarded || (bytes.is_none() && age.is_none()) {
            return Ok(());
        }
        let purge = |e: &dyn std::fmt::Display| Error::nats("purge old records", e);
        let stream = self.context.get_stream(&self.stream).await.map_err(|e| purge(&e))?;
        loop {
            let state = self.refresh().await?;
            // Sequence numbers: the first one to be kept, by size (estimated from the average) and by age.
            let mut keep = state.first_sequence;
            if let Some(over) = bytes.and_then(|limit| state.bytes.checked_sub(limit)).filter(|over| *over > 0) {
                let average = (state.bytes / state.messages.max(1)).max(1);
                keep += (over / average).max(1);
            }
            if let Some(age) = age {
                let oldest = self.clock.now().plus_micros(-(age.as_micros() as i64)).as_micros();
                keep = keep.max(first_younger(&stream, &state, oldest).await?);
            }
            let keep = keep.min(self.floor.load(SeqCst) + 1).min(state.last_sequence + 1);
            if keep <= state.first_sequence {
                return Ok(());
            }
            stream.purge().sequence(keep).await.map_err(|e| purge(&e))?;
        }
    }

    pub(crate) fn stats(&self) -> TopicStats {
        let (queued, queued_bytes) = self.queue.depth();
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        TopicStats {
            topic: self.options.name.clone(),
            start: self.start(),
            end: self.end(),
            stored_bytes: count(&self.stored_bytes),
            segments: 0,
            appended: count(&self.counters.records),
            appended_bytes: count(&self.counters.bytes),
            refused: count(&self.counters.refused),
            flushes: count(&self.counters.flushes),
            flush_micros: count(&self.counters.flush_micros),
            queued,
            queued_bytes,
        }
    }
}

fn micros(time: async_nats::datetime::DateTime) -> i64 {
    (time.unix_timestamp_nanos() / 1_000) as i64
}

/// The first message at or after a time, by halving: some forty requests for any size of stream.
async fn first_younger(
    stream: &jetstream::stream::Stream,
    state: &jetstream::stream::State,
    time: i64,
) -> Result<u64, Error> {
    if state.messages == 0 || micros(state.first_timestamp) >= time {
        return Ok(state.first_sequence);
    }
    let (mut low, mut high) = (state.first_sequence + 1, state.last_sequence + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let message = stream.get_raw_message(middle).await.map_err(|e| Error::nats("look for old records", e))?;
        if micros(message.time) < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
