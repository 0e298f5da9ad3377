use std::fmt;

use bytes::Bytes;
use kernel::Timestamp;
use serde::{Deserialize, Serialize};

/// The position of a record in its topic: 0, 1, 2, ... without holes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    pub const ZERO: Self = Self(0);

    /// The offset of the record after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Offset {
    fn from(offset: u64) -> Self {
        Self(offset)
    }
}

/// One durable record. The payload shares memory with the other records read along with it: whoever keeps a small
/// payload for long should copy it, or it keeps the whole block (up to a megabyte or so) alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub offset: Offset,
    /// When the stream took the record, by the clock of the machine that wrote it. Not monotonic: clocks jump.
    pub at: Timestamp,
    pub payload: Bytes,
}
