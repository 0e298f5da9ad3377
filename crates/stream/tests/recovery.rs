//! Whatever a crash or a disk does to the newest segment: an intact prefix comes back, or damage is named.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use stream::{Error, Offset, Options, Stream, TopicOptions};

use crate::{TOPIC, contents, open_local};

struct Written {
    dir: tempfile::TempDir,
    payloads: Vec<Bytes>,
    /// For each record: the byte after it, and the number of its batch.
    ends: Vec<usize>,
    batches: Vec<usize>,
}

const HEADER: usize = 32;
const RECORD_HEADER: usize = 28;

impl Written {
    fn file(&self) -> PathBuf {
        self.dir.path().join(TOPIC).join(format!("{:020}.log", 0))
    }

    /// Records that lie wholly before a byte.
    fn before(&self, byte: usize) -> usize {
        self.ends.partition_point(|end| *end <= byte)
    }
}

/// One segment made of the given batches. A batch is one group commit, which one thread can bring about by queueing all
/// of it without yielding; what the writer in fact made of it is read from the file.
fn write(runtime: &tokio::runtime::Runtime, batches: &[Vec<Vec<u8>>]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let payloads: Vec<Bytes> = batches.iter().flatten().map(|payload| payload.clone().into()).collect();
    runtime.block_on(async {
        let stream = open_local(dir.path(), TopicOptions::new(TOPIC)).await;
        let topic = stream.topic(TOPIC).unwrap();
        for batch in batches {
            let pending: Vec<_> =
                batch.iter().map(|payload| topic.append_nowait(payload.clone().into()).unwrap()).collect();
            for pending in pending {
                pending.durable().await.unwrap();
            }
        }
        stream.close().await;
    });
    let mut written = Written { dir, payloads, ends: Vec::new(), batches: Vec::new() };
    let bytes = fs::read(written.file()).unwrap();
    let (mut at, mut batch) = (HEADER, 0);
    for payload in &written.payloads {
        if bytes[at + 24..at + 28] == [0; 4] {
            batch += 1;
        }
        at += RECORD_HEADER + payload.len();
        written.ends.push(at);
        written.batches.push(batch);
    }
    assert_eq!(at, bytes.len(), "the format is as documented");
    written
}

async fn reopen(written: &Written) -> Result<Vec<Bytes>, Error> {
    let options = Options::local(written.dir.path(), [TopicOptions::new(TOPIC)]);
    let stream = Stream::open(options, Arc::new(kernel::SystemClock)).await?;
    let topic = stream.topic(TOPIC).unwrap();
    let kept = contents(&topic).await;
    // The place is good to be written to again.
    let next = topic.append("after".into()).await?;
    assert_eq!(next, Offset(kept.len() as u64));
    stream.close().await;
    let stream = open_local(written.dir.path(), TopicOptions::new(TOPIC)).await;
    assert_eq!(contents(&stream.topic(TOPIC).unwrap()).await.last().unwrap(), "after");
    stream.close().await;
    Ok(kept)
}

fn batches() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..60);
    proptest::collection::vec(proptest::collection::vec(payload, 1..5), 1..6)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_cut_anywhere_gives_the_whole_records_before_the_cut(batches in batches(), cut in any::<prop::sample::Index>()) {
        let runtime = runtime();
        let written = write(&runtime, &batches);
        let bytes = fs::read(written.file()).unwrap();
        let cut = HEADER + cut.index(bytes.len() - HEADER + 1);
        fs::write(written.file(), &bytes[..cut]).unwrap();
        let kept = runtime.block_on(reopen(&written)).unwrap();
        prop_assert_eq!(&kept[..], &written.payloads[..written.before(cut)]);
    }

    #[test]
    fn garbage_behind_the_last_record_is_cut_off(
        batches in batches(), garbage in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..300),
    ) {
        let runtime = runtime();
        let written = write(&runtime, &batches);
        let mut bytes = fs::read(written.file()).unwrap();
        bytes.extend(garbage);
        fs::write(written.file(), bytes).unwrap();
        let kept = runtime.block_on(reopen(&written)).unwrap();
        prop_assert_eq!(kept, written.payloads);
    }

    #[test]
    fn a_flipped_bit_is_damage_unless_it_lies_in_the_last_batch(
        batches in batches(), place in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let runtime = runtime();
        let written = write(&runtime, &batches);
        let mut bytes = fs::read(written.file()).unwrap();
        let place = HEADER + place.index(bytes.len() - HEADER);
        bytes[place] ^= 1 << bit;
        fs::write(written.file(), &bytes).unwrap();
        let record = written.before(place);
        let start = record.checked_sub(1).map_or(HEADER, |before| written.ends[before]);
        match runtime.block_on(reopen(&written)) {
            Ok(kept) => {
                prop_assert_eq!(written.batches[record], *written.batches.last().unwrap(), "damage went unnoticed");
                prop_assert_eq!(&kept[..], &written.payloads[..record]);
            }
            Err(Error::Corrupt { file, byte, .. }) => {
                prop_assert!(written.batches[record] < *written.batches.last().unwrap(), "a torn tail was refused");
                prop_assert_eq!((file, byte), (written.file(), start as u64));
                // Nothing was touched: the operator decides.
                prop_assert_eq!(fs::read(written.file()).unwrap(), bytes);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_as_a_segment_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), keep_header in any::<bool>()) {
        let runtime = runtime();
        let written = write(&runtime, &[vec![vec![1, 2, 3]]]);
        let mut file = fs::read(written.file()).unwrap();
        file.truncate(if keep_header { HEADER } else { 0 });
        file.extend(bytes);
        fs::write(written.file(), file).unwrap();
        let options = Options::local(written.dir.path(), [TopicOptions::new(TOPIC)]);
        runtime.block_on(async {
            if let Ok(stream) = Stream::open(options, Arc::new(kernel::SystemClock)).await {
                contents(&stream.topic(TOPIC).unwrap()).await;
                stream.close().await;
            }
        });
    }
}

#[test]
fn a_bad_header_is_named() {
    let runtime = runtime();
    let written = write(&runtime, &[vec![vec![1; 10]]]);
    let good = fs::read(written.file()).unwrap();
    for byte in 0..HEADER {
        let mut bytes = good.clone();
        bytes[byte] ^= 4;
        fs::write(written.file(), bytes).unwrap();
        let error = runtime.block_on(reopen(&written)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "byte {byte}: {error}");
    }
}

/// A batch whose pages reached the disk out of order: the front of it is missing, its end is there.
#[test]
fn a_batch_torn_in_its_middle_is_cut_off_where_it_tears() {
    let runtime = runtime();
    let written = write(&runtime, &[vec![vec![9; 40]], vec![vec![1; 50], vec![2; 50], vec![3; 50], vec![4; 50]]]);
    let mut bytes = fs::read(written.file()).unwrap();
    // The writer may have split what was queued; the tear goes into the second record of its last batch, if it has one.
    let last = *written.batches.last().unwrap();
    let first = written.batches.iter().position(|batch| *batch == last).unwrap();
    let torn = (first + 1).min(written.payloads.len() - 1);
    let from = written.ends[torn - 1];
    bytes[from..written.ends[torn]].fill(0);
    fs::write(written.file(), bytes).unwrap();
    assert_eq!(runtime.block_on(reopen(&written)).unwrap(), written.payloads[..torn]);
}
