//! What only segment files promise.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use kernel::{FixedClock, Timestamp};
use stream::{EngineOptions, Error, Offset, Options, Stream, TopicOptions};

use crate::{TOPIC, append_all, contents, open, open_local, payload, read_to};

#[tokio::test]
async fn a_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_local(dir.path(), TopicOptions::new(TOPIC)).await;
    let options = Options::local(dir.path(), [TopicOptions::new(TOPIC)]);
    let second = Stream::open(options.clone(), Arc::new(kernel::SystemClock)).await.err().unwrap();
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    assert!(matches!(stream::verify(dir.path()), Err(Error::Locked { .. })));
    // A reader that is still there does not keep the folder.
    let subscription = first.topic(TOPIC).unwrap().subscribe(Offset(0)).await.unwrap();
    first.close().await;
    open(options).await.close().await;
    drop(subscription);
}

#[tokio::test]
async fn options_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "..", "a/b", "Ä", "LOCK"] {
        let options = Options::local(dir.path(), [TopicOptions::new(name)]);
        let error = Stream::open(options, Arc::new(kernel::SystemClock)).await.err().unwrap();
        assert!(matches!(error, Error::Name(_)), "{name}: {error}");
    }
    let twice = Options::local(dir.path(), [TopicOptions::new("a"), TopicOptions::new("a")]);
    assert!(matches!(Stream::open(twice, Arc::new(kernel::SystemClock)).await, Err(Error::Option { .. })));
    let mut large = Options::local(dir.path(), [TopicOptions::new("a")]);
    large.max_payload = 1 << 30;
    assert!(matches!(Stream::open(large, Arc::new(kernel::SystemClock)).await, Err(Error::Option { .. })));
}

#[tokio::test]
async fn records_carry_the_clock_and_age_out_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let options = Options::local(dir.path(), [TopicOptions::new(TOPIC).retain_age(Duration::from_secs(800))]);
    let stream = Stream::open(options, clock.clone()).await.unwrap();
    let topic = stream.topic(TOPIC).unwrap();
    // A record every 50 s. Segments are sealed at an eighth of the age, so they hold at most a few records.
    for n in 0..40 {
        append_all(&topic, n..n + 1).await;
        topic.retain().await.unwrap();
        clock.advance_micros(50_000_000);
    }
    let start = topic.start().0;
    let kept = read_to(&mut topic.subscribe(topic.start()).await.unwrap(), 40).await;
    for record in &kept {
        assert_eq!(record.at, Timestamp::from_secs(1_000_000 + 50 * record.offset.0 as i64));
    }
    // Age at the end: 2,000 s after the first record. 800 s are 16 records; a segment more may be left.
    assert!((20..=24).contains(&start), "{start}");
    assert_eq!(topic.end(), Offset(40));
    stream.close().await;
}

#[tokio::test]
async fn a_clock_that_jumps_back_disturbs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let options = Options::local(dir.path(), [TopicOptions::new(TOPIC).retain_age(Duration::from_secs(800))]);
    let stream = Stream::open(options, clock.clone()).await.unwrap();
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..5).await;
    clock.set(Timestamp::from_secs(10));
    append_all(&topic, 5..10).await;
    topic.retain().await.unwrap();
    assert_eq!(contents(&topic).await.len(), 10);
    stream.close().await;
}

fn small(dir: &std::path::Path) -> Options {
    let mut options = Options::local(dir, [TopicOptions::new(TOPIC)]);
    if let EngineOptions::Local(local) = &mut options.engine {
        local.segment_bytes = 2 << 10;
        local.ring_bytes = 1 << 10;
    }
    options
}

