//! What both engines promise. Each test is written once and instantiated twice.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use stream::{EngineOptions, Error, Offset, Options, Stream, TopicOptions};
use testkit::nats::Server;

use crate::{TOPIC, append_all, open, payload, read_to};

/// A place that survives the stream: a folder or a server.
pub enum Place {
    Local(tempfile::TempDir),
    Nats(Server),
}

impl Place {
    fn local() -> Self {
        Self::Local(tempfile::tempdir().unwrap())
    }

    fn nats() -> Self {
        Self::Nats(Server::start())
    }

    /// Small limits, so that segments, ring and queue all overflow in a test.
    async fn open(&self, topic: TopicOptions) -> Stream {
        open(self.options(topic)).await
    }

    fn options(&self, topic: TopicOptions) -> Options {
        let mut options = match self {
            Self::Local(dir) => Options::local(dir.path(), [topic]),
            Self::Nats(server) => Options::nats(server.url(), [topic]),
        };
        match &mut options.engine {
            EngineOptions::Local(local) => {
                local.segment_bytes = 4 << 10;
                local.ring_bytes = 2 << 10;
                local.queue_bytes = 8 << 10;
            }
            EngineOptions::Nats(nats) => nats.queue_bytes = 8 << 10,
        }
        options
    }
}

macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod on_segments { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::local()).await }
        )* }
        mod on_nats { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::nats()).await }
        )* }
    };
}

on_both_engines!(
    offsets_are_dense_and_records_survive_a_restart,
    a_task_that_pipelines_keeps_its_order,
    subscribing_from_anywhere_gives_the_rest,
    history_and_live_meet_without_hole_or_duplicate,
    a_slow_subscriber_costs_the_others_nothing,
    a_dropped_next_loses_nothing,
    a_consumer_resumes_where_it_committed,
    committing_never_goes_back,
    retention_stops_at_the_floor,
    retention_by_bytes_lets_the_oldest_go,
    what_is_too_large_or_unknown_is_refused,
    a_full_queue_says_so_and_waiting_helps,
    closing_writes_what_is_queued_and_ends_readers,
    empty_and_large_payloads_come_back_unchanged,
);

async fn offsets_are_dense_and_records_survive_a_restart(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    assert_eq!((topic.start(), topic.end()), (Offset(0), Offset(0)));
    append_all(&topic, 0..300).await;
    assert_eq!(topic.end(), Offset(300));
    assert_eq!(topic.stats().appended, 300);
    stream.close().await;
    drop((stream, topic));

    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    assert_eq!((topic.start(), topic.end()), (Offset(0), Offset(300)));
    let records = read_to(&mut topic.subscribe(Offset(0)).await.unwrap(), 300).await;
    for (n, record) in records.iter().enumerate() {
        assert_eq!((record.offset, &record.payload), (Offset(n as u64), &payload(n as u64)));
    }
    append_all(&topic, 300..310).await;
    stream.close().await;
}

async fn a_task_that_pipelines_keeps_its_order(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let mut pending = Vec::new();
    for n in 0..1_000 {
        pending.push(topic.enqueue(payload(n)).await.unwrap());
    }
    for (n, pending) in pending.iter().enumerate() {
        assert_eq!(pending.durable().await.unwrap(), Offset(n as u64));
        assert_eq!(pending.outcome().unwrap().unwrap(), Offset(n as u64));
    }
    let stats = topic.stats();
    assert!(stats.flushes < 1_000, "{} flushes for 1,000 records is no group commit", stats.flushes);
    stream.close().await;
}

