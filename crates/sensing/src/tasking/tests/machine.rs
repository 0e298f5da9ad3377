//! The machine under any order of events: two Tasks of one actuator, and whatever they bring about.

use std::collections::BTreeMap;

use kernel::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    model::EntityId,
    tasking::model::{
        Busy, Effect, Event, Found, Hold, Lease, Purpose, Reading, Refusal, Status, Task, Verify, World, decide,
    },
};

fn parameters(speed: i64) -> Map<String, Value> {
    [("speed".to_owned(), json!(speed))].into_iter().collect()
}

fn task(four_eyes: bool, verify: bool, hold: bool, undo: bool) -> Task {
    let reading = Reading { datastream: EntityId(1), value: json!(3), tolerance: 0.5 };
    Task {
        status: Status::Proposed,
        version: 1,
        proposer: "person:a".to_owned(),
        approver: None,
        four_eyes,
        busy: Busy::Wait,
        expires: Timestamp::from_secs(100),
        acknowledge_seconds: 10,
        expect: None,
        verify: verify.then_some(Verify { reading, seconds: 20 }),
        hold: hold.then(|| Hold { seconds: 15, fallback: parameters(0) }),
        undo: undo.then(|| parameters(1)),
        reason: String::new(),
        taken_back: false,
        purpose: Purpose::Ask,
        sent_at: None,
        due: None,
        held_until: None,
    }
}

fn world(secs: i64) -> World {
    World {
        now: Timestamp::from_secs(secs),
        stopped: false,
        lease: Lease::Free,
        found: Found::Unasked,
        fits: true,
        newest: true,
    }
}

const ID: EntityId = EntityId(7);

fn go(task: &Task, events: &[(i64, Event)]) -> (Task, Vec<Effect>) {
    let (mut task, mut effects) = (task.clone(), Vec::new());
    for (secs, event) in events {
        let step = decide(ID, &task, event, &world(*secs)).unwrap_or_else(|e| panic!("{event:?}: {e}"));
        effects.extend(step.effects);
        task = step.task;
    }
    (task, effects)
}

fn by(who: &str) -> String {
    format!("person:{who}")
}

#[test]
fn a_task_goes_its_way() {
    let start = [(0, Event::Validate), (0, Event::Admit), (1, Event::Dispatch)];
    let (sent, effects) = go(&task(false, true, false, false), &start);
    assert_eq!((sent.status, effects), (Status::Sent, vec![Effect::Take, Effect::Deliver]));
    let seen = Event::Observed { at: Timestamp::from_secs(3), matches: true };
    let (done, effects) = go(&sent, &[(2, Event::Acknowledge), (3, seen)]);
    assert_eq!((done.status, effects), (Status::Completed, vec![Effect::Give]));
    let old = Event::Observed { at: Timestamp::from_secs(0), matches: true };
    assert_eq!(
        go(&sent, &[(2, Event::Acknowledge), (3, old)]).0.status,
        Status::Acknowledged,
        "read before it was sent"
    );
    assert_eq!(go(&sent, &[(11, Event::Tick)]).0.status, Status::Failed, "not acknowledged");
    assert_eq!(go(&sent, &[(2, Event::Acknowledge), (22, Event::Tick)]).0.status, Status::Failed, "not seen");
    assert_eq!(
        go(&task(false, false, false, false), &[(0, Event::Validate), (100, Event::Tick)]).0.status,
        Status::Expired
    );
}

#[test]
fn four_eyes_are_two_people() {
    let (waits, _) = go(&task(true, false, false, false), &[(0, Event::Validate), (0, Event::Dispatch)]);
    assert_eq!(waits.status, Status::Validated);
    let refused = |event| decide(ID, &waits, &event, &world(1)).map(|step| step.task.status);
    assert_eq!(refused(Event::Admit), Err(Refusal::NotWaiting));
    assert_eq!(refused(Event::Approve { by: by("a") }), Err(Refusal::OwnTask));
    let late = decide(ID, &waits, &Event::Approve { by: by("b") }, &world(100)).map(|step| step.task.status);
    assert_eq!(late, Err(Refusal::TooLate));
    let (sent, _) = go(&waits, &[(1, Event::Approve { by: by("b") }), (1, Event::Dispatch)]);
    assert_eq!((sent.status, sent.approver), (Status::Sent, Some(by("b"))));
}

