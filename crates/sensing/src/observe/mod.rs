//! An observation's way: door → validate → `stream` (durable, then acknowledged) → head → subscribers and rules → lake.
//!
//! [`Observe::record`] appends a [`Batch`] to the topic `observations` and returns once it is durable *and* applied, so that who wrote can
//! read what was written. One applier follows the topic in order and is the only writer of the generations and heads. A sealer moves
//! generations into the lake, with the offset inside the lake's own commit, so that a crash anywhere loses nothing and doubles nothing.

mod aggregate;
mod apply;
mod batch;
mod columns;
mod export;
mod frame;
mod gather;
mod head;
mod kept;
mod read;
mod recent;
mod seal;
mod tally;
#[cfg(test)]
mod tests;
pub mod thin;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use lake::{Lake, Table};
use parking_lot::Mutex;
use stream::{Offset, Topic};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::model::{EntityId, ObservationId};

pub use aggregate::{AggregateQuery, Bucket, Fill, Step};
pub use batch::{Batch, Extra, Run, Summed};
pub use export::ExportPage;
pub use frame::{Frame, FrameError, decode as decode_frame, encode as encode_frame};
pub use head::Head;
pub use read::{Order, SeriesQuery};
pub use tally::Tally;
pub(crate) use tally::{MOST as TALLIED, Owner};

use head::Heads;
use recent::Generation;

/// How the way is tuned. The defaults suit one machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the sealed heads are kept between starts.
    pub heads: PathBuf,
    /// Bytes of changes to the heads that a start may have to read, however few heads there are.
    pub heads_log: u64,
    /// The longest that an observation waits for the lake.
    pub seal_every: Duration,
    /// Unsealed rows that begin a seal at once.
    pub seal_rows: usize,
    /// Unsealed rows at which new observations are refused until the lake has caught up: the bound on memory.
    pub max_unsealed: usize,
    /// How long a batch waits at the door for room before it is refused.
    pub patience: Duration,
    /// Batches that a live subscriber may fall behind before it must look at the head again.
    pub live_buffer: usize,
    /// Whether this program may seal now. A seal waits while it may not; nothing else does.
    pub may_seal: Gate,
}

/// A question with a quick answer: is this program still the one that does it?
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> bool + Send + Sync>);

impl Gate {
    pub fn new(open: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }
    pub fn is_open(&self) -> bool {
        (self.0)()
    }
}
impl Default for Gate {
    fn default() -> Self {
        Self::new(|| true)
    }
}
impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() { "open" } else { "closed" })
    }
}

