//! A dry run: what a rule would have raised, had it watched the past.
//!
//! It runs the same machines as the engine ([`replay`]) over stored Observations, with the levels and times that somebody is thinking of, and changes nothing:
//! no alarm, no letter, no row. It is bounded in time, rows, Datastreams and memory, and says what it has not read: a figure that leaves something
//! out without saying so would be worse than none.

pub mod api;
pub mod replay;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use kernel::{Caller, Problem, Resource, Text, Timestamp};
use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Rules, facts,
    model::{Facts, Rule},
};
use crate::{
    Error,
    alarms::stored,
    model::EntityId,
    query::{Series, Span},
    route::action,
};
use replay::{Episode, Row, replay};

/// Datastreams of one run.
pub const MAX_SERIES: usize = 500;
/// Observations of one run; 24 bytes each.
pub const MAX_ROWS: usize = 500_000;
/// The longest span.
pub const MAX_SPAN_SECS: i64 = 400 * 86_400;
/// Alarms that are listed one by one.
pub const MAX_EPISODES: usize = 500;
/// How long reading may take.
const MAX_TIME: Duration = Duration::from_secs(15);
/// Observations of one question.
const PAGE: usize = 10_000;
/// Runs at once; whoever comes third is asked to come again.
const AT_ONCE: usize = 2;

#[derive(Clone)]
pub struct Trials {
    rules: Rules,
    series: Arc<dyn Series>,
    zone: TimeZone,
    gate: Arc<Semaphore>,
    max_rows: usize,
}

/// What a rule would have raised.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// What the span really was: later than what was asked where not all could be read.
    pub from: Timestamp,
    pub to: Timestamp,
    pub asked_from: Timestamp,
    /// Datastreams and Observations that were looked at.
    pub datastreams: usize,
    pub observations: usize,
    /// Datastreams among them whose values are made up.
    pub simulated: usize,
    /// Datastreams that the rule watches and this run has not read.
    pub left_out: usize,
    /// Whether everything that was asked for was read.
    pub complete: bool,
    /// Alarms that there would have been, and the seconds that they would have stood, one after the other.
    pub alarms: usize,
    pub seconds: i64,
    /// The newest [`MAX_EPISODES`] of them, oldest first.
    pub episodes: Vec<Episode>,
    /// Where, most alarms first.
    pub places: Vec<Place>,
}

/// One Datastream that would have raised.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Place {
    pub datastream: EntityId,
    pub thing: EntityId,
    pub thing_name: Text,
    pub alarms: usize,
    pub seconds: i64,
}

impl Trials {
    /// Hours and weekdays in expressions are those of `zone`.
    pub fn new(rules: Rules, series: Arc<dyn Series>, zone: TimeZone) -> Self {
        Self { rules, series, zone, gate: Arc::new(Semaphore::new(AT_ONCE)), max_rows: MAX_ROWS }
    }

