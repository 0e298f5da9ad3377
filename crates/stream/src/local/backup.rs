//! Copying topics while they are written, and back.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use kernel::Timestamp;

use super::{consumer, files, topic::Shared};
use crate::{BackupReport, Error, Offset};

/// Retention deletes nothing of a topic while one of these lives.
struct Pin<'a>(&'a AtomicUsize);

impl<'a> Pin<'a> {
    fn new(pins: &'a AtomicUsize) -> Self {
        pins.fetch_add(1, SeqCst);
        Self(pins)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

pub(crate) fn must_be_empty(dir: &Path) -> Result<(), Error> {
    files::create_dir(dir)?;
    if files::names(dir)?.is_empty() {
        return Ok(());
    }
    Err(Error::io(dir, io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the target folder must be empty")))
}

/// A durable prefix of every topic, and consumer positions that do not lie beyond it. Sealed segments never change, so
/// they are linked when source and target are on one file system and copied otherwise.
pub(crate) fn backup(topics: &[Arc<Shared>], to: &Path, at: Timestamp) -> Result<Vec<BackupReport>, Error> {
    must_be_empty(to)?;
    let reports = topics.iter().map(|topic| backup_topic(topic, &to.join(&topic.options.name), at)).collect();
    files::sync_dir(to)?;
    reports
}

fn backup_topic(topic: &Shared, to: &Path, at: Timestamp) -> Result<BackupReport, Error> {
    let _pin = Pin::new(&topic.pins);
    // Positions first: what they point at is then surely inside the copied prefix.
    let consumers = topic.consumer_statuses();
    let parts: Vec<_> = topic.segments.lock().iter().map(|segment| segment.files()).collect();
    files::create_dir(to)?;
    let mut report =
        BackupReport { topic: topic.options.name.clone(), start: Offset(0), end: Offset(0), bytes: 0, linked_bytes: 0 };
    let mut copied = 0;
    for (log, index, summary) in parts {
        let target = to.join(log.file_name().unwrap_or_default());
        let linked = match index {
            Some(index) => {
                let linked = link_or_copy(&log, &target, summary.len);
                if copied == 0
                    && matches!(&linked, Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound)
                {
                    // Retention was already deleting it when the pin was set; the prefix starts behind it.
                    continue;
                }
                let linked = linked?;
                // The index can be made again, so a missing one is no reason to fail.
                if let Ok(len) = fs::metadata(&index).map(|meta| meta.len()) {
                    link_or_copy(&index, &to.join(index.file_name().unwrap_or_default()), len)?;
                }
                linked
            }
            None => {
                copy(&log, &target, summary.len)?;
                false
            }
        };
        if copied == 0 {
            report.start = Offset(summary.base);
        }
        copied += 1;
        report.end = Offset(summary.end);
        *(if linked { &mut report.linked_bytes } else { &mut report.bytes }) += summary.len;
    }
    for status in consumers {
        consumer::write(to, &status.name, status.next, at)?;
    }
    files::sync_dir(to)?;
    Ok(report)
}

/// True when linked.
fn link_or_copy(from: &Path, to: &Path, len: u64) -> Result<bool, Error> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::io(from, e)),
        Err(_) => copy(from, to, len).map(|()| false),
    }
}

fn copy(from: &Path, to: &Path, len: u64) -> Result<(), Error> {
    let mut source = File::open(from).map_err(|e| Error::io(from, e))?.take(len);
    let mut write = || -> io::Result<u64> {
        let mut target = File::create_new(to)?;
        let copied = io::copy(&mut source, &mut target)?;
        target.flush()?;
        target.sync_all()?;
        Ok(copied)
    };
    let copied = write().map_err(|e| Error::io(to, e))?;
    if copied == len { Ok(()) } else { Err(Error::corrupt(from, copied, "the file is shorter than it was")) }
}

/// The topics that a folder holds.
pub(crate) fn topic_folders(dir: &Path) -> Result<Vec<String>, Error> {
    Ok(files::names(dir)?.into_iter().filter(|name| dir.join(name).is_dir()).collect())
}

/// Copies a backup into an empty folder, from which a stream is then opened. Never links: the newest segment will be
/// appended to, and a backup must not change.
pub(crate) fn restore(from: &Path, to: &Path) -> Result<(), Error> {
    must_be_empty(to)?;
    copy_dir(from, to)
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), Error> {
    files::create_dir(to)?;
    for name in files::names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let meta = fs::metadata(&source).map_err(|e| Error::io(&source, e))?;
        if meta.is_dir() {
            copy_dir(&source, &target)?;
        } else if name != super::LOCK {
            copy(&source, &target, meta.len())?;
        }
    }
    files::sync_dir(to)
}

/// Reads every record of every topic under a folder that no stream has open: checksums, order, indexes, consumers.
pub(crate) fn verify(dir: &Path) -> Result<Vec<BackupReport>, Error> {
    let _lock = super::lock(dir)?;
    let mut reports = Vec::new();
    for name in files::names(dir)? {
        let topic = dir.join(&name);
        if !topic.is_dir() {
            continue;
        }
        let mut report = BackupReport { topic: name, start: Offset(0), end: Offset(0), bytes: 0, linked_bytes: 0 };
        let (_, segments) = super::open_segments(&topic, None)?;
        for segment in &segments {
            segment.verify()?;
            let summary = segment.summary();
            report.bytes += summary.len;
            report.end = Offset(summary.end);
        }
        report.start = segments.front().map_or(Offset(0), |first| Offset(first.base));
        consumer::load(&topic)?;
        reports.push(report);
    }
    Ok(reports)
}
