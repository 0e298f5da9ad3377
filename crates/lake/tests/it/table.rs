use std::{sync::Arc, time::Duration};

use kernel::Timestamp;
use lake::{
    Aggregate, Buckets, Commit, Compaction, Error, Options, Order, Root, SeriesChange, SeriesQuery, TableSpec,
    arrow::datatypes::{DataType, Field, Schema},
};

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_durable_and_counted_once() {
    let folder = tempfile::tempdir().expect("folder");
    {
        let table = table(&open(folder.path())).await;
        assert_eq!(table.sealed_through(), None);
        let changes =
            table.commit(puts(7, vec![row(1, START, 1.5), row(1, START + 40 * DAY, 2.0), row(2, START, 3.0)]));
        let changes = changes.await.expect("commit");
        assert_eq!(
            changes.series,
            vec![
                SeriesChange { series: 1, inserted: 2, ..SeriesChange::default() },
                SeriesChange { series: 2, inserted: 1, ..SeriesChange::default() },
            ]
        );
        // The same stretch again, and an older one: nothing happens.
        assert!(table.commit(puts(7, vec![row(9, START, 1.0)])).await.expect("repeat").series.is_empty());
        assert!(table.commit(puts(3, vec![row(9, START, 1.0)])).await.expect("older").series.is_empty());
        assert_eq!(table.stats().files, 2, "one file for each month");
    }
    let table = table(&open(folder.path())).await;
    assert_eq!(table.sealed_through(), Some(7));
    assert_eq!(table.stats().rows, 3);
    assert_eq!(series(&table.view(), 1).await, vec![row(1, START, 1.5), row(1, START + 40 * DAY, 2.0)]);
    assert!(series(&table.view(), 9).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn corrections_replace_duplicates_cost_nothing_deletes_remove() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    let before: Vec<Row> = (0..100).map(|i| row(1, START + i, i as f64)).collect();
    table.commit(puts(0, before)).await.expect("commit");
    let file = table.stats();

    let again = table.commit(puts(1, vec![row(1, START + 5, 5.0), row(1, START + 6, 6.0)])).await.expect("duplicates");
    assert_eq!((again.inserted(), again.replaced(), again.unchanged()), (0, 0, 2));
    assert_eq!((table.stats().files, table.stats().bytes), (file.files, file.bytes), "nothing was rewritten");
    assert_eq!(table.sealed_through(), Some(1));

    let mut commit = puts(2, vec![row(1, START + 5, 5.5), row(1, START + 200, 7.0)]);
    commit.deletes = Some(keys(vec![(1, START + 6, None, None), (1, START + 999, None, None)]));
    let changes = table.commit(commit).await.expect("corrections");
    assert_eq!(changes.series, vec![SeriesChange { series: 1, inserted: 1, replaced: 1, unchanged: 0, deleted: 1 }]);
    let now = series(&table.view(), 1).await;
    assert_eq!(now.len(), 100);
    assert_eq!(now[5], row(1, START + 5, 5.5));
    assert_eq!(now[6], row(1, START + 7, 7.0));

    // A key with a feature is another key than one without.
    let other = Row { key: (1, START + 5, Some(3), None), value: Some(1.0), quality: Some("good".to_owned()) };
    let changes = table.commit(puts(3, vec![other.clone()])).await.expect("feature");
    assert_eq!((changes.inserted(), changes.replaced()), (1, 0));
    let found = table.view().get(&keys(vec![other.key, (1, START + 6, None, None), (1, START + 7, None, None)])).await;
    assert_eq!(rows(&found.expect("get")), vec![other, row(1, START + 7, 7.0)]);

    let drop =
        Commit { through: 4, dropped_series: vec![1], puts: vec![sorted(vec![row(1, START, 9.0)])], deletes: None };
    let changes = table.commit(drop).await.expect("drop");
    assert_eq!((changes.deleted(), changes.inserted(), changes.replaced()), (101, 1, 0));
    assert_eq!(everything(&table.view()).await, vec![row(1, START, 9.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_commits_are_refused_and_leave_the_table_as_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    table.commit(puts(0, vec![row(1, START, 1.0)])).await.expect("commit");
    let stats = table.stats();
    let refused = [
        Commit { through: 1, puts: vec![batch(&[row(2, START, 1.0), row(1, START, 1.0)])], ..Commit::default() },
        Commit { through: 1, puts: vec![batch(&[row(1, START, 1.0), row(1, START, 2.0)])], ..Commit::default() },
        Commit { through: 1, puts: vec![keys(vec![(1, START, None, None)])], ..Commit::default() },
        Commit { deletes: Some(keys(vec![(1, START, None, None)])), ..puts(1, vec![row(1, START, 1.0)]) },
        puts(u64::MAX, vec![row(1, START, 2.0)]),
    ];
    for commit in refused {
        assert!(matches!(table.commit(commit).await, Err(Error::Invalid(_))));
    }
    assert_eq!(table.stats(), stats);
    assert_eq!(everything(&table.view()).await, vec![row(1, START, 1.0)]);
    let parquet = walk(folder.path()).into_iter().filter(|p| p.ends_with(".parquet")).count();
    assert_eq!(parquet, 1, "no file is left behind");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder").map(|e| e.expect("entry")) {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path().to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn one_series_is_read_by_range_order_and_limit() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    // Several pages of three series, then late rows in between, in a second file.
    let time = |i: i64| START + i * 1_000_000;
    let first = (0..3i64).flat_map(|s| (0..10_000).filter(|i| i % 100 != 7).map(move |i| (s, i)));
    table.commit(puts(0, first.map(|(s, i)| row(s, time(i), i as f64)).collect())).await.expect("first");
    let late = (0..3i64).flat_map(|s| (0..100).map(move |i| (s, i * 100 + 7)));
    table.commit(puts(1, late.map(|(s, i)| row(s, time(i), i as f64)).collect())).await.expect("late");
    let view = table.view();
    assert_eq!(table.stats().files, 2);
    for (from, to, limit) in [
        (0, 10_000, 5),
        (0, 10_000, 10_000),
        (4_000, 4_300, 1_000),
        (4_000, 9_000, 150),
        (9_999, 10_001, 9),
        (20_000, 30_000, 5),
        (50, 50, 5),
        (0, 9, 0),
    ] {
        for order in [Order::Ascending, Order::Descending] {
            let query = SeriesQuery {
                series: 1,
                from: Timestamp::from_micros(time(from)),
                to: Timestamp::from_micros(time(to)),
                order,
                limit,
                columns: None,
            };
            let found: Vec<i64> = rows(&view.series(&query).await.expect("series"))
                .iter()
                .map(|r| r.value.expect("value") as i64)
                .collect();
            let mut expected: Vec<i64> = (from..to.min(10_000)).collect();
            if order == Order::Descending {
                expected.reverse();
            }
            expected.truncate(limit);
            assert_eq!(found, expected, "{from}..{to} {order:?} {limit}");
        }
    }
    let columns = view.series(&SeriesQuery { columns: Some(&["value", "datastream"]), limit: 2, ..query(2) }).await;
    let columns = columns.expect("columns");
    assert_eq!(
        columns.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        ["value", "datastream"]
    );
    assert!(matches!(
        view.series(&SeriesQuery { columns: Some(&["nothing"]), ..query(2) }).await,
        Err(Error::Invalid(_))
    ));
    let mut latest: Vec<Row> = view.latest(None).await.expect("latest").iter().flat_map(rows).collect();
    latest.sort_by_key(|r| r.key);
    assert_eq!(latest, (0..3).map(|s| row(s, time(9_999), 9_999.0)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_agree_with_a_plain_sum() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    let minute = 60_000_000;
    let all: Vec<Row> =
        (0..2i64).flat_map(|s| (0..20_000).map(move |i| row(s, START + i * minute, ((i * 37) % 101) as f64))).collect();
    let (even, odd): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|r| (r.key.1 / minute) % 2 == 0);
    table.commit(puts(0, even)).await.expect("even");
    table.commit(puts(1, odd)).await.expect("odd");
    let (from, to) = (START + 90 * minute, START + 19_000 * minute);
    let hour = 60 * minute;
    let query = Aggregate {
        series: &[1, 5],
        from: Timestamp::from_micros(from),
        to: Timestamp::from_micros(to),
        buckets: Buckets::Width { origin: Timestamp::from_micros(0), width: hour },
        column: "value",
        unless: None,
    };
    let found = table.view().aggregate(query.clone()).await.expect("aggregate");
    assert_eq!(found.keys().collect::<Vec<_>>(), [&1]);
    let mine: Vec<&Row> = all.iter().filter(|r| r.key.0 == 1 && (from..to).contains(&r.key.1)).collect();
    assert_eq!(found[&1].iter().map(|b| b.count).sum::<u64>(), mine.len() as u64);
    for bucket in &found[&1] {
        let start = bucket.start.as_micros();
        let inside: Vec<&&Row> = mine.iter().filter(|r| (start..start + hour).contains(&r.key.1)).collect();
        let values: Vec<f64> = inside.iter().filter_map(|r| r.value).collect();
        assert_eq!(bucket.count, values.len() as u64);
        assert_eq!(bucket.sum, values.iter().sum::<f64>());
        assert_eq!(bucket.min, values.iter().copied().fold(f64::INFINITY, f64::min));
        assert_eq!(bucket.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        assert_eq!((bucket.first, bucket.first_at.as_micros()), (values[0], inside[0].key.1));
        assert_eq!(
            (bucket.last, bucket.last_at.as_micros()),
            (values[values.len() - 1], inside[inside.len() - 1].key.1)
        );
    }
    let edges = Buckets::Edges([from, from + 3 * hour, to].map(Timestamp::from_micros).to_vec());
    let days = table.view().aggregate(Aggregate { buckets: edges, ..query.clone() }).await.expect("edges");
    assert_eq!(days[&1].iter().map(|b| b.count).collect::<Vec<_>>(), [180, 19_000 - 90 - 180]);
    let wrong = table.view().aggregate(Aggregate { column: "quality", ..query }).await;
    assert!(matches!(wrong, Err(Error::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_reads_edges_and_agrees_with_the_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    let minute = 60_000_000;
    let series = |s: i64, rows: std::ops::Range<i64>| rows.map(move |i| row(s, START + i * minute, i as f64));
    // Several pages, of which the first and last are shared with neighbours, in two files, over a month's end.
    let first: Vec<Row> = (0..3).flat_map(|s| series(s, 0..10_001)).collect();
    table.commit(puts(0, first)).await.expect("first");
    table.commit(puts(1, (1..4).flat_map(|s| series(s, 10_001..10_500)).collect())).await.expect("second");
    for (from, to) in
        [(0, 20_000), (-5, 0), (0, 1), (1, 10_000), (4_095, 4_097), (9_000, 10_200), (10_500, 30_000), (7, 7)]
    {
        for s in 0..5 {
            let (from, to) =
                (Timestamp::from_micros(START + from * minute), Timestamp::from_micros(START + to * minute));
            let rows = table.view().series(&SeriesQuery { from, to, ..query(s) }).await.expect("rows").num_rows();
            let count = table.view().count(s, from, to, Some("quality")).await.expect("count");
            assert_eq!(count, Some(rows as u64), "series {s} from {from} to {to}");
        }
    }
    let marked = Row { quality: Some("{}".to_owned()), ..row(2, START - minute, 0.0) };
    table.commit(puts(2, vec![marked])).await.expect("third");
    assert_eq!(table.view().count(2, Timestamp::MIN, Timestamp::MAX, Some("quality")).await.expect("count"), None);
    assert_eq!(table.view().count(2, Timestamp::MIN, Timestamp::MAX, None).await.expect("count"), Some(10_501));
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_merges_and_vacuum_removes_what_it_left() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    for n in 0..12u64 {
        let rows = (0..50i64).map(|s| row(s, START + n as i64 * 1_000 + s, n as f64)).collect();
        table.commit(puts(n, rows)).await.expect("commit");
    }
    let (before, old) = (everything(&table.view()).await, table.view());
    let done = table.compact(Compaction { min_files: 4, ..Compaction::default() }).await.expect("compact");
    assert_eq!((done.merged, done.into, done.rows), (12, 1, 600));
    assert_eq!(table.stats().files, 1);
    assert_eq!(everything(&table.view()).await, before);
    assert_eq!(everything(&old).await, before, "an older picture stays readable");
    assert_eq!(table.compact(Compaction::default()).await.expect("again").merged, 0);

    assert_eq!(table.vacuum(Duration::from_secs(7 * 86_400)).await.expect("kept").files, 0);
    std::fs::write(folder.path().join("observation/month=2026-01/part.parquet#123"), "half").expect("left by a crash");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(table.vacuum(Duration::ZERO).await.expect("vacuum").files, 13);
    assert_eq!(everything(&table.view()).await, before);
    drop(table);
    let table = crate::common::table(&open(folder.path())).await;
    assert_eq!(everything(&table.view()).await, before);
    assert_eq!(table.sealed_through(), Some(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_go_whole_files_first() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    let rows: Vec<Row> = (0..3i64).flat_map(|s| (0..60).map(move |d| row(s, START + d * DAY, d as f64))).collect();
    table.commit(puts(0, rows.clone())).await.expect("commit");
    let before = START + 20 * DAY;
    let changes = table.retain(Timestamp::from_micros(before)).await.expect("retain");
    assert_eq!(changes.deleted(), 60);
    assert!(changes.series.iter().all(|s| s.deleted == 20));
    let kept: Vec<Row> = rows.into_iter().filter(|r| r.key.1 >= before).collect();
    assert_eq!(everything(&table.view()).await, kept);
    assert_eq!(table.retain(Timestamp::from_micros(before)).await.expect("again").deleted(), 0);
    assert_eq!(table.sealed_through(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_may_be_added_and_nothing_else_may_change() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    table.commit(puts(0, vec![row(1, START, 1.0)])).await.expect("commit");
    drop(table);
    let with = |fields: Vec<Field>| TableSpec { schema: Arc::new(Schema::new(fields)), ..spec() };
    let mut fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut wrong = fields.clone();
    wrong[4] = Field::new("value", DataType::Int64, true);
    assert!(matches!(open(folder.path()).table(with(wrong), None).await, Err(Error::Invalid(_))));
    let mut fewer = fields.clone();
    fewer.pop();
    assert!(matches!(open(folder.path()).table(with(fewer), None).await, Err(Error::Invalid(_))));
    let mut strict = fields.clone();
    strict.push(Field::new("depth", DataType::Float64, false));
    assert!(matches!(open(folder.path()).table(with(strict), None).await, Err(Error::Invalid(_))));

    fields.push(Field::new("depth", DataType::Float64, true));
    for _ in 0..2 {
        let table = open(folder.path()).table(with(fields.clone()), None).await.expect("one more column");
        let found = table.view().series(&query(1)).await.expect("old rows");
        assert_eq!(found.num_columns(), 12);
        assert_eq!(found.column(11).null_count(), 1);
        assert_eq!(rows(&found), vec![row(1, START, 1.0)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_opens_as_the_table_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    for n in 0..5u64 {
        table
            .commit(puts(n, vec![row(1, START + n as i64, 0.5), row(2, START + 40 * DAY + n as i64, 0.5)]))
            .await
            .expect("commit");
    }
    let (copy, at) = (tempfile::tempdir().expect("copy"), everything(&table.view()).await);
    let stats = table.backup(copy.path()).await.expect("backup");
    assert!(matches!(table.backup(copy.path()).await, Err(Error::Invalid(_))), "never over another backup");
    table.commit(puts(9, vec![row(1, START, 7.0)])).await.expect("later");
    table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
    table.vacuum(Duration::ZERO).await.expect("vacuum");

    let restored = crate::common::table(&open(copy.path())).await;
    assert_eq!(restored.sealed_through(), Some(4));
    assert_eq!((restored.stats().rows, restored.stats().files), (stats.rows, stats.files));
    assert_eq!(everything(&restored.view()).await, at);
    restored.commit(puts(5, vec![row(3, START, 1.0)])).await.expect("goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_keep_the_offset_and_the_files() {
    let folder = tempfile::tempdir().expect("folder");
    {
        let table = table(&open(folder.path())).await;
        for n in 0..60u64 {
            table.commit(puts(n, vec![row(1, START + n as i64 * 1_001, n as f64)])).await.expect("commit");
        }
    }
    let log = walk(&folder.path().join("observation/_delta_log"));
    assert!(log.iter().any(|p| p.contains(".checkpoint.")), "{log:?}");
    let table = table(&open(folder.path())).await;
    assert_eq!((table.sealed_through(), table.stats().rows), (Some(59), 60));
    let late = table.commit(puts(60, vec![row(1, START + 59 * 1_001, 0.0)])).await.expect("late");
    assert_eq!((late.inserted(), late.replaced()), (0, 1), "bounds from a checkpoint are wide enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_specs_are_checked() {
    let folder = tempfile::tempdir().expect("folder");
    let lake = lake::Lake::open(Options { threads: 1, ..Options::new(Root::Local(folder.path().to_path_buf())) });
    let lake = lake.expect("lake");
    for name in ["", "A", "../x", "a b", "1a"] {
        let spec = TableSpec { name: name.to_owned(), ..spec() };
        assert!(matches!(lake.table(spec, None).await, Err(Error::Invalid(_))), "{name}");
    }
    for key in [vec!["datastream"], vec!["phenomenon_time", "datastream"], vec!["datastream", "phenomenon_time", "x"]] {
        assert!(matches!(lake.table(TableSpec { key, ..spec() }, None).await, Err(Error::Invalid(_))));
    }
    assert_eq!(walk(folder.path()), Vec::<String>::new());
}
