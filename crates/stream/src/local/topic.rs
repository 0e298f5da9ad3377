//! What the writer of a topic and its readers share.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use kernel::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    consumer::Stored,
    format::{Head, RECORD_HEADER},
    segment::{Cursor, Segment},
};
use crate::{Error, LocalOptions, Offset, Record, TopicOptions, TopicStats, queue::Queue, settled::Writing};

/// What one `next()` hands out at most, unless a single record is larger.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_RECORDS: usize = 4096;

/// A durable batch as it lies in the file.
struct Committed {
    first: u64,
    end: u64,
    bytes: Bytes,
}

/// The newest durable batches, for readers that keep up.
#[derive(Default)]
struct Ring {
    batches: VecDeque<Committed>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub end: u64,
    pub closed: bool,
}

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
    pub limits: LocalOptions,
    pub max_payload: usize,
    pub dir: PathBuf,
    pub queue: Queue,
    /// Oldest first; the last one is the active one. Never empty.
    pub segments: Mutex<VecDeque<Arc<Segment>>>,
    ring: Mutex<Ring>,
    pub tail: watch::Sender<Tail>,
    pub start: AtomicU64,
    pub writing: Writing,
    /// Retention keeps records from here on.
    pub floor: AtomicU64,
    /// Running backups; retention waits for them.
    pub pins: AtomicUsize,
    pub counters: Counters,
    pub consumers: Mutex<HashMap<String, Arc<Stored>>>,
    /// Held while a consumer's file is made or removed.
    pub making: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        options: TopicOptions,
        limits: LocalOptions,
        max_payload: usize,
        dir: PathBuf,
        segments: VecDeque<Arc<Segment>>,
    ) -> Self {
        let start = segments.front().map_or(0, |segment| segment.base);
        let end = segments.back().map_or(0, |segment| segment.summary().end);
        // A guarded topic deletes nothing until its owner has said from where on it needs the records.
        let floor = if options.guarded { 0 } else { u64::MAX };
        Self {
            queue: Queue::new(limits.queue_bytes),
            options,
            limits,
            max_payload,
            dir,
            segments: Mutex::new(segments),
            ring: Mutex::default(),
            tail: watch::Sender::new(Tail { end, closed: false }),
            start: AtomicU64::new(start),
            writing: Writing::default(),
            floor: AtomicU64::new(floor),
            pins: AtomicUsize::new(0),
            counters: Counters::default(),
            consumers: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn end(&self) -> Offset {
        Offset(self.tail.borrow().end)
    }

    pub(crate) fn start(&self) -> Offset {
        Offset(self.start.load(SeqCst))
    }

    pub(crate) fn keep_from(&self, floor: Offset) {
        if self.options.guarded {
            self.floor.store(floor.0, SeqCst);
            self.queue.nudge();
        }
    }

    /// Shows a durable batch to the readers.
    pub(crate) fn publish(&self, first: u64, end: u64, bytes: Bytes) {
        {
            let mut ring = self.ring.lock();
            ring.bytes += bytes.len();
            ring.batches.push_back(Committed { first, end, bytes });
            while ring.bytes > self.limits.ring_bytes && ring.batches.len() > 1 {
                let oldest = ring.batches.pop_front().map_or(0, |batch| batch.bytes.len());
                ring.bytes -= oldest;
            }
        }
        self.tail.send_modify(|tail| tail.end = end);
    }

    /// What is still in memory from `from` on; `None` when it has left the ring. `hint` is where the last call stopped.
    fn recent(&self, from: u64, hint: &mut Hint) -> Option<Vec<Record>> {
        let (first, bytes) = {
            let ring = self.ring.lock();
            let at = ring.batches.partition_point(|batch| batch.end <= from);
            let batch = ring.batches.get(at).filter(|batch| batch.first <= from)?;
            (batch.first, batch.bytes.clone())
        };
        let mut at = if hint.batch == first && hint.next == from { hint.byte } else { 0 };
        let (mut records, mut taken, mut next) = (Vec::new(), 0, from);
        while at < bytes.len() && taken < BATCH_BYTES && records.len() < BATCH_RECORDS {
            let head = Head::parse(&bytes[at..]);
            let frame = head.frame();
            if head.offset >= from {
                records.push(Record {
                    offset: Offset(head.offset),
                    at: Timestamp::from_micros(head.at),
                    payload: bytes.slice(at + RECORD_HEADER..at + frame),
                });
                taken += frame;
                next = head.offset + 1;
            }
            at += frame;
        }
        *hint = Hint { batch: first, next, byte: at };
        Some(records)
    }

    fn segment_of(&self, offset: u64) -> Result<Arc<Segment>, Error> {
        let segments = self.segments.lock();
        let at = segments.partition_point(|segment| segment.base <= offset);
        at.checked_sub(1)
            .map(|at| segments[at].clone())
            .ok_or_else(|| Error::Gone { requested: Offset(offset), start: self.start() })
    }

    fn read(&self, cursor: Option<Cursor>, from: u64) -> Result<(Option<Cursor>, Vec<Record>), Error> {
        let mut cursor = match cursor {
            Some(cursor) if cursor.is_at(from) => cursor,
            _ => Cursor::open(self.segment_of(from)?, from)?,
        };
        let records = cursor.read(from)?;
        Ok((Some(cursor), records))
    }

    pub(crate) fn subscribe(self: &Arc<Self>, from: Offset) -> Result<Subscription, Error> {
        self.check(from)?;
        Ok(Subscription {
            tail: self.tail.subscribe(),
            topic: self.clone(),
            next: from.0,
            cursor: None,
            hint: Hint::default(),
        })
    }

    pub(crate) fn check(&self, from: Offset) -> Result<(), Error> {
        let (start, end) = (self.start(), self.end());
        if from < start {
            return Err(Error::Gone { requested: from, start });
        }
        if from > end {
            return Err(Error::Ahead { requested: from, end });
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> TopicStats {
        let (queued, queued_bytes) = self.queue.depth();
        let (segments, stored_bytes) = {
            let segments = self.segments.lock();
            (segments.len(), segments.iter().map(|segment| segment.summary().len).sum())
        };
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        TopicStats {
            topic: self.options.name.clone(),
            start: self.start(),
            end: self.end(),
            stored_bytes,
            segments,
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

/// Where in a batch of the ring a reader stopped, so that a long batch is not walked from its start each time.
#[derive(Default)]
struct Hint {
    batch: u64,
    next: u64,
    byte: usize,
}

pub(crate) struct Subscription {
    topic: Arc<Shared>,
    tail: watch::Receiver<Tail>,
    next: u64,
    cursor: Option<Cursor>,
    hint: Hint,
}

impl Subscription {
    pub(crate) fn position(&self) -> Offset {
        Offset(self.next)
    }

    pub(crate) fn seek(&mut self, to: Offset) -> Result<(), Error> {
        self.topic.check(to)?;
        self.next = to.0;
        self.cursor = None;
        Ok(())
    }

    /// Cancel-safe: the position moves only when records are handed out.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> {
        loop {
            let next = self.next;
            let tail = *self.tail.wait_for(|tail| tail.end > next || tail.closed).await.map_err(|_| Error::Closed)?;
            if tail.end <= next {
                return Err(Error::Closed);
            }
            let records = match self.topic.recent(next, &mut self.hint) {
                Some(records) => records,
                None => self.read_from_disk().await?,
            };
            if let Some(last) = records.last() {
                debug_assert_eq!(records[0].offset.0, next, "records are handed out without holes");
                self.next = last.offset.0 + 1;
                return Ok(records);
            }
        }
    }

    async fn read_from_disk(&mut self) -> Result<Vec<Record>, Error> {
        let start = self.topic.start();
        if self.next < start.0 && self.cursor.as_ref().is_none_or(|cursor| !cursor.is_at(self.next)) {
            return Err(Error::Gone { requested: self.position(), start });
        }
        let (topic, cursor, next) = (self.topic.clone(), self.cursor.take(), self.next);
        let read = tokio::task::spawn_blocking(move || topic.read(cursor, next));
        let (cursor, records) = read.await.map_err(|_| Error::Closed)??;
        self.cursor = cursor;
        Ok(records)
    }
}
