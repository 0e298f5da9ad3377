//! The one thread that writes a topic: group commit, new segments, retention.
//!
//! A batch is everything that was queued while the batch before it was being flushed: one write, one fdatasync, then
//! all of it is acknowledged and shown to subscribers. Nothing is acknowledged or shown earlier.
//!
//! **When the disk is full** (or a write fails otherwise) the file is cut back to the last durable record and the batch
//! is refused. The next batch simply tries again, so the topic recovers by itself when there is space.
//!
//! **When fdatasync fails** the kernel may have dropped the dirty pages and marked them clean, so that a second
//! fdatasync would succeed without anything having been written. Therefore it is never retried: the batch is refused,
//! and before the next one the segment is cut back to its durable length through a new descriptor, flushed, read from
//! front to back, sealed, and never written to again; writing goes on in a new file. As long as any of that fails,
//! appends are refused.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kernel::{Clock, Timestamp};

use super::{
    format::{self, RECORD_HEADER},
    segment::Segment,
    topic::Shared,
};
use crate::{
    Error, Offset,
    queue::{Outcome, Take, Taken},
};

/// How often retention looks, beside whenever a segment is sealed.
const UPKEEP: Duration = Duration::from_secs(10);

/// An age limit deletes whole segments, so no segment may grow older than this part of it.
const SEGMENTS_PER_AGE: u64 = 8;

pub(crate) struct Writer {
    topic: Arc<Shared>,
    clock: Arc<dyn Clock>,
    file: File,
    active: Arc<Segment>,
    /// The next offset, and the durable length of the active file.
    end: u64,
    len: u64,
    state: State,
    /// Held for as long as this thread may write.
    _lock: Arc<File>,
    #[cfg(test)]
    pub(crate) faults: Arc<super::faults::Faults>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Healthy,
    /// The file may be longer than what is durable: cut it first.
    Untrimmed,
    /// The kernel's view of the file is not to be trusted: see the module's text.
    Poisoned,
}

