//! Tasking (OGC 17-079): what may be asked of actuators, who may ask, and what becomes of it.
//!
//! `TaskingCapabilities`, `Actuators` and `Tasks` are entities of the catalogue like others, but a Task is written here alone, because it moves
//! something in the city. [`model`] decides, [`store`] writes, this is the facade; [`swe`] and [`terms`] say what may be asked for.

pub mod api;
pub mod desk;
pub mod model;
mod propose;
mod store;
pub mod swe;
pub mod terms;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use http::StatusCode;
use kernel::{Action, Caller, Principal, Problem, Resource, Tenant, Timestamp};
use parking_lot::{Mutex, RwLock};
use records::{Job, JobFailure, RetryPolicy};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    catalog::{Catalog, Entity, Owner, Update, Writer, patched, schema::STATUS},
    model::{EntityId, EntityType, Observation, ResultValue},
    observe::Observe,
    query::Series,
    route::action,
};
use model::{Event, Status, Verify};
use store::Failure;
pub use store::{Entry, Run, Stop, Switched};
use swe::Record;
use terms::{REASON_BYTES, Request, Terms};

pub(crate) use store::{forget, is_busy, is_stopped};

/// What a kill switch is thrown for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stopped {
    City,
    Tenant(Tenant),
    Actuator(EntityId),
}

/// Whether a caller is the device of a Thing; what the register of devices knows.
pub type Owns = Arc<dyn Fn(&Caller, &Tenant, EntityId) -> bool + Send + Sync>;

/// Jobs looked at at once. Each is one short transaction.
const CONCURRENCY: usize = 8;
/// Tasks on a page of the list.
pub const PAGE: usize = 100;
/// Rows looked at for one page: those that the caller may not see are left out.
const LOOKED: i64 = 1_000;
/// How often so many are looked at.
const LOOKS: usize = 20;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Tasking(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    series: Arc<dyn Series>,
    owns: Owns,
    /// Datastreams that some Task waits to read back from. One too many costs a look-up.
    watched: RwLock<BTreeSet<EntityId>>,
    /// Devices that have connected since this start: as many as are registered.
    come: Mutex<BTreeSet<String>>,
}

/// What somebody does to a Task that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Approve,
    Reject,
    Cancel,
    Renew,
    Release,
    RollBack,
}

impl Deed {
    pub const ALL: [Self; 6] = [Self::Approve, Self::Reject, Self::Cancel, Self::Renew, Self::Release, Self::RollBack];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Cancel => "cancel",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::RollBack => "roll-back",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }
    /// What whoever does it must be allowed to.
    pub const fn action(self) -> Action {
        match self {
            Self::Approve | Self::Reject => action::TASK_APPROVE,
            Self::Cancel | Self::Renew | Self::Release | Self::RollBack => action::TASK_PROPOSE,
        }
    }
    fn event(self, by: String, alone: bool) -> Event {
        match self {
            Self::Approve => Event::Approve { by },
            Self::Reject => Event::Reject { by },
            Self::Cancel => Event::Cancel,
            Self::Renew => Event::Renew,
            Self::Release => Event::Release,
            Self::RollBack => Event::RollBack { alone },
        }
    }
}

fn missing(id: EntityId) -> Error {
    Error::not_found(format!("Tasks({id})"))
}