#[tokio::test]
async fn opening_reads_the_newest_segment_only() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(small(dir.path())).await;
    append_all(&stream.topic(TOPIC).unwrap(), 0..500).await;
    assert!(stream.stats()[0].segments > 5);
    stream.close().await;
    drop(stream);
    // Damage in sealed data: a start does not look there, a reader and `verify` do.
    let sealed = dir.path().join(TOPIC).join(format!("{:020}.log", 0));
    let mut bytes = fs::read(&sealed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&sealed, &bytes).unwrap();
    let stream = open(small(dir.path())).await;
    let topic = stream.topic(TOPIC).unwrap();
    assert_eq!(topic.end(), Offset(500));
    let mut subscription = topic.subscribe(Offset(0)).await.unwrap();
    let mut read = 0;
    let error = loop {
        match subscription.next().await {
            Ok(records) => read += records.len() as u64,
            Err(error) => break error,
        }
    };
    let Error::Corrupt { file, byte, .. } = &error else { panic!("{error}") };
    assert_eq!(*file, sealed);
    assert!(*byte as usize <= middle && middle - (*byte as usize) < 50, "{byte} {middle}");
    assert!(read > 0, "what comes before the damage is handed out");
    assert_eq!(subscription.position(), Offset(read));
    assert_eq!(subscription.next().await.unwrap_err().to_string(), error.to_string());
    stream.close().await;
    assert!(matches!(stream::verify(dir.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_lost_or_bad_index_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(small(dir.path())).await;
    append_all(&stream.topic(TOPIC).unwrap(), 0..500).await;
    stream.close().await;
    drop(stream);
    let topic = dir.path().join(TOPIC);
    let mut indexes: Vec<_> = fs::read_dir(&topic).unwrap().map(|e| e.unwrap().path()).collect();
    indexes.retain(|path| path.extension().is_some_and(|e| e == "idx"));
    indexes.sort();
    fs::remove_file(&indexes[0]).unwrap();
    fs::write(&indexes[1], b"nonsense").unwrap();
    // Good header, bad entries: found out when a reader needs them.
    let mut entries = fs::read(&indexes[2]).unwrap();
    *entries.last_mut().unwrap() ^= 1;
    fs::write(&indexes[2], entries).unwrap();
    let stream = open(small(dir.path())).await;
    let topic = stream.topic(TOPIC).unwrap();
    assert_eq!(contents(&topic).await, (0..500).map(payload).collect::<Vec<_>>());
    for from in (0..500).step_by(7) {
        let mut subscription = topic.subscribe(Offset(from)).await.unwrap();
        assert_eq!(subscription.next().await.unwrap()[0].payload, payload(from));
    }
    stream.close().await;
}

#[tokio::test]
async fn a_missing_or_shortened_segment_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(small(dir.path())).await;
    append_all(&stream.topic(TOPIC).unwrap(), 0..500).await;
    stream.close().await;
    drop(stream);
    let topic = dir.path().join(TOPIC);
    let mut logs: Vec<_> = fs::read_dir(&topic).unwrap().map(|e| e.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    logs.sort();
    let second = fs::read(&logs[1]).unwrap();
    fs::write(&logs[1], &second[..second.len() - 1]).unwrap();
    let error = Stream::open(small(dir.path()), Arc::new(kernel::SystemClock)).await.err().unwrap();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == logs[1]), "{error}");
    fs::remove_file(&logs[1]).unwrap();
    let error = Stream::open(small(dir.path()), Arc::new(kernel::SystemClock)).await.err().unwrap();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == logs[2]), "{error}");
    fs::write(&logs[1], &second).unwrap();
    let stream = open(small(dir.path())).await;
    assert_eq!(contents(&stream.topic(TOPIC).unwrap()).await.len(), 500);
    stream.close().await;
}

#[tokio::test]
async fn a_reader_deep_in_a_deleted_segment_finishes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    options.topics = vec![TopicOptions::new(TOPIC).retain_bytes(4 << 10).guarded()];
    if let EngineOptions::Local(local) = &mut options.engine {
        local.segment_bytes = 2 << 20;
    }
    let stream = open(options).await;
    let topic = stream.topic(TOPIC).unwrap();
    let large = Bytes::from(vec![3; 300 << 10]);
    for _ in 0..20 {
        topic.append(large.clone()).await.unwrap();
    }
    let mut subscription = topic.subscribe(Offset(0)).await.unwrap();
    assert_eq!(subscription.next().await.unwrap()[0].offset, Offset(0));
    topic.keep_from(topic.end());
    topic.retain().await.unwrap();
    assert!(topic.start() > Offset(5));
    // The file it has open outlives its name; after it, the reader is told.
    let mut position = subscription.position();
    let gone = loop {
        match subscription.next().await {
            Ok(records) => position = records.last().unwrap().offset.next(),
            Err(gone) => break gone,
        }
    };
    assert!(position > Offset(1));
    assert!(matches!(gone, Error::Gone { requested, .. } if requested == position), "{gone}");
    stream.close().await;
}
