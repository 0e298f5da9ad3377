//! Segment files as the form in which a topic travels between the engines: written from records that come from elsewhere, and read without
//! opening a stream.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kernel::Timestamp;

use super::{
    consumer, files,
    format::{self, RECORD_HEADER},
    segment::{Cursor, Segment},
};
use crate::{Error, Offset, Record};

/// A segment is sealed beyond this; nobody appends to it again, so it need not be what the city has configured.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Writes a topic's folder, from one offset on without holes. Blocks.
pub(crate) struct Export {
    dir: PathBuf,
    segment: Segment,
    file: File,
    next: u64,
}

impl Export {
    pub(crate) fn create(dir: &Path, start: Offset, made: Timestamp) -> Result<Self, Error> {
        files::create_dir(dir)?;
        let (segment, file) = Segment::create(dir, start.0, made)?;
        Ok(Self { dir: dir.to_owned(), segment, file, next: start.0 })
    }

    pub(crate) fn write(&mut self, records: &[Record]) -> Result<(), Error> {
        let Some(first) = records.first() else { return Ok(()) };
        let mut len = self.segment.summary().len;
        if len > SEGMENT_BYTES {
            self.flush()?;
            self.segment.seal()?;
            (self.segment, self.file) = Segment::create(&self.dir, self.next, first.at)?;
            len = self.segment.summary().len;
        }
        let mut bytes = Vec::new();
        for (position, record) in records.iter().enumerate() {
            if record.offset.0 != self.next {
                return Err(Error::Gone { requested: Offset(self.next), start: record.offset });
            }
            format::put_record(&mut bytes, record.offset.0, record.at.as_micros(), position as u32, &record.payload);
            self.next += 1;
        }
        self.file.write_all_at(&bytes, len).map_err(|e| Error::io(&self.segment.path, e))?;
        let frames = records.iter().map(|r| (r.at.as_micros(), (RECORD_HEADER + r.payload.len()) as u64));
        self.segment.extend(frames);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| Error::io(&self.segment.path, e))
    }

    /// Durable when it returns.
    pub(crate) fn finish(self, consumers: &[(String, Offset)], at: Timestamp) -> Result<Offset, Error> {
        self.flush()?;
        for (name, next) in consumers {
            consumer::write(&self.dir, name, *next, at)?;
        }
        files::sync_dir(&self.dir)?;
        Ok(Offset(self.next))
    }
}

/// A topic's folder that no stream has open. Blocks.
pub(crate) struct Import {
    segments: std::collections::VecDeque<Arc<Segment>>,
    cursor: Option<Cursor>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) consumers: Vec<(String, Offset)>,
}

impl Import {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let (_, segments) = super::open_segments(dir, None)?;
        let start = Offset(segments.front().map_or(0, |first| first.base));
        let end = Offset(segments.back().map_or(0, |last| last.summary().end));
        let consumers = consumer::load(dir)?.into_iter().map(|(name, stored)| (name, stored.next())).collect();
        Ok(Self { segments, cursor: None, start, end, consumers })
    }

    /// The next records in order; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<Bytes>>, Error> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                let records = cursor.read(0)?;
                if !records.is_empty() {
                    return Ok(Some(records.into_iter().map(|record| record.payload).collect()));
                }
            }
            let Some(segment) = self.segments.pop_front() else { return Ok(None) };
            let base = segment.base;
            self.cursor = Some(Cursor::open(segment, base)?);
        }
    }
}