impl Failure {
    fn of(self, id: EntityId) -> Error {
        match self {
            Self::Records(error) => error.into(),
            Self::Gone => missing(id),
            Self::Version(now) => Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "task-changed",
                "The Task has changed meanwhile",
                format!("Its version is {now} now. Look at it again, then decide."),
            )
            .into(),
            Self::Refused(refusal @ model::Refusal::OwnTask) => {
                Problem::forbidden(sentence(&refusal.to_string())).into()
            }
            Self::Refused(refusal) => Error::conflict(sentence(&refusal.to_string())),
        }
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

fn reason(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let good = text.len() <= REASON_BYTES && !text.contains('\0');
    if good { Ok(text.to_owned()) } else { Err(Error::field("comment", format!("at most {REASON_BYTES} bytes"))) }
}

/// A result as JSON.
fn value_of(o: &Observation) -> Value {
    match &o.result {
        ResultValue::Number(number) => json!(number),
        ResultValue::Json(raw) => serde_json::from_str(raw.get()).unwrap_or(Value::Null),
    }
}

fn owner_of(run: &Run) -> Owner {
    Owner { tenant: run.tenant.clone(), public: run.public }
}

/// That devices may propose does not make what others have proposed theirs.
fn not_of_another(caller: &Caller, run: &Run) -> Result<(), Error> {
    if matches!(caller.principal, Principal::Device { .. }) && run.task.proposer != caller.label() {
        return Err(Problem::forbidden(format!("Tasks({}) was proposed by another.", run.id)).into());
    }
    Ok(())
}

impl Tasking {
    /// On the tables of `catalog`. `series` are the heads that expected states and read-backs are compared with.
    pub fn new(catalog: Catalog, series: Arc<dyn Series>, owns: Owns) -> Self {
        Self(Arc::new(Inner { catalog, series, owns, watched: RwLock::default(), come: Mutex::default() }))
    }

    fn latest(&self) -> impl Fn(EntityId) -> Option<(Timestamp, Value)> + Send + Sync + 'static {
        let series = Arc::clone(&self.0.series);
        move |id| series.latest(id).map(|o| (o.phenomenon.end, value_of(&o)))
    }

    fn may(&self, caller: &Caller, action: Action, tenant: Option<&Tenant>, public: bool) -> bool {
        let resource = Resource { kind: "Task", id: "", tenant, public };
        caller.is_system() || self.0.catalog.scopes().policy().allows(caller, action, &resource)
    }

    /// Whether `caller` may ask for Tasks of this tenant's actuators.
    pub fn allows(&self, caller: &Caller, action: Action, tenant: &Tenant) -> bool {
        self.may(caller, action, Some(tenant), false)
    }

    // --- asking ---------------------------------------------------------------------------------------------------

    /// Creates a Task (17-079 section 8), and sends it when nothing stands against it. The same key brings the same Task.
    ///
    /// # Errors
    /// 400 that names the parameter; 401, 403 and 404 as everywhere; 409 for a key that was used for something else.
    pub async fn propose(
        &self,
        caller: &Caller,
        body: &Value,
        capability: Option<EntityId>,
        key: Option<&str>,
    ) -> Result<EntityId, Error> {
        let mut request = Request::parse(body)?;
        match (&request.key, key) {
            (Some(body), Some(header)) if body != header => {
                return Err(Error::field("Idempotency-Key", "the header and the body have different keys"));
            }
            (None, Some(header)) => {
                terms::check_key("Idempotency-Key", header)?;
                request.key = Some(header.to_owned());
            }
            _ => {}
        }
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        // What the key stands for: the place and the body.
        let asked = json!({ "capability": capability, "body": body });
        self.proposed(caller, request, capability, asked, None).await
    }

    /// Creates a Task as an MQTT client has published it (17-079 section 9). `message` is what its client calls the message, and `again` that
    /// it says the message may have come before: then it is the same Task. A key in the body counts as everywhere.
    ///
    /// # Errors
    /// As [`Tasking::propose`].
    pub async fn propose_published(
        &self,
        caller: &Caller,
        capability: Option<EntityId>,
        payload: &[u8],
        (message, again): (Option<&str>, bool),
    ) -> Result<EntityId, Error> {
        let body: Value =
            serde_json::from_slice(payload).map_err(|e| Error::bad_request(format!("It is not JSON: {e}.")))?;
        let mut request = Request::parse(&body)?;
        let asked = json!({ "capability": capability, "body": body });
        let mut numbered = None;
        if let (None, Some(message)) = (&request.key, message) {
            request.key = Some(format!("mqtt {message}"));
            numbered = Some(again);
        }
        self.proposed(caller, request, capability, asked, numbered).await
    }

