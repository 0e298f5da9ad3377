//! Rows of observations as columns of the lake's table `observations`, and back.

use std::sync::{Arc, OnceLock};

use kernel::{Interval, Timestamp};
use lake::{
    Partition, TableSpec,
    arrow::{
        array::{
            Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int64Array, Int64Builder, RecordBatch,
            StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder, new_null_array,
        },
        datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    },
};
use serde_json::value::RawValue;

use super::{
    batch::{Extra, Summed},
    recent::{Key, Row},
};

/// The table `observations`: one row an Observation. `value` holds a numeric result, `result` the JSON text of any other.
pub fn spec() -> TableSpec {
    TableSpec {
        name: "observations".to_owned(),
        schema: schema(),
        series: "datastream",
        time: "phenomenon_time",
        key: vec!["datastream", "phenomenon_time", "feature", "result_time"],
        partition: Partition::Month,
        rollup: Some(super::aggregate::ROLLUP),
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema() -> SchemaRef {
    let time = time_type;
    Arc::new(Schema::new(vec![
        Field::new("datastream", DataType::Int64, false),
        Field::new("phenomenon_time", time(), false),
        Field::new("feature", DataType::Int64, false),
        Field::new("result_time", time(), true),
        Field::new("value", DataType::Float64, true),
        Field::new("phenomenon_end", time(), true),
        Field::new("result", DataType::Utf8, true),
        Field::new("quality", DataType::Utf8, true),
        Field::new("valid_start", time(), true),
        Field::new("valid_end", time(), true),
        Field::new("parameters", DataType::Utf8, true),
        // What a row stands for that sums up others; null in every row that was observed.
        Field::new(SUMMED.count, DataType::Int64, true),
        Field::new(SUMMED.min, DataType::Float64, true),
        Field::new(SUMMED.max, DataType::Float64, true),
        Field::new(SUMMED.sum, DataType::Float64, true),
        Field::new(SUMMED.first, DataType::Float64, true),
        Field::new(SUMMED.last, DataType::Float64, true),
    ]))
}

/// The columns of rows that stand for several.
pub const SUMMED: lake::Summed = lake::Summed {
    count: "summed_count",
    min: "summed_min",
    max: "summed_max",
    sum: "summed_sum",
    first: "summed_first",
    last: "summed_last",
};
/// Where they begin, and where they end.
const SUMS: usize = 11;
const COLUMNS: usize = 17;

fn key_schema() -> SchemaRef {
    let schema = schema();
    Arc::new(Schema::new((0..4).map(|i| schema.field(i).clone()).collect::<Vec<_>>()))
}

fn times() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

/// Collects rows into batches of a size that the lake likes. What most rows have is five vectors; the rest hangs off the few rows that have it,
/// and a column in which no row has anything is one array of nulls that all batches share.
#[derive(Default)]
pub struct Columns {
    datastream: Vec<i64>,
    phenomenon_time: Vec<i64>,
    feature: Vec<i64>,
    value: Vec<f64>,
    /// Rows with more than a number at an instant, ascending.
    extras: Vec<(usize, Option<i64>, Arc<Extra>)>,
}

impl Columns {
    pub fn len(&self) -> usize {
        self.phenomenon_time.len()
    }

    pub fn push(&mut self, datastream: i64, row: &Row) {
        if row.extra.is_some() || row.key.result_time.is_some() {
            self.extras.push((self.len(), row.key.result_time, row.extra.clone().unwrap_or_default()));
        }
        self.push_plain(datastream, row.key.feature, &[row.key.at], &[row.value]);
    }

    /// Numbers at instants.
    pub fn push_plain(&mut self, datastream: i64, feature: i64, times: &[i64], values: &[f64]) {
        let rows = self.len() + times.len();
        self.datastream.resize(rows, datastream);
        self.feature.resize(rows, feature);
        self.phenomenon_time.extend_from_slice(times);
        self.value.extend_from_slice(values);
    }

    pub fn finish(self) -> Result<RecordBatch, lake::arrow::error::ArrowError> {
        let rows = self.len();
        let time = |values| -> ArrayRef { Arc::new(TimestampMicrosecondArray::new(values, None).with_timezone("UTC")) };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(self.datastream)),
            time(self.phenomenon_time.into()),
            Arc::new(Int64Array::from(self.feature)),
            nulls(&NO_TIME, time_type(), rows),
            Arc::new(Float64Array::from(self.value)),
        ];
        if self.extras.is_empty() {
            columns.extend([5, 6, 7, 8, 9, 10].map(|column| match column {
                6 | 7 | 10 => nulls(&NO_TEXT, DataType::Utf8, rows),
                _ => nulls(&NO_TIME, time_type(), rows),
            }));
            columns.extend(no_sums(rows));
            return RecordBatch::try_new(schema(), columns);
        }
        let mut extras = self.extras.iter().peekable();
        let each: Vec<_> = (0..rows).map(|row| extras.next_if(|e| e.0 == row).map(|(_, at, e)| (at, &**e))).collect();
        let column = |of: &dyn Fn(&Extra) -> Option<Timestamp>| -> ArrayRef {
            let mut column = times();
            each.iter().for_each(|e| column.append_option(e.and_then(|(_, e)| of(e)).map(Timestamp::as_micros)));
            Arc::new(column.finish())
        };
        let text = |of: &dyn Fn(&Extra) -> &Option<Arc<RawValue>>| -> ArrayRef {
            let mut column = StringBuilder::new();
            each.iter().for_each(|e| column.append_option(e.and_then(|(_, e)| of(e).as_ref()).map(|raw| raw.get())));
            Arc::new(column.finish())
        };
        columns[3] = Arc::new(lake::times(each.iter().map(|e| e.and_then(|(at, _)| *at))));
        let mut value = Float64Builder::with_capacity(rows);
        for (number, extra) in columns[4].as_primitive::<Float64Type>().values().iter().zip(&each) {
            let is_number = extra.is_none_or(|(_, e)| e.result.is_none());
            value.append_option(is_number.then_some(*number));
        }
        columns[4] = Arc::new(value.finish());
        columns.extend([
            column(&|e| e.end),
            text(&|e| &e.result),
            text(&|e| &e.quality),
            column(&|e| e.valid.map(|v| v.start)),
            column(&|e| e.valid.map(|v| v.end)),
            text(&|e| &e.parameters),
        ]);
        let sums: Vec<_> = each.iter().map(|e| e.and_then(|(_, e)| e.summed)).collect();
        if sums.iter().all(Option::is_none) {
            columns.extend(no_sums(rows));
            return RecordBatch::try_new(schema(), columns);
        }
        let counts = sums.iter().map(|s| s.map(|s| i64::try_from(s.count).unwrap_or(i64::MAX)));
        columns.push(Arc::new(counts.collect::<Int64Array>()));
        let parts: [fn(Summed) -> f64; 5] = [|s| s.min, |s| s.max, |s| s.sum, |s| s.first, |s| s.last];
        for part in parts {
            // Numbers that mean nothing are not there.
            let part = sums.iter().map(|s| s.filter(|s| s.count > 0).map(part));
            columns.push(Arc::new(part.collect::<Float64Array>()));
        }
        RecordBatch::try_new(schema(), columns)
    }
}

