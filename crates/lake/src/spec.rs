//! What a table looks like: columns, series, time, key, partition.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array},
    datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType},
    row::{RowConverter, Rows, SortField},
};

use crate::{Error, Rollup, rollup::Source};

/// The declaration of a table. Two columns carry its whole layout: `series` (who measured) and `time` (when).
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Folder and SQL name: `a-z`, `0-9`, `_`, at most 60, starting with a letter.
    pub name: String,
    /// Columns of type `Int64`, `Float64`, `Boolean`, `Utf8`, or `Timestamp(Microsecond, "UTC")`.
    /// A later declaration may add nullable columns at the end; nothing else may change.
    pub schema: SchemaRef,
    /// A non-null `Int64` column.
    pub series: &'static str,
    /// A non-null `Timestamp(Microsecond, "UTC")` column.
    pub time: &'static str,
    /// The columns that identify a row, `series` then `time` first. The table is sorted by them and is a set over them. Nulls are
    /// allowed after the first two: null equals null and sorts first.
    pub key: Vec<&'static str>,
    pub partition: Partition,
    /// What is summed up by the hour when files are compacted, so that [`crate::View::aggregate`] over years is quick.
    pub rollup: Option<Rollup>,
}

/// The Hive-style folders a table is cut into. Old data is dropped by whole partitions and compaction works within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    None,
    /// Column `month`, such as `2026-11`, of the UTC time. Present for other engines, hidden from our SQL.
    Month,
    /// Column `year`, such as `2026`.
    Year,
}

impl Partition {
    pub(crate) fn column(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Month => Some("month"),
            Self::Year => Some("year"),
        }
    }

    /// The partition of a time in microseconds: its value and the times that share it.
    pub(crate) fn of(self, micros: i64) -> (Option<String>, Range<i64>) {
        const DAY: i64 = 86_400_000_000;
        let (year, month) = civil(micros.div_euclid(DAY));
        let day = |year: i64, month: i64| days_from_civil(year, month).saturating_mul(DAY);
        match self {
            Self::None => (None, i64::MIN..i64::MAX),
            Self::Month => {
                let end = if month == 12 { day(year + 1, 1) } else { day(year, month + 1) };
                (Some(format!("{year:04}-{month:02}")), day(year, month)..end)
            }
            Self::Year => (Some(format!("{year:04}")), day(year, 1)..day(year + 1, 1)),
        }
    }
}

/// Year and month of a day number since 1970-01-01, proleptic Gregorian (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month)
}

