//! Alarms: what rules have raised, and what people do about it.
//!
//! An alarm belongs to its rule's tenant. Who may read, acknowledge or close it is asked of the policy as `alarm:read`,
//! `alarm:acknowledge` and `alarm:close` on a resource of the kind `Alarm`; an alarm that may not be read does not exist (404). A published
//! Datastream's alarm is public in the same sense, and the policy decides whether that means everybody.

pub mod api;
pub mod migrations;
pub mod model;
pub mod silences;
pub mod store;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use kernel::{Action, Caller, Id, Limits, PageSize, Problem, Resource, Tenant};
use records::{Records, Tx};

use crate::{
    Error, Scopes,
    alerts::{self, publisher::Publisher},
    notify,
    route::action,
};
use model::{Alarm, AlarmState, Assignee, Command, Entry, EntryKind, Refusal, decide};
pub use store::{Count, Filter, Visible};

/// The most alarms on a page.
pub const LIMITS: Limits = Limits { page_default: 50, page_max: 500, body_bytes: 16 << 10, depth: 8 };

#[derive(Clone)]
pub struct Alarms(Arc<Inner>);

struct Inner {
    records: Records,
    scopes: Arc<Scopes>,
    /// Counted at this generation; older ones are wrong.
    counts: ArcSwapOption<(u64, Vec<Count>)>,
    generation: AtomicU64,
    /// Makes public warnings of alarms; unset where nobody publishes any.
    publisher: OnceLock<Arc<Publisher>>,
}

/// A page of alarms, newest first.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Listing {
    pub alarms: Vec<Alarm>,
    /// What to send as `after` for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Id<Alarm>>,
}

/// What a person does to an alarm. The system's own `Clear` is not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Acknowledge,
    Unacknowledge,
    Close,
    Remark,
}

impl Deed {
    const fn action(self) -> Action {
        match self {
            Self::Close => action::ALARM_CLOSE,
            Self::Acknowledge | Self::Unacknowledge | Self::Remark => action::ALARM_ACKNOWLEDGE,
        }
    }
    const fn audit(self) -> &'static str {
        match self {
            Self::Acknowledge => "alarm:acknowledge",
            Self::Unacknowledge => "alarm:unacknowledge",
            Self::Close => "alarm:close",
            Self::Remark => "alarm:remark",
        }
    }
}

impl Alarms {
    /// Opens the room's tables for rules, alarms and notifications. Blocks.
    ///
    /// # Errors
    /// Those of the migration.
    pub fn open(records: Records, scopes: Arc<Scopes>) -> Result<Self, Error> {
        records.migrate(migrations::ROOM, migrations::MIGRATIONS).map_err(stored)?;
        for tenant in records.read_blocking(store::tenants).map_err(stored)? {
            scopes.know(&tenant);
        }
        let counts = ArcSwapOption::empty();
        let (generation, publisher) = (AtomicU64::new(0), OnceLock::new());
        Ok(Self(Arc::new(Inner { records, scopes, counts, generation, publisher })))
    }

