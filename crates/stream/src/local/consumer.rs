//! A consumer's stored position: one small file with two slots, written in turn, so that a torn write leaves the other.
//!
//! ```text
//! consumers/<name>.pos   64 bytes, two slots
//!   0   8  number of the commit; the slot with the higher one counts
//!   8   8  next offset to be read
//!  16   8  when it was committed, µs since 1970
//!  24   4  zero
//!  28   4  crc32 of bytes 0..28
//! ```

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use kernel::Timestamp;
use tokio::sync::Mutex;

use super::{files, topic::Shared};
use crate::{ConsumerStatus, Error, Offset};

const SLOT: usize = 32;

pub(crate) struct Stored {
    path: PathBuf,
    next: Arc<AtomicU64>,
    /// Held over the flush on purpose: commits of one consumer come one after the other, and nobody else takes it.
    commit: Arc<Mutex<Commit>>,
}

struct Commit {
    file: Arc<File>,
    number: u64,
}

fn slot(number: u64, next: u64, at: Timestamp) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[0..8].copy_from_slice(&number.to_le_bytes());
    slot[8..16].copy_from_slice(&next.to_le_bytes());
    slot[16..24].copy_from_slice(&at.as_micros().to_le_bytes());
    let crc = crc32fast::hash(&slot[..28]);
    slot[28..32].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// Number and next offset of the newer intact slot.
fn parse(bytes: &[u8]) -> Option<(u64, u64)> {
    let field = |slot: &[u8], at: usize| slot[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    bytes
        .chunks_exact(SLOT)
        .take(2)
        .filter(|slot| crc32fast::hash(&slot[..28]).to_le_bytes() == slot[28..32])
        .map(|slot| (field(slot, 0), field(slot, 8)))
        .max()
}

fn dir(topic: &Path) -> PathBuf {
    topic.join("consumers")
}

/// Every stored consumer of a topic, by name.
pub(crate) fn load(topic: &Path) -> Result<Vec<(String, Arc<Stored>)>, Error> {
    let dir = dir(topic);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    files::remove_temporaries(&dir)?;
    let mut consumers = Vec::new();
    for file in files::names(&dir)? {
        if let Some(name) = file.strip_suffix(".pos") {
            consumers.push((name.to_owned(), Arc::new(Stored::open(dir.join(&file))?)));
        }
    }
    Ok(consumers)
}

/// Writes a position into the folder of a topic that is not open (a backup).
pub(crate) fn write(topic: &Path, name: &str, next: Offset, at: Timestamp) -> Result<(), Error> {
    let dir = dir(topic);
    files::create_dir(&dir)?;
    let mut bytes = [0; 2 * SLOT];
    bytes[..SLOT].copy_from_slice(&slot(1, next.0, at));
    files::write_whole(&dir.join(format!("{name}.pos")), &bytes)
}

impl Stored {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let mut bytes = [0; 2 * SLOT];
        let len = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        if len != bytes.len() as u64 {
            return Err(Error::corrupt(&path, len, "a consumer's file has 64 bytes"));
        }
        file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io(&path, e))?;
        let (number, next) = parse(&bytes).ok_or_else(|| Error::corrupt(&path, 0, "neither slot is intact"))?;
        let commit = Arc::new(Mutex::new(Commit { file: Arc::new(file), number }));
        Ok(Self { path, next: Arc::new(AtomicU64::new(next)), commit })
    }

    pub(crate) fn next(&self) -> Offset {
        Offset(self.next.load(SeqCst))
    }

    /// Durable when it returns. Going back is ignored: somebody has already read further.
    pub(crate) async fn commit(&self, next: Offset, at: Timestamp) -> Result<(), Error> {
        let mut commit = self.commit.clone().lock_owned().await;
        if next <= self.next() {
            return Ok(());
        }
        let number = commit.number + 1;
        let (file, path, stored) = (commit.file.clone(), self.path.clone(), self.next.clone());
        // The guard travels with the write: a caller that gives up must not let the next commit into the same slot.
        let written = tokio::task::spawn_blocking(move || {
            let result = file
                .write_all_at(&slot(number, next.0, at), (number % 2) * SLOT as u64)
                .and_then(|()| file.sync_data())
                .map_err(|e| Error::io(&path, e));
            if result.is_ok() {
                commit.number = number;
                stored.store(next.0, SeqCst);
            }
            result
        });
        written.await.map_err(|_| Error::Closed)?
    }
}

impl Shared {
    /// The stored position of a consumer; a new one begins at the oldest record.
    pub(crate) async fn stored(self: &Arc<Self>, name: &str, at: Timestamp) -> Result<Arc<Stored>, Error> {
        if let Some(stored) = self.consumers.lock().get(name) {
            return Ok(stored.clone());
        }
        // Two callers with the same new name must end with the same file. Rare, so it may be held over the making.
        let _making = self.making.lock().await;
        if let Some(stored) = self.consumers.lock().get(name) {
            return Ok(stored.clone());
        }
        let (topic, owned) = (self.clone(), name.to_owned());
        let create = move || -> Result<Stored, Error> {
            let path = dir(&topic.dir).join(format!("{owned}.pos"));
            if !path.exists() {
                write(&topic.dir, &owned, topic.start(), at)?;
            }
            Stored::open(path)
        };
        let stored = Arc::new(tokio::task::spawn_blocking(create).await.map_err(|_| Error::Closed)??);
        self.consumers.lock().insert(name.to_owned(), stored.clone());
        Ok(stored)
    }

    pub(crate) async fn forget(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let _making = self.making.lock().await;
        let Some(stored) = self.consumers.lock().remove(name) else { return Ok(()) };
        let path = stored.path.clone();
        let remove = move || fs::remove_file(&path).map_err(|e| Error::io(&path, e));
        tokio::task::spawn_blocking(remove).await.map_err(|_| Error::Closed)?
    }

    pub(crate) fn consumer_statuses(&self) -> Vec<ConsumerStatus> {
        let end = self.end().0;
        let mut all: Vec<_> = self
            .consumers
            .lock()
            .iter()
            .map(|(name, stored)| {
                let next = stored.next();
                ConsumerStatus { name: name.clone(), next, lag: end.saturating_sub(next.0) }
            })
            .collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_slot_leaves_the_older_position() {
        let at = Timestamp::from_micros(0);
        let mut bytes = [0; 2 * SLOT];
        assert_eq!(parse(&bytes), None, "zeros are not a position");
        bytes[..SLOT].copy_from_slice(&slot(2, 10, at));
        bytes[SLOT..].copy_from_slice(&slot(3, 25, at));
        assert_eq!(parse(&bytes), Some((3, 25)));
        bytes[SLOT + 9] ^= 1;
        assert_eq!(parse(&bytes), Some((2, 10)));
        bytes[3] ^= 1;
        assert_eq!(parse(&bytes), None);
    }
}
