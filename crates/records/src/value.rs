//! Values on their way into and out of statements: five kinds that both engines store alike.

use std::borrow::Cow;

use kernel::{Id, Kind as IdKind, Tenant, Timestamp};

use crate::Error;

/// The portable column types: BIGINT, DOUBLE PRECISION, TEXT, BYTES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    Integer,
    Real,
    Text,
    Bytes,
}

/// A parameter. NULL carries its kind too, because PostgreSQL must know the type of every parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Param<'a> {
    Null(ColumnKind),
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Param<'_> {
    pub(crate) fn kind(&self) -> ColumnKind {
        match self {
            Self::Null(kind) => *kind,
            Self::Integer(_) => ColumnKind::Integer,
            Self::Real(_) => ColumnKind::Real,
            Self::Text(_) => ColumnKind::Text,
            Self::Bytes(_) => ColumnKind::Bytes,
        }
    }

    /// Refuses what only one engine would keep: SQLite stores NaN as NULL, PostgreSQL has no NUL in text.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let size = match self {
            Self::Real(x) if x.is_nan() => return Err(Error::Invalid("NaN cannot be stored; use NULL".to_owned())),
            Self::Text(text) if text.as_bytes().contains(&0) => {
                return Err(Error::Invalid("text with a NUL character cannot be stored".to_owned()));
            }
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        if size > crate::MAX_VALUE_BYTES {
            let most = crate::MAX_VALUE_BYTES;
            return Err(Error::Invalid(format!("a value of {size} bytes is too large; at most {most} can be stored")));
        }
        Ok(())
    }
}

/// What can be given to a statement with [`crate::params!`].
pub trait ToParam {
    const KIND: ColumnKind;
    fn to_param(&self) -> Param<'_>;
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl ToParam for $integer {
            const KIND: ColumnKind = ColumnKind::Integer;
            fn to_param(&self) -> Param<'_> {
                Param::Integer(i64::from(*self))
            }
        }
    )*};
}
integers!(i8 i16 i32 i64 u8 u16 u32 bool);

macro_rules! to_param {
    ($($type:ty, $kind:ident, |$value:ident| $param:expr;)*) => {$(
        impl ToParam for $type {
            const KIND: ColumnKind = ColumnKind::$kind;
            fn to_param(&self) -> Param<'_> {
                let $value = self;
                Param::$kind($param)
            }
        }
    )*};
}
to_param! {
    f64, Real, |v| *v;
    Timestamp, Integer, |v| v.as_micros();
    str, Text, |v| Cow::Borrowed(v);
    String, Text, |v| Cow::Borrowed(v);
    Cow<'_, str>, Text, |v| Cow::Borrowed(v);
    Tenant, Text, |v| Cow::Borrowed(v.as_str());
    serde_json::Value, Text, |v| Cow::Owned(v.to_string());
    [u8], Bytes, |v| Cow::Borrowed(v);
    Vec<u8>, Bytes, |v| Cow::Borrowed(v);
}

impl<const N: usize> ToParam for [u8; N] {
    const KIND: ColumnKind = ColumnKind::Bytes;
    fn to_param(&self) -> Param<'_> {
        Param::Bytes(Cow::Borrowed(self))
    }
}
impl<K> ToParam for Id<K> {
    const KIND: ColumnKind = ColumnKind::Text;
    fn to_param(&self) -> Param<'_> {
        Param::Text(Cow::Owned(self.to_string()))
    }
}
impl<T: ToParam + ?Sized> ToParam for &T {
    const KIND: ColumnKind = T::KIND;
    fn to_param(&self) -> Param<'_> {
        T::to_param(self)
    }
}
impl<T: ToParam> ToParam for Option<T> {
    const KIND: ColumnKind = T::KIND;
    fn to_param(&self) -> Param<'_> {
        self.as_ref().map_or(Param::Null(T::KIND), T::to_param)
    }
}
impl ToParam for Param<'_> {
    // Never read: a `Param` knows its own kind, and `Option<Param>` makes no sense.
    const KIND: ColumnKind = ColumnKind::Text;
    fn to_param(&self) -> Param<'_> {
        match self {
            Param::Null(kind) => Param::Null(*kind),
            Param::Integer(v) => Param::Integer(*v),
            Param::Real(v) => Param::Real(*v),
            Param::Text(v) => Param::Text(Cow::Borrowed(v)),
            Param::Bytes(v) => Param::Bytes(Cow::Borrowed(v)),
        }
    }
}

/// The values of `$1`, `$2`, … in order.
///
/// ```
/// # use records::{params, Param};
/// let name = "Nathan Road";
/// let values: &[Param<'_>] = params![name, 7_i64, None::<f64>];
/// assert_eq!(values.len(), 3);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::ToParam::to_param(&$value)),*] as &[$crate::Param<'_>]
    };
}

/// A value as it lies in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl ValueRef<'_> {
    fn shape(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) => "BIGINT",
            Self::Real(_) => "DOUBLE PRECISION",
            Self::Text(_) => "TEXT",
            Self::Bytes(_) => "BYTES",
        }
    }
}

/// What can be taken out of a row with [`crate::Row::get`].
pub trait FromValue: Sized {
    /// `Err` says what was expected.
    fn from_value(value: ValueRef<'_>) -> Result<Self, String>;
}

fn unexpected<T>(value: ValueRef<'_>, expected: &str) -> Result<T, String> {
    Err(format!("expected {expected}, found {}", value.shape()))
}

impl FromValue for i64 {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Integer(v) => Ok(v),
            other => unexpected(other, "BIGINT"),
        }
    }
}
macro_rules! narrow {
    ($($integer:ty)*) => {$(
        impl FromValue for $integer {
            fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
                let wide = i64::from_value(value)?;
                Self::try_from(wide).map_err(|_| format!("{wide} does not fit into {}", stringify!($integer)))
            }
        }
    )*};
}
narrow!(i32 u8 u16 u32 u64 usize);

impl FromValue for bool {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Integer(v) => Ok(v != 0),
            other => unexpected(other, "BIGINT (0 or 1)"),
        }
    }
}
impl FromValue for f64 {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Real(v) => Ok(v),
            other => unexpected(other, "DOUBLE PRECISION"),
        }
    }
}
impl FromValue for String {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Text(v) => Ok(v.to_owned()),
            other => unexpected(other, "TEXT"),
        }
    }
}
impl FromValue for Vec<u8> {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Bytes(v) => Ok(v.to_vec()),
            other => unexpected(other, "BYTES"),
        }
    }
}
impl FromValue for Timestamp {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        i64::from_value(value).map(Self::from_micros)
    }
}
impl<K: IdKind> FromValue for Id<K> {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Text(v) => v.parse(),
            other => unexpected(other, "TEXT (a UUID)"),
        }
    }
}
impl FromValue for Tenant {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Text(v) => Self::parse(v),
            other => unexpected(other, "TEXT (a tenant)"),
        }
    }
}
impl FromValue for serde_json::Value {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Text(v) => serde_json::from_str(v).map_err(|error| format!("expected JSON: {error}")),
            other => unexpected(other, "TEXT (JSON)"),
        }
    }
}
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: ValueRef<'_>) -> Result<Self, String> {
        if value == ValueRef::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}
