//! Reading a segment from front to back: what recovery, verification and a lost index have in common.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    files::Window,
    format::{self, Entry, Head, MAX_PAYLOAD, RECORD_HEADER, SEGMENT_HEADER, Summary},
};
use crate::Error;

/// One index entry for about so many bytes.
const STRIDE: u64 = 64 << 10;

/// Collects the sparse index and the extent of a segment, record by record.
#[derive(Debug, Clone)]
pub(crate) struct Indexer {
    pub summary: Summary,
    pub entries: Vec<Entry>,
}

impl Indexer {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            summary: Summary { base, end: base, len: SEGMENT_HEADER as u64, earliest: i64::MAX, latest: i64::MIN },
            entries: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, at: i64, frame: u64) {
        let summary = &mut self.summary;
        if self.entries.last().is_none_or(|last| summary.len - last.byte >= STRIDE) {
            self.entries.push(Entry { offset: summary.end, byte: summary.len });
        }
        summary.end += 1;
        summary.len += frame;
        summary.earliest = summary.earliest.min(at);
        summary.latest = summary.latest.max(at);
    }
}

/// The intact records from the front, and what stopped the scan before the end of the file.
pub(crate) struct Scan {
    pub index: Indexer,
    pub bad: Option<&'static str>,
}

/// Reads the header and every record of the first `len` bytes.
pub(crate) fn scan(path: &Path, file: &File, len: u64, base: u64) -> Result<Scan, Error> {
    check_header(path, file, len, base)?;
    let mut index = Indexer::new(base);
    let mut window = Window::new(file, len);
    let bad = loop {
        let left = len - index.summary.len;
        if left == 0 {
            break None;
        }
        match record_at(&mut window, index.summary.len, left).map_err(|e| Error::io(path, e))? {
            Ok(head) if head.offset == index.summary.end => index.add(head.at, head.frame() as u64),
            Ok(_) => break Some("the record has another offset than its place demands"),
            Err(bad) => break Some(bad),
        }
    };
    Ok(Scan { index, bad })
}

fn check_header(path: &Path, file: &File, len: u64, base: u64) -> Result<(), Error> {
    let mut header = [0; SEGMENT_HEADER];
    if len < SEGMENT_HEADER as u64 {
        return Err(Error::corrupt(path, len, "the header is cut short"));
    }
    file.read_exact_at(&mut header, 0).map_err(|e| Error::io(path, e))?;
    let (found, _) = format::parse_segment_header(&header).map_err(|what| Error::corrupt(path, 0, what))?;
    if found != base {
        return Err(Error::corrupt(path, 16, format!("the header says base {found}, the file's name says {base}")));
    }
    Ok(())
}

/// The intact record at `at`, or why there is none. `left` is what the file has from there.
fn record_at(window: &mut Window<'_>, at: u64, left: u64) -> io::Result<Result<Head, &'static str>> {
    if left < RECORD_HEADER as u64 {
        return Ok(Err("the record's header is cut short"));
    }
    let head = Head::parse(window.get(at, RECORD_HEADER)?);
    if head.length as usize > MAX_PAYLOAD {
        return Ok(Err("the record's length is impossible"));
    }
    if head.frame() as u64 > left {
        return Ok(Err("the record is cut short"));
    }
    if head.batch().is_none() {
        return Ok(Err("the record's place in its batch is impossible"));
    }
    let frame = window.get(at, head.frame())?;
    Ok(if head.is_intact(frame) { Ok(head) } else { Err("the record's checksum does not match") })
}

/// Decides what a bad record in the newest segment is: a torn tail (`Ok(())`, cut it off) or damage to records that had
/// been acknowledged (an error). See `format` for why a later batch proves the latter.
pub(crate) fn torn_or_damaged(
    path: &Path,
    file: &File,
    len: u64,
    good: &Summary,
    bad: &'static str,
) -> Result<(), Error> {
    let damaged = |at: u64| {
        Error::corrupt(
            path,
            good.len,
            format!("{bad} (record {}), and intact later records follow at byte {at}", good.end),
        )
    };
    let mut window = Window::new(file, len);
    // Hostile bytes could make every position look like a long record; an honest torn batch cannot cost this much.
    let mut patience = (len - good.len).saturating_mul(4).saturating_add(64 << 20);
    let mut at = good.len + 1;
    while at + RECORD_HEADER as u64 <= len {
        let head = Head::parse(window.get(at, RECORD_HEADER).map_err(|e| Error::io(path, e))?);
        let between = (at - good.len) / RECORD_HEADER as u64 + 1;
        let plausible = head.length as usize <= MAX_PAYLOAD
            && head.frame() as u64 <= len - at
            && head.offset > good.end
            && head.offset - good.end <= between
            && head.batch().is_some_and(|batch| batch > good.end);
        if plausible {
            let frame = window.get(at, head.frame()).map_err(|e| Error::io(path, e))?;
            if head.is_intact(frame) {
                return Err(damaged(at));
            }
            patience = match patience.checked_sub(head.frame() as u64) {
                Some(patience) => patience,
                None => return Err(damaged(at)),
            };
        }
        at += 1;
    }
    Ok(())
}
