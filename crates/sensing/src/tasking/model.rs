//! The life of a Task as a pure machine: no I/O, no clock. What must be known of the world comes in as [`World`], what must happen in it goes
//! out as [`Effect`]s, and [`super::store`] writes both in one transaction.
//!
//! proposed → validated → approved → sent → acknowledged → verified → completed; or rejected, failed, expired, rolled back.

use kernel::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::EntityId;

/// Where a Task is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Proposed,
    Validated,
    Approved,
    Sent,
    Acknowledged,
    Verified,
    Completed,
    Rejected,
    Failed,
    Expired,
    RolledBack,
}

impl Status {
    pub const ALL: [Self; 11] = [
        Self::Proposed,
        Self::Validated,
        Self::Approved,
        Self::Sent,
        Self::Acknowledged,
        Self::Verified,
        Self::Completed,
        Self::Rejected,
        Self::Failed,
        Self::Expired,
        Self::RolledBack,
    ];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Validated => "validated",
            Self::Approved => "approved",
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Verified => "verified",
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::RolledBack => "rolled_back",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
    /// Whether the device may be acting on it: from the moment it is sent until nobody waits for it any more. Such a Task has the lease.
    pub const fn is_out(self) -> bool {
        matches!(self, Self::Sent | Self::Acknowledged | Self::Verified)
    }
    /// Whether nothing happens to it any more, but that what has failed may be rolled back.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected | Self::Failed | Self::Expired | Self::RolledBack)
    }
}

/// What a Task does while another one has its actuator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Busy {
    #[default]
    Wait,
    Refuse,
}

/// Why there is a Task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Somebody wants it.
    Ask,
    /// Takes back the Task with this id, which has failed.
    Undo(EntityId),
    /// Nobody has renewed the Task with this id, or it has failed and has no undo: the safe state.
    Fallback(EntityId),
}

/// A value that a Datastream has, or shall have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reading {
    pub datastream: EntityId,
    pub value: Value,
    /// How far a number may be from it.
    pub tolerance: f64,
}

impl Reading {
    /// Numbers by their distance, everything else when it is the same JSON.
    pub fn is(&self, found: &Value) -> bool {
        match (self.value.as_f64(), found.as_f64()) {
            (Some(wanted), Some(found)) => (wanted - found).abs() <= self.tolerance,
            _ => self.value == *found,
        }
    }
}

/// The read-back: this is to be observed within so many seconds of the acknowledgement.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Verify {
    pub reading: Reading,
    pub seconds: i64,
}

/// A dead man's handle: whoever has set it must renew it, or the fallback is sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub seconds: i64,
    pub fallback: Map<String, Value>,
}

/// Everything that the machine knows of a Task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Task {
    pub status: Status,
    /// Counts its history's lines.
    pub version: u32,
    /// `Caller::label`.
    pub proposer: String,
    /// Who has approved it: a second person, the policy, or the Task that this one undoes.
    pub approver: Option<String>,
    /// Whether a second person must approve it.
    pub four_eyes: bool,
    pub busy: Busy,
    /// When it is of no use any more if it has not been sent.
    pub expires: Timestamp,
    /// How long the device may take to acknowledge it.
    pub acknowledge_seconds: i64,
    /// Refused when this is not so at the moment of sending.
    pub expect: Option<Reading>,
    pub verify: Option<Verify>,
    pub hold: Option<Hold>,
    /// What is sent when it fails.
    pub undo: Option<Map<String, Value>>,
    /// Why it is wanted, in the proposer's words.
    #[serde(default)]
    pub reason: String,
    /// Somebody has it taken back although it was completed.
    #[serde(default)]
    pub taken_back: bool,
    pub purpose: Purpose,
    pub sent_at: Option<Timestamp>,
    /// Until when it must be acknowledged, or its reading seen.
    pub due: Option<Timestamp>,
    pub held_until: Option<Timestamp>,
}

/// Who has the lease of the actuator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    Free,
    Own,
    Other,
}