#[test]
fn a_hold_that_is_not_renewed_falls_back() {
    let start = [(0, Event::Validate), (0, Event::Admit), (0, Event::Dispatch), (1, Event::Acknowledge)];
    let (held, _) = go(&task(false, false, true, true), &start);
    assert_eq!((held.status, held.deadline()), (Status::Acknowledged, Some(Timestamp::from_secs(15))));
    let (renewed, _) = go(&held, &[(14, Event::Renew), (28, Event::Tick)]);
    assert_eq!(renewed.status, Status::Acknowledged);
    let (over, effects) = go(&renewed, &[(29, Event::Tick)]);
    assert_eq!(over.status, Status::Expired);
    assert_eq!(effects, [Effect::Give, Effect::Spawn(Purpose::Fallback(ID), parameters(0))]);
    assert_eq!(
        decide(ID, &renewed, &Event::Renew, &world(29)).map(|_| ()),
        Err(Refusal::NoHold),
        "too late is too late"
    );
    assert_eq!(go(&held, &[(5, Event::Release)]).0.status, Status::Completed);
}

#[test]
fn what_fails_is_taken_back() {
    let start = [(0, Event::Validate), (0, Event::Admit), (0, Event::Dispatch)];
    let (sent, _) = go(&task(false, false, false, true), &start);
    let undo = [Effect::Give, Effect::Spawn(Purpose::Undo(ID), parameters(1))];
    for event in [(10, Event::Tick), (1, Event::Refuse), (1, Event::Cancel)] {
        let (failed, effects) = go(&sent, &[event]);
        assert_eq!((failed.status, &effects[..]), (Status::Failed, &undo[..]));
        assert_eq!(go(&failed, &[(20, Event::Undone)]).0.status, Status::RolledBack);
    }
}

#[test]
fn what_is_completed_is_rolled_back_once_and_by_somebody() {
    let start = [(0, Event::Validate), (0, Event::Admit), (0, Event::Dispatch)];
    let (sent, _) = go(&task(false, false, false, true), &start);
    assert_eq!(
        decide(ID, &sent, &Event::RollBack { alone: true }, &world(1)).map(|_| ()),
        Err(Refusal::NoUndo),
        "it is cancelled"
    );
    let (done, _) = go(&sent, &[(1, Event::Acknowledge)]);
    let overtaken = decide(ID, &done, &Event::RollBack { alone: true }, &World { newest: false, ..world(2) });
    assert_eq!(overtaken.map(|_| ()), Err(Refusal::Overtaken));
    let (back, effects) = go(&done, &[(2, Event::RollBack { alone: true })]);
    assert_eq!(
        (back.status, &effects[..]),
        (Status::Completed, &[Effect::Propose(Purpose::Undo(ID), parameters(1), false)][..])
    );
    assert_eq!(
        decide(ID, &back, &Event::RollBack { alone: true }, &world(3)).map(|_| ()),
        Err(Refusal::NoUndo),
        "it is under way"
    );
    let (again, _) = go(&back, &[(3, Event::NotUndone), (4, Event::RollBack { alone: true })]);
    assert_eq!(go(&again, &[(5, Event::Undone)]).0.status, Status::RolledBack);
    assert_eq!(go(&done, &[(5, Event::Undone)]).0.status, Status::Completed, "nobody has asked for it");
    let (plain, _) = go(&task(false, false, false, false), &[&start[..], &[(1, Event::Acknowledge)]].concat());
    assert_eq!(
        decide(ID, &plain, &Event::RollBack { alone: true }, &world(2)).map(|_| ()),
        Err(Refusal::NoUndo),
        "nothing to send"
    );
}

#[test]
fn nothing_leaves_that_may_not() {
    let (approved, _) = go(&task(false, false, false, false), &[(0, Event::Validate), (0, Event::Admit)]);
    let at = |world: World| decide(ID, &approved, &Event::Dispatch, &world).expect("a step").task.status;
    assert_eq!(at(World { stopped: true, ..world(1) }), Status::Approved);
    assert_eq!(at(World { lease: Lease::Other, ..world(1) }), Status::Approved);
    assert_eq!(at(World { found: Found::Differs, ..world(1) }), Status::Rejected);
    assert_eq!(at(World { fits: false, ..world(1) }), Status::Rejected);
    assert_eq!(at(world(100)), Status::Expired);
    let refuses = Task { busy: Busy::Refuse, ..approved };
    let step = decide(ID, &refuses, &Event::Dispatch, &World { lease: Lease::Other, ..world(1) }).expect("a step");
    assert_eq!(step.task.status, Status::Rejected);
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Validate),
        Just(Event::Admit),
        "[abc]".prop_map(|who| Event::Approve { by: by(&who) }),
        "[abc]".prop_map(|who| Event::Reject { by: by(&who) }),
        Just(Event::Cancel),
        "[abc]".prop_map(|who| Event::Amend { by: by(&who) }),
        Just(Event::Dispatch),
        Just(Event::Dispatch),
        Just(Event::Acknowledge),
        Just(Event::Acknowledge),
        Just(Event::Refuse),
        (0i64..120, any::<bool>()).prop_map(|(at, matches)| Event::Observed { at: Timestamp::from_secs(at), matches }),
        Just(Event::Renew),
        Just(Event::Release),
        Just(Event::Tick),
        Just(Event::Undone),
        Just(Event::NotUndone),
        any::<bool>().prop_map(|alone| Event::RollBack { alone }),
    ]
}