async fn subscribing_from_anywhere_gives_the_rest(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..250).await;
    for from in [0, 1, 77, 128, 248, 249] {
        let records = read_to(&mut topic.subscribe(Offset(from)).await.unwrap(), 250).await;
        assert_eq!(records.len() as u64, 250 - from);
        assert_eq!(records[0].payload, payload(from));
        assert_eq!(records.last().unwrap().payload, payload(249));
    }
    let mut live = topic.subscribe(Offset(250)).await.unwrap();
    let mut early = topic.subscribe(Offset(3)).await.unwrap();
    early.seek(Offset(249)).await.unwrap();
    append_all(&topic, 250..251).await;
    assert_eq!(read_to(&mut live, 251).await[0].payload, payload(250));
    assert_eq!(read_to(&mut early, 251).await[0].payload, payload(249));
    let ahead = topic.subscribe(Offset(252)).await.err().unwrap();
    assert!(matches!(ahead, Error::Ahead { requested: Offset(252), end: Offset(251) }), "{ahead}");
    stream.close().await;
}

async fn history_and_live_meet_without_hole_or_duplicate(place: Place) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 400;
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let topic = topic.clone();
        tokio::spawn(async move {
            let mut last = None;
            for n in 0..EACH {
                let offset = topic.append(format!("{writer} {n}").into()).await.unwrap();
                assert!(last < Some(offset), "a later append got an earlier place");
                last = Some(offset);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    // Readers start while the writers are at it: one from the front, the others wherever the end happens to be.
    let mut readers = Vec::new();
    for start in 0..4 {
        let topic = topic.clone();
        while topic.end().0 < start * 200 {
            tokio::task::yield_now().await;
        }
        let from = if start == 0 { Offset(0) } else { topic.end() };
        readers.push(tokio::spawn(async move {
            let mut subscription = topic.subscribe(from).await.unwrap();
            (from, read_to(&mut subscription, WRITERS * EACH).await)
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let mut whole: Vec<Bytes> = Vec::new();
    for reader in readers {
        let (from, records) = reader.await.unwrap();
        let payloads: Vec<_> = records.into_iter().map(|record| record.payload).collect();
        if from == Offset(0) {
            whole = payloads;
        } else {
            assert_eq!(payloads, whole[from.0 as usize..], "every reader sees the same records");
        }
    }
    for writer in 0..WRITERS {
        let own = format!("{writer} ");
        let seen: Vec<_> = whole.iter().filter(|payload| payload.starts_with(own.as_bytes())).cloned().collect();
        let sent: Vec<Bytes> = (0..EACH).map(|n| format!("{writer} {n}").into()).collect();
        assert_eq!(seen, sent, "each writer's records once and in its order");
    }
    stream.close().await;
}

async fn a_slow_subscriber_costs_the_others_nothing(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..10).await;
    let mut slow = topic.subscribe(Offset(0)).await.unwrap();
    let first = slow.next().await.unwrap();
    // Far more than the ring holds, while the slow one does not read at all.
    let mut quick = topic.subscribe(Offset(10)).await.unwrap();
    append_all(&topic, 10..700).await;
    assert_eq!(read_to(&mut quick, 700).await.len(), 690);
    let rest = read_to(&mut slow, 700).await;
    assert_eq!(first.len() + rest.len(), 700);
    stream.close().await;
}

async fn a_dropped_next_loses_nothing(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..200).await;
    let mut subscription = topic.subscribe(Offset(0)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 200 {
        // Polls once and drops the future, in whatever state it is.
        if let Some(batch) = futures::FutureExt::now_or_never(subscription.next()) {
            seen.extend(batch.unwrap());
        } else {
            tokio::task::yield_now().await;
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(200), subscription.next()).await {
                seen.extend(batch.unwrap());
            }
        }
    }
    for (n, record) in seen.iter().enumerate() {
        assert_eq!(record.offset, Offset(n as u64));
    }
    stream.close().await;
}

async fn a_consumer_resumes_where_it_committed(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..100).await;
    let mut consumer = topic.consumer("lake").await.unwrap();
    assert_eq!((consumer.position(), consumer.committed()), (Offset(0), Offset(0)));
    assert_eq!(consumer.next().await.unwrap()[0].payload, payload(0));
    consumer.commit(Offset(41)).await.unwrap();
    assert_eq!(consumer.committed(), Offset(42));
    let status = &topic.consumers()[0];
    assert_eq!((status.name.as_str(), status.next, status.lag), ("lake", Offset(42), 58));
    let other = topic.consumer("head").await.unwrap();
    assert_eq!(other.committed(), Offset(0), "consumers are independent");
    stream.close().await;
    drop((consumer, other, topic, stream));

    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let mut consumer = topic.consumer("lake").await.unwrap();
    assert_eq!(consumer.committed(), Offset(42));
    assert_eq!(consumer.next().await.unwrap()[0].payload, payload(42));
    topic.remove_consumer("lake").await.unwrap();
    assert_eq!(topic.consumer("lake").await.unwrap().committed(), Offset(0), "a forgotten consumer begins again");
    stream.close().await;
}

async fn committing_never_goes_back(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..64).await;
    let consumer = topic.consumer("lake").await.unwrap();
    let commits = (0..64).rev().map(|n| {
        let committer = consumer.committer();
        async move { committer.commit(Offset(n)).await.unwrap() }
    });
    join_all(commits).await;
    assert_eq!(consumer.committed(), Offset(64));
    consumer.commit(Offset(5)).await.unwrap();
    assert_eq!(consumer.committed(), Offset(64));
    let ahead = consumer.commit(Offset(64)).await.unwrap_err();
    assert!(matches!(ahead, Error::Ahead { .. }), "{ahead}");
    stream.close().await;
    drop((consumer, topic, stream));
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    assert_eq!(stream.topic(TOPIC).unwrap().consumer("lake").await.unwrap().committed(), Offset(64));
    stream.close().await;
}

async fn retention_stops_at_the_floor(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC).retain_bytes(16 << 10).guarded()).await;
    let topic = stream.topic(TOPIC).unwrap();
    let consumer = topic.consumer("lake").await.unwrap();
    let large = Bytes::from(vec![7; 1_000]);
    for _ in 0..100 {
        topic.append(large.clone()).await.unwrap();
    }
    topic.retain().await.unwrap();
    assert_eq!(topic.start(), Offset(0), "nothing goes before the owner has spoken");
    topic.keep_from(Offset(40));
    topic.retain().await.unwrap();
    let start = topic.start();
    assert!(start > Offset(0) && start <= Offset(40), "{start}");
    read_to(&mut topic.subscribe(Offset(40)).await.unwrap(), 100).await;
    let gone = topic.subscribe(Offset(0)).await.err().unwrap();
    assert!(matches!(gone, Error::Gone { requested: Offset(0), .. }), "{gone}");
    drop(consumer);
    // The consumer has read nothing: it learns that, and decides itself.
    let mut consumer = topic.consumer("lake").await.unwrap();
    let gone = consumer.next().await.unwrap_err();
    assert!(matches!(gone, Error::Gone { requested: Offset(0), .. }), "{gone}");
    consumer.seek(start).await.unwrap();
    assert_eq!(consumer.next().await.unwrap()[0].offset, start);
    topic.keep_from(Offset(100));
    topic.retain().await.unwrap();
    assert!(topic.start() > Offset(70), "{}", topic.start());
    assert_eq!(topic.append(large).await.unwrap(), Offset(100));
    stream.close().await;
}

