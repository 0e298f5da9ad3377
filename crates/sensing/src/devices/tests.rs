use std::{collections::BTreeSet, sync::Arc};

use kernel::{Action, Clock, Decision, FixedClock};
use records::AuditQuery;

use super::*;
use crate::model::{EntityId, ObservationType};

/// Members of a tenant read and observe; those with the role `manager` manage.
pub(super) struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let manages = action != action::DEVICE_MANAGE || caller.has_role("manager");
        if own && manages { Decision::Allow } else { Decision::Deny }
    }
}

pub(super) struct Town {
    pub devices: Devices,
    pub records: Records,
    pub clock: Arc<FixedClock>,
    _folder: tempfile::TempDir,
}

pub(super) fn town() -> Town {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let records = crate::test_records::open(folder.path(), clock.clone());
    crate::Catalog::open(records.clone(), Arc::new(Own), clock.clone()).unwrap();
    let devices = Devices::open(records.clone(), Arc::new(Own)).unwrap();
    Town { devices, records, clock, _folder: folder }
}

pub(super) fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).unwrap()
}

pub(super) fn person(of: &str, role: &'static str) -> Caller {
    Caller {
        principal: Principal::Person { id: "p".into(), name: "P".into() },
        tenant: Some(tenant(of)),
        roles: BTreeSet::from([role.into()]),
    }
}

pub(super) fn new(key: &str, things: &[i64]) -> NewDevice {
    NewDevice {
        tenant: tenant("dsd"),
        key: key.to_owned(),
        name: None,
        kind: "flood-station".to_owned(),
        firmware: Some("1.0".to_owned()),
        things: things.iter().copied().map(EntityId).collect(),
        gateway: false,
    }
}

fn datastream(of: &str, thing: i64) -> DatastreamInfo {
    DatastreamInfo {
        id: EntityId(1),
        tenant: tenant(of),
        public: false,
        thing: EntityId(thing),
        name: "level".into(),
        observation_type: ObservationType::Measurement,
        elements: None,
        unit: None,
        feature: EntityId(1),
        interval: None,
        simulated: false,
    }
}

pub(super) fn status(error: Error) -> u16 {
    kernel::Problem::from(error).status.as_u16()
}

#[tokio::test]
async fn a_key_opens_until_it_is_rotated_revoked_or_over() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("station-1", &[7])).await.unwrap().id;
    let first = town.devices.issue_key(&manager, id, None).await.unwrap();
    let caller = town.devices.authenticate(&first.secret).await.unwrap().expect("good");
    assert_eq!(caller.label(), format!("device:{id}"));
    assert_eq!(caller.tenant, Some(tenant("dsd")));

    let before = town.devices.generation();
    let second = town.devices.rotate_key(&manager, id, Duration::from_secs(60)).await.unwrap();
    assert!(town.devices.generation() > before, "who caches callers must ask again");
    assert!(town.devices.authenticate(&first.secret).await.unwrap().is_some(), "within the grace");
    town.clock.advance_micros(61_000_000);
    assert!(town.devices.authenticate(&first.secret).await.unwrap().is_none(), "after it");
    assert!(town.devices.authenticate(&second.secret).await.unwrap().is_some());

    town.devices.revoke_key(&manager, id, &second.prefix).await.unwrap();
    assert!(town.devices.authenticate(&second.secret).await.unwrap().is_none());
    let third = town.devices.issue_key(&manager, id, Some(town.clock.now().plus_secs(10))).await.unwrap();
    assert!(town.devices.authenticate(&third.secret).await.unwrap().is_some());
    town.devices.update(&manager, id, Change { enabled: Some(false), ..Change::default() }).await.unwrap();
    assert!(town.devices.authenticate(&third.secret).await.unwrap().is_none(), "disabled");
    assert!(!town.devices.may_publish(&caller, &datastream("dsd", 7)), "also for a session that is still open");

    // The right prefix with another secret, and the key of a program, are nobody.
    let forged = format!("{}{}", &third.secret[..15], &first.secret[15..]);
    assert!(town.devices.authenticate(&forged).await.unwrap().is_none());
    assert!(town.devices.authenticate(&token::issue(Kind::Program).text).await.unwrap().is_none());

    // What ended long ago is not read at each sign-in for ever.
    let ended = town.devices.rotate_key(&manager, id, Duration::from_secs(60)).await.unwrap();
    town.devices.rotate_key(&manager, id, Duration::from_secs(60)).await.unwrap();
    town.clock.advance_micros(8 * 86_400 * 1_000_000);
    town.devices.rotate_key(&manager, id, Duration::from_secs(60)).await.unwrap();
    let keys = town.devices.get(&manager, id).await.unwrap().keys;
    assert!(keys.len() == 2 && keys.iter().all(|key| key.prefix != ended.prefix), "{keys:?}");
}

