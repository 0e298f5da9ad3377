//! The engine: what comes, what comes late, what is taken back, and what a crash leaves behind.

use super::*;
use crate::{derived::model::DerivedFile, model::ObservationId};

fn level() -> Value {
    json!([{"name": "level", "datastream": "level"}])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_follows_its_input_whatever_happens_to_it() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "flow"], json!({})).await;
    city.send(ids[0], &[(0, 1.0), (60, 2.0)]).await;
    let handle = city.start().await;
    city.declare(&handle, of_things("flow", "flow", level(), "level.value * 10.0")).await;
    assert_eq!(city.values(ids[1]).await, [(0, 10.0), (60, 20.0)], "history");

    city.send(ids[0], &[(120, 3.0)]).await;
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(0, 10.0), (60, 20.0), (120, 30.0)], "what comes");

    city.send(ids[0], &[(30, 1.5), (60, 2.5)]).await;
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(0, 10.0), (30, 15.0), (60, 25.0), (120, 30.0)], "late, and put right");

    let end = city.observe.next_offset();
    city.send(ids[0], &[(30, 1.5), (60, 2.5)]).await;
    city.settled(&handle).await;
    assert_eq!(city.observe.next_offset(), end + 1, "a repetition writes nothing");

    let id = city.observation(ids[0], sec(30), 0.0).await.id();
    city.observe.remove(vec![id]).await.expect("removed");
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(0, 10.0), (60, 25.0), (120, 30.0)], "taken back");
    assert!(city.derived.is_output(ids[1]) && !city.derived.is_output(ids[0]));
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_data_change_only_the_span_that_they_touch() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "mean"], json!({})).await;
    let minutes: Vec<(i64, f64)> = (0..120).map(|n| (n * 60, n as f64)).collect();
    city.send(ids[0], &minutes).await;
    let handle = city.start().await;
    let input = json!([{"name": "level", "datastream": "level", "window": 600}]);
    city.declare(&handle, of_things("mean", "mean", input, "level.mean")).await;
    let before = city.read(ids[1]).await;
    assert_eq!(before.len(), 120);
    assert_eq!(before[60].1, (51..=60).sum::<i64>() as f64 / 10.0, "ten minutes, the oldest end left open");
    let written = city.derived.stats().written.load(std::sync::atomic::Ordering::Relaxed);
    city.send(ids[0], &[(3_600, 1_060.0)]).await;
    city.settled(&handle).await;
    let after = city.read(ids[1]).await;
    let changed: Vec<usize> = (0..120).filter(|n| before[*n] != after[*n]).collect();
    assert_eq!(changed, (60..70).collect::<Vec<_>>());
    assert_eq!(after[60].1 - before[60].1, 100.0);
    let now = city.derived.stats().written.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(now - written, 10, "nothing else was written");
    handle.stop().await;
}