static NO_TIME: OnceLock<ArrayRef> = OnceLock::new();
static NO_TEXT: OnceLock<ArrayRef> = OnceLock::new();
static NO_COUNT: OnceLock<ArrayRef> = OnceLock::new();
static NO_NUMBER: OnceLock<ArrayRef> = OnceLock::new();

fn no_sums(rows: usize) -> impl Iterator<Item = ArrayRef> {
    let numbers = std::iter::repeat_with(move || nulls(&NO_NUMBER, DataType::Float64, rows)).take(5);
    std::iter::once(nulls(&NO_COUNT, DataType::Int64, rows)).chain(numbers)
}

/// A column of nulls, out of the one that all share.
fn nulls(shared: &OnceLock<ArrayRef>, kind: DataType, rows: usize) -> ArrayRef {
    let all = shared.get_or_init(|| new_null_array(&kind, super::seal::BATCH_ROWS));
    if rows <= all.len() { all.slice(0, rows) } else { new_null_array(&kind, rows) }
}

/// Keys as the lake wants them for deletes.
pub fn keys(keys: &[(i64, Key)]) -> Result<RecordBatch, lake::arrow::error::ArrowError> {
    let mut datastream = Int64Builder::new();
    let mut feature = Int64Builder::new();
    for (id, key) in keys {
        datastream.append_value(*id);
        feature.append_value(key.feature);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(datastream.finish()),
        Arc::new(lake::times(keys.iter().map(|(_, k)| Some(k.at)))),
        Arc::new(feature.finish()),
        Arc::new(lake::times(keys.iter().map(|(_, k)| k.result_time))),
    ];
    RecordBatch::try_new(key_schema(), columns)
}

