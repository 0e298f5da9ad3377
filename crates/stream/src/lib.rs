//! Everything that happens: ordered, append-only, durable before it is acknowledged.
//!
//! A [`Stream`] has topics. A [`Topic`] takes payloads and gives each an [`Offset`], dense from 0. Readers subscribe
//! from any offset and get history and then live records, without holes or duplicates, in order. There are two engines
//! behind one interface: segment files on this machine, and NATS JetStream when one machine is outgrown.
//!
//! Invariants, on both engines:
//! - an acknowledged record is durable (for NATS see [`NatsOptions`]), and a subscriber never sees one that is not;
//! - when `a` was acknowledged before the append of `b` began, `a` comes before `b`. Appends that one task makes one
//!   after the other keep that order even before they are acknowledged (on NATS, unless the connection breaks between
//!   them);
//! - a slow reader costs nobody anything: writers never wait for readers;
//! - retention removes whole old parts, oldest first, never at or after the owner's floor;
//! - everything is bounded: payload, queue, memory for readers.
//!
//! Deliberately absent: keys, compaction by key, transactions over topics, consumer groups that share the work.
//!
//! ```no_run
//! # async fn example() -> Result<(), stream::Error> {
//! use std::sync::Arc;
//! use stream::{Options, Stream, TopicOptions};
//!
//! let options = Options::local("data/stream", [TopicOptions::new("observations").guarded()]);
//! let stream = Stream::open(options, Arc::new(kernel::SystemClock)).await?;
//! let topic = stream.topic("observations")?;
//! let offset = topic.append("23.5".into()).await?;
//! let mut consumer = topic.consumer("lake").await?;
//! let records = consumer.next().await?;
//! if let Some(last) = records.last() {
//!     consumer.commit(last.offset).await?;
//!     topic.keep_from(last.offset.next());
//! }
//! # assert_eq!(offset.0, 0);
//! # stream.close().await;
//! # Ok(()) }
//! ```

mod consumer;
mod error;
mod local;
mod nats;
mod options;
mod queue;
mod record;
mod settled;
mod stats;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use kernel::{Clock, Timestamp};

pub use consumer::{Committer, Consumer};
pub use error::Error;
pub use options::{EngineOptions, LocalOptions, NatsOptions, Options, TopicOptions};
pub use queue::Pending;
pub use record::{Offset, Record};
pub use settled::Settled;
pub use stats::{BackupReport, ConsumerStatus, TopicStats};

/// Handle to an open stream. Cheap to clone; the last one dropped stops the writers (queued appends are still written,
/// but only [`Stream::close`] waits for that).
#[derive(Clone)]
pub struct Stream {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Local(Arc<local::Engine>),
    Nats(Arc<nats::Engine>),
}

/// Handle to one topic. Cheap to clone; keeps the stream open.
#[derive(Clone)]
pub struct Topic {
    /// Keeps the stream open.
    engine: Engine,
    kind: Kind,
    max_payload: usize,
}

#[derive(Clone)]
enum Kind {
    Local(Arc<local::Shared>),
    Nats(Arc<nats::Shared>),
}

impl Stream {
    /// Opens the folder or connects to the server, and creates declared topics that do not exist yet. Local: recovers
    /// from a crash by reading the newest segment of each topic, not more.
    ///
    /// The clock stamps records and decides what is too old (on NATS the server's clock does).
    pub async fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        options.check()?;
        let engine = match options.engine {
            EngineOptions::Local(local) => {
                let open = move || local::Engine::open(&local, &options.topics, options.max_payload, &clock);
                let engine = tokio::task::spawn_blocking(open).await.map_err(|_| Error::Closed)??;
                Engine::Local(Arc::new(engine))
            }
            EngineOptions::Nats(nats) => {
                Engine::Nats(Arc::new(nats::Engine::open(nats, &options.topics, options.max_payload, clock).await?))
            }
        };
        Ok(Self { engine })
    }

    /// A declared topic.
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        let unknown = || Error::UnknownTopic(name.to_owned());
        let (kind, max_payload) = match &self.engine {
            Engine::Local(engine) => {
                let topic = engine.topic(name).ok_or_else(unknown)?;
                (Kind::Local(topic.clone()), topic.max_payload)
            }
            Engine::Nats(engine) => {
                let topic = engine.topic(name).ok_or_else(unknown)?;
                (Kind::Nats(topic.clone()), topic.max_payload)
            }
        };
        Ok(Topic { engine: self.engine.clone(), kind, max_payload })
    }

    /// Writes what is queued and stops. Later appends, and readers at the end, get [`Error::Closed`]. Local: the folder
    /// can be opened again when this returns.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Local(engine) => {
                let engine = engine.clone();
                // Fails only when a writer panicked, which it has logged itself.
                let _ = tokio::task::spawn_blocking(move || engine.close()).await;
            }
            Engine::Nats(engine) => engine.close().await,
        }
    }

    /// Whether the folder is there, or the server answers: one small question.
    pub async fn ping(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Local(engine) => {
                let engine = engine.clone();
                tokio::task::spawn_blocking(move || engine.ping()).await.map_err(|_| Error::Closed)?
            }
            Engine::Nats(engine) => engine.ping().await,
        }
    }

    /// Figures of every topic.
    pub fn stats(&self) -> Vec<TopicStats> {
        match &self.engine {
            Engine::Local(engine) => engine.topics().map(|topic| topic.stats()).collect(),
            Engine::Nats(engine) => engine.topics().map(|topic| topic.stats()).collect(),
        }
    }

    /// Copies a durable prefix of each topic, with its consumers, into an empty folder, while everything goes on. The
    /// copy is itself a folder that can be opened, or brought back with [`restore`]. Topics are copied one after the
    /// other, so a later one may hold records made after the earlier one's copy.
    ///
    /// NATS: the same folder, so that it can be brought back into either engine.
    pub async fn backup(&self, to: &Path) -> Result<Vec<BackupReport>, Error> {
        match &self.engine {
            Engine::Local(engine) => {
                let (engine, to) = (engine.clone(), to.to_owned());
                tokio::task::spawn_blocking(move || engine.backup(&to)).await.map_err(|_| Error::Closed)?
            }
            Engine::Nats(engine) => engine.backup(to).await,
        }
    }
}