    /// `numbered` says of a key that is a message's number whether the client says that the message may have come before.
    async fn proposed(
        &self,
        caller: &Caller,
        request: Request,
        capability: Option<EntityId>,
        asked: Value,
        numbered: Option<bool>,
    ) -> Result<EntityId, Error> {
        let (caller, eyes, owns) = (caller.clone(), self.latest(), Arc::clone(&self.0.owns));
        let actor = caller.clone();
        let command = move |writer: &mut Writer<'_, '_>| {
            if let (Some(key), Some(again)) = (request.key.as_deref(), numbered) {
                let label = actor.label();
                // A client numbers its messages around and around, and from the start after a restart: the same number is the same message only
                // when the client says so and the message says the same. One that never arrived comes as a repetition too.
                let same = match store::by_key(writer.tx, &label, key)? {
                    Some((_, before)) if again => serde_json::from_str::<Value>(&before).is_ok_and(|b| b == asked),
                    _ => false,
                };
                if !same {
                    store::release_key(writer.tx, &label, key)?;
                }
            }
            propose::propose(writer, &actor, &request, capability, &asked, (&eyes, &owns))
        };
        self.0.catalog.with_writer(&caller, action::TASK_PROPOSE, command).await
    }

    /// Whether a device comes for the first time since this start. Until then nobody knew what it may be told, so its session, should it have
    /// one from before, was given nothing.
    pub fn comes_first(&self, caller: &Caller) -> bool {
        matches!(caller.principal, Principal::Device { .. }) && self.0.come.lock().insert(caller.label())
    }

    /// Tells a device once more of what was sent to its Things and is not answered, and until when it holds what it holds.
    ///
    /// # Errors
    /// Those of `records`; then the device's next connection is its first again.
    pub async fn tell_again(&self, caller: &Caller) -> Result<(), Error> {
        if !matches!(caller.principal, Principal::Device { .. }) {
            return Ok(());
        }
        let told = self.told_again(caller).await;
        if told.is_err() {
            self.0.come.lock().remove(&caller.label());
        }
        told
    }