async fn retention_by_bytes_lets_the_oldest_go(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC).retain_bytes(20 << 10)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let large = Bytes::from(vec![7; 1_000]);
    let mut slow = topic.subscribe(Offset(0)).await.unwrap();
    for _ in 0..200 {
        topic.append(large.clone()).await.unwrap();
    }
    topic.retain().await.unwrap();
    let start = topic.start();
    assert!(start >= Offset(160) && start < Offset(200), "{start}");
    assert!(topic.stats().stored_bytes <= 26 << 10);
    let gone = slow.next().await.unwrap_err();
    assert!(matches!(gone, Error::Gone { requested: Offset(0), .. }), "{gone}");
    slow.seek(start).await.unwrap();
    assert_eq!(read_to(&mut slow, 200).await.len() as u64, 200 - start.0);
    stream.close().await;
    drop((slow, topic, stream));
    let stream = place.open(TopicOptions::new(TOPIC).retain_bytes(20 << 10)).await;
    let topic = stream.topic(TOPIC).unwrap();
    assert_eq!((topic.start(), topic.end()), (start, Offset(200)));
    stream.close().await;
}

async fn what_is_too_large_or_unknown_is_refused(place: Place) {
    let mut options = place.options(TopicOptions::new(TOPIC));
    options.max_payload = 1_000;
    let stream = open(options).await;
    let topic = stream.topic(TOPIC).unwrap();
    let refused = topic.append(Bytes::from(vec![0; 1_001])).await.unwrap_err();
    assert!(matches!(refused, Error::TooLarge { len: 1_001, max: 1_000 }), "{refused}");
    assert!(matches!(topic.append_nowait(Bytes::from(vec![0; 1_001])), Err(Error::TooLarge { .. })));
    assert_eq!(topic.append(Bytes::from(vec![0; 1_000])).await.unwrap(), Offset(0));
    assert!(matches!(stream.topic("nothing"), Err(Error::UnknownTopic(_))));
    for name in ["", "../etc", "A", "a.b", "a b", "*"] {
        assert!(matches!(topic.consumer(name).await, Err(Error::Name(_))), "{name}");
    }
    stream.close().await;
}

