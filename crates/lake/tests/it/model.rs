//! Any sequence of commits, corrections, deletions, compactions and restarts leaves what a sorted map would hold.

use std::collections::BTreeMap;

use kernel::Timestamp;
use lake::{Commit, Compaction, Order, SeriesQuery, Table, arrow::array::AsArray, arrow::datatypes::Int64Type};
use proptest::prelude::*;

use crate::{common::*, sql};

type Model = BTreeMap<Key, (Option<f64>, Option<String>)>;

#[derive(Clone, Debug)]
enum Step {
    Commit { puts: Vec<(Key, u8)>, deletes: Vec<Key>, drop: Option<i64> },
    Compact,
    Retain(i64),
    Reopen,
}

/// Few series, few times across three months, so that keys meet often.
fn key() -> impl Strategy<Value = Key> {
    (0i64..4, 0i64..60, prop::option::weighted(0.2, 0i64..2), prop::option::weighted(0.2, 0i64..2))
        .prop_map(|(s, t, f, r)| (s, START + t * DAY + t, f, r.map(|r| START + r)))
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (
        prop::collection::vec((key(), 0u8..3), 0..40),
        prop::collection::vec(key(), 0..6),
        prop::option::weighted(0.1, 0i64..4),
    );
    prop_oneof![
        6 => commit.prop_map(|(puts, deletes, drop)| Step::Commit { puts, deletes, drop }),
        2 => Just(Step::Compact),
        1 => (0i64..30).prop_map(|d| Step::Retain(START + d * DAY)),
        1 => Just(Step::Reopen),
    ]
}

fn as_row((key, (value, quality)): (&Key, &(Option<f64>, Option<String>))) -> Row {
    Row { key: *key, value: *value, quality: quality.clone() }
}

async fn check(table: &Table, lake: &lake::Lake, model: &Model) {
    let all: Vec<Row> = model.iter().map(as_row).collect();
    let view = table.view();
    assert_eq!(everything(&view).await, all);
    assert_eq!(table.stats().rows, all.len() as u64);
    let latest = view.latest(Some(&["datastream"])).await.expect("latest");
    let mut seen: Vec<i64> =
        latest.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    seen.sort_unstable();
    let mut expected: Vec<i64> = all.iter().map(|r| r.key.0).collect();
    expected.dedup();
    assert_eq!(seen, expected);
    for series in 0..4 {
        let mine: Vec<Row> = all.iter().filter(|r| r.key.0 == series).cloned().collect();
        let (from, to) = (START + 10 * DAY, START + 45 * DAY);
        for (order, limit) in [(Order::Ascending, 3), (Order::Descending, 3), (Order::Descending, 100)] {
            let query = SeriesQuery {
                order,
                limit,
                from: Timestamp::from_micros(from),
                to: Timestamp::from_micros(to),
                ..query(series)
            };
            let mut want: Vec<Row> = mine.iter().filter(|r| (from..to).contains(&r.key.1)).cloned().collect();
            if order == Order::Descending {
                want.reverse();
            }
            want.truncate(limit);
            assert_eq!(rows(&view.series(&query).await.expect("series")), want);
        }
    }
    assert_eq!(sql::all_rows(lake).await, all, "SQL sees the same");
}

async fn play(steps: Vec<Step>) {
    let folder = tempfile::tempdir().expect("folder");
    let mut lake = open(folder.path());
    let mut table = table(&lake).await;
    let mut model = Model::new();
    let mut through = 0;
    for step in steps {
        match step {
            Step::Commit { puts, deletes, drop } => {
                through += 1;
                let puts: Model = puts
                    .into_iter()
                    .map(|(k, v)| (k, (Some(f64::from(v)), (v == 2).then(|| "odd".to_owned()))))
                    .collect();
                let mut deletes: Vec<Key> = deletes.into_iter().filter(|k| !puts.contains_key(k)).collect();
                deletes.sort();
                deletes.dedup();
                let before = model.clone();
                if let Some(series) = drop {
                    model.retain(|k, _| k.0 != series);
                }
                let kept = model.clone();
                deletes.iter().for_each(|k| drop_key(&mut model, k));
                model.extend(puts.clone());
                let commit = Commit {
                    through,
                    puts: vec![batch(&puts.iter().map(as_row).collect::<Vec<_>>())],
                    deletes: Some(keys(deletes.clone())),
                    dropped_series: drop.into_iter().collect(),
                };
                let changes = table.commit(commit.clone()).await.expect("commit");
                let same = puts.iter().filter(|(k, v)| kept.get(k) == Some(v)).count() as u64;
                let replaced = puts.iter().filter(|(k, v)| kept.get(k).is_some_and(|old| old != *v)).count() as u64;
                let gone = before.len() - kept.len() + deletes.iter().filter(|k| kept.contains_key(k)).count();
                assert_eq!(
                    (changes.inserted(), changes.replaced(), changes.unchanged(), changes.deleted()),
                    (puts.len() as u64 - same - replaced, replaced, same, gone as u64)
                );
                assert!(table.commit(commit).await.expect("once more").series.is_empty());
            }
            Step::Compact => {
                table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
            }
            Step::Retain(before) => {
                let had = model.len();
                model.retain(|k, _| k.1 >= before);
                let changes = table.retain(Timestamp::from_micros(before)).await.expect("retain");
                assert_eq!(changes.deleted(), (had - model.len()) as u64);
            }
            Step::Reopen => {
                drop((table, lake));
                lake = open(folder.path());
                table = crate::common::table(&lake).await;
                assert_eq!(table.sealed_through(), (through > 0).then_some(through));
            }
        }
        check(&table, &lake, &model).await;
    }
}

fn drop_key(model: &mut Model, key: &Key) {
    model.remove(key);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_a_sorted_set(steps in prop::collection::vec(step(), 1..10)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        runtime.block_on(play(steps));
    }
}