    async fn told_again(&self, caller: &Caller) -> Result<(), Error> {
        let Some(tenant) = caller.tenant.clone() else { return Ok(()) };
        let records = self.0.catalog.records();
        let sent: Vec<Run> = records.read(move |read| store::unanswered(read, &tenant)).await?;
        let own = sent.into_iter().filter(|run| (self.0.owns)(caller, &run.tenant, run.thing));
        let ids: Vec<EntityId> = own.map(|run| run.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let told = records.write(move |tx| store::tell_again(tx, &ids));
        Ok(told.await.map_err(|e: records::Error| e)?)
    }

    /// Other parameters for a Task that waits to be approved: PATCH and PUT by whoever has proposed it. What a device says of a Task comes the same
    /// way: see [`Tasking::report`].
    ///
    /// # Errors
    /// As [`Tasking::propose`]; 409 when it is too late.
    pub async fn update(&self, caller: &Caller, entity: &Entity, body: &Value, how: Update) -> Result<(), Error> {
        let id = entity.id;
        let body = match how {
            Update::JsonPatch => patched(entity.to_json(), body)?,
            Update::Merge | Update::Replace => body.clone(),
        };
        if let Some(status) = body.get(STATUS)
            && how == Update::Merge
        {
            return self.report(caller, id, status, body.get("@lamppost.reason")).await;
        }
        let request = match Request::parse(&body) {
            Err(_) if body.get("taskingParameters").is_none() && how == Update::Merge => {
                return Err(Error::field("/taskingParameters", "of a Task nothing else changes"));
            }
            request => request?,
        };
        request.parameters_only()?;
        let (actor, eyes) = (caller.clone(), self.latest());
        let command = move |writer: &mut Writer<'_, '_>| {
            let run = store::get(writer.tx, id)?.ok_or_else(|| missing(id))?;
            writer.require(action::TASK_PROPOSE, EntityType::Task, &owner_of(&run), &format!("Tasks({id})"))?;
            not_of_another(&actor, &run)?;
            let capability = writer.load(EntityType::TaskingCapability, run.capability)?.ok_or_else(|| missing(id))?;
            let record = Record::parse("/taskingParameters", &capability.field("taskingParameters").to_value())?;
            request.check(&record, writer.now())?;
            if request.parameters == run.parameters {
                return Ok(());
            }
            store::set_parameters(writer.tx, id, &request.parameters)?;
            // What the capability says is to be read back follows the parameters; what the Task itself has said stays.
            let terms = Terms::parse("/TaskingCapability", &capability.properties(), &record)?;
            let mut task = run.task.clone();
            if let (Some(declared), Some(verify)) = (&terms.verify, &mut task.verify)
                && terms::expected(declared, &record, &run.parameters).as_ref() == Some(&verify.reading.value)
            {
                match terms::expected(declared, &record, &request.parameters) {
                    Some(value) => verify.reading.value = value,
                    None => task.verify = None,
                }
                store::set_verify(writer.tx, id, &task)?;
            }
            let how = (action::TASK_PROPOSE, None, "");
            store::step(writer.tx, &actor, id, how, &Event::Amend { by: actor.label() }, &eyes)
                .map_err(|failure| failure.of(id))?;
            Ok(())
        };
        self.0.catalog.with_writer(caller, action::TASK_PROPOSE, command).await
    }

    /// What the device says of a Task: `acknowledged`, or `failed` with a reason. Only its own: the register says whose Thing it is.
    ///
    /// # Errors
    /// 404 for what is not the caller's; 409 when the Task was not sent or is answered already.
    pub async fn report(
        &self,
        caller: &Caller,
        id: EntityId,
        status: &Value,
        why: Option<&Value>,
    ) -> Result<(), Error> {
        let event = match status.as_str() {
            Some("acknowledged") => Event::Acknowledge,
            Some("failed") => Event::Refuse,
            _ => {
                return Err(Error::field(format!("/{STATUS}"), "a device says acknowledged or failed"));
            }
        };
        let why = reason(why.and_then(Value::as_str).unwrap_or_default())?;
        let (actor, eyes, owns) = (caller.clone(), self.latest(), Arc::clone(&self.0.owns));
        let command = move |writer: &mut Writer<'_, '_>| {
            let what = format!("Tasks({id})");
            let run = store::get(writer.tx, id)?.ok_or_else(|| Error::not_found(&what))?;
            writer.require(action::TASK_ACKNOWLEDGE, EntityType::Task, &owner_of(&run), &what)?;
            if matches!(actor.principal, Principal::Device { .. }) && !owns(&actor, &run.tenant, run.thing) {
                return Err(Problem::forbidden(format!("{what} is of another device's Thing.")).into());
            }
            // Said again (the answer may have been lost), or too late: repeating it would change nothing, and refusing it would make a device of
            // MQTT 3.1.1 repeat it for ever.
            let said =
                event == Event::Acknowledge && matches!(run.task.status, Status::Acknowledged | Status::Verified);
            if said || (run.task.sent_at.is_some() && run.task.status.is_over()) {
                return Ok(None);
            }
            let how = (action::TASK_ACKNOWLEDGE, None, why.as_str());
            let run = store::step(writer.tx, &actor, id, how, &event, &eyes).map_err(|failure| failure.of(id))?;
            Ok((run.task.status == Status::Acknowledged).then_some(run.task.verify).flatten())
        };
        let verify = self.0.catalog.with_writer(caller, action::TASK_ACKNOWLEDGE, command).await?;
        if let Some(Verify { reading, .. }) = verify {
            self.0.watched.write().insert(reading.datastream);
            // What came between the step and this line has passed the watch by.
            self.look(reading.datastream).await?;
        }
        Ok(())
    }

    /// What a device has published to `v1.1/Tasks(<id>)`.
    ///
    /// # Errors
    /// As [`Tasking::report`].
    pub async fn published(&self, caller: &Caller, id: EntityId, payload: &[u8]) -> Result<(), Error> {
        let body: Value =
            serde_json::from_slice(payload).map_err(|e| Error::bad_request(format!("It is not JSON: {e}.")))?;
        self.report(caller, id, body.get(STATUS).unwrap_or(&Value::Null), body.get("@lamppost.reason")).await
    }

    // --- deciding -------------------------------------------------------------------------------------------------

    /// Does `deed`; `version` is the one that the caller has seen.
    ///
    /// # Errors
    /// 404, 403 as everywhere, also for whoever approves what they have proposed; 412 when somebody was faster; 409 when it is not possible now.
    pub async fn act(
        &self,
        caller: &Caller,
        id: EntityId,
        deed: Deed,
        version: Option<u32>,
        comment: &str,
    ) -> Result<Run, Error> {
        let comment = reason(comment)?;
        let (actor, eyes) = (caller.clone(), self.latest());
        let command = move |writer: &mut Writer<'_, '_>| {
            let run = store::get(writer.tx, id)?.ok_or_else(|| missing(id))?;
            writer.require(deed.action(), EntityType::Task, &owner_of(&run), &format!("Tasks({id})"))?;
            not_of_another(&actor, &run)?;
            let alone = writer.allows(action::TASK_ALONE, EntityType::Task, &owner_of(&run));
            let how = (deed.action(), version, comment.as_str());
            let event = deed.event(actor.label(), alone);
            store::step(writer.tx, &actor, id, how, &event, &eyes).map_err(|failure| failure.of(id))
        };
        self.0.catalog.with_writer(caller, deed.action(), command).await
    }

    // --- looking --------------------------------------------------------------------------------------------------

    /// A Task and its history, oldest first, for whoever may read the department's Tasks.
    ///
    /// # Errors
    /// 404 when there is none, or the caller may not see it.
    pub async fn get(&self, caller: &Caller, id: EntityId) -> Result<(Run, Vec<Entry>), Error> {
        let read = self.0.catalog.records().read(move |read| {
            let Some(run) = store::get(read, id)? else { return Ok(None) };
            Ok::<_, records::Error>(Some((run, store::entries(read, id)?)))
        });
        let found = read.await?.filter(|(run, _)| self.may(caller, action::TASK_READ, Some(&run.tenant), run.public));
        found.ok_or_else(|| missing(id))
    }

    /// Tasks that the caller may read, newest first, with ids below `before`.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(
        &self,
        caller: &Caller,
        status: Option<Status>,
        of: (Option<EntityId>, Option<EntityId>),
        before: Option<EntityId>,
    ) -> Result<Vec<Run>, Error> {
        let mut before = before.unwrap_or(EntityId(i64::MAX));
        let mut found: Vec<Run> = Vec::new();
        // A busy department must not hide the Tasks of a quiet one.
        for _ in 0..LOOKS {
            let read = self.0.catalog.records().read(move |read| store::list(read, status, of, before, LOOKED));
            let runs: Vec<Run> = read.await?;
            let next = runs.last().map(|run| run.id).filter(|_| i64::try_from(runs.len()) == Ok(LOOKED));
            found.extend(
                runs.into_iter()
                    .filter(|run| self.may(caller, action::TASK_READ, Some(&run.tenant), run.public))
                    .take(PAGE - found.len()),
            );
            match next {
                Some(id) if found.len() < PAGE => before = id,
                _ => break,
            }
        }
        Ok(found)
    }

