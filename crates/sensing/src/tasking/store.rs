//! The rows of Tasks, and the one function that moves them. Everything here runs inside one `records` transaction and has no other effect.

use std::collections::VecDeque;

use kernel::{Action, Caller, Tenant, Timestamp};
use records::{Event as Outgoing, NewJob, Read, Row, Tx, params};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    model::{
        Busy, Effect, Event, Found, Lease, Line, Purpose, Reading, Refusal, Status, Step, Task, Verify, World, decide,
    },
    swe::Record,
    terms::{Terms, expected},
};
use crate::{
    Error,
    catalog::schema::{DUE, HELD_UNTIL, STATUS},
    model::{EntityId, EntityType},
    route::action,
};

/// The queue of what happens to Tasks by itself.
pub const QUEUE: &str = "tasking";
/// The topic on which Tasks are announced.
const TOPIC: &str = "events";
/// How long an undo or a fallback waits for a kill switch to be lifted.
const SAFE_SECONDS: i64 = 7 * 86_400;
/// Waiting Tasks of one actuator that one step looks at, and lines of one history that are shown.
const NEXT: i64 = 20;
const LINES: i64 = 1_000;
/// Tasks that are sent in the transaction that lifts a kill switch.
const AT_ONCE: usize = 200;
/// Tasks of one TaskingCapability that are not over.
pub const WAITING: i64 = 100;
/// Tasks that are looked through for those of a device that comes.
const TOLD_AGAIN: i64 = 10_000;
/// Lines of the record of kill switches that are shown.
const SWITCHED: i64 = 100;
/// Steps that one step may bring about: the safe state, and those that waited and are of no use any more.
const CHAIN: usize = 64;
/// Jobs are tried for hours: what they guard must not be given up because the database was away.
const ATTEMPTS: u32 = 1_000;

/// The scope of the city's kill switch: no tenant is called so.
pub const CITY: &str = "*";

/// The latest result of a Datastream as JSON, and its time.
pub type Eyes<'e> = &'e dyn Fn(EntityId) -> Option<(Timestamp, Value)>;

/// A Task with where it belongs.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: EntityId,
    pub tenant: Tenant,
    pub public: bool,
    pub capability: EntityId,
    pub thing: EntityId,
    /// That of the capability, as it is now.
    pub actuator: EntityId,
    pub parameters: Value,
    pub created: Timestamp,
    pub task: Task,
    /// The capability's parameters.
    pub declared: Value,
    /// The capability's properties.
    pub properties: Map<String, Value>,
}

/// One line of the history.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub version: u32,
    pub at: Timestamp,
    pub by: String,
    pub status: String,
    pub event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Records(#[from] records::Error),
    #[error("there is no such Task")]
    Gone,
    #[error("the version is {0}")]
    Version(u32),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

const COLUMNS: &str = "r.task_id, t.tenant, t.public, t.tasking_capability_id, c.thing_id, c.actuator_id, t.tasking_parameters, t.creation_time, \
     r.body, c.tasking_parameters, c.properties";
const FROM: &str = "FROM sensing_task_run r JOIN sensing_task t ON t.id = r.task_id
     JOIN sensing_tasking_capability c ON c.id = t.tasking_capability_id";

fn run(row: &Row<'_>) -> Result<Run, records::Error> {
    let task = serde_json::from_value(row.get::<Value>(8)?);
    Ok(Run {
        id: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        public: row.get(2)?,
        capability: EntityId(row.get(3)?),
        thing: EntityId(row.get(4)?),
        actuator: EntityId(row.get(5)?),
        parameters: row.get(6)?,
        created: row.get(7)?,
        task: task.map_err(|e| records::Error::Statement(format!("a Task is not readable: {e}")))?,
        declared: row.get(9)?,
        properties: match row.get::<Option<Value>>(10)? {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        },
    })
}

pub fn get(read: &mut Read<'_>, id: EntityId) -> Result<Option<Run>, records::Error> {
    read.query_opt(&format!("SELECT {COLUMNS} {FROM} WHERE r.task_id = $1"), params![id.0], run)
}

/// Newest first, before `before`; of this status and capability or Thing, where they are given.
pub fn list(
    read: &mut Read<'_>,
    status: Option<Status>,
    (capability, thing): (Option<EntityId>, Option<EntityId>),
    before: EntityId,
    limit: i64,
) -> Result<Vec<Run>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} {FROM} WHERE r.task_id < $1 AND ($2 = '' OR r.status = $2) AND ($3 = 0 OR t.tasking_capability_id = $3)
         AND ($4 = 0 OR c.thing_id = $4) ORDER BY r.task_id DESC LIMIT $5"
    );
    let (status, id) = (status.map_or("", Status::name), |id: Option<EntityId>| id.map_or(0, |id| id.0));
    read.query(&sql, params![before.0, status, id(capability), id(thing), limit], run)
}