    /// From now on alarms whose rules declare it become public warnings. The first call counts.
    pub(crate) fn publish_with(&self, publisher: Arc<Publisher>) {
        let _ = self.0.publisher.set(publisher);
    }
    pub(crate) fn publisher(&self) -> Option<Arc<Publisher>> {
        self.0.publisher.get().cloned()
    }

    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }

    pub(crate) fn policy(&self) -> &Arc<dyn kernel::Policy> {
        self.0.scopes.policy()
    }
    pub(crate) fn scopes(&self) -> &Arc<Scopes> {
        &self.0.scopes
    }

    /// What `caller` may read, asked of the policy for each tenant.
    pub fn visible(&self, caller: &Caller) -> Visible {
        if caller.is_system() {
            return Visible { everything: true, ..Visible::default() };
        }
        let may = |tenant: &Tenant, public| {
            let resource = Resource { kind: "Alarm", id: "", tenant: Some(tenant), public };
            self.0.scopes.policy().allows(caller, action::ALARM_READ, &resource)
        };
        let tenants = self.0.scopes.tenants();
        let all = tenants.iter().filter(|t| may(t, false)).cloned().collect();
        let published = tenants.iter().filter(|t| may(t, true)).cloned().collect();
        Visible { everything: false, all, published }
    }

    /// A page of the alarms that `caller` may read, newest first. `limit` is bounded by [`LIMITS`].
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: Filter,
        after: Option<Id<Alarm>>,
        limit: Option<u32>,
    ) -> Result<Listing, Error> {
        let visible = self.visible(caller);
        let limit = PageSize::clamp(limit.map(|l| l.max(1)), &LIMITS).get();
        let found = self.0.records.read(move |read| store::list(read, &visible, &filter, after, limit + 1));
        let mut alarms = found.await.map_err(stored)?;
        let more = alarms.len() > limit;
        alarms.truncate(limit);
        let next = alarms.last().filter(|_| more).map(|a| a.id);
        Ok(Listing { alarms, next })
    }

    /// # Errors
    /// 404 when there is no such alarm or `caller` may not read it.
    pub async fn get(&self, caller: &Caller, id: Id<Alarm>) -> Result<Alarm, Error> {
        let alarm = self.0.records.read(move |read| store::get(read, id)).await.map_err(stored)?;
        alarm.filter(|a| self.may(caller, action::ALARM_READ, a)).ok_or_else(|| missing(id))
    }

    /// Everything that has happened to an alarm, oldest first.
    ///
    /// # Errors
    /// As [`Alarms::get`].
    pub async fn history(&self, caller: &Caller, id: Id<Alarm>) -> Result<Vec<Entry>, Error> {
        self.get(caller, id).await?;
        self.0.records.read(move |read| store::entries(read, id)).await.map_err(stored)
    }

    /// Does `deed`, audited and announced on the topic `events`, and returns the alarm as it is then. `version` is the one that the caller
    /// has seen.
    ///
    /// # Errors
    /// 404 as [`Alarms::get`]; 403 without the right; 412 when somebody else was faster; 409 when the state does not admit it; 400 for a
    /// comment that is missing or not clean.
    pub async fn act(
        &self,
        caller: &Caller,
        id: Id<Alarm>,
        deed: Deed,
        version: Option<u32>,
        comment: &str,
    ) -> Result<Alarm, Error> {
        let seen = self.get(caller, id).await?;
        if !self.may(caller, deed.action(), &seen) {
            return Err(Problem::forbidden("Ask the alarm's department for the right to do this.").into());
        }
        let comment = model::Comment::parse(comment).map_err(|detail| Error::field("/comment", detail))?;
        let command = match deed {
            Deed::Acknowledge => Command::Acknowledge { comment },
            Deed::Unacknowledge => Command::Unacknowledge { comment },
            Deed::Close => Command::Close { comment },
            Deed::Remark => {
                Command::Remark { comment: comment.ok_or_else(|| Error::field("/comment", "a text is expected"))? }
            }
        };
        let (caller, publisher) = (caller.clone(), self.publisher());
        let done = self.0.records.write(move |tx| {
            let alarm = apply(tx, &caller, id, deed.audit(), version, &command)?;
            if let (Deed::Close, Some(publisher)) = (deed, &publisher) {
                alerts::ended(tx, publisher, &caller, &alarm)?;
            }
            Ok::<_, Failure>(alarm)
        });
        let done = done.await;
        self.changed();
        done.map_err(|failure| refused(id, failure))
    }

    /// Asks somebody to see to an alarm, or nobody any more; a team is told of it. Audited, as [`Alarms::act`] is.
    ///
    /// # Errors
    /// As [`Alarms::act`]; 400 for a team that is no recipient of the alarm's tenant; 409 when it is with them already.
    pub async fn assign(
        &self,
        caller: &Caller,
        id: Id<Alarm>,
        to: Option<&str>,
        version: Option<u32>,
        comment: &str,
    ) -> Result<Alarm, Error> {
        let seen = self.get(caller, id).await?;
        if !self.may(caller, action::ALARM_ACKNOWLEDGE, &seen) {
            return Err(Problem::forbidden("Ask the alarm's department for the right to do this.").into());
        }
        let to = match to.map(str::trim).filter(|t| !t.is_empty()) {
            Some("me") => Some(Assignee::parse(&caller.label()).map_err(|e| Error::field("/to", e))?),
            Some(text) => Some(Assignee::parse(text).map_err(|e| Error::field("/to", e))?),
            None => None,
        };
        let comment = model::Comment::parse(comment).map_err(|detail| Error::field("/comment", detail))?;
        let (caller, team) = (caller.clone(), to.as_ref().and_then(Assignee::team).map(str::to_owned));
        let command = Command::Assign { to, comment };
        let done = self.0.records.write(move |tx| {
            if let Some(key) = &team
                && notify::store::recipient(tx, key)?.is_none_or(|r| r.tenant != seen.tenant)
            {
                return Err(Failure::NoTeam);
            }
            let alarm = apply(tx, &caller, id, "alarm:assign", version, &command)?;
            if let Some(key) = &team {
                // Nothing keeps this letter back, so no zone is asked for.
                let mut desk = notify::Desk::new(jiff::tz::TimeZone::UTC);
                let round = alarm.version.to_string();
                desk.tell(tx, &alarm, notify::Occasion::Assigned, std::slice::from_ref(key), &round)?;
            }
            Ok::<_, Failure>(alarm)
        });
        let done = done.await;
        self.changed();
        done.map_err(|failure| refused(id, failure))
    }

    /// The teams that an alarm of this tenant can be given to: keys of its recipients. For those who see all of its alarms.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn teams(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<String>, Error> {
        if !self.visible(caller).admits(tenant, false) {
            return Ok(Vec::new());
        }
        let tenant = tenant.clone();
        self.0.records.read(move |read| notify::store::recipients_of(read, &tenant)).await.map_err(stored)
    }

    fn may(&self, caller: &Caller, action: Action, alarm: &Alarm) -> bool {
        let id = alarm.id.to_string();
        let resource = Resource { kind: "Alarm", id: &id, tenant: Some(&alarm.tenant), public: alarm.public };
        caller.is_system() || self.0.scopes.policy().allows(caller, action, &resource)
    }

    /// How many alarms `caller` may see in each state and severity. Counted once after each change, not once per page.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn counts(&self, caller: &Caller) -> Result<Vec<Count>, Error> {
        let generation = self.0.generation.load(Ordering::Acquire);
        let cached = self.0.counts.load_full().filter(|c| c.0 == generation);
        let counted = match cached {
            Some(counted) => counted,
            None => {
                let rows = self.0.records.read(store::counts).await.map_err(stored)?;
                let counted = Arc::new((generation, rows));
                self.0.counts.store(Some(Arc::clone(&counted)));
                counted
            }
        };
        let visible = self.visible(caller);
        Ok(counted.1.iter().filter(|c| visible.admits(&c.tenant, c.public)).cloned().collect())
    }

    /// Something changed an alarm: counts are counted again. Called after every commit here, and for every `alarm.*` event, because another program
    /// on the same database may have done it.
    pub fn changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Why a change came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Records(records::Error),
    Gone,
    NoTeam,
    Version(u32),
    Refused(Refusal),
}

