//! Merging sorted files into sorted files, with bounded memory.

use std::{collections::BinaryHeap, ops::Range, pin::Pin, sync::Arc};

use arrow::{array::RecordBatch, compute::interleave_record_batch, row::Rows};
use futures::{Stream, TryStreamExt};

use crate::{
    Error,
    file::{FileMeta, Files},
    write::{Effort, FileWriter, Written},
};

/// Rows read from one input at a time. Sixty-four inputs of eight thousand rows are some tens of megabytes.
const INPUT_ROWS: usize = 8_192;
const OUTPUT_ROWS: usize = 16_384;

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
    keys: Rows,
    at: usize,
    /// Where `batch` lies among the batches held for the output being gathered.
    slot: usize,
}

impl Cursor {
    /// The next rows of the input; `None` at its end.
    async fn load(files: &Files, mut batches: Batches) -> Result<Option<Self>, Error> {
        loop {
            let Some(batch) = batches.try_next().await? else { return Ok(None) };
            if batch.num_rows() > 0 {
                let keys = files.layout.key_rows(&batch, false)?;
                return Ok(Some(Self { batches, batch, keys, at: 0, slot: 0 }));
            }
        }
    }
}

// The heap gives the greatest first, so the order is turned round.
impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.keys.row(other.at).cmp(&self.keys.row(self.at))
    }
}
impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Cursor {}

/// Writes the kept rows of `inputs`, all of one partition and no key twice, into new files of about `target` bytes.
pub(crate) async fn merge(
    files: &Files,
    partition: Option<String>,
    inputs: Vec<Input>,
    target: u64,
    data_change: bool,
) -> Result<Vec<Written>, Error> {
    let columns: Vec<usize> = (0..files.layout.schema.fields().len()).collect();
    let mut heap = BinaryHeap::new();
    for input in inputs {
        if input.keep.is_empty() {
            continue;
        }
        let footer = files.footer(&input.file).await?;
        let batches = files.rows(&input.file, &footer, &input.keep, &columns, INPUT_ROWS)?;
        heap.extend(Cursor::load(files, Box::pin(batches)).await?);
    }
    let mut output = Output { files, partition, target, data_change, writer: None, written: Vec::new() };
    let result = gather(files, &mut heap, &mut output).await;
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

async fn gather(files: &Files, heap: &mut BinaryHeap<Cursor>, output: &mut Output<'_>) -> Result<(), Error> {
    let mut held: Vec<RecordBatch> = Vec::new();
    let mut rows: Vec<(usize, usize)> = Vec::with_capacity(OUTPUT_ROWS);
    for (slot, mut cursor) in std::mem::take(heap).into_iter().enumerate() {
        held.push(cursor.batch.clone());
        cursor.slot = slot;
        heap.push(cursor);
    }
    while let Some(mut cursor) = heap.pop() {
        // Take from this input as long as it stays ahead of the next best: whole runs when files follow each other in time.
        let end = match heap.peek() {
            None => cursor.keys.num_rows(),
            Some(next) => {
                let limit = next.keys.row(next.at);
                let mut end = cursor.at + 1;
                while end < cursor.keys.num_rows() && cursor.keys.row(end) < limit {
                    end += 1;
                }
                end
            }
        };
        rows.extend((cursor.at..end).map(|row| (cursor.slot, row)));
        cursor.at = end;
        if cursor.at == cursor.keys.num_rows() {
            if let Some(mut next) = Cursor::load(files, cursor.batches).await? {
                next.slot = held.len();
                held.push(next.batch.clone());
                heap.push(next);
            }
        } else {
            heap.push(cursor);
        }
        if rows.len() >= OUTPUT_ROWS || heap.is_empty() {
            let refs: Vec<&RecordBatch> = held.iter().collect();
            output.write(&interleave_record_batch(&refs, &rows)?).await?;
            rows.clear();
            held.clear();
            // What the inputs still hold moves to the front; everything else is let go.
            for (slot, mut cursor) in std::mem::take(heap).into_iter().enumerate() {
                held.push(cursor.batch.clone());
                cursor.slot = slot;
                heap.push(cursor);
            }
        }
    }
    Ok(())
}

struct Output<'a> {
    files: &'a Files,
    partition: Option<String>,
    target: u64,
    data_change: bool,
    writer: Option<FileWriter>,
    written: Vec<Written>,
}

impl Output<'_> {
    async fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(FileWriter::start(self.files, self.partition.clone(), Effort::Compacted)?),
        };
        writer.write(batch).await?;
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