pub fn entries(read: &mut Read<'_>, id: EntityId) -> Result<Vec<Entry>, records::Error> {
    let sql = "SELECT version, at, actor, status, event, remark FROM sensing_task_entry WHERE task_id = $1 ORDER BY version LIMIT $2";
    read.query(sql, params![id.0, LINES], |row| {
        Ok(Entry {
            version: row.get(0)?,
            at: row.get(1)?,
            by: row.get(2)?,
            status: row.get(3)?,
            event: row.get(4)?,
            remark: row.get(5)?,
        })
    })
}

/// The Task that this proposer has asked for with this key, and what was asked.
pub fn by_key(read: &mut Read<'_>, proposer: &str, key: &str) -> Result<Option<(EntityId, String)>, records::Error> {
    let sql = "SELECT task_id, request FROM sensing_task_run WHERE proposer = $1 AND idempotency_key = $2";
    read.query_opt(sql, params![proposer, key], |row| Ok((EntityId(row.get(0)?), row.get(1)?)))
}

/// Tasks that wait for a reading of one of these Datastreams, or of any.
pub fn watching(
    read: &mut Read<'_>,
    datastream: Option<EntityId>,
) -> Result<Vec<(EntityId, EntityId)>, records::Error> {
    let sql = "SELECT task_id, watched FROM sensing_task_run WHERE status = 'acknowledged' AND watched IS NOT NULL
               AND ($1 = 0 OR watched = $1) ORDER BY task_id";
    let id = datastream.map_or(0, |id| id.0);
    read.query(sql, params![id], |row| Ok((EntityId(row.get(0)?), EntityId(row.get(1)?))))
}

/// The columns beside the entity's own row, which is there already.
pub fn insert(
    tx: &mut Tx<'_>,
    id: EntityId,
    actuator: EntityId,
    task: &Task,
    (key, request): (Option<&str>, &str),
) -> Result<(), records::Error> {
    let watched = task.verify.as_ref().map(|v| v.reading.datastream.0);
    tx.execute(
        "INSERT INTO sensing_task_run (task_id, version, status, actuator_id, watched, proposer, idempotency_key, request, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![id.0, task.version, task.status.name(), actuator.0, watched, task.proposer, key, request, form(task)],
    )?;
    Ok(())
}

fn form(task: &Task) -> String {
    // Texts, numbers and JSON always serialise.
    serde_json::to_string(task).unwrap_or_default()
}

/// Other parameters of a Task that waits for its approval.
pub fn set_parameters(tx: &mut Tx<'_>, id: EntityId, parameters: &Value) -> Result<(), records::Error> {
    let sql = "UPDATE sensing_task SET tasking_parameters = $2 WHERE id = $1";
    tx.execute(sql, params![id.0, parameters.to_string()]).map(|_| ())
}

/// What is read back of a Task that waits for its approval.
pub fn set_verify(tx: &mut Tx<'_>, id: EntityId, task: &Task) -> Result<(), records::Error> {
    let watched = task.verify.as_ref().map(|v| v.reading.datastream.0);
    let sql = "UPDATE sensing_task_run SET body = $2, watched = $3 WHERE task_id = $1";
    tx.execute(sql, params![id.0, form(task), watched]).map(|_| ())
}

