//! Merging sorted files into sorted files, with bounded memory.

use std::{cmp::Ordering, ops::Range, pin::Pin, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    compute::{concat, interleave},
    row::Rows,
};
use futures::{Stream, TryStreamExt};

use crate::{
    Error,
    file::{FileMeta, Files},
    spec::Layout,
    write::{Effort, FileWriter, Written},
};

/// Rows read from one input at a time. Sixty-four inputs of eight thousand rows are some tens of megabytes.
const INPUT_ROWS: usize = 8_192;
const OUTPUT_ROWS: usize = 16_384;
/// Rows that follow each other in one input, on average, from which on it is quicker to copy stretches than row by row.
const STRETCH: usize = 8;

type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, Error>> + Send>>;

/// A file and the rows of it to keep.
pub(crate) struct Input {
    pub file: Arc<FileMeta>,
    pub keep: Vec<Range<u64>>,
}

/// One input's place in the merge.
struct Cursor {
    batches: Batches,
    batch: RecordBatch,
    /// The whole keys of `batch` as bytes; made only when another input has the same series and time.
    keys: Option<Rows>,
    at: usize,
    /// Where `batch` lies among the batches held for the output being gathered.
    slot: usize,
}

impl Cursor {
    /// The next rows of the input; `None` at its end.
    async fn load(mut batches: Batches) -> Result<Option<Self>, Error> {
        while let Some(batch) = batches.try_next().await? {
            if batch.num_rows() > 0 {
                return Ok(Some(Self { batches, batch, keys: None, at: 0, slot: 0 }));
            }
        }
        Ok(None)
    }

    /// Series and time of the next row.
    fn place(&self, layout: &Layout) -> (i64, i64) {
        (layout.series_of(&self.batch)[self.at], layout.time_of(&self.batch)[self.at])
    }

