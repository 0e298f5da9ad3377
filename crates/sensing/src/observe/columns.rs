//! Rows of observations as columns of the lake's table `observations`, and back.

use std::sync::Arc;

use kernel::{Interval, Timestamp};
use lake::{
    Partition, TableSpec,
    arrow::{
        array::{
            Array, ArrayRef, AsArray, Float64Builder, Int64Builder, RecordBatch, StringBuilder,
            TimestampMicrosecondBuilder,
        },
        datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    },
};
use serde_json::value::RawValue;

use super::{
    batch::Extra,
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
    }
}

fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
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
    ]))
}

fn key_schema() -> SchemaRef {
    let schema = schema();
    Arc::new(Schema::new((0..4).map(|i| schema.field(i).clone()).collect::<Vec<_>>()))
}

fn times() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

/// Collects rows into batches of a size that the lake likes.
#[derive(Default)]
pub struct Columns {
    datastream: Int64Builder,
    phenomenon_time: Vec<i64>,
    feature: Int64Builder,
    result_time: Vec<Option<i64>>,
    value: Float64Builder,
    extras: Vec<Option<Arc<Extra>>>,
}

impl Columns {
    pub fn len(&self) -> usize {
        self.phenomenon_time.len()
    }

    pub fn push(&mut self, datastream: i64, row: &Row) {
        self.datastream.append_value(datastream);
        self.phenomenon_time.push(row.key.at);
        self.feature.append_value(row.key.feature);
        self.result_time.push(row.key.result_time);
        let is_number = row.extra.as_ref().is_none_or(|e| e.result.is_none());
        self.value.append_option(is_number.then_some(row.value));
        self.extras.push(row.extra.clone());
    }

    pub fn finish(mut self) -> Result<RecordBatch, lake::arrow::error::ArrowError> {
        let (mut end, mut valid_start, mut valid_end) = (times(), times(), times());
        let mut texts = [StringBuilder::new(), StringBuilder::new(), StringBuilder::new()];
        for extra in &self.extras {
            let extra = extra.as_deref();
            end.append_option(extra.and_then(|e| e.end).map(Timestamp::as_micros));
            valid_start.append_option(extra.and_then(|e| e.valid).map(|v| v.start.as_micros()));
            valid_end.append_option(extra.and_then(|e| e.valid).map(|v| v.end.as_micros()));
            let parts = [extra.map(|e| &e.result), extra.map(|e| &e.quality), extra.map(|e| &e.parameters)];
            for (builder, part) in texts.iter_mut().zip(parts) {
                builder.append_option(part.and_then(Option::as_ref).map(|r| r.get()));
            }
        }
        let [mut result, mut quality, mut parameters] = texts;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.datastream.finish()),
            Arc::new(lake::times(self.phenomenon_time.into_iter().map(Some))),
            Arc::new(self.feature.finish()),
            Arc::new(lake::times(self.result_time)),
            Arc::new(self.value.finish()),
            Arc::new(end.finish()),
            Arc::new(result.finish()),
            Arc::new(quality.finish()),
            Arc::new(valid_start.finish()),
            Arc::new(valid_end.finish()),
            Arc::new(parameters.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
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
    let at = time(1);
    let feature = batch.column(2).as_primitive::<Int64Type>();
    let value = batch.column(4).as_primitive::<Float64Type>();
    let plain = (3..11).filter(|i| *i != 4).all(|i| batch.column(i).null_count() == batch.num_rows());
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