async fn a_full_queue_says_so_and_waiting_helps(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    // The queue holds 8 KiB. Filling it without ever yielding outruns any writer sooner or later.
    let (mut pending, mut busy) = (Vec::new(), false);
    for n in 0..1_000_000u64 {
        match topic.append_nowait(payload(n)) {
            Ok(accepted) => pending.push(accepted),
            Err(Error::Busy { .. }) => {
                busy = true;
                break;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(busy, "the queue has no bound");
    let accepted = pending.len() as u64;
    assert!(topic.stats().queued_bytes <= 8 << 10);
    let after = topic.append(payload(accepted)).await.unwrap();
    assert_eq!(after, Offset(accepted), "waiting for room keeps the order");
    for (n, pending) in pending.iter().enumerate() {
        assert_eq!(pending.durable().await.unwrap(), Offset(n as u64));
    }
    stream.close().await;
}

async fn closing_writes_what_is_queued_and_ends_readers(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let mut pending = Vec::new();
    for n in 0..50 {
        pending.push(topic.enqueue(payload(n)).await.unwrap());
    }
    let mut subscription = topic.subscribe(Offset(0)).await.unwrap();
    read_to(&mut subscription, 50).await;
    let reader = tokio::spawn(async move { subscription.next().await });
    for pending in &pending {
        pending.durable().await.unwrap();
    }
    let last = topic.enqueue(payload(50)).await.unwrap();
    stream.close().await;
    assert_eq!(last.durable().await.unwrap(), Offset(50));
    assert!(matches!(topic.append(payload(51)).await, Err(Error::Closed)));
    assert!(matches!(topic.append_nowait(payload(51)), Err(Error::Closed)));
    match reader.await.unwrap() {
        Ok(records) => assert_eq!(records[0].offset, Offset(50)),
        Err(e) => assert!(matches!(e, Error::Closed), "{e}"),
    }
}

async fn empty_and_large_payloads_come_back_unchanged(place: Place) {
    let stream = place.open(TopicOptions::new(TOPIC)).await;
    let topic = stream.topic(TOPIC).unwrap();
    let payloads: Vec<Bytes> = [0, 1, 4_000, 0, 700_000, 3 << 20, 2]
        .into_iter()
        .enumerate()
        .map(|(n, len)| (0..len).map(|i| (i * 31 + n) as u8).collect::<Vec<_>>().into())
        .collect();
    for payload in &payloads {
        topic.append(payload.clone()).await.unwrap();
    }
    for _ in 0..2 {
        let records = read_to(&mut topic.subscribe(Offset(0)).await.unwrap(), payloads.len() as u64).await;
        assert!(records.iter().zip(&payloads).all(|(record, payload)| record.payload == payload));
    }
    stream.close().await;
}