    /// The first row, from the next one on, whose series and time are not below `limit`. Runs are long when files follow each other in
    /// time and short when they do not: the step doubles until it is too far.
    fn below(&self, layout: &Layout, limit: (i64, i64)) -> usize {
        let (series, times) = (layout.series_of(&self.batch), layout.time_of(&self.batch));
        let is_below = |row: usize| (series[row], times[row]) < limit;
        let (mut low, mut step) = (self.at, 1);
        while low + step < series.len() && is_below(low + step) {
            low += step;
            step *= 2;
        }
        let (mut low, mut high) = (if is_below(low) { low + 1 } else { low }, (low + step).min(series.len()));
        while low < high {
            let middle = low + (high - low) / 2;
            if is_below(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn keys(&mut self, layout: &Layout) -> Result<&Rows, Error> {
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => layout.key_rows(&self.batch, false)?,
        };
        Ok(self.keys.insert(keys))
    }
}

/// The input whose next row comes first, and how many of its rows may be taken before another's turn.
fn next(layout: &Layout, cursors: &mut [Cursor]) -> Result<Option<(usize, usize)>, Error> {
    // At most as many inputs as one merge has; looking at each is cheaper than keeping a heap in order.
    let mut first: Option<((i64, i64), usize)> = None;
    let mut second: Option<(i64, i64)> = None;
    for (i, cursor) in cursors.iter().enumerate() {
        let place = cursor.place(layout);
        match first {
            Some((best, _)) if best <= place => second = Some(second.map_or(place, |s| s.min(place))),
            _ => {
                second = first.map(|(best, _)| best);
                first = Some((place, i));
            }
        }
    }
    let Some((place, chosen)) = first else { return Ok(None) };
    let Some(limit) = second else { return Ok(Some((chosen, cursors[chosen].batch.num_rows()))) };
    if place < limit {
        return Ok(Some((chosen, cursors[chosen].below(layout, limit))));
    }
    // The same series and time in several inputs: the rest of the key decides, row by row.
    let mut best = chosen;
    for i in chosen + 1..cursors.len() {
        if cursors[i].place(layout) != place {
            continue;
        }
        let (left, right) = cursors.split_at_mut(i);
        let (a, b) = (&mut left[best], &mut right[0]);
        let (a_at, b_at) = (a.at, b.at);
        if b.keys(layout)?.row(b_at).cmp(&a.keys(layout)?.row(a_at)) == Ordering::Less {
            best = i;
        }
    }
    Ok(Some((best, cursors[best].at + 1)))
}

/// Writes the kept rows of `inputs`, all of one partition and no key twice, into new files of about `target` bytes.
pub(crate) async fn merge(
    files: &Files,
    partition: Option<String>,
    inputs: Vec<Input>,
    target: u64,
    data_change: bool,
) -> Result<Vec<Written>, Error> {
    let fields = files.layout.schema.fields();
    let columns: Vec<usize> = (0..fields.len()).collect();
    let mut vacant: Vec<bool> = fields.iter().map(|field| field.is_nullable()).collect();
    let mut cursors = Vec::new();
    for input in inputs {
        if input.keep.is_empty() {
            continue;
        }
        let footer = files.footer(&input.file).await?;
        vacant.iter_mut().zip(fields).for_each(|(vacant, field)| *vacant = *vacant && footer.is_vacant(field.name()));
        let batches = files.rows(&input.file, &footer, &input.keep, &columns, INPUT_ROWS)?;
        cursors.extend(Cursor::load(Box::pin(batches)).await?);
    }
    let mut output = Output { files, partition, target, data_change, vacant, writer: None, written: Vec::new() };
    let result = gather(&files.layout, cursors, &mut output).await;
    match result {
        Ok(()) => {
            output.roll().await?;
            Ok(output.written)
        }
        Err(error) => {
            crate::write::discard(files, &output.written).await;
            Err(error)
        }
    }
}

async fn gather(layout: &Layout, mut cursors: Vec<Cursor>, output: &mut Output<'_>) -> Result<(), Error> {
    let mut held: Vec<RecordBatch> = Vec::new();
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    let mut rows = 0;
    hold(&mut held, &mut cursors);
    while let Some((chosen, end)) = next(layout, &mut cursors)? {
        let cursor = &mut cursors[chosen];
        let end = end.min(cursor.at + OUTPUT_ROWS - rows);
        rows += end - cursor.at;
        runs.push((cursor.slot, cursor.at..end));
        cursor.at = end;
        if end == cursor.batch.num_rows() {
            let cursor = cursors.swap_remove(chosen);
            if let Some(mut more) = Cursor::load(cursor.batches).await? {
                more.slot = held.len();
                held.push(more.batch.clone());
                cursors.push(more);
            }
        }
        if rows >= OUTPUT_ROWS || cursors.is_empty() {
            output.write(&held, &runs, rows).await?;
            runs.clear();
            rows = 0;
            // What the inputs still hold moves to the front; everything else is let go.
            held.clear();
            hold(&mut held, &mut cursors);
        }
    }
    Ok(())
}

fn hold(held: &mut Vec<RecordBatch>, cursors: &mut [Cursor]) {
    for cursor in cursors {
        cursor.slot = held.len();
        held.push(cursor.batch.clone());
    }
}

/// One column of the runs, one after the other.
fn column(held: &[RecordBatch], runs: &[(usize, Range<usize>)], rows: usize, i: usize) -> Result<ArrayRef, Error> {
    if let [(slot, run)] = runs {
        return Ok(held[*slot].column(i).slice(run.start, run.len()));
    }
    if rows >= STRETCH * runs.len() {
        let parts: Vec<ArrayRef> =
            runs.iter().map(|(slot, run)| held[*slot].column(i).slice(run.start, run.len())).collect();
        return Ok(concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?);
    }
    let columns: Vec<_> = held.iter().map(|batch| batch.column(i).as_ref()).collect();
    let places: Vec<_> = runs.iter().flat_map(|(slot, run)| run.clone().map(move |row| (*slot, row))).collect();
    Ok(interleave(&columns, &places)?)
}

struct Output<'a> {
    files: &'a Files,
    partition: Option<String>,
    target: u64,
    data_change: bool,
    /// Columns in which no input has a value.
    vacant: Vec<bool>,
    writer: Option<FileWriter>,
    written: Vec<Written>,
}

impl Output<'_> {
    async fn write(&mut self, held: &[RecordBatch], runs: &[(usize, Range<usize>)], rows: usize) -> Result<(), Error> {
        if rows == 0 {
            return Ok(());
        }
        let schema = &self.files.layout.schema;
        let columns = schema.fields().iter().zip(&self.vacant).enumerate().map(|(i, (field, vacant))| {
            if *vacant { Ok(new_null_array(field.data_type(), rows)) } else { column(held, runs, rows, i) }
        });
        let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, Error>>()?)?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                none.insert(FileWriter::start(self.files, self.partition.clone(), Effort::Compacted, &self.vacant)?)
            }
        };
        writer.write(&batch).await?;
        if writer.bytes() as u64 >= self.target {
            self.roll().await?;
        }
        Ok(())
    }

    async fn roll(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.written.extend(writer.finish(self.data_change).await?);
        }
        Ok(())
    }
}