    // --- the kill switch ------------------------------------------------------------------------------------------

    /// The switches that are on, of the city and of the tenants whose Tasks the caller may read.
    ///
    /// # Errors
    /// 404 for whoever may read no Tasks at all.
    pub async fn stops(&self, caller: &Caller) -> Result<Vec<Stop>, Error> {
        let tenants = self.0.catalog.scopes().tenants();
        let may = |tenant: &Tenant| self.may(caller, action::TASK_READ, Some(tenant), false);
        if !tenants.iter().chain(&caller.tenant).any(may) {
            return Err(Error::not_found("The list"));
        }
        let stops: Vec<Stop> = self.0.catalog.records().read(store::stops).await?;
        Ok(stops.into_iter().filter(|stop| stop.tenant.as_ref().is_none_or(may)).collect())
    }

    /// The newest lines of the record of kill switches, of the city's and of tenants whose Tasks the caller may read.
    ///
    /// # Errors
    /// As [`Tasking::stops`].
    pub async fn switched(&self, caller: &Caller) -> Result<Vec<Switched>, Error> {
        let may = |tenant: &Tenant| self.may(caller, action::TASK_READ, Some(tenant), false);
        let lines: Vec<Switched> = self.0.catalog.records().read(store::switched).await?;
        Ok(lines.into_iter().filter(|line| line.stop.tenant.as_ref().is_none_or(may)).collect())
    }

