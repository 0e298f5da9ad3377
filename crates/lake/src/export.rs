//! Rows as one Parquet file that is sent while it is written.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};

use crate::Error;

/// Rows of a row group: what is in memory while the file is written.
const GROUP_ROWS: usize = 1 << 17;

/// A Parquet file that leaves piece by piece: memory holds one row group, however long the file gets.
pub struct ParquetRows {
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetRows {
    /// `about` goes into the file's footer, where readers find it as key-value metadata.
    pub fn start(schema: SchemaRef, about: Vec<(String, String)>) -> Result<Self, Error> {
        let about = about.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        let properties = WriterProperties::builder()
            .set_created_by("lamppost".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(about))
            .build();
        Ok(Self { writer: ArrowWriter::try_new(Vec::new(), schema, Some(properties))? })
    }

    /// Takes rows and gives what is ready to be sent, which may be nothing.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, Error> {
        self.writer.write(batch)?;
        Ok(std::mem::take(self.writer.inner_mut()).into())
    }

    /// The rest of the file.
    pub fn finish(self) -> Result<Bytes, Error> {
        Ok(self.writer.into_inner()?.into())
    }
}
