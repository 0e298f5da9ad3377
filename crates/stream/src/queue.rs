//! The bounded queue in front of a topic's writer, and the one acknowledgement that all records of a flush share.
//!
//! An append costs no allocation: the payload moves into a vector that keeps its capacity, and the waiters of one batch
//! share one `Batch`, whose `Notify` keeps them in an intrusive list.

use std::{
    mem,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::{Error, Offset};

/// What a queued record costs beside its payload, so that empty records are bounded too.
const RECORD_COST: usize = 64;

#[derive(Debug)]
pub(crate) enum Outcome {
    /// The batch is durable; its first record has this offset and the others follow.
    From(Offset),
    /// Each record has its own fate (other processes write to the same topic).
    Each(Box<[Result<Offset, Error>]>),
    /// Nothing of the batch is stored.
    Refused(Error),
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    outcome: OnceLock<Outcome>,
    done: Notify,
}

impl Batch {
    pub(crate) fn resolve(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() {
            self.done.notify_waiters();
        }
    }

    fn of(&self, index: usize) -> Option<Result<Offset, Error>> {
        Some(match self.outcome.get()? {
            Outcome::From(first) => Ok(Offset(first.0 + index as u64)),
            Outcome::Each(each) => each.get(index).cloned().unwrap_or(Err(Error::Closed)),
            Outcome::Refused(error) => Err(error.clone()),
        })
    }
}

/// An append on its way to the disk. Dropping it does not take the append back.
#[derive(Debug, Clone)]
#[must_use = "the record is not durable before `durable` says so"]
pub struct Pending {
    batch: Arc<Batch>,
    index: usize,
}

impl Pending {
    /// Resolves when the record is durable, or with the reason why it is not. Cancel-safe.
    pub async fn durable(&self) -> Result<Offset, Error> {
        // Registered before looking, or a flush between the two would be missed.
        let done = self.batch.done.notified();
        match self.batch.of(self.index) {
            Some(outcome) => outcome,
            None => {
                done.await;
                self.batch.of(self.index).unwrap_or(Err(Error::Closed))
            }
        }
    }

    /// The outcome, when there is one already.
    pub fn outcome(&self) -> Option<Result<Offset, Error>> {
        self.batch.of(self.index)
    }
}

#[derive(Default)]
struct State {
    records: Vec<Bytes>,
    bytes: usize,
    batch: Arc<Batch>,
    errands: Vec<oneshot::Sender<()>>,
    nudged: bool,
    closed: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    room: Semaphore,
    capacity: usize,
    /// For the writer thread of local segments.
    filled: Condvar,
    /// For the writer task of NATS.
    ready: Notify,
}

/// Everything that was queued. Whoever drops it without an outcome (a panic) has refused it.
pub(crate) struct Taken {
    pub records: Vec<Bytes>,
    cost: usize,
    batch: Arc<Batch>,
}

impl Taken {
    pub(crate) fn resolve(&self, outcome: Outcome) {
        self.batch.resolve(outcome);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.batch.resolve(Outcome::Refused(Error::Closed));
    }
}

pub(crate) enum Take {
    Batch(Taken),
    /// Somebody asks for upkeep, or there was nothing to write for a while. Answer the errands when it is done.
    Idle(Vec<oneshot::Sender<()>>),
    Closed,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            room: Semaphore::new(capacity),
            capacity,
            filled: Condvar::new(),
            ready: Notify::new(),
        }
    }

    fn cost(&self, payload: &Bytes) -> u32 {
        // A record larger than the whole queue is let in alone.
        u32::try_from((payload.len() + RECORD_COST).min(self.capacity)).unwrap_or(u32::MAX)
    }

    /// Waits for room, in order of arrival.
    pub(crate) async fn push(&self, payload: Bytes) -> Result<Pending, Error> {
        let permit = self.room.acquire_many(self.cost(&payload)).await.map_err(|_| Error::Closed)?;
        permit.forget();
        self.insert(payload)
    }

    pub(crate) fn try_push(&self, payload: Bytes, topic: &str) -> Result<Pending, Error> {
        match self.room.try_acquire_many(self.cost(&payload)) {
            Ok(permit) => permit.forget(),
            Err(tokio::sync::TryAcquireError::NoPermits) => return Err(Error::Busy { topic: topic.to_owned() }),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(Error::Closed),
        }
        self.insert(payload)
    }

    fn insert(&self, payload: Bytes) -> Result<Pending, Error> {
        let pending = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::Closed);
            }
            let pending = Pending { batch: state.batch.clone(), index: state.records.len() };
            state.bytes += self.cost(&payload) as usize;
            state.records.push(payload);
            pending
        };
        self.wake();
        Ok(pending)
    }

    fn wake(&self) {
        self.filled.notify_one();
        self.ready.notify_one();
    }

    /// Takes everything there is; `spare` is the vector of an earlier batch, whose capacity is used again.
    fn poll(&self, state: &mut State, spare: &mut Vec<Bytes>) -> Option<Take> {
        // Before the records: a queue that is never empty must not put upkeep off for ever.
        if state.nudged || !state.errands.is_empty() {
            state.nudged = false;
            return Some(Take::Idle(mem::take(&mut state.errands)));
        }
        if !state.records.is_empty() {
            spare.clear();
            let records = mem::replace(&mut state.records, mem::take(spare));
            let batch = mem::take(&mut state.batch);
            let cost = mem::take(&mut state.bytes);
            return Some(Take::Batch(Taken { records, cost, batch }));
        }
        state.closed.then_some(Take::Closed)
    }

    /// For a thread: sleeps until there is something to do, at most `patience`.
    pub(crate) fn take(&self, spare: &mut Vec<Bytes>, patience: Duration) -> Take {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            if let Some(take) = self.poll(&mut state, spare) {
                return take;
            }
            if self.filled.wait_until(&mut state, until).timed_out() {
                return self.poll(&mut state, spare).unwrap_or(Take::Idle(Vec::new()));
            }
        }
    }

    /// For a task: the same, without a thread.
    pub(crate) async fn take_async(&self, spare: &mut Vec<Bytes>, patience: Duration) -> Take {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let ready = self.ready.notified();
            if let Some(take) = self.poll(&mut self.state.lock(), spare) {
                return take;
            }
            if tokio::time::timeout_at(until, ready).await.is_err() {
                return Take::Idle(Vec::new());
            }
        }
    }

    /// Gives the room of a finished batch back, and its vector to the next.
    pub(crate) fn release(&self, mut taken: Taken, spare: &mut Vec<Bytes>) {
        *spare = mem::take(&mut taken.records);
        spare.clear();
        // One burst of tiny records must not keep its vector for ever.
        spare.shrink_to(64 * 1024);
        self.room.add_permits(taken.cost);
    }

    /// Asks the writer for upkeep; resolves when it was done.
    pub(crate) async fn errand(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::Closed);
            }
            state.errands.push(done);
        }
        self.wake();
        answer.await.map_err(|_| Error::Closed)
    }

    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.wake();
    }

    /// No more appends; what is queued is still written.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.wake();
    }

    /// The writer is gone: nobody will write what is still queued.
    pub(crate) fn abandon(&self) {
        self.close();
        let (batch, _errands) = {
            let mut state = self.state.lock();
            state.records.clear();
            (mem::take(&mut state.batch), mem::take(&mut state.errands))
        };
        batch.resolve(Outcome::Refused(Error::Closed));
    }

    /// Records and bytes waiting for the writer or being written.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let waiting = self.state.lock().records.len();
        (waiting, self.capacity.saturating_sub(self.room.available_permits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn back_pressure_holds_the_next_append_until_a_batch_is_done() {
        let queue = Arc::new(Queue::new(1_000));
        let payload = Bytes::from(vec![0; 400]);
        let first = queue.push(payload.clone()).await.unwrap();
        let _second = queue.push(payload.clone()).await.unwrap();
        assert!(matches!(queue.try_push(payload.clone(), "t"), Err(Error::Busy { .. })));
        let waiting = tokio::spawn({
            let (queue, payload) = (queue.clone(), payload.clone());
            async move { queue.push(payload).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let mut spare = Vec::new();
        let Take::Batch(taken) = queue.take(&mut spare, Duration::ZERO) else { panic!("two records wait") };
        assert_eq!(taken.records.len(), 2);
        assert!(first.outcome().is_none());
        taken.resolve(Outcome::From(Offset(7)));
        queue.release(taken, &mut spare);
        assert_eq!(first.durable().await.unwrap(), Offset(7));
        let third = waiting.await.unwrap().unwrap();
        queue.abandon();
        assert!(matches!(third.durable().await, Err(Error::Closed)));
        assert!(matches!(queue.push(payload).await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn a_record_larger_than_the_queue_goes_alone() {
        let queue = Queue::new(100);
        let _pending = queue.push(Bytes::from(vec![0; 5_000])).await.unwrap();
        assert!(matches!(queue.try_push(Bytes::new(), "t"), Err(Error::Busy { .. })));
    }

    #[tokio::test]
    async fn a_writer_that_dies_with_a_batch_refuses_it() {
        let queue = Queue::new(100);
        let pending = queue.push(Bytes::new()).await.unwrap();
        drop(queue.take(&mut Vec::new(), Duration::ZERO));
        assert!(matches!(pending.durable().await, Err(Error::Closed)));
    }
}
