use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use lake::{
    Access, Error, Lake, SqlOptions, Table, Tail, TailRows,
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::Int64Type,
    },
};

use crate::common::*;

async fn ask(lake: &Lake, query: &str) -> Result<Vec<RecordBatch>, Error> {
    lake.sql(query, SqlOptions::default(), Arc::new(|_: &str| Access::All)).await?.collect_all().await
}

async fn number(lake: &Lake, query: &str) -> i64 {
    let batches = ask(lake, query).await.expect(query);
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// Every row that SQL sees, by key.
pub async fn all_rows(lake: &Lake) -> Vec<Row> {
    let mut all: Vec<Row> =
        ask(lake, "select * from observation").await.expect("all rows").iter().flat_map(rows).collect();
    all.sort_by_key(|r| r.key);
    all
}

/// A tail that a test fills by hand.
#[derive(Default)]
struct HandTail(Mutex<TailRows>);

impl Tail for HandTail {
    fn snapshot(&self) -> TailRows {
        self.0.lock().expect("tail").clone()
    }
}

async fn with_tail(folder: &std::path::Path) -> (Lake, Table, Arc<HandTail>) {
    let (lake, tail) = (open(folder), Arc::new(HandTail::default()));
    let table = lake.table(spec(), Some(tail.clone())).await.expect("table");
    (lake, table, tail)
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_and_unsealed_are_one_table() {
    let folder = tempfile::tempdir().expect("folder");
    let (lake, table, tail) = with_tail(folder.path()).await;
    let sealed: Vec<Row> = (0..4i64).flat_map(|s| (0..100).map(move |i| row(s, START + i, i as f64))).collect();
    table.commit(puts(4, sealed)).await.expect("commit");
    assert_eq!(number(&lake, "select count(*) from observation").await, 400);

    // New rows, a correction, a removal, a dropped series; the tail wins on the same key.
    let unsealed = vec![row(0, START + 500, 1.0), row(1, START + 5, -1.0), row(7, START, 2.0)];
    *tail.0.lock().expect("tail") = TailRows {
        from: 5,
        through: Some(6),
        batches: vec![sorted(unsealed.clone())],
        removed: Some(keys(vec![(2, START + 3, None, None), (2, START + 4_000, None, None)])),
        dropped_series: vec![3],
    };
    assert_eq!(number(&lake, "select count(*) from observation").await, 400 + 2 - 1 - 100);
    assert_eq!(number(&lake, "select count(*) from observation where value = -1").await, 1);
    assert_eq!(number(&lake, "select count(*) from observation where datastream = 1 and value = 5").await, 0);
    assert_eq!(number(&lake, "select count(*) from observation where datastream = 3").await, 0);
    let late = "select count(*) from observation where phenomenon_time > timestamp '2026-01-25T00:00:00.000400Z'";
    assert_eq!(number(&lake, late).await, 1);
    // A self-join sees one picture.
    let join = "select count(*) from observation a join observation b on a.datastream = b.datastream \
                and a.phenomenon_time = b.phenomenon_time";
    assert_eq!(number(&lake, join).await, 301);

    // Sealed meanwhile, but the tail has not let go yet: still each row once.
    table.commit(puts(6, unsealed)).await.expect("seal");
    assert_eq!(number(&lake, "select count(*) from observation where datastream in (0, 1, 7)").await, 202);
    // A picture of the tail that is older than what is sealed would bring old values back: never taken.
    table.commit(puts(9, vec![row(1, START + 5, -2.0)])).await.expect("seal");
    assert!(matches!(ask(&lake, "select count(*) from observation").await, Err(Error::Busy)));
    *tail.0.lock().expect("tail") = TailRows { from: 10, through: Some(9), ..TailRows::default() };
    assert_eq!(number(&lake, "select count(*) from observation where value = -2").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_only_its_series_and_tables() {
    let folder = tempfile::tempdir().expect("folder");
    let (lake, table, tail) = with_tail(folder.path()).await;
    table.commit(puts(0, (0..9).map(|s| row(s, START, s as f64)).collect())).await.expect("commit");
    *tail.0.lock().expect("tail") = TailRows {
        from: 1,
        through: Some(1),
        batches: vec![sorted((0..9).map(|s| row(s, START + 1, s as f64)).collect())],
        ..TailRows::default()
    };
    let mine = Arc::new(BTreeSet::from([2i64, 4]));
    let see = move |_: &str| Access::Series(mine.clone());
    let ask = async |query: &str, see: Arc<dyn lake::Visible>| {
        lake.sql(query, SqlOptions::default(), see).await?.collect_all().await
    };
    let found = ask("select * from observation order by datastream, phenomenon_time", Arc::new(see.clone())).await;
    let found: Vec<i64> = found.expect("mine").iter().flat_map(rows).map(|r| r.key.0).collect();
    assert_eq!(found, [2, 2, 4, 4]);
    // A filter that fails on a hidden row never meets it: nothing can be learned from the error.
    for query in [
        "select count(*) from observation where 1 / (cast(value as bigint) - 7) < 5",
        "select count(*) from observation where 1 / (datastream - 7) < 5",
    ] {
        assert!(ask(query, Arc::new(see.clone())).await.is_ok(), "{query}");
        let met = ask(query, Arc::new(|_: &str| Access::All)).await;
        assert!(matches!(met, Err(Error::Query(_))), "{query}: {met:?}");
    }
    let none = ask("select count(*) from observation", Arc::new(|_: &str| Access::Series(Arc::default()))).await;
    assert_eq!(none.expect("none")[0].column(0).as_primitive::<Int64Type>().value(0), 0);
    let hidden = ask("select * from observation", Arc::new(|_: &str| Access::Hidden)).await.expect_err("hidden");
    let absent = ask("select * from nothing", Arc::new(|_: &str| Access::All)).await.expect_err("absent");
    let text = |e: Error| e.to_string().replace("observation", "?").replace("nothing", "?");
    assert_eq!(text(hidden), text(absent), "hidden and absent look the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_reading_and_nothing_of_the_machine() {
    let folder = tempfile::tempdir().expect("folder");
    let (lake, table, _) = with_tail(folder.path()).await;
    table.commit(puts(0, vec![row(1, START, 1.0)])).await.expect("commit");
    for query in [
        "select * into other from observation",
        "with gone as (delete from observation) select 1",
        "select * from '/etc/passwd'",
        "select * from \"/etc/passwd\"",
        "select * from read_csv('/etc/passwd')",
        "select * from parquet_metadata('x')",
        "select * from information_schema.tables",
        "select * from information_schema.df_settings",
        "select version()",
        "select repeat('x', 1000000000)",
        "select * from generate_series(1, 1000000000000)",
        "select nothing from observation",
        "select cast('x' as bigint)",
    ] {
        let error = ask(&lake, query).await.expect_err(query);
        assert!(matches!(error, Error::Query(_)), "{query}: {error:?}");
        assert!(!error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
    }
    assert_eq!(number(&lake, "select count(*) from observation").await, 1);
    assert_eq!(number(&lake, "select count(*) from lake.public.observation o").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let folder = tempfile::tempdir().expect("folder");
    let (lake, table, _) = with_tail(folder.path()).await;
    table.commit(puts(0, (0..20_000).map(|i| row(1, START + i, i as f64)).collect())).await.expect("commit");
    let all: Arc<dyn lake::Visible> = Arc::new(|_: &str| Access::All);
    let ask = async |query: &str, options: SqlOptions| {
        let mut answer = lake.sql(query, options, all.clone()).await?;
        let count: usize = answer.collect_all().await?.iter().map(RecordBatch::num_rows).sum();
        Ok::<_, Error>((count, answer.truncated()))
    };
    let defaults = SqlOptions::default();
    let query = "select * from observation";
    assert_eq!(ask(query, SqlOptions { max_rows: 15, ..defaults }).await.expect("cut"), (15, true));
    assert_eq!(ask(query, SqlOptions { max_rows: 20_000, ..defaults }).await.expect("whole"), (20_000, false));

    let endless = "with recursive t as (select 1 as n union all select n from t) select count(*) from t";
    let short = SqlOptions { timeout: Duration::from_millis(300), ..defaults };
    let stopped = ask(endless, short).await;
    assert!(matches!(stopped, Err(Error::Timeout { .. })), "{stopped:?}");
    let hungry = "select count(*) from (select value, array_agg(phenomenon_time) x from observation group by value)";
    let small = SqlOptions { memory_bytes: 64 << 10, ..defaults };
    let stopped = ask(hungry, small).await;
    assert!(matches!(stopped, Err(Error::Memory { .. })), "{stopped:?}");

    // Readers who leave give their place back: far more of them than places.
    for _ in 0..6 {
        drop(lake.sql(endless, defaults, all.clone()).await);
        assert_eq!(ask("select 1", defaults).await.expect("place"), (1, false));
    }
}
