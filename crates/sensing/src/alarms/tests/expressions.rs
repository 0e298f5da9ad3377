//! Rules with expressions on real stores: neighbours, windows, and a restart in between.

use std::collections::BTreeMap;

use super::*;
use crate::{alarms::model::AlarmState, rules::model::Expression};

const NOW: i64 = 1_000_000;

fn when(expression: &str, clear: Option<&str>, window: Option<u32>) -> RuleDeclaration {
    let form = Expression {
        expression: expression.to_owned(),
        clear: clear.map(str::to_owned),
        hold: 0,
        clear_hold: 0,
        window,
        windows: BTreeMap::new(),
    };
    RuleDeclaration {
        key: "expressed".to_owned(),
        select: Selection { datastream: Some("thing-1.level-1".to_owned()), ..Selection::default() },
        when: Condition::Expression(Box::new(form)),
        ..high(0)
    }
}

async fn neighbours(store: Store) {
    let city = City::new(store).await;
    city.gauge(1, "dsd", true).await;
    gauge(&city.records, 2, 1, "dsd", true).await;
    city.apply(vec![when("value > 5.0 && thing[\"level-2\"].value > 1.0", None, None)], vec![]).await;
    let engine = city.engine().await;
    // The neighbour has never spoken: nothing can be said, so nothing happens.
    let next = city.send(&[(1, NOW, 9.0)]).await;
    engine.evaluated(next).await;
    assert!(city.all().await.is_empty(), "{store:?}");
    // It speaks, and does not itself move the rule.
    let next = city.send(&[(2, NOW + 1, 3.0)]).await;
    engine.evaluated(next).await;
    assert!(city.all().await.is_empty());
    engine.stop().await;
    // What it said is remembered by the next start.
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW + 2, 9.5)]).await;
    engine.evaluated(next).await;
    let alarms = city.all().await;
    assert_eq!((alarms.len(), alarms[0].state, alarms[0].value), (1, AlarmState::Open, Some(9.5)), "{store:?}");
    // A Datastream that comes later is looked at too.
    gauge(&city.records, 3, 1, "dsd", true).await;
    city.apply(vec![when("value > 5.0 && thing[\"level-3\"].value > 1.0", None, None)], vec![]).await;
    engine.reload();
    let next = city.send(&[(3, NOW + 3, 0.5)]).await;
    engine.evaluated(next).await;
    let next = city.send(&[(1, NOW + 4, 9.5)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].state, AlarmState::Cleared);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_is_looked_at_and_remembered() {
    neighbours(Store::Sqlite).await;
    neighbours(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_reaches_across_a_restart() {
    let city = City::new(Store::Sqlite).await;
    city.gauge(1, "dsd", true).await;
    city.apply(vec![when("count >= 4 && mean > 9.0", Some("value < 1.0"), Some(600))], vec![]).await;
    for at in 0..4 {
        let engine = city.engine().await;
        assert!(city.all().await.is_empty(), "only {at} values");
        let next = city.send(&[(1, NOW + at, 10.0)]).await;
        engine.evaluated(next).await;
        engine.stop().await;
    }
    assert_eq!(city.all().await.len(), 1);
    // Between the two conditions nothing changes.
    let engine = city.engine().await;
    let next = city.send(&[(1, NOW + 10, 2.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].state, AlarmState::Open);
    let next = city.send(&[(1, NOW + 11, 0.0)]).await;
    engine.evaluated(next).await;
    assert_eq!(city.all().await[0].state, AlarmState::Cleared);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_named_with_its_rule_and_column() {
    let city = City::new(Store::Sqlite).await;
    let wrong = when("value > 1.0 && levle > 2.0", Some("value"), None);
    let refused = city.rules.check(vec![high(0), wrong], &[]).expect_err("two mistakes");
    let problem: kernel::Problem = refused.into();
    let shown: Vec<_> = problem.errors.iter().map(|e| (e.field.as_str(), e.detail.as_str())).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[0], ("/1/when/expression", "rule 'expressed', column 16: 'levle' is not known here"));
    assert_eq!(shown[1].0, "/1/when/clear");
}