/// The day number of the first day of a month: the inverse of [`civil`].
fn days_from_civil(year: i64, month: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A checked [`TableSpec`] with its columns found and its key comparable.
pub(crate) struct Layout {
    pub spec: TableSpec,
    pub schema: SchemaRef,
    /// Column numbers in `schema`.
    pub series: usize,
    pub time: usize,
    pub key: Vec<usize>,
    pub rollup: Option<Source>,
    key_rows: RowConverter,
    all_rows: RowConverter,
}

pub(crate) fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Layout {
    pub fn new(spec: TableSpec) -> Result<Self, Error> {
        let name = &spec.name;
        let named = (1..=60).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !named {
            return Err(Error::invalid(format!("'{name}' is not a table name: use a-z, 0-9 and _, at most 60")));
        }
        let schema = spec.schema.clone();
        let find = |column: &str| {
            schema.index_of(column).map_err(|_| Error::invalid(format!("table '{name}' has no column '{column}'")))
        };
        for field in schema.fields() {
            let known =
                matches!(field.data_type(), DataType::Int64 | DataType::Float64 | DataType::Boolean | DataType::Utf8)
                    || *field.data_type() == micros();
            if !known || Some(field.name().as_str()) == spec.partition.column() {
                return Err(Error::invalid(format!(
                    "table '{name}': column '{}' has a type or name that cannot be used",
                    field.name()
                )));
            }
        }
        let (series, time) = (find(spec.series)?, find(spec.time)?);
        let key = spec.key.iter().map(|column| find(column)).collect::<Result<Vec<_>, _>>()?;
        let right = key.starts_with(&[series, time])
            && *schema.field(series).data_type() == DataType::Int64
            && *schema.field(time).data_type() == micros()
            && !schema.field(series).is_nullable()
            && !schema.field(time).is_nullable();
        if !right {
            return Err(Error::invalid(format!(
                "table '{name}': the key must begin with a non-null Int64 series and a non-null UTC microsecond time"
            )));
        }
        let rollup = match spec.rollup {
            Some(Rollup { column, unless, summed }) => {
                let unless = match unless {
                    Some((column, refuses)) => Some((find(column)?, refuses)),
                    None => None,
                };
                let summed = match summed {
                    Some(summed) => {
                        let mut columns = [0; 6];
                        for (place, name) in columns.iter_mut().zip(summed.columns()) {
                            *place = find(name)?;
                        }
                        Some(columns)
                    }
                    None => None,
                };
                let source = Source { column: find(column)?, unless, summed };
                let fits = *schema.field(source.column).data_type() == DataType::Float64
                    && source.unless.is_none_or(|(text, _)| *schema.field(text).data_type() == DataType::Utf8)
                    && source.summed.is_none_or(|[count, rest @ ..]| {
                        *schema.field(count).data_type() == DataType::Int64
                            && rest.iter().all(|&i| *schema.field(i).data_type() == DataType::Float64)
                    });
                if !fits {
                    let detail = "a rollup sums up a Float64 column, a Utf8 column says what does not count, and of rows that stand for several \
                                  there are an Int64 and five Float64 columns";
                    return Err(Error::invalid(format!("table '{name}': {detail}")));
                }
                Some(source)
            }
            None => None,
        };
        let sort = |columns: &mut dyn Iterator<Item = usize>| {
            RowConverter::new(columns.map(|i| SortField::new(schema.field(i).data_type().clone())).collect())
        };
        let key_rows = sort(&mut key.iter().copied())?;
        let all_rows = sort(&mut (0..schema.fields().len()))?;
        Ok(Self { schema, series, time, key, rollup, key_rows, all_rows, spec })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The schema of the key columns alone, in key order: what `deletes` and `removed` are made of.
    pub fn key_schema(&self) -> SchemaRef {
        Arc::new(arrow::datatypes::Schema::new(
            self.key.iter().map(|&i| self.schema.field(i).clone()).collect::<Vec<_>>(),
        ))
    }

    /// Fails unless `batch` has exactly the table's columns (`keys`: exactly the key columns), by name and type.
    pub fn check(&self, batch: &RecordBatch, keys: bool) -> Result<(), Error> {
        let expected = if keys { self.key_schema() } else { self.schema.clone() };
        let same = batch.num_columns() == expected.fields().len()
            && batch
                .schema_ref()
                .fields()
                .iter()
                .zip(expected.fields())
                .all(|(have, want)| have.name() == want.name() && have.data_type() == want.data_type())
            && batch.columns().iter().zip(expected.fields()).all(|(c, f)| f.is_nullable() || c.null_count() == 0);
        if same {
            Ok(())
        } else {
            Err(Error::invalid(format!(
                "rows for table '{}' must have the columns {:?}",
                self.name(),
                expected.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>()
            )))
        }
    }

    /// Keys as bytes that compare as the table sorts. `batch` holds all columns, or only the key's when `keys`.
    pub fn key_rows(&self, batch: &RecordBatch, keys: bool) -> Result<Rows, Error> {
        let columns: Vec<ArrayRef> =
            if keys { batch.columns().to_vec() } else { self.key.iter().map(|&i| batch.column(i).clone()).collect() };
        Ok(self.key_rows.convert_columns(&columns)?)
    }

    /// Appends the keys of some rows of `batch` to `rows`, as [`Self::key_rows`] makes them.
    pub fn append_key_rows(&self, rows: &mut Rows, batch: &RecordBatch, keys: bool) -> Result<(), Error> {
        let columns: Vec<ArrayRef> =
            if keys { batch.columns().to_vec() } else { self.key.iter().map(|&i| batch.column(i).clone()).collect() };
        Ok(self.key_rows.append(rows, &columns)?)
    }
    pub fn no_key_rows(&self) -> Rows {
        self.key_rows.empty_rows(0, 0)
    }

    /// Whole rows as bytes, to ask whether two rows are the same.
    pub fn all_rows(&self, batch: &RecordBatch) -> Result<Rows, Error> {
        Ok(self.all_rows.convert_columns(batch.columns())?)
    }

    /// Columns in which no row of any batch has a value.
    pub fn vacant(&self, batches: &[RecordBatch]) -> Vec<bool> {
        let vacant = |i: usize| batches.iter().all(|b| b.column(i).null_count() == b.num_rows());
        self.schema.fields().iter().enumerate().map(|(i, field)| field.is_nullable() && vacant(i)).collect()
    }

    pub fn series_of<'a>(&self, batch: &'a RecordBatch) -> &'a [i64] {
        batch.column(self.series).as_primitive::<Int64Type>().values()
    }
    pub fn time_of<'a>(&self, batch: &'a RecordBatch) -> &'a [i64] {
        batch.column(self.time).as_primitive::<TimestampMicrosecondType>().values()
    }
}

/// A time column from microseconds.
pub fn times(values: impl IntoIterator<Item = Option<i64>>) -> TimestampMicrosecondArray {
    values.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC")
}

/// Gathers rows of one batch, in the given order.
pub(crate) fn take(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, Error> {
    Ok(arrow::compute::take_record_batch(batch, &UInt32Array::from(rows.to_vec()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partitions_agree_with_the_calendar(micros in kernel::Timestamp::MIN.as_micros()..=kernel::Timestamp::MAX.as_micros()) {
            let text = kernel::Timestamp::from_micros(micros).to_string();
            let (month, range) = Partition::Month.of(micros);
            prop_assert_eq!(month.as_deref(), Some(&text[..7]));
            prop_assert!(range.contains(&micros));
            prop_assert_ne!(Partition::Month.of(range.start - 1).0, month.clone());
            prop_assert_ne!(Partition::Month.of(range.end).0, month);
            let (year, range) = Partition::Year.of(micros);
            prop_assert_eq!(year.as_deref(), Some(&text[..4]));
            prop_assert!(range.contains(&micros) && Partition::Year.of(range.end - 1).0 == year);
        }
    }
}
