//! Other people's engines read the same rows from the same folder.

use lake::{Commit, Compaction};

use crate::common::*;

const SCRIPT: &str = r#"
import sys, json
import deltalake, duckdb, pyarrow as pa
path, series = sys.argv[1], int(sys.argv[2])

def shown(table):
    rows = table.select(["datastream", "phenomenon_time", "feature", "result_time", "value", "quality"]).to_pydict()
    micros = lambda t: None if t is None else round(t.timestamp() * 1_000_000)
    rows = zip(rows["datastream"], map(micros, rows["phenomenon_time"]), rows["feature"], map(micros, rows["result_time"]), rows["value"], rows["quality"])
    key = lambda r: [(x is not None, x) for x in r[:4]]
    return [list(r) for r in sorted(rows, key=key)]

table = deltalake.DeltaTable(path)
arrow = pa.table(table.to_pyarrow_table() if hasattr(table, "to_pyarrow_table") else table.to_arrow())
some = deltalake.DeltaTable(path).to_pyarrow_table(filters=[("datastream", "=", series), ("month", "=", "2026-02")])
print(json.dumps({
    "all": shown(arrow),
    "some": shown(some),
    "months": sorted(set(arrow["month"].to_pylist())),
    "duck": duckdb.sql("select count(*), sum(value) from arrow").fetchall()[0],
    "version": table.version(),
    "offset": table.transaction_version("lamppost"),
}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn delta_rs_arrow_and_duckdb_read_the_same_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let table = table(&open(folder.path())).await;
    for n in 0..6u64 {
        let rows = (0..300i64).map(|i| Row {
            key: (
                i % 5,
                START + i * DAY / 10 + n as i64,
                (i % 3 == 0).then_some(i % 2),
                (i % 4 == 0).then_some(START + i),
            ),
            value: (i % 7 != 0).then_some(i as f64 / 10.0),
            quality: (i % 11 == 0).then(|| "odd".to_owned()),
        });
        table.commit(puts(n, rows.collect())).await.expect("commit");
    }
    table.compact(Compaction { min_files: 3, ..Compaction::default() }).await.expect("compact");
    let change = Commit {
        deletes: Some(keys(vec![(0, START, Some(0), Some(START))])),
        ..puts(6, vec![row(1, START + DAY / 10, -1.0), row(9, START + 10 * DAY, 9.0)])
    };
    let changes = table.commit(change).await.expect("change");
    assert_eq!((changes.deleted(), changes.replaced(), changes.inserted()), (1, 1, 1));

    let path = folder.path().join("observation");
    let told = testkit::python::run(SCRIPT, &[&path.to_string_lossy(), "1"]);
    let told: serde_json::Value = serde_json::from_str(told.trim()).expect("JSON");
    let mine = everything(&table.view()).await;
    let shown = |rows: &[&Row]| -> serde_json::Value {
        let list = |r: &&Row| serde_json::json!([r.key.0, r.key.1, r.key.2, r.key.3, r.value, r.quality]);
        rows.iter().map(list).collect()
    };
    assert_eq!(told["all"], shown(&mine.iter().collect::<Vec<_>>()));
    let february = START + 7 * DAY..START + 35 * DAY;
    let some: Vec<&Row> = mine.iter().filter(|r| r.key.0 == 1 && february.contains(&r.key.1)).collect();
    assert!(!some.is_empty());
    assert_eq!(told["some"], shown(&some));
    assert_eq!(told["months"], serde_json::json!(["2026-01", "2026-02"]));
    assert_eq!(told["duck"][0], mine.len());
    assert_eq!(told["version"], table.stats().version);
    assert_eq!(told["offset"], 6);
}