impl Options {
    pub fn new(heads: PathBuf) -> Self {
        Self {
            heads,
            heads_log: 1 << 20,
            seal_every: Duration::from_secs(30),
            seal_rows: 2_000_000,
            max_unsealed: 10_000_000,
            patience: Duration::from_secs(10),
            live_buffer: 1_024,
            may_seal: Gate::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(transparent)]
    Lake(#[from] lake::Error),
    #[error(transparent)]
    Arrow(#[from] lake::arrow::error::ArrowError),
    #[error("the heads could not be kept: {0}")]
    Heads(#[from] std::io::Error),
    #[error("one batch holds at most 100000 observations; this one has {0}")]
    TooMany(usize),
    #[error("too much waits to be stored; nothing was taken, try again")]
    Behind,
    #[error("the program is stopping; nothing was taken")]
    Stopping,
    #[error("{0}")]
    Query(String),
}

/// What was applied, in the order of the stream.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The record's offset on the topic `observations`.
    pub offset: u64,
    /// When the stream took it.
    pub at: kernel::Timestamp,
    pub frame: Frame,
}

impl Applied {
    /// The observations, when that is what it was.
    pub fn batch(&self) -> Option<&Batch> {
        match &self.frame {
            Frame::Observed(batch) => Some(batch),
            Frame::Removed(_) | Frame::Dropped(_) => None,
        }
    }
}

/// Where a batch stands on the stream: durable and applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    pub offset: u64,
}

/// Counters since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub observations: u64,
    pub batches: u64,
    pub refused: u64,
    pub unsealed_rows: u64,
    pub datastreams: u64,
    pub seals: u64,
    pub seal_failures: u64,
    pub applied: u64,
    pub sealed: u64,
}

/// The generations that readers look at.
struct Generations {
    open: Arc<Generation>,
    sealing: Option<Arc<Generation>>,
    /// The first offset of the open generation, and of the oldest that is still there.
    open_from: u64,
    from: u64,
}

impl Generations {
    fn rows(&self) -> usize {
        self.open.rows() + self.sealing.as_ref().map_or(0, |g| g.rows())
    }
    /// Newest first.
    fn each(&self) -> impl DoubleEndedIterator<Item = &Arc<Generation>> {
        std::iter::once(&self.open).chain(self.sealing.as_ref())
    }
}

/// What is not sealed yet; shared with the lake, which shows it as part of the table.
struct Unsealed {
    generations: ArcSwap<Generations>,
    /// The offset after the last applied record.
    next: AtomicU64,
}

struct Inner {
    options: Options,
    topic: Topic,
    table: Table,
    unsealed: Arc<Unsealed>,
    heads: Heads,
    applied: watch::Sender<u64>,
    sealed: watch::Sender<u64>,
    live: broadcast::Sender<Arc<Applied>>,
    turn: mpsc::Sender<oneshot::Sender<apply::Turned>>,
    gathered: mpsc::Sender<gather::Waiting>,
    seal_now: tokio::sync::Notify,
    holds: Mutex<BTreeMap<String, u64>>,
    counters: Counters,
    /// Rows that have been let in and are not applied yet.
    coming: AtomicUsize,
    compacting: tokio::sync::Mutex<()>,
    thinning: tokio::sync::Mutex<()>,
    /// Asks the sealer to keep all heads anew; it says when it has.
    keep_heads: AtomicBool,
    heads_kept: watch::Sender<u64>,
    stopping: CancellationToken,
    stopped: CancellationToken,
}

#[derive(Default)]
struct Counters {
    observations: AtomicU64,
    batches: AtomicU64,
    refused: AtomicU64,
    seals: AtomicU64,
    seal_failures: AtomicU64,
}

/// Rows on their way through the stream, as far as the bound on memory goes.
struct Room<'a> {
    coming: &'a AtomicUsize,
    rows: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.coming.fetch_sub(self.rows, Relaxed);
    }
}

impl Inner {
    /// `None` when what is unsealed and what is coming leave none. Into an empty house anything may come.
    fn room(&self, rows: usize) -> Option<Room<'_>> {
        let room = Room { coming: &self.coming, rows };
        let before = self.coming.fetch_add(rows, Relaxed) + self.unsealed.generations.load().rows();
        (before == 0 || before + rows <= self.options.max_unsealed).then_some(room)
    }
}

/// The handle to all observations. Cheap to clone.
#[derive(Clone)]
pub struct Observe(Arc<Inner>);

/// The table of observations, as [`Observe::open`] opens it, for whoever copies it.
pub async fn table(lake: &Lake) -> Result<Table, lake::Error> {
    lake.table(columns::spec(), None).await
}

