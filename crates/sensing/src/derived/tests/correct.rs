//! Calibrations and corrections: the raw Datastream stays as it was measured.

use super::*;
use crate::derived::correct::{Method, NewCalibration, NewCorrection, Verdict};

fn linear(gain: f64, offset: f64, from: i64, to: Option<i64>) -> NewCalibration {
    NewCalibration {
        method: Method::Linear { gain, offset },
        from: sec(from),
        to: to.map(sec),
        reason: "Compared with the staff gauge".to_owned(),
        certificate: Some("HKO-2026-17".to_owned()),
    }
}

fn say(value: Option<f64>, quality: Option<Verdict>) -> NewCorrection {
    NewCorrection { value, quality, reason: "Read again from the photograph".to_owned() }
}

#[test]
fn methods_give_the_true_value() {
    assert_eq!(Method::Linear { gain: 2.0, offset: 1.0 }.apply(3.0), Some(7.0));
    assert_eq!(Method::Polynomial { coefficients: vec![1.0, 2.0, 3.0] }.apply(2.0), Some(17.0));
    let table: Method = serde_json::from_value(json!({"table": {"points": [[0, 0], [10, 11]]}})).expect("a table");
    assert_eq!((table.apply(5.0), table.apply(11.0)), (Some(5.5), None));
    let wrong = |method: Value| {
        let method = serde_json::from_value(method).expect("a shape");
        let calibration = NewCalibration { method, ..linear(1.0, 0.0, 0, None) };
        calibration.check().expect_err("a mistake").errors[0].field.clone()
    };
    assert_eq!(wrong(json!({"linear": {"gain": 0.0}})), "/method");
    assert_eq!(wrong(json!({"polynomial": {"coefficients": []}})), "/method");
    assert_eq!(wrong(json!({"table": {"points": [[1, 1], [0, 0]]}})), "/method");
    let backwards = linear(1.0, 0.0, 10, Some(10)).check().expect_err("a mistake");
    assert_eq!(backwards.errors[0].field, "/to");
    let silent = NewCalibration { reason: "  ".to_owned(), ..linear(1.0, 0.0, 0, None) };
    assert_eq!(silent.check().expect_err("a mistake").errors[0].field, "/reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibration_makes_a_corrected_version_and_what_hangs_on_it_follows() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "flow"], json!({})).await;
    let raw = ids[0];
    city.send(raw, &[(0, 1.0), (60, 2.0), (120, 3.0)]).await;
    let handle = city.start().await;
    let manager = person("dsd", "manager");
    let settle = async |seen: u64| {
        handle.idle(seen).await;
        city.settled(&handle).await;
    };

    let seen = handle.idled();
    let first = city.derived.calibrate(&manager, raw, linear(1.0, 0.5, 60, None)).await.expect("calibrated");
    settle(seen).await;
    let corrected = city.derived.corrected(raw).expect("a corrected Datastream");
    let row = |at, value, code: &str| (at, value, code.to_owned());
    assert_eq!(city.read(corrected).await, [row(0, 1.0, ""), row(60, 2.5, "corrected"), row(120, 3.5, "corrected")]);
    assert_eq!(city.values(raw).await, [(0, 1.0), (60, 2.0), (120, 3.0)], "as it was measured");
    let entity = city
        .catalog
        .get(&crate::Scope::Everything, EntityType::Datastream, corrected)
        .await
        .expect("read")
        .expect("there");
    let measured =
        city.catalog.get(&crate::Scope::Everything, EntityType::Datastream, raw).await.expect("read").expect("there");
    for link in ["Thing", "Sensor", "ObservedProperty"] {
        assert_eq!(entity.one(link), measured.one(link), "{link}");
    }
    assert_eq!(entity.properties()["corrects"], json!(raw));
    assert_eq!(measured.properties()["corrected_by"], json!(corrected));

    // What is computed from the corrected one follows every correction.
    city.declare(
        &handle,
        json!({"key": "flow", "tenant": "dsd", "name": {"en": "f", "zh-hant": "f", "zh-hans": "f"}, "output": ids[1],
            "input": [{"name": "level", "datastream": corrected}], "formula": [{"expression": "level.value * 10.0"}]}),
    )
    .await;
    assert_eq!(city.values(ids[1]).await, [(0, 10.0), (60, 25.0), (120, 35.0)]);

    // A later one counts where it holds; before and after, the earlier.
    let seen = handle.idled();
    city.derived
        .calibrate(&manager, corrected, linear(2.0, 0.0, 60, Some(120)))
        .await
        .expect("by the corrected one's id");
    settle(seen).await;
    assert_eq!(city.values(corrected).await, [(0, 1.0), (60, 4.0), (120, 3.5)]);

    let duty = person("dsd", "duty");
    let id = city.observation(raw, sec(0), 0.0).await.id();
    let seen = handle.idled();
    city.derived.correct(&duty, id, say(Some(9.0), None)).await.expect("corrected");
    settle(seen).await;
    let id = city.observation(raw, sec(120), 0.0).await.id();
    let seen = handle.idled();
    city.derived.correct(&duty, id, say(None, Some(Verdict::Bad))).await.expect("flagged");
    settle(seen).await;
    assert_eq!(city.read(corrected).await, [row(0, 9.0, "corrected"), row(60, 4.0, "corrected"), row(120, 3.5, "bad")]);
    assert_eq!(
        city.read(ids[1]).await,
        [row(0, 90.0, ""), row(60, 40.0, ""), row(120, 35.0, "suspect")],
        "quality is carried"
    );

    // What comes later is corrected as it comes.
    city.send(raw, &[(180, 4.0)]).await;
    city.settled(&handle).await;
    assert_eq!(city.values(corrected).await[3], (180, 4.5));

    // Taken back: nothing that was said is gone, and nothing of it counts.
    let seen = handle.idled();
    city.derived.withdraw(&manager, raw, first.id, "The gauge was right").await.expect("withdrawn");
    settle(seen).await;
    let id = city.observation(raw, sec(0), 0.0).await.id();
    let seen = handle.idled();
    city.derived.correct(&duty, id, say(None, None)).await.expect("taken back");
    settle(seen).await;
    assert_eq!(city.values(corrected).await, [(0, 1.0), (60, 4.0), (120, 3.0), (180, 4.0)]);
    let history = city.derived.history(&duty, id).await.expect("history");
    assert_eq!(history.corrections.len(), 2);
    assert_eq!(history.raw["result"], json!(1.0));
    let all = city.derived.calibrations(&manager, raw).await.expect("calibrations");
    assert!(all.len() == 2 && all[0].withdrawn.is_some() && all[1].withdrawn.is_none(), "{all:?}");
    assert_eq!(city.values(raw).await, [(0, 1.0), (60, 2.0), (120, 3.0), (180, 4.0)], "as it was measured");
    let again = city.derived.withdraw(&manager, raw, first.id, "Once more").await.expect_err("it counts no more");
    assert_eq!(kernel::Problem::from(again).status, StatusCode::NOT_FOUND);

    // A crash after somebody has said something, before anything was computed.
    handle.stop().await;
    city.derived.calibrate(&manager, raw, linear(1.0, 100.0, 0, Some(60))).await.expect("calibrated");
    let handle = city.start().await;
    handle.idle(0).await;
    assert_eq!(city.values(corrected).await[0], (0, 101.0));
    let computed = city.derived.calibrate(&manager, ids[1], linear(1.0, 1.0, 0, None)).await.expect_err("computed");
    assert_eq!(kernel::Problem::from(computed).status, StatusCode::CONFLICT);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_say_anything_changes_nothing() {
    let city = City::open().await;
    let raw = city.thing("dsd", "gauge", &["level"], json!({})).await[0];
    let open = city.thing("dsd", "open", &["level"], json!({"@lamppost.public": true})).await[0];
    city.send(raw, &[(0, 1.0)]).await;
    city.send(open, &[(0, 1.0)]).await;
    let (id, public) = (city.observation(raw, sec(0), 0.0).await.id(), city.observation(open, sec(0), 0.0).await.id());
    let calibrate = async |caller: &Caller, id| {
        kernel::Problem::from(city.derived.calibrate(caller, id, linear(1.0, 1.0, 0, None)).await.expect_err("refused"))
            .status
    };
    let correct = async |caller: &Caller, id| {
        kernel::Problem::from(city.derived.correct(caller, id, say(Some(1.0), None)).await.expect_err("refused")).status
    };
    let (viewer, duty, stranger) = (person("dsd", "viewer"), person("dsd", "duty"), person("epd", "manager"));
    assert_eq!(calibrate(&viewer, raw).await, StatusCode::FORBIDDEN);
    assert_eq!(calibrate(&duty, raw).await, StatusCode::FORBIDDEN, "an officer on duty corrects single ones");
    assert_eq!(calibrate(&stranger, raw).await, StatusCode::NOT_FOUND);
    assert_eq!(calibrate(&stranger, open).await, StatusCode::FORBIDDEN);
    assert_eq!(correct(&viewer, id).await, StatusCode::FORBIDDEN);
    assert_eq!(correct(&stranger, id).await, StatusCode::NOT_FOUND);
    assert_eq!(correct(&stranger, public).await, StatusCode::FORBIDDEN);
    let nothing = crate::model::ObservationId { at: sec(999), ..id };
    assert_eq!(correct(&duty, nothing).await, StatusCode::NOT_FOUND, "an Observation that is not there");
    let read = city.catalog.records().read(|r| {
        let count = |r: &mut records::Read<'_>, sql: &str| r.query_one(sql, &[], |row| row.get::<i64>(0));
        Ok::<_, records::Error>((
            count(r, "SELECT COUNT(*) FROM sensing_corrected")?,
            count(r, "SELECT COUNT(*) FROM sensing_calibration")?,
            count(r, "SELECT COUNT(*) FROM sensing_correction")?,
            count(r, "SELECT COUNT(*) FROM sensing_datastream")?,
        ))
    });
    assert_eq!(read.await.expect("counts"), (0, 0, 0, 2));
}

/// Two things that are said before the engine has looked: neither is all of it, both together are.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_quick_succession_leaves_no_history_out() {
    let city = City::open().await;
    let raw = city.thing("dsd", "gauge", &["level"], json!({})).await[0];
    city.send(raw, &[(0, 1.0), (60, 2.0), (120, 3.0)]).await;
    let manager = person("dsd", "manager");
    city.derived.calibrate(&manager, raw, linear(1.0, 0.5, 60, None)).await.expect("calibrated");
    city.derived.calibrate(&manager, raw, linear(2.0, 0.0, 60, Some(120))).await.expect("calibrated");
    let handle = city.start().await;
    let corrected = city.derived.corrected(raw).expect("a corrected Datastream");
    assert_eq!(city.values(corrected).await, [(0, 1.0), (60, 4.0), (120, 3.5)]);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datastream_of_somebodys_own_never_becomes_the_corrected_one() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "level.corrected"], json!({})).await;
    city.send(ids[0], &[(0, 1.0)]).await;
    city.send(ids[1], &[(0, 7.0), (30, 8.0)]).await;
    let handle = city.start().await;
    let manager = person("dsd", "manager");
    let refused = city.derived.calibrate(&manager, ids[0], linear(1.0, 0.5, 0, None)).await.expect_err("taken");
    assert_eq!(kernel::Problem::from(refused).status, StatusCode::CONFLICT);
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(0, 7.0), (30, 8.0)]);
    assert!(!city.derived.is_output(ids[1]));
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_datastream_that_was_deleted_is_made_anew_and_rules_watch_the_raw_one_meanwhile() {
    use crate::rules::{
        facts,
        model::{Condition, Rule, RuleDeclaration, Selection, Severity, Trust},
    };
    let city = City::open().await;
    let raw = city.thing("dsd", "gauge", &["level"], json!({})).await[0];
    city.send(raw, &[(0, 1.0), (60, 2.0)]).await;
    let handle = city.start().await;
    let manager = person("dsd", "manager");
    let seen = handle.idled();
    city.derived.calibrate(&manager, raw, linear(1.0, 0.5, 60, None)).await.expect("calibrated");
    handle.idle(seen).await;
    let first = city.derived.corrected(raw).expect("a corrected Datastream");
    let rule = RuleDeclaration {
        key: "silent".to_owned(),
        name: kernel::Text::new("n", "n", "n"),
        instruction: None,
        tenant: tenant("dsd"),
        severity: Severity::Minor,
        select: Selection { system: Some("flood".to_owned()), ..Selection::default() },
        when: Condition::Absence { after: 60 },
        quality: Trust::Good,
        max_age: 60,
        notify: Vec::new(),
        area: None,
        escalate: Vec::new(),
        public_alert: None,
        enabled: true,
    };
    let rule = Arc::new(Rule::new(rule).expect("valid"));
    let watched = async || {
        let rules = [Arc::clone(&rule)];
        let read = city.catalog.records().read(move |read| {
            let (by_sql, newest) = facts::load(read, &rules)?;
            assert_eq!(by_sql, facts::between(read, &rules, 0, newest)?);
            Ok::<_, records::Error>(by_sql)
        });
        read.await.expect("facts").iter().map(|f| f.datastream).collect::<Vec<_>>()
    };
    assert_eq!(watched().await, [first]);
    city.catalog.delete(&Caller::system("test"), EntityType::Datastream, first).await.expect("deleted");
    assert_eq!(watched().await, [raw], "a gauge is never without anybody who watches it");
    let seen = handle.idled();
    city.derived.calibrate(&manager, raw, linear(2.0, 0.0, 60, None)).await.expect("calibrated");
    handle.idle(seen).await;
    let second = city.derived.corrected(raw).expect("another");
    assert_ne!(first, second);
    assert_eq!(city.values(second).await, [(0, 1.0), (60, 4.0)]);
    assert_eq!(watched().await, [second]);
    handle.stop().await;
}
