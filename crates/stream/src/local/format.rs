//! The bytes of a segment file. All integers are little-endian.
//!
//! ```text
//! segment   <20 digits: offset of its first record>.log
//!   header  32 bytes
//!     0   8  magic  "LAMPSEG\0"
//!     8   4  version, 1
//!    12   4  crc32 of bytes 0..12 and 16..32
//!    16   8  base: the offset of the first record, the same as in the file's name
//!    24   8  when the file was made, µs since 1970
//!   records, one after the other, without padding
//!     0   4  crc32 (IEEE) of everything after this field
//!     4   4  length of the payload in bytes
//!     8   8  offset, dense
//!    16   8  at, µs since 1970
//!    24   4  position of the record in its group commit, from 0
//!    28   …  payload
//!
//! index     <20 digits>.idx, beside a sealed segment; can be made again from it
//!     0   8  magic  "LAMPIDX\0"
//!     8   4  version, 1
//!    12   4  number of entries
//!    16   8  base
//!    24   8  end: the offset after the last record
//!    32   8  length of the segment file
//!    40   8  earliest `at`
//!    48   8  latest `at`
//!    56   4  crc32 of bytes 0..56
//!    60   …  entries: offset (8), byte in the segment (8); one for every 64 KiB or so
//!     …   4  crc32 of the entries
//! ```
//!
//! The position in the group commit is what tells a torn tail from damage. A batch is written only after the batch
//! before it is durable, so when a bad record is followed by a good one of a *later* batch, the bad one had been
//! acknowledged and the file is damaged. A bad record followed by nothing, or only by its own batch, was never
//! acknowledged: the machine stopped while it was being written. (The very last batch is the one place where damage
//! after the fact cannot be told from a torn write.)

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"LAMPSEG\0";
pub(crate) const INDEX_MAGIC: [u8; 8] = *b"LAMPIDX\0";
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER: usize = 32;
pub(crate) const RECORD_HEADER: usize = 28;
pub(crate) const INDEX_HEADER: usize = 60;
/// No record of any file is larger, whatever the options say: the bound on what a length field can make us allocate.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub crc: u32,
    pub length: u32,
    pub offset: u64,
    pub at: i64,
    /// Position in the group commit.
    pub position: u32,
}

impl Head {
    /// `bytes` holds at least `RECORD_HEADER` bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            crc: u32_at(bytes, 0),
            length: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            at: u64_at(bytes, 16) as i64,
            position: u32_at(bytes, 24),
        }
    }

    /// Bytes of the whole record, header included.
    pub(crate) fn frame(&self) -> usize {
        RECORD_HEADER + self.length as usize
    }

    /// The offset of the first record of the same group commit; `None` when the fields contradict each other.
    pub(crate) fn batch(&self) -> Option<u64> {
        self.offset.checked_sub(u64::from(self.position))
    }

    /// `frame` is the whole record.
    pub(crate) fn is_intact(&self, frame: &[u8]) -> bool {
        crc32fast::hash(&frame[4..]) == self.crc
    }
}

pub(crate) fn put_record(out: &mut Vec<u8>, offset: u64, at: i64, position: u32, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn segment_header(base: u64, made: i64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[0..8].copy_from_slice(&SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&base.to_le_bytes());
    header[24..32].copy_from_slice(&made.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn header_crc(header: &[u8; SEGMENT_HEADER]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[0..12]);
    hasher.update(&header[16..32]);
    hasher.finalize()
}

/// The base offset and the time of making, or what is wrong.
pub(crate) fn parse_segment_header(header: &[u8; SEGMENT_HEADER]) -> Result<(u64, i64), String> {
    if header[0..8] != SEGMENT_MAGIC {
        return Err("this is not a segment file".to_owned());
    }
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(format!("the file has format version {version}, this program reads {VERSION}"));
    }
    if u32_at(header, 12) != header_crc(header) {
        return Err("the header's checksum does not match".to_owned());
    }
    Ok((u64_at(header, 16), u64_at(header, 24) as i64))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub offset: u64,
    pub byte: u64,
}

/// What is known of a sealed segment without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub base: u64,
    pub end: u64,
    pub len: u64,
    pub earliest: i64,
    pub latest: i64,
}

pub(crate) fn index_file(summary: &Summary, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(INDEX_HEADER + entries.len() * 16 + 4);
    out.extend_from_slice(&INDEX_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for field in [summary.base, summary.end, summary.len, summary.earliest as u64, summary.latest as u64] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.byte.to_le_bytes());
    }
    let crc = crc32fast::hash(&out[INDEX_HEADER..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The summary and the number of entries that follow it. An index is only a shortcut, so a bad one is just `None`.
pub(crate) fn parse_index_header(header: &[u8; INDEX_HEADER]) -> Option<(Summary, usize)> {
    if header[0..8] != INDEX_MAGIC
        || u32_at(header, 8) != VERSION
        || crc32fast::hash(&header[..56]) != u32_at(header, 56)
    {
        return None;
    }
    let summary = Summary {
        base: u64_at(header, 16),
        end: u64_at(header, 24),
        len: u64_at(header, 32),
        earliest: u64_at(header, 40) as i64,
        latest: u64_at(header, 48) as i64,
    };
    Some((summary, u32_at(header, 12) as usize))
}

pub(crate) fn parse_index_entries(bytes: &[u8], count: usize) -> Option<Vec<Entry>> {
    if bytes.len() != count.checked_mul(16)?.checked_add(4)? {
        return None;
    }
    let (entries, crc) = bytes.split_at(count * 16);
    if crc32fast::hash(entries) != u32_at(crc, 0) {
        return None;
    }
    Some(entries.chunks_exact(16).map(|e| Entry { offset: u64_at(e, 0), byte: u64_at(e, 8) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_reads_back_and_any_flipped_bit_shows(
            offset in any::<u64>(), at in any::<i64>(), position in any::<u32>(),
            payload in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut frame = Vec::new();
            put_record(&mut frame, offset, at, position, &payload);
            let head = Head::parse(&frame);
            prop_assert_eq!((head.offset, head.at, head.position, head.frame()), (offset, at, position, frame.len()));
            prop_assert!(head.is_intact(&frame));
            prop_assert_eq!(&frame[RECORD_HEADER..], &payload[..]);
            let byte = flip.index(frame.len());
            frame[byte] ^= 1 << bit;
            prop_assert!(!Head::parse(&frame).is_intact(&frame));
        }

        #[test]
        fn an_index_reads_back(base in any::<u64>(), end in any::<u64>(), len in any::<u64>(), earliest in any::<i64>(),
            latest in any::<i64>(), entries in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let summary = Summary { base, end, len, earliest, latest };
            let entries: Vec<_> = entries.into_iter().map(|(offset, byte)| Entry { offset, byte }).collect();
            let file = index_file(&summary, &entries);
            let header = file[..INDEX_HEADER].try_into().unwrap();
            prop_assert_eq!(parse_index_header(header), Some((summary, entries.len())));
            prop_assert_eq!(parse_index_entries(&file[INDEX_HEADER..], entries.len()), Some(entries));
        }

        #[test]
        fn a_segment_header_reads_back(base in any::<u64>(), made in any::<i64>(), byte in 0..SEGMENT_HEADER, bit in 0u8..8) {
            let mut header = segment_header(base, made);
            prop_assert_eq!(parse_segment_header(&header), Ok((base, made)));
            header[byte] ^= 1 << bit;
            prop_assert!(parse_segment_header(&header).is_err());
        }
    }
}