#[tokio::test]
async fn a_device_publishes_for_its_own_things_only() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("station-1", &[7])).await.unwrap().id;
    let key = town.devices.issue_key(&manager, id, None).await.unwrap();
    let caller = town.devices.authenticate(&key.secret).await.unwrap().unwrap();
    assert!(town.devices.may_publish(&caller, &datastream("dsd", 7)));
    assert!(!town.devices.may_publish(&caller, &datastream("dsd", 8)));
    assert!(!town.devices.may_publish(&caller, &datastream("epd", 7)));
    town.devices.update(&manager, id, Change { things: Some(vec![EntityId(8)]), ..Change::default() }).await.unwrap();
    assert!(!town.devices.may_publish(&caller, &datastream("dsd", 7)), "rights follow the register at once");
    assert!(town.devices.may_publish(&caller, &datastream("dsd", 8)));
    town.devices.update(&manager, id, Change { gateway: Some(true), ..Change::default() }).await.unwrap();
    assert!(town.devices.may_publish(&caller, &datastream("dsd", 99)));
    assert!(!town.devices.may_publish(&caller, &datastream("epd", 99)), "a gateway stays in its department");
    assert!(town.devices.may_publish(&manager, &datastream("dsd", 1)), "people by the policy alone");
}

#[tokio::test]
async fn other_departments_learn_nothing() {
    let town = town();
    let (manager, viewer, other) = (person("dsd", "manager"), person("dsd", "viewer"), person("epd", "manager"));
    let device = town.devices.register(&manager, new("station-1", &[])).await.unwrap();
    let id = device.id;
    assert_eq!(town.devices.get(&viewer, id).await.unwrap(), device);
    assert_eq!(status(town.devices.get(&other, id).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.delete(&other, id).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.delete(&viewer, id).await.unwrap_err()), 403);
    assert_eq!(status(town.devices.issue_key(&viewer, id, None).await.err().unwrap()), 403);
    assert_eq!(status(town.devices.list(&other, &tenant("dsd"), None).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.register(&other, new("x", &[])).await.unwrap_err()), 403);
    assert_eq!(status(town.devices.register(&manager, new("station-1", &[])).await.unwrap_err()), 409);
    assert_eq!(town.devices.get(&manager, id).await.unwrap(), device, "nothing of that changed it");
    let audit = town.records.audit(AuditQuery { limit: 100, ..AuditQuery::default() }).await.unwrap();
    let actions: Vec<&str> = audit.rows.iter().map(|r| r.action.as_str()).collect();
    assert_eq!(actions, ["device:register"], "refused commands leave no row");
}

#[tokio::test]
async fn what_was_heard_is_written_down_in_bulk() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("station-1", &[7])).await.unwrap().id;
    let key = town.devices.issue_key(&manager, id, None).await.unwrap();
    let caller = town.devices.authenticate(&key.secret).await.unwrap().unwrap();
    let commands = town.records.stats().commands;
    for _ in 0..1_000 {
        town.devices.observed(&caller, Some(town.clock.now().plus_secs(-2)), 5);
    }
    town.devices.refused(&caller, "the result is not a number");
    assert_eq!(town.records.stats().commands, commands, "no write per message");
    let device = town.devices.get(&manager, id).await.unwrap();
    let health = town.devices.health(&device);
    assert_eq!((health.observations, health.errors, health.skew_micros), (5_000, 1, Some(2_000_000)));
    assert_eq!(device.seen_at, None);
    assert_eq!(town.devices.persist().await.unwrap(), 1);
    assert_eq!(town.devices.persist().await.unwrap(), 0);
    assert_eq!(town.devices.get(&manager, id).await.unwrap().seen_at, Some(town.clock.now()));
}