    #[cfg(test)]
    #[must_use]
    pub fn with_rows(mut self, most: usize) -> Self {
        self.max_rows = most;
        self
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn now(&self) -> Timestamp {
        self.rules.alarms.records().now()
    }

    /// Runs `rule` over what its tenant's Datastreams said between two times; to now, and over the last year, where none are given. A rule that is switched
    /// off is run as if it were on.
    ///
    /// # Errors
    /// 404 where the caller may not read the rules of the tenant, 403 where it may not read all of its Datastreams; 400 for a span that is empty, too long
    /// or not over; 503 while others run.
    pub async fn run(
        &self,
        caller: &Caller,
        rule: &Rule,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Outcome, Error> {
        if !self.rules.may(caller, action::RULE_READ, &rule.tenant, &rule.key) {
            return Err(Error::not_found(format!("The department '{}'", rule.tenant)));
        }
        let things = Resource { kind: "Thing", id: "", tenant: Some(&rule.tenant), public: false };
        if !caller.is_system() && !self.rules.alarms.policy().allows(caller, action::READ, &things) {
            return Err(Problem::forbidden("Ask the department for the right to read its Datastreams.").into());
        }
        let now = self.now();
        let to = to.unwrap_or(now);
        let asked_from = from.unwrap_or_else(|| to.plus_secs(-365 * 86_400));
        if to > now {
            return Err(Error::field("/to", "a time that has passed is expected: nobody knows what comes"));
        }
        if asked_from >= to {
            return Err(Error::field("/from", "a time before 'to' is expected"));
        }
        if asked_from < to.plus_secs(-MAX_SPAN_SECS) {
            return Err(Error::field(
                "/from",
                format!("at most {} days before 'to' are expected", MAX_SPAN_SECS / 86_400),
            ));
        }
        let permit = Arc::clone(&self.gate).try_acquire_owned();
        let busy = "Other rules are being tried over the past right now. Try again in a moment.";
        let permit = permit.map_err(|_| Error::from(Problem::unavailable(busy, 10)))?;
        let rule = Arc::new(
            Rule::new(super::model::RuleDeclaration { enabled: true, ..rule.declaration().clone() })
                .map_err(|errors| Error::internal(format!("a rule that was checked is wrong: {errors:?}")))?,
        );
        let found = self.rules.alarms.records().read(move |read| {
            let rules = crate::moving::fences::attach(read, vec![Arc::clone(&rule)])?;
            let (facts, _) = facts::load(read, &rules)?;
            Ok::<_, records::Error>((rules.into_iter().next().unwrap_or_else(|| Arc::clone(&rule)), facts))
        });
        let (rule, facts) = found.await.map_err(stored)?;
        let (facts, left_out) = choose(&rule, facts);
        let simulated = facts.iter().filter(|f| f.simulated).count();
        let (read, unread) = self.read(&rule, &facts, (asked_from, to)).await?;
        let Read { mut rows, from, series } = read;
        rows.retain(|row| row.at >= from.as_micros());
        let observations = rows.len();
        let zone = self.zone.clone();
        let run = tokio::task::spawn_blocking(move || {
            let episodes = replay(&rule, &facts, rows, (from, to), zone);
            drop(permit);
            episodes
        });
        let episodes = run.await.map_err(Error::internal)?;
        let left_out = left_out + unread;
        let complete = left_out == 0 && from == asked_from;
        Ok(sum_up(Outcome {
            from,
            to,
            asked_from,
            datastreams: series,
            observations,
            simulated,
            left_out,
            complete,
            alarms: 0,
            seconds: 0,
            episodes,
            places: Vec::new(),
        }))
    }

    /// The newest Observations of each Datastream, each with an equal share of the rows; and how many Datastreams there was no time for.
    async fn read(
        &self,
        rule: &Rule,
        facts: &[Arc<Facts>],
        (from, to): (Timestamp, Timestamp),
    ) -> Result<(Read, usize), Error> {
        let deadline = Instant::now() + MAX_TIME;
        let share = self.max_rows / facts.len().max(1);
        let mut read = Read { rows: Vec::new(), from, series: 0 };
        for (at, one) in facts.iter().enumerate() {
            let one = self.series(rule, one.datastream, at as u32, (from, to), share);
            match tokio::time::timeout_at(deadline, one).await {
                Ok(found) => {
                    let (rows, begins) = found?;
                    read.rows.extend(rows);
                    read.from = read.from.max(begins);
                    read.series += 1;
                }
                Err(_) => return Ok((read, facts.iter().skip(at).filter(|f| rule.selects(f)).count())),
            }
        }
        Ok((read, 0))
    }

    /// One Datastream from its newest Observation in the span backwards, at most `share` of them: and since when that is everything.
    async fn series(
        &self,
        rule: &Rule,
        datastream: EntityId,
        series: u32,
        (from, to): (Timestamp, Timestamp),
        share: usize,
    ) -> Result<(Vec<Row>, Timestamp), Error> {
        let (mut rows, mut after, mut seen) = (Vec::new(), None, 0);
        loop {
            let limit = PAGE.min(share + 1 - seen);
            let span = Span { datastream, from: Some(from), to: Some(to), descending: true, after, limit };
            let found = self.series.read(span).await?;
            let whole = found.len() < limit;
            for o in &found {
                seen += 1;
                if seen > share {
                    // There is more than the share: what began with this one or before is not known wholly.
                    return Ok((rows, o.phenomenon.start.plus_micros(1)));
                }
                rows.extend(Row::of(o, series, rule.quality).filter(|row| row.at <= to.as_micros()));
            }
            after = found.last().map(crate::model::Observation::id);
            if whole || after.is_none() {
                return Ok((rows, from));
            }
        }
    }
}

struct Read {
    rows: Vec<Row>,
    from: Timestamp,
    series: usize,
}

/// As many Datastreams as one run may read: those that the rule watches, Thing by Thing, each with what it looks at beside them. And how many of those that
/// it watches are left out.
fn choose(rule: &Rule, facts: Vec<Arc<Facts>>) -> (Vec<Arc<Facts>>, usize) {
    let mut things: BTreeMap<i64, Vec<Arc<Facts>>> = BTreeMap::new();
    for facts in facts {
        things.entry(facts.thing.0).or_default().push(facts);
    }
    let (mut chosen, mut left_out) = (Vec::new(), 0);
    for (_, all) in things {
        if chosen.len() + all.len() <= MAX_SERIES {
            chosen.extend(all);
        } else {
            left_out += all.iter().filter(|f| rule.selects(f)).count();
        }
    }
    (chosen, left_out)
}

fn sum_up(mut outcome: Outcome) -> Outcome {
    let mut places: BTreeMap<EntityId, Place> = BTreeMap::new();
    for e in &outcome.episodes {
        let place = places.entry(e.datastream).or_insert_with(|| Place {
            datastream: e.datastream,
            thing: e.thing,
            thing_name: e.thing_name.clone(),
            alarms: 0,
            seconds: 0,
        });
        place.alarms += 1;
        place.seconds += e.seconds;
    }
    outcome.alarms = outcome.episodes.len();
    outcome.seconds = outcome.episodes.iter().map(|e| e.seconds).sum();
    outcome.places = places.into_values().collect();
    outcome.places.sort_by_key(|p| (std::cmp::Reverse(p.alarms), std::cmp::Reverse(p.seconds), p.datastream));
    let older = outcome.episodes.len().saturating_sub(MAX_EPISODES);
    outcome.episodes.drain(..older);
    outcome
}
