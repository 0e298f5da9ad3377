use std::{io, path::Path, path::PathBuf, sync::Arc};

use crate::Offset;

/// What can go wrong on a stream. Cloneable, because one failed flush refuses every record of its batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk (or its quota, or the server's limit) is full. Nothing of the batch was kept; the same append succeeds
    /// once there is space again.
    #[error("no space left for '{place}': the record was refused, nothing was stored")]
    Full { place: String },
    /// The disk failed. The record was not acknowledged and must be taken as not stored.
    #[error("cannot use '{}': {source}", path.display())]
    Io { path: PathBuf, source: Arc<io::Error> },
    /// Stored bytes are not what was written. Never repaired silently: restore the file from a backup or a replica.
    #[error("'{}' is damaged at byte {byte}: {what}", file.display())]
    Corrupt { file: PathBuf, byte: u64, what: String },
    /// Another process (or another `Stream` of this one) has the folder open.
    #[error("'{}' is in use by another process; two writers would destroy it", dir.display())]
    Locked { dir: PathBuf },
    /// Retention has removed what was asked for.
    #[error("record {requested} is gone, the oldest kept is {start}")]
    Gone { requested: Offset, start: Offset },
    /// The offset has not been written yet (often: the stream was restored from an older backup than its reader).
    #[error("record {requested} does not exist yet, the stream ends at {end}")]
    Ahead { requested: Offset, end: Offset },
    #[error("a record of {len} bytes is over the limit of {max}")]
    TooLarge { len: usize, max: usize },
    /// The queue is full; only from `append_nowait`. Slow down, or use `enqueue`, which waits.
    #[error("the queue of topic '{topic}' is full")]
    Busy { topic: String },
    #[error("the stream is closed")]
    Closed,
    #[error("there is no topic '{0}'")]
    UnknownTopic(String),
    #[error("'{0}' is not a name: use 1 to 64 of a-z, 0-9, '-' and '_'")]
    Name(String),
    #[error("the option {option} is not usable: {why}")]
    Option { option: &'static str, why: String },
    /// The NATS server refused or did not answer in time.
    #[error("NATS, {what}: {detail}")]
    Nats { what: &'static str, detail: String },
}

impl Error {
    /// Sorts an I/O error: "full" is a state an operator ends, everything else is a failure.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { place: path.display().to_string() }
            }
            _ => Self::Io { path: path.to_owned(), source: Arc::new(source) },
        }
    }

    pub(crate) fn corrupt(file: &Path, byte: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), byte, what: what.into() }
    }

    pub(crate) fn nats(what: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Nats { what, detail: detail.to_string() }
    }
}
