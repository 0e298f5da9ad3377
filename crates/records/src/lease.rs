//! One program at a time: a lease that is renewed while its holder lives, and a fence that keeps out a holder who does not know yet that it
//! has lost it.
//!
//! No clock is compared with another's. The holder counts a beat up; who waits takes over when it has looked at the same beat for the whole
//! patience, by its own watch and without having been blind in between (a database that was away proves nothing about the holder).
//! Taking over begins a new term. [`Records::fence`] makes every later write of a handle commit only while its term stands: the term is read
//! in the same transaction, so on PostgreSQL a writer of the old term is ordered before the take-over and seen by the new holder, or fails.
//!
//! Term and beat are rows of two tables, because every fenced transaction reads the term, and a beat must not conflict with all of them.

use std::time::Duration;

use crate::{Error, Records, params};

/// The tables, as the second migration of this room.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE records_lease (name TEXT PRIMARY KEY, term BIGINT NOT NULL);
    CREATE TABLE records_lease_beat (name TEXT PRIMARY KEY, holder TEXT NOT NULL, beat BIGINT NOT NULL, held BIGINT NOT NULL);";

/// A holding of a lease. Names are words of the program, never input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    pub(crate) name: &'static str,
    pub(crate) number: i64,
}

impl Term {
    /// Counts up with every take-over.
    pub fn number(self) -> i64 {
        self.number
    }
}

/// Who has it, as seen by somebody else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// What the holder called itself.
    pub holder: String,
    term: i64,
    beat: i64,
}

/// What a look at a lease found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    Mine(Term),
    Held(Holder),
}

/// How long a holder has been silent, by the watch of the one who looks: `now` is the time since any fixed moment.
#[derive(Debug)]
pub struct Patience {
    length: Duration,
    seen: Option<(Holder, Duration)>,
}

impl Patience {
    pub fn new(length: Duration) -> Self {
        Self { length, seen: None }
    }

    /// The holder, when it has been silent for the whole patience: what [`Records::take_lease`] wants to be told.
    pub fn saw(&mut self, holder: &Holder, now: Duration) -> Option<Holder> {
        match &self.seen {
            Some((before, since)) if before == holder => {
                (now.saturating_sub(*since) >= self.length).then(|| holder.clone())
            }
            _ => {
                self.seen = Some((holder.clone(), now));
                None
            }
        }
    }

    /// A look failed. Perhaps the holder could not reach the database either, so its silence begins anew.
    pub fn blind(&mut self) {
        self.seen = None;
    }
}

impl Records {
    /// Takes the lease `name` if nobody has it, if it was given back, or if its holder is still the `silent` one.
    pub async fn take_lease(&self, name: &'static str, holder: &str, silent: Option<Holder>) -> Result<Look, Error> {
        let holder = holder.to_owned();
        self.write(move |tx| {
            let sql = "SELECT l.term, b.holder, b.beat, b.held FROM records_lease l
                       JOIN records_lease_beat b ON b.name = l.name WHERE l.name = $1";
            let found = tx.query_opt(sql, params![name], |row| {
                Ok((Holder { term: row.get(0)?, holder: row.get(1)?, beat: row.get(2)? }, row.get::<i64>(3)? == 1))
            })?;
            let number = match found {
                Some((standing, true)) if silent.as_ref() != Some(&standing) => return Ok(Look::Held(standing)),
                Some((before, _)) => before.term + 1,
                None => 1,
            };
            tx.execute(
                "INSERT INTO records_lease (name, term) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET term = excluded.term",
                params![name, number],
            )?;
            tx.execute(
                "INSERT INTO records_lease_beat (name, holder, beat, held) VALUES ($1, $2, 0, 1)
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, beat = 0, held = 1",
                params![name, holder],
            )?;
            Ok(Look::Mine(Term { name, number }))
        })
        .await
    }

    /// Shows that the holder lives. `false` when somebody has taken over, for good.
    pub async fn renew_lease(&self, term: Term) -> Result<bool, Error> {
        self.beat(term, "UPDATE records_lease_beat SET beat = beat + 1 WHERE name = $1 AND held = 1").await
    }

    /// Gives the lease back: the next one need not wait.
    pub async fn release_lease(&self, term: Term) -> Result<bool, Error> {
        self.beat(term, "UPDATE records_lease_beat SET held = 0 WHERE name = $1").await
    }

    async fn beat(&self, term: Term, sql: &'static str) -> Result<bool, Error> {
        self.write(move |tx| {
            let stands = "SELECT COUNT(*) FROM records_lease WHERE name = $1 AND term = $2";
            let stands = tx.query_one(stands, params![term.name, term.number], |row| row.get::<i64>(0))?;
            Ok(stands == 1 && tx.execute(sql, params![term.name])? == 1)
        })
        .await
    }

    /// From now on every write through this handle and its clones commits only while `term` stands; then [`Error::Fenced`]. Reads go on.
    /// A handle is fenced once.
    pub fn fence(&self, term: Term) -> Result<(), Error> {
        let again = |_| Error::Invalid("these records are fenced already".to_owned());
        self.shared().fence.set(term).map_err(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_while_it_is_looked_at() {
        let holder = |beat| Holder { holder: "a".to_owned(), term: 1, beat };
        let secs = Duration::from_secs;
        let mut patience = Patience::new(secs(10));
        assert_eq!(patience.saw(&holder(1), secs(0)), None);
        assert_eq!(patience.saw(&holder(1), secs(9)), None);
        assert_eq!(patience.saw(&holder(2), secs(10)), None, "a beat");
        assert_eq!(patience.saw(&holder(2), secs(19)), None);
        patience.blind();
        assert_eq!(patience.saw(&holder(2), secs(100)), None, "nobody has looked in between");
        assert_eq!(patience.saw(&holder(2), secs(110)), Some(holder(2)));
    }
}