/// What the Datastream of [`Task::expect`] says now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing was expected.
    Unasked,
    Met,
    Differs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct World {
    pub now: Timestamp,
    /// Whether a kill switch is on, the tenant's or the city's.
    pub stopped: bool,
    pub lease: Lease,
    pub found: Found,
    /// Whether the parameters are still what the TaskingCapability allows.
    pub fits: bool,
    /// Whether no Task has had the actuator since.
    pub newest: bool,
}

/// What happens to a Task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Its parameters were checked.
    Validate,
    /// Approved without a second person, where none is needed.
    Admit,
    Approve {
        by: String,
    },
    Reject {
        by: String,
    },
    Cancel,
    /// Other parameters, which were checked.
    Amend {
        by: String,
    },
    /// It is looked whether it may be sent now.
    Dispatch,
    Acknowledge,
    /// The device says that it cannot.
    Refuse,
    /// The Datastream of [`Task::verify`] had this result, of this time.
    Observed {
        at: Timestamp,
        matches: bool,
    },
    Renew,
    Release,
    /// Time has passed.
    Tick,
    /// Somebody wants a Task taken back that is completed; `alone` when they may act without a second person.
    RollBack {
        alone: bool,
    },
    /// The Task that takes this one back is completed.
    Undone,
    /// The Task that was to take this one back is over, and has not.
    NotUndone,
}

/// What must happen together with the step.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    Take,
    Give,
    /// The device is told.
    Deliver,
    /// Another Task is made and sent, approved by the approval of this one.
    Spawn(Purpose, Map<String, Value>),
    /// Another Task is proposed by whoever has brought this about; whether a second person must approve it.
    Propose(Purpose, Map<String, Value>, bool),
}

/// One line of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    pub status: Status,
    /// What has happened, in one word.
    pub event: &'static str,
    /// Why, where the machine knows it.
    pub because: Option<&'static str>,
}

/// A step: nothing happens when there are no lines.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub task: Task,
    pub lines: Vec<Line>,
    pub effects: Vec<Effect>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the Task is over; a Task that is over does not change")]
    Over,
    #[error("the Task does not wait for an approval")]
    NotWaiting,
    #[error("whoever has proposed a Task does not approve it; a second person must")]
    OwnTask,
    #[error("the Task may only be changed by whoever has proposed it, and before it is approved")]
    NotYours,
    #[error("the Task has expired")]
    TooLate,
    #[error("the Task has not been sent, or was answered already")]
    NotSent,
    #[error("the Task has no hold that could be renewed or released now")]
    NoHold,
    #[error(
        "only a completed Task with an undo is rolled back, and once at a time; one that is under way is cancelled"
    )]
    NoUndo,
    #[error("another Task has had the actuator since; what it did would be undone too")]
    Overtaken,
}

impl Task {
    /// Whether it may be sent as far as approvals go.
    pub fn is_approved(&self) -> bool {
        self.approver.as_ref().is_some_and(|by| !self.four_eyes || *by != self.proposer)
    }
    /// When something happens by itself.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.status {
            Status::Proposed | Status::Validated | Status::Approved => Some(self.expires),
            status if status.is_out() => [self.due, self.held_until].into_iter().flatten().min(),
            _ => None,
        }
    }
    /// Whether the device has done all that is asked for, so that only the hold keeps it from being completed.
    fn is_settled(&self) -> bool {
        self.status == Status::Verified || (self.status == Status::Acknowledged && self.verify.is_none())
    }
    /// What brings the device back to where it is safe.
    fn safe(&self, id: EntityId) -> Option<Effect> {
        let undo = self.undo.as_ref().map(|undo| Effect::Spawn(Purpose::Undo(id), undo.clone()));
        undo.or_else(|| self.hold.as_ref().map(|h| Effect::Spawn(Purpose::Fallback(id), h.fallback.clone())))
    }
}

/// Collects what a step does.
struct Steps(Step);

