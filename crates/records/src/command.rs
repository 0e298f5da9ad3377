//! A command on its way from a caller to a writer and back.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::sync::oneshot;

use crate::{Error, Tx, engine::Begin};

pub(crate) enum Message {
    Command(Box<dyn Command>),
    /// Answer what is queued, then end.
    Close,
}

/// What becomes of a command's changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Keep,
    Undo,
    Panicked,
}

pub(crate) trait Command: Send {
    fn begin(&self) -> Begin;
    /// Nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
    fn run(&mut self, tx: &mut Tx<'_>) -> Verdict;
    /// Answers: what the last run returned, or `failure` when its transaction came to nothing.
    fn finish(self: Box<Self>, failure: Option<Error>);
}

pub(crate) struct Typed<F, T, E> {
    begin: Begin,
    command: F,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Typed<F, T, E> {
    pub fn new(begin: Begin, command: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self { begin, command, result: None, reply }
    }
}

impl<F, T, E> Command for Typed<F, T, E>
where
    F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn begin(&self) -> Begin {
        self.begin
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Verdict {
        // Whatever the command left half-done lies in the transaction, which is undone, or in the command, which is dropped.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.command)(tx)));
        let (result, verdict) = match outcome {
            // It swallowed a failed statement: what it believes to have written is not there.
            Ok(Ok(_)) if tx.failed().is_some() => {
                let text = tx.failed().map(|failure| failure.error.to_string()).unwrap_or_default();
                (Err(Error::Failed(text).into()), Verdict::Undo)
            }
            Ok(result) => {
                let verdict = if result.is_ok() { Verdict::Keep } else { Verdict::Undo };
                (result, verdict)
            }
            Err(panic) => (Err(Error::Panicked(panic_text(panic.as_ref())).into()), Verdict::Panicked),
        };
        self.result = Some(result);
        verdict
    }

    fn finish(self: Box<Self>, failure: Option<Error>) {
        let result = match (failure, self.result) {
            (Some(error), _) => Err(error.into()),
            (None, Some(result)) => result,
            (None, None) => Err(Error::Closed.into()),
        };
        // The caller may have gone; the command stands nevertheless.
        drop(self.reply.send(result));
    }
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
