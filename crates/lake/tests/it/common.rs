//! The table that `sensing` uses, and rows of it that tests can compare.

use std::{path::Path, sync::Arc};

use kernel::Timestamp;
use lake::{
    Commit, Lake, Options, Order, Partition, Root, SeriesQuery, Table, TableSpec, View,
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    },
    times,
};

pub const DAY: i64 = 86_400_000_000;
/// 2026-01-25T00:00:00Z: a week before a month ends, so that small offsets cross into the next partition.
pub const START: i64 = 1_769_299_200_000_000;

pub type Key = (i64, i64, Option<i64>, Option<i64>);

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: Key,
    pub value: Option<f64>,
    pub quality: Option<String>,
}

pub fn row(series: i64, time: i64, value: f64) -> Row {
    Row { key: (series, time, None, None), value: Some(value), quality: None }
}

pub fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("datastream", DataType::Int64, false),
        Field::new("phenomenon_time", time(), false),
        Field::new("phenomenon_end", time(), true),
        Field::new("result_time", time(), true),
        Field::new("value", DataType::Float64, true),
        Field::new("result", DataType::Utf8, true),
        Field::new("feature", DataType::Int64, true),
        Field::new("quality", DataType::Utf8, true),
        Field::new("valid_start", time(), true),
        Field::new("valid_end", time(), true),
        Field::new("parameters", DataType::Utf8, true),
    ]))
}

pub fn spec() -> TableSpec {
    TableSpec {
        name: "observation".to_owned(),
        schema: schema(),
        series: "datastream",
        time: "phenomenon_time",
        key: vec!["datastream", "phenomenon_time", "feature", "result_time"],
        partition: Partition::Month,
        rollup: None,
    }
}

/// Rows as a batch, in the order given.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let none = || Arc::new(times(rows.iter().map(|_| None))) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec![None::<&str>; rows.len()])) as ArrayRef;
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.key.0))),
            Arc::new(times(rows.iter().map(|r| Some(r.key.1)))),
            none(),
            Arc::new(times(rows.iter().map(|r| r.key.3))),
            Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.value))),
            text(),
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.key.2))),
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.quality.as_deref()))),
            none(),
            none(),
            text(),
        ],
    )
    .expect("columns fit")
}

/// Rows sorted by key, as a commit wants them.
pub fn sorted(mut rows: Vec<Row>) -> RecordBatch {
    rows.sort_by_key(|r| r.key);
    batch(&rows)
}

pub fn keys(mut keys: Vec<Key>) -> RecordBatch {
    keys.sort();
    let all = schema();
    let fields: Vec<Field> = [0, 1, 6, 3].map(|i: usize| all.field(i).clone()).into();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        vec![
            Arc::new(Int64Array::from_iter_values(keys.iter().map(|k| k.0))),
            Arc::new(times(keys.iter().map(|k| Some(k.1)))),
            Arc::new(Int64Array::from_iter(keys.iter().map(|k| k.2))),
            Arc::new(times(keys.iter().map(|k| k.3))),
        ],
    )
    .expect("columns fit")
}

pub fn rows(batch: &RecordBatch) -> Vec<Row> {
    let column = |name: &str| batch.column_by_name(name).expect("column").clone();
    let long = |name: &str| column(name).as_primitive::<Int64Type>().clone();
    let micros = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().clone();
    let (ds, feature) = (long("datastream"), long("feature"));
    let (at, result) = (micros("phenomenon_time"), micros("result_time"));
    let value = column("value").as_primitive::<Float64Type>().clone();
    let quality = lake::arrow::compute::cast(&column("quality"), &DataType::Utf8).expect("text");
    let quality = quality.as_string::<i32>();
    (0..batch.num_rows())
        .map(|i| Row {
            key: (
                ds.value(i),
                at.value(i),
                feature.is_valid(i).then(|| feature.value(i)),
                result.is_valid(i).then(|| result.value(i)),
            ),
            value: value.is_valid(i).then(|| value.value(i)),
            quality: quality.is_valid(i).then(|| quality.value(i).to_owned()),
        })
        .collect()
}

pub fn open(folder: &Path) -> Lake {
    Lake::open(Options::new(Root::Local(folder.to_path_buf()))).expect("a lake")
}

pub async fn table(lake: &Lake) -> Table {
    lake.table(spec(), None).await.expect("a table")
}

pub fn puts(through: u64, rows: Vec<Row>) -> Commit {
    Commit { through, puts: vec![sorted(rows)], ..Commit::default() }
}

pub fn query(series: i64) -> SeriesQuery<'static> {
    SeriesQuery {
        series,
        from: Timestamp::MIN,
        to: Timestamp::MAX,
        order: Order::Ascending,
        limit: usize::MAX >> 8,
        columns: None,
    }
}

pub async fn series(view: &View, series: i64) -> Vec<Row> {
    rows(&view.series(&query(series)).await.expect("a series"))
}

/// Every sealed row, by key.
pub async fn everything(view: &View) -> Vec<Row> {
    let mut all = Vec::new();
    for summary in view.summaries().await.expect("summaries") {
        all.extend(series(view, summary.series).await);
    }
    all
}
