//! A file that is sent while it is written, as other people's engines read it.

use lake::ParquetRows;

use crate::common::{START, row, schema, sorted};

const READ: &str = r#"
import json, sys
import duckdb, pyarrow.parquet as pq

path = sys.argv[1]
file = pq.ParquetFile(path)
table = file.read()
order = list(zip(table["datastream"].to_pylist(), table["phenomenon_time"].to_pylist()))
print(json.dumps({
    "rows": table.num_rows,
    "groups": file.metadata.num_row_groups,
    "sum": sum(v for v in table["value"].to_pylist() if v is not None),
    "ordered": order == sorted(order),
    "about": file.metadata.metadata[b"lamppost.export"].decode(),
    "duck": duckdb.sql(f"select count(*), min(value), max(value) from '{path}' where datastream = 2").fetchall()[0],
}))
"#;

#[test]
fn pyarrow_and_duckdb_read_what_was_sent() {
    let folder = tempfile::tempdir().expect("folder");
    let about = vec![("lamppost.export".to_owned(), r#"{"unit": "m"}"#.to_owned())];
    let mut file = ParquetRows::start(schema(), about).expect("a file");
    let (mut bytes, mut most, mut sent_before_the_end) = (Vec::new(), 0, 0);
    for part in 0..60i64 {
        let rows =
            (0..5_000i64).map(|i| row(part / 20, START + (part * 5_000 + i) * 1_000_000, (i % 977) as f64)).collect();
        let ready = file.write(&sorted(rows)).expect("rows");
        most = most.max(ready.len());
        sent_before_the_end += ready.len();
        bytes.extend_from_slice(&ready);
    }
    bytes.extend_from_slice(&file.finish().expect("the end"));
    assert!(
        sent_before_the_end > bytes.len() / 2 && most < bytes.len() / 2,
        "{most} and {sent_before_the_end} of {}",
        bytes.len()
    );
    let path = folder.path().join("export.parquet");
    std::fs::write(&path, &bytes).expect("a file");
    let said = testkit::python::run(READ, &[path.to_str().expect("a path")]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let sum: f64 = (0..5_000).map(|i| f64::from(i % 977)).sum::<f64>() * 60.0;
    assert_eq!(said["rows"], 300_000);
    assert_eq!(said["groups"], 3);
    assert_eq!(said["sum"], sum);
    assert_eq!(said["ordered"], true);
    assert_eq!(said["about"], r#"{"unit": "m"}"#);
    assert_eq!(said["duck"], serde_json::json!([100_000, 0.0, 976.0]));
}

#[test]
fn a_file_without_rows_is_a_file() {
    let bytes = ParquetRows::start(schema(), Vec::new()).expect("a file").finish().expect("the end");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}
