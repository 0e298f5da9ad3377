use std::sync::Arc;

use crate::{Error, Offset, Record, Subscription, Topic, local, nats};

/// A subscription with a stored position. Between a `next` and its `commit` a crash makes the records come again, so
/// what is done with them must bear that (or be stored together with the offset).
pub struct Consumer {
    topic: Topic,
    /// The position, when retention has overtaken it.
    subscription: Result<Subscription, Offset>,
    committer: Committer,
}

/// Commits for a consumer while another task reads. Cheap to clone.
#[derive(Clone)]
pub struct Committer {
    stored: Stored,
    topic: Topic,
}

#[derive(Clone)]
pub(crate) enum Stored {
    Local(Arc<local::Stored>),
    Nats(Arc<nats::Shared>, Arc<nats::Stored>),
}

impl Stored {
    pub(crate) fn next(&self) -> Offset {
        match self {
            Self::Local(stored) => stored.next(),
            Self::Nats(_, stored) => stored.next(),
        }
    }
}

impl Consumer {
    pub(crate) fn new(topic: Topic, subscription: Result<Subscription, Offset>, stored: Stored) -> Self {
        Self { committer: Committer { stored, topic: topic.clone() }, topic, subscription }
    }

    /// As [`Subscription::next`]. [`Error::Gone`] when retention has removed records that were not committed: decide
    /// what that means, then [`Consumer::seek`] to the `start` it names. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Record>, Error> {
        match &mut self.subscription {
            Ok(subscription) => subscription.next().await,
            Err(position) => Err(Error::Gone { requested: *position, start: self.topic.start() }),
        }
    }

    /// The offset of the record that `next` will begin with.
    pub fn position(&self) -> Offset {
        match &self.subscription {
            Ok(subscription) => subscription.position(),
            Err(position) => *position,
        }
    }

    /// Reads on at another record; commits nothing.
    pub async fn seek(&mut self, to: Offset) -> Result<(), Error> {
        match &mut self.subscription {
            Ok(subscription) => subscription.seek(to).await?,
            Err(_) => self.subscription = Ok(self.topic.subscribe(to).await?),
        }
        Ok(())
    }

    /// See [`Committer::commit`].
    pub async fn commit(&self, through: Offset) -> Result<(), Error> {
        self.committer.commit(through).await
    }

    /// The first record that is not committed: where the consumer begins after a restart.
    pub fn committed(&self) -> Offset {
        self.committer.committed()
    }

    pub fn committer(&self) -> Committer {
        self.committer.clone()
    }
}

impl Committer {
    /// Everything up to and including `through` is done with; durable when this returns. Committing less than what is
    /// committed already changes nothing. [`Error::Ahead`] when there is no such record yet.
    pub async fn commit(&self, through: Offset) -> Result<(), Error> {
        let end = self.topic.end();
        if through >= end {
            return Err(Error::Ahead { requested: through, end });
        }
        match &self.stored {
            Stored::Local(stored) => stored.commit(through.next(), self.topic.now()).await,
            Stored::Nats(topic, stored) => topic.commit(stored, through.next()).await,
        }
    }

    /// The first record that is not committed.
    pub fn committed(&self) -> Offset {
        self.stored.next()
    }
}
