//! The threads that run commands.

mod postgres;
mod sqlite;

use std::{sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    EngineOptions, Error, Options, Shared,
    command::{Command, Message},
    engine::Session,
    stats::count,
    tx::Effects,
};

/// Starts the writers; `first` is a session that is open already.
pub(crate) fn start(
    options: &Options,
    first: Session,
    receiver: mpsc::Receiver<Message>,
    shared: &Arc<Shared>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        thread.map_err(|error| Error::Unavailable(format!("a writer thread cannot be started: {error}")))
    };
    let max_batch = options.max_batch;
    match &options.engine {
        EngineOptions::Sqlite { .. } => {
            let writer = sqlite::Writer::new(options.clone(), first, Arc::clone(shared));
            let thread = spawn("records-writer".to_owned(), Box::new(move || writer.run(receiver, max_batch)))?;
            Ok(vec![thread])
        }
        EngineOptions::Postgres { .. } => {
            let queue = Arc::new(Mutex::new(receiver));
            let gate = Arc::new(postgres::Gate::new(options.writers));
            let mut first = Some(first);
            let start = |index: usize| {
                let session = first.take().map_or_else(|| options.session(true), Ok)?;
                let writer = postgres::Writer::new(session, Arc::clone(shared), Arc::clone(&gate));
                let queue = Arc::clone(&queue);
                spawn(format!("records-writer-{index}"), Box::new(move || writer.run(&queue, max_batch)))
            };
            (0..options.writers).map(start).collect()
        }
    }
}

/// Waits for a command and takes with it what is queued behind it, up to `max_batch`. `false` when the queue has ended.
fn collect(receiver: &mut mpsc::Receiver<Message>, max_batch: usize, batch: &mut Vec<Box<dyn Command>>) -> bool {
    loop {
        let message = if batch.is_empty() {
            match receiver.blocking_recv() {
                Some(message) => message,
                None => return false,
            }
        } else {
            match receiver.try_recv() {
                Ok(message) => message,
                Err(_) => return true,
            }
        };
        match message {
            Message::Command(command) if command.is_abandoned() => drop(command),
            Message::Command(command) => batch.push(command),
            Message::Close => receiver.close(),
        }
        if batch.len() == max_batch {
            return true;
        }
    }
}

impl Shared {
    /// Answers commands whose transaction is durable.
    fn committed(&self, done: impl IntoIterator<Item = Box<dyn Command>>, effects: Effects) {
        count(&self.counters.flushes);
        if effects.events {
            self.events.send_modify(|commits| *commits += 1);
        }
        if effects.jobs {
            self.jobs.send_modify(|commits| *commits += 1);
        }
        for command in done {
            count(&self.counters.commands);
            command.finish(None);
        }
    }

    /// Answers commands whose transaction came to nothing.
    fn refused(&self, done: impl IntoIterator<Item = Box<dyn Command>>, error: &Error) {
        count(&self.counters.failed_flushes);
        tracing::warn!(%error, "a transaction was refused");
        for command in done {
            count(&self.counters.commands);
            command.finish(Some(error.clone()));
        }
    }
}