impl Steps {
    fn to(mut self, status: Status, event: &'static str, because: Option<&'static str>) -> Self {
        self.0.task.status = status;
        self.0.task.version = self.0.task.version.saturating_add(1);
        self.0.lines.push(Line { status, event, because });
        self
    }
    fn and(mut self, effect: Option<Effect>) -> Self {
        self.0.effects.extend(effect);
        self
    }
    fn with(mut self, change: impl FnOnce(&mut Task)) -> Self {
        change(&mut self.0.task);
        self
    }
    fn done(self) -> Result<Step, Refusal> {
        Ok(self.0)
    }
    /// It is over while the device may be acting on it: the lease is given back, and what is safe is sent.
    fn fail(self, id: EntityId, status: Status, event: &'static str, because: Option<&'static str>) -> Self {
        let safe = self.0.task.safe(id);
        self.to(status, event, because).and(Some(Effect::Give)).and(safe).with(Task::rest)
    }
    /// Nothing more is waited for.
    fn complete(self) -> Self {
        self.to(Status::Completed, "completed", None).and(Some(Effect::Give)).with(Task::rest)
    }
}

impl Task {
    fn rest(&mut self) {
        self.due = None;
        self.held_until = None;
    }
}

/// The Task `id` after `event`.
///
/// # Errors
/// A [`Refusal`] when its state does not admit the event; then nothing changes.
pub fn decide(id: EntityId, task: &Task, event: &Event, world: &World) -> Result<Step, Refusal> {
    use Status as S;
    let now = world.now;
    let steps = Steps(Step { task: task.clone(), lines: Vec::new(), effects: Vec::new() });
    if task.status.is_over() {
        return match event {
            Event::Undone if task.status == S::Failed || task.taken_back => {
                steps.to(S::RolledBack, "rolled_back", None).done()
            }
            Event::NotUndone if task.taken_back => {
                steps.with(|t| t.taken_back = false).to(task.status, "not_rolled_back", None).done()
            }
            Event::RollBack { alone } => roll_back(id, task, steps, world, *alone),
            Event::Tick | Event::Dispatch | Event::Observed { .. } | Event::Undone | Event::NotUndone => steps.done(),
            _ => Err(Refusal::Over),
        };
    }
    let waits = matches!(task.status, S::Proposed | S::Validated | S::Approved);
    match event {
        Event::Validate if task.status == S::Proposed => steps.to(S::Validated, "validated", None).done(),
        Event::Admit if task.status == S::Validated && !task.four_eyes => {
            steps.with(|t| t.approver = Some("policy".to_owned())).to(S::Approved, "approved", None).done()
        }
        Event::Approve { .. } | Event::Validate | Event::Admit if task.status != S::Validated => {
            Err(Refusal::NotWaiting)
        }
        Event::Approve { by } if *by == task.proposer => Err(Refusal::OwnTask),
        Event::Approve { .. } if now >= task.expires => Err(Refusal::TooLate),
        Event::Approve { by } => steps.with(|t| t.approver = Some(by.clone())).to(S::Approved, "approved", None).done(),
        Event::Validate | Event::Admit => Err(Refusal::NotWaiting),
        Event::Reject { .. } if waits => steps.to(S::Rejected, "rejected", None).done(),
        Event::Reject { .. } => Err(Refusal::NotWaiting),
        Event::Cancel if waits => steps.to(S::Rejected, "cancelled", None).done(),
        // The device may have begun: what was sent is taken back.
        Event::Cancel => steps.fail(id, S::Failed, "cancelled", None).done(),
        Event::Amend { by } if task.status == S::Validated && *by == task.proposer => {
            steps.to(S::Validated, "amended", None).done()
        }
        Event::Amend { .. } => Err(Refusal::NotYours),
        Event::Dispatch => dispatch(task, steps, world),
        Event::Acknowledge if task.status == S::Sent => {
            let steps = steps.to(S::Acknowledged, "acknowledged", None);
            match &task.verify {
                Some(verify) => steps.with(|t| t.due = Some(now.plus_secs(verify.seconds))).done(),
                None if task.hold.is_some() => steps.with(|t| t.due = None).done(),
                None => steps.complete().done(),
            }
        }
        Event::Refuse if matches!(task.status, S::Sent | S::Acknowledged) => {
            steps.fail(id, S::Failed, "refused_by_device", None).done()
        }
        Event::Acknowledge | Event::Refuse => Err(Refusal::NotSent),
        Event::Observed { at, matches } => {
            let counts = *matches && task.sent_at.is_some_and(|sent| *at >= sent);
            if task.status != S::Acknowledged || task.verify.is_none() || !counts {
                return steps.done();
            }
            let steps = steps.to(S::Verified, "verified", None).with(|t| t.due = None);
            if task.hold.is_some() { steps.done() } else { steps.complete().done() }
        }
        Event::Renew => match (&task.hold, task.held_until) {
            (Some(hold), Some(until)) if task.status.is_out() && now < until => {
                let until = now.plus_secs(hold.seconds);
                steps.with(|t| t.held_until = Some(until)).to(task.status, "renewed", None).done()
            }
            _ => Err(Refusal::NoHold),
        },
        Event::Release if task.hold.is_some() && task.is_settled() => steps.complete().done(),
        Event::Release => Err(Refusal::NoHold),
        Event::Tick => tick(id, task, steps, now),
        Event::RollBack { .. } => Err(Refusal::NoUndo),
        Event::Undone | Event::NotUndone => steps.done(),
    }
}

