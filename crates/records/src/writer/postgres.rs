//! Several writers on one queue, each command serializable, run again when it lost against another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::{
    Error, MAX_TRIES, Shared, Tx,
    command::{Command, Message, Verdict},
    engine::{Begin, Engine, Failure, Fate, Level, Session},
    stats::count,
    tx::Effects,
};

/// How long a command waits for a database that is away (a restart, a failover) before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Writer {
    session: Session,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
}

/// Lets each writer run its transactions beside the others', until a command has lost too often: then it runs alone. On a row
/// that everybody wants, those who begin later would otherwise win for ever, and each loss costs a round trip.
pub(crate) struct Gate {
    permits: Semaphore,
    writers: u32,
}

impl Gate {
    pub fn new(writers: usize) -> Self {
        // Options allow at most 256.
        Self { permits: Semaphore::new(writers), writers: writers as u32 }
    }

    /// Held for one transaction. The semaphore is fair: whoever asks for all permits stops those who come after.
    fn pass(&self, alone: bool) -> Option<SemaphorePermit<'_>> {
        let permits = if alone { self.writers } else { 1 };
        // Never closed; and without a permit a transaction is as correct, only slower.
        futures::executor::block_on(self.permits.acquire_many(permits)).ok()
    }
}

/// Losses after which a command runs alone.
const POLITE_TRIES: u32 = 3;

/// Why a transaction came to nothing.
enum Refusal {
    /// Nothing is saved.
    Again(Failure),
    /// The answer to COMMIT did not arrive.
    Unknown(Error),
}

impl Writer {
    pub fn new(session: Session, shared: Arc<Shared>, gate: Arc<Gate>) -> Self {
        Self { session, shared, gate }
    }

    pub fn run(mut self, queue: &Mutex<mpsc::Receiver<Message>>, max_batch: usize) {
        let mut batch = Vec::with_capacity(max_batch);
        loop {
            // Waiting under the lock is the hand-over itself: whoever holds it is the next to receive.
            let open = super::collect(&mut queue.lock(), max_batch, &mut batch);
            self.group(std::mem::take(&mut batch));
            if !open {
                return;
            }
        }
    }

    /// Tries several commands in one transaction; if that does not commit, each has one of its own.
    fn group(&mut self, mut group: Vec<Box<dyn Command>>) {
        if group.len() > 1 && group.iter().all(|command| command.begin() == Begin::Write) {
            match self.transaction(&mut group, false) {
                Ok(effects) => return self.shared.committed(group, effects),
                Err(Refusal::Unknown(error)) => return self.shared.refused(group, &error),
                Err(Refusal::Again(_)) => count(&self.shared.counters.retries),
            }
        }
        for command in group {
            self.single(command);
        }
    }

    fn single(&mut self, command: Box<dyn Command>) {
        let mut own = [command];
        let started = Instant::now();
        let mut tries = 0;
        let error = loop {
            tries += 1;
            match self.transaction(&mut own, tries > POLITE_TRIES) {
                Ok(effects) => return self.shared.committed(own, effects),
                Err(Refusal::Unknown(error)) => break error,
                Err(Refusal::Again(failure)) => match failure.fate {
                    Fate::Conflict if tries < MAX_TRIES => {
                        count(&self.shared.counters.retries);
                        pause(tries, 50);
                    }
                    Fate::Conflict => break Error::Contention(tries),
                    Fate::Lost if started.elapsed() < PATIENCE => {
                        count(&self.shared.counters.retries);
                        pause(tries + 6, 500);
                    }
                    _ => break failure.error,
                },
            }
        };
        self.shared.refused(own, &error);
    }

    fn transaction(&mut self, commands: &mut [Box<dyn Command>], alone: bool) -> Result<Effects, Refusal> {
        count(&self.shared.counters.batches);
        let gate = Arc::clone(&self.gate);
        let _permit = gate.pass(alone);
        let begin = commands.first().map_or(Begin::Write, |command| command.begin());
        let result = self.attempt(begin, commands);
        if let Err(refusal) = &result {
            let lost = match refusal {
                Refusal::Unknown(_) => true,
                Refusal::Again(failure) => failure.fate == Fate::Lost,
            };
            self.session.rollback();
            if let (true, Engine::Postgres(connection)) = (lost, &mut self.session.engine) {
                connection.forget();
            }
        }
        result
    }

    fn attempt(&mut self, begin: Begin, commands: &mut [Box<dyn Command>]) -> Result<Effects, Refusal> {
        self.session.begin_within(begin, self.shared.fence.get()).map_err(Refusal::Again)?;
        let alone = commands.len() == 1;
        let mut effects = Effects::default();
        let mut kept = false;
        for command in commands {
            let (verdict, more) = self.one(command.as_mut(), alone).map_err(Refusal::Again)?;
            kept |= verdict == Verdict::Keep;
            effects.merge(more);
        }
        if !kept {
            self.session.rollback();
            return Ok(Effects::default());
        }
        self.session.commit().map_err(|failure| match failure.fate {
            Fate::Lost => Refusal::Unknown(Error::OutcomeUnknown(failure.error.to_string())),
            _ => Refusal::Again(failure),
        })?;
        Ok(effects)
    }

    /// Alone, a command needs no savepoint: the transaction is its own.
    fn one(&mut self, command: &mut dyn Command, alone: bool) -> Result<(Verdict, Effects), Failure> {
        if !alone {
            self.session.savepoint(Level::Command)?;
        }
        let mut tx = Tx::new(&mut self.session, self.shared.clock.now());
        let verdict = command.run(&mut tx);
        let effects = tx.effects;
        if let Some(failure) = self.session.failed.take_if(|failure| failure.fate != Fate::Statement) {
            return Err(failure);
        }
        if verdict == Verdict::Keep {
            if !alone {
                self.session.release(Level::Command)?;
            }
            return Ok((verdict, effects));
        }
        count(&self.shared.counters.undone);
        if verdict == Verdict::Panicked {
            count(&self.shared.counters.panics);
        }
        if !alone {
            self.session.undo(Level::Command)?;
        }
        Ok((verdict, Effects::default()))
    }
}

/// Sleeps a random part of a bound that doubles with each try, so that those who collided do not meet again.
fn pause(tries: u32, most_millis: u64) {
    let bound = (1_u64 << tries.min(16)).min(most_millis);
    std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..=bound * 1_000)));
}
