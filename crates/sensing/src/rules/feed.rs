//! The observations' way as the engine follows it.

use kernel::Timestamp;

use super::engine::{Arrived, Feed, Reader};
use crate::{
    Error,
    observe::{Applied, Observe, Replay},
};

/// How the rules are known to [`Observe::hold`].
const FOLLOWER: &str = "rules";

impl Feed for Observe {
    type Reader = Replay;
    async fn read(&self, offset: u64) -> Result<Replay, Error> {
        self.replay(offset).await.map_err(Error::internal)
    }
    /// What is applied, not what is durable: a rule must not know more than a reader, and the applier is never far behind.
    fn end(&self) -> u64 {
        self.next_offset()
    }
    fn settled(&self) -> (Timestamp, u64) {
        let settled = Observe::settled(self);
        (settled.at, settled.end.0)
    }
    fn hold(&self, offset: u64) {
        Observe::hold(self, FOLLOWER, offset);
    }
}

impl Reader for Replay {
    async fn next(&mut self) -> Result<Arrived, Error> {
        let applied = Replay::next(self).await.map_err(Error::internal)?;
        Ok(arrived(applied))
    }
    fn ready(&mut self) -> Option<Arrived> {
        Replay::ready(self).map(arrived)
    }
}

fn arrived(Applied { offset, at, frame }: Applied) -> Arrived {
    Arrived { offset, at, frame }
}
