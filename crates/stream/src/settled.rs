//! Until when nothing more can come: a batch has its time before it is durable, and a slow disk or server may take long.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use kernel::{Clock, Timestamp};

use crate::Offset;

/// Every record with a time before `at` lies before `end`; see [`Topic::settled`](crate::Topic::settled).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    pub at: Timestamp,
    pub end: Offset,
}

/// Since when the one writer of a topic has been at its batch, in microseconds; `IDLE` between batches.
pub(crate) struct Writing(AtomicI64);

const IDLE: i64 = i64::MAX;

impl Default for Writing {
    fn default() -> Self {
        Self(AtomicI64::new(IDLE))
    }
}

impl Writing {
    /// Begins a batch and gives its time. The mark is set before the clock is read for that time: whoever did not see the mark read the
    /// clock earlier.
    pub(crate) fn begin(&self, clock: &dyn Clock) -> Timestamp {
        let mark = clock.now();
        self.0.store(mark.as_micros(), SeqCst);
        clock.now().max(mark)
    }

    /// The batch is shown to readers, or refused.
    pub(crate) fn end(&self) {
        self.0.store(IDLE, SeqCst);
    }

    /// `now` was read before, and `end` is asked last: a batch that has ended by then is within it.
    pub(crate) fn settled(&self, now: Timestamp, end: impl FnOnce() -> Offset) -> Settled {
        let at = now.min(Timestamp::from_micros(self.0.load(SeqCst)));
        Settled { at, end: end() }
    }
}
