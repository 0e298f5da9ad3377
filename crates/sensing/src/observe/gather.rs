//! Observations that come one by one, from many callers at once, in one frame: its record, its flush and the wait for both are shared.
//!
//! Whoever waits is woken once, when everything is durable and applied, and not at each step of the way.

use std::sync::{Arc, Weak};

use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Error, Inner, Observe};
use crate::model::Observation;

/// Callers that may wait to be recorded; then the next one waits before it waits.
pub(super) const QUEUE: usize = 4_096;
/// Observations in one frame, when many callers come together.
const FRAME: usize = 10_000;
/// Frames on their way to the disk at once. While these are written, the next callers gather.
const FRAMES: usize = 4;

/// An outcome that many callers share.
pub type Shared = Result<(), Arc<Error>>;

/// What one caller brings, and where it is told what became of it.
pub(super) type Waiting = (Vec<Observation>, oneshot::Sender<Shared>);

/// Puts what waits into frames. Frames are begun in order, so one caller's Observations keep theirs. Ends with the last handle.
pub(super) async fn run(inner: Weak<Inner>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut frames = futures::stream::FuturesOrdered::new();
    let mut open = true;
    while open || !frames.is_empty() {
        tokio::select! {
            Some(()) = frames.next(), if !frames.is_empty() => {}
            first = waiting.recv(), if open && frames.len() < FRAMES => {
                let Some(first) = first else {
                    open = false;
                    continue;
                };
                // Whoever is ready to run comes first: what it brings shares this frame, its flush and all that follows.
                tokio::task::yield_now().await;
                let mut batch = Batch::new();
                let mut answers = Vec::new();
                let mut next = Some(first);
                while let Some((observations, answer)) = next {
                    observations.into_iter().for_each(|o| batch.push(o));
                    answers.push(answer);
                    next = if batch.len() < FRAME { waiting.try_recv().ok() } else { None };
                }
                let inner = inner.upgrade();
                frames.push_back(async move {
                    let result = match inner {
                        Some(inner) => Observe(inner).record(batch).await.map(|_| ()).map_err(Arc::new),
                        None => Err(Arc::new(Error::Stopping)),
                    };
                    // Once for all of them: a full disk must not fill the log.
                    if let Err(error) = &result {
                        tracing::warn!(%error, callers = answers.len(), "observations could not be recorded");
                    }
                    for answer in answers {
                        // Whoever has gone does not need to know.
                        let _ = answer.send(result.clone());
                    }
                });
            }
        }
    }
}

impl Observe {
    /// As [`Observe::record`], in one frame with what others bring in the same moment. What fails, fails for all of them.
    ///
    /// # Errors
    /// Those of [`Observe::record`].
    pub async fn record_together(&self, observations: Vec<Observation>) -> Shared {
        if observations.len() > Batch::MAX_ROWS - FRAME {
            return Err(Arc::new(Error::TooMany(observations.len())));
        }
        let (answer, outcome) = oneshot::channel();
        let stopping = || Arc::new(Error::Stopping);
        self.0.gathered.send((observations, answer)).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }
}
