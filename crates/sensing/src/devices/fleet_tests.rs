//! Many devices at once, and their first and last day.

use axum::{Extension, Router, body::Body};
use http::{Request, StatusCode, header};
use kernel::Clock;
use records::{AuditQuery, params};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    bulk::{Fate, Keys, Wanted, sheet::Named},
    campaign::model::{Deed, Stage, Status},
    tests::{Town, new, person, status, tenant, town},
    *,
};

/// Things of the DSD with these keys, and of the EPD with the id after them.
async fn things(town: &Town, keys: &'static [&'static str]) {
    let all = keys.iter().map(|key| ("dsd", *key)).chain([("epd", "elsewhere")]).enumerate();
    let all: Vec<(i64, &str, &str)> = all.map(|(at, (of, key))| (at as i64 + 1, of, key)).collect();
    town.records
        .write(move |tx| {
            for (id, of, key) in &all {
                tx.execute(
                    "INSERT INTO sensing_thing (id, tenant, public, key, name, description) VALUES ($1, $2, 1, $3, $3, 'd')",
                    params![*id, *of, *key],
                )?;
            }
            Ok::<_, records::Error>(())
        })
        .await
        .unwrap();
}

fn wanted() -> Wanted {
    Wanted { tenant: tenant("dsd"), check: false, partial: false, update: false, keys: Keys::New }
}

async fn audits(town: &Town) -> Vec<String> {
    let rows = town.records.audit(AuditQuery { limit: 1_000, ..AuditQuery::default() }).await.unwrap().rows;
    rows.into_iter().rev().map(|row| row.action).collect()
}

#[tokio::test]
async fn a_sheet_is_taken_whole_and_once() {
    let town = town();
    things(&town, &["san-tin", "tai-po"]).await;
    let manager = person("dsd", "manager");
    let sheet = b"key,name,kind,firmware,things,gateway\nwl-1,One,station,1.0,san-tin,\nwl-2,,station,,1;tai-po,\ngw,,gateway,,,yes\n";
    let wrong = b"key,kind,things\nwl-1,station,san-tin\nwl-2,station,nowhere\nwl-3,station,3\n";
    let none = town.devices.register_sheet(&manager, wrong, wanted()).await.unwrap();
    let told: Vec<(u64, &str)> = none.mistakes.iter().map(|m| (m.line, m.column)).collect();
    assert_eq!((none.applied, told), (false, vec![(3, "things"), (4, "things")]), "another department's Thing is none");
    assert!(town.devices.list(&manager, &tenant("dsd"), None).await.unwrap().is_empty());
    assert!(audits(&town).await.is_empty(), "nothing was changed");
    let looked = Wanted { check: true, ..wanted() };
    assert!(!town.devices.register_sheet(&manager, sheet, looked).await.unwrap().applied);

    let made = town.devices.register_sheet(&manager, sheet, wanted()).await.unwrap();
    assert_eq!((made.applied, made.registered, made.devices.len()), (true, 3, 3));
    assert_eq!(audits(&town).await, ["device:register"; 3]);
    let all = town.devices.list(&manager, &tenant("dsd"), None).await.unwrap();
    assert_eq!(all.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["gw", "wl-1", "wl-2"]);
    assert_eq!((all[1].name.as_str(), all[1].firmware.as_deref()), ("One", Some("1.0")));
    assert_eq!(all[2].things, [EntityId(1), EntityId(2)]);
    for done in &made.devices {
        let caller = town.devices.authenticate(done.secret.as_ref().unwrap()).await.unwrap().unwrap();
        assert_eq!(caller.label(), format!("device:{}", done.id));
    }
    let csv = made.csv(Keys::New);
    assert_eq!(csv.lines().count(), 4);
    assert!(csv.starts_with("line,id,key,fate,secret\r\n2,"), "{csv}");

    let again = town.devices.register_sheet(&manager, sheet, wanted()).await.unwrap();
    assert_eq!((again.applied, again.registered, again.unchanged), (true, 0, 3));
    assert!(again.devices.iter().all(|done| done.secret.is_none() && done.fate == Fate::Unchanged));
    assert_eq!(audits(&town).await.len(), 3, "the same sheet again changes nothing");

    let other = b"key,kind,firmware\nwl-1,station,2.0\n";
    let refused = town.devices.register_sheet(&manager, other, wanted()).await.unwrap();
    assert_eq!((refused.applied, refused.mistakes[0].column), (false, "firmware"));
    let update = Wanted { update: true, ..wanted() };
    let changed = town.devices.register_sheet(&manager, other, update.clone()).await.unwrap();
    assert_eq!((changed.applied, changed.changed), (true, 1));
    let device = town.devices.get(&manager, changed.devices[0].id).await.unwrap();
    assert_eq!((device.firmware.as_deref(), device.things.len()), (Some("2.0"), 1), "what is not said stays");

    let partial = Wanted { partial: true, ..wanted() };
    let some = town.devices.register_sheet(&manager, wrong, partial).await.unwrap();
    assert_eq!((some.applied, some.unchanged, some.mistakes_in_all), (true, 1, 2));
    let viewer = town.devices.register_sheet(&person("dsd", "viewer"), sheet, wanted()).await.unwrap_err();
    assert_eq!(status(viewer), 403);
}

