//! A backup taken while everything goes on is a prefix of what there is, and comes back.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use stream::{EngineOptions, Error, Offset, Options, TopicOptions};

use crate::{append_all, contents, open, payload};

fn options(dir: &std::path::Path) -> Options {
    let mut options = Options::local(dir, [TopicOptions::new("one"), TopicOptions::new("two")]);
    if let EngineOptions::Local(local) = &mut options.engine {
        local.segment_bytes = 8 << 10;
    }
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_comes_back_as_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(options(&dir.path().join("live"))).await;
    let (one, two) = (stream.topic("one").unwrap(), stream.topic("two").unwrap());
    append_all(&one, 0..1_000).await;
    append_all(&two, 0..10).await;
    let consumer = one.consumer("lake").await.unwrap();
    consumer.commit(Offset(499)).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [(one.clone(), 1_000), (two.clone(), 10)]
        .into_iter()
        .map(|(topic, mut n)| {
            let stop = stop.clone();
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    append_all(&topic, n..n + 1).await;
                    n += 1;
                }
            })
        })
        .collect();
    for round in 0..3 {
        let copy = dir.path().join(format!("copy{round}"));
        let (before, report) = (one.end(), stream.backup(&copy).await.unwrap());
        assert!(report[0].end >= before && report[0].end <= one.end());
        assert!(report[0].linked_bytes > 0, "sealed segments are linked");
    }
    stop.store(true, SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let whole = contents(&one).await;
    stream.close().await;

    for round in 0..3 {
        let copy = dir.path().join(format!("copy{round}"));
        let back = dir.path().join(format!("back{round}"));
        let verified = stream::verify(&copy).unwrap();
        stream::restore(&copy, &back).unwrap();
        let restored = open(options(&back)).await;
        let topic = restored.topic("one").unwrap();
        assert_eq!(verified[0].end, topic.end());
        let kept = contents(&topic).await;
        assert_eq!(kept[..], whole[..kept.len()]);
        assert_eq!(contents(&restored.topic("two").unwrap()).await[9], payload(9));
        assert_eq!(topic.consumer("lake").await.unwrap().committed(), Offset(500));
        // What is restored lives on without touching the backup.
        append_all(&topic, kept.len() as u64..kept.len() as u64 + 50).await;
        restored.close().await;
        assert_eq!(stream::verify(&copy).unwrap(), verified);
    }
}

#[tokio::test]
async fn neither_way_writes_into_a_folder_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(options(&dir.path().join("live"))).await;
    append_all(&stream.topic("one").unwrap(), 0..10).await;
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("precious"), "x").unwrap();
    assert!(matches!(stream.backup(&occupied).await, Err(Error::Io { .. })));
    let copy = dir.path().join("copy");
    stream.backup(&copy).await.unwrap();
    assert!(matches!(stream::restore(&copy, &occupied), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
    stream.close().await;
}

/// What a topic holds, in the words of both engines: its offsets and payloads, and a consumer's position.
async fn picture(options: Options) -> (Offset, Offset, Vec<bytes::Bytes>, Offset) {
    let stream = open(options).await;
    let topic = stream.topic("one").unwrap();
    let (start, end) = (topic.start(), topic.end());
    let mut found = Vec::new();
    if start < end {
        let mut subscription = topic.subscribe(start).await.unwrap();
        while found.len() < (end.0 - start.0) as usize {
            for record in subscription.next().await.unwrap() {
                assert_eq!(record.offset.0, start.0 + found.len() as u64);
                found.push(record.payload);
            }
        }
    }
    let position = topic.consumer("lake").await.unwrap().committed();
    // It goes on where it ended.
    assert_eq!(topic.append(payload(0)).await.unwrap(), end);
    stream.close().await;
    (start, end, found, position)
}

fn on(server: &testkit::nats::Server) -> Options {
    Options::nats(server.url(), [TopicOptions::new("one").guarded().retain_bytes(1), TopicOptions::new("two")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_either_engine_comes_back_into_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let (first, second, third) =
        (testkit::nats::Server::start(), testkit::nats::Server::start(), testkit::nats::Server::start());
    let stream = open(on(&first)).await;
    let topic = stream.topic("one").unwrap();
    append_all(&topic, 0..3_000).await;
    topic.consumer("lake").await.unwrap().commit(Offset(2_499)).await.unwrap();
    // Retention has been here: the topic does not begin at 0.
    topic.keep_from(Offset(1_000));
    topic.retain().await.unwrap();
    assert_eq!(topic.start(), Offset(1_000));
    let report = stream.backup(&place("copy")).await.unwrap();
    assert_eq!((report[0].start, report[0].end), (Offset(1_000), Offset(3_000)));
    assert_eq!(stream::verify(&place("copy")).unwrap()[0].end, Offset(3_000));
    assert!(
        matches!(stream.backup(&place("copy")).await, Err(Error::Io { .. })),
        "never into a folder that holds something"
    );
    stream.close().await;

    let clock = || Arc::new(kernel::SystemClock);
    let unguarded = || [TopicOptions::new("one"), TopicOptions::new("two")];
    let local = Options::local(place("back"), unguarded());
    stream::restore_into(&place("copy"), local.clone(), clock()).await.unwrap();
    stream::restore_into(&place("copy"), Options::nats(second.url(), unguarded()), clock()).await.unwrap();
    let occupied = stream::restore_into(&place("copy"), Options::nats(second.url(), unguarded()), clock()).await;
    assert!(matches!(occupied, Err(Error::Nats { .. })), "{occupied:?}");
    // From the folder that came out of NATS into the folder, and from there to the third.
    let moved = open(local.clone()).await;
    moved.backup(&place("again")).await.unwrap();
    moved.close().await;
    stream::restore_into(&place("again"), Options::nats(third.url(), unguarded()), clock()).await.unwrap();

    let payloads: Vec<_> = (1_000..3_000).map(payload).collect();
    let wanted = (Offset(1_000), Offset(3_000), payloads, Offset(2_500));
    for options in [local, Options::nats(second.url(), unguarded()), Options::nats(third.url(), unguarded())] {
        assert!(picture(options).await == wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(options(&dir.path().join("live"))).await;
    append_all(&stream.topic("one").unwrap(), 0..500).await;
    stream.backup(&dir.path().join("copy")).await.unwrap();
    stream.close().await;
    let sealed = fs::read_dir(dir.path().join("copy/one")).unwrap().map(|e| e.unwrap().path());
    let first = sealed.filter(|p| p.extension().is_some_and(|e| e == "log")).min().unwrap();
    // A copy: the backup's own is a link to what is live.
    let mut bytes = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&first, bytes).unwrap();
    let server = testkit::nats::Server::start();
    let topics = [TopicOptions::new("one"), TopicOptions::new("two")];
    let options = Options::nats(server.url(), topics);
    let back = stream::restore_into(&dir.path().join("copy"), options, Arc::new(kernel::SystemClock)).await;
    assert!(matches!(back, Err(Error::Corrupt { .. })), "{back:?}");
}
