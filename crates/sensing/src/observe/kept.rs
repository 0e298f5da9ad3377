//! The sealed heads on disk, found by Datastream without reading them all: a start opens them in the same time for ten and for ten million.
//!
//! Two files. The base holds every head as of one seal, sorted, in blocks; the log holds what the seals since then have changed and is read
//! at a start. When the log has grown to a share of the base, both become a new base.
//!
//! ```text
//! base  := block* index footer
//! block := length:u32le crc32:u32le head*                                up to 64 heads in the order of their Datastreams
//! index := (first-datastream:i64le offset:u64le)*                        one for each block
//! footer:= through:u64le heads:u64le index-offset:u64le crc32:u32le magic  crc over index and the three numbers
//!
//! log   := entry*
//! entry := length:u32le crc32:u32le body                                 crc over body
//! body  := through:u64le touched:u32le id:i64le* heads:u32le head*
//!
//! head  := datastream:i64le count:u64le start:i64le end:i64le flags:u8 [start:i64le end:i64le] frame-length:u32le frame (of `latest`)
//! ```
//! Flags: 1 says that there are resultTimes, 2 that the base knew the Datastream. It is all a cache: when it does not end at the lake's own
//! offset, the heads are read from the lake instead.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ahash::AHashMap;
use kernel::{Interval, Timestamp};

use super::{
    batch::Batch,
    frame::{self, Frame},
    head::Sealed,
};

const MAGIC: &[u8; 8] = b"lampHED1";
const FOOTER: usize = 8 * 3 + 4 + 8;
/// Heads of one block: what one look-up reads.
const BLOCK: usize = 64;
/// The share of the base that the log may have before both are merged.
const LOG_SHARE: u64 = 16;
/// And the most, whatever the base: some thirty thousand heads, which a start reads in a tenth of a second.
const LOG_MOST: u64 = 4 << 20;
/// About what a head takes in the log.
const HEAD: u64 = 72;

const RESULT_TIME: u8 = 1;
const IN_BASE: u8 = 2;

/// All heads as of one seal.
#[derive(Default)]
pub(super) struct Base {
    /// `None` when there is none yet.
    file: Option<(File, PathBuf)>,
    /// The first Datastream of each block and where the block lies.
    index: Vec<(i64, u64)>,
    /// Where the last block ends.
    end: u64,
    heads: u64,
    through: Option<u64>,
}

impl Base {
    /// A file that is missing is an empty base; so is one that is not understood, which is of no use to anybody and goes.
    fn open(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let opened = Self::of(file, path)?;
        if opened.is_none() {
            tracing::warn!(file = %path.display(), "the kept heads are not understood and are read from the lake");
            std::fs::remove_file(path)?;
        }
        Ok(opened.unwrap_or_default())
    }