    /// Throws the kill switch of an actuator, of a tenant, or of the city. While it is on no Task leaves, and a tenant's campaigns stand still; what
    /// was sent goes on.
    ///
    /// # Errors
    /// 401, 403; 404 for a tenant or an actuator that the caller knows nothing of.
    pub async fn throw(&self, caller: &Caller, what: Stopped, on: bool, why: &str) -> Result<(), Error> {
        let why = reason(why)?;
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        let switch = match what {
            Stopped::City => store::Switch::City,
            Stopped::Tenant(tenant) => store::Switch::Tenant(tenant),
            Stopped::Actuator(id) => {
                let found: Option<(Tenant, String)> =
                    self.0.catalog.records().read(move |read| store::actuator(read, id)).await?;
                let owner = found.map(|(tenant, _)| tenant);
                // Whoever may not read its Tasks is told nothing of it.
                let owner = owner.filter(|tenant| self.may(caller, action::TASK_READ, Some(tenant), false));
                store::Switch::Actuator(id, owner.ok_or_else(|| Error::not_found(format!("Actuators({id})")))?)
            }
        };
        let tenant = switch.tenant();
        if !self.may(caller, action::TASK_STOP, tenant, false) {
            let known = tenant.is_none_or(|t| self.may(caller, action::TASK_READ, Some(t), false));
            return Err(if known {
                Problem::forbidden("You may not stop or resume these Tasks.").into()
            } else {
                Error::not_found("The kill switch")
            });
        }
        if on && why.is_empty() {
            return Err(Error::field("/reason", "say why, for those who find their Tasks waiting"));
        }
        let (actor, eyes) = (caller.clone(), self.latest());
        let thrown = self.0.catalog.records().write(move |tx| store::throw(tx, &actor, &switch, on, &why, &eyes));
        thrown.await.map_err(|failure| failure.of(EntityId(0)))
    }

    // --- what happens by itself -----------------------------------------------------------------------------------