impl Writer {
    pub(crate) fn new(
        topic: Arc<Shared>,
        clock: Arc<dyn Clock>,
        active: Arc<Segment>,
        file: File,
        lock: Arc<File>,
    ) -> Self {
        let summary = active.summary();
        Self {
            topic,
            clock,
            file,
            active,
            end: summary.end,
            len: summary.len,
            state: State::Healthy,
            _lock: lock,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    pub(crate) fn run(mut self) {
        // Also when this thread panics: nobody may wait for it for ever.
        struct Farewell(Arc<Shared>);
        impl Drop for Farewell {
            fn drop(&mut self) {
                self.0.queue.abandon();
                self.0.tail.send_modify(|tail| tail.closed = true);
            }
        }
        let farewell = Farewell(self.topic.clone());
        let mut spare = Vec::new();
        loop {
            match farewell.0.queue.take(&mut spare, UPKEEP) {
                Take::Batch(batch) => {
                    self.commit(&batch);
                    farewell.0.queue.release(batch, &mut spare);
                }
                Take::Idle(errands) => {
                    self.upkeep();
                    for done in errands {
                        // The asker may have left.
                        let _ = done.send(());
                    }
                }
                Take::Closed => break,
            }
        }
        // The lock goes before the farewell, so that whoever saw the end can open the folder again.
        drop(self);
        drop(farewell);
    }

    fn commit(&mut self, batch: &Taken) {
        let counters = &self.topic.clone().counters;
        let count = batch.records.len() as u64;
        let now = self.topic.writing.begin(&*self.clock);
        match self.store(&batch.records, now) {
            Ok(bytes) => {
                let (first, at) = (self.end, now.as_micros());
                self.end += count;
                self.len += bytes.len() as u64;
                self.active.extend(batch.records.iter().map(|payload| (at, (RECORD_HEADER + payload.len()) as u64)));
                counters.records.fetch_add(count, SeqCst);
                counters.bytes.fetch_add(bytes.len() as u64, SeqCst);
                self.topic.publish(first, self.end, bytes);
                self.topic.writing.end();
                batch.resolve(Outcome::From(Offset(first)));
            }
            Err(error) => {
                tracing::error!(topic = self.topic.options.name, records = count, "refused a batch: {error}");
                counters.refused.fetch_add(count, SeqCst);
                self.topic.writing.end();
                batch.resolve(Outcome::Refused(error));
            }
        }
    }

    /// Makes a batch durable behind the last record, or leaves the file as it was.
    fn store(&mut self, records: &[Bytes], now: Timestamp) -> Result<Bytes, Error> {
        self.heal()?;
        let size = records.iter().map(|payload| RECORD_HEADER + payload.len()).sum::<usize>();
        if self.len + size as u64 > self.topic.limits.segment_bytes || self.is_old(now) {
            self.roll(now)?;
        }
        let mut bytes = Vec::with_capacity(size);
        for (position, payload) in records.iter().enumerate() {
            format::put_record(&mut bytes, self.end + position as u64, now.as_micros(), position as u32, payload);
        }
        if let Err(e) = self.write(&bytes) {
            self.state = State::Untrimmed;
            if self.trim().is_ok() {
                self.state = State::Healthy;
            }
            return Err(Error::io(&self.active.path, e));
        }
        let flush = Instant::now();
        if let Err(e) = self.sync() {
            self.state = State::Poisoned;
            return Err(Error::io(&self.active.path, e));
        }
        let counters = &self.topic.counters;
        counters.flushes.fetch_add(1, SeqCst);
        counters.flush_micros.fetch_add(flush.elapsed().as_micros() as u64, SeqCst);
        Ok(bytes.into())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.faults.on_write(&self.file, bytes, self.len)?;
        self.file.write_all_at(bytes, self.len)
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.on_sync()?;
        self.file.sync_data()
    }

    fn trim(&mut self) -> Result<(), Error> {
        self.file.set_len(self.len).map_err(|e| Error::io(&self.active.path, e))
    }

    fn heal(&mut self) -> Result<(), Error> {
        match self.state {
            State::Healthy => return Ok(()),
            State::Untrimmed => self.trim()?,
            State::Poisoned => {
                let path = self.active.path.clone();
                let reopen = || -> io::Result<File> {
                    let file = OpenOptions::new().read(true).write(true).open(&path)?;
                    file.set_len(self.len)?;
                    file.sync_all()?;
                    Ok(file)
                };
                self.file = reopen().map_err(|e| Error::io(&path, e))?;
                self.sync().map_err(|e| Error::io(&path, e))?;
                self.active.verify()?;
                self.roll(self.clock.now())?;
                tracing::warn!(file = %path.display(), "sealed a segment after a failed flush; its acknowledged records were verified");
            }
        }
        self.state = State::Healthy;
        Ok(())
    }

    fn is_old(&self, now: Timestamp) -> bool {
        let Some(age) = self.topic.options.retain_age else { return false };
        let part = (age.as_micros() as u64 / SEGMENTS_PER_AGE) as i64;
        let summary = self.active.summary();
        summary.end > summary.base && now.micros_since(Timestamp::from_micros(summary.earliest)) > part
    }

    /// Seals the active segment and goes on in a new one. An empty one is made anew instead: it may be poisoned.
    fn roll(&mut self, now: Timestamp) -> Result<(), Error> {
        let empty = self.end == self.active.base;
        if empty && self.state == State::Healthy {
            return Ok(());
        }
        if !empty {
            self.active.seal()?;
        }
        let (segment, file) = Segment::create(&self.topic.dir, self.end, now)?;
        let segment = Arc::new(segment);
        {
            let mut segments = self.topic.segments.lock();
            if empty {
                segments.pop_back();
            } else {
                self.active.mark_sealed();
            }
            segments.push_back(segment.clone());
        }
        self.file = file;
        self.len = segment.summary().len;
        self.active = segment;
        self.retain(now);
        Ok(())
    }

    fn upkeep(&mut self) {
        let now = self.clock.now();
        if self.state == State::Healthy
            && self.is_old(now)
            && let Err(e) = self.roll(now)
        {
            tracing::warn!(topic = self.topic.options.name, "could not start a new segment: {e}");
        }
        self.retain(now);
    }

    /// Deletes the oldest sealed segments while the topic is too large or they are too old, but never a record at or
    /// after the owner's floor, and never under a running backup.
    fn retain(&self, now: Timestamp) {
        let options = &self.topic.options;
        if options.retain_bytes.is_none() && options.retain_age.is_none() {
            return;
        }
        loop {
            let (oldest, total) = {
                let segments = self.topic.segments.lock();
                let Some(oldest) = segments.front().filter(|oldest| oldest.is_sealed()).cloned() else { return };
                (oldest, segments.iter().map(|segment| segment.summary().len).sum::<u64>())
            };
            let summary = oldest.summary();
            let large = options.retain_bytes.is_some_and(|limit| total > limit);
            let old = options
                .retain_age
                .is_some_and(|age| now.micros_since(Timestamp::from_micros(summary.latest)) > age.as_micros() as i64);
            let free = summary.end <= self.topic.floor.load(SeqCst) && self.topic.pins.load(SeqCst) == 0;
            if !(large || old) || !free {
                return;
            }
            // One at a time and oldest first, so that a crash in between leaves no hole.
            if let Err(e) = oldest.delete() {
                tracing::warn!(topic = options.name, "could not delete an old segment: {e}");
                return;
            }
            self.topic.segments.lock().pop_front();
            self.topic.start.store(summary.end, SeqCst);
        }
    }
}
