//! Reading connections: as many as the options say, opened when first needed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Error, Options, Read, Shared,
    command::panic_text,
    engine::{Begin, Session},
    stats::count,
};

pub(crate) struct Readers {
    options: Options,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    shared: Arc<Shared>,
}

impl Readers {
    /// Opens one connection, so that a wrong option is seen at the start.
    pub fn open(options: &Options, shared: Arc<Shared>) -> Result<Self, Error> {
        let first = options.session(false)?;
        Ok(Self {
            options: options.clone(),
            permits: Arc::new(Semaphore::new(options.readers)),
            idle: Mutex::new(vec![first]),
            shared,
        })
    }

    pub async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)
    }

    /// To be called with a permit in hand.
    pub fn run<T, E: From<Error>>(&self, query: impl FnOnce(&mut Read<'_>) -> Result<T, E>) -> Result<T, E> {
        let idle = self.idle.lock().pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.options.session(false)?,
        };
        let result = match session.begin(Begin::Read) {
            Err(failure) => Err(failure.error.into()),
            Ok(()) => {
                let mut read = Read::new(&mut session, self.shared.clock.now());
                let outcome = catch_unwind(AssertUnwindSafe(|| query(&mut read)));
                // The snapshot ends here; there is nothing to commit.
                session.rollback();
                outcome.unwrap_or_else(|panic| {
                    count(&self.shared.counters.panics);
                    Err(Error::Panicked(panic_text(panic.as_ref())).into())
                })
            }
        };
        count(&self.shared.counters.reads);
        self.idle.lock().push(session);
        result
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // Closing a PostgreSQL connection runs its own runtime, which must not happen on a thread that drives async tasks.
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(std::thread::Builder::new().name("records-close".to_owned()).spawn(move || drop(idle)));
    }
}