#[tokio::test]
async fn lists_are_paged_by_key() {
    let town = town();
    let manager = person("dsd", "manager");
    for i in 0..PAGE + 3 {
        town.devices.register(&manager, new(&format!("station-{i:04}"), &[])).await.unwrap();
    }
    let first = town.devices.list(&manager, &tenant("dsd"), None).await.unwrap();
    let second = town.devices.list(&manager, &tenant("dsd"), Some(&first[PAGE - 1].key)).await.unwrap();
    assert_eq!((first.len(), second.len()), (PAGE, 3));
    assert_eq!(second[0].key, "station-0200");
}

#[tokio::test]
async fn who_loses_a_key_loses_the_connection() {
    let town = town();
    let cut = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = cut.clone();
    let gone = cut.clone();
    town.devices.cutting_with(Cuts {
        connections: Box::new(move |label| {
            heard.lock().push(label.to_owned());
            1
        }),
        sessions: Box::new(move |label| {
            gone.lock().push(label.to_owned());
            1
        }),
    });
    let cuts = || std::mem::take(&mut *cut.lock()).len();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("station-1", &[7])).await.unwrap().id;
    let first = town.devices.issue_key(&manager, id, None).await.unwrap();
    let viewer = person("dsd", "viewer");
    assert!(town.devices.revoke_key(&viewer, id, &first.prefix).await.is_err());
    assert_eq!(cuts(), 0, "who may not revoke cuts nothing");
    town.devices.rotate_key(&manager, id, Duration::from_secs(60)).await.unwrap();
    town.devices.persist().await.unwrap();
    assert_eq!(cuts(), 0, "within the grace");
    town.clock.advance_micros(61_000_000);
    town.devices.persist().await.unwrap();
    assert_eq!(*cut.lock(), [format!("device:{id}")], "after it");
    assert_eq!(cuts(), 1);
    town.devices.persist().await.unwrap();
    assert_eq!(cuts(), 0, "once");
    let third = town.devices.rotate_key(&manager, id, Duration::ZERO).await.unwrap();
    assert_eq!(cuts(), 1, "at once");
    town.devices.revoke_key(&manager, id, &third.prefix).await.unwrap();
    assert_eq!(cuts(), 1);
    town.devices.update(&manager, id, Change { name: Some("n".into()), ..Change::default() }).await.unwrap();
    assert_eq!(cuts(), 0, "another name is no reason");
    town.devices.update(&manager, id, Change { enabled: Some(false), ..Change::default() }).await.unwrap();
    assert_eq!(cuts(), 1);
    town.devices.delete(&manager, id).await.unwrap();
    assert_eq!(cuts(), 1);
}

#[tokio::test]
async fn last_words_outlive_the_process() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("station-1", &[7])).await.unwrap().id;
    let key = town.devices.issue_key(&manager, id, None).await.unwrap();
    let caller = town.devices.authenticate(&key.secret).await.unwrap().unwrap();
    let observed = town.clock.now();
    town.devices.observed(&caller, None, 1);
    town.clock.advance_micros(5_000_000);
    town.devices.refused(&caller, "a number is expected");
    town.devices.persist().await.unwrap();
    let again = Devices::open(town.records.clone(), Arc::new(Own)).unwrap();
    let device = again.get(&manager, id).await.unwrap();
    assert_eq!(device.keys[0].used_at, Some(observed));
    let health = again.health(&device);
    assert_eq!((health.observed_at, health.refused_at), (Some(observed), Some(town.clock.now())));
    assert_eq!(health.refusal.as_deref(), Some("a number is expected"));
    // What is older never overwrites what is newer, whoever writes it down.
    town.records
        .write(move |tx| {
            let old = Timestamp::from_secs(1);
            let refused = Some((old, "older".into()));
            let (device, observed) = (id.to_string(), Some(old));
            let (battery, signal, skew, firmware) = (None, None, None, None);
            let heard = super::live::Heard { device, seen: old, observed, refused, battery, signal, skew, firmware };
            store::saw(tx, &[heard])
        })
        .await
        .unwrap_or_else(|e: records::Error| panic!("{e}"));
    assert_eq!(again.get(&manager, id).await.unwrap(), device);
}