/// How many Tasks of the capability are not over.
pub fn waiting(read: &mut Read<'_>, capability: EntityId) -> Result<i64, records::Error> {
    let sql = "SELECT COUNT(*) FROM sensing_task WHERE tasking_capability_id = $1
               AND status IN ('proposed', 'validated', 'approved', 'sent', 'acknowledged', 'verified')";
    read.query_one(sql, params![capability.0], |row| row.get(0))
}

/// Gives a key free that a later message of the same client has again: it is another message, and not this one once more.
pub fn release_key(tx: &mut Tx<'_>, proposer: &str, key: &str) -> Result<(), records::Error> {
    let sql = "UPDATE sensing_task_run SET idempotency_key = NULL WHERE proposer = $1 AND idempotency_key = $2";
    tx.execute(sql, params![proposer, key]).map(|_| ())
}

/// Whether any Task of the capability is not over.
pub fn is_busy(tx: &mut Tx<'_>, capability: EntityId) -> Result<bool, records::Error> {
    let sql = "SELECT r.status FROM sensing_task_run r JOIN sensing_task t ON t.id = r.task_id
               WHERE t.tasking_capability_id = $1 AND r.status IN ('proposed', 'validated', 'approved', 'sent', 'acknowledged', 'verified')
               LIMIT 1";
    Ok(tx.query_opt(sql, params![capability.0], |row| row.get::<String>(0))?.is_some())
}

/// What is left of a Task that is deleted. Cancelling is a right of its own, so one that is approved (a safe state that waits for the kill
/// switch, say) is not simply deleted.
///
/// # Errors
/// 409 from its approval until it is over.
pub fn forget(tx: &mut Tx<'_>, id: EntityId) -> Result<(), Error> {
    let sql = "SELECT status FROM sensing_task_run WHERE task_id = $1";
    let status: Option<String> = tx.query_opt(sql, params![id.0], |row| row.get(0))?;
    if status.as_deref().and_then(Status::from_name).is_some_and(|s| s.is_out() || s == Status::Approved) {
        return Err(Error::conflict(format!("Tasks({id}) is under way; cancel it first.")));
    }
    for table in ["sensing_task_run", "sensing_task_entry", "sensing_task_lease"] {
        tx.execute(&format!("DELETE FROM {table} WHERE task_id = $1"), params![id.0])?;
    }
    Ok(())
}

// --- the kill switch --------------------------------------------------------------------------------------------------

/// What a kill switch stops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Switch {
    City,
    Tenant(Tenant),
    /// One actuator, and whom it belongs to.
    Actuator(EntityId, Tenant),
}

impl Switch {
    /// As it lies in the table. No tenant is called so.
    fn scope(&self) -> String {
        match self {
            Self::City => CITY.to_owned(),
            Self::Tenant(tenant) => tenant.to_string(),
            Self::Actuator(id, _) => actuator_scope(*id),
        }
    }
    pub fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::City => None,
            Self::Tenant(tenant) | Self::Actuator(_, tenant) => Some(tenant),
        }
    }
}

fn actuator_scope(id: EntityId) -> String {
    format!("actuator:{id}")
}

