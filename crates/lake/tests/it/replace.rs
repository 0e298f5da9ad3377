//! Stretches replaced by fewer rows: all of it or nothing, whatever comes in between, and nothing that is not summed goes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use kernel::Timestamp;
use lake::{
    Aggregate, Buckets, Commit, Compaction, Error, Partition, Reduce, Rollup, Span, Summed, Table, TableSpec,
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    },
    times,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::{DAY, START, open, query};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const FOLDER: &str = "LAKE_TEST_REPLACE";

const SUMMED: Summed = Summed { count: "n", min: "least", max: "greatest", sum: "total", first: "first", last: "last" };

fn never(_: &str) -> bool {
    false
}

fn schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Float64, true);
    let mut fields = vec![
        Field::new("series", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        number("value"),
        Field::new("note", DataType::Utf8, true),
        Field::new(SUMMED.count, DataType::Int64, true),
    ];
    fields.extend([SUMMED.min, SUMMED.max, SUMMED.sum, SUMMED.first, SUMMED.last].map(number));
    Arc::new(Schema::new(fields))
}

async fn table(folder: &Path) -> Table {
    let spec = TableSpec {
        name: "sums".to_owned(),
        schema: schema(),
        series: "series",
        time: "at",
        key: vec!["series", "at", "note"],
        partition: Partition::Month,
        rollup: Some(Rollup { column: "value", unless: Some(("note", never)), summed: Some(SUMMED) }),
    };
    open(folder).table(spec, None).await.expect("a table")
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    series: i64,
    at: i64,
    value: f64,
    /// Count, least, greatest, total, first, last.
    sums: Option<(i64, [f64; 5])>,
}

fn raw(series: i64, at: i64, value: f64) -> Row {
    Row { series, at, value, sums: None }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let note = |r: &Row| r.sums.map(|_| "sum");
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.series))),
        Arc::new(times(rows.iter().map(|r| Some(r.at)))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.value))),
        Arc::new(StringArray::from_iter(rows.iter().map(note))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.sums.map(|s| s.0)))),
    ];
    for i in 0..5 {
        columns.push(Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.sums.map(|s| s.1[i])))));
    }
    RecordBatch::try_new(schema(), columns).expect("columns fit")
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let number = |i: usize| batch.column(i).as_primitive::<Float64Type>();
    let (series, n) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(4).as_primitive::<Int64Type>());
    let at = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    (0..batch.num_rows())
        .map(|i| Row {
            series: series.value(i),
            at: at.value(i),
            value: number(2).value(i),
            sums: n.is_valid(i).then(|| (n.value(i), std::array::from_fn(|k| number(5 + k).value(i)))),
        })
        .collect()
}

/// Sums up by an interval of so many µs; 0 removes.
struct Every {
    width: i64,
    still: AtomicBool,
    asked: AtomicUsize,
}

impl Every {
    fn new(width: i64) -> Arc<Self> {
        Arc::new(Self { width, still: AtomicBool::new(true), asked: AtomicUsize::new(0) })
    }
}

impl Reduce for Every {
    fn reduce(&self, _: &Span, found: &RecordBatch) -> Result<Option<RecordBatch>, Error> {
        self.asked.fetch_add(1, SeqCst);
        if self.width == 0 {
            return Ok(Some(batch(&[])));
        }
        let mut cells: BTreeMap<(i64, i64), Vec<Row>> = BTreeMap::new();
        for row in rows(found) {
            cells.entry((row.series, row.at.div_euclid(self.width) * self.width)).or_default().push(row);
        }
        if cells.values().all(|cell| cell.len() == 1 && cell[0].sums.is_some()) {
            return Ok(None);
        }
        let sums: Vec<Row> = cells
            .into_iter()
            .map(|((series, at), cell)| {
                let parts: Vec<(i64, [f64; 5])> = cell.iter().map(|r| r.sums.unwrap_or((1, [r.value; 5]))).collect();
                let n = parts.iter().map(|p| p.0).sum::<i64>();
                let fold = |i: usize, f: fn(f64, f64) -> f64| parts.iter().map(|p| p.1[i]).reduce(f).expect("a part");
                let total = parts.iter().map(|p| p.1[2]).sum::<f64>();
                let sums = [fold(0, f64::min), fold(1, f64::max), total, parts[0].1[3], parts[parts.len() - 1].1[4]];
                Row { series, at, value: total / n as f64, sums: Some((n, sums)) }
            })
            .collect();
        Ok(Some(batch(&sums)))
    }

    fn still(&self) -> bool {
        self.still.load(SeqCst)
    }
}

fn spans(series: std::ops::Range<i64>, from: i64, to: i64) -> Vec<Span> {
    let at = Timestamp::from_micros;
    series.map(|series| Span { series, from: at(from), to: at(to) }).collect()
}