impl Observe {
    /// Opens the table, reads the heads, replays what the lake does not have yet, and starts the applier and the sealer.
    ///
    /// Returns when everything on the stream at the time of the call is applied.
    pub async fn open(options: Options, topic: Topic, lake: &Lake) -> Result<Self, Error> {
        let unsealed = Arc::new(Unsealed::default());
        let tail: Arc<dyn lake::Tail> = unsealed.clone();
        let table = lake.table(columns::spec(), Some(tail)).await?;
        let (turn, turns) = mpsc::channel(1);
        let (gathered, waiting) = mpsc::channel(gather::QUEUE);
        let sealed_next = table.sealed_through().map_or(0, |through| through + 1);
        let start = topic.start().0.max(sealed_next);
        unsealed.begin(start);
        let inner = Arc::new(Inner {
            live: broadcast::channel(options.live_buffer).0,
            applied: watch::channel(start).0,
            sealed: watch::channel(sealed_next).0,
            options,
            topic,
            table,
            unsealed,
            heads: Heads::default(),
            turn,
            gathered,
            seal_now: tokio::sync::Notify::new(),
            holds: Mutex::default(),
            counters: Counters::default(),
            coming: AtomicUsize::new(0),
            compacting: tokio::sync::Mutex::default(),
            thinning: tokio::sync::Mutex::default(),
            keep_heads: AtomicBool::new(false),
            heads_kept: watch::channel(0).0,
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        let checkpoint = seal::load_heads(&inner).await?;
        let subscription = inner.topic.subscribe(Offset(start)).await?;
        tokio::spawn(apply::run(inner.clone(), subscription, turns));
        tokio::spawn(seal::run(inner.clone(), Arc::new(Mutex::new(checkpoint))));
        tokio::spawn(gather::run(Arc::downgrade(&inner), waiting));
        let observe = Self(inner);
        let end = observe.0.topic.end().0;
        observe.applied(end).await?;
        observe.refresh_stale().await?;
        Ok(observe)
    }

    /// Stores validated observations. On `Ok` they are durable and every read sees them; on `Err` nothing was taken, except that after
    /// [`Error::Stream`] the outcome may be unknown, and sending the same again is safe.
    pub async fn record(&self, batch: Batch) -> Result<Receipt, Error> {
        let rows = batch.len();
        if rows > Batch::MAX_ROWS {
            return Err(Error::TooMany(rows));
        }
        let outcome = self.append(&Frame::Observed(batch)).await;
        match &outcome {
            Ok(_) => {
                self.0.counters.observations.fetch_add(rows as u64, Relaxed);
                self.0.counters.batches.fetch_add(1, Relaxed);
            }
            Err(_) => {
                self.0.counters.refused.fetch_add(rows as u64, Relaxed);
            }
        }
        outcome
    }

    /// Removes observations; ids that do not exist are ignored.
    pub async fn remove(&self, ids: Vec<ObservationId>) -> Result<Receipt, Error> {
        if ids.len() > Batch::MAX_ROWS {
            return Err(Error::TooMany(ids.len()));
        }
        // An id that is not there must not count as one that went.
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            if self.get(&id).await?.is_some() {
                found.push(id);
            }
        }
        let receipt = self.append(&Frame::Removed(found.clone())).await?;
        for id in found {
            self.refresh(id.datastream).await?;
        }
        Ok(receipt)
    }

    /// Removes a Datastream's observations, all at once.
    pub async fn drop_datastream(&self, id: EntityId) -> Result<Receipt, Error> {
        self.append(&Frame::Dropped(id)).await
    }

    async fn append(&self, frame: &Frame) -> Result<Receipt, Error> {
        if self.0.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        let rows = match frame {
            Frame::Observed(batch) => batch.len(),
            Frame::Removed(ids) => ids.len(),
            Frame::Dropped(_) => 1,
        };
        let _room = self.room(rows).await?;
        let bytes = frame::encode(frame);
        let offset = self.0.topic.append(Bytes::from(bytes)).await?;
        self.applied(offset.0 + 1).await?;
        Ok(Receipt { offset: offset.0 })
    }

    /// Waits until everything before `next` is applied.
    pub(crate) async fn applied(&self, next: u64) -> Result<(), Error> {
        let mut applied = self.0.applied.subscribe();
        let reached = applied.wait_for(|n| *n >= next).await.map(|_| ());
        reached.map_err(|_| Error::Stopping)
    }

    /// Room in memory for so many rows, held until they are counted among the unsealed. Waits a while when there is none: pressure is felt at
    /// the door, not in memory.
    async fn room(&self, rows: usize) -> Result<Room<'_>, Error> {
        if let Some(room) = self.0.room(rows) {
            return Ok(room);
        }
        self.0.seal_now.notify_one();
        let mut sealed = self.0.sealed.subscribe();
        let wait = async {
            loop {
                if let Some(room) = self.0.room(rows) {
                    return Ok(room);
                }
                sealed.changed().await.map_err(|_| Error::Stopping)?;
            }
        };
        tokio::time::timeout(self.0.options.patience, wait).await.map_err(|_| Error::Behind)?
    }

