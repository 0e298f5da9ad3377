//! One binary for all tests of the room: the engine suite runs on segment files and on NATS alike.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod backup;
mod crash;
mod disk_full;
mod engine;
mod local;
mod nats;
mod recovery;
#[path = "../../../fuzz/src/segment.rs"]
mod segment;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use stream::{Offset, Options, Record, Stream, Subscription, Topic, TopicOptions};

const TOPIC: &str = "observations";

fn payload(n: u64) -> Bytes {
    format!("record {n}").into()
}

async fn open_local(dir: &Path, topic: TopicOptions) -> Stream {
    open(Options::local(dir, [topic])).await
}

async fn open(options: Options) -> Stream {
    Stream::open(options, Arc::new(kernel::SystemClock)).await.unwrap()
}

async fn append_all(topic: &Topic, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert_eq!(topic.append(payload(n)).await.unwrap(), Offset(n));
    }
}

/// Reads until `end`, checking that offsets are dense.
async fn read_to(subscription: &mut Subscription, end: u64) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    while subscription.position() < Offset(end) {
        let position = subscription.position();
        let batch = subscription.next().await.unwrap();
        assert!(!batch.is_empty());
        for (at, record) in batch.iter().enumerate() {
            assert_eq!(record.offset.0, position.0 + at as u64);
        }
        records.extend(batch);
    }
    records
}

/// The payloads of everything that is kept.
async fn contents(topic: &Topic) -> Vec<Bytes> {
    let mut subscription = topic.subscribe(topic.start()).await.unwrap();
    read_to(&mut subscription, topic.end().0).await.into_iter().map(|record| record.payload).collect()
}

#[test]
fn files_of_arbitrary_bytes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/segment");
    smoke::over(&seeds, 60, 5, segment::run);
}
