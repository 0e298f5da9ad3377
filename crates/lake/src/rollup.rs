//! Sums by the hour, kept beside each compacted file: a year of a dense series is then 8,760 rows and not three million.
//!
//! A rollup belongs to one Parquet file and is as immutable as it is. Whatever changes rows (a late Observation, a deletion, compaction)
//! writes new files, and with them new rollups; so there is nothing to keep in step and nothing to invalidate, and sums and rows cannot
//! disagree. The file's footer says that it has one and how large it is. Where it is missing (a fresh file, a series with few rows, a file
//! of before there were rollups, a folder that somebody has tidied) rows are read: it changes the time that an answer takes and nothing else.
//!
//! It is itself a small Parquet file below `_rollup/`, which readers of Delta pass over as they do over all folders with an underscore.

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch},
    compute::nullif,
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType},
};
use kernel::Timestamp;
use object_store::path::Path;

use crate::{
    Bucket, Error, Partition, TableSpec,
    aggregate::{Refuses, part},
    file::{FileMeta, Files, Footer},
    spec::{Layout, micros, times},
    write::{Effort, PlainWriter},
};

/// The width of a cell, µs. Cells begin at whole hours of UTC.
pub(crate) const HOUR: i64 = 3_600_000_000;
/// Values in a cell, on average, from which on a series is worth a rollup: with fewer, it would be as large as what it stands for.
const DENSE: u64 = 8;
/// Cells written at a time.
const CELLS: usize = 8_192;
const FOLDER: &str = "_rollup";

/// What is summed up when files are compacted.
#[derive(Clone, Copy, Debug)]
pub struct Rollup {
    /// A `Float64` column.
    pub column: &'static str,
    /// A `Utf8` column, and what in it makes a row not count.
    pub unless: Option<(&'static str, Refuses)>,
    /// Where a row says that it stands for several values.
    pub summed: Option<Summed>,
}

/// Columns of a row that stands for several values ([`crate::Table::replace`] makes such). `count` is `Int64` and null in rows that are one value;
/// the others are `Float64`. Aggregates count such a row as what it stands for, so they go on over the border between raw rows and summed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summed {
    pub count: &'static str,
    pub min: &'static str,
    pub max: &'static str,
    pub sum: &'static str,
    pub first: &'static str,
    pub last: &'static str,
}

impl Summed {
    pub(crate) const fn columns(self) -> [&'static str; 6] {
        [self.count, self.min, self.max, self.sum, self.first, self.last]
    }
}

/// Where the rollup of a file lies: by its name, which no other file has.
pub(crate) fn place(file: &Path) -> Path {
    Path::from(format!("{FOLDER}/{}", file.filename().unwrap_or_default()))
}

/// The name of the file that a rollup belongs to.
pub(crate) fn belongs_to(rollup: &Path) -> Option<&str> {
    rollup.as_ref().strip_prefix(FOLDER)?.strip_prefix('/')
}

/// How rollups are laid out.
pub(crate) fn layout() -> Result<Layout, Error> {
    let number = |name: &str| Field::new(name, DataType::Float64, false);
    let time = |name: &str| Field::new(name, micros(), false);
    let fields = vec![
        Field::new("series", DataType::Int64, false),
        time("hour"),
        Field::new("count", DataType::Int64, false),
        number("sum"),
        number("min"),
        number("max"),
        number("first"),
        number("last"),
        time("first_at"),
        time("last_at"),
    ];
    Layout::new(TableSpec {
        name: "rollup".to_owned(),
        schema: Arc::new(Schema::new(fields)),
        series: "series",
        time: "hour",
        key: vec!["series", "hour"],
        partition: Partition::None,
        rollup: None,
    })
}

/// The values of a column with those left out that do not count.
pub(crate) fn counting(values: &ArrayRef, unless: Option<(&ArrayRef, Refuses)>) -> Result<Float64Array, Error> {
    let values = match unless {
        Some((texts, refuses)) if texts.null_count() < texts.len() => {
            let texts = texts.as_string::<i32>();
            let refused: BooleanArray = texts.iter().map(|text| Some(text.is_some_and(refuses))).collect();
            nullif(values, &refused)?
        }
        _ => values.clone(),
    };
    Ok(values.as_primitive::<Float64Type>().clone())
}

