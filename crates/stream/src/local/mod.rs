//! The engine for one machine: a folder of segment files for each topic.
//!
//! ```text
//! <dir>/LOCK                            held by the one process that has the folder open
//! <dir>/<topic>/<20 digits>.log         records; the newest file is appended to
//! <dir>/<topic>/<20 digits>.idx         beside each sealed segment
//! <dir>/<topic>/consumers/<name>.pos    stored positions
//! ```

mod backup;
mod consumer;
#[cfg(test)]
mod faults;
mod files;
mod format;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod topic;
mod transfer;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use kernel::{Clock, Timestamp};
use parking_lot::Mutex;

pub(crate) use self::{
    backup::{must_be_empty, restore, topic_folders, verify},
    consumer::Stored,
    topic::{Shared, Subscription},
    transfer::{Export, Import},
};
use self::{segment::Segment, writer::Writer};
use crate::{BackupReport, Error, LocalOptions, TopicOptions};

pub(crate) const MAX_PAYLOAD: usize = format::MAX_PAYLOAD;
const LOCK: &str = "LOCK";

pub(crate) struct Engine {
    topics: BTreeMap<String, Arc<Shared>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Arc<File>>>,
    clock: Arc<dyn Clock>,
}

impl Engine {
    pub(crate) fn open(
        options: &LocalOptions,
        topics: &[TopicOptions],
        max_payload: usize,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        files::create_dir(&options.dir)?;
        let lock = Arc::new(lock(&options.dir)?);
        // Every topic is opened before any thread starts, so that a failure leaves nothing running.
        let mut opened = Vec::new();
        for topic in topics {
            opened.push(open_topic(&options.dir, topic, options, max_payload, clock, &lock)?);
        }
        let engine = Self {
            topics: opened.iter().map(|(shared, _)| (shared.options.name.clone(), shared.clone())).collect(),
            writers: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            clock: clock.clone(),
        };
        for (shared, writer) in opened {
            let thread = thread::Builder::new().name(format!("stream-{}", shared.options.name));
            let handle = thread.spawn(move || writer.run()).map_err(|e| Error::io(&options.dir, e))?;
            engine.writers.lock().push(handle);
        }
        Ok(engine)
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Shared>> {
        self.topics.get(name).cloned()
    }

    pub(crate) fn ping(&self) -> Result<(), Error> {
        for topic in self.topics.values() {
            std::fs::metadata(&topic.dir).map_err(|e| Error::io(&topic.dir, e))?;
        }
        Ok(())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.topics.values()
    }

    pub(crate) fn backup(&self, to: &Path) -> Result<Vec<BackupReport>, Error> {
        let topics: Vec<_> = self.topics.values().cloned().collect();
        backup::backup(&topics, to, self.now())
    }

    fn stop(&self) {
        for topic in self.topics.values() {
            topic.queue.close();
        }
    }

    /// Writes what is queued, then lets the folder go. Blocks.
    pub(crate) fn close(&self) {
        self.stop();
        let writers = std::mem::take(&mut *self.writers.lock());
        for writer in writers {
            if writer.join().is_err() {
                tracing::error!("a stream writer had panicked");
            }
        }
        drop(self.lock.lock().take());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

fn open_topic(
    root: &Path,
    options: &TopicOptions,
    limits: &LocalOptions,
    max_payload: usize,
    clock: &Arc<dyn Clock>,
    lock: &Arc<File>,
) -> Result<(Arc<Shared>, Writer), Error> {
    let dir: PathBuf = root.join(&options.name);
    files::create_dir(&dir)?;
    files::remove_temporaries(&dir)?;
    let (file, segments) = open_segments(&dir, Some(clock.now()))?;
    let (Some(active), Some(file)) = (segments.back().cloned(), file) else {
        return Err(Error::corrupt(&dir, 0, "no segment could be opened"));
    };
    let shared = Shared::new(options.clone(), limits.clone(), max_payload, dir.clone(), segments);
    shared.consumers.lock().extend(consumer::load(&dir)?);
    let shared = Arc::new(shared);
    let writer = Writer::new(shared.clone(), clock.clone(), active, file, lock.clone());
    Ok((shared, writer))
}

/// The segments of a folder without holes between them, and the newest one's file. `make` makes the first one when
/// there is none.
fn open_segments(dir: &Path, make: Option<Timestamp>) -> Result<(Option<File>, VecDeque<Arc<Segment>>), Error> {
    let bases = segment::list(dir)?;
    let mut segments = VecDeque::with_capacity(bases.len() + 1);
    let mut newest = None;
    let mut end = None;
    for (at, &base) in bases.iter().enumerate() {
        let segment = if at + 1 == bases.len() {
            let (segment, file) = Segment::recover(dir, base)?;
            newest = Some(file);
            segment
        } else {
            Segment::open_sealed(dir, base)?
        };
        if let Some(end) = end.filter(|&end| end != base) {
            let what = format!("records {end} to {base} are missing: a segment before this one is lost or cut short");
            return Err(Error::corrupt(&segment.path, 0, what));
        }
        end = Some(segment.summary().end);
        segments.push_back(Arc::new(segment));
    }
    if let (None, Some(made)) = (&newest, make) {
        let (segment, file) = Segment::create(dir, 0, made)?;
        newest = Some(file);
        segments.push_back(Arc::new(segment));
    }
    Ok((newest, segments))
}