/// Some Tasks, who has the lease, and how often each was delivered: what the store does with effects, in memory.
#[derive(Default)]
struct City {
    tasks: BTreeMap<i64, Task>,
    lease: Option<i64>,
    delivered: BTreeMap<i64, u32>,
}

impl City {
    fn apply(&mut self, id: i64, event: &Event, now: i64, stopped: bool) {
        let lease = match self.lease {
            None => Lease::Free,
            Some(holder) if holder == id => Lease::Own,
            Some(_) => Lease::Other,
        };
        let before = self.tasks[&id].clone();
        let Ok(step) = decide(EntityId(id), &before, event, &World { stopped, lease, ..world(now) }) else { return };
        let lines = u32::try_from(step.lines.len()).expect("few");
        assert_eq!(step.task.version, before.version + lines, "a line for each version");
        assert!(lines > 0 || (step.task == before && step.effects.is_empty()), "what is not said does not happen");
        let undone = before.status == Status::Failed && step.task.status == Status::RolledBack;
        let back = matches!(event, Event::RollBack { .. } | Event::Undone | Event::NotUndone)
            && before.purpose == Purpose::Ask;
        assert!(!before.status.is_over() || step.task == before || undone || back, "{before:?} moved by {event:?}");
        self.tasks.insert(id, step.task);
        for effect in step.effects {
            match effect {
                Effect::Take => {
                    assert_eq!(self.lease, None, "two leases");
                    self.lease = Some(id);
                }
                Effect::Give => {
                    assert_eq!(self.lease, Some(id), "a lease is given back that is another's");
                    self.lease = None;
                }
                Effect::Deliver => {
                    assert!(!stopped, "it left while the kill switch was on");
                    *self.delivered.entry(id).or_default() += 1;
                    let task = &self.tasks[&id];
                    let approver = task.approver.as_deref().expect("approved");
                    assert!(!task.four_eyes || approver != task.proposer, "sent without a second person");
                }
                Effect::Propose(purpose, _, four_eyes) => {
                    assert!(four_eyes || !self.tasks[&id].four_eyes, "what needed two is taken back by one");
                    let child = i64::try_from(self.tasks.len()).expect("few") + 1;
                    let made = Task { status: Status::Validated, purpose, ..task(four_eyes, false, false, false) };
                    self.tasks.insert(child, made);
                }
                Effect::Spawn(purpose, _) => {
                    let child = i64::try_from(self.tasks.len()).expect("few") + 1;
                    let approver = Some("of another".to_owned());
                    let made = Task { status: Status::Approved, approver, purpose, ..task(false, false, false, false) };
                    self.tasks.insert(child, Task { proposer: "system:tasking".to_owned(), ..made });
                }
            }
        }
        let out: Vec<i64> = self.tasks.iter().filter(|(_, t)| t.status.is_out()).map(|(id, _)| *id).collect();
        assert_eq!(out, self.lease.into_iter().collect::<Vec<_>>(), "who is out has the lease, and nobody else");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_order_of_events_does_harm(
        kinds in proptest::collection::vec(any::<(bool, bool, bool, bool)>(), 2),
        way in proptest::collection::vec((0i64..4, events(), 0i64..8, any::<bool>()), 0..60),
    ) {
        let mut city = City::default();
        for (id, (four_eyes, verify, hold, undo)) in (1..).zip(kinds) {
            city.tasks.insert(id, task(four_eyes, verify, hold, undo));
        }
        let mut now = 0;
        for (which, event, later, stopped) in way {
            now += later;
            let id = which % i64::try_from(city.tasks.len()).expect("few") + 1;
            city.apply(id, &event, now, stopped);
        }
        for (id, times) in &city.delivered {
            prop_assert_eq!(*times, 1, "Tasks({}) was sent twice", id);
        }
    }
}