#[tokio::test]
async fn keys_whose_answer_was_lost_are_made_again() {
    let town = town();
    let manager = person("dsd", "manager");
    let sheet = b"key,kind\na,station\nb,station\n";
    let first = town.devices.register_sheet(&manager, sheet, wanted()).await.unwrap();
    let used = first.devices[0].secret.clone().unwrap();
    town.devices.authenticate(&used).await.unwrap().unwrap();
    let again = Wanted { keys: Keys::Unused, ..wanted() };
    let second = town.devices.register_sheet(&manager, sheet, again).await.unwrap();
    assert_eq!(second.devices[0].secret, None, "one that was used stays");
    assert!(town.devices.authenticate(&used).await.unwrap().is_some());
    assert_eq!(town.devices.authenticate(first.devices[1].secret.as_ref().unwrap()).await.unwrap(), None);
    assert!(town.devices.authenticate(second.devices[1].secret.as_ref().unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn ten_thousand_rows_are_one_transaction() {
    let town = town();
    things(&town, &["san-tin"]).await;
    let manager = person("dsd", "manager");
    let sheet =
        (0..10_000).fold("key,kind,things\n".to_owned(), |text, n| text + &format!("d-{n:05},station,san-tin\n"));
    let commands = town.records.stats().commands;
    let made = town.devices.register_sheet(&manager, sheet.as_bytes(), wanted()).await.unwrap();
    assert_eq!((made.registered, town.records.stats().commands - commands), (10_000, 1));
    let last = made.devices.last().unwrap();
    assert!(town.devices.authenticate(last.secret.as_ref().unwrap()).await.unwrap().is_some());
    let again = town.devices.register_sheet(&manager, sheet.as_bytes(), wanted()).await.unwrap();
    assert_eq!(again.unchanged, 10_000);
}

const CODE: &str = "ABCD-EFGH-JKMN-PQRS";

#[tokio::test]
async fn a_device_is_claimed_once_by_itself_and_once_by_a_person() {
    let town = town();
    things(&town, &["san-tin", "tai-po"]).await;
    let manager = person("dsd", "manager");
    let sheet = format!("key,kind,claim_code\nwl-1,station,{CODE}\nwl-2,station,ZZZZ-YYYY-XXXX-1234\n");
    let made = town.devices.register_sheet(&manager, sheet.as_bytes(), wanted()).await.unwrap();
    assert!(made.devices.iter().all(|d| d.secret.is_none()), "whoever is claimed needs no key yet");
    let address = Some("10.0.0.1".parse().unwrap());
    assert_eq!(status(town.devices.collect("ABCD-EFGH-JKMN-PQRT", address).await.err().unwrap()), 403);
    let (device, key) = town.devices.collect(&CODE.to_lowercase(), address).await.unwrap();
    assert_eq!(device.key, "wl-1");
    let caller = town.devices.authenticate(&key.secret).await.unwrap().unwrap();
    assert!(!town.devices.has(&caller, &tenant("dsd"), EntityId(1)), "it stands nowhere yet");
    let replay = town.devices.collect(CODE, address).await.err().unwrap();
    assert_eq!(status(replay), 403);
    let claim = town.devices.claim_of(&manager, device.id).await.unwrap().unwrap();
    assert_eq!((claim.collected_at.is_some(), claim.placed_at, claim.refusals), (true, None, 1));

    let thing = Named::Key("san-tin".to_owned());
    let stranger = person("epd", "manager");
    assert_eq!(status(town.devices.place(&stranger, CODE, &thing).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.place(&person("dsd", "viewer"), CODE, &thing).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.place(&manager, CODE, &Named::Id(EntityId(3))).await.unwrap_err()), 400);
    let placed = town.devices.place(&manager, CODE, &thing).await.unwrap();
    assert_eq!(placed.things, [EntityId(1)]);
    assert!(town.devices.has(&caller, &tenant("dsd"), EntityId(1)), "at once");
    town.devices.place(&manager, CODE, &thing).await.expect("the same again");
    let elsewhere = town.devices.place(&manager, CODE, &Named::Key("tai-po".to_owned())).await.unwrap_err();
    assert_eq!(status(elsewhere), 409);
    let expected = ["device:register", "device:register", "device:key-issue", "device:claim", "device:claim-refused"];
    assert_eq!(audits(&town).await[..5], expected);

    // A new code for one that lost its key; the old one is good for nothing.
    let code = town.devices.new_claim(&manager, device.id, Some(town.clock.now().plus_secs(60))).await.unwrap();
    assert_eq!(status(town.devices.collect(CODE, address).await.err().unwrap()), 403);
    town.clock.advance_micros(61_000_000);
    assert_eq!(status(town.devices.collect(&code, address).await.err().unwrap()), 403, "it is over");
    for _ in 0..30 {
        drop(town.devices.collect("QQQQ-WWWW-EEEE-RRRR", address).await);
    }
    assert_eq!(
        status(town.devices.collect("ZZZZ-YYYY-XXXX-1234", address).await.err().unwrap()),
        429,
        "a guesser waits"
    );
    assert!(town.devices.collect("ZZZZ-YYYY-XXXX-1234", Some("10.0.0.2".parse().unwrap())).await.is_ok());
    let stored: i64 = town
        .records
        .read(|read| {
            read.query_one("SELECT COUNT(*) FROM sensing_device_claim WHERE hash LIKE '%ABCD%'", &[], |row| row.get(0))
        })
        .await
        .unwrap_or_else(|e: records::Error| panic!("{e}"));
    assert_eq!(stored, 0, "hashes alone");
}

#[tokio::test]
async fn a_sheet_that_changes_something_else_leaves_claims_and_gateways_alone() {
    let town = town();
    let manager = person("dsd", "manager");
    let sheet = format!("key,kind,gateway,claim_code\nwl-1,station,,{CODE}\ngw,gateway,yes,\n");
    town.devices.register_sheet(&manager, sheet.as_bytes(), Wanted { keys: Keys::None, ..wanted() }).await.unwrap();
    let address = Some("10.0.0.1".parse().unwrap());
    let (device, _) = town.devices.collect(CODE, address).await.unwrap();
    let sheet = format!("key,kind,firmware,claim_code\nwl-1,station,2.0,{CODE}\ngw,gateway,2.0,\n");
    let update = Wanted { update: true, keys: Keys::None, ..wanted() };
    let changed = town.devices.register_sheet(&manager, sheet.as_bytes(), update.clone()).await.unwrap();
    assert_eq!((changed.applied, changed.changed), (true, 2));
    assert_eq!(status(town.devices.collect(CODE, address).await.err().unwrap()), 403, "a used code stays used");
    assert!(town.devices.claim_of(&manager, device.id).await.unwrap().unwrap().collected_at.is_some());
    let gateway = async || town.devices.get(&manager, changed.devices[1].id).await.unwrap().gateway;
    assert!(gateway().await, "a column that is not there says nothing");
    town.devices.register_sheet(&manager, b"key,kind,gateway\ngw,gateway,no\n", update).await.unwrap();
    assert!(!gateway().await);
}

#[tokio::test]
async fn a_revoked_certificate_does_not_open_for_the_next_of_its_key() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("wl-1", &[7])).await.unwrap().id;
    let (stolen, good) = (certificate("dsd/wl-1", 1970, 2050), certificate("dsd/wl-1", 1970, 2050));
    let registered = town.devices.add_certificate(&manager, id, &stolen.pem()).await.unwrap();
    town.devices.add_certificate(&manager, id, &good.pem()).await.unwrap();
    town.devices.revoke_certificate(&manager, id, &registered.fingerprint).await.unwrap();
    town.devices.delete(&manager, id).await.unwrap();
    let id = town.devices.register(&manager, new("wl-1", &[7])).await.unwrap().id;
    assert_eq!(town.devices.authenticate_certificate(stolen.der()).await.unwrap(), None);
    assert!(town.devices.authenticate_certificate(good.der()).await.unwrap().is_some());
    town.devices.add_certificate(&manager, id, &good.pem()).await.expect("it was never revoked");
}

#[tokio::test]
async fn a_change_takes_back_nothing_that_happened_since_somebody_looked() {
    let town = town();
    let manager = person("dsd", "manager");
    let seen = town.devices.register(&manager, new("wl-1", &[])).await.unwrap();
    let disabled = Change { enabled: Some(false), ..Change::default() };
    town.devices.update(&manager, seen.id, disabled).await.unwrap();
    let named = Change { name: Some("One".to_owned()), ..Change::default() };
    let (caller, old) = (manager.clone(), seen.clone());
    let device = town.records.write(move |tx| store::update(tx, &caller, &old, &named)).await.unwrap();
    assert_eq!((device.name.as_str(), device.enabled), ("One", false), "taken out of service meanwhile");
}

#[tokio::test]
async fn a_device_changes_its_own_key_without_a_gap() {
    let town = town();
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("wl-1", &[])).await.unwrap().id;
    let first = town.devices.issue_key(&manager, id, None).await.unwrap();
    let caller = town.devices.authenticate(&first.secret).await.unwrap().unwrap();
    let other = town.devices.register(&manager, new("wl-2", &[])).await.unwrap().id;
    let hour = Duration::from_secs(3_600);
    assert_eq!(status(town.devices.rotate_own(&caller, other, hour).await.err().unwrap()), 403);
    let second = town.devices.rotate_own(&caller, id, hour).await.unwrap();
    for key in [&first, &second] {
        assert!(town.devices.authenticate(&key.secret).await.unwrap().is_some(), "both are good");
    }
    town.clock.advance_micros(3_600_000_001);
    assert_eq!(town.devices.authenticate(&first.secret).await.unwrap(), None, "cut");
    assert!(town.devices.authenticate(&second.secret).await.unwrap().is_some());
    let rows = town.records.audit(AuditQuery { limit: 1, ..AuditQuery::default() }).await.unwrap().rows;
    assert_eq!((rows[0].action.as_str(), rows[0].caller.clone()), ("device:key-rotate", format!("device:{id}")));
}

