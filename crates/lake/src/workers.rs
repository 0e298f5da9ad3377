//! The lake's own threads. Encoding, merging and SQL take long turns on the processor and deep stacks; the threads that answer
//! devices and people must not wait behind them.

use std::future::Future;

use tokio::runtime::{Builder, Runtime};

use crate::Error;

/// Planning a query recurses as deep as the query is nested, and unoptimised builds need much stack for each step.
const STACK: usize = 16 << 20;

pub(crate) struct Workers(Option<Runtime>);

impl Workers {
    pub fn start(threads: usize) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("lake")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(|e| Error::store("the lake's threads could not be started", e))?;
        Ok(Self(Some(runtime)))
    }

    /// Runs `work` to its end on the lake's threads, even when the caller stops waiting: a commit is never left half done.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.spawn(work) {
            Some(task) => match task.await {
                Ok(result) => result,
                Err(stopped) => Err(Error::store("work in the lake was stopped", stopped)),
            },
            None => Err(Error::Busy),
        }
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<tokio::task::JoinHandle<T>> {
        Some(self.0.as_ref()?.spawn(work))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The lake may be dropped on an async thread, where waiting for threads to end is not allowed.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