/// Brings a backup back into an empty folder. Blocking.
pub fn restore(from: &Path, to: &Path) -> Result<(), Error> {
    local::restore(from, to)
}

/// Brings a backup of either engine into the engine of `options`: an empty folder, or a server that holds nothing of these topics.
///
/// NATS: a record keeps its offset; its time is that of its coming back, because the server stamps it.
pub async fn restore_into(from: &Path, options: Options, clock: Arc<dyn Clock>) -> Result<(), Error> {
    options.check()?;
    match options.engine {
        EngineOptions::Local(local) => {
            let (from, to) = (from.to_owned(), local.dir);
            tokio::task::spawn_blocking(move || restore(&from, &to)).await.map_err(|_| Error::Closed)?
        }
        EngineOptions::Nats(nats) => {
            nats::restore(from, nats, &options.topics, options.max_payload, clock).await.map(drop)
        }
    }
}

/// Reads every record of every topic in a folder that no stream has open and checks it. Like opening, it cuts a torn
/// tail off. Blocking; takes as long as the disk needs to read everything.
pub fn verify(dir: &Path) -> Result<Vec<BackupReport>, Error> {
    local::verify(dir)
}

impl Topic {
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Local(topic) => &topic.options.name,
            Kind::Nats(topic) => &topic.options.name,
        }
    }

    /// Appends one record; resolves when it is durable. Waits while the queue is full.
    ///
    /// Dropping the future before it resolves may or may not append the record.
    pub async fn append(&self, payload: Bytes) -> Result<Offset, Error> {
        self.enqueue(payload).await?.durable().await
    }

    /// Puts a record into the queue, waiting for room, and returns before it is durable: for a task that keeps several
    /// appends going.
    pub async fn enqueue(&self, payload: Bytes) -> Result<Pending, Error> {
        self.check(&payload)?;
        match &self.kind {
            Kind::Local(topic) => topic.queue.push(payload).await,
            Kind::Nats(topic) => topic.queue.push(payload).await,
        }
    }

    /// Puts a record into the queue at once, or refuses with [`Error::Busy`].
    pub fn append_nowait(&self, payload: Bytes) -> Result<Pending, Error> {
        self.check(&payload)?;
        match &self.kind {
            Kind::Local(topic) => topic.queue.try_push(payload, self.name()),
            Kind::Nats(topic) => topic.queue.try_push(payload, self.name()),
        }
    }

    fn check(&self, payload: &Bytes) -> Result<(), Error> {
        if payload.len() > self.max_payload {
            return Err(Error::TooLarge { len: payload.len(), max: self.max_payload });
        }
        Ok(())
    }

    /// The offset that the next record will get. NATS: as far as this process knows, at most about a second old when
    /// other processes write; never behind what this process has appended or read.
    pub fn end(&self) -> Offset {
        match &self.kind {
            Kind::Local(topic) => topic.end(),
            Kind::Nats(topic) => topic.end(),
        }
    }

    /// Up to when this process has seen everything: a record stamped before `at` has an offset before `end`, also while a disk stalls. Whoever
    /// says that something has *not* come says it of this moment, not of now.
    ///
    /// NATS: for what this process appends, and as far as the server's clock is not behind this machine's.
    pub fn settled(&self) -> Settled {
        let now = self.now();
        match &self.kind {
            Kind::Local(topic) => topic.writing.settled(now, || topic.end()),
            Kind::Nats(topic) => topic.writing.settled(now, || topic.end()),
        }
    }

    /// The oldest record that is kept; equal to `end` when there is none.
    pub fn start(&self) -> Offset {
        match &self.kind {
            Kind::Local(topic) => topic.start(),
            Kind::Nats(topic) => topic.start(),
        }
    }

    /// Reads from `from` on. [`Error::Gone`] when retention has removed it, [`Error::Ahead`] when it lies beyond the
    /// end; `from == end()` means live only.
    pub async fn subscribe(&self, from: Offset) -> Result<Subscription, Error> {
        Ok(Subscription {
            kind: match &self.kind {
                Kind::Local(topic) => Reader::Local(topic.subscribe(from)?),
                Kind::Nats(topic) => Reader::Nats(Box::new(topic.subscribe(from).await?)),
            },
        })
    }

    /// The consumer of that name, at its stored position; a new one begins at the oldest record.
    ///
    /// A consumer is a position, not a share of the work: two that are open under one name both read everything, and
    /// the one further on decides where a restart begins.
    pub async fn consumer(&self, name: &str) -> Result<Consumer, Error> {
        options::check_name(name)?;
        let stored = self.stored(name).await?;
        let next = stored.next();
        let subscription = match self.subscribe(next).await {
            Err(Error::Gone { .. }) => Err(next),
            subscription => Ok(subscription?),
        };
        Ok(Consumer::new(self.clone(), subscription, stored))
    }

    async fn stored(&self, name: &str) -> Result<consumer::Stored, Error> {
        Ok(match &self.kind {
            Kind::Local(topic) => consumer::Stored::Local(topic.stored(name, self.now()).await?),
            Kind::Nats(topic) => consumer::Stored::Nats(topic.clone(), topic.stored(name).await?),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        match &self.engine {
            Engine::Local(engine) => engine.now(),
            Engine::Nats(engine) => engine.now(),
        }
    }

    /// Every stored consumer with its lag, by name. NATS: those that this process has opened.
    pub fn consumers(&self) -> Vec<ConsumerStatus> {
        match &self.kind {
            Kind::Local(topic) => topic.consumer_statuses(),
            Kind::Nats(topic) => topic.consumer_statuses(),
        }
    }

    /// Forgets a consumer's position; nobody should be reading with it. Not an error when there is none.
    pub async fn remove_consumer(&self, name: &str) -> Result<(), Error> {
        options::check_name(name)?;
        match &self.kind {
            Kind::Local(topic) => topic.forget(name).await,
            Kind::Nats(topic) => topic.forget(name).await,
        }
    }

    /// Sets the floor of a [`TopicOptions::guarded`] topic: retention removes nothing at or after `floor`. The owner
    /// calls this as its records become safe elsewhere, and after every open: it is not stored. Other topics have no
    /// floor and ignore it.
    pub fn keep_from(&self, floor: Offset) {
        match &self.kind {
            Kind::Local(topic) => topic.keep_from(floor),
            Kind::Nats(topic) => topic.keep_from(floor),
        }
    }

    /// Applies retention now instead of within seconds, and waits for it.
    pub async fn retain(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Local(topic) => topic.queue.errand().await,
            Kind::Nats(topic) => topic.queue.errand().await,
        }
    }

    pub fn stats(&self) -> TopicStats {
        match &self.kind {
            Kind::Local(topic) => topic.stats(),
            Kind::Nats(topic) => topic.stats(),
        }
    }
}

/// A reader of one topic.
pub struct Subscription {
    kind: Reader,
}

enum Reader {
    Local(local::Subscription),
    Nats(Box<nats::Subscription>),
}

impl Subscription {
    /// The next records in order, at least one; waits at the end of the stream. A batch has at most about 1 MiB or 4,096
    /// records, or one larger record. Cancel-safe.
    ///
    /// After an error the position is unchanged. [`Error::Gone`]: the reader was slower than retention;
    /// [`Error::Corrupt`]: everything before the damage has been handed out.
    pub async fn next(&mut self) -> Result<Vec<Record>, Error> {
        match &mut self.kind {
            Reader::Local(reader) => reader.next().await,
            Reader::Nats(reader) => reader.next().await,
        }
    }

    /// The offset of the record that `next` will begin with.
    pub fn position(&self) -> Offset {
        match &self.kind {
            Reader::Local(reader) => reader.position(),
            Reader::Nats(reader) => reader.position(),
        }
    }

    /// Goes on at another record.
    pub async fn seek(&mut self, to: Offset) -> Result<(), Error> {
        match &mut self.kind {
            Reader::Local(reader) => reader.seek(to),
            Reader::Nats(reader) => reader.seek(to).await,
        }
    }
}