#[tokio::test]
async fn what_is_decommissioned_does_not_come_back() {
    let town = town();
    let gone = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = gone.clone();
    town.devices.cutting_with(Cuts {
        connections: Box::new(|_| 0),
        sessions: Box::new(move |label| {
            heard.lock().push(label.to_owned());
            1
        }),
    });
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("wl-1", &[7])).await.unwrap().id;
    let key = town.devices.issue_key(&manager, id, None).await.unwrap();
    let code = town.devices.new_claim(&manager, id, None).await.unwrap();
    assert!(town.devices.authenticate(&key.secret).await.unwrap().is_some());
    let viewer = person("dsd", "viewer");
    assert_eq!(status(town.devices.decommission(&viewer, id, "broken").await.unwrap_err()), 403);
    assert_eq!(status(town.devices.decommission(&manager, id, "").await.unwrap_err()), 400);
    let device = town.devices.decommission(&manager, id, "Washed away").await.unwrap();
    let end = device.decommissioned.clone().unwrap();
    assert_eq!((end.at, end.by, end.reason.as_str()), (town.clock.now(), manager.label(), "Washed away"));
    assert_eq!((device.enabled, device.keys.len(), device.things.len()), (false, 0, 1), "where it stood is still told");
    assert_eq!(*gone.lock(), [format!("device:{id}")], "with its subscriptions");
    assert_eq!(town.devices.authenticate(&key.secret).await.unwrap(), None);
    assert_eq!(status(town.devices.collect(&code, None).await.err().unwrap()), 403);
    let back = Change { enabled: Some(true), ..Change::default() };
    assert_eq!(status(town.devices.update(&manager, id, back).await.unwrap_err()), 409);
    assert_eq!(status(town.devices.issue_key(&manager, id, None).await.err().unwrap()), 409);
    assert_eq!(status(town.devices.new_claim(&manager, id, None).await.unwrap_err()), 409);
    assert_eq!(status(town.devices.delete(&manager, id).await.unwrap_err()), 409, "the register keeps it");
    assert_eq!(status(town.devices.decommission(&manager, id, "again").await.unwrap_err()), 409);
    assert_eq!(
        status(town.devices.register(&manager, new("wl-1", &[])).await.unwrap_err()),
        409,
        "its key stays taken"
    );
    let again = town.devices.register_sheet(&manager, b"key,kind\nwl-1,flood-station\n", wanted()).await.unwrap();
    assert_eq!((again.applied, again.mistakes[0].column), (false, "key"));
}