/// The Datastream of each row.
pub fn ids(batch: &RecordBatch) -> &[i64] {
    batch.column(0).as_primitive::<Int64Type>().values()
}

/// Reads rows out of a batch with all columns.
pub fn rows(batch: &RecordBatch) -> Vec<Row> {
    let time = |i: usize| batch.column(i).as_primitive::<TimestampMicrosecondType>();
    let optional = |i: usize, row: usize| (!batch.column(i).is_null(row)).then(|| time(i).value(row));
    let text = |i: usize, row: usize| -> Option<Arc<RawValue>> {
        let column = batch.column(i).as_string::<i32>();
        if column.is_null(row) {
            return None;
        }
        // Only JSON was ever written here; a foreign writer's text that is none reads as a JSON string.
        let raw = RawValue::from_string(column.value(row).to_owned());
        raw.or_else(|_| serde_json::value::to_raw_value(column.value(row))).ok().map(Into::into)
    };
    let counts = batch.column(SUMS).as_primitive::<Int64Type>();
    let summed = |row: usize| {
        let part = |i: usize| batch.column(SUMS + i).as_primitive::<Float64Type>();
        let number = |i: usize| if part(i).is_null(row) { f64::NAN } else { part(i).value(row) };
        (!counts.is_null(row)).then(|| Summed {
            count: u64::try_from(counts.value(row)).unwrap_or(0),
            min: number(1),
            max: number(2),
            sum: number(3),
            first: number(4),
            last: number(5),
        })
    };
    let at = time(1);
    let feature = batch.column(2).as_primitive::<Int64Type>();
    let value = batch.column(4).as_primitive::<Float64Type>();
    let plain = (3..COLUMNS).filter(|i| *i != 4).all(|i| batch.column(i).null_count() == batch.num_rows());
    (0..batch.num_rows())
        .map(|row| {
            let key = Key { at: at.value(row), feature: feature.value(row), result_time: None };
            let number = if value.is_null(row) { f64::NAN } else { value.value(row) };
            if plain && !value.is_null(row) {
                return Row { key, value: number, extra: None };
            }
            let result_time = optional(3, row);
            let micros = |t: Option<i64>| t.map(Timestamp::from_micros);
            let extra = Extra {
                result_time: micros(result_time),
                end: micros(optional(5, row)),
                result: text(6, row).or_else(|| value.is_null(row).then(|| RawValue::NULL.to_owned().into())),
                quality: text(7, row),
                valid: micros(optional(8, row))
                    .zip(micros(optional(9, row)))
                    .map(|(start, end)| Interval { start, end }),
                parameters: text(10, row),
                summed: summed(row),
            };
            Row { key: Key { result_time, ..key }, value: number, extra: (!extra.is_empty()).then(|| Arc::new(extra)) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::EntityId,
        observe::{batch::Batch, frame::tests::an_observation, recent::Generation},
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_survive_the_lake(observations in proptest::collection::vec(an_observation(), 1..60)) {
            let generation = Generation::default();
            let mut batch = Batch::new();
            observations.into_iter().for_each(|mut o| { o.datastream = EntityId(1); batch.push(o) });
            batch.runs().iter().for_each(|run| generation.put(run, |_, _| ()));
            let before = generation.with(EntityId(1), |s| s.rows(None, None, false, usize::MAX)).expect("rows");
            let mut columns = Columns::default();
            before.iter().for_each(|row| columns.push(1, row));
            let after = super::rows(&columns.finish().expect("columns"));
            let show = |rows: &[Row]| rows.iter().map(|r| r.observation(EntityId(1))).collect::<Vec<_>>();
            prop_assert_eq!(show(&after), show(&before));
        }
    }
}