/// The columns that a rollup is made of, found in the table's.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub column: usize,
    pub unless: Option<(usize, Refuses)>,
    /// Count, min, max, sum, first and last of rows that stand for several.
    pub summed: Option<[usize; 6]>,
}

/// What rows are worth: a number each, or the sum of several.
pub(crate) struct Worth {
    values: Float64Array,
    /// Only where some row stands for several: the usual batch is folded over its numbers alone.
    several: Option<(Int64Array, [Float64Array; 5])>,
}

impl Worth {
    /// `summed` holds the columns of [`Source::summed`], in their order.
    pub fn new(values: Float64Array, summed: Option<[&ArrayRef; 6]>) -> Self {
        let several = summed.filter(|[count, ..]| count.null_count() < count.len()).map(|[count, rest @ ..]| {
            (count.as_primitive::<Int64Type>().clone(), rest.map(|column| column.as_primitive::<Float64Type>().clone()))
        });
        Self { values, several }
    }

    /// Folds consecutive rows of one bucket; `offset` is where they start.
    pub fn part(&self, start: i64, times: &[i64], offset: usize) -> Option<Bucket> {
        let Some((counts, [min, max, sum, first, last])) = &self.several else {
            return part(start, times, &self.values, offset);
        };
        let mut all: Option<Bucket> = None;
        for (i, &time) in times.iter().enumerate() {
            let row = offset + i;
            let bucket = if counts.is_valid(row) && counts.value(row) > 0 && self.values.is_valid(row) {
                let at = Timestamp::from_micros(time);
                Some(Bucket {
                    start: Timestamp::from_micros(start),
                    count: counts.value(row) as u64,
                    min: min.value(row),
                    max: max.value(row),
                    sum: sum.value(row),
                    first: first.value(row),
                    first_at: at,
                    last: last.value(row),
                    last_at: at,
                })
            } else {
                part(start, &times[i..=i], &self.values, row)
            };
            match (&mut all, bucket) {
                (Some(all), Some(bucket)) => all.merge(&bucket),
                (None, found) => all = found,
                (Some(_), None) => {}
            }
        }
        all
    }
}

/// Sums up the rows of a file while it is written.
pub(crate) struct RollupWriter {
    source: Source,
    files: Files,
    path: Path,
    /// The series at hand: its cells so far.
    series: i64,
    cells: Vec<Bucket>,
    ready: Vec<(i64, Bucket)>,
    writer: Option<PlainWriter>,
}

impl RollupWriter {
    /// For the file at `path`; `None` where the table wants no rollup.
    pub fn start(files: &Files, path: &Path) -> Option<Self> {
        let source = files.layout.rollup?;
        let files = Files { layout: files.rollups.clone()?, rollups: None, ..files.clone() };
        let (cells, ready) = (Vec::new(), Vec::new());
        Some(Self { source, files, path: place(path), series: 0, cells, ready, writer: None })
    }

    /// Takes the next rows of the file, which come in key order.
    pub async fn push(&mut self, layout: &Layout, batch: &RecordBatch) -> Result<(), Error> {
        let (ids, at) = (layout.series_of(batch), layout.time_of(batch));
        let unless = self.source.unless.map(|(column, refuses)| (batch.column(column), refuses));
        let values = counting(batch.column(self.source.column), unless)?;
        let worth = Worth::new(values, self.source.summed.map(|columns| columns.map(|column| batch.column(column))));
        let mut row = 0;
        while row < ids.len() {
            let run = row + ids[row..].partition_point(|&s| s == ids[row]);
            if ids[row] != self.series {
                self.close();
                self.series = ids[row];
            }
            while row < run {
                let hour = at[row].div_euclid(HOUR) * HOUR;
                let stop = row + at[row..run].partition_point(|&t| t < hour.saturating_add(HOUR));
                if let Some(part) = worth.part(hour, &at[row..stop], row) {
                    match self.cells.last_mut() {
                        Some(cell) if cell.start == part.start => cell.merge(&part),
                        _ => self.cells.push(part),
                    }
                }
                row = stop;
            }
        }
        if self.ready.len() >= CELLS { self.flush().await } else { Ok(()) }
    }