fn certificate(name: &str, from: i32, until: i32) -> rcgen::Certificate {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn a_certificate_opens_while_the_register_wants_it() {
    let town = town();
    let cut = Arc::new(parking_lot::Mutex::new(0));
    let heard = cut.clone();
    let connections: Cut = Box::new(move |_| {
        *heard.lock() += 1;
        1
    });
    town.devices.cutting_with(Cuts { connections, sessions: Box::new(|_| 0) });
    let manager = person("dsd", "manager");
    let id = town.devices.register(&manager, new("wl-1", &[7])).await.unwrap().id;
    let (one, two) = (certificate("dsd/wl-1", 1970, 1971), certificate("dsd/wl-1", 1970, 2050));
    let opens = async |der: &[u8]| town.devices.authenticate_certificate(der).await.unwrap().map(|c| c.label());
    assert_eq!(opens(one.der()).await, Some(format!("device:{id}")));
    for other in ["epd/wl-1", "dsd/wl-2", "wl-1"] {
        assert_eq!(opens(certificate(other, 1970, 2050).der()).await, None, "{other}");
    }
    assert_eq!(opens(certificate("dsd/wl-1", 1971, 2050).der()).await, None, "not yet");
    assert_eq!(opens(b"nonsense").await, None);
    // Once some are registered, those alone count.
    let wrong =
        town.devices.add_certificate(&manager, id, &certificate("dsd/wl-2", 1970, 2050).pem()).await.unwrap_err();
    assert_eq!(status(wrong), 400);
    assert_eq!(status(town.devices.add_certificate(&manager, id, "nonsense").await.unwrap_err()), 400);
    assert_eq!(status(town.devices.add_certificate(&person("dsd", "viewer"), id, &two.pem()).await.unwrap_err()), 403);
    let registered = town.devices.add_certificate(&manager, id, &two.pem()).await.unwrap();
    assert_eq!((opens(one.der()).await, opens(two.der()).await.is_some()), (None, true));
    assert_eq!(status(town.devices.add_certificate(&manager, id, &two.pem()).await.unwrap_err()), 409);
    let before = *cut.lock();
    town.devices.revoke_certificate(&manager, id, &registered.fingerprint).await.unwrap();
    assert_eq!((opens(two.der()).await, *cut.lock() - before), (None, 1), "and what was connected is not");
    assert_eq!(opens(one.der()).await, None, "not just any other");
    assert_eq!(status(town.devices.add_certificate(&manager, id, &two.pem()).await.unwrap_err()), 409, "never again");
    // By its fingerprint alone.
    let fingerprint = certificate::Certificate::read(one.der()).unwrap().fingerprint;
    town.devices.add_certificate(&manager, id, &fingerprint.to_uppercase()).await.unwrap();
    assert!(opens(one.der()).await.is_some());
    let before = *cut.lock();
    town.clock.advance_micros(366 * 86_400 * 1_000_000);
    assert_eq!(opens(one.der()).await, None, "it is over");
    town.devices.persist().await.unwrap();
    town.devices.persist().await.unwrap();
    assert_eq!(*cut.lock() - before, 1, "and the connection with it, once");
}

#[tokio::test]
async fn conditions_are_lists_by_an_index() {
    let town = town();
    let manager = person("dsd", "manager");
    let mut callers = Vec::new();
    for n in 0..5 {
        let id = town.devices.register(&manager, new(&format!("wl-{n}"), &[])).await.unwrap().id;
        let key = town.devices.issue_key(&manager, id, None).await.unwrap();
        callers.push(town.devices.authenticate(&key.secret).await.unwrap().unwrap());
    }
    let now = town.clock.now();
    let say = |n: usize, body: Value| town.devices.report(&callers[n], body.to_string().as_bytes());
    say(0, json!({"battery": 12.4, "time": now})).unwrap();
    say(1, json!({"battery": 80, "signal": -71, "firmware": "2.0", "time": now.plus_secs(600)})).unwrap();
    say(2, json!({"battery": 5, "time": now.plus_secs(-7_200)})).unwrap();
    for bad in [json!({"battery": 101}), json!({"signal": -300}), json!({"colour": "red"}), json!({"firmware": ""})] {
        assert_eq!(status(say(3, bad).unwrap_err()), 400);
    }
    town.devices.persist().await.unwrap();
    let list = async |condition, after| -> Vec<String> {
        let found = town.devices.in_condition(&manager, &tenant("dsd"), condition, after).await.unwrap();
        found.into_iter().map(|d| d.key).collect()
    };
    assert_eq!(list(Condition::BatteryBelow(20), None).await, ["wl-2", "wl-0"], "the worst first");
    assert_eq!(list(Condition::BatteryBelow(20), Some((5, "wl-2".to_owned()))).await, ["wl-0"], "and the next page");
    assert_eq!(list(Condition::ClockOffBy(60_000_000), None).await, ["wl-2", "wl-1"]);
    assert!(list(Condition::UnseenSince(now), None).await.is_empty());
    town.clock.advance_micros(86_400_000_001);
    say(1, json!({})).unwrap();
    town.devices.persist().await.unwrap();
    let unseen = Condition::of("unseen", None, town.clock.now()).unwrap();
    assert_eq!(list(unseen, None).await, ["wl-0", "wl-2"]);
    let device = town.devices.list(&manager, &tenant("dsd"), None).await.unwrap().remove(1);
    assert_eq!(
        (device.firmware.as_deref(), device.signal, device.skew_micros),
        (Some("2.0"), Some(-71), Some(-600_000_000))
    );
    let stranger = town.devices.in_condition(&person("epd", "manager"), &tenant("dsd"), unseen, None).await;
    assert_eq!(status(stranger.unwrap_err()), 404);
}

fn proposal(waves: &str) -> campaign::Proposal {
    campaign::Proposal {
        tenant: tenant("dsd"),
        name: "Report every minute".to_owned(),
        firmware: None,
        configuration: Some(json!({"interval": 60})),
        version: Some("c2".to_owned()),
        target: campaign::Target::default(),
        waves: Some(waves.to_owned()),
        max_failures: Some(10.0),
        timeout_hours: Some(1),
    }
}

async fn fleet(town: &Town, count: usize) -> Vec<Id<Device>> {
    let manager = person("dsd", "manager");
    let sheet = (0..count).fold("key,kind\n".to_owned(), |text, n| text + &format!("d-{n:03},station\n"));
    let made = town.devices.register_sheet(&manager, sheet.as_bytes(), wanted()).await.unwrap();
    made.devices.into_iter().map(|done| done.id).collect()
}

/// Does every job that is due, as the worker does.
async fn work(town: &Town) {
    let jobs = town.records.jobs();
    loop {
        let due = jobs.claim(campaign::QUEUE, 100).await.unwrap();
        if due.is_empty() {
            return;
        }
        for job in due {
            town.devices.clone().work(job.clone()).await.unwrap();
            jobs.complete(&job).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_campaign_goes_on_while_it_goes_well() {
    let town = town();
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = told.clone();
    town.devices.telling_with(Box::new(move |labels, command| {
        heard.lock().push((labels.len(), command["version"].as_str().map(str::to_owned)));
    }));
    let devices = fleet(&town, 20).await;
    let manager = person("dsd", "manager");
    let (campaign, waves) = town.devices.propose(&manager, proposal("2, 10%, rest")).await.unwrap();
    assert_eq!(waves.iter().map(|w| w.total).collect::<Vec<_>>(), [2, 2, 16]);
    assert_eq!(town.devices.command_for(devices[0]).await.unwrap(), None, "nobody has approved it");
    let stale = town.devices.decide(&manager, campaign.id, Deed::Approve, Some(7), "").await.unwrap_err();
    assert_eq!(status(stale), 412);
    let (campaign, _) = town.devices.decide(&manager, campaign.id, Deed::Approve, Some(1), "go").await.unwrap();
    assert_eq!(campaign.status, Status::Running);
    work(&town).await;
    assert_eq!(*told.lock(), [(2, Some("c2".to_owned()))]);
    let asked = async || {
        let mut asked = Vec::new();
        for device in &devices {
            if let Some(command) = town.devices.command_for(*device).await.unwrap() {
                assert_eq!(command["document"], json!({"interval": 60}));
                asked.push(*device);
            }
        }
        asked
    };
    let say = async |device: Id<Device>, state: &str| {
        let word = serde_json::from_value(json!({"campaign": campaign.id, "state": state})).unwrap();
        town.devices.heard(device, &word).await
    };
    let first = asked().await;
    assert_eq!(first.len(), 2);
    let other = devices.iter().find(|d| !first.contains(d)).unwrap();
    assert_eq!(status(say(*other, "installed").await.unwrap_err()), 409, "it was not sent to this one");
    assert_eq!(status(say(first[0], "waiting").await.unwrap_err()), 400);
    for device in &first {
        say(*device, "downloading").await.unwrap();
        say(*device, "installed").await.unwrap();
        say(*device, "installed").await.expect("saying it again changes nothing");
    }
    let second = asked().await;
    assert_eq!(second.len(), 2, "the next wave");
    town.devices.decommission(&manager, second[0], "Washed away").await.unwrap();
    say(second[1], "installed").await.unwrap();
    let third = asked().await;
    assert_eq!(third.len(), 16, "who is gone holds nobody up");
    say(third[0], "failed").await.unwrap();
    for device in &third[1..] {
        say(*device, "installed").await.unwrap();
    }
    let (campaign, waves) = town.devices.campaign(&manager, campaign.id).await.unwrap();
    assert_eq!((campaign.status, waves[2].installed, waves[2].failed, waves[1].skipped), (Status::Done, 15, 1, 1));
    let failed = town.devices.members(&manager, campaign.id, Stage::Failed, None).await.unwrap();
    assert_eq!(failed.iter().map(|m| m.device).collect::<Vec<_>>(), [third[0]]);
    assert_eq!(status(town.devices.campaign(&person("epd", "manager"), campaign.id).await.unwrap_err()), 404);
    assert_eq!(status(town.devices.propose(&person("dsd", "viewer"), proposal("1")).await.unwrap_err()), 403);
}

/// The kill switch of Tasks stops what campaigns would tell devices, and nobody is late for what they were not told.
#[tokio::test]
async fn a_campaign_stands_still_under_the_kill_switch() {
    let town = town();
    let told = Arc::new(parking_lot::Mutex::new(0));
    let heard = told.clone();
    town.devices.telling_with(Box::new(move |labels, _| *heard.lock() += labels.len()));
    let devices = fleet(&town, 4).await;
    let manager = person("dsd", "manager");
    let catalog = crate::Catalog::open(town.records.clone(), Arc::new(super::tests::Own), town.clock.clone()).unwrap();
    let memory = Arc::new(crate::sta::tests::Memory::default());
    let tasking = crate::tasking::Tasking::new(catalog, memory, Arc::new(|_, _, _| false));
    let throw = async |of: &str, on: bool| {
        let stopped = crate::tasking::Stopped::Tenant(tenant(of));
        tasking.throw(&Caller::system("test"), stopped, on, "the wrong firmware").await.unwrap();
    };
    throw("epd", true).await;
    let (campaign, _) = town.devices.propose(&manager, proposal("1, rest")).await.unwrap();
    town.devices.decide(&manager, campaign.id, Deed::Approve, Some(1), "").await.unwrap();
    work(&town).await;
    assert_eq!(*told.lock(), 1, "another department's switch is not theirs");
    let open = async || {
        let mut open = Vec::new();
        for device in &devices {
            open.extend(town.devices.command_for(*device).await.unwrap().map(|_| *device));
        }
        open
    };
    let first = open().await;
    assert_eq!(first.len(), 1);
    throw("dsd", true).await;
    assert!(open().await.is_empty(), "nobody is told any more");
    let word = serde_json::from_value(json!({"campaign": campaign.id, "state": "installed"})).unwrap();
    town.devices.heard(first[0], &word).await.expect("what was done is heard");
    town.clock.advance_micros(2 * 3_600 * 1_000_000);
    work(&town).await;
    let (seen, waves) = town.devices.campaign(&manager, campaign.id).await.unwrap();
    assert_eq!((seen.status, waves[0].installed, waves[1].waiting, waves[1].failed), (Status::Running, 1, 3, 0));
    throw("dsd", false).await;
    work(&town).await;
    assert_eq!((open().await.len(), *told.lock()), (3, 4), "the next wave begins");
}

#[tokio::test]
async fn a_campaign_halts_and_says_why() {
    let town = town();
    let devices = fleet(&town, 10).await;
    let manager = person("dsd", "manager");
    let (made, _) = town.devices.propose(&manager, proposal("5, rest")).await.unwrap();
    town.devices.decide(&manager, made.id, Deed::Approve, None, "").await.unwrap();
    // The process dies here and begins again: everything lies in the rows.
    let again = Devices::open(town.records.clone(), Arc::new(super::tests::Own)).unwrap();
    let mut first = Vec::new();
    for device in &devices {
        if again.command_for(*device).await.unwrap().is_some() {
            first.push(*device);
        }
    }
    let word = serde_json::from_value(json!({"campaign": made.id, "state": "failed", "detail": "No space."})).unwrap();
    again.heard(first[0], &word).await.unwrap();
    let (campaign, waves) = again.campaign(&manager, made.id).await.unwrap();
    assert_eq!(campaign.status, Status::Halted);
    assert_eq!(campaign.reason, "1 of 5 devices of wave 1 failed; 10 % may");
    assert_eq!((waves[1].waiting, again.command_for(first[1]).await.unwrap()), (5, None), "nothing more is handed out");
    // Somebody looks, lets it pass, and the others do not answer in time.
    again.decide(&manager, made.id, Deed::Resume, None, "A bad card").await.unwrap();
    assert!(again.command_for(first[1]).await.unwrap().is_some());
    work(&town).await;
    assert_eq!(again.campaign(&manager, made.id).await.unwrap().0.status, Status::Running);
    town.clock.advance_micros(3_600_000_001);
    work(&town).await;
    let (campaign, waves) = again.campaign(&manager, made.id).await.unwrap();
    assert_eq!((campaign.status, waves[0].failed, waves[0].sent), (Status::Halted, 5, 0));
    assert_eq!(campaign.reason, "4 of 5 devices of wave 1 failed; 10 % may");
    // One that comes back late has still done it.
    let word = serde_json::from_value(json!({"campaign": made.id, "state": "installed"})).unwrap();
    again.heard(first[1], &word).await.unwrap();
    assert_eq!(again.campaign(&manager, made.id).await.unwrap().1[0].installed, 1);
    again.decide(&manager, made.id, Deed::Abort, None, "").await.unwrap();
    assert_eq!(status(again.decide(&manager, made.id, Deed::Resume, None, "").await.unwrap_err()), 409);
    let actions = audits(&town).await;
    let campaigns: Vec<&str> = actions.iter().map(String::as_str).filter(|a| a.starts_with("campaign:")).collect();
    let expect = [
        "campaign:propose",
        "campaign:approve",
        "campaign:wave",
        "campaign:halt",
        "campaign:resume",
        "campaign:halt",
        "campaign:abort",
    ];
    assert_eq!(campaigns, expect);
}

/// The routers as the program puts them together, for one caller.
fn doors(town: &Town, caller: &Caller) -> Router {
    api::router(town.devices.clone())
        .merge(desk::router(town.devices.clone()))
        .merge(own::router(town.devices.clone()))
        .merge(campaign::api::router(town.devices.clone()))
        .layer(Extension(caller.clone()))
}

async fn ask(
    doors: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (StatusCode, http::HeaderMap, bytes::Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = doors.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    (parts.status, parts.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
}

#[tokio::test]
async fn firmware_goes_to_those_who_were_told() {
    let town = town();
    let manager = person("dsd", "manager");
    let devices = fleet(&town, 2).await;
    let office = doors(&town, &manager);
    let image: Vec<u8> = (0..1_200_000u32).map(|n| (n % 251) as u8).collect();
    let wrong = "/api/firmware?tenant=dsd&name=Station&version=2.1&sha256=00";
    assert_eq!(ask(&office, "POST", wrong, &[], image.clone()).await.0, 400, "another content than was meant");
    let path = "/api/firmware?tenant=dsd&name=Station&version=2.1";
    let (code, _, body) = ask(&office, "POST", path, &[], image.clone()).await;
    let kept: Value = serde_json::from_slice(&body).unwrap();
    let sha256 = kept["sha256"].as_str().unwrap().to_owned();
    assert_eq!((code.as_u16(), kept["size"].as_i64()), (201, Some(1_200_000)));
    ask(&office, "POST", path, &[], image.clone()).await;
    let (_, _, body) = ask(&office, "GET", "/api/firmware?tenant=dsd", &[], "").await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["firmware"].as_array().unwrap().len(), 1, "once");

    let wanted =
        json!({"tenant": "dsd", "name": "2.1", "firmware": sha256, "target": {"devices": ["d-000"]}, "waves": "rest"});
    let (code, headers, _) = ask(&office, "POST", "/api/campaigns", &[], wanted.to_string()).await;
    let campaign = headers["location"].to_str().unwrap().to_owned();
    assert_eq!(code, 201);
    assert_eq!(ask(&office, "POST", &format!("{campaign}/approve"), &[], "{}").await.0, 200);
    let device = |id: Id<Device>| Caller {
        principal: Principal::Device { id: id.to_string().into() },
        tenant: Some(tenant("dsd")),
        roles: std::collections::BTreeSet::new(),
    };
    let (own, other) = (doors(&town, &device(devices[0])), doors(&town, &device(devices[1])));
    let (code, _, body) = ask(&own, "GET", "/api/devices/self/command", &[], "").await;
    let command: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code.as_u16(), &command["sha256"], &command["size"]), (200, &json!(sha256), &json!(1_200_000)));
    let url = command["url"].as_str().unwrap();
    assert_eq!(ask(&other, "GET", "/api/devices/self/command", &[], "").await.0, 204);
    assert_eq!(ask(&other, "GET", url, &[], "").await.0, 404, "it was not told to");
    assert_eq!(ask(&office, "GET", url, &[], "").await.0, 403, "and is no device");
    let (code, headers, body) = ask(&own, "GET", url, &[], "").await;
    assert_eq!((code.as_u16(), &body[..]), (200, &image[..]));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    for (range, from, to) in
        [("bytes=0-9", 0, 9), ("bytes=524280-1100000", 524_280, 1_100_000), ("bytes=-5", 1_199_995, 1_199_999)]
    {
        let (code, headers, body) = ask(&own, "GET", url, &[("range", range), ("if-range", &tag)], "").await;
        assert_eq!((code.as_u16(), &body[..]), (206, &image[from..=to]), "{range}");
        assert_eq!(headers["content-range"], format!("bytes {from}-{to}/1200000"));
    }
    let (code, headers, _) = ask(&own, "GET", url, &[("range", "bytes=1200000-")], "").await;
    assert_eq!((code.as_u16(), headers["content-range"].to_str().unwrap()), (416, "bytes */1200000"));
    assert_eq!(ask(&own, "GET", url, &[("range", "bytes=0-9"), ("if-range", "\"other\"")], "").await.0, 200);
    let images = format!("/api/firmware/{sha256}?tenant=dsd");
    assert_eq!(ask(&office, "DELETE", &images, &[], "").await.0, 409, "a campaign needs it");
    let word = json!({"campaign": command["campaign"], "state": "installed"}).to_string();
    assert_eq!(ask(&own, "POST", "/api/devices/self/command", &[], word).await.0, 204);
    let found = town.devices.get(&manager, devices[0]).await.unwrap();
    assert_eq!(found.firmware.as_deref(), Some("2.1"));
    assert_eq!(ask(&own, "GET", url, &[], "").await.0, 404, "it has it");
    let again = json!({"tenant": "dsd", "name": "2.1", "firmware": sha256, "target": {"devices": ["d-000"]}});
    assert_eq!(ask(&office, "POST", "/api/campaigns", &[], again.to_string()).await.0, 400, "all of them have it");
    assert_eq!(ask(&office, "DELETE", &images, &[], "").await.0, 204);
}

#[tokio::test]
async fn the_doors_of_sheets_and_claims() {
    let town = town();
    things(&town, &["san-tin"]).await;
    let manager = person("dsd", "manager");
    let office = doors(&town, &manager);
    let sheet = "key,kind\n=cmd,station\n";
    let (code, headers, body) =
        ask(&office, "POST", "/api/devices/bulk?tenant=dsd", &[("accept", "text/csv")], sheet).await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!((code.as_u16(), &headers[header::CACHE_CONTROL]), (200, &http::HeaderValue::from_static("no-store")));
    assert!(text.contains(",\"'=cmd\",registered,\"lpd_"), "no formula: {text}");
    let (code, _, body) = ask(&office, "POST", "/api/devices/bulk?tenant=dsd", &[], "key,kind\na,\n,b\n").await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code.as_u16(), &problem["errors"][0]["field"]), (422, &json!("/2/kind")));
    for bad in ["mode=some", "keys=all", "existing=yes", "check=maybe", "colour=red"] {
        assert_eq!(
            ask(&office, "POST", &format!("/api/devices/bulk?tenant=dsd&{bad}"), &[], sheet).await.0,
            400,
            "{bad}"
        );
    }
    let claims = "/api/devices/bulk?tenant=dsd&keys=claim";
    let (_, _, body) = ask(&office, "POST", claims, &[], "key,kind\nwl-1,station\n").await;
    let made: Value = serde_json::from_slice(&body).unwrap();
    let code = made["devices"][0]["secret"].as_str().unwrap().to_owned();
    let nobody = doors(&town, &Caller::anonymous());
    let (status, _, body) =
        ask(&nobody, "POST", "/api/devices/claim", &[], json!({"claim_code": code}).to_string()).await;
    let told: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &told["device"]), (201, &json!("wl-1")));
    assert!(town.devices.authenticate(told["key"].as_str().unwrap()).await.unwrap().is_some());
    let placing = json!({"claim_code": code, "thing": "san-tin"}).to_string();
    assert_eq!(ask(&nobody, "POST", "/api/devices/place", &[], placing.clone()).await.0, 401);
    assert_eq!(ask(&office, "POST", "/api/devices/place", &[], placing).await.0, 200);
    let (_, _, body) = ask(&office, "GET", "/api/devices.csv?tenant=dsd", &[], "").await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(text.lines().count(), 3);
    assert!(text.contains("\"'=cmd\"") && text.contains("\"wl-1\",\"wl-1\",\"station\",\"\",1,no,yes,"), "{text}");
    assert_eq!(ask(&office, "GET", "/api/devices?tenant=dsd&condition=hungry", &[], "").await.0, 400);
    assert_eq!(ask(&office, "GET", "/api/devices?tenant=dsd&condition=low-battery&than=30", &[], "").await.0, 200);
    for path in ["/api/devices/self", "/api/devices/self/command"] {
        assert_eq!(ask(&nobody, "GET", path, &[], "").await.0, 401);
        assert_eq!(ask(&office, "GET", path, &[], "").await.0, 403, "only devices");
    }
}
