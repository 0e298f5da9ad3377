//! Observations for a file: a page of one series as columns or as Observations.

use lake::arrow::{array::RecordBatch, datatypes::SchemaRef};

use super::{
    Error, Observe, SeriesQuery,
    columns::{self, Columns},
    recent::Row,
};
use crate::model::{EntityId, Observation, ObservationId};

/// Rows of one series, in order.
pub struct ExportPage {
    series: EntityId,
    all: Vec<Row>,
    pub rows: usize,
    /// The last row, from which the next page goes on.
    pub last: Option<ObservationId>,
}

impl ExportPage {
    /// As the lake has them: the columns of [`Observe::export_schema`].
    pub fn batch(&self) -> Result<RecordBatch, Error> {
        let mut columns = Columns::default();
        self.all.iter().for_each(|row| columns.push(self.series.0, row));
        Ok(columns.finish()?)
    }
    pub fn observations(&self) -> impl Iterator<Item = Observation> + '_ {
        self.all.iter().map(|row| row.observation(self.series))
    }
}

impl Observe {
    /// The columns of a file, and what they hold: times are UTC, `value` is null where the result is no number and `result` is then JSON.
    pub fn export_schema() -> SchemaRef {
        columns::spec().schema
    }

    /// A page of a series, sealed and unsealed rows as one.
    pub async fn export(&self, query: SeriesQuery) -> Result<ExportPage, Error> {
        let all = self.0.page(&query).await?;
        let last = all.last().map(|row| row.key.id(query.datastream));
        Ok(ExportPage { series: query.datastream, rows: all.len(), all, last })
    }
}
