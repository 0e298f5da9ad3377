//! One file of records: the newest is appended to, the others are sealed and never change again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kernel::Timestamp;
use parking_lot::Mutex;

use super::{
    files,
    format::{self, Entry, Head, INDEX_HEADER, MAX_PAYLOAD, RECORD_HEADER, SEGMENT_HEADER, Summary},
    scan::{self, Indexer},
};
use crate::{Error, Offset, Record};

/// What one read from disk takes, unless a single record is larger.
const READ: usize = 512 << 10;

pub(crate) struct Segment {
    pub path: PathBuf,
    pub base: u64,
    state: Mutex<State>,
}

struct State {
    /// Durable records only: a reader never looks past `summary.len`.
    summary: Summary,
    /// `None` until a reader first needs the index of a sealed segment.
    entries: Option<Vec<Entry>>,
    sealed: bool,
}

pub(crate) fn log_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

fn index_path(log: &Path) -> PathBuf {
    log.with_extension("idx")
}

/// The bases of the segments in a topic's folder, ascending.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, Error> {
    let base = |name: &String| {
        let digits = name.strip_suffix(".log")?;
        (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    Ok(files::names(dir)?.iter().filter_map(base).collect())
}

impl Segment {
    fn new(path: PathBuf, index: Indexer, sealed: bool) -> Self {
        Self {
            path,
            base: index.summary.base,
            state: Mutex::new(State { summary: index.summary, entries: Some(index.entries), sealed }),
        }
    }

    /// A new, empty segment: durable before the first record is written into it.
    pub(crate) fn create(dir: &Path, base: u64, made: Timestamp) -> Result<(Self, File), Error> {
        let path = log_path(dir, base);
        files::write_whole(&path, &format::segment_header(base, made.as_micros()))?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
        Ok((Self::new(path, Indexer::new(base), false), file))
    }

    /// The newest segment after a start: reads it all, cuts a torn tail off, refuses damage.
    pub(crate) fn recover(dir: &Path, base: u64) -> Result<(Self, File), Error> {
        let path = log_path(dir, base);
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        let (file, len) = open().map_err(|e| Error::io(&path, e))?;
        let scan = scan::scan(&path, &file, len, base)?;
        let good = scan.index.summary;
        if let Some(bad) = scan.bad {
            scan::torn_or_damaged(&path, &file, len, &good, bad)?;
            tracing::warn!(file = %path.display(), at = good.len, dropped = len - good.len, "cut off a torn tail: {bad}");
            file.set_len(good.len).map_err(|e| Error::io(&path, e))?;
        }
        // A process that was killed may have left whole records in the page cache. They are about to be shown to
        // subscribers, so they are made durable first.
        file.sync_all().map_err(|e| Error::io(&path, e))?;
        match fs::remove_file(index_path(&path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
            _ => {}
        }
        Ok((Self::new(path, scan.index, false), file))
    }

    /// A sealed segment, known by its index; the data is read only when the index is missing or does not fit.
    pub(crate) fn open_sealed(dir: &Path, base: u64) -> Result<Self, Error> {
        let path = log_path(dir, base);
        let len = fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
        if let Some((summary, _)) = read_index_header(&path)
            && summary.base == base
        {
            if summary.len != len {
                let what = format!("the file has {len} bytes, it was sealed with {}", summary.len);
                return Err(Error::corrupt(&path, len.min(summary.len), what));
            }
            return Ok(Self { path, base, state: Mutex::new(State { summary, entries: None, sealed: true }) });
        }
        let index = Self::read_all(&path, len, base)?;
        files::write_whole(&index_path(&path), &format::index_file(&index.summary, &index.entries))?;
        Ok(Self::new(path, index, true))
    }

    /// Every record of a sealed segment must be intact.
    fn read_all(path: &Path, len: u64, base: u64) -> Result<Indexer, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let scan = scan::scan(path, &file, len, base)?;
        match scan.bad {
            Some(bad) => Err(Error::corrupt(path, scan.index.summary.len, bad)),
            None => Ok(scan.index),
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.state.lock().summary
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.state.lock().sealed
    }

    /// The batch is durable: from now on readers see it.
    pub(crate) fn extend(&self, records: impl Iterator<Item = (i64, u64)>) {
        let mut state = self.state.lock();
        let entries = state.entries.take().unwrap_or_default();
        let mut index = Indexer { summary: state.summary, entries };
        for (at, frame) in records {
            index.add(at, frame);
        }
        state.summary = index.summary;
        state.entries = Some(index.entries);
    }

    /// Writes the index; the file is not appended to again.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        let (summary, entries) = {
            let state = self.state.lock();
            (state.summary, state.entries.clone().unwrap_or_default())
        };
        files::write_whole(&index_path(&self.path), &format::index_file(&summary, &entries))
    }

    pub(crate) fn mark_sealed(&self) {
        let mut state = self.state.lock();
        state.sealed = true;
        // Read again when somebody needs it: a year of segments should not hold its indexes in memory.
        state.entries = None;
    }

    /// Removes the data, then the index. A reader that has the file open keeps reading.
    pub(crate) fn delete(&self) -> Result<(), Error> {
        for path in [self.path.clone(), index_path(&self.path)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
                _ => {}
            }
        }
        self.path.parent().map_or(Ok(()), files::sync_dir)
    }

    /// The nearest indexed byte at or before a record.
    fn locate(&self, offset: u64) -> Result<Entry, Error> {
        let find = |entries: &[Entry]| {
            let after = entries.partition_point(|entry| entry.offset <= offset);
            let first = Entry { offset: self.base, byte: SEGMENT_HEADER as u64 };
            after.checked_sub(1).map_or(first, |at| entries[at])
        };
        if let Some(entries) = &self.state.lock().entries {
            return Ok(find(entries));
        }
        let summary = self.summary();
        let entries = match read_index_entries(&self.path) {
            Some(entries) => entries,
            None => Self::read_all(&self.path, summary.len, self.base)?.entries,
        };
        let found = find(&entries);
        self.state.lock().entries = Some(entries);
        Ok(found)
    }

    /// The files to copy for a backup: the log, its durable length, and the index when sealed.
    pub(crate) fn files(&self) -> (PathBuf, Option<PathBuf>, Summary) {
        let state = self.state.lock();
        (self.path.clone(), state.sealed.then(|| index_path(&self.path)), state.summary)
    }

    pub(crate) fn verify(&self) -> Result<(), Error> {
        let summary = self.summary();
        let found = Self::read_all(&self.path, summary.len, self.base)?;
        if found.summary != summary {
            return Err(Error::corrupt(&self.path, summary.len, "the records are not the ones of the index"));
        }
        Ok(())
    }
}