    /// Takes the jobs that wait for times to pass, until `shutdown` is ready.
    ///
    /// # Errors
    /// Those of the queue.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let pauses = RetryPolicy {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            ..RetryPolicy::default()
        };
        let jobs = self.0.catalog.records().jobs().with_policy(pauses);
        let work = |job| {
            let this = self.clone();
            async move { this.due(job).await }
        };
        Ok(jobs.run(store::QUEUE, CONCURRENCY, work, shutdown).await?)
    }

    async fn due(&self, job: Job) -> Result<(), JobFailure> {
        let id: EntityId = serde_json::from_value(job.payload["task"].clone())
            .map_err(|_| JobFailure::GiveUp("the job names no Task".to_owned()))?;
        self.tick(id, Some(job)).await.map_err(|error| JobFailure::Retry(error.to_string()))
    }

    /// Looks what the time has done to a Task; `job` is completed in the same transaction.
    async fn tick(&self, id: EntityId, job: Option<Job>) -> Result<(), Error> {
        let eyes = self.latest();
        let ticked = self.0.catalog.records().write(move |tx| {
            let how = || (action::TASK_PROPOSE, None, "");
            // A reading that is there already is not too late, whatever happened to the one who was to look.
            let reading = store::get(tx, id)?.and_then(|run| run.task.verify).map(|verify| verify.reading);
            if let Some(reading) = reading
                && let Some((at, value)) = eyes(reading.datastream)
            {
                let event = Event::Observed { at, matches: reading.is(&value) };
                match store::step(tx, &store::system(), id, how(), &event, &eyes) {
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(failure),
                }
            }
            for event in [Event::Tick, Event::Dispatch] {
                match store::step(tx, &store::system(), id, how(), &event, &eyes) {
                    // It is over, or deleted: the time has nothing to do to it.
                    Ok(_) | Err(Failure::Refused(_) | Failure::Gone) => {}
                    Err(failure) => return Err(failure),
                }
            }
            if let Some(job) = &job {
                tx.complete(job)?;
            }
            Ok(())
        });
        ticked.await.map_err(|failure: Failure| failure.of(id))
    }

    /// Reads Tasks back from what is observed, until `stop`.
    pub async fn follow(self, observe: Observe, stop: CancellationToken) {
        let mut live = observe.subscribe();
        self.look_everywhere().await;
        loop {
            let applied = tokio::select! {
                () = stop.cancelled() => return,
                applied = live.recv() => applied,
            };
            match applied {
                Ok(applied) => {
                    let Some(batch) = applied.batch() else { continue };
                    if self.0.watched.read().is_empty() {
                        continue;
                    }
                    let seen: BTreeSet<EntityId> = batch.observations().map(|o| o.datastream).collect();
                    let watched: Vec<EntityId> = self.0.watched.read().intersection(&seen).copied().collect();
                    for datastream in watched {
                        if let Err(error) = self.look(datastream).await {
                            tracing::warn!(%error, datastream = datastream.0, "Tasks could not be read back; the time limit looks again");
                        }
                    }
                }
                Err(RecvError::Lagged(_)) => self.look_everywhere().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// After a start or a gap: the heads say what was missed.
    async fn look_everywhere(&self) {
        match self.0.catalog.records().read(|read| store::watching(read, None)).await {
            Ok(waiting) => {
                let datastreams: BTreeSet<EntityId> = waiting.into_iter().map(|(_, datastream)| datastream).collect();
                self.0.watched.write().extend(datastreams.iter().copied());
                for datastream in datastreams {
                    if let Err(error) = self.look(datastream).await {
                        tracing::warn!(%error, "Tasks could not be read back; the time limit looks again");
                    }
                }
            }
            Err(error) => {
                let error: records::Error = error;
                tracing::warn!(%error, "which Tasks wait for a reading could not be looked up");
            }
        }
    }

    /// Looks whether a Datastream has what Tasks wait for.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn look(&self, datastream: EntityId) -> Result<(), Error> {
        let eyes = self.latest();
        let looked = self.0.catalog.records().write(move |tx| {
            let waiting = store::watching(tx, Some(datastream))?;
            for (id, _) in &waiting {
                let Some(reading) = store::get(tx, *id)?.and_then(|run| run.task.verify).map(|v| v.reading) else {
                    continue;
                };
                let Some((at, value)) = eyes(datastream) else { continue };
                let event = Event::Observed { at, matches: reading.is(&value) };
                match store::step(tx, &store::system(), *id, (action::TASK_ACKNOWLEDGE, None, ""), &event, &eyes) {
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok::<_, Failure>(!store::watching(tx, Some(datastream))?.is_empty())
        });
        if !looked.await.map_err(|failure| failure.of(EntityId(0)))? {
            self.0.watched.write().remove(&datastream);
        }
        Ok(())
    }
}