impl From<records::Error> for Failure {
    fn from(error: records::Error) -> Self {
        Self::Records(error)
    }
}

/// Decides and writes in one transaction: the row, the history, the audit row, the event.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    caller: &Caller,
    id: Id<Alarm>,
    audit: &str,
    version: Option<u32>,
    command: &Command,
) -> Result<Alarm, Failure> {
    let now = store::get(tx, id)?.ok_or(Failure::Gone)?;
    if let Some(expected) = version
        && expected != now.version
    {
        return Err(Failure::Version(now.version));
    }
    let (next, entry) = decide(&now, command, &caller.label(), tx.now()).map_err(Failure::Refused)?;
    if !store::update(tx, &next)? {
        return Err(Failure::Version(now.version));
    }
    store::put_entry(tx, id, &entry)?;
    store::announce(tx, caller, audit, &next, entry.kind)?;
    if now.state.stands() && !next.state.stands() {
        notify::hold::alarm_over(tx, id)?;
    }
    if entry.kind == EntryKind::Unacknowledged && next.state == AlarmState::Open {
        // It is nobody's again, so the patience of those who wait begins anew.
        notify::escalate::rearm(tx, &next)?;
    }
    Ok(next)
}

/// Writes a new alarm with its first line, audit row and event; `false` when it exists already or another one stands.
pub(crate) fn raise(
    tx: &mut Tx<'_>,
    caller: &Caller,
    alarm: &Alarm,
    of_district: bool,
) -> Result<bool, records::Error> {
    if !store::insert(tx, alarm, of_district)? {
        return Ok(false);
    }
    let (version, value) = (alarm.version, alarm.value);
    let entry = Entry { version, at: tx.now(), by: caller.label(), kind: EntryKind::Raised, comment: None, value };
    store::put_entry(tx, alarm.id, &entry)?;
    store::announce(tx, caller, "alarm:raise", alarm, EntryKind::Raised)?;
    Ok(true)
}

/// Why a change came to nothing, as a client sees it.
fn refused(id: Id<Alarm>, failure: Failure) -> Error {
    match failure {
        Failure::Records(error) => stored(error),
        Failure::Gone => missing(id),
        Failure::NoTeam => Error::field("/to", "the alarm's department has no recipient with this key"),
        Failure::Version(now) => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "alarm-changed",
            "The alarm has changed meanwhile",
            format!("Its version is {now} now. Look at it again, then decide."),
        )
        .into(),
        Failure::Refused(Refusal::ReasonNeeded) => Error::field("/comment", Refusal::ReasonNeeded.to_string()),
        Failure::Refused(refusal) => Error::conflict(sentence(refusal)),
    }
}

fn missing(id: Id<Alarm>) -> Error {
    Error::not_found(format!("The alarm {id}"))
}

fn sentence(refusal: Refusal) -> String {
    let text = refusal.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// A failure of the records, as a client sees it.
pub(crate) fn stored(error: records::Error) -> Error {
    match crate::error::away(&error) {
        Some(problem) => {
            tracing::warn!(%error, "the records are not available");
            problem.into()
        }
        None => Error::internal(error),
    }
}

#[cfg(test)]
mod tests;