    fn of(file: File, path: &Path) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        let Some(footer_at) = length.checked_sub(FOOTER as u64) else { return Ok(None) };
        let mut footer = [0u8; FOOTER];
        file.read_exact_at(&mut footer, footer_at)?;
        let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().unwrap_or_default());
        let (through, heads, end) = (number(0), number(8), number(16));
        let blocks = footer_at.checked_sub(end).filter(|bytes| bytes % 16 == 0);
        let (Some(bytes), true) = (blocks, footer.ends_with(MAGIC)) else { return Ok(None) };
        let mut index = vec![0u8; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut index, end)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&index);
        crc.update(&footer[..24]);
        if crc.finalize().to_le_bytes() != footer[24..28] {
            return Ok(None);
        }
        let entries = index.as_chunks::<16>().0.iter().map(|entry| {
            let half = |at: usize| entry[at..at + 8].try_into().unwrap_or_default();
            (i64::from_le_bytes(half(0)), u64::from_le_bytes(half(8)))
        });
        let index = entries.collect();
        Ok(Some(Self { file: Some((file, path.to_owned())), index, end, heads, through: Some(through) }))
    }

    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// The head of a Datastream: one read of a few kilobytes.
    pub fn get(&self, id: i64) -> Option<Sealed> {
        let at = self.index.partition_point(|(first, _)| *first <= id).checked_sub(1)?;
        let block = self.block(at).inspect_err(|error| self.damaged(error)).ok()?;
        let mut input = &block[..];
        while let Some((found, _, whole)) = skip(&mut input) {
            if found >= id {
                return (found == id).then(|| decode(whole)).flatten();
            }
        }
        None
    }

    /// What each head counts. Reads all of it, once and in order.
    pub fn counts(&self) -> AHashMap<i64, u64> {
        let mut counts = AHashMap::with_capacity(usize::try_from(self.heads).unwrap_or(0));
        for at in 0..self.index.len() {
            let Ok(block) = self.block(at).inspect_err(|error| self.damaged(error)) else { continue };
            let mut input = &block[..];
            while let Some((id, _, whole)) = skip(&mut input) {
                counts.extend(count_of(whole).map(|count| (id, count)));
            }
        }
        counts
    }

    fn block(&self, at: usize) -> io::Result<Vec<u8>> {
        let Some((file, _)) = &self.file else { return Ok(Vec::new()) };
        let start = self.index[at].1;
        let end = self.index.get(at + 1).map_or(self.end, |(_, next)| *next);
        let length = end.checked_sub(start).filter(|l| *l >= 8).ok_or(io::ErrorKind::InvalidData)?;
        let mut block = vec![0u8; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut block, start)?;
        let (head, body) = block.split_at(8);
        let length_fits = u32::from_le_bytes(head[..4].try_into().unwrap_or_default()) as usize == body.len();
        if !length_fits || crc32fast::hash(body).to_le_bytes() != head[4..] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a block of kept heads is damaged"));
        }
        block.drain(..8);
        Ok(block)
    }

    /// The lake knows better: without the file, the next start asks it.
    fn damaged(&self, error: &io::Error) {
        tracing::error!(%error, "kept heads cannot be read; a restart reads them from the lake");
        if let Some((_, path)) = &self.file {
            // A file that cannot be removed is noticed again.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What a start finds: how far it reaches, and what has changed since the base (`None` for what is gone).
pub(super) struct Loaded {
    pub through: Option<u64>,
    pub heads: AHashMap<i64, Option<(Sealed, bool)>>,
}

/// The files as the sealer writes them.
pub(super) struct Checkpoint {
    path: PathBuf,
    log: File,
    log_bytes: u64,
    /// Bytes that the log may have in any case.
    log_least: u64,
    /// Something could not be appended: only a new base is whole again.
    broken: bool,
    base: Arc<Base>,
}

impl Checkpoint {
    pub fn open(path: &Path, log_least: u64) -> io::Result<(Self, Loaded)> {
        let base = Base::open(path)?;
        let mut log = OpenOptions::new().read(true).append(true).create(true).open(path.with_extension("log"))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let mut loaded = Loaded { through: base.through, heads: AHashMap::new() };
        let mut at = 0usize;
        // Entries that the base holds already are what a crash between the two files leaves.
        // A log alone knows only what has changed since a base that is lost: the lake is asked instead.
        while base.file.is_some()
            && let Some(end) = read_entry(&bytes, at, base.through, &mut loaded)
        {
            at = end;
        }
        // A torn last entry is what a crash leaves; it must not stand before the next one.
        log.set_len(at as u64)?;
        let (log_bytes, base) = (at as u64, Arc::new(base));
        Ok((Self { path: path.to_owned(), log, log_bytes, log_least, broken: false, base }, loaded))
    }

    pub fn base(&self) -> Arc<Base> {
        self.base.clone()
    }

    /// Appends what one seal changed: of the touched, those that are not in `heads` are gone. Durable on return.
    pub fn append<'a>(
        &mut self,
        through: u64,
        touched: &[i64],
        heads: impl Iterator<Item = (i64, &'a Sealed, bool)>,
    ) -> io::Result<()> {
        let entry = entry(through, touched, heads);
        // Until this has succeeded; an entry that is missing between two others would not be noticed.
        let broken = std::mem::replace(&mut self.broken, true);
        self.log.write_all(&entry)?;
        self.log.sync_data()?;
        (self.broken, self.log_bytes) = (broken, self.log_bytes + entry.len() as u64);
        Ok(())
    }

    /// Whether a new base is due before so many more heads are appended.
    pub fn wants_rewrite(&self, more: usize) -> bool {
        let log = self.log_bytes + more as u64 * HEAD;
        // Without a base the log is not believed.
        self.broken || self.base.file.is_none() || log > self.log_least.max((self.base.end / LOG_SHARE).min(LOG_MOST))
    }

    /// Makes a new base of the old one and `changes` (`None` for what is gone). Reads and writes all of it.
    pub fn rewrite(&mut self, through: u64, changes: BTreeMap<i64, Option<Sealed>>) -> io::Result<Arc<Base>> {
        let base = self.base.clone();
        self.replace(through, &base, changes)
    }

    /// Makes a new base of these heads alone.
    pub fn restart(&mut self, through: u64, heads: BTreeMap<i64, Option<Sealed>>) -> io::Result<Arc<Base>> {
        self.replace(through, &Base::default(), heads)
    }

    /// Forgets everything: what is kept is not of this lake.
    pub fn clear(&mut self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.log.set_len(0)?;
        (self.base, self.log_bytes) = (Arc::default(), 0);
        Ok(())
    }

    fn replace(
        &mut self,
        through: u64,
        before: &Base,
        changes: BTreeMap<i64, Option<Sealed>>,
    ) -> io::Result<Arc<Base>> {
        let fresh = self.path.with_extension("new");
        let mut writer = Writer::new(File::create(&fresh)?);
        let mut changes = changes.into_iter().peekable();
        for at in 0..before.index.len() {
            let block = before.block(at)?;
            let mut input = &block[..];
            while let Some((id, _, whole)) = skip(&mut input) {
                while let Some((changed, head)) = changes.next_if(|(changed, _)| *changed <= id) {
                    if let Some(head) = head {
                        writer.head(changed, &encoded(changed, &head, true))?;
                    }
                    if changed == id {
                        // What the block says of it is over.
                        writer.last = Some(id);
                    }
                }
                if writer.last != Some(id) {
                    writer.head(id, whole)?;
                }
            }
        }
        for (id, head) in changes {
            if let Some(head) = head {
                writer.head(id, &encoded(id, &head, true))?;
            }
        }
        writer.finish(through)?;
        std::fs::rename(&fresh, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.base = Arc::new(Base::open(&self.path)?);
        self.log.set_len(0)?;
        (self.log_bytes, self.broken) = (0, false);
        Ok(self.base())
    }
}

/// Writes a base from heads in order.
struct Writer {
    out: BufWriter<File>,
    block: Vec<u8>,
    first: i64,
    in_block: usize,
    index: Vec<u8>,
    written: u64,
    heads: u64,
    /// The last Datastream that was dealt with.
    last: Option<i64>,
}

impl Writer {
    fn new(file: File) -> Self {
        let out = BufWriter::with_capacity(1 << 20, file);
        Self { out, block: Vec::new(), first: 0, in_block: 0, index: Vec::new(), written: 0, heads: 0, last: None }
    }
    fn head(&mut self, id: i64, encoded: &[u8]) -> io::Result<()> {
        if self.in_block == 0 {
            self.first = id;
        }
        self.block.extend_from_slice(encoded);
        self.in_block += 1;
        self.heads += 1;
        self.last = Some(id);
        if self.in_block == BLOCK { self.flush() } else { Ok(()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.in_block == 0 {
            return Ok(());
        }
        self.index.extend(self.first.to_le_bytes());
        self.index.extend(self.written.to_le_bytes());
        self.out.write_all(&(self.block.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32fast::hash(&self.block).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.written += 8 + self.block.len() as u64;
        self.block.clear();
        self.in_block = 0;
        Ok(())
    }
    fn finish(mut self, through: u64) -> io::Result<()> {
        self.flush()?;
        let mut tail = std::mem::take(&mut self.index);
        for number in [through, self.heads, self.written] {
            tail.extend(number.to_le_bytes());
        }
        let crc = crc32fast::hash(&tail);
        tail.extend(crc.to_le_bytes());
        tail.extend(MAGIC);
        self.out.write_all(&tail)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

fn encoded(id: i64, head: &Sealed, in_base: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    encode(&mut out, id, head, in_base);
    out
}

fn encode(out: &mut Vec<u8>, id: i64, head: &Sealed, in_base: bool) {
    out.extend(id.to_le_bytes());
    out.extend(head.count.to_le_bytes());
    let interval = |out: &mut Vec<u8>, i: Interval| {
        out.extend(i.start.as_micros().to_le_bytes());
        out.extend(i.end.as_micros().to_le_bytes());
    };
    interval(out, head.phenomenon);
    out.push(if head.result_time.is_some() { RESULT_TIME } else { 0 } | if in_base { IN_BASE } else { 0 });
    if let Some(extent) = head.result_time {
        interval(out, extent);
    }
    let latest = frame::encode(&Frame::Observed(Batch::one(head.latest.clone())));
    out.extend((latest.len() as u32).to_le_bytes());
    out.extend(latest);
}

/// Passes over one head: its Datastream, its flags and all of its bytes.
fn skip<'a>(input: &mut &'a [u8]) -> Option<(i64, u8, &'a [u8])> {
    let all = *input;
    let (fixed, mut rest) = all.split_first_chunk::<33>()?;
    let flags = fixed[32];
    if flags & RESULT_TIME != 0 {
        rest = rest.get(16..)?;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let rest = rest.get(u32::from_le_bytes(*length) as usize..)?;
    *input = rest;
    let id = i64::from_le_bytes(fixed[..8].try_into().ok()?);
    Some((id, flags, &all[..all.len() - rest.len()]))
}

fn count_of(whole: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(whole.get(8..16)?.try_into().ok()?))
}

/// A head from all of its bytes.
fn decode(whole: &[u8]) -> Option<Sealed> {
    let int = |at: usize| Some(i64::from_le_bytes(whole.get(at..at + 8)?.try_into().ok()?));
    let interval = |at: usize| {
        Some(Interval { start: Timestamp::from_micros(int(at)?), end: Timestamp::from_micros(int(at + 8)?) })
    };
    let with_results = whole.get(32)? & RESULT_TIME != 0;
    let frame_at = if with_results { 33 + 16 + 4 } else { 33 + 4 };
    let Ok(Frame::Observed(batch)) = frame::decode(whole.get(frame_at..)?) else { return None };
    Some(Sealed {
        count: int(8)? as u64,
        latest: batch.observations().next()?,
        phenomenon: interval(16)?,
        result_time: if with_results { Some(interval(33)?) } else { None },
    })
}

fn entry<'a>(through: u64, touched: &[i64], heads: impl Iterator<Item = (i64, &'a Sealed, bool)>) -> Vec<u8> {
    let mut out = vec![0u8; 8];
    out.extend(through.to_le_bytes());
    out.extend((touched.len() as u32).to_le_bytes());
    touched.iter().for_each(|id| out.extend(id.to_le_bytes()));
    let count_at = out.len();
    out.extend(0u32.to_le_bytes());
    let mut count = 0u32;
    for (id, head, in_base) in heads {
        count += 1;
        encode(&mut out, id, head, in_base);
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    let (length, crc) = ((out.len() - 8) as u32, crc32fast::hash(&out[8..]));
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Applies the entry at `at` and returns where it ends, or `None` at the end of what is whole.
fn read_entry(bytes: &[u8], at: usize, base: Option<u64>, loaded: &mut Loaded) -> Option<usize> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (through, input) = body.split_first_chunk::<8>()?;
    let through = u64::from_le_bytes(*through);
    let end = Some(at + 8 + body.len());
    if base.is_some_and(|base| through <= base) {
        return end;
    }
    let (touched, input) = input.split_first_chunk::<4>()?;
    let (touched, input) = input.split_at_checked(u32::from_le_bytes(*touched) as usize * 8)?;
    let (heads, mut input) = input.split_first_chunk::<4>()?;
    let mut found = Vec::new();
    for _ in 0..u32::from_le_bytes(*heads) {
        let (id, flags, whole) = skip(&mut input)?;
        found.push((id, Some((decode(whole)?, flags & IN_BASE != 0))));
    }
    loaded.heads.extend(touched.as_chunks::<8>().0.iter().map(|id| (i64::from_le_bytes(*id), None)));
    loaded.heads.extend(found);
    loaded.through = Some(through);
    end
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