/// What somebody has asked for and the device has done is taken back by its undo, as long as nothing else was done since.
fn roll_back(id: EntityId, task: &Task, steps: Steps, world: &World, alone: bool) -> Result<Step, Refusal> {
    let undo = task.undo.as_ref().filter(|_| task.status == Status::Completed && task.purpose == Purpose::Ask);
    let Some(undo) = undo.filter(|_| !task.taken_back) else { return Err(Refusal::NoUndo) };
    if !world.newest {
        return Err(Refusal::Overtaken);
    }
    let steps = steps.with(|t| t.taken_back = true).to(Status::Completed, "rolling_back", None);
    steps.and(Some(Effect::Propose(Purpose::Undo(id), undo.clone(), task.four_eyes || !alone))).done()
}

fn dispatch(task: &Task, steps: Steps, world: &World) -> Result<Step, Refusal> {
    use Status as S;
    // Not approved, or on its way already: there is nothing to be sent, however often it is asked.
    if task.status != S::Approved || !task.is_approved() || task.sent_at.is_some() {
        return steps.done();
    }
    if world.now >= task.expires {
        return steps.to(S::Expired, "expired", Some("it could not be sent in time")).done();
    }
    if !world.fits {
        return steps.to(S::Rejected, "rejected", Some("the TaskingCapability allows its parameters no more")).done();
    }
    if world.stopped {
        return steps.done();
    }
    match (world.lease, task.busy) {
        (Lease::Free, _) => {}
        (_, Busy::Wait) => return steps.done(),
        (_, Busy::Refuse) => {
            return steps.to(S::Rejected, "rejected", Some("another Task has the actuator")).done();
        }
    }
    if world.found == Found::Differs {
        return steps.to(S::Rejected, "rejected", Some("the state is not the expected one")).done();
    }
    let now = world.now;
    let hold = task.hold.as_ref().map(|hold| now.plus_secs(hold.seconds));
    let due = now.plus_secs(task.acknowledge_seconds);
    let sent = steps.to(S::Sent, "sent", None).and(Some(Effect::Take)).and(Some(Effect::Deliver));
    sent.with(|t| (t.sent_at, t.due, t.held_until) = (Some(now), Some(due), hold)).done()
}

fn tick(id: EntityId, task: &Task, steps: Steps, now: Timestamp) -> Result<Step, Refusal> {
    use Status as S;
    let past = |at: Option<Timestamp>| at.is_some_and(|at| now >= at);
    if !task.status.is_out() {
        let late = now >= task.expires;
        return if late { steps.to(S::Expired, "expired", None).done() } else { steps.done() };
    }
    if past(task.held_until) {
        // The fallback, and not the undo: it is what whoever holds the handle has named for this.
        let fallback = task.hold.as_ref().map(|h| Effect::Spawn(Purpose::Fallback(id), h.fallback.clone()));
        let steps = steps.to(S::Expired, "expired", Some("it was not renewed")).and(Some(Effect::Give));
        return steps.and(fallback).with(Task::rest).done();
    }
    if past(task.due) {
        let because = match task.status {
            S::Sent => "it was not acknowledged in time",
            _ => "the reading did not come to the expected value in time",
        };
        return steps.fail(id, S::Failed, "failed", Some(because)).done();
    }
    steps.done()
}