/// Whatever is sent before and after any number of crashes, the end is what one undisturbed reading gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_neither_loses_nor_doubles() {
    let mut city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "mean", "twice"], json!({})).await;
    let mut handle = city.start().await;
    let input = json!([{"name": "level", "datastream": "level", "window": 300}]);
    city.declare(&handle, of_things("mean", "mean", input, "level.mean")).await;
    let input = json!([{"name": "m", "datastream": "mean"}]);
    city.declare(&handle, of_things("twice", "twice", input, "m.value * 2.0")).await;
    let mut sent: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
    for life in 0..4i64 {
        for n in 0..40i64 {
            // Late ones and repetitions among them.
            let at = ((life * 40 + n) * 7_919 % 200) * 60;
            let value = ((life * 31 + n * 17) % 23) as f64;
            sent.insert(at, value);
            city.send(ids[0], &[(at, value)]).await;
        }
        city = city.crash(handle).await;
        handle = city.start().await;
    }
    city.settled(&handle).await;
    let points: Vec<(i64, f64)> = sent.into_iter().collect();
    let mean = |at: i64| {
        let window: Vec<f64> = points.iter().filter(|p| p.0 > at - 300 && p.0 <= at).map(|p| p.1).collect();
        window.iter().sum::<f64>() / window.len() as f64
    };
    let expected: Vec<(i64, f64)> = points.iter().map(|(at, _)| (*at, mean(*at))).collect();
    assert_eq!(city.values(ids[1]).await, expected);
    let twice: Vec<(i64, f64)> = expected.iter().map(|(at, v)| (*at, v * 2.0)).collect();
    assert_eq!(city.values(ids[2]).await, twice, "what is computed from what is computed");
    assert_eq!(city.observe.count(ids[1]).await.expect("count"), points.len() as u64);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_at_fixed_intervals_come_when_they_are_over() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["rain", "hourly"], json!({})).await;
    // Half past ten to half past eleven; then nothing for the rest.
    city.send(ids[0], &[(37_800, 1.0), (39_000, 3.0), (41_400, 5.0)]).await;
    let handle = city.start_with(Duration::from_millis(5)).await;
    let input = json!([{"name": "rain", "datastream": "rain", "window": 3600}]);
    let mut declaration = of_things("hourly", "hourly", input, "rain.max");
    declaration["every"] = json!(3_600);
    city.declare(&handle, declaration).await;
    assert_eq!(city.values(ids[1]).await, [(39_600, 3.0), (43_200, 5.0)], "eleven and noon");
    city.send(ids[0], &[(45_000, 7.0)]).await;
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await.len(), 2, "one o'clock has not struck");
    city.clock.advance_micros(3_600_000_000);
    while city.values(ids[1]).await.len() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(city.values(ids[1]).await[2], (46_800, 7.0));
    city.send(ids[0], &[(42_000, 9.0)]).await;
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(39_600, 3.0), (43_200, 9.0), (46_800, 7.0)], "late");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quality_is_carried_or_passed_over() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "carry", "skip"], json!({})).await;
    let handle = city.start().await;
    city.declare(&handle, of_things("carry", "carry", level(), "level.value + 1.0")).await;
    let mut skip = of_things("skip", "skip", level(), "level.value + 1.0");
    skip["faulty"] = json!("skip");
    city.declare(&handle, skip).await;
    city.send(ids[0], &[(0, 1.0)]).await;
    city.send_faulty(ids[0], 60, 99.0).await;
    city.settled(&handle).await;
    let row = |at, value, code: &str| (at, value, code.to_owned());
    assert_eq!(city.read(ids[1]).await, [row(0, 2.0, ""), row(60, 100.0, "suspect")]);
    assert_eq!(city.read(ids[2]).await, [row(0, 2.0, "")]);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_waits_while_it_is_paused_and_another_version_computes_it_again() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "flow"], json!({})).await;
    let many: Vec<(i64, f64)> = (0..2_500).map(|n| (n, n as f64)).collect();
    city.send(ids[0], &many).await;
    let handle = city.start().await;
    city.declare(&handle, of_things("flow", "flow", level(), "level.value")).await;
    assert_eq!(city.values(ids[1]).await.len(), 2_500);

    let manager = person("dsd", "manager");
    city.derived.pause(&manager, "flow", true).await.expect("paused");
    let declaration: Declaration =
        serde_json::from_value(of_things("flow", "flow", level(), "level.value * 2.0")).expect("declaration");
    city.derived.declare(&manager, declaration).await.expect("declared");
    city.send(ids[0], &[(5_000, 1.0)]).await;
    city.settled(&handle).await;
    // A look at what is declared comes before what came; the work is there, and nothing of it is done.
    let detail = city.derived.get(&manager, "flow").await.expect("detail");
    assert!(detail.view.paused && detail.view.version == 2, "{detail:?}");
    let rows = city.values(ids[1]).await;
    assert_eq!((rows[2_499], rows[2_500]), ((2_499, 2_499.0), (5_000, 2.0)), "what comes is computed all the same");

    let seen = handle.idled();
    city.derived.pause(&manager, "flow", false).await.expect("resumed");
    handle.idle(seen).await;
    city.settled(&handle).await;
    let rows = city.values(ids[1]).await;
    assert_eq!((rows.len(), rows[2_499], rows[2_500]), (2_501, (2_499, 4_998.0), (5_000, 2.0)));
    let detail = city.derived.get(&manager, "flow").await.expect("detail");
    let versions: Vec<i64> = detail.versions.iter().map(|v| v.version).collect();
    assert_eq!((versions, detail.view.work.len()), (vec![2, 1], 0), "the first version is still readable");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circles_doubles_and_depths_are_refused_when_they_are_declared() {
    let city = City::open().await;
    let shapes = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    city.thing("dsd", "gauge", &shapes, json!({})).await;
    let manager = person("dsd", "manager");
    let one = |key: &str, output: &str, from: &str| -> Declaration {
        let input = json!([{"name": "x", "datastream": from}]);
        serde_json::from_value(of_things(key, output, input, "x.value")).expect("declaration")
    };
    let declare = |d: Declaration| city.derived.declare(&manager, d);
    declare(one("b", "b", "a")).await.expect("a step");
    declare(one("c", "c", "b")).await.expect("another");
    let problem = |e: crate::Error| kernel::Problem::from(e);
    let circle = problem(declare(one("a", "a", "c")).await.expect_err("a circle"));
    assert!(circle.status == StatusCode::CONFLICT && circle.detail.contains("computed from itself"), "{circle:?}");
    let own = problem(declare(one("self", "a", "a")).await.expect_err("itself"));
    assert!(own.detail.contains("computed from itself"), "{own:?}");
    let twice = problem(declare(one("other", "b", "a")).await.expect_err("twice"));
    assert!(twice.detail.contains("computes the same Datastream"), "{twice:?}");
    for pair in shapes[2..9].windows(2) {
        let outcome = declare(one(pair[1], pair[1], pair[0])).await;
        assert_eq!(outcome.is_ok(), pair[1] != "j", "{}: {outcome:?}", pair[1]);
    }
    let deep = problem(declare(one("j", "j", "i")).await.expect_err("too deep"));
    assert!(deep.detail.contains("more than 8 steps"), "{deep:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_or_is_made_up_is_no_input() {
    let city = City::open().await;
    let own = city.thing("dsd", "gauge", &["level", "flow"], json!({})).await;
    let secret = city.thing("epd", "air", &["secret"], json!({})).await;
    let open = city.thing("epd", "open", &["public"], json!({"@lamppost.public": true})).await;
    let made_up =
        city.thing("dsd", "toy", &["toy"], json!({"properties": {"simulated": true, "key": "toy.toy"}})).await;
    let manager = person("dsd", "manager");
    let from = |id: EntityId| -> Declaration {
        serde_json::from_value(json!({
            "key": "flow", "tenant": "dsd", "name": {"en": "f", "zh-hant": "f", "zh-hans": "f"}, "output": own[1],
            "input": [{"name": "x", "datastream": id}], "formula": [{"expression": "x.value"}],
        }))
        .expect("declaration")
    };
    let refused =
        async |id| kernel::Problem::from(city.derived.declare(&manager, from(id)).await.expect_err("refused")).detail;
    assert!(refused(secret[0]).await.contains("may not be read"));
    assert_eq!(
        refused(secret[0]).await,
        refused(EntityId(999_999)).await,
        "what is hidden looks like what is not there"
    );
    assert!(refused(made_up[0]).await.contains("labelled as simulated"));
    city.derived.declare(&manager, from(open[0])).await.expect("what is published may be read");
    let theirs = city.derived.declare(&person("epd", "manager"), from(open[0])).await;
    assert_eq!(kernel::Problem::from(theirs.expect_err("another's")).status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn things_that_come_later_get_theirs_and_what_is_gone_is_forgotten() {
    let city = City::open().await;
    let pack: DerivedFile =
        serde_json::from_value(json!({"derived": [of_things("flow", "flow", level(), "level.value * 2.0")]}))
            .expect("a file");
    let system = Caller::system("pack");
    let applied = city.derived.apply(&system, pack.derived.clone()).await.expect("applied");
    assert_eq!((applied.written, applied.removed), (1, 0));
    let again = city.derived.apply(&system, pack.derived.clone()).await.expect("applied");
    assert_eq!((again.written, again.unchanged), (0, 1));
    let handle = city.start().await;
    let ids = city.thing("dsd", "late", &["level", "flow"], json!({})).await;
    city.send(ids[0], &[(0, 4.0)]).await;
    let seen = handle.idled();
    handle.reload();
    handle.idle(seen).await;
    assert_eq!(city.values(ids[1]).await, [(0, 8.0)]);
    let refused = city.derived.remove(&person("dsd", "manager"), "flow").await.expect_err("the pack's");
    assert_eq!(kernel::Problem::from(refused).status, StatusCode::CONFLICT);

    city.observe.drop_datastream(ids[0]).await.expect("dropped");
    let (seen, end) = (handle.idled(), city.observe.next_offset());
    handle.evaluated(end).await;
    handle.idle(seen).await;
    assert_eq!(city.values(ids[1]).await, [], "nothing stands that has nothing to stand on");
    let gone = city.derived.apply(&system, vec![]).await.expect("applied");
    assert_eq!(gone.removed, 1);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_is_about_what_its_input_is_about() {
    let city = City::open().await;
    let ids = city.thing("dsd", "boat", &["turbidity", "clear"], json!({})).await;
    let system = Caller::system("test");
    let body = json!({"name": "5 m", "description": "5 m down", "encodingType": "application/geo+json",
        "feature": {"type": "Point", "coordinates": [114.1, 22.3, -5.0]}});
    let deep = city
        .catalog
        .upsert(&system, EntityType::FeatureOfInterest, &tenant("dsd"), "deep", body)
        .await
        .expect("a feature");
    let handle = city.start().await;
    let input = json!([{"name": "t", "datastream": "turbidity"}]);
    city.declare(&handle, of_things("clear", "clear", input, "1.0 / t.value")).await;
    let shallow = city.observation(ids[0], sec(0), 2.0).await;
    let below = Observation { feature: deep, result: ResultValue::Number(4.0), ..shallow.clone() };
    let mut batch = Batch::new();
    batch.push(shallow.clone());
    batch.push(below);
    city.observe.record(batch).await.expect("recorded");
    city.settled(&handle).await;
    let rows = city.observe.read(SeriesQuery::all(ids[1])).await.expect("rows");
    let found: Vec<(EntityId, Option<f64>)> = rows.iter().map(|o| (o.feature, o.result.number())).collect();
    assert_eq!(found.len(), 2, "one for each depth at the same time");
    assert!(found.contains(&(deep, Some(0.25))) && found.iter().any(|(_, v)| *v == Some(0.5)), "{found:?}");
    let _: ObservationId = rows[0].id();
    handle.stop().await;
}

/// A mistake in a declaration must not cost what was measured.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_is_never_taken_for_an_output() {
    let city = City::open().await;
    let ids = city.thing("dsd", "gauge", &["level", "battery", "flow"], json!({})).await;
    city.send(ids[0], &[(0, 1.0)]).await;
    city.send(ids[1], &[(0, 12.5)]).await;
    let handle = city.start().await;
    let declaration = || -> Declaration {
        serde_json::from_value(of_things("flow", "battery", level(), "level.value")).expect("declaration")
    };
    let refused = city.derived.declare(&person("dsd", "manager"), declaration()).await.expect_err("measured");
    assert!(kernel::Problem::from(refused).detail.contains("Observations of its own"));
    let seen = handle.idled();
    city.derived.apply(&Caller::system("pack"), vec![declaration()]).await.expect("the pack may be early");
    handle.idle(seen).await;
    city.settled(&handle).await;
    assert_eq!(city.values(ids[1]).await, [(0, 12.5)], "and then it is not computed");
    assert!(!city.derived.is_output(ids[1]));

    // One that was taken away and is declared again goes on.
    city.declare(&handle, of_things("again", "flow", level(), "level.value")).await;
    let seen = handle.idled();
    city.derived.remove(&person("dsd", "manager"), "again").await.expect("removed");
    handle.idle(seen).await;
    assert!(city.derived.is_output(ids[2]), "what is measured into it now would go with the next declaration");
    city.declare(&handle, of_things("again", "flow", level(), "level.value * 5.0")).await;
    assert_eq!(city.values(ids[2]).await, [(0, 5.0)]);
    handle.stop().await;
}
