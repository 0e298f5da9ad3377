//! Group commit: one flush of the disk for all commands that came while the last one was flushed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
    vec::IntoIter,
};

use tokio::sync::mpsc;

use crate::{
    Error, Options, Shared, Tx,
    command::{Command, Message, Verdict},
    engine::{Begin, Failure, Fate, Level, Session},
    stats::count,
    tx::Effects,
};

/// A transaction is not kept open longer than this for the commands behind; slow ones then cost others at most one turn.
const MAX_HOLD: Duration = Duration::from_millis(25);

pub(crate) struct Writer {
    options: Options,
    session: Session,
    shared: Arc<Shared>,
}

impl Writer {
    pub fn new(options: Options, session: Session, shared: Arc<Shared>) -> Self {
        Self { options, session, shared }
    }

    pub fn run(mut self, mut receiver: mpsc::Receiver<Message>, max_batch: usize) {
        let mut batch = Vec::with_capacity(max_batch);
        while super::collect(&mut receiver, max_batch, &mut batch) {
            let mut queue = std::mem::take(&mut batch).into_iter();
            while queue.len() > 0 {
                self.transaction(&mut queue);
            }
        }
        // The queue may end while commands are in hand.
        let mut queue = batch.into_iter();
        while queue.len() > 0 {
            self.transaction(&mut queue);
        }
    }

    /// One transaction: as many commands of the queue as fit into it. Takes at least one.
    fn transaction(&mut self, queue: &mut IntoIter<Box<dyn Command>>) {
        count(&self.shared.counters.batches);
        let started = Instant::now();
        let mut done = Vec::with_capacity(queue.len());
        let mut effects = Effects::default();
        if let Err(failure) = self.session.begin_within(Begin::Write, self.shared.fence.get()) {
            self.lose(queue, failure);
            return;
        }
        for mut command in queue.by_ref() {
            let outcome = self.one(command.as_mut());
            done.push(command);
            match outcome {
                Ok(more) => effects.merge(more),
                Err(failure) => {
                    // SQLite has ended the transaction (full disk, I/O error): all that ran in it is gone.
                    self.lose(done, failure);
                    return;
                }
            }
            if started.elapsed() > MAX_HOLD {
                break;
            }
        }
        match self.session.commit() {
            Ok(()) => self.shared.committed(done, effects),
            Err(failure) => self.lose(done, failure),
        }
    }

    fn one(&mut self, command: &mut dyn Command) -> Result<Effects, Failure> {
        self.session.savepoint(Level::Command)?;
        let mut tx = Tx::new(&mut self.session, self.shared.clock.now());
        let verdict = command.run(&mut tx);
        let effects = tx.effects;
        if let Some(failure) = self.session.failed.take_if(|failure| failure.fate == Fate::Lost) {
            return Err(failure);
        }
        if verdict == Verdict::Keep {
            self.session.release(Level::Command)?;
            return Ok(effects);
        }
        count(&self.shared.counters.undone);
        if verdict == Verdict::Panicked {
            count(&self.shared.counters.panics);
        }
        self.session.undo(Level::Command)?;
        Ok(Effects::default())
    }

    fn lose(&mut self, commands: impl IntoIterator<Item = Box<dyn Command>>, failure: Failure) {
        self.session.rollback();
        // Whatever the engine calls it, the callers' commands are not saved and may be sent again.
        let error = match failure.error {
            error @ (Error::Unavailable(_) | Error::Fenced) => error,
            other => Error::Unavailable(other.to_string()),
        };
        self.shared.refused(commands, &error);
        // After an I/O error the connection's own view of the file is doubtful; a fresh one reads it anew.
        match self.options.session(true) {
            Ok(session) => self.session = session,
            Err(error) => tracing::error!(%error, "the database cannot be reopened; keeping the old connection"),
        }
    }
}