async fn series(table: &Table, id: i64) -> Vec<Row> {
    rows(&table.view().series(&query(id)).await.expect("a series"))
}

/// Count, sum, least, greatest, first and last by the hour: what must never change by being summed up.
async fn hours(table: &Table, of: std::ops::Range<i64>) -> Vec<(i64, i64, u64, f64, f64, f64, f64, f64)> {
    let ids: Vec<i64> = of.collect();
    let query = Aggregate {
        series: &ids,
        from: Timestamp::from_micros(START),
        to: Timestamp::from_micros(START + 60 * DAY),
        buckets: Buckets::Width { origin: Timestamp::from_micros(0), width: HOUR },
        column: "value",
        unless: Some(("note", never)),
    };
    let found = table.view().aggregate(query).await.expect("sums");
    let one = |(id, buckets): (i64, Vec<lake::Bucket>)| {
        buckets
            .into_iter()
            .map(move |b| (id, b.start.as_micros(), b.count, b.sum, b.min, b.max, b.first, b.last))
            .collect::<Vec<_>>()
    };
    found.into_iter().flat_map(one).collect()
}

/// A value a minute for ten days, over the end of a month, handed over in two commits; whole numbers, whose sums are exact.
async fn filled(folder: &Path) -> Table {
    let table = table(folder).await;
    let all = |from: i64, to: i64| -> Vec<Row> {
        (0..4).flat_map(|s| (from..to).map(move |i| raw(s, START + i * MINUTE, ((i * 7 + s) % 50) as f64))).collect()
    };
    for (n, (from, to)) in [(0, 9_000), (9_000, 14_400)].into_iter().enumerate() {
        let commit = Commit { through: n as u64, puts: vec![batch(&all(from, to))], ..Commit::default() };
        table.commit(commit).await.expect("commit");
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_stand_for_what_they_replace() {
    let folder = tempfile::tempdir().expect("folder");
    let table = filled(folder.path()).await;
    let before = hours(&table, 0..4).await;
    let end = START + 7 * DAY;
    let parts = table.view().parts(Timestamp::from_micros(end)).await.expect("parts");
    assert_eq!(parts.len(), 1, "what lies behind the border is not looked at");
    let part = &parts[0];
    assert_eq!(part.partition.as_deref(), Some("2026-01"));
    assert_eq!((part.rows, part.series.len(), part.to.as_micros()), (4 * 7 * 1_440, 4, end));
    // Two of four series; the dry run says what the other one does.
    let wanted = spans(1..3, START, end);
    let dry = table.replace(part.partition.clone(), wanted.clone(), Every::new(10 * MINUTE), true).await.expect("dry");
    assert_eq!(table.stats().rows, 4 * 14_400, "nothing has changed");
    let done =
        table.replace(part.partition.clone(), wanted.clone(), Every::new(10 * MINUTE), false).await.expect("done");
    assert_eq!((&done.changes.series, done.bytes), (&dry.changes.series, dry.bytes));
    assert_eq!((done.changes.deleted(), done.changes.inserted()), (2 * 10_080, 2 * 1_008));
    assert_eq!(table.stats().rows, 4 * 14_400 - 2 * (10_080 - 1_008));
    assert_eq!(hours(&table, 0..4).await, before);
    // Compaction, with its own sums by the hour, and a second opening agree.
    table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
    assert_eq!(hours(&table, 0..4).await, before);
    let version = table.stats().version;
    table.replace(part.partition.clone(), wanted, Every::new(10 * MINUTE), false).await.expect("again");
    assert_eq!(table.stats().version, version, "what is done is not done again");
    let late = vec![raw(1, START + 30_000_000, 99.0), raw(1, START + 10 * MINUTE, 98.0)];
    table.commit(Commit { through: 2, puts: vec![batch(&late)], ..Commit::default() }).await.expect("late");
    let with = hours(&table, 1..2).await;
    assert_eq!((with[0].2, with[0].5), (62, 99.0));
    table
        .replace(part.partition.clone(), spans(1..2, START, end), Every::new(10 * MINUTE), false)
        .await
        .expect("merged");
    assert_eq!(series(&table, 1).await.iter().filter(|r| r.at < end).count(), 1_008);
    let merged = hours(&table, 1..2).await;
    assert_eq!((merged[0].2, merged[0].3, merged[0].5), (with[0].2, with[0].3, 99.0));
    table.replace(part.partition.clone(), spans(0..4, START, end), Every::new(0), false).await.expect("gone");
    assert_eq!(table.stats().rows, 4 * 3 * 1_440);
    let freed = table.vacuum(Duration::ZERO).await.expect("vacuum");
    assert!(freed.bytes > 0);
    let again = self::table(folder.path()).await;
    assert_eq!(again.stats().rows, 4 * 3 * 1_440);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let table = filled(folder.path()).await;
    let before = table.stats();
    let month = || Some("2026-01".to_owned());
    let twice = [spans(1..2, START, START + DAY), spans(1..2, START, START + DAY)].concat();
    let overlap = table.replace(month(), twice, Every::new(HOUR), false).await;
    assert!(matches!(overlap, Err(Error::Invalid(_))), "{overlap:?}");
    // An interval that begins before the stretch does.
    let outside = table.replace(month(), spans(1..2, START + MINUTE, START + DAY), Every::new(HOUR), false).await;
    assert!(matches!(outside, Err(Error::Invalid(_))), "{outside:?}");
    let stopped = Every::new(HOUR);
    stopped.still.store(false, SeqCst);
    let held = table.replace(month(), spans(1..2, START, START + DAY), stopped, false).await;
    assert!(matches!(held, Err(Error::Busy)), "{held:?}");
    assert_eq!(table.stats(), before);
}

/// Commits that rewrite the very files meanwhile: the work is done again on what is there then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_come_in_between() {
    let folder = tempfile::tempdir().expect("folder");
    let table = filled(folder.path()).await;
    let writer = table.clone();
    let writing = tokio::spawn(async move {
        for n in 2..14u64 {
            // A changed value of another series: its file is rewritten.
            let change = raw(3, START + n as i64 * HOUR, 1_000.0 + n as f64);
            let fresh = raw(1, START + n as i64 * HOUR + 1, 1.0);
            let puts = vec![batch(&[fresh, change])];
            writer.commit(Commit { through: n, puts, ..Commit::default() }).await.expect("commit");
        }
    });
    let end = START + 7 * DAY;
    loop {
        let done = table.replace(Some("2026-01".into()), spans(1..2, START, end), Every::new(HOUR), false).await;
        match done {
            Ok(_) if writing.is_finished() => break,
            Ok(_) | Err(Error::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    writing.await.expect("writer");
    table.replace(Some("2026-01".into()), spans(1..2, START, end), Every::new(HOUR), false).await.expect("the rest");
    let all = hours(&table, 1..2).await;
    assert_eq!(all.iter().map(|h| h.2).sum::<u64>(), 14_400 + 12);
    assert_eq!(series(&table, 1).await.iter().filter(|r| r.at < end).count(), 7 * 24);
    let changed = series(&table, 3).await.iter().filter(|r| r.value > 1_000.0).count();
    assert_eq!(changed, 12, "and what was committed meanwhile is there");
}

/// Not a test of its own: the other process of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let table = table(Path::new(&folder)).await;
    let first = table.sealed_through().map_or(0, |t| t + 1);
    for through in first.. {
        // Late rows at odd microseconds, then everything is summed up; widths take turns, so that there is always something to do.
        let base = START + (through as i64 * 97 % 10_000) * MINUTE + 1 + through as i64;
        let late: Vec<Row> = (0..4).map(|s| raw(s, base, 1.0)).collect();
        table.commit(Commit { through, puts: vec![batch(&late)], ..Commit::default() }).await.expect("commit");
        println!("\ncommitted {through}");
        let width = if through % 2 == 0 { 10 * MINUTE } else { HOUR };
        for (month, from, to) in [("2026-01", START, START + 7 * DAY), ("2026-02", START + 7 * DAY, START + 10 * DAY)] {
            table.replace(Some(month.into()), spans(0..4, from, to), Every::new(width), false).await.expect("replaced");
        }
    }
}

#[test]
fn killed_at_any_moment_every_row_counts_once() {
    let folder = tempfile::tempdir().expect("folder");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async { drop(filled(folder.path()).await) });
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..8 {
        let program = std::env::current_exe().expect("this binary");
        let mut child = Command::new(program)
            .args(["replace::child", "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
        let committed = lines.by_ref().map(|l| l.expect("line")).find(|l| l.starts_with("committed"));
        assert!(committed.is_some(), "the child works until it is killed");
        std::thread::sleep(Duration::from_micros(rng.random_range(0..120_000)));
        child.kill().expect("kill -9");
        child.wait().expect("gone");
        runtime.block_on(async {
            let table = table(folder.path()).await;
            let late = table.sealed_through().expect("sealed") - 1;
            for id in 0..4 {
                let counted: i64 = series(&table, id).await.iter().map(|r| r.sums.map_or(1, |s| s.0)).sum();
                assert_eq!(counted, 14_400 + i64::try_from(late).expect("few"), "series {id}");
            }
        });
    }
}
