//! Plain counters, for whoever publishes metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(crate) struct Counters {
    pub commands: AtomicU64,
    pub undone: AtomicU64,
    pub panics: AtomicU64,
    pub batches: AtomicU64,
    pub flushes: AtomicU64,
    pub failed_flushes: AtomicU64,
    pub retries: AtomicU64,
    pub reads: AtomicU64,
}

/// Totals since the start, except `queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands waiting for a writer now.
    pub queued: u64,
    /// Commands answered, whatever the answer.
    pub commands: u64,
    /// Commands that failed by themselves and were undone.
    pub undone: u64,
    /// Of these, by a panic.
    pub panics: u64,
    /// Transactions begun for commands.
    pub batches: u64,
    /// Transactions committed.
    pub flushes: u64,
    /// Transactions that the database refused as a whole: disk full, connection lost.
    pub failed_flushes: u64,
    /// Runs beyond the first, after a serialization failure or a lost connection.
    pub retries: u64,
    /// Queries answered on reading connections.
    pub reads: u64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub fn read(&self, queued: usize) -> Stats {
        Stats {
            queued: queued as u64,
            commands: self.commands.load(Relaxed),
            undone: self.undone.load(Relaxed),
            panics: self.panics.load(Relaxed),
            batches: self.batches.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            failed_flushes: self.failed_flushes.load(Relaxed),
            retries: self.retries.load(Relaxed),
            reads: self.reads.load(Relaxed),
        }
    }
}