fn read_index_header(log: &Path) -> Option<(Summary, usize)> {
    let mut header = [0; INDEX_HEADER];
    File::open(index_path(log)).ok()?.read_exact_at(&mut header, 0).ok()?;
    format::parse_index_header(&header)
}

fn read_index_entries(log: &Path) -> Option<Vec<Entry>> {
    // Read before it is believed: the file bounds what is allocated, not the count in it.
    let bytes = fs::read(index_path(log)).ok()?;
    let (_, count) = format::parse_index_header(bytes.get(..INDEX_HEADER)?.try_into().ok()?)?;
    format::parse_index_entries(&bytes[INDEX_HEADER..], count)
}

/// A place in a segment from which records are read in order.
pub(crate) struct Cursor {
    segment: Arc<Segment>,
    file: File,
    /// The record at `byte` has offset `next`.
    next: u64,
    byte: u64,
}

impl Cursor {
    /// Fails with `Gone` when retention removed the file in the meantime.
    pub(crate) fn open(segment: Arc<Segment>, offset: u64) -> Result<Self, Error> {
        let file = match File::open(&segment.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let start = Offset(segment.summary().end);
                return Err(Error::Gone { requested: Offset(offset), start });
            }
            Err(e) => return Err(Error::io(&segment.path, e)),
        };
        let entry = segment.locate(offset)?;
        Ok(Self { segment, file, next: entry.offset, byte: entry.byte })
    }

    pub(crate) fn is_at(&self, offset: u64) -> bool {
        self.next == offset && !self.at_end()
    }

    fn at_end(&self) -> bool {
        self.segment.summary().len == self.byte
    }

    /// The next records from `from` on, one block of them; empty at the durable end of the segment.
    pub(crate) fn read(&mut self, from: u64) -> Result<Vec<Record>, Error> {
        loop {
            let mut records = Vec::new();
            let left = self.segment.summary().len - self.byte;
            if left == 0 {
                return Ok(records);
            }
            let block = self.block(left)?;
            let mut at = 0;
            while let Some(head) = block.get(at..).filter(|b| b.len() >= RECORD_HEADER).map(Head::parse) {
                let impossible = head.length as usize > MAX_PAYLOAD || head.frame() as u64 > left - at as u64;
                let frame = if impossible { None } else { block.get(at..at + head.frame()) };
                if !impossible && frame.is_none() {
                    break;
                }
                if !frame.is_some_and(|frame| head.is_intact(frame)) || head.offset != self.next {
                    if at > 0 {
                        // What comes before the damage is delivered first; the next read starts at it.
                        break;
                    }
                    return Err(Error::corrupt(
                        &self.segment.path,
                        self.byte,
                        "the record is not the one that was written",
                    ));
                }
                if head.offset >= from {
                    records.push(Record {
                        offset: Offset(head.offset),
                        at: Timestamp::from_micros(head.at),
                        payload: block.slice(at + RECORD_HEADER..at + head.frame()),
                    });
                }
                at += head.frame();
                self.next += 1;
            }
            self.byte += at as u64;
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// The bytes ahead: a block, or one whole record when that is larger.
    fn block(&self, left: u64) -> Result<Bytes, Error> {
        let path = &self.segment.path;
        let mut block = vec![0; left.min(READ as u64) as usize];
        self.file.read_exact_at(&mut block, self.byte).map_err(|e| Error::io(path, e))?;
        if block.len() < RECORD_HEADER {
            return Err(Error::corrupt(path, self.byte, "the record's header is cut short"));
        }
        let frame = Head::parse(&block).frame();
        if frame > block.len() {
            if frame > RECORD_HEADER + MAX_PAYLOAD || frame as u64 > left {
                return Err(Error::corrupt(path, self.byte, "the record's length is impossible"));
            }
            let held = block.len();
            block.resize(frame, 0);
            self.file.read_exact_at(&mut block[held..], self.byte + held as u64).map_err(|e| Error::io(path, e))?;
        }
        Ok(block.into())
    }
}