    /// The series at hand is over.
    fn close(&mut self) {
        let values: u64 = self.cells.iter().map(|cell| cell.count).sum();
        let (series, dense) = (self.series, values >= DENSE * self.cells.len() as u64);
        let cells = self.cells.drain(..);
        if dense {
            self.ready.extend(cells.map(|cell| (series, cell)));
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let ready = std::mem::take(&mut self.ready);
        let number = |of: fn(&Bucket) -> f64| -> ArrayRef {
            Arc::new(ready.iter().map(|(_, cell)| of(cell)).collect::<Float64Array>())
        };
        let time = |of: fn(&Bucket) -> Timestamp| -> ArrayRef {
            Arc::new(times(ready.iter().map(|(_, cell)| Some(of(cell).as_micros()))))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ready.iter().map(|(series, _)| *series).collect::<Int64Array>()),
            time(|cell| cell.start),
            Arc::new(ready.iter().map(|(_, cell)| cell.count as i64).collect::<Int64Array>()),
            number(|cell| cell.sum),
            number(|cell| cell.min),
            number(|cell| cell.max),
            number(|cell| cell.first),
            number(|cell| cell.last),
            time(|cell| cell.first_at),
            time(|cell| cell.last_at),
        ];
        let batch = RecordBatch::try_new(self.files.layout.schema.clone(), columns)?;
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => PlainWriter::start(&self.files, self.path.clone(), None, Effort::Compacted, &[false; 10])?,
        };
        writer.write(&batch).await?;
        self.writer = Some(writer);
        Ok(())
    }

    /// Its size, once it is durable; `None` when nothing was worth it.
    pub async fn finish(mut self) -> Result<Option<u64>, Error> {
        self.close();
        self.flush().await?;
        let Some(writer) = self.writer else { return Ok(None) };
        Ok(writer.finish(false).await?.map(|written| written.meta.size))
    }
}

/// The rollup of a file that can be read.
pub(crate) struct Kept {
    pub files: Files,
    pub file: FileMeta,
    pub footer: Arc<Footer>,
}

/// Finds the rollup of a file; `None` when there is none.
pub(crate) async fn kept(files: &Files, file: &FileMeta, footer: &Footer) -> Result<Option<Kept>, Error> {
    let (Some(size), Some(layout)) = (footer.rollup, files.rollups.clone()) else { return Ok(None) };
    let files = Files { layout, rollups: None, ..files.clone() };
    let file = FileMeta { path: place(&file.path), size, ..file.clone() };
    match files.footer(&file).await {
        Ok(footer) => Ok(Some(Kept { files, file, footer })),
        // Rows answer as well, only later.
        Err(error) => {
            tracing::debug!(path = %file.path, %error, "a rollup cannot be read");
            Ok(None)
        }
    }
}

/// The cells in a batch of a rollup, with the series of each.
pub(crate) fn cells(batch: &RecordBatch) -> impl Iterator<Item = (i64, Bucket)> + '_ {
    let whole = |column: usize| batch.column(column).as_primitive::<Int64Type>().values();
    let time = |column: usize| batch.column(column).as_primitive::<TimestampMicrosecondType>().values();
    let number = |column: usize| batch.column(column).as_primitive::<Float64Type>().values();
    let (series, hours, counts) = (whole(0), time(1), whole(2));
    let (sums, mins, maxs, firsts, lasts) = (number(3), number(4), number(5), number(6), number(7));
    let (first_at, last_at) = (time(8), time(9));
    (0..batch.num_rows()).map(move |row| {
        let cell = Bucket {
            start: Timestamp::from_micros(hours[row]),
            count: counts[row] as u64,
            min: mins[row],
            max: maxs[row],
            sum: sums[row],
            first: firsts[row],
            first_at: Timestamp::from_micros(first_at[row]),
            last: lasts[row],
            last_at: Timestamp::from_micros(last_at[row]),
        };
        (series[row], cell)
    })
}