/// A kill switch that is on.
#[derive(Clone, Debug, Serialize)]
pub struct Stop {
    /// `None` is the city's; of an actuator, its owner.
    pub tenant: Option<Tenant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actuator: Option<EntityId>,
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

/// A line of the record: thrown or lifted.
#[derive(Clone, Debug, Serialize)]
pub struct Switched {
    pub stopped: bool,
    #[serde(flatten)]
    pub stop: Stop,
}

/// The columns of a line whose scope is `s.scope`; the owner of an actuator is that of its row, as long as there is one.
const OF_SCOPE: &str = "s.scope, s.at, s.actor, s.reason, a.id, a.tenant";
const SCOPE_OWNER: &str = "LEFT JOIN sensing_actuator a ON s.scope = 'actuator:' || CAST(a.id AS TEXT)";

fn stop(row: &Row<'_>) -> Result<Option<Stop>, records::Error> {
    let scope: String = row.get(0)?;
    let actuator: Option<i64> = row.get(4)?;
    let tenant: Option<Tenant> = row.get(5)?;
    // Of an actuator that is gone nobody can say whose it was.
    if scope.starts_with("actuator:") && tenant.is_none() {
        return Ok(None);
    }
    let tenant = tenant.or_else(|| Tenant::parse(&scope).ok());
    let actuator = actuator.map(EntityId);
    Ok(Some(Stop { tenant, actuator, at: row.get(1)?, by: row.get(2)?, reason: row.get(3)? }))
}

pub fn stops(read: &mut Read<'_>) -> Result<Vec<Stop>, records::Error> {
    let sql = format!("SELECT {OF_SCOPE} FROM sensing_task_stop s {SCOPE_OWNER} ORDER BY s.scope");
    Ok(read.query(&sql, params![], stop)?.into_iter().flatten().collect())
}

/// The newest lines of the record of all switches.
pub fn switched(read: &mut Read<'_>) -> Result<Vec<Switched>, records::Error> {
    let sql = format!(
        "SELECT {OF_SCOPE}, s.stopped FROM sensing_task_stop_entry s {SCOPE_OWNER} ORDER BY s.number DESC LIMIT {SWITCHED}"
    );
    let line = |row: &Row<'_>| Ok(stop(row)?.map(|stop| (row.get(6), stop)));
    let lines = read.query(&sql, params![], line)?;
    lines.into_iter().flatten().map(|(stopped, stop)| Ok(Switched { stopped: stopped?, stop })).collect()
}

/// Whose an Actuator is.
pub fn actuator(read: &mut Read<'_>, id: EntityId) -> Result<Option<(Tenant, String)>, records::Error> {
    let sql = "SELECT tenant, name FROM sensing_actuator WHERE id = $1";
    read.query_opt(sql, params![id.0], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Whether what moves a tenant's devices is stopped: the city's switch or its own.
pub fn is_stopped(read: &mut Read<'_>, tenant: &Tenant) -> Result<bool, records::Error> {
    let sql = "SELECT scope FROM sensing_task_stop WHERE scope = $1 OR scope = $2 LIMIT 1";
    Ok(read.query_opt(sql, params![CITY, tenant], |row| row.get::<String>(0))?.is_some())
}

/// Throws a switch; the Tasks that waited for it to be lifted are sent.
pub fn throw(
    tx: &mut Tx<'_>,
    caller: &Caller,
    switch: &Switch,
    on: bool,
    reason: &str,
    eyes: Eyes<'_>,
) -> Result<(), Failure> {
    let (scope, tenant) = (switch.scope(), switch.tenant());
    if on {
        let sql = "INSERT INTO sensing_task_stop (scope, at, actor, reason) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (scope) DO UPDATE SET reason = $4, at = $2, actor = $3";
        tx.execute(sql, params![scope.as_str(), tx.now(), caller.label(), reason])?;
    } else if tx.execute("DELETE FROM sensing_task_stop WHERE scope = $1", params![scope.as_str()])? == 0 {
        // It is not on: there is nothing to be lifted, and nothing to be put on record.
        return Ok(());
    }
    let number = next(tx, "TaskStop")?;
    let sql = "INSERT INTO sensing_task_stop_entry (scope, at, actor, stopped, reason, number) VALUES ($1, $2, $3, $4, $5, $6)";
    tx.execute(sql, params![scope.as_str(), tx.now(), caller.label(), on, reason, number])?;
    let detail = json!({ "stopped": on, "reason": reason });
    tx.audit(caller, action::TASK_STOP.0, "TaskStop", &scope, tenant, detail)?;
    let kind = if on { "task.stopped" } else { "task.resumed" };
    let actuator = if let Switch::Actuator(id, _) = switch { Some(*id) } else { None };
    let payload = json!({
        "type": kind, "tenant": tenant, "actuator": actuator, "public": false, "at": tx.now(), "reason": reason,
    });
    tx.emit(Outgoing { topic: TOPIC.to_owned(), key: scope.clone(), payload })?;
    // Campaigns are another topic's: they go on by a job of their own.
    if !on && actuator.is_none() {
        tx.enqueue(NewJob::new(
            crate::devices::campaign::QUEUE,
            json!({ "lifted": tenant.map_or(CITY, Tenant::as_str) }),
        ))?;
    }
    if !on {
        // What brings a device back goes first. Those beyond the first are looked at by a job each, so that this stays a short transaction.
        let waiting = "SELECT task_id FROM sensing_task_run WHERE status = 'approved'
                       ORDER BY CASE WHEN proposer = 'system:tasking' THEN 0 ELSE 1 END, task_id";
        let waiting: Vec<EntityId> = tx.query(waiting, params![], |row| row.get(0).map(EntityId))?;
        for (n, id) in waiting.into_iter().enumerate() {
            if n < AT_ONCE {
                step(tx, &system(), id, (action::TASK_PROPOSE, None, ""), &Event::Dispatch, eyes)?;
            } else {
                wake(tx, id, Some(tx.now()))?;
            }
        }
    }
    Ok(())
}

/// Whom the audit names when nobody did it.
pub fn system() -> Caller {
    Caller::system("tasking")
}

// --- the step ---------------------------------------------------------------------------------------------------------

fn world(tx: &mut Tx<'_>, run: &Run, eyes: Eyes<'_>) -> Result<World, records::Error> {
    let sql = "SELECT COUNT(*) FROM sensing_task_stop WHERE scope = $1 OR scope = $2 OR scope = $3";
    let stopped: i64 = tx.query_one(sql, params![CITY, run.tenant, actuator_scope(run.actuator)], |row| row.get(0))?;
    let sql = "SELECT task_id FROM sensing_task_lease WHERE actuator_id = $1";
    let holder: Option<i64> = tx.query_opt(sql, params![run.actuator.0], |row| row.get(0))?;
    let lease = match holder {
        None => Lease::Free,
        Some(id) if id == run.id.0 => Lease::Own,
        Some(_) => Lease::Other,
    };
    let found = match &run.task.expect {
        None => Found::Unasked,
        Some(reading) => match eyes(reading.datastream) {
            Some((_, value)) if reading.is(&value) => Found::Met,
            _ => Found::Differs,
        },
    };
    let record = Record::parse("", &run.declared);
    let fits = record.is_ok_and(|record| record.check("", &run.parameters).is_ok());
    let newest = if run.task.status == Status::Completed {
        // What was never sent has moved nothing.
        let sql = "SELECT task_id FROM sensing_task_run WHERE actuator_id = $1 AND task_id > $2
                   AND status IN ('sent', 'acknowledged', 'verified', 'completed', 'failed', 'rolled_back') ORDER BY task_id LIMIT 1";
        tx.query_opt(sql, params![run.actuator.0, run.id.0], |row| row.get::<i64>(0))?.is_none()
    } else {
        true
    };
    Ok(World { now: tx.now(), stopped: stopped > 0, lease, found, fits, newest })
}

/// Moves a Task and whatever follows from it: the safe state after a failure, the next one that waits for the actuator. `how` is the action of the
/// audit row, the version that the caller has seen, and what the caller has to say.
pub fn step(
    tx: &mut Tx<'_>,
    caller: &Caller,
    id: EntityId,
    how: (Action, Option<u32>, &str),
    event: &Event,
    eyes: Eyes<'_>,
) -> Result<Run, Failure> {
    let (action, version, remark) = how;
    let before = get(tx, id)?.ok_or(Failure::Gone)?;
    if version.is_some_and(|seen| seen != before.task.version) {
        return Err(Failure::Version(before.task.version));
    }
    let mut queue = VecDeque::new();
    one(tx, caller, before, (action, remark), event, eyes, &mut queue)?;
    if matches!(event, Event::Validate | Event::Admit | Event::Approve { .. }) {
        queue.push_back((id, Event::Dispatch));
    }
    if *event == Event::Validate {
        queue.push_front((id, Event::Admit));
    }
    if *event == Event::Acknowledge {
        // The reading may be there already.
        let reading = get(tx, id)?.and_then(|run| run.task.verify).map(|verify| verify.reading);
        if let Some(reading) = reading
            && let Some((at, value)) = eyes(reading.datastream)
        {
            queue.push_back((id, Event::Observed { at, matches: reading.is(&value) }));
        }
    }
    let system = system();
    for _ in 0..CHAIN {
        let Some((next, event)) = queue.pop_front() else { break };
        let Some(run) = get(tx, next)? else { continue };
        match one(tx, &system, run, (action, ""), &event, eyes, &mut queue) {
            // What follows by itself and is not possible does not follow.
            Ok(()) | Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    get(tx, id)?.ok_or(Failure::Gone)
}

type Queue = VecDeque<(EntityId, Event)>;

/// One event of one Task: row, history, audit row, event, and what must happen together with it.
fn one(
    tx: &mut Tx<'_>,
    caller: &Caller,
    run: Run,
    (action, remark): (Action, &str),
    event: &Event,
    eyes: Eyes<'_>,
    queue: &mut Queue,
) -> Result<(), Failure> {
    let world = world(tx, &run, eyes)?;
    let Step { task, lines, effects } = decide(run.id, &run.task, event, &world)?;
    if lines.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE sensing_task_run SET version = $2, status = $3, actuator_id = $4, body = $5 WHERE task_id = $1 AND version = $6";
    let (status, body) = (task.status.name(), form(&task));
    let values = params![run.id.0, task.version, status, run.actuator.0, body, run.task.version];
    if tx.execute(sql, values)? == 0 {
        return Err(Failure::Version(run.task.version));
    }
    let sql = "UPDATE sensing_task SET status = $2, due = $3, held_until = $4, fallback = $5 WHERE id = $1";
    let fallback = task.hold.as_ref().filter(|_| task.held_until.is_some());
    let fallback = fallback.map(|hold| Value::Object(hold.fallback.clone()).to_string());
    tx.execute(sql, params![run.id.0, task.status.name(), task.due, task.held_until, fallback])?;
    let first = task.version - u32::try_from(lines.len()).unwrap_or(0) + 1;
    for (version, line) in (first..).zip(&lines) {
        let said = line.because.or((!remark.is_empty()).then_some(remark));
        put_line(tx, run.id, version, &caller.label(), line, said)?;
    }
    let deadline = task.deadline();
    if deadline.is_some() && deadline != run.task.deadline() {
        wake(tx, run.id, deadline)?;
    }
    announce(tx, caller, action, &run, &task, &lines)?;
    for effect in &effects {
        match effect {
            Effect::Take => {
                // The key is the actuator: a second one fails, and the whole step with it.
                let sql = "INSERT INTO sensing_task_lease (actuator_id, task_id) VALUES ($1, $2)";
                tx.execute(sql, params![run.actuator.0, run.id.0])?;
            }
            Effect::Give => {
                tx.execute("DELETE FROM sensing_task_lease WHERE task_id = $1", params![run.id.0])?;
            }
            Effect::Deliver => {}
            Effect::Spawn(purpose, parameters) => {
                let child = spawn(tx, &run, &task, *purpose, parameters, None)?;
                queue.push_back((child, Event::Dispatch));
            }
            Effect::Propose(purpose, parameters, second) => {
                let child = spawn(tx, &run, &task, *purpose, parameters, Some((caller, remark, *second)))?;
                queue.push_back((child, Event::Dispatch));
            }
        }
    }
    if effects.contains(&Effect::Give) {
        let sql = "SELECT task_id FROM sensing_task_run WHERE actuator_id = $1 AND status = 'approved'
                   ORDER BY CASE WHEN proposer = 'system:tasking' THEN 0 ELSE 1 END, task_id LIMIT $2";
        let waiting = tx.query(sql, params![run.actuator.0, NEXT], |row| row.get(0).map(EntityId))?;
        queue.extend(waiting.into_iter().map(|id| (id, Event::Dispatch)));
    }
    if let Purpose::Undo(of) = task.purpose
        && task.status.is_over()
    {
        queue.push_back((of, if task.status == Status::Completed { Event::Undone } else { Event::NotUndone }));
    }
    Ok(())
}

fn put_line(
    tx: &mut Tx<'_>,
    id: EntityId,
    version: u32,
    by: &str,
    line: &Line,
    remark: Option<&str>,
) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_task_entry (task_id, version, at, actor, status, event, remark) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![id.0, version, tx.now(), by, line.status.name(), line.event, remark],
    )?;
    Ok(())
}

/// The first line of a new Task's history.
pub fn begin(tx: &mut Tx<'_>, id: EntityId, by: &str, reason: &str) -> Result<(), records::Error> {
    let line = Line { status: Status::Proposed, event: "proposed", because: None };
    put_line(tx, id, 1, by, &line, (!reason.is_empty()).then_some(reason))
}

/// A job looks at the Task when this time has come; it may find that there is nothing to do any more.
pub fn wake(tx: &mut Tx<'_>, id: EntityId, at: Option<Timestamp>) -> Result<(), records::Error> {
    let Some(run_at) = at else { return Ok(()) };
    let job = NewJob::new(QUEUE, json!({ "task": id }));
    tx.enqueue(NewJob { run_at, max_attempts: ATTEMPTS, ..job }).map(|_| ())
}

/// The next number of a sequence.
fn next(tx: &mut Tx<'_>, kind: &str) -> Result<i64, records::Error> {
    let sql = "INSERT INTO sensing_sequence (kind, last) VALUES ($1, 1)
               ON CONFLICT (kind) DO UPDATE SET last = sensing_sequence.last + 1 RETURNING last";
    tx.query_one(sql, params![kind], |row| row.get(0))
}

/// The Task that brings the device back: approved with the one that it follows, unless a person has asked for it: `by` says who, why, and
/// whether a second person must approve it.
fn spawn(
    tx: &mut Tx<'_>,
    of: &Run,
    task: &Task,
    purpose: Purpose,
    parameters: &Map<String, Value>,
    by: Option<(&Caller, &str, bool)>,
) -> Result<EntityId, records::Error> {
    let now = tx.now();
    let id = EntityId(next(tx, EntityType::Task.singular())?);
    let values = Value::Object(parameters.clone());
    let waits = by.is_some_and(|(_, _, second)| second);
    let status = if waits { Status::Validated } else { Status::Approved };
    tx.execute(
        "INSERT INTO sensing_task (id, tenant, public, tasking_parameters, creation_time, status, tasking_capability_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![id.0, of.tenant, of.public, values.to_string(), now, status.name(), of.capability.0],
    )?;
    let approver = match by {
        Some(_) if waits => None,
        Some(_) => Some("policy".to_owned()),
        None => Some(format!("Tasks({})", of.id)),
    };
    let child = Task {
        status,
        version: 1,
        proposer: by.map_or_else(|| system().label(), |(caller, ..)| caller.label()),
        approver,
        four_eyes: waits,
        busy: Busy::Wait,
        expires: now.plus_secs(SAFE_SECONDS),
        acknowledge_seconds: task.acknowledge_seconds,
        expect: None,
        verify: read_back(of, task, &values),
        hold: None,
        undo: None,
        reason: by.map_or_else(String::new, |(_, why, _)| why.to_owned()),
        taken_back: false,
        purpose,
        sent_at: None,
        due: None,
        held_until: None,
    };
    insert(tx, id, of.actuator, &child, (None, ""))?;
    let event = if matches!(purpose, Purpose::Undo(_)) { "undo" } else { "fallback" };
    let line = Line { status, event, because: None };
    put_line(tx, id, 1, &child.proposer, &line, Some(&format!("of Tasks({})", of.id)))?;
    wake(tx, id, child.deadline())?;
    let run = Run { id, parameters: values, task: child.clone(), ..of.clone() };
    announce(tx, by.map_or(&system(), |(caller, ..)| caller), action::TASK_PROPOSE, &run, &child, &[line])?;
    Ok(id)
}

/// What brings a device back is read back like what it follows, where the capability says how: rolled back is what was seen to be.
fn read_back(of: &Run, task: &Task, parameters: &Value) -> Option<Verify> {
    let before = task.verify.as_ref()?;
    let record = Record::parse("", &of.declared).ok()?;
    let declared = Terms::parse("", &of.properties, &record).ok()?.verify?;
    // A read-back of the Task's own says nothing of other parameters.
    expected(&declared, &record, &of.parameters).filter(|value| *value == before.reading.value)?;
    let value = expected(&declared, &record, parameters)?;
    Some(Verify { reading: Reading { value, ..before.reading.clone() }, seconds: before.seconds })
}

/// What is with its device: not answered, or held.
pub fn unanswered(read: &mut Read<'_>, tenant: &Tenant) -> Result<Vec<Run>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} {FROM} WHERE r.status IN ('sent', 'acknowledged', 'verified') AND t.tenant = $1
         ORDER BY r.task_id LIMIT $2"
    );
    read.query(&sql, params![tenant, TOLD_AGAIN], run)
}

/// Tells devices once more of these, as far as they are still waited for; of what they hold, until when: a renewal that they have not heard would
/// have them let go.
pub fn tell_again(tx: &mut Tx<'_>, ids: &[EntityId]) -> Result<(), records::Error> {
    for id in ids {
        let Some(run) = get(tx, *id)?.filter(|run| run.task.status.is_out()) else { continue };
        let now = tx.now();
        // Nobody has renewed it: what its device is told next is the fallback.
        if run.task.held_until.is_some_and(|until| until <= now) {
            continue;
        }
        if run.task.status == Status::Sent {
            if run.task.due.is_some_and(|due| due > now) {
                tell(tx, &run, "created", &[])?;
            }
        } else if run.task.held_until.is_some() {
            tell(tx, &run, "updated", &[HELD_UNTIL])?;
        }
    }
    Ok(())
}

/// The entity's own event, for those who follow it over MQTT.
fn tell(tx: &mut Tx<'_>, run: &Run, operation: &str, properties: &[&str]) -> Result<(), records::Error> {
    let change = json!({"operation": operation, "entity": EntityType::Task.singular(), "id": run.id.0, "tenant": run.tenant,
                        "public": run.public, "properties": properties});
    let payload = json!({"type": "sensing.catalogue", "changes": [change]});
    tx.emit(Outgoing { topic: TOPIC.to_owned(), key: format!("Tasks({})", run.id), payload })?;
    Ok(())
}

/// The audit row and the events of a step. The entity's own event goes to those who follow it over MQTT, and so not before it is sent: a device
/// must see nothing that nobody has approved.
pub fn announce(
    tx: &mut Tx<'_>,
    caller: &Caller,
    action: Action,
    run: &Run,
    task: &Task,
    lines: &[Line],
) -> Result<(), records::Error> {
    let id = run.id.to_string();
    let did: Vec<&str> = lines.iter().map(|line| line.event).collect();
    let detail =
        json!({"events": did, "status": task.status.name(), "version": task.version, "capability": run.capability});
    tx.audit(caller, action.0, "Task", &id, Some(&run.tenant), detail)?;
    let payload = json!({
        "type": format!("task.{}", did.last().copied().unwrap_or("changed")), "id": run.id, "status": task.status.name(),
        "version": task.version, "capability": run.capability, "thing": run.thing, "tenant": run.tenant, "public": run.public,
        "at": tx.now(),
    });
    tx.emit(Outgoing { topic: TOPIC.to_owned(), key: id.clone(), payload })?;
    if task.sent_at.is_none() {
        return Ok(());
    }
    let sent = lines.iter().any(|line| line.status == Status::Sent && line.event == "sent");
    if sent {
        return tell(tx, run, "created", &[]);
    }
    let mut properties = vec![STATUS];
    if task.due != run.task.due {
        properties.push(DUE);
    }
    if task.held_until != run.task.held_until {
        properties.push(HELD_UNTIL);
    }
    tell(tx, run, "updated", &properties)
}
