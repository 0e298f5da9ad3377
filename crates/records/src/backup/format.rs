//! The file of a backup: frames of postcard, each with its length and CRC-32 before it, ended by a frame that counts.
//!
//! ```text
//! file  = "LAMPREC1" frame*            frame = length: u32 LE, crc32: u32 LE, postcard(Frame)
//! ```

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::{Error, Param, ValueRef};

const MAGIC: &[u8; 8] = b"LAMPREC1";
/// A frame holds a part of a table of about [`FRAME_TARGET`] bytes, or one row, which may be as large as its values.
const MAX_FRAME: usize = 256 << 20;
pub(super) const FRAME_TARGET: usize = 1 << 20;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// First: the engine it came from, for people; and when.
    Header {
        engine: String,
        at: i64,
    },
    /// A migration in the order in which it was applied, with its portable text.
    Migration {
        room: String,
        version: u32,
        name: String,
        sql: String,
    },
    /// The rows that follow belong to this table.
    Table {
        name: String,
        columns: Vec<String>,
    },
    Rows(Vec<Vec<Value>>),
    /// Last. A file without it was cut off.
    End {
        tables: u64,
        rows: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(v) => Self::Integer(v),
            ValueRef::Real(v) => Self::Real(v),
            ValueRef::Text(v) => Self::Text(v.to_owned()),
            ValueRef::Bytes(v) => Self::Bytes(v.to_vec()),
        }
    }
}

impl Value {
    pub fn param(&self, kind: crate::ColumnKind) -> Param<'_> {
        match self {
            Self::Null => Param::Null(kind),
            Self::Integer(v) => Param::Integer(*v),
            Self::Real(v) => Param::Real(*v),
            Self::Text(v) => Param::Text(v.into()),
            Self::Bytes(v) => Param::Bytes(v.into()),
        }
    }

    pub fn size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Integer(_) | Self::Real(_) => 9,
            Self::Text(v) => v.len() + 5,
            Self::Bytes(v) => v.len() + 5,
        }
    }
}

pub(super) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W) -> Result<Self, Error> {
        out.write_all(MAGIC).map_err(written)?;
        Ok(Self { out })
    }

    pub fn frame(&mut self, frame: &Frame) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(frame).map_err(|error| Error::Backup(error.to_string()))?;
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MAX_FRAME);
        let length = length.ok_or_else(|| Error::Backup(format!("a row of {} bytes is too large", bytes.len())))?;
        self.out.write_all(&length.to_le_bytes()).map_err(written)?;
        self.out.write_all(&crc32fast::hash(&bytes).to_le_bytes()).map_err(written)?;
        self.out.write_all(&bytes).map_err(written)
    }

    pub fn into_inner(self) -> W {
        self.out
    }
}

fn written(error: std::io::Error) -> Error {
    Error::Backup(format!("cannot be written: {error}"))
}

pub(super) struct Reader<R> {
    input: R,
}

impl<R: Read> Reader<R> {
    pub fn new(mut input: R) -> Result<Self, Error> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(damaged)?;
        if magic != *MAGIC {
            return Err(Error::Backup("this file is not a backup of records".to_owned()));
        }
        Ok(Self { input })
    }

    pub fn frame(&mut self) -> Result<Frame, Error> {
        let mut head = [0; 8];
        self.input.read_exact(&mut head).map_err(damaged)?;
        let [a, b, c, d, e, f, g, h] = head;
        let (length, crc) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
        if length > MAX_FRAME {
            return Err(Error::Backup(format!("the file is damaged: a frame of {length} bytes")));
        }
        // Grows with what is really there, so a damaged length cannot make us allocate it.
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length as u64).read_to_end(&mut bytes).map_err(damaged)?;
        if read < length {
            return Err(Error::Backup("the file is cut off".to_owned()));
        }
        if crc32fast::hash(&bytes) != crc {
            return Err(Error::Backup("the file is damaged: a checksum does not fit".to_owned()));
        }
        postcard::from_bytes(&bytes).map_err(|error| Error::Backup(format!("the file is damaged: {error}")))
    }
}

fn damaged(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        Error::Backup("the file is cut off".to_owned())
    } else {
        Error::Backup(format!("cannot be read: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is not stored", |x| !x.is_nan()).prop_map(Value::Real),
            any::<String>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back(rows in proptest::collection::vec(proptest::collection::vec(value(), 0..5), 0..9)) {
            let mut writer = Writer::new(Vec::new()).unwrap();
            writer.frame(&Frame::Rows(rows.clone())).unwrap();
            writer.frame(&Frame::End { tables: 1, rows: 2 }).unwrap();
            let bytes = writer.into_inner();
            let mut reader = Reader::new(&bytes[..]).unwrap();
            prop_assert_eq!(reader.frame().unwrap(), Frame::Rows(rows));
            prop_assert_eq!(reader.frame().unwrap(), Frame::End { tables: 1, rows: 2 });
            prop_assert!(reader.frame().is_err());
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>, length in 0_u32..64) {
            let crc = crc32fast::hash(&bytes);
            // As they are, and dressed up so that the checksum lets them through to the decoder.
            let dressed = [&MAGIC[..], &(bytes.len() as u32).to_le_bytes(), &crc.to_le_bytes(), &bytes].concat();
            let hostile = [&MAGIC[..], &length.to_le_bytes(), &bytes].concat();
            for file in [bytes, dressed, hostile] {
                if let Ok(mut reader) = Reader::new(&file[..]) {
                    while reader.frame().is_ok() {}
                }
            }
        }

        #[test]
        fn one_changed_bit_is_noticed(at in 8_usize..60, bit in 0_u32..8) {
            let mut writer = Writer::new(Vec::new()).unwrap();
            let frame = Frame::Table { name: "a_table_with_a_long_name".into(), columns: vec!["first".into(), "second".into()] };
            writer.frame(&frame).unwrap();
            let mut bytes = writer.into_inner();
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Reader::new(&bytes[..]).unwrap().frame().is_err());
        }
    }
}
