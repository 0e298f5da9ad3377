use crate::Offset;

/// Figures of a topic for `/metrics`. Counters count from when the stream was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStats {
    pub topic: String,
    pub start: Offset,
    pub end: Offset,
    /// What the topic takes on disk, in bytes.
    pub stored_bytes: u64,
    /// Segment files; 0 on NATS.
    pub segments: usize,
    /// Records made durable by this process.
    pub appended: u64,
    /// Bytes made durable by this process, record headers included.
    pub appended_bytes: u64,
    /// Records refused: the disk was full or failed, or the server did not take them in time.
    pub refused: u64,
    /// Group commits. `appended / flushes` is the size of the average batch.
    pub flushes: u64,
    /// Time spent in them, µs (local: fdatasync; NATS: until the last acknowledgement of a batch).
    pub flush_micros: u64,
    /// Records waiting for the writer.
    pub queued: usize,
    /// Bytes waiting or being written; appends wait when this reaches `queue_bytes`.
    pub queued_bytes: usize,
}

/// A stored consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerStatus {
    pub name: String,
    /// The next record it will read after a restart.
    pub next: Offset,
    /// Durable records it has not committed.
    pub lag: u64,
}

/// What a backup or a verification found in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    pub topic: String,
    pub start: Offset,
    pub end: Offset,
    /// Bytes copied (or verified).
    pub bytes: u64,
    /// Bytes of sealed segments that were hard-linked instead of copied.
    pub linked_bytes: u64,
}
