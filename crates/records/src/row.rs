//! One row of an answer, whichever engine gave it.

use postgres::types::{FromSql, Type};

use crate::{Error, FromValue, ValueRef};

/// One row. Columns are numbered from 0, as they stand after SELECT or RETURNING.
pub struct Row<'a>(Inner<'a>);

enum Inner<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a postgres::Row),
}

impl<'a> Row<'a> {
    pub(crate) fn sqlite(row: &'a rusqlite::Row<'a>) -> Self {
        Self(Inner::Sqlite(row))
    }
    pub(crate) fn postgres(row: &'a postgres::Row) -> Self {
        Self(Inner::Postgres(row))
    }

    /// The value of a column. [`Error::Statement`] when the column is missing or of another type: the statement and the
    /// code that reads it are one thing, written together.
    pub fn get<T: FromValue>(&self, index: usize) -> Result<T, Error> {
        T::from_value(self.value(index)?).map_err(|reason| Error::Statement(format!("column {index}: {reason}")))
    }

    /// The value as it lies in the row, without a copy.
    pub fn value(&self, index: usize) -> Result<ValueRef<'_>, Error> {
        match self.0 {
            Inner::Sqlite(row) => {
                use rusqlite::types::ValueRef as Raw;
                let raw = row.get_ref(index).map_err(|error| Error::Statement(format!("column {index}: {error}")))?;
                Ok(match raw {
                    Raw::Null => ValueRef::Null,
                    Raw::Integer(value) => ValueRef::Integer(value),
                    Raw::Real(value) => ValueRef::Real(value),
                    Raw::Text(bytes) => ValueRef::Text(
                        std::str::from_utf8(bytes)
                            .map_err(|error| Error::Statement(format!("column {index}: {error}")))?,
                    ),
                    Raw::Blob(bytes) => ValueRef::Bytes(bytes),
                })
            }
            Inner::Postgres(row) => {
                if index >= row.len() {
                    return Err(Error::Statement(format!("column {index}: the row has {} columns", row.len())));
                }
                row.try_get::<_, Portable<'_>>(index).map(|value| value.0).map_err(|error| {
                    let kind = row.columns()[index].type_();
                    let hint = "cast it, as in CAST(SUM(x) AS BIGINT)";
                    Error::Statement(format!("column {index} of type {kind} is not portable, {hint}: {error}"))
                })
            }
        }
    }
}

struct Portable<'a>(ValueRef<'a>);

impl<'a> FromSql<'a> for Portable<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let value = match *ty {
            Type::INT8 => ValueRef::Integer(i64::from_sql(ty, raw)?),
            Type::INT4 => ValueRef::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT2 => ValueRef::Integer(i16::from_sql(ty, raw)?.into()),
            Type::BOOL => ValueRef::Integer(bool::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => ValueRef::Real(f64::from_sql(ty, raw)?),
            Type::FLOAT4 => ValueRef::Real(f32::from_sql(ty, raw)?.into()),
            Type::BYTEA => ValueRef::Bytes(raw),
            _ => ValueRef::Text(<&str>::from_sql(ty, raw)?),
        };
        Ok(Self(value))
    }
    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(ValueRef::Null))
    }
    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::INT2 | Type::BOOL | Type::FLOAT8 | Type::FLOAT4 | Type::BYTEA)
            || <&str>::accepts(ty)
    }
}
