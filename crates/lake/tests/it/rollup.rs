//! Sums kept by the hour: the same answers as from the rows, whatever becomes of the rows.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kernel::Timestamp;
use lake::{Aggregate, Bucket, Buckets, Commit, Compaction, Rollup, Table, TableSpec, restore};
use proptest::prelude::*;

use crate::common::{Key, Row, START, keys, open, puts, row, sorted, spec};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

fn is_bad(quality: &str) -> bool {
    quality == "bad"
}

const KEPT: Rollup = Rollup { column: "value", unless: Some(("quality", is_bad)), summed: None };

async fn table(folder: &Path, rollup: Option<Rollup>) -> Table {
    open(folder).table(TableSpec { rollup, ..spec() }, None).await.expect("a table")
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

async fn sums(table: &Table, (from, to): (i64, i64), buckets: Buckets) -> BTreeMap<i64, Vec<Bucket>> {
    let series: Vec<i64> = (0..6).collect();
    let query =
        Aggregate { series: &series, from: at(from), to: at(to), buckets, column: KEPT.column, unless: KEPT.unless };
    table.view().aggregate(query).await.expect("sums")
}

/// Sums in another order differ in their last digits; everything else is equal.
fn alike(a: &BTreeMap<i64, Vec<Bucket>>, b: &BTreeMap<i64, Vec<Bucket>>, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
    for (series, buckets) in a {
        assert_eq!(buckets.len(), b[series].len(), "{what}, series {series}");
        for (a, b) in buckets.iter().zip(&b[series]) {
            assert!(
                (a.sum - b.sum).abs() <= 1e-9 * a.count as f64 * a.max.abs().max(a.min.abs()).max(1.0),
                "{what}, series {series}: {a:?} {b:?}"
            );
            assert_eq!(Bucket { sum: 0.0, ..*a }, Bucket { sum: 0.0, ..*b }, "{what}, series {series}");
        }
    }
}

/// Ways to cut time: by the hour and wider, across hours (a zone at half past), and finer.
fn cuts(from: i64, to: i64) -> Vec<Buckets> {
    let width = |origin: i64, width: i64| Buckets::Width { origin: at(origin), width };
    let edges = |step: i64, shift: i64| {
        let first = (from + shift).div_euclid(step) * step - shift;
        Buckets::Edges((0..=(to - first).div_euclid(step) + 1).map(|i| at(first + i * step)).collect())
    };
    vec![
        width(0, HOUR),
        width(0, 24 * HOUR),
        width(30 * MINUTE, 24 * HOUR),
        width(0, 7 * HOUR),
        width(0, 20 * MINUTE),
        edges(24 * HOUR, 8 * HOUR),
        edges(24 * HOUR, 5 * HOUR + 30 * MINUTE),
        edges(3 * HOUR, 0),
    ]
}

async fn agree(kept: &Table, plain: &Table, spans: &[(i64, i64)], what: &str) {
    for &(from, to) in spans {
        for (n, buckets) in cuts(from, to).into_iter().enumerate() {
            let (a, b) = (sums(kept, (from, to), buckets.clone()).await, sums(plain, (from, to), buckets).await);
            alike(&a, &b, &format!("{what}, {from} to {to}, cut {n}"));
        }
    }
}

/// A minute's rows of two dense series, one with gaps and faults, and one with a row in two hours.
fn history() -> Vec<Row> {
    let mut all = Vec::new();
    for i in 0..12_000i64 {
        let time = START + i * MINUTE + (i % 7) * 1_000;
        all.push(row(0, time, ((i * 37) % 101) as f64 / 10.0));
        if i % 500 < 400 {
            let quality = (i % 11 == 0).then(|| if i % 2 == 0 { "bad" } else { "good" }.to_owned());
            all.push(Row { quality, ..row(1, time, -(i as f64)) });
        }
        if i % 97 == 0 {
            all.push(row(2, time, 1.0));
        }
        if i % 3 == 0 {
            all.push(Row { value: (i % 2 == 0).then_some(7.5), ..row(3, time, 0.0) });
        }
    }
    all
}

const SPANS: [(i64, i64); 5] = [
    (START, START + 200 * HOUR),
    (START - 10 * HOUR, START + 1_000 * HOUR),
    (START + 17 * MINUTE, START + 90 * HOUR + 13 * MINUTE),
    (START + HOUR, START + HOUR + 1),
    (START + 30 * HOUR, START + 31 * HOUR),
];

fn rollups(folder: &Path) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(folder.join("observation/_rollup"));
    found.map(|found| found.map(|entry| entry.expect("entry").path()).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_by_the_hour_agree_with_the_rows() {
    let (here, there) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let (kept, plain) = (table(here.path(), Some(KEPT)).await, table(there.path(), None).await);
    let all = history();
    let (even, odd): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|r| (r.key.1 / MINUTE) % 2 == 0);
    let thorough = Compaction { min_files: 2, ..Compaction::default() };
    let both = async |commit: Commit| {
        kept.commit(commit.clone()).await.expect("commit");
        plain.commit(commit).await.expect("commit");
    };
    both(puts(0, even)).await;
    assert!(rollups(here.path()).is_empty(), "a fresh file has none");
    both(puts(1, odd)).await;
    kept.compact(thorough).await.expect("compact");
    agree(&kept, &plain, &SPANS, "compacted").await;
    assert_eq!(rollups(here.path()).len(), 2, "one for each month's file");

    // What comes late, comes again changed, or goes, goes into the sums as into the rows.
    let late: Vec<Row> = (0..40).map(|i| row(0, START + i * HOUR + 59 * MINUTE + 30_000_000, 1e6 + i as f64)).collect();
    let changed: Vec<Row> = all.iter().filter(|r| r.key.0 == 1).step_by(150).map(|r| row(1, r.key.1, 5e5)).collect();
    let gone: Vec<Key> = all.iter().filter(|r| r.key.0 == 0).skip(100).take(300).map(|r| r.key).collect();
    both(puts(2, late)).await;
    agree(&kept, &plain, &SPANS, "with late rows").await;
    both(puts(3, changed)).await;
    both(Commit { through: 4, deletes: Some(keys(gone)), ..Commit::default() }).await;
    agree(&kept, &plain, &SPANS, "with changes and holes").await;
    both(Commit { through: 5, dropped_series: vec![3], ..Commit::default() }).await;
    kept.compact(thorough).await.expect("compact");
    agree(&kept, &plain, &SPANS, "compacted again").await;
    kept.retain(at(START + 50 * HOUR + 7)).await.expect("retain");
    plain.retain(at(START + 50 * HOUR + 7)).await.expect("retain");
    agree(&kept, &plain, &SPANS, "with the oldest gone").await;

    // What no file needs any more goes with the file.
    let before = rollups(here.path()).len();
    std::thread::sleep(Duration::from_millis(20));
    kept.vacuum(Duration::ZERO).await.expect("vacuum");
    let left = rollups(here.path());
    assert!(left.len() < before && left.len() == 2, "{left:?}");
    agree(&kept, &plain, &SPANS, "vacuumed").await;

    // A copy brings them along.
    let (copy, back) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    kept.backup(copy.path()).await.expect("backup");
    restore(copy.path(), &lake::Root::Local(back.path().to_owned())).await.expect("restore");
    assert_eq!(rollups(back.path()).len(), 2);
    let restored = table(back.path(), Some(KEPT)).await;
    agree(&restored, &plain, &SPANS, "restored").await;

    // They are what is read: with the rows taken away whole hours are answered still, and with the sums taken away everything is.
    for rollup in rollups(here.path()) {
        std::fs::write(&rollup, "damaged").expect("damage");
    }
    let again = table(here.path(), Some(KEPT)).await;
    agree(&again, &plain, &SPANS, "damaged").await;
    agree(&kept, &plain, &SPANS, "damaged while they are in use").await;
    for rollup in rollups(here.path()) {
        std::fs::remove_file(rollup).expect("gone");
    }
    agree(&table(here.path(), Some(KEPT)).await, &plain, &SPANS, "tidied away").await;
    agree(&kept, &plain, &SPANS, "tidied away while they are in use").await;
    let copy = tempfile::tempdir().expect("folder");
    kept.backup(&copy.path().join("without")).await.expect("a backup without them");
}

/// Years that are brought at once lie in one file a month, with no other to be merged with.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_alone_gets_its_sums_when_it_is_quiet() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(folder.path(), Some(KEPT)).await;
    table
        .commit(puts(0, (0..12_000).map(|i| row(0, START + i * 10_000_000, i as f64)).collect()))
        .await
        .expect("commit");
    let whole = (START, START + 100 * HOUR);
    let hours = || Buckets::Width { origin: at(0), width: HOUR };
    let before = sums(&table, whole, hours()).await;
    assert_eq!(table.compact(Compaction::default()).await.expect("compact").merged, 0, "more may come");
    let quiet = Compaction { quiet: Duration::ZERO, ..Compaction::default() };
    let done = table.compact(quiet).await.expect("compact");
    assert_eq!((done.merged, done.into, done.rows), (1, 1, 12_000));
    assert_eq!(rollups(folder.path()).len(), 1);
    alike(&sums(&table, whole, hours()).await, &before, "alone");
    assert_eq!(table.compact(quiet).await.expect("compact").merged, 0, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_by_the_hour_reads_no_row() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(folder.path(), Some(KEPT)).await;
    let half = |part: i64| (0..6_000i64).map(|i| row(0, START + (2 * i + part) * 10_000_000, i as f64)).collect();
    table.commit(puts(0, half(0))).await.expect("commit");
    table.commit(puts(1, half(1))).await.expect("commit");
    table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
    let hours = || Buckets::Width { origin: at(0), width: HOUR };
    let span = (START, START + 100 * HOUR);
    let before = sums(&table, span, hours()).await;
    assert_eq!(before[&0].iter().map(|b| b.count).sum::<u64>(), 12_000);
    let data = std::fs::read_dir(folder.path().join("observation/month=2026-01")).expect("files");
    for file in data {
        // Footers are remembered; the rows are not.
        std::fs::remove_file(file.expect("file").path()).expect("gone");
    }
    assert_eq!(sums(&table, span, hours()).await, before);
    let minutes = Buckets::Width { origin: at(0), width: MINUTE };
    let query = Aggregate {
        series: &[0],
        from: at(span.0),
        to: at(span.1),
        buckets: minutes,
        column: KEPT.column,
        unless: None,
    };
    assert!(table.view().aggregate(query).await.is_err(), "finer questions need the rows");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is committed and whenever it is compacted, both ways give the same.
    #[test]
    fn any_history_agrees(
        commits in proptest::collection::vec(
            (proptest::collection::vec((0i64..3, 0i64..400, -50i32..50, 0u8..4), 1..150), any::<bool>()),
            1..5,
        ),
        from in -10i64..300,
        width in 1i64..500,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (here, there) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
            let (kept, plain) = (table(here.path(), Some(KEPT)).await, table(there.path(), None).await);
            for (through, (rows, compacts)) in commits.into_iter().enumerate() {
                let unique: BTreeMap<Key, Row> = rows
                    .into_iter()
                    .map(|(series, place, value, quality)| {
                        let quality = (quality == 0).then(|| "bad".to_owned());
                        let row = Row { quality, ..row(series, START + place * 3 * MINUTE, f64::from(value)) };
                        (row.key, row)
                    })
                    .collect();
                let commit = Commit {
                    through: through as u64,
                    puts: vec![sorted(unique.into_values().collect())],
                    ..Commit::default()
                };
                kept.commit(commit.clone()).await.expect("commit");
                plain.commit(commit).await.expect("commit");
                if compacts {
                    kept.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
                }
            }
            let span = (START + from * 3 * MINUTE, START + (from + width) * 3 * MINUTE + 17);
            agree(&kept, &plain, &[span], "any").await;
        });
    }
}