    /// What is applied from now on. A subscriber that falls behind gets `Lagged` and looks at the heads again; one that must not miss
    /// anything uses [`Observe::replay`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.0.live.subscribe()
    }

    /// Everything on the stream from `offset` on, without gaps, in order, followed by what comes.
    pub async fn replay(&self, offset: u64) -> Result<Replay, Error> {
        let from = Offset(offset.max(self.0.topic.start().0));
        Ok(Replay { subscription: self.0.topic.subscribe(from).await?, ready: Default::default() })
    }

    /// The offset after the last record that is applied: where a new follower starts.
    pub fn next_offset(&self) -> u64 {
        *self.0.applied.borrow()
    }

    /// Everything that arrived before this moment lies before this offset, also while a disk stalls.
    pub fn settled(&self) -> stream::Settled {
        self.0.topic.settled()
    }

    /// The oldest record that the stream still has: from here on [`Observe::replay`] has no gap.
    pub fn first_offset(&self) -> u64 {
        self.0.topic.start().0
    }

    /// Keeps the stream from forgetting what `follower` has yet to read, from `offset` on.
    pub fn hold(&self, follower: &str, offset: u64) {
        self.0.holds.lock().insert(follower.to_owned(), offset);
    }
    /// The follower is gone for good.
    pub fn release(&self, follower: &str) {
        self.0.holds.lock().remove(follower);
    }

    /// Moves everything that is applied into the lake now, and returns when it is there.
    pub async fn seal(&self) -> Result<(), Error> {
        let target = self.next_offset();
        let mut sealed = self.0.sealed.subscribe();
        self.0.seal_now.notify_one();
        sealed.wait_for(|n| *n >= target).await.map(|_| ()).map_err(|_| Error::Stopping)
    }

    /// Whether it takes no more.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    pub fn table(&self) -> &Table {
        &self.0.table
    }

    pub fn stats(&self) -> Stats {
        let c = &self.0.counters;
        Stats {
            observations: c.observations.load(Relaxed),
            batches: c.batches.load(Relaxed),
            refused: c.refused.load(Relaxed),
            unsealed_rows: self.0.unsealed.generations.load().rows() as u64,
            datastreams: self.0.heads.len() as u64,
            seals: c.seals.load(Relaxed),
            seal_failures: c.seal_failures.load(Relaxed),
            applied: *self.0.applied.borrow(),
            sealed: *self.0.sealed.borrow(),
        }
    }

    /// Takes no more, seals what there is if the lake allows it, and stops both tasks. What could not be sealed is on the stream.
    pub async fn close(&self, patience: Duration) {
        self.0.stopping.cancel();
        if tokio::time::timeout(patience, self.seal()).await.is_err() {
            tracing::warn!("stopping before everything was sealed; the rest will be replayed at the next start");
        }
        self.0.stopped.cancel();
    }
}

/// Everything from an offset on; see [`Observe::replay`].
pub struct Replay {
    subscription: stream::Subscription,
    ready: std::collections::VecDeque<Applied>,
}

impl Replay {
    /// The next record, when it has been read already.
    pub fn ready(&mut self) -> Option<Applied> {
        self.ready.pop_front()
    }
    /// The next record; waits for one at the end. Records that are not frames are skipped with an error in the log: they can only come
    /// from a newer program, and stopping the city for one would be worse.
    pub async fn next(&mut self) -> Result<Applied, Error> {
        loop {
            if let Some(applied) = self.ready.pop_front() {
                return Ok(applied);
            }
            for record in self.subscription.next().await? {
                match frame::decode(&record.payload) {
                    Ok(frame) => self.ready.push_back(Applied { offset: record.offset.0, at: record.at, frame }),
                    Err(error) => tracing::error!(offset = record.offset.0, %error, "skipped a record"),
                }
            }
        }
    }
}
